/* The transformer runner: one forward pass for all families of model_desc, over all rows of a step.
 *
 *   ids -> embedding -> x                               x: residual stream, f32
 *   layer: norm(x) -> qkv -> (qk-norm) -> rope -> KV write -> attention -> o -+-> norm -> gate/up
 *          -> silu * -> down -+-> next layer              (+ adds to x inside the next norm)
 *   rows that sample: norm -> head -> logits -> token
 *
 * A row's result does not depend on its neighbours: every op keeps that promise on the CPU. */
#include "engine/transformer_int.h"

#include "base/file.h"
#include "base/philox.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GEOMETRY_KIND_TRANSFORMER 0x74726e66u
#define TOKENIZER_BYTES_MAX       (128u << 20)

/* ---- create ---- */

static void transformer_destroy(struct runner *r)
{
    struct transformer *t = (struct transformer *)r;
    for (uint32_t i = 0; i < t->n_scratch; i++)
        t->dev->ops->free(t->dev, t->scratch[i]);
    if (t->weights.dev != NULL)
        model_weights_deinit(&t->weights);
    device_close(t->dev);
    free(t->logits_host);
    for (uint32_t i = 0; i < 2; i++)
        free(t->turns[i].item_ids);
    free(t->sampled_of);
    free(t->done);
    free(t);
}

enum status transformer_alloc(struct transformer *t, enum device_mem mem, uint64_t bytes, void *out)
{
    void *at = NULL;
    enum status st = t->dev->ops->alloc(t->dev, mem, bytes, &at);
    if (st != ST_OK)
        return st;
    t->scratch[t->n_scratch++] = at;
    memcpy(out, &at, sizeof(at));
    return ST_OK;
}

static enum status scratch_make(struct transformer *t)
{
    const struct model_desc *d = &t->desc;
    const uint64_t act = ops_dtype_bytes(t->act), rows = t->max_tokens, seqs = t->max_seqs;
    const struct {
        uint64_t bytes;
        void *out;
    } arrays[] = {
        {rows * d->hidden * 4, &t->x},
        {rows * d->hidden * act, &t->h},
        {rows * d->hidden * 4, &t->delta},
        {rows * t->qkv_cols * act, &t->qkv},
        {rows * t->q_cols * act, &t->attn},
        {rows * 2 * d->intermediate * act, &t->gate_up},
        {seqs * d->hidden * act, &t->sampled},
        {seqs * d->n_vocab * 4, &t->logits},
        {seqs * 4, &t->tokens_dev},
        {d->head_dim / 2 * sizeof(float), &t->inv_freq},
        {(uint64_t)t->fused_rows * (d->hidden / 16) * sizeof(float), &t->sums},
        {t->fused_rows > 0 ? seqs * d->head_dim * sizeof(float) : 0, &t->cos_sin},
    };
    enum status st = ST_OK;
    for (size_t i = 0; i < sizeof(arrays) / sizeof(*arrays) && st == ST_OK; i++)
        if (arrays[i].bytes > 0)
            st = transformer_alloc(t, DEVICE_MEM_ACTIVATION, arrays[i].bytes, arrays[i].out);
    if (st == ST_OK)
        st = transformer_input_make(t);
    if (st == ST_OK)
        st =
            t->dev->ops->copy_in(t->dev, t->inv_freq, d->inv_freq, d->head_dim / 2 * sizeof(float));
    if (st == ST_OK)
        st = t->dev->ops->sync(t->dev);
    return st;
}

static const char *dtype_name(enum ops_dtype dtype)
{
    return dtype == OPS_F32 ? "f32" : dtype == OPS_BF16 ? "bf16" : "fp8";
}

static enum ops_dtype dtype_choose(const struct runner_opts *opts, const struct model_desc *d)
{
    if (opts->dtype == LOAD_DTYPE_F32)
        return OPS_F32;
    if (opts->dtype == LOAD_DTYPE_BF16)
        return OPS_BF16;
    /* A config.json without a number format means float32, as it does to its writers. */
    return d->dtype == MODEL_DTYPE_BF16 || d->dtype == MODEL_DTYPE_F16 ? OPS_BF16 : OPS_F32;
}

/* A device that is not the host's reads K and V in the format of q, or in fp8 beside bf16. */
static bool has_kv_dtype(const struct device_ops *ops, enum ops_dtype weights, enum ops_dtype kv)
{
    if (ops == NULL || ops->is_host) /* NULL: nothing will be computed, only measured */
        return true;
    enum ops_dtype act = ops->activation(weights);
    return kv == act || (kv == OPS_F8 && act == OPS_BF16);
}

static enum status kv_dtype_choose(struct transformer *t, const struct runner_opts *opts,
                                   enum ops_dtype weights, struct text_error err)
{
    const struct device_ops *ops = device_ops_get(opts->device);
    bool is_asked = t->desc.kv_fp8 && has_kv_dtype(ops, weights, OPS_F8);
    t->kv_dtype = opts->kv_dtype == KV_DTYPE_FP8    ? OPS_F8
                  : opts->kv_dtype == KV_DTYPE_BF16 ? OPS_BF16
                  : opts->kv_dtype == KV_DTYPE_F32  ? OPS_F32
                  : is_asked                        ? OPS_F8
                                                    : weights;
    return has_kv_dtype(ops, weights, t->kv_dtype)
               ? ST_OK
               : text_error_set(
                     err, ST_UNSUPPORTED,
                     "kv.dtype %s does not go with weights in %s on %s: use auto, or fp8 "
                     "with bf16",
                     dtype_name(t->kv_dtype), dtype_name(weights), ops->name);
}

/* First half of the SHA-256 of tokenizer.json, zero without one. A file that is there but cannot be
 * read is an error: a zero hash would pass for any tokenizer. */
static enum status tokenizer_identify(const char *dir, struct hash128 *out, struct text_error err)
{
    char path[FILE_PATH_BYTES], *text = NULL;
    size_t bytes = 0;
    uint8_t digest[32];
    enum status st = file_path_join(dir, "tokenizer.json", path, err);
    if (st == ST_OK)
        st = file_read(path, TOKENIZER_BYTES_MAX, &text, &bytes, err);
    if (st != ST_OK)
        return st == ST_NOT_FOUND ? ST_OK : st;
    hash_sha256(text, bytes, digest);
    memcpy(out->bytes, digest, sizeof(out->bytes));
    free(text);
    return ST_OK;
}

/* model_hash: identity of all that decides a token: mathematics, weights, number formats. */
static void info_fill(struct transformer *t, const uint8_t weights_id[32])
{
    uint8_t parts[67], digest[32];
    struct runner_info *info = &t->base.info;
    model_desc_hash(&t->desc, parts);
    memcpy(parts + 32, weights_id, 32);
    parts[64] = (uint8_t)t->weights.dtype;
    parts[65] = (uint8_t)t->weights.matrix_dtype; /* fp8 is not computed as its bf16 values are */
    parts[66] = (uint8_t)t->kv_dtype;
    hash_sha256(parts, sizeof(parts), digest);
    memcpy(info->model_hash.bytes, digest, sizeof(info->model_hash.bytes));
    info->vocab_size = t->desc.n_vocab;
    info->kv_unscaled = t->kv_dtype == OPS_F8 && t->weights.kv_scales == NULL;
    info->n_eos = t->desc.n_eos;
    memcpy(info->eos, t->desc.eos, sizeof(info->eos));
}

static enum status sizes_set(struct transformer *t, const struct runner_opts *opts,
                             struct text_error err)
{
    const struct model_desc *d = &t->desc;
    if (opts->block_tokens < 16 || opts->block_tokens > OPS_BLOCK_TOKENS_MAX ||
        (opts->block_tokens & (opts->block_tokens - 1)) != 0)
        return text_error_set(err, ST_INVALID, "kv.block_tokens is %u, not 16, 32, 64 or 128",
                              opts->block_tokens);
    if (opts->max_seqs == 0 || opts->max_batch_tokens == 0)
        return text_error_set(err, ST_INVALID,
                              "a step of %u sequences and %u tokens at most can compute nothing",
                              opts->max_seqs, opts->max_batch_tokens);
    uint32_t context = opts->max_context_tokens > 0 ? opts->max_context_tokens : d->max_positions;
    if (context > d->max_positions)
        return text_error_set(err, ST_INVALID,
                              "model.max_context_tokens is %u, the model's positions end at %u",
                              context, d->max_positions);
    t->base.info.max_context_tokens = context;
    t->max_seqs = opts->max_seqs;
    t->max_tokens = opts->max_batch_tokens;
    t->q_cols = d->n_heads * d->head_dim;
    t->qkv_cols = t->q_cols + 2 * d->n_kv_heads * d->head_dim;
    t->table_stride = context / opts->block_tokens + 2;
    t->layer_groups = opts->layer_groups == 0            ? 1
                      : opts->layer_groups > d->n_layers ? d->n_layers
                                                         : opts->layer_groups;
    t->base.geometry = (struct kv_geometry){.block_tokens = opts->block_tokens,
                                            .layer_count = d->n_layers,
                                            .kv_heads = d->n_kv_heads,
                                            .head_dim = d->head_dim,
                                            .elem_bytes = ops_dtype_bytes(t->kv_dtype),
                                            .dtype = dtype_name(t->kv_dtype)};
    enum status st = kv_geometry_finish(&t->base.geometry, GEOMETRY_KIND_TRANSFORMER);
    return st == ST_OK ? ST_OK
                       : text_error_set(err, st, "a KV block of this shape is %s", status_text(st));
}

/* All that follows from the options and the small files of the model. */
static enum status transformer_describe(struct transformer *t, const struct runner_opts *opts,
                                        struct model_load_opts *out_load, struct text_error err)
{
    if (opts->model_path == NULL || opts->model_path[0] == '\0')
        return text_error_set(err, ST_INVALID, "model.path is not set");
    enum status st = model_desc_load(opts->model_path, &t->desc, err);
    if (st == ST_OK)
        st = tokenizer_identify(opts->model_path, &t->base.info.tokenizer_hash, err);
    if (st != ST_OK)
        return st;
    const struct device_ops *ops = device_ops_get(opts->device);
    const enum ops_dtype dtype = dtype_choose(opts, &t->desc);
    st = kv_dtype_choose(t, opts, dtype, err);
    if (st != ST_OK)
        return st;
    *out_load = (struct model_load_opts){.dir = opts->model_path,
                                         .dummy = opts->load_format == LOAD_DUMMY,
                                         .seed = opts->seed,
                                         .dtype = dtype,
                                         .keep_fp8 = opts->dtype == LOAD_DTYPE_AUTO &&
                                                     ops != NULL && ops->has_fp8,
                                         .kv_fp8 = t->kv_dtype == OPS_F8,
                                         .on_progress = opts->on_progress,
                                         .progress_arg = opts->progress_arg};
    return sizes_set(t, opts, err);
}

/* Rows up to which decode steps run with fused gemms. */
static uint32_t fused_rows_of(const struct transformer *t)
{
    const struct model_desc *d = &t->desc;
    bool fits = d->hidden % 16 == 0 && d->intermediate % 16 == 0 && d->n_heads <= DEVICE_HEADS_MAX;
    return fits ? t->dev->ops->fused_rows_max(t->weights.dtype) : 0;
}

static enum status device_open_named(enum device_kind kind, const struct device_opts *opts,
                                     struct device **out_dev, struct text_error err)
{
    struct device_caps caps = {.reason = "this build has no support for it"};
    const struct device_ops *ops = device_ops_get(kind);
    enum status st = ops != NULL ? ops->probe(&caps) : ST_UNSUPPORTED;
    if (st == ST_OK)
        st = ops->open(opts, out_dev);
    return st == ST_OK
               ? ST_OK
               : text_error_set(err, st, "the %s device cannot be opened: %s (%s)",
                                kind == DEVICE_CUDA ? "CUDA" : "CPU", status_text(st), caps.reason);
}

static enum status transformer_open(struct transformer *t, const struct runner_opts *opts,
                                    struct text_error err)
{
    uint8_t weights_id[32];
    struct model_load_opts lopts;
    enum status st = transformer_describe(t, opts, &lopts, err);
    if (st != ST_OK)
        return st;
    struct device_opts dopts = {.n_threads = opts->n_threads,
                                .cpus = opts->n_cpus > 0 ? opts->cpus : NULL,
                                .n_cpus = opts->n_cpus,
                                .n_vocab_max = t->desc.n_vocab,
                                .n_seqs_max = opts->max_seqs};
    st = device_open_named(opts->device, &dopts, &t->dev, err);
    if (st != ST_OK)
        return st;
    t->act = t->dev->ops->activation(lopts.dtype);
    t->dev->ops->bind_thread(t->dev);
    st = model_load(t->dev, &t->desc, &lopts, &t->weights, weights_id, err);
    if (st != ST_OK)
        return st;
    info_fill(t, weights_id);
    t->fused_rows = fused_rows_of(t);
    st = scratch_make(t);
    if (st != ST_OK)
        return text_error_set(
            err, st, "the buffers of scheduler.max_batch_tokens = %u do not fit into memory",
            t->max_tokens);
    st = transformer_gemms_prepare(t, opts->cache_dir);
    return st == ST_OK ? ST_OK
                       : text_error_set(err, st, "the matrix products cannot be prepared: %s",
                                        status_text(st));
}

static enum status transformer_create(const struct runner_opts *opts, struct runner **out_runner,
                                      char *err, size_t err_bytes)
{
    struct transformer *t = calloc(1, sizeof(*t));
    if (t == NULL)
        return ST_NO_MEMORY;
    enum status st = transformer_open(t, opts, (struct text_error){err, err_bytes});
    if (st != ST_OK) {
        transformer_destroy(&t->base);
        return st;
    }
    *out_runner = &t->base;
    return ST_OK;
}

static enum status transformer_measure(const struct runner_opts *opts, struct runner_size *out_size,
                                       char *err, size_t err_bytes)
{
    struct text_error why = {err, err_bytes};
    struct model_load_opts lopts;
    uint64_t weight_bytes = 0;
    struct transformer *t = calloc(1, sizeof(*t));
    if (t == NULL)
        return text_error_set(why, ST_NO_MEMORY, "%s", status_text(ST_NO_MEMORY));
    enum status st = transformer_describe(t, opts, &lopts, why);
    lopts.on_progress = NULL; /* nothing is loaded */
    if (st == ST_OK)
        st = model_load_check(&t->desc, &lopts, &weight_bytes, why);
    if (st == ST_OK)
        *out_size = (struct runner_size){.geometry = t->base.geometry,
                                         .max_context_tokens = t->base.info.max_context_tokens,
                                         .n_params = model_desc_param_count(&t->desc),
                                         .weight_bytes = weight_bytes};
    free(t);
    return st;
}

static const float *transformer_logits(struct runner *r)
{
    struct transformer *t = (struct transformer *)r;
    const uint64_t row = t->desc.n_vocab * sizeof(float);
    if (t->dev->ops->is_host)
        return t->logits;
    if (t->logits_host == NULL)
        t->logits_host = malloc(t->max_seqs * row);
    if (t->logits_host == NULL ||
        t->dev->ops->copy_out(t->dev, t->logits_host, t->logits, t->n_logits * row) != ST_OK ||
        t->dev->ops->sync(t->dev) != ST_OK)
        return NULL;
    return t->logits_host;
}

static double transformer_replay_seconds(struct runner *r)
{
    struct transformer *t = (struct transformer *)r;
    return t->dev->ops->replay_seconds(t->dev);
}

static enum status transformer_alloc_pool(struct runner *r, uint64_t bytes, void **out_base)
{
    struct transformer *t = (struct transformer *)r;
    if (t->dev->ops->is_host)
        return ST_UNSUPPORTED;
    return transformer_alloc(t, DEVICE_MEM_POOL, bytes, out_base);
}

static uint32_t transformer_depth(const struct runner *r)
{
    return ((const struct transformer *)r)->dev->ops->is_host ? 1 : 2;
}

const struct runner_ops runner_transformer_ops = {
    .name = "transformer",
    .create = transformer_create,
    .measure = transformer_measure,
    .destroy = transformer_destroy,
    .begin = transformer_begin,
    .finish = transformer_finish,
    .depth = transformer_depth,
    .logits = transformer_logits,
    .replay_seconds = transformer_replay_seconds,
    .alloc_pool = transformer_alloc_pool,
    .prepare = transformer_prepare,
};
