/* Inside of the CUDA device: cuda.c has memory and ops, cuda_gemm.c what cuBLASLt computes. */
#ifndef DEVICE_CUDA_INT_H
#define DEVICE_CUDA_INT_H

#include "device/allocs.h"
#include "device/device.h"
#include "kernels/cuda/cuda_ops.h"

#define CUDA_STAGE_BYTES (16u << 20) /* of each of the two pinned buffers of an upload */

struct cuda_lt;

#define CUDA_GRAPHS_MAX 512u

struct cuda_graph {
    uint32_t key;
    cudaGraphExec_t exec; /* NULL: ran once, not recorded yet */
};

struct cuda_device {
    struct device base; /* first */
    int ordinal;
    uint32_t n_sms;
    cudaStream_t stream;
    struct cuda_lt *lt;
    void *gemm_space, *sample_space;
    void *plan, *decode_space;
    size_t decode_space_bytes;
    struct cuda_graph graphs[CUDA_GRAPHS_MAX];
    uint32_t n_graphs;
    cudaEvent_t replay_start, replay_end;
    /* Uploads: one buffer is filled while the other is copied and converted. */
    void *stage_host[2], *stage_dev[2];
    cudaEvent_t stage_free[2];
    uint32_t stage_next;
    struct device_allocs allocs;
};

/* Logs the first error and answers with the status for it. A device that has failed once answers
 * every later call the same. Engine thread. */
enum status cuda_status(cudaError_t rc, const char *what);

/* ---- cuda_gemm.c ---- */

/* Loads libcublasLt. ST_UNSUPPORTED with a sentence when it is not there. */
enum status cuda_lt_open(cudaStream_t stream, struct cuda_lt **out_lt, char *out_why,
                         size_t why_bytes);
void cuda_lt_close(struct cuda_lt *lt);
/* gemm with x and w of one dtype; the bias is not added. */
enum status cuda_lt_gemm(struct cuda_lt *lt, const struct gemm_args *args);

#endif
