/* Worker core: batch scheduler and sequence states of one worker, as a pure state machine. Events
 * and the time come in, actions go out; no I/O, clock, thread, random source, and no malloc after
 * create. One thread (the worker's loop, or the simulator).
 *
 * A sequence is (connection of a router, request, choice) with one live attempt. Roles:
 *   decode    RESERVE(remote) -> loans blocks, RESERVED -> COMPLETE verified -> decodes -> TOKENS;
 *             RESERVE(local) -> prefills here, then the same
 *   unified   RESERVE(local) only
 *   prefill   PREFILL -> chunks, pushing each layer group as it is computed -> COMPLETE record to
 *             the decode worker, PREFILLED to the router
 *
 * Rules:
 *  - Reservations wait in a bounded FIFO until blocks are there; FULL answers FAILED(ST_FULL).
 *    RESERVE(remote) with no prefill worker announced: FAILED(ST_UNAVAILABLE).
 *  - A step never mixes two items of one sequence. Decoding sequences go first, then prompt chunks
 *    up to max_batch_tokens; a chunk ends at a block border unless it ends the prompt.
 *  - Up to steps_max steps are under way, and end in order. A step planned behind another takes the
 *    sequences on by one more token, which the engine fills in (step_item.after_item). A sequence
 *    that is sure to end with what is under way is left out; one that turns out to have ended has
 *    what the step behind computes for it thrown away. When a step fails, so does the one behind.
 *  - Only what a finished step has written, from tokens that are known, gets into the prefix cache.
 *  - Blocks of a sequence that ends while steps using them are under way come back after the last
 *    of these steps.
 *  - Prefill source blocks stay owned until every push that reads them is done.
 *  - When a decoding sequence needs a block and there is none, the youngest running sequence is
 *    preempted: blocks released, back to the head of the waiting queue, to be prefilled locally
 *    from its token log. The oldest always makes progress. One that a step under way uses cannot
 *    be: then neither the sequence that needs the block nor a younger one is in the next step.
 *  - Cancel in any state; loaned blocks go to quarantine unless WRITER_DONE. A repeated cancel is
 *    acknowledged again.
 *  - COMPLETE is believed only when kv_pool_loan_check, layout hash, count and chain hash agree;
 *    otherwise FAILED(ST_MISMATCH), blocks quarantined until the loan ends.
 *  - A router's connection down: its sequences end at once; loans go to quarantine until each known
 *    peer has sent ROUTER_DONE for that router instance or is fenced. A prefill worker that lost a
 *    router sends ROUTER_DONE to all its peers once its pushes for it are done.
 *  - A peer error or PEER_GONE: ask the transport to fence it (ACT_FENCE); on_fenced ends the
 *    cancelled loans that nobody else can be writing. A live sequence that nobody can complete any
 *    more is FAILED(ST_PEER_LOST), its blocks held until its router cancels.
 *
 * What the caller owes:
 *  - After each event it takes all actions (next_action until false). The queue holds what one
 *    event can cause; actions lost to a full queue break worker_core_check.
 *  - Each ACT_PUSH gets exactly one push_done, at the latest before the peer's on_fenced (a later
 *    one is ignored). Records to one peer keep their order; to a fenced one they may be dropped.
 *  - A prefill worker can write into a decode worker's pool only after the decode worker's core
 *    gave ACT_CONNECT for it, and after a fence only after the next one. RESERVE does not name the
 *    writer, so each prefill worker known from PEER is taken for a possible one.
 *  - A router sends PEER to a prefill worker on its own connection, also after each fence, before
 *    the first PREFILL for that destination. */
#ifndef WORKER_CORE_H
#define WORKER_CORE_H

#include "engine/step.h"
#include "kv/pool.h"
#include "wire/wire.h"

struct worker_core;

struct worker_core_opts {
    uint32_t role; /* enum wire_role */
    uint64_t instance;
    struct wire_pool pool; /* geometry and epoch of the own pool */
    struct hash128 model;
    uint8_t cache_secret[32];
    uint32_t prefix_cache;
    uint32_t max_context_tokens;
    uint32_t max_seqs;         /* sequences in one step */
    uint32_t queue_max;        /* sequences known in all, any state */
    uint32_t max_batch_tokens; /* tokens of one step */
    uint32_t prefill_chunk_tokens;
    uint32_t steps_max; /* under way at a time: 1 or 2; a prefill worker has one */
    /* No step is planned behind one with more prompt tokens than this: such a step takes so long
     * that nothing is gained, and a prompt that comes meanwhile would wait for one more step. */
    uint32_t ahead_prompt_tokens;
    uint32_t headroom_blocks; /* reserved beyond the prompt */
    uint32_t n_eos;
    uint32_t eos[8]; /* the model's end ids */
    uint64_t stats_interval_ns;
    /* Deadline of a push = bytes / floor + slack; the transport ends it then. One slack later the
     * core asks for fencing. */
    uint64_t push_floor_bytes_per_s, push_slack_ns;
    uint64_t
        fence_after_ns; /* a loan with its sequence gone this long asks for fencing of its writer */
};

/* Part of a block to be written to a peer: layers [layer_first, +layer_count). */
struct worker_push_vec {
    uint32_t src_block;
    uint32_t dst_block, dst_generation;
};

enum worker_action_kind {
    ACT_SEND,    /* msg to router connection `conn` */
    ACT_CONNECT, /* transport: connect to peer.instance with peer (blob borrowed) */
    ACT_PUSH,    /* transport: write vec[] to peer, report on_push_done(push_id) */
    ACT_RECORD,  /* transport: deliver msg (COMPLETE, ABORTED, ROUTER_DONE) to peer */
    ACT_FENCE,   /* transport: make sure that peer can write no more, then on_fenced */
};

struct worker_action {
    enum worker_action_kind kind;
    uint32_t conn;
    uint64_t peer;                     /* instance */
    const struct wire_msg *msg;        /* SEND, RECORD */
    const struct wire_peer *peer_info; /* CONNECT */
    uint64_t push_id;                  /* PUSH */
    uint32_t dst_pool;
    uint64_t dst_epoch;
    uint32_t layer_first, layer_count;
    uint32_t n_vec;
    const struct worker_push_vec *vec;
    uint64_t deadline_ns; /* PUSH: absolute, monotonic */
};

/* ST_INVALID: a size is 0 or out of range; max_batch_tokens and prefill_chunk_tokens are one block
 * at least. ST_NO_MEMORY. */
enum status worker_core_create(const struct worker_core_opts *opts, struct worker_core **out_core);
void worker_core_destroy(struct worker_core *core);

/* A router connected (its HELLO was read and found compatible) or went. conn < 64, chosen by the
 * loop. */
void worker_core_conn_up(struct worker_core *core, uint64_t now_ns, uint32_t conn,
                         uint64_t router_instance);
void worker_core_conn_down(struct worker_core *core, uint64_t now_ns, uint32_t conn);
/* PEER, PEER_GONE, RESERVE, PREFILL, CANCEL. Others are counted and ignored. */
void worker_core_message(struct worker_core *core, uint64_t now_ns, uint32_t conn,
                         const struct wire_msg *msg);
/* COMPLETE, ABORTED, ROUTER_DONE, from that peer. */
void worker_core_record(struct worker_core *core, uint64_t now_ns, uint64_t peer,
                        const struct wire_msg *msg);
/* ST_OK: the bytes are in the peer's memory (flushed), not merely sent. */
void worker_core_push_done(struct worker_core *core, uint64_t now_ns, uint64_t push_id,
                           enum status st);
/* The transport lost the peer by itself. */
void worker_core_peer_error(struct worker_core *core, uint64_t now_ns, uint64_t peer);
/* From here on the peer cannot write into the pool. */
void worker_core_fenced(struct worker_core *core, uint64_t now_ns, uint64_t peer);
/* The oldest step under way has written the KV of layers [layer_first, +layer_count) of all its
 * items. */
void worker_core_layers_done(struct worker_core *core, uint64_t now_ns, uint64_t step_id,
                             uint32_t layer_first, uint32_t layer_count);
/* The oldest step under way is done. */
void worker_core_step_done(struct worker_core *core, uint64_t now_ns,
                           const struct step_result *result);
/* Draining: answers new work with FAILED(ST_DRAINING), tells routers LEAVING; idle when no
 * sequence, step or untaken action is left (loans in quarantine are not waited for). */
void worker_core_drain(struct worker_core *core, uint64_t now_ns);
bool worker_core_is_idle(const struct worker_core *core);

/* Runs what is due (stats, deadlines). */
void worker_core_tick(struct worker_core *core, uint64_t now_ns);
/* When tick wants to be called next; UINT64_MAX: never. */
uint64_t worker_core_deadline(const struct worker_core *core);

/* Plans the next step; false: nothing to run, or enough is under way. What *out points to stays
 * valid until worker_core_step_done for it. */
bool worker_core_next_step(struct worker_core *core, uint64_t now_ns, struct step_plan *out);
/* Next action, oldest first; false: none. *out and what it points to stay valid until the next call
 * of any worker_core function. */
bool worker_core_next_action(struct worker_core *core, struct worker_action *out);

void worker_core_stats(const struct worker_core *core, uint64_t now_ns, struct wire_stats *out);
/* All invariants, kv_pool_check included. For tests and dynd-sim. */
enum status worker_core_check(const struct worker_core *core, char *out_why, uint32_t why_bytes);
const struct kv_pool *worker_core_pool(const struct worker_core *core);

#endif
