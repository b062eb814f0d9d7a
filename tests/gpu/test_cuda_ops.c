/* Every CUDA op against the CPU op on the same values: fresh random inputs, poisoned outputs, odd
 * sizes. bf16 results may differ by a rounding of the result and of its inputs; f32 ones by the
 * order of the sums. */
#include "tests/support/ops_check.h"

#include <stdio.h>
#include <time.h>

static struct device *cpu, *gpu;
static uint64_t seed = 1;

static const uint32_t row_counts[] = {1, 2, 3, 7, 8, 15, 16, 17, 33, 63, 64, 65, 130, 300};
#define N_ROW_COUNTS (sizeof(row_counts) / sizeof(row_counts[0]))

/* ---- memory of the device ---- */

static void *gpu_alloc(size_t bytes)
{
    void *at = NULL;
    assert_int_equal(gpu->ops->alloc(gpu, DEVICE_MEM_ACTIVATION, bytes, &at), ST_OK);
    return at;
}

static void *gpu_copy(const void *host, size_t bytes)
{
    void *at = gpu_alloc(bytes);
    assert_int_equal(gpu->ops->copy_in(gpu, at, host, bytes), ST_OK);
    assert_int_equal(gpu->ops->sync(gpu), ST_OK);
    return at;
}

static void *gpu_poisoned(size_t bytes)
{
    void *host = ops_poisoned(bytes), *at = gpu_copy(host, bytes);
    free(host);
    return at;
}

static void gpu_read(void *host, const void *at, size_t bytes)
{
    assert_int_equal(gpu->ops->copy_out(gpu, host, at, bytes), ST_OK);
    assert_int_equal(gpu->ops->sync(gpu), ST_OK);
}

/* Random values that are exact in dtype, as f32 for the CPU. */
static float *values_of(size_t n, enum ops_dtype dtype)
{
    float *v = ops_random_floats(n, ++seed);
    for (size_t i = 0; i < n; i++)
        v[i] = ops_round(v[i], dtype);
    return v;
}

/* The same values on the GPU, in dtype. */
static void *gpu_values(const float *v, size_t n, enum ops_dtype dtype)
{
    if (dtype == OPS_F32)
        return gpu_copy(v, n * sizeof(float));
    uint16_t *half = malloc(n * 2);
    assert_non_null(half);
    for (size_t i = 0; i < n; i++)
        half[i] = ops_bf16(v[i]);
    void *at = gpu_copy(half, n * 2);
    free(half);
    return at;
}

static float *gpu_floats(const void *at, size_t n, enum ops_dtype dtype)
{
    float *v = malloc(n * sizeof(float));
    assert_non_null(v);
    if (dtype == OPS_F32) {
        gpu_read(v, at, n * sizeof(float));
        return v;
    }
    uint16_t *half = malloc(n * 2);
    assert_non_null(half);
    gpu_read(half, at, n * 2);
    for (size_t i = 0; i < n; i++)
        v[i] = ops_bf16_value(half[i]);
    free(half);
    return v;
}

/* ||got - want|| / ||want|| over n values; NaN when a poisoned value is left. */
static double distance(const float *got, const float *want, size_t n)
{
    double d = 0, w = 0;
    for (size_t i = 0; i < n; i++) {
        d += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
        w += (double)want[i] * want[i];
    }
    return sqrt(d / (w > 0 ? w : 1));
}

static void assert_close(const float *got, const float *want, size_t n, enum ops_dtype dtype,
                         const char *what, uint32_t size)
{
    double limit = dtype == OPS_BF16 ? 6e-3 : 2e-6, d = distance(got, want, n);
    if (!(d <= limit))
        fail_msg("%s, %u: relative distance %.3g, at most %.3g", what, size, d, limit);
}

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

/* ---- qkv and attention over a paged pool ---- */

struct shape {
    uint32_t n_heads, n_kv_heads, head_dim, block_tokens, window;
    enum ops_dtype dtype;
    bool qk_norm;
};

/* Sequences as (tokens already in the pool, rows of this step). */
struct case_seq {
    uint32_t cached, rows;
};

struct rig {
    struct shape s;
    struct ops_kv_pool pool, gpool;
    struct ops_rows rows, grows;
    uint32_t *arrays[5];
    void *garrays[5];
};

#define RIG_STRIDE 80u /* blocks of a sequence at most */

static void rig_open(struct rig *r, const struct shape *s, const struct case_seq *seqs, uint32_t n)
{
    *r = (struct rig){.s = *s};
    uint32_t n_rows = 0, row = 0, n_blocks = n * RIG_STRIDE;
    for (uint32_t i = 0; i < n; i++)
        n_rows += seqs[i].rows;
    const size_t sizes[5] = {n_rows, n_rows, n * RIG_STRIDE, n + 1, n};
    for (uint32_t i = 0; i < 5; i++)
        r->arrays[i] = calloc(sizes[i], 4);
    uint32_t *seq = r->arrays[0], *pos = r->arrays[1], *table = r->arrays[2];
    for (uint32_t i = 0; i < n; i++) {
        r->arrays[3][i] = row;
        r->arrays[4][i] = seqs[i].cached + seqs[i].rows;
        for (uint32_t k = 0; k < seqs[i].rows; k++, row++) {
            seq[row] = i;
            pos[row] = seqs[i].cached + k;
        }
        if (seqs[i].rows > r->rows.rows_max)
            r->rows.rows_max = seqs[i].rows;
    }
    r->arrays[3][n] = row;
    for (uint32_t i = 0; i < n_blocks; i++)
        table[i] = (uint32_t)((uint64_t)i * 37 % n_blocks); /* a permutation: 37 is coprime to it */
    r->pool = (struct ops_kv_pool){.n_blocks = n_blocks,
                                   .n_layers = 2,
                                   .n_kv_heads = s->n_kv_heads,
                                   .block_tokens = s->block_tokens,
                                   .head_dim = s->head_dim,
                                   .dtype = s->dtype};
    r->pool.block_bytes = ops_kv_block_bytes(&r->pool);
    size_t pool_bytes = n_blocks * r->pool.block_bytes;
    r->gpool = r->pool;
    r->pool.base = ops_poisoned(pool_bytes);
    r->gpool.base = gpu_poisoned(pool_bytes);
    r->rows.n_rows = n_rows;
    r->rows.n_seqs = n;
    r->rows.table_stride = RIG_STRIDE;
    r->grows = r->rows;
    for (uint32_t i = 0; i < 5; i++)
        r->garrays[i] = gpu_copy(r->arrays[i], sizes[i] * 4);
    r->rows.seq = seq;
    r->rows.pos = pos;
    r->rows.block_table = table;
    r->rows.row_first = r->arrays[3];
    r->rows.kv_tokens = r->arrays[4];
    r->grows.seq = r->garrays[0];
    r->grows.pos = r->garrays[1];
    r->grows.block_table = r->garrays[2];
    r->grows.row_first = r->garrays[3];
    r->grows.kv_tokens = r->garrays[4];
}

static void rig_close(struct rig *r)
{
    for (uint32_t i = 0; i < 5; i++) {
        free(r->arrays[i]);
        gpu->ops->free(gpu, r->garrays[i]);
    }
    free(r->pool.base);
    gpu->ops->free(gpu, r->gpool.base);
}

/* qkv of the rows on both, then attention of both on layer 1. */
static void rig_run(struct rig *r, bool check)
{
    const struct shape *s = &r->s;
    uint32_t cols = (s->n_heads + 2 * s->n_kv_heads) * s->head_dim,
             q_cols = s->n_heads * s->head_dim;
    size_t n = (size_t)r->rows.n_rows * cols, n_out = (size_t)r->rows.n_rows * q_cols;
    float *x = values_of(n, s->dtype), *norm = values_of(s->head_dim, OPS_F32), inv_freq[128];
    for (uint32_t i = 0; i < s->head_dim / 2; i++)
        inv_freq[i] = powf(10000.0f, -2.0f * (float)i / (float)s->head_dim);
    void *gx = gpu_values(x, n, s->dtype), *gnorm = gpu_copy(norm, s->head_dim * 4);
    void *gfreq = gpu_copy(inv_freq, sizeof(inv_freq)), *gout = gpu_poisoned(n_out * 4);
    float *want = ops_floats(n_out);
    struct qkv_args qkv = {.x = x,
                           .x_stride = cols,
                           .n_heads = s->n_heads,
                           .q_norm = s->qk_norm ? norm : NULL,
                           .k_norm = s->qk_norm ? norm : NULL,
                           .eps = 1e-6f,
                           .inv_freq = inv_freq,
                           .n_rot = s->head_dim,
                           .attn_scale = 1.0f,
                           .pool = r->pool,
                           .layer = 1,
                           .rows = r->rows};
    assert_int_equal(cpu->ops->qkv(cpu, &qkv), ST_OK);
    struct attention_args att = {.q = x,
                                 .q_stride = cols,
                                 .out = want,
                                 .out_stride = q_cols,
                                 .pool = r->pool,
                                 .layer = 1,
                                 .n_heads = s->n_heads,
                                 .window = s->window,
                                 .scale = 1.0f / sqrtf((float)s->head_dim),
                                 .rows = r->rows};
    if (check)
        assert_int_equal(cpu->ops->attention(cpu, &att), ST_OK);
    qkv.x = gx;
    qkv.dtype = s->dtype;
    qkv.q_norm = s->qk_norm ? gnorm : NULL;
    qkv.k_norm = s->qk_norm ? gnorm : NULL;
    qkv.inv_freq = gfreq;
    qkv.pool = r->gpool;
    qkv.rows = r->grows;
    assert_int_equal(gpu->ops->qkv(gpu, &qkv), ST_OK);
    att.q = gx;
    att.dtype = s->dtype;
    att.out = gout;
    att.pool = r->gpool;
    att.rows = r->grows;
    if (check) {
        assert_int_equal(gpu->ops->attention_plan(gpu, &att), ST_OK);
        assert_int_equal(gpu->ops->attention(gpu, &att), ST_OK);
        float *q = gpu_floats(gx, n, s->dtype), *got = gpu_floats(gout, n_out, s->dtype);
        for (uint32_t i = 0; i < r->rows.n_rows; i++)
            assert_close(q + (size_t)i * cols, x + (size_t)i * cols, q_cols, s->dtype, "qkv",
                         s->head_dim);
        for (uint32_t i = 0; i < r->rows.n_rows; i++)
            if (!(distance(got + (size_t)i * q_cols, want + (size_t)i * q_cols, q_cols) <=
                  (s->dtype == OPS_BF16 ? 1e-2 : 1e-5)))
                fail_msg(
                    "attention: heads %u/%u x %u, blocks of %u, window %u: row %u at %u differs",
                    s->n_heads, s->n_kv_heads, s->head_dim, s->block_tokens, s->window, i,
                    r->rows.pos[i]);
        free(q), free(got);
    }
    void *all[] = {gx, gnorm, gfreq, gout};
    for (size_t i = 0; i < 4; i++)
        gpu->ops->free(gpu, all[i]);
    free(x), free(norm), free(want);
}

/* Fills the pools with `cached` tokens of each sequence, then runs the rows. */
static void check_attention(const struct shape *s, const struct case_seq *seqs, uint32_t n)
{
    struct case_seq before[16];
    struct rig r, fill;
    bool any = false;
    for (uint32_t i = 0; i < n; i++) {
        before[i] = (struct case_seq){0, seqs[i].cached};
        any |= seqs[i].cached > 0;
    }
    rig_open(&r, s, seqs, n);
    if (any) {
        rig_open(&fill, s, before, n);
        struct ops_kv_pool pool = fill.pool, gpool = fill.gpool;
        fill.pool = r.pool;
        fill.gpool = r.gpool;
        rig_run(&fill, false);
        fill.pool = pool;
        fill.gpool = gpool;
        rig_close(&fill);
    }
    rig_run(&r, true);
    rig_close(&r);
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
        check_attention(&shapes[i], decode, 8);
        check_attention(&shapes[i], prefill, 6);
        check_attention(&shapes[i], mixed, 6);
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

static int open_devices(void **state)
{
    (void)state;
    struct device_opts opts = {.n_threads = 4, .n_seqs_max = 256};
    seed = (uint64_t)time(NULL) << 20;
    printf("seed %llu\n", (unsigned long long)seed);
    return device_open(DEVICE_CPU, &opts, &cpu) == ST_OK &&
                   device_open(DEVICE_CUDA, &opts, &gpu) == ST_OK
               ? 0
               : -1;
}

static int close_devices(void **state)
{
    (void)state;
    device_close(cpu);
    device_close(gpu);
    return 0;
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
