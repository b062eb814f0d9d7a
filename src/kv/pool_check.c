/* The pool's invariants, walked. */
#include "kv/pool_int.h"

#include <stdio.h>

static enum status broken(char *out_why, uint32_t why_bytes, const char *what, uint32_t index)
{
    snprintf(out_why, why_bytes, "block %u: %s", index, what);
    return ST_INTERNAL;
}

/* What is wrong with one block by itself, or NULL. */
static const char *block_fault(const struct kv_pool *pool, uint32_t index)
{
    const struct kv_block *block = &pool->blocks[index];
    uint32_t at;

    if ((uint32_t)block->state >= N_BLOCK_STATES)
        return "unknown state";
    if (block->keyed && block->state != BLOCK_CACHED && block->state != BLOCK_OWNED)
        return "has a key but is neither cached nor owned";
    if (block->state == BLOCK_CACHED && !block->keyed)
        return "cached without a key";
    if (block->keyed && (!map_get(&pool->keys, hash128_low64(&block->key), &at) || at != index))
        return "its key is not in the index";
    if (block->state == BLOCK_OWNED && block->refs == 0)
        return "owned by nobody";
    if (block->state == BLOCK_LOANED && block->refs != 1)
        return "on loan but not of exactly one sequence";
    if (block->state != BLOCK_OWNED && block->state != BLOCK_LOANED && block->refs != 0)
        return "has references in a state without owner";
    if (block->generation == 0 && block->state != BLOCK_FREE)
        return "in use but never allocated";
    return NULL;
}

static bool list_is_of(const struct kv_pool *pool, const struct list *head, enum block_state state)
{
    uint32_t n = 0;
    const struct list *node;
    list_for_each(node, head)
    {
        if (n++ == pool->n_in[state] || node->next->prev != node)
            return false;
        if (list_entry(node, const struct kv_block, link)->state != state)
            return false;
    }
    return n == pool->n_in[state];
}

enum status kv_pool_check(const struct kv_pool *pool, char *out_why, uint32_t why_bytes)
{
    uint32_t n_in[N_BLOCK_STATES] = {0};
    uint32_t n_keyed = 0;

    for (uint32_t i = 0; i < pool->opts.block_count; i++) {
        const char *fault = block_fault(pool, i);
        if (fault != NULL)
            return broken(out_why, why_bytes, fault, i);
        n_in[pool->blocks[i].state]++;
        n_keyed += pool->blocks[i].keyed;
    }
    for (uint32_t s = 0; s < N_BLOCK_STATES; s++) {
        if (n_in[s] != pool->n_in[s])
            return broken(out_why, why_bytes, "states do not add up to the counts", s);
    }
    if (n_keyed != pool->keys.count)
        return broken(out_why, why_bytes, "index holds keys of no block", n_keyed);
    if (!list_is_of(pool, &pool->free, BLOCK_FREE))
        return broken(out_why, why_bytes, "free list is wrong", 0);
    if (!list_is_of(pool, &pool->lru, BLOCK_CACHED))
        return broken(out_why, why_bytes, "LRU list is wrong", 0);
    return ST_OK;
}
