/* Steps of the transformer runner on random weights and random tokens. A step must read all weights
 * but the embedding table, and the KV that its rows look at; it must write the KV of its rows, and
 * do its GEMMs and its attention. Activations are not counted: they fit a cache. The context of a
 * decode step is written by prompt chunks first, so no KV is zero. */
#include "bench_step.h"

#include "common.h"
#include "engine/runner.h"
#include "model/desc.h"
#include "report.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_TOKENS 64u
#define CHUNK        8192u
#define WARM_UP      5u

struct options {
    struct bench_common common;
    uint32_t context, steps;
    uint32_t batch[BENCH_LIST_MAX], n_batch, prompt[BENCH_LIST_MAX], n_prompt;
    enum kv_dtype kv_dtype;
};

/* What a step cannot do without. */
struct work {
    double bytes, flop, fp8_flop;
};

struct bench {
    struct options o;
    struct model_desc desc;
    struct runner_size size;
    struct runner *runner;
    uint32_t n_filled;          /* sequences whose context is written */
    uint32_t n_blocks, per_seq; /* blocks */
    uint32_t *blocks, *tokens;
    struct step_item *items;
    void *host_pool;
    uint64_t steps;
};

static bool kv_dtype_parse(const char *text, enum kv_dtype *out)
{
    static const char *const names[] = {"auto", "bf16", "f32", "fp8"}; /* as enum kv_dtype */
    for (unsigned i = 0; i < 4; i++) {
        if (strcmp(text, names[i]) == 0) {
            *out = (enum kv_dtype)i;
            return true;
        }
    }
    return false;
}

static bool options_parse(int argc, char **argv, struct options *o)
{
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];
        if (bench_common_parse(&o->common, name, value))
            continue;
        if (strcmp(name, "--context") == 0)
            o->context = (uint32_t)strtoul(value, NULL, 10);
        else if (strcmp(name, "--steps") == 0)
            o->steps = (uint32_t)strtoul(value, NULL, 10);
        else if (strcmp(name, "--batch") == 0)
            o->n_batch = bench_list_parse(value, o->batch);
        else if (strcmp(name, "--prompt") == 0)
            o->n_prompt = bench_list_parse(value, o->prompt);
        else if (strcmp(name, "--kv-dtype") != 0 || !kv_dtype_parse(value, &o->kv_dtype))
            return false;
    }
    return argc % 2 == 1 && o->common.model != NULL && o->steps > 0 && o->context > 0;
}

static void on_layers(void *arg, uint64_t step_id, uint32_t first, uint32_t count)
{
    (void)arg, (void)step_id, (void)first, (void)count;
}

/* A step of n_seqs sequences from `position` on, n_tokens each; with `ahead` each goes on with the
 * token that the step before samples. */
static bool step_begin(struct bench *b, uint32_t n_seqs, uint32_t position, uint32_t n_tokens,
                       bool sample, bool ahead)
{
    struct step_plan plan = {
        .step_id = ++b->steps, .n_items = n_seqs, .n_tokens = n_seqs * n_tokens, .items = b->items};
    for (uint32_t i = 0; i < n_seqs; i++)
        b->items[i] = (struct step_item){.item_id = i,
                                         .n_tokens = n_tokens,
                                         .position = position,
                                         .n_blocks = (position + n_tokens - 1) / BLOCK_TOKENS + 1,
                                         .tokens = b->tokens + (i * 977u) % CHUNK,
                                         .after_item = ahead ? i + 1 : 0,
                                         .blocks = b->blocks + (size_t)i * b->per_seq,
                                         .sample = sample};
    return runner_begin(b->runner, &plan, on_layers, NULL) == ST_OK;
}

static bool step_finish(struct bench *b)
{
    struct step_result result;
    return runner_finish(b->runner, &result) == ST_OK;
}

/* A step alone. Seconds, or a negative number. */
static double step_run(struct bench *b, uint32_t n_seqs, uint32_t position, uint32_t n_tokens,
                       bool sample)
{
    double start = bench_now_s();
    if (!step_begin(b, n_seqs, position, n_tokens, sample, false) || !step_finish(b))
        return -1;
    return bench_now_s() - start;
}

/* Decode steps as a worker runs them, the next begun while one runs where the device takes two:
 * seconds from one step's tokens to the next's. */
static bool decode_run(struct bench *b, uint32_t n, double *seconds)
{
    const bool ahead = runner_depth(b->runner) > 1;
    bool ok = step_begin(b, n, b->o.context, 1, true, false);
    double last = bench_now_s();
    for (uint32_t k = 0; k < b->o.steps + WARM_UP && ok; k++) {
        if (ahead)
            ok = step_begin(b, n, b->o.context, 1, true, true);
        ok = ok && step_finish(b);
        double now = bench_now_s();
        seconds[k < WARM_UP ? 0 : k - WARM_UP] = now - last;
        last = now;
        if (!ahead && ok)
            ok = step_begin(b, n, b->o.context, 1, true, false);
    }
    return ok && step_finish(b);
}

/* Seconds of the device alone for such a step; 0 when it cannot tell. */
static double device_seconds(struct bench *b, uint32_t n)
{
    double sum = 0;
    (void)runner_replay_seconds(b->runner); /* from now on it is timed */
    for (uint32_t k = 0; k < b->o.steps; k++) {
        if (step_run(b, n, b->o.context, 1, true) < 0)
            return 0;
        sum += runner_replay_seconds(b->runner);
    }
    return sum / b->o.steps;
}

/* Writes `context` tokens of each sequence that has none yet. */
static bool context_fill(struct bench *b, uint32_t n_seqs)
{
    uint32_t group = CHUNK / b->o.context > 0 ? CHUNK / b->o.context : 1;
    uint32_t *all = b->blocks;
    bool ok = true;
    for (uint32_t s = b->n_filled; s < n_seqs && ok; s += group) {
        uint32_t n = n_seqs - s < group ? n_seqs - s : group;
        b->blocks = all + (size_t)s * b->per_seq;
        for (uint32_t at = 0; at < b->o.context && ok; at += CHUNK) {
            uint32_t left = b->o.context - at;
            ok = step_run(b, n, at, left < CHUNK ? left : CHUNK, false) >= 0;
        }
    }
    b->blocks = all;
    b->n_filled = n_seqs > b->n_filled ? n_seqs : b->n_filled;
    return ok;
}

/* Positions that a row at `position` looks at, the own included, over all layers. */
static double seen_by(const struct model_desc *d, double position)
{
    double sum = 0;
    for (uint32_t l = 0; l < d->n_layers; l++)
        sum += d->layer_window[l] && position + 1 > d->window ? d->window : position + 1;
    return sum;
}

/* Parameters in matrices of 8 bits, of a model that is run in them. */
static double fp8_params(const struct bench *b)
{
    const struct model_desc *d = &b->desc;
    double q = (double)d->n_heads * d->head_dim, kv = (double)d->n_kv_heads * d->head_dim;
    double wide = (double)d->hidden * d->intermediate, n = 0;
    const double matrices[MODEL_MATRICES] = {[MODEL_QKV] = d->hidden * (q + 2 * kv),
                                             [MODEL_O] = d->hidden * q,
                                             [MODEL_GATE_UP] = 2 * wide,
                                             [MODEL_DOWN] = wide};
    for (uint32_t l = 0; l < d->n_layers && d->weight_scaling != MODEL_SCALE_NONE; l++)
        for (uint32_t m = 0; m < MODEL_MATRICES; m++)
            n += d->layer_plain[l] >> m & 1 ? 0 : matrices[m];
    bool is_kept = (double)b->size.weight_bytes < 2 * (double)b->size.n_params - 0.5 * n;
    return is_kept ? n : 0;
}

/* The GEMMs of all layers and of the head, and the bytes of all weights but the input table. */
static struct work weights_work(const struct bench *b, double n_rows, double n_sampled)
{
    const struct model_desc *d = &b->desc;
    double head = (double)d->n_vocab * d->hidden, total = (double)b->size.n_params;
    double bytes = (double)b->size.weight_bytes, fp8 = fp8_params(b);
    double layers = total - head * (d->tied_embeddings ? 1 : 2);
    double table = d->tied_embeddings ? 0 : head * (bytes > 3 * total ? 4 : 2);
    return (struct work){.bytes = bytes - table,
                         .flop = 2 * (layers - fp8) * n_rows + 2 * head * n_sampled,
                         .fp8_flop = 2 * fp8 * n_rows};
}

static double kv_layer_bytes(const struct bench *b) /* of a token */
{
    return (double)runner_geometry(b->runner)->layer_bytes / BLOCK_TOKENS;
}

static struct work decode_work(const struct bench *b, uint32_t n)
{
    const struct model_desc *d = &b->desc;
    struct work w = weights_work(b, n, n);
    double seen = n * seen_by(d, b->o.context);
    w.bytes += kv_layer_bytes(b) * seen; /* the own position written, the others read */
    w.flop += 4.0 * d->n_heads * d->head_dim * seen;
    return w;
}

static struct work prompt_work(const struct bench *b, uint32_t n)
{
    const struct model_desc *d = &b->desc;
    struct work w = weights_work(b, n, 1);
    double seen = 0;
    for (uint32_t i = 0; i < n; i++)
        seen += seen_by(d, i);
    w.bytes += kv_layer_bytes(b) * d->n_layers * n;
    w.flop += 4.0 * d->n_heads * d->head_dim * seen;
    return w;
}

static void print_row(struct bench *b, const char *what, uint32_t n, double *seconds, uint32_t runs,
                      const struct work *w)
{
    double median = bench_median(seconds, runs), flop = w->flop + w->fp8_flop;
    double limit = w->bytes / (b->o.common.gbps * 1e9);
    double compute =
        w->flop / (b->o.common.tflops * 1e12) + w->fp8_flop / (b->o.common.fp8_tflops * 1e12);
    limit = limit > compute ? limit : compute;
    printf("%-10s %7u %10.3f ms %10.3f ms %9.1f %9.1f %9.3f ms %6.1f %%\n", what, n, median * 1e3,
           seconds[0] * 1e3, w->bytes / median * 1e-9, flop / median * 1e-12, limit * 1e3,
           100 * limit / median);
    fflush(stdout);
    char key[160];
    int len = snprintf(key, sizeof(key), "%s %s %u", bench_name_of(b->o.common.model), what, n);
    if (strcmp(what, "decode") == 0 && len > 0 && (size_t)len < sizeof(key))
        snprintf(key + len, sizeof(key) - (size_t)len, " context %u", b->o.context);
    report_row(NULL, key, median * 1e3, "ms", limit * 1e3);
}

/* Share of a step's time in which the device has nothing to do; about 0 where the next step waits
 * in its queue, then more or less by what timing is worth. */
static void print_exposed(const struct bench *b, uint32_t n, double share)
{
    char key[160];
    printf("           of that without work on the device: %.2f %%\n", 100 * share);
    snprintf(key, sizeof(key), "%s decode %u without work on the device",
             bench_name_of(b->o.common.model), n);
    report_row(NULL, key, 100 * share, "%", 0);
}

static int decode_rows(struct bench *b)
{
    double *seconds = malloc(b->o.steps * sizeof(double));
    bool ok = seconds != NULL;
    for (uint32_t i = 0; i < b->o.n_batch && ok; i++) {
        uint32_t n = b->o.batch[i];
        ok = context_fill(b, n);
        ok = ok && decode_run(b, n, seconds);
        if (!ok)
            break;
        double device = device_seconds(b, n), median = bench_median(seconds, b->o.steps);
        struct work w = decode_work(b, n);
        print_row(b, "decode", n, seconds, b->o.steps, &w);
        if (device > 0)
            print_exposed(b, n, 1 - device / median);
    }
    free(seconds);
    return ok ? 0 : 1;
}

static int prompt_rows(struct bench *b)
{
    enum { RUNS = 5 };
    double seconds[RUNS];
    for (uint32_t i = 0; i < b->o.n_prompt; i++) {
        uint32_t n = b->o.prompt[i];
        for (uint32_t k = 0; k < RUNS + 1; k++) {
            double sum = 0;
            for (uint32_t at = 0; at < n; at += CHUNK) {
                double s = step_run(b, 1, at, n - at < CHUNK ? n - at : CHUNK, n - at <= CHUNK);
                if (s < 0)
                    return 1;
                sum += s;
            }
            seconds[k > 0 ? k - 1 : 0] = sum; /* the first is a warm-up */
        }
        struct work w = prompt_work(b, n);
        print_row(b, "prompt", n, seconds, RUNS, &w);
    }
    return 0;
}

static int bench_open(struct bench *b)
{
    char err[512] = "";
    struct text_error why = {err, sizeof(err)};
    uint32_t longest = bench_list_max(b->o.prompt, b->o.n_prompt),
             n_seqs = bench_list_max(b->o.batch, b->o.n_batch);
    longest = longest > b->o.context + 1 ? longest : b->o.context + 1;
    n_seqs = n_seqs > 0 ? n_seqs : 1;
    struct runner_opts opts = {.kind = RUNNER_TRANSFORMER,
                               .model_path = b->o.common.model,
                               .load_format = LOAD_DUMMY,
                               .kv_dtype = b->o.kv_dtype,
                               .device = b->o.common.device,
                               .seed = 1,
                               .block_tokens = BLOCK_TOKENS,
                               .max_batch_tokens = CHUNK > n_seqs ? CHUNK : n_seqs,
                               .max_seqs = n_seqs,
                               .max_context_tokens = longest + BLOCK_TOKENS,
                               .n_threads = b->o.common.threads,
                               .cache_dir = "auto",
                               .layer_groups = 1};
    double start = bench_now_s();
    if (model_desc_load(b->o.common.model, &b->desc, why) != ST_OK ||
        runner_measure(&opts, &b->size, err, sizeof(err)) != ST_OK ||
        runner_create(&opts, &b->runner, err, sizeof(err)) != ST_OK) {
        fprintf(stderr, "dynd-bench step: %s\n", err);
        return 1;
    }
    printf("%s loaded in %.2f s, KV cache in %s\n", b->o.common.model, bench_now_s() - start,
           runner_geometry(b->runner)->dtype);
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
    start = bench_now_s();
    if (runner_set_pool(b->runner, pool, b->n_blocks) != ST_OK)
        return 1;
    printf("ready to decode up to %u sequences %.2f s later\n", n_seqs, bench_now_s() - start);
    return 0;
}

int bench_step(int argc, char **argv)
{
    struct bench b = {.o = {.context = 1024, .steps = 30, .common = bench_common_default()}};
    if (!options_parse(argc, argv, &b.o)) {
        fprintf(stderr, "usage: dynd-bench step --model DIR [--device cpu|cuda] [--context N]\n"
                        "  [--batch N,N...] [--prompt N,N...] [--steps N] [--gbps N] [--tflops N]\n"
                        "  [--fp8-tflops N] [--threads N] [--kv-dtype auto|bf16|f32|fp8]\n");
        return 2;
    }
    int rc = bench_open(&b);
    if (rc == 0) {
        printf(
            "limit: the longer of bytes at %.0f GB/s and operations at %.0f TFLOP/s (fp8 %.0f)\n\n",
            b.o.common.gbps, b.o.common.tflops, b.o.common.fp8_tflops);
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
