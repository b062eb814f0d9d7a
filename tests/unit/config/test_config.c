/* Reading, precedence, overrides, printing. Bad documents are in test_config_errors.c. */
#include "config/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void load(const char *text, const char *const *sets, uint32_t n_sets, struct config *config)
{
    struct config_error error;
    enum status st = config_load_text(text, strlen(text), "t.yaml", sets, n_sets, config, &error);
    if (st != ST_OK)
        fail_msg("%s", error.message);
}

static void test_config_load_without_file_gives_the_defaults(void **state)
{
    (void)state;
    struct config config;
    struct config_error error;
    assert_int_equal(config_load(NULL, NULL, 0, &config, &error), ST_OK);
    assert_string_equal(config.http.host, "127.0.0.1");
    assert_int_equal(config.http.port, 8000);
    assert_int_equal(config.http.max_body_bytes, 32 << 20);
    assert_int_equal(config.kv.block_tokens, 64);
    assert_int_equal(config.kv.pool_bytes, 256 << 20);
    assert_true(config.kv.prefix_cache);
    assert_int_equal(config.model.runner, CONFIG_RUNNER_TRANSFORMER);
    assert_string_equal(config.model.path, "");
    assert_string_equal(config.run_dir, "");
    assert_int_equal(config.n_workers, 0);
    assert_int_equal(config.kv_transfer.require.count, 0);
    assert_int_equal(config.log.level, CONFIG_LOG_INFO);
    config_deinit(&config);
    config_deinit(&config); /* twice is harmless */
}

static void test_config_load_reads_every_kind_of_value(void **state)
{
    (void)state;
    static const char text[] = "# comment\n"
                               "run_dir: /run/dynd\n"
                               "model: {path: \"a/b/tiny/\", seed: 18446744073709551615}\n"
                               "http:\n"
                               "  port: 0\n"
                               "  host: '::'\n"
                               "kv:\n"
                               "  pool_bytes: 2GiB\n"
                               "  block_tokens: 128\n"
                               "  prefix_cache: false\n"
                               "kv_transfer:\n"
                               "  require: [ucx, \"local\"]\n"
                               "cluster:\n"
                               "  endpoints:\n"
                               "    - unix:/run/a.sock\n"
                               "    - \"[::1]:9000\"\n"
                               "    - decode.dynd.svc:9001\n"
                               "workers:\n"
                               "  - role: prefill\n"
                               "    cpus: 0\n"
                               "  - {role: decode, count: 2, device: cuda, gpus: '0,1', name: d}\n"
                               "scheduler:\n";
    struct config config;
    load(text, NULL, 0, &config);
    assert_string_equal(config.run_dir, "/run/dynd");
    assert_string_equal(config.model.path, "a/b/tiny/");
    assert_string_equal(config.model.name, "tiny");
    assert_true(config.model.seed == UINT64_MAX);
    assert_int_equal(config.http.port, 0);
    assert_string_equal(config.http.host, "::");
    assert_true(config.kv.pool_bytes == 2ull << 30);
    assert_int_equal(config.kv.block_tokens, 128);
    assert_false(config.kv.prefix_cache);
    assert_int_equal(config.kv_transfer.require.count, 2);
    assert_string_equal(config.kv_transfer.require.items[0], "ucx");
    assert_string_equal(config.kv_transfer.require.items[1], "local");
    assert_int_equal(config.cluster.endpoints.count, 3);
    assert_string_equal(config.cluster.endpoints.items[1], "[::1]:9000");
    assert_int_equal(config.n_workers, 2);
    assert_int_equal(config.workers[0].role, CONFIG_ROLE_PREFILL);
    assert_int_equal(config.workers[0].count, 1);
    assert_string_equal(config.workers[0].cpus, "0");
    assert_string_equal(config.workers[0].name, "");
    assert_int_equal(config.workers[1].device, CONFIG_DEVICE_CUDA);
    assert_string_equal(config.workers[1].gpus, "0,1");
    assert_int_equal(config.scheduler.max_batch_seqs, 64);
    assert_string_equal(config.path, "t.yaml");
    config_deinit(&config);
}

static void test_config_empty_documents_are_all_defaults(void **state)
{
    (void)state;
    static const char *const empty[] = {"",   "\n\n", "# nothing\n", "---\n",
                                        "{}", "~",    "http:\n",     "\xef\xbb\xbf"};
    for (size_t i = 0; i < sizeof(empty) / sizeof(empty[0]); i++) {
        struct config config;
        load(empty[i], NULL, 0, &config);
        assert_int_equal(config.http.port, 8000);
        config_deinit(&config);
    }
}

static void test_config_set_beats_environment_beats_file_beats_default(void **state)
{
    (void)state;
    static const char text[] = "http: {port: 1, max_connections: 1, listen_backlog: 1}\n"
                               "workers: [{role: decode, threads: 1}]\n";
    static const char *const sets[] = {"http.port=3", "workers.0.threads=3", "http.port=4"};
    struct config config;
    setenv("DYND_HTTP_PORT", "2", 1);
    setenv("DYND_HTTP_MAX_CONNECTIONS", "2", 1);
    setenv("DYND_WORKERS_0_THREADS", "2", 1);
    setenv("DYND_WORKERS_1_ROLE", "prefill", 1);
    setenv("DYND_RUN_DIR", "/r", 1);
    setenv("DYND_KV_TRANSFER_REQUIRE", "ucx,local", 1);
    setenv("DYND_ROUTER_PORT", "tcp://10.0.0.1:80", 1); /* as Kubernetes sets it: no option */
    load(text, sets, 3, &config);
    assert_int_equal(config.http.port, 4);
    assert_int_equal(config.http.max_connections, 2);
    assert_int_equal(config.http.listen_backlog, 1);
    assert_int_equal(config.http.max_header_bytes, 65536);
    assert_int_equal(config.workers[0].threads, 3);
    assert_int_equal(config.workers[0].role, CONFIG_ROLE_DECODE);
    assert_int_equal(config.n_workers, 2);
    assert_int_equal(config.workers[1].role, CONFIG_ROLE_PREFILL);
    assert_string_equal(config.run_dir, "/r");
    assert_int_equal(config.kv_transfer.require.count, 2);
    config_deinit(&config);

    struct config_error error;
    setenv("DYND_HTTP_PORT", "many", 1);
    assert_int_equal(config_load(NULL, NULL, 0, &config, &error), ST_INVALID);
    assert_string_equal(error.message,
                        "environment DYND_HTTP_PORT: http.port: expected an integer, found 'many'");
    static const char *const names[] = {"DYND_HTTP_PORT",         "DYND_HTTP_MAX_CONNECTIONS",
                                        "DYND_WORKERS_0_THREADS", "DYND_WORKERS_1_ROLE",
                                        "DYND_RUN_DIR",           "DYND_KV_TRANSFER_REQUIRE",
                                        "DYND_ROUTER_PORT"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        unsetenv(names[i]);
}

static void test_config_set_takes_strings_as_they_are_and_lists_in_both_forms(void **state)
{
    (void)state;
    static const char *const sets[] = {
        "model.path=/a b/x: y#z=1", "http.host=",           "kv_transfer.require=[ucx, local]",
        "kv.pool_bytes=1MiB",       "workers.0.cpus=0-1,3", "cluster.endpoints= a:1 , b:2",
    };
    struct config config;
    load("kv_transfer: {require: [local]}", sets, 6, &config);
    assert_string_equal(config.model.path, "/a b/x: y#z=1");
    assert_string_equal(config.http.host, "");
    assert_int_equal(config.kv_transfer.require.count, 2);
    assert_int_equal(config.kv.pool_bytes, 1 << 20);
    assert_string_equal(config.workers[0].cpus, "0-1,3");
    assert_int_equal(config.cluster.endpoints.count, 2);
    assert_string_equal(config.cluster.endpoints.items[1], "b:2");
    config_deinit(&config);

    static const char *const empty[] = {"kv_transfer.require=", "cluster.endpoints=[]"};
    load("kv_transfer: {require: [local]}", empty, 2, &config);
    assert_int_equal(config.kv_transfer.require.count, 0);
    assert_int_equal(config.cluster.endpoints.count, 0);
    config_deinit(&config);
}

static void test_config_printed_yaml_loads_to_the_same_values(void **state)
{
    (void)state;
    static const char text[] =
        "run_dir: \"/tmp/a \\\"b\\\" \\\\ \xc3\xa9\"\n"
        "model: {path: \"x # y: z\", name: ' lead and trail '}\n"
        "kv: {pool_bytes: 3MiB, prefix_cache: false}\n"
        "kv_transfer: {require: [ucx]}\n"
        "workers: [{role: prefill, count: 2}, {name: d, cpus: 0-1, role: decode}]\n"
        "log: {level: debug, format: json}\n";
    struct config config;
    struct buf first, second;
    buf_init(&first, 1 << 20);
    buf_init(&second, 1 << 20);
    load(text, NULL, 0, &config);
    assert_int_equal(config_print_yaml(&config, &first), ST_OK);
    config_deinit(&config);

    struct config_error error;
    if (config_load_text((char *)first.data, first.len, "printed", NULL, 0, &config, &error) !=
        ST_OK)
        fail_msg("%s", error.message);
    assert_string_equal(config.run_dir, "/tmp/a \"b\" \\ \xc3\xa9");
    assert_string_equal(config.model.name, " lead and trail ");
    assert_int_equal(config.n_workers, 2);
    assert_int_equal(config_print_yaml(&config, &second), ST_OK);
    config_deinit(&config);
    assert_int_equal(first.len, second.len);
    assert_memory_equal(first.data, second.data, first.len);

    struct buf small;
    buf_init(&small, 50);
    load("", NULL, 0, &config);
    assert_int_equal(config_print_yaml(&config, &small), ST_TOO_LARGE);
    assert_int_equal(small.len, 0);
    config_deinit(&config);
    buf_deinit(&small);
    buf_deinit(&first);
    buf_deinit(&second);
}

static void test_config_print_of_no_workers_loads(void **state)
{
    (void)state;
    struct config config;
    struct buf out;
    buf_init(&out, 1 << 20);
    load("", NULL, 0, &config);
    assert_int_equal(config_print_yaml(&config, &out), ST_OK);
    config_deinit(&config);
    assert_int_equal(buf_append(&out, "", 1), ST_OK);
    assert_non_null(strstr((char *)out.data, "workers: []\n"));
    load((char *)out.data, NULL, 0, &config);
    config_deinit(&config);
    buf_deinit(&out);
}

static void test_config_shipped_files_load_and_validate(void **state)
{
    (void)state;
    static const struct {
        const char *path;
        uint32_t n_processes;
    } files[] = {{"configs/unified.yaml", 1}, {"configs/disagg.yaml", 2}, {"configs/2p2d.yaml", 4}};
    for (size_t i = 0; i < 3; i++) {
        char path[512];
        struct config config;
        struct config_error error;
        snprintf(path, sizeof(path), "%s/%s", DYND_SOURCE_DIR, files[i].path);
        if (config_load(path, NULL, 0, &config, &error) != ST_OK ||
            config_validate(&config, &error) != ST_OK)
            fail_msg("%s", error.message);
        assert_int_equal(config_process_count(&config), files[i].n_processes);
        assert_string_equal(config.model.name, "dynd-tiny");
        config_deinit(&config);
    }
}

static void test_config_load_from_a_file_that_is_missing_a_folder_or_too_large(void **state)
{
    (void)state;
    struct config config;
    struct config_error error;
    assert_int_equal(config_load("/nonexistent/x.yaml", NULL, 0, &config, &error), ST_IO);
    assert_string_equal(error.message,
                        "/nonexistent/x.yaml: cannot be read: No such file or directory");
    assert_int_equal(config_load("/", NULL, 0, &config, &error), ST_IO);
    assert_string_equal(error.message, "/: cannot be read: Is a directory");
    config_deinit(&config);

    char path[] = "/tmp/dynd-test-config-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    static char comment[(1 << 18) + 1];
    memset(comment, '#', sizeof(comment));
    assert_int_equal(write(fd, comment, sizeof(comment)), sizeof(comment));
    close(fd);
    assert_int_equal(config_load(path, NULL, 0, &config, &error), ST_TOO_LARGE);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_config_load_without_file_gives_the_defaults),
        cmocka_unit_test(test_config_load_reads_every_kind_of_value),
        cmocka_unit_test(test_config_empty_documents_are_all_defaults),
        cmocka_unit_test(test_config_set_beats_environment_beats_file_beats_default),
        cmocka_unit_test(test_config_set_takes_strings_as_they_are_and_lists_in_both_forms),
        cmocka_unit_test(test_config_printed_yaml_loads_to_the_same_values),
        cmocka_unit_test(test_config_print_of_no_workers_loads),
        cmocka_unit_test(test_config_shipped_files_load_and_validate),
        cmocka_unit_test(test_config_load_from_a_file_that_is_missing_a_folder_or_too_large),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
