#include "base/json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static enum status check(const char *text, struct json_error *error)
{
    return json_validate(text, strlen(text), 64, error);
}

static void test_json_validate_accepts_all_of_rfc_8259(void **state)
{
    (void)state;
    static const char *const good[] = {
        "null",
        " true ",
        "false\n",
        "0",
        "-0",
        "-0.5e+10",
        "1E-400",
        "1e308",
        "123456789012345678901234567890",
        "\"\"",
        "\"a\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\"",
        "\"\\ud83d\\ude00\"",
        "\"\xf0\x9f\x98\x80\"",
        "\"\x7f\"",
        "[]",
        "[ ]",
        "{}",
        "{ }",
        "[1,2,[3,[4]],{}]",
        "{\"a\":1,\"b\":{\"a\":2},\"c\":[{\"a\":1},{\"a\":1}]}",
        "{\"\":1}",
        "\t{\r\n\"a\" : [ 1 , \"x\" ] }\n",
        "{\"a\":1,\"A\":2}",
        "\"\xed\x9f\xbf\xee\x80\x80\xf4\x8f\xbf\xbf\"",
    };
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        struct json_error error = {0};
        if (check(good[i], &error) != ST_OK)
            fail_msg("%s: %s at %zu", good[i], error.message, error.offset);
        cJSON *root = NULL;
        assert_int_equal(json_parse(good[i], strlen(good[i]), 64, &root, NULL), ST_OK);
        cJSON_Delete(root);
    }
}

static void test_json_validate_names_what_is_wrong_and_where(void **state)
{
    (void)state;
    static const struct {
        const char *text, *message;
        size_t offset;
    } bad[] = {
        {"", "document ends too early", 0},
        {"  ", "document ends too early", 2},
        {"\xef\xbb\xbf{}", "expected a value", 0},
        {"{} x", "unexpected text after the document", 3},
        {"1 2", "unexpected text after the document", 2},
        {"[1,]", "expected a value", 3},
        {"[1 2]", "expected ',' or ']'", 3},
        {"[1}", "expected ',' or ']'", 2},
        {"{\"a\":1]", "expected ',' or '}'", 6},
        {"{\"a\" 1}", "expected ':' after a key", 5},
        {"{a:1}", "expected a key in double quotes", 1},
        {"{\"a\":1,}", "expected a key in double quotes", 7},
        {"{,}", "expected a key in double quotes", 1},
        {"[", "document ends too early", 1},
        {"{\"a\":", "document ends too early", 5},
        {"]", "expected a value", 0},
        {"tru", "expected a value", 0},
        {"True", "expected a value", 0},
        {"nan", "expected a value", 0},
        {"+1", "expected a value", 0},
        {".5", "expected a value", 0},
        {"01", "number has a leading zero", 1},
        {"-01", "number has a leading zero", 2},
        {"-", "number has no digits", 1},
        {"1.", "number has no digits after the point", 2},
        {"1.e3", "number has no digits after the point", 2},
        {"1e", "number has no digits in the exponent", 2},
        {"1e+", "number has no digits in the exponent", 3},
        {"0x10", "unexpected text after the document", 1},
        {"1e400", "number is out of range", 0},
        {"[-1e999]", "number is out of range", 1},
        {"1234567890123456789012345678901234567890123456789012345678901234", "number is too long",
         0},
        {"\"abc", "string does not end", 4},
        {"\"abc\\", "string does not end", 4},
        {"\"a\nb\"", "raw control character in a string", 2},
        {"\"\\x41\"", "unknown escape in a string", 1},
        {"\"\\u12g4\"", "\\u needs four hex digits", 1},
        {"\"\\u12", "\\u needs four hex digits", 1},
        {"\"\\u0000\"", "\\u0000 is not accepted", 1},
        {"{\"a\\u0000\":1}", "\\u0000 is not accepted", 3},
        {"\"\\ud800\"", "lone surrogate in a string", 1},
        {"\"\\udc00\"", "lone surrogate in a string", 1},
        {"\"\\ud800\\u0041\"", "lone surrogate in a string", 1},
        {"\"\\ud800\\ud800\"", "lone surrogate in a string", 1},
        {"\"\xff\"", "invalid UTF-8 in a string", 1},
        {"\"\xc0\x80\"", "invalid UTF-8 in a string", 1},
        {"\"\xe0\x9f\xbf\"", "invalid UTF-8 in a string", 1},
        {"\"\xed\xa0\x80\"", "invalid UTF-8 in a string", 1},
        {"\"\xf4\x90\x80\x80\"", "invalid UTF-8 in a string", 1},
        {"\"\xf0\x8f\xbf\xbf\"", "invalid UTF-8 in a string", 1},
        {"\"\xc3\"", "invalid UTF-8 in a string", 1},
        {"{\"a\":1,\"a\":2}", "duplicate key in an object", 7},
        {"{\"a\":1,\"\\u0061\":2}", "duplicate key in an object", 7},
        {"{\"\\ud83d\\ude00\":1,\"\xf0\x9f\x98\x80\":2}", "duplicate key in an object", 18},
        {"{\"b\":{\"a\":1},\"\\/\":1,\"/\":1}", "duplicate key in an object", 20},
        {"{\"\":1,\"\":2}", "duplicate key in an object", 6},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct json_error error = {0};
        if (check(bad[i].text, &error) != ST_PARSE || strcmp(error.message, bad[i].message) != 0 ||
            error.offset != bad[i].offset)
            fail_msg("case %zu %s: %s at %zu", i, bad[i].text, error.message, error.offset);
        assert_int_equal(json_validate(bad[i].text, strlen(bad[i].text), 64, NULL), ST_PARSE);
    }
}

static void test_json_validate_embedded_nul_is_refused(void **state)
{
    (void)state;
    assert_int_equal(json_validate("{}\0", 3, 8, NULL), ST_PARSE);
    assert_int_equal(json_validate("\"a\0b\"", 5, 8, NULL), ST_PARSE);
    assert_int_equal(json_validate("1\0", 2, 8, NULL), ST_PARSE);
    assert_int_equal(json_validate("\"\\\0\"", 4, 8, NULL), ST_PARSE);
}

static void test_json_error_counts_lines_and_columns_from_one(void **state)
{
    (void)state;
    struct json_error error;
    assert_int_equal(check("{\n  \"a\": 1,\n  \"b\": x\n}", &error), ST_PARSE);
    assert_int_equal(error.line, 3);
    assert_int_equal(error.column, 8);
}

static void test_json_validate_depth_bound_is_exact(void **state)
{
    (void)state;
    struct json_error error;
    assert_int_equal(json_validate("[[[]]]", 6, 3, NULL), ST_OK);
    assert_int_equal(json_validate("[[[]]]", 6, 2, &error), ST_PARSE);
    assert_string_equal(error.message, "nested too deeply");
    assert_int_equal(json_validate("1", 1, 0, NULL), ST_OK);
    assert_int_equal(json_validate("[]", 2, 0, NULL), ST_PARSE);
    static char deep[200000];
    memset(deep, '[', sizeof(deep));
    assert_int_equal(json_validate(deep, sizeof(deep), UINT32_MAX, &error), ST_PARSE);
    assert_int_equal(error.offset, 128);
}

/* Moves the key set to the heap, several times over. */
static void test_json_validate_many_keys_finds_the_one_duplicate(void **state)
{
    (void)state;
    struct buf buf;
    buf_init(&buf, 1 << 24);
    assert_int_equal(buf_append_str(&buf, "{"), ST_OK);
    for (int i = 0; i < 50000; i++)
        assert_int_equal(buf_printf(&buf, "\"token%d\":%d,", i, i), ST_OK);
    size_t len = buf.len;
    assert_int_equal(buf_append_str(&buf, "\"x\":1}"), ST_OK);
    assert_int_equal(json_validate((char *)buf.data, buf.len, 4, NULL), ST_OK);
    buf.len = len;
    assert_int_equal(buf_append_str(&buf, "\"token123\":1}"), ST_OK);
    struct json_error error;
    assert_int_equal(json_validate((char *)buf.data, buf.len, 4, &error), ST_PARSE);
    assert_int_equal(error.offset, len);
    buf_deinit(&buf);
}

static void test_json_parse_every_truncation_is_refused_without_overread(void **state)
{
    (void)state;
    static const char text[] =
        "{\"a\":[1.5e3,\"\\ud83d\\ude00\xc3\xa9\"],\"b\":{\"c\":null,\"d\":true}}";
    for (size_t n = 0; n < sizeof(text) - 1; n++) {
        char *exact = malloc(n > 0 ? n : 1);
        memcpy(exact, text, n);
        cJSON *root = NULL;
        assert_int_equal(json_parse(exact, n, 8, &root, NULL), ST_PARSE);
        assert_null(root);
        free(exact);
    }
}

static void test_json_helpers_read_fields(void **state)
{
    (void)state;
    static const char text[] = "{\"n\":2.0,\"f\":2.5,\"big\":1e300,\"s\":\"x\",\"nil\":null,\"N\":"
                               "7,\"neg\":-9223372036854775808}";
    cJSON *root = NULL;
    int64_t value = 0;
    assert_int_equal(json_parse(text, sizeof(text) - 1, 8, &root, NULL), ST_OK);
    assert_null(json_get(root, "nil"));
    assert_null(json_get(root, "absent"));
    assert_null(json_get(NULL, "n"));
    assert_true(json_as_i64(json_get(root, "n"), 0, 10, &value));
    assert_int_equal(value, 2);
    assert_true(json_as_i64(json_get(root, "N"), 0, 10, &value));
    assert_int_equal(value, 7);
    assert_true(json_as_i64(json_get(root, "neg"), INT64_MIN, INT64_MAX, &value));
    assert_true(value == INT64_MIN);
    assert_false(json_as_i64(json_get(root, "n"), 3, 10, &value));
    assert_false(json_as_i64(json_get(root, "f"), 0, 10, &value));
    assert_false(json_as_i64(json_get(root, "big"), INT64_MIN, INT64_MAX, &value));
    assert_false(json_as_i64(json_get(root, "s"), 0, 10, &value));
    assert_false(json_as_i64(NULL, 0, 10, &value));
    cJSON_Delete(root);
}

static void test_json_append_string_round_trips_every_character(void **state)
{
    (void)state;
    char all[128 + 8];
    size_t n = 0;
    for (int c = 1; c < 128; c++)
        all[n++] = (char)c;
    memcpy(all + n, "\xc3\xa9\xf0\x9f\x98\x80", 6);
    n += 6;
    all[n] = '\0';
    struct buf buf;
    buf_init(&buf, 4096);
    assert_int_equal(json_append_string(&buf, all, n), ST_OK);
    cJSON *root = NULL;
    assert_int_equal(json_parse((char *)buf.data, buf.len, 8, &root, NULL), ST_OK);
    assert_string_equal(root->valuestring, all);
    cJSON_Delete(root);
    buf_deinit(&buf);
}

static void test_json_append_string_without_room_leaves_the_buffer(void **state)
{
    (void)state;
    struct buf buf;
    buf_init(&buf, 8);
    assert_int_equal(buf_append_str(&buf, "ab"), ST_OK);
    assert_int_equal(json_append_string(&buf, "cd\"efgh", 7), ST_TOO_LARGE);
    assert_int_equal(buf.len, 2);
    assert_int_equal(json_append_string(&buf, "cd", 2), ST_OK);
    assert_memory_equal(buf.data, "ab\"cd\"", 6);
    buf_deinit(&buf);
}

static void test_utf8_valid_prefix_stops_at_the_first_bad_byte(void **state)
{
    (void)state;
    assert_int_equal(utf8_valid_prefix((const uint8_t *)"ab\xc3\xa9", 4), 4);
    assert_int_equal(utf8_valid_prefix((const uint8_t *)"ab\xc3\xa9", 3), 2);
    assert_int_equal(utf8_valid_prefix((const uint8_t *)"\xf0\x9f\x98", 3), 0);
    assert_int_equal(utf8_valid_prefix((const uint8_t *)"a\x80", 2), 1);
    assert_int_equal(utf8_valid_prefix(NULL, 0), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_json_validate_accepts_all_of_rfc_8259),
        cmocka_unit_test(test_json_validate_names_what_is_wrong_and_where),
        cmocka_unit_test(test_json_validate_embedded_nul_is_refused),
        cmocka_unit_test(test_json_error_counts_lines_and_columns_from_one),
        cmocka_unit_test(test_json_validate_depth_bound_is_exact),
        cmocka_unit_test(test_json_validate_many_keys_finds_the_one_duplicate),
        cmocka_unit_test(test_json_parse_every_truncation_is_refused_without_overread),
        cmocka_unit_test(test_json_helpers_read_fields),
        cmocka_unit_test(test_json_append_string_round_trips_every_character),
        cmocka_unit_test(test_json_append_string_without_room_leaves_the_buffer),
        cmocka_unit_test(test_utf8_valid_prefix_stops_at_the_first_bad_byte),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
