#include "engine/runner.h"

static const struct runner_ops *ops_of(const struct runner_opts *opts)
{
    return opts->kind == RUNNER_HASH ? &runner_hash_ops : &runner_transformer_ops;
}

enum status runner_measure(const struct runner_opts *opts, struct runner_size *out_size, char *err,
                           size_t err_bytes)
{
    if (err_bytes > 0)
        err[0] = '\0';
    return ops_of(opts)->measure(opts, out_size, err, err_bytes);
}

enum status runner_create(const struct runner_opts *opts, struct runner **out_runner, char *err,
                          size_t err_bytes)
{
    const struct runner_ops *ops = ops_of(opts);
    if (err_bytes > 0)
        err[0] = '\0';
    enum status st = ops->create(opts, out_runner, err, err_bytes);
    if (st == ST_OK)
        (*out_runner)->ops = ops;
    return st;
}

void runner_destroy(struct runner *runner)
{
    if (runner != NULL)
        runner->ops->destroy(runner);
}

const struct kv_geometry *runner_geometry(const struct runner *runner)
{
    return &runner->geometry;
}

const struct runner_info *runner_info(const struct runner *runner)
{
    return &runner->info;
}

enum status runner_set_pool(struct runner *runner, void *base, uint32_t block_count)
{
    if (base == NULL || block_count == 0)
        return ST_INVALID;
    runner->pool = base;
    runner->block_count = block_count;
    return runner->ops->prepare != NULL ? runner->ops->prepare(runner) : ST_OK;
}

enum status runner_alloc_pool(struct runner *runner, uint64_t bytes, void **out_base)
{
    return runner->ops->alloc_pool != NULL ? runner->ops->alloc_pool(runner, bytes, out_base)
                                           : ST_UNSUPPORTED;
}

double runner_replay_seconds(struct runner *runner)
{
    return runner->ops->replay_seconds != NULL ? runner->ops->replay_seconds(runner) : 0;
}

const float *runner_logits(struct runner *runner)
{
    return runner->ops->logits != NULL ? runner->ops->logits(runner) : NULL;
}

uint32_t runner_depth(const struct runner *runner)
{
    return runner->ops->depth(runner);
}

enum status runner_begin(struct runner *runner, const struct step_plan *plan,
                         void (*on_layers)(void *arg, uint64_t step_id, uint32_t layer_first,
                                           uint32_t layer_count),
                         void *arg)
{
    uint32_t depth = plan->report_layers ? 1 : runner_depth(runner);
    if (runner->n_begun >= depth)
        return ST_INVALID;
    enum status st = runner->ops->begin(runner, plan, on_layers, arg);
    if (st == ST_OK)
        runner->n_begun++;
    return st;
}

enum status runner_finish(struct runner *runner, struct step_result *out)
{
    *out = (struct step_result){.status = ST_INVALID};
    if (runner->n_begun == 0)
        return ST_INVALID;
    runner->n_begun--;
    return runner->ops->finish(runner, out);
}

enum status runner_step(struct runner *runner, const struct step_plan *plan,
                        void (*on_layers)(void *arg, uint64_t step_id, uint32_t layer_first,
                                          uint32_t layer_count),
                        void *arg, struct step_result *out)
{
    *out = (struct step_result){.step_id = plan->step_id, .status = ST_INVALID};
    if (runner->n_begun > 0)
        return ST_INVALID;
    enum status st = runner_begin(runner, plan, on_layers, arg);
    return st == ST_OK ? runner_finish(runner, out) : st;
}
