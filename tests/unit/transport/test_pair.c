/* The transports shm and ucx behind one table. */
#define KIT_OPS        (&transport_pair_ops)
#define KIT_TELLS_BOTH true

#include "transport/pair_blob.h"
#include "transport_kit.h"

#define A 101u
#define B 202u
#define C 303u

struct trio {
    struct node a, b, c;
    struct wire_peer c_far; /* c, as if on a host of unknown id */
};

static int trio_open(void **state)
{
    struct trio *t = calloc(1, sizeof(*t));
    assert_non_null(t);
    node_open(&t->a, 0, A, WIRE_ROLE_PREFILL);
    node_open(&t->b, 1, B, WIRE_ROLE_DECODE);
    node_open(&t->c, 2, C, WIRE_ROLE_DECODE);
    t->c_far = t->c.info;
    memset(t->c_far.host_id, 0, sizeof(t->c_far.host_id));
    assert_int_equal(node_connect(&t->a, &t->b.info), ST_OK);
    assert_int_equal(node_connect(&t->b, &t->a.info), ST_OK);
    assert_int_equal(node_connect(&t->a, &t->c_far), ST_OK);
    *state = t;
    return 0;
}

static int trio_close(void **state)
{
    struct trio *t = *state;
    node_close(&t->a);
    node_close(&t->b);
    node_close(&t->c);
    free(t);
    return 0;
}

static const char *route(struct node *node, uint64_t peer)
{
    return node->ops->route(node->t, peer);
}

static void check_push(struct trio *t, struct node *to, uint64_t id)
{
    uint32_t n = t->a.n[TRANSPORT_PUSH_DONE], n_records = to->n[TRANSPORT_RECORD];
    bytes_fill(t->a.pool, POOL_BYTES, id);
    assert_int_equal(node_push_pool(&t->a, to->info.instance, id, UINT64_MAX), ST_OK);
    node_wait(&t->a, TRANSPORT_PUSH_DONE, n + 1);
    assert_int_equal(t->a.status[id], ST_OK);
    assert_int_equal(t->a.ops->record(t->a.t, to->info.instance, t->a.pool, 5000), ST_OK);
    node_wait(to, TRANSPORT_RECORD, n_records + 1);
    assert_int_equal(to->peer, A);
    assert_memory_equal(to->record, t->a.pool, 5000);
    assert_memory_equal(to->pool, t->a.pool, POOL_BYTES);
}

static void test_peer_of_this_host_is_reached_over_shm_and_another_over_ucx(void **state)
{
    struct trio *t = *state;
    char text[1024];
    assert_string_equal(route(&t->a, B), "shm");
    assert_string_equal(route(&t->b, A), "shm");
    assert_string_equal(route(&t->a, C), "ucx");
    for (uint64_t i = 0; i < 10; i++)
        check_push(t, i % 2 == 0 ? &t->b : &t->c, i);
    assert_int_equal(t->a.n[TRANSPORT_PEER_ERROR], 0);
    t->a.ops->describe(t->a.t, text, sizeof(text));
    assert_non_null(strstr(text, "shared memory"));
    assert_non_null(strstr(text, "UCX 1."));
}

static void test_connect_again_keeps_the_route(void **state)
{
    struct trio *t = *state;
    assert_int_equal(node_connect(&t->a, &t->c.info), ST_OK); /* though shm would reach it */
    assert_string_equal(route(&t->a, C), "ucx");
    check_push(t, &t->c, 1);
}

static void test_fenced_peer_may_come_back_by_another_route(void **state)
{
    struct trio *t = *state;
    assert_int_equal(t->a.ops->fence(t->a.t, C), ST_OK);
    node_wait(&t->a, TRANSPORT_FENCED, 1);
    assert_int_equal(t->a.peer, C);
    assert_int_equal(t->a.ops->fence(t->a.t, C), ST_OK); /* answered, though nobody has it */
    node_wait(&t->a, TRANSPORT_FENCED, 2);
    struct transport_vec vec = {.bytes = 1};
    assert_int_equal(node_push(&t->a, C, 7, &vec, 1), ST_OK);
    node_wait(&t->a, TRANSPORT_PUSH_DONE, 1);
    assert_int_equal(t->a.status[7], ST_PEER_LOST);
    assert_int_equal(node_connect(&t->a, &t->c.info), ST_OK);
    assert_int_equal(node_connect(&t->c, &t->a.info), ST_OK);
    assert_string_equal(route(&t->a, C), "shm");
    check_push(t, &t->c, 8);
    assert_int_equal(t->a.ops->fence(t->a.t, B), ST_OK);
    node_wait(&t->a, TRANSPORT_FENCED, 3);
    check_push(t, &t->c, 9);
}

static void test_connect_with_malformed_blob_is_refused_and_takes_no_route(void **state)
{
    struct trio *t = *state;
    struct wire_peer peer = t->b.info;
    struct pair_blob parts;
    uint8_t blob[WIRE_BLOB_BYTES_MAX];
    peer.instance = 404;
    memcpy(blob, t->b.info.blob, peer.blob_bytes);
    peer.blob = blob;
    assert_int_equal(pair_blob_read(blob, peer.blob_bytes, &parts), ST_OK);
    for (uint32_t n = 0; n < peer.blob_bytes; n++) {
        struct wire_peer cut = peer;
        cut.blob_bytes = n;
        assert_int_equal(node_connect(&t->a, &cut), ST_PARSE);
    }
    blob[0]++;
    assert_int_equal(node_connect(&t->a, &peer), ST_VERSION);
    blob[0]--;
    memset(blob + 4, 0xff, 8); /* lengths that overflow */
    assert_int_equal(node_connect(&t->a, &peer), ST_PARSE);
    memcpy(blob, t->b.info.blob, peer.blob_bytes);
    blob[PAIR_BLOB_HEAD_BYTES + 5] ^= 1; /* in shm's */
    assert_int_equal(node_connect(&t->a, &peer), ST_MISMATCH);
    memset(peer.host_id, 0, sizeof(peer.host_id));
    blob[PAIR_BLOB_HEAD_BYTES + 5] ^= 1;
    blob[peer.blob_bytes - 20] ^= 1; /* in ucx's */
    assert_int_equal(node_connect(&t->a, &peer), ST_MISMATCH);
    peer.instance = 0;
    assert_int_equal(node_connect(&t->a, &peer), ST_INVALID);
    node_check_quiet(&t->a, 20);
}

static void test_peer_beyond_as_many_as_the_worker_core_knows_is_full(void **state)
{
    struct trio *t = *state;
    struct wire_peer peer = t->c.info; /* it was never told of a: nothing comes of it */
    peer.role = WIRE_ROLE_PREFILL;
    for (uint32_t i = 2; i < TRANSPORT_PEERS_MAX; i++) {
        peer.instance = 1000 + i;
        assert_int_equal(node_connect(&t->a, &peer), ST_OK);
    }
    peer.instance = 9999;
    assert_int_equal(node_connect(&t->a, &peer), ST_FULL);
    check_push(t, &t->b, 1);
}

static void test_open_where_one_of_them_cannot_gives_the_other(void **state)
{
    (void)state;
    void *base = NULL;
    int fd = -1;
    struct transport *t = NULL;
    struct transport_opts opts = {.pool = {.pool = 4, .block_count = 1, .block_bytes = 65536},
                                  .pool_fd = -1};
    assert_int_equal(transport_pool_map(4, 65536, &base, &fd), ST_OK);
    opts.pool_base = base;
    assert_int_equal(transport_pair_ops.open(&opts, &t), ST_OK);
    assert_ptr_equal(t->ops, &transport_ucx_ops);
    t->ops->close(t);
    opts.pool_base = NULL;
    t = NULL;
    assert_int_equal(transport_pair_ops.open(&opts, &t), ST_INVALID);
    assert_null(t);
    transport_pool_unmap(base, 65536, fd);
    transport_pair_ops.close(NULL);
}

int main(int argc, char **argv)
{
#define TRIO(test) cmocka_unit_test_setup_teardown(test, trio_open, trio_close)
    const struct CMUnitTest tests[] = {
        TRIO(test_peer_of_this_host_is_reached_over_shm_and_another_over_ucx),
        TRIO(test_connect_again_keeps_the_route),
        TRIO(test_fenced_peer_may_come_back_by_another_route),
        TRIO(test_connect_with_malformed_blob_is_refused_and_takes_no_route),
        TRIO(test_peer_beyond_as_many_as_the_worker_core_knows_is_full),
        cmocka_unit_test(test_open_where_one_of_them_cannot_gives_the_other),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
