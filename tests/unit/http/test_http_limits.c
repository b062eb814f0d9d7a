/* Bounds in memory and time, clients that vanish or do not read, drain and close. */
#include "support/http_fixture.h"

static void test_http_server_client_gone_tells_exactly_once(void **state)
{
    (void)state;
    struct http_server_options options = options_quick();
    struct fixture *f = fixture_create(&options);
    for (int i = 0; i < 4; i++) {
        int fd = client_connect(f);
        client_say(fd, "GET /hang HTTP/1.1\r\nHost: a\r\n\r\n");
        if (i >= 2) /* a pipelined one that nobody has seen yet */
            client_say(fd, "GET /hang HTTP/1.1\r\nHost: a\r\n\r\n");
        fixture_wait(f, &f->n_requests, i + 1);
        if (i % 2 == 0)
            close(fd);
        else
            client_reset(fd);
        fixture_wait(f, &f->n_closed, i + 1);
    }
    fixture_destroy(f);
}

static void test_http_server_client_gone_behind_full_pending_is_seen(void **state)
{
    (void)state;
    struct http_server_options options = options_quick();
    options.pending_bytes_max = 1024;
    struct fixture *f = fixture_create(&options);
    int fd = client_connect(f);
    client_say(fd, "GET /hang HTTP/1.1\r\nHost: a\r\n\r\n");
    fixture_wait(f, &f->n_requests, 1);
    /* Twice the read buffer and the bound: the server stops reading before it has all. */
    memset(out, 'x', 2 * 65536 + 4096);
    client_send(fd, out, 2 * 65536 + 4096);
    close(fd);
    fixture_wait(f, &f->n_closed, 1);
    fixture_destroy(f);
}

static void test_http_server_pending_overflow_goes_on_after_the_response(void **state)
{
    (void)state;
    struct http_server_options options = options_quick();
    options.pending_bytes_max = 64;
    struct fixture *f = fixture_create(&options);
    int fd = client_connect(f);
    enum { N = 100 };
    client_say(fd, "GET /hang HTTP/1.1\r\nHost: a\r\n\r\n");
    for (int i = 0; i < N; i++)
        client_say(fd, "GET /echo HTTP/1.1\r\nHost: a\r\n\r\n");
    fixture_wait(f, &f->n_requests, 1);
    fixture_command(f, CMD_RELEASE);
    client_say(fd, "GET /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    client_read(fd, NULL);
    assert_int_equal(count_of("HTTP/1.1 200"), N + 2);
    close(fd);
    fixture_destroy(f);
}

static void test_http_server_head_too_slow_gets_408(void **state)
{
    (void)state;
    struct http_server_options options = options_quick();
    options.head_timeout_ms = 100;
    struct fixture *f = fixture_create(&options);
    exchange(f, "GET / HTTP/1.1\r\nHost: a\r\n");
    assert_has("HTTP/1.1 408 ");
    assert_has("\"code\":\"request_timeout\"");
    exchange(f, ""); /* a connection that says nothing is closed without a word */
    assert_string_equal(out, "");
    fixture_destroy(f);
}

static void test_http_server_body_too_slow_gets_408(void **state)
{
    (void)state;
    struct http_server_options options = options_quick();
    options.body_timeout_ms = 100;
    options.body_bytes_per_s_min = 1000;
    struct fixture *f = fixture_create(&options);
    exchange(f, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nx");
    assert_has("HTTP/1.1 408 ");
    fixture_wait(f, &f->n_requests, 0);
    fixture_destroy(f);
}

static void test_http_server_idle_connection_is_closed(void **state)
{
    (void)state;
    struct http_server_options options = options_quick();
    options.idle_timeout_ms = 100;
    struct fixture *f = fixture_create(&options);
    exchange(f, "GET /echo HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_int_equal(count_of("HTTP/1.1 "), 1);
    assert_has("HTTP/1.1 200 ");
    fixture_destroy(f);
}

static void test_http_server_open_request_outlives_the_timeouts(void **state)
{
    (void)state;
    struct http_server_options options = options_quick();
    options.idle_timeout_ms = options.head_timeout_ms = options.body_timeout_ms = 40;
    options.write_timeout_ms = 40;
    struct fixture *f = fixture_create(&options);
    int fd = client_connect(f), other = client_connect(f);
    client_say(fd, "GET /hang HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    client_read(other, NULL); /* closed by its timeout, which is the same as ours */
    close(other);
    fixture_command(f, CMD_RELEASE);
    client_read(fd, NULL);
    assert_has("released");
    close(fd);
    fixture_destroy(f);
}

static void test_http_server_stream_to_stopped_reader_is_full(void **state)
{
    (void)state;
    struct http_server_options options = options_quick();
    options.write_queue_bytes_max = 200000;
    struct fixture *f = fixture_create(&options);
    int fd = client_connect(f);
    client_say(fd, "GET /flood HTTP/1.1\r\nHost: a\r\n\r\n");
    fixture_wait(f, &f->n_full, 1);
    close(fd);
    fixture_wait(f, &f->n_closed, 0); /* the handler had ended it by itself */
    fixture_destroy(f);
}

static void test_http_server_answer_to_stopped_reader_is_broken_off(void **state)
{
    (void)state;
    struct http_server_options options = options_quick();
    options.write_timeout_ms = 100;
    struct fixture *f = fixture_create(&options);
    int fd = client_connect(f);
    client_say(fd, "GET /big HTTP/1.1\r\nHost: a\r\n\r\n");
    fixture_wait(f, &f->n_requests, 1);
    fixture_command(f, CMD_DRAIN); /* tells when the connection is gone */
    fixture_wait(f, &f->n_drained, 1);
    close(fd);
    fixture_destroy(f);
}

static void test_http_server_answer_to_slow_reader_is_complete(void **state)
{
    (void)state;
    struct http_server_options options = options_quick();
    struct fixture *f = fixture_create(&options);
    int fd = client_connect(f);
    client_say(fd, "GET /big HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    size_t total = 0;
    for (ssize_t n; (n = recv(fd, out, 100000, 0)) > 0;)
        total += (size_t)n;
    assert_true(total > BIG_BYTES && total < BIG_BYTES + 1024);
    close(fd);
    fixture_destroy(f);
}

static void test_http_server_pipelining_client_that_never_reads_is_bounded(void **state)
{
    (void)state;
    struct http_server_options options = options_quick();
    options.write_timeout_ms = 200;
    struct fixture *f = fixture_create(&options);
    int fd = client_connect(f);
    for (int i = 0; i < 50; i++)
        client_say(fd, "GET /big HTTP/1.1\r\nHost: a\r\n\r\n");
    fixture_wait(f, &f->n_requests, 1);
    fixture_command(f, CMD_DRAIN);
    fixture_wait(f, &f->n_drained, 1);
    assert_true(fixture_count(f, &f->n_requests) <= 3); /* each answer is far over the bound */
    close(fd);
    fixture_destroy(f);
}

static void test_http_server_too_many_connections_get_503(void **state)
{
    (void)state;
    struct http_server_options options = options_quick();
    options.connections_max = 2;
    struct fixture *f = fixture_create(&options);
    int a = client_connect(f), b = client_connect(f);
    client_say(a, "GET /hang HTTP/1.1\r\nHost: a\r\n\r\n");
    client_say(b, "GET /hang HTTP/1.1\r\nHost: a\r\n\r\n");
    fixture_wait(f, &f->n_requests, 2);
    exchange(f, "GET /echo HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_has("HTTP/1.1 503 ");
    assert_has("Retry-After: 1\r\n");
    assert_has("\"type\":\"service_unavailable\"");
    assert_has("\"code\":\"unavailable\"");
    close(a);
    close(b);
    fixture_wait(f, &f->n_closed, 2);
    fixture_destroy(f);
}

static void test_http_server_input_of_all_connections_is_bounded(void **state)
{
    (void)state;
    struct http_server_options options = options_quick();
    options.input_bytes_max = 100000;
    struct fixture *f = fixture_create(&options);
    int fd = client_connect(f);
    client_say(fd, "POST /size HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n");
    memset(out, 'x', 200000);
    client_send(fd, out, 200000);
    client_read(fd, NULL);
    assert_has("HTTP/1.1 503 ");
    close(fd);
    exchange(f, "GET /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_has("HTTP/1.1 200 "); /* the memory came back */
    fixture_destroy(f);
}

static void test_http_server_refused_upload_gets_its_answer(void **state)
{
    (void)state;
    struct http_server_options options = options_quick();
    options.limits.body_bytes_max = 1000;
    struct fixture *f = fixture_create(&options);
    char *body = calloc(1, 4 * MIB);
    assert_non_null(body);
    int fd = client_connect(f); /* it sends everything before it reads */
    client_say(fd, "POST /size HTTP/1.1\r\nHost: a\r\nContent-Length: 4194304\r\n\r\n");
    client_send(fd, body, 4 * MIB);
    client_read(fd, NULL);
    assert_has("HTTP/1.1 413 ");
    assert_has("\"code\":\"too_large\"");
    close(fd);
    free(body);
    fixture_destroy(f);
}

static void test_http_server_drain_ends_idle_and_lets_open_requests_end(void **state)
{
    (void)state;
    struct http_server_options options = options_quick();
    struct fixture *f = fixture_create(&options);
    int idle = client_connect(f), busy = client_connect(f), half = client_connect(f);
    client_say(idle, "GET /echo HTTP/1.1\r\nHost: a\r\n\r\n");
    client_read(idle, "bytes=0\n");
    client_say(half, "GET /echo HTTP/1.1\r\nHost: a\r\n\r\n");
    client_read(half, "bytes=0\n");
    client_say(half, "GET /echo HTTP/1.1\r\n");
    client_say(busy, "GET /hang HTTP/1.1\r\nHost: a\r\n\r\n");
    fixture_wait(f, &f->n_requests, 3);
    fixture_command(f, CMD_DRAIN);
    client_read(idle, NULL);
    assert_string_equal(out, "");
    close(idle);
    client_say(half, "Host: a\r\n\r\n");
    client_read(half, NULL);
    assert_has("HTTP/1.1 200 OK\r\n");
    assert_has("Connection: close\r\n");
    close(half);
    fixture_wait(f, &f->n_drained, 0);
    fixture_command(f, CMD_RELEASE);
    client_read(busy, NULL);
    assert_has("released");
    assert_has("Connection: close\r\n");
    close(busy);
    fixture_wait(f, &f->n_drained, 1);
    fixture_wait(f, &f->n_closed, 0);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons(f->port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), -1);
    close(fd);
    fixture_destroy(f);
}

static void test_http_server_close_tells_open_requests(void **state)
{
    (void)state;
    struct http_server_options options = options_quick();
    struct fixture *f = fixture_create(&options);
    int a = client_connect(f), b = client_connect(f);
    client_say(a, "GET /hang HTTP/1.1\r\nHost: a\r\n\r\n");
    client_say(b, "GET /hang HTTP/1.1\r\nHost: a\r\n\r\n");
    fixture_wait(f, &f->n_requests, 2);
    fixture_command(f, CMD_CLOSE);
    fixture_wait(f, &f->n_closed, 2);
    fixture_wait(f, &f->n_server_closed, 1);
    pthread_join(f->thread, NULL);
    assert_int_equal(uv_loop_close(&f->loop), 0);
    close(a);
    close(b);
    free(f->big);
    free(f);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_http_server_client_gone_tells_exactly_once),
        cmocka_unit_test(test_http_server_client_gone_behind_full_pending_is_seen),
        cmocka_unit_test(test_http_server_pending_overflow_goes_on_after_the_response),
        cmocka_unit_test(test_http_server_head_too_slow_gets_408),
        cmocka_unit_test(test_http_server_body_too_slow_gets_408),
        cmocka_unit_test(test_http_server_idle_connection_is_closed),
        cmocka_unit_test(test_http_server_open_request_outlives_the_timeouts),
        cmocka_unit_test(test_http_server_stream_to_stopped_reader_is_full),
        cmocka_unit_test(test_http_server_answer_to_stopped_reader_is_broken_off),
        cmocka_unit_test(test_http_server_answer_to_slow_reader_is_complete),
        cmocka_unit_test(test_http_server_pipelining_client_that_never_reads_is_bounded),
        cmocka_unit_test(test_http_server_too_many_connections_get_503),
        cmocka_unit_test(test_http_server_input_of_all_connections_is_bounded),
        cmocka_unit_test(test_http_server_refused_upload_gets_its_answer),
        cmocka_unit_test(test_http_server_drain_ends_idle_and_lets_open_requests_end),
        cmocka_unit_test(test_http_server_close_tells_open_requests),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
