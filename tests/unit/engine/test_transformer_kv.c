/* The transformer runner with an fp8 KV cache, on the CPU: which format is chosen, what depends on
 * it, that rows stay independent and blocks portable, and that answers stay close. */
#include "tests/support/kv_scale_model.h"
#include "tests/support/runner_kit.h"

#define SHIPPED DYND_SOURCE_DIR "/configs/models/dynd-tiny"

enum { VOCAB_MAX = 4096, LAYERS = 2, PROMPT = 150 };

static struct model_dir source, scaled;

static int make_dirs(void **state)
{
    (void)state;
    model_dir_make(&source);
    model_dir_make(&scaled);
    tiny_model_write(&source, CONFIG_FP8, NULL, NULL);
    return 0;
}

static int remove_dirs(void **state)
{
    (void)state;
    model_dir_remove(&source);
    model_dir_remove(&scaled);
    return 0;
}

static struct runner_opts opts_of(const char *dir, enum load_dtype dtype, enum kv_dtype kv_dtype)
{
    return (struct runner_opts){.kind = RUNNER_TRANSFORMER,
                                .model_path = dir,
                                .dtype = dtype,
                                .kv_dtype = kv_dtype,
                                .block_tokens = 16,
                                .max_batch_tokens = KIT_TOKENS_MAX,
                                .max_seqs = 4,
                                .n_threads = 1,
                                .layer_groups = 2};
}

static void open_model(struct kit *kit, const char *dir, enum load_dtype dtype,
                       enum kv_dtype kv_dtype)
{
    struct runner_opts opts = opts_of(dir, dtype, kv_dtype);
    kit_open(kit, &opts);
    assert_true(runner_info(kit->runner)->vocab_size <= VOCAB_MAX);
}

static void keep_logits(const struct kit *kit, float out[VOCAB_MAX])
{
    const uint32_t n = runner_info(kit->runner)->vocab_size;
    memset(out, 0, VOCAB_MAX * sizeof(float));
    memcpy(out, runner_logits(kit->runner), n * sizeof(float));
    for (uint32_t i = 0; i < n; i++)
        assert_true(isfinite(out[i]));
}

/* Logits behind a prompt that is computed in pieces of `chunk`. */
static void prompt_logits(const char *dir, enum load_dtype dtype, enum kv_dtype kv_dtype,
                          uint32_t chunk, float out[VOCAB_MAX])
{
    struct kit kit;
    struct kit_seq seq;
    open_model(&kit, dir, dtype, kv_dtype);
    kit_seq_init(&seq, 4, PROMPT, runner_info(kit.runner)->vocab_size, 0);
    kit_finish(&kit, &seq, chunk);
    keep_logits(&kit, out);
    kit_close(&kit);
}

/* ---- what is chosen ---- */

static void test_kv_dtype_is_the_option_then_the_files_then_the_weights(void **state)
{
    static const struct {
        const char *quantization;
        enum load_dtype dtype;
        enum kv_dtype kv_dtype;
        const char *want;
    } cases[] = {
        {"null", LOAD_DTYPE_AUTO, KV_DTYPE_AUTO, "bf16"},
        {"null", LOAD_DTYPE_F32, KV_DTYPE_AUTO, "f32"},
        {"null", LOAD_DTYPE_F32, KV_DTYPE_BF16, "bf16"},
        {"null", LOAD_DTYPE_BF16, KV_DTYPE_F32, "f32"},
        {"null", LOAD_DTYPE_F32, KV_DTYPE_FP8, "fp8"},
        {KV_SCHEME("tensor"), LOAD_DTYPE_AUTO, KV_DTYPE_AUTO, "fp8"},
        {KV_SCHEME("attn_head"), LOAD_DTYPE_F32, KV_DTYPE_AUTO, "fp8"},
        {KV_SCHEME("tensor"), LOAD_DTYPE_AUTO, KV_DTYPE_BF16, "bf16"},
    };
    (void)state;
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char *config = config_with(CONFIG_FP8, "quantization_config", cases[i].quantization);
        struct runner_opts opts = opts_of(scaled.path, cases[i].dtype, cases[i].kv_dtype);
        struct runner_size size;
        struct kit kit;
        kv_scale_model_write(source.path, config, NULL, 0, 0, &scaled);
        free(config);
        kit_open(&kit, &opts);
        const struct kv_geometry *g = runner_geometry(kit.runner);
        const bool is_fp8 = strcmp(cases[i].want, "fp8") == 0;
        assert_string_equal(g->dtype, cases[i].want);
        assert_int_equal(g->elem_bytes, is_fp8 ? 1 : cases[i].want[0] == 'b' ? 2 : 4);
        assert_int_equal(g->block_bytes, (uint64_t)LAYERS * 2 * 2 * 16 * 64 * g->elem_bytes);
        assert_true(runner_info(kit.runner)->kv_unscaled == is_fp8);
        assert_int_equal(runner_measure(&opts, &size, NULL, 0), ST_OK);
        assert_true(size.geometry.layout_hash == g->layout_hash);
        kit_close(&kit);
    }
}

/* Blocks of one format mean nothing in another, in a cache or on the wire. */
static void test_kv_dtype_is_part_of_both_identities(void **state)
{
    static const enum kv_dtype dtypes[] = {KV_DTYPE_BF16, KV_DTYPE_F32, KV_DTYPE_FP8};
    struct hash128 models[3];
    uint64_t layouts[3];
    (void)state;
    for (unsigned i = 0; i < 3; i++) {
        struct kit kit;
        open_model(&kit, source.path, LOAD_DTYPE_BF16, dtypes[i]);
        models[i] = runner_info(kit.runner)->model_hash;
        layouts[i] = runner_geometry(kit.runner)->layout_hash;
        for (unsigned k = 0; k < i; k++) {
            assert_false(hash128_equal(&models[i], &models[k]));
            assert_true(layouts[i] != layouts[k]);
        }
        kit_close(&kit);
    }
}

/* ---- rows and blocks ---- */

static void test_fp8_kv_rows_do_not_depend_on_pieces_or_neighbours(void **state)
{
    static float want[VOCAB_MAX], got[VOCAB_MAX];
    static const uint32_t chunks[] = {PROMPT, 64, 33, 1};
    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        prompt_logits(source.path, LOAD_DTYPE_BF16, KV_DTYPE_FP8, chunks[i], i == 0 ? want : got);
        if (i > 0)
            assert_memory_equal(got, want, sizeof(want));
    }
    struct kit kit;
    struct kit_seq a, b;
    open_model(&kit, source.path, LOAD_DTYPE_BF16, KV_DTYPE_FP8);
    kit_seq_init(&a, 4, PROMPT, 320, 0);
    kit_seq_init(&b, 5, PROMPT, 320, KIT_SEQ_BLOCKS);
    const struct step_item items[2] = {kit_item(&kit, &a, PROMPT, true),
                                       kit_item(&kit, &b, PROMPT, true)};
    assert_int_equal(kit_step(&kit, items, 2, false), ST_OK);
    keep_logits(&kit, got);
    assert_memory_equal(got, want, sizeof(want));
    kit_close(&kit);
}

static void test_fp8_kv_continues_from_copied_blocks(void **state)
{
    static float logits[2][VOCAB_MAX];
    struct kit from, to;
    struct kit_seq a, b;
    (void)state;
    open_model(&from, SHIPPED, LOAD_DTYPE_AUTO, KV_DTYPE_FP8);
    open_model(&to, SHIPPED, LOAD_DTYPE_AUTO, KV_DTYPE_FP8);
    size_t block_bytes = runner_geometry(from.runner)->block_bytes;
    kit_seq_init(&a, 5, 60, runner_info(from.runner)->vocab_size, 0);
    uint32_t token = kit_finish(&from, &a, KIT_TOKENS_MAX);
    b = a;
    for (uint32_t i = 0; i < 4; i++) {
        b.blocks[i] = 40 + 3 * i;
        memcpy(to.pool + b.blocks[i] * block_bytes, from.pool + a.blocks[i] * block_bytes,
               block_bytes);
    }
    kit_decode(&from, &a, token, 12);
    kit_decode(&to, &b, token, 12);
    assert_memory_equal(a.tokens, b.tokens, a.n_tokens * sizeof(uint32_t));
    keep_logits(&from, logits[0]);
    keep_logits(&to, logits[1]);
    assert_memory_equal(logits[0], logits[1], sizeof(logits[0]));
    kit_close(&from);
    kit_close(&to);
}

/* ---- values ---- */

/* max |a - b|, relative to the largest |b| */
static double distance(const float *a, const float *b)
{
    double worst = 0, largest = 0;
    for (uint32_t i = 0; i < VOCAB_MAX; i++) {
        worst = fmax(worst, fabs((double)a[i] - (double)b[i]));
        largest = fmax(largest, fabs((double)b[i]));
    }
    return worst / largest;
}

/* In f32, so that the rounding of keys and values is all that differs. e4m3 rounds each by up to
 * 1/16 of itself, bf16 by 1/256; over a head and over positions that averages out. Wrong scales
 * give distances near 1. */
static void test_fp8_kv_of_the_shipped_model_stays_close(void **state)
{
    static float exact[VOCAB_MAX], bf16[VOCAB_MAX], fp8[VOCAB_MAX];
    (void)state;
    prompt_logits(SHIPPED, LOAD_DTYPE_F32, KV_DTYPE_F32, 16, exact);
    prompt_logits(SHIPPED, LOAD_DTYPE_F32, KV_DTYPE_BF16, 16, bf16);
    prompt_logits(SHIPPED, LOAD_DTYPE_F32, KV_DTYPE_FP8, 16, fp8);
    print_message("logits differ by %.5f of the largest with bf16, %.5f with fp8\n",
                  distance(bf16, exact), distance(fp8, exact));
    assert_true(distance(bf16, exact) < 0.01);
    assert_true(distance(fp8, exact) > distance(bf16, exact));
    assert_true(distance(fp8, exact) < 0.1);
}

static const float fine = 0.02f, tiny = 1e-5f; /* with tiny all saturates at 0.0045 */

static void scaled_logits(const struct kv_scale scales[2], float out[VOCAB_MAX])
{
    kv_scale_model_write(source.path, CONFIG_FP8, scales, 2, LAYERS, &scaled);
    prompt_logits(scaled.path, LOAD_DTYPE_F32, KV_DTYPE_FP8, 16, out);
}

static void test_fp8_kv_is_scaled_by_layer_side_and_head(void **state)
{
    static float exact[VOCAB_MAX], got[5][VOCAB_MAX];
    static const float heads[2][2] = {{0.02f, 1e-5f}, {1e-5f, 0.02f}};
    static const struct kv_scale k_fine = {"self_attn.k_scale", "F32", 0, {0}, &fine, 0};
    static const struct kv_scale v_fine = {"self_attn.v_scale", "F32", 0, {0}, &fine, 0};
    const struct kv_scale forms[5][2] = {
        {k_fine, v_fine},
        {{"self_attn.k_scale", "F32", 0, {0}, &tiny, 0}, v_fine},
        {k_fine, {"self_attn.v_scale", "F32", 0, {0}, &tiny, 0}},
        {k_fine, {"self_attn.v_scale", "F32", 1, {2}, heads[0], 0}},
        {k_fine, {"self_attn.v_scale", "F32", 1, {2}, heads[1], 0}},
    };
    (void)state;
    prompt_logits(source.path, LOAD_DTYPE_F32, KV_DTYPE_F32, 16, exact);
    for (unsigned i = 0; i < 5; i++) {
        scaled_logits(forms[i], got[i]);
        print_message("form %u: %.4f\n", i, distance(got[i], exact));
    }
    assert_true(distance(got[0], exact) < 0.1);
    for (unsigned i = 1; i < 5; i++)
        for (unsigned k = 0; k < i; k++)
            assert_true(distance(got[i], got[k]) > 0.01);
    /* The scales of layer 1 are not those of layer 0. */
    struct kv_scale late[2] = {k_fine, v_fine};
    late[1].step = -0.9995f;
    scaled_logits(late, got[1]);
    assert_true(distance(got[1], got[0]) > 0.01 && distance(got[1], got[2]) > 0.01);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kv_dtype_is_the_option_then_the_files_then_the_weights),
        cmocka_unit_test(test_kv_dtype_is_part_of_both_identities),
        cmocka_unit_test(test_fp8_kv_rows_do_not_depend_on_pieces_or_neighbours),
        cmocka_unit_test(test_fp8_kv_continues_from_copied_blocks),
        cmocka_unit_test(test_fp8_kv_of_the_shipped_model_stays_close),
        cmocka_unit_test(test_fp8_kv_is_scaled_by_layer_side_and_head),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, make_dirs, remove_dirs);
}
