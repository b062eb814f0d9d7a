#include "model/load_int.h"

#include "base/buf.h"
#include "base/hash.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ALLOCS_PER_LAYER 16u

void *loader_alloc(struct loader *l, size_t bytes)
{
    struct model_weights *w = l->weights;
    void *at = NULL;
    l->alloc_bytes += bytes;
    if (w->dev == NULL)
        return NULL;
    if (bytes == 0 || w->n_allocs == w->allocs_max ||
        w->dev->ops->alloc(w->dev, DEVICE_MEM_WEIGHTS, bytes, &at) != ST_OK)
        return NULL;
    w->allocs[w->n_allocs++] = at;
    return at;
}

bool loader_alloc_failed(const struct loader *l, const void *at)
{
    return at == NULL && l->weights->dev != NULL;
}

float *loader_source(struct loader *l, uint64_t n)
{
    struct loader_source *source = malloc(sizeof(*source) + n * sizeof(float));
    if (source == NULL)
        return NULL;
    source->next = l->sources;
    l->sources = source;
    return source->values;
}

void loader_progress(struct loader *l, uint64_t params)
{
    l->done += params;
    uint32_t permille = l->total > 0 ? (uint32_t)(l->done * 1000 / l->total) : 1000;
    if (permille > 1000)
        permille = 1000;
    if (permille != l->permille && l->opts->on_progress != NULL)
        l->opts->on_progress(l->opts->progress_arg, permille);
    l->permille = permille;
}

bool loader_dtype(enum safetensors_dtype from, bool with_fp8, enum ops_dtype *out)
{
    switch (from) {
    case SAFETENSORS_F32:
        *out = OPS_F32;
        return true;
    case SAFETENSORS_BF16:
        *out = OPS_BF16;
        return true;
    case SAFETENSORS_F16:
        *out = OPS_F16;
        return true;
    case SAFETENSORS_F8_E4M3:
        *out = OPS_F8;
        return with_fp8;
    default:
        return false;
    }
}

enum status loader_dtype_error(struct loader *l, const struct safetensors_tensor *t)
{
    return text_error_set(l->err, ST_UNSUPPORTED, "%s: tensor %s: dtype %s is not supported%s",
                          l->opts->dir, t->name, safetensors_dtype_name(t->dtype),
                          t->dtype == SAFETENSORS_F8_E4M3 &&
                                  l->desc->weight_scaling == MODEL_SCALE_NONE
                              ? ", for config.json has no quantization_config"
                              : "");
}

void loader_mark_used(struct loader *l, const struct safetensors_tensor *t)
{
    if (t != NULL)
        l->used[t - safetensors_at(l->set, 0)] = 1;
}

/* The tensor of exactly this shape; dims[1] = 0 for a vector. */
enum status loader_find(struct loader *l, const char *name, uint64_t rows, uint64_t cols,
                        const struct safetensors_tensor **out)
{
    const struct safetensors_tensor *t = safetensors_find(l->set, name);
    if (t == NULL)
        return text_error_set(l->err, ST_NOT_FOUND, "%s: tensor %s is missing", l->opts->dir, name);
    bool fits = cols == 0 ? t->n_dims == 1 && t->dims[0] == rows
                          : t->n_dims == 2 && t->dims[0] == rows && t->dims[1] == cols;
    if (!fits)
        return text_error_set(l->err, ST_INVALID,
                              "%s: tensor %s does not have the shape [%llu%s%.0llu] of config.json",
                              l->opts->dir, name, (unsigned long long)rows, cols > 0 ? ", " : "",
                              (unsigned long long)cols);
    loader_mark_used(l, t);
    *out = t;
    return ST_OK;
}

/* Tables that some writers store although they follow from config.json. */
static bool is_redundant(const struct model_desc *desc, const char *name)
{
    static const char suffix[] = ".rotary_emb.inv_freq";
    size_t bytes = strlen(name), suffix_bytes = sizeof(suffix) - 1;
    if (bytes > suffix_bytes && strcmp(name + bytes - suffix_bytes, suffix) == 0)
        return true;
    return desc->tied_embeddings && strcmp(name, "lm_head.weight") == 0;
}

/* A tensor left over means that config.json and the weights disagree, for example about a bias: the
 * answers would be wrong without a word. */
static enum status check_all_used(struct loader *l)
{
    for (uint32_t i = 0; l->set != NULL && i < safetensors_count(l->set); i++) {
        const struct safetensors_tensor *t = safetensors_at(l->set, i);
        if (l->used[i] == 0 && !is_redundant(l->desc, t->name))
            return text_error_set(l->err, ST_INVALID,
                                  "%s: tensor %.200s is no part of the model of config.json",
                                  l->opts->dir, t->name);
    }
    return ST_OK;
}

enum status loader_no_memory(struct loader *l)
{
    return text_error_set(l->err, ST_NO_MEMORY, "%s: the weights do not fit into memory",
                          l->opts->dir);
}

static float half_to_float(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, mantissa = h & 1023,
             bits;
    float value;
    if (exponent == 0) { /* zero or subnormal: exact in f32 */
        value = ldexpf((float)mantissa, -24);
        return sign != 0 ? -value : value;
    }
    bits = exponent == 31 ? 0x7f800000u | mantissa << 13 : (exponent + 112) << 23 | mantissa << 13;
    bits |= sign;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

float loader_element(const uint8_t *data, enum ops_dtype dtype, uint64_t i)
{
    uint32_t bits;
    uint16_t half;
    float value;
    if (dtype == OPS_F32) {
        memcpy(&value, data + 4 * i, 4);
        return value;
    }
    memcpy(&half, data + 2 * i, 2);
    if (dtype == OPS_F16)
        return half_to_float(half);
    bits = (uint32_t)half << 16;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

/* A vector of n, as f32, to `out`, NULL: only checked. Dummy: `fill` everywhere. */
enum status loader_vector(struct loader *l, const char *name, float *out, uint32_t n, float fill)
{
    const struct safetensors_tensor *t = NULL;
    enum ops_dtype dtype = OPS_F32;
    enum status st = l->opts->dummy ? ST_OK : loader_find(l, name, n, 0, &t);
    if (st == ST_OK && t != NULL && !loader_dtype(t->dtype, false, &dtype))
        st = loader_dtype_error(l, t);
    if (st != ST_OK || out == NULL)
        return st;
    float *values = loader_source(l, n);
    if (values == NULL)
        return loader_no_memory(l);
    for (uint32_t i = 0; i < n; i++)
        values[i] = t == NULL ? fill : loader_element(t->data, dtype, i);
    struct device *dev = l->weights->dev;
    st = dev->ops->copy_in(dev, out, values, n * sizeof(float));
    if (st == ST_OK && t != NULL)
        loader_progress(l, n);
    return st;
}

static enum status load_norm(struct loader *l, const char *name, uint32_t n, float **out)
{
    *out = loader_alloc(l, n * sizeof(float));
    return loader_alloc_failed(l, *out) ? loader_no_memory(l)
                                        : loader_vector(l, name, *out, n, 1.0f);
}

static enum status load_layer_norms(struct loader *l, uint32_t i)
{
    const struct model_desc *d = l->desc;
    struct model_layer *w = &l->weights->layers[i];
    const struct {
        const char *name;
        uint32_t n;
        float **out;
        bool wanted;
    } norms[] = {
        {"input_layernorm", d->hidden, &w->attn_norm, true},
        {"post_attention_layernorm", d->hidden, &w->mlp_norm, true},
        {"self_attn.q_norm", d->head_dim, &w->q_norm, d->qk_norm},
        {"self_attn.k_norm", d->head_dim, &w->k_norm, d->qk_norm},
    };
    char name[160];
    enum status st = ST_OK;
    for (uint32_t k = 0; k < 4 && st == ST_OK; k++) {
        snprintf(name, sizeof(name), "model.layers.%u.%s.weight", i, norms[k].name);
        if (norms[k].wanted)
            st = load_norm(l, name, norms[k].n, norms[k].out);
    }
    return st;
}

static enum status load_layer(struct loader *l, uint32_t i)
{
    const struct model_desc *d = l->desc;
    struct model_layer *w = &l->weights->layers[i];
    const uint32_t q = d->n_heads * d->head_dim, kv = d->n_kv_heads * d->head_dim;
    const struct matrix_part qkv[] = {
        {"self_attn.q_proj", q}, {"self_attn.k_proj", kv}, {"self_attn.v_proj", kv}};
    const struct matrix_part o[] = {{"self_attn.o_proj", d->hidden}};
    const struct matrix_part gate_up[] = {{"mlp.gate_proj", d->intermediate},
                                          {"mlp.up_proj", d->intermediate}};
    const struct matrix_part down[] = {{"mlp.down_proj", d->hidden}};
    char prefix[32];
    snprintf(prefix, sizeof(prefix), "model.layers.%u.", i);
    struct matrix_load matrices[MODEL_MATRICES] = {
        [MODEL_QKV] = {.parts = qkv,
                       .n_parts = 3,
                       .k = d->hidden,
                       .has_bias = d->qkv_bias,
                       .w = &w->qkv,
                       .w_bias = &w->qkv_bias,
                       .w_scale = &w->qkv_scale},
        [MODEL_O] = {.parts = o,
                     .n_parts = 1,
                     .k = q,
                     .has_bias = d->o_bias,
                     .w = &w->o,
                     .w_bias = &w->o_bias,
                     .w_scale = &w->o_scale},
        [MODEL_GATE_UP] = {.parts = gate_up,
                           .n_parts = 2,
                           .k = d->hidden,
                           .has_bias = d->mlp_bias,
                           .w = &w->gate_up,
                           .w_bias = &w->gate_up_bias,
                           .w_scale = &w->gate_up_scale},
        [MODEL_DOWN] = {.parts = down,
                        .n_parts = 1,
                        .k = d->intermediate,
                        .has_bias = d->mlp_bias,
                        .w = &w->down,
                        .w_bias = &w->down_bias,
                        .w_scale = &w->down_scale},
    };
    enum status st = load_layer_norms(l, i);
    for (uint32_t k = 0; k < MODEL_MATRICES && st == ST_OK; k++) {
        matrices[k].prefix = prefix;
        matrices[k].with_fp8 = true;
        matrices[k].is_plain_dummy = (d->layer_plain[i] >> k & 1) != 0;
        st = loader_matrix(l, &matrices[k]);
    }
    return st;
}

static enum status load_table(struct loader *l, const char *prefix, const char *name, bool with_fp8,
                              void **out)
{
    const struct matrix_part table = {name, l->desc->n_vocab};
    struct matrix_load f = {.prefix = prefix,
                            .parts = &table,
                            .n_parts = 1,
                            .k = l->desc->hidden,
                            .with_fp8 = with_fp8,
                            .is_plain_dummy = true,
                            .w = out};
    return loader_matrix(l, &f);
}

static enum status load_all(struct loader *l)
{
    struct model_weights *w = l->weights;
    enum status st = load_table(l, "model.", "embed_tokens", false, &w->embed);
    for (uint32_t i = 0; i < w->n_layers && st == ST_OK; i++)
        st = load_layer(l, i);
    if (st == ST_OK)
        st = load_norm(l, "model.norm.weight", l->desc->hidden, &w->final_norm);
    if (st == ST_OK)
        st = loader_kv_scales(l);
    w->head = w->embed;
    if (st == ST_OK && !l->desc->tied_embeddings)
        st = load_table(l, "", "lm_head", true, &w->head);
    return st;
}

/* Of tensors the files' hash has only a sample; a scale changes every value of its head. */
static enum status identity(struct loader *l, uint8_t out[32])
{
    const size_t bytes = (size_t)l->desc->n_layers * 2 * l->desc->n_kv_heads * sizeof(float);
    struct buf parts;
    if (l->set == NULL) {
        hash_sha256(&l->opts->seed, sizeof(l->opts->seed), out);
        return ST_OK;
    }
    enum status st = safetensors_identity(l->set, out);
    if (st != ST_OK || l->kv_scales == NULL)
        return st;
    buf_init(&parts, 32 + bytes);
    st = buf_append(&parts, out, 32);
    if (st == ST_OK)
        st = buf_append(&parts, l->kv_scales, bytes);
    if (st == ST_OK)
        hash_sha256(parts.data, parts.len, out);
    buf_deinit(&parts);
    return st;
}

/* The files' headers, then all that the model has. */
static enum status load_set(struct loader *l)
{
    enum status st = ST_OK;
    l->weights->layers = calloc(l->desc->n_layers, sizeof(*l->weights->layers));
    if (l->weights->layers == NULL)
        return loader_no_memory(l);
    if (!l->opts->dummy)
        st = safetensors_open_dir(l->opts->dir, &l->set, l->err);
    if (st == ST_OK && l->set != NULL) {
        l->used = calloc((size_t)safetensors_count(l->set) + 1, 1);
        st = l->used != NULL ? ST_OK : loader_no_memory(l);
    }
    if (st == ST_OK)
        st = load_all(l);
    return st == ST_OK ? check_all_used(l) : st;
}

/* Waits for the device; answers how that went. */
static enum status loader_deinit(struct loader *l)
{
    struct device *dev = l->weights->dev;
    enum status st = dev != NULL ? dev->ops->sync(dev) : ST_OK;
    if (dev != NULL && dev->ops->load_end != NULL)
        dev->ops->load_end(dev);
    for (struct loader_source *next; l->sources != NULL; l->sources = next) {
        next = l->sources->next;
        free(l->sources);
    }
    safetensors_close(l->set);
    free(l->used);
    if (l->chunk != NULL)
        dev->ops->free(dev, l->chunk);
    return st;
}

/* fp8 stays fp8 where the device multiplies it; activations are bf16 then. */
static bool is_fp8_kept(const struct model_desc *desc, const struct model_load_opts *opts)
{
    return desc->weight_scaling != MODEL_SCALE_NONE && opts->keep_fp8 && opts->dtype == OPS_BF16 &&
           desc->hidden % 16 == 0 && desc->intermediate % 16 == 0;
}

static struct model_weights weights_of(const struct model_desc *desc,
                                       const struct model_load_opts *opts)
{
    bool is_kept = is_fp8_kept(desc, opts);
    return (struct model_weights){.dtype = opts->dtype,
                                  .matrix_dtype = is_kept ? OPS_F8 : opts->dtype,
                                  .scaling = is_kept ? loader_scaling(desc) : OPS_SCALE_NONE,
                                  .n_layers = desc->n_layers};
}

enum status model_load(struct device *dev, const struct model_desc *desc,
                       const struct model_load_opts *opts, struct model_weights *out,
                       uint8_t out_identity[32], struct text_error err)
{
    *out = weights_of(desc, opts);
    out->dev = dev;
    out->allocs_max = ALLOCS_PER_LAYER * desc->n_layers + 8;
    struct loader l = {.desc = desc,
                       .opts = opts,
                       .weights = out,
                       .total = model_desc_param_count(desc),
                       .err = err};
    out->allocs = calloc(out->allocs_max, sizeof(*out->allocs));
    enum status st = out->allocs != NULL ? ST_OK : loader_no_memory(&l);
    if (st == ST_OK && opts->dummy &&
        dev->ops->alloc(dev, DEVICE_MEM_ACTIVATION, LOADER_CHUNK_BYTES, &l.chunk) != ST_OK)
        st = loader_no_memory(&l);
    if (st == ST_OK)
        st = load_set(&l);
    if (st == ST_OK)
        st = identity(&l, out_identity);
    enum status end = loader_deinit(&l);
    st = st == ST_OK ? end : st;
    if (st == ST_OK && opts->on_progress != NULL && l.permille != 1000)
        opts->on_progress(opts->progress_arg, 1000);
    if (st != ST_OK)
        model_weights_deinit(out);
    return st;
}

enum status model_load_check(const struct model_desc *desc, const struct model_load_opts *opts,
                             uint64_t *out_bytes, struct text_error err)
{
    struct model_weights none = weights_of(desc, opts);
    struct loader l = {.desc = desc, .opts = opts, .weights = &none, .err = err};
    enum status st = load_set(&l);
    if (st == ST_OK)
        *out_bytes = l.alloc_bytes;
    (void)loader_deinit(&l);
    model_weights_deinit(&none);
    return st;
}

void model_weights_deinit(struct model_weights *weights)
{
    for (uint32_t i = 0; i < weights->n_allocs; i++)
        weights->dev->ops->free(weights->dev, weights->allocs[i]);
    free(weights->allocs);
    free(weights->layers);
    *weights = (struct model_weights){0};
}
