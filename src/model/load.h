/* Weights of a model on a device: which tensors, of what shape, packed how.
 *
 * q, k and v stand in one packed matrix, gate and up in another, so that a layer needs four GEMMs.
 * Norm weights and biases are f32. The embedding table is the packed matrix of the head when the
 * two are tied.
 *
 * Matrices that the checkpoint has in fp8 (e4m3) stay so where the device multiplies them and the
 * caller wants it (keep_fp8), with their scales beside them; one scale for a tensor becomes one for
 * each of its rows. Otherwise they are dequantised when they are packed, and so is a head in fp8.
 * Engine thread. */
#ifndef MODEL_LOAD_H
#define MODEL_LOAD_H

#include "device/device.h"
#include "model/desc.h"

struct model_layer {
    float *attn_norm, *mlp_norm; /* [hidden] */
    float *q_norm, *k_norm;      /* [head_dim], NULL without qk_norm */
    void *qkv;                   /* packed [(n_heads + 2 n_kv_heads) * head_dim, hidden] */
    void *o;                     /* packed [hidden, n_heads * head_dim] */
    void *gate_up;               /* packed [2 * intermediate, hidden] */
    void *down;                  /* packed [hidden, intermediate] */
    float *qkv_bias, *o_bias, *gate_up_bias, *down_bias; /* NULL: none */
    /* Scales as gemm takes them (w_scale), with which the matrix is of matrix_dtype and `scaling`;
     * NULL: it is of `dtype`, without scales. */
    float *qkv_scale, *o_scale, *gate_up_scale, *down_scale;
};

struct model_weights {
    struct device *dev;
    enum ops_dtype dtype;        /* OPS_BF16 or OPS_F32, of the packed matrices */
    enum ops_dtype matrix_dtype; /* OPS_F8 where fp8 is kept, else dtype; of matrices with scales */
    enum ops_scaling scaling;    /* of matrices with scales; NONE where there are none */
    uint32_t n_layers;
    struct model_layer *layers;
    void *embed; /* packed [n_vocab, hidden] */
    void *head;  /* the same, or embed when tied */
    float *final_norm;
    float *kv_scales; /* of an fp8 KV cache, as struct ops_kv_pool has them; NULL: the files have
                         none, or it is not fp8 */
    void **allocs;    /* everything taken from the device */
    uint32_t n_allocs, allocs_max;
};

struct model_load_opts {
    const char *dir;
    bool dummy; /* seeded random weights of the right shapes, no file */
    uint64_t seed;
    enum ops_dtype dtype; /* OPS_BF16 or OPS_F32 */
    bool keep_fp8;        /* device_ops.has_fp8, and wanted; with OPS_BF16 only */
    bool kv_fp8;          /* the KV cache will be fp8: read its scales */
    void (*on_progress)(void *arg, uint32_t permille); /* optional */
    void *progress_arg;
};

/* ST_NOT_FOUND: a tensor or file is missing; ST_INVALID: a tensor has another shape, or is no part
 * of the model; ST_UNSUPPORTED: a tensor's dtype, or parts of one matrix that are
 * quantised differently; ST_NO_MEMORY; else as safetensors_open_dir.
 * out_identity: hash of names, dtypes, shapes and a sample of the contents, and of the scales of
 * the KV cache, where they are read; of seed and dtype when dummy. */
enum status model_load(struct device *dev, const struct model_desc *desc,
                       const struct model_load_opts *opts, struct model_weights *out,
                       uint8_t out_identity[32], struct text_error err);
/* What model_load would do with these weights, without a device and without reading more of the
 * files than their headers: every tensor is there, has the right shape and is part of the model.
 * out_bytes: what the packed weights take on a device. Errors as model_load. */
enum status model_load_check(const struct model_desc *desc, const struct model_load_opts *opts,
                             uint64_t *out_bytes, struct text_error err);
void model_weights_deinit(struct model_weights *weights);

#endif
