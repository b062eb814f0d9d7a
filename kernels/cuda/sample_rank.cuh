/* Internal to sample.cu: a few tokens, put in order. */
#ifndef KERNELS_CUDA_SAMPLE_RANK_CUH
#define KERNELS_CUDA_SAMPLE_RANK_CUH

#include "kernels/cuda/sample_bins.cuh"

namespace sampling
{

/* A collected token, held by one thread. */
struct entry {
    bool is_token;
    uint32_t id;
    struct prefix before; /* of the token */
    uint64_t weight;
};

/* Bitonic sort of n <= COLLECT_MAX items, one a thread; returns this thread's. */
__device__ __noinline__ uint64_t sort_block(uint64_t *items, uint32_t n)
{
    uint32_t i = threadIdx.x, size = 32;
    while (size < n)
        size *= 2;
    uint64_t mine = i < n ? items[i] : ~0ull;
    for (uint32_t k = 2; k <= size; k *= 2) {
        for (uint32_t j = k / 2; j > 0; j /= 2) {
            if (j >= 32) {
                __syncthreads();
                if (i < size)
                    items[i] = mine;
                __syncthreads();
            }
            if (i >= size) /* whole warps of no items */
                continue;
            uint64_t other = j >= 32 ? items[i ^ j] : __shfl_xor_sync(~0u, mine, j);
            bool takes_less = ((i & j) == 0) == ((i & k) == 0);
            mine = takes_less == (other < mine) ? other : mine;
        }
    }
    return mine;
}

/* Gives each of n tokens to a thread, with the prefix before it: by sorting. */
__device__ inline struct entry entries_sort(uint64_t *list, uint32_t n, struct prefix before,
                                            struct scale scale)
{
    uint64_t item = sort_block(list, n);
    struct entry e;
    struct prefix all;
    e.is_token = threadIdx.x < n;
    e.id = (uint32_t)item;
    e.weight = e.is_token ? (uint64_t)weight_of(logit_of_key((uint32_t)(item >> 32)), scale) : 0;
    struct prefix mine = block_scan({1, e.weight}, &all);
    e.before = {before.n + mine.n, before.mass + mine.mass};
    return e;
}

/* The same for n <= COUNT_MAX: neighbouring threads share a token and compare it with all. */
__device__ inline struct entry entries_count(uint64_t *list, uint32_t n, struct prefix before,
                                             struct scale scale)
{
    uint64_t *weights = list + COUNT_MAX; /* no token is there */
    uint32_t sharing = 32;                /* threads a token */
    while (n > THREADS / sharing)
        sharing /= 2;
    if (threadIdx.x < n)
        weights[threadIdx.x] =
            (uint64_t)weight_of(logit_of_key((uint32_t)(list[threadIdx.x] >> 32)), scale);
    __syncthreads();
    uint32_t i = threadIdx.x / sharing;
    struct entry e = {};
    uint64_t item = i < n ? list[i] : 0;
    for (uint32_t k = threadIdx.x % sharing; k < n; k += sharing) {
        bool is_before = list[k] < item;
        e.before.n += is_before;
        e.before.mass += is_before ? weights[k] : 0;
    }
    for (uint32_t k = 1; k < sharing; k *= 2) {
        e.before.n += __shfl_xor_sync(~0u, e.before.n, k);
        e.before.mass += __shfl_xor_sync(~0u, e.before.mass, k);
    }
    e.before.n += before.n;
    e.before.mass += before.mass;
    e.is_token = i < n && threadIdx.x % sharing == 0;
    e.id = (uint32_t)item;
    e.weight = i < n ? weights[i] : 0;
    return e;
}

} // namespace sampling

#endif
