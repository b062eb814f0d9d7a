/* SHA-256 goes through libcrypto's low-level calls: the EVP ones allocate a context each. */
#define OPENSSL_API_COMPAT 0x10100000L

#include "base/hash.h"

#include <endian.h>
#include <openssl/sha.h>
#include <string.h>

static uint64_t load_le64(const uint8_t *at)
{
    uint64_t word;
    memcpy(&word, at, sizeof(word));
    return le64toh(word);
}

uint64_t hash_bytes(const void *data, size_t bytes)
{
    const uint8_t *at = data;
    uint64_t h = hash_mix64(bytes);
    for (; bytes >= 8; at += 8, bytes -= 8)
        h = hash_mix64(h ^ load_le64(at));
    if (bytes > 0) {
        uint8_t tail[8] = {0};
        memcpy(tail, at, bytes);
        h = hash_mix64(h ^ load_le64(tail));
    }
    return h;
}

void hash_sha256(const void *data, size_t bytes, uint8_t out[32])
{
    SHA256_CTX ctx;
    SHA256_Init(&ctx);
    SHA256_Update(&ctx, data, bytes);
    SHA256_Final(out, &ctx);
}

/* Every part but the tokens has a fixed width and the tokens come last, so that no two different
 * inputs give the same bytes. A first block has 16 zero bytes in the place of its parent. */
void hash_block_key(const uint8_t secret[32], const uint8_t salt[16], const struct hash128 *model,
                    const struct hash128 *parent, const uint32_t *tokens, uint32_t n_tokens,
                    struct hash128 *out)
{
    static const struct hash128 no_parent;
    SHA256_CTX ctx;
    uint8_t digest[32];

    SHA256_Init(&ctx);
    SHA256_Update(&ctx, secret, 32);
    SHA256_Update(&ctx, salt, 16);
    SHA256_Update(&ctx, model->bytes, sizeof(model->bytes));
    SHA256_Update(&ctx, (parent != NULL ? parent : &no_parent)->bytes, sizeof(no_parent.bytes));
    while (n_tokens > 0) {
        uint32_t words[64];
        uint32_t n = n_tokens < 64 ? n_tokens : 64;
        for (uint32_t i = 0; i < n; i++)
            words[i] = htole32(tokens[i]);
        SHA256_Update(&ctx, words, n * sizeof(words[0]));
        tokens += n;
        n_tokens -= n;
    }
    SHA256_Final(digest, &ctx);
    memcpy(out->bytes, digest, sizeof(out->bytes));
}

uint64_t hash128_low64(const struct hash128 *h)
{
    return load_le64(h->bytes);
}

int hash128_equal(const struct hash128 *a, const struct hash128 *b)
{
    return memcmp(a->bytes, b->bytes, sizeof(a->bytes)) == 0;
}
