/* Two steps under way: what the second one contains, and what becomes of it when the first one
 * turns out otherwise. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "unit/worker_core/kit.h"

struct planned {
    struct step_plan plan;
    struct step_item items[64];
};

static void ahead_init(struct kit *kit, uint32_t block_count)
{
    struct worker_core_opts opts = kit_opts(WIRE_ROLE_UNIFIED, block_count);
    opts.steps_max = 2;
    kit_init(kit, &opts);
}

static struct planned plan_step(struct kit *kit)
{
    struct planned p;
    assert_true(kit_plan(kit));
    p.plan = kit->plan;
    memcpy(p.items, kit->items, sizeof(p.items));
    return p;
}

static void finish(struct kit *kit, const struct planned *p, enum status st, uint32_t token)
{
    kit_finish_plan(kit, &p->plan, p->items, st, token);
}

/* Runs what there is, two steps at a time; returns how many steps that took. */
static uint32_t run_out(struct kit *kit)
{
    uint32_t n = 0;
    if (!kit_plan(kit))
        return 0;
    struct planned oldest = {.plan = kit->plan}, next;
    memcpy(oldest.items, kit->items, sizeof(oldest.items));
    for (bool any = true; any; n++) {
        assert_true(n < 1000);
        bool is_behind = kit_plan(kit);
        next.plan = kit->plan;
        memcpy(next.items, kit->items, sizeof(next.items));
        finish(kit, &oldest, ST_OK, 0);
        any = is_behind || kit_plan(kit);
        if (any && !is_behind) {
            next.plan = kit->plan;
            memcpy(next.items, kit->items, sizeof(next.items));
        }
        oldest = next;
    }
    return n;
}

/* All tokens of a request so far are those of kit_finish_plan, from `position` on; returns how
 * many.
 */
static uint32_t tokens_of(const struct kit *kit, uint64_t request, uint32_t position)
{
    uint32_t n = 0;
    for (uint32_t i = 0; kit_sent(kit, WIRE_TOKENS, i) != NULL; i++) {
        const struct wire_tokens *t = &kit_sent(kit, WIRE_TOKENS, i)->u.tokens;
        for (uint32_t e = 0; e < t->n_entries; e++) {
            if (t->entries[e].seq.request != request)
                continue;
            assert_int_equal(t->entries[e].position, position + n);
            assert_int_equal(t->entries[e].tokens[0], 1000 + position + n);
            n++;
        }
    }
    return n;
}

static void test_step_behind_another_begins_with_what_that_samples(void **state)
{
    (void)state;
    struct kit kit;
    ahead_init(&kit, 16);
    kit_reserve(&kit, 1, 1, 6, 5, 1);
    struct planned a = plan_step(&kit);
    assert_int_equal(a.items[0].n_tokens, 6);
    assert_int_equal(a.items[0].after_item, 0);
    struct planned b = plan_step(&kit);
    assert_int_equal(b.plan.step_id, a.plan.step_id + 1);
    assert_int_equal(b.plan.n_items, 1);
    assert_int_equal(b.plan.n_tokens, 1);
    assert_int_equal(b.items[0].after_item, 1);
    assert_int_equal(b.items[0].n_tokens, 1);
    assert_int_equal(b.items[0].position, 6);
    assert_int_equal(b.items[0].n_blocks, 2);
    assert_int_equal(b.items[0].sample, 1);
    assert_int_equal(b.items[0].output_position, 1);
    assert_int_equal(kit_stats(&kit).step_tokens, 7);
    assert_false(kit_plan(&kit)); /* two are enough */

    finish(&kit, &b, ST_OK, 0); /* not its turn */
    assert_null(kit_sent(&kit, WIRE_TOKENS, 0));
    finish(&kit, &a, ST_OK, 0);
    assert_int_equal(tokens_of(&kit, 1, 0), 1);
    struct planned c = plan_step(&kit);
    assert_int_equal(c.items[0].after_item, 1);
    assert_int_equal(c.items[0].position, 7);
    assert_int_equal(c.items[0].output_position, 2);
    finish(&kit, &b, ST_OK, 0);
    finish(&kit, &c, ST_OK, 0);
    assert_int_equal(tokens_of(&kit, 1, 0), 3);
    struct planned d = plan_step(&kit); /* nothing is under way: the token is known */
    assert_int_equal(d.items[0].after_item, 0);
    assert_int_equal(d.items[0].tokens[0], 1002);
    finish(&kit, &d, ST_OK, 0);
    assert_int_equal(run_out(&kit), 1);
    assert_int_equal(tokens_of(&kit, 1, 0), 5);
    assert_int_equal(kit_stats(&kit).steps, 5); /* no step for nothing */
    assert_all_back(&kit);
    kit_deinit(&kit);
}

static void test_sequence_that_is_sure_to_end_is_left_out(void **state)
{
    (void)state;
    struct kit kit;
    struct worker_core_opts opts = kit_opts(WIRE_ROLE_UNIFIED, 16);
    opts.steps_max = 2;
    opts.max_context_tokens = 12;
    kit_init(&kit, &opts);
    kit_reserve(&kit, 1, 1, 4, 2, 1);  /* ends by its length */
    kit_reserve(&kit, 2, 1, 5, 99, 1); /* ... by the context */
    struct planned a = plan_step(&kit);
    struct planned b = plan_step(&kit);
    assert_int_equal(b.plan.n_items, 2);
    assert_int_equal(b.items[0].after_item, 1);
    assert_int_equal(b.items[1].after_item, 2);
    finish(&kit, &a, ST_OK, 0);
    struct planned c = plan_step(&kit);
    assert_int_equal(c.plan.n_items, 1);
    assert_int_equal(c.items[0].position, 6);
    assert_int_equal(c.items[0].after_item, 2); /* where it was, not where it is */
    finish(&kit, &b, ST_OK, 0);
    finish(&kit, &c, ST_OK, 0);
    assert_int_equal(run_out(&kit), 4);
    assert_int_equal(tokens_of(&kit, 1, 0), 2);
    assert_int_equal(tokens_of(&kit, 2, 0), 7);
    assert_all_back(&kit);
    kit_deinit(&kit);
}

static void test_token_behind_a_stop_is_thrown_away(void **state)
{
    (void)state;
    struct kit kit;
    ahead_init(&kit, 16);
    kit_reserve(&kit, 1, 1, 4, 9, 1);
    struct planned a = plan_step(&kit), b = plan_step(&kit);
    finish(&kit, &a, ST_OK, KIT_EOS);
    const struct wire_tokens *t = &kit_sent(&kit, WIRE_TOKENS, 0)->u.tokens;
    assert_int_equal(t->entries[0].finish, WIRE_FINISH_STOP);
    assert_true(kit_counts(&kit).owned > 0); /* the step behind writes into its blocks */
    assert_false(worker_core_is_idle(kit.core));
    assert_false(kit_plan(&kit));
    finish(&kit, &b, ST_OK, 0);
    assert_int_equal(kit_count(&kit, ACT_SEND, WIRE_TOKENS), 1);
    assert_int_equal(kit_stats(&kit).output_tokens, 1);
    assert_all_back(&kit);
    kit_deinit(&kit);
}

static void test_cancel_gives_blocks_back_after_the_last_step(void **state)
{
    (void)state;
    struct kit kit;
    ahead_init(&kit, 4);
    kit_reserve(&kit, 1, 1, 11, 9, 1);
    struct planned a = plan_step(&kit), b = plan_step(&kit);
    kit_cancel(&kit, 1, 1, 0);
    assert_cancelled(&kit, 0, 1, 0);
    kit_reserve(&kit, 2, 1, 11, 1, 1); /* needs the same blocks */
    finish(&kit, &a, ST_OK, 0);
    assert_int_equal(kit_counts(&kit).owned, 3);
    assert_false(kit_plan(&kit));
    assert_null(kit_sent(&kit, WIRE_RESERVED, 1));
    finish(&kit, &b, ST_OK, 0);
    assert_non_null(kit_sent(&kit, WIRE_RESERVED, 1));
    assert_int_equal(kit_count(&kit, ACT_SEND, WIRE_CANCELLED), 1);
    assert_int_equal(run_out(&kit), 1);
    assert_int_equal(tokens_of(&kit, 1, 0), 0);
    assert_int_equal(tokens_of(&kit, 2, 0), 1);
    assert_all_back(&kit);
    kit_deinit(&kit);
}

static void test_failed_step_takes_the_one_behind_it_along(void **state)
{
    (void)state;
    struct kit kit;
    ahead_init(&kit, 16);
    kit_reserve(&kit, 1, 1, 4, 9, 1);
    struct planned a = plan_step(&kit);
    kit_reserve(&kit, 2, 1, 5, 9, 1);
    struct planned b = plan_step(&kit);
    assert_int_equal(b.plan.n_items, 2);
    finish(&kit, &a, ST_NO_MEMORY, 0);
    assert_failed(&kit, 0, 1, ST_NO_MEMORY, 1);
    assert_null(kit_sent(&kit, WIRE_FAILED, 1));
    kit_reserve(&kit, 3, 1, 5, 2, 1);
    assert_false(kit_plan(&kit)); /* not behind a step that counts for nothing */
    finish(&kit, &b, ST_OK, 0);
    assert_failed(&kit, 1, 2, ST_NO_MEMORY, 1);
    assert_null(kit_sent(&kit, WIRE_TOKENS, 0));
    run_out(&kit);
    assert_int_equal(tokens_of(&kit, 3, 0), 2);
    assert_null(kit_sent(&kit, WIRE_FAILED, 2));
    assert_all_back(&kit);
    kit_deinit(&kit);
}

static void test_chunks_of_a_prompt_follow_each_other(void **state)
{
    (void)state;
    struct kit kit;
    ahead_init(&kit, 16);
    kit_reserve(&kit, 1, 1, 39, 3, 1);
    struct planned a = plan_step(&kit), b = plan_step(&kit);
    assert_int_equal(a.items[0].n_tokens, 16);
    assert_int_equal(b.items[0].position, 16);
    assert_int_equal(b.items[0].n_tokens, 16);
    assert_int_equal(b.items[0].tokens[0], 10016);
    assert_int_equal(b.items[0].sample, 0);
    finish(&kit, &a, ST_OK, 0);
    struct planned c = plan_step(&kit);
    assert_int_equal(c.items[0].position, 32);
    assert_int_equal(c.items[0].n_tokens, 7);
    assert_int_equal(c.items[0].sample, 1);
    finish(&kit, &b, ST_OK, 0);
    struct planned d = plan_step(&kit);
    assert_int_equal(d.items[0].after_item, 1);
    assert_int_equal(d.items[0].position, 39);
    finish(&kit, &c, ST_OK, 0);
    struct planned e = plan_step(&kit);
    assert_int_equal(e.items[0].position, 40);
    finish(&kit, &d, ST_OK, 0);
    finish(&kit, &e, ST_OK, 0);
    assert_int_equal(tokens_of(&kit, 1, 0), 3);
    assert_int_equal(kit_stats(&kit).prompt_tokens, 39);
    assert_false(kit_plan(&kit));
    assert_all_back(&kit);
    kit_deinit(&kit);
}

static void test_no_step_is_planned_behind_a_long_one(void **state)
{
    (void)state;
    struct kit kit;
    struct worker_core_opts opts = kit_opts(WIRE_ROLE_UNIFIED, 16);
    opts.steps_max = 2;
    opts.ahead_prompt_tokens = 7;
    kit_init(&kit, &opts);
    kit_reserve(&kit, 1, 1, 8, 9, 1);
    struct planned a = plan_step(&kit);
    assert_false(kit_plan(&kit));
    finish(&kit, &a, ST_OK, 0);
    struct planned b = plan_step(&kit), c = plan_step(&kit);
    assert_int_equal(c.items[0].after_item, 1);
    finish(&kit, &b, ST_OK, 0);
    kit_reserve(&kit, 2, 1, 7, 9, 1);
    struct planned d = plan_step(&kit);
    assert_int_equal(d.plan.n_tokens, 8);
    finish(&kit, &c, ST_OK, 0);
    struct planned e = plan_step(&kit); /* 7 prompt tokens are few enough */
    finish(&kit, &d, ST_OK, 0);
    finish(&kit, &e, ST_OK, 0);
    run_out(&kit);
    assert_int_equal(tokens_of(&kit, 1, 0), 9);
    assert_int_equal(tokens_of(&kit, 2, 0), 9);
    assert_all_back(&kit);
    kit_deinit(&kit);
}

static void test_blocks_of_a_step_under_way_are_no_hits(void **state)
{
    (void)state;
    struct kit kit;
    ahead_init(&kit, 32);
    struct wire_job job = kit_job(&kit, 1, 1, 9, 1);
    kit_reserve_job(&kit, &job, 1);
    struct planned a = plan_step(&kit);
    job.seq.request = 2; /* the same prompt */
    kit_reserve_job(&kit, &job, 1);
    assert_int_equal(kit_sent(&kit, WIRE_RESERVED, 1)->u.reserved.cached_tokens, 0);
    struct planned b = plan_step(&kit);
    assert_int_equal(b.plan.n_items, 1);
    assert_int_equal(b.items[0].position, 0);
    finish(&kit, &a, ST_OK, 0);
    job.seq.request = 3;
    kit_reserve_job(&kit, &job, 1);
    assert_int_equal(kit_sent(&kit, WIRE_RESERVED, 2)->u.reserved.cached_tokens, 8);
    struct planned c = plan_step(&kit);
    assert_int_equal(c.items[0].position, 8);
    finish(&kit, &b, ST_OK, 0);
    finish(&kit, &c, ST_OK, 0);
    assert_all_back(&kit);
    kit_deinit(&kit);
}

static void test_end_ids_are_banned_by_the_position_they_would_have(void **state)
{
    (void)state;
    struct kit kit;
    ahead_init(&kit, 16);
    struct wire_job job = kit_job(&kit, 1, 1, 4, 4);
    job.sampling.min_new_tokens = 2;
    kit_reserve_job(&kit, &job, 1);
    struct planned a = plan_step(&kit), b = plan_step(&kit);
    assert_int_equal(a.items[0].n_banned, 1);
    assert_int_equal(b.items[0].n_banned, 1);
    finish(&kit, &a, ST_OK, 0);
    struct planned c = plan_step(&kit);
    assert_int_equal(c.items[0].n_banned, 0);
    finish(&kit, &b, ST_OK, 0);
    finish(&kit, &c, ST_OK, KIT_EOS);
    assert_int_equal(kit_stats(&kit).output_tokens, 3);
    run_out(&kit);
    assert_all_back(&kit);
    kit_deinit(&kit);
}

static void test_preemption_waits_until_no_step_uses_the_blocks(void **state)
{
    (void)state;
    struct kit kit;
    ahead_init(&kit, 5);
    kit_reserve(&kit, 1, 1, 7, 10, 1); /* 2 blocks */
    kit_reserve(&kit, 2, 1, 7, 5, 1);  /* 2 blocks */
    struct planned a = plan_step(&kit), b = plan_step(&kit);
    assert_int_equal(b.plan.n_items, 2); /* 8 tokens each */
    finish(&kit, &a, ST_OK, 0);
    struct planned c = plan_step(&kit); /* both need a third block, the first one gets it */
    assert_int_equal(c.plan.n_items, 1);
    assert_int_equal(c.items[0].position, 8);
    assert_int_equal(kit_stats(&kit).preemptions, 0); /* b still writes */
    finish(&kit, &b, ST_OK, 0);
    struct planned d = plan_step(&kit);
    assert_int_equal(kit_stats(&kit).preemptions, 1);
    assert_int_equal(d.plan.n_items, 1);
    assert_int_equal(kit_stats(&kit).waiting, 1);
    finish(&kit, &c, ST_OK, 0);
    finish(&kit, &d, ST_OK, 0);
    while (run_out(&kit) > 0)
        ;
    assert_int_equal(tokens_of(&kit, 1, 0), 10);
    assert_int_equal(tokens_of(&kit, 2, 0), 5);
    assert_all_back(&kit);
    kit_deinit(&kit);
}

/* An older sequence that needs a block keeps the younger ones out of the next step, a prompt among
 * them too, until the youngest can be preempted. */
static void test_younger_ones_are_left_out_while_an_older_one_waits_for_a_block(void **state)
{
    (void)state;
    struct kit kit;
    ahead_init(&kit, 11);
    kit_reserve(&kit, 1, 1, 7, 10, 1);  /* 2 blocks */
    kit_reserve(&kit, 2, 1, 33, 10, 1); /* 9 blocks, three chunks */
    struct planned a = plan_step(&kit);
    assert_int_equal(a.plan.n_items, 2);
    struct planned b = plan_step(&kit);
    assert_int_equal(b.plan.n_items, 2);
    assert_int_equal(b.items[0].position, 7);
    assert_int_equal(b.items[1].position, 16);
    finish(&kit, &a, ST_OK, 0);
    assert_false(kit_plan(&kit)); /* the first needs a third block, from the second */
    assert_int_equal(kit_stats(&kit).preemptions, 0);
    finish(&kit, &b, ST_OK, 0);
    struct planned c = plan_step(&kit);
    assert_int_equal(kit_stats(&kit).preemptions, 1);
    assert_int_equal(c.plan.n_items, 1);
    assert_int_equal(c.items[0].position, 8);
    assert_int_equal(c.items[0].after_item, 0);
    finish(&kit, &c, ST_OK, 0);
    while (run_out(&kit) > 0)
        ;
    assert_int_equal(tokens_of(&kit, 1, 0), 10);
    assert_int_equal(tokens_of(&kit, 2, 0), 10);
    assert_all_back(&kit);
    kit_deinit(&kit);
}

static void test_age_of_a_step_counts_from_the_end_of_the_one_before(void **state)
{
    (void)state;
    struct kit kit;
    ahead_init(&kit, 16);
    kit_reserve(&kit, 1, 1, 4, 9, 1);
    struct planned a = plan_step(&kit), b = plan_step(&kit);
    kit.now += 5 * NS_PER_MS;
    assert_int_equal(kit_stats(&kit).step_age_ms, 5);
    finish(&kit, &a, ST_OK, 0);
    assert_int_equal(kit_stats(&kit).step_age_ms, 0);
    kit.now += 3 * NS_PER_MS;
    assert_int_equal(kit_stats(&kit).step_age_ms, 3);
    finish(&kit, &b, ST_OK, KIT_EOS);
    assert_all_back(&kit);
    kit_deinit(&kit);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_step_behind_another_begins_with_what_that_samples),
        cmocka_unit_test(test_sequence_that_is_sure_to_end_is_left_out),
        cmocka_unit_test(test_token_behind_a_stop_is_thrown_away),
        cmocka_unit_test(test_cancel_gives_blocks_back_after_the_last_step),
        cmocka_unit_test(test_failed_step_takes_the_one_behind_it_along),
        cmocka_unit_test(test_chunks_of_a_prompt_follow_each_other),
        cmocka_unit_test(test_no_step_is_planned_behind_a_long_one),
        cmocka_unit_test(test_blocks_of_a_step_under_way_are_no_hits),
        cmocka_unit_test(test_end_ids_are_banned_by_the_position_they_would_have),
        cmocka_unit_test(test_preemption_waits_until_no_step_uses_the_blocks),
        cmocka_unit_test(test_younger_ones_are_left_out_while_an_older_one_waits_for_a_block),
        cmocka_unit_test(test_age_of_a_step_counts_from_the_end_of_the_one_before),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
