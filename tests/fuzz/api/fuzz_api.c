/* First byte: the endpoint. The rest: a body. What is accepted must keep every bound, and its
 * answers must be JSON; what is refused must say why, in JSON. */
#include "api/endpoints.h"
#include "api/request.h"
#include "api/response.h"

#include "tests/support/api_fixture.h"

#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool condition)
{
    if (!condition)
        abort();
}

static void check_error(const struct api_error *err)
{
    struct buf out;
    buf_init(&out, 1 << 12);
    must(err->http_code >= 400 && err->http_code < 600 && err->message[0] != '\0');
    must(api_error_write(err, &out) == ST_OK);
    must(json_validate((const char *)out.data, out.len, 4, NULL) == ST_OK);
    buf_deinit(&out);
}

static void check_request(const struct api_context *ctx, const struct api_request *req)
{
    const struct wire_sampling *s = &req->sampling;
    must(req->n_prompts >= 1 && req->n_prompts <= ctx->limits.prompts_max);
    must(req->n_choices >= 1 && req->n_choices <= ctx->limits.n_max);
    must(s->temperature >= 0 && s->temperature <= 2 && s->top_p > 0 && s->top_p <= 1);
    must(s->min_p >= 0 && s->min_p <= 1 && s->top_k < 300);
    must(s->max_new_tokens >= 1 && s->max_new_tokens <= 100);
    must(s->min_new_tokens <= s->max_new_tokens && s->n_stop_ids <= WIRE_STOP_IDS_MAX);
    must(req->n_stops <= STOP_STRINGS_MAX);
    for (uint32_t i = 0; i < req->n_stops; i++)
        must(req->stops[i].bytes >= 1 && req->stops[i].bytes <= STOP_BYTES_MAX);
    for (uint32_t p = 0; p < req->n_prompts; p++) {
        must(req->prompts[p].n_tokens >= 1 && req->prompts[p].n_tokens < 100);
        for (uint32_t i = 0; i < req->prompts[p].n_tokens; i++)
            must(req->prompts[p].tokens[i] < 300);
    }
}

/* Sends the prompt back as the answer of the first choice. */
static void check_answer(const struct api_context *ctx, const struct api_request *req)
{
    struct api_choice_stream choice;
    struct api_response response;
    struct api_usage usage = {.prompt_tokens = 1};
    struct buf out;
    bool stopped;
    buf_init(&out, 1 << 16);
    must(api_choice_init(&choice, req, ctx->tokenizer, 0) == ST_OK);
    must(api_response_init(&response, req, "id", "m", NULL) == ST_OK);
    must(api_choice_push(&choice, req->prompts[0].tokens, req->prompts[0].n_tokens,
                         WIRE_FINISH_LENGTH, &stopped) == ST_OK);
    if (req->stream) {
        must(api_response_chunk(&response, &choice, &usage, &out) == ST_OK);
        must(api_response_end(&response, &usage, &out) == ST_OK);
        must(out.len > 14 && memcmp(out.data + out.len - 14, "data: [DONE]\n\n", 14) == 0);
    } else {
        must(api_response_full(&response, &choice, 1, &usage, &out) == ST_OK);
        must(json_validate((const char *)out.data, out.len, 8, NULL) == ST_OK);
    }
    api_choice_deinit(&choice);
    api_response_deinit(&response);
    buf_deinit(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct tokenizer *tokenizer;
    if (tokenizer == NULL)
        tokenizer = tokenizer_create_ids(300);
    if (size == 0)
        return 0;
    struct api_context ctx = api_context_small(tokenizer);
    struct api_request *req = NULL;
    struct api_error err = {0};
    struct buf out;
    enum status st;
    const char *body = (const char *)data + 1;
    buf_init(&out, 1 << 24);
    switch (data[0] % 4) {
    case 0:
    case 1:
        st = api_request_parse(&ctx, data[0] % 4 == 0 ? API_COMPLETIONS : API_CHAT, body, size - 1,
                               &req, &err);
        if (st == ST_OK) {
            check_request(&ctx, req);
            check_answer(&ctx, req);
        }
        break;
    case 2:
        st = api_tokenize(&ctx, body, size - 1, &out, &err);
        break;
    default:
        st = api_detokenize(&ctx, body, size - 1, &out, &err);
        break;
    }
    if (st != ST_OK)
        check_error(&err);
    else if (req == NULL)
        must(json_validate((const char *)out.data, out.len, 8, NULL) == ST_OK);
    api_request_free(req);
    buf_deinit(&out);
    return 0;
}
