/* The hash runner's function, computed from the request alone: no KV block is read here, and no
 * code is shared with the runner. Used by dynd-sim, dynd-bench and the tests as the oracle.
 *
 * All arithmetic is on 64-bit words modulo 2^64; mix() is splitmix64's finaliser:
 *   mix(x): x += 0x9e3779b97f4a7c15; x = (x ^ x>>30) * 0xbf58476d1ce4e5b9;
 *           x = (x ^ x>>27) * 0x94d049bb133111eb; x ^ x>>31
 * salt0, salt1 are the two little-endian words of the 16-byte salt.
 *
 *   entry     e(l, -1) = mix(salt0 ^ mix(salt1 + l))                               l = layer
 *             e(l, p)  = mix(e(l, p - 1) ^ mix(token(p) + 0x100000001 * l))
 *   block     position p of layer l holds two words: e(l, p) and its check word
 *             c(l, p)  = mix(e(l, p) + p)
 *   fold      F(p) = sum over all l and q <= p of
 *             (e(l, q) ^ c(l, q)) * (2 * (q * 1031 + l) + 1)
 *   sampling  s = mix(bits(temperature) | bits(top_p) << 32)
 *             s = mix(s ^ (bits(min_p) | top_k << 32))
 *             s = mix(s ^ seed)
 *             s = mix(s ^ (choice | output_position << 32))
 *   token     mix(F(p) ^ s) mod vocab_size; while it is banned: + 1 mod vocab_size, at most
 *             n_banned times
 *
 * bits() is the IEEE-754 pattern of the float as u32. */
#ifndef ENGINE_HASH_EXPECT_H
#define ENGINE_HASH_EXPECT_H

#include <stdint.h>

#define HASH_LAYERS_MAX 256u

struct hash_expect {
    uint32_t layer_count, vocab_size, n_tokens;
    uint64_t fold;
    uint64_t entry[HASH_LAYERS_MAX]; /* e(l, n_tokens - 1) */
};

struct hash_sampling {
    float temperature, top_p, min_p;
    uint32_t top_k;
    uint64_t seed;
    uint32_t choice, output_position;
    const uint32_t *banned; /* [n_banned] */
    uint32_t n_banned;
};

/* layer_count 1 .. HASH_LAYERS_MAX, vocab_size >= 1 */
void hash_expect_init(struct hash_expect *e, uint32_t layer_count, uint32_t vocab_size,
                      const uint8_t salt[16]);
/* Appends a token of prompt or output. */
void hash_expect_push(struct hash_expect *e, uint32_t token);
/* The token behind those pushed so far. */
uint32_t hash_expect_next(const struct hash_expect *e, const struct hash_sampling *sampling);

#endif
