/* The UCX transport between two pools of one process. */
#define KIT_OPS        (&transport_ucx_ops)
#define KIT_TELLS_BOTH false

#include "pair_cases.h"
#include "transport/ucx_int.h"

static void test_open_with_pool_elsewhere_is_invalid(void **state)
{
    (void)state;
    static uint8_t elsewhere[4096];
    struct transport *t = NULL;
    struct transport_opts opts = {.pool = {.block_count = 1, .block_bytes = sizeof(elsewhere)},
                                  .pool_base = elsewhere};
    assert_int_equal(transport_ucx_ops.open(&opts, &t), ST_INVALID);
    assert_null(t);
    transport_ucx_ops.close(NULL);
}

static void test_describe_names_version_and_settings_and_stays_inside(void **state)
{
    struct pair *p = *state;
    char text[256], small[12];
    p->a.ops->describe(p->a.t, text, sizeof(text));
    assert_non_null(strstr(text, "UCX 1."));
    assert_non_null(strstr(text, "KEEPALIVE_INTERVAL="));
    p->a.ops->describe(p->a.t, small, sizeof(small));
    assert_int_equal(strlen(small), sizeof(small) - 1);
}

static void test_open_with_a_long_setting_of_the_user_stays_inside(void **state)
{
    (void)state;
    char value[2048];
    void *base = NULL;
    struct transport *t = NULL;
    struct transport_opts opts = {.pool = {.pool = 2, .block_count = 1, .block_bytes = 65536}};
    memset(value, '0', sizeof(value));
    memcpy(value + sizeof(value) - 6, "500ms", 6);
    assert_int_equal(transport_pool_map(2, 65536, &base, &opts.pool_fd), ST_OK);
    opts.pool_base = base;
    setenv("UCX_KEEPALIVE_INTERVAL", value, 1);
    enum status st = transport_ucx_ops.open(&opts, &t); /* UCX may take such a number or not */
    unsetenv("UCX_KEEPALIVE_INTERVAL");
    if (st == ST_OK)
        transport_ucx_ops.close(t);
    transport_pool_unmap(base, 65536, opts.pool_fd);
}

static void test_connect_with_malformed_blob_is_refused(void **state)
{
    struct pair *p = *state;
    struct wire_peer peer = p->b.info;
    uint8_t blob[WIRE_BLOB_BYTES_MAX];
    peer.instance = 303;
    memcpy(blob, p->b.info.blob, peer.blob_bytes);
    peer.blob = blob;
    peer.blob_bytes = 0;
    assert_int_equal(node_connect(&p->a, &peer), ST_PARSE);
    peer.blob_bytes = p->b.info.blob_bytes - 1;
    assert_int_equal(node_connect(&p->a, &peer), ST_PARSE);
    peer.blob_bytes = p->b.info.blob_bytes;
    blob[0]++;
    assert_int_equal(node_connect(&p->a, &peer), ST_VERSION);
    blob[0]--;
    blob[UCX_BLOB_HEAD_BYTES + 3] ^= 1; /* in UCX's address */
    assert_int_equal(node_connect(&p->a, &peer), ST_MISMATCH);
    node_check_quiet(&p->a, 20);
}

static void
test_connect_of_as_many_peers_as_the_worker_core_knows_works_and_of_one_more_not(void **state)
{
    struct pair *p = *state;
    struct wire_peer peer = p->b.info;
    assert_int_equal(TRANSPORT_PEERS_MAX, 256);
    for (uint32_t i = 1; i < TRANSPORT_PEERS_MAX; i++) { /* B is one */
        peer.instance = 1000 + i;
        assert_int_equal(node_connect(&p->a, &peer), ST_OK);
    }
    struct transport_vec vec = {.bytes = 1};
    for (uint32_t i = 1; i < TRANSPORT_PEERS_MAX; i++) { /* each of them is connected */
        p->a.pool[0] = (uint8_t)i;
        assert_int_equal(node_push(&p->a, 1000 + i, 10 + i, &vec, 1), ST_OK);
        node_wait(&p->a, TRANSPORT_PUSH_DONE, i);
        assert_int_equal(p->a.status[10 + i], ST_OK);
        assert_int_equal(p->b.pool[0], (uint8_t)i);
    }
    assert_int_equal(p->a.n[TRANSPORT_PEER_ERROR], 0);
    peer.instance = 9999;
    assert_int_equal(node_connect(&p->a, &peer), ST_OK);
    node_wait(&p->a, TRANSPORT_PEER_ERROR, 1);
    assert_int_equal(p->a.peer, 9999);
    /* A fenced one makes room. */
    assert_int_equal(p->a.ops->fence(p->a.t, 1001), ST_OK);
    node_wait(&p->a, TRANSPORT_FENCED, 1);
    assert_int_equal(node_connect(&p->a, &peer), ST_OK);
    assert_int_equal(node_push(&p->a, 9999, 2, &vec, 1), ST_OK);
    node_wait(&p->a, TRANSPORT_PUSH_DONE, TRANSPORT_PEERS_MAX);
    assert_int_equal(p->a.status[2], ST_OK);
}

static void test_records_that_wait_are_bounded_in_bytes_and_other_events_are_not(void **state)
{
    struct pair *p = *state;
    struct ucx *ucx = (struct ucx *)p->b.t;
    uint8_t *data = calloc(1, TRANSPORT_RECORD_BYTES_MAX);
    const uint32_t fits = MAILBOX_EVENT_BYTES_MAX / TRANSPORT_RECORD_BYTES_MAX;
    struct transport_event record = {
        .kind = TRANSPORT_RECORD, .peer = A, .data = data, .bytes = TRANSPORT_RECORD_BYTES_MAX};
    assert_non_null(data);
    for (uint32_t i = 0; i < fits + 8; i++)
        mailbox_post(&ucx->box, &record);
    record.bytes = 1;
    mailbox_post(&ucx->box, &record);
    mailbox_post(&ucx->box, &(struct transport_event){.kind = TRANSPORT_FENCED});
    node_wait(&p->b, TRANSPORT_FENCED, 1);
    assert_int_equal(p->b.n[TRANSPORT_RECORD], fits);
    assert_int_equal(ucx->box.event_bytes, 0);
    check_record(p, TRANSPORT_RECORD_BYTES_MAX, 1); /* what was taken makes room */
    free(data);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        PAIR_CASES,
        cmocka_unit_test(test_open_with_pool_elsewhere_is_invalid),
        PAIR(test_describe_names_version_and_settings_and_stays_inside),
        cmocka_unit_test(test_open_with_a_long_setting_of_the_user_stays_inside),
        PAIR(test_connect_with_malformed_blob_is_refused),
        PAIR(test_connect_of_as_many_peers_as_the_worker_core_knows_works_and_of_one_more_not),
        PAIR(test_records_that_wait_are_bounded_in_bytes_and_other_events_are_not),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
