/* What every transport does with a peer in another process. KIT_MID_WRITE: whether writers are in
 * the middle of a push when they end. */
#ifndef TESTS_PEER_CASES_H
#define TESTS_PEER_CASES_H

#include "peer_kit.h"

#ifndef KIT_MID_WRITE
#define KIT_MID_WRITE true
#endif

static void test_push_to_other_process_lands_before_the_record_sent_after_it(void **state)
{
    (void)state;
    struct link *link = link_open(WIRE_ROLE_DECODE, true, "");
    struct taken taken;
    for (uint32_t round = 1; round <= 5; round++) {
        bytes_fill(link->node.pool, POOL_BYTES, round);
        assert_int_equal(node_push_pool(&link->node, PEER, round, UINT64_MAX), ST_OK);
        node_wait(&link->node, TRANSPORT_PUSH_DONE, round);
        assert_int_equal(link->node.status[round], ST_OK);
        assert_int_equal(link->node.done[round], 1);
        uint32_t bytes = round == 5 ? TRANSPORT_RECORD_BYTES_MAX : 1 + 1000 * (round - 1);
        assert_int_equal(link->node.ops->record(link->node.t, PEER, link->node.pool, bytes), ST_OK);
        frame_send(link->fd, ASK_TAKE, 0, NULL, 0);
        frame_receive(link->fd, &taken, sizeof(taken));
        assert_int_equal(taken.bytes, bytes);
        assert_int_equal(taken.record_hash, hash_bytes(link->node.pool, bytes));
        assert_int_equal(taken.pool_hash, hash_bytes(link->node.pool, POOL_BYTES));
    }
    frame_send(link->fd, ASK_POOL, 0, NULL, 0);
    frame_receive(link->fd, link->copy, POOL_BYTES);
    assert_memory_equal(link->copy, link->node.pool, POOL_BYTES);
    link_close(link);
}

static void test_push_and_record_of_other_process_arrive(void **state)
{
    (void)state;
    static const uint32_t sizes[] = {1, 5000, TRANSPORT_RECORD_BYTES_MAX};
    struct link *link = link_open(WIRE_ROLE_PREFILL, true, "");
    uint8_t *expected = malloc(POOL_BYTES);
    assert_non_null(expected);
    ask_connect(link);
    ask(link, ASK_FILL, 77);
    assert_int_equal(ask(link, ASK_PUSH, 3), 3);
    bytes_fill(expected, POOL_BYTES, 77);
    assert_memory_equal(link->node.pool, expected, POOL_BYTES);
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(ask(link, ASK_RECORD, sizes[i]), ST_OK);
        node_wait(&link->node, TRANSPORT_RECORD, i + 1);
        bytes_fill(expected, sizes[i], sizes[i]);
        assert_int_equal(link->node.record_bytes, sizes[i]);
        assert_memory_equal(link->node.record, expected, sizes[i]);
        assert_int_equal(link->node.peer, PEER);
    }
    free(expected);
    link_close(link);
}

static void check_killed_peer(const char *tls)
{
    enum { N = 200 };
    struct link *link = link_open(WIRE_ROLE_DECODE, true, tls);
    struct node *node = &link->node;
    for (uint32_t i = 0; i < N; i++)
        assert_int_equal(node_push_pool(node, PEER, i, time_monotonic_ns() + FAR_NS), ST_OK);
    node_wait(node, TRANSPORT_PUSH_DONE, 1);
    kill(link->pid, SIGKILL);
    node_wait(node, TRANSPORT_PEER_ERROR, 1);
    assert_int_equal(node->error, ST_PEER_LOST);
    assert_int_equal(node->peer, PEER);
    assert_int_equal(node->n[TRANSPORT_PUSH_DONE], N); /* before it */
    for (uint32_t i = 0; i < N; i++)
        assert_int_equal(node->done[i], 1);
    assert_int_equal(node->status[0], ST_OK);
    /* The last ones are lost, unless all were through before the signal. */
    assert_true(node->status[N - 1] == ST_PEER_LOST || node->status[N - 1] == ST_OK);
    assert_int_equal(node_push_pool(node, PEER, N, UINT64_MAX), ST_OK);
    node_wait(node, TRANSPORT_PUSH_DONE, N + 1);
    assert_int_equal(node->status[N], ST_PEER_LOST);
    assert_int_equal(node->ops->fence(node->t, PEER), ST_OK);
    node_wait(node, TRANSPORT_FENCED, 1);
    node_check_quiet(node, 20);
    assert_int_equal(node->n[TRANSPORT_PEER_ERROR], 1);
    assert_true(WIFSIGNALED(peer_wait(link)));
    link_close(link);
}

static void test_peer_killed_under_pushes_ends_each_push_once_and_gives_error(void **state)
{
    (void)state;
    check_killed_peer("");
}

static void test_peer_that_died_idle_gives_error(void **state)
{
    (void)state;
    struct link *link = link_open(WIRE_ROLE_DECODE, true, "");
    assert_int_equal(node_push_pool(&link->node, PEER, 1, UINT64_MAX), ST_OK);
    node_wait(&link->node, TRANSPORT_PUSH_DONE, 1);
    kill(link->pid, SIGKILL);
    node_wait(&link->node, TRANSPORT_PEER_ERROR, 1);
    assert_true(WIFSIGNALED(peer_wait(link)));
    link_close(link);
}

static void test_peer_dead_before_connect_gives_error_or_failed_push_and_is_fenced(void **state)
{
    (void)state;
    struct link *link = link_open(WIRE_ROLE_PREFILL, true, "");
    struct node *node = &link->node;
    if (KIT_TELLS_BOTH)
        assert_int_equal(ask(link, ASK_PUSH, 1), 1); /* it can write: so it is killed */
    assert_int_equal(node->ops->fence(node->t, PEER), ST_OK);
    node_wait(node, TRANSPORT_FENCED, 1);
    assert_true(WIFSIGNALED(peer_wait(link)));
    assert_int_equal(node_connect(node, &link->peer.info), ST_OK);
    assert_int_equal(node_push_pool(node, PEER, 1, time_monotonic_ns() + 300 * NS_PER_MS), ST_OK);
    node_wait(node, TRANSPORT_PUSH_DONE, 1);
    assert_int_not_equal(node->status[1], ST_OK);
    assert_int_equal(node->ops->fence(node->t, PEER), ST_OK);
    node_wait(node, TRANSPORT_FENCED, 2);
    assert_int_equal(node->done[1], 1);
    link_close(link);
}

/* Whether UCX needs the peer for a push over shared memory is its own affair. */
static void test_push_to_stopped_peer_is_done_in_time_and_fence_works(void **state)
{
    (void)state;
    struct link *link = link_open(WIRE_ROLE_DECODE, true, "");
    struct node *node = &link->node;
    assert_int_equal(node_push_pool(node, PEER, 0, UINT64_MAX), ST_OK);
    node_wait(node, TRANSPORT_PUSH_DONE, 1);
    peer_stop(link);
    for (uint32_t i = 1; i <= 20; i++)
        assert_int_equal(node_push_pool(node, PEER, i, time_monotonic_ns() + 200 * NS_PER_MS),
                         ST_OK);
    node_wait(node, TRANSPORT_PUSH_DONE, 21);
    assert_int_equal(node->ops->fence(node->t, PEER), ST_OK);
    node_wait(node, TRANSPORT_FENCED, 1);
    node_check_quiet(node, 20);
    for (uint32_t i = 0; i <= 20; i++)
        assert_int_equal(node->done[i], 1);
    assert_true(peer_lives(link)); /* no writer: not killed */
    kill(link->pid, SIGCONT);
    link_close(link);
}

static void check_close_on_stopped_peer(const char *tls)
{
    struct link *link = link_open(WIRE_ROLE_DECODE, true, tls);
    struct node *node = &link->node;
    assert_int_equal(node_push_pool(node, PEER, 0, UINT64_MAX), ST_OK);
    node_wait(node, TRANSPORT_PUSH_DONE, 1);
    peer_stop(link);
    for (uint32_t i = 0; i < 10; i++) {
        assert_int_equal(node->ops->record(node->t, PEER, node->pool, TRANSPORT_RECORD_BYTES_MAX),
                         ST_OK);
        assert_int_equal(node_push_pool(node, PEER, 1 + i, UINT64_MAX), ST_OK);
    }
    poll(NULL, 0, 50); /* UCX has them */
    uint64_t start = time_monotonic_ns();
    node_close(node);
    assert_true(time_monotonic_ns() - start < 5 * NS_PER_S);
    kill(link->pid, SIGKILL);
    assert_true(WIFSIGNALED(peer_wait(link)));
    link_close(link);
}

static void test_close_with_a_stopped_peer_under_pushes_and_records_ends(void **state)
{
    (void)state;
    check_close_on_stopped_peer("");
}

static void test_records_to_a_stopped_peer_do_not_hold_up_its_fence(void **state)
{
    (void)state;
    struct link *link = link_open(WIRE_ROLE_DECODE, true, "");
    struct node *node = &link->node;
    peer_stop(link);
    for (uint32_t i = 0; i < 10; i++)
        assert_int_equal(node->ops->record(node->t, PEER, node->pool, TRANSPORT_RECORD_BYTES_MAX),
                         ST_OK);
    poll(NULL, 0, 50);
    assert_int_equal(node->ops->fence(node->t, PEER), ST_OK);
    node_wait(node, TRANSPORT_FENCED, 1);
    kill(link->pid, SIGKILL);
    assert_true(WIFSIGNALED(peer_wait(link)));
    link_close(link);
}

/* The peer has written here, and lives to do it again. */
static void write_begin(struct link *link)
{
    ask_connect(link);
    ask(link, ASK_FILL, 5);
    assert_int_equal(ask(link, ASK_PUSH, 2), 2);
    bytes_fill(link->copy, POOL_BYTES, 5);
    assert_memory_equal(link->node.pool, link->copy, POOL_BYTES);
    if (!KIT_MID_WRITE)
        return;
    ask(link, ASK_WRITE, 0);
    poll(NULL, 0, 30); /* a push gives its target no event */
}

static bool pool_stays(struct link *link)
{
    memset(link->node.pool, 0x55, POOL_BYTES);
    memset(link->copy, 0x55, POOL_BYTES);
    poll(NULL, 0, 50);
    return memcmp(link->node.pool, link->copy, POOL_BYTES) == 0;
}

static void test_fence_of_live_writer_on_this_host_kills_it_and_nothing_lands_after(void **state)
{
    (void)state;
    struct link *link = link_open(WIRE_ROLE_PREFILL, true, "");
    struct node *node = &link->node;
    write_begin(link);
    assert_true(peer_lives(link));
    assert_int_equal(node->ops->fence(node->t, PEER), ST_OK);
    node_wait(node, TRANSPORT_FENCED, 1);
    assert_int_equal(node->peer, PEER);
    assert_false(peer_lives(link));
    assert_true(pool_stays(link));
    int status = peer_wait(link);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    assert_int_equal(node->ops->fence(node->t, PEER), ST_OK); /* again */
    node_wait(node, TRANSPORT_FENCED, 2);
    node_check_quiet(node, 20);
    link_close(link);
}

static void test_fence_of_stopped_writer_on_this_host_kills_it(void **state)
{
    (void)state;
    struct link *link = link_open(WIRE_ROLE_PREFILL, true, "");
    write_begin(link);
    peer_stop(link);
    assert_int_equal(link->node.ops->fence(link->node.t, PEER), ST_OK);
    node_wait(&link->node, TRANSPORT_FENCED, 1);
    assert_false(peer_lives(link));
    assert_true(pool_stays(link));
    assert_true(WIFSIGNALED(peer_wait(link)));
    link_close(link);
}

/* The death of a writer does not close this process to the next one. */
static void check_next_writer(bool by_fence)
{
    struct link *link = link_open(WIRE_ROLE_PREFILL, true, "");
    for (uint32_t round = 1; round <= 6; round++) {
        write_begin(link);
        if (!by_fence)
            kill(link->pid, SIGKILL);
        assert_int_equal(link->node.ops->fence(link->node.t, PEER), ST_OK);
        node_wait(&link->node, TRANSPORT_FENCED, round);
        assert_true(WIFSIGNALED(peer_wait(link)));
        close(link->fd);
        peer_start(link, WIRE_ROLE_PREFILL, true, "");
        ask_connect(link);
        assert_int_equal(ask(link, ASK_RECORD, 100), ST_OK);
        node_wait(&link->node, TRANSPORT_RECORD, round);
        assert_int_equal(link->node.record_bytes, 100);
    }
    link_close(link);
}

static void test_writer_after_a_fenced_one_is_served(void **state)
{
    (void)state;
    check_next_writer(true);
}

static void test_writer_after_a_killed_one_is_served(void **state)
{
    (void)state;
    check_next_writer(false);
}

static void test_fence_of_writer_whose_pid_was_reused_does_not_kill_the_new_process(void **state)
{
    (void)state;
    struct link *link = link_open(WIRE_ROLE_PREFILL, true, "");
    struct buf blob;
    struct wire_peer old = link->peer.info;
    blob_with_pid(&old, (uint32_t)link->pid, process_start((uint32_t)link->pid) - 1, &blob);
    old.instance = 303;
    old.blob = blob.data;
    assert_int_equal(node_connect(&link->node, &old), ST_OK);
    assert_int_equal(link->node.ops->fence(link->node.t, 303), ST_OK);
    node_wait(&link->node, TRANSPORT_FENCED, 1);
    assert_true(peer_lives(link));
    buf_deinit(&blob);
    link_close(link);
}

#define PEER_CASES                                                                                 \
    cmocka_unit_test(test_push_to_other_process_lands_before_the_record_sent_after_it),            \
        cmocka_unit_test(test_push_and_record_of_other_process_arrive),                            \
        cmocka_unit_test(test_peer_killed_under_pushes_ends_each_push_once_and_gives_error),       \
        cmocka_unit_test(test_peer_that_died_idle_gives_error),                                    \
        cmocka_unit_test(test_peer_dead_before_connect_gives_error_or_failed_push_and_is_fenced),  \
        cmocka_unit_test(test_push_to_stopped_peer_is_done_in_time_and_fence_works),               \
        cmocka_unit_test(test_close_with_a_stopped_peer_under_pushes_and_records_ends),            \
        cmocka_unit_test(test_records_to_a_stopped_peer_do_not_hold_up_its_fence),                 \
        cmocka_unit_test(test_fence_of_live_writer_on_this_host_kills_it_and_nothing_lands_after), \
        cmocka_unit_test(test_fence_of_stopped_writer_on_this_host_kills_it),                      \
        cmocka_unit_test(test_writer_after_a_fenced_one_is_served),                                \
        cmocka_unit_test(test_writer_after_a_killed_one_is_served),                                \
        cmocka_unit_test(test_fence_of_writer_whose_pid_was_reused_does_not_kill_the_new_process)

#endif
