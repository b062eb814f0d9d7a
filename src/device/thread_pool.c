/* Two words drive it. `epoch` grows by one a run and starts the workers; `pending` counts down the
 * workers still running and releases the caller. Each is also the futex its waiter sleeps on, and
 * the waker makes the system call only when somebody says that he sleeps. */
#include "device/thread_pool.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SPINS 2000u /* pauses before sleeping: 20 to 80 us */

struct worker {
    struct thread_pool *pool;
    pthread_t thread;
    uint32_t index;
};

struct thread_pool {
    _Alignas(64) _Atomic uint32_t epoch;
    _Atomic uint32_t n_sleeping; /* workers in or before futex_wait on epoch */
    _Atomic bool is_stopping;
    void (*task)(void *arg, uint32_t index, uint32_t count);
    void *arg;
    _Alignas(64) _Atomic uint32_t pending;
    _Atomic bool is_caller_sleeping;
    _Alignas(64) uint32_t n_threads;
    uint32_t n_started; /* workers that exist */
    uint32_t n_spins;   /* 0 when threads outnumber CPUs: spinning would delay the others */
    uint32_t n_cpus;
    uint32_t cpu_of_caller;
    struct worker *workers; /* [n_threads - 1] */
};

static void futex_wait(_Atomic uint32_t *word, uint32_t value)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, int n)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}

static void cpu_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void wait_for_epoch(struct thread_pool *pool, uint32_t old)
{
    for (uint32_t i = 0; i < pool->n_spins; i++) {
        if (atomic_load_explicit(&pool->epoch, memory_order_acquire) != old)
            return;
        cpu_pause();
    }
    atomic_fetch_add(&pool->n_sleeping, 1);
    while (atomic_load(&pool->epoch) == old)
        futex_wait(&pool->epoch, old);
    atomic_fetch_sub(&pool->n_sleeping, 1);
}

static void *worker_main(void *arg)
{
    struct worker *worker = (struct worker *)arg;
    struct thread_pool *pool = worker->pool;
    for (uint32_t seen = 0;; seen++) {
        wait_for_epoch(pool, seen);
        if (atomic_load_explicit(&pool->is_stopping, memory_order_relaxed))
            return NULL;
        pool->task(pool->arg, worker->index, pool->n_threads);
        if (atomic_fetch_sub(&pool->pending, 1) == 1 && atomic_load(&pool->is_caller_sleeping))
            futex_wake(&pool->pending, 1);
    }
}

static void start_epoch(struct thread_pool *pool)
{
    atomic_fetch_add(&pool->epoch, 1);
    if (atomic_load(&pool->n_sleeping) > 0)
        futex_wake(&pool->epoch, INT_MAX);
}

void thread_pool_run(struct thread_pool *pool,
                     void (*task)(void *arg, uint32_t index, uint32_t count), void *arg)
{
    if (pool->n_threads == 1) {
        task(arg, 0, 1);
        return;
    }
    pool->task = task;
    pool->arg = arg;
    atomic_store_explicit(&pool->pending, pool->n_threads - 1, memory_order_relaxed);
    start_epoch(pool);
    task(arg, 0, pool->n_threads);
    for (uint32_t i = 0; i < pool->n_spins; i++) {
        if (atomic_load_explicit(&pool->pending, memory_order_acquire) == 0)
            return;
        cpu_pause();
    }
    atomic_store(&pool->is_caller_sleeping, true);
    for (uint32_t left; (left = atomic_load(&pool->pending)) != 0;)
        futex_wait(&pool->pending, left);
    atomic_store_explicit(&pool->is_caller_sleeping, false, memory_order_relaxed);
}

/* Starts one worker; returns an errno value. */
static int worker_start(struct worker *worker, const uint32_t *cpus, uint32_t n_cpus)
{
    pthread_attr_t attr;
    int rc = pthread_attr_init(&attr);
    if (rc != 0)
        return rc;
    if (n_cpus > 0) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(cpus[worker->index % n_cpus], &set);
        rc = pthread_attr_setaffinity_np(&attr, sizeof(set), &set);
    }
    if (rc == 0)
        rc = pthread_create(&worker->thread, &attr, worker_main, worker);
    pthread_attr_destroy(&attr);
    if (rc != 0)
        return rc;
    char name[16];
    snprintf(name, sizeof(name), "dynd-cpu-%u", worker->index);
    pthread_setname_np(worker->thread, name);
    return 0;
}

static enum status workers_start(struct thread_pool *pool, const uint32_t *cpus, uint32_t n_cpus)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int rc = 0;
    for (uint32_t i = 0; i + 1 < pool->n_threads && rc == 0; i++) {
        pool->workers[i] = (struct worker){.pool = pool, .index = i + 1};
        rc = worker_start(&pool->workers[i], cpus, n_cpus);
        if (rc == 0)
            pool->n_started++;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc == 0)
        return ST_OK;
    return rc == EINVAL ? ST_INVALID : ST_NO_MEMORY;
}

static uint32_t cpus_allowed(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) != 0)
        return 1;
    return (uint32_t)CPU_COUNT(&set);
}

enum status thread_pool_create(uint32_t n_threads, const uint32_t *cpus, uint32_t n_cpus,
                               struct thread_pool **out_pool)
{
    if (n_threads == 0 || (n_cpus > 0 && cpus == NULL))
        return ST_INVALID;
    for (uint32_t i = 0; i < n_cpus; i++)
        if (cpus[i] >= CPU_SETSIZE)
            return ST_INVALID;
    struct thread_pool *pool = aligned_alloc(64, sizeof(*pool));
    if (pool == NULL)
        return ST_NO_MEMORY;
    *pool = (struct thread_pool){
        .n_threads = n_threads,
        .n_cpus = n_cpus,
        .cpu_of_caller = n_cpus > 0 ? cpus[0] : 0,
        .n_spins = n_threads <= (n_cpus > 0 ? n_cpus : cpus_allowed()) ? SPINS : 0,
        .workers = calloc(n_threads, sizeof(struct worker)),
    };
    enum status st = ST_NO_MEMORY;
    if (pool->workers == NULL)
        goto err;
    st = workers_start(pool, cpus, n_cpus);
    if (st != ST_OK)
        goto err;
    *out_pool = pool;
    return ST_OK;
err:
    thread_pool_destroy(pool);
    return st;
}

void thread_pool_destroy(struct thread_pool *pool)
{
    if (pool == NULL)
        return;
    atomic_store_explicit(&pool->is_stopping, true, memory_order_relaxed);
    start_epoch(pool);
    for (uint32_t i = 0; i < pool->n_started; i++)
        pthread_join(pool->workers[i].thread, NULL);
    free(pool->workers);
    free(pool);
}

enum status thread_pool_pin_caller(struct thread_pool *pool)
{
    if (pool->n_cpus == 0)
        return ST_OK;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(pool->cpu_of_caller, &set);
    return pthread_setaffinity_np(pthread_self(), sizeof(set), &set) == 0 ? ST_OK : ST_INVALID;
}

uint32_t thread_pool_size(const struct thread_pool *pool)
{
    return pool->n_threads;
}
