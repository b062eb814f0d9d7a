/* rope against float64, the angle taken as the f32 product that the op's contract states.
 * Tolerance: 4e-7 for |x| <= 1. */
#include "support/ops_check.h"

#define N_ROWS  65u
#define N_HEADS 3u

static void run_and_check(struct device *dev, uint32_t head_dim, uint32_t n_rot, float attn_scale)
{
    uint32_t stride = N_HEADS * head_dim + 2, pos[N_ROWS];
    float inv_freq[OPS_HEAD_DIM_MAX / 2];
    float *x = ops_random_floats((size_t)N_ROWS * stride, 5);
    float *was = ops_random_floats((size_t)N_ROWS * stride, 5);
    for (uint32_t r = 0; r < N_ROWS; r++)
        pos[r] = r * r * 31; /* up to 126,976 */
    for (uint32_t i = 0; i < n_rot / 2; i++)
        inv_freq[i] = (float)pow(10000.0, -2.0 * i / n_rot);
    struct rope_args args = {.x = x,
                             .x_stride = stride,
                             .pos = pos,
                             .inv_freq = inv_freq,
                             .n_rows = N_ROWS,
                             .n_heads = N_HEADS,
                             .head_dim = head_dim,
                             .n_rot = n_rot,
                             .attn_scale = attn_scale};
    assert_int_equal(dev->ops->rope(dev, &args), ST_OK);
    for (uint32_t r = 0; r < N_ROWS; r++) {
        for (uint32_t c = 0; c < stride; c++) {
            size_t at = (size_t)r * stride + c;
            uint32_t d = c % head_dim, half = n_rot / 2;
            if (c >= N_HEADS * head_dim || d >= n_rot) {
                assert_float_equal(x[at], was[at], 0.0);
                continue;
            }
            uint32_t i = d % half;
            double angle = (float)pos[r] * inv_freq[i];
            double a = was[at - d + i], b = was[at - d + i + half];
            double want =
                d < half ? a * cos(angle) - b * sin(angle) : b * cos(angle) + a * sin(angle);
            ops_assert_near(x[at], want * attn_scale, 4e-7, "x", at);
        }
    }
    free(x);
    free(was);
}

static void test_rope_full_and_partial_match_f64(void **state)
{
    (void)state;
    FOR_EACH_ISA(isa)
    {
        struct device *dev = ops_open(isa, 2);
        run_and_check(dev, 64, 64, 1.0f);
        run_and_check(dev, 128, 128, 1.0f);
        run_and_check(dev, 96, 96, 1.1f);
        run_and_check(dev, 256, 256, 1.0f);
        run_and_check(dev, 32, 32, 1.0f);
        run_and_check(dev, 128, 48, 1.0f);
        run_and_check(dev, 16, 2, 1.0f);
        device_close(dev);
    }
}

static void test_rope_bits_do_not_depend_on_rows(void **state)
{
    (void)state;
    struct device *dev = ops_open(CPU_ISA_AUTO, 3);
    float inv_freq[32];
    uint32_t pos[400];
    for (uint32_t i = 0; i < 32; i++)
        inv_freq[i] = 1.0f / (float)(i + 1);
    for (uint32_t r = 0; r < 400; r++)
        pos[r] = 7 * r;
    float *all = ops_random_floats(400 * 64, 1), *single = ops_random_floats(400 * 64, 1);
    struct rope_args args = {.x = all,
                             .x_stride = 64,
                             .pos = pos,
                             .inv_freq = inv_freq,
                             .n_rows = 400,
                             .n_heads = 1,
                             .head_dim = 64,
                             .n_rot = 64,
                             .attn_scale = 1.0f};
    assert_int_equal(dev->ops->rope(dev, &args), ST_OK);
    args.n_rows = 1;
    for (uint32_t r = 0; r < 400; r++) {
        args.x = single + r * 64;
        args.pos = pos + r;
        assert_int_equal(dev->ops->rope(dev, &args), ST_OK);
    }
    assert_memory_equal(all, single, 400 * 64 * sizeof(float));
    free(all);
    free(single);
    device_close(dev);
}

static void test_rope_bad_arguments_are_refused(void **state)
{
    (void)state;
    struct device *dev = ops_open(CPU_ISA_AUTO, 1);
    float x[64] = {0}, inv_freq[32] = {0};
    uint32_t pos[1] = {1};
    struct rope_args good = {x, 64, pos, inv_freq, 1, 1, 64, 64, 1.0f}, args = good;
    args.n_rot = 63;
    assert_int_equal(dev->ops->rope(dev, &args), ST_INVALID);
    args = good;
    args.n_rot = 66;
    assert_int_equal(dev->ops->rope(dev, &args), ST_INVALID);
    args = good;
    args.head_dim = 258;
    assert_int_equal(dev->ops->rope(dev, &args), ST_INVALID);
    args = good;
    args.x_stride = 63;
    assert_int_equal(dev->ops->rope(dev, &args), ST_INVALID);
    args = good;
    args.n_rows = 0;
    assert_int_equal(dev->ops->rope(dev, &args), ST_OK);
    device_close(dev);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rope_full_and_partial_match_f64),
        cmocka_unit_test(test_rope_bits_do_not_depend_on_rows),
        cmocka_unit_test(test_rope_bad_arguments_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
