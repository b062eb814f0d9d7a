/* Router core at its interface: admission, attempts, what late and foreign messages may do
 * (nothing), cancels, losses. Workers are played by the test. */
#include "router/core.h"

#include "base/time.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define PROMPT 100u

struct kit {
    struct router_core *core;
    uint64_t now;
    uint32_t prefill, decode; /* slots */
    /* What came out of the last kit_drain. */
    struct wire_reserve reserve;
    struct wire_prefill prefill_msg;
    uint32_t n_reserve, n_prefill, n_peer, n_peer_gone, n_cancel, n_writer_done, n_done, n_fail,
        n_tokens;
    uint32_t tokens[64];
    uint32_t finish;
    enum status fail;
};

static uint32_t prompt[PROMPT];

static void kit_drain(struct kit *k)
{
    struct router_action act;
    struct router_core *core = k->core;
    uint64_t now = k->now;
    uint32_t p = k->prefill, d = k->decode;
    memset(k, 0, sizeof(*k));
    *k = (struct kit){.core = core, .now = now, .prefill = p, .decode = d};
    while (router_core_next_action(core, &act)) {
        switch (act.kind) {
        case ROUTER_SEND:
            k->n_reserve += act.msg->type == WIRE_RESERVE;
            k->n_prefill += act.msg->type == WIRE_PREFILL;
            k->n_peer += act.msg->type == WIRE_PEER;
            k->n_peer_gone += act.msg->type == WIRE_PEER_GONE;
            k->n_cancel += act.msg->type == WIRE_CANCEL;
            if (act.msg->type == WIRE_RESERVE)
                k->reserve = act.msg->u.reserve;
            if (act.msg->type == WIRE_PREFILL)
                k->prefill_msg = act.msg->u.prefill;
            if (act.msg->type == WIRE_CANCEL)
                k->n_writer_done += act.msg->u.cancel.flags & WIRE_CANCEL_WRITER_DONE;
            break;
        case ROUTER_TOKENS:
            for (uint32_t i = 0; i < act.n_tokens; i++)
                k->tokens[k->n_tokens++] = act.tokens[i];
            k->finish = act.finish;
            break;
        case ROUTER_DONE:
            k->n_done++;
            break;
        case ROUTER_FAIL:
            k->n_fail++;
            k->fail = act.status;
            break;
        case ROUTER_DROP:
            break;
        }
    }
    char why[128];
    assert_int_equal(router_core_check(core, why, sizeof(why)), ST_OK);
}

static uint32_t worker_up(struct kit *k, uint32_t role, uint64_t instance)
{
    uint32_t slot = UINT32_MAX;
    struct wire_hello hello = {.version_min = WIRE_VERSION_MIN,
                               .version_max = WIRE_VERSION_MAX,
                               .role = role,
                               .instance = instance,
                               .pool = {.block_count = 64,
                                        .epoch = 5,
                                        .layout_hash = 9,
                                        .block_tokens = 16,
                                        .layer_count = 2,
                                        .block_bytes = 4096},
                               .max_context_tokens = 512,
                               .max_seqs = 8,
                               .vocab_size = 100,
                               .queue_max = 8,
                               .transport = "t"};
    snprintf(hello.name, sizeof(hello.name), "w%u", (unsigned)instance);
    assert_int_equal(router_core_worker_up(k->core, k->now, &hello, &slot), ST_OK);
    return slot;
}

static void kit_open(struct kit *k)
{
    struct router_core_opts opts = {.instance = 1,
                                    .requests_max = 8,
                                    .choices_max = 16,
                                    .tokens_max = 65536,
                                    .attempts_max = 3,
                                    .prefix_index_max = 64,
                                    .heartbeat_timeout_ns = 1500 * NS_PER_MS,
                                    .reserve_timeout_ns = 2 * NS_PER_S,
                                    .prefill_timeout_ns = 2 * NS_PER_S,
                                    .prefill_ns_per_token = NS_PER_MS,
                                    .decode_timeout_ns = 2 * NS_PER_S,
                                    .cancel_retry_ns = 50 * NS_PER_MS};
    memset(k, 0, sizeof(*k));
    k->now = NS_PER_S;
    assert_int_equal(router_core_create(&opts, &k->core), ST_OK);
    k->prefill = worker_up(k, WIRE_ROLE_PREFILL, 10);
    k->decode = worker_up(k, WIRE_ROLE_DECODE, 20);
    kit_drain(k);
    assert_int_equal(k->n_peer, 2); /* each hears of the other */
}

static uint64_t submit(struct kit *k, uint32_t n_choices, uint32_t max_new)
{
    uint64_t id = 0;
    struct router_request req = {.tokens = prompt,
                                 .n_tokens = PROMPT,
                                 .n_choices = n_choices,
                                 .sampling = {.max_new_tokens = max_new, .top_p = 1},
                                 .deadline_ns = k->now + 60 * NS_PER_S};
    assert_int_equal(router_core_submit(k->core, k->now, &req, &id), ST_OK);
    kit_drain(k);
    return id;
}

static void say(struct kit *k, uint32_t slot, const struct wire_msg *msg)
{
    router_core_message(k->core, k->now, slot, msg);
    kit_drain(k);
}

static void say_reserved(struct kit *k, struct wire_seq seq)
{
    static struct wire_block blocks[7];
    struct wire_msg msg = {.type = WIRE_RESERVED,
                           .u.reserved = {.seq = seq, .epoch = 5, .n_blocks = 7, .blocks = blocks}};
    for (uint32_t i = 0; i < 7; i++)
        blocks[i] = (struct wire_block){i, 1};
    say(k, k->decode, &msg);
}

static void say_prefilled(struct kit *k, struct wire_seq seq, uint32_t token)
{
    struct wire_msg msg = {.type = WIRE_PREFILLED,
                           .u.prefilled = {.seq = seq, .token = token, .compute_us = 100}};
    say(k, k->prefill, &msg);
}

static void say_tokens(struct kit *k, struct wire_seq seq, uint32_t position,
                       const uint32_t *tokens, uint32_t n, uint32_t finish)
{
    struct wire_tokens_entry entry = {seq, position, finish, n, tokens};
    struct wire_msg msg = {.type = WIRE_TOKENS, .u.tokens = {.n_entries = 1, .entries = &entry}};
    say(k, k->decode, &msg);
}

static void test_router_core_remote_request_runs_to_its_end(void **state)
{
    struct kit k;
    const uint32_t tokens[] = {7, 8, 9};
    (void)state;
    kit_open(&k);
    uint64_t id = submit(&k, 1, 3);
    assert_int_equal(k.n_reserve, 1);
    assert_int_equal(k.reserve.local, 0);
    struct wire_seq seq = {id, 1, 0};
    say_reserved(&k, seq);
    assert_int_equal(k.n_prefill, 1);
    assert_int_equal(k.prefill_msg.dest, 20);
    assert_int_equal(k.prefill_msg.n_blocks, 7);
    say_prefilled(&k, seq, 7);
    assert_int_equal(k.n_tokens, 1);
    assert_int_equal(k.tokens[0], 7);
    say_tokens(&k, seq, 0, tokens, 2, WIRE_FINISH_NONE); /* repeats the first */
    assert_int_equal(k.n_tokens, 1);
    assert_int_equal(k.tokens[0], 8);
    say_tokens(&k, seq, 2, tokens + 2, 1, WIRE_FINISH_LENGTH);
    assert_int_equal(k.tokens[0], 9);
    assert_int_equal(k.finish, WIRE_FINISH_LENGTH);
    assert_int_equal(k.n_done, 1);
    assert_int_equal(k.n_cancel, 0);
    assert_true(router_core_is_idle(k.core));
    router_core_destroy(k.core);
}

static void test_router_core_gaps_old_attempts_and_foreign_workers_change_nothing(void **state)
{
    struct kit k;
    const uint32_t tokens[] = {7, 8};
    (void)state;
    kit_open(&k);
    struct wire_seq seq = {submit(&k, 1, 9), 1, 0}, old = seq;
    say_reserved(&k, seq);
    say_tokens(&k, seq, 1, tokens, 1, WIRE_FINISH_NONE);
    assert_int_equal(k.n_tokens, 0); /* position 0 is missing */
    old.attempt = 2;
    say_tokens(&k, old, 0, tokens, 1, WIRE_FINISH_NONE);
    assert_int_equal(k.n_tokens, 0);
    say_tokens(&k, seq, 0, tokens, 1, WIRE_FINISH_NONE);
    assert_int_equal(k.n_tokens, 1);
    say_tokens(&k, seq, 0, tokens, 1, WIRE_FINISH_NONE);
    assert_int_equal(k.n_tokens, 0); /* known already */
    router_core_destroy(k.core);
}

static void test_router_core_other_token_at_a_sent_position_ends_the_attempt(void **state)
{
    struct kit k;
    const uint32_t first[] = {7}, other[] = {6};
    (void)state;
    kit_open(&k);
    struct wire_seq seq = {submit(&k, 1, 9), 1, 0};
    say_reserved(&k, seq);
    say_tokens(&k, seq, 0, first, 1, WIRE_FINISH_NONE);
    say_tokens(&k, seq, 0, other, 1, WIRE_FINISH_NONE);
    assert_int_equal(k.n_tokens, 0);
    assert_true(k.n_cancel >= 1);
    assert_int_equal(k.n_reserve, 1); /* again, with the sent token in its log */
    assert_int_equal(k.reserve.job.seq.attempt, 2);
    assert_int_equal(k.reserve.job.n_tokens, PROMPT + 1);
    assert_int_equal(k.reserve.job.n_prompt, PROMPT);
    router_core_destroy(k.core);
}

static void test_router_core_lost_decode_worker_is_followed_by_a_new_attempt(void **state)
{
    struct kit k;
    const uint32_t first[] = {7};
    (void)state;
    kit_open(&k);
    struct wire_seq seq = {submit(&k, 1, 9), 1, 0};
    say_reserved(&k, seq);
    say_prefilled(&k, seq, 7);
    say_tokens(&k, seq, 0, first, 1, WIRE_FINISH_NONE);
    router_core_worker_down(k.core, k.now, k.decode);
    kit_drain(&k);
    assert_int_equal(k.n_peer_gone, 1);
    assert_int_equal(k.n_reserve, 0); /* nobody to decode */
    k.decode = worker_up(&k, WIRE_ROLE_DECODE, 21);
    kit_drain(&k);
    assert_int_equal(k.n_reserve, 1);
    assert_int_equal(k.reserve.job.n_tokens, PROMPT + 1);
    assert_int_equal(k.reserve.job.tokens[PROMPT], 7);
    router_core_destroy(k.core);
}

static void test_router_core_cancel_is_repeated_until_both_legs_answer(void **state)
{
    struct kit k;
    (void)state;
    kit_open(&k);
    uint64_t id = submit(&k, 1, 9);
    struct wire_seq seq = {id, 1, 0};
    say_reserved(&k, seq);
    router_core_cancel(k.core, k.now, id);
    kit_drain(&k);
    assert_int_equal(k.n_cancel, 2);
    assert_int_equal(k.n_writer_done, 0); /* the prefill worker may be writing */
    k.now += 60 * NS_PER_MS;
    router_core_tick(k.core, k.now);
    kit_drain(&k);
    assert_int_equal(k.n_cancel, 2);
    struct wire_msg msg = {.type = WIRE_CANCELLED, .u.cancelled = {seq, 0}};
    say(&k, k.prefill, &msg);
    assert_int_equal(k.n_cancel, 1);
    assert_int_equal(k.n_writer_done, 1); /* now it vouches */
    say(&k, k.decode, &msg);
    assert_int_equal(router_core_counts(k.core).cancels_pending, 0);
    router_core_destroy(k.core);
}

static void test_router_core_siblings_wait_for_the_first_token(void **state)
{
    struct kit k;
    (void)state;
    kit_open(&k);
    struct wire_seq seq = {submit(&k, 3, 9), 1, 0};
    assert_int_equal(k.n_reserve, 1);
    say_reserved(&k, seq);
    assert_int_equal(k.n_reserve, 0);
    say_prefilled(&k, seq, 7);
    assert_int_equal(k.n_reserve, 2);
    router_core_destroy(k.core);
}

static void test_router_core_refuses_what_cannot_run(void **state)
{
    struct kit k;
    static uint32_t longer[2000];
    uint64_t id;
    (void)state;
    kit_open(&k);
    struct router_request req = {
        .tokens = longer, .n_tokens = 512, .n_choices = 1, .deadline_ns = UINT64_MAX};
    assert_int_equal(router_core_submit(k.core, k.now, &req, &id), ST_PROMPT_TOO_LONG);
    req.n_tokens = 0;
    assert_int_equal(router_core_submit(k.core, k.now, &req, &id), ST_INVALID);
    req.n_tokens = 10;
    req.n_choices = ROUTER_CHOICES_MAX + 1;
    assert_int_equal(router_core_submit(k.core, k.now, &req, &id), ST_INVALID);
    for (uint32_t i = 0; i < 8; i++)
        submit(&k, 1, 9);
    req.n_choices = 1;
    assert_int_equal(router_core_submit(k.core, k.now, &req, &id), ST_FULL);
    router_core_drain(k.core);
    assert_int_equal(router_core_submit(k.core, k.now, &req, &id), ST_DRAINING);
    router_core_destroy(k.core);
}

static void test_router_core_request_past_its_deadline_fails_once(void **state)
{
    struct kit k;
    (void)state;
    kit_open(&k);
    submit(&k, 2, 9);
    struct wire_msg stats = {.type = WIRE_STATS};
    k.now += 61 * NS_PER_S;
    say(&k, k.prefill, &stats);
    say(&k, k.decode, &stats);
    router_core_tick(k.core, k.now);
    kit_drain(&k);
    assert_int_equal(k.n_fail, 1);
    assert_int_equal(k.fail, ST_TIMEOUT);
    assert_true(router_core_is_idle(k.core));
    router_core_destroy(k.core);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_router_core_remote_request_runs_to_its_end),
        cmocka_unit_test(test_router_core_gaps_old_attempts_and_foreign_workers_change_nothing),
        cmocka_unit_test(test_router_core_other_token_at_a_sent_position_ends_the_attempt),
        cmocka_unit_test(test_router_core_lost_decode_worker_is_followed_by_a_new_attempt),
        cmocka_unit_test(test_router_core_cancel_is_repeated_until_both_legs_answer),
        cmocka_unit_test(test_router_core_siblings_wait_for_the_first_token),
        cmocka_unit_test(test_router_core_refuses_what_cannot_run),
        cmocka_unit_test(test_router_core_request_past_its_deadline_fails_once),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
