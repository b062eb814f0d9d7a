/* Internal to kernels/cpu: the table of one ISA, shares and number conversions.
 *
 * variant_<isa>.c compiles the templates *.inc once per ISA, under that ISA's target attributes and
 * vector width, and fills a `struct cpu_kernels`. ops.c picks a table. The library is built with
 * -ffp-contract=off: an a*b+c is fused only where a template says so, hence a value rounds the same
 * way on every path of one ISA. */
#ifndef KERNELS_CPU_INT_H
#define KERNELS_CPU_INT_H

#include <stdbool.h>
#include <string.h>

#include "kernels/ops.h"

#define CPU_INLINE static inline __attribute__((always_inline))

/* One tile of gemm: mr rows of packed x times one panel of W, over all of k. */
struct gemm_tile {
    const void *x; /* [kk][mr]: bf16 pairs or f32, as the variant's gemm_pack_x wrote them */
    const void *w; /* one panel */
    enum ops_dtype w_dtype;
    uint32_t k;
    uint32_t mr;       /* 1..cpu_kernels.gemm_mr */
    uint32_t n_cols;   /* 1..OPS_PANEL_COLS */
    const float *bias; /* [n_cols] or NULL */
    float *y;          /* [mr, n_cols] */
    uint64_t y_stride;
};

struct cpu_kernels {
    uint32_t gemm_mr; /* rows of a packed x block */
    /* Packs rows [row, row + mr) of args->x into dst. */
    void (*gemm_pack_x)(const struct gemm_args *args, uint32_t row, uint32_t mr, void *dst);
    void (*gemm_tile)(const struct gemm_tile *tile);
    void (*attention)(const struct attention_args *args, const struct cpu_share *share);
    void (*rmsnorm)(const struct rmsnorm_args *args, const struct cpu_share *share);
    void (*rope)(const struct rope_args *args, const struct cpu_share *share);
    void (*silu_mul)(const struct silu_mul_args *args, const struct cpu_share *share);
    void (*kv_write)(const struct kv_write_args *args, const struct cpu_share *share);
    void (*exp)(const float *src, float *dst, size_t n); /* dst may be src */
};

/* ---- Attention ------------------------------------------------------------------------------ */

#define ATTN_PIECE     64u                  /* keys taken at a time, aligned */
#define ATTN_SLOTS_MAX OPS_HEADS_PER_KV_MAX /* (row, query head) pairs of a unit */

/* One share's working memory. */
struct attn_scratch {
    float q[ATTN_SLOTS_MAX * OPS_HEAD_DIM_MAX]; /* [slot][head_dim], times scale */
    float o[ATTN_SLOTS_MAX * OPS_HEAD_DIM_MAX]; /* [slot][head_dim], not yet divided by sum */
    float kt[OPS_HEAD_DIM_MAX * ATTN_PIECE];    /* [head_dim][key] */
    float vf[ATTN_PIECE * OPS_HEAD_DIM_MAX];    /* [key][head_dim] */
    float scores[ATTN_SLOTS_MAX * ATTN_PIECE];  /* [slot][key] */
    float peak[ATTN_SLOTS_MAX], sum[ATTN_SLOTS_MAX];
    uint32_t lo[ATTN_SLOTS_MAX], hi[ATTN_SLOTS_MAX]; /* positions seen, inclusive */
};

/* Scale of one plane of an fp8 pool; 1 for any other. */
CPU_INLINE float kv_scale_of(const struct ops_kv_pool *pool, uint32_t layer, uint32_t kv_head,
                             uint32_t is_v)
{
    if (pool->dtype != OPS_F8 || pool->scales == NULL)
        return 1.0f;
    return pool->scales[((uint64_t)layer * 2u + is_v) * pool->n_kv_heads + kv_head];
}

/* ---- Tables --------------------------------------------------------------------------------- */

extern const struct cpu_kernels cpu_kernels_scalar;
#if defined(__x86_64__)
extern const struct cpu_kernels cpu_kernels_avx2;
extern const struct cpu_kernels cpu_kernels_avx512;
#endif

/* Table of an ISA; the scalar one for anything unknown. */
const struct cpu_kernels *cpu_kernels_get(enum cpu_isa isa);

/* This share's part [*out_first, *out_end) of n items. */
CPU_INLINE void cpu_share_range(const struct cpu_share *share, uint64_t n, uint64_t *out_first,
                                uint64_t *out_end)
{
    *out_first = n * share->index / share->count;
    *out_end = n * (share->index + 1u) / share->count;
}

/* ---- Conversions ---------------------------------------------------------------------------- */

CPU_INLINE uint32_t f32_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

CPU_INLINE float f32_from_bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, 4);
    return f;
}

CPU_INLINE float f32_from_bf16(uint16_t h)
{
    return f32_from_bits((uint32_t)h << 16);
}

/* Nearest even; a NaN stays one. */
CPU_INLINE uint16_t bf16_from_f32(float f)
{
    uint32_t u = f32_bits(f);
    uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    uint32_t nan = (u >> 16) | 0x40u;
    return (uint16_t)((u & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
}

CPU_INLINE float f32_from_f16(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t rest = h & 0x7fffu;
    if (rest >= 0x7c00u) /* infinity, NaN */
        return f32_from_bits(sign | 0x7f800000u | ((rest & 0x3ffu) << 13));
    if (rest >= 0x400u)
        return f32_from_bits(sign | ((rest << 13) + (112u << 23)));
    float tiny = (float)rest * 0x1p-24f; /* subnormal or zero: exact */
    return f32_from_bits(sign | f32_bits(tiny));
}

/* e4m3: sign, 4 bits of exponent (bias 7), 3 of mantissa; no infinity, all ones is NaN. Exact. */
CPU_INLINE float f32_from_f8(uint8_t h)
{
    uint32_t sign = (uint32_t)(h & 0x80u) << 24, rest = h & 0x7fu;
    if (rest == 0x7fu)
        return f32_from_bits(sign | 0x7fc00000u);
    if (rest >= 8)
        return f32_from_bits(sign | ((rest << 20) + (120u << 23)));
    float tiny = (float)rest * 0x1p-9f; /* subnormal or zero */
    return f32_from_bits(sign | f32_bits(tiny));
}

/* Nearest even; what is beyond 448, the greatest value, becomes it. */
CPU_INLINE uint8_t f8_from_f32(float f)
{
    uint32_t u = f32_bits(f);
    uint32_t sign = (u >> 24) & 0x80u;
    u &= 0x7fffffffu;
    if (u > 0x7f800000u)
        return (uint8_t)(sign | 0x7fu);
    if (u >= 0x43e00000u) /* 448 */
        return (uint8_t)(sign | 0x7eu);
    if (u >= 0x3c800000u) /* 2^-6: normal */
        return (uint8_t)(sign | ((u - (120u << 23) + 0x7ffffu + ((u >> 20) & 1u)) >> 20));
    /* Subnormal: adding 2^14 leaves the value, rounded to units of 2^-9, in the low bits. */
    return (uint8_t)(sign | (f32_bits(f32_from_bits(u) + 0x1p14f) - f32_bits(0x1p14f)));
}

/* Nearest even; overflow gives infinity. */
CPU_INLINE uint16_t f16_from_f32(float f)
{
    uint32_t u = f32_bits(f);
    uint32_t sign = (u >> 16) & 0x8000u;
    u &= 0x7fffffffu;
    if (u > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u);
    if (u >= 0x477ff000u) /* 65520 and above */
        return (uint16_t)(sign | 0x7c00u);
    if (u >= 0x38800000u) /* normal */
        return (uint16_t)(sign | ((u - (112u << 23) + 0xfffu + ((u >> 13) & 1u)) >> 13));
    /* Subnormal: adding 0.5 leaves the value, rounded to units of 2^-24, in the low bits. */
    return (uint16_t)(sign | (f32_bits(f32_from_bits(u) + 0.5f) - 0x3f000000u));
}

CPU_INLINE float f32_load(const void *src, enum ops_dtype dtype, uint64_t i)
{
    uint16_t h;
    float f;
    if (dtype == OPS_F32) {
        memcpy(&f, (const char *)src + i * 4u, 4);
        return f;
    }
    memcpy(&h, (const char *)src + i * 2u, 2);
    return dtype == OPS_BF16 ? f32_from_bf16(h) : f32_from_f16(h);
}

#endif
