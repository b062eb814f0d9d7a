/* The engine thread of a worker: loads the model, then runs steps in order, as many begun at a time
 * as the runner takes (runner_depth), so that the device has the next one when it is done with one.
 * The loop thread hands it plans and hears of layer groups and results through a mailbox; `wake` is
 * called (on the engine thread) whenever something was put in.
 *
 *   loop:    run n, run n+1 | answered   | take result n, run n+2, answered | take result n+1 ...
 *   engine:  begin n, begin n+1, finish n, post | begin n+2, finish n+1, post | ...
 *
 * Between a result and the wait for the next one the engine thread waits for the loop's answer to
 * it: once it is in runner_finish, a plan that comes has to wait for the end of a step. */
#ifndef WORKER_ENGINE_THREAD_H
#define WORKER_ENGINE_THREAD_H

#include "engine/runner.h"
#include "engine/step.h"

#include <stdbool.h>
#include <stdint.h>

struct engine_thread;

enum engine_event_kind {
    ENGINE_LOADING, /* permille */
    ENGINE_LOADED,  /* runner is ready, or status and error say why not */
    ENGINE_LAYERS,  /* step_id, layer_first, layer_count */
    ENGINE_STEP,    /* result; valid until engine_thread_answered */
};

struct engine_event {
    enum engine_event_kind kind;
    enum status status;
    uint32_t permille;
    uint64_t step_id;
    uint32_t layer_first, layer_count;
    const struct step_result *result;
    const char *error;
};

/* Starts the thread, which begins with runner_create(opts). `opts` is borrowed until ENGINE_LOADED.
 */
enum status engine_thread_create(const struct runner_opts *opts, void (*wake)(void *arg), void *arg,
                                 struct engine_thread **out);
/* Waits for the steps under way, then frees all, the runner too. NULL is fine. */
void engine_thread_destroy(struct engine_thread *engine);
/* After ENGINE_LOADED with ST_OK. */
struct runner *engine_thread_runner(struct engine_thread *engine);
/* Hands over a plan; what it points to must stay valid until its ENGINE_STEP. At most runner_depth
 * plans at a time have no ENGINE_STEP taken from the mailbox. */
void engine_thread_run(struct engine_thread *engine, const struct step_plan *plan);
/* Next event, oldest first. Loop thread. */
bool engine_thread_next_event(struct engine_thread *engine, struct engine_event *out);
/* The loop has taken all events there were and has no more plans to give before the next one. Owed
 * after each round of events. */
void engine_thread_answered(struct engine_thread *engine);

#endif
