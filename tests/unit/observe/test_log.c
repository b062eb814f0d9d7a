#include "observe/log.h"

#include "base/json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* stderr of the test is replaced while a case runs; text is what the log wrote. */
static struct {
    int saved, reader;
    char text[16384];
} capture;

static void capture_begin(int reader, int writer)
{
    capture.saved = dup(STDERR_FILENO);
    capture.reader = reader;
    assert_true(dup2(writer, STDERR_FILENO) >= 0);
    close(writer);
}

static void capture_begin_pipe(void)
{
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    capture_begin(fds[0], fds[1]);
}

/* Reads what is there, puts stderr back. */
static const char *capture_end(void)
{
    fcntl(capture.reader, F_SETFL, O_NONBLOCK);
    ssize_t n = read(capture.reader, capture.text, sizeof(capture.text) - 1);
    capture.text[n > 0 ? n : 0] = '\0';
    close(capture.reader);
    assert_true(dup2(capture.saved, STDERR_FILENO) >= 0);
    close(capture.saved);
    log_setup(LOG_INFO, false, ""); /* lets go of the pipe */
    return capture.text;
}

static void test_log_text_line_has_time_level_component_message_fields(void **state)
{
    (void)state;
    capture_begin_pipe();
    log_setup(LOG_INFO, false, "router");
    log_debug("not shown");
    log_info("ready", LOG_STR("host", "127.0.0.1"), LOG_U64("port", 8000), LOG_I64("delta", -3),
             LOG_F64("ratio", 0.5));
    log_warn("odd values", LOG_STR("a", "two words"), LOG_STR("b", ""), LOG_STR("c", "x\ny\"z"),
             LOG_STR("d", NULL), LOG_F64("e", NAN));
    const char *text = capture_end();
    assert_null(strstr(text, "not shown"));
    assert_int_equal(text[10], 'T');
    const char *first = text + 24;
    static const char expected[] =
        " INFO  router  ready host=127.0.0.1 port=8000 delta=-3 ratio=0.5\n";
    assert_memory_equal(first, expected, strlen(expected));
    assert_non_null(strstr(text, " WARN  router  odd values a=\"two words\" b=\"\" "
                                 "c=\"x\\ny\\\"z\" d=\"\" e=nan\n"));
}

static void test_log_json_line_is_valid_whatever_the_values(void **state)
{
    (void)state;
    char longest[5000];
    memset(longest, 'a', sizeof(longest) - 1);
    longest[sizeof(longest) - 1] = '\0';
    capture_begin_pipe();
    log_setup(LOG_DEBUG, true, "worker");
    log_debug("bytes \xff\x01 and \xc3\xa9", LOG_STR("s", "\"\\\n\x7f"), LOG_F64("inf", INFINITY),
              LOG_U64("n", UINT64_MAX), LOG_STR("long", longest));
    const char *text = capture_end();
    size_t n = strlen(text);
    assert_int_equal(text[n - 1], '\n');
    cJSON *root = NULL;
    assert_int_equal(json_parse(text, n, 4, &root, NULL), ST_OK);
    assert_string_equal(json_get(root, "level")->valuestring, "debug");
    assert_string_equal(json_get(root, "component")->valuestring, "worker");
    assert_string_equal(json_get(root, "message")->valuestring,
                        "bytes \xef\xbf\xbd\x01 and \xc3\xa9");
    assert_string_equal(json_get(root, "s")->valuestring, "\"\\\n\x7f");
    assert_null(json_get(root, "inf"));
    assert_int_equal(strlen(json_get(root, "long")->valuestring), 1024 + 3);
    cJSON_Delete(root);
}

static void test_log_line_longer_than_a_pipe_write_loses_whole_fields(void **state)
{
    (void)state;
    char value[1001];
    memset(value, '\x01', sizeof(value) - 1); /* six bytes each when escaped */
    value[sizeof(value) - 1] = '\0';
    for (int json = 0; json < 2; json++) {
        capture_begin_pipe();
        log_setup(LOG_INFO, json, "x");
        log_info("long", LOG_U64("first", 1), LOG_STR("cut", value), LOG_U64("last", 2));
        const char *text = capture_end();
        size_t n = strlen(text);
        assert_true(n <= 4096);
        assert_int_equal(text[n - 1], '\n');
        assert_null(strstr(text, "cut"));
        assert_non_null(strstr(text, "first"));
        assert_non_null(strstr(text, "truncated"));
        if (json)
            assert_int_equal(json_validate(text, n, 4, NULL), ST_OK);
    }
}

static void test_log_full_pipe_drops_and_counts_and_never_blocks(void **state)
{
    (void)state;
    capture_begin_pipe();
    log_setup(LOG_INFO, false, "x");
    uint64_t before = log_dropped_count();
    for (int i = 0; i < 3000; i++) /* a pipe holds 64 KiB */
        log_info("a line that nobody reads, again and again");
    assert_true(log_dropped_count() > before + 1000);
    assert_int_equal(fcntl(STDERR_FILENO, F_GETFL) & O_NONBLOCK,
                     0); /* the shared flag is as it was */
    capture_end();
}

static void test_log_full_socket_drops_and_counts(void **state)
{
    (void)state;
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    capture_begin(fds[0], fds[1]);
    log_setup(LOG_INFO, false, "x");
    uint64_t before = log_dropped_count();
    for (int i = 0; i < 20000; i++)
        log_info("a line that nobody reads, again and again");
    assert_true(log_dropped_count() > before);
    assert_non_null(strstr(capture_end(), "a line that nobody reads"));
}

static void test_log_closed_reader_drops_and_counts(void **state)
{
    (void)state;
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    capture_begin(fds[0], fds[1]);
    log_setup(LOG_INFO, false, "x");
    close(capture.reader);
    uint64_t before = log_dropped_count();
    log_info("gone");
    assert_int_equal(log_dropped_count(), before + 1);
    capture_end();
}

static void test_log_regular_file_gets_every_line(void **state)
{
    (void)state;
    char path[] = "/tmp/dynd-test-log-XXXXXX";
    int writer = mkstemp(path);
    assert_true(writer >= 0);
    capture_begin(open(path, O_RDONLY), writer);
    unlink(path);
    log_setup(LOG_ERROR, false, "main");
    log_warn("not shown");
    log_error("one");
    log_error("two");
    const char *text = capture_end();
    assert_non_null(strstr(text, " ERROR main  one\n"));
    assert_non_null(strstr(text, " ERROR main  two\n"));
    assert_null(strstr(text, "not shown"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_log_text_line_has_time_level_component_message_fields),
        cmocka_unit_test(test_log_json_line_is_valid_whatever_the_values),
        cmocka_unit_test(test_log_line_longer_than_a_pipe_write_loses_whole_fields),
        cmocka_unit_test(test_log_full_pipe_drops_and_counts_and_never_blocks),
        cmocka_unit_test(test_log_full_socket_drops_and_counts),
        cmocka_unit_test(test_log_closed_reader_drops_and_counts),
        cmocka_unit_test(test_log_regular_file_gets_every_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
