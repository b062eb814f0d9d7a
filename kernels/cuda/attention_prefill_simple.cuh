/* attention_prefill: the simple kernel, mma.sync and cp.async, for every shape and device. */
#ifndef KERNELS_CUDA_ATTENTION_PREFILL_SIMPLE_CUH
#define KERNELS_CUDA_ATTENTION_PREFILL_SIMPLE_CUH

#include "kernels/cuda/attention_prefill_softmax.cuh"
#include "kernels/cuda/f8.cuh"

namespace attention_prefill
{

/* Shared memory: Q, K, V, each [64][DIM + 8]; 16 bytes of padding a row keep ldmatrix free of bank
 * conflicts. DIM is head_dim rounded up to 64, 128 or 256, the rest filled with zeros. With an fp8
 * pool K and V come to two more places, [64][DIM] bytes, and go from there to theirs as bf16. */

constexpr int SIMPLE_ROWS = 64, SIMPLE_KEYS = 64, SIMPLE_THREADS = 128;

template <int DIM, bool IS_F8> constexpr int simple_shared_bytes()
{
    return 3 * 64 * (DIM + 8) * 2 + (IS_F8 ? 2 * SIMPLE_KEYS * DIM : 0);
}

/* 16 bytes, or zeros. */
__device__ __forceinline__ void copy_async(uint32_t dst, const void *src, bool is_there)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(dst), "l"(src),
                 "r"(is_there ? 16 : 0)
                 : "memory");
}

__device__ __forceinline__ void copy_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int N> __device__ __forceinline__ void copy_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

__device__ __forceinline__ void mma_16x8x16(float *d, const uint32_t (&a)[4], uint32_t b0,
                                            uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* Starts the copy of keys or values [first, first + 64) of one sequence; positions outside
 * [begin, end) become zeros and their block is not looked up. fp8: dst [64][DIM] bytes. */
template <int DIM, bool IS_F8>
__device__ __forceinline__ void simple_load(const prefill_params &p, uint32_t dst,
                                            const uint32_t *table, uint64_t plane_offset,
                                            uint32_t first, uint32_t begin, uint32_t end)
{
    constexpr int PER_CHUNK = IS_F8 ? 16 : 8, BYTES = IS_F8 ? 1 : 2, CHUNKS = DIM / PER_CHUNK;
    constexpr int PITCH = IS_F8 ? DIM : DIM + 8;
#pragma unroll 4
    for (int i = threadIdx.x; i < SIMPLE_KEYS * CHUNKS; i += SIMPLE_THREADS) {
        uint32_t token = i / CHUNKS, chunk = i % CHUNKS, pos = first + token;
        bool is_there = pos >= begin && pos < end && chunk * PER_CHUNK < p.head_dim;
        const uint8_t *src = p.pool;
        if (is_there)
            src += table[pos / p.block_tokens] * p.block_bytes + plane_offset +
                   ((pos % p.block_tokens) * p.head_dim + chunk * PER_CHUNK) * BYTES;
        copy_async(dst + (token * PITCH + chunk * PER_CHUNK) * BYTES, src, is_there);
    }
    copy_commit();
}

/* What simple_load has brought of an fp8 pool, as bf16. Barriers around it are the caller's. */
template <int DIM> __device__ __forceinline__ void simple_convert(uint32_t dst, uint32_t raw)
{
#pragma unroll 2
    for (int i = threadIdx.x; i < SIMPLE_KEYS * DIM / 8; i += SIMPLE_THREADS) {
        uint32_t token = i / (DIM / 8), chunk = i % (DIM / 8), low, high;
        asm volatile("ld.shared.v2.b32 {%0, %1}, [%2];"
                     : "=r"(low), "=r"(high)
                     : "r"(raw + i * 8)
                     : "memory");
        asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(
                         dst + (token * (DIM + 8) + chunk * 8) * 2),
                     "r"(f8_to_bf16<false>(low)), "r"(f8_to_bf16<true>(low)),
                     "r"(f8_to_bf16<false>(high)), "r"(f8_to_bf16<true>(high))
                     : "memory");
    }
}

template <int DIM, bool IS_F8>
__global__ void __launch_bounds__(SIMPLE_THREADS)
    prefill_simple(const __grid_constant__ prefill_params p)
{
    constexpr int STRIDE = DIM + 8, TILE_BYTES = 64 * STRIDE * 2;
    extern __shared__ __align__(1024) uint8_t shared[];
    const uint32_t seq = blockIdx.z, kv_head = blockIdx.y;
    const uint32_t row_first = p.row_first[seq], rows = p.row_first[seq + 1] - row_first;
    const uint32_t n_tiles = (rows + p.tile_tokens - 1) / p.tile_tokens;
    if (blockIdx.x >= n_tiles)
        return;
    const uint32_t tile = n_tiles - 1 - blockIdx.x; /* the longest first */
    const uint32_t token_first = tile * p.tile_tokens;
    const uint32_t n_tokens = min(p.tile_tokens, rows - token_first);
    const uint32_t pos_first = p.kv_tokens[seq] - rows + token_first;
    const uint32_t kv_end = pos_first + n_tokens;
    const uint32_t kv_seen =
        p.window != 0 && pos_first + 1 > p.window ? pos_first + 1 - p.window : 0;
    const uint32_t kv_begin = kv_seen / SIMPLE_KEYS * SIMPLE_KEYS;
    const uint32_t *table = p.block_table + (uint64_t)seq * p.table_stride;
    const uint64_t plane_bytes = (uint64_t)p.block_tokens * p.head_dim * (IS_F8 ? 1 : 2);
    const uint64_t k_plane = ((uint64_t)p.layer * p.n_kv_heads + kv_head) * 2 * plane_bytes;
    const uint32_t q_s = smem_address(shared), k_s = q_s + TILE_BYTES, v_s = k_s + TILE_BYTES;
    const uint32_t k_raw = IS_F8 ? v_s + TILE_BYTES : k_s;
    const uint32_t v_raw = IS_F8 ? k_raw + SIMPLE_KEYS * DIM : v_s;
    const float scale_log2 = p.scale_log2 * kv_scale<IS_F8>(p, kv_head, 0);
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;

    for (int i = threadIdx.x; i < SIMPLE_ROWS * (DIM / 8); i += SIMPLE_THREADS) {
        uint32_t row = i / (DIM / 8), chunk = i % (DIM / 8), token = row / p.group;
        bool is_there = token < n_tokens && chunk * 8 < p.head_dim;
        const __nv_bfloat16 *src = p.q;
        if (is_there)
            src += (row_first + token_first + token) * p.q_stride +
                   (kv_head * p.group + row % p.group) * p.head_dim + chunk * 8;
        copy_async(q_s + (row * STRIDE + chunk * 8) * 2, src, is_there);
    }
    simple_load<DIM, IS_F8>(p, k_raw, table, k_plane, kv_begin, kv_seen, kv_end);

    uint32_t pos[2]; /* padding rows take the last token: any row with a key to see will do */
    for (int row = 0; row < 2; row++)
        pos[row] = pos_first + min((warp * 16 + lane / 4 + row * 8) / p.group, n_tokens - 1);
    softmax_rows softmax;
    softmax.init();
    float o[DIM / 2] = {};
    const uint32_t q_lane = q_s + ((warp * 16 + lane % 16) * STRIDE + lane / 16 * 8) * 2;
    const uint32_t k_lane = k_s + ((lane % 8 + lane / 16 * 8) * STRIDE + (lane / 8 % 2) * 8) * 2;
    const uint32_t v_lane = v_s + ((lane % 16) * STRIDE + lane / 16 * 8) * 2;

    for (uint32_t key = kv_begin; key < kv_end; key += SIMPLE_KEYS) {
        simple_load<DIM, IS_F8>(p, v_raw, table, k_plane + plane_bytes, key, kv_seen, kv_end);
        copy_wait<1>();
        __syncthreads(); /* Q and K are there */
        if (IS_F8) {
            simple_convert<DIM>(k_s, k_raw);
            __syncthreads();
        }
        float s[SIMPLE_KEYS / 2] = {};
#pragma unroll
        for (int k = 0; k < DIM / 16; k++) {
            uint32_t a[4], b[4];
            load_matrices(a, q_lane + k * 32);
#pragma unroll
            for (int n = 0; n < SIMPLE_KEYS / 16; n++) {
                load_matrices(b, k_lane + (n * 16 * STRIDE + k * 16) * 2);
                mma_16x8x16(s + n * 8, a, b[0], b[1]);
                mma_16x8x16(s + n * 8 + 4, a, b[2], b[3]);
            }
        }
        __syncthreads(); /* K is read */
        if (key + SIMPLE_KEYS < kv_end)
            simple_load<DIM, IS_F8>(p, k_raw, table, k_plane, key + SIMPLE_KEYS, kv_seen, kv_end);
        else
            copy_commit(); /* the count of groups stays the same */
        mask_scores(s, key + lane % 4 * 2, pos, p.window);
        float alpha[2];
        softmax.step(s, scale_log2, alpha);
#pragma unroll
        for (int i = 0; i < DIM / 2; i++)
            o[i] *= alpha[i / 2 % 2];
        copy_wait<1>();
        __syncthreads(); /* V is there */
        if (IS_F8) {
            simple_convert<DIM>(v_s, v_raw);
            __syncthreads();
        }
#pragma unroll
        for (int k = 0; k < SIMPLE_KEYS / 16; k++) {
            const float *x = s + k * 8;
            uint32_t b[4], a[4] = {pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]),
                                   pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7])};
#pragma unroll
            for (int n = 0; n < DIM / 16; n++) {
                load_matrices_trans(b, v_lane + (k * 16 * STRIDE + n * 16) * 2);
                mma_16x8x16(o + n * 8, a, b[0], b[1]);
                mma_16x8x16(o + n * 8 + 4, a, b[2], b[3]);
            }
        }
        __syncthreads(); /* V is read */
    }

    float inverse[2];
    softmax.inverses<IS_F8>(p, kv_head, warp * 16 + lane / 4, inverse);
#pragma unroll
    for (int row = 0; row < 2; row++) {
        uint32_t at = warp * 16 + lane / 4 + row * 8, token = at / p.group;
        uint32_t head = kv_head * p.group + at % p.group;
        if (token >= n_tokens)
            continue;
        __nv_bfloat16 *dst = p.out + (row_first + token_first + token) * p.out_stride +
                             head * p.head_dim + lane % 4 * 2;
#pragma unroll
        for (int n = 0; n < DIM / 8; n++)
            if (n * 8u < p.head_dim)
                *(uint32_t *)(dst + n * 8) = pack_bf16(o[n * 4 + row * 2] * inverse[row],
                                                       o[n * 4 + row * 2 + 1] * inverse[row]);
    }
}

} // namespace attention_prefill

#endif
