#include "api/request.h"

#include "api/api_int.h"
#include "base/time.h"

#include <float.h>
#include <stdlib.h>
#include <string.h>

enum { ARENA_BYTES_MAX = 16 << 20 };

/* --- small fields that are lists or objects --- */

static enum status stop_append(struct api_request *req, struct json_scan *scan,
                               struct stop_string *stops, struct api_error *err)
{
    struct json_span text;
    if (req->n_stops == STOP_STRINGS_MAX || json_scan_peek(scan) != '"')
        return api_refuse_value(API_FIELD_stop, err);
    if (json_scan_string(scan, &text) != ST_OK)
        return api_refuse_status(ST_NO_MEMORY, err);
    if (text.bytes == 0 || text.bytes > STOP_BYTES_MAX)
        return api_refuse_value(API_FIELD_stop, err);
    const char *copy = arena_dup(&req->arena, text.data, text.bytes);
    if (copy == NULL)
        return api_refuse_status(ST_NO_MEMORY, err);
    stops[req->n_stops++] = (struct stop_string){.text = copy, .bytes = text.bytes};
    return ST_OK;
}

static enum status read_stop(struct api_request *req, struct json_span value, struct api_error *err)
{
    struct json_scan scan;
    size_t n = 0;
    bool more;
    enum status st;
    struct stop_string *stops = arena_calloc(&req->arena, STOP_STRINGS_MAX, sizeof(*stops));
    if (stops == NULL)
        return api_refuse_status(ST_NO_MEMORY, err);
    if (value.data[0] != '"' && value.data[0] != '[')
        return api_refuse_type(API_FIELD_stop, value, err);
    req->stops = stops;
    json_scan_init(&scan, value.data, value.bytes);
    if (value.data[0] == '"') {
        st = stop_append(req, &scan, stops, err);
    } else {
        st = json_scan_expect(&scan, '[');
        while (st == ST_OK && json_scan_next(&scan, ']', &n, &more) == ST_OK && more)
            st = stop_append(req, &scan, stops, err);
    }
    json_scan_deinit(&scan);
    return st;
}

static enum status read_stop_ids(const struct api_context *ctx, struct json_span value,
                                 struct wire_sampling *sampling, struct api_error *err)
{
    struct token_buf ids;
    token_buf_init(&ids, WIRE_STOP_IDS_MAX);
    enum status st = api_token_list_parse(ctx, API_FIELD_stop_token_ids, value, &ids, err);
    if (st == ST_TOO_LARGE) {
        api_refuse_value(API_FIELD_stop_token_ids, err);
        st = ST_INVALID;
    } else if (st == ST_NO_MEMORY) {
        api_refuse_status(st, err);
    }
    for (size_t i = 0; st == ST_OK && i < ids.len; i++)
        sampling->stop_ids[sampling->n_stop_ids++] = ids.ids[i];
    token_buf_deinit(&ids);
    return st;
}

static enum status read_flag(struct json_span value, const char *param, bool *out,
                             struct api_error *err)
{
    if (value.data[0] == 'n')
        return ST_OK;
    if (value.data[0] != 't' && value.data[0] != 'f') {
        api_error_set(err, 400, "invalid_type", param, "%s must be true or false, got %s", param,
                      api_type_name(value));
        return ST_INVALID;
    }
    *out = value.data[0] == 't';
    return ST_OK;
}

static enum status read_stream_options(struct api_request *req, struct json_span value,
                                       struct api_error *err)
{
    struct json_scan scan;
    struct json_span key;
    size_t n = 0;
    if (value.data[0] != '{')
        return api_refuse_type(API_FIELD_stream_options, value, err);
    json_scan_init(&scan, value.data + 1, value.bytes - 1);
    enum status st = ST_OK;
    while (st == ST_OK && api_scan_member(&scan, &n, &key)) {
        bool is_last = api_span_is(key, "include_usage");
        bool is_each = api_span_is(key, "continuous_usage_stats");
        struct json_span flag = api_scan_value(&scan);
        if (flag.bytes == 0)
            st = api_refuse_status(ST_NO_MEMORY, err);
        else if (is_last)
            st = read_flag(flag, "stream_options.include_usage", &req->include_usage, err);
        else if (is_each)
            st = read_flag(flag, "stream_options.continuous_usage_stats", &req->continuous_usage,
                           err);
    }
    json_scan_deinit(&scan);
    return st;
}

/* response_format: the plain one is {"type":"text"}. */
static enum status check_response_format(struct json_span value, struct api_error *err)
{
    struct json_scan scan;
    struct json_span key;
    size_t n = 0;
    bool has_type = false, is_text = false;
    if (value.data[0] != '{')
        return api_refuse_type(API_FIELD_response_format, value, err);
    json_scan_init(&scan, value.data + 1, value.bytes - 1);
    while (api_scan_member(&scan, &n, &key)) {
        bool is_type = api_span_is(key, "type");
        struct json_span member = api_scan_value(&scan);
        if (!is_type)
            continue;
        has_type = member.bytes > 0 && member.data[0] == '"';
        is_text = api_span_is(member, "\"text\"");
    }
    json_scan_deinit(&scan);
    if (!has_type)
        return api_refuse_value(API_FIELD_response_format, err);
    return is_text ? ST_OK : api_refuse_unsupported(API_FIELD_response_format, err);
}

/* "none" and "auto" leave the model free to answer with text. */
static enum status check_choice_word(enum api_field field, struct json_span value,
                                     struct api_error *err)
{
    if (value.data[0] != '"' && value.data[0] != '{')
        return api_refuse_type(field, value, err);
    bool is_plain = api_span_is(value, "\"none\"") || api_span_is(value, "\"auto\"");
    return is_plain ? ST_OK : api_refuse_unsupported(field, err);
}

static enum status read_lists(const struct api_context *ctx, const struct api_fields *f,
                              struct api_request *req, struct api_error *err)
{
    enum status st = ST_OK;
    if (f->has[API_FIELD_stop])
        st = read_stop(req, f->stop, err);
    if (st == ST_OK && f->has[API_FIELD_stop_token_ids])
        st = read_stop_ids(ctx, f->stop_token_ids, &req->sampling, err);
    if (st == ST_OK && f->has[API_FIELD_stream_options])
        st = read_stream_options(req, f->stream_options, err);
    if (st == ST_OK && f->has[API_FIELD_response_format])
        st = check_response_format(f->response_format, err);
    if (st == ST_OK && f->has[API_FIELD_tool_choice])
        st = check_choice_word(API_FIELD_tool_choice, f->tool_choice, err);
    if (st == ST_OK && f->has[API_FIELD_function_call])
        st = check_choice_word(API_FIELD_function_call, f->function_call, err);
    return st;
}

/* --- numbers --- */

static enum status read_choices(const struct api_context *ctx, const struct api_fields *f,
                                struct api_request *req, struct api_error *err)
{
    if (f->n > ctx->limits.n_max) {
        api_error_set(err, 400, "invalid_value", "n",
                      "n must be a whole number from 1 to %u, got %lld", ctx->limits.n_max,
                      (long long)f->n);
        return ST_INVALID;
    }
    req->n_choices = (uint32_t)f->n;
    if (!f->has[API_FIELD_best_of] || f->best_of == f->n)
        return ST_OK;
    if (f->best_of > f->n)
        return api_refuse_unsupported(API_FIELD_best_of, err);
    api_error_set(err, 400, "invalid_value", "best_of", "best_of must be at least n");
    return ST_INVALID;
}

static enum status read_length(const struct api_context *ctx, const struct api_fields *f,
                               struct wire_sampling *sampling, struct api_error *err)
{
    uint32_t context = api_prompt_tokens_max(ctx) + 1;
    bool has_new = f->has[API_FIELD_max_completion_tokens];
    bool has_max = has_new || f->has[API_FIELD_max_tokens];
    int64_t max = has_new ? f->max_completion_tokens : f->max_tokens;
    if (has_max && f->min_tokens > max) {
        api_error_set(err, 400, "invalid_value", "min_tokens",
                      "min_tokens must be at most %s, which is %lld, got %lld",
                      has_new ? "max_completion_tokens" : "max_tokens", (long long)max,
                      (long long)f->min_tokens);
        return ST_INVALID;
    }
    if (!has_max)
        max = ctx->limits.max_tokens_default > 0 ? ctx->limits.max_tokens_default : context;
    if (max < f->min_tokens)
        max = f->min_tokens;
    sampling->max_new_tokens = max < context ? (uint32_t)max : context;
    sampling->min_new_tokens = f->min_tokens < context ? (uint32_t)f->min_tokens : context;
    return ST_OK;
}

static double given(const struct api_fields *f, enum api_field field, double value, double fallback)
{
    return f->has[field] ? value : fallback;
}

static void read_sampling(const struct api_context *ctx, const struct api_fields *f,
                          struct api_request *req)
{
    const struct api_defaults *d = &ctx->defaults;
    struct wire_sampling *s = &req->sampling;
    int64_t top_k = f->has[API_FIELD_top_k] ? f->top_k : d->top_k;
    s->temperature = (float)given(f, API_FIELD_temperature, f->temperature, d->temperature);
    s->top_p = (float)given(f, API_FIELD_top_p, f->top_p, d->top_p);
    s->min_p = (float)given(f, API_FIELD_min_p, f->min_p, d->min_p);
    if (s->top_p < FLT_MIN)
        s->top_p = FLT_MIN; /* greater than 0, as it was */
    s->top_k = top_k > 0 && top_k < api_vocab_size(ctx) ? (uint32_t)top_k : 0;
    s->seed = f->seed;
    s->ignore_eos = f->ignore_eos;
    req->has_seed = f->has[API_FIELD_seed];
}

void api_defaults_init(struct api_defaults *out_defaults)
{
    struct api_fields f;
    api_fields_default(&f);
    *out_defaults = (struct api_defaults){.temperature = f.temperature,
                                          .top_p = f.top_p,
                                          .min_p = f.min_p,
                                          .top_k = (uint32_t)f.top_k};
}

/* --- the whole --- */

enum status api_check_model(const struct api_context *ctx, const struct api_fields *f,
                            struct api_error *err)
{
    if (!f->has[API_FIELD_model] || strcmp(f->model, ctx->model) == 0)
        return ST_OK;
    api_error_set(err, 404, "model_not_found", "model",
                  "model does not exist here: \"%.96s\"; this server serves \"%.96s\"", f->model,
                  ctx->model);
    return ST_NOT_FOUND;
}

static enum status read_prompts(const struct api_context *ctx, const struct api_fields *f,
                                struct api_request *req, struct api_prompts *prompts,
                                struct api_error *err)
{
    uint32_t ids_max = api_prompt_tokens_max(ctx);
    if (req->endpoint == API_CHAT)
        return f->has[API_FIELD_messages] ? api_chat_parse(ctx, f, ids_max, prompts, err)
                                          : api_refuse_missing(API_FIELD_messages, err);
    if (!f->has[API_FIELD_prompt])
        return api_refuse_missing(API_FIELD_prompt, err);
    bool add_bos = !f->has[API_FIELD_add_special_tokens] || f->add_special_tokens;
    return api_prompt_parse(ctx, f->prompt, add_bos, ids_max, prompts, err);
}

/* Moves the prompts into the request. */
static enum status keep_prompts(struct api_request *req, struct api_prompts *prompts,
                                struct api_error *err)
{
    size_t at = 0;
    struct api_prompt *items = arena_calloc(&req->arena, prompts->n, sizeof(*items));
    if (items == NULL)
        return api_refuse_status(ST_NO_MEMORY, err);
    req->tokens = prompts->ids;
    token_buf_init(&prompts->ids, 0);
    for (uint32_t i = 0; i < prompts->n; i++) {
        items[i] = (struct api_prompt){req->tokens.ids + at, prompts->lengths[i]};
        at += prompts->lengths[i];
    }
    req->prompts = items;
    req->n_prompts = prompts->n;
    return ST_OK;
}

static enum status request_fill(const struct api_context *ctx, const char *body, size_t bytes,
                                struct api_request *req, struct api_error *err)
{
    struct api_fields f;
    struct api_prompts prompts;
    enum status st = api_fields_parse(req->endpoint, body, bytes, &req->arena, &f, err);
    if (st == ST_OK)
        st = api_check_model(ctx, &f, err);
    if (st == ST_OK)
        st = read_choices(ctx, &f, req, err);
    if (st == ST_OK)
        st = read_length(ctx, &f, &req->sampling, err);
    if (st == ST_OK)
        st = read_lists(ctx, &f, req, err);
    if (st != ST_OK)
        return st;
    read_sampling(ctx, &f, req);
    req->stream = f.stream;
    req->return_token_ids = f.return_token_ids;
    req->skip_special_tokens = f.skip_special_tokens;
    req->cache_salt = f.cache_salt;
    req->created_unix_s = time_unix_s();
    api_prompts_init(&prompts);
    st = read_prompts(ctx, &f, req, &prompts, err);
    if (st == ST_OK)
        st = keep_prompts(req, &prompts, err);
    api_prompts_deinit(&prompts);
    return st;
}

enum status api_request_parse(const struct api_context *ctx, enum api_endpoint endpoint,
                              const char *body, size_t bytes, struct api_request **out_request,
                              struct api_error *out_error)
{
    struct api_request *req = calloc(1, sizeof(*req));
    if (req == NULL)
        return api_refuse_status(ST_NO_MEMORY, out_error);
    req->endpoint = endpoint;
    arena_init(&req->arena, ARENA_BYTES_MAX);
    enum status st = request_fill(ctx, body, bytes, req, out_error);
    if (st != ST_OK) {
        api_request_free(req);
        return st;
    }
    *out_request = req;
    return ST_OK;
}

void api_request_free(struct api_request *request)
{
    if (request == NULL)
        return;
    token_buf_deinit(&request->tokens);
    arena_deinit(&request->arena);
    free(request);
}
