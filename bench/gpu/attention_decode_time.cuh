/* Times of check_attention_decode.cu, all of graphs, median of replays:
 *  kernels  one call per layer, the layers larger than the L2 together; as a share of the device
 *           copy (bytes read and written) measured in the same run; fresh, and qkv and attention
 *           one after the other
 *  layers   whole layers of a model at few rows, with the GEMMs around: what attention adds to them
 *           is its price, with all that overlaps */
#ifndef BENCH_GPU_ATTENTION_DECODE_TIME_CUH
#define BENCH_GPU_ATTENTION_DECODE_TIME_CUH

#include "bench/gpu/attention_decode_kit.cuh"
#include "bench/report.h"

namespace
{

double median(std::vector<double> values)
{
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
}

template <class F> double time_us(F launch, int n_repeat)
{
    cudaEvent_t a, b;
    std::vector<double> us;
    MUST(cudaEventCreate(&a));
    MUST(cudaEventCreate(&b));
    for (int i = 0; i < n_repeat + 2; i++) {
        float ms;
        MUST(cudaEventRecord(a));
        launch();
        MUST(cudaEventRecord(b));
        MUST(cudaEventSynchronize(b));
        MUST(cudaEventElapsedTime(&ms, a, b));
        if (i >= 2)
            us.push_back(ms * 1e3);
    }
    cudaEventDestroy(a);
    cudaEventDestroy(b);
    return median(us);
}

__global__ void read_kernel(const uint4 *src, size_t n, uint32_t *out)
{
    uint32_t sum = 0;
    size_t step = static_cast<size_t>(gridDim.x) * blockDim.x;
    size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x;
    for (; i < n; i += 8 * step) {
        uint4 v[8];
#pragma unroll
        for (int k = 0; k < 8; k++)
            v[k] = i + k * step < n ? __ldcs(src + i + k * step) : make_uint4(0, 0, 0, 0);
#pragma unroll
        for (int k = 0; k < 8; k++)
            sum ^= v[k].x ^ v[k].y ^ v[k].z ^ v[k].w;
    }
    if (sum == 0x12345678u)
        *out = sum;
}

double copy_gbps, read_gbps;

void ceilings_measure()
{
    size_t bytes = 2ull << 30;
    char *a = device_alloc<char>(bytes), *b = device_alloc<char>(bytes);
    fill_normal<<<1024, 256>>>(reinterpret_cast<__nv_bfloat16 *>(a), bytes / 2, 3, 1.0f);
    double us = time_us([&] { MUST(cudaMemcpyAsync(b, a, bytes, cudaMemcpyDeviceToDevice)); }, 9);
    copy_gbps = 2e-3 * static_cast<double>(bytes) / us;
    us = time_us(
        [&] {
            read_kernel<<<n_sms * 4, 512>>>(reinterpret_cast<uint4 *>(a), bytes / 16,
                                            reinterpret_cast<uint32_t *>(b));
        },
        9);
    read_gbps = 1e-3 * static_cast<double>(bytes) / us;
    cudaFree(a);
    cudaFree(b);
}

/* A graph of n launches, one after the other: microseconds of each. */
template <class F> double time_graph_us(uint32_t n, F launch)
{
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    MUST(cudaStreamCreate(&stream));
    MUST(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    for (uint32_t i = 0; i < n; i++)
        launch(i, stream);
    MUST(cudaStreamEndCapture(stream, &graph));
    MUST(cudaGraphInstantiate(&exec, graph, 0));
    double us = time_us([&] { MUST(cudaGraphLaunch(exec, 0)); }, 15) / n;
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    cudaStreamDestroy(stream);
    return us;
}

/* ---- Kernels --------------------------------------------------------------------------------- */

enum way { WAY_READY, WAY_QKV, WAY_FRESH };

/* Microseconds of a layer's attention. */
double time_way(step &s, way w, uint32_t how)
{
    struct qkv_args qkv = qkv_of(s, const_cast<void *>(s.args.q), s.args.pool);
    s.args.fresh = w == WAY_FRESH ? &s.fresh : nullptr;
    MUST(cuda_decode_plan_tuned(&s.args, n_sms, s.plan, 0, how));
    return time_graph_us(s.args.pool.n_layers, [&](uint32_t layer, cudaStream_t stream) {
        s.args.layer = qkv.layer = layer;
        if (w == WAY_QKV)
            MUST(cuda_qkv(&qkv, stream));
        MUST(cuda_attention_decode_tuned(&s.args, n_sms, s.plan, s.work, stream, how));
    });
}

/* Gigabytes a second of rows that are ready; out_us: microseconds of fresh ones, or NULL. */
double time_case(const char *label, const char *name, shape sh, const std::vector<uint32_t> &lens,
                 double *out_us = nullptr)
{
    double tokens = 0;
    for (uint32_t len : lens)
        tokens += sh.window && len > sh.window ? sh.window : len;
    double bytes = tokens * sh.n_kv_heads * sh.head_dim * (sh.is_f8 ? 2.0 : 4.0);
    uint32_t n_layers = static_cast<uint32_t>(std::min(64.0, std::max(2.0, ceil(4e8 / bytes))));
    sh.n_rot = sh.head_dim;
    sh.has_norm = 1;
    step s = step_create(sh, lens, n_layers, 0);
    pool_fill(s);
    step_begin(s, 0);
    MUST(cudaDeviceSynchronize());
    double plan_us = time_us([&] { MUST(cuda_decode_plan(&s.args, n_sms, s.plan, 0)); }, 9);
    double us = time_way(s, WAY_READY, 0), fresh_us = time_way(s, WAY_FRESH, 0);
    double qkv_us = time_way(s, WAY_QKV, 0), gbps = bytes / us * 1e-3;
    printf("%-9s %-25s %8.2f us %5.0f GB/s %6.1f %% of copy | fresh %8.2f us %6.1f %% | qkv and "
           "attention %8.2f us | plan %.1f us\n",
           label, name, us, gbps, 100 * gbps / copy_gbps, fresh_us,
           100 * bytes / fresh_us * 1e-3 / copy_gbps, qkv_us, plan_us);
    char what[96];
    snprintf(what, sizeof(what), "decode attention %s, with qkv", name);
    report_row(nullptr, what, fresh_us, "us", report_limit_us(bytes, 0, 0));
    if (out_us)
        *out_us = fresh_us;
    step_destroy(s);
    return gbps;
}

/* The choices that the host makes, against each other. */
void time_choices(const char *label, const char *name, const shape &sh,
                  const std::vector<uint32_t> &lens)
{
    const uint32_t hows[] = {0, HOW_LINE, HOW_NO_CLUSTER, HOW_ONE_STAGE, HOW_TWO_STAGES, HOW_LATE};
    const char *names[] = {"default", "line", "no cluster", "one stage", "two stages", "late"};
    step s = step_create(sh, lens, 28, 0);
    pool_fill(s);
    step_begin(s, 0);
    printf("%-9s %-25s fresh:", label, name);
    for (size_t i = 0; i < sizeof(hows) / sizeof(hows[0]); i++)
        printf(" %s %.2f us", names[i], time_way(s, WAY_FRESH, hows[i]));
    printf("\n");
    step_destroy(s);
}

/* ---- Layers ---------------------------------------------------------------------------------- */

struct model {
    const char *name;
    uint32_t hidden, n_heads, n_kv_heads, head_dim, intermediate, n_layers, has_norm;
};

__global__ void fill_small(__nv_bfloat16 *dst, size_t n)
{
    size_t step = static_cast<size_t>(gridDim.x) * blockDim.x;
    for (size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x; i < n; i += step)
        dst[i] = __float2bfloat16((hash32(i) * 4.6566129e-10f - 1.0f) * 0.03f);
}

/* A model's layers on the device. */
struct layers {
    model m;
    step s;
    uint32_t n_rows, cols[4][2]; /* of qkv, o, gate and up, down: rows and columns of w */
    __nv_bfloat16 *weights, *h, *act;
    size_t layer_weights;
    float *residual, *norm, *sums;
    void *work;
};

layers layers_create(const model &m, uint32_t batch, uint32_t context)
{
    layers l = {};
    l.m = m;
    l.n_rows = batch;
    shape sh = {m.n_kv_heads, m.n_heads / m.n_kv_heads, m.head_dim, 64, 0, 0, m.head_dim,
                m.has_norm};
    l.s = step_create(sh, std::vector<uint32_t>(batch, context), m.n_layers, 0);
    pool_fill(l.s);
    uint32_t q = m.n_heads * m.head_dim, kv = m.n_kv_heads * m.head_dim;
    const uint32_t cols[4][2] = {{q + 2 * kv, m.hidden},
                                 {m.hidden, q},
                                 {2 * m.intermediate, m.hidden},
                                 {m.hidden, m.intermediate}};
    memcpy(l.cols, cols, sizeof(cols));
    for (const uint32_t(&c)[2] : cols)
        l.layer_weights += static_cast<size_t>(c[0]) * c[1];
    l.weights = device_alloc<__nv_bfloat16>(l.layer_weights * m.n_layers);
    fill_small<<<4096, 256>>>(l.weights, l.layer_weights * m.n_layers);
    l.h = device_alloc<__nv_bfloat16>(static_cast<size_t>(batch) * m.hidden);
    l.act = device_alloc<__nv_bfloat16>(static_cast<size_t>(batch) * m.intermediate);
    l.residual = device_alloc<float>(static_cast<size_t>(batch) * m.hidden);
    l.sums = device_alloc<float>(static_cast<size_t>(batch) * m.hidden / 16);
    l.norm = device_copy(std::vector<float>(m.hidden, 1.0f));
    fill_small<<<64, 256>>>(l.h, static_cast<size_t>(batch) * m.hidden);
    MUST(cudaMemset(l.residual, 0, static_cast<size_t>(batch) * m.hidden * 4));
    MUST(cudaMemset(l.sums, 0, static_cast<size_t>(batch) * m.hidden / 4));
    size_t bytes = cuda_gemm_small_workspace_bytes(2 * m.intermediate, n_sms);
    l.work = device_alloc<char>(bytes);
    MUST(cudaMemset(l.work, 0, bytes));
    step_begin(l.s, 0);
    return l;
}

void layers_destroy(layers &l)
{
    void *all[] = {l.weights, l.h, l.act, l.residual, l.sums, l.norm, l.work};
    for (void *ptr : all)
        MUST(cudaFree(ptr));
    step_destroy(l.s);
}

/* GEMM i of a layer: qkv, o, gate and up, down. */
void layers_gemm(const layers &l, uint32_t layer, uint32_t i, cudaStream_t stream)
{
    const step &s = l.s;
    const bool adds = i == 1 || i == 3;
    struct gemm_fusion fusion = {};
    fusion.epilogue = adds ? GEMM_ADD_NORM : i == 2 ? GEMM_SILU_MUL : GEMM_STORE;
    fusion.eps = 1e-6f;
    fusion.x_sums = adds ? nullptr : l.sums;
    fusion.residual = adds ? l.residual : nullptr;
    fusion.next_norm = adds ? l.norm : nullptr;
    fusion.y_sums = adds ? l.sums : nullptr;
    struct cuda_gemm_args a = {};
    a.x = i == 1 ? s.args.out : i == 3 ? l.act : l.h;
    a.x_stride = i == 1 ? s.args.out_stride : l.cols[i][1];
    a.w = l.weights + layer * l.layer_weights;
    for (uint32_t k = 0; k < i; k++)
        a.w = static_cast<const __nv_bfloat16 *>(a.w) +
              static_cast<size_t>(l.cols[k][0]) * l.cols[k][1];
    a.w_dtype = OPS_BF16;
    a.fusion = &fusion;
    a.y = i == 0 ? const_cast<void *>(s.args.q) : i == 2 ? l.act : l.h;
    a.n = i == 2 ? l.m.intermediate : l.cols[i][0];
    a.y_stride = i == 0 ? s.args.q_stride : a.n;
    a.y_dtype = OPS_BF16;
    a.n_rows = l.n_rows;
    a.k = l.cols[i][1];
    a.pdl = 1;
    MUST(cuda_gemm_small(&a, n_sms, l.work, stream));
}

/* Microseconds of a layer; w < 0: without attention. */
double layers_time(layers &l, int w, uint32_t how)
{
    step &s = l.s;
    struct qkv_args qkv = qkv_of(s, const_cast<void *>(s.args.q), s.args.pool);
    s.args.fresh = w == WAY_FRESH ? &s.fresh : nullptr;
    return time_graph_us(l.m.n_layers, [&](uint32_t layer, cudaStream_t stream) {
        s.args.layer = qkv.layer = layer;
        if (layer == 0)
            MUST(cuda_decode_plan_tuned(&s.args, n_sms, s.plan, stream, how));
        layers_gemm(l, layer, 0, stream);
        if (w == WAY_QKV)
            MUST(cuda_qkv(&qkv, stream));
        if (w >= 0)
            MUST(cuda_attention_decode_tuned(&s.args, n_sms, s.plan, s.work, stream, how));
        for (uint32_t i = 1; i < 4; i++)
            layers_gemm(l, layer, i, stream);
    });
}

void time_layers(const char *label, const model &m, uint32_t batch, uint32_t context)
{
    const uint32_t hows[] = {HOW_LINE, HOW_NO_CLUSTER, HOW_ONE_STAGE, HOW_TWO_STAGES, HOW_LATE};
    const char *names[] = {"line", "no cluster", "one stage", "two stages", "late"};
    layers l = layers_create(m, batch, context);
    MUST(cudaDeviceSynchronize());
    double base = layers_time(l, -1, 0), fresh = layers_time(l, WAY_FRESH, 0);
    double qkv = layers_time(l, WAY_QKV, 0);
    printf("%-9s %s b%u x %u: layer %.2f us, of that 4 GEMMs %.2f, attention %.2f; with qkv %.2f;",
           label, m.name, batch, context, fresh, base, fresh - base, qkv - base);
    char what[96];
    snprintf(what, sizeof(what), "attention in a layer of %s b%u x %u", m.name, batch, context);
    report_row(nullptr, what, fresh - base, "us", 0);
    for (size_t i = 0; i < sizeof(hows) / sizeof(hows[0]); i++)
        printf(" %s %.2f", names[i], layers_time(l, WAY_FRESH, hows[i]) - base);
    printf("\n");
    layers_destroy(l);
}

/* ---- All ------------------------------------------------------------------------------------- */

void time_kernels(const char *label)
{
    const shape llama = {8, 4, 128, 64, 0, 0, 128, 1}, small = {8, 8, 64, 64, 0, 0, 64, 1};
    const uint32_t batches[] = {1, 8, 64}, contexts[] = {1024, 8192, 32768};
    char name[64];
    for (uint32_t batch : batches)
        for (uint32_t context : contexts) {
            if (batch == 64 && context == 32768)
                continue;
            snprintf(name, sizeof(name), "hd128 g4 b%u x %u", batch, context);
            time_case(label, name, llama, std::vector<uint32_t>(batch, context));
        }
    std::vector<uint32_t> skewed(64, 512);
    skewed[20] = 32768;
    double even = time_case(label, "hd128 g4 b64 x 1016", llama, std::vector<uint32_t>(64, 1016));
    double skew = time_case(label, "hd128 g4 32k + 63 x 512", llama, skewed);
    printf("%-9s skewed at %.1f %% of the balanced rate\n", label, 100 * skew / even);
    time_case(label, "hd64 g8 b64 x 1024", small, std::vector<uint32_t>(64, 1024));
    time_case(label, "hd64 g8 b64 x 8192", small, std::vector<uint32_t>(64, 8192));
    time_case(label, "hd64 g8 b1 x 8192", small, std::vector<uint32_t>(1, 8192));
    time_case(label, "hd96 g4 b64 x 2048", {8, 4, 96, 64}, std::vector<uint32_t>(64, 2048));
    time_case(label, "hd256 g8 b64 x 2048", {4, 8, 256, 64}, std::vector<uint32_t>(64, 2048));
    time_case(label, "hd128 g16 b64 x 2048", {4, 16, 128, 64}, std::vector<uint32_t>(64, 2048));
    time_case(label, "hd128 g4 b64 x 2048 bt16", {8, 4, 128, 16}, std::vector<uint32_t>(64, 2048));
    time_case(label, "hd128 g4 b256 x 200", llama, std::vector<uint32_t>(256, 200));
    for (uint32_t batch : {1u, 2u, 4u, 8u, 16u}) {
        snprintf(name, sizeof(name), "hd128 g4 b%u x 1024", batch);
        time_choices(label, name, llama, std::vector<uint32_t>(batch, 1024));
    }
}

/* Pools of both kinds, one behind the other. */
void time_pairs(const char *label)
{
    const shape llama = {8, 4, 128, 64, 0, 0, 128, 1}, small = {8, 8, 64, 64, 0, 0, 64, 1};
    const struct {
        const char *name;
        shape sh;
        uint32_t batch, context;
    } cases[] = {
        {"hd128 g4 b1 x 1024", llama, 1, 1024},
        {"hd128 g4 b8 x 1024", llama, 8, 1024},
        {"hd128 g4 b64 x 1024", llama, 64, 1024},
        {"hd128 g4 b1 x 8192", llama, 1, 8192},
        {"hd128 g4 b64 x 8192", llama, 64, 8192},
        {"hd64 g8 b64 x 1024", small, 64, 1024},
        {"hd64 g8 b64 x 8192", small, 64, 8192},
        {"hd96 g4 b64 x 2048", {8, 4, 96, 64}, 64, 2048},
        {"hd128 g16 b64 x 2048", {4, 16, 128, 64}, 64, 2048},
        {"hd256 g8 b64 x 2048", {4, 8, 256, 64}, 64, 2048},
    };
    for (const auto &c : cases) {
        double us[2];
        for (uint32_t is_f8 = 0; is_f8 < 2; is_f8++) {
            char name[64];
            shape sh = c.sh;
            sh.is_f8 = is_f8;
            snprintf(name, sizeof(name), "%s %s", c.name, is_f8 ? "fp8" : "bf16");
            time_case(label, name, sh, std::vector<uint32_t>(c.batch, c.context), &us[is_f8]);
        }
        printf("%-9s %-25s fp8 is %.2f x as fast\n", label, c.name, us[0] / us[1]);
    }
}

/* kind: "fp8": only what compares the kinds of pools. */
void time_all(const char *label, const char *kind)
{
    const model qwen = {"qwen3-0.6b", 1024, 16, 8, 128, 3072, 28, 1};
    const model llama = {"llama-3.1-8b", 4096, 32, 8, 128, 14336, 32, 0};
    ceilings_measure();
    printf("%s: copy %.0f GB/s (read and written), read only %.0f GB/s\n", label, copy_gbps,
           read_gbps);
    time_pairs(label);
    if (strcmp(kind, "fp8") == 0)
        return;
    time_kernels(label);
    for (uint32_t context : {256u, 1024u, 1025u, 1400u, 2048u, 4096u, 8192u, 32768u})
        time_layers(label, qwen, 1, context);
    time_layers(label, qwen, 4, 1024);
    time_layers(label, qwen, 8, 1024);
    time_layers(label, qwen, 16, 1024);
    for (uint32_t batch : {1u, 8u, 16u})
        time_layers(label, llama, batch, 1024);
    time_layers(label, llama, 1, 8192);
    time_layers(label, llama, 1, 32768);
}

} // namespace

#endif
