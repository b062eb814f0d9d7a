#include "common.h"

#include "report.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

double bench_now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_median(double *values, uint32_t n)
{
    qsort(values, n, sizeof(*values), compare_doubles);
    return values[n / 2];
}

uint32_t bench_list_parse(const char *text, uint32_t out[BENCH_LIST_MAX])
{
    uint32_t n = 0;
    char *end = NULL;
    while (n < BENCH_LIST_MAX && *text != '\0') {
        out[n++] = (uint32_t)strtoul(text, &end, 10);
        text = *end == ',' ? end + 1 : end;
        if (out[n - 1] == 0 || (*end != ',' && *end != '\0'))
            return 0;
    }
    return *text == '\0' ? n : 0;
}

uint32_t bench_list_max(const uint32_t *list, uint32_t n)
{
    uint32_t max = 0;
    for (uint32_t i = 0; i < n; i++)
        max = list[i] > max ? list[i] : max;
    return max;
}

const char *bench_name_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash != NULL && slash[1] != '\0' ? slash + 1 : path;
}

struct bench_common bench_common_default(void)
{
    return (struct bench_common){.gbps = report_ceiling("DYND_BENCH_COPY_GBPS", 4300),
                                 .tflops = report_ceiling("DYND_BENCH_BF16_TFLOPS", 790),
                                 .fp8_tflops = report_ceiling("DYND_BENCH_FP8_TFLOPS", 1400)};
}

bool bench_common_parse(struct bench_common *o, const char *name, const char *value)
{
    if (strcmp(name, "--model") == 0)
        o->model = value;
    else if (strcmp(name, "--device") == 0)
        o->device = strcmp(value, "cuda") == 0 ? DEVICE_CUDA : DEVICE_CPU;
    else if (strcmp(name, "--threads") == 0)
        o->threads = (uint32_t)strtoul(value, NULL, 10);
    else if (strcmp(name, "--gbps") == 0)
        o->gbps = strtod(value, NULL);
    else if (strcmp(name, "--tflops") == 0)
        o->tflops = strtod(value, NULL);
    else if (strcmp(name, "--fp8-tflops") == 0)
        o->fp8_tflops = strtod(value, NULL);
    else
        return false;
    return true;
}
