#include "worker/plan.h"

#include "wire/wire.h"

static enum kv_dtype kv_dtype_of(enum config_kv_dtype dtype)
{
    switch (dtype) {
    case CONFIG_KV_DTYPE_BF16:
        return KV_DTYPE_BF16;
    case CONFIG_KV_DTYPE_F32:
        return KV_DTYPE_F32;
    case CONFIG_KV_DTYPE_FP8:
        return KV_DTYPE_FP8;
    case CONFIG_KV_DTYPE_AUTO:
        break;
    }
    return KV_DTYPE_AUTO;
}

void worker_plan_runner(const struct config *config, struct runner_opts *out_opts)
{
    const struct config *c = config;
    *out_opts = (struct runner_opts){
        .kind = c->model.runner == CONFIG_RUNNER_HASH ? RUNNER_HASH : RUNNER_TRANSFORMER,
        .model_path = c->model.path,
        .cache_dir = c->cache_dir,
        .load_format = c->model.load_format == CONFIG_LOAD_DUMMY ? LOAD_DUMMY : LOAD_AUTO,
        .dtype = c->model.dtype == CONFIG_DTYPE_F32    ? LOAD_DTYPE_F32
                 : c->model.dtype == CONFIG_DTYPE_BF16 ? LOAD_DTYPE_BF16
                                                       : LOAD_DTYPE_AUTO,
        .kv_dtype = kv_dtype_of(c->kv.dtype),
        .seed = c->model.seed,
        .block_tokens = c->kv.block_tokens,
        .max_batch_tokens = c->scheduler.max_batch_tokens,
        .max_seqs = c->scheduler.max_batch_seqs,
        .max_context_tokens = c->model.max_context_tokens,
        .layer_groups = c->kv_transfer.layer_groups,
        .hash_vocab_size = c->hash.vocab_size,
        .hash_layer_count = c->hash.layer_count,
        .hash_step_delay_us = c->hash.step_delay_us,
        .hash_prefill_delay_us_per_token = c->hash.prefill_delay_us_per_token,
    };
}

enum status worker_plan_pool(const struct config *config, const struct kv_geometry *geometry,
                             uint32_t *out_block_count, struct text_error err)
{
    uint64_t n = config->kv.pool_blocks > 0 ? config->kv.pool_blocks
                                            : config->kv.pool_bytes / geometry->block_bytes;
    if (n < 2 || n > WIRE_TOKENS_MAX)
        return text_error_set(err, ST_INVALID,
                              "a KV pool of %llu blocks, %llu bytes each, cannot be used: change "
                              "kv.pool_bytes or kv.pool_blocks",
                              (unsigned long long)n, (unsigned long long)geometry->block_bytes);
    *out_block_count = (uint32_t)n;
    return ST_OK;
}

enum status worker_plan_make(const struct config *config, struct worker_plan *out_plan,
                             struct text_error err)
{
    struct worker_plan plan;
    struct runner_opts opts;
    worker_plan_runner(config, &opts);
    enum status st = runner_measure(&opts, &plan.engine, err.text, err.bytes);
    if (st == ST_OK)
        st = worker_plan_pool(config, &plan.engine.geometry, &plan.block_count, err);
    if (st == ST_OK)
        *out_plan = plan;
    return st;
}
