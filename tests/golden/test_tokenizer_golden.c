/* Token ids against the reference implementation, for every string of tests/golden/tokenizer. The
 * files and their layout: make_tokenizer_golden.py. */
#include "text/detok.h"
#include "text/tokenizer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct reader {
    const uint8_t *data;
    size_t bytes, at;
};

static uint64_t read_varint(struct reader *r)
{
    uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
        assert_true(r->at < r->bytes && shift < 63);
        uint8_t byte = r->data[r->at++];
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80)
            return value;
    }
}

static uint64_t fnv1a(const uint8_t *data, size_t bytes)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < bytes; i++)
        h = (h ^ data[i]) * 0x100000001b3u;
    return h;
}

static uint8_t *read_file(const char *path, size_t *out_bytes)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    long bytes = ftell(f);
    assert_true(bytes > 0);
    rewind(f);
    uint8_t *data = malloc((size_t)bytes);
    assert_non_null(data);
    assert_int_equal(fread(data, 1, (size_t)bytes, f), (size_t)bytes);
    fclose(f);
    *out_bytes = (size_t)bytes;
    return data;
}

static void print_case(const char *name, size_t index, const uint8_t *text, size_t n_text,
                       const struct token_buf *got, const uint32_t *want, size_t n_want)
{
    fprintf(stderr, "%s case %zu: text ", name, index);
    for (size_t i = 0; i < n_text; i++)
        fprintf(stderr, "%02x", text[i]);
    fprintf(stderr, "\n  got ");
    for (size_t i = 0; i < got->len; i++)
        fprintf(stderr, " %u", got->ids[i]);
    fprintf(stderr, "\n  want");
    for (size_t i = 0; i < n_want; i++)
        fprintf(stderr, " %u", want[i]);
    fprintf(stderr, "\n");
}

static uint64_t decoded_hash(const struct tokenizer *tok, const uint32_t *ids, size_t n)
{
    struct detok detok;
    struct buf text;
    buf_init(&text, 1 << 20);
    detok_init(&detok, tok, false);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(detok_feed(&detok, ids[i], &text), ST_OK);
    assert_int_equal(detok_flush(&detok, &text), ST_OK);
    uint64_t hash = fnv1a(text.data, text.len);
    buf_deinit(&text);
    return hash;
}

/* One case; true when ids and decoded text are right. */
static bool check_case(const struct tokenizer *tok, const char *name, size_t index,
                       struct reader *r)
{
    static uint32_t want[1 << 16];
    uint64_t flags = read_varint(r);
    size_t n_text = read_varint(r);
    assert_true(n_text <= r->bytes - r->at);
    const uint8_t *text = r->data + r->at;
    r->at += n_text;
    size_t n_want = read_varint(r);
    assert_true(n_want <= sizeof(want) / sizeof(want[0]));
    for (size_t i = 0; i < n_want; i++)
        want[i] = (uint32_t)read_varint(r);
    uint64_t hash;
    assert_true(r->bytes - r->at >= sizeof(hash));
    memcpy(&hash, r->data + r->at, sizeof(hash));
    r->at += sizeof(hash);

    struct token_buf got;
    token_buf_init(&got, 1 << 16);
    uint32_t mode =
        ((flags & 1) != 0 ? TOK_ALLOW_SPECIAL : 0) | ((flags & 2) != 0 ? TOK_ADD_BOS : 0);
    assert_int_equal(tokenizer_encode(tok, (const char *)text, n_text, mode, &got), ST_OK);
    bool fine =
        got.len == n_want && (n_want == 0 || memcmp(got.ids, want, n_want * sizeof(want[0])) == 0);
    if (!fine)
        print_case(name, index, text, n_text, &got, want, n_want);
    if (hash != 0 && decoded_hash(tok, want, n_want) != hash) {
        fprintf(stderr, "%s case %zu: decoded text differs\n", name, index);
        fine = false;
    }
    token_buf_deinit(&got);
    return fine;
}

static void check_family(const char *name, size_t n_min)
{
    char path[512], err[256];
    struct tokenizer *tok;
    snprintf(path, sizeof(path), "%s/tests/golden/tokenizer/%s", DYND_SOURCE_DIR, name);
    if (tokenizer_load(path, &tok, err, sizeof(err)) != ST_OK)
        fail_msg("%s", err);
    snprintf(path, sizeof(path), "%s/tests/golden/tokenizer/%s/cases.bin", DYND_SOURCE_DIR, name);
    struct reader r = {0};
    uint8_t *data = read_file(path, &r.bytes);
    r.data = data;
    assert_true(r.bytes > 8 && memcmp(data, "DYNDTOK1", 8) == 0);
    r.at = 8;
    size_t n = read_varint(&r), n_wrong = 0;
    assert_true(n >= n_min);
    for (size_t i = 0; i < n; i++)
        n_wrong += !check_case(tok, name, i, &r);
    assert_int_equal(r.at, r.bytes);
    printf("%s: %zu strings, %zu wrong\n", name, n, n_wrong);
    assert_int_equal(n_wrong, 0);
    free(data);
    tokenizer_free(tok);
}

static void test_llama3_ids_equal_reference(void **state)
{
    (void)state;
    check_family("llama3", 1700);
}

static void test_qwen2_ids_equal_reference(void **state)
{
    (void)state;
    check_family("qwen2", 1700);
}

static void test_o200k_ids_equal_reference(void **state)
{
    (void)state;
    check_family("o200k", 1700);
}

static void test_gpt2_ids_equal_reference(void **state)
{
    (void)state;
    check_family("gpt2", 600);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_llama3_ids_equal_reference),
        cmocka_unit_test(test_qwen2_ids_equal_reference),
        cmocka_unit_test(test_o200k_ids_equal_reference),
        cmocka_unit_test(test_gpt2_ids_equal_reference),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
