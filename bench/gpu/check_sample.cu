/* Checks and times kernels/cuda/sample.cu.
 *   check_sample [check] [time] [quick] [seed=N]   default: check time, another seed each time
 * check   thousands of random rows of many kinds and plans: each id must equal the CPU op's, which
 *         is linked in, log-probabilities too within what kernels/ops.h says; poisoned outputs and
 *         workspace, rows off alignment, logits put back, replay of a graph
 * time    one launch inside a graph of many, over buffers larger than the L2; share: the bytes of
 *         one read of the logits over the rate of a device copy, measured here
 * quick   check with few and small rows, for compute-sanitizer
 * Exit 1 on failure. */
#include "bench/report.h"
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
    NONE,    /* nothing but NaN and -inf */
    CLUMPED, /* the best tokens are all those of a few threads */
    KINDS
};
const char *const kind_name[KINDS] = {"flat",  "narrow",     "equal",      "peaked",  "wide",
                                      "model", "model-bf16", "few values", "outlier", "outlier-eq",
                                      "ramp",  "odd",        "odd +inf",   "none",    "clumped"};

float as_bf16(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    u = (u + 0x7fff + (u >> 16 & 1)) & 0xffff0000u;
    memcpy(&f, &u, 4);
    return f;
}

float odd_logit(struct rng &r)
{
    uint32_t odd = r.below(12);
    return odd == 0   ? NAN
           : odd == 1 ? -INFINITY
           : odd == 2 ? -3e38f
           : odd == 3 ? 1e-40f
           : odd == 4 ? -0.0f
                      : r.gauss() * 4.0f;
}

void fill_row(float *l, uint32_t n, int kind, struct rng r)
{
    float few[9];
    uint32_t n_few = 2 + r.below(8);
    for (float &f : few)
        f = r.gauss() * 3.0f;
    float base = r.gauss();
    uint32_t n_clump = 1 + r.below(125);
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
        case CLUMPED:
            l[i] = r.gauss() + (i / 4 % 1024 < n_clump ? 10.0f : 0.0f);
            break;
        case NONE:
            l[i] = i % 3 ? -INFINITY : NAN;
            break;
        default:
            l[i] = odd_logit(r);
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

/* What a row points to. */
struct extras {
    std::vector<uint32_t> banned, allowed, newest;
    std::vector<struct sample_token> tokens;
    bool has_logprobs;
};

/* Ids not used before, some of them the best ones. */
std::vector<uint32_t> random_ids(struct rng &r, const float *logits, uint32_t n_vocab, uint32_t n)
{
    std::vector<uint32_t> ids;
    std::vector<bool> is_used(n_vocab);
    uint32_t best = (uint32_t)(std::max_element(logits, logits + n_vocab) - logits);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t id = i == 0 && best < n_vocab ? best : r.below(n_vocab);
        if (!is_used[id])
            ids.push_back(id);
        is_used[id] = true;
    }
    return ids;
}

/* Penalties, bias, allowed ids and log-probabilities: each for a part of the rows. */
void random_extras(struct rng &r, const float *logits, uint32_t n_vocab, struct sample_row *row,
                   struct extras *x)
{
    if (r.below(3) == 0) {
        uint32_t n = r.below(4) ? r.below(60) : r.below(5000);
        for (uint32_t id : random_ids(r, logits, n_vocab, std::min(n, n_vocab))) {
            uint32_t n_output = r.below(2) ? r.below(20) : 0;
            float bias = r.below(3) ? 0.0f : r.below(8) ? r.gauss() * 5.0f : INFINITY * r.gauss();
            x->tokens.push_back({id, n_output | (r.below(2) ? OPS_IN_PROMPT : 0), bias, NAN});
        }
        if (r.below(4) == 0)
            x->tokens.push_back({n_vocab + r.below(100), 1, 5.0f, NAN});
        row->repetition = r.below(3) ? 0.5f + 1.5f * r.unit() : 0.0f;
        row->frequency = r.below(3) ? 4.0f * r.unit() - 2.0f : 0.0f;
        row->presence = r.below(3) ? 4.0f * r.unit() - 2.0f : 0.0f;
    }
    if (r.below(4) == 0)
        x->newest.push_back(r.below(2) && !x->tokens.empty() ? x->tokens[0].id
                                                             : r.below(n_vocab + n_vocab / 8 + 1));
    if (r.below(5) == 0) {
        uint32_t kind = r.below(4); /* all, some, few, none */
        x->allowed.assign((n_vocab + 31) / 32, kind == 0 ? ~0u : 0u);
        for (uint32_t &word : x->allowed)
            word = kind == 1   ? (uint32_t)r.next()
                   : kind == 2 ? (r.below(16) ? 0u : 1u << r.below(32))
                               : word;
    }
    x->has_logprobs = r.below(4) == 0;
    row->n_top = r.below(3) ? r.below(OPS_TOP_LOGPROBS_MAX + 1) : 0;
}

/* ---- Device buffers ------------------------------------------------------------------------- */

struct batch {
    uint32_t n_rows, n_vocab, skew;
    uint64_t stride;
    std::vector<float> logits; /* [skew + n_rows * stride] */
    std::vector<struct sample_row> rows;
    std::vector<struct extras> extras;
    std::vector<int> kinds;
    std::vector<struct sample_logprobs> logprobs; /* the CPU's */
    float *d_logits;
    struct sample_row *d_rows;
    uint32_t *d_ids;
    char *d_lists;
    struct sample_logprobs *d_logprobs;
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

/* Lists of all rows, side by side as they will be on the device. */
struct lists {
    std::vector<char> bytes;
    template <typename T> size_t put(const std::vector<T> &v)
    {
        size_t at = (bytes.size() + 15) / 16 * 16;
        bytes.resize(at + v.size() * sizeof(T));
        if (!v.empty())
            memcpy(bytes.data() + at, v.data(), v.size() * sizeof(T));
        return at;
    }
};

/* Rows with pointers into `base`, where the lists are or will be. */
std::vector<struct sample_row> rows_with(const struct batch &b, char *base,
                                         struct sample_logprobs *logprobs, struct lists *lists)
{
    std::vector<struct sample_row> rows = b.rows;
    lists->bytes.clear();
    for (uint32_t i = 0; i < b.n_rows; i++) {
        const struct extras &x = b.extras[i];
        rows[i].n_banned = (uint32_t)x.banned.size();
        rows[i].banned = (const uint32_t *)(base + lists->put(x.banned));
        rows[i].n_tokens = (uint32_t)x.tokens.size();
        rows[i].tokens = (struct sample_token *)(base + lists->put(x.tokens));
        if (!x.allowed.empty())
            rows[i].allowed = (const uint32_t *)(base + lists->put(x.allowed));
        if (!x.newest.empty())
            rows[i].newest = (const uint32_t *)(base + lists->put(x.newest));
        if (x.has_logprobs)
            rows[i].logprobs = logprobs + i;
    }
    return rows;
}

void batch_upload(struct batch &b)
{
    struct lists lists;
    CHECK(cudaMalloc(&b.d_logits, b.logits.size() * 4));
    CHECK(cudaMemcpy(b.d_logits, b.logits.data(), b.logits.size() * 4, cudaMemcpyHostToDevice));
    CHECK(cudaMalloc(&b.d_logprobs, b.n_rows * sizeof(*b.d_logprobs)));
    rows_with(b, nullptr, nullptr, &lists);
    CHECK(cudaMalloc(&b.d_lists, lists.bytes.size() + 1));
    std::vector<struct sample_row> rows = rows_with(b, b.d_lists, b.d_logprobs, &lists);
    CHECK(cudaMemcpy(b.d_lists, lists.bytes.data(), lists.bytes.size(), cudaMemcpyHostToDevice));
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
    CHECK(cudaFree(b.d_lists));
    CHECK(cudaFree(b.d_logprobs));
    CHECK(cudaFree(b.d_workspace));
}

std::vector<uint32_t> cpu_ids(struct batch &b)
{
    struct lists lists;
    std::vector<uint32_t> ids(b.n_rows);
    size_t bytes = cpu_sample_scratch_bytes(b.n_vocab);
    uint32_t n_threads = std::max(1u, std::thread::hardware_concurrency());
    b.logprobs.resize(b.n_rows);
    rows_with(b, nullptr, nullptr, &lists);
    std::vector<char> base(lists.bytes.size() + 1);
    std::vector<struct sample_row> rows = rows_with(b, base.data(), b.logprobs.data(), &lists);
    std::copy(lists.bytes.begin(), lists.bytes.end(), base.begin());
    struct sample_args args = {
        b.logits.data() + b.skew, b.stride, rows.data(), ids.data(), b.n_rows, b.n_vocab};
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
    uint64_t rows, wrong, by_kind[KINDS], with_logprobs;
    double worst_logprob;
};

struct batch random_batch(uint32_t n_vocab, uint32_t n_rows, uint64_t seed, int only_kind)
{
    struct rng r = {seed_of(seed, n_vocab * 1000003ull + n_rows)};
    struct batch b = {};
    b.n_rows = n_rows;
    b.n_vocab = n_vocab;
    b.skew = r.below(4);
    b.stride = n_vocab + r.below(6);
    b.logits.assign(b.skew + (n_rows - 1) * b.stride + n_vocab, NAN); /* the end is exact */
    b.rows.resize(n_rows);
    b.extras.resize(n_rows);
    for (uint32_t i = 0; i < n_rows; i++)
        b.kinds.push_back(only_kind >= 0 ? only_kind : (int)r.below(KINDS));
    parallel(n_rows, [&](uint32_t i) {
        float *l = b.logits.data() + b.skew + i * b.stride;
        struct extras &x = b.extras[i];
        struct rng row_r = {seed_of(seed + 77, i * 31 + n_vocab)};
        fill_row(l, n_vocab, b.kinds[i], row_r);
        row_r.next();
        b.rows[i] = random_plan(row_r, n_vocab);
        if (row_r.below(2))
            random_extras(row_r, l, n_vocab, &b.rows[i], &x);
        for (uint32_t j = row_r.below(3) ? 0 : row_r.below(300); j > 0; j--)
            x.banned.push_back(row_r.below(8) ? row_r.below(n_vocab) : (uint32_t)row_r.next());
        if (n_vocab <= 1000 && row_r.below(20) == 0)
            for (uint32_t id = 0; id < n_vocab; id++)
                x.banned.push_back(id);
        uint32_t best = (uint32_t)(std::max_element(l, l + n_vocab) - l);
        if (x.banned.size() > 1 && best < n_vocab)
            x.banned[0] = best;
    });
    return b;
}

/* Are a row's log-probabilities the CPU's, and is what lies behind them untouched? */
bool are_logprobs_right(const struct sample_logprobs &got, const struct sample_logprobs &want,
                        uint32_t n_top, struct tally *t)
{
    bool is_right = true;
    auto compare = [&](float a, float b) {
        double error = a == b ? 0.0 : fabs((double)a - b) / std::max(1.0f, fabsf(b));
        is_right &= error <= 1e-5; /* a NaN is not */
        if (error > t->worst_logprob)
            t->worst_logprob = error;
    };
    compare(got.chosen, want.chosen);
    for (uint32_t i = 0; i < n_top; i++) {
        is_right &= got.ids[i] == want.ids[i];
        compare(got.values[i], want.values[i]);
    }
    for (uint32_t i = n_top; i < OPS_TOP_LOGPROBS_MAX; i++)
        is_right &= got.ids[i] == 0xccccccccu;
    t->with_logprobs++;
    return is_right;
}

void compare_batch(const struct batch &b, const std::vector<uint32_t> &want, uint32_t pass,
                   struct tally *t)
{
    std::vector<uint32_t> got(b.n_rows);
    std::vector<struct sample_logprobs> logprobs(b.n_rows);
    std::vector<float> logits(b.logits.size());
    CHECK(cudaMemcpy(got.data(), b.d_ids, b.n_rows * 4, cudaMemcpyDeviceToHost));
    CHECK(cudaMemcpy(logprobs.data(), b.d_logprobs, b.n_rows * sizeof(logprobs[0]),
                     cudaMemcpyDeviceToHost));
    CHECK(cudaMemcpy(logits.data(), b.d_logits, logits.size() * 4, cudaMemcpyDeviceToHost));
    if (memcmp(logits.data(), b.logits.data(), logits.size() * 4) != 0) {
        printf("WRONG vocab %u rows %u: logits not put back\n", b.n_vocab, b.n_rows);
        t->wrong++;
    }
    for (uint32_t i = 0; i < b.n_rows; i++) {
        const struct sample_row &p = b.rows[i];
        const struct extras &x = b.extras[i];
        t->rows++;
        bool is_right = got[i] == want[i];
        if (x.has_logprobs)
            is_right &= are_logprobs_right(logprobs[i], b.logprobs[i], p.n_top, t);
        if (is_right)
            continue;
        if (t->wrong++ < 30)
            printf("WRONG vocab %u rows %u row %u pass %u %s T %g top_k %u top_p %g min_p %g u "
                   "%.9g banned %zu allowed %d tokens %zu newest %zu logprobs %d of %u: %u, CPU "
                   "%u\n",
                   b.n_vocab, b.n_rows, i, pass, kind_name[b.kinds[i]], p.temperature, p.top_k,
                   p.top_p, p.min_p, p.uniform, x.banned.size(), !x.allowed.empty(),
                   x.tokens.size(), x.newest.size(), x.has_logprobs, p.n_top, got[i], want[i]);
        t->by_kind[b.kinds[i]]++;
    }
}

void check_batch(uint32_t n_vocab, uint32_t n_rows, uint64_t seed, int only_kind, struct tally *t)
{
    struct batch b = random_batch(n_vocab, n_rows, seed, only_kind);
    batch_upload(b);
    std::vector<uint32_t> want = cpu_ids(b);
    struct sample_args args = {b.d_logits + b.skew, b.stride, b.d_rows, b.d_ids, n_rows, n_vocab};
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    CHECK(cudaStreamCreate(&stream));
    for (uint32_t pass = 0; pass < 2; pass++) { /* a launch, then a replay */
        CHECK(cudaMemset(b.d_ids, 0xcc, n_rows * 4));
        CHECK(cudaMemset(b.d_logprobs, 0xcc, n_rows * sizeof(*b.d_logprobs)));
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
        compare_batch(b, want, pass, t);
    }
    CHECK(cudaGraphExecDestroy(exec));
    CHECK(cudaGraphDestroy(graph));
    CHECK(cudaStreamDestroy(stream));
    batch_free(b);
}

bool check(bool is_quick, uint64_t seed)
{
    struct tally t = {};
    static const uint32_t vocabs[] = {1, 2, 3, 7, 1000, 1025, 4099, 32000, 131072, 151936, 262144};
    static const uint32_t batches[] = {1, 2, 9, 17, 40, 64, 100};
    printf("check: seed %llu\n", (unsigned long long)seed);
    for (uint32_t vocab : vocabs) {
        uint64_t before = t.wrong, rows = t.rows;
        if (is_quick && vocab > 40000)
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
    printf("check: %llu rows, %llu with log-probabilities (largest error %.1e), %llu wrong: %s\n",
           (unsigned long long)t.rows, (unsigned long long)t.with_logprobs, t.worst_logprob,
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
    float temperature, top_p, min_p, uniform;
    uint32_t top_k;
};

const struct plan plans[] = {
    {"greedy", 0.0f, 0.0f, 0.0f, 0.3f, 0},
    {"top-k 50, top-p .9", 1.0f, 0.9f, 0.0f, 0.3f, 50},
    {"top-k 2000, top-p .95", 1.0f, 0.95f, 0.0f, 0.7f, 2000},
    {"top-k 60000, top-p .8", 1.0f, 0.8f, 0.0f, 0.5f, 60000},
    {"top-p .9", 1.0f, 0.9f, 0.0f, 0.6f, 0},
    {"min-p .05", 1.0f, 0.0f, 0.05f, 0.6f, 0},
    {"none", 1.0f, 0.0f, 0.0f, 0.6f, 0},
    {"mixed", 0.0f, 0.0f, 0.0f, 0.0f, 0},
};

struct sample_row row_of(const struct plan &plan)
{
    struct sample_row row = {};
    row.temperature = plan.temperature;
    row.top_p = plan.top_p;
    row.min_p = plan.min_p;
    row.uniform = plan.uniform;
    row.top_k = plan.top_k;
    return row;
}

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
            rows[i] = row_of(plans[p + 1 == N_PLANS ? i % p : p]);
        CHECK(cudaMemcpy(d_rows, rows.data(), n_rows * sizeof(rows[0]), cudaMemcpyHostToDevice));
        double us = median_us(48, [&](uint32_t i, cudaStream_t stream) {
            const float *logits = (const float *)(t.pool + i % n_sets * set_bytes);
            struct sample_args args = {logits, n_vocab, d_rows, t.d_ids, n_rows, n_vocab};
            CHECK(cuda_sample(&args, t.d_workspace, stream));
        });
        printf(" %7.1f (%2.0f%%)", us, 100e6 * (double)set_bytes / us / t.copy_bw);
        char what[96];
        snprintf(what, sizeof(what), "sample %s %u x %u %s", kind_name[kind], n_rows, n_vocab,
                 plans[p].name);
        report_row(nullptr, what, us, "us", report_limit_us((double)set_bytes, 0, 0));
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
    uint64_t seed = (uint64_t)time(nullptr);
    if (argc > 1 && strncmp(argv[argc - 1], "seed=", 5) == 0)
        seed = strtoull(argv[--argc] + 5, nullptr, 10);
    if (argc == 1 || has("check") || has("quick"))
        is_ok = check(has("quick"), seed);
    if (argc == 1 || has("time"))
        time_all();
    return is_ok ? 0 : 1;
}
