/* Inside of the transformer runner: transformer.c opens it, transformer_step.c carries
 * steps, forward.c computes them. */
#ifndef ENGINE_TRANSFORMER_INT_H
#define ENGINE_TRANSFORMER_INT_H

#include "engine/runner.h"
#include "model/load.h"

/* What the ops of a step read besides weights and KV: one array behind the other, only as long as
 * the step needs them, so that little travels. Of `table` only the entries that are used do. */
struct step_input {
    struct sample_row *sample_rows; /* [n_seqs] */
    uint32_t *ids, *pos, *seq;      /* [n_rows] */
    uint32_t *last_rows;            /* [n_seqs] rows that sample */
    uint32_t *row_first;            /* [n_seqs + 1] */
    uint32_t *kv_tokens;            /* [n_seqs] */
    uint32_t *banned;               /* [n_seqs, STEP_BANNED_MAX] */
    uint32_t *table;                /* [n_seqs, table_stride] */
};

/* Host side of a step that was begun. */
struct step_turn {
    uint32_t *input;             /* memory for a step_input */
    uint32_t *tokens, *item_ids; /* [max_seqs] of the rows that sample */
    uint64_t step_id;
    uint32_t n_sampled;
};

struct transformer {
    struct runner base; /* first */
    struct model_desc desc;
    struct device *dev;
    struct model_weights weights;
    enum ops_dtype act; /* of h, qkv, attn, gate_up, sampled */
    enum ops_dtype kv_dtype;
    uint32_t layer_groups, max_seqs, max_tokens, table_stride;
    uint32_t qkv_cols, q_cols;
    float *x, *delta, *inv_freq;    /* [max_tokens, hidden] twice, [head_dim / 2] */
    void *h, *qkv, *attn, *gate_up; /* [max_tokens, ...] */
    void *sampled;                  /* [max_seqs, hidden] */
    uint32_t fused_rows;            /* of a decode step with fused gemms; 0: no such */
    float *sums, *cos_sin;          /* [fused_rows, hidden / 16], [max_seqs, head_dim / 2, 2] */
    float *logits, *logits_host;    /* [max_seqs, n_vocab] */
    uint32_t *tokens_dev;           /* [max_seqs] */
    uint32_t *input_dev;            /* memory for a step_input; the CPU reads that of the host */
    uint32_t *turn_dev;             /* steps that are over */
    struct step_input in_dev;       /* of the step that is being begun */
    struct step_turn turns[2];      /* of step n: n % 2 */
    uint32_t n_begun, n_finished;
    uint32_t *done; /* [2, max_seqs] item ids and tokens of the step finished last */
    uint64_t last_step_id;
    uint32_t n_last, *sampled_of; /* of the step begun last: its items; the place of each item's
                                     token, or none */
    uint32_t n_logits;            /* of the step finished last */
    void *scratch[32];
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
/* What step_input plans for: the attention of a layer with a window and of one without; returns how
 * many of them the model has. */
uint32_t transformer_attention_plans(struct transformer *t, const struct forward *step,
                                     struct attention_args out_plans[2]);

/* ---- transformer_step.c ---- */

/* The memory of inputs and results. ST_NO_MEMORY. */
enum status transformer_input_make(struct transformer *t);
/* Has the device find the fastest way to each gemm of a step; see device_ops.gemm_prepare. */
enum status transformer_gemms_prepare(struct transformer *t, const char *cache_dir);

/* See runner_begin, runner_finish, and `prepare` of struct runner_ops. */
enum status transformer_begin(struct runner *r, const struct step_plan *plan,
                              void (*on_layers)(void *arg, uint64_t step_id, uint32_t layer_first,
                                                uint32_t layer_count),
                              void *arg);
enum status transformer_finish(struct runner *r, struct step_result *out);
enum status transformer_prepare(struct runner *r);

/* ---- transformer.c ---- */

/* Memory that lives as long as t; *out is a pointer of any type. ST_NO_MEMORY. */
enum status transformer_alloc(struct transformer *t, enum device_mem mem, uint64_t bytes,
                              void *out);

#endif
