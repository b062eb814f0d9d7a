/* attention_prefill: what both kernels have of the arguments, and their online softmax on rows of
 * an accumulator. */
#ifndef KERNELS_CUDA_ATTENTION_PREFILL_SOFTMAX_CUH
#define KERNELS_CUDA_ATTENTION_PREFILL_SOFTMAX_CUH

#include "kernels/cuda/cuda_ops.h"

#include "kernels/cuda/common.cuh"

#include <cuda_bf16.h>

namespace attention_prefill
{

constexpr float LOG2_E = 1.4426950408889634f;

__device__ __forceinline__ float exp2_fast(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ uint32_t pack_bf16(float lo, float hi)
{
    uint32_t packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(hi), "f"(lo));
    return packed;
}

/* Combines a value over the four lanes that hold one row of an accumulator. */
__device__ __forceinline__ float quad_max(float x)
{
    x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
    return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}

__device__ __forceinline__ float quad_sum(float x)
{
    x += __shfl_xor_sync(~0u, x, 1);
    return x + __shfl_xor_sync(~0u, x, 2);
}

/* Everything that both kernels need of the arguments. */
struct prefill_params {
    const __nv_bfloat16 *q;
    __nv_bfloat16 *out;
    uint64_t q_stride, out_stride;
    const uint8_t *pool;
    uint64_t block_bytes;
    const float *sinks;
    const uint32_t *row_first, *kv_tokens, *block_table;
    uint32_t table_stride, n_seqs;
    uint32_t layer, n_kv_heads, block_tokens, head_dim;
    uint32_t group;       /* query heads of one KV head: G */
    uint32_t tile_tokens; /* tokens of one tile: T */
    uint32_t window;
    float scale_log2; /* scale * log2(e) */
    /* fp8: of K of the layer's heads; V's are n_kv_heads further; NULL: all 1 */
    const float *scales;
};

/* The scale of K (is_v 0) or V of a KV head: K's goes into the scale of the scores, V's into the
 * result. */
template <bool IS_F8>
__device__ __forceinline__ float kv_scale(const prefill_params &p, uint32_t kv_head, uint32_t is_v)
{
    return IS_F8 && p.scales != nullptr ? __ldg(p.scales + is_v * p.n_kv_heads + kv_head) : 1.0f;
}

/* Online softmax of two rows a thread, `row` 0 and 1 of each accumulator group of four values:
 * (row 0: two columns) (row 1: two columns). Replaces scores by exp2 of them, and returns the
 * factor that what was summed before has to be multiplied with. */
struct softmax_rows {
    float max[2], sum[2]; /* sum: of this thread's columns */

    __device__ __forceinline__ void init()
    {
        max[0] = max[1] = -INFINITY;
        sum[0] = sum[1] = 0.0f;
    }

    template <int N>
    __device__ __forceinline__ void step(float (&s)[N], float scale_log2, float (&out_alpha)[2])
    {
#pragma unroll
        for (int row = 0; row < 2; row++) {
            float m0 = s[2 * row], m1 = s[2 * row + 1];
#pragma unroll
            for (int i = 4; i < N; i += 4) {
                m0 = fmaxf(m0, s[i + 2 * row]);
                m1 = fmaxf(m1, s[i + 2 * row + 1]);
            }
            float max_new = fmaxf(max[row], quad_max(fmaxf(m0, m1)));
            /* A row that has seen no key yet: exp2(-inf - 0) = 0 throughout. */
            float bias = max_new == -INFINITY ? 0.0f : max_new * scale_log2;
            out_alpha[row] = exp2_fast(fmaf(max[row], scale_log2, -bias));
            max[row] = max_new;
            float s0 = 0.0f, s1 = 0.0f;
#pragma unroll
            for (int i = 0; i < N; i += 4) {
                s[i + 2 * row] = exp2_fast(fmaf(s[i + 2 * row], scale_log2, -bias));
                s[i + 2 * row + 1] = exp2_fast(fmaf(s[i + 2 * row + 1], scale_log2, -bias));
                s0 += s[i + 2 * row];
                s1 += s[i + 2 * row + 1];
            }
            sum[row] = fmaf(sum[row], out_alpha[row], s0 + s1);
        }
    }

    /* V's scale / (sum of the row, with its sink), for rows `row` and `row` + 8 of a tile. */
    template <bool IS_F8>
    __device__ __forceinline__ void inverses(const prefill_params &p, uint32_t kv_head,
                                             uint32_t row, float (&out_inverse)[2]) const
    {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float total = quad_sum(sum[i]);
            if (p.sinks != nullptr) {
                float sink = p.sinks[kv_head * p.group + (row + i * 8) % p.group];
                float scale_log2 = p.scale_log2 * kv_scale<IS_F8>(p, kv_head, 0);
                total += exp2_fast(fmaf(sink, LOG2_E, -max[i] * scale_log2));
            }
            out_inverse[i] = kv_scale<IS_F8>(p, kv_head, 1) / total;
        }
    }
};

/* Hides the scores of columns outside [pos - window + 1, pos]. column: of this thread's first
 * value, as a position. */
template <int N>
__device__ __forceinline__ void mask_scores(float (&s)[N], uint32_t column,
                                            const uint32_t (&pos)[2], uint32_t window)
{
#pragma unroll
    for (int row = 0; row < 2; row++) {
        int hi = (int)(pos[row] - column);
        int lo = window == 0 ? INT32_MIN : hi - (int)window + 1;
#pragma unroll
        for (int i = 0; i < N; i += 4) {
#pragma unroll
            for (int k = 0; k < 2; k++) {
                int at = 2 * i + k;
                if (at > hi || at < lo)
                    s[i + 2 * row + k] = -INFINITY;
            }
        }
    }
}

} // namespace attention_prefill

#endif
