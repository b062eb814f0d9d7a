/* The prefill role: what is pushed when, and how a job ends. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "unit/worker_core/kit.h"

enum { D1 = 701, D2 = 702 };

static void setup(struct kit *kit, uint32_t block_count)
{
    struct worker_core_opts opts = kit_opts(WIRE_ROLE_PREFILL, block_count);
    kit_init(kit, &opts);
    kit_peer(kit, D1, WIRE_ROLE_DECODE);
    kit_forget(kit);
}

static struct wire_msg prefill_msg(struct kit *kit, const struct wire_job *job,
                                   uint32_t cached_tokens)
{
    uint32_t n = (job->n_tokens - cached_tokens + KIT_BT - 1) / KIT_BT;
    struct wire_block *blocks = arena_calloc(&kit->arena, n + 1, sizeof(*blocks));
    for (uint32_t i = 0; i < n; i++)
        blocks[i] = (struct wire_block){100 + i, 7 + i};
    return (struct wire_msg){.type = WIRE_PREFILL,
                             .u.prefill = {.job = *job,
                                           .dest = D1,
                                           .epoch = 66,
                                           .pool = 6,
                                           .cached_tokens = cached_tokens,
                                           .n_blocks = n,
                                           .blocks = blocks}};
}

static struct wire_job prefill(struct kit *kit, uint64_t request, uint32_t attempt,
                               uint32_t n_tokens, uint32_t cached_tokens)
{
    struct wire_job job = kit_job(kit, request, attempt, n_tokens, 8);
    struct wire_msg msg = prefill_msg(kit, &job, cached_tokens);
    kit_message(kit, 0, &msg);
    return job;
}

static void layers_done(struct kit *kit, uint32_t first, uint32_t count)
{
    worker_core_layers_done(kit->core, kit->now, kit->plan.step_id, first, count);
    kit_drain(kit);
}

static void push_done(struct kit *kit, uint32_t n, enum status st)
{
    const struct worker_action *a = kit_action(kit, ACT_PUSH, 0, n);
    assert_non_null(a);
    worker_core_push_done(kit->core, kit->now, a->push_id, st);
    kit_drain(kit);
}

static const struct wire_msg *record(const struct kit *kit, enum wire_type type, uint32_t n)
{
    const struct worker_action *a = kit_action(kit, ACT_RECORD, type, n);
    return a != NULL ? a->msg : NULL;
}

static void test_prefill_pushes_layer_groups_and_reports_both_ways(void **state)
{
    (void)state;
    struct kit kit;
    setup(&kit, 16);
    struct wire_job job = prefill(&kit, 1, 1, 10, 0);
    assert_true(kit_plan(&kit));
    assert_int_equal(kit.plan.report_layers, 1);
    assert_int_equal(kit.items[0].sample, 1);
    prefill(&kit, 2, 1, 3, 0);
    struct step_plan second;
    assert_false(worker_core_next_step(kit.core, kit.now, &second)); /* one at a time */
    kit_cancel(&kit, 2, 1, 0);
    kit_forget(&kit);
    layers_done(&kit, 0, 3);
    assert_int_equal(kit_count(&kit, ACT_PUSH, 0), 1);
    const struct worker_action *a = kit_action(&kit, ACT_PUSH, 0, 0);
    assert_int_equal(a->peer, D1);
    assert_int_equal(a->dst_pool, 6);
    assert_int_equal(a->dst_epoch, 66);
    assert_int_equal(a->layer_first, 0);
    assert_int_equal(a->layer_count, 3);
    assert_int_equal(a->n_vec, 3);
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(a->vec[i].src_block, kit.items[0].blocks[i]);
        assert_int_equal(a->vec[i].dst_block, 100 + i);
        assert_int_equal(a->vec[i].dst_generation, 7 + i);
    }
    /* 3 layers of 4 of 3 blocks of 4,096 bytes at 1 MB/s, and a second */
    assert_int_equal(a->deadline_ns, kit.now + NS_PER_S + 9216 * 1000);
    assert_int_equal(worker_core_deadline(kit.core), kit.now + NS_PER_S);
    kit.now += 5000;
    kit_finish_step(&kit, ST_OK, 0); /* the last layer was not reported: it goes out now */
    assert_int_equal(kit_action(&kit, ACT_PUSH, 0, 1)->layer_first, 3);
    assert_int_equal(kit_action(&kit, ACT_PUSH, 0, 1)->layer_count, 1);
    push_done(&kit, 1, ST_OK);
    assert_null(record(&kit, WIRE_COMPLETE, 0));
    assert_int_equal(kit_counts(&kit).owned, 3);
    kit.now += 7000;
    push_done(&kit, 0, ST_OK);

    const struct wire_complete *c = &record(&kit, WIRE_COMPLETE, 0)->u.complete;
    struct hash128 chain;
    wire_chain_hash(job.salt, job.tokens, job.n_tokens, &chain);
    assert_true(hash128_equal(&chain, &c->chain));
    assert_int_equal(c->router, KIT_ROUTER);
    assert_int_equal(c->epoch, 66);
    assert_int_equal(c->layout_hash, KIT_LAYOUT);
    assert_int_equal(c->n_tokens, 10);
    assert_int_equal(c->first_token, 1000);
    assert_int_equal(c->position, 0);
    assert_int_equal(c->n_blocks, 3);
    assert_int_equal(c->blocks[2].generation, 9);
    const struct wire_prefilled *p = &kit_sent(&kit, WIRE_PREFILLED, 0)->u.prefilled;
    assert_int_equal(p->token, 1000);
    assert_int_equal(p->position, 0);
    assert_int_equal(p->compute_us, 5);
    assert_int_equal(p->transfer_us, 7);
    assert_int_equal(p->transfer_bytes, 3 * 4096);
    assert_all_back(&kit);
    assert_int_equal(kit_counts(&kit).cached, 2);
    kit_cancel(&kit, 1, 1, 0); /* unknown by now */
    assert_cancelled(&kit, 0, 1, 0);
    kit_deinit(&kit);
}

static void test_chunks_are_pushed_as_they_are_computed(void **state)
{
    (void)state;
    struct kit kit;
    setup(&kit, 16);
    prefill(&kit, 1, 1, 21, 8); /* the destination has two blocks already */
    const uint32_t first[] = {100, 102}, n_vec[] = {2, 2};
    for (uint32_t chunk = 0; chunk < 2; chunk++) {
        assert_true(kit_plan(&kit));
        layers_done(&kit, 0, KIT_LAYERS);
        const struct worker_action *a = kit_action(&kit, ACT_PUSH, 0, chunk);
        assert_int_equal(a->n_vec, n_vec[chunk]);
        assert_int_equal(a->vec[0].dst_block, first[chunk]);
        kit_finish_step(&kit, ST_OK, 0);
    }
    assert_int_equal(kit_count(&kit, ACT_PUSH, 0), 2);
    push_done(&kit, 0, ST_OK);
    push_done(&kit, 1, ST_OK);
    assert_non_null(record(&kit, WIRE_COMPLETE, 0));
    assert_int_equal(kit_sent(&kit, WIRE_PREFILLED, 0)->u.prefilled.transfer_bytes, 4 * 4096);
    assert_all_back(&kit);
    kit_deinit(&kit);
}

static void test_own_cached_blocks_are_pushed_right_away(void **state)
{
    (void)state;
    struct kit kit;
    setup(&kit, 16);
    prefill(&kit, 1, 1, 13, 0);
    assert_true(kit_step(&kit));
    push_done(&kit, 0, ST_OK);
    kit_forget(&kit);
    prefill(&kit, 1, 2, 13, 4);
    const struct worker_action *a = kit_action(&kit, ACT_PUSH, 0, 0);
    assert_non_null(a);
    assert_int_equal(a->layer_first, 0);
    assert_int_equal(a->layer_count, KIT_LAYERS);
    assert_int_equal(a->n_vec, 2); /* three are cached here, the first one there too */
    assert_int_equal(a->vec[0].dst_block, 100);
    assert_true(kit_plan(&kit));
    assert_int_equal(kit.items[0].n_tokens, 1); /* the token to sample from */
    kit_finish_step(&kit, ST_OK, 0);
    assert_int_equal(kit_action(&kit, ACT_PUSH, 0, 1)->n_vec, 1);
    assert_int_equal(kit_action(&kit, ACT_PUSH, 0, 1)->vec[0].dst_block, 102);
    push_done(&kit, 1, ST_OK);
    assert_null(record(&kit, WIRE_COMPLETE, 0));
    push_done(&kit, 0, ST_OK);
    assert_non_null(record(&kit, WIRE_COMPLETE, 0));
    assert_int_equal(kit_sent(&kit, WIRE_PREFILLED, 0)->u.prefilled.cached_tokens, 12);
    kit_deinit(&kit);
}

static void test_layer_reports_out_of_order_are_made_up_for_at_the_end(void **state)
{
    (void)state;
    struct kit kit;
    setup(&kit, 16);
    prefill(&kit, 1, 1, 6, 0);
    assert_true(kit_plan(&kit));
    layers_done(&kit, 1, 1);
    layers_done(&kit, 0, KIT_LAYERS + 1);
    worker_core_layers_done(kit.core, kit.now, kit.plan.step_id + 1, 0, 1);
    kit_drain(&kit);
    assert_int_equal(kit_count(&kit, ACT_PUSH, 0), 0);
    layers_done(&kit, 0, 1);
    kit_finish_step(&kit, ST_OK, 0);
    assert_int_equal(kit_count(&kit, ACT_PUSH, 0), 2);
    assert_int_equal(kit_action(&kit, ACT_PUSH, 0, 1)->layer_first, 1);
    assert_int_equal(kit_action(&kit, ACT_PUSH, 0, 1)->layer_count, 3);
    kit_deinit(&kit);
}

static void test_bad_destinations_are_refused(void **state)
{
    (void)state;
    struct kit kit;
    setup(&kit, 16);
    struct wire_job job = kit_job(&kit, 1, 1, 10, 8);
    const enum status want[] = {ST_PEER_LOST, ST_MISMATCH, ST_MISMATCH, ST_INVALID,
                                ST_INVALID,   ST_INVALID,  ST_INVALID,  ST_INVALID};
    for (uint32_t i = 0; i < 8; i++) {
        struct wire_msg msg = prefill_msg(&kit, &job, 0);
        struct wire_prefill *p = &msg.u.prefill;
        struct wire_block blocks[3];
        memcpy(blocks, p->blocks, sizeof(blocks));
        p->blocks = blocks;
        if (i == 0)
            p->dest = 999;
        else if (i == 1)
            p->epoch++;
        else if (i == 2)
            p->pool++;
        else if (i == 3)
            p->cached_tokens = 2;
        else if (i == 4)
            p->cached_tokens = 12;
        else if (i == 5)
            p->n_blocks = 2;
        else if (i == 6)
            blocks[1].index = 1000;
        else
            p->blocks = NULL;
        kit_message(&kit, 0, &msg);
        assert_failed(&kit, i, 1, want[i], 1);
    }
    struct wire_msg reserve = {.type = WIRE_RESERVE, .u.reserve = {.job = job, .local = 1}};
    kit_message(&kit, 0, &reserve);
    assert_failed(&kit, 8, 1, ST_UNSUPPORTED, 1);
    prefill(&kit, 2, 1, 65, 0); /* 17 blocks */
    assert_failed(&kit, 9, 2, ST_TOO_LARGE, 1);
    prefill(&kit, 3, 1, 64, 0);
    assert_int_equal(kit_count(&kit, ACT_SEND, WIRE_FAILED), 10);
    kit_deinit(&kit);
}

static void
test_router_must_have_announced_the_destination_itself_since_the_last_fence(void **state)
{
    (void)state;
    struct kit kit;
    setup(&kit, 16);
    worker_core_conn_up(kit.core, kit.now, 1, 901);
    kit_drain(&kit);
    struct wire_job job = kit_job(&kit, 1, 1, 10, 8);
    struct wire_msg msg = prefill_msg(&kit, &job, 0);
    kit_message(&kit, 1, &msg); /* another router told of D1 */
    assert_failed(&kit, 0, 1, ST_PEER_LOST, 1);
    kit_peer_gone(&kit, D1);
    kit_fenced(&kit, D1);
    struct wire_msg peer = {.type = WIRE_PEER,
                            .u.peer = {.instance = D1,
                                       .role = WIRE_ROLE_DECODE,
                                       .pool = {.pool = 6,
                                                .block_count = 1000,
                                                .epoch = 66,
                                                .layout_hash = KIT_LAYOUT,
                                                .block_tokens = KIT_BT,
                                                .layer_count = KIT_LAYERS}}};
    kit_message(&kit, 1, &peer);
    prefill(&kit, 2, 1, 10, 0); /* sent, for all we know, before that fence */
    assert_failed(&kit, 1, 2, ST_PEER_LOST, 1);
    kit_message(&kit, 1, &msg);
    assert_int_equal(kit_count(&kit, ACT_SEND, WIRE_FAILED), 2);
    kit_peer(&kit, D1, WIRE_ROLE_DECODE);
    prefill(&kit, 3, 1, 10, 0);
    assert_int_equal(kit_count(&kit, ACT_SEND, WIRE_FAILED), 2);
    kit_deinit(&kit);
}

static void test_failed_push_waits_for_the_others_then_says_so(void **state)
{
    (void)state;
    struct kit kit;
    setup(&kit, 16);
    prefill(&kit, 1, 1, 10, 0);
    assert_true(kit_plan(&kit));
    layers_done(&kit, 0, 1);
    layers_done(&kit, 1, 1);
    push_done(&kit, 0, ST_IO);
    layers_done(&kit, 2, 1); /* nothing more is pushed */
    assert_int_equal(kit_count(&kit, ACT_PUSH, 0), 2);
    assert_int_equal(kit_count(&kit, ACT_SEND, WIRE_FAILED), 0);
    assert_int_equal(kit_counts(&kit).owned, 3);
    push_done(&kit, 1, ST_OK);
    /* What the failed one sent may still land: nobody hears that the writes are done. */
    assert_failed(&kit, 0, 1, ST_IO, 0);
    assert_null(record(&kit, WIRE_ABORTED, 0));
    assert_int_equal(kit_counts(&kit).owned, 3); /* the step still writes them */
    kit_cancel(&kit, 1, 1, 0);
    assert_true(kit_sent(&kit, WIRE_CANCELLED, 0)->u.cancelled.n_quarantined > 0);
    kit_finish_step(&kit, ST_OK, 0);
    assert_all_back(&kit);
    kit_cancel(&kit, 1, 1, 0); /* forgotten by now, but not that */
    assert_true(kit_sent(&kit, WIRE_CANCELLED, 1)->u.cancelled.n_quarantined > 0);
    kit_cancel(&kit, 1, 2, 0);
    assert_cancelled(&kit, 2, 1, 0);
    assert_null(record(&kit, WIRE_COMPLETE, 0));
    assert_int_equal(kit_stats(&kit).transfer_failures, 1);
    worker_core_conn_down(kit.core, kit.now, 0);
    kit_drain(&kit);
    assert_null(record(&kit, WIRE_ROUTER_DONE, 0));
    kit_deinit(&kit);
}

static void test_aborted_record_names_the_loan(void **state)
{
    (void)state;
    struct kit kit;
    setup(&kit, 16);
    prefill(&kit, 1, 1, 10, 0);
    kit_cancel(&kit, 1, 1, 0);
    const struct wire_aborted *aborted = &record(&kit, WIRE_ABORTED, 0)->u.aborted;
    assert_int_equal(aborted->router, KIT_ROUTER);
    assert_int_equal(aborted->seq.request, 1);
    assert_int_equal(aborted->epoch, 66);
    assert_int_equal(aborted->pool, 6);
    assert_int_equal(aborted->n_blocks, 3);
    assert_int_equal(aborted->blocks[0].index, 100);
    assert_int_equal(aborted->blocks[0].generation, 7);
    kit_deinit(&kit);
}

static void test_passed_push_deadline_fences_the_peer(void **state)
{
    (void)state;
    struct kit kit;
    setup(&kit, 16);
    prefill(&kit, 1, 1, 10, 0);
    assert_true(kit_step(&kit));
    prefill(&kit, 2, 1, 10, 0); /* another job for the same peer */
    uint64_t deadline = kit_action(&kit, ACT_PUSH, 0, 0)->deadline_ns;
    kit_tick(&kit, deadline - kit.now); /* the transport's turn to end it */
    assert_int_equal(kit_count(&kit, ACT_FENCE, 0), 0);
    kit_tick(&kit, NS_PER_S - 1);
    assert_int_equal(kit_count(&kit, ACT_FENCE, 0), 0);
    assert_int_equal(worker_core_deadline(kit.core), kit.now + 1);
    kit_tick(&kit, 1);
    assert_int_equal(kit_count(&kit, ACT_FENCE, 0), 1);
    assert_int_equal(kit_action(&kit, ACT_FENCE, 0, 0)->peer, D1);
    assert_failed(&kit, 0, 2, ST_PEER_LOST, 1); /* wrote nothing yet */
    assert_int_equal(kit_count(&kit, ACT_SEND, WIRE_FAILED), 1);
    assert_int_equal(kit_counts(&kit).owned, 3);
    prefill(&kit, 3, 1, 10, 0);
    assert_failed(&kit, 1, 3, ST_PEER_LOST, 1);
    kit_tick(&kit, NS_PER_S); /* the loss is acted upon once */
    assert_int_equal(kit_count(&kit, ACT_FENCE, 0), 1);
    push_done(&kit, 0, ST_PEER_LOST);
    assert_failed(&kit, 2, 1, ST_TIMEOUT, 0);
    assert_int_equal(kit_count(&kit, ACT_RECORD, WIRE_ABORTED),
                     1); /* of the one that wrote nothing */
    assert_all_back(&kit);
    kit_fenced(&kit, D1);
    kit_peer(&kit, D1, WIRE_ROLE_DECODE);
    assert_int_equal(kit_count(&kit, ACT_CONNECT, 0), 1);
    kit_deinit(&kit);
}

static void test_fencing_ends_pushes_that_the_transport_does_not_report(void **state)
{
    (void)state;
    struct kit kit;
    setup(&kit, 16);
    prefill(&kit, 1, 1, 10, 0);
    assert_true(kit_step(&kit));
    worker_core_peer_error(kit.core, kit.now, D1);
    kit_drain(&kit);
    assert_int_equal(kit_count(&kit, ACT_FENCE, 0), 1);
    assert_null(kit_sent(&kit, WIRE_FAILED, 0));
    kit_fenced(&kit, D1);
    assert_failed(&kit, 0, 1, ST_PEER_LOST, 0);
    assert_all_back(&kit);
    push_done(&kit, 0, ST_OK); /* too late to matter */
    assert_null(record(&kit, WIRE_COMPLETE, 0));
    kit_deinit(&kit);
}

static void test_cancel_is_answered_when_no_push_is_under_way(void **state)
{
    (void)state;
    struct kit kit;
    setup(&kit, 16);
    prefill(&kit, 1, 1, 10, 0);
    assert_true(kit_plan(&kit));
    layers_done(&kit, 0, 2);
    kit_cancel(&kit, 1, 1, 0);
    layers_done(&kit, 2, 2);
    kit_finish_step(&kit, ST_OK, 0);
    assert_int_equal(kit_count(&kit, ACT_PUSH, 0), 1);
    kit_cancel(&kit, 1, 1, 0);
    prefill(&kit, 1, 1, 10, 0); /* a repetition starts nothing */
    assert_null(kit_sent(&kit, WIRE_CANCELLED, 0));
    assert_null(record(&kit, WIRE_ABORTED, 0));
    push_done(&kit, 0, ST_OK);
    assert_cancelled(&kit, 0, 1, 0);
    assert_int_equal(kit_count(&kit, ACT_SEND, WIRE_CANCELLED), 1);
    assert_non_null(record(&kit, WIRE_ABORTED, 0));
    assert_null(kit_sent(&kit, WIRE_FAILED, 0));
    assert_all_back(&kit);
    kit_deinit(&kit);
}

static void test_cancel_without_pushes_is_answered_at_once(void **state)
{
    (void)state;
    struct kit kit;
    setup(&kit, 4);
    prefill(&kit, 1, 1, 14, 0);
    prefill(&kit, 2, 1, 14, 0); /* waits for blocks */
    kit_cancel(&kit, 2, 1, 0);
    assert_cancelled(&kit, 0, 2, 0);
    assert_non_null(record(&kit, WIRE_ABORTED, 0));
    assert_true(kit_plan(&kit));
    kit_cancel(&kit, 1, 1, 0);
    assert_cancelled(&kit, 1, 1, 0);
    kit_cancel(&kit, 1, 1, 0); /* over, but its step still runs */
    assert_cancelled(&kit, 2, 1, 0);
    kit_finish_step(&kit, ST_OK, 0);
    assert_int_equal(kit_count(&kit, ACT_PUSH, 0), 0);
    assert_all_back(&kit);
    kit_deinit(&kit);
}

static void test_failed_step_at_prefill_waits_for_its_pushes(void **state)
{
    (void)state;
    struct kit kit;
    setup(&kit, 16);
    prefill(&kit, 1, 1, 10, 0);
    assert_true(kit_plan(&kit));
    layers_done(&kit, 0, 2);
    kit_finish_step(&kit, ST_INTERNAL, 0);
    assert_null(kit_sent(&kit, WIRE_FAILED, 0));
    push_done(&kit, 0, ST_OK);
    assert_failed(&kit, 0, 1, ST_INTERNAL, 1);
    assert_all_back(&kit);
    kit_deinit(&kit);
}

static void test_newer_attempt_runs_beside_the_pushes_of_the_older(void **state)
{
    (void)state;
    struct kit kit;
    setup(&kit, 16);
    prefill(&kit, 1, 1, 10, 0);
    assert_true(kit_step(&kit));
    prefill(&kit, 1, 2, 10, 0);
    assert_int_equal(kit_count(&kit, ACT_PUSH, 0), 2); /* what the first attempt left cached */
    prefill(&kit, 1, 1, 10, 0);                        /* still known: ignored */
    kit_cancel(&kit, 1, 1, 0);
    assert_null(kit_sent(&kit, WIRE_CANCELLED, 0));
    push_done(&kit, 0, ST_OK);
    assert_cancelled(&kit, 0, 1, 0);
    prefill(&kit, 1, 1, 10, 0);
    assert_failed(&kit, 0, 1, ST_CANCELLED, 1);
    while (kit_step(&kit))
        ;
    for (uint32_t i = 1; i < kit_count(&kit, ACT_PUSH, 0); i++)
        push_done(&kit, i, ST_OK);
    assert_int_equal(kit_sent(&kit, WIRE_PREFILLED, 0)->u.prefilled.seq.attempt, 2);
    assert_all_back(&kit);
    kit_deinit(&kit);
}

static void test_lost_router_is_reported_to_peers_when_its_pushes_are_done(void **state)
{
    (void)state;
    struct kit kit;
    setup(&kit, 16);
    kit_peer(&kit, D2, WIRE_ROLE_DECODE);
    kit_peer(&kit, 703, WIRE_ROLE_PREFILL); /* lends nothing */
    prefill(&kit, 1, 1, 10, 0);
    prefill(&kit, 2, 1, 6, 0);
    assert_true(kit_plan(&kit));
    layers_done(&kit, 0, 4);
    worker_core_conn_down(kit.core, kit.now, 0);
    worker_core_conn_up(kit.core, kit.now, 0, 950); /* the number is taken again */
    kit_drain(&kit);
    kit_finish_step(&kit, ST_OK, 0);
    push_done(&kit, 0, ST_OK);
    assert_null(record(&kit, WIRE_ROUTER_DONE, 0));
    push_done(&kit, 1, ST_OK);
    assert_int_equal(kit_count(&kit, ACT_RECORD, WIRE_ABORTED), 2);
    assert_int_equal(kit_count(&kit, ACT_RECORD, WIRE_ROUTER_DONE), 2);
    assert_int_equal(record(&kit, WIRE_ROUTER_DONE, 0)->u.router_done.router, KIT_ROUTER);
    assert_int_equal(kit_action(&kit, ACT_RECORD, WIRE_ROUTER_DONE, 0)->peer, D1);
    assert_int_equal(kit_action(&kit, ACT_RECORD, WIRE_ROUTER_DONE, 1)->peer, D2);
    assert_null(kit_sent(&kit, WIRE_FAILED, 0)); /* not to the router that is there now */
    assert_all_back(&kit);
    worker_core_conn_down(kit.core, kit.now, 0); /* one without jobs is reported too */
    kit_drain(&kit);
    assert_int_equal(kit_count(&kit, ACT_RECORD, WIRE_ROUTER_DONE), 4);
    kit_deinit(&kit);
}

static void test_router_that_is_back_is_not_reported_done(void **state)
{
    (void)state;
    struct kit kit;
    setup(&kit, 16);
    prefill(&kit, 1, 1, 10, 0);
    assert_true(kit_step(&kit));
    worker_core_conn_down(kit.core, kit.now, 0);
    worker_core_conn_up(kit.core, kit.now, 1, KIT_ROUTER);
    kit_drain(&kit);
    push_done(&kit, 0, ST_OK);
    assert_null(record(&kit, WIRE_ROUTER_DONE, 0));
    assert_non_null(record(&kit, WIRE_ABORTED, 0));
    assert_all_back(&kit);
    kit_deinit(&kit);
}

static void test_slow_transport_holds_the_planner_back(void **state)
{
    (void)state;
    struct kit kit;
    struct worker_core_opts opts = kit_opts(WIRE_ROLE_PREFILL, 64);
    opts.max_seqs = 1;
    opts.queue_max = 1;
    opts.max_batch_tokens = opts.prefill_chunk_tokens = KIT_BT;
    kit_init(&kit, &opts);
    kit_peer(&kit, D1, WIRE_ROLE_DECODE);
    kit_forget(&kit);
    prefill(&kit, 1, 1, 100, 0);
    uint32_t n_steps = 0;
    while (kit_plan(&kit)) {
        for (uint32_t l = 0; l < KIT_LAYERS; l++)
            layers_done(&kit, l, 1);
        kit_finish_step(&kit, ST_OK, 0);
        n_steps++;
    }
    assert_in_range(n_steps, 3, 10);
    for (uint32_t i = 0; i < kit_count(&kit, ACT_PUSH, 0); i++) {
        push_done(&kit, i, ST_OK);
        while (kit_step(&kit))
            ;
    }
    assert_non_null(record(&kit, WIRE_COMPLETE, 0));
    assert_all_back(&kit);
    kit_deinit(&kit);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prefill_pushes_layer_groups_and_reports_both_ways),
        cmocka_unit_test(test_chunks_are_pushed_as_they_are_computed),
        cmocka_unit_test(test_own_cached_blocks_are_pushed_right_away),
        cmocka_unit_test(test_layer_reports_out_of_order_are_made_up_for_at_the_end),
        cmocka_unit_test(test_bad_destinations_are_refused),
        cmocka_unit_test(
            test_router_must_have_announced_the_destination_itself_since_the_last_fence),
        cmocka_unit_test(test_failed_push_waits_for_the_others_then_says_so),
        cmocka_unit_test(test_aborted_record_names_the_loan),
        cmocka_unit_test(test_passed_push_deadline_fences_the_peer),
        cmocka_unit_test(test_fencing_ends_pushes_that_the_transport_does_not_report),
        cmocka_unit_test(test_cancel_is_answered_when_no_push_is_under_way),
        cmocka_unit_test(test_cancel_without_pushes_is_answered_at_once),
        cmocka_unit_test(test_failed_step_at_prefill_waits_for_its_pushes),
        cmocka_unit_test(test_newer_attempt_runs_beside_the_pushes_of_the_older),
        cmocka_unit_test(test_lost_router_is_reported_to_peers_when_its_pushes_are_done),
        cmocka_unit_test(test_router_that_is_back_is_not_reported_done),
        cmocka_unit_test(test_slow_transport_holds_the_planner_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
