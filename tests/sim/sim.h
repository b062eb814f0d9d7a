/* dynd-sim: the shipped router core, worker cores, block pools and codec in one thread, on virtual
 * time, from one seed. Only the edges are simulated: a network that delays, loses, repeats and
 * reorders control frames; a transport whose one-sided writes land late and one by one; processes
 * that crash, pause and restart; clients that come, cancel and go. The engine is the hash runner on
 * real block memory, so a wrong block is a wrong token.
 *
 * After every event the invariants of DESIGN section 10 are checked; after the faults end all
 * queues must drain. A violation prints seed and time, and stops. */
#ifndef SIM_H
#define SIM_H

#include "base/philox.h"
#include "base/time.h"
#include "engine/hash_expect.h"
#include "engine/runner.h"
#include "router/core.h"
#include "wire/wire.h"
#include "worker/core.h"

#include <stdbool.h>
#include <stdint.h>

#define SIM_WORKERS_MAX  6u
#define SIM_REQUESTS_MAX 48u
#define SIM_CHOICES_MAX  3u
#define SIM_EVENTS_MAX   65536u
#define SIM_TOKENS_MAX   640u /* prompt + output of one choice */
#define SIM_BLOCK_TOKENS 16u
#define SIM_VOCAB        97u
#define SIM_EOS          13u
#define SIM_NO_WORKER    UINT32_MAX
#define SIM_STEPS_MAX    2u

/* Drawn per seed: a swarm, so that each seed stresses something else. */
struct sim_options {
    uint32_t n_prefill, n_decode, n_unified;
    uint32_t n_requests, blocks, layers, layer_groups, chunk_tokens, batch_tokens, batch_seqs;
    uint32_t prompt_max, output_max;
    uint32_t steps_max, ahead_prompt_tokens;
    uint64_t token_ns;                   /* longest time of a token in a step */
    uint64_t arrival_ns;                 /* mean time between requests */
    uint64_t delay_min_ns, delay_max_ns; /* of a frame */
    uint32_t loss_ppm, repeat_ppm, reorder_ppm;
    uint64_t write_max_ns; /* a one-sided write lands within this */
    uint32_t push_fail_ppm, late_record_ppm, step_fail_ppm;
    uint64_t late_record_ns; /* such a record comes within this */
    uint64_t timeout_ns; /* of the router, for every leg: short ones retry into what is still under
                            way */
    uint32_t prefilled_loss_ppm;                   /* of PREFILLED frames, beyond loss_ppm */
    uint32_t crash_ppm, pause_ppm, disconnect_ppm; /* per fault tick */
    uint64_t pause_max_ns;
    uint32_t cancel_ppm, stop_ppm;
    uint32_t shared_prefix_ppm; /* requests that begin like an earlier one */
    bool remote_hosts;          /* fencing a live peer cuts its access instead of killing it */
};

enum sim_event_kind {
    SIM_FREE = 0,
    SIM_FRAME,  /* a control frame arrives */
    SIM_RECORD, /* a record arrives at a worker */
    SIM_WRITE,  /* one piece of a push lands */
    SIM_PUSH_DONE,
    SIM_FENCED,
    SIM_PEER_ERROR,
    SIM_LAYERS,
    SIM_STEP_DONE,
    SIM_TICK,      /* a core's deadline */
    SIM_CONN_DOWN, /* one end learns that the connection is gone */
    SIM_CONNECT,   /* the router dials a worker */
    SIM_RESTART,
    SIM_RESUME,
    SIM_ARRIVAL,
    SIM_FAULT,
};

struct sim_event {
    uint64_t at, order; /* ties in the order of scheduling */
    enum sim_event_kind kind;
    uint32_t worker;      /* whom it reaches; SIM_NO_WORKER: the router */
    uint64_t incarnation; /* of that process when it was scheduled */
    uint32_t from;        /* sending worker, SIM_NO_WORKER: the router */
    uint64_t from_incarnation;
    uint64_t connection; /* FRAME, CONN_DOWN: which connection */
    uint64_t id;         /* push id, step id, request */
    uint32_t a, b;
    enum status status;
    /* WRITE */
    uint32_t src_block, dst_block, dst_generation;
    uint64_t offset_bytes, bytes;
    uint8_t *data; /* FRAME, RECORD: malloc'ed frame */
    uint32_t data_bytes;
};

struct sim_worker {
    uint32_t role;
    bool up, paused;
    uint64_t incarnation; /* grows with each start; part of the instance */
    uint64_t instance, epoch;
    struct worker_core *core;
    struct runner *runner, *rerun; /* a step at its begin, at its end */
    uint8_t *pool;
    struct step_plan plans[SIM_STEPS_MAX]; /* under way, oldest first */
    uint32_t n_steps;
    uint64_t busy_until; /* end of the newest of them */
    uint64_t tick_at;    /* SIM_TICK scheduled for this time */
    /* The one control connection, as each side sees it. */
    uint64_t connection; /* 0: none */
    bool worker_side_up, router_side_up;
    uint32_t slot; /* in the router core, when router_side_up */
    struct wire_link to_router, to_worker;
    struct wire_link at_router, at_worker;
    uint64_t cut_incarnation[SIM_WORKERS_MAX]; /* peers whose writes no longer reach this pool */
    uint64_t pause_until;
};

struct sim_choice {
    struct hash_expect expect;
    uint32_t n_tokens, last; /* last: the newest token */
    bool ended;
};

struct sim_request {
    bool live, submitted, cancelled;
    uint64_t id;
    uint32_t n_prompt, n_choices;
    uint32_t tokens[SIM_TOKENS_MAX];
    struct wire_sampling sampling;
    uint8_t salt[16];
    struct sim_choice choices[SIM_CHOICES_MAX];
    uint32_t max_attempt[SIM_CHOICES_MAX];
};

struct sim_counts {
    uint64_t events, requests, done, failed, refused, cancelled, tokens, frames, lost, writes,
        crashes, pauses, disconnects, fences;
    uint64_t steps, steps_ahead, steps_failed, preemptions; /* ahead: begun behind another */
};

struct sim {
    uint64_t seed;
    struct rng rng;
    struct sim_options opts;
    uint64_t now, order;
    uint64_t trace;
    bool trace_print;
    bool healing;
    struct sim_event *heap; /* [SIM_EVENTS_MAX] */
    uint32_t n_events;
    struct router_core *router;
    uint64_t router_instance, router_tick_at;
    struct sim_worker workers[SIM_WORKERS_MAX];
    uint32_t n_workers;
    struct sim_request *requests; /* [SIM_REQUESTS_MAX] */
    uint32_t n_requests;
    uint64_t connections; /* last id */
    uint8_t cache_secret[32];
    struct arena scratch;
    struct buf frame;
    struct sim_counts counts;
    bool violated;
    char violation[512];
};

/* Runs one seed to its end. ST_OK, or ST_INTERNAL with sim->violation. */
enum status sim_run(struct sim *sim, uint64_t seed, bool trace_print);

/* sim.c */
void sim_violation(struct sim *sim, const char *format, ...) __attribute__((format(printf, 2, 3)));
bool sim_chance(struct sim *sim, uint32_t ppm);
uint64_t sim_between(struct sim *sim, uint64_t low, uint64_t high);
void sim_schedule(struct sim *sim, uint64_t delay_ns, const struct sim_event *event);
void sim_router_pump(struct sim *sim);
void sim_trace(struct sim *sim, const char *what, uint64_t a, uint64_t b);
/* sim_net.c */
void sim_send(struct sim *sim, uint32_t worker, bool to_router, const struct wire_msg *msg);
void sim_frame(struct sim *sim, struct sim_event *event);
void sim_connect(struct sim *sim, uint32_t worker);
void sim_disconnect(struct sim *sim, uint32_t worker);
void sim_conn_down(struct sim *sim, const struct sim_event *event);
/* sim_worker.c */
enum status sim_worker_start(struct sim *sim, uint32_t index);
void sim_worker_stop(struct sim *sim, uint32_t index);
void sim_worker_crash(struct sim *sim, uint32_t index);
void sim_worker_pump(struct sim *sim, uint32_t index);
void sim_worker_event(struct sim *sim, struct sim_event *event);
/* sim_check.c */
void sim_check(struct sim *sim);
void sim_check_drained(struct sim *sim);
void sim_check_attempt(struct sim *sim, const struct wire_msg *msg);
struct sim_request *sim_request_of(struct sim *sim, uint64_t id);
void sim_expect_init(struct sim *sim, struct sim_request *r, uint32_t choice);
void sim_expect_token(struct sim *sim, struct sim_request *r, uint32_t choice, uint32_t token);
void sim_expect_finish(struct sim *sim, struct sim_request *r, uint32_t choice, uint32_t finish);

#endif
