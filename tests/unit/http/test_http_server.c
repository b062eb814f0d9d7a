/* What a client gets: the case table, order of responses, streaming, ids, routes, listening. */
#include "base/error_body.h"
#include "support/http_cases.h"
#include "support/http_fixture.h"

static bool case_is_right(const struct fixture *f, const struct http_case *c, bool by_byte)
{
    int fd = client_connect(f);
    for (size_t i = 0; by_byte && i < c->bytes; i++)
        client_send(fd, c->raw + i, 1);
    if (!by_byte)
        client_send(fd, c->raw, c->bytes);
    if (c->error == 0)
        shutdown(fd, SHUT_WR);
    client_read(fd, NULL);
    close(fd);
    char status_line[32] = "";
    snprintf(status_line, sizeof(status_line), "HTTP/1.1 %d ", c->error);
    char body_end[128];
    snprintf(body_end, sizeof(body_end), "\"type\":\"%s\",\"param\":null,\"code\":\"%s\"}}",
             error_body_type(c->error), error_body_code(c->error));
    int n_all = count_of("HTTP/1.1 "), n_ok = count_of("HTTP/1.1 200 ");
    bool ok = n_ok == c->n_served && count_of("x-request-id: ") == n_all;
    if (strstr(c->raw, "100-continue") != NULL)
        ok = n_ok == c->n_served;
    else
        ok = ok && n_all == c->n_served + (c->error != 0);
    if (c->error != 0)
        ok = ok && count_of(status_line) == 1 && count_of("Connection: close\r\n") == 1 &&
             count_of("{\"error\":{\"message\":\"") == 1 && count_of(body_end) == 1;
    if (!ok)
        print_error("%s: expected %d served, error %d; got: %s\n", c->name, c->n_served, c->error,
                    out);
    return ok;
}

static void check_cases(bool by_byte)
{
    struct http_server_options options = options_quick();
    options.limits = (struct http_limits){.uri_bytes_max = 128,
                                          .head_bytes_max = 1024,
                                          .n_fields_max = 12,
                                          .n_chunks_max = 8,
                                          .body_bytes_max = 64};
    struct fixture *f = fixture_start(&options);
    f->answers_all = true;
    fixture_run(f);
    unsigned n_wrong = 0;
    for (size_t i = 0; i < N_HTTP_CASES; i++)
        n_wrong += !case_is_right(f, &http_cases[i], by_byte);
    fixture_destroy(f);
    assert_int_equal(n_wrong, 0);
}

static void test_http_server_cases_whole_are_answered_as_the_table_says(void **state)
{
    (void)state;
    check_cases(false);
}

static void test_http_server_cases_by_byte_are_answered_as_the_table_says(void **state)
{
    (void)state;
    check_cases(true);
}

static void test_http_server_pipelined_requests_are_answered_in_order(void **state)
{
    (void)state;
    struct http_server_options options = options_quick();
    struct fixture *f = fixture_create(&options);
    enum { N = 200 };
    int fd = client_connect(f);
    char text[256];
    for (int i = 0; i < N; i++) {
        snprintf(text, sizeof(text),
                 "POST /echo?n=%d HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n%s\r\nbody%04d", i,
                 i == N - 1 ? "Connection: close\r\n" : "", i);
        client_say(fd, text);
    }
    client_read(fd, NULL);
    close(fd);
    const char *at = out;
    for (int i = 0; i < N; i++) {
        snprintf(text, sizeof(text), "POST /echo tail= query=n=%d bytes=8\nbody%04d", i, i);
        at = strstr(at, text);
        assert_non_null(at);
    }
    assert_int_equal(count_of("HTTP/1.1 200"), N);
    fixture_destroy(f);
}

static void test_http_server_pipelined_behind_open_request_waits(void **state)
{
    (void)state;
    struct http_server_options options = options_quick();
    struct fixture *f = fixture_create(&options);
    int fd = client_connect(f);
    client_say(fd, "GET /hang HTTP/1.1\r\nHost: a\r\n\r\nGET /echo HTTP/1.1\r\nHost: a\r\n");
    fixture_wait(f, &f->n_requests, 1);
    client_say(fd, "Connection: close\r\n\r\n");
    fixture_command(f, CMD_RELEASE);
    client_read(fd, NULL);
    assert_non_null(strstr(strstr(out, "released"), "GET /echo"));
    close(fd);
    fixture_wait(f, &f->n_requests, 2);
    fixture_wait(f, &f->n_closed, 0);
    fixture_destroy(f);
}

static void test_http_server_expect_continue_is_answered_before_the_body(void **state)
{
    (void)state;
    struct http_server_options options = options_quick();
    options.limits.body_bytes_max = 100;
    struct fixture *f = fixture_create(&options);
    int fd = client_connect(f);
    for (int i = 0; i < 2; i++) {
        client_say(fd, "POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
                       "Content-Length: 5\r\n\r\n");
        client_read(fd, "\r\n\r\n");
        assert_string_equal(out, "HTTP/1.1 100 Continue\r\n\r\n");
        client_say(fd, "hello");
        client_read(fd, "hello");
        assert_has("HTTP/1.1 200 OK\r\n");
    }
    close(fd);
    exchange(f, "POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
                "Content-Length: 101\r\n\r\n");
    assert_has("HTTP/1.1 413 ");
    assert_has_not("100 Continue");
    fixture_destroy(f);
}

static void test_http_server_stream_is_chunked_and_uncached(void **state)
{
    (void)state;
    struct http_server_options options = options_quick();
    struct fixture *f = fixture_create(&options);
    exchange(f, "GET /stream HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_has("Content-Type: text/event-stream\r\n");
    assert_has("Cache-Control: no-cache\r\n");
    assert_has("X-Accel-Buffering: no\r\n");
    assert_has("Transfer-Encoding: chunked\r\n");
    assert_has_not("Content-Length");
    assert_has("\r\n\r\n9\r\ndata: 1\n\n\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n");
    exchange(f, "GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_has_not("chunked");
    assert_has("Connection: close\r\n");
    assert_has("\r\n\r\ndata: 1\n\ndata: [DONE]\n\n");
    int fd = client_connect(f); /* the connection stays usable behind a stream */
    client_say(fd, "GET /stream HTTP/1.1\r\nHost: a\r\n\r\n");
    client_read(fd, "0\r\n\r\n");
    client_say(fd, "HEAD /stream HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    client_read(fd, NULL);
    assert_has("HTTP/1.1 200 OK\r\n");
    assert_has_not("data:");
    close(fd);
    fixture_destroy(f);
}

static void test_http_server_aborted_stream_has_no_end(void **state)
{
    (void)state;
    struct http_server_options options = options_quick();
    struct fixture *f = fixture_create(&options);
    exchange(f, "GET /abort HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_has("4\r\nhalf\r\n");
    assert_has_not("0\r\n\r\n");
    fixture_destroy(f);
}

static void test_http_server_head_has_length_and_no_body(void **state)
{
    (void)state;
    struct http_server_options options = options_quick();
    struct fixture *f = fixture_create(&options);
    exchange(f, "HEAD /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_has("HTTP/1.1 200 OK\r\n");
    assert_has("Content-Length: 32\r\n");
    assert_string_equal(strstr(out, "\r\n\r\n"), "\r\n\r\n");
    fixture_destroy(f);
}

static void test_http_server_http10_keeps_alive_only_when_asked(void **state)
{
    (void)state;
    struct http_server_options options = options_quick();
    struct fixture *f = fixture_create(&options);
    exchange(f, "GET /echo HTTP/1.0\r\n\r\n");
    assert_has("Connection: close\r\n");
    int fd = client_connect(f);
    client_say(fd, "GET /echo HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    client_read(fd, "bytes=0\n");
    assert_has("Connection: keep-alive\r\n");
    client_say(fd, "GET /echo HTTP/1.0\r\n\r\n");
    client_read(fd, NULL);
    assert_has("HTTP/1.1 200 OK\r\n");
    close(fd);
    fixture_destroy(f);
}

static void test_http_server_request_id_is_echoed_or_made(void **state)
{
    (void)state;
    struct http_server_options options = options_quick();
    struct fixture *f = fixture_create(&options);
    exchange(f,
             "GET /echo HTTP/1.1\r\nHost: a\r\nX-Request-Id: my id-1\r\nConnection: close\r\n\r\n");
    assert_has("x-request-id: my id-1\r\n");
    exchange(f,
             "GET /nowhere HTTP/1.1\r\nHost: a\r\nX-Request-Id: abc\r\nConnection: close\r\n\r\n");
    assert_has("x-request-id: abc\r\n");
    char text[512], long_id[130];
    memset(long_id, 'i', 129);
    long_id[129] = '\0';
    snprintf(text, sizeof(text),
             "GET /echo HTTP/1.1\r\nHost: a\r\nX-Request-Id: %s\r\nConnection: close\r\n\r\n",
             long_id);
    exchange(f, text);
    assert_has("x-request-id: ");
    assert_has_not("iiii");
    snprintf(text, sizeof(text),
             "GET /echo HTTP/1.1\r\nHost: a\r\nX-Request-Id: %s\r\nConnection: close\r\n\r\n",
             long_id + 1);
    exchange(f, text);
    assert_has(long_id + 1);
    exchange(
        f, "GET /echo HTTP/1.1\r\nHost: a\r\nX-Request-Id: \xc3\xa9\r\nConnection: close\r\n\r\n");
    assert_has_not("\xc3\xa9");
    char first[33];
    memcpy(first, strstr(out, "x-request-id: ") + 14, 32);
    first[32] = '\0';
    assert_int_equal(strspn(first, "0123456789abcdef"), 32);
    exchange(f, "GET /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_has_not(first);
    fixture_destroy(f);
}

static void test_http_server_body_arrives_whole(void **state)
{
    (void)state;
    struct http_server_options options = options_quick();
    options.limits.body_bytes_max = MIB;
    struct fixture *f = fixture_create(&options);
    char *body = malloc(MIB);
    assert_non_null(body);
    memset(body, 'b', MIB);
    int fd = client_connect(f);
    client_say(
        fd,
        "POST /size HTTP/1.1\r\nHost: a\r\nContent-Type: t/x\r\nContent-Length: 1048576\r\n\r\n");
    client_send(fd, body, MIB);
    client_read(fd, "1048576 t/x");
    client_say(fd, "POST /size HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: "
                   "chunked\r\n\r\n");
    for (int i = 0; i < 16; i++) {
        client_say(fd, "10000\r\n");
        client_send(fd, body, 65536);
        client_say(fd, "\r\n");
    }
    client_say(fd, "0\r\n\r\n");
    client_read(fd, NULL);
    assert_has("1048576 none");
    close(fd);
    free(body);
    exchange(f, "POST /size HTTP/1.1\r\nHost: a\r\nContent-Length: 1048577\r\n\r\n");
    assert_has("HTTP/1.1 413 ");
    fixture_destroy(f);
}

static void test_http_routes_answer_what_follows_from_the_table(void **state)
{
    (void)state;
    struct http_server_options options = options_quick();
    struct fixture *f = fixture_create(&options);
    exchange(f, "GET /v1/none HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_has("HTTP/1.1 404 Not Found\r\n");
    assert_has("\"code\":\"not_found\"");
    assert_has("X-Extra: 1\r\n");
    exchange(f, "DELETE /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_has("HTTP/1.1 405 Method Not Allowed\r\n");
    assert_has("Allow: GET, HEAD, POST, OPTIONS\r\n");
    assert_has("\"code\":\"method_not_allowed\"");
    exchange(f, "GET /size HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_has("Allow: POST, OPTIONS\r\n");
    exchange(f, "OPTIONS /size HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_has("HTTP/1.1 204 No Content\r\n");
    assert_has("Allow: POST, OPTIONS\r\n");
    assert_has_not("Content-Length");
    exchange(f, "OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_has("HTTP/1.1 204 No Content\r\n");
    exchange(f, "GET /v1/models/org/name?x=1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_has("tail=org/name query=x=1");
    exchange(f, "GET /v1/models/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_has("HTTP/1.1 404 ");
    exchange(f, "HEAD /v1/none HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_has("HTTP/1.1 404 ");
    assert_string_equal(strstr(out, "\r\n\r\n"), "\r\n\r\n");
    fixture_destroy(f);
}

static void test_http_respond_header_with_line_end_is_left_out(void **state)
{
    (void)state;
    struct http_server_options options = options_quick();
    struct fixture *f = fixture_create(&options);
    exchange(f, "GET /inject HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_has("HTTP/1.1 429 Too Many Requests\r\n");
    assert_has("X-Good: fine\r\n");
    assert_has_not("Forged");
    fixture_destroy(f);
}

static void test_http_server_listen_on_bad_address_says_so(void **state)
{
    (void)state;
    struct http_server_options options = options_quick();
    struct fixture *f = fixture_start(&options);
    struct http_server *other;
    assert_int_equal(http_server_create(&f->loop, &options, &handlers, f, &other), ST_OK);
    assert_int_equal(http_server_listen(other, "127.0.0.1", f->port), ST_EXISTS);
    assert_int_equal(http_server_listen(other, "no such host", 0), ST_INVALID);
    assert_int_equal(http_server_listen(other, "192.0.2.1", 0), ST_IO);
    assert_int_equal(http_server_port(other), 0);
    assert_int_equal(http_server_listen(other, "127.0.0.1", 0), ST_OK); /* still usable */
    assert_int_equal(http_server_listen(other, "127.0.0.1", 0), ST_INVALID);
    http_server_close(other, NULL, NULL);
    fixture_run(f);
    fixture_destroy(f);
}

static void test_http_server_open_serves_a_given_socket(void **state)
{
    (void)state;
    struct http_server_options options = options_quick();
    struct fixture *f = fixture_start(&options);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(fd, 16), 0);
    int kept = dup(fd); /* as the supervisor keeps it */
    struct http_server *other;
    assert_int_equal(http_server_create(&f->loop, &options, &handlers, f, &other), ST_OK);
    assert_int_equal(http_server_open(other, fd), ST_OK);
    uint16_t own_port = f->port;
    f->port = http_server_port(other);
    assert_int_not_equal(f->port, own_port);
    http_server_close(f->server, NULL, NULL);
    f->server = other;
    fixture_run(f);
    exchange(f, "GET /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_has("HTTP/1.1 200 OK\r\n");
    fixture_command(f, CMD_DRAIN); /* closes its own descriptor of the socket only */
    fixture_wait(f, &f->n_drained, 1);
    int late = client_connect(f);
    close(late);
    close(kept);
    fixture_destroy(f);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_http_server_cases_whole_are_answered_as_the_table_says),
        cmocka_unit_test(test_http_server_cases_by_byte_are_answered_as_the_table_says),
        cmocka_unit_test(test_http_server_pipelined_requests_are_answered_in_order),
        cmocka_unit_test(test_http_server_pipelined_behind_open_request_waits),
        cmocka_unit_test(test_http_server_expect_continue_is_answered_before_the_body),
        cmocka_unit_test(test_http_server_stream_is_chunked_and_uncached),
        cmocka_unit_test(test_http_server_aborted_stream_has_no_end),
        cmocka_unit_test(test_http_server_head_has_length_and_no_body),
        cmocka_unit_test(test_http_server_http10_keeps_alive_only_when_asked),
        cmocka_unit_test(test_http_server_request_id_is_echoed_or_made),
        cmocka_unit_test(test_http_server_body_arrives_whole),
        cmocka_unit_test(test_http_routes_answer_what_follows_from_the_table),
        cmocka_unit_test(test_http_respond_header_with_line_end_is_left_out),
        cmocka_unit_test(test_http_server_listen_on_bad_address_says_so),
        cmocka_unit_test(test_http_server_open_serves_a_given_socket),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
