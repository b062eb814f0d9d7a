/* A series is allocated when it is first counted and never freed; after that, counting is a few
 * atomic operations. Slots fill in order: an empty slot ends the search. */
#include "observe/metrics.h"

#include "base/json.h"
#include "observe/log.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LABELS_MAX = 64, SLOT_OTHER = LABELS_MAX, N_SLOTS, LABEL_BYTES_MAX = 128 };

enum metric_kind { KIND_COUNTER, KIND_GAUGE, KIND_HISTOGRAM };

struct bucket_set {
    const double *bounds;
    uint32_t n_bounds;
};

static const double latency_bounds[] = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1,
                                        0.25,  0.5,   0.75, 1,    2.5,  5,    7.5,  10,
                                        20,    40,    80,   160,  640,  2560};
static const double tokens_bounds[] = {1,     2,     5,     10,     20,     50,
                                       100,   200,   500,   1000,   2000,   5000,
                                       10000, 20000, 50000, 100000, 200000, 500000};

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))
enum { BUCKETS_LATENCY, BUCKETS_TOKENS };
static const struct bucket_set bucket_sets[] = {
    [BUCKETS_LATENCY] = {latency_bounds, COUNT_OF(latency_bounds)},
    [BUCKETS_TOKENS] = {tokens_bounds, COUNT_OF(tokens_bounds)},
};

struct metric_row {
    const char *name, *help, *label;
    enum metric_kind kind;
    const struct bucket_set *buckets;
};

static const struct metric_row rows[M_COUNT] = {
#define METRIC_COUNTER(name, help, label) [M_##name] = {#name, help, label, KIND_COUNTER, NULL},
#define METRIC_GAUGE(name, help, label)   [M_##name] = {#name, help, label, KIND_GAUGE, NULL},
#define METRIC_HISTOGRAM(name, help, label, buckets)                                               \
    [M_##name] = {#name, help, label, KIND_HISTOGRAM, &bucket_sets[BUCKETS_##buckets]},
#include "observe/metrics.def"
#undef METRIC_COUNTER
#undef METRIC_GAUGE
#undef METRIC_HISTOGRAM
};

struct series {
    _Atomic uint64_t value_bits; /* double: the value, or a histogram's sum */
    _Atomic uint64_t count;      /* histograms: observations */
    _Atomic uint64_t *buckets;   /* histograms: [n_bounds + 1], not cumulative */
    char label[];
};

static _Atomic(struct series *) table[M_COUNT][N_SLOTS];

static double bits_to_double(uint64_t bits)
{
    double value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

static uint64_t double_to_bits(double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

static void value_add(_Atomic uint64_t *bits, double delta)
{
    uint64_t old = atomic_load_explicit(bits, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(bits, &old,
                                                  double_to_bits(bits_to_double(old) + delta),
                                                  memory_order_relaxed, memory_order_relaxed))
        continue;
}

/* --- Series --- */

static struct series *series_create(const struct metric_row *row, const char *label)
{
    size_t label_bytes = strlen(label) + 1;
    size_t n_buckets = row->buckets != NULL ? row->buckets->n_bounds + 1 : 0;
    size_t head_bytes = (sizeof(struct series) + label_bytes + 7) / 8 * 8;
    struct series *series = calloc(1, head_bytes + n_buckets * sizeof(series->buckets[0]));
    if (series == NULL)
        return NULL;
    memcpy(series->label, label, label_bytes);
    if (n_buckets > 0)
        series->buckets = (_Atomic uint64_t *)((char *)series + head_bytes);
    return series;
}

/* The series in `slot`, made when the slot is empty. NULL: no memory. Another thread may fill the
 * slot first, with another label: the caller compares. */
static struct series *slot_take(enum metric_id id, uint32_t slot, const char *label)
{
    struct series *series = atomic_load_explicit(&table[id][slot], memory_order_acquire);
    if (series != NULL)
        return series;
    struct series *fresh = series_create(&rows[id], label);
    if (fresh == NULL)
        return NULL;
    if (atomic_compare_exchange_strong_explicit(&table[id][slot], &series, fresh,
                                                memory_order_acq_rel, memory_order_acquire))
        return fresh;
    free(fresh);
    return series;
}

static bool label_is_usable(const char *label)
{
    size_t bytes = strnlen(label, LABEL_BYTES_MAX + 1);
    return bytes <= LABEL_BYTES_MAX && utf8_valid_prefix((const uint8_t *)label, bytes) == bytes;
}

/* NULL: unknown metric or no memory; the count is lost. */
static struct series *series_get(enum metric_id id, const char *label)
{
    if ((unsigned)id >= M_COUNT)
        return NULL;
    if (rows[id].label == NULL)
        return slot_take(id, 0, "");
    if (label == NULL)
        label = "";
    if (!label_is_usable(label))
        return slot_take(id, SLOT_OTHER, "other");
    for (uint32_t slot = 0; slot < LABELS_MAX; slot++) {
        struct series *series = slot_take(id, slot, label);
        if (series == NULL || strcmp(series->label, label) == 0)
            return series;
    }
    return slot_take(id, SLOT_OTHER, "other");
}

/* As series_get, but makes nothing. */
static const struct series *series_find(enum metric_id id, const char *label)
{
    if ((unsigned)id >= M_COUNT)
        return NULL;
    if (rows[id].label == NULL || label == NULL)
        label = "";
    for (uint32_t slot = 0; slot < N_SLOTS; slot++) {
        const struct series *series = atomic_load_explicit(&table[id][slot], memory_order_acquire);
        if (series != NULL && strcmp(series->label, label) == 0)
            return series;
    }
    return NULL;
}

void metric_add(enum metric_id id, const char *label, double delta)
{
    struct series *series = series_get(id, label);
    if (series != NULL)
        value_add(&series->value_bits, delta);
}

void metric_set(enum metric_id id, const char *label, double value)
{
    struct series *series = series_get(id, label);
    if (series != NULL)
        atomic_store_explicit(&series->value_bits, double_to_bits(value), memory_order_relaxed);
}

void metric_observe(enum metric_id id, const char *label, double value)
{
    struct series *series = series_get(id, label);
    if (series == NULL || series->buckets == NULL || isnan(value))
        return;
    const struct bucket_set *set = rows[id].buckets;
    uint32_t i = 0;
    while (i < set->n_bounds && value > set->bounds[i])
        i++;
    atomic_fetch_add_explicit(&series->buckets[i], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&series->count, 1, memory_order_relaxed);
    value_add(&series->value_bits, value);
}

double metric_value(enum metric_id id, const char *label)
{
    const struct series *series = series_find(id, label);
    if (series == NULL)
        return 0;
    if (series->buckets != NULL)
        return (double)atomic_load_explicit(&series->count, memory_order_relaxed);
    return bits_to_double(atomic_load_explicit(&series->value_bits, memory_order_relaxed));
}

/* --- Text format 0.0.4 --- */

static enum status number_render(struct buf *out, double value)
{
    if (isnan(value))
        return buf_append_str(out, "NaN");
    if (isinf(value))
        return buf_append_str(out, value > 0 ? "+Inf" : "-Inf");
    char text[40];
    snprintf(text, sizeof(text), "%.15g", value);
    if (strtod(text, NULL) != value)
        snprintf(text, sizeof(text), "%.17g", value);
    return buf_append_str(out, text);
}

static enum status label_value_render(struct buf *out, const char *value)
{
    enum status st = ST_OK;
    for (; *value != '\0' && st == ST_OK; value++) {
        if (*value == '\\' || *value == '"')
            st = buf_printf(out, "\\%c", *value);
        else if (*value == '\n')
            st = buf_append_str(out, "\\n");
        else
            st = buf_append(out, value, 1);
    }
    return st;
}

/* `le`: a histogram bucket's bound, or NULL. */
static enum status sample_render(struct buf *out, const struct metric_row *row, const char *suffix,
                                 const char *label, const char *le, double value)
{
    enum status st = buf_printf(out, "dynd_%s%s", row->name, suffix);
    bool has_label = row->label != NULL;
    if (st == ST_OK && (has_label || le != NULL))
        st = buf_append_str(out, "{");
    if (st == ST_OK && has_label)
        st = buf_printf(out, "%s=\"", row->label);
    if (st == ST_OK && has_label)
        st = label_value_render(out, label);
    if (st == ST_OK && has_label)
        st = buf_append_str(out, le != NULL ? "\"," : "\"");
    if (st == ST_OK && le != NULL)
        st = buf_printf(out, "le=\"%s\"", le);
    if (st == ST_OK && (has_label || le != NULL))
        st = buf_append_str(out, "}");
    if (st == ST_OK)
        st = buf_append_str(out, " ");
    if (st == ST_OK)
        st = number_render(out, value);
    if (st == ST_OK)
        st = buf_append_str(out, "\n");
    return st;
}

/* The buckets are read one by one while others count; their own sum is the count shown, so that the
 * "+Inf" bucket and the count always agree. */
static enum status histogram_render(struct buf *out, const struct metric_row *row,
                                    const struct series *series)
{
    uint64_t cumulative = 0;
    enum status st = ST_OK;
    for (uint32_t i = 0; i <= row->buckets->n_bounds && st == ST_OK; i++) {
        char le[32];
        if (i < row->buckets->n_bounds)
            snprintf(le, sizeof(le), "%.15g", row->buckets->bounds[i]);
        else
            snprintf(le, sizeof(le), "+Inf");
        cumulative += atomic_load_explicit(&series->buckets[i], memory_order_relaxed);
        st = sample_render(out, row, "_bucket", series->label, le, (double)cumulative);
    }
    double sum = bits_to_double(atomic_load_explicit(&series->value_bits, memory_order_relaxed));
    if (st == ST_OK)
        st = sample_render(out, row, "_sum", series->label, NULL, sum);
    if (st == ST_OK)
        st = sample_render(out, row, "_count", series->label, NULL, (double)cumulative);
    return st;
}

static enum status series_render(struct buf *out, const struct metric_row *row,
                                 const struct series *series)
{
    if (row->kind == KIND_HISTOGRAM)
        return histogram_render(out, row, series);
    double value = bits_to_double(atomic_load_explicit(&series->value_bits, memory_order_relaxed));
    return sample_render(out, row, "", series->label, NULL, value);
}

static enum status metric_render(struct buf *out, enum metric_id id)
{
    static const char *const kinds[] = {"counter", "gauge", "histogram"};
    const struct metric_row *row = &rows[id];
    if (row->label == NULL)
        series_get(id, NULL); /* a metric without label shows its zero from the start */
    bool is_described = false;
    enum status st = ST_OK;
    for (uint32_t slot = 0; slot < N_SLOTS && st == ST_OK; slot++) {
        const struct series *series = atomic_load_explicit(&table[id][slot], memory_order_acquire);
        if (series == NULL)
            continue;
        if (!is_described) {
            st = buf_printf(out, "# HELP dynd_%s %s\n# TYPE dynd_%s %s\n", row->name, row->help,
                            row->name, kinds[row->kind]);
            is_described = true;
        }
        if (st == ST_OK)
            st = series_render(out, row, series);
    }
    return st;
}

enum status metrics_render(struct buf *out)
{
    size_t len_before = out->len;
    metric_set(M_log_lines_dropped_total, NULL, (double)log_dropped_count());
    enum status st = ST_OK;
    for (uint32_t id = 0; id < M_COUNT && st == ST_OK; id++)
        st = metric_render(out, (enum metric_id)id);
    if (st != ST_OK)
        out->len = len_before;
    return st;
}
