#include "text/tokenizer.h"

#include "tests/support/tokenizer_json.h"

#include <pthread.h>
#include <stdlib.h>

static void test_tokenizer_encode_merges_lowest_rank_first(void **state)
{
    (void)state;
    struct tokenizer *tok = tokenizer_json_load(&(struct tokenizer_json){0});
    EXPECT_IDS(tok, "abc", 0, "9 ");    /* b+c, then a+bc */
    EXPECT_IDS(tok, "abcd", 0, "9 3 "); /* not ab+cd: b+c came first */
    EXPECT_IDS(tok, "cab", 0, "2 7 ");
    EXPECT_IDS(tok, "aaaaa", 0, "14 0 ");
    EXPECT_IDS(tok, "a a", 0, "0 10 ");
    EXPECT_IDS(tok, "", 0, "");
    tokenizer_free(tok);
}

static void test_tokenizer_encode_twice_gives_the_same(void **state)
{
    (void)state; /* the second time a remembered answer is used */
    struct tokenizer *tok = tokenizer_json_load(&(struct tokenizer_json){0});
    for (int i = 0; i < 3; i++) {
        EXPECT_IDS(tok, "abcd", 0, "9 3 ");
        EXPECT_IDS(tok, "dead", 0, "3 4 0 3 ");
        EXPECT_IDS(tok, "abc", 0, "9 ");
    }
    tokenizer_free(tok);
}

static void test_tokenizer_encode_ignore_merges_takes_whole_words(void **state)
{
    (void)state;
    struct tokenizer *tok =
        tokenizer_json_load(&(struct tokenizer_json){.model_extra = "\"ignore_merges\":true,"});
    EXPECT_IDS(tok, "abcd", 0, "12 ");
    EXPECT_IDS(tok, "dead", 0, "15 ");
    EXPECT_IDS(tok, "deadb", 0, "3 4 0 3 1 ");
    tokenizer_free(tok);
}

static void test_tokenizer_merges_as_pairs_equal_merges_as_strings(void **state)
{
    (void)state;
    struct tokenizer *tok = tokenizer_json_load(&(struct tokenizer_json){
        .merges = "[[\"b\",\"c\"],[\"a\",\"b\"],[\"a\",\"bc\"] , [\"\\u0120\",\"a\"]]"});
    EXPECT_IDS(tok, "abc ab", 0, "9 5 7 ");
    tokenizer_free(tok);
}

static void test_tokenizer_bytes_outside_vocabulary_are_dropped(void **state)
{
    (void)state; /* as the reference does without an unknown token */
    struct tokenizer *tok = tokenizer_json_load(&(struct tokenizer_json){0});
    EXPECT_IDS(tok, "aZb", 0, "7 ");
    EXPECT_IDS(tok, "ZZ", 0, "");
    tokenizer_free(tok);
}

/* The definition of BPE, quadratic: merge table of tests/support/tokenizer_json.h. */
static size_t naive_encode(const char *text, size_t n, uint32_t *ids)
{
    static const uint32_t merges[][3] = {{1, 2, 8},  {0, 1, 7},   {0, 8, 9},  {5, 0, 10},
                                         {2, 3, 11}, {7, 11, 12}, {0, 0, 13}, {13, 13, 14}};
    for (size_t i = 0; i < n; i++)
        ids[i] = text[i] == ' ' ? 5 : (uint32_t)(text[i] - 'a');
    for (;;) {
        size_t best = SIZE_MAX, best_rank = 8;
        for (size_t i = 0; i + 1 < n; i++)
            for (size_t r = 0; r < best_rank; r++)
                if (merges[r][0] == ids[i] && merges[r][1] == ids[i + 1]) {
                    best_rank = r;
                    best = i;
                }
        if (best == SIZE_MAX)
            return n;
        ids[best] = merges[best_rank][2];
        memmove(&ids[best + 1], &ids[best + 2], (n - best - 2) * sizeof(*ids));
        n--;
    }
}

static void test_tokenizer_encode_any_length_equals_definition(void **state)
{
    (void)state;
    struct tokenizer *tok = tokenizer_json_load(&(struct tokenizer_json){0});
    unsigned seed = 7;
    for (size_t n = 1; n < 400; n++) {
        char text[400];
        uint32_t want[400];
        for (size_t i = 0; i < n; i++)
            text[i] = "aaabcde "[rand_r(&seed) % 8];
        size_t n_want = naive_encode(text, n, want);
        struct token_buf got;
        token_buf_init(&got, 400);
        assert_int_equal(tokenizer_encode(tok, text, n, 0, &got), ST_OK);
        assert_int_equal(got.len, n_want);
        assert_memory_equal(got.ids, want, n_want * sizeof(*want));
        token_buf_deinit(&got);
    }
    tokenizer_free(tok);
}

static void test_tokenizer_encode_long_piece_drops_stale_candidates(void **state)
{
    (void)state; /* a+b has rank 1; once b+c is merged, a+bc must wait for its own rank 3 */
    struct tokenizer *tok = tokenizer_json_load(&(struct tokenizer_json){
        .vocab = "{\"a\":0,\"b\":1,\"c\":2,\"d\":3,\"bc\":4,\"ab\":5,\"bcd\":6,\"abc\":7}",
        .merges = "[\"b c\",\"a b\",\"bc d\",\"a bc\"]"});
    char text[4 * 50 + 1] = "", want[4 * 50 + 1] = "";
    for (int i = 0; i < 50; i++) {
        strcat(text, "abcd");
        strcat(want, "0 6 ");
    }
    EXPECT_IDS(tok, "abcd", 0, "0 6 ");
    EXPECT_IDS(tok, text, 0, want);
    tokenizer_free(tok);
}

/* --- added tokens --- */

#define ADDED                                                                                      \
    "[{\"id\":20,\"content\":\"<s>\",\"special\":true,\"normalized\":false},"                      \
    "{\"id\":21,\"content\":\"<s>x\",\"special\":true,\"normalized\":false},"                      \
    "{\"id\":22,\"content\":\"<t>\",\"special\":false,\"normalized\":false},"                      \
    "{\"id\":23,\"content\":\"<l>\",\"special\":false,\"normalized\":false,\"lstrip\":true},"      \
    "{\"id\":24,\"content\":\"<r>\",\"special\":false,\"normalized\":false,\"rstrip\":true},"      \
    "{\"id\":25,\"content\":\"W\",\"special\":false,\"normalized\":false,\"single_word\":true},"   \
    "{\"id\":15,\"content\":\"dead\",\"special\":true,\"normalized\":true}]"

static void test_tokenizer_special_text_needs_flag(void **state)
{
    (void)state;
    struct tokenizer *tok = tokenizer_json_load(&(struct tokenizer_json){.added = ADDED});
    EXPECT_IDS(tok, "a<s>b", TOK_ALLOW_SPECIAL, "0 20 1 ");
    EXPECT_IDS(tok, "a<s>b", 0, "7 "); /* the brackets and the s are not in this vocabulary */
    EXPECT_IDS(tok, "a<s>b", TOK_PLAIN_TEXT, "7 ");
    EXPECT_IDS(tok, "a<s>b", TOK_PLAIN_TEXT | TOK_ALLOW_SPECIAL, "7 ");
    EXPECT_IDS(tok, "a<s>xb", TOK_ALLOW_SPECIAL, "0 21 1 "); /* longest */
    tokenizer_free(tok);
}

static void test_tokenizer_plain_added_token_is_recognised_unless_plain_text(void **state)
{
    (void)state;
    struct tokenizer *tok = tokenizer_json_load(&(struct tokenizer_json){.added = ADDED});
    EXPECT_IDS(tok, "a<t>b", 0, "0 22 1 ");
    EXPECT_IDS(tok, "a<t>b", TOK_PLAIN_TEXT, "7 ");
    tokenizer_free(tok);
}

static void test_tokenizer_added_token_options_take_white_space_and_words(void **state)
{
    (void)state;
    struct tokenizer *tok = tokenizer_json_load(&(struct tokenizer_json){.added = ADDED});
    EXPECT_IDS(tok, "a  <l> b", 0, "0 23 5 1 ");
    EXPECT_IDS(tok, "a <r>  b", 0, "0 5 24 1 ");
    EXPECT_IDS(tok, "a\xe3\x80\x80<l>", 0, "0 23 "); /* U+3000 is white space too */
    EXPECT_IDS(tok, "W a W", 0, "25 10 5 25 ");
    EXPECT_IDS(tok, "aW Wb", 0, "0 5 1 ");
    tokenizer_free(tok);
}

static void test_tokenizer_text_never_becomes_special_by_vocabulary(void **state)
{
    (void)state;
    struct tokenizer_json parts = {
        .added = "[{\"id\":15,\"content\":\"dead\",\"special\":true,\"normalized\":false},"
                 "{\"id\":9,\"content\":\"abc\",\"special\":true,\"normalized\":false}]",
        .model_extra = "\"ignore_merges\":true,",
    };
    struct tokenizer *tok = tokenizer_json_load(&parts);
    EXPECT_IDS(tok, "dead", TOK_ALLOW_SPECIAL, "15 ");
    EXPECT_IDS(tok, "dead", 0, "3 4 0 3 "); /* not by the whole-word lookup */
    EXPECT_IDS(tok, "abc", 0, "0 8 ");      /* not by the merge a+bc */
    tokenizer_free(tok);
}

static void test_tokenizer_add_bos_wraps_text_as_template_says(void **state)
{
    (void)state;
    struct tokenizer_json parts = {
        .added = ADDED,
        .post_processor =
            "{\"type\":\"Sequence\",\"processors\":[{\"type\":\"ByteLevel\"},"
            "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\"}},"
            "{\"Sequence\":{\"id\":\"A\"}},{\"SpecialToken\":{\"id\":\"E\"}}],\"pair\":[],"
            "\"special_tokens\":{\"<s>\":{\"id\":\"<s>\",\"ids\":[20],\"tokens\":[\"<s>\"]},"
            "\"E\":{\"id\":\"E\",\"ids\":[21,22],\"tokens\":[\"x\",\"y\"]}}}]}",
    };
    struct tokenizer *tok = tokenizer_json_load(&parts);
    uint32_t bos;
    EXPECT_IDS(tok, "abc", TOK_ADD_BOS, "20 9 21 22 ");
    EXPECT_IDS(tok, "", TOK_ADD_BOS, "20 21 22 ");
    EXPECT_IDS(tok, "abc", 0, "9 ");
    assert_true(tokenizer_bos_id(tok, &bos));
    assert_int_equal(bos, 20);
    tokenizer_free(tok);
    tok = tokenizer_json_load(&(struct tokenizer_json){0});
    assert_false(tokenizer_bos_id(tok, &bos));
    EXPECT_IDS(tok, "abc", TOK_ADD_BOS, "9 ");
    tokenizer_free(tok);
}

/* --- lookups and bounds --- */

static void test_tokenizer_lookups_answer_for_known_and_unknown_ids(void **state)
{
    (void)state;
    struct tokenizer *tok = tokenizer_json_load(&(struct tokenizer_json){.added = ADDED});
    const uint8_t *bytes;
    size_t n;
    uint32_t id;
    assert_int_equal(tokenizer_vocab_size(tok), 26);
    tokenizer_token_bytes(tok, 10, &bytes, &n);
    assert_int_equal(n, 2);
    assert_memory_equal(bytes, " a", 2);
    tokenizer_token_bytes(tok, 20, &bytes, &n);
    assert_memory_equal(bytes, "<s>", 3);
    tokenizer_token_bytes(tok, 17, &bytes, &n); /* a hole */
    assert_null(bytes);
    assert_int_equal(n, 0);
    tokenizer_token_bytes(tok, UINT32_MAX, &bytes, &n);
    assert_null(bytes);
    assert_true(tokenizer_token_is_special(tok, 20));
    assert_true(tokenizer_token_is_special(tok, 15));
    assert_false(tokenizer_token_is_special(tok, 22));
    assert_false(tokenizer_token_is_special(tok, 99));
    assert_int_equal(tokenizer_id_of(tok, "<t>", 3, &id), ST_OK);
    assert_int_equal(id, 22);
    assert_int_equal(tokenizer_id_of(tok, " a", 2, &id), ST_OK);
    assert_int_equal(id, 10);
    assert_int_equal(tokenizer_id_of(tok, "zz", 2, &id), ST_NOT_FOUND);
    assert_int_equal(tokenizer_id_of(tok, "", 0, &id), ST_NOT_FOUND);
    tokenizer_free(tok);
    tokenizer_free(NULL);
}

static void test_tokenizer_encode_over_bound_leaves_output_unchanged(void **state)
{
    (void)state;
    struct tokenizer *tok = tokenizer_json_load(&(struct tokenizer_json){0});
    struct token_buf buf;
    token_buf_init(&buf, 3);
    assert_int_equal(tokenizer_encode(tok, "ab", 2, 0, &buf), ST_OK);
    assert_int_equal(tokenizer_encode(tok, "edc", 3, 0, &buf), ST_TOO_LARGE);
    assert_int_equal(buf.len, 1);
    assert_int_equal(buf.ids[0], 7);
    assert_int_equal(tokenizer_encode(tok, "ed", 2, 0, &buf), ST_OK);
    assert_int_equal(buf.len, 3);
    token_buf_deinit(&buf);
    tokenizer_free(tok);
}

static void test_tokenizer_hash_follows_file_content(void **state)
{
    (void)state;
    struct tokenizer *a = tokenizer_json_load(&(struct tokenizer_json){0});
    struct tokenizer *b = tokenizer_json_load(&(struct tokenizer_json){0});
    struct tokenizer *c = tokenizer_json_load(&(struct tokenizer_json){.added = ADDED});
    struct hash128 ha = tokenizer_hash(a), hb = tokenizer_hash(b), hc = tokenizer_hash(c);
    assert_true(hash128_equal(&ha, &hb));
    assert_false(hash128_equal(&ha, &hc));
    tokenizer_free(a);
    tokenizer_free(b);
    tokenizer_free(c);
}

/* --- text that is not in order --- */

/* A vocabulary that is the byte alphabet: byte b is written as the JSON escape of its stand-in. */
static const char *byte_vocab(void)
{
    static char text[8192];
    size_t at = 0;
    uint32_t n_moved = 0;
    for (uint32_t byte = 0; byte < 256; byte++) {
        bool prints = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
        at += (size_t)snprintf(text + at, sizeof(text) - at, "%s\"\\u%04x\":%u",
                               byte == 0 ? "{" : ",", prints ? byte : 0x100 + n_moved, byte);
        n_moved += !prints;
    }
    snprintf(text + at, sizeof(text) - at, "}");
    return text;
}

static void test_tokenizer_alphabet_maps_every_byte(void **state)
{
    (void)state;
    struct tokenizer *tok =
        tokenizer_json_load(&(struct tokenizer_json){.vocab = byte_vocab(), .merges = "[]"});
    for (uint32_t byte = 0; byte < 256; byte++) {
        const uint8_t *bytes;
        size_t n;
        tokenizer_token_bytes(tok, byte, &bytes, &n);
        assert_int_equal(n, 1);
        assert_int_equal(bytes[0], byte);
    }
    tokenizer_free(tok);
}

static void test_tokenizer_encode_replaces_each_ill_formed_part(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        uint32_t n_replaced;
    } cases[] = {
        {"\xff", 1},         {"\xc3", 1},     {"\xe2\x82", 1},         {"\xf0\x9f\x98", 1},
        {"\xed\xa0\x80", 3}, {"\xc0\xaf", 2}, {"\xf4\x90\x80\x80", 4}, {"\xe2\x28", 1},
        {"\xf0\x9f\xff", 2},
    };
    struct tokenizer *tok =
        tokenizer_json_load(&(struct tokenizer_json){.vocab = byte_vocab(), .merges = "[]"});
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct token_buf buf;
        uint32_t n_replaced = 0;
        token_buf_init(&buf, 64);
        assert_int_equal(tokenizer_encode(tok, cases[i].bytes, strlen(cases[i].bytes), 0, &buf),
                         ST_OK);
        for (size_t k = 0; k + 2 < buf.len; k++)
            n_replaced += buf.ids[k] == 0xef && buf.ids[k + 1] == 0xbf && buf.ids[k + 2] == 0xbd;
        assert_int_equal(n_replaced, cases[i].n_replaced);
        token_buf_deinit(&buf);
    }
    tokenizer_json_expect(tok, "a\0b", 3, 0, "97 0 98 "); /* NUL is a character like others */
    tokenizer_free(tok);
}

static void test_tokenizer_nfc_composes_before_matching(void **state)
{
    (void)state;
    struct tokenizer_json parts = {
        .normalizer = "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"}]}",
        .vocab = byte_vocab(),
        .merges = "[]",
        .added = "[{\"id\":300,\"content\":\"e\\u0301x\",\"normalized\":true},"
                 "{\"id\":301,\"content\":\"o\\u0301\",\"normalized\":false}]",
    };
    struct tokenizer *tok = tokenizer_json_load(&parts);
    EXPECT_IDS(tok, "e\xcc\x81", 0, "195 169 ");
    EXPECT_IDS(tok, "\xc3\xa9x", 0, "300 ");
    EXPECT_IDS(tok, "e\xcc\x81x", 0, "300 ");
    EXPECT_IDS(tok, "o\xcc\x81", 0, "301 "); /* raw tokens see the raw text */
    EXPECT_IDS(tok, "\xc3\xb3", 0, "195 179 ");
    tokenizer_free(tok);
}

static void test_tokenizer_nfc_is_linear_in_combining_marks(void **state)
{
    (void)state; /* a quadratic sort of 2^20 marks would take minutes */
    struct tokenizer_json parts = {
        .normalizer = "{\"type\":\"NFC\"}", .vocab = byte_vocab(), .merges = "[]"};
    struct tokenizer *tok = tokenizer_json_load(&parts);
    size_t n = 1 << 20;
    char *text = malloc(2 * n);
    assert_non_null(text);
    for (size_t i = 0; i < n; i++)
        memcpy(text + 2 * i, i % 2 == 0 ? "\xcc\x81" : "\xcc\xa3", 2);
    struct token_buf buf;
    token_buf_init(&buf, 2 * n);
    assert_int_equal(tokenizer_encode(tok, text, 2 * n, 0, &buf), ST_OK);
    assert_int_equal(buf.len, 2 * n);
    assert_int_equal(buf.ids[1], 0xa3); /* class 220 sorts before class 230 */
    assert_int_equal(buf.ids[2 * n - 1], 0x81);
    token_buf_deinit(&buf);
    free(text);
    tokenizer_free(tok);
}

/* --- the trivial tokenizer --- */

static void test_tokenizer_ids_reads_numbers_and_maps_bytes(void **state)
{
    (void)state;
    struct tokenizer *tok = tokenizer_create_ids(1000);
    const uint8_t *bytes;
    size_t n;
    assert_non_null(tok);
    assert_int_equal(tokenizer_vocab_size(tok), 1000);
    EXPECT_IDS(tok, "12 7\n999  0 ", TOK_ALLOW_SPECIAL | TOK_ADD_BOS, "12 7 999 0 ");
    EXPECT_IDS(tok, "007", 0, "7 ");
    EXPECT_IDS(tok, "1000", 0, "49 48 48 48 "); /* names no id: bytes */
    EXPECT_IDS(tok, "a1 99999999999999999999", 0,
               "97 49 57 57 57 57 57 57 57 57 57 57 57 57 57 57 57 57 57 57 57 57 ");
    EXPECT_IDS(tok, "\xff", 0, "255 ");
    tokenizer_token_bytes(tok, 42, &bytes, &n);
    assert_int_equal(n, 3);
    assert_memory_equal(bytes, "42 ", 3);
    tokenizer_free(tok);
    tok = tokenizer_create_ids(10);
    EXPECT_IDS(tok, "ab", 0, "7 8 "); /* 97 mod 10, 98 mod 10 */
    tokenizer_free(tok);
    assert_null(tokenizer_create_ids(0));
    assert_null(tokenizer_create_ids((1 << 20) + 1));
}

/* --- threads --- */

static void *encode_many(void *arg)
{
    const struct tokenizer *tok = arg;
    struct token_buf buf;
    token_buf_init(&buf, 1024);
    size_t n_right = 0;
    for (int i = 0; i < 200; i++) {
        buf.len = 0;
        if (tokenizer_encode(tok, "abcd dead aaaa abc cd", 21, 0, &buf) == ST_OK)
            n_right += buf.len == 14;
    }
    token_buf_deinit(&buf);
    return (void *)n_right;
}

static void test_tokenizer_encode_from_four_threads_at_once(void **state)
{
    (void)state;
    struct tokenizer_json parts = {.pre_tokenizer = "{\"type\":\"ByteLevel\"}"};
    struct tokenizer *tok = tokenizer_json_load(&parts);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, encode_many, tok), 0);
    for (int i = 0; i < 4; i++) {
        void *n_right;
        assert_int_equal(pthread_join(threads[i], &n_right), 0);
        assert_int_equal((size_t)n_right, 200);
    }
    tokenizer_free(tok);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tokenizer_encode_merges_lowest_rank_first),
        cmocka_unit_test(test_tokenizer_encode_twice_gives_the_same),
        cmocka_unit_test(test_tokenizer_encode_ignore_merges_takes_whole_words),
        cmocka_unit_test(test_tokenizer_merges_as_pairs_equal_merges_as_strings),
        cmocka_unit_test(test_tokenizer_bytes_outside_vocabulary_are_dropped),
        cmocka_unit_test(test_tokenizer_encode_any_length_equals_definition),
        cmocka_unit_test(test_tokenizer_encode_long_piece_drops_stale_candidates),
        cmocka_unit_test(test_tokenizer_special_text_needs_flag),
        cmocka_unit_test(test_tokenizer_plain_added_token_is_recognised_unless_plain_text),
        cmocka_unit_test(test_tokenizer_added_token_options_take_white_space_and_words),
        cmocka_unit_test(test_tokenizer_text_never_becomes_special_by_vocabulary),
        cmocka_unit_test(test_tokenizer_add_bos_wraps_text_as_template_says),
        cmocka_unit_test(test_tokenizer_lookups_answer_for_known_and_unknown_ids),
        cmocka_unit_test(test_tokenizer_encode_over_bound_leaves_output_unchanged),
        cmocka_unit_test(test_tokenizer_hash_follows_file_content),
        cmocka_unit_test(test_tokenizer_alphabet_maps_every_byte),
        cmocka_unit_test(test_tokenizer_encode_replaces_each_ill_formed_part),
        cmocka_unit_test(test_tokenizer_nfc_composes_before_matching),
        cmocka_unit_test(test_tokenizer_nfc_is_linear_in_combining_marks),
        cmocka_unit_test(test_tokenizer_ids_reads_numbers_and_maps_bytes),
        cmocka_unit_test(test_tokenizer_encode_from_four_threads_at_once),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
