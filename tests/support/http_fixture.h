/* Fixture for tests of the HTTP server on a real loopback socket: the loop runs in a thread of its
 * own, the test is a client with blocking sockets. What both sides touch is under fixture.lock; a
 * wait that fails fails the test, none sleeps. */
#ifndef SUPPORT_HTTP_FIXTURE_H
#define SUPPORT_HTTP_FIXTURE_H
#include "http/routes.h"
#include "http/server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

enum { TIMEOUT_S = 10, OUT_BYTES = 1 << 20, HUNG_MAX = 16, BIG_BYTES = 8 << 20, MIB = 1 << 20 };

enum command { CMD_NONE, CMD_CLOSE, CMD_DRAIN, CMD_RELEASE };

struct fixture {
    uv_loop_t loop;
    uv_async_t wake;
    uv_timer_t flood_timer;
    struct http_server *server;
    uint16_t port;
    pthread_t thread;
    /* loop thread only */
    struct http_request *hung[HUNG_MAX];
    int n_hung;
    struct http_request *flood;
    bool answers_all; /* case table: 200 for any path */
    char *big;
    /* shared */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    enum command command;
    int n_requests, n_closed, n_full, n_drained, n_server_closed;
};

/* ---- server side; cmocka's asserts are for the test's own thread ---- */

static inline void check(bool condition)
{
    if (!condition)
        abort();
}

static inline void count(struct fixture *f, int *counter)
{
    pthread_mutex_lock(&f->lock);
    (*counter)++;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
}

static inline void handle_echo(void *user, struct http_request *request)
{
    (void)user;
    char *text = arena_printf(request->arena, "%s %s tail=%s query=%s bytes=%zu\n%s",
                              request->method, request->path, request->path_tail, request->query,
                              request->body_bytes, request->body);
    check(text != NULL);
    http_respond(request, 200, "text/plain", text, strlen(text), NULL, 0);
}

static inline void handle_size(void *user, struct http_request *request)
{
    (void)user;
    const char *type = http_request_header(request, "CONTENT-TYPE");
    char *text = arena_printf(request->arena, "%zu %s", request->body_bytes, type ? type : "none");
    http_respond(request, 200, "text/plain", text, strlen(text), NULL, 0);
}

static inline void handle_hang(void *user, struct http_request *request)
{
    struct fixture *f = user;
    check(f->n_hung < HUNG_MAX);
    f->hung[f->n_hung++] = request;
}

static inline void handle_stream(void *user, struct http_request *request)
{
    (void)user;
    check(http_respond_begin(request, 200, "text/event-stream", NULL, 0) == ST_OK);
    check(http_respond_write(request, "data: 1\n\n", 9) == ST_OK);
    check(http_respond_write(request, NULL, 0) == ST_OK);
    check(http_respond_write(request, "data: [DONE]\n\n", 14) == ST_OK);
    http_respond_end(request);
}

static inline void handle_abort(void *user, struct http_request *request)
{
    (void)user;
    http_respond_begin(request, 200, "text/plain", NULL, 0);
    http_respond_write(request, "half", 4);
    http_respond_abort(request);
}

static inline void on_flood_timer(uv_timer_t *timer)
{
    struct fixture *f = timer->data;
    enum status st = ST_OK;
    while (st == ST_OK)
        st = http_respond_write(f->flood, f->big, 65536);
    uv_timer_stop(timer);
    if (st != ST_FULL)
        return;
    check(http_write_queue_bytes(f->flood) > 0);
    http_respond_abort(f->flood);
    count(f, &f->n_full);
}

static inline void handle_flood(void *user, struct http_request *request)
{
    struct fixture *f = user;
    f->flood = request;
    http_respond_begin(request, 200, "text/plain", NULL, 0);
    uv_timer_start(&f->flood_timer, on_flood_timer, 1, 1);
}

static inline void handle_big(void *user, struct http_request *request)
{
    struct fixture *f = user;
    http_respond(request, 200, "text/plain", f->big, BIG_BYTES, NULL, 0);
}

static inline void handle_inject(void *user, struct http_request *request)
{
    (void)user;
    static const struct http_header extra[] = {
        {"X-Bad", "a\r\nX-Forged: 1"}, {"X-Bad\r\nX-Forged", "1"}, {"X-Good", "fine"}};
    http_respond(request, 429, "text/plain", "x", 1, extra, 3);
}

static const struct http_route routes[] = {
    {"GET", "/echo", handle_echo},        {"POST", "/echo", handle_echo},
    {"POST", "/size", handle_size},       {"GET", "/hang", handle_hang},
    {"POST", "/hang", handle_hang},       {"GET", "/stream", handle_stream},
    {"GET", "/abort", handle_abort},      {"GET", "/flood", handle_flood},
    {"GET", "/big", handle_big},          {"GET", "/inject", handle_inject},
    {"GET", "/v1/models/*", handle_echo},
};

static inline void on_request(void *user, struct http_request *request)
{
    struct fixture *f = user;
    count(f, &f->n_requests);
    static const struct http_header extra = {"X-Extra", "1"};
    if (f->answers_all)
        http_respond(request, 200, "text/plain", "ok", 2, NULL, 0);
    else
        http_routes_dispatch(routes, sizeof(routes) / sizeof(routes[0]), f, request, &extra, 1);
}

static inline void on_request_closed(void *user, struct http_request *request)
{
    struct fixture *f = user;
    check(request->method != NULL);
    for (int i = 0; i < f->n_hung; i++)
        if (f->hung[i] == request)
            f->hung[i] = f->hung[--f->n_hung];
    count(f, &f->n_closed);
}

static inline void on_drained(void *user)
{
    struct fixture *f = user;
    count(f, &f->n_drained);
}

static inline void on_server_closed(void *user)
{
    struct fixture *f = user;
    count(f, &f->n_server_closed);
}

static const struct http_handlers handlers = {
    .on_request = on_request,
    .on_request_closed = on_request_closed,
    .on_drained = on_drained,
};

static inline void on_wake(uv_async_t *async)
{
    struct fixture *f = async->data;
    pthread_mutex_lock(&f->lock);
    enum command command = f->command;
    f->command = CMD_NONE;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
    switch (command) {
    case CMD_CLOSE:
        http_server_close(f->server, on_server_closed, f);
        uv_close((uv_handle_t *)&f->wake, NULL);
        uv_close((uv_handle_t *)&f->flood_timer, NULL);
        break;
    case CMD_DRAIN:
        http_server_drain(f->server);
        break;
    case CMD_RELEASE:
        if (f->n_hung > 0) {
            struct http_request *request = f->hung[0];
            f->hung[0] = f->hung[--f->n_hung];
            http_respond(request, 200, "text/plain", "released", 8, NULL, 0);
        }
        break;
    case CMD_NONE:
        break;
    }
}

static inline void *loop_main(void *arg)
{
    struct fixture *f = arg;
    uv_run(&f->loop, UV_RUN_DEFAULT);
    return NULL;
}

/* ---- fixture ---- */

static inline struct http_server_options options_quick(void)
{
    struct http_server_options options;
    http_server_options_default(&options);
    options.linger_timeout_ms = 300;
    return options;
}

static inline struct fixture *fixture_start(const struct http_server_options *options)
{
    struct fixture *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    f->big = calloc(1, BIG_BYTES);
    assert_non_null(f->big);
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->changed, NULL);
    assert_int_equal(uv_loop_init(&f->loop), 0);
    uv_async_init(&f->loop, &f->wake, on_wake);
    uv_timer_init(&f->loop, &f->flood_timer);
    f->wake.data = f->flood_timer.data = f;
    assert_int_equal(http_server_create(&f->loop, options, &handlers, f, &f->server), ST_OK);
    assert_int_equal(http_server_listen(f->server, "127.0.0.1", 0), ST_OK);
    f->port = http_server_port(f->server);
    assert_int_not_equal(f->port, 0);
    return f;
}

static inline void fixture_run(struct fixture *f)
{
    assert_int_equal(pthread_create(&f->thread, NULL, loop_main, f), 0);
}

static inline struct fixture *fixture_create(const struct http_server_options *options)
{
    struct fixture *f = fixture_start(options);
    fixture_run(f);
    return f;
}

static inline void fixture_command(struct fixture *f, enum command command)
{
    pthread_mutex_lock(&f->lock);
    f->command = command;
    uv_async_send(&f->wake);
    while (f->command != CMD_NONE)
        pthread_cond_wait(&f->changed, &f->lock);
    pthread_mutex_unlock(&f->lock);
}

/* Waits until *counter >= n; then it must be n. */
static inline void fixture_wait(struct fixture *f, const int *counter, int n)
{
    struct timespec end;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += TIMEOUT_S;
    int err = 0;
    pthread_mutex_lock(&f->lock);
    while (*counter < n && err == 0)
        err = pthread_cond_timedwait(&f->changed, &f->lock, &end);
    int seen = *counter;
    pthread_mutex_unlock(&f->lock);
    assert_int_equal(seen, n);
}

static inline int fixture_count(struct fixture *f, const int *counter)
{
    pthread_mutex_lock(&f->lock);
    int n = *counter;
    pthread_mutex_unlock(&f->lock);
    return n;
}

static inline void fixture_destroy(struct fixture *f)
{
    fixture_command(f, CMD_CLOSE);
    pthread_join(f->thread, NULL);
    assert_int_equal(f->n_server_closed, 1);
    assert_int_equal(uv_loop_close(&f->loop), 0); /* no handle was left open */
    pthread_cond_destroy(&f->changed);
    pthread_mutex_destroy(&f->lock);
    free(f->big);
    free(f);
}

/* ---- client side ---- */

static inline int client_connect(const struct fixture *f)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    assert_true(fd >= 0);
    struct timeval timeout = {.tv_sec = TIMEOUT_S};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons(f->port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

/* The server may have closed already: then the rest is not sent. */
static inline void client_send(int fd, const char *data, size_t bytes)
{
    while (bytes > 0) {
        ssize_t n = send(fd, data, bytes, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return;
        data += n;
        bytes -= (size_t)n;
    }
}

static inline void client_say(int fd, const char *text)
{
    client_send(fd, text, strlen(text));
}

static inline void client_reset(int fd)
{
    struct linger hard = {.l_onoff = 1, .l_linger = 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
    close(fd);
}

static char out[OUT_BYTES]; /* what the client has read, NUL-terminated */

/* Reads until `needle` has been seen, or until EOF when it is NULL. */
static inline size_t client_read(int fd, const char *needle)
{
    size_t len = 0;
    out[0] = '\0';
    while (needle == NULL || memmem(out, len, needle, strlen(needle)) == NULL) {
        ssize_t n = recv(fd, out + len, OUT_BYTES - 1 - len, 0);
        if (n < 0 && errno == EINTR)
            continue; /* a receive with a timeout is not restarted by the kernel */
        if (n == 0 && needle == NULL)
            return len;
        if (n <= 0)
            fail_msg("after %zu bytes: %s; expected %s; have: %s", len,
                     n == 0 ? "EOF" : strerror(errno), needle ? needle : "EOF", out);
        len += (size_t)n;
        out[len] = '\0';
    }
    return len;
}

static inline int count_of(const char *needle)
{
    int n = 0;
    for (const char *at = out; (at = strstr(at, needle)) != NULL; at++)
        n++;
    return n;
}

static inline void assert_has(const char *needle)
{
    if (strstr(out, needle) == NULL)
        fail_msg("missing %s in: %s", needle, out);
}

static inline void assert_has_not(const char *needle)
{
    if (strstr(out, needle) != NULL)
        fail_msg("unexpected %s in: %s", needle, out);
}

/* One request on its own connection, answer to EOF in `out`. */
static inline void exchange(const struct fixture *f, const char *text)
{
    int fd = client_connect(f);
    client_say(fd, text);
    client_read(fd, NULL);
    close(fd);
}

#endif
