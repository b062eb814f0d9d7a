/* Blocks of a cluster: who they are, barriers, each other's shared memory. Without clusters (before
 * sm_90) each block is one of its own. */
#ifndef KERNELS_CUDA_CLUSTER_CUH
#define KERNELS_CUDA_CLUSTER_CUH

#include <stdint.h>

#if __CUDA_ARCH__ >= 900
__device__ __forceinline__ uint32_t cluster_rank()
{
    uint32_t r;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
    return r;
}

__device__ __forceinline__ uint32_t cluster_blocks()
{
    uint32_t n;
    asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(n));
    return n;
}

__device__ __forceinline__ uint32_t cluster_index()
{
    uint32_t n;
    asm("mov.u32 %0, %%clusterid.x;" : "=r"(n));
    return n;
}

/* The halves of cluster_sync(); every thread calls both. */
__device__ __forceinline__ void cluster_arrive()
{
    asm volatile("barrier.cluster.arrive.release;" ::: "memory");
}

__device__ __forceinline__ void cluster_wait()
{
    asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
}

/* Address of the same shared variable in block `rank` of the cluster. That block must have begun,
 * and not be over: a cluster_sync() before the first use and one behind the last. */
template <typename T> __device__ __forceinline__ T *peer(T *shared, uint32_t rank)
{
    T *out;
    asm("mapa.u64 %0, %1, %2;" : "=l"(out) : "l"(shared), "r"(rank));
    return out;
}
#else
__device__ __forceinline__ uint32_t cluster_rank()
{
    return 0;
}

__device__ __forceinline__ uint32_t cluster_blocks()
{
    return 1;
}

__device__ __forceinline__ uint32_t cluster_index()
{
    return blockIdx.x;
}

__device__ __forceinline__ void cluster_arrive()
{
}

__device__ __forceinline__ void cluster_wait()
{
    __syncthreads();
}

template <typename T> __device__ __forceinline__ T *peer(T *shared, uint32_t)
{
    return shared;
}
#endif

/* A barrier of all threads of the cluster; what they wrote before it, all see behind it. */
__device__ __forceinline__ void cluster_sync()
{
    cluster_arrive();
    cluster_wait();
}

#endif
