#include "kv/pool.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

enum { BT = 4, EPOCH = 42 };

static const uint8_t SALT_A[16] = "a", SALT_B[16] = "b";

static struct kv_pool *pool_new(uint32_t block_count, uint32_t prefix_cache)
{
    struct kv_pool_opts opts = {.block_count = block_count,
                                .block_tokens = BT,
                                .epoch = EPOCH,
                                .prefix_cache = prefix_cache};
    struct kv_pool *pool = NULL;
    assert_int_equal(kv_pool_create(&opts, &pool), ST_OK);
    return pool;
}

static void check(const struct kv_pool *pool)
{
    char why[128] = "";
    if (kv_pool_check(pool, why, sizeof(why)) != ST_OK)
        fail_msg("%s", why);
}

static void tokens_fill(uint32_t *tokens, uint32_t n, uint32_t first)
{
    for (uint32_t i = 0; i < n; i++)
        tokens[i] = first + i;
}

/* Allocates n blocks for tokens first, first + 1, .. and seals all of them. */
static void make_chain(struct kv_pool *pool, const uint8_t salt[16], uint32_t first, uint32_t n,
                       struct kv_block_ref *out)
{
    uint32_t tokens[64 * BT];
    struct hash128 parent, key;
    tokens_fill(tokens, n * BT, first);
    assert_int_equal(kv_pool_alloc(pool, n, out), ST_OK);
    for (uint32_t i = 0; i < n; i++) {
        kv_pool_seal(pool, out[i], salt, i > 0 ? &parent : NULL, tokens + i * BT, &key);
        parent = key;
    }
}

static uint32_t match(struct kv_pool *pool, const uint8_t salt[16], uint32_t first,
                      uint32_t n_tokens, uint32_t max_blocks, struct kv_block_ref *out)
{
    uint32_t tokens[64 * BT];
    struct hash128 parent;
    tokens_fill(tokens, n_tokens, first);
    return kv_pool_match(pool, salt, tokens, n_tokens, max_blocks, out, &parent);
}

static char state_of(const struct kv_pool *pool, struct kv_block_ref ref)
{
    return kv_pool_block_state(pool, ref.index, NULL);
}

static void test_pool_create_without_blocks_is_invalid(void **state)
{
    (void)state;
    struct kv_pool *pool = NULL;
    struct kv_pool_opts opts = {.block_tokens = BT};
    assert_int_equal(kv_pool_create(&opts, &pool), ST_INVALID);
    opts = (struct kv_pool_opts){.block_count = 4};
    assert_int_equal(kv_pool_create(&opts, &pool), ST_INVALID);
    assert_null(pool);
    kv_pool_destroy(NULL);
}

static void test_pool_alloc_when_short_takes_nothing(void **state)
{
    (void)state;
    struct kv_pool *pool = pool_new(4, 1);
    struct kv_block_ref refs[5];
    assert_int_equal(kv_pool_alloc(pool, 5, refs), ST_NO_BLOCKS);
    assert_int_equal(kv_pool_counts(pool).free, 4);
    assert_int_equal(kv_pool_alloc(pool, 0, refs), ST_OK);
    assert_int_equal(kv_pool_alloc(pool, 4, refs), ST_OK);
    assert_int_equal(kv_pool_available(pool), 0);
    assert_int_equal(kv_pool_alloc(pool, 1, refs + 4), ST_NO_BLOCKS);
    check(pool);
    kv_pool_release(pool, refs, 4);
    assert_int_equal(kv_pool_counts(pool).free, 4);
    check(pool);
    kv_pool_destroy(pool);
}

static void test_pool_alloc_gives_each_life_a_new_generation(void **state)
{
    (void)state;
    struct kv_pool *pool = pool_new(1, 1);
    struct kv_block_ref a, b;
    assert_int_equal(kv_pool_alloc(pool, 1, &a), ST_OK);
    assert_int_not_equal(a.generation, 0);
    kv_pool_release(pool, &a, 1);
    assert_int_equal(kv_pool_alloc(pool, 1, &b), ST_OK);
    assert_int_equal(a.index, b.index);
    assert_int_not_equal(a.generation, b.generation);
    kv_pool_destroy(pool);
}

static void test_pool_release_of_sealed_block_keeps_it_cached(void **state)
{
    (void)state;
    struct kv_pool *pool = pool_new(4, 1);
    struct kv_block_ref refs[3], hits[3];
    make_chain(pool, SALT_A, 100, 2, refs);
    assert_int_equal(kv_pool_alloc(pool, 1, refs + 2), ST_OK);
    kv_pool_release(pool, refs, 3);
    struct kv_pool_counts c = kv_pool_counts(pool);
    assert_int_equal(c.cached, 2);
    assert_int_equal(c.free, 2);
    assert_int_equal(kv_pool_available(pool), 4);
    assert_int_equal(match(pool, SALT_A, 100, 2 * BT + 1, 3, hits), 2);
    assert_memory_equal(hits, refs, 2 * sizeof(refs[0]));
    assert_int_equal(state_of(pool, refs[0]), 'o');
    check(pool);
    kv_pool_destroy(pool);
}

static void test_pool_match_shares_an_owned_block(void **state)
{
    (void)state;
    struct kv_pool *pool = pool_new(4, 1);
    struct kv_block_ref refs[2], hits[2];
    make_chain(pool, SALT_A, 100, 2, refs);
    assert_int_equal(match(pool, SALT_A, 100, 2 * BT, 2, hits), 2);
    assert_int_equal(kv_pool_block_refs(pool, refs[0].index), 2);
    kv_pool_release(pool, refs, 2);
    assert_int_equal(state_of(pool, refs[0]), 'o');
    kv_pool_release(pool, hits, 2);
    assert_int_equal(state_of(pool, refs[0]), 'c');
    check(pool);
    kv_pool_destroy(pool);
}

static void test_pool_match_respects_salt_bounds_and_parent(void **state)
{
    (void)state;
    struct kv_pool *pool = pool_new(8, 1);
    struct kv_block_ref refs[3], hits[3];
    make_chain(pool, SALT_A, 100, 3, refs);
    assert_int_equal(match(pool, SALT_B, 100, 3 * BT, 3, hits), 0);
    assert_int_equal(match(pool, SALT_A, 100 + BT, 2 * BT, 3, hits), 0); /* other parent */
    assert_int_equal(match(pool, SALT_A, 100, 3 * BT - 1, 3, hits), 2);
    kv_pool_release(pool, hits, 2);
    assert_int_equal(match(pool, SALT_A, 100, 3 * BT, 1, hits), 1);
    kv_pool_release(pool, hits, 1);
    assert_int_equal(match(pool, SALT_A, 100, 0, 3, hits), 0);
    check(pool);
    kv_pool_destroy(pool);
}

static void test_pool_seal_of_a_known_key_leaves_the_block_private(void **state)
{
    (void)state;
    struct kv_pool *pool = pool_new(4, 1);
    struct kv_block_ref first, second, hit;
    make_chain(pool, SALT_A, 100, 1, &first);
    make_chain(pool, SALT_A, 100, 1, &second);
    assert_int_equal(match(pool, SALT_A, 100, BT, 1, &hit), 1);
    assert_int_equal(hit.index, first.index);
    kv_pool_release(pool, &second, 1);
    assert_int_equal(state_of(pool, second), 'f');
    check(pool);
    kv_pool_destroy(pool);
}

static void test_pool_without_prefix_cache_keeps_no_key(void **state)
{
    (void)state;
    struct kv_pool *pool = pool_new(4, 0);
    struct kv_block_ref ref, hit;
    struct kv_cache_event event;
    bool reset;
    make_chain(pool, SALT_A, 100, 1, &ref);
    assert_int_equal(match(pool, SALT_A, 100, BT, 1, &hit), 0);
    kv_pool_release(pool, &ref, 1);
    assert_int_equal(kv_pool_counts(pool).free, 4);
    assert_int_equal(kv_pool_events(pool, &event, 1, &reset), 0);
    assert_false(reset);
    kv_pool_events_restart(pool);
    assert_int_equal(kv_pool_events(pool, &event, 1, &reset), 0);
    assert_true(reset);
    kv_pool_destroy(pool);
}

static void test_pool_alloc_evicts_oldest_first_and_ends_of_chains_before_their_starts(void **state)
{
    (void)state;
    struct kv_pool *pool = pool_new(4, 1);
    struct kv_block_ref old[2], young[2], taken[3], hits[2];
    make_chain(pool, SALT_A, 100, 2, old);
    make_chain(pool, SALT_A, 200, 2, young);
    kv_pool_release(pool, old, 2);
    kv_pool_release(pool, young, 2);
    assert_int_equal(kv_pool_alloc(pool, 1, taken), ST_OK);
    assert_int_equal(taken[0].index, old[1].index);
    assert_int_equal(match(pool, SALT_A, 100, 2 * BT, 2, hits), 1);
    kv_pool_release(pool, hits, 1); /* used now: the youngest */
    assert_int_equal(kv_pool_alloc(pool, 2, taken + 1), ST_OK);
    assert_int_equal(taken[1].index, young[1].index);
    assert_int_equal(taken[2].index, young[0].index);
    assert_int_equal(match(pool, SALT_A, 200, 2 * BT, 2, hits), 0);
    check(pool);
    kv_pool_destroy(pool);
}

static void test_pool_loan_check_believes_only_the_exact_loan(void **state)
{
    (void)state;
    struct kv_pool *pool = pool_new(8, 1);
    struct kv_block_ref lent[3], named[4];
    assert_int_equal(kv_pool_alloc(pool, 3, lent), ST_OK);
    memcpy(named, lent, sizeof(lent));
    assert_int_equal(kv_pool_loan_check(pool, EPOCH, lent, 3, named, 3), ST_MISMATCH);
    kv_pool_loan(pool, lent, 3);
    assert_int_equal(state_of(pool, lent[0]), 'l');
    assert_int_equal(kv_pool_loan_check(pool, EPOCH, lent, 3, named, 3), ST_OK);
    assert_int_equal(kv_pool_loan_check(pool, EPOCH + 1, lent, 3, named, 3), ST_MISMATCH);
    assert_int_equal(kv_pool_loan_check(pool, EPOCH, lent, 3, named, 2), ST_MISMATCH);
    named[1].generation++;
    assert_int_equal(kv_pool_loan_check(pool, EPOCH, lent, 3, named, 3), ST_MISMATCH);
    named[1] = lent[2];
    named[2] = lent[1];
    assert_int_equal(kv_pool_loan_check(pool, EPOCH, lent, 3, named, 3), ST_MISMATCH);
    named[1] = (struct kv_block_ref){UINT32_MAX, 1};
    assert_int_equal(kv_pool_loan_check(pool, EPOCH, lent, 3, named, 3), ST_MISMATCH);
    kv_pool_loan_end(pool, lent, 3);
    assert_int_equal(kv_pool_loan_check(pool, EPOCH, lent, 3, lent, 3), ST_MISMATCH);
    check(pool);
    kv_pool_destroy(pool);
}

static void test_pool_quarantined_block_is_given_to_nobody_until_the_loan_ends(void **state)
{
    (void)state;
    struct kv_pool *pool = pool_new(4, 1);
    struct kv_block_ref lent[4], taken[4];
    assert_int_equal(kv_pool_alloc(pool, 4, lent), ST_OK);
    kv_pool_loan(pool, lent, 4);
    kv_pool_quarantine(pool, lent, 3);
    kv_pool_loan_end(pool, lent + 3, 1);
    assert_int_equal(state_of(pool, lent[3]), 'o');
    struct kv_pool_counts c = kv_pool_counts(pool);
    assert_int_equal(c.quarantined, 3);
    assert_int_equal(c.owned, 1);
    assert_int_equal(kv_pool_alloc(pool, 1, taken), ST_NO_BLOCKS);
    assert_int_equal(kv_pool_loan_check(pool, EPOCH, lent, 3, lent, 3), ST_OK);
    check(pool);
    kv_pool_loan_end(pool, lent, 3);
    assert_int_equal(kv_pool_counts(pool).free, 3);
    assert_int_equal(kv_pool_alloc(pool, 3, taken), ST_OK);
    check(pool);
    kv_pool_destroy(pool);
}

static void test_pool_events_tell_changes_in_order(void **state)
{
    (void)state;
    struct kv_pool *pool = pool_new(2, 1);
    struct kv_block_ref refs[2];
    struct kv_cache_event events[8];
    bool reset = true;
    make_chain(pool, SALT_A, 100, 2, refs);
    kv_pool_release(pool, refs, 2);
    assert_int_equal(kv_pool_alloc(pool, 1, refs), ST_OK); /* evicts the second */
    assert_int_equal(kv_pool_events(pool, events, 8, &reset), 3);
    assert_false(reset);
    assert_true(events[0].added && events[1].added && !events[2].added);
    assert_true(hash128_equal(&events[1].key, &events[2].key));
    assert_int_equal(kv_pool_events(pool, events, 8, &reset), 0);
    kv_pool_destroy(pool);
}

/* What a router that applies all events believes. */
struct mirror {
    struct hash128 keys[256];
    uint32_t n;
};

static void mirror_apply(struct mirror *mirror, const struct kv_cache_event *events, uint32_t n,
                         bool reset)
{
    if (reset)
        mirror->n = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t at = 0;
        while (at < mirror->n && !hash128_equal(&mirror->keys[at], &events[i].key))
            at++;
        if (events[i].added) {
            assert_int_equal(at, mirror->n); /* told once */
            mirror->keys[mirror->n++] = events[i].key;
        } else {
            assert_true(at < mirror->n); /* it was told */
            mirror->keys[at] = mirror->keys[--mirror->n];
        }
    }
}

/* ---- random operations against a naive model ---- */

enum { RANDOM_BLOCKS = 40, RANDOM_HOLDERS = 12, RANDOM_OPS = 20000 };

struct holder {
    struct kv_block_ref refs[8];
    uint32_t n, n_loaned; /* the last n_loaned are on loan */
    uint32_t quarantined; /* all of them */
    uint32_t first;       /* token */
};

struct random_run {
    struct kv_pool *pool;
    struct holder holders[RANDOM_HOLDERS];
    uint32_t generations[RANDOM_BLOCKS];
    struct mirror mirror;
    uint64_t seed, n_drawn;
};

static uint32_t draw(struct random_run *run, uint32_t below)
{
    return (uint32_t)(hash_mix64(run->seed + run->n_drawn++) % below);
}

/* A block's references and state follow from the holders alone. */
static void model_check(struct random_run *run)
{
    uint32_t refs[RANDOM_BLOCKS] = {0}, loaned[RANDOM_BLOCKS] = {0}, jailed[RANDOM_BLOCKS] = {0};
    for (uint32_t h = 0; h < RANDOM_HOLDERS; h++) {
        struct holder *holder = &run->holders[h];
        for (uint32_t i = 0; i < holder->n; i++) {
            uint32_t at = holder->refs[i].index, generation;
            kv_pool_block_state(run->pool, at, &generation);
            assert_int_equal(generation, holder->refs[i].generation);
            if (holder->quarantined)
                jailed[at]++;
            else
                refs[at]++;
            if (!holder->quarantined && i >= holder->n - holder->n_loaned)
                loaned[at]++;
        }
    }
    for (uint32_t at = 0; at < RANDOM_BLOCKS; at++) {
        uint32_t generation;
        char state = kv_pool_block_state(run->pool, at, &generation);
        assert_true(generation >= run->generations[at]);
        run->generations[at] = generation;
        assert_int_equal(kv_pool_block_refs(run->pool, at), refs[at]);
        assert_true(jailed[at] + (refs[at] > 0) <= 1);
        if (jailed[at])
            assert_int_equal(state, 'q');
        else if (loaned[at])
            assert_int_equal(state, 'l');
        else if (refs[at])
            assert_int_equal(state, 'o');
        else
            assert_true(state == 'f' || state == 'c');
    }
    check(run->pool);
}

static void op_begin(struct random_run *run, struct holder *h)
{
    uint32_t want = 1 + draw(run, 7);
    uint32_t tokens[8 * BT];
    struct hash128 parent;
    *h = (struct holder){.first = 1000 * draw(run, 6)};
    tokens_fill(tokens, want * BT, h->first);
    uint32_t hits = kv_pool_match(run->pool, SALT_A, tokens, want * BT, want, h->refs, &parent);
    uint32_t available = kv_pool_available(run->pool);
    enum status st = kv_pool_alloc(run->pool, want - hits, h->refs + hits);
    assert_int_equal(st, want - hits <= available ? ST_OK : ST_NO_BLOCKS);
    if (st != ST_OK) {
        kv_pool_release(run->pool, h->refs, hits);
        return;
    }
    h->n = want;
    if (draw(run, 2) && hits < want) {
        h->n_loaned = want - hits;
        kv_pool_loan(run->pool, h->refs + hits, h->n_loaned);
        return;
    }
    for (uint32_t i = hits; i < want; i++) {
        struct hash128 key;
        kv_pool_seal(run->pool, h->refs[i], SALT_A, i > 0 ? &parent : NULL, tokens + i * BT, &key);
        parent = key;
    }
}

static void op_end(struct random_run *run, struct holder *h)
{
    uint32_t kept = h->n - h->n_loaned;
    if (h->quarantined) {
        kv_pool_loan_end(run->pool, h->refs, h->n);
        h->n = 0;
    } else if (h->n_loaned > 0 && draw(run, 2)) {
        assert_int_equal(kv_pool_loan_check(run->pool, EPOCH, h->refs + kept, h->n_loaned,
                                            h->refs + kept, h->n_loaned),
                         ST_OK);
        kv_pool_loan_end(run->pool, h->refs + kept, h->n_loaned);
        h->n_loaned = 0;
    } else if (h->n_loaned > 0) {
        kv_pool_quarantine(run->pool, h->refs + kept, h->n_loaned);
        kv_pool_release(run->pool, h->refs, kept);
        memmove(h->refs, h->refs + kept, h->n_loaned * sizeof(h->refs[0]));
        h->n = h->n_loaned;
        h->n_loaned = 0;
        h->quarantined = 1;
    } else {
        kv_pool_release(run->pool, h->refs, h->n);
        h->n = 0;
    }
}

static void op_events(struct random_run *run)
{
    struct kv_cache_event events[64];
    bool reset;
    uint32_t max = 1 + draw(run, 64);
    if (draw(run, 20) == 0)
        kv_pool_events_restart(run->pool);
    uint32_t n = kv_pool_events(run->pool, events, max, &reset);
    mirror_apply(&run->mirror, events, n, reset);
}

static void test_pool_random_operations_agree_with_a_naive_model(void **state)
{
    (void)state;
    struct random_run run = {.pool = pool_new(RANDOM_BLOCKS, 1), .seed = 20240501};
    for (uint32_t op = 0; op < RANDOM_OPS; op++) {
        struct holder *h = &run.holders[draw(&run, RANDOM_HOLDERS)];
        if (draw(&run, 10) == 0)
            op_events(&run);
        else if (h->n == 0)
            op_begin(&run, h);
        else
            op_end(&run, h);
        model_check(&run);
    }
    for (uint32_t i = 0; i < RANDOM_HOLDERS; i++) {
        while (run.holders[i].n > 0)
            op_end(&run, &run.holders[i]);
    }
    for (uint32_t i = 0; i < 100; i++)
        op_events(&run);
    struct kv_pool_counts c = kv_pool_counts(run.pool);
    assert_int_equal(c.free + c.cached, RANDOM_BLOCKS);
    assert_int_equal(run.mirror.n, c.cached); /* the mirror knows exactly the cached keys */
    kv_pool_destroy(run.pool);
}

static void test_pool_events_overflow_starts_over_with_a_reset(void **state)
{
    (void)state;
    struct kv_pool *pool = pool_new(4, 1);
    struct kv_cache_event events[8];
    struct mirror mirror = {0};
    struct kv_block_ref refs[4];
    bool reset;
    for (uint32_t round = 0; round < 100; round++) {
        make_chain(pool, SALT_A, 1000 * round, 4, refs);
        kv_pool_release(pool, refs, 4);
    }
    uint32_t n = kv_pool_events(pool, events, 3, &reset);
    assert_true(reset);
    mirror_apply(&mirror, events, n, reset);
    n = kv_pool_events(pool, events, 8, &reset);
    assert_false(reset);
    mirror_apply(&mirror, events, n, reset);
    assert_int_equal(mirror.n, 4);
    kv_pool_destroy(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pool_create_without_blocks_is_invalid),
        cmocka_unit_test(test_pool_alloc_when_short_takes_nothing),
        cmocka_unit_test(test_pool_alloc_gives_each_life_a_new_generation),
        cmocka_unit_test(test_pool_release_of_sealed_block_keeps_it_cached),
        cmocka_unit_test(test_pool_match_shares_an_owned_block),
        cmocka_unit_test(test_pool_match_respects_salt_bounds_and_parent),
        cmocka_unit_test(test_pool_seal_of_a_known_key_leaves_the_block_private),
        cmocka_unit_test(test_pool_without_prefix_cache_keeps_no_key),
        cmocka_unit_test(
            test_pool_alloc_evicts_oldest_first_and_ends_of_chains_before_their_starts),
        cmocka_unit_test(test_pool_loan_check_believes_only_the_exact_loan),
        cmocka_unit_test(test_pool_quarantined_block_is_given_to_nobody_until_the_loan_ends),
        cmocka_unit_test(test_pool_events_tell_changes_in_order),
        cmocka_unit_test(test_pool_events_overflow_starts_over_with_a_reset),
        cmocka_unit_test(test_pool_random_operations_agree_with_a_naive_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
