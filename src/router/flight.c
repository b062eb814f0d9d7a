/* Generation requests in flight: parse, submit to the core, turn committed tokens into text,
 * answer. A flight ends in one place (flight_free); until then either side may go first: the client
 * (flight_client_gone) or the core (DONE, FAIL). */
#include "base/time.h"
#include "observe/log.h"
#include "observe/metrics.h"
#include "router/loop_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PARSE_INLINE_BYTES (64u << 10) /* larger bodies are parsed off the loop */
#define ANSWER_BYTES_MAX   (256u << 20)
#define SYSTEM_FINGERPRINT "dynd-" DYND_VERSION

static void flight_free(struct flight *f)
{
    struct router *r = f->router;
    for (uint32_t i = 0; f->prompts != NULL && i < f->request->n_prompts; i++)
        if (f->prompts[i].id != 0)
            router_core_cancel(r->core, time_monotonic_ns(), f->prompts[i].id);
    for (uint32_t i = 0; i < f->n_choices_made; i++)
        api_choice_deinit(&f->choices[i]);
    if (f->response_made)
        api_response_deinit(&f->response);
    api_request_free(f->request);
    buf_deinit(&f->out);
    free(f->choices);
    free(f->last_ns);
    free(f->prompts);
    free(f->body);
    list_del(&f->node);
    r->n_flights--;
    free(f);
}

static void count_request(const struct flight *f, enum status st)
{
    metric_add(M_requests_total, status_name(st), 1);
    if (f->http != NULL)
        metric_observe(M_e2e_request_latency_seconds, NULL,
                       (double)(time_monotonic_ns() - f->http->received_ns) / 1e9);
}

/* Answers with an error: as a status while nothing is sent, as a last event behind a stream's
 * start. */
static void flight_refuse(struct flight *f, const struct api_error *error)
{
    char wait[16];
    snprintf(wait, sizeof(wait), "%u", error->retry_after_s);
    const struct http_header retry = {"Retry-After", wait};
    f->out.len = 0;
    if (f->begun) {
        if (api_response_error(error, &f->out) == ST_OK)
            http_respond_write(f->http, f->out.data, f->out.len);
        http_respond_end(f->http);
    } else if (api_error_write(error, &f->out) == ST_OK) {
        http_respond(f->http, error->http_code, "application/json", f->out.data, f->out.len, &retry,
                     error->retry_after_s > 0);
    } else {
        http_respond_abort(f->http);
    }
    f->http = NULL;
}

static void flight_fail(struct flight *f, enum status st)
{
    struct api_error error;
    api_error_from_status(st, &error);
    count_request(f, st);
    if (f->http != NULL)
        flight_refuse(f, &error);
    flight_free(f);
}

/* ---- start ---- */

/* The tenant's cache salt: a hash, so that any text fits. */
static void salt_of(const struct flight *f, uint8_t out[16])
{
    uint8_t digest[32];
    const char *text = f->request->cache_salt != NULL ? f->request->cache_salt : "";
    hash_sha256(text, strlen(text), digest);
    memcpy(out, digest, 16);
}

static enum status flight_make(struct flight *f)
{
    const struct api_request *q = f->request;
    f->n_choices = q->n_prompts * q->n_choices;
    f->choices = calloc(f->n_choices, sizeof(*f->choices));
    f->last_ns = calloc(f->n_choices, sizeof(*f->last_ns));
    f->prompts = calloc(q->n_prompts, sizeof(*f->prompts));
    if (f->choices == NULL || f->last_ns == NULL || f->prompts == NULL)
        return ST_NO_MEMORY;
    for (; f->n_choices_made < f->n_choices; f->n_choices_made++) {
        enum status st = api_choice_init(&f->choices[f->n_choices_made], q,
                                         f->router->text.tokenizer, f->n_choices_made);
        if (st != ST_OK)
            return st;
    }
    enum status st =
        api_response_init(&f->response, q, f->http->id, f->router->api.model, SYSTEM_FINGERPRINT);
    f->response_made = st == ST_OK;
    return st;
}

static enum status flight_submit(struct flight *f)
{
    struct router *r = f->router;
    const struct api_request *q = f->request;
    uint64_t now = time_monotonic_ns(), seed = q->has_seed ? q->sampling.seed : rng_u64(&r->rng);
    for (uint32_t i = 0; i < q->n_prompts; i++) {
        struct router_request req = {
            .tokens = q->prompts[i].tokens,
            .n_tokens = q->prompts[i].n_tokens,
            .n_choices = q->n_choices,
            .sampling = q->sampling,
            .deadline_ns = now + r->config->router.request_timeout_ms * NS_PER_MS,
            .tag = (uint64_t)(uintptr_t)&f->prompts[i],
        };
        req.sampling.seed = seed;
        salt_of(f, req.salt);
        f->prompts[i].flight = f;
        f->prompts[i].index = i;
        enum status st = router_core_submit(r->core, now, &req, &f->prompts[i].id);
        if (st != ST_OK)
            return st;
        f->n_prompts_live++;
        metric_add(M_prompt_tokens_total, NULL, q->prompts[i].n_tokens);
    }
    return ST_OK;
}

static void flight_parsed(struct flight *f)
{
    if (f->http == NULL) { /* gone while it was parsed */
        flight_free(f);
        return;
    }
    if (f->parse_status != ST_OK) {
        count_request(f, f->parse_status);
        flight_refuse(f, &f->error);
        flight_free(f);
        return;
    }
    enum status st = flight_make(f);
    if (st == ST_OK)
        st = flight_submit(f);
    if (st != ST_OK)
        flight_fail(f, st);
}

static void flight_parse(struct flight *f)
{
    const char *body = f->body != NULL ? f->body : f->http->body;
    f->parse_status = api_request_parse(&f->router->api, f->endpoint, body, f->body_bytes,
                                        &f->request, &f->error);
}

static void on_parse_work(uv_work_t *work)
{
    flight_parse(work->data);
}

static void on_parse_done(uv_work_t *work, int rc)
{
    struct flight *f = work->data;
    struct router *r = f->router;
    (void)rc;
    f->in_work = false;
    flight_parsed(f);
    router_pump(r);
}

void flight_start(struct router *r, struct http_request *req, enum api_endpoint endpoint)
{
    struct flight *f = calloc(1, sizeof(*f));
    if (f == NULL) {
        http_respond_error(req, 503, status_name(ST_NO_MEMORY), status_text(ST_NO_MEMORY), NULL, 0);
        return;
    }
    f->router = r;
    f->http = req;
    f->endpoint = endpoint;
    f->work.data = f;
    req->user = f;
    buf_init(&f->out, ANSWER_BYTES_MAX);
    list_add_tail(&r->flights, &f->node);
    r->n_flights++;
    f->body_bytes = req->body_bytes;
    if (req->body_bytes <= PARSE_INLINE_BYTES) {
        flight_parse(f);
        flight_parsed(f);
        return;
    }
    /* The client may go, and its connection's memory with it, while another thread parses. */
    f->body = malloc(req->body_bytes + 1);
    if (f->body != NULL) {
        memcpy(f->body, req->body, req->body_bytes + 1);
        f->in_work = uv_queue_work(&r->loop, &f->work, on_parse_work, on_parse_done) == 0;
    }
    if (!f->in_work)
        flight_fail(f, ST_NO_MEMORY);
}

void flight_client_gone(struct flight *f)
{
    metric_add(M_disconnected_clients_total, NULL, 1);
    count_request(f, ST_CANCELLED);
    f->http = NULL;
    if (!f->in_work)
        flight_free(f);
}

/* ---- answers ---- */

static struct api_usage flight_usage(const struct flight *f)
{
    struct api_usage usage = {.completion_tokens = f->completion_tokens};
    for (uint32_t i = 0; i < f->request->n_prompts; i++) {
        usage.prompt_tokens += f->request->prompts[i].n_tokens;
        usage.cached_tokens += f->prompts[i].cached_tokens;
    }
    return usage;
}

/* Writes what is in f->out to the stream. False: the flight is gone. */
static bool flight_stream(struct flight *f)
{
    enum status st = ST_OK;
    if (f->out.len == 0)
        return true;
    if (!f->begun) {
        st = http_respond_begin(f->http, 200, "text/event-stream", NULL, 0);
        f->begun = true;
    }
    if (st == ST_OK)
        st = http_respond_write(f->http, f->out.data, f->out.len);
    f->out.len = 0;
    if (st == ST_OK || st == ST_PEER_LOST) /* lost: on_request_closed is on its way */
        return true;
    log_warn("client reads too slowly, cut off", LOG_STR("request", f->http->id));
    count_request(f, ST_TIMEOUT);
    http_respond_abort(f->http);
    f->http = NULL;
    flight_free(f);
    return false;
}

static void flight_end(struct flight *f)
{
    struct api_usage usage = flight_usage(f);
    count_request(f, ST_OK);
    f->out.len = 0;
    if (f->request->stream) {
        if (api_response_end(&f->response, &usage, &f->out) == ST_OK && !flight_stream(f))
            return;
        http_respond_end(f->http);
    } else if (api_response_full(&f->response, f->choices, f->n_choices, &usage, &f->out) ==
               ST_OK) {
        http_respond(f->http, 200, "application/json", f->out.data, f->out.len, NULL, 0);
    } else {
        http_respond_abort(f->http);
    }
    f->http = NULL;
    flight_free(f);
}

static void observe_tokens(struct flight *f, uint32_t choice, uint32_t n_tokens)
{
    uint64_t now = time_monotonic_ns();
    if (n_tokens == 0)
        return;
    f->completion_tokens += n_tokens;
    metric_add(M_generation_tokens_total, NULL, n_tokens);
    if (f->last_ns[choice] != 0)
        metric_observe(M_inter_token_latency_seconds, NULL,
                       (double)(now - f->last_ns[choice]) / 1e9);
    else
        metric_observe(M_time_to_first_token_seconds, NULL,
                       (double)(now - f->http->received_ns) / 1e9);
    f->last_ns[choice] = now;
}

static void flight_tokens(struct flight_prompt *p, const struct router_action *act)
{
    struct flight *f = p->flight;
    uint32_t index = p->index * f->request->n_choices + act->choice;
    struct api_choice_stream *choice = &f->choices[index];
    bool stopped = false;
    p->cached_tokens = act->cached_tokens;
    observe_tokens(f, index, act->n_tokens);
    enum status st = api_choice_push(choice, act->tokens, act->n_tokens,
                                     (enum wire_finish)act->finish, &stopped);
    if (st == ST_OK && f->request->stream) {
        struct api_usage usage = flight_usage(f);
        st = api_response_chunk(&f->response, choice, &usage, &f->out);
    }
    if (st != ST_OK) {
        flight_fail(f, st);
        return;
    }
    uint64_t id = p->id;
    struct router *r = f->router;
    uint32_t number = act->choice;
    if (f->request->stream && !flight_stream(f))
        return;
    if (stopped)
        router_core_stop(r->core, time_monotonic_ns(), id, number);
}

void flight_action(const struct router_action *act)
{
    struct flight_prompt *p = (struct flight_prompt *)(uintptr_t)act->tag;
    struct flight *f = p->flight;
    switch (act->kind) {
    case ROUTER_TOKENS:
        flight_tokens(p, act);
        return;
    case ROUTER_DONE:
        p->id = 0;
        p->cached_tokens = act->cached_tokens;
        if (--f->n_prompts_live == 0)
            flight_end(f);
        return;
    case ROUTER_FAIL:
        p->id = 0;
        flight_fail(f, act->status);
        return;
    case ROUTER_SEND:
    case ROUTER_DROP:
        return;
    }
}

void flights_fail_all(struct router *r, enum status st)
{
    struct list *node, *next;
    list_for_each_safe(node, next, &r->flights)
    {
        struct flight *f = list_entry(node, struct flight, node);
        if (!f->in_work)
            flight_fail(f, st);
    }
}
