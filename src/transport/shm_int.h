/* Inside of the shm transport. shm.c: what the loop thread calls. All else runs on the transport's
 * thread: shm_thread.c waits and hands out; shm_peer.c has the peers, their pushes and fences;
 * shm_out.c the connections that we opened, shm_in.c those that were opened to us.
 *
 * A connection goes one way. Who opened it may write into the other's pool, when that one is told
 * of it as a prefill worker, and sends records; the other side only takes. */
#ifndef TRANSPORT_SHM_INT_H
#define TRANSPORT_SHM_INT_H

#include "base/list.h"
#include "transport/mailbox.h"
#include "transport/process.h"
#include "transport/shm_wire.h"
#include "transport/transport.h"

#include <pthread.h>
#include <sys/socket.h>
#include <sys/un.h>

#define SHM_INS_MAX         (2u * TRANSPORT_PEERS_MAX)
#define SHM_HELLO_NS        (10 * NS_PER_S) /* for the hellos, and for PEER to come to both sides */
#define SHM_QUEUE_BYTES_MAX (16u << 20)     /* records that wait for one peer */
#define SHM_SLICE_BYTES     (4u << 20)      /* copied before the next look at all else */

/* What an epoll event is about; the index of the peer or connection is in the upper half. */
enum shm_source { SHM_COMMANDS, SHM_LISTENER, SHM_PIDFD, SHM_OUT, SHM_IN };

enum shm_state {
    SHM_DOWN,    /* no connection; wanted again at retry_ns */
    SHM_CALLING, /* the listener's queue is full: again at retry_ns */
    SHM_WAITING, /* hello is sent */
    SHM_UP
};

struct shm_record {
    struct list node;
    uint32_t bytes, sent; /* sent: with the prefix */
    uint8_t *data;
};

struct shm_push {
    struct list node; /* in peer->pushes */
    uint64_t id, deadline_ns;
    struct transport_vec *vec;
    uint32_t n_vec, at_vec; /* at_vec, at_bytes: copied so far */
    uint64_t at_bytes;
};

struct shm_peer {
    bool used;
    uint64_t instance;
    struct wire_pool pool;
    struct shm_blob blob;
    bool is_writer;         /* may write into our pool */
    bool is_other;          /* lives in a process of its own */
    bool granted;           /* our descriptor was sent to it */
    bool failed;            /* its PEER_ERROR is reported */
    bool fencing;           /* killed, its death is awaited */
    struct process process; /* is_other; watched while its pidfd is not -1 */
    enum shm_state state;
    int fd;                         /* -1: none */
    uint64_t deadline_ns, retry_ns; /* CALLING, WAITING; CALLING, DOWN */
    uint8_t welcome[SHM_HELLO_BYTES];
    uint32_t n_welcome;
    int pool_fd;                         /* came with WELCOME, not mapped yet. -1: none */
    uint8_t *map;                        /* the peer's pool, NULL: we may not write */
    uint64_t map_bytes, populated_bytes; /* populated: has page table entries */
    struct list pushes, records;
    uint64_t record_bytes;
    bool wants_out; /* its socket is full */
};

struct shm_in {
    int fd; /* -1: free */
    uint32_t pid;
    uint64_t deadline_ns; /* until WELCOME is sent */
    bool hello_read;
    struct shm_hello hello;
    struct shm_peer *peer;         /* NULL: it is not known yet */
    uint8_t head[SHM_HELLO_BYTES]; /* HELLO, later the prefix of a record */
    uint32_t n_head;
    uint8_t *body;
    uint32_t body_bytes, n_body;
};

struct shm {
    struct transport base; /* first */
    struct transport_opts opts;
    struct shm_blob self;
    struct mailbox box;
    pthread_t thread;
    bool thread_started;
    struct buf blob;
    /* Transport thread only. */
    int listener, epoll;
    struct shm_peer peers[TRANSPORT_PEERS_MAX];
    struct shm_in ins[SHM_INS_MAX];
    uint32_t n_pushes, next_peer; /* next_peer: whose pushes are looked at first */
    uint64_t listen_ns;           /* not 0: the listener is not watched until then */
    uint64_t timer_ns;            /* the earliest of all times that something waits for */
};

/* shm.c */
/* The process at the other end of fd is of our user; its pid. False: it is not, or nobody knows. */
bool shm_socket_pid(const struct shm *shm, int fd, uint32_t *out_pid);
socklen_t shm_socket_name(const struct shm_blob *blob, struct sockaddr_un *out);
enum status shm_hello_of(const struct shm *shm, enum shm_hello_kind kind, uint32_t flags,
                         uint64_t to, uint8_t out[SHM_HELLO_BYTES]);

/* shm_thread.c */
void *shm_thread_main(void *arg);
bool shm_watch(struct shm *shm, int fd, enum shm_source source, size_t index);
void shm_timer(struct shm *shm, uint64_t at_ns);

/* shm_peer.c */
struct shm_peer *shm_peer_of(struct shm *shm, uint64_t instance);
void shm_peer_connect(struct shm *shm, const struct command *cmd);
void shm_peer_push(struct shm *shm, struct command *cmd);
void shm_peer_fence(struct shm *shm, uint64_t instance);
void shm_peer_died(struct shm *shm, struct shm_peer *peer);
/* The connection that we opened is lost or could not be made. */
void shm_peer_lost(struct shm *shm, struct shm_peer *peer);
/* Copies at most SHM_SLICE_BYTES. True: there is more to copy. */
bool shm_pushes_run(struct shm *shm);
/* With nothing to copy: makes page table entries for a slice of the peers' pools, so that the first
 * push to a block does not pay for them (5 times as long, measured). True: there are more. */
bool shm_peers_populate(struct shm *shm);
void shm_peers_tick(struct shm *shm, uint64_t now_ns);
void shm_peers_close(struct shm *shm);

/* shm_out.c */
void shm_out_open(struct shm *shm, struct shm_peer *peer);
void shm_out_ready(struct shm *shm, struct shm_peer *peer, bool readable, bool writable);
void shm_out_record(struct shm *shm, struct command *cmd);
/* Also unmaps the peer's pool. Its pushes and records wait on. */
void shm_out_close(struct shm_peer *peer);

/* shm_in.c */
void shm_in_accept(struct shm *shm);
void shm_in_ready(struct shm *shm, struct shm_in *in);
/* The peer is known now: a connection of it may have waited for that. */
void shm_in_welcome(struct shm *shm, struct shm_peer *peer);
/* Takes what a dead peer had sent. */
void shm_in_drain(struct shm *shm, const struct shm_peer *peer);
void shm_in_close_of(struct shm *shm, const struct shm_peer *peer);
void shm_in_tick(struct shm *shm, uint64_t now_ns);
void shm_in_close(struct shm_in *in);

#endif
