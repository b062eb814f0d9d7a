/* Peers of the shm transport: pushes to them, their failure, their fencing. */
#include "transport/shm_int.h"

#include "base/time.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14; EINVAL before */
#endif

#define RETRY_NS NS_PER_S

struct shm_peer *shm_peer_of(struct shm *shm, uint64_t instance)
{
    for (uint32_t i = 0; i < TRANSPORT_PEERS_MAX; i++)
        if (shm->peers[i].used && shm->peers[i].instance == instance)
            return &shm->peers[i];
    return NULL;
}

static void peer_post(struct shm *shm, enum transport_event_kind kind, uint64_t peer,
                      enum status st)
{
    mailbox_post(&shm->box, &(struct transport_event){.kind = kind, .peer = peer, .status = st});
}

static void push_report(struct shm *shm, uint64_t peer, uint64_t push_id, enum status st)
{
    mailbox_post(&shm->box,
                 &(struct transport_event){
                     .kind = TRANSPORT_PUSH_DONE, .peer = peer, .push_id = push_id, .status = st});
}

static void push_free(struct shm *shm, struct shm_push *push)
{
    list_del(&push->node);
    free(push->vec);
    free(push);
    shm->n_pushes--;
}

static void push_end(struct shm *shm, struct shm_peer *peer, struct shm_push *push, enum status st)
{
    push_report(shm, peer->instance, push->id, st);
    push_free(shm, push);
}

static void pushes_fail(struct shm *shm, struct shm_peer *peer)
{
    while (!list_is_empty(&peer->pushes))
        push_end(shm, peer, list_entry(peer->pushes.next, struct shm_push, node), ST_PEER_LOST);
}

static void records_drop(struct shm_peer *peer)
{
    struct list *node, *next;
    list_for_each_safe(node, next, &peer->records)
    {
        struct shm_record *record = list_entry(node, struct shm_record, node);
        free(record->data);
        free(record);
    }
    list_init(&peer->records);
    peer->record_bytes = 0;
}

static void peer_end(struct shm *shm, struct shm_peer *peer)
{
    shm_out_close(peer);
    records_drop(peer);
    pushes_fail(shm, peer);
}

static void peer_fail(struct shm *shm, struct shm_peer *peer)
{
    peer_end(shm, peer);
    if (!peer->failed)
        peer_post(shm, TRANSPORT_PEER_ERROR, peer->instance, ST_PEER_LOST);
    peer->failed = true;
}

static void peer_forget(struct shm_peer *peer)
{
    process_close(&peer->process);
    *peer = (struct shm_peer){.fd = -1, .pool_fd = -1, .process = {.pidfd = -1}};
}

/* ---- connecting ---- */

static bool peer_init(struct shm *shm, struct shm_peer *peer, const struct command *cmd)
{
    struct shm_blob blob;
    if (shm_blob_read(cmd->data, cmd->bytes, &blob) != ST_OK)
        return false;
    *peer = (struct shm_peer){.used = true,
                              .instance = cmd->peer,
                              .pool = cmd->info.pool,
                              .blob = blob,
                              .is_writer =
                                  cmd->info.role == WIRE_ROLE_PREFILL && !shm->opts.pool_is_private,
                              .is_other = process_is_other(blob.pid, blob.pid_start),
                              .process = {.pidfd = -1},
                              .fd = -1,
                              .retry_ns = UINT64_MAX,
                              .pool_fd = -1};
    list_init(&peer->pushes);
    list_init(&peer->records);
    if (!peer->is_other)
        return true;
    process_open(&peer->process, blob.pid, blob.pid_start);
    return peer->process.pidfd < 0 ||
           shm_watch(shm, peer->process.pidfd, SHM_PIDFD, (size_t)(peer - shm->peers));
}

void shm_peer_connect(struct shm *shm, const struct command *cmd)
{
    struct shm_peer *peer = shm_peer_of(shm, cmd->peer);
    if (peer != NULL && !peer->fencing && !peer->failed)
        return;
    if (peer == NULL) {
        uint32_t i = 0;
        while (i < TRANSPORT_PEERS_MAX && shm->peers[i].used)
            i++;
        if (i < TRANSPORT_PEERS_MAX && peer_init(shm, &shm->peers[i], cmd))
            peer = &shm->peers[i];
        else if (i < TRANSPORT_PEERS_MAX)
            peer_forget(&shm->peers[i]);
    }
    if (peer == NULL || peer->fencing) {
        peer_post(shm, TRANSPORT_PEER_ERROR, cmd->peer, ST_UNAVAILABLE);
        return;
    }
    peer->failed = false;
    if (peer->is_other && process_is_dead(&peer->process)) {
        peer_fail(shm, peer);
        return;
    }
    shm_in_welcome(shm, peer);
    shm_out_open(shm, peer);
}

/* ---- pushes ---- */

void shm_peer_push(struct shm *shm, struct command *cmd)
{
    struct shm_peer *peer = shm_peer_of(shm, cmd->peer);
    struct shm_push *push = NULL;
    if (peer != NULL && !peer->failed && !peer->fencing)
        push = calloc(1, sizeof(*push));
    if (push == NULL) {
        push_report(shm, cmd->peer, cmd->push_id, ST_PEER_LOST);
        return;
    }
    for (uint32_t i = 0; i < cmd->n_vec; i++) {
        if (cmd->vec[i].dst_block < peer->pool.block_count)
            continue;
        push_report(shm, cmd->peer, cmd->push_id, ST_INVALID);
        free(push);
        return;
    }
    *push = (struct shm_push){
        .id = cmd->push_id, .deadline_ns = cmd->deadline_ns, .vec = cmd->vec, .n_vec = cmd->n_vec};
    cmd->vec = NULL;
    list_add_tail(&peer->pushes, &push->node);
    shm->n_pushes++;
    shm_timer(shm, push->deadline_ns);
}

/* Goes on with a push for at most *budget bytes, which it takes from there. The sources are inside
 * the own pool by mailbox_push, the destinations inside the peer's by shm_peer_push: blocks of both
 * are equally large, and the mapping has all of the peer's. */
static void push_copy(const struct shm *shm, const struct shm_peer *peer, struct shm_push *push,
                      uint64_t *budget)
{
    const uint64_t block_bytes = peer->pool.block_bytes;
    while (push->at_vec<push->n_vec && * budget> 0) {
        const struct transport_vec *v = &push->vec[push->at_vec];
        uint64_t bytes = v->bytes - push->at_bytes, at = v->offset_bytes + push->at_bytes;
        if (bytes > *budget)
            bytes = *budget;
        memcpy(peer->map + v->dst_block * block_bytes + at,
               (const uint8_t *)shm->opts.pool_base + v->src_block * block_bytes + at, bytes);
        *budget -= bytes;
        push->at_bytes += bytes;
        if (push->at_bytes < v->bytes)
            return;
        push->at_vec++;
        push->at_bytes = 0;
    }
}

static void pushes_run_of(struct shm *shm, struct shm_peer *peer, uint64_t *budget)
{
    if (peer->map == NULL)
        pushes_fail(shm, peer); /* it does not let us write */
    while (!list_is_empty(&peer->pushes) && *budget > 0) {
        struct shm_push *push = list_entry(peer->pushes.next, struct shm_push, node);
        push_copy(shm, peer, push, budget);
        if (push->at_vec == push->n_vec)
            push_end(shm, peer, push, ST_OK);
    }
}

bool shm_pushes_run(struct shm *shm)
{
    uint64_t budget = SHM_SLICE_BYTES;
    uint32_t first = shm->next_peer;
    for (uint32_t i = 0; i < TRANSPORT_PEERS_MAX && shm->n_pushes > 0 && budget > 0; i++) {
        struct shm_peer *peer = &shm->peers[(first + i) % TRANSPORT_PEERS_MAX];
        if (!peer->used || peer->state != SHM_UP)
            continue;
        pushes_run_of(shm, peer, &budget);
        shm->next_peer = (first + i + 1) % TRANSPORT_PEERS_MAX;
    }
    return budget == 0;
}

bool shm_peers_populate(struct shm *shm)
{
    for (uint32_t i = 0; i < TRANSPORT_PEERS_MAX; i++) {
        struct shm_peer *peer = &shm->peers[i];
        if (!peer->used || peer->map == NULL || peer->populated_bytes >= peer->map_bytes)
            continue;
        uint64_t at = peer->populated_bytes, bytes = peer->map_bytes - at;
        if (bytes > SHM_SLICE_BYTES)
            bytes = SHM_SLICE_BYTES;
        bool done = madvise(peer->map + at, bytes, MADV_POPULATE_WRITE) == 0;
        peer->populated_bytes =
            done ? at + bytes : peer->map_bytes; /* else by faults, as they come */
        return true;
    }
    return false;
}

/* ---- failures and fencing ---- */

/* A peer that we do not write to may close its side as it likes: nothing depends on it while its
 * process lives, and to report it as lost would get it killed. */
void shm_peer_lost(struct shm *shm, struct shm_peer *peer)
{
    if (peer->is_other && process_is_dead(&peer->process)) {
        shm_peer_died(shm, peer);
        return;
    }
    if (!peer->is_writer) {
        peer_fail(shm, peer);
        return;
    }
    shm_out_close(peer);
    pushes_fail(shm, peer);
    peer->retry_ns = time_monotonic_ns() + RETRY_NS;
    shm_timer(shm, peer->retry_ns);
}

void shm_peer_died(struct shm *shm, struct shm_peer *peer)
{
    if (!peer->used || !peer->is_other || !process_is_dead(&peer->process))
        return;
    process_close(&peer->process); /* from now on its pid tells that it is dead */
    shm_in_drain(shm, peer);
    if (!peer->fencing) {
        peer_fail(shm, peer);
        return;
    }
    peer_post(shm, TRANSPORT_FENCED, peer->instance, ST_OK);
    peer_forget(peer);
}

void shm_peer_fence(struct shm *shm, uint64_t instance)
{
    struct shm_peer *peer = shm_peer_of(shm, instance);
    if (peer == NULL) {
        peer_post(shm, TRANSPORT_FENCED, instance, ST_OK);
        return;
    }
    if (peer->fencing)
        return;
    peer_end(shm, peer);
    bool is_dead = peer->is_other && process_is_dead(&peer->process);
    if (peer->granted && peer->is_other && !is_dead) {
        peer->fencing = true; /* until shm_peer_died */
        process_kill(&peer->process);
        return;
    }
    if (is_dead)
        shm_in_drain(shm, peer);
    shm_in_close_of(shm, peer);
    peer_post(shm, TRANSPORT_FENCED, instance, ST_OK);
    peer_forget(peer);
}

/* ---- time ---- */

static void pushes_tick(struct shm *shm, struct shm_peer *peer, uint64_t now_ns)
{
    struct list *node, *next;
    list_for_each_safe(node, next, &peer->pushes)
    {
        struct shm_push *push = list_entry(node, struct shm_push, node);
        if (now_ns >= push->deadline_ns)
            push_end(shm, peer, push, ST_TIMEOUT);
        else
            shm_timer(shm, push->deadline_ns);
    }
}

static void peer_tick(struct shm *shm, struct shm_peer *peer, uint64_t now_ns)
{
    pushes_tick(shm, peer, now_ns);
    if (peer->failed || peer->fencing || peer->state == SHM_UP)
        return;
    if (peer->state != SHM_DOWN && now_ns >= peer->deadline_ns)
        shm_peer_lost(shm, peer);
    else if (peer->state != SHM_WAITING && now_ns >= peer->retry_ns)
        shm_out_open(shm, peer);
    if (peer->state == SHM_DOWN || peer->state == SHM_CALLING)
        shm_timer(shm, peer->retry_ns);
    if (peer->state == SHM_CALLING || peer->state == SHM_WAITING)
        shm_timer(shm, peer->deadline_ns);
}

void shm_peers_tick(struct shm *shm, uint64_t now_ns)
{
    for (uint32_t i = 0; i < TRANSPORT_PEERS_MAX; i++)
        if (shm->peers[i].used)
            peer_tick(shm, &shm->peers[i], now_ns);
}

void shm_peers_close(struct shm *shm)
{
    for (uint32_t i = 0; i < TRANSPORT_PEERS_MAX; i++) {
        struct shm_peer *peer = &shm->peers[i];
        if (!peer->used)
            continue;
        shm_out_close(peer);
        records_drop(peer);
        while (!list_is_empty(&peer->pushes))
            push_free(shm, list_entry(peer->pushes.next, struct shm_push, node));
        process_close(&peer->process);
    }
    for (uint32_t i = 0; i < SHM_INS_MAX; i++)
        if (shm->ins[i].fd >= 0)
            shm_in_close(&shm->ins[i]);
}
