/* Life of requests: admission, ends, and the entry points of the router core. */
#include "router/core_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CANCELS_PER_CHOICE 4u

static bool core_alloc(struct router_core *core)
{
    const struct router_core_opts *o = &core->opts;
    core->extents_max = 2 * o->choices_max + 2;
    core->cancels_max = CANCELS_PER_CHOICE * o->choices_max;
    core->actions_max = 1;
    while (core->actions_max < 8 * o->choices_max + 16384)
        core->actions_max *= 2;
    core->requests = calloc(o->requests_max, sizeof(*core->requests));
    core->free_requests = calloc(o->requests_max, sizeof(uint32_t));
    core->choices = calloc(o->choices_max, sizeof(*core->choices));
    core->free_choices = calloc(o->choices_max, sizeof(uint32_t));
    core->slab = calloc(o->tokens_max, sizeof(uint32_t));
    core->extents = calloc(core->extents_max, sizeof(*core->extents));
    core->cancels = calloc(core->cancels_max, sizeof(*core->cancels));
    core->actions = calloc(core->actions_max, sizeof(*core->actions));
    return core->requests != NULL && core->free_requests != NULL && core->choices != NULL &&
           core->free_choices != NULL && core->slab != NULL && core->extents != NULL &&
           core->cancels != NULL && core->actions != NULL &&
           map_init(&core->by_id, o->requests_max) == ST_OK &&
           prefix_index_create(o->prefix_index_max, &core->prefixes) == ST_OK;
}

enum status router_core_create(const struct router_core_opts *opts, struct router_core **out_core)
{
    if (opts->requests_max == 0 || opts->choices_max == 0 || opts->tokens_max == 0 ||
        opts->attempts_max == 0)
        return ST_INVALID;
    struct router_core *core = calloc(1, sizeof(*core));
    if (core == NULL)
        return ST_NO_MEMORY;
    core->opts = *opts;
    core->rng.seed = opts->seed;
    core->next_request = 1;
    core->next_deadline_ns = UINT64_MAX;
    list_init(&core->queue);
    if (!core_alloc(core)) {
        router_core_destroy(core);
        return ST_NO_MEMORY;
    }
    core->extents[0] = (struct rc_extent){0, opts->tokens_max};
    core->n_extents = 1;
    for (uint32_t i = 0; i < opts->requests_max; i++)
        core->free_requests[core->n_free_requests++] = opts->requests_max - 1 - i;
    for (uint32_t i = 0; i < opts->choices_max; i++) {
        core->choices[i].index = i;
        list_init(&core->choices[i].node);
        core->free_choices[core->n_free_choices++] = opts->choices_max - 1 - i;
    }
    *out_core = core;
    return ST_OK;
}

void router_core_destroy(struct router_core *core)
{
    if (core == NULL)
        return;
    map_deinit(&core->by_id);
    prefix_index_destroy(core->prefixes);
    free(core->requests);
    free(core->free_requests);
    free(core->choices);
    free(core->free_choices);
    free(core->slab);
    free(core->extents);
    free(core->cancels);
    free(core->actions);
    free(core);
}

struct rc_request *rc_request_of(struct router_core *core, uint64_t id)
{
    uint32_t index;
    return map_get(&core->by_id, id, &index) ? &core->requests[index] : NULL;
}

struct rc_choice *rc_choice_of(struct router_core *core, const struct wire_seq *seq)
{
    struct rc_request *r = rc_request_of(core, seq->request);
    if (r == NULL || r->ended || seq->choice >= r->n_choices)
        return NULL;
    return &core->choices[r->choices[seq->choice]];
}

void rc_deadline(struct router_core *core, uint64_t at_ns)
{
    if (at_ns < core->next_deadline_ns)
        core->next_deadline_ns = at_ns;
}

/* ---- token slab: first fit, extents sorted by address and coalesced ---- */

static uint32_t *slab_alloc(struct router_core *core, uint32_t words)
{
    for (uint32_t i = 0; i < core->n_extents; i++) {
        struct rc_extent *e = &core->extents[i];
        if (e->words < words)
            continue;
        uint32_t *at = core->slab + e->first;
        e->first += words;
        e->words -= words;
        if (e->words == 0)
            memmove(e, e + 1, (--core->n_extents - i) * sizeof(*e));
        return at;
    }
    return NULL;
}

static void slab_free(struct router_core *core, const uint32_t *at, uint32_t words)
{
    uint32_t first = (uint32_t)(at - core->slab), i = 0;
    struct rc_extent *e = core->extents;
    while (i < core->n_extents && e[i].first < first)
        i++;
    bool joins_left = i > 0 && e[i - 1].first + e[i - 1].words == first;
    bool joins_right = i < core->n_extents && first + words == e[i].first;
    if (joins_left && joins_right) {
        e[i - 1].words += words + e[i].words;
        memmove(&e[i], &e[i + 1], (--core->n_extents - i) * sizeof(*e));
    } else if (joins_left) {
        e[i - 1].words += words;
    } else if (joins_right) {
        e[i].first = first;
        e[i].words += words;
    } else { /* one free extent between two used ones: their number bounds this */
        memmove(&e[i + 1], &e[i], (core->n_extents++ - i) * sizeof(*e));
        e[i] = (struct rc_extent){first, words};
    }
}

/* ---- admission ---- */

static struct rc_choice *choice_take(struct router_core *core, struct rc_request *r,
                                     uint32_t number, const struct router_request *req)
{
    struct rc_choice *c = &core->choices[core->free_choices[core->n_free_choices - 1]];
    uint32_t index = c->index, capacity = req->n_tokens + r->sampling.max_new_tokens;
    uint32_t blocks_max = capacity / 16 + 2, words = capacity + 2 * blocks_max;
    uint32_t *slab = slab_alloc(core, words);
    if (slab == NULL)
        return NULL;
    core->n_free_choices--;
    *c = (struct rc_choice){.state = RC_SIBLING,
                            .index = index,
                            .request = (uint32_t)(r - core->requests),
                            .choice = number,
                            .decode.worker = RC_NONE,
                            .prefill.worker = RC_NONE,
                            .avoid = RC_NONE,
                            .tokens = slab,
                            .n_tokens = req->n_tokens,
                            .capacity = capacity,
                            .slab_words = words,
                            .blocks = (struct wire_block *)(slab + capacity),
                            .blocks_max = blocks_max};
    list_init(&c->node);
    memcpy(slab, req->tokens, req->n_tokens * sizeof(uint32_t));
    return c;
}

/* The longest sequence that a worker could generate, and whether the prompt leaves room in it. */
static enum status check_fit(const struct router_core *core, uint32_t n_tokens,
                             uint32_t *out_context)
{
    bool any = false, context_fits = false;
    *out_context = 0;
    for (uint32_t i = 0; i < ROUTER_WORKERS_MAX; i++) {
        const struct rc_worker *w = &core->workers[i];
        if (!w->up || w->leaving || w->hello.role == WIRE_ROLE_PREFILL)
            continue;
        any = true;
        context_fits |= w->hello.max_context_tokens > n_tokens && n_tokens < WIRE_TOKENS_MAX;
        if (rc_worker_context(core, i) > *out_context)
            *out_context = rc_worker_context(core, i);
    }
    if (!any)
        return ST_UNAVAILABLE;
    if (*out_context > n_tokens)
        return ST_OK;
    return context_fits ? ST_TOO_LARGE : ST_PROMPT_TOO_LONG; /* too large: only the pool is short */
}

enum status router_core_submit(struct router_core *core, uint64_t now_ns,
                               const struct router_request *req, uint64_t *out_request)
{
    uint32_t context;
    if (core->draining)
        return ST_DRAINING;
    if (req->n_tokens == 0 || req->n_choices == 0 || req->n_choices > ROUTER_CHOICES_MAX ||
        req->n_tokens > WIRE_TOKENS_MAX || req->sampling.n_stop_ids > WIRE_STOP_IDS_MAX)
        return ST_INVALID;
    enum status st = check_fit(core, req->n_tokens, &context);
    if (st != ST_OK)
        return st;
    if (core->n_free_requests == 0 || core->n_free_choices < req->n_choices)
        return ST_FULL;
    uint32_t index = core->free_requests[core->n_free_requests - 1];
    struct rc_request *r = &core->requests[index];
    *r = (struct rc_request){.id = core->next_request,
                             .tag = req->tag,
                             .deadline_ns = req->deadline_ns,
                             .sampling = req->sampling,
                             .n_prompt = req->n_tokens};
    memcpy(r->salt, req->salt, sizeof(r->salt));
    uint32_t room = context - req->n_tokens;
    if (r->sampling.max_new_tokens == 0 || r->sampling.max_new_tokens > room)
        r->sampling.max_new_tokens = room;
    for (uint32_t i = 0; i < req->n_choices; i++) {
        struct rc_choice *c = choice_take(core, r, i, req);
        if (c == NULL) {
            rc_request_release(core, r);
            return ST_NO_MEMORY;
        }
        r->choices[r->n_choices++] = c->index;
    }
    core->next_request++;
    core->n_free_requests--;
    map_put(&core->by_id, r->id, index);
    core->counts.requests++;
    rc_deadline(core, r->deadline_ns);
    rc_queue(core, &core->choices[r->choices[0]], false);
    *out_request = r->id;
    rc_dispatch(core, now_ns);
    return ST_OK;
}

/* ---- ends ---- */

/* Gives back everything of a request. Its actions still in the ring are skipped by their id. */
void rc_request_release(struct router_core *core, struct rc_request *r)
{
    for (uint32_t i = 0; i < r->n_choices; i++) {
        struct rc_choice *c = &core->choices[r->choices[i]];
        slab_free(core, c->tokens, c->slab_words);
        c->state = RC_FREE;
        core->free_choices[core->n_free_choices++] = c->index;
    }
    if (map_del(&core->by_id, r->id)) {
        core->free_requests[core->n_free_requests++] = (uint32_t)(r - core->requests);
        core->counts.requests--;
    }
    r->id = 0;
    r->n_choices = 0;
}

/* Takes a choice out of whatever it is in, cancelling its legs. */
static void choice_drop(struct router_core *core, uint64_t now, struct rc_choice *c)
{
    if (c->state == RC_QUEUED) {
        list_del(&c->node);
        core->n_queued--;
    } else if (c->state == RC_RESERVING || c->state == RC_PREFILLING || c->state == RC_DECODING) {
        rc_cancel_start(core, now, c);
        rc_attempt_detach(core, c);
    }
    c->state = RC_DONE;
}

static void request_end(struct router_core *core, uint64_t now, struct rc_request *r,
                        enum router_action_kind kind, enum status st)
{
    for (uint32_t i = 0; i < r->n_choices; i++)
        choice_drop(core, now, &core->choices[r->choices[i]]);
    struct rc_action *act = rc_action_add(core, kind);
    act->request = r->id;
    act->tag = r->tag;
    act->status = st;
    act->cached_tokens = r->cached_tokens;
    act->remote = r->remote;
    r->ended = true;
}

void rc_request_fail(struct router_core *core, uint64_t now, struct rc_request *r, enum status st)
{
    if (!r->ended)
        request_end(core, now, r, ROUTER_FAIL, st);
}

void rc_choice_done(struct router_core *core, uint64_t now, struct rc_choice *c)
{
    struct rc_request *r = &core->requests[c->request];
    c->state = RC_DONE;
    if (++r->n_done == r->n_choices)
        request_end(core, now, r, ROUTER_DONE, ST_OK);
    else
        rc_siblings_start(core, r); /* it may have ended before its first token */
}

void rc_siblings_start(struct router_core *core, const struct rc_request *r)
{
    for (uint32_t i = 1; i < r->n_choices; i++) {
        struct rc_choice *sibling = &core->choices[r->choices[i]];
        if (sibling->state == RC_SIBLING)
            rc_queue(core, sibling, false);
    }
}

void router_core_cancel(struct router_core *core, uint64_t now_ns, uint64_t request)
{
    struct rc_request *r = rc_request_of(core, request);
    if (r == NULL)
        return;
    for (uint32_t i = 0; i < r->n_choices; i++)
        choice_drop(core, now_ns, &core->choices[r->choices[i]]);
    rc_request_release(core, r);
    rc_dispatch(core, now_ns);
}

void router_core_stop(struct router_core *core, uint64_t now_ns, uint64_t request, uint32_t choice)
{
    struct rc_request *r = rc_request_of(core, request);
    if (r == NULL || choice >= r->n_choices)
        return;
    struct rc_choice *c = &core->choices[r->choices[choice]];
    c->stopped = true; /* also when it has ended here and its last tokens wait to go out */
    if (r->ended || c->state == RC_DONE)
        return;
    choice_drop(core, now_ns, c);
    rc_choice_done(core, now_ns, c);
    rc_dispatch(core, now_ns);
}

/* ---- events ---- */

static void on_stats(struct router_core *core, uint64_t now, uint32_t slot,
                     const struct wire_stats *m)
{
    struct rc_worker *w = &core->workers[slot];
    w->stats = *m;
    w->stats_ns = now;
    w->claimed_blocks = 0;
    w->cost.running = m->running;
    rc_deadline(core, now + core->opts.heartbeat_timeout_ns);
}

static void on_cache(struct router_core *core, uint32_t slot, const struct wire_cache *m)
{
    if (m->reset)
        prefix_index_reset(core->prefixes, slot);
    for (uint32_t i = 0; i < m->n_entries; i++) {
        if (m->entries[i].added)
            prefix_index_add(core->prefixes, slot, &m->entries[i].key);
        else
            prefix_index_remove(core->prefixes, slot, &m->entries[i].key);
    }
}

void router_core_message(struct router_core *core, uint64_t now_ns, uint32_t worker,
                         const struct wire_msg *msg)
{
    if (worker >= ROUTER_WORKERS_MAX || !core->workers[worker].up)
        return;
    switch (msg->type) {
    case WIRE_RESERVED:
        rc_on_reserved(core, now_ns, worker, &msg->u.reserved);
        break;
    case WIRE_PREFILLED:
        rc_on_prefilled(core, now_ns, worker, &msg->u.prefilled);
        break;
    case WIRE_TOKENS:
        rc_on_tokens(core, now_ns, worker, &msg->u.tokens);
        break;
    case WIRE_FAILED:
        rc_on_failed(core, now_ns, worker, &msg->u.failed);
        break;
    case WIRE_CANCELLED:
        rc_on_cancelled(core, now_ns, worker, &msg->u.cancelled);
        break;
    case WIRE_STATS:
        on_stats(core, now_ns, worker, &msg->u.stats);
        break;
    case WIRE_CACHE:
        on_cache(core, worker, &msg->u.cache);
        break;
    case WIRE_LEAVING:
        core->workers[worker].leaving = true;
        break;
    default:
        core->counts.stale_messages++;
        break;
    }
    rc_dispatch(core, now_ns);
}

void router_core_drain(struct router_core *core)
{
    core->draining = true;
}

bool router_core_is_idle(const struct router_core *core)
{
    return core->counts.requests == 0;
}

/* What a choice waits for is overdue. */
static void choice_tick(struct router_core *core, uint64_t now, struct rc_choice *c)
{
    if (c->state != RC_RESERVING && c->state != RC_PREFILLING && c->state != RC_DECODING)
        return;
    if (now < c->deadline_ns) {
        rc_deadline(core, c->deadline_ns);
        return;
    }
    rc_attempt_end(core, now, c, ST_TIMEOUT,
                   c->state == RC_PREFILLING ? c->prefill.worker : c->decode.worker);
}

void router_core_tick(struct router_core *core, uint64_t now_ns)
{
    if (now_ns < core->next_deadline_ns)
        return;
    core->next_deadline_ns = UINT64_MAX;
    rc_worker_tick(core, now_ns);
    uint32_t left = core->counts.requests; /* none is released in here */
    for (uint32_t i = 0; left > 0 && i < core->opts.requests_max; i++) {
        struct rc_request *r = &core->requests[i];
        left -= r->id != 0;
        if (r->id == 0 || r->ended)
            continue;
        if (now_ns >= r->deadline_ns) {
            rc_request_fail(core, now_ns, r, ST_TIMEOUT);
            continue;
        }
        rc_deadline(core, r->deadline_ns);
        for (uint32_t k = 0; k < r->n_choices && !r->ended; k++)
            choice_tick(core, now_ns, &core->choices[r->choices[k]]);
    }
    rc_cancel_tick(core, now_ns);
    rc_dispatch(core, now_ns);
}

uint64_t router_core_deadline(const struct router_core *core)
{
    return core->next_deadline_ns;
}

struct router_core_counts router_core_counts(const struct router_core *core)
{
    struct router_core_counts counts = core->counts;
    counts.queued = core->n_queued;
    counts.cancels_pending = core->n_cancels;
    counts.prefilling = counts.decoding = 0;
    for (uint32_t i = 0; i < core->opts.choices_max; i++) {
        counts.prefilling +=
            core->choices[i].state == RC_PREFILLING || core->choices[i].state == RC_RESERVING;
        counts.decoding += core->choices[i].state == RC_DECODING;
    }
    return counts;
}
