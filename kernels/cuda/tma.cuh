/* Barriers in shared memory, tensor copies into it, clusters: sm_90 and later. Addresses are those
 * of shared memory, see smem_address(). */
#ifndef KERNELS_CUDA_TMA_CUH
#define KERNELS_CUDA_TMA_CUH

#include "kernels/cuda/common.cuh"

#include <cuda.h>
#include <cuda_runtime.h>
#include <cudaTypedefs.h>

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

__device__ __forceinline__ void bar_init(uint32_t bar, uint32_t count)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(count) : "memory");
}

/* Behind all bar_init: copies and the other blocks of the cluster see them too. */
__device__ __forceinline__ void bar_init_fence()
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void bar_expect(uint32_t bar, uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes)
                 : "memory");
}

__device__ __forceinline__ void bar_arrive(uint32_t bar)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
}

__device__ __forceinline__ void bar_wait(uint32_t bar, uint32_t parity)
{
    uint32_t is_done = 0;
    while (is_done == 0)
        asm volatile("{\n"
                     ".reg .pred p;\n"
                     "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                     "selp.u32 %0, 1, 0, p;\n"
                     "}\n"
                     : "=r"(is_done)
                     : "r"(bar), "r"(parity)
                     : "memory");
}

/* True when bar_wait would not wait. */
__device__ __forceinline__ bool bar_test(uint32_t bar, uint32_t parity)
{
    uint32_t is_done;
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                 "selp.u32 %0, 1, 0, p;\n"
                 "}\n"
                 : "=r"(is_done)
                 : "r"(bar), "r"(parity)
                 : "memory");
    return is_done != 0;
}

__device__ __forceinline__ void map_prefetch(const CUtensorMap *map)
{
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

/* Where the box of a tensor map of four dimensions begins. */
struct box_at {
    uint32_t c0, c1, c2, c3;
};

__device__ __forceinline__ void box_load(uint32_t dst, const CUtensorMap *map, box_at at,
                                         uint32_t bar, uint64_t policy)
{
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
                 ".L2::cache_hint [%0], [%1, {%2, %3, %4, %5}], [%6], %7;" ::"r"(dst),
                 "l"(map), "r"(at.c0), "r"(at.c1), "r"(at.c2), "r"(at.c3), "r"(bar), "l"(policy)
                 : "memory");
}

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
/* The same into both blocks of a cluster of two. */
__device__ __forceinline__ void box_load_pair(uint32_t dst, const CUtensorMap *map, box_at at,
                                              uint32_t bar, uint64_t policy)
{
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
                 ".multicast::cluster.L2::cache_hint [%0], [%1, {%2, %3, %4, %5}], [%6], %7, "
                 "%8;" ::"r"(dst),
                 "l"(map), "r"(at.c0), "r"(at.c1), "r"(at.c2), "r"(at.c3), "r"(bar),
                 "h"(uint16_t(3)), "l"(policy)
                 : "memory");
}
#endif

__device__ __forceinline__ uint64_t policy_evict_first()
{
    uint64_t policy;
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}

__device__ __forceinline__ uint64_t policy_evict_normal()
{
    uint64_t policy;
    asm volatile("createpolicy.fractional.L2::evict_normal.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}

/* All threads of the cluster arrive once, behind bar_init_fence and a barrier of their block; those
 * that touch the shared memory of another block wait first, so that it is there and its barriers
 * are set up. */
__device__ __forceinline__ void cluster_arrive()
{
    asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory");
}

__device__ __forceinline__ void cluster_wait()
{
    asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
}

/* The same address in the shared memory of block `rank` of the cluster. */
__device__ __forceinline__ uint32_t smem_of_rank(uint32_t address, uint32_t rank)
{
    uint32_t remote;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(address), "r"(rank));
    return remote;
}

/* Stores v in another block's shared memory and counts its 4 bytes at that block's barrier. */
__device__ __forceinline__ void smem_send(uint32_t remote, float v, uint32_t remote_bar)
{
    asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, "
                 "[%2];" ::"r"(remote),
                 "r"(__float_as_uint(v)), "r"(remote_bar)
                 : "memory");
}

#endif

/* cuTensorMapEncodeTiled by way of the runtime: the driver library is not linked. */
inline PFN_cuTensorMapEncodeTiled_v12000 map_encode_lookup()
{
    void *fn = nullptr;
    cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
    cudaError_t err = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &fn, 12000,
                                                       cudaEnableDefault, &found);
    if (err != cudaSuccess || found != cudaDriverEntryPointSuccess)
        return nullptr;
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(fn);
}

#endif
