/* The kernel of gemm_small.cu for sm_90 and later; see there. */
#ifndef KERNELS_CUDA_GEMM_SMALL_TILED_CUH
#define KERNELS_CUDA_GEMM_SMALL_TILED_CUH

#include "kernels/cuda/gemm_small_mma.cuh"
#include "kernels/cuda/tma.cuh"

namespace gemm_small
{

constexpr uint32_t kProducer = kWarps * 32;
constexpr uint32_t kFinisher = kProducer + 32; /* the first */
constexpr uint32_t kStagesMax = 13;
constexpr uint32_t kXBlocksMax = 64;      /* of x that a block of threads keeps */
constexpr uint32_t kScaleBlocksMax = 32;  /* of w that it reads of a row, with OPS_SCALE_BLOCK */
constexpr uint32_t kRedPitch = kRows + 4; /* keeps the stores of fragments free of conflicts */
constexpr uint32_t kPeerTiles = 2;        /* of a pair that shares them */
constexpr uint32_t kQueue = 32;           /* of tiles: more than stages and buffers can hold */
constexpr uint32_t kBars = 2 * kStagesMax + 4 + kPeerTiles + kXBlocksMax + kQueue;

template <class S> struct red {
    enum : uint32_t {
        kFloats = kWarps * S::kXRows * kRedPitch, /* of one of two buffers */
        kPeerFloats = kPeerTiles * S::kOutputs,
        kBytes = (2 * kFloats + kPeerFloats) * 4,
    };
};

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
constexpr uint32_t kNoTile = 0xffffffffu;

/* What a block of threads does: tiles first, first + step, ...; of each the blocks [begin, end). */
struct work {
    uint32_t first, step, begin, end, panel;
};

__device__ __forceinline__ work work_of(const params &p)
{
    work w;
    w.panel = blockIdx.x % p.n_splits;
    w.first = blockIdx.x / p.n_splits;
    w.step = gridDim.x / p.n_splits;
    w.begin = w.panel * p.panel_blocks;
    w.end = p.n_splits == 1 ? p.n_blocks : min(p.n_blocks, w.begin + p.panel_blocks);
    return w;
}

/* Pairs of blocks that share the reading of x. */
__device__ __forceinline__ bool shares_x(const params &p)
{
    return p.n_splits == 1 && p.n_cluster == 2;
}

/* Pairs of blocks that share a tile: the second sends its sums to the first. */
__device__ __forceinline__ bool is_paired(const params &p)
{
    return p.n_splits == 2 && p.n_cluster == 2;
}

/* Shared memory, by address, and what is static of it. */
struct layout {
    uint32_t x, ring, red, peer, full, empty, red_full, red_empty, peer_full, x_full, told;
    volatile uint32_t *queue; /* tiles, where they are handed out */
    float *x_scale;           /* [tokens] */
    uint32_t *is_last;
};

template <class S> __device__ __forceinline__ layout layout_of(const params &p, uint32_t base)
{
    layout l;
    l.ring = (base + 1023u) & ~1023u;
    l.x = l.ring + p.n_stages * kBlockBytes;
    l.red = l.x + (p.n_splits == 1 ? p.n_blocks : p.panel_blocks) * S::kXBlockBytes;
    l.peer = l.red + 2 * red<S>::kFloats * 4;
    l.full = l.peer + red<S>::kPeerFloats * 4;
    l.empty = l.full + kStagesMax * 8;
    l.red_full = l.empty + kStagesMax * 8;
    l.red_empty = l.red_full + 16;
    l.peer_full = l.red_empty + 16;
    l.x_full = l.peer_full + kPeerTiles * 8;
    l.told = l.x_full + kXBlocksMax * 8;
    return l;
}

/* Tile i of a block; kNoTile behind the last. Waits where tiles are handed out. */
__device__ __forceinline__ uint32_t tile_of(const params &p, const layout &l, const work &w,
                                            uint32_t i)
{
    if (p.n_static != 0) {
        bar_wait(l.told + i % kQueue * 8, i / kQueue % 2);
        return l.queue[i % kQueue];
    }
    uint32_t tile = w.first + i * w.step;
    return tile < p.n_tiles ? tile : kNoTile;
}

template <class S>
__device__ __forceinline__ void bars_init(const params &p, const layout &l, const work &w)
{
    for (uint32_t i = 0; i < p.n_stages; i++) {
        bar_init(l.full + i * 8, 1);
        bar_init(l.empty + i * 8, kWarps);
    }
    for (uint32_t i = 0; i < 2; i++) {
        bar_init(l.red_full + i * 8, kWarps);
        bar_init(l.red_empty + i * 8, S::kFinishers / 32);
    }
    for (uint32_t i = 0; i < (p.x_by_tma != 0 ? w.end - w.begin : 0); i++)
        bar_init(l.x_full + i * 8, 1);
    for (uint32_t i = 0; i < (p.n_static != 0 ? kQueue : 0); i++)
        bar_init(l.told + i * 8, 1);
    for (uint32_t i = 0; i < (is_paired(p) ? kPeerTiles : 0); i++)
        bar_init(l.peer_full + i * 8, 1);
    bar_init_fence();
    for (uint32_t i = 0; i < (is_paired(p) && w.panel == 0 ? kPeerTiles : 0); i++)
        bar_expect(l.peer_full + i * 8, p.n_rows * kRows * 4);
}

/* ---- Producer ---- */

template <class S>
__device__ __forceinline__ void x_load(const params &p, const CUtensorMap *map_x, const layout &l,
                                       const work &w)
{
    uint64_t keep = policy_evict_normal();
    for (uint32_t b = 0; b < w.end - w.begin; b++)
        bar_expect(l.x_full + b * 8, S::kXBlockBytes);
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    if (shares_x(p))
        cluster_wait();
#endif
    for (uint32_t b = 0; b < w.end - w.begin; b++) {
        uint32_t dst = l.x + b * S::kXBlockBytes;
        box_at at = {0, 0, 0, (w.begin + b) * kWarps};
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
        if (shares_x(p)) {
            if (b % 2 == blockIdx.x % 2)
                box_load_pair(dst, map_x, at, l.x_full + b * 8, keep);
            continue;
        }
#endif
        box_load(dst, map_x, at, l.x_full + b * 8, keep);
    }
}

/* One thread: keeps the ring full and says which tiles they are. The first tiles are fixed, as many
 * as the ring holds or more; the others are handed out, so that no slow SM is waited for. */
template <class S>
__device__ __forceinline__ void produce(const params &p, const CUtensorMap *map_w,
                                        const CUtensorMap *map_x, const layout &l, const work &w)
{
    uint64_t once = policy_evict_first();
    uint32_t tile_rows = p.fusion.epilogue == GEMM_SILU_MUL ? 8 : kRows;
    uint32_t tile = w.first, n_taken = 0, coming = kNoTile;
    uint32_t block = w.begin, stage = 0, n_free = p.n_stages, parity = 1;
    /* Behind the first block of the last tile (`coming` has come), with a ring's worth to go. */
    uint32_t release_at = w.begin + (w.end - w.begin > 1 ? 1 : 0);
    if (w.end - w.begin > p.n_stages)
        release_at = w.end - p.n_stages;
    bool is_released = p.is_short != 0, has_begun = p.x_by_tma == 0 && p.n_static == 0;
    for (;;) {
        if (n_free == 0 && !has_begun) { /* the ring is full of w: now x */
            grid_wait();
            if (p.x_by_tma != 0)
                x_load<S>(p, map_x, l, w);
            if (p.n_static != 0)
                coming = p.n_static * w.step + atomicAdd(p.counters, 1u);
            has_begun = true;
        }
        if (block == w.end) {
            block = w.begin;
            n_taken++;
            if (p.n_static == 0 || n_taken < p.n_static) {
                tile += w.step;
            } else {
                tile = coming;
                if (tile < p.n_tiles)
                    coming = p.n_static * w.step + atomicAdd(p.counters, 1u);
            }
        }
        if (block == w.begin && p.n_static != 0) {
            l.queue[n_taken % kQueue] = tile < p.n_tiles ? tile : kNoTile;
            bar_arrive(l.told + n_taken % kQueue * 8);
        }
        if (tile >= p.n_tiles)
            break;
        if (!is_released && block == release_at && (has_begun || p.n_static == 0)) {
            is_released = p.n_static == 0 ? tile + w.step >= p.n_tiles
                                          : n_taken + 1 >= p.n_static && coming >= p.n_tiles;
            if (is_released)
                grid_launch_dependents();
        }
        if (n_free > 0)
            n_free--;
        else
            bar_wait(l.empty + stage * 8, parity);
        bar_expect(l.full + stage * 8, kBlockBytes);
        box_load(l.ring + stage * kBlockBytes, map_w,
                 box_at{0, tile * tile_rows, 0, block * kWarps}, l.full + stage * 8, once);
        block++;
        if (++stage == p.n_stages) {
            stage = 0;
            parity ^= 1;
        }
    }
    if (!is_released)
        grid_launch_dependents();
    if (!has_begun) {
        grid_wait();
        if (p.x_by_tma != 0)
            x_load<S>(p, map_x, l, w);
    }
    if (p.n_static != 0 && atomicAdd(p.counters + 1, 1u) == gridDim.x - 1) {
        p.counters[0] = 0;
        p.counters[1] = 0;
    }
}

/* ---- Multiplying warps ---- */

constexpr uint32_t kBatch = 2; /* loads in flight */
constexpr uint32_t kNowhere = 0xffffffffu;

/* Where units first, first + 32, ... of a warp's columns of x lie; nullptr: nowhere, they are zero.
 */
template <class S>
__device__ __forceinline__ void x_units(const params &p, const work &w, uint32_t warp,
                                        uint32_t first, uint32_t (&from)[kBatch])
{
    constexpr uint32_t kUnits = S::kBoxCols / 8;
#pragma unroll
    for (uint32_t j = 0; j < kBatch; j++) {
        uint32_t i = first + j * 32, row = i / kUnits % S::kXRows;
        uint32_t block = w.begin + i / (kUnits * S::kXRows);
        uint32_t col = block * S::kCols + warp * S::kBoxCols + i % kUnits * 8;
        bool is_there = block < w.end && row < p.n_rows && col < p.k;
        from[j] = is_there ? row * uint32_t(p.x_stride) + col : kNowhere;
    }
}

/* A warp's own columns of all rows of x, once they are there: sooner than by a tensor copy that all
 * would wait for. */
template <class S>
__device__ __forceinline__ void x_fetch(const params &p, const layout &l, const work &w,
                                        uint32_t warp, uint32_t lane)
{
    constexpr uint32_t kUnits = S::kBoxCols / 8;
    uint32_t n = (w.end - w.begin) * S::kXRows * kUnits;
    uint32_t from[kBatch];
    x_units<S>(p, w, warp, lane, from);
    grid_wait();
    for (uint32_t first = 0; first < n; first += 32 * kBatch) {
        uint4 raw[kBatch];
#pragma unroll
        for (uint32_t j = 0; j < kBatch; j++)
            raw[j] = from[j] == kNowhere ? make_uint4(0, 0, 0, 0)
                                         : __ldcg(reinterpret_cast<const uint4 *>(p.x + from[j]));
#pragma unroll
        for (uint32_t j = 0; j < kBatch; j++) {
            uint32_t i = first + lane + j * 32, row = i / kUnits % S::kXRows;
            uint32_t block = l.x + i / (kUnits * S::kXRows) * S::kXBlockBytes;
            if (first + j * 32 >= n)
                break;
            if constexpr (S::kIsF8)
                x_store_f8<S>(block, warp, row, i % kUnits, raw[j], i < n);
            else if (i < n)
                x_store_bf16<S>(block, warp, row, i % kUnits, raw[j]);
        }
        if (first + 32 * kBatch < n)
            x_units<S>(p, w, warp, first + 32 * kBatch + lane, from);
    }
    __syncwarp();
}

/* Scales of a tile for the warp's columns: lane b has those of block begin + b. */
struct tile_scales {
    float v[2];
};

__device__ __forceinline__ tile_scales scales_load(const params &p, const work &w, uint32_t tile,
                                                   uint32_t warp, uint32_t lane)
{
    uint32_t col = (w.begin + lane) * kWarps + warp;
    tile_scales s = {{1.0f, 1.0f}};
    if (p.scaling != OPS_SCALE_BLOCK || w.begin + lane >= w.end || col >= p.scale_cols)
        return s;
#pragma unroll
    for (uint32_t h = 0; h < 2; h++) {
        uint32_t row = min(w_row(p, tile, h * 8), w_rows(p) - 1) / OPS_SCALE_BLOCK_SIZE;
        s.v[h] = p.w_scale[uint64_t(row) * p.scale_cols + col];
    }
    return s;
}

/* Those of tile i, as soon as it is known. */
__device__ __forceinline__ bool scales_try(const params &p, const layout &l, const work &w,
                                           uint32_t i, uint32_t warp, uint32_t lane,
                                           tile_scales *out)
{
    if (p.n_static != 0 &&
        !__all_sync(0xffffffffu, bar_test(l.told + i % kQueue * 8, i / kQueue % 2)))
        return false;
    uint32_t tile = tile_of(p, l, w, i);
    if (tile != kNoTile)
        *out = scales_load(p, w, tile, warp, lane);
    return true;
}

/* The warp's sums of a panel, for the finishers. */
template <class S>
__device__ __forceinline__ void sums_store(const sums<S> (&acc)[2], uint32_t to, uint32_t lane)
{
#pragma unroll
    for (uint32_t t = 0; t < S::kNt; t++)
#pragma unroll
        for (uint32_t i = 0; i < 4; i++)
            if (S::kXRows >= 8 || lane % 4 * 2 + i % 2 < S::kXRows)
                smem_store(to + ((t * 8 + i % 2) * kRedPitch + i / 2 * 8) * 4,
                           S::kIsF8 ? acc[0].v[t][i] : acc[0].v[t][i] + acc[1].v[t][i]);
}

template <class S>
__device__ __forceinline__ void multiply(const params &p, const layout &l, const work &w)
{
    uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    uint32_t stage = 0, parity = 0, buffer = 0, red_parity = 1;
    uint32_t to = l.red + ((warp * S::kXRows + lane % 4 * 2) * kRedPitch + lane / 4) * 4;
    uint32_t w_at = l.ring + warp * (kRows * kBoxBytes) + w_offset(lane), x_at[S::kNt];
    bool has_x = p.x_by_tma != 0, has_next = false;
    tile_scales scales, next = {};
#pragma unroll
    for (uint32_t t = 0; t < S::kNt; t++)
        x_at[t] = x_offset<S>(warp, lane, t);
    if (!has_x && p.is_short == 0) { /* w comes later than x */
        x_fetch<S>(p, l, w, warp, lane);
        has_x = true;
    }
    for (uint32_t i = 0;; i++) {
        uint32_t tile = tile_of(p, l, w, i);
        if (tile == kNoTile)
            return;
        if (S::kIsF8 && p.scaling == OPS_SCALE_BLOCK) {
            scales = has_next ? next : scales_load(p, w, tile, warp, lane);
            has_next = false;
        }
        for (uint32_t block = w.begin; block < w.end;) {
            uint32_t stop = min(w.end, (block / p.panel_blocks + 1) * p.panel_blocks);
            sums<S> acc[2] = {};
            for (; block < stop; block++) {
                uint32_t a[4][4], b = block - w.begin, x_block = l.x + b * S::kXBlockBytes;
                bar_wait(l.full + stage * 8, parity);
                w_load(a, w_at + stage * kBlockBytes);
                __syncwarp();
                if (lane == 0)
                    bar_arrive(l.empty + stage * 8);
                if (++stage == p.n_stages) {
                    stage = 0;
                    parity ^= 1;
                }
                if (!has_x) { /* w was here first */
                    x_fetch<S>(p, l, w, warp, lane);
                    has_x = true;
                }
                if (i == 0 && p.x_by_tma != 0)
                    bar_wait(l.x_full + b * 8, 0);
                if constexpr (S::kIsF8) {
                    float scale[2] = {1.0f, 1.0f};
                    if (p.scaling == OPS_SCALE_BLOCK) {
                        scale[0] = __shfl_sync(0xffffffffu, scales.v[0], b);
                        scale[1] = __shfl_sync(0xffffffffu, scales.v[1], b);
                        if (!has_next)
                            has_next = scales_try(p, l, w, i + 1, warp, lane, &next);
                    }
                    block_mma_f8<S>(acc, a, x_block, x_at, warp, lane, scale);
                } else {
                    block_mma_bf16<S>(acc, a, x_block, x_at);
                }
            }
            bar_wait(l.red_empty + buffer * 8, red_parity);
            sums_store<S>(acc, to + buffer * red<S>::kFloats * 4, lane);
            __syncwarp();
            if (lane == 0)
                bar_arrive(l.red_full + buffer * 8);
            red_parity ^= buffer;
            buffer ^= 1;
        }
    }
}

/* ---- Finishers ---- */

/* Factors of the RMS norm ahead, in an order of their own: the same whatever n_rows is. */
template <class S>
__device__ __forceinline__ void x_scales(const params &p, const layout &l, uint32_t me)
{
    constexpr uint32_t kStep = S::kFinishers / 32, kRowsEach = S::kXRows / kStep;
    uint32_t lane = me % 32, first = me / 32, n_sums = p.k / kSum;
    float sum[kRowsEach] = {};
    if (p.fusion.x_sums != nullptr) {
#pragma unroll 2
        for (uint32_t i = lane; i < n_sums; i += 32)
#pragma unroll
            for (uint32_t j = 0; j < kRowsEach; j++)
                if (first + j * kStep < p.n_rows)
                    sum[j] += __ldcg(p.fusion.x_sums + uint64_t(first + j * kStep) * n_sums + i);
#pragma unroll
        for (uint32_t j = 0; j < kRowsEach; j++)
            sum[j] = norm_scale(p, warp_sum(sum[j]));
    }
#pragma unroll
    for (uint32_t j = 0; j < kRowsEach; j++)
        if (lane == 0)
            l.x_scale[first + j * kStep] = p.fusion.x_sums != nullptr ? sum[j] : 1.0f;
    constexpr uint32_t kThreads = S::kFinishers;
    asm volatile("bar.sync 2, %0;" ::"n"(kThreads) : "memory");
}

/* Adds up what the warps have for a panel: 16 neighbouring threads have the rows of one token. */
template <class S>
__device__ __forceinline__ float warps_sum(const params &p, uint32_t from, uint32_t at)
{
    if (at / kRows >= p.n_rows)
        return 0.0f;
    from += (at / kRows * kRedPitch + at % kRows) * 4;
    float v[kWarps];
#pragma unroll
    for (uint32_t c = 0; c < kWarps; c++)
        v[c] = smem_load(from + c * (S::kXRows * kRedPitch * 4));
    return ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
}

/* Where the sums of a tile go that are not all: to the other block of a pair, or to memory. */
template <class S>
__device__ __forceinline__ void part_store(const params &p, const layout &l, const work &w,
                                           uint32_t i, uint32_t tile, uint32_t at, float sum)
{
    if (at / kRows >= p.n_rows)
        return;
    if (is_paired(p))
        smem_send(smem_of_rank(l.peer + (i * S::kOutputs + at) * 4, 0), sum,
                  smem_of_rank(l.peer_full + i * 8, 0));
    else
        __stcg(p.partials + (uint64_t(tile) * p.n_panels + w.panel) * S::kOutputs + at, sum);
}

template <class S>
__device__ __forceinline__ void finish(const params &p, const layout &l, const work &w)
{
    uint32_t me = threadIdx.x - kFinisher, buffer = 0, parity = 0;
    bool is_pair_first = is_paired(p) && w.panel == 0;
    bool has_output = p.n_splits == 1 || is_pair_first;
    if (is_paired(p) && w.panel == 1)
        cluster_wait();
    grid_wait();
    if (has_output || !is_paired(p))
        x_scales<S>(p, l, me);
    for (uint32_t i = 0;; i++) {
        uint32_t tile = tile_of(p, l, w, i);
        if (tile == kNoTile)
            break;
        extras e[S::kEach];
#pragma unroll
        for (uint32_t o = 0; o < S::kEach; o++)
            if (has_output)
                e[o] = extras_load(p, (me + o * S::kFinishers) / kRows, w_row(p, tile, me % kRows));
        float sum[S::kEach];
        for (uint32_t block = w.begin; block < w.end; block += p.panel_blocks) {
            bar_wait(l.red_full + buffer * 8, parity);
#pragma unroll
            for (uint32_t o = 0; o < S::kEach; o++) {
                float v =
                    warps_sum<S>(p, l.red + buffer * red<S>::kFloats * 4, me + o * S::kFinishers);
                sum[o] = block == w.begin ? v : sum[o] + v;
            }
            __syncwarp();
            if (me % 32 == 0)
                bar_arrive(l.red_empty + buffer * 8);
            parity ^= buffer;
            buffer ^= 1;
        }
        if (is_pair_first)
            bar_wait(l.peer_full + i * 8, 0);
#pragma unroll
        for (uint32_t o = 0; o < S::kEach; o++) {
            uint32_t at = me + o * S::kFinishers, token = at / kRows;
            if (!has_output) {
                part_store<S>(p, l, w, i, tile, at, sum[o]);
                continue;
            }
            if (is_pair_first && token < p.n_rows)
                sum[o] += smem_load(l.peer + (i * S::kOutputs + at) * 4);
            output(p, tile, token, me % kRows, sum[o], l.x_scale[token], e[o]);
        }
    }
}

/* ---- Panels that were split over blocks ---- */

template <class S> __device__ __forceinline__ void join_sync()
{
    constexpr uint32_t kThreads = kProducer + S::kFinishers;
    asm volatile("bar.sync 1, %0;" ::"n"(kThreads) : "memory");
}

__device__ __forceinline__ float panels_sum(const params &p, const float *slot, uint32_t pitch)
{
    float v = 0.0f;
    for (uint32_t first = 0; first < p.n_panels; first += 4) {
        float part[4];
#pragma unroll
        for (uint32_t c = 0; c < 4; c++)
            part[c] = first + c < p.n_panels ? __ldcg(slot + (first + c) * pitch) : 0.0f;
#pragma unroll
        for (uint32_t c = 0; c < 4; c++)
            if (first + c < p.n_panels)
                v = first + c == 0 ? part[c] : v + part[c];
    }
    return v;
}

/* The blocks that share a lane's tiles have a panel each: the last to end adds the panels up. */
template <class S>
__device__ __forceinline__ void gather(const params &p, const layout &l, const work &w)
{
    uint32_t me = threadIdx.x < kProducer ? threadIdx.x : threadIdx.x - 32; /* no producer */
    grid_wait();
    __threadfence();
    join_sync<S>();
    if (me == 0) {
        *l.is_last = atomicAdd(p.counters + 2 + w.first, 1u) == p.n_panels - 1;
        __threadfence();
    }
    join_sync<S>();
    if (*l.is_last == 0)
        return;
    uint32_t n = ((p.n_tiles - w.first - 1) / w.step + 1) * S::kOutputs;
    for (uint32_t i = me; i / 32 * 32 < n; i += kProducer + S::kFinishers) { /* whole warps */
        uint32_t tile = w.first + i / S::kOutputs * w.step, at = i % S::kOutputs;
        uint32_t token = i < n ? at / kRows : p.n_rows, r = at % kRows;
        extras e = extras_load(p, token, w_row(p, tile, r));
        float v = 0.0f;
        if (token < p.n_rows)
            v = panels_sum(p, p.partials + uint64_t(tile) * p.n_panels * S::kOutputs + at,
                           S::kOutputs);
        output(p, tile, token, r, v, l.x_scale[at / kRows], e);
    }
    if (me == 0)
        p.counters[2 + w.first] = 0;
}
#endif

template <class S>
__global__ void __launch_bounds__(S::kThreads, S::kPerSm)
    tiled_kernel(const __grid_constant__ CUtensorMap map_w,
                 const __grid_constant__ CUtensorMap map_x, const __grid_constant__ params p)
{
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
    extern __shared__ uint8_t smem[];
    __shared__ uint32_t queue[kQueue];
    __shared__ uint32_t is_last;
    __shared__ float x_scale[S::kScales];
    if (p.is_short != 0)
        grid_launch_dependents(); /* there is room beside this block */
    layout l = layout_of<S>(p, smem_address(smem));
    l.queue = queue;
    l.x_scale = x_scale;
    l.is_last = &is_last;
    work w = work_of(p);
    if (threadIdx.x == kProducer) {
        map_prefetch(&map_w);
        if (p.x_by_tma != 0)
            map_prefetch(&map_x);
        bars_init<S>(p, l, w);
    }
    __syncthreads();
    if (p.n_cluster == 2)
        cluster_arrive();
    if (threadIdx.x / 32 == kProducer / 32) {
        if (threadIdx.x == kProducer)
            produce<S>(p, &map_w, &map_x, l, w);
        return;
    }
    if (threadIdx.x < kProducer)
        multiply<S>(p, l, w);
    else
        finish<S>(p, l, w);
    if (p.n_splits > 1 && !is_paired(p))
        gather<S>(p, l, w);
#endif
}

} // namespace gemm_small

#endif
