/* Logits of the transformer runner against Hugging Face transformers (make_logits_golden.py
 * describes the file). Error: max |ours - theirs| over a row, relative to the largest |theirs| of
 * the row. */
#include "golden_runner.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

struct reader {
    uint8_t *data;
    size_t bytes, at;
};

static void read_bytes(struct reader *r, void *out, size_t bytes)
{
    assert_true(bytes <= r->bytes - r->at);
    memcpy(out, r->data + r->at, bytes);
    r->at += bytes;
}

static uint32_t read_u32(struct reader *r)
{
    uint32_t value;
    read_bytes(r, &value, sizeof(value));
    return value;
}

static void reader_open(struct reader *r, const char *path)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    r->bytes = (size_t)ftell(f);
    rewind(f);
    r->data = malloc(r->bytes);
    assert_non_null(r->data);
    assert_int_equal(fread(r->data, 1, r->bytes, f), r->bytes);
    r->at = 0;
    fclose(f);
}

static float row_error(const float *ours, const float *theirs, uint32_t n)
{
    float worst = 0, largest = 0;
    for (uint32_t i = 0; i < n; i++) {
        float diff = fabsf(ours[i] - theirs[i]);
        if (!(diff <= worst))
            worst = diff; /* NaN too */
        if (fabsf(theirs[i]) > largest)
            largest = fabsf(theirs[i]);
    }
    return worst / largest;
}

static void check_sequence(struct golden_runner *g, struct reader *r, uint32_t n_vocab,
                           float *worst)
{
    uint32_t n_tokens = read_u32(r), n_positions = read_u32(r), done = 0;
    uint32_t *tokens = calloc(n_tokens, 4), *positions = calloc(n_positions, 4);
    float *theirs = calloc(n_vocab, 4);
    assert_true(tokens != NULL && positions != NULL && theirs != NULL &&
                n_tokens <= GOLDEN_CONTEXT);
    read_bytes(r, tokens, n_tokens * 4ul);
    read_bytes(r, positions, n_positions * 4ul);
    for (uint32_t i = 0; i < n_positions; i++) {
        read_bytes(r, theirs, n_vocab * 4ul);
        assert_int_not_equal(golden_runner_prefill(g, tokens, done, positions[i] + 1), UINT32_MAX);
        done = positions[i] + 1;
        float error = row_error(runner_logits(g->runner), theirs, n_vocab);
        if (!(error <= *worst))
            *worst = error;
    }
    free(tokens);
    free(positions);
    free(theirs);
}

static void check_model(const char *dir, const char *name, enum load_dtype dtype, float limit)
{
    char path[512], magic[8];
    struct golden_runner g;
    struct reader r;
    float worst = 0;
    snprintf(path, sizeof(path), DYND_SOURCE_DIR "/%s", dir);
    assert_int_equal(golden_runner_open(&g, path, dtype), 0);
    snprintf(path, sizeof(path), DYND_SOURCE_DIR "/tests/golden/logits/%s.bin", name);
    reader_open(&r, path);
    read_bytes(&r, magic, sizeof(magic));
    assert_memory_equal(magic, "DYNDLGT1", 8);
    uint32_t n_sequences = read_u32(&r), n_vocab = read_u32(&r);
    assert_int_equal(n_vocab, runner_info(g.runner)->vocab_size);
    assert_true(n_sequences >= 3);
    for (uint32_t i = 0; i < n_sequences; i++)
        check_sequence(&g, &r, n_vocab, &worst);
    assert_int_equal(r.at, r.bytes);
    print_message("%s: largest relative error %.2e, limit %.0e\n", name, (double)worst,
                  (double)limit);
    assert_true(worst <= limit);
    free(r.data);
    golden_runner_close(&g);
}

static void test_logits_llama3_in_f32_equal_transformers(void **state)
{
    (void)state;
    check_model("tests/golden/models/llama3-f32", "llama3-f32", LOAD_DTYPE_AUTO, 1e-4f);
}

static void test_logits_llama3_in_bf16_equal_transformers(void **state)
{
    (void)state;
    check_model("tests/golden/models/llama3-bf16", "llama3-bf16", LOAD_DTYPE_AUTO, 1e-2f);
}

static void test_logits_qwen2_from_shards_equal_transformers(void **state)
{
    (void)state;
    check_model("tests/golden/models/qwen2-sharded", "qwen2-sharded", LOAD_DTYPE_AUTO, 1e-4f);
}

static void test_logits_qwen3_equal_transformers(void **state)
{
    (void)state;
    check_model("tests/golden/models/qwen3-f32", "qwen3-f32", LOAD_DTYPE_AUTO, 1e-4f);
}

static void test_logits_mistral_window_equal_transformers(void **state)
{
    (void)state;
    check_model("tests/golden/models/mistral-f32", "mistral-f32", LOAD_DTYPE_AUTO, 1e-4f);
}

static void test_logits_shipped_model_in_bf16_equal_transformers(void **state)
{
    (void)state;
    check_model("configs/models/dynd-tiny", "dynd-tiny", LOAD_DTYPE_AUTO, 1e-2f);
}

static void test_logits_shipped_model_in_f32_equal_transformers(void **state)
{
    (void)state;
    check_model("configs/models/dynd-tiny", "dynd-tiny", LOAD_DTYPE_F32, 1e-4f);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_logits_llama3_in_f32_equal_transformers),
        cmocka_unit_test(test_logits_llama3_in_bf16_equal_transformers),
        cmocka_unit_test(test_logits_qwen2_from_shards_equal_transformers),
        cmocka_unit_test(test_logits_qwen3_equal_transformers),
        cmocka_unit_test(test_logits_mistral_window_equal_transformers),
        cmocka_unit_test(test_logits_shipped_model_in_bf16_equal_transformers),
        cmocka_unit_test(test_logits_shipped_model_in_f32_equal_transformers),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
