/* Prefix index: who holds which block, within its bound. */
#include "router/prefix_index.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static struct hash128 key_of(uint32_t i)
{
    struct hash128 key = {{0}};
    uint64_t low = hash_mix64(i), high = hash_mix64(low);
    memcpy(key.bytes, &low, 8);
    memcpy(key.bytes + 8, &high, 8);
    return key;
}

static void test_prefix_index_names_all_holders_of_a_key(void **state)
{
    struct prefix_index *index;
    struct hash128 a = key_of(1), b = key_of(2);
    (void)state;
    assert_int_equal(prefix_index_create(8, &index), ST_OK);
    prefix_index_add(index, 3, &a);
    prefix_index_add(index, 63, &a);
    prefix_index_add(index, 0, &b);
    assert_true(prefix_index_get(index, &a) == (1ull << 3 | 1ull << 63));
    assert_true(prefix_index_get(index, &b) == 1);
    prefix_index_remove(index, 3, &a);
    assert_true(prefix_index_get(index, &a) == 1ull << 63);
    prefix_index_remove(index, 63, &a);
    assert_true(prefix_index_get(index, &a) == 0);
    assert_int_equal(prefix_index_count(index), 1);
    prefix_index_destroy(index);
}

static void test_prefix_index_reset_forgets_one_worker_only(void **state)
{
    struct prefix_index *index;
    (void)state;
    assert_int_equal(prefix_index_create(64, &index), ST_OK);
    for (uint32_t i = 0; i < 32; i++) {
        struct hash128 key = key_of(i);
        prefix_index_add(index, i % 2, &key);
        prefix_index_add(index, 2, &key);
    }
    prefix_index_reset(index, 2);
    for (uint32_t i = 0; i < 32; i++) {
        struct hash128 key = key_of(i);
        assert_true(prefix_index_get(index, &key) == 1ull << i % 2);
    }
    prefix_index_reset(index, 0);
    assert_int_equal(prefix_index_count(index), 16);
    prefix_index_destroy(index);
}

static void test_prefix_index_when_full_evicts_what_was_not_asked_for(void **state)
{
    struct prefix_index *index;
    struct hash128 kept = key_of(0);
    (void)state;
    assert_int_equal(prefix_index_create(16, &index), ST_OK);
    prefix_index_add(index, 1, &kept);
    for (uint32_t i = 1; i < 1000; i++) {
        struct hash128 key = key_of(i);
        prefix_index_add(index, 1, &key);
        assert_true(prefix_index_get(index, &kept) != 0); /* asked for again and again */
        assert_true(prefix_index_count(index) <= 16);
    }
    prefix_index_destroy(index);
}

/* Only half of a key leads to its entry; the whole key decides. */
static void test_prefix_index_tells_keys_with_the_same_low_half_apart(void **state)
{
    struct prefix_index *index;
    struct hash128 a = key_of(1), b = a;
    (void)state;
    b.bytes[15] ^= 1;
    assert_int_equal(prefix_index_create(8, &index), ST_OK);
    prefix_index_add(index, 1, &a);
    prefix_index_add(index, 2, &b); /* finds its place taken: forgotten, not mixed up */
    assert_true(prefix_index_get(index, &a) == 1ull << 1);
    assert_true(prefix_index_get(index, &b) == 0);
    prefix_index_remove(index, 1, &b);
    assert_true(prefix_index_get(index, &a) == 1ull << 1);
    assert_int_equal(prefix_index_count(index), 1);
    prefix_index_destroy(index);
    prefix_index_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prefix_index_names_all_holders_of_a_key),
        cmocka_unit_test(test_prefix_index_reset_forgets_one_worker_only),
        cmocka_unit_test(test_prefix_index_when_full_evicts_what_was_not_asked_for),
        cmocka_unit_test(test_prefix_index_tells_keys_with_the_same_low_half_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
