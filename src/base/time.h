/* Clocks, for the loops and tools. The two cores take the time as an argument instead. */
#ifndef BASE_TIME_H
#define BASE_TIME_H

#include <stdint.h>

#define NS_PER_US 1000ull
#define NS_PER_MS 1000000ull
#define NS_PER_S  1000000000ull

uint64_t time_monotonic_ns(void);
uint64_t time_unix_s(void);
/* RFC 3339 UTC with milliseconds into out (at least 32 bytes). */
void time_rfc3339(char *out, uint64_t out_bytes);

#endif
