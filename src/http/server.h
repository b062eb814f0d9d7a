/* HTTP/1.1 server on a libuv loop, for JSON answers and event streams (SSE).
 *
 *   loop thread: uv read -> http_parse -> on_request -> http_respond* -> uv write
 *
 * Everything here runs on the loop's thread. A connection has at most one request at a time;
 * pipelined ones wait unread or unparsed and are answered in order. Reading goes on while a request
 * is being answered, so that a client that goes away is noticed at once.
 *
 * Life of a request: it lives from on_request until http_respond, http_respond_end or
 * http_respond_abort is called for it, or until on_request_closed returns. Exactly one of these
 * ends it. No callback runs inside an http_respond* call.
 *
 * Protocol errors never reach the caller: the server answers 400, 408, 413, 414, 417, 431, 501, 503
 * or 505 with an OpenAI error body and closes. */
#ifndef HTTP_SERVER_H
#define HTTP_SERVER_H

#include "base/arena.h"
#include "base/status.h"
#include "http/http_parse.h"

#include <stdint.h>
#include <uv.h>

struct http_conn;
struct http_server;

struct http_server_options {
    struct http_limits limits;
    uint32_t connections_max;     /* more are answered 503 and closed */
    uint32_t backlog;             /* of listen(2) */
    size_t pending_bytes_max;     /* unparsed input kept while a request is being answered */
    size_t arena_bytes_max;       /* request arena */
    size_t input_bytes_max;       /* heads and bodies of all connections together; beyond: 503 */
    size_t write_queue_bytes_max; /* a connection's unsent output; beyond: ST_FULL */
    uint64_t head_timeout_ms;     /* first byte to end of head; also accept to first byte */
    uint64_t body_timeout_ms;     /* body: this, plus received bytes / body_bytes_per_s_min */
    uint64_t body_bytes_per_s_min;
    uint64_t idle_timeout_ms;  /* keep-alive without a request */
    uint64_t write_timeout_ms; /* with output queued: time to take write_bytes_per_s_min of it */
    uint64_t write_bytes_per_s_min;
    uint64_t linger_timeout_ms; /* after the last response: wait for the client's close */
};

/* Values fit for a public service; the docs of the configuration name the same ones. */
void http_server_options_default(struct http_server_options *out_options);

struct http_request {
    const char *method;    /* "GET", ... */
    const char *path;      /* raw, without query; not percent-decoded */
    const char *path_tail; /* what a route's trailing "*" matched (routes.h), else "" */
    const char *query;     /* "" when absent */
    const char *id;        /* the client's x-request-id if it is sane, else our own */
    const char *body;      /* [body_bytes], NUL behind it */
    size_t body_bytes;
    struct arena *arena;  /* lives as long as the request */
    uint64_t received_ns; /* time_monotonic_ns when the request was complete */
    void *user;           /* the caller's */
    struct http_conn *conn;
};

struct http_handlers {
    /* Headers and body are complete. Answer now or later. */
    void (*on_request)(void *user, struct http_request *request);
    /* The client (or http_server_close) ended the connection before the response had ended; called
     * exactly once for such a request. The request is gone when this returns. */
    void (*on_request_closed)(void *user, struct http_request *request);
    /* Optional. After http_server_drain: no connection is left. Called once. */
    void (*on_drained)(void *user);
};

struct http_header {
    const char *name, *value; /* a value with control bytes is left out */
};

/* `options` is copied, `handlers` borrowed. SIGPIPE is ignored in the whole process from here on.
 * ST_NO_MEMORY, ST_IO. */
enum status http_server_create(uv_loop_t *loop, const struct http_server_options *options,
                               const struct http_handlers *handlers, void *user,
                               struct http_server **out_server);
/* Binds and listens. host: numeric address or a name; port 0: any free one.
 * ST_EXISTS: address in use. ST_INVALID: host is not known. ST_IO; all logged. Blocks for names. */
enum status http_server_listen(struct http_server *server, const char *host, uint16_t port);
/* Takes over a bound stream socket (listening or not). The descriptor is closed by the server. */
enum status http_server_open(struct http_server *server, int fd);
uint16_t http_server_port(const struct http_server *server); /* 0: not listening */
uint32_t http_server_connection_count(const struct http_server *server);
/* Closes the listener; connections live on. */
void http_server_stop_accepting(struct http_server *server);
/* Stops accepting, closes idle connections, lets requests in progress (also half-received ones)
 * end, closing each connection behind its response. */
void http_server_drain(struct http_server *server);
/* Ends everything now and frees the server; on_closed (may be NULL) runs from the loop after it. */
void http_server_close(struct http_server *server, void (*on_closed)(void *user), void *user);

/* Value of a header field (first of that name), or NULL. */
const char *http_request_header(const struct http_request *request, const char *name);
/* Bytes accepted for this connection and not yet taken by the kernel. */
size_t http_write_queue_bytes(const struct http_request *request);

/* Complete response; ends the request. content_type NULL: no body type. HEAD sends headers only. */
void http_respond(struct http_request *request, int code, const char *content_type,
                  const void *body, size_t body_bytes, const struct http_header *extra,
                  size_t n_extra);
/* Error body (base/error_body.h); ends the request. label NULL: what the table has for `code`. */
void http_respond_error(struct http_request *request, int code, const char *label,
                        const char *message, const struct http_header *extra, size_t n_extra);
/* Starts a response of unknown length: chunked, or ended by close on HTTP/1.0. "text/event-stream"
 * also gets the fields that keep caches and proxies from holding events back.
 * ST_PEER_LOST: on_request_closed is on its way (unless the request is ended before it). */
enum status http_respond_begin(struct http_request *request, int code, const char *content_type,
                               const struct http_header *extra, size_t n_extra);
/* One piece, one write. ST_FULL: the client reads too slowly, nothing was taken; the caller may
 * retry later or abort. ST_PEER_LOST as above. Empty data is no piece and writes nothing. */
enum status http_respond_write(struct http_request *request, const void *data, size_t bytes);
void http_respond_end(struct http_request *request);
/* Breaks the connection off, so that the client cannot take what it has for a whole answer. */
void http_respond_abort(struct http_request *request);

#endif
