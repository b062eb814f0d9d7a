/* Start, loop and end of the router process. */
#include "router/run.h"

#include "base/exit.h"
#include "base/secret.h"
#include "base/time.h"
#include "cluster/loop.h"
#include "observe/log.h"
#include "router/loop_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LINKS_TICK_MS       20u
#define PROMPTS_MAX         64u
#define CHOICES_PER_REQUEST 2u
#define TOKENS_MAX          (16u << 20) /* 64 MiB: prompts and answers of all admitted requests */
#define RESERVE_TIMEOUT_NS  (30 * NS_PER_S)
#define PREFILL_TIMEOUT_NS  (10 * NS_PER_S)
#define PREFILL_TOKEN_NS    (2 * NS_PER_MS) /* slowest prefill that is not taken for a hang */
#define DECODE_TIMEOUT_NS   (30 * NS_PER_S)
#define CANCEL_RETRY_NS     (200 * NS_PER_MS)

static void on_timer(uv_timer_t *timer)
{
    struct router *r = timer->data;
    router_core_tick(r->core, time_monotonic_ns());
    router_pump(r);
}

/* Carries out the core's actions, flushes, sets the timer. Every callback ends here. */
void router_pump(struct router *r)
{
    struct router_action act;
    do {
        r->again = false;
        while (router_core_next_action(r->core, &act)) {
            if (act.kind == ROUTER_SEND)
                link_send(r, act.worker, act.msg);
            else if (act.kind == ROUTER_DROP)
                link_drop(r, act.worker, act.status);
            else
                flight_action(&act);
        }
        links_flush(r);
    } while (r->again);
    uint64_t now = time_monotonic_ns(), at = router_core_deadline(r->core);
    if (at != UINT64_MAX)
        uv_timer_start(&r->timer, on_timer, at > now ? (at - now + NS_PER_MS - 1) / NS_PER_MS : 0,
                       0);
}

static void on_links_timer(uv_timer_t *timer)
{
    struct router *r = timer->data;
    links_tick(r);
}

static void on_request(void *user, struct http_request *req)
{
    struct router *r = user;
    pages_dispatch(r, req);
    router_pump(r);
}

static void on_request_closed(void *user, struct http_request *req)
{
    struct router *r = user;
    if (req->user != NULL)
        flight_client_gone(req->user);
    router_pump(r);
}

/* ---- end ---- */

static void on_http_closed(void *user)
{
    struct router *r = user;
    uv_stop(&r->loop);
}

static void router_close(struct router *r)
{
    if (r->http != NULL)
        http_server_close(r->http, on_http_closed, r);
    r->http = NULL;
}

static void on_drained(void *user)
{
    log_info("drained");
    router_close(user);
}

static void on_drain_timeout(uv_timer_t *timer)
{
    struct router *r = timer->data;
    log_warn("drain timeout, requests under way are cut off", LOG_U64("requests", r->n_flights));
    flights_fail_all(r, ST_DRAINING);
    router_close(r);
}

static void on_stop(uv_signal_t *signal, int number)
{
    struct router *r = signal->data;
    if (r->draining) {
        router_close(r);
        return;
    }
    log_info("draining", LOG_U64("signal", (uint64_t)number), LOG_U64("requests", r->n_flights));
    r->draining = true;
    router_core_drain(r->core);
    http_server_drain(r->http);
    uv_timer_start(&r->drain_timer, on_drain_timeout, r->config->router.drain_timeout_ms, 0);
}

/* ---- start ---- */

static enum status text_open(struct router *r)
{
    char why[600] = "";
    enum status st = router_text_load(r->config, &r->text, (struct text_error){why, sizeof(why)});
    if (st != ST_OK)
        log_error("the model's texts cannot be used", LOG_STR("error", why));
    else if (r->text.chat_template == NULL && r->config->model.path[0] != '\0')
        log_warn("the model has no chat template: /v1/chat/completions will refuse",
                 LOG_STR("path", r->config->model.path));
    return st;
}

static enum status core_open(struct router *r)
{
    const struct config *c = r->config;
    struct router_core_opts opts = {
        .instance = r->instance,
        .requests_max = c->router.queue_max,
        .choices_max = CHOICES_PER_REQUEST * c->router.queue_max + ROUTER_CHOICES_MAX,
        .tokens_max = TOKENS_MAX,
        .attempts_max = c->router.attempts_max,
        .local_prefill_max_tokens = c->router.local_prefill_max_tokens,
        .prefix_routing = c->router.prefix_routing,
        .prefix_index_max = 1u << 18,
        .heartbeat_timeout_ns = c->router.heartbeat_timeout_ms * NS_PER_MS,
        .reserve_timeout_ns = RESERVE_TIMEOUT_NS,
        .prefill_timeout_ns = PREFILL_TIMEOUT_NS,
        .prefill_ns_per_token = PREFILL_TOKEN_NS,
        .decode_timeout_ns = DECODE_TIMEOUT_NS,
        .cancel_retry_ns = CANCEL_RETRY_NS,
        .seed = r->instance,
    };
    enum status st = secret_load(c->kv.cache_secret_file, opts.cache_secret);
    if (st != ST_OK) {
        log_error("cache secret cannot be read", LOG_STR("file", c->kv.cache_secret_file));
        return st;
    }
    return router_core_create(&opts, &r->core);
}

static enum status http_open(struct router *r, int listen_fd)
{
    static const struct http_handlers handlers = {
        .on_request = on_request, .on_request_closed = on_request_closed, .on_drained = on_drained};
    const struct config *c = r->config;
    struct http_server_options o;
    http_server_options_default(&o);
    o.limits.body_bytes_max = c->http.max_body_bytes;
    o.limits.head_bytes_max = c->http.max_header_bytes;
    o.connections_max = c->http.max_connections;
    o.backlog = c->http.listen_backlog;
    o.write_queue_bytes_max = c->http.write_buffer_max_bytes;
    o.head_timeout_ms = c->http.header_timeout_ms;
    o.body_timeout_ms = c->http.body_timeout_ms;
    o.idle_timeout_ms = c->http.idle_timeout_ms;
    enum status st = http_server_create(&r->loop, &o, &handlers, r, &r->http);
    if (st != ST_OK)
        return st;
    st = listen_fd >= 0 ? http_server_open(r->http, listen_fd)
                        : http_server_listen(r->http, c->http.host, (uint16_t)c->http.port);
    if (st == ST_OK)
        log_info("listening", LOG_STR("host", c->http.host),
                 LOG_U64("port", http_server_port(r->http)));
    return st;
}

static void handles_open(struct router *r)
{
    uv_timer_init(&r->loop, &r->timer);
    uv_timer_init(&r->loop, &r->links_timer);
    uv_timer_init(&r->loop, &r->drain_timer);
    uv_signal_init(&r->loop, &r->sigterm);
    uv_signal_init(&r->loop, &r->sigint);
    r->timer.data = r->links_timer.data = r->drain_timer.data = r->sigterm.data = r->sigint.data =
        r;
    uv_signal_start(&r->sigterm, on_stop, SIGTERM);
    uv_signal_start(&r->sigint, on_stop, SIGINT);
    uv_timer_start(&r->links_timer, on_links_timer, 0, LINKS_TICK_MS);
}

static enum status router_open(struct router *r, int listen_fd)
{
    const struct config *c = r->config;
    list_init(&r->flights);
    handles_open(r);
    r->instance = secret_u64();
    r->rng.seed = hash_mix64(r->instance);
    enum status st = text_open(r);
    if (st != ST_OK) {
        r->exit_code = EXIT_CONFIG;
        return st;
    }
    r->api = (struct api_context){.tokenizer = r->text.tokenizer,
                                  .chat_template = r->text.chat_template,
                                  .model = c->model.name,
                                  .started_unix_s = time_unix_s(),
                                  .limits = {.max_tokens_default = c->router.max_tokens_default,
                                             .n_max = c->router.n_max < ROUTER_CHOICES_MAX
                                                          ? c->router.n_max
                                                          : ROUTER_CHOICES_MAX,
                                             .prompts_max = PROMPTS_MAX}};
    api_defaults_init(&r->api.defaults);
    st = core_open(r);
    if (st == ST_OK)
        links_init(r);
    return st == ST_OK ? http_open(r, listen_fd) : st;
}

static void router_deinit(struct router *r)
{
    links_close(r);
    loop_shut(&r->loop);
    router_core_destroy(r->core);
    router_text_deinit(&r->text);
}

int router_run(const struct config *config, int listen_fd)
{
    struct router *r = calloc(1, sizeof(*r));
    if (r == NULL || uv_loop_init(&r->loop) != 0) {
        free(r);
        return 1;
    }
    r->config = config;
    enum status st = router_open(r, listen_fd);
    if (st == ST_OK)
        uv_run(&r->loop, UV_RUN_DEFAULT);
    else if (r->exit_code == 0)
        r->exit_code = 1;
    router_close(r);
    int exit_code = r->exit_code;
    router_deinit(r);
    free(r);
    return exit_code;
}
