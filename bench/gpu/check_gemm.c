/* Checks and times what cuBLASLt multiplies (src/device/cuda_gemm*.c).
 *   check_gemm [check] [quick] [tune] [small] [time]   default: check tune time
 * check  fresh random inputs against float64 at random places, odd sizes, poisoned outputs with
 *        guards around them; again with measured algorithms; exit code 1 on failure
 * quick  the small ones of these, for compute-sanitizer
 * tune   what measuring takes at a start and at the next ones, and what it gains, for Llama-3.1-8B
 * small  the same for Qwen3-0.6B
 * time   the four products of a layer of Llama-3.1-8B in bf16 and in fp8, weights from memory,
 *        beside the rate of a large fp8 product of the same run */
#include "base/time.h"
#include "bench/report.h"
#include "device/cuda_gemm_int.h"
#include "observe/log.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define POOL_BYTES   ((size_t)2560 << 20) /* of weights: far more than a cache holds */
#define X_BYTES      ((size_t)512 << 20)
#define Y_BYTES      ((size_t)768 << 20)
#define SCALE_FLOATS ((size_t)4 << 20)
#define GUARD_ROWS   4u
#define POISON       0xff /* a NaN in every dtype */
#define N_PROBES     400u
#define TOLERANCE_F8 6e-3 /* of norms; sums in the tensor cores' precision, results in bf16 */
#define TOLERANCE    4e-3
#define N_REPLAYS    7u
#define BUDGET_NS    (1500 * NS_PER_MS)

struct bench {
    cudaStream_t stream;
    cudaEvent_t from, to;
    struct cuda_lt *lt;
    char *pool, *x, *y;
    float *scales;
    uint64_t seed;
    uint32_t n_failed;
};

static void must(bool is_ok, const char *what)
{
    if (is_ok)
        return;
    fprintf(stderr, "check_gemm: %s: %s\n", what, cudaGetErrorString(cudaGetLastError()));
    exit(1);
}

static uint64_t random_u64(struct bench *b)
{
    b->seed += 0x9e3779b97f4a7c15u;
    uint64_t z = (b->seed ^ (b->seed >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static void fill(struct bench *b, void *dst, enum ops_dtype dtype, uint64_t n, float scale)
{
    const struct random_fill_args args = {
        .dst = dst, .dtype = dtype, .n = n, .seed = random_u64(b), .scale = scale};
    must(cuda_random_fill(&args, b->stream) == cudaSuccess, "fill");
}

static void scales_fill(struct bench *b)
{
    fill(b, b->scales, OPS_F32, SCALE_FLOATS, 0.5f);
    float *host = malloc(SCALE_FLOATS * sizeof(float));
    must(host != NULL, "memory");
    cudaStreamSynchronize(b->stream);
    cudaMemcpy(host, b->scales, SCALE_FLOATS * sizeof(float), cudaMemcpyDeviceToHost);
    for (size_t i = 0; i < SCALE_FLOATS; i++)
        host[i] = (host[i] + 0.75f) / 64.0f; /* all positive */
    must(cudaMemcpy(b->scales, host, SCALE_FLOATS * sizeof(float), cudaMemcpyHostToDevice) ==
             cudaSuccess,
         "scales");
    free(host);
}

/* ---- numbers on the host ---- */

static float bf16_value(uint16_t bits)
{
    const uint32_t word = (uint32_t)bits << 16;
    float v;
    memcpy(&v, &word, sizeof(v));
    return v;
}

static float bf16_round(float v)
{
    uint32_t word;
    memcpy(&word, &v, sizeof(word));
    word += 0x7fff + (word >> 16 & 1);
    return bf16_value((uint16_t)(word >> 16));
}

static float f8_value(uint8_t bits)
{
    const int exponent = bits >> 3 & 15, fraction = bits & 7;
    const float v = exponent > 0 ? ldexpf(1.0f + (float)fraction / 8.0f, exponent - 7)
                                 : ldexpf((float)fraction / 8.0f, -6);
    return bits & 128 ? -v : v;
}

static float f8_round(float v)
{
    const float a = fabsf(v);
    int exponent = -6;
    if (a >= ldexpf(1.0f, -6))
        exponent = ilogbf(a);
    float q = ldexpf(rintf(ldexpf(a, 3 - exponent)), exponent - 3);
    q = q > 448.0f ? 448.0f : q;
    return v < 0 ? -q : q;
}

/* The files of the directory. */
static void dir_empty(const char *path)
{
    char name[512];
    DIR *dir = opendir(path);
    for (struct dirent *entry; dir != NULL && (entry = readdir(dir)) != NULL;) {
        snprintf(name, sizeof(name), "%s/%s", path, entry->d_name);
        unlink(name);
    }
    if (dir != NULL)
        closedir(dir);
}

/* ---- check ---- */

struct problem {
    uint32_t rows, n, k;
    enum ops_dtype w_dtype, y_dtype;
    enum ops_scaling scaling;
    uint32_t x_gap, y_gap; /* between rows */
};

static struct gemm_args args_of(const struct bench *b, const struct problem *p)
{
    return (struct gemm_args){.x = b->x,
                              .x_dtype = p->w_dtype == OPS_F32 ? OPS_F32 : OPS_BF16,
                              .x_stride = p->k + p->x_gap,
                              .w = b->pool,
                              .w_dtype = p->w_dtype,
                              .w_scale = p->scaling != OPS_SCALE_NONE ? b->scales : NULL,
                              .w_scaling = p->scaling,
                              .y = b->y,
                              .y_dtype = p->y_dtype,
                              .y_stride = p->n + p->y_gap,
                              .n_rows = p->rows,
                              .n = p->n,
                              .k = p->k};
}

/* Inputs of a problem, and its output, on the host. */
struct host_copy {
    char *x, *w, *y;
    float *scales;
};

static void *copied(const void *src, size_t bytes)
{
    void *host = malloc(bytes > 0 ? bytes : 1);
    must(host != NULL && cudaMemcpy(host, src, bytes, cudaMemcpyDeviceToHost) == cudaSuccess,
         "copy");
    return host;
}

static float element(const void *data, enum ops_dtype dtype, size_t i)
{
    if (dtype == OPS_F8)
        return f8_value(((const uint8_t *)data)[i]);
    return dtype == OPS_BF16 ? bf16_value(((const uint16_t *)data)[i]) : ((const float *)data)[i];
}

static float w_scale_at(const struct problem *p, const float *scales, uint32_t c, uint32_t i)
{
    const uint32_t blocks = (p->k + 127) / 128;
    return p->scaling == OPS_SCALE_ROW     ? scales[c]
           : p->scaling == OPS_SCALE_BLOCK ? scales[c / 128 * blocks + i / 128]
                                           : 1.0f;
}

/* Row r of x as the fp8 product takes it, times its scales. */
static void row_quantise(const struct problem *p, const struct host_copy *h, uint32_t r, double *q)
{
    const uint32_t part = p->scaling == OPS_SCALE_BLOCK ? 128 : p->k;
    const size_t at = (size_t)r * (p->k + p->x_gap);
    for (uint32_t first = 0; first < p->k; first += part) {
        const uint32_t end = first + part < p->k ? first + part : p->k;
        float most = 1e-30f;
        for (uint32_t i = first; i < end; i++)
            most = fmaxf(most, fabsf(element(h->x, OPS_BF16, at + i)));
        const float factor = 448.0f / most, scale = most / 448.0f;
        for (uint32_t i = first; i < end; i++)
            q[i] = (double)f8_round(element(h->x, OPS_BF16, at + i) * factor) * (double)scale;
    }
}

/* Relative errors at random places: against exact products of x as e4m3, and against those of x as
 * it is with weights rounded to bf16. */
static void errors_of(struct bench *b, const struct problem *p, const struct host_copy *h,
                      double *out_f8, double *out_wide)
{
    double *q = calloc(p->k, sizeof(double));
    double f8 = 0, wide = 0, norm = 0;
    must(q != NULL, "memory");
    const enum ops_dtype x_dtype = p->w_dtype == OPS_F32 ? OPS_F32 : OPS_BF16;
    for (uint32_t i = 0; i < N_PROBES; i++) {
        const uint32_t r = i < 8 ? p->rows - 1 - i % p->rows : (uint32_t)(random_u64(b) % p->rows);
        const uint32_t c = i < 4 ? p->n - 1 - i % p->n : (uint32_t)(random_u64(b) % p->n);
        double sum_f8 = 0, sum_wide = 0;
        if (p->w_dtype == OPS_F8)
            row_quantise(p, h, r, q);
        for (uint32_t k = 0; k < p->k; k++) {
            const float w = element(h->w, p->w_dtype, (size_t)c * p->k + k);
            const float x = element(h->x, x_dtype, (size_t)r * (p->k + p->x_gap) + k);
            const float scale = w_scale_at(p, h->scales, c, k);
            sum_f8 += q[k] * (double)w * (double)scale;
            sum_wide += (double)x * (double)(p->w_dtype == OPS_F8 ? bf16_round(w * scale) : w);
        }
        const double y = element(h->y, p->y_dtype, (size_t)r * (p->n + p->y_gap) + c);
        f8 += (y - sum_f8) * (y - sum_f8);
        wide += (y - sum_wide) * (y - sum_wide);
        norm += sum_wide * sum_wide;
    }
    free(q);
    *out_f8 = sqrt(f8 / norm);
    *out_wide = sqrt(wide / norm);
}

/* Elements that were left unwritten, or written outside of y. */
static uint64_t strays(const struct problem *p, const char *y)
{
    const size_t size = ops_dtype_bytes(p->y_dtype);
    const uint64_t stride = p->n + p->y_gap;
    uint64_t n = 0;
    for (uint64_t i = 0; i < (p->rows + GUARD_ROWS) * stride; i++) {
        bool is_poison = true;
        for (size_t at = 0; at < size; at++)
            is_poison = is_poison && (uint8_t)y[i * size + at] == POISON;
        n += is_poison == (i / stride < p->rows && i % stride < p->n);
    }
    return n;
}

static void problem_check(struct bench *b, const struct problem *p)
{
    const struct gemm_args args = args_of(b, p);
    const size_t y_bytes =
        (size_t)(p->rows + GUARD_ROWS) * args.y_stride * ops_dtype_bytes(p->y_dtype);
    const size_t w_count = (size_t)p->n * p->k;
    double f8 = 0, wide = 0;
    fill(b, b->x, args.x_dtype, p->rows * args.x_stride, 1.0f);
    fill(b, b->pool, p->w_dtype, w_count, p->w_dtype == OPS_F8 ? 448.0f : 1.0f);
    must(cudaMemsetAsync(b->y, POISON, y_bytes, b->stream) == cudaSuccess, "poison");
    must(cuda_lt_gemm(b->lt, &args) == ST_OK, "gemm");
    must(cudaStreamSynchronize(b->stream) == cudaSuccess, "gemm");
    struct host_copy h = {.x =
                              copied(b->x, p->rows * args.x_stride * ops_dtype_bytes(args.x_dtype)),
                          .w = copied(b->pool, w_count * ops_dtype_bytes(p->w_dtype)),
                          .y = copied(b->y, y_bytes),
                          .scales = copied(b->scales, SCALE_FLOATS * sizeof(float))};
    errors_of(b, p, &h, &f8, &wide);
    const uint64_t n_strays = strays(p, h.y);
    const bool is_f8 = p->w_dtype == OPS_F8 && f8 < wide;
    const bool must_be_f8 =
        p->w_dtype == OPS_F8 && p->scaling != OPS_SCALE_NONE && p->k % 16 == 0 && p->n % 8 == 0;
    const bool is_ok =
        n_strays == 0 && (is_f8 ? f8 < TOLERANCE_F8 : wide < TOLERANCE) && (is_f8 || !must_be_f8);
    static const char *const dtypes[] = {"f32", "bf16", "f16", "f8"};
    static const char *const scalings[] = {"none", "row", "block"};
    printf("%-4s %5u x %6u x %5u  w %-4s %-5s y %-4s gaps %2u %2u  error %.1e (%s)%s\n",
           is_ok ? "ok" : "FAIL", p->rows, p->n, p->k, dtypes[p->w_dtype], scalings[p->scaling],
           dtypes[p->y_dtype], p->x_gap, p->y_gap, is_f8 ? f8 : wide, is_f8 ? "fp8" : "wide",
           n_strays > 0 ? " strays" : "");
    b->n_failed += !is_ok;
    free(h.x);
    free(h.w);
    free(h.y);
    free(h.scales);
}

static void check_rows(struct bench *b)
{
    static const uint32_t rows[] = {1, 16, 17, 33, 65, 130, 300};
    for (uint32_t s = OPS_SCALE_ROW; s <= OPS_SCALE_BLOCK; s++)
        for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
            for (uint32_t y = OPS_F32; y <= OPS_BF16; y++)
                problem_check(b, &(struct problem){.rows = rows[i],
                                                   .n = 1024,
                                                   .k = 2048,
                                                   .w_dtype = OPS_F8,
                                                   .y_dtype = (enum ops_dtype)y,
                                                   .scaling = (enum ops_scaling)s});
}

static void check_odd(struct bench *b)
{
    static const struct problem odd[] = {
        {300, 1040, 640, OPS_F8, OPS_BF16, OPS_SCALE_BLOCK, 0, 0},
        {65, 1000, 1040, OPS_F8, OPS_F32, OPS_SCALE_BLOCK, 8, 8},
        {65, 1000, 1040, OPS_F8, OPS_BF16, OPS_SCALE_ROW, 8, 8},
        {33, 4096, 14336, OPS_F8, OPS_F32, OPS_SCALE_ROW, 0, 0},
        {33, 4096, 14336, OPS_F8, OPS_F32, OPS_SCALE_BLOCK, 0, 0},
        {33, 896, 4864, OPS_F8, OPS_F32, OPS_SCALE_BLOCK, 0, 0},
        {33, 4864, 896, OPS_F8, OPS_BF16, OPS_SCALE_BLOCK, 0, 0},
        {33, 77, 1000, OPS_F8, OPS_BF16, OPS_SCALE_ROW, 0, 3},     /* the library refuses k */
        {33, 77, 1024, OPS_F8, OPS_F32, OPS_SCALE_BLOCK, 3, 1},    /* and n */
        {130, 28672, 4096, OPS_F8, OPS_F32, OPS_SCALE_NONE, 0, 0}, /* panels */
        {2050, 28672, 512, OPS_F8, OPS_BF16, OPS_SCALE_BLOCK, 0, 0},
        {4099, 4096, 512, OPS_F8, OPS_F32, OPS_SCALE_BLOCK, 0, 0},
        {9001, 4096, 4096, OPS_F8, OPS_BF16, OPS_SCALE_BLOCK, 0, 0}, /* parts */
        {9001, 4096, 4096, OPS_F8, OPS_BF16, OPS_SCALE_ROW, 0, 0},
        {33, 77, 1000, OPS_BF16, OPS_F32, OPS_SCALE_NONE, 0, 3},
        {300, 6144, 4096, OPS_BF16, OPS_BF16, OPS_SCALE_NONE, 16, 0},
        {1025, 4096, 1024, OPS_BF16, OPS_F32, OPS_SCALE_NONE, 0, 0},
        {65, 512, 1024, OPS_F32, OPS_F32, OPS_SCALE_NONE, 0, 0},
    };
    for (size_t i = 0; i < sizeof(odd) / sizeof(odd[0]); i++)
        problem_check(b, &odd[i]);
}

static struct cuda_lt *lt_open(const struct bench *b)
{
    struct cuda_lt *lt = NULL;
    char why[256] = "";
    must(cuda_lt_open(b->stream, &lt, why, sizeof(why)) == ST_OK, why);
    return lt;
}

/* With algorithms that were measured, of which fp8 has some that are wrong: none may be chosen. */
static void check_measured(struct bench *b, const char *dir)
{
    static const uint32_t sizes[][2] = {{6144, 4096},  {4096, 4096}, {28672, 4096},
                                        {4096, 14336}, {1024, 2048}, {1040, 640}};
    static const uint32_t rows[] = {17, 20, 32, 64, 111, 256, 640};
    struct problem problems[2 * sizeof(sizes) / sizeof(sizes[0])];
    struct gemm_args gemms[2 * sizeof(sizes) / sizeof(sizes[0])];
    uint32_t n = 0;
    for (uint32_t s = OPS_SCALE_ROW; s <= OPS_SCALE_BLOCK; s++)
        for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++, n++) {
            problems[n] = (struct problem){.rows = 640,
                                           .n = sizes[i][0],
                                           .k = sizes[i][1],
                                           .w_dtype = OPS_F8,
                                           .y_dtype = i % 2 ? OPS_F32 : OPS_BF16,
                                           .scaling = (enum ops_scaling)s};
            gemms[n] = args_of(b, &problems[n]);
        }
    fill(b, b->pool, OPS_F8, (uint64_t)28672 * 4096, 448.0f);
    must(cuda_lt_prepare(b->lt, gemms, n, dir, 60 * NS_PER_S) == ST_OK, "prepare");
    const uint64_t searches = cuda_lt_searches(b->lt);
    for (uint32_t i = 0; i < n; i++)
        for (size_t j = 0; j < sizeof(rows) / sizeof(rows[0]); j++) {
            problems[i].rows = rows[j];
            problem_check(b, &problems[i]);
        }
    if (cuda_lt_searches(b->lt) != searches) {
        printf("FAIL an algorithm was sought after all was prepared\n");
        b->n_failed++;
    }
}

static void check_all(struct bench *b, bool is_quick, const char *dir)
{
    b->lt = lt_open(b);
    must(cuda_lt_reserve(b->lt, 4096, 28672, 4096) == ST_OK, "reserve");
    check_rows(b);
    if (!is_quick) {
        check_odd(b);
        check_measured(b, dir);
    }
    cuda_lt_close(b->lt);
    b->lt = NULL;
    dir_empty(dir);
    printf("%u failed\n", b->n_failed);
}

/* ---- time ---- */

struct shape {
    const char *name;
    uint32_t n, k;
    enum ops_dtype y_dtype;
};

static const struct shape shapes_8b[] = {{"qkv", 6144, 4096, OPS_BF16},
                                         {"o", 4096, 4096, OPS_F32},
                                         {"gate_up", 28672, 4096, OPS_BF16},
                                         {"down", 4096, 14336, OPS_F32},
                                         {"head", 128256, 4096, OPS_F32}};
static const struct shape shapes_06b[] = {{"qkv", 4096, 1024, OPS_BF16},
                                          {"o", 1024, 2048, OPS_F32},
                                          {"gate_up", 6144, 1024, OPS_BF16},
                                          {"down", 1024, 3072, OPS_F32},
                                          {"head", 151936, 1024, OPS_F32}};
#define N_SHAPES  5u
#define N_LAYER   4u /* of them in a layer; behind it the head */
#define HEAD_ROWS 256u

/* The products of a shape, each with weights of its own as far as the pool has them. */
static uint32_t gemms_of(const struct bench *b, const struct shape *s, enum ops_dtype w_dtype,
                         enum ops_scaling scaling, uint32_t rows, uint32_t n_max,
                         struct gemm_args *out)
{
    const struct problem p = {.rows = rows,
                              .n = s->n,
                              .k = s->k,
                              .w_dtype = w_dtype,
                              .y_dtype = s->y_dtype,
                              .scaling = scaling};
    const size_t bytes = (size_t)s->n * s->k * ops_dtype_bytes(w_dtype);
    uint32_t n = (uint32_t)(POOL_BYTES / bytes);
    n = n < n_max ? n : n_max;
    for (uint32_t i = 0; i < n; i++) {
        out[i] = args_of(b, &p);
        out[i].w = b->pool + i * bytes;
    }
    return n;
}

/* Seconds of one of them: the median over replays of a record of as many as matter. */
static double seconds_of(struct bench *b, const struct gemm_args *gemms, uint32_t n_gemms,
                         enum status (*run)(struct cuda_lt *lt, const struct gemm_args *args))
{
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec = NULL;
    float ms[N_REPLAYS];
    const double flop = 2.0 * gemms->n_rows * gemms->n * gemms->k;
    const uint32_t n = flop > 4e11 ? 2 : flop > 4e10 ? 6 : 24;
    must(run(b->lt, &gemms[0]) == ST_OK, "run");
    must(cudaStreamBeginCapture(b->stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess,
         "capture");
    for (uint32_t i = 0; i < n; i++)
        must(run(b->lt, &gemms[i % n_gemms]) == ST_OK, "run");
    must(cudaStreamEndCapture(b->stream, &graph) == cudaSuccess, "capture");
    must(cudaGraphInstantiate(&exec, graph, 0) == cudaSuccess, "instantiate");
    for (uint32_t i = 0; i <= N_REPLAYS; i++) {
        float *at = &ms[i > 0 ? i - 1 : 0];
        cudaEventRecord(b->from, b->stream);
        must(cudaGraphLaunch(exec, b->stream) == cudaSuccess, "launch");
        cudaEventRecord(b->to, b->stream);
        must(cudaEventSynchronize(b->to) == cudaSuccess, "replay");
        must(cudaEventElapsedTime(at, b->from, b->to) == cudaSuccess, "elapsed");
        for (; i > 1 && at > ms && at[-1] > at[0]; at--) {
            const float swap = at[-1];
            at[-1] = at[0];
            at[0] = swap;
        }
    }
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    return (double)ms[N_REPLAYS / 2] * 1e-3 / n;
}

static enum status run_gemm(struct cuda_lt *lt, const struct gemm_args *args)
{
    return cuda_lt_gemm(lt, args);
}

static enum status run_quant(struct cuda_lt *lt, const struct gemm_args *args)
{
    return lt_f8_quant(lt, args, args->n_rows);
}

static enum status run_product(struct cuda_lt *lt, const struct gemm_args *args)
{
    struct lt_shape *shape = NULL;
    enum status st = lt_shape_get(lt, args, &shape);
    return st == ST_OK ? lt_f8_multiply(lt, shape, lt_choice_get(lt, shape, args->n_rows), args,
                                        args->n_rows, args->y, args->y_stride)
                       : st;
}

static void pool_fill(struct bench *b, enum ops_dtype w_dtype)
{
    fill(b, b->pool, w_dtype, POOL_BYTES / ops_dtype_bytes(w_dtype),
         w_dtype == OPS_F8 ? 448.0f : 1.0f);
    fill(b, b->x, OPS_BF16, X_BYTES / 2, 1.0f);
}

#define GEMMS_MAX 512u

/* All products of a model. */
static uint32_t model_gemms(const struct bench *b, const struct shape *shapes, enum ops_dtype dtype,
                            enum ops_scaling scaling, uint32_t rows, struct gemm_args *out)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < N_SHAPES; i++)
        n += i < N_LAYER ? gemms_of(b, &shapes[i], dtype, scaling, rows, 32, out + n)
                         : gemms_of(b, &shapes[i], OPS_BF16, OPS_SCALE_NONE,
                                    rows < HEAD_ROWS ? rows : HEAD_ROWS, 1, out + n);
    return n;
}

/* ---- tune ---- */

/* Starts until nothing is left to measure, and one more; the last one's library is the result. */
static struct cuda_lt *starts(struct bench *b, const struct gemm_args *gemms, uint32_t n,
                              const char *dir)
{
    struct cuda_lt *lt = NULL;
    for (uint32_t i = 0, is_last = 0; i < 12 && is_last < 2; i++) {
        cuda_lt_close(lt);
        lt = lt_open(b);
        const uint64_t from = time_monotonic_ns();
        const uint64_t searches = cuda_lt_searches(lt);
        must(cuda_lt_prepare(lt, gemms, n, dir, BUDGET_NS) == ST_OK, "prepare");
        const double ms = (double)(time_monotonic_ns() - from) * 1e-6;
        printf("  start %u: %.0f ms, %lu searches\n", i + 1, ms,
               (unsigned long)(cuda_lt_searches(lt) - searches));
        is_last += ms < (double)BUDGET_NS * 1e-6;
    }
    return lt;
}

/* The products of a layer, and of the head, by the library as it is and with what was measured. */
static void rows_compare(struct bench *b, struct cuda_lt *const *lts, const struct shape *shapes,
                         enum ops_dtype dtype, enum ops_scaling scaling, uint32_t rows)
{
    double us[2][N_SHAPES] = {{0}}, sum[2] = {0, 0};
    struct gemm_args gemms[32];
    const uint32_t n_shapes = rows <= HEAD_ROWS ? N_SHAPES : N_LAYER;
    for (uint32_t s = 0; s < n_shapes; s++) {
        const bool is_head = s >= N_LAYER;
        const uint32_t n = gemms_of(b, &shapes[s], is_head ? OPS_BF16 : dtype,
                                    is_head ? OPS_SCALE_NONE : scaling, rows, 32, gemms);
        for (uint32_t turn = 0; turn < 4; turn++) { /* A B B A: the card gets warmer */
            const uint32_t v = turn == 1 || turn == 2;
            b->lt = lts[v];
            us[v][s] += 0.5e6 * seconds_of(b, gemms, n, run_gemm);
        }
        for (uint32_t v = 0; v < 2 && !is_head; v++)
            sum[v] += us[v][s];
    }
    printf("  rows %5u  layer %8.1f -> %8.1f us (%.3f) ", rows, sum[0], sum[1], sum[0] / sum[1]);
    for (uint32_t s = 0; s < n_shapes; s++)
        printf("  %s %.1f -> %.1f", shapes[s].name, us[0][s], us[1][s]);
    printf("\n");
}

static void tune_compare(struct bench *b, const char *name, const struct shape *shapes,
                         enum ops_dtype dtype, enum ops_scaling scaling, const char *dir)
{
    static const uint32_t rows[] = {17, 32, 40, 64, 96, 128, 256, 448, 777, 1024, 2048, 4096, 8192};
    static struct gemm_args gemms[GEMMS_MAX];
    printf("%s\n", name);
    pool_fill(b, dtype);
    const uint32_t n = model_gemms(b, shapes, dtype, scaling, 8192, gemms);
    struct cuda_lt *lts[2] = {lt_open(b), NULL};
    uint64_t from = time_monotonic_ns();
    must(cuda_lt_prepare(lts[0], gemms, n, NULL, 0) == ST_OK, "prepare");
    printf("  without a file: %.0f ms\n", (double)(time_monotonic_ns() - from) * 1e-6);
    lts[1] = starts(b, gemms, n, dir);
    const uint64_t searches = cuda_lt_searches(lts[1]);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        rows_compare(b, lts, shapes, dtype, scaling, rows[i]);
    printf("  searches after preparing: %lu\n",
           (unsigned long)(cuda_lt_searches(lts[1]) - searches));
    b->lt = NULL;
    cuda_lt_close(lts[0]);
    cuda_lt_close(lts[1]);
}

static void tune_all(struct bench *b, const char *dir)
{
    tune_compare(b, "8B bf16", shapes_8b, OPS_BF16, OPS_SCALE_NONE, dir);
    tune_compare(b, "8B fp8, scales of rows", shapes_8b, OPS_F8, OPS_SCALE_ROW, dir);
    tune_compare(b, "8B fp8, scales of blocks", shapes_8b, OPS_F8, OPS_SCALE_BLOCK, dir);
}

/* ---- times of a layer ---- */

static double fp8_ceiling(struct bench *b)
{
    const struct shape square = {"square", 8192, 8192, OPS_BF16};
    struct gemm_args gemms[2];
    const uint32_t n = gemms_of(b, &square, OPS_F8, OPS_SCALE_ROW, 8192, 2, gemms);
    must(run_quant(b->lt, &gemms[0]) == ST_OK, "quant");
    return 2.0 * 8192 * 8192 * 8192 / seconds_of(b, gemms, n, run_product) * 1e-12;
}

static void rows_time(struct bench *b, uint32_t rows, const char *name, enum ops_dtype dtype,
                      enum ops_scaling scaling, double ceiling)
{
    double sum = 0, flop = 0, bytes = 0, quant = 0;
    struct gemm_args gemms[32];
    char what[64];
    printf("  %-9s", name);
    for (uint32_t s = 0; s < N_LAYER; s++) {
        const uint32_t n = gemms_of(b, &shapes_8b[s], dtype, scaling, rows, 32, gemms);
        const double us = 1e6 * seconds_of(b, gemms, n, run_gemm);
        if (dtype == OPS_F8)
            quant += 1e6 * seconds_of(b, gemms, n, run_quant);
        printf(" %8.1f", us);
        sum += us;
        flop += 2.0 * rows * shapes_8b[s].n * shapes_8b[s].k;
        bytes += (double)shapes_8b[s].n * shapes_8b[s].k * ops_dtype_bytes(dtype);
    }
    printf("  layer %8.1f us  of it quant %6.1f  %5.0f GB/s  %5.0f TFLOP/s (%.0f %%)\n", sum, quant,
           bytes / sum * 1e-3, flop / sum * 1e-6, 100 * flop / sum * 1e-6 / ceiling);
    snprintf(what, sizeof(what), "gemm 8B layer, %s, %u rows", name, rows);
    report_row(NULL, what, sum, "us",
               report_limit_us(bytes, dtype == OPS_F8 ? 0 : flop, dtype == OPS_F8 ? flop : 0));
}

static void time_all(struct bench *b, const char *dir)
{
    static const uint32_t rows[] = {17, 32, 64, 128, 256, 1024, 2048, 8192};
    static struct gemm_args gemms[GEMMS_MAX];
    pool_fill(b, OPS_F8);
    b->lt = lt_open(b);
    for (uint32_t s = OPS_SCALE_ROW; s <= OPS_SCALE_BLOCK; s++) {
        const uint32_t n = model_gemms(b, shapes_8b, OPS_F8, (enum ops_scaling)s, 8192, gemms);
        must(cuda_lt_prepare(b->lt, gemms, n, dir, BUDGET_NS) == ST_OK, "prepare");
    }
    const double fp8 = fp8_ceiling(b);
    printf("fp8 8192^3, scales in it: %.0f TFLOP/s\n", fp8);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        printf("rows %u: qkv, o, gate_up, down in us\n", rows[i]);
        rows_time(b, rows[i], "fp8 row", OPS_F8, OPS_SCALE_ROW, fp8);
        rows_time(b, rows[i], "fp8 block", OPS_F8, OPS_SCALE_BLOCK, fp8);
    }
    cuda_lt_close(b->lt);
    pool_fill(b, OPS_BF16);
    b->lt = lt_open(b);
    const uint32_t n = model_gemms(b, shapes_8b, OPS_BF16, OPS_SCALE_NONE, 8192, gemms);
    must(cuda_lt_prepare(b->lt, gemms, n, dir, BUDGET_NS) == ST_OK, "prepare");
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        printf("rows %u\n", rows[i]);
        rows_time(b, rows[i], "bf16", OPS_BF16, OPS_SCALE_NONE, fp8);
    }
    cuda_lt_close(b->lt);
    b->lt = NULL;
}

static bool is_asked(int argc, char **argv, const char *what)
{
    bool is_asked = argc < 2;
    for (int i = 1; i < argc; i++)
        is_asked = is_asked || strcmp(argv[i], what) == 0;
    return is_asked;
}

int main(int argc, char **argv)
{
    struct bench b = {.seed = time_monotonic_ns()};
    char dir[] = "/tmp/check_gemm.XXXXXX";
    log_setup(LOG_INFO, false, "check_gemm");
    must(mkdtemp(dir) != NULL, "temporary directory");
    must(cudaStreamCreateWithFlags(&b.stream, cudaStreamNonBlocking) == cudaSuccess, "stream");
    must(cudaEventCreate(&b.from) == cudaSuccess && cudaEventCreate(&b.to) == cudaSuccess, "event");
    must(cudaMalloc((void **)&b.pool, POOL_BYTES) == cudaSuccess &&
             cudaMalloc((void **)&b.x, X_BYTES) == cudaSuccess &&
             cudaMalloc((void **)&b.y, Y_BYTES) == cudaSuccess &&
             cudaMalloc((void **)&b.scales, SCALE_FLOATS * sizeof(float)) == cudaSuccess,
         "memory");
    scales_fill(&b);
    if (is_asked(argc, argv, "check"))
        check_all(&b, false, dir);
    if (argc > 1 && is_asked(argc, argv, "quick"))
        check_all(&b, true, dir);
    if (is_asked(argc, argv, "tune"))
        tune_all(&b, dir);
    if (argc > 1 && is_asked(argc, argv, "small"))
        tune_compare(&b, "0.6B bf16", shapes_06b, OPS_BF16, OPS_SCALE_NONE, dir);
    if (is_asked(argc, argv, "time"))
        time_all(&b, dir);
    dir_empty(dir);
    rmdir(dir);
    return b.n_failed == 0 ? 0 : 1;
}
