#include "text/template.h"
#include "text/tokenizer.h"

#include "tests/support/tokenizer_json.h"

#include <stdlib.h>

#define ADDED(special, normalized)                                                                 \
    "[{\"id\":20,\"content\":\"<s>\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"     \
    "\"normalized\":" normalized ",\"special\":" special "},"                                      \
    "{\"id\":21,\"content\":\"<s>d\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"     \
    "\"normalized\":" normalized ",\"special\":" special "},"                                      \
    "{\"id\":22,\"content\":\"<t>\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"      \
    "\"normalized\":false,\"special\":false}]"

/* "[...]" is trusted, the rest is not; the brackets are no part of the text. */
static void expect_segments(const struct tokenizer *tok, const char *marked, const char *ids)
{
    struct chat_segment segments[32];
    char text[512], got[512] = "";
    uint32_t n = 0;
    size_t bytes = 0, at = 0;
    segments[0] = (struct chat_segment){0};
    for (const char *p = marked; *p != '\0'; p++) {
        if (*p == '[' || *p == ']') {
            segments[n].bytes = (uint32_t)bytes - segments[n].offset;
            segments[++n] = (struct chat_segment){.offset = (uint32_t)bytes, .trusted = *p == '['};
            continue;
        }
        text[bytes++] = *p;
    }
    segments[n].bytes = (uint32_t)bytes - segments[n].offset;
    struct token_buf buf;
    token_buf_init(&buf, 1024);
    assert_int_equal(tokenizer_encode_segments(tok, text, bytes, segments, n + 1, false, &buf),
                     ST_OK);
    for (size_t i = 0; i < buf.len; i++)
        at += (size_t)snprintf(got + at, sizeof(got) - at, "%u ", buf.ids[i]);
    assert_string_equal(got, ids);
    token_buf_deinit(&buf);
}

static void check_trust(const struct tokenizer *tok)
{
    expect_segments(tok, "[<s>]ab[<s>]", "20 7 20 ");
    expect_segments(tok, "[<s>]a<s>b[<s>]", "20 7 20 "); /* "<s>" is not in the vocabulary */
    expect_segments(tok, "<s>a<s>", "0 ");
    expect_segments(tok, "[<s][>]", "20 "); /* trusted runs that touch are one */
    expect_segments(tok, "[<s]>a", "0 ");
    expect_segments(tok, "<[s>]a", "0 ");
    expect_segments(tok, "[]<s>[]", "");
}

static void test_tokenizer_segments_special_token_needs_trusted_text(void **state)
{
    (void)state;
    struct tokenizer *tok =
        tokenizer_json_load(&(struct tokenizer_json){.added = ADDED("true", "false")});
    check_trust(tok);
    tokenizer_free(tok);
    tok = tokenizer_json_load(&(struct tokenizer_json){.added = ADDED("true", "true")});
    check_trust(tok);
    tokenizer_free(tok);
    tok = tokenizer_json_load(&(struct tokenizer_json){.added = ADDED("true", "true"),
                                                       .normalizer = "{\"type\":\"NFC\"}"});
    check_trust(tok);
    expect_segments(tok, "[<s>]ab<s>e\xcc\x81[<s>]", "20 7 20 "); /* not in form C */
    tokenizer_free(tok);
}

static void test_tokenizer_segments_ordinary_added_token_needs_no_trust(void **state)
{
    (void)state;
    struct tokenizer *tok =
        tokenizer_json_load(&(struct tokenizer_json){.added = ADDED("true", "false")});
    expect_segments(tok, "[<s>]a<t>b[<s>]", "20 0 22 1 20 ");
    tokenizer_free(tok);
}

static void test_tokenizer_segments_client_text_cannot_hide_special_token(void **state)
{
    (void)state; /* "-<s>" begins in untrusted text and reaches over a trusted "<s>" */
    static const char added[] =
        "[{\"id\":20,\"content\":\"<s>\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
        "\"normalized\":false,\"special\":true},"
        "{\"id\":21,\"content\":\"-<s>\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
        "\"normalized\":false,\"special\":true}]";
    struct tokenizer *tok = tokenizer_json_load(&(struct tokenizer_json){.added = added});
    expect_segments(tok, "a-[<s>]", "0 6 20 ");
    expect_segments(tok, "a[-<s>]", "0 21 ");
    tokenizer_free(tok);
}

static void test_tokenizer_segments_text_merges_across_borders(void **state)
{
    (void)state;
    struct tokenizer *tok =
        tokenizer_json_load(&(struct tokenizer_json){.added = ADDED("true", "false")});
    expect_segments(tok, "a[b]c", "9 ");
    expect_segments(tok, "[a]b[c]", "9 ");
    expect_segments(tok, "[<s>a]bc", "20 9 ");
    tokenizer_free(tok);
}

static void test_tokenizer_segments_that_do_not_cover_are_refused(void **state)
{
    (void)state;
    struct tokenizer *tok = tokenizer_json_load(&(struct tokenizer_json){0});
    struct token_buf buf;
    token_buf_init(&buf, 16);
    const struct chat_segment gap[] = {{0, 1, 1}, {2, 1, 0}}, lie[] = {{0, 9, 1}},
                              ok[] = {{0, 3, 1}};
    assert_int_equal(tokenizer_encode_segments(tok, "abc", 3, gap, 2, false, &buf), ST_INVALID);
    assert_int_equal(tokenizer_encode_segments(tok, "abc", 3, gap, 1, false, &buf), ST_INVALID);
    assert_int_equal(tokenizer_encode_segments(tok, "abc", 3, lie, 1, false, &buf), ST_INVALID);
    assert_int_equal(tokenizer_encode_segments(tok, "abc", 3, NULL, 0, false, &buf), ST_INVALID);
    assert_int_equal(tokenizer_encode_segments(tok,
                                               "a\xff"
                                               "c",
                                               3, ok, 1, false, &buf),
                     ST_INVALID);
    assert_int_equal(tokenizer_encode_segments(tok, "", 0, NULL, 0, false, &buf), ST_OK);
    assert_int_equal(buf.len, 0);
    buf.max = 0;
    assert_int_equal(tokenizer_encode_segments(tok, "abc", 3, ok, 1, false, &buf), ST_TOO_LARGE);
    token_buf_deinit(&buf);
    tokenizer_free(tok);
}

/* Encodes with random borders; `trust` 0 or 1 for all, 2 for random. */
static void encode_cut(const struct tokenizer *tok, const char *text, size_t bytes, uint32_t trust,
                       bool add_bos, unsigned *seed, struct token_buf *out)
{
    struct chat_segment segments[64];
    uint32_t n = 0;
    size_t at = 0;
    while (at < bytes || n == 0) {
        size_t take = n == 63 ? bytes - at : (size_t)rand_r(seed) % 12;
        take = take > bytes - at ? bytes - at : take;
        segments[n++] = (struct chat_segment){(uint32_t)at, (uint32_t)take,
                                              trust < 2 ? trust : (uint32_t)rand_r(seed) & 1};
        at += take;
    }
    out->len = 0;
    assert_int_equal(tokenizer_encode_segments(tok, text, bytes, segments, n, add_bos, out), ST_OK);
}

static void expect_equal(const struct token_buf *a, const struct token_buf *b)
{
    assert_int_equal(a->len, b->len);
    if (a->len > 0)
        assert_memory_equal(a->ids, b->ids, a->len * sizeof(*a->ids));
}

/* All trusted equals TOK_ALLOW_SPECIAL, none trusted equals no flag, and where there is no special
 * token trust does not matter: on texts put together from awkward parts. */
static void check_family(const char *family, const char *special)
{
    const char *parts[] = {"Hello",
                           " world",
                           "\n\n",
                           "  ",
                           "123456",
                           "e\xcc\x81",
                           "\xe4\xbd\xa0",
                           "'s",
                           "\xf0\x9f\x98\x80",
                           "\xea\xb0\x80\xe1\x86\xa8",
                           "<|",
                           "|>",
                           "\t",
                           special,
                           "Don't",
                           "\xc3\xa9"};
    char path[512], text[1024], err[256];
    snprintf(path, sizeof(path), "%s/tests/golden/tokenizer/%s", DYND_SOURCE_DIR, family);
    struct tokenizer *tok = NULL;
    if (tokenizer_load(path, &tok, err, sizeof(err)) != ST_OK)
        fail_msg("%s", err);
    struct token_buf want, got;
    token_buf_init(&want, 1 << 16);
    token_buf_init(&got, 1 << 16);
    unsigned seed = 7;
    for (int i = 0; i < 600; i++) {
        size_t bytes = 0;
        bool has_special = false;
        for (int n = rand_r(&seed) % 20; n > 0; n--) {
            const char *part = parts[(size_t)rand_r(&seed) % (sizeof(parts) / sizeof(parts[0]))];
            has_special |= part == special;
            memcpy(text + bytes, part, strlen(part));
            bytes += strlen(part);
        }
        bool bos = i % 2 == 0;
        for (uint32_t trust = 0; trust < 3; trust++) {
            if (trust == 2 && has_special)
                continue;
            uint32_t flags = (trust == 1 ? TOK_ALLOW_SPECIAL : 0u) | (bos ? TOK_ADD_BOS : 0u);
            want.len = 0;
            assert_int_equal(tokenizer_encode(tok, text, bytes, flags, &want), ST_OK);
            encode_cut(tok, text, bytes, trust, bos, &seed, &got);
            expect_equal(&got, &want);
        }
    }
    token_buf_deinit(&want);
    token_buf_deinit(&got);
    tokenizer_free(tok);
}

static void test_tokenizer_segments_equal_whole_text_for_real_patterns(void **state)
{
    (void)state;
    check_family("qwen2", "<|im_start|>");
    check_family("llama3", "<|eot_id|>");
    check_family("gpt2", "<|endoftext|>");
    check_family("o200k", "<|endoftext|>");
}

static void test_tokenizer_segments_ids_tokenizer_ignores_trust(void **state)
{
    (void)state;
    struct tokenizer *tok = tokenizer_create_ids(1000);
    assert_non_null(tok);
    expect_segments(tok, "[12 ]7 [3]4", "12 7 34 ");
    tokenizer_free(tok);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tokenizer_segments_special_token_needs_trusted_text),
        cmocka_unit_test(test_tokenizer_segments_ordinary_added_token_needs_no_trust),
        cmocka_unit_test(test_tokenizer_segments_client_text_cannot_hide_special_token),
        cmocka_unit_test(test_tokenizer_segments_text_merges_across_borders),
        cmocka_unit_test(test_tokenizer_segments_that_do_not_cover_are_refused),
        cmocka_unit_test(test_tokenizer_segments_equal_whole_text_for_real_patterns),
        cmocka_unit_test(test_tokenizer_segments_ids_tokenizer_ignores_trust),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
