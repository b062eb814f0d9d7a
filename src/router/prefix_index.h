/* Prefix index: which worker's cache holds which KV block, by block key. Exact up to the delay of
 * CACHE messages, bounded in entries (clock eviction). Pure; no malloc after create; router loop.
 * Source: prefix reuse by hash chain, as in vLLM's automatic prefix caching (arXiv:2309.06180). */
#ifndef ROUTER_PREFIX_INDEX_H
#define ROUTER_PREFIX_INDEX_H

#include "base/hash.h"
#include "base/status.h"

#include <stdint.h>

#define PREFIX_WORKERS_MAX 64u

struct prefix_index;

enum status prefix_index_create(uint32_t keys_max, struct prefix_index **out_index);
void prefix_index_destroy(struct prefix_index *index);
void prefix_index_add(struct prefix_index *index, uint32_t worker, const struct hash128 *key);
void prefix_index_remove(struct prefix_index *index, uint32_t worker, const struct hash128 *key);
/* Forgets all of a worker's keys. */
void prefix_index_reset(struct prefix_index *index, uint32_t worker);
/* Workers (bit mask) that hold the block of this key. */
uint64_t prefix_index_get(const struct prefix_index *index, const struct hash128 *key);
uint32_t prefix_index_count(const struct prefix_index *index);

#endif
