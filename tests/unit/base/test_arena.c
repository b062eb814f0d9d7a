#include "base/arena.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

static void test_arena_alloc_is_aligned_and_counted(void **state)
{
    (void)state;
    struct arena arena;
    arena_init(&arena, 1 << 20);
    for (size_t bytes = 0; bytes < 100; bytes++) {
        void *p = arena_alloc(&arena, bytes);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 16, 0);
        memset(p, 0xab, bytes);
    }
    assert_true(arena.bytes_used >= 99 * 100 / 2);
    arena_deinit(&arena);
    assert_int_equal(arena.bytes_used, 0);
}

static void test_arena_alloc_over_bound_is_null_and_arena_stays_usable(void **state)
{
    (void)state;
    struct arena arena;
    arena_init(&arena, 100);
    assert_null(arena_alloc(&arena, 101));
    assert_null(arena_alloc(&arena, SIZE_MAX));
    assert_null(arena_calloc(&arena, SIZE_MAX / 2, 3));
    assert_null(arena_dup(&arena, "", SIZE_MAX));
    assert_non_null(arena_alloc(&arena, 96));
    assert_null(arena_alloc(&arena, 1));
    arena_deinit(&arena);
}

static void test_arena_reset_keeps_a_chunk_that_serves_the_same_load(void **state)
{
    (void)state;
    struct arena arena;
    arena_init(&arena, 1 << 20);
    struct arena_chunk *kept = NULL;
    for (int cycle = 0; cycle < 6; cycle++) {
        for (int i = 0; i < 100; i++)
            assert_non_null(arena_alloc(&arena, 1000));
        if (cycle == 4)
            kept = arena.head;
        arena_reset(&arena);
        assert_int_equal(arena.bytes_used, 0);
    }
    assert_ptr_equal(arena.head, kept);
    arena_deinit(&arena);
}

static void test_arena_calloc_after_reset_is_zeroed(void **state)
{
    (void)state;
    struct arena arena;
    arena_init(&arena, 4096);
    memset(arena_alloc(&arena, 4000), 0xff, 4000);
    arena_reset(&arena);
    const uint8_t *p = arena_calloc(&arena, 10, 100);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(p[i], 0);
    arena_deinit(&arena);
}

static void test_arena_text_helpers_end_with_nul(void **state)
{
    (void)state;
    struct arena arena;
    arena_init(&arena, 1 << 16);
    assert_string_equal(arena_dup(&arena, "abcdef", 3), "abc");
    assert_string_equal(arena_dup(&arena, NULL, 0), "");
    assert_string_equal(arena_printf(&arena, "%s-%d", "worker", 7), "worker-7");
    arena_deinit(&arena);
    arena_deinit(&(struct arena){0});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_arena_alloc_is_aligned_and_counted),
        cmocka_unit_test(test_arena_alloc_over_bound_is_null_and_arena_stays_usable),
        cmocka_unit_test(test_arena_reset_keeps_a_chunk_that_serves_the_same_load),
        cmocka_unit_test(test_arena_calloc_after_reset_is_zeroed),
        cmocka_unit_test(test_arena_text_helpers_end_with_nul),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
