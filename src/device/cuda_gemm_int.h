/* Inside of cuBLASLt's part of the CUDA device: cuda_gemm.c opens the library and multiplies,
 * cuda_gemm_f8.c does so with fp8 weights, cuda_gemm_tune.c finds the best algorithms.
 *
 * A row-major y[m, n] = x[m, k] w[n, k]^T is, column by column, y' (n x m) = w'^T (n x k) x' (k x
 * m): w is the library's A, x its B. What describes a shape is made once; a call sets its rows,
 * strides and scales, and runs. */
#ifndef DEVICE_CUDA_GEMM_INT_H
#define DEVICE_CUDA_GEMM_INT_H

#include "device/cuda_int.h"
#include "device/gemm_cache.h"

#include <cublasLt.h>

#define LT_WORKSPACE_BYTES (64u << 20)
#define LT_SCRATCH_BYTES   (64u << 20) /* with fp8 weights */
#define LT_SHAPES_MAX      64u
#define LT_PREPARED_MAX    32u /* shapes of a model */
#define LT_CANDIDATES_MAX  16u

#define LT_FUNCTIONS(F)                                                                            \
    F(cublasLtCreate)                                                                              \
    F(cublasLtDestroy)                                                                             \
    F(cublasLtGetVersion)                                                                          \
    F(cublasLtMatmul)                                                                              \
    F(cublasLtMatmulAlgoCheck)                                                                     \
    F(cublasLtMatmulAlgoConfigGetAttribute)                                                        \
    F(cublasLtMatmulAlgoConfigSetAttribute)                                                        \
    F(cublasLtMatmulAlgoGetHeuristic)                                                              \
    F(cublasLtMatmulDescCreate)                                                                    \
    F(cublasLtMatmulDescDestroy)                                                                   \
    F(cublasLtMatmulDescSetAttribute)                                                              \
    F(cublasLtMatrixLayoutCreate)                                                                  \
    F(cublasLtMatrixLayoutDestroy)                                                                 \
    F(cublasLtMatrixLayoutSetAttribute)                                                            \
    F(cublasLtMatmulPreferenceCreate)                                                              \
    F(cublasLtMatmulPreferenceDestroy)                                                             \
    F(cublasLtMatmulPreferenceSetAttribute)

/* Raise it with every change to how a product is described to the library (types, scale modes, fast
 * sums, workspace): what was measured before holds no longer (gemm_cache.h). */
#define LT_SETTINGS_VERSION 1u

/* How a product is made. The numbers are in files (gemm_cache.h): never change them.
 * DIRECT  one call of the library, with the scales of fp8 in it
 * WIDE    fp8 by way of bf16, for what the library refuses */
enum lt_way { LT_DIRECT = 0, LT_WIDE = 1, LT_WAYS = 2 };

/* What a shape is to the library, but for rows and strides. */
struct lt_objects {
    cublasLtMatmulDesc_t op;
    cublasLtMatrixLayout_t w, x, y;
};

enum lt_origin { LT_UNKNOWN = 0, LT_GUESSED, LT_MEASURED };

struct lt_choice {
    cublasLtMatmulAlgo_t algo;
    enum lt_way way;
    enum lt_origin origin;
    uint32_t time_ns; /* when measured */
};

struct lt_key {
    uint32_t n, k, w_dtype, y_dtype, scaling;
};

struct lt_shape {
    struct lt_key key;
    struct lt_objects objects;
    struct lt_objects unscaled; /* fp8: the same without scales, which is only asked about */
    struct lt_choice choices[GEMM_BUCKETS];
    struct lt_choice exact; /* for just exact_rows, where the bucket's cannot do them */
    uint32_t exact_rows;
    bool is_kept; /* of a model in use: never makes room for another */
};

/* Memory for products with fp8 weights. */
struct lt_f8 {
    void *x;        /* [rows, k] e4m3 */
    float *x_scale; /* as cuda_quant_rows makes them */
    float *w_scale; /* those of blocks, with rows of a multiple of 4, as the library reads them */
    void *scratch;  /* [LT_SCRATCH_BYTES] results of padded rows, or weights as bf16 */
    size_t x_bytes, n_x_scales, n_w_scales;
};

struct cuda_lt {
#define F(name) __typeof__(&name) name;
    LT_FUNCTIONS(F)
#undef F
    void *library;
    cublasLtHandle_t handle;
    cublasLtMatmulPreference_t preference;
    cudaStream_t stream;
    void *workspace;
    struct lt_shape *shapes[LT_SHAPES_MAX];
    uint32_t n_shapes, n_kept;
    uint32_t next_shape; /* to go when all places are taken */
    struct lt_f8 f8;
    uint64_t n_searches;
};

/* One product, in the library's dtypes. */
struct lt_call {
    const void *w, *x;
    const float *w_scale, *x_scale; /* fp8 */
    void *y;
    uint64_t x_stride, y_stride;
    uint32_t rows;
};

/* Logs an error. Not CUBLAS_STATUS_NOT_SUPPORTED, which is ST_UNSUPPORTED: there may be another
 * way. */
enum status lt_status(cublasStatus_t rc, const char *what);
/* Finds or makes the shape of the args. ST_NO_MEMORY. */
enum status lt_shape_get(struct cuda_lt *lt, const struct gemm_args *args,
                         struct lt_shape **out_shape);
/* Algorithms for LT_DIRECT with `rows` rows, the library's favourite first; 0: none. With fp8 the
 * others may be wrong: compare. */
uint32_t lt_candidates(struct cuda_lt *lt, struct lt_shape *shape, uint32_t rows, uint32_t n_max,
                       struct lt_choice *out);
/* The choice for the bucket of `rows`, guessed now if there is none. */
const struct lt_choice *lt_choice_get(struct cuda_lt *lt, struct lt_shape *shape, uint32_t rows);
/* Whether the algorithm can do `rows` rows of the shape. */
bool lt_choice_fits(struct cuda_lt *lt, struct lt_shape *shape, const struct lt_choice *choice,
                    uint32_t rows);
/* Puts it on the stream. CUBLAS_STATUS_NOT_SUPPORTED: that algorithm cannot do it. */
cublasStatus_t lt_matmul(struct cuda_lt *lt, struct lt_shape *shape, const struct lt_choice *choice,
                         const struct lt_call *call);

/* The same with an algorithm sought for just this call's rows and strides, if need be.
 * ST_UNSUPPORTED: there is none. */
enum status lt_exact_gemm(struct cuda_lt *lt, struct lt_shape *shape, const struct lt_call *call);
/* x and w of one dtype. */
enum status lt_plain_gemm(struct cuda_lt *lt, const struct gemm_args *args);

/* ---- cuda_gemm_f8.c ---- */

enum status lt_f8_gemm(struct cuda_lt *lt, const struct gemm_args *args);
/* Parts of it, for measuring: x as e4m3; then the product by LT_DIRECT. `rows` as the library has
 * them, a multiple of 4 with OPS_SCALE_BLOCK. choice NULL: as lt_exact_gemm. */
enum status lt_f8_quant(struct cuda_lt *lt, const struct gemm_args *args, uint32_t rows);
enum status lt_f8_multiply(struct cuda_lt *lt, struct lt_shape *shape,
                           const struct lt_choice *choice, const struct gemm_args *args,
                           uint32_t rows, void *y, uint64_t y_stride);
void lt_f8_deinit(struct cuda_lt *lt);

#endif
