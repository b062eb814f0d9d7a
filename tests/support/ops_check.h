/* For tests/ops: a device per ISA, seeded data, poisoned outputs, comparison with a reference. */
#ifndef TESTS_OPS_CHECK_H
#define TESTS_OPS_CHECK_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "device/device.h"

#define FOR_EACH_ISA(isa)                                                                          \
    for (enum cpu_isa isa = CPU_ISA_SCALAR; isa <= cpu_isa_best(); isa = (enum cpu_isa)(isa + 1))

static inline struct device *ops_open(enum cpu_isa isa, uint32_t n_threads)
{
    struct device *dev = NULL;
    struct device_opts opts = {.n_threads = n_threads, .isa = isa};
    assert_int_equal(device_open(DEVICE_CPU, &opts, &dev), ST_OK);
    return dev;
}

/* 64-byte aligned, every byte 0xff: NaN as f32, bf16, f16 and e4m3. The end is exact, for ASan. */
static inline void *ops_poisoned(size_t bytes)
{
    void *ptr = NULL;
    assert_int_equal(posix_memalign(&ptr, 64, bytes > 0 ? bytes : 1), 0);
    memset(ptr, 0xff, bytes);
    return ptr;
}

static inline float *ops_floats(size_t n)
{
    return (float *)ops_poisoned(n * sizeof(float));
}

/* xorshift64*: enough for test data. */
static inline float ops_random(uint64_t *state)
{
    uint64_t x = *state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *state = x;
    return (float)(int32_t)((x * 0x2545f4914f6cdd1dull) >> 40) * 0x1p-23f - 1.0f;
}

static inline float *ops_random_floats(size_t n, uint64_t seed)
{
    float *v = ops_floats(n);
    uint64_t state = seed * 0x9e3779b97f4a7c15ull + 1;
    for (size_t i = 0; i < n; i++)
        v[i] = ops_random(&state);
    return v;
}

static inline uint16_t ops_bf16(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

static inline float ops_bf16_value(uint16_t h)
{
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}

static inline float ops_round(float f, enum ops_dtype dtype)
{
    return dtype == OPS_BF16 ? ops_bf16_value(ops_bf16(f)) : f;
}

/* Fails unless |got - want| <= tolerance; a NaN fails. */
static inline void ops_assert_near(double got, double want, double tolerance, const char *what,
                                   size_t i)
{
    if (!(fabs(got - want) <= tolerance))
        fail_msg("%s[%zu]: %.9g, expected %.9g +- %.3g", what, i, got, want, tolerance);
}

static inline void ops_assert_poison(const float *v, size_t n, const char *what)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t u;
        memcpy(&u, v + i, 4);
        if (u != UINT32_MAX)
            fail_msg("%s: element %zu behind the output was written", what, i);
    }
}

#endif
