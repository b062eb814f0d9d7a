/* Fork-join threads for the ops of one CPU device. The caller is thread 0 of each run. Workers spin
 * for some tens of microseconds after a run, then sleep in the kernel: an idle pool uses no CPU. */
#ifndef DEVICE_THREAD_POOL_H
#define DEVICE_THREAD_POOL_H

#include <stdint.h>

#include "dynd/status.h"

struct thread_pool;

/* Starts n_threads - 1 workers, with all signals blocked. Thread i is pinned to cpus[i % n_cpus];
 * n_cpus = 0 pins nothing. The calling thread is not pinned: see thread_pool_pin_caller.
 * ST_INVALID: n_threads is 0, or a CPU does not exist; ST_NO_MEMORY: no memory or no thread. */
enum status thread_pool_create(uint32_t n_threads, const uint32_t *cpus, uint32_t n_cpus,
                               struct thread_pool **out_pool);
/* Joins the workers; NULL is fine. Not during a run. */
void thread_pool_destroy(struct thread_pool *pool);

/* Pins the calling thread to the CPU of thread 0; nothing to do without a CPU list. */
enum status thread_pool_pin_caller(struct thread_pool *pool);

uint32_t thread_pool_size(const struct thread_pool *pool); /* the caller included */

/* Runs task(arg, i, n_threads) for every i, i = 0 on the caller, and returns when all are done; all
 * their writes are then visible to the caller. One caller at a time. Allocates nothing. */
void thread_pool_run(struct thread_pool *pool,
                     void (*task)(void *arg, uint32_t index, uint32_t count), void *arg);

#endif
