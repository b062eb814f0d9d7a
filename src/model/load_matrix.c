/* One packed matrix: its parts, biases and scales from the files, or random ones. */
#include "model/load_int.h"

#include "base/hash.h"

#include <math.h>
#include <stdio.h>

static void part_name(const struct matrix_load *f, uint32_t i, const char *suffix, char out[160])
{
    snprintf(out, 160, "%s%s.%s", f->prefix, f->parts[i].name, suffix);
}

static uint32_t scale_blocks(uint32_t n)
{
    return n / OPS_SCALE_BLOCK_SIZE + (n % OPS_SCALE_BLOCK_SIZE != 0);
}

static uint64_t scale_count(const struct matrix_load *f)
{
    return f->scaling == OPS_SCALE_BLOCK ? (uint64_t)scale_blocks(f->n) * scale_blocks(f->k) : f->n;
}

enum ops_scaling loader_scaling(const struct model_desc *desc)
{
    return desc->weight_scaling == MODEL_SCALE_NONE    ? OPS_SCALE_NONE
           : desc->weight_scaling == MODEL_SCALE_BLOCK ? OPS_SCALE_BLOCK
                                                       : OPS_SCALE_ROW;
}

/* Parts that are fp8 and parts that are not cannot stand in one matrix. A missing one is found
 * later. */
static enum status matrix_is_fp8(struct loader *l, const struct matrix_load *f, bool *out)
{
    char name[160];
    const struct safetensors_tensor *first = NULL;
    *out = l->opts->dummy && !f->is_plain_dummy;
    for (uint32_t i = 0; i < f->n_parts && !l->opts->dummy; i++) {
        part_name(f, i, "weight", name);
        const struct safetensors_tensor *t = safetensors_find(l->set, name);
        bool is_fp8 = t != NULL && t->dtype == SAFETENSORS_F8_E4M3;
        if (t != NULL && first != NULL && is_fp8 != *out)
            return text_error_set(l->err, ST_UNSUPPORTED,
                                  "%s: of the tensors %s and %s, which are multiplied together, "
                                  "only one is quantised",
                                  l->opts->dir, first->name, t->name);
        first = t != NULL ? t : first;
        *out = *out || is_fp8;
    }
    return ST_OK;
}

/* Decides dtype and scaling. */
static enum status matrix_describe(struct loader *l, struct matrix_load *f)
{
    bool is_fp8 = false;
    enum status st = f->with_fp8 ? matrix_is_fp8(l, f, &is_fp8) : ST_OK;
    f->scaling = is_fp8 ? loader_scaling(l->desc) : OPS_SCALE_NONE;
    f->dtype = l->weights->dtype;
    if (f->scaling != OPS_SCALE_NONE && f->w_scale != NULL)
        f->dtype = l->weights->matrix_dtype;
    for (uint32_t i = 0; i + 1 < f->n_parts && f->scaling == OPS_SCALE_BLOCK && st == ST_OK; i++)
        if (f->parts[i].rows % OPS_SCALE_BLOCK_SIZE != 0)
            st = text_error_set(l->err, ST_UNSUPPORTED,
                                "%s: %s%s has %u rows, no multiple of the %u of a block of scales",
                                l->opts->dir, f->prefix, f->parts[i].name, f->parts[i].rows,
                                OPS_SCALE_BLOCK_SIZE);
    return st;
}

static enum status matrix_alloc(struct loader *l, struct matrix_load *f)
{
    *f->w = loader_alloc(l, ops_gemm_packed_bytes(f->dtype, f->n, f->k));
    if (f->has_bias)
        *f->w_bias = loader_alloc(l, f->n * sizeof(float));
    if (f->dtype == OPS_F8)
        f->scale = *f->w_scale = loader_alloc(l, scale_count(f) * sizeof(float));
    if (loader_alloc_failed(l, *f->w) || (f->has_bias && loader_alloc_failed(l, *f->w_bias)) ||
        (f->dtype == OPS_F8 && loader_alloc_failed(l, f->scale)))
        return loader_no_memory(l);
    struct device *dev = l->weights->dev;
    void *scale = NULL;
    if (dev == NULL || f->dtype == OPS_F8 || f->scaling == OPS_SCALE_NONE)
        return ST_OK;
    if (dev->ops->alloc(dev, DEVICE_MEM_ACTIVATION, scale_count(f) * sizeof(float), &scale) !=
        ST_OK)
        return loader_no_memory(l);
    f->scale = scale; /* until the matrix is packed */
    return ST_OK;
}

/* The scales of part i, checked; scales of activations may lie beside them. */
static enum status scale_find(struct loader *l, const struct matrix_load *f, uint32_t i,
                              const struct safetensors_tensor **out)
{
    static const char *const unread[] = {"input_scale", "input_scale_ub", "activation_scale"};
    const enum model_scaling scaling = l->desc->weight_scaling;
    const uint64_t rows = f->parts[i].rows;
    char name[160];
    for (uint32_t k = 0; k < 3; k++) {
        part_name(f, i, unread[k], name);
        loader_mark_used(l, safetensors_find(l->set, name));
    }
    part_name(f, i, "weight_scale_inv", name);
    const struct safetensors_tensor *t = safetensors_find(l->set, name);
    if (t == NULL) {
        part_name(f, i, "weight_scale", name);
        t = safetensors_find(l->set, name);
    }
    if (t == NULL)
        return text_error_set(l->err, ST_NOT_FOUND, "%s: tensor %s is missing", l->opts->dir, name);
    uint64_t count = 1, cols = scaling == MODEL_SCALE_BLOCK ? scale_blocks(f->k) : 1;
    for (uint32_t d = 0; d < t->n_dims; d++)
        count *= t->dims[d]; /* no overflow: the reader has multiplied them */
    bool is_row = scaling == MODEL_SCALE_ROW && t->n_dims == 1;
    bool is_table = scaling != MODEL_SCALE_TENSOR && t->n_dims == 2 && t->dims[1] == cols;
    uint64_t wanted = scaling == MODEL_SCALE_TENSOR ? 1
                      : scaling == MODEL_SCALE_ROW  ? rows
                                                    : scale_blocks(f->parts[i].rows) * cols;
    if (count != wanted || !(is_row || is_table || scaling == MODEL_SCALE_TENSOR))
        return text_error_set(l->err, ST_INVALID,
                              "%s: tensor %s does not have the shape of the scales of config.json",
                              l->opts->dir, name);
    loader_mark_used(l, t);
    *out = t;
    return ST_OK;
}

/* The scales of all parts to `values` [scale_count], NULL: only checked. */
static enum status scales_read(struct loader *l, const struct matrix_load *f, float *values)
{
    const uint64_t per_row = f->scaling == OPS_SCALE_BLOCK ? scale_blocks(f->k) : 1;
    uint64_t at = 0;
    enum status st = ST_OK;
    for (uint32_t i = 0; i < f->n_parts && st == ST_OK; i++) {
        const struct safetensors_tensor *t = NULL;
        enum ops_dtype dtype;
        uint32_t rows = f->parts[i].rows;
        uint64_t n = f->scaling == OPS_SCALE_BLOCK ? scale_blocks(rows) * per_row : rows;
        st = scale_find(l, f, i, &t);
        if (st == ST_OK && !loader_dtype(t->dtype, false, &dtype))
            st = loader_dtype_error(l, t);
        bool is_one = l->desc->weight_scaling == MODEL_SCALE_TENSOR;
        for (uint64_t k = 0; k < n && st == ST_OK; k++) {
            float v = loader_element(t->data, dtype, is_one ? 0 : k);
            if (!(v >= 0.0f && v < INFINITY))
                st = text_error_set(l->err, ST_INVALID, "%s: scale %llu of tensor %s is %g",
                                    l->opts->dir, (unsigned long long)k, t->name, (double)v);
            else if (values != NULL)
                values[at + k] = v;
        }
        at += n;
    }
    return st;
}

/* Uniform numbers below F8_MAX times this have the variance 1 / k: a GEMM keeps that of its input.
 */
#define F8_MAX 448.0f
static float dummy_scale(uint32_t k)
{
    return sqrtf(3.0f / (float)k) / F8_MAX;
}

static enum status load_scales(struct loader *l, const struct matrix_load *f)
{
    const uint64_t n = scale_count(f);
    struct device *dev = l->weights->dev;
    float *values = NULL;
    enum status st = ST_OK;
    if (dev != NULL) {
        values = loader_source(l, n);
        if (values == NULL)
            return loader_no_memory(l);
    }
    if (!l->opts->dummy)
        st = scales_read(l, f, values);
    for (uint64_t i = 0; i < n && values != NULL && l->opts->dummy; i++)
        values[i] = dummy_scale(f->k);
    if (st == ST_OK && dev != NULL)
        st = dev->ops->copy_in(dev, f->scale, values, n * sizeof(float));
    return st;
}

static enum status pack_rows(struct loader *l, const struct matrix_load *f, const void *src,
                             enum ops_dtype src_dtype, uint32_t n_rows, uint32_t n_first)
{
    struct device *dev = l->weights->dev;
    bool is_scaled = src_dtype == OPS_F8 && f->dtype != OPS_F8;
    struct gemm_pack_args args = {.src = src,
                                  .src_dtype = src_dtype,
                                  .src_stride = f->k,
                                  .src_scale = is_scaled ? f->scale : NULL,
                                  .src_scaling = is_scaled ? f->scaling : OPS_SCALE_NONE,
                                  .n_rows = n_rows,
                                  .n_first = n_first,
                                  .n = f->n,
                                  .k = f->k,
                                  .dst = *f->w,
                                  .dst_dtype = f->dtype};
    return dev->ops->gemm_pack(dev, &args);
}

/* Random rows, scaled so that a GEMM keeps the variance of its input. */
static enum status load_dummy_matrix(struct loader *l, const struct matrix_load *f, uint32_t n_rows,
                                     uint32_t n_first)
{
    struct device *dev = l->weights->dev;
    const enum ops_dtype dtype = f->scaling != OPS_SCALE_NONE ? OPS_F8 : OPS_BF16;
    uint32_t per_chunk = LOADER_CHUNK_BYTES / ops_dtype_bytes(dtype) / f->k;
    l->tensor_seed++;
    per_chunk = per_chunk > 0 ? per_chunk : 1;
    for (uint32_t done = 0; done < n_rows;) {
        uint32_t rows = n_rows - done < per_chunk ? n_rows - done : per_chunk;
        struct random_fill_args fill = {.dst = l->chunk,
                                        .dtype = dtype,
                                        .n = (uint64_t)rows * f->k,
                                        .first = (uint64_t)done * f->k,
                                        .seed = hash_combine(l->opts->seed, l->tensor_seed),
                                        .scale =
                                            dtype == OPS_F8 ? F8_MAX : sqrtf(3.0f / (float)f->k)};
        enum status st = dev->ops->random_fill(dev, &fill);
        if (st == ST_OK)
            st = pack_rows(l, f, l->chunk, dtype, rows, n_first + done);
        if (st != ST_OK)
            return st;
        done += rows;
        loader_progress(l, (uint64_t)rows * f->k);
    }
    return ST_OK;
}

/* Part i, whose rows of the matrix are [n_first, n_first + rows). */
static enum status load_part(struct loader *l, const struct matrix_load *f, uint32_t i,
                             uint32_t n_first)
{
    const uint32_t rows = f->parts[i].rows;
    const struct safetensors_tensor *t = NULL;
    enum ops_dtype dtype = OPS_F32;
    char name[160];
    if (l->opts->dummy)
        return *f->w != NULL ? load_dummy_matrix(l, f, rows, n_first) : ST_OK;
    part_name(f, i, "weight", name);
    enum status st = loader_find(l, name, rows, f->k, &t);
    if (st == ST_OK && !loader_dtype(t->dtype, f->scaling != OPS_SCALE_NONE, &dtype))
        st = loader_dtype_error(l, t);
    if (st != ST_OK || *f->w == NULL)
        return st;
    st = pack_rows(l, f, t->data, dtype, rows, n_first);
    if (st != ST_OK)
        return text_error_set(l->err, st, "%s: tensor %s cannot be packed", l->opts->dir, name);
    loader_progress(l, (uint64_t)rows * f->k);
    return ST_OK;
}

static enum status load_bias(struct loader *l, const struct matrix_load *f, uint32_t i,
                             uint32_t n_first)
{
    char name[160];
    part_name(f, i, "bias", name);
    return loader_vector(l, name, *f->w_bias != NULL ? *f->w_bias + n_first : NULL,
                         f->parts[i].rows, 0.0f);
}

enum status loader_matrix(struct loader *l, struct matrix_load *f)
{
    uint32_t first = 0;
    for (uint32_t i = 0; i < f->n_parts; i++)
        f->n += f->parts[i].rows;
    enum status st = matrix_describe(l, f);
    if (st == ST_OK)
        st = matrix_alloc(l, f);
    if (st == ST_OK && f->scaling != OPS_SCALE_NONE)
        st = load_scales(l, f);
    for (uint32_t i = 0; i < f->n_parts && st == ST_OK; i++) {
        st = load_part(l, f, i, first);
        if (st == ST_OK && f->has_bias)
            st = load_bias(l, f, i, first);
        first += f->parts[i].rows;
    }
    struct device *dev = l->weights->dev;
    if (f->scale == NULL || f->dtype == OPS_F8)
        return st;
    enum status end = dev->ops->sync(dev); /* what was packed has read them */
    dev->ops->free(dev, f->scale);
    return st == ST_OK ? end : st;
}
