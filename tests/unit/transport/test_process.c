#include "transport/process.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static pid_t child_start(void)
{
    pid_t child = fork();
    if (child == 0) {
        alarm(30);
        pause();
        _exit(0);
    }
    assert_true(child > 0);
    return child;
}

static void test_start_of_a_zombie_or_no_process_is_zero(void **state)
{
    (void)state;
    siginfo_t info;
    assert_int_not_equal(process_start((uint32_t)getpid()), 0);
    pid_t child = fork();
    if (child == 0)
        _exit(0);
    assert_true(child > 0);
    assert_int_equal(waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT), 0);
    assert_int_equal(process_start((uint32_t)child), 0);
    waitpid(child, NULL, 0);
    assert_int_equal(process_start((uint32_t)child), 0);
    assert_int_equal(process_start(0), 0);
}

static void test_process_that_is_killed_is_dead(void **state)
{
    (void)state;
    int status = 0;
    struct process process;
    pid_t child = child_start();
    process_open(&process, (uint32_t)child, process_start((uint32_t)child));
    assert_true(process.pidfd >= 0);
    assert_false(process_is_dead(&process));
    process_kill(&process);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    assert_true(process_is_dead(&process));
    process_close(&process);
    assert_true(process_is_dead(&process)); /* by its pid */
    process_close(&process);
}

static void test_process_of_another_start_is_not_opened_and_not_killed(void **state)
{
    (void)state;
    int status = 0;
    struct process process;
    pid_t child = child_start();
    process_open(&process, (uint32_t)child, process_start((uint32_t)child) - 1);
    assert_int_equal(process.pidfd, -1);
    assert_true(process_is_dead(&process));
    process_kill(&process);
    assert_int_equal(waitpid(child, &status, WNOHANG), 0);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
}

static void test_only_a_pid_of_one_other_process_is_other(void **state)
{
    (void)state;
    assert_true(process_is_other((uint32_t)getpid() + 1, 1));
    assert_false(process_is_other((uint32_t)getpid(), 1));
    assert_false(process_is_other(0, 1));
    assert_false(process_is_other(UINT32_MAX, 1)); /* kill(-1): everybody */
    assert_false(process_is_other((uint32_t)INT32_MAX + 1, 1));
    assert_false(process_is_other((uint32_t)getpid() + 1, 0));
}

static void test_hosts_are_equal_by_a_known_id_only(void **state)
{
    (void)state;
    const uint8_t a[16] = {[15] = 1}, b[16] = {[15] = 2}, unknown[16] = {0};
    assert_true(process_hosts_equal(a, a));
    assert_false(process_hosts_equal(a, b));
    assert_false(process_hosts_equal(unknown, unknown));
}

static void test_namespace_is_known_for_known_kinds(void **state)
{
    (void)state;
    assert_int_not_equal(process_namespace("pid"), 0);
    assert_int_not_equal(process_namespace("net"), 0);
    assert_int_equal(process_namespace("none"), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_start_of_a_zombie_or_no_process_is_zero),
        cmocka_unit_test(test_process_that_is_killed_is_dead),
        cmocka_unit_test(test_process_of_another_start_is_not_opened_and_not_killed),
        cmocka_unit_test(test_only_a_pid_of_one_other_process_is_other),
        cmocka_unit_test(test_hosts_are_equal_by_a_known_id_only),
        cmocka_unit_test(test_namespace_is_known_for_known_kinds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
