/* The transformer runner on fp8 checkpoints, on the CPU: the same bits as the plain checkpoint of
 * the same values, and the shipped model stays close to itself when it is quantised. */
#include "tests/support/fp8_model.h"
#include "tests/support/runner_kit.h"

#define SHIPPED DYND_SOURCE_DIR "/configs/models/dynd-tiny"

enum { VOCAB_MAX = 4096, PROMPT = 70, DECODED = 5 };

static struct model_dir source, fp8, plain;

static int make_dirs(void **state)
{
    (void)state;
    model_dir_make(&source);
    model_dir_make(&fp8);
    model_dir_make(&plain);
    tiny_model_write(&source, CONFIG_FP8, NULL, NULL);
    return 0;
}

static int remove_dirs(void **state)
{
    (void)state;
    model_dir_remove(&source);
    model_dir_remove(&fp8);
    model_dir_remove(&plain);
    return 0;
}

/* Tokens of a prompt and of what follows greedily; the logits behind the prompt and behind all. */
struct answer {
    uint32_t tokens[KIT_TOKENS_MAX];
    float logits[2][VOCAB_MAX];
    uint8_t model_hash[16];
};

static void run(const char *dir, enum load_dtype dtype, struct answer *out)
{
    struct kit kit;
    struct kit_seq seq;
    struct runner_opts opts = {.kind = RUNNER_TRANSFORMER,
                               .model_path = dir,
                               .dtype = dtype,
                               .block_tokens = 16,
                               .max_batch_tokens = KIT_TOKENS_MAX,
                               .max_seqs = 2,
                               .n_threads = 1};
    kit_open(&kit, &opts);
    const struct runner_info *info = runner_info(kit.runner);
    assert_true(info->vocab_size <= VOCAB_MAX);
    kit_seq_init(&seq, 4, PROMPT, info->vocab_size, 0);
    memset(out->logits, 0, sizeof(out->logits));
    uint32_t token = kit_finish(&kit, &seq, 33);
    memcpy(out->logits[0], runner_logits(kit.runner), info->vocab_size * sizeof(float));
    kit_decode(&kit, &seq, token, DECODED);
    memcpy(out->logits[1], runner_logits(kit.runner), info->vocab_size * sizeof(float));
    memcpy(out->tokens, seq.tokens, sizeof(out->tokens));
    memcpy(out->model_hash, info->model_hash.bytes, sizeof(out->model_hash));
    kit_close(&kit);
}

static void assert_same(const struct answer *a, const struct answer *b)
{
    assert_memory_equal(a->tokens, b->tokens, (PROMPT + DECODED) * sizeof(uint32_t));
    assert_memory_equal(a->logits, b->logits, sizeof(a->logits));
}

static void test_fp8_gives_the_bits_of_the_plain_model(void **state)
{
    static struct answer a, b;
    (void)state;
    for (unsigned i = 0; i < 2 * FP8_FORMS; i++) {
        enum load_dtype dtype = i % 2 == 0 ? LOAD_DTYPE_AUTO : LOAD_DTYPE_F32;
        fp8_model_write(source.path, CONFIG_FP8, &fp8_forms[i / 2], &fp8, &plain);
        run(fp8.path, dtype, &a);
        run(plain.path, dtype, &b);
        assert_same(&a, &b);
        assert_memory_not_equal(a.model_hash, b.model_hash, sizeof(a.model_hash));
    }
}

/* Behind the prompt: max |a - b|, relative to the largest |b|. */
static double logits_distance(const struct answer *a, const struct answer *b)
{
    double worst = 0, largest = 0;
    for (uint32_t i = 0; i < VOCAB_MAX; i++) {
        worst = fmax(worst, fabs((double)a->logits[0][i] - (double)b->logits[0][i]));
        largest = fmax(largest, fabs((double)b->logits[0][i]));
    }
    return worst / largest;
}

static char *read_text(const char *path)
{
    char *text = calloc(1, 1u << 16);
    FILE *f = fopen(path, "rb");
    assert_true(text != NULL && f != NULL);
    assert_true(fread(text, 1, (1u << 16) - 1, f) > 0);
    fclose(f);
    return text;
}

/* In f32, so that what is compared with the original is the rounding to fp8 alone: up to 1/16 of
 * each weight. Wrong scales give distances above 1. */
static void test_fp8_of_the_shipped_model_stays_close(void **state)
{
    static struct answer original, a, b;
    char *config = read_text(SHIPPED "/config.json");
    (void)state;
    run(SHIPPED, LOAD_DTYPE_F32, &original);
    for (unsigned i = 0; i < FP8_FORMS; i++) {
        struct fp8_form form = fp8_forms[i];
        form.with_head = false; /* tied */
        fp8_model_write(SHIPPED, config, &form, &fp8, &plain);
        run(fp8.path, LOAD_DTYPE_F32, &a);
        run(plain.path, LOAD_DTYPE_F32, &b);
        assert_same(&a, &b);
        double distance = logits_distance(&a, &original);
        print_message("%s %s: logits differ by %.3f of the largest\n", form.scale_name,
                      form.scale_dtype, distance);
        assert_true(distance > 0.005 && distance < 0.2);
    }
    free(config);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fp8_gives_the_bits_of_the_plain_model),
        cmocka_unit_test(test_fp8_of_the_shipped_model_stays_close),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, make_dirs, remove_dirs);
}
