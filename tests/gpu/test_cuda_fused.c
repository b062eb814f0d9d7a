/* The ops that only a device with fused ops has, against the CPU's separate ones on the same
 * values: gemm with a norm ahead and with its epilogues, step_begin, attention of a fresh row; and
 * the two that carry inputs and tokens of a step. */
#include "tests/gpu/gpu_kit.h"

#define EPS 1e-5f

/* A matrix on both devices. */
struct matrix {
    void *cpu, *gpu;
    uint32_t n, k;
};

static struct matrix matrix_make(uint32_t n, uint32_t k)
{
    struct matrix m = {.n = n, .k = k};
    float *w = values_of((size_t)n * k, OPS_BF16);
    m.cpu = ops_poisoned(ops_gemm_packed_bytes(OPS_BF16, n, k));
    m.gpu = gpu_poisoned(ops_gemm_packed_bytes(OPS_BF16, n, k));
    struct gemm_pack_args pack = {.src = w,
                                  .src_stride = k,
                                  .n_rows = n,
                                  .n = n,
                                  .k = k,
                                  .dst = m.cpu,
                                  .dst_dtype = OPS_BF16};
    assert_int_equal(cpu->ops->gemm_pack(cpu, &pack), ST_OK);
    pack.dst = m.gpu;
    assert_int_equal(gpu->ops->gemm_pack(gpu, &pack), ST_OK);
    free(w);
    return m;
}

static void matrix_free(struct matrix *m)
{
    free(m->cpu);
    gpu->ops->free(gpu, m->gpu);
}

static void cpu_gemm_of(const float *x, const struct matrix *w, const float *bias, float *y,
                        uint32_t rows)
{
    struct gemm_args args = {.x = x,
                             .x_stride = w->k,
                             .w = w->cpu,
                             .w_dtype = OPS_BF16,
                             .bias = bias,
                             .y = y,
                             .y_stride = w->n,
                             .n_rows = rows,
                             .n = w->n,
                             .k = w->k};
    assert_int_equal(cpu->ops->gemm(cpu, &args), ST_OK);
}

static void gpu_gemm_of(const void *x, const struct matrix *w, const void *bias, void *y,
                        enum ops_dtype y_dtype, uint32_t rows, uint32_t n,
                        const struct gemm_fusion *fusion)
{
    struct gemm_args args = {.x = x,
                             .x_dtype = OPS_BF16,
                             .x_stride = w->k,
                             .w = w->gpu,
                             .w_dtype = OPS_BF16,
                             .fusion = fusion,
                             .bias = bias,
                             .y = y,
                             .y_dtype = y_dtype,
                             .y_stride = n,
                             .n_rows = rows,
                             .n = n,
                             .k = w->k};
    assert_int_equal(gpu->ops->gemm(gpu, &args), ST_OK);
}

static void cpu_norm_of(const float *x, const float *w, float *y, uint32_t rows, uint32_t cols)
{
    struct rmsnorm_args args = {.x = x,
                                .x_stride = cols,
                                .w = w,
                                .y = y,
                                .y_stride = cols,
                                .n_rows = rows,
                                .n_heads = 1,
                                .n_cols = cols,
                                .eps = EPS};
    assert_int_equal(cpu->ops->rmsnorm(cpu, &args), ST_OK);
}

/* What a layer does: embedding, norm -> a, a branch that adds b to the stream, norm -> gated c. */
struct chain {
    uint32_t rows, hidden, inner;
    struct matrix table, a, b, c;
    float *norms[2], *bias_b, *bias_c;
    void *gnorms[2], *gbias_b, *gbias_c;
    uint32_t ids[16], pos[16];
};

/* Outputs: x and a after the first norm; the stream after b; c. */
struct chain_out {
    float *x, *a, *stream, *c;
};

static struct chain_out out_make(const struct chain *k)
{
    return (struct chain_out){
        ops_floats((size_t)k->rows * k->hidden), ops_floats((size_t)k->rows * k->a.n),
        ops_floats((size_t)k->rows * k->hidden), ops_floats((size_t)k->rows * k->inner)};
}

static void out_free(struct chain_out *o)
{
    free(o->x), free(o->a), free(o->stream), free(o->c);
}

static void chain_cpu(const struct chain *k, const float *branch, struct chain_out *o)
{
    size_t n = (size_t)k->rows * k->hidden;
    float *h = ops_floats(n), *add = ops_floats(n), *wide = ops_floats((size_t)k->rows * k->c.n);
    struct embedding_args embed = {.ids = k->ids,
                                   .table = k->table.cpu,
                                   .dtype = OPS_BF16,
                                   .is_packed = 1,
                                   .n_vocab = k->table.n,
                                   .n_cols = k->hidden,
                                   .y = o->x,
                                   .y_stride = k->hidden,
                                   .n_rows = k->rows};
    assert_int_equal(cpu->ops->embedding(cpu, &embed), ST_OK);
    cpu_norm_of(o->x, k->norms[0], h, k->rows, k->hidden);
    cpu_gemm_of(h, &k->a, NULL, o->a, k->rows);
    cpu_gemm_of(branch, &k->b, k->bias_b, add, k->rows);
    for (size_t i = 0; i < n; i++)
        o->stream[i] = o->x[i] + add[i];
    cpu_norm_of(o->stream, k->norms[1], h, k->rows, k->hidden);
    cpu_gemm_of(h, &k->c, k->bias_c, wide, k->rows);
    struct silu_mul_args silu = {.x = wide,
                                 .x_stride = k->c.n,
                                 .y = o->c,
                                 .y_stride = k->inner,
                                 .n_rows = k->rows,
                                 .n_cols = k->inner};
    assert_int_equal(cpu->ops->silu_mul(cpu, &silu), ST_OK);
    free(h), free(add), free(wide);
}

static void chain_gpu(const struct chain *k, const float *branch, struct chain_out *o)
{
    const size_t n = (size_t)k->rows * k->hidden;
    void *x = gpu_poisoned(n * 4), *h = gpu_poisoned(n * 2);
    void *sums = gpu_poisoned((size_t)k->rows * k->hidden / 16 * 4), *turns = gpu_poisoned(4096);
    void *a = gpu_poisoned((size_t)k->rows * k->a.n * 2);
    void *c = gpu_poisoned((size_t)k->rows * k->inner * 2);
    void *gb = gpu_values(branch, (size_t)k->rows * k->b.k, OPS_BF16);
    void *ids = gpu_copy(k->ids, sizeof(k->ids)), *pos = gpu_copy(k->pos, sizeof(k->pos));
    struct step_begin_args begin = {.ids = ids,
                                    .pos = pos,
                                    .table = k->table.gpu,
                                    .dtype = OPS_BF16,
                                    .n_vocab = k->table.n,
                                    .n_cols = k->hidden,
                                    .x = x,
                                    .norm_w = k->gnorms[0],
                                    .y = h,
                                    .y_sums = sums,
                                    .inv_freq = k->gnorms[0],
                                    .cos_sin = turns,
                                    .n_rot = 2,
                                    .attn_scale = 1.0f,
                                    .n_rows = k->rows};
    struct gemm_fusion store = {.x_sums = sums, .eps = EPS};
    struct gemm_fusion add = {
        .epilogue = GEMM_ADD_NORM, .residual = x, .next_norm = k->gnorms[1], .y_sums = sums};
    struct gemm_fusion silu = {.x_sums = sums, .eps = EPS, .epilogue = GEMM_SILU_MUL};
    assert_int_equal(gpu->ops->step_begin(gpu, &begin), ST_OK);
    free(o->x);
    o->x = gpu_floats(x, n, OPS_F32);
    gpu_gemm_of(h, &k->a, NULL, a, OPS_BF16, k->rows, k->a.n, &store);
    gpu_gemm_of(gb, &k->b, k->gbias_b, h, OPS_BF16, k->rows, k->hidden, &add);
    gpu_gemm_of(h, &k->c, k->gbias_c, c, OPS_BF16, k->rows, k->inner, &silu);
    free(o->a), free(o->stream), free(o->c);
    o->a = gpu_floats(a, (size_t)k->rows * k->a.n, OPS_BF16);
    o->stream = gpu_floats(x, n, OPS_F32);
    o->c = gpu_floats(c, (size_t)k->rows * k->inner, OPS_BF16);
    void *all[] = {x, h, sums, turns, a, c, gb, ids, pos};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        gpu->ops->free(gpu, all[i]);
}

static void check_chain(uint32_t rows, uint32_t hidden, uint32_t inner)
{
    struct chain k = {.rows = rows, .hidden = hidden, .inner = inner};
    k.table = matrix_make(77, hidden);
    k.a = matrix_make(200, hidden);
    k.b = matrix_make(hidden, inner);
    k.c = matrix_make(2 * inner, hidden);
    for (uint32_t i = 0; i < rows; i++) {
        k.ids[i] = i == 3 ? 1000 : (i * 31 + 5) % 77; /* one is no token */
        k.pos[i] = i * 7;
    }
    for (uint32_t i = 0; i < 2; i++) {
        k.norms[i] = values_of(hidden, OPS_F32);
        k.gnorms[i] = gpu_copy(k.norms[i], hidden * 4);
    }
    k.bias_b = values_of(hidden, OPS_F32);
    k.bias_c = values_of(2 * inner, OPS_F32);
    k.gbias_b = gpu_copy(k.bias_b, hidden * 4);
    k.gbias_c = gpu_copy(k.bias_c, inner * 8);
    float *branch = values_of((size_t)rows * inner, OPS_BF16);
    struct chain_out want = out_make(&k), got = out_make(&k);
    chain_cpu(&k, branch, &want);
    chain_gpu(&k, branch, &got);
    assert_close(got.x, want.x, (size_t)rows * hidden, OPS_F32, "step_begin", rows);
    assert_close(got.a, want.a, (size_t)rows * k.a.n, OPS_BF16, "norm, gemm", rows);
    assert_close(got.stream, want.stream, (size_t)rows * hidden, OPS_F32, "gemm, add", rows);
    assert_close(got.c, want.c, (size_t)rows * inner, OPS_BF16, "norm, gemm, silu", rows);
    out_free(&want), out_free(&got);
    for (uint32_t i = 0; i < 2; i++) {
        free(k.norms[i]);
        gpu->ops->free(gpu, k.gnorms[i]);
    }
    matrix_free(&k.table), matrix_free(&k.a), matrix_free(&k.b), matrix_free(&k.c);
    gpu->ops->free(gpu, k.gbias_b);
    gpu->ops->free(gpu, k.gbias_c);
    free(branch), free(k.bias_b), free(k.bias_c);
}

static void test_fused_gemms_equal_the_separate_ops(void **state)
{
    (void)state;
    const uint32_t most = gpu->ops->fused_rows_max(OPS_BF16);
    assert_true(most >= 1 && most <= 16);
    for (uint32_t rows = 1; rows <= most; rows++) {
        check_chain(rows, 256, 384);
        check_chain(rows, 1024, 3072);
        check_chain(rows, 80, 48); /* not the shapes of the fast kernels */
    }
    check_chain(most, 4096, 14336);
}

static void test_fused_gemm_refuses_more_rows(void **state)
{
    (void)state;
    struct matrix w = matrix_make(64, 64);
    void *x = gpu_poisoned(17 * 64 * 2), *sums = gpu_poisoned(17 * 4 * 4);
    struct gemm_fusion fusion = {.x_sums = sums, .eps = EPS};
    struct gemm_args args = {.x = x,
                             .x_dtype = OPS_BF16,
                             .x_stride = 64,
                             .w = w.gpu,
                             .w_dtype = OPS_BF16,
                             .fusion = &fusion,
                             .y = x,
                             .y_dtype = OPS_BF16,
                             .y_stride = 64,
                             .n_rows = gpu->ops->fused_rows_max(OPS_BF16) + 1,
                             .n = 64,
                             .k = 64};
    assert_int_equal(gpu->ops->gemm(gpu, &args), ST_UNSUPPORTED);
    matrix_free(&w);
    gpu->ops->free(gpu, x);
    gpu->ops->free(gpu, sums);
}

static void test_attention_of_a_fresh_row_equals_qkv_and_attention(void **state)
{
    (void)state;
    static const struct case_seq seqs[] = {{0, 1},   {1, 1},   {14, 1},  {15, 1},
                                           {16, 1},  {62, 1},  {63, 1},  {64, 1},
                                           {127, 1}, {128, 1}, {700, 1}, {1200, 1}};
    static const struct shape shapes[] = {
        {4, 4, 64, 64, 0, OPS_BF16, false, false},    {8, 2, 128, 64, 0, OPS_BF16, true, false},
        {14, 2, 64, 16, 0, OPS_BF16, false, false},   {8, 1, 96, 32, 0, OPS_BF16, true, false},
        {16, 2, 256, 64, 0, OPS_BF16, true, false},   {32, 8, 128, 64, 100, OPS_BF16, false, false},
        {16, 8, 128, 128, 0, OPS_BF16, true, false},  {20, 1, 64, 64, 0, OPS_BF16, false, false},
        {4, 4, 64, 64, 0, OPS_BF16, false, true},     {8, 2, 128, 64, 0, OPS_BF16, true, true},
        {8, 1, 96, 32, 0, OPS_BF16, true, true},      {16, 2, 256, 64, 0, OPS_BF16, true, true},
        {32, 8, 128, 64, 100, OPS_BF16, false, true}, {20, 1, 64, 64, 0, OPS_BF16, false, true},
    };
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
        for (uint32_t n = 1; n <= 12; n += 11)
            check_attention(&shapes[i], seqs + 12 - n, n, true);
}

/* Two inputs by turns, with ids of tokens that the step before has sampled. */
static void test_step_input_and_output_take_turns(void **state)
{
    (void)state;
    enum { SEQS = 3, STRIDE = 5, IDS = 4, KV = 16, TABLE = 32, WORDS = 32, ALL = TABLE + 15 };
    uint32_t *host[2], *tokens_out[2], got[ALL];
    for (uint32_t i = 0; i < 2; i++) {
        void *at = NULL;
        assert_int_equal(gpu->ops->alloc(gpu, DEVICE_MEM_HOST, ALL * 4, &at), ST_OK);
        host[i] = at;
        assert_int_equal(gpu->ops->alloc(gpu, DEVICE_MEM_HOST, 16, &at), ST_OK);
        tokens_out[i] = at;
        for (uint32_t w = 0; w < ALL; w++)
            host[i][w] = 1000 * (i + 1) + w;
        host[i][IDS + 1] = OPS_ID_PENDING | 2;
        for (uint32_t s = 0; s < SEQS; s++)
            host[i][KV + s] = s * 16 + i; /* of blocks of 16: 0 or 1, 1 or 2, 2 or 3 entries */
    }
    const uint32_t sampled[3] = {70, 71, 72};
    void *tokens = gpu_copy(sampled, sizeof(sampled)), *dst = gpu_poisoned(sizeof(got));
    void *turn = gpu_alloc(4);
    struct step_input_args in = {.src = {host[0], host[1]},
                                 .dst = dst,
                                 .turn = turn,
                                 .tokens = tokens,
                                 .n_words = WORDS,
                                 .ids_at = IDS,
                                 .n_ids = 3,
                                 .table_at = TABLE,
                                 .table_stride = STRIDE,
                                 .kv_tokens_at = KV,
                                 .n_seqs = SEQS,
                                 .block_tokens = 16};
    struct step_output_args out = {
        .tokens = tokens, .dst = {tokens_out[0], tokens_out[1]}, .turn = turn, .n = 3};
    for (uint32_t step = 0; step < 5; step++) {
        const uint32_t *src = host[step % 2];
        assert_int_equal(gpu->ops->step_input(gpu, &in), ST_OK);
        assert_int_equal(gpu->ops->step_output(gpu, &out), ST_OK);
        gpu_read(got, dst, sizeof(got));
        for (uint32_t w = 0; w < WORDS; w++)
            assert_int_equal(got[w], w == IDS + 1 ? 72 : src[w]);
        for (uint32_t s = 0; s < SEQS; s++)
            for (uint32_t b = 0; b < (src[KV + s] + 15) / 16; b++)
                assert_int_equal(got[TABLE + s * STRIDE + b], src[TABLE + s * STRIDE + b]);
        assert_memory_equal(tokens_out[step % 2], sampled, sizeof(sampled));
        memset(tokens_out[step % 2], 0, sizeof(sampled));
    }
    void *all[] = {tokens, dst, turn, host[0], host[1], tokens_out[0], tokens_out[1]};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        gpu->ops->free(gpu, all[i]);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fused_gemms_equal_the_separate_ops),
        cmocka_unit_test(test_fused_gemm_refuses_more_rows),
        cmocka_unit_test(test_attention_of_a_fresh_row_equals_qkv_and_attention),
        cmocka_unit_test(test_step_input_and_output_take_turns),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
