/* What the benchmarks share. */
#ifndef BENCH_COMMON_H
#define BENCH_COMMON_H

#include "device/device.h"

#include <stdbool.h>
#include <stdint.h>

#define BENCH_LIST_MAX 16u

double bench_now_s(void); /* of a clock that only goes forward */

/* Sorts and answers the one in the middle; n at least 1. */
double bench_median(double *values, uint32_t n);

/* "1,8,64"; how many, 0 when the text is something else. */
uint32_t bench_list_parse(const char *text, uint32_t out[BENCH_LIST_MAX]);
uint32_t bench_list_max(const uint32_t *list, uint32_t n); /* 0 for an empty list */

/* Options that benchmarks of a model have in common. */
struct bench_common {
    const char *model;
    enum device_kind device;
    uint32_t threads;
    double gbps, tflops, fp8_tflops; /* limits */
};
/* Limits from the ceilings of the run, or those of an H200. */
struct bench_common bench_common_default(void);
/* False: the option is none of these. */
bool bench_common_parse(struct bench_common *o, const char *name, const char *value);

/* The last part of a path: a model is named by its folder. */
const char *bench_name_of(const char *path);

#endif
