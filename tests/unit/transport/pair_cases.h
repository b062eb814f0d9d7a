/* What every transport does between two pools of one process. What needs a peer that dies, stops or
 * is killed is in peer_cases.h. */
#ifndef TESTS_PAIR_CASES_H
#define TESTS_PAIR_CASES_H

#include "transport_kit.h"

#define A 101u
#define B 202u

struct pair {
    struct node a, b; /* a is connected to b */
};

static int pair_open(void **state)
{
    struct pair *p = calloc(1, sizeof(*p));
    assert_non_null(p);
    node_open(&p->a, 0, A, WIRE_ROLE_PREFILL);
    node_open(&p->b, 1, B, WIRE_ROLE_DECODE);
    assert_int_equal(node_connect(&p->a, &p->b.info), ST_OK);
    if (KIT_TELLS_BOTH)
        assert_int_equal(node_connect(&p->b, &p->a.info), ST_OK);
    *state = p;
    return 0;
}

static int pair_close(void **state)
{
    struct pair *p = *state;
    node_close(&p->a);
    node_close(&p->b);
    free(p);
    return 0;
}

static void test_connect_with_another_layout_is_mismatch(void **state)
{
    struct pair *p = *state;
    struct wire_peer peer = p->b.info;
    peer.instance = 303;
    peer.pool.layout_hash ^= 1;
    assert_int_equal(node_connect(&p->a, &peer), ST_MISMATCH);
    peer = p->b.info;
    peer.pool.block_bytes *= 2;
    assert_int_equal(node_connect(&p->a, &peer), ST_MISMATCH);
    peer = p->b.info;
    peer.pool.pool = 16;
    assert_int_equal(node_connect(&p->a, &peer), ST_MISMATCH);
    node_check_quiet(&p->a, 20);
}

static void test_connect_again_keeps_the_connection(void **state)
{
    struct pair *p = *state;
    for (unsigned i = 0; i < 5; i++) {
        assert_int_equal(node_push_pool(&p->a, B, i, UINT64_MAX), ST_OK);
        assert_int_equal(node_connect(&p->a, &p->b.info), ST_OK);
    }
    node_wait(&p->a, TRANSPORT_PUSH_DONE, 5);
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(p->a.status[i], ST_OK);
    assert_int_equal(p->a.n[TRANSPORT_PEER_ERROR], 0);
}

static void test_push_of_many_vecs_lands_exactly_and_is_done_once(void **state)
{
    struct pair *p = *state;
    struct transport_vec vec[4 * N_BLOCKS];
    uint32_t n = 0;
    bytes_fill(p->a.pool, POOL_BYTES, 1);
    memset(p->b.pool, 0xee, POOL_BYTES);
    for (uint32_t i = 0; i < N_BLOCKS; i++)
        for (uint32_t part = 0; part < 4; part++) /* three of four quarters, blocks reversed */
            if (part != i % 4)
                vec[n++] = (struct transport_vec){.src_block = i,
                                                  .dst_block = N_BLOCKS - 1 - i,
                                                  .offset_bytes = part * (BLOCK_BYTES / 4u),
                                                  .bytes = BLOCK_BYTES / 4};
    assert_int_equal(node_push(&p->a, B, 7, vec, n), ST_OK);
    memset(vec, 0xff, sizeof(vec)); /* copied */
    node_wait(&p->a, TRANSPORT_PUSH_DONE, 1);
    assert_int_equal(p->a.status[7], ST_OK);
    assert_int_equal(p->a.peer, B);
    uint8_t untouched[BLOCK_BYTES / 4];
    memset(untouched, 0xee, sizeof(untouched));
    for (uint32_t i = 0; i < N_BLOCKS; i++)
        for (uint32_t part = 0; part < 4; part++) {
            size_t at = part * sizeof(untouched);
            assert_memory_equal(p->b.pool + (N_BLOCKS - 1 - i) * BLOCK_BYTES + at,
                                part == i % 4 ? untouched : p->a.pool + i * BLOCK_BYTES + at,
                                sizeof(untouched));
        }
    node_check_quiet(&p->a, 20);
    node_check_quiet(&p->b, 1); /* a push is one-sided */
}

static void test_push_of_no_vec_or_no_bytes_is_done(void **state)
{
    struct pair *p = *state;
    struct transport_vec vec = {.src_block = N_BLOCKS - 1, .offset_bytes = BLOCK_BYTES};
    assert_int_equal(node_push(&p->a, B, 1, NULL, 0), ST_OK);
    assert_int_equal(node_push(&p->a, B, 2, &vec, 1), ST_OK);
    node_wait(&p->a, TRANSPORT_PUSH_DONE, 2);
    assert_int_equal(p->a.status[1], ST_OK);
    assert_int_equal(p->a.status[2], ST_OK);
}

static void test_push_from_outside_the_own_pool_is_invalid_at_once(void **state)
{
    struct pair *p = *state;
    static const struct transport_vec bad[] = {
        {.src_block = N_BLOCKS, .bytes = 1},
        {.src_block = UINT32_MAX, .bytes = 1},
        {.src_block = 0, .bytes = BLOCK_BYTES + 1},
        {.src_block = 0, .offset_bytes = 1, .bytes = BLOCK_BYTES},
        {.src_block = 0, .offset_bytes = BLOCK_BYTES, .bytes = 1},
        {.src_block = 0, .offset_bytes = UINT64_MAX, .bytes = 2},
        {.src_block = 0, .offset_bytes = 2, .bytes = UINT64_MAX},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        struct transport_vec vec[2] = {{.bytes = 1}, bad[i]};
        assert_int_equal(node_push(&p->a, B, i, vec, 2), ST_INVALID);
    }
    node_check_quiet(&p->a, 20);
}

static void test_push_beyond_the_peers_pool_is_done_invalid_and_writes_nothing(void **state)
{
    struct pair *p = *state;
    struct transport_vec vec[2] = {{.bytes = BLOCK_BYTES},
                                   {.dst_block = N_BLOCKS, .bytes = BLOCK_BYTES}};
    memset(p->a.pool, 1, POOL_BYTES);
    assert_int_equal(node_push(&p->a, B, 3, vec, 2), ST_OK);
    vec[1].dst_block = UINT32_MAX;
    assert_int_equal(node_push(&p->a, B, 4, vec, 2), ST_OK);
    node_wait(&p->a, TRANSPORT_PUSH_DONE, 2);
    assert_int_equal(p->a.status[3], ST_INVALID);
    assert_int_equal(p->a.status[4], ST_INVALID);
    assert_int_equal(p->b.pool[0], 0);
    vec[1].dst_block = N_BLOCKS - 1; /* the connection is as good as before */
    assert_int_equal(node_push(&p->a, B, 5, vec, 2), ST_OK);
    node_wait(&p->a, TRANSPORT_PUSH_DONE, 3);
    assert_int_equal(p->a.status[5], ST_OK);
    assert_int_equal(p->b.pool[POOL_BYTES - 1], 1);
}

static void test_push_to_unknown_peer_is_done_peer_lost(void **state)
{
    struct pair *p = *state;
    struct transport_vec vec = {.bytes = 1};
    assert_int_equal(node_push(&p->a, UNKNOWN, 6, &vec, 1), ST_OK);
    node_wait(&p->a, TRANSPORT_PUSH_DONE, 1);
    assert_int_equal(p->a.done[6], 1);
    assert_int_equal(p->a.status[6], ST_PEER_LOST);
    assert_int_equal(p->a.peer, UNKNOWN);
    /* b never connected to a, though a is connected to b. */
    assert_int_equal(node_push(&p->b, A, 6, &vec, 1), ST_OK);
    node_wait(&p->b, TRANSPORT_PUSH_DONE, 1);
    assert_int_equal(p->b.status[6], ST_PEER_LOST);
}

static void test_push_when_too_many_are_not_taken_gives_full(void **state)
{
    struct pair *p = *state;
    struct transport_vec vec = {.bytes = 1};
    enum status st = ST_OK;
    uint32_t n = 0;
    for (; n <= MAILBOX_PUSHES_MAX; n++)
        if ((st = node_push(&p->a, UNKNOWN, n, &vec, 1)) != ST_OK)
            break;
    assert_int_equal(st, ST_FULL);
    assert_int_equal(n, MAILBOX_PUSHES_MAX);
    node_wait(&p->a, TRANSPORT_PUSH_DONE, 1);
    assert_int_equal(node_push(&p->a, UNKNOWN, 0, &vec, 1), ST_OK);
    node_wait(&p->a, TRANSPORT_PUSH_DONE, MAILBOX_PUSHES_MAX + 1);
    node_check_quiet(&p->a, 1);
}

/* Pieces of random size that cover the pool, moved in random order from random blocks, 1 to 4 a
 * push; some are left out. */
static void test_push_of_random_pieces_in_random_order_lands_byte_exact(void **state)
{
    enum { N_PIECES = 4096, N_PUSHES = 1000 };
    struct pair *p = *state;
    struct transport_vec *piece = calloc(N_PIECES, sizeof(*piece));
    uint8_t *expected = malloc(POOL_BYTES);
    uint64_t seed = 42;
    uint32_t n = 0, at = 0, n_pushes = 0;
    assert_true(piece != NULL && expected != NULL);
    bytes_fill(p->a.pool, POOL_BYTES, 2);
    memset(p->b.pool, 0xee, POOL_BYTES);
    memset(expected, 0xee, POOL_BYTES);
    for (uint32_t block = 0; block < N_BLOCKS; block++)
        for (uint64_t from = 0; from < BLOCK_BYTES && n < N_PIECES; n++) {
            seed = hash_mix64(seed);
            uint64_t bytes = 1 + (seed >> 8) % ((seed & 3) == 0 ? 64 : 4500);
            if (bytes > BLOCK_BYTES - from)
                bytes = BLOCK_BYTES - from;
            piece[n] = (struct transport_vec){.src_block = (uint32_t)(seed >> 40) % N_BLOCKS,
                                              .dst_block = block,
                                              .offset_bytes = from,
                                              .bytes = bytes};
            from += bytes;
        }
    assert_in_range(n, 2 * N_PUSHES, N_PIECES - 1);
    for (uint32_t i = n - 1; i > 0; i--) { /* shuffled */
        seed = hash_mix64(seed);
        uint32_t j = (uint32_t)(seed % (i + 1));
        struct transport_vec tmp = piece[i];
        piece[i] = piece[j];
        piece[j] = tmp;
    }
    for (; n_pushes < N_PUSHES; n_pushes++) {
        uint32_t n_vec = 1 + (uint32_t)(hash_mix64(n_pushes) % 4);
        if (n_vec > n - at - (N_PUSHES - 1 - n_pushes))
            n_vec = 1;
        for (uint32_t i = at; i < at + n_vec; i++)
            memcpy(expected + piece[i].dst_block * BLOCK_BYTES + piece[i].offset_bytes,
                   p->a.pool + piece[i].src_block * BLOCK_BYTES + piece[i].offset_bytes,
                   piece[i].bytes);
        assert_int_equal(node_push(&p->a, B, n_pushes, piece + at, n_vec), ST_OK);
        at += n_vec;
    }
    node_wait(&p->a, TRANSPORT_PUSH_DONE, N_PUSHES);
    for (uint32_t i = 0; i < N_PUSHES; i++) {
        assert_int_equal(p->a.done[i], 1);
        assert_int_equal(p->a.status[i], ST_OK);
    }
    assert_memory_equal(p->b.pool, expected, POOL_BYTES);
    free(piece);
    free(expected);
}

static void check_record(struct pair *p, uint32_t bytes, uint64_t seed)
{
    uint8_t *data = malloc(bytes);
    assert_non_null(data);
    bytes_fill(data, bytes, seed);
    uint32_t n = p->b.n[TRANSPORT_RECORD];
    assert_int_equal(p->a.ops->record(p->a.t, B, data, bytes), ST_OK);
    node_wait(&p->b, TRANSPORT_RECORD, n + 1);
    assert_int_equal(p->b.record_bytes, bytes);
    assert_int_equal(p->b.peer, A);
    assert_memory_equal(p->b.record, data, bytes);
    free(data);
}

static void test_record_of_any_allowed_size_arrives_whole(void **state)
{
    struct pair *p = *state;
    static const uint32_t sizes[] = {1,
                                     7,
                                     8,
                                     100,
                                     8191,
                                     8192,
                                     8193,
                                     65536,
                                     1u << 20,
                                     TRANSPORT_RECORD_BYTES_MAX - 1,
                                     TRANSPORT_RECORD_BYTES_MAX};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++)
        check_record(p, sizes[i], i);
}

static void test_record_of_no_or_too_many_bytes_is_too_large(void **state)
{
    struct pair *p = *state;
    uint8_t byte = 0;
    assert_int_equal(p->a.ops->record(p->a.t, B, &byte, 0), ST_TOO_LARGE);
    assert_int_equal(p->a.ops->record(p->a.t, B, &byte, TRANSPORT_RECORD_BYTES_MAX + 1),
                     ST_TOO_LARGE);
    assert_int_equal(p->a.ops->record(p->a.t, B, &byte, UINT32_MAX), ST_TOO_LARGE);
    check_record(p, 5, 5);
}

static void test_record_to_unknown_peer_is_lost_silently(void **state)
{
    struct pair *p = *state;
    uint8_t byte = 0;
    assert_int_equal(p->a.ops->record(p->a.t, UNKNOWN, &byte, 1), ST_OK);
    check_record(p, 5, 5);
    assert_int_equal(p->b.n[TRANSPORT_RECORD], 1);
    node_check_quiet(&p->a, 1);
}

static void test_records_keep_their_order(void **state)
{
    struct pair *p = *state;
    struct transport_event event;
    uint32_t seen = 0;
    for (uint32_t i = 0; i < 500; i++) {
        uint8_t data[3000] = {0};
        memcpy(data, &i, sizeof(i));
        assert_int_equal(p->a.ops->record(p->a.t, B, data, i % 3 == 0 ? 3000 : 4), ST_OK);
    }
    while (seen < 500) {
        uint32_t value;
        struct pollfd fd = {.fd = p->b.ops->event_fd(p->b.t), .events = POLLIN};
        if (!p->b.ops->next_event(p->b.t, &event)) {
            assert_int_equal(poll(&fd, 1, WAIT_MS), 1);
            continue;
        }
        assert_int_equal(event.kind, TRANSPORT_RECORD);
        assert_int_equal(event.bytes, seen % 3 == 0 ? 3000 : 4);
        memcpy(&value, event.data, sizeof(value));
        assert_int_equal(value, seen++);
    }
}

/* At its arrival all bytes pushed before are there. */
static void test_record_after_push_done_comes_after_the_bytes(void **state)
{
    struct pair *p = *state;
    p->b.want_hash = true;
    for (uint32_t round = 1; round <= 20; round++) {
        bytes_fill(p->a.pool, POOL_BYTES, round);
        assert_int_equal(node_push_pool(&p->a, B, round, UINT64_MAX), ST_OK);
        node_wait(&p->a, TRANSPORT_PUSH_DONE, round);
        assert_int_equal(p->a.status[round], ST_OK);
        check_record(p, 1 + 50 * round, round);
        assert_int_equal(p->b.pool_hash, hash_bytes(p->a.pool, POOL_BYTES));
    }
}

static void test_fence_of_unknown_peer_is_answered_at_once_and_each_time(void **state)
{
    struct pair *p = *state;
    for (uint32_t i = 1; i <= 3; i++) {
        assert_int_equal(p->a.ops->fence(p->a.t, UNKNOWN), ST_OK);
        node_wait(&p->a, TRANSPORT_FENCED, i);
        assert_int_equal(p->a.peer, UNKNOWN);
    }
}

static void test_fence_ends_the_pushes_first_and_the_peer_can_be_connected_again(void **state)
{
    struct pair *p = *state;
    bytes_fill(p->a.pool, POOL_BYTES, 9);
    for (uint32_t i = 0; i < 50; i++)
        assert_int_equal(node_push_pool(&p->a, B, i, UINT64_MAX), ST_OK);
    assert_int_equal(p->a.ops->fence(p->a.t, B), ST_OK);
    node_wait(&p->a, TRANSPORT_FENCED, 1);
    assert_int_equal(p->a.n[TRANSPORT_PUSH_DONE], 50);
    for (uint32_t i = 0; i < 50; i++)
        assert_int_equal(p->a.done[i], 1);
    struct transport_vec vec = {.bytes = 1};
    assert_int_equal(node_push(&p->a, B, 60, &vec, 1), ST_OK);
    node_wait(&p->a, TRANSPORT_PUSH_DONE, 51);
    assert_int_equal(p->a.status[60], ST_PEER_LOST);
    assert_int_equal(p->a.ops->fence(p->a.t, B), ST_OK);
    node_wait(&p->a, TRANSPORT_FENCED, 2);
    assert_int_equal(node_connect(&p->a, &p->b.info), ST_OK);
    assert_int_equal(node_push_pool(&p->a, B, 61, UINT64_MAX), ST_OK);
    node_wait(&p->a, TRANSPORT_PUSH_DONE, 52);
    assert_int_equal(p->a.status[61], ST_OK);
    assert_memory_equal(p->a.pool, p->b.pool, POOL_BYTES);
}

static void test_fences_in_a_row_are_all_answered(void **state)
{
    struct pair *p = *state;
    for (uint32_t i = 0; i < 10; i++)
        assert_int_equal(p->a.ops->fence(p->a.t, B), ST_OK);
    assert_int_equal(p->a.ops->fence(p->a.t, UNKNOWN), ST_OK);
    do
        node_wait(&p->a, TRANSPORT_FENCED, p->a.n[TRANSPORT_FENCED] + 1);
    while (p->a.peer != B);
    assert_in_range(p->a.n[TRANSPORT_FENCED], 1, 11);
}

/* Pids with which kill() would hit this process, its group or everybody. */
static void test_fence_of_writer_with_a_pid_that_cannot_be_its_own_kills_nobody(void **state)
{
    struct pair *p = *state;
    uint32_t self = (uint32_t)getpid();
    const struct {
        uint32_t pid;
        uint64_t start;
    } bad[] = {{self, process_start(self)}, {0, 0}, {UINT32_MAX, 0}, {self, 0}, {0, 1}};
    for (uint32_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        struct buf blob;
        struct wire_peer peer = p->b.info;
        blob_with_pid(&p->b.info, bad[i].pid, bad[i].start, &blob);
        peer.instance = 700 + i;
        peer.role = WIRE_ROLE_PREFILL;
        peer.blob = blob.data;
        assert_int_equal(node_connect(&p->a, &peer), ST_OK);
        assert_int_equal(p->a.ops->fence(p->a.t, peer.instance), ST_OK);
        node_wait(&p->a, TRANSPORT_FENCED, i + 1);
        assert_int_equal(p->a.peer, peer.instance);
        buf_deinit(&blob);
    }
}

#define PAIR(test) cmocka_unit_test_setup_teardown(test, pair_open, pair_close)

#define PAIR_CASES                                                                                 \
    PAIR(test_connect_with_another_layout_is_mismatch),                                            \
        PAIR(test_connect_again_keeps_the_connection),                                             \
        PAIR(test_push_of_many_vecs_lands_exactly_and_is_done_once),                               \
        PAIR(test_push_of_no_vec_or_no_bytes_is_done),                                             \
        PAIR(test_push_from_outside_the_own_pool_is_invalid_at_once),                              \
        PAIR(test_push_beyond_the_peers_pool_is_done_invalid_and_writes_nothing),                  \
        PAIR(test_push_to_unknown_peer_is_done_peer_lost),                                         \
        PAIR(test_push_when_too_many_are_not_taken_gives_full),                                    \
        PAIR(test_push_of_random_pieces_in_random_order_lands_byte_exact),                         \
        PAIR(test_record_of_any_allowed_size_arrives_whole),                                       \
        PAIR(test_record_of_no_or_too_many_bytes_is_too_large),                                    \
        PAIR(test_record_to_unknown_peer_is_lost_silently), PAIR(test_records_keep_their_order),   \
        PAIR(test_record_after_push_done_comes_after_the_bytes),                                   \
        PAIR(test_fence_of_unknown_peer_is_answered_at_once_and_each_time),                        \
        PAIR(test_fence_ends_the_pushes_first_and_the_peer_can_be_connected_again),                \
        PAIR(test_fences_in_a_row_are_all_answered),                                               \
        PAIR(test_fence_of_writer_with_a_pid_that_cannot_be_its_own_kills_nobody)

#endif
