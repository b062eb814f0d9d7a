/* Worker core: create, connections, time, drain, statistics. core_int.h says what is where. */
#include "worker/core_int.h"

#include <stdlib.h>

enum { CACHE_PAUSE_NS = 1000000 /* between two full batches of WIRE_CACHE */ };

static enum status opts_check(const struct worker_core_opts *opts)
{
    const struct wire_pool *pool = &opts->pool;
    if (opts->role != WIRE_ROLE_PREFILL && opts->role != WIRE_ROLE_DECODE &&
        opts->role != WIRE_ROLE_UNIFIED)
        return ST_INVALID;
    if (pool->block_count == 0 || pool->block_tokens == 0 || pool->layer_count == 0 ||
        pool->layer_count > 1024)
        return ST_INVALID;
    if (opts->max_context_tokens < 2 || opts->max_context_tokens > WIRE_TOKENS_MAX)
        return ST_INVALID;
    if (opts->max_seqs == 0 || opts->max_seqs > CORE_STEP_SEQS_MAX || opts->queue_max == 0 ||
        opts->queue_max > CORE_SEQS_MAX)
        return ST_INVALID;
    /* a chunk that does not end the prompt is one block at least */
    if (opts->max_batch_tokens < pool->block_tokens ||
        opts->prefill_chunk_tokens < pool->block_tokens)
        return ST_INVALID;
    if (opts->n_eos > sizeof(opts->eos) / sizeof(opts->eos[0]))
        return ST_INVALID;
    if (opts->steps_max == 0 || opts->steps_max > CORE_STEPS_MAX)
        return ST_INVALID;
    return ST_OK;
}

static uint32_t pow2_from(uint32_t n)
{
    uint32_t p = 1;
    while (p < n)
        p *= 2;
    return p;
}

/* Sizes that follow from the options. */
static void core_size(struct worker_core *core)
{
    const struct worker_core_opts *opts = &core->opts;
    core->blocks_max = blocks_for(core, opts->max_context_tokens);
    if (core->blocks_max > opts->pool.block_count)
        core->blocks_max = opts->pool.block_count;
    /* Layers are pushed while they are computed, which keeps the device busy by itself. */
    core->steps_max = opts->role == WIRE_ROLE_PREFILL ? 1 : opts->steps_max;
    /* Those that end while a step or a push holds them do not count against queue_max. */
    core->n_slots = opts->queue_max + core->steps_max * opts->max_seqs + 64;
    core->bucket_mask = pow2_from(2 * core->n_slots) - 1;
    uint32_t busy = opts->max_seqs < 256 ? opts->max_seqs : 256;
    core->n_pushes_max = 64;
    if (opts->role == WIRE_ROLE_PREFILL) /* about four steps behind, and the cached prefixes */
        core->n_pushes_max = 4 * busy * opts->pool.layer_count + opts->queue_max;
    core->n_entries_max = opts->queue_max + 2 * opts->max_seqs;
    core->n_pending_max = opts->max_seqs;
    /* The worst single event ends all sequences (three actions each) and admits as many. */
    core->action_mask = pow2_from(8 * core->n_slots + 4 * (CORE_PEERS + CORE_CONNS)) - 1;
}

#define ALLOC(pointer, n) ((pointer) = calloc((n), sizeof(*(pointer))))

/* One allocation for the arrays of all slots. Pages never touched cost no memory, and slots are
 * taken last in, first out. */
static bool slots_alloc(struct worker_core *core)
{
    uint32_t n_dest = is_prefill_role(core) ? blocks_for(core, core->opts.max_context_tokens) : 0;
    size_t n = core->n_slots;
    uint32_t *tokens = calloc(n * core->opts.max_context_tokens, sizeof(*tokens));
    struct kv_block_ref *blocks = calloc(n * core->blocks_max, sizeof(*blocks));
    uint32_t *indices = calloc(n * core->blocks_max, sizeof(*indices));
    struct wire_block *dest = calloc(n * n_dest + 1, sizeof(*dest));
    if (!ALLOC(core->seqs, n) || !tokens || !blocks || !indices || !dest) {
        free(tokens);
        free(blocks);
        free(indices);
        free(dest);
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        struct seq *s = &core->seqs[i];
        s->tokens = tokens + i * core->opts.max_context_tokens;
        s->blocks = blocks + i * core->blocks_max;
        s->indices = indices + i * core->blocks_max;
        s->dest_blocks = dest + i * n_dest;
        list_add_tail(&core->free_seqs, &s->link);
    }
    return true;
}

static bool steps_alloc(struct worker_core *core)
{
    for (uint32_t i = 0; i < CORE_STEPS_MAX; i++) {
        struct core_step *step = &core->steps[i];
        if (!ALLOC(step->items, core->opts.max_seqs) ||
            !ALLOC(step->item_slots, core->opts.max_seqs))
            return false;
    }
    return true;
}

static bool tables_alloc(struct worker_core *core)
{
    const struct worker_core_opts *opts = &core->opts;
    uint32_t n_blocks = opts->pool.block_count;
    return ALLOC(core->peers, CORE_PEERS) && ALLOC(core->buckets, core->bucket_mask + 1u) &&
           ALLOC(core->loans, n_blocks) && ALLOC(core->chain, n_blocks) &&
           ALLOC(core->lent, core->blocks_max) && ALLOC(core->named, core->blocks_max) &&
           steps_alloc(core) && ALLOC(core->pushes, core->n_pushes_max) &&
           ALLOC(core->actions, core->action_mask + 1u) &&
           ALLOC(core->entries, core->n_entries_max) &&
           ALLOC(core->entry_tokens, core->n_entries_max) &&
           ALLOC(core->pending, core->n_pending_max) && ALLOC(core->cache, CORE_CACHE_BATCH) &&
           ALLOC(core->cache_events, CORE_CACHE_BATCH) &&
           ALLOC(core->out_blocks, core->blocks_max) && ALLOC(core->out_vec, core->blocks_max) &&
           ALLOC(core->check_refs, n_blocks);
}

static void core_init(struct worker_core *core)
{
    struct list *lists[] = {&core->free_seqs, &core->waiting,    &core->loaned,    &core->running,
                            &core->parked,    &core->free_loans, &core->quarantine};
    for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++)
        list_init(lists[i]);
    core->push_check_ns = UINT64_MAX;
    core->next_stats_ns = UINT64_MAX;
}

static void tables_init(struct worker_core *core)
{
    for (uint32_t i = 0; i <= core->bucket_mask; i++)
        core->buckets[i] = NONE;
    for (uint32_t i = 0; i < core->opts.pool.block_count; i++)
        list_add_tail(&core->free_loans, &core->loans[i].link);
    for (uint32_t i = 0; i < core->n_pushes_max; i++)
        core->pushes[i].next_free = i + 1 < core->n_pushes_max ? i + 1 : NONE;
}

enum status worker_core_create(const struct worker_core_opts *opts, struct worker_core **out_core)
{
    enum status st = opts_check(opts);
    if (st != ST_OK)
        return st;
    struct worker_core *core = calloc(1, sizeof(*core));
    if (core == NULL)
        return ST_NO_MEMORY;
    core->opts = *opts;
    core_init(core);
    core_size(core);
    struct kv_pool_opts pool = {.block_count = opts->pool.block_count,
                                .block_tokens = opts->pool.block_tokens,
                                .epoch = opts->pool.epoch,
                                .model = opts->model,
                                .prefix_cache = opts->prefix_cache};
    for (uint32_t i = 0; i < sizeof(pool.secret); i++)
        pool.secret[i] = opts->cache_secret[i];
    st = kv_pool_create(&pool, &core->pool);
    if (st == ST_OK && (!tables_alloc(core) || !slots_alloc(core)))
        st = ST_NO_MEMORY;
    if (st != ST_OK) {
        worker_core_destroy(core);
        return st;
    }
    tables_init(core);
    *out_core = core;
    return ST_OK;
}

void worker_core_destroy(struct worker_core *core)
{
    if (core == NULL)
        return;
    if (core->seqs != NULL) {
        free(core->seqs[0].tokens); /* one allocation for all slots */
        free(core->seqs[0].blocks);
        free(core->seqs[0].indices);
        free(core->seqs[0].dest_blocks);
    }
    for (uint32_t i = 0; i < CORE_STEPS_MAX; i++) {
        free(core->steps[i].items);
        free(core->steps[i].item_slots);
    }
    void *tables[] = {core->seqs,      core->peers,        core->buckets,      core->loans,
                      core->chain,     core->lent,         core->named,        core->pushes,
                      core->actions,   core->entries,      core->entry_tokens, core->pending,
                      core->cache,     core->cache_events, core->out_blocks,   core->out_vec,
                      core->check_refs};
    for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++)
        free(tables[i]);
    kv_pool_destroy(core->pool);
    free(core);
}

/* ---- connections of routers ---- */

void worker_core_conn_up(struct worker_core *core, uint64_t now_ns, uint32_t conn,
                         uint64_t router_instance)
{
    if (conn >= CORE_CONNS)
        return;
    /* The same connection again, or the same router on a new one: the old one is dead. */
    for (uint32_t i = 0; i < CORE_CONNS; i++) {
        if (core->conns[i].up && (i == conn || core->conns[i].router == router_instance))
            worker_core_conn_down(core, now_ns, i);
    }
    core->conns[conn] =
        (struct conn){.up = 1, .serial = ++core->conn_serial, .router = router_instance};
    core_loans_orphan(core, router_instance, false); /* it can say itself when a writer is done */
    if (core->draining)
        act_leaving(core, conn);
    act_stats(core, now_ns, conn);
    if (core->next_stats_ns == UINT64_MAX)
        core->next_stats_ns = now_ns + core->opts.stats_interval_ns;
    kv_pool_events_restart(core->pool);
    act_cache_flush(core, now_ns);
}

void worker_core_conn_down(struct worker_core *core, uint64_t now_ns, uint32_t conn)
{
    if (conn >= CORE_CONNS || !core->conns[conn].up)
        return;
    uint64_t router = core->conns[conn].router;
    core->conns[conn].up = 0;
    core->conn_closing = 1;
    for (uint32_t i = 0; i < CORE_PEERS; i++)
        core->peers[i].conns &= ~(1ull << conn);
    for (uint32_t i = 0; i < core->n_slots; i++) {
        struct seq *s = &core->seqs[i];
        if (s->state < SEQ_WAITING || s->conn != conn)
            continue;
        s->conn = NONE; /* the number may be another router's when the sequence settles */
        s->router_lost = 1;
        if (s->state != SEQ_ENDING)
            seq_cancel(core, now_ns, s, false);
    }
    core->conn_closing = 0;
    core_loans_orphan(core, router, true);
    core_router_done_try(core, router);
    core_admit(core, now_ns);
}

void worker_core_message(struct worker_core *core, uint64_t now_ns, uint32_t conn,
                         const struct wire_msg *msg)
{
    if (conn >= CORE_CONNS || !core->conns[conn].up) {
        core->n_ignored++;
        return;
    }
    switch (msg->type) {
    case WIRE_PEER:
        core_on_peer(core, conn, &msg->u.peer);
        break;
    case WIRE_PEER_GONE: {
        uint32_t peer = peer_find(core, msg->u.peer_gone.instance);
        if (peer != NONE)
            peer_fence(core, peer);
        break;
    }
    case WIRE_RESERVE:
        core_on_reserve(core, now_ns, conn, &msg->u.reserve);
        break;
    case WIRE_PREFILL:
        core_on_prefill(core, now_ns, conn, &msg->u.prefill);
        break;
    case WIRE_CANCEL:
        core_on_cancel(core, now_ns, conn, &msg->u.cancel);
        break;
    default:
        core->n_ignored++;
        break;
    }
    core_admit(core, now_ns);
}

void worker_core_record(struct worker_core *core, uint64_t now_ns, uint64_t peer,
                        const struct wire_msg *msg)
{
    uint32_t at = peer_find(core, peer);
    switch (is_prefill_role(core) ? WIRE_TYPE_END : msg->type) {
    case WIRE_COMPLETE:
        core_on_complete(core, now_ns, &msg->u.complete);
        act_tokens_flush(core);
        break;
    case WIRE_ABORTED:
        core_on_aborted(core, &msg->u.aborted);
        break;
    case WIRE_ROUTER_DONE:
        if (at != NONE)
            core_on_router_done(core, at, msg->u.router_done.router);
        break;
    default:
        core->n_ignored++;
        break;
    }
    core_admit(core, now_ns);
}

/* ---- time, drain, statistics ---- */

void worker_core_drain(struct worker_core *core, uint64_t now_ns)
{
    (void)now_ns;
    if (core->draining)
        return;
    core->draining = 1;
    for (uint32_t i = 0; i < CORE_CONNS; i++)
        act_leaving(core, i);
}

bool worker_core_is_idle(const struct worker_core *core)
{
    return core->n_live == 0 && list_is_empty(&core->parked) && core->n_steps == 0 &&
           core->action_head == core->action_tail;
}

void worker_core_tick(struct worker_core *core, uint64_t now_ns)
{
    core_pushes_tick(core, now_ns);
    core_loans_tick(core, now_ns);
    core_admit(core, now_ns);
    if (now_ns >= core->next_stats_ns) {
        uint32_t n_up = 0;
        for (uint32_t i = 0; i < CORE_CONNS; i++) {
            n_up += core->conns[i].up;
            act_stats(core, now_ns, i);
        }
        core->next_stats_ns = n_up > 0 ? now_ns + core->opts.stats_interval_ns : UINT64_MAX;
    }
    act_cache_flush(core, now_ns);
}

static uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

uint64_t worker_core_deadline(const struct worker_core *core)
{
    uint64_t at = min_u64(core->next_stats_ns, core->push_check_ns);
    at = min_u64(at, core_loans_deadline(core));
    if (core->cache_more)
        at = min_u64(at, core->cache_ns + CACHE_PAUSE_NS);
    return at;
}

void worker_core_stats(const struct worker_core *core, uint64_t now_ns, struct wire_stats *out)
{
    struct kv_pool_counts counts = kv_pool_counts(core->pool);
    *out = core->totals;
    out->blocks_total = counts.total;
    out->blocks_free = counts.free + counts.cached;
    out->blocks_quarantined = counts.quarantined;
    out->blocks_cached = counts.cached;
    for (uint32_t i = 0; i < core->n_slots; i++) {
        const struct seq *s = &core->seqs[i];
        out->waiting += s->state == SEQ_WAITING;
        out->reserved += s->state == SEQ_LOANED;
        out->running += s->state > SEQ_LOANED && s->state < SEQ_ENDING;
        if (s->state == SEQ_WAITING || s->state == SEQ_PREFILL)
            out->queued_tokens += s->n_tokens - s->n_done;
    }
    for (uint32_t i = 0; i < core->n_steps; i++) {
        const struct core_step *step = &core->steps[step_index(core, i)];
        uint64_t ms = now_ns > step->started_ns ? (now_ns - step->started_ns) / NS_PER_MS : 0;
        if (i == 0)
            out->step_age_ms = ms < UINT32_MAX ? (uint32_t)ms : UINT32_MAX;
        out->step_tokens += step->n_tokens;
    }
}

const struct kv_pool *worker_core_pool(const struct worker_core *core)
{
    return core->pool;
}
