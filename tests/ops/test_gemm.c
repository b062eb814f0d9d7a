/* gemm and gemm_pack against float64.
 * Tolerance: (k + 8) * 2^-24 * sum|x w|, the bound of a sum of k terms in f32, where x and w are
 * already rounded to the weight's dtype. */
#include "support/fp8_value.h"
#include "support/ops_check.h"

static const uint32_t shapes[][2] = {{1, 1},   {1, 2},    {7, 3},    {31, 16}, {32, 64},
                                     {33, 65}, {100, 33}, {65, 127}, {17, 300}};
static const uint32_t row_counts[] = {1, 2, 3, 4, 5, 7, 11, 12, 13, 63, 64, 65};

struct problem {
    uint32_t m, n, k;
    enum ops_dtype dtype;
    float *x, *w, *bias; /* [m, k + 1], [n, k], [n] */
    void *packed;
    float *y; /* [m, n + 3] */
};

static struct problem problem_make(struct device *dev, uint32_t m, uint32_t n, uint32_t k,
                                   enum ops_dtype dtype)
{
    struct problem p = {.m = m, .n = n, .k = k, .dtype = dtype};
    p.x = ops_random_floats((size_t)m * (k + 1), 1);
    p.w = ops_random_floats((size_t)n * k, 2);
    p.bias = ops_random_floats(n, 3);
    p.packed = ops_poisoned(ops_gemm_packed_bytes(dtype, n, k));
    p.y = ops_floats((size_t)m * (n + 3));
    struct gemm_pack_args pack = {.src = p.w,
                                  .src_dtype = OPS_F32,
                                  .src_stride = k,
                                  .n_rows = n,
                                  .n = n,
                                  .k = k,
                                  .dst = p.packed,
                                  .dst_dtype = dtype};
    assert_int_equal(dev->ops->gemm_pack(dev, &pack), ST_OK);
    return p;
}

static void problem_free(struct problem *p)
{
    free(p->x);
    free(p->w);
    free(p->bias);
    free(p->packed);
    free(p->y);
}

/* Rows [row, row + n_rows) of the problem into y. */
static struct gemm_args problem_args(const struct problem *p, uint32_t row, uint32_t n_rows,
                                     float *y)
{
    return (struct gemm_args){.x = p->x + (size_t)row * (p->k + 1),
                              .x_stride = p->k + 1,
                              .w = p->packed,
                              .w_dtype = p->dtype,
                              .bias = p->bias,
                              .y = y,
                              .y_stride = p->n + 3,
                              .n_rows = n_rows,
                              .n = p->n,
                              .k = p->k};
}

static void check_against_f64(const struct problem *p, bool has_bias)
{
    for (uint32_t r = 0; r < p->m; r++) {
        for (uint32_t c = 0; c < p->n; c++) {
            double sum = has_bias ? p->bias[c] : 0.0, size = fabs(sum);
            for (uint32_t k = 0; k < p->k; k++) {
                double term = (double)ops_round(p->x[(size_t)r * (p->k + 1) + k], p->dtype) *
                              ops_round(p->w[(size_t)c * p->k + k], p->dtype);
                sum += term;
                size += fabs(term);
            }
            size_t at = (size_t)r * (p->n + 3) + c;
            ops_assert_near(p->y[at], sum, (p->k + 8) * 0x1p-24 * size + 1e-30, "y", at);
        }
        ops_assert_poison(p->y + (size_t)r * (p->n + 3) + p->n, 3, "y");
    }
}

static void test_gemm_odd_shapes_match_f64(void **state)
{
    (void)state;
    FOR_EACH_ISA(isa)
    {
        struct device *dev = ops_open(isa, 2);
        for (size_t s = 0; s < sizeof(shapes) / sizeof(shapes[0]); s++) {
            for (size_t r = 0; r < sizeof(row_counts) / sizeof(row_counts[0]); r++) {
                for (int dtype = OPS_F32; dtype <= OPS_BF16; dtype++) {
                    struct problem p = problem_make(dev, row_counts[r], shapes[s][0], shapes[s][1],
                                                    (enum ops_dtype)dtype);
                    struct gemm_args args = problem_args(&p, 0, p.m, p.y);
                    bool has_bias = (r + s) % 2 == 0;
                    args.bias = has_bias ? p.bias : NULL;
                    assert_int_equal(dev->ops->gemm(dev, &args), ST_OK);
                    check_against_f64(&p, has_bias);
                    problem_free(&p);
                }
            }
        }
        device_close(dev);
    }
}

/* The bits of all rows, taken `step` rows at a time on n_threads. */
static float *run_in_steps(const struct problem *p, enum cpu_isa isa, uint32_t step,
                           uint32_t n_threads)
{
    struct device *dev = ops_open(isa, n_threads);
    float *y = ops_floats((size_t)p->m * (p->n + 3));
    for (uint32_t row = 0; row < p->m; row += step) {
        uint32_t n = p->m - row < step ? p->m - row : step;
        struct gemm_args args = problem_args(p, row, n, y + (size_t)row * (p->n + 3));
        assert_int_equal(dev->ops->gemm(dev, &args), ST_OK);
    }
    device_close(dev);
    return y;
}

static void check_steps(const struct problem *p, enum cpu_isa isa)
{
    static const uint32_t steps[] = {1, 2, 5, 12, 13, 64, UINT32_MAX};
    float *want = run_in_steps(p, isa, UINT32_MAX, 1);
    for (uint32_t n_threads = 1; n_threads <= 3; n_threads++) {
        for (size_t s = 0; s < sizeof(steps) / sizeof(steps[0]); s++) {
            float *got = run_in_steps(p, isa, steps[s], n_threads);
            assert_memory_equal(got, want, (size_t)p->m * (p->n + 3) * sizeof(float));
            free(got);
        }
    }
    free(want);
}

static void test_gemm_bits_do_not_depend_on_rows_or_threads(void **state)
{
    (void)state;
    FOR_EACH_ISA(isa)
    {
        struct device *dev = ops_open(isa, 1);
        for (int dtype = OPS_F32; dtype <= OPS_BF16; dtype++) {
            struct problem p = problem_make(dev, 65, 131, 383, (enum ops_dtype)dtype);
            check_steps(&p, isa);
            problem_free(&p);
        }
        device_close(dev);
    }
}

/* More rows than fit the packing workspace at once. */
static void test_gemm_long_x_is_split_without_a_trace(void **state)
{
    (void)state;
    struct device *dev = ops_open(CPU_ISA_AUTO, 2);
    struct problem p = problem_make(dev, 300, 8, 16400, OPS_BF16);
    struct gemm_args args = problem_args(&p, 0, p.m, p.y);
    assert_int_equal(dev->ops->gemm(dev, &args), ST_OK);
    float row[8 + 3];
    for (uint32_t r = 0; r < p.m; r += 23) {
        args = problem_args(&p, r, 1, row);
        assert_int_equal(dev->ops->gemm(dev, &args), ST_OK);
        assert_memory_equal(row, p.y + (size_t)r * 11, 8 * sizeof(float));
    }
    problem_free(&p);
    device_close(dev);
}

static void test_gemm_pack_parts_equal_the_whole(void **state)
{
    (void)state;
    struct device *dev = ops_open(CPU_ISA_AUTO, 3);
    for (int dtype = OPS_F32; dtype <= OPS_BF16; dtype++) {
        struct problem p = problem_make(dev, 1, 75, 33, (enum ops_dtype)dtype);
        size_t bytes = ops_gemm_packed_bytes(p.dtype, p.n, p.k);
        char *parts = ops_poisoned(bytes);
        static const uint32_t edges[] = {0, 1, 40, 64, 75};
        for (uint32_t i = 4; i > 0; i--) { /* any order */
            struct gemm_pack_args pack = {.src = p.w + (size_t)edges[i - 1] * p.k,
                                          .src_stride = p.k,
                                          .n_rows = edges[i] - edges[i - 1],
                                          .n_first = edges[i - 1],
                                          .n = p.n,
                                          .k = p.k,
                                          .dst = parts,
                                          .dst_dtype = p.dtype};
            assert_int_equal(dev->ops->gemm_pack(dev, &pack), ST_OK);
        }
        assert_memory_equal(parts, p.packed, bytes);
        free(parts);
        problem_free(&p);
    }
    device_close(dev);
}

/* f16 and bf16 sources; the values are exact in every dtype, subnormal f16 among them. */
static void test_gemm_pack_converts_half_sources(void **state)
{
    (void)state;
    static const uint16_t f16[4] = {0x3c00, 0xc100, 0x0001, 0x7bff};
    static const float value[4] = {1.0f, -2.5f, 0x1p-24f, 65504.0f};
    struct device *dev = ops_open(CPU_ISA_AUTO, 1);
    for (uint32_t i = 0; i < 4; i++) {
        float *packed = ops_poisoned(ops_gemm_packed_bytes(OPS_F32, 1, 1));
        struct gemm_pack_args pack = {.src = &f16[i],
                                      .src_dtype = OPS_F16,
                                      .src_stride = 1,
                                      .n_rows = 1,
                                      .n = 1,
                                      .k = 1,
                                      .dst = packed,
                                      .dst_dtype = OPS_F32};
        assert_int_equal(dev->ops->gemm_pack(dev, &pack), ST_OK);
        assert_float_equal(packed[0], value[i], 0.0);
        assert_float_equal(packed[31], 0.0, 0.0); /* padding */
        uint16_t bf16 = ops_bf16(value[i]);
        pack.src = &bf16;
        pack.src_dtype = OPS_BF16;
        assert_int_equal(dev->ops->gemm_pack(dev, &pack), ST_OK);
        assert_float_equal(packed[0], ops_bf16_value(bf16), 0.0);
        free(packed);
    }
    device_close(dev);
}

static void test_gemm_pack_reads_every_f8(void **state)
{
    (void)state;
    struct device *dev = ops_open(CPU_ISA_AUTO, 2);
    uint8_t src[256];
    for (uint32_t i = 0; i < 256; i++)
        src[i] = (uint8_t)i;
    float *packed = ops_poisoned(ops_gemm_packed_bytes(OPS_F32, 1, 256));
    struct gemm_pack_args pack = {.src = src,
                                  .src_dtype = OPS_F8,
                                  .src_stride = 256,
                                  .n_rows = 1,
                                  .n = 1,
                                  .k = 256,
                                  .dst = packed,
                                  .dst_dtype = OPS_F32};
    assert_int_equal(dev->ops->gemm_pack(dev, &pack), ST_OK);
    for (uint32_t i = 0; i < 256; i++) {
        float got = packed[i * 32], want = fp8_value(src[i]);
        if (!(got == want || (isnan(got) && isnan(want))) || (signbit(got) != 0) != (i >= 128))
            fail_msg("code %u: %.9g, expected %.9g", i, (double)got, (double)want);
    }
    free(packed);
    device_close(dev);
}

/* A packed matrix, read through the layout that kernels/ops.h gives. */
static float packed_value(const void *packed, enum ops_dtype dtype, uint32_t k, uint32_t row,
                          uint32_t col)
{
    if (dtype == OPS_F32)
        return ((const float *)packed)[((size_t)row / 32 * k + col) * 32 + row % 32];
    size_t pair = ((size_t)row / 32 * ((k + 1) / 2) + col / 2) * 32 + row % 32;
    return ops_bf16_value(((const uint16_t *)packed)[pair * 2 + col % 2]);
}

/* Rows [first, n) of fp8 with scales for all of [0, n), at an odd stride. */
static void check_f8_pack(struct device *dev, enum ops_dtype dtype, enum ops_scaling scaling,
                          uint32_t first, uint32_t n, uint32_t k)
{
    const uint32_t per_row = (k + 127) / 128;
    uint64_t random = n + k;
    uint8_t *src = ops_poisoned((size_t)(n - first) * (k + 3));
    float *scale = ops_random_floats((size_t)n * per_row, 9);
    void *packed = ops_poisoned(ops_gemm_packed_bytes(dtype, n, k));
    for (size_t i = 0; i < (size_t)(n - first) * (k + 3); i++)
        src[i] = (uint8_t)((int)(ops_random(&random) * 63) + 63); /* no NaN */
    struct gemm_pack_args pack = {.src = src,
                                  .src_dtype = OPS_F8,
                                  .src_stride = k + 3,
                                  .src_scale = scale,
                                  .src_scaling = scaling,
                                  .n_rows = n - first,
                                  .n_first = first,
                                  .n = n,
                                  .k = k,
                                  .dst = packed,
                                  .dst_dtype = dtype};
    assert_int_equal(dev->ops->gemm_pack(dev, &pack), ST_OK);
    for (uint32_t row = first; row < n; row++) {
        for (uint32_t col = 0; col < k; col++) {
            float s = scale[scaling == OPS_SCALE_ROW ? row : row / 128 * per_row + col / 128];
            float want =
                ops_round(fp8_value(src[(size_t)(row - first) * (k + 3) + col]) * s, dtype);
            float got = packed_value(packed, dtype, k, row, col);
            if (got != want)
                fail_msg("[%u, %u]: %.9g, expected %.9g", row, col, (double)got, (double)want);
        }
    }
    free(src);
    free(scale);
    free(packed);
}

static void test_gemm_pack_scales_f8(void **state)
{
    static const uint32_t sizes[][3] = {
        {0, 1, 1}, {0, 33, 127}, {1, 64, 128}, {40, 130, 129}, {256, 385, 257}};
    (void)state;
    struct device *dev = ops_open(CPU_ISA_AUTO, 3);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        for (int dtype = OPS_F32; dtype <= OPS_BF16; dtype++) {
            const uint32_t *s = sizes[i];
            check_f8_pack(dev, (enum ops_dtype)dtype, OPS_SCALE_ROW, s[0], s[1], s[2]);
            check_f8_pack(dev, (enum ops_dtype)dtype, OPS_SCALE_BLOCK, s[0], s[1], s[2]);
        }
    }
    device_close(dev);
}

/* Scales where there is nothing to scale, f8 from something else, and f8 for a CPU to multiply. */
static void test_gemm_f8_of_other_kinds_is_refused(void **state)
{
    (void)state;
    struct device *dev = ops_open(CPU_ISA_AUTO, 1);
    struct problem p = problem_make(dev, 1, 5, 6, OPS_BF16);
    const struct gemm_pack_args good = {.src = p.w,
                                        .src_dtype = OPS_F8,
                                        .src_stride = 6,
                                        .src_scale = p.bias,
                                        .src_scaling = OPS_SCALE_ROW,
                                        .n_rows = 5,
                                        .n = 5,
                                        .k = 6,
                                        .dst = p.packed,
                                        .dst_dtype = OPS_BF16};
    struct gemm_pack_args pack = good;
    assert_int_equal(dev->ops->gemm_pack(dev, &pack), ST_OK);
    pack.src_scale = NULL;
    assert_int_equal(dev->ops->gemm_pack(dev, &pack), ST_INVALID);
    pack = good;
    pack.src_scaling = OPS_SCALE_NONE;
    assert_int_equal(dev->ops->gemm_pack(dev, &pack), ST_INVALID);
    pack = good;
    pack.src_dtype = OPS_BF16;
    assert_int_equal(dev->ops->gemm_pack(dev, &pack), ST_INVALID);
    pack = good;
    pack.dst_dtype = OPS_F8;
    assert_int_equal(dev->ops->gemm_pack(dev, &pack), ST_INVALID);
    pack.src_scale = NULL;
    pack.src_scaling = OPS_SCALE_NONE;
    assert_int_equal(dev->ops->gemm_pack(dev, &pack), ST_UNSUPPORTED);
    pack.src_dtype = OPS_BF16;
    assert_int_equal(dev->ops->gemm_pack(dev, &pack), ST_INVALID);
    struct gemm_args args = problem_args(&p, 0, 1, p.y);
    args.w_scale = p.bias;
    args.w_scaling = OPS_SCALE_ROW;
    assert_int_equal(dev->ops->gemm(dev, &args), ST_INVALID);
    args.w_dtype = OPS_F8;
    assert_int_equal(dev->ops->gemm(dev, &args), ST_UNSUPPORTED);
    problem_free(&p);
    device_close(dev);
}

static void test_gemm_bad_arguments_are_refused(void **state)
{
    (void)state;
    struct device *dev = ops_open(CPU_ISA_AUTO, 1);
    struct problem p = problem_make(dev, 2, 5, 6, OPS_BF16);
    struct gemm_args good = problem_args(&p, 0, 2, p.y), args = good;
    args.x_stride = 5;
    assert_int_equal(dev->ops->gemm(dev, &args), ST_INVALID);
    args = good;
    args.y_stride = 4;
    assert_int_equal(dev->ops->gemm(dev, &args), ST_INVALID);
    args = good;
    args.w_dtype = OPS_F16;
    assert_int_equal(dev->ops->gemm(dev, &args), ST_INVALID);
    args = good;
    args.w = (const char *)p.packed + 4;
    assert_int_equal(dev->ops->gemm(dev, &args), ST_INVALID);
    args = good;
    args.k = 0;
    assert_int_equal(dev->ops->gemm(dev, &args), ST_INVALID);
    args = good;
    args.n_rows = 0;
    assert_int_equal(dev->ops->gemm(dev, &args), ST_OK);
    ops_assert_poison(p.y, (size_t)p.m * (p.n + 3), "y");
    struct gemm_pack_args pack = {.src = p.w,
                                  .src_stride = 6,
                                  .n_rows = 5,
                                  .n_first = 1,
                                  .n = 5,
                                  .k = 6,
                                  .dst = p.packed,
                                  .dst_dtype = OPS_BF16};
    assert_int_equal(dev->ops->gemm_pack(dev, &pack), ST_INVALID); /* rows beyond n */
    problem_free(&p);
    device_close(dev);
}

static void test_gemm_packed_bytes_counts_padding_and_overflow(void **state)
{
    (void)state;
    assert_int_equal(ops_gemm_packed_bytes(OPS_BF16, 1, 1), 128);
    assert_int_equal(ops_gemm_packed_bytes(OPS_BF16, 33, 3), 2 * 2 * 128);
    assert_int_equal(ops_gemm_packed_bytes(OPS_F32, 32, 3), 3 * 128);
    assert_int_equal(ops_gemm_packed_bytes(OPS_F8, 1, 1), 64);
    assert_int_equal(ops_gemm_packed_bytes(OPS_F8, 33, 64), 33 * 64);
    assert_int_equal(ops_gemm_packed_bytes(OPS_F8, UINT32_MAX, UINT32_MAX), 0);
    assert_int_equal(ops_gemm_packed_bytes(OPS_F16, 32, 3), 0);
    assert_int_equal(ops_gemm_packed_bytes(OPS_F32, 0, 3), 0);
    assert_int_equal(ops_gemm_packed_bytes(OPS_F32, UINT32_MAX, UINT32_MAX), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gemm_odd_shapes_match_f64),
        cmocka_unit_test(test_gemm_bits_do_not_depend_on_rows_or_threads),
        cmocka_unit_test(test_gemm_long_x_is_split_without_a_trace),
        cmocka_unit_test(test_gemm_pack_parts_equal_the_whole),
        cmocka_unit_test(test_gemm_pack_converts_half_sources),
        cmocka_unit_test(test_gemm_pack_reads_every_f8),
        cmocka_unit_test(test_gemm_pack_scales_f8),
        cmocka_unit_test(test_gemm_f8_of_other_kinds_is_refused),
        cmocka_unit_test(test_gemm_bad_arguments_are_refused),
        cmocka_unit_test(test_gemm_packed_bytes_counts_padding_and_overflow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
