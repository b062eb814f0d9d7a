/* attention_decode: attention of one query row per sequence over the paged pool (Split-KV).
 *
 * Work is counted in tiles: 16 aligned positions of one unit, a unit being one sequence and the
 * query heads (at most 16) of one KV head. All tiles of a step stand in one line, ordered by
 * (sequence, KV head, position). The plan cuts that line into equal runs, one per CTA of a fixed
 * grid:
 *
 *     unit:   |  seq 0, kv 0  |  seq 0, kv 1  |    seq 1, kv 0    |  seq 1, kv 1  ...
 *     CTA:    |        0        |        1        |        2        |        3    ...
 *
 * or, where units are few and about as long as each other, gives each unit CTAs of its own, a
 * cluster (attention_decode_plan.cuh).
 *
 * Inside a CTA tile x belongs to warp x % warps. Each warp has a ring of its own in shared memory,
 * of one or two tiles (fp8: two or four) as there is room, and a softmax state of its own, so the
 * warps meet only at the end of a unit, where they merge through shared memory. K and V of the
 * tiles ahead are under way meanwhile, across units. (Leaving the merge to the last warp to come,
 * without a barrier, was 3 to 5 % slower on an H200.) A unit that one CTA has alone is written out
 * at once; the parts of a cut unit are merged in the order of the line
 * (attention_decode_merge.cuh).
 *
 * Tensor cores: the tile is the M side of mma.m16n8k16, the query heads are its N side.
 *     scores^T [16 tokens, 8 heads] = K [16, head_dim] * q^T    A by ldmatrix
 *     out^T [head_dim, 8 heads]    += V^T [head_dim, 16] * p^T  A by ldmatrix.trans
 * p^T comes from the scores by one movmatrix per 8x8 corner. 9 to 16 heads take two N tiles; more
 * than 16 heads of a KV head become several units.
 *
 * A slot of a ring, for K and then for V: [part of 64 dims][16 tokens][8 chunks of 16 bytes],
 * chunk c of token r at place c ^ (r % 8): the layout of the copy engine's 128-byte swizzle, free
 * of bank conflicts. One tensor copy brings K and V of a tile (sm_90, head_dim a multiple of 64);
 * otherwise cp.async does, into the same layout. fp8: two tiles in the place of one, and f16
 * products (attention_decode_f8.cuh).
 *
 * With `fresh` the kernel does the work of the qkv op (attention_decode_rows.cuh). The position of
 * the row is then not in the pool yet: the warp that has its tile puts it in behind the copy, and
 * into the pool.
 *
 * What is read before grid_wait, with fresh: the plan, the block table, K and V of the positions
 * before. That is right because
 *  1. the plan's kernel (step_input, or plan_kernel) is launched plainly: it starts when all work
 *     ahead of it on the stream has ended and is visible, those positions with it (cuda_ops.h asks
 *     for that); the block table is there by then, or that kernel brings it;
 *  2. it never releases its dependents, so the kernel behind it, early or not, starts when its
 *     blocks have ended; and a kernel starts after the start of the one ahead of it. By induction
 *     all later kernels of the step start after its blocks have ended, however early each is;
 *  3. those blocks end with a fence of the device behind their stores, and what they stored is read
 *     past the level-1 cache.
 * Nothing is written before grid_wait. As every kernel of a step waits before it ends, the end of
 * the kernel ahead is the end of all ahead of it, and the workspace and the pool are this
 * kernel's. Without fresh the kernel ahead may have written any of the pool: all waits.
 *
 * Launch   one CTA of 8 warps (4 with head_dim 256) per SM, early; few units in clusters
 * Cost     reads K and V once: bound by memory, by latency where they are few. 128 KB under way per
 *          SM; 64 KB with head_dim 64, and where a block of the GEMM behind shall fit beside this
 *          one and start on its weights. The same with fp8, for twice the positions
 * Checked  bench/gpu/check_attention_decode.cu
 * Source   split-KV decoding: Dao et al. 2023 (Flash-Decoding); online softmax: Milakov &
 *          Gimelshein 2018, arXiv:1805.02867 */
#include "kernels/cuda/cuda_ops.h"

#include "kernels/cuda/attention_decode_rows.cuh"

/* 0: cp.async only; 1: tensor copies where they can be used; 2: the same, but no way back (tests)
 */
#ifndef DECODE_TMA
#define DECODE_TMA 1
#endif

namespace
{

using namespace attention_decode;

constexpr uint32_t SLOTS_MAX = 2;            /* of a warp; 3 and 6 were no faster (H200) */
constexpr size_t SMEM_SHARED = 112u * 1024u; /* so much leaves room for a block of the GEMMs */
constexpr uint32_t SHORT_COLS = 2048;        /* of q, in models whose GEMMs are short */

/* ---- PTX ------------------------------------------------------------------------------------- */

__device__ __forceinline__ uint64_t policy_read_once()
{
    uint64_t policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}

__device__ __forceinline__ void barrier_init(uint32_t bar, uint32_t count)
{
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(bar), "r"(count) : "memory");
}

__device__ __forceinline__ void barrier_wait(uint32_t bar, uint32_t parity)
{
    uint32_t is_done = 0;
    while (!is_done) {
#if __CUDA_ARCH__ >= 900
        asm volatile("{.reg .pred p;\n"
                     "mbarrier.try_wait.parity.shared.b64 p, [%1], %2;\n"
                     "selp.u32 %0, 1, 0, p;}"
                     : "=r"(is_done)
                     : "r"(bar), "r"(parity)
                     : "memory");
#else
        asm volatile("{.reg .pred p;\n"
                     "mbarrier.test_wait.parity.shared.b64 p, [%1], %2;\n"
                     "selp.u32 %0, 1, 0, p;}"
                     : "=r"(is_done)
                     : "r"(bar), "r"(parity)
                     : "memory");
#endif
    }
}

/* ---- Bringing tiles into the ring ------------------------------------------------------------ */

/* Where a tile lies in the pool. */
struct tile_place {
    uint32_t block, token, kv_head;
};

/* The source side of a warp's ring. Lane i knows the place of the warp's tile 32 * batch + i, and
 * looks the next batch up half a batch early, so that the block table is not waited for. */
struct feed {
    uint32_t ring, bars; /* shared memory addresses; the warp's next tile is WARPS tiles further */
    uint32_t x, x_end;   /* the lane's tile of the next batch; end of the CTA's run */
    uint32_t seq;
    plan_seq info;
    tile_place now, next;
    uint64_t policy;
};

/* Slots of the warp that the ring has room for: computed where it is needed, registers are short.
 */
template <int HD> __device__ __forceinline__ uint32_t feed_slots(const feed &f, uint32_t slots)
{
    extern __shared__ __align__(1024) char smem[];
    return f.ring + stage_bytes(HD) < smem_address(smem) + slots * (HD * 64u) ? 2u : 1u;
}

/* Tiles of the warp that may be under way. */
template <int HD, bool F8>
__device__ __forceinline__ uint32_t feed_stages(const feed &f, uint32_t slots)
{
    return feed_slots<HD>(f, slots) * (F8 ? 2u : 1u);
}

/* Where in the ring the tile of a stage lies. */
template <int HD, bool F8>
__device__ __forceinline__ uint32_t stage_at(uint32_t ring, uint32_t stage)
{
    return F8 ? ring + stage / 2u * stage_bytes(HD) + stage % 2u * (HD * 32u)
              : ring + stage * stage_bytes(HD);
}

/* Looks up the lane's tile of the next batch. */
template <int HD> __device__ __forceinline__ void feed_look_up(feed &f, const decode_params &p)
{
    if (f.x < f.x_end) {
        seek(p, f.x, f.seq, f.info);
        uint32_t offset = f.x - f.info.first;
        uint32_t unit = offset / f.info.n_tiles;
        uint32_t pos = (offset - unit * f.info.n_tiles + f.info.tile_first) * TILE;
        f.next.kv_head = unit / p.groups_per_kv;
        f.next.token = pos & ((1u << p.block_shift) - 1u);
        f.next.block = __ldcg(p.block_table + static_cast<size_t>(f.seq) * p.table_stride +
                              (pos >> p.block_shift));
    }
    f.x += warps_of(HD) * 32u;
}

template <int HD, bool F8>
__device__ __forceinline__ void feed_copy_tensor(const feed &f, const decode_params &p,
                                                 const CUtensorMap *map, uint32_t stage)
{
#if __CUDA_ARCH__ >= 900
    uint32_t bar = f.bars + stage * 8u, dst = stage_at<HD, F8>(f.ring, stage);
    uint32_t plane = p.plane_first + f.now.kv_head * 2u;
    asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(bar),
                 "r"(HD * (F8 ? 32u : 64u))
                 : "memory");
    asm volatile("cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".L2::cache_hint [%0], [%1, {%2, %3, %2, %4, %5}], [%6], %7;" ::"r"(dst),
                 "l"(map), "r"(0), "r"(f.now.token), "r"(plane), "r"(f.now.block), "r"(bar),
                 "l"(f.policy)
                 : "memory");
#else
    (void)f, (void)p, (void)map, (void)stage;
#endif
}

template <int HD, bool F8>
__device__ __forceinline__ void feed_copy_async(const feed &f, const decode_params &p,
                                                uint32_t owner, uint32_t stage)
{
    uint32_t lane = threadIdx.x % 32u;
    uint32_t block = __shfl_sync(~0u, f.now.block, owner);
    uint32_t token = __shfl_sync(~0u, f.now.token, owner);
    uint32_t kv_head = __shfl_sync(~0u, f.now.kv_head, owner);
    uint32_t n_row = p.head_dim / (F8 ? 16u : 8u); /* chunks of a token */
    uint32_t per_row = 65536u / n_row + 1u;
    const char *src = p.pool + block * p.block_bytes + kv_head * 2u * p.plane_bytes +
                      static_cast<size_t>(token) * p.head_dim * (F8 ? 1u : 2u);
    uint32_t dst = stage_at<HD, F8>(f.ring, stage);
    for (uint32_t is_v = 0; is_v < 2u; is_v++) {
        for (uint32_t i = lane; i < TILE * n_row; i += 32u) {
            uint32_t row = (i * per_row) >> 16; /* i / n_row, exact for i < 512 */
            uint32_t chunk = i - row * n_row;
            uint32_t at = chunk_at < F8 ? HD : 2 * HD > (chunk, row);
            asm volatile(
                "cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2;" ::"r"(dst + at),
                "l"(src + i * 16u), "l"(f.policy)
                : "memory");
        }
        src += p.plane_bytes;
        dst += HD * (F8 ? 16u : 32u);
    }
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(f.bars + stage * 8u)
                 : "memory");
}

/* Starts the copy of the warp's tile `index` (0, 1, 2, ... in turn) into a free stage. */
template <int HD, bool TMA, bool F8>
__device__ __forceinline__ void feed_issue(feed &f, const decode_params &p, const CUtensorMap *map,
                                           uint32_t index, uint32_t stage)
{
    if (index % 32u == 0)
        f.now = f.next;
    if (!TMA)
        feed_copy_async<HD, F8>(f, p, index % 32u, stage);
    else if (threadIdx.x % 32u == index % 32u)
        feed_copy_tensor<HD, F8>(f, p, map, stage);
    if (index % 32u == 16u)
        feed_look_up<HD>(f, p);
}

/* Readies the warp's ring and starts its first tiles. */
template <int HD, bool TMA, bool F8>
__device__ __forceinline__ void feed_start(feed &f, const decode_params &p, const CUtensorMap *map,
                                           uint32_t n_mine)
{
    uint32_t lane = threadIdx.x % 32u, slots = feed_slots<HD>(f, p.slots);
    uint32_t stages = feed_stages<HD, F8>(f, p.slots);
    feed_look_up<HD>(f, p);
    if (lane < stages)
        barrier_init(f.bars + lane * 8u, TMA ? 1u : 32u);
    if (!TMA && p.head_dim < HD) /* the copies leave the dims beyond head_dim alone */
        for (uint32_t i = lane; i < slots * (HD * 4u); i += 32u)
            asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(
                             f.ring + i / (HD * 4u) * stage_bytes(HD) + i % (HD * 4u) * 16u),
                         "r"(0)
                         : "memory");
    fence_async_proxy();
    __syncwarp();
    for (uint32_t i = 0; i < n_mine && i < stages; i++)
        feed_issue<HD, TMA, F8>(f, p, map, i, i);
}

/* ---- The kernel ------------------------------------------------------------------------------ */

/* The tiles of a warp. */
template <int HD> struct walk {
    uint32_t x, index, stage, parity; /* next tile of the line; next copy */
};

/* The warp's tiles of a segment; kv: the new row, which goes to `block`, where the segment ends
 * with it. */
template <int HD, int NT, bool TMA, bool F8>
__device__ __forceinline__ void
segment_tiles(warp_state<HD, NT> &st, feed &f, walk<HD> &w, const decode_params &p,
              const CUtensorMap *map, const segment &seg, const plan_seq &info, uint32_t n_mine,
              uint32_t kv, uint32_t units, uint32_t block)
{
    uint32_t end = info.kv_tokens, lo = p.window != 0 && end > p.window ? end - p.window : 0;
    for (; w.x < seg.end; w.x += warps_of(HD), w.index++) {
        uint32_t k_tile = stage_at<HD, F8>(f.ring, w.stage);
        uint32_t v_tile = k_tile + HD * (F8 ? 16u : 32u);
        uint32_t pos = (w.x - seg.unit_first + info.tile_first) * TILE;
        float scores[NT][4];
        barrier_wait(f.bars + w.stage * 8u, w.parity);
        __syncwarp();
        if (p.is_fresh != 0 && pos + TILE >= end) {
            char *dst = row_target<F8>(p, seg, block, end - 1u);
            if constexpr (F8)
                tile_patch_f8<HD>(p, k_tile, end - 1u - pos, kv, dst);
            else
                tile_patch<HD>(p, k_tile, end - 1u - pos, kv, dst);
        }
        if constexpr (F8)
            tile_scores_f8<HD, NT>(st, k_tile, units, scores);
        else
            tile_scores<HD, NT>(st, k_tile, p.scale_log2, scores);
        if (pos < lo || pos + TILE > end) {
            if constexpr (F8)
                tile_mask_f8<HD, NT>(pos, lo, end, v_tile, scores);
            else
                tile_mask<HD, NT>(pos, lo, end, v_tile, scores);
        }
        tile_softmax<HD, NT>(st, scores);
        if constexpr (F8)
            tile_values_f8<HD, NT>(st, v_tile, scores);
        else
            tile_values<HD, NT>(st, v_tile, scores);
        __syncwarp();
        if (w.index < n_mine)
            feed_issue<HD, TMA, F8>(f, p, map, w.index, w.stage);
        w.stage++;
        if (w.stage == feed_stages<HD, F8>(f, p.slots)) {
            w.stage = 0;
            w.parity ^= 1u;
        }
    }
}

/* Tells the CTAs of the unit's cluster that this one is there, and what it waits for. */
template <int HD, int NT>
__device__ __forceinline__ void cluster_begin(const decode_params &p, decode_shared<HD, NT> &mem,
                                              const segment &seg)
{
#if __CUDA_ARCH__ >= 900
    if (threadIdx.x == 0 && blockIdx.x == seg.cta_first) {
        for (uint32_t n = 0; n < NT && n * 8u < seg.n_heads; n++) {
            uint32_t bar = smem_address(&mem.parts_bar[n]);
            uint32_t n_rows = min(seg.n_heads - n * 8u, 8u);
            barrier_init(bar, 1);
            bar_expect(bar, (seg.cta_last - seg.cta_first) * part_bytes(p, n_rows));
        }
        bar_init_fence();
    }
    /* Nothing else is sent by this; a release would wait for all of the thread's accesses. */
    asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory");
#else
    (void)p, (void)mem, (void)seg;
#endif
}

__device__ __forceinline__ void cluster_join(bool is_there)
{
#if __CUDA_ARCH__ >= 900
    if (is_there)
        cluster_wait();
#else
    (void)is_there;
#endif
}

/* Leaves a warp's segment in its place, once the warp is done with the one before. */
__device__ __forceinline__ void segment_keep(segment &place, const segment &seg)
{
    __syncwarp();
    if (threadIdx.x % 32u == 0)
        place = seg;
}

/* CTAs of the kernel on an SM that its registers must allow: with two, a block of the GEMMs finds
 * room beside one. */
constexpr uint32_t ctas_of(int hd, int nt)
{
    return hd <= 128 && nt == 1 ? 2u : 1u;
}

template <int HD, int NT, bool TMA, bool F8>
__global__ void __launch_bounds__(warps_of(HD) * 32u, ctas_of(HD, NT))
    decode_kernel(const __grid_constant__ CUtensorMap map, const __grid_constant__ decode_params p)
{
    extern __shared__ __align__(1024) char smem[];
    constexpr uint32_t WARPS = warps_of(HD);
    uint32_t warp = threadIdx.x / 32u, lane = threadIdx.x % 32u;
    auto &mem = *reinterpret_cast<decode_shared<HD, NT> *>(smem + p.slots * (HD * 64u));

    grid_launch_dependents();
#if __CUDA_ARCH__ >= 900
    if (TMA && lane == 0)
        map_prefetch(&map);
#endif
    if (p.is_fresh == 0 || p.is_late != 0)
        grid_wait();
    const share own = share_of<HD>(p);
    if (own.x_first >= own.x_end) {
        if (blockIdx.x == 0)
            grid_wait(); /* the kernel must not end before the one ahead, even with no tiles */
        return;
    }
    uint32_t place = (warp - own.x_first) % WARPS; /* of its first tile among the CTA's */
    walk<HD> w = {own.x_first + place, 0, 0, 0};
    uint32_t n_mine = w.x < own.x_end ? (own.x_end - w.x + WARPS - 1u) / WARPS : 0;

    feed f;
    f.ring = smem_address(smem) + place * (HD * 64u);
    w.index = feed_stages<HD, F8>(f, p.slots);
    f.bars = smem_address(mem.bars[warp]);
    f.x = w.x + lane * WARPS;
    f.x_end = own.x_end;
    f.seq = own.seq;
    f.info = own.info;
    f.policy = policy_read_once();
    f.next = {0, 0, 0};
    feed_start<HD, TMA, F8>(f, p, &map, n_mine);

    uint32_t seq = own.seq;
    plan_seq info = own.info;
    seek(p, own.x_first, seq, info);
    segment seg = segment_at(p, own, own.x_first, seq, info);
    bool is_cluster = own.is_even && p.is_cluster != 0;
    if (is_cluster)
        cluster_begin<HD, NT>(p, mem, seg);
    rows_prepare<HD, NT, F8>(p, mem);
    rows_loaded<HD> rows;
    rows_aim<HD>(rows, p, seg, info.kv_tokens);
    __syncthreads();
    grid_wait();
    rows_load<HD>(rows, p, seg);
    cluster_join(is_cluster);

    /* Where warps leave their states: in the even cut the ring is idle then. */
    float *states = own.is_even ? reinterpret_cast<float *>(smem) : merge_rows<HD, NT>(mem);
    uint32_t pitch = own.is_even ? HD * 16u : p.pass_heads * merge_pitch<HD>; /* floats */
    warp_state<HD, NT> st;
    for (;;) {
        if (F8)
            segment_keep(mem.segments[warp], seg); /* before: registers are short */
        rows_finish<HD, NT, F8>(rows, p, mem, seg);
        if (!F8)
            segment_keep(mem.segments[warp], seg);
        __syncthreads();
        if constexpr (F8)
            state_init_f8<HD, NT>(st, smem_address(mem.q));
        else
            state_init<HD, NT>(st, smem_address(mem.q));
        segment_tiles<HD, NT, TMA, F8>(st, f, w, p, &map, seg, info, n_mine, smem_address(mem.kv),
                                       smem_address(mem.q_units), rows.block);
        bool is_last = seg.end >= own.x_end;
        if (!is_last) {
            seek(p, seg.end, seq, info);
            seg = segment_at(p, own, seg.end, seq, info);
            rows_aim<HD>(rows, p, seg, info.kv_tokens);
            rows_load<HD>(rows, p, seg);
        }
        /* Not the variable: a register less to keep. */
        segment_finish<HD, NT, F8>(st, p, mem, own.is_even, states, pitch,
                                   (f.ring - smem_address(smem)) / (HD * 64u));
        if (is_last)
            break;
    }
}

__global__ void __launch_bounds__(PLAN_THREADS) plan_kernel(const plan_params p)
{
    plan_make(p);
    __threadfence();
}

/* ---- Host ------------------------------------------------------------------------------------ */

/* For measuring, see cuda_attention_decode_tuned. */
enum how : uint32_t {
    HOW_LINE = 1,       /* no even cut */
    HOW_NO_CLUSTER = 2, /* parts go by memory in the even cut too */
    HOW_ONE_STAGE = 4,
    HOW_TWO_STAGES = 8,
    HOW_LATE = 16, /* nothing before grid_wait */
};

struct decode_config {
    uint32_t hd, nt; /* template arguments; hd >= head_dim */
    uint32_t unit_heads, groups_per_kv, pass_heads;
    uint32_t split; /* of the even cut; 0: none */
    uint32_t slots, grid, has_tma, is_cluster, is_late, is_f8;
    size_t smem_bytes;
};

/* Shared memory of a CTA. */
size_t smem_bytes(const decode_config &c, uint32_t slots)
{
    size_t rest = c.hd == 64u
                      ? (c.nt == 1 ? sizeof(decode_shared<64, 1>) : sizeof(decode_shared<64, 2>))
                  : c.hd == 128u
                      ? (c.nt == 1 ? sizeof(decode_shared<128, 1>) : sizeof(decode_shared<128, 2>))
                      : (c.nt == 1 ? sizeof(decode_shared<256, 1>) : sizeof(decode_shared<256, 2>));
    size_t rows = static_cast<size_t>(warps_of(c.hd)) * c.pass_heads * (c.hd + MERGE_PAD) * 4u;
    return static_cast<size_t>(slots) * c.hd * 64u + rest + rows;
}

/* The even cut, where the units of a step are so few that each can have CTAs of its own. A cluster
 * of 8 does not fit every SM of a GPC twice: the grid is what fits. */
void decode_split(decode_config *c, uint32_t n_units, bool has_clusters, uint32_t how)
{
    uint32_t grid = c->grid / SPLIT_MAX * SPLIT_MAX;
    if ((how & HOW_LINE) != 0 || n_units > c->grid)
        return;
    c->split = SPLIT_MAX;
    while (c->split > 1 && (n_units * c->split > grid ||
                            c->split * c->unit_heads > warps_of(c->hd) * c->pass_heads))
        c->split /= 2;
    if (c->split > 1)
        c->grid = grid;
    c->is_cluster = has_clusters && c->split > 1 && (how & HOW_NO_CLUSTER) == 0;
}

/* Whether a CTA leaves room for a block of the GEMM behind. That costs slots of the ring, 2 us of
 * the 12 to 19 that 8 and 16 sequences of 1k tokens take; where the GEMMs are short, their start
 * beside this kernel gains as much or more (H200). */
bool leaves_room(const cuda_attention_args *args, const decode_config &c, uint32_t how)
{
    if ((how & (HOW_ONE_STAGE | HOW_TWO_STAGES)) != 0)
        return (how & HOW_ONE_STAGE) != 0;
    return c.split >= 4u || (c.split > 0 && args->n_heads * args->pool.head_dim <= SHORT_COLS);
}

cudaError_t decode_configure(const cuda_attention_args *args, uint32_t n_sms, uint32_t how,
                             decode_config *out_config)
{
    int device, major, smem_max;
    cudaError_t err = cudaGetDevice(&device);
    if (err == cudaSuccess)
        err = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    if (err == cudaSuccess)
        err = cudaDeviceGetAttribute(&smem_max, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    if (err != cudaSuccess)
        return err;

    decode_config c = {};
    uint32_t group = args->n_heads / args->pool.n_kv_heads;
    c.hd = args->pool.head_dim <= 64u ? 64u : args->pool.head_dim <= 128u ? 128u : 256u;
    c.nt = group > 8u ? 2u : 1u;
    c.unit_heads = group < UNIT_HEADS_MAX ? group : UNIT_HEADS_MAX;
    c.groups_per_kv = (group + c.unit_heads - 1u) / c.unit_heads;
    c.grid = n_sms < CTAS_MAX ? n_sms : CTAS_MAX;
    c.pass_heads = c.unit_heads > 4u ? 8u : 4u;
    if (smem_bytes(c, warps_of(c.hd)) > static_cast<size_t>(smem_max))
        c.pass_heads = 4;
    decode_split(&c, args->seqs.n_seqs * args->pool.n_kv_heads * c.groups_per_kv, major >= 9, how);
    c.is_f8 = args->pool.dtype == OPS_F8;
    bool is_box = c.is_f8 ? args->pool.head_dim == c.hd : args->pool.head_dim % 64u == 0;
    c.has_tma = DECODE_TMA && major >= 9 && is_box && args->pool.block_bytes % 16u == 0;
    c.is_late = (how & HOW_LATE) != 0;
    size_t limit = static_cast<size_t>(smem_max);
    if (leaves_room(args, c, how) && limit > SMEM_SHARED)
        limit = SMEM_SHARED;
    c.slots = warps_of(c.hd) * ((how & HOW_ONE_STAGE) != 0 ? 1u : SLOTS_MAX);
    while (c.slots > warps_of(c.hd) && smem_bytes(c, c.slots) > limit)
        c.slots--;
    c.smem_bytes = smem_bytes(c, c.slots);
    if (c.smem_bytes > static_cast<size_t>(smem_max))
        return cudaErrorInvalidConfiguration;
    *out_config = c;
    return cudaSuccess;
}

/* The pool as [block][plane][part][token][64 dims], fp8 [128 dims] where a head has them, a tile of
 * K and V as one box. Parts beyond head_dim (192 in a kernel of 256) come as zeros. */
bool map_encode(const ops_kv_pool *pool, uint32_t hd, CUtensorMap *out_map)
{
    const bool is_f8 = pool->dtype == OPS_F8, is_narrow = is_f8 && hd == 64u;
    const cuuint32_t part = is_f8 && hd > 64u ? 128 : 64; /* dims */
    cuuint64_t row = pool->head_dim * ops_dtype_bytes(pool->dtype);
    cuuint64_t plane = row * pool->block_tokens;
    cuuint64_t dims[5] = {part, pool->block_tokens, pool->head_dim / part,
                          static_cast<cuuint64_t>(pool->n_layers) * pool->n_kv_heads * 2u,
                          pool->n_blocks};
    cuuint64_t strides[4] = {row, is_narrow ? 64u : 128u, plane, pool->block_bytes};
    cuuint32_t box[5] = {part, TILE, hd / part, 2, 1}, steps[5] = {1, 1, 1, 1, 1};
    static const PFN_cuTensorMapEncodeTiled_v12000 encode = map_encode_lookup();
    return encode != nullptr &&
           encode(out_map, is_f8 ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                  5, pool->base, dims, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                  is_narrow ? CU_TENSOR_MAP_SWIZZLE_64B : CU_TENSOR_MAP_SWIZZLE_128B,
                  CU_TENSOR_MAP_L2_PROMOTION_NONE,
                  CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

typedef void (*decode_fn)(const CUtensorMap, const decode_params);

template <bool TMA, bool F8> decode_fn decode_pick(const decode_config &c)
{
    if (c.hd == 64u)
        return c.nt == 1 ? decode_kernel<64, 1, TMA, F8> : decode_kernel<64, 2, TMA, F8>;
    if (c.hd == 128u)
        return c.nt == 1 ? decode_kernel<128, 1, TMA, F8> : decode_kernel<128, 2, TMA, F8>;
    return c.nt == 1 ? decode_kernel<256, 1, TMA, F8> : decode_kernel<256, 2, TMA, F8>;
}

decode_params decode_fill(const cuda_attention_args *args, const decode_config &c, const void *plan,
                          void *workspace)
{
    const ops_kv_pool *pool = &args->pool;
    const char *plan_base = static_cast<const char *>(plan);
    char *work = static_cast<char *>(workspace);
    decode_params p = {};
    p.q = static_cast<const __nv_bfloat16 *>(args->q);
    p.out = static_cast<__nv_bfloat16 *>(args->out);
    p.q_stride = args->q_stride;
    p.out_stride = args->out_stride;
    p.pool = static_cast<char *>(pool->base) + ops_kv_plane_offset(pool, 0, args->layer, 0, 0);
    p.block_bytes = pool->block_bytes;
    p.plane_bytes =
        static_cast<uint64_t>(pool->block_tokens) * pool->head_dim * ops_dtype_bytes(pool->dtype);
    if (c.is_f8 && pool->scales != nullptr)
        p.scales = pool->scales + static_cast<size_t>(args->layer) * 2u * pool->n_kv_heads;
    p.sinks = args->sinks;
    p.block_table = args->seqs.block_table;
    p.head = reinterpret_cast<const plan_head *>(plan_base);
    p.starts = reinterpret_cast<const plan_start *>(plan_base + sizeof(plan_head));
    p.seqs = reinterpret_cast<const plan_seq *>(plan_base + PLAN_SEQS_AT);
    p.counters = reinterpret_cast<uint32_t *>(work);
    work += CTAS_MAX * sizeof(uint32_t);
    p.part_ml = reinterpret_cast<float2 *>(work);
    work += 2u * sizeof(float2) * UNIT_HEADS_MAX * c.grid;
    p.part_out = reinterpret_cast<float *>(work);
    p.n_seqs = args->seqs.n_seqs;
    p.table_stride = args->seqs.table_stride;
    while ((1u << p.block_shift) < pool->block_tokens)
        p.block_shift++;
    p.head_dim = pool->head_dim;
    p.n_units = pool->n_kv_heads * c.groups_per_kv;
    p.n_heads = args->n_heads;
    p.n_kv_heads = pool->n_kv_heads;
    p.group = args->n_heads / pool->n_kv_heads;
    p.groups_per_kv = c.groups_per_kv;
    p.unit_heads = c.unit_heads;
    p.pass_heads = c.pass_heads;
    p.plane_first = args->layer * pool->n_kv_heads * 2u;
    p.window = args->window;
    p.slots = c.slots;
    p.split = c.split;
    p.is_cluster = c.is_cluster;
    p.is_late = c.is_late;
    p.scale_log2 = args->scale * 1.4426950408889634f;
    if (args->fresh != nullptr) {
        p.is_fresh = 1;
        p.n_rot = args->fresh->n_rot;
        p.q_norm = args->fresh->q_norm;
        p.k_norm = args->fresh->k_norm;
        p.cos_sin = reinterpret_cast<const float2 *>(args->fresh->cos_sin);
        p.eps = args->fresh->eps;
    }
    return p;
}

/* A launch that may begin while the kernel ahead still runs, in clusters of the CTAs of a unit. The
 * split of an SM's memory is the GEMMs', which could not run beside blocks with another. */
cudaError_t decode_launch(decode_fn kernel, const decode_config &c, const CUtensorMap &map,
                          const decode_params &p, cudaStream_t stream)
{
    const void *entry = reinterpret_cast<const void *>(kernel);
    cudaError_t err = cudaFuncSetAttribute(entry, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                           static_cast<int>(c.smem_bytes));
    if (err == cudaSuccess)
        err = cudaFuncSetAttribute(entry, cudaFuncAttributePreferredSharedMemoryCarveout,
                                   cudaSharedmemCarveoutMaxShared);
    if (err != cudaSuccess)
        return err;
    cudaLaunchAttribute attrs[2] = {};
    attrs[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attrs[0].val.programmaticStreamSerializationAllowed = 1;
    attrs[1].id = cudaLaunchAttributeClusterDimension;
    attrs[1].val.clusterDim.x = c.split;
    attrs[1].val.clusterDim.y = attrs[1].val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(c.grid);
    config.blockDim = dim3(warps_of(c.hd) * 32u);
    config.dynamicSmemBytes = c.smem_bytes;
    config.stream = stream;
    config.attrs = attrs;
    config.numAttrs = c.is_cluster ? 2 : 1;
    return cudaLaunchKernelEx(&config, kernel, map, p);
}

} // namespace

cudaError_t attention_decode::plan_fill(const struct cuda_attention_args *args, uint32_t n_sms,
                                        void *plan, uint32_t how, plan_params *out_params)
{
    decode_config c;
    cudaError_t err = decode_configure(args, n_sms, how, &c);
    if (err != cudaSuccess)
        return err;
    char *base = static_cast<char *>(plan);
    *out_params = {args->seqs.kv_tokens,
                   reinterpret_cast<plan_head *>(base),
                   reinterpret_cast<plan_start *>(base + sizeof(plan_head)),
                   reinterpret_cast<plan_seq *>(base + PLAN_SEQS_AT),
                   args->seqs.n_seqs,
                   args->pool.n_kv_heads * c.groups_per_kv,
                   args->window,
                   c.grid,
                   warps_of(c.hd),
                   c.split};
    return cudaSuccess;
}

extern "C" size_t cuda_decode_plan_bytes(uint32_t n_seqs_max)
{
    return PLAN_SEQS_AT + n_seqs_max * sizeof(plan_seq);
}

extern "C" size_t cuda_decode_workspace_bytes(uint32_t n_seqs_max, uint32_t n_heads,
                                              uint32_t head_dim, uint32_t n_sms)
{
    (void)n_seqs_max, (void)n_heads; /* the parts go by the grid, not by the sequences */
    size_t rows = 2u * UNIT_HEADS_MAX * (n_sms < CTAS_MAX ? n_sms : CTAS_MAX);
    return CTAS_MAX * sizeof(uint32_t) + rows * (sizeof(float2) + head_dim * sizeof(float));
}

/* For check_attention_decode.cu: the same with the choices open. how: 0: the default; bits of
 * `how`, the same for plan and attention. */
extern "C" cudaError_t cuda_decode_plan_tuned(const struct cuda_attention_args *args,
                                              uint32_t n_sms, void *plan, cudaStream_t stream,
                                              uint32_t how)
{
    plan_params p;
    if (args->seqs.n_seqs == 0)
        return cudaSuccess;
    cudaError_t err = plan_fill(args, n_sms, plan, how, &p);
    if (err != cudaSuccess)
        return err;
    void *launch_args[] = {&p};
    return cudaLaunchKernel(reinterpret_cast<const void *>(plan_kernel), dim3(1),
                            dim3(PLAN_THREADS), launch_args, 0, stream);
}

extern "C" cudaError_t cuda_attention_decode_tuned(const struct cuda_attention_args *args,
                                                   uint32_t n_sms, const void *plan,
                                                   void *workspace, cudaStream_t stream,
                                                   uint32_t how)
{
    decode_config c;
    CUtensorMap map = {};
    if (args->seqs.n_seqs == 0)
        return cudaSuccess;
    cudaError_t err = decode_configure(args, n_sms, how, &c);
    if (err != cudaSuccess)
        return err;
    if (c.has_tma && !map_encode(&args->pool, c.hd, &map)) {
        if (DECODE_TMA == 2)
            return cudaErrorNotSupported;
        c.has_tma = 0;
    }
    decode_fn kernel = c.is_f8
                           ? c.has_tma ? decode_pick<true, true>(c) : decode_pick<false, true>(c)
                       : c.has_tma ? decode_pick<true, false>(c)
                                   : decode_pick<false, false>(c);
    return decode_launch(kernel, c, map, decode_fill(args, c, plan, workspace), stream);
}

extern "C" cudaError_t cuda_decode_plan(const struct cuda_attention_args *args, uint32_t n_sms,
                                        void *plan, cudaStream_t stream)
{
    return cuda_decode_plan_tuned(args, n_sms, plan, stream, 0);
}

extern "C" cudaError_t cuda_attention_decode(const struct cuda_attention_args *args, uint32_t n_sms,
                                             const void *plan, void *workspace, cudaStream_t stream)
{
    return cuda_attention_decode_tuned(args, n_sms, plan, workspace, stream, 0);
}
