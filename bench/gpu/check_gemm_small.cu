/* Checks and times kernels/cuda/gemm_small.cu.
 *   check_gemm_small [check] [shapes] [sweep] [chain] [lt]   default: check shapes chain lt
 * check   fresh random inputs against float64, odd sizes, poisoned outputs, bits of a row alone and
 *         in a batch, workspace counters, plain kernel; exit 1 on failure
 * shapes  time of one launch inside a graph of many, weights rotating through a pool larger than L2
 * sweep   the same in other ways
 * chain   the four GEMMs of a layer of Llama-3.1-8B, 32 layers, one graph
 * lt      adds cuBLASLt (loaded at run time): the fastest of 16 heuristic results */
#include "kernels/cuda/cuda_ops.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <dlfcn.h>
#include <functional>
#include <random>
#include <string>
#include <vector>

extern "C" cudaError_t cuda_gemm_small_tuned(const struct cuda_gemm_args *args, uint32_t n_sms,
                                             void *workspace, cudaStream_t stream, uint32_t how);

namespace
{

#define CHECK(call)                                                                                \
    do {                                                                                           \
        cudaError_t check_err = (call);                                                            \
        if (check_err != cudaSuccess) {                                                            \
            fprintf(stderr, "%s:%d %s: %s\n", __FILE__, __LINE__, #call,                           \
                    cudaGetErrorString(check_err));                                                \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

using bf16 = __nv_bfloat16;

struct bench {
    cudaStream_t stream;
    uint32_t n_sms;
    void *workspace;
    uint8_t *pool; /* weights */
    size_t pool_bytes;
    double read_bw; /* bytes/s, measured */
    bool with_lt;
    uint64_t seed;
};

__device__ __forceinline__ uint32_t hash(uint64_t v)
{
    v = (v ^ (v >> 31)) * 0x9E3779B97F4A7C15ull;
    v = (v ^ (v >> 29)) * 0xBF58476D1CE4E5B9ull;
    return uint32_t((v ^ (v >> 32)) >> 8);
}

__global__ void fill_kernel(bf16 *dst, uint64_t n, uint64_t seed, float scale)
{
    uint64_t step = uint64_t(gridDim.x) * blockDim.x;
    for (uint64_t i = blockIdx.x * uint64_t(blockDim.x) + threadIdx.x; i < n; i += step)
        dst[i] = __float2bfloat16_rn(
            (float(hash(i + seed * 1000003ull) & 0xffffu) / 32768.0f - 1.0f) * scale);
}

__global__ void reference_kernel(const bf16 *x, uint64_t x_stride, const bf16 *w, const float *bias,
                                 double *y, uint32_t n_rows, uint32_t n, uint32_t k)
{
    uint64_t i = blockIdx.x * uint64_t(blockDim.x) + threadIdx.x;
    if (i >= uint64_t(n_rows) * n)
        return;
    uint64_t token = i / n, row = i % n;
    double sum = bias != nullptr ? double(bias[row]) : 0.0;
    for (uint32_t c = 0; c < k; c++)
        sum += double(__bfloat162float(x[token * x_stride + c])) *
               double(__bfloat162float(w[row * k + c]));
    y[i] = sum;
}

/* Reads all of src; the write never happens. */
template <int LOADS> __global__ void read_kernel(const uint4 *src, uint64_t n, uint32_t *dst)
{
    uint32_t sum = 0;
    uint64_t step = uint64_t(gridDim.x) * blockDim.x;
    uint64_t i = blockIdx.x * uint64_t(blockDim.x) + threadIdx.x;
    for (; i + (LOADS - 1) * step < n; i += LOADS * step) {
        uint4 v[LOADS];
#pragma unroll
        for (int j = 0; j < LOADS; j++)
            v[j] = __ldcs(src + i + j * step);
#pragma unroll
        for (int j = 0; j < LOADS; j++)
            sum ^= v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
    }
    for (; i < n; i += step)
        sum ^= __ldcs(src + i).x;
    if (sum == 0x12345678u)
        *dst = sum;
}

__global__ void copy_kernel(const uint4 *src, uint64_t n, uint4 *dst)
{
    uint64_t step = uint64_t(gridDim.x) * blockDim.x;
    uint64_t i = blockIdx.x * uint64_t(blockDim.x) + threadIdx.x;
    for (; i + 3 * step < n; i += 4 * step) {
        uint4 v[4];
#pragma unroll
        for (int j = 0; j < 4; j++)
            v[j] = __ldcs(src + i + j * step);
#pragma unroll
        for (int j = 0; j < 4; j++)
            __stcs(dst + i + j * step, v[j]);
    }
}

void fill(const bench &b, void *dst, uint64_t n, uint64_t seed, float scale)
{
    fill_kernel<<<2048, 256, 0, b.stream>>>(static_cast<bf16 *>(dst), n, seed, scale);
    CHECK(cudaGetLastError());
}

template <class T> T *device_alloc(size_t n)
{
    void *p = nullptr;
    CHECK(cudaMalloc(&p, n * sizeof(T)));
    return static_cast<T *>(p);
}

/* Median seconds of one replay of a graph of what `work` launches; negative: it cannot be captured.
 */
double graph_seconds(const bench &b, const std::function<bool()> &work, int n_replays)
{
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    CHECK(cudaStreamBeginCapture(b.stream, cudaStreamCaptureModeRelaxed));
    bool is_ok = work();
    cudaError_t err = cudaStreamEndCapture(b.stream, &graph);
    if (!is_ok || err != cudaSuccess) {
        cudaGetLastError();
        return -1.0;
    }
    CHECK(cudaGraphInstantiate(&exec, graph, 0));
    cudaEvent_t start, stop;
    CHECK(cudaEventCreate(&start));
    CHECK(cudaEventCreate(&stop));
    std::vector<double> seconds;
    for (int i = 0; i < n_replays + 2; i++) {
        CHECK(cudaEventRecord(start, b.stream));
        CHECK(cudaGraphLaunch(exec, b.stream));
        CHECK(cudaEventRecord(stop, b.stream));
        CHECK(cudaEventSynchronize(stop));
        float ms = 0.0f;
        CHECK(cudaEventElapsedTime(&ms, start, stop));
        if (i >= 2)
            seconds.push_back(double(ms) * 1e-3);
    }
    CHECK(cudaGetLastError());
    CHECK(cudaEventDestroy(start));
    CHECK(cudaEventDestroy(stop));
    CHECK(cudaGraphExecDestroy(exec));
    CHECK(cudaGraphDestroy(graph));
    std::sort(seconds.begin(), seconds.end());
    return seconds[seconds.size() / 2];
}

/* ---- correctness ----------------------------------------------------------------------------- */

struct problem {
    uint32_t m, n, k;
    enum ops_dtype y_dtype;
    bool has_bias;
    uint32_t x_pad, y_pad, n_sms, how, pdl;
};

struct problem_data {
    bf16 *x, *w;
    float *bias;
    uint8_t *y;
    double *ref;
    size_t y_bytes;
};

std::vector<uint8_t> problem_run(const bench &b, const problem &q, const problem_data &d,
                                 uint32_t row_first, uint32_t n_rows)
{
    CHECK(cudaMemsetAsync(d.y, 0xff, d.y_bytes, b.stream));
    struct cuda_gemm_args a = {};
    a.x = d.x + uint64_t(row_first) * (q.k + q.x_pad);
    a.x_stride = q.k + q.x_pad;
    a.w = d.w;
    a.bias = q.has_bias ? d.bias : nullptr;
    a.y = d.y;
    a.y_stride = q.n + q.y_pad;
    a.y_dtype = q.y_dtype;
    a.n_rows = n_rows;
    a.n = q.n;
    a.k = q.k;
    a.pdl = q.pdl;
    CHECK(cuda_gemm_small_tuned(&a, q.n_sms, b.workspace, b.stream, q.how));
    std::vector<uint8_t> y(d.y_bytes);
    CHECK(cudaMemcpyAsync(y.data(), d.y, d.y_bytes, cudaMemcpyDeviceToHost, b.stream));
    CHECK(cudaStreamSynchronize(b.stream));
    return y;
}

double y_value(const std::vector<uint8_t> &y, enum ops_dtype dtype, size_t i)
{
    if (dtype == OPS_F32) {
        float v;
        memcpy(&v, &y[i * 4], 4);
        return v;
    }
    uint16_t h;
    memcpy(&h, &y[i * 2], 2);
    uint32_t bits = uint32_t(h) << 16;
    float v;
    memcpy(&v, &bits, 4);
    return v;
}

/* 0 when right. */
int problem_check(bench &b, const problem &q, double *out_err, bool *out_invariant)
{
    problem_data d;
    size_t n_x = size_t(q.m) * (q.k + q.x_pad), n_w = size_t(q.n) * q.k;
    size_t elem = ops_dtype_bytes(q.y_dtype);
    d.y_bytes = size_t(q.m) * (q.n + q.y_pad) * elem;
    uint8_t *x_raw = device_alloc<uint8_t>(n_x * 2 + 4096),
            *w_raw = device_alloc<uint8_t>(n_w * 2 + 4096);
    CHECK(cudaMemset(x_raw, 0xff, n_x * 2 + 4096)); /* NaN around the operands */
    CHECK(cudaMemset(w_raw, 0xff, n_w * 2 + 4096));
    d.x = reinterpret_cast<bf16 *>(x_raw + 16);
    d.w = reinterpret_cast<bf16 *>(w_raw + 48);
    d.y = device_alloc<uint8_t>(d.y_bytes);
    d.ref = device_alloc<double>(size_t(q.m) * q.n);
    d.bias = device_alloc<float>(q.n);
    fill(b, d.x, n_x, b.seed++, 1.0f);
    fill(b, d.w, n_w, b.seed++, 1.0f);
    std::vector<float> bias(q.n);
    for (uint32_t i = 0; i < q.n; i++)
        bias[i] = float(i % 17) - 8.0f;
    CHECK(cudaMemcpy(d.bias, bias.data(), q.n * 4, cudaMemcpyHostToDevice));
    CHECK(cudaStreamSynchronize(b.stream));
    uint64_t n_out = uint64_t(q.m) * q.n;
    reference_kernel<<<unsigned((n_out + 127) / 128), 128, 0, b.stream>>>(
        d.x, q.k + q.x_pad, d.w, q.has_bias ? d.bias : nullptr, d.ref, q.m, q.n, q.k);
    CHECK(cudaGetLastError());
    std::vector<double> ref(n_out);
    CHECK(cudaMemcpyAsync(ref.data(), d.ref, n_out * 8, cudaMemcpyDeviceToHost, b.stream));
    CHECK(cudaStreamSynchronize(b.stream));

    std::vector<uint8_t> y = problem_run(b, q, d, 0, q.m);
    double diff = 0.0, norm = 0.0, worst = 0.0;
    int n_bad = 0;
    for (uint32_t t = 0; t < q.m; t++)
        for (uint32_t i = 0; i < q.n; i++) {
            double r = ref[size_t(t) * q.n + i];
            double e = y_value(y, q.y_dtype, size_t(t) * (q.n + q.y_pad) + i) - r;
            if (!(std::fabs(e) < 1e30))
                n_bad++;
            diff += e * e;
            norm += r * r;
            worst = std::max(worst, std::fabs(e));
        }
    for (uint32_t t = 0; t < q.m; t++) /* the gap between rows is not touched */
        for (size_t i = (size_t(t) * (q.n + q.y_pad) + q.n) * elem;
             i < size_t(t + 1) * (q.n + q.y_pad) * elem; i++)
            n_bad += y[i] != 0xff;
    double err = std::sqrt(diff / std::max(norm, 1e-30));
    double limit = q.y_dtype == OPS_F32 ? 1e-5 : 3.95e-3;
    bool is_bad = n_bad != 0 || !(err < limit);
    *out_err = err;
    for (int i = 0; i < 2 && !is_bad; i++)
        if (problem_run(b, q, d, 0, q.m) != y)
            is_bad = true, fprintf(stderr, "not the same bits twice\n");
    *out_invariant = true;
    size_t row_bytes = q.n * elem;
    for (uint32_t t = 0; t < q.m && t < 20; t += 3) {
        std::vector<uint8_t> alone = problem_run(b, q, d, t, 1);
        if (memcmp(alone.data(), &y[size_t(t) * (q.n + q.y_pad) * elem], row_bytes) != 0)
            *out_invariant = false;
    }
    std::vector<uint8_t> counters(4096);
    CHECK(cudaMemcpy(counters.data(), b.workspace, counters.size(), cudaMemcpyDeviceToHost));
    for (uint8_t c : counters)
        if (c != 0) {
            fprintf(stderr, "a counter is not zero\n");
            is_bad = true;
            break;
        }
    if (is_bad)
        fprintf(stderr,
                "BAD m %u n %u k %u f32 %d bias %d sms %u how %u: err %.2e worst %.2e "
                "bad %d\n",
                q.m, q.n, q.k, q.y_dtype == OPS_F32, q.has_bias, q.n_sms, q.how, err, worst, n_bad);
    CHECK(cudaFree(x_raw));
    CHECK(cudaFree(w_raw));
    CHECK(cudaFree(d.y));
    CHECK(cudaFree(d.ref));
    CHECK(cudaFree(d.bias));
    return is_bad ? 1 : 0;
}

int check_all(bench &b)
{
    std::mt19937 rng(unsigned(b.seed));
    std::vector<problem> list;
    const uint32_t ns[] = {1, 7, 15, 16, 17, 63, 64, 65, 129, 1000, 2048, 4100};
    const uint32_t ks[] = {8, 24, 72, 64, 128, 192, 576, 1024, 2048, 4096, 4160, 8256, 14336};
    const uint32_t ms[] = {1, 2, 3, 4, 5, 7, 8, 9, 13, 15, 16, 17, 64};
    const uint32_t hows[] = {0, 1, 2, 4, 8, 10, 0x300};
    const uint32_t sms[] = {b.n_sms, b.n_sms, 16, 7, 1};
    for (int i = 0; i < 360; i++)
        list.push_back({ms[rng() % 13], ns[rng() % 12], ks[rng() % 13],
                        rng() % 2 ? OPS_F32 : OPS_BF16, rng() % 2 == 0, uint32_t(rng() % 2 * 40),
                        uint32_t(rng() % 2 * 5), sms[rng() % 5], hows[rng() % 7],
                        uint32_t(rng() % 2)});
    for (int i = 0; i < 24; i++)
        list.push_back({ms[rng() % 13], ns[rng() % 12], ks[rng() % 13],
                        rng() % 2 ? OPS_F32 : OPS_BF16, rng() % 2 == 0, uint32_t(rng() % 2 * 40),
                        uint32_t(rng() % 2 * 5), b.n_sms, 255, 0});
    const uint32_t real[][2] = {{6144, 4096}, {4096, 4096}, {28672, 4096}, {4096, 14336},
                                {4096, 1024}, {1024, 2048}, {6144, 1024},  {1024, 3072}};
    for (const auto &s : real)
        for (uint32_t m : {1u, 4u, 8u, 16u})
            for (uint32_t how = 0; how < 3; how++)
                list.push_back({m, s[0], s[1], OPS_F32, false, 0, 0, b.n_sms, how, 1});
    int n_bad = 0, n_variant = 0, n_variant_16 = 0;
    double worst[2] = {};
    for (const problem &q : list) {
        double err;
        bool is_invariant;
        n_bad += problem_check(b, q, &err, &is_invariant);
        worst[q.y_dtype == OPS_BF16] = std::max(worst[q.y_dtype == OPS_BF16], err);
        n_variant += !is_invariant;
        n_variant_16 += !is_invariant && q.m <= 16;
    }
    printf("check: %zu problems, %d bad, worst relative error f32 %.2e bf16 %.2e\n", list.size(),
           n_bad, worst[0], worst[1]);
    printf("check: a row's bits depend on the batch in %d problems, in %d of at most 16 rows\n",
           n_variant, n_variant_16);
    return n_bad + n_variant_16;
}

/* ---- ceilings -------------------------------------------------------------------------------- */

void ceilings(bench &b)
{
    size_t bytes = b.pool_bytes / 2;
    uint8_t *dst = b.pool + bytes;
    double copy = 1e9;
    for (int per_sm : {2, 4, 8})
        copy = std::min(
            copy, graph_seconds(
                      b,
                      [&] {
                          copy_kernel<<<b.n_sms * per_sm, per_sm == 8 ? 256 : 512, 0, b.stream>>>(
                              reinterpret_cast<const uint4 *>(b.pool), bytes / 16,
                              reinterpret_cast<uint4 *>(dst));
                          return cudaGetLastError() == cudaSuccess;
                      },
                      5));
    fill(b, b.pool, b.pool_bytes / 2, b.seed++, 1.0f);
    uint32_t *out = static_cast<uint32_t *>(b.workspace) + 65536; /* hardly ever written */
    size_t read = b.pool_bytes;
    double best = 1e9;
    for (int per_sm : {1, 2, 4, 8}) {
        for (int loads : {4, 8}) {
            double s = graph_seconds(
                b,
                [&] {
                    const uint4 *src = reinterpret_cast<const uint4 *>(b.pool);
                    int threads = per_sm == 1 ? 1024 : per_sm == 8 ? 256 : 512;
                    if (loads == 4)
                        read_kernel<4>
                            <<<b.n_sms * per_sm, threads, 0, b.stream>>>(src, read / 16, out);
                    else
                        read_kernel<8>
                            <<<b.n_sms * per_sm, threads, 0, b.stream>>>(src, read / 16, out);
                    return cudaGetLastError() == cudaSuccess;
                },
                7);
            best = std::min(best, s);
        }
    }
    b.read_bw = double(read) / best;
    printf("ceilings: copy %.0f GB/s (read + written), read only %.0f GB/s\n",
           2.0 * double(bytes) / copy * 1e-9, b.read_bw * 1e-9);
}

/* ---- cuBLASLt -------------------------------------------------------------------------------- */

struct lt_api {
    decltype(&cublasLtCreate) create;
    decltype(&cublasLtMatmulDescCreate) desc_create;
    decltype(&cublasLtMatmulDescSetAttribute) desc_set;
    decltype(&cublasLtMatrixLayoutCreate) layout_create;
    decltype(&cublasLtMatmulPreferenceCreate) pref_create;
    decltype(&cublasLtMatmulPreferenceSetAttribute) pref_set;
    decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic;
    decltype(&cublasLtMatmul) matmul;
    cublasLtHandle_t handle;
    void *workspace;
    bool is_loaded;
};
/* Ways of the sweep; see cuda_gemm_small_tuned. */
constexpr uint32_t kHows[] = {0, 8, 1, 2, 4, 0x500, 0x600, 0x800};
constexpr size_t kLtWorkspace = size_t(64) << 20;

lt_api lt_load()
{
    lt_api lt = {};
    void *so = nullptr;
    for (const char *name : {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"})
        if (so == nullptr)
            so = dlopen(name, RTLD_NOW);
    if (so == nullptr) {
        fprintf(stderr, "no cuBLASLt: %s\n", dlerror());
        return lt;
    }
#define LT_SYM(field, name) lt.field = reinterpret_cast<decltype(lt.field)>(dlsym(so, #name))
    LT_SYM(create, cublasLtCreate);
    LT_SYM(desc_create, cublasLtMatmulDescCreate);
    LT_SYM(desc_set, cublasLtMatmulDescSetAttribute);
    LT_SYM(layout_create, cublasLtMatrixLayoutCreate);
    LT_SYM(pref_create, cublasLtMatmulPreferenceCreate);
    LT_SYM(pref_set, cublasLtMatmulPreferenceSetAttribute);
    LT_SYM(heuristic, cublasLtMatmulAlgoGetHeuristic);
    LT_SYM(matmul, cublasLtMatmul);
    lt.is_loaded = lt.create(&lt.handle) == CUBLAS_STATUS_SUCCESS;
    lt.workspace = device_alloc<uint8_t>(kLtWorkspace);
    return lt;
}

struct lt_plan {
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t w, x, y;
    cublasLtMatmulHeuristicResult_t results[16];
    int n_results, best;
};

lt_plan lt_plan_create(const lt_api &lt, uint32_t m, uint32_t n, uint32_t k, enum ops_dtype y_dtype,
                       uint64_t x_stride)
{
    lt_plan p = {};
    cublasOperation_t trans = CUBLAS_OP_T;
    cublasLtMatmulPreference_t pref;
    size_t ws = kLtWorkspace;
    lt.desc_create(&p.desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    lt.desc_set(p.desc, CUBLASLT_MATMUL_DESC_TRANSA, &trans, sizeof(trans));
    lt.layout_create(&p.w, CUDA_R_16BF, k, n, k);
    lt.layout_create(&p.x, CUDA_R_16BF, k, m, int64_t(x_stride));
    lt.layout_create(&p.y, y_dtype == OPS_F32 ? CUDA_R_32F : CUDA_R_16BF, n, m, n);
    lt.pref_create(&pref);
    lt.pref_set(pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &ws, sizeof(ws));
    lt.heuristic(lt.handle, p.desc, p.w, p.x, p.y, p.y, pref, 16, p.results, &p.n_results);
    return p;
}

bool lt_run(const lt_api &lt, const lt_plan &p, int algo, const void *w, const void *x, void *y,
            cudaStream_t stream)
{
    float one = 1.0f, zero = 0.0f;
    return lt.matmul(lt.handle, p.desc, &one, w, p.w, x, p.x, &zero, y, p.y, y, p.y,
                     &p.results[algo].algo, lt.workspace, kLtWorkspace,
                     stream) == CUBLAS_STATUS_SUCCESS;
}

/* ---- single shapes --------------------------------------------------------------------------- */

struct gemm_shape {
    const char *name;
    uint32_t n, k;
    enum ops_dtype y_dtype;
};

struct shape_bench {
    const bench *b;
    gemm_shape s;
    uint32_t m, n_launches, n_copies;
    size_t w_bytes;
    bf16 *x;
    uint8_t *y;
};

double ours_seconds(const shape_bench &sb, uint32_t how, uint32_t pdl)
{
    double s = graph_seconds(
        *sb.b,
        [&] {
            for (uint32_t i = 0; i < sb.n_launches; i++) {
                struct cuda_gemm_args a = {};
                a.x = sb.x;
                a.x_stride = sb.s.k;
                a.w = sb.b->pool + i % sb.n_copies * sb.w_bytes;
                a.y = sb.y;
                a.y_stride = sb.s.n;
                a.y_dtype = sb.s.y_dtype;
                a.n_rows = sb.m;
                a.n = sb.s.n;
                a.k = sb.s.k;
                a.pdl = pdl;
                CHECK(cuda_gemm_small_tuned(&a, sb.b->n_sms, sb.b->workspace, sb.b->stream, how));
            }
            return true;
        },
        5);
    return s / sb.n_launches;
}

double lt_seconds(const lt_api &lt, const shape_bench &sb, int *out_best)
{
    lt_plan p = lt_plan_create(lt, sb.m, sb.s.n, sb.s.k, sb.s.y_dtype, sb.s.k);
    double best = 1e9;
    for (int algo = 0; algo < p.n_results; algo++) {
        if (p.results[algo].state != CUBLAS_STATUS_SUCCESS)
            continue;
        double s = graph_seconds(
            *sb.b,
            [&] {
                for (uint32_t i = 0; i < sb.n_launches; i++)
                    if (!lt_run(lt, p, algo, sb.b->pool + i % sb.n_copies * sb.w_bytes, sb.x, sb.y,
                                sb.b->stream))
                        return false;
                return true;
            },
            3);
        if (s > 0.0 && s < best) {
            best = s;
            *out_best = algo;
        }
    }
    return best / sb.n_launches;
}

const gemm_shape kShapes[] = {
    {"8b qkv", 6144, 4096, OPS_BF16},     {"8b o", 4096, 4096, OPS_BF16},
    {"8b gateup", 28672, 4096, OPS_BF16}, {"8b down", 4096, 14336, OPS_BF16},
    {"8b lmhead", 128256, 4096, OPS_F32}, {"q06 qkv", 4096, 1024, OPS_BF16},
    {"q06 o", 1024, 2048, OPS_BF16},      {"q06 gateup", 6144, 1024, OPS_BF16},
    {"q06 down", 1024, 3072, OPS_BF16},   {"q06 lmhead", 151936, 1024, OPS_F32},
};

shape_bench shape_init(const bench &b, const gemm_shape &s, uint32_t m, bf16 *x, uint8_t *y)
{
    shape_bench sb = {};
    sb.b = &b;
    sb.s = s;
    sb.m = m;
    sb.w_bytes = size_t(s.n) * s.k * 2;
    sb.n_copies = uint32_t(b.pool_bytes / sb.w_bytes);
    sb.n_launches = std::min(std::max(sb.n_copies, 4u), 320u);
    sb.n_copies = std::min(sb.n_copies, sb.n_launches);
    sb.x = x;
    sb.y = y;
    return sb;
}

void time_shapes(bench &b, const lt_api &lt, bool is_sweep)
{
    bf16 *x = device_alloc<bf16>(64 * 14336);
    uint8_t *y = device_alloc<uint8_t>(size_t(64) * 151936 * 4);
    fill(b, x, 64 * 14336, b.seed++, 1.0f);
    for (const gemm_shape &s : kShapes) {
        for (uint32_t m : {1u, 2u, 4u, 8u, 16u}) {
            shape_bench sb = shape_init(b, s, m, x, y);
            double limit = double(sb.w_bytes) / b.read_bw;
            if (is_sweep) {
                if (m == 2 || m == 4)
                    continue;
                printf("sweep %-10s m %2u limit %6.2f us  PDL, us:", s.name, m, limit * 1e6);
                for (uint32_t how : kHows)
                    printf("  %x: %.2f", how, ours_seconds(sb, how, 1) * 1e6);
                printf("\n");
                continue;
            }
            double plain = ours_seconds(sb, 0, 0), pdl = ours_seconds(sb, 0, 1);
            int algo = -1;
            double ref = lt.is_loaded ? lt_seconds(lt, sb, &algo) : 0.0;
            printf("shape %-10s m %2u limit %6.2f us  ours %6.2f us %5.1f%%  PDL %6.2f us %5.1f%%  "
                   "lt %6.2f us %5.1f%% (#%d)\n",
                   s.name, m, limit * 1e6, plain * 1e6, limit / plain * 100, pdl * 1e6,
                   limit / pdl * 100, ref * 1e6, ref > 0 ? limit / ref * 100 : 0.0, algo);
        }
        fflush(stdout);
    }
    CHECK(cudaFree(x));
    CHECK(cudaFree(y));
}

/* ---- chain of a model's layers --------------------------------------------------------------- */

struct chain {
    std::vector<uint8_t *> w; /* [layer * 4 + op] */
    bf16 *act[5];             /* in, qkv, o, gate/up, down = next in */
};
const gemm_shape *const kLayer = kShapes;
constexpr uint32_t kLayers = 32;

/* Stands for the norms, attention and activation between the GEMMs: reads and writes what passes.
 */
__global__ void between_kernel(bf16 *v, uint32_t n)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
    for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
        v[i] = __float2bfloat16_rn(__bfloat162float(v[i]) * 1.0f);
}

void between_run(const bench &b, bf16 *v, uint32_t n, uint32_t pdl)
{
    cudaLaunchAttribute attr = {};
    attr.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attr.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(std::min(b.n_sms, (n + 255) / 256));
    config.blockDim = dim3(256);
    config.stream = b.stream;
    config.attrs = &attr;
    config.numAttrs = pdl;
    CHECK(cudaLaunchKernelEx(&config, between_kernel, v, n));
}

/* n_between: small kernels after each GEMM. */
void chain_run(const bench &b, const chain &c, uint32_t m, uint32_t how, uint32_t pdl,
               uint32_t n_between)
{
    for (uint32_t i = 0; i < kLayers * 4; i++) {
        const gemm_shape &s = kLayer[i % 4];
        struct cuda_gemm_args a = {};
        a.x = i % 4 == 0 && i > 0 ? c.act[4] : c.act[i % 4];
        a.x_stride = i % 4 == 0 ? 4096 : kLayer[i % 4 - 1].n;
        a.w = c.w[i];
        a.y = c.act[i % 4 + 1];
        a.y_stride = s.n;
        a.y_dtype = OPS_BF16;
        a.n_rows = m;
        a.n = s.n;
        a.k = s.k;
        a.pdl = pdl;
        CHECK(cuda_gemm_small_tuned(&a, b.n_sms, b.workspace, b.stream, how));
        for (uint32_t j = 0; j < n_between; j++)
            between_run(b, c.act[i % 4 + 1], m * s.n, pdl);
    }
}

std::vector<uint8_t> chain_output(const bench &b, const chain &c, uint32_t m)
{
    std::vector<uint8_t> y(size_t(m) * 4096 * 2);
    CHECK(cudaMemcpyAsync(y.data(), c.act[4], y.size(), cudaMemcpyDeviceToHost, b.stream));
    CHECK(cudaStreamSynchronize(b.stream));
    for (int i = 1; i < 5; i++)
        CHECK(cudaMemsetAsync(c.act[i], 0xff, size_t(64) * 28672 * 2, b.stream));
    return y;
}

double chain_seconds(const bench &b, const chain &c, uint32_t m, uint32_t how, uint32_t pdl,
                     uint32_t n_between = 0)
{
    return graph_seconds(
        b,
        [&] {
            chain_run(b, c, m, how, pdl, n_between);
            return true;
        },
        9);
}

double chain_lt_seconds(const bench &b, const lt_api &lt, const chain &c, uint32_t m)
{
    lt_plan plans[4];
    for (int op = 0; op < 4; op++) {
        shape_bench sb =
            shape_init(b, kLayer[op], m, c.act[0], reinterpret_cast<uint8_t *>(c.act[3]));
        int best = -1;
        lt_seconds(lt, sb, &best);
        plans[op] = lt_plan_create(lt, m, kLayer[op].n, kLayer[op].k, OPS_BF16,
                                   op == 0 ? 4096 : kLayer[op - 1].n);
        plans[op].best = std::min(std::max(best, 0), plans[op].n_results - 1);
    }
    return graph_seconds(
        b,
        [&] {
            for (uint32_t i = 0; i < kLayers * 4; i++) {
                const void *x = i % 4 == 0 && i > 0 ? c.act[4] : c.act[i % 4];
                if (!lt_run(lt, plans[i % 4], plans[i % 4].best, c.w[i], x, c.act[i % 4 + 1],
                            b.stream))
                    return false;
            }
            return true;
        },
        9);
}

int time_chain(bench &b, const lt_api &lt, bool is_sweep)
{
    chain c;
    double bytes = 0.0;
    for (uint32_t i = 0; i < kLayers * 4; i++) {
        const gemm_shape &s = kLayer[i % 4];
        size_t n = size_t(s.n) * s.k;
        c.w.push_back(device_alloc<uint8_t>(n * 2));
        fill(b, c.w.back(), n, b.seed++, std::sqrt(3.0f / float(s.k)));
        bytes += double(n) * 2;
    }
    for (bf16 *&a : c.act)
        a = device_alloc<bf16>(size_t(64) * 28672);
    fill(b, c.act[0], size_t(64) * 28672, b.seed++, 1.0f);
    double limit = bytes / b.read_bw;
    int n_bad = 0;
    for (uint32_t m : {1u, 8u, 16u}) {
        double plain = chain_seconds(b, c, m, 0, 0);
        std::vector<uint8_t> want = chain_output(b, c, m);
        double pdl = chain_seconds(b, c, m, 0, 1);
        bool is_same = chain_output(b, c, m) == want;
        n_bad += !is_same;
        double ref = lt.is_loaded ? chain_lt_seconds(b, lt, c, m) : 0.0;
        printf(
            "chain m %2u: %.2f GB limit %.3f ms  ours %.3f ms %.1f%%  PDL %.3f ms %.1f%% (%s)  lt "
            "%.3f ms %.1f%%\n",
            m, bytes * 1e-9, limit * 1e3, plain * 1e3, limit / plain * 100, pdl * 1e3,
            limit / pdl * 100, is_same ? "same bits" : "OTHER BITS", ref * 1e3,
            ref > 0 ? limit / ref * 100 : 0.0);
        printf("chain m %2u: with a small kernel after each GEMM %.3f ms, PDL %.3f ms\n", m,
               chain_seconds(b, c, m, 0, 0, 1) * 1e3, chain_seconds(b, c, m, 0, 1, 1) * 1e3);
        if (!is_sweep)
            continue;
        printf("  chain m %2u PDL, ms:", m);
        for (uint32_t how : kHows)
            printf("  %x: %.3f", how, chain_seconds(b, c, m, how, 1) * 1e3);
        printf("\n");
        fflush(stdout);
    }
    for (uint8_t *w : c.w)
        CHECK(cudaFree(w));
    for (bf16 *a : c.act)
        CHECK(cudaFree(a));
    return n_bad;
}

} // namespace

int main(int argc, char **argv)
{
    bool has_check = argc == 1, has_shapes = argc == 1, has_chain = argc == 1, has_lt = argc == 1;
    bool has_sweep = false;
    for (int i = 1; i < argc; i++) {
        std::string a = argv[i];
        has_check |= a == "check";
        has_shapes |= a == "shapes";
        has_chain |= a == "chain";
        has_lt |= a == "lt";
        has_sweep |= a == "sweep";
    }
    bench b = {};
    cudaDeviceProp prop;
    CHECK(cudaGetDeviceProperties(&prop, 0));
    b.n_sms = uint32_t(prop.multiProcessorCount);
    b.seed = std::random_device()();
    printf("%s, %u SMs, L2 %d MB, seed %llu\n", prop.name, b.n_sms, prop.l2CacheSize >> 20,
           static_cast<unsigned long long>(b.seed));
    CHECK(cudaStreamCreateWithFlags(&b.stream, cudaStreamNonBlocking));
    size_t ws = cuda_gemm_small_workspace_bytes(151936, b.n_sms);
    b.workspace = device_alloc<uint8_t>(ws);
    CHECK(cudaMemset(b.workspace, 0, ws));
    b.pool_bytes = size_t(8) << 30;
    b.pool = device_alloc<uint8_t>(b.pool_bytes);
    fill(b, b.pool, b.pool_bytes / 2, b.seed++, 1.0f);
    CHECK(cudaDeviceSynchronize());
    int n_bad = has_check ? check_all(b) : 0;
    fflush(stdout);
    ceilings(b);
    lt_api lt = has_lt ? lt_load() : lt_api();
    if (has_sweep)
        time_shapes(b, lt, true);
    if (has_shapes)
        time_shapes(b, lt, false);
    if (has_chain)
        n_bad += time_chain(b, lt, has_sweep);
    CHECK(cudaDeviceSynchronize());
    printf(n_bad == 0 ? "all right\n" : "FAILED: %d\n", n_bad);
    return n_bad == 0 ? 0 : 1;
}
