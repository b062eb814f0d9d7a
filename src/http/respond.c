/* Output of a connection: status line, fields, bodies, and the write queue. Output order is queue
 * order. What uv_try_write does not take is copied once into a write_op. */
#include "base/error_body.h"
#include "http/server_int.h"
#include "observe/metrics.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { BUFS_MAX = 4, LENGTH_UNKNOWN = -1 };

struct write_op {
    uv_write_t req;
    struct http_conn *conn;
    char data[];
};

size_t http_conn_queue_bytes(const struct http_conn *conn)
{
    return uv_stream_get_write_queue_size((const uv_stream_t *)&conn->tcp);
}

static void conn_break(struct http_conn *conn)
{
    conn->is_broken = true;
    http_conn_later(conn);
}

static void on_write(uv_write_t *req, int status)
{
    struct write_op *op = (struct write_op *)req; /* first member */
    struct http_conn *conn = op->conn;
    free(op);
    if (conn->state == CONN_CLOSED)
        return;
    if (status < 0)
        conn_break(conn);
    else if (conn->response == RESPONSE_NONE && conn->pending.len > conn->pending_used)
        http_conn_later(conn); /* parsing may have waited for the queue to empty */
}

static bool write_queue(struct http_conn *conn, const uv_buf_t *bufs, unsigned n_bufs, size_t skip,
                        size_t bytes)
{
    struct write_op *op = malloc(sizeof(*op) + bytes);
    if (op == NULL)
        return false;
    op->conn = conn;
    size_t at = 0;
    for (unsigned i = 0; i < n_bufs; i++) {
        size_t cut = skip < bufs[i].len ? skip : bufs[i].len;
        if (bufs[i].len > cut)
            memcpy(op->data + at, bufs[i].base + cut, bufs[i].len - cut);
        at += bufs[i].len - cut;
        skip -= cut;
    }
    assert(at == bytes);
    uv_buf_t rest = {.base = op->data, .len = bytes};
    if (uv_write(&op->req, (uv_stream_t *)&conn->tcp, &rest, 1, on_write) != 0) {
        free(op);
        return false;
    }
    return true;
}

bool http_conn_write(struct http_conn *conn, const uv_buf_t *bufs, unsigned n_bufs)
{
    if (conn->is_broken || conn->state == CONN_CLOSED)
        return false;
    size_t bytes = 0, taken = 0;
    for (unsigned i = 0; i < n_bufs; i++)
        bytes += bufs[i].len;
    if (http_conn_queue_bytes(conn) == 0) {
        int n = uv_try_write((uv_stream_t *)&conn->tcp, bufs, n_bufs);
        if (n < 0 && n != UV_EAGAIN) {
            conn_break(conn);
            return false;
        }
        taken = n > 0 ? (size_t)n : 0;
    }
    conn->queued_bytes += bytes;
    if (taken == bytes || write_queue(conn, bufs, n_bufs, taken, bytes - taken))
        return true;
    conn_break(conn);
    return false;
}

static const char *code_text(int code)
{
    static const struct {
        int code;
        const char *text;
    } texts[] = {
        {200, "OK"},
        {201, "Created"},
        {202, "Accepted"},
        {204, "No Content"},
        {304, "Not Modified"},
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {408, "Request Timeout"},
        {409, "Conflict"},
        {413, "Content Too Large"},
        {414, "URI Too Long"},
        {415, "Unsupported Media Type"},
        {417, "Expectation Failed"},
        {422, "Unprocessable Content"},
        {429, "Too Many Requests"},
        {431, "Request Header Fields Too Large"},
        {499, "Client Closed Request"},
        {500, "Internal Server Error"},
        {501, "Not Implemented"},
        {502, "Bad Gateway"},
        {503, "Service Unavailable"},
        {504, "Gateway Timeout"},
        {505, "HTTP Version Not Supported"},
    };
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
        if (texts[i].code == code)
            return texts[i].text;
    return "Status";
}

/* A field that would end its line early could forge a response. */
static bool header_is_clean(const struct http_header *header)
{
    for (const char *c = header->name; *c != '\0'; c++)
        if ((unsigned char)*c <= ' ' || *c == ':' || *c == 0x7f)
            return false;
    for (const char *c = header->value; *c != '\0'; c++)
        if (((unsigned char)*c < ' ' && *c != '\t') || *c == 0x7f)
            return false;
    return header->name[0] != '\0';
}

/* Builds the head in server->scratch. `length` of the body, or LENGTH_UNKNOWN. */
static enum status head_build(struct http_conn *conn, int code, const char *content_type,
                              int64_t length, const struct http_header *extra, size_t n_extra)
{
    struct buf *out = &conn->server->scratch;
    bool is_http10 = http_parse_message(conn->parse)->version_minor == 0;
    bool is_events =
        content_type != NULL && strncasecmp(content_type, "text/event-stream", 17) == 0;
    out->len = 0;
    enum status st =
        buf_printf(out, "HTTP/1.1 %d %s\r\nx-request-id: %s\r\n", code, code_text(code), conn->id);
    if (st == ST_OK && content_type != NULL)
        st = buf_printf(out, "Content-Type: %s\r\n", content_type);
    if (st == ST_OK && is_events)
        st = buf_append_str(out, "Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n");
    if (st == ST_OK && length != LENGTH_UNKNOWN && code != 204 && code != 304)
        st = buf_printf(out, "Content-Length: %" PRId64 "\r\n", length);
    if (st == ST_OK && conn->is_chunked)
        st = buf_append_str(out, "Transfer-Encoding: chunked\r\n");
    if (st == ST_OK && !conn->keep_alive)
        st = buf_append_str(out, "Connection: close\r\n");
    else if (st == ST_OK && is_http10)
        st = buf_append_str(out, "Connection: keep-alive\r\n");
    for (size_t i = 0; i < n_extra && st == ST_OK; i++)
        if (header_is_clean(&extra[i]))
            st = buf_printf(out, "%s: %s\r\n", extra[i].name, extra[i].value);
    if (st == ST_OK)
        st = buf_append_str(out, "\r\n");
    return st;
}

static void code_count(int code)
{
    char label[16];
    snprintf(label, sizeof(label), "%d", code);
    metric_add(M_http_responses_total, label, 1);
}

/* Head and body in one write; counts the response. */
static bool response_write(struct http_conn *conn, int code, const char *content_type,
                           const void *body, size_t body_bytes, const struct http_header *extra,
                           size_t n_extra)
{
    code_count(code);
    if (head_build(conn, code, content_type, (int64_t)body_bytes, extra, n_extra) != ST_OK) {
        conn_break(conn);
        return false;
    }
    uv_buf_t bufs[2] = {
        {.base = (char *)conn->server->scratch.data, .len = conn->server->scratch.len},
        {.base = (char *)(uintptr_t)body, .len = body_bytes},
    };
    bool has_body = body_bytes > 0 && !conn->is_head && code != 204 && code != 304;
    return http_conn_write(conn, bufs, has_body ? 2 : 1);
}

static void response_start(struct http_conn *conn)
{
    const struct http_message *message = http_parse_message(conn->parse);
    conn->keep_alive = message->keep_alive && !conn->server->is_draining;
    conn->is_chunked = false;
}

void http_respond(struct http_request *request, int code, const char *content_type,
                  const void *body, size_t body_bytes, const struct http_header *extra,
                  size_t n_extra)
{
    struct http_conn *conn = request->conn;
    assert(conn->response == RESPONSE_WAITING);
    response_start(conn);
    response_write(conn, code, content_type, body, body_bytes, extra, n_extra);
    http_conn_request_end(conn);
}

void http_respond_error(struct http_request *request, int code, const char *label,
                        const char *message, const struct http_header *extra, size_t n_extra)
{
    struct buf body;
    buf_init(&body, HTTP_READ_BYTES);
    error_body_append(&body, code, label, NULL, message); /* failed: the code says enough */
    http_respond(request, code, "application/json", body.data, body.len, extra, n_extra);
    buf_deinit(&body);
}

void http_conn_write_error(struct http_conn *conn, int code, const char *text)
{
    static const struct http_header retry = {"Retry-After", "1"};
    struct buf body;
    conn->keep_alive = conn->is_chunked = conn->is_head = false;
    buf_init(&body, HTTP_READ_BYTES);
    error_body_append(&body, code, NULL, NULL, text);
    metric_add(M_http_refused_total, error_body_code(code), 1);
    response_write(conn, code, "application/json", body.data, body.len, &retry, code == 503);
    buf_deinit(&body);
}

enum status http_respond_begin(struct http_request *request, int code, const char *content_type,
                               const struct http_header *extra, size_t n_extra)
{
    struct http_conn *conn = request->conn;
    assert(conn->response == RESPONSE_WAITING);
    response_start(conn);
    if (http_parse_message(conn->parse)->version_minor == 0)
        conn->keep_alive = false; /* the close marks the end */
    else
        conn->is_chunked = true;
    code_count(code);
    enum status st = head_build(conn, code, content_type, LENGTH_UNKNOWN, extra, n_extra);
    conn->response = RESPONSE_BODY;
    if (st != ST_OK) {
        conn_break(conn);
        return ST_PEER_LOST;
    }
    uv_buf_t head = {.base = (char *)conn->server->scratch.data, .len = conn->server->scratch.len};
    return http_conn_write(conn, &head, 1) ? ST_OK : ST_PEER_LOST;
}

enum status http_respond_write(struct http_request *request, const void *data, size_t bytes)
{
    struct http_conn *conn = request->conn;
    assert(conn->response == RESPONSE_BODY);
    if (conn->is_broken)
        return ST_PEER_LOST;
    if (bytes == 0 || conn->is_head)
        return ST_OK; /* an empty chunk would end the body */
    size_t max = conn->server->options.write_queue_bytes_max, queue = http_conn_queue_bytes(conn);
    if (queue > max || bytes > max - queue)
        return ST_FULL;
    char size_line[24];
    int n = snprintf(size_line, sizeof(size_line), "%zx\r\n", bytes);
    static char line_end[] = "\r\n";
    uv_buf_t bufs[3] = {
        {.base = size_line, .len = (size_t)n},
        {.base = (char *)(uintptr_t)data, .len = bytes},
        {.base = line_end, .len = 2},
    };
    bool ok =
        conn->is_chunked ? http_conn_write(conn, bufs, 3) : http_conn_write(conn, bufs + 1, 1);
    return ok ? ST_OK : ST_PEER_LOST;
}

void http_respond_end(struct http_request *request)
{
    struct http_conn *conn = request->conn;
    assert(conn->response == RESPONSE_BODY);
    static char last_chunk[] = "0\r\n\r\n";
    uv_buf_t last = {.base = last_chunk, .len = sizeof(last_chunk) - 1};
    if (conn->is_chunked && !conn->is_head)
        http_conn_write(conn, &last, 1);
    http_conn_request_end(conn);
}

void http_respond_abort(struct http_request *request)
{
    struct http_conn *conn = request->conn;
    assert(conn->response != RESPONSE_NONE);
    conn->response = RESPONSE_NONE;
    http_conn_close(conn);
}

size_t http_write_queue_bytes(const struct http_request *request)
{
    return http_conn_queue_bytes(request->conn);
}

const char *http_request_header(const struct http_request *request, const char *name)
{
    return http_message_header(http_parse_message(request->conn->parse), name);
}
