/* The loop of a worker process: libuv around the pure core.
 *
 *   routers  --frames-->  core  --plan-->  engine thread
 *            <--frames--        <-layers, results--
 *   peers    --records->        --pushes, records-->  transport
 *
 * worker_pump is the whole of it: carry out the core's actions, give the engine its next steps,
 * flush, and set the timer to the core's next deadline. Every callback only feeds an event in and
 * pumps. */
#include "worker/loop_int.h"

#include "base/exit.h"
#include "base/hash.h"
#include "base/time.h"
#include "observe/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void worker_action_push(struct worker *w, const struct worker_action *act)
{
    const struct kv_geometry *g = w->geometry;
    enum status st = ST_NO_MEMORY;
    struct transport_vec *vec = arena_calloc(&w->scratch, act->n_vec, sizeof(*vec));
    if (vec != NULL) {
        for (uint32_t i = 0; i < act->n_vec; i++)
            vec[i] = (struct transport_vec){.src_block = act->vec[i].src_block,
                                            .dst_block = act->vec[i].dst_block,
                                            .offset_bytes = act->layer_first * g->layer_bytes,
                                            .bytes = act->layer_count * g->layer_bytes};
        st = w->transport_ops->push(w->transport, act->peer, act->push_id, vec, act->n_vec,
                                    act->deadline_ns);
    }
    if (st != ST_OK)
        worker_core_push_done(w->core, time_monotonic_ns(), act->push_id, st);
}

static void worker_action_record(struct worker *w, const struct worker_action *act)
{
    struct wire_link link = {0};
    w->record.len = 0;
    if (wire_encode(act->msg, &link, &w->record) != ST_OK ||
        w->transport_ops->record(w->transport, act->peer, w->record.data,
                                 (uint32_t)w->record.len) != ST_OK)
        log_warn("record to peer was not sent", LOG_STR("record", wire_type_name(act->msg->type)),
                 LOG_U64("peer", act->peer));
}

static void worker_action_connect(struct worker *w, const struct worker_action *act)
{
    const struct transport_ops *ops = w->transport_ops;
    enum status st = ST_UNSUPPORTED;
    if (w->transport != NULL)
        st = ops->connect(w->transport, act->peer_info);
    if (st == ST_OK) {
        log_info("connecting to peer", LOG_STR("peer", act->peer_info->name),
                 LOG_U64("instance", act->peer),
                 LOG_STR("transport",
                         ops->route != NULL ? ops->route(w->transport, act->peer) : ops->name));
        return;
    }
    log_warn("peer cannot be reached over the KV transport", LOG_STR("peer", act->peer_info->name),
             LOG_STR("status", status_name(st)));
    worker_core_peer_error(w->core, time_monotonic_ns(), act->peer);
}

static void worker_action(struct worker *w, const struct worker_action *act)
{
    uint64_t now = time_monotonic_ns();
    switch (act->kind) {
    case ACT_SEND:
        if (w->conns[act->conn].conn != NULL &&
            conn_send(w->conns[act->conn].conn, act->msg) != ST_OK)
            worker_conn_lost(w, act->conn, ST_FULL);
        return;
    case ACT_CONNECT:
        worker_action_connect(w, act);
        return;
    case ACT_PUSH:
        worker_action_push(w, act);
        return;
    case ACT_RECORD:
        worker_action_record(w, act);
        return;
    case ACT_FENCE:
        log_info("fencing peer", LOG_U64("peer", act->peer));
        if (w->transport == NULL || w->transport_ops->fence(w->transport, act->peer) != ST_OK)
            worker_core_fenced(w->core, now, act->peer); /* without a transport none can write */
        return;
    }
}

static void worker_actions(struct worker *w)
{
    struct worker_action act;
    while (worker_core_next_action(w->core, &act)) {
        worker_action(w, &act);
        arena_reset(&w->scratch);
    }
}

void worker_pump(struct worker *w)
{
    if (w->core == NULL)
        return;
    do {
        worker_actions(w);
        struct step_plan plan;
        while (worker_core_next_step(w->core, time_monotonic_ns(), &plan))
            engine_thread_run(w->engine, &plan);
        engine_thread_answered(w->engine);
        worker_actions(w); /* planning admits and refuses too */
        w->again = false;
        for (uint32_t i = 0; i < WORKER_CONNS_MAX; i++)
            if (w->conns[i].conn != NULL)
                conn_flush(w->conns[i].conn);
    } while (w->again);
    if (w->draining && worker_core_is_idle(w->core))
        uv_stop(&w->loop);
    uint64_t now = time_monotonic_ns(), deadline = worker_core_deadline(w->core);
    if (deadline != UINT64_MAX)
        uv_timer_start(&w->timer, on_worker_timer,
                       deadline > now ? (deadline - now + NS_PER_MS - 1) / NS_PER_MS : 0, 0);
}

void on_worker_timer(uv_timer_t *timer)
{
    struct worker *w = timer->data;
    worker_core_tick(w->core, time_monotonic_ns());
    worker_pump(w);
}

/* ---- routers ---- */

void worker_conn_lost(struct worker *w, uint32_t slot, enum status why)
{
    struct worker_conn *c = &w->conns[slot];
    if (c->conn == NULL)
        return;
    log_info("router connection closed", LOG_U64("router", c->router),
             LOG_STR("why", status_name(why)));
    conn_close(c->conn);
    bool up = c->up;
    *c = (struct worker_conn){0};
    if (up)
        worker_core_conn_down(w->core, time_monotonic_ns(), slot);
    w->again = true;
}

static uint32_t conn_slot(const struct worker *w, const struct conn *conn)
{
    uint32_t slot = 0;
    while (slot < WORKER_CONNS_MAX && w->conns[slot].conn != conn)
        slot++;
    return slot;
}

static void worker_hello_send(struct worker *w, struct conn *conn)
{
    struct wire_msg msg = {.type = WIRE_HELLO, .u.hello = w->hello};
    if (conn_send(conn, &msg) == ST_OK)
        conn_flush(conn);
}

/* Before the model is there a router only hears how far the load is. */
void worker_loading_send(struct worker *w, struct conn *conn)
{
    struct wire_msg msg = {.type = WIRE_LOADING, .u.loading.permille = w->load_permille};
    msg.u.loading.role = w->hello.role;
    memcpy(msg.u.loading.name, w->hello.name, sizeof(w->hello.name));
    if (conn_send(conn, &msg) == ST_OK)
        conn_flush(conn);
}

static void worker_router_hello(struct worker *w, uint32_t slot, const struct wire_hello *hello)
{
    struct worker_conn *c = &w->conns[slot];
    if (c->hello_read || hello->role != WIRE_ROLE_ROUTER || hello->version_max < WIRE_VERSION_MIN ||
        hello->version_min > WIRE_VERSION_MAX) {
        log_warn("router refused: protocol versions do not overlap, or it is no router",
                 LOG_STR("name", hello->name), LOG_U64("version_min", hello->version_min),
                 LOG_U64("version_max", hello->version_max));
        worker_conn_lost(w, slot, ST_VERSION);
        return;
    }
    c->hello_read = true;
    c->router = hello->instance;
    if (w->core != NULL)
        worker_router_up(w, slot);
}

/* Both are ready: say HELLO and let the core know. */
void worker_router_up(struct worker *w, uint32_t slot)
{
    struct worker_conn *c = &w->conns[slot];
    worker_hello_send(w, c->conn);
    c->up = true;
    worker_core_conn_up(w->core, time_monotonic_ns(), slot, c->router);
    log_info("router connected", LOG_U64("router", c->router));
}

static void on_router_message(void *user, struct conn *conn, const struct wire_msg *msg)
{
    struct worker *w = user;
    uint32_t slot = conn_slot(w, conn);
    if (slot == WORKER_CONNS_MAX)
        return;
    if (msg->type == WIRE_HELLO)
        worker_router_hello(w, slot, &msg->u.hello);
    else if (w->conns[slot].up)
        worker_core_message(w->core, time_monotonic_ns(), slot, msg);
    worker_pump(w);
}

static void on_router_closed(void *user, struct conn *conn, enum status why)
{
    struct worker *w = user;
    uint32_t slot = conn_slot(w, conn);
    if (slot < WORKER_CONNS_MAX)
        worker_conn_lost(w, slot, why);
    worker_pump(w);
}

static const struct conn_handlers router_handlers = {.on_message = on_router_message,
                                                     .on_closed = on_router_closed};

void on_worker_accept(void *user, struct conn *conn)
{
    struct worker *w = user;
    uint32_t slot = conn_slot(w, NULL);
    if (slot == WORKER_CONNS_MAX) {
        log_warn("router refused: too many connections");
        return; /* not adopted: the listener closes it */
    }
    w->conns[slot] = (struct worker_conn){.conn = conn};
    conn_adopt(conn, &router_handlers, w);
    if (w->core == NULL)
        worker_loading_send(w, conn);
}

/* ---- engine and transport ---- */

static void worker_engine_event(struct worker *w, const struct engine_event *event)
{
    uint64_t now = time_monotonic_ns();
    switch (event->kind) {
    case ENGINE_LOADING:
        worker_load_progress(w, event->permille);
        return;
    case ENGINE_LOADED:
        worker_loaded(w, event);
        return;
    case ENGINE_LAYERS:
        worker_core_layers_done(w->core, now, event->step_id, event->layer_first,
                                event->layer_count);
        return;
    case ENGINE_STEP:
        if (event->result->status == ST_DEVICE) { /* the supervisor starts it anew */
            log_error("the compute device has failed: this worker ends");
            w->exit_code = EXIT_DEVICE;
            uv_stop(&w->loop);
            return;
        }
        worker_core_step_done(w->core, now, event->result);
        return;
    }
}

void on_worker_engine(uv_async_t *async)
{
    struct worker *w = async->data;
    struct engine_event event;
    while (engine_thread_next_event(w->engine, &event))
        worker_engine_event(w, &event);
    worker_pump(w);
}

static void worker_record(struct worker *w, const struct transport_event *event)
{
    struct wire_msg msg;
    enum status st = wire_decode(event->data, event->bytes, &w->record_scratch, &msg, NULL);
    if (st == ST_OK)
        worker_core_record(w->core, time_monotonic_ns(), event->peer, &msg);
    else
        log_warn("record from peer dropped", LOG_STR("status", status_name(st)));
    arena_reset(&w->record_scratch);
}

void on_worker_transport(uv_poll_t *poll, int rc, int events)
{
    struct worker *w = poll->data;
    struct transport_event event;
    (void)rc, (void)events;
    while (w->transport_ops->next_event(w->transport, &event)) {
        uint64_t now = time_monotonic_ns();
        switch (event.kind) {
        case TRANSPORT_PUSH_DONE:
            worker_core_push_done(w->core, now, event.push_id, event.status);
            break;
        case TRANSPORT_RECORD:
            worker_record(w, &event);
            break;
        case TRANSPORT_PEER_ERROR:
            log_warn("KV transport lost a peer", LOG_U64("peer", event.peer));
            worker_core_peer_error(w->core, now, event.peer);
            break;
        case TRANSPORT_FENCED:
            log_info("peer is fenced", LOG_U64("peer", event.peer));
            worker_core_fenced(w->core, now, event.peer);
            break;
        }
    }
    worker_pump(w);
}
