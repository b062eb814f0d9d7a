#include "config/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

static const struct {
    const char *text;
    const char *message; /* NULL: valid */
} cases[] = {
    {"{}", "t.yaml: model.path: is required unless model.runner is hash"},
    {"model: {load_format: dummy}", "t.yaml: model.path: is required unless model.runner is hash"},
    {"model: {path: m}",
     "t.yaml: workers: is empty, and cluster.endpoints too: nothing could serve"},
    {"model: {path: m}\nworkers: [{role: unified}]", NULL},
    {"model: {runner: hash}\nworkers: [{role: decode}]", NULL},
    {"model: {path: m}\nworkers: [{role: prefill}]",
     "t.yaml: workers: a prefill worker needs a decode worker, add one with role: decode"},
    {"model: {path: m}\nworkers: [{role: prefill}, {role: decode}]", NULL},
    {"model: {path: m}\nworkers: [{role: prefill}]\ncluster: {endpoints: ['a:1']}", NULL},
    {"model: {path: m}\nworkers: [{role: prefill}]\ncluster: {listen: '0.0.0.0:7000'}", NULL},
    {"model: {path: m}\ncluster: {endpoints: ['a:1']}", NULL},
    {"model: {path: m}\ncluster: {discovery: dns, listen: 'a:1'}",
     "t.yaml: cluster.endpoints: needs a name to look up when discovery is dns"},
    {"model: {path: m}\ncluster: {discovery: dns, endpoints: ['unix:/a']}",
     "t.yaml: cluster.endpoints: takes no unix: path when discovery is dns"},
    {"model: {path: m}\nworkers: [{count: 64}, {}]",
     "t.yaml: workers: stand for more than 64 processes"},
    {"model: {path: m}\nworkers: [{name: a}, {name: a}]",
     "t.yaml: workers: two processes would be named a"},
    {"model: {path: m}\nworkers: [{count: 2, name: a}, {name: a-1}]",
     "t.yaml: workers: two processes would be named a-1"},
    {"model: {path: m}\nworkers: [{name: unified-0}, {}]",
     "t.yaml: workers: two processes would be named unified-0"},
    {"model: {path: m}\nworkers: [{}, {gpus: 0}]", "t.yaml: workers.1.gpus: needs device: cuda"},
    {"model: {path: m}\nworkers: [{device: cuda, gpus: 0}]", NULL},
    {"model: {path: m}\nworkers: [{}]\nkv_transfer: {transport: local, require: [ucx]}",
     "t.yaml: kv_transfer.transport: is not among kv_transfer.require"},
    {"model: {path: m}\nworkers: [{}]\nkv_transfer: {transport: ucx, require: [local, ucx]}", NULL},
    {"model: {path: m}\nworkers: [{}]\nscheduler: {prefill_chunk_tokens: 4096}",
     "t.yaml: scheduler.prefill_chunk_tokens: is more than max_batch_tokens"},
    {"model: {path: m}\nworkers: [{}]\nscheduler: {max_batch_seqs: 4096}",
     "t.yaml: scheduler.max_batch_seqs: is more than max_batch_tokens"},
    {"model: {path: m}\nworkers: [{}]\nsupervisor: {restart_backoff_ms: 20000}",
     "t.yaml: supervisor.restart_backoff_ms: is more than restart_backoff_max_ms"},
};

static void test_config_validate_finds_values_that_do_not_fit_together(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct config config;
        struct config_error error = {0};
        const char *text = cases[i].text;
        if (config_load_text(text, strlen(text), "t.yaml", NULL, 0, &config, &error) != ST_OK)
            fail_msg("%s", error.message);
        enum status st = config_validate(&config, &error);
        assert_int_equal(st, cases[i].message != NULL ? ST_INVALID : ST_OK);
        if (cases[i].message != NULL)
            assert_string_equal(error.message, cases[i].message);
        config_deinit(&config);
    }
}

static void test_config_process_get_names_and_orders_the_processes(void **state)
{
    (void)state;
    static const char text[] = "workers:\n"
                               "- {role: prefill, count: 2}\n"
                               "- {role: decode}\n"
                               "- {role: prefill}\n"
                               "- {role: decode, name: big, count: 2}\n"
                               "- {role: decode, name: one}\n";
    static const char *const names[] = {"prefill-0", "prefill-1", "decode-0", "prefill-2",
                                        "big-0",     "big-1",     "one"};
    static const uint32_t entries[] = {0, 0, 1, 2, 3, 3, 4};
    struct config config;
    struct config_error error;
    assert_int_equal(config_load_text(text, strlen(text), "t", NULL, 0, &config, &error), ST_OK);
    assert_int_equal(config_process_count(&config), 7);
    for (uint32_t i = 0; i < 7; i++) {
        struct config_process process;
        config_process_get(&config, i, &process);
        assert_string_equal(process.name, names[i]);
        assert_int_equal(process.entry, entries[i]);
        assert_ptr_equal(process.worker, &config.workers[entries[i]]);
    }
    config_deinit(&config);
}

static void test_config_index_list_parse_keeps_the_order_written(void **state)
{
    (void)state;
    uint32_t out[8], count = 99;
    assert_int_equal(config_index_list_parse("8,0-2,4095", out, 8, &count), ST_OK);
    static const uint32_t expected[] = {8, 0, 1, 2, 4095};
    assert_int_equal(count, 5);
    assert_memory_equal(out, expected, sizeof(expected));
    assert_int_equal(config_index_list_parse("", out, 8, &count), ST_OK);
    assert_int_equal(count, 0);
    assert_int_equal(config_index_list_parse("0-7", out, 8, &count), ST_OK);
    assert_int_equal(config_index_list_parse("0-8", out, 8, &count), ST_TOO_LARGE);
    assert_int_equal(config_index_list_parse("0-4095", NULL, 4096, &count), ST_OK);
    assert_int_equal(count, 4096);
}

static void test_config_index_list_parse_refuses_what_is_not_a_list(void **state)
{
    (void)state;
    static const char *const bad[] = {",",    "1,",    ",1",    "a",    "1-",    "-1",
                                      "2-1",  "1,1",   "0-3,2", "4096", "99999", "1 ,2",
                                      "1--2", "1-2-3", "1;2",   "0x1"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        uint32_t out[16], count;
        assert_int_equal(config_index_list_parse(bad[i], out, 16, &count), ST_PARSE);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_config_validate_finds_values_that_do_not_fit_together),
        cmocka_unit_test(test_config_process_get_names_and_orders_the_processes),
        cmocka_unit_test(test_config_index_list_parse_keeps_the_order_written),
        cmocka_unit_test(test_config_index_list_parse_refuses_what_is_not_a_list),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
