/* The transformer runner: one forward pass for all families of model_desc, over all rows of a step.
 *
 *   ids -> embedding -> x                               x: residual stream, f32
 *   layer: norm(x) -> qkv -> (qk-norm) -> rope -> KV write -> attention -> o -+-> norm -> gate/up
 *          -> silu * -> down -+-> next layer              (+ adds to x inside the next norm)
 *   rows that sample: norm -> head -> logits -> token
 *
 * A row's result does not depend on its neighbours: every op keeps that promise on the CPU. */
#include "engine/runner.h"

#include "base/file.h"
#include "base/philox.h"
#include "model/load.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GEOMETRY_KIND_TRANSFORMER 0x74726e66u
#define TOKENIZER_BYTES_MAX       (128u << 20)

struct transformer {
    struct runner base; /* first */
    struct model_desc desc;
    struct device *dev;
    struct model_weights weights;
    uint32_t layer_groups, max_seqs, max_tokens, table_stride;
    uint32_t qkv_cols, q_cols;
    float *x, *h, *qkv, *attn, *gate_up, *delta; /* [max_tokens, ...] */
    float *sampled, *logits;                     /* [max_seqs, hidden], [max_seqs, n_vocab] */
    uint32_t *ids, *pos, *seq;                   /* [max_tokens] */
    uint32_t *table;                             /* [max_seqs, table_stride] */
    uint32_t *last_rows, *item_ids, *tokens;     /* [max_seqs] */
    struct sample_row *sample_rows;              /* [max_seqs] */
    void *scratch[16];
    uint32_t n_scratch;
};

/* ---- step ---- */

static bool plan_fits(const struct transformer *t, const struct step_plan *plan)
{
    const struct runner *r = &t->base;
    if (r->pool == NULL || plan->n_items > t->max_seqs || plan->n_tokens > t->max_tokens)
        return false;
    uint32_t n_tokens = 0;
    for (uint32_t i = 0; i < plan->n_items; i++) {
        const struct step_item *item = &plan->items[i];
        uint64_t end = (uint64_t)item->position + item->n_tokens;
        if (item->n_tokens == 0 || item->n_blocks > t->table_stride ||
            item->n_tokens > plan->n_tokens - n_tokens || item->n_banned > STEP_BANNED_MAX ||
            end > (uint64_t)item->n_blocks * r->geometry.block_tokens)
            return false;
        for (uint32_t b = 0; b < item->n_blocks; b++)
            if (item->blocks[b] >= r->block_count)
                return false;
        for (uint32_t k = 0; k < item->n_tokens; k++)
            if (item->tokens[k] >= t->desc.n_vocab)
                return false;
        n_tokens += item->n_tokens;
    }
    return n_tokens == plan->n_tokens;
}

static uint32_t rows_fill(struct transformer *t, const struct step_plan *plan)
{
    uint32_t row = 0, n_sampled = 0;
    for (uint32_t i = 0; i < plan->n_items; i++) {
        const struct step_item *item = &plan->items[i];
        memcpy(t->table + (size_t)i * t->table_stride, item->blocks,
               item->n_blocks * sizeof(uint32_t));
        for (uint32_t k = 0; k < item->n_tokens; k++, row++) {
            t->ids[row] = item->tokens[k];
            t->pos[row] = item->position + k;
            t->seq[row] = i;
        }
        if (!item->sample)
            continue;
        t->last_rows[n_sampled] = row - 1;
        t->item_ids[n_sampled] = item->item_id;
        t->sample_rows[n_sampled++] = (struct sample_row){
            .temperature = item->temperature,
            .top_p = item->top_p,
            .min_p = item->min_p,
            .top_k = item->top_k,
            .uniform = philox_uniform(item->seed, item->choice, item->output_position),
            .n_banned = item->n_banned,
            .banned = item->banned};
    }
    return n_sampled;
}

static enum status gemm(struct transformer *t, const float *x, uint64_t x_stride, const void *w,
                        const float *bias, float *y, uint32_t n_rows, uint32_t n, uint32_t k)
{
    struct gemm_args args = {.x = x,
                             .x_stride = x_stride,
                             .w = w,
                             .w_dtype = t->weights.dtype,
                             .bias = bias,
                             .y = y,
                             .y_stride = n,
                             .n_rows = n_rows,
                             .n = n,
                             .k = k};
    return t->dev->ops->gemm(t->dev, &args);
}

/* h = norm(x), after x += delta when there is one. */
static enum status norm(struct transformer *t, bool add_delta, const float *w, uint32_t n_rows)
{
    const uint32_t hidden = t->desc.hidden;
    struct rmsnorm_args args = {.x = add_delta ? t->delta : t->x,
                                .x_stride = hidden,
                                .residual = add_delta ? t->x : NULL,
                                .residual_stride = hidden,
                                .w = w,
                                .y = t->h,
                                .y_stride = hidden,
                                .n_rows = n_rows,
                                .n_heads = 1,
                                .n_cols = hidden,
                                .eps = t->desc.norm_eps};
    return t->dev->ops->rmsnorm(t->dev, &args);
}

static enum status head_norm(struct transformer *t, float *x, uint32_t n_heads, const float *w,
                             uint32_t n_rows)
{
    struct rmsnorm_args args = {.x = x,
                                .x_stride = t->qkv_cols,
                                .w = w,
                                .y = x,
                                .y_stride = t->qkv_cols,
                                .n_rows = n_rows,
                                .n_heads = n_heads,
                                .n_cols = t->desc.head_dim,
                                .eps = t->desc.norm_eps};
    return t->dev->ops->rmsnorm(t->dev, &args);
}

static struct ops_kv_pool kv_pool_of(const struct transformer *t)
{
    const struct kv_geometry *g = &t->base.geometry;
    return (struct ops_kv_pool){.base = t->base.pool,
                                .block_bytes = g->block_bytes,
                                .n_blocks = t->base.block_count,
                                .n_layers = g->layer_count,
                                .n_kv_heads = g->kv_heads,
                                .block_tokens = g->block_tokens,
                                .head_dim = g->head_dim,
                                .dtype = t->weights.dtype};
}

/* q, k, v of the rows, rotated, with k and v in the pool. */
static enum status project(struct transformer *t, uint32_t layer, const struct ops_rows *rows)
{
    const struct model_desc *d = &t->desc;
    const struct model_layer *w = &t->weights.layers[layer];
    float *k = t->qkv + t->q_cols, *v = k + d->n_kv_heads * d->head_dim;
    enum status st =
        gemm(t, t->h, d->hidden, w->qkv, w->qkv_bias, t->qkv, rows->n_rows, t->qkv_cols, d->hidden);
    if (st == ST_OK && d->qk_norm)
        st = head_norm(t, t->qkv, d->n_heads, w->q_norm, rows->n_rows);
    if (st == ST_OK && d->qk_norm)
        st = head_norm(t, k, d->n_kv_heads, w->k_norm, rows->n_rows);
    struct rope_args rope = {.x = t->qkv,
                             .x_stride = t->qkv_cols,
                             .pos = t->pos,
                             .inv_freq = d->inv_freq,
                             .n_rows = rows->n_rows,
                             .n_heads = d->n_heads + d->n_kv_heads,
                             .head_dim = d->head_dim,
                             .n_rot = d->head_dim,
                             .attn_scale = d->rope_attn_scale};
    if (st == ST_OK)
        st = t->dev->ops->rope(t->dev, &rope);
    struct kv_write_args write = {.k = k,
                                  .v = v,
                                  .k_stride = t->qkv_cols,
                                  .v_stride = t->qkv_cols,
                                  .pool = kv_pool_of(t),
                                  .layer = layer,
                                  .rows = *rows};
    return st == ST_OK ? t->dev->ops->kv_write(t->dev, &write) : st;
}

static enum status attend(struct transformer *t, uint32_t layer, const struct ops_rows *rows)
{
    const struct model_desc *d = &t->desc;
    struct attention_args args = {.q = t->qkv,
                                  .q_stride = t->qkv_cols,
                                  .out = t->attn,
                                  .out_stride = t->q_cols,
                                  .pool = kv_pool_of(t),
                                  .layer = layer,
                                  .n_heads = d->n_heads,
                                  .window = d->layer_window[layer] ? d->window : 0,
                                  .scale = 1.0f / sqrtf((float)d->head_dim),
                                  .rows = *rows};
    enum status st = t->dev->ops->attention(t->dev, &args);
    const struct model_layer *w = &t->weights.layers[layer];
    return st == ST_OK ? gemm(t, t->attn, t->q_cols, w->o, w->o_bias, t->delta, rows->n_rows,
                              d->hidden, t->q_cols)
                       : st;
}

static enum status feed_forward(struct transformer *t, uint32_t layer, uint32_t n_rows)
{
    const struct model_desc *d = &t->desc;
    const struct model_layer *w = &t->weights.layers[layer];
    const uint32_t wide = 2 * d->intermediate;
    enum status st =
        gemm(t, t->h, d->hidden, w->gate_up, w->gate_up_bias, t->gate_up, n_rows, wide, d->hidden);
    struct silu_mul_args act = {.x = t->gate_up,
                                .x_stride = wide,
                                .y = t->gate_up,
                                .y_stride = wide,
                                .n_rows = n_rows,
                                .n_cols = d->intermediate};
    if (st == ST_OK)
        st = t->dev->ops->silu_mul(t->dev, &act);
    return st == ST_OK ? gemm(t, t->gate_up, wide, w->down, w->down_bias, t->delta, n_rows,
                              d->hidden, d->intermediate)
                       : st;
}

static enum status sample(struct transformer *t, uint32_t n_rows, uint32_t n_sampled)
{
    const struct model_desc *d = &t->desc;
    struct embedding_args gather = {.ids = t->last_rows,
                                    .table = t->h,
                                    .dtype = OPS_F32,
                                    .n_vocab = n_rows,
                                    .n_cols = d->hidden,
                                    .y = t->sampled,
                                    .y_stride = d->hidden,
                                    .n_rows = n_sampled};
    enum status st = t->dev->ops->embedding(t->dev, &gather);
    if (st == ST_OK)
        st = gemm(t, t->sampled, d->hidden, t->weights.head, NULL, t->logits, n_sampled, d->n_vocab,
                  d->hidden);
    struct sample_args args = {.logits = t->logits,
                               .logits_stride = d->n_vocab,
                               .rows = t->sample_rows,
                               .out_ids = t->tokens,
                               .n_rows = n_sampled,
                               .n_vocab = d->n_vocab};
    if (st == ST_OK)
        st = t->dev->ops->sample(t->dev, &args);
    for (uint32_t i = 0; i < n_sampled && st == ST_OK; i++)
        if (t->tokens[i] == OPS_NO_TOKEN)
            st = ST_INTERNAL; /* no finite logit: the weights or the KV are broken */
    return st;
}

static enum status transformer_step(struct runner *r, const struct step_plan *plan,
                                    void (*on_layers)(void *arg, uint64_t step_id,
                                                      uint32_t layer_first, uint32_t layer_count),
                                    void *arg, struct step_result *out)
{
    struct transformer *t = (struct transformer *)r;
    const struct model_desc *d = &t->desc;
    if (!plan_fits(t, plan))
        return ST_INVALID;
    uint32_t n_sampled = rows_fill(t, plan), n_rows = plan->n_tokens, group = 0, first = 0;
    struct ops_rows rows = {.n_rows = n_rows,
                            .seq = t->seq,
                            .pos = t->pos,
                            .block_table = t->table,
                            .table_stride = t->table_stride};
    struct embedding_args embed = {.ids = t->ids,
                                   .table = t->weights.embed,
                                   .dtype = t->weights.dtype,
                                   .is_packed = 1,
                                   .n_vocab = d->n_vocab,
                                   .n_cols = d->hidden,
                                   .y = t->x,
                                   .y_stride = d->hidden,
                                   .n_rows = n_rows};
    enum status st = t->dev->ops->embedding(t->dev, &embed);
    for (uint32_t l = 0; l < d->n_layers && st == ST_OK; l++) {
        st = norm(t, l > 0, t->weights.layers[l].attn_norm, n_rows);
        if (st == ST_OK)
            st = project(t, l, &rows);
        if (st == ST_OK && plan->report_layers &&
            l + 1 == d->n_layers * (group + 1) / t->layer_groups) {
            on_layers(arg, plan->step_id, first, l + 1 - first);
            first = l + 1;
            group++;
        }
        if (st == ST_OK)
            st = attend(t, l, &rows);
        if (st == ST_OK)
            st = norm(t, true, t->weights.layers[l].mlp_norm, n_rows);
        if (st == ST_OK)
            st = feed_forward(t, l, n_rows);
    }
    if (st == ST_OK && n_sampled > 0)
        st = norm(t, true, t->weights.final_norm, n_rows);
    if (st == ST_OK && n_sampled > 0)
        st = sample(t, n_rows, n_sampled);
    *out = (struct step_result){.step_id = plan->step_id,
                                .status = st,
                                .n_tokens = st == ST_OK ? n_sampled : 0,
                                .item_ids = t->item_ids,
                                .tokens = t->tokens};
    return st;
}

/* ---- create ---- */

static void transformer_destroy(struct runner *r)
{
    struct transformer *t = (struct transformer *)r;
    for (uint32_t i = 0; i < t->n_scratch; i++)
        t->dev->ops->free(t->dev, t->scratch[i]);
    if (t->weights.dev != NULL)
        model_weights_deinit(&t->weights);
    device_close(t->dev);
    free(t->table);
    free(t->last_rows);
    free(t->item_ids);
    free(t->tokens);
    free(t->sample_rows);
    free(t);
}

static enum status scratch_alloc(struct transformer *t, uint64_t count, uint64_t columns, void *out)
{
    void *at = NULL;
    enum status st = t->dev->ops->alloc(t->dev, DEVICE_MEM_ACTIVATION, count * columns * 4, &at);
    if (st != ST_OK)
        return st;
    t->scratch[t->n_scratch++] = at;
    memcpy(out, &at, sizeof(at));
    return ST_OK;
}

static enum status scratch_make(struct transformer *t)
{
    const struct model_desc *d = &t->desc;
    const struct {
        uint64_t count, columns;
        void *out;
    } arrays[] = {
        {t->max_tokens, d->hidden, &t->x},     {t->max_tokens, d->hidden, &t->h},
        {t->max_tokens, d->hidden, &t->delta}, {t->max_tokens, t->qkv_cols, &t->qkv},
        {t->max_tokens, t->q_cols, &t->attn},  {t->max_tokens, 2ull * d->intermediate, &t->gate_up},
        {t->max_seqs, d->hidden, &t->sampled}, {t->max_seqs, d->n_vocab, &t->logits},
        {t->max_tokens, 1, &t->ids},           {t->max_tokens, 1, &t->pos},
        {t->max_tokens, 1, &t->seq},
    };
    for (size_t i = 0; i < sizeof(arrays) / sizeof(*arrays); i++) {
        enum status st = scratch_alloc(t, arrays[i].count, arrays[i].columns, arrays[i].out);
        if (st != ST_OK)
            return st;
    }
    t->table = calloc((size_t)t->max_seqs * t->table_stride, sizeof(uint32_t));
    t->last_rows = calloc(t->max_seqs, sizeof(uint32_t));
    t->item_ids = calloc(t->max_seqs, sizeof(uint32_t));
    t->tokens = calloc(t->max_seqs, sizeof(uint32_t));
    t->sample_rows = calloc(t->max_seqs, sizeof(*t->sample_rows));
    return t->table != NULL && t->last_rows != NULL && t->item_ids != NULL && t->tokens != NULL &&
                   t->sample_rows != NULL
               ? ST_OK
               : ST_NO_MEMORY;
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

/* model_hash: identity of all that decides a token: mathematics, weights, number format. */
static void info_fill(struct transformer *t, const uint8_t weights_id[32])
{
    uint8_t parts[65], digest[32];
    struct runner_info *info = &t->base.info;
    model_desc_hash(&t->desc, parts);
    memcpy(parts + 32, weights_id, 32);
    parts[64] = (uint8_t)t->weights.dtype;
    hash_sha256(parts, sizeof(parts), digest);
    memcpy(info->model_hash.bytes, digest, sizeof(info->model_hash.bytes));
    info->vocab_size = t->desc.n_vocab;
    info->n_eos = t->desc.n_eos;
    memcpy(info->eos, t->desc.eos, sizeof(info->eos));
}

static enum status sizes_set(struct transformer *t, const struct runner_opts *opts,
                             enum ops_dtype dtype, struct text_error err)
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
                                            .elem_bytes = ops_dtype_bytes(dtype)};
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
    *out_load = (struct model_load_opts){.dir = opts->model_path,
                                         .dummy = opts->load_format == LOAD_DUMMY,
                                         .seed = opts->seed,
                                         .dtype = dtype_choose(opts, &t->desc),
                                         .on_progress = opts->on_progress,
                                         .progress_arg = opts->progress_arg};
    return sizes_set(t, opts, out_load->dtype, err);
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
                                .n_vocab_max = t->desc.n_vocab};
    st = device_open(DEVICE_CPU, &dopts, &t->dev);
    if (st != ST_OK)
        return text_error_set(err, st, "the CPU device cannot be opened: %s", status_text(st));
    t->dev->ops->bind_thread(t->dev);
    st = model_load(t->dev, &t->desc, &lopts, &t->weights, weights_id, err);
    if (st != ST_OK)
        return st;
    info_fill(t, weights_id);
    st = scratch_make(t);
    return st == ST_OK
               ? ST_OK
               : text_error_set(
                     err, st,
                     "the buffers of scheduler.max_batch_tokens = %u do not fit into memory",
                     t->max_tokens);
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

static const float *transformer_logits(const struct runner *r)
{
    return ((const struct transformer *)r)->logits;
}

const struct runner_ops runner_transformer_ops = {
    .name = "transformer",
    .create = transformer_create,
    .measure = transformer_measure,
    .destroy = transformer_destroy,
    .step = transformer_step,
    .logits = transformer_logits,
};
