/* Inside of the CUDA device: cuda.c has memory and ops, cuda_gemm.c what cuBLASLt computes,
 * cuda_upload.c the way of weights from the host. */
#ifndef DEVICE_CUDA_INT_H
#define DEVICE_CUDA_INT_H

#include "device/allocs.h"
#include "device/device.h"
#include "kernels/cuda/cuda_ops.h"

struct cuda_lt;
struct thread_pool;

#define CUDA_GRAPHS_MAX 512u

struct cuda_graph {
    uint32_t key;
    cudaGraphExec_t exec; /* NULL: ran once, not recorded yet */
};

/* A thread of an upload: it fills one buffer while the other is sent. */
struct cuda_upload_lane {
    void *buffers[2];    /* of the host */
    void *room;          /* of the GPU: a piece before it is converted */
    cudaEvent_t sent[2]; /* the buffer was read */
    uint32_t n_pieces;
};

#define CUDA_UPLOAD_LANES_MAX 16u

struct cuda_upload {
    uint32_t n_threads; /* wanted; 0: not said */
    uint32_t n_lanes;   /* 0, and all below empty: nothing is being loaded */
    struct cuda_upload_lane lanes[CUDA_UPLOAD_LANES_MAX];
    struct thread_pool *pool; /* of n_lanes */
    void *memory, *rooms;     /* all buffers; all rooms */
    bool is_pinned;
};

struct cuda_device {
    struct device base; /* first */
    int ordinal;
    uint32_t n_sms;
    cudaStream_t stream;
    struct cuda_lt *lt;
    void *gemm_space, *sample_space;
    void *plans[2], *decode_space; /* plans: without a window, with one */
    size_t decode_space_bytes;
    struct cuda_graph graphs[CUDA_GRAPHS_MAX];
    uint32_t n_graphs;
    cudaEvent_t replay_start, replay_end; /* NULL: replays are not timed */
    cudaEvent_t marks[2];
    struct cuda_upload upload;
    struct device_allocs allocs;
};

/* Logs the first error and answers with the status for it. A device that has failed once answers
 * every later call the same. Engine thread. */
enum status cuda_status(cudaError_t rc, const char *what);

/* ---- cuda_upload.c: engine thread ---- */

/* gemm_pack with checked arguments and src in memory of the host, which may change once this has
 * returned; dst is written in the order of the stream. The first call makes threads and buffers.
 * ST_TOO_LARGE: a row to convert is longer than 4 MiB; ST_NO_MEMORY; errors of the GPU. */
enum status cuda_upload(struct cuda_device *cuda, const struct gemm_pack_args *args);
/* Waits for the stream, then gives back what uploads took; a later one takes it again. */
void cuda_upload_close(struct cuda_device *cuda);

/* ---- cuda_gemm*.c: engine thread ---- */

#define CUDA_LT_BUDGET_NS UINT64_C(1500000000) /* that an engine measures at its start, about */

/* Loads libcublasLt. ST_UNSUPPORTED with a sentence when it is not there. */
enum status cuda_lt_open(cudaStream_t stream, struct cuda_lt **out_lt, char *out_why,
                         size_t why_bytes);
void cuda_lt_close(struct cuda_lt *lt);
/* gemm with x and w of one dtype, or x in bf16 and w in fp8; without bias and fusion. Any n_rows.
 * Allocates nothing once cuda_lt_reserve or cuda_lt_prepare has been called, or after the first
 * gemm with fp8 weights; all may be recorded then. fp8 is fast with k a multiple of 16 on a GPU
 * whose library scales by row and by block (sm_90); with blocks it is fastest when 4 divides
 * n_rows. Elsewhere w is made bf16 on the way. */
enum status cuda_lt_gemm(struct cuda_lt *lt, const struct gemm_args *args);
/* Memory for fp8 weights of at most so many rows of x, of n and of k. More rows than that are done
 * in parts. Only the first call counts. ST_NO_MEMORY. */
enum status cuda_lt_reserve(struct cuda_lt *lt, uint32_t rows, uint32_t n, uint32_t k);
/* Makes the gemms of a model ready: reserves, takes the fastest algorithms from the file under
 * cache_dir, measures for about budget_ns what is not in there, runs each once, and writes the
 * file. An algorithm that fails, or an fp8 one whose results are not those of the library's own, is
 * not used and not in the file. None of them searches or loads anything later.
 *
 * gemms      [n_gemms] as the engine will call them, with the most rows that it will; those of one
 *            n, k, dtypes and scaling are measured together, each with its weights in turn; x and y
 *            are overwritten
 * cache_dir  see gemm_cache_path; NULL or empty: nothing is measured, read or written
 *
 * ST_NO_MEMORY and errors of the GPU; a file that cannot be used is only logged. */
enum status cuda_lt_prepare(struct cuda_lt *lt, const struct gemm_args *gemms, uint32_t n_gemms,
                            const char *cache_dir, uint64_t budget_ns);
/* How often an algorithm had to be sought: does not grow once all is prepared. */
uint64_t cuda_lt_searches(const struct cuda_lt *lt);

#endif
