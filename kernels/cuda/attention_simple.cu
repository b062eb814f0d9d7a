/* Attention for any dtype and shape, one block a row and query head, nothing clever: the path of
 * f32 models, and what the fast kernels are compared with. Softmax over tiles of KEYS positions
 * with a running maximum (Milakov & Gimelshein 2018, arXiv:1805.02867). */
#include "kernels/cuda/cuda_ops.h"

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/f8.cuh"

#include <math_constants.h>

namespace
{

struct f8 {
    uint8_t bits;
};

__device__ float to_f32(f8 v)
{
    return __half2float(__ushort_as_half(f8_to_f16<false>(v.bits) & 0xffff));
}

using ::to_f32;

constexpr uint32_t KEYS = 128; /* = threads: one key a thread, then one dimension a thread */

__device__ float block_max(float v, float *shared)
{
    v = warp_max(v);
    if (threadIdx.x % 32 == 0)
        shared[threadIdx.x / 32] = v;
    __syncthreads();
    v = threadIdx.x % 32 < blockDim.x / 32 ? shared[threadIdx.x % 32] : -CUDART_INF_F;
    v = warp_max(v);
    __syncthreads();
    return v;
}

template <typename T, typename P> __global__ void attention_kernel(attention_args a)
{
    __shared__ float q[OPS_HEAD_DIM_MAX], weight[KEYS], reduce[32];
    const uint32_t row = blockIdx.x, head = blockIdx.y, dim = a.pool.head_dim, t = threadIdx.x;
    const uint32_t kv_head = head / (a.n_heads / a.pool.n_kv_heads), pos = a.rows.pos[row];
    const uint32_t *table = a.rows.block_table + (uint64_t)a.rows.seq[row] * a.rows.table_stride;
    const char *pool = (const char *)a.pool.base;
    if (pos == OPS_NO_POSITION)
        return;
    const bool is_f8 = sizeof(P) == 1; /* K's scale goes into q, V's into the result */
    const float q_scale = is_f8 ? a.scale * f8_kv_scale(a.pool, a.layer, kv_head, 0) : a.scale;
    const float v_scale = is_f8 ? f8_kv_scale(a.pool, a.layer, kv_head, 1) : 1.0f;
    for (uint32_t d = t; d < dim; d += KEYS)
        q[d] = to_f32(((const T *)a.q)[row * a.q_stride + (uint64_t)head * dim + d]) * q_scale;
    __syncthreads();
    uint32_t first = a.window > 0 && pos >= a.window ? pos - a.window + 1 : 0;
    float peak = -CUDART_INF_F, sum = 0.0f, out[2] = {0.0f, 0.0f};
    for (uint32_t at = first; at <= pos; at += KEYS) {
        uint32_t n = pos - at + 1 < KEYS ? pos - at + 1 : KEYS;
        float score = -CUDART_INF_F;
        if (t < n) {
            const P *k =
                (const P *)(pool + kv_row_offset(a.pool, table, a.layer, kv_head, at + t, 0));
            score = 0.0f;
            for (uint32_t d = 0; d < dim; d++)
                score += q[d] * to_f32(k[d]);
        }
        float highest = fmaxf(peak, block_max(score, reduce)), old = expf(peak - highest);
        float w = t < n ? expf(score - highest) : 0.0f;
        weight[t] = w;
        sum = sum * old + block_sum(w, reduce);
        peak = highest;
        __syncthreads();
        for (uint32_t i = 0; i < 2; i++) {
            uint32_t d = t + i * KEYS;
            if (d >= dim)
                break;
            out[i] *= old;
            for (uint32_t j = 0; j < n; j++) {
                const P *v =
                    (const P *)(pool + kv_row_offset(a.pool, table, a.layer, kv_head, at + j, 1));
                out[i] += weight[j] * to_f32(v[d]);
            }
        }
        __syncthreads();
    }
    for (uint32_t i = 0; i < 2; i++)
        if (t + i * KEYS < dim)
            ((T *)a.out)[row * a.out_stride + (uint64_t)head * dim + t + i * KEYS] =
                from_f32<T>(out[i] / sum * v_scale);
}

} // namespace

cudaError_t cuda_attention_simple(const struct attention_args *args, cudaStream_t stream)
{
    dim3 grid(args->rows.n_rows, args->n_heads);
    if (args->dtype == OPS_BF16 && args->pool.dtype == OPS_BF16)
        attention_kernel<__nv_bfloat16, __nv_bfloat16><<<grid, KEYS, 0, stream>>>(*args);
    else if (args->dtype == OPS_F32 && args->pool.dtype == OPS_F32)
        attention_kernel<float, float><<<grid, KEYS, 0, stream>>>(*args);
    else if (args->dtype == OPS_BF16 && args->pool.dtype == OPS_F8)
        attention_kernel<__nv_bfloat16, f8><<<grid, KEYS, 0, stream>>>(*args);
    else if (args->dtype == OPS_F32 && args->pool.dtype == OPS_F8)
        attention_kernel<float, f8><<<grid, KEYS, 0, stream>>>(*args);
    else
        return cudaErrorInvalidValue;
    return cudaGetLastError();
}
