/* A transformer runner with its own pool, and one sequence on it, for the golden tests. */
#ifndef GOLDEN_GOLDEN_RUNNER_H
#define GOLDEN_GOLDEN_RUNNER_H

#include "engine/runner.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GOLDEN_BLOCK_TOKENS 64u
#define GOLDEN_CONTEXT      4352u
#define GOLDEN_BLOCKS       (GOLDEN_CONTEXT / GOLDEN_BLOCK_TOKENS + 1)

struct golden_runner {
    struct runner *runner;
    void *pool; /* NULL: the device's own */
    uint32_t blocks[GOLDEN_BLOCKS];
    struct step_result result;
    uint64_t steps;
};

static void golden_on_layers(void *arg, uint64_t step_id, uint32_t first, uint32_t count)
{
    (void)arg, (void)step_id, (void)first, (void)count;
}

/* 0 on success; prints why not. */
static inline int golden_runner_open(struct golden_runner *g, const char *dir,
                                     enum load_dtype dtype)
{
    char err[512];
    const char *device = getenv("DYND_TEST_DEVICE"); /* "cuda", or the CPU */
    struct runner_opts opts = {.kind = RUNNER_TRANSFORMER,
                               .device = device != NULL && strcmp(device, "cuda") == 0 ? DEVICE_CUDA
                                                                                       : DEVICE_CPU,
                               .model_path = dir,
                               .dtype = dtype,
                               .block_tokens = GOLDEN_BLOCK_TOKENS,
                               .max_batch_tokens = 512,
                               .max_seqs = 2,
                               .layer_groups = 2};
    memset(g, 0, sizeof(*g));
    if (runner_create(&opts, &g->runner, err, sizeof(err)) != ST_OK) {
        fprintf(stderr, "%s\n", err);
        return 1;
    }
    size_t bytes = GOLDEN_BLOCKS * runner_geometry(g->runner)->block_bytes;
    void *pool = NULL;
    if (runner_alloc_pool(g->runner, bytes, &pool) != ST_OK) {
        pool = g->pool = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
        if (pool == NULL)
            return 1;
        memset(pool, 0xff, bytes); /* NaN: whatever is read before it is written shows */
    }
    for (uint32_t i = 0; i < GOLDEN_BLOCKS; i++)
        g->blocks[i] = (i * 7) % GOLDEN_BLOCKS; /* 7 and the count are coprime: a permutation */
    return runner_set_pool(g->runner, pool, GOLDEN_BLOCKS) != ST_OK;
}

static inline void golden_runner_close(struct golden_runner *g)
{
    runner_destroy(g->runner);
    free(g->pool);
}

/* Computes tokens[first .. end), at most 512, sampling greedily behind the last; UINT32_MAX:
 * failed. */
static inline uint32_t golden_runner_step(struct golden_runner *g, const uint32_t *tokens,
                                          uint32_t first, uint32_t end)
{
    struct step_item item = {.n_tokens = end - first,
                             .position = first,
                             .n_blocks = (end + GOLDEN_BLOCK_TOKENS - 1) / GOLDEN_BLOCK_TOKENS,
                             .tokens = tokens + first,
                             .blocks = g->blocks,
                             .sample = 1,
                             .top_p = 1.0f};
    struct step_plan plan = {
        .step_id = ++g->steps, .n_items = 1, .n_tokens = item.n_tokens, .items = &item};
    if (runner_step(g->runner, &plan, golden_on_layers, NULL, &g->result) != ST_OK ||
        g->result.n_tokens != 1)
        return UINT32_MAX;
    return g->result.tokens[0];
}

/* The same for any length, in chunks. */
static inline uint32_t golden_runner_prefill(struct golden_runner *g, const uint32_t *tokens,
                                             uint32_t first, uint32_t end)
{
    uint32_t token = UINT32_MAX;
    for (; first < end; first += 512)
        token = golden_runner_step(g, tokens, first, end - first < 512 ? end : first + 512);
    return token;
}

#endif
