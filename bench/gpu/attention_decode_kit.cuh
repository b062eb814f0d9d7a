/* What check_attention_decode.cu and its times share: memory, random numbers, a step. */
#ifndef BENCH_GPU_ATTENTION_DECODE_KIT_CUH
#define BENCH_GPU_ATTENTION_DECODE_KIT_CUH

#include "kernels/cuda/cuda_ops.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <cuda_bf16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>
#include <vector>

/* attention_decode.cu: the same with choices open. */
extern "C" cudaError_t cuda_decode_plan_tuned(const struct cuda_attention_args *args,
                                              uint32_t n_sms, void *plan, cudaStream_t stream,
                                              uint32_t how);
extern "C" cudaError_t cuda_attention_decode_tuned(const struct cuda_attention_args *args,
                                                   uint32_t n_sms, const void *plan,
                                                   void *workspace, cudaStream_t stream,
                                                   uint32_t how);
enum { HOW_LINE = 1, HOW_NO_CLUSTER = 2, HOW_ONE_STAGE = 4, HOW_TWO_STAGES = 8, HOW_LATE = 16 };

namespace
{

#define MUST(call)                                                                                 \
    do {                                                                                           \
        cudaError_t must_err = (call);                                                             \
        if (must_err != cudaSuccess) {                                                             \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, cudaGetErrorString(must_err));      \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

constexpr uint32_t LAYER = 1, LAYERS = 3; /* of the checks */

uint32_t n_sms;
uint32_t random_state = 1;

uint32_t random_next()
{
    random_state = random_state * 1664525u + 1013904223u;
    return random_state >> 8;
}

template <class T> T *device_alloc(size_t n)
{
    void *ptr;
    MUST(cudaMalloc(&ptr, n * sizeof(T)));
    return static_cast<T *>(ptr);
}

template <class T> T *device_copy(const std::vector<T> &host)
{
    T *ptr = device_alloc<T>(std::max<size_t>(host.size(), 1));
    MUST(cudaMemcpy(ptr, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice));
    return ptr;
}

__device__ uint32_t hash32(uint64_t x)
{
    x = (x ^ (x >> 31)) * 0x7fb5d329728ea185ull;
    x = (x ^ (x >> 27)) * 0x81dadef4bc2dd44dull;
    return static_cast<uint32_t>(x >> 32);
}

/* A normal deviate of counter i. */
__device__ float normal_at(uint64_t i, uint32_t seed)
{
    float u = (hash32(i * 2u + (static_cast<uint64_t>(seed) << 40)) + 1.0f) * 2.3283064e-10f;
    float v = hash32(i * 2u + 1u + (static_cast<uint64_t>(seed) << 40)) * 2.3283064e-10f;
    return sqrtf(-2.0f * logf(fminf(u, 1.0f))) * cospif(2.0f * v);
}

__global__ void fill_normal(__nv_bfloat16 *dst, size_t n, uint32_t seed, float scale)
{
    size_t step = static_cast<size_t>(gridDim.x) * blockDim.x;
    for (size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x; i < n; i += step)
        dst[i] = __float2bfloat16(normal_at(i, seed) * scale);
}

/* The same as e4m3, as large as a scale makes them. */
__global__ void fill_normal_f8(__nv_fp8_e4m3 *dst, size_t n, uint32_t seed, float scale)
{
    size_t step = static_cast<size_t>(gridDim.x) * blockDim.x;
    for (size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x; i < n; i += step)
        dst[i] = __nv_fp8_e4m3(normal_at(i, seed) * scale);
}

__device__ float kv_scale(const ops_kv_pool &pool, uint32_t layer, uint32_t head, uint32_t is_v)
{
    return pool.scales ? pool.scales[(layer * 2u + is_v) * pool.n_kv_heads + head] : 1.0f;
}

/* Element i of a plane of the pool, whose scale is given: stores x, or gives the value. */
__device__ void kv_put(const ops_kv_pool &pool, char *plane, size_t i, float x, float scale)
{
    if (pool.dtype == OPS_F8)
        reinterpret_cast<__nv_fp8_e4m3 *>(plane)[i] = __nv_fp8_e4m3(x * (1.0f / scale));
    else
        reinterpret_cast<__nv_bfloat16 *>(plane)[i] = __float2bfloat16(x);
}

__device__ double kv_get(const ops_kv_pool &pool, const char *plane, size_t i, double scale)
{
    if (pool.dtype == OPS_F8)
        return static_cast<float>(reinterpret_cast<const __nv_fp8_e4m3 *>(plane)[i]) * scale;
    return __bfloat162float(reinterpret_cast<const __nv_bfloat16 *>(plane)[i]);
}

/* K and V of every position of every sequence; grid (n_seqs, n_kv_heads). */
__global__ void fill_positions(ops_kv_pool pool, uint32_t layer, cuda_seqs seqs, uint32_t seed)
{
    uint32_t seq = blockIdx.x, head = blockIdx.y, d = pool.head_dim, bt = pool.block_tokens;
    size_t n = static_cast<size_t>(seqs.kv_tokens[seq]) * d * 2u;
    for (size_t i = threadIdx.x; i < n; i += blockDim.x) {
        uint32_t is_v = i % 2u, dim = i / 2u % d, pos = static_cast<uint32_t>(i / 2u / d);
        uint64_t block = seqs.block_table[static_cast<size_t>(seq) * seqs.table_stride + pos / bt];
        char *plane = static_cast<char *>(pool.base) +
                      ops_kv_plane_offset(&pool, static_cast<uint32_t>(block), layer, head, is_v);
        kv_put(pool, plane, pos % bt * static_cast<size_t>(d) + dim,
               normal_at(i + (static_cast<uint64_t>(seq * 64u + head) << 32), seed),
               kv_scale(pool, layer, head, is_v));
    }
}

float from_bf16(uint16_t bits)
{
    uint32_t wide = static_cast<uint32_t>(bits) << 16;
    float value;
    memcpy(&value, &wide, 4);
    return value;
}

struct shape {
    uint32_t n_kv_heads, group, head_dim, block_tokens, window, has_sinks;
    uint32_t n_rot, has_norm; /* of fresh rows */
    uint32_t is_f8;           /* of the pool */
    int q_exp;                /* q is 2^q_exp times larger, the scale of the scores smaller */
};

/* A step with all its memory on the device. */
struct step {
    shape sh;
    cuda_attention_args args; /* q: rows of q, k and v heads */
    std::vector<uint32_t> lens, table;
    std::vector<float> sinks;
    size_t pool_bytes, q_n, out_n; /* of q and out: elements, with the gaps */
    void *plan, *work;
    struct attention_fresh fresh;
    float *inv_freq, *cos_sin;
    uint32_t *seq, *pos;
    float *scales; /* of an fp8 pool */
};

/* A block table with the blocks in random order. */
void table_fill(step *s, uint32_t stride, uint32_t n_blocks)
{
    std::vector<uint32_t> order(n_blocks);
    for (uint32_t i = 0; i < n_blocks; i++)
        order[i] = i;
    for (uint32_t i = n_blocks - 1; i > 0; i--)
        std::swap(order[i], order[random_next() % (i + 1)]);
    s->table.assign(s->lens.size() * stride, 0xfffffff0u); /* never to be followed */
    uint32_t used = 0;
    for (size_t q = 0; q < s->lens.size(); q++)
        for (uint32_t i = 0; i * s->sh.block_tokens < s->lens[q]; i++)
            s->table[q * stride + i] = order[used++];
}

/* What fresh rows need; cos_sin as step_begin makes it. */
void fresh_fill(step *s)
{
    const shape &sh = s->sh;
    uint32_t n_seqs = static_cast<uint32_t>(s->lens.size());
    std::vector<float> norm(sh.head_dim), freq(std::max(sh.n_rot / 2, 1u));
    std::vector<uint32_t> seq, pos;
    for (float &v : norm)
        v = 0.5f + static_cast<float>(random_next() % 1000) * 1e-3f;
    for (uint32_t i = 0; i < sh.n_rot / 2; i++)
        freq[i] = powf(10000.0f, -2.0f * static_cast<float>(i) / static_cast<float>(sh.n_rot));
    for (uint32_t i = 0; i < n_seqs; i++) {
        seq.push_back(i);
        pos.push_back(s->lens[i] > 0 ? s->lens[i] - 1 : OPS_NO_POSITION);
    }
    s->seq = device_copy(seq);
    s->pos = device_copy(pos);
    s->inv_freq = device_copy(freq);
    s->cos_sin = device_alloc<float>(static_cast<size_t>(n_seqs) * std::max(sh.n_rot, 2u));
    s->fresh = {nullptr, nullptr, 1e-6f, s->cos_sin, sh.n_rot};
    if (sh.has_norm) {
        s->fresh.q_norm = device_copy(norm);
        std::reverse(norm.begin(), norm.end());
        s->fresh.k_norm = device_copy(norm);
    }
}

/* Leaves cos_sin behind. */
void step_begin(const step &s, cudaStream_t stream)
{
    struct step_begin_args a = {};
    a.ids = s.seq;
    a.pos = s.pos;
    a.table = s.inv_freq; /* anything */
    a.dtype = OPS_F32;
    a.n_vocab = 0;
    a.n_cols = 1;
    a.x = static_cast<float *>(s.args.out); /* anything that is not needed yet */
    a.inv_freq = s.inv_freq;
    a.cos_sin = s.cos_sin;
    a.n_rot = s.sh.n_rot;
    a.attn_scale = 1.0f;
    a.n_rows = s.args.n_rows;
    MUST(cuda_step_begin(&a, stream));
}

step step_create(const shape &sh, const std::vector<uint32_t> &lens, uint32_t n_layers,
                 uint32_t extra_bytes)
{
    step s = {};
    s.sh = sh;
    s.lens = lens;
    uint32_t n_seqs = static_cast<uint32_t>(lens.size()), n_blocks = 3, stride = 1;
    for (uint32_t len : lens) {
        uint32_t n = (len + sh.block_tokens - 1) / sh.block_tokens;
        n_blocks += n;
        stride = std::max(stride, n + 1);
    }
    table_fill(&s, stride, n_blocks);
    cuda_attention_args &a = s.args;
    uint32_t n_heads = sh.n_kv_heads * sh.group, width = n_heads * sh.head_dim;
    a.pool = {nullptr,       0,
              n_blocks,      n_layers,
              sh.n_kv_heads, sh.block_tokens,
              sh.head_dim,   sh.is_f8 ? OPS_F8 : OPS_BF16,
              nullptr};
    std::vector<float> scales;
    for (uint32_t i = 0; i < n_layers * 2 * sh.n_kv_heads; i++)
        scales.push_back(0.006f + static_cast<float>(random_next() % 1000) * 5e-5f);
    s.scales = device_copy(scales);
    a.pool.scales = sh.is_f8 && sh.group != 5 ? s.scales : nullptr;
    a.pool.block_bytes = ops_kv_block_bytes(&a.pool) + extra_bytes;
    s.pool_bytes = a.pool.block_bytes * a.pool.n_blocks;
    a.pool.base = device_alloc<char>(s.pool_bytes);
    a.q_stride = width + 2u * sh.n_kv_heads * sh.head_dim + (extra_bytes > 0 ? 2 : 8);
    a.out_stride = width + 24;
    s.q_n = n_seqs * a.q_stride;
    s.out_n = n_seqs * a.out_stride;
    a.q = device_alloc<uint16_t>(s.q_n);
    a.out = device_alloc<uint16_t>(s.out_n);
    a.layer = std::min(LAYER, n_layers - 1);
    a.n_heads = n_heads;
    a.window = sh.window;
    a.scale = ldexpf(1.0f / sqrtf(static_cast<float>(sh.head_dim)), -sh.q_exp);
    for (uint32_t h = 0; h < n_heads; h++)
        s.sinks.push_back(static_cast<float>(h % 5) - 1.0f);
    a.sinks = sh.has_sinks ? device_copy(s.sinks) : nullptr;
    a.seqs = {n_seqs, nullptr, device_copy(lens), device_copy(s.table), stride};
    a.n_rows = n_seqs;
    fill_normal<<<256, 256>>>(static_cast<__nv_bfloat16 *>(const_cast<void *>(a.q)), s.q_n,
                              random_next(), ldexpf(2.0f, sh.q_exp));
    size_t work_bytes = cuda_decode_workspace_bytes(n_seqs, n_heads, sh.head_dim, n_sms);
    s.plan = device_alloc<char>(cuda_decode_plan_bytes(n_seqs));
    s.work = device_alloc<char>(work_bytes);
    MUST(cudaMemset(s.plan, 0xff, cuda_decode_plan_bytes(n_seqs)));
    MUST(cudaMemset(s.work, 0, work_bytes));
    fresh_fill(&s);
    return s;
}

void step_destroy(step &s)
{
    const void *all[] = {s.args.pool.base,
                         s.args.q,
                         s.args.out,
                         s.args.sinks,
                         s.plan,
                         s.args.seqs.kv_tokens,
                         s.args.seqs.block_table,
                         s.work,
                         s.seq,
                         s.pos,
                         s.inv_freq,
                         s.cos_sin,
                         s.scales,
                         s.fresh.q_norm,
                         s.fresh.k_norm};
    for (const void *ptr : all)
        MUST(cudaFree(const_cast<void *>(ptr)));
}

/* All of the pool, for times. */
void pool_fill(const step &s)
{
    if (s.sh.is_f8)
        fill_normal_f8<<<2048, 256>>>(static_cast<__nv_fp8_e4m3 *>(s.args.pool.base), s.pool_bytes,
                                      7, 30.0f);
    else
        fill_normal<<<2048, 256>>>(static_cast<__nv_bfloat16 *>(s.args.pool.base), s.pool_bytes / 2,
                                   7, 1.0f);
}

/* The qkv op on rows x, which become q, and on `pool`. */
struct qkv_args qkv_of(const step &s, void *x, const ops_kv_pool &pool)
{
    struct qkv_args a = {};
    a.x = x;
    a.dtype = OPS_BF16;
    a.x_stride = s.args.q_stride;
    a.n_heads = s.args.n_heads;
    a.q_norm = s.fresh.q_norm;
    a.k_norm = s.fresh.k_norm;
    a.eps = s.fresh.eps;
    a.inv_freq = s.inv_freq;
    a.n_rot = s.sh.n_rot;
    a.attn_scale = 1.0f;
    a.pool = pool;
    a.layer = s.args.layer;
    a.rows.n_rows = a.rows.n_seqs = s.args.n_rows;
    a.rows.seq = s.seq;
    a.rows.pos = s.pos;
    a.rows.block_table = s.args.seqs.block_table;
    a.rows.table_stride = s.args.seqs.table_stride;
    a.rows.rows_max = 1;
    a.rows.kv_tokens = s.args.seqs.kv_tokens;
    return a;
}

} // namespace

#endif
