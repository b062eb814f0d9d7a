/* Open-addressing map u64 -> u32 of fixed capacity, allocated once: no malloc after create.
 * Any key, including 0. Linear probing, deletion by backward shift (no tombstones), load <= 1/2.
 * One thread. Source: Knuth TAOCP 6.4, algorithm R. */
#ifndef BASE_MAP_H
#define BASE_MAP_H

#include "base/status.h"

#include <stdint.h>

struct map_slot {
    uint64_t key;
    uint32_t value;
    uint32_t used;
};

struct map {
    struct map_slot *slots;
    uint32_t n_slots; /* power of two >= 2 * capacity */
    uint32_t count, capacity;
};

enum status map_init(struct map *map, uint32_t capacity);
void map_deinit(struct map *map);
/* Inserts or replaces. ST_FULL: `capacity` keys are in. */
enum status map_put(struct map *map, uint64_t key, uint32_t value);
bool map_get(const struct map *map, uint64_t key, uint32_t *out_value);
bool map_del(struct map *map, uint64_t key); /* false: it was not there */
void map_clear(struct map *map);

#endif
