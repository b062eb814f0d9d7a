#include "base/time.h"

#include <stdio.h>
#include <time.h>

static struct timespec clock_read(clockid_t clock)
{
    struct timespec now = {0};
    clock_gettime(clock, &now);
    return now;
}

uint64_t time_monotonic_ns(void)
{
    struct timespec now = clock_read(CLOCK_MONOTONIC);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

uint64_t time_unix_s(void)
{
    return (uint64_t)clock_read(CLOCK_REALTIME).tv_sec;
}

void time_rfc3339(char *out, uint64_t out_bytes)
{
    struct timespec now = clock_read(CLOCK_REALTIME);
    struct tm utc;
    gmtime_r(&now.tv_sec, &utc);
    snprintf(out, out_bytes, "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ", utc.tm_year + 1900,
             utc.tm_mon + 1, utc.tm_mday, utc.tm_hour, utc.tm_min, utc.tm_sec,
             (int)(now.tv_nsec / 1000000));
}
