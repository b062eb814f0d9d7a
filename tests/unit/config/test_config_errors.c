/* Every kind of bad document and override, with the whole message it must give. */
#include "config/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct bad_text {
    const char *text, *message;
};

static const struct bad_text bad_documents[] = {
    /* unknown keys */
    {"htpp: {}", "t.yaml:1:1: htpp: unknown key, did you mean http?"},
    {"http:\n  prot: 1", "t.yaml:2:3: http.prot: unknown key, did you mean http.port?"},
    {"http:\n  max-body-bytes: 1",
     "t.yaml:2:3: http.max-body-bytes: unknown key, did you mean http.max_body_bytes?"},
    {"port: 1", "t.yaml:1:1: port: unknown key, did you mean http.port?"},
    {"http:\n  block_tokens: 64",
     "t.yaml:2:3: http.block_tokens: unknown key, did you mean kv.block_tokens?"},
    {"http:\n  scheduler: {}", "t.yaml:2:3: http.scheduler: unknown key, did you mean scheduler?"},
    {"zzzzzzz: 1", "t.yaml:1:1: zzzzzzz: unknown key"},
    {"workers:\n  - role: decode\n  - thread: 2",
     "t.yaml:3:5: workers.1.thread: unknown key, did you mean workers.1.threads?"},
    {"http:\n  \"po\\x1brt\": 1", "t.yaml:2:3: http.po?rt: unknown key, did you mean http.port?"},
    {"\"\": 1", "t.yaml:1:1: unknown key"},
    {"? \n: 1", "t.yaml:1:2: unknown key"},
    {"HTTP: {}", "t.yaml:1:1: HTTP: unknown key"},
    /* repeated keys */
    {"http: {}\nhttp: {}", "t.yaml:2:1: http: is given twice, first in line 1"},
    {"http:\n  port: 1\n  host: a\n  port: 2",
     "t.yaml:4:3: http.port: is given twice, first in line 2"},
    {"workers:\n- {role: decode, role: decode}",
     "t.yaml:2:18: workers.0.role: is given twice, first in line 2"},
    /* wrong kinds */
    {"just text", "t.yaml:1:1: expected a mapping, found a single value"},
    {"- 1", "t.yaml:1:1: expected a mapping, found a list"},
    {"http: 8000", "t.yaml:1:7: http: expected a mapping, found a single value"},
    {"http: [1]", "t.yaml:1:7: http: expected a mapping, found a list"},
    {"http: {port: [1]}", "t.yaml:1:14: http.port: expected a single value, found a list"},
    {"http: {port: {a: 1}}", "t.yaml:1:14: http.port: expected a single value, found a mapping"},
    {"workers: {role: decode}", "t.yaml:1:10: workers: expected a list, found a mapping"},
    {"workers: [decode]", "t.yaml:1:11: workers.0: expected a mapping, found a single value"},
    {"kv_transfer: {require: ucx}",
     "t.yaml:1:24: kv_transfer.require: expected a list, found a single value"},
    {"kv_transfer: {require: [[ucx]]}",
     "t.yaml:1:25: kv_transfer.require: expected a single value, found a list"},
    {"run_dir: {}", "t.yaml:1:10: run_dir: expected a single value, found a mapping"},
    /* integers */
    {"http:\n  port: abc", "t.yaml:2:9: http.port: expected an integer, found 'abc'"},
    {"http: {port: \"80\"}", "t.yaml:1:14: http.port: expected an integer, found the string '80'"},
    {"http: {port: 8.5}", "t.yaml:1:14: http.port: expected an integer, found '8.5'"},
    {"http: {port: 0x50}", "t.yaml:1:14: http.port: expected an integer, found '0x50'"},
    {"http: {port: 010}", "t.yaml:1:14: http.port: expected an integer, found '010'"},
    {"http: {port: 8_000}", "t.yaml:1:14: http.port: expected an integer, found '8_000'"},
    {"http: {port: +1}", "t.yaml:1:14: http.port: expected an integer, found '+1'"},
    {"http: {port: true}", "t.yaml:1:14: http.port: expected an integer, found 'true'"},
    {"http: {port: }", "t.yaml:1:14: http.port: expected an integer, found nothing"},
    {"http: {port: ~}", "t.yaml:1:14: http.port: expected an integer, found nothing"},
    {"http: {port: 65536}",
     "t.yaml:1:14: http.port: 65536 is out of range, must be between 0 and 65535"},
    {"http: {port: -1}", "t.yaml:1:14: http.port: -1 is out of range, must be between 0 and 65535"},
    {"http: {port: 99999999999999999999999}", "t.yaml:1:14: http.port: 99999999999999999999999 is "
                                              "out of range, must be between 0 and 65535"},
    {"http: {port: 1KiB}", "t.yaml:1:14: http.port: expected an integer, found '1KiB'"},
    {"model: {seed: 18446744073709551616}",
     "t.yaml:1:15: model.seed: 18446744073709551616 is out of range, must be between 0 and "
     "18446744073709551615"},
    {"kv: {block_tokens: 48}", "t.yaml:1:20: kv.block_tokens: 48 is not a power of two"},
    {"kv: {block_tokens: 256}",
     "t.yaml:1:20: kv.block_tokens: 256 is out of range, must be between 16 and 128"},
    {"kv: {pool_bytes: 1GB}", "t.yaml:1:18: kv.pool_bytes: expected a number of bytes such as "
                              "1048576 or 256MiB, found '1GB'"},
    {"kv: {pool_bytes: 99999999999TiB}",
     "t.yaml:1:18: kv.pool_bytes: 99999999999TiB is out of range, must be between 65536 and "
     "17592186044416"},
    /* booleans, words, strings */
    {"kv: {prefix_cache: yes}",
     "t.yaml:1:20: kv.prefix_cache: expected true or false, found 'yes'"},
    {"kv: {prefix_cache: \"true\"}",
     "t.yaml:1:20: kv.prefix_cache: expected true or false, found the string 'true'"},
    {"workers: [{role: prefil}]",
     "t.yaml:1:18: workers.0.role: expected unified, prefill or decode, found 'prefil', did you "
     "mean prefill?"},
    {"model: {runner: vllm}",
     "t.yaml:1:17: model.runner: expected transformer or hash, found 'vllm'"},
    {"model: {runner: }", "t.yaml:1:17: model.runner: expected transformer or hash, found nothing"},
    {"kv_transfer: {require: [auto]}",
     "t.yaml:1:25: kv_transfer.require: expected shm, ucx or local, found 'auto'"},
    {"model: {path: }",
     "t.yaml:1:15: model.path: expected a string (\"\" for an empty one), found nothing"},
    {"model: {path: \"a\\0b\"}", "t.yaml:1:15: model.path: has a control character"},
    {"model: {path: \"a\\nb\"}", "t.yaml:1:15: model.path: has a control character"},
    {"model: {path: \"\\u2028\"}", "t.yaml:1:15: model.path: has a control character"},
    {"workers: [{cpus: 3-1}]",
     "t.yaml:1:18: workers.0.cpus: '3-1' must be numbers and ranges up to 4095, each once, for "
     "example \"0-3,8\""},
    {"workers: [{name: a/b}]", "t.yaml:1:18: workers.0.name: 'a/b' may have letters, digits, '-', "
                               "'_' and '.' only"},
    {"cluster: {endpoints: [localhost]}", "t.yaml:1:23: cluster.endpoints: 'localhost' must be "
                                          "host:port, [address]:port or unix:/path"},
    {"cluster: {endpoints: ['']}", "t.yaml:1:23: cluster.endpoints: has an empty item"},
    {"cluster: {listen: 'unix:run'}",
     "t.yaml:1:19: cluster.listen: 'unix:run' must have an absolute path after unix:"},
    /* what YAML has and a configuration does not */
    {"http: &a {port: 1}", "t.yaml:1:7: anchors are not supported"},
    {"http: {port: &p 1}", "t.yaml:1:14: anchors are not supported"},
    {"http: *a", "t.yaml:1:7: aliases are not supported"},
    {"http: {port: !!int 1}", "t.yaml:1:14: tags are not supported"},
    {"!x http: {}", "t.yaml:1:1: tags are not supported"},
    {"http: {}\n---\nlog: {}", "t.yaml:2:1: only one document is allowed"},
    {"%YAML 1.1\n---\nhttp: {}", "t.yaml:1:1: directives are not supported"},
    {"[a]: 1", "t.yaml:1:1: a key must be a word"},
    {"{a: {b: {c: {d: {e: {f: {g: {h: {i: 1}}}}}}}}}", "t.yaml:1:33: nested too deeply"},
    /* broken YAML */
    {"http: {port: 1", "t.yaml:2:1: not valid YAML: did not find expected ',' or '}'"},
    {"http:\n\tport: 1", "t.yaml:2:1: not valid YAML: found character that cannot start any token"},
    {"http: \"a", "t.yaml:1:9: not valid YAML: found unexpected end of stream"},
    {"a: b: c", "t.yaml:1:5: not valid YAML: mapping values are not allowed in this context"},
    {"http:\n  port: 1\n log: {}", "t.yaml:3:2: not valid YAML: did not find expected key"},
    {"run_dir: \xff", "t.yaml:1:1: not valid YAML: invalid leading UTF-8 octet"},
    {"run_dir: a\x01", "t.yaml:1:1: not valid YAML: control characters are not allowed"},
};

static const struct bad_text bad_overrides[] = {
    {"http.port", "--set: expected key=value, found 'http.port'"},
    {"=1", "--set: expected key=value, found '=1'"},
    {"", "--set: expected key=value, found ''"},
    {"http.prot=1", "--set: http.prot: unknown key, did you mean http.port?"},
    {"htp.port=1", "--set: htp: unknown key, did you mean http?"},
    {"http=1", "--set: http: is a section, set one of its keys"},
    {"http.port.x=1", "--set: http.port.x: unknown key"},
    {"http.=1", "--set: http: unknown key"},
    {".=1", "--set: unknown key"},
    {"http.port=", "--set: http.port: expected an integer, found ''"},
    {"http.port= 1", "--set: http.port: expected an integer, found ' 1'"},
    {"http.port=70000", "--set: http.port: 70000 is out of range, must be between 0 and 65535"},
    {"workers=1", "--set: workers: is a section, set one of its keys"},
    {"workers.role=decode", "--set: workers: is a list, name an item: workers.0.role"},
    {"workers.x.role=decode", "--set: workers: is a list, name an item: workers.0.role"},
    {"workers.1.role=decode", "--set: workers.1.role: workers has 0 items, so the next one is 0"},
    {"workers.999.role=decode",
     "--set: workers.999.role: workers has 0 items, so the next one is 0"},
    {"workers.0.rol=decode", "--set: workers.0.rol: unknown key, did you mean workers.0.role?"},
    {"kv_transfer.require=ucx,,local", "--set: kv_transfer.require: has an empty item"},
    {"kv_transfer.require=a,b,c,d,e,f,g,h,i",
     "--set: kv_transfer.require: has 9 items, at most 8 are allowed"},
    {"kv.prefix_cache=1", "--set: kv.prefix_cache: expected true or false, found '1'"},
    {"model.path=\xff", "--set: model.path: is not valid UTF-8"},
    {"run_dirr=/x", "--set: run_dirr: unknown key, did you mean run_dir?"},
};

static void test_config_bad_document_is_refused_with_place_key_and_reason(void **state)
{
    (void)state;
    bool failed = false;
    for (size_t i = 0; i < sizeof(bad_documents) / sizeof(bad_documents[0]); i++) {
        const struct bad_text *bad = &bad_documents[i];
        struct config config;
        struct config_error error;
        enum status st =
            config_load_text(bad->text, strlen(bad->text), "t.yaml", NULL, 0, &config, &error);
        if (st == ST_OK || strcmp(error.message, bad->message) != 0) {
            print_error("document %zu: %s\n  expected %s\n  got      %s\n", i, bad->text,
                        bad->message, st == ST_OK ? "no error" : error.message);
            failed = true;
        }
        assert_null(config.arena.head);
        config_deinit(&config);
    }
    assert_false(failed);
}

static void test_config_bad_override_is_refused_with_key_and_reason(void **state)
{
    (void)state;
    bool failed = false;
    for (size_t i = 0; i < sizeof(bad_overrides) / sizeof(bad_overrides[0]); i++) {
        const struct bad_text *bad = &bad_overrides[i];
        struct config config;
        struct config_error error;
        enum status st = config_load(NULL, &bad->text, 1, &config, &error);
        if (st == ST_OK || strcmp(error.message, bad->message) != 0) {
            print_error("--set %s\n  expected %s\n  got      %s\n", bad->text, bad->message,
                        st == ST_OK ? "no error" : error.message);
            failed = true;
        }
        assert_int_equal(error.line, 0);
        config_deinit(&config);
    }
    assert_false(failed);
}

static void expect_status(const char *text, size_t bytes, enum status expected)
{
    struct config config;
    struct config_error error;
    enum status st = config_load_text(text, bytes, "t.yaml", NULL, 0, &config, &error);
    if (st != expected)
        fail_msg("%s", error.message);
    if (st == ST_OK)
        config_deinit(&config);
}

static void test_config_bounds_on_size_depth_and_lists_hold(void **state)
{
    (void)state;
    struct buf buf;
    buf_init(&buf, 1 << 20);
    assert_int_equal(buf_append_str(&buf, "workers:\n"), ST_OK);
    for (int i = 0; i < 64; i++)
        assert_int_equal(buf_append_str(&buf, "- {role: decode}\n"), ST_OK);
    expect_status((char *)buf.data, buf.len, ST_OK);
    assert_int_equal(buf_append_str(&buf, "- {role: decode}\n"), ST_OK);
    expect_status((char *)buf.data, buf.len, ST_INVALID);

    buf.len = 0;
    for (int i = 0; i < 100000; i++)
        assert_int_equal(buf_append_str(&buf, "["), ST_OK);
    expect_status((char *)buf.data, buf.len, ST_PARSE);

    buf.len = 0;
    assert_int_equal(buf_append_str(&buf, "cluster: {endpoints: ["), ST_OK);
    for (int i = 0; i < 20000; i++)
        assert_int_equal(buf_append_str(&buf, "a:1,"), ST_OK);
    expect_status((char *)buf.data, buf.len, ST_PARSE); /* more values than a tree may have */

    buf.len = 0;
    assert_int_equal(buf_printf(&buf, "run_dir: %04096d", 1), ST_OK);
    expect_status((char *)buf.data, buf.len, ST_OK);
    assert_int_equal(buf_append_str(&buf, "0"), ST_OK);
    expect_status((char *)buf.data, buf.len, ST_INVALID);
    buf_deinit(&buf);
}

static void test_config_long_names_and_values_are_cut_in_messages(void **state)
{
    (void)state;
    char path[1000], text[2000];
    struct config config;
    struct config_error error;
    memset(path, 'p', sizeof(path) - 1);
    path[sizeof(path) - 1] = '\0';
    snprintf(text, sizeof(text), "http: {port: %s}", path);
    assert_int_equal(config_load_text(text, strlen(text), path, NULL, 0, &config, &error),
                     ST_INVALID);
    assert_non_null(strstr(error.message, "p:1:14: http.port: expected an integer, found 'pppp"));
    assert_non_null(strstr(error.message, "ppp...'"));
    assert_int_equal(error.line, 1);
    assert_int_equal(error.column, 14);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_config_bad_document_is_refused_with_place_key_and_reason),
        cmocka_unit_test(test_config_bad_override_is_refused_with_key_and_reason),
        cmocka_unit_test(test_config_bounds_on_size_depth_and_lists_hold),
        cmocka_unit_test(test_config_long_names_and_values_are_cut_in_messages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
