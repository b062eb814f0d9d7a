/* The AVX2 + FMA variant: 8 lanes. bf16 weights are widened to f32 on the way. */
#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>

#include "kernels/cpu/cpu_int.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

#define VEC_LANES  8
#define ATTN_SLOTS 2

#include "kernels/cpu/vec.inc"

CPU_INLINE vf vec_fma(vf a, vf b, vf c)
{
    return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}

CPU_INLINE float vec_sum(vf v)
{
    __m128 a = _mm_add_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
    a = _mm_add_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)));
}

CPU_INLINE float vec_max_lane(vf v)
{
    __m128 a = _mm_max_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
    a = _mm_max_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_max_ss(a, _mm_movehdup_ps(a)));
}

CPU_INLINE void vec_transpose(vi rows[VEC_LANES])
{
    __m256i r[8], t[8];
    for (uint32_t i = 0; i < 8; i++)
        r[i] = (__m256i)rows[i];
    for (uint32_t i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (uint32_t i = 0; i < 8; i += 4) {
        r[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (uint32_t i = 0; i < 4; i++) {
        rows[i] = (vi)_mm256_permute2x128_si256(r[i], r[4 + i], 0x20);
        rows[4 + i] = (vi)_mm256_permute2x128_si256(r[i], r[4 + i], 0x31);
    }
}

CPU_INLINE vi vec_load_u8(const char *src)
{
    return (vi)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)src));
}

#include "kernels/cpu/attention.inc"
#include "kernels/cpu/elementwise.inc"

#define GEMM_MR 4u

#include "kernels/cpu/gemm_pack_f32.inc"

/* n_vecs vectors of columns of mr rows over all k; both are constants. */
CPU_INLINE void tile_f32(const struct gemm_tile *tile, uint32_t col, float *out, const uint32_t mr,
                         const uint32_t n_vecs)
{
    const float *x = (const float *)tile->x;
    const float *w = (const float *)tile->w + col;
    vf acc[GEMM_MR][4] = {0};
    for (uint32_t k = 0; k < tile->k; k++, x += mr, w += OPS_PANEL_COLS) {
        for (uint32_t i = 0; i < n_vecs; i++) {
            vf wv = vec_load(w + 8 * i);
            for (uint32_t r = 0; r < mr; r++)
                acc[r][i] = vec_fma(vec_set1(x[r]), wv, acc[r][i]);
        }
    }
    for (uint32_t r = 0; r < mr; r++)
        for (uint32_t i = 0; i < n_vecs; i++)
            vec_store(out + r * OPS_PANEL_COLS + col + 8 * i, acc[r][i]);
}

/* The same over pairs of k; the even k of a pair is added first. */
CPU_INLINE void tile_bf16(const struct gemm_tile *tile, uint32_t col, float *out, const uint32_t mr,
                          const uint32_t n_vecs)
{
    const float *x = (const float *)tile->x;
    const char *w = (const char *)tile->w + col * 4u;
    vf acc[GEMM_MR][4] = {0};
    for (uint32_t k = 0; k < tile->k; k += 2, x += 2 * mr, w += OPS_PANEL_COLS * 4u) {
        for (uint32_t i = 0; i < n_vecs; i++) {
            vi pair = *(const vi_any *)(w + 32 * i);
            vf even = (vf)(pair << 16), odd = (vf)(pair & ~0xffff);
            for (uint32_t r = 0; r < mr; r++) {
                acc[r][i] = vec_fma(vec_set1(x[r]), even, acc[r][i]);
                acc[r][i] = vec_fma(vec_set1(x[mr + r]), odd, acc[r][i]);
            }
        }
    }
    for (uint32_t r = 0; r < mr; r++)
        for (uint32_t i = 0; i < n_vecs; i++)
            vec_store(out + r * OPS_PANEL_COLS + col + 8 * i, acc[r][i]);
}

/* Few rows take the panel in one stream; more rows take half of its columns at a time, because
 * there are 16 registers. */
CPU_INLINE void tile_rows(const struct gemm_tile *tile, float *out, const uint32_t mr)
{
    const uint32_t n_vecs = mr <= 2 ? 4 : 2;
    for (uint32_t col = 0; col < OPS_PANEL_COLS; col += 8 * n_vecs) {
        if (tile->w_dtype == OPS_F32)
            tile_f32(tile, col, out, mr, n_vecs);
        else
            tile_bf16(tile, col, out, mr, n_vecs);
    }
}

static void variant_gemm_tile(const struct gemm_tile *tile)
{
    float out[GEMM_MR * OPS_PANEL_COLS];
    if (tile->mr == 1)
        tile_rows(tile, out, 1);
    else if (tile->mr == 2)
        tile_rows(tile, out, 2);
    else if (tile->mr == 3)
        tile_rows(tile, out, 3);
    else
        tile_rows(tile, out, 4);
    for (uint32_t r = 0; r < tile->mr; r++) {
        float *y = tile->y + r * tile->y_stride;
        for (uint32_t c = 0; c < tile->n_cols; c++) {
            float sum = out[r * OPS_PANEL_COLS + c];
            y[c] = tile->bias != NULL ? sum + tile->bias[c] : sum;
        }
    }
}

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const struct cpu_kernels cpu_kernels_avx2 = {
    .gemm_mr = GEMM_MR,
    .gemm_pack_x = pack_x_f32,
    .gemm_tile = variant_gemm_tile,
    .attention = variant_attention,
    .rmsnorm = variant_rmsnorm,
    .rope = variant_rope,
    .silu_mul = variant_silu_mul,
    .kv_write = variant_kv_write,
    .exp = variant_exp,
};
#endif
