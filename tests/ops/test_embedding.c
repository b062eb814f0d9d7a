/* embedding (plain and packed tables) and random_fill: exact. */
#include "support/fp8_value.h"
#include "support/ops_check.h"

#define N_VOCAB 71u

static const uint32_t ids[] = {0, 70, 31, 32, 33, 5, 5, N_VOCAB, UINT32_MAX, 64};
#define N_IDS (sizeof(ids) / sizeof(ids[0]))

static void check_rows(const float *y, const float *table, uint32_t n_cols, enum ops_dtype dtype)
{
    for (size_t r = 0; r < N_IDS; r++) {
        for (uint32_t c = 0; c < n_cols; c++) {
            float want =
                ids[r] < N_VOCAB ? ops_round(table[(size_t)ids[r] * n_cols + c], dtype) : 0.0f;
            assert_float_equal(y[r * (n_cols + 1) + c], want, 0.0);
        }
        ops_assert_poison(y + r * (n_cols + 1) + n_cols, 1, "y");
    }
}

static void test_embedding_plain_table_gives_its_rows(void **state)
{
    (void)state;
    struct device *dev = ops_open(CPU_ISA_AUTO, 2);
    float *table = ops_random_floats(N_VOCAB * 65, 1);
    uint16_t *half = ops_poisoned(N_VOCAB * 65 * 2);
    float *y = ops_floats(N_IDS * 66);
    for (uint32_t i = 0; i < N_VOCAB * 65; i++)
        half[i] = ops_bf16(table[i]);
    struct embedding_args args = {.ids = ids,
                                  .table = table,
                                  .dtype = OPS_F32,
                                  .n_vocab = N_VOCAB,
                                  .n_cols = 65,
                                  .y = y,
                                  .y_stride = 66,
                                  .n_rows = N_IDS};
    assert_int_equal(dev->ops->embedding(dev, &args), ST_OK);
    check_rows(y, table, 65, OPS_F32);
    args.table = half;
    args.dtype = OPS_BF16;
    assert_int_equal(dev->ops->embedding(dev, &args), ST_OK);
    check_rows(y, table, 65, OPS_BF16);
    free(table);
    free(half);
    free(y);
    device_close(dev);
}

static void test_embedding_packed_table_gives_the_same_rows(void **state)
{
    (void)state;
    struct device *dev = ops_open(CPU_ISA_AUTO, 2);
    for (int dtype = OPS_F32; dtype <= OPS_BF16; dtype++) {
        for (uint32_t n_cols = 63; n_cols <= 64; n_cols++) {
            float *table = ops_random_floats((size_t)N_VOCAB * n_cols, 1);
            float *y = ops_floats(N_IDS * (n_cols + 1));
            void *packed =
                ops_poisoned(ops_gemm_packed_bytes((enum ops_dtype)dtype, N_VOCAB, n_cols));
            struct gemm_pack_args pack = {.src = table,
                                          .src_stride = n_cols,
                                          .n_rows = N_VOCAB,
                                          .n = N_VOCAB,
                                          .k = n_cols,
                                          .dst = packed,
                                          .dst_dtype = (enum ops_dtype)dtype};
            assert_int_equal(dev->ops->gemm_pack(dev, &pack), ST_OK);
            struct embedding_args args = {.ids = ids,
                                          .table = packed,
                                          .dtype = (enum ops_dtype)dtype,
                                          .is_packed = 1,
                                          .n_vocab = N_VOCAB,
                                          .n_cols = n_cols,
                                          .y = y,
                                          .y_stride = n_cols + 1,
                                          .n_rows = N_IDS};
            assert_int_equal(dev->ops->embedding(dev, &args), ST_OK);
            check_rows(y, table, n_cols, (enum ops_dtype)dtype);
            free(table);
            free(packed);
            free(y);
        }
    }
    device_close(dev);
}

static void test_embedding_bad_arguments_are_refused(void **state)
{
    (void)state;
    struct device *dev = ops_open(CPU_ISA_AUTO, 1);
    float table[4] = {0}, y[4];
    struct embedding_args good = {ids, table, OPS_F32, 0, 1, 4, y, OPS_F32, 4, 1}, args = good;
    args.y_stride = 3;
    assert_int_equal(dev->ops->embedding(dev, &args), ST_INVALID);
    args = good;
    args.dtype = OPS_F16;
    args.is_packed = 1;
    assert_int_equal(dev->ops->embedding(dev, &args), ST_INVALID);
    args = good;
    args.dtype = (enum ops_dtype)9;
    assert_int_equal(dev->ops->embedding(dev, &args), ST_INVALID);
    args.dtype = OPS_F8;
    assert_int_equal(dev->ops->embedding(dev, &args), ST_INVALID);
    device_close(dev);
}

static void test_random_fill_any_split_gives_the_same_tensor(void **state)
{
    (void)state;
    enum { N = 40001 };
    struct device *dev = ops_open(CPU_ISA_AUTO, 3);
    float *whole = ops_floats(N), *parts = ops_floats(N);
    struct random_fill_args args = {whole, OPS_F32, N, 0, 42, 0.5f};
    assert_int_equal(dev->ops->random_fill(dev, &args), ST_OK);
    for (uint32_t at = 0; at < N; at += 777) {
        uint32_t n = N - at < 777 ? N - at : 777;
        struct random_fill_args part = {parts + at, OPS_F32, n, at, 42, 0.5f};
        assert_int_equal(dev->ops->random_fill(dev, &part), ST_OK);
    }
    assert_memory_equal(whole, parts, N * sizeof(float));
    double sum = 0.0, squares = 0.0;
    for (uint32_t i = 0; i < N; i++) {
        assert_true(whole[i] >= -0.5f && whole[i] < 0.5f);
        sum += whole[i];
        squares += (double)whole[i] * whole[i];
    }
    ops_assert_near(sum / N, 0.0, 0.01, "mean", 0);
    ops_assert_near(squares / N, 0.25 / 3.0, 0.005, "variance", 0);
    free(whole);
    free(parts);
    device_close(dev);
}

static void test_random_fill_half_types_round_the_same_values(void **state)
{
    (void)state;
    struct device *dev = ops_open(CPU_ISA_AUTO, 1);
    float f32[64];
    uint16_t bf16[64], f16[64];
    struct random_fill_args args = {f32, OPS_F32, 64, 0, 7, 1.0f};
    assert_int_equal(dev->ops->random_fill(dev, &args), ST_OK);
    args.dst = bf16;
    args.dtype = OPS_BF16;
    assert_int_equal(dev->ops->random_fill(dev, &args), ST_OK);
    args.dst = f16;
    args.dtype = OPS_F16;
    assert_int_equal(dev->ops->random_fill(dev, &args), ST_OK);
    for (uint32_t i = 0; i < 64; i++) {
        assert_int_equal(bf16[i], ops_bf16(f32[i]));
        float back[32];
        uint32_t id = 0;
        struct embedding_args read = {&id, &f16[i], OPS_F16, 0, 1, 1, back, OPS_F32, 1, 1};
        assert_int_equal(dev->ops->embedding(dev, &read), ST_OK);
        ops_assert_near(back[0], f32[i], fabs((double)f32[i]) * 0x1p-11 + 0x1p-25, "f16", i);
    }
    device_close(dev);
}

/* Values beyond the greatest, normal ones and those below 2^-6. */
static void test_random_fill_f8_takes_the_nearest_value(void **state)
{
    (void)state;
    enum { N = 20000 };
    static const float scales[] = {500.0f, 448.0f, 1.0f, 0.02f, 0.002f};
    struct device *dev = ops_open(CPU_ISA_AUTO, 2);
    float *f32 = ops_floats(N);
    uint8_t *f8 = ops_poisoned(N);
    for (size_t s = 0; s < sizeof(scales) / sizeof(scales[0]); s++) {
        struct random_fill_args args = {f32, OPS_F32, N, 5, 7, scales[s]};
        assert_int_equal(dev->ops->random_fill(dev, &args), ST_OK);
        args.dst = f8;
        args.dtype = OPS_F8;
        assert_int_equal(dev->ops->random_fill(dev, &args), ST_OK);
        for (uint32_t i = 0; i < N; i++)
            if (f8[i] != fp8_nearest(f32[i]))
                fail_msg("%.9g: %02x, expected %02x", (double)f32[i], f8[i], fp8_nearest(f32[i]));
    }
    free(f32);
    free(f8);
    device_close(dev);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_embedding_plain_table_gives_its_rows),
        cmocka_unit_test(test_embedding_packed_table_gives_the_same_rows),
        cmocka_unit_test(test_embedding_bad_arguments_are_refused),
        cmocka_unit_test(test_random_fill_any_split_gives_the_same_tensor),
        cmocka_unit_test(test_random_fill_half_types_round_the_same_values),
        cmocka_unit_test(test_random_fill_f8_takes_the_nearest_value),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
