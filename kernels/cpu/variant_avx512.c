/* The AVX-512 variant with BF16 dot products: 16 lanes. */
#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>

#include "kernels/cpu/cpu_int.h"

#if defined(__clang__)
#pragma clang attribute push(                                                                      \
    __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16"))),             \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")
#endif

#define VEC_LANES  16
#define ATTN_SLOTS 4

#include "kernels/cpu/vec.inc"

CPU_INLINE vf vec_fma(vf a, vf b, vf c)
{
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}

CPU_INLINE float vec_sum(vf v)
{
    return _mm512_reduce_add_ps((__m512)v);
}

CPU_INLINE float vec_max_lane(vf v)
{
    return _mm512_reduce_max_ps((__m512)v);
}

CPU_INLINE void transpose16(__m512i r[16])
{
    __m512i t[16];
    for (uint32_t i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (uint32_t i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    /* 128-bit lane L of r[4i + j] now holds column 4L + j of rows 4i..4i+3. */
    for (uint32_t j = 0; j < 4; j++) {
        t[j] = _mm512_shuffle_i32x4(r[j], r[4 + j], 0x88);
        t[4 + j] = _mm512_shuffle_i32x4(r[j], r[4 + j], 0xdd);
        t[8 + j] = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0x88);
        t[12 + j] = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0xdd);
    }
    for (uint32_t j = 0; j < 4; j++) {
        r[j] = _mm512_shuffle_i32x4(t[j], t[8 + j], 0x88);
        r[4 + j] = _mm512_shuffle_i32x4(t[4 + j], t[12 + j], 0x88);
        r[8 + j] = _mm512_shuffle_i32x4(t[j], t[8 + j], 0xdd);
        r[12 + j] = _mm512_shuffle_i32x4(t[4 + j], t[12 + j], 0xdd);
    }
}

CPU_INLINE void vec_transpose(vi rows[VEC_LANES])
{
    __m512i r[16];
    for (uint32_t i = 0; i < 16; i++)
        r[i] = (__m512i)rows[i];
    transpose16(r);
    for (uint32_t i = 0; i < 16; i++)
        rows[i] = (vi)r[i];
}

CPU_INLINE vi vec_load_u8(const char *src)
{
    return (vi)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)src));
}

#include "kernels/cpu/attention.inc"
#include "kernels/cpu/elementwise.inc"

/* 12 rows x 32 columns: 24 accumulators, 2 registers of W, the rest for broadcasts of x. */
#define GEMM_MR 12u

/* Lanes [0, n) of a 16-lane mask, n clamped to 16. */
CPU_INLINE __mmask16 first_lanes(uint32_t n)
{
    return n >= 16 ? (__mmask16)0xffffu : (__mmask16)((1u << n) - 1u);
}

/* 16 items (pairs of bf16, or f32) of row x from k on; beyond the end they are zero. */
CPU_INLINE __m512i pack_items(const float *x, uint32_t k, uint32_t k_end, enum ops_dtype dtype)
{
    uint32_t left = k_end - k;
    __m512 low = _mm512_maskz_loadu_ps(first_lanes(left), x + k);
    if (dtype == OPS_F32)
        return _mm512_castps_si512(low);
    __m512 high = _mm512_setzero_ps();
    if (left > 16)
        high = _mm512_maskz_loadu_ps(first_lanes(left - 16), x + k + 16);
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

/* x as 32-bit items [kk][mr]: pairs of bf16 (k, k + 1) for bf16 weights, else f32. */
static void pack_x_items(const struct gemm_args *args, uint32_t row, uint32_t mr, void *dst)
{
    int32_t *out = (int32_t *)dst;
    uint32_t step = args->w_dtype == OPS_BF16 ? 32 : 16; /* k of 16 items */
    uint32_t n_items = args->w_dtype == OPS_BF16 ? (args->k + 1) / 2 : args->k;
    const float *x = (const float *)args->x + (uint64_t)row * args->x_stride;
    for (uint32_t k = 0, item = 0; k < args->k; k += step, item += 16) {
        uint32_t n = n_items - item < 16 ? n_items - item : 16;
        __m512i r[16];
        if (mr == 1) {
            _mm512_mask_storeu_epi32(out + item, first_lanes(n),
                                     pack_items(x, k, args->k, args->w_dtype));
            continue;
        }
        for (uint32_t i = 0; i < 16; i++)
            r[i] = i < mr ? pack_items(x + i * args->x_stride, k, args->k, args->w_dtype)
                          : _mm512_setzero_si512();
        transpose16(r);
        for (uint32_t i = 0; i < n; i++)
            _mm512_mask_storeu_epi32(out + (size_t)(item + i) * mr, first_lanes(mr), r[i]);
    }
}

/* One step of one row: acc[0..1] += x item * two vectors of W. */
CPU_INLINE void tile_step(__m512 acc[2], int32_t x, __m512i w0, __m512i w1, const int is_bf16)
{
    __m512i xv = _mm512_set1_epi32(x);
    if (is_bf16) {
        acc[0] = _mm512_dpbf16_ps(acc[0], (__m512bh)xv, (__m512bh)w0);
        acc[1] = _mm512_dpbf16_ps(acc[1], (__m512bh)xv, (__m512bh)w1);
    } else {
        acc[0] = _mm512_fmadd_ps((__m512)xv, (__m512)w0, acc[0]);
        acc[1] = _mm512_fmadd_ps((__m512)xv, (__m512)w1, acc[1]);
    }
}

CPU_INLINE void tile_rows(const struct gemm_tile *tile, const uint32_t mr, const int is_bf16)
{
    const int32_t *x = (const int32_t *)tile->x;
    const char *w = (const char *)tile->w;
    uint32_t n_items = is_bf16 ? (tile->k + 1) / 2 : tile->k;
    __m512 acc[GEMM_MR][2];
    for (uint32_t r = 0; r < mr; r++)
        acc[r][0] = acc[r][1] = _mm512_setzero_ps();
    for (uint32_t i = 0; i < n_items; i++, x += mr, w += 128) {
        __m512i w0 = _mm512_load_si512(w), w1 = _mm512_load_si512(w + 64);
        for (uint32_t r = 0; r < mr; r++)
            tile_step(acc[r], x[r], w0, w1, is_bf16);
    }
    __mmask16 m0 = first_lanes(tile->n_cols);
    __mmask16 m1 = tile->n_cols > 16 ? first_lanes(tile->n_cols - 16) : (__mmask16)0;
    __m512 b0 = _mm512_setzero_ps(), b1 = b0;
    if (tile->bias != NULL) {
        b0 = _mm512_maskz_loadu_ps(m0, tile->bias);
        b1 = _mm512_maskz_loadu_ps(m1, tile->bias + 16);
    }
    for (uint32_t r = 0; r < mr; r++) {
        float *y = tile->y + r * tile->y_stride;
        _mm512_mask_storeu_ps(y, m0, _mm512_add_ps(acc[r][0], b0));
        _mm512_mask_storeu_ps(y + 16, m1, _mm512_add_ps(acc[r][1], b1));
    }
}

#define TILE_FUNCTIONS(mr)                                                                         \
    static void tile_bf16_##mr(const struct gemm_tile *tile)                                       \
    {                                                                                              \
        tile_rows(tile, mr, 1);                                                                    \
    }                                                                                              \
    static void tile_f32_##mr(const struct gemm_tile *tile)                                        \
    {                                                                                              \
        tile_rows(tile, mr, 0);                                                                    \
    }

TILE_FUNCTIONS(1)
TILE_FUNCTIONS(2)
TILE_FUNCTIONS(3)
TILE_FUNCTIONS(4)
TILE_FUNCTIONS(5)
TILE_FUNCTIONS(6)
TILE_FUNCTIONS(7)
TILE_FUNCTIONS(8)
TILE_FUNCTIONS(9)
TILE_FUNCTIONS(10)
TILE_FUNCTIONS(11)
TILE_FUNCTIONS(12)

static void variant_gemm_tile(const struct gemm_tile *tile)
{
    static void (*const bf16[GEMM_MR])(const struct gemm_tile *) = {
        tile_bf16_1, tile_bf16_2, tile_bf16_3, tile_bf16_4,  tile_bf16_5,  tile_bf16_6,
        tile_bf16_7, tile_bf16_8, tile_bf16_9, tile_bf16_10, tile_bf16_11, tile_bf16_12,
    };
    static void (*const f32[GEMM_MR])(const struct gemm_tile *) = {
        tile_f32_1, tile_f32_2, tile_f32_3, tile_f32_4,  tile_f32_5,  tile_f32_6,
        tile_f32_7, tile_f32_8, tile_f32_9, tile_f32_10, tile_f32_11, tile_f32_12,
    };
    (tile->w_dtype == OPS_BF16 ? bf16 : f32)[tile->mr - 1](tile);
}

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const struct cpu_kernels cpu_kernels_avx512 = {
    .gemm_mr = GEMM_MR,
    .gemm_pack_x = pack_x_items,
    .gemm_tile = variant_gemm_tile,
    .attention = variant_attention,
    .rmsnorm = variant_rmsnorm,
    .rope = variant_rope,
    .silu_mul = variant_silu_mul,
    .kv_write = variant_kv_write,
    .exp = variant_exp,
};
#endif
