/* Inside of the block pool, shared by pool.c, pool_events.c and pool_check.c. */
#ifndef KV_POOL_INT_H
#define KV_POOL_INT_H

#include "base/list.h"
#include "base/map.h"
#include "kv/pool.h"

#include <stddef.h>

enum block_state { BLOCK_FREE, BLOCK_CACHED, BLOCK_OWNED, BLOCK_LOANED, BLOCK_QUARANTINED };
#define N_BLOCK_STATES (BLOCK_QUARANTINED + 1u)

struct kv_block {
    struct list link; /* free list or LRU list; alone in the other states */
    struct hash128 key;
    uint32_t generation; /* of its current or last allocation; 0: never allocated */
    uint32_t refs;
    enum block_state state;
    uint32_t keyed; /* the key index points at this block */
};

struct kv_pool {
    struct kv_pool_opts opts;
    struct kv_block *blocks; /* [block_count] */
    uint32_t n_in[N_BLOCK_STATES];
    struct list free; /* newest first: a warm block is reused first */
    struct list lru;  /* CACHED, oldest first */
    struct map keys;  /* low 64 bits of a key -> block index */

    /* Key changes not yet told. While a listing is under way (`listed` < block_count) only changes
     * of blocks below `listed` are put here; the others will be seen by the listing itself. */
    struct kv_cache_event *ring; /* [ring_mask + 1] */
    uint32_t ring_mask;
    uint32_t ring_head, ring_tail; /* only grow; head: next to read */
    uint32_t listed;               /* blocks below were listed; block_count: no listing */
    uint32_t reset_due;
};

/* Key of block `index` came or went. */
void kv_pool_event_add(struct kv_pool *pool, uint32_t index, uint32_t added);

#endif
