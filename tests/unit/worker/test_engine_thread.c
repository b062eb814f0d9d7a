/* The engine thread with the hash runner: order of results, refused plans, its end; and a worker
 * core before it, whose streams must be the same with one step under way and with two. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/philox.h"
#include "engine/hash_expect.h"
#include "worker/core.h"
#include "worker/engine_thread.h"

#include <errno.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>

enum {
    BT = 16,
    BLOCKS = 48,
    LAYERS = 3,
    VOCAB = 61,
    CONTEXT = 256,
    SEQS = 6,
    EOS = 3,
    REQUESTS = 60,
    TOKENS_MAX = 128
};

struct bench {
    struct engine_thread *engine;
    sem_t wakes;
    void *pool;
};

static void on_wake(void *arg)
{
    struct bench *b = arg;
    sem_post(&b->wakes);
}

static struct engine_event next_event(struct bench *b)
{
    struct engine_event event;
    while (!engine_thread_next_event(b->engine, &event)) {
        while (sem_wait(&b->wakes) != 0)
            assert_int_equal(errno, EINTR);
    }
    return event;
}

static void bench_open(struct bench *b, uint32_t step_delay_us)
{
    struct runner_opts opts = {.kind = RUNNER_HASH,
                               .block_tokens = BT,
                               .max_batch_tokens = 256,
                               .max_seqs = SEQS,
                               .max_context_tokens = CONTEXT,
                               .layer_groups = 2,
                               .hash_vocab_size = VOCAB,
                               .hash_layer_count = LAYERS,
                               .hash_step_delay_us = step_delay_us};
    struct engine_event event;
    assert_int_equal(sem_init(&b->wakes, 0, 0), 0);
    assert_int_equal(engine_thread_create(&opts, on_wake, b, &b->engine), ST_OK);
    do
        event = next_event(b);
    while (event.kind != ENGINE_LOADED);
    assert_int_equal(event.status, ST_OK);
    struct runner *runner = engine_thread_runner(b->engine);
    assert_int_equal(runner_depth(runner), 2);
    b->pool = calloc(BLOCKS, runner_geometry(runner)->block_bytes);
    assert_non_null(b->pool);
    assert_int_equal(runner_set_pool(runner, b->pool, BLOCKS), ST_OK);
    engine_thread_answered(b->engine);
}

static void bench_close(struct bench *b)
{
    engine_thread_destroy(b->engine);
    free(b->pool);
    sem_destroy(&b->wakes);
}

/* One sequence at block 0: n tokens from the start, or the one behind what the step before sampled.
 */
static struct step_plan plan_of(struct step_item *item, uint64_t step_id, const uint32_t *tokens,
                                uint32_t position, uint32_t n_tokens)
{
    static const uint32_t blocks[] = {0, 1, 2, 3};
    *item = (struct step_item){.item_id = 7,
                               .n_tokens = n_tokens,
                               .position = position,
                               .n_blocks = 4,
                               .tokens = tokens,
                               .after_item = tokens == NULL,
                               .blocks = blocks,
                               .sample = 1,
                               .top_p = 1};
    return (struct step_plan){
        .step_id = step_id, .n_items = 1, .n_tokens = n_tokens, .items = item};
}

static uint32_t step_result_of(struct bench *b, uint64_t step_id, enum status st)
{
    struct engine_event event = next_event(b);
    assert_int_equal(event.kind, ENGINE_STEP);
    assert_int_equal(event.result->step_id, step_id);
    assert_int_equal(event.result->status, st);
    assert_int_equal(event.result->n_tokens, st == ST_OK);
    return st == ST_OK ? event.result->tokens[0] : 0;
}

static void test_engine_thread_gives_results_in_order(void **state)
{
    struct bench b;
    struct step_item items[2];
    struct hash_expect expect;
    uint32_t tokens[5] = {9, 8, 7, 6, 5};
    uint8_t salt[16] = {0};
    (void)state;
    bench_open(&b, 200);
    hash_expect_init(&expect, LAYERS, VOCAB, salt);
    for (uint32_t i = 0; i < 5; i++)
        hash_expect_push(&expect, tokens[i]);
    struct step_plan plan = plan_of(&items[1], 1, tokens, 0, 5);
    engine_thread_run(b.engine, &plan);
    for (uint32_t step = 1; step <= 40; step++) {
        plan = plan_of(&items[(step + 1) % 2], step + 1, NULL, 4 + step, 1);
        if (step % 3 == 0)
            engine_thread_answered(b.engine); /* a plan that comes while it waits for a result */
        engine_thread_run(b.engine, &plan);
        engine_thread_answered(b.engine);
        uint32_t token = step_result_of(&b, step, ST_OK);
        assert_int_equal(token, hash_expect_next(&expect, &(struct hash_sampling){.top_p = 1}));
        hash_expect_push(&expect, token);
    }
    engine_thread_answered(b.engine);
    step_result_of(&b, 41, ST_OK);
    bench_close(&b);
}

static void test_engine_thread_reports_refused_plans_in_their_turn(void **state)
{
    struct bench b;
    struct step_item items[2];
    uint32_t tokens[1] = {9};
    (void)state;
    bench_open(&b, 1000);
    struct step_plan first = plan_of(&items[0], 1, tokens, 0, 1);
    struct step_plan bad = plan_of(&items[1], 2, tokens, 100, 1); /* beyond its blocks */
    engine_thread_run(b.engine, &first);
    engine_thread_run(b.engine, &bad);
    step_result_of(&b, 1, ST_OK);
    struct step_plan behind =
        plan_of(&items[0], 3, NULL, 1, 1); /* what it begins with is not there */
    engine_thread_run(b.engine, &behind);
    engine_thread_answered(b.engine);
    step_result_of(&b, 2, ST_INVALID);
    engine_thread_answered(b.engine);
    step_result_of(&b, 3, ST_INVALID);
    struct step_plan good = plan_of(&items[1], 4, tokens, 1, 1);
    engine_thread_run(b.engine, &good);
    engine_thread_answered(b.engine);
    step_result_of(&b, 4, ST_OK);
    bench_close(&b);
}

static void test_engine_thread_ends_with_steps_under_way(void **state)
{
    struct bench b;
    struct step_item items[2];
    uint32_t tokens[1] = {9};
    (void)state;
    for (uint32_t n = 0; n <= 2; n++) {
        bench_open(&b, 3000);
        struct step_plan first = plan_of(&items[0], 1, tokens, 0, 1);
        struct step_plan second = plan_of(&items[1], 2, NULL, 1, 1);
        if (n > 0)
            engine_thread_run(b.engine, &first);
        if (n > 1)
            engine_thread_run(b.engine, &second);
        bench_close(&b);
    }
}

/* ---- a worker core before it ---- */

struct stream {
    uint32_t tokens[TOKENS_MAX];
    uint32_t n_tokens, finish;
};

struct request {
    uint32_t tokens[TOKENS_MAX];
    struct wire_job job;
};

static void request_fill(struct rng *rng, struct request *r, const struct request *before,
                         uint64_t number)
{
    uint32_t n = 1 + rng_below(rng, 90), shared = 0;
    if (before != NULL && rng_below(rng, 2))
        shared = before->job.n_tokens < n ? before->job.n_tokens : n;
    for (uint32_t i = 0; i < n; i++)
        r->tokens[i] = i < shared ? before->tokens[i] : rng_below(rng, VOCAB);
    r->job = (struct wire_job){.seq = {.request = number, .attempt = 1},
                               .sampling = {.temperature = 0.5f * (float)rng_below(rng, 3),
                                            .top_p = 1,
                                            .seed = rng_u64(rng),
                                            .max_new_tokens = 1 + rng_below(rng, 100),
                                            .min_new_tokens = rng_below(rng, 8),
                                            .n_stop_ids = 1,
                                            .stop_ids = {rng_below(rng, VOCAB)}},
                               .n_prompt = n,
                               .n_tokens = n,
                               .tokens = r->tokens};
}

static struct worker_core *core_open(struct runner *runner, uint32_t steps_max)
{
    const struct kv_geometry *g = runner_geometry(runner);
    struct worker_core_opts opts = {.role = WIRE_ROLE_UNIFIED,
                                    .instance = 1,
                                    .pool = {.block_count = BLOCKS,
                                             .epoch = 5,
                                             .layout_hash = g->layout_hash,
                                             .block_tokens = BT,
                                             .layer_count = LAYERS,
                                             .block_bytes = g->block_bytes},
                                    .prefix_cache = 1,
                                    .max_context_tokens = CONTEXT,
                                    .max_seqs = SEQS,
                                    .queue_max = REQUESTS,
                                    .max_batch_tokens = 64,
                                    .prefill_chunk_tokens = 32,
                                    .steps_max = steps_max,
                                    .ahead_prompt_tokens = UINT32_MAX,
                                    .n_eos = 1,
                                    .eos = {EOS},
                                    .stats_interval_ns = UINT64_MAX / 4};
    struct worker_core *core = NULL;
    assert_int_equal(worker_core_create(&opts, &core), ST_OK);
    worker_core_conn_up(core, 1, 0, 900);
    return core;
}

static uint32_t take_actions(struct worker_core *core, struct stream *streams)
{
    struct worker_action act;
    uint32_t n_ended = 0;
    while (worker_core_next_action(core, &act)) {
        assert_int_equal(act.kind, ACT_SEND);
        assert_int_not_equal(act.msg->type, WIRE_FAILED);
        for (uint32_t i = 0; act.msg->type == WIRE_TOKENS && i < act.msg->u.tokens.n_entries; i++) {
            const struct wire_tokens_entry *e = &act.msg->u.tokens.entries[i];
            struct stream *s = &streams[e->seq.request];
            assert_int_equal(e->position, s->n_tokens);
            s->tokens[s->n_tokens++] = e->tokens[0];
            s->finish = e->finish;
            n_ended += e->finish != WIRE_FINISH_NONE;
        }
    }
    return n_ended;
}

/* All requests, a few of them known at a time. Returns how many steps were planned behind another.
 */
static uint32_t serve(const struct request *requests, struct stream *streams, uint32_t steps_max)
{
    struct bench b;
    uint32_t n_ahead = 0, n_under_way = 0, n_ended = 0, n_sent = 0;
    char why[128] = "";
    bench_open(&b, 100);
    struct worker_core *core = core_open(engine_thread_runner(b.engine), steps_max);
    while (n_ended < REQUESTS) {
        while (n_sent < REQUESTS && n_sent - n_ended < 10) {
            struct wire_msg msg = {.type = WIRE_RESERVE,
                                   .u.reserve = {.job = requests[n_sent++].job, .local = 1}};
            worker_core_message(core, 1, 0, &msg);
        }
        n_ended += take_actions(core, streams);
        struct step_plan plan;
        while (worker_core_next_step(core, 1, &plan)) {
            n_ahead += n_under_way++ > 0;
            engine_thread_run(b.engine, &plan);
        }
        engine_thread_answered(b.engine);
        if (n_under_way == 0)
            continue;
        struct engine_event event = next_event(&b);
        assert_int_equal(event.kind, ENGINE_STEP);
        worker_core_step_done(core, 1, event.result);
        n_under_way--;
        n_ended += take_actions(core, streams);
        if (worker_core_check(core, why, sizeof(why)) != ST_OK)
            fail_msg("%s", why);
    }
    bench_close(&b);
    worker_core_destroy(core);
    return n_ahead;
}

static void assert_expected(const struct request *r, const struct stream *s)
{
    const struct wire_sampling *sampling = &r->job.sampling;
    struct hash_expect expect;
    const uint32_t ends[2] = {EOS, sampling->stop_ids[0]};
    hash_expect_init(&expect, LAYERS, VOCAB, r->job.salt);
    for (uint32_t i = 0; i < r->job.n_tokens; i++)
        hash_expect_push(&expect, r->tokens[i]);
    for (uint32_t i = 0; i < s->n_tokens; i++) {
        struct hash_sampling h = {.temperature = sampling->temperature,
                                  .top_p = sampling->top_p,
                                  .seed = sampling->seed,
                                  .output_position = i,
                                  .banned = ends,
                                  .n_banned = i < sampling->min_new_tokens ? 2 : 0};
        assert_int_equal(s->tokens[i], hash_expect_next(&expect, &h));
        hash_expect_push(&expect, s->tokens[i]);
        bool is_end =
            i >= sampling->min_new_tokens && (s->tokens[i] == ends[0] || s->tokens[i] == ends[1]);
        bool is_last = is_end || i + 1 == sampling->max_new_tokens;
        assert_int_equal(is_last, i + 1 == s->n_tokens);
    }
}

static void test_streams_are_the_same_with_one_step_under_way_and_with_two(void **state)
{
    static struct request requests[REQUESTS];
    static struct stream one[REQUESTS], two[REQUESTS];
    (void)state;
    for (uint64_t seed = 1; seed <= 4; seed++) {
        struct rng rng = {.seed = seed};
        memset(one, 0, sizeof(one));
        memset(two, 0, sizeof(two));
        for (uint32_t i = 0; i < REQUESTS; i++)
            request_fill(&rng, &requests[i], i > 0 ? &requests[i - 1] : NULL, i);
        assert_int_equal(serve(requests, one, 1), 0);
        assert_true(serve(requests, two, 2) > 100);
        assert_memory_equal(one, two, sizeof(one));
        for (uint32_t i = 0; i < REQUESTS; i++)
            assert_expected(&requests[i], &two[i]);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_engine_thread_gives_results_in_order),
        cmocka_unit_test(test_engine_thread_reports_refused_plans_in_their_turn),
        cmocka_unit_test(test_engine_thread_ends_with_steps_under_way),
        cmocka_unit_test(test_streams_are_the_same_with_one_step_under_way_and_with_two),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
