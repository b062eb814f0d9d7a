#include "router/prefix_index.h"

#include "base/map.h"

#include <stdlib.h>

struct prefix_entry {
    struct hash128 key;
    uint64_t workers; /* 0: free slot */
    uint32_t recent;  /* clock bit */
};

struct prefix_index {
    struct map map; /* low half of the key -> entry; the entry's own key decides */
    struct prefix_entry *entries;
    uint32_t *free_slots;
    uint32_t n_free, capacity, hand;
};

enum status prefix_index_create(uint32_t keys_max, struct prefix_index **out_index)
{
    struct prefix_index *index = calloc(1, sizeof(*index));
    if (index == NULL)
        return ST_NO_MEMORY;
    index->capacity = keys_max > 0 ? keys_max : 1;
    index->entries = calloc(index->capacity, sizeof(*index->entries));
    index->free_slots = calloc(index->capacity, sizeof(*index->free_slots));
    if (index->entries == NULL || index->free_slots == NULL ||
        map_init(&index->map, index->capacity) != ST_OK) {
        free(index->entries);
        free(index->free_slots);
        free(index);
        return ST_NO_MEMORY;
    }
    for (uint32_t i = 0; i < index->capacity; i++)
        index->free_slots[index->n_free++] = index->capacity - 1 - i;
    *out_index = index;
    return ST_OK;
}

void prefix_index_destroy(struct prefix_index *index)
{
    if (index == NULL)
        return;
    map_deinit(&index->map);
    free(index->entries);
    free(index->free_slots);
    free(index);
}

static struct prefix_entry *entry_find(const struct prefix_index *index, const struct hash128 *key)
{
    uint32_t slot;
    if (!map_get(&index->map, hash128_low64(key), &slot) ||
        !hash128_equal(&index->entries[slot].key, key))
        return NULL;
    return &index->entries[slot];
}

static void entry_drop(struct prefix_index *index, struct prefix_entry *entry)
{
    map_del(&index->map, hash128_low64(&entry->key));
    entry->workers = 0;
    index->free_slots[index->n_free++] = (uint32_t)(entry - index->entries);
}

/* Second chance: the first entry under the hand that was not asked for since the last round. */
static void evict_one(struct prefix_index *index)
{
    for (;;) {
        struct prefix_entry *entry = &index->entries[index->hand];
        index->hand = (index->hand + 1) % index->capacity;
        if (entry->recent) {
            entry->recent = 0;
        } else if (entry->workers != 0) {
            entry_drop(index, entry);
            return;
        }
    }
}

void prefix_index_add(struct prefix_index *index, uint32_t worker, const struct hash128 *key)
{
    uint32_t slot;
    if (map_get(&index->map, hash128_low64(key), &slot)) {
        /* Another key with the same low half keeps its place. */
        if (hash128_equal(&index->entries[slot].key, key))
            index->entries[slot].workers |= 1ull << worker;
        return;
    }
    if (index->n_free == 0)
        evict_one(index);
    slot = index->free_slots[--index->n_free];
    index->entries[slot] = (struct prefix_entry){.key = *key, .workers = 1ull << worker};
    map_put(&index->map, hash128_low64(key), slot);
}

void prefix_index_remove(struct prefix_index *index, uint32_t worker, const struct hash128 *key)
{
    struct prefix_entry *entry = entry_find(index, key);
    if (entry == NULL)
        return;
    entry->workers &= ~(1ull << worker);
    if (entry->workers == 0)
        entry_drop(index, entry);
}

void prefix_index_reset(struct prefix_index *index, uint32_t worker)
{
    for (uint32_t i = 0; i < index->capacity; i++) {
        struct prefix_entry *entry = &index->entries[i];
        if ((entry->workers & 1ull << worker) == 0)
            continue;
        entry->workers &= ~(1ull << worker);
        if (entry->workers == 0)
            entry_drop(index, entry);
    }
}

uint64_t prefix_index_get(const struct prefix_index *index, const struct hash128 *key)
{
    struct prefix_entry *entry = entry_find(index, key);
    if (entry == NULL)
        return 0;
    entry->recent = 1;
    return entry->workers;
}

uint32_t prefix_index_count(const struct prefix_index *index)
{
    return index->capacity - index->n_free;
}
