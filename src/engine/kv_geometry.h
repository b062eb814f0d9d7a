/* Geometry of a KV block: [layer][kv_head][K|V][token][head_dim], contiguous over all layers, so
 * that a layer range of a block is one span. The hash runner uses kv_heads 1 and 8 bytes an
 * element. */
#ifndef ENGINE_KV_GEOMETRY_H
#define ENGINE_KV_GEOMETRY_H

#include "base/status.h"

#include <stdint.h>

struct kv_geometry {
    uint32_t block_tokens, layer_count, kv_heads, head_dim;
    uint32_t elem_bytes;
    const char *dtype;    /* of an element: "f32", "bf16", "fp8", "hash"; static */
    uint64_t layer_bytes; /* span of one layer of a block */
    uint64_t block_bytes; /* layer_count * layer_bytes */
    uint64_t layout_hash; /* of all the above, for handshakes */
};

/* Fills the derived fields from the first six. `kind` tells layouts of different runners apart.
 * ST_INVALID: a field is zero. ST_TOO_LARGE: a block passes 1 GiB. */
enum status kv_geometry_finish(struct kv_geometry *g, uint32_t kind);

#endif
