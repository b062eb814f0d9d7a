/* attention_decode: from the states of warps to finished rows. The warps of a CTA merge through
 * shared memory. The CTAs of a cut unit merge in the order of the line, so that the bits do not
 * depend on timing: in a cluster each sends its part into the shared memory of the first, which
 * waits for them; otherwise each leaves its part in the workspace, and the last to come merges.
 *
 * A row of merge memory is out [HD], max, sum. Rows of warps: [warp][pass_heads]; rows of parts
 * that were sent: [part - 1][heads of a unit]. The heads of one pass are merged after those of the
 * other.
 */
#ifndef KERNELS_CUDA_ATTENTION_DECODE_MERGE_CUH
#define KERNELS_CUDA_ATTENTION_DECODE_MERGE_CUH

#include "kernels/cuda/attention_decode_f8.cuh"
#include "kernels/cuda/tma.cuh"

namespace attention_decode
{

constexpr uint32_t PARTS_AT_ONCE = 8; /* loads under way in the merge of a cut unit */
constexpr uint32_t SCALES_NEAR = 32;  /* KV heads whose scales are kept in shared memory */
constexpr uint32_t MERGE_PAD = 4;     /* floats behind a row's out: max, sum, two of no use */

/* The stores of a warp to its rows meet no bank conflicts. */
template <int HD> constexpr uint32_t merge_pitch = HD + MERGE_PAD;

/* Shared memory of a CTA behind its ring. Behind this: [warps * pass_heads] rows of warps, or, in
 * the even cut, where those lie in the ring, rows of parts. */
template <int HD, int NT> struct alignas(16) decode_shared {
    char q[NT * 8u * q_pitch(HD)]; /* query heads of the segment: bf16, with an fp8 pool f16 */
    __nv_bfloat16 kv[2][HD];       /* the new row of K and of V; fp8: bytes [2][HD] */
    float scratch[warps_of(HD)][HD];
    float norms[2][HD]; /* of q and k */
    uint64_t bars[warps_of(HD)][STAGES_MAX];
    uint64_t parts_bar[NT];
    struct segment segments[warps_of(HD)]; /* each warp's copy: it needs its registers for sums */
    uint32_t is_last;
    /* fp8: what the heads' scores are multiplied by; scales of K and V */
    alignas(8) float q_units[NT * 8u];
    float scales[2][SCALES_NEAR];
};

template <int HD, int NT> __device__ __forceinline__ float *merge_rows(decode_shared<HD, NT> &mem)
{
    return reinterpret_cast<float *>(&mem + 1);
}

/* fp8: the scale of K (is_v 0) or V of a KV head. */
template <int HD, int NT>
__device__ __forceinline__ float scale_of(const decode_params &p, const decode_shared<HD, NT> &mem,
                                          uint32_t kv_head, uint32_t is_v)
{
    if (kv_head < SCALES_NEAR)
        return mem.scales[is_v][kv_head];
    return p.scales != nullptr ? __ldg(p.scales + is_v * p.n_kv_heads + kv_head) : 1.0f;
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

/* ---- Messages to another CTA of the cluster -------------------------------------------------- */

/* Stores in another CTA's shared memory and counts the bytes at that CTA's barrier. */
__device__ __forceinline__ void send4(uint32_t remote, float4 v, uint32_t remote_bar)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], "
                 "{%1, %2, %3, %4}, [%5];" ::"r"(remote),
                 "r"(__float_as_uint(v.x)), "r"(__float_as_uint(v.y)), "r"(__float_as_uint(v.z)),
                 "r"(__float_as_uint(v.w)), "r"(remote_bar)
                 : "memory");
#else
    (void)remote, (void)v, (void)remote_bar;
#endif
}

__device__ __forceinline__ void send2(uint32_t remote, float2 v, uint32_t remote_bar)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [%0], "
                 "{%1, %2}, [%3];" ::"r"(remote),
                 "r"(__float_as_uint(v.x)), "r"(__float_as_uint(v.y)), "r"(remote_bar)
                 : "memory");
#else
    (void)remote, (void)v, (void)remote_bar;
#endif
}

/* Of a part's N tile of n_rows heads. */
__device__ __forceinline__ uint32_t part_bytes(const decode_params &p, uint32_t n_rows)
{
    return n_rows * (p.head_dim * 4u + 8u);
}

/* Waits for what the CTAs of the cluster send. */
__device__ __forceinline__ void parts_wait(uint32_t bar)
{
#if __CUDA_ARCH__ >= 900
    uint32_t is_done = 0;
    while (!is_done)
        asm volatile("{.reg .pred p;\n"
                     "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], 0;\n"
                     "selp.u32 %0, 1, 0, p;}"
                     : "=r"(is_done)
                     : "r"(bar)
                     : "memory");
#else
    (void)bar;
#endif
}

/* ---- Sums ------------------------------------------------------------------------------------ */

struct merged {
    float max, sum;
    float4 out;
};

/* Adds N parts, of which those from `n` on count nothing: ml is max and sum. */
template <uint32_t N>
__device__ __forceinline__ void merged_add(merged &m, uint32_t n, const float2 (&ml)[N],
                                           const float4 (&out)[N])
{
    float top = m.max;
#pragma unroll
    for (uint32_t i = 0; i < N; i++)
        top = i < n ? fmaxf(top, ml[i].x) : top;
    float base = top == -INFINITY ? 0.0f : top, fix = exp2_fast(m.max - base);
    m.max = top;
    m.sum *= fix;
    m.out = make_float4(m.out.x * fix, m.out.y * fix, m.out.z * fix, m.out.w * fix);
#pragma unroll
    for (uint32_t i = 0; i < N; i++) {
        float weight = i < n ? exp2_fast(ml[i].x - base) : 0.0f;
        m.sum += ml[i].y * weight;
        m.out.x += out[i].x * weight;
        m.out.y += out[i].y * weight;
        m.out.z += out[i].z * weight;
        m.out.w += out[i].w * weight;
    }
}

/* Writes the finished row of 4 dims; unit: of the values. */
__device__ __forceinline__ void merged_store(merged m, const decode_params &p, const segment &seg,
                                             uint32_t head, uint32_t dim, float unit)
{
    if (p.sinks != nullptr) {
        const float2 ml[1] = {{p.sinks[seg.head_first + head] * 1.4426950408889634f, 1.0f}};
        const float4 out[1] = {{0.0f, 0.0f, 0.0f, 0.0f}};
        merged_add<1>(m, 1, ml, out);
    }
    float inverse = unit / m.sum;
    __nv_bfloat162 pair[2] = {__floats2bfloat162_rn(m.out.x * inverse, m.out.y * inverse),
                              __floats2bfloat162_rn(m.out.z * inverse, m.out.w * inverse)};
    __nv_bfloat162 *dst = reinterpret_cast<__nv_bfloat162 *>(
        p.out + seg.seq * p.out_stride + static_cast<size_t>(seg.head_first + head) * p.head_dim +
        dim);
    dst[0] = pair[0];
    dst[1] = pair[1];
}

/* Leaves heads [lo, lo + n_heads) of N tile n of the warp's state in its rows. */
template <int HD, int NT, bool F8>
__device__ __forceinline__ void state_to_shared(const warp_state<HD, NT> &st, int n, uint32_t lo,
                                                uint32_t n_heads, float *rows)
{
    uint32_t lane = threadIdx.x % 32u, g = lane / 4u, t = lane % 4u;
    float sum[2] = {st.sum[n][0], st.sum[n][1]};
#pragma unroll
    for (int step = 4; step < 32; step *= 2) {
        sum[0] += __shfl_xor_sync(~0u, sum[0], step);
        sum[1] += __shfl_xor_sync(~0u, sum[1], step);
    }
#pragma unroll
    for (int c = 0; c < 2; c++) {
        if (2 * t + c - lo >= n_heads)
            continue;
        float *row = rows + (2 * t + c - lo) * merge_pitch<HD>;
        if (g == 0)
            *reinterpret_cast<float2 *>(row + HD) = make_float2(st.max[n][c], sum[c]);
#pragma unroll
        for (int k = 0; k < HD / 16; k++) {
            if (F8) {
                *reinterpret_cast<float2 *>(row + k * 16 + 2 * g) =
                    make_float2(st.out[k][n][c], st.out[k][n][c + 2]);
                continue;
            }
            row[k * 16 + g] = st.out[k][n][c];
            row[k * 16 + g + 8] = st.out[k][n][c + 2];
        }
    }
}

/* Adds n rows, `pitch` floats apart, of 4 dims from dim on. */
template <int HD, uint32_t N>
__device__ __forceinline__ void rows_add(merged &m, const float *rows, uint32_t pitch, uint32_t n,
                                         uint32_t dim)
{
    float2 ml[N];
    float4 out[N];
#pragma unroll
    for (uint32_t i = 0; i < N; i++) {
        const float *row = rows + (i < n ? i : 0) * pitch;
        ml[i] = *reinterpret_cast<const float2 *>(row + HD);
        out[i] = *reinterpret_cast<const float4 *>(row + dim);
    }
    merged_add<N>(m, n, ml, out);
}

/* The last CTA of a cut unit: merges its parts in order. A CTA's slots: 2c for the unit that it
 * goes on with, 2c + 1 for the cut unit that begins in it. */
__device__ __forceinline__ void parts_merge(const decode_params &p, const segment &seg, float unit)
{
    uint32_t row_items = p.head_dim / 4u;
    for (uint32_t i = threadIdx.x; i < seg.n_heads * row_items; i += blockDim.x) {
        uint32_t head = i / row_items, dim = i % row_items * 4u;
        merged m = {-INFINITY, 0.0f, {0.0f, 0.0f, 0.0f, 0.0f}};
        for (uint32_t base = seg.cta_first; base <= seg.cta_last; base += PARTS_AT_ONCE) {
            float2 ml[PARTS_AT_ONCE];
            float4 out[PARTS_AT_ONCE];
#pragma unroll
            for (uint32_t k = 0; k < PARTS_AT_ONCE; k++) {
                uint32_t cta = min(base + k, seg.cta_last);
                size_t row =
                    static_cast<size_t>(2u * cta + (cta == seg.cta_first)) * p.unit_heads + head;
                ml[k] = __ldcg(p.part_ml + row);
                out[k] =
                    __ldcg(reinterpret_cast<const float4 *>(p.part_out + row * p.head_dim + dim));
            }
            merged_add<PARTS_AT_ONCE>(m, seg.cta_last - base + 1u, ml, out);
        }
        merged_store(m, p, seg, head, dim, unit);
    }
}

/* ---- A segment's end ------------------------------------------------------------------------- */

enum part_way { PART_ALONE, PART_SENT, PART_LEFT }; /* of a unit: all of it; to a cluster; memory */

/* What becomes of 4 dims of a head that the CTA's warps have merged; n: of N tiles. */
template <int HD, int NT>
__device__ __forceinline__ void
part_finish(merged m, const decode_params &p, decode_shared<HD, NT> &mem, const segment &seg,
            part_way way, uint32_t n, uint32_t head, uint32_t dim, float unit)
{
    if (way == PART_LEFT) {
        uint32_t slot = 2u * blockIdx.x + (blockIdx.x == seg.cta_first);
        size_t row = static_cast<size_t>(slot) * p.unit_heads + head;
        *reinterpret_cast<float4 *>(p.part_out + row * p.head_dim + dim) = m.out;
        if (dim == 0)
            p.part_ml[row] = make_float2(m.max, m.sum);
        return;
    }
#if __CUDA_ARCH__ >= 900
    uint32_t bar = smem_address(&mem.parts_bar[n]), part = blockIdx.x - seg.cta_first;
    if (way == PART_SENT && part > 0) {
        uint32_t at = ((part - 1u) * p.unit_heads + head) * merge_pitch<HD>;
        uint32_t remote = smem_of_rank(smem_address(merge_rows<HD, NT>(mem) + at), 0);
        bar = smem_of_rank(bar, 0);
        send4(remote + dim * 4u, m.out, bar);
        if (dim == 0)
            send2(remote + HD * 4u, make_float2(m.max, m.sum), bar);
        return;
    }
    if (way == PART_SENT) {
        parts_wait(bar);
        rows_add<HD, SPLIT_MAX - 1u>(m, merge_rows<HD, NT>(mem) + head * merge_pitch<HD>,
                                     p.unit_heads * merge_pitch<HD>, seg.cta_last - seg.cta_first,
                                     dim);
    }
#else
    (void)mem, (void)n;
#endif
    merged_store(m, p, seg, head, dim, unit);
}

/* Ends a segment: the unit is written, or its part and, by one CTA, the unit of all parts. rows:
 * the memory of the warps' rows, `pitch` floats each; place: which are this warp's. */
template <int HD, int NT, bool F8>
__device__ __forceinline__ void segment_finish(const warp_state<HD, NT> &st, const decode_params &p,
                                               decode_shared<HD, NT> &mem, bool is_even,
                                               float *rows, uint32_t pitch, uint32_t place)
{
    const segment &seg = mem.segments[threadIdx.x / 32u];
    const float unit = F8 ? scale_of<HD, NT>(p, mem, seg.kv_head, 1) : 1.0f;
    bool is_cut = seg.cta_first != seg.cta_last;
    part_way way = !is_cut ? PART_ALONE : is_even && p.is_cluster ? PART_SENT : PART_LEFT;
    constexpr uint32_t ROW_ITEMS = HD / 4u;
#pragma unroll
    for (int n = 0; n < NT; n++) {
        for (uint32_t lo = 0; lo < 8u && n * 8u + lo < seg.n_heads; lo += p.pass_heads) {
            if (n > 0 || lo > 0 || !is_even)
                __syncthreads(); /* all have read what was merged before */
            uint32_t n_rows = min(seg.n_heads - n * 8u - lo, p.pass_heads);
            state_to_shared<HD, NT, F8>(st, n, lo, n_rows, rows + place * pitch);
            __syncthreads();
            for (uint32_t i = threadIdx.x; i < n_rows * ROW_ITEMS; i += blockDim.x) {
                uint32_t head = i / ROW_ITEMS, dim = i % ROW_ITEMS * 4u;
                if (dim >= p.head_dim)
                    continue;
                merged m = {-INFINITY, 0.0f, {0.0f, 0.0f, 0.0f, 0.0f}};
                rows_add<HD, warps_of(HD)>(m, rows + head * merge_pitch<HD>, pitch, warps_of(HD),
                                           dim);
                part_finish<HD, NT>(m, p, mem, seg, way, n, n * 8u + lo + head, dim, unit);
            }
        }
    }
    if (way != PART_LEFT)
        return;
    __syncthreads();
    if (threadIdx.x == 0)
        mem.is_last = add_ordered(p.counters + seg.cta_first, 1u) == seg.cta_last - seg.cta_first;
    __syncthreads();
    if (!mem.is_last)
        return;
    parts_merge(p, seg, unit);
    if (threadIdx.x == 0)
        p.counters[seg.cta_first] = 0;
}

} // namespace attention_decode

#endif
