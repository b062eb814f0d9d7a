/* Inside of the UCX transport. ucx.c: what the loop thread calls;
 * ucx_thread.c: the progress thread, which alone touches UCX; ucx_peer.c: endpoints, pushes,
 * fencing (that thread). */
#ifndef TRANSPORT_UCX_INT_H
#define TRANSPORT_UCX_INT_H

#include "base/list.h"
#include "transport/mailbox.h"
#include "transport/process.h"
#include "transport/transport.h"
#include "transport/ucx_blob.h"

#include <pthread.h>
#include <ucp/api/ucp.h>

#define UCX_AM_ID 1u

struct ucx;

enum ucx_fence { UCX_FENCE_NONE, UCX_FENCE_WANTED, UCX_FENCE_DRAINING };

struct ucx_peer {
    struct ucx *ucx;
    bool used, failed; /* failed: seen by the error handler, to be closed by the thread */
    uint64_t instance;
    struct wire_pool pool;
    bool same_host, is_writer; /* is_writer: may write into our pool */
    struct process process;    /* same_host only; else its pidfd is -1 */
    ucp_ep_h ep;
    ucp_rkey_h rkey;
    enum ucx_fence fence;
    uint32_t idle_rounds;
    uint64_t quiet_ns; /* DRAINING: not over before */
};

struct ucx_push {
    struct list node; /* in ucx->pushes */
    struct ucx *ucx;  /* of its own: a push may end after its peer was forgotten */
    struct ucx_peer *peer;
    uint64_t instance, id, deadline_ns;
    uint32_t n_pending;              /* requests of UCX not yet done */
    bool issued, flushed, abandoned; /* abandoned: reported, peer is NULL */
    enum status status;
};

struct ucx {
    struct transport base; /* first */
    struct transport_opts opts;
    uint64_t pid_ns;
    /* Progress thread only. */
    ucp_context_h context;
    ucp_worker_h worker;
    ucp_mem_h memory;
    struct ucx_peer peers[TRANSPORT_PEERS_MAX];
    struct list pushes;
    uint32_t n_sends, n_live_pushes; /* under way and not reported */
    uint64_t alive_check_ns;         /* when to look next whether peers live */
    /* Shared. */
    pthread_t thread;
    bool thread_started;
    struct mailbox box;
    /* Loop thread. */
    struct buf blob;
    char settings[256];
};

/* ucx_thread.c */
void *ucx_thread_main(void *arg);
/* ucx_peer.c */
enum status ucx_peer_connect(struct ucx *ucx, const struct command *cmd);
void ucx_peer_push(struct ucx *ucx, const struct command *cmd);
void ucx_peer_record(struct ucx *ucx, struct command *cmd);
void ucx_peer_fence(struct ucx *ucx, uint64_t instance);
/* Failed endpoints, deadlines, fences. is_empty: the last look at UCX found nothing to take in.
 * True: something is under way and needs a look again soon. */
bool ucx_peers_tick(struct ucx *ucx, uint64_t now_ns, bool is_empty);
void ucx_peers_close(struct ucx *ucx);

#endif
