/* attention_prefill: the fast kernel, for sm_90a. */
#ifndef KERNELS_CUDA_ATTENTION_PREFILL_FAST_CUH
#define KERNELS_CUDA_ATTENTION_PREFILL_FAST_CUH

#include "kernels/cuda/attention_prefill_ptx.cuh"
#include "kernels/cuda/attention_prefill_softmax.cuh"
#include "kernels/cuda/f8.cuh"

#include <cuda.h>

namespace attention_prefill
{

/* Shared memory, every plane a multiple of 1 KiB: Q[2] of 64 rows a consumer, K[2] and V[2] of 128
 * rows; with an fp8 pool also K and V of 128 rows as they are there, [row][DIM]. A tile of head_dim
 * 128 is two halves of 64 columns, [half][row][64 columns], 128 bytes a row, swizzled by TMA (bits
 * 4-6 of the address are combined with bits 7-9). */

constexpr int TILE_KEYS = 128, WARPGROUP = 128;

/* Sizes that follow from head_dim and the number of consumer warpgroups. */
template <int DIM, bool IS_F8> struct fast_sizes {
    static constexpr int CONSUMERS = DIM == 64 && !IS_F8 ? 3 : 2;
    static constexpr int PRODUCERS = IS_F8 ? 2 : 1; /* the second one converts */
    static constexpr int GROUPS = PRODUCERS + CONSUMERS;
    static constexpr int ROWS = 64 * CONSUMERS, THREADS = WARPGROUP * GROUPS;
    static constexpr int PRODUCER_REGS = CONSUMERS == 2 ? 40 : 32;
    static constexpr int CONSUMER_REGS = IS_F8 ? 216 : CONSUMERS == 2 ? 232 : 160;
    static constexpr int HALVES = DIM / 64;
    static constexpr int Q_HALF = ROWS * 128, KV_HALF = TILE_KEYS * 128; /* bytes */
    static constexpr int Q_BYTES = HALVES * Q_HALF, KV_BYTES = HALVES * KV_HALF;
    static constexpr int RAW_BYTES = IS_F8 ? TILE_KEYS * DIM : 0;
    static constexpr int SHARED =
        2 * Q_BYTES + 4 * KV_BYTES + 2 * RAW_BYTES + 1024; /* what alignment may cost */
    /* The registers that a block starts with must do, or setmaxnreg waits for ever. */
    static_assert(PRODUCERS * PRODUCER_REGS + CONSUMERS * CONSUMER_REGS <=
                  65536 / THREADS / 8 * 8 * GROUPS);
};

/* One unit of work: tokens [row, row + n_tokens) of the batch, for one KV head. */
struct fast_tile {
    uint32_t row, n_tokens, pos_first;
    uint32_t seq, kv_head, kv_tokens;
    uint32_t kv_begin; /* position of the first key of piece 0 */
    uint32_t n_pieces; /* of TILE_KEYS keys; 0: no more tiles */
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

struct fast_barriers {
    uint64_t q_full[2], q_empty[2], k_full[2], k_empty[2], v_full[2], v_empty[2], tail;
    uint64_t plan_full[2], plan_empty[2];
    fast_tile tile[2]; /* goes with Q */
    fast_tile plan[2]; /* from the planner to the producer */
    /* From the producer to the converter: K, V; keys of the piece, 0: no more. */
    uint64_t raw_full[2], raw_empty[2];
    uint32_t raw_keys[2];
};

/* Tiles of sequence `seq` whose last row sees more than (level - 1) * TILE_KEYS keys. They are the
 * last ones of the sequence. */
__device__ __forceinline__ uint32_t tiles_of_level(const prefill_params &p, uint32_t seq,
                                                   uint32_t level)
{
    uint32_t rows = __ldg(p.row_first + seq + 1) - __ldg(p.row_first + seq);
    uint32_t kv = __ldg(p.kv_tokens + seq), keys = (level - 1) * TILE_KEYS;
    if (rows == 0 || kv <= keys)
        return 0;
    uint32_t n_tiles = (rows + p.tile_tokens - 1) / p.tile_tokens, before = kv - rows;
    uint32_t first = keys > before ? (keys - before) / p.tile_tokens : 0;
    return n_tiles - min(first, n_tiles - 1);
}

__device__ __forceinline__ uint32_t tiles_of_level(const prefill_params &p, uint32_t level)
{
    uint32_t sum = 0;
    for (uint32_t seq = threadIdx.x % 32; seq < p.n_seqs; seq += 32)
        sum += tiles_of_level(p, seq, level);
    return __reduce_add_sync(~0u, sum);
}

/* The tile of rank `rank` when all are ordered by level, the highest first, and by KV head,
 * sequence and token within a level. By a whole warp. level: at least the wanted one; becomes the
 * wanted one. */
__device__ fast_tile find_tile(const prefill_params &p, uint32_t rank, uint32_t &level)
{
    fast_tile tile = {};
    uint32_t lo = 0, hi = level; /* the wanted level is in (lo, hi] or there is none */
    uint32_t n_at = 0, n_above = 0;
    while (lo < hi) { /* largest level with more than `rank` tiles at it or above */
        uint32_t mid = (lo + hi + 1) / 2;
        uint32_t n = tiles_of_level(p, mid);
        if (n * p.n_kv_heads > rank) {
            lo = mid;
            n_at = n;
        } else {
            hi = mid - 1;
            n_above = n;
        }
    }
    if (lo == 0)
        return tile;
    if (lo == level)
        n_above = tiles_of_level(p, lo + 1);
    level = lo;
    uint32_t n_level = n_at - n_above, at = rank - n_above * p.n_kv_heads;
    tile.kv_head = at / n_level;
    at %= n_level;

    const uint32_t lane = threadIdx.x % 32;
    for (uint32_t seq_first = 0;; seq_first += 32) {
        uint32_t seq = seq_first + lane, n_last = 0, n = 0;
        if (seq < p.n_seqs) {
            n_last = tiles_of_level(p, seq, level);
            n = n_last - tiles_of_level(p, seq, level + 1);
        }
        uint32_t upto = n;
#pragma unroll
        for (int step = 1; step < 32; step *= 2) {
            uint32_t below = __shfl_up_sync(~0u, upto, step);
            upto += lane >= (uint32_t)step ? below : 0;
        }
        uint32_t found = __ballot_sync(~0u, upto > at);
        if (found == 0) {
            at -= __shfl_sync(~0u, upto, 31);
            continue;
        }
        int owner = __ffs(found) - 1;
        seq = seq_first + owner;
        at -= __shfl_sync(~0u, upto - n, owner);
        n_last = __shfl_sync(~0u, n_last, owner);
        uint32_t row_first = __ldg(p.row_first + seq);
        uint32_t rows = __ldg(p.row_first + seq + 1) - row_first, kv = __ldg(p.kv_tokens + seq);
        uint32_t n_tiles = (rows + p.tile_tokens - 1) / p.tile_tokens;
        uint32_t token = (n_tiles - n_last + at) * p.tile_tokens;
        tile.seq = seq;
        tile.kv_tokens = kv;
        tile.row = row_first + token;
        tile.n_tokens = min(p.tile_tokens, rows - token);
        tile.pos_first = kv - rows + token;
        uint32_t seen = tile.pos_first + 1;
        tile.kv_begin = p.window != 0 && seen > p.window
                            ? (seen - p.window) / p.block_tokens * p.block_tokens
                            : 0;
        tile.n_pieces =
            (tile.pos_first + tile.n_tokens - tile.kv_begin + TILE_KEYS - 1) / TILE_KEYS;
        return tile;
    }
}

template <int DIM, bool IS_F8> struct fast_shared : fast_sizes<DIM, IS_F8> {
    fast_barriers *bars;
    uint32_t base; /* of Q, K, V, 1 KiB aligned */

    __device__ __forceinline__ uint32_t q(uint32_t slot) const
    {
        return base + slot * this->Q_BYTES;
    }
    __device__ __forceinline__ uint32_t k(uint32_t stage) const
    {
        return base + 2 * this->Q_BYTES + stage * this->KV_BYTES;
    }
    __device__ __forceinline__ uint32_t v(uint32_t stage) const
    {
        return base + 2 * this->Q_BYTES + (2 + stage) * this->KV_BYTES;
    }
    __device__ __forceinline__ uint32_t raw(uint32_t is_v) const
    {
        return base + 2 * this->Q_BYTES + 4 * this->KV_BYTES + is_v * this->RAW_BYTES;
    }
};

/* Loads `n_blocks` blocks of K or V to `dst`; row: of the first token of each in the map. */
template <int DIM, bool IS_F8>
__device__ __forceinline__ void load_piece(const CUtensorMap *map, uint32_t dst, uint64_t *bar,
                                           const uint32_t (&row)[2], uint32_t n_blocks,
                                           uint32_t block_tokens)
{
    barrier_expect(bar, n_blocks * block_tokens * DIM * 2);
    for (uint32_t i = 0; i < n_blocks; i++)
#pragma unroll
        for (int half = 0; half < DIM / 64; half++)
            tma_load_2d(dst + half * fast_sizes<DIM, IS_F8>::KV_HALF + i * block_tokens * 128, map,
                        half * 64, row[i], bar);
}

/* The same from an fp8 pool, as it is there. By one thread. */
template <int DIM, bool IS_F8>
__device__ __forceinline__ void load_raw(const CUtensorMap *map, const fast_shared<DIM, IS_F8> &sh,
                                         uint32_t is_v, uint32_t n_keys, const uint32_t (&row)[2],
                                         uint32_t n_blocks, uint32_t block_tokens)
{
    sh.bars->raw_keys[is_v] = n_keys;
    barrier_expect(sh.bars->raw_full + is_v, n_blocks * block_tokens * DIM);
    for (uint32_t i = 0; i < n_blocks; i++)
        tma_load_2d(sh.raw(is_v) + i * block_tokens * DIM, map, 0, row[i],
                    sh.bars->raw_full + is_v);
}

/* Four pieces of 16 dims, `step` bytes apart. */
__device__ __forceinline__ void raw_read(uint32_t (&x)[4][4], uint32_t at, uint32_t step)
{
#pragma unroll
    for (uint32_t i = 0; i < 4; i++)
        asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(x[i][0]), "=r"(x[i][1]), "=r"(x[i][2]), "=r"(x[i][3])
                     : "r"(at + i * step)
                     : "memory");
}

/* One warpgroup, with an fp8 pool: K, V, K, ... of all pieces from bytes to bf16, between producer
 * and consumers. The rows behind the last key become zeros, see zero_tail. A thread has 16 dims of
 * a row at a time; of 128 dims, lanes of the second half take the row beside, so that 8 lanes read
 * from and store to all banks. */
template <int DIM, bool IS_F8>
__device__ __forceinline__ void convert(const fast_shared<DIM, IS_F8> &sh)
{
    constexpr uint32_t PARTS = DIM / 16, ROWS = WARPGROUP / PARTS, BATCHES = TILE_KEYS / ROWS / 4;
    const uint32_t part = threadIdx.x % PARTS, row = threadIdx.x % WARPGROUP / PARTS ^ part / 4;
    const uint32_t src = row * DIM + part * 16;
    const uint32_t dst = part / 4 * sh.KV_HALF + row * 128 + ((part % 4 * 2) ^ (row % 8)) * 16;
    for (uint32_t n = 0;; n++) {
        const uint32_t is_v = n & 1, piece = n >> 1, stage = piece & 1;
        barrier_wait(sh.bars->raw_full + is_v, piece & 1);
        const uint32_t n_keys = sh.bars->raw_keys[is_v];
        if (n_keys == 0)
            return;
        barrier_wait((is_v ? sh.bars->v_empty : sh.bars->k_empty) + stage, (piece >> 1 & 1) ^ 1);
        const uint32_t from = sh.raw(is_v) + src, to = (is_v ? sh.v(stage) : sh.k(stage)) + dst;
#pragma unroll
        for (uint32_t batch = 0; batch < BATCHES; batch++) {
            uint32_t x[4][4];
            raw_read(x, from + batch * 4 * ROWS * DIM, ROWS * DIM);
            if (batch == BATCHES - 1) { /* all is read */
                __syncwarp();
                if (threadIdx.x % 32 == 0)
                    barrier_arrive(sh.bars->raw_empty + is_v);
            }
#pragma unroll
            for (uint32_t i = 0; i < 4; i++) {
                const uint32_t at = (batch * 4 + i) * ROWS;
#pragma unroll
                for (uint32_t half = 0; half < 2; half++)
                    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"((to ^ half * 16) +
                                                                                  at * 128),
                                 "r"(f8_to_bf16<false>(x[i][2 * half])),
                                 "r"(f8_to_bf16<true>(x[i][2 * half])),
                                 "r"(f8_to_bf16<false>(x[i][2 * half + 1])),
                                 "r"(f8_to_bf16<true>(x[i][2 * half + 1]))
                                 : "memory");
            }
        }
        for (uint32_t at = row; n_keys < TILE_KEYS && at < TILE_KEYS; at += ROWS)
            for (uint32_t half = 0; half < 2 && at >= n_keys; half++)
                asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"((to ^ half * 16) +
                                                                              (at - row) * 128),
                             "r"(0)
                             : "memory");
        fence_async();
        __syncwarp();
        if (threadIdx.x % 32 == 0)
            barrier_arrive((is_v ? sh.bars->v_full : sh.bars->k_full) + stage);
    }
}

/* Rows [first, 128) of a piece of V become zeros. What lies there may never have been written, and
 * not even a weight of zero hides a NaN. By a whole warp. */
template <int DIM, bool IS_F8> __device__ void zero_tail(uint32_t dst, uint32_t first)
{
    for (uint32_t i = threadIdx.x % 32; i < (TILE_KEYS - first) * 8; i += 32)
#pragma unroll
        for (int half = 0; half < DIM / 64; half++)
            asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(
                             dst + half * fast_sizes<DIM, IS_F8>::KV_HALF + first * 128 + i * 16),
                         "r"(0)
                         : "memory");
    fence_async();
    __syncwarp();
}

/* One warp: finds the tiles of this block, ahead of the producer. */
template <int DIM, bool IS_F8>
__device__ __forceinline__ void plan(const prefill_params &p, const fast_shared<DIM, IS_F8> &sh)
{
    uint32_t level = 0;
    for (uint32_t seq = threadIdx.x % 32; seq < p.n_seqs; seq += 32)
        level = max(level, (__ldg(p.kv_tokens + seq) + TILE_KEYS - 1) / TILE_KEYS);
    level = __reduce_max_sync(~0u, level);
    for (uint32_t n = 0;; n++) {
        uint32_t slot = n & 1, place = n & 1 ? gridDim.x - 1 - blockIdx.x : blockIdx.x;
        fast_tile tile = find_tile(p, n * gridDim.x + place, level);
        barrier_wait(sh.bars->plan_empty + slot, (n >> 1 & 1) ^ 1);
        if (threadIdx.x % 32 == 0) {
            sh.bars->plan[slot] = tile;
            barrier_arrive(sh.bars->plan_full + slot);
        }
        if (tile.n_pieces == 0)
            return;
    }
}

/* Row of the map where K begins in the block that holds position `key` of the tile's sequence. */
__device__ __forceinline__ uint32_t block_row(const prefill_params &p, const fast_tile &tile,
                                              uint32_t key, uint32_t rows_per_block)
{
    uint32_t block =
        __ldg(p.block_table + (uint64_t)tile.seq * p.table_stride + key / p.block_tokens);
    return block * rows_per_block + (p.layer * p.n_kv_heads + tile.kv_head) * 2 * p.block_tokens;
}

/* One warp: feeds Q, K and V of the planned tiles. */
template <int DIM, bool IS_F8>
__device__ __forceinline__ void produce(const prefill_params &p, const CUtensorMap *q_map,
                                        const CUtensorMap *kv_map,
                                        const fast_shared<DIM, IS_F8> &sh)
{
    const bool is_leader = threadIdx.x % 32 == 0;
    const uint32_t rows_per_block = (uint32_t)(p.block_bytes / (DIM * (IS_F8 ? 1 : 2)));
    uint32_t n_kv = 0, tail_parity = 0;

    for (uint32_t n = 0;; n++) {
        const uint32_t slot = n & 1, parity = n >> 1 & 1;
        barrier_wait(sh.bars->plan_full + slot, parity);
        const fast_tile &tile = sh.bars->plan[slot];
        barrier_wait(sh.bars->q_empty + slot, parity ^ 1);
        uint32_t key = tile.kv_begin + tile.n_pieces * TILE_KEYS;
        if (is_leader) {
            sh.bars->tile[slot] = tile;
            if (tile.n_pieces == 0) {
                barrier_arrive(sh.bars->q_full + slot);
            } else {
                barrier_expect(sh.bars->q_full + slot, p.group * p.tile_tokens * DIM * 2);
                for (int half = 0; half < DIM / 64; half++)
                    tma_load_3d(sh.q(slot) + half * sh.Q_HALF, q_map, half * 64,
                                tile.kv_head * p.group, tile.row, sh.bars->q_full + slot);
            }
        }
        if (tile.n_pieces == 0) {
            if (IS_F8) {
                barrier_wait(sh.bars->raw_empty + 0, (n_kv & 1) ^ 1);
                if (is_leader) {
                    sh.bars->raw_keys[0] = 0;
                    barrier_arrive(sh.bars->raw_full + 0);
                }
            }
            return;
        }

        for (uint32_t piece = tile.n_pieces; piece-- > 0; n_kv++) {
            const uint32_t stage = n_kv & 1, kv_parity = (n_kv >> 1 & 1) ^ 1;
            key -= TILE_KEYS;
            const uint32_t n_keys = min((uint32_t)TILE_KEYS, tile.kv_tokens - key);
            const uint32_t n_blocks = n_keys > p.block_tokens ? 2 : 1;
            uint32_t row[2];
            row[0] = block_row(p, tile, key, rows_per_block);
            row[1] = n_blocks == 2 ? block_row(p, tile, key + p.block_tokens, rows_per_block) : 0;
            if constexpr (IS_F8) {
                for (uint32_t is_v = 0; is_v < 2; is_v++) {
                    barrier_wait(sh.bars->raw_empty + is_v, (n_kv & 1) ^ 1);
                    if (is_leader)
                        load_raw(kv_map, sh, is_v, n_keys, row, n_blocks, p.block_tokens);
                    row[0] += p.block_tokens; /* V follows K */
                    row[1] += p.block_tokens;
                }
                __syncwarp();
                continue;
            }
            barrier_wait(sh.bars->k_empty + stage, kv_parity);
            if (is_leader)
                load_piece<DIM, IS_F8>(kv_map, sh.k(stage), sh.bars->k_full + stage, row, n_blocks,
                                       p.block_tokens);
            row[0] += p.block_tokens; /* V follows K */
            row[1] += p.block_tokens;
            barrier_wait(sh.bars->v_empty + stage, kv_parity);
            uint64_t *v_bar = n_keys == TILE_KEYS ? sh.bars->v_full + stage : &sh.bars->tail;
            if (is_leader)
                load_piece<DIM, IS_F8>(kv_map, sh.v(stage), v_bar, row, n_blocks, p.block_tokens);
            if (n_keys < TILE_KEYS) {
                barrier_wait(v_bar, tail_parity);
                tail_parity ^= 1;
                zero_tail<DIM, IS_F8>(sh.v(stage), n_keys);
                if (is_leader)
                    barrier_arrive(sh.bars->v_full + stage);
            }
            __syncwarp();
        }
        if (is_leader)
            barrier_arrive(sh.bars->plan_empty + slot);
    }
}

/* s = Q K^T of the 64 rows of this warpgroup; issued, not waited for. */
template <int DIM, bool IS_F8>
__device__ __forceinline__ void issue_scores(float (&s)[64], uint32_t q, uint32_t k)
{
    const uint32_t q_lo = operand_lo(q, 16), k_lo = operand_lo(k, 16);
    mma_fence();
#pragma unroll
    for (int i = 0; i < DIM / 16; i++)
        mma_scores(s, operand(q_lo + (i / 4 * fast_sizes<DIM, IS_F8>::Q_HALF + i % 4 * 32) / 16),
                   operand(k_lo + (i / 4 * fast_sizes<DIM, IS_F8>::KV_HALF + i % 4 * 32) / 16),
                   i > 0);
    mma_commit();
}

/* o += P V; issued, not waited for. */
template <int DIM, bool IS_F8>
__device__ __forceinline__ void issue_values(float (&o)[DIM / 2], const uint32_t (&w)[32],
                                             uint32_t v)
{
    const uint32_t v_lo = operand_lo(v, fast_sizes<DIM, IS_F8>::KV_HALF);
    mma_fence();
#pragma unroll
    for (int i = 0; i < TILE_KEYS / 16; i++)
        mma_values(o, w + i * 4, operand(v_lo + i * 2048 / 16));
    mma_commit();
}

/* Scores, now weights, in the layout of an A operand. */
__device__ __forceinline__ void pack_weights(uint32_t (&w)[32], const float (&s)[64])
{
#pragma unroll
    for (int i = 0; i < 32; i++)
        w[i] = pack_bf16(s[2 * i], s[2 * i + 1]);
}

/* Normalises, goes through this warp's own 16 rows of Q in shared memory (read for the last time by
 * now) and writes whole 16-byte pieces of rows. */
template <int DIM, bool IS_F8>
__device__ __forceinline__ void store_tile(const prefill_params &p, const fast_tile &tile,
                                           uint32_t q, uint32_t row_first,
                                           const float (&o)[DIM / 2], const float (&inverse)[2])
{
    const uint32_t lane = threadIdx.x % 32;
#pragma unroll
    for (int row = 0; row < 2; row++) {
        uint32_t at = row_first + lane / 4 + row * 8;
#pragma unroll
        for (int i = 0; i < DIM / 8; i++) {
            uint32_t chunk = (i % 8) ^ (at % 8);
            asm volatile("st.shared.b32 [%0], %1;" ::"r"(q +
                                                         i / 8 * fast_sizes<DIM, IS_F8>::Q_HALF +
                                                         at * 128 + chunk * 16 + lane % 4 * 4),
                         "r"(pack_bf16(o[i * 4 + row * 2] * inverse[row],
                                       o[i * 4 + row * 2 + 1] * inverse[row]))
                         : "memory");
        }
    }
    __syncwarp();
    constexpr int CHUNKS = DIM / 8, ROWS_AT_ONCE = 32 / CHUNKS;
    const uint32_t chunk = lane % CHUNKS;
#pragma unroll
    for (int i = 0; i < 16 / ROWS_AT_ONCE; i++) {
        uint32_t at = row_first + i * ROWS_AT_ONCE + lane / CHUNKS;
        uint32_t token = at / p.group, head = tile.kv_head * p.group + at % p.group;
        uint4 x;
        asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                     : "r"(q + chunk / 8 * fast_sizes<DIM, IS_F8>::Q_HALF + at * 128 +
                           ((chunk % 8) ^ (at % 8)) * 16)
                     : "memory");
        if (token < tile.n_tokens)
            *(uint4 *)(p.out + (tile.row + token) * p.out_stride + head * DIM + chunk * 8) = x;
    }
}

/* The same value, which the compiler now knows to be the same in all lanes: loops and descriptors
 * that depend on it then stay in uniform registers, next to the tensor cores. */
__device__ __forceinline__ uint32_t uniform(uint32_t x)
{
    return __shfl_sync(~0u, x, 0);
}

/* Where a consumer is in the stream of pieces. */
struct fast_cursor {
    uint32_t n_tiles, n_kv;       /* begun so far */
    uint32_t n_left;              /* pieces of this tile after this one */
    uint32_t key;                 /* position of the first key of this piece */
    uint32_t pos_first, pos_last; /* of the tile's tokens */
    uint32_t pos[2];              /* of this thread's rows; padding rows take the last token */

    /* Waits for the next tile and stands before its last piece; false when there is none. */
    template <int DIM, bool IS_F8>
    __device__ __forceinline__ bool next_tile(const prefill_params &p,
                                              const fast_shared<DIM, IS_F8> &sh, uint32_t row)
    {
        n_tiles = uniform(n_tiles);
        n_kv = uniform(n_kv);
        const uint32_t slot = n_tiles & 1;
        barrier_wait(sh.bars->q_full + slot, n_tiles >> 1 & 1);
        const fast_tile &tile = sh.bars->tile[slot];
        n_tiles++;
        n_left = uniform(tile.n_pieces);
        key = uniform(tile.kv_begin) + n_left * TILE_KEYS;
        pos_first = uniform(tile.pos_first);
        pos_last = pos_first + uniform(tile.n_tokens) - 1;
        pos[0] = min(pos_first + row / p.group, pos_last);
        pos[1] = min(pos_first + (row + 8) / p.group, pos_last);
        return n_left != 0;
    }

    __device__ __forceinline__ bool needs_mask(uint32_t window) const
    {
        return key + TILE_KEYS > pos_first + 1 || (window != 0 && key + window <= pos_last);
    }
};

/* Ends a tile: o goes to `out` and the tile's Q slot back to the producer. */
template <int DIM, bool IS_F8>
__device__ __forceinline__ void end_tile(const prefill_params &p, const fast_shared<DIM, IS_F8> &sh,
                                         uint32_t id, uint32_t slot, const float (&o)[DIM / 2],
                                         const float (&inverse)[2])
{
    const uint32_t row_first = id * 64 + threadIdx.x / 32 % 4 * 16;
    named_sync(1 + sh.CONSUMERS + id, WARPGROUP); /* all four warps are done with Q */
    store_tile<DIM, IS_F8>(p, sh.bars->tile[slot], sh.q(slot), row_first, o, inverse);
    fence_async(); /* TMA writes Q next */
    __syncwarp();
    if (threadIdx.x % 32 == 0)
        barrier_arrive(sh.bars->q_empty + slot);
}

/* One of the consumer warpgroups: rows [64 * id, 64 * id + 64) of every tile. The pieces of all
 * tiles form one stream: the scores of a tile's first piece are issued together with the values of
 * the last piece of the tile before, whose output is stored while others use the tensor cores. */
template <int DIM, bool IS_F8>
__device__ __forceinline__ void consume(const prefill_params &p, const fast_shared<DIM, IS_F8> &sh,
                                        uint32_t id)
{
    constexpr uint32_t TURN = 1, TURN_THREADS = 2 * WARPGROUP;
    const uint32_t lane = threadIdx.x % 32, column = lane % 4 * 2;
    const uint32_t row = id * 64 + threadIdx.x / 32 % 4 * 16 + lane / 4;
    const uint32_t turn_next = TURN + (id + 1) % sh.CONSUMERS;
    float s[64] = {}, o[DIM / 2], alpha[2], inverse[2];
    uint32_t w[32];
    float scale_log2 = p.scale_log2;
    softmax_rows softmax;
    fast_cursor at = {};
    if (id == sh.CONSUMERS - 1)
        named_arrive(TURN + 0, TURN_THREADS); /* the first turn is consumer 0's */

    if (at.next_tile(p, sh, row)) {
        if (IS_F8)
            scale_log2 = p.scale_log2 * kv_scale<IS_F8>(p, sh.bars->tile[0].kv_head, 0);
        at.key -= TILE_KEYS;
        at.n_left--;
        barrier_wait(sh.bars->k_full + 0, 0);
        pin(s);
        issue_scores<DIM, IS_F8>(s, sh.q(0) + id * 64 * 128, sh.k(0));
        mma_wait<0>();
        pin(s);
        if (lane == 0)
            barrier_arrive(sh.bars->k_empty + 0);
        mask_scores(s, at.key + column, at.pos, p.window);
        softmax.init();
        softmax.step(s, scale_log2, alpha);
        pack_weights(w, s);
        at.n_kv = 1;
#pragma unroll
        for (int i = 0; i < DIM / 2; i++)
            o[i] = 0.0f;

        for (;;) {
            const uint32_t k_stage = at.n_kv & 1, k_parity = at.n_kv >> 1 & 1;
            const uint32_t v_stage = at.n_kv - 1 & 1, v_parity = at.n_kv - 1 >> 1 & 1;
            const bool is_switch = at.n_left == 0;
            if (is_switch && !at.next_tile(p, sh, row))
                break;
            at.key -= TILE_KEYS;
            at.n_left--;
            barrier_wait(sh.bars->k_full + k_stage, k_parity);
            named_sync(TURN + id, TURN_THREADS);
            pin(s);
            pin(w);
            pin(o);
            issue_scores<DIM, IS_F8>(s, sh.q(at.n_tiles - 1 & 1) + id * 64 * 128, sh.k(k_stage));
            barrier_wait(sh.bars->v_full + v_stage, v_parity);
            issue_values<DIM, IS_F8>(o, w, sh.v(v_stage));
            named_arrive(turn_next, TURN_THREADS);
            mma_wait<1>();
            pin(s);
            if (lane == 0)
                barrier_arrive(sh.bars->k_empty + k_stage);
            if (is_switch) {
                softmax.inverses<IS_F8>(p, sh.bars->tile[at.n_tiles & 1].kv_head, row, inverse);
                softmax.init();
                if (IS_F8)
                    scale_log2 = p.scale_log2 *
                                 kv_scale<IS_F8>(p, sh.bars->tile[at.n_tiles - 1 & 1].kv_head, 0);
            }
            if (at.needs_mask(p.window))
                mask_scores(s, at.key + column, at.pos, p.window);
            softmax.step(s, scale_log2, alpha);
            pin(s);
            /* Never true. The assembler would move the whole softmax behind the wait below, which
             * it takes for cheap; it does not move it across a branch that needs its result. */
            if (softmax.sum[0] + softmax.sum[1] < 0.0f)
                asm volatile("trap;");
            mma_wait<0>();
            pin(o);
            pin(w);
            if (lane == 0)
                barrier_arrive(sh.bars->v_empty + v_stage);
            at.n_kv++;
            if (is_switch) {
                end_tile<DIM, IS_F8>(p, sh, id, at.n_tiles & 1, o, inverse);
#pragma unroll
                for (int i = 0; i < DIM / 2; i++)
                    o[i] = 0.0f;
            } else {
#pragma unroll
                for (int i = 0; i < DIM / 2; i++)
                    o[i] *= alpha[i / 2 % 2];
            }
            pack_weights(w, s);
        }

        const uint32_t v_stage = at.n_kv - 1 & 1;
        barrier_wait(sh.bars->v_full + v_stage, at.n_kv - 1 >> 1 & 1);
        pin(o);
        issue_values<DIM, IS_F8>(o, w, sh.v(v_stage));
        softmax.inverses<IS_F8>(p, sh.bars->tile[at.n_tiles & 1].kv_head, row, inverse);
        mma_wait<0>();
        pin(o);
        end_tile<DIM, IS_F8>(p, sh, id, at.n_tiles & 1, o, inverse);
    }
    if (id == 0)
        named_sync(TURN + 0, TURN_THREADS); /* takes the turn that nobody needs */
}

#endif /* sm_90a */

/* On other architectures an empty kernel, told from the real one by its lack of barriers. */
template <int DIM, bool IS_F8>
__global__ void __launch_bounds__(fast_sizes<DIM, IS_F8>::THREADS, 1)
    prefill_fast(const __grid_constant__ prefill_params p,
                 const __grid_constant__ CUtensorMap q_map,
                 const __grid_constant__ CUtensorMap kv_map)
{
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    extern __shared__ __align__(1024) uint8_t shared[];
    __shared__ fast_barriers bars;
    const fast_shared<DIM, IS_F8> sh = {{}, &bars, (smem_address(shared) + 1023) / 1024 * 1024};
    if (threadIdx.x == 0) {
        for (int i = 0; i < 2; i++) {
            barrier_init(bars.q_full + i, 1);
            barrier_init(bars.k_full + i, IS_F8 ? 4 : 1);
            barrier_init(bars.v_full + i, IS_F8 ? 4 : 1);
            if (IS_F8) {
                barrier_init(bars.raw_full + i, 1);
                barrier_init(bars.raw_empty + i, 4);
            }
            barrier_init(bars.plan_full + i, 1);
            barrier_init(bars.plan_empty + i, 1);
            barrier_init(bars.q_empty + i, sh.CONSUMERS * 4);
            barrier_init(bars.k_empty + i, sh.CONSUMERS * 4);
            barrier_init(bars.v_empty + i, sh.CONSUMERS * 4);
        }
        barrier_init(&bars.tail, 1);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        fence_async();
    }
    __syncthreads();
    const uint32_t warpgroup = __shfl_sync(~0u, threadIdx.x / WARPGROUP, 0);
    if (warpgroup == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(sh.PRODUCER_REGS));
        const uint32_t warp = __shfl_sync(~0u, threadIdx.x / 32, 0);
        if (warp == 0)
            produce<DIM, IS_F8>(p, &q_map, &kv_map, sh);
        else if (warp == 1)
            plan<DIM, IS_F8>(p, sh);
    } else if (warpgroup < sh.PRODUCERS) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(sh.PRODUCER_REGS));
        convert<DIM, IS_F8>(sh);
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(sh.CONSUMER_REGS));
        consume<DIM, IS_F8>(p, sh, warpgroup - sh.PRODUCERS);
    }
#endif
}

} // namespace attention_prefill

#endif
