/* Event heap, options, client traffic, router side and faults of dynd-sim. */
#include "sim.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FAULT_TICK_NS    (20 * NS_PER_MS)
#define HEAL_LIMIT_NS    (60 * NS_PER_S)
#define RUN_LIMIT_EVENTS 3000000u

void sim_violation(struct sim *sim, const char *format, ...)
{
    va_list args;
    if (sim->violated)
        return; /* the first one is the cause */
    sim->violated = true;
    va_start(args, format);
    vsnprintf(sim->violation, sizeof(sim->violation), format, args);
    va_end(args);
}

void sim_trace(struct sim *sim, const char *what, uint64_t a, uint64_t b)
{
    sim->trace = hash_combine(sim->trace, hash_combine(hash_bytes(what, strlen(what)), sim->now));
    sim->trace = hash_combine(sim->trace, hash_combine(a, b));
    if (sim->trace_print)
        printf("%10.3f ms  %-16s %llu %llu\n", (double)sim->now / 1e6, what, (unsigned long long)a,
               (unsigned long long)b);
}

bool sim_chance(struct sim *sim, uint32_t ppm)
{
    return rng_below(&sim->rng, 1000000) < ppm;
}

uint64_t sim_between(struct sim *sim, uint64_t low, uint64_t high)
{
    return high > low ? low + rng_u64(&sim->rng) % (high - low + 1) : low;
}

static bool event_before(const struct sim_event *a, const struct sim_event *b)
{
    return a->at != b->at ? a->at < b->at : a->order < b->order;
}

void sim_schedule(struct sim *sim, uint64_t delay_ns, const struct sim_event *event)
{
    if (sim->n_events == SIM_EVENTS_MAX) {
        sim_violation(sim, "more than %u events pending", SIM_EVENTS_MAX);
        free(event->data);
        return;
    }
    struct sim_event e = *event;
    e.at = sim->now + delay_ns;
    e.order = ++sim->order;
    uint32_t i = sim->n_events++;
    for (; i > 0 && event_before(&e, &sim->heap[(i - 1) / 2]); i = (i - 1) / 2)
        sim->heap[i] = sim->heap[(i - 1) / 2];
    sim->heap[i] = e;
}

static struct sim_event sim_pop(struct sim *sim)
{
    struct sim_event top = sim->heap[0], last = sim->heap[--sim->n_events];
    uint32_t i = 0;
    for (;;) {
        uint32_t child = 2 * i + 1;
        if (child >= sim->n_events)
            break;
        if (child + 1 < sim->n_events && event_before(&sim->heap[child + 1], &sim->heap[child]))
            child++;
        if (!event_before(&sim->heap[child], &last))
            break;
        sim->heap[i] = sim->heap[child];
        i = child;
    }
    if (sim->n_events > 0)
        sim->heap[i] = last;
    return top;
}

/* ---- options ---- */

static uint32_t sim_ppm(struct sim *sim, uint32_t max, uint32_t off_percent)
{
    return rng_below(&sim->rng, 100) < off_percent ? 0 : rng_below(&sim->rng, max + 1);
}

/* Retries that borrow the very block of an earlier attempt, whose completion is still on its way:
 * the generation alone tells the two apart. */
static void sim_options_retry(struct sim *sim)
{
    struct sim_options *o = &sim->opts;
    o->n_decode = 1;
    o->n_prefill += o->n_prefill == 0;
    o->n_unified = 0;
    o->prompt_max = 1 + rng_below(&sim->rng, SIM_BLOCK_TOKENS - 1);
    o->token_ns = 40 * NS_PER_US << 6;
    o->arrival_ns = 400 * NS_PER_MS;
    o->output_max = 1 + rng_below(&sim->rng, 8);
    o->write_max_ns = 60 * NS_PER_MS;
    o->prefilled_loss_ppm = o->late_record_ppm = 800000;
    o->timeout_ns = sim_between(sim, 50 * NS_PER_MS, 200 * NS_PER_MS);
    o->late_record_ns = 3 * o->timeout_ns;
    o->loss_ppm = o->repeat_ppm = o->reorder_ppm = o->push_fail_ppm = 0;
    o->crash_ppm = o->pause_ppm = o->disconnect_ppm = 0;
}

/* Long answers that outgrow the pool together. */
static void sim_options_crowd(struct sim *sim)
{
    struct sim_options *o = &sim->opts;
    o->prompt_max = 1 + rng_below(&sim->rng, 40);
    o->output_max = 60 + rng_below(&sim->rng, 160);
    uint32_t fit = (o->prompt_max + o->output_max) / SIM_BLOCK_TOKENS + 3;
    o->blocks = fit + rng_below(&sim->rng, fit);
    o->batch_seqs = 4 + rng_below(&sim->rng, 12);
    o->arrival_ns = sim_between(sim, 0, 20 * NS_PER_MS);
    o->token_ns = 40 * NS_PER_US;
}

static void sim_options_draw(struct sim *sim)
{
    struct sim_options *o = &sim->opts;
    o->n_prefill = 1 + rng_below(&sim->rng, 2);
    o->n_decode = 1 + rng_below(&sim->rng, 2);
    o->n_unified = rng_below(&sim->rng, 4) == 0;
    if (rng_below(&sim->rng, 10) == 0) { /* unified only */
        o->n_prefill = o->n_decode = 0;
        o->n_unified = 1 + rng_below(&sim->rng, 2);
    }
    o->n_requests = 8 + rng_below(&sim->rng, SIM_REQUESTS_MAX - 8);
    /* Short prompts lend one block, which the next attempt is likely to get again. */
    o->prompt_max = 1 + rng_below(&sim->rng, rng_below(&sim->rng, 3) == 0 ? SIM_BLOCK_TOKENS : 300);
    o->output_max = 1 + rng_below(&sim->rng, 60);
    uint32_t fit = (o->prompt_max + o->output_max) / SIM_BLOCK_TOKENS + 3;
    o->blocks = fit + rng_below(&sim->rng, fit * 6); /* from hardly one request to plenty */
    o->layers = 1 + rng_below(&sim->rng, 4);
    o->layer_groups = 1 + rng_below(&sim->rng, o->layers);
    o->chunk_tokens = SIM_BLOCK_TOKENS * (1 + rng_below(&sim->rng, 8));
    o->batch_tokens = o->chunk_tokens + rng_below(&sim->rng, 128);
    o->batch_seqs = 1 + rng_below(&sim->rng, 16);
    o->token_ns = 40 * NS_PER_US << (rng_below(&sim->rng, 3) * 3); /* slow steps meet more faults */
    o->arrival_ns = sim_between(sim, 0, rng_below(&sim->rng, 2) ? 20 * NS_PER_MS : 150 * NS_PER_MS);
    o->delay_min_ns = sim_between(sim, 10 * NS_PER_US, 200 * NS_PER_US);
    o->delay_max_ns =
        o->delay_min_ns +
        sim_between(sim, 0, rng_below(&sim->rng, 4) == 0 ? 200 * NS_PER_MS : 2 * NS_PER_MS);
    o->loss_ppm = sim_ppm(sim, rng_below(&sim->rng, 4) == 0 ? 200000 : 50000, 40);
    o->repeat_ppm = sim_ppm(sim, 200000, 40);
    o->reorder_ppm = sim_ppm(sim, 100000, 40);
    o->write_max_ns = sim_between(sim, 50 * NS_PER_US, 30 * NS_PER_MS);
    o->push_fail_ppm = sim_ppm(sim, 50000, 50);
    o->late_record_ppm = sim_ppm(sim, 300000, 60);
    o->late_record_ns = (10 * NS_PER_MS) << rng_below(&sim->rng, 9);
    o->timeout_ns =
        rng_below(&sim->rng, 2) ? 2 * NS_PER_S : sim_between(sim, 50 * NS_PER_MS, NS_PER_S);
    o->prefilled_loss_ppm = sim_ppm(sim, 600000, 60);
    o->crash_ppm = sim_ppm(sim, 30000, 40);
    o->pause_ppm = sim_ppm(sim, 80000, 40);
    o->disconnect_ppm = sim_ppm(sim, 20000, 50);
    o->pause_max_ns =
        sim_between(sim, 10 * NS_PER_MS, rng_below(&sim->rng, 2) ? NS_PER_S : 4 * NS_PER_S);
    o->cancel_ppm = sim_ppm(sim, 400000, 30);
    o->stop_ppm = sim_ppm(sim, 20000, 50);
    o->shared_prefix_ppm = sim_ppm(sim, 700000, 30);
    o->remote_hosts = rng_below(&sim->rng, 2);
    o->steps_max = rng_below(&sim->rng, 8) == 0 ? 1 : SIM_STEPS_MAX;
    o->step_fail_ppm = sim_ppm(sim, 3000, 60);
    o->ahead_prompt_tokens = rng_below(&sim->rng, 4) == 0 ? SIM_BLOCK_TOKENS : UINT32_MAX;
    uint32_t special = rng_below(&sim->rng, 20);
    if (special < 2)
        sim_options_retry(sim);
    else if (special < 5)
        sim_options_crowd(sim);
}

/* ---- clients ---- */

static void request_fill(struct sim *sim, struct sim_request *r)
{
    const struct sim_options *o = &sim->opts;
    uint32_t shared = 0;
    r->n_prompt = 1 + rng_below(&sim->rng, o->prompt_max);
    r->n_choices = rng_below(&sim->rng, 4) == 0 ? 1 + rng_below(&sim->rng, SIM_CHOICES_MAX) : 1;
    r->salt[0] = (uint8_t)rng_below(&sim->rng, 2);
    if (sim->n_requests > 0 && sim_chance(sim, o->shared_prefix_ppm)) {
        const struct sim_request *other = &sim->requests[rng_below(&sim->rng, sim->n_requests)];
        shared = rng_below(&sim->rng,
                           (other->n_prompt < r->n_prompt ? other->n_prompt : r->n_prompt) + 1);
        memcpy(r->tokens, other->tokens, shared * sizeof(uint32_t));
        if (sim_chance(sim, 800000))
            memcpy(r->salt, other->salt, sizeof(r->salt));
    }
    for (uint32_t i = shared; i < r->n_prompt; i++)
        r->tokens[i] = rng_below(&sim->rng, SIM_VOCAB);
    struct wire_sampling *s = &r->sampling;
    s->temperature = (float)rng_below(&sim->rng, 3) * 0.5f;
    s->top_p = 1.0f;
    s->top_k = rng_below(&sim->rng, 2) * 40;
    s->seed = rng_u64(&sim->rng);
    s->max_new_tokens = 1 + rng_below(&sim->rng, o->output_max);
    if (rng_below(&sim->rng, 2) == 0) {
        s->n_stop_ids = 1 + rng_below(&sim->rng, 2);
        for (uint32_t i = 0; i < s->n_stop_ids; i++)
            s->stop_ids[i] = rng_below(&sim->rng, SIM_VOCAB);
        s->min_new_tokens = rng_below(&sim->rng, 6);
    }
    s->ignore_eos = rng_below(&sim->rng, 2);
}

static void sim_arrival(struct sim *sim)
{
    if (sim->n_requests == sim->opts.n_requests)
        return;
    struct sim_request *r = &sim->requests[sim->n_requests];
    request_fill(sim, r);
    sim->n_requests++;
    struct router_request req = {.tokens = r->tokens,
                                 .n_tokens = r->n_prompt,
                                 .n_choices = r->n_choices,
                                 .sampling = r->sampling,
                                 .deadline_ns = sim->now + 40 * NS_PER_S,
                                 .tag = sim->n_requests - 1};
    memcpy(req.salt, r->salt, sizeof(req.salt));
    for (uint32_t c = 0; c < r->n_choices; c++)
        sim_expect_init(sim, r, c);
    enum status st = router_core_submit(sim->router, sim->now, &req, &r->id);
    sim_trace(sim, "submit", sim->n_requests - 1, st);
    sim->counts.requests++;
    if (st == ST_OK) {
        r->submitted = r->live = true;
        if (sim_chance(sim, sim->opts.cancel_ppm))
            sim_schedule(
                sim, sim_between(sim, 0, 300 * NS_PER_MS),
                &(struct sim_event){.kind = SIM_ARRIVAL, .worker = SIM_NO_WORKER, .id = r->id});
    } else {
        sim->counts.refused++;
        if (st != ST_UNAVAILABLE && st != ST_FULL && st != ST_NO_MEMORY)
            sim_violation(sim, "submit refused with %s", status_name(st));
    }
    sim_schedule(sim, sim_between(sim, 0, 2 * sim->opts.arrival_ns),
                 &(struct sim_event){.kind = SIM_ARRIVAL, .worker = SIM_NO_WORKER});
}

static void sim_cancel(struct sim *sim, uint64_t id)
{
    struct sim_request *r = sim_request_of(sim, id);
    if (r == NULL)
        return;
    sim_trace(sim, "cancel", id, 0);
    r->live = false;
    r->cancelled = true;
    sim->counts.cancelled++;
    router_core_cancel(sim->router, sim->now, id);
}

static void sim_tokens(struct sim *sim, const struct router_action *act)
{
    struct sim_request *r = sim_request_of(sim, act->request);
    if (r == NULL) {
        sim_violation(sim, "tokens for request %llu that is not live",
                      (unsigned long long)act->request);
        return;
    }
    struct sim_choice *c = &r->choices[act->choice];
    sim_trace(sim, "tokens", act->request << 8 | act->choice, act->position);
    if (c->ended || act->position != c->n_tokens) {
        sim_violation(sim, "choice %u of request %llu: position %u after %u tokens%s", act->choice,
                      (unsigned long long)act->request, act->position, c->n_tokens,
                      c->ended ? ", ended" : "");
        return;
    }
    for (uint32_t i = 0; i < act->n_tokens && !sim->violated; i++)
        sim_expect_token(sim, r, act->choice, act->tokens[i]);
    sim->counts.tokens += act->n_tokens;
    sim_expect_finish(sim, r, act->choice, act->finish);
    if (!c->ended && act->n_tokens > 0 && sim_chance(sim, sim->opts.stop_ppm)) {
        c->ended = true;
        router_core_stop(sim->router, sim->now, act->request, act->choice);
    }
}

static void sim_ended(struct sim *sim, const struct router_action *act)
{
    struct sim_request *r = sim_request_of(sim, act->request);
    sim_trace(sim, act->kind == ROUTER_DONE ? "done" : "fail", act->request, act->status);
    if (r == NULL) {
        sim_violation(sim, "request %llu ended twice or after its cancel",
                      (unsigned long long)act->request);
        return;
    }
    r->live = false;
    if (act->kind == ROUTER_FAIL) {
        sim->counts.failed++;
        return;
    }
    sim->counts.done++;
    for (uint32_t c = 0; c < r->n_choices; c++)
        if (!r->choices[c].ended)
            sim_violation(sim, "request %llu done but choice %u has not ended",
                          (unsigned long long)act->request, c);
}

void sim_router_pump(struct sim *sim)
{
    struct router_action act;
    while (!sim->violated && router_core_next_action(sim->router, &act)) {
        switch (act.kind) {
        case ROUTER_SEND:
            sim_check_attempt(sim, act.msg);
            for (uint32_t i = 0; i < sim->n_workers; i++)
                if (sim->workers[i].router_side_up && sim->workers[i].slot == act.worker)
                    sim_send(sim, i, false, act.msg);
            break;
        case ROUTER_TOKENS:
            sim_tokens(sim, &act);
            break;
        case ROUTER_DONE:
        case ROUTER_FAIL:
            sim_ended(sim, &act);
            break;
        case ROUTER_DROP:
            sim_trace(sim, "drop", act.worker, act.status);
            for (uint32_t i = 0; i < sim->n_workers; i++)
                if (sim->workers[i].router_side_up && sim->workers[i].slot == act.worker) {
                    sim->workers[i].router_side_up = false;
                    sim_disconnect(sim, i);
                }
            break;
        }
    }
    uint64_t at = router_core_deadline(sim->router);
    if (at != UINT64_MAX && (sim->router_tick_at <= sim->now || at < sim->router_tick_at)) {
        sim->router_tick_at = at > sim->now ? at : sim->now + 1;
        sim_schedule(sim, sim->router_tick_at - sim->now,
                     &(struct sim_event){.kind = SIM_TICK, .worker = SIM_NO_WORKER});
    }
}

/* ---- faults and the run ---- */

static void sim_fault(struct sim *sim)
{
    if (sim->healing)
        return;
    uint32_t i = rng_below(&sim->rng, sim->n_workers);
    struct sim_worker *w = &sim->workers[i];
    if (w->up && sim_chance(sim, sim->opts.crash_ppm)) {
        sim_worker_crash(sim, i);
    } else if (w->up && !w->paused && sim_chance(sim, sim->opts.pause_ppm)) {
        w->paused = true;
        w->pause_until = sim->now + sim_between(sim, NS_PER_MS, sim->opts.pause_max_ns);
        sim->counts.pauses++;
        sim_trace(sim, "pause", i, w->pause_until);
        sim_schedule(
            sim, w->pause_until - sim->now,
            &(struct sim_event){.kind = SIM_RESUME, .worker = i, .incarnation = w->incarnation});
    } else if (w->connection != 0 && sim_chance(sim, sim->opts.disconnect_ppm)) {
        sim->counts.disconnects++;
        sim_disconnect(sim, i);
    }
    sim_schedule(sim, FAULT_TICK_NS,
                 &(struct sim_event){.kind = SIM_FAULT, .worker = SIM_NO_WORKER});
}

static void sim_router_event(struct sim *sim, struct sim_event *event)
{
    switch (event->kind) {
    case SIM_FRAME:
        sim_frame(sim, event);
        break;
    case SIM_CONN_DOWN:
        sim_conn_down(sim, event);
        break;
    case SIM_TICK:
        router_core_tick(sim->router, sim->now);
        break;
    case SIM_ARRIVAL:
        if (event->id != 0)
            sim_cancel(sim, event->id);
        else
            sim_arrival(sim);
        break;
    case SIM_FAULT:
        sim_fault(sim);
        break;
    default:
        break;
    }
    sim_router_pump(sim);
}

static bool sim_is_idle(const struct sim *sim)
{
    if (!router_core_is_idle(sim->router) || router_core_counts(sim->router).cancels_pending > 0)
        return false;
    for (uint32_t i = 0; i < sim->n_workers; i++)
        if (!sim->workers[i].up || !sim->workers[i].router_side_up ||
            !worker_core_is_idle(sim->workers[i].core) ||
            kv_pool_counts(worker_core_pool(sim->workers[i].core)).quarantined > 0)
            return false;
    return true;
}

static void sim_loop(struct sim *sim)
{
    uint64_t heal_at = 0;
    while (!sim->violated && sim->n_events > 0) {
        struct sim_event event = sim_pop(sim);
        sim->now = event.at;
        sim->counts.events++;
        sim->trace = hash_combine(
            sim->trace, hash_combine(event.at, (uint64_t)event.kind << 32 | event.worker));
        if (event.worker == SIM_NO_WORKER)
            sim_router_event(sim, &event);
        else
            sim_worker_event(sim, &event);
        free(event.data);
        sim_check(sim);
        bool all_in = sim->n_requests == sim->opts.n_requests;
        if (all_in && !sim->healing) {
            bool any_live = false;
            for (uint32_t i = 0; i < sim->n_requests; i++)
                any_live |= sim->requests[i].live;
            if (!any_live || sim->now > 20 * NS_PER_S) {
                sim->healing = true;
                heal_at = sim->now;
            }
        }
        if (sim->healing && sim_is_idle(sim))
            return;
        if (sim->healing && sim->now - heal_at > HEAL_LIMIT_NS) {
            sim_violation(sim, "not drained %llu s after the last fault",
                          (unsigned long long)(HEAL_LIMIT_NS / NS_PER_S));
            return;
        }
        if (sim->counts.events > RUN_LIMIT_EVENTS)
            sim_violation(sim, "more than %u events", RUN_LIMIT_EVENTS);
    }
}

static enum status sim_router_start(struct sim *sim)
{
    struct router_core_opts opts = {
        .instance = sim->router_instance,
        .requests_max = SIM_REQUESTS_MAX,
        .choices_max = SIM_REQUESTS_MAX * SIM_CHOICES_MAX,
        .tokens_max = SIM_REQUESTS_MAX * SIM_CHOICES_MAX * SIM_TOKENS_MAX,
        .attempts_max = 6,
        .local_prefill_max_tokens = rng_below(&sim->rng, 3) * SIM_BLOCK_TOKENS,
        .prefix_routing = rng_below(&sim->rng, 4) != 0,
        .prefix_index_max = 4096,
        .worker_inflight_max = rng_below(&sim->rng, 2) * 8,
        .heartbeat_timeout_ns = 1500 * NS_PER_MS,
        .reserve_timeout_ns = sim->opts.timeout_ns,
        .prefill_timeout_ns = sim->opts.timeout_ns,
        .prefill_ns_per_token = NS_PER_MS,
        .decode_timeout_ns = sim->opts.timeout_ns,
        .cancel_retry_ns = 50 * NS_PER_MS,
        .seed = sim->seed,
    };
    memcpy(opts.cache_secret, sim->cache_secret, sizeof(opts.cache_secret));
    return router_core_create(&opts, &sim->router);
}

static void sim_deinit(struct sim *sim)
{
    for (uint32_t i = 0; i < sim->n_workers; i++)
        sim_worker_stop(sim, i);
    for (uint32_t i = 0; i < sim->n_events; i++)
        free(sim->heap[i].data);
    router_core_destroy(sim->router);
    arena_deinit(&sim->scratch);
    buf_deinit(&sim->frame);
    free(sim->heap);
    free(sim->requests);
}

enum status sim_run(struct sim *sim, uint64_t seed, bool trace_print)
{
    *sim = (struct sim){
        .seed = seed, .rng = {.seed = seed}, .trace_print = trace_print, .now = NS_PER_S};
    sim->heap = calloc(SIM_EVENTS_MAX, sizeof(*sim->heap));
    sim->requests = calloc(SIM_REQUESTS_MAX, sizeof(*sim->requests));
    arena_init(&sim->scratch, 64u << 20);
    buf_init(&sim->frame, 32u << 20);
    memset(sim->cache_secret, 7, sizeof(sim->cache_secret));
    sim->router_instance = hash_combine(seed, 0xffff);
    sim_options_draw(sim);
    enum status st =
        sim->heap != NULL && sim->requests != NULL ? sim_router_start(sim) : ST_NO_MEMORY;
    sim->n_workers = sim->opts.n_prefill + sim->opts.n_decode + sim->opts.n_unified;
    for (uint32_t i = 0; i < sim->n_workers && st == ST_OK; i++) {
        sim->workers[i].role = i < sim->opts.n_prefill                        ? WIRE_ROLE_PREFILL
                               : i < sim->opts.n_prefill + sim->opts.n_decode ? WIRE_ROLE_DECODE
                                                                              : WIRE_ROLE_UNIFIED;
        st = sim_worker_start(sim, i);
        sim_schedule(
            sim, sim_between(sim, 0, 20 * NS_PER_MS),
            &(struct sim_event){.kind = SIM_CONNECT, .worker = i, .incarnation = UINT64_MAX});
    }
    sim_schedule(sim, 25 * NS_PER_MS,
                 &(struct sim_event){.kind = SIM_ARRIVAL, .worker = SIM_NO_WORKER});
    sim_schedule(sim, 30 * NS_PER_MS,
                 &(struct sim_event){.kind = SIM_FAULT, .worker = SIM_NO_WORKER});
    if (st != ST_OK)
        sim_violation(sim, "set-up failed: %s", status_name(st));
    else
        sim_loop(sim);
    if (!sim->violated)
        sim_check_drained(sim);
    sim_deinit(sim);
    return sim->violated ? ST_INTERNAL : ST_OK;
}
