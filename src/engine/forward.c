/* The forward pass: what a step puts on the device, in order. */
#include "engine/transformer_int.h"

#include <math.h>

static enum status gemm(struct transformer *t, const void *x, uint64_t x_stride, const void *w,
                        const float *bias, void *y, uint32_t n_rows, uint32_t n, uint32_t k)
{
    struct gemm_args args = {.x = x,
                             .x_dtype = t->act,
                             .x_stride = x_stride,
                             .w = w,
                             .w_dtype = t->weights.dtype,
                             .bias = bias,
                             .y = y,
                             .y_dtype = y == t->logits || y == t->delta ? OPS_F32 : t->act,
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
                                .y_dtype = t->act,
                                .y_stride = hidden,
                                .n_rows = n_rows,
                                .n_heads = 1,
                                .n_cols = hidden,
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
    enum status st =
        gemm(t, t->h, d->hidden, w->qkv, w->qkv_bias, t->qkv, rows->n_rows, t->qkv_cols, d->hidden);
    struct qkv_args args = {.x = t->qkv,
                            .dtype = t->act,
                            .x_stride = t->qkv_cols,
                            .n_heads = d->n_heads,
                            .q_norm = w->q_norm,
                            .k_norm = w->k_norm,
                            .eps = d->norm_eps,
                            .inv_freq = t->inv_freq,
                            .n_rot = d->head_dim,
                            .attn_scale = d->rope_attn_scale,
                            .pool = kv_pool_of(t),
                            .layer = layer,
                            .rows = *rows};
    return st == ST_OK ? t->dev->ops->qkv(t->dev, &args) : st;
}

/* Writes t->attn, and t->delta behind the output projection. A device may plan the decoding of a
 * step; the plan holds until a layer sees another window. */
static enum status attend(struct transformer *t, uint32_t layer, const struct ops_rows *rows)
{
    const struct model_desc *d = &t->desc;
    struct attention_args args = {.q = t->qkv,
                                  .q_stride = t->qkv_cols,
                                  .out = t->attn,
                                  .out_stride = t->q_cols,
                                  .dtype = t->act,
                                  .pool = kv_pool_of(t),
                                  .layer = layer,
                                  .n_heads = d->n_heads,
                                  .window = d->layer_window[layer] ? d->window : 0,
                                  .scale = 1.0f / sqrtf((float)d->head_dim),
                                  .rows = *rows};
    enum status st = ST_OK;
    if (layer == 0 || d->layer_window[layer] != d->layer_window[layer - 1])
        st = t->dev->ops->attention_plan(t->dev, &args);
    if (st == ST_OK)
        st = t->dev->ops->attention(t->dev, &args);
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
                                .dtype = t->act,
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
    struct embedding_args gather = {.ids = t->in_dev.last_rows,
                                    .table = t->h,
                                    .dtype = t->act,
                                    .n_vocab = n_rows,
                                    .n_cols = d->hidden,
                                    .y = t->sampled,
                                    .y_dtype = t->act,
                                    .y_stride = d->hidden,
                                    .n_rows = n_sampled};
    enum status st = t->dev->ops->embedding(t->dev, &gather);
    if (st == ST_OK)
        st = gemm(t, t->sampled, d->hidden, t->weights.head, NULL, t->logits, n_sampled, d->n_vocab,
                  d->hidden);
    struct sample_args args = {.logits = t->logits,
                               .logits_stride = d->n_vocab,
                               .rows = t->in_dev.sample_rows,
                               .out_ids = t->tokens_dev,
                               .n_rows = n_sampled,
                               .n_vocab = d->n_vocab};
    if (st == ST_OK)
        st = t->dev->ops->sample(t->dev, &args);
    return st;
}

static enum status embed(struct transformer *t, const struct ops_rows *rows)
{
    const struct model_desc *d = &t->desc;
    struct embedding_args args = {.ids = t->in_dev.ids,
                                  .table = t->weights.embed,
                                  .dtype = t->weights.dtype,
                                  .is_packed = 1,
                                  .n_vocab = d->n_vocab,
                                  .n_cols = d->hidden,
                                  .y = t->x,
                                  .y_stride = d->hidden,
                                  .n_rows = rows->n_rows};
    return t->dev->ops->embedding(t->dev, &args);
}

/* The layer groups whose KV is written, and the layers in them. */
struct progress {
    uint32_t n_groups, n_layers;
};

static enum status layer_run(struct transformer *t, uint32_t layer, const struct forward *step,
                             struct progress *done)
{
    const uint32_t n_rows = step->rows.n_rows, n_layers = t->desc.n_layers, end = layer + 1;
    enum status st = norm(t, layer > 0, t->weights.layers[layer].attn_norm, n_rows);
    if (st == ST_OK)
        st = project(t, layer, &step->rows);
    if (st == ST_OK && step->layers_done != NULL &&
        end == n_layers * (done->n_groups + 1) / t->layer_groups) {
        st = step->layers_done(step->arg, done->n_layers, end - done->n_layers);
        *done = (struct progress){done->n_groups + 1, end};
    }
    if (st == ST_OK)
        st = attend(t, layer, &step->rows);
    if (st == ST_OK)
        st = norm(t, true, t->weights.layers[layer].mlp_norm, n_rows);
    return st == ST_OK ? feed_forward(t, layer, n_rows) : st;
}

enum status transformer_forward(struct transformer *t, const struct forward *step)
{
    struct progress done = {0};
    enum status st = embed(t, &step->rows);
    for (uint32_t l = 0; l < t->desc.n_layers && st == ST_OK; l++)
        st = layer_run(t, l, step, &done);
    if (st == ST_OK && step->n_sampled > 0)
        st = norm(t, true, t->weights.final_norm, step->rows.n_rows);
    return st == ST_OK && step->n_sampled > 0 ? sample(t, step->rows.n_rows, step->n_sampled) : st;
}
