/* Hashes. Any thread.
 * hash_mix64: a fast finaliser (splitmix64, Steele et al. 2014), for tables and the hash runner.
 * block key: 128 bits of SHA-256(secret | salt | model | parent | tokens), the prefix-cache key. */
#ifndef BASE_HASH_H
#define BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

struct hash128 {
    uint8_t bytes[16];
};

static inline uint64_t hash_mix64(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* Order matters: hash_combine(a, b) != hash_combine(b, a) in general. */
static inline uint64_t hash_combine(uint64_t a, uint64_t b)
{
    return hash_mix64(a ^ hash_mix64(b));
}

/* 64-bit hash of bytes, for tables and layout hashes; not keyed. */
uint64_t hash_bytes(const void *data, size_t bytes);
void hash_sha256(const void *data, size_t bytes, uint8_t out[32]);
/* Key of one full KV block.
 * secret  32 bytes, the node's (or cluster's) cache secret
 * salt    16 bytes, the tenant's
 * model   hash of the model's identity
 * parent  key of the block before, or NULL for the first
 * tokens  [n_tokens] ids */
void hash_block_key(const uint8_t secret[32], const uint8_t salt[16], const struct hash128 *model,
                    const struct hash128 *parent, const uint32_t *tokens, uint32_t n_tokens,
                    struct hash128 *out);
uint64_t hash128_low64(const struct hash128 *h); /* table key */
int hash128_equal(const struct hash128 *a, const struct hash128 *b);

#endif
