/* Steps of the transformer runner on random weights and random tokens. A decode step must read all
 * weights but the embedding table, and the KV of every sequence; a prompt must do its GEMMs and its
 * attention. The context of a decode step is written by prompt chunks first, so no KV is zero. */
#include "bench_step.h"

#include "engine/runner.h"
#include "model/desc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define LIST_MAX     16u
#define BLOCK_TOKENS 64u
#define CHUNK        8192u

struct options {
    const char *model;
    enum device_kind device;
    uint32_t context, steps, threads;
    uint32_t batch[LIST_MAX], n_batch, prompt[LIST_MAX], n_prompt;
    double gbps, tflops;
};

struct bench {
    struct options o;
    struct model_desc desc;
    struct runner *runner;
    uint32_t n_blocks, per_seq; /* blocks */
    uint32_t *blocks, *tokens;
    struct step_item *items;
    void *host_pool;
    uint64_t steps;
};

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static uint32_t list_parse(const char *text, uint32_t out[LIST_MAX])
{
    uint32_t n = 0;
    char *end = NULL;
    while (n < LIST_MAX && *text != '\0') {
        out[n++] = (uint32_t)strtoul(text, &end, 10);
        text = *end == ',' ? end + 1 : end;
        if (*end != ',' && *end != '\0')
            return 0;
    }
    return n;
}

static bool options_parse(int argc, char **argv, struct options *o)
{
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];
        if (strcmp(name, "--model") == 0)
            o->model = value;
        else if (strcmp(name, "--device") == 0)
            o->device = strcmp(value, "cuda") == 0 ? DEVICE_CUDA : DEVICE_CPU;
        else if (strcmp(name, "--context") == 0)
            o->context = (uint32_t)strtoul(value, NULL, 10);
        else if (strcmp(name, "--steps") == 0)
            o->steps = (uint32_t)strtoul(value, NULL, 10);
        else if (strcmp(name, "--threads") == 0)
            o->threads = (uint32_t)strtoul(value, NULL, 10);
        else if (strcmp(name, "--gbps") == 0)
            o->gbps = strtod(value, NULL);
        else if (strcmp(name, "--tflops") == 0)
            o->tflops = strtod(value, NULL);
        else if (strcmp(name, "--batch") == 0)
            o->n_batch = list_parse(value, o->batch);
        else if (strcmp(name, "--prompt") == 0)
            o->n_prompt = list_parse(value, o->prompt);
        else
            return false;
    }
    return argc % 2 == 1 && o->model != NULL && o->steps > 0 && o->context > 0;
}

static uint32_t max_of(const uint32_t *list, uint32_t n)
{
    uint32_t max = 0;
    for (uint32_t i = 0; i < n; i++)
        max = list[i] > max ? list[i] : max;
    return max;
}

static void on_layers(void *arg, uint64_t step_id, uint32_t first, uint32_t count)
{
    (void)arg, (void)step_id, (void)first, (void)count;
}

/* One step of n_seqs sequences from `first` on, n_tokens each. Seconds, or a negative number. */
static double step_run(struct bench *b, uint32_t n_seqs, uint32_t position, uint32_t n_tokens,
                       bool sample)
{
    struct step_result result;
    struct step_plan plan = {
        .step_id = ++b->steps, .n_items = n_seqs, .n_tokens = n_seqs * n_tokens, .items = b->items};
    for (uint32_t i = 0; i < n_seqs; i++)
        b->items[i] = (struct step_item){.item_id = i,
                                         .n_tokens = n_tokens,
                                         .position = position,
                                         .n_blocks = (position + n_tokens - 1) / BLOCK_TOKENS + 1,
                                         .tokens = b->tokens + (i * 977u) % CHUNK,
                                         .blocks = b->blocks + (size_t)i * b->per_seq,
                                         .sample = sample};
    double start = now_s();
    if (runner_step(b->runner, &plan, on_layers, NULL, &result) != ST_OK)
        return -1;
    return now_s() - start;
}

/* Writes `context` tokens of each sequence. */
static bool context_fill(struct bench *b, uint32_t n_seqs)
{
    uint32_t group = CHUNK / b->o.context > 0 ? CHUNK / b->o.context : 1;
    uint32_t *all = b->blocks;
    bool ok = true;
    for (uint32_t s = 0; s < n_seqs && ok; s += group) {
        uint32_t n = n_seqs - s < group ? n_seqs - s : group;
        b->blocks = all + (size_t)s * b->per_seq;
        for (uint32_t at = 0; at < b->o.context && ok; at += CHUNK) {
            uint32_t left = b->o.context - at;
            ok = step_run(b, n, at, left < CHUNK ? left : CHUNK, false) >= 0;
        }
    }
    b->blocks = all;
    return ok;
}

/* Parameters that every token goes through: all but the table of the input embedding. */
static double linear_params(const struct model_desc *d)
{
    double head = (double)d->n_vocab * d->hidden;
    return (double)model_desc_param_count(d) - (d->tied_embeddings ? 0 : head);
}

static void print_row(struct bench *b, const char *what, uint32_t n, double *seconds, uint32_t runs,
                      double bytes, double flop)
{
    qsort(seconds, runs, sizeof(double), compare_doubles);
    double median = seconds[runs / 2];
    double limit = bytes / (b->o.gbps * 1e9), compute = flop / (b->o.tflops * 1e12);
    limit = limit > compute ? limit : compute;
    printf("%-10s %7u %10.3f ms %10.3f ms %9.1f %9.1f %9.3f ms %6.1f %%\n", what, n, median * 1e3,
           seconds[0] * 1e3, bytes / median * 1e-9, flop / median * 1e-12, limit * 1e3,
           100 * limit / median);
}

static int decode_rows(struct bench *b)
{
    const struct model_desc *d = &b->desc;
    double *seconds = malloc(b->o.steps * sizeof(double));
    double kv_token = 2.0 * d->n_layers * d->n_kv_heads * d->head_dim * 2;
    for (uint32_t i = 0; i < b->o.n_batch && seconds != NULL; i++) {
        uint32_t n = b->o.batch[i];
        if (!context_fill(b, n))
            return 1;
        for (uint32_t k = 0; k < 3; k++)
            step_run(b, n, b->o.context, 1, true);
        double start = now_s(), device = 0;
        for (uint32_t k = 0; k < b->o.steps; k++) {
            seconds[k] = step_run(b, n, b->o.context, 1, true);
            device += runner_replay_seconds(b->runner);
        }
        double exposed = device > 0 ? 1 - device / (now_s() - start) : 0;
        double params = linear_params(d);
        print_row(b, "decode", n, seconds, b->o.steps,
                  params * 2 + (double)n * b->o.context * kv_token, 2 * params * n);
        if (device > 0)
            printf("           of that without work on the device: %.2f %%\n", 100 * exposed);
    }
    free(seconds);
    return 0;
}

static int prompt_rows(struct bench *b)
{
    const struct model_desc *d = &b->desc;
    enum { RUNS = 5 };
    double seconds[RUNS];
    for (uint32_t i = 0; i < b->o.n_prompt; i++) {
        uint32_t n = b->o.prompt[i];
        for (uint32_t k = 0; k < RUNS + 1; k++) {
            double sum = 0;
            for (uint32_t at = 0; at < n; at += CHUNK)
                sum += step_run(b, 1, at, n - at < CHUNK ? n - at : CHUNK, n - at <= CHUNK);
            seconds[k > 0 ? k - 1 : 0] = sum; /* the first is a warm-up */
        }
        double head = (double)d->n_vocab * d->hidden;
        double flop = 2 * (linear_params(d) - head) * n + 2 * head +
                      2.0 * d->n_layers * d->n_heads * d->head_dim * (double)n * n;
        print_row(b, "prompt", n, seconds, RUNS, linear_params(d) * 2, flop);
    }
    return 0;
}

static int bench_open(struct bench *b)
{
    char err[512] = "";
    struct text_error why = {err, sizeof(err)};
    uint32_t longest = max_of(b->o.prompt, b->o.n_prompt),
             n_seqs = max_of(b->o.batch, b->o.n_batch);
    longest = longest > b->o.context + 1 ? longest : b->o.context + 1;
    n_seqs = n_seqs > 0 ? n_seqs : 1;
    struct runner_opts opts = {.kind = RUNNER_TRANSFORMER,
                               .model_path = b->o.model,
                               .load_format = LOAD_DUMMY,
                               .device = b->o.device,
                               .seed = 1,
                               .block_tokens = BLOCK_TOKENS,
                               .max_batch_tokens = CHUNK > n_seqs ? CHUNK : n_seqs,
                               .max_seqs = n_seqs,
                               .max_context_tokens = longest + BLOCK_TOKENS,
                               .n_threads = b->o.threads,
                               .layer_groups = 1};
    double start = now_s();
    if (model_desc_load(b->o.model, &b->desc, why) != ST_OK ||
        runner_create(&opts, &b->runner, err, sizeof(err)) != ST_OK) {
        fprintf(stderr, "dynd-bench step: %s\n", err);
        return 1;
    }
    printf("%s loaded in %.2f s\n", b->o.model, now_s() - start);
    uint32_t context_blocks = b->o.context / BLOCK_TOKENS + 1;
    b->per_seq = context_blocks;
    b->n_blocks = n_seqs * context_blocks;
    if (b->n_blocks < longest / BLOCK_TOKENS + 1)
        b->n_blocks = longest / BLOCK_TOKENS + 1;
    uint64_t bytes = b->n_blocks * runner_geometry(b->runner)->block_bytes;
    void *pool = NULL;
    if (runner_alloc_pool(b->runner, bytes, &pool) != ST_OK)
        pool = b->host_pool = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    b->blocks = malloc(b->n_blocks * sizeof(uint32_t));
    b->tokens = malloc(2 * CHUNK * sizeof(uint32_t));
    b->items = calloc(n_seqs, sizeof(*b->items));
    if (pool == NULL || b->blocks == NULL || b->tokens == NULL || b->items == NULL)
        return 1;
    for (uint32_t i = 0; i < b->n_blocks; i++)
        b->blocks[i] = i;
    for (uint32_t i = b->n_blocks - 1; i > 0; i--) { /* as a pool looks after a while */
        uint32_t k = (uint32_t)rand() % (i + 1), swap = b->blocks[i];
        b->blocks[i] = b->blocks[k];
        b->blocks[k] = swap;
    }
    for (uint32_t i = 0; i < 2 * CHUNK; i++)
        b->tokens[i] = (uint32_t)rand() % b->desc.n_vocab;
    return runner_set_pool(b->runner, pool, b->n_blocks) == ST_OK ? 0 : 1;
}

int bench_step(int argc, char **argv)
{
    struct bench b = {.o = {.context = 1024, .steps = 30, .gbps = 4300, .tflops = 790}};
    if (!options_parse(argc, argv, &b.o)) {
        fprintf(stderr, "usage: dynd-bench step --model DIR [--device cpu|cuda] [--context N]\n"
                        "  [--batch N,N...] [--prompt N,N...] [--steps N] [--gbps N] [--tflops N]\n"
                        "  [--threads N]\n");
        return 2;
    }
    int rc = bench_open(&b);
    if (rc == 0) {
        printf("limit: the longer of bytes at %.0f GB/s and operations at %.0f TFLOP/s\n\n",
               b.o.gbps, b.o.tflops);
        printf("%-10s %7s %13s %13s %9s %9s %12s %8s\n", "step", "n", "median", "best", "GB/s",
               "TFLOP/s", "limit", "share");
        rc = decode_rows(&b);
    }
    if (rc == 0)
        rc = prompt_rows(&b);
    runner_destroy(b.runner);
    free(b.host_pool);
    free(b.blocks);
    free(b.tokens);
    free(b.items);
    return rc;
}
