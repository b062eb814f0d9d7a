/* sample: the draw of struct sample_row in kernels/ops.h, bit for bit, without sorting the
 * vocabulary. A row is the work of one cluster of 1 to 8 blocks (one block where there are none):
 *
 *   1  reads the logits for the greatest and the least; a greedy row ends here with its argmax
 *   2  reads them again, now from the L2: weight, its bin, and per bin the count and the mass
 *   3  every prefix that is sought (top-k, top-p, the token drawn) ends in some bin: the tokens of
 *      that bin are collected and put in order, and summed up to where it ends
 *
 * Every block of a cluster gets the bins of all and every token collected, and comes to the same
 * results: less waiting than for one that decides.
 *
 * Bins are made from the float bits of the weight: with d = TOP - bits(weight), bin = d >> shift.
 * They are finer than 1 % and follow the row's range, so that few tokens share one. In a bin the
 * weight falls by the same unit with each step of d: its mass is count * (weight at its top) -
 * unit * (sum of the low bits of d). Hence two 32-bit shared atomics a token give exact masses.
 * A bin with more tokens than can be sorted is split by logit until few or only equal ones are
 * left.
 *
 * Launch   n_rows clusters, blocks of 1024; about 230 KB shared with clusters, else 80 KB
 * Cost     4 B a token from memory, as much again from the L2
 * Checked  bench/gpu/check_sample.cu: the same ids as the CPU op */
#include "kernels/cuda/cuda_ops.h"

#include <cuda_runtime.h>

namespace
{

constexpr uint32_t THREADS = 1024, WARPS = THREADS / 32;
constexpr uint32_t CLUSTER_MAX = 8;
constexpr uint32_t VECTORS_MAX = 19000;   /* of 4 logits, of one block whose bins are shared */
constexpr uint32_t COLLECT_MAX = THREADS; /* tokens that are sorted, one a thread */
constexpr uint32_t COUNT_MAX = 256;       /* so few are counted against each other instead */
constexpr uint32_t FINDS_MAX = 3;
constexpr uint32_t SPLIT_BINS = 4096; /* of logits, when a bin is split */
constexpr uint32_t SHIFT_MAX = 16;
constexpr uint32_t TOP = (127u + OPS_WEIGHT_BITS) << 23; /* bits of 2^OPS_WEIGHT_BITS */
constexpr uint32_t D_MAX = OPS_WEIGHT_BITS << 23;        /* of weight 1 */
constexpr uint32_t N_BINS = (D_MAX >> SHIFT_MAX) + 1;
/* Tokens without weight are added to bins of no use, one a lane, rather than not at all. */
constexpr uint32_t N_SLOTS = (N_BINS + 32 + 31) / 32 * 32;
constexpr uint32_t BINS_A_THREAD = (N_BINS + THREADS - 1) / THREADS;
constexpr uint16_t BIN_NONE = 0xffff; /* as any from N_BINS on */
constexpr uint64_t WEIGHT_ONE = 1ull << OPS_WEIGHT_BITS;
constexpr float X_MIN = -28.0f; /* no token below it has weight */

static_assert(SPLIT_BINS <= N_BINS, "a split uses the memory of the bins");
/* Two sums of low bits, one of even and one of odd warps, never overflow. */
static_assert((uint64_t)(VECTORS_MAX * 4 + 4096) / 2 << SHIFT_MAX <= 0xffffffffull, "sum of d");

struct prefix {
    uint32_t n;
    uint64_t mass;
};

/* What is sought: the shortest prefix of n tokens, or of at least `mass`. */
struct goal {
    uint32_t n;
    uint64_t mass;
};

struct hit {
    struct prefix before; /* of the bin */
    uint32_t bin, count;
};

/* Fields of this block. The blocks of a cluster come to the same results, each for itself. */
struct state {
    struct sample_row row;
    /* Read by the others. */
    float best, least;
    uint64_t argmax;
    uint32_t key_min, key_max, n_matching;
    uint32_t list_first; /* of this block's tokens */
    uint64_t min_p_mass;
    uint32_t n_collected[FINDS_MAX]; /* of the first block: by all */
    /* Results that one thread has for all. */
    struct hit hit;
    uint64_t end_mass; /* of the prefix found */
    uint32_t id;       /* its last token */
    /* Scratch of block-wide steps. */
    uint64_t warp_a[WARPS];
    uint32_t warp_b[WARPS];
};

struct alignas(16) shared_bins {
    uint32_t count[N_SLOTS];
    uint32_t sum[2]
                [N_SLOTS]; /* of the low bits of d: even, odd warps; when merged low, high word */
};

struct alignas(16) shared_memory {
    /* Collected tokens: descending key << 32 | id. Two lists, in turn: a block may be done with one
     * and fill the next while another still reads. */
    uint64_t list[2][COLLECT_MAX];
    struct shared_bins bins;
    struct state state;
};

constexpr size_t SHARED_BYTES = sizeof(struct shared_memory);
static_assert(SHARED_BYTES % 16 == 0, "bins follow");

/* By its name, also in functions that are not inlined: the compiler then knows that it is shared.
 */
extern __shared__ __align__(16) unsigned char dynamic[];

__device__ __forceinline__ struct shared_memory *shared()
{
    return (struct shared_memory *)dynamic;
}

/* ---- Clusters ---------------------------------------------------------------------------------
 * Without them, a cluster is one block. */

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

__device__ __forceinline__ void cluster_sync()
{
    asm volatile("barrier.cluster.arrive.release;\n\t"
                 "barrier.cluster.wait.acquire;" ::
                     : "memory");
}

/* Address of the same shared variable in block `rank` of the cluster. */
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

__device__ __forceinline__ void cluster_sync()
{
    __syncthreads();
}

template <typename T> __device__ __forceinline__ T *peer(T *shared, uint32_t)
{
    return shared;
}
#endif

/* ---- Numbers -------------------------------------------------------------------------------- */

/* cpu_exp_f32(x) * 2^OPS_WEIGHT_BITS for x in [X_MIN, 0], step for step as kernels/cpu/vec.inc has
 * it, but that OPS_WEIGHT_BITS, an even number, is added to the exponent n from the start, and that
 * n * 0.693359375 is exact, so that the one fused operation rounds as the two. */
__device__ __forceinline__ float exp_scaled(float x)
{
    constexpr float MAGIC = 12582912.0f + OPS_WEIGHT_BITS; /* its own bits << 23 are just that */
    float t = __fadd_rn(__fmul_rn(x, 1.44269504088896341f), MAGIC);
    float nf = __fadd_rn(t, -MAGIC);
    float r = __fadd_rn(__fmaf_rn(nf, -0.693359375f, x), __fmul_rn(nf, 2.12194440e-4f));
    float p = __fadd_rn(__fmul_rn(r, 1.0f / 5040.0f), 1.0f / 720.0f);
    p = __fadd_rn(__fmul_rn(p, r), 1.0f / 120.0f);
    p = __fadd_rn(__fmul_rn(p, r), 1.0f / 24.0f);
    p = __fadd_rn(__fmul_rn(p, r), 1.0f / 6.0f);
    p = __fadd_rn(__fmul_rn(p, r), 0.5f);
    p = __fadd_rn(__fadd_rn(__fmul_rn(p, __fmul_rn(r, r)), r), 1.0f);
    return __uint_as_float(__float_as_uint(p) + (__float_as_uint(t) << 23));
}

struct scale {
    float best, inverse_t;
};

__device__ __forceinline__ float x_of(float logit, struct scale s)
{
    return __fmul_rn(__fsub_rn(logit, s.best), s.inverse_t);
}

/* The weight, a whole number. At X_MIN, where x too low or NaN is put, it is 0. */
__device__ __forceinline__ float weight_of_x(float x)
{
    return truncf(exp_scaled(fmaxf(x, X_MIN)));
}

__device__ __noinline__ float weight_of(float logit, struct scale s)
{
    return weight_of_x(x_of(logit, s));
}

/* Smaller for greater logits; -0 equals 0. */
__device__ __forceinline__ uint32_t descending_key(float f)
{
    uint32_t u = __float_as_uint(__fadd_rn(f, 0.0f));
    return (u & 0x80000000u) != 0 ? u : ~(u | 0x80000000u);
}

__device__ __forceinline__ float logit_of_key(uint32_t key)
{
    return __uint_as_float((key & 0x80000000u) != 0 ? key : ~key & 0x7fffffffu);
}

/* Mass of `count` tokens of a bin whose low bits of d add up to `sum`. The weight at the bin's top
 * is `top` units of d; below a unit of 1, all three are multiples of 1 / unit. */
__device__ __forceinline__ uint64_t bin_mass(uint32_t bin, uint32_t shift, uint32_t count,
                                             uint64_t sum)
{
    uint32_t bits = TOP - 1 - (bin << shift);
    uint32_t top = ((bits & 0x7fffffu) | 0x800000u) + 1;
    int exponent = (int)(bits >> 23) - 150; /* of the unit */
    uint64_t units = (uint64_t)count * top - sum;
    return exponent >= 0 ? units << exponent : units >> -exponent;
}

__device__ __forceinline__ bool reaches(uint32_t n, uint64_t mass, struct goal g)
{
    return n >= g.n || mass >= g.mass;
}

/* ---- A row's part in this block ---------------------------------------------------------------
 * Vector v of a row holds the logits at [4 v - skew, 4 v - skew + 4): so it is aligned. */

struct part {
    const float4 *vectors;
    uint32_t n_vocab, skew;
    uint32_t v_first, v_end;
    uint32_t v_full, full_end; /* those of them that are within the row as a whole */
    uint16_t *bins; /* [v_end - v_first][4]; before phase 2, BIN_NONE marks a banned id */
    bool has_banned;
};

__device__ struct part part_make(const float *row, uint32_t n_vocab)
{
    struct part p;
    p.n_vocab = n_vocab;
    p.skew = (uint32_t)((uintptr_t)row / 4 % 4);
    p.vectors = (const float4 *)(row - p.skew);
    uint32_t n_vectors = (n_vocab + p.skew + 3) / 4;
    uint32_t each = (n_vectors + cluster_blocks() - 1) / cluster_blocks();
    p.v_first = min(n_vectors, each * cluster_rank());
    p.v_end = min(n_vectors, p.v_first + each);
    p.v_full = min(p.v_end, p.v_first + (p.v_first == 0 && p.skew > 0));
    p.full_end = max(p.v_full, min(p.v_end, (n_vocab + p.skew) / 4));
    p.has_banned = false;
    return p;
}

__device__ __forceinline__ uint32_t id_of(const struct part &p, uint32_t v, uint32_t lane)
{
    return 4 * v + lane - p.skew;
}

/* A vector at an end of the row: -inf beyond it. */
__device__ __noinline__ float4 load_partial(const float *vector, uint32_t n_vocab, uint32_t first)
{
    float f[4];
#pragma unroll
    for (uint32_t j = 0; j < 4; j++)
        f[j] = first + j < n_vocab ? vector[j] : -INFINITY;
    return make_float4(f[0], f[1], f[2], f[3]);
}

__device__ __forceinline__ float4 load(const struct part &p, uint32_t v)
{
    if (v >= p.v_full && v < p.full_end)
        return __ldg(p.vectors + v);
    return load_partial((const float *)(p.vectors + v), p.n_vocab, id_of(p, v, 0));
}

__device__ __forceinline__ ushort4 *bins_at(const struct part &p, uint32_t v)
{
    return (ushort4 *)p.bins + (v - p.v_first);
}

/* Banned ids of a vector become -inf. */
__device__ __noinline__ float4 ban(float4 f, ushort4 b)
{
    f.x = b.x == BIN_NONE ? -INFINITY : f.x;
    f.y = b.y == BIN_NONE ? -INFINITY : f.y;
    f.z = b.z == BIN_NONE ? -INFINITY : f.z;
    f.w = b.w == BIN_NONE ? -INFINITY : f.w;
    return f;
}

__device__ __noinline__ void mark_banned(struct part p, const uint32_t *banned, uint32_t n_banned)
{
    for (uint32_t v = p.v_first + threadIdx.x; v < p.v_end; v += THREADS)
        *bins_at(p, v) = make_ushort4(0, 0, 0, 0);
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < n_banned; i += THREADS) {
        uint32_t id = banned[i];
        if (id >= p.n_vocab)
            continue;
        uint32_t at = id + p.skew;
        if (at / 4 >= p.v_first && at / 4 < p.v_end)
            p.bins[at - 4 * p.v_first] = BIN_NONE;
    }
    __syncthreads();
}

/* Calls f(vector index, logits) for the block's vectors: four loads in flight a thread. */
template <typename F> __device__ __forceinline__ void for_each_vector(const struct part &p, F f)
{
    /* At most two are partial: the row's first and its last. */
    if (threadIdx.x == 0 && p.v_first < p.v_full)
        f(p.v_first, load(p, p.v_first));
    uint32_t v = p.v_full + threadIdx.x;
    for (; v + 3 * THREADS < p.full_end; v += 4 * THREADS) {
        float4 l[4];
#pragma unroll
        for (uint32_t u = 0; u < 4; u++)
            l[u] = __ldg(p.vectors + v + u * THREADS);
#pragma unroll
        for (uint32_t u = 0; u < 4; u++)
            f(v + u * THREADS, l[u]);
    }
#pragma unroll 1
    for (; v < p.full_end; v += THREADS)
        f(v, __ldg(p.vectors + v));
    if (threadIdx.x == 1 && p.full_end < p.v_end)
        f(p.full_end, load(p, p.full_end));
}

/* ---- Phase 1: the extremes ------------------------------------------------------------------ */

/* argmax of a set: the greatest of (ascending key << 32 | ~id); 0 for an empty one. */
__device__ __forceinline__ uint64_t argmax_item(float logit, uint32_t id)
{
    return (uint64_t)~descending_key(logit) << 32 | (uint32_t)~id;
}

__device__ void argmax_block(const struct part &p, struct state *st)
{
    float best = -INFINITY;
    uint32_t id = OPS_NO_TOKEN;
    for_each_vector(p, [&](uint32_t v, float4 f) {
        if (p.has_banned)
            f = ban(f, *bins_at(p, v));
        float l[4] = {f.x, f.y, f.z, f.w};
#pragma unroll
        for (uint32_t j = 0; j < 4; j++) {
            if (l[j] > best) { /* the lowest id of equal ones: a thread's ids ascend */
                best = l[j];
                id = id_of(p, v, j);
            }
        }
    });
    uint64_t item = id == OPS_NO_TOKEN ? 0 : argmax_item(best, id);
    for (uint32_t i = 16; i > 0; i /= 2)
        item = max(item, __shfl_xor_sync(~0u, item, i));
    if (threadIdx.x % 32 == 0)
        st->warp_a[threadIdx.x / 32] = item;
    __syncthreads();
    if (threadIdx.x < 32) {
        item = st->warp_a[threadIdx.x];
        for (uint32_t i = 16; i > 0; i /= 2)
            item = max(item, __shfl_xor_sync(~0u, item, i));
        if (threadIdx.x == 0)
            st->argmax = item;
    }
}

/* The row's argmax; the first block's answer is the cluster's. */
__device__ uint32_t argmax_cluster(const struct part &p, struct state *st)
{
    argmax_block(p, st);
    cluster_sync();
    uint64_t item = 0;
    if (cluster_rank() == 0 && threadIdx.x == 0)
        for (uint32_t r = 0; r < cluster_blocks(); r++)
            item = max(item, *peer(&st->argmax, r));
    cluster_sync();
    return item == 0 ? OPS_NO_TOKEN : ~(uint32_t)item;
}

/* Greatest logit and least one above -inf, of the whole row; -inf and +inf if there is none. */
__device__ void extremes(const struct part &p, struct state *st, float *out_best, float *out_least)
{
    float best = -INFINITY, least = INFINITY;
    for_each_vector(p, [&](uint32_t v, float4 f) {
        if (p.has_banned)
            f = ban(f, *bins_at(p, v));
        float l[4] = {f.x, f.y, f.z, f.w};
#pragma unroll
        for (uint32_t j = 0; j < 4; j++) {
            best = fmaxf(best, l[j]); /* of a NaN and a number, these take the number */
            least = fminf(least, l[j] == -INFINITY ? INFINITY : l[j]);
        }
    });
    for (uint32_t i = 16; i > 0; i /= 2) {
        best = fmaxf(best, __shfl_xor_sync(~0u, best, i));
        least = fminf(least, __shfl_xor_sync(~0u, least, i));
    }
    if (threadIdx.x % 32 == 0)
        st->warp_a[threadIdx.x / 32] =
            (uint64_t)__float_as_uint(best) << 32 | __float_as_uint(least);
    __syncthreads();
    if (threadIdx.x < 32) {
        uint64_t both = st->warp_a[threadIdx.x];
        best = __uint_as_float((uint32_t)(both >> 32));
        least = __uint_as_float((uint32_t)both);
        for (uint32_t i = 16; i > 0; i /= 2) {
            best = fmaxf(best, __shfl_xor_sync(~0u, best, i));
            least = fminf(least, __shfl_xor_sync(~0u, least, i));
        }
        st->best = best;
        st->least = least;
    }
    cluster_sync();
    best = -INFINITY;
    least = INFINITY;
    for (uint32_t r = 0; r < cluster_blocks(); r++) {
        best = fmaxf(best, *peer(&st->best, r));
        least = fminf(least, *peer(&st->least, r));
    }
    *out_best = best;
    *out_least = least;
}

/* ---- Phase 2: bins -------------------------------------------------------------------------- */

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
__device__ uint32_t shift_for(uint32_t d_max, uint32_t n_bins)
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
            d[j] = TOP - __float_as_uint(weight_of_x(x[j])); /* of weight 0: far beyond all bins */
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
    float4 next = n_rounds > 0 ? __ldg(p.vectors + v) : none;
#pragma unroll 2
    for (uint32_t round = 0; round < n_rounds; round++, v += THREADS) {
        float4 f = next;
        if (round + 1 < n_rounds)
            next = __ldg(p.vectors + v + THREADS);
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

/* ---- Phase 3: collecting and searching ------------------------------------------------------ */

/* Tokens of bins [first, end) with keys [lo, hi]. */
struct range {
    uint32_t first, end;
    uint32_t lo, hi;
};

/* Calls f(id) for the block's tokens of a range, whatever their keys. */
template <typename F>
__device__ __forceinline__ void for_each_bin_in(const struct part &p, struct range range, F f)
{
    uint32_t n_bins = range.end - range.first;
#pragma unroll 2
    for (uint32_t v = p.v_first + threadIdx.x; v < p.v_end; v += THREADS) {
        ushort4 b4 = *bins_at(p, v);
        uint32_t b[4] = {b4.x - range.first, b4.y - range.first, b4.z - range.first,
                         b4.w - range.first};
        if (min(min(b[0], b[1]), min(b[2], b[3])) >= n_bins)
            continue;
#pragma unroll 1
        for (uint32_t j = 0; j < 4; j++) {
            if (b[0] < n_bins)
                f(id_of(p, v, j));
            b[0] = b[1];
            b[1] = b[2];
            b[2] = b[3];
        }
    }
}

/* Calls f(id, key) for the block's tokens of a range. */
template <typename F>
__device__ __forceinline__ void for_each_in(const struct part &p, struct range range, F f)
{
    uint32_t n_bins = range.end - range.first;
#pragma unroll 2
    for (uint32_t v = p.v_first + threadIdx.x; v < p.v_end; v += THREADS) {
        ushort4 b4 = *bins_at(p, v);
        uint32_t b[4] = {b4.x, b4.y, b4.z, b4.w};
        bool is_in[4];
#pragma unroll
        for (uint32_t j = 0; j < 4; j++)
            is_in[j] = b[j] - range.first < n_bins;
        if (!(is_in[0] || is_in[1] || is_in[2] || is_in[3]))
            continue;
        float4 f4 = load(p, v);
        float logit[4] = {f4.x, f4.y, f4.z, f4.w};
#pragma unroll
        for (uint32_t j = 0; j < 4; j++) {
            uint32_t key = descending_key(logit[j]);
            if (is_in[j] && key >= range.lo && key <= range.hi)
                f(id_of(p, v, j), key);
        }
    }
}

/* A collected token, held by one thread. */
struct entry {
    bool is_token;
    uint32_t id;
    struct prefix before; /* of the token */
    uint64_t weight;
};

/* Everything of a row that the steps of phase 3 share. */
struct context {
    struct part part;
    struct scale scale;
    uint32_t shift;
    struct span mine;          /* of view_scan over the bins */
    struct shared_bins *saved; /* in the workspace: of the row */
    uint32_t n_collects;       /* so far */
    uint32_t first, end;       /* bins whose tokens are in the entries; empty: none */
    struct entry entry;
    /* Equal logits that a split ended with; n 0: none. */
    uint32_t equal_bin, equal_key, equal_n;
    struct prefix equal_before;
};

/* The part for a function that is not inlined: as with shared(). */
template <bool carries> __device__ __forceinline__ struct part part_of(const struct part &part)
{
    struct part p = part;
    if (!carries)
        p.bins = (uint16_t *)(dynamic + SHARED_BYTES);
    return p;
}

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
__device__ struct entry entries_sort(uint64_t *list, uint32_t n, struct prefix before,
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
__device__ struct entry entries_count(uint64_t *list, uint32_t n, struct prefix before,
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

/* All blocks get all tokens of a range, COLLECT_MAX at most, as entries. */
template <bool carries>
__device__ __noinline__ void collect(struct context &c, struct range range, struct prefix before)
{
    struct shared_memory *sm = shared();
    struct state *st = &sm->state;
    const struct part p = part_of<carries>(c.part);
    uint64_t *list = sm->list[c.n_collects % 2];
    uint64_t *own = sm->list[(c.n_collects + 1) % 2]; /* nobody's until the next barrier */
    uint32_t *n = peer(&st->n_collected[c.n_collects], 0);
    uint32_t n_blocks = cluster_blocks();
    if (threadIdx.x == 0)
        st->n_matching = 0;
    __syncthreads();
    if (range.lo == 0 && range.hi == ~0u) { /* the ids first, then all their logits at once */
        for_each_bin_in(p, range, [&](uint32_t id) { own[atomicAdd(&st->n_matching, 1u)] = id; });
    } else {
        for_each_in(p, range, [&](uint32_t id, uint32_t key) {
            own[atomicAdd(&st->n_matching, 1u)] = (uint64_t)key << 32 | id;
        });
    }
    __syncthreads();
    uint32_t n_own = st->n_matching;
    if (threadIdx.x == 0 && n_own > 0)
        st->list_first = atomicAdd(n, n_own);
    uint64_t item = 0;
    if (threadIdx.x < n_own) {
        uint32_t id = (uint32_t)own[threadIdx.x];
        item = (uint64_t)descending_key(((const float *)p.vectors)[id + p.skew]) << 32 | id;
    }
    __syncthreads();
    if (threadIdx.x < n_own)
        for (uint32_t r = 0; r < n_blocks; r++)
            peer(list, r)[st->list_first + threadIdx.x] = item;
    cluster_sync();
    uint32_t n_tokens = *n;
    c.n_collects++;
    c.entry = n_tokens <= COUNT_MAX ? entries_count(list, n_tokens, before, c.scale)
                                    : entries_sort(list, n_tokens, before, c.scale);
}

/* The thread whose token ends the prefix writes it down for all. */
__device__ __noinline__ void search(const struct entry &e, struct goal goal)
{
    struct state *st = &shared()->state;
    struct prefix after = {e.before.n + 1, e.before.mass + e.weight};
    if (e.is_token && reaches(after.n, after.mass, goal) &&
        !reaches(e.before.n, e.before.mass, goal)) {
        st->end_mass = after.mass;
        st->id = e.id;
    }
    __syncthreads();
}

/* Calls f(id, is it in the range) for 32 vectors of this warp's share of the block's, from `v` on:
 * id after id within a lane, lane after lane. */
__device__ __forceinline__ uint32_t in_range_bits(const struct part &p, struct range range,
                                                  uint32_t v, uint32_t v_end)
{
    uint32_t bits = 0;
    if (v >= v_end)
        return 0;
    ushort4 b4 = *bins_at(p, v);
    uint32_t b[4] = {b4.x, b4.y, b4.z, b4.w};
    float4 f4 = load(p, v);
    float logit[4] = {f4.x, f4.y, f4.z, f4.w};
#pragma unroll
    for (uint32_t j = 0; j < 4; j++) {
        uint32_t key = descending_key(logit[j]);
        bits |= (uint32_t)(b[j] - range.first < range.end - range.first && key >= range.lo &&
                           key <= range.hi)
                << j;
    }
    return bits;
}

/* The first block's st->id becomes number `rank`, in order of ids, of the row's tokens in a range.
 */
template <bool carries>
__device__ __noinline__ void find_by_id(const struct part &whole, struct range range, uint32_t rank)
{
    struct state *st = &shared()->state;
    const struct part p = part_of<carries>(whole);
    /* A warp has vectors side by side. */
    uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    uint32_t each = ((p.v_end - p.v_first + WARPS - 1) / WARPS + 31) / 32 * 32;
    uint32_t v_first = min(p.v_end, p.v_first + warp * each);
    uint32_t v_end = min(p.v_end, v_first + each);
    uint32_t mine = 0;
    for (uint32_t v = v_first + lane; v < v_end; v += 32)
        mine += __popc(in_range_bits(p, range, v, v_end));
    struct prefix all, before = block_scan({mine, 0}, &all);
    if (threadIdx.x == 0)
        st->n_matching = all.n;
    cluster_sync();
    uint32_t seen = __shfl_sync(~0u, before.n, 0); /* before this warp */
    uint32_t n_warp = __shfl_sync(~0u, before.n + mine, 31) - seen;
    for (uint32_t r = 0; r < cluster_rank(); r++)
        seen += *peer(&st->n_matching, r);
    if (rank >= seen && rank < seen + n_warp) {
        for (uint32_t v = v_first; v < v_end; v += 32) {
            uint32_t bits = in_range_bits(p, range, v + lane, v_end);
            uint32_t n_upto = __popc(bits);
            for (uint32_t i = 1; i < 32; i *= 2) {
                uint32_t below = __shfl_up_sync(~0u, n_upto, i);
                n_upto += lane >= i ? below : 0;
            }
            uint32_t at = seen + n_upto - __popc(bits);
            for (uint32_t j = 0; j < 4; j++)
                if ((bits >> j & 1) != 0 && at++ == rank)
                    *peer(&st->id, 0) = id_of(p, v + lane, j);
            seen += __shfl_sync(~0u, n_upto, 31);
        }
    }
    cluster_sync();
}

/* Narrows range.lo and range.hi to the keys that the row has there. */
template <bool carries>
__device__ __noinline__ void key_extremes(const struct part &whole, struct range *range)
{
    struct state *st = &shared()->state;
    const struct part p = part_of<carries>(whole);
    if (threadIdx.x == 0) {
        st->key_min = ~0u;
        st->key_max = 0;
    }
    __syncthreads();
    uint32_t least = ~0u, most = 0;
    for_each_in(p, *range, [&](uint32_t, uint32_t key) {
        least = min(least, key);
        most = max(most, key);
    });
    least = __reduce_min_sync(~0u, least);
    most = __reduce_max_sync(~0u, most);
    if (threadIdx.x % 32 == 0) {
        atomicMin(&st->key_min, least);
        atomicMax(&st->key_max, most);
    }
    cluster_sync();
    least = ~0u;
    most = 0;
    for (uint32_t r = 0; r < cluster_blocks(); r++) {
        least = min(least, *peer(&st->key_min, r));
        most = max(most, *peer(&st->key_max, r));
    }
    cluster_sync();
    range->lo = least;
    range->hi = most;
}

/* The prefix ends among the equal logits of c.equal_*: counting is enough. */
template <bool carries>
__device__ __noinline__ void find_equal(const struct context &c, struct goal goal, bool wants_id)
{
    struct state *st = &shared()->state;
    uint64_t weight = (uint64_t)weight_of(logit_of_key(c.equal_key), c.scale);
    uint64_t n_by_mass = (goal.mass - c.equal_before.mass - 1) / weight + 1;
    uint32_t n = (uint32_t)min(n_by_mass, (uint64_t)(goal.n - c.equal_before.n));
    if (threadIdx.x == 0)
        st->end_mass = c.equal_before.mass + n * weight;
    if (wants_id)
        find_by_id<carries>(c.part, {c.equal_bin, c.equal_bin + 1, c.equal_key, c.equal_key},
                            n - 1);
    __syncthreads();
}

__device__ __noinline__ bool is_in_equal(const struct context &c, struct goal goal)
{
    if (c.equal_n == 0 || reaches(c.equal_before.n, c.equal_before.mass, goal))
        return false;
    uint64_t weight = (uint64_t)weight_of(logit_of_key(c.equal_key), c.scale);
    return reaches(c.equal_before.n + c.equal_n, c.equal_before.mass + c.equal_n * weight, goal);
}

/* The prefix ends among the `hit` tokens of one bin, which are too many to sort. */
template <bool carries>
__device__ __noinline__ void split(struct context &c, struct hit hit, struct goal goal,
                                   bool wants_id)
{
    struct shared_memory *sm = shared();
    const struct part part = part_of<carries>(c.part);
    struct state *st = &sm->state;
    struct range range = {hit.bin, hit.bin + 1, 0, ~0u};
    uint32_t mask = (1u << c.shift) - 1;
    uint32_t *saved = (uint32_t *)c.saved, *bins = (uint32_t *)&sm->bins;
    cluster_sync(); /* nobody fetches the bins any more */
    if (cluster_rank() == 0)
        for (uint32_t i = threadIdx.x; i < sizeof(sm->bins) / 4; i += THREADS)
            saved[i] = bins[i];
    while (hit.count > COLLECT_MAX) {
        key_extremes<carries>(c.part, &range);
        if (range.lo == range.hi)
            break;
        uint32_t key_shift = shift_for(range.hi - range.lo, SPLIT_BINS);
        bins_clear();
        __syncthreads();
        for_each_in(part, range, [&](uint32_t, uint32_t key) {
            float w = weight_of(logit_of_key(key), c.scale);
            uint32_t low = (TOP - __float_as_uint(w)) & mask;
            bins_add_one<carries>(&sm->bins, (key - range.lo) >> key_shift, 1, low);
        });
        bins_merge<carries>();
        struct bins_view view = {SPLIT_BINS, c.shift, range.first};
        struct prefix all;
        struct span mine = view_scan(view, hit.before, &all);
        view_find(view, mine, goal);
        __syncthreads();
        hit = st->hit;
        range.lo += hit.bin << key_shift;
        range.hi = min(range.hi, range.lo + ((1u << key_shift) - 1));
    }
    cluster_sync(); /* the saved bins are there; nobody fetches those of the split any more */
    for (uint32_t i = threadIdx.x; i < sizeof(sm->bins) / 4; i += THREADS)
        bins[i] = __ldcg(saved + i);
    __syncthreads();
    if (hit.count > COLLECT_MAX) {
        c.equal_bin = range.first;
        c.equal_key = range.lo;
        c.equal_n = hit.count;
        c.equal_before = hit.before;
        find_equal<carries>(c, goal, wants_id);
        return;
    }
    collect<carries>(c, range, hit.before);
    search(c.entry, goal);
    c.first = c.end = 0; /* a part of a bin is of no use to the next */
}

/* Finds the end of a prefix: st->end_mass, and in the first block st->id if wanted. */
template <bool carries>
__device__ void prefix_find(struct context &c, struct goal goal, bool wants_id)
{
    struct state *st = &shared()->state;
    struct bins_view view = {N_BINS, c.shift, BIN_NONE};
    view_find(view, c.mine, goal);
    __syncthreads();
    struct hit hit = st->hit;
    if (hit.bin >= c.first && hit.bin < c.end) {
        search(c.entry, goal);
        return;
    }
    if (is_in_equal(c, goal)) {
        find_equal<carries>(c, goal, wants_id);
        return;
    }
    if (hit.count > COLLECT_MAX) {
        split<carries>(c, hit, goal, wants_id);
        return;
    }
    struct range range = {hit.bin, hit.bin + 1, 0, ~0u};
    if (hit.before.n + hit.count <= COUNT_MAX) {
        range.first = 0;
        hit.before = {0, 0};
    }
    collect<carries>(c, range, hit.before);
    c.first = range.first;
    c.end = range.end;
    search(c.entry, goal);
}

/* What min-p keeps of the whole row. */
__device__ uint64_t min_p_mass(struct state *st)
{
    uint64_t mass = 0;
    for (uint32_t r = 0; r < cluster_blocks(); r++)
        mass += peer(st, r)->min_p_mass;
    return max(mass, WEIGHT_ONE);
}

/* Phases 2 and 3 of a row with a finite best; the first block returns its id. */
template <bool carries>
__device__ uint32_t draw(const struct part &part, struct scale scale, float least,
                         struct shared_bins *saved)
{
    struct shared_memory *sm = shared();
    struct state *st = &sm->state;
    const struct sample_row &row = st->row;
    float w = weight_of(least, scale);
    uint32_t shift = shift_for(w > 0.0f ? TOP - __float_as_uint(w) : D_MAX, N_BINS);
    float min_p_limit = INFINITY;
    if (row.min_p > 0.0f)
        min_p_limit = truncf(__fmul_rn(fminf(row.min_p, 2.0f), (float)WEIGHT_ONE));
    bins_clear();
    if (threadIdx.x == 0)
        st->min_p_mass = 0;
    if (threadIdx.x < FINDS_MAX)
        st->n_collected[threadIdx.x] = 0;
    __syncthreads();
    bins_fill<carries>({part, scale, shift, min_p_limit, 0}, sm);
    bins_merge<carries>();
    struct context c;
    c.part = part;
    c.scale = scale;
    c.shift = shift;
    c.saved = saved;
    struct bins_view view = {N_BINS, c.shift, BIN_NONE};
    struct prefix all;
    c.mine = view_scan(view, {0, 0}, &all);
    c.n_collects = c.first = c.end = c.equal_n = 0;
    uint64_t kept = all.mass;
    uint64_t kept_by_min_p = row.min_p > 0.0f ? min_p_mass(st) : UINT64_MAX;
    /* In turn: the end of top-k's prefix, of top-p's, of the draw's. */
#pragma unroll 1
    for (uint32_t step = 0; step < FINDS_MAX; step++) {
        struct goal goal = {UINT32_MAX, UINT64_MAX};
        if (step == 0) {
            if (row.top_k == 0 || row.top_k >= all.n)
                continue;
            goal.n = row.top_k;
        } else if (step == 1) {
            if (!(row.top_p > 0.0f && row.top_p < 1.0f))
                continue;
            goal.mass = max(ops_sample_of(ops_sample_part(row.top_p), kept), (uint64_t)1);
        } else {
            kept = min(kept, kept_by_min_p);
            goal.mass = ops_sample_of(ops_sample_part(row.uniform), kept) + 1;
        }
        prefix_find<carries>(c, goal, step == 2);
        kept = st->end_mass;
    }
    cluster_sync(); /* no block goes while another reads it */
    return st->id;
}

/* workspace: [n_rows] shared_bins; then, when bins_in_workspace, [n_rows][4 * bins_vectors] bins.
 */
template <bool bins_in_workspace>
__global__ void __launch_bounds__(THREADS, 1)
    sample_kernel(struct sample_args args, struct shared_bins *saved, uint16_t *bins,
                  uint32_t bins_vectors)
{
    struct state *st = &shared()->state;
    uint32_t r = cluster_index();
    if (threadIdx.x == 0)
        st->row = args.rows[r];
    __syncthreads();
    struct part part = part_make(args.logits + r * args.logits_stride, args.n_vocab);
    part.bins = bins_in_workspace ? bins + ((size_t)r * bins_vectors + part.v_first) * 4
                                  : (uint16_t *)(dynamic + SHARED_BYTES);
    if (st->row.n_banned > 0) {
        mark_banned(part, st->row.banned, st->row.n_banned);
        part.has_banned = true;
    }
    bool is_greedy = !(st->row.temperature >= OPS_TEMPERATURE_MIN);
    struct scale scale = {0.0f, 0.0f};
    float least = INFINITY;
    if (!is_greedy) {
        extremes(part, st, &scale.best, &least);
        is_greedy = scale.best == INFINITY || scale.best == -INFINITY;
    }
    uint32_t id;
    if (is_greedy) {
        id = argmax_cluster(part, st);
    } else {
        scale.inverse_t = __fdiv_rn(1.0f, st->row.temperature);
        id = draw<bins_in_workspace>(part, scale, least, saved + r);
    }
    if (cluster_rank() == 0 && threadIdx.x == 0)
        args.out_ids[r] = id;
}

uint32_t vectors_of(uint32_t n_vocab)
{
    return n_vocab / 4 + 2; /* however the row is aligned */
}

/* Blocks a row: with few rows many. 132 blocks run at a time on the device that this is tuned for,
 * but clusters of more than two only where enough neighbours are free. */
uint32_t blocks_of(uint32_t n_rows, uint32_t n_vocab)
{
    uint32_t n = 1;
    while (n < CLUSTER_MAX &&
           (vectors_of(n_vocab) / n + 1 > VECTORS_MAX ||
            (n_rows * n * 2 <= (n == 1 ? 132 : 96) && vectors_of(n_vocab) / n > THREADS)))
        n *= 2;
    return n;
}

cudaError_t launch_cluster(const struct sample_args *args, struct shared_bins *saved,
                           uint32_t n_blocks, cudaStream_t stream)
{
    uint32_t vectors = vectors_of(args->n_vocab) / n_blocks + 1;
    size_t bytes = SHARED_BYTES + (size_t)vectors * 4 * sizeof(uint16_t);
    cudaError_t err =
        cudaFuncSetAttribute(sample_kernel<false>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             (int)(SHARED_BYTES + (size_t)VECTORS_MAX * 4 * sizeof(uint16_t)));
    if (err != cudaSuccess)
        return err;
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = n_blocks;
    attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(args->n_rows * n_blocks);
    config.blockDim = dim3(THREADS);
    config.dynamicSmemBytes = bytes;
    config.stream = stream;
    config.attrs = &attribute;
    config.numAttrs = 1;
    return cudaLaunchKernelEx(&config, sample_kernel<false>, *args, saved, (uint16_t *)nullptr, 0u);
}

} // namespace

extern "C" size_t cuda_sample_workspace_bytes(uint32_t n_rows_max, uint32_t n_vocab)
{
    return n_rows_max *
           (sizeof(struct shared_bins) + (size_t)vectors_of(n_vocab) * 4 * sizeof(uint16_t));
}

extern "C" cudaError_t cuda_sample(const struct sample_args *args, void *workspace,
                                   cudaStream_t stream)
{
    if (args->n_rows == 0)
        return cudaSuccess;
    int device = 0, major = 0;
    cudaError_t err = cudaGetDevice(&device);
    if (err == cudaSuccess)
        err = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    if (err != cudaSuccess)
        return err;
    struct shared_bins *saved = (struct shared_bins *)workspace;
    uint32_t n_blocks = blocks_of(args->n_rows, args->n_vocab);
    uint32_t vectors = vectors_of(args->n_vocab);
    bool has_clusters = major == 9 || major == 10; /* and their shared memory */
    if (has_clusters && vectors / n_blocks + 1 <= VECTORS_MAX)
        return launch_cluster(args, saved, n_blocks, stream);
    err = cudaFuncSetAttribute(sample_kernel<true>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               (int)SHARED_BYTES);
    if (err != cudaSuccess)
        return err;
    sample_kernel<true><<<args->n_rows, THREADS, SHARED_BYTES, stream>>>(
        *args, saved, (uint16_t *)(saved + args->n_rows), vectors);
    return cudaGetLastError();
}
