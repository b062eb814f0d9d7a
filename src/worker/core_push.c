/* The prefill side: pushes, their deadlines, and how a job ends. A push that began cannot be called
 * back, so whatever ends a job, its source blocks stay and the router hears of it only when the
 * last push of the job has ended (seq_settle). A push that failed is over here, but what it sent
 * may still land over there: nobody is told that the writes of such a job are done, and the decode
 * worker fences this one before it gives the blocks away. */
#include "worker/core_int.h"

#include <assert.h>

bool core_push_has_room(const struct worker_core *core, uint32_t n)
{
    return core->n_pushes + core->push_reserved + n <= core->n_pushes_max;
}

static uint64_t push_deadline(const struct worker_core *core, uint64_t now_ns, uint64_t bytes)
{
    uint64_t floor = core->opts.push_floor_bytes_per_s;
    if (floor == 0)
        return UINT64_MAX; /* no floor, no deadline */
    unsigned __int128 at = (unsigned __int128)bytes * NS_PER_S / floor;
    at += core->opts.push_slack_ns;
    at += now_ns;
    return at < UINT64_MAX ? (uint64_t)at : UINT64_MAX;
}

/* The transport ends the push at its deadline by itself; if it has not by then, the core acts. */
uint64_t push_overdue_ns(const struct worker_core *core, const struct push *push)
{
    uint64_t at;
    if (__builtin_add_overflow(push->deadline_ns, core->opts.push_slack_ns, &at))
        at = UINT64_MAX;
    return at;
}

static struct push *push_take(struct worker_core *core)
{
    assert(core->push_free != NONE); /* the planner and core_admit ask for room before */
    struct push *push = &core->pushes[core->push_free];
    uint32_t index = core->push_free;
    core->push_free = push->next_free;
    core->n_pushes++;
    *push = (struct push){.id = ++core->push_serial * core->n_pushes_max + index};
    return push;
}

static void push_give(struct worker_core *core, struct push *push)
{
    core->seqs[push->slot].n_pushes--;
    push->id = 0;
    push->next_free = core->push_free;
    core->push_free = (uint32_t)(push - core->pushes);
    core->n_pushes--;
}

void seq_push(struct worker_core *core, uint64_t now_ns, struct seq *s, uint32_t layer_first,
              uint32_t layer_count, uint32_t block_first, uint32_t block_end)
{
    uint32_t dest_first = s->dest_cached / core->opts.pool.block_tokens;
    if (block_first < dest_first)
        block_first = dest_first;
    if (block_first >= block_end || layer_count == 0)
        return;
    uint32_t peer = peer_find(core, s->dest);
    assert(peer != NONE); /* a lost peer ends its jobs */
    struct push *push = push_take(core);
    push->slot = seq_slot(core, s);
    push->peer = peer;
    push->bytes = core->opts.pool.block_bytes / core->opts.pool.layer_count * layer_count *
                  (block_end - block_first);
    push->deadline_ns = push_deadline(core, now_ns, push->bytes);
    uint64_t overdue_ns = push_overdue_ns(core, push);
    if (overdue_ns < core->push_check_ns)
        core->push_check_ns = overdue_ns;
    s->n_pushes++;
    act_push(core, s, push, layer_first, layer_count, block_first, block_end - block_first);
}

void seq_complete_try(struct worker_core *core, uint64_t now_ns, struct seq *s)
{
    if (s->state != SEQ_PUSHING || s->n_pushes > 0)
        return;
    act_record(core, s, WIRE_COMPLETE);
    act_prefilled(core, now_ns, s);
    s->settled = 1;
    seq_end(core, s);
}

void worker_core_push_done(struct worker_core *core, uint64_t now_ns, uint64_t push_id,
                           enum status st)
{
    struct push *push = &core->pushes[push_id % core->n_pushes_max];
    if (push_id == 0 || push->id != push_id) {
        core->n_ignored++; /* ended by fencing before */
        return;
    }
    struct seq *s = &core->seqs[push->slot];
    if (st == ST_OK) {
        s->pushed_bytes += push->bytes;
        core->totals.transfer_bytes += push->bytes;
    } else {
        s->unsure = 1;
        core->totals.transfer_failures++;
    }
    push_give(core, push);
    if (s->state == SEQ_ENDING)
        seq_settle(core, s);
    else if (st != ST_OK)
        seq_fail(core, s, st);
    else
        seq_complete_try(core, now_ns, s);
    core_admit(core, now_ns);
}

void core_pushes_tick(struct worker_core *core, uint64_t now_ns)
{
    if (now_ns < core->push_check_ns)
        return;
    uint64_t next = UINT64_MAX;
    for (uint32_t i = 0; i < core->n_pushes_max; i++) {
        struct push *push = &core->pushes[i];
        if (push->id == 0 || push->late)
            continue;
        uint64_t at = push_overdue_ns(core, push);
        if (at > now_ns) {
            if (at < next)
                next = at;
            continue;
        }
        push->late = 1;
        core->totals.transfer_failures++;
        struct seq *s = &core->seqs[push->slot];
        if (s->state != SEQ_ENDING)
            seq_fail(core, s, ST_TIMEOUT);
        peer_fence(core, push->peer);
    }
    core->push_check_ns = next;
}

void core_pushes_peer_lost(struct worker_core *core, uint32_t peer, bool fenced)
{
    if (!is_prefill_role(core))
        return;
    for (uint32_t i = 0; fenced && i < core->n_pushes_max; i++) {
        if (core->pushes[i].id != 0 && core->pushes[i].peer == peer) {
            core->totals.transfer_failures++;
            core->seqs[core->pushes[i].slot].unsure = 1;
            push_give(core, &core->pushes[i]);
        }
    }
    for (uint32_t i = 0; i < core->n_slots; i++) {
        struct seq *s = &core->seqs[i];
        if (s->state < SEQ_WAITING || s->dest != core->peers[peer].info.instance)
            continue;
        if (s->state != SEQ_ENDING)
            seq_fail(core, s, ST_PEER_LOST);
        else
            seq_settle(core, s);
    }
}
