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
 * Inside a CTA tile x belongs to warp x % warps. Each warp has a ring of its own in shared memory
 * and a softmax state of its own, so the warps meet only at the end of a unit, where they merge
 * through shared memory. K and V of the tiles ahead are under way meanwhile, across units. (Leaving
 * the merge to the last warp to come, without a barrier, was 3 to 5 % slower on an H200.)
 * A unit that one CTA has alone is written out at once. A unit that is cut leaves one partial
 * result per CTA in the workspace, and the CTA that comes last merges them, in the order of the
 * line, so the bits do not depend on timing.
 *
 * Tensor cores: the tile is the M side of mma.m16n8k16, the query heads are its N side.
 *     scores^T [16 tokens, 8 heads] = K [16, head_dim] * q^T    A by ldmatrix
 *     out^T [head_dim, 8 heads]    += V^T [head_dim, 16] * p^T  A by ldmatrix.trans
 * p^T comes from the scores by one movmatrix per 8x8 corner. 9 to 16 heads take two N tiles; more
 * than 16 heads of a KV head become several units.
 *
 * A stage of the ring, for K and then for V: [part of 64 dims][16 tokens][8 chunks of 16 bytes],
 * chunk c of token r at place c ^ (r % 8): the layout of the copy engine's 128-byte swizzle, free
 * of bank conflicts. One tensor copy brings K and V of a tile (sm_90, head_dim a multiple of 64);
 * otherwise cp.async does, into the same layout.
 *
 * Launch   one CTA of 8 warps (4 with head_dim 256) per SM
 * Cost     reads K and V once: bound by memory; 64 KB (head_dim 64) or 128 KB under way per SM
 * Checked  bench/gpu/check_attention_decode.cu
 * Source   split-KV decoding: Dao et al. 2023 (Flash-Decoding); online softmax: Milakov &
 *          Gimelshein 2018, arXiv:1805.02867 */
#include "kernels/cuda/cuda_ops.h"

#include "kernels/cuda/common.cuh"

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

/* 0: cp.async only; 1: tensor copies where they can be used; 2: the same, but no way back (tests)
 */
#ifndef DECODE_TMA
#define DECODE_TMA 1
#endif

namespace
{

constexpr uint32_t TILE = 16;           /* positions; the least block_tokens */
constexpr uint32_t CTAS_MAX = 1024;     /* of the grid: one CTA per SM */
constexpr uint32_t STAGES_MAX = 2;      /* of a warp's ring; 3 and 6 were no faster (H200) */
constexpr uint32_t UNIT_HEADS_MAX = 16; /* query heads of a unit */
constexpr uint32_t PARTS_AT_ONCE = 16;  /* loads under way in the merge of a cut unit */
constexpr uint32_t MERGE_PAD = 4;       /* floats after each row of the merge buffer: max, sum */

/* Warps of a CTA, a power of two: with head_dim 256 a tile of each of 8 would fill shared memory.
 */
__host__ __device__ constexpr uint32_t warps_of(uint32_t hd)
{
    return hd == 256u ? 4u : 8u;
}

/* ---- Plan ------------------------------------------------------------------------------------
 * [plan_head][CTAS_MAX plan_start][n_seqs plan_seq]                                             */

struct alignas(16) plan_head {
    uint32_t n_tiles; /* of all units */
    uint32_t chunk;   /* tiles of a CTA */
    uint32_t reserved[2];
};

struct alignas(16) plan_seq {
    uint32_t first;      /* place of its first tile in the line */
    uint32_t n_tiles;    /* of each of its units */
    uint32_t tile_first; /* first tile of the sequence that is seen (window) */
    uint32_t kv_tokens;
};

struct alignas(16) plan_start {
    struct plan_seq info; /* of seq */
    uint32_t seq;         /* where the CTA starts */
    uint32_t reserved[3];
};

constexpr size_t PLAN_SEQS_AT = sizeof(plan_head) + CTAS_MAX * sizeof(plan_start);

struct decode_params {
    const __nv_bfloat16 *q;
    __nv_bfloat16 *out;
    uint64_t q_stride, out_stride;
    const char *pool; /* plane K of block 0, the layer, kv_head 0 */
    uint64_t block_bytes, plane_bytes;
    const float *sinks;
    const uint32_t *block_table;
    const plan_head *head;
    const plan_start *starts;
    const plan_seq *seqs;
    uint32_t
        *counters;   /* [grid] parts of the cut unit that begins in this CTA; zero between calls */
    float2 *part_ml; /* [grid * 2, heads of a unit] maximum and sum */
    float *part_out; /* [grid * 2, heads of a unit, head_dim] */
    uint32_t table_stride, block_shift; /* block_tokens = 1 << block_shift */
    uint32_t head_dim, n_units;         /* units of a sequence */
    uint32_t group, groups_per_kv,
        unit_heads;       /* query heads of a KV head; units of it; most heads */
    uint32_t plane_first; /* plane K of the layer, kv_head 0 */
    uint32_t window, stages;
    float scale_log2;
};

/* ---- PTX ------------------------------------------------------------------------------------- */

__device__ __forceinline__ uint64_t policy_evict_first()
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

/* Adds to a counter; orders what the CTA did before and does after it (behind its barriers). */
__device__ __forceinline__ uint32_t add_ordered(uint32_t *counter, uint32_t value)
{
    uint32_t old;
    asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], %2;"
                 : "=r"(old)
                 : "l"(counter), "r"(value)
                 : "memory");
    return old;
}

__device__ __forceinline__ void prefetch_map(const CUtensorMap *map)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
#else
    (void)map;
#endif
}

/* Orders this thread's plain accesses to shared memory before later tensor copies. */
__device__ __forceinline__ void fence_async_proxy()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

__device__ __forceinline__ void mma(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* Rounds (low, high) to a pair of bf16 and transposes the 8x8 matrix that the warp holds. */
__device__ __forceinline__ uint32_t pack_transposed(float low, float high)
{
    uint32_t pair, result;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(result) : "r"(pair));
    return result;
}

__device__ __forceinline__ float exp2_fast(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* ---- Bringing tiles into the ring ------------------------------------------------------------ */

/* Where a tile lies in the pool. */
struct tile_place {
    uint32_t block, token, kv_head;
};

/* Moves (seq, info) on to the sequence that tile x belongs to. */
__device__ __forceinline__ void seek(const decode_params &p, uint32_t x, uint32_t &seq,
                                     plan_seq &info)
{
    while (x >= info.first + info.n_tiles * p.n_units)
        info = p.seqs[++seq];
}

/* The source side of a warp's ring. Lane i knows the place of the warp's tile 32 * batch + i, and
 * looks the next batch up half a batch early, so that the block table is not waited for. */
struct feed {
    uint32_t ring, bars; /* shared memory addresses */
    uint32_t x, x_end;   /* the lane's tile of the next batch; end of the CTA's run */
    uint32_t seq;
    plan_seq info;
    tile_place now, next;
    uint64_t policy;
};

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
        f.next.block =
            p.block_table[static_cast<size_t>(f.seq) * p.table_stride + (pos >> p.block_shift)];
    }
    f.x += warps_of(HD) * 32u;
}

template <int HD>
__device__ __forceinline__ void feed_copy_tensor(const feed &f, const decode_params &p,
                                                 const CUtensorMap *map, uint32_t stage)
{
#if __CUDA_ARCH__ >= 900
    uint32_t bar = f.bars + stage * 8u, dst = f.ring + stage * (HD * 64u);
    uint32_t plane = p.plane_first + f.now.kv_head * 2u;
    asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(bar), "r"(HD * 64u)
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

template <int HD>
__device__ __forceinline__ void feed_copy_async(const feed &f, const decode_params &p,
                                                uint32_t owner, uint32_t stage)
{
    uint32_t lane = threadIdx.x % 32u;
    uint32_t block = __shfl_sync(~0u, f.now.block, owner);
    uint32_t token = __shfl_sync(~0u, f.now.token, owner);
    uint32_t kv_head = __shfl_sync(~0u, f.now.kv_head, owner);
    uint32_t n_row = p.head_dim / 8u; /* chunks of a token */
    uint32_t per_row = 65536u / n_row + 1u;
    const char *src = p.pool + block * p.block_bytes + kv_head * 2u * p.plane_bytes +
                      static_cast<size_t>(token) * p.head_dim * 2u;
    uint32_t dst = f.ring + stage * (HD * 64u);
    for (uint32_t is_v = 0; is_v < 2u; is_v++) {
        for (uint32_t i = lane; i < TILE * n_row; i += 32u) {
            uint32_t row = (i * per_row) >> 16; /* i / n_row, exact for i < 512 */
            uint32_t chunk = i - row * n_row;
            uint32_t at = (chunk / 8u) * 2048u + row * 128u + (((chunk ^ row) & 7u) << 4);
            asm volatile(
                "cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2;" ::"r"(dst + at),
                "l"(src + i * 16u), "l"(f.policy)
                : "memory");
        }
        src += p.plane_bytes;
        dst += HD * 32u;
    }
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(f.bars + stage * 8u)
                 : "memory");
}

/* Starts the copy of the warp's tile `index` (0, 1, 2, ... in turn) into a free stage. */
template <int HD, bool TMA>
__device__ __forceinline__ void feed_issue(feed &f, const decode_params &p, const CUtensorMap *map,
                                           uint32_t index, uint32_t stage)
{
    if (index % 32u == 0)
        f.now = f.next;
    if (!TMA)
        feed_copy_async<HD>(f, p, index % 32u, stage);
    else if (threadIdx.x % 32u == index % 32u)
        feed_copy_tensor<HD>(f, p, map, stage);
    if (index % 32u == 16u)
        feed_look_up<HD>(f, p);
}

/* ---- Arithmetic of a warp -------------------------------------------------------------------- */

/* Lane 4g + t holds heads 2t and 2t + 1 of each N tile: of the scores tokens g and g + 8, of out
 * dims 16i + g and 16i + g + 8. `sum` covers the tokens of this lane alone. */
template <int HD, int NT> struct warp_state {
    uint32_t q[HD / 16][NT][2]; /* B operand: head g, dims 16k + 2t, + 1, and 8 further */
    float max[NT][2], sum[NT][2];
    float out[HD / 16][NT][4];
};

template <int HD, int NT>
__device__ __forceinline__ void state_init(warp_state<HD, NT> &st, const decode_params &p,
                                           const __nv_bfloat16 *q, uint32_t n_heads)
{
    uint32_t g = threadIdx.x % 32u / 4u, t = threadIdx.x % 4u;
#pragma unroll
    for (int n = 0; n < NT; n++) {
        st.max[n][0] = st.max[n][1] = -INFINITY;
        st.sum[n][0] = st.sum[n][1] = 0.0f;
        uint32_t head = n * 8 + g;
        const uint32_t *row = reinterpret_cast<const uint32_t *>(q + head * p.head_dim) + t;
#pragma unroll
        for (int k = 0; k < HD / 16; k++) {
            bool is_there = head < n_heads && k * 16u < p.head_dim;
            st.q[k][n][0] = is_there ? __ldg(row + k * 8) : 0u;
            st.q[k][n][1] = is_there ? __ldg(row + k * 8 + 4) : 0u;
            st.out[k][n][0] = st.out[k][n][1] = st.out[k][n][2] = st.out[k][n][3] = 0.0f;
        }
    }
}

/* scores = scale * log2(e) * K q^T; a single N tile has two sums, for two chains of mma. */
template <int HD, int NT>
__device__ __forceinline__ void tile_scores(const warp_state<HD, NT> &st, uint32_t k_tile,
                                            float scale_log2, float scores[NT][4])
{
    uint32_t lane = threadIdx.x % 32u, row = lane % 16u;
    float odd[NT][4];
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            scores[n][i] = odd[n][i] = 0.0f;
#pragma unroll
    for (int k = 0; k < HD / 16; k++) {
        uint32_t chunk = (2u * k % 8u + lane / 16u) ^ (row % 8u), a[4];
        load_matrices(a, k_tile + k / 4 * 2048u + row * 128u + chunk * 16u);
#pragma unroll
        for (int n = 0; n < NT; n++)
            mma(NT == 1 && k % 2 ? odd[n] : scores[n], a, st.q[k][n][0], st.q[k][n][1]);
    }
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            scores[n][i] = (scores[n][i] + odd[n][i]) * scale_log2;
}

/* Takes the tokens of the tile outside [lo, end) out: score -inf, V zero (the pool may hold
 * anything there, NaN too). */
template <int HD, int NT>
__device__ __forceinline__ void tile_mask(uint32_t pos, uint32_t lo, uint32_t end, uint32_t v_tile,
                                          float scores[NT][4])
{
    uint32_t lane = threadIdx.x % 32u, token = pos + lane / 4u;
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint32_t at = token + (i < 2 ? 0u : 8u);
            if (at < lo || at >= end)
                scores[n][i] = -INFINITY;
        }
    for (uint32_t row = 0; row < TILE; row++) {
        if (pos + row >= lo && pos + row < end)
            continue;
        if (lane < (HD + 63) / 64 * 8u)
            asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(
                             v_tile + lane / 8u * 2048u + row * 128u + lane % 8u * 16u),
                         "r"(0)
                         : "memory");
    }
    fence_async_proxy();
    __syncwarp();
}

/* Scores to weights; moves the running maximum and rescales sum and out to it. */
template <int HD, int NT>
__device__ __forceinline__ void tile_softmax(warp_state<HD, NT> &st, float scores[NT][4])
{
#pragma unroll
    for (int n = 0; n < NT; n++) {
        float fix[2];
#pragma unroll
        for (int c = 0; c < 2; c++) {
            float top = fmaxf(scores[n][c], scores[n][c + 2]);
#pragma unroll
            for (int step = 4; step < 32; step *= 2)
                top = fmaxf(top, __shfl_xor_sync(~0u, top, step));
            top = fmaxf(top, st.max[n][c]);
            fix[c] = exp2_fast(st.max[n][c] - top);
            st.max[n][c] = top;
            scores[n][c] = exp2_fast(scores[n][c] - top);
            scores[n][c + 2] = exp2_fast(scores[n][c + 2] - top);
            st.sum[n][c] = st.sum[n][c] * fix[c] + scores[n][c] + scores[n][c + 2];
        }
        if (!__any_sync(~0u, fix[0] != 1.0f || fix[1] != 1.0f))
            continue;
#pragma unroll
        for (int k = 0; k < HD / 16; k++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                st.out[k][n][i] *= fix[i % 2];
    }
}

template <int HD, int NT>
__device__ __forceinline__ void tile_values(warp_state<HD, NT> &st, uint32_t v_tile,
                                            const float weights[NT][4])
{
    uint32_t lane = threadIdx.x % 32u, row = lane % 8u + lane / 16u * 8u;
    uint32_t b[NT][2];
#pragma unroll
    for (int n = 0; n < NT; n++) {
        b[n][0] = pack_transposed(weights[n][0], weights[n][1]);
        b[n][1] = pack_transposed(weights[n][2], weights[n][3]);
    }
#pragma unroll
    for (int k = 0; k < HD / 16; k++) {
        uint32_t chunk = (2u * k % 8u + lane / 8u % 2u) ^ (row % 8u), a[4];
        load_matrices_trans(a, v_tile + k / 4 * 2048u + row * 128u + chunk * 16u);
#pragma unroll
        for (int n = 0; n < NT; n++)
            mma(st.out[k][n], a, b[n][0], b[n][1]);
    }
}

/* ---- Merging --------------------------------------------------------------------------------- */

/* Shared memory after the ring. One N tile of heads is merged after the other. A row is out [HD],
 * max, sum; its pad keeps the stores of a warp free of bank conflicts. */
template <int HD> struct merge_buffer {
    float rows[warps_of(HD)][8][HD + MERGE_PAD];
    uint64_t bars[warps_of(HD)][STAGES_MAX];
    uint32_t is_last;
};

/* A piece of a unit. */
struct segment {
    uint32_t seq;
    uint32_t head_first, n_heads;  /* query heads */
    uint32_t unit_first, unit_end; /* tiles of the line */
    uint32_t end;                  /* of the CTA's share */
};

struct merged {
    float max, sum;
    float4 out;
};

__device__ __forceinline__ void merged_add(merged &m, float max, float sum, float4 out)
{
    float top = fmaxf(m.max, max), base = top == -INFINITY ? 0.0f : top;
    float a = exp2_fast(m.max - base), b = exp2_fast(max - base);
    m.max = top;
    m.sum = m.sum * a + sum * b;
    m.out.x = m.out.x * a + out.x * b;
    m.out.y = m.out.y * a + out.y * b;
    m.out.z = m.out.z * a + out.z * b;
    m.out.w = m.out.w * a + out.w * b;
}

/* Writes the finished row of 4 dims. */
__device__ __forceinline__ void merged_store(merged m, const decode_params &p, const segment &seg,
                                             uint32_t head, uint32_t dim)
{
    if (p.sinks != nullptr)
        merged_add(m, p.sinks[seg.head_first + head] * 1.4426950408889634f, 1.0f,
                   make_float4(0.0f, 0.0f, 0.0f, 0.0f));
    float inverse = 1.0f / m.sum;
    __nv_bfloat162 pair[2] = {__floats2bfloat162_rn(m.out.x * inverse, m.out.y * inverse),
                              __floats2bfloat162_rn(m.out.z * inverse, m.out.w * inverse)};
    __nv_bfloat162 *dst = reinterpret_cast<__nv_bfloat162 *>(
        p.out + seg.seq * p.out_stride + static_cast<size_t>(seg.head_first + head) * p.head_dim +
        dim);
    dst[0] = pair[0];
    dst[1] = pair[1];
}

/* Leaves N tile n of the warp's state in the buffer. */
template <int HD, int NT>
__device__ __forceinline__ void state_to_shared(const warp_state<HD, NT> &st, int n,
                                                merge_buffer<HD> &buf)
{
    uint32_t lane = threadIdx.x % 32u, warp = threadIdx.x / 32u, g = lane / 4u, t = lane % 4u;
#pragma unroll
    for (int c = 0; c < 2; c++) {
        float sum = st.sum[n][c];
#pragma unroll
        for (int step = 4; step < 32; step *= 2)
            sum += __shfl_xor_sync(~0u, sum, step);
        float *row = buf.rows[warp][2 * t + c];
        if (g == 0) {
            row[HD] = st.max[n][c];
            row[HD + 1] = sum;
        }
#pragma unroll
        for (int k = 0; k < HD / 16; k++) {
            row[k * 16 + g] = st.out[k][n][c];
            row[k * 16 + g + 8] = st.out[k][n][c + 2];
        }
    }
}

/* The last CTA of a cut unit: merges its parts in order. A CTA's slots: 2c for the unit that it
 * goes on with, 2c + 1 for the cut unit that begins in it. */
__device__ __forceinline__ void parts_merge(const decode_params &p, const segment &seg,
                                            uint32_t first, uint32_t last)
{
    uint32_t row_items = p.head_dim / 4u;
    for (uint32_t i = threadIdx.x; i < seg.n_heads * row_items; i += blockDim.x) {
        uint32_t head = i / row_items, dim = i % row_items * 4u;
        merged m = {-INFINITY, 0.0f, {0.0f, 0.0f, 0.0f, 0.0f}};
        for (uint32_t base = first; base <= last; base += PARTS_AT_ONCE) {
            float2 ml[PARTS_AT_ONCE];
            float4 out[PARTS_AT_ONCE];
#pragma unroll
            for (uint32_t k = 0; k < PARTS_AT_ONCE; k++) {
                uint32_t cta = min(base + k, last);
                size_t row = static_cast<size_t>(2u * cta + (cta == first)) * p.unit_heads + head;
                ml[k] = __ldcg(p.part_ml + row);
                out[k] =
                    __ldcg(reinterpret_cast<const float4 *>(p.part_out + row * p.head_dim + dim));
            }
#pragma unroll
            for (uint32_t k = 0; k < PARTS_AT_ONCE; k++)
                if (base + k <= last)
                    merged_add(m, ml[k].x, ml[k].y, out[k]);
        }
        merged_store(m, p, seg, head, dim);
    }
}

/* Merges N tile n of all warps out of the buffer; writes finished rows, or the part of a cut unit.
 */
template <int HD>
__device__ __forceinline__ void warps_merge(const decode_params &p, const merge_buffer<HD> &buf,
                                            const segment &seg, uint32_t n, bool is_cut,
                                            uint32_t slot)
{
    uint32_t row_items = p.head_dim / 4u, n_rows = min(seg.n_heads - n * 8u, 8u);
    for (uint32_t i = threadIdx.x; i < n_rows * row_items; i += blockDim.x) {
        uint32_t head = i / row_items, dim = i % row_items * 4u;
        merged m = {-INFINITY, 0.0f, {0.0f, 0.0f, 0.0f, 0.0f}};
#pragma unroll
        for (uint32_t warp = 0; warp < warps_of(HD); warp++) {
            const float *row = buf.rows[warp][head];
            merged_add(m, row[HD], row[HD + 1], *reinterpret_cast<const float4 *>(row + dim));
        }
        head += n * 8u;
        if (!is_cut) {
            merged_store(m, p, seg, head, dim);
            continue;
        }
        size_t row = static_cast<size_t>(slot) * p.unit_heads + head;
        *reinterpret_cast<float4 *>(p.part_out + row * p.head_dim + dim) = m.out;
        if (dim == 0)
            p.part_ml[row] = make_float2(m.max, m.sum);
    }
}

/* Ends a segment: the unit is written, or its part and, by the last CTA, the unit of all parts. */
template <int HD, int NT>
__device__ __forceinline__ void segment_finish(const warp_state<HD, NT> &st, const decode_params &p,
                                               merge_buffer<HD> &buf, const segment &seg,
                                               uint32_t chunk)
{
    uint32_t first = seg.unit_first / chunk, last = (seg.unit_end - 1u) / chunk;
    uint32_t slot = 2u * blockIdx.x + (blockIdx.x == first);
#pragma unroll
    for (int n = 0; n < NT; n++) {
        if (n * 8u >= seg.n_heads)
            break;
        __syncthreads(); /* all have read what was merged before */
        state_to_shared<HD, NT>(st, n, buf);
        __syncthreads();
        warps_merge<HD>(p, buf, seg, n, first != last, slot);
    }
    if (first == last)
        return;
    __syncthreads();
    if (threadIdx.x == 0)
        buf.is_last = add_ordered(p.counters + first, 1u) == last - first;
    __syncthreads();
    if (!buf.is_last)
        return;
    parts_merge(p, seg, first, last);
    if (threadIdx.x == 0)
        p.counters[first] = 0;
}

/* ---- The kernel ------------------------------------------------------------------------------ */

/* Readies the warp's ring and starts its first tiles. */
template <int HD, bool TMA>
__device__ __forceinline__ void feed_start(feed &f, const decode_params &p, const CUtensorMap *map,
                                           uint32_t n_mine)
{
    uint32_t lane = threadIdx.x % 32u;
    feed_look_up<HD>(f, p);
    if (lane < p.stages)
        barrier_init(f.bars + lane * 8u, TMA ? 1u : 32u);
    if (!TMA && p.head_dim < HD) /* the copies leave the dims beyond head_dim alone */
        for (uint32_t i = lane; i < p.stages * (HD * 4u); i += 32u)
            asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(f.ring + i * 16u), "r"(0)
                         : "memory");
    fence_async_proxy();
    __syncwarp();
    for (uint32_t i = 0; i < n_mine && i < p.stages; i++)
        feed_issue<HD, TMA>(f, p, map, i, i);
}

/* The piece of a unit that starts at tile x of the line. */
__device__ __forceinline__ segment segment_at(const decode_params &p, uint32_t x, uint32_t x_end,
                                              uint32_t seq, const plan_seq &info)
{
    segment seg;
    uint32_t unit = (x - info.first) / info.n_tiles, kv_head = unit / p.groups_per_kv;
    uint32_t skipped = (unit - kv_head * p.groups_per_kv) * p.unit_heads;
    seg.seq = seq;
    seg.head_first = kv_head * p.group + skipped;
    seg.n_heads = min(p.group - skipped, p.unit_heads);
    seg.unit_first = info.first + unit * info.n_tiles;
    seg.unit_end = seg.unit_first + info.n_tiles;
    seg.end = min(seg.unit_end, x_end);
    return seg;
}

template <int HD, int NT, bool TMA>
__global__ void __launch_bounds__(warps_of(HD) * 32u, 1)
    decode_kernel(const __grid_constant__ CUtensorMap map, const __grid_constant__ decode_params p)
{
    extern __shared__ __align__(1024) char smem[];
    uint32_t warp = threadIdx.x / 32u, lane = threadIdx.x % 32u;
    constexpr uint32_t WARPS = warps_of(HD);
    auto &buf = *reinterpret_cast<merge_buffer<HD> *>(smem + p.stages * WARPS * (HD * 64u));

    grid_launch_dependents();
    if (TMA && lane == 0)
        prefetch_map(&map);
    grid_wait();
    const plan_head head = *p.head;
    const plan_start start = p.starts[blockIdx.x];
    uint32_t x_first = blockIdx.x * head.chunk;
    if (x_first >= head.n_tiles)
        return;
    uint32_t x_end = min(x_first + head.chunk, head.n_tiles);
    uint32_t x = x_first + (warp - x_first) % WARPS; /* the warp's first tile */
    uint32_t n_mine = x < x_end ? (x_end - x + WARPS - 1u) / WARPS : 0;

    feed f;
    f.ring = smem_address(smem) + warp * p.stages * (HD * 64u);
    f.bars = smem_address(buf.bars[warp]);
    f.x = x + lane * WARPS;
    f.x_end = x_end;
    f.seq = start.seq;
    f.info = start.info;
    f.policy = policy_evict_first();
    f.next = {0, 0, 0};
    feed_start<HD, TMA>(f, p, &map, n_mine);

    uint32_t seq = start.seq, stage = 0, parity = 0, index = p.stages;
    plan_seq info = start.info;
    warp_state<HD, NT> st;
    for (uint32_t at = x_first; at < x_end;) {
        seek(p, at, seq, info);
        const segment seg = segment_at(p, at, x_end, seq, info);
        uint32_t end = info.kv_tokens;
        uint32_t lo = p.window != 0 && end > p.window ? end - p.window : 0;
        state_init<HD, NT>(st, p, p.q + seq * p.q_stride + seg.head_first * p.head_dim,
                           seg.n_heads);
        for (; x < seg.end; x += WARPS, index++) {
            uint32_t k_tile = f.ring + stage * (HD * 64u), v_tile = k_tile + HD * 32u;
            uint32_t pos = (x - seg.unit_first + info.tile_first) * TILE;
            float scores[NT][4];
            barrier_wait(f.bars + stage * 8u, parity);
            __syncwarp();
            tile_scores<HD, NT>(st, k_tile, p.scale_log2, scores);
            if (pos < lo || pos + TILE > end)
                tile_mask<HD, NT>(pos, lo, end, v_tile, scores);
            tile_softmax<HD, NT>(st, scores);
            tile_values<HD, NT>(st, v_tile, scores);
            __syncwarp();
            if (index < n_mine)
                feed_issue<HD, TMA>(f, p, &map, index, stage);
            stage++;
            if (stage == p.stages) {
                stage = 0;
                parity ^= 1u;
            }
        }
        segment_finish<HD, NT>(st, p, buf, seg, head.chunk);
        at = seg.end;
    }
}

/* ---- The plan's kernel ----------------------------------------------------------------------- */

struct plan_params {
    const uint32_t *kv_tokens;
    plan_head *head;
    plan_start *starts;
    plan_seq *seqs;
    uint32_t n_seqs, n_units, window, grid, chunk_min;
};

constexpr uint32_t PLAN_THREADS = 256;

/* Inclusive sum over the CTA; *out_total: over all threads. */
__device__ uint32_t scan_sum(uint32_t value, uint32_t *out_total)
{
    __shared__ uint32_t sums[PLAN_THREADS / 32u];
    uint32_t lane = threadIdx.x % 32u, warp = threadIdx.x / 32u, before = 0, total = 0;
    for (uint32_t step = 1; step < 32u; step *= 2u) {
        uint32_t other = __shfl_up_sync(~0u, value, step);
        value += lane >= step ? other : 0;
    }
    __syncthreads();
    if (lane == 31u)
        sums[warp] = value;
    __syncthreads();
    for (uint32_t i = 0; i < PLAN_THREADS / 32u; i++) {
        before += i < warp ? sums[i] : 0;
        total += sums[i];
    }
    *out_total = total;
    return value + before;
}

/* One CTA: lays the tiles of all sequences out in a line and finds where each CTA starts. */
__global__ void __launch_bounds__(PLAN_THREADS) plan_kernel(const plan_params p)
{
    uint32_t n_tiles = 0;
    for (uint32_t base = 0; base < p.n_seqs; base += PLAN_THREADS) {
        uint32_t seq = base + threadIdx.x, total;
        plan_seq info = {0, 0, 0, seq < p.n_seqs ? p.kv_tokens[seq] : 0};
        if (p.window != 0 && info.kv_tokens > p.window)
            info.tile_first = (info.kv_tokens - p.window) / TILE;
        info.n_tiles = (info.kv_tokens + TILE - 1u) / TILE - info.tile_first;
        uint32_t size = info.n_tiles * p.n_units;
        info.first = n_tiles + scan_sum(size, &total) - size;
        if (seq < p.n_seqs)
            p.seqs[seq] = info;
        n_tiles += total;
    }
    /* At least a tile for each warp: more CTAs with less only leave more parts to merge. */
    uint32_t chunk = max((n_tiles + p.grid - 1u) / p.grid, p.chunk_min);
    if (threadIdx.x == 0)
        *p.head = {n_tiles, chunk, {0, 0}};
    __syncthreads(); /* seqs are written */
    for (uint32_t cta = threadIdx.x; cta < p.grid && cta * chunk < n_tiles; cta += PLAN_THREADS) {
        uint32_t low = 0, high = p.n_seqs - 1u; /* the last sequence that starts at or before it */
        while (low < high) {
            uint32_t middle = (low + high + 1u) / 2u;
            if (p.seqs[middle].first <= cta * chunk)
                low = middle;
            else
                high = middle - 1u;
        }
        p.starts[cta] = {p.seqs[low], low, {0, 0, 0}};
    }
}

/* ---- Host ------------------------------------------------------------------------------------ */

struct decode_config {
    uint32_t hd, nt; /* template arguments; hd >= head_dim */
    uint32_t unit_heads, groups_per_kv;
    uint32_t stages, grid, has_tma;
    size_t smem_bytes;
};

/* Shared memory of a CTA. */
size_t smem_bytes(uint32_t hd, uint32_t stages)
{
    size_t merge = hd == 64u    ? sizeof(merge_buffer<64>)
                   : hd == 128u ? sizeof(merge_buffer<128>)
                                : sizeof(merge_buffer<256>);
    return static_cast<size_t>(stages) * warps_of(hd) * hd * 64u + merge;
}

cudaError_t decode_configure(const cuda_attention_args *args, uint32_t n_sms,
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
    c.stages = STAGES_MAX;
    while (c.stages > 0 && smem_bytes(c.hd, c.stages) > static_cast<size_t>(smem_max))
        c.stages--;
    if (c.stages == 0)
        return cudaErrorInvalidConfiguration;
    c.smem_bytes = smem_bytes(c.hd, c.stages);
    c.unit_heads = group < UNIT_HEADS_MAX ? group : UNIT_HEADS_MAX;
    c.groups_per_kv = (group + c.unit_heads - 1u) / c.unit_heads;
    c.grid = n_sms < CTAS_MAX ? n_sms : CTAS_MAX;
    c.has_tma = DECODE_TMA && major >= 9 && args->pool.head_dim % 64u == 0 &&
                args->pool.block_bytes % 16u == 0;
    *out_config = c;
    return cudaSuccess;
}

typedef CUresult (*encode_tiled_fn)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *,
                                    const cuuint64_t *, const cuuint64_t *, const cuuint32_t *,
                                    const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle,
                                    CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

/* The driver's function, looked up once; NULL when there is none. */
encode_tiled_fn encode_tiled()
{
    static void *cached;
    void *fn = __atomic_load_n(&cached, __ATOMIC_RELAXED);
    cudaDriverEntryPointQueryResult found;
    if (fn == nullptr &&
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &fn, 12000, cudaEnableDefault,
                                         &found) == cudaSuccess &&
        found == cudaDriverEntryPointSuccess)
        __atomic_store_n(&cached, fn, __ATOMIC_RELAXED);
    return reinterpret_cast<encode_tiled_fn>(fn);
}

/* The pool as [block][plane][part][token][64 dims], a tile of K and V as one box. Parts beyond
 * head_dim (192 in a kernel of 256) come as zeros. */
bool map_encode(const ops_kv_pool *pool, uint32_t hd, CUtensorMap *out_map)
{
    cuuint64_t row = pool->head_dim * 2u, plane = row * pool->block_tokens;
    cuuint64_t dims[5] = {64, pool->block_tokens, pool->head_dim / 64u,
                          static_cast<cuuint64_t>(pool->n_layers) * pool->n_kv_heads * 2u,
                          pool->n_blocks};
    cuuint64_t strides[4] = {row, 128, plane, pool->block_bytes};
    cuuint32_t box[5] = {64, TILE, hd / 64u, 2, 1}, steps[5] = {1, 1, 1, 1, 1};
    encode_tiled_fn encode = encode_tiled();
    return encode != nullptr && encode(out_map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 5, pool->base,
                                       dims, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                                       CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_NONE,
                                       CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

typedef void (*decode_fn)(const CUtensorMap, const decode_params);

template <bool TMA> decode_fn decode_pick(const decode_config &c)
{
    if (c.hd == 64u)
        return c.nt == 1 ? decode_kernel<64, 1, TMA> : decode_kernel<64, 2, TMA>;
    if (c.hd == 128u)
        return c.nt == 1 ? decode_kernel<128, 1, TMA> : decode_kernel<128, 2, TMA>;
    return c.nt == 1 ? decode_kernel<256, 1, TMA> : decode_kernel<256, 2, TMA>;
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
    p.pool =
        static_cast<const char *>(pool->base) + ops_kv_plane_offset(pool, 0, args->layer, 0, 0);
    p.block_bytes = pool->block_bytes;
    p.plane_bytes = static_cast<uint64_t>(pool->block_tokens) * pool->head_dim * 2u;
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
    p.table_stride = args->seqs.table_stride;
    while ((1u << p.block_shift) < pool->block_tokens)
        p.block_shift++;
    p.head_dim = pool->head_dim;
    p.n_units = pool->n_kv_heads * c.groups_per_kv;
    p.group = args->n_heads / pool->n_kv_heads;
    p.groups_per_kv = c.groups_per_kv;
    p.unit_heads = c.unit_heads;
    p.plane_first = args->layer * pool->n_kv_heads * 2u;
    p.window = args->window;
    p.stages = c.stages;
    p.scale_log2 = args->scale * 1.4426950408889634f;
    return p;
}

} // namespace

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

extern "C" cudaError_t cuda_decode_plan(const struct cuda_attention_args *args, uint32_t n_sms,
                                        void *plan, cudaStream_t stream)
{
    decode_config c;
    if (args->seqs.n_seqs == 0)
        return cudaSuccess;
    cudaError_t err = decode_configure(args, n_sms, &c);
    if (err != cudaSuccess)
        return err;
    char *base = static_cast<char *>(plan);
    plan_params p = {args->seqs.kv_tokens,
                     reinterpret_cast<plan_head *>(base),
                     reinterpret_cast<plan_start *>(base + sizeof(plan_head)),
                     reinterpret_cast<plan_seq *>(base + PLAN_SEQS_AT),
                     args->seqs.n_seqs,
                     args->pool.n_kv_heads * c.groups_per_kv,
                     args->window,
                     c.grid,
                     warps_of(c.hd)};
    void *launch_args[] = {&p};
    return cudaLaunchKernel(reinterpret_cast<const void *>(plan_kernel), dim3(1),
                            dim3(PLAN_THREADS), launch_args, 0, stream);
}

extern "C" cudaError_t cuda_attention_decode(const struct cuda_attention_args *args, uint32_t n_sms,
                                             const void *plan, void *workspace, cudaStream_t stream)
{
    decode_config c;
    CUtensorMap map = {};
    if (args->seqs.n_seqs == 0)
        return cudaSuccess;
    cudaError_t err = decode_configure(args, n_sms, &c);
    if (err != cudaSuccess)
        return err;
    if (c.has_tma && !map_encode(&args->pool, c.hd, &map)) {
        if (DECODE_TMA == 2)
            return cudaErrorNotSupported;
        c.has_tma = 0;
    }
    decode_fn kernel = c.has_tma ? decode_pick<true>(c) : decode_pick<false>(c);
    decode_params p = decode_fill(args, c, plan, workspace);
    err = cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel),
                               cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(c.smem_bytes));
    if (err != cudaSuccess)
        return err;
    return launch_early_shared(kernel, dim3(c.grid), dim3(warps_of(c.hd) * 32u), c.smem_bytes,
                               stream, map, p);
}
