/* State of a worker process, shared by loop.c (events) and run.c (start, load, stop). Loop thread.
 */
#ifndef WORKER_LOOP_INT_H
#define WORKER_LOOP_INT_H

#include "cluster/conn.h"
#include "config/config.h"
#include "engine/kv_geometry.h"
#include "transport/transport.h"
#include "worker/core.h"
#include "worker/engine_thread.h"

#include <uv.h>

#define WORKER_CONNS_MAX 64u

struct worker_conn {
    struct conn *conn; /* NULL: slot is free */
    uint64_t router;   /* instance */
    bool hello_read, up;
};

struct worker {
    const struct config *config;
    const struct config_process *process;
    uv_loop_t loop;
    uv_timer_t timer;
    uv_async_t engine_async;
    uv_poll_t transport_poll;
    uv_signal_t sigterm, sigint;
    struct conn_listener *listener;
    struct worker_conn conns[WORKER_CONNS_MAX];
    struct worker_core *core; /* NULL while the model loads */
    struct engine_thread *engine;
    bool draining, again;
    int exit_code;
    const struct kv_geometry *geometry;
    const struct transport_ops *transport_ops;
    struct transport *transport; /* NULL: none (unified) */
    void *pool_base;
    uint64_t pool_bytes;
    int pool_fd; /* -1: the pool is nobody else's */
    struct wire_hello hello;
    uint32_t load_permille, load_logged_permille;
    uint64_t load_start_ns;
    struct buf record;           /* encoding of a record */
    struct arena scratch;        /* one action */
    struct arena record_scratch; /* one received record */
    uint32_t cpus[CONFIG_INDEX_MAX + 1];
};

void worker_pump(struct worker *w);
void worker_conn_lost(struct worker *w, uint32_t slot, enum status why);
void worker_loading_send(struct worker *w, struct conn *conn);
void worker_router_up(struct worker *w, uint32_t slot);
void on_worker_timer(uv_timer_t *timer);
void on_worker_accept(void *user, struct conn *conn);
void on_worker_engine(uv_async_t *async);
void on_worker_transport(uv_poll_t *poll, int rc, int events);

/* run.c */
void worker_load_progress(struct worker *w, uint32_t permille);
void worker_loaded(struct worker *w, const struct engine_event *event);

#endif
