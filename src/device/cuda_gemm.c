/* GEMM by cuBLASLt, which is loaded when a CUDA device is opened: a machine without a GPU needs
 * neither the library nor the time to map it. See cuda_gemm_int.h. Engine thread. */
#include "device/cuda_gemm_int.h"

#include "observe/log.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SMALL_TILES_ROWS_MAX 256u /* tried with fp8 up to so many rows */

enum status lt_status(cublasStatus_t rc, const char *what)
{
    if (rc == CUBLAS_STATUS_SUCCESS)
        return ST_OK;
    if (rc == CUBLAS_STATUS_NOT_SUPPORTED)
        return ST_UNSUPPORTED; /* there may be another way */
    log_error("cuBLASLt failed", LOG_STR("call", what), LOG_I64("status", (int)rc));
    return rc == CUBLAS_STATUS_ALLOC_FAILED ? ST_NO_MEMORY : ST_INTERNAL;
}

/* ---- shapes ---- */

static cudaDataType_t lt_type(uint32_t dtype)
{
    switch (dtype) {
    case OPS_F32:
        return CUDA_R_32F;
    case OPS_BF16:
        return CUDA_R_16BF;
    case OPS_F8:
        return CUDA_R_8F_E4M3;
    default:
        return CUDA_R_16F;
    }
}

static void objects_destroy(const struct cuda_lt *lt, struct lt_objects *o)
{
    if (o->y != NULL)
        lt->cublasLtMatrixLayoutDestroy(o->y);
    if (o->x != NULL)
        lt->cublasLtMatrixLayoutDestroy(o->x);
    if (o->w != NULL)
        lt->cublasLtMatrixLayoutDestroy(o->w);
    if (o->op != NULL)
        lt->cublasLtMatmulDescDestroy(o->op);
    *o = (struct lt_objects){0};
}

/* Sums of e4m3 products in the tensor cores' own precision: its error (1e-3 of the result at 2048
 * terms, 3e-3 at 14336) is far below what rounding x to e4m3 costs (3e-2), and it is faster. Any
 * change here and in objects_make raises LT_SETTINGS_VERSION. */
static cublasStatus_t f8_describe(const struct cuda_lt *lt, const struct lt_key *key,
                                  bool is_scaled, cublasLtMatmulDesc_t op)
{
    const bool is_block = key->scaling == OPS_SCALE_BLOCK;
    const int8_t is_fast = !is_block;
    const int32_t w_mode = is_block ? CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F
                                    : CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
    const int32_t x_mode = is_block ? CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F : w_mode;
    const void *scale = lt->f8.x_scale; /* of some kind; each call sets its own */
    const struct {
        cublasLtMatmulDescAttributes_t name;
        const void *value;
        size_t bytes;
    } settings[] = {
        {CUBLASLT_MATMUL_DESC_FAST_ACCUM, &is_fast, sizeof(is_fast)},
        {CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &w_mode, sizeof(w_mode)},
        {CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &x_mode, sizeof(x_mode)},
        {CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &scale, sizeof(scale)},
        {CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &scale, sizeof(scale)},
    };
    const size_t n = is_scaled ? sizeof(settings) / sizeof(settings[0]) : 1;
    cublasStatus_t rc = CUBLAS_STATUS_SUCCESS;
    for (size_t i = 0; i < n && rc == CUBLAS_STATUS_SUCCESS; i++)
        rc = lt->cublasLtMatmulDescSetAttribute(op, settings[i].name, settings[i].value,
                                                settings[i].bytes);
    return rc;
}

static cublasStatus_t objects_make(const struct cuda_lt *lt, const struct lt_key *key,
                                   bool is_scaled, struct lt_objects *out)
{
    const cublasOperation_t transpose = CUBLAS_OP_T;
    const cudaDataType_t in = lt_type(key->w_dtype), y = lt_type(key->y_dtype);
    struct lt_objects o = {0};
    cublasStatus_t rc = lt->cublasLtMatmulDescCreate(&o.op, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    if (rc == CUBLAS_STATUS_SUCCESS)
        rc = lt->cublasLtMatmulDescSetAttribute(o.op, CUBLASLT_MATMUL_DESC_TRANSA, &transpose,
                                                sizeof(transpose));
    if (rc == CUBLAS_STATUS_SUCCESS && key->w_dtype == OPS_F8)
        rc = f8_describe(lt, key, is_scaled, o.op);
    if (rc == CUBLAS_STATUS_SUCCESS)
        rc = lt->cublasLtMatrixLayoutCreate(&o.w, in, key->k, key->n, key->k);
    if (rc == CUBLAS_STATUS_SUCCESS)
        rc = lt->cublasLtMatrixLayoutCreate(&o.x, in, key->k, 1, key->k);
    if (rc == CUBLAS_STATUS_SUCCESS)
        rc = lt->cublasLtMatrixLayoutCreate(&o.y, y, key->n, 1, key->n);
    if (rc == CUBLAS_STATUS_SUCCESS)
        *out = o;
    else
        objects_destroy(lt, &o);
    return rc;
}

static void shape_destroy(const struct cuda_lt *lt, struct lt_shape *shape)
{
    objects_destroy(lt, &shape->objects);
    objects_destroy(lt, &shape->unscaled);
    free(shape);
}

/* A free place, or, with more shapes than any model has, one that is made free. */
static struct lt_shape **shape_place(struct cuda_lt *lt)
{
    if (lt->n_shapes < LT_SHAPES_MAX)
        return &lt->shapes[lt->n_shapes++];
    while (lt->shapes[lt->next_shape]->is_kept)
        lt->next_shape = (lt->next_shape + 1) % LT_SHAPES_MAX;
    struct lt_shape **place = &lt->shapes[lt->next_shape];
    shape_destroy(lt, *place);
    lt->next_shape = (lt->next_shape + 1) % LT_SHAPES_MAX;
    return place;
}

enum status lt_shape_get(struct cuda_lt *lt, const struct gemm_args *args,
                         struct lt_shape **out_shape)
{
    const struct lt_key key = {args->n, args->k, args->w_dtype, args->y_dtype, args->w_scaling};
    for (uint32_t i = 0; i < lt->n_shapes; i++)
        if (memcmp(&lt->shapes[i]->key, &key, sizeof(key)) == 0) {
            *out_shape = lt->shapes[i];
            return ST_OK;
        }
    struct lt_shape *shape = calloc(1, sizeof(*shape));
    if (shape == NULL)
        return ST_NO_MEMORY;
    shape->key = key;
    *shape_place(lt) = shape;
    *out_shape = shape;
    return ST_OK;
}

/* ---- algorithms ---- */

/* Makes the objects if need be, and sets rows and strides in them. */
static cublasStatus_t objects_set(struct cuda_lt *lt, struct lt_shape *shape, bool is_scaled,
                                  const struct lt_call *call)
{
    struct lt_objects *o = is_scaled ? &shape->objects : &shape->unscaled;
    const uint64_t rows = call->rows;
    cublasStatus_t rc = CUBLAS_STATUS_SUCCESS;
    if (o->op == NULL)
        rc = objects_make(lt, &shape->key, is_scaled, o);
    const struct {
        cublasLtMatrixLayout_t layout;
        int64_t stride;
    } sized[] = {{o->x, (int64_t)call->x_stride}, {o->y, (int64_t)call->y_stride}};
    for (uint32_t i = 0; i < 2 && rc == CUBLAS_STATUS_SUCCESS; i++) {
        rc = lt->cublasLtMatrixLayoutSetAttribute(sized[i].layout, CUBLASLT_MATRIX_LAYOUT_COLS,
                                                  &rows, sizeof(rows));
        if (rc == CUBLAS_STATUS_SUCCESS)
            rc = lt->cublasLtMatrixLayoutSetAttribute(sized[i].layout, CUBLASLT_MATRIX_LAYOUT_LD,
                                                      &sized[i].stride, sizeof(sized[i].stride));
    }
    return rc;
}

/* What the library thinks best. */
static uint32_t favourites(struct cuda_lt *lt, struct lt_shape *shape, bool is_scaled,
                           const struct lt_call *call, cublasLtMatmulHeuristicResult_t *out)
{
    const struct lt_objects *o = is_scaled ? &shape->objects : &shape->unscaled;
    int n = 0;
    lt->n_searches++;
    if (objects_set(lt, shape, is_scaled, call) != CUBLAS_STATUS_SUCCESS ||
        lt->cublasLtMatmulAlgoGetHeuristic(lt->handle, o->op, o->w, o->x, o->y, o->y,
                                           lt->preference, (int)LT_CANDIDATES_MAX, out,
                                           &n) != CUBLAS_STATUS_SUCCESS)
        return 0;
    return (uint32_t)n;
}

/* The objects are set for the rows. */
static bool is_possible(const struct cuda_lt *lt, const struct lt_objects *o,
                        const cublasLtMatmulAlgo_t *algo)
{
    cublasLtMatmulHeuristicResult_t result;
    return lt->cublasLtMatmulAlgoCheck(lt->handle, o->op, o->w, o->x, o->y, o->y, algo, &result) ==
               CUBLAS_STATUS_SUCCESS &&
           result.workspaceSize <= LT_WORKSPACE_BYTES;
}

/* The algorithm with other tiles, if the library takes it, behind the n choices in out. */
static uint32_t tile_add(const struct cuda_lt *lt, const struct lt_objects *o,
                         const cublasLtMatmulAlgo_t *algo, uint32_t tile, uint16_t cluster,
                         struct lt_choice *out, uint32_t n)
{
    struct lt_choice choice = {.algo = *algo, .origin = LT_GUESSED};
    const bool is_set =
        lt->cublasLtMatmulAlgoConfigSetAttribute(&choice.algo, CUBLASLT_ALGO_CONFIG_TILE_ID, &tile,
                                                 sizeof(tile)) == CUBLAS_STATUS_SUCCESS &&
        lt->cublasLtMatmulAlgoConfigSetAttribute(&choice.algo,
                                                 CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, &cluster,
                                                 sizeof(cluster)) == CUBLAS_STATUS_SUCCESS;
    for (uint32_t i = 0; i < n; i++)
        if (memcmp(&out[i].algo, &choice.algo, sizeof(choice.algo)) == 0)
            return n;
    if (!is_set || !is_possible(lt, o, &choice.algo))
        return n;
    out[n] = choice;
    return n + 1;
}

/* Tiles of an algorithm that does not split k. */
static bool tile_of(const struct cuda_lt *lt, const cublasLtMatmulAlgo_t *algo, uint32_t *out_tile,
                    uint16_t *out_cluster)
{
    int32_t n_splits = 0;
    size_t bytes = 0;
    return lt->cublasLtMatmulAlgoConfigGetAttribute(algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM,
                                                    &n_splits, sizeof(n_splits),
                                                    &bytes) == CUBLAS_STATUS_SUCCESS &&
           lt->cublasLtMatmulAlgoConfigGetAttribute(algo, CUBLASLT_ALGO_CONFIG_TILE_ID, out_tile,
                                                    sizeof(*out_tile),
                                                    &bytes) == CUBLAS_STATUS_SUCCESS &&
           lt->cublasLtMatmulAlgoConfigGetAttribute(algo, CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID,
                                                    out_cluster, sizeof(*out_cluster),
                                                    &bytes) == CUBLAS_STATUS_SUCCESS &&
           n_splits <= 1;
}

/* With scales in the product the library names one algorithm, of large tiles, whatever the rows. It
 * runs with others too: those it names for the product without scales, and small ones. Not all that
 * it takes are right (with scales of blocks, tiles over two blocks are not), so that their results
 * have to be compared with those of the first. */
static uint32_t tiles_add(struct cuda_lt *lt, struct lt_shape *shape, const struct lt_call *call,
                          uint32_t n_max, struct lt_choice *out, uint32_t n)
{
    static const uint32_t small[] = {CUBLASLT_MATMUL_TILE_64x16,  CUBLASLT_MATMUL_TILE_64x24,
                                     CUBLASLT_MATMUL_TILE_64x32,  CUBLASLT_MATMUL_TILE_64x64,
                                     CUBLASLT_MATMUL_TILE_128x32, CUBLASLT_MATMUL_TILE_128x64};
    cublasLtMatmulHeuristicResult_t hints[LT_CANDIDATES_MAX];
    const cublasLtMatmulAlgo_t own = out[0].algo;
    const uint32_t n_hints = favourites(lt, shape, false, call, hints);
    uint32_t tile = 0;
    uint16_t cluster = 0;
    for (uint32_t i = 0; i < n_hints && n < n_max; i++)
        if (tile_of(lt, &hints[i].algo, &tile, &cluster))
            n = tile_add(lt, &shape->objects, &own, tile, cluster, out, n);
    for (uint32_t i = 0; i < sizeof(small) / sizeof(small[0]) && n < n_max; i++)
        if (call->rows <= SMALL_TILES_ROWS_MAX)
            n = tile_add(lt, &shape->objects, &own, small[i], CUBLASLT_CLUSTER_SHAPE_1x1x1, out, n);
    return n;
}

/* For rows that lie call->x_stride and y_stride apart; the library's own favourite is the first. */
static uint32_t candidates(struct cuda_lt *lt, struct lt_shape *shape, const struct lt_call *call,
                           uint32_t n_max, struct lt_choice *out)
{
    cublasLtMatmulHeuristicResult_t found[LT_CANDIDATES_MAX];
    const bool is_f8 = shape->key.w_dtype == OPS_F8;
    if (is_f8 && shape->key.scaling == OPS_SCALE_NONE)
        return 0;
    const uint32_t n_found = favourites(lt, shape, true, call, found);
    uint32_t n = 0;
    for (; n < n_found && n < n_max; n++)
        out[n] = (struct lt_choice){.algo = found[n].algo, .origin = LT_GUESSED};
    return is_f8 && n > 0 && n < n_max ? tiles_add(lt, shape, call, n_max, out, n) : n;
}

static struct lt_call dense_call(const struct lt_shape *shape, uint32_t rows)
{
    return (struct lt_call){.rows = rows, .x_stride = shape->key.k, .y_stride = shape->key.n};
}

uint32_t lt_candidates(struct cuda_lt *lt, struct lt_shape *shape, uint32_t rows, uint32_t n_max,
                       struct lt_choice *out)
{
    const struct lt_call call = dense_call(shape, rows);
    return candidates(lt, shape, &call, n_max, out);
}

/* The library's favourite; without one, and with fp8, LT_WIDE. */
const struct lt_choice *lt_choice_get(struct cuda_lt *lt, struct lt_shape *shape, uint32_t rows)
{
    const uint32_t bucket = gemm_bucket(rows);
    struct lt_choice *choice = &shape->choices[bucket];
    if (choice->origin == LT_UNKNOWN &&
        lt_candidates(lt, shape, gemm_bucket_top(bucket), 1, choice) == 0 &&
        shape->key.w_dtype == OPS_F8)
        *choice = (struct lt_choice){.way = LT_WIDE, .origin = LT_GUESSED};
    return choice;
}

bool lt_choice_fits(struct cuda_lt *lt, struct lt_shape *shape, const struct lt_choice *choice,
                    uint32_t rows)
{
    const struct lt_call call = dense_call(shape, rows);
    const bool is_f8 = shape->key.w_dtype == OPS_F8;
    if (choice->way == LT_WIDE)
        return is_f8;
    return (!is_f8 || shape->key.scaling != OPS_SCALE_NONE) &&
           objects_set(lt, shape, true, &call) == CUBLAS_STATUS_SUCCESS &&
           is_possible(lt, &shape->objects, &choice->algo);
}

/* ---- products ---- */

static cublasStatus_t scales_set(struct cuda_lt *lt, const struct lt_objects *o,
                                 const struct lt_call *call)
{
    cublasStatus_t rc = lt->cublasLtMatmulDescSetAttribute(
        o->op, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &call->w_scale, sizeof(call->w_scale));
    return rc == CUBLAS_STATUS_SUCCESS
               ? lt->cublasLtMatmulDescSetAttribute(o->op, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER,
                                                    &call->x_scale, sizeof(call->x_scale))
               : rc;
}

cublasStatus_t lt_matmul(struct cuda_lt *lt, struct lt_shape *shape, const struct lt_choice *choice,
                         const struct lt_call *call)
{
    const float one = 1.0f, zero = 0.0f;
    const struct lt_objects *o = &shape->objects;
    if (choice->origin == LT_UNKNOWN || choice->way != LT_DIRECT)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    cublasStatus_t rc = objects_set(lt, shape, true, call);
    if (rc == CUBLAS_STATUS_SUCCESS && call->w_scale != NULL)
        rc = scales_set(lt, o, call);
    return rc == CUBLAS_STATUS_SUCCESS
               ? lt->cublasLtMatmul(lt->handle, o->op, &one, call->w, o->w, call->x, o->x, &zero,
                                    call->y, o->y, call->y, o->y, &choice->algo, lt->workspace,
                                    LT_WORKSPACE_BYTES, lt->stream)
               : rc;
}

/* An algorithm found for a bucket may not do every number of rows in it, or these strides. */
enum status lt_exact_gemm(struct cuda_lt *lt, struct lt_shape *shape, const struct lt_call *call)
{
    cublasStatus_t rc = CUBLAS_STATUS_NOT_SUPPORTED;
    if (shape->exact_rows == call->rows)
        rc = lt_matmul(lt, shape, &shape->exact, call);
    if (rc == CUBLAS_STATUS_NOT_SUPPORTED) {
        shape->exact_rows = 0;
        if (candidates(lt, shape, call, 1, &shape->exact) == 0)
            return ST_UNSUPPORTED;
        shape->exact_rows = call->rows;
        rc = lt_matmul(lt, shape, &shape->exact, call);
    }
    return lt_status(rc, "gemm");
}

enum status lt_plain_gemm(struct cuda_lt *lt, const struct gemm_args *a)
{
    struct lt_shape *shape = NULL;
    const struct lt_call call = {.w = a->w,
                                 .x = a->x,
                                 .y = a->y,
                                 .x_stride = a->x_stride,
                                 .y_stride = a->y_stride,
                                 .rows = a->n_rows};
    enum status st = lt_shape_get(lt, a, &shape);
    if (st == ST_OK)
        st = lt_status(lt_matmul(lt, shape, lt_choice_get(lt, shape, a->n_rows), &call), "gemm");
    return st == ST_UNSUPPORTED ? lt_exact_gemm(lt, shape, &call) : st;
}

enum status cuda_lt_gemm(struct cuda_lt *lt, const struct gemm_args *a)
{
    enum status st = a->w_dtype == OPS_F8 ? lt_f8_gemm(lt, a) : lt_plain_gemm(lt, a);
    if (st == ST_UNSUPPORTED)
        log_error("cuBLASLt has no algorithm", LOG_U64("rows", a->n_rows), LOG_U64("n", a->n),
                  LOG_U64("k", a->k));
    return st;
}

uint64_t cuda_lt_searches(const struct cuda_lt *lt)
{
    return lt->n_searches;
}

/* ---- open and close ---- */

void cuda_lt_close(struct cuda_lt *lt)
{
    if (lt == NULL)
        return;
    for (uint32_t i = 0; i < lt->n_shapes; i++)
        shape_destroy(lt, lt->shapes[i]);
    if (lt->preference != NULL)
        lt->cublasLtMatmulPreferenceDestroy(lt->preference);
    if (lt->handle != NULL)
        lt->cublasLtDestroy(lt->handle);
    lt_f8_deinit(lt);
    cudaFree(lt->workspace);
    if (lt->library != NULL)
        dlclose(lt->library);
    free(lt);
}

static bool functions_find(struct cuda_lt *lt)
{
    bool found = true;
    void *symbol;
#define F(name)                                                                                    \
    symbol = dlsym(lt->library, #name);                                                            \
    found = found && symbol != NULL;                                                               \
    memcpy(&lt->name, &symbol, sizeof(symbol));
    LT_FUNCTIONS(F)
#undef F
    return found;
}

static bool library_start(struct cuda_lt *lt)
{
    const size_t space = LT_WORKSPACE_BYTES;
    return lt->cublasLtCreate(&lt->handle) == CUBLAS_STATUS_SUCCESS &&
           lt->cublasLtMatmulPreferenceCreate(&lt->preference) == CUBLAS_STATUS_SUCCESS &&
           lt->cublasLtMatmulPreferenceSetAttribute(
               lt->preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &space, sizeof(space)) ==
               CUBLAS_STATUS_SUCCESS &&
           cudaMalloc(&lt->workspace, LT_WORKSPACE_BYTES) == cudaSuccess;
}

enum status cuda_lt_open(cudaStream_t stream, struct cuda_lt **out_lt, char *out_why,
                         size_t why_bytes)
{
    struct cuda_lt *lt = calloc(1, sizeof(*lt));
    if (lt == NULL)
        return ST_NO_MEMORY;
    char name[32];
    snprintf(name, sizeof(name), "libcublasLt.so.%d", CUBLAS_VER_MAJOR);
    lt->stream = stream;
    lt->library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (lt->library == NULL || !functions_find(lt)) {
        snprintf(out_why, why_bytes, "%s of CUDA %d cannot be loaded: %s", name,
                 CUDART_VERSION / 1000,
                 lt->library == NULL ? dlerror() : "a function is missing in it");
        cuda_lt_close(lt);
        return ST_UNSUPPORTED;
    }
    if (!library_start(lt)) {
        snprintf(out_why, why_bytes, "cuBLASLt cannot be started: out of device memory?");
        cuda_lt_close(lt);
        return ST_NO_MEMORY;
    }
    *out_lt = lt;
    return ST_OK;
}
