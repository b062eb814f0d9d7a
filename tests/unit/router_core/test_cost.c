/* Cost model: rates are learned, and local or remote follows from what would be waited for. */
#include "router/cost.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void test_cost_first_sample_is_the_rate_and_later_ones_move_it(void **state)
{
    struct cost_worker w = {0};
    (void)state;
    cost_prefill_sample(&w, 100, 1000); /* 10 us a token */
    assert_true(w.prefill_ns_per_token == 10000);
    for (int i = 0; i < 100; i++)
        cost_prefill_sample(&w, 100, 4000);
    assert_in_range(w.prefill_ns_per_token, 39000, 40000);
    cost_prefill_sample(&w, 0, 4000); /* says nothing */
    assert_in_range(w.prefill_ns_per_token, 39000, 40000);
    cost_step_sample(&w, 800);
    assert_true(w.step_ns == 800);
}

static void test_cost_samples_of_zero_keep_a_rate(void **state)
{
    struct cost_worker w = {0};
    (void)state;
    cost_prefill_sample(&w, 1000, 0);
    cost_step_sample(&w, 0);
    assert_true(w.prefill_ns_per_token > 0);
    assert_true(w.step_ns > 0);
}

static void test_cost_ttft_grows_with_each_of_its_parts(void **state)
{
    struct cost_worker w = {.prefill_ns_per_token = 1000, .step_ns = 500000};
    (void)state;
    uint64_t base = cost_ttft_ns(&w, 100);
    assert_true(base == 100000);
    assert_true(cost_ttft_ns(&w, 101) > base);
    w.pending_tokens = 50;
    uint64_t queued = cost_ttft_ns(&w, 100);
    assert_true(queued == 150000);
    w.running = 1;
    uint64_t busy = cost_ttft_ns(&w, 100);
    assert_true(busy > queued);
    w.running = 2;
    assert_true(cost_ttft_ns(&w, 100) > busy);
}

static void test_cost_ttft_of_extremes_does_not_wrap(void **state)
{
    struct cost_worker w = {.prefill_ns_per_token = 1000000,
                            .step_ns = 1000000000,
                            .pending_tokens = UINT32_MAX,
                            .running = 4096};
    (void)state;
    assert_true(cost_ttft_ns(&w, UINT32_MAX) > UINT32_MAX * 1000000ull);
}

static void test_cost_local_when_there_is_no_prefill_worker(void **state)
{
    struct cost_worker d = {.running = 1000};
    (void)state;
    assert_true(cost_prefers_local(&d, 100000, NULL, 0, 0));
    assert_true(cost_prefers_local(&d, 100000, NULL, 0, 64));
}

static void test_cost_local_max_decides_short_suffixes(void **state)
{
    struct cost_worker d = {0}, p = {0};
    (void)state;
    assert_true(cost_prefers_local(&d, 64, &p, 64, 64));
    assert_false(cost_prefers_local(&d, 65, &p, 65, 64));
    assert_false(cost_prefers_local(&d, 1, &p, 1, 0)); /* 0: always remote */
}

static void test_cost_long_prefill_queue_makes_local_the_faster_way(void **state)
{
    struct cost_worker d = {.prefill_ns_per_token = 1000}, p = {.prefill_ns_per_token = 1000};
    (void)state;
    p.pending_tokens = 900; /* remote 1900 us, local 1000 us: within the margin */
    assert_false(cost_prefers_local(&d, 1000, &p, 1000, 64));
    p.pending_tokens = 1100; /* 2100 us */
    assert_true(cost_prefers_local(&d, 1000, &p, 1000, 64));
    assert_false(cost_prefers_local(&d, 1000, &p, 1000, 0)); /* 0: always remote */
    d.pending_tokens = 200;                                  /* the decode worker has a queue too */
    assert_false(cost_prefers_local(&d, 1000, &p, 1000, 64));
    assert_false(cost_prefers_local(&d, 1000, &p, 100, 64)); /* and the other one a cache */
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cost_first_sample_is_the_rate_and_later_ones_move_it),
        cmocka_unit_test(test_cost_samples_of_zero_keep_a_rate),
        cmocka_unit_test(test_cost_ttft_grows_with_each_of_its_parts),
        cmocka_unit_test(test_cost_ttft_of_extremes_does_not_wrap),
        cmocka_unit_test(test_cost_local_when_there_is_no_prefill_worker),
        cmocka_unit_test(test_cost_local_max_decides_short_suffixes),
        cmocka_unit_test(test_cost_long_prefill_queue_makes_local_the_faster_way),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
