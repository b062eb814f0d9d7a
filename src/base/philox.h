/* Counter-based random numbers: Philox4x32-10 (Salmon et al., SC'11). A draw depends on its
 * arguments alone, so generation can be replayed on any worker. Any thread. */
#ifndef BASE_PHILOX_H
#define BASE_PHILOX_H

#include <stdint.h>

/* out[4] = Philox4x32-10 of counter ctr[4] under key[2]. */
void philox4x32(const uint32_t ctr[4], const uint32_t key[2], uint32_t out[4]);

/* Uniform in [0, 1) with 24 bits, for the sampler: key = seed, counter = (position, choice, 0, 0).
 */
float philox_uniform(uint64_t seed, uint32_t choice, uint32_t position);

/* Sequential stream on top, for simulators, jitter and load generators. Not for secrets. */
struct rng {
    uint64_t seed, counter;
};
uint64_t rng_u64(struct rng *rng);
/* Uniform in [0, n); n = 0 answers 0. */
uint32_t rng_below(struct rng *rng, uint32_t n);
double rng_unit(struct rng *rng); /* [0, 1) */

#endif
