#include "worker/engine_thread.h"

#include <pthread.h>
#include <stdlib.h>

/* One step reports at most one event a layer group plus its result; loading at most 1001. */
#define EVENTS_MAX 2048u

struct engine_thread {
    pthread_t thread;
    pthread_mutex_t mutex; /* guards all below */
    pthread_cond_t wanted;
    struct engine_event events[EVENTS_MAX];
    uint32_t head, tail;
    const struct step_plan *plan;
    bool stop;
    struct runner *runner;
    struct step_result result;
    struct runner_opts load_opts;
    char error[512];
    void (*wake)(void *arg);
    void *arg;
};

static void engine_event_post(struct engine_thread *engine, const struct engine_event *event)
{
    pthread_mutex_lock(&engine->mutex);
    /* The bound holds by construction: the loop empties the mailbox before it hands over a plan. */
    if (engine->tail - engine->head < EVENTS_MAX)
        engine->events[engine->tail++ % EVENTS_MAX] = *event;
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

static const struct step_plan *engine_wait(struct engine_thread *engine)
{
    pthread_mutex_lock(&engine->mutex);
    while (engine->plan == NULL && !engine->stop)
        pthread_cond_wait(&engine->wanted, &engine->mutex);
    const struct step_plan *plan = engine->stop ? NULL : engine->plan;
    engine->plan = NULL;
    pthread_mutex_unlock(&engine->mutex);
    return plan;
}

static void *engine_main(void *arg)
{
    struct engine_thread *engine = arg;
    enum status st =
        runner_create(&engine->load_opts, &engine->runner, engine->error, sizeof(engine->error));
    engine_event_post(engine, &(struct engine_event){
                                  .kind = ENGINE_LOADED, .status = st, .error = engine->error});
    const struct step_plan *plan;
    while (st == ST_OK && (plan = engine_wait(engine)) != NULL) {
        uint64_t step_id = plan->step_id;
        engine->result = (struct step_result){.step_id = step_id};
        enum status step_st = runner_step(engine->runner, plan, on_layers, engine, &engine->result);
        engine->result.step_id = step_id;
        engine->result.status = step_st;
        if (step_st != ST_OK)
            engine->result.n_tokens = 0;
        engine_event_post(engine,
                          &(struct engine_event){.kind = ENGINE_STEP, .result = &engine->result});
    }
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
    engine->plan = plan;
    pthread_cond_signal(&engine->wanted);
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
