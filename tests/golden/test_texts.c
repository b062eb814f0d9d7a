/* Greedy continuations of the shipped model against Hugging Face transformers: token for token,
 * over prompts of 1 to 4,000 tokens (make_texts_golden.py describes the file). */
#include "golden_runner.h"

#include "base/json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static cJSON *golden_texts(void)
{
    const char *path = DYND_SOURCE_DIR "/tests/golden/texts/dynd-tiny.json";
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    size_t bytes = (size_t)ftell(f);
    rewind(f);
    char *text = malloc(bytes + 1);
    assert_non_null(text);
    assert_int_equal(fread(text, 1, bytes, f), bytes);
    fclose(f);
    cJSON *root = NULL;
    assert_int_equal(json_parse(text, bytes, 16, &root, NULL), ST_OK);
    free(text);
    return root;
}

static uint32_t ids_of(const cJSON *list, uint32_t *out, uint32_t max)
{
    uint32_t n = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, list)
    {
        assert_true(n < max);
        out[n++] = (uint32_t)item->valuedouble;
    }
    return n;
}

static void test_texts_greedy_continuations_equal_transformers(void **state)
{
    static uint32_t log[GOLDEN_CONTEXT], expect[256];
    struct golden_runner g;
    uint32_t n_texts = 0, n_tokens = 0;
    (void)state;
    assert_int_equal(
        golden_runner_open(&g, DYND_SOURCE_DIR "/configs/models/dynd-tiny", LOAD_DTYPE_AUTO), 0);
    cJSON *root = golden_texts();
    const cJSON *prompt;
    cJSON_ArrayForEach(prompt, json_get(root, "prompts"))
    {
        uint32_t n = ids_of(json_get(prompt, "prompt"), log, GOLDEN_CONTEXT - 256);
        uint32_t n_expect = ids_of(json_get(prompt, "expect"), expect, 256);
        uint32_t token = golden_runner_prefill(&g, log, 0, n);
        for (uint32_t i = 0; i < n_expect; i++, n_tokens++) {
            assert_int_equal(token, expect[i]);
            log[n + i] = token;
            token = golden_runner_step(&g, log, n + i, n + i + 1);
        }
        n_texts++;
    }
    print_message("%u texts, %u tokens\n", n_texts, n_tokens);
    assert_true(n_texts >= 64);
    cJSON_Delete(root);
    golden_runner_close(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_texts_greedy_continuations_equal_transformers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
