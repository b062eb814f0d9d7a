#include "base/time.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>
#include <time.h>

static void test_time_monotonic_never_goes_back(void **state)
{
    (void)state;
    uint64_t last = time_monotonic_ns();
    for (int i = 0; i < 1000; i++) {
        uint64_t now = time_monotonic_ns();
        assert_true(now >= last);
        last = now;
    }
}

static void test_time_rfc3339_parses_back_to_now(void **state)
{
    (void)state;
    char text[32];
    struct tm tm = {0};
    uint64_t before = time_unix_s();
    time_rfc3339(text, sizeof(text));
    uint64_t after = time_unix_s();
    assert_int_equal(strlen(text), 24);
    const char *rest = strptime(text, "%Y-%m-%dT%H:%M:%S", &tm);
    assert_non_null(rest);
    assert_int_equal(rest[0], '.');
    assert_string_equal(rest + 4, "Z");
    uint64_t parsed = (uint64_t)timegm(&tm);
    assert_true(parsed >= before && parsed <= after);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_time_monotonic_never_goes_back),
        cmocka_unit_test(test_time_rfc3339_parses_back_to_now),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
