#include "base/map.h"

#include "base/hash.h"

#include <stdlib.h>
#include <string.h>

enum { CAPACITY_MAX = 1u << 30 };

enum status map_init(struct map *map, uint32_t capacity)
{
    *map = (struct map){0};
    if (capacity > CAPACITY_MAX)
        return ST_TOO_LARGE;
    uint32_t n_slots = 2;
    while (n_slots < 2 * (uint64_t)capacity)
        n_slots *= 2;
    struct map_slot *slots = calloc(n_slots, sizeof(*slots));
    if (slots == NULL)
        return ST_NO_MEMORY;
    map->slots = slots;
    map->n_slots = n_slots;
    map->capacity = capacity;
    return ST_OK;
}

void map_deinit(struct map *map)
{
    free(map->slots);
    *map = (struct map){0};
}

/* Slot that holds `key`, or the free one where it would go. Ends because load is at most 1/2. */
static uint32_t slot_find(const struct map *map, uint64_t key)
{
    uint32_t mask = map->n_slots - 1;
    uint32_t i = (uint32_t)hash_mix64(key) & mask;
    while (map->slots[i].used && map->slots[i].key != key)
        i = (i + 1) & mask;
    return i;
}

enum status map_put(struct map *map, uint64_t key, uint32_t value)
{
    if (map->n_slots == 0)
        return ST_FULL;
    struct map_slot *slot = &map->slots[slot_find(map, key)];
    if (!slot->used) {
        if (map->count == map->capacity)
            return ST_FULL;
        slot->key = key;
        slot->used = 1;
        map->count++;
    }
    slot->value = value;
    return ST_OK;
}

bool map_get(const struct map *map, uint64_t key, uint32_t *out_value)
{
    if (map->count == 0)
        return false;
    const struct map_slot *slot = &map->slots[slot_find(map, key)];
    if (!slot->used)
        return false;
    *out_value = slot->value;
    return true;
}

bool map_del(struct map *map, uint64_t key)
{
    if (map->count == 0)
        return false;
    uint32_t mask = map->n_slots - 1;
    uint32_t hole = slot_find(map, key);
    if (!map->slots[hole].used)
        return false;
    for (uint32_t i = (hole + 1) & mask; map->slots[i].used; i = (i + 1) & mask) {
        uint32_t home = (uint32_t)hash_mix64(map->slots[i].key) & mask;
        /* Slot i may move into the hole unless its home lies cyclically in (hole, i]. */
        if (((i - home) & mask) >= ((i - hole) & mask)) {
            map->slots[hole] = map->slots[i];
            hole = i;
        }
    }
    map->slots[hole] = (struct map_slot){0};
    map->count--;
    return true;
}

void map_clear(struct map *map)
{
    if (map->count > 0)
        memset(map->slots, 0, map->n_slots * sizeof(*map->slots));
    map->count = 0;
}
