/* The queue of actions. An entry is small and names a sequence; the message, with its arrays, is
 * built when the action is taken, out of the sequence, whose slot is kept until then. So the queue
 * has a fixed size and no event allocates. Its owner takes all actions after each event; an action
 * that finds the ring full is lost and counted, which core_check.c reports as a broken invariant.
 */
#include "worker/core_int.h"

#include <string.h>

static struct action *action_add(struct worker_core *core, enum worker_action_kind kind)
{
    if (core->action_tail - core->action_head > core->action_mask) {
        core->n_actions_lost++;
        return NULL;
    }
    struct action *a = &core->actions[core->action_tail++ & core->action_mask];
    *a = (struct action){.kind = kind, .slot = NONE};
    return a;
}

/* NULL also when nobody is at the other end. */
static struct action *send_add(struct worker_core *core, uint32_t conn, enum wire_type type)
{
    if (conn >= CORE_CONNS || !core->conns[conn].up)
        return NULL;
    struct action *a = action_add(core, ACT_SEND);
    if (a == NULL)
        return NULL;
    a->type = type;
    a->conn = conn;
    a->conn_serial = core->conns[conn].serial;
    return a;
}

static void action_names(struct worker_core *core, struct action *a, struct seq *s)
{
    a->slot = seq_slot(core, s);
    s->n_refs++;
}

void act_failed(struct worker_core *core, uint32_t conn, const struct wire_seq *id, enum status st,
                uint32_t writer_done)
{
    struct action *a = send_add(core, conn, WIRE_FAILED);
    if (a != NULL)
        a->u.failed =
            (struct wire_failed){.seq = *id, .status = (uint32_t)st, .writer_done = writer_done};
}

void act_cancelled(struct worker_core *core, uint32_t conn, const struct wire_seq *id,
                   uint32_t n_quarantined)
{
    struct action *a = send_add(core, conn, WIRE_CANCELLED);
    if (a != NULL)
        a->u.cancelled = (struct wire_cancelled){.seq = *id, .n_quarantined = n_quarantined};
}

void act_reserved(struct worker_core *core, struct seq *s)
{
    struct action *a = send_add(core, s->conn, WIRE_RESERVED);
    if (a == NULL)
        return;
    action_names(core, a, s);
    a->block_first = s->n_hits;
    a->u.reserved = (struct wire_reserved){
        .seq = s->id,
        .pool = core->opts.pool.pool,
        .cached_tokens = s->n_hits * core->opts.pool.block_tokens,
        .epoch = core->opts.pool.epoch,
        .n_blocks = s->n_lent,
    };
}

static uint32_t us_between(uint64_t from_ns, uint64_t to_ns)
{
    uint64_t us = to_ns > from_ns ? (to_ns - from_ns) / NS_PER_US : 0;
    return us < UINT32_MAX ? (uint32_t)us : UINT32_MAX;
}

void act_prefilled(struct worker_core *core, uint64_t now_ns, struct seq *s)
{
    struct action *a = send_add(core, s->conn, WIRE_PREFILLED);
    if (a == NULL)
        return;
    a->u.prefilled = (struct wire_prefilled){
        .seq = s->id,
        .position = s->n_tokens - s->n_prompt,
        .token = s->first_token,
        .cached_tokens = s->n_hits * core->opts.pool.block_tokens,
        .compute_us = us_between(s->started_ns, s->computed_ns),
        .transfer_us = us_between(s->computed_ns, now_ns),
        .transfer_bytes = s->pushed_bytes,
    };
}

void act_token(struct worker_core *core, const struct seq *s, uint32_t position, uint32_t token,
               enum wire_finish finish)
{
    if (core->n_pending == core->n_pending_max)
        act_tokens_flush(core);
    core->pending[core->n_pending++] = (struct pending_token){
        .conn = s->conn, .token = token, .id = s->id, .position = position, .finish = finish};
}

static void tokens_of_conn(struct worker_core *core, uint32_t conn)
{
    struct action *a = send_add(core, conn, WIRE_TOKENS);
    if (a != NULL) {
        a->u.tokens.first = core->n_entries;
        core->n_entry_actions++;
    }
    for (uint32_t i = 0; i < core->n_pending; i++) {
        struct pending_token *p = &core->pending[i];
        if (p->conn != conn)
            continue;
        p->conn = NONE;
        if (a == NULL)
            continue;
        if (core->n_entries == core->n_entries_max) {
            core->n_actions_lost++;
            continue;
        }
        uint32_t *token = &core->entry_tokens[core->n_entries];
        *token = p->token;
        core->entries[core->n_entries++] = (struct wire_tokens_entry){.seq = p->id,
                                                                      .position = p->position,
                                                                      .finish = p->finish,
                                                                      .n_tokens = 1,
                                                                      .tokens = token};
        a->u.tokens.n++;
    }
}

void act_tokens_flush(struct worker_core *core)
{
    if (core->n_entry_actions == 0)
        core->n_entries = 0;
    for (uint32_t i = 0; i < core->n_pending; i++) {
        if (core->pending[i].conn != NONE)
            tokens_of_conn(core, core->pending[i].conn);
    }
    core->n_pending = 0;
}

void act_stats(struct worker_core *core, uint64_t now_ns, uint32_t conn)
{
    struct action *a = send_add(core, conn, WIRE_STATS);
    if (a != NULL)
        a->u.stats.now_ns = now_ns;
}

void act_leaving(struct worker_core *core, uint32_t conn)
{
    send_add(core, conn, WIRE_LEAVING);
}

/* One batch for all routers. The next one is not read from the pool before this one was taken: they
 * share a buffer. */
void act_cache_flush(struct worker_core *core, uint64_t now_ns)
{
    uint32_t n_up = 0;
    for (uint32_t i = 0; i < CORE_CONNS; i++)
        n_up += core->conns[i].up;
    if (n_up == 0) {
        core->cache_more = 0; /* a router that comes gets all keys anyway */
        return;
    }
    if (core->n_cache_actions > 0) {
        core->cache_more = 1;
        return;
    }
    bool reset;
    uint32_t n = kv_pool_events(core->pool, core->cache_events, CORE_CACHE_BATCH, &reset);
    core->cache_more = n == CORE_CACHE_BATCH;
    core->cache_ns = now_ns;
    if (n == 0 && !reset)
        return;
    for (uint32_t i = 0; i < n; i++)
        core->cache[i] = (struct wire_cache_entry){.key = core->cache_events[i].key,
                                                   .added = core->cache_events[i].added};
    core->n_cache = n;
    core->cache_reset = reset;
    for (uint32_t i = 0; i < CORE_CONNS; i++) {
        if (send_add(core, i, WIRE_CACHE) != NULL)
            core->n_cache_actions++;
    }
}

void act_connect(struct worker_core *core, uint32_t peer)
{
    struct action *a = action_add(core, ACT_CONNECT);
    if (a != NULL)
        a->peer = core->peers[peer].info.instance;
}

void act_fence(struct worker_core *core, uint32_t peer)
{
    struct action *a = action_add(core, ACT_FENCE);
    if (a != NULL)
        a->peer = core->peers[peer].info.instance;
}

void act_record(struct worker_core *core, struct seq *s, enum wire_type type)
{
    struct action *a = action_add(core, ACT_RECORD);
    if (a == NULL)
        return;
    a->type = type;
    a->peer = s->dest;
    action_names(core, a, s);
}

void act_router_done(struct worker_core *core, uint32_t peer, uint64_t router)
{
    struct action *a = action_add(core, ACT_RECORD);
    if (a == NULL)
        return;
    a->type = WIRE_ROUTER_DONE;
    a->peer = core->peers[peer].info.instance;
    a->u.router_done.router = router;
}

void act_push(struct worker_core *core, struct seq *s, const struct push *push,
              uint32_t layer_first, uint32_t layer_count, uint32_t block_first, uint32_t n_blocks)
{
    struct action *a = action_add(core, ACT_PUSH);
    if (a == NULL)
        return;
    a->peer = s->dest;
    a->u.push.id = push->id;
    a->u.push.deadline_ns = push->deadline_ns;
    a->u.push.layer_first = layer_first;
    a->u.push.layer_count = layer_count;
    a->u.push.block_first = block_first;
    a->u.push.n_blocks = n_blocks;
    action_names(core, a, s);
}

/* ---- taking ---- */

static void build_reserved(struct worker_core *core, const struct action *a)
{
    struct wire_reserved *out = &core->msg.u.reserved;
    const struct seq *s = &core->seqs[a->slot];
    *out = a->u.reserved;
    for (uint32_t i = 0; i < out->n_blocks; i++) {
        struct kv_block_ref ref = s->blocks[a->block_first + i];
        core->out_blocks[i] = (struct wire_block){ref.index, ref.generation};
    }
    out->blocks = core->out_blocks;
}

static void build_send(struct worker_core *core, const struct action *a, struct worker_action *out)
{
    core->msg.type = a->type;
    out->conn = a->conn;
    out->msg = &core->msg;
    switch (a->type) {
    case WIRE_FAILED:
        core->msg.u.failed = a->u.failed;
        break;
    case WIRE_CANCELLED:
        core->msg.u.cancelled = a->u.cancelled;
        break;
    case WIRE_RESERVED:
        build_reserved(core, a);
        break;
    case WIRE_PREFILLED:
        core->msg.u.prefilled = a->u.prefilled;
        break;
    case WIRE_TOKENS:
        core->msg.u.tokens = (struct wire_tokens){.n_entries = a->u.tokens.n,
                                                  .entries = core->entries + a->u.tokens.first};
        break;
    case WIRE_STATS:
        worker_core_stats(core, a->u.stats.now_ns, &core->msg.u.stats);
        break;
    case WIRE_CACHE:
        core->msg.u.cache = (struct wire_cache){
            .reset = core->cache_reset, .n_entries = core->n_cache, .entries = core->cache};
        break;
    default: /* LEAVING has no payload */
        break;
    }
}

static void build_record(struct worker_core *core, const struct action *a,
                         struct worker_action *out)
{
    core->msg.type = a->type;
    out->msg = &core->msg;
    if (a->type == WIRE_ROUTER_DONE) {
        core->msg.u.router_done = a->u.router_done;
        return;
    }
    const struct seq *s = &core->seqs[a->slot];
    if (a->type == WIRE_ABORTED) {
        core->msg.u.aborted = (struct wire_aborted){.router = s->router,
                                                    .seq = s->id,
                                                    .epoch = s->dest_epoch,
                                                    .pool = s->dest_pool,
                                                    .n_blocks = s->n_dest,
                                                    .blocks = s->dest_blocks};
        return;
    }
    struct wire_complete *rec = &core->msg.u.complete;
    *rec = (struct wire_complete){.router = s->router,
                                  .seq = s->id,
                                  .epoch = s->dest_epoch,
                                  .layout_hash = core->opts.pool.layout_hash,
                                  .pool = s->dest_pool,
                                  .n_tokens = s->n_tokens,
                                  .first_token = s->first_token,
                                  .position = s->n_tokens - s->n_prompt,
                                  .n_blocks = s->n_dest,
                                  .blocks = s->dest_blocks};
    wire_chain_hash(s->salt, s->tokens, s->n_tokens, &rec->chain);
}

/* False: the push was ended by fencing before it began. */
static bool build_push(struct worker_core *core, const struct action *a, struct worker_action *out)
{
    const struct seq *s = &core->seqs[a->slot];
    if (core->pushes[a->u.push.id % core->n_pushes_max].id != a->u.push.id)
        return false;
    uint32_t dest_first = s->dest_cached / core->opts.pool.block_tokens;
    for (uint32_t i = 0; i < a->u.push.n_blocks; i++) {
        uint32_t b = a->u.push.block_first + i;
        const struct wire_block *dst = &s->dest_blocks[b - dest_first];
        core->out_vec[i] = (struct worker_push_vec){.src_block = s->blocks[b].index,
                                                    .dst_block = dst->index,
                                                    .dst_generation = dst->generation};
    }
    out->push_id = a->u.push.id;
    out->dst_pool = s->dest_pool;
    out->dst_epoch = s->dest_epoch;
    out->layer_first = a->u.push.layer_first;
    out->layer_count = a->u.push.layer_count;
    out->n_vec = a->u.push.n_blocks;
    out->vec = core->out_vec;
    out->deadline_ns = a->u.push.deadline_ns;
    return true;
}

static bool action_build(struct worker_core *core, const struct action *a,
                         struct worker_action *out)
{
    *out = (struct worker_action){.kind = a->kind, .peer = a->peer};
    switch (a->kind) {
    case ACT_SEND:
        if (!core->conns[a->conn].up || core->conns[a->conn].serial != a->conn_serial)
            return false; /* the connection went meanwhile */
        build_send(core, a, out);
        return true;
    case ACT_CONNECT: {
        uint32_t peer = peer_find(core, a->peer);
        if (peer == NONE || core->peers[peer].state != PEER_UP)
            return false;
        out->peer_info = &core->peers[peer].info;
        return true;
    }
    case ACT_PUSH:
        return build_push(core, a, out);
    case ACT_RECORD:
        build_record(core, a, out);
        return true;
    case ACT_FENCE:
        return true;
    }
    return false;
}

bool worker_core_next_action(struct worker_core *core, struct worker_action *out)
{
    while (core->action_head != core->action_tail) {
        const struct action *a = &core->actions[core->action_head++ & core->action_mask];
        bool wanted = action_build(core, a, out);
        if (a->kind == ACT_SEND && a->type == WIRE_TOKENS)
            core->n_entry_actions--;
        if (a->kind == ACT_SEND && a->type == WIRE_CACHE)
            core->n_cache_actions--;
        /* The slot may be given out again only by a later call: the message stays valid till then.
         */
        if (a->slot != NONE)
            seq_unref(core, a->slot);
        if (wanted)
            return true;
    }
    return false;
}
