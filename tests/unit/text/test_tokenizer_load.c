/* Files that are malformed, contradictory or of a kind that is not supported. */
#include "text/tokenizer.h"

#include "tests/support/tokenizer_json.h"

#include <stdlib.h>
#include <unistd.h>

/* Loads text and wants `st` with `needle` in the message. */
static void expect_refused(const char *text, enum status st, const char *needle)
{
    struct tokenizer *tok = NULL;
    char err[256] = "";
    enum status got = tokenizer_load_memory(text, strlen(text), &tok, err, sizeof(err));
    if (got != st || strstr(err, needle) == NULL)
        fail_msg("%s: got status %s, message \"%s\"", needle, status_name(got), err);
    assert_null(tok);
    assert_non_null(strstr(err, "tokenizer.json: "));
}

static void expect_parts_refused(const struct tokenizer_json *parts, enum status st,
                                 const char *needle)
{
    expect_refused(tokenizer_json_text(parts), st, needle);
}

static void test_tokenizer_load_malformed_text_names_the_offset(void **state)
{
    (void)state;
    expect_refused("", ST_PARSE, "expected an object at offset 0");
    expect_refused("[]", ST_PARSE, "expected an object at offset 0");
    expect_refused("{", ST_PARSE, "offset 1");
    expect_refused("{}", ST_PARSE, "\"model\" is missing");
    expect_refused("{\"model\":null}", ST_PARSE, "\"model\" is missing");
    expect_refused("{\"model\":7}", ST_PARSE, "model: expected an object at offset 9");
    expect_refused("{\"model\":{}} x", ST_PARSE, "bytes after the end at offset 13");
    expect_refused("{\"a\" 1}", ST_PARSE, "expected ':'");
    expect_refused("{\"a\":1,}", ST_PARSE, "comma before the end");
    expect_refused("{\"a\":]}", ST_PARSE, "brackets do not match");
    expect_refused("{\"a\":[}]}", ST_PARSE, "brackets do not match");
    expect_refused("{\"a\":\"\\q\"}", ST_PARSE, "bad escape");
    expect_refused("{\"a\":\"\\u12x4\"}", ST_PARSE, "bad \\u escape");
    expect_refused("{\"a\":\"\\ud800\"}", ST_PARSE, "lone surrogate");
    expect_refused("{\"a\":\"\n\"}", ST_PARSE, "control character");
    expect_refused("{\"a\":\"\xff\"}", ST_PARSE, "not UTF-8 at offset 6");
    expect_refused("{\"model\":{},\"model\":{}}", ST_PARSE, "\"model\" appears twice");
}

static void test_tokenizer_load_deep_nesting_is_refused(void **state)
{
    (void)state;
    char text[4096] = "{\"a\":";
    memset(text + 5, '[', 2000);
    text[2005] = '\0';
    expect_refused(text, ST_PARSE, "nested too deep");
}

static void test_tokenizer_load_bad_vocabulary_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *vocab, *needle;
    } cases[] = {
        {"[]", "model.vocab: expected an object"},
        {"{\"a\":-1}", "expected a whole number"},
        {"{\"a\":1.5}", "expected a whole number"},
        {"{\"a\":\"1\"}", "expected a whole number"},
        {"{\"a\":1048576}", "number is too large"},
        {"{\"a\":99999999999999999999999}", "number is too large"},
        {"{\"a\":01}", "number starts with 0"},
        {"{\"a\":0,\"a\":1}", "token or id 1 appears twice"},
        {"{\"a\":0,\"b\":0}", "token or id 0 appears twice"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        expect_parts_refused(&(struct tokenizer_json){.vocab = cases[i].vocab, .merges = "[]"},
                             ST_PARSE, cases[i].needle);
}

static void test_tokenizer_load_bad_merges_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *merges, *needle;
    } cases[] = {
        {"{}", "model.merges: expected an array"},
        {"[\"ab\"]", "expected two parts"},
        {"[\"a b\",\"a z\"]", "model.merges[1]: the result is not in model.vocab"},
        {"[[\"a\"]]", "expected two strings"},
        {"[[\"a\",\"b\",\"c\"]]", "expected two strings"},
        {"[[\"a\",1]]", "expected a string"},
        {"[7]", "expected a string"},
        {"[\"d ead\"]", "model.merges[0]: a part is not in model.vocab"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        expect_parts_refused(&(struct tokenizer_json){.merges = cases[i].merges}, ST_PARSE,
                             cases[i].needle);
}

static void test_tokenizer_load_merges_that_cannot_apply_are_skipped(void **state)
{
    (void)state; /* "b c" as one part holds a space, which is not of the byte alphabet */
    struct tokenizer *tok = tokenizer_json_load(
        &(struct tokenizer_json){.merges = "[\"#version: 0.2\",\"a b c\",\"a b\"]"});
    EXPECT_IDS(tok, "ab", 0, "7 ");
    tokenizer_free(tok);
}

static void test_tokenizer_load_unsupported_model_names_the_field(void **state)
{
    (void)state;
    static const struct {
        const char *extra, *needle;
    } cases[] = {
        {"\"dropout\":0.1,", "model.dropout"},
        {"\"unk_token\":\"a\",", "model.unk_token"},
        {"\"continuing_subword_prefix\":\"##\",", "model.continuing_subword_prefix"},
        {"\"end_of_word_suffix\":\"</w>\",", "model.end_of_word_suffix"},
        {"\"byte_fallback\":true,", "model.byte_fallback"},
        {"\"ignore_merges\":1,", "model.ignore_merges"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        expect_parts_refused(&(struct tokenizer_json){.model_extra = cases[i].extra},
                             ST_UNSUPPORTED, cases[i].needle);
    expect_refused("{\"model\":{\"type\":\"Unigram\",\"vocab\":[],\"merges\":[]}}", ST_UNSUPPORTED,
                   "model.type");
    expect_refused("{\"model\":{\"type\":\"WordLevel\",\"vocab\":{}}}", ST_UNSUPPORTED,
                   "model.merges is missing");
}

static void test_tokenizer_load_neutral_model_values_are_accepted(void **state)
{
    (void)state;
    struct tokenizer *tok = tokenizer_json_load(&(struct tokenizer_json){
        .model_extra = "\"dropout\":null,\"unk_token\":null,\"continuing_subword_prefix\":\"\","
                       "\"end_of_word_suffix\":\"\",\"fuse_unk\":false,\"byte_fallback\":false,"});
    EXPECT_IDS(tok, "abc", 0, "9 ");
    tokenizer_free(tok);
}

static void test_tokenizer_load_unsupported_sections_are_named(void **state)
{
    (void)state;
    expect_parts_refused(&(struct tokenizer_json){.normalizer = "{\"type\":\"Lowercase\"}"},
                         ST_UNSUPPORTED, "normalizer: this type");
    expect_parts_refused(
        &(struct tokenizer_json){
            .normalizer = "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},{}]}"},
        ST_UNSUPPORTED, "normalizer.normalizers[1]");
    expect_parts_refused(&(struct tokenizer_json){.pre_tokenizer = "null"}, ST_UNSUPPORTED,
                         "pre_tokenizer");
    expect_parts_refused(&(struct tokenizer_json){.pre_tokenizer = "{\"type\":\"Metaspace\"}"},
                         ST_UNSUPPORTED, "pre_tokenizer: this type");
    expect_parts_refused(
        &(struct tokenizer_json){.pre_tokenizer =
                                     "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":"
                                     "\"ByteLevel\"},{\"type\":\"Digits\"}]}"},
        ST_UNSUPPORTED, "pre_tokenizer.pretokenizers[1]: a step behind ByteLevel");
    expect_parts_refused(
        &(struct tokenizer_json){.post_processor = "{\"type\":\"BertProcessing\"}"}, ST_UNSUPPORTED,
        "post_processor: this type");
    expect_parts_refused(&(struct tokenizer_json){.decoder = "null"}, ST_UNSUPPORTED, "decoder");
    expect_parts_refused(&(struct tokenizer_json){.decoder = "{\"type\":\"Metaspace\"}"},
                         ST_UNSUPPORTED, "decoder: this type");
}

#define SPLIT(pattern, behavior)                                                                   \
    "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":" pattern           \
    ",\"behavior\":\"" behavior "\",\"invert\":false},{\"type\":\"ByteLevel\"}]}"

static void test_tokenizer_load_bad_split_is_refused(void **state)
{
    (void)state;
    expect_parts_refused(
        &(struct tokenizer_json){.pre_tokenizer = SPLIT("{\"Regex\":\"(a\"}", "Isolated")},
        ST_UNSUPPORTED, "pre_tokenizer.pretokenizers[0].pattern: group is not closed");
    expect_parts_refused(
        &(struct tokenizer_json){.pre_tokenizer = SPLIT("{\"Regex\":\"\\\\bx\"}", "Isolated")},
        ST_UNSUPPORTED, "escape not supported");
    expect_parts_refused(&(struct tokenizer_json){.pre_tokenizer = SPLIT("\"a\"", "Isolated")},
                         ST_PARSE, "expected {\"Regex\"}");
    expect_parts_refused(
        &(struct tokenizer_json){.pre_tokenizer = SPLIT("{\"Regex\":\"a\"}", "Sideways")},
        ST_UNSUPPORTED, "behavior");
}

static void test_tokenizer_load_bad_added_tokens_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *added, *needle;
    } cases[] = {
        {"{}", "added_tokens: expected an array"},
        {"[7]", "added_tokens[0].content"},
        {"[{\"id\":20}]", "added_tokens[0].content"},
        {"[{\"content\":\"x\"}]", "added_tokens[0].id"},
        {"[{\"content\":\"x\",\"id\":-1}]", "added_tokens[0].id"},
        {"[{\"content\":\"x\",\"id\":1048576}]", "added_tokens[0].id"},
        {"[{\"content\":\"x\",\"id\":20,\"special\":1}]", "added_tokens[0].special"},
        {"[{\"content\":\"x\",\"id\":0}]", "0 belongs to another token"},
        {"[{\"content\":\"dead\",\"id\":3}]", "3, but the vocabulary says 15"},
        {"[{\"content\":\"x\",\"id\":20},{\"content\":\"x\",\"id\":20}]",
         "added_tokens[1]: this content appears twice"},
        {"[{\"content\":\"x\",\"id\":20},{\"content\":\"x\",\"id\":21}]", "added_tokens[1].id"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        expect_parts_refused(&(struct tokenizer_json){.added = cases[i].added}, ST_PARSE,
                             cases[i].needle);
}

#define TEMPLATE(single, specials)                                                                 \
    "{\"type\":\"TemplateProcessing\",\"single\":" single ",\"special_tokens\":" specials "}"
#define SEQ     "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}"
#define SPECIAL "{\"SpecialToken\":{\"id\":\"x\",\"type_id\":0}}"

static void test_tokenizer_load_bad_template_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *post, *needle;
        enum status st;
    } cases[] = {
        {TEMPLATE("7", "{}"), "post_processor.single: expected an array", ST_PARSE},
        {TEMPLATE("[7]", "{}"), "expected SpecialToken or Sequence", ST_PARSE},
        {TEMPLATE("[]", "{}"), "no Sequence", ST_PARSE},
        {TEMPLATE("[" SEQ "," SEQ "]", "{}"), "two sequences", ST_UNSUPPORTED},
        {TEMPLATE("[" SPECIAL "," SEQ "]", "{}"), "no ids", ST_PARSE},
        {TEMPLATE("[" SPECIAL "," SEQ "]", "{\"x\":{\"ids\":[16]}}"), "outside the vocabulary",
         ST_PARSE},
        {TEMPLATE("[" SPECIAL "," SEQ "]", "{\"x\":{\"ids\":[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]}}"),
         "a template this long", ST_UNSUPPORTED},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        expect_parts_refused(&(struct tokenizer_json){.post_processor = cases[i].post}, cases[i].st,
                             cases[i].needle);
}

static void test_tokenizer_load_cut_or_changed_file_never_crashes(void **state)
{
    (void)state;
    const struct tokenizer_json parts = {
        .added = "[{\"id\":20,\"content\":\"<s>\",\"special\":true,\"lstrip\":true}]",
        .normalizer = "{\"type\":\"NFC\"}",
        .pre_tokenizer = SPLIT("{\"Regex\":\"\\\\p{L}+|[^\\\\s]{1,3}+\"}", "MergedWithNext"),
        .post_processor = TEMPLATE("[" SPECIAL "," SEQ "]", "{\"x\":{\"ids\":[15]}}"),
    };
    char *good = strdup(tokenizer_json_text(&parts));
    assert_non_null(good);
    size_t n = strlen(good);
    unsigned seed = 3;
    for (size_t i = 0; i < 2 * n; i++) {
        size_t bytes = i < n ? i : n;
        char *copy = malloc(bytes + 1); /* exact size, so that the sanitizer sees an overread */
        assert_non_null(copy);
        memcpy(copy, good, bytes);
        if (i >= n)
            copy[i - n] =
                (char)(rand_r(&seed) % 3 == 0 ? rand_r(&seed) : "{}[]\",:0"[rand_r(&seed) % 8]);
        struct tokenizer *tok = NULL;
        char err[8]; /* too short for any message */
        enum status st = tokenizer_load_memory(copy, bytes, &tok, err, sizeof(err));
        assert_true(i >= n || st == ST_PARSE);
        assert_true((st == ST_OK) == (tok != NULL));
        tokenizer_free(tok);
        free(copy);
    }
    free(good);
}

static void test_tokenizer_load_without_error_buffer_still_answers(void **state)
{
    (void)state;
    struct tokenizer *tok = NULL;
    assert_int_equal(tokenizer_load_memory("{", 1, &tok, NULL, 0), ST_PARSE);
    assert_null(tok);
}

static void test_tokenizer_load_path_errors_name_the_path(void **state)
{
    (void)state;
    struct tokenizer *tok = NULL;
    char err[256], dir[] = "/tmp/dynd-test-XXXXXX", file[64];
    assert_int_equal(tokenizer_load("/nonexistent/x", &tok, err, sizeof(err)), ST_NOT_FOUND);
    assert_non_null(strstr(err, "/nonexistent/x"));
    assert_non_null(mkdtemp(dir));
    assert_int_equal(tokenizer_load(dir, &tok, err, sizeof(err)), ST_NOT_FOUND);
    snprintf(file, sizeof(file), "%s/tokenizer.json", dir);
    assert_non_null(strstr(err, file));
    assert_int_equal(tokenizer_load("/dev/null", &tok, err, sizeof(err)), ST_IO);
    FILE *f = fopen(file, "w");
    assert_non_null(f);
    fclose(f);
    assert_int_equal(tokenizer_load(dir, &tok, err, sizeof(err)), ST_PARSE); /* empty */
    f = fopen(file, "w");
    assert_non_null(f);
    fputs(tokenizer_json_text(&(struct tokenizer_json){0}), f);
    fclose(f);
    assert_int_equal(tokenizer_load(dir, &tok, err, sizeof(err)), ST_OK);
    tokenizer_free(tok);
    assert_int_equal(tokenizer_load(file, &tok, err, sizeof(err)), ST_OK);
    tokenizer_free(tok);
    unlink(file);
    rmdir(dir);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tokenizer_load_malformed_text_names_the_offset),
        cmocka_unit_test(test_tokenizer_load_deep_nesting_is_refused),
        cmocka_unit_test(test_tokenizer_load_bad_vocabulary_is_refused),
        cmocka_unit_test(test_tokenizer_load_bad_merges_are_refused),
        cmocka_unit_test(test_tokenizer_load_merges_that_cannot_apply_are_skipped),
        cmocka_unit_test(test_tokenizer_load_unsupported_model_names_the_field),
        cmocka_unit_test(test_tokenizer_load_neutral_model_values_are_accepted),
        cmocka_unit_test(test_tokenizer_load_unsupported_sections_are_named),
        cmocka_unit_test(test_tokenizer_load_bad_split_is_refused),
        cmocka_unit_test(test_tokenizer_load_bad_added_tokens_are_refused),
        cmocka_unit_test(test_tokenizer_load_bad_template_is_refused),
        cmocka_unit_test(test_tokenizer_load_cut_or_changed_file_never_crashes),
        cmocka_unit_test(test_tokenizer_load_without_error_buffer_still_answers),
        cmocka_unit_test(test_tokenizer_load_path_errors_name_the_path),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
