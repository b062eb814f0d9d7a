/* What the configuration asks of a worker's engine and KV pool: for the worker that does it, and
 * for `dynd check`, which only says it. Any thread. */
#ifndef WORKER_PLAN_H
#define WORKER_PLAN_H

#include "base/text_error.h"
#include "config/config.h"
#include "engine/runner.h"

struct worker_plan {
    struct runner_size engine;
    uint32_t block_count; /* of the KV pool */
};

/* The runner's options, but for CPUs, threads and progress. Strings are those of `config`. */
void worker_plan_runner(const struct config *config, struct runner_opts *out_opts);
/* Blocks of `geometry` in a worker's pool. ST_INVALID: too few or too many. */
enum status worker_plan_pool(const struct config *config, const struct kv_geometry *geometry,
                             uint32_t *out_block_count, struct text_error err);
/* Both, without loading weights: reads the small files and the headers of the weights.
 * err: one sentence that names file or setting. Errors as runner_create; ST_INVALID. */
enum status worker_plan_make(const struct config *config, struct worker_plan *out_plan,
                             struct text_error err);

#endif
