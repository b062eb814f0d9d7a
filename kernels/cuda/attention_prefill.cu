/* attention_prefill: causal attention of chunks of rows over the paged KV pool, bf16, f32 softmax
 * out[r,h,:] = sum_j softmax_j(scale * q[r,h] . K[j]) V[j] over the positions that the row sees
 * Shapes   kernels/cuda/cuda_ops.h, cuda_attention_args
 *
 * The query heads that share a KV head are packed: a tile holds T tokens times G heads, its row i
 * is token i / G, head i % G. One token of a chunk thus fills G rows, and K and V are read once for
 * all heads of the group. Scores go through exp2 with scale * log2(e) folded into a multiply-add.
 *
 * simple  mma.sync and cp.async: every shape and every device from sm_80 on. One tile of 64 rows a
 *         block of 4 warps, keys in pieces of 64.
 * fast    sm_90a, head_dim 64 and 128, block_tokens 64 and 128. A persistent block of a producer
 *         and two (head_dim 64: three) consumer warpgroups of 64 rows, keys in pieces of 128:
 *
 *           planner     tile n + 1, from row_first and kv_tokens
 *           producer    K | V | K | V | ...    TMA, two stages each; Q in two slots
 *           consumer 0  QK(j) PV(j-1) | softmax(j)  | QK(j+1) PV(j) | softmax(j+1) | ...
 *           consumer 1   softmax(j-1) | QK(j) PV(j-1) | softmax(j)  | QK(j+1) PV(j) | ...
 *
 *         Scores of the next piece are issued before the values of this one, over the border of
 *         tiles too, and named barriers hand the tensor cores from one consumer to the next, so
 *         that one's softmax runs under another's products. P goes from the accumulator into the
 *         A operand in registers. Pieces are taken from the last to the first; only those on the
 *         diagonal or the edge of the window are masked. Tiles are taken longest first, in snake
 *         order over the blocks of the grid; blocks share nothing, so there is no state in memory
 *         and it does not matter how many of them run at once.
 *
 * fp8      K and V become bf16, which holds every e4m3 value, on their way through shared memory.
 *          simple: all threads turn a piece over. fast: a warpgroup more, between producer and
 *          consumers; two consumers with head_dim 64 too. K's scale goes into that of the scores,
 *          V's into the result
 *
 * Launch   simple: grid (tiles of the longest chunk, KV heads, sequences), 128 threads
 *          fast: one block an SM, 384 threads and 193 KiB shared (head_dim 64: 512, 113 KiB);
 *          fp8: 512 threads, 225 KiB (head_dim 64: 113 KiB)
 * Cost     4 * head_dim flop for each (row, head, key) pair: bound by the tensor cores
 * Checked  bench/gpu/check_attention_prefill.cu
 * Source   Dao 2023, arXiv:2307.08691; Shah et al. 2024, arXiv:2407.08608 */
#include "kernels/cuda/attention_prefill_fast.cuh"
#include "kernels/cuda/attention_prefill_simple.cuh"
#include "kernels/cuda/tma.cuh"

#include <atomic>

namespace
{

using namespace attention_prefill;

/* Boxes of bf16 with 64 columns and 128-byte swizzle, or of bytes as they are. rank 2 or 3; sizes
 * and boxes innermost first, strides (bytes) of all dimensions but the innermost. */
bool encode_map(CUtensorMap *map, bool is_f8, uint32_t rank, const void *base,
                const cuuint64_t *size, const cuuint64_t *stride_bytes, const cuuint32_t *box)
{
    const cuuint32_t step[3] = {1, 1, 1};
    static const PFN_cuTensorMapEncodeTiled_v12000 encode = map_encode_lookup();
    return encode != nullptr &&
           encode(map, is_f8 ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                  rank, (void *)base, size, stride_bytes, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
                  is_f8 ? CU_TENSOR_MAP_SWIZZLE_NONE : CU_TENSOR_MAP_SWIZZLE_128B,
                  CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                  CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

bool maps_make(const struct cuda_attention_args *args, const prefill_params &p, CUtensorMap *q_map,
               CUtensorMap *kv_map)
{
    const bool is_f8 = args->pool.dtype == OPS_F8;
    const uint64_t row_bytes = p.head_dim * (is_f8 ? 1 : 2);
    const uint64_t n_rows = (uint64_t)(args->pool.n_blocks - 1) * (p.block_bytes / row_bytes) +
                            (uint64_t)args->pool.n_layers * p.n_kv_heads * 2 * p.block_tokens;
    if (p.block_bytes % row_bytes != 0 || n_rows > INT32_MAX || ((uintptr_t)p.q & 15) != 0 ||
        p.q_stride % 8 != 0)
        return false;
    const cuuint64_t kv_size[2] = {p.head_dim, n_rows}, kv_stride[1] = {row_bytes};
    const cuuint32_t kv_box[2] = {is_f8 ? p.head_dim : 64, p.block_tokens};
    const cuuint64_t q_size[3] = {p.head_dim, args->n_heads, args->n_rows};
    const cuuint64_t q_stride[2] = {p.head_dim * 2, p.q_stride * 2};
    const cuuint32_t q_box[3] = {64, p.group, p.tile_tokens};
    return encode_map(kv_map, is_f8, 2, p.pool, kv_size, kv_stride, kv_box) &&
           encode_map(q_map, false, 3, p.q, q_size, q_stride, q_box);
}

/* Lets the kernel use its shared memory: once for each device and kernel. */
template <typename F> cudaError_t allow_shared(F *kernel, int bytes, std::atomic<uint64_t> *done)
{
    int device = 0;
    cudaError_t err = cudaGetDevice(&device);
    uint64_t bit = 1ull << (device & 63);
    if (err != cudaSuccess || (done->load(std::memory_order_relaxed) & bit) != 0)
        return err;
    err = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (err == cudaSuccess)
        done->fetch_or(bit, std::memory_order_relaxed);
    return err;
}

template <int DIM, bool IS_F8>
cudaError_t launch_simple(const prefill_params &p, uint32_t rows_max, cudaStream_t stream)
{
    static std::atomic<uint64_t> allowed;
    constexpr int BYTES = simple_shared_bytes<DIM, IS_F8>();
    cudaError_t err = allow_shared(prefill_simple<DIM, IS_F8>, BYTES, &allowed);
    if (err != cudaSuccess)
        return err;
    dim3 grid((rows_max + p.tile_tokens - 1) / p.tile_tokens, p.n_kv_heads, p.n_seqs);
    prefill_simple<DIM, IS_F8><<<grid, SIMPLE_THREADS, BYTES, stream>>>(p);
    return cudaGetLastError();
}

template <int DIM, bool IS_F8>
cudaError_t launch_fast(const prefill_params &p, uint32_t grid, const CUtensorMap &q_map,
                        const CUtensorMap &kv_map, cudaStream_t stream)
{
    static std::atomic<uint64_t> allowed;
    constexpr int BYTES = fast_sizes<DIM, IS_F8>::SHARED;
    cudaError_t err = allow_shared(prefill_fast<DIM, IS_F8>, BYTES, &allowed);
    if (err != cudaSuccess)
        return err;
    prefill_fast<DIM, IS_F8>
        <<<grid, fast_sizes<DIM, IS_F8>::THREADS, BYTES, stream>>>(p, q_map, kv_map);
    return cudaGetLastError();
}

/* SMs of a device that can run the fast kernel; 0 on any other. */
uint32_t fast_n_sms()
{
    static std::atomic<uint32_t> known[64]; /* n_sms + 1 */
    int device = 0, major = 0, minor = 0, n_sms = 0;
    if (cudaGetDevice(&device) != cudaSuccess || device >= 64)
        return 0;
    uint32_t value = known[device].load(std::memory_order_relaxed);
    if (value != 0)
        return value - 1;
    cudaFuncAttributes attr = {};
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    cudaDeviceGetAttribute(&n_sms, cudaDevAttrMultiProcessorCount, device);
    if (major != 9 || minor != 0 ||
        cudaFuncGetAttributes(&attr, prefill_fast<128, false>) != cudaSuccess ||
        attr.sharedSizeBytes == 0)
        n_sms = 0;
    known[device].store((uint32_t)n_sms + 1, std::memory_order_relaxed);
    return (uint32_t)n_sms;
}

/* Rows of a tile of the fast kernel. */
int fast_rows(const prefill_params &p, bool is_f8)
{
    if (p.head_dim == 128)
        return is_f8 ? fast_sizes<128, true>::ROWS : fast_sizes<128, false>::ROWS;
    return is_f8 ? fast_sizes<64, true>::ROWS : fast_sizes<64, false>::ROWS;
}

/* Blocks of the fast kernel's grid when this call can take it, with its maps; 0 when it cannot. */
uint32_t fast_prepare(const struct cuda_attention_args *args, uint32_t rows_max, prefill_params *p,
                      CUtensorMap *q_map, CUtensorMap *kv_map)
{
    if ((p->head_dim != 64 && p->head_dim != 128) || p->block_tokens < 64)
        return 0;
    uint32_t n_sms = fast_n_sms();
    if (n_sms == 0)
        return 0;
    prefill_params fast = *p;
    fast.tile_tokens = (uint32_t)fast_rows(*p, args->pool.dtype == OPS_F8) / p->group;
    if (!maps_make(args, fast, q_map, kv_map))
        return 0;
    *p = fast;
    uint64_t n_tiles =
        (uint64_t)((rows_max + p->tile_tokens - 1) / p->tile_tokens) * p->n_seqs * p->n_kv_heads;
    return n_tiles < n_sms ? (uint32_t)n_tiles : n_sms;
}

/* The fast kernel where it can be, else the simple one. */
template <bool IS_F8>
cudaError_t launch(const struct cuda_attention_args *args, prefill_params &p, uint32_t rows_max,
                   cudaStream_t stream)
{
    CUtensorMap q_map, kv_map;
    uint32_t grid = fast_prepare(args, rows_max, &p, &q_map, &kv_map);
    if (grid != 0)
        return p.head_dim == 128 ? launch_fast<128, IS_F8>(p, grid, q_map, kv_map, stream)
                                 : launch_fast<64, IS_F8>(p, grid, q_map, kv_map, stream);
    if (p.head_dim <= 64)
        return launch_simple<64, IS_F8>(p, rows_max, stream);
    if (p.head_dim <= 128)
        return launch_simple<128, IS_F8>(p, rows_max, stream);
    return launch_simple<256, IS_F8>(p, rows_max, stream);
}

} // namespace

extern "C" cudaError_t cuda_attention_prefill(const struct cuda_attention_args *args,
                                              uint32_t rows_max, cudaStream_t stream)
{
    const struct ops_kv_pool *pool = &args->pool;
    if (args->n_rows == 0 || args->seqs.n_seqs == 0 || rows_max == 0)
        return cudaSuccess;
    prefill_params p = {};
    p.q = (const __nv_bfloat16 *)args->q;
    p.out = (__nv_bfloat16 *)args->out;
    p.q_stride = args->q_stride;
    p.out_stride = args->out_stride;
    p.pool = (const uint8_t *)pool->base;
    p.block_bytes = pool->block_bytes;
    p.sinks = args->sinks;
    p.row_first = args->seqs.row_first;
    p.kv_tokens = args->seqs.kv_tokens;
    p.block_table = args->seqs.block_table;
    p.table_stride = args->seqs.table_stride;
    p.n_seqs = args->seqs.n_seqs;
    p.layer = args->layer;
    p.n_kv_heads = pool->n_kv_heads;
    p.block_tokens = pool->block_tokens;
    p.head_dim = pool->head_dim;
    p.group = args->n_heads / pool->n_kv_heads;
    p.tile_tokens = SIMPLE_ROWS / p.group;
    p.window = args->window < 1u << 30 ? args->window : 0; /* positions stay below that */
    p.scale_log2 = args->scale * LOG2_E;

    if (pool->dtype == OPS_F8 && pool->scales != nullptr)
        p.scales = pool->scales + (uint64_t)args->layer * 2 * pool->n_kv_heads;
    return pool->dtype == OPS_F8 ? launch<true>(args, p, rows_max, stream)
                                 : launch<false>(args, p, rows_max, stream);
}
