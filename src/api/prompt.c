/* "prompt" of completions and tokenize: text, a list of texts, token ids, or lists of them. */
#include "api/api_int.h"

#include <stdlib.h>
#include <string.h>

uint32_t api_prompt_tokens_max(const struct api_context *ctx)
{
    uint32_t context = ctx->limits.context_tokens;
    return context > 1 && context <= WIRE_TOKENS_MAX ? context - 1 : WIRE_TOKENS_MAX - 1;
}

uint32_t api_vocab_size(const struct api_context *ctx)
{
    return ctx->limits.vocab_size > 0 ? ctx->limits.vocab_size
                                      : tokenizer_vocab_size(ctx->tokenizer);
}

/* --- the list of prompts --- */

void api_prompts_init(struct api_prompts *prompts)
{
    *prompts = (struct api_prompts){0};
    token_buf_init(&prompts->ids, 0);
}

void api_prompts_deinit(struct api_prompts *prompts)
{
    token_buf_deinit(&prompts->ids);
    free(prompts->lengths);
    prompts->lengths = NULL;
}

void api_prompts_begin(struct api_prompts *prompts, uint32_t ids_max)
{
    prompts->begin = prompts->ids.len;
    prompts->ids.max = prompts->begin + ids_max;
}

static enum status length_append(struct api_prompts *prompts, uint32_t length)
{
    if (prompts->n == prompts->cap) {
        uint32_t cap = prompts->cap > 0 ? prompts->cap * 2 : 1; /* below 2 * prompts_max */
        uint32_t *lengths = realloc(prompts->lengths, cap * sizeof(*lengths));
        if (lengths == NULL)
            return ST_NO_MEMORY;
        prompts->lengths = lengths;
        prompts->cap = cap;
    }
    prompts->lengths[prompts->n++] = length;
    return ST_OK;
}

enum status api_prompts_end(const struct api_context *ctx, enum api_field field, enum status st,
                            struct api_prompts *prompts, struct api_error *err)
{
    if (st != ST_OK)
        return api_refuse_encode(field, st, ctx, err);
    if (prompts->ids.len == prompts->begin) {
        api_error_set(err, 400, "invalid_value", api_field_name(field), "%s must not be empty",
                      api_field_name(field));
        return ST_INVALID;
    }
    st = length_append(prompts, (uint32_t)(prompts->ids.len - prompts->begin));
    return st == ST_OK ? st : api_refuse_status(st, err);
}

/* --- token ids --- */

/* One id; the scan stands at its value. Most are plain digits. */
static bool scan_id(struct json_scan *scan, uint32_t vocab_size, uint32_t *out_id)
{
    size_t begin = scan->at;
    int64_t id;
    if (json_scan_u32(scan, vocab_size - 1, out_id) == ST_OK)
        return true;
    scan->at = begin; /* not digits alone, or out of range */
    scan->message = NULL;
    if (!api_span_as_i64(api_scan_value(scan), 0, vocab_size - 1, &id))
        return false;
    *out_id = (uint32_t)id;
    return true;
}

static enum status scan_ids(const struct api_context *ctx, enum api_field field,
                            struct json_scan *scan, struct token_buf *out, struct api_error *err)
{
    uint32_t vocab_size = api_vocab_size(ctx), id;
    size_t n = 0;
    bool more;
    enum status st = json_scan_expect(scan, '[');
    while (st == ST_OK && (st = json_scan_next(scan, ']', &n, &more)) == ST_OK && more) {
        json_scan_peek(scan);
        if (!scan_id(scan, vocab_size, &id)) {
            const char *name = api_field_name(field);
            api_error_set(err, 400, "invalid_value", name,
                          "%s: item %zu of the list must be a token id from 0 to %u", name, n - 1,
                          vocab_size - 1);
            return ST_INVALID;
        }
        st = token_buf_append(out, &id, 1);
    }
    return st;
}

enum status api_token_list_parse(const struct api_context *ctx, enum api_field field,
                                 struct json_span value, struct token_buf *out,
                                 struct api_error *err)
{
    struct json_scan scan;
    if (value.data[0] != '[')
        return api_refuse_type(field, value, err);
    json_scan_init(&scan, value.data, value.bytes);
    enum status st = scan_ids(ctx, field, &scan, out, err);
    json_scan_deinit(&scan);
    return st;
}

/* --- the four forms --- */

/* What one call reads with. */
struct reader {
    const struct api_context *ctx;
    uint32_t flags; /* of enum tokenizer_flags */
    uint32_t ids_max;
    struct api_prompts *prompts;
    struct api_error *err;
};

static enum status read_text(const struct reader *r, struct json_scan *scan)
{
    struct json_span text;
    api_prompts_begin(r->prompts, r->ids_max);
    enum status st = json_scan_string(scan, &text);
    if (st == ST_OK)
        st = tokenizer_encode(r->ctx->tokenizer, (const char *)text.data, text.bytes, r->flags,
                              &r->prompts->ids);
    return api_prompts_end(r->ctx, API_FIELD_prompt, st, r->prompts, r->err);
}

static enum status read_ids(const struct reader *r, struct json_scan *scan)
{
    api_prompts_begin(r->prompts, r->ids_max);
    enum status st = scan_ids(r->ctx, API_FIELD_prompt, scan, &r->prompts->ids, r->err);
    if (st == ST_INVALID)
        return st; /* told already */
    return api_prompts_end(r->ctx, API_FIELD_prompt, st, r->prompts, r->err);
}

/* A list of texts or of lists of ids, all alike. The scan stands behind the bracket. */
static enum status read_list(const struct reader *r, struct json_scan *scan)
{
    uint8_t first = json_scan_peek(scan);
    uint32_t max = r->ctx->limits.prompts_max;
    size_t n = 0;
    bool more;
    enum status st = ST_OK;
    while (st == ST_OK && json_scan_next(scan, ']', &n, &more) == ST_OK && more) {
        if (json_scan_peek(scan) != first) {
            api_error_set(r->err, 400, "invalid_type", "prompt",
                          "prompt: item %zu of the list is of another type than the first", n - 1);
            return ST_INVALID;
        }
        if (n > max) {
            api_error_set(r->err, 400, "invalid_value", "prompt",
                          "prompt must hold at most %u prompts", max);
            return ST_INVALID;
        }
        st = first == '"' ? read_text(r, scan) : read_ids(r, scan);
    }
    return st;
}

enum status api_prompt_parse(const struct api_context *ctx, struct json_span value, bool add_bos,
                             uint32_t ids_max, struct api_prompts *prompts, struct api_error *err)
{
    struct reader r = {.ctx = ctx,
                       .flags = add_bos ? TOK_ADD_BOS : 0,
                       .ids_max = ids_max,
                       .prompts = prompts,
                       .err = err};
    struct json_scan scan;
    enum status st;
    json_scan_init(&scan, value.data, value.bytes);
    if (json_scan_peek(&scan) == '"') {
        st = read_text(&r, &scan);
    } else if (json_scan_expect(&scan, '[') != ST_OK) {
        st = api_refuse_type(API_FIELD_prompt, value, err);
    } else {
        uint8_t first = json_scan_peek(&scan);
        if (first == '"' || first == '[') {
            st = read_list(&r, &scan);
        } else if (first == '-' || (first >= '0' && first <= '9') || first == ']') {
            scan.at = 0;
            st = read_ids(&r, &scan);
        } else {
            st = api_refuse_type(API_FIELD_prompt, (struct json_span){scan.text + scan.at, 1}, err);
        }
    }
    json_scan_deinit(&scan);
    return st;
}
