/* gemm: packing of weights, and the walk over panels and row blocks. The arithmetic is in the tile
 * kernels of variant_<isa>.c: each output element is one accumulator over k in order, for any
 * number of rows; so a row's result does not depend on how many rows there are. */
#include "kernels/cpu/cpu_int.h"

#define PANEL OPS_PANEL_COLS

/* 32-bit items per column: pairs of bf16 or single f32. */
static uint64_t panel_items(enum ops_dtype dtype, uint64_t k)
{
    return dtype == OPS_BF16 ? k / 2 + k % 2 : k;
}

size_t ops_gemm_packed_bytes(enum ops_dtype dtype, uint64_t n, uint64_t k)
{
    if ((dtype != OPS_F32 && dtype != OPS_BF16 && dtype != OPS_F8) || n == 0 || k == 0 ||
        n > UINT32_MAX || k > UINT32_MAX)
        return 0;
    uint64_t n_panels = (n + PANEL - 1) / PANEL;
    uint64_t bytes;
    if (dtype == OPS_F8) { /* row-major: no CPU reads it; below 2^64, as n and k are below 2^32 */
        bytes = n * k;
        return bytes > SIZE_MAX / 2 ? 0 : (size_t)((bytes + 63) / 64 * 64);
    }
    if (__builtin_mul_overflow(n_panels * panel_items(dtype, k), PANEL * 4u, &bytes) ||
        bytes > SIZE_MAX / 2)
        return 0;
    return (size_t)bytes;
}

size_t cpu_gemm_x_bytes(enum ops_dtype w_dtype, uint32_t n_rows, uint32_t k)
{
    uint64_t padded = w_dtype == OPS_BF16 ? (uint64_t)k + k % 2 : k;
    return (size_t)(padded * n_rows * sizeof(float));
}

/* Bytes between packed row blocks: as cpu_gemm_x_bytes of one full block. */
static size_t block_bytes(const struct cpu_kernels *kernels, const struct gemm_args *args)
{
    return cpu_gemm_x_bytes(args->w_dtype, kernels->gemm_mr, args->k);
}

void cpu_gemm_pack_x(const struct gemm_args *args, void *x_packed, const struct cpu_share *share)
{
    const struct cpu_kernels *kernels = cpu_kernels_get(share->isa);
    uint32_t mr = kernels->gemm_mr;
    uint64_t first, end;
    cpu_share_range(share, ((uint64_t)args->n_rows + mr - 1) / mr, &first, &end);
    for (uint64_t b = first; b < end; b++) {
        uint32_t row = (uint32_t)b * mr;
        uint32_t n = args->n_rows - row < mr ? args->n_rows - row : mr;
        kernels->gemm_pack_x(args, row, n, (char *)x_packed + b * block_bytes(kernels, args));
    }
}

void cpu_gemm(const struct gemm_args *args, const void *x_packed, const struct cpu_share *share)
{
    const struct cpu_kernels *kernels = cpu_kernels_get(share->isa);
    uint32_t mr = kernels->gemm_mr;
    size_t panel_bytes = (size_t)panel_items(args->w_dtype, args->k) * PANEL * 4u;
    uint64_t first, end;
    cpu_share_range(share, ((uint64_t)args->n + PANEL - 1) / PANEL, &first, &end);
    for (uint64_t p = first; p < end; p++) {
        uint32_t col = (uint32_t)p * PANEL;
        struct gemm_tile tile = {
            .w = (const char *)args->w + p * panel_bytes,
            .w_dtype = args->w_dtype,
            .k = args->k,
            .n_cols = args->n - col < PANEL ? args->n - col : PANEL,
            .bias = args->bias != NULL ? args->bias + col : NULL,
            .y_stride = args->y_stride,
        };
        for (uint32_t row = 0; row < args->n_rows; row += mr) {
            tile.mr = args->n_rows - row < mr ? args->n_rows - row : mr;
            tile.x = (const char *)x_packed + row / mr * block_bytes(kernels, args);
            tile.y = (float *)args->y + row * args->y_stride + col;
            kernels->gemm_tile(&tile);
        }
    }
}

/* Write n_k values of one row of W as one column of its panel. */
static void pack_column_bf16(const void *row, enum ops_dtype dtype, uint32_t n_k, uint32_t *dst)
{
    for (uint32_t k = 0; k < n_k; k += 2, dst += PANEL) {
        uint16_t pair[2] = {0, 0};
        for (uint32_t i = 0; i < 2 && k + i < n_k; i++) {
            if (dtype == OPS_BF16)
                memcpy(&pair[i], (const char *)row + (size_t)(k + i) * 2, 2);
            else
                pair[i] = bf16_from_f32(f32_load(row, dtype, k + i));
        }
        memcpy(dst, pair, 4);
    }
}

static void pack_column_f32(const void *row, enum ops_dtype dtype, uint32_t n_k, uint32_t *dst)
{
    for (uint32_t k = 0; k < n_k; k++, dst += PANEL)
        *dst = f32_bits(f32_load(row, dtype, k));
}

/* Scale of row n, columns [k, k + OPS_SCALE_BLOCK_SIZE), k a multiple of that. */
static float f8_scale(const struct gemm_pack_args *args, uint64_t n, uint64_t k)
{
    uint64_t per_row = ((uint64_t)args->k + OPS_SCALE_BLOCK_SIZE - 1) / OPS_SCALE_BLOCK_SIZE;
    if (args->src_scaling == OPS_SCALE_ROW)
        return args->src_scale[n];
    if (args->src_scaling == OPS_SCALE_BLOCK)
        return args->src_scale[n / OPS_SCALE_BLOCK_SIZE * per_row + k / OPS_SCALE_BLOCK_SIZE];
    return 1.0f;
}

/* The same with a row of fp8; n is its place in the packed matrix. */
static void pack_column_f8(const struct gemm_pack_args *args, const uint8_t *row, uint64_t n,
                           uint32_t *dst)
{
    float values[OPS_SCALE_BLOCK_SIZE];
    for (uint64_t k = 0; k < args->k; k += OPS_SCALE_BLOCK_SIZE) {
        uint64_t left = args->k - k;
        uint32_t n_k = left < OPS_SCALE_BLOCK_SIZE ? (uint32_t)left : OPS_SCALE_BLOCK_SIZE;
        float scale = f8_scale(args, n, k);
        for (uint32_t i = 0; i < n_k; i++)
            values[i] = f32_from_f8(row[k + i]) * scale;
        if (args->dst_dtype == OPS_BF16)
            pack_column_bf16(values, OPS_F32, n_k, dst + k / 2 * PANEL);
        else
            pack_column_f32(values, OPS_F32, n_k, dst + k * PANEL);
    }
}

void cpu_gemm_pack(const struct gemm_pack_args *args, const struct cpu_share *share)
{
    uint64_t items = panel_items(args->dst_dtype, args->k);
    uint64_t first, end;
    cpu_share_range(share, args->n_rows, &first, &end);
    for (uint64_t r = first; r < end; r++) {
        uint64_t n = args->n_first + r;
        const char *row =
            (const char *)args->src + r * args->src_stride * ops_dtype_bytes(args->src_dtype);
        uint32_t *dst = (uint32_t *)args->dst + n / PANEL * items * PANEL + n % PANEL;
        if (args->src_dtype == OPS_F8)
            pack_column_f8(args, (const uint8_t *)row, n, dst);
        else if (args->dst_dtype == OPS_BF16)
            pack_column_bf16(row, args->src_dtype, args->k, dst);
        else
            pack_column_f32(row, args->src_dtype, args->k, dst);
    }
    if (share->index != share->count - 1 || args->n_rows == 0 ||
        (uint64_t)args->n_first + args->n_rows != args->n || args->n % PANEL == 0)
        return;
    uint32_t *last = (uint32_t *)args->dst + args->n / PANEL * items * PANEL;
    for (uint64_t i = 0; i < items; i++)
        memset(last + i * PANEL + args->n % PANEL, 0, (PANEL - args->n % PANEL) * 4u);
}
