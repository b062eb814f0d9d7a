/* The small endpoints of the router: health, models, metrics, status, tokenize. */
#include "base/json.h"
#include "base/time.h"
#include "observe/metrics.h"
#include "router/loop_int.h"

#include <stdio.h>
#include <string.h>

#define PAGE_BYTES_MAX (64u << 20)

static void page_send(struct http_request *req, enum status st, struct buf *body,
                      const struct api_error *error)
{
    if (st != ST_OK) {
        body->len = 0;
        if (api_error_write(error, body) != ST_OK)
            body->len = 0;
    }
    http_respond(req, st == ST_OK ? 200 : error->http_code, "application/json", body->data,
                 body->len, NULL, 0);
    buf_deinit(body);
}

static void on_models(void *user, struct http_request *req)
{
    struct router *r = user;
    struct api_error error;
    struct buf body;
    buf_init(&body, PAGE_BYTES_MAX);
    page_send(req, api_models_list(&r->api, &body, &error), &body, &error);
}

static void on_model(void *user, struct http_request *req)
{
    struct router *r = user;
    struct api_error error;
    struct buf body;
    buf_init(&body, PAGE_BYTES_MAX);
    page_send(req, api_models_get(&r->api, req->path_tail, &body, &error), &body, &error);
}

static void on_version(void *user, struct http_request *req)
{
    struct api_error error;
    struct buf body;
    (void)user;
    buf_init(&body, PAGE_BYTES_MAX);
    page_send(req, api_version(&body, &error), &body, &error);
}

static void on_tokenize(void *user, struct http_request *req)
{
    struct router *r = user;
    struct api_error error;
    struct buf body;
    buf_init(&body, PAGE_BYTES_MAX);
    page_send(req, api_tokenize(&r->api, req->body, req->body_bytes, &body, &error), &body, &error);
}

static void on_detokenize(void *user, struct http_request *req)
{
    struct router *r = user;
    struct api_error error;
    struct buf body;
    buf_init(&body, PAGE_BYTES_MAX);
    page_send(req, api_detokenize(&r->api, req->body, req->body_bytes, &body, &error), &body,
              &error);
}

/* Ready: some worker could answer a request that came now. */
bool router_is_ready(const struct router *r)
{
    struct router_worker_view view;
    for (uint32_t i = 0; i < ROUTER_WORKERS_MAX && !r->draining; i++)
        if (router_core_worker_view(r->core, 0, i, &view) && view.up && !view.leaving &&
            view.hello.role != WIRE_ROLE_PREFILL)
            return true;
    return false;
}

static void on_live(void *user, struct http_request *req)
{
    (void)user;
    http_respond(req, 200, "application/json", "{\"status\":\"live\"}", 17, NULL, 0);
}

static void on_ready(void *user, struct http_request *req)
{
    const struct router *r = user;
    const char *text = router_is_ready(r) ? "{\"status\":\"ready\"}"
                       : r->draining      ? "{\"status\":\"draining\"}"
                                          : "{\"status\":\"no worker is ready\"}";
    http_respond(req, router_is_ready(r) ? 200 : 503, "application/json", text, strlen(text), NULL,
                 0);
}

static void metrics_gather(struct router *r)
{
    static const char *const roles[] = {"prefill", "decode", "unified"};
    uint32_t n_up[3] = {0};
    struct router_worker_view v;
    struct router_core_counts c = router_core_counts(r->core);
    metric_set(M_requests_running, NULL, c.decoding);
    metric_set(M_requests_waiting, NULL, c.queued + c.prefilling);
    metric_set(M_router_attempts, NULL, (double)c.attempts);
    metric_set(M_router_retries, NULL, (double)c.retries);
    metric_set(M_router_workers_lost, NULL, (double)c.workers_lost);
    metric_set(M_router_stale_messages, NULL, (double)c.stale_messages);
    metric_set(M_router_prefills_local, NULL, (double)c.local_prefills);
    metric_set(M_router_prefills_remote, NULL, (double)c.remote_prefills);
    metric_set(M_prefix_cache_hit_tokens, NULL, (double)c.prefix_hit_tokens);
    metric_set(M_prefix_cache_query_tokens, NULL, (double)c.prefix_query_tokens);
    for (uint32_t i = 0; i < ROUTER_WORKERS_MAX; i++) {
        if (!router_core_worker_view(r->core, time_monotonic_ns(), i, &v) || !v.up)
            continue;
        n_up[v.hello.role - WIRE_ROLE_PREFILL]++;
        metric_set(M_kv_blocks_total, v.hello.name, v.hello.pool.block_count);
        metric_set(M_kv_block_bytes, v.hello.name, (double)v.hello.pool.block_bytes);
        metric_set(M_kv_blocks_free, v.hello.name, v.stats.blocks_free);
        metric_set(M_kv_blocks_quarantined, v.hello.name, v.stats.blocks_quarantined);
        metric_set(M_worker_running, v.hello.name, v.stats.running);
        metric_set(M_worker_waiting, v.hello.name, v.stats.waiting);
        metric_set(M_worker_preemptions, v.hello.name, (double)v.stats.preemptions);
        metric_set(M_kv_transfer_bytes, v.hello.name, (double)v.stats.transfer_bytes);
        metric_set(M_kv_transfer_failures, v.hello.name, (double)v.stats.transfer_failures);
    }
    for (uint32_t i = 0; i < 3; i++)
        metric_set(M_workers_up, roles[i], n_up[i]);
}

static void on_metrics(void *user, struct http_request *req)
{
    struct buf body;
    buf_init(&body, PAGE_BYTES_MAX);
    metrics_gather(user);
    if (metrics_render(&body) == ST_OK)
        http_respond(req, 200, "text/plain; version=0.0.4; charset=utf-8", body.data, body.len,
                     NULL, 0);
    else
        http_respond_error(req, 500, NULL, status_text(ST_INTERNAL), NULL, 0);
    buf_deinit(&body);
}

static const char *worker_health(const struct router_worker_view *v)
{
    return v->leaving ? "leaving" : v->stats_age_ns > NS_PER_S ? "late" : "ok";
}

static enum status status_worker(const struct router_worker_view *v, struct buf *out)
{
    const struct wire_stats *s = &v->stats;
    return buf_printf(
        out,
        "{\"name\":\"%s\",\"role\":\"%s\",\"health\":\"%s\",\"pid\":%u,\"transport\":\"%s\","
        "\"kv_dtype\":\"%s\",\"block_bytes\":%llu,"
        "\"running\":%u,\"waiting\":%u,\"reserved\":%u,\"inflight\":%u,\"blocks_total\":%u,"
        "\"blocks_free\":%u,\"blocks_cached\":%u,\"blocks_quarantined\":%u,\"steps\":%llu,"
        "\"prompt_tokens\":%llu,\"output_tokens\":%llu,\"cached_tokens\":%llu,\"preemptions\":%llu,"
        "\"transfer_bytes\":%llu,\"transfer_failures\":%llu}",
        v->hello.name, wire_role_name(v->hello.role), worker_health(v), v->hello.pid,
        v->hello.transport, v->hello.kv_dtype, (unsigned long long)v->hello.pool.block_bytes,
        s->running, s->waiting, s->reserved, v->inflight, s->blocks_total, s->blocks_free,
        s->blocks_cached, s->blocks_quarantined, (unsigned long long)s->steps,
        (unsigned long long)s->prompt_tokens, (unsigned long long)s->output_tokens,
        (unsigned long long)s->cached_tokens, (unsigned long long)s->preemptions,
        (unsigned long long)s->transfer_bytes, (unsigned long long)s->transfer_failures);
}

/* Workers that are dialled but not up: loading, refused or away. */
static enum status status_links(struct router *r, bool *any, struct buf *out)
{
    enum status st = ST_OK;
    for (uint32_t i = 0; i < LINKS_MAX && st == ST_OK; i++) {
        const struct link *link = &r->links[i];
        if (link->endpoint[0] == '\0' || link->up)
            continue;
        st = buf_printf(out,
                        "%s{\"name\":\"%s\",\"role\":\"-\",\"health\":\"%s\",\"load_percent\":%u}",
                        *any ? "," : "", link->name,
                        link->refused[0] != '\0' ? "refused"
                        : link->open             ? "loading"
                                                 : "away",
                        link->load_permille / 10);
        *any = true;
    }
    return st;
}

static enum status status_write(struct router *r, struct buf *out)
{
    struct router_worker_view v;
    struct router_core_counts c = router_core_counts(r->core);
    bool any = false;
    enum status st = buf_append_str(out, "{\"version\":\"" DYND_VERSION "\",\"model\":");
    if (st == ST_OK)
        st = json_append_string(out, r->api.model, strlen(r->api.model));
    if (st == ST_OK)
        st = buf_printf(out,
                        ",\"ready\":%s,\"router\":{\"requests\":%u,\"running\":%u,\"waiting\":%u,"
                        "\"attempts\":%llu,\"retries\":%llu,\"workers_lost\":%llu,"
                        "\"cancels_pending\":%u,\"local_prefills\":%llu,\"remote_prefills\":%llu},"
                        "\"workers\":[",
                        router_is_ready(r) ? "true" : "false", c.requests, c.decoding,
                        c.queued + c.prefilling, (unsigned long long)c.attempts,
                        (unsigned long long)c.retries, (unsigned long long)c.workers_lost,
                        c.cancels_pending, (unsigned long long)c.local_prefills,
                        (unsigned long long)c.remote_prefills);
    for (uint32_t i = 0; i < ROUTER_WORKERS_MAX && st == ST_OK; i++) {
        if (!router_core_worker_view(r->core, time_monotonic_ns(), i, &v) || !v.up)
            continue;
        st = any ? buf_append_str(out, ",") : ST_OK;
        if (st == ST_OK)
            st = status_worker(&v, out);
        any = true;
    }
    if (st == ST_OK)
        st = status_links(r, &any, out);
    return st == ST_OK ? buf_append_str(out, "]}") : st;
}

static void on_status(void *user, struct http_request *req)
{
    struct api_error error;
    struct buf body;
    buf_init(&body, PAGE_BYTES_MAX);
    enum status st = status_write(user, &body);
    if (st != ST_OK)
        api_error_from_status(st, &error);
    page_send(req, st, &body, &error);
}

static void on_completions(void *user, struct http_request *req)
{
    flight_start(user, req, API_COMPLETIONS);
}

static void on_chat(void *user, struct http_request *req)
{
    flight_start(user, req, API_CHAT);
}

static const struct http_route routes[] = {
    {"POST", "/v1/completions", on_completions},
    {"POST", "/v1/chat/completions", on_chat},
    {"GET", "/v1/models", on_models},
    {"GET", "/v1/models/*", on_model},
    {"POST", "/tokenize", on_tokenize},
    {"POST", "/detokenize", on_detokenize},
    {"GET", "/health", on_ready},
    {"GET", "/ready", on_ready},
    {"GET", "/live", on_live},
    {"GET", "/metrics", on_metrics},
    {"GET", "/status", on_status},
    {"GET", "/version", on_version},
};

void pages_dispatch(struct router *r, struct http_request *req)
{
    http_routes_dispatch(routes, sizeof(routes) / sizeof(*routes), r, req, NULL, 0);
}
