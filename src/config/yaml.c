/* libyaml's events -> a small tree. Iterative, with a stack of DEPTH_MAX: no text can recurse. */
#include "config/config_int.h"

#include <stdio.h>
#include <string.h>
#include <yaml.h>

enum { DEPTH_MAX = 8, NODES_MAX = 8192 };

struct builder {
    struct arena *arena;
    const char *name;
    struct config_error *error;
    struct yaml_node *root;
    struct yaml_node *open[DEPTH_MAX];
    uint32_t depth;
    uint32_t n_nodes;
    uint32_t n_documents;
};

static enum status fail_at(struct builder *b, const yaml_mark_t *mark, const char *message)
{
    struct origin at = {
        .source = b->name, .line = (uint32_t)mark->line + 1, .column = (uint32_t)mark->column + 1};
    error_set(b->error, &at, "", "%s", message);
    return ST_PARSE;
}

static enum status node_add(struct builder *b, enum yaml_kind kind, const yaml_mark_t *mark,
                            struct yaml_node **out)
{
    struct yaml_node *parent = b->depth > 0 ? b->open[b->depth - 1] : NULL;
    bool is_key = parent != NULL && parent->kind == NODE_MAP && parent->n_children % 2 == 0;
    if (is_key && kind != NODE_SCALAR)
        return fail_at(b, mark, "a key must be a word");
    if (++b->n_nodes > NODES_MAX)
        return fail_at(b, mark, "too many values");
    struct yaml_node *node = arena_calloc(b->arena, 1, sizeof(*node));
    if (node == NULL) {
        fail_at(b, mark, "not enough memory");
        return ST_NO_MEMORY;
    }
    node->kind = kind;
    node->line = (uint32_t)mark->line + 1;
    node->column = (uint32_t)mark->column + 1;
    if (parent == NULL) {
        b->root = node;
    } else {
        if (parent->last != NULL)
            parent->last->next = node;
        else
            parent->first = node;
        parent->last = node;
        parent->n_children++;
    }
    *out = node;
    return ST_OK;
}

static enum status node_open(struct builder *b, enum yaml_kind kind, const yaml_event_t *event)
{
    struct yaml_node *node;
    if (b->depth == DEPTH_MAX)
        return fail_at(b, &event->start_mark, "nested too deeply");
    enum status st = node_add(b, kind, &event->start_mark, &node);
    if (st == ST_OK)
        b->open[b->depth++] = node;
    return st;
}

static bool is_null(const char *text, size_t bytes)
{
    static const char *const nulls[] = {"", "~", "null", "Null", "NULL"};
    for (size_t i = 0; i < sizeof(nulls) / sizeof(nulls[0]); i++)
        if (strlen(nulls[i]) == bytes && memcmp(nulls[i], text, bytes) == 0)
            return true;
    return false;
}

static enum status scalar_add(struct builder *b, const yaml_event_t *event)
{
    struct yaml_node *node;
    const char *text = (const char *)event->data.scalar.value;
    size_t bytes = event->data.scalar.length;
    enum status st = node_add(b, NODE_SCALAR, &event->start_mark, &node);
    if (st != ST_OK)
        return st;
    node->value.text = arena_dup(b->arena, text, bytes);
    if (node->value.text == NULL) {
        fail_at(b, &event->start_mark, "not enough memory");
        return ST_NO_MEMORY;
    }
    node->value.bytes = bytes;
    node->value.is_quoted = event->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
    node->value.is_null = !node->value.is_quoted && is_null(text, bytes);
    return ST_OK;
}

static enum status document_begin(struct builder *b, const yaml_event_t *event)
{
    if (b->n_documents++ > 0)
        return fail_at(b, &event->start_mark, "only one document is allowed");
    if (event->data.document_start.version_directive != NULL ||
        event->data.document_start.tag_directives.start !=
            event->data.document_start.tag_directives.end)
        return fail_at(b, &event->start_mark, "directives are not supported");
    return ST_OK;
}

static enum status properties_check(struct builder *b, const yaml_event_t *event,
                                    const yaml_char_t *anchor, const yaml_char_t *tag)
{
    if (anchor != NULL)
        return fail_at(b, &event->start_mark, "anchors are not supported");
    if (tag != NULL)
        return fail_at(b, &event->start_mark, "tags are not supported");
    return ST_OK;
}

static enum status event_take(struct builder *b, const yaml_event_t *event)
{
    enum status st;
    switch (event->type) {
    case YAML_DOCUMENT_START_EVENT:
        return document_begin(b, event);
    case YAML_ALIAS_EVENT:
        return fail_at(b, &event->start_mark, "aliases are not supported");
    case YAML_SCALAR_EVENT:
        st = properties_check(b, event, event->data.scalar.anchor, event->data.scalar.tag);
        return st == ST_OK ? scalar_add(b, event) : st;
    case YAML_MAPPING_START_EVENT:
        st = properties_check(b, event, event->data.mapping_start.anchor,
                              event->data.mapping_start.tag);
        return st == ST_OK ? node_open(b, NODE_MAP, event) : st;
    case YAML_SEQUENCE_START_EVENT:
        st = properties_check(b, event, event->data.sequence_start.anchor,
                              event->data.sequence_start.tag);
        return st == ST_OK ? node_open(b, NODE_SEQUENCE, event) : st;
    case YAML_MAPPING_END_EVENT:
    case YAML_SEQUENCE_END_EVENT:
        b->depth--;
        return ST_OK;
    default:
        return ST_OK;
    }
}

static enum status parser_fail(struct builder *b, const yaml_parser_t *parser)
{
    char message[160];
    const char *problem = parser->problem != NULL ? parser->problem : "cannot be parsed";
    if (parser->error == YAML_MEMORY_ERROR) {
        fail_at(b, &parser->mark, "not enough memory");
        return ST_NO_MEMORY;
    }
    snprintf(message, sizeof(message), "not valid YAML: %s", problem);
    /* The reader reports an offset in place of a mark. */
    bool is_reader = parser->error == YAML_READER_ERROR;
    return fail_at(b, is_reader ? &parser->mark : &parser->problem_mark, message);
}

static enum status events_take(struct builder *b, yaml_parser_t *parser)
{
    for (;;) {
        yaml_event_t event;
        if (!yaml_parser_parse(parser, &event))
            return parser_fail(b, parser);
        bool is_end = event.type == YAML_STREAM_END_EVENT;
        enum status st = event_take(b, &event);
        yaml_event_delete(&event);
        if (st != ST_OK || is_end)
            return st;
    }
}

enum status yaml_parse(const char *text, size_t bytes, const char *name, struct arena *arena,
                       struct yaml_node **out_root, struct config_error *error)
{
    struct builder b = {.arena = arena, .name = name, .error = error};
    struct origin whole = {.source = name};
    if (bytes > CONFIG_FILE_BYTES_MAX) {
        error_set(error, &whole, "", "is larger than %d bytes", CONFIG_FILE_BYTES_MAX);
        return ST_TOO_LARGE;
    }
    yaml_parser_t parser;
    if (!yaml_parser_initialize(&parser)) {
        error_set(error, &whole, "", "not enough memory");
        return ST_NO_MEMORY;
    }
    yaml_parser_set_encoding(&parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, bytes);
    enum status st = events_take(&b, &parser);
    yaml_parser_delete(&parser);
    if (st == ST_OK)
        *out_root = b.root;
    return st;
}
