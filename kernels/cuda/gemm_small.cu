/* gemm of few rows: y[m, n] = sum_k x[m, k] * w[n, k] (+ bias[n]), m <= 16, sums in f32
 * Method   w is the 16-row operand of mma.m16n8k16, the tokens its columns. One block of threads on
 *          an SM: a thread streams blocks of [16 rows of w][512 columns] by tensor copies into a
 *          ring that takes all the shared memory x leaves; 8 warps multiply, 64 columns each; 4
 *          warps add up their sums and store. x is read once an SM, whole or one panel of it.
 * Panels   k is cut into panels of at most 4096 columns, summed in their order. Where the whole of
 *          x does not fit, an SM keeps one panel, and the last of the SMs that share rows adds the
 *          panels up, in the same order: no float atomics, the same bits on every run.
 * Batch    a row's bits depend on that row and on n, k and w alone, not on n_rows or n_sms. The
 *          plain kernel (before sm_90, k not a multiple of 64, m > 16) has other bits.
 * PDL      the ring is filled before griddepcontrol.wait; x, y and the workspace are touched after.
 *          Dependents are released while the last tile is asked for: as this kernel's blocks end,
 *          theirs take the SMs and fill their rings.
 * Cost     w once from memory: bandwidth bound
 * Checked  bench/gpu/check_gemm_small.cu */
#include "kernels/cuda/cuda_ops.h"

#include "kernels/cuda/common.cuh"

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <cudaTypedefs.h>

namespace
{

constexpr uint32_t kWarps = 8; /* that multiply */
constexpr uint32_t kProducer = kWarps * 32;
constexpr uint32_t kFinishers = 128;
constexpr uint32_t kThreads = kProducer + 32 + kFinishers;
constexpr uint32_t kRows = 16, kBoxCols = 64, kCols = kBoxCols * kWarps; /* a block of w */
constexpr uint32_t kBlockBytes = kRows * kCols * 2;
constexpr uint32_t kPanelBlocks = 8; /* 4096 columns */
constexpr uint32_t kBlocksMax = 64;  /* of a row whose x is kept whole */
constexpr uint32_t kStagesMax = 13;
constexpr uint32_t kRedPitch = kRows + 4; /* keeps the stores of fragments free of conflicts */
constexpr uint32_t kSmemMax = 227 * 1024 - 256; /* the rest: static */
constexpr uint32_t kSmemShared = 112 * 1024;    /* two blocks fit an SM */
constexpr uint32_t kShortBlocks = 8;            /* of an SM's w: at most this is short */
constexpr uint32_t kWholeStagesMin = 6;
constexpr uint32_t kBarBytes = (2 * kStagesMax + kBlocksMax + 4) * 8;
constexpr size_t kPartialBytesMin = size_t(8) << 20;
constexpr size_t kCounterBytes = 4096; /* up to 1000 SMs */

struct params {
    const float *bias;
    void *y;
    uint64_t y_stride;
    uint32_t y_is_bf16;
    uint32_t n_rows, n;
    uint32_t n_tiles;
    uint32_t n_blocks; /* of a row of w */
    uint32_t n_panels, panel_blocks;
    uint32_t n_splits; /* 1: an SM takes all panels; n_panels: it takes one */
    uint32_t n_stages;
    uint32_t n_cluster; /* 2: pairs of blocks share the reading of x */
    uint32_t n_static;  /* tiles of a block that are fixed, the others are handed out; 0: all */
    float *partials;    /* [n_tiles][n_panels][16 rows * tokens] */
    uint32_t *counters; /* zero between launches: tiles out, blocks done, [lanes] panels done */
};

/* What a block of threads does: tiles first, first + step, ...; of each the blocks [begin, end). */
struct work {
    uint32_t first, step, begin, end, panel;
};

template <int XROWS> struct shape {
    enum : uint32_t {
        kNt = XROWS > 8 ? 2 : 1,
        kTokens = kNt * 8,
        kXBlockBytes = XROWS * kCols * 2,
        kRedFloats = kWarps * kTokens * kRedPitch, /* of one buffer */
        kOutputs = kRows * kTokens,
    };
};

__device__ __forceinline__ void store_y(const params &p, uint32_t token, uint32_t row, float v)
{
    if (token >= p.n_rows || row >= p.n)
        return;
    if (p.bias != nullptr)
        v += p.bias[row];
    uint64_t at = token * p.y_stride + row;
    if (p.y_is_bf16)
        static_cast<__nv_bfloat16 *>(p.y)[at] = __float2bfloat16_rn(v);
    else
        static_cast<float *>(p.y)[at] = v;
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
constexpr uint32_t kJoin = kProducer + kFinishers; /* threads that add up panels */
constexpr uint32_t kQueue = 32; /* of tiles: more than stages and buffers can hold */
constexpr uint32_t kNoTile = 0xffffffffu;

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

__device__ __forceinline__ void bar_init(uint32_t bar, uint32_t count)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(count) : "memory");
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

/* Copies box [64-column groups from `group`][rows from `row`][64]. */
__device__ __forceinline__ void box_load(uint32_t dst, const CUtensorMap *map, uint32_t row,
                                         uint32_t group, uint32_t bar, uint64_t policy)
{
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
                 ".L2::cache_hint [%0], [%1, {%2, %3, %4}], [%5], %6;" ::"r"(dst),
                 "l"(map), "r"(0), "r"(row), "r"(group), "r"(bar), "l"(policy)
                 : "memory");
}

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
/* The same into both blocks of the cluster. */
__device__ __forceinline__ void box_load_pair(uint32_t dst, const CUtensorMap *map, uint32_t row,
                                              uint32_t group, uint32_t bar, uint64_t policy)
{
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
        ".multicast::cluster.L2::cache_hint [%0], [%1, {%2, %3, %4}], [%5], %6, %7;" ::"r"(dst),
        "l"(map), "r"(0), "r"(row), "r"(group), "r"(bar), "h"(uint16_t(3)), "l"(policy)
        : "memory");
}
#endif

__device__ __forceinline__ void cluster_sync()
{
    asm volatile("barrier.cluster.arrive.release.aligned;\n"
                 "barrier.cluster.wait.acquire.aligned;" ::
                     : "memory");
}

__device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void join_sync()
{
    asm volatile("bar.sync 1, %0;" ::"n"(kJoin) : "memory");
}

/* Shared memory, by address. */
struct layout {
    uint32_t x, ring, red, full, empty, x_full, red_full, red_empty;
};

template <int XROWS> __device__ __forceinline__ layout layout_of(const params &p, uint32_t base)
{
    using S = shape<XROWS>;
    layout l;
    l.ring = (base + 1023u) & ~1023u;
    l.x = l.ring + p.n_stages * kBlockBytes;
    l.red = l.x + (p.n_splits == 1 ? p.n_blocks : p.panel_blocks) * S::kXBlockBytes;
    l.full = l.red + 2 * S::kRedFloats * 4;
    l.empty = l.full + kStagesMax * 8;
    l.x_full = l.empty + kStagesMax * 8;
    l.red_full = l.x_full + kBlocksMax * 8;
    l.red_empty = l.red_full + 16;
    return l;
}

template <int XROWS>
__device__ __forceinline__ void x_load(const params &p, const CUtensorMap *map_x, const layout &l,
                                       const work &w)
{
    using S = shape<XROWS>;
    uint64_t keep;
    asm volatile("createpolicy.fractional.L2::evict_normal.b64 %0, 1.0;" : "=l"(keep));
    for (uint32_t b = 0; b < w.end - w.begin; b++)
        bar_expect(l.x_full + b * 8, S::kXBlockBytes);
    for (uint32_t b = 0; b < w.end - w.begin; b++) {
        uint32_t dst = l.x + b * S::kXBlockBytes, group = (w.begin + b) * kWarps;
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
        if (p.n_cluster == 2) {
            if (b % 2 == blockIdx.x % 2)
                box_load_pair(dst, map_x, 0, group, l.x_full + b * 8, keep);
            continue;
        }
#endif
        box_load(dst, map_x, 0, group, l.x_full + b * 8, keep);
    }
}

/* One thread: keeps the ring full and says which tiles they are. The first tiles are fixed, as many
 * as the ring holds or more; the others are handed out, so that no slow SM is waited for. */
template <int XROWS>
__device__ __forceinline__ void produce(const params &p, const CUtensorMap *map_w,
                                        const CUtensorMap *map_x, const layout &l, const work &w,
                                        volatile uint32_t *queue)
{
    uint64_t once;
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(once));
    uint32_t tile = w.first, n_taken = 0, coming = kNoTile;
    uint32_t block = w.begin, stage = 0, n_free = p.n_stages, parity = 1;
    uint32_t release_at = w.begin + (w.end - w.begin > 1 ? 1 : 0); /* `coming` has come by then */
    bool has_x = false, is_released = false;
    if (p.n_static == 0 && p.n_tiles <= 2 * w.step) { /* short: the next one may come at once */
        grid_launch_dependents();
        is_released = true;
    }
    for (;;) {
        if (n_free == 0 && !has_x) { /* the ring is full of w: now x */
            grid_wait();
            x_load<XROWS>(p, map_x, l, w);
            has_x = true;
            if (p.n_static != 0)
                coming = p.n_static * w.step + atomicAdd(p.counters, 1u);
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
        if (tile >= p.n_tiles)
            break;
        if (block == w.begin)
            queue[n_taken % kQueue] = tile;
        if (!is_released && block == release_at && (has_x || p.n_static == 0)) {
            bool is_last = p.n_static == 0 ? tile + w.step >= p.n_tiles
                                           : n_taken + 1 >= p.n_static && coming >= p.n_tiles;
            if (is_last)
                grid_launch_dependents();
            is_released = is_last;
        }
        if (n_free > 0)
            n_free--;
        else
            bar_wait(l.empty + stage * 8, parity);
        bar_expect(l.full + stage * 8, kBlockBytes);
        box_load(l.ring + stage * kBlockBytes, map_w, tile * kRows, block * kWarps,
                 l.full + stage * 8, once);
        block++;
        if (++stage == p.n_stages) {
            stage = 0;
            parity ^= 1;
        }
    }
    if (!is_released)
        grid_launch_dependents();
    if (!has_x) {
        grid_wait();
        x_load<XROWS>(p, map_x, l, w);
    }
    queue[n_taken % kQueue] = kNoTile;
    if (n_free == 0)
        bar_wait(l.empty + stage * 8, parity);
    bar_arrive(l.full + stage * 8);
    if (p.n_static != 0 && atomicAdd(p.counters + 1, 1u) == gridDim.x - 1) {
        p.counters[0] = 0;
        p.counters[1] = 0;
    }
}

/* One warp: 16 rows by its 64 columns of a block. */
template <int XROWS>
__device__ __forceinline__ void block_mma(float (&acc)[shape<XROWS>::kNt][4], uint32_t w_box,
                                          uint32_t x_block, uint32_t warp, uint32_t lane)
{
    using S = shape<XROWS>;
    uint32_t a_base = w_box + (lane & 15) * 128, a_half = lane >> 4, a_swizzle = lane & 7;
    uint32_t x_base[S::kNt], x_swizzle[S::kNt];
#pragma unroll
    for (uint32_t t = 0; t < S::kNt; t++) {
        uint32_t line = warp * XROWS + min(t * 8 + (lane & 7), uint32_t(XROWS - 1));
        x_base[t] = x_block + line * 128;
        x_swizzle[t] = line & 7;
    }
#pragma unroll
    for (uint32_t chunk = 0; chunk < 8; chunk += 4) { /* 8 columns each */
        uint32_t a[2][4], b[S::kNt][4];
        load_matrices(a[0], a_base + (((chunk + a_half) ^ a_swizzle) << 4));
        load_matrices(a[1], a_base + (((chunk + 2 + a_half) ^ a_swizzle) << 4));
#pragma unroll
        for (uint32_t t = 0; t < S::kNt; t++)
            load_matrices(b[t], x_base[t] + (((chunk + (lane >> 3)) ^ x_swizzle[t]) << 4));
#pragma unroll
        for (uint32_t t = 0; t < S::kNt; t++)
            mma(acc[t], a[0], b[t][0], b[t][1]);
#pragma unroll
        for (uint32_t t = 0; t < S::kNt; t++)
            mma(acc[t], a[1], b[t][2], b[t][3]);
    }
}

__device__ __forceinline__ void smem_store(uint32_t addr, float v)
{
    asm volatile("st.shared.f32 [%0], %1;" ::"r"(addr), "f"(v) : "memory");
}

__device__ __forceinline__ float smem_load(uint32_t addr)
{
    float v;
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(v) : "r"(addr) : "memory");
    return v;
}

template <int XROWS>
__device__ __forceinline__ void multiply(const params &p, const layout &l, const work &w,
                                         volatile uint32_t *queue)
{
    using S = shape<XROWS>;
    uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    uint32_t stage = 0, parity = 0, buffer = 0, red_parity = 1;
    uint32_t red = l.red + ((warp * S::kTokens + lane % 4 * 2) * kRedPitch + lane / 4) * 4;
    for (uint32_t i = 0;; i++) {
        bar_wait(l.full + stage * 8, parity);
        if (queue[i % kQueue] == kNoTile)
            break;
        for (uint32_t block = w.begin; block < w.end;) {
            uint32_t stop = min(w.end, (block / p.panel_blocks + 1) * p.panel_blocks);
            float acc[S::kNt][4] = {};
            for (; block < stop; block++) {
                uint32_t b = block - w.begin;
                if (i == 0)
                    bar_wait(l.x_full + b * 8, 0);
                bar_wait(l.full + stage * 8, parity);
                block_mma<XROWS>(acc, l.ring + stage * kBlockBytes + warp * (kRows * 128),
                                 l.x + b * S::kXBlockBytes, warp, lane);
                __syncwarp();
                if (lane == 0)
                    bar_arrive(l.empty + stage * 8);
                if (++stage == p.n_stages) {
                    stage = 0;
                    parity ^= 1;
                }
            }
            bar_wait(l.red_empty + buffer * 8, red_parity);
            uint32_t mine = red + buffer * S::kRedFloats * 4;
#pragma unroll
            for (uint32_t t = 0; t < S::kNt; t++) {
                uint32_t at = mine + t * 8 * kRedPitch * 4;
                smem_store(at, acc[t][0]);
                smem_store(at + kRedPitch * 4, acc[t][1]);
                smem_store(at + 32, acc[t][2]);
                smem_store(at + kRedPitch * 4 + 32, acc[t][3]);
            }
            __syncwarp();
            if (lane == 0)
                bar_arrive(l.red_full + buffer * 8);
            red_parity ^= buffer;
            buffer ^= 1;
        }
    }
    bar_wait(l.red_empty + buffer * 8, red_parity);
    __syncwarp();
    if (lane == 0)
        bar_arrive(l.red_full + buffer * 8); /* the finishers find the end of the queue */
}

template <int XROWS>
__device__ __forceinline__ void finish(const params &p, const layout &l, const work &w,
                                       volatile uint32_t *queue)
{
    using S = shape<XROWS>;
    uint32_t me = threadIdx.x - kProducer - 32;
    uint32_t buffer = 0, parity = 0;
    grid_wait();
    for (uint32_t i = 0;; i++) {
        bar_wait(l.red_full + buffer * 8, parity);
        uint32_t tile = queue[i % kQueue];
        if (tile == kNoTile)
            break;
        float sum[S::kOutputs / kFinishers] = {};
        for (uint32_t block = w.begin; block < w.end; block += p.panel_blocks) {
            bar_wait(l.red_full + buffer * 8, parity);
#pragma unroll
            for (uint32_t o = 0; o < S::kOutputs / kFinishers; o++) {
                uint32_t at = me + o * kFinishers;
                uint32_t from =
                    l.red + (buffer * S::kRedFloats + at / kRows * kRedPitch + at % kRows) * 4;
                float v = 0.0f;
#pragma unroll
                for (uint32_t c = 0; c < kWarps; c++)
                    v += smem_load(from + c * (S::kTokens * kRedPitch * 4));
                sum[o] = block == w.begin ? v : sum[o] + v;
            }
            __syncwarp();
            if (me % 32 == 0)
                bar_arrive(l.red_empty + buffer * 8);
            parity ^= buffer;
            buffer ^= 1;
        }
#pragma unroll
        for (uint32_t o = 0; o < S::kOutputs / kFinishers; o++) {
            uint32_t at = me + o * kFinishers, token = at / kRows;
            if (p.n_splits == 1)
                store_y(p, token, tile * kRows + at % kRows, sum[o]);
            else if (token < p.n_rows)
                __stcg(p.partials + (uint64_t(tile) * p.n_panels + w.panel) * S::kOutputs + at,
                       sum[o]);
        }
    }
}

/* The blocks that share a lane's tiles have a panel each: the last to end adds the panels up. */
template <int XROWS>
__device__ __forceinline__ void gather(const params &p, const work &w, uint32_t *is_last)
{
    using S = shape<XROWS>;
    uint32_t me = threadIdx.x < kProducer ? threadIdx.x : threadIdx.x - 32;
    grid_wait();
    __threadfence();
    join_sync();
    if (me == 0) {
        *is_last = atomicAdd(p.counters + 2 + w.first, 1u) == p.n_panels - 1;
        __threadfence();
    }
    join_sync();
    if (*is_last == 0)
        return;
    uint32_t n_tiles = (p.n_tiles - w.first - 1) / w.step + 1;
#pragma unroll 2
    for (uint32_t i = me; i < n_tiles * S::kOutputs; i += kJoin) {
        uint32_t tile = w.first + i / S::kOutputs * w.step, at = i % S::kOutputs;
        if (at / kRows >= p.n_rows)
            continue;
        const float *slot = p.partials + uint64_t(tile) * p.n_panels * S::kOutputs + at;
        float v = 0.0f;
        for (uint32_t first = 0; first < p.n_panels; first += 4) {
            float part[4];
#pragma unroll
            for (uint32_t c = 0; c < 4; c++)
                part[c] = first + c < p.n_panels ? __ldcg(slot + (first + c) * S::kOutputs) : 0.0f;
#pragma unroll
            for (uint32_t c = 0; c < 4; c++)
                if (first + c < p.n_panels)
                    v = first + c == 0 ? part[c] : v + part[c];
        }
        store_y(p, at / kRows, tile * kRows + at % kRows, v);
    }
    if (me == 0)
        p.counters[2 + w.first] = 0;
}
#endif

template <int XROWS>
__global__ void __launch_bounds__(kThreads, 1)
    gemm_small_kernel(const __grid_constant__ CUtensorMap map_w,
                      const __grid_constant__ CUtensorMap map_x, const params p)
{
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
    extern __shared__ uint8_t smem[];
    __shared__ uint32_t queue[kQueue];
    __shared__ uint32_t is_last;
    layout l = layout_of<XROWS>(p, smem_address(smem));
    work w = work_of(p);
    if (threadIdx.x == kProducer) {
        asm volatile("prefetch.tensormap [%0];" ::"l"(&map_w) : "memory");
        asm volatile("prefetch.tensormap [%0];" ::"l"(&map_x) : "memory");
        for (uint32_t i = 0; i < p.n_stages; i++) {
            bar_init(l.full + i * 8, 1);
            bar_init(l.empty + i * 8, kWarps);
        }
        for (uint32_t i = 0; i < w.end - w.begin; i++)
            bar_init(l.x_full + i * 8, 1);
        for (uint32_t i = 0; i < 2; i++) {
            bar_init(l.red_full + i * 8, kWarps);
            bar_init(l.red_empty + i * 8, kFinishers / 32);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    if (p.n_cluster == 2)
        cluster_sync();
    else
        __syncthreads();
    if (threadIdx.x / 32 == kProducer / 32) {
        if (threadIdx.x == kProducer)
            produce<XROWS>(p, &map_w, &map_x, l, w, queue);
        return;
    }
    if (threadIdx.x < kProducer)
        multiply<XROWS>(p, l, w, queue);
    else
        finish<XROWS>(p, l, w, queue);
    if (p.n_splits > 1)
        gather<XROWS>(p, w, &is_last);
#endif
}

/* Any architecture: a warp for each row of w, eight tokens at a time. */
__global__ void __launch_bounds__(256)
    gemm_small_plain_kernel(const __nv_bfloat16 *x, uint64_t x_stride, const __nv_bfloat16 *w,
                            uint32_t k, const params p)
{
    uint32_t lane = threadIdx.x % 32;
    uint32_t n_warps = gridDim.x * (blockDim.x / 32);
    for (uint32_t row = (blockIdx.x * blockDim.x + threadIdx.x) / 32; row < p.n; row += n_warps) {
        for (uint32_t first = 0; first < p.n_rows; first += 8) {
            float acc[8] = {};
            for (uint32_t c = lane * 8; c < k; c += 256) {
                uint4 wv = *reinterpret_cast<const uint4 *>(w + uint64_t(row) * k + c);
                const __nv_bfloat162 *wp = reinterpret_cast<const __nv_bfloat162 *>(&wv);
#pragma unroll
                for (uint32_t t = 0; t < 8; t++) {
                    if (first + t >= p.n_rows)
                        continue;
                    uint4 xv = *reinterpret_cast<const uint4 *>(x + (first + t) * x_stride + c);
                    const __nv_bfloat162 *xp = reinterpret_cast<const __nv_bfloat162 *>(&xv);
#pragma unroll
                    for (uint32_t i = 0; i < 4; i++) {
                        float2 a = __bfloat1622float2(wp[i]), b = __bfloat1622float2(xp[i]);
                        acc[t] = fmaf(a.x, b.x, acc[t]);
                        acc[t] = fmaf(a.y, b.y, acc[t]);
                    }
                }
            }
#pragma unroll
            for (uint32_t t = 0; t < 8; t++) {
                for (uint32_t d = 16; d > 0; d /= 2)
                    acc[t] += __shfl_xor_sync(0xffffffffu, acc[t], d);
                if (lane == 0)
                    store_y(p, first + t, row, acc[t]);
            }
        }
    }
}

PFN_cuTensorMapEncodeTiled_v12000 encode_lookup()
{
    void *fn = nullptr;
    cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
    cudaError_t err = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &fn, 12000,
                                                       cudaEnableDefault, &found);
    if (err != cudaSuccess || found != cudaDriverEntryPointSuccess)
        return nullptr;
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(fn);
}

/* Map of a [n_rows, k] bf16 matrix, k a multiple of 64, in boxes of `box_rows` by 512 columns. In
 * shared memory: [8][box_rows][64], swizzled; what lies outside reads as zero. */
cudaError_t map_init(CUtensorMap *out_map, const void *base, uint64_t k, uint64_t n_rows,
                     uint64_t stride, uint32_t box_rows)
{
    static const PFN_cuTensorMapEncodeTiled_v12000 encode = encode_lookup();
    if (encode == nullptr)
        return cudaErrorNotSupported;
    cuuint64_t dims[3] = {kBoxCols, n_rows, k / kBoxCols};
    cuuint64_t strides[2] = {stride * 2, kBoxCols * 2};
    cuuint32_t box[3] = {kBoxCols, box_rows, kWarps}, steps[3] = {1, 1, 1};
    /* Promotion to 256 bytes cost 7 % of the bandwidth on an H200, evict-first gained as much. */
    CUresult rc =
        encode(out_map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<void *>(base), dims,
               strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
               CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return rc == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

uint32_t div_up(uint32_t a, uint32_t b)
{
    return (a + b - 1) / b;
}

struct launch {
    const cuda_gemm_args *args;
    params p;
    uint32_t n_sms, grid, how;
    cudaStream_t stream;
};

template <int XROWS> uint32_t smem_bytes(uint32_t n_stages, uint32_t x_blocks)
{
    using S = shape<XROWS>;
    return 1024 + n_stages * kBlockBytes + x_blocks * S::kXBlockBytes + 2 * S::kRedFloats * 4 +
           kBarBytes;
}

/* Stages for which there is room. */
template <int XROWS> uint32_t stages_fit(uint32_t smem_max, uint32_t x_blocks)
{
    if (x_blocks > kBlocksMax || smem_bytes<XROWS>(1, x_blocks) > smem_max)
        return 0;
    uint32_t n = (smem_max - smem_bytes<XROWS>(0, x_blocks)) / kBlockBytes;
    return n < kStagesMax ? n : kStagesMax;
}

size_t partial_bytes(uint32_t n_max)
{
    size_t bytes = size_t(n_max) * 2 * CUDA_GEMM_SMALL_ROWS_MAX * sizeof(float);
    return bytes > kPartialBytesMin ? bytes : kPartialBytesMin;
}

/* False: too large for the tiles. */
template <int XROWS> bool plan(struct launch *l)
{
    params *p = &l->p;
    p->n_tiles = div_up(l->args->n, kRows);
    p->n_blocks = div_up(l->args->k, kCols);
    p->panel_blocks = div_up(p->n_blocks, div_up(p->n_blocks, kPanelBlocks));
    p->n_panels = div_up(p->n_blocks, p->panel_blocks);
    p->n_splits = 1;
    p->n_stages = stages_fit<XROWS>(kSmemMax, p->n_blocks);
    if (p->n_panels > 1 && ((l->how & 1) != 0 || p->n_stages < kWholeStagesMin)) {
        p->n_splits = p->n_panels;
        p->n_stages = stages_fit<XROWS>(kSmemMax, p->panel_blocks);
        size_t need = size_t(p->n_tiles) * p->n_panels * shape<XROWS>::kOutputs * sizeof(float);
        if (need > partial_bytes(l->args->n))
            return false;
    }
    uint32_t lanes = l->n_sms / p->n_splits;
    if (lanes == 0)
        lanes = 1;
    if (lanes > p->n_tiles)
        lanes = p->n_tiles;
    bool may_pair = (l->how & 4) == 0 && (XROWS == 16 || (l->how & 2) != 0);
    p->n_cluster = may_pair && p->n_splits == 1 && lanes >= 2 ? 2 : 1;
    if (p->n_cluster == 2)
        lanes -= lanes % 2;
    l->grid = lanes * p->n_splits;
    /* A short kernel leaves room for the next one's block beside its own. */
    uint32_t n_shared = stages_fit<XROWS>(kSmemShared, p->n_blocks);
    if (p->n_tiles > lanes && div_up(p->n_tiles, lanes) * p->n_blocks <= kShortBlocks &&
        n_shared >= 4 && n_shared < p->n_stages)
        p->n_stages = n_shared;
    if ((l->how >> 8) != 0 && p->n_stages > l->how >> 8)
        p->n_stages = l->how >> 8;
    uint32_t n_static = div_up(p->n_stages, p->n_blocks);
    if (n_static < 2)
        n_static = 2;
    bool may_hand_out = p->n_splits == 1 && p->n_blocks >= 4 && (l->how & 8) == 0;
    p->n_static = may_hand_out && p->n_tiles > n_static * lanes ? n_static : 0;
    return true;
}

cudaError_t launch_plain(const struct launch *l);

template <int XROWS> cudaError_t launch_tiled(struct launch l)
{
    const cuda_gemm_args *a = l.args;
    if (!plan<XROWS>(&l))
        return launch_plain(&l);
    CUtensorMap w, x;
    cudaError_t err = map_init(&w, a->w, a->k, a->n, a->k, kRows);
    if (err == cudaSuccess)
        err = map_init(&x, a->x, a->k, a->n_rows, a->x_stride, XROWS);
    if (err == cudaSuccess)
        err = cudaFuncSetAttribute(gemm_small_kernel<XROWS>,
                                   cudaFuncAttributeMaxDynamicSharedMemorySize, kSmemMax);
    if (err != cudaSuccess)
        return err;
    uint32_t x_blocks = l.p.n_splits == 1 ? l.p.n_blocks : l.p.panel_blocks;
    cudaLaunchAttribute attrs[2] = {};
    uint32_t n_attrs = 0;
    if (a->pdl != 0) {
        attrs[n_attrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attrs[n_attrs++].val.programmaticStreamSerializationAllowed = 1;
    }
    if (l.p.n_cluster > 1) {
        attrs[n_attrs].id = cudaLaunchAttributeClusterDimension;
        attrs[n_attrs].val.clusterDim.x = l.p.n_cluster;
        attrs[n_attrs].val.clusterDim.y = 1;
        attrs[n_attrs++].val.clusterDim.z = 1;
    }
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(l.grid);
    config.blockDim = dim3(kThreads);
    config.dynamicSmemBytes = smem_bytes<XROWS>(l.p.n_stages, x_blocks);
    config.stream = l.stream;
    config.attrs = attrs;
    config.numAttrs = n_attrs;
    return cudaLaunchKernelEx(&config, gemm_small_kernel<XROWS>, w, x, l.p);
}

cudaError_t launch_plain(const struct launch *l)
{
    const cuda_gemm_args *a = l->args;
    uint32_t grid = div_up(a->n, 8);
    if (grid > l->n_sms * 8)
        grid = l->n_sms * 8;
    gemm_small_plain_kernel<<<grid, 256, 0, l->stream>>>(
        static_cast<const __nv_bfloat16 *>(a->x), a->x_stride,
        static_cast<const __nv_bfloat16 *>(a->w), a->k, l->p);
    return cudaGetLastError();
}

} // namespace

/* For check_gemm_small.cu: the same with the choices open.
 * how  0: the default; 255: the plain kernel. Bits: 1: SMs keep one panel whenever k has several;
 *      2, 4: pairs share x for 5..8 rows, pairs never do; 8: no tiles are handed out; 256 * n: at
 *      most n stages */
extern "C" cudaError_t cuda_gemm_small_tuned(const struct cuda_gemm_args *args, uint32_t n_sms,
                                             void *workspace, cudaStream_t stream, uint32_t how)
{
    struct launch l = {};
    l.args = args;
    l.n_sms = n_sms;
    l.stream = stream;
    l.p.bias = args->bias;
    l.p.y = args->y;
    l.p.y_stride = args->y_stride;
    l.p.y_is_bf16 = args->y_dtype == OPS_BF16;
    l.p.n_rows = args->n_rows;
    l.p.n = args->n;
    l.how = how;
    l.p.counters = static_cast<uint32_t *>(workspace);
    l.p.partials = reinterpret_cast<float *>(static_cast<uint8_t *>(workspace) + kCounterBytes);
    if (args->n_rows == 0 || args->n == 0)
        return cudaSuccess;
    int device = 0, major = 0;
    cudaError_t err = cudaGetDevice(&device);
    if (err == cudaSuccess)
        err = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    if (err != cudaSuccess)
        return err;
    if (major < 9 || how == 255 || args->k % kBoxCols != 0 ||
        args->n_rows > CUDA_GEMM_SMALL_ROWS_MAX || n_sms > 1000)
        return launch_plain(&l);
    if (args->n_rows == 1)
        return launch_tiled<1>(l);
    if (args->n_rows == 2)
        return launch_tiled<2>(l);
    if (args->n_rows <= 4)
        return launch_tiled<4>(l);
    if (args->n_rows <= 8)
        return launch_tiled<8>(l);
    return launch_tiled<16>(l);
}

extern "C" size_t cuda_gemm_small_workspace_bytes(uint32_t n_max, uint32_t n_sms)
{
    (void)n_sms;
    return kCounterBytes + partial_bytes(n_max);
}

extern "C" cudaError_t cuda_gemm_small(const struct cuda_gemm_args *args, uint32_t n_sms,
                                       void *workspace, cudaStream_t stream)
{
    return cuda_gemm_small_tuned(args, n_sms, workspace, stream, 0);
}
