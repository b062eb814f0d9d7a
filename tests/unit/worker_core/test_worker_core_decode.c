/* Blocks on loan: what a decode worker believes, and what ends a loan. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "unit/worker_core/kit.h"

enum { P1 = 601, P2 = 602 };

static void setup(struct kit *kit, uint32_t block_count)
{
    struct worker_core_opts opts = kit_opts(WIRE_ROLE_DECODE, block_count);
    kit_init(kit, &opts);
    kit_peer(kit, P1, WIRE_ROLE_PREFILL);
    kit_forget(kit);
}

/* Reserves for a writer; its RESERVED. */
static const struct wire_msg *lend(struct kit *kit, const struct wire_job *job)
{
    kit_forget(kit);
    kit_reserve_job(kit, job, 0);
    const struct wire_msg *reserved = kit_sent(kit, WIRE_RESERVED, 0);
    assert_non_null(reserved);
    kit_forget(kit);
    return reserved;
}

static void router_done(struct kit *kit, uint64_t peer)
{
    struct wire_msg msg = {.type = WIRE_ROUTER_DONE, .u.router_done.router = KIT_ROUTER};
    kit_record(kit, peer, &msg);
}

static void test_peer_is_connected_once_and_only_with_our_layout(void **state)
{
    (void)state;
    struct kit kit;
    setup(&kit, 16);
    struct wire_msg msg = {
        .type = WIRE_PEER,
        .u.peer = {
            .instance = P2,
            .role = WIRE_ROLE_PREFILL,
            .pool = {.layout_hash = KIT_LAYOUT, .block_tokens = KIT_BT, .layer_count = KIT_LAYERS},
            .blob = (const uint8_t *)"abc",
            .blob_bytes = 3}};
    kit_message(&kit, 0, &msg);
    kit_message(&kit, 0, &msg);
    assert_int_equal(kit_count(&kit, ACT_CONNECT, 0), 1);
    const struct worker_action *a = kit_action(&kit, ACT_CONNECT, 0, 0);
    assert_int_equal(a->peer, P2);
    assert_int_equal(a->peer_info->blob_bytes, 3);
    assert_memory_equal(a->peer_info->blob, "abc", 3);
    msg.u.peer.instance = 603;
    msg.u.peer.pool.layout_hash++;
    kit_message(&kit, 0, &msg);
    msg.u.peer.pool.layout_hash--;
    msg.u.peer.instance = KIT_SELF;
    kit_message(&kit, 0, &msg);
    assert_int_equal(kit_count(&kit, ACT_CONNECT, 0), 1);
    kit_deinit(&kit);
}

static void test_reserve_for_a_writer_needs_one_that_was_announced(void **state)
{
    (void)state;
    struct kit kit;
    struct worker_core_opts opts = kit_opts(WIRE_ROLE_DECODE, 16);
    kit_init(&kit, &opts);
    kit_peer(&kit, 700, WIRE_ROLE_DECODE);
    kit_reserve(&kit, 1, 1, 10, 3, 0);
    assert_failed(&kit, 0, 1, ST_UNAVAILABLE, 1);
    kit_reserve(&kit, 1, 2, 10, 3, 1);
    assert_non_null(kit_sent(&kit, WIRE_RESERVED, 0));
    kit_deinit(&kit);
}

static void test_reserve_lends_the_uncached_blocks(void **state)
{
    (void)state;
    struct kit kit;
    setup(&kit, 16);
    struct wire_job job = kit_job(&kit, 1, 1, 10, 1);
    const struct wire_msg *msg = lend(&kit, &job);
    assert_int_equal(msg->u.reserved.pool, 3);
    assert_int_equal(msg->u.reserved.epoch, KIT_EPOCH);
    assert_int_equal(msg->u.reserved.cached_tokens, 0);
    assert_int_equal(msg->u.reserved.n_blocks, 3);
    assert_int_equal(kit_counts(&kit).loaned, 3);
    assert_false(kit_plan(&kit)); /* nothing to do before the record */
    struct wire_msg complete = kit_complete(&job, msg, 50);
    kit_record(&kit, P1, &complete);
    job.seq.attempt = 2;
    msg = lend(&kit, &job);
    assert_int_equal(msg->u.reserved.cached_tokens, 8);
    assert_int_equal(msg->u.reserved.n_blocks, 1);
    assert_int_equal(kit_counts(&kit).loaned, 1);
    assert_int_equal(kit_counts(&kit).owned, 3);
    kit_deinit(&kit);
}

static void test_complete_record_starts_decoding_with_the_first_token(void **state)
{
    (void)state;
    struct kit kit;
    setup(&kit, 16);
    struct wire_job job = kit_job(&kit, 1, 1, 10, 3);
    struct wire_msg complete = kit_complete(&job, lend(&kit, &job), 50);
    kit_record(&kit, P1, &complete);
    const struct wire_tokens_entry *entry = kit_sent(&kit, WIRE_TOKENS, 0)->u.tokens.entries;
    assert_int_equal(entry->position, 0);
    assert_int_equal(entry->tokens[0], 50);
    assert_int_equal(entry->finish, WIRE_FINISH_NONE);
    assert_int_equal(kit_counts(&kit).loaned, 0);
    assert_true(kit_plan(&kit));
    assert_int_equal(kit.items[0].n_tokens, 1);
    assert_int_equal(kit.items[0].position, 10);
    assert_int_equal(kit.items[0].tokens[0], 50);
    assert_int_equal(kit.items[0].output_position, 1);
    kit_finish_step(&kit, ST_OK, 0);
    assert_true(kit_step(&kit));
    assert_all_back(&kit);
    kit_forget(&kit);
    kit_record(&kit, P1, &complete); /* again: it means nothing any more */
    assert_int_equal(kit.n_actions, 0);
    kit_deinit(&kit);
}

static void test_complete_record_with_an_ending_first_token_ends_at_once(void **state)
{
    (void)state;
    struct kit kit;
    setup(&kit, 16);
    const uint32_t tokens[] = {KIT_EOS, 50};
    const uint32_t finishes[] = {WIRE_FINISH_STOP, WIRE_FINISH_LENGTH};
    for (uint32_t i = 0; i < 2; i++) {
        struct wire_job job = kit_job(&kit, 1 + i, 1, 10, 2 - i);
        struct wire_msg complete = kit_complete(&job, lend(&kit, &job), tokens[i]);
        kit_record(&kit, P1, &complete);
        const struct wire_tokens *t = &kit_sent(&kit, WIRE_TOKENS, 0)->u.tokens;
        assert_int_equal(t->entries[0].finish, finishes[i]);
        assert_int_equal(t->entries[0].tokens[0], tokens[i]);
        assert_all_back(&kit);
    }
    kit_deinit(&kit);
}

enum { N_LIES = 8 };

static void lie(struct wire_complete *rec, struct wire_block *blocks, uint32_t which)
{
    switch (which) {
    case 0:
        rec->epoch++;
        break;
    case 1:
        rec->layout_hash++;
        break;
    case 2:
        rec->pool++;
        break;
    case 3:
        rec->n_tokens--;
        break;
    case 4:
        rec->chain.bytes[7] ^= 1;
        break;
    case 5:
        rec->position++;
        break;
    case 6:
        blocks[1].generation--;
        break;
    default:
        rec->n_blocks--;
        break;
    }
}

static void test_complete_record_that_differs_anywhere_is_a_mismatch(void **state)
{
    (void)state;
    struct kit kit;
    setup(&kit, 16);
    for (uint32_t i = 0; i < N_LIES; i++) {
        struct wire_job job = kit_job(&kit, 1 + i, 1, 10, 3);
        const struct wire_msg *reserved = lend(&kit, &job);
        struct wire_msg complete = kit_complete(&job, reserved, 50);
        struct wire_block blocks[3];
        memcpy(blocks, reserved->u.reserved.blocks, sizeof(blocks));
        complete.u.complete.blocks = blocks;
        lie(&complete.u.complete, blocks, i);
        kit_record(&kit, P1, &complete);
        assert_failed(&kit, 0, 1 + i, ST_MISMATCH, 0);
        assert_null(kit_sent(&kit, WIRE_TOKENS, 0));
        assert_int_equal(kit_counts(&kit).quarantined, 3);
        kit_cancel(&kit, 1 + i, 1, WIRE_CANCEL_WRITER_DONE);
        assert_cancelled(&kit, 0, 1 + i, 0);
        assert_all_back(&kit);
    }
    kit_deinit(&kit);
}

static void test_complete_record_of_another_router_or_request_is_ignored(void **state)
{
    (void)state;
    struct kit kit;
    setup(&kit, 16);
    struct wire_job job = kit_job(&kit, 1, 1, 10, 3);
    struct wire_msg complete = kit_complete(&job, lend(&kit, &job), 50);
    complete.u.complete.router++;
    kit_record(&kit, P1, &complete);
    complete.u.complete.router--;
    complete.u.complete.seq.choice = 1;
    kit_record(&kit, P1, &complete);
    complete.u.complete.seq.choice = 0;
    complete.u.complete.seq.request = 2;
    kit_record(&kit, P1, &complete);
    assert_int_equal(kit.n_actions, 0);
    complete.u.complete.seq.request = 1;
    kit_record(&kit, P1, &complete);
    assert_non_null(kit_sent(&kit, WIRE_TOKENS, 0));
    kit_deinit(&kit);
}

static void test_late_complete_record_of_an_earlier_attempt_harms_nobody(void **state)
{
    (void)state;
    struct kit kit;
    setup(&kit, 4); /* so few that the same blocks are lent again */
    struct wire_job job = kit_job(&kit, 1, 1, 14, 3);
    struct wire_msg old = kit_complete(&job, lend(&kit, &job), 50);
    kit_cancel(&kit, 1, 1, WIRE_CANCEL_WRITER_DONE);
    assert_all_back(&kit);
    job.seq.attempt = 2;
    struct wire_msg new = kit_complete(&job, lend(&kit, &job), 60);
    kit_record(&kit, P1, &old);
    assert_int_equal(kit.n_actions, 0);
    assert_int_equal(kit_counts(&kit).loaned, 4);
    kit_record(&kit, P1, &new);
    assert_int_equal(kit_sent(&kit, WIRE_TOKENS, 0)->u.tokens.entries[0].tokens[0], 60);
    kit_deinit(&kit);
}

static void test_generations_and_not_attempts_decide_about_a_record(void **state)
{
    (void)state;
    struct kit kit;
    setup(&kit, 16);
    struct wire_job job = kit_job(&kit, 1, 2, 10, 3);
    struct wire_msg complete = kit_complete(&job, lend(&kit, &job), 50);
    complete.u.complete.seq.attempt = 1;
    kit_record(&kit, P1, &complete);
    const struct wire_tokens *t = &kit_sent(&kit, WIRE_TOKENS, 0)->u.tokens;
    assert_int_equal(t->entries[0].seq.attempt, 2);
    kit_deinit(&kit);
}

static void test_cancel_on_loan_quarantines_until_the_writer_is_done(void **state)
{
    (void)state;
    struct kit kit;
    setup(&kit, 4);
    struct wire_job job = kit_job(&kit, 1, 1, 14, 3);
    lend(&kit, &job);
    kit_cancel(&kit, 1, 1, 0);
    assert_cancelled(&kit, 0, 1, 4);
    assert_int_equal(kit_counts(&kit).quarantined, 4);
    assert_true(worker_core_is_idle(kit.core));
    kit_cancel(&kit, 1, 1, 0);
    assert_cancelled(&kit, 1, 1, 4); /* acknowledged again */
    kit_reserve(&kit, 1, 1, 14, 3, 0);
    assert_failed(&kit, 0, 1, ST_CANCELLED, 0);
    kit_reserve(&kit, 2, 1, 3, 3, 0); /* waits: nobody may have these blocks */
    assert_null(kit_sent(&kit, WIRE_RESERVED, 0));
    kit_cancel(&kit, 1, 1, WIRE_CANCEL_WRITER_DONE);
    assert_cancelled(&kit, 2, 1, 0);
    assert_non_null(kit_sent(&kit, WIRE_RESERVED, 0));
    kit_cancel(&kit, 1, 1, WIRE_CANCEL_WRITER_DONE);
    assert_cancelled(&kit, 3, 1, 0);
    kit_deinit(&kit);
}

static void test_cancel_on_loan_with_the_writer_done_frees_at_once(void **state)
{
    (void)state;
    struct kit kit;
    setup(&kit, 8);
    struct wire_job job = kit_job(&kit, 1, 1, 14, 3);
    lend(&kit, &job);
    kit_cancel(&kit, 1, 1, WIRE_CANCEL_WRITER_DONE);
    assert_cancelled(&kit, 0, 1, 0);
    assert_all_back(&kit);
    kit_deinit(&kit);
}

static void test_quarantine_keeps_only_what_was_lent(void **state)
{
    (void)state;
    struct kit kit;
    struct worker_core_opts opts = kit_opts(WIRE_ROLE_DECODE, 16);
    opts.headroom_blocks = 2;
    kit_init(&kit, &opts);
    kit_peer(&kit, P1, WIRE_ROLE_PREFILL);
    struct wire_job job = kit_job(&kit, 1, 1, 10, 50);
    struct wire_msg complete = kit_complete(&job, lend(&kit, &job), 50);
    kit_record(&kit, P1, &complete);
    kit_cancel(&kit, 1, 1, 0);
    job.seq.attempt = 2;
    lend(&kit, &job); /* two blocks cached, one lent, two of headroom */
    assert_int_equal(kit_counts(&kit).owned, 5);
    kit_cancel(&kit, 1, 2, 0);
    assert_cancelled(&kit, 0, 1, 1);
    assert_int_equal(kit_counts(&kit).owned, 0);
    assert_int_equal(kit_counts(&kit).cached, 2);
    kit_deinit(&kit);
}

static void test_records_end_a_quarantined_loan_that_they_name(void **state)
{
    (void)state;
    struct kit kit;
    setup(&kit, 16);
    for (uint32_t i = 0; i < 2; i++) {
        struct wire_job job = kit_job(&kit, 1 + i, 1, 10, 3);
        const struct wire_msg *reserved = lend(&kit, &job);
        struct wire_msg record = i == 0 ? kit_complete(&job, reserved, 50) : kit_aborted(reserved);
        kit_cancel(&kit, 1 + i, 1, 0);
        kit_forget(&kit);
        kit_record(&kit, P1, &record);
        assert_all_back(&kit);
        assert_int_equal(kit.n_actions, 0);
        kit_cancel(&kit, 1 + i, 1, 0);
        assert_cancelled(&kit, 0, 1 + i, 0);
    }
    kit_deinit(&kit);
}

static void test_record_ends_the_old_loan_and_leaves_the_new_attempt(void **state)
{
    (void)state;
    struct kit kit;
    setup(&kit, 16);
    struct wire_job job = kit_job(&kit, 1, 1, 10, 3);
    struct wire_msg old = kit_complete(&job, lend(&kit, &job), 50);
    job.seq.attempt = 2;
    struct wire_msg aborted = kit_aborted(lend(&kit, &job)); /* treats attempt 1 as cancelled */
    assert_int_equal(kit_counts(&kit).quarantined, 3);
    kit_record(&kit, P1, &old);
    assert_int_equal(kit_counts(&kit).quarantined, 0);
    assert_int_equal(kit_counts(&kit).loaned, 3);
    assert_int_equal(kit.n_actions, 0);
    kit_reserve(&kit, 1, 1, 10, 3, 0);
    assert_failed(&kit, 0, 1, ST_CANCELLED, 1);
    kit_record(&kit, P1, &aborted);
    assert_failed(&kit, 1, 1, ST_PEER_LOST, 1);
    assert_all_back(&kit);
    kit_deinit(&kit);
}

static void test_repeated_reserve_gets_the_same_answer(void **state)
{
    (void)state;
    struct kit kit;
    setup(&kit, 16);
    struct wire_job job = kit_job(&kit, 1, 1, 10, 3);
    const struct wire_msg *first = lend(&kit, &job);
    const struct wire_msg *second = lend(&kit, &job);
    assert_int_equal(second->u.reserved.n_blocks, 3);
    assert_memory_equal(first->u.reserved.blocks, second->u.reserved.blocks,
                        3 * sizeof(struct wire_block));
    assert_int_equal(kit_counts(&kit).loaned, 3);
    kit_deinit(&kit);
}

static void test_peer_gone_asks_for_fencing_and_fencing_ends_its_loans(void **state)
{
    (void)state;
    struct kit kit;
    setup(&kit, 16);
    struct wire_job job = kit_job(&kit, 1, 1, 10, 3), other = kit_job(&kit, 2, 1, 6, 3);
    lend(&kit, &job);
    kit_cancel(&kit, 1, 1, 0);
    lend(&kit, &other);
    kit_peer_gone(&kit, P1);
    worker_core_peer_error(kit.core, kit.now, P1); /* asked for once */
    kit_drain(&kit);
    assert_int_equal(kit_count(&kit, ACT_FENCE, 0), 1);
    assert_int_equal(kit_action(&kit, ACT_FENCE, 0, 0)->peer, P1);
    assert_int_equal(kit_counts(&kit).quarantined, 3);
    assert_int_equal(kit_counts(&kit).loaned, 2);
    kit_fenced(&kit, P1);
    /* Nobody is left who could complete the one that still waited. Its router must say so before
     * the blocks come back: it may have sent a PREFILL that will be taken up after a reconnect. */
    assert_failed(&kit, 0, 2, ST_PEER_LOST, 0);
    assert_int_equal(kit_counts(&kit).quarantined, 2);
    kit_cancel(&kit, 2, 1, 0);
    assert_cancelled(&kit, 0, 2, 0);
    assert_all_back(&kit);
    kit_deinit(&kit);
}

static void test_fencing_one_of_two_possible_writers_ends_no_loan(void **state)
{
    (void)state;
    struct kit kit;
    setup(&kit, 16);
    kit_peer(&kit, P2, WIRE_ROLE_PREFILL);
    kit_peer(&kit, 700, WIRE_ROLE_DECODE); /* writes nothing */
    struct wire_job job = kit_job(&kit, 1, 1, 10, 3), other = kit_job(&kit, 2, 1, 6, 3);
    lend(&kit, &job);
    kit_cancel(&kit, 1, 1, 0);
    lend(&kit, &other);
    kit_peer_gone(&kit, P1);
    kit_fenced(&kit, P1);
    assert_int_equal(kit_counts(&kit).quarantined, 3);
    assert_int_equal(kit_counts(&kit).loaned, 2);
    kit_cancel(&kit, 2, 1, 0);
    assert_int_equal(kit_counts(&kit).quarantined, 5);
    kit_peer_gone(&kit, P2);
    kit_fenced(&kit, P2);
    assert_all_back(&kit);
    kit_deinit(&kit);
}

static void test_cancel_that_names_the_writer_leaves_the_others_alone(void **state)
{
    (void)state;
    struct kit kit;
    setup(&kit, 32);
    kit_peer(&kit, P2, WIRE_ROLE_PREFILL);
    for (uint64_t r = 1; r <= 3; r++) {
        struct wire_job job = kit_job(&kit, r, 1, 6, 3);
        lend(&kit, &job);
    }
    kit_cancel_of(&kit, 1, 1, P1);
    kit_cancel_of(&kit, 2, 1, P2);
    kit_cancel_of(&kit, 3, 1, 12345); /* never announced here */
    assert_int_equal(kit_counts(&kit).quarantined, 6);
    kit_peer_gone(&kit, P1);
    kit_fenced(&kit, P1);
    assert_int_equal(kit_counts(&kit).quarantined, 4);
    kit_forget(&kit);
    kit_tick(&kit, 10 * NS_PER_S);
    assert_int_equal(kit_count(&kit, ACT_FENCE, 0), 2);
    assert_int_equal(kit_action(&kit, ACT_FENCE, 0, 0)->peer, P2);
    assert_int_equal(kit_action(&kit, ACT_FENCE, 0, 1)->peer, 12345);
    kit_fenced(&kit, 12345);
    assert_int_equal(kit_counts(&kit).quarantined, 2);
    kit_fenced(&kit, P2);
    assert_all_back(&kit);
    kit_deinit(&kit);
}

static void test_uncancelled_loan_is_left_to_its_router(void **state)
{
    (void)state;
    struct kit kit;
    setup(&kit, 32);
    struct wire_job job = kit_job(&kit, 1, 1, 6, 3);
    lend(&kit, &job);
    job.seq.attempt = 2;
    lend(&kit, &job); /* the first attempt is over, but its PREFILL may be on its way */
    kit_tick(&kit, 100 * NS_PER_S);
    assert_int_equal(kit_count(&kit, ACT_FENCE, 0), 0);
    kit_cancel_of(&kit, 1, 1, P1);
    assert_cancelled(&kit, 0, 1, 2);
    kit_tick(&kit, 1);
    assert_int_equal(kit_count(&kit, ACT_FENCE, 0), 1);
    kit_fenced(&kit, P1);
    assert_int_equal(kit_counts(&kit).quarantined, 2); /* the second: failed, not cancelled */
    kit_cancel_of(&kit, 1, 2, P1);
    assert_all_back(&kit);
    kit_deinit(&kit);
}

static void test_router_done_counts_once(void **state)
{
    (void)state;
    struct kit kit;
    setup(&kit, 32);
    router_done(&kit, P1); /* the connection to P1 broke, and is there again */
    struct wire_job job = kit_job(&kit, 1, 1, 6, 3);
    lend(&kit, &job);
    router_done(&kit, P1); /* a late copy */
    worker_core_conn_down(kit.core, kit.now, 0);
    kit_drain(&kit);
    router_done(&kit, P1);
    assert_int_equal(kit_counts(&kit).quarantined, 2);
    kit_tick(&kit, 10 * NS_PER_S);
    kit_fenced(&kit, P1);
    assert_all_back(&kit);
    kit_deinit(&kit);
}

static void test_writer_that_becomes_known_during_a_loan_counts(void **state)
{
    (void)state;
    struct kit kit;
    setup(&kit, 16);
    struct wire_job job = kit_job(&kit, 1, 1, 10, 3);
    lend(&kit, &job);
    kit_peer(&kit, P2, WIRE_ROLE_PREFILL);
    kit_cancel(&kit, 1, 1, 0);
    kit_peer_gone(&kit, P1);
    kit_fenced(&kit, P1);
    assert_int_equal(kit_counts(&kit).quarantined, 3);
    kit_fenced(&kit, P2);
    assert_all_back(&kit);
    kit_deinit(&kit);
}

/* A PREFILL may be on its way, and the writer takes it up when it is connected again. */
static void test_uncancelled_loan_outlives_the_fence_of_a_writer_that_comes_back(void **state)
{
    (void)state;
    struct kit kit;
    setup(&kit, 16);
    struct wire_job old = kit_job(&kit, 1, 1, 6, 3), job = kit_job(&kit, 2, 1, 10, 3);
    lend(&kit, &old);
    struct wire_msg complete = kit_complete(&job, lend(&kit, &job), 50);
    kit_cancel(&kit, 1, 1, 0);
    kit_peer_gone(&kit, P1);
    kit_peer(&kit, P1, WIRE_ROLE_PREFILL); /* announced anew before it is fenced */
    kit_fenced(&kit, P1);
    assert_int_equal(kit_counts(&kit).quarantined, 0);
    assert_int_equal(kit_counts(&kit).loaned, 3);
    kit_record(&kit, P1, &complete);
    assert_non_null(kit_sent(&kit, WIRE_TOKENS, 0));
    kit_cancel(&kit, 2, 1, 0);
    assert_all_back(&kit);

    job = kit_job(&kit, 3, 1, 10, 3);
    lend(&kit, &job);
    kit_peer_gone(&kit, P1);
    kit_fenced(&kit, P1);
    assert_failed(&kit, 0, 3, ST_PEER_LOST, 0);
    kit_peer(&kit, P1, WIRE_ROLE_PREFILL); /* announced anew after it was fenced */
    kit_cancel(&kit, 3, 1, 0);
    assert_cancelled(&kit, 0, 3, 3); /* it may have the job by now */
    kit_cancel(&kit, 3, 1, WIRE_CANCEL_WRITER_DONE);
    assert_all_back(&kit);
    kit_deinit(&kit);
}

static void test_loan_cancelled_after_its_writer_was_announced_anew_waits_for_it(void **state)
{
    (void)state;
    struct kit kit;
    setup(&kit, 16);
    struct wire_job job = kit_job(&kit, 1, 1, 10, 3), other = kit_job(&kit, 2, 1, 6, 3);
    lend(&kit, &job);
    kit_peer_gone(&kit, P1);
    kit_peer(&kit, P1, WIRE_ROLE_PREFILL);
    lend(&kit, &other);
    kit_cancel(&kit, 1, 1, 0);
    kit_cancel(&kit, 2, 1, 0);
    kit_fenced(&kit, P1); /* and connected again: it may have both jobs */
    assert_int_equal(kit_counts(&kit).quarantined, 5);
    kit_peer_gone(&kit, P1);
    kit_fenced(&kit, P1);
    assert_all_back(&kit);
    kit_deinit(&kit);
}

static void test_peer_that_comes_back_while_it_is_fenced_is_connected_after(void **state)
{
    (void)state;
    struct kit kit;
    setup(&kit, 16);
    kit_peer_gone(&kit, P1);
    kit_peer(&kit, P1, WIRE_ROLE_PREFILL);
    assert_int_equal(kit_count(&kit, ACT_CONNECT, 0), 0);
    kit_fenced(&kit, P1);
    assert_int_equal(kit_count(&kit, ACT_CONNECT, 0), 1);
    kit_peer_gone(&kit, P1);
    assert_int_equal(kit_count(&kit, ACT_FENCE, 0), 2);
    kit_deinit(&kit);
}

static void test_time_asks_for_fencing_and_frees_nothing(void **state)
{
    (void)state;
    struct kit kit;
    setup(&kit, 16);
    struct wire_job job = kit_job(&kit, 1, 1, 10, 3);
    lend(&kit, &job);
    kit_tick(&kit, 100 * NS_PER_S); /* a live sequence may wait: its router watches it */
    assert_int_equal(kit_count(&kit, ACT_FENCE, 0), 0);
    kit_cancel(&kit, 1, 1, 0);
    kit_tick(&kit, 10 * NS_PER_S - 1);
    assert_int_equal(kit_count(&kit, ACT_FENCE, 0), 0);
    assert_int_equal(worker_core_deadline(kit.core), kit.now + 1);
    kit_tick(&kit, 1);
    assert_int_equal(kit_count(&kit, ACT_FENCE, 0), 1);
    kit_tick(&kit, 1000 * NS_PER_S);
    assert_int_equal(kit_count(&kit, ACT_FENCE, 0), 1);
    assert_int_equal(kit_counts(&kit).quarantined, 3);
    kit_fenced(&kit, P1);
    assert_all_back(&kit);
    kit_deinit(&kit);
}

static void test_lost_router_keeps_loans_until_each_writer_says_done(void **state)
{
    (void)state;
    struct kit kit;
    setup(&kit, 32);
    kit_peer(&kit, P2, WIRE_ROLE_PREFILL);
    kit_peer(&kit, 700, WIRE_ROLE_DECODE);
    struct wire_job job = kit_job(&kit, 1, 1, 10, 3), other = kit_job(&kit, 2, 1, 6, 3);
    lend(&kit, &job);
    kit_cancel(&kit, 1, 1, 0);
    lend(&kit, &other);
    kit_reserve(&kit, 3, 1, 6, 3, 1); /* and one without a loan */
    worker_core_conn_down(kit.core, kit.now, 0);
    kit_drain(&kit);
    assert_int_equal(kit_counts(&kit).quarantined, 5);
    assert_int_equal(kit_counts(&kit).owned, 0);
    struct wire_msg msg = {.type = WIRE_ROUTER_DONE, .u.router_done.router = KIT_ROUTER + 1};
    kit_record(&kit, P1, &msg);
    kit_record(&kit, P2, &msg);
    router_done(&kit, P1);
    router_done(&kit, P1);
    router_done(&kit, 12345); /* nobody we know */
    assert_int_equal(kit_counts(&kit).quarantined, 5);
    router_done(&kit, P2);
    assert_all_back(&kit);
    kit_deinit(&kit);
}

static void test_lost_router_and_a_fenced_writer_end_loans_too(void **state)
{
    (void)state;
    struct kit kit;
    setup(&kit, 32);
    kit_peer(&kit, P2, WIRE_ROLE_PREFILL);
    struct wire_job job = kit_job(&kit, 1, 1, 10, 3);
    lend(&kit, &job);
    router_done(&kit, P1); /* it saw the router go before we did */
    worker_core_conn_down(kit.core, kit.now, 0);
    kit_drain(&kit);
    assert_int_equal(kit_counts(&kit).quarantined, 3);
    kit_tick(&kit, 20 * NS_PER_S);
    assert_int_equal(kit_count(&kit, ACT_FENCE, 0), 1); /* not the one that said done */
    assert_int_equal(kit_action(&kit, ACT_FENCE, 0, 0)->peer, P2);
    kit_fenced(&kit, P2);
    assert_all_back(&kit);
    kit_deinit(&kit);
}

static void test_router_done_of_a_live_router_frees_nothing(void **state)
{
    (void)state;
    struct kit kit;
    setup(&kit, 32);
    struct wire_job job = kit_job(&kit, 1, 1, 10, 3);
    lend(&kit, &job);
    kit_cancel(&kit, 1, 1, 0);
    router_done(&kit, P1);
    assert_int_equal(kit_counts(&kit).quarantined, 3);
    worker_core_conn_down(kit.core, kit.now, 0);
    kit_drain(&kit);
    assert_all_back(&kit);
    kit_deinit(&kit);
}

static void test_router_that_comes_back_can_still_name_its_loans(void **state)
{
    (void)state;
    struct kit kit;
    setup(&kit, 32);
    struct wire_job job = kit_job(&kit, 1, 1, 10, 3);
    lend(&kit, &job);
    worker_core_conn_down(kit.core, kit.now, 0);
    worker_core_conn_up(kit.core, kit.now, 0, KIT_ROUTER);
    kit_drain(&kit);
    router_done(&kit, P1); /* of the time before: its jobs of now may write */
    assert_int_equal(kit_counts(&kit).quarantined, 3);
    kit_cancel(&kit, 1, 1, WIRE_CANCEL_WRITER_DONE);
    assert_all_back(&kit);
    kit_deinit(&kit);
}

static void test_preemption_never_hits_a_loan(void **state)
{
    (void)state;
    struct kit kit;
    setup(&kit, 6);
    struct wire_job job = kit_job(&kit, 1, 1, 7, 6), other = kit_job(&kit, 2, 1, 15, 3);
    struct wire_msg complete = kit_complete(&job, lend(&kit, &job), 50);
    const struct wire_msg *lent = lend(&kit, &other); /* 4 blocks: the pool is full */
    kit_record(&kit, P1, &complete);
    assert_true(kit_step(&kit));
    assert_false(kit_plan(&kit)); /* needs a block: preempts itself, and waits for two */
    assert_int_equal(kit_stats(&kit).preemptions, 1);
    assert_int_equal(kit_counts(&kit).loaned, 4);
    complete = kit_complete(&other, lent, 60);
    kit_record(&kit, P1, &complete);
    while (kit_step(&kit))
        ;
    assert_int_equal(kit_count(&kit, ACT_SEND, WIRE_FAILED), 0);
    assert_int_equal(kit_stats(&kit).output_tokens, 9);
    assert_all_back(&kit);
    kit_deinit(&kit);
}

static void test_draining_worker_still_takes_the_record_of_an_accepted_request(void **state)
{
    (void)state;
    struct kit kit;
    setup(&kit, 16);
    struct wire_job job = kit_job(&kit, 1, 1, 10, 1);
    struct wire_msg complete = kit_complete(&job, lend(&kit, &job), 50);
    worker_core_drain(kit.core, kit.now);
    kit_drain(&kit);
    assert_false(worker_core_is_idle(kit.core));
    kit_record(&kit, P1, &complete);
    assert_all_back(&kit);
    kit_deinit(&kit);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_peer_is_connected_once_and_only_with_our_layout),
        cmocka_unit_test(test_reserve_for_a_writer_needs_one_that_was_announced),
        cmocka_unit_test(test_reserve_lends_the_uncached_blocks),
        cmocka_unit_test(test_complete_record_starts_decoding_with_the_first_token),
        cmocka_unit_test(test_complete_record_with_an_ending_first_token_ends_at_once),
        cmocka_unit_test(test_complete_record_that_differs_anywhere_is_a_mismatch),
        cmocka_unit_test(test_complete_record_of_another_router_or_request_is_ignored),
        cmocka_unit_test(test_late_complete_record_of_an_earlier_attempt_harms_nobody),
        cmocka_unit_test(test_generations_and_not_attempts_decide_about_a_record),
        cmocka_unit_test(test_cancel_on_loan_quarantines_until_the_writer_is_done),
        cmocka_unit_test(test_cancel_on_loan_with_the_writer_done_frees_at_once),
        cmocka_unit_test(test_quarantine_keeps_only_what_was_lent),
        cmocka_unit_test(test_records_end_a_quarantined_loan_that_they_name),
        cmocka_unit_test(test_record_ends_the_old_loan_and_leaves_the_new_attempt),
        cmocka_unit_test(test_repeated_reserve_gets_the_same_answer),
        cmocka_unit_test(test_peer_gone_asks_for_fencing_and_fencing_ends_its_loans),
        cmocka_unit_test(test_fencing_one_of_two_possible_writers_ends_no_loan),
        cmocka_unit_test(test_cancel_that_names_the_writer_leaves_the_others_alone),
        cmocka_unit_test(test_uncancelled_loan_is_left_to_its_router),
        cmocka_unit_test(test_router_done_counts_once),
        cmocka_unit_test(test_writer_that_becomes_known_during_a_loan_counts),
        cmocka_unit_test(test_uncancelled_loan_outlives_the_fence_of_a_writer_that_comes_back),
        cmocka_unit_test(test_loan_cancelled_after_its_writer_was_announced_anew_waits_for_it),
        cmocka_unit_test(test_peer_that_comes_back_while_it_is_fenced_is_connected_after),
        cmocka_unit_test(test_time_asks_for_fencing_and_frees_nothing),
        cmocka_unit_test(test_lost_router_keeps_loans_until_each_writer_says_done),
        cmocka_unit_test(test_lost_router_and_a_fenced_writer_end_loans_too),
        cmocka_unit_test(test_router_done_of_a_live_router_frees_nothing),
        cmocka_unit_test(test_router_that_comes_back_can_still_name_its_loans),
        cmocka_unit_test(test_preemption_never_hits_a_loan),
        cmocka_unit_test(test_draining_worker_still_takes_the_record_of_an_accepted_request),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
