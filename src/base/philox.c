#include "base/philox.h"

enum { N_ROUNDS = 10 };

static const uint32_t multiplier_0 = 0xd2511f53u, multiplier_1 = 0xcd9e8d57u;
static const uint32_t weyl_0 = 0x9e3779b9u, weyl_1 = 0xbb67ae85u;

void philox4x32(const uint32_t ctr[4], const uint32_t key[2], uint32_t out[4])
{
    uint32_t c0 = ctr[0], c1 = ctr[1], c2 = ctr[2], c3 = ctr[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < N_ROUNDS; round++) {
        uint64_t p0 = (uint64_t)multiplier_0 * c0;
        uint64_t p1 = (uint64_t)multiplier_1 * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += weyl_0;
        k1 += weyl_1;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

float philox_uniform(uint64_t seed, uint32_t choice, uint32_t position)
{
    uint32_t ctr[4] = {position, choice, 0, 0};
    uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    uint32_t out[4];
    philox4x32(ctr, key, out);
    return (float)(out[0] >> 8) * 0x1p-24f;
}

uint64_t rng_u64(struct rng *rng)
{
    /* The third word keeps the stream apart from the sampler's draws under the same seed. */
    uint32_t ctr[4] = {(uint32_t)rng->counter, (uint32_t)(rng->counter >> 32), 1, 0};
    uint32_t key[2] = {(uint32_t)rng->seed, (uint32_t)(rng->seed >> 32)};
    uint32_t out[4];
    philox4x32(ctr, key, out);
    rng->counter++;
    return (uint64_t)out[1] << 32 | out[0];
}

/* Multiply-shift reduction (Lemire 2019) of 64 bits: the bias is below 2^-32. */
uint32_t rng_below(struct rng *rng, uint32_t n)
{
    uint64_t x = rng_u64(rng);
    uint64_t low = (uint64_t)(uint32_t)x * n;
    uint64_t high = (x >> 32) * n;
    return (uint32_t)((high + (low >> 32)) >> 32);
}

double rng_unit(struct rng *rng)
{
    return (double)(rng_u64(rng) >> 11) * 0x1p-53;
}
