/* Rendered chat templates against Jinja2, byte for byte: every template of tests/golden/templates
 * with every conversation, and small snippets. The files: make_template_golden.py. */
#include "base/json.h"
#include "text/template.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define DIR          "tests/golden/templates/"
#define NOW_S        1753401600
#define MISSES_SHOWN 10

static char *read_file(const char *name, size_t *out_bytes)
{
    char path[512];
    snprintf(path, sizeof(path), DYND_SOURCE_DIR "/" DIR "%s", name);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    long bytes = ftell(f);
    assert_true(bytes >= 0);
    rewind(f);
    char *data = malloc((size_t)bytes + 1);
    assert_non_null(data);
    assert_int_equal(fread(data, 1, (size_t)bytes, f), (size_t)bytes);
    fclose(f);
    data[bytes] = '\0';
    *out_bytes = (size_t)bytes;
    return data;
}

static cJSON *read_json(const char *name)
{
    size_t bytes;
    cJSON *root = NULL;
    struct json_error err = {0};
    char *data = read_file(name, &bytes);
    if (json_parse(data, bytes, 64, &root, &err) != ST_OK)
        fail_msg("%s:%u:%u: %s", name, err.line, err.column, err.message);
    free(data);
    return root;
}

/* The outcome in the form of expected.json; the caller frees it. */
static char *outcome(const char *source, size_t bytes, const cJSON *conversation)
{
    char err[4096];
    struct chat_template *tpl = NULL;
    struct chat_render render = {0};
    struct chat_inputs in = {.messages = json_get(conversation, "messages"),
                             .tools = json_get(conversation, "tools"),
                             .kwargs = json_get(conversation, "kwargs"),
                             .add_generation_prompt =
                                 cJSON_IsTrue(json_get(conversation, "add_generation_prompt")),
                             .bos_token = "<s>",
                             .eos_token = "</s>",
                             .now_unix_s = NOW_S};
    if (chat_template_compile(source, bytes, &tpl, err, sizeof(err)) != ST_OK)
        return strdup("#");
    buf_init(&render.text, 1 << 20);
    enum status st = chat_template_render(tpl, &in, &render, err, sizeof(err));
    char *text = malloc(render.text.len + sizeof(err) + 2);
    assert_non_null(text);
    if (st == ST_OK)
        snprintf(text, render.text.len + 2, "=%.*s", (int)render.text.len,
                 render.text.len > 0 ? (const char *)render.text.data : "");
    else
        snprintf(text, sizeof(err) + 2, "!%s", err);
    assert_true(st == ST_OK || st == ST_INVALID || st == ST_TOO_LARGE);
    free(render.segments);
    buf_deinit(&render.text);
    chat_template_free(tpl);
    return text;
}

/* Of an error at run time only that there is one is compared, except what raise_exception says. */
static size_t compare(const char *what, const char *got, const char *want)
{
    static size_t n_shown;
    if (strcmp(got, want) == 0 || (want[0] == '?' && got[0] == '!'))
        return 0;
    if (n_shown++ < MISSES_SHOWN)
        fprintf(stderr, "%s\n  got  %s\n  want %s\n", what, got, want);
    return 1;
}

static const char *expected(const cJSON *golden, const cJSON *index)
{
    assert_true(cJSON_IsNumber(index));
    const cJSON *text = cJSON_GetArrayItem(json_get(golden, "outcomes"), (int)index->valuedouble);
    assert_true(cJSON_IsString(text));
    return text->valuestring;
}

static void test_template_render_of_every_template_and_conversation_equals_jinja2(void **state)
{
    (void)state;
    cJSON *conversations = read_json("conversations.json"), *golden = read_json("expected.json");
    size_t n = 0, n_misses = 0, n_templates = 0;
    const cJSON *indices;
    cJSON_ArrayForEach(indices, json_get(golden, "templates"))
    {
        size_t bytes;
        char *source = read_file(indices->string, &bytes);
        const cJSON *conversation = conversations->child, *index;
        cJSON_ArrayForEach(index, indices)
        {
            char what[256];
            assert_non_null(conversation);
            snprintf(what, sizeof(what), "%s with \"%s\"", indices->string,
                     json_get(conversation, "name")->valuestring);
            char *got = outcome(source, bytes, conversation);
            n_misses += compare(what, got, expected(golden, index));
            free(got);
            conversation = conversation->next;
            n++;
        }
        assert_null(conversation);
        free(source);
        n_templates++;
    }
    print_message("%zu templates, %zu renderings\n", n_templates, n);
    assert_true(n_templates >= 25 && n >= n_templates * 20);
    assert_int_equal(n_misses, 0);
    cJSON_Delete(conversations);
    cJSON_Delete(golden);
}

static void test_template_render_of_snippets_equals_jinja2(void **state)
{
    (void)state;
    cJSON *snippets = read_json("snippets.json"), *golden = read_json("expected.json");
    const cJSON *source = json_get(snippets, "sources")->child, *index;
    size_t n = 0, n_misses = 0;
    cJSON_ArrayForEach(index, json_get(golden, "snippets"))
    {
        assert_non_null(source);
        char *got =
            outcome(source->valuestring, strlen(source->valuestring), json_get(snippets, "inputs"));
        n_misses += compare(source->valuestring, got, expected(golden, index));
        free(got);
        source = source->next;
        n++;
    }
    assert_null(source);
    print_message("%zu snippets\n", n);
    assert_int_equal(n_misses, 0);
    cJSON_Delete(snippets);
    cJSON_Delete(golden);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_template_render_of_every_template_and_conversation_equals_jinja2),
        cmocka_unit_test(test_template_render_of_snippets_equals_jinja2),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
