/* The parser without sockets: verdicts of the case table for every way to cut the input, and what a
 * complete message holds. */
#include "http/http_parse.h"
#include "support/http_cases.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static const struct http_limits limits = {
    .uri_bytes_max = 128,
    .head_bytes_max = 1024,
    .n_fields_max = 12,
    .n_chunks_max = 8,
    .body_bytes_max = 64,
};

struct verdict {
    int n_served, error;
};

/* As a connection does it: messages in order until an error or Connection: close. `cut` bytes at a
 * time; 0: all at once. */
static struct verdict parse_run(const char *raw, size_t bytes, size_t cut)
{
    struct verdict verdict = {0, 0};
    struct http_parse *p = http_parse_create(&limits);
    assert_non_null(p);
    for (size_t at = 0; at < bytes;) {
        size_t n = cut == 0 || cut > bytes - at ? bytes - at : cut, used;
        enum http_phase phase = http_parse_feed(p, raw + at, n, &used);
        assert_true(used <= n);
        at += used;
        if (phase == HTTP_PHASE_ERROR) {
            verdict.error = http_parse_message(p)->error_code;
            assert_non_null(http_parse_message(p)->error_text);
            break;
        }
        if (phase != HTTP_PHASE_DONE) {
            assert_int_equal(used, n);
            continue;
        }
        verdict.n_served++;
        assert_int_equal(http_parse_message(p)->body[http_parse_message(p)->body_bytes], '\0');
        if (!http_parse_message(p)->keep_alive)
            break;
        http_parse_next(p);
    }
    http_parse_destroy(p);
    return verdict;
}

static void check_cut(size_t cut)
{
    unsigned n_wrong = 0;
    for (size_t i = 0; i < N_HTTP_CASES; i++) {
        const struct http_case *c = &http_cases[i];
        struct verdict v = parse_run(c->raw, c->bytes, cut);
        if (v.n_served != c->n_served || v.error != c->error) {
            print_error("%s (cut %zu): served %d, error %d; expected %d, %d\n", c->name, cut,
                        v.n_served, v.error, c->n_served, c->error);
            n_wrong++;
        }
    }
    assert_int_equal(n_wrong, 0);
}

static void test_http_parse_cases_whole_give_verdict(void **state)
{
    (void)state;
    check_cut(0);
}

static void test_http_parse_cases_by_byte_give_same_verdict(void **state)
{
    (void)state;
    check_cut(1);
}

static void test_http_parse_cases_in_pieces_give_same_verdict(void **state)
{
    (void)state;
    for (size_t cut = 2; cut < 40; cut++)
        check_cut(cut);
}

static struct http_parse *parse_one(const char *raw)
{
    size_t used;
    struct http_parse *p = http_parse_create(&limits);
    assert_non_null(p);
    assert_int_equal(http_parse_feed(p, raw, strlen(raw), &used), HTTP_PHASE_DONE);
    assert_int_equal(used, strlen(raw));
    return p;
}

static void test_http_parse_message_holds_line_fields_and_body(void **state)
{
    (void)state;
    struct http_parse *p =
        parse_one("POST /v1/x?a=b?c HTTP/1.1\r\nHost: h:1\r\nX-One:  \tv w \t\r\n"
                  "x-one: second\r\nEmpty:\r\nTransfer-Encoding: chunked\r\n\r\n"
                  "3\r\nabc\r\n2\r\nde\r\n0\r\nT: x\r\n\r\n");
    const struct http_message *m = http_parse_message(p);
    assert_string_equal(m->method, "POST");
    assert_string_equal(m->path, "/v1/x");
    assert_string_equal(m->query, "a=b?c");
    assert_int_equal(m->version_minor, 1);
    assert_true(m->keep_alive);
    assert_false(m->expect_continue);
    assert_int_equal(m->n_fields, 5);
    assert_string_equal(http_message_header(m, "X-ONE"), "v w");
    assert_string_equal(http_message_header(m, "empty"), "");
    assert_string_equal(http_message_header(m, "host"), "h:1");
    assert_null(http_message_header(m, "t"));
    assert_int_equal(m->body_bytes, 5);
    assert_string_equal(m->body, "abcde");
    http_parse_destroy(p);
}

static void test_http_parse_absolute_form_gives_path(void **state)
{
    (void)state;
    struct http_parse *p = parse_one("GET HTTPS://b:1?q=1 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_string_equal(http_parse_message(p)->path, "/");
    http_parse_destroy(p);
    p = parse_one("GET http://b/p/q?x HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_string_equal(http_parse_message(p)->path, "/p/q");
    assert_string_equal(http_parse_message(p)->query, "x");
    http_parse_destroy(p);
}

static void test_http_parse_keep_alive_follows_version_and_connection(void **state)
{
    (void)state;
    static const struct {
        const char *raw;
        bool keep_alive;
    } rows[] = {
        {"GET / HTTP/1.1\r\nHost: a\r\n\r\n", true},
        {"GET / HTTP/1.1\r\nHost: a\r\nConnection: Close\r\n\r\n", false},
        {"GET / HTTP/1.1\r\nHost: a\r\nConnection: foo, close\r\n\r\n", false},
        {"GET / HTTP/1.1\r\nHost: a\r\nConnection: foo\r\nConnection: close\r\n\r\n", false},
        {"GET / HTTP/1.0\r\n\r\n", false},
        {"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", true},
        {"GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n", false},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct http_parse *p = parse_one(rows[i].raw);
        if (http_parse_message(p)->keep_alive != rows[i].keep_alive)
            fail_msg("%s", rows[i].raw);
        http_parse_destroy(p);
    }
}

static void test_http_parse_phases_follow_the_input(void **state)
{
    (void)state;
    size_t used;
    struct http_parse *p = http_parse_create(&limits);
    assert_int_equal(http_parse_phase(p), HTTP_PHASE_IDLE);
    assert_int_equal(http_parse_feed(p, "\r\n", 2, &used), HTTP_PHASE_IDLE);
    assert_int_equal(http_parse_feed(p, "P", 1, &used), HTTP_PHASE_HEAD);
    const char *rest =
        "OST / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 2\r\n\r\n";
    assert_int_equal(http_parse_feed(p, rest, strlen(rest), &used), HTTP_PHASE_BODY);
    assert_true(http_parse_message(p)->expect_continue);
    assert_int_equal(http_parse_body_bytes(p), 0);
    assert_int_equal(http_parse_feed(p, "xyz", 3, &used), HTTP_PHASE_DONE);
    assert_int_equal(used, 2);
    assert_int_equal(http_parse_feed(p, "z", 1, &used), HTTP_PHASE_DONE);
    assert_int_equal(used, 0);
    http_parse_next(p);
    assert_int_equal(http_parse_phase(p), HTTP_PHASE_IDLE);
    http_parse_destroy(p);
}

static void test_http_parse_error_stays(void **state)
{
    (void)state;
    size_t used;
    struct http_parse *p = http_parse_create(&limits);
    assert_int_equal(http_parse_feed(p, "\x01", 1, &used), HTTP_PHASE_ERROR);
    const char *good = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_int_equal(http_parse_feed(p, good, strlen(good), &used), HTTP_PHASE_ERROR);
    assert_int_equal(used, 0);
    assert_int_equal(http_parse_message(p)->error_code, 400);
    http_parse_destroy(p);
    http_parse_destroy(NULL);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_http_parse_cases_whole_give_verdict),
        cmocka_unit_test(test_http_parse_cases_by_byte_give_same_verdict),
        cmocka_unit_test(test_http_parse_cases_in_pieces_give_same_verdict),
        cmocka_unit_test(test_http_parse_message_holds_line_fields_and_body),
        cmocka_unit_test(test_http_parse_absolute_form_gives_path),
        cmocka_unit_test(test_http_parse_keep_alive_follows_version_and_connection),
        cmocka_unit_test(test_http_parse_phases_follow_the_input),
        cmocka_unit_test(test_http_parse_error_stays),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
