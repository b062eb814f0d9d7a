/* For tests of runners: a runner with its pool, and sequences that are computed in chosen pieces.
 */
#ifndef TESTS_RUNNER_KIT_H
#define TESTS_RUNNER_KIT_H

#include "tests/support/model_dir.h"

#include "engine/runner.h"

#define KIT_BLOCKS     64u
#define KIT_SEQ_BLOCKS 16u
#define KIT_TOKENS_MAX 512u

struct kit {
    struct runner *runner;
    uint8_t *pool;
    size_t pool_bytes;
    uint64_t steps;
    struct step_result result;
    uint32_t groups[64][2]; /* on_layers calls of the last step */
    uint32_t n_groups;
};

/* A sequence: its tokens and where its KV lies. */
struct kit_seq {
    uint32_t tokens[KIT_TOKENS_MAX];
    uint32_t n_tokens; /* known */
    uint32_t n_done;   /* computed */
    uint32_t blocks[KIT_SEQ_BLOCKS];
    struct step_item sampling; /* salt and sampling fields */
};

static inline void kit_open(struct kit *kit, const struct runner_opts *opts)
{
    char err[512] = "";
    memset(kit, 0, sizeof(*kit));
    if (runner_create(opts, &kit->runner, err, sizeof(err)) != ST_OK)
        fail_msg("%s", err);
    kit->pool_bytes = KIT_BLOCKS * runner_geometry(kit->runner)->block_bytes;
    void *pool = NULL;
    assert_int_equal(posix_memalign(&pool, 4096, kit->pool_bytes), 0);
    memset(pool, 0xff, kit->pool_bytes); /* NaN, and no hash: unwritten KV shows */
    kit->pool = pool;
    assert_int_equal(runner_set_pool(kit->runner, pool, KIT_BLOCKS), ST_OK);
}

static inline void kit_close(struct kit *kit)
{
    runner_destroy(kit->runner);
    free(kit->pool);
}

/* n_tokens tokens below n_vocab that depend on `seed`; blocks from `block_first` in odd order. */
static inline void kit_seq_init(struct kit_seq *seq, uint32_t seed, uint32_t n_tokens,
                                uint32_t n_vocab, uint32_t block_first)
{
    memset(seq, 0, sizeof(*seq));
    assert_true(n_tokens <= KIT_TOKENS_MAX);
    seq->n_tokens = n_tokens;
    for (uint32_t i = 0; i < n_tokens; i++)
        seq->tokens[i] = (uint32_t)(hash_mix64(((uint64_t)seed << 32) + i) % n_vocab);
    for (uint32_t i = 0; i < KIT_SEQ_BLOCKS; i++)
        seq->blocks[i] = block_first + (i * 7 + 3) % KIT_SEQ_BLOCKS;
    for (uint32_t i = 0; i < 16; i++)
        seq->sampling.salt[i] = (uint8_t)(seed * 31 + i);
    seq->sampling.top_p = 1;
}

/* The next n tokens of the sequence as an item. */
static inline struct step_item kit_item(const struct kit *kit, struct kit_seq *seq, uint32_t n,
                                        bool sample)
{
    uint32_t block_tokens = runner_geometry(kit->runner)->block_tokens, end = seq->n_done + n;
    struct step_item item = seq->sampling;
    assert_true(end <= seq->n_tokens);
    item.item_id = seq->blocks[0] + 1000;
    item.n_tokens = n;
    item.position = seq->n_done;
    item.n_blocks = (end + block_tokens - 1) / block_tokens;
    item.tokens = seq->tokens + seq->n_done;
    item.blocks = seq->blocks;
    item.sample = sample;
    seq->n_done = end;
    return item;
}

static inline void kit_on_layers(void *arg, uint64_t step_id, uint32_t first, uint32_t count)
{
    struct kit *kit = arg;
    assert_int_equal(step_id, kit->steps);
    assert_true(kit->n_groups < 64);
    kit->groups[kit->n_groups][0] = first;
    kit->groups[kit->n_groups++][1] = count;
}

static inline enum status kit_step(struct kit *kit, const struct step_item *items, uint32_t n_items,
                                   bool report)
{
    struct step_plan plan = {
        .step_id = ++kit->steps, .n_items = n_items, .items = items, .report_layers = report};
    for (uint32_t i = 0; i < n_items; i++)
        plan.n_tokens += items[i].n_tokens;
    kit->n_groups = 0;
    return runner_step(kit->runner, &plan, kit_on_layers, kit, &kit->result);
}

/* Computes the rest of the sequence in pieces of `chunk`, alone; returns the token behind it. */
static inline uint32_t kit_finish(struct kit *kit, struct kit_seq *seq, uint32_t chunk)
{
    while (seq->n_done < seq->n_tokens) {
        uint32_t left = seq->n_tokens - seq->n_done, n = left < chunk ? left : chunk;
        struct step_item item = kit_item(kit, seq, n, n == left);
        assert_int_equal(kit_step(kit, &item, 1, false), ST_OK);
    }
    assert_int_equal(kit->result.n_tokens, 1);
    return kit->result.tokens[0];
}

/* Appends `count` tokens, each sampled behind the last; the first is the one given. */
static inline void kit_decode(struct kit *kit, struct kit_seq *seq, uint32_t token, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        seq->tokens[seq->n_tokens++] = token;
        if (i + 1 == count)
            return;
        seq->sampling.output_position++;
        token = kit_finish(kit, seq, 1);
    }
}

#endif
