#include "base/map.h"

#include "base/philox.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

static void test_map_any_key_can_be_put_and_got(void **state)
{
    (void)state;
    struct map map;
    uint32_t value = 0;
    assert_int_equal(map_init(&map, 4), ST_OK);
    assert_false(map_get(&map, 0, &value));
    assert_int_equal(map_put(&map, 0, 11), ST_OK);
    assert_int_equal(map_put(&map, UINT64_MAX, 12), ST_OK);
    assert_true(map_get(&map, 0, &value));
    assert_int_equal(value, 11);
    assert_true(map_get(&map, UINT64_MAX, &value));
    assert_int_equal(value, 12);
    assert_false(map_get(&map, 1, &value));
    assert_false(map_del(&map, 1));
    map_clear(&map);
    assert_int_equal(map.count, 0);
    assert_false(map_get(&map, 0, &value));
    map_deinit(&map);
}

static void test_map_put_when_full_refuses_new_and_replaces_old(void **state)
{
    (void)state;
    struct map map;
    uint32_t value = 0;
    assert_int_equal(map_init(&map, 3), ST_OK);
    for (uint64_t key = 0; key < 3; key++)
        assert_int_equal(map_put(&map, key, 1), ST_OK);
    assert_int_equal(map_put(&map, 3, 1), ST_FULL);
    assert_int_equal(map_put(&map, 2, 9), ST_OK);
    assert_true(map_get(&map, 2, &value));
    assert_int_equal(value, 9);
    assert_int_equal(map.count, 3);
    map_deinit(&map);
}

static void test_map_of_no_capacity_holds_nothing(void **state)
{
    (void)state;
    struct map map;
    uint32_t value;
    assert_int_equal(map_init(&map, 0), ST_OK);
    assert_int_equal(map_put(&map, 1, 1), ST_FULL);
    assert_false(map_get(&map, 1, &value));
    assert_false(map_del(&map, 1));
    map_deinit(&map);
    assert_int_equal(map_put(&map, 1, 1), ST_FULL);
    assert_int_equal(map_init(&map, UINT32_MAX), ST_TOO_LARGE);
}

/* Against an array indexed by key, with few keys so that deletion often shifts a run. */
static void test_map_random_operations_agree_with_a_plain_array(void **state)
{
    (void)state;
    enum { N_KEYS = 64 };
    struct map map;
    struct rng rng = {.seed = 7};
    bool present[N_KEYS] = {false};
    uint32_t values[N_KEYS] = {0};
    uint32_t count = 0;
    assert_int_equal(map_init(&map, N_KEYS), ST_OK);
    for (uint32_t step = 0; step < 200000; step++) {
        uint32_t key = rng_below(&rng, N_KEYS);
        if (rng_below(&rng, 2) == 0) {
            assert_int_equal(map_put(&map, key, step), ST_OK);
            count += !present[key];
            present[key] = true;
            values[key] = step;
        } else {
            assert_int_equal(map_del(&map, key), present[key]);
            count -= present[key];
            present[key] = false;
        }
        uint32_t probe = rng_below(&rng, N_KEYS), value = 0;
        assert_int_equal(map_get(&map, probe, &value), present[probe]);
        if (present[probe])
            assert_int_equal(value, values[probe]);
        assert_int_equal(map.count, count);
    }
    map_deinit(&map);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_map_any_key_can_be_put_and_got),
        cmocka_unit_test(test_map_put_when_full_refuses_new_and_replaces_old),
        cmocka_unit_test(test_map_of_no_capacity_holds_nothing),
        cmocka_unit_test(test_map_random_operations_agree_with_a_plain_array),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
