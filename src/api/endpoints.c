#include "api/endpoints.h"

#include "api/api_int.h"
#include "base/json.h"
#include "text/detok.h"

#include <string.h>

enum { ARENA_BYTES_MAX = 1 << 20, IDS_MAX = 1 << 26 };

/* Fills the error of a failed append. */
static enum status written(enum status st, struct buf *out, size_t before, struct api_error *err)
{
    if (st == ST_OK)
        return ST_OK;
    out->len = before;
    return api_refuse_status(st, err);
}

static enum status append_text(const struct buf *text, struct buf *out)
{
    const char *data = text->len > 0 ? (const char *)text->data : "";
    return json_append_string(out, data, text->len);
}

/* --- models --- */

static enum status append_model(const struct api_context *ctx, struct buf *out)
{
    size_t bytes = strlen(ctx->model);
    enum status st = buf_append_str(out, "{\"id\":");
    if (st == ST_OK)
        st = json_append_string(out, ctx->model, bytes);
    if (st == ST_OK)
        st = buf_printf(out,
                        ",\"object\":\"model\",\"created\":%llu,\"owned_by\":\"dynd\",\"root\":",
                        (unsigned long long)ctx->started_unix_s);
    if (st == ST_OK)
        st = json_append_string(out, ctx->model, bytes);
    if (st == ST_OK)
        st = buf_printf(out, ",\"parent\":null,\"max_model_len\":%u}",
                        api_prompt_tokens_max(ctx) + 1);
    return st;
}

enum status api_models_list(const struct api_context *ctx, struct buf *out,
                            struct api_error *out_error)
{
    size_t before = out->len;
    enum status st = buf_append_str(out, "{\"object\":\"list\",\"data\":[");
    if (st == ST_OK)
        st = append_model(ctx, out);
    if (st == ST_OK)
        st = buf_append_str(out, "]}");
    return written(st, out, before, out_error);
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* True when `path`, with its escapes decoded, is `name`. */
static bool path_is(const char *path, const char *name)
{
    while (*path != '\0') {
        int high, low;
        char c = *path++;
        if (c == '%' && (high = hex_digit(path[0])) >= 0 && (low = hex_digit(path[1])) >= 0) {
            c = (char)(high << 4 | low);
            path += 2;
        }
        if (c == '\0' || c != *name++)
            return false;
    }
    return *name == '\0';
}

enum status api_models_get(const struct api_context *ctx, const char *id, struct buf *out,
                           struct api_error *out_error)
{
    size_t before = out->len;
    if (path_is(id, ctx->model))
        return written(append_model(ctx, out), out, before, out_error);
    api_error_set(out_error, 404, "model_not_found", "model",
                  "model does not exist here; this server serves \"%.96s\"", ctx->model);
    return ST_NOT_FOUND;
}

enum status api_version(struct buf *out, struct api_error *out_error)
{
    size_t before = out->len;
    return written(buf_append_str(out, "{\"version\":\"" DYND_VERSION "\"}"), out, before,
                   out_error);
}

/* --- tokenize --- */

static enum status append_ids(const uint32_t *ids, size_t n_ids, struct buf *out)
{
    enum status st = ST_OK;
    for (size_t i = 0; i < n_ids && st == ST_OK; i++)
        st = buf_printf(out, i > 0 ? ",%u" : "%u", ids[i]);
    return st;
}

/* Each token by itself; parts of characters show as U+FFFD. */
static enum status append_strings(const struct tokenizer *tokenizer, const uint32_t *ids,
                                  size_t n_ids, struct buf *out)
{
    struct detok detok;
    struct buf text;
    enum status st = ST_OK;
    buf_init(&text, SIZE_MAX / 2);
    detok_init(&detok, tokenizer, false);
    for (size_t i = 0; i < n_ids && st == ST_OK; i++) {
        text.len = 0;
        st = detok_feed(&detok, ids[i], &text);
        if (st == ST_OK)
            st = detok_flush(&detok, &text);
        if (st == ST_OK && i > 0)
            st = buf_append(out, ",", 1);
        if (st == ST_OK)
            st = append_text(&text, out);
    }
    buf_deinit(&text);
    return st;
}

static enum status append_tokenized(const struct api_context *ctx, const struct token_buf *ids,
                                    bool with_strings, struct buf *out)
{
    enum status st = buf_printf(out, "{\"count\":%zu,\"max_model_len\":%u,\"tokens\":[", ids->len,
                                api_prompt_tokens_max(ctx) + 1);
    if (st == ST_OK)
        st = append_ids(ids->ids, ids->len, out);
    if (st == ST_OK)
        st = buf_append_str(out, with_strings ? "],\"token_strs\":[" : "]");
    if (st == ST_OK && with_strings)
        st = append_strings(ctx->tokenizer, ids->ids, ids->len, out);
    if (st == ST_OK)
        st = buf_append_str(out, with_strings ? "]}" : "}");
    return st;
}

/* An empty prompt is fine here: it has no tokens. */
static enum status tokenize(const struct api_context *ctx, const struct api_fields *f,
                            struct api_prompts *prompts, struct api_error *err)
{
    bool add_bos = !f->has[API_FIELD_add_special_tokens] || f->add_special_tokens;
    if (f->has[API_FIELD_messages])
        return api_chat_parse(ctx, f, IDS_MAX, prompts, err);
    if (!f->has[API_FIELD_prompt])
        return api_refuse_missing(API_FIELD_prompt, err);
    if (f->prompt.data[0] != '"') {
        api_error_set(err, 400, "invalid_type", "prompt", "prompt must be a string, got %s",
                      api_type_name(f->prompt));
        return ST_INVALID;
    }
    if (f->prompt.bytes == 2 && !add_bos)
        return ST_OK;
    return api_prompt_parse(ctx, f->prompt, add_bos, IDS_MAX, prompts, err);
}

enum status api_tokenize(const struct api_context *ctx, const char *body, size_t bytes,
                         struct buf *out, struct api_error *out_error)
{
    struct arena arena;
    struct api_fields f;
    struct api_prompts prompts;
    size_t before = out->len;
    arena_init(&arena, ARENA_BYTES_MAX);
    api_prompts_init(&prompts);
    enum status st = api_fields_parse(API_TOKENIZE, body, bytes, &arena, &f, out_error);
    if (st == ST_OK)
        st = api_check_model(ctx, &f, out_error);
    if (st == ST_OK)
        st = tokenize(ctx, &f, &prompts, out_error);
    if (st == ST_OK)
        st = written(append_tokenized(ctx, &prompts.ids, f.return_token_strs, out), out, before,
                     out_error);
    api_prompts_deinit(&prompts);
    arena_deinit(&arena);
    return st;
}

/* --- detokenize --- */

static enum status append_detokenized(const struct api_context *ctx, const struct token_buf *ids,
                                      struct buf *out)
{
    struct detok detok;
    struct buf text;
    enum status st = ST_OK;
    buf_init(&text, SIZE_MAX / 2);
    detok_init(&detok, ctx->tokenizer, false);
    for (size_t i = 0; i < ids->len && st == ST_OK; i++)
        st = detok_feed(&detok, ids->ids[i], &text);
    if (st == ST_OK)
        st = detok_flush(&detok, &text);
    if (st == ST_OK)
        st = buf_append_str(out, "{\"prompt\":");
    if (st == ST_OK)
        st = append_text(&text, out);
    if (st == ST_OK)
        st = buf_append(out, "}", 1);
    buf_deinit(&text);
    return st;
}

enum status api_detokenize(const struct api_context *ctx, const char *body, size_t bytes,
                           struct buf *out, struct api_error *out_error)
{
    struct arena arena;
    struct api_fields f;
    struct token_buf ids;
    size_t before = out->len;
    arena_init(&arena, ARENA_BYTES_MAX);
    token_buf_init(&ids, IDS_MAX);
    enum status st = api_fields_parse(API_DETOKENIZE, body, bytes, &arena, &f, out_error);
    if (st == ST_OK)
        st = api_check_model(ctx, &f, out_error);
    if (st == ST_OK && !f.has[API_FIELD_tokens])
        st = api_refuse_missing(API_FIELD_tokens, out_error);
    if (st == ST_OK) {
        st = api_token_list_parse(ctx, API_FIELD_tokens, f.tokens, &ids, out_error);
        if (st == ST_TOO_LARGE || st == ST_NO_MEMORY)
            api_refuse_status(st, out_error);
    }
    if (st == ST_OK)
        st = written(append_detokenized(ctx, &ids, out), out, before, out_error);
    token_buf_deinit(&ids);
    arena_deinit(&arena);
    return st;
}
