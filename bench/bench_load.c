/* Drives the load: starts requests by concurrency or by a Poisson clock, ends them, counts. */
#include "bench_load.h"

#include "load_int.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define OPEN_LOOP_SLOTS 4096u

double load_now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static const char usage_text[] =
    "usage: dynd-bench load [--url URL] [--model NAME] [--concurrency N | --rate R]\n"
    "  [--requests N | --duration S] [--warmup N] [--isl L] [--osl L] [--uniform 1]\n"
    "  [--shared-prefix SHARE] [--vocab-size N] [--temperature T] [--seed N] [--cancel SHARE]\n"
    "  [--check-hash 1] [--hash-layers N] [--slo-ttft MS] [--slo-tpot MS] [--timeout S]\n"
    "  [--json FILE] [--quiet 1]\n";

struct option_row {
    const char *name;
    enum { OPT_U32, OPT_U64, OPT_DOUBLE, OPT_BOOLEAN, OPT_TEXT, OPT_URL, OPT_MODEL } kind;
    size_t offset;
};

static const struct option_row option_rows[] = {
    {"--url", OPT_URL, 0},
    {"--model", OPT_MODEL, 0},
    {"--concurrency", OPT_U32, offsetof(struct load_options, concurrency)},
    {"--rate", OPT_DOUBLE, offsetof(struct load_options, rate)},
    {"--requests", OPT_U32, offsetof(struct load_options, requests)},
    {"--duration", OPT_DOUBLE, offsetof(struct load_options, duration_s)},
    {"--warmup", OPT_U32, offsetof(struct load_options, warmup)},
    {"--isl", OPT_U32, offsetof(struct load_options, isl)},
    {"--osl", OPT_U32, offsetof(struct load_options, osl)},
    {"--uniform", OPT_BOOLEAN, offsetof(struct load_options, uniform)},
    {"--shared-prefix", OPT_DOUBLE, offsetof(struct load_options, shared_prefix)},
    {"--vocab-size", OPT_U32, offsetof(struct load_options, vocab_size)},
    {"--check-hash", OPT_BOOLEAN, offsetof(struct load_options, check_hash)},
    {"--hash-layers", OPT_U32, offsetof(struct load_options, hash_layers)},
    {"--cancel", OPT_DOUBLE, offsetof(struct load_options, cancel)},
    {"--temperature", OPT_DOUBLE, offsetof(struct load_options, temperature)},
    {"--seed", OPT_U64, offsetof(struct load_options, seed)},
    {"--slo-ttft", OPT_DOUBLE, offsetof(struct load_options, slo_ttft_ms)},
    {"--slo-tpot", OPT_DOUBLE, offsetof(struct load_options, slo_tpot_ms)},
    {"--timeout", OPT_DOUBLE, offsetof(struct load_options, timeout_s)},
    {"--json", OPT_TEXT, offsetof(struct load_options, json_path)},
    {"--quiet", OPT_BOOLEAN, offsetof(struct load_options, quiet)},
};

static bool option_set(struct load_options *o, const struct option_row *row, const char *text)
{
    char *at = (char *)o + row->offset, *end = NULL;
    switch (row->kind) {
    case OPT_U32:
        *(uint32_t *)at = (uint32_t)strtoul(text, &end, 10);
        break;
    case OPT_U64:
        *(uint64_t *)at = strtoull(text, &end, 10);
        break;
    case OPT_DOUBLE:
        *(double *)at = strtod(text, &end);
        break;
    case OPT_BOOLEAN:
        *(bool *)at = strtoul(text, &end, 10) != 0;
        break;
    case OPT_TEXT:
        *(const char **)at = text;
        return true;
    case OPT_URL:
        return snprintf(o->url, sizeof(o->url), "%s", text) < (int)sizeof(o->url);
    case OPT_MODEL:
        return snprintf(o->model, sizeof(o->model), "%s", text) < (int)sizeof(o->model);
    }
    return end != text && *end == '\0';
}

static bool parse_options(int argc, char **argv, struct load_options *o)
{
    for (int i = 1; i < argc; i += 2) {
        const struct option_row *row = NULL;
        for (size_t k = 0; k < sizeof(option_rows) / sizeof(*option_rows); k++)
            if (strcmp(argv[i], option_rows[k].name) == 0)
                row = &option_rows[k];
        if (row == NULL || i + 1 == argc || !option_set(o, row, argv[i + 1])) {
            fprintf(stderr, "dynd-bench load: %s: %s\n", argv[i],
                    row == NULL ? "unknown option" : "needs a value of its kind");
            return false;
        }
    }
    if (o->concurrency == 0 || o->isl == 0 || o->osl == 0 || o->vocab_size == 0 ||
        o->hash_layers == 0 || o->hash_layers > HASH_LAYERS_MAX) {
        fprintf(
            stderr,
            "dynd-bench load: --concurrency, --isl, --osl, --vocab-size and --hash-layers must be "
            "at least 1\n");
        return false;
    }
    return true;
}

/* ---- requests ---- */

static uint32_t length_draw(struct load *load, uint32_t l)
{
    uint32_t low = load->o.uniform ? (uint32_t)((double)l * 0.8) : l;
    return (low > 0 ? low : 1) + rng_below(&load->rng, l - (low > 0 ? low : 1) + 1);
}

static void prompt_draw(struct load *load, struct load_request *r)
{
    uint32_t n_shared = (uint32_t)(load->o.shared_prefix * r->isl);
    static const uint8_t salt_text[1];
    for (uint32_t i = 0; i < r->isl; i++)
        r->prompt[i] = i < n_shared ? load->shared[i] : rng_below(&load->rng, load->o.vocab_size);
    if (!load->o.check_hash)
        return;
    uint8_t digest[32];
    hash_sha256(salt_text, 0, digest); /* the salt of a request without cache_salt */
    hash_expect_init(&r->expect, load->o.hash_layers, load->o.vocab_size, digest);
    for (uint32_t i = 0; i < r->isl; i++)
        hash_expect_push(&r->expect, r->prompt[i]);
}

static bool body_write(struct load *load, struct load_request *r)
{
    r->body.len = 0;
    buf_printf(
        &r->body,
        "{\"model\":\"%s\",\"max_tokens\":%u,\"temperature\":%g,\"seed\":%llu,\"stream\":true,"
        "\"ignore_eos\":true,\"return_token_ids\":true,\"prompt\":[",
        load->o.model, r->osl, load->o.temperature, (unsigned long long)r->seed);
    for (uint32_t i = 0; i < r->isl; i++)
        buf_printf(&r->body, "%s%u", i > 0 ? "," : "", r->prompt[i]);
    return buf_append_str(&r->body, "]}") == ST_OK;
}

/* Half of the broken-off requests end at a moment before their first token, as far as the TTFT so
 * far tells, and the others after some of their tokens. */
static void cancel_draw(struct load *load, struct load_request *r)
{
    r->cancel_tokens = 1;
    if (rng_unit(&load->rng) < 0.5)
        r->cancel_after_s = 1e-9 + rng_unit(&load->rng) * load->ttft_s;
    else if (r->osl > 1)
        r->cancel_tokens = 1 + rng_below(&load->rng, r->osl - 1);
}

static void request_start(struct load *load, struct load_request *r)
{
    struct load_request keep = *r;
    *r = (struct load_request){.easy = keep.easy,
                               .prompt = keep.prompt,
                               .body = keep.body,
                               .line = keep.line,
                               .load = load};
    r->line.len = 0;
    r->busy = true;
    r->measured = load->measuring;
    r->isl = length_draw(load, load->o.isl);
    r->osl = length_draw(load, load->o.osl);
    r->seed = rng_u64(&load->rng) >> 12; /* fits a JSON number of any reader */
    prompt_draw(load, r);
    if (rng_unit(&load->rng) < load->o.cancel)
        cancel_draw(load, r);
    if (!body_write(load, r))
        exit(2);
    curl_easy_setopt(r->easy, CURLOPT_POSTFIELDS, (const char *)r->body.data);
    curl_easy_setopt(r->easy, CURLOPT_POSTFIELDSIZE, (long)r->body.len);
    r->start_s = load_now_s();
    load->n_busy++;
    if (r->measured)
        load->t.started++;
    curl_multi_add_handle(load->multi, r->easy);
}

static void request_count(struct load *load, struct load_request *r, CURLcode rc, long code)
{
    struct load_totals *t = &load->t;
    double now = load_now_s();
    t->wrong += r->wrong;
    if (r->cancelled) {
        t->cancelled++;
    } else if (rc == CURLE_OPERATION_TIMEDOUT) {
        t->timeouts++;
    } else if (rc != CURLE_OK) {
        t->transport_errors++;
        snprintf(load->first_error, sizeof(load->first_error), "%s", curl_easy_strerror(rc));
    } else if (code != 200) {
        t->http_errors++;
        snprintf(load->first_error, sizeof(load->first_error), "HTTP %ld: %.*s", code,
                 (int)(r->line.len < 200 ? r->line.len : 200), (const char *)r->line.data);
    } else if (r->error_seen) {
        t->stream_errors++;
    } else if (!r->done_seen || !r->finish_seen || r->n_tokens != r->osl) {
        t->short_streams++;
        snprintf(load->first_error, sizeof(load->first_error), "stream of %u tokens ended after %u",
                 r->osl, r->n_tokens);
    } else {
        double ttft = (r->first_s - r->start_s) * 1e3;
        double tpot = r->n_tokens > 1 ? (r->last_s - r->first_s) * 1e3 / (r->n_tokens - 1) : 0;
        t->done++;
        t->prompt_tokens += r->isl;
        t->output_tokens += r->n_tokens;
        samples_add(&t->ttft, ttft);
        samples_add(&t->e2e, (now - r->start_s) * 1e3);
        if (r->n_tokens > 1)
            samples_add(&t->tpot, tpot);
        t->good += (load->o.slo_ttft_ms <= 0 || ttft <= load->o.slo_ttft_ms) &&
                   (load->o.slo_tpot_ms <= 0 || tpot <= load->o.slo_tpot_ms);
    }
    t->end_s = now;
}

static void request_end(struct load *load, struct load_request *r, CURLcode rc)
{
    long code = 0;
    curl_easy_getinfo(r->easy, CURLINFO_RESPONSE_CODE, &code);
    curl_multi_remove_handle(load->multi, r->easy);
    r->busy = false;
    load->n_busy--;
    if (r->measured)
        request_count(load, r, rc, code);
}

static bool slots_make(struct load *load)
{
    load->n_slots = load->o.rate > 0 ? OPEN_LOOP_SLOTS : load->o.concurrency;
    load->slots = calloc(load->n_slots, sizeof(*load->slots));
    load->shared = calloc(load->o.isl, sizeof(uint32_t));
    if (load->slots == NULL)
        load->n_slots = 0;
    if (load->slots == NULL || load->shared == NULL)
        return false;
    for (uint32_t i = 0; i < load->o.isl; i++)
        load->shared[i] = rng_below(&load->rng, load->o.vocab_size);
    load->headers = curl_slist_append(NULL, "Content-Type: application/json");
    if (load->headers == NULL)
        return false;
    for (uint32_t i = 0; i < load->n_slots; i++) {
        struct load_request *r = &load->slots[i];
        r->load = load;
        r->prompt = calloc(load->o.isl, sizeof(uint32_t));
        buf_init(&r->body, 64u << 20);
        buf_init(&r->line, 64u << 20);
        r->easy = curl_easy_init();
        if (r->prompt == NULL || r->easy == NULL)
            return false;
        curl_easy_setopt(r->easy, CURLOPT_URL, load->o.url);
        curl_easy_setopt(r->easy, CURLOPT_HTTPHEADER, load->headers);
        curl_easy_setopt(r->easy, CURLOPT_WRITEFUNCTION, load_on_data);
        curl_easy_setopt(r->easy, CURLOPT_WRITEDATA, r);
        curl_easy_setopt(r->easy, CURLOPT_PRIVATE, r);
        curl_easy_setopt(r->easy, CURLOPT_TIMEOUT_MS, (long)(load->o.timeout_s * 1e3));
        curl_easy_setopt(r->easy, CURLOPT_NOPROXY, "*");
        curl_easy_setopt(r->easy, CURLOPT_NOSIGNAL, 1L);
    }
    return true;
}

static void load_free(struct load *load)
{
    for (uint32_t i = 0; i < load->n_slots; i++) {
        struct load_request *r = &load->slots[i];
        curl_easy_cleanup(r->easy);
        buf_deinit(&r->body);
        buf_deinit(&r->line);
        free(r->prompt);
    }
    struct load_totals *t = &load->t;
    free(t->ttft.v);
    free(t->tpot.v);
    free(t->itl.v);
    free(t->e2e.v);
    free(load->slots);
    free(load->shared);
    curl_slist_free_all(load->headers);
    curl_multi_cleanup(load->multi);
    curl_global_cleanup();
    free(load);
}

/* ---- the loop ---- */

static void finished_collect(struct load *load)
{
    CURLMsg *msg;
    int left;
    while ((msg = curl_multi_info_read(load->multi, &left)) != NULL) {
        struct load_request *r = NULL;
        CURLcode rc = msg->data.result;
        curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, (char **)&r);
        request_end(load, r, rc);
    }
    double now = load_now_s();
    for (uint32_t i = 0; i < load->n_slots && load->o.cancel > 0; i++) {
        struct load_request *r = &load->slots[i];
        if (r->busy && r->cancel_after_s > 0 && now - r->start_s >= r->cancel_after_s) {
            r->cancelled = true;
            request_end(load, r, CURLE_ABORTED_BY_CALLBACK);
        }
    }
}

static void progress_draw(const struct load *load, uint32_t n_started, uint32_t n_total, bool last)
{
    static double drawn_s;
    double now = load_now_s();
    if (load->o.quiet || !isatty(STDERR_FILENO) || (now - drawn_s < 0.1 && !last))
        return;
    drawn_s = now;
    uint32_t full = n_total > 0 ? 30u * n_started / n_total : 0;
    fprintf(stderr, "\r[%.*s%.*s] %u/%u, %u under way %s", (int)full,
            "##############################", (int)(30 - full), "..............................",
            n_started, n_total, load->n_busy, last ? "\n" : "");
}

/* Runs n requests (or for a time) and waits for the last. */
static void load_run(struct load *load, uint32_t n_total, double duration_s)
{
    uint32_t n_started = 0;
    int running;
    double start = load_now_s(), next = start;
    load->t.start_s = start;
    while (n_started < n_total || load->n_busy > 0) {
        double now = load_now_s();
        bool time_up = duration_s > 0 && now - start >= duration_s;
        if (time_up)
            n_total = n_started;
        for (uint32_t i = 0; i < load->n_slots && n_started < n_total; i++) {
            if (load->slots[i].busy)
                continue;
            if (load->o.rate > 0) {
                if (now < next)
                    break;
                next += -log(1 - rng_unit(&load->rng)) / load->o.rate;
            }
            request_start(load, &load->slots[i]);
            n_started++;
        }
        curl_multi_perform(load->multi, &running);
        finished_collect(load);
        progress_draw(load, n_started, n_total, false);
        double wait_s = load->o.rate > 0 && n_started < n_total ? next - load_now_s() : 0.1;
        if (load->o.cancel > 0 && wait_s > 0.001)
            wait_s = 0.001;
        if (load->n_busy > 0 || load->o.rate > 0)
            curl_multi_poll(load->multi, NULL, 0, wait_s > 0 ? (int)(wait_s * 1e3) : 0, NULL);
    }
    progress_draw(load, n_started, n_total, true);
}

int bench_load(int argc, char **argv)
{
    struct load *load = calloc(1, sizeof(*load));
    if (load == NULL)
        return 2;
    load->o = (struct load_options){.url = "http://127.0.0.1:8000/v1/completions",
                                    .model = "dynd-tiny",
                                    .concurrency = 8,
                                    .requests = 100,
                                    .isl = 128,
                                    .osl = 32,
                                    .vocab_size = 4096,
                                    .hash_layers = 4,
                                    .seed = 1,
                                    .timeout_s = 120};
    if (argc == 2 && strcmp(argv[1], "--help") == 0) {
        fputs(usage_text, stdout);
        free(load);
        return 0;
    }
    if (!parse_options(argc, argv, &load->o)) {
        fputs(usage_text, stderr);
        free(load);
        return 2;
    }
    load->rng.seed = load->o.seed;
    curl_global_init(CURL_GLOBAL_DEFAULT);
    load->multi = curl_multi_init();
    int exit_code = 2;
    if (load->multi != NULL && slots_make(load)) {
        curl_multi_setopt(load->multi, CURLMOPT_MAXCONNECTS, (long)load->n_slots);
        load_run(load, load->o.warmup, 0);
        load->measuring = true;
        load_run(load, load->o.duration_s > 0 ? UINT32_MAX : load->o.requests, load->o.duration_s);
        load_report(load);
        const struct load_totals *t = &load->t;
        bool ok = t->wrong + t->http_errors + t->stream_errors + t->transport_errors + t->timeouts +
                      t->short_streams ==
                  0;
        exit_code = ok ? 0 : 1;
    }
    load_free(load);
    return exit_code;
}
