/* Scales of an fp8 KV cache: one of K and one of V a layer, for all heads or for each. Writers name
 * them in three ways; the oldest has one for both. Source: vLLM, llm-compressor, the exporter of
 * the Model Optimizer. */
#include "model/load_int.h"

#include <math.h>
#include <stdio.h>

static const char *const scale_names[2][3] = {
    {"self_attn.k_scale", "self_attn.k_proj.k_scale", "self_attn.kv_scale"},
    {"self_attn.v_scale", "self_attn.v_proj.v_scale", "self_attn.kv_scale"},
};

static const struct safetensors_tensor *find(struct loader *l, uint32_t layer, const char *suffix)
{
    char name[96];
    snprintf(name, sizeof(name), "model.layers.%u.%s", layer, suffix);
    return safetensors_find(l->set, name);
}

/* NULL: the files have none. */
static const struct safetensors_tensor *find_scale(struct loader *l, uint32_t layer, uint32_t is_v)
{
    const struct safetensors_tensor *t = NULL;
    for (uint32_t i = 0; i < 3 && t == NULL; i++)
        t = find(l, layer, scale_names[is_v][i]);
    return t;
}

/* Also those of a query in fp8, which is not computed with here: they are no error. */
static bool mark_all_used(struct loader *l)
{
    bool has_any = false;
    for (uint32_t i = 0; i < l->desc->n_layers; i++) {
        loader_mark_used(l, find(l, i, "self_attn.q_scale"));
        loader_mark_used(l, find(l, i, "self_attn.prob_scale"));
        for (uint32_t k = 0; k < 6; k++) {
            const struct safetensors_tensor *t = find(l, i, scale_names[k / 3][k % 3]);
            loader_mark_used(l, t);
            has_any = has_any || t != NULL;
        }
    }
    return has_any;
}

/* One number, of any rank, or one for each head, with dimensions of 1 around it. */
static bool fits_heads(const struct safetensors_tensor *t, uint32_t n_heads)
{
    uint32_t n_wide = 0;
    uint64_t count = 1;
    for (uint32_t i = 0; i < t->n_dims; i++) {
        n_wide += t->dims[i] != 1;
        count *= t->dims[i]; /* no overflow: the reader has multiplied them */
    }
    return count == 1 || (count == n_heads && n_wide == 1);
}

/* Scales of one side of one layer to out [n_kv_heads]. */
static enum status read_side(struct loader *l, uint32_t layer, uint32_t is_v, float *out)
{
    const uint32_t n_heads = l->desc->n_kv_heads;
    const struct safetensors_tensor *t = find_scale(l, layer, is_v);
    enum ops_dtype dtype;
    if (t == NULL)
        return text_error_set(l->err, ST_NOT_FOUND,
                              "%s: tensor model.layers.%u.%s is missing, other scales of the KV "
                              "cache are there",
                              l->opts->dir, layer, scale_names[is_v][0]);
    if (!loader_dtype(t->dtype, false, &dtype))
        return loader_dtype_error(l, t);
    if (!fits_heads(t, n_heads))
        return text_error_set(l->err, ST_INVALID,
                              "%s: tensor %s is neither one number nor one for each of %u KV heads",
                              l->opts->dir, t->name, n_heads);
    const uint64_t step = t->bytes > ops_dtype_bytes(dtype) ? 1 : 0;
    for (uint32_t h = 0; h < n_heads; h++) {
        float scale = loader_element(t->data, dtype, h * step);
        if (!(scale > 0.0f && scale < INFINITY && 1.0f / scale < INFINITY))
            return text_error_set(l->err, ST_INVALID,
                                  "%s: tensor %s has the scale %g, which is not above 0 and finite",
                                  l->opts->dir, t->name, (double)scale);
        out[h] = scale;
    }
    return ST_OK;
}

enum status loader_kv_scales(struct loader *l)
{
    const uint32_t n_heads = l->desc->n_kv_heads;
    const uint64_t n = (uint64_t)l->desc->n_layers * 2 * n_heads;
    struct device *dev = l->weights->dev;
    enum status st = ST_OK;
    if (l->set == NULL || !mark_all_used(l) || !l->opts->kv_fp8)
        return ST_OK;
    l->kv_scales = loader_source(l, n);
    float *to = loader_alloc(l, n * sizeof(float));
    if (l->kv_scales == NULL || loader_alloc_failed(l, to))
        return loader_no_memory(l);
    for (uint32_t i = 0; i < 2 * l->desc->n_layers && st == ST_OK; i++)
        st = read_side(l, i / 2, i % 2, l->kv_scales + (uint64_t)i * n_heads);
    if (st == ST_OK && dev != NULL)
        st = dev->ops->copy_in(dev, to, l->kv_scales, n * sizeof(float));
    l->weights->kv_scales = to;
    return st;
}
