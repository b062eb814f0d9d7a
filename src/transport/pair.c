/* Two transports behind one table: shm to the peers that it reaches, ucx to the others. Both sides
 * come to the same choice, because what shm asks of a peer is asked alike by the peer.
 *
 * What is between two workers has one transport; a peer keeps its choice until it is fenced. Loop
 * thread alone: the threads are those of the two. */
#include "observe/log.h"
#include "transport/pair_blob.h"
#include "transport/transport.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

static const struct transport_ops *const members[PAIR_TRANSPORTS] = {&transport_shm_ops,
                                                                     &transport_ucx_ops};

struct pair_route {
    uint64_t instance; /* 0: free */
    uint32_t member;
};

struct pair {
    struct transport base; /* first */
    struct transport *member[PAIR_TRANSPORTS];
    struct pair_route routes[TRANSPORT_PEERS_MAX];
    int epoll;            /* readable when one of theirs is */
    uint32_t member_next; /* whose events are looked at first */
    struct buf blob;
};

static enum status pair_probe(char *out_why, uint32_t why_bytes)
{
    enum status st = ST_OK;
    for (uint32_t i = 0; i < PAIR_TRANSPORTS && st == ST_OK; i++)
        st = members[i]->probe(out_why, why_bytes);
    return st;
}

static struct pair_route *route_of(struct pair *pair, uint64_t peer)
{
    for (uint32_t i = 0; i < TRANSPORT_PEERS_MAX; i++)
        if (pair->routes[i].instance == peer)
            return &pair->routes[i];
    return NULL;
}

/* Of a peer that is not connected: any answers as one that does not know it. */
static uint32_t member_of(struct pair *pair, uint64_t peer)
{
    const struct pair_route *route = peer != 0 ? route_of(pair, peer) : NULL;
    return route != NULL ? route->member : 0;
}

static enum status pair_connect(struct transport *t, const struct wire_peer *peer)
{
    struct pair *pair = (struct pair *)t;
    struct pair_blob blob;
    enum status st = pair_blob_read(peer->blob, peer->blob_bytes, &blob);
    if (st != ST_OK)
        return st;
    if (peer->instance == 0)
        return ST_INVALID;
    struct pair_route *route = route_of(pair, peer->instance);
    uint32_t first = route != NULL ? route->member : 0;
    if (route == NULL)
        route = route_of(pair, 0);
    if (route == NULL)
        return ST_FULL;
    for (uint32_t i = first; i < PAIR_TRANSPORTS; i++) {
        struct wire_peer info = *peer;
        info.blob = blob.data[i];
        info.blob_bytes = blob.bytes[i];
        st = members[i]->connect(pair->member[i], &info);
        if (st == ST_OK)
            *route = (struct pair_route){.instance = peer->instance, .member = i};
        if (st != ST_UNSUPPORTED)
            break;
    }
    return st;
}

static enum status pair_push(struct transport *t, uint64_t peer, uint64_t push_id,
                             const struct transport_vec *vec, uint32_t n_vec, uint64_t deadline_ns)
{
    struct pair *pair = (struct pair *)t;
    uint32_t i = member_of(pair, peer);
    return members[i]->push(pair->member[i], peer, push_id, vec, n_vec, deadline_ns);
}

static enum status pair_record(struct transport *t, uint64_t peer, const uint8_t *data,
                               uint32_t bytes)
{
    struct pair *pair = (struct pair *)t;
    uint32_t i = member_of(pair, peer);
    return members[i]->record(pair->member[i], peer, data, bytes);
}

static enum status pair_fence(struct transport *t, uint64_t peer)
{
    struct pair *pair = (struct pair *)t;
    uint32_t i = member_of(pair, peer);
    return members[i]->fence(pair->member[i], peer);
}

static bool pair_next_event(struct transport *t, struct transport_event *out)
{
    struct pair *pair = (struct pair *)t;
    for (uint32_t n = 0; n < PAIR_TRANSPORTS; n++) {
        uint32_t i = pair->member_next;
        pair->member_next = (i + 1) % PAIR_TRANSPORTS;
        if (!members[i]->next_event(pair->member[i], out))
            continue;
        struct pair_route *route =
            out->kind == TRANSPORT_FENCED && out->peer != 0 ? route_of(pair, out->peer) : NULL;
        if (route != NULL && route->member == i)
            *route = (struct pair_route){0};
        return true;
    }
    return false;
}

static int pair_event_fd(struct transport *t)
{
    return ((struct pair *)t)->epoll;
}

static void pair_export_blob(struct transport *t, const uint8_t **out_blob, uint32_t *out_bytes)
{
    struct pair *pair = (struct pair *)t;
    *out_blob = pair->blob.data;
    *out_bytes = (uint32_t)pair->blob.len;
}

static const char *pair_route_name(struct transport *t, uint64_t peer)
{
    return members[member_of((struct pair *)t, peer)]->name;
}

static void pair_describe(struct transport *t, char *out, uint32_t bytes)
{
    struct pair *pair = (struct pair *)t;
    char text[PAIR_TRANSPORTS][384];
    for (uint32_t i = 0; i < PAIR_TRANSPORTS; i++)
        members[i]->describe(pair->member[i], text[i], sizeof(text[i]));
    snprintf(out, bytes, "%s; %s", text[0], text[1]);
}

static void pair_close(struct transport *t)
{
    struct pair *pair = (struct pair *)t;
    if (pair == NULL)
        return;
    for (uint32_t i = 0; i < PAIR_TRANSPORTS; i++)
        members[i]->close(pair->member[i]);
    if (pair->epoll >= 0)
        close(pair->epoll);
    buf_deinit(&pair->blob);
    free(pair);
}

static enum status pair_join(struct pair *pair)
{
    struct pair_blob blob;
    pair->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (pair->epoll < 0)
        return ST_IO;
    for (uint32_t i = 0; i < PAIR_TRANSPORTS; i++) {
        struct epoll_event event = {.events = EPOLLIN};
        if (epoll_ctl(pair->epoll, EPOLL_CTL_ADD, members[i]->event_fd(pair->member[i]), &event) !=
            0)
            return ST_IO;
        members[i]->export_blob(pair->member[i], &blob.data[i], &blob.bytes[i]);
    }
    return pair_blob_write(&blob, &pair->blob);
}

/* When only one of the two can be opened, that one alone is the transport. */
static enum status pair_open(const struct transport_opts *opts, struct transport **out_transport)
{
    enum status st[PAIR_TRANSPORTS];
    struct pair *pair = calloc(1, sizeof(*pair));
    if (pair == NULL)
        return ST_NO_MEMORY;
    pair->base.ops = &transport_pair_ops;
    pair->epoll = -1;
    buf_init(&pair->blob, WIRE_BLOB_BYTES_MAX);
    for (uint32_t i = 0; i < PAIR_TRANSPORTS; i++) {
        st[i] = members[i]->open(opts, &pair->member[i]);
        if (st[i] != ST_OK)
            log_warn("KV transport cannot be opened", LOG_STR("transport", members[i]->name),
                     LOG_STR("status", status_name(st[i])));
    }
    for (uint32_t i = 0; i < PAIR_TRANSPORTS; i++) {
        if (st[i] == ST_OK)
            continue;
        *out_transport = pair->member[1 - i];
        pair->member[1 - i] = NULL; /* the caller's now */
        pair_close(&pair->base);
        return st[1 - i];
    }
    enum status joined = pair_join(pair);
    if (joined != ST_OK) {
        pair_close(&pair->base);
        return joined;
    }
    *out_transport = &pair->base;
    return ST_OK;
}

const struct transport_ops transport_pair_ops = {
    .name = "shm+ucx",
    .probe = pair_probe,
    .open = pair_open,
    .export_blob = pair_export_blob,
    .connect = pair_connect,
    .push = pair_push,
    .record = pair_record,
    .fence = pair_fence,
    .next_event = pair_next_event,
    .event_fd = pair_event_fd,
    .route = pair_route_name,
    .describe = pair_describe,
    .close = pair_close,
};
