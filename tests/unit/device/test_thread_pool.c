#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "device/thread_pool.h"

#define N_MAX 8u

struct tally {
    uint32_t hits[N_MAX]; /* written by thread i alone, read after the run */
    uint32_t count;
};

static void count_hit(void *arg, uint32_t index, uint32_t count)
{
    struct tally *tally = arg;
    tally->hits[index]++;
    if (index == 0)
        tally->count = count;
}

static void test_thread_pool_run_calls_every_index_once(void **state)
{
    (void)state;
    for (uint32_t n = 1; n <= N_MAX; n++) {
        struct thread_pool *pool;
        struct tally tally = {0};
        assert_int_equal(thread_pool_create(n, NULL, 0, &pool), ST_OK);
        assert_int_equal(thread_pool_size(pool), n);
        for (uint32_t run = 1; run <= 500; run++) {
            thread_pool_run(pool, count_hit, &tally);
            for (uint32_t i = 0; i < n; i++)
                assert_int_equal(tally.hits[i], run);
        }
        assert_int_equal(tally.count, n);
        for (uint32_t i = n; i < N_MAX; i++)
            assert_int_equal(tally.hits[i], 0);
        thread_pool_destroy(pool);
    }
}

/* Runs with pauses longer than the spinning, so that workers sleep and must be woken. */
static void test_thread_pool_run_after_sleep_wakes_workers(void **state)
{
    (void)state;
    struct thread_pool *pool;
    struct tally tally = {0};
    assert_int_equal(thread_pool_create(3, NULL, 0, &pool), ST_OK);
    for (uint32_t run = 1; run <= 20; run++) {
        usleep(2000);
        thread_pool_run(pool, count_hit, &tally);
        for (uint32_t i = 0; i < 3; i++)
            assert_int_equal(tally.hits[i], run);
    }
    thread_pool_destroy(pool);
}

static void sleep_late(void *arg, uint32_t index, uint32_t count)
{
    if (index == count - 1)
        usleep(3000); /* the caller stops spinning and sleeps */
    count_hit(arg, index, count);
}

static void test_thread_pool_run_waits_for_a_slow_worker(void **state)
{
    (void)state;
    struct thread_pool *pool;
    struct tally tally = {0};
    assert_int_equal(thread_pool_create(2, NULL, 0, &pool), ST_OK);
    for (uint32_t run = 1; run <= 10; run++) {
        thread_pool_run(pool, sleep_late, &tally);
        assert_int_equal(tally.hits[1], run);
    }
    thread_pool_destroy(pool);
}

static void test_thread_pool_idle_burns_no_cpu(void **state)
{
    (void)state;
    struct thread_pool *pool;
    struct tally tally = {0};
    struct timespec before, after;
    assert_int_equal(thread_pool_create(3, NULL, 0, &pool), ST_OK);
    thread_pool_run(pool, count_hit, &tally);
    usleep(20000); /* whoever spins has stopped */
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
    usleep(100000);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
    long used_us =
        (after.tv_sec - before.tv_sec) * 1000000 + (after.tv_nsec - before.tv_nsec) / 1000;
    assert_true(used_us < 5000);
    thread_pool_destroy(pool);
}

static void note_cpu(void *arg, uint32_t index, uint32_t count)
{
    (void)count;
    cpu_set_t set;
    assert_int_equal(sched_getaffinity(0, sizeof(set), &set), 0);
    ((uint32_t *)arg)[index] = CPU_COUNT(&set) == 1 ? (uint32_t)sched_getcpu() : UINT32_MAX;
}

static void test_thread_pool_cpus_pin_workers_and_caller(void **state)
{
    (void)state;
    cpu_set_t old;
    assert_int_equal(sched_getaffinity(0, sizeof(old), &old), 0);
    uint32_t cpu = 0, where[3] = {9999, 9999, 9999};
    while (!CPU_ISSET(cpu, &old))
        cpu++;
    struct thread_pool *pool;
    assert_int_equal(thread_pool_create(3, &cpu, 1, &pool), ST_OK);
    assert_int_equal(thread_pool_pin_caller(pool), ST_OK);
    thread_pool_run(pool, note_cpu, where);
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(where[i], cpu);
    thread_pool_destroy(pool);
    assert_int_equal(sched_setaffinity(0, sizeof(old), &old), 0);
}

static void test_thread_pool_bad_options_are_refused(void **state)
{
    (void)state;
    struct thread_pool *pool = NULL;
    uint32_t cpu = 1023, beyond = 4096;
    assert_int_equal(thread_pool_create(0, NULL, 0, &pool), ST_INVALID);
    assert_int_equal(thread_pool_create(2, NULL, 1, &pool), ST_INVALID);
    assert_int_equal(thread_pool_create(2, &beyond, 1, &pool), ST_INVALID);
    if (sysconf(_SC_NPROCESSORS_CONF) < 1023)
        assert_int_equal(thread_pool_create(2, &cpu, 1, &pool), ST_INVALID);
    assert_null(pool);
    thread_pool_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_thread_pool_run_calls_every_index_once),
        cmocka_unit_test(test_thread_pool_run_after_sleep_wakes_workers),
        cmocka_unit_test(test_thread_pool_run_waits_for_a_slow_worker),
        cmocka_unit_test(test_thread_pool_idle_burns_no_cpu),
        cmocka_unit_test(test_thread_pool_cpus_pin_workers_and_caller),
        cmocka_unit_test(test_thread_pool_bad_options_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
