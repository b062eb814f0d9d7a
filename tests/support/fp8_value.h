/* For tests: e4m3 by its definition, independent of the kernels' conversions. */
#ifndef TESTS_FP8_VALUE_H
#define TESTS_FP8_VALUE_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>

/* The value of e4m3 bits; NaN for 0x7f and 0xff. */
static inline float fp8_value(uint8_t bits)
{
    int exponent = bits >> 3 & 15, mantissa = bits & 7;
    if (exponent == 15 && mantissa == 7)
        return NAN;
    float value =
        exponent == 0 ? ldexpf((float)mantissa, -9) : ldexpf((float)(8 + mantissa), exponent - 10);
    return bits >> 7 ? -value : value;
}

/* The nearest e4m3, of two the even one, at most 448: by search, for finite values. */
static inline uint8_t fp8_nearest(float value)
{
    uint8_t low = 0, high = 0x7e, sign = signbit(value) ? 0x80 : 0;
    float size = fabsf(value);
    if (size >= fp8_value(high))
        return sign | high;
    while (high - low > 1) {
        uint8_t middle = (uint8_t)((low + high) / 2);
        if (fp8_value(middle) <= size)
            low = middle;
        else
            high = middle;
    }
    double below = (double)size - fp8_value(low), above = fp8_value(high) - (double)size;
    bool up = above < below || (above == below && low % 2 == 1);
    return sign | (up ? high : low);
}

#endif
