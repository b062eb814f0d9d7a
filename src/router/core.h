/* Router core: admission, routing, attempts, retries and the prefix index, as a pure state machine.
 * It owns the truth: prompt, committed output tokens and the attempt number of every choice. Events
 * and the time come in, actions go out; no I/O, clock, thread, random source, and no malloc after
 * create. One thread (the router's loop, or the simulator).
 *
 * A choice goes  QUEUED -> RESERVING (D) -> PREFILLING (P, or D itself) -> DECODING (D) -> DONE.
 * Rules:
 *  - A worker's message counts only when it names the current attempt, and TOKENS only at exactly
 * the next position (a prefix already committed is skipped, a gap is dropped); so late, repeated
 * and reordered messages cannot change a stream.
 *  - n choices: choice 0 goes first; the others start when it has its first token (or has failed)
 * and prefer the same decode worker, whose prefix cache then holds the prompt.
 *  - A leg that fails, whose worker is lost or whose deadline passes ends the attempt: CANCEL to
 * both legs, attempt + 1, prompt + committed tokens again, elsewhere if possible. After
 * attempts_max attempts the request fails with the last status. A worker that dies during an
 * attempt counts against the request, once for all its choices: after attempts_max deaths it is
 * ST_POISON. Refusals for want of room (FULL, NO_BLOCKS, DRAINING) cost no attempt against the
 * budget; they wait for room until the request's deadline.
 *  - CANCEL is repeated every cancel_retry_ns until CANCELLED is read or the worker is gone. When
 * the prefill leg is known to write no more (CANCELLED, FAILED with writer_done, PREFILL never
 * sent, or the worker is gone and fenced by the decode worker), the decode leg gets WRITER_DONE.
 * Cancelled attempts are remembered until both legs have acknowledged (bounded; worker loss clears
 * them).
 *  - PEER goes to every prefill/decode pair whose layout, model and protocol agree, before any
 * PREFILL that names it; PEER_GONE goes to all others when a worker is lost.
 *  - No prefill worker, or a short uncached suffix, or a prefill queue that would be slower: local
 *    prefill on the decode worker (RESERVE local). Unified workers always run local.
 *  - Admission: at most requests_max requests; a request that fits no worker's context or pool is
 * refused at once; while draining all are. The queue is first come, first served, but a choice that
 * no worker which is up could hold stands in nobody's way.
 *  - Every request is reachable from a timer: its own deadline, and one deadline per state. */
#ifndef ROUTER_CORE_H
#define ROUTER_CORE_H

#include "wire/wire.h"

#define ROUTER_WORKERS_MAX 64u
#define ROUTER_CHOICES_MAX 16u

struct router_core;

struct router_core_opts {
    uint64_t instance;     /* this router's, in HELLO and records */
    uint32_t requests_max; /* admitted at once */
    uint32_t choices_max;  /* over all requests */
    uint32_t tokens_max;   /* prompt + output tokens held at once, over all choices */
    uint32_t attempts_max; /* per choice */
    uint32_t
        local_prefill_max_tokens; /* uncached suffix up to here is prefilled on the decode worker */
    uint32_t prefix_routing;      /* 1: route by the prefix index */
    uint32_t prefix_index_max;    /* keys kept, over all workers */
    uint32_t worker_inflight_max; /* choices at one worker at once; 0: what its HELLO says */
    uint8_t cache_secret[32];     /* to compute prefix keys; the workers' */
    uint64_t heartbeat_timeout_ns; /* without STATS this long a worker is lost */
    uint64_t reserve_timeout_ns;   /* RESERVE -> RESERVED, beyond waiting in the worker's queue */
    uint64_t prefill_timeout_ns;   /* base; grows with the tokens to compute */
    uint64_t prefill_ns_per_token;
    uint64_t decode_timeout_ns; /* between TOKENS of one choice */
    uint64_t cancel_retry_ns;
    uint64_t seed; /* tie-breaking */
};

struct router_request {
    const uint32_t *tokens;        /* [n_tokens] prompt, copied */
    uint32_t n_tokens;             /* >= 1 */
    uint32_t n_choices;            /* 1 .. ROUTER_CHOICES_MAX */
    struct wire_sampling sampling; /* choice c draws with the same seed and its own counter */
    uint8_t salt[16];
    uint64_t deadline_ns; /* absolute; then ST_TIMEOUT */
    uint64_t tag;         /* the caller's, given back in actions */
};

enum router_action_kind {
    ROUTER_SEND,   /* msg to worker */
    ROUTER_TOKENS, /* tokens committed to a choice; finish tells whether they are its last */
    ROUTER_DONE, /* every choice ended; the request is forgotten, its id is invalid from here on */
    ROUTER_FAIL, /* the request ended with status; forgotten likewise */
    ROUTER_DROP, /* worker is lost for the core (no heartbeat, protocol breach): close its
                    connection. worker_down was already applied; do not call it for this slot */
};

struct router_action {
    enum router_action_kind kind;
    uint32_t worker;            /* SEND, DROP */
    const struct wire_msg *msg; /* SEND */
    uint64_t request, tag;      /* TOKENS, DONE, FAIL */
    uint32_t choice, position, n_tokens;
    const uint32_t *tokens;  /* [n_tokens] */
    uint32_t finish;         /* enum wire_finish */
    uint32_t cached_tokens;  /* TOKENS, DONE: prompt tokens found in a cache (choice 0) */
    uint32_t remote_prefill; /* TOKENS: 1 when a prefill worker computed the prompt */
    enum status status;      /* FAIL, DROP */
};

enum status router_core_create(const struct router_core_opts *opts, struct router_core **out_core);
void router_core_destroy(struct router_core *core);

/* Admits or refuses. Errors: ST_FULL (429), ST_UNAVAILABLE (no worker that could run it, 503),
 * ST_PROMPT_TOO_LONG, ST_TOO_LARGE (never fits a pool), ST_DRAINING, ST_INVALID, ST_NO_MEMORY
 * (token store full; 503). max_new_tokens is cut to what context and pool of the largest worker
 * leave; 0 asks for all of that. A worker that could not hold the whole answer is not asked. */
enum status router_core_submit(struct router_core *core, uint64_t now_ns,
                               const struct router_request *req, uint64_t *out_request);
/* The client is gone. No further action names the request. Unknown ids are ignored. */
void router_core_cancel(struct router_core *core, uint64_t now_ns, uint64_t request);
/* The caller found the end of a choice itself (stop string): it ends as done, its legs are
 * cancelled, and no further TOKENS name it. */
void router_core_stop(struct router_core *core, uint64_t now_ns, uint64_t request, uint32_t choice);

/* A worker's HELLO was read. Refuses (ST_MISMATCH, ST_VERSION, ST_FULL, ST_EXISTS: same instance is
 * connected) or gives its slot. All workers of a router must agree on model and tokenizer hash: the
 * first one decides. */
enum status router_core_worker_up(struct router_core *core, uint64_t now_ns,
                                  const struct wire_hello *hello, uint32_t *out_worker);
/* Its connection is gone. */
void router_core_worker_down(struct router_core *core, uint64_t now_ns, uint32_t worker);
/* RESERVED, PREFILLED, TOKENS, FAILED, CANCELLED, STATS, CACHE, LEAVING from that worker. */
void router_core_message(struct router_core *core, uint64_t now_ns, uint32_t worker,
                         const struct wire_msg *msg);

void router_core_drain(struct router_core *core);         /* refuse new work from here on */
bool router_core_is_idle(const struct router_core *core); /* no request; cancels may be pending */
void router_core_tick(struct router_core *core, uint64_t now_ns);
uint64_t router_core_deadline(const struct router_core *core); /* UINT64_MAX: never */
/* Next action, oldest first. *out and what it points to stay valid until the next call of any
 * router_core function. */
bool router_core_next_action(struct router_core *core, struct router_action *out);

struct router_worker_view {
    bool up, leaving;
    struct wire_hello hello; /* blob is NULL */
    struct wire_stats stats;
    uint64_t stats_age_ns;
    uint32_t inflight; /* choices this router runs there, as either leg */
};
/* For status and metrics. False: slot never used. */
bool router_core_worker_view(const struct router_core *core, uint64_t now_ns, uint32_t worker,
                             struct router_worker_view *out);
struct router_core_counts {
    uint32_t requests, queued, prefilling, decoding, cancels_pending;
    uint64_t attempts, retries, local_prefills, remote_prefills, stale_messages, workers_lost;
    uint64_t prefix_hit_tokens, prefix_query_tokens;
};
struct router_core_counts router_core_counts(const struct router_core *core);
/* All invariants (DESIGN section 10). For tests and dynd-sim. */
enum status router_core_check(const struct router_core *core, char *out_why, uint32_t why_bytes);

#endif
