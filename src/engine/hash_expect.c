#include "engine/hash_expect.h"

#include <string.h>

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static uint64_t word_of(const uint8_t *bytes)
{
    uint64_t word = 0;
    for (unsigned i = 0; i < 8; i++)
        word |= (uint64_t)bytes[i] << (8 * i);
    return word;
}

static uint64_t bits(float value)
{
    uint32_t pattern;
    memcpy(&pattern, &value, sizeof(pattern));
    return pattern;
}

void hash_expect_init(struct hash_expect *e, uint32_t layer_count, uint32_t vocab_size,
                      const uint8_t salt[16])
{
    e->layer_count = layer_count;
    e->vocab_size = vocab_size;
    e->n_tokens = 0;
    e->fold = 0;
    for (uint32_t l = 0; l < layer_count; l++)
        e->entry[l] = mix(word_of(salt) ^ mix(word_of(salt + 8) + l));
}

void hash_expect_push(struct hash_expect *e, uint32_t token)
{
    uint64_t p = e->n_tokens++;
    for (uint64_t l = 0; l < e->layer_count; l++) {
        e->entry[l] = mix(e->entry[l] ^ mix(token + 0x100000001u * l));
        e->fold += (e->entry[l] ^ mix(e->entry[l] + p)) * (2 * (p * 1031 + l) + 1);
    }
}

static int is_banned(const struct hash_sampling *sampling, uint32_t token)
{
    for (uint32_t i = 0; i < sampling->n_banned; i++)
        if (sampling->banned[i] == token)
            return 1;
    return 0;
}

uint32_t hash_expect_next(const struct hash_expect *e, const struct hash_sampling *sampling)
{
    uint64_t s = mix(bits(sampling->temperature) | bits(sampling->top_p) << 32);
    s = mix(s ^ (bits(sampling->min_p) | (uint64_t)sampling->top_k << 32));
    s = mix(s ^ sampling->seed);
    s = mix(s ^ (sampling->choice | (uint64_t)sampling->output_position << 32));
    uint32_t token = (uint32_t)(mix(e->fold ^ s) % e->vocab_size);
    for (uint32_t tries = 0; tries < sampling->n_banned && is_banned(sampling, token); tries++)
        token = (token + 1) % e->vocab_size;
    return token;
}
