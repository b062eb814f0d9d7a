/* Block pool: states, generations, references, the prefix-cache index. The worker's loop thread
 * owns it. Invariants are those of pool.h, walked by pool_check.c. Source of block-wise prefix
 * reuse: Kwon et al. 2023, arXiv:2309.06180. */
#include "kv/pool_int.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK_COUNT_MAX = 1u << 26, RING_ENTRIES_MIN = 64 };

enum status kv_pool_create(const struct kv_pool_opts *opts, struct kv_pool **out_pool)
{
    if (opts->block_count == 0 || opts->block_count > BLOCK_COUNT_MAX || opts->block_tokens == 0)
        return ST_INVALID;
    struct kv_pool *pool = calloc(1, sizeof(*pool));
    if (pool == NULL)
        return ST_NO_MEMORY;
    uint32_t n_ring = RING_ENTRIES_MIN;
    while (n_ring < opts->block_count)
        n_ring *= 2;
    pool->opts = *opts;
    pool->ring_mask = n_ring - 1;
    pool->listed = opts->block_count;
    list_init(&pool->free);
    list_init(&pool->lru);
    pool->blocks = calloc(opts->block_count, sizeof(*pool->blocks));
    pool->ring = calloc(n_ring, sizeof(*pool->ring));
    enum status st = map_init(&pool->keys, opts->block_count);
    if (st != ST_OK || pool->blocks == NULL || pool->ring == NULL) {
        kv_pool_destroy(pool);
        return ST_NO_MEMORY;
    }
    for (uint32_t i = 0; i < opts->block_count; i++)
        list_add_tail(&pool->free, &pool->blocks[i].link);
    pool->n_in[BLOCK_FREE] = opts->block_count;
    *out_pool = pool;
    return ST_OK;
}

void kv_pool_destroy(struct kv_pool *pool)
{
    if (pool == NULL)
        return;
    map_deinit(&pool->keys);
    free(pool->ring);
    free(pool->blocks);
    free(pool);
}

struct kv_pool_counts kv_pool_counts(const struct kv_pool *pool)
{
    return (struct kv_pool_counts){
        .total = pool->opts.block_count,
        .free = pool->n_in[BLOCK_FREE],
        .cached = pool->n_in[BLOCK_CACHED],
        .owned = pool->n_in[BLOCK_OWNED] + pool->n_in[BLOCK_LOANED],
        .loaned = pool->n_in[BLOCK_LOANED],
        .quarantined = pool->n_in[BLOCK_QUARANTINED],
    };
}

/* Moves a block to a state and to the list that goes with it. */
static void block_move(struct kv_pool *pool, struct kv_block *block, enum block_state state)
{
    list_del(&block->link);
    pool->n_in[block->state]--;
    block->state = state;
    pool->n_in[state]++;
    if (state == BLOCK_FREE)
        list_add_head(&pool->free, &block->link);
    else if (state == BLOCK_CACHED)
        list_add_tail(&pool->lru, &block->link);
}

static struct kv_block *block_of(const struct kv_pool *pool, struct kv_block_ref ref)
{
    assert(ref.index < pool->opts.block_count);
    struct kv_block *block = &pool->blocks[ref.index];
    assert(block->generation == ref.generation);
    return block;
}

static uint32_t block_index(const struct kv_pool *pool, const struct kv_block *block)
{
    return (uint32_t)(block - pool->blocks);
}

static struct kv_block *key_find(const struct kv_pool *pool, const struct hash128 *key)
{
    uint32_t index;
    if (!map_get(&pool->keys, hash128_low64(key), &index))
        return NULL;
    struct kv_block *block = &pool->blocks[index];
    return hash128_equal(&block->key, key) ? block : NULL;
}

static void key_drop(struct kv_pool *pool, struct kv_block *block)
{
    map_del(&pool->keys, hash128_low64(&block->key));
    kv_pool_event_add(pool, block_index(pool, block), 0);
    block->keyed = 0;
}

uint32_t kv_pool_match(struct kv_pool *pool, const uint8_t salt[16], const uint32_t *tokens,
                       uint32_t n_tokens, uint32_t max_blocks, struct kv_block_ref *out,
                       struct hash128 *out_parent)
{
    uint32_t bt = pool->opts.block_tokens;
    uint32_t n = 0;
    struct hash128 parent, key;

    if (pool->keys.count == 0)
        return 0; /* saves the hashing */
    while (n < max_blocks && n_tokens / bt > n) {
        hash_block_key(pool->opts.secret, salt, &pool->opts.model, n > 0 ? &parent : NULL,
                       tokens + (size_t)n * bt, bt, &key);
        struct kv_block *block = key_find(pool, &key);
        if (block == NULL)
            break;
        if (block->state == BLOCK_CACHED)
            block_move(pool, block, BLOCK_OWNED);
        block->refs++;
        out[n] = (struct kv_block_ref){block_index(pool, block), block->generation};
        parent = key;
        n++;
    }
    if (n > 0)
        *out_parent = parent;
    return n;
}

uint32_t kv_pool_available(const struct kv_pool *pool)
{
    return pool->n_in[BLOCK_FREE] + pool->n_in[BLOCK_CACHED];
}

enum status kv_pool_alloc(struct kv_pool *pool, uint32_t n, struct kv_block_ref *out)
{
    if (n > kv_pool_available(pool))
        return ST_NO_BLOCKS;
    for (uint32_t i = 0; i < n; i++) {
        struct list *node = pool->free.next;
        if (list_is_empty(&pool->free))
            node = pool->lru.next;
        struct kv_block *block = list_entry(node, struct kv_block, link);
        if (block->keyed)
            key_drop(pool, block);
        block_move(pool, block, BLOCK_OWNED);
        block->refs = 1;
        if (++block->generation == 0)
            block->generation = 1; /* 0 says "never allocated" */
        out[i] = (struct kv_block_ref){block_index(pool, block), block->generation};
    }
    return ST_OK;
}

void kv_pool_seal(struct kv_pool *pool, struct kv_block_ref ref, const uint8_t salt[16],
                  const struct hash128 *parent, const uint32_t *tokens, struct hash128 *out_key)
{
    struct kv_block *block = block_of(pool, ref);
    assert(block->state == BLOCK_OWNED);
    if (!pool->opts.prefix_cache) {
        *out_key = (struct hash128){{0}};
        return;
    }
    hash_block_key(pool->opts.secret, salt, &pool->opts.model, parent, tokens,
                   pool->opts.block_tokens, out_key);
    uint32_t other;
    if (block->keyed || map_get(&pool->keys, hash128_low64(out_key), &other))
        return; /* the same key, or another one with the same low half: private either way */
    if (map_put(&pool->keys, hash128_low64(out_key), ref.index) != ST_OK)
        return;
    block->key = *out_key;
    block->keyed = 1;
    kv_pool_event_add(pool, ref.index, 1);
}

/* From the last to the first, so that the end of a chain is older in the LRU list than its start:
 * a block whose parent is evicted can never be found again. */
void kv_pool_release(struct kv_pool *pool, const struct kv_block_ref *refs, uint32_t n)
{
    while (n > 0) {
        struct kv_block *block = block_of(pool, refs[--n]);
        assert(block->state == BLOCK_OWNED && block->refs > 0);
        if (--block->refs == 0)
            block_move(pool, block, block->keyed ? BLOCK_CACHED : BLOCK_FREE);
    }
}

void kv_pool_loan(struct kv_pool *pool, const struct kv_block_ref *refs, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        struct kv_block *block = block_of(pool, refs[i]);
        assert(block->state == BLOCK_OWNED && block->refs == 1 && !block->keyed);
        block_move(pool, block, BLOCK_LOANED);
    }
}

static bool ref_is_equal(struct kv_block_ref a, struct kv_block_ref b)
{
#if defined(DYND_PLANT) && DYND_PLANT == 1
    return a.index == b.index; /* planted bug for the simulator's self-test */
#else
    return a.index == b.index && a.generation == b.generation;
#endif
}

enum status kv_pool_loan_check(const struct kv_pool *pool, uint64_t epoch,
                               const struct kv_block_ref *lent, uint32_t n_lent,
                               const struct kv_block_ref *named, uint32_t n_named)
{
    if (epoch != pool->opts.epoch || n_lent != n_named)
        return ST_MISMATCH;
    for (uint32_t i = 0; i < n_lent; i++) {
        if (lent[i].index >= pool->opts.block_count || !ref_is_equal(lent[i], named[i]))
            return ST_MISMATCH;
        const struct kv_block *block = &pool->blocks[lent[i].index];
        if (block->generation != lent[i].generation)
            return ST_MISMATCH;
        if (block->state != BLOCK_LOANED && block->state != BLOCK_QUARANTINED)
            return ST_MISMATCH;
    }
    return ST_OK;
}

void kv_pool_quarantine(struct kv_pool *pool, const struct kv_block_ref *refs, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        struct kv_block *block = block_of(pool, refs[i]);
        assert(block->state == BLOCK_LOANED);
        block->refs = 0;
        block_move(pool, block, BLOCK_QUARANTINED);
    }
}

void kv_pool_loan_end(struct kv_pool *pool, const struct kv_block_ref *refs, uint32_t n)
{
    while (n > 0) {
        struct kv_block *block = block_of(pool, refs[--n]);
        assert(block->state == BLOCK_LOANED || block->state == BLOCK_QUARANTINED);
        block_move(pool, block, block->state == BLOCK_LOANED ? BLOCK_OWNED : BLOCK_FREE);
    }
}

char kv_pool_block_state(const struct kv_pool *pool, uint32_t index, uint32_t *out_generation)
{
    assert(index < pool->opts.block_count);
    if (out_generation != NULL)
        *out_generation = pool->blocks[index].generation;
    return "fcolq"[pool->blocks[index].state];
}

uint32_t kv_pool_block_refs(const struct kv_pool *pool, uint32_t index)
{
    assert(index < pool->opts.block_count);
    return pool->blocks[index].refs;
}
