/* Router core: attempts. How a prompt is computed, what a failure or a loss leads to, and that a
 * stream stays whole whatever the workers say. */
#include "support/router_kit.h"

/* A prefill worker, a decode worker: slots 0 and 1. */
static void open_pair(struct kit *k)
{
    kit_open(k);
    assert_int_equal(kit_worker(k, WIRE_ROLE_PREFILL, 10), 0);
    assert_int_equal(kit_worker(k, WIRE_ROLE_DECODE, 20), 1);
}

enum { P = 0, D = 1 };

static void test_short_suffix_is_prefilled_on_the_decode_worker(void **state)
{
    struct kit k;
    struct router_core_opts opts = kit_opts();
    (void)state;
    opts.local_prefill_max_tokens = KIT_PROMPT;
    kit_open_with(&k, &opts);
    kit_worker(&k, WIRE_ROLE_PREFILL, 10);
    kit_worker(&k, WIRE_ROLE_DECODE, 20);
    struct wire_seq seq = {kit_submit(&k, 1, 3), 1, 0};
    assert_int_equal(kit_sent(&k, WIRE_RESERVE, D)->local, 1);
    struct wire_msg msg = {.type = WIRE_RESERVED, .u.reserved = {.seq = seq, .cached_tokens = 16}};
    kit_say(&k, D, &msg);
    assert_null(kit_sent(&k, WIRE_PREFILL, P));
    kit_token(&k, D, seq, 0, 5, WIRE_FINISH_NONE);
    assert_int_equal(kit_event(&k, ROUTER_TOKENS)->act.remote_prefill, 0);
    assert_int_equal(kit_event(&k, ROUTER_TOKENS)->act.cached_tokens, 16);
    struct router_request req = kit_request(&k, 1, 3);
    req.n_tokens = KIT_PROMPT + 1;
    kit_submit_as(&k, &req);
    assert_int_equal(kit_sent(&k, WIRE_RESERVE, D)->local, 0);
    kit_close(&k);
}

static void test_unified_and_unpaired_workers_prefill_themselves(void **state)
{
    struct kit k;
    (void)state;
    kit_open(&k);
    kit_worker(&k, WIRE_ROLE_PREFILL, 10);
    uint32_t u = kit_worker(&k, WIRE_ROLE_UNIFIED, 30);
    kit_submit(&k, 1, 3);
    assert_int_equal(kit_sent(&k, WIRE_RESERVE, u)->local, 1);
    kit_close(&k);

    kit_open(&k);
    kit_worker(&k, WIRE_ROLE_PREFILL, 10);
    struct wire_hello other = kit_hello(WIRE_ROLE_DECODE, 20);
    other.pool.layout_hash++;
    uint32_t d = kit_worker_as(&k, &other);
    assert_int_equal(kit_n_sent(&k, WIRE_PEER, KIT_NOBODY), 0);
    kit_submit(&k, 1, 3);
    assert_int_equal(kit_sent(&k, WIRE_RESERVE, d)->local, 1);
    kit_close(&k);
}

static void test_prefill_names_the_reserved_blocks_and_what_is_cached(void **state)
{
    struct kit k;
    (void)state;
    open_pair(&k);
    struct wire_seq seq = {kit_submit(&k, 1, 3), 1, 0};
    kit_reserved(&k, D, seq, KIT_PROMPT, 32);
    const struct kit_event *e = kit_sent(&k, WIRE_PREFILL, P);
    assert_non_null(e);
    assert_int_equal(e->cached, 32);
    assert_int_equal(e->n_blocks, 5);
    assert_true(e->instance == 20);
    assert_int_equal(e->job.n_tokens, KIT_PROMPT);
    kit_prefilled(&k, P, seq, 0, 5);
    assert_int_equal(kit_event(&k, ROUTER_TOKENS)->act.cached_tokens, 32);
    assert_int_equal(kit_event(&k, ROUTER_TOKENS)->act.remote_prefill, 1);
    assert_true(kit_event(&k, ROUTER_TOKENS)->act.tag == 77);
    kit_close(&k);
}

static void test_reserved_that_does_not_fit_the_pool_ends_the_attempt(void **state)
{
    struct wire_block blocks[KIT_BLOCKS] = {{0}};
    const struct wire_reserved wrong[] = {
        {.epoch = 1020, .n_blocks = 6, .blocks = blocks},  /* one too few */
        {.epoch = 1020, .n_blocks = 64, .blocks = blocks}, /* far too many */
        {.epoch = 1021, .n_blocks = 7, .blocks = blocks},  /* another life */
        {.epoch = 1020, .n_blocks = 7, .blocks = blocks, .pool = 1},
        {.epoch = 1020, .n_blocks = 7, .blocks = blocks, .cached_tokens = 5},
        {.epoch = 1020, .n_blocks = 0, .blocks = blocks, .cached_tokens = 112},
    };
    (void)state;
    for (uint32_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        struct kit k;
        open_pair(&k);
        struct wire_seq seq = {kit_submit(&k, 1, 3), 1, 0};
        struct wire_msg msg = {.type = WIRE_RESERVED, .u.reserved = wrong[i]};
        msg.u.reserved.seq = seq;
        kit_say(&k, D, &msg);
        assert_null(kit_sent(&k, WIRE_PREFILL, P));
        const struct kit_event *cancel = kit_sent(&k, WIRE_CANCEL, D);
        assert_non_null(cancel);
        assert_int_equal(cancel->flags, WIRE_CANCEL_WRITER_DONE); /* no PREFILL was sent */
        assert_true(cancel->instance == 0);
        assert_int_equal(kit_sent(&k, WIRE_RESERVE, D)->seq.attempt, 2);
        kit_close(&k);
    }
}

static void test_prefill_worker_gone_before_reserved_falls_back_to_local(void **state)
{
    struct kit k;
    (void)state;
    open_pair(&k);
    struct wire_seq seq = {kit_submit(&k, 1, 3), 1, 0};
    kit_down(&k, P);
    assert_int_equal(kit_n_sent(&k, WIRE_CANCEL, D), 0); /* the reservation is good still */
    kit_reserved(&k, D, seq, KIT_PROMPT, 0);
    assert_int_equal(kit_sent(&k, WIRE_CANCEL, D)->flags, WIRE_CANCEL_WRITER_DONE);
    kit_tick(&k, 5 * NS_PER_MS);
    const struct kit_event *e = kit_sent(&k, WIRE_RESERVE, D);
    assert_non_null(e);
    assert_int_equal(e->seq.attempt, 2);
    assert_int_equal(e->local, 1);
    kit_close(&k);
}

static void test_failed_prefill_is_tried_elsewhere_and_then_locally(void **state)
{
    struct kit k;
    (void)state;
    open_pair(&k);
    uint32_t p2 = kit_worker(&k, WIRE_ROLE_PREFILL, 11);
    struct wire_seq seq = {kit_submit(&k, 1, 3), 1, 0};
    kit_reserved(&k, D, seq, KIT_PROMPT, 0);
    uint32_t first = kit_sent(&k, WIRE_PREFILL, KIT_NOBODY)->act.worker;
    kit_failed(&k, first, seq, ST_IO, 1);
    assert_int_equal(kit_sent(&k, WIRE_CANCEL, D)->flags, WIRE_CANCEL_WRITER_DONE);
    assert_null(kit_sent(&k, WIRE_CANCEL, first)); /* it has said that it is over */
    seq.attempt = 2;
    assert_true(kit_sent(&k, WIRE_RESERVE, D)->seq.attempt == 2);
    kit_reserved(&k, D, seq, KIT_PROMPT, 0);
    assert_int_equal(kit_sent(&k, WIRE_PREFILL, KIT_NOBODY)->act.worker, first == p2 ? P : p2);
    kit_down(&k, first);
    kit_failed(&k, first == p2 ? P : p2, seq, ST_IO, 1);
    assert_int_equal(kit_sent(&k, WIRE_RESERVE, D)->local, 1);
    kit_close(&k);
}

static void test_prefill_that_does_not_know_its_peer_is_told_again(void **state)
{
    struct kit k;
    (void)state;
    open_pair(&k);
    struct wire_seq seq = {kit_submit(&k, 1, 3), 1, 0};
    kit_reserved(&k, D, seq, KIT_PROMPT, 0);
    kit_failed(&k, P, seq, ST_PEER_LOST, 1);
    assert_true(kit_sent(&k, WIRE_PEER, P)->instance == 20);
    kit_close(&k);
}

static void test_attempts_that_fail_use_up_the_budget(void **state)
{
    struct kit k;
    (void)state;
    open_pair(&k);
    struct wire_seq seq = {kit_submit(&k, 1, 3), 1, 0};
    for (; seq.attempt <= 3; seq.attempt++) {
        assert_true(kit_sent(&k, WIRE_RESERVE, D)->seq.attempt == seq.attempt);
        kit_failed(&k, D, seq, ST_IO, 1);
    }
    assert_int_equal(kit_event(&k, ROUTER_FAIL)->act.status, ST_IO);
    assert_true(kit_event(&k, ROUTER_FAIL)->act.tag == 77);
    assert_null(kit_sent(&k, WIRE_RESERVE, D));
    assert_true(router_core_is_idle(k.core));
    kit_close(&k);
}

static void test_failure_without_a_reason_is_not_told_as_success(void **state)
{
    const uint32_t statuses[] = {ST_OK, ST_COUNT, UINT32_MAX};
    (void)state;
    for (uint32_t i = 0; i < 3; i++) {
        struct kit k;
        open_pair(&k);
        struct wire_seq seq = {kit_submit(&k, 1, 3), 1, 0};
        for (; seq.attempt <= 3; seq.attempt++)
            kit_failed(&k, D, seq, statuses[i], 1);
        assert_int_equal(kit_event(&k, ROUTER_FAIL)->act.status, ST_INTERNAL);
        kit_close(&k);
    }
}

static void test_refusals_for_want_of_room_cost_no_attempt_but_a_number(void **state)
{
    const enum status refusals[] = {ST_FULL, ST_NO_BLOCKS, ST_DRAINING};
    struct kit k;
    (void)state;
    open_pair(&k);
    struct wire_seq seq = {kit_submit(&k, 1, 3), 1, 0};
    uint64_t other = kit_submit(&k, 1, 3);
    for (; seq.attempt <= 30; seq.attempt++) {
        kit_failed(&k, D, seq, refusals[seq.attempt % 3], 1);
        assert_null(kit_sent(&k, WIRE_RESERVE, D)); /* not at once */
        assert_true(router_core_deadline(k.core) <= k.now + 100 * NS_PER_MS);
        kit_tick(&k, 100 * NS_PER_MS);
        const struct kit_event *e = kit_sent(&k, WIRE_RESERVE, D);
        assert_non_null(e);
        assert_true(e->seq.request == seq.request && e->seq.attempt == seq.attempt + 1);
        kit_stats(&k, D, KIT_BLOCKS);
        kit_stats(&k, P, KIT_BLOCKS);
        kit_token(&k, D, (struct wire_seq){other, 1, 0}, 0, 5, WIRE_FINISH_NONE);
    }
    assert_true(seq.request < other);
    kit_close(&k);
}

static void test_retry_avoids_the_worker_that_failed(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 8; seed++) {
        struct kit k;
        struct router_core_opts opts = kit_opts();
        opts.seed = seed;
        kit_open_with(&k, &opts);
        kit_worker(&k, WIRE_ROLE_UNIFIED, 10);
        kit_worker(&k, WIRE_ROLE_UNIFIED, 11);
        struct wire_seq seq = {kit_submit(&k, 1, 3), 1, 0};
        uint32_t first = kit_sent(&k, WIRE_RESERVE, KIT_NOBODY)->act.worker;
        kit_failed(&k, first, seq, ST_INTERNAL, 1);
        assert_int_equal(kit_sent(&k, WIRE_RESERVE, KIT_NOBODY)->act.worker, 1 - first);
        kit_close(&k);
    }
}

static void test_each_wait_has_a_deadline(void **state)
{
    struct kit k;
    (void)state;
    open_pair(&k);
    for (uint32_t stage = 0; stage < 3; stage++) {
        struct wire_seq seq = {kit_submit(&k, 1, 9), 1, 0};
        if (stage >= 1)
            kit_reserved(&k, D, seq, KIT_PROMPT, 0);
        if (stage >= 2)
            kit_prefilled(&k, P, seq, 0, 5);
        for (uint32_t i = 0; i < 30 && kit_sent(&k, WIRE_CANCEL, D) == NULL; i++) {
            assert_true(router_core_deadline(k.core) <= k.now + 2 * NS_PER_S);
            kit_stats(&k, P, KIT_BLOCKS);
            kit_stats(&k, D, KIT_BLOCKS);
            kit_tick(&k, 100 * NS_PER_MS);
        }
        assert_non_null(kit_sent(&k, WIRE_CANCEL, D));
        assert_int_equal(kit_n_sent(&k, WIRE_CANCEL, P), stage == 1);
        router_core_cancel(k.core, k.now, seq.request);
        kit_pump(&k);
        for (seq.attempt = 1; seq.attempt <= 2; seq.attempt++) {
            kit_cancelled(&k, P, seq, 0);
            kit_cancelled(&k, D, seq, 0);
        }
        assert_int_equal(router_core_counts(k.core).cancels_pending, 0);
    }
    kit_close(&k);
}

/* ---- streams ---- */

static void test_decode_worker_repeating_the_first_token_adds_its_finish_only(void **state)
{
    struct kit k;
    (void)state;
    open_pair(&k);
    struct wire_seq seq = kit_start_remote(&k, P, D, 1, 1, 5);
    assert_int_equal(kit_event(&k, ROUTER_TOKENS)->act.finish, WIRE_FINISH_NONE);
    kit_token(&k, D, seq, 0, 5, WIRE_FINISH_LENGTH);
    const struct kit_event *e = kit_event(&k, ROUTER_TOKENS);
    assert_int_equal(e->act.n_tokens, 0);
    assert_int_equal(e->act.finish, WIRE_FINISH_LENGTH);
    assert_non_null(kit_event(&k, ROUTER_DONE));
    kit_close(&k);
}

static void test_decode_worker_faster_than_prefilled_is_believed(void **state)
{
    struct kit k;
    (void)state;
    open_pair(&k);
    struct wire_seq seq = {kit_submit(&k, 1, 9), 1, 0};
    kit_reserved(&k, D, seq, KIT_PROMPT, 0);
    kit_tokens(&k, D, seq, 0, (uint32_t[]){5, 6}, 2, WIRE_FINISH_NONE);
    assert_int_equal(kit_event(&k, ROUTER_TOKENS)->act.n_tokens, 2);
    kit_prefilled(&k, P, seq, 0, 5);
    assert_null(kit_event(&k, ROUTER_TOKENS));
    kit_token(&k, D, seq, 2, 7, WIRE_FINISH_STOP);
    assert_int_equal(kit_event(&k, ROUTER_TOKENS)->tokens[0], 7);
    assert_int_equal(kit_n_sent(&k, WIRE_CANCEL, KIT_NOBODY), 0);
    kit_close(&k);
}

static void test_tokens_beyond_the_limit_end_the_attempt(void **state)
{
    struct kit k;
    (void)state;
    open_pair(&k);
    struct wire_seq seq = kit_start_remote(&k, P, D, 1, 2, 5);
    kit_tokens(&k, D, seq, 1, (uint32_t[]){6, 7}, 2, WIRE_FINISH_NONE);
    assert_null(kit_event(&k, ROUTER_TOKENS));
    assert_int_equal(kit_sent(&k, WIRE_RESERVE, D)->job.n_tokens, KIT_PROMPT + 1);
    kit_close(&k);
}

/* The worker that drew the last token died before it could say so; the next one finds that nothing
 * is left to draw. */
static void test_retry_of_a_log_that_has_ended_takes_the_finish_alone(void **state)
{
    struct kit k;
    (void)state;
    open_pair(&k);
    struct wire_seq seq = kit_start_remote(&k, P, D, 1, 9, 5);
    kit_down(&k, D);
    uint32_t d2 = kit_worker(&k, WIRE_ROLE_DECODE, 21);
    seq.attempt = 2;
    kit_tokens(&k, d2, seq, 1, NULL, 0, WIRE_FINISH_STOP);
    assert_int_equal(kit_event(&k, ROUTER_TOKENS)->act.n_tokens, 0);
    assert_int_equal(kit_event(&k, ROUTER_TOKENS)->act.finish, WIRE_FINISH_STOP);
    assert_non_null(kit_event(&k, ROUTER_DONE));
    kit_close(&k);
}

/* Whatever dies, and however often a message comes, the client sees 0, 1, 2 ... once. */
static void test_stream_across_losses_has_every_token_once(void **state)
{
    struct kit k;
    struct router_core_opts opts = kit_opts();
    uint32_t seen = 0;
    (void)state;
    opts.attempts_max = 8;
    kit_open_with(&k, &opts);
    uint32_t d = kit_worker(&k, WIRE_ROLE_UNIFIED, 100);
    struct wire_seq seq = {kit_submit(&k, 1, 20), 1, 0};
    struct wire_seq old = seq;
    for (uint32_t i = 0; i < 20; i++) {
        for (uint32_t again = 0; again < 2; again++) {
            kit_token(&k, d, seq, i, 500 + i, i == 19 ? WIRE_FINISH_LENGTH : WIRE_FINISH_NONE);
            for (uint32_t e = 0; e < k.n_events; e++)
                for (uint32_t t = 0; t < k.events[e].act.n_tokens; t++)
                    assert_int_equal(k.events[e].tokens[t], 500 + seen++);
            if (i == 19)
                break;
        }
        if (i % 3 != 2 || i > 17)
            continue;
        kit_down(&k, d);
        old = seq;
        seq.attempt++;
        d = kit_worker(&k, WIRE_ROLE_UNIFIED, 101 + i);
        const struct kit_event *e = kit_sent(&k, WIRE_RESERVE, d);
        assert_int_equal(e->seq.attempt, seq.attempt);
        assert_int_equal(e->job.n_tokens, KIT_PROMPT + i + 1);
        assert_int_equal(e->last_token, 500 + i);
        kit_token(&k, d, old, i + 1, 9, WIRE_FINISH_STOP); /* an echo of the attempt before */
        assert_null(kit_event(&k, ROUTER_TOKENS));
    }
    assert_int_equal(seen, 20);
    assert_true(router_core_is_idle(k.core));
    kit_close(&k);
}

/* ---- choices ---- */

static void test_siblings_prefer_the_decode_worker_of_the_first(void **state)
{
    struct kit k;
    (void)state;
    open_pair(&k);
    kit_worker(&k, WIRE_ROLE_DECODE, 21);
    kit_worker(&k, WIRE_ROLE_DECODE, 22);
    struct wire_seq seq = {kit_submit(&k, 4, 9), 1, 0};
    uint32_t d = kit_sent(&k, WIRE_RESERVE, KIT_NOBODY)->act.worker;
    kit_reserved(&k, d, seq, KIT_PROMPT, 0);
    kit_prefilled(&k, P, seq, 0, 5);
    assert_int_equal(kit_n_sent(&k, WIRE_RESERVE, d), 3);
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(kit_sent_nth(&k, WIRE_RESERVE, d, i)->seq.choice, i + 1);
    kit_close(&k);
}

static void test_siblings_start_when_the_first_ends_without_a_token(void **state)
{
    struct kit k;
    (void)state;
    open_pair(&k);
    struct wire_seq seq = {kit_submit(&k, 3, 9), 1, 0};
    kit_tokens(&k, D, seq, 0, NULL, 0, WIRE_FINISH_STOP);
    assert_int_equal(kit_n_sent(&k, WIRE_RESERVE, D), 2);
    seq.request = kit_submit(&k, 2, 9);
    router_core_stop(k.core, k.now, seq.request, 0);
    kit_pump(&k);
    assert_int_equal(kit_n_sent(&k, WIRE_RESERVE, D), 1);
    kit_close(&k);
}

static void test_request_is_done_when_its_last_choice_is(void **state)
{
    struct kit k;
    (void)state;
    open_pair(&k);
    struct wire_seq seq = kit_start_remote(&k, P, D, 3, 9, 5);
    kit_token(&k, D, seq, 1, 6, WIRE_FINISH_STOP);
    seq.choice = 2;
    kit_token(&k, D, seq, 0, 6, WIRE_FINISH_STOP);
    assert_null(kit_event(&k, ROUTER_DONE));
    router_core_stop(k.core, k.now, seq.request, 1);
    router_core_stop(k.core, k.now, seq.request, 1); /* once is enough */
    router_core_stop(k.core, k.now, seq.request, 9);
    kit_pump(&k);
    assert_int_equal(kit_n_events(&k, ROUTER_DONE), 1);
    assert_int_equal(kit_n_sent(&k, WIRE_CANCEL, D), 1);
    kit_close(&k);
}

static void test_one_choice_failing_for_good_fails_the_request(void **state)
{
    struct kit k;
    (void)state;
    open_pair(&k);
    struct wire_seq seq = kit_start_remote(&k, P, D, 3, 9, 5);
    struct wire_seq bad = {seq.request, 1, 1};
    for (; bad.attempt <= 3; bad.attempt++)
        kit_failed(&k, D, bad, ST_IO, 1);
    assert_int_equal(kit_n_events(&k, ROUTER_FAIL), 1);
    assert_int_equal(kit_n_sent(&k, WIRE_CANCEL, D), 2); /* choices 0 and 2 */
    kit_token(&k, D, seq, 1, 6, WIRE_FINISH_NONE);
    assert_int_equal(k.n_events, 0);
    kit_close(&k);
}

/* One frame may hold several entries of a choice; behind the stop none may come out, even when the
 * last one ends the choice by itself. */
static void test_stop_holds_back_tokens_that_wait_to_go_out(void **state)
{
    const uint32_t tokens[] = {6, 7, 8};
    (void)state;
    for (uint32_t finish = WIRE_FINISH_NONE; finish <= WIRE_FINISH_STOP; finish++) {
        struct kit k;
        struct router_action act;
        struct wire_tokens_entry entries[3];
        uint32_t n_tokens = 0, n_done = 0;
        open_pair(&k);
        struct wire_seq seq = kit_start_remote(&k, P, D, 1, 9, 5);
        for (uint32_t i = 0; i < 3; i++)
            entries[i] = (struct wire_tokens_entry){seq, 1 + i, i == 2 ? finish : 0, 1, &tokens[i]};
        struct wire_msg msg = {.type = WIRE_TOKENS, .u.tokens = {3, entries}};
        router_core_message(k.core, k.now, D, &msg);
        while (router_core_next_action(k.core, &act)) {
            n_done += act.kind == ROUTER_DONE;
            if (act.kind != ROUTER_TOKENS)
                continue;
            n_tokens += act.n_tokens;
            router_core_stop(k.core, k.now, seq.request, 0);
        }
        assert_int_equal(n_tokens, 1);
        assert_int_equal(n_done, 1);
        kit_close(&k);
    }
}

static void test_cancel_holds_back_everything_of_its_request(void **state)
{
    struct kit k;
    (void)state;
    open_pair(&k);
    struct wire_seq seq = kit_start_remote(&k, P, D, 1, 9, 5);
    const uint32_t token = 6;
    struct wire_tokens_entry entry = {seq, 1, WIRE_FINISH_STOP, 1, &token};
    struct wire_msg msg = {.type = WIRE_TOKENS, .u.tokens = {1, &entry}};
    router_core_message(k.core, k.now, D, &msg); /* TOKENS and DONE wait to go out */
    router_core_cancel(k.core, k.now, seq.request);
    kit_pump(&k);
    assert_int_equal(k.n_events, 0);
    assert_true(router_core_is_idle(k.core));
    kit_close(&k);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_short_suffix_is_prefilled_on_the_decode_worker),
        cmocka_unit_test(test_unified_and_unpaired_workers_prefill_themselves),
        cmocka_unit_test(test_prefill_names_the_reserved_blocks_and_what_is_cached),
        cmocka_unit_test(test_reserved_that_does_not_fit_the_pool_ends_the_attempt),
        cmocka_unit_test(test_prefill_worker_gone_before_reserved_falls_back_to_local),
        cmocka_unit_test(test_failed_prefill_is_tried_elsewhere_and_then_locally),
        cmocka_unit_test(test_prefill_that_does_not_know_its_peer_is_told_again),
        cmocka_unit_test(test_attempts_that_fail_use_up_the_budget),
        cmocka_unit_test(test_failure_without_a_reason_is_not_told_as_success),
        cmocka_unit_test(test_refusals_for_want_of_room_cost_no_attempt_but_a_number),
        cmocka_unit_test(test_retry_avoids_the_worker_that_failed),
        cmocka_unit_test(test_each_wait_has_a_deadline),
        cmocka_unit_test(test_decode_worker_repeating_the_first_token_adds_its_finish_only),
        cmocka_unit_test(test_decode_worker_faster_than_prefilled_is_believed),
        cmocka_unit_test(test_tokens_beyond_the_limit_end_the_attempt),
        cmocka_unit_test(test_retry_of_a_log_that_has_ended_takes_the_finish_alone),
        cmocka_unit_test(test_stream_across_losses_has_every_token_once),
        cmocka_unit_test(test_siblings_prefer_the_decode_worker_of_the_first),
        cmocka_unit_test(test_siblings_start_when_the_first_ends_without_a_token),
        cmocka_unit_test(test_request_is_done_when_its_last_choice_is),
        cmocka_unit_test(test_one_choice_failing_for_good_fails_the_request),
        cmocka_unit_test(test_stop_holds_back_tokens_that_wait_to_go_out),
        cmocka_unit_test(test_cancel_holds_back_everything_of_its_request),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
