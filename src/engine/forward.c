/* The forward pass: what a step puts on the device, in order. */
#include "engine/transformer_int.h"

#include <math.h>

/* One pass over the layers, and the way it takes.
 * fresh  each sequence has one row, and attention does the work of qkv
 * fused  the gemms do the work of norms and silu too: x is the residual stream as ever, h what the
 *        next gemm reads, delta is not used */
struct pass {
    struct transformer *t;
    const struct forward *step;
    bool fresh, fused;
    uint32_t n_groups_done, n_layers_done; /* layer groups whose KV is written, layers in them */
};

/* w [n, k], and what belongs to it. */
struct matrix {
    const void *w;
    const float *scale, *bias; /* scale: of fp8 */
    uint32_t n, k;
};

/* y = x w^T, of f32 for the logits and delta. n: columns of y where a fusion makes them fewer. */
static enum status gemm(struct transformer *t, const void *x, uint64_t x_stride,
                        const struct matrix *m, void *y, uint32_t n_rows, uint32_t n,
                        const struct gemm_fusion *fusion)
{
    const struct model_weights *w = &t->weights;
    struct gemm_args args = {.x = x,
                             .x_dtype = t->act,
                             .x_stride = x_stride,
                             .w = m->w,
                             .w_dtype = m->scale != NULL ? w->matrix_dtype : w->dtype,
                             .w_scale = m->scale,
                             .w_scaling = m->scale != NULL ? w->scaling : OPS_SCALE_NONE,
                             .fusion = fusion,
                             .bias = m->bias,
                             .y = y,
                             .y_dtype = y == t->logits || y == t->delta ? OPS_F32 : t->act,
                             .y_stride = n,
                             .n_rows = n_rows,
                             .n = n,
                             .k = m->k};
    return t->dev->ops->gemm(t->dev, &args);
}

/* Of a gemm that reads h: in a fused pass h was not divided by its norm. */
static struct gemm_fusion norm_ahead(const struct pass *p, enum gemm_epilogue epilogue)
{
    return (struct gemm_fusion){
        .x_sums = p->t->sums, .eps = p->t->desc.norm_eps, .epilogue = epilogue};
}

/* The end of a branch: x += y m^T, and h for the norm that follows. */
static enum status branch_end(const struct pass *p, const void *y, uint64_t y_stride,
                              const struct matrix *m, const float *next_norm)
{
    struct transformer *t = p->t;
    const struct gemm_fusion add = {
        .epilogue = GEMM_ADD_NORM, .residual = t->x, .next_norm = next_norm, .y_sums = t->sums};
    return gemm(t, y, y_stride, m, p->fused ? t->h : (void *)t->delta, p->step->rows.n_rows, m->n,
                p->fused ? &add : NULL);
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
                                .dtype = t->kv_dtype,
                                .scales = t->weights.kv_scales};
}

/* q, k, v of the rows; unless the pass is fresh, rotated and with k and v in the pool. */
static enum status project(const struct pass *p, uint32_t layer)
{
    struct transformer *t = p->t;
    const struct model_desc *d = &t->desc;
    const struct model_layer *w = &t->weights.layers[layer];
    const struct ops_rows *rows = &p->step->rows;
    const struct gemm_fusion ahead = norm_ahead(p, GEMM_STORE);
    const struct matrix qkv = {w->qkv, w->qkv_scale, w->qkv_bias, t->qkv_cols, d->hidden};
    enum status st =
        gemm(t, t->h, d->hidden, &qkv, t->qkv, rows->n_rows, t->qkv_cols, p->fused ? &ahead : NULL);
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
    return st == ST_OK && !p->fresh ? t->dev->ops->qkv(t->dev, &args) : st;
}

static struct attention_args attention_of(const struct pass *p, uint32_t layer)
{
    const struct transformer *t = p->t;
    const struct model_desc *d = &t->desc;
    return (struct attention_args){.q = t->qkv,
                                   .q_stride = t->qkv_cols,
                                   .out = t->attn,
                                   .out_stride = t->q_cols,
                                   .dtype = t->act,
                                   .pool = kv_pool_of(t),
                                   .layer = layer,
                                   .n_heads = d->n_heads,
                                   .window = d->layer_window[layer] ? d->window : 0,
                                   .scale = 1.0f / sqrtf((float)d->head_dim),
                                   .rows = p->step->rows};
}

uint32_t transformer_attention_plans(struct transformer *t, const struct forward *step,
                                     struct attention_args out_plans[2])
{
    const struct pass p = {.t = t, .step = step};
    bool has_plan[2] = {false, false};
    uint32_t n = 0;
    for (uint32_t l = 0; l < t->desc.n_layers; l++) {
        struct attention_args args = attention_of(&p, l);
        if (!has_plan[args.window != 0])
            out_plans[n++] = args;
        has_plan[args.window != 0] = true;
    }
    return n;
}

/* Writes t->attn. */
static enum status attend(const struct pass *p, uint32_t layer)
{
    struct transformer *t = p->t;
    const struct model_layer *w = &t->weights.layers[layer];
    const struct attention_fresh fresh = {.q_norm = w->q_norm,
                                          .k_norm = w->k_norm,
                                          .eps = t->desc.norm_eps,
                                          .cos_sin = t->cos_sin,
                                          .n_rot = t->desc.head_dim};
    struct attention_args args = attention_of(p, layer);
    args.fresh = p->fresh ? &fresh : NULL;
    return t->dev->ops->attention(t->dev, &args);
}

/* Writes t->gate_up [n_rows, intermediate], behind its own input where silu is an op of its own. */
static enum status gate_up(const struct pass *p, const struct model_layer *w, uint64_t *out_stride)
{
    struct transformer *t = p->t;
    const struct model_desc *d = &t->desc;
    const uint32_t wide = 2 * d->intermediate, n_rows = p->step->rows.n_rows;
    const struct matrix m = {w->gate_up, w->gate_up_scale, w->gate_up_bias, wide, d->hidden};
    const struct gemm_fusion fusion = norm_ahead(p, GEMM_SILU_MUL);
    *out_stride = p->fused ? d->intermediate : wide;
    enum status st = gemm(t, t->h, d->hidden, &m, t->gate_up, n_rows, (uint32_t)*out_stride,
                          p->fused ? &fusion : NULL);
    struct silu_mul_args act = {.x = t->gate_up,
                                .x_stride = wide,
                                .y = t->gate_up,
                                .y_stride = wide,
                                .dtype = t->act,
                                .n_rows = n_rows,
                                .n_cols = d->intermediate};
    return st == ST_OK && !p->fused ? t->dev->ops->silu_mul(t->dev, &act) : st;
}

/* The logits of rows that sample, gathered; a fused pass has none but such rows. */
static enum status sample(const struct pass *p)
{
    struct transformer *t = p->t;
    const struct model_desc *d = &t->desc;
    const uint32_t n_sampled = p->step->n_sampled;
    const struct matrix head = {t->weights.head, NULL, NULL, d->n_vocab, d->hidden};
    const struct gemm_fusion ahead = norm_ahead(p, GEMM_STORE);
    struct embedding_args gather = {.ids = t->in_dev.last_rows,
                                    .table = t->h,
                                    .dtype = t->act,
                                    .n_vocab = p->step->rows.n_rows,
                                    .n_cols = d->hidden,
                                    .y = t->sampled,
                                    .y_dtype = t->act,
                                    .y_stride = d->hidden,
                                    .n_rows = n_sampled};
    enum status st = p->fused ? ST_OK : t->dev->ops->embedding(t->dev, &gather);
    if (st == ST_OK)
        st = gemm(t, p->fused ? t->h : t->sampled, d->hidden, &head, t->logits, n_sampled,
                  d->n_vocab, p->fused ? &ahead : NULL);
    struct sample_args args = {.logits = t->logits,
                               .logits_stride = d->n_vocab,
                               .rows = t->in_dev.sample_rows,
                               .out_ids = t->tokens_dev,
                               .n_rows = n_sampled,
                               .n_vocab = d->n_vocab};
    return st == ST_OK ? t->dev->ops->sample(t->dev, &args) : st;
}

static enum status embed(const struct pass *p)
{
    struct transformer *t = p->t;
    const struct model_desc *d = &t->desc;
    struct embedding_args args = {.ids = t->in_dev.ids,
                                  .table = t->weights.embed,
                                  .dtype = t->weights.dtype,
                                  .is_packed = 1,
                                  .n_vocab = d->n_vocab,
                                  .n_cols = d->hidden,
                                  .y = t->x,
                                  .y_stride = d->hidden,
                                  .n_rows = p->step->rows.n_rows};
    struct step_begin_args begin = {.ids = t->in_dev.ids,
                                    .pos = t->in_dev.pos,
                                    .table = t->weights.embed,
                                    .dtype = t->weights.dtype,
                                    .n_vocab = d->n_vocab,
                                    .n_cols = d->hidden,
                                    .x = t->x,
                                    .norm_w = t->weights.layers[0].attn_norm,
                                    .y = p->fused ? t->h : NULL,
                                    .y_sums = t->sums,
                                    .inv_freq = t->inv_freq,
                                    .cos_sin = t->cos_sin,
                                    .n_rot = d->head_dim,
                                    .attn_scale = d->rope_attn_scale,
                                    .n_rows = p->step->rows.n_rows};
    return p->fresh ? t->dev->ops->step_begin(t->dev, &begin)
                    : t->dev->ops->embedding(t->dev, &args);
}

/* Says so when the KV of a group of layers is complete. */
static enum status kv_report(struct pass *p, uint32_t layer)
{
    const struct forward *step = p->step;
    uint32_t n_layers = p->t->desc.n_layers, end = layer + 1, first = p->n_layers_done;
    if (step->layers_done == NULL || end != n_layers * (p->n_groups_done + 1) / p->t->layer_groups)
        return ST_OK;
    p->n_groups_done++;
    p->n_layers_done = end;
    return step->layers_done(step->arg, first, end - first);
}

static enum status layer_run(struct pass *p, uint32_t layer)
{
    struct transformer *t = p->t;
    const struct model_layer *w = &t->weights.layers[layer];
    const struct model_desc *d = &t->desc;
    const struct matrix o = {w->o, w->o_scale, w->o_bias, d->hidden, t->q_cols};
    const struct matrix down = {w->down, w->down_scale, w->down_bias, d->hidden, d->intermediate};
    const uint32_t n_rows = p->step->rows.n_rows;
    const float *next_norm = layer + 1 < d->n_layers ? w[1].attn_norm : t->weights.final_norm;
    uint64_t stride = 0;
    enum status st = p->fused ? ST_OK : norm(t, layer > 0, w->attn_norm, n_rows);
    if (st == ST_OK)
        st = project(p, layer);
    if (st == ST_OK)
        st = kv_report(p, layer);
    if (st == ST_OK)
        st = attend(p, layer);
    if (st == ST_OK)
        st = branch_end(p, t->attn, t->q_cols, &o, w->mlp_norm);
    if (st == ST_OK && !p->fused)
        st = norm(t, true, w->mlp_norm, n_rows);
    if (st == ST_OK)
        st = gate_up(p, w, &stride);
    return st == ST_OK ? branch_end(p, t->gate_up, stride, &down, next_norm) : st;
}

enum status transformer_forward(struct transformer *t, const struct forward *step)
{
    const uint32_t n_rows = step->rows.n_rows;
    struct pass p = {.t = t, .step = step};
    p.fresh = t->fused_rows > 0 && step->rows.rows_max == 1 && step->layers_done == NULL;
    p.fused = p.fresh && n_rows <= t->fused_rows && step->n_sampled == n_rows;
    enum status st = embed(&p);
    for (uint32_t l = 0; l < t->desc.n_layers && st == ST_OK; l++)
        st = layer_run(&p, l);
    if (st == ST_OK && step->n_sampled > 0 && !p.fused)
        st = norm(t, true, t->weights.final_norm, n_rows);
    return st == ST_OK && step->n_sampled > 0 ? sample(&p) : st;
}
