/* The generated documents in docs/ must be those of the option table. After a change of the table:
 * DYND_UPDATE_DOCS=1 build/dev/test_config_docs */
#include "config/config_int.h"

#include "base/json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void compare_or_update(const char *name, const struct buf *expected)
{
    char path[512];
    static char text[1 << 18];
    bool is_update = getenv("DYND_UPDATE_DOCS") != NULL;
    snprintf(path, sizeof(path), "%s/docs/%s", DYND_SOURCE_DIR, name);
    FILE *file = fopen(path, is_update ? "wb" : "rb");
    if (file == NULL)
        fail_msg("%s cannot be opened", path);
    if (is_update) {
        assert_int_equal(fwrite(expected->data, 1, expected->len, file), expected->len);
        fclose(file);
        return;
    }
    size_t n = fread(text, 1, sizeof(text), file);
    fclose(file);
    if (n != expected->len || memcmp(text, expected->data, n) != 0)
        fail_msg("%s is out of date, see the top of this test", path);
}

static void test_config_docs_markdown_is_the_committed_one(void **state)
{
    (void)state;
    struct buf out;
    buf_init(&out, 1 << 18);
    assert_int_equal(config_docs_markdown(&out), ST_OK);
    compare_or_update("CONFIG.md", &out);
    buf_deinit(&out);
}

static void test_config_docs_schema_is_valid_json_and_the_committed_one(void **state)
{
    (void)state;
    struct buf out;
    struct json_error error;
    cJSON *root = NULL;
    buf_init(&out, 1 << 18);
    assert_int_equal(config_docs_schema(&out), ST_OK);
    if (json_parse((char *)out.data, out.len, 32, &root, &error) != ST_OK)
        fail_msg("%u:%u: %s", error.line, error.column, error.message);
    const cJSON *http = json_get(json_get(root, "properties"), "http");
    const cJSON *port = json_get(json_get(http, "properties"), "port");
    int64_t value = 0;
    assert_true(json_as_i64(json_get(port, "maximum"), 0, 1 << 20, &value));
    assert_int_equal(value, 65535);
    const cJSON *workers = json_get(json_get(root, "properties"), "workers");
    const cJSON *role = json_get(json_get(json_get(workers, "items"), "properties"), "role");
    assert_int_equal(cJSON_GetArraySize(json_get(role, "enum")), 3);
    cJSON_Delete(root);
    compare_or_update("config.schema.json", &out);
    buf_deinit(&out);
}

static void test_config_docs_help_names_every_option_in_short_lines(void **state)
{
    (void)state;
    struct buf out;
    buf_init(&out, 1 << 18);
    assert_int_equal(config_docs_help(&out), ST_OK);
    assert_int_equal(buf_append(&out, "", 1), ST_OK);
    const char *text = (const char *)out.data;
    assert_non_null(strstr(text, "  http.port=8000  (0 to 65535)\n      TCP port"));
    assert_non_null(strstr(text, "  workers.N.role=unified  (unified or prefill or decode)\n"));
    assert_non_null(strstr(text, "  run_dir=\"\"  (string)\n"));
    for (const char *line = text; *line != '\0';) {
        size_t n = strcspn(line, "\n");
        assert_true(n <= 100);
        line += n + 1;
    }
    struct buf small;
    buf_init(&small, 100);
    assert_int_equal(config_docs_help(&small), ST_TOO_LARGE);
    buf_deinit(&small);
    buf_deinit(&out);
}

/* Each default must pass the check of its own row, and each row must be whole. */
static void test_config_option_rows_are_sound(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < config_n_options; i++) {
        const struct option *option = &config_options[i];
        bool is_number =
            option->type == OPTION_U32 || option->type == OPTION_U64 || option->type == OPTION_POW2;
        assert_true(strlen(option->help) > 10);
        assert_int_equal(option->help[strlen(option->help) - 1], '.');
        assert_null(strpbrk(option->help, "|\n"));
        assert_ptr_equal(option_find(option->section, option->name, strlen(option->name)), option);
        if (is_number) {
            assert_true(option->min <= option->max);
            assert_true(option->default_number >= option->min);
            assert_true(option->default_number <= option->max);
        }
        if (option->type == OPTION_U32 || option->type == OPTION_POW2)
            assert_true(option->max <= UINT32_MAX);
        if (option->type == OPTION_ENUM)
            assert_true(option->default_number < option->n_choices);
        if (option->type == OPTION_STRING)
            assert_non_null(option->default_text);
        assert_int_equal(option->reload, RELOAD_RESTART);
    }
    for (int id = SECTION_root + 1; id < SECTION_COUNT; id++)
        assert_int_equal(section_find(config_sections[id].name, strlen(config_sections[id].name)),
                         id);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_config_docs_markdown_is_the_committed_one),
        cmocka_unit_test(test_config_docs_schema_is_valid_json_and_the_committed_one),
        cmocka_unit_test(test_config_docs_help_names_every_option_in_short_lines),
        cmocka_unit_test(test_config_option_rows_are_sound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
