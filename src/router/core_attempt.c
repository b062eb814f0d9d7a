/* Attempts: queue, dispatch, and what the workers say of the current one. */
#include "router/core_int.h"

#include <string.h>

void rc_queue(struct router_core *core, struct rc_choice *c, bool first)
{
    c->state = RC_QUEUED;
    if (first)
        list_add_head(&core->queue, &c->node);
    else
        list_add_tail(&core->queue, &c->node);
    core->n_queued++;
}

static void leg_begin(struct router_core *core, struct rc_leg *leg, uint32_t slot)
{
    leg->worker = slot;
    leg->life = core->workers[slot].life;
    core->workers[slot].inflight++;
}

static void leg_end(struct router_core *core, struct rc_leg *leg)
{
    if (rc_leg_is_up(core, leg))
        core->workers[leg->worker].inflight--;
    leg->worker = RC_NONE;
}

/* The prompt tokens that a worker is to compute weigh on it until they are done. */
static void pending_set(struct router_core *core, struct rc_choice *c, const struct rc_leg *leg,
                        uint32_t tokens)
{
    c->pending_tokens = tokens;
    core->workers[leg->worker].cost.pending_tokens += tokens;
}

static void pending_clear(struct router_core *core, struct rc_choice *c)
{
    const struct rc_leg *leg = c->local ? &c->decode : &c->prefill;
    if (c->pending_tokens > 0 && rc_leg_is_up(core, leg))
        core->workers[leg->worker].cost.pending_tokens -= c->pending_tokens;
    c->pending_tokens = 0;
}

/* Frees what the attempt counts for; its legs are not told (rc_cancel_start does that). */
void rc_attempt_detach(struct router_core *core, struct rc_choice *c)
{
    pending_clear(core, c);
    leg_end(core, &c->decode);
    leg_end(core, &c->prefill);
    core->n_active--;
}

static void state_set(struct router_core *core, struct rc_choice *c, enum rc_state state,
                      uint64_t deadline_ns)
{
    c->state = state;
    c->deadline_ns = deadline_ns;
    rc_deadline(core, deadline_ns);
}

static uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* Starts the next attempt of a queued choice. A worker has room for it. */
static void dispatch_one(struct router_core *core, uint64_t now, struct rc_choice *c)
{
    uint32_t hits[ROUTER_WORKERS_MAX];
    struct rc_request *r = &core->requests[c->request];
    rc_route_hits(core, r, c, hits);
    uint32_t d = rc_route_decode(core, c, hits);
    struct rc_worker *w = &core->workers[d];
    uint32_t p = rc_route_prefill(core, c, d, hits);
    uint32_t cached = min_u32(hits[d], c->n_tokens - 1);
    const struct rc_choice *first = &core->choices[r->choices[0]];
    if (c != first && first->decode.worker == d && first->state == RC_DECODING)
        cached = c->n_tokens - 1; /* a sibling finds the prompt in the cache */
    uint32_t uncached = c->n_tokens - cached;
    list_del(&c->node);
    core->n_queued--;
    core->n_active++;
#if defined(DYND_PLANT) && DYND_PLANT == 2
    if (c->attempt == 0) /* planted bug: a retry reuses the number */
        c->attempt = 1;
#else
    c->attempt++;
#endif
    core->counts.attempts++;
    core->counts.retries += c->attempt > 1;
    core->counts.prefix_query_tokens += c->n_tokens;
    core->counts.prefix_hit_tokens += hits[d];
    c->local =
        w->hello.role == WIRE_ROLE_UNIFIED ||
        cost_prefers_local(&w->cost, uncached, p != RC_NONE ? &core->workers[p].cost : NULL,
                           p != RC_NONE ? c->n_tokens - min_u32(hits[p], c->n_tokens - 1) : 0,
                           core->opts.local_prefill_max_tokens);
    c->writer_done = true; /* no PREFILL was sent */
    c->prefill_over = c->confirmed = false;
    c->writer = 0;
    c->decode_holds = true;
    c->n_blocks = 0;
    c->sent_ns = now;
    c->last_tokens_ns = 0;
    leg_begin(core, &c->decode, d);
    if (c->local) {
        core->counts.local_prefills++;
        pending_set(core, c, &c->decode, uncached);
    } else {
        core->counts.remote_prefills++;
    }
    w->claimed_blocks += uncached / w->hello.pool.block_tokens + 1;
    struct rc_action *act = rc_send(core, WIRE_RESERVE, d);
    act->request = r->id;
    act->choice = c->choice;
    act->attempt = c->attempt;
    state_set(core, c, RC_RESERVING, now + core->opts.reserve_timeout_ns);
}

void rc_dispatch(struct router_core *core, uint64_t now)
{
    struct list *node, *next;
    list_for_each_safe(node, next, &core->queue)
    {
        struct rc_choice *c = list_entry(node, struct rc_choice, node);
        /* Every attempt under way may need a cancel record, and an event may cause many actions. */
        if (core->cancels_max - core->n_cancels <= core->n_active ||
            rc_action_room(core) < core->actions_max / 2)
            return;
        if (c->not_before_ns > now) {
            rc_deadline(core, c->not_before_ns);
            continue;
        }
        enum rc_room room = rc_route_room(core, c);
        if (room == RC_ROOM_LATER)
            return; /* first come, first served */
        if (room == RC_ROOM_NOW)
            dispatch_one(core, now, c);
        /* One that no worker could hold now waits for one that comes back, in nobody's way. */
    }
}

static bool is_want_of_room(enum status st)
{
    return st == ST_FULL || st == ST_NO_BLOCKS || st == ST_DRAINING || st == ST_AGAIN;
}

/* The current attempt is over without success: cancel its legs, queue the next or give up.
 * culprit: slot to avoid next time, RC_NONE when nobody is to blame. */
void rc_attempt_end(struct router_core *core, uint64_t now, struct rc_choice *c, enum status st,
                    uint32_t culprit)
{
    rc_cancel_start(core, now, c);
    rc_attempt_detach(core, c);
    c->avoid = culprit;
    c->state = RC_DONE; /* until it is queued again */
    if (is_want_of_room(st)) {
        c->not_before_ns = now + RC_ROOM_WAIT_NS;
    } else if (++c->tries >= core->opts.attempts_max) {
        rc_request_fail(core, now, &core->requests[c->request], st);
        return;
    }
    rc_queue(core, c, true);
}

/* The choice when seq names its current attempt and slot is its leg; else counts a stale message.
 */
static struct rc_choice *current(struct router_core *core, const struct wire_seq *seq,
                                 uint32_t slot, bool prefill_leg)
{
    struct rc_choice *c = rc_choice_of(core, seq);
    if (c != NULL && c->attempt == seq->attempt &&
        (c->state == RC_RESERVING || c->state == RC_PREFILLING || c->state == RC_DECODING)) {
        const struct rc_leg *leg = prefill_leg ? &c->prefill : &c->decode;
        if (leg->worker == slot && rc_leg_is_up(core, leg))
            return c;
    }
    core->counts.stale_messages++;
    return NULL;
}

/* The blocks must be of the pool that the worker announced, and cover what is not cached there. */
static bool reserved_is_right(const struct rc_choice *c, const struct wire_pool *pool,
                              const struct wire_reserved *m)
{
    if (m->cached_tokens >= c->n_tokens || m->cached_tokens % pool->block_tokens != 0)
        return false;
    uint32_t uncached = c->n_tokens - m->cached_tokens;
    return c->local ||
           (m->n_blocks == (uncached - 1) / pool->block_tokens + 1 &&
            m->n_blocks <= c->blocks_max && m->epoch == pool->epoch && m->pool == pool->pool);
}

void rc_on_reserved(struct router_core *core, uint64_t now, uint32_t slot,
                    const struct wire_reserved *m)
{
    struct rc_choice *c = current(core, &m->seq, slot, false);
    if (c == NULL || c->state != RC_RESERVING)
        return;
    struct rc_request *r = &core->requests[c->request];
    uint32_t hits[ROUTER_WORKERS_MAX];
    if (!reserved_is_right(c, &core->workers[slot].hello.pool, m)) {
        rc_attempt_end(core, now, c, ST_MISMATCH, slot);
        return;
    }
    c->cached_tokens = m->cached_tokens;
    if (c->choice == 0 && c->n_tokens == r->n_prompt)
        r->cached_tokens = m->cached_tokens;
    uint64_t compute_ns =
        (uint64_t)(c->n_tokens - m->cached_tokens) * core->opts.prefill_ns_per_token;
    if (c->local) {
        uint64_t queue_ns =
            core->workers[slot].cost.pending_tokens * core->opts.prefill_ns_per_token;
        state_set(core, c, RC_DECODING,
                  now + core->opts.prefill_timeout_ns + compute_ns + queue_ns);
        return;
    }
    rc_route_hits(core, r, c, hits);
    uint32_t p = rc_route_prefill(core, c, slot, hits);
    if (p == RC_NONE) { /* gone meanwhile: next time locally */
        rc_attempt_end(core, now, c, ST_AGAIN, RC_NONE);
        return;
    }
    memcpy(c->blocks, m->blocks, m->n_blocks * sizeof(*m->blocks));
    c->n_blocks = m->n_blocks;
    c->pool = m->pool;
    c->epoch = m->epoch;
    c->writer_done = false;
    c->writer = core->workers[p].hello.instance;
    leg_begin(core, &c->prefill, p);
    uint64_t queue_ns = core->workers[p].cost.pending_tokens * core->opts.prefill_ns_per_token;
    pending_set(core, c, &c->prefill, c->n_tokens - min_u32(hits[p], c->n_tokens - 1));
    struct rc_action *act = rc_send(core, WIRE_PREFILL, p);
    act->request = r->id;
    act->choice = c->choice;
    act->attempt = c->attempt;
    state_set(core, c, RC_PREFILLING, now + core->opts.prefill_timeout_ns + compute_ns + queue_ns);
}

/* Appends tokens to the log and tells the caller. */
static void commit(struct router_core *core, struct rc_choice *c, const uint32_t *tokens,
                   uint32_t n, uint32_t finish)
{
    struct rc_request *r = &core->requests[c->request];
    uint32_t position = c->n_tokens - r->n_prompt;
    if (n > 0)
        memcpy(c->tokens + c->n_tokens, tokens, n * sizeof(uint32_t));
    struct rc_action *act = rc_action_add(core, ROUTER_TOKENS);
    act->request = r->id;
    act->tag = r->tag;
    act->choice = c->choice;
    act->position = position;
    act->n_tokens = n;
    act->tokens = c->tokens + c->n_tokens;
    act->finish = finish;
    act->cached_tokens = r->cached_tokens;
    if (c->choice == 0 && position == 0 && n > 0)
        r->remote = !c->local;
    act->remote = r->remote;
    c->n_tokens += n;
    if (n == 0)
        return;
    c->avoid = RC_NONE;
    rc_siblings_start(core, r);
}

void rc_on_prefilled(struct router_core *core, uint64_t now, uint32_t slot,
                     const struct wire_prefilled *m)
{
    struct rc_choice *c = current(core, &m->seq, slot, true);
    if (c == NULL || c->writer_done)
        return;
    const struct rc_request *r = &core->requests[c->request];
    uint32_t computed = c->n_tokens > m->cached_tokens ? c->n_tokens - m->cached_tokens : 1;
    cost_prefill_sample(&core->workers[slot].cost, computed, m->compute_us);
    c->writer_done = true;
    pending_clear(core, c);
    leg_end(core, &c->prefill);
    if (c->state != RC_PREFILLING)
        return; /* the decode worker was faster */
    state_set(core, c, RC_DECODING, now + core->opts.decode_timeout_ns);
    c->last_tokens_ns = now;
    if (m->position == c->n_tokens - r->n_prompt && c->n_tokens < c->capacity)
        commit(core, c, &m->token, 1, WIRE_FINISH_NONE);
}

static void on_tokens_entry(struct router_core *core, uint64_t now, uint32_t slot,
                            const struct wire_tokens_entry *e)
{
    struct rc_choice *c = current(core, &e->seq, slot, false);
    if (c == NULL)
        return;
    const struct rc_request *r = &core->requests[c->request];
    uint32_t committed = c->n_tokens - r->n_prompt;
    if (e->position > committed) { /* something was lost on the way: the deadline sees to it */
        core->counts.stale_messages++;
        return;
    }
    uint32_t known = min_u32(committed - e->position, e->n_tokens), n_new = e->n_tokens - known;
    /* What was sent is never changed: a worker that says otherwise has lost the thread. */
    if ((known > 0 &&
         memcmp(c->tokens + r->n_prompt + e->position, e->tokens, known * sizeof(uint32_t)) != 0) ||
        n_new > c->capacity - c->n_tokens) {
        rc_attempt_end(core, now, c, ST_MISMATCH, slot);
        return;
    }
    if (c->local && c->pending_tokens > 0) {
        if (now > c->sent_ns)
            cost_prefill_sample(&core->workers[slot].cost, c->pending_tokens,
                                (uint32_t)((now - c->sent_ns) / NS_PER_US));
        pending_clear(core, c);
    } else if (c->last_tokens_ns > 0 && now > c->last_tokens_ns) {
        cost_step_sample(&core->workers[slot].cost, now - c->last_tokens_ns);
    }
    c->last_tokens_ns = now;
    c->confirmed = true;
    state_set(core, c, RC_DECODING, now + core->opts.decode_timeout_ns);
    if (n_new > 0 || e->finish != WIRE_FINISH_NONE)
        commit(core, c, n_new > 0 ? e->tokens + known : NULL, n_new, e->finish);
    if (e->finish == WIRE_FINISH_NONE)
        return;
    if (!c->writer_done)
        c->writer_done = true; /* it decoded, so the blocks were complete */
    rc_attempt_detach(core, c);
    rc_choice_done(core, now, c);
}

void rc_on_tokens(struct router_core *core, uint64_t now, uint32_t slot,
                  const struct wire_tokens *m)
{
    for (uint32_t i = 0; i < m->n_entries; i++)
        on_tokens_entry(core, now, slot, &m->entries[i]);
}

void rc_on_failed(struct router_core *core, uint64_t now, uint32_t slot,
                  const struct wire_failed *m)
{
    struct rc_choice *c = rc_choice_of(core, &m->seq);
    enum status st = m->status == ST_OK || m->status >= ST_COUNT ? ST_INTERNAL : m->status;
    bool is_current =
        c != NULL && c->attempt == m->seq.attempt &&
        (c->state == RC_RESERVING || c->state == RC_PREFILLING || c->state == RC_DECODING);
    if (is_current && c->prefill.worker == slot && rc_leg_is_up(core, &c->prefill)) {
        /* It writes no more; whether all has landed it may not know. */
        c->writer_done |= m->writer_done != 0;
        c->prefill_over = true;
        /* It does not know the decode worker, or has lost it: say again how to reach it. */
        if (st == ST_PEER_LOST && rc_leg_is_up(core, &c->decode))
            rc_send(core, WIRE_PEER, slot)->peer = c->decode.worker;
        rc_attempt_end(core, now, c, st, slot);
    } else if (is_current && c->decode.worker == slot && rc_leg_is_up(core, &c->decode)) {
        if (m->writer_done)
            c->decode_holds = false;
        rc_attempt_end(core, now, c, st, slot);
    } else {
        rc_cancel_failed(core, now, slot, m);
    }
}
