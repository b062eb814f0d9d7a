/* Router core: what is admitted, how far its answer may go, and in which order it is started. */
#include "support/router_kit.h"

static void test_submit_without_a_generating_worker_is_unavailable(void **state)
{
    struct kit k;
    uint64_t id;
    (void)state;
    kit_open(&k);
    kit_worker(&k, WIRE_ROLE_PREFILL, 10);
    struct router_request req = kit_request(&k, 1, 4);
    assert_int_equal(router_core_submit(k.core, k.now, &req, &id), ST_UNAVAILABLE);
    kit_close(&k);
}

static void test_submit_ids_grow_by_one_and_refusals_take_none(void **state)
{
    struct kit k;
    uint64_t id;
    (void)state;
    kit_open(&k);
    kit_worker(&k, WIRE_ROLE_UNIFIED, 10);
    assert_true(kit_submit(&k, 1, 4) == 1);
    struct router_request req = kit_request(&k, 0, 4);
    assert_int_equal(router_core_submit(k.core, k.now, &req, &id), ST_INVALID);
    req = kit_request(&k, 1, 4);
    req.sampling.n_stop_ids = WIRE_STOP_IDS_MAX + 1;
    assert_int_equal(router_core_submit(k.core, k.now, &req, &id), ST_INVALID);
    assert_true(kit_submit(&k, 1, 4) == 2);
    router_core_cancel(k.core, k.now, 1);
    router_core_cancel(k.core, k.now, 99);
    kit_pump(&k);
    assert_true(kit_submit(&k, 1, 4) == 3);
    kit_close(&k);
}

static void test_submit_cuts_the_answer_to_what_context_and_pool_leave(void **state)
{
    struct kit k;
    (void)state;
    kit_open(&k);
    kit_worker(&k, WIRE_ROLE_UNIFIED, 10);
    kit_submit(&k, 1, 100000);
    assert_int_equal(kit_sent(&k, WIRE_RESERVE, 0)->job.sampling.max_new_tokens, 512 - KIT_PROMPT);
    kit_close(&k);

    kit_open(&k);
    struct wire_hello hello = kit_hello(WIRE_ROLE_UNIFIED, 10);
    hello.pool.block_count = 10; /* 160 tokens, less than the context */
    kit_worker_as(&k, &hello);
    kit_submit(&k, 1, 100000);
    assert_int_equal(kit_sent(&k, WIRE_RESERVE, 0)->job.sampling.max_new_tokens, 160 - KIT_PROMPT);
    kit_close(&k);
}

static void test_submit_tells_a_short_pool_from_a_short_context(void **state)
{
    struct kit k;
    uint64_t id;
    (void)state;
    kit_open(&k);
    struct wire_hello hello = kit_hello(WIRE_ROLE_UNIFIED, 10);
    hello.pool.block_count = 4;
    kit_worker_as(&k, &hello);
    struct router_request req = kit_request(&k, 1, 4);
    assert_int_equal(router_core_submit(k.core, k.now, &req, &id), ST_TOO_LARGE);
    req.n_tokens = 512;
    assert_int_equal(router_core_submit(k.core, k.now, &req, &id), ST_PROMPT_TOO_LONG);
    kit_close(&k);
}

/* A worker that claims an endless context must not make the token store's sizes wrap. */
static void test_submit_with_a_lying_context_stays_within_a_message(void **state)
{
    const uint32_t contexts[] = {UINT32_MAX, 3817748708u, 3817748708u + 16, WIRE_TOKENS_MAX};
    (void)state;
    for (uint32_t i = 0; i < sizeof(contexts) / sizeof(contexts[0]); i++) {
        struct kit k;
        uint64_t id;
        kit_open(&k);
        struct wire_hello hello = kit_hello(WIRE_ROLE_UNIFIED, 10);
        hello.max_context_tokens = contexts[i];
        hello.pool.block_count = UINT32_MAX;
        kit_worker_as(&k, &hello);
        struct router_request req = kit_request(&k, 1, 0);
        /* The store of the kit is smaller than the longest message. */
        assert_int_equal(router_core_submit(k.core, k.now, &req, &id), ST_NO_MEMORY);
        kit_submit(&k, 1, 10);
        kit_close(&k);
    }
}

static void test_submit_when_the_token_store_is_full_takes_nothing(void **state)
{
    struct kit k;
    uint64_t id;
    struct router_core_opts opts = kit_opts();
    (void)state;
    opts.tokens_max = 400;
    kit_open_with(&k, &opts);
    kit_worker(&k, WIRE_ROLE_UNIFIED, 10);
    struct router_request req = kit_request(&k, 3, 20); /* two of its choices would fit */
    assert_int_equal(router_core_submit(k.core, k.now, &req, &id), ST_NO_MEMORY);
    kit_pump(&k);
    assert_int_equal(router_core_counts(k.core).requests, 0);
    req.n_choices = 2;
    kit_submit_as(&k, &req);
    kit_close(&k);
}

static void test_queue_beyond_the_inflight_bound_waits_in_order(void **state)
{
    struct kit k;
    struct router_core_opts opts = kit_opts();
    (void)state;
    opts.worker_inflight_max = 2;
    kit_open_with(&k, &opts);
    uint32_t d = kit_worker(&k, WIRE_ROLE_UNIFIED, 10);
    uint64_t ids[4];
    for (uint32_t i = 0; i < 4; i++) {
        ids[i] = kit_submit(&k, 1, 4);
        assert_int_equal(kit_n_sent(&k, WIRE_RESERVE, d), i < 2);
    }
    assert_int_equal(router_core_counts(k.core).queued, 2);
    for (uint32_t i = 0; i < 2; i++) {
        kit_token(&k, d, (struct wire_seq){ids[i], 1, 0}, 0, 5, WIRE_FINISH_STOP);
        const struct kit_event *e = kit_sent(&k, WIRE_RESERVE, d);
        assert_non_null(e);
        assert_true(e->seq.request == ids[i + 2]);
    }
    kit_close(&k);
}

static void test_queue_waits_for_blocks_that_stats_say_are_missing(void **state)
{
    struct kit k;
    (void)state;
    kit_open(&k);
    uint32_t d = kit_worker(&k, WIRE_ROLE_UNIFIED, 10);
    kit_submit(&k, 1, 4);
    kit_stats(&k, d, 6); /* a prompt needs seven */
    kit_submit(&k, 1, 4);
    assert_int_equal(kit_n_sent(&k, WIRE_RESERVE, d), 0);
    kit_stats(&k, d, 16);
    assert_int_equal(kit_n_sent(&k, WIRE_RESERVE, d), 1);
    kit_submit(&k, 1, 4);
    assert_int_equal(kit_n_sent(&k, WIRE_RESERVE, d), 1); /* 7 claimed of 16 */
    kit_submit(&k, 1, 4);
    assert_int_equal(kit_n_sent(&k, WIRE_RESERVE, d), 0);
    kit_close(&k);
}

/* Only the large worker could hold the long one; while it is away, short ones go past. */
static void test_queue_is_not_blocked_by_one_that_no_worker_could_hold(void **state)
{
    struct kit k;
    (void)state;
    kit_open(&k);
    struct wire_hello large = kit_hello(WIRE_ROLE_UNIFIED, 10),
                      small = kit_hello(WIRE_ROLE_UNIFIED, 11);
    small.max_context_tokens = 200;
    uint32_t l = kit_worker_as(&k, &large), s = kit_worker_as(&k, &small);
    struct router_request req = kit_request(&k, 1, 50);
    req.n_tokens = 300;
    uint64_t longer = kit_submit_as(&k, &req);
    assert_non_null(kit_sent(&k, WIRE_RESERVE, l));
    kit_down(&k, l);
    assert_null(kit_sent(&k, WIRE_RESERVE, KIT_NOBODY));
    kit_submit(&k, 1, 4);
    assert_non_null(kit_sent(&k, WIRE_RESERVE, s));
    large.instance = 12;
    l = kit_worker_as(&k, &large);
    const struct kit_event *e = kit_sent(&k, WIRE_RESERVE, l);
    assert_non_null(e);
    assert_true(e->seq.request == longer && e->seq.attempt == 2);
    kit_close(&k);
}

/* A worker whose context would cut the answer short is not asked. */
static void test_dispatch_keeps_to_workers_that_can_hold_the_whole_answer(void **state)
{
    struct kit k;
    (void)state;
    kit_open(&k);
    struct wire_hello small = kit_hello(WIRE_ROLE_UNIFIED, 11);
    small.max_context_tokens = 120;
    uint32_t s = kit_worker_as(&k, &small), l = kit_worker(&k, WIRE_ROLE_UNIFIED, 10);
    for (uint32_t i = 0; i < 8; i++) {
        kit_submit(&k, 1, 50);
        assert_null(kit_sent(&k, WIRE_RESERVE, s));
        assert_non_null(kit_sent(&k, WIRE_RESERVE, l));
    }
    kit_submit(&k, 1, 20);
    assert_non_null(kit_sent(&k, WIRE_RESERVE, s));
    kit_close(&k);
}

static void test_dispatch_spreads_equal_work(void **state)
{
    struct kit k;
    uint32_t n[3] = {0};
    (void)state;
    kit_open(&k);
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(kit_worker(&k, WIRE_ROLE_UNIFIED, 10 + i), i);
    for (uint32_t i = 0; i < 15; i++) {
        kit_submit(&k, 1, 4);
        n[kit_sent(&k, WIRE_RESERVE, KIT_NOBODY)->act.worker]++;
    }
    for (uint32_t i = 0; i < 3; i++)
        assert_in_range(n[i], 4, 6);
    kit_close(&k);
}

static void test_dispatch_prefers_the_worker_that_has_the_prefix(void **state)
{
    struct kit k;
    struct hash128 key, parent = {{0}};
    struct wire_cache_entry entries[6];
    struct router_core_opts opts = kit_opts();
    struct wire_hello hello = kit_hello(WIRE_ROLE_UNIFIED, 10);
    uint8_t salt[16] = {0};
    (void)state;
    kit_open(&k);
    kit_worker(&k, WIRE_ROLE_UNIFIED, 10);
    uint32_t warm = kit_worker(&k, WIRE_ROLE_UNIFIED, 11);
    kit_worker(&k, WIRE_ROLE_UNIFIED, 12);
    for (uint32_t i = 0; i < 6; i++) {
        hash_block_key(opts.cache_secret, salt, &hello.model_hash, i > 0 ? &parent : NULL,
                       k.prompt + (size_t)i * KIT_BLOCK, KIT_BLOCK, &key);
        entries[i] = (struct wire_cache_entry){key, 1};
        parent = key;
    }
    struct wire_msg msg = {.type = WIRE_CACHE, .u.cache = {.n_entries = 6, .entries = entries}};
    kit_say(&k, warm, &msg);
    for (uint32_t i = 0; i < 3; i++) {
        kit_submit(&k, 1, 4);
        assert_non_null(kit_sent(&k, WIRE_RESERVE, warm));
    }
    assert_true(router_core_counts(k.core).prefix_hit_tokens == 3ull * 96);
    assert_true(router_core_counts(k.core).prefix_query_tokens == 3ull * KIT_PROMPT);
    /* Another tenant's salt finds nothing. */
    struct router_request req = kit_request(&k, 1, 4);
    req.salt[3] = 1;
    kit_submit_as(&k, &req);
    assert_null(kit_sent(&k, WIRE_RESERVE, warm));
    /* And nobody does once the worker says that its cache is gone. */
    msg.u.cache = (struct wire_cache){.reset = 1};
    kit_say(&k, warm, &msg);
    kit_submit(&k, 1, 4);
    assert_true(router_core_counts(k.core).prefix_hit_tokens == 3ull * 96);
    kit_close(&k);
}

static void test_drain_refuses_new_work_and_ends_the_old(void **state)
{
    struct kit k;
    uint64_t id;
    (void)state;
    kit_open(&k);
    uint32_t d = kit_worker(&k, WIRE_ROLE_UNIFIED, 10);
    struct wire_seq seq = {kit_submit(&k, 1, 4), 1, 0};
    router_core_drain(k.core);
    struct router_request req = kit_request(&k, 1, 4);
    assert_int_equal(router_core_submit(k.core, k.now, &req, &id), ST_DRAINING);
    assert_false(router_core_is_idle(k.core));
    kit_token(&k, d, seq, 0, 5, WIRE_FINISH_STOP);
    assert_non_null(kit_event(&k, ROUTER_DONE));
    assert_true(router_core_is_idle(k.core));
    kit_close(&k);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_submit_without_a_generating_worker_is_unavailable),
        cmocka_unit_test(test_submit_ids_grow_by_one_and_refusals_take_none),
        cmocka_unit_test(test_submit_cuts_the_answer_to_what_context_and_pool_leave),
        cmocka_unit_test(test_submit_tells_a_short_pool_from_a_short_context),
        cmocka_unit_test(test_submit_with_a_lying_context_stays_within_a_message),
        cmocka_unit_test(test_submit_when_the_token_store_is_full_takes_nothing),
        cmocka_unit_test(test_queue_beyond_the_inflight_bound_waits_in_order),
        cmocka_unit_test(test_queue_waits_for_blocks_that_stats_say_are_missing),
        cmocka_unit_test(test_queue_is_not_blocked_by_one_that_no_worker_could_hold),
        cmocka_unit_test(test_dispatch_keeps_to_workers_that_can_hold_the_whole_answer),
        cmocka_unit_test(test_dispatch_spreads_equal_work),
        cmocka_unit_test(test_dispatch_prefers_the_worker_that_has_the_prefix),
        cmocka_unit_test(test_drain_refuses_new_work_and_ends_the_old),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
