/* Checks and times kernels/cuda/gemm_small.cu.
 *   check_gemm_small [check | few] [shapes] [chain] [sweep] [lt]   default: check shapes chain lt
 * check   fresh random inputs against float64: all fusions, bf16 and fp8 with all scalings, odd
 *         sizes, poisoned outputs, the same bits twice and for a row alone and in a batch,
 * workspace counters, plain kernel; exit 1 on failure. few: a tenth of it, for compute-sanitizer
 * shapes  time of one launch inside a graph of many, weights rotating through a pool larger than L2
 * chain   the fused GEMMs of the layers of Qwen3-0.6B and Llama-3.1-8B in one graph
 * sweep   the same in other ways
 * lt      adds cuBLASLt (loaded at run time): the fastest of 16 heuristic results */
#include "bench/gpu/gemm_small_kit.cuh"
#include "bench/gpu/gemm_small_time.cuh"

#include <cmath>
#include <csignal>
#include <cstring>
#include <random>
#include <string>
#include <unistd.h>

namespace
{

struct problem {
    uint32_t m, n, k; /* n: columns of y */
    enum gemm_epilogue epilogue;
    bool has_sums, has_bias, is_f8, is_tiny; /* tiny: only weights below the normal range */
    enum ops_scaling scaling;
    enum ops_dtype y_dtype;
    uint32_t x_pad, y_pad, n_sms, how, pdl;
};

/* In device memory. */
struct problem_data {
    bf16 *x;
    void *w;
    float *w_scale, *bias, *x_sums, *residual, *residual_work, *next_norm, *y_sums;
    uint8_t *y;
    double *ref; /* the product with scales and bias */
    std::vector<void *> owned;
};

struct outcome {
    std::vector<uint8_t> y;
    std::vector<float> residual, y_sums;
};

constexpr float kEps = 1e-5f;

uint32_t w_rows_of(const problem &q)
{
    return q.epilogue == GEMM_SILU_MUL ? 2 * q.n : q.n;
}

uint32_t scale_cols_of(const problem &q)
{
    return (q.k + 127) / 128;
}

size_t y_bytes_of(const problem &q)
{
    return size_t(q.m) * (q.n + q.y_pad) * ops_dtype_bytes(q.y_dtype);
}

__device__ double f8_double(uint32_t v)
{
    int exponent = int(v >> 3 & 15), mantissa = int(v & 7);
    double size =
        exponent == 0 ? ldexp(double(mantissa), -9) : ldexp(double(8 + mantissa), exponent - 10);
    return (v & 0x80) != 0 ? -size : size;
}

__global__ void reference_kernel(problem q, problem_data d, uint32_t n_w, uint32_t scale_cols)
{
    uint64_t i = blockIdx.x * uint64_t(blockDim.x) + threadIdx.x;
    if (i >= uint64_t(q.m) * n_w)
        return;
    uint64_t token = i / n_w, row = i % n_w;
    const bf16 *x = d.x + token * (q.k + q.x_pad);
    double sum = 0.0;
    for (uint32_t c = 0; c < q.k; c++) {
        double w = q.is_f8
                       ? f8_double(static_cast<const uint8_t *>(d.w)[row * q.k + c])
                       : double(__bfloat162float(static_cast<const bf16 *>(d.w)[row * q.k + c]));
        if (q.scaling == OPS_SCALE_BLOCK)
            w *= double(d.w_scale[row / 128 * scale_cols + c / 128]);
        sum += double(__bfloat162float(x[c])) * w;
    }
    if (q.scaling == OPS_SCALE_ROW)
        sum *= double(d.w_scale[row]);
    if (q.has_sums) {
        double squares = 0.0;
        for (uint32_t c = 0; c < q.k / 16; c++)
            squares += double(d.x_sums[token * (q.k / 16) + c]);
        sum /= sqrt(squares / q.k + double(kEps));
    }
    d.ref[i] = sum + (q.has_bias ? double(d.bias[row]) : 0.0);
}

/* Poison around what is returned. */
template <class T> T *guarded_alloc(const bench &b, problem_data *d, size_t n)
{
    uint8_t *raw = device_alloc<uint8_t>(n * sizeof(T) + 4096);
    CHECK(cudaMemsetAsync(raw, 0xff, n * sizeof(T) + 4096, b.stream));
    d->owned.push_back(raw);
    return reinterpret_cast<T *>(raw + 48);
}

problem_data data_make(bench &b, const problem &q)
{
    problem_data d = {};
    size_t n_w = w_rows_of(q), n_x = size_t(q.m) * (q.k + q.x_pad), n_sums = size_t(q.m) * q.k / 16;
    d.x = guarded_alloc<bf16>(b, &d, n_x);
    fill(b, d.x, n_x, b.seed++, -0.125f, 0.125f);
    if (q.is_f8) {
        uint8_t *w = guarded_alloc<uint8_t>(b, &d, n_w * q.k);
        fill_f8(b, w, n_w * q.k, b.seed++, q.is_tiny ? 0x87u : 0xffu);
        d.w = w;
    } else {
        bf16 *w = guarded_alloc<bf16>(b, &d, n_w * q.k);
        fill(b, w, n_w * q.k, b.seed++, -1.0f, 1.0f);
        d.w = w;
    }
    size_t n_scales = q.scaling == OPS_SCALE_ROW ? n_w : (n_w + 127) / 128 * scale_cols_of(q);
    float scale = q.is_tiny ? 64.0f : 1.0f / 128.0f;
    d.w_scale = guarded_alloc<float>(b, &d, n_scales);
    fill(b, d.w_scale, n_scales, b.seed++, 0.5f * scale, 1.5f * scale);
    d.bias = guarded_alloc<float>(b, &d, n_w);
    fill(b, d.bias, n_w, b.seed++, -2.0f, 2.0f);
    d.x_sums = guarded_alloc<float>(b, &d, n_sums);
    fill(b, d.x_sums, n_sums, b.seed++, 4.0f, 28.0f);
    d.residual = guarded_alloc<float>(b, &d, size_t(q.m) * q.n);
    fill(b, d.residual, size_t(q.m) * q.n, b.seed++, -2.0f, 2.0f);
    d.residual_work = guarded_alloc<float>(b, &d, size_t(q.m) * q.n);
    d.next_norm = guarded_alloc<float>(b, &d, q.n);
    fill(b, d.next_norm, q.n, b.seed++, 0.5f, 1.5f);
    d.y_sums = guarded_alloc<float>(b, &d, size_t(q.m) * q.n / 16);
    d.y = guarded_alloc<uint8_t>(b, &d, y_bytes_of(q));
    d.ref = guarded_alloc<double>(b, &d, size_t(q.m) * n_w);
    uint64_t n_out = uint64_t(q.m) * n_w;
    reference_kernel<<<unsigned((n_out + 127) / 128), 128, 0, b.stream>>>(q, d, uint32_t(n_w),
                                                                          scale_cols_of(q));
    CHECK(cudaGetLastError());
    return d;
}

outcome problem_run(const bench &b, const problem &q, const problem_data &d, uint32_t row_first,
                    uint32_t n_rows)
{
    size_t y_bytes = y_bytes_of(q), n_residual = size_t(q.m) * q.n;
    CHECK(cudaMemsetAsync(d.y, 0xff, y_bytes, b.stream));
    CHECK(cudaMemsetAsync(d.y_sums, 0xff, n_residual / 16 * 4, b.stream));
    CHECK(cudaMemcpyAsync(d.residual_work, d.residual, n_residual * 4, cudaMemcpyDeviceToDevice,
                          b.stream));
    struct gemm_fusion fusion = {};
    fusion.x_sums = q.has_sums ? d.x_sums + size_t(row_first) * (q.k / 16) : nullptr;
    fusion.eps = kEps;
    fusion.epilogue = q.epilogue;
    if (q.epilogue == GEMM_ADD_NORM) {
        fusion.residual = d.residual_work + size_t(row_first) * q.n;
        fusion.next_norm = d.next_norm;
        fusion.y_sums = d.y_sums + size_t(row_first) * (q.n / 16);
    }
    struct cuda_gemm_args a = {};
    a.x = d.x + uint64_t(row_first) * (q.k + q.x_pad);
    a.x_stride = q.k + q.x_pad;
    a.w = d.w;
    a.w_dtype = q.is_f8 ? OPS_F8 : OPS_BF16;
    a.w_scale = q.scaling == OPS_SCALE_NONE ? nullptr : d.w_scale;
    a.w_scaling = q.scaling;
    a.fusion = q.epilogue == GEMM_STORE && !q.has_sums ? nullptr : &fusion;
    a.bias = q.has_bias ? d.bias : nullptr;
    a.y = d.y + size_t(row_first) * (q.n + q.y_pad) * ops_dtype_bytes(q.y_dtype);
    a.y_stride = q.n + q.y_pad;
    a.y_dtype = q.y_dtype;
    a.n_rows = n_rows;
    a.n = q.n;
    a.k = q.k;
    a.pdl = q.pdl;
    CHECK(cuda_gemm_small_tuned(&a, q.n_sms, b.workspace, b.stream, q.how));
    outcome o = {std::vector<uint8_t>(y_bytes), std::vector<float>(n_residual),
                 std::vector<float>(n_residual / 16)};
    CHECK(cudaMemcpyAsync(o.y.data(), d.y, y_bytes, cudaMemcpyDeviceToHost, b.stream));
    CHECK(cudaMemcpyAsync(o.residual.data(), d.residual_work, n_residual * 4,
                          cudaMemcpyDeviceToHost, b.stream));
    CHECK(cudaMemcpyAsync(o.y_sums.data(), d.y_sums, n_residual / 16 * 4, cudaMemcpyDeviceToHost,
                          b.stream));
    CHECK(cudaStreamSynchronize(b.stream));
    return o;
}

double y_value(const outcome &o, enum ops_dtype dtype, size_t i)
{
    float v;
    if (dtype == OPS_F32) {
        memcpy(&v, &o.y[i * 4], 4);
        return v;
    }
    uint16_t h;
    memcpy(&h, &o.y[i * 2], 2);
    uint32_t bits = uint32_t(h) << 16;
    memcpy(&v, &bits, 4);
    return v;
}

/* Relative error by norms, and values that are no numbers. */
struct error {
    double diff, norm;
    int n_bad;

    void add(double got, double want)
    {
        double e = got - want;
        n_bad += !(std::fabs(e) < 1e30);
        diff += e * e;
        norm += want * want;
    }

    double value() const
    {
        return std::sqrt(diff / std::max(norm, 1e-30));
    }
};

struct errors {
    error y, residual, sums;
};

errors outcome_compare(const problem &q, const problem_data &d, const outcome &o)
{
    size_t n_w = w_rows_of(q), n_residual = size_t(q.m) * q.n;
    std::vector<double> ref(q.m * n_w);
    std::vector<float> residual(n_residual), next_norm(q.n);
    CHECK(cudaMemcpy(ref.data(), d.ref, ref.size() * 8, cudaMemcpyDeviceToHost));
    CHECK(cudaMemcpy(residual.data(), d.residual, n_residual * 4, cudaMemcpyDeviceToHost));
    CHECK(cudaMemcpy(next_norm.data(), d.next_norm, q.n * 4, cudaMemcpyDeviceToHost));
    errors e = {};
    for (uint32_t t = 0; t < q.m; t++) {
        double sum = 0.0;
        for (uint32_t c = 0; c < q.n; c++) {
            double v = ref[t * n_w + c];
            if (q.epilogue == GEMM_SILU_MUL)
                v = v / (1.0 + std::exp(-v)) * ref[t * n_w + q.n + c];
            if (q.epilogue == GEMM_ADD_NORM) {
                v += double(residual[size_t(t) * q.n + c]);
                e.residual.add(o.residual[size_t(t) * q.n + c], v);
                sum += v * v;
                if (c % 16 == 15) {
                    e.sums.add(o.y_sums[size_t(t) * (q.n / 16) + c / 16], sum);
                    sum = 0.0;
                }
                v *= double(next_norm[c]);
            }
            e.y.add(y_value(o, q.y_dtype, size_t(t) * (q.n + q.y_pad) + c), v);
        }
    }
    size_t elem = ops_dtype_bytes(q.y_dtype);
    for (uint32_t t = 0; t < q.m; t++) /* the gap between rows is not touched */
        for (size_t i = (size_t(t) * (q.n + q.y_pad) + q.n) * elem;
             i < size_t(t + 1) * (q.n + q.y_pad) * elem; i++)
            e.y.n_bad += o.y[i] != 0xff;
    return e;
}

bool outcome_same(const outcome &a, const outcome &b)
{
    return a.y == b.y && memcmp(a.residual.data(), b.residual.data(), a.residual.size() * 4) == 0 &&
           memcmp(a.y_sums.data(), b.y_sums.data(), a.y_sums.size() * 4) == 0;
}

bool row_same(const problem &q, const outcome &a, const outcome &b, uint32_t t)
{
    size_t elem = ops_dtype_bytes(q.y_dtype), row = size_t(t) * (q.n + q.y_pad) * elem;
    size_t n = q.n, sums = q.n / 16;
    if (memcmp(&a.y[row], &b.y[row], q.n * elem) != 0)
        return false;
    return q.epilogue != GEMM_ADD_NORM ||
           (memcmp(&a.residual[t * n], &b.residual[t * n], n * 4) == 0 &&
            memcmp(&a.y_sums[t * sums], &b.y_sums[t * sums], sums * 4) == 0);
}

bool counters_are_zero(const bench &b)
{
    std::vector<uint8_t> counters(4096);
    CHECK(cudaMemcpy(counters.data(), b.workspace, counters.size(), cudaMemcpyDeviceToHost));
    return std::all_of(counters.begin(), counters.end(), [](uint8_t c) { return c == 0; });
}

/* True when right. */
bool problem_check(bench &b, const problem &q, double *worst, bool *out_invariant)
{
    problem_data d = data_make(b, q);
    outcome o = problem_run(b, q, d, 0, q.m);
    errors e = outcome_compare(q, d, o);
    double y_limit = q.y_dtype == OPS_F32 ? 1e-5 : 3.95e-3;
    bool is_right = e.y.n_bad + e.residual.n_bad + e.sums.n_bad == 0 && e.y.value() < y_limit &&
                    e.residual.value() < 1e-5 && e.sums.value() < 1e-5;
    bool is_same = true;
    for (int i = 0; i < 2 && is_right; i++)
        is_same = is_same && outcome_same(problem_run(b, q, d, 0, q.m), o);
    *out_invariant = true;
    for (uint32_t t = 0; t < q.m && t < 20; t += 3)
        *out_invariant = *out_invariant && row_same(q, problem_run(b, q, d, t, 1), o, t);
    problem other = q; /* the same bits from the other kernel and another grid */
    other.how ^= 32;
    other.n_sms = q.n_sms == b.n_sms ? 20 : b.n_sms;
    if (q.m <= 16 && (q.how & 128) == 0)
        *out_invariant = *out_invariant && outcome_same(problem_run(b, other, d, 0, q.m), o);
    bool is_zero = counters_are_zero(b);
    double &w = worst[q.y_dtype == OPS_BF16];
    w = std::max(w, e.y.value());
    worst[2] = std::max({worst[2], e.residual.value(), e.sums.value()});
    if (!is_right || !is_same || !is_zero)
        fprintf(stderr,
                "BAD m %u n %u k %u epilogue %d sums %d bias %d f8 %d tiny %d scaling %d f32 %d "
                "sms %u how %x: errors %.2e %.2e %.2e, no numbers %d %d %d, same %d counters %d\n",
                q.m, q.n, q.k, q.epilogue, q.has_sums, q.has_bias, q.is_f8, q.is_tiny, q.scaling,
                q.y_dtype == OPS_F32, q.n_sms, q.how, e.y.value(), e.residual.value(),
                e.sums.value(), e.y.n_bad, e.residual.n_bad, e.sums.n_bad, is_same, is_zero);
    for (void *p : d.owned)
        CHECK(cudaFree(p));
    return is_right && is_same && is_zero;
}

template <class T, size_t N> T pick(std::mt19937 &rng, const T (&from)[N])
{
    return from[rng() % N];
}

problem problem_random(std::mt19937 &rng, uint32_t n_sms, bool is_f8, uint32_t how)
{
    static const uint32_t ns[] = {1, 7, 15, 16, 17, 63, 64, 65, 129, 1000, 1024, 2048, 4100};
    static const uint32_t fused_ns[] = {16, 48, 80, 144, 320, 1008, 1024, 2048, 4112};
    static const uint32_t ks[] = {8,    24,   72,   64,   128,  192,  576,
                                  1024, 2048, 3072, 4160, 8256, 14336};
    static const uint32_t f8_ks[] = {16,   48,   144,  128,  256,  384,
                                     1024, 1152, 2048, 3072, 4224, 14336};
    static const uint32_t ms[] = {1, 1, 2, 3, 4, 5, 7, 8, 9, 13, 15, 16, 17, 64};
    static const enum gemm_epilogue epilogues[] = {GEMM_STORE, GEMM_SILU_MUL, GEMM_ADD_NORM};
    static const enum ops_scaling scalings[] = {OPS_SCALE_NONE, OPS_SCALE_ROW, OPS_SCALE_BLOCK};
    const uint32_t sms[] = {n_sms, n_sms, 16, 7, 1};
    problem q = {};
    q.m = pick(rng, ms);
    q.epilogue = pick(rng, epilogues);
    q.n = q.epilogue == GEMM_STORE ? pick(rng, ns) : pick(rng, fused_ns);
    if (q.epilogue == GEMM_SILU_MUL && rng() % 2 == 0)
        q.n += 8;
    q.k = is_f8 ? pick(rng, f8_ks) : pick(rng, ks);
    q.has_sums = q.k % 16 == 0 && rng() % 2 == 0;
    q.has_bias = rng() % 2 == 0;
    q.is_f8 = is_f8;
    q.is_tiny = is_f8 && rng() % 6 == 0;
    q.scaling = is_f8 ? pick(rng, scalings) : OPS_SCALE_NONE;
    q.y_dtype = q.epilogue == GEMM_STORE && rng() % 2 == 0 ? OPS_F32 : OPS_BF16;
    q.x_pad = rng() % 2 * 40;
    q.y_pad = rng() % 2 * 5;
    q.n_sms = pick(rng, sms);
    q.how = how;
    q.pdl = rng() % 2;
    return q;
}

/* A kernel that hangs is named. */
char current[256];

void on_alarm(int)
{
    ssize_t n = write(2, current, strlen(current));
    _exit(n < 0 ? 3 : 2);
}

void watch(const problem &q)
{
    snprintf(current, sizeof(current),
             "HANGS m %u n %u k %u epilogue %d sums %d f8 %d scaling %d sms %u how %x pdl %u\n",
             q.m, q.n, q.k, q.epilogue, q.has_sums, q.is_f8, q.scaling, q.n_sms, q.how, q.pdl);
    signal(SIGALRM, on_alarm);
    alarm(20);
}

int check_all(bench &b, bool is_few)
{
    std::mt19937 rng(unsigned(b.seed));
    std::vector<problem> list;
    const uint32_t hows[] = {0, 0, 1, 2, 4, 8, 10, 16, 32, 33, 34, 48, 64, 0x300, 0x220};
    for (int i = 0; i < 600; i++)
        list.push_back(problem_random(rng, b.n_sms, i % 2 != 0, pick(rng, hows)));
    for (int i = 0; i < 60; i++)
        list.push_back(problem_random(rng, b.n_sms, i % 2 != 0, 128));
    for (const model &of : kModels)
        for (const layer_op &op : layer_ops(of))
            for (uint32_t m : {1u, 3u, 8u, 16u})
                for (int f8 = 0; f8 < 2; f8++) {
                    problem q = {
                        m,           op.n,        op.k,
                        op.epilogue, op.has_norm, false,
                        f8 != 0,     false,       f8 != 0 ? OPS_SCALE_BLOCK : OPS_SCALE_NONE,
                        OPS_BF16,    0,           0,
                        b.n_sms,     0,           1};
                    list.push_back(q);
                }
    if (is_few) {
        std::shuffle(list.begin(), list.end(), rng);
        list.resize(list.size() / 10);
    }
    int n_bad = 0, n_variant = 0, n_variant_16 = 0;
    double worst[3] = {};
    for (const problem &q : list) {
        bool is_invariant;
        watch(q);
        n_bad += !problem_check(b, q, worst, &is_invariant);
        n_variant += !is_invariant;
        if (!is_invariant && q.m <= 16) {
            n_variant_16++;
            fprintf(stderr, "VARIANT m %u n %u k %u epilogue %d f8 %d sms %u how %x\n", q.m, q.n,
                    q.k, q.epilogue, q.is_f8, q.n_sms, q.how);
        }
    }
    alarm(0);
    printf("check: %zu problems, %d bad, worst relative error f32 %.2e bf16 %.2e residual %.2e\n",
           list.size(), n_bad, worst[0], worst[1], worst[2]);
    printf("check: a row's bits depend on the batch in %d problems, in %d of at most 16 rows\n",
           n_variant, n_variant_16);
    return n_bad + n_variant_16;
}

} // namespace

int main(int argc, char **argv)
{
    bool is_all = argc == 1, has_check = is_all, has_shapes = is_all, has_chain = is_all,
         has_lt = is_all, has_sweep = false, is_few = false;
    for (int i = 1; i < argc; i++) {
        std::string a = argv[i];
        has_check |= a == "check";
        is_few |= a == "few";
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
    int n_bad = has_check || is_few ? check_all(b, is_few) : 0;
    fflush(stdout);
    if (has_shapes || has_chain || has_sweep)
        time_all(b, {has_shapes, has_chain, has_sweep, has_lt});
    CHECK(cudaDeviceSynchronize());
    printf(n_bad == 0 ? "all right\n" : "FAILED: %d\n", n_bad);
    return n_bad == 0 ? 0 : 1;
}
