/* A connection that carries wire.h frames over a UNIX or TCP stream, and its listener. Everything
 * runs on the loop's thread. Outgoing frames gather in a buffer until conn_flush, so a step's many
 * messages leave in one write. What a peer may make us hold is bounded both ways: one frame coming
 * in, CONN_QUEUE_BYTES_MAX going out; a peer that passes either loses the connection.
 *
 * UNIX sockets are made 0600, and both ends check that the other runs as the same user or root. */
#ifndef CLUSTER_CONN_H
#define CLUSTER_CONN_H

#include "base/status.h"
#include "wire/wire.h"

#include <uv.h>

#define CONN_QUEUE_BYTES_MAX (256u << 20)
#define CONN_ENDPOINT_BYTES  256u

struct conn;
struct conn_listener;

struct conn_handlers {
    /* A dialled connection stands (not called for accepted ones). */
    void (*on_open)(void *user, struct conn *conn);
    /* A frame arrived; *msg is valid until this returns. */
    void (*on_message)(void *user, struct conn *conn, const struct wire_msg *msg);
    /* The connection is over, or never came to be; conn is gone when this returns. Not called after
     * conn_close. */
    void (*on_closed)(void *user, struct conn *conn, enum status why);
};

/* endpoint: "unix:/path", "host:port" or "[address]:port". `handlers` is borrowed.
 * ST_INVALID: not an endpoint. Success of the dial itself is reported by on_open or on_closed. */
enum status conn_dial(uv_loop_t *loop, const char *endpoint, const struct conn_handlers *handlers,
                      void *user, struct conn **out_conn);
/* Appends a frame; it leaves with the next conn_flush. ST_FULL: the peer does not read; the
 * connection is about to be reported closed. */
enum status conn_send(struct conn *conn, const struct wire_msg *msg);
void conn_flush(struct conn *conn);
/* Ends it without a callback. NULL is fine. */
void conn_close(struct conn *conn);
/* Process at the other end of a UNIX socket; 0: another host, or not known. */
uint32_t conn_peer_pid(struct conn *conn);
/* Accepts on endpoint; on_accept gets each new connection, whose handlers and user it must set with
 * conn_adopt before it returns (else the connection is closed).
 * ST_EXISTS: address in use. ST_INVALID. ST_IO. A stale UNIX socket file is replaced. */
enum status conn_listen(uv_loop_t *loop, const char *endpoint,
                        void (*on_accept)(void *user, struct conn *conn), void *user,
                        struct conn_listener **out_listener);
void conn_adopt(struct conn *conn, const struct conn_handlers *handlers, void *user);
void conn_listener_close(struct conn_listener *listener);
/* The TCP port in use, 0 for UNIX. */
uint16_t conn_listener_port(const struct conn_listener *listener);

#endif
