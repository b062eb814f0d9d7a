#include "api/endpoints.h"

#include "tests/support/api_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static struct tokenizer *tokenizer;

static int setup(void **state)
{
    (void)state;
    tokenizer = tokenizer_create_ids(1000);
    return tokenizer == NULL;
}

static int teardown(void **state)
{
    (void)state;
    tokenizer_free(tokenizer);
    return 0;
}

typedef enum status (*body_fn)(const struct api_context *ctx, const char *body, size_t bytes,
                               struct buf *out, struct api_error *out_error);

static void expect(body_fn fn, const char *body, const char *want)
{
    struct api_context ctx = api_context_small(tokenizer);
    struct api_error err = {0};
    struct buf out;
    buf_init(&out, 1 << 16);
    if (fn(&ctx, body, strlen(body), &out, &err) != ST_OK)
        fail_msg("%s: %s", body, err.message);
    assert_int_equal(json_validate((const char *)out.data, out.len, 8, NULL), ST_OK);
    assert_int_equal(buf_append(&out, "", 1), ST_OK);
    assert_string_equal((const char *)out.data, want);
    buf_deinit(&out);
}

static void expect_refused(body_fn fn, const char *body, int http_code, const char *message)
{
    struct api_context ctx = api_context_small(tokenizer);
    struct api_error err = {0};
    struct buf out;
    buf_init(&out, 1 << 16);
    assert_int_not_equal(fn(&ctx, body, strlen(body), &out, &err), ST_OK);
    assert_int_equal(out.len, 0);
    assert_int_equal(err.http_code, http_code);
    assert_string_equal(err.message, message);
    buf_deinit(&out);
}

static enum status models_list(const struct api_context *ctx, const char *body, size_t bytes,
                               struct buf *out, struct api_error *err)
{
    (void)body, (void)bytes;
    return api_models_list(ctx, out, err);
}

static enum status models_get(const struct api_context *ctx, const char *body, size_t bytes,
                              struct buf *out, struct api_error *err)
{
    (void)bytes;
    return api_models_get(ctx, body, out, err);
}

static enum status models_get_slashed(const struct api_context *ctx, const char *body, size_t bytes,
                                      struct buf *out, struct api_error *err)
{
    struct api_context slashed = *ctx;
    (void)bytes;
    slashed.model = "org/a b";
    return api_models_get(&slashed, body, out, err);
}

#define MODEL(name)                                                                                \
    "{\"id\":\"" name "\",\"object\":\"model\",\"created\":1700000000,\"owned_by\":\"dynd\","      \
    "\"root\":\"" name "\",\"parent\":null,\"max_model_len\":100}"

static void test_api_models_list_and_get_show_the_model(void **state)
{
    (void)state;
    expect(models_list, "", "{\"object\":\"list\",\"data\":[" MODEL("m") "]}");
    expect(models_get, "m", MODEL("m"));
    expect(models_get, "%6D", MODEL("m"));
    expect(models_get_slashed, "org/a%20b", MODEL("org/a b"));
    expect(models_get_slashed, "org%2fa%20b", MODEL("org/a b"));
}

static void test_api_models_get_of_another_is_404(void **state)
{
    (void)state;
    static const char *const others[] = {"", "M", "mm", "m%", "m%0", "m%00", "%00", "%zz", "m/"};
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
        expect_refused(models_get, others[i], 404,
                       "model does not exist here; this server serves \"m\"");
}

static void test_api_version_is_the_build_version(void **state)
{
    (void)state;
    struct buf out;
    struct api_error err;
    buf_init(&out, 1024);
    assert_int_equal(api_version(&out, &err), ST_OK);
    assert_int_equal(buf_append(&out, "", 1), ST_OK);
    assert_string_equal((const char *)out.data, "{\"version\":\"" DYND_VERSION "\"}");
    buf_deinit(&out);
}

static void test_api_tokenize_prompt_and_messages(void **state)
{
    (void)state;
    expect(api_tokenize, "{\"prompt\":\"5 6 7\"}",
           "{\"count\":3,\"max_model_len\":100,\"tokens\":[5,6,7]}");
    expect(api_tokenize, "{\"prompt\":\"5 6\",\"return_token_strs\":true,\"model\":\"m\"}",
           "{\"count\":2,\"max_model_len\":100,\"tokens\":[5,6],\"token_strs\":[\"5 \",\"6 \"]}");
    expect(api_tokenize, "{\"prompt\":\"\",\"add_special_tokens\":false}",
           "{\"count\":0,\"max_model_len\":100,\"tokens\":[]}");
    expect(api_tokenize,
           "{\"messages\":[{\"role\":\"user\",\"content\":\"\"}],\"add_generation_prompt\":false}",
           "{\"count\":26,\"max_model_len\":100,\"tokens\":[60,124,105,109,95,115,116,97,114,116,"
           "124,62,117,115,101,114,60,124,105,109,95,101,110,100,124,62]}");
}

static void test_api_tokenize_prompt_longer_than_context_is_counted(void **state)
{
    (void)state;
    struct api_context ctx = api_context_small(tokenizer);
    struct api_error err;
    struct buf body, out;
    buf_init(&body, 1 << 16);
    buf_init(&out, 1 << 16);
    buf_append_str(&body, "{\"prompt\":\"");
    for (int i = 0; i < 500; i++)
        buf_append_str(&body, "7 ");
    buf_append_str(&body, "\"}");
    assert_int_equal(api_tokenize(&ctx, (const char *)body.data, body.len, &out, &err), ST_OK);
    assert_int_equal(strncmp((const char *)out.data, "{\"count\":500,", 13), 0);
    buf_deinit(&body);
    buf_deinit(&out);
}

static void test_api_tokenize_bad_bodies_are_refused(void **state)
{
    (void)state;
    expect_refused(api_tokenize, "{}", 400,
                   "prompt is required: a string, a list of strings, or lists of token ids");
    expect_refused(api_tokenize, "{\"prompt\":[1]}", 400, "prompt must be a string, got a list");
    expect_refused(api_tokenize, "{\"messages\":[]}", 400,
                   "messages must be a non-empty list of messages");
    expect_refused(api_tokenize, "x", 400,
                   "body is not valid JSON: expected a value, at line 1 column 1");
    expect_refused(api_tokenize, "{\"prompt\":\"1\",\"model\":\"x\"}", 404,
                   "model does not exist here: \"x\"; this server serves \"m\"");
}

static void test_api_detokenize_writes_text(void **state)
{
    (void)state;
    expect(api_detokenize, "{\"tokens\":[1,2.0,3]}", "{\"prompt\":\"1 2 3 \"}");
    expect(api_detokenize, "{\"tokens\":[]}", "{\"prompt\":\"\"}");
    expect_refused(api_detokenize, "{}", 400, "tokens is required: a list of token ids");
    expect_refused(api_detokenize, "{\"tokens\":5}", 400,
                   "tokens must be a list of token ids, got a number");
    expect_refused(api_detokenize, "{\"tokens\":[1000]}", 400,
                   "tokens: item 0 of the list must be a token id from 0 to 999");
}

static void test_api_error_from_status_maps_type_and_retry(void **state)
{
    (void)state;
    static const struct {
        enum status st;
        const char *type;
    } cases[] = {{ST_INVALID, "invalid_request_error"},  {ST_NOT_FOUND, "not_found_error"},
                 {ST_FULL, "rate_limit_error"},          {ST_UNAVAILABLE, "service_unavailable"},
                 {ST_INTERNAL, "server_error"},          {ST_TIMEOUT, "server_error"},
                 {ST_TOO_LARGE, "invalid_request_error"}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct api_error err;
        struct buf out;
        char want[512];
        enum status st = cases[i].st;
        api_error_from_status(st, &err);
        assert_int_equal(err.http_code, status_http_code(st));
        assert_int_equal(err.retry_after_s > 0, status_is_retryable(st));
        buf_init(&out, 1024);
        assert_int_equal(api_error_write(&err, &out), ST_OK);
        assert_int_equal(buf_append(&out, "", 1), ST_OK);
        snprintf(want, sizeof(want),
                 "{\"error\":{\"message\":\"%s\",\"type\":\"%s\",\"param\":null,\"code\":\"%s\"}}",
                 status_text(st), cases[i].type, status_name(st));
        assert_string_equal((const char *)out.data, want);
        buf_deinit(&out);
    }
}

static void test_api_error_long_text_is_cut_between_characters(void **state)
{
    (void)state;
    struct api_error err;
    struct buf out;
    char text[301];
    for (int i = 0; i < 300; i += 3)
        memcpy(text + i, "\xe2\x82\xac", 3);
    text[300] = '\0';
    buf_init(&out, 2048);
    api_error_set(&err, 400, "invalid_value", "x\"y", "a%s", text);
    assert_int_equal(api_error_write(&err, &out), ST_OK);
    assert_int_equal(json_validate((const char *)out.data, out.len, 4, NULL), ST_OK);
    buf_deinit(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_api_models_list_and_get_show_the_model),
        cmocka_unit_test(test_api_models_get_of_another_is_404),
        cmocka_unit_test(test_api_version_is_the_build_version),
        cmocka_unit_test(test_api_tokenize_prompt_and_messages),
        cmocka_unit_test(test_api_tokenize_prompt_longer_than_context_is_counted),
        cmocka_unit_test(test_api_tokenize_bad_bodies_are_refused),
        cmocka_unit_test(test_api_detokenize_writes_text),
        cmocka_unit_test(test_api_error_from_status_maps_type_and_retry),
        cmocka_unit_test(test_api_error_long_text_is_cut_between_characters),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
