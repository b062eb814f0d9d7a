/* Inside of the UCX transport. ucx.c: what the loop thread calls, and the queues between;
 * ucx_thread.c: the progress thread, which alone touches UCX; ucx_peer.c: endpoints, pushes,
 * fencing (that thread). */
#ifndef TRANSPORT_UCX_INT_H
#define TRANSPORT_UCX_INT_H

#include "base/list.h"
#include "transport/transport.h"
#include "transport/ucx_blob.h"

#include <pthread.h>
#include <ucp/api/ucp.h>

#define UCX_PUSHES_MAX   16384u
#define UCX_COMMANDS_MAX 65536u
#define UCX_EVENTS_MAX   65536u
#define UCX_AM_ID        1u

struct ucx;

enum ucx_command_kind { UCX_CONNECT, UCX_PUSH, UCX_RECORD, UCX_FENCE };

struct ucx_command {
    struct list node;
    enum ucx_command_kind kind;
    uint64_t peer, push_id, deadline_ns;
    struct wire_peer info; /* CONNECT; its blob is `data` */
    uint32_t n_vec, bytes;
    struct transport_vec *vec; /* PUSH */
    uint8_t *data;             /* CONNECT, RECORD */
};

struct ucx_event {
    struct list node;
    struct transport_event event; /* event.data points behind this struct */
};

enum ucx_fence { UCX_FENCE_NONE, UCX_FENCE_WANTED, UCX_FENCE_DRAINING };

struct ucx_peer {
    struct ucx *ucx;
    bool used, failed; /* failed: seen by the error handler, to be closed by the thread */
    uint64_t instance;
    struct wire_pool pool;
    bool same_host, is_writer; /* is_writer: may write into our pool */
    uint32_t pid;
    uint64_t pid_start;
    int pidfd; /* -1: not open */
    ucp_ep_h ep;
    ucp_rkey_h rkey;
    enum ucx_fence fence;
    uint32_t idle_rounds;
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
    /* Shared. */
    pthread_t thread;
    bool thread_started;
    pthread_mutex_t mutex;
    struct list commands, events;
    uint32_t n_commands, n_events, n_pushes;
    bool stop;
    int command_fd, event_fd;
    /* Loop thread. */
    struct ucx_event *handed_out;
    struct buf blob;
    char settings[256];
};

/* ucx.c */
void ucx_event_post(struct ucx *ucx, const struct transport_event *event);
/* ucx_thread.c */
void *ucx_thread_main(void *arg);
/* ucx_peer.c */
uint64_t ucx_pid_start(uint32_t pid);
enum status ucx_peer_connect(struct ucx *ucx, const struct ucx_command *cmd);
void ucx_peer_push(struct ucx *ucx, const struct ucx_command *cmd);
void ucx_peer_record(struct ucx *ucx, struct ucx_command *cmd);
void ucx_peer_fence(struct ucx *ucx, uint64_t instance);
/* Failed endpoints, deadlines, fences. True: something is under way and needs a look again soon. */
bool ucx_peers_tick(struct ucx *ucx, uint64_t now_ns, bool progressed);
void ucx_peers_close(struct ucx *ucx);

#endif
