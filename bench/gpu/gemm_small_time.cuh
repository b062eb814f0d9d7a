/* Timings of check_gemm_small.cu: the ceilings of the run, single shapes, the GEMMs of whole
 * models, and cuBLASLt beside them. */
#ifndef BENCH_GPU_GEMM_SMALL_TIME_CUH
#define BENCH_GPU_GEMM_SMALL_TIME_CUH

#include "bench/gpu/gemm_small_kit.cuh"
#include "bench/report.h"

#include <cublasLt.h>
#include <dlfcn.h>
#include <string>

namespace
{

struct model {
    const char *name;
    uint32_t hidden, inner, q_cols, kv_cols, n_layers, n_vocab;
};

const model kModels[] = {{"q06", 1024, 3072, 2048, 1024, 28, 151936},
                         {"8b", 4096, 14336, 4096, 1024, 32, 128256}};

struct layer_op {
    const char *name;
    uint32_t n, k; /* n: columns of y */
    enum gemm_epilogue epilogue;
    bool has_norm; /* a norm ahead */
    enum ops_dtype y_dtype;
};

std::vector<layer_op> layer_ops(const model &m)
{
    return {{"qkv", m.q_cols + 2 * m.kv_cols, m.hidden, GEMM_STORE, true, OPS_BF16},
            {"o", m.hidden, m.q_cols, GEMM_ADD_NORM, false, OPS_BF16},
            {"gateup", m.inner, m.hidden, GEMM_SILU_MUL, true, OPS_BF16},
            {"down", m.hidden, m.inner, GEMM_ADD_NORM, false, OPS_BF16}};
}

size_t w_bytes(const layer_op &op, bool is_f8)
{
    return size_t(op.n) * (op.epilogue == GEMM_SILU_MUL ? 2 : 1) * op.k * (is_f8 ? 1 : 2);
}

/* Ways of the sweep; see enum how of gemm_small.cu. */
constexpr uint32_t kHows[] = {0, 8, 16, 32, 64, 32 + 64, 0x500, 0x700};
constexpr uint32_t kColsMax = 28672, kRowsMax = 16;

/* What all launches read and write besides the weights. */
struct activations {
    bf16 *v[4]; /* h, qkv, attention, gate * up */
    float *sums, *residual, *next_norm, *w_scale;
    uint8_t *logits;
};

activations activations_make(bench &b)
{
    activations a = {};
    for (bf16 *&v : a.v) {
        v = device_alloc<bf16>(size_t(kRowsMax) * kColsMax);
        fill(b, v, size_t(kRowsMax) * kColsMax, b.seed++, -1.0f, 1.0f);
    }
    a.sums = device_alloc<float>(kRowsMax * kColsMax / 16);
    fill(b, a.sums, kRowsMax * kColsMax / 16, b.seed++, 4.0f, 6.0f);
    a.residual = device_alloc<float>(size_t(kRowsMax) * kColsMax);
    fill(b, a.residual, size_t(kRowsMax) * kColsMax, b.seed++, -1.0f, 1.0f);
    a.next_norm = device_alloc<float>(kColsMax);
    fill(b, a.next_norm, kColsMax, b.seed++, 0.9f, 1.1f);
    a.w_scale = device_alloc<float>(size_t(1) << 20);
    fill(b, a.w_scale, size_t(1) << 20, b.seed++, 0.5f, 1.5f);
    a.logits = device_alloc<uint8_t>(size_t(kRowsMax) * 151936 * 4);
    return a;
}

struct how_to {
    uint32_t m, how, pdl;
    bool is_f8;
};

/* One GEMM of a layer: `which` of layer_ops, 4 for the head. */
void op_run(const bench &b, const activations &act, const layer_op &op, uint32_t which,
            const void *w, const how_to &to)
{
    struct gemm_fusion f = {};
    f.x_sums = op.has_norm ? act.sums : nullptr;
    f.eps = 1e-5f;
    f.epilogue = op.epilogue;
    f.residual = act.residual;
    f.next_norm = act.next_norm;
    f.y_sums = act.sums;
    bf16 *const x[] = {act.v[0], act.v[2], act.v[0], act.v[3], act.v[0]};
    void *const y[] = {act.v[1], act.v[0], act.v[3], act.v[0], act.logits};
    struct cuda_gemm_args a = {};
    a.x = x[which];
    a.x_stride = op.k;
    a.w = w;
    a.w_dtype = to.is_f8 ? OPS_F8 : OPS_BF16;
    a.w_scale = act.w_scale;
    a.w_scaling = to.is_f8 ? OPS_SCALE_BLOCK : OPS_SCALE_NONE;
    a.fusion = &f;
    a.y = y[which];
    a.y_stride = op.n;
    a.y_dtype = op.y_dtype;
    a.n_rows = to.m;
    a.n = op.n;
    a.k = op.k;
    a.pdl = to.pdl;
    CHECK(cuda_gemm_small_tuned(&a, b.n_sms, b.workspace, b.stream, to.how));
}

/* ---- Ceilings -------------------------------------------------------------------------------- */

/* Reads all of src; the write never happens. */
__global__ void read_kernel(const uint4 *src, uint64_t n, uint32_t *dst)
{
    constexpr int kLoads = 8;
    uint32_t sum = 0;
    uint64_t step = uint64_t(gridDim.x) * blockDim.x;
    uint64_t i = blockIdx.x * uint64_t(blockDim.x) + threadIdx.x;
    for (; i + (kLoads - 1) * step < n; i += kLoads * step) {
        uint4 v[kLoads];
#pragma unroll
        for (int j = 0; j < kLoads; j++)
            v[j] = __ldcs(src + i + j * step);
#pragma unroll
        for (int j = 0; j < kLoads; j++)
            sum ^= v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
    }
    for (; i < n; i += step)
        sum ^= __ldcs(src + i).x;
    if (sum == 0x12345678u)
        *dst = sum;
}

/* A kernel that waits for the one ahead, reads a word of it and writes one: the shortest chain. */
__global__ void link_kernel(float *v)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
    if (threadIdx.x == 0)
        v[blockIdx.x] = __ldcg(v + (blockIdx.x + 1) % gridDim.x) + 1.0f;
}

void launch_early_kernel(const bench &b, void (*kernel)(float *), uint32_t grid, uint32_t threads,
                         uint32_t shared, uint32_t cluster, float *v)
{
    CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 200 * 1024));
    CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                               cudaSharedmemCarveoutMaxShared));
    cudaLaunchAttribute attrs[2] = {};
    attrs[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attrs[0].val.programmaticStreamSerializationAllowed = 1;
    attrs[1].id = cudaLaunchAttributeClusterDimension;
    attrs[1].val.clusterDim.x = cluster;
    attrs[1].val.clusterDim.y = attrs[1].val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(grid);
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = shared;
    config.stream = b.stream;
    config.attrs = attrs;
    config.numAttrs = cluster > 1 ? 2 : 1;
    CHECK(cudaLaunchKernelEx(&config, kernel, v));
}

void ceilings(bench &b, const activations &act)
{
    uint32_t *out = static_cast<uint32_t *>(b.workspace) + 65536; /* hardly ever written */
    double best = 1e9;
    for (int per_sm : {1, 2, 4})
        best = std::min(
            best, graph_seconds(
                      b,
                      [&] {
                          read_kernel<<<b.n_sms * per_sm, per_sm == 1 ? 1024 : 512, 0, b.stream>>>(
                              reinterpret_cast<const uint4 *>(b.pool), b.pool_bytes / 16, out);
                          return cudaGetLastError() == cudaSuccess;
                      },
                      5));
    b.read_bw = double(b.pool_bytes) / best;
    printf("ceilings: read only %.0f GB/s\n", b.read_bw * 1e-9);
    const uint32_t links[][4] = {
        {1, 32, 0, 1}, {132, 416, 0, 1}, {132, 416, 64, 1}, {132, 416, 110, 1}, {128, 416, 64, 2}};
    for (const auto &s : links) {
        constexpr uint32_t kLinks = 400;
        double t = graph_seconds(
            b,
            [&] {
                for (uint32_t i = 0; i < kLinks; i++)
                    launch_early_kernel(b, link_kernel, s[0], s[1], s[2] * 1024, s[3], act.sums);
                return true;
            },
            5);
        printf("a chain of kernels that do nothing: %u blocks of %u threads, %u KB, clusters of "
               "%u: %.2f us each\n",
               s[0], s[1], s[2], s[3], t / kLinks * 1e6);
    }
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

lt_plan lt_plan_create(const lt_api &lt, uint32_t m, uint32_t n, uint32_t k, enum ops_dtype y_dtype)
{
    lt_plan p = {};
    cublasOperation_t trans = CUBLAS_OP_T;
    cublasLtMatmulPreference_t pref;
    size_t ws = kLtWorkspace;
    lt.desc_create(&p.desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    lt.desc_set(p.desc, CUBLASLT_MATMUL_DESC_TRANSA, &trans, sizeof(trans));
    lt.layout_create(&p.w, CUDA_R_16BF, k, n, k);
    lt.layout_create(&p.x, CUDA_R_16BF, k, m, k);
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

/* ---- Single shapes --------------------------------------------------------------------------- */

struct shape_bench {
    const bench *b;
    const activations *act;
    layer_op op;
    uint32_t which, n_launches, n_copies;
};

shape_bench shape_init(const bench &b, const activations &act, const layer_op &op, uint32_t which,
                       bool is_f8)
{
    shape_bench sb = {&b, &act, op, which, 0, 0};
    sb.n_copies = uint32_t(b.pool_bytes / w_bytes(op, is_f8));
    sb.n_launches = std::min(std::max(sb.n_copies, 4u), 160u);
    sb.n_copies = std::min(sb.n_copies, sb.n_launches);
    return sb;
}

double shape_seconds(const shape_bench &sb, const how_to &to)
{
    double s = graph_seconds(
        *sb.b,
        [&] {
            for (uint32_t i = 0; i < sb.n_launches; i++)
                op_run(*sb.b, *sb.act, sb.op, sb.which,
                       sb.b->pool + i % sb.n_copies * w_bytes(sb.op, to.is_f8), to);
            return true;
        },
        5);
    return s / sb.n_launches;
}

/* The plain product of the same size; bf16. */
double lt_seconds(const lt_api &lt, const shape_bench &sb, uint32_t m)
{
    uint32_t n = sb.op.n * (sb.op.epilogue == GEMM_SILU_MUL ? 2 : 1);
    lt_plan p = lt_plan_create(lt, m, n, sb.op.k, sb.op.y_dtype);
    double best = 1e9;
    for (int algo = 0; algo < p.n_results; algo++) {
        if (p.results[algo].state != CUBLAS_STATUS_SUCCESS)
            continue;
        double s = graph_seconds(
            *sb.b,
            [&] {
                for (uint32_t i = 0; i < sb.n_launches; i++)
                    if (!lt_run(lt, p, algo, sb.b->pool + i % sb.n_copies * w_bytes(sb.op, false),
                                sb.act->v[2], sb.act->logits, sb.b->stream))
                        return false;
                return true;
            },
            3);
        if (s > 0.0 && s < best)
            best = s;
    }
    return best / sb.n_launches;
}

std::string shape_name(const char *name, const layer_op &op, uint32_t m, bool is_f8)
{
    return std::string("small gemm ") + name + (is_f8 ? " fp8 " : " ") + op.name + " x " +
           std::to_string(m);
}

void time_shape(const bench &b, const activations &act, const lt_api &lt, const char *name,
                const layer_op &op, uint32_t which, bool is_f8)
{
    shape_bench sb = shape_init(b, act, op, which, is_f8);
    double limit = double(w_bytes(op, is_f8)) / b.read_bw;
    printf("shape %-4s %-6s %s limit %6.2f us:", name, op.name, is_f8 ? "fp8 " : "bf16",
           limit * 1e6);
    for (uint32_t m : {1u, 2u, 4u, 8u, 16u}) {
        double s = shape_seconds(sb, {m, 0, 1, is_f8});
        printf("  m %u %.2f us %.0f%%", m, s * 1e6, limit / s * 100);
        double least_us = report_limit_us(double(w_bytes(op, is_f8)), 0, 0);
        report_row(nullptr, shape_name(name, op, m, is_f8).c_str(), s * 1e6, "us", least_us);
    }
    for (uint32_t m : {1u, 16u}) {
        if (!lt.is_loaded || is_f8)
            break;
        double s = lt_seconds(lt, sb, m);
        printf("  lt m %u %.2f us", m, s * 1e6);
        report_row("cuBLASLt", shape_name(name, op, m, false).c_str(), s * 1e6, "us", 0);
    }
    printf("\n");
    fflush(stdout);
}

/* ---- Chains of a model's layers -------------------------------------------------------------- */

/* Stands where attention is: reads the row of q and writes as much. */
__global__ void between_kernel(const bf16 *qkv, uint32_t qkv_cols, bf16 *out, uint32_t cols)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
    uint32_t c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c < cols)
        out[size_t(blockIdx.y) * cols + c] = qkv[size_t(blockIdx.y) * qkv_cols + c];
}

void between_run(const bench &b, const activations &act, const model &of, uint32_t m, uint32_t pdl)
{
    CHECK(cudaFuncSetAttribute(between_kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                               cudaSharedmemCarveoutMaxShared));
    cudaLaunchAttribute attr = {};
    attr.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attr.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((of.q_cols + 127) / 128, m);
    config.blockDim = dim3(128);
    config.stream = b.stream;
    config.attrs = &attr;
    config.numAttrs = pdl;
    CHECK(cudaLaunchKernelEx(&config, between_kernel, (const bf16 *)act.v[1],
                             of.q_cols + 2 * of.kv_cols, act.v[2], of.q_cols));
}

struct chain {
    const model *of;
    std::vector<layer_op> ops;
    std::vector<const uint8_t *> w; /* [layer * 4 + op] */
    double bytes;
};

chain chain_make(const bench &b, const model &of, bool is_f8)
{
    chain c = {&of, layer_ops(of), {}, 0.0};
    size_t at = 0;
    for (uint32_t i = 0; i < of.n_layers * 4; i++) {
        c.w.push_back(b.pool + at);
        at += w_bytes(c.ops[i % 4], is_f8);
    }
    if (at > b.pool_bytes) {
        fprintf(stderr, "the pool is too small\n");
        exit(1);
    }
    c.bytes = double(at);
    return c;
}

double chain_seconds(const bench &b, const activations &act, const chain &c, const how_to &to,
                     bool has_between)
{
    return graph_seconds(
        b,
        [&] {
            for (uint32_t i = 0; i < c.w.size(); i++) {
                op_run(b, act, c.ops[i % 4], i % 4, c.w[i], to);
                if (i % 4 == 0 && has_between)
                    between_run(b, act, *c.of, to.m, to.pdl);
            }
            return true;
        },
        9);
}

double chain_lt_seconds(const bench &b, const activations &act, const lt_api &lt, const chain &c,
                        uint32_t m)
{
    double s = 0.0;
    for (uint32_t i = 0; i < 4; i++)
        s += lt_seconds(lt, shape_init(b, act, c.ops[i], i, false), m);
    return s * c.of->n_layers;
}

void time_chain(const bench &b, const activations &act, const lt_api &lt, const model &of,
                bool is_f8, bool is_sweep)
{
    chain c = chain_make(b, of, is_f8);
    double limit = c.bytes / b.read_bw;
    for (uint32_t m : {1u, 8u, 16u}) {
        double plain = chain_seconds(b, act, c, {m, 0, 0, is_f8}, false);
        double pdl = chain_seconds(b, act, c, {m, 0, 1, is_f8}, false);
        double with = chain_seconds(b, act, c, {m, 0, 1, is_f8}, true);
        double n = double(c.w.size());
        printf("chain %-4s %s m %2u: %.2f GB limit %.3f ms  no PDL %.3f ms %.0f%%  PDL %.3f ms "
               "%.0f%% %.2f us a kernel  with a kernel for attention %.3f ms %.2f us a kernel",
               of.name, is_f8 ? "fp8 " : "bf16", m, c.bytes * 1e-9, limit * 1e3, plain * 1e3,
               limit / plain * 100, pdl * 1e3, limit / pdl * 100, pdl / n * 1e6, with * 1e3,
               with / (n * 1.25) * 1e6);
        std::string what = std::string("small gemm, all layers of ") + of.name +
                           (is_f8 ? " fp8 x " : " x ") + std::to_string(m);
        report_row(nullptr, what.c_str(), pdl * 1e3, "ms", report_limit_us(c.bytes, 0, 0) * 1e-3);
        if (lt.is_loaded && !is_f8)
            printf("  lt %.3f ms", chain_lt_seconds(b, act, lt, c, m) * 1e3);
        printf("\n");
        fflush(stdout);
        if (!is_sweep)
            continue;
        printf("  with attention, ms:");
        for (uint32_t how : kHows)
            printf("  %x: %.3f", how, chain_seconds(b, act, c, {m, how, 1, is_f8}, true) * 1e3);
        printf("\n");
        fflush(stdout);
    }
}

struct timings {
    bool has_shapes, has_chain, has_sweep, has_lt;
};

void time_all(bench &b, const timings &what)
{
    b.pool_bytes = size_t(15) << 30;
    b.pool = device_alloc<uint8_t>(b.pool_bytes);
    activations act = activations_make(b);
    fill(b, reinterpret_cast<bf16 *>(b.pool), b.pool_bytes / 2, b.seed++, -0.02f, 0.02f);
    ceilings(b, act);
    lt_api lt = what.has_lt ? lt_load() : lt_api();
    for (int f8 = 0; f8 < 2; f8++) {
        if (f8 != 0)
            fill_f8(b, b.pool, b.pool_bytes, b.seed++, 0xffu);
        for (const model &of : kModels) {
            if (what.has_chain || what.has_sweep)
                time_chain(b, act, lt, of, f8 != 0, what.has_sweep);
            if (!what.has_shapes)
                continue;
            std::vector<layer_op> ops = layer_ops(of);
            ops.push_back({"head", of.n_vocab, of.hidden, GEMM_STORE, true, OPS_F32});
            for (uint32_t i = 0; i < ops.size(); i++)
                time_shape(b, act, lt, of.name, ops[i], i, f8 != 0);
        }
    }
}

} // namespace

#endif
