/* Admission, steps, ends of sequences, preemption, connections, statistics: on local work. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "unit/worker_core/kit.h"

static const struct wire_tokens_entry *tokens_entry(const struct kit *kit, uint32_t frame,
                                                    uint32_t i)
{
    const struct wire_msg *msg = kit_sent(kit, WIRE_TOKENS, frame);
    assert_non_null(msg);
    assert_true(i < msg->u.tokens.n_entries);
    return &msg->u.tokens.entries[i];
}

static const struct wire_tokens_entry *last_entry(const struct kit *kit)
{
    uint32_t n = kit_count(kit, ACT_SEND, WIRE_TOKENS);
    assert_true(n > 0);
    const struct wire_msg *msg = kit_sent(kit, WIRE_TOKENS, n - 1);
    return &msg->u.tokens.entries[msg->u.tokens.n_entries - 1];
}

static void test_create_with_bad_sizes_is_invalid(void **state)
{
    (void)state;
    struct worker_core *core = NULL;
    struct worker_core_opts opts[12];
    for (uint32_t i = 0; i < 12; i++)
        opts[i] = kit_opts(WIRE_ROLE_UNIFIED, 8);
    opts[0].role = WIRE_ROLE_ROUTER;
    opts[1].pool.block_count = 0;
    opts[2].pool.layer_count = 0;
    opts[3].max_context_tokens = WIRE_TOKENS_MAX + 1;
    opts[4].max_seqs = 0;
    opts[5].queue_max = 0;
    opts[6].max_batch_tokens = KIT_BT - 1;
    opts[7].prefill_chunk_tokens = KIT_BT - 1;
    opts[8].n_eos = 9;
    opts[9].pool.block_tokens = 0;
    opts[10].steps_max = 0;
    opts[11].steps_max = 3;
    for (uint32_t i = 0; i < 12; i++)
        assert_int_equal(worker_core_create(&opts[i], &core), ST_INVALID);
    assert_null(core);
    worker_core_destroy(NULL);
}

static void test_local_request_runs_to_its_length(void **state)
{
    (void)state;
    struct kit kit;
    struct worker_core_opts opts = kit_opts(WIRE_ROLE_UNIFIED, 16);
    kit_init(&kit, &opts);
    kit_reserve(&kit, 1, 1, 6, 3, 1);
    const struct wire_msg *reserved = kit_sent(&kit, WIRE_RESERVED, 0);
    assert_non_null(reserved);
    assert_int_equal(reserved->u.reserved.n_blocks, 0);
    assert_int_equal(reserved->u.reserved.cached_tokens, 0);
    assert_int_equal(reserved->u.reserved.epoch, KIT_EPOCH);

    assert_true(kit_plan(&kit));
    assert_int_equal(kit.plan.n_items, 1);
    assert_int_equal(kit.plan.report_layers, 0);
    assert_int_equal(kit.items[0].n_tokens, 6);
    assert_int_equal(kit.items[0].n_blocks, 2);
    assert_int_equal(kit.items[0].sample, 1);
    assert_int_equal(kit.items[0].output_position, 0);
    assert_int_equal(kit.items[0].seed, 5);
    assert_int_equal(kit.items[0].tokens[5], 10005);
    kit_finish_step(&kit, ST_OK, 0);
    assert_int_equal(tokens_entry(&kit, 0, 0)->tokens[0], 1000);
    assert_int_equal(tokens_entry(&kit, 0, 0)->finish, WIRE_FINISH_NONE);

    assert_true(kit_plan(&kit));
    assert_int_equal(kit.items[0].n_tokens, 1);
    assert_int_equal(kit.items[0].position, 6);
    assert_int_equal(kit.items[0].tokens[0], 1000);
    assert_int_equal(kit.items[0].output_position, 1);
    kit_finish_step(&kit, ST_OK, 0);
    assert_true(kit_step(&kit));
    assert_int_equal(last_entry(&kit)->position, 2);
    assert_int_equal(last_entry(&kit)->finish, WIRE_FINISH_LENGTH);
    assert_false(kit_plan(&kit));
    assert_all_back(&kit);
    assert_int_equal(kit_counts(&kit).cached, 2); /* 6 prompt tokens and 2 outputs with KV */
    struct wire_stats stats = kit_stats(&kit);
    assert_int_equal(stats.steps, 3);
    assert_int_equal(stats.prompt_tokens, 6);
    assert_int_equal(stats.output_tokens, 3);
    kit_deinit(&kit);
}

static void test_resumed_request_continues_its_positions(void **state)
{
    (void)state;
    struct kit kit;
    struct worker_core_opts opts = kit_opts(WIRE_ROLE_UNIFIED, 16);
    kit_init(&kit, &opts);
    struct wire_job job = kit_job(&kit, 1, 2, 9, 6);
    job.n_prompt = 5;
    kit_reserve_job(&kit, &job, 1);
    assert_true(kit_plan(&kit));
    assert_int_equal(kit.items[0].output_position, 4);
    kit_finish_step(&kit, ST_OK, 0);
    assert_int_equal(last_entry(&kit)->position, 4);
    assert_true(kit_step(&kit));
    assert_int_equal(last_entry(&kit)->position, 5);
    assert_int_equal(last_entry(&kit)->finish, WIRE_FINISH_LENGTH);
    assert_all_back(&kit);
    kit_deinit(&kit);
}

/* Finish of a one-token answer `token` to a prompt of 4 under the given sampling. */
static uint32_t finish_of(struct kit *kit, const struct wire_sampling *sampling, uint32_t token)
{
    static uint64_t request = 100;
    struct wire_job job = kit_job(kit, request++, 1, 4, sampling->max_new_tokens);
    job.sampling = *sampling;
    kit_forget(kit);
    kit_reserve_job(kit, &job, 1);
    assert_true(kit_plan(kit));
    kit_finish_step(kit, ST_OK, token);
    const struct wire_tokens_entry *entry = last_entry(kit);
    assert_int_equal(entry->n_tokens, 1); /* the end id is in the entry */
    assert_int_equal(entry->tokens[0], token);
    uint32_t finish = entry->finish;
    if (finish == WIRE_FINISH_NONE)
        kit_cancel(kit, job.seq.request, 1, 0);
    assert_all_back(kit);
    return finish;
}

static void test_end_ids_end_a_sequence_as_the_sampling_says(void **state)
{
    (void)state;
    struct kit kit;
    struct worker_core_opts opts = kit_opts(WIRE_ROLE_UNIFIED, 16);
    kit_init(&kit, &opts);
    struct wire_sampling s = {.max_new_tokens = 5, .n_stop_ids = 1, .stop_ids = {7}};
    assert_int_equal(finish_of(&kit, &s, KIT_EOS), WIRE_FINISH_STOP);
    assert_int_equal(finish_of(&kit, &s, 7), WIRE_FINISH_STOP);
    assert_int_equal(finish_of(&kit, &s, 8), WIRE_FINISH_NONE);
    s.ignore_eos = 1;
    assert_int_equal(finish_of(&kit, &s, KIT_EOS), WIRE_FINISH_NONE);
    assert_int_equal(finish_of(&kit, &s, 7), WIRE_FINISH_STOP);
    s.min_new_tokens = 1;
    assert_int_equal(finish_of(&kit, &s, 7), WIRE_FINISH_NONE);
    s = (struct wire_sampling){.max_new_tokens = 1};
    assert_int_equal(finish_of(&kit, &s, KIT_EOS), WIRE_FINISH_STOP); /* before LENGTH */
    assert_int_equal(finish_of(&kit, &s, 8), WIRE_FINISH_LENGTH);
    kit_deinit(&kit);
}

static void test_end_ids_are_banned_below_min_new_tokens(void **state)
{
    (void)state;
    struct kit kit;
    struct worker_core_opts opts = kit_opts(WIRE_ROLE_UNIFIED, 16);
    kit_init(&kit, &opts);
    struct wire_job job = kit_job(&kit, 1, 1, 4, 9);
    job.sampling.min_new_tokens = 2;
    job.sampling.n_stop_ids = 2;
    job.sampling.stop_ids[0] = 7;
    job.sampling.stop_ids[1] = 9;
    kit_reserve_job(&kit, &job, 1);
    assert_true(kit_plan(&kit));
    assert_int_equal(kit.items[0].n_banned, 3);
    assert_int_equal(kit.items[0].banned[0], KIT_EOS);
    assert_int_equal(kit.items[0].banned[2], 9);
    kit_finish_step(&kit, ST_OK, 0);
    assert_true(kit_plan(&kit));
    assert_int_equal(kit.items[0].n_banned, 3);
    kit_finish_step(&kit, ST_OK, 0);
    assert_true(kit_plan(&kit));
    assert_int_equal(kit.items[0].n_banned, 0);
    kit_finish_step(&kit, ST_OK, 0);

    job = kit_job(&kit, 2, 1, 4, 9);
    job.sampling.min_new_tokens = 1;
    job.sampling.ignore_eos = 1;
    kit_cancel(&kit, 1, 1, 0);
    kit_reserve_job(&kit, &job, 1);
    assert_true(kit_plan(&kit));
    assert_int_equal(kit.items[0].n_banned, 0); /* eos is not banned when it is ignored */
    kit_finish_step(&kit, ST_OK, 0);
    kit_deinit(&kit);
}

static void test_full_context_ends_a_sequence(void **state)
{
    (void)state;
    struct kit kit;
    struct worker_core_opts opts = kit_opts(WIRE_ROLE_UNIFIED, 16);
    opts.max_context_tokens = 8;
    kit_init(&kit, &opts);
    kit_reserve(&kit, 1, 1, 6, 100, 1);
    assert_true(kit_step(&kit));
    assert_int_equal(last_entry(&kit)->finish, WIRE_FINISH_NONE);
    assert_true(kit_step(&kit));
    assert_int_equal(last_entry(&kit)->finish, WIRE_FINISH_LENGTH);
    kit_reserve(&kit, 2, 1, 8, 100, 1);
    assert_failed(&kit, 0, 2, ST_PROMPT_TOO_LONG, 1);
    assert_all_back(&kit);
    kit_deinit(&kit);
}

static void test_prompt_chunks_end_at_block_borders(void **state)
{
    (void)state;
    struct kit kit;
    struct worker_core_opts opts = kit_opts(WIRE_ROLE_UNIFIED, 16);
    opts.max_batch_tokens = 11;
    kit_init(&kit, &opts);
    kit_reserve(&kit, 1, 1, 26, 4, 1);
    kit_reserve(&kit, 2, 1, 3, 4, 1);
    assert_true(kit_plan(&kit));
    assert_int_equal(kit.plan.n_items, 2);
    assert_int_equal(kit.items[0].n_tokens, 8);
    assert_int_equal(kit.items[0].sample, 0);
    assert_int_equal(kit.items[1].n_tokens, 3); /* ends its prompt */
    assert_int_equal(kit.plan.n_tokens, 11);
    kit_finish_step(&kit, ST_OK, 0);
    assert_true(kit_plan(&kit));
    assert_int_equal(kit.plan.n_items, 2);
    assert_int_equal(kit.items[0].n_tokens, 1); /* decodes go first */
    assert_int_equal(kit.items[0].position, 3);
    assert_int_equal(kit.items[1].position, 8);
    assert_int_equal(kit.items[1].n_tokens, 8);
    kit_finish_step(&kit, ST_OK, 0);
    assert_true(kit_plan(&kit));
    assert_int_equal(kit.items[1].position, 16);
    assert_int_equal(kit.items[1].n_tokens, 10);
    assert_int_equal(kit.items[1].sample, 1);
    kit_finish_step(&kit, ST_OK, 0);
    kit_deinit(&kit);
}

static void test_prompt_makes_progress_however_many_sequences_decode(void **state)
{
    (void)state;
    struct kit kit;
    struct worker_core_opts opts = kit_opts(WIRE_ROLE_UNIFIED, 64);
    opts.max_batch_tokens = 5;
    kit_init(&kit, &opts);
    for (uint64_t r = 1; r <= 5; r++)
        kit_reserve(&kit, r, 1, 2, 50, 1);
    while (kit_stats(&kit).queued_tokens > 0)
        assert_true(kit_step(&kit));
    kit_reserve(&kit, 6, 1, 12, 50, 1);
    for (uint32_t i = 0; i < 3; i++)
        assert_true(kit_step(&kit));
    assert_int_equal(kit_stats(&kit).queued_tokens, 0);
    kit_deinit(&kit);
}

static void test_prefix_cache_leaves_one_token_to_compute(void **state)
{
    (void)state;
    struct kit kit;
    struct worker_core_opts opts = kit_opts(WIRE_ROLE_UNIFIED, 16);
    kit_init(&kit, &opts);
    struct wire_job job = kit_job(&kit, 1, 1, 8, 1);
    kit_reserve_job(&kit, &job, 1);
    assert_true(kit_step(&kit));
    kit_forget(&kit);
    job.seq.attempt = 2;
    kit_reserve_job(&kit, &job, 1);
    assert_int_equal(kit_sent(&kit, WIRE_RESERVED, 0)->u.reserved.cached_tokens, 4);
    assert_true(kit_plan(&kit));
    assert_int_equal(kit.items[0].position, 4);
    assert_int_equal(kit.items[0].n_tokens, 4);
    kit_finish_step(&kit, ST_OK, 0);
    job.seq.attempt = 3;
    job.salt[0] = 1;
    kit_forget(&kit);
    kit_reserve_job(&kit, &job, 1);
    assert_int_equal(kit_sent(&kit, WIRE_RESERVED, 0)->u.reserved.cached_tokens, 0);
    assert_int_equal(kit_stats(&kit).cached_tokens, 4);
    kit_deinit(&kit);
}

static void test_reservation_waits_for_blocks_in_order(void **state)
{
    (void)state;
    struct kit kit;
    struct worker_core_opts opts = kit_opts(WIRE_ROLE_UNIFIED, 4);
    kit_init(&kit, &opts);
    kit_reserve(&kit, 1, 1, 10, 2, 1); /* 3 blocks */
    kit_reserve(&kit, 2, 1, 9, 2, 1);  /* 3: waits */
    kit_reserve(&kit, 3, 1, 2, 2, 1);  /* 1: would fit, but not before the one in front */
    assert_int_equal(kit_count(&kit, ACT_SEND, WIRE_RESERVED), 1);
    assert_int_equal(kit_stats(&kit).waiting, 2);
    assert_true(kit_step(&kit));
    assert_true(kit_step(&kit)); /* the first one ends */
    assert_int_equal(kit_count(&kit, ACT_SEND, WIRE_RESERVED), 3);
    assert_int_equal(kit_sent(&kit, WIRE_RESERVED, 1)->u.reserved.seq.request, 2);
    while (kit_step(&kit))
        ;
    assert_all_back(&kit);
    kit_deinit(&kit);
}

/* A worker died before it could say that the token it had just drawn was the last. */
static void test_reserve_of_a_log_that_has_ended_tells_its_finish_alone(void **state)
{
    (void)state;
    struct kit kit;
    struct worker_core_opts opts = kit_opts(WIRE_ROLE_DECODE, 8);
    kit_init(&kit, &opts);
    struct wire_job job = kit_job(&kit, 1, 2, 6, 2);
    job.n_prompt = 4; /* two outputs are there, and two is the most */
    kit_reserve_job(&kit, &job, 1);
    struct wire_tokens_entry entry = kit_sent(&kit, WIRE_TOKENS, 0)->u.tokens.entries[0];
    assert_int_equal(entry.position, 1);
    assert_int_equal(entry.n_tokens, 1);
    assert_int_equal(entry.tokens[0], job.tokens[5]);
    assert_int_equal(entry.finish, WIRE_FINISH_LENGTH);
    job.seq.request = 2;
    job.sampling.max_new_tokens = 9;
    job.sampling.n_stop_ids = 1;
    job.sampling.stop_ids[0] = job.tokens[5];
    kit_reserve_job(&kit, &job, 1);
    entry = kit_sent(&kit, WIRE_TOKENS, 1)->u.tokens.entries[0];
    assert_int_equal(entry.finish, WIRE_FINISH_STOP);
    assert_int_equal(kit_count(&kit, ACT_SEND, WIRE_RESERVED), 0);
    assert_false(kit_step(&kit));
    job.seq.request = 3;
    job.sampling.min_new_tokens = 2; /* an end id this early is a token like others */
    kit_reserve_job(&kit, &job, 1);
    assert_int_equal(kit_count(&kit, ACT_SEND, WIRE_RESERVED), 1);
    while (kit_step(&kit))
        ;
    assert_all_back(&kit);
    kit_deinit(&kit);
}

static void test_refusals_say_why(void **state)
{
    (void)state;
    struct kit kit;
    struct worker_core_opts opts = kit_opts(WIRE_ROLE_UNIFIED, 4);
    opts.queue_max = 2;
    kit_init(&kit, &opts);
    kit_reserve(&kit, 1, 1, 16, 2, 1); /* 17 tokens can never fit into 16 */
    assert_failed(&kit, 0, 1, ST_TOO_LARGE, 1);
    kit_reserve(&kit, 2, 1, 3, 2, 0);
    assert_failed(&kit, 1, 2, ST_UNSUPPORTED, 1); /* a unified worker lends nothing */
    struct wire_job job = kit_job(&kit, 3, 1, 4, 2);
    job.sampling.max_new_tokens = 0; /* asks for nothing */
    kit_reserve_job(&kit, &job, 1);
    assert_failed(&kit, 2, 3, ST_INVALID, 1);
    job = kit_job(&kit, 3, 1, 4, 2);
    job.n_prompt = 5;
    kit_reserve_job(&kit, &job, 1);
    assert_failed(&kit, 3, 3, ST_INVALID, 1);
    job.n_prompt = 0;
    kit_reserve_job(&kit, &job, 1);
    assert_failed(&kit, 4, 3, ST_INVALID, 1);
    job = kit_job(&kit, 3, 1, 4, 2);
    job.sampling.n_stop_ids = WIRE_STOP_IDS_MAX + 1;
    kit_reserve_job(&kit, &job, 1);
    assert_failed(&kit, 5, 3, ST_INVALID, 1);
    kit_reserve(&kit, 4, 1, 4, 2, 1);
    kit_reserve(&kit, 5, 1, 4, 2, 1);
    kit_reserve(&kit, 6, 1, 4, 2, 1);
    assert_failed(&kit, 6, 6, ST_FULL, 1);
    struct wire_msg prefill = {.type = WIRE_PREFILL, .u.prefill.job = kit_job(&kit, 7, 1, 4, 2)};
    kit_message(&kit, 0, &prefill);
    assert_failed(&kit, 7, 7, ST_UNSUPPORTED, 1);
    worker_core_drain(kit.core, kit.now);
    kit_drain(&kit);
    kit_reserve(&kit, 8, 1, 4, 2, 1);
    assert_failed(&kit, 8, 8, ST_DRAINING, 1);
    kit_deinit(&kit);
}

static void test_decode_without_blocks_preempts_the_youngest(void **state)
{
    (void)state;
    struct kit kit;
    struct worker_core_opts opts = kit_opts(WIRE_ROLE_UNIFIED, 5);
    kit_init(&kit, &opts);
    kit_reserve(&kit, 1, 1, 7, 10, 1); /* 2 blocks */
    kit_reserve(&kit, 2, 1, 7, 3, 1);  /* 2 blocks */
    kit_reserve(&kit, 3, 1, 11, 3, 1); /* 3: waits, one block is left */
    assert_true(kit_step(&kit));       /* both prompts: 8 tokens */
    assert_true(kit_step(&kit));       /* both decode: 9 tokens */
    assert_int_equal(kit_stats(&kit).preemptions, 0);
    assert_true(kit_plan(&kit)); /* both need a third block, the first one gets it */
    assert_int_equal(kit_stats(&kit).preemptions, 1);
    assert_int_equal(kit.plan.n_items, 1);
    assert_int_equal(kit.items[0].position, 8);
    assert_int_equal(kit_stats(&kit).waiting, 2);
    kit_finish_step(&kit, ST_OK, 0);
    kit_forget(&kit);
    for (uint32_t i = 0; i < 100 && kit_stats(&kit).waiting > 1; i++)
        assert_true(kit_step(&kit));
    /* The preempted one came back before the reservation, without a second RESERVED. */
    assert_null(kit_sent(&kit, WIRE_RESERVED, 0));
    while (kit_step(&kit))
        ;
    uint32_t n_of_2 = 0;
    for (uint32_t i = 0; kit_sent(&kit, WIRE_TOKENS, i) != NULL; i++) {
        const struct wire_tokens *t = &kit_sent(&kit, WIRE_TOKENS, i)->u.tokens;
        for (uint32_t e = 0; e < t->n_entries; e++) {
            if (t->entries[e].seq.request != 2)
                continue;
            assert_int_equal(t->entries[e].position, 2 + n_of_2);
            assert_int_equal(t->entries[e].tokens[0], 1002 + n_of_2);
            n_of_2++;
        }
    }
    assert_int_equal(n_of_2, 1);
    assert_all_back(&kit);
    kit_deinit(&kit);
}

static void test_lone_sequence_that_outgrows_the_pool_fails_too_large(void **state)
{
    (void)state;
    struct kit kit;
    struct worker_core_opts opts = kit_opts(WIRE_ROLE_UNIFIED, 3);
    kit_init(&kit, &opts);
    kit_reserve(&kit, 1, 1, 5, 100, 1);
    for (uint32_t i = 0; i < 100 && kit_step(&kit); i++)
        ;
    assert_failed(&kit, 0, 1, ST_TOO_LARGE, 1);
    assert_all_back(&kit);
    kit_deinit(&kit);
}

static void test_pool_of_one_request_serves_all_in_turn(void **state)
{
    (void)state;
    struct kit kit;
    struct worker_core_opts opts = kit_opts(WIRE_ROLE_UNIFIED, 6);
    kit_init(&kit, &opts);
    for (uint64_t r = 1; r <= 8; r++)
        kit_reserve(&kit, r, 1, 9, 15, 1); /* 6 blocks at its end: the whole pool */
    for (uint32_t i = 0; i < 2000 && kit_step(&kit); i++)
        ;
    assert_int_equal(kit_count(&kit, ACT_SEND, WIRE_FAILED), 0);
    assert_int_equal(kit_stats(&kit).output_tokens, 8 * 15);
    assert_all_back(&kit);
    kit_deinit(&kit);
}

static void test_headroom_is_reserved_but_not_beyond_the_longest_answer(void **state)
{
    (void)state;
    struct kit kit;
    struct worker_core_opts opts = kit_opts(WIRE_ROLE_UNIFIED, 16);
    opts.headroom_blocks = 2;
    kit_init(&kit, &opts);
    kit_reserve(&kit, 1, 1, 6, 100, 1);
    assert_int_equal(kit_counts(&kit).owned, 4);
    kit_cancel(&kit, 1, 1, 0);
    kit_reserve(&kit, 2, 1, 6, 4, 1); /* KV for 9 tokens at most */
    assert_int_equal(kit_counts(&kit).owned, 3);
    kit_cancel(&kit, 2, 1, 0);
    kit_reserve(&kit, 3, 1, 8, 1, 1);
    assert_int_equal(kit_counts(&kit).owned, 2);
    kit_deinit(&kit);
}

static void test_cancel_in_a_running_step_gives_blocks_back_after_it(void **state)
{
    (void)state;
    struct kit kit;
    struct worker_core_opts opts = kit_opts(WIRE_ROLE_UNIFIED, 16);
    kit_init(&kit, &opts);
    kit_reserve(&kit, 1, 1, 6, 3, 1);
    assert_true(kit_plan(&kit));
    kit_cancel(&kit, 1, 1, 0);
    assert_cancelled(&kit, 0, 1, 0);
    assert_int_equal(kit_counts(&kit).owned, 2);
    assert_false(worker_core_is_idle(kit.core));
    kit_reserve(&kit, 1, 1, 6, 3, 1); /* a late repetition of the same attempt */
    assert_failed(&kit, 0, 1, ST_CANCELLED, 1);
    kit_cancel(&kit, 1, 1, 0);
    assert_cancelled(&kit, 1, 1, 0);
    kit_finish_step(&kit, ST_OK, 0);
    assert_null(kit_sent(&kit, WIRE_TOKENS, 0));
    assert_all_back(&kit);
    kit_cancel(&kit, 1, 1, 0); /* unknown by now */
    assert_cancelled(&kit, 2, 1, 0);
    kit_deinit(&kit);
}

static void test_cancel_while_waiting_lets_the_next_one_in(void **state)
{
    (void)state;
    struct kit kit;
    struct worker_core_opts opts = kit_opts(WIRE_ROLE_UNIFIED, 4);
    kit_init(&kit, &opts);
    kit_reserve(&kit, 1, 1, 8, 9, 1);
    kit_reserve(&kit, 2, 1, 9, 9, 1);
    kit_reserve(&kit, 3, 1, 2, 9, 1);
    assert_int_equal(kit_stats(&kit).waiting, 2);
    kit_cancel(&kit, 2, 1, 0);
    assert_cancelled(&kit, 0, 2, 0);
    assert_int_equal(kit_stats(&kit).waiting, 0);
    kit_deinit(&kit);
}

static void test_newer_attempt_replaces_the_older_and_older_ones_are_refused(void **state)
{
    (void)state;
    struct kit kit;
    struct worker_core_opts opts = kit_opts(WIRE_ROLE_UNIFIED, 16);
    kit_init(&kit, &opts);
    kit_reserve(&kit, 1, 2, 6, 3, 1);
    assert_true(kit_plan(&kit));
    kit_reserve(&kit, 1, 3, 6, 3, 1);
    assert_int_equal(kit_sent(&kit, WIRE_RESERVED, 1)->u.reserved.seq.attempt, 3);
    kit_reserve(&kit, 1, 1, 6, 3, 1);
    assert_failed(&kit, 0, 1, ST_CANCELLED, 1);
    kit_reserve(&kit, 1, 3, 6, 3, 1); /* again: the same answer again */
    assert_int_equal(kit_count(&kit, ACT_SEND, WIRE_RESERVED), 3);
    kit_finish_step(&kit, ST_OK, 0); /* that step was of attempt 2 */
    assert_null(kit_sent(&kit, WIRE_TOKENS, 0));
    while (kit_step(&kit))
        ;
    assert_int_equal(last_entry(&kit)->seq.attempt, 3);
    assert_int_equal(kit_stats(&kit).output_tokens, 3);
    assert_all_back(&kit);
    kit_deinit(&kit);
}

static void test_choices_of_one_request_are_apart(void **state)
{
    (void)state;
    struct kit kit;
    struct worker_core_opts opts = kit_opts(WIRE_ROLE_UNIFIED, 16);
    kit_init(&kit, &opts);
    for (uint32_t c = 0; c < 3; c++) {
        struct wire_job job = kit_job(&kit, 1, 1, 5, 2);
        job.seq.choice = c;
        kit_reserve_job(&kit, &job, 1);
    }
    assert_true(kit_plan(&kit));
    assert_int_equal(kit.plan.n_items, 3);
    assert_int_equal(kit.items[2].choice, 2);
    kit_finish_step(&kit, ST_OK, 0);
    assert_int_equal(kit_sent(&kit, WIRE_TOKENS, 0)->u.tokens.n_entries, 3); /* one frame */
    assert_true(kit_step(&kit));
    assert_all_back(&kit);
    kit_deinit(&kit);
}

static void test_failed_step_fails_all_its_sequences(void **state)
{
    (void)state;
    struct kit kit;
    struct worker_core_opts opts = kit_opts(WIRE_ROLE_UNIFIED, 16);
    kit_init(&kit, &opts);
    kit_reserve(&kit, 1, 1, 6, 3, 1);
    kit_reserve(&kit, 2, 1, 6, 3, 1);
    assert_true(kit_plan(&kit));
    kit_reserve(&kit, 3, 1, 6, 3, 1); /* not in that step */
    kit_finish_step(&kit, ST_IO, 0);
    assert_failed(&kit, 0, 1, ST_IO, 1);
    assert_failed(&kit, 1, 2, ST_IO, 1);
    assert_int_equal(kit_count(&kit, ACT_SEND, WIRE_FAILED), 2);
    assert_int_equal(kit_counts(&kit).cached, 0); /* undefined KV is not kept */
    assert_true(kit_step(&kit));
    kit_deinit(&kit);
}

static void test_result_without_a_token_fails_the_sequence(void **state)
{
    (void)state;
    struct kit kit;
    struct worker_core_opts opts = kit_opts(WIRE_ROLE_UNIFIED, 16);
    kit_init(&kit, &opts);
    kit_reserve(&kit, 1, 1, 6, 3, 1);
    assert_true(kit_plan(&kit));
    struct step_result result = {.step_id = kit.plan.step_id + 1};
    worker_core_step_done(kit.core, kit.now, &result); /* another step: nothing happens */
    kit_drain(&kit);
    assert_int_equal(kit.n_actions, 1);
    result.step_id = kit.plan.step_id;
    worker_core_step_done(kit.core, kit.now, &result);
    kit_drain(&kit);
    assert_failed(&kit, 0, 1, ST_INTERNAL, 1);
    assert_all_back(&kit);
    kit_deinit(&kit);
}

static void test_connection_down_ends_its_sequences_only(void **state)
{
    (void)state;
    struct kit kit;
    struct worker_core_opts opts = kit_opts(WIRE_ROLE_UNIFIED, 16);
    kit_init(&kit, &opts);
    worker_core_conn_up(kit.core, kit.now, 5, 901);
    kit_drain(&kit);
    struct wire_msg msg = {.type = WIRE_RESERVE,
                           .u.reserve = {.job = kit_job(&kit, 1, 1, 6, 3), .local = 1}};
    kit_message(&kit, 0, &msg);
    kit_message(&kit, 5, &msg); /* the same numbers of another router */
    assert_true(kit_plan(&kit));
    assert_int_equal(kit.plan.n_items, 2);
    worker_core_conn_down(kit.core, kit.now, 0);
    worker_core_conn_up(kit.core, kit.now, 0, 902);
    kit_drain(&kit);
    kit_forget(&kit);
    kit_finish_step(&kit, ST_OK, 0);
    assert_int_equal(kit_count(&kit, ACT_SEND, WIRE_TOKENS), 1);
    assert_int_equal(kit_action(&kit, ACT_SEND, WIRE_TOKENS, 0)->conn, 5);
    kit_message(&kit, 7, &msg); /* nobody is connected there */
    worker_core_conn_down(kit.core, kit.now, 7);
    worker_core_conn_up(kit.core, kit.now, 64, 1);
    while (kit_step(&kit))
        ;
    assert_all_back(&kit);
    kit_deinit(&kit);
}

static void test_same_router_on_a_new_connection_ends_the_old_one(void **state)
{
    (void)state;
    struct kit kit;
    struct worker_core_opts opts = kit_opts(WIRE_ROLE_UNIFIED, 16);
    kit_init(&kit, &opts);
    kit_reserve(&kit, 1, 1, 6, 3, 1);
    worker_core_conn_up(kit.core, kit.now, 1, KIT_ROUTER);
    kit_drain(&kit);
    assert_all_back(&kit);
    kit_forget(&kit);
    kit_cancel(&kit, 1, 1, 0); /* the old connection is not listened to */
    assert_int_equal(kit.n_actions, 0);
    kit_deinit(&kit);
}

static void test_stats_come_at_once_and_at_each_interval(void **state)
{
    (void)state;
    struct kit kit;
    struct worker_core_opts opts = kit_opts(WIRE_ROLE_UNIFIED, 16);
    kit_init(&kit, &opts);
    assert_int_equal(worker_core_deadline(kit.core), kit.now + NS_PER_S);
    worker_core_conn_up(kit.core, kit.now, 3, 903);
    kit_drain(&kit);
    assert_int_equal(kit_action(&kit, ACT_SEND, WIRE_STATS, 0)->conn, 3);
    kit_reserve(&kit, 1, 1, 6, 3, 1);
    assert_true(kit_plan(&kit));
    kit_forget(&kit);
    kit_tick(&kit, NS_PER_S / 2);
    assert_int_equal(kit_count(&kit, ACT_SEND, WIRE_STATS), 0);
    kit_tick(&kit, NS_PER_S / 2);
    assert_int_equal(kit_count(&kit, ACT_SEND, WIRE_STATS), 2);
    const struct wire_stats *stats = &kit_sent(&kit, WIRE_STATS, 0)->u.stats;
    assert_int_equal(stats->blocks_total, 16);
    assert_int_equal(stats->blocks_free, 14);
    assert_int_equal(stats->running, 1);
    assert_int_equal(stats->queued_tokens, 6);
    assert_int_equal(stats->step_age_ms, 1000);
    assert_int_equal(stats->step_tokens, 6);
    worker_core_conn_down(kit.core, kit.now, 0);
    worker_core_conn_down(kit.core, kit.now, 3);
    kit_drain(&kit);
    kit_tick(&kit, NS_PER_S);
    assert_int_equal(worker_core_deadline(kit.core), UINT64_MAX);
    kit_finish_step(&kit, ST_OK, 0);
    assert_all_back(&kit);
    kit_deinit(&kit);
}

static void test_cache_events_go_to_each_router_and_start_over_for_a_new_one(void **state)
{
    (void)state;
    struct kit kit;
    struct worker_core_opts opts = kit_opts(WIRE_ROLE_UNIFIED, 16);
    kit_init(&kit, &opts);
    worker_core_conn_up(kit.core, kit.now, 1, 901);
    kit_drain(&kit);
    kit_forget(&kit);
    kit_reserve(&kit, 1, 1, 9, 1, 1);
    assert_true(kit_step(&kit));
    assert_int_equal(kit_count(&kit, ACT_SEND, WIRE_CACHE), 2);
    const struct wire_cache *cache = &kit_sent(&kit, WIRE_CACHE, 0)->u.cache;
    assert_int_equal(cache->reset, 0);
    assert_int_equal(cache->n_entries, 2);
    assert_int_equal(cache->entries[0].added, 1);
    kit_forget(&kit);
    kit_tick(&kit, 1);
    assert_int_equal(kit_count(&kit, ACT_SEND, WIRE_CACHE), 0);
    worker_core_conn_up(kit.core, kit.now, 2, 902);
    kit_drain(&kit);
    assert_int_equal(kit_count(&kit, ACT_SEND, WIRE_CACHE), 3);
    cache = &kit_sent(&kit, WIRE_CACHE, 2)->u.cache;
    assert_int_equal(cache->reset, 1);
    assert_int_equal(cache->n_entries, 2);
    kit_deinit(&kit);
}

static void test_cache_events_beyond_one_batch_follow_soon(void **state)
{
    (void)state;
    struct kit kit;
    struct worker_core_opts opts = kit_opts(WIRE_ROLE_UNIFIED, 6000);
    opts.max_context_tokens = 20000;
    opts.max_batch_tokens = opts.prefill_chunk_tokens = 19000;
    kit_init(&kit, &opts);
    kit_reserve(&kit, 1, 1, 18000, 1, 1);
    assert_true(kit_step(&kit));
    uint32_t n = kit_sent(&kit, WIRE_CACHE, 0)->u.cache.n_entries;
    assert_true(n < 4500);
    assert_true(worker_core_deadline(kit.core) <= kit.now + NS_PER_MS);
    kit_tick(&kit, NS_PER_MS);
    assert_int_equal(n + kit_sent(&kit, WIRE_CACHE, 1)->u.cache.n_entries, 4500);
    assert_true(worker_core_deadline(kit.core) > kit.now + NS_PER_MS);
    kit_deinit(&kit);
}

static void test_drain_finishes_what_runs_and_says_leaving(void **state)
{
    (void)state;
    struct kit kit;
    struct worker_core_opts opts = kit_opts(WIRE_ROLE_UNIFIED, 16);
    kit_init(&kit, &opts);
    kit_reserve(&kit, 1, 1, 6, 2, 1);
    worker_core_drain(kit.core, kit.now);
    worker_core_drain(kit.core, kit.now);
    kit_drain(&kit);
    assert_int_equal(kit_count(&kit, ACT_SEND, WIRE_LEAVING), 1);
    assert_false(worker_core_is_idle(kit.core));
    worker_core_conn_up(kit.core, kit.now, 1, 901); /* a router that comes late hears it too */
    kit_drain(&kit);
    assert_int_equal(kit_count(&kit, ACT_SEND, WIRE_LEAVING), 2);
    while (kit_step(&kit))
        ;
    assert_int_equal(last_entry(&kit)->finish, WIRE_FINISH_LENGTH);
    assert_all_back(&kit);
    kit_deinit(&kit);
}

static void test_step_is_planned_one_at_a_time_and_bounded_by_max_seqs(void **state)
{
    (void)state;
    struct kit kit;
    struct worker_core_opts opts = kit_opts(WIRE_ROLE_UNIFIED, 64);
    opts.max_seqs = 2;
    kit_init(&kit, &opts);
    for (uint64_t r = 1; r <= 4; r++)
        kit_reserve(&kit, r, 1, 3, 4, 1);
    assert_true(kit_plan(&kit));
    assert_int_equal(kit.plan.n_items, 2);
    struct step_plan second;
    assert_false(worker_core_next_step(kit.core, kit.now, &second));
    kit_finish_step(&kit, ST_OK, 0);
    while (kit_step(&kit))
        assert_true(kit.plan.n_items <= 2);
    assert_int_equal(kit_stats(&kit).output_tokens, 16);
    assert_all_back(&kit);
    kit_deinit(&kit);
}

static void test_messages_without_meaning_are_ignored(void **state)
{
    (void)state;
    struct kit kit;
    struct worker_core_opts opts = kit_opts(WIRE_ROLE_UNIFIED, 16);
    kit_init(&kit, &opts);
    struct wire_msg msg = {.type = WIRE_STATS};
    kit_message(&kit, 0, &msg);
    kit_record(&kit, 1, &msg);
    kit_peer_gone(&kit, 12345);
    worker_core_peer_error(kit.core, kit.now, 12345);
    kit_fenced(&kit, 12345);
    worker_core_push_done(kit.core, kit.now, 0, ST_OK);
    worker_core_push_done(kit.core, kit.now, 99, ST_OK);
    worker_core_layers_done(kit.core, kit.now, 1, 0, 1);
    kit_drain(&kit);
    assert_int_equal(kit.n_actions, 0);
    kit_deinit(&kit);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_create_with_bad_sizes_is_invalid),
        cmocka_unit_test(test_local_request_runs_to_its_length),
        cmocka_unit_test(test_resumed_request_continues_its_positions),
        cmocka_unit_test(test_end_ids_end_a_sequence_as_the_sampling_says),
        cmocka_unit_test(test_end_ids_are_banned_below_min_new_tokens),
        cmocka_unit_test(test_full_context_ends_a_sequence),
        cmocka_unit_test(test_prompt_chunks_end_at_block_borders),
        cmocka_unit_test(test_prompt_makes_progress_however_many_sequences_decode),
        cmocka_unit_test(test_prefix_cache_leaves_one_token_to_compute),
        cmocka_unit_test(test_reservation_waits_for_blocks_in_order),
        cmocka_unit_test(test_reserve_of_a_log_that_has_ended_tells_its_finish_alone),
        cmocka_unit_test(test_refusals_say_why),
        cmocka_unit_test(test_decode_without_blocks_preempts_the_youngest),
        cmocka_unit_test(test_lone_sequence_that_outgrows_the_pool_fails_too_large),
        cmocka_unit_test(test_pool_of_one_request_serves_all_in_turn),
        cmocka_unit_test(test_headroom_is_reserved_but_not_beyond_the_longest_answer),
        cmocka_unit_test(test_cancel_in_a_running_step_gives_blocks_back_after_it),
        cmocka_unit_test(test_cancel_while_waiting_lets_the_next_one_in),
        cmocka_unit_test(test_newer_attempt_replaces_the_older_and_older_ones_are_refused),
        cmocka_unit_test(test_choices_of_one_request_are_apart),
        cmocka_unit_test(test_failed_step_fails_all_its_sequences),
        cmocka_unit_test(test_result_without_a_token_fails_the_sequence),
        cmocka_unit_test(test_connection_down_ends_its_sequences_only),
        cmocka_unit_test(test_same_router_on_a_new_connection_ends_the_old_one),
        cmocka_unit_test(test_stats_come_at_once_and_at_each_interval),
        cmocka_unit_test(test_cache_events_go_to_each_router_and_start_over_for_a_new_one),
        cmocka_unit_test(test_cache_events_beyond_one_batch_follow_soon),
        cmocka_unit_test(test_drain_finishes_what_runs_and_says_leaving),
        cmocka_unit_test(test_step_is_planned_one_at_a_time_and_bounded_by_max_seqs),
        cmocka_unit_test(test_messages_without_meaning_are_ignored),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
