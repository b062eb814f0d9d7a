/* Which of cuBLASLt's algorithms is the fastest for each shape and bucket of rows of a model,
 * measured when an engine starts and kept in a file (gemm_cache.h). What the time allowed does not
 * suffice for is measured at the next starts; until then the library's own favourite is taken. Any
 * other that fails is one less to choose from, and stops no start. Engine thread. */
#include "device/cuda_gemm_int.h"

#include "base/file.h"
#include "base/time.h"
#include "observe/log.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROWS_MEASURED  CUDA_GEMM_SMALL_ROWS_MAX /* more than so many */
#define BATCHES        3u                       /* timed; the median counts */
#define BATCH_NS       200000u                  /* aimed at */
#define BATCH_RUNS_MIN 2u
#define BATCH_RUNS_MAX 16u
#define RECORD_BELOW_NS                                                                            \
    40000u                /* shorter ones are put on the device in one piece, or the CPU is timed */
#define HOPELESS_TIMES 2u /* slower than the best by this: one run is enough */
#define BETTER_PERCENT 2u /* less is noise: the favourite stays */
#define OCTAVE_BUCKETS 8u
#define LEVELS         4u
#define FILL_SEED      1u
#define SAMPLE_ROWS    8u
#define SAMPLE_GROUP   64u  /* columns */
#define SAME_SQUARE    1e-4 /* of the relative error of two right results */
/* Remembered choices are compared with at most so many rows: several tiles of each kind, and for a
 * whole model a fraction of the time that a start may take. */
#define KNOWN_ROWS_MAX 512u

/* The gemms of one shape; their weights take turns, so that they come from memory. */
struct group {
    struct lt_shape *shape;
    const struct gemm_args **gemms;
    uint32_t n, rows_max;
    uint32_t turn;
    /* Remembered ones that were right with KNOWN_ROWS_MAX rows: buckets often share one. */
    cublasLtMatmulAlgo_t right[LT_CANDIDATES_MAX];
    uint32_t n_right;
};

struct tuner {
    struct cuda_lt *lt;
    struct group groups[LT_PREPARED_MAX];
    uint32_t n_groups;
    const struct gemm_args **gemms; /* of all groups */
    cudaEvent_t from, to;
    struct gemm_machine machine;
    struct gemm_choices known, forgotten;
    char path[FILE_PATH_BYTES]; /* empty: nothing is kept */
    uint64_t deadline_ns;
    uint32_t n_known, n_measured, n_left, n_forgotten;
};

/* Whether an error is one of the algorithm that was tried, and not of the device. */
static bool is_own_fault(enum status st)
{
    if (st == ST_OK || st == ST_DEVICE || st == ST_NO_MEMORY)
        return false;
    (void)cudaGetLastError(); /* the next launch would be taken to have failed */
    return true;
}

/* Whether what is being measured has to wait for the next start. One bucket is finished in any
 * case, or there might never be an end. */
static bool is_late(const struct tuner *t)
{
    return t->n_measured > 0 && time_monotonic_ns() >= t->deadline_ns;
}

/* ---- gemms by shape ---- */

static bool is_of_shape(const struct gemm_args *a, const struct lt_key *key)
{
    const struct lt_key own = {a->n, a->k, a->w_dtype, a->y_dtype, a->w_scaling};
    return memcmp(&own, key, sizeof(own)) == 0;
}

static struct group *group_of(struct tuner *t, const struct gemm_args *a)
{
    for (uint32_t i = 0; i < t->n_groups; i++)
        if (is_of_shape(a, &t->groups[i].shape->key))
            return &t->groups[i];
    return NULL;
}

static enum status groups_make(struct tuner *t, const struct gemm_args *gemms, uint32_t n)
{
    t->gemms = calloc(n, sizeof(struct gemm_args *));
    enum status st = t->gemms != NULL ? ST_OK : ST_NO_MEMORY;
    for (uint32_t i = 0, n_taken = 0; i < n && st == ST_OK; i++) {
        if (gemms[i].n_rows == 0 || group_of(t, &gemms[i]) != NULL)
            continue;
        if (t->n_groups == LT_PREPARED_MAX)
            return ST_TOO_LARGE;
        struct group *g = &t->groups[t->n_groups];
        st = lt_shape_get(t->lt, &gemms[i], &g->shape);
        if (st != ST_OK)
            return st;
        t->n_groups++;
        if (!g->shape->is_kept && t->lt->n_kept++ == LT_PREPARED_MAX)
            return ST_TOO_LARGE;
        g->shape->is_kept = true;
        g->gemms = t->gemms + n_taken;
        g->rows_max = UINT32_MAX;
        for (uint32_t j = i; j < n; j++)
            if (gemms[j].n_rows > 0 && is_of_shape(&gemms[j], &g->shape->key)) {
                t->gemms[n_taken++] = &gemms[j];
                g->n++;
                g->rows_max = gemms[j].n_rows < g->rows_max ? gemms[j].n_rows : g->rows_max;
            }
    }
    return st;
}

static enum status f8_reserve(struct tuner *t)
{
    uint32_t rows = 0, n = 0, k = 0;
    for (uint32_t i = 0; i < t->n_groups; i++) {
        const struct gemm_args *a = t->groups[i].gemms[0];
        if (a->w_dtype != OPS_F8)
            continue;
        rows = a->n_rows > rows ? a->n_rows : rows;
        n = a->n > n ? a->n : n;
        k = a->k > k ? a->k : k;
    }
    return rows > 0 ? cuda_lt_reserve(t->lt, rows, n, k) : ST_OK;
}

/* Numbers, or the device would multiply the zeros of fresh memory, at less power. */
static enum status inputs_fill(struct tuner *t)
{
    enum status st = ST_OK;
    for (uint32_t i = 0; i < t->n_groups && st == ST_OK; i++) {
        const struct gemm_args *a = t->groups[i].gemms[0];
        const struct random_fill_args fill = {.dst = (void *)(uintptr_t)a->x,
                                              .dtype = a->x_dtype,
                                              .n = (a->n_rows - 1) * a->x_stride + a->k,
                                              .seed = FILL_SEED,
                                              .scale = 1.0f};
        st = cuda_status(cuda_random_fill(&fill, t->lt->stream), "random_fill");
    }
    return st;
}

/* Rows to measure a bucket with: those of its top, as far as there is room for them. */
static uint32_t rows_of_bucket(const struct group *g, uint32_t bucket)
{
    const uint32_t top = gemm_bucket_top(bucket);
    uint32_t rows = top < g->rows_max ? top : g->rows_max;
    return g->shape->key.scaling == OPS_SCALE_BLOCK && rows > 4 ? rows / 4 * 4 : rows;
}

/* With scales of blocks the library has multiples of 4 rows only. */
static bool is_used(const struct group *g, uint32_t bucket)
{
    return g->shape->key.scaling != OPS_SCALE_BLOCK || gemm_bucket_top(bucket) % 4 == 0;
}

/* ---- timing ---- */

static enum status run_once(struct tuner *t, struct group *g, const struct lt_choice *choice,
                            uint32_t rows)
{
    struct gemm_args a = *g->gemms[g->turn++ % g->n];
    a.n_rows = rows;
    if (a.w_dtype == OPS_F8)
        return lt_f8_multiply(t->lt, g->shape, choice, &a, rows, a.y, a.y_stride);
    const struct lt_call call = {
        .w = a.w, .x = a.x, .y = a.y, .x_stride = a.x_stride, .y_stride = a.y_stride, .rows = rows};
    return lt_status(lt_matmul(t->lt, g->shape, choice, &call), "gemm");
}

/* What is to be timed: runs of a choice, or a record of them. */
struct batch {
    struct group *group;
    const struct lt_choice *choice;
    uint32_t rows, n_runs;
    cudaGraphExec_t record;
};

static enum status batch_put(struct tuner *t, const struct batch *b)
{
    enum status st = ST_OK;
    if (b->record != NULL)
        return cuda_status(cudaGraphLaunch(b->record, t->lt->stream), "measure");
    for (uint32_t i = 0; i < b->n_runs && st == ST_OK; i++)
        st = run_once(t, b->group, b->choice, b->rows);
    return st;
}

static enum status batch_record(struct tuner *t, struct batch *b)
{
    cudaGraph_t graph = NULL;
    enum status st = cuda_status(
        cudaStreamBeginCapture(t->lt->stream, cudaStreamCaptureModeThreadLocal), "measure");
    if (st != ST_OK)
        return st;
    st = batch_put(t, b);
    enum status end = cuda_status(cudaStreamEndCapture(t->lt->stream, &graph), "measure");
    st = st == ST_OK ? end : st;
    if (st == ST_OK)
        st = cuda_status(cudaGraphInstantiate(&b->record, graph, 0), "measure");
    if (graph != NULL)
        cudaGraphDestroy(graph);
    return st;
}

/* Nanoseconds of one run. */
static enum status batch_time(struct tuner *t, const struct batch *b, uint32_t *out_ns)
{
    float ms = 0;
    enum status st = cuda_status(cudaEventRecord(t->from, t->lt->stream), "measure");
    if (st == ST_OK)
        st = batch_put(t, b);
    if (st == ST_OK)
        st = cuda_status(cudaEventRecord(t->to, t->lt->stream), "measure");
    if (st == ST_OK)
        st = cuda_status(cudaEventSynchronize(t->to), "measure");
    if (st == ST_OK)
        st = cuda_status(cudaEventElapsedTime(&ms, t->from, t->to), "measure");
    const double ns = (double)ms * 1e6 / b->n_runs;
    *out_ns = ns < 1 ? 1 : ns < UINT32_MAX ? (uint32_t)ns : UINT32_MAX;
    return st;
}

static uint32_t median(uint32_t a, uint32_t b, uint32_t c)
{
    const uint32_t low = a < b ? a : b, high = a < b ? b : a;
    return c < low ? low : c < high ? c : high;
}

/* ST_UNSUPPORTED: it cannot do this after all. The first run loads the kernel and is not timed. */
static enum status choice_time(struct tuner *t, struct group *g, const struct lt_choice *choice,
                               uint32_t rows, uint32_t best_ns, uint32_t *out_ns)
{
    uint32_t ns[BATCHES] = {0}, rough = 0;
    struct batch b = {.group = g, .choice = choice, .rows = rows, .n_runs = 1};
    enum status st = batch_put(t, &b);
    if (st == ST_OK)
        st = batch_time(t, &b, &rough);
    *out_ns = rough;
    if (st != ST_OK || rough / HOPELESS_TIMES > best_ns)
        return st;
    b.n_runs = BATCH_NS / rough;
    b.n_runs = b.n_runs < BATCH_RUNS_MIN ? BATCH_RUNS_MIN : b.n_runs;
    b.n_runs = b.n_runs > BATCH_RUNS_MAX ? BATCH_RUNS_MAX : b.n_runs;
    if (rough < RECORD_BELOW_NS)
        st = batch_record(t, &b);
    for (uint32_t i = 0; i < BATCHES && st == ST_OK; i++)
        st = batch_time(t, &b, &ns[i]);
    if (b.record != NULL)
        cudaGraphExecDestroy(b.record);
    *out_ns = median(ns[0], ns[1], ns[2]);
    return st;
}

/* ---- comparing ---- */

/* Whole rows of y, spread over it: each tile's columns are in them. */
struct sample {
    char *rows;
    size_t row_bytes;
};

static enum status sample_make(const struct group *g, struct sample *out)
{
    out->row_bytes = (size_t)g->shape->key.n * ops_dtype_bytes(g->shape->key.y_dtype);
    if (out->row_bytes == 0)
        return ST_INVALID;
    out->rows = calloc(SAMPLE_ROWS, out->row_bytes);
    return out->rows != NULL ? ST_OK : ST_NO_MEMORY;
}

static char *sample_row(const struct group *g, uint32_t rows, uint32_t i)
{
    const struct gemm_args *a = g->gemms[0];
    const size_t row = (size_t)(rows - 1) * i / (SAMPLE_ROWS - 1);
    return (char *)a->y + row * a->y_stride * ops_dtype_bytes(a->y_dtype);
}

/* Runs the choice with the same weights each time, and takes the rows from y, which are made NaN
 * before. */
static enum status sample_take(struct tuner *t, struct group *g, const struct lt_choice *choice,
                               uint32_t rows, struct sample *s)
{
    enum status st = ST_OK;
    for (uint32_t i = 0; i < SAMPLE_ROWS && st == ST_OK; i++)
        st = cuda_status(cudaMemsetAsync(sample_row(g, rows, i), 0xff, s->row_bytes, t->lt->stream),
                         "compare");
    g->turn = 0;
    if (st == ST_OK)
        st = run_once(t, g, choice, rows);
    for (uint32_t i = 0; i < SAMPLE_ROWS && st == ST_OK; i++)
        st = cuda_status(cudaMemcpyAsync(s->rows + i * s->row_bytes, sample_row(g, rows, i),
                                         s->row_bytes, cudaMemcpyDeviceToHost, t->lt->stream),
                         "compare");
    return st == ST_OK ? cuda_status(cudaStreamSynchronize(t->lt->stream), "compare") : st;
}

static double sample_value(const struct sample *s, uint32_t dtype, size_t i)
{
    uint32_t word = 0;
    uint16_t half = 0;
    float value = 0;
    if (dtype == OPS_F32) {
        memcpy(&value, s->rows + i * sizeof(value), sizeof(value));
        return (double)value;
    }
    memcpy(&half, s->rows + i * sizeof(half), sizeof(half));
    word = (uint32_t)half << 16;
    memcpy(&value, &word, sizeof(value));
    return (double)value;
}

/* Apart from roundings, in each row and group of columns: a wrong tile or scale must not vanish in
 * what is right around it. A NaN is not the same as anything. */
static bool is_same(const struct group *g, const struct sample *right, const struct sample *s)
{
    const struct lt_key *key = &g->shape->key;
    const uint32_t n_cols = key->n < SAMPLE_GROUP ? key->n : SAMPLE_GROUP;
    for (size_t row = 0; row < SAMPLE_ROWS; row++)
        for (uint32_t at = 0; at < key->n; at += n_cols) {
            const size_t first = row * key->n + (at < key->n - n_cols ? at : key->n - n_cols);
            double off = 0, norm = 0;
            for (size_t i = first; i < first + n_cols; i++) {
                const double is = sample_value(right, key->y_dtype, i);
                const double d = sample_value(s, key->y_dtype, i) - is;
                off += d * d;
                norm += is * is;
            }
            if (!(off <= norm * SAME_SQUARE))
                return false;
        }
    return true;
}

/* Leaves those of n choices with fp8 that agree with the first, which the library itself named. Cut
 * short when it is late. */
static enum status wrong_drop(struct tuner *t, struct group *g, uint32_t rows,
                              struct lt_choice *choices, uint32_t *n)
{
    struct sample right = {0}, other = {0};
    uint32_t n_right = 1;
    if (*n < 2 || g->shape->key.w_dtype != OPS_F8)
        return ST_OK;
    enum status st = sample_make(g, &right);
    if (st == ST_OK)
        st = sample_make(g, &other);
    if (st == ST_OK)
        st = sample_take(t, g, &choices[0], rows, &right);
    for (uint32_t i = 1; i < *n && st == ST_OK && !is_late(t); i++) {
        st = sample_take(t, g, &choices[i], rows, &other);
        if (st == ST_OK && is_same(g, &right, &other))
            choices[n_right++] = choices[i];
        st = is_own_fault(st) ? ST_OK : st;
    }
    free(right.rows);
    free(other.rows);
    *n = n_right;
    return st == ST_UNSUPPORTED ? ST_OK : st;
}

/* ---- choosing ---- */

static bool is_better(uint32_t ns, uint32_t than_ns)
{
    return ns + (uint64_t)ns * BETTER_PERCENT / 100 < than_ns;
}

/* A second look at one that seemed better than the first: between the two measurements the card may
 * have changed its clock. */
static enum status fastest_confirm(struct tuner *t, struct group *g, uint32_t rows,
                                   const struct lt_choice *first, struct lt_choice *best,
                                   uint32_t *best_ns)
{
    uint32_t first_ns = 0, ns = 0;
    if (*best_ns == UINT32_MAX || memcmp(&best->algo, &first->algo, sizeof(best->algo)) == 0)
        return ST_OK;
    enum status st = choice_time(t, g, first, rows, UINT32_MAX, &first_ns);
    if (st != ST_OK)
        return st == ST_UNSUPPORTED ? ST_OK : st; /* the first cannot do it */
    st = choice_time(t, g, best, rows, UINT32_MAX, &ns);
    if (is_own_fault(st) || (st == ST_OK && !is_better(ns, first_ns))) {
        *best = *first;
        *best_ns = first_ns;
        st = ST_OK;
    }
    return st;
}

/* The fastest of n; the first, unless another is clearly faster. *out stays as it is when it gets
 * late on the way. */
static enum status fastest(struct tuner *t, struct group *g, uint32_t rows,
                           struct lt_choice *choices, uint32_t n, struct lt_choice *out)
{
    struct lt_choice best = {.way = LT_WIDE, .origin = LT_MEASURED};
    uint32_t best_ns = UINT32_MAX;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t ns = 0;
        if (is_late(t))
            return ST_OK;
        enum status st = choice_time(t, g, &choices[i], rows, best_ns, &ns);
        if (st == ST_UNSUPPORTED || (i > 0 && is_own_fault(st)))
            continue;
        if (st != ST_OK)
            return st;
        if (best_ns < UINT32_MAX && !is_better(ns, best_ns))
            continue;
        best = choices[i];
        best_ns = ns;
    }
    enum status st = fastest_confirm(t, g, rows, &choices[0], &best, &best_ns);
    if (st != ST_OK)
        return st;
    best.origin = LT_MEASURED;
    best.time_ns = best_ns < UINT32_MAX ? best_ns : 0;
    if (best_ns < UINT32_MAX || g->shape->key.w_dtype == OPS_F8)
        *out = best;
    return ST_OK;
}

static struct gemm_choice stored(const struct group *g, uint32_t bucket)
{
    const struct lt_key *key = &g->shape->key;
    const struct lt_choice *choice = &g->shape->choices[bucket];
    struct gemm_choice c = {.rows = gemm_bucket_top(bucket),
                            .n = key->n,
                            .k = key->k,
                            .w_dtype = key->w_dtype,
                            .y_dtype = key->y_dtype,
                            .scaling = key->scaling,
                            .way = choice->way,
                            .time_ns = choice->time_ns};
    memcpy(c.algo, &choice->algo, sizeof(c.algo));
    return c;
}

static enum status measure(struct tuner *t, struct group *g, uint32_t bucket)
{
    struct lt_choice found[LT_CANDIDATES_MAX];
    const uint32_t rows = rows_of_bucket(g, bucket);
    struct lt_choice *choice = &g->shape->choices[bucket];
    struct gemm_args a = *g->gemms[0];
    enum status st = ST_OK;
    a.n_rows = rows;
    uint32_t n = lt_candidates(t->lt, g->shape, rows, LT_CANDIDATES_MAX, found);
    if (a.w_dtype == OPS_F8)
        st = lt_f8_quant(t->lt, &a, rows);
    if (st == ST_OK)
        st = wrong_drop(t, g, rows, found, &n);
    if (st == ST_OK)
        st = fastest(t, g, rows, found, n, choice);
    if (st == ST_OK && choice->origin == LT_MEASURED) {
        const struct gemm_choice c = stored(g, bucket);
        st = gemm_choices_set(&t->known, &c);
        t->n_measured++;
    } else if (st == ST_OK && is_late(t)) {
        t->n_left++;
    }
    return st;
}

/* Buckets in the order in which they are worth measuring: the powers of two and the largest, the
 * halves between them, the quarters, the rest. */
static uint32_t level_of(uint32_t bucket, uint32_t last)
{
    const uint32_t at = (bucket + 1) % OCTAVE_BUCKETS;
    return at == 0 || bucket == last ? 0 : at == 4 ? 1 : at % 2 == 0 ? 2 : 3;
}

static enum status measure_all(struct tuner *t)
{
    enum status st = ST_OK;
    const uint32_t first = gemm_bucket(ROWS_MEASURED) + 1;
    for (uint32_t level = 0; level < LEVELS; level++)
        for (uint32_t b = first; b < GEMM_BUCKETS; b++)
            for (uint32_t i = 0; i < t->n_groups && st == ST_OK; i++) {
                struct group *g = &t->groups[i];
                const uint32_t last = gemm_bucket(g->rows_max);
                if (b > last || level_of(b, last) != level || !is_used(g, b) ||
                    g->shape->choices[b].origin == LT_MEASURED)
                    continue;
                if (time_monotonic_ns() >= t->deadline_ns)
                    t->n_left++;
                else
                    st = measure(t, g, b);
            }
    return st;
}

/* ---- remembered choices ---- */

/* The choice goes, here and from the file; it is measured again if it was remembered. Until then
 * the library's own takes its place. */
static enum status choice_forget(struct tuner *t, struct group *g, uint32_t bucket, const char *why)
{
    const struct gemm_choice c = stored(g, bucket);
    if (t->n_forgotten++ == 0) /* one line a start: the others are counted */
        log_warn("an algorithm for a GPU matrix product is not used any longer",
                 LOG_STR("why", why), LOG_U64("rows", c.rows), LOG_U64("n", c.n),
                 LOG_U64("k", c.k));
    g->shape->choices[bucket] = (struct lt_choice){0};
    gemm_choices_remove(&t->known, &c);
    return gemm_choices_set(&t->forgotten, &c);
}

static bool is_same_algo(const cublasLtMatmulAlgo_t *a, const cublasLtMatmulAlgo_t *b)
{
    return memcmp(a, b, sizeof(*a)) == 0;
}

/* Compares a choice of fp8, as wrong_drop does, unless the library itself names it: that it was
 * right on the day it was measured is only what a file says. */
static enum status known_check(struct tuner *t, struct group *g, uint32_t rows,
                               const struct lt_choice *choice, bool *out_is_right)
{
    struct lt_choice both[2] = {{.origin = LT_UNKNOWN}, *choice};
    struct gemm_args a = *g->gemms[0];
    uint32_t n = 2;
    *out_is_right = a.w_dtype != OPS_F8 || choice->way == LT_WIDE;
    if (rows > KNOWN_ROWS_MAX && lt_choice_fits(t->lt, g->shape, choice, KNOWN_ROWS_MAX))
        rows = KNOWN_ROWS_MAX;
    for (uint32_t i = 0; i < g->n_right && rows == KNOWN_ROWS_MAX; i++)
        *out_is_right = *out_is_right || is_same_algo(&g->right[i], &choice->algo);
    if (*out_is_right || lt_candidates(t->lt, g->shape, rows, 1, both) == 0)
        return ST_OK;
    *out_is_right = is_same_algo(&both[0].algo, &choice->algo);
    if (*out_is_right)
        return ST_OK;
    a.n_rows = rows;
    enum status st = lt_f8_quant(t->lt, &a, rows);
    if (st == ST_OK)
        st = wrong_drop(t, g, rows, both, &n);
    *out_is_right = st == ST_OK && n == 2;
    if (*out_is_right && rows == KNOWN_ROWS_MAX && g->n_right < LT_CANDIDATES_MAX)
        g->right[g->n_right++] = choice->algo;
    return is_own_fault(st) ? ST_OK : st;
}

static enum status known_take(struct tuner *t, struct group *g, uint32_t bucket)
{
    const struct gemm_choice like = stored(g, bucket);
    const struct gemm_choice *c = gemm_choices_find(&t->known, &like);
    const uint32_t rows = rows_of_bucket(g, bucket);
    bool is_right = false;
    if (c == NULL || c->way >= LT_WAYS)
        return ST_OK;
    struct lt_choice choice = {
        .way = (enum lt_way)c->way, .origin = LT_MEASURED, .time_ns = c->time_ns};
    memcpy(&choice.algo, c->algo, sizeof(choice.algo));
    if (!lt_choice_fits(t->lt, g->shape, &choice, rows))
        return ST_OK;
    enum status st = known_check(t, g, rows, &choice, &is_right);
    if (st != ST_OK)
        return st;
    g->shape->choices[bucket] = choice;
    if (!is_right)
        return choice_forget(t, g, bucket, "it does not give what the library's own does");
    t->n_known++;
    return ST_OK;
}

/* What the file says, as far as the library still takes it. */
static enum status known_use(struct tuner *t)
{
    enum status st = ST_OK;
    for (uint32_t i = 0; i < t->n_groups; i++) {
        struct group *g = &t->groups[i];
        const uint32_t last = gemm_bucket(g->rows_max);
        for (uint32_t b = 0; b <= last && st == ST_OK; b++)
            st = known_take(t, g, b);
    }
    return st;
}

/* ---- all ---- */

static enum status bucket_run(struct tuner *t, struct group *g, uint32_t bucket)
{
    struct gemm_args a = *g->gemms[0];
    a.n_rows = rows_of_bucket(g, bucket);
    lt_choice_get(t->lt, g->shape, gemm_bucket_top(bucket));
    enum status st = cuda_lt_gemm(t->lt, &a);
    const uint32_t used = gemm_bucket(a.n_rows); /* a lower one, if it has no rows of its own */
    if (!is_own_fault(st) || g->shape->choices[used].origin != LT_MEASURED)
        return st;
    st = choice_forget(t, g, used, "it fails");
    return st == ST_OK ? cuda_lt_gemm(t->lt, &a) : st;
}

/* Each choice once: none is sought, and no kernel loaded, when requests wait. */
static enum status all_run(struct tuner *t)
{
    enum status st = ST_OK;
    for (uint32_t i = 0; i < t->n_groups; i++) {
        struct group *g = &t->groups[i];
        const uint32_t first = g->shape->key.w_dtype == OPS_F32 ? 1 : ROWS_MEASURED + 1;
        for (uint32_t b = gemm_bucket(first); b <= gemm_bucket(g->rows_max) && st == ST_OK; b++)
            if (is_used(g, b))
                st = bucket_run(t, g, b);
    }
    return st == ST_OK ? cuda_status(cudaStreamSynchronize(t->lt->stream), "measure") : st;
}

/* ---- the file ---- */

/* The driver's own number is in a file of the kernel's; where it cannot be read, CUDA's has to do.
 */
static void driver_name(char *out, size_t bytes)
{
    char line[256], *word = NULL, *rest = NULL;
    int version = 0;
    cudaDriverGetVersion(&version);
    snprintf(out, bytes, "%d", version);
    FILE *f = fopen("/proc/driver/nvidia/version", "r");
    if (f == NULL)
        return;
    if (fgets(line, sizeof(line), f) != NULL)
        for (word = strtok_r(line, " \t\n", &rest); word != NULL;
             word = strtok_r(NULL, " \t\n", &rest))
            if (word[0] >= '0' && word[0] <= '9' && strchr(word, '.') != NULL) {
                snprintf(out, bytes, "%d %.24s", version, word);
                break;
            }
    fclose(f);
}

static enum status machine_get(const struct cuda_lt *lt, struct gemm_machine *out)
{
    struct cudaDeviceProp prop;
    int ordinal = 0;
    enum status st = cuda_status(cudaGetDevice(&ordinal), "properties");
    if (st == ST_OK)
        st = cuda_status(cudaGetDeviceProperties(&prop, ordinal), "properties");
    if (st != ST_OK)
        return st;
    snprintf(out->gpu, sizeof(out->gpu), "%.48s, %d.%d, %d multiprocessors", prop.name, prop.major,
             prop.minor, prop.multiProcessorCount);
    driver_name(out->driver, sizeof(out->driver));
    out->library = (uint32_t)lt->cublasLtGetVersion();
    out->settings = LT_SETTINGS_VERSION;
    return ST_OK;
}

static void file_read_in(struct tuner *t, const char *dir)
{
    char why[FILE_PATH_BYTES + 128] = "";
    const struct text_error err = {why, sizeof(why)};
    enum status st = gemm_cache_path(dir, &t->machine, t->path, err);
    if (st != ST_OK) {
        log_warn("GPU matrix products are measured at every start", LOG_STR("why", why));
        t->path[0] = '\0';
        return;
    }
    st = gemm_cache_load(t->path, &t->machine, &t->known, err);
    if (st != ST_OK && st != ST_NOT_FOUND)
        log_warn("measured GPU matrix products cannot be used and are measured again",
                 LOG_STR("file", t->path), LOG_STR("why", why));
}

/* Whether another worker still has what this one has forgotten. */
static bool is_forgotten(const struct tuner *t, const struct gemm_choice *c)
{
    const struct gemm_choice *gone = gemm_choices_find(&t->forgotten, c);
    return gone != NULL && gone->way == c->way &&
           memcmp(gone->algo, c->algo, sizeof(gone->algo)) == 0;
}

/* Puts what another worker has written meanwhile ahead of the own choices: when there are too many,
 * those go first. */
static enum status others_add(struct tuner *t)
{
    struct gemm_choices others = {0}, all = {0};
    enum status st = ST_OK;
    gemm_cache_load(t->path, &t->machine, &others, (struct text_error){NULL, 0});
    for (uint32_t i = 0; i < others.n && st == ST_OK; i++)
        if (!is_forgotten(t, &others.items[i]))
            st = gemm_choices_set(&all, &others.items[i]);
    for (uint32_t i = 0; i < t->known.n && st == ST_OK; i++)
        st = gemm_choices_set(&all, &t->known.items[i]);
    gemm_choices_deinit(&others);
    gemm_choices_deinit(st == ST_OK ? &t->known : &all);
    if (st == ST_OK)
        t->known = all;
    return st;
}

static void file_write_out(struct tuner *t)
{
    char why[FILE_PATH_BYTES + 128] = "";
    const struct text_error err = {why, sizeof(why)};
    if (t->path[0] == '\0')
        return;
    enum status st = others_add(t);
    if (st != ST_OK)
        text_error_write(err, "%s", status_text(st));
    else
        st = gemm_cache_store(t->path, &t->machine, &t->known, err);
    if (st != ST_OK)
        log_warn("measured GPU matrix products cannot be kept", LOG_STR("why", why));
}

static enum status tune(struct tuner *t, const char *cache_dir)
{
    enum status st = cuda_status(cudaEventCreate(&t->from), "event");
    if (st == ST_OK)
        st = cuda_status(cudaEventCreate(&t->to), "event");
    if (st == ST_OK)
        st = machine_get(t->lt, &t->machine);
    if (st != ST_OK)
        return st;
    file_read_in(t, cache_dir);
    st = known_use(t);
    return st == ST_OK ? measure_all(t) : st;
}

enum status cuda_lt_prepare(struct cuda_lt *lt, const struct gemm_args *gemms, uint32_t n_gemms,
                            const char *cache_dir, uint64_t budget_ns)
{
    static_assert(sizeof(cublasLtMatmulAlgo_t) == GEMM_ALGO_WORDS * sizeof(uint64_t),
                  "a choice holds an algorithm");
    const uint64_t start_ns = time_monotonic_ns();
    struct tuner *t = n_gemms > 0 ? calloc(1, sizeof(*t)) : NULL;
    if (t == NULL)
        return n_gemms > 0 ? ST_NO_MEMORY : ST_OK;
    t->lt = lt;
    t->deadline_ns = start_ns + budget_ns;
    enum status st = groups_make(t, gemms, n_gemms);
    if (st == ST_OK)
        st = f8_reserve(t);
    if (st == ST_OK)
        st = inputs_fill(t);
    if (st == ST_OK && cache_dir != NULL && cache_dir[0] != '\0')
        st = tune(t, cache_dir);
    if (st == ST_OK)
        st = all_run(t);
    if (st == ST_OK && t->n_measured + t->n_forgotten > 0)
        file_write_out(t);
    if (st == ST_OK)
        log_info("GPU matrix products chosen", LOG_U64("remembered", t->n_known),
                 LOG_U64("measured", t->n_measured), LOG_U64("forgotten", t->n_forgotten),
                 LOG_U64("left_for_later", t->n_left),
                 LOG_U64("ms", (time_monotonic_ns() - start_ns) / NS_PER_MS));
    if (t->from != NULL)
        cudaEventDestroy(t->from);
    if (t->to != NULL)
        cudaEventDestroy(t->to);
    gemm_choices_deinit(&t->known);
    gemm_choices_deinit(&t->forgotten);
    free(t->gemms);
    free(t);
    return st;
}
