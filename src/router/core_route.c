/* Which worker: fit, prefix hits, predicted cost. */
#include "router/core_int.h"

#include <string.h>

bool rc_leg_is_up(const struct router_core *core, const struct rc_leg *leg)
{
    return leg->worker != RC_NONE && core->workers[leg->worker].up &&
           core->workers[leg->worker].life == leg->life;
}

/* Prompt and output that one sequence can have on this worker: its context, its pool, a message. */
uint32_t rc_worker_context(const struct router_core *core, uint32_t slot)
{
    const struct wire_hello *h = &core->workers[slot].hello;
    uint64_t n = (uint64_t)h->pool.block_count * h->pool.block_tokens;
    if (n > h->max_context_tokens)
        n = h->max_context_tokens;
    return n < WIRE_TOKENS_MAX ? (uint32_t)n : WIRE_TOKENS_MAX;
}

bool rc_worker_fits(const struct router_core *core, uint32_t slot, uint32_t n_tokens)
{
    return n_tokens <= rc_worker_context(core, slot);
}

/* KV can move from prefill to decode only when both name the same layout and transport. */
bool rc_workers_pair(const struct router_core *core, uint32_t decode, uint32_t prefill)
{
    const struct wire_hello *d = &core->workers[decode].hello, *p = &core->workers[prefill].hello;
    return d->role == WIRE_ROLE_DECODE && p->role == WIRE_ROLE_PREFILL &&
           d->pool.layout_hash == p->pool.layout_hash && d->transport[0] != '\0' &&
           strcmp(d->transport, p->transport) == 0;
}

/* hits[w]: cached tokens of the choice's log on worker w, by the prefix index. */
void rc_route_hits(struct router_core *core, const struct rc_request *r, const struct rc_choice *c,
                   uint32_t hits[ROUTER_WORKERS_MAX])
{
    struct hash128 key;
    uint64_t holders = UINT64_MAX;
    uint32_t block_tokens = 0;
    memset(hits, 0, ROUTER_WORKERS_MAX * sizeof(uint32_t));
    for (uint32_t i = 0; i < ROUTER_WORKERS_MAX && block_tokens == 0; i++)
        if (core->workers[i].up)
            block_tokens = core->workers[i].hello.pool.block_tokens;
    if (!core->opts.prefix_routing || block_tokens == 0)
        return;
    for (uint32_t first = 0; first + block_tokens < c->n_tokens; first += block_tokens) {
        hash_block_key(core->opts.cache_secret, r->salt, &core->model_hash, first > 0 ? &key : NULL,
                       c->tokens + first, block_tokens, &key);
        holders &= prefix_index_get(core->prefixes, &key);
        if (holders == 0)
            break;
        for (uint32_t i = 0; i < ROUTER_WORKERS_MAX; i++)
            if (holders & 1ull << i)
                hits[i] = first + block_tokens;
    }
}

static bool worker_has_room(const struct router_core *core, uint32_t slot, uint32_t n_tokens)
{
    const struct rc_worker *w = &core->workers[slot];
    uint32_t bound = w->hello.queue_max > 0 ? w->hello.queue_max : 1;
    if (core->opts.worker_inflight_max > 0 && core->opts.worker_inflight_max < bound)
        bound = core->opts.worker_inflight_max;
    if (w->inflight >= bound)
        return false;
    if (w->inflight == 0 || w->stats.blocks_total == 0)
        return true; /* idle, or it has not told yet: it queues by itself */
    uint32_t need = n_tokens / w->hello.pool.block_tokens + 1;
    return w->stats.blocks_free >= w->claimed_blocks + need;
}

static bool worker_could_decode(const struct router_core *core, uint32_t slot,
                                const struct rc_choice *c)
{
    const struct rc_worker *w = &core->workers[slot];
    return w->up && !w->leaving && w->hello.role != WIRE_ROLE_PREFILL &&
           rc_worker_fits(core, slot, c->capacity);
}

/* Asked before the prompt is hashed, which costs far more. */
enum rc_room rc_route_room(const struct router_core *core, const struct rc_choice *c)
{
    enum rc_room room = RC_ROOM_NEVER;
    for (uint32_t i = 0; i < ROUTER_WORKERS_MAX; i++) {
        if (!worker_could_decode(core, i, c))
            continue;
        if (worker_has_room(core, i, c->n_tokens))
            return RC_ROOM_NOW;
        room = RC_ROOM_LATER;
    }
    return room;
}

/* Smaller is better; equal ones are drawn, so that load spreads. */
struct pick {
    uint32_t slot, n_equal;
    uint64_t cost;
};

static void pick_offer(struct router_core *core, struct pick *pick, uint32_t slot, uint64_t cost)
{
    if (pick->slot == RC_NONE || cost < pick->cost)
        *pick = (struct pick){slot, 1, cost};
    else if (cost == pick->cost && rng_below(&core->rng, ++pick->n_equal) == 0)
        pick->slot = slot;
}

uint32_t rc_route_decode(struct router_core *core, const struct rc_choice *c, const uint32_t *hits)
{
    struct pick pick = {.slot = RC_NONE}, avoided = {.slot = RC_NONE};
    const struct rc_request *r = &core->requests[c->request];
    const struct rc_choice *first = &core->choices[r->choices[0]];
    for (uint32_t i = 0; i < ROUTER_WORKERS_MAX; i++) {
        struct rc_worker *w = &core->workers[i];
        if (!worker_could_decode(core, i, c) || !worker_has_room(core, i, c->n_tokens))
            continue;
        uint32_t cached = hits[i];
        if (c != first && first->decode.worker == i && first->state == RC_DECODING &&
            cached < r->n_prompt)
            cached = r->n_prompt; /* its cache has the prompt, or is about to */
        uint32_t uncached = c->n_tokens > cached ? c->n_tokens - cached : 0;
        uint64_t cost = cost_ttft_ns(&w->cost, uncached) + w->inflight * NS_PER_MS / 4;
        pick_offer(core, i == c->avoid ? &avoided : &pick, i, cost);
    }
    return pick.slot != RC_NONE ? pick.slot : avoided.slot;
}

uint32_t rc_route_prefill(struct router_core *core, const struct rc_choice *c, uint32_t decode,
                          const uint32_t *hits)
{
    struct pick pick = {.slot = RC_NONE};
    for (uint32_t i = 0; i < ROUTER_WORKERS_MAX; i++) {
        struct rc_worker *w = &core->workers[i];
        if (!w->up || w->leaving || i == c->avoid || !rc_workers_pair(core, decode, i) ||
            !rc_worker_fits(core, i, c->n_tokens + 1) ||
            w->inflight >= (w->hello.queue_max > 0 ? w->hello.queue_max : 1))
            continue;
        uint32_t uncached = c->n_tokens - (hits[i] < c->n_tokens ? hits[i] : c->n_tokens);
        pick_offer(core, &pick, i, cost_ttft_ns(&w->cost, uncached));
    }
    return pick.slot;
}
