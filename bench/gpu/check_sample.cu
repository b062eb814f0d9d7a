/* Checks and times kernels/cuda/sample.cu.
 *   check_sample [check] [time] [quick]   default: check time
 * check   thousands of random rows of many kinds and plans: each id must equal the CPU op's, which
 *         is linked in; poisoned outputs and workspace, rows off alignment, replay of a graph
 * time    one launch inside a graph of many, over buffers larger than the L2; share: the bytes of
 * one read of the logits over the rate of a device copy, measured here quick   check with few and
 * small rows, for compute-sanitizer Exit 1 on failure. */
#include "kernels/cuda/cuda_ops.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <cuda_runtime.h>
#include <functional>
#include <string>
#include <thread>
#include <vector>

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

struct rng {
    uint64_t state;
    uint64_t next()
    {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        return state * 0x2545f4914f6cdd1dull;
    }
    uint32_t below(uint32_t n)
    {
        return (uint32_t)((next() >> 32) * n >> 32);
    }
    float unit() /* [0, 1) */
    {
        return (float)(next() >> 40) * 0x1p-24f;
    }
    float gauss()
    {
        return sqrtf(-2.0f * logf(unit() + 0x1p-25f)) * cosf(6.2831853f * unit());
    }
};

uint64_t seed_of(uint64_t a, uint64_t b)
{
    uint64_t x = (a * 0x9e3779b97f4a7c15ull) ^ (b + 0x632be59bd9b4e019ull) * 0xff51afd7ed558ccdull;
    x ^= x >> 33;
    return x * 0xc4ceb9fe1a85ec53ull | 1;
}

/* ---- Rows ----------------------------------------------------------------------------------- */

enum kind {
    FLAT,       /* normal, sigma 1 */
    NARROW,     /* normal, sigma 1e-3: within a few bins of a fixed grid */
    EQUAL,      /* all the same */
    PEAKED,     /* normal, sigma 2, one token 18 above, some near it */
    WIDE,       /* normal, sigma 8 */
    MODEL,      /* normal, sigma 2.5 */
    MODEL_BF16, /* the same as bf16: many equal */
    FEW_VALUES, /* 2 to 9 values */
    OUTLIER,    /* normal, sigma 0.01, one token 10 above and one 20 below */
    OUTLIER_EQUAL,
    RAMP, /* tiny steps */
    ODD,  /* with NaN, -inf, huge ones */
    ODD_INF,
    NONE, /* nothing but NaN and -inf */
    KINDS
};
const char *const kind_name[KINDS] = {"flat",  "narrow",     "equal",      "peaked",  "wide",
                                      "model", "model-bf16", "few values", "outlier", "outlier-eq",
                                      "ramp",  "odd",        "odd +inf",   "none"};

float as_bf16(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    u = (u + 0x7fff + (u >> 16 & 1)) & 0xffff0000u;
    memcpy(&f, &u, 4);
    return f;
}

void fill_row(float *l, uint32_t n, int kind, struct rng r)
{
    float few[9];
    uint32_t n_few = 2 + r.below(8);
    for (float &f : few)
        f = r.gauss() * 3.0f;
    float base = r.gauss();
    for (uint32_t i = 0; i < n; i++) {
        switch (kind) {
        case FLAT:
            l[i] = r.gauss();
            break;
        case NARROW:
            l[i] = base + r.gauss() * 1e-3f;
            break;
        case EQUAL:
            l[i] = base;
            break;
        case PEAKED:
            l[i] = r.gauss() * 2.0f;
            break;
        case WIDE:
            l[i] = r.gauss() * 8.0f;
            break;
        case MODEL:
            l[i] = r.gauss() * 2.5f;
            break;
        case MODEL_BF16:
            l[i] = as_bf16(r.gauss() * 2.5f);
            break;
        case FEW_VALUES:
            l[i] = few[r.below(n_few)];
            break;
        case OUTLIER:
            l[i] = base + r.gauss() * 0.01f;
            break;
        case OUTLIER_EQUAL:
            l[i] = base;
            break;
        case RAMP:
            l[i] = (float)i * 1e-9f;
            break;
        case NONE:
            l[i] = i % 3 ? -INFINITY : NAN;
            break;
        default: {
            uint32_t odd = r.below(12);
            l[i] = odd == 0   ? NAN
                   : odd == 1 ? -INFINITY
                   : odd == 2 ? -3e38f
                   : odd == 3 ? 1e-40f
                   : odd == 4 ? -0.0f
                              : r.gauss() * 4.0f;
        }
        }
    }
    if (kind == PEAKED) {
        for (uint32_t i = 0; i < 20; i++)
            l[r.below(n)] = 10.0f + 2.0f * r.unit();
        l[r.below(n)] = 14.0f;
    }
    if (kind == OUTLIER || kind == OUTLIER_EQUAL) {
        l[r.below(n)] = base - 20.0f;
        l[r.below(n)] = base + 10.0f;
    }
    if (kind == ODD && r.below(8) == 0)
        l[r.below(n)] = 3e38f;
    if (kind == ODD_INF)
        for (uint32_t i = 0; i < 3; i++)
            l[r.below(n)] = INFINITY;
}

struct sample_row random_plan(struct rng &r, uint32_t n_vocab)
{
    static const float temperatures[] = {0.0f, -1.0f, 1e-6f, 1e-5f, 1e-4f,   0.01f, 0.1f,
                                         0.3f, 0.7f,  1.0f,  1.0f,  1.5f,    2.0f,  10.0f,
                                         1e3f, 1e6f,  1e30f, NAN,   INFINITY};
    static const uint32_t top_ks[] = {1, 2, 5, 20, 40, 50, 100, 1000, 1023, 1024, 1025, 5000};
    struct sample_row row = {};
    row.temperature = r.below(3) ? 0.2f + 1.6f * r.unit() : temperatures[r.below(19)];
    if (r.below(2))
        row.top_k = r.below(2) ? top_ks[r.below(12)] : 1 + r.below(n_vocab + 2);
    if (r.below(2))
        row.top_p = r.below(4) ? r.unit() : (float[]){1e-12f, 0.99999f, 1.0f, -1.0f}[r.below(4)];
    if (r.below(3) == 0)
        row.min_p = r.below(4) ? 0.3f * r.unit() * r.unit()
                               : (float[]){1e-15f, 1.0f, 2.0f, 1e30f, 0.5f}[r.below(5)];
    row.uniform = r.below(8) ? r.unit() : (float[]){0.0f, 0x1.fffffep-1f, 0.5f, 1e-30f}[r.below(4)];
    return row;
}

/* ---- Device buffers ------------------------------------------------------------------------- */

struct batch {
    uint32_t n_rows, n_vocab, skew;
    uint64_t stride;
    std::vector<float> logits; /* [skew + n_rows * stride] */
    std::vector<struct sample_row> rows;
    std::vector<std::vector<uint32_t>> banned;
    std::vector<int> kinds;
    float *d_logits;
    struct sample_row *d_rows;
    uint32_t *d_ids, *d_banned;
    void *d_workspace;
};

void parallel(uint32_t n, const std::function<void(uint32_t)> &f)
{
    uint32_t n_threads = std::max(1u, std::thread::hardware_concurrency());
    std::vector<std::thread> threads;
    for (uint32_t t = 0; t < n_threads; t++)
        threads.emplace_back([=, &f] {
            for (uint32_t i = t; i < n; i += n_threads)
                f(i);
        });
    for (std::thread &t : threads)
        t.join();
}

void batch_upload(struct batch &b)
{
    CHECK(cudaMalloc(&b.d_logits, b.logits.size() * 4));
    CHECK(cudaMemcpy(b.d_logits, b.logits.data(), b.logits.size() * 4, cudaMemcpyHostToDevice));
    size_t n_banned = 1;
    for (auto &v : b.banned)
        n_banned += v.size();
    CHECK(cudaMalloc(&b.d_banned, n_banned * 4));
    std::vector<struct sample_row> rows = b.rows;
    size_t at = 0;
    for (uint32_t i = 0; i < b.n_rows; i++) {
        rows[i].n_banned = (uint32_t)b.banned[i].size();
        rows[i].banned = b.d_banned + at;
        if (!b.banned[i].empty())
            CHECK(cudaMemcpy(b.d_banned + at, b.banned[i].data(), b.banned[i].size() * 4,
                             cudaMemcpyHostToDevice));
        at += b.banned[i].size();
    }
    CHECK(cudaMalloc(&b.d_rows, rows.size() * sizeof(rows[0])));
    CHECK(cudaMemcpy(b.d_rows, rows.data(), rows.size() * sizeof(rows[0]), cudaMemcpyHostToDevice));
    CHECK(cudaMalloc(&b.d_ids, b.n_rows * 4));
    size_t bytes = cuda_sample_workspace_bytes(b.n_rows, b.n_vocab);
    CHECK(cudaMalloc(&b.d_workspace, bytes));
    CHECK(cudaMemset(b.d_workspace, 0xa5, bytes));
}

void batch_free(struct batch &b)
{
    CHECK(cudaFree(b.d_logits));
    CHECK(cudaFree(b.d_rows));
    CHECK(cudaFree(b.d_ids));
    CHECK(cudaFree(b.d_banned));
    CHECK(cudaFree(b.d_workspace));
}

std::vector<uint32_t> cpu_ids(struct batch &b)
{
    std::vector<uint32_t> ids(b.n_rows);
    size_t bytes = cpu_sample_scratch_bytes(b.n_vocab);
    uint32_t n_threads = std::max(1u, std::thread::hardware_concurrency());
    for (uint32_t i = 0; i < b.n_rows; i++) {
        b.rows[i].n_banned = (uint32_t)b.banned[i].size();
        b.rows[i].banned = b.banned[i].data();
    }
    struct sample_args args = {
        b.logits.data() + b.skew, b.stride, b.rows.data(), ids.data(), b.n_rows, b.n_vocab};
    parallel(n_threads, [&](uint32_t t) {
        void *scratch = aligned_alloc(64, (bytes + 63) / 64 * 64);
        struct cpu_share share = {cpu_isa_best(), t, n_threads, scratch};
        cpu_sample(&args, &share);
        free(scratch);
    });
    return ids;
}

/* ---- check ---------------------------------------------------------------------------------- */

struct tally {
    uint64_t rows, wrong, by_kind[KINDS];
};

void check_batch(uint32_t n_vocab, uint32_t n_rows, uint64_t seed, int only_kind, struct tally *t)
{
    struct rng r = {seed_of(seed, n_vocab * 1000003ull + n_rows)};
    struct batch b = {};
    b.n_rows = n_rows;
    b.n_vocab = n_vocab;
    b.skew = r.below(4);
    b.stride = n_vocab + r.below(6);
    b.logits.assign(b.skew + (n_rows - 1) * b.stride + n_vocab, NAN); /* the end is exact */
    b.banned.resize(n_rows);
    for (uint32_t i = 0; i < n_rows; i++) {
        b.rows.push_back(random_plan(r, n_vocab));
        b.kinds.push_back(only_kind >= 0 ? only_kind : (int)r.below(KINDS));
        for (uint32_t j = r.below(3) ? 0 : r.below(300); j > 0; j--)
            b.banned[i].push_back(r.below(8) ? r.below(n_vocab) : (uint32_t)r.next());
        if (n_vocab <= 1000 && r.below(20) == 0)
            for (uint32_t id = 0; id < n_vocab; id++)
                b.banned[i].push_back(id);
    }
    parallel(n_rows, [&](uint32_t i) {
        float *l = b.logits.data() + b.skew + i * b.stride;
        fill_row(l, n_vocab, b.kinds[i], {seed_of(seed + 77, i * 31 + n_vocab)});
        for (uint32_t j = 0; j < b.banned[i].size() / 2; j++) { /* ban some of the best, too */
            uint32_t best = (uint32_t)(std::max_element(l, l + n_vocab) - l);
            if (j < 2 && best < n_vocab)
                b.banned[i][j] = best;
        }
    });
    batch_upload(b);
    std::vector<uint32_t> want = cpu_ids(b), got(n_rows);
    struct sample_args args = {b.d_logits + b.skew, b.stride, b.d_rows, b.d_ids, n_rows, n_vocab};
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    CHECK(cudaStreamCreate(&stream));
    for (uint32_t pass = 0; pass < 2; pass++) { /* a launch, then a replay */
        CHECK(cudaMemset(b.d_ids, 0xcc, n_rows * 4));
        CHECK(cudaDeviceSynchronize());
        if (pass == 1)
            CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
        CHECK(cuda_sample(&args, b.d_workspace, stream));
        if (pass == 1) {
            CHECK(cudaStreamEndCapture(stream, &graph));
            CHECK(cudaGraphInstantiate(&exec, graph, 0));
            CHECK(cudaGraphLaunch(exec, stream));
        }
        CHECK(cudaStreamSynchronize(stream));
        CHECK(cudaMemcpy(got.data(), b.d_ids, n_rows * 4, cudaMemcpyDeviceToHost));
        for (uint32_t i = 0; i < n_rows; i++) {
            t->rows++;
            if (got[i] == want[i])
                continue;
            const struct sample_row &p = b.rows[i];
            if (t->wrong++ < 30)
                printf("WRONG vocab %u rows %u row %u pass %u %s T %g top_k %u top_p %g min_p %g u "
                       "%.9g banned %u: %u, CPU %u\n",
                       n_vocab, n_rows, i, pass, kind_name[b.kinds[i]], p.temperature, p.top_k,
                       p.top_p, p.min_p, p.uniform, p.n_banned, got[i], want[i]);
            t->by_kind[b.kinds[i]]++;
        }
    }
    CHECK(cudaGraphExecDestroy(exec));
    CHECK(cudaGraphDestroy(graph));
    CHECK(cudaStreamDestroy(stream));
    batch_free(b);
}

bool check(bool is_quick)
{
    struct tally t = {};
    static const uint32_t vocabs[] = {1, 2, 3, 7, 1000, 1025, 4099, 32000, 131072, 151936, 262144};
    static const uint32_t batches[] = {1, 2, 9, 17, 40, 64, 100};
    uint64_t seed = (uint64_t)time(nullptr);
    printf("check: seed %llu\n", (unsigned long long)seed);
    for (uint32_t vocab : vocabs) {
        uint64_t before = t.wrong, rows = t.rows;
        if (is_quick && vocab > 32000)
            continue;
        for (uint32_t n : batches) {
            uint32_t times = is_quick ? 1 : vocab > 32000 ? 2 : 8;
            for (uint32_t i = 0; i < times && !(is_quick && n > 17); i++)
                check_batch(vocab, n, seed + 1000 * i, -1, &t);
        }
        for (int kind = 0; kind < KINDS && !is_quick; kind++)
            check_batch(vocab, 64, seed + 5, kind, &t);
        printf("  vocab %6u: %6llu rows, %llu wrong\n", vocab, (unsigned long long)(t.rows - rows),
               (unsigned long long)(t.wrong - before));
        fflush(stdout);
    }
    uint64_t before = t.wrong, rows = t.rows;
    check_batch(700001, is_quick ? 1 : 40, seed, -1, &t); /* bins in the workspace */
    printf("  vocab 700001: %5llu rows, %llu wrong\n", (unsigned long long)(t.rows - rows),
           (unsigned long long)(t.wrong - before));
    for (int k = 0; k < KINDS; k++)
        if (t.by_kind[k] > 0)
            printf("  of kind %s: %llu wrong\n", kind_name[k], (unsigned long long)t.by_kind[k]);
    printf("check: %llu rows, %llu wrong: %s\n", (unsigned long long)t.rows,
           (unsigned long long)t.wrong, t.wrong == 0 ? "ok" : "FAILED");
    return t.wrong == 0;
}

/* ---- time ----------------------------------------------------------------------------------- */

/* Median microseconds of f(i, stream), by replays of a graph of n calls. */
double median_us(uint32_t n, const std::function<void(uint32_t, cudaStream_t)> &f)
{
    constexpr uint32_t REPLAYS = 9;
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cudaEvent_t begin, end;
    CHECK(cudaStreamCreate(&stream));
    CHECK(cudaEventCreate(&begin));
    CHECK(cudaEventCreate(&end));
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    for (uint32_t i = 0; i < n; i++)
        f(i, stream);
    CHECK(cudaStreamEndCapture(stream, &graph));
    CHECK(cudaGraphInstantiate(&exec, graph, 0));
    std::vector<float> ms(REPLAYS + 1);
    for (float &t : ms) {
        CHECK(cudaEventRecord(begin, stream));
        CHECK(cudaGraphLaunch(exec, stream));
        CHECK(cudaEventRecord(end, stream));
        CHECK(cudaStreamSynchronize(stream));
        CHECK(cudaEventElapsedTime(&t, begin, end));
    }
    CHECK(cudaGraphExecDestroy(exec));
    CHECK(cudaGraphDestroy(graph));
    CHECK(cudaEventDestroy(begin));
    CHECK(cudaEventDestroy(end));
    CHECK(cudaStreamDestroy(stream));
    std::sort(ms.begin() + 1, ms.end()); /* the first warms up */
    return ms[1 + REPLAYS / 2] * 1e3 / n;
}

__global__ void empty_kernel()
{
}

struct plan {
    const char *name;
    struct sample_row row;
};

const struct plan plans[] = {
    {"greedy", {0.0f, 0.0f, 0.0f, 0.3f, 0, 0, nullptr}},
    {"top-k 50, top-p .9", {1.0f, 0.9f, 0.0f, 0.3f, 50, 0, nullptr}},
    {"top-k 2000, top-p .95", {1.0f, 0.95f, 0.0f, 0.7f, 2000, 0, nullptr}},
    {"top-k 60000, top-p .8", {1.0f, 0.8f, 0.0f, 0.5f, 60000, 0, nullptr}},
    {"top-p .9", {1.0f, 0.9f, 0.0f, 0.6f, 0, 0, nullptr}},
    {"min-p .05", {1.0f, 0.0f, 0.05f, 0.6f, 0, 0, nullptr}},
    {"none", {1.0f, 0.0f, 0.0f, 0.6f, 0, 0, nullptr}},
    {"mixed", {}},
};
constexpr uint32_t N_PLANS = sizeof(plans) / sizeof(plans[0]);

struct timer {
    double copy_bw;
    char *pool; /* logits of all buffers */
    size_t pool_bytes;
    uint32_t *d_ids;
    void *d_workspace;
};

/* One kind of logits, all plans. */
void time_kind(struct timer &t, int kind, uint32_t n_rows, uint32_t n_vocab, uint32_t n_plans)
{
    size_t row_floats = n_vocab, set_bytes = row_floats * n_rows * 4;
    uint32_t n_sets = std::max<size_t>(2, std::min<size_t>(64, (size_t)200000000 / set_bytes + 1));
    constexpr uint32_t DISTINCT = 16; /* rows made on the host; others are copies */
    std::vector<float> host(row_floats * DISTINCT);
    parallel(DISTINCT, [&](uint32_t i) {
        fill_row(host.data() + i * row_floats, n_vocab, kind, {seed_of(i, 99)});
    });
    for (size_t i = 0; i < (size_t)n_sets * n_rows; i++)
        if (i < DISTINCT)
            CHECK(cudaMemcpy(t.pool + i * row_floats * 4, host.data() + i * row_floats,
                             row_floats * 4, cudaMemcpyHostToDevice));
        else
            CHECK(cudaMemcpyAsync(t.pool + i * row_floats * 4,
                                  t.pool + i % DISTINCT * row_floats * 4, row_floats * 4,
                                  cudaMemcpyDeviceToDevice, 0));
    CHECK(cudaDeviceSynchronize());
    printf("%-11s %4u %7u", kind_name[kind], n_rows, n_vocab);
    struct sample_row *d_rows;
    CHECK(cudaMalloc(&d_rows, n_rows * sizeof(*d_rows)));
    for (uint32_t p = 0; p < n_plans; p++) {
        std::vector<struct sample_row> rows(n_rows);
        for (uint32_t i = 0; i < n_rows; i++)
            rows[i] = plans[p + 1 == N_PLANS ? i % p : p].row;
        CHECK(cudaMemcpy(d_rows, rows.data(), n_rows * sizeof(rows[0]), cudaMemcpyHostToDevice));
        double us = median_us(48, [&](uint32_t i, cudaStream_t stream) {
            const float *logits = (const float *)(t.pool + i % n_sets * set_bytes);
            struct sample_args args = {logits, n_vocab, d_rows, t.d_ids, n_rows, n_vocab};
            CHECK(cuda_sample(&args, t.d_workspace, stream));
        });
        printf(" %7.1f (%2.0f%%)", us, 100e6 * (double)set_bytes / us / t.copy_bw);
    }
    printf("\n");
    fflush(stdout);
    CHECK(cudaFree(d_rows));
}

void time_all()
{
    struct timer t = {};
    t.pool_bytes = (size_t)1 << 30;
    CHECK(cudaMalloc(&t.pool, t.pool_bytes));
    CHECK(cudaMalloc(&t.d_ids, 4096 * 4));
    CHECK(cudaMalloc(&t.d_workspace, cuda_sample_workspace_bytes(512, 262144)));
    double us = 1e30; /* of the copy, the best of ten */
    cudaEvent_t begin, end;
    CHECK(cudaEventCreate(&begin));
    CHECK(cudaEventCreate(&end));
    for (uint32_t i = 0; i < 10; i++) {
        float ms;
        CHECK(cudaEventRecord(begin, 0));
        CHECK(cudaMemcpyAsync(t.pool, t.pool + t.pool_bytes / 2, t.pool_bytes / 2,
                              cudaMemcpyDeviceToDevice, 0));
        CHECK(cudaEventRecord(end, 0));
        CHECK(cudaEventSynchronize(end));
        CHECK(cudaEventElapsedTime(&ms, begin, end));
        us = std::min(us, (double)ms * 1e3);
    }
    t.copy_bw = (double)t.pool_bytes / us * 1e6;
    double empty = median_us(
        100, [&](uint32_t, cudaStream_t stream) { empty_kernel<<<1, 32, 0, stream>>>(); });
    cudaDeviceProp prop;
    CHECK(cudaGetDeviceProperties(&prop, 0));
    printf("%s; device copy %.2f TB/s; an empty kernel takes %.1f us\n", prop.name,
           t.copy_bw * 1e-12, empty);
    printf("us (share of one read at the copy rate); columns:");
    for (const struct plan &p : plans)
        printf(" | %s", p.name);
    printf("\n");
    static const int kinds[] = {FLAT,  MODEL,      MODEL_BF16, PEAKED,  WIDE,         NARROW,
                                EQUAL, FEW_VALUES, RAMP,       OUTLIER, OUTLIER_EQUAL};
    for (int kind : kinds)
        time_kind(t, kind, 64, 131072, N_PLANS);
    static const uint32_t sizes[][2] = {{1, 131072},  {8, 131072},   {12, 131072},  {24, 131072},
                                        {32, 131072}, {128, 131072}, {256, 131072}, {64, 151936},
                                        {64, 262144}, {64, 32000},   {512, 32000}};
    for (auto &size : sizes) {
        time_kind(t, MODEL, size[0], size[1], N_PLANS);
    }
    CHECK(cudaFree(t.pool));
    CHECK(cudaFree(t.d_ids));
    CHECK(cudaFree(t.d_workspace));
}

} // namespace

int main(int argc, char **argv)
{
    auto has = [&](const char *word) {
        for (int i = 1; i < argc; i++)
            if (strcmp(argv[i], word) == 0)
                return true;
        return false;
    };
    bool is_ok = true;
    if (argc == 1 || has("check") || has("quick"))
        is_ok = check(has("quick"));
    if (argc == 1 || has("time"))
        time_all();
    return is_ok ? 0 : 1;
}
