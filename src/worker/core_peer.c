/* Peers: the other workers with which KV is exchanged, and how they are fenced. */
#include "worker/core_int.h"

#include <string.h>

uint32_t peer_find(const struct worker_core *core, uint64_t instance)
{
    for (uint32_t i = 0; i < CORE_PEERS; i++) {
        if (core->peers[i].state != PEER_FREE && core->peers[i].info.instance == instance)
            return i;
    }
    return NONE;
}

bool peer_is_gone(const struct worker_core *core, uint64_t instance)
{
    for (uint32_t i = 0; i < CORE_PEERS; i++) {
        if (core->fenced[i] == instance)
            return peer_find(core, instance) == NONE;
    }
    return false;
}

static void peer_store(struct peer *peer, const struct wire_peer *info)
{
    peer->info = *info;
    peer->info.blob = peer->blob;
    if (info->blob == NULL || info->blob_bytes > sizeof(peer->blob))
        peer->info.blob_bytes = 0;
    else
        memcpy(peer->blob, info->blob, info->blob_bytes);
}

static void peer_up(struct worker_core *core, uint32_t at)
{
    core->peers[at].state = PEER_UP;
    core->peers[at].come_back = 0;
    for (uint32_t i = 0; i < CORE_PEERS; i++) {
        if (core->fenced[i] == core->peers[at].info.instance)
            core->fenced[i] = 0;
    }
    act_connect(core, at);
}

static void peer_again(struct worker_core *core, uint32_t at, const struct wire_peer *info)
{
    if (core->peers[at].state != PEER_FENCING)
        return;
    peer_store(&core->peers[at], info);
    core->peers[at].come_back = 1;
    core_loans_peer_up(core, at);
}

/* A peer with another layout is no peer: the router serves the request another way. */
void core_on_peer(struct worker_core *core, uint32_t conn, const struct wire_peer *info)
{
    const struct wire_pool *own = &core->opts.pool;
    if (info->instance == core->opts.instance || info->pool.layout_hash != own->layout_hash ||
        info->pool.block_tokens != own->block_tokens ||
        info->pool.layer_count != own->layer_count) {
        core->n_ignored++;
        return;
    }
    uint32_t at = peer_find(core, info->instance);
    if (at != NONE) {
        core->peers[at].conns |= 1ull << conn;
        peer_again(core, at, info);
        return;
    }
    for (at = 0; at < CORE_PEERS && core->peers[at].state != PEER_FREE; at++)
        ;
    if (at == CORE_PEERS) {
        core->n_ignored++;
        return;
    }
    peer_store(&core->peers[at], info);
    core->peers[at].conns = 1ull << conn;
    peer_up(core, at);
    core_loans_peer_up(core, at);
}

void peer_fence(struct worker_core *core, uint32_t peer)
{
    if (core->peers[peer].state != PEER_UP)
        return;
    core->peers[peer].state = PEER_FENCING;
    core->peers[peer].conns = 0;
    act_fence(core, peer);
    core_pushes_peer_lost(core, peer, false);
}

/* Also one that was never announced here, or is forgotten already. */
void peer_fence_instance(struct worker_core *core, uint64_t instance)
{
    uint32_t at = peer_find(core, instance);
    if (at == NONE) {
        for (at = 0; at < CORE_PEERS && core->peers[at].state != PEER_FREE; at++)
            ;
        if (at == CORE_PEERS)
            return;
        core->peers[at].info = (struct wire_peer){.instance = instance, .role = WIRE_ROLE_PREFILL};
        core->peers[at].come_back = 0;
        core->peers[at].state = PEER_UP;
    }
    peer_fence(core, at);
}

void worker_core_peer_error(struct worker_core *core, uint64_t now_ns, uint64_t peer)
{
    uint32_t at = peer_find(core, peer);
    if (at == NONE)
        return;
    peer_fence(core, at);
    core_admit(core, now_ns);
}

static void peer_forget(struct worker_core *core, uint32_t at)
{
    core->peers[at].state = PEER_FREE;
    core->fenced[core->n_fenced++ % CORE_PEERS] = core->peers[at].info.instance;
}

void worker_core_fenced(struct worker_core *core, uint64_t now_ns, uint64_t peer)
{
    uint32_t at = peer_find(core, peer);
    if (at == NONE)
        return;
    if (core->peers[at].state == PEER_UP) { /* the transport did it unasked */
        core->peers[at].state = PEER_FENCING;
        core->peers[at].conns = 0;
    }
    core_pushes_peer_lost(core, at, true);
    core_loans_peer_fenced(core, now_ns, at);
    if (core->peers[at].come_back)
        peer_up(core, at);
    else
        peer_forget(core, at);
    core_admit(core, now_ns);
}

/* Not when the router is connected again: the peer would take it for the new connection's jobs too.
 * And not when something that was written for that router may still land. */
void core_router_done_try(struct worker_core *core, uint64_t router)
{
    if (!is_prefill_role(core) || core->conn_closing || core_is_unsure(core, router, NULL))
        return;
    for (uint32_t i = 0; i < CORE_CONNS; i++) {
        if (core->conns[i].up && core->conns[i].router == router)
            return;
    }
    for (uint32_t i = 0; i < core->n_slots; i++) {
        const struct seq *s = &core->seqs[i];
        if (s->state == SEQ_ENDING && s->router == router && s->router_lost && !s->settled)
            return;
    }
    for (uint32_t i = 0; i < CORE_PEERS; i++) {
        if (core->peers[i].state == PEER_UP && core->peers[i].info.role != WIRE_ROLE_PREFILL)
            act_router_done(core, i, router);
    }
}
