/* What check_gemm_small.cu and its timings share: the device, random data, time of a graph. */
#ifndef BENCH_GPU_GEMM_SMALL_KIT_CUH
#define BENCH_GPU_GEMM_SMALL_KIT_CUH

#include "kernels/cuda/cuda_ops.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <functional>
#include <vector>

extern "C" cudaError_t cuda_gemm_small_tuned(const struct cuda_gemm_args *args, uint32_t n_sms,
                                             void *workspace, cudaStream_t stream, uint32_t how);

namespace
{

#define CHECK(call)                                                                                \
    do {                                                                                           \
        cudaError_t check_err = (call);                                                            \
        if (check_err != cudaSuccess) {                                                            \
            fprintf(stderr, "%s:%d %s: %s\n", __FILE__, __LINE__, #call,                           \
                    cudaGetErrorString(check_err));                                                \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

using bf16 = __nv_bfloat16;

struct bench {
    cudaStream_t stream;
    uint32_t n_sms;
    void *workspace;
    uint8_t *pool; /* weights */
    size_t pool_bytes;
    double read_bw; /* bytes/s, measured */
    bool with_lt;
    uint64_t seed;
};

__device__ __forceinline__ uint32_t hash(uint64_t v)
{
    v = (v ^ (v >> 31)) * 0x9E3779B97F4A7C15ull;
    v = (v ^ (v >> 29)) * 0xBF58476D1CE4E5B9ull;
    return uint32_t((v ^ (v >> 32)) >> 8);
}

/* Uniform in [low, high). */
template <class T>
__global__ void fill_kernel(T *dst, uint64_t n, uint64_t seed, float low, float high)
{
    uint64_t step = uint64_t(gridDim.x) * blockDim.x;
    for (uint64_t i = blockIdx.x * uint64_t(blockDim.x) + threadIdx.x; i < n; i += step)
        dst[i] = T(low + float(hash(i + seed * 1000003ull) & 0xffffu) / 65536.0f * (high - low));
}

/* Any e4m3 whose bits are in `mask`, but no NaN. */
__global__ void fill_f8_kernel(uint8_t *dst, uint64_t n, uint64_t seed, uint32_t mask)
{
    uint64_t step = uint64_t(gridDim.x) * blockDim.x;
    for (uint64_t i = blockIdx.x * uint64_t(blockDim.x) + threadIdx.x; i < n; i += step) {
        uint32_t v = hash(i + seed * 1000003ull) & mask;
        dst[i] = uint8_t((v & 0x7fu) == 0x7fu ? v ^ 1u : v);
    }
}

template <class T>
void fill(const bench &b, T *dst, uint64_t n, uint64_t seed, float low, float high)
{
    fill_kernel<<<2048, 256, 0, b.stream>>>(dst, n, seed, low, high);
    CHECK(cudaGetLastError());
}

inline void fill_f8(const bench &b, uint8_t *dst, uint64_t n, uint64_t seed, uint32_t mask)
{
    fill_f8_kernel<<<2048, 256, 0, b.stream>>>(dst, n, seed, mask);
    CHECK(cudaGetLastError());
}

template <class T> T *device_alloc(size_t n)
{
    void *p = nullptr;
    CHECK(cudaMalloc(&p, n * sizeof(T)));
    return static_cast<T *>(p);
}

/* Median seconds of one replay of a graph of what `work` launches; negative: it cannot be captured.
 */
inline double graph_seconds(const bench &b, const std::function<bool()> &work, int n_replays)
{
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    CHECK(cudaStreamBeginCapture(b.stream, cudaStreamCaptureModeRelaxed));
    bool is_ok = work();
    cudaError_t err = cudaStreamEndCapture(b.stream, &graph);
    if (!is_ok || err != cudaSuccess) {
        cudaGetLastError();
        return -1.0;
    }
    CHECK(cudaGraphInstantiate(&exec, graph, 0));
    cudaEvent_t start, stop;
    CHECK(cudaEventCreate(&start));
    CHECK(cudaEventCreate(&stop));
    std::vector<double> seconds;
    for (int i = 0; i < n_replays + 2; i++) {
        CHECK(cudaEventRecord(start, b.stream));
        CHECK(cudaGraphLaunch(exec, b.stream));
        CHECK(cudaEventRecord(stop, b.stream));
        CHECK(cudaEventSynchronize(stop));
        float ms = 0.0f;
        CHECK(cudaEventElapsedTime(&ms, start, stop));
        if (i >= 2)
            seconds.push_back(double(ms) * 1e-3);
    }
    CHECK(cudaGetLastError());
    CHECK(cudaEventDestroy(start));
    CHECK(cudaEventDestroy(stop));
    CHECK(cudaGraphExecDestroy(exec));
    CHECK(cudaGraphDestroy(graph));
    std::sort(seconds.begin(), seconds.end());
    return seconds[seconds.size() / 2];
}

} // namespace

#endif
