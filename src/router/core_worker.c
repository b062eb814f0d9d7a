/* Workers coming and going. */
#include "router/core_int.h"

#include <string.h>

static void peer_announce(struct router_core *core, uint32_t slot)
{
    for (uint32_t i = 0; i < ROUTER_WORKERS_MAX; i++) {
        if (i == slot || !core->workers[i].up ||
            (!rc_workers_pair(core, i, slot) && !rc_workers_pair(core, slot, i)))
            continue;
        rc_send(core, WIRE_PEER, slot)->peer = i;
        rc_send(core, WIRE_PEER, i)->peer = slot;
    }
}

static uint32_t slot_find(const struct router_core *core)
{
    uint32_t oldest = RC_NONE;
    for (uint32_t i = 0; i < ROUTER_WORKERS_MAX; i++) {
        const struct rc_worker *w = &core->workers[i];
        if (w->up)
            continue;
        if (!w->seen)
            return i;
        if (oldest == RC_NONE || w->lost_ns < core->workers[oldest].lost_ns)
            oldest = i;
    }
    return oldest;
}

static enum status hello_check(struct router_core *core, const struct wire_hello *hello)
{
    if (hello->version_max < WIRE_VERSION_MIN || hello->version_min > WIRE_VERSION_MAX)
        return ST_VERSION;
    if (hello->role < WIRE_ROLE_PREFILL || hello->role > WIRE_ROLE_UNIFIED ||
        hello->pool.block_count == 0 || hello->pool.block_tokens < 16 || hello->instance == 0 ||
        hello->blob_bytes > WIRE_BLOB_BYTES_MAX)
        return ST_MISMATCH;
    for (uint32_t i = 0; i < ROUTER_WORKERS_MAX; i++)
        if (core->workers[i].up && core->workers[i].hello.instance == hello->instance)
            return ST_EXISTS;
    if (core->identity_known && (!hash128_equal(&core->model_hash, &hello->model_hash) ||
                                 !hash128_equal(&core->tokenizer_hash, &hello->tokenizer_hash)))
        return ST_MISMATCH;
    return ST_OK;
}

enum status router_core_worker_up(struct router_core *core, uint64_t now_ns,
                                  const struct wire_hello *hello, uint32_t *out_worker)
{
    enum status st = hello_check(core, hello);
    uint32_t slot = slot_find(core);
    if (st != ST_OK || slot == RC_NONE)
        return st != ST_OK ? st : ST_FULL;
    struct rc_worker *w = &core->workers[slot];
    uint64_t life = w->life + 1;
    memset(w, 0, sizeof(*w));
    w->up = w->seen = true;
    w->life = life;
    w->hello = *hello;
    w->hello.blob = NULL;
    w->stats_ns = now_ns;
    if (hello->blob_bytes > 0)
        memcpy(w->blob, hello->blob, hello->blob_bytes);
    core->identity_known = true;
    core->model_hash = hello->model_hash;
    core->tokenizer_hash = hello->tokenizer_hash;
    *out_worker = slot;
    peer_announce(core, slot);
    rc_deadline(core, now_ns + core->opts.heartbeat_timeout_ns);
    rc_dispatch(core, now_ns);
    return ST_OK;
}

/* A worker died during this choice's attempt. One death counts once for a request, however many of
 * its choices the worker had. */
static void choice_lost(struct router_core *core, uint64_t now, struct rc_choice *c, uint32_t slot)
{
    struct rc_request *r = &core->requests[c->request];
    if (r->death_seen != core->counts.workers_lost) {
        r->death_seen = core->counts.workers_lost;
        r->deaths++;
    }
    if (r->deaths >= core->opts.attempts_max)
        rc_request_fail(core, now, r, ST_POISON);
    else
        rc_attempt_end(core, now, c, ST_PEER_LOST, slot);
}

/* Applies the loss: attempts there end, others are told to fence it. */
void rc_worker_lost(struct router_core *core, uint64_t now, uint32_t slot)
{
    struct rc_worker *w = &core->workers[slot];
    struct rc_leg gone = {slot, w->life};
    core->counts.workers_lost++;
    w->up = false;
    w->lost_ns = now;
    prefix_index_reset(core->prefixes, slot);
    for (uint32_t i = 0; i < ROUTER_WORKERS_MAX; i++)
        if (core->workers[i].up &&
            (rc_workers_pair(core, i, slot) || rc_workers_pair(core, slot, i)))
            rc_send(core, WIRE_PEER_GONE, i)->instance = w->hello.instance;
    for (uint32_t i = 0; i < core->opts.choices_max; i++) {
        struct rc_choice *c = &core->choices[i];
        if (c->state != RC_RESERVING && c->state != RC_PREFILLING && c->state != RC_DECODING)
            continue;
        bool decode = c->decode.worker == gone.worker && c->decode.life == gone.life;
        bool prefill = c->prefill.worker == gone.worker && c->prefill.life == gone.life;
        /* Its last record, the completion, may have died with it. */
        bool unproved =
            c->state == RC_DECODING && !c->local && !c->confirmed && c->writer == w->hello.instance;
        if (decode || prefill || unproved)
            choice_lost(core, now, c, slot);
    }
    rc_cancel_worker_gone(core, slot);
}

void router_core_worker_down(struct router_core *core, uint64_t now_ns, uint32_t worker)
{
    if (worker >= ROUTER_WORKERS_MAX || !core->workers[worker].up)
        return;
    rc_worker_lost(core, now_ns, worker);
    rc_dispatch(core, now_ns);
}

/* Silence is loss. */
void rc_worker_tick(struct router_core *core, uint64_t now)
{
    for (uint32_t i = 0; i < ROUTER_WORKERS_MAX; i++) {
        struct rc_worker *w = &core->workers[i];
        if (!w->up)
            continue;
        if (now - w->stats_ns < core->opts.heartbeat_timeout_ns) {
            rc_deadline(core, w->stats_ns + core->opts.heartbeat_timeout_ns);
            continue;
        }
        struct rc_action *act = rc_action_add(core, ROUTER_DROP);
        act->worker = i;
        act->status = ST_TIMEOUT;
        rc_worker_lost(core, now, i);
    }
}

bool router_core_worker_view(const struct router_core *core, uint64_t now_ns, uint32_t worker,
                             struct router_worker_view *out)
{
    if (worker >= ROUTER_WORKERS_MAX || !core->workers[worker].seen)
        return false;
    const struct rc_worker *w = &core->workers[worker];
    *out = (struct router_worker_view){.up = w->up,
                                       .leaving = w->leaving,
                                       .hello = w->hello,
                                       .stats = w->stats,
                                       .stats_age_ns = now_ns - w->stats_ns,
                                       .inflight = w->inflight};
    return true;
}
