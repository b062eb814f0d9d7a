/* Steps of the transformer runner on a GPU: two of them under way give the tokens that one at a
 * time gives, with an fp8 KV cache too, whose logits are those of the CPU; and in the loop nothing
 * is allocated and nothing waits but the end of a step for its tokens. The functions counted are
 * those that our own code calls (ld --wrap, tests/CMakeLists.txt); what the CUDA libraries do
 * inside themselves is not seen. */
#include "engine/runner.h"

#include <cuda_runtime_api.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- counters ---- */

static bool is_counting;
static uint32_t n_mallocs, n_device_mallocs, n_syncs, n_waits;

/* Declares what the linker calls the function itself, and puts a counter ahead of it. */
#define COUNTED(result, name, params, args, counter)                                               \
    result __real_##name params;                                                                   \
    result __wrap_##name params;                                                                   \
    result __wrap_##name params                                                                    \
    {                                                                                              \
        counter += is_counting;                                                                    \
        return __real_##name args;                                                                 \
    }

COUNTED(void *, malloc, (size_t n), (n), n_mallocs)
COUNTED(void *, calloc, (size_t n, size_t size), (n, size), n_mallocs)
COUNTED(void *, realloc, (void *p, size_t n), (p, n), n_mallocs)
COUNTED(cudaError_t, cudaMalloc, (void **p, size_t n), (p, n), n_device_mallocs)
COUNTED(cudaError_t, cudaMallocHost, (void **p, size_t n), (p, n), n_device_mallocs)
COUNTED(cudaError_t, cudaFree, (void *p), (p), n_device_mallocs)
COUNTED(cudaError_t, cudaStreamSynchronize, (cudaStream_t s), (s), n_syncs)
COUNTED(cudaError_t, cudaDeviceSynchronize, (void), (), n_syncs)
COUNTED(cudaError_t, cudaMemcpy, (void *d, const void *s, size_t n, enum cudaMemcpyKind k),
        (d, s, n, k), n_syncs)
COUNTED(cudaError_t, cudaEventSynchronize, (cudaEvent_t e), (e), n_waits)

/* ---- a schedule of steps ---- */

enum { SEQS = 4, BLOCK_TOKENS = 16, SEQ_BLOCKS = 40, STEPS = 48, LOG = 512 };

struct sequence {
    uint32_t tokens[LOG], n_tokens; /* known */
    uint32_t n_done;                /* begun */
    uint32_t blocks[SEQ_BLOCKS];
    uint32_t n_prompt, first_step, last_step; /* when it is in the batch */
    int32_t last_item;                        /* in the step before; -1: none */
};

static struct runner *runner;

static void on_layers(void *arg, uint64_t step_id, uint32_t first, uint32_t count)
{
    (void)arg, (void)step_id, (void)first, (void)count;
}

static struct runner_opts opts_of(enum device_kind device, enum load_dtype dtype,
                                  enum kv_dtype kv_dtype)
{
    return (struct runner_opts){.kind = RUNNER_TRANSFORMER,
                                .device = device,
                                .model_path = DYND_SOURCE_DIR "/configs/models/dynd-tiny",
                                .dtype = dtype,
                                .kv_dtype = kv_dtype,
                                .block_tokens = BLOCK_TOKENS,
                                .max_batch_tokens = 256,
                                .max_seqs = SEQS,
                                .n_threads = 1,
                                .layer_groups = 1};
}

static void runner_open(enum kv_dtype kv_dtype)
{
    char err[512];
    void *pool = NULL;
    struct runner_opts opts = opts_of(DEVICE_CUDA, LOAD_DTYPE_BF16, kv_dtype);
    if (runner_create(&opts, &runner, err, sizeof(err)) != ST_OK)
        fail_msg("%s", err);
    size_t bytes = SEQS * SEQ_BLOCKS * runner_geometry(runner)->block_bytes;
    assert_int_equal(runner_alloc_pool(runner, bytes, &pool), ST_OK);
    assert_int_equal(runner_set_pool(runner, pool, SEQS * SEQ_BLOCKS), ST_OK);
    assert_int_equal(runner_depth(runner), 2);
}

/* Sequences that come and go: prompts among decoding ones, one that samples with a temperature. */
static void sequences_make(struct sequence seqs[SEQS])
{
    static const uint32_t prompts[SEQS] = {5, 33, 120, 16}, first[SEQS] = {0, 0, 7, 13},
                          last[SEQS] = {STEPS, 20, 40, STEPS};
    memset(seqs, 0, SEQS * sizeof(seqs[0]));
    for (uint32_t s = 0; s < SEQS; s++) {
        seqs[s].n_prompt = seqs[s].n_tokens = prompts[s];
        seqs[s].first_step = first[s];
        seqs[s].last_step = last[s];
        seqs[s].last_item = -1;
        for (uint32_t i = 0; i < prompts[s]; i++)
            seqs[s].tokens[i] = (s * 131 + i * 37) % 300;
        for (uint32_t b = 0; b < SEQ_BLOCKS; b++)
            seqs[s].blocks[b] = (b * SEQS + s) % (SEQS * SEQ_BLOCKS);
    }
}

static uint32_t plan_make(struct sequence seqs[SEQS], uint32_t step, bool pending,
                          struct step_item items[SEQS])
{
    uint32_t n = 0;
    for (uint32_t s = 0; s < SEQS; s++) {
        struct sequence *q = &seqs[s];
        int32_t before = q->last_item;
        q->last_item = -1;
        if (step < q->first_step || step >= q->last_step)
            continue;
        bool is_prompt = q->n_done < q->n_prompt;
        struct step_item *item = &items[n];
        *item = (struct step_item){.item_id = s,
                                   .n_tokens = is_prompt ? q->n_prompt : 1,
                                   .position = q->n_done,
                                   .tokens = q->tokens + q->n_done,
                                   .blocks = q->blocks,
                                   .sample = 1,
                                   .output_position = step - q->first_step,
                                   .seed = 99 + s,
                                   .temperature = s == 2 ? 0.8f : 0.0f,
                                   .top_p = 1.0f};
        if (pending && !is_prompt)
            item->after_item = (uint32_t)before + 1;
        q->n_done += item->n_tokens;
        item->n_blocks = (q->n_done + BLOCK_TOKENS - 1) / BLOCK_TOKENS;
        q->last_item = (int32_t)n++;
    }
    return n;
}

static void begin(struct sequence seqs[SEQS], uint32_t step, bool pending)
{
    static uint64_t step_id;
    struct step_item items[SEQS];
    struct step_plan plan = {.step_id = ++step_id, .items = items};
    plan.n_items = plan_make(seqs, step, pending, items);
    for (uint32_t i = 0; i < plan.n_items; i++)
        plan.n_tokens += items[i].n_tokens;
    assert_int_equal(runner_begin(runner, &plan, on_layers, NULL), ST_OK);
}

static void finish(struct sequence seqs[SEQS])
{
    struct step_result result;
    assert_int_equal(runner_finish(runner, &result), ST_OK);
    for (uint32_t i = 0; i < result.n_tokens; i++) {
        struct sequence *q = &seqs[result.item_ids[i]];
        q->tokens[q->n_tokens++] = result.tokens[i];
    }
}

static void run(struct sequence seqs[SEQS], uint32_t depth)
{
    sequences_make(seqs);
    for (uint32_t step = 0; step < STEPS; step++) {
        begin(seqs, step, depth == 2);
        if (depth == 1 || step > 0)
            finish(seqs);
    }
    if (depth == 2)
        finish(seqs);
}

static void test_two_steps_under_way_give_the_tokens_of_one(void **state)
{
    (void)state;
    static struct sequence one[SEQS], two[SEQS];
    for (uint32_t again = 0; again < 4; again++) {
        if (again % 2 == 0)
            runner_open(again < 2 ? KV_DTYPE_AUTO : KV_DTYPE_FP8);
        run(one, 1);
        run(two, 2);
        for (uint32_t s = 0; s < SEQS; s++) {
            assert_int_equal(one[s].n_tokens,
                             one[s].n_prompt + one[s].last_step - one[s].first_step);
            assert_int_equal(two[s].n_tokens, one[s].n_tokens);
            assert_memory_equal(two[s].tokens, one[s].tokens, one[s].n_tokens * sizeof(uint32_t));
        }
        if (again % 2 == 1)
            runner_destroy(runner);
    }
}

/* The logits behind a prompt of n tokens and one step more, on either device. */
static void fp8_logits(enum device_kind device, uint32_t n, float *out, uint32_t *out_vocab)
{
    static uint32_t tokens[LOG], blocks[SEQ_BLOCKS];
    char err[512];
    struct runner *r = NULL;
    struct runner_opts opts = opts_of(device, LOAD_DTYPE_BF16, KV_DTYPE_FP8);
    struct step_result result;
    void *pool = NULL;
    if (runner_create(&opts, &r, err, sizeof(err)) != ST_OK)
        fail_msg("%s", err);
    assert_string_equal(runner_geometry(r)->dtype, "fp8");
    const size_t bytes = SEQ_BLOCKS * runner_geometry(r)->block_bytes;
    void *host = device == DEVICE_CPU ? aligned_alloc(64, (bytes + 63) / 64 * 64) : NULL;
    if (host == NULL)
        assert_int_equal(runner_alloc_pool(r, bytes, &pool), ST_OK);
    assert_int_equal(runner_set_pool(r, host != NULL ? host : pool, SEQ_BLOCKS), ST_OK);
    for (uint32_t i = 0; i < n + 1; i++)
        tokens[i] = i * 37 % 300;
    for (uint32_t b = 0; b < SEQ_BLOCKS; b++)
        blocks[b] = SEQ_BLOCKS - 1 - b;
    for (uint32_t step = 0; step < 2; step++) {
        struct step_item item = {.n_tokens = step == 0 ? n : 1,
                                 .position = step == 0 ? 0 : n,
                                 .tokens = tokens + (step == 0 ? 0 : n),
                                 .blocks = blocks,
                                 .n_blocks = n / BLOCK_TOKENS + 1,
                                 .sample = 1,
                                 .top_p = 1.0f};
        struct step_plan plan = {
            .step_id = step + 1, .items = &item, .n_items = 1, .n_tokens = item.n_tokens};
        assert_int_equal(runner_step(r, &plan, on_layers, NULL, &result), ST_OK);
    }
    *out_vocab = runner_info(r)->vocab_size;
    memcpy(out, runner_logits(r), *out_vocab * sizeof(float));
    runner_destroy(r);
    free(host);
}

/* A key that the devices round to bf16 differently may be e4m3 values apart, 1/16 of itself; a
 * wrong scale or place gives distances near 1. */
static void test_fp8_kv_gives_the_logits_of_the_cpu(void **state)
{
    (void)state;
    enum { VOCAB_MAX = 8192 };
    static float want[VOCAB_MAX], got[VOCAB_MAX];
    static const uint32_t prompts[] = {1, 63, 64, 200};
    for (uint32_t i = 0; i < sizeof(prompts) / sizeof(prompts[0]); i++) {
        uint32_t n_vocab = 0;
        double worst = 0, largest = 0;
        fp8_logits(DEVICE_CPU, prompts[i], want, &n_vocab);
        assert_true(n_vocab > 0 && n_vocab <= VOCAB_MAX);
        fp8_logits(DEVICE_CUDA, prompts[i], got, &n_vocab);
        for (uint32_t v = 0; v < n_vocab; v++) {
            worst = fmax(worst, fabs((double)got[v] - (double)want[v]));
            largest = fmax(largest, fabs((double)want[v]));
        }
        print_message("fp8 KV, %u tokens: largest difference %.2g of the largest logit\n",
                      prompts[i], worst / largest);
        assert_true(worst <= 0.1 * largest);
    }
}

static void test_fp8_kv_with_f32_weights_is_refused(void **state)
{
    (void)state;
    char err[512] = "";
    struct runner *r = NULL;
    struct runner_opts opts = opts_of(DEVICE_CUDA, LOAD_DTYPE_F32, KV_DTYPE_FP8);
    assert_int_equal(runner_create(&opts, &r, err, sizeof(err)), ST_UNSUPPORTED);
    assert_non_null(strstr(err, "kv.dtype fp8"));
}

static void test_a_pending_token_of_nobody_is_refused(void **state)
{
    (void)state;
    static struct sequence seqs[SEQS];
    struct step_item items[SEQS];
    runner_open(KV_DTYPE_AUTO);
    sequences_make(seqs);
    begin(seqs, 0, false);
    uint32_t n = plan_make(seqs, 1, true, items);
    struct step_plan plan = {.step_id = 1u << 20, .items = items, .n_items = n, .n_tokens = n};
    assert_int_equal(runner_begin(runner, &plan, on_layers, NULL), ST_INVALID); /* not the next */
    finish(seqs);
    runner_destroy(runner);
}

static void test_the_loop_allocates_nothing_and_waits_once_a_step(void **state)
{
    (void)state;
    static struct sequence seqs[SEQS];
    runner_open(KV_DTYPE_AUTO);
    run(seqs, 2); /* all sizes were met */
    sequences_make(seqs);
    uint32_t step = 0, n_steps = 0;
    for (; step < STEPS; step++) {
        is_counting = step > 13; /* from the last prompt on: decode steps */
        begin(seqs, step, true);
        if (step > 0)
            finish(seqs);
        n_steps += is_counting;
        is_counting = false;
    }
    finish(seqs);
    print_message("%u steps: %u mallocs, %u device mallocs, %u synchronisations, %u waits for "
                  "tokens\n",
                  n_steps, n_mallocs, n_device_mallocs, n_syncs, n_waits);
    assert_int_equal(n_mallocs, 0);
    assert_int_equal(n_device_mallocs, 0);
    assert_int_equal(n_syncs, 0);
    assert_int_equal(n_waits, n_steps);
    runner_destroy(runner);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_two_steps_under_way_give_the_tokens_of_one),
        cmocka_unit_test(test_fp8_kv_gives_the_logits_of_the_cpu),
        cmocka_unit_test(test_fp8_kv_with_f32_weights_is_refused),
        cmocka_unit_test(test_a_pending_token_of_nobody_is_refused),
        cmocka_unit_test(test_the_loop_allocates_nothing_and_waits_once_a_step),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
