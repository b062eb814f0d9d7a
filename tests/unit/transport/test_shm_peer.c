/* The shm transport against peers in processes of their own. Writers are always in the middle of a
 * push when they end. */
#define KIT_OPS        (&transport_shm_ops)
#define KIT_TELLS_BOTH true
#define KIT_MID_WRITE  true

#include "peer_cases.h"

#define STEADY 303u

static void steady_check(struct link *link, struct link *steady, uint64_t seed)
{
    uint32_t n = link->node.n[TRANSPORT_RECORD];
    ask(steady, ASK_FILL, seed);
    bytes_fill(link->copy, POOL_BYTES, seed);
    assert_int_equal(ask(steady, ASK_PUSH, 2), 2);
    assert_memory_equal(link->node.pool, link->copy, POOL_BYTES);
    assert_int_equal(ask(steady, ASK_RECORD, 70000), ST_OK);
    node_wait(&link->node, TRANSPORT_RECORD, n + 1);
    assert_int_equal(link->node.peer, STEADY);
    assert_int_equal(link->node.record_bytes, 70000);
}

/* By kill(), then by fence() alone, in turns. */
static void test_writers_killed_in_mid_push_one_after_the_other_do_not_stop_another(void **state)
{
    (void)state;
    struct link *link = link_open(WIRE_ROLE_PREFILL, true, "");
    struct link steady = {0};
    peer_spawn(&steady, WIRE_ROLE_PREFILL, true, "", STEADY);
    assert_int_equal(node_connect(&link->node, &steady.peer.info), ST_OK);
    ask_connect_to(&steady, &link->node);
    for (uint32_t round = 1; round <= 20; round++) {
        write_begin(link);
        if (round % 2 == 0) {
            kill(link->pid, SIGKILL);
            node_wait(&link->node, TRANSPORT_PEER_ERROR, round / 2);
            steady_check(link, &steady, round);
        }
        assert_int_equal(link->node.ops->fence(link->node.t, PEER), ST_OK);
        node_wait(&link->node, TRANSPORT_FENCED, round);
        assert_int_equal(link->node.peer, PEER);
        assert_true(WIFSIGNALED(peer_wait(link)));
        close(link->fd);
        steady_check(link, &steady, 100 + round); /* and nothing of the dead one lands on top */
        peer_start(link, WIRE_ROLE_PREFILL, true, "");
    }
    assert_true(peer_lives(&steady));
    frame_send(steady.fd, ASK_CLOSE, 0, NULL, 0);
    assert_int_equal(peer_wait(&steady), 0);
    close(steady.fd);
    link_close(link);
}

static void test_record_sent_before_death_arrives_before_the_error(void **state)
{
    (void)state;
    struct link *link = link_open(WIRE_ROLE_PREFILL, true, "");
    ask_connect(link);
    assert_int_equal(ask(link, ASK_RECORD, 1), ST_OK); /* the connection is up when it came */
    node_wait(&link->node, TRANSPORT_RECORD, 1);
    assert_int_equal(ask(link, ASK_RECORD, 100), ST_OK);
    frame_send(link->fd, ASK_CLOSE, 0, NULL, 0);
    assert_int_equal(peer_wait(link), 0);
    node_wait(&link->node, TRANSPORT_PEER_ERROR, 1);
    assert_in_range(link->node.n[TRANSPORT_RECORD], 1, 2); /* it may have closed before sending */
    link_close(link);
}

/* Not told of the writer as a prefill worker: it gets no pool, and there is nobody to kill. */
static void test_peer_of_another_role_cannot_write_and_is_not_killed(void **state)
{
    (void)state;
    struct link *link = link_open(WIRE_ROLE_DECODE, true, "");
    ask_connect(link);
    assert_int_equal(ask(link, ASK_RECORD, 10), ST_OK);
    node_wait(&link->node, TRANSPORT_RECORD, 1);
    assert_int_equal(ask(link, ASK_PUSH, 3), 0);
    assert_int_equal(link->node.ops->fence(link->node.t, PEER), ST_OK);
    node_wait(&link->node, TRANSPORT_FENCED, 1);
    assert_true(peer_lives(link));
    link_close(link);
}

static void test_writer_that_was_told_of_us_but_not_we_of_it_waits_and_gets_nothing(void **state)
{
    (void)state;
    struct link *link = link_open(WIRE_ROLE_PREFILL, true, "");
    struct link stranger = {0};
    peer_spawn(&stranger, WIRE_ROLE_PREFILL, true, "", STEADY);
    ask_connect_to(&stranger, &link->node);
    frame_send(stranger.fd, ASK_PUSH, 1, NULL, 0);
    struct pollfd p = {.fd = stranger.fd, .events = POLLIN};
    assert_int_equal(poll(&p, 1, 200), 0);
    assert_int_equal(link->node.ops->fence(link->node.t, STEADY), ST_OK);
    node_wait(&link->node, TRANSPORT_FENCED, 1);
    assert_true(peer_lives(&stranger)); /* it cannot write: not killed */
    assert_int_equal(node_connect(&link->node, &stranger.peer.info), ST_OK); /* now we are told */
    assert_int_equal(frame_receive(stranger.fd, NULL, 0).arg, 1);
    frame_send(stranger.fd, ASK_CLOSE, 0, NULL, 0);
    assert_int_equal(peer_wait(&stranger), 0);
    close(stranger.fd);
    link_close(link);
}

/* As when a prefill worker is told that this one is gone while it is not. */
static void test_writer_that_closes_its_side_is_not_reported_and_may_come_back(void **state)
{
    (void)state;
    struct link *link = link_open(WIRE_ROLE_PREFILL, true, "");
    ask_connect(link);
    assert_int_equal(ask(link, ASK_PUSH, 1), 1);
    assert_int_equal(ask(link, ASK_FENCE, 0), ST_OK);
    node_check_quiet(&link->node, 100);
    ask_connect(link);
    assert_int_equal(ask(link, ASK_PUSH, 1), 1);
    assert_true(peer_lives(link));
    link_close(link);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        PEER_CASES,
        cmocka_unit_test(test_writers_killed_in_mid_push_one_after_the_other_do_not_stop_another),
        cmocka_unit_test(test_record_sent_before_death_arrives_before_the_error),
        cmocka_unit_test(test_peer_of_another_role_cannot_write_and_is_not_killed),
        cmocka_unit_test(test_writer_that_was_told_of_us_but_not_we_of_it_waits_and_gets_nothing),
        cmocka_unit_test(test_writer_that_closes_its_side_is_not_reported_and_may_come_back),
    };
    if (argc == PEER_ARGS && strcmp(argv[1], "peer") == 0)
        return peer_main(argv);
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
