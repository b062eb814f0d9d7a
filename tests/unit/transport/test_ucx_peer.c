/* The UCX transport against a peer in a process of its own. With DYND_TEST_MID_WRITE=1 writers are
 * in the middle of a push when they end. Not by default: then UCX 1.13 may stop or end this process
 * too (src/transport/ucx.c says why). */
#define KIT_OPS        (&transport_ucx_ops)
#define KIT_TELLS_BOTH false
#define KIT_MID_WRITE  (getenv("DYND_TEST_MID_WRITE") != NULL)

#include "peer_cases.h"

static void test_peer_killed_under_pushes_over_tcp_ends_each_push_once(void **state)
{
    (void)state;
    check_killed_peer("tcp");
}

static void test_push_whose_deadline_passes_is_done_timeout_and_ends_the_connection(void **state)
{
    (void)state;
    enum { N = 20 }; /* more than fits in the buffers of a connection */
    struct link *link = link_open(WIRE_ROLE_DECODE, true, "");
    struct node *node = &link->node;
    assert_int_equal(node_push_pool(node, PEER, 0, UINT64_MAX), ST_OK);
    node_wait(node, TRANSPORT_PUSH_DONE, 1);
    assert_int_equal(node->status[0], ST_OK);
    peer_stop(link);
    uint64_t start = time_monotonic_ns(), deadline = start + 200 * NS_PER_MS;
    for (uint32_t i = 1; i <= N; i++) /* the later ones have time, but the connection is gone */
        assert_int_equal(node_push_pool(node, PEER, i, i < 5 ? deadline : UINT64_MAX), ST_OK);
    node_wait(node, TRANSPORT_PEER_ERROR, 1);
    assert_true(time_monotonic_ns() >= deadline);
    assert_true(time_monotonic_ns() - start < 5 * NS_PER_S);
    assert_int_equal(node->n[TRANSPORT_PUSH_DONE], N + 1);
    for (uint32_t i = 1; i <= N; i++) {
        assert_int_equal(node->done[i], 1);
        assert_int_equal(node->status[i], i < 5 ? ST_TIMEOUT : ST_PEER_LOST);
    }
    assert_int_equal(node->ops->fence(node->t, PEER), ST_OK);
    node_wait(node, TRANSPORT_FENCED, 1);
    node_check_quiet(node, 20);
    assert_true(peer_lives(link));
    kill(link->pid, SIGCONT);
    link_close(link);
}

static void test_close_with_a_stopped_peer_over_tcp_ends(void **state)
{
    (void)state;
    check_close_on_stopped_peer("tcp");
}

/* Two hosts of unknown id are two hosts, although the ids are equal. */
static void test_fence_of_writer_on_host_of_unknown_id_does_not_kill_it(void **state)
{
    (void)state;
    struct link *link = link_open(WIRE_ROLE_PREFILL, false, "");
    ask_connect(link);
    assert_int_equal(ask(link, ASK_PUSH, 1), 1);
    assert_int_equal(link->node.ops->fence(link->node.t, PEER), ST_OK);
    node_wait(&link->node, TRANSPORT_FENCED, 1);
    node_check_quiet(&link->node, 20);
    assert_true(peer_lives(link));
    link_close(link);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        PEER_CASES,
        cmocka_unit_test(test_peer_killed_under_pushes_over_tcp_ends_each_push_once),
        cmocka_unit_test(test_push_whose_deadline_passes_is_done_timeout_and_ends_the_connection),
        cmocka_unit_test(test_close_with_a_stopped_peer_over_tcp_ends),
        cmocka_unit_test(test_fence_of_writer_on_host_of_unknown_id_does_not_kill_it),
    };
    if (argc == PEER_ARGS && strcmp(argv[1], "peer") == 0)
        return peer_main(argv);
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
