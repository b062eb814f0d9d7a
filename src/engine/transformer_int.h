/* Inside of the transformer runner: transformer.c opens it and carries steps, forward.c computes.
 */
#ifndef ENGINE_TRANSFORMER_INT_H
#define ENGINE_TRANSFORMER_INT_H

#include "engine/runner.h"
#include "model/load.h"

/* What the ops of a step read besides weights and KV. One array behind the other in one piece of
 * memory, so that a step is one upload; `table` is last, for only its used rows travel. */
struct step_input {
    struct sample_row *sample_rows; /* [max_seqs] */
    uint32_t *ids, *pos, *seq;      /* [max_tokens] */
    uint32_t *last_rows;            /* [max_seqs] rows that sample */
    uint32_t *row_first;            /* [max_seqs + 1] */
    uint32_t *kv_tokens;            /* [max_seqs] */
    uint32_t *banned;               /* [max_seqs, STEP_BANNED_MAX] */
    uint32_t *table;                /* [max_seqs, table_stride] */
};

struct transformer {
    struct runner base; /* first */
    struct model_desc desc;
    struct device *dev;
    struct model_weights weights;
    enum ops_dtype act; /* of h, qkv, attn, gate_up, sampled */
    uint32_t layer_groups, max_seqs, max_tokens, table_stride;
    uint32_t qkv_cols, q_cols;
    float *x, *delta, *inv_freq;              /* [max_tokens, hidden] twice, [head_dim / 2] */
    void *h, *qkv, *attn, *gate_up;           /* [max_tokens, ...] */
    void *sampled;                            /* [max_seqs, hidden] */
    float *logits, *logits_host;              /* [max_seqs, n_vocab] */
    uint32_t *tokens_dev, *tokens, *item_ids; /* [max_seqs] */
    struct step_input in, in_dev;             /* of the host, of the device; the CPU has one */
    uint32_t n_logits;                        /* of the last step */
    void *scratch[24];
    uint32_t n_scratch;
};

/* One step on the device: from ids to the residual stream of the last layer and, for n_sampled > 0,
 * to tokens_dev. layers_done: called when the KV of a layer group is written; NULL: not wanted. */
struct forward {
    struct ops_rows rows;
    uint32_t n_sampled;
    enum status (*layers_done)(void *arg, uint32_t first, uint32_t count);
    void *arg;
};

enum status transformer_forward(struct transformer *t, const struct forward *step);

#endif
