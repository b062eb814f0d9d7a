/* Chat templates from a model directory, and one rendering: the request's data becomes values, the
 * tree runs, the trust of every byte becomes runs of segments. Compiled templates are immutable;
 * any thread. */
#include "text/template.h"

#include "base/file.h"
#include "base/json.h"
#include "text/jinja.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILE_BYTES_MAX   (16u << 20)
#define CONFIG_DEPTH_MAX 64u

struct chat_template {
    struct arena arena; /* tree and texts */
    struct jnode *root; /* NULL: an empty template */
    char *bos, *eos;
    struct hash128 hash;
};

enum status chat_template_compile(const char *source, size_t bytes, struct chat_template **out,
                                  char *err, size_t err_bytes)
{
    struct jerror error = {err, err_bytes, ST_OK};
    if (err_bytes > 0)
        err[0] = '\0';
    struct chat_template *tpl = calloc(1, sizeof(*tpl));
    uint8_t digest[32];
    if (tpl == NULL)
        return ST_NO_MEMORY;
    arena_init(&tpl->arena, JINJA_MEMORY_BYTES_MAX);
    tpl->root = jinja_parse(source, bytes, &tpl->arena, &error);
    if (error.st != ST_OK) {
        chat_template_free(tpl);
        return error.st;
    }
    hash_sha256(source, bytes, digest);
    memcpy(tpl->hash.bytes, digest, sizeof(tpl->hash.bytes));
    *out = tpl;
    return ST_OK;
}

/* A file of the directory, NULL when there is none. */
static enum status read_optional(const char *dir, const char *name, char **out_text,
                                 size_t *out_bytes, struct text_error err)
{
    char path[FILE_PATH_BYTES];
    *out_text = NULL;
    enum status st = file_path_join(dir, name, path, err);
    if (st == ST_OK)
        st = file_read(path, FILE_BYTES_MAX, out_text, out_bytes, err);
    return st == ST_NOT_FOUND ? ST_OK : st;
}

/* bos_token is a string, or an object with "content". */
static char *token_text(const cJSON *root, const char *name)
{
    const cJSON *item = json_get(root, name);
    if (cJSON_IsObject(item))
        item = json_get(item, "content");
    return strdup(cJSON_IsString(item) ? item->valuestring : "");
}

/* chat_template is a string, or a list of {name, template}. */
static const char *template_of_config(const cJSON *root)
{
    const cJSON *item = json_get(root, "chat_template"), *entry;
    if (cJSON_IsString(item))
        return item->valuestring;
    cJSON_ArrayForEach(entry, item)
    {
        const cJSON *name = json_get(entry, "name"), *text = json_get(entry, "template");
        if (cJSON_IsString(name) && cJSON_IsString(text) &&
            strcmp(name->valuestring, "default") == 0)
            return text->valuestring;
    }
    return NULL;
}

static enum status load_source(const char *dir, const char *source, size_t bytes, const char *name,
                               struct chat_template **out, char *err, size_t err_bytes)
{
    char why[256];
    enum status st = chat_template_compile(source, bytes, out, why, sizeof(why));
    if (st != ST_OK)
        snprintf(err, err_bytes, "%s/%s: %s", dir, name, why);
    return st;
}

/* tokenizer_config.json as a tree, NULL when there is none. */
static enum status load_config(const char *dir, cJSON **out_root, struct text_error err)
{
    char *text;
    size_t bytes = 0;
    struct json_error where;
    enum status st = read_optional(dir, "tokenizer_config.json", &text, &bytes, err);
    if (text == NULL)
        return st;
    st = json_parse(text, bytes, CONFIG_DEPTH_MAX, out_root, &where);
    free(text);
    if (st == ST_PARSE)
        return text_error_set(err, st, "%s/tokenizer_config.json:%u:%u: %s", dir, where.line,
                              where.column, where.message);
    return st == ST_OK
               ? st
               : text_error_set(err, st, "%s/tokenizer_config.json: %s", dir, status_text(st));
}

enum status chat_template_load(const char *model_dir, struct chat_template **out, char *err,
                               size_t err_bytes)
{
    char *source = NULL;
    size_t bytes = 0;
    cJSON *root = NULL;
    struct text_error why = {err, err_bytes};
    enum status st = load_config(model_dir, &root, why);
    if (st == ST_OK)
        st = read_optional(model_dir, "chat_template.jinja", &source, &bytes, why);
    const char *in_config = template_of_config(root);
    if (st == ST_OK && source != NULL)
        st = load_source(model_dir, source, bytes, "chat_template.jinja", out, err, err_bytes);
    else if (st == ST_OK && in_config != NULL)
        st = load_source(model_dir, in_config, strlen(in_config),
                         "tokenizer_config.json: chat_template", out, err, err_bytes);
    else if (st == ST_OK)
        st = text_error_set(why, ST_NOT_FOUND, "%s: no chat template", model_dir);
    if (st == ST_OK) {
        (*out)->bos = token_text(root, "bos_token");
        (*out)->eos = token_text(root, "eos_token");
    }
    cJSON_Delete(root);
    free(source);
    return st;
}

void chat_template_free(struct chat_template *tpl)
{
    if (tpl == NULL)
        return;
    arena_deinit(&tpl->arena);
    free(tpl->bos);
    free(tpl->eos);
    free(tpl);
}

const char *chat_template_bos(const struct chat_template *tpl)
{
    return tpl->bos != NULL ? tpl->bos : "";
}

const char *chat_template_eos(const struct chat_template *tpl)
{
    return tpl->eos != NULL ? tpl->eos : "";
}

void chat_template_hash(const struct chat_template *tpl, struct hash128 *out)
{
    *out = tpl->hash;
}

static void define(struct jinterp *in, struct jdict *names, const char *name, struct jvalue value)
{
    struct jvalue key = jvalue_text(name);
    jdict_put(in, names, &key, &value);
}

static struct jvalue trusted_token(const char *text)
{
    return jvalue_text(text != NULL ? text : "");
}

/* The request's own names come first, so that they cannot replace the others. */
static struct jdict *define_inputs(struct jinterp *in, const struct chat_inputs *inputs)
{
    struct jdict *names = jvalue_dict(in, false).u.dict;
    const cJSON *item = inputs->kwargs != NULL ? inputs->kwargs->child : NULL;
    for (; item != NULL && in->err.st == ST_OK; item = item->next)
        define(in, names, item->string, jvalue_of_json(in, item));
    if (json_get(inputs->kwargs, "documents") == NULL)
        define(in, names, "documents", jvalue_none());
    define(in, names, "messages", jvalue_of_json(in, inputs->messages));
    define(in, names, "tools", jvalue_of_json(in, inputs->tools)); /* none when there are none */
    define(in, names, "add_generation_prompt", jvalue_bool(inputs->add_generation_prompt != 0));
    define(in, names, "bos_token", trusted_token(inputs->bos_token));
    define(in, names, "eos_token", trusted_token(inputs->eos_token));
    return names;
}

/* The trust of each byte, as runs. */
static enum status segments_make(const struct buf *trust, struct chat_render *out)
{
    uint32_t n = 0;
    for (size_t i = 0; i < trust->len; i++)
        n += i == 0 || trust->data[i] != trust->data[i - 1];
    out->segments = malloc((n > 0 ? n : 1) * sizeof(*out->segments));
    out->n_segments = 0;
    if (out->segments == NULL)
        return ST_NO_MEMORY;
    for (size_t i = 0; i < trust->len; i++) {
        if (i == 0 || trust->data[i] != trust->data[i - 1])
            out->segments[out->n_segments++] =
                (struct chat_segment){.offset = (uint32_t)i, .trusted = trust->data[i]};
        out->segments[out->n_segments - 1].bytes++;
    }
    return ST_OK;
}

enum status chat_template_render(const struct chat_template *tpl, const struct chat_inputs *in,
                                 struct chat_render *out, char *err, size_t err_bytes)
{
    struct buf trust;
    struct jinterp interp = {.err = {err, err_bytes, ST_OK},
                             .now_unix_s = in->now_unix_s,
                             .out = &out->text,
                             .trust = &trust};
    if (err_bytes > 0)
        err[0] = '\0';
    out->segments = NULL;
    out->n_segments = 0;
    /* the caller bounds the text by the size of the request, which values need room for, too */
    size_t more = out->text.max < JINJA_MEMORY_BYTES_MAX * 8 ? out->text.max : 0;
    arena_init(&interp.arena, JINJA_MEMORY_BYTES_MAX + more);
    buf_init(&trust, out->text.max);
    jinja_begin(&interp, define_inputs(&interp, in));
    if (interp.err.st == ST_OK)
        jinja_run(&interp, tpl->root);
    enum status st = interp.err.st;
    if (st == ST_OK)
        st = segments_make(&trust, out);
    /* What a template cannot do with these inputs is the request's fault as far as the client sees.
     */
    if (st == ST_UNSUPPORTED)
        st = ST_INVALID;
    buf_deinit(&trust);
    arena_deinit(&interp.arena);
    return st;
}
