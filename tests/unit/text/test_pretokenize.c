/* The split stages: behaviors, and patterns whose meaning differs between the regex engines. */
#include "text/tokenizer_int.h"

#include "tests/support/tokenizer_json.h"

#include <stdlib.h>

struct pieces {
    char text[4096];
    size_t n;
};

/* Appends "piece|". */
static enum status on_piece(void *arg, const uint8_t *piece, size_t bytes)
{
    struct pieces *p = arg;
    assert_true(bytes > 0 && p->n + bytes + 2 < sizeof(p->text));
    memcpy(p->text + p->n, piece, bytes);
    p->n += bytes;
    p->text[p->n++] = '|';
    p->text[p->n] = '\0';
    return ST_OK;
}

static void expect_pieces(const struct pretok *pretok, const char *text, const char *want)
{
    struct pieces pieces = {.text = ""};
    pcre2_match_data *match = pcre2_match_data_create(1, NULL);
    assert_non_null(match);
    assert_int_equal(
        pretok_run(pretok, match, (const uint8_t *)text, strlen(text), on_piece, &pieces), ST_OK);
    assert_string_equal(pieces.text, want);
    pcre2_match_data_free(match);
}

/* Splits by one pattern, in JSON escapes, and compares. */
static void expect_split(const char *pattern, const char *behavior, bool invert, const char *text,
                         const char *want)
{
    char pre[1024];
    snprintf(
        pre, sizeof(pre),
        "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":%s,"
        "\"behavior\":\"%s\",\"invert\":%s},{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
        "\"use_regex\":false}]}",
        pattern, behavior, invert ? "true" : "false");
    struct tokenizer *tok = tokenizer_json_load(&(struct tokenizer_json){.pre_tokenizer = pre});
    expect_pieces(&tok->pretok, text, want);
    tokenizer_free(tok);
}

#define REGEX(pattern) "{\"Regex\":\"" pattern "\"}"

static void test_pretok_behaviors_cut_as_named(void **state)
{
    (void)state;
    const char *text = "-The-final--countdown-";
    expect_split(REGEX("-"), "Isolated", false, text, "-|The|-|final|-|-|countdown|-|");
    expect_split(REGEX("-"), "Removed", false, text, "The|final|countdown|");
    expect_split(REGEX("-"), "Contiguous", false, text, "-|The|-|final|--|countdown|-|");
    expect_split(REGEX("-"), "MergedWithPrevious", false, text, "-|The-|final-|-|countdown-|");
    expect_split(REGEX("-"), "MergedWithNext", false, text, "-The|-final|-|-countdown|-|");
}

static void test_pretok_invert_swaps_matches_and_gaps(void **state)
{
    (void)state;
    expect_split(REGEX("\\\\w+"), "Removed", true, "one, two", "one|two|");
    expect_split(REGEX("[a-z]+"), "MergedWithPrevious", true, "a1b2", "a1|b2|");
}

static void test_pretok_plain_string_is_no_pattern(void **state)
{
    (void)state;
    expect_split("{\"String\":\"a.b\"}", "Isolated", false, "a.baxb", "a.b|axb|");
    expect_split("{\"String\":\"\"}", "Isolated", false, "abc", "a|b|c|");
}

static void test_pretok_empty_matches_make_progress(void **state)
{
    (void)state;
    expect_split(REGEX("x*"), "Isolated", false, "axxb", "a|xx|b|");
    expect_split(REGEX("(?=b)"), "Isolated", false, "abab", "a|ba|b|");
    expect_split(REGEX(""), "Isolated", false, "\xc3\xa9z", "\xc3\xa9|z|");
}

static void test_pretok_interval_plus_repeats_as_in_ruby(void **state)
{
    (void)state;
    expect_split(REGEX("\\\\p{N}{1,3}"), "Isolated", false, "1234567", "123|456|7|");
    expect_split(REGEX("\\\\p{N}{1,3}+"), "Isolated", false, "1234567", "1234567|");
    expect_split(REGEX("(?:[a-b]c){2}+d"), "Isolated", false, "acbcacbcdacd", "acbcacbcd|acd|");
    expect_split(REGEX("a{2}?b"), "Isolated", false, "bab", "b|a|b|");
    expect_split(REGEX("xa{,2}"), "Isolated", false, "xaaa", "xaa|a|");
    expect_split(REGEX("a{x"), "Isolated", false, "ba{x", "b|a{x|");
}

static void test_pretok_white_space_excludes_u180e(void **state)
{
    (void)state;
    expect_split(REGEX("\\\\s+"), "Removed", false, "a\xe1\xa0\x8e\x62\xe3\x80\x80\x63\xc2\x85\x64",
                 "a\xe1\xa0\x8e\x62|c|d|");
    expect_split(REGEX("[^\\\\s]+"), "Isolated", false, "a\xe1\xa0\x8e\x62 c",
                 "a\xe1\xa0\x8e\x62| |c|");
    expect_split(REGEX("[\\\\S]+"), "Removed", false, "a\xe1\xa0\x8e\x62 c", " |");
    expect_split(REGEX("\\\\S+"), "Removed", false, "a\xe1\xa0\x8e\x62 c", " |");
}

static void test_pretok_han_means_the_script_itself(void **state)
{
    (void)state; /* U+3001 has Han among its script extensions only */
    expect_split(REGEX("\\\\p{Han}+"), "Isolated", false, "\xe4\xb8\xad\xe3\x80\x81",
                 "\xe4\xb8\xad|\xe3\x80\x81|");
    expect_split(REGEX("\\\\p{^Han}+"), "Removed", false, "ab\xe4\xb8\xad", "\xe4\xb8\xad|");
}

static void test_pretok_word_class_holds_marks(void **state)
{
    (void)state;
    expect_split(REGEX("\\\\w+"), "Removed", false, "a\xcc\x81\x62_1-", "-|");
    expect_split(REGEX("\\\\W+"), "Removed", false, "a\xcc\x81\x62--", "a\xcc\x81\x62|");
}

static void test_pretok_refused_constructs_are_named(void **state)
{
    (void)state;
    static const char *const patterns[] = {
        "\\b",     "\\h",    "[a&&b]",  "[[:alpha:]]", "(a)\\1",  "\\k<x>",    "(?<n>a)",
        "(?m:a)",  "a(?i)b", "*a",      "a**",         "\\pL",    "\\p{L",     "[a",
        "a)",      "(a",     "\\x{zz}", "\\xe9",       "\\u12",   "\\",        "[]a]",
        "\\p{Xx}", "\\Q",    "(*FAIL)", "\\p{Foo}",    "[a-\\W]", "(?<=a*)bc", "{2}",
        "\\G",     "\\K",    "(",       "[",
    };
    for (size_t i = 0; i < sizeof(patterns) / sizeof(patterns[0]); i++) {
        pcre2_code *code = NULL;
        char why[160] = "";
        size_t n = strlen(patterns[i]);
        uint8_t *exact = malloc(n);
        assert_non_null(exact);
        memcpy(exact, patterns[i], n);
        enum status st = split_regex_compile(exact, n, false, &code, why, sizeof(why));
        free(exact);
        if (st != ST_UNSUPPORTED || why[0] == '\0')
            fail_msg("pattern %s: %s \"%s\"", patterns[i], status_name(st), why);
        assert_null(code);
    }
}

static void test_pretok_gpt2_pattern_and_prefix_space(void **state)
{
    (void)state;
    struct tokenizer *tok = tokenizer_json_load(&(struct tokenizer_json){
        .pre_tokenizer = "{\"type\":\"ByteLevel\",\"add_prefix_space\":true}"});
    expect_pieces(&tok->pretok, "it's 12  x!", " it|'s| 12| | x|!|");
    expect_pieces(&tok->pretok, " it", " it|");
    tokenizer_free(tok);
}

static void test_pretok_stages_cut_the_pieces_of_the_stage_before(void **state)
{
    (void)state;
    struct tokenizer *tok = tokenizer_json_load(&(struct tokenizer_json){
        .pre_tokenizer =
            "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":"
            "\"[a-z0-9]+\"},\"behavior\":\"Isolated\",\"invert\":false},{\"type\":\"Digits\","
            "\"individual_digits\":true},{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":"
            "\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}]}]}"});
    expect_pieces(&tok->pretok, "ab12-cd3", "ab|1|2|-|cd|3|");
    tokenizer_free(tok);
}

static void test_pretok_match_budget_ends_a_runaway_pattern(void **state)
{
    (void)state;
    struct tokenizer *tok = tokenizer_json_load(&(struct tokenizer_json){
        .pre_tokenizer =
            "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":"
            "\"(?:a|aa)+z|(?:a|b|ab)*c\"},\"behavior\":\"Isolated\",\"invert\":false},"
            "{\"type\":\"ByteLevel\",\"use_regex\":false,\"add_prefix_space\":false}]}"});
    /* No z and no c: each start would try every way of cutting what follows it. */
    char text[120];
    memset(text, 'a', sizeof(text));
    struct token_buf buf;
    token_buf_init(&buf, 1024);
    pcre2_set_match_limit(tok->pretok.limits, 100000);
    assert_int_equal(tokenizer_encode(tok, text, sizeof(text), 0, &buf), ST_INVALID);
    assert_int_equal(buf.len, 0);
    token_buf_deinit(&buf);
    tokenizer_free(tok);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pretok_behaviors_cut_as_named),
        cmocka_unit_test(test_pretok_invert_swaps_matches_and_gaps),
        cmocka_unit_test(test_pretok_plain_string_is_no_pattern),
        cmocka_unit_test(test_pretok_empty_matches_make_progress),
        cmocka_unit_test(test_pretok_interval_plus_repeats_as_in_ruby),
        cmocka_unit_test(test_pretok_white_space_excludes_u180e),
        cmocka_unit_test(test_pretok_han_means_the_script_itself),
        cmocka_unit_test(test_pretok_word_class_holds_marks),
        cmocka_unit_test(test_pretok_refused_constructs_are_named),
        cmocka_unit_test(test_pretok_gpt2_pattern_and_prefix_space),
        cmocka_unit_test(test_pretok_stages_cut_the_pieces_of_the_stage_before),
        cmocka_unit_test(test_pretok_match_budget_ends_a_runaway_pattern),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
