/* Fixture for the worker core tests: one core, the actions it gave (copied, so that they outlive
 * it), and short ways to say what routers, peers and the engine do. Every event is followed by
 * taking all actions and by worker_core_check. Include after cmocka.h. */
#ifndef TESTS_WORKER_CORE_KIT_H
#define TESTS_WORKER_CORE_KIT_H

#include "base/arena.h"
#include "base/time.h"
#include "worker/core.h"

#include <stdlib.h>
#include <string.h>

enum {
    KIT_ROUTER = 900,
    KIT_SELF = 500,
    KIT_PEER = 501,
    KIT_EPOCH = 77,
    KIT_LAYOUT = 88,
    KIT_BT = 4, /* tokens in a block */
    KIT_LAYERS = 4,
    KIT_EOS = 2,
    KIT_ACTIONS = 4096
};

struct kit {
    struct worker_core *core;
    uint64_t now;
    struct arena arena;
    struct worker_action actions[KIT_ACTIONS];
    uint32_t n_actions;
    struct step_plan plan; /* of the last step */
    struct step_item items[64];
};

static inline struct worker_core_opts kit_opts(uint32_t role, uint32_t block_count)
{
    return (struct worker_core_opts){
        .role = role,
        .instance = KIT_SELF,
        .pool = {.pool = 3,
                 .block_count = block_count,
                 .epoch = KIT_EPOCH,
                 .layout_hash = KIT_LAYOUT,
                 .block_tokens = KIT_BT,
                 .layer_count = KIT_LAYERS,
                 .block_bytes = 4096},
        .prefix_cache = 1,
        .max_context_tokens = 256,
        .max_seqs = 8,
        .queue_max = 16,
        .max_batch_tokens = 32,
        .prefill_chunk_tokens = 16,
        .steps_max =
            role == WIRE_ROLE_PREFILL ? 2 : 1, /* a prefill worker takes one all the same */
        .ahead_prompt_tokens = UINT32_MAX,
        .n_eos = 1,
        .eos = {KIT_EOS},
        .stats_interval_ns = NS_PER_S,
        .push_floor_bytes_per_s = 1000000,
        .push_slack_ns = NS_PER_S,
        .fence_after_ns = 10 * NS_PER_S,
    };
}

static inline const void *kit_dup(struct kit *kit, const void *data, size_t bytes)
{
    if (bytes == 0)
        return NULL;
    void *copy = arena_dup(&kit->arena, data, bytes);
    assert_non_null(copy);
    return copy;
}

static inline const struct wire_msg *kit_dup_msg(struct kit *kit, const struct wire_msg *msg)
{
    struct wire_msg m = *msg;
    if (m.type == WIRE_RESERVED)
        m.u.reserved.blocks = kit_dup(kit, m.u.reserved.blocks, m.u.reserved.n_blocks * 8);
    if (m.type == WIRE_COMPLETE)
        m.u.complete.blocks = kit_dup(kit, m.u.complete.blocks, m.u.complete.n_blocks * 8);
    if (m.type == WIRE_ABORTED)
        m.u.aborted.blocks = kit_dup(kit, m.u.aborted.blocks, m.u.aborted.n_blocks * 8);
    if (m.type == WIRE_CACHE)
        m.u.cache.entries =
            kit_dup(kit, m.u.cache.entries, m.u.cache.n_entries * sizeof(struct wire_cache_entry));
    if (m.type == WIRE_TOKENS) {
        uint32_t n = m.u.tokens.n_entries;
        struct wire_tokens_entry *entries =
            (void *)(uintptr_t)kit_dup(kit, m.u.tokens.entries, n * sizeof(*entries));
        for (uint32_t i = 0; i < n; i++)
            entries[i].tokens = kit_dup(kit, entries[i].tokens, entries[i].n_tokens * 4);
        m.u.tokens.entries = entries;
    }
    return kit_dup(kit, &m, sizeof(m));
}

static inline void kit_check(struct kit *kit)
{
    char why[128] = "";
    if (worker_core_check(kit->core, why, sizeof(why)) != ST_OK)
        fail_msg("%s", why);
}

/* Takes all actions behind those taken before. */
static inline void kit_drain(struct kit *kit)
{
    struct worker_action a;
    while (worker_core_next_action(kit->core, &a)) {
        if (a.msg != NULL)
            a.msg = kit_dup_msg(kit, a.msg);
        if (a.peer_info != NULL)
            a.peer_info = kit_dup(kit, a.peer_info, sizeof(*a.peer_info));
        if (a.vec != NULL)
            a.vec = kit_dup(kit, a.vec, a.n_vec * sizeof(*a.vec));
        assert_true(kit->n_actions < KIT_ACTIONS);
        kit->actions[kit->n_actions++] = a;
    }
    kit_check(kit);
}

static inline void kit_forget(struct kit *kit)
{
    kit->n_actions = 0;
}

/* Router connected on connection 0; what was said at that is forgotten. */
static inline void kit_init(struct kit *kit, const struct worker_core_opts *opts)
{
    memset(kit, 0, sizeof(*kit));
    kit->now = 1000;
    arena_init(&kit->arena, 64u << 20);
    assert_int_equal(worker_core_create(opts, &kit->core), ST_OK);
    worker_core_conn_up(kit->core, kit->now, 0, KIT_ROUTER);
    kit_drain(kit);
    kit_forget(kit);
}

static inline void kit_deinit(struct kit *kit)
{
    worker_core_destroy(kit->core);
    arena_deinit(&kit->arena);
}

/* n-th action (from 0) of that kind, and of that message type unless 0; NULL: there is none. */
static inline const struct worker_action *
kit_action(const struct kit *kit, enum worker_action_kind kind, uint32_t type, uint32_t n)
{
    for (uint32_t i = 0; i < kit->n_actions; i++) {
        const struct worker_action *a = &kit->actions[i];
        if (a->kind == kind && (type == 0 || a->msg->type == (enum wire_type)type) && n-- == 0)
            return a;
    }
    return NULL;
}

static inline uint32_t kit_count(const struct kit *kit, enum worker_action_kind kind, uint32_t type)
{
    uint32_t n = 0;
    while (kit_action(kit, kind, type, n) != NULL)
        n++;
    return n;
}

static inline const struct wire_msg *kit_sent(const struct kit *kit, enum wire_type type,
                                              uint32_t n)
{
    const struct worker_action *a = kit_action(kit, ACT_SEND, type, n);
    return a != NULL ? a->msg : NULL;
}

static inline void kit_message(struct kit *kit, uint32_t conn, const struct wire_msg *msg)
{
    worker_core_message(kit->core, kit->now, conn, msg);
    kit_drain(kit);
}

static inline void kit_record(struct kit *kit, uint64_t peer, const struct wire_msg *msg)
{
    worker_core_record(kit->core, kit->now, peer, msg);
    kit_drain(kit);
}

static inline void kit_tick(struct kit *kit, uint64_t ns)
{
    kit->now += ns;
    worker_core_tick(kit->core, kit->now);
    kit_drain(kit);
}

static inline struct wire_seq kit_seq(uint64_t request, uint32_t attempt)
{
    return (struct wire_seq){.request = request, .attempt = attempt};
}

/* Prompt of n tokens, different for each request from its first token on. */
static inline struct wire_job kit_job(struct kit *kit, uint64_t request, uint32_t attempt,
                                      uint32_t n_tokens, uint32_t max_new)
{
    uint32_t *tokens = arena_calloc(&kit->arena, n_tokens + 1, sizeof(*tokens));
    for (uint32_t i = 0; i < n_tokens; i++)
        tokens[i] = (uint32_t)(10000 * request + i);
    return (struct wire_job){.seq = kit_seq(request, attempt),
                             .sampling = {.top_p = 1, .seed = 5, .max_new_tokens = max_new},
                             .n_prompt = n_tokens,
                             .n_tokens = n_tokens,
                             .tokens = tokens};
}

static inline void kit_reserve_job(struct kit *kit, const struct wire_job *job, uint32_t local)
{
    struct wire_msg msg = {.type = WIRE_RESERVE, .u.reserve = {.job = *job, .local = local}};
    kit_message(kit, 0, &msg);
}

static inline void kit_reserve(struct kit *kit, uint64_t request, uint32_t attempt,
                               uint32_t n_tokens, uint32_t max_new, uint32_t local)
{
    struct wire_job job = kit_job(kit, request, attempt, n_tokens, max_new);
    kit_reserve_job(kit, &job, local);
}

static inline void kit_cancel(struct kit *kit, uint64_t request, uint32_t attempt, uint32_t flags)
{
    struct wire_msg msg = {.type = WIRE_CANCEL,
                           .u.cancel = {.seq = kit_seq(request, attempt), .flags = flags}};
    kit_message(kit, 0, &msg);
}

/* As a router does that knows which prefill worker got the PREFILL. */
static inline void kit_cancel_of(struct kit *kit, uint64_t request, uint32_t attempt,
                                 uint64_t writer)
{
    struct wire_msg msg = {.type = WIRE_CANCEL,
                           .u.cancel = {.seq = kit_seq(request, attempt), .writer = writer}};
    kit_message(kit, 0, &msg);
}

static inline void kit_peer(struct kit *kit, uint64_t instance, uint32_t role)
{
    struct wire_msg msg = {.type = WIRE_PEER,
                           .u.peer = {.instance = instance,
                                      .role = role,
                                      .pool = {.pool = 6,
                                               .block_count = 1000,
                                               .epoch = 66,
                                               .layout_hash = KIT_LAYOUT,
                                               .block_tokens = KIT_BT,
                                               .layer_count = KIT_LAYERS,
                                               .block_bytes = 4096}}};
    kit_message(kit, 0, &msg);
}

static inline void kit_peer_gone(struct kit *kit, uint64_t instance)
{
    struct wire_msg msg = {.type = WIRE_PEER_GONE, .u.peer_gone = {.instance = instance}};
    kit_message(kit, 0, &msg);
}

static inline void kit_fenced(struct kit *kit, uint64_t instance)
{
    worker_core_fenced(kit->core, kit->now, instance);
    kit_drain(kit);
}

/* The record that a prefill worker would send for `reserved`. */
static inline struct wire_msg kit_complete(const struct wire_job *job,
                                           const struct wire_msg *reserved, uint32_t token)
{
    const struct wire_reserved *r = &reserved->u.reserved;
    struct wire_msg msg = {.type = WIRE_COMPLETE,
                           .u.complete = {.router = KIT_ROUTER,
                                          .seq = r->seq,
                                          .epoch = r->epoch,
                                          .layout_hash = KIT_LAYOUT,
                                          .pool = r->pool,
                                          .n_tokens = job->n_tokens,
                                          .first_token = token,
                                          .position = job->n_tokens - job->n_prompt,
                                          .n_blocks = r->n_blocks,
                                          .blocks = r->blocks}};
    wire_chain_hash(job->salt, job->tokens, job->n_tokens, &msg.u.complete.chain);
    return msg;
}

static inline struct wire_msg kit_aborted(const struct wire_msg *reserved)
{
    const struct wire_reserved *r = &reserved->u.reserved;
    return (struct wire_msg){.type = WIRE_ABORTED,
                             .u.aborted = {.router = KIT_ROUTER,
                                           .seq = r->seq,
                                           .epoch = r->epoch,
                                           .pool = r->pool,
                                           .n_blocks = r->n_blocks,
                                           .blocks = r->blocks}};
}

/* Plans a step into kit->plan; false: nothing to run. */
static inline bool kit_plan(struct kit *kit)
{
    if (!worker_core_next_step(kit->core, kit->now, &kit->plan)) {
        kit_drain(kit);
        return false;
    }
    kit_drain(kit);
    assert_true(kit->plan.n_items <= 64);
    memcpy(kit->items, kit->plan.items, kit->plan.n_items * sizeof(kit->items[0]));
    return true;
}

/* Ends a step; each item that samples gets token 1000 + its output position, or `token` when that
 * is not 0. */
static inline void kit_finish_plan(struct kit *kit, const struct step_plan *plan,
                                   const struct step_item *items, enum status st, uint32_t token)
{
    uint32_t ids[64], tokens[64];
    struct step_result result = {
        .step_id = plan->step_id, .status = (uint32_t)st, .item_ids = ids, .tokens = tokens};
    for (uint32_t i = 0; i < plan->n_items && st == ST_OK; i++) {
        if (!items[i].sample)
            continue;
        ids[result.n_tokens] = items[i].item_id;
        tokens[result.n_tokens++] = token != 0 ? token : 1000 + items[i].output_position;
    }
    worker_core_step_done(kit->core, kit->now, &result);
    kit_drain(kit);
}

/* Ends the step planned last. */
static inline void kit_finish_step(struct kit *kit, enum status st, uint32_t token)
{
    kit_finish_plan(kit, &kit->plan, kit->items, st, token);
}

/* Plans and ends one step. */
static inline bool kit_step(struct kit *kit)
{
    if (!kit_plan(kit))
        return false;
    kit_finish_step(kit, ST_OK, 0);
    return true;
}

static inline struct kv_pool_counts kit_counts(const struct kit *kit)
{
    return kv_pool_counts(worker_core_pool(kit->core));
}

static inline struct wire_stats kit_stats(const struct kit *kit)
{
    struct wire_stats stats;
    worker_core_stats(kit->core, kit->now, &stats);
    return stats;
}

/* No sequence is left, and no block is held. */
static inline void assert_all_back(const struct kit *kit)
{
    struct kv_pool_counts c = kit_counts(kit);
    assert_int_equal(c.owned, 0);
    assert_int_equal(c.quarantined, 0);
    assert_int_equal(c.free + c.cached, c.total);
    assert_true(worker_core_is_idle(kit->core));
}

static inline void assert_failed(const struct kit *kit, uint32_t n, uint64_t request,
                                 enum status st, uint32_t writer_done)
{
    const struct wire_msg *msg = kit_sent(kit, WIRE_FAILED, n);
    assert_non_null(msg);
    assert_int_equal(msg->u.failed.seq.request, request);
    assert_int_equal(msg->u.failed.status, st);
    assert_int_equal(msg->u.failed.writer_done, writer_done);
}

static inline void assert_cancelled(const struct kit *kit, uint32_t n, uint64_t request,
                                    uint32_t n_quarantined)
{
    const struct wire_msg *msg = kit_sent(kit, WIRE_CANCELLED, n);
    assert_non_null(msg);
    assert_int_equal(msg->u.cancelled.seq.request, request);
    assert_int_equal(msg->u.cancelled.n_quarantined, n_quarantined);
}

#endif
