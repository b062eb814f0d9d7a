/* attention_decode: parameters, the plan of a step, and how a CTA finds its share in it.
 *
 * Two cuts of the line of tiles (see attention_decode.cu); the plan says which one a step takes:
 *
 *     line   equal runs of `chunk` tiles, one per CTA, whatever units they touch
 *     even   unit u has the CTAs [u * split, (u + 1) * split), each an equal part of it; a CTA has
 *            one segment at most, and the CTAs of a unit are a cluster. For few sequences of about
 *            the same length.
 *
 * Layout of a plan: [plan_head][CTAS_MAX plan_start][n_seqs plan_seq] */
#ifndef KERNELS_CUDA_ATTENTION_DECODE_PLAN_CUH
#define KERNELS_CUDA_ATTENTION_DECODE_PLAN_CUH

#include "kernels/cuda/common.cuh"

#include <cuda_bf16.h>
#include <cuda_runtime.h>

namespace attention_decode
{

constexpr uint32_t TILE = 16;           /* positions; the least block_tokens */
constexpr uint32_t CTAS_MAX = 1024;     /* of the grid: one CTA per SM */
constexpr uint32_t SPLIT_MAX = 8;       /* CTAs of a unit in the even cut; a portable cluster */
constexpr uint32_t UNIT_HEADS_MAX = 16; /* query heads of a unit */
constexpr uint32_t STAGES_MAX = 4;      /* tiles of a warp under way */

/* Warps of a CTA, a power of two: with head_dim 256 a tile of each of 8 would fill shared memory.
 */
__host__ __device__ constexpr uint32_t warps_of(uint32_t hd)
{
    return hd == 256u ? 4u : 8u;
}

/* From a warp's tile in the ring to its next one. */
__device__ constexpr uint32_t stage_bytes(uint32_t hd)
{
    return warps_of(hd) * hd * 64u;
}

struct alignas(16) plan_head {
    uint32_t n_tiles; /* of all units */
    uint32_t chunk;   /* tiles of a CTA in the line cut */
    uint32_t is_even;
    uint32_t reserved;
};

struct alignas(16) plan_seq {
    uint32_t first;      /* place of its first tile in the line */
    uint32_t n_tiles;    /* of each of its units */
    uint32_t tile_first; /* first tile of the sequence that is seen (window) */
    uint32_t kv_tokens;
};

struct alignas(16) plan_start {
    struct plan_seq info; /* of seq */
    uint32_t seq;         /* where the CTA starts in the line cut */
    uint32_t reserved[3];
};

constexpr size_t PLAN_SEQS_AT = sizeof(plan_head) + CTAS_MAX * sizeof(plan_start);

struct decode_params {
    const __nv_bfloat16 *q;
    __nv_bfloat16 *out;
    uint64_t q_stride, out_stride;
    char *pool; /* plane K of block 0, the layer, kv_head 0 */
    uint64_t block_bytes, plane_bytes;
    const float *sinks;
    const uint32_t *block_table;
    const plan_head *head;
    const plan_start *starts;
    const plan_seq *seqs;
    /* [grid] parts of the cut unit that begins in this CTA; zero between calls */
    uint32_t *counters;
    float2 *part_ml;                            /* [grid * 2, heads of a unit] maximum and sum */
    float *part_out;                            /* [grid * 2, heads of a unit, head_dim] */
    uint32_t n_seqs, table_stride, block_shift; /* block_tokens = 1 << block_shift */
    uint32_t head_dim, n_units;                 /* units of a sequence */
    uint32_t n_heads, n_kv_heads;
    uint32_t group, groups_per_kv; /* query heads of a KV head; units of it */
    uint32_t unit_heads;           /* most query heads of a unit */
    uint32_t pass_heads;           /* 4, 8: heads that are merged at a time */
    uint32_t plane_first;          /* plane K of the layer, kv_head 0 */
    uint32_t window, slots;        /* tiles that the ring has room for: of each warp one or two */
    uint32_t split;                /* CTAs of a unit in the even cut; 0: there is none */
    uint32_t is_cluster;           /* the CTAs of a unit are one */
    float scale_log2;
    /* struct attention_fresh */
    uint32_t is_fresh, n_rot;
    const float *q_norm, *k_norm;
    const float2 *cos_sin;
    float eps;
    uint32_t is_late; /* measuring only: no copy before grid_wait */
    /* fp8: of K of the layer's heads; V's are n_kv_heads further; NULL: all 1 */
    const float *scales;
};

/* ---- A CTA's share --------------------------------------------------------------------------- */

/* The plan may still be on its way to a level-1 cache that has older bytes of it. */
__device__ __forceinline__ uint4 load_plan(const void *at)
{
    return __ldcg(static_cast<const uint4 *>(at));
}

__device__ __forceinline__ plan_seq load_seq(const plan_seq *at)
{
    uint4 v = load_plan(at);
    return {v.x, v.y, v.z, v.w};
}

struct share {
    uint32_t x_first, x_end; /* tiles of the line */
    uint32_t chunk;          /* tiles of a CTA: of all, or of this unit's */
    bool is_even;
    uint32_t seq; /* that x_first belongs to */
    plan_seq info;
};

template <int HD> __device__ __forceinline__ share share_of(const decode_params &p)
{
    share s;
    uint32_t unit = p.split > 0 ? blockIdx.x / p.split : 0, seq = unit / p.n_units;
    uint32_t part = blockIdx.x - unit * p.split;
    bool has_unit = p.split > 0 && seq < p.n_seqs;
    uint4 head = load_plan(p.head);
    plan_seq of_unit = has_unit ? load_seq(p.seqs + seq) : plan_seq{0, 0, 0, 0};
    const plan_start *start = p.starts + blockIdx.x;
    s.info = load_seq(&start->info);
    s.seq = load_plan(&start->seq).x;
    s.is_even = head.z != 0;
    s.chunk = head.y;
    s.x_first = blockIdx.x * s.chunk;
    s.x_end = min(s.x_first + s.chunk, head.x);
    if (s.is_even) {
        s.seq = seq;
        s.info = of_unit;
        s.chunk = max((s.info.n_tiles + p.split - 1u) / p.split, warps_of(HD));
        uint32_t first = s.info.first + (unit - seq * p.n_units) * s.info.n_tiles;
        s.x_first = first + part * s.chunk;
        s.x_end = min(s.x_first + s.chunk, first + s.info.n_tiles);
    }
    return s;
}

/* Moves (seq, info) on to the sequence that tile x belongs to. */
__device__ __forceinline__ void seek(const decode_params &p, uint32_t x, uint32_t &seq,
                                     plan_seq &info)
{
    while (x >= info.first + info.n_tiles * p.n_units)
        info = load_seq(p.seqs + ++seq);
}

/* A piece of a unit. */
struct segment {
    uint32_t seq, kv_head;
    uint32_t head_first, n_heads;  /* query heads */
    uint32_t unit_first, unit_end; /* tiles of the line */
    uint32_t end;                  /* of the CTA's share */
    uint32_t cta_first, cta_last;  /* that share the unit */
};

/* The piece of a unit that starts at tile x of the line. */
__device__ __forceinline__ segment segment_at(const decode_params &p, const share &s, uint32_t x,
                                              uint32_t seq, const plan_seq &info)
{
    segment seg;
    uint32_t unit = (x - info.first) / info.n_tiles;
    seg.kv_head = unit / p.groups_per_kv;
    uint32_t skipped = (unit - seg.kv_head * p.groups_per_kv) * p.unit_heads;
    seg.seq = seq;
    seg.head_first = seg.kv_head * p.group + skipped;
    seg.n_heads = min(p.group - skipped, p.unit_heads);
    seg.unit_first = info.first + unit * info.n_tiles;
    seg.unit_end = seg.unit_first + info.n_tiles;
    seg.end = min(seg.unit_end, s.x_end);
    seg.cta_first = s.is_even ? blockIdx.x - blockIdx.x % p.split : seg.unit_first / s.chunk;
    seg.cta_last =
        s.is_even ? seg.cta_first + (info.n_tiles - 1u) / s.chunk : (seg.unit_end - 1u) / s.chunk;
    return seg;
}

/* ---- Planning -------------------------------------------------------------------------------- */

struct plan_params {
    const volatile uint32_t *kv_tokens; /* device or host memory */
    plan_head *head;
    plan_start *starts;
    plan_seq *seqs;
    uint32_t n_seqs, n_units, window, grid, chunk_min, split;
};

constexpr uint32_t PLAN_THREADS = 256, PLAN_WARPS = PLAN_THREADS / 32u;
constexpr uint32_t PLAN_SEQS_NEAR = 1024; /* whose places are kept in shared memory */

/* Inclusive sum over the CTA; *out_total: over all threads; *longest: the greatest of all. */
__device__ inline uint32_t scan_sum(uint32_t value, uint32_t *longest, uint32_t *out_total)
{
    __shared__ uint32_t sums[PLAN_WARPS], tops[PLAN_WARPS];
    uint32_t lane = threadIdx.x % 32u, warp = threadIdx.x / 32u, before = 0, total = 0,
             top = *longest;
    for (uint32_t step = 1; step < 32u; step *= 2u) {
        uint32_t other = __shfl_up_sync(~0u, value, step);
        value += lane >= step ? other : 0;
        top = max(top, __shfl_xor_sync(~0u, top, step));
    }
    __syncthreads();
    if (lane == 31u) {
        sums[warp] = value;
        tops[warp] = top;
    }
    __syncthreads();
    for (uint32_t i = 0; i < PLAN_WARPS; i++) {
        before += i < warp ? sums[i] : 0;
        total += sums[i];
        top = max(top, tops[i]);
    }
    *longest = top;
    *out_total = total;
    return value + before;
}

/* The last sequence that starts at or before tile x; sequences of no tiles start where the next
 * one does, and are passed over by seek(). */
template <class F>
__device__ __forceinline__ uint32_t find_seq(uint32_t n_seqs, uint32_t x, F first)
{
    uint32_t low = 0, high = n_seqs - 1u;
    while (low < high) {
        uint32_t middle = (low + high + 1u) / 2u;
        if (first(middle) <= x)
            low = middle;
        else
            high = middle - 1u;
    }
    return low;
}

/* One CTA of PLAN_THREADS: lays the tiles of all sequences out in a line, chooses the cut, and
 * finds where each CTA of the line cut starts. The kernel's end must be a fence of the device (see
 * grid_wait in attention_decode.cu). */
__device__ inline void plan_make(const plan_params &p)
{
    __shared__ uint32_t places[PLAN_SEQS_NEAR];
    uint32_t n_tiles = 0, longest = 0;
    for (uint32_t base = 0; base < p.n_seqs; base += PLAN_THREADS) {
        uint32_t seq = base + threadIdx.x, total;
        plan_seq info = {0, 0, 0, seq < p.n_seqs ? p.kv_tokens[seq] : 0};
        if (p.window != 0 && info.kv_tokens > p.window)
            info.tile_first = (info.kv_tokens - p.window) / TILE;
        info.n_tiles = (info.kv_tokens + TILE - 1u) / TILE - info.tile_first;
        uint32_t size = info.n_tiles * p.n_units;
        longest = max(longest, info.n_tiles);
        info.first = n_tiles + scan_sum(size, &longest, &total) - size;
        if (seq < p.n_seqs)
            p.seqs[seq] = info;
        if (seq < PLAN_SEQS_NEAR)
            places[seq] = info.first;
        n_tiles += total;
    }
    /* At least a tile for each warp: more CTAs with less only leave more parts to merge. */
    uint32_t chunk = max((n_tiles + p.grid - 1u) / p.grid, p.chunk_min);
    if (threadIdx.x == 0) {
        uint32_t part = p.split > 0 ? (longest + p.split - 1u) / p.split : ~0u;
        bool is_even = part <= max(2u * p.chunk_min, chunk + chunk / 8u);
        *p.head = {n_tiles, chunk, is_even ? 1u : 0u, 0};
    }
    __syncthreads(); /* seqs are written */
    for (uint32_t cta = threadIdx.x; cta < p.grid && cta * chunk < n_tiles; cta += PLAN_THREADS) {
        uint32_t x = cta * chunk;
        uint32_t seq = p.n_seqs <= PLAN_SEQS_NEAR
                           ? find_seq(p.n_seqs, x, [&](uint32_t i) { return places[i]; })
                           : find_seq(p.n_seqs, x, [&](uint32_t i) { return p.seqs[i].first; });
        p.starts[cta] = {p.seqs[seq], seq, {0, 0, 0}};
    }
}

/* Host: what plan_make needs for args. how: of cuda_decode_plan_tuned. Defined in
 * attention_decode.cu. */
cudaError_t plan_fill(const struct cuda_attention_args *args, uint32_t n_sms, void *plan,
                      uint32_t how, plan_params *out_params);

} // namespace attention_decode

#endif
