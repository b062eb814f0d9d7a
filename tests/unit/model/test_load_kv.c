/* Scales of an fp8 KV cache: every name, shape and dtype of them that is read, and the sentence for
 * what is not. */
#include "tests/support/kv_scale_model.h"

#include "model/load.h"

enum { LAYERS = 2, HEADS = 2 };

struct fixture {
    struct model_dir source, scaled;
    struct device *dev;
};

static int setup(void **state)
{
    static struct fixture f;
    struct device_opts opts = {.n_threads = 1};
    model_dir_make(&f.source);
    model_dir_make(&f.scaled);
    tiny_model_write(&f.source, CONFIG_FP8, NULL, NULL);
    assert_int_equal(device_open(DEVICE_CPU, &opts, &f.dev), ST_OK);
    *state = &f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    device_close(f->dev);
    model_dir_remove(&f->source);
    model_dir_remove(&f->scaled);
    return 0;
}

/* Loads, and checks that model_load_check says the same. */
static enum status load(const struct fixture *f, const char *dir, struct model_load_opts opts,
                        struct model_weights *w, uint64_t *bytes, uint8_t id[32], char err[256])
{
    char check_err[256] = "";
    struct model_desc d;
    err[0] = '\0';
    opts.dir = dir;
    opts.dtype = OPS_BF16;
    assert_int_equal(model_desc_load(f->source.path, &d, (struct text_error){err, 256}), ST_OK);
    enum status st = model_load(f->dev, &d, &opts, w, id, (struct text_error){err, 256});
    assert_int_equal(model_load_check(&d, &opts, bytes, (struct text_error){check_err, 256}), st);
    assert_string_equal(check_err, err);
    return st;
}

static void write_scales(const struct fixture *f, const struct kv_scale *scales, uint32_t n)
{
    kv_scale_model_write(f->source.path, CONFIG_FP8, scales, n, LAYERS, &f->scaled);
}

static struct model_weights loaded(const struct fixture *f, bool kv_fp8, uint64_t *bytes,
                                   uint8_t id[32])
{
    struct model_weights w;
    char err[256];
    const struct model_load_opts opts = {.kv_fp8 = kv_fp8};
    if (load(f, f->scaled.path, opts, &w, bytes, id, err) != ST_OK)
        fail_msg("%s", err);
    return w;
}

static void refused(const struct fixture *f, const struct kv_scale *scales, uint32_t n,
                    enum status wanted, const char *needle)
{
    struct model_weights w;
    uint64_t bytes;
    uint8_t id[32];
    char err[256];
    write_scales(f, scales, n);
    enum status st =
        load(f, f->scaled.path, (struct model_load_opts){.kv_fp8 = true}, &w, &bytes, id, err);
    if (st != wanted || strstr(err, needle) == NULL)
        fail_msg("%s: got %s, \"%s\"", needle, status_name(st), err);
}

/* 0.375 and 0.75, which f32, bf16 and f16 all have. */
static const float k_f32 = 0.375f, v_f32 = 0.75f;
static const uint16_t k_bf16 = 0x3ec0, v_bf16 = 0x3f40, k_f16 = 0x3600, v_f16 = 0x3a00;

static void test_kv_scales_of_a_layer_are_found_under_every_name(void **state)
{
    static const struct kv_scale forms[][2] = {
        {{"self_attn.k_scale", "F32", 0, {0}, &k_f32, 0},
         {"self_attn.v_scale", "F32", 0, {0}, &v_f32, 0}},
        {{"self_attn.k_scale", "BF16", 1, {1}, &k_bf16, 0},
         {"self_attn.v_scale", "BF16", 1, {1}, &v_bf16, 0}},
        {{"self_attn.k_proj.k_scale", "F32", 1, {1}, &k_f32, 0},
         {"self_attn.v_proj.v_scale", "F16", 0, {0}, &v_f16, 0}},
        {{"self_attn.k_scale", "F16", 3, {1, 1, 1}, &k_f16, 0},
         {"self_attn.v_proj.v_scale", "F32", 2, {1, 1}, &v_f32, 0}},
    };
    const struct fixture *f = *state;
    for (unsigned i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
        uint64_t bytes;
        uint8_t id[32];
        write_scales(f, forms[i], 2);
        struct model_weights w = loaded(f, true, &bytes, id);
        for (uint32_t k = 0; k < LAYERS * 2 * HEADS; k++)
            assert_true(w.kv_scales[k] == (k / HEADS % 2 == 0 ? k_f32 : v_f32));
        model_weights_deinit(&w);
    }
}

static void test_kv_scales_of_heads_lie_in_the_order_of_the_pool(void **state)
{
    static const float k[] = {0.25f, 3.0f}, v[] = {1e-3f, 7.0f};
    static const struct kv_scale heads[] = {
        {"self_attn.k_scale", "F32", 1, {HEADS}, k, 0.5f},
        {"self_attn.v_scale", "F32", 3, {HEADS, 1, 1}, v, 0.5f},
        {"self_attn.q_scale", "F32", 0, {0}, &k_f32, 0}, /* not read */
    };
    static const float want[] = {0.25f,  3.0f, 1e-3f,        7.0f, /* layer 0: K, V */
                                 0.375f, 4.5f, 1e-3f * 1.5f, 10.5f};
    const struct fixture *f = *state;
    uint64_t bytes;
    uint8_t id[32];
    write_scales(f, heads, 3);
    struct model_weights w = loaded(f, true, &bytes, id);
    assert_memory_equal(w.kv_scales, want, sizeof(want));
    model_weights_deinit(&w);
}

static void test_kv_scale_for_both_sides_is_read(void **state)
{
    static const struct kv_scale both = {"self_attn.kv_scale", "F32", 1, {1}, &k_f32, 0};
    const struct fixture *f = *state;
    uint64_t bytes;
    uint8_t id[32];
    write_scales(f, &both, 1);
    struct model_weights w = loaded(f, true, &bytes, id);
    for (uint32_t k = 0; k < LAYERS * 2 * HEADS; k++)
        assert_true(w.kv_scales[k] == k_f32);
    model_weights_deinit(&w);
}

static const struct kv_scale pair[2] = {{"self_attn.k_scale", "F32", 1, {1}, &k_f32, 0},
                                        {"self_attn.v_scale", "F32", 1, {1}, &v_f32, 0}};

static void test_kv_scales_are_left_alone_when_the_cache_is_not_fp8(void **state)
{
    const struct fixture *f = *state;
    uint64_t bytes[2];
    uint8_t id[2][32];
    write_scales(f, pair, 2);
    struct model_weights a = loaded(f, false, &bytes[0], id[0]);
    struct model_weights b = loaded(f, true, &bytes[1], id[1]);
    assert_null(a.kv_scales);
    assert_int_equal(bytes[1] - bytes[0], LAYERS * 2 * HEADS * sizeof(float));
    assert_memory_not_equal(id[0], id[1], 32);
    model_weights_deinit(&a);
    model_weights_deinit(&b);
}

static void test_kv_scales_may_be_missing(void **state)
{
    const struct fixture *f = *state;
    uint64_t bytes;
    uint8_t id[32];
    char err[256];
    struct model_weights w;
    const struct model_load_opts opts = {.kv_fp8 = true};
    assert_int_equal(load(f, f->source.path, opts, &w, &bytes, id, err), ST_OK);
    assert_null(w.kv_scales);
    model_weights_deinit(&w);
    const struct model_load_opts dummy = {.kv_fp8 = true, .dummy = true};
    assert_int_equal(load(f, f->source.path, dummy, &w, &bytes, id, err), ST_OK);
    assert_null(w.kv_scales);
    model_weights_deinit(&w);
}

static void test_kv_scales_of_one_side_alone_are_refused(void **state)
{
    const struct fixture *f = *state;
    refused(f, &pair[0], 1, ST_NOT_FOUND, "model.layers.0.self_attn.v_scale is missing");
    refused(f, &pair[1], 1, ST_NOT_FOUND, "model.layers.0.self_attn.k_scale is missing");
}

static void test_kv_scales_that_are_no_positive_numbers_are_refused(void **state)
{
    const struct fixture *f = *state;
    const float bad[] = {0.0f, -0.5f, NAN, INFINITY, 1e-39f}; /* the inverse of the last is none */
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        const float heads[HEADS] = {0.5f, bad[i]};
        struct kv_scale scales[2] = {pair[0], pair[1]};
        scales[1].data = &bad[i];
        refused(f, scales, 2, ST_INVALID, "model.layers.0.self_attn.v_scale has the scale");
        scales[1] = (struct kv_scale){"self_attn.v_scale", "F32", 1, {HEADS}, heads, 0};
        refused(f, scales, 2, ST_INVALID, "model.layers.0.self_attn.v_scale has the scale");
    }
}

static void test_kv_scales_of_another_shape_or_dtype_are_refused(void **state)
{
    const struct fixture *f = *state;
    static const float many[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    const struct kv_scale bad[] = {
        {"self_attn.k_scale", "F32", 1, {3}, many, 0},
        {"self_attn.k_scale", "F32", 2, {HEADS, 2}, many, 0},
        {"self_attn.k_scale", "F32", 1, {0}, many, 0},
        {"self_attn.k_scale", "I32", 1, {1}, many, 0},
    };
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        const struct kv_scale scales[2] = {bad[i], pair[1]};
        refused(f, scales, 2, i == 3 ? ST_UNSUPPORTED : ST_INVALID,
                "model.layers.0.self_attn.k_scale");
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kv_scales_of_a_layer_are_found_under_every_name),
        cmocka_unit_test(test_kv_scales_of_heads_lie_in_the_order_of_the_pool),
        cmocka_unit_test(test_kv_scale_for_both_sides_is_read),
        cmocka_unit_test(test_kv_scales_are_left_alone_when_the_cache_is_not_fp8),
        cmocka_unit_test(test_kv_scales_may_be_missing),
        cmocka_unit_test(test_kv_scales_of_one_side_alone_are_refused),
        cmocka_unit_test(test_kv_scales_that_are_no_positive_numbers_are_refused),
        cmocka_unit_test(test_kv_scales_of_another_shape_or_dtype_are_refused),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, setup, teardown);
}
