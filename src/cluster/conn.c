#include "cluster/conn.h"

#include "base/buf.h"
#include "cluster/endpoint.h"
#include "observe/log.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define READ_CHUNK_BYTES (64u << 10)

union conn_stream {
    uv_handle_t handle;
    uv_stream_t stream;
    uv_tcp_t tcp;
    uv_pipe_t pipe;
};

struct conn {
    union conn_stream s; /* first: a handle is cast back to its conn */
    const struct conn_handlers *handlers;
    void *user;
    struct buf in, out, writing; /* out gathers while `writing` is under way */
    struct arena scratch;
    struct wire_link link;
    bool open, closing, is_unix;
    uv_connect_t connect;
    uv_getaddrinfo_t lookup;
    bool lookup_pending;
    bool handle_closed;
    uv_write_t write;
    bool write_pending;
    uint16_t port;
};

struct conn_listener {
    union conn_stream s; /* first */
    bool is_unix;
    char path[CONN_ENDPOINT_BYTES];
    void (*on_accept)(void *user, struct conn *conn);
    void *user;
};

static struct conn *conn_new(uv_loop_t *loop, bool is_unix)
{
    struct conn *conn = calloc(1, sizeof(*conn));
    if (conn == NULL)
        return NULL;
    int rc = is_unix ? uv_pipe_init(loop, &conn->s.pipe, 0) : uv_tcp_init(loop, &conn->s.tcp);
    if (rc != 0) {
        free(conn);
        return NULL;
    }
    conn->is_unix = is_unix;
    buf_init(&conn->in, WIRE_HEADER_BYTES + WIRE_PAYLOAD_BYTES_MAX + READ_CHUNK_BYTES);
    buf_init(&conn->out, CONN_QUEUE_BYTES_MAX);
    buf_init(&conn->writing, CONN_QUEUE_BYTES_MAX);
    arena_init(&conn->scratch, 4ull * WIRE_PAYLOAD_BYTES_MAX);
    return conn;
}

/* The memory goes when both the handle and a name look-up under way have ended. */
static void conn_free_if_unused(struct conn *conn)
{
    if (!conn->handle_closed || conn->lookup_pending)
        return;
    buf_deinit(&conn->in);
    buf_deinit(&conn->out);
    buf_deinit(&conn->writing);
    arena_deinit(&conn->scratch);
    free(conn);
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct conn *conn = (struct conn *)handle;
    conn->handle_closed = true;
    conn_free_if_unused(conn);
}

void conn_close(struct conn *conn)
{
    if (conn == NULL || conn->closing)
        return;
    conn->closing = true;
    if (conn->lookup_pending)
        uv_cancel((uv_req_t *)&conn->lookup);
    uv_close(&conn->s.handle, on_handle_closed);
}

static void conn_lost(struct conn *conn, enum status why)
{
    if (conn->closing)
        return;
    if (conn->handlers != NULL)
        conn->handlers->on_closed(conn->user, conn, why);
    conn_close(conn);
}

/* Hands over every whole frame at the front of `in`. */
static void conn_deliver(struct conn *conn)
{
    size_t offset = 0, frame_bytes = 0;
    enum status st;
    while (!conn->closing && (st = wire_frame_size(conn->in.data + offset, conn->in.len - offset,
                                                   &frame_bytes)) == ST_OK) {
        struct wire_msg msg;
        uint64_t sequence = 0;
        arena_reset(&conn->scratch);
        st = wire_decode(conn->in.data + offset, frame_bytes, &conn->scratch, &msg, &sequence);
        offset += frame_bytes;
        if (st != ST_OK)
            break;
        if (wire_link_accept(&conn->link, sequence))
            conn->handlers->on_message(conn->user, conn, &msg);
    }
    if (conn->closing)
        return;
    buf_consume(&conn->in, offset);
    if (st != ST_OK && st != ST_AGAIN)
        conn_lost(conn, st);
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *out)
{
    struct conn *conn = (struct conn *)handle;
    (void)suggested;
    if (buf_reserve(&conn->in, READ_CHUNK_BYTES) != ST_OK) {
        *out = uv_buf_init(NULL, 0);
        return;
    }
    *out =
        uv_buf_init((char *)conn->in.data + conn->in.len, (unsigned)(conn->in.cap - conn->in.len));
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *data)
{
    struct conn *conn = (struct conn *)stream;
    (void)data;
    if (n < 0) {
        conn_lost(conn, n == UV_ENOBUFS ? ST_TOO_LARGE : ST_PEER_LOST);
        return;
    }
    conn->in.len += (size_t)n;
    conn_deliver(conn);
}

static bool conn_peer_cred(struct conn *conn, struct ucred *out)
{
    socklen_t bytes = sizeof(*out);
    uv_os_fd_t fd;
    return conn->is_unix && uv_fileno(&conn->s.handle, &fd) == 0 &&
           getsockopt(fd, SOL_SOCKET, SO_PEERCRED, out, &bytes) == 0;
}

/* Same user or root, on a UNIX socket. */
static bool conn_peer_is_trusted(struct conn *conn)
{
    struct ucred cred;
    if (!conn->is_unix)
        return true;
    return conn_peer_cred(conn, &cred) && (cred.uid == geteuid() || cred.uid == 0);
}

uint32_t conn_peer_pid(struct conn *conn)
{
    struct ucred cred;
    return conn_peer_cred(conn, &cred) && cred.pid > 1 ? (uint32_t)cred.pid : 0;
}

static enum status conn_start(struct conn *conn)
{
    if (!conn_peer_is_trusted(conn)) {
        log_warn("control connection refused: peer runs as another user");
        return ST_INVALID;
    }
    if (!conn->is_unix)
        uv_tcp_nodelay(&conn->s.tcp, 1);
    conn->open = true;
    return uv_read_start(&conn->s.stream, on_alloc, on_read) == 0 ? ST_OK : ST_IO;
}

static void on_connected(uv_connect_t *req, int rc)
{
    struct conn *conn = req->data;
    if (conn->closing)
        return;
    enum status st = rc == 0 ? conn_start(conn) : ST_UNAVAILABLE;
    if (st != ST_OK) {
        conn_lost(conn, st);
        return;
    }
    conn->handlers->on_open(conn->user, conn);
    if (!conn->closing)
        conn_flush(conn);
}

static void on_looked_up(uv_getaddrinfo_t *req, int rc, struct addrinfo *list)
{
    struct conn *conn = req->data;
    conn->lookup_pending = false;
    if (conn->closing) {
        uv_freeaddrinfo(list);
        conn_free_if_unused(conn);
        return;
    }
    if (rc == 0)
        rc = uv_tcp_connect(&conn->connect, &conn->s.tcp, list->ai_addr, on_connected);
    uv_freeaddrinfo(list);
    if (rc != 0)
        conn_lost(conn, ST_UNAVAILABLE);
}

enum status conn_dial(uv_loop_t *loop, const char *endpoint, const struct conn_handlers *handlers,
                      void *user, struct conn **out_conn)
{
    struct endpoint to;
    if (endpoint_parse(endpoint, &to) != ST_OK)
        return ST_INVALID;
    struct conn *conn = conn_new(loop, to.is_unix);
    if (conn == NULL)
        return ST_NO_MEMORY;
    conn->handlers = handlers;
    conn->user = user;
    conn->connect.data = conn;
    conn->lookup.data = conn;
    *out_conn = conn;
    if (to.is_unix) { /* reports also its errors through the callback */
        uv_pipe_connect(&conn->connect, &conn->s.pipe, to.host, on_connected);
        return ST_OK;
    }
    char service[8];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    snprintf(service, sizeof(service), "%u", to.port);
    conn->lookup_pending =
        uv_getaddrinfo(loop, &conn->lookup, on_looked_up, to.host, service, &hints) == 0;
    if (!conn->lookup_pending) {
        conn_close(conn);
        return ST_NO_MEMORY;
    }
    return ST_OK;
}

enum status conn_send(struct conn *conn, const struct wire_msg *msg)
{
    return wire_encode(msg, &conn->link, &conn->out);
}

static void on_written(uv_write_t *req, int rc)
{
    struct conn *conn = req->data;
    conn->write_pending = false;
    conn->writing.len = 0;
    if (conn->closing)
        return;
    if (rc != 0)
        conn_lost(conn, ST_PEER_LOST);
    else
        conn_flush(conn);
}

void conn_flush(struct conn *conn)
{
    if (conn->closing || !conn->open || conn->write_pending || conn->out.len == 0)
        return;
    uv_buf_t data = uv_buf_init((char *)conn->out.data, (unsigned)conn->out.len);
    int n = uv_try_write(&conn->s.stream, &data, 1);
    if (n > 0)
        buf_consume(&conn->out, (size_t)n);
    if (conn->out.len == 0)
        return;
    struct buf swap = conn->writing;
    conn->writing = conn->out;
    conn->out = swap;
    data = uv_buf_init((char *)conn->writing.data, (unsigned)conn->writing.len);
    conn->write.data = conn;
    /* A failure is seen by the reading side as well, which reports it outside of this call. */
    conn->write_pending = uv_write(&conn->write, &conn->s.stream, &data, 1, on_written) == 0;
    if (!conn->write_pending)
        conn->writing.len = 0;
}

void conn_adopt(struct conn *conn, const struct conn_handlers *handlers, void *user)
{
    conn->handlers = handlers;
    conn->user = user;
}

static void on_connection(uv_stream_t *stream, int rc)
{
    struct conn_listener *listener = (struct conn_listener *)stream;
    if (rc != 0)
        return;
    struct conn *conn = conn_new(stream->loop, listener->is_unix);
    if (conn == NULL)
        return;
    if (uv_accept(stream, &conn->s.stream) != 0 || conn_start(conn) != ST_OK) {
        conn_close(conn);
        return;
    }
    listener->on_accept(listener->user, conn);
    if (conn->handlers == NULL)
        conn_close(conn);
}

static void on_listener_closed(uv_handle_t *handle)
{
    free(handle);
}

/* The socket file is made under a mask, so that it is never open to others. */
static int bind_unix(struct conn_listener *listener, const char *path)
{
    struct stat info;
    if (lstat(path, &info) == 0 && S_ISSOCK(info.st_mode))
        unlink(path);
    mode_t mask = umask(0177);
    int rc = uv_pipe_bind(&listener->s.pipe, path);
    umask(mask);
    if (rc == 0)
        snprintf(listener->path, sizeof(listener->path), "%s", path);
    return rc;
}

static int bind_tcp(struct conn_listener *listener, const struct endpoint *at)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *list = NULL;
    char service[8];
    snprintf(service, sizeof(service), "%u", at->port);
    if (getaddrinfo(at->host, service, &hints, &list) != 0)
        return UV_EADDRNOTAVAIL;
    int rc = uv_tcp_bind(&listener->s.tcp, list->ai_addr, 0);
    freeaddrinfo(list);
    return rc;
}

enum status conn_listen(uv_loop_t *loop, const char *endpoint,
                        void (*on_accept)(void *user, struct conn *conn), void *user,
                        struct conn_listener **out_listener)
{
    struct endpoint at;
    if (endpoint_parse(endpoint, &at) != ST_OK)
        return ST_INVALID;
    struct conn_listener *listener = calloc(1, sizeof(*listener));
    if (listener == NULL)
        return ST_NO_MEMORY;
    listener->is_unix = at.is_unix;
    listener->on_accept = on_accept;
    listener->user = user;
    int rc =
        at.is_unix ? uv_pipe_init(loop, &listener->s.pipe, 0) : uv_tcp_init(loop, &listener->s.tcp);
    if (rc != 0) {
        free(listener);
        return ST_NO_MEMORY;
    }
    rc = at.is_unix ? bind_unix(listener, at.host) : bind_tcp(listener, &at);
    if (rc == 0)
        rc = uv_listen(&listener->s.stream, 64, on_connection);
    if (rc != 0) {
        uv_close(&listener->s.handle, on_listener_closed);
        return rc == UV_EADDRINUSE ? ST_EXISTS : ST_IO;
    }
    *out_listener = listener;
    return ST_OK;
}

void conn_listener_close(struct conn_listener *listener)
{
    if (listener == NULL)
        return;
    if (listener->path[0] != '\0')
        unlink(listener->path);
    uv_close(&listener->s.handle, on_listener_closed);
}

uint16_t conn_listener_port(const struct conn_listener *listener)
{
    struct sockaddr_storage addr;
    int bytes = sizeof(addr);
    if (listener->is_unix ||
        uv_tcp_getsockname(&listener->s.tcp, (struct sockaddr *)&addr, &bytes) != 0)
        return 0;
    return ntohs(addr.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&addr)->sin6_port
                                            : ((struct sockaddr_in *)&addr)->sin_port);
}
