/* Measures, with the same threads: (a) the rate of streaming reads over 1 GiB, (b) gemm on the
 * shapes of a 0.5B decoder (hidden 1024, feed-forward 2816), with weights that come from memory and
 * not from a cache, (c) attention. Small-batch gemm is bound by (a), so it is given as a share of
 * it. */
#include "bench_kernels.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "device/device.h"
#include "device/thread_pool.h"

#define STREAM_BYTES ((size_t)1 << 30)
#define ROWS_MAX     512u
#define COLS_MAX     5632u
#define CALLS_MAX    4096u /* timed in one measurement */

typedef uint64_t u64x8 __attribute__((vector_size(64)));

struct reader {
    const char *data;
    u64x8 result[DEVICE_THREADS_MAX]; /* keeps the reads from being removed */
};

struct bench {
    struct device *dev;
    uint32_t n_threads;
    enum cpu_isa isa;
    struct thread_pool *pool; /* for (a) alone */
    struct reader *reader;
    double seconds;            /* of each measurement */
    char *weights;             /* [STREAM_BYTES] */
    float *x, *y;              /* [ROWS_MAX * COLS_MAX] */
    double read_gbps;          /* measured last */
    double calls_s[CALLS_MAX]; /* of the current measurement */
    uint32_t n_calls;
};

static double now_s(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* One line of the table: the median call, and the best one as a share of the read bandwidth. */
static void print_row(struct bench *bench, const char *op, uint32_t n_rows, double flop,
                      double bytes)
{
    qsort(bench->calls_s, bench->n_calls, sizeof(double), compare_doubles);
    double median = bench->calls_s[bench->n_calls / 2], best = bench->calls_s[0];
    printf("%-26s %5u %9.3f %9.1f %9.1f %8.1f %7.0f %% %9.1f %7.0f %%\n", op, n_rows, median * 1e3,
           flop / median * 1e-9, flop / median * 1e-9 / bench->n_threads, bytes / median * 1e-9,
           100e-9 * bytes / median / bench->read_gbps, flop / best * 1e-9 / bench->n_threads,
           100e-9 * bytes / best / bench->read_gbps);
}

/* ---- (a) ------------------------------------------------------------------------------------ */

static void read_share(void *arg, uint32_t index, uint32_t count)
{
    struct reader *reader = (struct reader *)arg;
    size_t n = STREAM_BYTES / sizeof(u64x8);
    const u64x8 *at = (const u64x8 *)reader->data + n * index / count;
    const u64x8 *end = (const u64x8 *)reader->data + n * (index + 1) / count;
    u64x8 sum0 = {0}, sum1 = {0};
    for (; at + 2 <= end; at += 2) {
        sum0 ^= at[0];
        sum1 ^= at[1];
    }
    reader->result[index] = sum0 ^ sum1;
}

/* Best of two passes. The rate of a shared machine wanders, so it is measured again before every
 * row of the table. */
static void measure_read(struct bench *bench)
{
    double best = 1e9;
    for (uint32_t i = 0; i < 2; i++) {
        double start = now_s();
        thread_pool_run(bench->pool, read_share, bench->reader);
        double took = now_s() - start;
        best = took < best ? took : best;
    }
    bench->read_gbps = (double)STREAM_BYTES / best * 1e-9;
}

/* ---- (b) ------------------------------------------------------------------------------------ */

/* Each call takes the next matrix of the 1 GiB, so that none is cached. */
static enum status time_gemm(struct bench *bench, uint32_t m, uint32_t n, uint32_t k)
{
    size_t bytes = ops_gemm_packed_bytes(OPS_BF16, n, k);
    size_t n_matrices = STREAM_BYTES / bytes;
    struct gemm_args args = {.x = bench->x,
                             .x_stride = k,
                             .w_dtype = OPS_BF16,
                             .y = bench->y,
                             .y_stride = n,
                             .n_rows = m,
                             .n = n,
                             .k = k};
    double end = now_s() + bench->seconds;
    for (bench->n_calls = 0; bench->n_calls < CALLS_MAX;) {
        args.w = bench->weights + bench->n_calls % n_matrices * bytes;
        double start = now_s();
        enum status st = bench->dev->ops->gemm(bench->dev, &args);
        if (st != ST_OK)
            return st;
        bench->calls_s[bench->n_calls++] = now_s() - start;
        if (now_s() > end)
            break;
    }
    return ST_OK;
}

static void print_gemm(struct bench *bench)
{
    static const uint32_t shapes[][2] = {{1536, 1024}, {1024, 1024}, {5632, 1024}, {1024, 2816}};
    static const uint32_t rows[] = {1, 8, 64, 512};
    for (size_t s = 0; s < sizeof(shapes) / sizeof(shapes[0]); s++) {
        for (size_t r = 0; r < sizeof(rows) / sizeof(rows[0]); r++) {
            uint32_t n = shapes[s][0], k = shapes[s][1];
            char op[32];
            measure_read(bench);
            snprintf(op, sizeof(op), "gemm bf16 %u x %u", n, k);
            if (time_gemm(bench, rows[r], n, k) == ST_OK)
                print_row(bench, op, rows[r], 2.0 * rows[r] * n * k,
                          (double)ops_gemm_packed_bytes(OPS_BF16, n, k));
        }
    }
}

/* ---- (c) ------------------------------------------------------------------------------------ */

#define ATTN_HEADS    16u
#define ATTN_KV_HEADS 2u
#define ATTN_DIM      64u
#define ATTN_CONTEXT  1024u

/* n_rows query tokens: the last ones of one sequence (prefill), or one each of many (decode). The
 * sequences take different blocks over the whole 1 GiB. */
static void print_attention(struct bench *bench, uint32_t n_rows, bool is_decode)
{
    static uint32_t seq[ROWS_MAX], pos[ROWS_MAX];
    static uint32_t table[ROWS_MAX * (ATTN_CONTEXT / 64)];
    struct attention_args args = {
        .q = bench->x,
        .q_stride = ATTN_HEADS * ATTN_DIM,
        .out = bench->y,
        .out_stride = ATTN_HEADS * ATTN_DIM,
        .pool = {.base = bench->weights,
                 .n_layers = 1,
                 .n_kv_heads = ATTN_KV_HEADS,
                 .block_tokens = 64,
                 .head_dim = ATTN_DIM,
                 .dtype = OPS_BF16},
        .n_heads = ATTN_HEADS,
        .scale = 0.125f,
        .rows = {n_rows, seq, pos, table, ATTN_CONTEXT / 64},
    };
    args.pool.block_bytes = ops_kv_block_bytes(&args.pool);
    args.pool.n_blocks = (uint32_t)(STREAM_BYTES / args.pool.block_bytes);
    double keys = 0.0;
    for (uint32_t r = 0; r < n_rows; r++) {
        seq[r] = is_decode ? r : 0;
        pos[r] = is_decode ? ATTN_CONTEXT - 1 : ATTN_CONTEXT - n_rows + r;
        keys += pos[r] + 1;
    }
    measure_read(bench);
    uint32_t n_seqs = is_decode ? n_rows : 1, next = 0;
    double end = now_s() + bench->seconds;
    for (bench->n_calls = 0; bench->n_calls < CALLS_MAX;) {
        for (uint32_t i = 0; i < n_seqs * (ATTN_CONTEXT / 64); i++)
            table[i] = next++ % args.pool.n_blocks;
        double start = now_s();
        if (bench->dev->ops->attention(bench->dev, &args) != ST_OK)
            return;
        bench->calls_s[bench->n_calls++] = now_s() - start;
        if (now_s() > end)
            break;
    }
    print_row(bench, is_decode ? "attention decode, 1k" : "attention prefill, 1k", n_rows,
              4.0 * keys * ATTN_HEADS * ATTN_DIM,
              (is_decode ? keys : ATTN_CONTEXT) * ATTN_KV_HEADS * ATTN_DIM * 4.0);
}

/* ---- Command -------------------------------------------------------------------------------- */

static bool parse_isa(const char *name, enum cpu_isa *out_isa)
{
    for (int i = CPU_ISA_AUTO; i < CPU_ISA_COUNT; i++) {
        if (strcmp(name, cpu_isa_name((enum cpu_isa)i)) == 0) {
            *out_isa = (enum cpu_isa)i;
            return true;
        }
    }
    return false;
}

static bool parse_options(struct bench *bench, int argc, char **argv)
{
    for (int i = 1; i < argc; i += 2) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        char *end = NULL;
        if (strcmp(argv[i], "--threads") == 0) {
            unsigned long n = strtoul(value, &end, 10);
            if (*value == '\0' || *end != '\0' || n == 0 || n > DEVICE_THREADS_MAX)
                return false;
            bench->n_threads = (uint32_t)n;
        } else if (strcmp(argv[i], "--seconds") == 0) {
            bench->seconds = strtod(value, &end);
            if (*value == '\0' || *end != '\0' || !(bench->seconds > 0.0))
                return false;
        } else if (strcmp(argv[i], "--isa") != 0 || !parse_isa(value, &bench->isa)) {
            return false;
        }
    }
    return true;
}

static enum status fill(struct bench *bench)
{
    const struct device_ops *ops = bench->dev->ops;
    void *ptr;
    enum status st = ops->alloc(bench->dev, DEVICE_MEM_WEIGHTS, STREAM_BYTES, &ptr);
    if (st != ST_OK)
        return st;
    bench->weights = (char *)ptr;
    st = ops->alloc(bench->dev, DEVICE_MEM_ACTIVATION, 2 * sizeof(float) * ROWS_MAX * COLS_MAX,
                    &ptr);
    if (st != ST_OK)
        return st;
    bench->x = (float *)ptr;
    bench->reader = aligned_alloc(64, sizeof(*bench->reader));
    if (bench->reader == NULL)
        return ST_NO_MEMORY;
    bench->reader->data = bench->weights;
    st = thread_pool_create(bench->n_threads, NULL, 0, &bench->pool);
    if (st != ST_OK)
        return st;
    bench->y = bench->x + (size_t)ROWS_MAX * COLS_MAX;
    struct random_fill_args w = {
        .dst = bench->weights, .dtype = OPS_BF16, .n = STREAM_BYTES / 2, .seed = 1, .scale = 0.05f};
    struct random_fill_args x = {.dst = bench->x,
                                 .dtype = OPS_F32,
                                 .n = (uint64_t)ROWS_MAX * COLS_MAX,
                                 .seed = 2,
                                 .scale = 1.0f};
    st = ops->random_fill(bench->dev, &w);
    return st == ST_OK ? ops->random_fill(bench->dev, &x) : st;
}

static void print_all(struct bench *bench)
{
    struct device_caps caps;
    bench->dev->ops->probe(&caps);
    printf("machine: %s; isa %s, %u threads\n", caps.reason,
           cpu_isa_name(bench->isa == CPU_ISA_AUTO ? caps.isa : bench->isa), bench->n_threads);
    measure_read(bench);
    printf(
        "read bandwidth over 1 GiB: %.1f GB/s at the start; each share below is of the rate just "
        "before it\n\n",
        bench->read_gbps);
    printf("%-26s %5s %9s %9s %9s %8s %9s %9s %9s\n", "op (median | best call)", "rows", "ms",
           "GFLOP/s", "a thread", "GB/s", "of read", "| a thread", "of read");
    print_gemm(bench);
    print_attention(bench, 1, true);
    print_attention(bench, 8, true);
    print_attention(bench, 64, true);
    print_attention(bench, 512, false);
}

int bench_kernels(int argc, char **argv)
{
    static struct bench bench = {.n_threads = 2, .seconds = 0.25};
    if (!parse_options(&bench, argc, argv)) {
        fprintf(stderr, "usage: dynd-bench kernels [--threads N] [--isa scalar|avx2|avx512] "
                        "[--seconds S]\n");
        return 2;
    }
    struct device_opts opts = {.n_threads = bench.n_threads, .isa = bench.isa};
    enum status st = device_open(DEVICE_CPU, &opts, &bench.dev);
    if (st != ST_OK) {
        fprintf(stderr, "dynd-bench: the CPU device cannot be opened with these options\n");
        return 1;
    }
    st = fill(&bench);
    if (st == ST_OK)
        print_all(&bench);
    else
        fprintf(stderr, "dynd-bench: out of memory (1.1 GiB are needed)\n");
    thread_pool_destroy(bench.pool);
    free(bench.reader);
    bench.dev->ops->free(bench.dev, bench.x);
    bench.dev->ops->free(bench.dev, bench.weights);
    device_close(bench.dev);
    return st == ST_OK ? 0 : 1;
}
