/* Weights from memory of the host to the GPU. One thread copies out of a mapped file at a fifth of
 * the speed of the bus, so some lanes do it side by side, each a thread with two pinned buffers:
 *
 *   mapped file --memcpy--> buffer 0 | 1 of the lane --copy engine--> place in the matrix
 *                                                                 `-> room of the lane --kernel--^
 *
 * A tensor is cut into pieces, which lanes take in order, one at a time. The second way is for a
 * tensor that becomes another dtype. All copies and kernels go on the one stream of the device; a
 * lane puts its own there in order, so its room on the GPU is never written before it was read.
 * What is copied straight needs no order, for pieces do not overlap.
 *
 * Threads and buffers are made by the first upload and given back by cuda_upload_close: they are
 * there only while weights are loaded. Engine thread, which is lane 0. */
#include "device/cuda_int.h"
#include "device/device_int.h"
#include "device/thread_pool.h"
#include "observe/log.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Measured on a bus of 55 GB/s: eight threads fill it with pieces of 4 MiB; 2 MiB lose 4 % for
 * gaps between copies, 8 MiB lose 12 % for they leave the caches. Small tensors are cut smaller, so
 * that all lanes have a piece. */
#define THREADS_DEFAULT 8u
#define PIECE_BYTES     ((uint64_t)4 << 20)
#define PIECE_BYTES_MIN ((uint64_t)1 << 20)
#define PAGE_BYTES      ((uint64_t)4096)
#define HUGE_PAGE_BYTES ((size_t)2 << 20)

/* One tensor on its way. */
struct upload {
    struct cuda_device *cuda;
    const struct gemm_pack_args *args;
    uint64_t n_elems, piece_elems;
    _Atomic uint64_t next; /* first element that no lane has taken */
    _Atomic int error;     /* the first cudaError_t of a lane */
};

static bool is_converted(const struct gemm_pack_args *args)
{
    return args->src_dtype != args->dst_dtype;
}

/* Elements [first, first + n) of the rows, without what lies between rows, to dst. */
static void gather(const struct gemm_pack_args *args, uint64_t first, uint64_t n, char *dst)
{
    const uint64_t elem = ops_dtype_bytes(args->src_dtype);
    const char *src = (const char *)args->src;
    if (args->src_stride == args->k) {
        memcpy(dst, src + first * elem, n * elem);
        return;
    }
    while (n > 0) {
        uint64_t row = first / args->k, col = first % args->k;
        uint64_t part = args->k - col < n ? args->k - col : n;
        memcpy(dst, src + (row * args->src_stride + col) * elem, part * elem);
        dst += part * elem;
        first += part;
        n -= part;
    }
}

/* Puts the way of a filled buffer to its place on the stream. Converted pieces are whole rows. */
static cudaError_t piece_send(const struct upload *up, struct cuda_upload_lane *lane,
                              uint32_t which, uint64_t first, uint64_t n)
{
    const struct gemm_pack_args *args = up->args;
    const uint64_t elem = ops_dtype_bytes(args->src_dtype);
    cudaStream_t stream = up->cuda->stream;
    char *dst = is_converted(args)
                    ? (char *)lane->room
                    : (char *)args->dst + ((uint64_t)args->n_first * args->k + first) * elem;
    cudaError_t rc =
        cudaMemcpyAsync(dst, lane->buffers[which], n * elem, cudaMemcpyHostToDevice, stream);
    if (rc == cudaSuccess && is_converted(args)) {
        struct gemm_pack_args part = *args;
        part.src = lane->room;
        part.src_stride = args->k;
        part.n_rows = (uint32_t)(n / args->k);
        part.n_first = args->n_first + (uint32_t)(first / args->k);
        rc = cuda_gemm_pack(&part, stream);
    }
    return rc == cudaSuccess ? cudaEventRecord(lane->sent[which], stream) : rc;
}

static void lane_run(void *arg, uint32_t index, uint32_t count)
{
    struct upload *up = (struct upload *)arg;
    struct cuda_upload_lane *lane = &up->cuda->upload.lanes[index];
    cudaError_t rc = cudaSetDevice(up->cuda->ordinal);
    (void)count;
    while (rc == cudaSuccess && atomic_load(&up->error) == cudaSuccess) {
        uint64_t first = atomic_fetch_add(&up->next, up->piece_elems);
        if (first >= up->n_elems)
            return;
        uint64_t left = up->n_elems - first, n = left < up->piece_elems ? left : up->piece_elems;
        uint32_t which = lane->n_pieces++ % 2;
        rc = cudaEventSynchronize(lane->sent[which]);
        if (rc != cudaSuccess)
            break;
        gather(up->args, first, n, (char *)lane->buffers[which]);
        rc = piece_send(up, lane, which, first, n);
    }
    int none = cudaSuccess;
    if (rc != cudaSuccess)
        atomic_compare_exchange_strong(&up->error, &none, (int)rc);
}

/* Makes the pages of a lane's buffers: one thread takes as long for all as 1 GB on the bus does. */
static void lane_touch(void *arg, uint32_t index, uint32_t count)
{
    const struct cuda_upload *upload = (const struct cuda_upload *)arg;
    (void)count;
    madvise(upload->lanes[index].buffers[0], 2 * PIECE_BYTES, MADV_POPULATE_WRITE);
}

/* In huge pages where the system gives them, for pinning small ones takes three times as long.
 * Where memory cannot be pinned the copies are right all the same. */
static enum status buffers_make(struct cuda_upload *upload)
{
    const size_t bytes = upload->n_lanes * 2 * PIECE_BYTES;
    upload->memory = aligned_alloc(HUGE_PAGE_BYTES, bytes);
    if (upload->memory == NULL)
        return ST_NO_MEMORY;
    madvise(upload->memory, bytes, MADV_HUGEPAGE);
    for (uint32_t i = 0; i < upload->n_lanes; i++)
        for (uint32_t k = 0; k < 2; k++)
            upload->lanes[i].buffers[k] = (char *)upload->memory + (2 * i + k) * PIECE_BYTES;
    thread_pool_run(upload->pool, lane_touch, upload);
    cudaError_t rc = cudaHostRegister(upload->memory, bytes, cudaHostRegisterDefault);
    upload->is_pinned = rc == cudaSuccess;
    if (!upload->is_pinned) {
        (void)cudaGetLastError();
        log_warn("weights are copied slowly: memory cannot be pinned",
                 LOG_U64("bytes", (uint64_t)bytes), LOG_STR("error", cudaGetErrorString(rc)));
    }
    return ST_OK;
}

static enum status rooms_make(struct cuda_device *cuda)
{
    struct cuda_upload *upload = &cuda->upload;
    enum status st = cuda->base.ops->alloc(&cuda->base, DEVICE_MEM_ACTIVATION,
                                           upload->n_lanes * PIECE_BYTES, &upload->rooms);
    for (uint32_t i = 0; i < upload->n_lanes && st == ST_OK; i++) {
        struct cuda_upload_lane *lane = &upload->lanes[i];
        lane->room = (char *)upload->rooms + i * PIECE_BYTES;
        for (uint32_t k = 0; k < 2 && st == ST_OK; k++) /* lanes wait for the bus: they sleep */
            st = cuda_status(cudaEventCreateWithFlags(&lane->sent[k], cudaEventDisableTiming |
                                                                          cudaEventBlockingSync),
                             "event");
    }
    return st;
}

static uint32_t lane_count(const struct cuda_upload *upload)
{
    struct device_caps host;
    if (upload->n_threads > 0)
        return upload->n_threads < CUDA_UPLOAD_LANES_MAX ? upload->n_threads
                                                         : CUDA_UPLOAD_LANES_MAX;
    device_cpu_ops.probe(&host);
    return host.n_units < THREADS_DEFAULT ? host.n_units : THREADS_DEFAULT;
}

static enum status upload_open(struct cuda_device *cuda)
{
    struct cuda_upload *upload = &cuda->upload;
    upload->n_lanes = lane_count(upload);
    enum status st = thread_pool_create(upload->n_lanes, NULL, 0, &upload->pool);
    if (st == ST_OK)
        st = buffers_make(upload);
    if (st == ST_OK)
        st = rooms_make(cuda);
    if (st != ST_OK)
        cuda_upload_close(cuda);
    return st;
}

/* 0: one row alone is too long for a piece. */
static uint64_t piece_elems_of(const struct gemm_pack_args *args, uint32_t n_lanes)
{
    const uint64_t elem = ops_dtype_bytes(args->src_dtype), row = args->k * elem;
    uint64_t bytes = args->n_rows * row / n_lanes / PAGE_BYTES * PAGE_BYTES + PAGE_BYTES;
    bytes = bytes < PIECE_BYTES_MIN ? PIECE_BYTES_MIN : bytes < PIECE_BYTES ? bytes : PIECE_BYTES;
    if (!is_converted(args))
        return bytes / elem;
    return (row <= bytes ? bytes / row : row <= PIECE_BYTES) * args->k;
}

enum status cuda_upload(struct cuda_device *cuda, const struct gemm_pack_args *args)
{
    enum status st = cuda->upload.pool != NULL ? ST_OK : upload_open(cuda);
    if (st != ST_OK)
        return st;
    struct upload up = {.cuda = cuda,
                        .args = args,
                        .n_elems = (uint64_t)args->n_rows * args->k,
                        .piece_elems = piece_elems_of(args, cuda->upload.n_lanes)};
    if (up.piece_elems == 0)
        return ST_TOO_LARGE;
    if (up.n_elems <= up.piece_elems)
        lane_run(&up, 0, 1);
    else
        thread_pool_run(cuda->upload.pool, lane_run, &up);
    return cuda_status((cudaError_t)atomic_load(&up.error), "upload");
}

void cuda_upload_close(struct cuda_device *cuda)
{
    struct cuda_upload *upload = &cuda->upload;
    thread_pool_destroy(upload->pool);
    if (upload->n_lanes > 0)
        (void)cudaStreamSynchronize(cuda->stream); /* who asks for more learns of an error */
    for (uint32_t i = 0; i < upload->n_lanes; i++)
        for (uint32_t k = 0; k < 2; k++)
            if (upload->lanes[i].sent[k] != NULL)
                cudaEventDestroy(upload->lanes[i].sent[k]);
    cuda->base.ops->free(&cuda->base, upload->rooms);
    if (upload->is_pinned)
        cudaHostUnregister(upload->memory);
    free(upload->memory);
    *upload = (struct cuda_upload){.n_threads = upload->n_threads};
}
