/* argmax and sample: one row at a time, split over rows.
 *
 * sample avoids sorting the vocabulary. With x = (logit - best) / temperature <= 0, it counts
 * tokens and probability mass in bins of x, finds the bin below which nothing can matter, collects
 * the tokens above, sorts those by (logit descending, id ascending), and walks them. */
#include <math.h>

#include "kernels/cpu/cpu_int.h"

#define N_BINS        1024u
#define BINS_PER_UNIT 8.0f /* of x; the last bin takes everything from x = -128 down */
#define CHUNK         64u
/* Below this temperature the draw is greedy: 1 / t would overflow on the way. */
#define TEMPERATURE_MIN 1e-5f
/* Mass from bins and mass from the sorted walk round differently: collect a little more. */
#define MASS_SLACK 1.000001

struct candidate {
    uint32_t key; /* descending logit as ascending bits */
    uint32_t id;
};

struct sampler {
    const struct cpu_kernels *kernels;
    const struct sample_row *row;
    float *logits;                  /* [n_vocab] own copy; banned and NaN are -inf */
    float *weight;                  /* [n_vocab] exp(x), then that of the sorted candidates */
    struct candidate *cand, *spare; /* [n_vocab] each */
    uint32_t n_vocab;
    float best, inverse_t;
    double mass_total;
    uint32_t bin_count[N_BINS];
    double bin_mass[N_BINS];
};

static uint32_t row_argmax(const float *logits, uint32_t n_vocab)
{
    float best = -INFINITY;
    uint32_t id = OPS_NO_TOKEN;
    for (uint32_t i = 0; i < n_vocab; i++) {
        if (logits[i] > best) {
            best = logits[i];
            id = i;
        }
    }
    return id;
}

void cpu_argmax(const struct argmax_args *args, const struct cpu_share *share)
{
    uint64_t first, end;
    cpu_share_range(share, args->n_rows, &first, &end);
    for (uint64_t r = first; r < end; r++)
        args->out_ids[r] = row_argmax(args->logits + r * args->logits_stride, args->n_vocab);
}

static size_t align64(size_t bytes)
{
    return (bytes + 63) & ~(size_t)63;
}

size_t cpu_sample_scratch_bytes(uint32_t n_vocab)
{
    return align64(sizeof(struct sampler)) + 2 * align64((size_t)n_vocab * sizeof(float)) +
           2 * align64((size_t)n_vocab * sizeof(struct candidate));
}

static struct sampler *sampler_place(const struct cpu_share *share, uint32_t n_vocab)
{
    char *at = (char *)share->scratch;
    struct sampler *s = (struct sampler *)at;
    at += align64(sizeof(*s));
    s->logits = (float *)at;
    at += align64((size_t)n_vocab * sizeof(float));
    s->weight = (float *)at;
    at += align64((size_t)n_vocab * sizeof(float));
    s->cand = (struct candidate *)at;
    at += align64((size_t)n_vocab * sizeof(struct candidate));
    s->spare = (struct candidate *)at;
    s->kernels = cpu_kernels_get(share->isa);
    s->n_vocab = n_vocab;
    return s;
}

static void copy_logits(struct sampler *s, const float *logits)
{
    for (uint32_t i = 0; i < s->n_vocab; i++)
        s->logits[i] = logits[i] > -INFINITY ? logits[i] : -INFINITY; /* NaN too */
    for (uint32_t i = 0; i < s->row->n_banned; i++)
        if (s->row->banned[i] < s->n_vocab)
            s->logits[s->row->banned[i]] = -INFINITY;
}

/* x, clamped so that it can be cast; bins grow as logits fall. */
static uint32_t bin_of(float x)
{
    float bin = -x * BINS_PER_UNIT;
    return bin < (float)(N_BINS - 1) ? (uint32_t)bin : N_BINS - 1;
}

static void fill_bins(struct sampler *s)
{
    memset(s->bin_count, 0, sizeof(s->bin_count));
    memset(s->bin_mass, 0, sizeof(s->bin_mass));
    for (uint32_t at = 0; at < s->n_vocab; at += CHUNK) {
        uint32_t n = s->n_vocab - at < CHUNK ? s->n_vocab - at : CHUNK;
        float x[CHUNK];
        for (uint32_t i = 0; i < n; i++)
            x[i] = (s->logits[at + i] - s->best) * s->inverse_t;
        s->kernels->exp(x, s->weight + at, n);
        for (uint32_t i = 0; i < n; i++) {
            if (s->logits[at + i] == -INFINITY)
                continue;
            uint32_t bin = bin_of(x[i]);
            s->bin_count[bin]++;
            s->bin_mass[bin] += (double)s->weight[at + i];
        }
    }
    s->mass_total = 0.0;
    for (uint32_t i = 0; i < N_BINS; i++)
        s->mass_total += s->bin_mass[i];
}

/* First bin by which n tokens are counted. */
static uint32_t bin_of_count(const struct sampler *s, uint32_t n)
{
    uint32_t seen = 0;
    for (uint32_t i = 0; i < N_BINS; i++) {
        seen += s->bin_count[i];
        if (seen >= n)
            return i;
    }
    return N_BINS - 1;
}

static uint32_t bin_of_mass(const struct sampler *s, double mass)
{
    double seen = 0.0;
    for (uint32_t i = 0; i < N_BINS; i++) {
        seen += s->bin_mass[i];
        if (seen > mass * MASS_SLACK)
            return i;
    }
    return N_BINS - 1;
}

static bool has_top_p(const struct sample_row *row)
{
    return row->top_p > 0.0f && row->top_p < 1.0f;
}

/* Last bin that any kept token can be in. */
static uint32_t bin_last(const struct sampler *s)
{
    const struct sample_row *row = s->row;
    uint32_t last = N_BINS - 1;
    if (row->top_k > 0)
        last = bin_of_count(s, row->top_k);
    if (row->top_k > 0 && has_top_p(row))
        return last; /* top-p needs the mass of all that top-k left */
    if (has_top_p(row))
        last = bin_of_mass(s, (double)row->top_p * s->mass_total);
    if (row->min_p > 0.0f) {
        float limit = row->min_p < 1.0f ? -logf(row->min_p) : 0.0f;
        uint32_t bin = bin_of(-limit) + 1; /* one more, for logf and exp round differently */
        last = bin < last ? bin : last;
    } else if (row->top_k == 0 && !has_top_p(row)) {
        last = bin_of_mass(s, (double)row->uniform * s->mass_total);
    }
    return last;
}

/* Least significant digit first, so ids stay ascending among equal keys. */
static void sort_candidates(struct sampler *s, uint32_t n)
{
    for (uint32_t shift = 0; shift < 32; shift += 8) {
        uint32_t start[257] = {0};
        for (uint32_t i = 0; i < n; i++)
            start[((s->cand[i].key >> shift) & 255u) + 1]++;
        for (uint32_t d = 0; d < 256; d++)
            start[d + 1] += start[d];
        for (uint32_t i = 0; i < n; i++)
            s->spare[start[(s->cand[i].key >> shift) & 255u]++] = s->cand[i];
        struct candidate *swap = s->cand;
        s->cand = s->spare;
        s->spare = swap;
    }
}

/* Ascending in the result = descending in f; -0 equals 0. */
static uint32_t descending_key(float f)
{
    uint32_t u = f32_bits(f + 0.0f);
    uint32_t ascending = (u & 0x80000000u) != 0 ? ~u : u | 0x80000000u;
    return ~ascending;
}

/* Collects and sorts the tokens up to bin `last`; fills weight[] of them. */
static uint32_t collect(struct sampler *s, uint32_t last)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n_vocab; i++) {
        if (s->logits[i] == -INFINITY || bin_of((s->logits[i] - s->best) * s->inverse_t) > last)
            continue;
        s->cand[n++] = (struct candidate){.key = descending_key(s->logits[i]), .id = i};
    }
    sort_candidates(s, n);
    for (uint32_t i = 0; i < n; i++)
        s->weight[i] = (s->logits[s->cand[i].id] - s->best) * s->inverse_t;
    s->kernels->exp(s->weight, s->weight, n);
    return n;
}

static double mass_of(const struct sampler *s, uint32_t n)
{
    double mass = 0.0;
    for (uint32_t i = 0; i < n; i++)
        mass += (double)s->weight[i];
    return mass;
}

/* How many of the n sorted candidates top-k, top-p and min-p keep; at least one. */
static uint32_t keep_count(const struct sampler *s, uint32_t n)
{
    const struct sample_row *row = s->row;
    if (row->top_k > 0 && row->top_k < n)
        n = row->top_k;
    if (has_top_p(row)) {
        double limit = (double)row->top_p * (row->top_k > 0 ? mass_of(s, n) : s->mass_total);
        double seen = 0.0;
        for (uint32_t i = 0; i < n; i++) {
            seen += (double)s->weight[i];
            if (seen >= limit) {
                n = i + 1;
                break;
            }
        }
    }
    if (row->min_p > 0.0f)
        while (n > 1 && s->weight[n - 1] < row->min_p)
            n--;
    return n;
}

static uint32_t draw(struct sampler *s)
{
    const struct sample_row *row = s->row;
    uint32_t n = collect(s, bin_last(s));
    bool is_filtered = row->top_k > 0 || has_top_p(row) || row->min_p > 0.0f;
    n = keep_count(s, n);
    double target = (double)row->uniform * (is_filtered ? mass_of(s, n) : s->mass_total);
    double seen = 0.0;
    for (uint32_t i = 0; i < n; i++) {
        seen += (double)s->weight[i];
        if (seen > target)
            return s->cand[i].id;
    }
    return s->cand[n - 1].id;
}

static uint32_t sample_one(struct sampler *s, const float *logits)
{
    bool is_greedy = !(s->row->temperature >= TEMPERATURE_MIN);
    if (is_greedy && s->row->n_banned == 0)
        return row_argmax(logits, s->n_vocab);
    copy_logits(s, logits);
    uint32_t best = row_argmax(s->logits, s->n_vocab);
    if (is_greedy || best == OPS_NO_TOKEN || s->logits[best] == INFINITY)
        return best;
    s->best = s->logits[best];
    s->inverse_t = 1.0f / s->row->temperature;
    fill_bins(s);
    return draw(s);
}

void cpu_sample(const struct sample_args *args, const struct cpu_share *share)
{
    uint64_t first, end;
    struct sampler *s = sampler_place(share, args->n_vocab);
    cpu_share_range(share, args->n_rows, &first, &end);
    for (uint64_t r = first; r < end; r++) {
        s->row = &args->rows[r];
        args->out_ids[r] = sample_one(s, args->logits + r * args->logits_stride);
    }
}
