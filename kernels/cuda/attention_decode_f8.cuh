/* attention_decode: a warp on a tile of an fp8 pool. A value of it is exactly an f16, so the tensor
 * cores multiply f16: K as stored by q, V as stored by weights, which lie in [0, 1]. The scales are
 * applied in f32: K's to the scores, V's to the finished row. A head of q is brought to a size that
 * f16 holds by a power of two, which goes into the unit of its scores.
 *
 * A tile of K or V is [part of 128 dims][16 tokens][8 chunks of 16 bytes], chunk c of token r at
 * place c ^ (r % 8); with head_dim 64 [16 tokens][4 chunks], c at c ^ (r / 2 % 4): the copy
 * engine's 128-byte and 64-byte swizzles, free of bank conflicts. ldmatrix moves pairs of bytes,
 * and a chunk of 16 dims is one k-step:
 *     K  lane 4g + t gets dims 4t to 4t + 3 of token g. They take the places 2t, 2t + 1, 2t + 8,
 *        2t + 9 of the sum over dims, for K and q alike.
 *     V  transposed, lane 4g + t gets dims 2g and 2g + 1 of tokens 2t and 2t + 1. Row g of the
 *        product stands for dim 2g and row g + 8 for dim 2g + 1. */
#ifndef KERNELS_CUDA_ATTENTION_DECODE_F8_CUH
#define KERNELS_CUDA_ATTENTION_DECODE_F8_CUH

#include "kernels/cuda/attention_decode_math.cuh"
#include "kernels/cuda/f8.cuh"

namespace attention_decode
{

__device__ __forceinline__ void mma_f16(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* pack_transposed, to f16. */
__device__ __forceinline__ uint32_t pack_transposed_f16(float low, float high)
{
    uint32_t pair, result;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(result) : "r"(pair));
    return result;
}

/* Byte of chunk c of token `row` in a tile of K or V. */
template <int HD> __device__ __forceinline__ uint32_t chunk_at(uint32_t c, uint32_t row)
{
    return HD == 64 ? row * 64u + (((c ^ (row >> 1)) & 3u) << 4)
                    : c / 8u * 2048u + row * 128u + (((c ^ row) & 7u) << 4);
}

/* Where the lane's row of two neighbouring chunks lies for load_matrices: of the first two, and of
 * pair `pair`. A tile starts at a multiple of 1 KiB. */
template <int HD> __device__ __forceinline__ uint32_t lane_at(uint32_t tile)
{
    return tile + chunk_at<HD>(threadIdx.x % 32u / 16u, threadIdx.x % 16u);
}

template <int HD> __device__ __forceinline__ uint32_t chunks_at(uint32_t lane, uint32_t pair)
{
    return (lane ^ (pair % 4u * 32u)) + pair / 4u * 2048u;
}

/* A head of q as f16, its greatest value in [2^14, 2^15): what is too small for f16 then counts
 * nothing beside it. v: of the lane, dims lane + 32 i; of those beyond n_dims none is stored.
 * Returns what the head was divided by. */
template <int HD>
__device__ __forceinline__ float q_to_f16(const float (&v)[HD / 32], uint32_t n_dims, __half *dst)
{
    uint32_t top = 0;
#pragma unroll
    for (uint32_t i = 0; i < HD / 32u; i++)
        top = max(top, __float_as_uint(fabsf(v[i])));
    top = __reduce_max_sync(~0u, top);
    int up = min(127 + 14 - static_cast<int>(top >> 23), 114); /* either factor is normal */
    float factor = __uint_as_float(static_cast<uint32_t>(127 + up) << 23);
#pragma unroll
    for (uint32_t i = 0; i < HD / 32u; i++) {
        uint32_t d = threadIdx.x % 32u + 32u * i;
        if (d < n_dims)
            dst[d] = __float2half_rn(v[i] * factor);
    }
    return __uint_as_float(static_cast<uint32_t>(127 - up) << 23);
}

/* q: the unit's rows of query heads in shared memory, f16. */
template <int HD, int NT>
__device__ __forceinline__ void state_init_f8(warp_state<HD, NT> &st, uint32_t q)
{
    uint32_t lane = threadIdx.x % 32u;
#pragma unroll
    for (int n = 0; n < NT; n++) {
        st.max[n][0] = st.max[n][1] = -INFINITY;
        st.sum[n][0] = st.sum[n][1] = 0.0f;
        uint32_t at = q + (n * 8u + lane / 4u) * q_pitch(HD) + lane % 4u * 8u;
#pragma unroll
        for (int k = 0; k < HD / 16; k++)
            asm volatile("ld.shared.v2.b32 {%0, %1}, [%2];"
                         : "=r"(st.q[k][n][0]), "=r"(st.q[k][n][1])
                         : "r"(at + k * 32u)
                         : "memory");
#pragma unroll
        for (int k = 0; k < HD / 16; k++)
            st.out[k][n][0] = st.out[k][n][1] = st.out[k][n][2] = st.out[k][n][3] = 0.0f;
    }
}

/* scores = unit * K q^T; units: of the heads' scores, in shared memory: registers are short. */
template <int HD, int NT>
__device__ __forceinline__ void tile_scores_f8(const warp_state<HD, NT> &st, uint32_t k_tile,
                                               uint32_t units, float scores[NT][4])
{
    uint32_t k_lane = lane_at<HD>(k_tile);
    float odd[NT][4];
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            scores[n][i] = odd[n][i] = 0.0f;
#pragma unroll
    for (int pair = 0; pair < HD / 32; pair++) {
        uint32_t r[4];
        load_matrices(r, chunks_at<HD>(k_lane, pair));
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int k = 2 * pair + i;
            uint32_t low = r[2 * i], high = r[2 * i + 1]; /* tokens g, g + 8 */
            const uint32_t a[4] = {f8_to_f16<false>(low), f8_to_f16<false>(high),
                                   f8_to_f16<true>(low), f8_to_f16<true>(high)};
#pragma unroll
            for (int n = 0; n < NT; n++)
                mma_f16(NT == 1 && i == 1 ? odd[n] : scores[n], a, st.q[k][n][0], st.q[k][n][1]);
        }
    }
#pragma unroll
    for (int n = 0; n < NT; n++) {
        float unit[2];
        asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];"
                     : "=f"(unit[0]), "=f"(unit[1])
                     : "r"(units + n * 32u + threadIdx.x % 4u * 8u)
                     : "memory");
#pragma unroll
        for (int i = 0; i < 4; i++)
            scores[n][i] = (scores[n][i] + odd[n][i]) * unit[i % 2];
    }
}

/* As tile_mask. */
template <int HD, int NT>
__device__ __forceinline__ void tile_mask_f8(uint32_t pos, uint32_t lo, uint32_t end,
                                             uint32_t v_tile, float scores[NT][4])
{
    constexpr uint32_t ROW = HD == 64 ? 4u : 8u; /* chunks of a token in a part */
    uint32_t lane = threadIdx.x % 32u, token = pos + lane / 4u;
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint32_t at = token + (i < 2 ? 0u : 8u);
            if (at < lo || at >= end)
                scores[n][i] = -INFINITY;
        }
#pragma unroll
    for (uint32_t i = 0; i < HD / 32u; i++) {
        uint32_t piece = lane + i * 32u, row = pos + piece / ROW % TILE;
        if (row < lo || row >= end)
            asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(v_tile + piece * 16u),
                         "r"(0)
                         : "memory");
    }
    fence_async_proxy();
    __syncwarp();
}

template <int HD, int NT>
__device__ __forceinline__ void tile_values_f8(warp_state<HD, NT> &st, uint32_t v_tile,
                                               const float weights[NT][4])
{
    uint32_t v_lane = lane_at<HD>(v_tile), b[NT][2];
#pragma unroll
    for (int n = 0; n < NT; n++) {
        b[n][0] = pack_transposed_f16(weights[n][0], weights[n][1]);
        b[n][1] = pack_transposed_f16(weights[n][2], weights[n][3]);
    }
#pragma unroll
    for (int pair = 0; pair < HD / 32; pair++) {
        uint32_t r[4];
        load_matrices_trans(r, chunks_at<HD>(v_lane, pair));
#pragma unroll
        for (int i = 0; i < 2; i++) {
            /* The even dim of both tokens, then the odd one. */
            uint32_t low = __byte_perm(r[2 * i], 0, 0x3120);
            uint32_t high = __byte_perm(r[2 * i + 1], 0, 0x3120);
            const uint32_t a[4] = {f8_to_f16<false>(low), f8_to_f16<true>(low),
                                   f8_to_f16<false>(high), f8_to_f16<true>(high)};
#pragma unroll
            for (int n = 0; n < NT; n++)
                mma_f16(st.out[2 * pair + i][n], a, b[n][0], b[n][1]);
        }
    }
}

/* As tile_patch; kv [K|V][HD] bytes. */
template <int HD>
__device__ __forceinline__ void tile_patch_f8(const decode_params &p, uint32_t k_tile, uint32_t row,
                                              uint32_t kv, char *dst)
{
    uint32_t at = threadIdx.x % 32u, chunk = at % (HD / 16u), is_v = at / (HD / 16u);
    if (at < HD / 8u) {
        uint4 piece;
        asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(piece.x), "=r"(piece.y), "=r"(piece.z), "=r"(piece.w)
                     : "r"(kv + at * 16u)
                     : "memory");
        asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(k_tile + is_v * (HD * 16u) +
                                                                      chunk_at<HD>(chunk, row)),
                     "r"(piece.x), "r"(piece.y), "r"(piece.z), "r"(piece.w)
                     : "memory");
        if (dst != nullptr && chunk * 16u < p.head_dim)
            *reinterpret_cast<uint4 *>(dst + is_v * p.plane_bytes + chunk * 16u) = piece;
    }
    fence_async_proxy();
    __syncwarp();
}

} // namespace attention_decode

#endif
