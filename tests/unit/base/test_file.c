#include "base/file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char path[64];

static int path_make(void **state)
{
    (void)state;
    strcpy(path, "/tmp/dynd-test-file-XXXXXX");
    int fd = mkstemp(path);
    return fd >= 0 && write(fd, "a\0bc", 4) == 4 && close(fd) == 0 ? 0 : -1;
}

static int path_remove(void **state)
{
    (void)state;
    return unlink(path);
}

static void expect_refused(const char *name, size_t bytes_max, enum status st, const char *why)
{
    char text[256] = "", *data = NULL;
    size_t bytes = 7;
    struct text_error err = {text, sizeof(text)};
    assert_int_equal(file_read(name, bytes_max, &data, &bytes, err), st);
    assert_non_null(strstr(text, name));
    assert_non_null(strstr(text, why));
    assert_null(data);
    assert_int_equal(bytes, 7);
}

static void test_file_read_gives_all_bytes_and_a_nul(void **state)
{
    char *data = NULL;
    size_t bytes = 0;
    (void)state;
    assert_int_equal(file_read(path, 4, &data, &bytes, (struct text_error){0}), ST_OK);
    assert_int_equal(bytes, 4);
    assert_memory_equal(data, "a\0bc", 5);
    free(data);
    assert_int_equal(truncate(path, 0), 0);
    assert_int_equal(file_read(path, 0, &data, &bytes, (struct text_error){0}), ST_OK);
    assert_int_equal(bytes, 0);
    assert_string_equal(data, "");
    free(data);
}

static void test_file_read_refusals_name_path_and_reason(void **state)
{
    (void)state;
    expect_refused("/nonexistent/x", 9, ST_NOT_FOUND, "cannot be read: No such file");
    expect_refused("/", 9, ST_IO, "cannot be read: Is a directory");
    expect_refused("/dev/null", 9, ST_IO, "not a regular file");
    expect_refused(path, 3, ST_TOO_LARGE, "larger than 3 bytes");
    unlink(path);
    assert_int_equal(mkfifo(path, 0600), 0); /* must not wait for a writer */
    expect_refused(path, 9, ST_IO, "not a regular file");
}

static void test_file_map_open_maps_the_bytes_and_refuses_an_empty_file(void **state)
{
    struct file_map map = {0};
    char text[256] = "";
    (void)state;
    assert_int_equal(file_map_open(path, &map, (struct text_error){text, sizeof(text)}), ST_OK);
    assert_int_equal(map.bytes, 4);
    assert_memory_equal(map.data, "a\0bc", 4);
    file_map_close(&map);
    assert_null(map.data);
    assert_int_equal(truncate(path, 0), 0);
    assert_int_equal(file_map_open(path, &map, (struct text_error){text, sizeof(text)}),
                     ST_TRUNCATED);
    assert_non_null(strstr(text, "empty"));
}

static void test_file_path_join_refuses_a_path_that_is_too_long(void **state)
{
    static char dir[FILE_PATH_BYTES + 1], out[FILE_PATH_BYTES];
    (void)state;
    assert_int_equal(file_path_join("a/b", "c", out, (struct text_error){0}), ST_OK);
    assert_string_equal(out, "a/b/c");
    memset(dir, 'd', sizeof(dir) - 1);
    dir[FILE_PATH_BYTES - 2] = '\0'; /* fits alone, not with "/c" behind it */
    assert_int_equal(file_path_join(dir, "c", out, (struct text_error){0}), ST_TOO_LARGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_file_read_gives_all_bytes_and_a_nul, path_make,
                                        path_remove),
        cmocka_unit_test_setup_teardown(test_file_read_refusals_name_path_and_reason, path_make,
                                        path_remove),
        cmocka_unit_test_setup_teardown(test_file_map_open_maps_the_bytes_and_refuses_an_empty_file,
                                        path_make, path_remove),
        cmocka_unit_test(test_file_path_join_refuses_a_path_that_is_too_long),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
