#include "load_int.h"
#include "report.h"

#include <stdio.h>
#include <stdlib.h>

void samples_add(struct samples *s, double value)
{
    if (s->n == s->cap) {
        size_t cap = s->cap > 0 ? 2 * s->cap : 1024;
        double *v = realloc(s->v, cap * sizeof(*v));
        if (v == NULL)
            return;
        s->v = v;
        s->cap = cap;
    }
    s->v[s->n++] = value;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double mean_of(const struct samples *s)
{
    double sum = 0;
    for (size_t i = 0; i < s->n; i++)
        sum += s->v[i];
    return s->n > 0 ? sum / (double)s->n : 0;
}

/* Nearest rank, of sorted samples. */
static double percentile(const struct samples *s, double p)
{
    if (s->n == 0)
        return 0;
    size_t rank = (size_t)(p / 100 * (double)s->n);
    return s->v[rank < s->n ? rank : s->n - 1];
}

static void row(FILE *json, const char *name, const struct samples *s)
{
    if (s->n > 0)
        qsort(s->v, s->n, sizeof(*s->v), compare);
    printf("%-10s %10.2f %10.2f %10.2f %10.2f\n", name, mean_of(s), percentile(s, 50),
           percentile(s, 90), percentile(s, 99));
    if (json != NULL)
        fprintf(json, ",\"%s_ms\":{\"mean\":%.3f,\"p50\":%.3f,\"p90\":%.3f,\"p99\":%.3f}", name,
                mean_of(s), percentile(s, 50), percentile(s, 90), percentile(s, 99));
}

/* For the table of all benchmarks; the samples are sorted by now. */
static void rows_report(const struct load *load, double seconds)
{
    const struct load_totals *t = &load->t;
    const struct load_options *o = &load->o;
    const struct {
        const char *name, *unit;
        double value;
    } rows[] = {
        {"output", "tokens/s", (double)t->output_tokens / seconds},
        {"TTFT p50", "ms", percentile(&t->ttft, 50)},
        {"TTFT p99", "ms", percentile(&t->ttft, 99)},
        {"ITL p50", "ms", percentile(&t->itl, 50)},
        {"ITL p99", "ms", percentile(&t->itl, 99)},
        {"TPOT p50", "ms", percentile(&t->tpot, 50)},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        char what[192];
        snprintf(what, sizeof(what), "server %s %u/%u concurrency %u %s", o->model, o->isl, o->osl,
                 o->concurrency, rows[i].name);
        report_row(NULL, what, rows[i].value, rows[i].unit, 0);
    }
}

void load_report(const struct load *load)
{
    const struct load_totals *t = &load->t;
    const struct load_options *o = &load->o;
    double seconds = t->end_s - t->start_s;
    uint64_t errors =
        t->http_errors + t->stream_errors + t->transport_errors + t->timeouts + t->short_streams;
    FILE *json = o->json_path != NULL ? fopen(o->json_path, "w") : NULL;
    if (seconds <= 0)
        seconds = 1e-9;
    printf("\nrequests %llu  done %llu  cancelled %llu  errors %llu (http %llu, stream %llu, short "
           "%llu, "
           "transport %llu, timeout %llu)  wrong %llu\n",
           (unsigned long long)t->started, (unsigned long long)t->done,
           (unsigned long long)t->cancelled, (unsigned long long)errors,
           (unsigned long long)t->http_errors, (unsigned long long)t->stream_errors,
           (unsigned long long)t->short_streams, (unsigned long long)t->transport_errors,
           (unsigned long long)t->timeouts, (unsigned long long)t->wrong);
    if (load->first_error[0] != '\0')
        printf("last error: %s\n", load->first_error);
    printf("%.2f s  %.1f requests/s  %.1f prompt tokens/s  %.1f output tokens/s\n\n", seconds,
           (double)t->done / seconds, (double)t->prompt_tokens / seconds,
           (double)t->output_tokens / seconds);
    if (json != NULL)
        fprintf(json,
                "{\"isl\":%u,\"osl\":%u,\"concurrency\":%u,\"rate\":%.3f,\"seconds\":%.3f,\"done\":"
                "%llu,"
                "\"cancelled\":%llu,\"errors\":%llu,\"wrong\":%llu,\"requests_per_s\":%.3f,"
                "\"prompt_tokens_per_s\":%.3f,\"output_tokens_per_s\":%.3f",
                o->isl, o->osl, o->concurrency, o->rate, seconds, (unsigned long long)t->done,
                (unsigned long long)t->cancelled, (unsigned long long)errors,
                (unsigned long long)t->wrong, (double)t->done / seconds,
                (double)t->prompt_tokens / seconds, (double)t->output_tokens / seconds);
    printf("%-10s %10s %10s %10s %10s\n", "ms", "mean", "p50", "p90", "p99");
    row(json, "ttft", &t->ttft);
    row(json, "tpot", &t->tpot);
    row(json, "itl", &t->itl);
    row(json, "e2e", &t->e2e);
    rows_report(load, seconds);
    if (o->slo_ttft_ms > 0 || o->slo_tpot_ms > 0)
        printf("\ngoodput %.1f requests/s (%.1f %% within TTFT %.0f ms and TPOT %.0f ms)\n",
               (double)t->good / seconds,
               t->done > 0 ? 100.0 * (double)t->good / (double)t->done : 0, o->slo_ttft_ms,
               o->slo_tpot_ms);
    if (json != NULL) {
        fprintf(json, ",\"goodput_per_s\":%.3f}\n", (double)t->good / seconds);
        fclose(json);
    }
}
