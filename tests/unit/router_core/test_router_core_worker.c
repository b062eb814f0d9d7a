/* Router core: workers coming and going, cancels until both legs have answered, and that nothing is
 * allocated after create. */
#include "support/router_kit.h"

#include <stdlib.h>

/* ---- the program counts its own allocations; not under a sanitizer, which has an allocator ----
 */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define COUNTED 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) ||                         \
    __has_feature(memory_sanitizer)
#define COUNTED 0
#endif
#endif
#ifndef COUNTED
#define COUNTED 1
#endif

static size_t n_allocations;

#if COUNTED
void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_realloc(void *ptr, size_t bytes);

void *malloc(size_t bytes)
{
    n_allocations++;
    return __libc_malloc(bytes);
}

void *calloc(size_t count, size_t bytes)
{
    n_allocations++;
    return __libc_calloc(count, bytes);
}

void *realloc(void *ptr, size_t bytes)
{
    n_allocations++;
    return __libc_realloc(ptr, bytes);
}
#endif

enum { P = 0, D = 1 };

static void open_pair(struct kit *k)
{
    kit_open(k);
    assert_int_equal(kit_worker(k, WIRE_ROLE_PREFILL, 10), P);
    assert_int_equal(kit_worker(k, WIRE_ROLE_DECODE, 20), D);
}

static void test_hello_that_does_not_fit_is_refused(void **state)
{
    struct kit k;
    uint32_t slot = 7;
    static uint8_t blob[WIRE_BLOB_BYTES_MAX + 1];
    (void)state;
    open_pair(&k);
    struct wire_hello h = kit_hello(WIRE_ROLE_DECODE, 20);
    assert_int_equal(router_core_worker_up(k.core, k.now, &h, &slot), ST_EXISTS);
    h = kit_hello(WIRE_ROLE_DECODE, 21);
    h.version_min = WIRE_VERSION_MAX + 1;
    h.version_max = WIRE_VERSION_MAX + 1;
    assert_int_equal(router_core_worker_up(k.core, k.now, &h, &slot), ST_VERSION);
    struct wire_hello wrong[8];
    for (uint32_t i = 0; i < 8; i++)
        wrong[i] = kit_hello(WIRE_ROLE_DECODE, 21);
    wrong[0].model_hash.bytes[3] = 1;
    wrong[1].tokenizer_hash.bytes[3] = 1;
    wrong[2].role = WIRE_ROLE_ROUTER;
    wrong[3].role = 99;
    wrong[4].pool.block_count = 0;
    wrong[5].pool.block_tokens = 0;
    wrong[6].instance = 0;
    wrong[7].blob = blob;
    wrong[7].blob_bytes = sizeof(blob);
    for (uint32_t i = 0; i < 8; i++)
        assert_int_equal(router_core_worker_up(k.core, k.now, &wrong[i], &slot), ST_MISMATCH);
    assert_int_equal(slot, 7); /* outputs are written on success only */
    kit_pump(&k);
    assert_int_equal(k.n_events, 0);
    kit_close(&k);
}

static void test_workers_beyond_the_table_are_refused(void **state)
{
    struct kit k;
    uint32_t slot;
    (void)state;
    kit_open(&k);
    for (uint32_t i = 0; i < ROUTER_WORKERS_MAX; i++)
        kit_worker(&k, i % 2 ? WIRE_ROLE_DECODE : WIRE_ROLE_PREFILL, 10 + i);
    struct wire_hello h = kit_hello(WIRE_ROLE_DECODE, 99);
    assert_int_equal(router_core_worker_up(k.core, k.now, &h, &slot), ST_FULL);
    kit_down(&k, 5);
    assert_int_equal(kit_n_sent(&k, WIRE_PEER_GONE, KIT_NOBODY), 32); /* all prefill workers */
    assert_int_equal(kit_worker_as(&k, &h), 5);
    assert_int_equal(kit_n_sent(&k, WIRE_PEER, 5), 32);
    assert_int_equal(kit_n_sent(&k, WIRE_PEER, KIT_NOBODY), 64);
    kit_close(&k);
}

static void test_pairs_hear_of_each_other_both_ways_and_of_a_loss(void **state)
{
    struct kit k;
    (void)state;
    kit_open(&k);
    uint32_t p = kit_worker(&k, WIRE_ROLE_PREFILL, 10);
    kit_worker(&k, WIRE_ROLE_UNIFIED, 30);
    assert_int_equal(kit_n_sent(&k, WIRE_PEER, KIT_NOBODY), 0);
    uint32_t d = kit_worker(&k, WIRE_ROLE_DECODE, 20);
    assert_true(kit_sent(&k, WIRE_PEER, p)->instance == 20);
    assert_true(kit_sent(&k, WIRE_PEER, d)->instance == 10);
    assert_int_equal(kit_n_sent(&k, WIRE_PEER, KIT_NOBODY), 2);
    struct wire_hello h = kit_hello(WIRE_ROLE_DECODE, 21);
    snprintf(h.transport, sizeof(h.transport), "other");
    kit_worker_as(&k, &h);
    assert_int_equal(kit_n_sent(&k, WIRE_PEER, KIT_NOBODY), 0);
    kit_down(&k, p);
    assert_true(kit_sent(&k, WIRE_PEER_GONE, d)->instance == 10);
    assert_int_equal(kit_n_sent(&k, WIRE_PEER_GONE, KIT_NOBODY), 1);
    kit_close(&k);
}

static void test_silent_worker_is_dropped_once(void **state)
{
    struct kit k;
    struct router_worker_view view;
    (void)state;
    open_pair(&k);
    for (uint32_t i = 0; i < 14; i++) {
        kit_tick(&k, 100 * NS_PER_MS);
        assert_null(kit_event(&k, ROUTER_DROP));
        kit_stats(&k, P, KIT_BLOCKS);
    }
    kit_tick(&k, 100 * NS_PER_MS);
    assert_int_equal(kit_event(&k, ROUTER_DROP)->act.worker, D);
    assert_true(kit_sent(&k, WIRE_PEER_GONE, P)->instance == 20);
    kit_tick(&k, 100 * NS_PER_MS);
    assert_null(kit_event(&k, ROUTER_DROP));
    kit_down(&k, D); /* the caller need not, and may */
    assert_int_equal(k.n_events, 0);
    kit_stats(&k, D, KIT_BLOCKS); /* nor does a late message raise it */
    assert_true(router_core_worker_view(k.core, k.now, D, &view));
    assert_false(view.up);
    assert_false(router_core_worker_view(k.core, k.now, 2, &view));
    assert_false(router_core_worker_view(k.core, k.now, ROUTER_WORKERS_MAX, &view));
    assert_true(router_core_counts(k.core).workers_lost == 1);
    kit_close(&k);
}

static void test_leaving_worker_gets_no_new_work_and_ends_its_old(void **state)
{
    struct kit k;
    uint64_t id;
    (void)state;
    open_pair(&k);
    struct wire_seq seq = kit_start_remote(&k, P, D, 1, 9, 5);
    struct wire_msg msg = {.type = WIRE_LEAVING};
    kit_say(&k, D, &msg);
    struct router_request req = kit_request(&k, 1, 9);
    assert_int_equal(router_core_submit(k.core, k.now, &req, &id), ST_UNAVAILABLE);
    uint32_t d2 = kit_worker(&k, WIRE_ROLE_DECODE, 21);
    kit_submit(&k, 1, 9);
    assert_non_null(kit_sent(&k, WIRE_RESERVE, d2));
    kit_say(&k, P, &msg); /* the prefill worker too: local from now on */
    kit_submit(&k, 1, 9);
    assert_int_equal(kit_sent(&k, WIRE_RESERVE, d2)->local, 1);
    kit_token(&k, D, seq, 1, 6, WIRE_FINISH_STOP);
    assert_non_null(kit_event(&k, ROUTER_DONE));
    kit_close(&k);
}

/* ---- deaths ---- */

static void test_request_that_was_there_at_each_death_is_poison(void **state)
{
    struct kit k;
    (void)state;
    kit_open(&k);
    uint32_t d = kit_worker(&k, WIRE_ROLE_UNIFIED, 10);
    kit_submit(&k, 1, 9);
    for (uint32_t i = 0; i < 2; i++) {
        kit_down(&k, d);
        assert_null(kit_event(&k, ROUTER_FAIL));
        d = kit_worker(&k, WIRE_ROLE_UNIFIED, 11 + i);
        assert_non_null(kit_sent(&k, WIRE_RESERVE, d));
    }
    kit_down(&k, d);
    assert_int_equal(kit_event(&k, ROUTER_FAIL)->act.status, ST_POISON);
    kit_close(&k);
}

static void test_one_death_counts_once_for_all_choices_of_a_request(void **state)
{
    struct kit k;
    (void)state;
    open_pair(&k);
    uint32_t d2 = kit_worker(&k, WIRE_ROLE_DECODE, 21);
    struct wire_seq seq = {kit_submit(&k, 8, 9), 1, 0};
    uint32_t d = kit_sent(&k, WIRE_RESERVE, KIT_NOBODY)->act.worker;
    kit_reserved(&k, d, seq, KIT_PROMPT, 0);
    kit_prefilled(&k, P, seq, 0, 5);
    assert_int_equal(kit_n_sent(&k, WIRE_RESERVE, d), 7);
    kit_down(&k, d);
    assert_null(kit_event(&k, ROUTER_FAIL));
    assert_int_equal(kit_n_sent(&k, WIRE_RESERVE, d == D ? d2 : D), 8);
    kit_close(&k);
}

/* A transfer that failed is no death: the last status is told, not poison. */
static void test_failed_transfers_are_not_deaths(void **state)
{
    struct kit k;
    (void)state;
    open_pair(&k);
    struct wire_seq seq = {kit_submit(&k, 1, 9), 1, 0};
    for (; seq.attempt <= 3; seq.attempt++)
        kit_failed(&k, D, seq, ST_PEER_LOST, 1);
    assert_int_equal(kit_event(&k, ROUTER_FAIL)->act.status, ST_PEER_LOST);
    kit_close(&k);
}

static void test_prefill_worker_lost_after_prefilled_leaves_a_proved_stream_alone(void **state)
{
    struct kit k;
    (void)state;
    open_pair(&k);
    struct wire_seq seq = kit_start_remote(&k, P, D, 1, 9, 5);
    kit_token(&k, D, seq, 0, 5, WIRE_FINISH_NONE); /* so its blocks were complete */
    kit_down(&k, P);
    assert_null(kit_sent(&k, WIRE_CANCEL, D));
    kit_token(&k, D, seq, 1, 6, WIRE_FINISH_STOP);
    assert_non_null(kit_event(&k, ROUTER_DONE));
    kit_close(&k);

    open_pair(&k); /* the completion may have died with the prefill worker */
    kit_start_remote(&k, P, D, 1, 9, 5);
    kit_down(&k, P);
    assert_non_null(kit_sent(&k, WIRE_CANCEL, D));
    assert_int_equal(kit_sent(&k, WIRE_RESERVE, D)->job.n_tokens, KIT_PROMPT + 1);
    kit_close(&k);
}

/* ---- cancel ---- */

/* A cancelled request whose prefill leg may be writing. */
static struct wire_seq cancelled_while_prefilling(struct kit *k)
{
    open_pair(k);
    struct wire_seq seq = {kit_submit(k, 1, 9), 1, 0};
    kit_reserved(k, D, seq, KIT_PROMPT, 0);
    router_core_cancel(k->core, k->now, seq.request);
    kit_pump(k);
    assert_int_equal(kit_n_sent(k, WIRE_CANCEL, P), 1);
    assert_int_equal(kit_sent(k, WIRE_CANCEL, D)->flags, 0);
    assert_true(kit_sent(k, WIRE_CANCEL, D)->instance == 10); /* names the writer */
    return seq;
}

static void test_cancel_before_prefill_was_sent_says_that_nobody_writes(void **state)
{
    struct kit k;
    (void)state;
    open_pair(&k);
    struct wire_seq seq = {kit_submit(&k, 1, 9), 1, 0};
    router_core_cancel(k.core, k.now, seq.request);
    kit_pump(&k);
    assert_int_equal(kit_sent(&k, WIRE_CANCEL, D)->flags, WIRE_CANCEL_WRITER_DONE);
    assert_null(kit_sent(&k, WIRE_CANCEL, P));
    kit_cancelled(&k, D, seq, 0);
    assert_int_equal(router_core_counts(k.core).cancels_pending, 0);
    kit_tick(&k, 60 * NS_PER_MS);
    assert_int_equal(kit_n_sent(&k, WIRE_CANCEL, KIT_NOBODY), 0);
    kit_close(&k);
}

static void test_cancel_of_a_queued_request_tells_nobody(void **state)
{
    struct kit k;
    struct router_core_opts opts = kit_opts();
    (void)state;
    opts.worker_inflight_max = 1;
    kit_open_with(&k, &opts);
    kit_worker(&k, WIRE_ROLE_UNIFIED, 10);
    kit_submit(&k, 1, 9);
    uint64_t id = kit_submit(&k, 2, 9);
    router_core_cancel(k.core, k.now, id);
    kit_pump(&k);
    assert_int_equal(k.n_events, 0);
    assert_int_equal(router_core_counts(k.core).queued, 0);
    kit_close(&k);
}

static void test_cancel_waits_until_quarantine_is_empty(void **state)
{
    struct kit k;
    (void)state;
    struct wire_seq seq = cancelled_while_prefilling(&k);
    kit_cancelled(&k, D, seq, 7);
    assert_int_equal(router_core_counts(k.core).cancels_pending, 1);
    kit_cancelled(&k, P, seq, 3); /* it is over, but a push failed: no word for what landed */
    for (uint32_t i = 0; i < 3; i++) {
        kit_tick(&k, 60 * NS_PER_MS);
        assert_null(kit_sent(&k, WIRE_CANCEL, P));
        assert_int_equal(kit_sent(&k, WIRE_CANCEL, D)->flags, 0); /* it has to fence by itself */
        kit_cancelled(&k, D, seq, 7);
    }
    kit_cancelled(&k, D, seq, 0);
    assert_int_equal(router_core_counts(k.core).cancels_pending, 0);
    kit_close(&k);
}

static void test_cancel_goes_on_at_the_decode_worker_when_the_prefill_worker_dies(void **state)
{
    struct kit k;
    (void)state;
    struct wire_seq seq = cancelled_while_prefilling(&k);
    kit_down(&k, P);
    assert_true(kit_sent(&k, WIRE_PEER_GONE, D)->instance == 10);
    kit_tick(&k, 60 * NS_PER_MS);
    assert_int_equal(kit_sent(&k, WIRE_CANCEL, D)->flags, 0);
    kit_cancelled(&k, D, seq, 0);
    assert_int_equal(router_core_counts(k.core).cancels_pending, 0);
    kit_close(&k);
}

static void test_cancel_ends_when_both_workers_are_gone(void **state)
{
    struct kit k;
    (void)state;
    cancelled_while_prefilling(&k);
    kit_down(&k, D);
    assert_int_equal(router_core_counts(k.core).cancels_pending, 1); /* P writes still */
    kit_down(&k, P);
    assert_int_equal(router_core_counts(k.core).cancels_pending, 0);
    /* A new life in the same slot is not asked about the old one's attempts. */
    assert_int_equal(kit_worker(&k, WIRE_ROLE_DECODE, 21), 2);
    kit_tick(&k, 60 * NS_PER_MS);
    assert_int_equal(kit_n_sent(&k, WIRE_CANCEL, KIT_NOBODY), 0);
    kit_close(&k);
}

static void test_failed_instead_of_cancelled_is_an_answer_too(void **state)
{
    struct kit k;
    (void)state;
    struct wire_seq seq = cancelled_while_prefilling(&k);
    kit_failed(&k, P, seq, ST_IO, 1);
    assert_int_equal(kit_sent(&k, WIRE_CANCEL, D)->flags, WIRE_CANCEL_WRITER_DONE);
    kit_failed(&k, D, seq, ST_CANCELLED, 0); /* holds something: not enough */
    assert_int_equal(router_core_counts(k.core).cancels_pending, 1);
    kit_failed(&k, D, seq, ST_CANCELLED, 1);
    assert_int_equal(router_core_counts(k.core).cancels_pending, 0);
    kit_close(&k);
}

/* Attempts whose end nobody confirms pile up to the bound; then no new one begins. */
static void test_dispatch_waits_while_cancel_records_are_short(void **state)
{
    struct kit k;
    struct router_core_opts opts = kit_opts();
    uint32_t n_begun = 0;
    (void)state;
    opts.choices_max = 2; /* eight records */
    kit_open_with(&k, &opts);
    uint32_t d = kit_worker(&k, WIRE_ROLE_UNIFIED, 10);
    for (uint32_t i = 0; i < 12; i++) {
        uint64_t id = kit_submit(&k, 1, 9);
        n_begun += kit_n_sent(&k, WIRE_RESERVE, d);
        router_core_cancel(k.core, k.now, id);
        kit_pump(&k);
    }
    assert_int_equal(n_begun, 8);
    assert_int_equal(router_core_counts(k.core).cancels_pending, 8);
    kit_submit(&k, 1, 9);
    assert_null(kit_sent(&k, WIRE_RESERVE, d));
    kit_cancelled(&k, d, (struct wire_seq){3, 1, 0}, 0);
    assert_non_null(kit_sent(&k, WIRE_RESERVE, d));
    kit_close(&k);
}

/* ---- bounds ---- */

static void test_messages_of_unknown_slots_requests_and_types_change_nothing(void **state)
{
    struct kit k;
    (void)state;
    open_pair(&k);
    struct wire_seq seq = kit_start_remote(&k, P, D, 1, 9, 5), foreign = seq;
    struct wire_msg msg = {.type = WIRE_HELLO};
    kit_say(&k, 63, &msg);
    kit_say(&k, UINT32_MAX, &msg);
    kit_say(&k, D, &msg);
    msg.type = (enum wire_type)999;
    kit_say(&k, D, &msg);
    foreign.choice = 1;
    kit_token(&k, D, foreign, 1, 6, WIRE_FINISH_STOP);
    foreign.choice = UINT32_MAX;
    kit_failed(&k, D, foreign, ST_IO, 1);
    foreign = (struct wire_seq){UINT64_MAX, 1, 0};
    kit_cancelled(&k, D, foreign, 0);
    kit_prefilled(&k, D, seq, 1, 6); /* right attempt, wrong leg */
    kit_token(&k, P, seq, 1, 6, WIRE_FINISH_STOP);
    kit_token(&k, D, seq, UINT32_MAX, 6, WIRE_FINISH_STOP);
    assert_int_equal(k.n_events, 0);
    assert_true(router_core_counts(k.core).stale_messages >= 7);
    kit_token(&k, D, seq, 1, 6, WIRE_FINISH_STOP);
    assert_non_null(kit_event(&k, ROUTER_DONE));
    kit_close(&k);
}

static void test_nothing_is_allocated_after_create(void **state)
{
    struct kit *k = *state;
    kit_open(k);
    kit_worker(k, WIRE_ROLE_PREFILL, 10);
    uint32_t d = kit_worker(k, WIRE_ROLE_DECODE, 20);
    size_t before = n_allocations;
    for (uint32_t round = 0; round < 200; round++) {
        struct wire_seq seq = kit_start_remote(k, P, d, 1 + round % 3, 4, 5);
        kit_token(k, d, seq, 1, 6, WIRE_FINISH_NONE);
        if (round % 10 == 9) {
            kit_down(k, d);
            d = kit_worker(k, WIRE_ROLE_DECODE, 100 + round);
        }
        router_core_cancel(k->core, k->now, seq.request);
        kit_tick(k, NS_PER_MS);
        for (seq.choice = 0; seq.choice < 3; seq.choice++)
            for (seq.attempt = 1; seq.attempt <= 2; seq.attempt++)
                kit_cancelled(k, d, seq, 0);
        kit_stats(k, P, KIT_BLOCKS);
        kit_stats(k, d, KIT_BLOCKS);
    }
    assert_int_equal(n_allocations, before);
    if (COUNTED)
        assert_true(before > 0); /* the counter does count */
    assert_true(router_core_is_idle(k->core));
    kit_close(k);
}

static void test_create_without_room_is_refused(void **state)
{
    struct router_core *core = NULL;
    struct router_core_opts opts = kit_opts();
    (void)state;
    opts.choices_max = 0;
    assert_int_equal(router_core_create(&opts, &core), ST_INVALID);
    opts = kit_opts();
    opts.attempts_max = 0;
    assert_int_equal(router_core_create(&opts, &core), ST_INVALID);
    opts = kit_opts();
    opts.tokens_max = 0;
    assert_int_equal(router_core_create(&opts, &core), ST_INVALID);
    assert_null(core);
    router_core_destroy(NULL);
}

int main(int argc, char **argv)
{
    static struct kit kit;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hello_that_does_not_fit_is_refused),
        cmocka_unit_test(test_workers_beyond_the_table_are_refused),
        cmocka_unit_test(test_pairs_hear_of_each_other_both_ways_and_of_a_loss),
        cmocka_unit_test(test_silent_worker_is_dropped_once),
        cmocka_unit_test(test_leaving_worker_gets_no_new_work_and_ends_its_old),
        cmocka_unit_test(test_request_that_was_there_at_each_death_is_poison),
        cmocka_unit_test(test_one_death_counts_once_for_all_choices_of_a_request),
        cmocka_unit_test(test_failed_transfers_are_not_deaths),
        cmocka_unit_test(test_prefill_worker_lost_after_prefilled_leaves_a_proved_stream_alone),
        cmocka_unit_test(test_cancel_before_prefill_was_sent_says_that_nobody_writes),
        cmocka_unit_test(test_cancel_of_a_queued_request_tells_nobody),
        cmocka_unit_test(test_cancel_waits_until_quarantine_is_empty),
        cmocka_unit_test(test_cancel_goes_on_at_the_decode_worker_when_the_prefill_worker_dies),
        cmocka_unit_test(test_cancel_ends_when_both_workers_are_gone),
        cmocka_unit_test(test_failed_instead_of_cancelled_is_an_answer_too),
        cmocka_unit_test(test_dispatch_waits_while_cancel_records_are_short),
        cmocka_unit_test(test_messages_of_unknown_slots_requests_and_types_change_nothing),
        cmocka_unit_test_prestate(test_nothing_is_allocated_after_create, &kit),
        cmocka_unit_test(test_create_without_room_is_refused),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
