#include "engine/kv_geometry.h"

#include "base/hash.h"

#include <string.h>

#define BLOCK_BYTES_MAX (1ull << 30)

enum status kv_geometry_finish(struct kv_geometry *g, uint32_t kind)
{
    uint64_t bytes = 2; /* K and V */
    const uint32_t factors[] = {g->block_tokens, g->kv_heads, g->head_dim, g->elem_bytes,
                                g->layer_count};
    if (g->dtype == NULL)
        return ST_INVALID;
    g->layout_hash = hash_combine(hash_mix64(kind), hash_bytes(g->dtype, strlen(g->dtype)));
    for (unsigned i = 0; i < 5; i++) {
        if (factors[i] == 0)
            return ST_INVALID;
        bytes *= factors[i];
        if (bytes > BLOCK_BYTES_MAX)
            return ST_TOO_LARGE;
        g->layout_hash = hash_combine(g->layout_hash, factors[i]);
    }
    g->block_bytes = bytes;
    g->layer_bytes = bytes / g->layer_count;
    return ST_OK;
}
