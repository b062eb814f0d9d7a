#include "base/status.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

static void test_status_rows_are_complete_and_labels_differ(void **state)
{
    (void)state;
    for (int a = 0; a < ST_COUNT; a++) {
        assert_non_null(status_name((enum status)a));
        assert_true(strlen(status_text((enum status)a)) > 0);
        assert_in_range(status_http_code((enum status)a), 200, 599);
        for (int b = 0; b < a; b++)
            assert_string_not_equal(status_name((enum status)a), status_name((enum status)b));
    }
}

static void test_status_unknown_code_answers_as_internal(void **state)
{
    (void)state;
    enum status unknown = (enum status)(ST_COUNT + 5);
    assert_string_equal(status_name(unknown), "internal");
    assert_int_equal(status_http_code(unknown), 500);
    assert_true(status_is_retryable(ST_AGAIN));
    assert_false(status_is_retryable(ST_INVALID));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_status_rows_are_complete_and_labels_differ),
        cmocka_unit_test(test_status_unknown_code_answers_as_internal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
