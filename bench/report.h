/* Rows for the one table of bench/gpu/run. Each program of the benchmark appends what it measured
 * to the file that DYND_BENCH_ROWS names, and finds the ceilings of the run, measured first, in the
 * environment; run alone it finds neither and only prints. In the common subset of C and C++. */
#ifndef BENCH_REPORT_H
#define BENCH_REPORT_H

#include <stdio.h>
#include <stdlib.h>

/* Appends a line: who, what, value, unit, limit, with tabs between. `what` is the key that figures
 * of peers are found by.
 * who    NULL: dynd; else the peer that was measured in its place, who needs no limit
 * unit   "us", "ms", "s": less is better; any other: more is
 * limit  the best that the ceilings allow, in the same unit; 0: none */
static inline void report_row(const char *who, const char *what, double value, const char *unit,
                              double limit)
{
    const char *path = getenv("DYND_BENCH_ROWS");
    FILE *file = path != NULL && path[0] != '\0' ? fopen(path, "a") : NULL;
    if (file == NULL)
        return;
    fprintf(file, "%s\t%s\t%.6g\t%s\t%.6g\n", who != NULL ? who : "dynd", what, value, unit, limit);
    fclose(file);
}

/* A ceiling of the run by its variable's name: DYND_BENCH_COPY_GBPS, DYND_BENCH_BF16_TFLOPS,
 * DYND_BENCH_FP8_TFLOPS; `otherwise` when there is none. */
static inline double report_ceiling(const char *name, double otherwise)
{
    const char *text = getenv(name);
    double value = text != NULL ? strtod(text, NULL) : 0;
    return value > 0 ? value : otherwise;
}

/* The limit of a kernel in microseconds: the longer of its bytes at the rate of a large copy (read
 * plus written; reading alone goes some 8 % faster) and its operations at the rate of large matrix
 * products. 0 without ceilings. */
static inline double report_limit_us(double bytes, double bf16_flop, double fp8_flop)
{
    double gbps = report_ceiling("DYND_BENCH_COPY_GBPS", 0);
    double bf16 = report_ceiling("DYND_BENCH_BF16_TFLOPS", 0);
    double fp8 = report_ceiling("DYND_BENCH_FP8_TFLOPS", bf16);
    if (gbps <= 0 || bf16 <= 0)
        return 0;
    double read_us = bytes / gbps * 1e-3, compute_us = (bf16_flop / bf16 + fp8_flop / fp8) * 1e-6;
    return read_us > compute_us ? read_us : compute_us;
}

#endif
