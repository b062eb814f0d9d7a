#include "model/load.h"

#include "base/hash.h"
#include "model/safetensors.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DUMMY_CHUNK_BYTES (8u << 20)
#define ALLOCS_PER_LAYER  12u

struct loader {
    const struct model_desc *desc;
    const struct model_load_opts *opts;
    struct model_weights *weights; /* weights->dev NULL: only check, allocate and write nothing */
    uint64_t alloc_bytes;
    struct safetensors *set; /* NULL when dummy */
    void *chunk;             /* dummy: rows before packing, memory of the device */
    uint8_t *used;           /* [tensors of set] 1: it is part of the model */
    uint64_t done, total;    /* parameters */
    uint32_t permille;
    uint64_t tensor_seed;
    struct text_error err;
};

static void *loader_alloc(struct loader *l, size_t bytes)
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

static bool alloc_failed(const struct loader *l, const void *at)
{
    return at == NULL && l->weights->dev != NULL;
}

static void loader_progress(struct loader *l, uint64_t params)
{
    l->done += params;
    uint32_t permille = l->total > 0 ? (uint32_t)(l->done * 1000 / l->total) : 1000;
    if (permille > 1000)
        permille = 1000;
    if (permille != l->permille && l->opts->on_progress != NULL)
        l->opts->on_progress(l->opts->progress_arg, permille);
    l->permille = permille;
}

static bool dtype_of(enum safetensors_dtype from, enum ops_dtype *out)
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
    default:
        return false;
    }
}

/* The tensor of exactly this shape; dims[1] = 0 for a vector. */
static enum status loader_find(struct loader *l, const char *name, uint64_t rows, uint64_t cols,
                               const struct safetensors_tensor **out, enum ops_dtype *out_dtype)
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
    if (!dtype_of(t->dtype, out_dtype))
        return text_error_set(l->err, ST_UNSUPPORTED, "%s: tensor %s: dtype %s is not supported",
                              l->opts->dir, name, safetensors_dtype_name(t->dtype));
    l->used[t - safetensors_at(l->set, 0)] = 1;
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

static enum status no_memory(struct loader *l)
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

static float element(const uint8_t *data, enum ops_dtype dtype, uint64_t i)
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
static enum status load_vector(struct loader *l, const char *name, float *out, uint32_t n,
                               float fill)
{
    const struct safetensors_tensor *t = NULL;
    enum ops_dtype dtype = OPS_F32;
    enum status st = l->opts->dummy ? ST_OK : loader_find(l, name, n, 0, &t, &dtype);
    if (st != ST_OK || out == NULL)
        return st;
    float *values = malloc(n * sizeof(float));
    if (values == NULL)
        return no_memory(l);
    for (uint32_t i = 0; i < n; i++)
        values[i] = t == NULL ? fill : element(t->data, dtype, i);
    struct device *dev = l->weights->dev;
    st = dev->ops->copy_in(dev, out, values, n * sizeof(float));
    if (st == ST_OK)
        st = dev->ops->sync(dev); /* values goes */
    free(values);
    if (st == ST_OK && t != NULL)
        loader_progress(l, n);
    return st;
}

static enum status pack_rows(struct loader *l, const void *src, enum ops_dtype src_dtype,
                             uint32_t n_rows, uint32_t n_first, uint32_t n, uint32_t k, void *dst)
{
    struct device *dev = l->weights->dev;
    struct gemm_pack_args args = {.src = src,
                                  .src_dtype = src_dtype,
                                  .src_stride = k,
                                  .n_rows = n_rows,
                                  .n_first = n_first,
                                  .n = n,
                                  .k = k,
                                  .dst = dst,
                                  .dst_dtype = l->weights->dtype};
    return dev->ops->gemm_pack(dev, &args);
}

/* Random rows, scaled so that a GEMM keeps the variance of its input. */
static enum status load_dummy_matrix(struct loader *l, uint32_t n_rows, uint32_t n_first,
                                     uint32_t n, uint32_t k, void *dst)
{
    struct device *dev = l->weights->dev;
    uint32_t per_chunk = DUMMY_CHUNK_BYTES / 2 / k;
    l->tensor_seed++;
    per_chunk = per_chunk > 0 ? per_chunk : 1;
    for (uint32_t done = 0; done < n_rows;) {
        uint32_t rows = n_rows - done < per_chunk ? n_rows - done : per_chunk;
        struct random_fill_args fill = {.dst = l->chunk,
                                        .dtype = OPS_BF16,
                                        .n = (uint64_t)rows * k,
                                        .first = (uint64_t)done * k,
                                        .seed = hash_combine(l->opts->seed, l->tensor_seed),
                                        .scale = sqrtf(3.0f / (float)k)};
        enum status st = dev->ops->random_fill(dev, &fill);
        if (st == ST_OK)
            st = pack_rows(l, l->chunk, OPS_BF16, rows, n_first + done, n, k, dst);
        if (st != ST_OK)
            return st;
        done += rows;
        loader_progress(l, (uint64_t)rows * k);
    }
    return ST_OK;
}

/* Rows [n_first, n_first + n_rows) of the packed matrix dst [n, k]; dst NULL: only checked. */
static enum status load_matrix(struct loader *l, const char *name, uint32_t n_rows,
                               uint32_t n_first, uint32_t n, uint32_t k, void *dst)
{
    const struct safetensors_tensor *t = NULL;
    enum ops_dtype dtype = OPS_F32;
    if (l->opts->dummy)
        return dst != NULL ? load_dummy_matrix(l, n_rows, n_first, n, k, dst) : ST_OK;
    enum status st = loader_find(l, name, n_rows, k, &t, &dtype);
    if (st != ST_OK || dst == NULL)
        return st;
    st = pack_rows(l, t->data, dtype, n_rows, n_first, n, k, dst);
    if (st != ST_OK)
        return text_error_set(l->err, st, "%s: tensor %s cannot be packed", l->opts->dir, name);
    loader_progress(l, (uint64_t)n_rows * k);
    return ST_OK;
}

/* Parts of one fused matrix: name of the projection, rows. */
struct part {
    const char *name;
    uint32_t rows;
};

static enum status load_fused(struct loader *l, uint32_t layer, const struct part *parts,
                              uint32_t n_parts, uint32_t k, bool bias, void **out, float **out_bias)
{
    char name[160];
    uint32_t n = 0, first = 0;
    enum status st = ST_OK;
    for (uint32_t i = 0; i < n_parts; i++)
        n += parts[i].rows;
    *out = loader_alloc(l, ops_gemm_packed_bytes(l->weights->dtype, n, k));
    *out_bias = bias ? loader_alloc(l, n * sizeof(float)) : NULL;
    if (alloc_failed(l, *out) || (bias && alloc_failed(l, *out_bias)))
        return no_memory(l);
    for (uint32_t i = 0; i < n_parts && st == ST_OK; i++) {
        snprintf(name, sizeof(name), "model.layers.%u.%s.weight", layer, parts[i].name);
        st = load_matrix(l, name, parts[i].rows, first, n, k, *out);
        snprintf(name, sizeof(name), "model.layers.%u.%s.bias", layer, parts[i].name);
        if (st == ST_OK && bias)
            st = load_vector(l, name, *out_bias != NULL ? *out_bias + first : NULL, parts[i].rows,
                             0.0f);
        first += parts[i].rows;
    }
    return st;
}

static enum status load_norm(struct loader *l, const char *name, uint32_t n, float **out)
{
    *out = loader_alloc(l, n * sizeof(float));
    return alloc_failed(l, *out) ? no_memory(l) : load_vector(l, name, *out, n, 1.0f);
}

static enum status load_layer(struct loader *l, uint32_t i)
{
    const struct model_desc *d = l->desc;
    struct model_layer *w = &l->weights->layers[i];
    const uint32_t q = d->n_heads * d->head_dim, kv = d->n_kv_heads * d->head_dim;
    const struct part qkv[] = {
        {"self_attn.q_proj", q}, {"self_attn.k_proj", kv}, {"self_attn.v_proj", kv}};
    const struct part o[] = {{"self_attn.o_proj", d->hidden}};
    const struct part gate_up[] = {{"mlp.gate_proj", d->intermediate},
                                   {"mlp.up_proj", d->intermediate}};
    const struct part down[] = {{"mlp.down_proj", d->hidden}};
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
    if (st == ST_OK)
        st = load_fused(l, i, qkv, 3, d->hidden, d->qkv_bias, &w->qkv, &w->qkv_bias);
    if (st == ST_OK)
        st = load_fused(l, i, o, 1, q, d->o_bias, &w->o, &w->o_bias);
    if (st == ST_OK)
        st = load_fused(l, i, gate_up, 2, d->hidden, d->mlp_bias, &w->gate_up, &w->gate_up_bias);
    if (st == ST_OK)
        st = load_fused(l, i, down, 1, d->intermediate, d->mlp_bias, &w->down, &w->down_bias);
    return st;
}

static enum status load_table(struct loader *l, const char *name, void **out)
{
    const struct model_desc *d = l->desc;
    *out = loader_alloc(l, ops_gemm_packed_bytes(l->weights->dtype, d->n_vocab, d->hidden));
    return alloc_failed(l, *out) ? no_memory(l)
                                 : load_matrix(l, name, d->n_vocab, 0, d->n_vocab, d->hidden, *out);
}

static enum status load_all(struct loader *l)
{
    struct model_weights *w = l->weights;
    enum status st = load_table(l, "model.embed_tokens.weight", &w->embed);
    for (uint32_t i = 0; i < w->n_layers && st == ST_OK; i++)
        st = load_layer(l, i);
    if (st == ST_OK)
        st = load_norm(l, "model.norm.weight", l->desc->hidden, &w->final_norm);
    w->head = w->embed;
    if (st == ST_OK && !l->desc->tied_embeddings)
        st = load_table(l, "lm_head.weight", &w->head);
    return st;
}

static enum status identity(struct loader *l, uint8_t out[32])
{
    if (l->set != NULL)
        return safetensors_identity(l->set, out);
    hash_sha256(&l->opts->seed, sizeof(l->opts->seed), out);
    return ST_OK;
}

/* The files' headers, then all that the model has. */
static enum status load_set(struct loader *l)
{
    enum status st = ST_OK;
    l->weights->layers = calloc(l->desc->n_layers, sizeof(*l->weights->layers));
    if (l->weights->layers == NULL)
        return no_memory(l);
    if (!l->opts->dummy)
        st = safetensors_open_dir(l->opts->dir, &l->set, l->err);
    if (st == ST_OK && l->set != NULL) {
        l->used = calloc((size_t)safetensors_count(l->set) + 1, 1);
        st = l->used != NULL ? ST_OK : no_memory(l);
    }
    if (st == ST_OK)
        st = load_all(l);
    return st == ST_OK ? check_all_used(l) : st;
}

static void loader_deinit(struct loader *l)
{
    safetensors_close(l->set);
    free(l->used);
    if (l->chunk != NULL)
        l->weights->dev->ops->free(l->weights->dev, l->chunk);
}

enum status model_load(struct device *dev, const struct model_desc *desc,
                       const struct model_load_opts *opts, struct model_weights *out,
                       uint8_t out_identity[32], struct text_error err)
{
    *out = (struct model_weights){.dev = dev,
                                  .dtype = opts->dtype,
                                  .n_layers = desc->n_layers,
                                  .allocs_max = ALLOCS_PER_LAYER * desc->n_layers + 8};
    struct loader l = {.desc = desc,
                       .opts = opts,
                       .weights = out,
                       .total = model_desc_param_count(desc),
                       .err = err};
    out->allocs = calloc(out->allocs_max, sizeof(*out->allocs));
    enum status st = out->allocs != NULL ? ST_OK : no_memory(&l);
    if (st == ST_OK && opts->dummy &&
        dev->ops->alloc(dev, DEVICE_MEM_ACTIVATION, DUMMY_CHUNK_BYTES, &l.chunk) != ST_OK)
        st = no_memory(&l);
    if (st == ST_OK)
        st = load_set(&l);
    if (st == ST_OK)
        st = identity(&l, out_identity);
    if (st == ST_OK && opts->on_progress != NULL && l.permille != 1000)
        opts->on_progress(opts->progress_arg, 1000);
    loader_deinit(&l);
    if (st != ST_OK)
        model_weights_deinit(out);
    return st;
}

enum status model_load_check(const struct model_desc *desc, const struct model_load_opts *opts,
                             uint64_t *out_bytes, struct text_error err)
{
    struct model_weights none = {.dtype = opts->dtype, .n_layers = desc->n_layers};
    struct loader l = {.desc = desc, .opts = opts, .weights = &none, .err = err};
    enum status st = load_set(&l);
    if (st == ST_OK)
        *out_bytes = l.alloc_bytes;
    loader_deinit(&l);
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
