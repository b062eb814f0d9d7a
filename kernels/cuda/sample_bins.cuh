/* Internal to sample.cu: bins of weights, with count and mass, of a whole row. */
#ifndef KERNELS_CUDA_SAMPLE_BINS_CUH
#define KERNELS_CUDA_SAMPLE_BINS_CUH

#include "kernels/cuda/sample_int.cuh"

namespace sampling
{

__device__ __noinline__ void bins_clear()
{
    struct shared_bins *bins = &shared()->bins;
    for (uint32_t i = threadIdx.x; i < N_SLOTS; i += THREADS)
        bins->count[i] = bins->sum[0][i] = bins->sum[1][i] = 0;
}

/* Adds a token whose bin is `bin` and whose d has the low bits `low`. carries: the block may have
 * more tokens than two sums hold; then they are the words of one. */
template <bool carries>
__device__ __forceinline__ void bins_add_one(struct shared_bins *bins, uint32_t bin, uint32_t count,
                                             uint32_t low)
{
    atomicAdd(&bins->count[bin], count);
    if (!carries) {
        atomicAdd(&bins->sum[threadIdx.x / 32 % 2][bin], low);
    } else {
        uint32_t old = atomicAdd(&bins->sum[0][bin], low);
        if (old + low < old)
            atomicAdd(&bins->sum[1][bin], 1u);
    }
}

/* All lanes call it. A warp that agrees on the bin adds once. */
template <bool carries> __device__ __noinline__ void bins_add_agreed(uint32_t bin, uint32_t low)
{
    struct shared_bins *bins = &shared()->bins;
    if (__all_sync(~0u, bin == __shfl_sync(~0u, bin, 0))) {
        uint32_t sum = __reduce_add_sync(~0u, low);
        if (threadIdx.x % 32 == 0)
            bins_add_one<carries>(bins, bin, 32, sum);
    } else {
        bins_add_one<carries>(bins, bin, 1, low);
    }
}

/* Adds the blocks' bins up: each block sums a slice, then fetches the others' slices. */
template <bool carries> __device__ __noinline__ void bins_merge()
{
    struct shared_bins *bins = &shared()->bins;
    uint32_t n_blocks = cluster_blocks(), rank = cluster_rank();
    uint32_t slice = N_SLOTS / 4 / n_blocks; /* of 4 bins each */
    static_assert(N_SLOTS / 4 % CLUSTER_MAX == 0, "slices");
    cluster_sync();
    for (uint32_t i = rank * slice + threadIdx.x; i < (rank + 1) * slice; i += THREADS) {
        uint4 count = make_uint4(0, 0, 0, 0);
        uint64_t sum[4] = {0, 0, 0, 0};
#pragma unroll 2
        for (uint32_t r = 0; r < n_blocks; r++) {
            const struct shared_bins *from = peer(bins, r);
            uint4 n = ((const uint4 *)from->count)[i];
            uint4 a = ((const uint4 *)from->sum[0])[i], b = ((const uint4 *)from->sum[1])[i];
            count.x += n.x;
            count.y += n.y;
            count.z += n.z;
            count.w += n.w;
            sum[0] += a.x + ((uint64_t)b.x << (carries ? 32 : 0));
            sum[1] += a.y + ((uint64_t)b.y << (carries ? 32 : 0));
            sum[2] += a.z + ((uint64_t)b.z << (carries ? 32 : 0));
            sum[3] += a.w + ((uint64_t)b.w << (carries ? 32 : 0));
        }
        ((uint4 *)bins->count)[i] = count;
        ((uint4 *)bins->sum[0])[i] =
            make_uint4((uint32_t)sum[0], (uint32_t)sum[1], (uint32_t)sum[2], (uint32_t)sum[3]);
        ((uint4 *)bins->sum[1])[i] = make_uint4((uint32_t)(sum[0] >> 32), (uint32_t)(sum[1] >> 32),
                                                (uint32_t)(sum[2] >> 32), (uint32_t)(sum[3] >> 32));
    }
    cluster_sync();
    for (uint32_t i = threadIdx.x; i < N_SLOTS / 4; i += THREADS) {
        uint32_t owner = (uint32_t)((float)i / (float)slice); /* exact: both are small */
        if (owner == rank)
            continue;
        const struct shared_bins *from = peer(bins, owner);
        ((uint4 *)bins->count)[i] = ((const uint4 *)from->count)[i];
        ((uint4 *)bins->sum[0])[i] = ((const uint4 *)from->sum[0])[i];
        ((uint4 *)bins->sum[1])[i] = ((const uint4 *)from->sum[1])[i];
    }
    __syncthreads();
}

/* The smallest shift with which all d up to d_max have bins. */
__device__ inline uint32_t shift_for(uint32_t d_max, uint32_t n_bins)
{
    uint32_t shift = 0;
    while (d_max >> shift >= n_bins)
        shift++;
    return shift;
}

/* What filling the bins needs; in registers. */
struct filler {
    struct part part;
    struct scale scale;
    uint32_t shift;
    float min_p_limit; /* the mass of the weights from it on is added up; above 2^40: none */
    uint64_t min_p_mass;
};

/* Puts one vector's tokens into the bins. All lanes call it, those without a vector with -inf. */
template <bool carries>
__device__ __forceinline__ void fill_vector(struct filler &c, uint32_t v, float4 f, bool has_vector,
                                            struct shared_bins *bins)
{
    if (c.part.has_banned && has_vector)
        f = ban(f, *bins_at(c.part, v));
    float x[4] = {x_of(f.x, c.scale), x_of(f.y, c.scale), x_of(f.z, c.scale), x_of(f.w, c.scale)};
    uint32_t bin[4] = {N_BINS, N_BINS, N_BINS, N_BINS};
    if (__any_sync(~0u, fmaxf(fmaxf(x[0], x[1]), fmaxf(x[2], x[3])) > X_MIN)) {
        uint32_t d[4], none = N_BINS + threadIdx.x % 32;
        uint32_t mask = (1u << c.shift) - 1;
#pragma unroll
        for (uint32_t j = 0; j < 4; j++) {
            d[j] = TOP - __float_as_uint(weight_of_x(x[j]));
            /* of weight 0: far beyond all bins */
            bin[j] = min(d[j] >> c.shift, none);
        }
        if (__all_sync(~0u, bin[0] == __shfl_sync(~0u, bin[0], 0))) { /* likely the others, too */
            bins_add_agreed<carries>(bin[0], d[0] & mask);
            bins_add_agreed<carries>(bin[1], d[1] & mask);
            bins_add_agreed<carries>(bin[2], d[2] & mask);
            bins_add_agreed<carries>(bin[3], d[3] & mask);
        } else {
            uint32_t *counts = bins->count, *sums = bins->sum[threadIdx.x / 32 % 2];
#pragma unroll
            for (uint32_t j = 0; j < 4; j++) {
                if (carries) {
                    bins_add_one<carries>(bins, bin[j], 1, d[j] & mask);
                } else {
                    atomicAdd(counts + bin[j], 1u);
                    atomicAdd(sums + bin[j], d[j] & mask);
                }
            }
        }
        if (c.min_p_limit <= (float)WEIGHT_ONE) {
#pragma unroll
            for (uint32_t j = 0; j < 4; j++) {
                float w = __uint_as_float(TOP - d[j]);
                c.min_p_mass += w >= c.min_p_limit ? (uint64_t)w : 0;
            }
        }
    }
    if (has_vector)
        *bins_at(c.part, v) =
            make_ushort4((uint16_t)bin[0], (uint16_t)bin[1], (uint16_t)bin[2], (uint16_t)bin[3]);
}

template <bool carries>
__device__ __forceinline__ void bins_fill(struct filler c, struct shared_memory *sm)
{
    const struct part &p = c.part;
    const float4 none = make_float4(-INFINITY, -INFINITY, -INFINITY, -INFINITY);
    uint32_t v = p.v_full + threadIdx.x;
    uint32_t n_rounds = (p.full_end - p.v_full) / THREADS; /* of all threads */
    c.min_p_mass = 0;
    /* Rounds of all threads, the next one's loads on their way. */
    float4 next = n_rounds > 0 ? __ldcg(p.vectors + v) : none;
#pragma unroll 2
    for (uint32_t round = 0; round < n_rounds; round++, v += THREADS) {
        float4 f = next;
        if (round + 1 < n_rounds)
            next = __ldcg(p.vectors + v + THREADS);
        fill_vector<carries>(c, v, f, true, &sm->bins);
    }
    /* The rest of the whole vectors, then those at the row's ends. */
#pragma unroll 1
    for (uint32_t step = 0; step < 2; step++) {
        bool has_vector = v < p.full_end;
        if (step == 1) {
            v = threadIdx.x == 0 ? p.v_first : p.full_end;
            has_vector =
                threadIdx.x == 0 ? p.v_first < p.v_full : threadIdx.x == 1 && p.full_end < p.v_end;
        }
        if (__any_sync(~0u, has_vector)) {
            float4 f = has_vector ? load(p, v) : none;
            fill_vector<carries>(c, v, f, has_vector, &sm->bins);
        }
    }
    uint64_t mass = c.min_p_mass;
    for (uint32_t i = 16; i > 0; i /= 2)
        mass += __shfl_xor_sync(~0u, mass, i);
    if (threadIdx.x % 32 == 0 && mass > 0)
        atomicAdd((unsigned long long *)&sm->state.min_p_mass, (unsigned long long)mass);
}

/* Exclusive prefix over the block of one value a thread; *out_all is that of all. */
__device__ __noinline__ struct prefix block_scan(struct prefix mine, struct prefix *out_all)
{
    struct state *st = &shared()->state;
    uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    uint32_t n = mine.n;
    uint64_t mass = mine.mass;
    for (uint32_t i = 1; i < 32; i *= 2) {
        uint32_t n_below = __shfl_up_sync(~0u, n, i);
        uint64_t mass_below = __shfl_up_sync(~0u, mass, i);
        if (lane >= i) {
            n += n_below;
            mass += mass_below;
        }
    }
    __syncthreads();
    if (lane == 31) {
        st->warp_b[warp] = n;
        st->warp_a[warp] = mass;
    }
    __syncthreads();
    struct prefix before = {n - mine.n, mass - mine.mass}, all = {0, 0};
    /* 32 warps: each lane takes one warp's total. */
    uint32_t warp_n = st->warp_b[lane];
    uint64_t warp_mass = st->warp_a[lane];
    for (uint32_t i = 1; i < 32; i *= 2) {
        uint32_t n_below = __shfl_up_sync(~0u, warp_n, i);
        uint64_t mass_below = __shfl_up_sync(~0u, warp_mass, i);
        if (lane >= i) {
            warp_n += n_below;
            warp_mass += mass_below;
        }
    }
    all.n = __shfl_sync(~0u, warp_n, 31);
    all.mass = __shfl_sync(~0u, warp_mass, 31);
    uint32_t n_warps_before = __shfl_sync(~0u, warp_n, (warp + 31) % 32);
    uint64_t mass_warps_before = __shfl_sync(~0u, warp_mass, (warp + 31) % 32);
    if (warp > 0) {
        before.n += n_warps_before;
        before.mass += mass_warps_before;
    }
    *out_all = all;
    return before;
}

/* Merged bins, BINS_A_THREAD of them a thread. In a split all are part of bin `of`. */
struct bins_view {
    uint32_t n_bins, shift;
    uint32_t of; /* BIN_NONE: each is a bin of its own */
};

__device__ __forceinline__ struct prefix view_bin(const struct bins_view &w, uint32_t i)
{
    uint32_t count = shared()->bins.count[i];
    uint64_t sum = (uint64_t)shared()->bins.sum[1][i] << 32 | shared()->bins.sum[0][i];
    struct prefix p = {count, 0};
    if (count > 0)
        p.mass = bin_mass(w.of == BIN_NONE ? i : w.of, w.shift, count, sum);
    return p;
}

/* The prefixes before and after a thread's bins. */
struct span {
    struct prefix before, after;
};

__device__ __noinline__ struct span view_scan(const struct bins_view &w, struct prefix before_all,
                                              struct prefix *out_all)
{
    struct state *st = &shared()->state;
    struct prefix mine = {0, 0};
#pragma unroll 2
    for (uint32_t j = 0; j < BINS_A_THREAD; j++) {
        uint32_t i = threadIdx.x * BINS_A_THREAD + j;
        if (i >= w.n_bins)
            break;
        struct prefix p = view_bin(w, i);
        mine.n += p.n;
        mine.mass += p.mass;
    }
    struct prefix before = block_scan(mine, out_all);
    before.n += before_all.n;
    before.mass += before_all.mass;
    return {before, {before.n + mine.n, before.mass + mine.mass}};
}

/* The thread in whose bins the goal is reached writes st->hit. */
__device__ __noinline__ void view_find(const struct bins_view &w, const struct span &mine,
                                       struct goal goal)
{
    struct state *st = &shared()->state;
    if (reaches(mine.before.n, mine.before.mass, goal) ||
        !reaches(mine.after.n, mine.after.mass, goal))
        return;
    struct prefix before = mine.before;
    uint32_t i = threadIdx.x * BINS_A_THREAD;
    struct prefix p = view_bin(w, i);
    while (!reaches(before.n + p.n, before.mass + p.mass, goal)) {
        before.n += p.n;
        before.mass += p.mass;
        p = view_bin(w, ++i);
    }
    st->hit = {before, i, p.n};
}

} // namespace sampling

#endif
