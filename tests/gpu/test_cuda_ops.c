/* Every CUDA op against the CPU op on the same values: fresh random inputs, poisoned outputs, odd
 * sizes. bf16 results may differ by a rounding of the result and of its inputs; f32 ones by the
 * order of the sums. */
#include "tests/gpu/gpu_kit.h"

static const uint32_t row_counts[] = {1, 2, 3, 7, 8, 15, 16, 17, 33, 63, 64, 65, 130, 300};
#define N_ROW_COUNTS (sizeof(row_counts) / sizeof(row_counts[0]))

static void check_gemm(uint32_t rows, uint32_t n, uint32_t k, enum ops_dtype dtype,
                       enum ops_dtype y_dtype, bool has_bias)
{
    float *w = values_of((size_t)n * k, dtype), *x = values_of((size_t)rows * k, dtype);
    float *bias = values_of(n, OPS_F32), *want = ops_floats((size_t)rows * n);
    void *packed = ops_poisoned(ops_gemm_packed_bytes(dtype, n, k));
    struct gemm_pack_args pack = {.src = w,
                                  .src_dtype = OPS_F32,
                                  .src_stride = k,
                                  .n_rows = n,
                                  .n = n,
                                  .k = k,
                                  .dst = packed,
                                  .dst_dtype = dtype};
    assert_int_equal(cpu->ops->gemm_pack(cpu, &pack), ST_OK);
    struct gemm_args args = {.x = x,
                             .x_stride = k,
                             .w = packed,
                             .w_dtype = dtype,
                             .bias = has_bias ? bias : NULL,
                             .y = want,
                             .y_stride = n,
                             .n_rows = rows,
                             .n = n,
                             .k = k};
    assert_int_equal(cpu->ops->gemm(cpu, &args), ST_OK);
    void *gw = gpu_poisoned(ops_gemm_packed_bytes(dtype, n, k)), *gx, *gb, *gy;
    pack.dst = gw;
    assert_int_equal(gpu->ops->gemm_pack(gpu, &pack), ST_OK);
    gx = gpu_values(x, (size_t)rows * k, dtype);
    gb = gpu_copy(bias, n * sizeof(float));
    gy = gpu_poisoned((size_t)rows * n * 4);
    args.x = gx;
    args.x_dtype = dtype;
    args.w = gw;
    args.bias = has_bias ? gb : NULL;
    args.y = gy;
    args.y_dtype = y_dtype;
    assert_int_equal(gpu->ops->gemm(gpu, &args), ST_OK);
    float *got = gpu_floats(gy, (size_t)rows * n, y_dtype);
    assert_close(got, want, (size_t)rows * n, dtype, "gemm", rows);
    void *all[] = {gw, gx, gb, gy};
    for (size_t i = 0; i < 4; i++)
        gpu->ops->free(gpu, all[i]);
    free(w), free(x), free(bias), free(want), free(packed), free(got);
}

static void test_gemm_equals_cpu(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_ROW_COUNTS; i++) {
        check_gemm(row_counts[i], 384, 256, OPS_BF16, OPS_BF16, i % 2);
        check_gemm(row_counts[i], 1000, 896, OPS_BF16, OPS_F32, i % 3 == 0);
        check_gemm(row_counts[i], 130, 72, OPS_BF16, OPS_BF16, true);
        check_gemm(row_counts[i], 130, 72, OPS_F32, OPS_F32, i % 2);
    }
}

static void test_random_fill_has_the_bits_of_the_cpu(void **state)
{
    (void)state;
    static const enum ops_dtype dtypes[] = {OPS_F32, OPS_BF16, OPS_F16};
    for (uint32_t i = 0; i < 3; i++) {
        uint32_t bytes = 1001 * ops_dtype_bytes(dtypes[i]);
        struct random_fill_args args = {.dst = ops_poisoned(bytes),
                                        .dtype = dtypes[i],
                                        .n = 1001,
                                        .first = 12345,
                                        .seed = 99,
                                        .scale = 0.125f};
        assert_int_equal(cpu->ops->random_fill(cpu, &args), ST_OK);
        void *want = args.dst, *got = malloc(bytes);
        args.dst = gpu_poisoned(bytes);
        assert_int_equal(gpu->ops->random_fill(gpu, &args), ST_OK);
        gpu_read(got, args.dst, bytes);
        assert_memory_equal(got, want, bytes);
        gpu->ops->free(gpu, args.dst);
        free(want), free(got);
    }
}

static void check_norm(uint32_t rows, uint32_t cols, enum ops_dtype dtype, bool has_residual)
{
    size_t n = (size_t)rows * cols;
    float *x = values_of(n, has_residual ? dtype : OPS_F32), *w = values_of(cols, OPS_F32);
    float *residual = values_of(n, OPS_F32), *want = ops_floats(n);
    void *gx = gpu_values(x, n, has_residual ? dtype : OPS_F32), *gw = gpu_copy(w, cols * 4);
    void *gr = gpu_copy(residual, n * 4), *gy = gpu_poisoned(n * 4);
    struct rmsnorm_args args = {.x = x,
                                .x_stride = cols,
                                .residual = has_residual ? residual : NULL,
                                .residual_stride = cols,
                                .w = w,
                                .y = want,
                                .y_stride = cols,
                                .n_rows = rows,
                                .n_heads = 1,
                                .n_cols = cols,
                                .eps = 1e-5f};
    assert_int_equal(cpu->ops->rmsnorm(cpu, &args), ST_OK);
    args.x = gx;
    args.x_dtype = has_residual ? dtype : OPS_F32;
    args.residual = has_residual ? gr : NULL;
    args.w = gw;
    args.y = gy;
    args.y_dtype = dtype;
    assert_int_equal(gpu->ops->rmsnorm(gpu, &args), ST_OK);
    float *got = gpu_floats(gy, n, dtype), *got_residual = gpu_floats(gr, n, OPS_F32);
    assert_close(got, want, n, dtype, "rmsnorm", cols);
    assert_memory_equal(got_residual, residual, n * 4);
    void *all[] = {gx, gw, gr, gy};
    for (size_t i = 0; i < 4; i++)
        gpu->ops->free(gpu, all[i]);
    free(x), free(w), free(residual), free(want), free(got), free(got_residual);
}

static void test_rmsnorm_equals_cpu(void **state)
{
    (void)state;
    static const uint32_t cols[] = {1, 64, 100, 896, 4096, 5120, 8192, 16384};
    for (size_t i = 0; i < sizeof(cols) / sizeof(cols[0]); i++)
        for (uint32_t residual = 0; residual < 2; residual++) {
            check_norm(1, cols[i], OPS_BF16, residual);
            check_norm(65, cols[i], OPS_BF16, residual);
            check_norm(7, cols[i], OPS_F32, residual);
        }
}

static void check_elementwise(uint32_t rows, uint32_t cols, enum ops_dtype dtype)
{
    size_t n = (size_t)rows * cols;
    float *x = values_of(2 * n, dtype), *want = ops_floats(n);
    void *gx = gpu_values(x, 2 * n, dtype), *gy = gpu_poisoned(n * 4);
    struct silu_mul_args args = {x, 2 * cols, want, cols, OPS_F32, rows, cols};
    assert_int_equal(cpu->ops->silu_mul(cpu, &args), ST_OK);
    args = (struct silu_mul_args){gx, 2 * cols, gy, cols, dtype, rows, cols};
    assert_int_equal(gpu->ops->silu_mul(gpu, &args), ST_OK);
    float *got = gpu_floats(gy, n, dtype);
    assert_close(got, want, n, dtype, "silu_mul", cols);
    free(got);
    /* A gather of rows, one of them out of range. */
    uint32_t *ids = malloc(rows * 4);
    for (uint32_t i = 0; i < rows; i++)
        ids[i] = (i * 7 + 1) % (rows + 1);
    void *gids = gpu_copy(ids, rows * 4);
    struct embedding_args gather = {.ids = ids,
                                    .table = x,
                                    .n_vocab = rows,
                                    .n_cols = cols,
                                    .y = want,
                                    .y_stride = cols,
                                    .n_rows = rows};
    assert_int_equal(cpu->ops->embedding(cpu, &gather), ST_OK);
    gather.ids = gids;
    gather.table = gx;
    gather.dtype = gather.y_dtype = dtype;
    gather.y = gy;
    assert_int_equal(gpu->ops->embedding(gpu, &gather), ST_OK);
    got = gpu_floats(gy, n, dtype);
    assert_memory_equal(got, want, n * 4);
    void *all[] = {gx, gy, gids};
    for (size_t i = 0; i < 3; i++)
        gpu->ops->free(gpu, all[i]);
    free(x), free(want), free(got), free(ids);
}

static void test_silu_mul_and_embedding_equal_cpu(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_ROW_COUNTS; i++) {
        check_elementwise(row_counts[i], 257, OPS_BF16);
        check_elementwise(row_counts[i], 256, OPS_BF16);
        check_elementwise(row_counts[i], 64, OPS_F32);
    }
}

static void test_attention_equals_cpu(void **state)
{
    (void)state;
    static const struct case_seq decode[] = {{0, 1},  {1, 1},  {62, 1},  {63, 1},
                                             {64, 1}, {65, 1}, {700, 1}, {1200, 1}};
    static const struct case_seq prefill[] = {{0, 1}, {0, 7}, {0, 63}, {0, 64}, {0, 65}, {0, 200}};
    static const struct case_seq mixed[] = {{300, 1}, {0, 130}, {64, 65},
                                            {127, 2}, {5, 1},   {500, 40}};
    static const struct shape shapes[] = {
        {4, 4, 64, 64, 0, OPS_BF16, false},   {8, 2, 128, 64, 0, OPS_BF16, true},
        {14, 2, 64, 16, 0, OPS_BF16, false},  {8, 1, 96, 32, 0, OPS_BF16, false},
        {16, 2, 256, 64, 0, OPS_BF16, true},  {32, 8, 128, 64, 100, OPS_BF16, false},
        {8, 2, 128, 128, 0, OPS_BF16, false}, {7, 1, 32, 16, 0, OPS_F32, true},
        {8, 2, 64, 64, 33, OPS_F32, false},
    };
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
        check_attention(&shapes[i], decode, 8, false);
        check_attention(&shapes[i], prefill, 6, false);
        check_attention(&shapes[i], mixed, 6, false);
    }
}

static void test_sample_draws_as_the_cpu(void **state)
{
    (void)state;
    enum { ROWS = 65, VOCAB = 5003 };
    float *logits = ops_random_floats((size_t)ROWS * VOCAB, ++seed);
    uint32_t banned[3] = {0, 1, 4000}, want[ROWS], got[ROWS];
    struct sample_row rows[ROWS];
    uint64_t rng = 77;
    for (uint32_t i = 0; i < ROWS; i++) {
        for (uint32_t v = 0; v < VOCAB; v++)
            logits[(size_t)i * VOCAB + v] *= (float)(i % 4 + 1) * 5.0f;
        rows[i] =
            (struct sample_row){.temperature = i % 5 == 0 ? 0.0f : 0.5f + 0.1f * (float)(i % 7),
                                .top_p = i % 3 == 0 ? 1.0f : 0.9f,
                                .min_p = i % 4 == 0 ? 0.02f : 0.0f,
                                .uniform = 0.5f * (ops_random(&rng) + 1.0f),
                                .top_k = i % 2 == 0 ? 0 : 1 + i,
                                .n_banned = i % 6 == 0 ? 3 : 0,
                                .banned = banned};
    }
    struct sample_args args = {.logits = logits,
                               .logits_stride = VOCAB,
                               .rows = rows,
                               .out_ids = want,
                               .n_rows = ROWS,
                               .n_vocab = VOCAB};
    assert_int_equal(cpu->ops->sample(cpu, &args), ST_OK);
    void *gbanned = gpu_copy(banned, sizeof(banned));
    for (uint32_t i = 0; i < ROWS; i++)
        rows[i].banned = gbanned;
    void *glogits = gpu_copy(logits, (size_t)ROWS * VOCAB * 4),
         *grows = gpu_copy(rows, sizeof(rows));
    void *gids = gpu_poisoned(sizeof(got));
    args.logits = glogits;
    args.rows = grows;
    args.out_ids = gids;
    for (uint32_t again = 0; again < 2; again++) { /* the workspace must be clean again */
        assert_int_equal(gpu->ops->sample(gpu, &args), ST_OK);
        gpu_read(got, gids, sizeof(got));
        assert_memory_equal(got, want, sizeof(got));
    }
    void *all[] = {gbanned, glogits, grows, gids};
    for (size_t i = 0; i < 4; i++)
        gpu->ops->free(gpu, all[i]);
    free(logits);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_fill_has_the_bits_of_the_cpu),
        cmocka_unit_test(test_rmsnorm_equals_cpu),
        cmocka_unit_test(test_silu_mul_and_embedding_equal_cpu),
        cmocka_unit_test(test_gemm_equals_cpu),
        cmocka_unit_test(test_attention_equals_cpu),
        cmocka_unit_test(test_sample_draws_as_the_cpu),
    };
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
