/* Bytes -> a sequence of events for one router core, sensible and senseless ones. After each event
 * all actions are taken and all invariants hold; a client's view of every stream is kept (positions
 * without a gap, one end, silence after it), and no attempt number may come back. At the end all
 * workers answer what they were asked, and then nothing is left. */
#include "router/core.h"

#include "base/time.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    WORKERS = 6,
    REQUESTS = 512, /* of a run; ids are below */
    CHOICES = 3,
    ASKED = 64, /* messages remembered to be answered */
    BT = 16,
    BLOCKS = 24,
    CONTEXT = 200,
};

struct input {
    const uint8_t *data;
    size_t size;
};

struct asked {
    enum wire_type type;
    uint32_t slot, n_tokens, n_prompt;
    struct wire_seq seq;
};

struct stream {
    uint32_t n_tokens, attempt;
    bool ended;
};

struct run {
    struct router_core *core;
    uint64_t now, instance, next_id;
    struct input in;
    bool up[ROUTER_WORKERS_MAX];
    uint32_t role[ROUTER_WORKERS_MAX];
    uint64_t epoch[ROUTER_WORKERS_MAX];
    struct asked asked[ASKED];
    uint32_t n_asked;
    bool live[REQUESTS];
    uint32_t n_choices[REQUESTS];
    struct stream streams[REQUESTS][CHOICES];
};

static uint32_t take(struct run *run, uint32_t below)
{
    if (run->in.size == 0)
        return 0;
    run->in.size--;
    return *run->in.data++ % below;
}

static void broken(const char *what)
{
    fprintf(stderr, "%s\n", what);
    abort();
}

/* ---- what comes out ---- */

static void saw_message(struct run *run, const struct router_action *act)
{
    struct asked asked = {.type = act->msg->type, .slot = act->worker};
    if (act->worker >= ROUTER_WORKERS_MAX || !run->up[act->worker])
        broken("message to a worker that is not up");
    if (asked.type == WIRE_RESERVE || asked.type == WIRE_PREFILL) {
        const struct wire_job *job =
            asked.type == WIRE_RESERVE ? &act->msg->u.reserve.job : &act->msg->u.prefill.job;
        asked.seq = job->seq;
        asked.n_tokens = job->n_tokens;
        asked.n_prompt = job->n_prompt;
        if (job->seq.request >= REQUESTS || !run->live[job->seq.request])
            broken("job of a request that is not live");
        struct stream *s = &run->streams[job->seq.request][job->seq.choice];
        if (job->n_tokens - job->n_prompt != s->n_tokens)
            broken("job without the committed tokens");
        for (uint32_t i = job->n_prompt; i < job->n_tokens; i++)
            if (job->tokens[i] >= 100)
                broken("token that nobody said");
        if (asked.type == WIRE_RESERVE && job->seq.attempt <= s->attempt)
            broken("attempt number used again");
        s->attempt = job->seq.attempt;
    } else if (asked.type == WIRE_CANCEL) {
        asked.seq = act->msg->u.cancel.seq;
    } else {
        return;
    }
    run->asked[run->n_asked++ % ASKED] = asked;
}

static void saw_tokens(struct run *run, const struct router_action *act)
{
    if (act->request >= REQUESTS || !run->live[act->request] ||
        act->choice >= run->n_choices[act->request])
        broken("tokens of a request that is not live");
    struct stream *s = &run->streams[act->request][act->choice];
    if (s->ended || act->position != s->n_tokens || act->tag != act->request + 1000)
        broken("stream has a gap, or goes on after its end");
    s->n_tokens += act->n_tokens;
    s->ended = act->finish != WIRE_FINISH_NONE;
    if (act->n_tokens == 0 && !s->ended)
        broken("tokens without a token");
    if (!s->ended && take(run, 64) == 63) {
        s->ended = true;
        router_core_stop(run->core, run->now, act->request, act->choice);
    }
}

static void saw_end(struct run *run, const struct router_action *act)
{
    if (act->request >= REQUESTS || !run->live[act->request])
        broken("request ends twice");
    run->live[act->request] = false;
    for (uint32_t i = 0; act->kind == ROUTER_DONE && i < run->n_choices[act->request]; i++)
        if (!run->streams[act->request][i].ended)
            broken("request is done before its choices");
    if (act->kind == ROUTER_FAIL && act->status == ST_OK)
        broken("failure without a status");
}

static void take_actions(struct run *run)
{
    struct router_action act;
    char why[128] = "";
    while (router_core_next_action(run->core, &act)) {
        switch (act.kind) {
        case ROUTER_SEND:
            saw_message(run, &act);
            break;
        case ROUTER_TOKENS:
            saw_tokens(run, &act);
            break;
        case ROUTER_DONE:
        case ROUTER_FAIL:
            saw_end(run, &act);
            break;
        case ROUTER_DROP:
            if (!run->up[act.worker])
                broken("drop of a worker that is not up");
            run->up[act.worker] = false;
            break;
        }
    }
    if (router_core_check(run->core, why, sizeof(why)) != ST_OK)
        broken(why);
}

/* ---- what goes in ---- */

static void op_worker_up(struct run *run, uint32_t role)
{
    uint32_t slot, n_up = 0;
    for (uint32_t i = 0; i < ROUTER_WORKERS_MAX; i++)
        n_up += run->up[i];
    if (n_up >= WORKERS)
        return;
    struct wire_hello hello = {.version_min = WIRE_VERSION_MIN,
                               .version_max = WIRE_VERSION_MAX,
                               .role = role,
                               .instance = ++run->instance,
                               .pool = {.block_count = take(run, 8) == 1 ? 6 : BLOCKS,
                                        .epoch = 7 * run->instance,
                                        .layout_hash = take(run, 8) == 1,
                                        .block_tokens = BT},
                               .max_context_tokens = take(run, 8) == 1 ? 70 : CONTEXT,
                               .max_seqs = 4,
                               .queue_max = take(run, 8),
                               .transport = "t"};
    if (router_core_worker_up(run->core, run->now, &hello, &slot) != ST_OK)
        return;
    if (slot >= ROUTER_WORKERS_MAX || run->up[slot])
        broken("slot given twice");
    run->up[slot] = true;
    run->role[slot] = role;
    run->epoch[slot] = hello.pool.epoch;
}

static void op_submit(struct run *run)
{
    uint32_t tokens[CONTEXT];
    uint64_t id;
    for (uint32_t i = 0; i < CONTEXT; i++)
        tokens[i] = i % 7;
    struct router_request req = {.tokens = tokens,
                                 .n_tokens = take(run, 120),
                                 .n_choices = 1 + take(run, CHOICES),
                                 .deadline_ns = run->now + take(run, 40) * NS_PER_S / 2};
    req.sampling.max_new_tokens = take(run, 12);
    req.salt[0] = (uint8_t)take(run, 2);
    if (run->next_id == REQUESTS)
        return;
    req.tag = run->next_id + 1000;
    enum status st = router_core_submit(run->core, run->now, &req, &id);
    if (st != ST_OK)
        return;
    if (id != run->next_id++)
        broken("ids do not grow by one");
    run->live[id] = true;
    run->n_choices[id] = req.n_choices;
}

static uint32_t some_slot(struct run *run)
{
    return take(run, 2 * WORKERS);
}

/* A seq that was asked for lately, perhaps bent. */
static struct asked some_asked(struct run *run)
{
    struct asked a = run->asked[(run->n_asked - 1 - take(run, 8)) % ASKED];
    uint32_t lie = take(run, 32);
    a.seq.attempt += lie == 1;
    a.seq.attempt -= lie == 2;
    a.seq.choice += lie == 3;
    a.seq.request += lie == 4;
    if (lie == 5)
        a.slot = some_slot(run);
    return a;
}

static void answer_reserved(struct run *run, const struct asked *a)
{
    struct wire_block blocks[BLOCKS] = {{0}};
    uint32_t cached = take(run, 4) == 1 && a->n_tokens > BT ? BT : 0;
    struct wire_msg msg = {.type = WIRE_RESERVED};
    msg.u.reserved = (struct wire_reserved){.seq = a->seq,
                                            .cached_tokens = cached + (take(run, 32) == 1),
                                            .epoch = run->epoch[a->slot % ROUTER_WORKERS_MAX],
                                            .n_blocks = (a->n_tokens - cached + BT - 1) / BT,
                                            .blocks = blocks};
    msg.u.reserved.n_blocks += take(run, 32) == 1;
    router_core_message(run->core, run->now, a->slot, &msg);
}

static void answer_tokens(struct run *run, const struct asked *a)
{
    uint32_t tokens[4], n_entries = 1 + take(run, 3), position = 0;
    struct wire_tokens_entry entries[3];
    struct wire_msg msg = {.type = WIRE_TOKENS, .u.tokens = {n_entries, entries}};
    if (a->seq.request < REQUESTS && a->seq.choice < CHOICES)
        position = run->streams[a->seq.request][a->seq.choice].n_tokens;
    position -= take(run, 4) == 1 && position > 0;
    position += take(run, 16) == 1;
    for (uint32_t i = 0; i < 4; i++)
        tokens[i] = 50 + (take(run, 32) == 1);
    for (uint32_t i = 0; i < n_entries; i++) {
        uint32_t n = take(run, 4), finish = take(run, 16);
        entries[i] = (struct wire_tokens_entry){
            a->seq, position, finish < 3 ? finish : WIRE_FINISH_NONE, n, n > 0 ? tokens : NULL};
        position += n;
    }
    router_core_message(run->core, run->now, a->slot, &msg);
}

static void answer_failed(struct run *run, const struct asked *a)
{
    struct wire_msg msg = {.type = WIRE_FAILED};
    msg.u.failed = (struct wire_failed){a->seq, take(run, ST_COUNT + 1), take(run, 2)};
    router_core_message(run->core, run->now, a->slot, &msg);
}

static void answer_cancelled(struct run *run, const struct asked *a)
{
    struct wire_msg msg = {.type = WIRE_CANCELLED};
    msg.u.cancelled = (struct wire_cancelled){a->seq, take(run, 3)};
    router_core_message(run->core, run->now, a->slot, &msg);
}

static void op_answer(struct run *run)
{
    struct wire_msg msg = {.type = WIRE_PREFILLED};
    if (run->n_asked == 0)
        return;
    struct asked a = some_asked(run);
    uint32_t kind = take(run, 8);
    if (a.type == WIRE_CANCEL && kind < 6) {
        answer_cancelled(run, &a);
    } else if (kind == 7) {
        answer_failed(run, &a);
    } else if (a.type == WIRE_PREFILL) {
        msg.u.prefilled = (struct wire_prefilled){.seq = a.seq,
                                                  .position = a.n_tokens - a.n_prompt,
                                                  .token = 50,
                                                  .compute_us = take(run, 256)};
        router_core_message(run->core, run->now, a.slot, &msg);
    } else if (kind < 3) {
        answer_reserved(run, &a);
    } else {
        answer_tokens(run, &a);
    }
}

static void op_stats(struct run *run, uint32_t slot)
{
    struct wire_msg msg = {.type = WIRE_STATS};
    msg.u.stats.blocks_total = BLOCKS;
    msg.u.stats.blocks_free = take(run, BLOCKS + 1);
    msg.u.stats.running = take(run, 8);
    router_core_message(run->core, run->now, slot, &msg);
}

static void op_cache(struct run *run, uint32_t slot)
{
    struct wire_cache_entry entries[4];
    struct wire_msg msg = {.type = WIRE_CACHE, .u.cache = {take(run, 8) == 1, 4, entries}};
    for (uint32_t i = 0; i < 4; i++) {
        memset(&entries[i].key, (int)take(run, 16), sizeof(entries[i].key));
        entries[i].added = take(run, 2);
    }
    router_core_message(run->core, run->now, slot, &msg);
}

static void op(struct run *run)
{
    uint32_t kind = take(run, 32);
    uint32_t slot;
    struct wire_msg msg = {.type = WIRE_LEAVING};
    if (kind < 6) {
        op_submit(run);
    } else if (kind < 20) {
        op_answer(run);
    } else if (kind < 22) {
        op_worker_up(run, WIRE_ROLE_PREFILL + take(run, 3));
    } else if (kind == 22) {
        slot = some_slot(run);
        router_core_worker_down(run->core, run->now, slot);
        run->up[slot] = false;
    } else if (kind == 23) {
        uint64_t id = 1 + take(run, 64);
        run->live[id] = false;
        router_core_cancel(run->core, run->now, id);
    } else if (kind < 27) {
        op_stats(run, some_slot(run));
    } else if (kind == 27) {
        op_cache(run, some_slot(run));
    } else if (kind == 28 && take(run, 8) == 1) {
        router_core_message(run->core, run->now, some_slot(run), &msg);
    } else {
        run->now += (uint64_t)take(run, 16) * take(run, 16) * 10 * NS_PER_MS;
        if (router_core_deadline(run->core) <= run->now || take(run, 2) == 0)
            router_core_tick(run->core, run->now);
    }
}

/* Every request goes and every cancel is answered: then there is nothing. */
static void settle(struct run *run)
{
    for (uint64_t id = 1; id < REQUESTS; id++) {
        run->live[id] = false;
        router_core_cancel(run->core, run->now, id);
    }
    take_actions(run);
    for (uint32_t round = 0; round < 8; round++) {
        for (uint32_t slot = 0; slot < ROUTER_WORKERS_MAX; slot++)
            op_stats(run, slot);
        take_actions(run);
        run->n_asked = 0;
        run->now += NS_PER_S; /* below the heartbeat, above the repetition of a cancel */
        router_core_tick(run->core, run->now);
        take_actions(run);
        for (uint32_t i = 0; i < run->n_asked && i < ASKED; i++) {
            struct wire_msg msg = {.type = WIRE_CANCELLED, .u.cancelled = {run->asked[i].seq, 0}};
            router_core_message(run->core, run->now, run->asked[i].slot, &msg);
        }
    }
    if (!router_core_is_idle(run->core) || router_core_counts(run->core).cancels_pending > 0)
        broken("something is left when everybody has answered");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct run *run = calloc(1, sizeof(*run));
    if (run == NULL || size > 4096) {
        free(run);
        return 0;
    }
    run->in = (struct input){data, size};
    run->now = NS_PER_S;
    run->next_id = 1;
    struct router_core_opts opts = {.instance = 1,
                                    .requests_max = 8,
                                    .choices_max = 12,
                                    .tokens_max = 1500,
                                    .attempts_max = 1 + take(run, 4),
                                    .local_prefill_max_tokens = take(run, 3) * 16,
                                    .prefix_routing = take(run, 2),
                                    .prefix_index_max = 8,
                                    .worker_inflight_max = take(run, 4),
                                    .heartbeat_timeout_ns = 1500 * NS_PER_MS,
                                    .reserve_timeout_ns = 2 * NS_PER_S,
                                    .prefill_timeout_ns = 2 * NS_PER_S,
                                    .prefill_ns_per_token = NS_PER_MS,
                                    .decode_timeout_ns = 2 * NS_PER_S,
                                    .cancel_retry_ns = 50 * NS_PER_MS,
                                    .seed = take(run, 256)};
    if (router_core_create(&opts, &run->core) != ST_OK)
        broken("create");
    op_worker_up(run, WIRE_ROLE_PREFILL);
    op_worker_up(run, WIRE_ROLE_DECODE);
    take_actions(run);
    while (run->in.size > 0) {
        op(run);
        take_actions(run);
    }
    settle(run);
    router_core_destroy(run->core);
    free(run);
    return 0;
}
