/* Checks and times cuda_attention_prefill.
 *
 *   check_attention_prefill            checks, then times
 *   check_attention_prefill check      checks only (for compute-sanitizer: `check small`)
 *   check_attention_prefill time       times only (`time small`: some of them)
 *   check_attention_prefill f8         checks of fp8 pools, then times of both kinds
 *
 * Inputs are fresh for every seed; the pool, free blocks and the unwritten tail of last blocks are
 * NaN, table entries that no row may look at are out of range, and `out` starts as NaN with gaps
 * that must stay. The reference is one block a row and head in float64. Exit code 1 on any failure.
 */
#include "bench/report.h"
#include "kernels/cuda/cuda_ops.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <cuda_bf16.h>
#include <cuda_fp8.h>
#include <numeric>
#include <random>
#include <vector>

namespace
{

constexpr double TOLERANCE = 6e-3;     /* of the whole output: P and out are rounded to bf16 */
constexpr double TOLERANCE_ROW = 3e-2; /* of the worst (row, head) */
constexpr double PEAK_TFLOPS = 790.0;  /* unless measured: large bf16 products on an H200 */
constexpr uint16_t POISON = 0xffff;

void must(cudaError_t err, const char *what)
{
    if (err == cudaSuccess)
        return;
    printf("%s: %s\n", what, cudaGetErrorString(err));
    exit(1);
}

template <typename T> T *device_alloc(size_t n)
{
    void *ptr = nullptr;
    must(cudaMalloc(&ptr, std::max<size_t>(n * sizeof(T), 16)), "cudaMalloc");
    return (T *)ptr;
}

template <typename T> T *device_copy(const std::vector<T> &v)
{
    T *ptr = device_alloc<T>(v.size());
    must(cudaMemcpy(ptr, v.data(), v.size() * sizeof(T), cudaMemcpyHostToDevice), "copy");
    return ptr;
}

struct chunk {
    uint32_t rows, kv_tokens;
};

struct shape {
    uint32_t n_heads, n_kv_heads, head_dim, block_tokens;
    uint32_t window;
    bool has_sinks, is_odd_block; /* is_odd_block: block_bytes not a multiple of a row */
    std::vector<chunk> chunks;
    bool is_f8 = false;
};

/* ---- values ---------------------------------------------------------------------------------- */

__device__ uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

/* About normal: the sum of four uniform numbers. */
__device__ float noise(uint64_t seed, uint64_t i)
{
    uint64_t x = mix(seed ^ mix(i));
    float sum = 0.0f;
    for (int k = 0; k < 4; k++)
        sum += (float)(x >> (16 * k) & 0xffff) * (1.0f / 65536.0f) - 0.5f;
    return sum * 1.7320508f;
}

__global__ void fill(__nv_bfloat16 *dst, uint32_t cols, uint64_t stride, uint64_t n, uint64_t seed,
                     float scale)
{
    uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        dst[i / cols * stride + i % cols] = __float2bfloat16(noise(seed, i) * scale);
}

/* An element of a plane of the pool, times its scale. */
__device__ double kv_at(const ops_kv_pool &pool, const void *plane, uint64_t i, double scale)
{
    if (pool.dtype != OPS_F8)
        return __bfloat162float(((const __nv_bfloat16 *)plane)[i]);
    return (double)(float)((const __nv_fp8_e4m3 *)plane)[i] * scale;
}

__device__ double kv_scale(const ops_kv_pool &pool, uint32_t layer, uint32_t head, uint32_t is_v)
{
    return pool.scales != nullptr ? pool.scales[(layer * 2 + is_v) * pool.n_kv_heads + head] : 1.0;
}

/* Writes K and V of every position of every sequence in one layer. */
__global__ void fill_pool(cuda_attention_args a, uint64_t seed)
{
    const ops_kv_pool &pool = a.pool;
    uint32_t pos = blockIdx.x, seq = blockIdx.y;
    if (pos >= a.seqs.kv_tokens[seq])
        return;
    uint32_t block =
        a.seqs.block_table[(uint64_t)seq * a.seqs.table_stride + pos / pool.block_tokens];
    if (block >= pool.n_blocks)
        return; /* behind the window of all rows */
    for (uint32_t i = threadIdx.x; i < pool.n_kv_heads * 2 * pool.head_dim; i += blockDim.x) {
        uint32_t col = i % pool.head_dim, plane = i / pool.head_dim;
        uint64_t offset = ops_kv_plane_offset(&pool, block, a.layer, plane / 2, plane % 2);
        uint8_t *dst = (uint8_t *)pool.base + offset;
        uint32_t at = (pos % pool.block_tokens) * pool.head_dim + col;
        float x = noise(seed, ((uint64_t)seq << 48) + ((uint64_t)pos << 16) + i);
        if (pool.dtype == OPS_F8)
            ((__nv_fp8_e4m3 *)dst)[at] =
                __nv_fp8_e4m3(x / (float)kv_scale(pool, a.layer, plane / 2, plane % 2));
        else
            ((__nv_bfloat16 *)dst)[at] = __float2bfloat16(x);
    }
}

/* ---- reference --------------------------------------------------------------------------------
 */

__device__ double block_reduce(double x, bool is_max)
{
    __shared__ double part[256];
    part[threadIdx.x] = x;
    __syncthreads();
    for (int n = 128; n > 0; n /= 2) {
        if ((int)threadIdx.x < n)
            part[threadIdx.x] = is_max ? fmax(part[threadIdx.x], part[threadIdx.x + n])
                                       : part[threadIdx.x] + part[threadIdx.x + n];
        __syncthreads();
    }
    x = part[0];
    __syncthreads();
    return x;
}

/* Squared error and squared reference of (row, head) to err[row, head]. scratch: [n_rows, n_heads,
 * kv_max] */
__global__ void compare(cuda_attention_args a, double *scratch, uint32_t kv_max, uint32_t row_step,
                        double2 *err)
{
    const uint32_t row = blockIdx.x * row_step, head = blockIdx.y, dim = a.pool.head_dim;
    const uint64_t id = (uint64_t)blockIdx.x * a.n_heads + head;
    double *p = scratch + id * kv_max;
    uint32_t seq = 0;
    while (row >= a.seqs.row_first[seq + 1])
        seq++;
    uint32_t pos = a.seqs.kv_tokens[seq] - (a.seqs.row_first[seq + 1] - row);
    uint32_t lo = a.window != 0 && pos + 1 > a.window ? pos + 1 - a.window : 0;
    const uint32_t *table = a.seqs.block_table + (uint64_t)seq * a.seqs.table_stride;
    const uint32_t kv_head = head / (a.n_heads / a.pool.n_kv_heads), bt = a.pool.block_tokens;
    const __nv_bfloat16 *q = (const __nv_bfloat16 *)a.q + row * a.q_stride + head * dim;
    double max = a.sinks != nullptr ? a.sinks[head] : -1e300, sum = 0.0;
    for (uint32_t j = lo + threadIdx.x; j <= pos; j += blockDim.x) {
        const uint8_t *k = (const uint8_t *)a.pool.base +
                           ops_kv_plane_offset(&a.pool, table[j / bt], a.layer, kv_head, 0);
        const double k_scale = kv_scale(a.pool, a.layer, kv_head, 0);
        double s = 0.0;
        for (uint32_t i = 0; i < dim; i++)
            s += (double)__bfloat162float(q[i]) * kv_at(a.pool, k, j % bt * dim + i, k_scale);
        p[j - lo] = s * a.scale;
        max = fmax(max, p[j - lo]);
    }
    max = block_reduce(max, true);
    for (uint32_t j = lo + threadIdx.x; j <= pos; j += blockDim.x) {
        p[j - lo] = exp(p[j - lo] - max);
        sum += p[j - lo];
    }
    sum = block_reduce(sum, false) + (a.sinks != nullptr ? exp(a.sinks[head] - max) : 0.0);
    double err2 = 0.0, ref2 = 0.0;
    for (uint32_t i = threadIdx.x; i < dim; i += blockDim.x) {
        double ref = 0.0;
        for (uint32_t j = lo; j <= pos; j++) {
            const uint8_t *v = (const uint8_t *)a.pool.base +
                               ops_kv_plane_offset(&a.pool, table[j / bt], a.layer, kv_head, 1);
            ref += p[j - lo] *
                   kv_at(a.pool, v, j % bt * dim + i, kv_scale(a.pool, a.layer, kv_head, 1));
        }
        ref /= sum;
        double out =
            __bfloat162float(((const __nv_bfloat16 *)a.out)[row * a.out_stride + head * dim + i]);
        err2 += (out - ref) * (out - ref);
        ref2 += ref * ref;
    }
    err2 = block_reduce(err2, false);
    ref2 = block_reduce(ref2, false);
    if (threadIdx.x == 0)
        err[id] = make_double2(err2, ref2);
}

/* ---- one problem ------------------------------------------------------------------------------
 */

struct problem {
    cuda_attention_args args = {};
    uint32_t rows_max = 0, kv_max = 0;
    uint64_t pool_bytes = 0, out_elems = 0;
    std::vector<void *> owned;

    ~problem()
    {
        for (void *ptr : owned)
            cudaFree(ptr);
    }
};

void problem_make(problem &pb, const shape &sh, uint32_t n_layers, uint32_t gap, uint64_t seed)
{
    std::mt19937_64 rng(seed);
    cuda_attention_args &a = pb.args;
    uint32_t bt = sh.block_tokens, n_seqs = (uint32_t)sh.chunks.size(), n_blocks = 0;
    std::vector<uint32_t> row_first = {0}, kv_tokens;
    for (const chunk &c : sh.chunks) {
        row_first.push_back(row_first.back() + c.rows);
        kv_tokens.push_back(c.kv_tokens);
        pb.rows_max = std::max(pb.rows_max, c.rows);
        pb.kv_max = std::max(pb.kv_max, c.kv_tokens);
        n_blocks += (c.kv_tokens + bt - 1) / bt;
    }
    uint32_t table_stride = (pb.kv_max + bt - 1) / bt + 3, at = 0;
    std::vector<uint32_t> free_blocks(n_blocks + 5), table((size_t)n_seqs * table_stride, ~0u);
    std::iota(free_blocks.begin(), free_blocks.end(), 0u);
    std::shuffle(free_blocks.begin(), free_blocks.end(), rng);
    for (uint32_t s = 0; s < n_seqs; s++) {
        const chunk &c = sh.chunks[s];
        uint32_t pos = c.kv_tokens - c.rows; /* of the first row */
        uint32_t lo = sh.window != 0 && pos + 1 > sh.window ? pos + 1 - sh.window : 0;
        for (uint32_t i = lo / bt; c.rows > 0 && i < (c.kv_tokens + bt - 1) / bt; i++)
            table[(size_t)s * table_stride + i] = free_blocks[at++];
    }
    a.pool.n_blocks = n_blocks + 5;
    a.pool.n_layers = n_layers;
    a.pool.n_kv_heads = sh.n_kv_heads;
    a.pool.block_tokens = bt;
    a.pool.head_dim = sh.head_dim;
    a.pool.dtype = sh.is_f8 ? OPS_F8 : OPS_BF16;
    std::vector<float> scales((size_t)n_layers * 2 * sh.n_kv_heads);
    for (float &x : scales)
        x = std::uniform_real_distribution<float>(0.008f, 0.05f)(rng);
    float *scales_device = device_copy(scales);
    a.pool.scales = sh.is_f8 && sh.head_dim != 96 ? scales_device : nullptr;
    a.pool.block_bytes = ops_kv_block_bytes(&a.pool) + (sh.is_odd_block ? 64 : 0);
    pb.pool_bytes = a.pool.block_bytes * a.pool.n_blocks;
    a.pool.base = device_alloc<uint8_t>(pb.pool_bytes);
    must(cudaMemset(a.pool.base, POISON, pb.pool_bytes), "memset");
    a.n_rows = row_first.back();
    a.n_heads = sh.n_heads;
    a.q_stride = sh.n_heads * sh.head_dim + gap;
    a.out_stride = sh.n_heads * sh.head_dim + gap;
    a.window = sh.window;
    a.scale = 1.0f / sqrtf((float)sh.head_dim);
    pb.out_elems = a.n_rows * a.out_stride + gap;
    __nv_bfloat16 *q = device_alloc<__nv_bfloat16>(a.n_rows * a.q_stride);
    must(cudaMemset(q, POISON, a.n_rows * a.q_stride * 2), "memset");
    uint64_t n = (uint64_t)a.n_rows * sh.n_heads * sh.head_dim;
    fill<<<(uint32_t)((n + 255) / 256), 256>>>(q, sh.n_heads * sh.head_dim, a.q_stride, n, rng(),
                                               2.5f);
    a.q = q;
    a.out = device_alloc<__nv_bfloat16>(pb.out_elems);
    std::vector<float> sinks(sh.n_heads);
    for (float &x : sinks)
        x = std::uniform_real_distribution<float>(-2.0f, 9.0f)(rng);
    float *sinks_device = device_copy(sinks);
    a.sinks = sh.has_sinks ? sinks_device : nullptr;
    a.seqs.n_seqs = n_seqs;
    a.seqs.row_first = device_copy(row_first);
    a.seqs.kv_tokens = device_copy(kv_tokens);
    a.seqs.block_table = device_copy(table);
    a.seqs.table_stride = table_stride;
    for (uint32_t layer = 0; layer < n_layers; layer++) {
        a.layer = layer;
        if (n_layers > 1 && n_layers < 4 && layer != 1)
            continue; /* a check: all but one layer stay NaN */
        fill_pool<<<dim3(pb.kv_max, n_seqs), 256>>>(a, rng());
    }
    a.layer = n_layers > 1 ? 1 : 0;
    must(cudaDeviceSynchronize(), "fill");
    pb.owned = {a.pool.base,
                q,
                a.out,
                sinks_device,
                scales_device,
                (void *)a.seqs.row_first,
                (void *)a.seqs.kv_tokens,
                (void *)a.seqs.block_table};
}

struct verdict {
    double err, worst;
    bool is_good;
};

verdict problem_check(problem &pb, uint32_t gap)
{
    const cuda_attention_args &a = pb.args;
    must(cudaMemset(a.out, POISON, pb.out_elems * 2), "memset");
    must(cuda_attention_prefill(&a, pb.rows_max, nullptr), "launch");
    must(cudaDeviceSynchronize(), "kernel");
    /* As many rows as 1.5 GiB of scratch holds. */
    uint64_t rows_fit = (3ull << 29) / ((uint64_t)a.n_heads * pb.kv_max * 8);
    rows_fit = std::min<uint64_t>(std::max<uint64_t>(rows_fit, 1), 2500);
    uint32_t row_step = (uint32_t)((a.n_rows + rows_fit - 1) / rows_fit);
    if (row_step > 1)
        row_step |= 1; /* all places in a tile */
    uint32_t n_rows = (a.n_rows + row_step - 1) / row_step;
    double *scratch = device_alloc<double>((uint64_t)n_rows * a.n_heads * pb.kv_max);
    std::vector<double2> err((size_t)n_rows * a.n_heads);
    double2 *err_device = device_alloc<double2>(err.size());
    compare<<<dim3(n_rows, a.n_heads), 256>>>(a, scratch, pb.kv_max, row_step, err_device);
    must(cudaMemcpy(err.data(), err_device, err.size() * sizeof(double2), cudaMemcpyDeviceToHost),
         "compare");
    std::vector<uint16_t> out(pb.out_elems);
    must(cudaMemcpy(out.data(), a.out, out.size() * 2, cudaMemcpyDeviceToHost), "copy");
    cudaFree(scratch);
    cudaFree(err_device);

    double err2 = 0.0, ref2 = 0.0, worst = 0.0;
    for (const double2 &e : err) {
        err2 += e.x;
        ref2 += e.y;
        double rel = sqrt(e.x / e.y);
        worst = rel > worst || std::isnan(rel) ? rel : worst;
        if (std::isnan(worst))
            break;
    }
    verdict v = {sqrt(err2 / ref2), worst, true};
    v.is_good = v.err < TOLERANCE && v.worst < TOLERANCE_ROW;
    uint64_t cols = a.out_stride - gap;
    for (uint64_t i = 0; i < out.size(); i++) {
        bool is_gap = i >= a.n_rows * a.out_stride || i % a.out_stride >= cols;
        bool is_nan = (out[i] & 0x7fff) > 0x7f80;
        if (is_gap ? out[i] != POISON : is_nan) {
            printf("    element %llu (row %llu, column %llu) is %s\n", (unsigned long long)i,
                   (unsigned long long)(i / a.out_stride), (unsigned long long)(i % a.out_stride),
                   is_gap ? "overwritten" : "not a number");
            v.is_good = false;
            break;
        }
    }
    return v;
}

std::vector<chunk> chunks_random(uint32_t n, uint32_t rows_max, uint32_t before_max, uint64_t seed)
{
    std::mt19937_64 rng(seed);
    std::vector<chunk> chunks;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t rows = 1 + rng() % rows_max;
        chunks.push_back({rows, rows + (uint32_t)(rng() % 3 == 0 ? 0 : rng() % (before_max + 1))});
    }
    return chunks;
}

bool check_all(bool is_small, bool is_f8, uint64_t seed)
{
    struct named {
        const char *name;
        std::vector<chunk> chunks;
    };
    std::vector<named> batches = {
        {"one row", {{1, 1}}},
        {"odd rows",
         {{1, 130}, {7, 7}, {63, 64}, {64, 64}, {65, 200}, {0, 0}, {128, 129}, {129, 300}}},
        {"varlen 1..700", chunks_random(is_small ? 3 : 17, is_small ? 200 : 700, 900, seed)},
        {"one of 1000", {{1000, 1000}}},
    };
    if (!is_small) {
        batches.push_back({"512 at the end of 8k", {{512, 8192}}});
        batches.push_back({"90 small", chunks_random(90, 70, 400, seed + 1)});
    }
    struct model {
        uint32_t n_heads, n_kv_heads, head_dim, block_tokens, window;
        bool has_sinks, is_odd_block;
    };
    const model models[] = {
        {32, 8, 128, 64, 0, false, false},
        {32, 8, 128, 128, 0, false, false},
        {4, 4, 128, 64, 0, false, false},
        {14, 2, 128, 64, 0, false, false},
        {16, 2, 128, 128, 0, true, false},
        {32, 8, 128, 64, 128, true, false},
        {8, 2, 128, 128, 333, false, false},
        {8, 8, 64, 64, 0, false, false},
        {14, 2, 64, 64, 0, false, false},
        {64, 8, 64, 64, 128, true, false},
        {8, 1, 64, 128, 0, true, false},
        {64, 1, 64, 64, 77, false, false},
        /* simple: blocks, head sizes, strides that the fast one does not take */
        {32, 8, 128, 16, 0, false, false},
        {8, 2, 128, 32, 100, true, false},
        {14, 2, 64, 16, 0, true, false},
        {32, 8, 128, 64, 0, false, true},
        {4, 4, 128, 128, 200, true, true},
        {12, 3, 96, 64, 0, false, false},
        {7, 1, 96, 16, 50, true, false},
        {8, 2, 256, 64, 0, true, false},
        {4, 4, 256, 16, 129, false, false},
        {6, 2, 16, 32, 0, false, false},
        {5, 1, 80, 128, 0, true, false},
        {64, 1, 144, 64, 0, false, false},
    };
    bool is_good = true;
    double worst = 0.0, worst_row = 0.0;
    uint32_t n_checks = 0, n_bad = 0;
    printf("checks of %s, relative error against float64 (limits %.0e of all, %.0e of a row and "
           "head)\n",
           is_f8 ? "fp8" : "bf16", TOLERANCE, TOLERANCE_ROW);
    for (const model &m : models) {
        double err = 0.0, row = 0.0;
        for (const named &b : batches) {
            if (is_small && (m.n_heads > 16 || m.block_tokens == 32))
                continue;
            shape sh = {m.n_heads,   m.n_kv_heads,   m.head_dim, m.block_tokens, m.window,
                        m.has_sinks, m.is_odd_block, b.chunks,   is_f8};
            const uint32_t gap = 8 * (n_checks % 3);
            problem pb;
            problem_make(pb, sh, 3, gap, seed + n_checks);
            verdict v = problem_check(pb, gap);
            n_checks++;
            if (!v.is_good) {
                printf("  BAD %s: all %.2e, worst %.2e\n", b.name, v.err, v.worst);
                n_bad++;
                is_good = false;
            }
            err = std::max(err, v.err);
            row = std::max(row, v.worst);
        }
        printf("  heads %2u:%u dim %3u block %3u window %3u sinks %d odd %d   all %.2e  row %.2e\n",
               m.n_heads, m.n_kv_heads, m.head_dim, m.block_tokens, m.window, m.has_sinks,
               m.is_odd_block, err, row);
        worst = std::max(worst, err);
        worst_row = std::max(worst_row, row);
    }
    printf("checks: %u, bad: %u, worst error %.2e, worst of a row and head %.2e\n", n_checks, n_bad,
           worst, worst_row);
    return is_good;
}

/* ---- times ----------------------------------------------------------------------------------- */

double median_us(problem &pb, uint32_t n_layers, uint32_t n_runs)
{
    cudaEvent_t from, to;
    must(cudaEventCreate(&from), "event");
    must(cudaEventCreate(&to), "event");
    std::vector<float> ms;
    for (uint32_t i = 0; i < n_runs + 3; i++) {
        pb.args.layer = i % n_layers;
        must(cudaEventRecord(from), "record");
        must(cuda_attention_prefill(&pb.args, pb.rows_max, nullptr), "launch");
        must(cudaEventRecord(to), "record");
        must(cudaEventSynchronize(to), "kernel");
        float x = 0.0f;
        must(cudaEventElapsedTime(&x, from, to), "elapsed");
        if (i >= 3)
            ms.push_back(x);
    }
    cudaEventDestroy(from);
    cudaEventDestroy(to);
    std::nth_element(ms.begin(), ms.begin() + ms.size() / 2, ms.end());
    return ms[ms.size() / 2] * 1e3;
}

/* Key positions that the rows of a batch see. */
double pairs(const shape &sh)
{
    double sum = 0.0;
    for (const chunk &c : sh.chunks)
        for (uint32_t i = 0; i < c.rows; i++) {
            uint32_t seen = c.kv_tokens - c.rows + i + 1;
            sum += sh.window != 0 ? std::min(seen, sh.window) : seen;
        }
    return sum;
}

/* Causal over a whole prompt counts as half the square, as is usual. */
double flops(const shape &sh)
{
    double n = 0.0;
    for (const chunk &c : sh.chunks) {
        if (c.rows != c.kv_tokens || sh.window != 0)
            return 4.0 * sh.head_dim * sh.n_heads * pairs(sh);
        n += (double)c.rows * c.rows / 2;
    }
    return 4.0 * sh.head_dim * sh.n_heads * n;
}

/* Each element of q, K, V and out once. */
double bytes_least(const shape &sh)
{
    double n = 0.0;
    for (const chunk &c : sh.chunks)
        n += sh.head_dim *
             (4.0 * sh.n_heads * c.rows + (sh.is_f8 ? 2.0 : 4.0) * sh.n_kv_heads * c.kv_tokens);
    return n;
}

void time_one(const char *name, const shape &sh)
{
    const uint32_t n_layers = 4;
    char what[128];
    problem pb;
    problem_make(pb, sh, n_layers, 0, 99);
    double n = flops(sh), guess_us = n / 400e6;
    double peak = report_ceiling("DYND_BENCH_BF16_TFLOPS", PEAK_TFLOPS);
    uint32_t n_runs = (uint32_t)std::min(60.0, std::max(7.0, 6e4 / guess_us));
    double us = median_us(pb, n_layers, n_runs), again = median_us(pb, n_layers, n_runs);
    int len = snprintf(what, sizeof what, "prefill attention%s %s heads %u:%u dim %u",
                       sh.is_f8 ? " fp8" : "", name, sh.n_heads, sh.n_kv_heads, sh.head_dim);
    if (sh.block_tokens != 64)
        snprintf(what + len, sizeof what - len, " block %u", sh.block_tokens);
    printf("%-68s %10.1f us %8.1f us %7.1f TFLOP/s %5.1f %%\n", what, us, again, n / us / 1e6,
           n / us / 1e4 / peak);
    fflush(stdout);
    report_row(nullptr, what, us, "us", report_limit_us(bytes_least(sh), n, 0));
}

/* Pools of both kinds, one behind the other. */
void time_pairs()
{
    auto whole = [](uint32_t n, uint32_t tokens) {
        return std::vector<chunk>(n, {tokens, tokens});
    };
    for (bool is_f8 : {false, true}) {
        time_one("1 x 1024", {32, 8, 128, 64, 0, false, false, whole(1, 1024), is_f8});
        time_one("1 x 4096", {32, 8, 128, 64, 0, false, false, whole(1, 4096), is_f8});
        time_one("1 x 16384", {32, 8, 128, 64, 0, false, false, whole(1, 16384), is_f8});
        time_one("16 x 1024", {32, 8, 128, 64, 0, false, false, whole(16, 1024), is_f8});
        time_one("512 at the end of 8k", {32, 8, 128, 64, 0, false, false, {{512, 8192}}, is_f8});
        time_one("1 x 4096 sinks", {64, 8, 64, 64, 0, true, false, whole(1, 4096), is_f8});
        time_one("simple 1 x 4096", {32, 8, 128, 16, 0, false, false, whole(1, 4096), is_f8});
        time_one("simple 1 x 4096", {16, 4, 256, 64, 0, false, false, whole(1, 4096), is_f8});
    }
}

void time_all(bool is_small)
{
    printf("times (share of %.0f TFLOP/s)\n",
           report_ceiling("DYND_BENCH_BF16_TFLOPS", PEAK_TFLOPS));
    auto whole = [](uint32_t n, uint32_t tokens) {
        return std::vector<chunk>(n, {tokens, tokens});
    };
    for (uint32_t tokens : {512u, 1024u, 2048u, 4096u, 8192u, 16384u, 32768u}) {
        if (is_small && (tokens == 2048 || tokens == 8192 || tokens == 32768))
            continue;
        char name[64];
        snprintf(name, sizeof name, "1 x %u", tokens);
        time_one(name, {32, 8, 128, 64, 0, false, false, whole(1, tokens)});
        if (tokens == 4096 || tokens == 16384)
            time_one(name, {32, 8, 128, 128, 0, false, false, whole(1, tokens)});
        if (tokens < 8192) {
            snprintf(name, sizeof name, "%u x %u", 16384 / tokens, tokens);
            time_one(name, {32, 8, 128, 64, 0, false, false, whole(16384 / tokens, tokens)});
        }
    }
    time_one("512 at the end of 8k", {32, 8, 128, 64, 0, false, false, {{512, 8192}}});
    time_one("512 at the end of 32k", {32, 8, 128, 64, 0, false, false, {{512, 32768}}});
    time_one("2048 at the end of 16k", {32, 8, 128, 64, 0, false, false, {{2048, 16384}}});
    time_one("17 varlen 1..700", {32, 8, 128, 64, 0, false, false, chunks_random(17, 700, 900, 5)});
    time_one("1 x 8192 window 1024", {32, 8, 128, 64, 1024, false, false, whole(1, 8192)});
    time_one("1 x 4096 sinks", {64, 8, 64, 64, 0, true, false, whole(1, 4096)});
    time_one("1 x 16384 sinks", {64, 8, 64, 64, 0, true, false, whole(1, 16384)});
    time_one("1 x 8192 sinks window 128", {64, 8, 64, 64, 128, true, false, whole(1, 8192)});
    time_pairs();
    if (is_small)
        return;
    time_one("simple 1 x 4096", {32, 8, 128, 16, 0, false, false, whole(1, 4096)});
    time_one("simple 1 x 4096", {16, 4, 256, 64, 0, false, false, whole(1, 4096)});
}

} // namespace

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "all";
    bool is_small = argc > 2 && strcmp(argv[2], "small") == 0, is_good = true;
    uint64_t seed = std::random_device{}();
    cudaDeviceProp prop;
    must(cudaGetDeviceProperties(&prop, 0), "device");
    printf("%s, %d SMs, seed %llu\n", prop.name, prop.multiProcessorCount,
           (unsigned long long)seed);
    if (strcmp(what, "f8") != 0 && strcmp(what, "time") != 0)
        is_good = check_all(is_small, false, seed);
    if (strcmp(what, "time") != 0)
        is_good = check_all(is_small, true, seed) && is_good;
    if (strcmp(what, "f8") == 0 && is_good)
        time_pairs();
    else if (strcmp(what, "check") != 0 && is_good)
        time_all(is_small);
    printf(is_good ? "good\n" : "FAILED\n");
    return is_good ? 0 : 1;
}
