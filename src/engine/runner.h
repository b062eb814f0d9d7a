/* A runner computes steps: `transformer` runs the model, `hash` replaces it by a function of all KV
 * contents that a client can compute too (hash_expect.h). It keeps no sequence state: all of it is
 * in the plan and in the blocks. Threads: runner_create, runner_begin, runner_finish, runner_step
 * and runner_destroy on the engine thread; the info functions anywhere after create;
 * runner_set_pool before the first step. */
#ifndef ENGINE_RUNNER_H
#define ENGINE_RUNNER_H

#include "base/hash.h"
#include "base/status.h"
#include "device/device.h"
#include "engine/kv_geometry.h"
#include "engine/step.h"

#include <stddef.h>

enum runner_kind { RUNNER_TRANSFORMER, RUNNER_HASH };
enum load_format { LOAD_AUTO, LOAD_DUMMY };
enum load_dtype { LOAD_DTYPE_AUTO, LOAD_DTYPE_BF16, LOAD_DTYPE_F32 };
/* Of the KV cache; auto: fp8 if the model asks for it and the device has it, else as the weights.
 */
enum kv_dtype { KV_DTYPE_AUTO, KV_DTYPE_BF16, KV_DTYPE_F32, KV_DTYPE_FP8 };

struct runner_opts {
    enum runner_kind kind;
    const char *model_path; /* HF directory; the hash runner may have none (NULL or "") */
    const char *cache_dir;  /* see device_ops.gemm_prepare; read during create only */
    enum load_format load_format;
    enum load_dtype dtype;
    enum kv_dtype kv_dtype;
    enum device_kind device; /* the transformer's; the hash runner computes on the CPU */
    uint64_t seed;           /* dummy weights */
    uint32_t block_tokens;
    uint32_t max_batch_tokens, max_seqs; /* of one step */
    uint32_t max_context_tokens;         /* 0: the model's own */
    uint32_t n_threads;                  /* 0: one for each of cpus */
    const uint32_t *cpus;                /* [n_cpus] read during create only */
    uint32_t n_cpus;
    uint32_t layer_groups; /* on_layers calls a step, at most one a layer */
    uint32_t hash_vocab_size, hash_layer_count;
    uint32_t hash_step_delay_us, hash_prefill_delay_us_per_token;
    void (*on_progress)(void *arg, uint32_t permille); /* optional */
    void *progress_arg;
};

struct runner_info {
    uint32_t vocab_size, max_context_tokens;
    uint32_t n_eos;
    uint32_t eos[8];
    struct hash128 model_hash;     /* identity of configuration, weights and KV dtype */
    struct hash128 tokenizer_hash; /* of the bytes of tokenizer.json; zero without one */
    bool kv_unscaled; /* the KV cache is fp8, and the model brings no scales: they are 1 */
};

/* What runner_create would make. */
struct runner_size {
    struct kv_geometry geometry;
    uint32_t max_context_tokens;
    uint64_t n_params, weight_bytes; /* 0 for the hash runner */
};

struct runner;

/* err: a sentence that names the file, field or tensor. ST_NOT_FOUND, ST_PARSE, ST_UNSUPPORTED,
 * ST_INVALID, ST_TRUNCATED, ST_NO_MEMORY. */
enum status runner_create(const struct runner_opts *opts, struct runner **out_runner, char *err,
                          size_t err_bytes);
/* Whether runner_create can succeed, as far as configuration and headers of files tell: neither
 * weights are loaded nor a device is opened. Errors as runner_create. Any thread. */
enum status runner_measure(const struct runner_opts *opts, struct runner_size *out_size, char *err,
                           size_t err_bytes);
void runner_destroy(struct runner *runner); /* NULL is fine */
const struct kv_geometry *runner_geometry(const struct runner *runner);
const struct runner_info *runner_info(const struct runner *runner);
/* Memory for the KV blocks on the runner's device, zeroed, freed by runner_destroy. ST_UNSUPPORTED:
 * they are memory of the host, which the caller brings. ST_NO_MEMORY. */
enum status runner_alloc_pool(struct runner *runner, uint64_t bytes, void **out_base);
/* The KV blocks: block_count * geometry.block_bytes at base, owned by the caller. May run steps of
 * padding, to record them. */
enum status runner_set_pool(struct runner *runner, void *base, uint32_t block_count);
/* How many steps may be begun and not finished, 1 or 2. Any thread. */
uint32_t runner_depth(const struct runner *runner);
/* Hands a plan to the device, behind those begun before; may return before it is done. `plan` and
 * all that it points to are the caller's again on return. on_layers is called on this thread, in
 * here or in runner_finish, whenever a layer group of all items has been written, if
 * plan->report_layers; such a step is begun alone.
 * Not ST_OK: the step was not begun and no runner_finish is owed for it. ST_INVALID: the plan
 * breaks a bound (block out of range, too many tokens, after_item of an item that does not sample,
 * or the plan before was another), or runner_depth steps are begun; nothing was computed. */
enum status runner_begin(struct runner *runner, const struct step_plan *plan,
                         void (*on_layers)(void *arg, uint64_t step_id, uint32_t layer_first,
                                           uint32_t layer_count),
                         void *arg);
/* Waits for the oldest step begun and fills *out. Its arrays live until the next runner_finish, or
 * until the runner_begin of the step that is runner_depth behind it if that is earlier. Returns
 * out->status. A failed step makes what was begun behind it undefined too, which is still to be
 * finished. ST_INVALID: none is begun. */
enum status runner_finish(struct runner *runner, struct step_result *out);
/* Both, with none begun before. */
enum status runner_step(struct runner *runner, const struct step_plan *plan,
                        void (*on_layers)(void *arg, uint64_t step_id, uint32_t layer_first,
                                          uint32_t layer_count),
                        void *arg, struct step_result *out);

/* Logits of the rows that the last step sampled, finished with none begun behind it:
 * [n_tokens of its result, vocab_size] f32 in plan order, valid until the next step; NULL for the
 * hash runner. Engine thread. */
const float *runner_logits(struct runner *runner);

/* Seconds that the device itself took for the last step, when it could be recorded and replayed; 0
 * otherwise, and at the first call: steps are timed from then on. Engine thread. */
double runner_replay_seconds(struct runner *runner);

/* A runner's own functions, behind the ones above. */
struct runner_ops {
    const char *name; /* "transformer", "hash" */
    enum status (*create)(const struct runner_opts *opts, struct runner **out_runner, char *err,
                          size_t err_bytes);
    enum status (*measure)(const struct runner_opts *opts, struct runner_size *out_size, char *err,
                           size_t err_bytes);
    void (*destroy)(struct runner *runner);
    enum status (*begin)(struct runner *runner, const struct step_plan *plan,
                         void (*on_layers)(void *arg, uint64_t step_id, uint32_t layer_first,
                                           uint32_t layer_count),
                         void *arg);
    enum status (*finish)(struct runner *runner, struct step_result *out);
    uint32_t (*depth)(const struct runner *runner);
    const float *(*logits)(struct runner *runner);   /* optional */
    double (*replay_seconds)(struct runner *runner); /* optional */
    enum status (*alloc_pool)(struct runner *runner, uint64_t bytes,
                              void **out_base);    /* optional */
    enum status (*prepare)(struct runner *runner); /* optional; once the pool is known */
};

/* Head of every runner. */
struct runner {
    const struct runner_ops *ops;
    struct kv_geometry geometry;
    struct runner_info info;
    uint8_t *pool;
    uint32_t block_count;
    uint32_t n_begun; /* steps begun and not finished */
};

extern const struct runner_ops runner_transformer_ops, runner_hash_ops;

#endif
