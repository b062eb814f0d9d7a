/* silu_mul against float64, and the exp that it and attention use.
 * Tolerances: exp 2e-7 relative in [-87, 88]; silu_mul 6e-7 relative to |result| + 1e-35. */
#include "support/ops_check.h"

static const uint32_t col_counts[] = {1, 7, 15, 16, 17, 63, 64, 65, 500};

static void test_silu_mul_odd_sizes_match_f64(void **state)
{
    (void)state;
    FOR_EACH_ISA(isa)
    {
        struct device *dev = ops_open(isa, 2);
        for (size_t i = 0; i < sizeof(col_counts) / sizeof(col_counts[0]); i++) {
            uint32_t n = col_counts[i], x_stride = 2 * n + 1, y_stride = n + 2;
            float *x = ops_random_floats(65 * (size_t)x_stride, i);
            float *y = ops_floats(65 * (size_t)y_stride);
            for (size_t j = 0; j < 65 * (size_t)x_stride; j++)
                x[j] *= 40.0f;
            struct silu_mul_args args = {x, x_stride, y, y_stride, OPS_F32, 65, n};
            assert_int_equal(dev->ops->silu_mul(dev, &args), ST_OK);
            for (uint32_t r = 0; r < 65; r++) {
                for (uint32_t c = 0; c < n; c++) {
                    double g = x[r * x_stride + c], u = x[r * x_stride + n + c];
                    double want = g / (1.0 + exp(-g)) * u;
                    ops_assert_near(y[r * y_stride + c], want, 6e-7 * fabs(want) + 1e-35, "y", c);
                }
                ops_assert_poison(y + r * y_stride + n, 2, "y");
            }
            free(x);
            free(y);
        }
        device_close(dev);
    }
}

static void test_silu_mul_in_place_and_by_row_equal_the_batch(void **state)
{
    (void)state;
    enum { N = 77, ROWS = 130 };
    FOR_EACH_ISA(isa)
    {
        struct device *dev = ops_open(isa, 3);
        float *x = ops_random_floats(ROWS * 2 * N, 4), *y = ops_floats(ROWS * 2 * N);
        struct silu_mul_args args = {x, 2 * N, y, 2 * N, OPS_F32, ROWS, N};
        assert_int_equal(dev->ops->silu_mul(dev, &args), ST_OK);
        for (uint32_t r = 0; r < ROWS; r++) {
            struct silu_mul_args one = {x + r * 2 * N, 2 * N, x + r * 2 * N, 2 * N, OPS_F32, 1, N};
            assert_int_equal(dev->ops->silu_mul(dev, &one), ST_OK);
            assert_memory_equal(x + r * 2 * N, y + r * 2 * N, N * sizeof(float));
        }
        free(x);
        free(y);
        device_close(dev);
    }
}

static void test_silu_mul_bad_arguments_are_refused(void **state)
{
    (void)state;
    struct device *dev = ops_open(CPU_ISA_AUTO, 1);
    float x[8] = {0}, y[4] = {0};
    struct silu_mul_args args = {x, 7, y, 4, OPS_F32, 1, 4};
    assert_int_equal(dev->ops->silu_mul(dev, &args), ST_INVALID);
    args = (struct silu_mul_args){x, 8, y, 3, OPS_F32, 1, 4};
    assert_int_equal(dev->ops->silu_mul(dev, &args), ST_INVALID);
    args = (struct silu_mul_args){x, 8, y, 4, OPS_F32, 1, 0};
    assert_int_equal(dev->ops->silu_mul(dev, &args), ST_INVALID);
    device_close(dev);
}

static void test_exp_stays_within_its_error(void **state)
{
    (void)state;
    enum { N = 1 << 16 };
    float *src = ops_floats(N), *dst = ops_floats(N), *first = ops_floats(N);
    for (uint32_t part = 0; part < 16; part++) {
        for (uint32_t i = 0; i < N; i++)
            src[i] = -87.0f + 175.0f * ((float)(part * N + i) / (16.0f * N));
        FOR_EACH_ISA(isa)
        {
            cpu_exp_f32(src, dst, N - part, isa);
            for (uint32_t i = 0; i < N - part; i++) {
                double want = exp((double)src[i]);
                ops_assert_near(dst[i], want, 2e-7 * want, "exp", i);
            }
            if (isa == CPU_ISA_SCALAR)
                memcpy(first, dst, N * sizeof(float));
            assert_memory_equal(dst, first, (N - part) * sizeof(float));
        }
    }
    free(src);
    free(dst);
    free(first);
}

static void test_exp_ends_are_as_stated(void **state)
{
    (void)state;
    const float src[7] = {-INFINITY, -87.1f, -1e30f, 0.0f, 88.5f, INFINITY, NAN};
    FOR_EACH_ISA(isa)
    {
        float dst[7];
        cpu_exp_f32(src, dst, 7, isa);
        assert_true(dst[0] == 0.0f && dst[1] == 0.0f && dst[2] == 0.0f && dst[3] == 1.0f);
        ops_assert_near(dst[4], exp(88.0), 2e-7 * exp(88.0), "exp", 4);
        ops_assert_near(dst[5], exp(88.0), 2e-7 * exp(88.0), "exp", 5);
        assert_true(isnan(dst[6]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_silu_mul_odd_sizes_match_f64),
        cmocka_unit_test(test_silu_mul_in_place_and_by_row_equal_the_batch),
        cmocka_unit_test(test_silu_mul_bad_arguments_are_refused),
        cmocka_unit_test(test_exp_stays_within_its_error),
        cmocka_unit_test(test_exp_ends_are_as_stated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
