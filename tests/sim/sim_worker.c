/* Simulated worker processes: the shipped worker core, the hash runner on real block memory, and a
 * transport whose one-sided writes land late, one by one, unchecked - as RDMA does.
 *
 * A step's KV is computed when it is planned, behind those under way, and once more when it ends:
 * if its blocks were given away meanwhile, the second run overwrites their new owner, and the
 * tokens show it. */
#include "sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void on_layers_ignored(void *arg, uint64_t step_id, uint32_t first, uint32_t count)
{
    (void)arg, (void)step_id, (void)first, (void)count;
}

enum status sim_worker_start(struct sim *sim, uint32_t index)
{
    struct sim_worker *w = &sim->workers[index];
    char err[256];
    struct runner_opts ropts = {.kind = RUNNER_HASH,
                                .block_tokens = SIM_BLOCK_TOKENS,
                                .max_batch_tokens = sim->opts.batch_tokens + SIM_TOKENS_MAX,
                                .max_seqs = sim->opts.batch_seqs,
                                .max_context_tokens = SIM_TOKENS_MAX,
                                .layer_groups = sim->opts.layer_groups,
                                .hash_vocab_size = SIM_VOCAB,
                                .hash_layer_count = sim->opts.layers};
    enum status st = runner_create(&ropts, &w->runner, err, sizeof(err));
    if (st == ST_OK)
        st = runner_create(&ropts, &w->rerun, err, sizeof(err));
    if (st != ST_OK)
        return st;
    const struct kv_geometry *g = runner_geometry(w->runner);
    w->incarnation++;
    w->instance = hash_combine(sim->seed, (uint64_t)index << 32 | w->incarnation);
    w->epoch = hash_mix64(w->instance);
    w->pool = calloc(sim->opts.blocks, g->block_bytes);
    if (w->pool == NULL)
        return ST_NO_MEMORY;
    runner_set_pool(w->runner, w->pool, sim->opts.blocks);
    runner_set_pool(w->rerun, w->pool, sim->opts.blocks);
    struct worker_core_opts opts = {
        .role = w->role,
        .instance = w->instance,
        .pool = {.block_count = sim->opts.blocks,
                 .epoch = w->epoch,
                 .layout_hash = g->layout_hash,
                 .block_tokens = g->block_tokens,
                 .layer_count = g->layer_count,
                 .block_bytes = g->block_bytes},
        .model = runner_info(w->runner)->model_hash,
        .prefix_cache = 1,
        .max_context_tokens = SIM_TOKENS_MAX,
        .max_seqs = sim->opts.batch_seqs,
        .queue_max = 64,
        .max_batch_tokens = sim->opts.batch_tokens,
        .prefill_chunk_tokens = sim->opts.chunk_tokens,
        .steps_max = sim->opts.steps_max,
        .ahead_prompt_tokens = sim->opts.ahead_prompt_tokens,
        .headroom_blocks = 1,
        .n_eos = 1,
        .eos = {SIM_EOS},
        .stats_interval_ns = 400 * NS_PER_MS,
        .push_floor_bytes_per_s = 1000000,
        .push_slack_ns = 500 * NS_PER_MS,
        .fence_after_ns = 300 * NS_PER_MS,
    };
    memcpy(opts.cache_secret, sim->cache_secret, sizeof(opts.cache_secret));
    st = worker_core_create(&opts, &w->core);
    w->up = st == ST_OK;
    w->paused = w->worker_side_up = false;
    w->n_steps = 0;
    w->tick_at = w->busy_until = 0;
    memset(w->cut_incarnation, 0, sizeof(w->cut_incarnation));
    sim_trace(sim, "start", index, w->incarnation);
    return st;
}

void sim_worker_stop(struct sim *sim, uint32_t index)
{
    struct sim_worker *w = &sim->workers[index];
    struct wire_stats stats = {0};
    if (w->core != NULL)
        worker_core_stats(w->core, sim->now, &stats);
    sim->counts.preemptions += stats.preemptions;
    worker_core_destroy(w->core);
    runner_destroy(w->runner);
    runner_destroy(w->rerun);
    free(w->pool);
    w->core = NULL;
    w->runner = w->rerun = NULL;
    w->pool = NULL;
    w->up = false;
}

void sim_worker_crash(struct sim *sim, uint32_t index)
{
    struct sim_worker *w = &sim->workers[index];
    sim->counts.crashes++;
    sim_trace(sim, "crash", index, w->incarnation);
    sim_worker_stop(sim, index);
    w->paused = w->worker_side_up = false;
    sim_disconnect(sim, index);
    for (uint32_t i = 0; i < sim->n_workers; i++)
        if (i != index && sim->workers[i].up)
            sim_schedule(sim, sim_between(sim, 0, 500 * NS_PER_MS),
                         &(struct sim_event){.kind = SIM_PEER_ERROR,
                                             .worker = i,
                                             .incarnation = sim->workers[i].incarnation,
                                             .id = w->instance});
    sim_schedule(
        sim, sim_between(sim, 5 * NS_PER_MS, 400 * NS_PER_MS),
        &(struct sim_event){.kind = SIM_RESTART, .worker = index, .incarnation = UINT64_MAX});
}

static uint32_t worker_of_instance(const struct sim *sim, uint64_t instance)
{
    uint32_t i = 0;
    while (i < sim->n_workers && !(sim->workers[i].up && sim->workers[i].instance == instance))
        i++;
    return i < sim->n_workers ? i : SIM_NO_WORKER;
}

/* ---- actions ---- */

static void act_push(struct sim *sim, uint32_t index, const struct worker_action *act)
{
    struct sim_worker *w = &sim->workers[index];
    const struct kv_geometry *g = runner_geometry(w->runner);
    uint32_t to = worker_of_instance(sim, act->peer);
    struct sim_event done = {.kind = SIM_PUSH_DONE,
                             .worker = index,
                             .incarnation = w->incarnation,
                             .id = act->push_id,
                             .status = ST_OK};
    uint64_t longest = 0;
    bool cut = to != SIM_NO_WORKER && sim->workers[to].cut_incarnation[index] == w->incarnation;
    if (to == SIM_NO_WORKER || cut)
        done.status = ST_PEER_LOST;
    else if (!sim->healing && sim_chance(sim, sim->opts.push_fail_ppm))
        done.status = ST_IO;
    for (uint32_t i = 0; i < act->n_vec && to != SIM_NO_WORKER; i++) {
        struct sim_event e = {.kind = SIM_WRITE,
                              .worker = to,
                              .incarnation = sim->workers[to].incarnation,
                              .from = index,
                              .from_incarnation = w->incarnation,
                              .src_block = act->vec[i].src_block,
                              .dst_block = act->vec[i].dst_block,
                              .dst_generation = act->vec[i].dst_generation,
                              .offset_bytes = act->layer_first * g->layer_bytes,
                              .bytes = act->layer_count * g->layer_bytes};
        if (act->dst_epoch != sim->workers[to].epoch || e.dst_block >= sim->opts.blocks) {
            done.status = ST_MISMATCH;
            continue;
        }
        uint64_t delay = sim_between(sim, 0, sim->opts.write_max_ns);
        /* A push that fails has lost some of its pieces; others still land, also after the report.
         */
        if (done.status != ST_OK && sim_chance(sim, 500000))
            continue;
        sim_schedule(sim, delay, &e);
        if (done.status == ST_OK && delay > longest)
            longest = delay;
    }
    sim_schedule(sim, longest + sim_between(sim, 1, 100 * NS_PER_US), &done);
}

static void act_record(struct sim *sim, uint32_t index, const struct worker_action *act)
{
    struct wire_link link = {0};
    uint32_t to = worker_of_instance(sim, act->peer);
    sim->frame.len = 0;
    if (to == SIM_NO_WORKER ||
        sim->workers[to].cut_incarnation[index] == sim->workers[index].incarnation)
        return;
    enum status st = wire_encode(act->msg, &link, &sim->frame);
    if (st != ST_OK) {
        sim_violation(sim, "record cannot be encoded: %s", status_name(st));
        return;
    }
    uint32_t copies = sim->healing || sim_chance(sim, 1000000 - sim->opts.loss_ppm) ? 1 : 0;
    copies += copies > 0 && !sim->healing && sim_chance(sim, sim->opts.repeat_ppm);
    for (uint32_t i = 0; i < copies; i++) {
        struct sim_event e = {.kind = SIM_RECORD,
                              .worker = to,
                              .incarnation = sim->workers[to].incarnation,
                              .from = index,
                              .from_incarnation = sim->workers[index].incarnation,
                              .id = sim->workers[index].instance,
                              .data = malloc(sim->frame.len),
                              .data_bytes = (uint32_t)sim->frame.len};
        if (e.data == NULL)
            return;
        memcpy(e.data, sim->frame.data, sim->frame.len);
        uint64_t longest = i > 0 ? 2 * NS_PER_S
                           : sim_chance(sim, sim->healing ? 0 : sim->opts.late_record_ppm)
                               ? sim->opts.late_record_ns
                               : 3 * NS_PER_MS;
        sim_schedule(sim, sim_between(sim, 10 * NS_PER_US, longest), &e);
    }
}

/* Same host: a live peer is killed, as the transport does. Other host: its access is cut. */
static void act_fence(struct sim *sim, uint32_t index, uint64_t instance)
{
    struct sim_worker *w = &sim->workers[index];
    uint32_t peer = worker_of_instance(sim, instance);
    sim->counts.fences++;
    sim_trace(sim, "fence", index, instance);
    if (peer != SIM_NO_WORKER && !sim->opts.remote_hosts &&
        sim->workers[peer].role == WIRE_ROLE_PREFILL)
        sim_worker_crash(sim, peer);
    sim_schedule(
        sim, sim_between(sim, 100 * NS_PER_US, 30 * NS_PER_MS),
        &(struct sim_event){
            .kind = SIM_FENCED, .worker = index, .incarnation = w->incarnation, .id = instance});
}

static void worker_act(struct sim *sim, uint32_t index, const struct worker_action *act)
{
    switch (act->kind) {
    case ACT_SEND:
        if (sim->workers[index].worker_side_up)
            sim_send(sim, index, true, act->msg);
        return;
    case ACT_CONNECT:
        return; /* every worker can reach every other */
    case ACT_PUSH:
        act_push(sim, index, act);
        return;
    case ACT_RECORD:
        act_record(sim, index, act);
        return;
    case ACT_FENCE:
        act_fence(sim, index, act->peer);
        return;
    }
}

/* The step begins, in virtual time, when the one before is over; its layer groups are reported on
 * the way. */
static void worker_step_start(struct sim *sim, uint32_t index, const struct step_plan *plan)
{
    struct sim_worker *w = &sim->workers[index];
    uint64_t total = 500 * NS_PER_US +
                     plan->n_tokens * sim_between(sim, sim->opts.token_ns / 8, sim->opts.token_ns);
    if (plan->n_items > sim->opts.batch_seqs || plan->n_items == 0)
        sim_violation(sim, "worker %u plans a step of %u sequences", index, plan->n_items);
    if (w->n_steps == SIM_STEPS_MAX) {
        sim_violation(sim, "worker %u plans too many steps", index);
        return;
    }
    sim->counts.steps++;
    sim->counts.steps_ahead += w->n_steps > 0;
    w->plans[w->n_steps++] = *plan;
    if (runner_begin(w->runner, plan, on_layers_ignored, NULL) != ST_OK)
        sim_violation(sim, "worker %u: step refused by the engine", index);
    uint64_t wait = w->busy_until > sim->now ? w->busy_until - sim->now : 0;
    uint32_t groups = sim->opts.layer_groups, layers = sim->opts.layers, first = 0;
    for (uint32_t g = 0; g < groups && plan->report_layers; g++) {
        uint32_t end = layers * (g + 1) / groups;
        sim_schedule(sim, wait + total * (g + 1) / (groups + 1),
                     &(struct sim_event){.kind = SIM_LAYERS,
                                         .worker = index,
                                         .incarnation = w->incarnation,
                                         .id = plan->step_id,
                                         .a = first,
                                         .b = end - first});
        first = end;
    }
    w->busy_until = sim->now + wait + total;
    sim_schedule(sim, wait + total,
                 &(struct sim_event){.kind = SIM_STEP_DONE,
                                     .worker = index,
                                     .incarnation = w->incarnation,
                                     .id = plan->step_id});
}

void sim_worker_pump(struct sim *sim, uint32_t index)
{
    struct sim_worker *w = &sim->workers[index];
    struct worker_action act;
    while (w->up && !sim->violated && worker_core_next_action(w->core, &act))
        worker_act(sim, index, &act);
    if (!w->up || sim->violated)
        return;
    struct step_plan plan;
    while (!sim->violated && worker_core_next_step(w->core, sim->now, &plan))
        worker_step_start(sim, index, &plan);
    while (worker_core_next_action(w->core, &act))
        worker_act(sim, index, &act);
    uint64_t at = worker_core_deadline(w->core);
    if (at != UINT64_MAX && (w->tick_at <= sim->now || at < w->tick_at)) {
        w->tick_at = at > sim->now ? at : sim->now + 1;
        sim_schedule(
            sim, w->tick_at - sim->now,
            &(struct sim_event){.kind = SIM_TICK, .worker = index, .incarnation = w->incarnation});
    }
}

/* ---- events ---- */

static void ev_write(struct sim *sim, const struct sim_event *e)
{
    struct sim_worker *dst = &sim->workers[e->worker], *src = &sim->workers[e->from];
    const struct kv_geometry *g = runner_geometry(dst->runner);
    bool src_lives = src->up && src->incarnation == e->from_incarnation;
    uint32_t generation = 0;
    if (dst->cut_incarnation[e->from] >= e->from_incarnation)
        return; /* fenced: it cannot reach us */
    if (!src_lives && sim_chance(sim, 500000))
        return; /* lost with its sender; the rest was under way and lands */
    char state = kv_pool_block_state(worker_core_pool(dst->core), e->dst_block, &generation);
    if ((state != 'l' && state != 'q') || generation != e->dst_generation) {
        sim_violation(sim,
                      "a write of worker %u lands in block %u of worker %u, which is '%c' "
                      "(generation %u, meant %u)",
                      e->from, e->dst_block, e->worker, state, generation, e->dst_generation);
        return;
    }
    sim->counts.writes++;
    uint8_t *to = dst->pool + e->dst_block * g->block_bytes + e->offset_bytes;
    if (src_lives)
        memcpy(to, src->pool + e->src_block * g->block_bytes + e->offset_bytes, e->bytes);
    else
        memset(to, 0xdb, e->bytes);
}

static void ev_record(struct sim *sim, const struct sim_event *e)
{
    struct wire_msg msg;
    if (sim->workers[e->worker].cut_incarnation[e->from] >= e->from_incarnation)
        return;
    if (wire_decode(e->data, e->data_bytes, &sim->scratch, &msg, NULL) != ST_OK)
        sim_violation(sim, "record does not decode");
    else
        worker_core_record(sim->workers[e->worker].core, sim->now, e->id, &msg);
    arena_reset(&sim->scratch);
}

static bool result_equal(const struct step_result *a, const struct step_result *b)
{
    return a->n_tokens == b->n_tokens &&
           memcmp(a->tokens, b->tokens, a->n_tokens * sizeof(*a->tokens)) == 0 &&
           memcmp(a->item_ids, b->item_ids, a->n_tokens * sizeof(*a->item_ids)) == 0;
}

static void ev_step_done(struct sim *sim, const struct sim_event *e)
{
    struct sim_worker *w = &sim->workers[e->worker];
    struct step_result begun, result;
    if (e->id != w->plans[0].step_id) { /* a pause held the one before back */
        sim_schedule(sim, 1, e);
        return;
    }
    enum status st = runner_finish(w->runner, &begun);
    if (st == ST_OK)
        st = runner_step(w->rerun, &w->plans[0], on_layers_ignored, NULL, &result);
    if (st != ST_OK || !result_equal(&begun, &result)) {
        sim_violation(sim, "worker %u: step %llu ends otherwise than it began", e->worker,
                      (unsigned long long)e->id);
        return;
    }
    if (!sim->healing && sim_chance(sim, sim->opts.step_fail_ppm)) {
        sim->counts.steps_failed++;
        result.status = ST_INTERNAL;
        result.n_tokens = 0;
    }
    w->plans[0] = w->plans[1];
    w->n_steps--;
    worker_core_step_done(w->core, sim->now, &result);
}

/* From here on nothing of that process lands any more. */
static void ev_fenced(struct sim *sim, const struct sim_event *e)
{
    struct sim_worker *w = &sim->workers[e->worker];
    for (uint32_t i = 0; i < sim->n_workers; i++)
        for (uint64_t inc = 1; inc <= sim->workers[i].incarnation; inc++)
            if (hash_combine(sim->seed, (uint64_t)i << 32 | inc) == e->id &&
                w->cut_incarnation[i] < inc)
                w->cut_incarnation[i] = inc;
    worker_core_fenced(w->core, sim->now, e->id);
}

static void worker_event(struct sim *sim, struct sim_event *e)
{
    struct sim_worker *w = &sim->workers[e->worker];
    switch (e->kind) {
    case SIM_FRAME:
        sim_frame(sim, e);
        break;
    case SIM_RECORD:
        ev_record(sim, e);
        break;
    case SIM_PUSH_DONE:
        worker_core_push_done(w->core, sim->now, e->id, e->status);
        break;
    case SIM_FENCED:
        ev_fenced(sim, e);
        break;
    case SIM_PEER_ERROR:
        worker_core_peer_error(w->core, sim->now, e->id);
        break;
    case SIM_LAYERS:
        worker_core_layers_done(w->core, sim->now, e->id, e->a, e->b);
        break;
    case SIM_STEP_DONE:
        ev_step_done(sim, e);
        break;
    case SIM_TICK:
        worker_core_tick(w->core, sim->now);
        break;
    case SIM_CONN_DOWN:
        sim_conn_down(sim, e);
        break;
    default:
        break;
    }
}

void sim_worker_event(struct sim *sim, struct sim_event *event)
{
    struct sim_worker *w = &sim->workers[event->worker];
    if (event->kind == SIM_CONNECT) {
        sim_connect(sim, event->worker);
        return;
    }
    if (event->kind == SIM_RESTART) {
        if (sim_worker_start(sim, event->worker) != ST_OK)
            sim_violation(sim, "restart failed");
        return;
    }
    if (!w->up || event->incarnation != w->incarnation)
        return; /* of an earlier life */
    if (event->kind == SIM_RESUME) {
        w->paused = false;
    } else if (event->kind == SIM_WRITE) {
        ev_write(sim, event); /* one-sided: needs nothing of the process */
        return;
    } else if (w->paused) {
        sim_schedule(sim, w->pause_until - sim->now + 1, event);
        event->data = NULL; /* moved on */
        return;
    } else {
        worker_event(sim, event);
    }
    sim_worker_pump(sim, event->worker);
}
