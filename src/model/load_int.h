/* Inside of the weight loader: load.c walks over the model, load_matrix.c packs one matrix,
 * load_kv.c reads the scales of the KV cache. */
#ifndef MODEL_LOAD_INT_H
#define MODEL_LOAD_INT_H

#include "model/load.h"
#include "model/safetensors.h"

#define LOADER_CHUNK_BYTES (8u << 20)

/* Memory of the host that the device may still read. */
struct loader_source {
    struct loader_source *next;
    float values[];
};

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
    struct loader_source *sources;
    float *kv_scales; /* one of the sources; NULL: none */
    struct text_error err;
};

/* Memory for weights, counted and given back with them; NULL when it failed, and when only
 * checked. */
void *loader_alloc(struct loader *l, size_t bytes);
bool loader_alloc_failed(const struct loader *l, const void *at);
enum status loader_no_memory(struct loader *l);
void loader_progress(struct loader *l, uint64_t params);

/* n values for a copy to the device, until the end of the load: waiting behind each copy would let
 * the bus stand still. NULL: no memory. */
float *loader_source(struct loader *l, uint64_t n);

/* The tensor of exactly this shape; cols = 0 for a vector. It counts as used. */
enum status loader_find(struct loader *l, const char *name, uint64_t rows, uint64_t cols,
                        const struct safetensors_tensor **out);
void loader_mark_used(struct loader *l, const struct safetensors_tensor *t); /* NULL is fine */
/* False: not a dtype of weights here; loader_dtype_error says so. */
bool loader_dtype(enum safetensors_dtype from, bool with_fp8, enum ops_dtype *out);
enum status loader_dtype_error(struct loader *l, const struct safetensors_tensor *t);
/* Element i of a tensor of that dtype, not fp8, as f32. */
float loader_element(const uint8_t *data, enum ops_dtype dtype, uint64_t i);
/* A vector of n, as f32, to `out`, NULL: only checked. Dummy: `fill` everywhere. */
enum status loader_vector(struct loader *l, const char *name, float *out, uint32_t n, float fill);

/* A part of a packed matrix: a module of the checkpoint, and its rows. */
struct matrix_part {
    const char *name;
    uint32_t rows;
};

/* A packed matrix [n, k] of parts one below the other. */
struct matrix_load {
    const char *prefix; /* of the parts' names: "model.layers.3." */
    const struct matrix_part *parts;
    uint32_t n_parts, n, k;
    bool has_bias;
    bool with_fp8;       /* its tensors may be fp8 */
    bool is_plain_dummy; /* but dummy ones are not */
    void **w;
    float **w_bias, **w_scale; /* w_scale NULL: fp8 does not stay fp8 */
    /* as found in the files */
    enum ops_dtype dtype;     /* of *w */
    enum ops_scaling scaling; /* NONE: the tensors are not fp8 */
    float *scale;             /* memory of the device; NULL without, and when only checked */
};

/* Loads, or only checks, all parts of a matrix with their biases and scales. */
enum status loader_matrix(struct loader *l, struct matrix_load *f);
/* What the files' scales become for gemm. */
enum ops_scaling loader_scaling(const struct model_desc *desc);

/* Reads the scales of the KV cache when it will be fp8; otherwise only knows them for a part of the
 * model. */
enum status loader_kv_scales(struct loader *l);

#endif
