#include "worker/engine_thread.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>

enum {
    PLANS_MAX = 2,
    /* Loading posts at most 1002 events, which are taken before the first plan comes. After that
     * what is not taken belongs to the plans whose result is not taken: at most PLANS_MAX of them,
     * each with an event for every layer (1024 at most) and its result. */
    EVENTS_MAX = 4096
};

struct engine_thread {
    pthread_t thread;
    pthread_mutex_t mutex; /* guards all below down to stop */
    pthread_cond_t wanted;
    struct engine_event events[EVENTS_MAX];
    uint32_t head, tail;
    struct step_plan plans[PLANS_MAX];
    uint32_t plan_head, plan_tail;
    bool unanswered; /* a result was put in, and the loop has not said that it is done with it */
    bool stop;
    struct runner *runner;
    struct {
        uint64_t step_id;
        enum status status; /* not ST_OK: it could not be begun */
    } begun[PLANS_MAX];     /* oldest first */
    uint32_t n_begun;
    struct step_result result;
    struct runner_opts load_opts;
    char error[512];
    void (*wake)(void *arg);
    void *arg;
};

static void engine_event_post(struct engine_thread *engine, const struct engine_event *event)
{
    pthread_mutex_lock(&engine->mutex);
    if (engine->tail - engine->head < EVENTS_MAX)
        engine->events[engine->tail++ % EVENTS_MAX] = *event;
    engine->unanswered |= event->kind == ENGINE_STEP;
    pthread_mutex_unlock(&engine->mutex);
    engine->wake(engine->arg);
}

static void on_progress(void *arg, uint32_t permille)
{
    engine_event_post(arg, &(struct engine_event){.kind = ENGINE_LOADING, .permille = permille});
}

static void on_layers(void *arg, uint64_t step_id, uint32_t layer_first, uint32_t layer_count)
{
    engine_event_post(arg, &(struct engine_event){.kind = ENGINE_LAYERS,
                                                  .step_id = step_id,
                                                  .layer_first = layer_first,
                                                  .layer_count = layer_count});
}

enum engine_todo { ENGINE_STOP, ENGINE_BEGIN, ENGINE_FINISH };

/* What comes next; ENGINE_BEGIN: *out is the plan. */
static enum engine_todo engine_wait(struct engine_thread *engine, struct step_plan *out)
{
    enum engine_todo todo = ENGINE_STOP;
    pthread_mutex_lock(&engine->mutex);
    while (!engine->stop && engine->plan_head == engine->plan_tail &&
           (engine->n_begun == 0 || engine->unanswered))
        pthread_cond_wait(&engine->wanted, &engine->mutex);
    if (!engine->stop && engine->plan_head != engine->plan_tail) {
        *out = engine->plans[engine->plan_head++ % PLANS_MAX];
        todo = ENGINE_BEGIN;
    } else if (!engine->stop) {
        todo = ENGINE_FINISH;
    }
    pthread_mutex_unlock(&engine->mutex);
    return todo;
}

/* A plan that cannot be begun gets its result in its turn, too. */
static void engine_begin(struct engine_thread *engine, const struct step_plan *plan)
{
    engine->begun[engine->n_begun].step_id = plan->step_id;
    engine->begun[engine->n_begun].status = runner_begin(engine->runner, plan, on_layers, engine);
    engine->n_begun++;
}

static void engine_finish(struct engine_thread *engine)
{
    uint64_t step_id = engine->begun[0].step_id;
    enum status st = engine->begun[0].status;
    engine->begun[0] = engine->begun[1];
    engine->n_begun--;
    engine->result = (struct step_result){0};
    if (st == ST_OK)
        st = runner_finish(engine->runner, &engine->result);
    engine->result.step_id = step_id;
    engine->result.status = st;
    if (st != ST_OK)
        engine->result.n_tokens = 0;
}

static void engine_steps(struct engine_thread *engine)
{
    struct step_plan plan;
    enum engine_todo todo;
    while ((todo = engine_wait(engine, &plan)) != ENGINE_STOP) {
        if (todo == ENGINE_BEGIN) {
            engine_begin(engine, &plan);
            continue;
        }
        engine_finish(engine);
        engine_event_post(engine,
                          &(struct engine_event){.kind = ENGINE_STEP, .result = &engine->result});
    }
    while (engine->n_begun > 0) /* the runner is destroyed with nothing under way */
        engine_finish(engine);
}

static void *engine_main(void *arg)
{
    struct engine_thread *engine = arg;
    enum status st =
        runner_create(&engine->load_opts, &engine->runner, engine->error, sizeof(engine->error));
    engine_event_post(engine, &(struct engine_event){
                                  .kind = ENGINE_LOADED, .status = st, .error = engine->error});
    if (st == ST_OK)
        engine_steps(engine);
    return NULL;
}

enum status engine_thread_create(const struct runner_opts *opts, void (*wake)(void *arg), void *arg,
                                 struct engine_thread **out)
{
    struct engine_thread *engine = calloc(1, sizeof(*engine));
    if (engine == NULL)
        return ST_NO_MEMORY;
    pthread_mutex_init(&engine->mutex, NULL);
    pthread_cond_init(&engine->wanted, NULL);
    engine->wake = wake;
    engine->arg = arg;
    engine->load_opts = *opts;
    engine->load_opts.on_progress = on_progress;
    engine->load_opts.progress_arg = engine;
    if (pthread_create(&engine->thread, NULL, engine_main, engine) != 0) {
        free(engine);
        return ST_NO_MEMORY;
    }
    *out = engine;
    return ST_OK;
}

void engine_thread_destroy(struct engine_thread *engine)
{
    if (engine == NULL)
        return;
    pthread_mutex_lock(&engine->mutex);
    engine->stop = true;
    pthread_cond_signal(&engine->wanted);
    pthread_mutex_unlock(&engine->mutex);
    pthread_join(engine->thread, NULL);
    runner_destroy(engine->runner);
    pthread_cond_destroy(&engine->wanted);
    pthread_mutex_destroy(&engine->mutex);
    free(engine);
}

struct runner *engine_thread_runner(struct engine_thread *engine)
{
    return engine->runner;
}

void engine_thread_run(struct engine_thread *engine, const struct step_plan *plan)
{
    pthread_mutex_lock(&engine->mutex);
    assert(engine->plan_tail - engine->plan_head < PLANS_MAX);
    engine->plans[engine->plan_tail++ % PLANS_MAX] = *plan;
    pthread_cond_signal(&engine->wanted);
    pthread_mutex_unlock(&engine->mutex);
}

/* What was put in since the loop last looked is still to be answered. */
void engine_thread_answered(struct engine_thread *engine)
{
    pthread_mutex_lock(&engine->mutex);
    if (engine->unanswered && engine->head == engine->tail) {
        engine->unanswered = false;
        pthread_cond_signal(&engine->wanted);
    }
    pthread_mutex_unlock(&engine->mutex);
}

bool engine_thread_next_event(struct engine_thread *engine, struct engine_event *out)
{
    pthread_mutex_lock(&engine->mutex);
    bool any = engine->head != engine->tail;
    if (any)
        *out = engine->events[engine->head++ % EVENTS_MAX];
    pthread_mutex_unlock(&engine->mutex);
    return any;
}
