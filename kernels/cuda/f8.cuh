/* e4m3 of the KV pool: to f16 and bf16, which hold every value of it, and from f32. */
#ifndef KERNELS_CUDA_F8_CUH
#define KERNELS_CUDA_F8_CUH

#include "kernels/ops.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <stdint.h>

/* The pair in the lower (HIGH: upper) half of `pairs` as two f16; a NaN stays one. */
template <bool HIGH> __device__ __forceinline__ uint32_t f8_to_f16(uint32_t pairs)
{
    uint32_t result;
#if __CUDA_ARCH__ >= 890
    if (HIGH)
        asm("{.reg .b16 low, high;\n"
            "mov.b32 {low, high}, %1;\n"
            "cvt.rn.f16x2.e4m3x2 %0, high;}"
            : "=r"(result)
            : "r"(pairs));
    else
        asm("{.reg .b16 low, high;\n"
            "mov.b32 {low, high}, %1;\n"
            "cvt.rn.f16x2.e4m3x2 %0, low;}"
            : "=r"(result)
            : "r"(pairs));
#else
    /* Exponent and mantissa one place lower are an f16 that is 2^8 times too small. */
    uint32_t wide = __byte_perm(pairs, 0, HIGH ? 0x3424 : 0x1404), size = wide & 0x7f007f00u;
    __half2 value =
        __hmul2(__halves2half2(__ushort_as_half(size >> 1 & 0xffff), __ushort_as_half(size >> 17)),
                __half2half2(__float2half_rn(256.0f)));
    uint32_t low = __half_as_ushort(__low2half(value)), high = __half_as_ushort(__high2half(value));
    result =
        (low | high << 16) | (wide & 0x80008000u) | (__vcmpeq2(size, 0x7f007f00u) & 0x7fff7fffu);
#endif
    return result;
}

/* The same as two bf16. */
template <bool HIGH> __device__ __forceinline__ uint32_t f8_to_bf16(uint32_t pairs)
{
    uint32_t halves = f8_to_f16<HIGH>(pairs), result;
    float low = __half2float(__ushort_as_half(halves & 0xffff));
    float high = __half2float(__ushort_as_half(halves >> 16));
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
    return result;
}

/* To nearest even, beyond +-448 as +-448, a NaN as a NaN. */
__device__ __forceinline__ uint8_t f8_from_f32(float x)
{
    return __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3);
}

/* The scale of K (is_v 0) or V of a head in the pool. */
__device__ __forceinline__ float f8_kv_scale(const ops_kv_pool &pool, uint32_t layer,
                                             uint32_t kv_head, uint32_t is_v)
{
    return pool.scales == nullptr
               ? 1.0f
               : pool.scales[((uint64_t)layer * 2 + is_v) * pool.n_kv_heads + kv_head];
}

#endif
