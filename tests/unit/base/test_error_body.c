#include "base/error_body.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

static void expect_body(int http_code, const char *code, const char *param, const char *message,
                        const char *want)
{
    struct buf out;
    buf_init(&out, 1024);
    assert_int_equal(error_body_append(&out, http_code, code, param, message), ST_OK);
    assert_int_equal(buf_append(&out, "", 1), ST_OK);
    assert_string_equal((const char *)out.data, want);
    buf_deinit(&out);
}

static void test_error_body_type_follows_from_the_http_status(void **state)
{
    static const struct {
        int http_code;
        const char *type, *code;
    } cases[] = {
        {400, "invalid_request_error", "invalid"},
        {404, "not_found_error", "not_found"},
        {405, "invalid_request_error", "method_not_allowed"},
        {413, "invalid_request_error", "too_large"},
        {429, "rate_limit_error", "full"},
        {500, "server_error", "internal"},
        {503, "service_unavailable", "unavailable"},
        {504, "server_error", "timeout"},
        {418, "invalid_request_error", "invalid"}, /* not in the table: as their class */
        {599, "server_error", "internal"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_string_equal(error_body_type(cases[i].http_code), cases[i].type);
        assert_string_equal(error_body_code(cases[i].http_code), cases[i].code);
    }
}

/* An error of the HTTP server must read like one of the API: its code is a label of status.def
 * wherever that has a row with this HTTP status. */
static void test_error_body_code_is_a_label_of_status_def_where_it_has_one(void **state)
{
    (void)state;
    for (int st = ST_OK + 1; st < ST_COUNT; st++) {
        int http_code = status_http_code((enum status)st);
        bool known = false;
        for (int other = ST_OK + 1; other < ST_COUNT; other++)
            known |= status_http_code((enum status)other) == http_code &&
                     strcmp(status_name((enum status)other), error_body_code(http_code)) == 0;
        if (!known)
            fail_msg("%d: %s is no label of status.def", http_code, error_body_code(http_code));
    }
}

static void test_error_body_append_writes_all_members(void **state)
{
    (void)state;
    expect_body(429, NULL, NULL, "queue is full",
                "{\"error\":{\"message\":\"queue is full\",\"type\":\"rate_limit_error\","
                "\"param\":null,\"code\":\"full\"}}");
    expect_body(400, "invalid_value", "x\"y", "a\nb\xe2\x82",
                "{\"error\":{\"message\":\"a\\nb\",\"type\":\"invalid_request_error\","
                "\"param\":\"x\\\"y\",\"code\":\"invalid_value\"}}");
}

static void test_error_body_append_that_does_not_fit_leaves_the_buffer(void **state)
{
    struct buf out;
    (void)state;
    buf_init(&out, 40);
    assert_int_equal(buf_append_str(&out, "before"), ST_OK);
    assert_int_equal(error_body_append(&out, 500, NULL, NULL, "internal error"), ST_TOO_LARGE);
    assert_int_equal(out.len, 6);
    buf_deinit(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_error_body_type_follows_from_the_http_status),
        cmocka_unit_test(test_error_body_code_is_a_label_of_status_def_where_it_has_one),
        cmocka_unit_test(test_error_body_append_writes_all_members),
        cmocka_unit_test(test_error_body_append_that_does_not_fit_leaves_the_buffer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
