/* GEMM by cuBLASLt, which is loaded when a CUDA device is opened: a machine without a GPU needs
 * neither the library nor the time to map it.
 *
 * A row-major y[m, n] = x[m, k] w[n, k]^T is, column by column, y' (n x m) = w'^T (n x k) x' (k x
 * m). An algorithm is chosen once for each bucket of rows and kept. */
#include "device/cuda_int.h"

#include "observe/log.h"

#include <cublasLt.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LT_WORKSPACE_BYTES (64u << 20)
#define LT_CHOICES_MAX     1024u

#define LT_FUNCTIONS(F)                                                                            \
    F(cublasLtCreate)                                                                              \
    F(cublasLtDestroy)                                                                             \
    F(cublasLtMatmul)                                                                              \
    F(cublasLtMatmulAlgoGetHeuristic)                                                              \
    F(cublasLtMatmulDescCreate)                                                                    \
    F(cublasLtMatmulDescDestroy)                                                                   \
    F(cublasLtMatmulDescSetAttribute)                                                              \
    F(cublasLtMatrixLayoutCreate)                                                                  \
    F(cublasLtMatrixLayoutDestroy)                                                                 \
    F(cublasLtMatmulPreferenceCreate)                                                              \
    F(cublasLtMatmulPreferenceDestroy)                                                             \
    F(cublasLtMatmulPreferenceSetAttribute)

/* What decides which algorithm is good. */
struct lt_key {
    uint32_t rows, is_exact; /* of the bucket; is_exact: of this very number */
    uint32_t n, k, w_dtype, y_dtype;
};

struct lt_choice {
    struct lt_key key;
    cublasLtMatmulAlgo_t algo;
};

struct cuda_lt {
#define F(name) __typeof__(&name) name;
    LT_FUNCTIONS(F)
#undef F
    void *library;
    cublasLtHandle_t handle;
    cudaStream_t stream;
    void *workspace;
    struct lt_choice choices[LT_CHOICES_MAX];
    uint32_t n_choices;
};

struct lt_problem {
    cublasLtMatmulDesc_t op;
    cublasLtMatrixLayout_t w, x, y;
};

static cudaDataType_t lt_type(enum ops_dtype dtype)
{
    return dtype == OPS_F32 ? CUDA_R_32F : dtype == OPS_BF16 ? CUDA_R_16BF : CUDA_R_16F;
}

static enum status lt_status(cublasStatus_t rc, const char *what)
{
    if (rc == CUBLAS_STATUS_SUCCESS)
        return ST_OK;
    log_error("cuBLASLt failed", LOG_STR("call", what), LOG_I64("status", (int)rc));
    return rc == CUBLAS_STATUS_ALLOC_FAILED ? ST_NO_MEMORY : ST_INTERNAL;
}

static void problem_destroy(const struct cuda_lt *lt, struct lt_problem *p)
{
    if (p->y != NULL)
        lt->cublasLtMatrixLayoutDestroy(p->y);
    if (p->x != NULL)
        lt->cublasLtMatrixLayoutDestroy(p->x);
    if (p->w != NULL)
        lt->cublasLtMatrixLayoutDestroy(p->w);
    if (p->op != NULL)
        lt->cublasLtMatmulDescDestroy(p->op);
}

static enum status problem_make(const struct cuda_lt *lt, const struct gemm_args *a, uint32_t rows,
                                struct lt_problem *out)
{
    cublasOperation_t transpose = CUBLAS_OP_T;
    *out = (struct lt_problem){0};
    cublasStatus_t rc = lt->cublasLtMatmulDescCreate(&out->op, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    if (rc == CUBLAS_STATUS_SUCCESS)
        rc = lt->cublasLtMatmulDescSetAttribute(out->op, CUBLASLT_MATMUL_DESC_TRANSA, &transpose,
                                                sizeof(transpose));
    if (rc == CUBLAS_STATUS_SUCCESS)
        rc = lt->cublasLtMatrixLayoutCreate(&out->w, lt_type(a->w_dtype), a->k, a->n, a->k);
    if (rc == CUBLAS_STATUS_SUCCESS)
        rc = lt->cublasLtMatrixLayoutCreate(&out->x, lt_type(a->x_dtype), a->k, rows,
                                            (int64_t)a->x_stride);
    if (rc == CUBLAS_STATUS_SUCCESS)
        rc = lt->cublasLtMatrixLayoutCreate(&out->y, lt_type(a->y_dtype), a->n, rows,
                                            (int64_t)a->y_stride);
    if (rc != CUBLAS_STATUS_SUCCESS)
        problem_destroy(lt, out);
    return lt_status(rc, "describe");
}

/* Eight buckets an octave from 16 rows on. */
static uint32_t bucket_of(uint32_t rows)
{
    uint32_t step = 2;
    while (step * 16 < rows)
        step *= 2;
    return (rows + step - 1) / step * step;
}

static enum status choose(struct cuda_lt *lt, const struct gemm_args *a, uint32_t rows,
                          cublasLtMatmulAlgo_t *out)
{
    struct lt_problem p;
    cublasLtMatmulPreference_t preference = NULL;
    cublasLtMatmulHeuristicResult_t found;
    size_t space = LT_WORKSPACE_BYTES;
    int n_found = 0;
    enum status st = problem_make(lt, a, rows, &p);
    if (st != ST_OK)
        return st;
    cublasStatus_t rc = lt->cublasLtMatmulPreferenceCreate(&preference);
    if (rc == CUBLAS_STATUS_SUCCESS)
        rc = lt->cublasLtMatmulPreferenceSetAttribute(
            preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &space, sizeof(space));
    if (rc == CUBLAS_STATUS_SUCCESS)
        rc = lt->cublasLtMatmulAlgoGetHeuristic(lt->handle, p.op, p.w, p.x, p.y, p.y, preference, 1,
                                                &found, &n_found);
    if (rc == CUBLAS_STATUS_SUCCESS && n_found == 0)
        rc = CUBLAS_STATUS_NOT_SUPPORTED;
    if (rc == CUBLAS_STATUS_SUCCESS)
        *out = found.algo;
    if (preference != NULL)
        lt->cublasLtMatmulPreferenceDestroy(preference);
    problem_destroy(lt, &p);
    return lt_status(rc, "choose an algorithm");
}

/* The algorithm for this bucket, or for just so many rows; chosen at its first use. */
static enum status algo_get(struct cuda_lt *lt, const struct gemm_args *a, bool is_exact,
                            const cublasLtMatmulAlgo_t **out)
{
    struct lt_key key = {
        is_exact ? a->n_rows : bucket_of(a->n_rows), is_exact, a->n, a->k, a->w_dtype, a->y_dtype};
    for (uint32_t i = 0; i < lt->n_choices; i++)
        if (memcmp(&lt->choices[i].key, &key, sizeof(key)) == 0) {
            *out = &lt->choices[i].algo;
            return ST_OK;
        }
    if (lt->n_choices == LT_CHOICES_MAX)
        lt->n_choices = 0; /* more shapes than any model has: begin anew */
    struct lt_choice *c = &lt->choices[lt->n_choices];
    enum status st = choose(lt, a, key.rows, &c->algo);
    if (st != ST_OK)
        return st;
    c->key = key;
    lt->n_choices++;
    *out = &c->algo;
    return ST_OK;
}

static enum status matmul(struct cuda_lt *lt, const struct gemm_args *a, bool is_exact,
                          cublasStatus_t *out_rc)
{
    const float one = 1.0f, zero = 0.0f;
    const cublasLtMatmulAlgo_t *algo = NULL;
    struct lt_problem p;
    enum status st = algo_get(lt, a, is_exact, &algo);
    if (st == ST_OK)
        st = problem_make(lt, a, a->n_rows, &p);
    if (st != ST_OK)
        return st;
    *out_rc = lt->cublasLtMatmul(lt->handle, p.op, &one, a->w, p.w, a->x, p.x, &zero, a->y, p.y,
                                 a->y, p.y, algo, lt->workspace, LT_WORKSPACE_BYTES, lt->stream);
    problem_destroy(lt, &p);
    return ST_OK;
}

/* An algorithm found for a bucket may not do every number of rows in it. */
enum status cuda_lt_gemm(struct cuda_lt *lt, const struct gemm_args *a)
{
    cublasStatus_t rc = CUBLAS_STATUS_SUCCESS;
    enum status st = matmul(lt, a, false, &rc);
    if (st == ST_OK && rc == CUBLAS_STATUS_NOT_SUPPORTED)
        st = matmul(lt, a, true, &rc);
    return st == ST_OK ? lt_status(rc, "gemm") : st;
}

void cuda_lt_close(struct cuda_lt *lt)
{
    if (lt == NULL)
        return;
    if (lt->handle != NULL)
        lt->cublasLtDestroy(lt->handle);
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
    if (lt->cublasLtCreate(&lt->handle) != CUBLAS_STATUS_SUCCESS ||
        cudaMalloc(&lt->workspace, LT_WORKSPACE_BYTES) != cudaSuccess) {
        snprintf(out_why, why_bytes, "cuBLASLt cannot be started: out of device memory?");
        cuda_lt_close(lt);
        return ST_NO_MEMORY;
    }
    *out_lt = lt;
    return ST_OK;
}
