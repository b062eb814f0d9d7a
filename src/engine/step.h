/* The contract between worker core (which plans a step), worker loop (which carries it) and engine
 * (which runs it). Data only. The engine keeps no sequence state: all of it is in the tokens, the
 * blocks and the sampling fields of an item, so any worker can continue any sequence. */
#ifndef ENGINE_STEP_H
#define ENGINE_STEP_H

#include <stdint.h>

#define STEP_BANNED_MAX 32u

/* One sequence's share of a step: compute `n_tokens` tokens from `position` on (a prompt chunk, or
 * the one last token of a decoding sequence), writing their KV, and sample one token if asked.
 * All pointers are borrowed until the step has begun (runner_begin has returned). */
struct step_item {
    uint32_t item_id;       /* the planner's, given back in the result */
    uint32_t n_tokens;      /* >= 1 */
    uint32_t position;      /* position of tokens[0] in the sequence, from 0 */
    uint32_t n_blocks;      /* blocks[] covers positions 0 .. position + n_tokens - 1 */
    const uint32_t *tokens; /* [n_tokens] */
    /* 0: `tokens` is given. Else, where two steps may be under way, 1 + index of an item in the
     * plan whose step_id is one less, begun but perhaps not finished: tokens[0] is what that item
     * samples, n_tokens is 1 and `tokens` is not read. */
    uint32_t after_item;
    const uint32_t *blocks; /* [n_blocks] pool block indices */
    uint8_t salt[16];       /* goes into the hash runner's chain */
    /* Sampling, when sample != 0: the token behind tokens[n_tokens - 1]. */
    uint32_t sample;
    uint32_t output_position; /* its output position: the Philox counter */
    uint32_t choice;          /* Philox counter too */
    uint64_t seed;
    float temperature, top_p, min_p;
    uint32_t top_k;
    uint32_t n_banned; /* ids that may not be drawn (end ids below min_tokens) */
    uint32_t banned[STEP_BANNED_MAX];
};

struct step_plan {
    uint64_t step_id; /* grows by one */
    uint32_t n_items;
    uint32_t n_tokens; /* over all items */
    const struct step_item *items;
    uint32_t
        report_layers; /* 1: call on_layers after each layer group, some item is being pushed */
};

struct step_result {
    uint64_t step_id;
    uint32_t status; /* enum status; not ST_OK: no token is valid and the KV written is undefined */
    uint32_t n_tokens;
    const uint32_t *item_ids; /* [n_tokens] items that sampled, in plan order */
    const uint32_t *tokens;   /* [n_tokens] */
};

#endif
