/* Inside of http: server.c (listener, sweep, end), conn.c (one connection), respond.c (output). */
#ifndef HTTP_SERVER_INT_H
#define HTTP_SERVER_INT_H

#include "base/buf.h"
#include "base/list.h"
#include "http/server.h"

enum { HTTP_ID_BYTES_MAX = 128, HTTP_READ_BYTES = 65536 };

struct http_server {
    uv_loop_t *loop;
    struct http_server_options options;
    const struct http_handlers *handlers;
    void *user;
    uv_tcp_t listener;
    uv_timer_t sweep; /* runs while there are connections */
    uv_idle_t kick;   /* runs while `ready` is not empty */
    uint64_t sweep_ms;
    struct list conns;
    struct list ready;  /* connections with work that must not run inside a caller's call */
    uint32_t n_conns;   /* in `conns`: open, or closing */
    uint32_t n_handles; /* the same for all uv handles, connections included */
    size_t input_bytes; /* over all connections */
    uint64_t id_seed, id_counter;
    bool has_listener, is_listening, accept_stalled, is_draining, drained_told, is_closing;
    void (*on_closed)(void *user);
    void *closed_user;
    struct buf scratch;             /* response head being written */
    char read_buf[HTTP_READ_BYTES]; /* shared: libuv hands it straight to on_read */
};

/* OPEN -> LINGER -> CLOSED, or OPEN -> CLOSED */
enum http_conn_state {
    CONN_OPEN,   /* requests are read and answered */
    CONN_LINGER, /* the last response is on its way; input is thrown away */
    CONN_CLOSED, /* uv_close was called */
};

enum http_response_state { RESPONSE_NONE, RESPONSE_WAITING, RESPONSE_BODY };

struct http_conn {
    uv_tcp_t tcp;
    uv_shutdown_t shutdown;
    struct http_server *server;
    struct list node;  /* in server->conns */
    struct list ready; /* in server->ready */
    struct http_parse *parse;
    struct http_request request;
    struct arena arena;
    struct buf pending;  /* input behind the current request */
    size_t pending_used; /* parsed part of it */
    enum http_conn_state state;
    enum http_response_state response; /* NONE: no request is with the caller */
    bool is_reading, is_running;       /* is_running: conn_run is on the stack */
    bool is_broken;                    /* a write failed: close from the loop */
    bool saw_eof, shutdown_done;
    bool keep_alive; /* of the current response */
    bool is_chunked; /* of the current response */
    bool is_head;    /* the current request is HEAD */
    bool has_served; /* at least one request was complete */
    bool continue_sent;
    enum http_phase phase_seen;
    uint64_t phase_start_ms;  /* when phase_seen began; in LINGER: when it began */
    size_t input_bytes;       /* this connection's part of server->input_bytes */
    uint64_t queued_bytes;    /* all output so far */
    uint64_t taken_mark;      /* output taken by the kernel when the window began */
    uint64_t window_start_ms; /* of the write rate check */
    char id[HTTP_ID_BYTES_MAX + 1];
};

/* conn.c */
struct http_conn *http_conn_create(struct http_server *server);
void http_conn_start(struct http_conn *conn);  /* accepted: begin to read */
void http_conn_refuse(struct http_conn *conn); /* accepted, but too many: 503 */
void http_conn_run(struct http_conn *conn);    /* work put off to the loop */
void http_conn_sweep(struct http_conn *conn, uint64_t now_ms);
void http_conn_drain(struct http_conn *conn);
void http_conn_close(struct http_conn *conn); /* now; tells the caller if a request was open */
void http_conn_request_end(struct http_conn *conn); /* the response was queued to its last byte */
void http_conn_later(struct http_conn *conn);       /* http_conn_run from the loop */

/* respond.c */
/* Writes at once what the kernel takes and queues the rest. False: the connection is broken. */
bool http_conn_write(struct http_conn *conn, const uv_buf_t *bufs, unsigned n_bufs);
/* Answers a protocol error; the connection ends behind it. */
void http_conn_write_error(struct http_conn *conn, int code, const char *text);
size_t http_conn_queue_bytes(const struct http_conn *conn);

/* server.c */
void http_server_kick(struct http_server *server);        /* run `ready` from the loop, soon */
void http_server_handle_gone(struct http_server *server); /* a uv handle of it was closed */
void http_server_conn_gone(struct http_server *server);   /* a connection left `conns` */

#endif
