/* Inside of the load generator: load.c drives, load_stream.c reads event streams, load_report.c
 * reports. One thread. */
#ifndef BENCH_LOAD_INT_H
#define BENCH_LOAD_INT_H

#include "base/buf.h"
#include "base/hash.h"
#include "base/philox.h"
#include "engine/hash_expect.h"

#include <curl/curl.h>
#include <stdbool.h>
#include <stdint.h>

struct load_options {
    char url[512];
    char model[128];
    uint32_t concurrency; /* closed loop */
    double rate;          /* open loop, requests/s; 0: closed */
    uint32_t requests, warmup;
    double duration_s; /* 0: until `requests` are done */
    uint32_t isl, osl;
    bool uniform;         /* lengths uniform in [0.8 L, L] */
    double shared_prefix; /* share of the prompt that all requests have in common */
    uint32_t vocab_size;
    bool check_hash;
    uint32_t hash_layers;
    double cancel; /* share of requests that are broken off at a random moment */
    double temperature;
    uint64_t seed;
    double slo_ttft_ms, slo_tpot_ms; /* 0: none */
    double timeout_s;
    const char *json_path;
    bool quiet;
};

struct samples {
    double *v;
    size_t n, cap;
};

struct load_totals {
    uint64_t started, done, cancelled, wrong, short_streams, http_errors, stream_errors,
        transport_errors, timeouts, prompt_tokens, output_tokens, good;
    struct samples ttft, tpot, itl, e2e; /* ms */
    double start_s, end_s;
};

/* One request slot with its connection. */
struct load_request {
    CURL *easy;
    bool busy, measured;
    uint32_t isl, osl, n_tokens;
    uint64_t seed;
    double start_s, first_s, last_s;
    double cancel_after_s;  /* 0: not by time */
    uint32_t cancel_tokens; /* broken off when so many have come; 0: not */
    bool cancelled, wrong, done_seen, finish_seen, error_seen;
    uint32_t *prompt; /* [isl] */
    struct buf body;  /* sent */
    struct buf line;  /* partial event */
    struct hash_expect expect;
    struct load *load;
};

struct load {
    struct load_options o;
    struct load_totals t;
    struct load_request *slots;
    uint32_t n_slots, n_busy;
    CURLM *multi;
    struct curl_slist *headers;
    double ttft_s; /* of late, a moving mean */
    struct rng rng;
    uint32_t *shared; /* the common prefix */
    bool measuring;
    char first_error[256];
};

double load_now_s(void);
void samples_add(struct samples *s, double value);
/* Curl write callback: user is a struct load_request. */
size_t load_on_data(char *data, size_t size, size_t n, void *user);
void load_report(const struct load *load);

#endif
