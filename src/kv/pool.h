/* Block pool and prefix cache of one worker: who owns which KV block. Pure bookkeeping, no memory
 * of the blocks themselves, no I/O, clock or malloc after create. One thread (the worker's loop).
 *
 * A block is in exactly one state:
 *   FREE         on the free list, contents meaningless
 *   CACHED       unowned, contents valid under its key, evictable (LRU)
 *   OWNED        refcount >= 1 sequences read it; writable only while refcount == 1 and no key
 *   LOANED       OWNED by one sequence whose remote writer may be writing
 *   QUARANTINED  its sequence is gone and a remote writer may still be writing: nobody may have it
 * free + cached + owned (with loaned) + quarantined = block_count, always (kv_pool_check).
 *
 * Loaned and quarantined blocks become free only by kv_pool_loan_end: completion, acknowledged
 * cancel, or fencing. No timer frees a block.
 * Every allocation gives a block a new generation, so a descriptor of an earlier life cannot match.
 */
#ifndef KV_POOL_H
#define KV_POOL_H

#include "base/hash.h"
#include "base/status.h"

#include <stdint.h>

struct kv_pool;

struct kv_pool_opts {
    uint32_t block_count;
    uint32_t block_tokens;
    uint64_t epoch;        /* random, from the caller */
    uint8_t secret[32];    /* prefix-cache key secret */
    struct hash128 model;  /* identity hash */
    uint32_t prefix_cache; /* 0: never keeps a key */
};

struct kv_block_ref {
    uint32_t index, generation;
};

struct kv_pool_counts {
    uint32_t total, free, cached, owned, loaned /* part of owned */, quarantined;
};

enum status kv_pool_create(const struct kv_pool_opts *opts, struct kv_pool **out_pool);
void kv_pool_destroy(struct kv_pool *pool);
struct kv_pool_counts kv_pool_counts(const struct kv_pool *pool);

/* Longest run of cached full blocks of tokens[0..n_tokens), at most max_blocks; takes a reference
 * on each (shared, read-only) and appends them to out[]. *out_parent is the key of the last one
 * hit, for kv_pool_seal. Returns how many. */
uint32_t kv_pool_match(struct kv_pool *pool, const uint8_t salt[16], const uint32_t *tokens,
                       uint32_t n_tokens, uint32_t max_blocks, struct kv_block_ref *out,
                       struct hash128 *out_parent);
/* How many blocks kv_pool_alloc could give now (free + evictable). */
uint32_t kv_pool_available(const struct kv_pool *pool);
/* Takes n new blocks, all or nothing, evicting cached ones oldest first. ST_NO_BLOCKS: takes
 * nothing. */
enum status kv_pool_alloc(struct kv_pool *pool, uint32_t n, struct kv_block_ref *out);
/* Puts a key on a full block that its sequence has finished writing; parent NULL for the first
 * block. Gives back the key. If another block holds the same key already, this block simply stays
 * private. */
void kv_pool_seal(struct kv_pool *pool, struct kv_block_ref ref, const uint8_t salt[16],
                  const struct hash128 *parent, const uint32_t *tokens, struct hash128 *out_key);
/* Drops one reference of each; at zero a keyed block becomes CACHED, another FREE. Not for loaned
 * ones. */
void kv_pool_release(struct kv_pool *pool, const struct kv_block_ref *refs, uint32_t n);

/* OWNED -> LOANED, before the blocks are named to a writer. */
void kv_pool_loan(struct kv_pool *pool, const struct kv_block_ref *refs, uint32_t n);
/* Does (epoch, blocks) name exactly these loaned blocks as lent? ST_MISMATCH says no. The one check
 * that stands between a late or foreign completion and a wrong token. */
enum status kv_pool_loan_check(const struct kv_pool *pool, uint64_t epoch,
                               const struct kv_block_ref *lent, uint32_t n_lent,
                               const struct kv_block_ref *named, uint32_t n_named);
/* LOANED -> QUARANTINED: the sequence is gone, the writer may not be. */
void kv_pool_quarantine(struct kv_pool *pool, const struct kv_block_ref *refs, uint32_t n);
/* The writer is done: LOANED -> OWNED, QUARANTINED -> FREE. */
void kv_pool_loan_end(struct kv_pool *pool, const struct kv_block_ref *refs, uint32_t n);

/* Keys that came or went since the last call, oldest first, for WIRE_CACHE. On overflow of the ring
 * *out_reset is set and the next calls list all keys from the start. Returns how many were written.
 */
struct kv_cache_event {
    struct hash128 key;
    uint32_t added;
};
uint32_t kv_pool_events(struct kv_pool *pool, struct kv_cache_event *out, uint32_t max,
                        bool *out_reset);
/* Makes the next kv_pool_events start with a reset and all keys (a router connected). */
void kv_pool_events_restart(struct kv_pool *pool);

/* Walks everything; ST_INTERNAL and a sentence when an invariant is broken. For tests, dynd-sim and
 * debug builds. */
enum status kv_pool_check(const struct kv_pool *pool, char *out_why, uint32_t why_bytes);
/* State of a block, for the simulator's invariants: 'f','c','o','l','q'. */
char kv_pool_block_state(const struct kv_pool *pool, uint32_t index, uint32_t *out_generation);
/* How many sequences hold the block; 0 unless it is owned or loaned. */
uint32_t kv_pool_block_refs(const struct kv_pool *pool, uint32_t index);

#endif
