/* Prefix-cache events: a ring of changes, and a listing of all keys after a reset.
 *
 * The reader applies events in the order given. A listing goes over the blocks by index; a change
 * of a block that was listed already goes through the ring, a change of a later one is left to the
 * listing. The ring is emptied before each stretch of the listing, so that "key K left block 3" is
 * told before "key K is in block 10". */
#include "kv/pool_int.h"

void kv_pool_events_restart(struct kv_pool *pool)
{
    pool->ring_head = pool->ring_tail;
    pool->listed = 0;
    pool->reset_due = 1;
}

void kv_pool_event_add(struct kv_pool *pool, uint32_t index, uint32_t added)
{
    if (index >= pool->listed)
        return;
    if (pool->ring_tail - pool->ring_head > pool->ring_mask) {
        kv_pool_events_restart(pool);
        return;
    }
    pool->ring[pool->ring_tail++ & pool->ring_mask] =
        (struct kv_cache_event){.key = pool->blocks[index].key, .added = added};
}

uint32_t kv_pool_events(struct kv_pool *pool, struct kv_cache_event *out, uint32_t max,
                        bool *out_reset)
{
    uint32_t n = 0;
    *out_reset = pool->reset_due != 0;
    pool->reset_due = 0;
    while (n < max && pool->ring_head != pool->ring_tail)
        out[n++] = pool->ring[pool->ring_head++ & pool->ring_mask];
    for (; n < max && pool->listed < pool->opts.block_count; pool->listed++) {
        const struct kv_block *block = &pool->blocks[pool->listed];
        if (block->keyed)
            out[n++] = (struct kv_cache_event){.key = block->key, .added = 1};
    }
    return n;
}
