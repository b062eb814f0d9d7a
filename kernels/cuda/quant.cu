/* Activations as e4m3 with scales taken from the values themselves: bound by the bytes it touches.
 */
#include "kernels/cuda/cuda_ops.h"

#include "kernels/cuda/common.cuh"

#include <cuda_fp8.h>

namespace
{

using bf16 = __nv_bfloat16;

constexpr float F8_MAX = 448.0f;
/* Least greatest value that a scale is made of: smaller ones would overflow its inverse. */
constexpr float AMAX_MIN = 1e-30f;
constexpr uint32_t BLOCK = OPS_SCALE_BLOCK_SIZE;
constexpr int VEC = 8; /* elements of one 16-byte load */

/* Columns [col, col + 8) of a row; those behind its end are 0. */
template <bool IS_ALIGNED>
__device__ __forceinline__ vec<bf16, VEC> load_row(const bf16 *row, uint32_t col, uint32_t n_cols)
{
    vec<bf16, VEC> v = {};
    if constexpr (IS_ALIGNED) {
        if (col < n_cols)
            v = *(const vec<bf16, VEC> *)(row + col);
    } else {
#pragma unroll
        for (int i = 0; i < VEC; i++)
            if (col + i < n_cols)
                v.v[i] = row[col + i];
    }
    return v;
}

__device__ __forceinline__ float abs_max(const vec<bf16, VEC> &v)
{
    float most = 0.0f;
#pragma unroll
    for (int i = 0; i < VEC; i++)
        most = fmaxf(most, fabsf(to_f32(v.v[i])));
    return most;
}

__device__ __forceinline__ uint32_t f8_pair(float a, float b)
{
    return __nv_cvt_float2_to_fp8x2(make_float2(a, b), __NV_SATFINITE, __NV_E4M3);
}

template <bool IS_ALIGNED>
__device__ __forceinline__ void store_f8(uint8_t *row, uint32_t col, uint32_t n_cols,
                                         const vec<bf16, VEC> &v, float factor)
{
    uint32_t pair[VEC / 2];
#pragma unroll
    for (int i = 0; i < VEC / 2; i++)
        pair[i] = f8_pair(to_f32(v.v[2 * i]) * factor, to_f32(v.v[2 * i + 1]) * factor);
    if constexpr (IS_ALIGNED) {
        if (col < n_cols)
            *(uint2 *)(row + col) = make_uint2(pair[0] | pair[1] << 16, pair[2] | pair[3] << 16);
    } else {
#pragma unroll
        for (int i = 0; i < VEC; i++)
            if (col + i < n_cols)
                row[col + i] = (uint8_t)(pair[i / 2] >> (i % 2 * 8));
    }
}

/* Over a block of at most 1024 threads, a multiple of 32; the result in every thread. */
__device__ float block_max(float v)
{
    __shared__ float shared[32];
    v = warp_max(v);
    if (threadIdx.x % 32 == 0)
        shared[threadIdx.x / 32] = v;
    __syncthreads();
    v = threadIdx.x % 32 < blockDim.x / 32 ? shared[threadIdx.x % 32] : 0.0f;
    return warp_max(v);
}

/* A row a block. The first KEPT vectors of a thread stay in registers between the two passes; a
 * longer row is read again. A NaN is no maximum but stays one; an infinity makes the row NaN. */
template <bool IS_ALIGNED, int KEPT>
__global__ void __launch_bounds__(1024) quant_row_kernel(cuda_quant_args a)
{
    const uint32_t row = blockIdx.x, step = blockDim.x * VEC, first = threadIdx.x * VEC;
    const bf16 *x = (const bf16 *)a.x + row * a.x_stride;
    uint8_t *y = (uint8_t *)a.y + (uint64_t)row * a.n_cols;
    vec<bf16, VEC> kept[KEPT];
    float most = 0.0f;
    grid_wait();
#pragma unroll
    for (int i = 0; i < KEPT; i++)
        kept[i] = load_row<IS_ALIGNED>(x, first + i * step, a.n_cols);
#pragma unroll
    for (int i = 0; i < KEPT; i++)
        most = fmaxf(most, abs_max(kept[i]));
    for (uint32_t col = first + KEPT * step; col < a.n_cols; col += step)
        most = fmaxf(most, abs_max(load_row<IS_ALIGNED>(x, col, a.n_cols)));
    most = fmaxf(block_max(most), AMAX_MIN);
    const float factor = F8_MAX / most;
    if (threadIdx.x == 0)
        a.scale[row] = most / F8_MAX;
#pragma unroll
    for (int i = 0; i < KEPT; i++)
        store_f8<IS_ALIGNED>(y, first + i * step, a.n_cols, kept[i], factor);
    for (uint32_t col = first + KEPT * step; col < a.n_cols; col += step)
        store_f8<IS_ALIGNED>(y, col, a.n_cols, load_row<IS_ALIGNED>(x, col, a.n_cols), factor);
}

constexpr int LANES = BLOCK / VEC; /* threads of one row and 128 columns */

/* Rows along x, parts of a row of blockDim.x * KEPT vectors along y; 16 threads for 128 columns.
 * Rows of padding become zeros. */
template <bool IS_ALIGNED, int KEPT>
__global__ void __launch_bounds__(256) quant_block_kernel(cuda_quant_args a)
{
    const uint32_t row = blockIdx.x, step = blockDim.x * VEC;
    const uint32_t first = blockIdx.y * step * KEPT + threadIdx.x * VEC;
    const uint32_t n_loaded = row < a.n_rows ? a.n_cols : 0;
    const bf16 *x = (const bf16 *)a.x + row * a.x_stride;
    uint8_t *y = (uint8_t *)a.y + (uint64_t)row * a.n_cols;
    vec<bf16, VEC> kept[KEPT];
    grid_wait();
#pragma unroll
    for (int i = 0; i < KEPT; i++)
        kept[i] = load_row<IS_ALIGNED>(x, first + i * step, n_loaded);
#pragma unroll
    for (int i = 0; i < KEPT; i++) {
        const uint32_t col = first + i * step;
        float most = abs_max(kept[i]);
#pragma unroll
        for (int d = LANES / 2; d > 0; d >>= 1)
            most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, d));
        most = fmaxf(most, AMAX_MIN);
        if (threadIdx.x % LANES == 0 && col < a.n_cols)
            a.scale[(uint64_t)(col / BLOCK) * a.n_rows_padded + row] = most / F8_MAX;
        store_f8<IS_ALIGNED>(y, col, a.n_cols, kept[i], F8_MAX / most);
    }
}

template <bool IS_ALIGNED> cudaError_t quant_blocks(const cuda_quant_args *a, cudaStream_t stream)
{
    const uint32_t n_vecs = (a->n_cols + VEC - 1) / VEC;
    if (n_vecs <= 256)
        return launch_early(quant_block_kernel<IS_ALIGNED, 1>, dim3(a->n_rows_padded), dim3(256),
                            stream, *a);
    if (n_vecs <= 512)
        return launch_early(quant_block_kernel<IS_ALIGNED, 2>, dim3(a->n_rows_padded), dim3(256),
                            stream, *a);
    return launch_early(quant_block_kernel<IS_ALIGNED, 4>,
                        dim3(a->n_rows_padded, (n_vecs + 1023) / 1024), dim3(256), stream, *a);
}

template <bool IS_ALIGNED> cudaError_t quant_rows(const cuda_quant_args *a, cudaStream_t stream)
{
    if (a->scaling == OPS_SCALE_BLOCK)
        return quant_blocks<IS_ALIGNED>(a, stream);
    const uint32_t n_vecs = (a->n_cols + VEC - 1) / VEC;
    if (n_vecs <= 256)
        return launch_early(quant_row_kernel<IS_ALIGNED, 1>, dim3(a->n_rows), dim3(256), stream,
                            *a);
    if (n_vecs <= 512)
        return launch_early(quant_row_kernel<IS_ALIGNED, 2>, dim3(a->n_rows), dim3(256), stream,
                            *a);
    if (n_vecs <= 1024)
        return launch_early(quant_row_kernel<IS_ALIGNED, 4>, dim3(a->n_rows), dim3(256), stream,
                            *a);
    return launch_early(quant_row_kernel<IS_ALIGNED, 4>, dim3(a->n_rows), dim3(512), stream, *a);
}

} // namespace

cudaError_t cuda_quant_rows(const struct cuda_quant_args *args, cudaStream_t stream)
{
    const bool is_aligned = ((uintptr_t)args->x | (uintptr_t)args->y) % 16 == 0 &&
                            args->x_stride % VEC == 0 && args->n_cols % VEC == 0;
    if (args->n_rows == 0)
        return cudaSuccess;
    return is_aligned ? quant_rows<true>(args, stream) : quant_rows<false>(args, stream);
}
