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

#define TRANSPORT_PEERS_MAX        64u
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
};

enum transport_event_kind {
    /* push_id, status; once a push. ST_OK: all bytes are in the peer's memory. Anything else: the
     * source may be reused, but what was under way may still land until the peer has fenced us. */
    TRANSPORT_PUSH_DONE,
    TRANSPORT_RECORD,     /* bytes sent by peer with transport_record, whole */
    TRANSPORT_PEER_ERROR, /* the connection to peer is lost; its pushes are reported as failed too
                           */
    TRANSPORT_FENCED,     /* answer to transport_fence: peer can write no more */
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
    const char *name; /* "ucx", "local" */
    /* ST_OK, or why it cannot work here, as a sentence for log and status. */
    enum status (*probe)(char *out_why, uint32_t why_bytes);
    enum status (*open)(const struct transport_opts *opts, struct transport **out_transport);
    /* Opaque export for PEER, at most WIRE_BLOB_BYTES_MAX; valid until close. */
    void (*export_blob)(struct transport *t, const uint8_t **out_blob, uint32_t *out_bytes);
    /* Connects, or keeps the connection there is. ST_MISMATCH: layout or host does not fit. */
    enum status (*connect)(struct transport *t, const struct wire_peer *peer);
    /* Starts one push: all of vec, then a flush, then one PUSH_DONE. Copies vec. ST_NOT_FOUND: no
     * such peer; ST_INVALID: out of range; ST_FULL: too much under way. */
    enum status (*push)(struct transport *t, uint64_t peer, uint64_t push_id,
                        const struct transport_vec *vec, uint32_t n_vec, uint64_t deadline_ns);
    /* Sends a record. Not ordered with pushes under way: send it after their PUSH_DONE. Copies
     * data. */
    enum status (*record)(struct transport *t, uint64_t peer, const uint8_t *data, uint32_t bytes);
    /* Makes sure that peer can write into the own pool no more, then reports FENCED. Its process is
     * dead, or its endpoint is force-closed and what it could reach us by is gone. Repeatable. */
    enum status (*fence)(struct transport *t, uint64_t peer);
    bool (*next_event)(struct transport *t, struct transport_event *out);
    int (*event_fd)(struct transport *t);
    /* One line for log and status: library version, error mode, settings. */
    void (*describe)(struct transport *t, char *out, uint32_t bytes);
    void (*close)(struct transport *t);
};

/* Known transports in order of preference, NULL-terminated. */
extern const struct transport_ops *const transport_table[];
extern const struct transport_ops transport_ucx_ops;

/* Picks by config ("auto" or a name) and the require list (n = 0: any). Writes one line per refusal
 * and the choice into out_why for the log. ST_UNSUPPORTED: none fits, out_why says why. */
enum status transport_select(const char *wanted, const char *const *require, uint32_t n_require,
                             const struct transport_ops **out_ops, char *out_why,
                             uint32_t why_bytes);

/* Protocol-constant virtual address of pool `pool` (< 16) of any process. */
uint64_t kv_window_base(uint32_t pool);
/* Maps zeroed, private (never shared with a child), page-aligned memory exactly at kv_window_base.
 * ST_EXISTS: something else is mapped there. ST_NO_MEMORY. */
enum status transport_pool_map(uint32_t pool, uint64_t bytes, void **out_base);
void transport_pool_unmap(void *base, uint64_t bytes);
/* The first 16 bytes of the machine's boot id: same value = same kernel. Zero when unknown. */
void transport_host_id(uint8_t out[16]);

#endif
