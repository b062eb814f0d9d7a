/* The ops that move or scale rows: embedding, rmsnorm, qkv, silu_mul, and the
 * weight loaders gemm_pack and random_fill. All are bound by the bytes they touch. */
#include "kernels/cuda/cuda_ops.h"

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/f8.cuh"

/* What does not fit becomes 448. */
template <> __device__ inline __nv_fp8_e4m3 from_f32<__nv_fp8_e4m3>(float v)
{
    return __nv_fp8_e4m3(v);
}

namespace
{

using bf16 = __nv_bfloat16;
using f8 = __nv_fp8_e4m3;

/* Blocks of a grid that walks over n items; more would only queue. */
unsigned grid_of(uint64_t n, unsigned per_block)
{
    uint64_t blocks = (n + per_block - 1) / per_block;
    return (unsigned)(blocks < 65535 ? (blocks > 0 ? blocks : 1) : 65535);
}

/* ---- weights ---- */

template <typename S, typename D>
__global__ void pack_kernel(const S *src, uint64_t src_stride, D *dst, uint64_t n_rows, uint32_t k)
{
    uint64_t n = n_rows * k, step = (uint64_t)gridDim.x * blockDim.x;
    for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) {
        uint64_t row = i / k, col = i % k;
        dst[i] = from_f32<D>(to_f32(src[row * src_stride + col]));
    }
}

template <typename S> void pack_to(const gemm_pack_args *a, cudaStream_t stream)
{
    uint64_t n = (uint64_t)a->n_rows * a->k, at = (uint64_t)a->n_first * a->k;
    unsigned grid = grid_of(n, 256);
    if (a->dst_dtype == OPS_BF16)
        pack_kernel<<<grid, 256, 0, stream>>>((const S *)a->src, a->src_stride, (bf16 *)a->dst + at,
                                              a->n_rows, a->k);
    else
        pack_kernel<<<grid, 256, 0, stream>>>((const S *)a->src, a->src_stride,
                                              (float *)a->dst + at, a->n_rows, a->k);
}

/* Weights that do not stay in f8: the product with the scale is rounded to f32, then to D. */
template <typename D> __global__ void pack_f8_kernel(gemm_pack_args a)
{
    constexpr uint32_t BLOCK = OPS_SCALE_BLOCK_SIZE;
    uint64_t n = (uint64_t)a.n_rows * a.k, step = (uint64_t)gridDim.x * blockDim.x;
    uint64_t per_row = ((uint64_t)a.k + BLOCK - 1) / BLOCK;
    for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) {
        uint64_t row = i / a.k, col = i % a.k, at = a.n_first + row;
        float scale = a.src_scaling == OPS_SCALE_ROW ? a.src_scale[at]
                      : a.src_scaling == OPS_SCALE_BLOCK
                          ? a.src_scale[at / BLOCK * per_row + col / BLOCK]
                          : 1.0f;
        float value = (float)((const f8 *)a.src)[row * a.src_stride + col];
        ((D *)a.dst)[at * a.k + col] = from_f32<D>(value * scale);
    }
}

cudaError_t pack_f8(const gemm_pack_args *a, cudaStream_t stream)
{
    unsigned grid = grid_of((uint64_t)a->n_rows * a->k, 256);
    if (a->dst_dtype == OPS_F8)
        return cudaMemcpy2DAsync((char *)a->dst + (uint64_t)a->n_first * a->k, a->k, a->src,
                                 a->src_stride, a->k, a->n_rows, cudaMemcpyDeviceToDevice, stream);
    if (a->dst_dtype == OPS_BF16)
        pack_f8_kernel<bf16><<<grid, 256, 0, stream>>>(*a);
    else
        pack_f8_kernel<float><<<grid, 256, 0, stream>>>(*a);
    return cudaGetLastError();
}

/* SplitMix64 (Steele, Lea, Flood 2014) at a counter instead of a running state. */
__device__ float random_value(uint64_t seed, uint64_t i, float scale)
{
    uint64_t z = seed + (i + 1) * 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    int32_t top = (int32_t)((z ^ (z >> 31)) >> 40);
    return (float)(top - 0x800000) * 0x1p-23f * scale;
}

template <typename T>
__global__ void random_kernel(T *dst, uint64_t n, uint64_t first, uint64_t seed, float scale)
{
    uint64_t step = (uint64_t)gridDim.x * blockDim.x;
    for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step)
        dst[i] = from_f32<T>(random_value(seed, first + i, scale));
}

/* ---- embedding ---- */

template <typename S, typename D> __global__ void embedding_kernel(embedding_args a)
{
    uint64_t row = blockIdx.x;
    grid_launch_dependents();
    grid_wait();
    uint32_t id = a.ids[row];
    const S *src = (const S *)a.table + (uint64_t)id * a.n_cols;
    D *y = (D *)a.y + row * a.y_stride;
    for (uint32_t c = threadIdx.x; c < a.n_cols; c += blockDim.x)
        y[c] = from_f32<D>(id < a.n_vocab ? to_f32(src[c]) : 0.0f);
}

template <typename S> void embedding_from(const embedding_args *a, cudaStream_t stream)
{
    if (a->y_dtype == OPS_BF16)
        launch_early(embedding_kernel<S, bf16>, a->n_rows, 256, stream, *a);
    else
        launch_early(embedding_kernel<S, float>, a->n_rows, 256, stream, *a);
}

/* ---- rmsnorm ---- */

/* One block a row and head. What a thread loads it keeps, up to KEEP values, so that x and the
 * residual are read once. */
template <typename X, typename Y> __global__ void rmsnorm_kernel(rmsnorm_args a)
{
    constexpr int KEEP = 32;
    __shared__ float shared[32];
    uint64_t row = blockIdx.x / a.n_heads, head = blockIdx.x % a.n_heads;
    const X *x = (const X *)a.x + row * a.x_stride + head * a.n_cols;
    Y *y = (Y *)a.y + row * a.y_stride + head * a.n_cols;
    float *residual = a.residual != nullptr ? a.residual + row * a.residual_stride : nullptr;
    float kept[KEEP], sum = 0.0f;
    grid_launch_dependents();
    grid_wait();
#pragma unroll
    for (int i = 0; i < KEEP; i++) {
        uint32_t c = threadIdx.x + i * blockDim.x;
        kept[i] = 0.0f;
        if (c < a.n_cols) {
            kept[i] = to_f32(x[c]);
            if (residual != nullptr) {
                kept[i] += residual[c];
                residual[c] = kept[i];
            }
            sum += kept[i] * kept[i];
        }
    }
    float scale = 1.0f / sqrtf(block_sum(sum, shared) / (float)a.n_cols + a.eps);
#pragma unroll
    for (int i = 0; i < KEEP; i++) {
        uint32_t c = threadIdx.x + i * blockDim.x;
        if (c < a.n_cols)
            y[c] = from_f32<Y>(kept[i] * scale * a.w[c]);
    }
}

/* The shape that matters: f32 in, 8 columns a thread, all loads 16 bytes wide. The weights, which
 * no kernel ahead writes, are fetched while that one still runs. */
template <typename Y> __global__ void rmsnorm_wide_kernel(rmsnorm_args a)
{
    __shared__ float shared[32];
    const uint32_t c = threadIdx.x * 8;
    const uint64_t row = blockIdx.x;
    const float4 *w = (const float4 *)(a.w + c);
    float4 w0 = w[0], w1 = w[1];
    grid_launch_dependents();
    grid_wait();
    const float4 *x = (const float4 *)((const float *)a.x + row * a.x_stride + c);
    float4 v0 = x[0], v1 = x[1];
    if (a.residual != nullptr) {
        float4 *residual = (float4 *)(a.residual + row * a.residual_stride + c);
        float4 r0 = residual[0], r1 = residual[1];
        v0 = make_float4(v0.x + r0.x, v0.y + r0.y, v0.z + r0.z, v0.w + r0.w);
        v1 = make_float4(v1.x + r1.x, v1.y + r1.y, v1.z + r1.z, v1.w + r1.w);
        residual[0] = v0;
        residual[1] = v1;
    }
    float sum = v0.x * v0.x + v0.y * v0.y + v0.z * v0.z + v0.w * v0.w + v1.x * v1.x + v1.y * v1.y +
                v1.z * v1.z + v1.w * v1.w;
    float scale = 1.0f / sqrtf(block_sum(sum, shared) / (float)a.n_cols + a.eps);
    vec<Y, 8> y;
    const float v[8] = {v0.x, v0.y, v0.z, v0.w, v1.x, v1.y, v1.z, v1.w};
    const float u[8] = {w0.x, w0.y, w0.z, w0.w, w1.x, w1.y, w1.z, w1.w};
#pragma unroll
    for (int i = 0; i < 8; i++)
        y.v[i] = from_f32<Y>(v[i] * scale * u[i]);
    *(vec<Y, 8> *)((Y *)a.y + row * a.y_stride + c) = y;
}

bool rmsnorm_is_wide(const rmsnorm_args *a)
{
    return a->x_dtype == OPS_F32 && a->y_dtype == OPS_BF16 && a->n_heads == 1 &&
           a->n_cols % 256 == 0 && a->n_cols <= 8192 && a->x_stride % 4 == 0 &&
           a->y_stride % 8 == 0 && (a->residual == nullptr || a->residual_stride % 4 == 0) &&
           ((uintptr_t)a->x | (uintptr_t)a->y | (uintptr_t)a->w | (uintptr_t)a->residual) % 16 == 0;
}

template <typename X> void rmsnorm_from(const rmsnorm_args *a, cudaStream_t stream)
{
    unsigned threads = a->n_cols >= 8192 ? 1024 : a->n_cols >= 2048 ? 512 : 128;
    if (threads * 32 < a->n_cols)
        threads = 1024;
    if (a->y_dtype == OPS_BF16)
        launch_early(rmsnorm_kernel<X, bf16>, a->n_rows * a->n_heads, threads, stream, *a);
    else
        launch_early(rmsnorm_kernel<X, float>, a->n_rows * a->n_heads, threads, stream, *a);
}

/* ---- rope, qkv, kv_write ---- */

/* inverse: 1 / scale of an fp8 pool. */
template <typename T>
__device__ void kv_store(const ops_kv_pool &pool, uint64_t offset, uint32_t d, T value,
                         float inverse)
{
    char *at = (char *)pool.base + offset;
    if (pool.dtype == OPS_BF16)
        ((bf16 *)at)[d] = from_f32<bf16>(to_f32(value));
    else if (pool.dtype == OPS_F8)
        ((uint8_t *)at)[d] = f8_from_f32(to_f32(value) * inverse);
    else
        ((float *)at)[d] = to_f32(value);
}

/* Rotates dimension pair i of a head by pos * inv_freq[i]. */
__device__ void rotate(float &lo, float &hi, uint32_t pos, float inv_freq, float attn_scale)
{
    float s, c, a = lo, b = hi;
    sincosf((float)pos * inv_freq, &s, &c);
    s *= attn_scale;
    c *= attn_scale;
    lo = a * c - b * s;
    hi = b * c + a * s;
}

/* One warp a head: q heads, then k heads, then v heads. A lane holds dimensions lane + 32 i; when
 * half = head_dim / 2 is a multiple of 32 a pair lies in one lane, otherwise in shared memory. */
template <typename T> __global__ void qkv_kernel(qkv_args a)
{
    __shared__ float heads[4][OPS_HEAD_DIM_MAX];
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, dim = a.pool.head_dim;
    const uint32_t n_kv = a.pool.n_kv_heads, head = blockIdx.x * 4 + warp;
    const uint64_t row = blockIdx.y;
    if (head >= a.n_heads + 2 * n_kv)
        return;
    const bool is_q = head < a.n_heads, is_v = head >= a.n_heads + n_kv;
    grid_launch_dependents();
    grid_wait();
    const uint32_t pos = a.rows.pos[row];
    T *x = (T *)a.x + row * a.x_stride + (uint64_t)head * dim;
    float *h = heads[warp], sum = 0.0f;
    for (uint32_t d = lane; d < dim; d += 32) {
        h[d] = to_f32(x[d]);
        sum += h[d] * h[d];
    }
    const float *norm = is_v ? nullptr : is_q ? a.q_norm : a.k_norm;
    if (norm != nullptr) {
        float scale = 1.0f / sqrtf(warp_sum(sum) / (float)dim + a.eps);
        for (uint32_t d = lane; d < dim; d += 32)
            h[d] = h[d] * scale * norm[d];
    }
    __syncwarp();
    if (!is_v) {
        uint32_t half = a.n_rot / 2;
        for (uint32_t i = lane; i < half; i += 32)
            rotate(h[i], h[i + half], pos, a.inv_freq[i], a.attn_scale);
        __syncwarp();
    }
    if (is_q) {
        for (uint32_t d = lane; d < dim; d += 32)
            x[d] = from_f32<T>(h[d]);
        return;
    }
    if (pos == OPS_NO_POSITION)
        return;
    const uint32_t *table = a.rows.block_table + (uint64_t)a.rows.seq[row] * a.rows.table_stride;
    uint32_t kv_head = is_v ? head - a.n_heads - n_kv : head - a.n_heads;
    uint64_t offset = kv_row_offset(a.pool, table, a.layer, kv_head, pos, is_v);
    float inverse =
        a.pool.dtype == OPS_F8 ? 1.0f / f8_kv_scale(a.pool, a.layer, kv_head, is_v) : 1.0f;
    for (uint32_t d = lane; d < dim; d += 32)
        kv_store(a.pool, offset, d, h[d], inverse);
}

/* ---- bias, silu_mul ---- */

template <typename T>
__global__ void bias_kernel(T *y, uint64_t y_stride, const float *bias, uint32_t n_cols)
{
    grid_launch_dependents();
    grid_wait();
    for (uint32_t c = threadIdx.x; c < n_cols; c += blockDim.x) {
        T *at = y + blockIdx.x * y_stride + c;
        *at = from_f32<T>(to_f32(*at) + bias[c]);
    }
}

template <typename T, int N> __global__ void silu_mul_kernel(silu_mul_args a)
{
    uint64_t per_row = a.n_cols / N, n = per_row * a.n_rows;
    uint64_t step = (uint64_t)gridDim.x * blockDim.x;
    grid_launch_dependents();
    grid_wait();
    for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) {
        uint64_t row = i / per_row, c = i % per_row * N;
        const T *x = (const T *)a.x + row * a.x_stride + c;
        vec<T, N> gate = *(const vec<T, N> *)x, up = *(const vec<T, N> *)(x + a.n_cols), y;
#pragma unroll
        for (int k = 0; k < N; k++) {
            float g = to_f32(gate.v[k]);
            y.v[k] = from_f32<T>(g / (expf(-g) + 1.0f) * to_f32(up.v[k]));
        }
        *(vec<T, N> *)((T *)a.y + row * a.y_stride + c) = y;
    }
}

template <typename T> void silu_mul_of(const silu_mul_args *a, cudaStream_t stream)
{
    constexpr int N = 16 / sizeof(T);
    bool is_wide = a->n_cols % N == 0 && a->x_stride % N == 0 && a->y_stride % N == 0 &&
                   ((uintptr_t)a->x | (uintptr_t)a->y) % 16 == 0;
    if (is_wide)
        launch_early(silu_mul_kernel<T, N>, grid_of((uint64_t)a->n_rows * a->n_cols / N, 256), 256,
                     stream, *a);
    else
        launch_early(silu_mul_kernel<T, 1>, grid_of((uint64_t)a->n_rows * a->n_cols, 256), 256,
                     stream, *a);
}

} // namespace

cudaError_t cuda_gemm_pack(const struct gemm_pack_args *args, cudaStream_t stream)
{
    if (args->src_dtype == OPS_F8)
        return pack_f8(args, stream);
    if (args->src_dtype == OPS_F32)
        pack_to<float>(args, stream);
    else if (args->src_dtype == OPS_BF16)
        pack_to<bf16>(args, stream);
    else
        pack_to<__half>(args, stream);
    return cudaGetLastError();
}

cudaError_t cuda_random_fill(const struct random_fill_args *a, cudaStream_t stream)
{
    unsigned grid = grid_of(a->n, 256);
    if (a->dtype == OPS_F32)
        random_kernel<<<grid, 256, 0, stream>>>((float *)a->dst, a->n, a->first, a->seed, a->scale);
    else if (a->dtype == OPS_BF16)
        random_kernel<<<grid, 256, 0, stream>>>((bf16 *)a->dst, a->n, a->first, a->seed, a->scale);
    else if (a->dtype == OPS_F8)
        random_kernel<<<grid, 256, 0, stream>>>((f8 *)a->dst, a->n, a->first, a->seed, a->scale);
    else
        random_kernel<<<grid, 256, 0, stream>>>((__half *)a->dst, a->n, a->first, a->seed,
                                                a->scale);
    return cudaGetLastError();
}

cudaError_t cuda_embedding(const struct embedding_args *args, cudaStream_t stream)
{
    if (args->dtype == OPS_F32)
        embedding_from<float>(args, stream);
    else if (args->dtype == OPS_BF16)
        embedding_from<bf16>(args, stream);
    else
        embedding_from<__half>(args, stream);
    return cudaGetLastError();
}

cudaError_t cuda_rmsnorm(const struct rmsnorm_args *args, cudaStream_t stream)
{
    if (args->n_cols > CUDA_NORM_COLS_MAX)
        return cudaErrorInvalidValue;
    if (rmsnorm_is_wide(args))
        return launch_early(rmsnorm_wide_kernel<bf16>, args->n_rows, args->n_cols / 8, stream,
                            *args);
    if (args->x_dtype == OPS_BF16)
        rmsnorm_from<bf16>(args, stream);
    else
        rmsnorm_from<float>(args, stream);
    return cudaGetLastError();
}

/* In pieces of what a grid may have of rows. */
cudaError_t cuda_qkv(const struct qkv_args *args, cudaStream_t stream)
{
    constexpr uint32_t ROWS_MAX = 65535;
    struct qkv_args a = *args;
    for (uint32_t left = args->rows.n_rows; left > 0; left -= a.rows.n_rows) {
        a.rows.n_rows = left < ROWS_MAX ? left : ROWS_MAX;
        dim3 grid((a.n_heads + 2 * a.pool.n_kv_heads + 3) / 4, a.rows.n_rows);
        if (a.dtype == OPS_BF16)
            launch_early(qkv_kernel<bf16>, grid, 128, stream, a);
        else
            launch_early(qkv_kernel<float>, grid, 128, stream, a);
        a.x = (char *)a.x + a.rows.n_rows * a.x_stride * ops_dtype_bytes(a.dtype);
        a.rows.pos += a.rows.n_rows;
        a.rows.seq += a.rows.n_rows;
    }
    return cudaGetLastError();
}

cudaError_t cuda_silu_mul(const struct silu_mul_args *args, cudaStream_t stream)
{
    if (args->dtype == OPS_BF16)
        silu_mul_of<bf16>(args, stream);
    else
        silu_mul_of<float>(args, stream);
    return cudaGetLastError();
}

cudaError_t cuda_add_bias(void *y, enum ops_dtype y_dtype, uint64_t y_stride, const float *bias,
                          uint32_t n_rows, uint32_t n_cols, cudaStream_t stream)
{
    if (y_dtype == OPS_BF16)
        launch_early(bias_kernel<bf16>, n_rows, 256, stream, (bf16 *)y, y_stride, bias, n_cols);
    else
        launch_early(bias_kernel<float>, n_rows, 256, stream, (float *)y, y_stride, bias, n_cols);
    return cudaGetLastError();
}
