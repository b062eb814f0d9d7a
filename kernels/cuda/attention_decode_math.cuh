/* attention_decode: the arithmetic of a warp on one tile, all of it in registers and tensor cores.
 * Fragments are those of mma.m16n8k16: lane 4g + t of the warp, see struct warp_state. */
#ifndef KERNELS_CUDA_ATTENTION_DECODE_MATH_CUH
#define KERNELS_CUDA_ATTENTION_DECODE_MATH_CUH

#include "kernels/cuda/attention_decode_plan.cuh"

namespace attention_decode
{

/* Bytes of a row of query heads in shared memory: ldmatrix finds rows in different banks. */
__host__ __device__ constexpr uint32_t q_pitch(uint32_t hd)
{
    return hd * 2u + 16u;
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

/* Lane 4g + t holds heads 2t and 2t + 1 of each N tile: of the scores tokens g and g + 8, of out
 * dims 16i + g and 16i + g + 8. `sum` covers the tokens of this lane alone. */
template <int HD, int NT> struct warp_state {
    uint32_t q[HD / 16][NT][2]; /* B operand: head g, dims 16k + 2t, + 1, and 8 further */
    float max[NT][2], sum[NT][2];
    float out[HD / 16][NT][4];
};

/* The state before the first tile; q: the unit's rows of query heads in shared memory. */
template <int HD, int NT>
__device__ __forceinline__ void state_init(warp_state<HD, NT> &st, uint32_t q)
{
    uint32_t lane = threadIdx.x % 32u;
#pragma unroll
    for (int n = 0; n < NT; n++) {
        st.max[n][0] = st.max[n][1] = -INFINITY;
        st.sum[n][0] = st.sum[n][1] = 0.0f;
        uint32_t at = q + (n * 8u + lane % 8u) * q_pitch(HD) + lane / 8u * 16u;
#pragma unroll
        for (int k = 0; k < HD / 16; k += 2) {
            uint32_t r[4];
            load_matrices(r, at + k * 32u);
            st.q[k][n][0] = r[0];
            st.q[k][n][1] = r[1];
            st.q[k + 1][n][0] = r[2];
            st.q[k + 1][n][1] = r[3];
        }
#pragma unroll
        for (int k = 0; k < HD / 16; k++)
            st.out[k][n][0] = st.out[k][n][1] = st.out[k][n][2] = st.out[k][n][3] = 0.0f;
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
#pragma unroll
    for (uint32_t i = 0; i < HD / 16u; i++) {
        uint32_t piece = lane + i * 32u, row = pos + piece % 128u / 8u; /* of 64 dims: 128 pieces */
        if (row < lo || row >= end)
            asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(v_tile + piece * 16u),
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

} // namespace attention_decode

#endif
