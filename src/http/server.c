/* Listener, connection table, sweep timer, end. One connection list; the sweep visits each entry at
 * a quarter of the shortest timeout, so no timer per connection is needed. Connections leave the
 * list in their close callback only, which never runs inside a walk over it. */
#include "base/hash.h"
#include "base/time.h"
#include "http/server_int.h"
#include "observe/log.h"
#include "observe/metrics.h"

#include <errno.h>
#include <netdb.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SWEEP_MS_MIN = 5, SWEEP_MS_MAX = 250, SCRATCH_BYTES_MAX = 65536, OVERFLOW_CONNS = 16 };

void http_server_options_default(struct http_server_options *out)
{
    *out = (struct http_server_options){
        .limits =
            {
                .uri_bytes_max = 8192,
                .head_bytes_max = 65536,
                .n_fields_max = 100,
                .n_chunks_max = 65536,
                .body_bytes_max = 32u << 20,
            },
        .connections_max = 4096,
        .backlog = 1024,
        .pending_bytes_max = 65536,
        .arena_bytes_max = 64u << 20,
        .input_bytes_max = 1u << 30,
        .write_queue_bytes_max = 1u << 20,
        .head_timeout_ms = 10000,
        .body_timeout_ms = 10000,
        .body_bytes_per_s_min = 16384,
        .idle_timeout_ms = 75000,
        .write_timeout_ms = 30000,
        .write_bytes_per_s_min = 256,
        .linger_timeout_ms = 2000,
    };
}

static uint64_t u64_min(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t sweep_interval_ms(const struct http_server_options *o)
{
    uint64_t ms = u64_min(u64_min(o->head_timeout_ms, o->body_timeout_ms),
                          u64_min(o->idle_timeout_ms, o->write_timeout_ms));
    ms = u64_min(ms, o->linger_timeout_ms) / 4;
    if (ms < SWEEP_MS_MIN)
        return SWEEP_MS_MIN;
    return u64_min(ms, SWEEP_MS_MAX);
}

enum status http_server_create(uv_loop_t *loop, const struct http_server_options *options,
                               const struct http_handlers *handlers, void *user,
                               struct http_server **out_server)
{
    struct http_server *server = calloc(1, sizeof(*server));
    if (server == NULL)
        return ST_NO_MEMORY;
    server->loop = loop;
    server->options = *options;
    if (server->options.body_bytes_per_s_min == 0)
        server->options.body_bytes_per_s_min = 1;
    server->handlers = handlers;
    server->user = user;
    server->sweep_ms = sweep_interval_ms(options);
    if (getrandom(&server->id_seed, sizeof(server->id_seed), GRND_NONBLOCK) !=
        (ssize_t)sizeof(server->id_seed))
        server->id_seed = hash_combine(time_monotonic_ns(), (uint64_t)getpid());
    list_init(&server->conns);
    list_init(&server->ready);
    buf_init(&server->scratch, SCRATCH_BYTES_MAX);
    signal(SIGPIPE, SIG_IGN);
    uv_timer_init(loop, &server->sweep); /* these two cannot fail */
    uv_idle_init(loop, &server->kick);
    server->sweep.data = server->kick.data = server;
    server->n_handles = 2;
    *out_server = server;
    return ST_OK;
}

/* ---- the loop's turns ---- */

static void on_kick(uv_idle_t *idle)
{
    struct http_server *server = idle->data;
    struct list batch; /* what is added meanwhile waits for the next turn */
    list_init(&batch);
    while (!list_is_empty(&server->ready)) {
        struct list *node = server->ready.next;
        list_del(node);
        list_add_tail(&batch, node);
    }
    while (!list_is_empty(&batch)) {
        struct http_conn *conn = list_entry(batch.next, struct http_conn, ready);
        list_del(&conn->ready);
        http_conn_run(conn);
    }
    if (list_is_empty(&server->ready) && !server->is_closing)
        uv_idle_stop(&server->kick);
}

void http_server_kick(struct http_server *server)
{
    if (!server->is_closing)
        uv_idle_start(&server->kick, on_kick); /* does nothing when it runs */
}

static void server_accept(struct http_server *server);

static void on_sweep(uv_timer_t *timer)
{
    struct http_server *server = timer->data;
    uint64_t now_ms = uv_now(server->loop);
    struct list *pos;
    list_for_each(pos, &server->conns)
        http_conn_sweep(list_entry(pos, struct http_conn, node), now_ms);
    if (server->accept_stalled && server->is_listening)
        server_accept(server);
    if (server->n_conns == 0 && !server->accept_stalled && !server->is_closing)
        uv_timer_stop(timer);
}

static void sweep_start(struct http_server *server)
{
    if (!server->is_closing && !uv_is_active((uv_handle_t *)&server->sweep))
        uv_timer_start(&server->sweep, on_sweep, server->sweep_ms, server->sweep_ms);
}

/* Takes the connection that libuv holds for us. libuv accepts no further one before, so that
 * without memory it must be tried again later. */
static void server_accept(struct http_server *server)
{
    struct http_conn *conn = http_conn_create(server);
    server->accept_stalled = conn == NULL;
    sweep_start(server);
    if (conn == NULL)
        return;
    metric_set(M_http_connections, NULL, server->n_conns);
    uint32_t max = server->options.connections_max;
    if (uv_accept((uv_stream_t *)&server->listener, (uv_stream_t *)&conn->tcp) != 0 ||
        server->n_conns > (uint64_t)max + max / 8 + OVERFLOW_CONNS)
        http_conn_close(conn);
    else if (server->n_conns > max)
        http_conn_refuse(conn);
    else
        http_conn_start(conn);
}

static void on_connection(uv_stream_t *listener, int status)
{
    struct http_server *server = listener->data;
    if (status == 0)
        server_accept(server);
    else
        metric_add(M_http_refused_total, "accept_failed", 1);
}

/* ---- listening ---- */

enum status http_server_open(struct http_server *server, int fd)
{
    if (server->has_listener)
        return ST_INVALID;
    int err = uv_tcp_init(server->loop, &server->listener);
    if (err != 0) {
        close(fd);
        return ST_IO;
    }
    server->has_listener = server->is_listening = true;
    server->listener.data = server;
    server->n_handles++;
    err = uv_tcp_open(&server->listener, fd);
    if (err != 0)
        close(fd);
    else
        err = uv_listen((uv_stream_t *)&server->listener, (int)server->options.backlog,
                        on_connection);
    if (err == 0)
        return ST_OK;
    log_error("cannot listen", LOG_STR("error", uv_strerror(err)));
    http_server_stop_accepting(server);
    return err == UV_EADDRINUSE ? ST_EXISTS : ST_IO;
}

/* Bound socket for one address; -1 with errno. */
static int socket_bind(const struct addrinfo *address)
{
    int one = 1;
    int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(fd, address->ai_addr, address->ai_addrlen) == 0)
        return fd;
    int saved = errno;
    close(fd);
    errno = saved;
    return -1;
}

enum status http_server_listen(struct http_server *server, const char *host, uint16_t port)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *addresses = NULL;
    char service[8];
    snprintf(service, sizeof(service), "%u", port);
    int err = getaddrinfo(host, service, &hints, &addresses);
    if (err != 0) {
        log_error("cannot listen: unknown host", LOG_STR("host", host),
                  LOG_STR("error", gai_strerror(err)));
        return ST_INVALID;
    }
    int fd = -1;
    for (struct addrinfo *a = addresses; a != NULL && fd < 0; a = a->ai_next)
        fd = socket_bind(a);
    int saved = errno;
    freeaddrinfo(addresses);
    if (fd >= 0)
        return http_server_open(server, fd);
    log_error("cannot listen", LOG_STR("host", host), LOG_U64("port", port),
              LOG_STR("error", strerror(saved)));
    return saved == EADDRINUSE ? ST_EXISTS : ST_IO;
}

uint16_t http_server_port(const struct http_server *server)
{
    struct sockaddr_storage address = {0};
    int bytes = sizeof(address);
    if (!server->is_listening ||
        uv_tcp_getsockname(&server->listener, (struct sockaddr *)&address, &bytes) != 0)
        return 0;
    if (address.ss_family == AF_INET6)
        return ntohs(((struct sockaddr_in6 *)&address)->sin6_port);
    return ntohs(((struct sockaddr_in *)&address)->sin_port);
}

uint32_t http_server_connection_count(const struct http_server *server)
{
    return server->n_conns;
}

/* ---- end ---- */

static void on_handle_close(uv_handle_t *handle)
{
    http_server_handle_gone(handle->data);
}

void http_server_stop_accepting(struct http_server *server)
{
    if (!server->is_listening)
        return;
    server->is_listening = server->accept_stalled = false;
    uv_close((uv_handle_t *)&server->listener, on_handle_close);
}

static void tell_drained(struct http_server *server)
{
    if (!server->is_draining || server->drained_told || server->n_conns > 0 || server->is_closing)
        return;
    server->drained_told = true;
    uv_timer_stop(&server->sweep);
    if (server->handlers->on_drained != NULL)
        server->handlers->on_drained(server->user);
}

void http_server_drain(struct http_server *server)
{
    http_server_stop_accepting(server);
    server->is_draining = true;
    struct list *pos;
    list_for_each(pos, &server->conns) http_conn_drain(list_entry(pos, struct http_conn, node));
    tell_drained(server);
}

void http_server_conn_gone(struct http_server *server)
{
    server->n_conns--;
    metric_set(M_http_connections, NULL, server->n_conns);
    tell_drained(server);
}

void http_server_handle_gone(struct http_server *server)
{
    if (--server->n_handles > 0)
        return;
    void (*on_closed)(void *user) = server->on_closed;
    void *user = server->closed_user;
    buf_deinit(&server->scratch);
    free(server);
    if (on_closed != NULL)
        on_closed(user);
}

void http_server_close(struct http_server *server, void (*on_closed)(void *user), void *user)
{
    if (server->is_closing)
        return;
    server->is_closing = true;
    server->on_closed = on_closed;
    server->closed_user = user;
    struct list *pos;
    list_for_each(pos, &server->conns) http_conn_close(list_entry(pos, struct http_conn, node));
    http_server_stop_accepting(server);
    uv_close((uv_handle_t *)&server->sweep, on_handle_close);
    uv_close((uv_handle_t *)&server->kick, on_handle_close);
}
