/* Internal to sample.cu: the pass over a row that comes first, and what the blocks tell each other
 * of it. */
#ifndef KERNELS_CUDA_SAMPLE_SURVEY_CUH
#define KERNELS_CUDA_SAMPLE_SURVEY_CUH

#include "kernels/cuda/sample_int.cuh"

namespace sampling
{

/* ---- argmax --------------------------------------------------------------------------------- */

/* A token in the order of the row, the best one first. */
__device__ __forceinline__ uint64_t item_of(float logit, uint32_t id)
{
    return (uint64_t)descending_key(logit) << 32 | id;
}

__device__ __forceinline__ uint64_t warp_min(uint64_t item)
{
    for (uint32_t i = 16; i > 0; i /= 2)
        item = min(item, __shfl_xor_sync(~0u, item, i));
    return item;
}

/* The first item of the block, in its first warp. */
__device__ __forceinline__ uint64_t block_min(uint64_t item, struct state *st)
{
    item = warp_min(item);
    if (threadIdx.x % 32 == 0)
        st->warp_a[threadIdx.x / 32] = item;
    __syncthreads();
    return threadIdx.x < 32 ? warp_min(st->warp_a[threadIdx.x]) : ITEM_NONE;
}

/* The row's first item behind `after` (0: of all), in all threads; ITEM_NONE if there is none.
 * Blocks meet at a barrier before the next of these. */
template <bool is_first> __device__ uint64_t first_item(const struct part &p, uint64_t after)
{
    struct state *st = &shared()->state;
    float best = -INFINITY;
    uint32_t id = OPS_NO_TOKEN;
    for_each_vector(p, [&](uint32_t v, float4 f) {
        if (p.has_banned)
            f = ban(f, *bins_at(p, v));
        float l[4] = {f.x, f.y, f.z, f.w};
#pragma unroll
        for (uint32_t j = 0; j < 4; j++) {
            if (l[j] > best && (is_first || item_of(l[j], id_of(p, v, j)) > after)) {
                best = l[j]; /* the lowest id of equal ones: a thread's ids ascend */
                id = id_of(p, v, j);
            }
        }
    });
    uint64_t item = block_min(id == OPS_NO_TOKEN ? ITEM_NONE : item_of(best, id), st);
    if (threadIdx.x < cluster_blocks())
        peer(st->argmax, threadIdx.x)[cluster_rank()] = item;
    cluster_sync();
    for (uint32_t r = 0; r < cluster_blocks(); r++)
        item = r == 0 ? st->argmax[0] : min(item, st->argmax[r]);
    return item;
}

__device__ __noinline__ uint32_t argmax_cluster(const struct part &p)
{
    uint64_t item = first_item<true>(p, 0);
    return item == ITEM_NONE ? OPS_NO_TOKEN : (uint32_t)item;
}

/* ---- Survey --------------------------------------------------------------------------------- */

/* Of a thread's tokens. */
struct survey {
    float best, least; /* above -inf; -inf and +inf without */
    uint32_t v;        /* the first vector that has the best */
    float sum;         /* of exp(d * (logit - best)) */
};

/* exp(x * ln 2), to about 1e-5 of it where x > -40; at most 1e-38 for all below and NaN. */
__device__ __forceinline__ float exp2_roughly(float x)
{
    float e;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(fmaxf(x, -126.0f)));
    return e;
}

/* 2^(c * (logit - best)): also right where both are infinite. */
__device__ __forceinline__ float relative(float logit, float best, float c)
{
    return exp2_roughly(logit == best ? 0.0f : (logit - best) * c);
}

/* c: of the sum, log2(e) / temperature. Of a NaN and a number, fmaxf and fminf take the number. */
template <bool has_sum> __device__ struct survey survey_make(const struct part &p, float c)
{
    struct survey s = {-INFINITY, INFINITY, 0, 0.0f};
    for_each_vector(p, [&](uint32_t v, float4 f) {
        if (p.has_banned)
            f = ban(f, *bins_at(p, v));
        float l[4] = {f.x, f.y, f.z, f.w};
        float best = fmaxf(fmaxf(l[0], l[1]), fmaxf(l[2], l[3]));
        if (best > s.best) {
            if (has_sum)
                s.sum *= relative(s.best, best, c);
            s.best = best;
            s.v = v;
        }
#pragma unroll
        for (uint32_t j = 0; j < 4; j++) {
            s.least = fminf(s.least, l[j] == -INFINITY ? INFINITY : l[j]);
            if (has_sum)
                s.sum += relative(l[j], s.best, c);
        }
    });
    return s;
}

/* Best, least and sum of two sets. */
__device__ __forceinline__ void summary_add(float &best, float &least, float &sum, float best_b,
                                            float least_b, float sum_b, float c)
{
    float most = fmaxf(best, best_b);
    sum = sum * relative(best, most, c) + sum_b * relative(best_b, most, c);
    best = most;
    least = fminf(least, least_b);
}

__device__ __forceinline__ void summary_of_warp(float &best, float &least, float &sum, float c)
{
    for (uint32_t i = 16; i > 0; i /= 2) {
        float best_b = __shfl_xor_sync(~0u, best, i), least_b = __shfl_xor_sync(~0u, least, i);
        float sum_b = __shfl_xor_sync(~0u, sum, i);
        summary_add(best, least, sum, best_b, least_b, sum_b, c);
    }
}

/* Of the block: in its first warp. */
__device__ __noinline__ struct summary summary_of_block(const struct survey &s, float c)
{
    struct state *st = &shared()->state;
    float best = s.best, least = s.least, sum = s.sum;
    summary_of_warp(best, least, sum, c);
    if (threadIdx.x % 32 == 0) {
        st->warp_a[threadIdx.x / 32] =
            (uint64_t)__float_as_uint(best) << 32 | __float_as_uint(least);
        st->warp_b[threadIdx.x / 32] = __float_as_uint(sum);
    }
    __syncthreads();
    if (threadIdx.x < 32) {
        uint64_t both = st->warp_a[threadIdx.x];
        best = __uint_as_float((uint32_t)(both >> 32));
        least = __uint_as_float((uint32_t)both);
        sum = __uint_as_float(st->warp_b[threadIdx.x]);
        summary_of_warp(best, least, sum, c);
    }
    return {best, least, sum, 0, ITEM_NONE};
}

/* Tells all blocks; to be seen behind the next cluster_sync(). */
__device__ __forceinline__ void summary_tell(const struct summary &s, uint32_t exchange)
{
    struct state *st = &shared()->state;
    if (threadIdx.x < cluster_blocks())
        *peer(&st->of[exchange][cluster_rank()], threadIdx.x) = s;
}

/* What all blocks told, as of one: of n_listed the greatest, of the limits the first. */
__device__ __noinline__ struct summary summary_of_cluster(uint32_t exchange, float c)
{
    const struct state *st = &shared()->state;
    struct summary all = st->of[exchange][0];
    for (uint32_t r = 1; r < cluster_blocks(); r++) {
        const struct summary *s = &st->of[exchange][r];
        summary_add(all.best, all.least, all.sum, s->best, s->least, s->sum, c);
        all.n_listed = max(all.n_listed, s->n_listed);
        all.limit = min(all.limit, s->limit);
    }
    return all;
}

} // namespace sampling

#endif
