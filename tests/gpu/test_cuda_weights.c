/* fp8 weights on their way into the GPU: random ones have the CPU's bits, kept ones the file's, and
 * dequantised ones are the CPU's to the bit. */
#include "tests/gpu/gpu_kit.h"
#include "tests/support/fp8_value.h"

static void random_f8(struct device *dev, void *dst, size_t n, uint64_t first, float scale)
{
    struct random_fill_args args = {
        .dst = dst, .dtype = OPS_F8, .n = n, .first = first, .seed = 11, .scale = scale};
    assert_int_equal(dev->ops->random_fill(dev, &args), ST_OK);
}

/* Values beyond the greatest, normal ones, and subnormal ones. */
static void test_random_f8_has_the_bits_of_the_cpu(void **state)
{
    enum { N = 100003 };
    static const float scales[] = {500.0f, 448.0f, 1.0f, 0.02f, 0.002f};
    uint8_t *want = malloc(N), *got = malloc(N);
    void *at = gpu_poisoned(N);
    (void)state;
    assert_true(want != NULL && got != NULL);
    for (size_t s = 0; s < sizeof(scales) / sizeof(scales[0]); s++) {
        random_f8(cpu, want, N, s * 1000, scales[s]);
        random_f8(gpu, at, N, s * 1000, scales[s]);
        gpu_read(got, at, N);
        assert_memory_equal(got, want, N);
    }
    gpu->ops->free(gpu, at);
    free(want);
    free(got);
}

struct pack {
    uint32_t first, n, k;
    enum ops_scaling scaling;
    bool from_host;
};

static struct gemm_pack_args pack_args(const struct pack *p, const void *src, const float *scale,
                                       void *dst, enum ops_dtype dtype)
{
    bool is_scaled = dtype != OPS_F8;
    return (struct gemm_pack_args){.src = src,
                                   .src_dtype = OPS_F8,
                                   .src_stride = p->k,
                                   .src_scale = is_scaled ? scale : NULL,
                                   .src_scaling = is_scaled ? p->scaling : OPS_SCALE_NONE,
                                   .n_rows = p->n - p->first,
                                   .n_first = p->first,
                                   .n = p->n,
                                   .k = p->k,
                                   .dst = dst,
                                   .dst_dtype = dtype};
}

/* Rows [first, n) of the packed matrix on the GPU, as f32. */
static float *packed_values(const struct pack *p, const void *src, const float *scale,
                            enum ops_dtype dtype)
{
    const size_t rows = p->n - p->first;
    void *dst = gpu_poisoned(ops_gemm_packed_bytes(dtype, p->n, p->k));
    const char *begin = (const char *)dst + (size_t)p->first * p->k * ops_dtype_bytes(dtype);
    struct gemm_pack_args args = pack_args(p, src, scale, dst, dtype);
    assert_int_equal(gpu->ops->gemm_pack(gpu, &args), ST_OK);
    float *values = gpu_floats(begin, rows * p->k, dtype);
    gpu->ops->free(gpu, dst);
    return values;
}

static void check_pack(const struct pack *p)
{
    const uint32_t per_row = (p->k + 127) / 128, n_rows = p->n - p->first;
    const size_t count = (size_t)n_rows * p->k;
    uint8_t *codes = malloc(count), *kept = malloc(count);
    float *scale = ops_random_floats((size_t)p->n * per_row, 5);
    assert_true(codes != NULL && kept != NULL);
    random_f8(cpu, codes, count, 0, 448.0f);
    void *scale_dev = gpu_copy(scale, (size_t)p->n * per_row * sizeof(float));
    void *codes_dev = p->from_host ? NULL : gpu_copy(codes, count);
    const void *src = p->from_host ? codes : codes_dev;
    for (int dtype = OPS_F32; dtype <= OPS_BF16; dtype++) {
        float *got = packed_values(p, src, scale_dev, (enum ops_dtype)dtype);
        for (size_t i = 0; i < count; i++) {
            size_t row = p->first + i / p->k, col = i % p->k;
            float s = scale[p->scaling == OPS_SCALE_ROW ? row : row / 128 * per_row + col / 128];
            float want = ops_round(fp8_value(codes[i]) * s, (enum ops_dtype)dtype);
            if (got[i] != want)
                fail_msg("[%zu, %zu]: %.9g, expected %.9g", row, col, (double)got[i], (double)want);
        }
        free(got);
    }
    char *dst = gpu_poisoned(ops_gemm_packed_bytes(OPS_F8, p->n, p->k));
    struct gemm_pack_args args = pack_args(p, src, NULL, dst, OPS_F8);
    assert_int_equal(gpu->ops->gemm_pack(gpu, &args), ST_OK);
    gpu_read(kept, dst + (size_t)p->first * p->k, count);
    assert_memory_equal(kept, codes, count);
    gpu->ops->free(gpu, dst);
    gpu->ops->free(gpu, scale_dev);
    gpu->ops->free(gpu, codes_dev);
    free(codes);
    free(kept);
    free(scale);
}

static void test_pack_f8_equals_value_times_scale(void **state)
{
    static const uint32_t sizes[][3] = {{0, 1, 1}, {1, 64, 128}, {40, 130, 129}, {256, 385, 1027}};
    (void)state;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct pack p = {sizes[i][0], sizes[i][1], sizes[i][2], OPS_SCALE_ROW, i % 2 == 0};
        check_pack(&p);
        p.scaling = OPS_SCALE_BLOCK;
        p.from_host = !p.from_host;
        check_pack(&p);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_f8_has_the_bits_of_the_cpu),
        cmocka_unit_test(test_pack_f8_equals_value_times_scale),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
