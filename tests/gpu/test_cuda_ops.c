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
        {4, 4, 64, 64, 0, OPS_BF16, false, false},    {8, 2, 128, 64, 0, OPS_BF16, true, false},
        {14, 2, 64, 16, 0, OPS_BF16, false, false},   {8, 1, 96, 32, 0, OPS_BF16, false, false},
        {16, 2, 256, 64, 0, OPS_BF16, true, false},   {32, 8, 128, 64, 100, OPS_BF16, false, false},
        {8, 2, 128, 128, 0, OPS_BF16, false, false},  {7, 1, 32, 16, 0, OPS_F32, true, false},
        {8, 2, 64, 64, 33, OPS_F32, false, false},    {4, 4, 64, 64, 0, OPS_BF16, false, true},
        {8, 2, 128, 64, 0, OPS_BF16, true, true},     {14, 2, 64, 16, 0, OPS_BF16, false, true},
        {8, 1, 96, 32, 0, OPS_BF16, false, true},     {16, 2, 256, 64, 0, OPS_BF16, true, true},
        {32, 8, 128, 64, 100, OPS_BF16, false, true}, {8, 2, 128, 128, 0, OPS_BF16, false, true},
        {7, 1, 32, 16, 0, OPS_F32, true, true},
    };
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
        check_attention(&shapes[i], decode, 8, false);
        check_attention(&shapes[i], prefill, 6, false);
        check_attention(&shapes[i], mixed, 6, false);
    }
}

enum { SAMPLED = 65, VOCAB = 5003, LISTED = 40 };

/* Rows and all that they point to, on the host and on the device. */
struct sampled {
    struct sample_row rows[SAMPLED];
    struct sample_token tokens[SAMPLED][LISTED];
    struct sample_logprobs logprobs[SAMPLED];
    uint32_t allowed[(VOCAB + 31) / 32], banned[3], newest;
};

/* Every kind of field in some rows, alone and with others. */
static void sampled_fill(struct sampled *s)
{
    uint64_t rng = 77;
    memset(s, 0, sizeof(*s));
    s->banned[1] = 1;
    s->banned[2] = 4000;
    s->newest = 17;
    for (uint32_t i = 0; i < VOCAB; i++)
        if (i % 3 != 0)
            s->allowed[i / 32] |= 1u << (i % 32);
    for (uint32_t i = 0; i < SAMPLED; i++) {
        s->rows[i] =
            (struct sample_row){.temperature = i % 5 == 0 ? 0.0f : 0.5f + 0.1f * (float)(i % 7),
                                .top_p = i % 3 == 0 ? 1.0f : 0.9f,
                                .min_p = i % 4 == 0 ? 0.02f : 0.0f,
                                .uniform = 0.5f * (ops_random(&rng) + 1.0f),
                                .top_k = i % 2 == 0 ? 0 : 1 + 2 * i,
                                .n_banned = i % 6 == 0 ? 3 : 0,
                                .repetition = i % 8 < 4 ? 0.0f : 1.3f,
                                .frequency = 0.2f,
                                .presence = i % 16 < 8 ? 0.0f : 0.4f,
                                .n_tokens = i % 8 < 2 ? 0 : LISTED,
                                .n_top = i % 21};
        for (uint32_t k = 0; k < LISTED; k++)
            s->tokens[i][k] = (struct sample_token){.id = (k * 131 + i) % VOCAB,
                                                    .seen = k % 4 | (k % 3 ? OPS_IN_PROMPT : 0),
                                                    .bias = k % 5 ? 0.0f : 6.0f};
    }
}

/* The pointers of rows into `s`, which is or will be at `at`. */
static void sampled_point(struct sampled *s, const struct sampled *at)
{
    for (uint32_t i = 0; i < SAMPLED; i++) {
        s->rows[i].banned = at->banned;
        s->rows[i].allowed = i % 7 == 0 ? at->allowed : NULL;
        s->rows[i].tokens = (struct sample_token *)at->tokens[i];
        s->rows[i].newest = i % 9 == 0 ? &at->newest : NULL;
        s->rows[i].logprobs = i % 3 == 0 ? (struct sample_logprobs *)&at->logprobs[i] : NULL;
    }
}

static void assert_logprobs(const struct sampled *got, const struct sampled *want)
{
    for (uint32_t i = 0; i < SAMPLED; i += 3) {
        const struct sample_logprobs *g = &got->logprobs[i], *w = &want->logprobs[i];
        ops_assert_near(g->chosen, w->chosen, 1e-5 * fmax(1.0, fabs(w->chosen)), "chosen", i);
        for (uint32_t k = 0; k < want->rows[i].n_top; k++) {
            assert_int_equal(g->ids[k], w->ids[k]);
            ops_assert_near(g->values[k], w->values[k], 1e-5 * fmax(1.0, fabs(w->values[k])), "top",
                            k);
        }
    }
}

static void test_sample_draws_as_the_cpu(void **state)
{
    (void)state;
    const size_t bytes = (size_t)SAMPLED * VOCAB * 4;
    float *logits = ops_random_floats((size_t)SAMPLED * VOCAB, ++seed), *after = malloc(bytes);
    struct sampled *s = malloc(sizeof(*s)), *got = malloc(sizeof(*got));
    uint32_t want_ids[SAMPLED], ids[SAMPLED];
    assert_true(after != NULL && s != NULL && got != NULL);
    for (size_t i = 0; i < (size_t)SAMPLED * VOCAB; i++)
        logits[i] *= (float)(i / VOCAB % 4 + 1) * 5.0f;
    sampled_fill(s);
    struct sampled *gs = gpu_poisoned(sizeof(*s));
    sampled_point(s, gs);
    assert_int_equal(gpu->ops->copy_in(gpu, gs, s, sizeof(*s)), ST_OK);
    assert_int_equal(gpu->ops->sync(gpu), ST_OK);
    void *glogits = gpu_copy(logits, bytes), *gids = gpu_poisoned(sizeof(ids));
    struct sample_args args = {.logits = glogits,
                               .logits_stride = VOCAB,
                               .rows = gs->rows,
                               .out_ids = gids,
                               .n_rows = SAMPLED,
                               .n_vocab = VOCAB};
    struct sample_args cpu_args = args;
    cpu_args.logits = logits;
    cpu_args.rows = s->rows;
    cpu_args.out_ids = want_ids;
    sampled_point(s, s);
    assert_int_equal(cpu->ops->sample(cpu, &cpu_args), ST_OK);
    for (uint32_t again = 0; again < 2; again++) { /* all must be as it was */
        assert_int_equal(gpu->ops->sample(gpu, &args), ST_OK);
        gpu_read(ids, gids, sizeof(ids));
        gpu_read(got, gs, sizeof(*got));
        gpu_read(after, glogits, bytes);
        assert_memory_equal(ids, want_ids, sizeof(ids));
        assert_logprobs(got, s);
        assert_memory_equal(after, logits, bytes);
    }
    void *all[] = {gs, glogits, gids};
    for (size_t i = 0; i < 3; i++)
        gpu->ops->free(gpu, all[i]);
    free(logits), free(after), free(s), free(got);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_fill_has_the_bits_of_the_cpu),
        cmocka_unit_test(test_rmsnorm_equals_cpu),
        cmocka_unit_test(test_silu_mul_and_embedding_equal_cpu),
        cmocka_unit_test(test_gemm_equals_cpu),
        cmocka_unit_test(test_attention_equals_cpu),
        cmocka_unit_test(test_sample_draws_as_the_cpu),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
