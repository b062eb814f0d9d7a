/* Each product runs many times in one recorded pass, over different weights, so that they come from
 * memory and not from a cache. Weights and inputs are random. */
#include "bench_gemm.h"

#include "common.h"
#include "device/device.h"
#include "model/desc.h"
#include "report.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WEIGHT_BYTES   ((size_t)1 << 30) /* at least, over all copies */
#define CALLS_MAX      32u               /* of a pass */
#define RUNS           9u
#define HEAD_ROWS_MAX  256u /* a step samples no more */
#define MANY_ROWS      1024u
#define MANY_ROW_CALLS 4u

struct options {
    struct bench_common common;
    enum ops_scaling scaling; /* of fp8 weights; NONE: bf16 ones */
    uint32_t rows[BENCH_LIST_MAX], n_rows;
};

struct shape {
    const char *name;
    uint32_t n, k;
    bool is_f32, is_head; /* results of f32, as the engine has them; for few rows */
};

struct bench {
    struct options o;
    struct device *dev;
    char *weights;
    void *x, *y;
    float *scales; /* for the greatest matrix */
    size_t weight_bytes;
    struct gemm_args args; /* of the pass */
    uint32_t n_calls, n_copies;
};

static enum ops_dtype weight_dtype(const struct bench *b)
{
    return b->o.scaling == OPS_SCALE_NONE ? OPS_BF16 : OPS_F8;
}

static bool options_parse(int argc, char **argv, struct options *o)
{
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];
        if (bench_common_parse(&o->common, name, value))
            continue;
        if (strcmp(name, "--rows") == 0)
            o->n_rows = bench_list_parse(value, o->rows);
        else if (strcmp(name, "--fp8") == 0 && strcmp(value, "row") == 0)
            o->scaling = OPS_SCALE_ROW;
        else if (strcmp(name, "--fp8") == 0 && strcmp(value, "block") == 0)
            o->scaling = OPS_SCALE_BLOCK;
        else
            return false;
    }
    return argc % 2 == 1 && o->common.model != NULL && o->n_rows > 0;
}

static enum status random_array(struct bench *b, void *dst, enum ops_dtype dtype, uint64_t n,
                                uint64_t seed)
{
    struct random_fill_args args = {
        .dst = dst, .dtype = dtype, .n = n, .seed = seed, .scale = 1.0f};
    return b->dev->ops->random_fill(b->dev, &args);
}

static enum status pass_run(void *arg)
{
    struct bench *b = arg;
    struct gemm_args args = b->args;
    size_t bytes = ops_gemm_packed_bytes(args.w_dtype, args.n, args.k);
    enum status st = ST_OK;
    for (uint32_t i = 0; i < b->n_calls && st == ST_OK; i++) {
        args.w = b->weights + i % b->n_copies * bytes;
        st = b->dev->ops->gemm(b->dev, &args);
    }
    return st;
}

/* Median seconds of one product. The first two passes set up and record. */
static enum status product_time(struct bench *b, uint32_t key, double *out_seconds)
{
    double seconds[RUNS];
    enum status st = ST_OK;
    for (uint32_t run = 0; run < RUNS + 2 && st == ST_OK; run++) {
        double start = bench_now_s();
        st = b->dev->ops->replay(b->dev, key, pass_run, b);
        if (st == ST_OK)
            st = b->dev->ops->sync(b->dev);
        if (st != ST_OK || run < 2)
            continue;
        double device = b->dev->ops->replay_seconds(b->dev);
        seconds[run - 2] = (device > 0 ? device : bench_now_s() - start) / b->n_calls;
    }
    if (st == ST_OK)
        *out_seconds = bench_median(seconds, RUNS);
    return st;
}

static void print_row(const struct bench *b, const struct shape *s, uint32_t n_rows, double seconds)
{
    static const char *const formats[] = {"", " fp8 row", " fp8 block"};
    const struct gemm_args *a = &b->args;
    char what[128];
    double bytes = (double)ops_gemm_packed_bytes(a->w_dtype, s->n, s->k) +
                   (double)n_rows * ((double)ops_dtype_bytes(a->x_dtype) * s->k +
                                     (double)ops_dtype_bytes(a->y_dtype) * s->n);
    double flop = 2.0 * n_rows * s->n * s->k;
    double tflops = a->w_dtype == OPS_F8 ? b->o.common.fp8_tflops : b->o.common.tflops;
    double read = bytes / (b->o.common.gbps * 1e9), compute = flop / (tflops * 1e12);
    double limit = read > compute ? read : compute;
    snprintf(what, sizeof(what), "gemm %s%s %s x %u", bench_name_of(b->o.common.model),
             formats[b->o.scaling], s->name, n_rows);
    printf("%-44s %10.2f us %9.1f GB/s %8.1f TFLOP/s %10.2f us %6.1f %%\n", what, seconds * 1e6,
           bytes / seconds * 1e-9, flop / seconds * 1e-12, limit * 1e6, 100 * limit / seconds);
    fflush(stdout);
    report_row(NULL, what, seconds * 1e6, "us", limit * 1e6);
}

static struct gemm_args args_of(const struct bench *b, const struct shape *s, uint32_t n_rows)
{
    const enum ops_dtype act = b->dev->ops->activation(OPS_BF16);
    return (struct gemm_args){.x = b->x,
                              .x_dtype = act,
                              .x_stride = s->k,
                              .w = b->weights,
                              .w_dtype = weight_dtype(b),
                              .w_scale = b->scales,
                              .w_scaling = b->o.scaling,
                              .y = b->y,
                              .y_dtype = s->is_f32 ? OPS_F32 : act,
                              .y_stride = s->n,
                              .n_rows =
                                  s->is_head && n_rows > HEAD_ROWS_MAX ? HEAD_ROWS_MAX : n_rows,
                              .n = s->n,
                              .k = s->k};
}

/* As the engine does at its start, with the choices that it keeps. */
static enum status shapes_prepare(struct bench *b, const struct shape *shapes, uint32_t n_shapes)
{
    struct gemm_args gemms[8];
    for (uint32_t i = 0; i < n_shapes; i++)
        gemms[i] = args_of(b, &shapes[i], bench_list_max(b->o.rows, b->o.n_rows));
    return b->dev->ops->gemm_prepare != NULL
               ? b->dev->ops->gemm_prepare(b->dev, gemms, n_shapes, "auto")
               : ST_OK;
}

static enum status shape_rows(struct bench *b, const struct shape *s, uint32_t shape_index)
{
    size_t bytes = ops_gemm_packed_bytes(weight_dtype(b), s->n, s->k);
    for (uint32_t i = 0; i < b->o.n_rows; i++) {
        uint32_t rows = b->o.rows[i];
        double seconds = 0;
        if (s->is_head && rows > HEAD_ROWS_MAX)
            continue;
        b->n_copies = (uint32_t)(b->weight_bytes / bytes);
        b->n_calls = b->n_copies < CALLS_MAX ? b->n_copies : CALLS_MAX;
        if (rows >= MANY_ROWS && b->n_calls > MANY_ROW_CALLS)
            b->n_calls = MANY_ROW_CALLS;
        b->args = args_of(b, s, rows);
        enum status st = product_time(b, shape_index * BENCH_LIST_MAX + i, &seconds);
        if (st != ST_OK)
            return st;
        print_row(b, s, rows, seconds);
    }
    return ST_OK;
}

/* As many as any of the products needs, by row or by block. */
static enum status scales_make(struct bench *b, const struct shape *shapes, uint32_t n_shapes)
{
    size_t n = 0;
    for (uint32_t i = 0; i < n_shapes; i++) {
        size_t blocks = (size_t)(shapes[i].n / OPS_SCALE_BLOCK_SIZE + 1) *
                        (shapes[i].k / OPS_SCALE_BLOCK_SIZE + 1);
        n = shapes[i].n > n ? shapes[i].n : n;
        n = blocks > n ? blocks : n;
    }
    float *host = malloc(n * sizeof(float));
    for (size_t i = 0; i < n && host != NULL; i++)
        host[i] = 0.01f + 1e-6f * (float)(i % 1000);
    enum status st = host == NULL ? ST_NO_MEMORY
                                  : b->dev->ops->alloc(b->dev, DEVICE_MEM_WEIGHTS,
                                                       n * sizeof(float), (void **)&b->scales);
    if (st == ST_OK)
        st = b->dev->ops->copy_in(b->dev, b->scales, host, n * sizeof(float));
    if (st == ST_OK)
        st = b->dev->ops->sync(b->dev);
    free(host);
    return st;
}

/* Room for the greatest of each. */
static enum status arrays_make(struct bench *b, const struct shape *shapes, uint32_t n_shapes)
{
    const enum ops_dtype act = b->dev->ops->activation(OPS_BF16);
    const uint32_t rows = bench_list_max(b->o.rows, b->o.n_rows);
    uint64_t x_elems = 0, y_bytes = 0;
    b->weight_bytes = WEIGHT_BYTES;
    for (uint32_t i = 0; i < n_shapes; i++) {
        const struct shape *s = &shapes[i];
        size_t w = ops_gemm_packed_bytes(weight_dtype(b), s->n, s->k);
        uint32_t y_rows = s->is_head && rows > HEAD_ROWS_MAX ? HEAD_ROWS_MAX : rows;
        uint64_t y = (uint64_t)y_rows * s->n * ops_dtype_bytes(s->is_f32 ? OPS_F32 : act);
        b->weight_bytes = w > b->weight_bytes ? w : b->weight_bytes;
        x_elems = (uint64_t)rows * s->k > x_elems ? (uint64_t)rows * s->k : x_elems;
        y_bytes = y > y_bytes ? y : y_bytes;
    }
    const struct device_ops *ops = b->dev->ops;
    enum status st = ops->alloc(b->dev, DEVICE_MEM_WEIGHTS, b->weight_bytes, (void **)&b->weights);
    if (st == ST_OK)
        st = ops->alloc(b->dev, DEVICE_MEM_ACTIVATION, x_elems * ops_dtype_bytes(act), &b->x);
    if (st == ST_OK)
        st = ops->alloc(b->dev, DEVICE_MEM_ACTIVATION, y_bytes, &b->y);
    if (st == ST_OK)
        st = random_array(b, b->weights, weight_dtype(b),
                          b->weight_bytes / ops_dtype_bytes(weight_dtype(b)), 1);
    if (st == ST_OK)
        st = random_array(b, b->x, act, x_elems, 2);
    return st == ST_OK && b->o.scaling != OPS_SCALE_NONE ? scales_make(b, shapes, n_shapes) : st;
}

static enum status gemm_run(struct bench *b, const struct model_desc *d)
{
    const uint32_t q = d->n_heads * d->head_dim, kv = d->n_kv_heads * d->head_dim;
    const struct shape shapes[] = {
        {"qkv", q + 2 * kv, d->hidden, false, false},
        {"o", d->hidden, q, true, false},
        {"gate-up", 2 * d->intermediate, d->hidden, false, false},
        {"down", d->hidden, d->intermediate, true, false},
        {"head", d->n_vocab, d->hidden, true, true},
    };
    /* A checkpoint in fp8 has a head of bf16. */
    const uint32_t n_shapes =
        sizeof(shapes) / sizeof(*shapes) - (b->o.scaling != OPS_SCALE_NONE ? 1 : 0);
    struct device_opts opts = {.n_threads = b->o.common.threads, .n_vocab_max = d->n_vocab};
    enum status st = device_open(b->o.common.device, &opts, &b->dev);
    if (st == ST_OK)
        st = b->dev->ops->bind_thread(b->dev);
    if (st == ST_OK)
        st = arrays_make(b, shapes, n_shapes);
    if (st == ST_OK)
        st = shapes_prepare(b, shapes, n_shapes);
    printf("%-44s %13s %14s %16s %13s %8s\n", "product", "median", "", "", "limit", "share");
    for (uint32_t i = 0; i < n_shapes && st == ST_OK; i++)
        st = shape_rows(b, &shapes[i], i);
    return st;
}

int bench_gemm(int argc, char **argv)
{
    struct bench b = {.o = {.common = bench_common_default()}};
    struct model_desc desc;
    char err[512] = "";
    if (!options_parse(argc, argv, &b.o)) {
        fprintf(stderr,
                "usage: dynd-bench gemm --model DIR --rows N,N... [--device cpu|cuda]\n"
                "  [--fp8 row|block] [--gbps N] [--tflops N] [--fp8-tflops N] [--threads N]\n");
        return 2;
    }
    if (model_desc_load(b.o.common.model, &desc, (struct text_error){err, sizeof(err)}) != ST_OK) {
        fprintf(stderr, "dynd-bench gemm: %s\n", err);
        return 1;
    }
    enum status st = gemm_run(&b, &desc);
    if (st != ST_OK)
        fprintf(stderr, "dynd-bench gemm: %s\n", status_text(st));
    if (b.dev != NULL) {
        b.dev->ops->free(b.dev, b.weights);
        b.dev->ops->free(b.dev, b.x);
        b.dev->ops->free(b.dev, b.y);
        b.dev->ops->free(b.dev, b.scales);
        device_close(b.dev);
    }
    return st == ST_OK ? 0 : 1;
}
