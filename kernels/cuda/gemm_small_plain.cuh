/* The kernel of gemm_small.cu for any architecture and shape: a warp for each row of y
 * (GEMM_ADD_NORM: for each 16 of them), eight tokens at a time. Right, not fast. */
#ifndef KERNELS_CUDA_GEMM_SMALL_PLAIN_CUH
#define KERNELS_CUDA_GEMM_SMALL_PLAIN_CUH

#include "kernels/cuda/gemm_small_epilogue.cuh"

namespace gemm_small
{

constexpr uint32_t kPlainTokens = 8;

template <bool F8> __device__ __forceinline__ void plain_weights(float (&out)[8], const void *w)
{
    if (F8) {
        uint2 raw = *static_cast<const uint2 *>(w);
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            out[i] = f8_value(raw.x >> 8 * i & 0xffu);
            out[4 + i] = f8_value(raw.y >> 8 * i & 0xffu);
        }
    } else {
        uint4 raw = *static_cast<const uint4 *>(w);
        const __nv_bfloat16 *v = reinterpret_cast<const __nv_bfloat16 *>(&raw);
#pragma unroll
        for (uint32_t i = 0; i < 8; i++)
            out[i] = __bfloat162float(v[i]);
    }
}

/* The product of a row of w with the tokens from `first`; in all lanes. */
template <bool F8>
__device__ __forceinline__ void plain_row(const params &p, const void *w, uint32_t row,
                                          uint32_t first, float (&acc)[kPlainTokens])
{
    constexpr uint32_t kBytes = F8 ? 1 : 2;
#pragma unroll
    for (uint32_t t = 0; t < kPlainTokens; t++)
        acc[t] = 0.0f;
    const uint8_t *line = static_cast<const uint8_t *>(w) + uint64_t(row) * p.k * kBytes;
    for (uint32_t c = threadIdx.x % 32 * 8; c < p.k; c += 256) {
        float v[8];
        plain_weights<F8>(v, line + uint64_t(c) * kBytes);
        float scale = 1.0f;
        if (F8 && p.scaling == OPS_SCALE_BLOCK)
            scale = p.w_scale[uint64_t(row / OPS_SCALE_BLOCK_SIZE) * p.scale_cols +
                              c / OPS_SCALE_BLOCK_SIZE];
#pragma unroll
        for (uint32_t t = 0; t < kPlainTokens; t++) {
            if (first + t >= p.n_rows)
                continue;
            uint4 raw = *reinterpret_cast<const uint4 *>(p.x + (first + t) * p.x_stride + c);
            const __nv_bfloat16 *x = reinterpret_cast<const __nv_bfloat16 *>(&raw);
            float sum = 0.0f;
#pragma unroll
            for (uint32_t i = 0; i < 8; i++)
                sum = fmaf(v[i], __bfloat162float(x[i]), sum);
            acc[t] = fmaf(scale, sum, acc[t]);
        }
    }
#pragma unroll
    for (uint32_t t = 0; t < kPlainTokens; t++)
        acc[t] = warp_sum(acc[t]);
}

/* The value of lane's token among those of `acc`. */
__device__ __forceinline__ float plain_pick(const float (&acc)[kPlainTokens], uint32_t lane)
{
    float v = acc[0];
#pragma unroll
    for (uint32_t t = 1; t < kPlainTokens; t++)
        v = lane == t ? acc[t] : v;
    return v;
}

__device__ __forceinline__ float plain_norm(const params &p, uint32_t first)
{
    float scale = 1.0f;
    if (p.fusion.x_sums == nullptr)
        return scale;
    uint32_t lane = threadIdx.x % 32, n_sums = p.k / kSum;
    for (uint32_t t = 0; t < kPlainTokens && first + t < p.n_rows; t++) {
        float sum = 0.0f;
        for (uint32_t i = lane; i < n_sums; i += 32)
            sum += __ldcg(p.fusion.x_sums + uint64_t(first + t) * n_sums + i);
        sum = warp_sum(sum);
        if (lane == t)
            scale = norm_scale(p, sum);
    }
    return scale;
}

template <bool F8>
__global__ void __launch_bounds__(256) plain_kernel(const void *w, const params p)
{
    uint32_t lane = threadIdx.x % 32, n_warps = gridDim.x * (blockDim.x / 32);
    uint32_t epilogue = p.fusion.epilogue;
    uint32_t rows = epilogue == GEMM_ADD_NORM ? kSum : 1;
    for (uint32_t unit = (blockIdx.x * blockDim.x + threadIdx.x) / 32; unit < p.n / rows;
         unit += n_warps) {
        for (uint32_t first = 0; first < p.n_rows; first += kPlainTokens) {
            float x_scale = plain_norm(p, first), squares = 0.0f;
            uint32_t token = first + lane;
            bool is_mine = lane < kPlainTokens && token < p.n_rows;
            for (uint32_t r = 0; r < rows; r++) {
                uint32_t row = unit * rows + r;
                float acc[kPlainTokens];
                plain_row<F8>(p, w, row, first, acc);
                extras e = extras_load(p, is_mine ? token : p.n_rows, row);
                float v = plain_pick(acc, lane) * (e.scale * x_scale) + e.bias;
                if (epilogue == GEMM_SILU_MUL) {
                    plain_row<F8>(p, w, p.n + row, first, acc);
                    extras up = extras_load(p, is_mine ? token : p.n_rows, p.n + row);
                    v = silu_mul(v, plain_pick(acc, lane) * (up.scale * x_scale) + up.bias);
                }
                if (!is_mine)
                    continue;
                if (epilogue == GEMM_ADD_NORM) {
                    v += e.residual;
                    p.fusion.residual[uint64_t(token) * p.n + row] = v;
                    squares += v * v;
                    v *= e.next_norm;
                }
                y_store(p, token, row, v);
            }
            if (epilogue == GEMM_ADD_NORM && is_mine)
                p.fusion.y_sums[uint64_t(token) * (p.n / kSum) + unit] = squares;
        }
    }
}

} // namespace gemm_small

#endif
