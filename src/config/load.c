/* Sources of a configuration, in order of precedence: defaults, file, environment, --set. */
#include "config/config_int.h"

#include "base/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct loader {
    struct config *config;
    struct config_error *error;
    const char *name; /* of the file */
};

struct key_text {
    char text[KEY_BYTES_MAX];
};

/* "http", "http.port", "workers.2.role", "run_dir"; `name` "" gives the section alone. */
static struct key_text key_join(enum section_id section, uint32_t index, const char *name,
                                size_t name_bytes)
{
    struct key_text key = {""};
    const struct section *row = &config_sections[section];
    const char *dot = name_bytes > 0 ? "." : "";
    int shown = name_bytes < 64 ? (int)name_bytes : 64;
    if (section == SECTION_root)
        snprintf(key.text, sizeof(key.text), "%.*s", shown, name);
    else if (row->items_max > 0)
        snprintf(key.text, sizeof(key.text), "%s.%u%s%.*s", row->name, index, dot, shown, name);
    else
        snprintf(key.text, sizeof(key.text), "%s%s%.*s", row->name, dot, shown, name);
    for (char *c = key.text; *c != '\0'; c++)
        if ((unsigned char)*c < 0x20 || (unsigned char)*c >= 0x7f)
            *c = '?'; /* a key may be the user's text */
    return key;
}

/* --- Unknown keys --- */

static struct key_text key_of_option(const struct option *option, uint32_t index)
{
    return key_join(option->section, index, option->name, strlen(option->name));
}

/* Closest key in this section; else an option of exactly that name in another one. "": none. */
static struct key_text key_suggest(enum section_id section, uint32_t index, const char *word,
                                   size_t bytes)
{
    struct suggestion near = {.word = word, .bytes = bytes};
    for (uint32_t i = 0; i < config_n_options; i++)
        if (config_options[i].section == section)
            suggestion_try(&near, config_options[i].name);
    if (section == SECTION_root)
        for (int id = SECTION_root + 1; id < SECTION_COUNT; id++)
            suggestion_try(&near, config_sections[id].name);
    if (near.best != NULL)
        return key_join(section, index, near.best, strlen(near.best));
    if (section != SECTION_root && section_find(word, bytes) != SECTION_root)
        return key_join(SECTION_root, 0, word, bytes);
    for (uint32_t i = 0; i < config_n_options; i++) {
        const struct option *option = &config_options[i];
        if (strlen(option->name) == bytes && memcmp(option->name, word, bytes) == 0)
            return key_of_option(option, 0);
    }
    return (struct key_text){""};
}

static enum status unknown_key(const struct loader *loader, const struct origin *at,
                               enum section_id section, uint32_t index, const char *word,
                               size_t bytes)
{
    struct key_text key = key_join(section, index, word, bytes);
    struct key_text near = key_suggest(section, index, word, bytes);
    if (near.text[0] != '\0')
        error_set(loader->error, at, key.text, "unknown key, did you mean %s?", near.text);
    else
        error_set(loader->error, at, key.text, "unknown key");
    return ST_INVALID;
}

/* --- Lists of strings --- */

static const char **items_alloc(struct loader *loader, const struct option *option,
                                uint32_t n_items, const struct origin *at, const char *key)
{
    if (n_items > option->max) {
        error_set(loader->error, at, key, "has %u items, at most %llu are allowed", n_items,
                  (unsigned long long)option->max);
        return NULL;
    }
    const char **items = arena_calloc(&loader->config->arena, n_items + 1, sizeof(*items));
    if (items == NULL)
        error_set(loader->error, at, key, "not enough memory");
    return items;
}

static void items_store(const struct option *option, void *base, const char **items,
                        uint32_t n_items)
{
    struct config_strings *field = (struct config_strings *)((char *)base + option->offset);
    *field = (struct config_strings){.items = items, .count = n_items};
}

/* --- File --- */

static struct origin node_origin(const struct loader *loader, const struct yaml_node *node)
{
    return (struct origin){.source = loader->name, .line = node->line, .column = node->column};
}

static enum status wrong_kind(const struct loader *loader, const struct yaml_node *node,
                              const char *key, const char *expected)
{
    static const char *const found[] = {
        [NODE_SCALAR] = "a single value", [NODE_MAP] = "a mapping", [NODE_SEQUENCE] = "a list"};
    struct origin at = node_origin(loader, node);
    error_set(loader->error, &at, key, "expected %s, found %s", expected, found[node->kind]);
    return ST_INVALID;
}

static enum status list_apply(struct loader *loader, const struct option *option, void *base,
                              const struct yaml_node *node, const char *key)
{
    if (node->kind != NODE_SEQUENCE)
        return wrong_kind(loader, node, key, "a list");
    struct origin at = node_origin(loader, node);
    const char **items = items_alloc(loader, option, node->n_children, &at, key);
    if (items == NULL)
        return ST_INVALID;
    uint32_t i = 0;
    for (const struct yaml_node *item = node->first; item != NULL; item = item->next, i++) {
        if (item->kind != NODE_SCALAR)
            return wrong_kind(loader, item, key, "a single value");
        struct origin item_at = node_origin(loader, item);
        enum status st = value_set_item(&loader->config->arena, option, items, i, &item->value,
                                        &item_at, key, loader->error);
        if (st != ST_OK)
            return st;
    }
    items_store(option, base, items, i);
    return ST_OK;
}

static enum status option_apply(struct loader *loader, const struct option *option, void *base,
                                uint32_t index, const struct yaml_node *node)
{
    struct key_text key = key_of_option(option, index);
    if (option->type == OPTION_LIST)
        return list_apply(loader, option, base, node, key.text);
    if (node->kind != NODE_SCALAR)
        return wrong_kind(loader, node, key.text, "a single value");
    struct origin at = node_origin(loader, node);
    return value_set(&loader->config->arena, option, base, &node->value, &at, key.text,
                     loader->error);
}

/* A map has at most as many keys as the table, because the first unknown or repeated one ends the
 * walk; so looking at all earlier keys is cheap. */
static enum status key_check_repeated(const struct loader *loader, const struct yaml_node *map,
                                      const struct yaml_node *key, const char *full_key)
{
    for (const struct yaml_node *k = map->first; k != key; k = k->next->next) {
        if (k->value.bytes != key->value.bytes ||
            memcmp(k->value.text, key->value.text, k->value.bytes) != 0)
            continue;
        struct origin at = node_origin(loader, key);
        error_set(loader->error, &at, full_key, "is given twice, first in line %u", k->line);
        return ST_INVALID;
    }
    return ST_OK;
}

/* The keys of one section's map. */
static enum status map_apply(struct loader *loader, enum section_id section, uint32_t index,
                             const struct yaml_node *map)
{
    void *base = section_base(loader->config, section, index);
    for (const struct yaml_node *key = map->first; key != NULL; key = key->next->next) {
        const struct value_text *word = &key->value;
        struct key_text full_key = key_join(section, index, word->text, word->bytes);
        enum status st = key_check_repeated(loader, map, key, full_key.text);
        if (st != ST_OK)
            return st;
        const struct option *option = option_find(section, word->text, word->bytes);
        if (option == NULL) {
            struct origin at = node_origin(loader, key);
            return unknown_key(loader, &at, section, index, word->text, word->bytes);
        }
        st = option_apply(loader, option, base, index, key->next);
        if (st != ST_OK)
            return st;
    }
    return ST_OK;
}

static enum status items_apply(struct loader *loader, enum section_id section,
                               const struct yaml_node *node)
{
    const struct section *row = &config_sections[section];
    if (node->kind != NODE_SEQUENCE)
        return wrong_kind(loader, node, row->name, "a list");
    if (node->n_children > row->items_max) {
        struct origin at = node_origin(loader, node);
        error_set(loader->error, &at, row->name, "has %u items, at most %u are allowed",
                  node->n_children, row->items_max);
        return ST_INVALID;
    }
    uint32_t index = 0;
    for (const struct yaml_node *item = node->first; item != NULL; item = item->next, index++) {
        struct key_text key = key_join(section, index, "", 0);
        if (item->kind != NODE_MAP)
            return wrong_kind(loader, item, key.text, "a mapping");
        section_set_defaults(section, section_base(loader->config, section, index));
        enum status st = map_apply(loader, section, index, item);
        if (st != ST_OK)
            return st;
    }
    *section_item_count(loader->config, section) = index;
    return ST_OK;
}

static enum status section_apply(struct loader *loader, enum section_id section,
                                 const struct yaml_node *node)
{
    const struct section *row = &config_sections[section];
    if (node->kind == NODE_SCALAR && node->value.is_null)
        return ST_OK; /* a section whose keys are all commented out */
    if (row->items_max > 0)
        return items_apply(loader, section, node);
    if (node->kind != NODE_MAP)
        return wrong_kind(loader, node, row->name, "a mapping");
    return map_apply(loader, section, 0, node);
}

static enum status root_apply(struct loader *loader, const struct yaml_node *root)
{
    if (root == NULL || (root->kind == NODE_SCALAR && root->value.is_null))
        return ST_OK;
    if (root->kind != NODE_MAP)
        return wrong_kind(loader, root, "", "a mapping");
    for (const struct yaml_node *key = root->first; key != NULL; key = key->next->next) {
        const struct value_text *word = &key->value;
        struct key_text full_key = key_join(SECTION_root, 0, word->text, word->bytes);
        struct origin at = node_origin(loader, key);
        enum status st = key_check_repeated(loader, root, key, full_key.text);
        if (st != ST_OK)
            return st;
        enum section_id section = section_find(word->text, word->bytes);
        const struct option *option = option_find(SECTION_root, word->text, word->bytes);
        if (option != NULL)
            st = option_apply(loader, option, loader->config, 0, key->next);
        else if (section != SECTION_root)
            st = section_apply(loader, section, key->next);
        else
            st = unknown_key(loader, &at, SECTION_root, 0, word->text, word->bytes);
        if (st != ST_OK)
            return st;
    }
    return ST_OK;
}

/* --- Environment and --set --- */

static bool is_space(char c)
{
    return c == ' ' || c == '\t';
}

/* "a, b" or "[a, b]"; "" and "[]" are empty. */
static enum status list_set_text(struct loader *loader, const struct option *option, void *base,
                                 const char *text, const struct origin *at, const char *key)
{
    size_t bytes = strlen(text);
    if (bytes >= 2 && text[0] == '[' && text[bytes - 1] == ']') {
        text++;
        bytes -= 2;
    }
    uint32_t n_items = bytes > 0 ? 1 : 0;
    for (size_t i = 0; i < bytes; i++)
        n_items += text[i] == ',';
    const char **items = items_alloc(loader, option, n_items, at, key);
    if (items == NULL)
        return ST_INVALID;
    const char *end = text + bytes;
    for (uint32_t i = 0; i < n_items; i++) {
        const char *comma = memchr(text, ',', (size_t)(end - text));
        const char *item_end = comma != NULL ? comma : end;
        while (text < item_end && is_space(*text))
            text++;
        while (item_end > text && is_space(item_end[-1]))
            item_end--;
        struct value_text value = {.text = text, .bytes = (size_t)(item_end - text)};
        enum status st = value_set_item(&loader->config->arena, option, items, i, &value, at, key,
                                        loader->error);
        if (st != ST_OK)
            return st;
        text = comma != NULL ? comma + 1 : end;
    }
    items_store(option, base, items, n_items);
    return ST_OK;
}

static enum status option_set_text(struct loader *loader, const struct option *option,
                                   uint32_t index, const char *text, const struct origin *at)
{
    struct key_text key = key_of_option(option, index);
    const struct section *row = &config_sections[option->section];
    void *base = section_base(loader->config, option->section, index);
    if (row->items_max > 0) {
        uint32_t *count = section_item_count(loader->config, option->section);
        if (index > *count || index >= row->items_max) {
            error_set(loader->error, at, key.text, "%s has %u items, so the next one is %u",
                      row->name, *count, *count);
            return ST_INVALID;
        }
        if (index == *count) {
            section_set_defaults(option->section, base);
            ++*count;
        }
    }
    if (option->type == OPTION_LIST)
        return list_set_text(loader, option, base, text, at, key.text);
    struct value_text value = {.text = text, .bytes = strlen(text)};
    return value_set(&loader->config->arena, option, base, &value, at, key.text, loader->error);
}

static void env_name(const struct option *option, uint32_t index, char *out, size_t out_bytes)
{
    struct key_text key = key_of_option(option, index);
    snprintf(out, out_bytes, "DYND_%s", key.text);
    for (char *c = out; *c != '\0'; c++) {
        if (*c >= 'a' && *c <= 'z')
            *c = (char)(*c - 'a' + 'A');
        if (*c == '.')
            *c = '_';
    }
}

/* Unknown DYND_ variables are no error: Kubernetes sets some for every Service (DYND_ROUTER_PORT).
 */
static enum status environment_apply(struct loader *loader)
{
    for (int id = 0; id < SECTION_COUNT; id++) {
        uint32_t n_items = config_sections[id].items_max > 0 ? config_sections[id].items_max : 1;
        for (uint32_t index = 0; index < n_items; index++) {
            for (uint32_t i = 0; i < config_n_options; i++) {
                const struct option *option = &config_options[i];
                char name[KEY_BYTES_MAX + 8], source[KEY_BYTES_MAX + 24];
                if ((int)option->section != id)
                    continue;
                env_name(option, index, name, sizeof(name));
                const char *text = getenv(name);
                if (text == NULL)
                    continue;
                snprintf(source, sizeof(source), "environment %s", name);
                struct origin at = {.source = source};
                enum status st = option_set_text(loader, option, index, text, &at);
                if (st != ST_OK)
                    return st;
            }
        }
    }
    return ST_OK;
}

/* Number of a list element, or -1. */
static int index_parse(const char *text, size_t bytes)
{
    int index = 0;
    if (bytes == 0 || bytes > 3)
        return -1;
    for (size_t i = 0; i < bytes; i++) {
        if (text[i] < '0' || text[i] > '9')
            return -1;
        index = index * 10 + (text[i] - '0');
    }
    return index;
}

/* `rest` is what follows the section's name and a dot. */
static enum status section_override(struct loader *loader, enum section_id section,
                                    const char *rest, size_t bytes, const char *value,
                                    const struct origin *at)
{
    const struct section *row = &config_sections[section];
    int index = 0;
    if (row->items_max > 0) {
        const char *dot = memchr(rest, '.', bytes);
        index = dot != NULL ? index_parse(rest, (size_t)(dot - rest)) : -1;
        if (index < 0) {
            error_set(loader->error, at, row->name, "is a list, name an item: %s.0.%s", row->name,
                      "role");
            return ST_INVALID;
        }
        bytes -= (size_t)(dot + 1 - rest);
        rest = dot + 1;
    }
    const struct option *option = option_find(section, rest, bytes);
    if (option == NULL)
        return unknown_key(loader, at, section, (uint32_t)index, rest, bytes);
    return option_set_text(loader, option, (uint32_t)index, value, at);
}

static enum status override_apply(struct loader *loader, const char *text)
{
    struct origin at = {.source = "--set"};
    const char *equals = strchr(text, '=');
    if (equals == NULL || equals == text) {
        struct key_text shown = key_join(SECTION_root, 0, text, strlen(text));
        error_set(loader->error, &at, "", "expected key=value, found '%s'", shown.text);
        return ST_INVALID;
    }
    size_t key_bytes = (size_t)(equals - text);
    const char *dot = memchr(text, '.', key_bytes);
    size_t head_bytes = dot != NULL ? (size_t)(dot - text) : key_bytes;
    enum section_id section = section_find(text, head_bytes);
    if (section != SECTION_root && dot == NULL) {
        error_set(loader->error, &at, config_sections[section].name,
                  "is a section, set one of its keys");
        return ST_INVALID;
    }
    if (section != SECTION_root)
        return section_override(loader, section, dot + 1, key_bytes - head_bytes - 1, equals + 1,
                                &at);
    const struct option *option = option_find(SECTION_root, text, key_bytes);
    if (option == NULL)
        return unknown_key(loader, &at, SECTION_root, 0, text, head_bytes);
    return option_set_text(loader, option, 0, equals + 1, &at);
}

/* --- All together --- */

static enum status file_apply(struct loader *loader, const char *text, size_t bytes)
{
    struct arena arena;
    struct yaml_node *root = NULL;
    arena_init(&arena, ARENA_BYTES_MAX);
    enum status st = yaml_parse(text, bytes, loader->name, &arena, &root, loader->error);
    if (st == ST_OK)
        st = root_apply(loader, root);
    arena_deinit(&arena);
    return st;
}

/* What is left empty and has an answer in the rest. */
static enum status defaults_finish(struct loader *loader)
{
    struct config *config = loader->config;
    struct origin at = {.source = loader->name};
    const char *path = config->model.path;
    size_t end = strlen(path);
    if (config->model.name[0] != '\0')
        return ST_OK;
    while (end > 1 && path[end - 1] == '/')
        end--;
    size_t begin = end;
    while (begin > 0 && path[begin - 1] != '/')
        begin--;
    if (begin == end) {
        config->model.name = config->model.runner == CONFIG_RUNNER_HASH ? "hash" : "model";
        return ST_OK;
    }
    config->model.name = arena_dup(&config->arena, path + begin, end - begin);
    if (config->model.name == NULL) {
        error_set(loader->error, &at, "", "not enough memory");
        return ST_NO_MEMORY;
    }
    return ST_OK;
}

enum status config_load_text(const char *text, size_t bytes, const char *name,
                             const char *const *overrides, uint32_t n_overrides, struct config *out,
                             struct config_error *out_error)
{
    struct loader loader = {.config = out, .error = out_error, .name = name};
    *out_error = (struct config_error){0};
    *out = (struct config){0};
    arena_init(&out->arena, ARENA_BYTES_MAX);
    for (int id = 0; id < SECTION_COUNT; id++)
        if (config_sections[id].items_max == 0)
            section_set_defaults((enum section_id)id, section_base(out, (enum section_id)id, 0));
    out->path = arena_dup(&out->arena, name, strlen(name));
    enum status st = out->path != NULL ? file_apply(&loader, text, bytes) : ST_NO_MEMORY;
    if (st == ST_OK)
        st = environment_apply(&loader);
    for (uint32_t i = 0; i < n_overrides && st == ST_OK; i++)
        st = override_apply(&loader, overrides[i]);
    if (st == ST_OK)
        st = defaults_finish(&loader);
    if (st != ST_OK)
        config_deinit(out);
    return st;
}

void config_deinit(struct config *config)
{
    arena_deinit(&config->arena);
    *config = (struct config){0};
}

enum status config_load(const char *path, const char *const *overrides, uint32_t n_overrides,
                        struct config *out, struct config_error *out_error)
{
    if (path == NULL)
        return config_load_text("", 0, "", overrides, n_overrides, out, out_error);
    char *text = NULL;
    size_t bytes = 0;
    *out = (struct config){0};
    *out_error = (struct config_error){0};
    struct text_error why = {out_error->message, sizeof(out_error->message)};
    enum status st = file_read(path, CONFIG_FILE_BYTES_MAX, &text, &bytes, why);
    if (st != ST_OK)
        return st == ST_NOT_FOUND ? ST_IO : st;
    st = config_load_text(text, bytes, path, overrides, n_overrides, out, out_error);
    free(text);
    return st;
}
