/* sample and argmax against two references that sort the whole vocabulary.
 * One follows the integers of struct sample_row: every draw must be its. The other computes in
 * float64, to show that those integers are softmax sampling: where its decision is closer than 1e-5
 * of the mass to a boundary, weights may decide otherwise: such draws are skipped, and counted to
 * be few. */
#include "support/ops_check.h"

#define MARGIN 1e-5

struct ranked {
    float logit;
    uint32_t id;
    double weight;
};

static int compare_ranked(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->logit != y->logit)
        return x->logit > y->logit ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

static bool is_banned(const struct sample_row *row, uint32_t id)
{
    for (uint32_t i = 0; i < row->n_banned; i++)
        if (row->banned[i] == id)
            return true;
    return false;
}

static double mass(const struct ranked *v, uint32_t n)
{
    double sum = 0.0;
    for (uint32_t i = 0; i < n; i++)
        sum += v[i].weight;
    return sum;
}

/* Expected id; *out_is_close when rounding could change it. n_vocab > 0, one token at least. */
static uint32_t reference(const float *logits, uint32_t n_vocab, const struct sample_row *row,
                          bool *out_is_close)
{
    struct ranked *v = malloc(n_vocab * sizeof(*v));
    assert_non_null(v);
    uint32_t n = 0;
    for (uint32_t i = 0; i < n_vocab; i++)
        if (logits[i] > -INFINITY && !is_banned(row, i))
            v[n++] = (struct ranked){logits[i], i, 0.0};
    qsort(v, n, sizeof(*v), compare_ranked);
    for (uint32_t i = 0; i < n; i++)
        v[i].weight = exp(((double)v[i].logit - v[0].logit) / row->temperature);
    *out_is_close = false;
    if (row->top_k > 0 && row->top_k < n)
        n = row->top_k;
    if (row->top_p > 0.0f && row->top_p < 1.0f) {
        double total = mass(v, n), seen = 0.0;
        for (uint32_t i = 0; i < n; i++) {
            seen += v[i].weight;
            *out_is_close |= fabs(seen / total - row->top_p) < MARGIN;
            if (seen >= row->top_p * total)
                n = i + 1;
        }
    }
    while (n > 1 && row->min_p > 0.0f && v[n - 1].weight < row->min_p)
        n--;
    for (uint32_t i = 0; row->min_p > 0.0f && i < n; i++)
        *out_is_close |= fabs(v[i].weight - row->min_p) < MARGIN;
    double total = mass(v, n), seen = 0.0;
    uint32_t id = v[n - 1].id;
    for (uint32_t i = n; i-- > 0;) {
        seen += v[i].weight; /* from the end, so the last hit is the first in order */
        double before = (total - seen) / total;
        *out_is_close |= i > 0 && fabs(before - row->uniform) < MARGIN;
        if (before <= row->uniform) {
            id = v[i].id;
            break;
        }
    }
    free(v);
    return id;
}

struct whole {
    float logit;
    uint32_t id;
    uint64_t weight;
};

static int compare_whole(const void *a, const void *b)
{
    const struct whole *x = a, *y = b;
    if (x->logit != y->logit)
        return x->logit > y->logit ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

/* floor(part * mass / 2^32) in another way than kernels/ops.h. */
static uint64_t part_of(float f, uint64_t mass)
{
    return (uint64_t)((unsigned __int128)(uint32_t)(f * 0x1p32f) * mass >> 32);
}

/* Length of the shortest prefix, of one at least, whose mass is at least `limit`. */
static uint32_t prefix_of_mass(const struct whole *v, uint32_t n, uint64_t limit)
{
    uint64_t seen = 0;
    for (uint32_t i = 0; i < n; i++) {
        seen += v[i].weight;
        if (seen >= limit)
            return i + 1;
    }
    return n;
}

/* The definition of struct sample_row, word by word, but with prefixes instead of their masses. */
static uint32_t reference_whole(const float *logits, uint32_t n_vocab, const struct sample_row *row)
{
    struct whole *v = malloc(n_vocab * sizeof(*v));
    assert_non_null(v);
    uint32_t n = 0;
    for (uint32_t i = 0; i < n_vocab; i++)
        if (logits[i] > -INFINITY && !is_banned(row, i))
            v[n++] = (struct whole){logits[i], i, 0};
    qsort(v, n, sizeof(*v), compare_whole);
    uint64_t total = 0, seen = 0;
    float inverse_t = 1.0f / row->temperature;
    for (uint32_t i = 0; i < n; i++) {
        float x = (v[i].logit - v[0].logit) * inverse_t, e;
        cpu_exp_f32(&x, &e, 1, CPU_ISA_SCALAR);
        v[i].weight = (uint64_t)(e * 0x1p40f);
        assert_true(i == 0 ? v[i].weight == 1ull << 40 : v[i].weight <= v[i - 1].weight);
    }
    if (row->top_k > 0 && row->top_k < n)
        n = row->top_k;
    for (uint32_t i = 0; i < n; i++)
        total += v[i].weight;
    if (row->top_p > 0.0f && row->top_p < 1.0f)
        n = prefix_of_mass(v, n, part_of(row->top_p, total));
    while (row->min_p > 0.0f && n > 1 && v[n - 1].weight < (uint64_t)(row->min_p * 0x1p40f))
        n--;
    total = 0;
    for (uint32_t i = 0; i < n; i++)
        total += v[i].weight;
    uint32_t i = 0;
    for (seen = v[0].weight; seen <= part_of(row->uniform, total); seen += v[i].weight)
        i++;
    uint32_t id = v[i].id;
    free(v);
    return id;
}

static uint32_t sample_one(struct device *dev, const float *logits, uint32_t n_vocab,
                           const struct sample_row *row)
{
    uint32_t id = 12345678;
    struct sample_args args = {logits, n_vocab, row, &id, 1, n_vocab};
    assert_int_equal(dev->ops->sample(dev, &args), ST_OK);
    return id;
}

static void test_sample_plans_match_the_sorted_reference(void **state)
{
    (void)state;
    static const uint32_t vocabs[] = {1, 7, 63, 64, 65, 1000, 5003};
    static const struct sample_row plans[] = {
        {.temperature = 1.0f},
        {.temperature = 0.7f, .top_k = 5},
        {.temperature = 1.3f, .top_k = 100000},
        {.temperature = 1.0f, .top_p = 0.9f},
        {.temperature = 0.5f, .top_p = 0.3f, .top_k = 40},
        {.temperature = 1.0f, .min_p = 0.05f},
        {.temperature = 2.0f, .min_p = 0.2f, .top_p = 0.95f, .top_k = 50},
        {.temperature = 1.5f, .min_p = 0.01f, .top_p = 0.8f},
        {.temperature = 100.0f},
        {.temperature = 0.01f, .top_p = 0.99f},
    };
    uint32_t n_draws = 0, n_close = 0;
    FOR_EACH_ISA(isa)
    {
        struct device *dev = ops_open(isa, 1);
        uint64_t random = 99;
        for (size_t i = 0; i < sizeof(vocabs) / sizeof(vocabs[0]); i++) {
            float *logits = ops_random_floats(vocabs[i], i);
            for (uint32_t k = 0; k < vocabs[i]; k++)
                logits[k] = floorf(logits[k] * 200.0f) / 16.0f; /* many equal ones */
            uint32_t banned[3] = {vocabs[i] / 2, UINT32_MAX, vocabs[i] - 1};
            for (size_t p = 0; p < sizeof(plans) / sizeof(plans[0]) * 20; p++, n_draws++) {
                struct sample_row row = plans[p / 20];
                row.uniform = (ops_random(&random) + 1.0f) * 0.5f;
                row.n_banned = vocabs[i] > 2 && p % 2 ? 3 : 0;
                row.banned = banned;
                bool is_close;
                uint32_t want = reference(logits, vocabs[i], &row, &is_close);
                uint32_t got = sample_one(dev, logits, vocabs[i], &row);
                n_close += is_close;
                if (!is_close && got != want)
                    fail_msg("%s vocab %u plan %zu u %.9g: token %u, expected %u",
                             cpu_isa_name(isa), vocabs[i], p / 20, row.uniform, got, want);
            }
            free(logits);
        }
        device_close(dev);
    }
    assert_true(n_close * 10 < n_draws);
}

static float random_unit(uint64_t *random)
{
    return (ops_random(random) + 1.0f) * 0.5f;
}

static struct sample_row random_plan(uint64_t *random, uint32_t n_vocab)
{
    struct sample_row row = {.temperature = 0.05f + 3.0f * random_unit(random),
                             .uniform = random_unit(random)};
    if (random_unit(random) < 0.2f)
        row.temperature *= 1e4f; /* all weights nearly equal */
    if (random_unit(random) < 0.5f)
        row.top_k = 1 + (uint32_t)(random_unit(random) * (float)n_vocab * 1.1f);
    if (random_unit(random) < 0.5f)
        row.top_p = random_unit(random);
    if (random_unit(random) < 0.3f)
        row.min_p = random_unit(random) * random_unit(random);
    return row;
}

static void test_sample_every_draw_is_that_of_the_integers(void **state)
{
    (void)state;
    static const uint32_t vocabs[] = {1, 2, 65, 1000, 20011};
    FOR_EACH_ISA(isa)
    {
        struct device *dev = ops_open(isa, 1);
        uint64_t random = 4711;
        for (uint32_t i = 0; i < sizeof(vocabs) / sizeof(vocabs[0]) * 4; i++) {
            uint32_t n_vocab = vocabs[i / 4];
            float *logits = ops_random_floats(n_vocab, i + 50);
            for (uint32_t k = 0; k < n_vocab; k++) {
                logits[k] *= i % 4 == 0 ? 1e-3f : 15.0f;
                if (i % 4 == 2)
                    logits[k] = roundf(logits[k]); /* 31 values */
                if (i % 4 == 3 && k % 5 == 0 && k > 0)
                    logits[k] = k % 10 == 0 ? NAN : -INFINITY;
            }
            uint32_t banned[2] = {n_vocab / 3, n_vocab / 2};
            for (uint32_t draw = 0; draw < 200; draw++) {
                struct sample_row row = random_plan(&random, n_vocab);
                row.banned = banned;
                row.n_banned = n_vocab > 2 && draw % 2 ? 2 : 0;
                uint32_t want = reference_whole(logits, n_vocab, &row);
                uint32_t got = sample_one(dev, logits, n_vocab, &row);
                if (got != want)
                    fail_msg("%s vocab %u T %.9g top_k %u top_p %.9g min_p %.9g u %.9g: token %u, "
                             "expected %u",
                             cpu_isa_name(isa), n_vocab, row.temperature, row.top_k, row.top_p,
                             row.min_p, row.uniform, got, want);
            }
            free(logits);
        }
        device_close(dev);
    }
}

static void test_sample_boundaries_are_exact(void **state)
{
    (void)state;
    struct device *dev = ops_open(CPU_ISA_AUTO, 1);
    const float equal[4] = {2.0f, 2.0f, 2.0f, 2.0f};
    struct sample_row row = {.temperature = 1.0f, .uniform = 0.25f};
    assert_int_equal(sample_one(dev, equal, 4, &row), 1); /* the mass must exceed a quarter */
    row.uniform = nextafterf(0.25f, 0.0f);
    assert_int_equal(sample_one(dev, equal, 4, &row), 0);
    row.uniform = 0x1.fffffep-1f;
    row.top_p = 0.5f; /* two tokens reach it */
    assert_int_equal(sample_one(dev, equal, 4, &row), 1);
    row.top_p = nextafterf(0.5f, 1.0f);
    assert_int_equal(sample_one(dev, equal, 4, &row), 2);
    row.top_p = 1e-30f;
    assert_int_equal(sample_one(dev, equal, 4, &row), 0);
    row.top_p = 0.0f;
    float half[3] = {0.0f, -0.69314718f, -1.0f}, weight;
    cpu_exp_f32(&half[1], &weight, 1, CPU_ISA_SCALAR);
    row.min_p = weight;
    assert_int_equal(sample_one(dev, half, 3, &row), 1);
    row.min_p = nextafterf(weight, 1.0f);
    assert_int_equal(sample_one(dev, half, 3, &row), 0);
    row.min_p = 0.0f;
    const float none[3] = {-28.5f, 0.0f,
                           -INFINITY}; /* no weight: not even of the last of the mass */
    assert_int_equal(sample_one(dev, none, 3, &row), 1);
    device_close(dev);
}

/* Weights must not grow along the order: the prefixes of min-p and the bins need it. The seams of
 * the polynomial are where n changes. */
static void test_sample_weight_never_grows_as_logits_fall(void **state)
{
    (void)state;
    enum { N = 4096 };
    float x[N], e[N];
    FOR_EACH_ISA(isa)
    {
        for (uint32_t seam = 0; seam < 42; seam++) {
            float at = -((float)seam + 0.5f) * 0.69314718f;
            for (uint32_t i = 0; i < N / 2; i++)
                at = nextafterf(at, 1.0f);
            for (uint32_t i = 0; i < N; i++, at = nextafterf(at, -100.0f))
                x[i] = at;
            cpu_exp_f32(x, e, N, isa);
            for (uint32_t i = 1; i < N; i++)
                assert_true(e[i] <= e[i - 1]);
        }
    }
}

static void test_sample_equal_logits_go_by_id(void **state)
{
    (void)state;
    struct device *dev = ops_open(CPU_ISA_AUTO, 1);
    float logits[1000];
    for (uint32_t i = 0; i < 1000; i++)
        logits[i] = i % 2 ? -0.0f : 0.0f;
    struct sample_row row = {.temperature = 1.0f};
    assert_int_equal(sample_one(dev, logits, 1000, &row), 0);
    row.uniform = 0.5005f;
    assert_int_equal(sample_one(dev, logits, 1000, &row), 500);
    row.uniform = 0x1.fffffep-1f;
    assert_int_equal(sample_one(dev, logits, 1000, &row), 999);
    row.top_k = 3;
    assert_int_equal(sample_one(dev, logits, 1000, &row), 2);
    device_close(dev);
}

static void test_sample_large_flat_vocabulary_reaches_its_end(void **state)
{
    (void)state;
    struct device *dev = ops_open(CPU_ISA_AUTO, 1);
    float *logits = ops_floats(200001);
    for (uint32_t i = 0; i < 200001; i++)
        logits[i] = (float)i * 1e-9f;
    struct sample_row row = {.temperature = 1.0f, .uniform = 0x1.fffffep-1f};
    assert_int_equal(sample_one(dev, logits, 200001, &row), 0); /* the lowest logit */
    row.uniform = 0.0f;
    assert_int_equal(sample_one(dev, logits, 200001, &row), 200000);
    free(logits);
    device_close(dev);
}

static void test_sample_greedy_and_cold_take_the_best_not_banned(void **state)
{
    (void)state;
    struct device *dev = ops_open(CPU_ISA_AUTO, 1);
    const float logits[6] = {1.0f, NAN, 3.0f, 3.0f, -INFINITY, 2.0f};
    const uint32_t two[2] = {2, 2}, all[6] = {0, 1, 2, 3, 4, 5};
    struct sample_row row = {.temperature = 0.0f, .uniform = 0.9f};
    assert_int_equal(sample_one(dev, logits, 6, &row), 2);
    row.banned = two;
    row.n_banned = 2;
    assert_int_equal(sample_one(dev, logits, 6, &row), 3);
    row.temperature = 1e-4f;
    row.n_banned = 0;
    row.uniform = 0.49f;
    assert_int_equal(sample_one(dev, logits, 6, &row), 2);
    row.uniform = 0.51f;
    assert_int_equal(sample_one(dev, logits, 6, &row), 3);
    row.temperature = 1e-30f; /* too cold to divide by: greedy */
    assert_int_equal(sample_one(dev, logits, 6, &row), 2);
    row.temperature = NAN;
    assert_int_equal(sample_one(dev, logits, 6, &row), 2);
    row.temperature = 1.0f;
    row.banned = all;
    row.n_banned = 6;
    assert_int_equal(sample_one(dev, logits, 6, &row), OPS_NO_TOKEN);
    device_close(dev);
}

static void test_sample_odd_logits_never_win_or_crash(void **state)
{
    (void)state;
    struct device *dev = ops_open(CPU_ISA_AUTO, 1);
    float logits[70];
    struct sample_row row = {.temperature = 1.0f, .uniform = 0.999f};
    for (uint32_t i = 0; i < 70; i++)
        logits[i] = i % 3 == 0 ? NAN : -INFINITY;
    assert_int_equal(sample_one(dev, logits, 70, &row), OPS_NO_TOKEN);
    logits[41] = -1e38f;
    assert_int_equal(sample_one(dev, logits, 70, &row), 41);
    logits[42] = 3e38f; /* the difference overflows */
    assert_int_equal(sample_one(dev, logits, 70, &row), 42);
    logits[43] = INFINITY;
    assert_int_equal(sample_one(dev, logits, 70, &row), 43);
    row.min_p = 2.0f;
    logits[43] = 0.0f;
    assert_int_equal(sample_one(dev, logits, 70, &row), 42);
    device_close(dev);
}

/* What a row with `tokens` must do to a logit, one step at a time. */
static float edited(const struct sample_row *row, float logit, uint32_t n_output, bool in_prompt,
                    float bias)
{
    volatile float l = logit, product;
    if ((n_output > 0 || in_prompt) && row->repetition > 0.0f)
        l = l > 0.0f ? l / row->repetition : l * row->repetition;
    if (n_output > 0) {
        product = row->frequency * (float)n_output;
        l = l - product;
        l = l - row->presence;
    }
    return l + bias;
}

static void test_sample_penalties_and_bias_draw_as_from_edited_logits(void **state)
{
    (void)state;
    enum { VOCAB = 1003, LISTED = 90 };
    struct device *dev = ops_open(CPU_ISA_AUTO, 1);
    uint64_t random = 17;
    for (uint32_t pass = 0; pass < 200; pass++) {
        float *logits = ops_random_floats(VOCAB, pass), *want = ops_floats(VOCAB);
        for (uint32_t i = 0; i < VOCAB; i++)
            logits[i] = i % 97 == 5 ? -INFINITY : i % 89 == 7 ? NAN : logits[i] * 6.0f;
        memcpy(want, logits, VOCAB * sizeof(float));
        struct sample_token tokens[LISTED + 1];
        uint32_t newest = pass % 4 == 0 ? 5 * VOCAB : (pass * 31) % VOCAB;
        struct sample_row plain = random_plan(&random, VOCAB), row;
        if (pass % 5 == 0)
            plain.temperature = 0.0f;
        row = plain;
        row.repetition = pass % 3 == 0 ? 0.0f : 0.5f + 1.5f * random_unit(&random);
        row.frequency = pass % 7 == 0 ? 0.0f : ops_random(&random);
        row.presence = pass % 11 == 0 ? 0.0f : ops_random(&random);
        row.tokens = tokens;
        row.n_tokens = LISTED + 1;
        row.newest = pass % 2 ? &newest : NULL;
        bool is_listed = false;
        for (uint32_t i = 0; i < LISTED; i++) {
            uint32_t n_output = i % 3 == 0 ? 0 : i, id = (i * 11 + pass) % VOCAB;
            bool in_prompt = i % 2 == 0, is_newest = row.newest != NULL && id == newest;
            float bias = i % 4 == 0 ? 0.0f : ops_random(&random) * 8.0f;
            tokens[i] = (struct sample_token){
                .id = id, .seen = n_output | (in_prompt ? OPS_IN_PROMPT : 0), .bias = bias};
            want[id] = edited(&row, logits[id], n_output + is_newest, in_prompt, bias);
            is_listed |= is_newest;
        }
        tokens[LISTED] = (struct sample_token){.id = VOCAB, .seen = 3, .bias = 100.0f};
        if (row.newest != NULL && newest < VOCAB && !is_listed)
            want[newest] = edited(&row, logits[newest], 1, false, 0.0f);
        for (uint32_t draw = 0; draw < 5; draw++) {
            row.uniform = plain.uniform = random_unit(&random);
            assert_int_equal(sample_one(dev, logits, VOCAB, &row),
                             sample_one(dev, want, VOCAB, &plain));
        }
        free(logits), free(want);
    }
    device_close(dev);
}

static void test_sample_newest_counts_once_more(void **state)
{
    (void)state;
    struct device *dev = ops_open(CPU_ISA_AUTO, 1);
    const float logits[4] = {1.0f, 4.0f, 3.0f, 2.5f};
    uint32_t newest = 1;
    struct sample_token token = {.id = 1, .seen = 0, .bias = 0.75f};
    struct sample_row row = {.frequency = 1.0f, .tokens = &token, .n_tokens = 1};
    assert_int_equal(sample_one(dev, logits, 4, &row), 1); /* 4.75 */
    row.newest = &newest;
    assert_int_equal(sample_one(dev, logits, 4, &row), 1); /* 3.75 */
    token.seen = OPS_IN_PROMPT | 1;
    assert_int_equal(sample_one(dev, logits, 4, &row), 2); /* 2.75 */
    row.n_tokens = 0;
    row.frequency = 0.0f;
    row.presence = 1.25f;
    assert_int_equal(sample_one(dev, logits, 4, &row), 2); /* 2.75, unlisted */
    row.presence = 0.0f;
    row.repetition = 2.0f;
    assert_int_equal(sample_one(dev, logits, 4, &row), 2); /* 2 */
    device_close(dev);
}

static void test_sample_draws_allowed_tokens_only(void **state)
{
    (void)state;
    struct device *dev = ops_open(CPU_ISA_AUTO, 1);
    uint64_t random = 3;
    for (uint32_t n_vocab = 1; n_vocab < 200; n_vocab++) {
        float *logits = ops_random_floats(n_vocab, n_vocab), *want = ops_floats(n_vocab);
        size_t n_words = (n_vocab + 31) / 32;
        uint32_t *allowed = ops_poisoned(n_words * sizeof(uint32_t)), banned = n_vocab / 2;
        for (uint32_t i = 0; i < n_vocab; i++) {
            bool is_allowed = random_unit(&random) < 0.3f;
            if (!is_allowed)
                allowed[i / 32] &= ~(1u << (i % 32));
            want[i] = is_allowed ? logits[i] : -INFINITY;
        }
        struct sample_row plain = random_plan(&random, n_vocab), row;
        if (n_vocab % 3 == 0)
            plain.temperature = 0.0f;
        plain.banned = &banned;
        plain.n_banned = n_vocab % 2;
        row = plain;
        row.allowed = allowed;
        assert_int_equal(sample_one(dev, logits, n_vocab, &row),
                         sample_one(dev, want, n_vocab, &plain));
        memset(allowed, 0, n_words * sizeof(uint32_t));
        assert_int_equal(sample_one(dev, logits, n_vocab, &row), OPS_NO_TOKEN);
        free(logits), free(want), free(allowed);
    }
    device_close(dev);
}

static void assert_logprob(float got, double want, const char *what, size_t i)
{
    if (isinf(want))
        assert_true(got == want);
    else
        ops_assert_near(got, want, 1e-5 * fmax(1.0, fabs(want)), what, i);
}

/* All of out: the best by sorting, the sum in float64. */
static void check_logprobs(const float *logits, uint32_t n_vocab, uint32_t n_top, uint32_t id,
                           const struct sample_logprobs *got)
{
    struct ranked *v = malloc(n_vocab * sizeof(*v));
    assert_non_null(v);
    uint32_t n = 0;
    double sum = 0.0;
    for (uint32_t i = 0; i < n_vocab; i++)
        if (logits[i] > -INFINITY)
            v[n++] = (struct ranked){logits[i], i, 0.0};
    qsort(v, n, sizeof(*v), compare_ranked);
    for (uint32_t i = 0; i < n; i++) {
        v[i].weight = v[i].logit == v[0].logit ? 0.0 : (double)v[i].logit - v[0].logit;
        sum += exp(v[i].weight);
    }
    for (uint32_t i = 0; i < n; i++) {
        double want = v[i].weight - log(sum);
        if (v[i].id == id)
            assert_logprob(got->chosen, want, "chosen", i);
        if (i >= n_top)
            continue;
        assert_int_equal(got->ids[i], v[i].id);
        assert_logprob(got->values[i], want, "top", i);
    }
    for (uint32_t i = n; i < n_top; i++) {
        assert_int_equal(got->ids[i], OPS_NO_TOKEN);
        assert_true(got->values[i] == -INFINITY);
    }
    ops_assert_poison(got->values + n_top, OPS_TOP_LOGPROBS_MAX - n_top, "logprobs");
    free(v);
}

static void test_sample_logprobs_are_those_of_the_raw_logits(void **state)
{
    (void)state;
    static const uint32_t vocabs[] = {1, 2, 19, 20, 21, 64, 1000, 5003};
    struct device *dev = ops_open(CPU_ISA_AUTO, 1);
    uint64_t random = 8;
    for (uint32_t i = 0; i < sizeof(vocabs) / sizeof(vocabs[0]) * 8; i++) {
        uint32_t n_vocab = vocabs[i / 8], banned = n_vocab / 2, n_top = (i * 13) % 21;
        float *logits = ops_random_floats(n_vocab, i + 9);
        for (uint32_t k = 0; k < n_vocab; k++) {
            logits[k] = i % 3 ? roundf(logits[k] * 40.0f) : logits[k] * 12.0f;
            if (i % 4 == 3)
                logits[k] = k % 3 == 0 ? NAN : k % 3 == 1 ? -INFINITY : logits[k];
            if (i % 8 == 6 && k % 300 == 1)
                logits[k] = INFINITY;
        }
        struct sample_token token = {.id = n_vocab / 3, .seen = 2, .bias = 30.0f};
        struct sample_logprobs *out = ops_poisoned(sizeof(*out));
        struct sample_row row = random_plan(&random, n_vocab);
        row.temperature *= i % 2 ? 1.0f : 0.0f;
        row.banned = &banned;
        row.n_banned = 1;
        row.tokens = &token;
        row.n_tokens = 1;
        row.presence = 0.5f;
        row.n_top = n_top;
        uint32_t without = sample_one(dev, logits, n_vocab, &row);
        row.logprobs = out;
        uint32_t id = sample_one(dev, logits, n_vocab, &row);
        assert_int_equal(id, without);
        check_logprobs(logits, n_vocab, n_top, id, out);
        if (id == OPS_NO_TOKEN)
            assert_true(out->chosen == -INFINITY);
        free(out), free(logits);
    }
    device_close(dev);
}

static void test_sample_row_does_not_depend_on_its_batch(void **state)
{
    (void)state;
    enum { ROWS = 9, VOCAB = 3001 };
    float *logits = ops_random_floats(ROWS * VOCAB, 5);
    struct sample_row rows[ROWS];
    uint32_t want[ROWS], got[ROWS];
    for (uint32_t r = 0; r < ROWS; r++)
        rows[r] = (struct sample_row){
            .temperature = 0.1f * (float)(r + 1), .uniform = 0.1f * (float)r, .top_k = r * 7};
    for (uint32_t n_threads = 1; n_threads <= 3; n_threads++) {
        struct device *dev = ops_open(CPU_ISA_AUTO, n_threads);
        struct sample_args args = {logits, VOCAB, rows, got, ROWS, VOCAB};
        assert_int_equal(dev->ops->sample(dev, &args), ST_OK);
        for (uint32_t r = 0; r < ROWS; r++)
            want[r] = sample_one(dev, logits + (size_t)r * VOCAB, VOCAB, &rows[r]);
        assert_memory_equal(got, want, sizeof(got));
        device_close(dev);
    }
    free(logits);
}

static void test_argmax_ties_nan_and_batches(void **state)
{
    (void)state;
    struct device *dev = ops_open(CPU_ISA_AUTO, 2);
    const float logits[4][5] = {{1, 5, 5, 2, NAN},
                                {NAN, NAN, -3, NAN, -2},
                                {NAN, -INFINITY, NAN, NAN, NAN},
                                {-0.0f, 0.0f, -1, -1, INFINITY}};
    const uint32_t want[4] = {1, 4, OPS_NO_TOKEN, 4};
    uint32_t got[4];
    struct argmax_args args = {&logits[0][0], 5, got, 4, 5};
    assert_int_equal(dev->ops->argmax(dev, &args), ST_OK);
    assert_memory_equal(got, want, sizeof(got));
    args.n_vocab = 4; /* stride 5 */
    assert_int_equal(dev->ops->argmax(dev, &args), ST_OK);
    assert_int_equal(got[1], 2);
    float *big = ops_random_floats(7 * 4099, 8);
    uint32_t ids[7];
    struct argmax_args large = {big, 4099, ids, 7, 4099};
    assert_int_equal(dev->ops->argmax(dev, &large), ST_OK);
    for (uint32_t r = 0; r < 7; r++)
        for (uint32_t i = 0; i < 4099; i++)
            assert_true(big[r * 4099 + i] <= big[r * 4099 + ids[r]]);
    free(big);
    device_close(dev);
}

static void test_sample_bad_arguments_are_refused(void **state)
{
    (void)state;
    struct device *dev = NULL;
    struct device_opts opts = {.n_threads = 1, .n_vocab_max = 8};
    assert_int_equal(device_open(DEVICE_CPU, &opts, &dev), ST_OK);
    float logits[16] = {0};
    uint32_t id = 77;
    struct sample_row row = {.temperature = 1.0f};
    struct sample_args args = {logits, 9, &row, &id, 1, 9};
    assert_int_equal(dev->ops->sample(dev, &args), ST_INVALID); /* over n_vocab_max */
    args.n_vocab = 8;
    args.logits_stride = 7;
    assert_int_equal(dev->ops->sample(dev, &args), ST_INVALID);
    args.logits_stride = 8;
    row.n_banned = 1;
    assert_int_equal(dev->ops->sample(dev, &args), ST_INVALID);
    row = (struct sample_row){.n_tokens = 1};
    assert_int_equal(dev->ops->sample(dev, &args), ST_INVALID);
    row = (struct sample_row){.n_top = OPS_TOP_LOGPROBS_MAX + 1};
    assert_int_equal(dev->ops->sample(dev, &args), ST_INVALID);
    struct argmax_args greedy = {logits, 8, &id, 1, 0};
    assert_int_equal(dev->ops->argmax(dev, &greedy), ST_INVALID);
    assert_int_equal(id, 77);
    device_close(dev);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sample_plans_match_the_sorted_reference),
        cmocka_unit_test(test_sample_every_draw_is_that_of_the_integers),
        cmocka_unit_test(test_sample_boundaries_are_exact),
        cmocka_unit_test(test_sample_weight_never_grows_as_logits_fall),
        cmocka_unit_test(test_sample_equal_logits_go_by_id),
        cmocka_unit_test(test_sample_large_flat_vocabulary_reaches_its_end),
        cmocka_unit_test(test_sample_greedy_and_cold_take_the_best_not_banned),
        cmocka_unit_test(test_sample_odd_logits_never_win_or_crash),
        cmocka_unit_test(test_sample_penalties_and_bias_draw_as_from_edited_logits),
        cmocka_unit_test(test_sample_newest_counts_once_more),
        cmocka_unit_test(test_sample_draws_allowed_tokens_only),
        cmocka_unit_test(test_sample_logprobs_are_those_of_the_raw_logits),
        cmocka_unit_test(test_sample_row_does_not_depend_on_its_batch),
        cmocka_unit_test(test_argmax_ties_nan_and_batches),
        cmocka_unit_test(test_sample_bad_arguments_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
