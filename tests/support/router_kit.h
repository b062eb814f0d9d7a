/* A router core and the workers that a test plays for it. Actions are copied out after each event,
 * so that a test can look at all of them; every invariant is checked then too. */
#ifndef SUPPORT_ROUTER_KIT_H
#define SUPPORT_ROUTER_KIT_H

#include "base/time.h"
#include "router/core.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define KIT_EVENTS 1024u
#define KIT_PROMPT 100u
#define KIT_BLOCK  16u
#define KIT_BLOCKS 64u
#define KIT_NOBODY UINT32_MAX

/* An action, with what it pointed to. */
struct kit_event {
    struct router_action act;
    enum wire_type type; /* SEND */
    struct wire_seq seq; /* RESERVE, PREFILL, CANCEL */
    struct wire_job job; /* RESERVE, PREFILL; tokens is NULL */
    uint32_t last_token; /* of the job's log */
    uint32_t local;      /* RESERVE */
    uint32_t flags;      /* CANCEL */
    uint64_t instance;   /* PEER, PEER_GONE; PREFILL: dest; CANCEL: writer */
    uint32_t n_blocks;   /* PREFILL */
    uint32_t cached;     /* PREFILL */
    uint32_t tokens[16]; /* TOKENS */
};

struct kit {
    struct router_core *core;
    uint64_t now;
    uint32_t n_events;
    struct kit_event events[KIT_EVENTS];
    uint32_t prompt[512];
};

static inline struct router_core_opts kit_opts(void)
{
    return (struct router_core_opts){.instance = 1,
                                     .requests_max = 16,
                                     .choices_max = 48,
                                     .tokens_max = 1u << 16,
                                     .attempts_max = 3,
                                     .prefix_index_max = 256,
                                     .prefix_routing = 1,
                                     .heartbeat_timeout_ns = 1500 * NS_PER_MS,
                                     .reserve_timeout_ns = 2 * NS_PER_S,
                                     .prefill_timeout_ns = 2 * NS_PER_S,
                                     .prefill_ns_per_token = NS_PER_MS,
                                     .decode_timeout_ns = 2 * NS_PER_S,
                                     .cancel_retry_ns = 50 * NS_PER_MS,
                                     .seed = 42};
}

static inline void kit_copy_message(struct kit_event *e, const struct wire_msg *msg)
{
    e->type = msg->type;
    switch (msg->type) {
    case WIRE_RESERVE:
        e->job = msg->u.reserve.job;
        e->local = msg->u.reserve.local;
        break;
    case WIRE_PREFILL:
        e->job = msg->u.prefill.job;
        e->instance = msg->u.prefill.dest;
        e->n_blocks = msg->u.prefill.n_blocks;
        e->cached = msg->u.prefill.cached_tokens;
        break;
    case WIRE_CANCEL:
        e->seq = msg->u.cancel.seq;
        e->flags = msg->u.cancel.flags;
        e->instance = msg->u.cancel.writer;
        return;
    case WIRE_PEER:
        e->instance = msg->u.peer.instance;
        return;
    case WIRE_PEER_GONE:
        e->instance = msg->u.peer_gone.instance;
        return;
    default:
        fail_msg("router sends %s", wire_type_name(msg->type));
        return;
    }
    e->seq = e->job.seq;
    e->last_token = e->job.tokens[e->job.n_tokens - 1];
    e->job.tokens = NULL;
}

/* Takes all actions into events[], forgetting those of before. */
static inline void kit_pump(struct kit *k)
{
    struct router_action act;
    char why[128] = "";
    k->n_events = 0;
    while (router_core_next_action(k->core, &act)) {
        assert_true(k->n_events < KIT_EVENTS);
        struct kit_event *e = &k->events[k->n_events++];
        *e = (struct kit_event){.act = act};
        if (act.kind == ROUTER_SEND)
            kit_copy_message(e, act.msg);
        for (uint32_t i = 0; act.kind == ROUTER_TOKENS && i < act.n_tokens && i < 16; i++)
            e->tokens[i] = act.tokens[i];
    }
    if (router_core_check(k->core, why, sizeof(why)) != ST_OK)
        fail_msg("%s", why);
}

static inline void kit_open_with(struct kit *k, const struct router_core_opts *opts)
{
    memset(k, 0, sizeof(*k));
    k->now = NS_PER_S;
    for (uint32_t i = 0; i < 512; i++)
        k->prompt[i] = i;
    assert_int_equal(router_core_create(opts, &k->core), ST_OK);
}

static inline void kit_open(struct kit *k)
{
    struct router_core_opts opts = kit_opts();
    kit_open_with(k, &opts);
}

static inline void kit_close(struct kit *k)
{
    router_core_destroy(k->core);
    k->core = NULL;
}

/* ---- workers ---- */

static inline struct wire_hello kit_hello(uint32_t role, uint64_t instance)
{
    struct wire_hello hello = {.version_min = WIRE_VERSION_MIN,
                               .version_max = WIRE_VERSION_MAX,
                               .role = role,
                               .instance = instance,
                               .pool = {.block_count = KIT_BLOCKS,
                                        .epoch = 1000 + instance,
                                        .layout_hash = 9,
                                        .block_tokens = KIT_BLOCK,
                                        .layer_count = 2,
                                        .block_bytes = 4096},
                               .max_context_tokens = 512,
                               .max_seqs = 8,
                               .vocab_size = 1000,
                               .queue_max = 32,
                               .transport = "t"};
    snprintf(hello.name, sizeof(hello.name), "w%u", (unsigned)instance);
    return hello;
}

static inline uint32_t kit_worker_as(struct kit *k, const struct wire_hello *hello)
{
    uint32_t slot = KIT_NOBODY;
    assert_int_equal(router_core_worker_up(k->core, k->now, hello, &slot), ST_OK);
    kit_pump(k);
    return slot;
}

static inline uint32_t kit_worker(struct kit *k, uint32_t role, uint64_t instance)
{
    struct wire_hello hello = kit_hello(role, instance);
    return kit_worker_as(k, &hello);
}

static inline void kit_down(struct kit *k, uint32_t slot)
{
    router_core_worker_down(k->core, k->now, slot);
    kit_pump(k);
}

static inline void kit_tick(struct kit *k, uint64_t after_ns)
{
    k->now += after_ns;
    router_core_tick(k->core, k->now);
    kit_pump(k);
}

static inline void kit_say(struct kit *k, uint32_t slot, const struct wire_msg *msg)
{
    router_core_message(k->core, k->now, slot, msg);
    kit_pump(k);
}

static inline void kit_stats(struct kit *k, uint32_t slot, uint32_t blocks_free)
{
    struct wire_msg msg = {.type = WIRE_STATS,
                           .u.stats = {.blocks_total = KIT_BLOCKS, .blocks_free = blocks_free}};
    kit_say(k, slot, &msg);
}

/* As kit_hello made it: blocks for all of n_tokens but `cached`. */
static inline void kit_reserved(struct kit *k, uint32_t slot, struct wire_seq seq,
                                uint32_t n_tokens, uint32_t cached)
{
    struct wire_block blocks[KIT_BLOCKS];
    struct router_worker_view view;
    for (uint32_t i = 0; i < KIT_BLOCKS; i++)
        blocks[i] = (struct wire_block){i, 1};
    assert_true(router_core_worker_view(k->core, k->now, slot, &view));
    struct wire_msg msg = {
        .type = WIRE_RESERVED,
        .u.reserved = {.seq = seq,
                       .cached_tokens = cached,
                       .epoch = view.hello.pool.epoch,
                       .n_blocks = (n_tokens - cached + KIT_BLOCK - 1) / KIT_BLOCK,
                       .blocks = blocks}};
    kit_say(k, slot, &msg);
}

static inline void kit_prefilled(struct kit *k, uint32_t slot, struct wire_seq seq,
                                 uint32_t position, uint32_t token)
{
    struct wire_msg msg = {
        .type = WIRE_PREFILLED,
        .u.prefilled = {.seq = seq, .position = position, .token = token, .compute_us = 100}};
    kit_say(k, slot, &msg);
}

static inline void kit_tokens(struct kit *k, uint32_t slot, struct wire_seq seq, uint32_t position,
                              const uint32_t *tokens, uint32_t n, uint32_t finish)
{
    struct wire_tokens_entry entry = {seq, position, finish, n, tokens};
    struct wire_msg msg = {.type = WIRE_TOKENS, .u.tokens = {.n_entries = 1, .entries = &entry}};
    kit_say(k, slot, &msg);
}

static inline void kit_token(struct kit *k, uint32_t slot, struct wire_seq seq, uint32_t position,
                             uint32_t token, uint32_t finish)
{
    kit_tokens(k, slot, seq, position, &token, 1, finish);
}

static inline void kit_failed(struct kit *k, uint32_t slot, struct wire_seq seq, uint32_t status,
                              uint32_t writer_done)
{
    struct wire_msg msg = {.type = WIRE_FAILED, .u.failed = {seq, status, writer_done}};
    kit_say(k, slot, &msg);
}

static inline void kit_cancelled(struct kit *k, uint32_t slot, struct wire_seq seq,
                                 uint32_t n_quarantined)
{
    struct wire_msg msg = {.type = WIRE_CANCELLED, .u.cancelled = {seq, n_quarantined}};
    kit_say(k, slot, &msg);
}

/* ---- requests ---- */

static inline struct router_request kit_request(struct kit *k, uint32_t n_choices, uint32_t max_new)
{
    return (struct router_request){.tokens = k->prompt,
                                   .n_tokens = KIT_PROMPT,
                                   .n_choices = n_choices,
                                   .sampling = {.max_new_tokens = max_new, .top_p = 1},
                                   .deadline_ns = k->now + 60 * NS_PER_S,
                                   .tag = 77};
}

static inline uint64_t kit_submit_as(struct kit *k, const struct router_request *req)
{
    uint64_t id = 0;
    assert_int_equal(router_core_submit(k->core, k->now, req, &id), ST_OK);
    kit_pump(k);
    return id;
}

static inline uint64_t kit_submit(struct kit *k, uint32_t n_choices, uint32_t max_new)
{
    struct router_request req = kit_request(k, n_choices, max_new);
    return kit_submit_as(k, &req);
}

/* ---- what came out ---- */

/* The i-th message of that type to that worker (KIT_NOBODY: to any), or NULL. */
static inline const struct kit_event *kit_sent_nth(const struct kit *k, enum wire_type type,
                                                   uint32_t slot, uint32_t i)
{
    for (uint32_t e = 0; e < k->n_events; e++)
        if (k->events[e].act.kind == ROUTER_SEND && k->events[e].type == type &&
            (slot == KIT_NOBODY || k->events[e].act.worker == slot) && i-- == 0)
            return &k->events[e];
    return NULL;
}

static inline const struct kit_event *kit_sent(const struct kit *k, enum wire_type type,
                                               uint32_t slot)
{
    return kit_sent_nth(k, type, slot, 0);
}

static inline uint32_t kit_n_sent(const struct kit *k, enum wire_type type, uint32_t slot)
{
    uint32_t n = 0;
    while (kit_sent_nth(k, type, slot, n) != NULL)
        n++;
    return n;
}

static inline const struct kit_event *kit_event(const struct kit *k, enum router_action_kind kind)
{
    for (uint32_t e = 0; e < k->n_events; e++)
        if (k->events[e].act.kind == kind)
            return &k->events[e];
    return NULL;
}

static inline uint32_t kit_n_events(const struct kit *k, enum router_action_kind kind)
{
    uint32_t n = 0;
    for (uint32_t e = 0; e < k->n_events; e++)
        n += k->events[e].act.kind == kind;
    return n;
}

/* Brings a remote request's choice 0 to its first token: attempt 1, worker slots p and d. */
static inline struct wire_seq kit_start_remote(struct kit *k, uint32_t p, uint32_t d,
                                               uint32_t n_choices, uint32_t max_new, uint32_t token)
{
    struct wire_seq seq = {kit_submit(k, n_choices, max_new), 1, 0};
    assert_non_null(kit_sent(k, WIRE_RESERVE, d));
    kit_reserved(k, d, seq, KIT_PROMPT, 0);
    assert_non_null(kit_sent(k, WIRE_PREFILL, p));
    kit_prefilled(k, p, seq, 0, token);
    assert_non_null(kit_event(k, ROUTER_TOKENS));
    return seq;
}

#endif
