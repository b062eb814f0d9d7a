/* attention (with kv_write) against float64, K and V rounded to the pool's dtype first.
 * Tolerance: 1e-5 absolute, for |q|, |k|, |v| <= 1 (about 100 f32 roundings). */
#include "support/fp8_value.h"
#include "support/ops_check.h"

#define TOLERANCE   1e-5
#define N_SEQS      6u
#define CONTEXT_MAX 200u

/* Total length of each sequence of a case; its last n_new positions are the rows. */
static const uint32_t lengths[N_SEQS] = {1, 7, 63, 64, 65, CONTEXT_MAX};

struct shape {
    uint32_t n_heads, n_kv_heads, head_dim, block_tokens, window;
    enum ops_dtype dtype;
};

struct scene {
    struct shape shape;
    struct ops_kv_pool pool;
    uint32_t table[N_SEQS * 16];
    uint32_t table_stride;
    float *k, *v;   /* [N_SEQS, CONTEXT_MAX, kv, dim] */
    float *scales;  /* [3, 2, kv], of fp8 */
    float *q, *out; /* [n_rows, heads, dim] */
    uint32_t seq[N_SEQS * CONTEXT_MAX], pos[N_SEQS * CONTEXT_MAX];
    uint32_t n_rows;
};

static void scene_write_kv(struct scene *s, struct device *dev)
{
    uint32_t row_floats = s->shape.n_kv_heads * s->shape.head_dim;
    for (uint32_t i = 0; i < N_SEQS; i++) {
        uint32_t seq[CONTEXT_MAX], pos[CONTEXT_MAX];
        for (uint32_t p = 0; p < lengths[i]; p++) {
            seq[p] = i;
            pos[p] = p;
        }
        struct kv_write_args args = {.k = s->k + (size_t)i * CONTEXT_MAX * row_floats,
                                     .v = s->v + (size_t)i * CONTEXT_MAX * row_floats,
                                     .k_stride = row_floats,
                                     .v_stride = row_floats,
                                     .pool = s->pool,
                                     .layer = 1,
                                     .rows = {lengths[i], seq, pos, s->table, s->table_stride}};
        assert_int_equal(dev->ops->kv_write(dev, &args), ST_OK);
    }
}

/* Turns k or v into what the pool has of it. */
static void scene_round(const struct scene *s, float *values, uint32_t is_v)
{
    const struct shape *shape = &s->shape;
    size_t n = (size_t)N_SEQS * CONTEXT_MAX * shape->n_kv_heads * shape->head_dim;
    for (size_t i = 0; i < n; i++) {
        size_t kv_head = i / shape->head_dim % shape->n_kv_heads;
        float scale = s->scales[(1 * 2 + is_v) * shape->n_kv_heads + kv_head];
        values[i] = shape->dtype == OPS_F8
                        ? fp8_value(fp8_nearest(values[i] * (1.0f / scale))) * scale
                        : ops_round(values[i], shape->dtype);
    }
}

/* Rows: the last n_new tokens of every sequence. Blocks are dealt to sequences in a stride, so that
 * none lie in order; everything that no token wrote stays NaN. */
static struct scene *scene_make(struct device *dev, struct shape shape, uint32_t n_new)
{
    struct scene *s = calloc(1, sizeof(*s));
    assert_non_null(s);
    s->shape = shape;
    s->pool = (struct ops_kv_pool){.n_blocks = N_SEQS * 16 + 1,
                                   .n_layers = 3,
                                   .n_kv_heads = shape.n_kv_heads,
                                   .block_tokens = shape.block_tokens,
                                   .head_dim = shape.head_dim,
                                   .dtype = shape.dtype};
    s->pool.block_bytes = ops_kv_block_bytes(&s->pool) + 64;
    s->pool.base = ops_poisoned(s->pool.n_blocks * s->pool.block_bytes);
    s->scales = ops_floats((size_t)3 * 2 * shape.n_kv_heads);
    for (uint32_t i = 0; i < 3 * 2 * shape.n_kv_heads; i++)
        s->scales[i] = 0.00137f * (float)(i + 1);
    s->pool.scales = shape.dtype == OPS_F8 ? s->scales : NULL;
    s->table_stride = 16;
    for (uint32_t i = 0; i < N_SEQS * 16; i++) {
        bool is_used = i % 16 * shape.block_tokens < lengths[i / 16];
        s->table[i] = is_used ? i * 35 % s->pool.n_blocks : UINT32_MAX;
    }
    size_t n_kv = (size_t)N_SEQS * CONTEXT_MAX * shape.n_kv_heads * shape.head_dim;
    s->k = ops_random_floats(n_kv, 11);
    s->v = ops_random_floats(n_kv, 12);
    scene_write_kv(s, dev);
    scene_round(s, s->k, 0);
    scene_round(s, s->v, 1);
    for (uint32_t i = 0; i < N_SEQS; i++) {
        for (uint32_t p = lengths[i] > n_new ? lengths[i] - n_new : 0; p < lengths[i]; p++) {
            s->seq[s->n_rows] = i;
            s->pos[s->n_rows++] = p;
        }
    }
    size_t n_q = (size_t)s->n_rows * shape.n_heads * shape.head_dim;
    s->q = ops_random_floats(n_q, 13);
    s->out = ops_floats(n_q);
    return s;
}

static void scene_free(struct scene *s)
{
    free(s->pool.base);
    free(s->scales);
    free(s->k);
    free(s->v);
    free(s->q);
    free(s->out);
    free(s);
}

static struct attention_args scene_args(struct scene *s, uint32_t row, uint32_t n_rows, float *out)
{
    uint64_t stride = (uint64_t)s->shape.n_heads * s->shape.head_dim;
    return (struct attention_args){
        .q = s->q + row * stride,
        .q_stride = stride,
        .out = out + row * stride,
        .out_stride = stride,
        .pool = s->pool,
        .layer = 1,
        .n_heads = s->shape.n_heads,
        .window = s->shape.window,
        .scale = 1.0f / sqrtf((float)s->shape.head_dim),
        .rows = {n_rows, s->seq + row, s->pos + row, s->table, s->table_stride},
    };
}

static const float *kv_at(const float *base, const struct scene *s, uint32_t seq, uint32_t pos,
                          uint32_t kv_head)
{
    return base +
           (((size_t)seq * CONTEXT_MAX + pos) * s->shape.n_kv_heads + kv_head) * s->shape.head_dim;
}

/* One (row, head) in float64. */
static void reference_head(const struct scene *s, uint32_t row, uint32_t head, double *out)
{
    const struct shape *shape = &s->shape;
    uint32_t dim = shape->head_dim, seq = s->seq[row], hi = s->pos[row];
    uint32_t lo = shape->window > 0 && hi >= shape->window ? hi - shape->window + 1 : 0;
    uint32_t kv_head = head / (shape->n_heads / shape->n_kv_heads);
    const float *q = s->q + ((size_t)row * shape->n_heads + head) * dim;
    double weight[CONTEXT_MAX], sum = 0.0;
    memset(out, 0, dim * sizeof(double));
    for (uint32_t p = lo; p <= hi; p++) {
        const float *k = kv_at(s->k, s, seq, p, kv_head);
        double dot = 0.0;
        for (uint32_t d = 0; d < dim; d++)
            dot += (double)q[d] * (double)k[d];
        weight[p] = exp(dot / sqrt(dim));
        sum += weight[p];
    }
    for (uint32_t p = lo; p <= hi; p++) {
        const float *v = kv_at(s->v, s, seq, p, kv_head);
        for (uint32_t d = 0; d < dim; d++)
            out[d] += weight[p] / sum * (double)v[d];
    }
}

static void check_scene(const struct scene *s)
{
    uint32_t dim = s->shape.head_dim;
    for (uint32_t row = 0; row < s->n_rows; row++) {
        for (uint32_t h = 0; h < s->shape.n_heads; h++) {
            double want[OPS_HEAD_DIM_MAX];
            reference_head(s, row, h, want);
            size_t at = ((size_t)row * s->shape.n_heads + h) * dim;
            for (uint32_t d = 0; d < dim; d++)
                ops_assert_near(s->out[at + d], want[d], TOLERANCE, "out", at + d);
        }
    }
}

/* Every head ratio and head size of the models served, all block sizes, windows. */
static const struct shape shapes[] = {
    {2, 2, 64, 16, 0, OPS_BF16},  {4, 1, 64, 64, 0, OPS_BF16},   {8, 1, 96, 32, 0, OPS_BF16},
    {14, 2, 64, 64, 0, OPS_BF16}, {7, 1, 128, 16, 0, OPS_F32},   {4, 1, 256, 128, 0, OPS_BF16},
    {8, 1, 32, 32, 0, OPS_F32},   {3, 3, 16, 16, 0, OPS_BF16},   {4, 4, 48, 64, 0, OPS_BF16},
    {2, 1, 80, 32, 0, OPS_F32},   {64, 1, 32, 64, 0, OPS_BF16},  {4, 2, 64, 16, 1, OPS_BF16},
    {4, 2, 64, 32, 17, OPS_F32},  {4, 2, 128, 64, 64, OPS_BF16}, {4, 1, 96, 128, 100, OPS_BF16},
    {2, 2, 256, 16, 65, OPS_F32}, {2, 2, 64, 16, 0, OPS_F8},     {4, 1, 64, 64, 0, OPS_F8},
    {8, 1, 96, 32, 0, OPS_F8},    {7, 1, 128, 16, 0, OPS_F8},    {4, 1, 256, 128, 0, OPS_F8},
    {3, 3, 16, 16, 0, OPS_F8},    {4, 2, 48, 64, 17, OPS_F8},    {14, 2, 80, 32, 100, OPS_F8},
    {64, 1, 32, 128, 0, OPS_F8},
};

static void test_attention_shapes_match_f64(void **state)
{
    (void)state;
    FOR_EACH_ISA(isa)
    {
        struct device *dev = ops_open(isa, 2);
        for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
            for (uint32_t n_new = 1; n_new <= 65; n_new += 64) { /* decode; prefill chunk */
                struct scene *s = scene_make(dev, shapes[i], n_new);
                struct attention_args args = scene_args(s, 0, s->n_rows, s->out);
                assert_int_equal(dev->ops->attention(dev, &args), ST_OK);
                check_scene(s);
                scene_free(s);
            }
        }
        device_close(dev);
    }
}

static float *run_in_steps(struct scene *s, enum cpu_isa isa, uint32_t step, uint32_t n_threads)
{
    struct device *dev = ops_open(isa, n_threads);
    float *out = ops_floats((size_t)s->n_rows * s->shape.n_heads * s->shape.head_dim);
    for (uint32_t row = 0; row < s->n_rows; row += step) {
        uint32_t n = s->n_rows - row < step ? s->n_rows - row : step;
        struct attention_args args = scene_args(s, row, n, out);
        assert_int_equal(dev->ops->attention(dev, &args), ST_OK);
    }
    device_close(dev);
    return out;
}

static void test_attention_bits_do_not_depend_on_rows_or_threads(void **state)
{
    (void)state;
    static const uint32_t picked[] = {1, 3, 4, 7, 14, 18, 23};
    static const uint32_t steps[] = {1, 5, 64, UINT32_MAX};
    FOR_EACH_ISA(isa)
    {
        struct device *dev = ops_open(isa, 1);
        for (size_t i = 0; i < sizeof(picked) / sizeof(picked[0]); i++) {
            struct scene *s = scene_make(dev, shapes[picked[i]], CONTEXT_MAX);
            size_t bytes = (size_t)s->n_rows * s->shape.n_heads * s->shape.head_dim * sizeof(float);
            float *want = run_in_steps(s, isa, UINT32_MAX, 1);
            for (size_t k = 0; k < sizeof(steps) / sizeof(steps[0]); k++) {
                for (uint32_t n_threads = 1; n_threads <= 3; n_threads++) {
                    float *got = run_in_steps(s, isa, steps[k], n_threads);
                    assert_memory_equal(got, want, bytes);
                    free(got);
                }
            }
            free(want);
            scene_free(s);
        }
        device_close(dev);
    }
}

static void test_attention_bits_do_not_depend_on_block_size(void **state)
{
    (void)state;
    struct shape shape = {4, 2, 64, 16, 0, OPS_BF16};
    for (unsigned i = 0; i < 2 * (unsigned)cpu_isa_best(); i++) {
        const enum cpu_isa isa = (enum cpu_isa)(CPU_ISA_SCALAR + i / 2);
        struct device *dev = ops_open(isa, 2);
        float *want = NULL;
        shape.dtype = i % 2 == 0 ? OPS_BF16 : OPS_F8;
        for (shape.block_tokens = 16; shape.block_tokens <= 128; shape.block_tokens *= 2) {
            struct scene *s = scene_make(dev, shape, 65);
            float *got = run_in_steps(s, isa, UINT32_MAX, 2);
            if (want != NULL)
                assert_memory_equal(got, want, (size_t)s->n_rows * 4 * 64 * sizeof(float));
            free(want);
            want = got;
            scene_free(s);
        }
        free(want);
        device_close(dev);
    }
}

/* Rows of the batch in another order: only the order of the output changes. */
static void test_attention_bits_do_not_depend_on_order(void **state)
{
    (void)state;
    struct device *dev = ops_open(CPU_ISA_AUTO, 2);
    struct scene *s = scene_make(dev, shapes[1], 9);
    uint32_t row_floats = s->shape.n_heads * s->shape.head_dim;
    float *want = run_in_steps(s, CPU_ISA_AUTO, UINT32_MAX, 1);
    float *q = ops_floats((size_t)s->n_rows * row_floats);
    uint32_t seq[N_SEQS * 9], pos[N_SEQS * 9];
    for (uint32_t r = 0; r < s->n_rows; r++) {
        uint32_t from = s->n_rows - 1 - r;
        seq[r] = s->seq[from];
        pos[r] = s->pos[from];
        memcpy(q + (size_t)r * row_floats, s->q + (size_t)from * row_floats, row_floats * 4);
    }
    struct attention_args args = scene_args(s, 0, s->n_rows, s->out);
    args.q = q;
    args.rows.seq = seq;
    args.rows.pos = pos;
    assert_int_equal(dev->ops->attention(dev, &args), ST_OK);
    for (uint32_t r = 0; r < s->n_rows; r++)
        assert_memory_equal(s->out + (size_t)r * row_floats,
                            want + (size_t)(s->n_rows - 1 - r) * row_floats, row_floats * 4);
    free(q);
    free(want);
    scene_free(s);
    device_close(dev);
}

/* Scores of +-80 a key: the running maximum must hold, and weights far below it vanish. */
static void test_attention_large_scores_stay_finite(void **state)
{
    (void)state;
    FOR_EACH_ISA(isa)
    {
        struct device *dev = ops_open(isa, 1);
        struct scene *s = scene_make(dev, shapes[0], CONTEXT_MAX);
        for (size_t i = 0; i < (size_t)s->n_rows * 2 * 64; i++)
            s->q[i] *= 400.0f;
        struct attention_args args = scene_args(s, 0, s->n_rows, s->out);
        assert_int_equal(dev->ops->attention(dev, &args), ST_OK);
        for (size_t i = 0; i < (size_t)s->n_rows * 2 * 64; i++)
            assert_true(fabsf(s->out[i]) <= 1.001f);
        scene_free(s);
        device_close(dev);
    }
}

/* What a NaN in one number of V touches is its column in the heads that read it, and no more. */
static void test_attention_f8_nan_stays_in_its_place(void **state)
{
    (void)state;
    FOR_EACH_ISA(isa)
    {
        struct device *dev = ops_open(isa, 1);
        struct scene *s = scene_make(dev, (struct shape){4, 2, 64, 16, 0, OPS_F8}, 1);
        ((uint8_t *)s->pool
             .base)[ops_kv_plane_offset(&s->pool, s->table[2 * 16 + 3], 1, 1, 1) + 5 * 64 + 9] =
            0xff; /* sequence 2, position 53, head 1 */
        struct attention_args args = scene_args(s, 0, s->n_rows, s->out);
        assert_int_equal(dev->ops->attention(dev, &args), ST_OK);
        for (uint32_t i = 0; i < s->n_rows * 4 * 64; i++) {
            bool is_touched = i / 256 == 2 && i / 64 % 4 >= 2 && i % 64 == 9;
            assert_true(isnan(s->out[i]) == is_touched);
        }
        scene_free(s);
        device_close(dev);
    }
}

static void test_attention_bad_arguments_are_refused(void **state)
{
    (void)state;
    struct device *dev = ops_open(CPU_ISA_AUTO, 1);
    struct scene *s = scene_make(dev, shapes[1], 1);
    struct attention_args good = scene_args(s, 0, s->n_rows, s->out), args = good;
    args.pool.head_dim = 40;
    assert_int_equal(dev->ops->attention(dev, &args), ST_INVALID);
    args = good;
    args.layer = 3;
    assert_int_equal(dev->ops->attention(dev, &args), ST_INVALID);
    args = good;
    args.n_heads = 0;
    assert_int_equal(dev->ops->attention(dev, &args), ST_INVALID);
    args = good;
    args.pool.block_tokens = 48;
    assert_int_equal(dev->ops->attention(dev, &args), ST_INVALID);
    args = good;
    args.pool.dtype = OPS_F16;
    assert_int_equal(dev->ops->attention(dev, &args), ST_INVALID);
    args = good;
    args.rows.table_stride = 3; /* the longest sequence needs 4 blocks */
    assert_int_equal(dev->ops->attention(dev, &args), ST_INVALID);
    args = good;
    uint32_t saved = s->table[5 * 16 + 1];
    s->table[5 * 16 + 1] = s->pool.n_blocks;
    assert_int_equal(dev->ops->attention(dev, &args), ST_INVALID);
    s->table[5 * 16 + 1] = saved;
    ops_assert_poison(s->out, (size_t)s->n_rows * 4 * 64, "out");
    assert_int_equal(dev->ops->attention(dev, &good), ST_OK);
    scene_free(s);
    device_close(dev);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_attention_shapes_match_f64),
        cmocka_unit_test(test_attention_bits_do_not_depend_on_rows_or_threads),
        cmocka_unit_test(test_attention_bits_do_not_depend_on_block_size),
        cmocka_unit_test(test_attention_bits_do_not_depend_on_order),
        cmocka_unit_test(test_attention_large_scores_stay_finite),
        cmocka_unit_test(test_attention_f8_nan_stays_in_its_place),
        cmocka_unit_test(test_attention_bad_arguments_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
