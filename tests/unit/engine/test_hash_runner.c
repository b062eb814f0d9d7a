/* The hash runner: its tokens are those of hash_expect, however the work is cut, and any damage to
 * a block changes them. */
#include "tests/support/runner_kit.h"

#include "base/time.h"
#include "engine/hash_expect.h"

enum { LAYERS = 5, VOCAB = 1000, BLOCK_TOKENS = 16 };

static struct runner_opts hash_opts(void)
{
    return (struct runner_opts){.kind = RUNNER_HASH,
                                .block_tokens = BLOCK_TOKENS,
                                .max_batch_tokens = KIT_TOKENS_MAX,
                                .max_seqs = 4,
                                .layer_groups = 2,
                                .hash_vocab_size = VOCAB,
                                .hash_layer_count = LAYERS};
}

/* The token that must follow all tokens of `seq`. */
static uint32_t expected(const struct kit_seq *seq)
{
    struct hash_expect e;
    const struct step_item *s = &seq->sampling;
    const struct hash_sampling sampling = {.temperature = s->temperature,
                                           .top_p = s->top_p,
                                           .min_p = s->min_p,
                                           .top_k = s->top_k,
                                           .seed = s->seed,
                                           .choice = s->choice,
                                           .output_position = s->output_position,
                                           .banned = s->banned,
                                           .n_banned = s->n_banned};
    hash_expect_init(&e, LAYERS, VOCAB, s->salt);
    for (uint32_t i = 0; i < seq->n_tokens; i++)
        hash_expect_push(&e, seq->tokens[i]);
    return hash_expect_next(&e, &sampling);
}

static void test_hash_runner_equals_expectation_for_any_chunking(void **state)
{
    static const uint32_t chunks[] = {1, 7, 16, 100, 512};
    static const uint32_t lengths[] = {1, 15, 16, 17, 64, 200};
    struct kit kit;
    struct runner_opts opts = hash_opts();
    (void)state;
    kit_open(&kit, &opts);
    for (unsigned c = 0; c < 5; c++)
        for (unsigned n = 0; n < 6; n++) {
            struct kit_seq seq;
            kit_seq_init(&seq, c * 10 + n, lengths[n], VOCAB, 16);
            seq.sampling.seed = n;
            seq.sampling.temperature = 0.5f * (float)c;
            uint32_t token = kit_finish(&kit, &seq, chunks[c]);
            assert_int_equal(token, expected(&seq));
            kit_decode(&kit, &seq, token, 40);
            assert_int_equal(kit_finish(&kit, &seq, 1), expected(&seq));
        }
    kit_close(&kit);
}

static void test_hash_runner_equals_expectation_in_mixed_batches(void **state)
{
    struct kit kit;
    struct kit_seq a, b, c;
    struct runner_opts opts = hash_opts();
    (void)state;
    kit_open(&kit, &opts);
    kit_seq_init(&a, 1, 40, VOCAB, 0);
    kit_seq_init(&b, 2, 33, VOCAB, 16);
    kit_seq_init(&c, 3, 100, VOCAB, 32);
    kit_finish(&kit, &a, 39); /* its last token is decoded with the others */
    a.tokens[a.n_tokens++] = 5;
    struct step_item items[3] = {kit_item(&kit, &b, 33, true), kit_item(&kit, &c, 50, false),
                                 kit_item(&kit, &a, 1, true)};
    assert_int_equal(kit_step(&kit, items, 3, false), ST_OK);
    assert_int_equal(kit.result.n_tokens, 2);
    assert_int_equal(kit.result.step_id, kit.steps);
    assert_int_equal(kit.result.item_ids[0], items[0].item_id);
    assert_int_equal(kit.result.item_ids[1], items[2].item_id);
    assert_int_equal(kit.result.tokens[0], expected(&b));
    assert_int_equal(kit.result.tokens[1], expected(&a));
    assert_int_equal(kit_finish(&kit, &c, 9), expected(&c));
    kit_close(&kit);
}

static void test_hash_runner_every_sampling_field_counts(void **state)
{
    struct kit kit;
    struct kit_seq seq;
    uint32_t tokens[10];
    struct runner_opts opts = hash_opts();
    (void)state;
    opts.hash_vocab_size = 1u << 20; /* chance equality is rare */
    kit_open(&kit, &opts);
    for (unsigned i = 0; i < 10; i++) {
        kit_seq_init(&seq, 4, 20, VOCAB, 0);
        struct step_item *s = &seq.sampling;
        s->temperature = i == 1 ? 0.5f : 1;
        s->top_p = i == 2 ? 0.5f : 1;
        s->min_p = i == 3 ? 0.5f : 0;
        s->top_k = i == 4;
        s->seed = i == 5 ? 1ull << 63 : 0;
        s->choice = i == 6;
        s->output_position = i == 7;
        s->salt[i == 8 ? 0 : 15] ^= i == 8 || i == 9;
        tokens[i] = kit_finish(&kit, &seq, 20);
        for (unsigned k = 0; k < i; k++)
            assert_int_not_equal(tokens[i], tokens[k]);
    }
    kit_close(&kit);
}

static void test_hash_runner_banned_tokens_are_stepped_over(void **state)
{
    struct kit kit;
    struct kit_seq seq;
    struct runner_opts opts = hash_opts();
    (void)state;
    kit_open(&kit, &opts);
    kit_seq_init(&seq, 5, 20, VOCAB, 0);
    uint32_t token = kit_finish(&kit, &seq, 20);
    for (uint32_t n = 1; n <= STEP_BANNED_MAX; n++) {
        seq.n_done = 0;
        seq.sampling.n_banned = n;
        for (uint32_t i = 0; i < n; i++) /* backwards: one pass over the list is not enough */
            seq.sampling.banned[i] = (token + n - 1 - i) % VOCAB;
        assert_int_equal(kit_finish(&kit, &seq, 20), (token + n) % VOCAB);
        assert_int_equal(expected(&seq), (token + n) % VOCAB);
    }
    kit_close(&kit);
}

static void test_hash_runner_all_tokens_banned_ends(void **state)
{
    struct kit kit;
    struct kit_seq seq;
    struct hash_expect e;
    struct hash_sampling sampling = {.n_banned = 3};
    struct runner_opts opts = hash_opts();
    (void)state;
    opts.hash_vocab_size = 3;
    kit_open(&kit, &opts);
    kit_seq_init(&seq, 6, 3, 3, 0);
    seq.sampling.n_banned = 3;
    for (uint32_t i = 0; i < 3; i++)
        seq.sampling.banned[i] = i;
    sampling.banned = seq.sampling.banned;
    sampling.top_p = 1;
    hash_expect_init(&e, LAYERS, 3, seq.sampling.salt);
    for (uint32_t i = 0; i < 3; i++)
        hash_expect_push(&e, seq.tokens[i]);
    assert_int_equal(kit_finish(&kit, &seq, 3), hash_expect_next(&e, &sampling));
    kit_close(&kit);
}

/* ---- Damage --------------------------------------------------------------------------------- */

struct damage {
    struct kit kit;
    struct kit_seq seq;
    uint64_t layer_bytes, block_bytes;
};

/* A sequence of four blocks, all but the last token computed. */
static void damage_open(struct damage *d)
{
    struct runner_opts opts = hash_opts();
    opts.hash_vocab_size = 1u << 20;
    kit_open(&d->kit, &opts);
    kit_seq_init(&d->seq, 7, 4 * BLOCK_TOKENS - 1, VOCAB, 0);
    kit_finish(&d->kit, &d->seq, KIT_TOKENS_MAX);
    d->seq.tokens[d->seq.n_tokens++] = 1;
    d->layer_bytes = runner_geometry(d->kit.runner)->layer_bytes;
    d->block_bytes = runner_geometry(d->kit.runner)->block_bytes;
}

static uint8_t *layer_at(struct damage *d, uint32_t block_of_seq, uint32_t layer)
{
    return d->kit.pool + d->seq.blocks[block_of_seq] * d->block_bytes + layer * d->layer_bytes;
}

/* The last token from the pool as it is now; the pool is put back. */
static uint32_t damage_token(struct damage *d, const uint8_t *saved)
{
    d->seq.n_done = d->seq.n_tokens - 1;
    uint32_t token = kit_finish(&d->kit, &d->seq, 1);
    memcpy(d->kit.pool, saved, d->kit.pool_bytes);
    return token;
}

static void swap_bytes(uint8_t *a, uint8_t *b, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        uint8_t keep = a[i];
        a[i] = b[i];
        b[i] = keep;
    }
}

static void test_hash_runner_any_damaged_block_changes_the_token(void **state)
{
    struct damage d;
    (void)state;
    damage_open(&d);
    uint8_t *saved = malloc(d.kit.pool_bytes);
    assert_non_null(saved);
    memcpy(saved, d.kit.pool, d.kit.pool_bytes);
    uint32_t good = damage_token(&d, saved);
    assert_int_equal(good, damage_token(&d, saved));
    for (uint32_t b = 0; b < 4; b++) {
        for (uint32_t l = 0; l < LAYERS; l++) {
            memset(layer_at(&d, b, l), 0, d.layer_bytes); /* never written */
            assert_int_not_equal(damage_token(&d, saved), good);
            if (l == 0)
                continue;
            swap_bytes(layer_at(&d, b, l), layer_at(&d, b, l - 1), d.layer_bytes);
            assert_int_not_equal(damage_token(&d, saved), good);
            memcpy(layer_at(&d, b, l), layer_at(&d, b, l - 1), d.layer_bytes);
            assert_int_not_equal(damage_token(&d, saved), good);
        }
        for (uint32_t other = 0; other < b; other++) {
            swap_bytes(layer_at(&d, b, 0), layer_at(&d, other, 0), d.block_bytes);
            assert_int_not_equal(damage_token(&d, saved), good);
            memcpy(layer_at(&d, b, 0), layer_at(&d, other, 0), d.block_bytes); /* doubled */
            assert_int_not_equal(damage_token(&d, saved), good);
        }
    }
    for (uint32_t b = 0; b < 4; b++) /* one bit anywhere in what was written */
        for (size_t i = 0; i < d.block_bytes; i += 3) {
            uint32_t token = (uint32_t)(i % d.layer_bytes / 16);
            if (b == 3 && token >= BLOCK_TOKENS - 1)
                continue; /* written by the step itself */
            layer_at(&d, b, 0)[i] ^= (uint8_t)(1u << (i % 8));
            assert_int_not_equal(damage_token(&d, saved), good);
        }
    free(saved);
    kit_close(&d.kit);
}

static void test_hash_runner_block_of_another_tenant_or_prompt_changes_the_token(void **state)
{
    struct damage d;
    struct kit_seq other;
    (void)state;
    damage_open(&d);
    uint8_t *saved = malloc(d.kit.pool_bytes);
    assert_non_null(saved);
    memcpy(saved, d.kit.pool, d.kit.pool_bytes);
    uint32_t good = damage_token(&d, saved);
    for (uint32_t kind = 0; kind < 2; kind++) {
        other = d.seq;
        for (uint32_t i = 0; i < KIT_SEQ_BLOCKS; i++)
            other.blocks[i] += 16;
        if (kind == 0)
            other.sampling.salt[3] ^= 1; /* same tokens, another salt */
        else
            other.tokens[0] ^= 1; /* same salt, one other token */
        for (uint32_t b = 0; b < 3; b++) {
            other.n_done = 0;
            kit_finish(&d.kit, &other, KIT_TOKENS_MAX);
            memcpy(layer_at(&d, b, 0), d.kit.pool + other.blocks[b] * d.block_bytes, d.block_bytes);
            assert_int_not_equal(damage_token(&d, saved), good);
        }
    }
    free(saved);
    kit_close(&d.kit);
}

static void test_hash_runner_stale_block_spoils_what_is_computed_from_it(void **state)
{
    struct damage d;
    (void)state;
    damage_open(&d);
    d.seq.n_done = 2 * BLOCK_TOKENS;
    memset(layer_at(&d, 1, 2), 0xa5, d.layer_bytes);
    uint8_t *before = malloc(d.block_bytes);
    assert_non_null(before);
    memcpy(before, layer_at(&d, 2, 0), d.block_bytes);
    kit_finish(&d.kit, &d.seq, KIT_TOKENS_MAX);
    /* Layer 2 of the next block follows from the stale one, the other layers do not. */
    assert_memory_equal(before, layer_at(&d, 2, 0), 2 * d.layer_bytes);
    assert_memory_not_equal(before + 2 * d.layer_bytes, layer_at(&d, 2, 2), d.layer_bytes);
    assert_memory_equal(before + 3 * d.layer_bytes, layer_at(&d, 2, 3), d.layer_bytes);
    free(before);
    kit_close(&d.kit);
}

/* ---- Plans, groups, time -------------------------------------------------------------------- */

static void test_hash_runner_reports_layer_groups_in_order(void **state)
{
    static const struct {
        uint32_t groups, n;
    } cases[] = {{1, 1}, {2, 2}, {3, 3}, {5, 5}, {9, 5}, {0, 1}};
    (void)state;
    for (unsigned i = 0; i < 6; i++) {
        struct kit kit;
        struct kit_seq seq;
        struct runner_opts opts = hash_opts();
        uint32_t next = 0;
        opts.layer_groups = cases[i].groups;
        kit_open(&kit, &opts);
        kit_seq_init(&seq, 8, 20, VOCAB, 0);
        struct step_item item = kit_item(&kit, &seq, 20, true);
        assert_int_equal(kit_step(&kit, &item, 1, true), ST_OK);
        assert_int_equal(kit.n_groups, cases[i].n);
        for (uint32_t g = 0; g < kit.n_groups; g++) {
            assert_int_equal(kit.groups[g][0], next);
            assert_true(kit.groups[g][1] > 0);
            next += kit.groups[g][1];
        }
        assert_int_equal(next, LAYERS);
        seq.n_done = 0;
        item = kit_item(&kit, &seq, 20, true);
        assert_int_equal(kit_step(&kit, &item, 1, false), ST_OK);
        assert_int_equal(kit.n_groups, 0);
        kit_close(&kit);
    }
}

static void test_hash_runner_plan_out_of_bounds_is_refused_untouched(void **state)
{
    struct kit kit;
    struct kit_seq seq;
    struct runner_opts opts = hash_opts();
    (void)state;
    kit_open(&kit, &opts);
    kit_seq_init(&seq, 9, 40, VOCAB, 0);
    struct step_item good = kit_item(&kit, &seq, 40, true);
    struct step_item bad[5] = {good, good, good, good, good};
    uint32_t blocks[3] = {0, 1, KIT_BLOCKS};
    bad[0].blocks = blocks;
    bad[1].n_blocks = 2;
    bad[2].n_tokens = 0;
    bad[3].position = UINT32_MAX;
    bad[4].position = 9;
    for (unsigned i = 0; i < 5; i++) {
        assert_int_equal(kit_step(&kit, &bad[i], 1, true), ST_INVALID);
        assert_int_equal(kit.result.status, ST_INVALID);
        assert_int_equal(kit.result.step_id, kit.steps);
        assert_int_equal(kit.result.n_tokens, 0);
        assert_int_equal(kit.n_groups, 0);
    }
    struct step_item many[5] = {good, good, good, good, good};
    for (unsigned i = 0; i < 5; i++)
        many[i].n_tokens = 1;
    assert_int_equal(kit_step(&kit, many, 5, false), ST_INVALID); /* over max_seqs */
    for (size_t i = 0; i < kit.pool_bytes; i++)
        assert_int_equal(kit.pool[i], 0xff);
    assert_int_equal(kit_step(&kit, &good, 1, false), ST_OK);
    kit_close(&kit);
}

static void test_hash_runner_bad_options_are_refused(void **state)
{
    struct runner *runner = NULL;
    char err[256];
    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        struct runner_opts opts = hash_opts();
        opts.hash_layer_count = i == 0 ? 0 : i == 1 ? HASH_LAYERS_MAX + 1 : LAYERS;
        opts.hash_vocab_size = i == 2 ? 0 : VOCAB;
        opts.block_tokens = i == 3 ? 0 : 16;
        err[0] = '\0';
        assert_int_equal(runner_create(&opts, &runner, err, sizeof(err)), ST_INVALID);
        assert_non_null(strstr(err, "hash runner"));
        assert_null(runner);
    }
}

static void test_hash_runner_identity_follows_its_parameters(void **state)
{
    struct kit a, b, c;
    struct runner_opts opts = hash_opts();
    (void)state;
    kit_open(&a, &opts);
    opts.hash_vocab_size++;
    kit_open(&b, &opts);
    opts = hash_opts();
    opts.block_tokens = 32;
    kit_open(&c, &opts);
    const struct runner_info *ia = runner_info(a.runner), *ib = runner_info(b.runner);
    assert_false(hash128_equal(&ia->model_hash, &ib->model_hash));
    assert_true(hash128_equal(&ia->model_hash, &runner_info(c.runner)->model_hash));
    assert_true(runner_geometry(a.runner)->layout_hash != runner_geometry(c.runner)->layout_hash);
    assert_int_equal(ia->vocab_size, VOCAB);
    assert_int_equal(ia->n_eos, 0);
    assert_null(runner_logits(a.runner));
    kit_close(&a);
    kit_close(&b);
    kit_close(&c);
}

static void test_hash_runner_delay_is_spread_over_the_groups(void **state)
{
    struct kit kit;
    struct kit_seq seq;
    struct runner_opts opts = hash_opts();
    (void)state;
    opts.hash_step_delay_us = 2000;
    opts.hash_prefill_delay_us_per_token = 200;
    kit_open(&kit, &opts);
    kit_seq_init(&seq, 10, 41, VOCAB, 0);
    uint64_t start = time_monotonic_ns();
    struct step_item item = kit_item(&kit, &seq, 40, false);
    assert_int_equal(kit_step(&kit, &item, 1, true), ST_OK);
    assert_true(time_monotonic_ns() - start >= 10 * NS_PER_MS); /* 2 ms + 40 * 0.2 ms */
    start = time_monotonic_ns();
    item = kit_item(&kit, &seq, 1, true);
    assert_int_equal(kit_step(&kit, &item, 1, true), ST_OK);
    assert_true(time_monotonic_ns() - start >= 2 * NS_PER_MS);
    kit_close(&kit);
}

/* ---- Steps begun behind each other ---------------------------------------------------------- */

static enum status begin(struct kit *kit, const struct step_item *items, uint32_t n_items)
{
    struct step_plan plan = {.step_id = kit->steps + 1, .n_items = n_items, .items = items};
    for (uint32_t i = 0; i < n_items; i++)
        plan.n_tokens += items[i].n_tokens;
    enum status st = runner_begin(kit->runner, &plan, kit_on_layers, kit);
    kit->steps += st == ST_OK;
    return st;
}

/* The item behind one that samples and is not finished. */
static struct step_item item_after(const struct kit *kit, struct kit_seq *seq, uint32_t index)
{
    seq->n_tokens++; /* not known yet */
    seq->sampling.output_position++;
    struct step_item item = kit_item(kit, seq, 1, true);
    item.tokens = NULL;
    item.after_item = 1 + index;
    return item;
}

static void test_hash_runner_steps_begun_ahead_equal_expectation(void **state)
{
    struct kit kit;
    struct kit_seq a, b;
    struct step_result result, older;
    struct runner_opts opts = hash_opts();
    (void)state;
    kit_open(&kit, &opts);
    assert_int_equal(runner_depth(kit.runner), 2);
    kit_seq_init(&a, 1, 40, VOCAB, 0);
    kit_seq_init(&b, 2, 33, VOCAB, 16);
    struct kit_seq a_known = a, b_known = b;
    struct step_item items[2] = {kit_item(&kit, &a, 40, true), kit_item(&kit, &b, 33, true)};
    uint32_t at_a = 0;
    assert_int_equal(begin(&kit, items, 2), ST_OK);
    for (uint32_t step = 1; step <= 30; step++) {
        /* They change places, so that the index counts. */
        struct step_item next_a = item_after(&kit, &a, at_a);
        struct step_item next_b = item_after(&kit, &b, 1 - at_a);
        items[at_a] = next_b;
        items[1 - at_a] = next_a;
        assert_int_equal(begin(&kit, items, 2), ST_OK);
        memset(items, 0xee, sizeof(items));                  /* not needed any more */
        assert_int_equal(begin(&kit, items, 2), ST_INVALID); /* two are enough */
        assert_int_equal(runner_finish(kit.runner, &result), ST_OK);
        assert_int_equal(result.step_id, step);
        assert_int_equal(result.n_tokens, 2);
        assert_int_equal(result.tokens[at_a], expected(&a_known));
        assert_int_equal(result.tokens[1 - at_a], expected(&b_known));
        a_known.tokens[a_known.n_tokens++] = result.tokens[at_a];
        b_known.tokens[b_known.n_tokens++] = result.tokens[1 - at_a];
        a_known.sampling.output_position++;
        b_known.sampling.output_position++;
        at_a = 1 - at_a;
    }
    assert_int_equal(runner_finish(kit.runner, &older), ST_OK);
    assert_int_equal(older.tokens[at_a], expected(&a_known));
    assert_int_equal(runner_finish(kit.runner, &result), ST_INVALID); /* none is begun */
    kit_close(&kit);
}

static void test_hash_runner_result_outlives_the_begin_of_the_next(void **state)
{
    struct kit kit;
    struct kit_seq seq;
    struct step_result result, last;
    struct runner_opts opts = hash_opts();
    (void)state;
    kit_open(&kit, &opts);
    kit_seq_init(&seq, 3, 20, VOCAB, 0);
    uint32_t token = expected(&seq);
    struct step_item item = kit_item(&kit, &seq, 20, true);
    assert_int_equal(begin(&kit, &item, 1), ST_OK);
    assert_int_equal(runner_finish(kit.runner, &result), ST_OK);
    uint32_t id = item.item_id;
    item = item_after(&kit, &seq, 0);
    assert_int_equal(begin(&kit, &item, 1), ST_OK);
    assert_int_equal(result.tokens[0], token);
    assert_int_equal(result.item_ids[0], id);
    assert_int_equal(runner_finish(kit.runner, &last), ST_OK);
    kit_close(&kit);
}

static void test_hash_runner_token_that_is_not_sampled_before_is_refused(void **state)
{
    struct kit kit;
    struct kit_seq a, b;
    struct step_result result;
    struct runner_opts opts = hash_opts();
    (void)state;
    kit_open(&kit, &opts);
    kit_seq_init(&a, 1, 20, VOCAB, 0);
    kit_seq_init(&b, 2, 20, VOCAB, 16);
    struct step_item items[2] = {kit_item(&kit, &a, 20, true), kit_item(&kit, &b, 10, false)};
    assert_int_equal(begin(&kit, items, 2), ST_OK);
    struct step_item good = item_after(&kit, &a, 0);
    struct step_item bad = good;
    bad.after_item = 2; /* that one does not sample */
    assert_int_equal(begin(&kit, &bad, 1), ST_INVALID);
    bad.after_item = 3;
    assert_int_equal(begin(&kit, &bad, 1), ST_INVALID);
    bad = good;
    bad.n_tokens = 2;
    assert_int_equal(begin(&kit, &bad, 1), ST_INVALID);
    kit.steps++; /* a plan is missing between the two */
    assert_int_equal(begin(&kit, &good, 1), ST_INVALID);
    kit.steps--;
    assert_int_equal(
        runner_step(kit.runner, &(struct step_plan){.step_id = 2}, kit_on_layers, &kit, &result),
        ST_INVALID); /* not behind another */
    assert_int_equal(begin(&kit, &good, 1), ST_OK);
    assert_int_equal(runner_finish(kit.runner, &result), ST_OK);
    assert_int_equal(runner_finish(kit.runner, &result), ST_OK);
    kit_close(&kit);
}

static void test_hash_runner_waits_for_the_delay_when_finished(void **state)
{
    struct kit kit;
    struct kit_seq seq;
    struct step_result result;
    struct runner_opts opts = hash_opts();
    (void)state;
    opts.hash_step_delay_us = 4000;
    kit_open(&kit, &opts);
    kit_seq_init(&seq, 10, 3, VOCAB, 0);
    uint64_t start = time_monotonic_ns();
    struct step_item item = kit_item(&kit, &seq, 3, true);
    assert_int_equal(begin(&kit, &item, 1), ST_OK);
    item = item_after(&kit, &seq, 0);
    assert_int_equal(begin(&kit, &item, 1), ST_OK);
    assert_int_equal(runner_finish(kit.runner, &result), ST_OK);
    assert_true(time_monotonic_ns() - start >= 4 * NS_PER_MS);
    assert_int_equal(runner_finish(kit.runner, &result), ST_OK);
    assert_true(time_monotonic_ns() - start >= 8 * NS_PER_MS); /* one behind the other */
    kit_close(&kit);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hash_runner_equals_expectation_for_any_chunking),
        cmocka_unit_test(test_hash_runner_equals_expectation_in_mixed_batches),
        cmocka_unit_test(test_hash_runner_every_sampling_field_counts),
        cmocka_unit_test(test_hash_runner_banned_tokens_are_stepped_over),
        cmocka_unit_test(test_hash_runner_all_tokens_banned_ends),
        cmocka_unit_test(test_hash_runner_any_damaged_block_changes_the_token),
        cmocka_unit_test(test_hash_runner_block_of_another_tenant_or_prompt_changes_the_token),
        cmocka_unit_test(test_hash_runner_stale_block_spoils_what_is_computed_from_it),
        cmocka_unit_test(test_hash_runner_reports_layer_groups_in_order),
        cmocka_unit_test(test_hash_runner_plan_out_of_bounds_is_refused_untouched),
        cmocka_unit_test(test_hash_runner_bad_options_are_refused),
        cmocka_unit_test(test_hash_runner_identity_follows_its_parameters),
        cmocka_unit_test(test_hash_runner_delay_is_spread_over_the_groups),
        cmocka_unit_test(test_hash_runner_steps_begun_ahead_equal_expectation),
        cmocka_unit_test(test_hash_runner_result_outlives_the_begin_of_the_next),
        cmocka_unit_test(test_hash_runner_token_that_is_not_sampled_before_is_refused),
        cmocka_unit_test(test_hash_runner_waits_for_the_delay_when_finished),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
