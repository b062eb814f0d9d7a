/* attention_decode: the rows that the kernel ahead has made: q of a unit's heads and, with `fresh`,
 * k and v of the new position. Warps take one head each, q first, then k and v. What has to be done
 * to it is the `qkv` op's work, in its arithmetic: the bits are the same.
 *
 * Loading and finishing are two calls, so that the rows of the next segment travel while the states
 * of this one are merged. */
#ifndef KERNELS_CUDA_ATTENTION_DECODE_ROWS_CUH
#define KERNELS_CUDA_ATTENTION_DECODE_ROWS_CUH

#include "kernels/cuda/attention_decode_merge.cuh"

namespace attention_decode
{

/* Heads of a segment: those of q; k and v of the new row where its last tile is. */
__device__ __forceinline__ uint32_t rows_count(const decode_params &p, const segment &seg)
{
    return seg.n_heads + (p.is_fresh != 0 && seg.end == seg.unit_end ? 2u : 0u);
}

/* Where the lane's first dim of a head lies; job: of the segment's heads. */
__device__ __forceinline__ const __nv_bfloat16 *row_source(const decode_params &p,
                                                           const segment &seg, uint32_t job)
{
    uint32_t head = job < seg.n_heads    ? seg.head_first + job
                    : job == seg.n_heads ? p.n_heads + seg.kv_head
                                         : p.n_heads + p.n_kv_heads + seg.kv_head;
    return p.q + seg.seq * p.q_stride + head * p.head_dim + threadIdx.x % 32u;
}

/* A lane's part of a head: dims lane + 32 i. */
template <int HD>
__device__ __forceinline__ void row_load(__nv_bfloat16 (&raw)[HD / 32], const decode_params &p,
                                         const __nv_bfloat16 *src)
{
#pragma unroll
    for (uint32_t i = 0; i < HD / 32u; i++)
        raw[i] = threadIdx.x % 32u + 32u * i < p.head_dim ? __ldcg(src + 32u * i)
                                                          : __float2bfloat16_rn(0.0f);
}

/* A warp's first head of a segment; it loads others, if any, when it comes to them. */
template <int HD> struct rows_loaded {
    const __nv_bfloat16 *src;
    const float2 *turns;
    uint32_t block; /* of the new position */
    __nv_bfloat16 raw[HD / 32];
    float2 turn[HD / 64]; /* cos, sin of dim pairs (lane + 32 i, HD / 2 further), if is_whole */
};

/* All dims are rotated, and the kernel's are the model's: pairs lie in one lane. */
template <int HD> __device__ __forceinline__ bool is_whole(const decode_params &p)
{
    return p.n_rot == HD && p.head_dim == HD;
}

/* What can be known of the addresses before the rows are there; end: kv_tokens. */
template <int HD>
__device__ __forceinline__ void rows_aim(rows_loaded<HD> &in, const decode_params &p,
                                         const segment &seg, uint32_t end)
{
    if (p.is_fresh != 0)
        in.block = __ldcg(p.block_table + static_cast<size_t>(seg.seq) * p.table_stride +
                          ((end - 1u) >> p.block_shift));
    in.turns = p.cos_sin + static_cast<size_t>(seg.seq) * (p.n_rot / 2u);
    in.src = row_source(p, seg, threadIdx.x / 32u);
    asm volatile("" : "+l"(in.src), "+l"(in.turns)); /* or the compiler does it later */
}

template <int HD>
__device__ __forceinline__ void rows_load(rows_loaded<HD> &in, const decode_params &p,
                                          const segment &seg)
{
    if (threadIdx.x / 32u >= rows_count(p, seg))
        return;
    row_load<HD>(in.raw, p, in.src);
    if (p.is_fresh == 0 || !is_whole<HD>(p))
        return;
#pragma unroll
    for (uint32_t i = 0; i < HD / 64u; i++)
        in.turn[i] = __ldcg(in.turns + threadIdx.x % 32u + 32u * i);
}

/* ---- The qkv op's arithmetic ----------------------------------------------------------------- */

template <int HD>
__device__ __forceinline__ void head_norm(float (&v)[HD / 32], const decode_params &p,
                                          const float *norm)
{
    uint32_t lane = threadIdx.x % 32u;
    float sum = 0.0f;
#pragma unroll
    for (uint32_t i = 0; i < HD / 32u; i++)
        sum += v[i] * v[i]; /* dims that are not there are zero */
    sum = warp_sum(sum);
    float mean = p.head_dim == HD ? sum * (1.0f / HD) : sum / static_cast<float>(p.head_dim);
    float scale = 1.0f / sqrtf(mean + p.eps);
#pragma unroll
    for (uint32_t i = 0; i < HD / 32u; i++)
        v[i] = v[i] * scale * norm[lane + 32u * i];
}

/* Rotated, where the lane has both of a pair. */
template <int HD>
__device__ __forceinline__ void head_turn_whole(float (&v)[HD / 32], const float2 (&turn)[HD / 64])
{
#pragma unroll
    for (uint32_t i = 0; i < HD / 64u; i++) {
        float lo = v[i], hi = v[i + HD / 64], c = turn[i].x, s = turn[i].y;
        v[i] = __fmaf_rn(lo, c, -__fmul_rn(hi, s));
        v[i + HD / 64] = __fmaf_rn(hi, c, __fmul_rn(lo, s));
    }
}

/* Rotated, for any n_rot; scratch: the warp's [HD]. */
template <int HD>
__device__ __forceinline__ void head_turn(float (&v)[HD / 32], const float2 *turns, uint32_t n_rot,
                                          float *scratch)
{
    uint32_t lane = threadIdx.x % 32u, half = n_rot / 2u;
    __syncwarp();
#pragma unroll
    for (uint32_t i = 0; i < HD / 32u; i++)
        scratch[lane + 32u * i] = v[i];
    __syncwarp();
#pragma unroll
    for (uint32_t i = 0; i < HD / 32u; i++) {
        uint32_t d = lane + 32u * i;
        if (d >= n_rot)
            continue;
        float2 turn = __ldcg(turns + (d < half ? d : d - half));
        float other = __fmul_rn(scratch[d < half ? d + half : d - half], turn.y);
        v[i] = __fmaf_rn(v[i], turn.x, d < half ? -other : other);
    }
}

/* What row_finish leaves of a head, fp8; job: of the segment's heads. */
template <int HD, int NT>
__device__ __forceinline__ void row_store_f8(float (&v)[HD / 32], const decode_params &p,
                                             decode_shared<HD, NT> &mem, const segment &seg,
                                             uint32_t job)
{
    uint32_t lane = threadIdx.x % 32u, is_v = job > seg.n_heads;
    if (job >= seg.n_heads) {
        float inverse = 1.0f / scale_of<HD, NT>(p, mem, seg.kv_head, is_v);
        uint8_t *dst = reinterpret_cast<uint8_t *>(mem.kv) + is_v * HD;
#pragma unroll
        for (uint32_t i = 0; i < HD / 32u; i++)
            if (lane + 32u * i < p.head_dim)
                dst[lane + 32u * i] = f8_from_f32(v[i] * inverse);
        return;
    }
#pragma unroll
    for (uint32_t i = 0; i < HD / 32u; i++)
        v[i] = __bfloat162float(__float2bfloat16_rn(v[i])); /* as the qkv op leaves it */
    float unit = q_to_f16<HD>(v, p.head_dim, reinterpret_cast<__half *>(mem.q + job * q_pitch(HD)));
    if (lane == 0)
        mem.q_units[job] = unit * (scale_of<HD, NT>(p, mem, seg.kv_head, 0) * p.scale_log2);
}

/* Readies the rows of a segment in shared memory; read behind a barrier. */
template <int HD, int NT, bool F8>
__device__ __forceinline__ void rows_finish(rows_loaded<HD> &in, const decode_params &p,
                                            decode_shared<HD, NT> &mem, const segment &seg)
{
    uint32_t lane = threadIdx.x % 32u, warp = threadIdx.x / 32u, count = rows_count(p, seg);
#pragma unroll 1
    for (uint32_t job = warp; job < count; job += warps_of(HD)) {
        bool is_k = job == seg.n_heads, is_v = job > seg.n_heads;
        if (job != warp)
            row_load<HD>(in.raw, p, row_source(p, seg, job));
        float v[HD / 32];
#pragma unroll
        for (uint32_t i = 0; i < HD / 32u; i++)
            v[i] = __bfloat162float(in.raw[i]);
        if (p.is_fresh != 0 && !is_v) {
            if ((is_k ? p.k_norm : p.q_norm) != nullptr)
                head_norm<HD>(v, p, mem.norms[is_k]);
            if (is_whole<HD>(p))
                head_turn_whole<HD>(v, in.turn);
            else
                head_turn<HD>(v, in.turns, p.n_rot, mem.scratch[warp]);
        }
        if constexpr (F8) {
            row_store_f8<HD, NT>(v, p, mem, seg, job);
            continue;
        }
        __nv_bfloat16 *dst = is_k || is_v
                                 ? mem.kv[is_v]
                                 : reinterpret_cast<__nv_bfloat16 *>(mem.q + job * q_pitch(HD));
#pragma unroll
        for (uint32_t i = 0; i < HD / 32u; i++)
            if (lane + 32u * i < p.head_dim)
                dst[lane + 32u * i] = __float2bfloat16_rn(v[i]);
    }
}

/* Puts the new row, kv [K|V][HD], in the place of what the copy brought to the tile; and into the
 * pool, at plane K of `dst`, unless that is NULL. */
template <int HD>
__device__ __forceinline__ void tile_patch(const decode_params &p, uint32_t k_tile, uint32_t row,
                                           uint32_t kv, char *dst)
{
#pragma unroll
    for (uint32_t i = 0; i < (HD / 4u + 31u) / 32u; i++) {
        uint32_t at = threadIdx.x % 32u + i * 32u, chunk = at % (HD / 8u), is_v = at / (HD / 8u);
        uint4 piece;
        if (at >= HD / 4u)
            break;
        asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(piece.x), "=r"(piece.y), "=r"(piece.z), "=r"(piece.w)
                     : "r"(kv + at * 16u)
                     : "memory");
        asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(
                         k_tile + is_v * (HD * 32u) + chunk / 8u * 2048u + row * 128u +
                         (((chunk ^ row) & 7u) << 4)),
                     "r"(piece.x), "r"(piece.y), "r"(piece.z), "r"(piece.w)
                     : "memory");
        if (dst != nullptr && chunk * 8u < p.head_dim)
            *reinterpret_cast<uint4 *>(dst + is_v * p.plane_bytes + chunk * 16u) = piece;
    }
    fence_async_proxy();
    __syncwarp();
}

/* Where in the pool the new row of K goes; NULL where another unit of the KV head writes it. */
template <bool F8>
__device__ __forceinline__ char *row_target(const decode_params &p, const segment &seg,
                                            uint32_t block, uint32_t pos)
{
    uint32_t token = pos & ((1u << p.block_shift) - 1u);
    if (seg.head_first != seg.kv_head * p.group)
        return nullptr;
    return p.pool + block * p.block_bytes + seg.kv_head * 2u * p.plane_bytes +
           static_cast<size_t>(token) * p.head_dim * (F8 ? 1u : 2u);
}

/* Once, before rows are finished: what no kernel writes, and zeros where nothing will be (heads and
 * dims that the tensor cores see and the model has not). A barrier must follow. */
template <int HD, int NT, bool F8>
__device__ __forceinline__ void rows_prepare(const decode_params &p, decode_shared<HD, NT> &mem)
{
    const bool has_scale = F8 && p.scales != nullptr && threadIdx.x < 2u * SCALES_NEAR &&
                           threadIdx.x % SCALES_NEAR < p.n_kv_heads;
    float scale = 1.0f; /* under way together with the norms */
    if (has_scale)
        scale =
            __ldg(p.scales + threadIdx.x / SCALES_NEAR * p.n_kv_heads + threadIdx.x % SCALES_NEAR);
    uint4 *zeros = reinterpret_cast<uint4 *>(mem.q);
    for (uint32_t i = threadIdx.x; i < (sizeof(mem.q) + sizeof(mem.kv)) / 16u; i += blockDim.x)
        zeros[i] = make_uint4(0, 0, 0, 0);
    for (uint32_t d = threadIdx.x; d < HD; d += blockDim.x) {
        mem.norms[0][d] = p.q_norm != nullptr && d < p.head_dim ? p.q_norm[d] : 0.0f;
        mem.norms[1][d] = p.k_norm != nullptr && d < p.head_dim ? p.k_norm[d] : 0.0f;
    }
    if (F8 && threadIdx.x < NT * 8u)
        mem.q_units[threadIdx.x] = 0.0f;
    if (F8 && threadIdx.x < 2u * SCALES_NEAR)
        mem.scales[threadIdx.x / SCALES_NEAR][threadIdx.x % SCALES_NEAR] = scale;
}

} // namespace attention_decode

#endif
