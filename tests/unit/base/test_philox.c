#include "base/philox.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdbool.h>

/* The known-answer vectors published with Random123 for philox4x32, 10 rounds. */
static void test_philox4x32_known_answers(void **state)
{
    (void)state;
    static const struct {
        uint32_t ctr[4], key[2], out[4];
    } cases[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint32_t out[4];
        philox4x32(cases[i].ctr, cases[i].key, out);
        assert_memory_equal(out, cases[i].out, sizeof(out));
    }
}

static void test_philox_uniform_is_the_top_24_bits_of_word_0(void **state)
{
    (void)state;
    assert_true(philox_uniform(0, 0, 0) == (float)(0x6627e8d5u >> 8) / 16777216.0f);
    assert_true(philox_uniform(1, 0, 0) != philox_uniform(0, 0, 0));
    assert_true(philox_uniform(1ull << 32, 0, 0) != philox_uniform(0, 0, 0));
    assert_true(philox_uniform(0, 1, 0) != philox_uniform(0, 0, 1));
}

static void test_philox_uniform_stays_in_range_with_the_right_mean(void **state)
{
    (void)state;
    double sum = 0;
    for (uint32_t i = 0; i < 100000; i++) {
        float u = philox_uniform(99, 3, i);
        assert_true(u >= 0.0f && u < 1.0f);
        sum += (double)u;
    }
    assert_true(sum > 49500 && sum < 50500);
}

static void test_rng_below_covers_its_range_evenly(void **state)
{
    (void)state;
    struct rng rng = {.seed = 5};
    uint32_t hits[7] = {0};
    for (int i = 0; i < 70000; i++) {
        uint32_t x = rng_below(&rng, 7);
        assert_true(x < 7);
        hits[x]++;
    }
    for (int i = 0; i < 7; i++)
        assert_true(hits[i] > 9500 && hits[i] < 10500);
    assert_int_equal(rng_below(&rng, 0), 0);
    assert_int_equal(rng_below(&rng, 1), 0);
    for (int i = 0; i < 1000; i++)
        assert_true(rng_unit(&rng) < 1.0 && rng_unit(&rng) >= 0.0);
}

static void test_rng_same_seed_gives_the_same_stream(void **state)
{
    (void)state;
    struct rng a = {.seed = 42}, b = {.seed = 42}, c = {.seed = 43};
    bool differs = false;
    for (int i = 0; i < 100; i++) {
        uint64_t x = rng_u64(&a);
        assert_true(x == rng_u64(&b));
        differs |= x != rng_u64(&c);
    }
    assert_true(differs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_philox4x32_known_answers),
        cmocka_unit_test(test_philox_uniform_is_the_top_24_bits_of_word_0),
        cmocka_unit_test(test_philox_uniform_stays_in_range_with_the_right_mean),
        cmocka_unit_test(test_rng_below_covers_its_range_evenly),
        cmocka_unit_test(test_rng_same_seed_gives_the_same_stream),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
