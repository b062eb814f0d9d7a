/* Choice of the instruction set, and the ops that are one call into its table; plus embedding and
 * random_fill, which gain nothing from an ISA of their own. */
#include "kernels/cpu/cpu_int.h"

enum cpu_isa cpu_isa_best(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
        return CPU_ISA_SCALAR;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512bf16"))
        return CPU_ISA_AVX512;
    return CPU_ISA_AVX2;
#else
    return CPU_ISA_SCALAR;
#endif
}

const char *cpu_isa_name(enum cpu_isa isa)
{
    switch (isa) {
    case CPU_ISA_AUTO:
        return "auto";
    case CPU_ISA_SCALAR:
        return "scalar";
    case CPU_ISA_AVX2:
        return "avx2";
    case CPU_ISA_AVX512:
        return "avx512";
    default:
        return "unknown";
    }
}

const struct cpu_kernels *cpu_kernels_get(enum cpu_isa isa)
{
#if defined(__x86_64__)
    if (isa == CPU_ISA_AVX512)
        return &cpu_kernels_avx512;
    if (isa == CPU_ISA_AVX2)
        return &cpu_kernels_avx2;
#else
    (void)isa;
#endif
    return &cpu_kernels_scalar;
}

void cpu_exp_f32(const float *src, float *dst, size_t n, enum cpu_isa isa)
{
    cpu_kernels_get(isa)->exp(src, dst, n);
}

void cpu_rmsnorm(const struct rmsnorm_args *args, const struct cpu_share *share)
{
    cpu_kernels_get(share->isa)->rmsnorm(args, share);
}

void cpu_rope(const struct rope_args *args, const struct cpu_share *share)
{
    cpu_kernels_get(share->isa)->rope(args, share);
}

void cpu_silu_mul(const struct silu_mul_args *args, const struct cpu_share *share)
{
    cpu_kernels_get(share->isa)->silu_mul(args, share);
}

void cpu_kv_write(const struct kv_write_args *args, const struct cpu_share *share)
{
    cpu_kernels_get(share->isa)->kv_write(args, share);
}

void cpu_attention(const struct attention_args *args, const struct cpu_share *share)
{
    cpu_kernels_get(share->isa)->attention(args, share);
}

size_t cpu_attention_scratch_bytes(void)
{
    return sizeof(struct attn_scratch);
}

static float packed_load(const struct embedding_args *args, uint32_t id, uint32_t k)
{
    uint64_t panel = id / OPS_PANEL_COLS, col = id % OPS_PANEL_COLS;
    if (args->dtype == OPS_F32)
        return f32_load(args->table, OPS_F32, (panel * args->n_cols + k) * OPS_PANEL_COLS + col);
    uint64_t n_pairs = ((uint64_t)args->n_cols + 1) / 2;
    uint64_t pair = (panel * n_pairs + k / 2) * OPS_PANEL_COLS + col;
    return f32_load(args->table, OPS_BF16, pair * 2 + k % 2);
}

void cpu_embedding(const struct embedding_args *args, const struct cpu_share *share)
{
    uint64_t first, end;
    uint32_t n = args->n_cols;
    cpu_share_range(share, args->n_rows, &first, &end);
    for (uint64_t row = first; row < end; row++) {
        uint32_t id = args->ids[row];
        float *y = (float *)args->y + row * args->y_stride;
        if (id >= args->n_vocab)
            memset(y, 0, n * sizeof(float));
        else if (args->is_packed)
            for (uint32_t k = 0; k < n; k++)
                y[k] = packed_load(args, id, k);
        else
            for (uint32_t k = 0; k < n; k++)
                y[k] = f32_load(args->table, args->dtype, (uint64_t)id * n + k);
    }
}

/* SplitMix64 (Steele, Lea, Flood 2014) at a counter instead of a running state. */
static uint64_t counter_hash(uint64_t seed, uint64_t i)
{
    uint64_t z = seed + (i + 1) * 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

CPU_INLINE float random_value(const struct random_fill_args *args, uint64_t i)
{
    int32_t top = (int32_t)(counter_hash(args->seed, args->first + i) >> 40); /* 24 bits */
    return (float)(top - 0x800000) * 0x1p-23f * args->scale;
}

void cpu_random_fill(const struct random_fill_args *args, const struct cpu_share *share)
{
    uint64_t first, end;
    cpu_share_range(share, args->n, &first, &end);
    float *f32 = (float *)args->dst;
    uint16_t *half = (uint16_t *)args->dst;
    uint8_t *f8 = (uint8_t *)args->dst;
    if (args->dtype == OPS_F32)
        for (uint64_t i = first; i < end; i++)
            f32[i] = random_value(args, i);
    else if (args->dtype == OPS_BF16)
        for (uint64_t i = first; i < end; i++)
            half[i] = bf16_from_f32(random_value(args, i));
    else if (args->dtype == OPS_F8)
        for (uint64_t i = first; i < end; i++)
            f8[i] = f8_from_f32(random_value(args, i));
    else
        for (uint64_t i = first; i < end; i++)
            half[i] = f16_from_f32(random_value(args, i));
}
