/* KV transport: moves KV blocks between the pools of two processes and carries the small records
 * behind them. The worker core decides what is moved; a transport only moves it.
 *
 * Memory is named (pool, epoch, block, byte range in the block); addresses never leave the process:
 * each pool lies at a virtual address that is a constant of the protocol (kv_window_base), so a
 * writer computes the remote address itself and the owner's registration bounds it.
 *
 * Threads: every function is called by the worker's loop thread. A transport may run its own
 * progress thread behind them; results come back through transport_next_event, and `event_fd` turns
 * readable when there may be some. */
#ifndef TRANSPORT_TRANSPORT_H
#define TRANSPORT_TRANSPORT_H

#include "base/status.h"
#include "wire/wire.h"

#include <stdint.h>

#define TRANSPORT_PEERS_MAX        256u /* as many as the worker core knows */
#define TRANSPORT_RECORD_BYTES_MAX (1u << 21)

struct transport_ops;

/* Head of every transport. */
struct transport {
    const struct transport_ops *ops;
};

struct transport_opts {
    uint64_t instance; /* own process instance */
    uint8_t host_id[16];
    struct wire_pool pool; /* geometry of the own pool */
    void *pool_base;       /* pool.block_count * pool.block_bytes bytes; see transport_pool_map */
    int pool_fd;           /* of the same memory; borrowed. -1: cannot be shared */
    bool pool_is_private;  /* nobody else writes there, so pool_fd is not needed */
};

enum transport_event_kind {
    /* push_id, status; once a push. ST_OK: all bytes are in the peer's memory. Anything else: the
     * source may be reused, but what was under way may still land until the peer has fenced us.
     * ST_INVALID: a dst_block lies outside the peer's pool, nothing was written. ST_TIMEOUT: its
     * deadline passed. ST_PEER_LOST: no such peer, or its connection is lost. */
    TRANSPORT_PUSH_DONE,
    TRANSPORT_RECORD, /* bytes that peer sent with record(), whole; dropped when too many wait */
    /* The connection to peer is lost or could not be made; its pushes are reported as failed too,
     * before it. With ucx after ST_TIMEOUT of a push as well: there a push cannot be called back.
     */
    TRANSPORT_PEER_ERROR,
    TRANSPORT_FENCED, /* answer to fence(), which says what it promises */
};

struct transport_event {
    enum transport_event_kind kind;
    uint64_t peer; /* instance */
    uint64_t push_id;
    enum status status;
    const uint8_t *data; /* RECORD; valid until the next transport_next_event */
    uint32_t bytes;
};

/* One contiguous piece: src bytes of the own pool to dst bytes of the peer's pool. */
struct transport_vec {
    uint32_t src_block, dst_block;
    uint64_t offset_bytes; /* the same in both blocks: layouts are equal by handshake */
    uint64_t bytes;
};

struct transport_ops {
    const char *name; /* "shm", "ucx", "shm+ucx" */
    /* ST_OK, or why it cannot work here, as a sentence for log and status. */
    enum status (*probe)(char *out_why, uint32_t why_bytes);
    /* The head of what is opened names its table, which may be another one: of several transports
     * only one may work. ST_INVALID: the pool lies elsewhere; ST_UNSUPPORTED: it cannot be used. */
    enum status (*open)(const struct transport_opts *opts, struct transport **out_transport);
    /* Opaque export for PEER, at most WIRE_BLOB_BYTES_MAX; valid until close. */
    void (*export_blob)(struct transport *t, const uint8_t **out_blob, uint32_t *out_bytes);
    /* Connects, or keeps the connection there is. ST_MISMATCH: the layouts differ, or the blob is
     * damaged; ST_PARSE, ST_VERSION: it is no blob of this transport; ST_UNSUPPORTED: the peer is
     * out of its reach. What shows later, like more than TRANSPORT_PEERS_MAX peers, comes as
     * PEER_ERROR. Both sides have to connect: with shm one that was not told of the other does not
     * let it write, and lets nobody write but prefill workers. */
    enum status (*connect)(struct transport *t, const struct wire_peer *peer);
    /* Starts one push: all of vec, then a flush, then one PUSH_DONE. Copies vec. ST_INVALID: a
     * source lies outside the own pool; ST_FULL: too much under way; ST_NO_MEMORY. After these no
     * PUSH_DONE comes. All else, an unknown peer too, is known on the progress thread alone and
     * comes as PUSH_DONE. */
    enum status (*push)(struct transport *t, uint64_t peer, uint64_t push_id,
                        const struct transport_vec *vec, uint32_t n_vec, uint64_t deadline_ns);
    /* Sends a record. Not ordered with pushes under way: send it after their PUSH_DONE. Copies
     * data. ST_TOO_LARGE: 0 or more than TRANSPORT_RECORD_BYTES_MAX bytes; ST_FULL. A record to a
     * peer that is not connected, or is lost before it arrives, is lost silently. */
    enum status (*record)(struct transport *t, uint64_t peer, const uint8_t *data, uint32_t bytes);
    /* Ends the connection to peer and reports FENCED once peer can write into the own pool no more,
     * as far as this side can bring that about. Pushes to peer are reported as failed before. One
     * FENCED answers all calls made until then; a later call gets one at once. What FENCED says:
     *  - peer is a prefill worker, on this host (equal host_id, not zero) and in this pid
     *    namespace, but not this process: its process is dead (killed with SIGKILL if need be) and
     *    what it had sent is taken in. Nothing of it can land any more. When it cannot be killed,
     *    FENCED does not come. With shm, one that never got our pool is not killed.
     *  - peer is a prefill worker on another host, or on one of unknown id, or in another pid
     *    namespace: our endpoint is closed and what had arrived is taken in. The key to the own
     *    pool stays valid, so that this does not stop a peer that lives, keeps its own endpoint
     *    and goes on writing: that ends with the peer's own push deadline or its death.
     *  - any other role: our endpoint is closed. Such a peer never writes here.
     *  - peer is not connected, or fenced since: nothing is done. That nothing of it can land holds
     *    only if it never got our blob in a PEER since then: a router that tells a peer of this
     *    process must tell this process of the peer as well. */
    enum status (*fence)(struct transport *t, uint64_t peer);
    bool (*next_event)(struct transport *t, struct transport_event *out);
    int (*event_fd)(struct transport *t);
    /* Name of the transport that connect() took for peer. NULL: always this one. */
    const char *(*route)(struct transport *t, uint64_t peer);
    /* One line for log and status: library version, error mode, settings. */
    void (*describe)(struct transport *t, char *out, uint32_t bytes);
    void (*close)(struct transport *t);
};

/* Known transports in order of preference, NULL-terminated. */
extern const struct transport_ops *const transport_table[];
/* Between processes of one host: shared memory that the owner hands to those that may write. */
extern const struct transport_ops transport_shm_ops;
extern const struct transport_ops transport_ucx_ops;
/* Both of them: shm to every peer that it reaches, ucx to the others. Not in the table. */
extern const struct transport_ops transport_pair_ops;

/* Picks by config ("auto" or a name) and the require list (n = 0: any); auto takes both when both
 * fit. Writes each refusal and the choice into out_why for the log. ST_UNSUPPORTED: none fits,
 * out_why says why. */
enum status transport_select(const char *wanted, const char *const *require, uint32_t n_require,
                             const struct transport_ops **out_ops, char *out_why,
                             uint32_t why_bytes);

/* Protocol-constant virtual address of pool `pool` (< 16) of any process. */
uint64_t kv_window_base(uint32_t pool);
/* Maps zeroed, page-aligned memory exactly at kv_window_base. It is a file without a name, of fixed
 * size, so that it can be shared with those to whom its descriptor is sent; a child inherits
 * neither. Every page is there when it returns: what does not fit shows at start, not in the middle
 * of a request. *out_fd is -1 when the kernel has no such files: then the memory is private. With
 * out_fd NULL it is private anyhow, and in huge pages where the kernel gives them.
 * ST_EXISTS: something else is mapped there. ST_TOO_LARGE: pool is 16 or more, or bytes is 0 or
 * more than the window holds. ST_NO_MEMORY. */
enum status transport_pool_map(uint32_t pool, uint64_t bytes, void **out_base, int *out_fd);
/* base may be NULL and fd -1. */
void transport_pool_unmap(void *base, uint64_t bytes, int fd);
/* The machine's boot id, 16 bytes: same value = same kernel. Zero when unknown, which counts as
 * another host than any, itself included. */
void transport_host_id(uint8_t out[16]);

#endif
