#include "text/template.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { TEXT_MAX = 1 << 20, SHOWN_MAX = 1 << 14 };

/* What one rendering came to. `shown` has the segments: trusted ones as they are, others in
 * brackets. */
struct rendered {
    enum status st;
    char text[SHOWN_MAX], shown[SHOWN_MAX], err[512];
};

static cJSON *parse(const char *json)
{
    cJSON *root = NULL;
    struct json_error err = {0};
    if (json != NULL && json_parse(json, strlen(json), 64, &root, &err) != ST_OK)
        fail_msg("%s in %s", err.message, json);
    return root;
}

static void show(const struct chat_render *render, struct rendered *out)
{
    size_t n = 0;
    uint32_t at = 0;
    assert_true(2 * render->text.len + 16 < SHOWN_MAX);
    for (uint32_t i = 0; i < render->n_segments; i++) {
        const struct chat_segment *s = &render->segments[i];
        assert_int_equal(s->offset, at);
        assert_true(s->bytes > 0);
        n += (size_t)snprintf(out->shown + n, SHOWN_MAX - n, s->trusted ? "%.*s" : "[%.*s]",
                              (int)s->bytes, (const char *)render->text.data + at);
        at += s->bytes;
    }
    assert_int_equal(at, render->text.len);
    if (at > 0)
        memcpy(out->text, render->text.data, at);
    out->text[at] = '\0';
}

/* `inputs` is {"messages", "tools", "kwargs"}, with single quotes for double ones. */
static void render_max(const char *source, const char *inputs, size_t text_max,
                       struct rendered *out)
{
    char json[4096];
    struct chat_template *tpl = NULL;
    struct chat_render render = {0};
    snprintf(json, sizeof(json), "%s", inputs);
    for (char *c = json; *c != '\0'; c++)
        if (*c == '\'')
            *c = '"';
    cJSON *root = parse(json);
    struct chat_inputs in = {.messages = json_get(root, "messages"),
                             .tools = json_get(root, "tools"),
                             .kwargs = json_get(root, "kwargs"),
                             .add_generation_prompt = 1,
                             .bos_token = "<s>",
                             .eos_token = "</s>",
                             .now_unix_s = 1753401600};
    memset(out, 0, sizeof(*out));
    out->st = chat_template_compile(source, strlen(source), &tpl, out->err, sizeof(out->err));
    if (out->st == ST_OK) {
        buf_init(&render.text, text_max);
        out->st = chat_template_render(tpl, &in, &render, out->err, sizeof(out->err));
        if (out->st == ST_OK)
            show(&render, out);
        free(render.segments);
        buf_deinit(&render.text);
        chat_template_free(tpl);
    }
    cJSON_Delete(root);
}

static const char one_message[] = "{'messages':[{'role':'user','content':'Hi','n':3}]}";

static void check_text(const char *source, const char *want)
{
    static struct rendered r;
    render_max(source, one_message, TEXT_MAX, &r);
    if (r.st != ST_OK)
        fail_msg("%s: %s", source, r.err);
    assert_string_equal(r.text, want);
}

static void check_trust(const char *source, const char *want)
{
    static struct rendered r;
    render_max(source, one_message, TEXT_MAX, &r);
    if (r.st != ST_OK)
        fail_msg("%s: %s", source, r.err);
    assert_string_equal(r.shown, want);
}

static void check_error(const char *source, enum status want, const char *err)
{
    static struct rendered r;
    render_max(source, one_message, TEXT_MAX, &r);
    if (r.st != want || strstr(r.err, err) == NULL)
        fail_msg("%.200s: %s: %s", source, status_name(r.st), r.err);
}

/* ---- constructs; the differential test has many more ---- */

static void test_template_render_of_statements_writes_what_they_say(void **state)
{
    (void)state;
    check_text("{% for m in messages %}{{ m.role }}:{{ m['content'] }}{% endfor %}", "user:Hi");
    check_text("{% for i in range(6) if i % 2 %}{% if i == 5 %}{% break %}{% endif %}{{ i }}"
               "{{ loop.index0 }}{{ loop.last }};{% endfor %}",
               "10False;31False;");
    check_text("{% for k, v in {'a': 1}.items() %}{{ k }}{{ v }}{% endfor %}"
               "{% for x in [] %}{% else %}none{% endfor %}",
               "a1none");
    check_text("{% if 0 %}a{% elif none %}b{% else %}c{% endif %}", "c");
    check_text("{% set ns = namespace(n=1) %}{% for i in [1, 2] %}{% set ns.n = ns.n + i %}"
               "{% set x = i %}{% endfor %}{{ ns.n }}{{ x }}",
               "4");
    check_text("{% macro f(n, sep=',') %}{{ n }}{{ sep ~ f(n - 1) if n }}{% endmacro %}{{ f(3) }}",
               "3,2,1,0");
    check_text(
        "{% macro m() %}<{{ caller(1) }}>{% endmacro %}{% call(x) m() %}{{ x }}{% endcall %}",
        "<1>");
    check_text("{% set b | upper %}x{{ 1 }}{% endset %}{{ b }}{% filter trim %} y {% endfilter %}",
               "X1y");
    check_text("{% generation %}g{% endgeneration %}{% raw %}{{ x }}{% endraw %}{# no #}",
               "g{{ x }}");
}

static void test_template_render_of_expressions_has_python_values(void **state)
{
    (void)state;
    check_text("{{ -7 // 2 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 2 ** 8 }} {{ 1e16 }} {{ 1.0 }}",
               "-4 2 3.5 256 1e+16 1.0");
    check_text("{{ [1, 'a', none, true, {'k': (1,)}] }}", "[1, 'a', None, True, {'k': (1,)}]");
    check_text("{{ 'h\xc3\xa9llo'[1:3] }}{{ 'abc'[::-1] }}{{ [1, 2, 3][-2:] }}",
               "\xc3\xa9lcba[2, 3]");
    check_text("{{ 1 < 2 < 3 }}{{ 'a' in 'cat' }}{{ 2 not in [1] }}{{ x is defined }}",
               "TrueTrueTrueFalse");
    check_text("{{ 'a' if false }}|{{ undefined_name }}|{{ messages[0].nothing }}|", "|||");
    check_text("{{ {'b': [1, 2.5], 'a': '\xc3\xa9\"'} | tojson }}",
               "{\"b\": [1, 2.5], \"a\": \"\xc3\xa9\\\"\"}");
    check_text("{{ [1] | tojson(indent=2) }}", "[\n  1\n]");
    check_text("{{ strftime_now('%d %b %Y') }}", "25 Jul 2025");
    check_text("{{ tools is none }}{{ documents is none }}{{ bos_token }}{{ eos_token }}",
               "TrueTrue<s></s>");
}

static void test_template_render_takes_white_space_away_as_the_marks_say(void **state)
{
    (void)state;
    check_text("  {% if true %}\n  x\n  {% endif %}\ny\n", "  x\ny");
    check_text("a \n {%- if true -%} \n b \n {%- endif -%} \n c", "abc");
    check_text("a {{- 1 -}} b {{ 2 }} c", "a1b 2 c");
    check_text("a {#- x -#} b\n  {# y #}\nc", "ab\nc");
    check_text("  {%+ if true %}\nx{% endif +%}\ny", "  x\ny");
    check_text("a\r\nb\rc\n\n", "a\nb\nc\n");
    check_text("\xe3\x80\x80{%- if true -%}\xc2\xa0x{% endif %}", "x");
    check_text("", "");
}

/* ---- errors ---- */

static void test_template_compile_of_bad_source_names_the_line(void **state)
{
    (void)state;
    check_error("a\nb\n{{ 1 + }}", ST_PARSE, "line 3: unexpected '}}'");
    check_error("{% if x %}\n\n", ST_PARSE, "'if' without 'endif'");
    check_error("\n{% for x y %}", ST_PARSE, "line 2: expected 'in'");
    check_error("\n\n{{ 'abc", ST_PARSE, "line 3: string without an end");
    check_error("{{ a", ST_PARSE, "line 1: tag without an end");
    check_error("{# a", ST_PARSE, "line 1: comment without an end");
    check_error("{% raw %} a", ST_PARSE, "line 1: 'raw' without an end");
    check_error("{{ (1] }}", ST_PARSE, "line 1: unexpected ']'");
    check_error("{% endif %}", ST_PARSE, "line 1: unexpected tag 'endif'");
    check_error("{% break %}", ST_PARSE, "line 1: 'break' outside of a loop");
    check_error("{{ 99999999999999999999 }}", ST_PARSE, "bad number");
    check_error("{{ '\\ud800' }}", ST_PARSE, "bad escape");
    check_error("\n\xff", ST_PARSE, "line 2: not UTF-8");
    check_error("\n{{ a | nosuch }}", ST_UNSUPPORTED, "line 2: filter 'nosuch'");
    check_error("{{ a is nosuch }}", ST_UNSUPPORTED, "line 1: test 'nosuch'");
    check_error("{% include 'x' %}", ST_UNSUPPORTED, "line 1: 'include'");
}

static void test_template_render_of_a_wrong_type_is_invalid_and_names_the_line(void **state)
{
    (void)state;
    check_error("\n{{ nothing.x }}", ST_INVALID, "line 2: 'nothing' is undefined");
    check_error("\n\n{{ 'a' + 1 }}", ST_INVALID, "line 3: '+' does not work on str and int");
    check_error("{{ 1 // 0 }}", ST_INVALID, "division by zero");
    check_error("{{ 9223372036854775807 + 1 }}", ST_INVALID, "out of range");
    check_error("{{ (-9223372036854775807 - 1) // -1 }}", ST_INVALID, "out of range");
    check_error("{{ 2 ** 63 }}", ST_INVALID, "out of range");
    check_error("{{ messages[0].content() }}", ST_INVALID, "str cannot be called");
    check_error("{{ [1].append(2) }}", ST_INVALID, "'append' is undefined");
    check_error("{{ 'a'.split() | length(1) }}", ST_INVALID, "does not take these arguments");
    check_error("{{ none < 1 }}", ST_INVALID, "no order");
    check_error("{% for a, b in [1] %}{% endfor %}", ST_INVALID, "int cannot be iterated");
    check_error("{% set d = {} %}{% set d.x = 1 %}", ST_INVALID, "'d' is not a namespace");
    check_error("{{ undefined_name | tojson }}", ST_INVALID, "cannot be written as JSON");
}

static void test_template_render_that_raises_gives_the_text_word_for_word(void **state)
{
    (void)state;
    static struct rendered r;
    render_max("\n{{ raise_exception('No ' ~ messages[0].role ~ '!') }}", one_message, TEXT_MAX,
               &r);
    assert_int_equal(r.st, ST_INVALID);
    assert_string_equal(r.err, "No user!");
}

static void test_template_error_text_that_is_cut_stays_utf8(void **state)
{
    (void)state;
    struct chat_template *tpl = NULL;
    struct chat_render render = {0};
    static const char source[] = "{{ raise_exception('ab\xc3\xa9\xc3\xa9') }}";
    char err[6];
    assert_int_equal(chat_template_compile(source, sizeof(source) - 1, &tpl, err, sizeof(err)),
                     ST_OK);
    struct chat_inputs in = {.bos_token = "", .eos_token = ""};
    buf_init(&render.text, 100);
    assert_int_equal(chat_template_render(tpl, &in, &render, err, sizeof(err)), ST_INVALID);
    assert_string_equal(err, "ab\xc3\xa9");
    assert_int_equal(chat_template_render(tpl, &in, &render, NULL, 0), ST_INVALID);
    buf_deinit(&render.text);
    chat_template_free(tpl);
}

/* ---- bounds ---- */

static char *repeated(const char *before, const char *piece, size_t n, const char *after)
{
    size_t bytes = strlen(piece), at = strlen(before);
    char *text = malloc(at + n * bytes + strlen(after) + 1);
    assert_non_null(text);
    memcpy(text, before, at);
    for (size_t i = 0; i < n; i++, at += bytes)
        memcpy(text + at, piece, bytes);
    strcpy(text + at, after);
    return text;
}

static void check_repeated(const char *before, const char *piece, size_t n, const char *after,
                           enum status want, const char *err)
{
    char *source = repeated(before, piece, n, after);
    check_error(source, want, err);
    free(source);
}

static void test_template_compile_of_deep_source_is_too_large(void **state)
{
    (void)state;
    check_repeated("{{ ", "(", 100000, "", ST_TOO_LARGE, "nested too deeply");
    check_repeated("{{ ", "[", 200, " }}", ST_TOO_LARGE, "nested too deeply");
    check_repeated("{{ ", "-", 200, "1 }}", ST_TOO_LARGE, "nested too deeply");
    check_repeated("{{ ", "not ", 200, "1 }}", ST_TOO_LARGE, "nested too deeply");
    check_repeated("{{ a", ".b", 200, " }}", ST_TOO_LARGE, "nested too deeply");
    check_repeated("{{ a", "|trim", 200, " }}", ST_TOO_LARGE, "nested too deeply");
    check_repeated("{{ ", "1 if 1 else ", 200, "1 }}", ST_TOO_LARGE, "nested too deeply");
    check_repeated("", "{% if 1 %}", 200, "", ST_TOO_LARGE, "nested too deeply");
    check_repeated("{% for ", "(", 200, "", ST_TOO_LARGE, "nested too deeply");
    check_repeated("", "x", 256 * 1024 + 1, "", ST_TOO_LARGE, "over 262144 bytes");
}

static void test_template_compile_of_long_flat_source_is_fine(void **state)
{
    (void)state;
    static struct rendered r;
    char *chain = repeated("{{ 0", " + 1", 5000, " }}");
    render_max(chain, one_message, TEXT_MAX, &r);
    assert_int_equal(r.st, ST_OK);
    assert_string_equal(r.text, "5000");
    free(chain);
    char *elifs = repeated("{% if 0 %}", "{% elif 0 %}a", 5000, "{% else %}b{% endif %}");
    render_max(elifs, one_message, TEXT_MAX, &r);
    assert_string_equal(r.text, "b");
    free(elifs);
}

static void test_template_render_without_end_is_too_large(void **state)
{
    (void)state;
    check_error("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
                ST_TOO_LARGE, "too many steps");
    check_error("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", ST_TOO_LARGE, "too deeply");
    check_error(
        "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}"
        "{% endfor %}",
        ST_TOO_LARGE, "");
    check_error(
        "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}"
        "{% endfor %}",
        ST_TOO_LARGE, "");
    check_error("{% set ns = namespace(x=[]) %}{% for i in range(5000) %}{% set ns.x = [ns.x] %}"
                "{% endfor %}{{ ns.x }}",
                ST_TOO_LARGE, "nested too deeply");
    check_error(
        "{% set ns = namespace(x=[]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}"
        "{% endfor %}{{ ns.x | tojson | length }}",
        ST_TOO_LARGE, "");
    check_error("{% set ns = namespace() %}{% set ns.me = ns %}{{ ns }}", ST_TOO_LARGE,
                "too deeply");
    check_error("{{ 'abc' * 999999999999 }}", ST_TOO_LARGE, "too long");
    check_error("{{ [1] * 999999999999 }}", ST_TOO_LARGE, "too long");
    check_error("{{ range(100001) }}", ST_INVALID, "range");
    check_error("{{ 'a'.rjust(2000000000) }}", ST_INVALID, "width");
    check_error("{{ '%999999999d' % 1 ~ 'x' * 99999999 }}", ST_TOO_LARGE, "");
}

static void test_template_render_past_the_text_bound_is_too_large(void **state)
{
    (void)state;
    static struct rendered r;
    render_max("{% for i in range(11) %}0123456789{% endfor %}", one_message, 100, &r);
    assert_int_equal(r.st, ST_TOO_LARGE);
    assert_non_null(strstr(r.err, "writes too much"));
    render_max("{% for i in range(10) %}0123456789{% endfor %}", one_message, 100, &r);
    assert_int_equal(r.st, ST_OK);
}

static void test_template_render_of_deep_input_is_too_large(void **state)
{
    (void)state;
    struct chat_template *tpl = NULL;
    struct chat_render render = {0};
    char err[128];
    cJSON *root = cJSON_CreateArray(), *at = root;
    for (int i = 0; i < 200; i++) {
        cJSON *inner = cJSON_CreateArray();
        cJSON_AddItemToArray(at, inner);
        at = inner;
    }
    assert_int_equal(chat_template_compile("x", 1, &tpl, err, sizeof(err)), ST_OK);
    struct chat_inputs in = {.messages = root};
    buf_init(&render.text, 100);
    assert_int_equal(chat_template_render(tpl, &in, &render, err, sizeof(err)), ST_TOO_LARGE);
    buf_deinit(&render.text);
    chat_template_free(tpl);
    cJSON_Delete(root);
}

static void test_template_render_that_appends_in_a_loop_takes_linear_memory(void **state)
{
    (void)state;
    static struct rendered r;
    render_max(
        "{% set ns = namespace(t='') %}{% for i in range(20000) %}"
        "{% set ns.t = ns.t + '0123456789' + messages[0].content %}{% endfor %}"
        "{{ ns.t | length }}{% set a = 'x' ~ 'y' %}{% set b = a ~ '1' %}{% set c = a ~ '2' %}"
        " {{ a }}{{ b }}{{ c }}",
        one_message, TEXT_MAX, &r);
    assert_int_equal(r.st, ST_OK);
    assert_string_equal(r.text, "240000 xyxy1xy2"); /* two texts never share the room behind one */
}

/* ---- trust: untrusted text stands in brackets ---- */

#define C "messages[0].content"
#define N "messages[0].n"

static void test_template_trust_of_text_is_kept_piece_by_piece(void **state)
{
    (void)state;
    check_trust("<a>{{ bos_token }}{{ " C " }}{{ eos_token }}", "<a><s>[Hi]</s>");
    check_trust("{{ '<' + " C " + '>' ~ " C " }}", "<[Hi]>[Hi]");
    check_trust("{{ ('<' ~ " C " ~ '>')[0:2] }}", "<[H]");
    check_trust("{{ ('<' ~ " C " ~ '>')[::-1] }}", ">[iH]<");
    check_trust("{{ (' <' ~ " C " ~ ' ').strip() }}", "<[Hi]");
    check_trust("{{ ('a,' ~ " C ").split(',')[0] }}{{ ('a,' ~ " C ").split(',')[1] }}", "a[Hi]");
    check_trust("{{ " C ".replace('i', '<i>') }}{{ '<x>'.replace('x', " C ") }}", "[H]<i><[Hi]>");
    check_trust("{{ '-'.join(['a', " C "]) }}{{ ['a', " C "] | join('+') }}", "a-[Hi]a+[Hi]");
    check_trust("{{ '<%s|%d>' % (" C ", " N ") }}{{ '<{}>'.format(" C ") }}", "<[Hi]|[3]><[Hi]>");
    check_trust("{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m(" C ") }}{{ m('y') }}", "<[Hi]><y>");
    check_trust("{% set b %}({{ " C " }}){% endset %}{{ b }}", "([Hi])");
    check_trust("{% filter trim %} {{ " C " }}! {% endfilter %}", "[Hi]!");
    check_trust("{{ {'Hi': '<role>'}[" C "] }}{{ '<y>' if " C " else '' }}{{ " N " and '<z>' }}",
                "<role><y><z>");
    check_trust("{{ 'a\nb' | indent }}{{ (" C " ~ '\n<b>') | indent(1) }}", "a\n    b[Hi\n] <b>");
}

static void test_template_trust_of_derived_values_is_lost(void **state)
{
    (void)state;
    check_trust("{{ " C " | upper }}{{ ('<' ~ " C ") | lower }}{{ '<X>' | lower }}", "[HI<hi]<x>");
    check_trust("{{ messages | tojson }}",
                "[[{\"role\": \"user\", \"content\": \"Hi\", \"n\": 3}]]");
    check_trust("{{ {'a': 1} | tojson }}{{ {'a': " N "} | tojson }}", "{\"a\": 1}[{\"a\": 3}]");
    check_trust("{{ " N " }}{{ " N " + 1 }}{{ -" N " }}{{ 5 }}", "[34-3]5");
    check_trust("{{ " N " == 3 }}{{ " N " is defined }}{{ not " N " }}{{ 1 == 1 }}",
                "[TrueTrueFalse]True");
    check_trust("{{ " C " | length }}{{ messages | length }}{{ 'ab' | length }}", "[21]2");
    check_trust(
        "{% for m in messages %}{{ loop.index }}{% endfor %}{% for m in [1] %}{{ loop.index }}"
        "{% endfor %}",
        "[1]1");
    check_trust("{{ '|' * " N " }}{{ '|' * 2 }}", "[|||]||");
    check_trust("{{ range(" N ") | list }}{{ [" N "] }}{{ [1] }}", "[[0, 1, 2][3]][1]");
    check_trust("{{ messages[0].keys() | list }}{{ 'ab'.find(" C ") }}{{ " N " | string }}",
                "[['role', 'content', 'n']-13]");
    check_trust("{{ ('%5d' ~ " C ") % 7 }}{{ '%3d' % 7 }}", "[    7Hi]  7");
    check_trust("{{ strftime_now('%Y') }}{{ strftime_now(" C ") }}", "2025[Hi]");
    check_trust("{% set ns = namespace(n=0) %}{% set ns.n = ns.n + 1 %}{{ ns.n }}"
                "{% set ns.n = ns.n + " N " %}{{ ns.n }}",
                "1[4]");
}

static void test_template_trust_of_kwargs_cannot_be_had_by_naming_a_token(void **state)
{
    (void)state;
    static struct rendered r;
    render_max("{{ bos_token }}{{ eos_token }}{{ messages | length }}{{ tools is none }}{{ mine }}"
               "{{ add_generation_prompt }}",
               "{'messages':[1,2],'kwargs':{'bos_token':'B','eos_token':'E','messages':[],"
               "'tools':[1],'mine':'M','add_generation_prompt':false}}",
               TEXT_MAX, &r);
    assert_int_equal(r.st, ST_OK);
    assert_string_equal(r.shown, "<s></s>[2TrueM]True");
}

/* ---- loading ---- */

struct dir {
    char path[64];
};

static int dir_make(void **state)
{
    struct dir *dir = calloc(1, sizeof(*dir));
    if (dir == NULL)
        return -1;
    strcpy(dir->path, "/tmp/dynd-template-XXXXXX");
    *state = dir;
    return mkdtemp(dir->path) != NULL ? 0 : -1;
}

static void dir_file(const struct dir *dir, const char *name, const char *text)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/%s", dir->path, name);
    if (text == NULL) {
        unlink(path);
        return;
    }
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, strlen(text), f), strlen(text));
    assert_int_equal(fclose(f), 0);
}

static int dir_remove(void **state)
{
    struct dir *dir = *state;
    dir_file(dir, "chat_template.jinja", NULL);
    dir_file(dir, "tokenizer_config.json", NULL);
    rmdir(dir->path);
    free(dir);
    return 0;
}

static void check_load(const struct dir *dir, const char *text, const char *bos, const char *eos)
{
    char err[256] = "";
    struct chat_template *tpl = NULL;
    struct chat_render render = {0};
    if (chat_template_load(dir->path, &tpl, err, sizeof(err)) != ST_OK)
        fail_msg("%s", err);
    assert_string_equal(chat_template_bos(tpl), bos);
    assert_string_equal(chat_template_eos(tpl), eos);
    struct chat_inputs in = {.bos_token = bos, .eos_token = eos};
    buf_init(&render.text, 100);
    assert_int_equal(chat_template_render(tpl, &in, &render, err, sizeof(err)), ST_OK);
    assert_int_equal(render.text.len, strlen(text));
    assert_memory_equal(render.text.data, text, render.text.len);
    free(render.segments);
    buf_deinit(&render.text);
    chat_template_free(tpl);
}

static void test_template_load_prefers_the_file_to_the_config(void **state)
{
    const struct dir *dir = *state;
    dir_file(dir, "tokenizer_config.json",
             "{\"chat_template\":\"config{{ bos_token }}\",\"bos_token\":\"<b>\","
             "\"eos_token\":{\"content\":\"<e>\",\"lstrip\":false}}");
    check_load(dir, "config<b>", "<b>", "<e>");
    dir_file(dir, "chat_template.jinja", "file{{ eos_token }}\n");
    check_load(dir, "file<e>", "<b>", "<e>");
    dir_file(dir, "tokenizer_config.json", NULL);
    check_load(dir, "file", "", "");
}

static void test_template_load_of_a_list_takes_the_default(void **state)
{
    const struct dir *dir = *state;
    dir_file(dir, "tokenizer_config.json",
             "{\"chat_template\":[{\"name\":\"tool_use\",\"template\":\"no\"},"
             "{\"name\":\"default\",\"template\":\"yes\"}],\"bos_token\":null}");
    check_load(dir, "yes", "", "");
}

static void test_template_load_of_a_bad_directory_says_what_is_wrong(void **state)
{
    const struct dir *dir = *state;
    char err[256] = "";
    struct chat_template *tpl = NULL;
    assert_int_equal(chat_template_load(dir->path, &tpl, err, sizeof(err)), ST_NOT_FOUND);
    assert_int_equal(chat_template_load("/nonexistent", &tpl, err, sizeof(err)), ST_NOT_FOUND);
    dir_file(dir, "tokenizer_config.json", "{\"chat_template\":7}");
    assert_int_equal(chat_template_load(dir->path, &tpl, err, sizeof(err)), ST_NOT_FOUND);
    dir_file(dir, "tokenizer_config.json", "{\"chat_template\":");
    assert_int_equal(chat_template_load(dir->path, &tpl, err, sizeof(err)), ST_PARSE);
    assert_non_null(strstr(err, "tokenizer_config.json:1:"));
    dir_file(dir, "tokenizer_config.json", "{}");
    dir_file(dir, "chat_template.jinja", "a\n{{ (");
    assert_int_equal(chat_template_load(dir->path, &tpl, err, sizeof(err)), ST_PARSE);
    assert_non_null(strstr(err, "chat_template.jinja: line 2"));
    assert_null(tpl);
}

static void test_template_hash_tells_sources_apart(void **state)
{
    (void)state;
    struct chat_template *a, *b, *c;
    struct hash128 x, y, z;
    char err[64];
    assert_int_equal(chat_template_compile("a", 1, &a, err, sizeof(err)), ST_OK);
    assert_int_equal(chat_template_compile("b", 1, &b, err, sizeof(err)), ST_OK);
    assert_int_equal(chat_template_compile("a", 1, &c, err, sizeof(err)), ST_OK);
    chat_template_hash(a, &x);
    chat_template_hash(b, &y);
    chat_template_hash(c, &z);
    assert_false(hash128_equal(&x, &y));
    assert_true(hash128_equal(&x, &z));
    chat_template_free(a);
    chat_template_free(b);
    chat_template_free(c);
    chat_template_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_template_render_of_statements_writes_what_they_say),
        cmocka_unit_test(test_template_render_of_expressions_has_python_values),
        cmocka_unit_test(test_template_render_takes_white_space_away_as_the_marks_say),
        cmocka_unit_test(test_template_compile_of_bad_source_names_the_line),
        cmocka_unit_test(test_template_render_of_a_wrong_type_is_invalid_and_names_the_line),
        cmocka_unit_test(test_template_render_that_raises_gives_the_text_word_for_word),
        cmocka_unit_test(test_template_error_text_that_is_cut_stays_utf8),
        cmocka_unit_test(test_template_compile_of_deep_source_is_too_large),
        cmocka_unit_test(test_template_compile_of_long_flat_source_is_fine),
        cmocka_unit_test(test_template_render_without_end_is_too_large),
        cmocka_unit_test(test_template_render_past_the_text_bound_is_too_large),
        cmocka_unit_test(test_template_render_of_deep_input_is_too_large),
        cmocka_unit_test(test_template_render_that_appends_in_a_loop_takes_linear_memory),
        cmocka_unit_test(test_template_trust_of_text_is_kept_piece_by_piece),
        cmocka_unit_test(test_template_trust_of_derived_values_is_lost),
        cmocka_unit_test(test_template_trust_of_kwargs_cannot_be_had_by_naming_a_token),
        cmocka_unit_test_setup_teardown(test_template_load_prefers_the_file_to_the_config, dir_make,
                                        dir_remove),
        cmocka_unit_test_setup_teardown(test_template_load_of_a_list_takes_the_default, dir_make,
                                        dir_remove),
        cmocka_unit_test_setup_teardown(test_template_load_of_a_bad_directory_says_what_is_wrong,
                                        dir_make, dir_remove),
        cmocka_unit_test(test_template_hash_tells_sources_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
