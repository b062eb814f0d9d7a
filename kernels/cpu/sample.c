/* argmax and sample: one row at a time, split over rows.
 *
 * sample avoids sorting the vocabulary. It counts tokens and mass in bins of x; struct sample_row
 * in kernels/ops.h defines x, weight and mass. Whatever it needs next, the end of top-k's or of
 * top-p's prefix or the token drawn, is the end of a prefix of the ordered candidates: the bins say
 * in which bin that lies, and only the tokens of that bin are collected, sorted and walked. */
#include <math.h>

#include "kernels/cpu/cpu_int.h"

#define N_BINS        1024u
#define BINS_PER_UNIT 36.0f /* of x: 28 units, below which no token has weight */
#define BIN_NONE      UINT16_MAX
#define CHUNK         64u
/* While the prefix up to a bin is no longer than this, all of it is collected: the next prefix
 * sought is shorter and lies in it. */
#define COLLECT_ALL 512u

#define WEIGHT_ONE ((uint64_t)1 << OPS_WEIGHT_BITS)

struct candidate {
    uint32_t key; /* descending logit as ascending bits */
    uint32_t id;
};

/* A prefix of the candidates: how many tokens of which mass. */
struct prefix {
    uint64_t n, mass;
};

struct sampler {
    const struct cpu_kernels *kernels;
    const struct sample_row *row;
    float *logits;                  /* [n_vocab] own copy; banned and NaN are -inf */
    uint16_t *bin;                  /* [n_vocab] BIN_NONE for weight 0 */
    struct candidate *cand, *spare; /* [n_vocab] each */
    uint32_t n_vocab;
    float best, inverse_t;
    uint32_t first, end; /* bins whose tokens are in cand, sorted */
    uint32_t n_cand;
    struct prefix before; /* of bin `first` */
    uint32_t bin_count[N_BINS];
    uint64_t bin_mass[N_BINS];
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
    return align64(sizeof(struct sampler)) + align64((size_t)n_vocab * sizeof(float)) +
           align64((size_t)n_vocab * sizeof(uint16_t)) +
           2 * align64((size_t)n_vocab * sizeof(struct candidate));
}

static struct sampler *sampler_place(const struct cpu_share *share, uint32_t n_vocab)
{
    char *at = (char *)share->scratch;
    struct sampler *s = (struct sampler *)at;
    at += align64(sizeof(*s));
    s->logits = (float *)at;
    at += align64((size_t)n_vocab * sizeof(float));
    s->bin = (uint16_t *)at;
    at += align64((size_t)n_vocab * sizeof(uint16_t));
    s->cand = (struct candidate *)at;
    at += align64((size_t)n_vocab * sizeof(struct candidate));
    s->spare = (struct candidate *)at;
    s->kernels = cpu_kernels_get(share->isa);
    s->n_vocab = n_vocab;
    return s;
}

/* Penalties and bias, in the order of struct sample_row. */
static float penalised(const struct sample_row *row, float logit, uint32_t seen, float bias)
{
    uint32_t n_output = seen & ~OPS_IN_PROMPT;
    if (seen > 0 && row->repetition > 0.0f)
        logit = logit > 0.0f ? logit / row->repetition : logit * row->repetition;
    if (n_output > 0) {
        logit = logit - row->frequency * (float)n_output;
        logit = logit - row->presence;
    }
    return logit + bias;
}

static void apply_tokens(struct sampler *s)
{
    const struct sample_row *row = s->row;
    uint32_t newest = row->newest != NULL ? *row->newest : OPS_NO_TOKEN;
    for (uint32_t i = 0; i < row->n_tokens; i++) {
        const struct sample_token *token = &row->tokens[i];
        bool is_newest = token->id == newest;
        if (is_newest)
            newest = OPS_NO_TOKEN;
        if (token->id < s->n_vocab)
            s->logits[token->id] =
                penalised(row, s->logits[token->id], token->seen + is_newest, token->bias);
    }
    if (newest < s->n_vocab)
        s->logits[newest] = penalised(row, s->logits[newest], 1, 0.0f);
}

static void copy_logits(struct sampler *s, const float *logits)
{
    const struct sample_row *row = s->row;
    memcpy(s->logits, logits, s->n_vocab * sizeof(float));
    apply_tokens(s);
    for (uint32_t i = 0; i < s->n_vocab; i++)
        if (!(s->logits[i] > -INFINITY)) /* NaN */
            s->logits[i] = -INFINITY;
    for (uint32_t i = 0; row->allowed != NULL && i < s->n_vocab; i++)
        if ((row->allowed[i / 32] >> (i % 32) & 1u) == 0)
            s->logits[i] = -INFINITY;
    for (uint32_t i = 0; i < row->n_banned; i++)
        if (row->banned[i] < s->n_vocab)
            s->logits[row->banned[i]] = -INFINITY;
}

/* exp(x) as a weight; below 2^63, so the signed conversion, one instruction, will do. */
static uint64_t weight_of(float exp_x)
{
    return exp_x > 0.0f ? (uint64_t)(int64_t)(exp_x * (float)WEIGHT_ONE) : 0;
}

/* n <= CHUNK logits from `at` on: x and exp(x). */
static void exp_chunk(const struct sampler *s, const float *logits, uint32_t n, float *x, float *e)
{
    for (uint32_t i = 0; i < n; i++)
        x[i] = (logits[i] - s->best) * s->inverse_t;
    s->kernels->exp(x, e, n);
}

static void fill_bins(struct sampler *s)
{
    memset(s->bin_count, 0, sizeof(s->bin_count));
    memset(s->bin_mass, 0, sizeof(s->bin_mass));
    for (uint32_t at = 0; at < s->n_vocab; at += CHUNK) {
        uint32_t n = s->n_vocab - at < CHUNK ? s->n_vocab - at : CHUNK;
        float x[CHUNK], e[CHUNK];
        exp_chunk(s, s->logits + at, n, x, e);
        for (uint32_t i = 0; i < n; i++) {
            uint64_t weight = weight_of(e[i]);
            if (weight == 0) {
                s->bin[at + i] = BIN_NONE;
                continue;
            }
            uint32_t bin = (uint32_t)(int32_t)(x[i] * -BINS_PER_UNIT);
            s->bin[at + i] = (uint16_t)bin;
            s->bin_count[bin]++;
            s->bin_mass[bin] += weight;
        }
    }
}

static bool prefix_reaches(struct prefix p, uint64_t n, uint64_t mass)
{
    return p.n >= n || p.mass >= mass;
}

/* Least significant digit first, so ids stay ascending among equal keys. */
static void sort_candidates(struct sampler *s)
{
    for (uint32_t shift = 0; shift < 32; shift += 8) {
        uint32_t start[257] = {0};
        for (uint32_t i = 0; i < s->n_cand; i++)
            start[((s->cand[i].key >> shift) & 255u) + 1]++;
        for (uint32_t d = 0; d < 256; d++)
            start[d + 1] += start[d];
        for (uint32_t i = 0; i < s->n_cand; i++)
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

/* Collects and sorts the tokens of bins [first, end). */
static void collect(struct sampler *s, uint32_t first, uint32_t end, struct prefix before)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n_vocab; i++) {
        if ((uint32_t)s->bin[i] - first >= end - first)
            continue;
        s->cand[n++] = (struct candidate){.key = descending_key(s->logits[i]), .id = i};
    }
    s->n_cand = n;
    s->first = first;
    s->end = end;
    s->before = before;
    sort_candidates(s);
}

/* Weights of the candidates from `at` on, CHUNK at most; returns how many. */
static uint32_t weights_of(const struct sampler *s, uint32_t at, uint64_t weights[CHUNK])
{
    uint32_t n = s->n_cand - at < CHUNK ? s->n_cand - at : CHUNK;
    float logits[CHUNK], x[CHUNK] = {0}, e[CHUNK];
    for (uint32_t i = 0; i < n; i++)
        logits[i] = s->logits[s->cand[at + i].id];
    exp_chunk(s, logits, n, x, e);
    for (uint32_t i = 0; i < n; i++)
        weights[i] = weight_of(e[i]);
    return n;
}

/* Walks the sorted candidates, which hold the end of the prefix sought. */
static struct prefix walk(const struct sampler *s, uint64_t n, uint64_t mass, uint32_t *out_id)
{
    struct prefix p = s->before;
    uint64_t weights[CHUNK];
    for (uint32_t at = 0; at < s->n_cand; at += CHUNK) {
        uint32_t n_chunk = weights_of(s, at, weights);
        for (uint32_t i = 0; i < n_chunk; i++) {
            p.n++;
            p.mass += weights[i];
            *out_id = s->cand[at + i].id;
            if (prefix_reaches(p, n, mass))
                return p;
        }
    }
    return p;
}

/* The shortest prefix of n tokens, or of at least `mass`; all candidates if there is none such.
 * *out_id is its last token. */
static struct prefix prefix_find(struct sampler *s, uint64_t n, uint64_t mass, uint32_t *out_id)
{
    struct prefix p = {0, 0}, before = p;
    uint32_t bin = 0, last = 0; /* last: no empty bin */
    for (; bin < N_BINS && !prefix_reaches(p, n, mass); bin++) {
        if (s->bin_count[bin] == 0)
            continue;
        before = p;
        last = bin;
        p.n += s->bin_count[bin];
        p.mass += s->bin_mass[bin];
    }
    if (last < s->first || last >= s->end) {
        if (p.n <= COLLECT_ALL)
            collect(s, 0, last + 1, (struct prefix){0, 0});
        else
            collect(s, last, last + 1, before);
    }
    return walk(s, n, mass, out_id);
}

/* Of bins [0, end). */
static struct prefix mass_of_bins(const struct sampler *s, uint32_t end)
{
    struct prefix p = {0, 0};
    for (uint32_t bin = 0; bin < end; bin++) {
        p.n += s->bin_count[bin];
        p.mass += s->bin_mass[bin];
    }
    return p;
}

/* Mass of the tokens that min-p keeps: of all bins surely above its limit, and token by token in
 * those around it. */
static uint64_t min_p_mass(struct sampler *s)
{
    float min_p = s->row->min_p < 2.0f ? s->row->min_p : 2.0f;
    float x = min_p < 1.0f ? logf(min_p) : 0.0f;
    float at = x * -BINS_PER_UNIT;
    uint32_t bin = at < (float)(N_BINS - 1) ? (uint32_t)at : N_BINS - 1;
    uint32_t first = bin > 0 ? bin - 1 : 0, end = bin + 2 < N_BINS ? bin + 2 : N_BINS;
    struct prefix before = mass_of_bins(s, first);
    collect(s, first, end, before);
    uint64_t mass = before.mass, limit = weight_of(min_p), weights[CHUNK];
    for (uint32_t i = 0; i < s->n_cand; i += CHUNK) {
        uint32_t n = weights_of(s, i, weights);
        for (uint32_t j = 0; j < n; j++)
            mass += weights[j] >= limit ? weights[j] : 0;
    }
    return mass > WEIGHT_ONE ? mass : WEIGHT_ONE;
}

static uint32_t draw(struct sampler *s)
{
    const struct sample_row *row = s->row;
    uint32_t id = OPS_NO_TOKEN;
    struct prefix all = mass_of_bins(s, N_BINS);
    uint64_t kept = all.mass;
    s->first = s->end = 0;
    if (row->top_k > 0 && row->top_k < all.n)
        kept = prefix_find(s, row->top_k, UINT64_MAX, &id).mass;
    if (row->top_p > 0.0f && row->top_p < 1.0f) {
        uint64_t limit = ops_sample_of(ops_sample_part(row->top_p), kept);
        kept = prefix_find(s, UINT64_MAX, limit > 0 ? limit : 1, &id).mass;
    }
    if (row->min_p > 0.0f) {
        uint64_t mass = min_p_mass(s);
        kept = mass < kept ? mass : kept;
    }
    prefix_find(s, UINT64_MAX, ops_sample_of(ops_sample_part(row->uniform), kept) + 1, &id);
    return id;
}

/* A row's log-probabilities are log_of(logit): the greatest logit and the logarithm of the sum of
 * exp(logit - best). */
struct log_scale {
    float best;
    double log_sum;
};

static double minus_best(float logit, float best)
{
    return logit == best ? 0.0 : (double)logit - best; /* best may be infinite */
}

static float log_of(float logit, const struct log_scale *scale)
{
    return (float)(minus_best(logit, scale->best) - scale->log_sum);
}

static struct log_scale log_scale_of(const float *logits, uint32_t n_vocab)
{
    uint32_t best = row_argmax(logits, n_vocab);
    struct log_scale scale = {best == OPS_NO_TOKEN ? -INFINITY : logits[best], 0.0};
    double sum = 0.0;
    for (uint32_t i = 0; i < n_vocab; i++)
        if (logits[i] > -INFINITY)
            sum += exp(minus_best(logits[i], scale.best));
    scale.log_sum = log(sum);
    return scale;
}

/* The n_top best tokens, by insertion: all but a few of the vocabulary end at the first test. */
static void fill_top(const float *logits, uint32_t n_vocab, uint32_t n_top,
                     const struct log_scale *scale, struct sample_logprobs *out)
{
    float best[OPS_TOP_LOGPROBS_MAX];
    for (uint32_t k = 0; k < n_top; k++) {
        best[k] = -INFINITY;
        out->ids[k] = OPS_NO_TOKEN;
    }
    for (uint32_t i = 0; n_top > 0 && i < n_vocab; i++) {
        if (!(logits[i] > best[n_top - 1]))
            continue;
        uint32_t k = n_top - 1;
        for (; k > 0 && logits[i] > best[k - 1]; k--) {
            best[k] = best[k - 1];
            out->ids[k] = out->ids[k - 1];
        }
        best[k] = logits[i];
        out->ids[k] = i;
    }
    for (uint32_t k = 0; k < n_top; k++)
        out->values[k] = out->ids[k] == OPS_NO_TOKEN ? -INFINITY : log_of(best[k], scale);
}

static void fill_logprobs(const float *logits, uint32_t n_vocab, const struct sample_row *row,
                          uint32_t id)
{
    struct log_scale scale = log_scale_of(logits, n_vocab);
    fill_top(logits, n_vocab, row->n_top, &scale, row->logprobs);
    row->logprobs->chosen = id == OPS_NO_TOKEN ? -INFINITY : log_of(logits[id], &scale);
}

static uint32_t sample_one(struct sampler *s, const float *logits)
{
    const struct sample_row *row = s->row;
    bool is_greedy = !(row->temperature >= OPS_TEMPERATURE_MIN);
    if (is_greedy && row->n_banned == 0 && row->n_tokens == 0 && row->newest == NULL &&
        row->allowed == NULL)
        return row_argmax(logits, s->n_vocab);
    copy_logits(s, logits);
    uint32_t best = row_argmax(s->logits, s->n_vocab);
    if (is_greedy || best == OPS_NO_TOKEN || s->logits[best] == INFINITY)
        return best;
    s->best = s->logits[best];
    s->inverse_t = 1.0f / row->temperature;
    fill_bins(s);
    return draw(s);
}

void cpu_sample(const struct sample_args *args, const struct cpu_share *share)
{
    uint64_t first, end;
    struct sampler *s = sampler_place(share, args->n_vocab);
    cpu_share_range(share, args->n_rows, &first, &end);
    for (uint64_t r = first; r < end; r++) {
        const float *logits = args->logits + r * args->logits_stride;
        s->row = &args->rows[r];
        args->out_ids[r] = sample_one(s, logits);
        if (s->row->logprobs != NULL)
            fill_logprobs(logits, s->n_vocab, s->row, args->out_ids[r]);
    }
}
