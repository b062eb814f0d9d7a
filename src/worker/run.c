/* Start, model load and end of a worker process; the events in between are in loop.c. */
#include "worker/run.h"

#include "base/exit.h"
#include "base/hash.h"
#include "base/secret.h"
#include "base/time.h"
#include "cluster/loop.h"
#include "observe/log.h"
#include "worker/loop_int.h"
#include "worker/plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STATS_INTERVAL_NS (500 * NS_PER_MS)
/* A step of more prompt tokens takes milliseconds; what is won by planning ahead is microseconds.
 */
#define AHEAD_PROMPT_TOKENS 512

static uint32_t wire_role_of(enum config_role role)
{
    switch (role) {
    case CONFIG_ROLE_PREFILL:
        return WIRE_ROLE_PREFILL;
    case CONFIG_ROLE_DECODE:
        return WIRE_ROLE_DECODE;
    case CONFIG_ROLE_UNIFIED:
        break;
    }
    return WIRE_ROLE_UNIFIED;
}

/* A line every 10 %; with DYND_PROGRESS=raw (a supervisor at a terminal) marks for its bar. */
void worker_load_progress(struct worker *w, uint32_t permille)
{
    const char *mode = getenv("DYND_PROGRESS");
    w->load_permille = permille;
    if (permille < w->load_logged_permille + (mode != NULL ? 10 : 100) && permille != 1000)
        return;
    w->load_logged_permille = permille;
    if (mode != NULL && strcmp(mode, "raw") == 0)
        dprintf(STDERR_FILENO, "@progress %u\n", permille);
    else
        log_info("loading model", LOG_U64("percent", permille / 10));
    for (uint32_t i = 0; i < WORKER_CONNS_MAX; i++)
        if (w->conns[i].conn != NULL)
            worker_loading_send(w, w->conns[i].conn);
}

static enum status worker_pool_open(struct worker *w)
{
    const struct kv_geometry *g = w->geometry;
    char why[256];
    uint32_t n = 0;
    enum status st = worker_plan_pool(w->config, g, &n, (struct text_error){why, sizeof(why)});
    if (st != ST_OK) {
        log_error("KV pool does not fit", LOG_STR("error", why));
        return st;
    }
    w->pool_bytes = n * g->block_bytes;
    struct runner *runner = engine_thread_runner(w->engine);
    void *base = NULL;
    st = runner_alloc_pool(runner, w->pool_bytes, &base);
    if (st == ST_UNSUPPORTED) {
        bool is_written = w->hello.role == WIRE_ROLE_DECODE; /* by other processes */
        st = transport_pool_map(0, w->pool_bytes, &w->pool_base, is_written ? &w->pool_fd : NULL);
        base = w->pool_base;
    }
    if (st != ST_OK) {
        log_error("KV pool cannot be mapped", LOG_U64("bytes", w->pool_bytes),
                  LOG_STR("status", status_name(st)));
        return st;
    }
    w->hello.pool = (struct wire_pool){.pool = 0,
                                       .block_count = n,
                                       .epoch = secret_u64(),
                                       .layout_hash = g->layout_hash,
                                       .block_tokens = g->block_tokens,
                                       .layer_count = g->layer_count,
                                       .block_bytes = g->block_bytes};
    return runner_set_pool(runner, base, n);
}

/* A unified worker needs no transport. One that does and gets none still serves what it can do
 * alone: a decode worker prefills locally; a prefill worker is useless and ends. */
static enum status worker_transport_open(struct worker *w)
{
    char why[1024] = "";
    const struct config *c = w->config;
    if (w->process->worker->device == CONFIG_DEVICE_CUDA && w->hello.role != WIRE_ROLE_UNIFIED) {
        log_error("KV cannot move from or to a GPU yet: workers of device cuda must be unified");
        return ST_UNSUPPORTED;
    }
    if (w->hello.role == WIRE_ROLE_UNIFIED || c->kv_transfer.transport == CONFIG_TRANSPORT_LOCAL)
        return w->hello.role == WIRE_ROLE_PREFILL ? ST_UNSUPPORTED : ST_OK;
    enum status st = transport_select(config_transport_name(c->kv_transfer.transport),
                                      c->kv_transfer.require.items, c->kv_transfer.require.count,
                                      &w->transport_ops, why, sizeof(why));
    if (st == ST_OK) {
        struct transport_opts opts = {.instance = w->hello.instance,
                                      .pool = w->hello.pool,
                                      .pool_base = w->pool_base,
                                      .pool_fd = w->pool_fd,
                                      .pool_is_private = w->hello.role == WIRE_ROLE_PREFILL};
        memcpy(opts.host_id, w->hello.host_id, sizeof(opts.host_id));
        st = w->transport_ops->open(&opts, &w->transport);
    }
    if (st != ST_OK) {
        log_error("no KV transport", LOG_STR("why", why), LOG_STR("status", status_name(st)));
        return w->hello.role == WIRE_ROLE_PREFILL || c->kv_transfer.require.count > 0 ? st : ST_OK;
    }
    w->transport_ops = w->transport->ops;
    w->transport_ops->describe(w->transport, why, sizeof(why));
    log_info("KV transport chosen", LOG_STR("transport", w->transport_ops->name),
             LOG_STR("is", why));
    snprintf(w->hello.transport, sizeof(w->hello.transport), "%s", w->transport_ops->name);
    w->transport_ops->export_blob(w->transport, &w->hello.blob, &w->hello.blob_bytes);
    uv_poll_init(&w->loop, &w->transport_poll, w->transport_ops->event_fd(w->transport));
    w->transport_poll.data = w;
    return uv_poll_start(&w->transport_poll, UV_READABLE, on_worker_transport) == 0 ? ST_OK : ST_IO;
}

static enum status worker_core_open(struct worker *w)
{
    const struct config *c = w->config;
    const struct runner *runner = engine_thread_runner(w->engine);
    const struct runner_info *info = runner_info(runner);
    struct worker_core_opts opts = {
        .role = w->hello.role,
        .instance = w->hello.instance,
        .pool = w->hello.pool,
        .model = info->model_hash,
        .prefix_cache = c->kv.prefix_cache,
        .max_context_tokens = info->max_context_tokens,
        .max_seqs = c->scheduler.max_batch_seqs,
        .queue_max = c->scheduler.queue_max,
        .max_batch_tokens = c->scheduler.max_batch_tokens,
        .prefill_chunk_tokens = c->scheduler.prefill_chunk_tokens,
        .steps_max = c->scheduler.async_steps ? runner_depth(runner) : 1,
        .ahead_prompt_tokens = AHEAD_PROMPT_TOKENS,
        .headroom_blocks = c->scheduler.reserve_headroom_blocks,
        .stats_interval_ns = STATS_INTERVAL_NS,
        .push_floor_bytes_per_s = c->kv_transfer.floor_bytes_per_s,
        .push_slack_ns = c->kv_transfer.slack_ms * NS_PER_MS,
        .fence_after_ns = c->kv_transfer.fence_timeout_ms * NS_PER_MS,
    };
    for (; opts.n_eos < info->n_eos && opts.n_eos < 8; opts.n_eos++)
        opts.eos[opts.n_eos] = info->eos[opts.n_eos];
    enum status st = secret_load(c->kv.cache_secret_file, opts.cache_secret);
    if (st != ST_OK) {
        log_error("cache secret cannot be read", LOG_STR("file", c->kv.cache_secret_file),
                  LOG_STR("status", status_name(st)));
        return st;
    }
    w->hello.model_hash = info->model_hash;
    snprintf(w->hello.kv_dtype, sizeof(w->hello.kv_dtype), "%s", w->geometry->dtype);
    w->hello.tokenizer_hash = info->tokenizer_hash;
    w->hello.vocab_size = info->vocab_size;
    w->hello.max_context_tokens = info->max_context_tokens;
    w->hello.max_seqs = c->scheduler.max_batch_seqs;
    w->hello.queue_max = c->scheduler.queue_max;
    return worker_core_create(&opts, &w->core);
}

static void worker_fail(struct worker *w)
{
    w->exit_code = EXIT_CONFIG;
    uv_stop(&w->loop);
}

/* The engine has its model: everything that depends on the geometry follows. */
void worker_loaded(struct worker *w, const struct engine_event *event)
{
    if (event->status != ST_OK) {
        log_error("model cannot be loaded", LOG_STR("error", event->error),
                  LOG_STR("status", status_name(event->status)));
        worker_fail(w);
        return;
    }
    w->geometry = runner_geometry(engine_thread_runner(w->engine));
    if (worker_pool_open(w) != ST_OK || worker_transport_open(w) != ST_OK ||
        worker_core_open(w) != ST_OK) {
        worker_fail(w);
        return;
    }
    if (runner_info(engine_thread_runner(w->engine))->kv_unscaled)
        log_info("the KV cache is fp8, and the model's files have no scales for it: they are 1");
    log_info("ready", LOG_STR("role", wire_role_name(w->hello.role)),
             LOG_U64("load_ms", (time_monotonic_ns() - w->load_start_ns) / NS_PER_MS),
             LOG_U64("blocks", w->hello.pool.block_count),
             LOG_U64("block_tokens", w->hello.pool.block_tokens),
             LOG_STR("kv_dtype", w->hello.kv_dtype));
    for (uint32_t i = 0; i < WORKER_CONNS_MAX; i++)
        if (w->conns[i].hello_read)
            worker_router_up(w, i);
}

static void on_worker_stop(uv_signal_t *signal, int number)
{
    struct worker *w = signal->data;
    if (w->core == NULL || w->draining) { /* still loading, or asked twice */
        uv_stop(&w->loop);
        return;
    }
    log_info("draining", LOG_U64("signal", (uint64_t)number));
    w->draining = true;
    worker_core_drain(w->core, time_monotonic_ns());
    worker_pump(w);
}

static void engine_wake(void *arg)
{
    struct worker *w = arg;
    uv_async_send(&w->engine_async);
}

static enum status worker_engine_start(struct worker *w)
{
    uint32_t n_cpus = 0;
    enum status st =
        config_index_list_parse(w->process->worker->cpus, w->cpus, CONFIG_INDEX_MAX + 1, &n_cpus);
    if (st != ST_OK)
        return st;
    struct runner_opts opts;
    worker_plan_runner(w->config, &opts);
    opts.n_threads = w->process->worker->threads;
    opts.cpus = w->cpus;
    opts.n_cpus = n_cpus;
    opts.device = w->process->worker->device == CONFIG_DEVICE_CUDA ? DEVICE_CUDA : DEVICE_CPU;
    w->load_start_ns = time_monotonic_ns();
    return engine_thread_create(&opts, engine_wake, w, &w->engine);
}

static enum status worker_open(struct worker *w, const char *listen)
{
    uv_timer_init(&w->loop, &w->timer);
    uv_async_init(&w->loop, &w->engine_async, on_worker_engine);
    uv_signal_init(&w->loop, &w->sigterm);
    uv_signal_init(&w->loop, &w->sigint);
    w->timer.data = w->engine_async.data = w->sigterm.data = w->sigint.data = w;
    uv_signal_start(&w->sigterm, on_worker_stop, SIGTERM);
    uv_signal_start(&w->sigint, on_worker_stop, SIGINT);
    buf_init(&w->record, TRANSPORT_RECORD_BYTES_MAX);
    arena_init(&w->scratch, 64u << 20);
    arena_init(&w->record_scratch, 4u * TRANSPORT_RECORD_BYTES_MAX);
    w->hello.version_min = WIRE_VERSION_MIN;
    w->hello.version_max = WIRE_VERSION_MAX;
    w->hello.role = wire_role_of(w->process->worker->role);
    w->hello.pid = (uint32_t)getpid();
    w->hello.instance = secret_u64();
    transport_host_id(w->hello.host_id);
    snprintf(w->hello.name, sizeof(w->hello.name), "%s", w->process->name);
    enum status st = conn_listen(&w->loop, listen, on_worker_accept, w, &w->listener);
    if (st != ST_OK) {
        log_error("cannot listen for routers", LOG_STR("endpoint", listen),
                  LOG_STR("status", status_name(st)));
        return st;
    }
    return worker_engine_start(w);
}

static void worker_deinit(struct worker *w)
{
    for (uint32_t i = 0; i < WORKER_CONNS_MAX; i++)
        conn_close(w->conns[i].conn);
    conn_listener_close(w->listener);
    engine_thread_destroy(w->engine); /* before its pool and async go */
    loop_shut(&w->loop);
    if (w->transport != NULL)
        w->transport_ops->close(w->transport);
    worker_core_destroy(w->core);
    transport_pool_unmap(w->pool_base, w->pool_bytes, w->pool_fd);
    buf_deinit(&w->record);
    arena_deinit(&w->scratch);
    arena_deinit(&w->record_scratch);
}

int worker_run(const struct config *config, const struct config_process *process,
               const char *listen)
{
    struct worker *w = calloc(1, sizeof(*w));
    if (w == NULL || uv_loop_init(&w->loop) != 0) {
        free(w);
        return 1;
    }
    w->config = config;
    w->process = process;
    w->pool_fd = -1;
    if (worker_open(w, listen) == ST_OK)
        uv_run(&w->loop, UV_RUN_DEFAULT);
    else
        w->exit_code = 1;
    int exit_code = w->exit_code;
    worker_deinit(w);
    log_info("worker ended", LOG_U64("exit_code", (uint64_t)exit_code));
    free(w);
    return exit_code;
}
