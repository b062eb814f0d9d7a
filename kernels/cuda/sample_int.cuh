/* Internal to sample.cu, which says how it works: sizes, shared memory, numbers, and the part of a
 * row that a block has. */
#ifndef KERNELS_CUDA_SAMPLE_INT_CUH
#define KERNELS_CUDA_SAMPLE_INT_CUH

#include "kernels/cuda/cuda_ops.h"

#include "kernels/cuda/cluster.cuh"
#include "kernels/cuda/common.cuh"

namespace sampling
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
constexpr float X_MIN = -28.0f;             /* no token below it has weight */
constexpr uint32_t KEY_LAST = 0xff7fffffu;  /* descending_key of the lowest finite logit */
constexpr uint32_t KEY_FIRST = 0x007fffffu; /* and of +inf */
constexpr uint64_t ITEM_NONE = UINT64_MAX;  /* behind all tokens */

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

/* What a block tells the others of its cluster. */
struct summary {
    float best, least; /* logit above -inf; -inf and +inf if it has none */
    float sum;         /* of exp((logit - best) / temperature), roughly */
    uint32_t n_listed; /* tokens of a shortlist that it sent; above its places: too many */
    uint64_t limit;    /* the item up to which the shortlist has all of its tokens */
};

/* The end of a prefix. */
struct find {
    uint64_t mass;
    uint32_t id; /* of its last token */
};

/* Fields of this block. The blocks of a cluster come to the same results, each for itself. */
struct state {
    struct sample_row row;
    /* Written by the others: [exchange][block]. */
    struct summary of[2][CLUSTER_MAX];
    uint64_t argmax[CLUSTER_MAX];
    uint32_t is_drawn; /* from a shortlist */
    /* Read by the others. */
    uint32_t key_min, key_max, n_matching, n_leaders;
    uint32_t list_first; /* of this block's tokens */
    uint64_t min_p_mass;
    uint32_t n_collected[FINDS_MAX]; /* of the first block: by all */
    /* Results that one thread has for all. */
    struct hit hit;
    uint64_t end_mass; /* of the prefix found */
    uint32_t id;       /* its last token */
    struct find ends[2];
    /* Of the row as it came. */
    float newest_saved, best, log_sum;
    uint32_t is_newest_listed;
    /* Scratch of block-wide steps. */
    uint64_t warp_a[WARPS];
    uint32_t warp_b[WARPS], warp_c[WARPS];
};

struct alignas(16) shared_bins {
    uint32_t count[N_SLOTS];
    uint32_t sum[2]
                [N_SLOTS]; /* of the low bits of d: even, odd warps; when merged low, high word */
};

struct alignas(16) shared_memory {
    /* Collected tokens, as items. Two lists, in turn: a block may be done with one and fill the
     * next while another still reads. A shortlist has both. */
    uint64_t list[2][COLLECT_MAX];
    struct shared_bins bins;
    struct state state;
};

constexpr size_t SHARED_BYTES = sizeof(struct shared_memory);
static_assert(SHARED_BYTES % 16 == 0, "bins follow");
static_assert(SHARED_BYTES + (size_t)VECTORS_MAX * 8 <= 227 * 1024, "what a block may have");

/* By its name, also in functions that are not inlined: the compiler then knows that it is shared.
 */
extern __shared__ __align__(16) unsigned char dynamic[];

__device__ __forceinline__ struct shared_memory *shared()
{
    return (struct shared_memory *)dynamic;
}

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

__device__ inline struct part part_make(const float *row, uint32_t n_vocab)
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
        return __ldcg(p.vectors + v);
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

/* Is logit `at`, counted from the start of vector 0, in a vector of this block? */
__device__ __forceinline__ bool owns(const struct part &p, uint32_t at)
{
    return at / 4 >= p.v_first && at / 4 < p.v_end;
}

/* Marks the ids that may not be drawn. */
__device__ __noinline__ void mark_banned(struct part p, const struct sample_row &row)
{
    for (uint32_t v = p.v_first + threadIdx.x; v < p.v_end; v += THREADS) {
        uint16_t marks[4] = {0, 0, 0, 0};
#pragma unroll
        for (uint32_t j = 0; j < 4; j++) {
            uint32_t id = id_of(p, v, j);
            if (row.allowed != nullptr && id < p.n_vocab &&
                (row.allowed[id / 32] >> (id % 32) & 1u) == 0)
                marks[j] = BIN_NONE;
        }
        *bins_at(p, v) = make_ushort4(marks[0], marks[1], marks[2], marks[3]);
    }
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < row.n_banned; i += THREADS) {
        uint32_t id = row.banned[i], at = id + p.skew;
        if (id < p.n_vocab && owns(p, at))
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
            l[u] = __ldcg(p.vectors + v + u * THREADS);
#pragma unroll
        for (uint32_t u = 0; u < 4; u++)
            f(v + u * THREADS, l[u]);
    }
#pragma unroll 1
    for (; v < p.full_end; v += THREADS)
        f(v, __ldcg(p.vectors + v));
    if (threadIdx.x == 1 && p.full_end < p.v_end)
        f(p.full_end, load(p, p.full_end));
}

/* ---- Tokens with a penalty or a bias ----------------------------------------------------------
 * Their logits are changed where they are, by the block that has them, and put back at the end. */

/* In the order of struct sample_row. */
__device__ __forceinline__ float penalised(const struct sample_row &row, float logit, uint32_t seen,
                                           float bias)
{
    uint32_t n_output = seen & ~OPS_IN_PROMPT;
    if (seen > 0 && row.repetition > 0.0f)
        logit = logit > 0.0f ? __fdiv_rn(logit, row.repetition) : __fmul_rn(logit, row.repetition);
    if (n_output > 0) {
        logit = __fsub_rn(logit, __fmul_rn(row.frequency, __uint2float_rn(n_output)));
        logit = __fsub_rn(logit, row.presence);
    }
    return __fadd_rn(logit, bias);
}

__device__ __forceinline__ float *logit_at(const struct part &p, uint32_t at)
{
    return (float *)p.vectors + at;
}

__device__ __noinline__ void tokens_apply(const struct part &p, struct state *st)
{
    const struct sample_row &row = st->row;
    uint32_t newest = row.newest != nullptr ? *row.newest : OPS_NO_TOKEN;
    if (threadIdx.x == 0)
        st->is_newest_listed = 0;
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < row.n_tokens; i += THREADS) {
        struct sample_token *token = row.tokens + i;
        uint32_t id = token->id, at = id + p.skew;
        bool is_newest = id == newest;
        if (is_newest)
            st->is_newest_listed = 1;
        if (id >= p.n_vocab || !owns(p, at))
            continue;
        float logit = *logit_at(p, at);
        token->saved = logit;
        *logit_at(p, at) = penalised(row, logit, token->seen + is_newest, token->bias);
    }
    __syncthreads();
    if (threadIdx.x == 0 && newest < p.n_vocab && owns(p, newest + p.skew) &&
        !st->is_newest_listed) {
        st->newest_saved = *logit_at(p, newest + p.skew);
        *logit_at(p, newest + p.skew) = penalised(row, st->newest_saved, 1, 0.0f);
    }
    __syncthreads();
}

__device__ __noinline__ void tokens_restore(const struct part &p, struct state *st)
{
    const struct sample_row &row = st->row;
    uint32_t newest = row.newest != nullptr ? *row.newest : OPS_NO_TOKEN;
    for (uint32_t i = threadIdx.x; i < row.n_tokens; i += THREADS) {
        const struct sample_token *token = row.tokens + i;
        uint32_t at = token->id + p.skew;
        if (token->id < p.n_vocab && owns(p, at))
            *logit_at(p, at) = token->saved;
    }
    if (threadIdx.x == 0 && newest < p.n_vocab && owns(p, newest + p.skew) && !st->is_newest_listed)
        *logit_at(p, newest + p.skew) = st->newest_saved;
}

} // namespace sampling

#endif
