/* What a warp of gemm_small.cu multiplies: its eighth of a block of w by the same columns of x.
 * A block is [8 warps][16 rows][128 bytes], swizzled in units of 16 bytes; bf16 has 64 columns
 * there, fp8 128.
 *
 * bf16: x in the same form, [8 warps][rows][64 columns].
 * fp8: w becomes f16 in registers, an instruction for two; so x is f16 too, multiplied by the power
 * of two that takes the greatest of its 128 columns to [2^14, 2^15). That is exact for all that is
 * not smaller by 2^32 than the greatest; the sum is divided by it in f32. A lane gets 4
 * neighbouring columns of a row of w, and the columns of x are dealt out alike, so that a product
 * meets its factor: of columns 4 t .. 4 t + 3 of 16, the first two play columns 2 t and 2 t + 1 of
 * the mma, the others 2 t + 8 and 2 t + 9. x is [8 warps][rows][128 columns] and [8][rows] divisors
 * behind. */
#ifndef KERNELS_CUDA_GEMM_SMALL_MMA_CUH
#define KERNELS_CUDA_GEMM_SMALL_MMA_CUH

#include "kernels/cuda/gemm_small_epilogue.cuh"

#include <cuda_fp16.h>

namespace gemm_small
{

constexpr uint32_t kWarps = 8;      /* that multiply */
constexpr uint32_t kBoxBytes = 128; /* of a row, a warp's share of a block */
constexpr uint32_t kBlockBytes = kRows * kBoxBytes * kWarps; /* of w */

/* XROWS: rows of x in shared memory, 1, 2, 4, 8 or 16; F8: w is fp8, not bf16. */
template <int XROWS, bool F8> struct shape {
    enum : uint32_t {
        kXRows = XROWS,
        kIsF8 = F8,
        kBoxCols = F8 ? kBoxBytes : kBoxBytes / 2,
        kCols = kBoxCols * kWarps,
        kNt = XROWS > 8 ? 2 : 1,
        kXBlockBytes = XROWS * (kCols * 2 + (F8 ? kWarps * 4 : 0)),
        kOutputs = kRows * XROWS,
        kFinishers = XROWS <= 2 ? 32 : 64,    /* threads that finish */
        kEach = XROWS <= 4 ? 1 : XROWS / 4,   /* outputs of theirs */
        kScales = kFinishers * kEach / kRows, /* tokens they may ask for */
        kThreads = kWarps * 32 + 32 + kFinishers,
        kPerSm = XROWS <= 2 && !F8 ? 3 : 2,
    };
};

/* Sums of 16 rows by the tokens of a warp, as mma leaves them: a lane has rows lane / 4 and that +
 * 8 of tokens lane % 4 * 2 and that + 1. They come in twos, to be added: mma is slow to answer. */
template <class S> struct sums {
    float v[S::kNt][4];
};

__device__ __forceinline__ void smem_store(uint32_t addr, float v)
{
    asm volatile("st.shared.f32 [%0], %1;" ::"r"(addr), "f"(v) : "memory");
}

__device__ __forceinline__ float smem_load(uint32_t addr)
{
    float v;
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(v) : "r"(addr) : "memory");
    return v;
}

template <class S>
__device__ __forceinline__ void mma(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                    uint32_t a3, uint32_t b0, uint32_t b1)
{
    if constexpr (S::kIsF8)
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
                     "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
    else
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
                     "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/* Where a lane reads the first two units of a warp's share of a block; the next are at ^ 32, 64 and
 * 96: what the swizzle changes are these bits. */
__device__ __forceinline__ uint32_t w_offset(uint32_t lane)
{
    return lane % 16 * kBoxBytes + (lane / 16 ^ lane % 8) * 16;
}

/* [s][..] are units 2 s and 2 s + 1 of 16 bytes of rows lane / 4 and, with odd index, of those + 8.
 */
__device__ __forceinline__ void w_load(uint32_t (&a)[4][4], uint32_t at)
{
#pragma unroll
    for (uint32_t s = 0; s < 4; s++)
        load_matrices(a[s], at ^ s * 32);
}

/* Where a lane reads a row of the warp's share of a block of x: rows of the first 8 tokens, of the
 * others; then as with w. */
template <class S>
__device__ __forceinline__ uint32_t x_offset(uint32_t warp, uint32_t lane, uint32_t t)
{
    uint32_t row = t * 8 + (S::kIsF8 ? lane / 4 : lane % 8);
    uint32_t line = warp * S::kXRows + min(row, uint32_t(S::kXRows - 1));
    if constexpr (S::kIsF8)
        return line * (S::kBoxCols * 2) + (lane % 4 ^ line % 2 * 4) * 16;
    else
        return line * kBoxBytes + (lane / 8 ^ line % 8) * 16;
}

/* ---- bf16 ---- */

template <class S>
__device__ __forceinline__ void block_mma_bf16(sums<S> (&acc)[2], const uint32_t (&a)[4][4],
                                               uint32_t x_block, const uint32_t (&x_at)[S::kNt])
{
    uint32_t b[S::kNt][2][4];
#pragma unroll
    for (uint32_t t = 0; t < S::kNt; t++)
#pragma unroll
        for (uint32_t h = 0; h < 2; h++)
            load_matrices(b[t][h], x_block + (x_at[t] ^ h * 64));
#pragma unroll
    for (uint32_t s = 0; s < 4; s++)
#pragma unroll
        for (uint32_t t = 0; t < S::kNt; t++)
            mma<S>(acc[s % 2].v[t], a[s][0], a[s][1], a[s][2], a[s][3], b[t][s / 2][s % 2 * 2],
                   b[t][s / 2][s % 2 * 2 + 1]);
}

/* Eight columns of x, unit `unit` of row `row`, on their way to `block`. */
template <class S>
__device__ __forceinline__ void x_store_bf16(uint32_t block, uint32_t warp, uint32_t row,
                                             uint32_t unit, uint4 raw)
{
    uint32_t line = warp * S::kXRows + row;
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(block + line * kBoxBytes +
                                                                  (unit ^ line % 8) * 16),
                 "r"(raw.x), "r"(raw.y), "r"(raw.z), "r"(raw.w)
                 : "memory");
}

/* ---- fp8 ---- */

/* Four weights as two pairs of f16. */
__device__ __forceinline__ void f8_expand(uint32_t raw, uint32_t &first, uint32_t &second)
{
    asm("{\n"
        ".reg .b16 low, high;\n"
        "mov.b32 {low, high}, %2;\n"
        "cvt.rn.f16x2.e4m3x2 %0, low;\n"
        "cvt.rn.f16x2.e4m3x2 %1, high;\n"
        "}\n"
        : "=r"(first), "=r"(second)
        : "r"(raw));
}

/* The same for fp8. 16 neighbouring lanes have the 16 units of a row and call it together. */
template <class S>
__device__ __forceinline__ void x_store_f8(uint32_t block, uint32_t warp, uint32_t row,
                                           uint32_t unit, uint4 raw, bool is_in)
{
    const uint32_t pair[4] = {raw.x, raw.y, raw.z, raw.w};
    float v[8], most = 0.0f;
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) {
        v[2 * i] = __uint_as_float(pair[i] << 16);
        v[2 * i + 1] = __uint_as_float(pair[i] & 0xffff0000u);
        most = fmaxf(most, fmaxf(fabsf(v[2 * i]), fabsf(v[2 * i + 1])));
    }
#pragma unroll
    for (uint32_t d = 8; d > 0; d /= 2)
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, d));
    uint32_t exponent = max(__float_as_uint(most) >> 23, 15u); /* + 127 */
    float factor = __uint_as_float((127 + 14 + 127 - exponent) << 23);
    float divisor = __uint_as_float((exponent - 14) << 23);
    if (!is_in)
        return;
    uint32_t line = warp * S::kXRows + row;
#pragma unroll
    for (uint32_t h = 0; h < 2; h++) {
        uint32_t j = unit * 2 + h, to = j / 8 * 4 + j % 4; /* columns 4 j .. 4 j + 3 */
        __half2 low = __floats2half2_rn(v[4 * h] * factor, v[4 * h + 1] * factor);
        __half2 high = __floats2half2_rn(v[4 * h + 2] * factor, v[4 * h + 3] * factor);
        asm volatile(
            "st.shared.v2.b32 [%0], {%1, %2};" ::"r"(block + line * (S::kBoxCols * 2) +
                                                     (to ^ line % 2 * 4) * 16 + j / 4 % 2 * 8),
            "r"(*reinterpret_cast<uint32_t *>(&low)), "r"(*reinterpret_cast<uint32_t *>(&high))
            : "memory");
    }
    if (unit == 0)
        smem_store(block + S::kXRows * S::kCols * 2 + line * 4, divisor);
}

/* scale: of rows lane / 4 and of those + 8, for the warp's 128 columns. All is added to acc[0]. */
template <class S>
__device__ __forceinline__ void block_mma_f8(sums<S> (&acc)[2], const uint32_t (&a)[4][4],
                                             uint32_t x_block, const uint32_t (&x_at)[S::kNt],
                                             uint32_t warp, uint32_t lane, const float (&scale)[2])
{
    sums<S> part[2] = {};
    float divisor[S::kNt][2];
#pragma unroll
    for (uint32_t t = 0; t < S::kNt; t++)
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
            uint32_t row = min(t * 8 + lane % 4 * 2 + i, uint32_t(S::kXRows - 1));
            divisor[t][i] =
                smem_load(x_block + S::kXRows * S::kCols * 2 + (warp * S::kXRows + row) * 4);
        }
#pragma unroll
    for (uint32_t s = 0; s < 4; s++) {
        uint32_t b[S::kNt][4], w[2][4];
#pragma unroll
        for (uint32_t t = 0; t < S::kNt; t++)
            asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                         : "=r"(b[t][0]), "=r"(b[t][1]), "=r"(b[t][2]), "=r"(b[t][3])
                         : "r"(x_block + (x_at[t] ^ s * 64))
                         : "memory");
#pragma unroll
        for (uint32_t h = 0; h < 2; h++) {
            f8_expand(a[s][2 * h], w[h][0], w[h][2]);
            f8_expand(a[s][2 * h + 1], w[h][1], w[h][3]);
#pragma unroll
            for (uint32_t t = 0; t < S::kNt; t++)
                mma<S>(part[h].v[t], w[h][0], w[h][1], w[h][2], w[h][3], b[t][2 * h],
                       b[t][2 * h + 1]);
        }
    }
#pragma unroll
    for (uint32_t t = 0; t < S::kNt; t++)
#pragma unroll
        for (uint32_t i = 0; i < 4; i++)
            acc[0].v[t][i] = fmaf(scale[i / 2] * divisor[t][i % 2],
                                  part[0].v[t][i] + part[1].v[t][i], acc[0].v[t][i]);
}

} // namespace gemm_small

#endif
