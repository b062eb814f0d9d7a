#include "base/buf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

static void test_buf_append_grows_to_the_bound_and_no_further(void **state)
{
    (void)state;
    struct buf buf;
    buf_init(&buf, 1000);
    for (int i = 0; i < 100; i++)
        assert_int_equal(buf_append(&buf, "0123456789", 10), ST_OK);
    assert_int_equal(buf.len, 1000);
    assert_int_equal(buf_append(&buf, "x", 1), ST_TOO_LARGE);
    assert_int_equal(buf_reserve(&buf, SIZE_MAX), ST_TOO_LARGE);
    assert_int_equal(buf.len, 1000);
    assert_memory_equal(buf.data + 990, "0123456789", 10);
    buf_deinit(&buf);
}

static void test_buf_printf_at_the_bound_fits_exactly(void **state)
{
    (void)state;
    struct buf buf;
    buf_init(&buf, 8);
    assert_int_equal(buf_printf(&buf, "%s", "12345"), ST_OK);
    assert_int_equal(buf_printf(&buf, "%s", "6789"), ST_TOO_LARGE);
    assert_int_equal(buf.len, 5);
    assert_memory_equal(buf.data, "12345", 5);
    assert_int_equal(buf_printf(&buf, "%d", 678), ST_OK);
    assert_memory_equal(buf.data, "12345678", 8);
    assert_int_equal(buf_printf(&buf, "%s", ""), ST_OK);
    buf_deinit(&buf);
}

static void test_buf_printf_longer_than_first_allocation(void **state)
{
    (void)state;
    struct buf buf;
    buf_init(&buf, 1 << 20);
    assert_int_equal(buf_printf(&buf, "%5000d", 1), ST_OK);
    assert_int_equal(buf.len, 5000);
    assert_int_equal(buf.data[4999], '1');
    buf_deinit(&buf);
}

static void test_buf_consume_drops_the_front(void **state)
{
    (void)state;
    struct buf buf;
    buf_init(&buf, 100);
    buf_consume(&buf, 5);
    assert_int_equal(buf_append_str(&buf, "abcdef"), ST_OK);
    buf_consume(&buf, 0);
    buf_consume(&buf, 2);
    assert_int_equal(buf.len, 4);
    assert_memory_equal(buf.data, "cdef", 4);
    buf_consume(&buf, 99);
    assert_int_equal(buf.len, 0);
    buf_deinit(&buf);
    assert_int_equal(buf.max, 100);
}

static void test_buf_without_room_takes_empty_appends(void **state)
{
    (void)state;
    struct buf buf;
    buf_init(&buf, 0);
    assert_int_equal(buf_append(&buf, NULL, 0), ST_OK);
    assert_int_equal(buf_printf(&buf, "%s", ""), ST_OK);
    assert_int_equal(buf_append_str(&buf, "x"), ST_TOO_LARGE);
    buf_deinit(&buf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_buf_append_grows_to_the_bound_and_no_further),
        cmocka_unit_test(test_buf_printf_at_the_bound_fits_exactly),
        cmocka_unit_test(test_buf_printf_longer_than_first_allocation),
        cmocka_unit_test(test_buf_consume_drops_the_front),
        cmocka_unit_test(test_buf_without_room_takes_empty_appends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
