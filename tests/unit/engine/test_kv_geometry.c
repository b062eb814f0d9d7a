/* Geometry of a block: derived sizes, and a hash that tells two layouts apart. */
#include "engine/kv_geometry.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static const struct kv_geometry base = {.block_tokens = 64,
                                        .layer_count = 32,
                                        .kv_heads = 8,
                                        .head_dim = 128,
                                        .elem_bytes = 2,
                                        .dtype = "bf16"};

static void test_kv_geometry_finish_derives_the_spans(void **state)
{
    struct kv_geometry g = base;
    (void)state;
    assert_int_equal(kv_geometry_finish(&g, 1), ST_OK);
    assert_int_equal(g.layer_bytes, 8ull * 2 * 64 * 128 * 2);
    assert_int_equal(g.block_bytes, 32 * g.layer_bytes);
}

static void test_kv_geometry_hash_differs_in_every_field(void **state)
{
    struct kv_geometry g[8];
    (void)state;
    for (unsigned i = 0; i < 8; i++) {
        g[i] = base;
        g[i].block_tokens *= i == 1 ? 2 : 1;
        g[i].layer_count *= i == 2 ? 2 : 1;
        g[i].kv_heads *= i == 3 ? 2 : 1;
        g[i].head_dim *= i == 4 ? 2 : 1;
        g[i].elem_bytes *= i == 5 ? 2 : 1;
        g[i].dtype = i == 7 ? "f16" : g[i].dtype;
        assert_int_equal(kv_geometry_finish(&g[i], i == 6 ? 2 : 1), ST_OK);
        for (unsigned k = 0; k < i; k++)
            assert_true(g[i].layout_hash != g[k].layout_hash);
    }
    struct kv_geometry again = base;
    assert_int_equal(kv_geometry_finish(&again, 1), ST_OK);
    assert_true(again.layout_hash == g[0].layout_hash);
}

static void test_kv_geometry_zero_or_huge_fields_are_refused(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 5; i++) {
        struct kv_geometry g = base, huge = base;
        uint32_t *fields[] = {&g.block_tokens, &g.layer_count, &g.kv_heads, &g.head_dim,
                              &g.elem_bytes};
        uint32_t *huge_fields[] = {&huge.block_tokens, &huge.layer_count, &huge.kv_heads,
                                   &huge.head_dim, &huge.elem_bytes};
        *fields[i] = 0;
        assert_int_equal(kv_geometry_finish(&g, 1), ST_INVALID);
        *huge_fields[i] = UINT32_MAX;
        assert_int_equal(kv_geometry_finish(&huge, 1), ST_TOO_LARGE);
    }
    struct kv_geometry all = {UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX,
                              "f32",      0,          0,          0};
    assert_int_equal(kv_geometry_finish(&all, 1), ST_TOO_LARGE);
    struct kv_geometry nameless = base;
    nameless.dtype = NULL;
    assert_int_equal(kv_geometry_finish(&nameless, 1), ST_INVALID);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kv_geometry_finish_derives_the_spans),
        cmocka_unit_test(test_kv_geometry_hash_differs_in_every_field),
        cmocka_unit_test(test_kv_geometry_zero_or_huge_fields_are_refused),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
