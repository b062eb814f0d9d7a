/* For tests of CUDA ops: both devices, values on either, and a paged pool on both. */
#ifndef TESTS_GPU_KIT_H
#define TESTS_GPU_KIT_H

#include "tests/support/ops_check.h"

#include <stdio.h>
#include <time.h>

static struct device *cpu, *gpu;
static uint64_t seed = 1;

/* ---- memory of the device ---- */

static inline void *gpu_alloc(size_t bytes)
{
    void *at = NULL;
    assert_int_equal(gpu->ops->alloc(gpu, DEVICE_MEM_ACTIVATION, bytes, &at), ST_OK);
    return at;
}

static inline void *gpu_copy(const void *host, size_t bytes)
{
    void *at = gpu_alloc(bytes);
    assert_int_equal(gpu->ops->copy_in(gpu, at, host, bytes), ST_OK);
    assert_int_equal(gpu->ops->sync(gpu), ST_OK);
    return at;
}

static inline void *gpu_poisoned(size_t bytes)
{
    void *host = ops_poisoned(bytes), *at = gpu_copy(host, bytes);
    free(host);
    return at;
}

static inline void gpu_read(void *host, const void *at, size_t bytes)
{
    assert_int_equal(gpu->ops->copy_out(gpu, host, at, bytes), ST_OK);
    assert_int_equal(gpu->ops->sync(gpu), ST_OK);
}

/* Random values that are exact in dtype, as f32 for the CPU. */
static inline float *values_of(size_t n, enum ops_dtype dtype)
{
    float *v = ops_random_floats(n, ++seed);
    for (size_t i = 0; i < n; i++)
        v[i] = ops_round(v[i], dtype);
    return v;
}

/* The same values on the GPU, in dtype. */
static inline void *gpu_values(const float *v, size_t n, enum ops_dtype dtype)
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

static inline float *gpu_floats(const void *at, size_t n, enum ops_dtype dtype)
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
static inline double distance(const float *got, const float *want, size_t n)
{
    double d = 0, w = 0;
    for (size_t i = 0; i < n; i++) {
        d += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
        w += (double)want[i] * want[i];
    }
    return sqrt(d / (w > 0 ? w : 1));
}

static inline void assert_close(const float *got, const float *want, size_t n, enum ops_dtype dtype,
                                const char *what, uint32_t size)
{
    double limit = dtype == OPS_BF16 ? 6e-3 : 2e-6, d = distance(got, want, n);
    if (!(d <= limit))
        fail_msg("%s, %u: relative distance %.3g, at most %.3g", what, size, d, limit);
}

/* ---- qkv and attention over a paged pool ---- */

struct shape {
    uint32_t n_heads, n_kv_heads, head_dim, block_tokens, window;
    enum ops_dtype dtype;
    bool qk_norm;
    bool f8; /* the pool, with scales */
};

/* Sequences as (tokens already in the pool, rows of this step). */
struct case_seq {
    uint32_t cached, rows;
};

struct rig {
    struct shape s;
    bool fresh; /* attention does what qkv does */
    struct ops_kv_pool pool, gpool;
    float *scales;
    void *gscales;
    struct ops_rows rows, grows;
    uint32_t *arrays[5];
    void *garrays[5];
};

#define RIG_STRIDE 80u /* blocks of a sequence at most */

static inline void rig_open(struct rig *r, const struct shape *s, const struct case_seq *seqs,
                            uint32_t n)
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
                                   .dtype = s->f8 ? OPS_F8 : s->dtype};
    r->pool.block_bytes = ops_kv_block_bytes(&r->pool);
    size_t pool_bytes = n_blocks * r->pool.block_bytes;
    r->gpool = r->pool;
    r->scales = ops_floats(4 * (size_t)s->n_kv_heads);
    for (uint32_t i = 0; i < 4 * s->n_kv_heads; i++) /* [2 layers, 2, n_kv_heads] */
        r->scales[i] = 0.003f * (float)(1 + i * 7 % 11);
    r->gscales = gpu_copy(r->scales, 16 * (size_t)s->n_kv_heads);
    r->pool.scales = r->scales;
    r->gpool.scales = r->gscales;
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

static inline void rig_close(struct rig *r)
{
    for (uint32_t i = 0; i < 5; i++) {
        free(r->arrays[i]);
        gpu->ops->free(gpu, r->garrays[i]);
    }
    free(r->pool.base);
    free(r->scales);
    gpu->ops->free(gpu, r->gpool.base);
    gpu->ops->free(gpu, r->gscales);
}

/* A row of K or V of fp8: a value in a hundred may be the code beside, as k is not made with the
 * same operations. */
static inline void rig_codes_check(const uint8_t *want, const void *at, uint32_t dim, uint32_t pos)
{
    uint8_t got[OPS_HEAD_DIM_MAX];
    uint32_t n_beside = 0;
    gpu_read(got, at, dim);
    for (uint32_t d = 0; d < dim; d++) {
        if (got[d] == want[d])
            continue;
        int size = got[d] & 0x7f, other = want[d] & 0x7f;
        n_beside++;
        if (abs(size - other) > 1 || size == 0x7f || other == 0x7f ||
            ((got[d] ^ want[d]) > 0x7f && size + other > 1))
            fail_msg("kv in the pool, %u: %02x, expected %02x", pos, got[d], want[d]);
    }
    assert_true(n_beside <= 1 + dim / 100);
}

/* The rows that this step wrote, in both pools. */
static inline void rig_pool_check(const struct rig *r)
{
    const struct shape *s = &r->s;
    const uint32_t bytes = ops_dtype_bytes(r->pool.dtype), dim = s->head_dim;
    for (uint32_t i = 0; i < r->rows.n_rows * s->n_kv_heads * 2; i++) {
        uint32_t row = i / 2 / s->n_kv_heads, pos = r->rows.pos[row];
        const uint32_t *table = r->rows.block_table + (size_t)r->rows.seq[row] * RIG_STRIDE;
        uint64_t at = ops_kv_plane_offset(&r->pool, table[pos / s->block_tokens], 1,
                                          i / 2 % s->n_kv_heads, i % 2) +
                      (uint64_t)(pos % s->block_tokens) * dim * bytes;
        if (s->f8) {
            rig_codes_check((const uint8_t *)r->pool.base + at, (char *)r->gpool.base + at, dim,
                            pos);
            continue;
        }
        float *got = gpu_floats((char *)r->gpool.base + at, dim, s->dtype), want[OPS_HEAD_DIM_MAX];
        for (uint32_t d = 0; d < dim; d++) {
            const char *from = (const char *)r->pool.base + at + d * bytes;
            uint32_t bits = 0;
            memcpy((char *)&bits + 4 - bytes, from, bytes);
            memcpy(&want[d], &bits, 4);
        }
        assert_close(got, want, dim, s->dtype, "kv in the pool", pos);
        free(got);
    }
}

/* Has step_input plan the attention, and nothing else but bring kv_tokens. */
static inline void rig_plan(const struct rig *r, const struct attention_args *att)
{
    const uint32_t n = r->rows.n_seqs;
    void *src = NULL, *turn = gpu_alloc(4), *tokens = gpu_alloc(4);
    assert_int_equal(gpu->ops->alloc(gpu, DEVICE_MEM_HOST, n * 4, &src), ST_OK);
    memcpy(src, r->rows.kv_tokens, n * 4);
    struct step_input_args in = {.src = {src, src},
                                 .dst = r->garrays[4],
                                 .turn = turn,
                                 .tokens = tokens,
                                 .n_words = n,
                                 .table_at = n,
                                 .block_tokens = r->s.block_tokens,
                                 .plans = att,
                                 .n_plans = 1};
    assert_int_equal(gpu->ops->step_input(gpu, &in), ST_OK);
    assert_int_equal(gpu->ops->sync(gpu), ST_OK);
    void *all[] = {src, turn, tokens};
    for (size_t i = 0; i < 3; i++)
        gpu->ops->free(gpu, all[i]);
}

/* qkv of the rows on both, then attention of both on layer 1. */
static inline void rig_run(struct rig *r, bool check)
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
    void *gturns = gpu_poisoned((size_t)r->rows.n_rows * s->head_dim * 4), *gembed = gpu_alloc(64);
    struct attention_fresh fresh = {.q_norm = qkv.q_norm,
                                    .k_norm = qkv.k_norm,
                                    .eps = qkv.eps,
                                    .cos_sin = gturns,
                                    .n_rot = s->head_dim};
    struct step_begin_args begin = {.ids = r->grows.seq,
                                    .pos = r->grows.pos,
                                    .table = gembed,
                                    .n_cols = 1,
                                    .x = gout,
                                    .inv_freq = gfreq,
                                    .cos_sin = gturns,
                                    .n_rot = s->head_dim,
                                    .attn_scale = 1.0f,
                                    .n_rows = r->rows.n_rows};
    assert_int_equal(r->fresh ? gpu->ops->step_begin(gpu, &begin) : gpu->ops->qkv(gpu, &qkv),
                     ST_OK);
    att.q = gx;
    att.fresh = r->fresh ? &fresh : NULL;
    att.dtype = s->dtype;
    att.out = gout;
    att.pool = r->gpool;
    att.rows = r->grows;
    if (check) {
        rig_plan(r, &att);
        assert_int_equal(gpu->ops->attention(gpu, &att), ST_OK);
        float *q = gpu_floats(gx, n, s->dtype), *got = gpu_floats(gout, n_out, s->dtype);
        for (uint32_t i = 0; i < r->rows.n_rows && !r->fresh; i++)
            assert_close(q + (size_t)i * cols, x + (size_t)i * cols, q_cols, s->dtype, "qkv",
                         s->head_dim);
        for (uint32_t i = 0; i < r->rows.n_rows; i++)
            if (!(distance(got + (size_t)i * q_cols, want + (size_t)i * q_cols, q_cols) <=
                  (s->dtype == OPS_BF16 ? 1e-2 : 1e-5)))
                fail_msg(
                    "attention: heads %u/%u x %u, blocks of %u, window %u, fp8 %d: row %u at %u "
                    "differs",
                    s->n_heads, s->n_kv_heads, s->head_dim, s->block_tokens, s->window, s->f8, i,
                    r->rows.pos[i]);
        free(q), free(got);
    }
    if (check)
        rig_pool_check(r);
    void *all[] = {gx, gnorm, gfreq, gout, gturns, gembed};
    for (size_t i = 0; i < 6; i++)
        gpu->ops->free(gpu, all[i]);
    free(x), free(norm), free(want);
}

/* Fills the pools with `cached` tokens of each sequence, then runs the rows. */
static inline void check_attention(const struct shape *s, const struct case_seq *seqs, uint32_t n,
                                   bool fresh)
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
        struct ops_kv_pool pool = fill.pool, gpool = fill.gpool; /* the scales are equal */
        fill.pool = r.pool;
        fill.gpool = r.gpool;
        rig_run(&fill, false);
        fill.pool = pool;
        fill.gpool = gpool;
        rig_close(&fill);
    }
    r.fresh = fresh;
    rig_run(&r, true);
    rig_close(&r);
}

static inline int open_devices(void **state)
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

static inline int close_devices(void **state)
{
    (void)state;
    device_close(cpu);
    device_close(gpu);
    return 0;
}

#endif
