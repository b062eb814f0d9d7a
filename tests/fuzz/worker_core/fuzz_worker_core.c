/* Bytes -> a sequence of events for one worker core, sensible and senseless ones. After each event
 * all actions are taken and all invariants hold; at the end every connection goes, every push is
 * answered and every fence that is asked for is granted, and then no block is held by anybody. */
#include "worker/core.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    BT = 4,
    LAYERS = 2,
    BLOCKS = 24,
    CONTEXT = 64,
    SEQS = 4,
    LAYOUT = 9,
    N_IDS = 8, /* of connections, requests, peers */
    PUSHES = 512,
    LOANS = 16,
    SECOND = 1000000000
};

struct input {
    const uint8_t *data;
    size_t size;
};

struct loan_seen {
    struct wire_seq seq;
    uint64_t router, epoch;
    uint32_t n_blocks, n_tokens;
    struct wire_block blocks[CONTEXT / BT];
};

struct run {
    struct worker_core *core;
    uint64_t now;
    struct input in;
    uint32_t role;
    uint64_t routers[N_IDS]; /* of the connections; 0: down */
    uint64_t pushes[PUSHES]; /* not answered; 0: free */
    struct loan_seen loans[LOANS];
    uint32_t n_loans;
    uint64_t fences[N_IDS];    /* asked for and not granted */
    struct step_plan plans[2]; /* under way, oldest first */
    uint32_t n_plans;
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

static void saw_loan(struct run *run, const struct worker_action *a)
{
    const struct wire_reserved *m = &a->msg->u.reserved;
    struct loan_seen *loan = &run->loans[run->n_loans++ % LOANS];
    if (m->n_blocks > CONTEXT / BT)
        broken("more blocks lent than a context has");
    *loan = (struct loan_seen){.seq = m->seq,
                               .router = run->routers[a->conn],
                               .epoch = m->epoch,
                               .n_blocks = m->n_blocks,
                               .n_tokens = (uint32_t)m->seq.request % 7 * 9 + 1};
    if (m->n_blocks > 0)
        memcpy(loan->blocks, m->blocks, m->n_blocks * sizeof(loan->blocks[0]));
}

static void take_actions(struct run *run)
{
    struct worker_action a;
    char why[128] = "";
    while (worker_core_next_action(run->core, &a)) {
        if (a.kind == ACT_SEND && (a.conn >= N_IDS || run->routers[a.conn] == 0))
            broken("message to nobody");
        if (a.kind == ACT_SEND && a.msg->type == WIRE_RESERVED)
            saw_loan(run, &a);
        if (a.kind == ACT_FENCE)
            run->fences[a.peer % N_IDS] = a.peer;
        if (a.kind != ACT_PUSH)
            continue;
        uint32_t at = 0;
        while (at < PUSHES && run->pushes[at] != 0)
            at++;
        if (at == PUSHES || a.n_vec == 0 || a.layer_first + a.layer_count > LAYERS)
            broken("bad push");
        run->pushes[at] = a.push_id;
    }
    if (worker_core_check(run->core, why, sizeof(why)) != ST_OK)
        broken(why);
}

/* A request's number decides its length and its prompt, so that attempts of it agree. */
static void job_fill(struct run *run, struct wire_job *job, uint32_t *tokens)
{
    uint64_t request = take(run, N_IDS);
    uint32_t n = (uint32_t)request % 7 * 9 + 1;
    for (uint32_t i = 0; i < n; i++)
        tokens[i] = i < 16 ? 5 + i : (uint32_t)request * 100 + i;
    *job = (struct wire_job){
        .seq = {.request = request, .attempt = take(run, 4), .choice = take(run, 2)},
        .sampling = {.max_new_tokens = 1 + take(run, 30),
                     .min_new_tokens = take(run, 3),
                     .n_stop_ids = take(run, 3),
                     .stop_ids = {7, 8}},
        .n_prompt = n > 1 && take(run, 4) == 0 ? n - 1 : n,
        .n_tokens = n,
        .tokens = tokens};
    job->salt[0] = (uint8_t)take(run, 2);
}

static void op_prefill(struct run *run, struct wire_msg *msg, uint32_t *tokens,
                       struct wire_block *blocks)
{
    struct wire_prefill *p = &msg->u.prefill;
    msg->type = WIRE_PREFILL;
    job_fill(run, &p->job, tokens);
    p->dest = 100 + take(run, 3);
    p->epoch = 66;
    p->cached_tokens = take(run, 3) * BT;
    if (p->cached_tokens >= p->job.n_tokens)
        p->cached_tokens = 0;
    p->n_blocks = (p->job.n_tokens - p->cached_tokens + BT - 1) / BT + (take(run, 20) == 1);
    for (uint32_t i = 0; i < p->n_blocks; i++)
        blocks[i] = (struct wire_block){i, 1};
    p->blocks = blocks;
}

static void op_message(struct run *run, uint32_t kind)
{
    struct wire_msg msg = {0};
    uint32_t tokens[CONTEXT];
    struct wire_block blocks[CONTEXT / BT + 2];
    uint32_t conn = take(run, 3) > 0 ? 0 : take(run, N_IDS);
    switch (kind) {
    case 0:
        msg.type = WIRE_PEER;
        msg.u.peer = (struct wire_peer){.instance = 100 + take(run, 4),
                                        .role = WIRE_ROLE_PREFILL + take(run, 2),
                                        .pool = {.epoch = 66,
                                                 .block_count = BLOCKS,
                                                 .layout_hash = LAYOUT,
                                                 .block_tokens = BT,
                                                 .layer_count = LAYERS}};
        break;
    case 1:
        msg.type = WIRE_PEER_GONE;
        msg.u.peer_gone.instance = 100 + take(run, N_IDS);
        break;
    case 2:
        msg.type = WIRE_CANCEL;
        msg.u.cancel.seq = (struct wire_seq){take(run, N_IDS), take(run, 4), take(run, 2)};
        msg.u.cancel.flags = take(run, 2);
        msg.u.cancel.writer = take(run, 3) == 0 ? 0 : 100 + take(run, 4);
        break;
    case 3:
        op_prefill(run, &msg, tokens, blocks);
        break;
    default:
        msg.type = WIRE_RESERVE;
        job_fill(run, &msg.u.reserve.job, tokens);
        msg.u.reserve.local = take(run, 2);
        break;
    }
    worker_core_message(run->core, run->now, conn, &msg);
}

static void op_record(struct run *run)
{
    struct loan_seen loan = run->loans[take(run, LOANS)];
    uint64_t peer = 100 + take(run, N_IDS);
    uint32_t kind = take(run, 4), lie = take(run, 16);
    uint32_t tokens[CONTEXT];
    struct wire_msg msg = {.type = WIRE_ROUTER_DONE, .u.router_done.router = 50 + take(run, 16)};
    if (lie == 1)
        loan.blocks[0].generation++;
    if (kind == 0) {
        msg.type = WIRE_ABORTED;
        msg.u.aborted = (struct wire_aborted){.router = loan.router,
                                              .seq = loan.seq,
                                              .epoch = loan.epoch + (lie == 2),
                                              .n_blocks = loan.n_blocks,
                                              .blocks = loan.blocks};
    } else if (kind < 3) {
        uint8_t salt[16] = {(uint8_t)take(run, 2)};
        msg.type = WIRE_COMPLETE;
        msg.u.complete = (struct wire_complete){.router = loan.router,
                                                .seq = loan.seq,
                                                .epoch = loan.epoch + (lie == 2),
                                                .layout_hash = LAYOUT + (lie == 3),
                                                .n_tokens = loan.n_tokens,
                                                .first_token = 3 + take(run, 4),
                                                .position = take(run, 8) == 1,
                                                .n_blocks = loan.n_blocks,
                                                .blocks = loan.blocks};
        for (uint32_t i = 0; i < loan.n_tokens; i++)
            tokens[i] = i < 16 ? 5 + i : (uint32_t)loan.seq.request * 100 + i;
        wire_chain_hash(salt, tokens, loan.n_tokens, &msg.u.complete.chain);
    }
    worker_core_record(run->core, run->now, peer, &msg);
}

static void op_step_done(struct run *run)
{
    uint32_t ids[SEQS], tokens[SEQS];
    const struct step_plan *plan = &run->plans[0];
    struct step_result result = {.step_id = plan->step_id, .item_ids = ids, .tokens = tokens};
    if (run->n_plans == 0)
        return;
    result.status = take(run, 16) == 1 ? ST_INTERNAL : ST_OK;
    for (uint32_t i = 0; i < plan->n_items; i++) {
        const struct step_item *item = &plan->items[i];
        for (uint32_t b = 0; b < item->n_blocks; b++) {
            if (kv_pool_block_state(worker_core_pool(run->core), item->blocks[b], NULL) != 'o')
                broken("a block was given away during the step that writes it");
        }
        if (!item->sample)
            continue;
        ids[result.n_tokens] = item->item_id;
        tokens[result.n_tokens++] = 3 + take(run, 8);
    }
    run->plans[0] = run->plans[1];
    run->n_plans--;
    worker_core_step_done(run->core, run->now, &result);
}

/* Answers the first push from number `at` on; none: an unknown one. */
static void op_push_done(struct run *run, uint32_t at, enum status st)
{
    while (run->pushes[at] == 0 && at + 1 < PUSHES)
        at++;
    uint64_t id = run->pushes[at];
    run->pushes[at] = 0;
    worker_core_push_done(run->core, run->now, id, st);
}

static void op_conn(struct run *run, uint32_t conn, uint32_t up)
{
    if (!up) {
        run->routers[conn] = 0;
        worker_core_conn_down(run->core, run->now, conn);
        return;
    }
    uint64_t router = 50 + take(run, 16);
    for (uint32_t i = 0; i < N_IDS; i++) {
        if (run->routers[i] == router)
            run->routers[i] = 0;
    }
    run->routers[conn] = router;
    worker_core_conn_up(run->core, run->now, conn, router);
}

static void op(struct run *run)
{
    uint32_t kind = take(run, 24); /* 18 and above: the step */
    if (kind < 8) {
        op_message(run, kind);
    } else if (kind < 10) {
        op_record(run);
    } else if (kind == 10) {
        op_conn(run, take(run, N_IDS), take(run, 4) > 0);
    } else if (kind == 11 || kind == 12) {
        op_push_done(run, take(run, 4), take(run, 8) == 1 ? ST_IO : ST_OK);
    } else if (kind == 13) {
        worker_core_layers_done(run->core, run->now, run->plans[0].step_id, take(run, LAYERS + 1),
                                take(run, LAYERS + 1));
    } else if (kind == 14) {
        run->now += (uint64_t)take(run, 32) * SECOND / 4;
        if (worker_core_deadline(run->core) <= run->now || take(run, 2) == 0)
            worker_core_tick(run->core, run->now);
    } else if (kind == 15) {
        uint64_t peer = 100 + take(run, N_IDS);
        run->fences[peer % N_IDS] = 0;
        worker_core_fenced(run->core, run->now, peer);
    } else if (kind == 16) {
        worker_core_peer_error(run->core, run->now, 100 + take(run, N_IDS));
    } else if (kind == 17 && take(run, 32) == 1) {
        worker_core_drain(run->core, run->now);
    } else if (run->n_plans == 2 || (run->n_plans == 1 && kind < 22)) {
        op_step_done(run);
    } else if (worker_core_next_step(run->core, run->now, &run->plans[run->n_plans])) {
        run->n_plans++;
    }
}

/* Everybody goes; what is asked for is granted. */
static void settle(struct run *run)
{
    while (run->n_plans > 0) {
        op_step_done(run);
        take_actions(run);
    }
    for (uint32_t i = 0; i < N_IDS; i++) {
        op_conn(run, i, 0);
        take_actions(run);
    }
    for (uint32_t i = 0; i < PUSHES; i++) {
        if (run->pushes[i] == 0)
            continue;
        op_push_done(run, i, ST_PEER_LOST);
        take_actions(run);
    }
    for (uint32_t round = 0; round < 4; round++) {
        run->now += 100ull * SECOND;
        worker_core_tick(run->core, run->now);
        take_actions(run);
        for (uint32_t i = 0; i < N_IDS; i++) {
            if (run->fences[i] != 0)
                worker_core_fenced(run->core, run->now, run->fences[i]);
            run->fences[i] = 0;
            take_actions(run);
        }
    }
    struct kv_pool_counts c = kv_pool_counts(worker_core_pool(run->core));
    if (c.owned + c.quarantined > 0 || !worker_core_is_idle(run->core))
        broken("something is held when everybody is gone");
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
    run->role = WIRE_ROLE_PREFILL + take(run, 3);
    struct worker_core_opts opts = {.role = run->role,
                                    .instance = 99,
                                    .pool = {.block_count = BLOCKS,
                                             .epoch = 66,
                                             .layout_hash = LAYOUT,
                                             .block_tokens = BT,
                                             .layer_count = LAYERS,
                                             .block_bytes = 64},
                                    .prefix_cache = take(run, 2),
                                    .max_context_tokens = CONTEXT,
                                    .max_seqs = SEQS,
                                    .queue_max = 8,
                                    .max_batch_tokens = 16,
                                    .prefill_chunk_tokens = 8,
                                    .steps_max = 2,
                                    .ahead_prompt_tokens = 8,
                                    .headroom_blocks = take(run, 3),
                                    .n_eos = 1,
                                    .eos = {3},
                                    .stats_interval_ns = SECOND,
                                    .push_floor_bytes_per_s = 1000,
                                    .push_slack_ns = SECOND,
                                    .fence_after_ns = 2ull * SECOND};
    if (worker_core_create(&opts, &run->core) != ST_OK)
        broken("create");
    op_conn(run, 0, 1);
    take_actions(run);
    while (run->in.size > 0) {
        op(run);
        take_actions(run);
    }
    settle(run);
    worker_core_destroy(run->core);
    free(run);
    return 0;
}
