/* One connection: input to requests, the order of responses, deadlines, the end.
 *
 *   on_read -> conn_feed -> http_parse_feed -> conn_dispatch -> on_request
 *                 ^                                |
 *                 +--- http_conn_request_end <-----+  (at once, or later through http_conn_run)
 *
 * While a request is with the caller nothing is parsed; input collects in `pending` up to its
 * bound, then reading stops and the sweep asks the kernel whether the client is still there. */
#include "base/hash.h"
#include "base/time.h"
#include "http/server_int.h"
#include "observe/log.h"
#include "observe/metrics.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

enum { KEEPALIVE_S = 60, ARENA_KEEP_BYTES = 65536 };

static void on_close(uv_handle_t *handle)
{
    struct http_conn *conn = handle->data;
    struct http_server *server = conn->server;
    list_del(&conn->node);
    server->input_bytes -= conn->input_bytes;
    http_parse_destroy(conn->parse);
    arena_deinit(&conn->arena);
    buf_deinit(&conn->pending);
    free(conn);
    http_server_conn_gone(server);
    http_server_handle_gone(server);
}

void http_conn_close(struct http_conn *conn)
{
    if (conn->state == CONN_CLOSED)
        return;
    conn->state = CONN_CLOSED;
    list_del(&conn->ready);
    if (conn->response != RESPONSE_NONE) {
        conn->response = RESPONSE_NONE;
        conn->server->handlers->on_request_closed(conn->server->user, &conn->request);
    }
    uv_close((uv_handle_t *)&conn->tcp, on_close);
}

void http_conn_later(struct http_conn *conn)
{
    if (conn->state == CONN_CLOSED || !list_is_empty(&conn->ready))
        return;
    list_add_tail(&conn->server->ready, &conn->ready);
    http_server_kick(conn->server);
}

/* ---- input ---- */

static bool has_request(const struct http_conn *conn)
{
    return conn->response != RESPONSE_NONE;
}

static size_t pending_left(const struct http_conn *conn)
{
    return conn->pending.len - conn->pending_used;
}

/* New requests wait until the client has taken most of the answers before them. */
static bool may_parse(const struct http_conn *conn)
{
    return conn->state == CONN_OPEN && !has_request(conn) && !conn->is_broken &&
           http_conn_queue_bytes(conn) <= conn->server->options.write_queue_bytes_max;
}

static void note_phase(struct http_conn *conn, enum http_phase phase)
{
    if (phase == conn->phase_seen)
        return;
    conn->phase_seen = phase;
    conn->phase_start_ms = uv_now(conn->server->loop);
}

static void note_memory(struct http_conn *conn)
{
    size_t bytes = http_parse_memory_bytes(conn->parse) + conn->pending.cap;
    conn->server->input_bytes += bytes - conn->input_bytes;
    conn->input_bytes = bytes;
}

static bool id_is_sane(const char *id)
{
    size_t bytes = 0;
    for (; id[bytes] != '\0'; bytes++)
        if (bytes == HTTP_ID_BYTES_MAX || id[bytes] < ' ' || id[bytes] > '~')
            return false;
    return bytes > 0;
}

static void pick_id(struct http_conn *conn)
{
    struct http_server *server = conn->server;
    const struct http_message *message = http_parse_message(conn->parse);
    const char *given = message->head != NULL ? http_message_header(message, "x-request-id") : NULL;
    if (given != NULL && id_is_sane(given)) {
        snprintf(conn->id, sizeof(conn->id), "%s", given);
        return;
    }
    uint64_t n = server->id_counter++;
    snprintf(conn->id, sizeof(conn->id), "%016llx%016llx",
             (unsigned long long)hash_mix64(server->id_seed + n),
             (unsigned long long)hash_combine(server->id_seed, n));
}

static void alloc_read(uv_handle_t *handle, size_t suggested, uv_buf_t *out_buf)
{
    (void)suggested;
    struct http_conn *conn = handle->data;
    *out_buf = uv_buf_init(conn->server->read_buf, sizeof(conn->server->read_buf));
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf);

static void reading_set(struct http_conn *conn, bool on)
{
    if (on == conn->is_reading || (on && conn->saw_eof))
        return;
    if (on && uv_read_start((uv_stream_t *)&conn->tcp, alloc_read, on_read) != 0)
        return;
    if (!on)
        uv_read_stop((uv_stream_t *)&conn->tcp);
    conn->is_reading = on;
}

static void on_shutdown(uv_shutdown_t *req, int status)
{
    struct http_conn *conn = req->data;
    conn->shutdown_done = true;
    conn->phase_start_ms = uv_now(conn->server->loop);
    if (status < 0 || conn->saw_eof)
        http_conn_close(conn);
}

/* Ends the connection behind what is queued. The client's close is awaited for a while, because
 * closing with input unread makes the kernel reset the connection and destroy our last response. */
static void conn_linger(struct http_conn *conn)
{
    if (conn->state != CONN_OPEN)
        return;
    conn->state = CONN_LINGER;
    conn->shutdown.data = conn;
    reading_set(conn, true);
    if (uv_shutdown(&conn->shutdown, (uv_stream_t *)&conn->tcp, on_shutdown) != 0) {
        conn->is_broken = true;
        http_conn_later(conn);
    }
}

static void conn_refuse_request(struct http_conn *conn, int code, const char *text)
{
    pick_id(conn);
    log_debug("http request refused", LOG_U64("code", (uint64_t)code), LOG_STR("reason", text),
              LOG_STR("request_id", conn->id));
    http_conn_write_error(conn, code, text);
    conn_linger(conn);
}

static void conn_dispatch(struct http_conn *conn)
{
    const struct http_message *message = http_parse_message(conn->parse);
    pick_id(conn);
    conn->request = (struct http_request){
        .method = message->method,
        .path = message->path,
        .path_tail = "",
        .query = message->query,
        .id = conn->id,
        .body = message->body,
        .body_bytes = message->body_bytes,
        .arena = &conn->arena,
        .received_ns = time_monotonic_ns(),
        .conn = conn,
    };
    conn->is_head = strcmp(message->method, "HEAD") == 0;
    conn->has_served = true;
    conn->response = RESPONSE_WAITING;
    conn->server->handlers->on_request(conn->server->user, &conn->request);
}

void http_conn_request_end(struct http_conn *conn)
{
    conn->response = RESPONSE_NONE;
    conn->continue_sent = false;
    if (conn->arena.bytes_used > ARENA_KEEP_BYTES)
        arena_deinit(&conn->arena);
    else
        arena_reset(&conn->arena);
    http_parse_next(conn->parse);
    note_phase(conn, HTTP_PHASE_IDLE);
    note_memory(conn);
    if (!conn->keep_alive && !conn->is_broken)
        conn_linger(conn);
    else if (!conn->is_running &&
             (conn->server->is_draining || pending_left(conn) > 0 || !conn->is_reading))
        http_conn_later(conn);
}

/* A client that announced Expect waits for a word before it sends the body. */
static void continue_send(struct http_conn *conn)
{
    static char line[] = "HTTP/1.1 100 Continue\r\n\r\n";
    if (conn->state != CONN_OPEN || conn->phase_seen != HTTP_PHASE_BODY || conn->continue_sent ||
        !http_parse_message(conn->parse)->expect_continue || http_parse_body_bytes(conn->parse) > 0)
        return;
    conn->continue_sent = true;
    uv_buf_t buf = {.base = line, .len = sizeof(line) - 1};
    http_conn_write(conn, &buf, 1);
}

/* Parses and dispatches as far as the order of responses allows; returns the bytes used. */
static size_t conn_feed(struct http_conn *conn, const char *data, size_t bytes)
{
    size_t at = 0;
    conn->is_running = true;
    while (at < bytes && may_parse(conn)) {
        size_t used;
        enum http_phase phase = http_parse_feed(conn->parse, data + at, bytes - at, &used);
        at += used;
        note_phase(conn, phase);
        note_memory(conn);
        const struct http_message *message = http_parse_message(conn->parse);
        if (phase == HTTP_PHASE_ERROR)
            conn_refuse_request(conn, message->error_code, message->error_text);
        else if (conn->server->input_bytes > conn->server->options.input_bytes_max)
            conn_refuse_request(conn, 503, "The server has no memory for this request now.");
        else if (phase == HTTP_PHASE_DONE)
            conn_dispatch(conn);
    }
    conn->is_running = false;
    continue_send(conn);
    return at;
}

static void on_eof(struct http_conn *conn)
{
    conn->saw_eof = true;
    conn->is_reading = false;
    if (conn->state == CONN_LINGER) {
        if (conn->shutdown_done)
            http_conn_close(conn);
    } else if (!has_request(conn) && http_conn_queue_bytes(conn) > 0) {
        conn_linger(conn); /* a half-closed client may still want the answers it has coming */
    } else {
        http_conn_close(conn);
    }
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct http_conn *conn = stream->data;
    if (conn->state == CONN_CLOSED || n == 0)
        return;
    if (n == UV_EOF) {
        on_eof(conn);
        return;
    }
    if (n < 0) {
        http_conn_close(conn);
        return;
    }
    if (conn->state == CONN_LINGER)
        return;
    size_t bytes = (size_t)n, used = 0;
    if (pending_left(conn) == 0)
        used = conn_feed(conn, buf->base, bytes);
    if (used < bytes && conn->state == CONN_OPEN) {
        if (buf_append(&conn->pending, buf->base + used, bytes - used) != ST_OK) {
            http_conn_close(conn);
            return;
        }
        note_memory(conn);
    }
    if (conn->state == CONN_OPEN && pending_left(conn) >= conn->server->options.pending_bytes_max)
        reading_set(conn, false);
    if (conn->server->is_draining)
        http_conn_drain(conn);
}

void http_conn_run(struct http_conn *conn)
{
    if (conn->is_broken) {
        http_conn_close(conn);
        return;
    }
    if (conn->state != CONN_OPEN)
        return;
    if (pending_left(conn) > 0)
        conn->pending_used +=
            conn_feed(conn, (char *)conn->pending.data + conn->pending_used, pending_left(conn));
    if (conn->state != CONN_OPEN)
        return;
    if (pending_left(conn) == 0) {
        buf_deinit(&conn->pending);
    } else {
        buf_consume(&conn->pending, conn->pending_used);
    }
    conn->pending_used = 0;
    note_memory(conn);
    if (conn->pending.len < conn->server->options.pending_bytes_max)
        reading_set(conn, true);
    if (conn->server->is_draining)
        http_conn_drain(conn);
}

/* ---- life ---- */

struct http_conn *http_conn_create(struct http_server *server)
{
    struct http_conn *conn = calloc(1, sizeof(*conn));
    if (conn == NULL)
        return NULL;
    conn->parse = http_parse_create(&server->options.limits);
    if (conn->parse == NULL || uv_tcp_init(server->loop, &conn->tcp) != 0) {
        http_parse_destroy(conn->parse);
        free(conn);
        return NULL;
    }
    conn->server = server;
    conn->tcp.data = conn;
    list_init(&conn->ready);
    arena_init(&conn->arena, server->options.arena_bytes_max);
    buf_init(&conn->pending, server->options.pending_bytes_max + HTTP_READ_BYTES);
    conn->phase_start_ms = conn->window_start_ms = uv_now(server->loop);
    list_add_tail(&server->conns, &conn->node);
    server->n_conns++;
    server->n_handles++;
    return conn;
}

void http_conn_start(struct http_conn *conn)
{
    uv_tcp_nodelay(&conn->tcp, 1);
    uv_tcp_keepalive(&conn->tcp, 1, KEEPALIVE_S);
    reading_set(conn, true);
    if (!conn->is_reading)
        http_conn_close(conn);
}

void http_conn_refuse(struct http_conn *conn)
{
    conn_refuse_request(conn, 503, "The server has too many connections.");
}

/* The kernel knows of a FIN or reset that we do not read up to. */
static bool peer_is_gone(const struct http_conn *conn)
{
    uv_os_fd_t fd;
    struct tcp_info info;
    socklen_t bytes = sizeof(info);
    if (uv_fileno((const uv_handle_t *)&conn->tcp, &fd) != 0 ||
        getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &bytes) != 0)
        return false;
    return info.tcpi_state == TCP_CLOSE_WAIT || info.tcpi_state == TCP_CLOSE;
}

/* True when the queue was not empty for a whole window and too little of it was taken. */
static bool reader_is_stalled(struct http_conn *conn, uint64_t now_ms)
{
    const struct http_server_options *o = &conn->server->options;
    size_t queue = http_conn_queue_bytes(conn);
    uint64_t taken = conn->queued_bytes - queue;
    bool window_is_over = now_ms - conn->window_start_ms >= o->write_timeout_ms;
    if (queue > 0 && !window_is_over)
        return false;
    bool is_slow = queue > 0 && taken - conn->taken_mark <
                                    o->write_bytes_per_s_min * o->write_timeout_ms / 1000 + 1;
    conn->window_start_ms = now_ms;
    conn->taken_mark = taken;
    return is_slow;
}

static void sweep_open(struct http_conn *conn, uint64_t age_ms)
{
    const struct http_server_options *o = &conn->server->options;
    switch (conn->phase_seen) {
    case HTTP_PHASE_IDLE:
        if (http_conn_queue_bytes(conn) == 0 &&
            age_ms >= (conn->has_served ? o->idle_timeout_ms : o->head_timeout_ms))
            http_conn_close(conn);
        break;
    case HTTP_PHASE_HEAD:
        if (age_ms >= o->head_timeout_ms)
            conn_refuse_request(conn, 408, "The request header fields did not arrive in time.");
        break;
    case HTTP_PHASE_BODY:
        if (age_ms >= o->body_timeout_ms +
                          http_parse_body_bytes(conn->parse) * 1000 / o->body_bytes_per_s_min)
            conn_refuse_request(conn, 408, "The request body did not arrive in time.");
        break;
    case HTTP_PHASE_DONE:
    case HTTP_PHASE_ERROR:
        break;
    }
}

void http_conn_sweep(struct http_conn *conn, uint64_t now_ms)
{
    if (conn->state == CONN_CLOSED)
        return;
    uint64_t age_ms = now_ms - conn->phase_start_ms;
    if (reader_is_stalled(conn, now_ms)) {
        metric_add(M_http_refused_total, "slow_reader", 1);
        http_conn_close(conn);
    } else if (conn->state == CONN_LINGER) {
        if (conn->shutdown_done && age_ms >= conn->server->options.linger_timeout_ms)
            http_conn_close(conn);
    } else if (has_request(conn)) {
        if (!conn->is_reading && peer_is_gone(conn))
            http_conn_close(conn);
    } else {
        sweep_open(conn, age_ms);
    }
}

void http_conn_drain(struct http_conn *conn)
{
    uv_os_fd_t fd;
    int unread = 0;
    if (conn->state != CONN_OPEN || has_request(conn) || pending_left(conn) > 0 ||
        conn->phase_seen != HTTP_PHASE_IDLE)
        return;
    /* A request that has reached this machine is still answered. */
    if (uv_fileno((const uv_handle_t *)&conn->tcp, &fd) == 0 && ioctl(fd, FIONREAD, &unread) == 0 &&
        unread > 0)
        return;
    conn_linger(conn);
}
