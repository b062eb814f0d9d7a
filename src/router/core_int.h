/* Inside of the router core. core.c: life of requests and the event entry points; core_route.c:
 * which worker; core_attempt.c: attempts and their messages; core_cancel.c: attempts that are to
 * end; core_worker.c: workers coming and going; core_action.c: what goes out; core_check.c:
 * invariants. */
#ifndef ROUTER_CORE_INT_H
#define ROUTER_CORE_INT_H

#include "base/list.h"
#include "base/map.h"
#include "base/philox.h"
#include "base/time.h"
#include "router/core.h"
#include "router/cost.h"
#include "router/prefix_index.h"

#define RC_NONE         UINT32_MAX
#define RC_ROOM_WAIT_NS (2 * NS_PER_MS) /* back-off after a refusal for want of room */

enum rc_state {
    RC_FREE = 0,
    RC_SIBLING,    /* waits for choice 0's first token */
    RC_QUEUED,     /* in core->queue */
    RC_RESERVING,  /* RESERVE sent */
    RC_PREFILLING, /* PREFILL sent (remote) */
    RC_DECODING,   /* the decode worker has it: computing the prompt locally, or generating */
    RC_DONE,
};

struct rc_leg {
    uint32_t worker; /* slot, RC_NONE: no such leg */
    uint64_t life;   /* of the slot when the leg began; another life means the worker is gone */
};

struct rc_choice {
    enum rc_state state;
    uint32_t index, request; /* own index; request's */
    uint32_t choice;
    uint32_t attempt; /* number of the current or last attempt */
    uint32_t tries;   /* attempts that count against attempts_max */
    struct rc_leg decode, prefill;
    bool local;
    bool writer_done;  /* prefill leg: all its writes are known to have landed */
    bool confirmed;    /* the decode worker has sent a token in this attempt */
    bool prefill_over; /* prefill leg: it said that it writes no more */
    uint64_t writer;   /* instance that got this attempt's PREFILL, 0: none */
    bool decode_holds; /* decode leg may hold something for this attempt */
    bool stopped;      /* by router_core_stop: none of its tokens goes out any more */
    uint32_t avoid;    /* slot that failed it last, RC_NONE */
    uint32_t *tokens;  /* [n_prompt + max_new] in core->slab, then blocks behind them */
    uint32_t n_tokens; /* prompt + committed */
    uint32_t capacity; /* tokens */
    uint32_t slab_words;
    struct wire_block *blocks; /* [blocks_max] behind the tokens */
    uint32_t n_blocks, blocks_max;
    uint32_t pool;
    uint64_t epoch;
    uint32_t cached_tokens, claimed_blocks,
        pending_tokens;     /* pending: counted at the computing worker */
    uint64_t deadline_ns;   /* of the state */
    uint64_t not_before_ns; /* QUEUED: back-off */
    uint64_t sent_ns, last_tokens_ns;
    struct list node; /* in core->queue when QUEUED */
};

struct rc_request {
    uint64_t id; /* 0: free */
    uint64_t tag, deadline_ns;
    struct wire_sampling sampling;
    uint8_t salt[16];
    uint32_t n_prompt, n_choices, n_done;
    uint32_t deaths;     /* workers that were lost with an attempt of it under way */
    uint64_t death_seen; /* counts.workers_lost at the last one: choices share a death */
    uint32_t cached_tokens;
    uint32_t choices[ROUTER_CHOICES_MAX];
    bool ended;  /* DONE or FAIL is among the actions; nothing else may happen to it */
    bool remote; /* choice 0's prompt was computed by a prefill worker */
};

/* An attempt that is over for us, until both legs have said so. */
struct rc_cancel {
    bool used;
    struct wire_seq seq;
    struct rc_leg decode, prefill;
    bool decode_done, prefill_done, writer_done;
    uint64_t writer; /* instance that got the PREFILL, 0: none */
    uint64_t next_ns;
};

struct rc_worker {
    bool up, leaving, seen;
    uint64_t life; /* grows with each worker_up of this slot */
    struct wire_hello hello;
    uint8_t blob[WIRE_BLOB_BYTES_MAX];
    struct wire_stats stats;
    uint64_t stats_ns; /* when they came, or when it came up */
    struct cost_worker cost;
    uint32_t inflight;
    uint32_t claimed_blocks; /* asked for since the last stats */
    uint64_t lost_ns;
};

struct rc_action {
    enum router_action_kind kind;
    enum wire_type type; /* SEND */
    uint32_t worker;
    uint64_t life;
    uint64_t request, tag;
    uint32_t choice, attempt, position, n_tokens, finish;
    const uint32_t *tokens;
    uint32_t cached_tokens, remote;
    enum status status;
    struct wire_seq seq;  /* CANCEL */
    uint32_t flags, peer; /* CANCEL; PEER: slot */
    uint64_t instance;    /* PEER_GONE */
};

/* A stretch of the token slab that is free. */
struct rc_extent {
    uint32_t first, words;
};

struct router_core {
    struct router_core_opts opts;
    struct rng rng;
    uint64_t next_request;
    struct map by_id; /* request id -> index */
    struct rc_request *requests;
    uint32_t *free_requests, n_free_requests;
    struct rc_choice *choices;
    uint32_t *free_choices, n_free_choices;
    struct list queue;           /* QUEUED choices, oldest first */
    uint32_t n_queued, n_active; /* active: attempt under way */
    uint32_t *slab;
    struct rc_extent *extents; /* free ones, by address */
    uint32_t n_extents, extents_max;
    struct rc_cancel *cancels;
    uint32_t cancels_max, n_cancels;
    struct rc_worker workers[ROUTER_WORKERS_MAX];
    bool identity_known;
    struct hash128 model_hash, tokenizer_hash;
    struct prefix_index *prefixes;
    struct rc_action *actions; /* ring */
    uint32_t action_head, action_tail, actions_max;
    struct wire_msg msg; /* of the action handed out last */
    bool draining;
    uint64_t next_deadline_ns; /* lower bound of all deadlines */
    struct router_core_counts counts;
};

/* core.c */
struct rc_request *rc_request_of(struct router_core *core, uint64_t id);
struct rc_choice *rc_choice_of(struct router_core *core, const struct wire_seq *seq);
void rc_deadline(struct router_core *core, uint64_t at_ns);
void rc_request_fail(struct router_core *core, uint64_t now, struct rc_request *r, enum status st);
void rc_request_release(struct router_core *core, struct rc_request *r);
void rc_choice_done(struct router_core *core, uint64_t now, struct rc_choice *c);
void rc_siblings_start(struct router_core *core, const struct rc_request *r);
/* core_route.c */
enum rc_room {
    RC_ROOM_NEVER, /* no worker that is up could hold it */
    RC_ROOM_LATER, /* one could, but has none now */
    RC_ROOM_NOW,
};
enum rc_room rc_route_room(const struct router_core *core, const struct rc_choice *c);
uint32_t rc_worker_context(const struct router_core *core, uint32_t slot);
bool rc_leg_is_up(const struct router_core *core, const struct rc_leg *leg);
void rc_route_hits(struct router_core *core, const struct rc_request *r, const struct rc_choice *c,
                   uint32_t hits[ROUTER_WORKERS_MAX]);
uint32_t rc_route_decode(struct router_core *core, const struct rc_choice *c, const uint32_t *hits);
uint32_t rc_route_prefill(struct router_core *core, const struct rc_choice *c, uint32_t decode,
                          const uint32_t *hits);
bool rc_worker_fits(const struct router_core *core, uint32_t slot, uint32_t n_tokens);
bool rc_workers_pair(const struct router_core *core, uint32_t decode, uint32_t prefill);
/* core_attempt.c */
void rc_queue(struct router_core *core, struct rc_choice *c, bool first);
void rc_dispatch(struct router_core *core, uint64_t now);
void rc_attempt_detach(struct router_core *core, struct rc_choice *c);
void rc_attempt_end(struct router_core *core, uint64_t now, struct rc_choice *c, enum status st,
                    uint32_t culprit);
void rc_on_reserved(struct router_core *core, uint64_t now, uint32_t slot,
                    const struct wire_reserved *m);
void rc_on_prefilled(struct router_core *core, uint64_t now, uint32_t slot,
                     const struct wire_prefilled *m);
void rc_on_tokens(struct router_core *core, uint64_t now, uint32_t slot,
                  const struct wire_tokens *m);
void rc_on_failed(struct router_core *core, uint64_t now, uint32_t slot,
                  const struct wire_failed *m);
/* core_cancel.c */
void rc_cancel_start(struct router_core *core, uint64_t now, const struct rc_choice *c);
void rc_cancel_tick(struct router_core *core, uint64_t now);
void rc_cancel_worker_gone(struct router_core *core, uint32_t slot);
void rc_on_cancelled(struct router_core *core, uint64_t now, uint32_t slot,
                     const struct wire_cancelled *m);
void rc_cancel_failed(struct router_core *core, uint64_t now, uint32_t slot,
                      const struct wire_failed *m);
/* core_worker.c */
void rc_worker_lost(struct router_core *core, uint64_t now, uint32_t slot);
void rc_worker_tick(struct router_core *core, uint64_t now);
/* core_action.c */
struct rc_action *rc_action_add(struct router_core *core, enum router_action_kind kind);
struct rc_action *rc_send(struct router_core *core, enum wire_type type, uint32_t slot);
uint32_t rc_action_room(const struct router_core *core);

#endif
