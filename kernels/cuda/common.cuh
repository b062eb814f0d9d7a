/* Small things that several kernels need: loads of any dtype, reductions over a warp and a block.
 */
#ifndef KERNELS_CUDA_COMMON_CUH
#define KERNELS_CUDA_COMMON_CUH

#include "kernels/ops.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

__device__ inline float to_f32(float v)
{
    return v;
}

__device__ inline float to_f32(__nv_bfloat16 v)
{
    return __bfloat162float(v);
}

__device__ inline float to_f32(__half v)
{
    return __half2float(v);
}

template <typename T> __device__ inline T from_f32(float v);

template <> __device__ inline float from_f32<float>(float v)
{
    return v;
}

template <> __device__ inline __nv_bfloat16 from_f32<__nv_bfloat16>(float v)
{
    return __float2bfloat16_rn(v);
}

template <> __device__ inline __half from_f32<__half>(float v)
{
    return __float2half_rn(v);
}

/* N elements moved by one access; N * sizeof(T) is 4, 8 or 16. */
template <typename T, int N> struct alignas(sizeof(T) * N) vec {
    T v[N];
};

__device__ inline float warp_sum(float v)
{
    for (int d = 16; d > 0; d >>= 1)
        v += __shfl_xor_sync(0xffffffffu, v, d);
    return v;
}

__device__ inline float warp_max(float v)
{
    for (int d = 16; d > 0; d >>= 1)
        v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, d));
    return v;
}

/* Over a block of at most 1024 threads, a multiple of 32; the result in every thread. `shared` has
 * 32 floats and may be used again after the next barrier. */
__device__ inline float block_sum(float v, float *shared)
{
    v = warp_sum(v);
    if (threadIdx.x % 32 == 0)
        shared[threadIdx.x / 32] = v;
    __syncthreads();
    v = threadIdx.x % 32 < blockDim.x / 32 ? shared[threadIdx.x % 32] : 0.0f;
    return warp_sum(v);
}

/* The predecessor's results are read behind this; a no-op where the launch did not ask for overlap
 * or the architecture has none. */
__device__ inline void grid_wait()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ inline void grid_launch_dependents()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__device__ __forceinline__ uint32_t smem_address(const void *ptr)
{
    return (uint32_t)__cvta_generic_to_shared(ptr);
}

/* Four 8x8 matrices of 16-bit values from shared memory, as the operands of mma take them. */
__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], uint32_t address)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

__device__ __forceinline__ void load_matrices_trans(uint32_t (&r)[4], uint32_t address)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

/* Major compute capability of the current device. */
inline cudaError_t device_major(int *out_major)
{
    int device = 0;
    cudaError_t err = cudaGetDevice(&device);
    return err != cudaSuccess
               ? err
               : cudaDeviceGetAttribute(out_major, cudaDevAttrComputeCapabilityMajor, device);
}

/* The kernel's blocks run with the split of an SM's memory that the GEMMs of a step ask for:
 * changing it has to wait until the SM is idle. */
template <typename... P> inline cudaError_t share_memory_as_gemms(void (*kernel)(P...))
{
    return cudaFuncSetAttribute((const void *)kernel,
                                cudaFuncAttributePreferredSharedMemoryCarveout,
                                cudaSharedmemCarveoutMaxShared);
}

/* A launch that may begin while the kernel ahead of it on the stream still runs: the kernel calls
 * grid_wait() before it touches anything that the one ahead reads or writes. */
template <typename... P, typename... A>
inline cudaError_t launch_early_shared(void (*kernel)(P...), dim3 grid, dim3 block,
                                       size_t shared_bytes, cudaStream_t stream, A... args)
{
    cudaError_t err = share_memory_as_gemms(kernel);
    if (err != cudaSuccess)
        return err;
    cudaLaunchAttribute early = {};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    config.attrs = &early;
    config.numAttrs = 1;
    return cudaLaunchKernelEx(&config, kernel, P(args)...);
}

template <typename... P, typename... A>
inline cudaError_t launch_early(void (*kernel)(P...), dim3 grid, dim3 block, cudaStream_t stream,
                                A... args)
{
    return launch_early_shared(kernel, grid, block, 0, stream, args...);
}

/* Byte offset of the K (is_v 0) or V row of `head` at position `pos` of the sequence in `table`. */
__device__ inline uint64_t kv_row_offset(const ops_kv_pool &pool, const uint32_t *table,
                                         uint32_t layer, uint32_t head, uint32_t pos, uint32_t is_v)
{
    return ops_kv_plane_offset(&pool, table[pos / pool.block_tokens], layer, head, is_v) +
           (uint64_t)(pos % pool.block_tokens) * pool.head_dim * ops_dtype_bytes(pool.dtype);
}

#endif
