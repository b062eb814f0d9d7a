/* Weights of the host on their way into the GPU, in many pieces: the bits of the CPU's packing for
 * odd rows, rows with something between them, and every pair of dtypes; the source may change at
 * once, and rows beside those of the call stay as they are. */
#include "tests/gpu/gpu_kit.h"

/* 82 MB of f32, 41 MB of bf16: each thread fills its buffers more than once. */
#define ROWS  5003u
#define COLS  4099u
#define FIRST 5u /* rows ahead of them in the packed matrix */
#define TAIL  3u /* and behind */

struct upload_case {
    enum ops_dtype src, dst;
    uint32_t rows, k, gap; /* gap: elements between rows */
    enum ops_scaling scaling;
};

/* Finite numbers of many exponents; of f32 only those that bf16 conversion of no CPU flushes. */
static void *random_source(enum ops_dtype dtype, size_t n)
{
    if (dtype == OPS_F32)
        return ops_random_floats(n, ++seed);
    size_t bytes = n * ops_dtype_bytes(dtype), words = bytes / 8 + 1;
    uint64_t mask = dtype == OPS_F8 ? 0xbfbfbfbfbfbfbfbfull : 0xbfffbfffbfffbfffull;
    uint64_t *v = ops_poisoned(words * 8), state = ++seed;
    for (size_t i = 0; i < words; i++) {
        (void)ops_random(&state);
        v[i] = (state * 0x2545f4914f6cdd1dull) & mask;
    }
    return v;
}

static struct gemm_pack_args pack_of(const struct upload_case *c, const void *src, void *dst)
{
    return (struct gemm_pack_args){.src = src,
                                   .src_dtype = c->src,
                                   .src_stride = c->k + c->gap,
                                   .src_scaling = c->scaling,
                                   .n_rows = c->rows,
                                   .n_first = FIRST,
                                   .n = FIRST + c->rows + TAIL,
                                   .k = c->k,
                                   .dst = dst,
                                   .dst_dtype = c->dst};
}

/* From the panels of the CPU (kernels/ops.h) to rows. */
static void unpack(const struct gemm_pack_args *args, const void *packed, void *rows)
{
    const size_t k = args->k, pairs = (k + 1) / 2;
    for (size_t r = args->n_first; r < args->n_first + args->n_rows; r++)
        for (size_t c = 0; c < k; c++) {
            size_t panel = r / OPS_PANEL_COLS, lane = r % OPS_PANEL_COLS, to = r * k + c;
            if (args->dst_dtype == OPS_F32)
                ((float *)rows)[to] =
                    ((const float *)packed)[(panel * k + c) * OPS_PANEL_COLS + lane];
            else
                ((uint16_t *)rows)[to] =
                    ((const uint16_t *)
                         packed)[((panel * pairs + c / 2) * OPS_PANEL_COLS + lane) * 2 + c % 2];
        }
}

/* The whole matrix as it must stand in the memory of the GPU that was poisoned before. */
static void *wanted_matrix(const struct upload_case *c, const void *src, const float *scale)
{
    struct gemm_pack_args args = pack_of(c, src, NULL);
    size_t elem = ops_dtype_bytes(c->dst), row = c->k * elem;
    char *rows = ops_poisoned(args.n * row);
    if (c->src == c->dst) {
        for (uint32_t r = 0; r < c->rows; r++)
            memcpy(rows + (FIRST + r) * row, (const char *)src + r * (c->k + c->gap) * elem, row);
        return rows;
    }
    void *packed = ops_poisoned(ops_gemm_packed_bytes(c->dst, args.n, c->k));
    args.dst = packed;
    args.src_scale = scale;
    assert_int_equal(cpu->ops->gemm_pack(cpu, &args), ST_OK);
    unpack(&args, packed, rows);
    free(packed);
    return rows;
}

static void check_upload(const struct upload_case *c)
{
    const size_t n = FIRST + c->rows + TAIL, src_elems = c->rows * (size_t)(c->k + c->gap);
    const size_t bytes = n * c->k * ops_dtype_bytes(c->dst);
    const size_t n_scales = n > 64 * 64 ? n : 64 * 64; /* of rows, or of blocks */
    float *scale = c->scaling != OPS_SCALE_NONE ? ops_random_floats(n_scales, ++seed) : NULL;
    float *gpu_scale = scale != NULL ? gpu_copy(scale, n_scales * sizeof(float)) : NULL;
    void *src = random_source(c->src, src_elems), *got = ops_poisoned(bytes);
    void *want = wanted_matrix(c, src, scale), *spare = malloc(src_elems * ops_dtype_bytes(c->src));
    assert_non_null(spare);
    memcpy(spare, src, src_elems * ops_dtype_bytes(c->src));
    for (uint32_t again = 0; again < 3; again++) { /* the third with threads of its own */
        void *dst = gpu_poisoned(ops_gemm_packed_bytes(c->dst, n, c->k));
        struct gemm_pack_args args = pack_of(c, src, dst);
        args.src_scale = gpu_scale;
        assert_int_equal(gpu->ops->gemm_pack(gpu, &args), ST_OK);
        memset(src, 0xff, src_elems * ops_dtype_bytes(c->src));
        gpu_read(got, dst, bytes);
        if (memcmp(got, want, bytes) != 0)
            fail_msg("dtype %u to %u, %u rows of %u, gap %u, time %u: bits differ", c->src, c->dst,
                     c->rows, c->k, c->gap, again);
        memcpy(src, spare, src_elems * ops_dtype_bytes(c->src));
        gpu->ops->free(gpu, dst);
        if (again == 1)
            gpu->ops->load_end(gpu);
    }
    gpu->ops->free(gpu, gpu_scale);
    free(scale), free(src), free(got), free(want), free(spare);
}

static void test_upload_of_many_pieces_has_the_bits_of_the_cpu(void **state)
{
    (void)state;
    static const struct upload_case cases[] = {
        {OPS_BF16, OPS_BF16, ROWS, COLS, 0, OPS_SCALE_NONE},
        {OPS_BF16, OPS_BF16, ROWS, COLS, 13, OPS_SCALE_NONE},
        {OPS_F32, OPS_F32, ROWS, COLS, 1, OPS_SCALE_NONE},
        {OPS_F32, OPS_BF16, ROWS, COLS, 0, OPS_SCALE_NONE},
        {OPS_F32, OPS_BF16, ROWS, COLS, 3, OPS_SCALE_NONE},
        {OPS_F16, OPS_BF16, ROWS, COLS, 0, OPS_SCALE_NONE},
        {OPS_F16, OPS_F32, ROWS, COLS, 7, OPS_SCALE_NONE},
        {OPS_BF16, OPS_F32, ROWS, COLS, 2, OPS_SCALE_NONE},
        {OPS_F8, OPS_F8, ROWS, COLS, 5, OPS_SCALE_NONE},
        {OPS_F8, OPS_BF16, ROWS, COLS, 0, OPS_SCALE_BLOCK},
        {OPS_F8, OPS_F32, ROWS, COLS, 9, OPS_SCALE_ROW},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        check_upload(&cases[i]);
}

static void test_upload_of_few_rows_has_the_bits_of_the_cpu(void **state)
{
    (void)state;
    static const uint32_t cols[] = {1, 7, 64, 4099};
    for (size_t i = 0; i < sizeof(cols) / sizeof(cols[0]); i++) {
        check_upload(&(struct upload_case){OPS_BF16, OPS_BF16, 1, cols[i], 0, OPS_SCALE_NONE});
        check_upload(&(struct upload_case){OPS_BF16, OPS_BF16, 65, cols[i], 1, OPS_SCALE_NONE});
        check_upload(&(struct upload_case){OPS_F16, OPS_F32, 63, cols[i], 2, OPS_SCALE_NONE});
    }
}

/* Rows are cut where bytes go as they are, not where they are converted. */
static void test_upload_of_long_rows(void **state)
{
    (void)state;
    enum { K = 3000001 };
    check_upload(&(struct upload_case){OPS_BF16, OPS_BF16, 3, K, 11, OPS_SCALE_NONE});
    check_upload(&(struct upload_case){OPS_BF16, OPS_F32, 3, K / 2, 11, OPS_SCALE_NONE});
    const struct upload_case c = {OPS_F32, OPS_BF16, 3, K, 0, OPS_SCALE_NONE};
    void *src = random_source(OPS_F32, (size_t)3 * K), *dst = gpu_alloc((size_t)11 * K * 2 + 64);
    struct gemm_pack_args args = pack_of(&c, src, dst);
    assert_int_equal(gpu->ops->gemm_pack(gpu, &args), ST_TOO_LARGE);
    gpu->ops->free(gpu, dst);
    free(src);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_upload_of_few_rows_has_the_bits_of_the_cpu),
        cmocka_unit_test(test_upload_of_many_pieces_has_the_bits_of_the_cpu),
        cmocka_unit_test(test_upload_of_long_rows),
    };
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
