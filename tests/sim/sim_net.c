/* The simulated control network: every frame goes through the shipped codec, and is delayed, lost,
 * repeated or overtaken on the way. A connection has an id; frames of an older one arrive nowhere.
 */
#include "sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void sim_deliver(struct sim *sim, uint64_t delay_ns, uint32_t worker, bool to_router)
{
    struct sim_event event = {.kind = SIM_FRAME,
                              .worker = to_router ? SIM_NO_WORKER : worker,
                              .incarnation = sim->workers[worker].incarnation,
                              .from = to_router ? worker : SIM_NO_WORKER,
                              .connection = sim->workers[worker].connection,
                              .data = malloc(sim->frame.len),
                              .data_bytes = (uint32_t)sim->frame.len};
    if (event.data == NULL) {
        sim_violation(sim, "out of memory");
        return;
    }
    memcpy(event.data, sim->frame.data, sim->frame.len);
    sim_schedule(sim, delay_ns, &event);
}

void sim_send(struct sim *sim, uint32_t worker, bool to_router, const struct wire_msg *msg)
{
    struct sim_worker *w = &sim->workers[worker];
    const struct sim_options *o = &sim->opts;
    if (w->connection == 0)
        return;
    sim->frame.len = 0;
    enum status st = wire_encode(msg, to_router ? &w->to_router : &w->to_worker, &sim->frame);
    if (st != ST_OK) {
        sim_violation(sim, "%s cannot be encoded: %s", wire_type_name(msg->type), status_name(st));
        return;
    }
    sim->counts.frames++;
    if (sim->trace_print)
        printf("%10.3f ms    %s w%u %s\n", (double)sim->now / 1e6, to_router ? "from" : "to",
               worker, wire_type_name(msg->type));
    /* Real links are streams and lose nothing while they stand. Loss is simulated all the same, but
     * for the connect itself and for who may write where, on which fencing rests. */
    if (msg->type == WIRE_HELLO || msg->type == WIRE_PEER || msg->type == WIRE_PEER_GONE) {
        sim_deliver(sim, o->delay_min_ns / 2, worker, to_router);
        return;
    }
    if (msg->type == WIRE_PREFILLED && !sim->healing && sim_chance(sim, o->prefilled_loss_ppm)) {
        sim->counts.lost++;
        return;
    }
    if (!sim->healing && sim_chance(sim, o->loss_ppm)) {
        sim->counts.lost++;
        return;
    }
    uint64_t delay = sim_between(sim, o->delay_min_ns, o->delay_min_ns + 50 * NS_PER_US);
    if (!sim->healing && sim_chance(sim, o->reorder_ppm))
        delay = sim_between(sim, o->delay_min_ns, o->delay_max_ns);
    sim_deliver(sim, delay, worker, to_router);
    if (!sim->healing && sim_chance(sim, o->repeat_ppm))
        sim_deliver(sim, sim_between(sim, delay, o->delay_max_ns), worker, to_router);
}

static void worker_hello(struct sim *sim, uint32_t index)
{
    struct sim_worker *w = &sim->workers[index];
    struct wire_msg msg = {.type = WIRE_HELLO};
    struct wire_hello *h = &msg.u.hello;
    const struct kv_geometry *g = runner_geometry(w->runner);
    const struct runner_info *info = runner_info(w->runner);
    h->version_min = h->version_max = WIRE_VERSION_MAX;
    h->role = w->role;
    h->pid = index + 1;
    h->instance = w->instance;
    h->model_hash = info->model_hash;
    h->pool = (struct wire_pool){.pool = 0,
                                 .block_count = sim->opts.blocks,
                                 .epoch = w->epoch,
                                 .layout_hash = g->layout_hash,
                                 .block_tokens = g->block_tokens,
                                 .layer_count = g->layer_count,
                                 .block_bytes = g->block_bytes};
    h->max_context_tokens = SIM_TOKENS_MAX;
    h->max_seqs = sim->opts.batch_seqs;
    h->vocab_size = SIM_VOCAB;
    h->queue_max = 64;
    snprintf(h->name, sizeof(h->name), "w%u", index);
    snprintf(h->transport, sizeof(h->transport), "sim");
    h->blob = (const uint8_t *)h->name;
    h->blob_bytes = 2;
    sim_send(sim, index, true, &msg);
}

void sim_connect(struct sim *sim, uint32_t worker)
{
    struct sim_worker *w = &sim->workers[worker];
    if (w->connection != 0)
        return;
    if (!w->up) { /* refused; the router dials again */
        sim_schedule(
            sim, 50 * NS_PER_MS,
            &(struct sim_event){.kind = SIM_CONNECT, .worker = worker, .incarnation = UINT64_MAX});
        return;
    }
    w->connection = ++sim->connections;
    w->to_router = w->to_worker = w->at_router = w->at_worker = (struct wire_link){0};
    sim_trace(sim, "connect", worker, w->connection);
    worker_hello(sim, worker);
    struct wire_msg msg = {.type = WIRE_HELLO};
    msg.u.hello.version_min = msg.u.hello.version_max = WIRE_VERSION_MAX;
    msg.u.hello.role = WIRE_ROLE_ROUTER;
    msg.u.hello.instance = sim->router_instance;
    sim_send(sim, worker, false, &msg);
}

/* The connection is over: each side that is up hears of it in its own time, then the router dials.
 */
void sim_disconnect(struct sim *sim, uint32_t worker)
{
    struct sim_worker *w = &sim->workers[worker];
    if (w->connection == 0)
        return;
    sim_trace(sim, "disconnect", worker, w->connection);
    if (w->up)
        sim_schedule(sim, sim_between(sim, 10 * NS_PER_US, 50 * NS_PER_MS),
                     &(struct sim_event){.kind = SIM_CONN_DOWN,
                                         .worker = worker,
                                         .incarnation = w->incarnation,
                                         .connection = w->connection});
    sim_schedule(sim, sim_between(sim, 10 * NS_PER_US, 50 * NS_PER_MS),
                 &(struct sim_event){.kind = SIM_CONN_DOWN,
                                     .worker = SIM_NO_WORKER,
                                     .from = worker,
                                     .connection = w->connection});
    /* Dialled again only after both sides have heard. */
    sim_schedule(
        sim, 60 * NS_PER_MS,
        &(struct sim_event){.kind = SIM_CONNECT, .worker = worker, .incarnation = UINT64_MAX});
    w->connection = 0;
}

void sim_conn_down(struct sim *sim, const struct sim_event *event)
{
    uint32_t index = event->worker == SIM_NO_WORKER ? event->from : event->worker;
    struct sim_worker *w = &sim->workers[index];
    if (event->worker == SIM_NO_WORKER) {
        if (w->router_side_up)
            router_core_worker_down(sim->router, sim->now, w->slot);
        w->router_side_up = false;
        return;
    }
    if (w->worker_side_up)
        worker_core_conn_down(w->core, sim->now, 0);
    w->worker_side_up = false;
}

static void frame_at_router(struct sim *sim, uint32_t from, const struct wire_msg *msg)
{
    struct sim_worker *w = &sim->workers[from];
    if (msg->type != WIRE_HELLO) {
        if (w->router_side_up)
            router_core_message(sim->router, sim->now, w->slot, msg);
        return;
    }
    enum status st = router_core_worker_up(sim->router, sim->now, &msg->u.hello, &w->slot);
    sim_trace(sim, "worker up", from, st);
    if (st == ST_OK)
        w->router_side_up = true;
    else
        sim_violation(sim, "worker refused: %s", status_name(st));
}

static void frame_at_worker(struct sim *sim, uint32_t index, const struct wire_msg *msg)
{
    struct sim_worker *w = &sim->workers[index];
    if (msg->type == WIRE_HELLO) {
        w->worker_side_up = true;
        worker_core_conn_up(w->core, sim->now, 0, msg->u.hello.instance);
    } else if (w->worker_side_up) {
        worker_core_message(w->core, sim->now, 0, msg);
    }
}

void sim_frame(struct sim *sim, struct sim_event *event)
{
    bool at_router = event->worker == SIM_NO_WORKER;
    uint32_t index = at_router ? event->from : event->worker;
    struct sim_worker *w = &sim->workers[index];
    struct wire_msg msg;
    uint64_t sequence;
    if (event->connection != w->connection)
        return; /* of a connection that is over */
    enum status st = wire_decode(event->data, event->data_bytes, &sim->scratch, &msg, &sequence);
    if (st != ST_OK)
        sim_violation(sim, "frame does not decode: %s", status_name(st));
    else if (wire_link_accept(at_router ? &w->at_router : &w->at_worker, sequence)) {
        if (at_router)
            frame_at_router(sim, index, &msg);
        else
            frame_at_worker(sim, index, &msg);
    }
    arena_reset(&sim->scratch);
}
