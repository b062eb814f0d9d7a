/* The portable variant: plain C with 4-lane vectors, which every 64-bit target has. The fallback,
 * and the one whose arithmetic is easiest to read. Products are not fused. */
#include <math.h>

#include "kernels/cpu/cpu_int.h"

#define VEC_LANES  4
#define ATTN_SLOTS 2

#include "kernels/cpu/vec.inc"

CPU_INLINE vf vec_fma(vf a, vf b, vf c)
{
    return a * b + c;
}

CPU_INLINE float vec_sum(vf v)
{
    return (v[0] + v[2]) + (v[1] + v[3]);
}

CPU_INLINE float vec_max_lane(vf v)
{
    float a = v[0] > v[2] ? v[0] : v[2], b = v[1] > v[3] ? v[1] : v[3];
    return a > b ? a : b;
}

CPU_INLINE void vec_transpose(vi rows[VEC_LANES])
{
    int32_t m[VEC_LANES][VEC_LANES];
    memcpy(m, rows, sizeof(m));
    for (uint32_t i = 0; i < VEC_LANES; i++)
        rows[i] = (vi){m[0][i], m[1][i], m[2][i], m[3][i]};
}

CPU_INLINE vi vec_load_u8(const char *src)
{
    const uint8_t *b = (const uint8_t *)src;
    return (vi){b[0], b[1], b[2], b[3]};
}

#include "kernels/cpu/attention.inc"
#include "kernels/cpu/elementwise.inc"

#define GEMM_MR 4u

#include "kernels/cpu/gemm_pack_f32.inc"

/* Adds the products of k into acc, in order of k. */
static void tile_row(const struct gemm_tile *tile, uint32_t r, float acc[OPS_PANEL_COLS])
{
    const float *x = (const float *)tile->x + r;
    const float *w32 = (const float *)tile->w;
    const uint16_t *w16 = (const uint16_t *)tile->w;
    for (uint32_t k = 0; k < tile->k; k++) {
        float xv = x[(size_t)k * tile->mr];
        if (tile->w_dtype == OPS_F32) {
            const float *w = w32 + (size_t)k * OPS_PANEL_COLS;
            for (uint32_t c = 0; c < OPS_PANEL_COLS; c++)
                acc[c] += xv * w[c];
        } else {
            const uint16_t *w = w16 + (size_t)(k / 2) * OPS_PANEL_COLS * 2 + k % 2;
            for (uint32_t c = 0; c < OPS_PANEL_COLS; c++)
                acc[c] += xv * f32_from_bf16(w[2 * c]);
        }
    }
}

static void variant_gemm_tile(const struct gemm_tile *tile)
{
    for (uint32_t r = 0; r < tile->mr; r++) {
        float acc[OPS_PANEL_COLS] = {0};
        tile_row(tile, r, acc);
        float *y = tile->y + r * tile->y_stride;
        for (uint32_t c = 0; c < tile->n_cols; c++)
            y[c] = tile->bias != NULL ? acc[c] + tile->bias[c] : acc[c];
    }
}

const struct cpu_kernels cpu_kernels_scalar = {
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
