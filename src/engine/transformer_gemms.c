/* The matrix products of a step of many rows, for a device that chooses how to make them. */
#include "engine/transformer_int.h"

#include <stdlib.h>

#define LAYER_GEMMS 4u

/* A matrix [n, k] of weights with its scales, if it has any. */
static struct gemm_args gemm_of(const struct transformer *t, const void *w, const float *scale,
                                uint32_t n, uint32_t k)
{
    return (struct gemm_args){.x_dtype = t->act,
                              .x_stride = k,
                              .w = w,
                              .w_dtype = scale != NULL ? t->weights.matrix_dtype : t->weights.dtype,
                              .w_scale = scale,
                              .w_scaling = scale != NULL ? t->weights.scaling : OPS_SCALE_NONE,
                              .y_dtype = OPS_F32,
                              .y_stride = n,
                              .n_rows = t->max_tokens,
                              .n = n,
                              .k = k};
}

/* As layer_run and branch_end call them when nothing is fused. */
static void layer_gemms(const struct transformer *t, const struct model_layer *w,
                        struct gemm_args *out)
{
    const struct model_desc *d = &t->desc;
    const uint32_t wide = 2 * d->intermediate;
    out[0] = gemm_of(t, w->qkv, w->qkv_scale, t->qkv_cols, d->hidden);
    out[0].x = t->h;
    out[0].y = t->qkv;
    out[0].y_dtype = t->act;
    out[1] = gemm_of(t, w->o, w->o_scale, d->hidden, t->q_cols);
    out[1].x = t->attn;
    out[1].y = t->delta;
    out[2] = gemm_of(t, w->gate_up, w->gate_up_scale, wide, d->hidden);
    out[2].x = t->h;
    out[2].y = t->gate_up;
    out[2].y_dtype = t->act;
    out[3] = gemm_of(t, w->down, w->down_scale, d->hidden, d->intermediate);
    out[3].x = t->gate_up;
    out[3].x_stride = wide;
    out[3].y = t->delta;
}

enum status transformer_gemms_prepare(struct transformer *t, const char *cache_dir)
{
    const uint32_t n_layers = t->desc.n_layers, n = n_layers * LAYER_GEMMS + 1;
    if (t->dev->ops->gemm_prepare == NULL)
        return ST_OK;
    struct gemm_args *gemms = calloc(n, sizeof(*gemms));
    if (gemms == NULL)
        return ST_NO_MEMORY;
    for (uint32_t l = 0; l < n_layers; l++)
        layer_gemms(t, &t->weights.layers[l], gemms + (size_t)l * LAYER_GEMMS);
    struct gemm_args *head = &gemms[n - 1];
    *head = gemm_of(t, t->weights.head, NULL, t->desc.n_vocab, t->desc.hidden);
    head->x = t->sampled;
    head->y = t->logits;
    head->n_rows = t->max_seqs;
    enum status st = t->dev->ops->gemm_prepare(t->dev, gemms, n, cache_dir);
    free(gemms);
    return st;
}
