/* rmsnorm against float64. Tolerance: 4e-6 of the largest |w * v| / rms, for sums of at most 1,025
 * squares in f32. */
#include "support/ops_check.h"

static const uint32_t col_counts[] = {1, 7, 16, 63, 64, 65, 128, 1025};

struct norm {
    uint32_t n_rows, n_heads, n_cols;
    float *x, *w, *y, *residual; /* row strides: n_heads * n_cols + 5 */
};

static struct norm norm_make(uint32_t n_rows, uint32_t n_heads, uint32_t n_cols)
{
    size_t n = (size_t)n_rows * (n_heads * n_cols + 5);
    return (struct norm){n_rows,
                         n_heads,
                         n_cols,
                         ops_random_floats(n, 1),
                         ops_random_floats(n_cols, 2),
                         ops_floats(n),
                         ops_random_floats(n, 3)};
}

static void norm_free(struct norm *t)
{
    free(t->x);
    free(t->w);
    free(t->y);
    free(t->residual);
}

static struct rmsnorm_args norm_args(struct norm *t)
{
    uint64_t stride = (uint64_t)t->n_heads * t->n_cols + 5;
    return (struct rmsnorm_args){.x = t->x,
                                 .x_stride = stride,
                                 .w = t->w,
                                 .y = t->y,
                                 .y_stride = stride,
                                 .n_rows = t->n_rows,
                                 .n_heads = t->n_heads,
                                 .n_cols = t->n_cols,
                                 .eps = 1e-5f};
}

/* v: what is normalised, in the layout of y. */
static void check(const struct norm *t, const float *v)
{
    size_t stride = (size_t)t->n_heads * t->n_cols + 5;
    for (uint32_t r = 0; r < t->n_rows; r++) {
        for (uint32_t h = 0; h < t->n_heads; h++) {
            size_t at = r * stride + (size_t)h * t->n_cols;
            double sum = 0.0;
            for (uint32_t c = 0; c < t->n_cols; c++)
                sum += (double)v[at + c] * v[at + c];
            double scale = 1.0 / sqrt(sum / t->n_cols + (double)1e-5f);
            for (uint32_t c = 0; c < t->n_cols; c++)
                ops_assert_near(t->y[at + c], v[at + c] * scale * t->w[c], 4e-6 * scale, "y",
                                at + c);
        }
        ops_assert_poison(t->y + r * stride + stride - 5, 5, "y");
    }
}

static void test_rmsnorm_plain_and_per_head_match_f64(void **state)
{
    (void)state;
    FOR_EACH_ISA(isa)
    {
        struct device *dev = ops_open(isa, 2);
        for (size_t i = 0; i < sizeof(col_counts) / sizeof(col_counts[0]); i++) {
            for (uint32_t n_heads = 1; n_heads <= 3; n_heads++) {
                struct norm t = norm_make(33, n_heads, col_counts[i]);
                struct rmsnorm_args args = norm_args(&t);
                assert_int_equal(dev->ops->rmsnorm(dev, &args), ST_OK);
                check(&t, t.x);
                norm_free(&t);
            }
        }
        device_close(dev);
    }
}

static void test_rmsnorm_residual_is_added_and_written_back(void **state)
{
    (void)state;
    FOR_EACH_ISA(isa)
    {
        struct device *dev = ops_open(isa, 2);
        for (size_t i = 0; i < sizeof(col_counts) / sizeof(col_counts[0]); i++) {
            struct norm t = norm_make(20, 1, col_counts[i]);
            size_t n = 20 * ((size_t)t.n_cols + 5);
            float *before = ops_random_floats(n, 3);
            struct rmsnorm_args args = norm_args(&t);
            args.residual = t.residual;
            args.residual_stride = t.n_cols + 5;
            assert_int_equal(dev->ops->rmsnorm(dev, &args), ST_OK);
            for (size_t j = 0; j < n; j++) {
                bool is_gap = j % (t.n_cols + 5) >= t.n_cols;
                float want = is_gap ? before[j] : before[j] + t.x[j];
                assert_float_equal(t.residual[j], want, 0.0);
            }
            check(&t, t.residual);
            free(before);
            norm_free(&t);
        }
        device_close(dev);
    }
}

static void test_rmsnorm_in_place_equals_out_of_place(void **state)
{
    (void)state;
    struct device *dev = ops_open(CPU_ISA_AUTO, 1);
    struct norm t = norm_make(3, 4, 64);
    struct rmsnorm_args args = norm_args(&t);
    assert_int_equal(dev->ops->rmsnorm(dev, &args), ST_OK);
    args.y = t.x;
    assert_int_equal(dev->ops->rmsnorm(dev, &args), ST_OK);
    for (uint32_t r = 0; r < 3; r++)
        assert_memory_equal(t.x + r * 261, t.y + r * 261, 256 * sizeof(float));
    norm_free(&t);
    device_close(dev);
}

static void test_rmsnorm_bits_do_not_depend_on_rows_or_threads(void **state)
{
    (void)state;
    FOR_EACH_ISA(isa)
    {
        struct norm t = norm_make(65, 1, 1025);
        for (uint32_t n_threads = 1; n_threads <= 3; n_threads++) {
            struct device *dev = ops_open(isa, n_threads);
            struct rmsnorm_args args = norm_args(&t);
            assert_int_equal(dev->ops->rmsnorm(dev, &args), ST_OK);
            float one[1025];
            for (uint32_t r = 0; r < 65; r++) {
                args = norm_args(&t);
                args.x = (const float *)args.x + r * args.x_stride;
                args.y = one;
                args.n_rows = 1;
                assert_int_equal(dev->ops->rmsnorm(dev, &args), ST_OK);
                assert_memory_equal(one, t.y + (size_t)r * 1030, sizeof(one));
            }
            device_close(dev);
        }
        norm_free(&t);
    }
}

static void test_rmsnorm_bad_arguments_are_refused(void **state)
{
    (void)state;
    struct device *dev = ops_open(CPU_ISA_AUTO, 1);
    struct norm t = norm_make(2, 2, 8);
    struct rmsnorm_args args = norm_args(&t);
    args.residual = t.residual;
    args.residual_stride = 21; /* a residual needs n_heads == 1 */
    assert_int_equal(dev->ops->rmsnorm(dev, &args), ST_INVALID);
    args = norm_args(&t);
    args.x_stride = 15;
    assert_int_equal(dev->ops->rmsnorm(dev, &args), ST_INVALID);
    args = norm_args(&t);
    args.n_cols = 0;
    assert_int_equal(dev->ops->rmsnorm(dev, &args), ST_INVALID);
    args = norm_args(&t);
    args.n_rows = 0;
    assert_int_equal(dev->ops->rmsnorm(dev, &args), ST_OK);
    ops_assert_poison(t.y, 42, "y");
    norm_free(&t);
    device_close(dev);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rmsnorm_plain_and_per_head_match_f64),
        cmocka_unit_test(test_rmsnorm_residual_is_added_and_written_back),
        cmocka_unit_test(test_rmsnorm_in_place_equals_out_of_place),
        cmocka_unit_test(test_rmsnorm_bits_do_not_depend_on_rows_or_threads),
        cmocka_unit_test(test_rmsnorm_bad_arguments_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
