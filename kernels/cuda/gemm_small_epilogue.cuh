/* What both kernels of gemm_small.cu share: their parameters, values of fp8, and what becomes of a
 * sum on its way to y. */
#ifndef KERNELS_CUDA_GEMM_SMALL_EPILOGUE_CUH
#define KERNELS_CUDA_GEMM_SMALL_EPILOGUE_CUH

#include "kernels/cuda/cuda_ops.h"

#include "kernels/cuda/common.cuh"

namespace gemm_small
{

constexpr uint32_t kRows = 16; /* of w: a tile, the rows of an mma */
constexpr uint32_t kSum = 16;  /* columns of a part of x_sums and y_sums */

struct params {
    struct gemm_fusion fusion;
    const float *bias;
    const float *w_scale;
    enum ops_scaling scaling;
    uint32_t scale_cols; /* of BLOCK, in a row of w */
    const __nv_bfloat16 *x;
    uint64_t x_stride;
    void *y;
    uint64_t y_stride;
    uint32_t y_is_bf16;
    uint32_t n_rows, n, k; /* n: columns of y */
    uint32_t n_tiles;
    uint32_t n_blocks; /* of a row of w */
    uint32_t n_panels, panel_blocks;
    uint32_t n_splits; /* blocks of threads that share a tile, a panel each; 1: one takes all */
    uint32_t n_stages;
    uint32_t n_cluster; /* 2: pairs of blocks share the reading of x, or a tile */
    uint32_t x_by_tma;  /* 0: the warps that multiply fetch their columns of x */
    uint32_t is_short;  /* all that a block reads of w fits its ring */
    uint32_t n_static;  /* tiles of a block that are fixed, the others are handed out; 0: all */
    float *partials;    /* [n_tiles][n_panels][16 rows * tokens] */
    uint32_t *counters; /* zero between launches: tiles out, blocks done, [lanes] panels done */
};

/* Row of w that is row r of a tile: 16 neighbours, or 8 of gate and the same 8 of up. */
__device__ __forceinline__ uint32_t w_row(const params &p, uint32_t tile, uint32_t r)
{
    if (p.fusion.epilogue != GEMM_SILU_MUL)
        return tile * kRows + r;
    return tile * 8 + r % 8 + (r < 8 ? 0 : p.n);
}

__device__ __forceinline__ uint32_t w_rows(const params &p)
{
    return p.fusion.epilogue == GEMM_SILU_MUL ? 2 * p.n : p.n;
}

/* What output needs of memory: fetched before the sum is there. */
struct extras {
    float bias, scale, residual, next_norm;
};

__device__ __forceinline__ extras extras_load(const params &p, uint32_t token, uint32_t row)
{
    extras e = {0.0f, 1.0f, 0.0f, 0.0f};
    if (token >= p.n_rows || row >= w_rows(p))
        return e;
    if (p.bias != nullptr)
        e.bias = p.bias[row];
    if (p.scaling == OPS_SCALE_ROW)
        e.scale = p.w_scale[row];
    if (p.fusion.epilogue == GEMM_ADD_NORM) {
        e.residual = __ldcg(p.fusion.residual + uint64_t(token) * p.n + row);
        e.next_norm = p.fusion.next_norm[row];
    }
    return e;
}

__device__ __forceinline__ float silu_mul(float gate, float up)
{
    return __fdividef(gate, 1.0f + __expf(-gate)) * up;
}

__device__ __forceinline__ void y_store(const params &p, uint32_t token, uint32_t col, float v)
{
    uint64_t at = token * p.y_stride + col;
    if (p.y_is_bf16)
        static_cast<__nv_bfloat16 *>(p.y)[at] = __float2bfloat16_rn(v);
    else
        static_cast<float *>(p.y)[at] = v;
}

/* The sum of row r of a tile for a token. All lanes of a warp call it together; 16 neighbours have
 * the 16 rows of one token. x_scale: of the token's RMS norm. */
__device__ __forceinline__ void output(const params &p, uint32_t tile, uint32_t token, uint32_t r,
                                       float sum, float x_scale, const extras &e)
{
    const struct gemm_fusion &f = p.fusion;
    bool is_mine = token < p.n_rows;
    float v = sum * (e.scale * x_scale) + e.bias;
    if (f.epilogue == GEMM_SILU_MUL) {
        float up = __shfl_xor_sync(0xffffffffu, v, 8);
        if (is_mine && r < 8)
            y_store(p, token, tile * 8 + r, silu_mul(v, up));
        return;
    }
    uint32_t row = tile * kRows + r;
    if (f.epilogue == GEMM_STORE) {
        if (is_mine && row < p.n)
            y_store(p, token, row, v);
        return;
    }
    v += e.residual;
    float square = v * v;
    if (is_mine) {
        f.residual[uint64_t(token) * p.n + row] = v;
        y_store(p, token, row, v * e.next_norm);
    }
#pragma unroll
    for (uint32_t d = kSum / 2; d > 0; d /= 2)
        square += __shfl_xor_sync(0xffffffffu, square, d);
    if (is_mine && r == 0)
        f.y_sums[uint64_t(token) * (p.n / kSum) + tile] = square;
}

__device__ __forceinline__ float norm_scale(const params &p, float sum)
{
    return rsqrtf(sum / float(p.k) + p.fusion.eps);
}

/* e4m3: in the place of exponent and mantissa of a wider float it is 2^120 times too small. */
__device__ __forceinline__ float f8_value(uint32_t byte)
{
    if ((byte & 0x7fu) == 0x7fu)
        return __uint_as_float(0x7fffffffu);
    return __uint_as_float((byte & 0x80u) << 24 | (byte & 0x7fu) << 20) * 0x1p120f;
}

} // namespace gemm_small

#endif
