/* For the tests of a transport: nodes with a pool of N_BLOCKS blocks whose events are counted.
 * Every wait has a deadline and fails the test. A test may define KIT_OPS, the
 * transport, and KIT_TELLS_BOTH, whether both sides have to connect. */
#ifndef TESTS_TRANSPORT_KIT_H
#define TESTS_TRANSPORT_KIT_H

#include "base/hash.h"
#include "base/time.h"
#include "transport/mailbox.h"
#include "transport/process.h"
#include "transport/shm_wire.h"
#include "transport/transport.h"
#include "transport/ucx_blob.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef KIT_OPS
#define KIT_OPS        (&transport_shm_ops)
#define KIT_TELLS_BOTH true
#endif
#ifndef KIT_BLOCKS
#define KIT_BLOCKS 64
#endif

enum {
    N_BLOCKS = KIT_BLOCKS,
    BLOCK_BYTES = 65536,
    POOL_BYTES = N_BLOCKS * BLOCK_BYTES,
    N_IDS = 2048,
    WAIT_MS = 10000
};

#define LAYOUT  0x1a7007ull
#define FAR_NS  (60 * NS_PER_S)
#define UNKNOWN 0xdeadull /* an instance that nobody connected */

/* UCX 1.13 loses three small pieces for each endpoint whose peer is gone before it is made. */
__attribute__((visibility("default"))) const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libuct.so";
}

/* Each open of UCX leaves locks of libibverbs behind, which stops ThreadSanitizer's search for
 * deadlocks at the 65th. */
__attribute__((visibility("default"))) const char *__tsan_default_options(void);
const char *__tsan_default_options(void)
{
    return "detect_deadlocks=0";
}

/* A transport with its pool, and what it reported. */
struct node {
    struct transport *t;
    const struct transport_ops *ops;
    uint8_t *pool;
    int pool_fd;
    struct wire_peer info;            /* what a router tells others of it */
    uint32_t n[TRANSPORT_FENCED + 1]; /* events, by kind */
    uint32_t done[N_IDS];             /* PUSH_DONE of an id */
    enum status status[N_IDS];        /* of its last one */
    uint64_t peer;                    /* of the last event */
    enum status error;                /* of the last PEER_ERROR */
    uint8_t *record;                  /* the last one, copied */
    uint32_t record_bytes;
    uint64_t pool_hash; /* at its arrival */
    bool want_hash;
};

static inline void node_open_as(struct node *node, uint32_t pool, uint64_t instance, uint32_t role,
                                const uint8_t host_id[16])
{
    void *base = NULL;
    *node = (struct node){.ops = KIT_OPS};
    struct transport_opts opts = {.instance = instance,
                                  .pool = {.pool = pool,
                                           .block_count = N_BLOCKS,
                                           .epoch = 1,
                                           .layout_hash = LAYOUT,
                                           .block_tokens = 16,
                                           .layer_count = 4,
                                           .block_bytes = BLOCK_BYTES}};
    assert_int_equal(transport_pool_map(pool, POOL_BYTES, &base, &node->pool_fd), ST_OK);
    node->pool = base;
    opts.pool_base = base;
    opts.pool_fd = node->pool_fd;
    memcpy(opts.host_id, host_id, 16);
    assert_int_equal(node->ops->open(&opts, &node->t), ST_OK);
    node->info = (struct wire_peer){
        .instance = instance, .role = role, .pid = (uint32_t)getpid(), .pool = opts.pool};
    memcpy(node->info.host_id, host_id, 16);
    node->ops->export_blob(node->t, &node->info.blob, &node->info.blob_bytes);
    assert_in_range(node->info.blob_bytes, 1, WIRE_BLOB_BYTES_MAX);
}

static inline void node_open(struct node *node, uint32_t pool, uint64_t instance, uint32_t role)
{
    uint8_t host_id[16];
    transport_host_id(host_id);
    node_open_as(node, pool, instance, role, host_id);
}

static inline void node_close(struct node *node)
{
    if (node->t != NULL)
        node->ops->close(node->t);
    transport_pool_unmap(node->pool, POOL_BYTES, node->pool_fd);
    free(node->record);
    *node = (struct node){.pool_fd = -1};
}

static inline void node_event(struct node *node, const struct transport_event *event)
{
    node->n[event->kind]++;
    node->peer = event->peer;
    if (event->kind == TRANSPORT_PUSH_DONE && event->push_id < N_IDS) {
        node->done[event->push_id]++;
        node->status[event->push_id] = event->status;
    } else if (event->kind == TRANSPORT_PEER_ERROR) {
        node->error = event->status;
    } else if (event->kind == TRANSPORT_RECORD) {
        if (node->want_hash)
            node->pool_hash = hash_bytes(node->pool, POOL_BYTES);
        free(node->record);
        node->record = malloc(event->bytes);
        assert_non_null(node->record);
        memcpy(node->record, event->data, event->bytes);
        node->record_bytes = event->bytes;
    }
}

/* Takes events until there are none, or one of `kind` came (so that none is taken too many). */
static inline void node_take(struct node *node, enum transport_event_kind kind, uint32_t n)
{
    struct transport_event event;
    while (node->n[kind] < n && node->ops->next_event(node->t, &event))
        node_event(node, &event);
}

/* Until n events of a kind came in all. */
static inline void node_wait(struct node *node, enum transport_event_kind kind, uint32_t n)
{
    uint64_t limit = time_monotonic_ns() + WAIT_MS * NS_PER_MS;
    for (node_take(node, kind, n); node->n[kind] < n; node_take(node, kind, n)) {
        struct pollfd fd = {.fd = node->ops->event_fd(node->t), .events = POLLIN};
        uint64_t now = time_monotonic_ns();
        if (now >= limit)
            fail_msg("event %d: %u of %u came", (int)kind, node->n[kind], n);
        poll(&fd, 1, (int)((limit - now) / NS_PER_MS) + 1);
    }
}

/* Nothing more comes in the next ms. */
static inline void node_check_quiet(struct node *node, int ms)
{
    uint64_t limit = time_monotonic_ns() + (uint64_t)ms * NS_PER_MS, now;
    struct pollfd fd = {.fd = node->ops->event_fd(node->t), .events = POLLIN};
    struct transport_event event;
    for (now = limit - 1; now < limit; now = time_monotonic_ns()) {
        if (node->ops->next_event(node->t, &event))
            fail_msg("event %d came", (int)event.kind);
        poll(&fd, 1, (int)((limit - now) / NS_PER_MS) + 1);
    }
}

static inline enum status node_connect(struct node *node, const struct wire_peer *peer)
{
    return node->ops->connect(node->t, peer);
}

static inline enum status node_push(struct node *node, uint64_t peer, uint64_t id,
                                    const struct transport_vec *vec, uint32_t n_vec)
{
    return node->ops->push(node->t, peer, id, vec, n_vec, time_monotonic_ns() + FAR_NS);
}

/* The whole pool, block by block. */
static inline enum status node_push_pool(struct node *node, uint64_t peer, uint64_t id,
                                         uint64_t deadline_ns)
{
    struct transport_vec vec[N_BLOCKS];
    for (uint32_t i = 0; i < N_BLOCKS; i++)
        vec[i] = (struct transport_vec){.src_block = i, .dst_block = i, .bytes = BLOCK_BYTES};
    return node->ops->push(node->t, peer, id, vec, N_BLOCKS, deadline_ns);
}

static inline void bytes_fill(uint8_t *data, size_t bytes, uint64_t seed)
{
    for (size_t i = 0; i < bytes; i++) {
        if (i % 8 == 0)
            seed = hash_mix64(seed + i);
        data[i] = (uint8_t)(seed >> 8 * (i % 8));
    }
}

/* The peer's blob with another pid in it, its sum right. */
static inline void blob_with_pid(const struct wire_peer *peer, uint32_t pid, uint64_t pid_start,
                                 struct buf *out)
{
    struct ucx_blob ucx;
    struct shm_blob shm;
    buf_init(out, WIRE_BLOB_BYTES_MAX);
    if (KIT_OPS == &transport_ucx_ops) {
        assert_int_equal(ucx_blob_read(peer->blob, peer->blob_bytes, &ucx), ST_OK);
        ucx.pid = pid;
        ucx.pid_start = pid_start;
        assert_int_equal(ucx_blob_write(&ucx, out), ST_OK);
        return;
    }
    assert_int_equal(shm_blob_read(peer->blob, peer->blob_bytes, &shm), ST_OK);
    shm.pid = pid;
    shm.pid_start = pid_start;
    assert_int_equal(shm_blob_write(&shm, out), ST_OK);
}

#endif
