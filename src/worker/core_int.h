/* Inside of the worker core, shared by core.c and core_*.c. One thread; nothing here does I/O,
 * reads a clock or allocates after create.
 *
 *   core.c         create, connections, time, drain, statistics
 *   core_seq.c     sequence slots: lookup, admission, preemption, end
 *   core_reserve.c RESERVE, PREFILL and CANCEL of routers
 *   core_step.c    plans steps, takes their results
 *   core_decode.c  what a decode worker does with a completion record and with each token
 *   core_loan.c    quarantined loans: who may still be writing, and when that is over
 *   core_push.c    what a prefill worker pushes, and how a job ends there
 *   core_peer.c    peers, fencing, routers that are gone
 *   core_action.c  the queue of actions; messages are built when they are taken
 *   core_check.c   invariants */
#ifndef WORKER_CORE_INT_H
#define WORKER_CORE_INT_H

#include "base/list.h"
#include "base/time.h"
#include "worker/core.h"

#include <stddef.h>

#define NONE UINT32_MAX

enum {
    CORE_CONNS = 64,
    CORE_PEERS = 256,
    CORE_UNSURE = 256,         /* attempts with a failed push that are remembered */
    CORE_ROUTERS_DONE = 256,   /* ROUTER_DONE records that are remembered */
    CORE_CACHE_BATCH = 4096,   /* entries of one WIRE_CACHE */
    CORE_SEQS_MAX = 1u << 16,  /* bound on queue_max, for the sizes below */
    CORE_STEP_SEQS_MAX = 4096, /* entries of one WIRE_TOKENS */
    CORE_STEPS_MAX = 2
};

/* Where a sequence is. WAITING holds no blocks; ENDING is over for the router and waits for the
 * steps and the pushes that still touch its blocks. */
enum seq_state {
    SEQ_FREE,
    SEQ_ZOMBIE, /* over, kept until the actions that name it are taken */
    SEQ_WAITING,
    SEQ_LOANED,  /* decode: a prefill worker writes its blocks */
    SEQ_PREFILL, /* prompt (or token log after a preemption) to be computed here */
    SEQ_DECODE,
    SEQ_PUSHING, /* prefill role: computed, pushes under way */
    SEQ_ENDING
};

struct peer_set {
    uint64_t bits[CORE_PEERS / 64];
};

/* Who may be writing into the blocks of one loan. */
struct loan_writers {
    struct peer_set alive; /* prefill workers known since the loan began and not fenced since */
    struct peer_set back;  /* of these: being fenced, and announced anew while the loan lived */
    struct peer_set done;  /* of these: sent ROUTER_DONE for the loan's router */
    uint32_t n_fenced;     /* how many left `alive` by fencing */
};

struct seq {
    struct list link; /* in the list of its state; free slots: free list */
    uint32_t hash_next;
    enum seq_state state;
    uint32_t conn;
    uint64_t router; /* instance */
    struct wire_seq id;
    uint8_t salt[16];
    struct wire_sampling sampling;
    uint32_t local;
    uint32_t n_prompt;
    uint32_t n_tokens; /* length of the token log */
    uint32_t n_done;   /* tokens with valid KV */
    uint64_t stamp;    /* order of first admission; 0: never admitted */
    uint32_t n_refs;   /* queued actions that name this slot */
    /* Steps under way. */
    uint32_t in_step;    /* in how many of them it has an item */
    uint32_t n_planned;  /* tokens with valid KV when they are done; not kept up when ENDING */
    uint32_t n_ahead;    /* tokens that they sample behind the log */
    uint32_t item_index; /* of its item in the newest of them that it is in */
    uint32_t answered;   /* RESERVED was sent */

    uint32_t n_blocks;
    uint32_t n_hits;   /* of these, the first ones came from the prefix cache at admission */
    uint32_t n_lent;   /* blocks [n_hits, n_hits + n_lent) are on loan (LOANED only) */
    uint32_t n_sealed; /* full blocks whose key is known */
    struct hash128 parent;
    struct loan_writers writers;

    /* Prefill role. */
    uint64_t dest, dest_epoch;
    uint32_t dest_pool, dest_cached; /* tokens that the destination has already */
    uint32_t n_dest;
    uint32_t n_pushes; /* under way */
    uint32_t unsure;   /* a push failed: what it wrote may still land, we cannot vouch for it */
    uint32_t first_token;
    uint64_t started_ns, computed_ns, pushed_bytes;

    /* Set while ENDING. */
    uint32_t fail_status; /* tell the router FAILED(this) when settled; 0: do not */
    uint32_t cancel_reply;
    uint32_t router_lost;
    uint32_t settled; /* nothing of it can touch a peer any more, and everybody was told */

    uint32_t *tokens;               /* [max_context_tokens] */
    struct kv_block_ref *blocks;    /* [blocks_max] */
    uint32_t *indices;              /* [blocks_max], blocks[].index for step_item */
    struct wire_block *dest_blocks; /* [blocks_max], prefill role */
};

/* A quarantined loan: its sequence is gone, a writer may not be. */
struct loan {
    struct list link; /* oldest first; or free list */
    uint64_t router;
    struct wire_seq id;
    uint64_t since_ns;
    uint32_t block_first; /* chain through core->chain */
    uint32_t n_blocks;
    uint32_t orphaned;  /* its router's connection died */
    uint32_t cancelled; /* by its router, which has told the writer too or is gone */
    uint32_t fence_asked;
    uint64_t writer; /* instance that its router named in CANCEL, 0: none */
    struct loan_writers writers;
};

struct chain_link {
    uint32_t generation, next;
};

enum peer_state { PEER_FREE, PEER_UP, PEER_FENCING };

struct peer {
    enum peer_state state;
    uint32_t come_back; /* PEER came while it was being fenced */
    uint64_t conns;     /* bit c: the router on connection c announced it since the last fence */
    struct wire_peer info;
    uint8_t blob[WIRE_BLOB_BYTES_MAX];
};

struct conn {
    uint32_t up;
    uint32_t serial;
    uint64_t router;
};

struct push {
    uint64_t id; /* 0: free. id % n_pushes_max is its index */
    uint32_t slot, peer;
    uint64_t deadline_ns;
    uint32_t next_free;
    uint32_t late; /* its deadline passed and was acted upon */
    uint64_t bytes;
};

/* A queued action, small: what it points to is built when it is taken. */
struct action {
    enum worker_action_kind kind;
    enum wire_type type; /* SEND, RECORD */
    uint32_t conn, conn_serial;
    uint32_t slot; /* NONE, or the sequence it names */
    uint64_t peer;
    union {
        struct wire_failed failed;
        struct wire_cancelled cancelled;
        struct wire_prefilled prefilled;
        struct wire_reserved reserved; /* `blocks` unset: block_first, n of the sequence */
        struct {
            uint32_t first, n; /* in core->entries */
        } tokens;
        struct {
            uint64_t id, deadline_ns;
            uint32_t layer_first, layer_count, block_first, n_blocks;
        } push;
        struct {
            uint64_t now_ns;
        } stats;
        struct wire_router_done router_done;
    } u;
    uint32_t block_first; /* RESERVED */
};

struct pending_token {
    uint32_t conn, token;
    struct wire_seq id;
    uint32_t position, finish;
};

struct core_step {
    uint64_t id, started_ns; /* started: when the step before was done, if there was one */
    uint32_t n_items, n_tokens, n_prompt_tokens;
    enum status void_status; /* not ST_OK: the step before failed so, this one counts for nothing */
    struct step_item *items; /* [max_seqs] */
    uint32_t *item_slots;    /* [max_seqs] */
};

struct worker_core {
    struct worker_core_opts opts;
    struct kv_pool *pool;
    uint32_t blocks_max; /* of one sequence */
    uint32_t draining;
    uint32_t conn_closing; /* conn_down is ending its sequences */

    uint32_t conn_serial;
    struct conn conns[CORE_CONNS];
    struct peer *peers; /* [CORE_PEERS] */

    struct seq *seqs; /* [n_slots] */
    uint32_t n_slots;
    uint32_t n_live; /* not FREE, ZOMBIE or ENDING */
    uint32_t *buckets;
    uint32_t bucket_mask;
    uint64_t stamp;
    struct list free_seqs, waiting, loaned, running /* by stamp */, parked /* PUSHING, ENDING */;
    struct seq *blocked;        /* head of waiting that did not fit ... */
    uint32_t blocked_available; /* ... with so many blocks available */

    struct loan *loans; /* [block_count] */
    struct list free_loans, quarantine;
    struct chain_link *chain;          /* [block_count] */
    struct kv_block_ref *lent, *named; /* [blocks_max] scratch */

    /* Steps under way: steps[step_index(core, i)], oldest first. */
    struct core_step steps[CORE_STEPS_MAX];
    uint32_t step_first, n_steps, steps_max;
    uint64_t step_id;     /* of the newest planned */
    uint32_t layers_seen; /* of the oldest under way; prefill role */

    struct push *pushes; /* [n_pushes_max] */
    uint32_t n_pushes_max, n_pushes, push_free;
    uint32_t push_reserved; /* room promised to the running step */
    uint64_t push_serial;
    uint64_t push_check_ns; /* no push is overdue before */

    struct action *actions; /* ring [action_mask + 1] */
    uint32_t action_mask, action_head, action_tail;
    uint64_t n_actions_lost;           /* the caller did not take them: a bug */
    struct wire_tokens_entry *entries; /* [n_entries_max], of queued frames */
    uint32_t *entry_tokens;            /* [n_entries_max], one of each entry */
    uint32_t n_entries_max, n_entries, n_entry_actions;
    struct pending_token *pending; /* [n_pending_max], of the event under way */
    uint32_t n_pending_max, n_pending;
    struct wire_cache_entry *cache; /* [CORE_CACHE_BATCH] */
    struct kv_cache_event *cache_events;
    uint32_t n_cache, cache_reset, n_cache_actions;
    uint32_t cache_more; /* the last batch was full */
    uint64_t cache_ns;   /* of the last batch */

    /* What the last action handed out points to. */
    struct wire_msg msg;
    struct wire_block *out_blocks;   /* [blocks_max] */
    struct worker_push_vec *out_vec; /* [blocks_max] */

    uint64_t next_stats_ns;
    struct wire_stats totals; /* only the counters */
    /* Attempts that ended here unsure: a later CANCEL must not be told that all has landed. A ring;
     * once it has wrapped, no unknown attempt is vouched for. */
    struct unsure {
        uint64_t router;
        struct wire_seq id;
    } unsure[CORE_UNSURE];
    uint64_t n_unsure;
    /* ROUTER_DONE records that were counted, a ring; decode role. */
    struct router_done {
        uint64_t peer, router;
    } routers_done[CORE_ROUTERS_DONE];
    uint64_t n_routers_done;
    uint64_t fenced[CORE_PEERS]; /* instances fenced and not announced since, a ring; 0: none */
    uint64_t n_fenced;
    uint64_t n_ignored;   /* messages and records that meant nothing here */
    uint32_t *check_refs; /* [block_count] */
};

static inline uint32_t blocks_for(const struct worker_core *core, uint32_t n_tokens)
{
    uint32_t bt = core->opts.pool.block_tokens;
    return n_tokens / bt + (n_tokens % bt != 0);
}

/* Where the i-th of the steps under way is; i == n_steps: the one being planned. */
static inline uint32_t step_index(const struct worker_core *core, uint32_t i)
{
    return (core->step_first + i) % CORE_STEPS_MAX;
}

static inline uint32_t seq_slot(const struct worker_core *core, const struct seq *s)
{
    return (uint32_t)(s - core->seqs);
}

static inline bool is_prefill_role(const struct worker_core *core)
{
    return core->opts.role == WIRE_ROLE_PREFILL;
}

static inline void peer_set_add(struct peer_set *set, uint32_t peer)
{
    set->bits[peer / 64] |= 1ull << (peer % 64);
}

static inline void peer_set_del(struct peer_set *set, uint32_t peer)
{
    set->bits[peer / 64] &= ~(1ull << (peer % 64));
}

static inline bool peer_set_has(const struct peer_set *set, uint32_t peer)
{
    return (set->bits[peer / 64] >> (peer % 64)) & 1;
}

/* core_seq.c */
struct seq *seq_find(struct worker_core *core, uint64_t router, const struct wire_seq *id);
/* The live (not ENDING) attempt of this request and choice, or NULL; *out_attempt: highest attempt
 * known, in any state, quarantined loans included. */
struct seq *seq_find_live(struct worker_core *core, uint64_t router, const struct wire_seq *id,
                          uint32_t *out_attempt);
/* Takes a slot and fills it from the job; it waits at the end of the queue. NULL: no slot. */
struct seq *seq_create(struct worker_core *core, uint32_t conn, const struct wire_job *job);
/* Admits what waits, first come first served, as far as blocks go. */
void core_admit(struct worker_core *core, uint64_t now_ns);
void seq_run(struct worker_core *core, struct seq *s, enum seq_state state);
/* Gives all blocks and the rest of the run back; the sequence waits at the head of the queue. */
void seq_preempt(struct worker_core *core, struct seq *s);
/* The sequence is over. Its blocks and its slot come back now or when the steps and the pushes that
 * use them are done. Not for LOANED (seq_quarantine or seq_loan_over come first). */
void seq_end(struct worker_core *core, struct seq *s);
void seq_fail(struct worker_core *core, struct seq *s, enum status st);
/* Brings an ENDING sequence as far as it goes; call when a push or a step of it ended. */
void seq_settle(struct worker_core *core, struct seq *s);
void seq_unref(struct worker_core *core, uint32_t slot);
/* One more block at the end. ST_NO_BLOCKS. */
enum status seq_add_block(struct worker_core *core, struct seq *s);
/* Puts keys on the full blocks with valid KV. */
void seq_seal(struct worker_core *core, struct seq *s);

/* core_reserve.c */
void core_on_reserve(struct worker_core *core, uint64_t now_ns, uint32_t conn,
                     const struct wire_reserve *msg);
void core_on_prefill(struct worker_core *core, uint64_t now_ns, uint32_t conn,
                     const struct wire_prefill *msg);
/* May something land that this router's attempts wrote? `id` NULL: any of them. */
bool core_is_unsure(const struct worker_core *core, uint64_t router, const struct wire_seq *id);
void core_on_cancel(struct worker_core *core, uint64_t now_ns, uint32_t conn,
                    const struct wire_cancel *msg);
void seq_cancel(struct worker_core *core, uint64_t now_ns, struct seq *s, bool writer_done);

/* core_decode.c */
void core_on_complete(struct worker_core *core, uint64_t now_ns, const struct wire_complete *rec);
void core_on_aborted(struct worker_core *core, const struct wire_aborted *rec);
/* One more output token: logs it, tells the router, ends the sequence when it is the last one. */
void seq_token(struct worker_core *core, struct seq *s, uint32_t token);
/* End ids that count for this sequence, [STEP_BANNED_MAX]. Returns how many. */
uint32_t core_end_ids(const struct worker_core *core, const struct wire_sampling *sampling,
                      uint32_t *out_ids);
/* How the log of a job has ended already, if it has. */
enum wire_finish core_job_finish(const struct worker_core *core, const struct wire_job *job);

/* core_loan.c */
/* Is any prefill worker known here? */
bool core_has_writers(const struct worker_core *core);
void loan_writers_init(struct worker_core *core, struct loan_writers *writers);
/* LOANED -> its blocks wait in quarantine under (router, id); its sequence is ready for seq_end. */
void seq_quarantine(struct worker_core *core, uint64_t now_ns, struct seq *s);
/* Its router said CANCEL. True: the loan is over. */
bool loan_cancel(struct worker_core *core, struct loan *loan, bool writer_done, uint64_t writer);
/* LOANED -> the blocks are the sequence's own again. */
void seq_loan_over(struct worker_core *core, struct seq *s);
struct loan *loan_find(struct worker_core *core, uint64_t router, const struct wire_seq *id);
/* The loan of that request and choice, of whatever attempt, that (epoch, blocks) names. */
struct loan *loan_match(struct worker_core *core, uint64_t router, const struct wire_seq *id,
                        uint64_t epoch, const struct wire_block *blocks, uint32_t n_blocks);
bool seq_loan_is(const struct worker_core *core, const struct seq *s, uint64_t epoch,
                 const struct wire_block *blocks, uint32_t n_blocks);
void loan_end(struct worker_core *core, struct loan *loan);
void core_loans_orphan(struct worker_core *core, uint64_t router, bool orphaned);
void core_on_router_done(struct worker_core *core, uint32_t peer, uint64_t router);
/* A prefill worker was announced, perhaps while it is being fenced. */
void core_loans_peer_up(struct worker_core *core, uint32_t peer);
void core_loans_peer_fenced(struct worker_core *core, uint64_t now_ns, uint32_t peer);
void core_loans_tick(struct worker_core *core, uint64_t now_ns);
uint64_t core_loans_deadline(const struct worker_core *core);

/* core_push.c */
/* Pushes layers of blocks [block_first, block_end) of the sequence, as far as the destination wants
 * them. */
void seq_push(struct worker_core *core, uint64_t now_ns, struct seq *s, uint32_t layer_first,
              uint32_t layer_count, uint32_t block_first, uint32_t block_end);
/* All computed: tells everybody if all is pushed too. */
void seq_complete_try(struct worker_core *core, uint64_t now_ns, struct seq *s);
uint64_t push_overdue_ns(const struct worker_core *core, const struct push *push);
bool core_push_has_room(const struct worker_core *core, uint32_t n);
void core_pushes_tick(struct worker_core *core, uint64_t now_ns);
/* Ends the pushes to a fenced peer and the jobs for it. */
void core_pushes_peer_lost(struct worker_core *core, uint32_t peer, bool fenced);

/* core_peer.c */
uint32_t peer_find(const struct worker_core *core, uint64_t instance);
/* It was fenced, and not announced since: it cannot write here. */
bool peer_is_gone(const struct worker_core *core, uint64_t instance);
void core_on_peer(struct worker_core *core, uint32_t conn, const struct wire_peer *info);
void peer_fence_instance(struct worker_core *core, uint64_t instance);
void peer_fence(struct worker_core *core, uint32_t peer);
/* Sends ROUTER_DONE when no job of that lost router can write any more. */
void core_router_done_try(struct worker_core *core, uint64_t router);

/* core_action.c */
void act_failed(struct worker_core *core, uint32_t conn, const struct wire_seq *id, enum status st,
                uint32_t writer_done);
void act_cancelled(struct worker_core *core, uint32_t conn, const struct wire_seq *id,
                   uint32_t n_quarantined);
void act_reserved(struct worker_core *core, struct seq *s);
void act_prefilled(struct worker_core *core, uint64_t now_ns, struct seq *s);
/* Collects entries; act_tokens_flush makes one frame for each connection out of them. */
void act_token(struct worker_core *core, const struct seq *s, uint32_t position, uint32_t token,
               enum wire_finish finish);
void act_tokens_flush(struct worker_core *core);
void act_stats(struct worker_core *core, uint64_t now_ns, uint32_t conn);
void act_leaving(struct worker_core *core, uint32_t conn);
void act_cache_flush(struct worker_core *core, uint64_t now_ns);
void act_connect(struct worker_core *core, uint32_t peer);
void act_fence(struct worker_core *core, uint32_t peer);
/* COMPLETE or ABORTED of a prefill job, to its destination. */
void act_record(struct worker_core *core, struct seq *s, enum wire_type type);
void act_router_done(struct worker_core *core, uint32_t peer, uint64_t router);
void act_push(struct worker_core *core, struct seq *s, const struct push *push,
              uint32_t layer_first, uint32_t layer_count, uint32_t block_first, uint32_t n_blocks);

#endif
