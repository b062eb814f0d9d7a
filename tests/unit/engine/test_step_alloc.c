/* A step takes no memory: this program counts its own calls of malloc, calloc and realloc while
 * each kind of runner computes. Under a sanitizer, which has an allocator of its own, nothing is
 * counted. */
#include "tests/support/model_configs.h"
#include "tests/support/runner_kit.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define COUNTED 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) ||                         \
    __has_feature(memory_sanitizer)
#define COUNTED 0
#endif
#endif
#ifndef COUNTED
#define COUNTED 1
#endif

static _Atomic uint64_t n_allocations;

#if COUNTED
void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_realloc(void *ptr, size_t bytes);

void *malloc(size_t bytes)
{
    n_allocations++;
    return __libc_malloc(bytes);
}

void *calloc(size_t count, size_t bytes)
{
    n_allocations++;
    return __libc_calloc(count, bytes);
}

void *realloc(void *ptr, size_t bytes)
{
    n_allocations++;
    return __libc_realloc(ptr, bytes);
}
#endif

static uint64_t steps_cost(const struct runner_opts *opts)
{
    struct kit kit;
    struct kit_seq a, b;
    kit_open(&kit, opts);
    kit_seq_init(&a, 1, 60, 320, 0);
    kit_seq_init(&b, 2, 60, 320, 16);
    a.sampling.temperature = b.sampling.temperature = 1;
    b.sampling.top_k = 20;
    b.sampling.top_p = 0.9f;
    uint64_t before = n_allocations;
    for (uint32_t i = 0; i < 20; i++) {
        struct step_item items[2] = {kit_item(&kit, &a, 3, true), kit_item(&kit, &b, 1, true)};
        if (kit_step(&kit, items, 2, true) != ST_OK)
            return UINT64_MAX;
    }
    uint64_t cost = n_allocations - before;
    kit_close(&kit);
    return cost;
}

static void test_step_of_the_transformer_runner_allocates_nothing(void **state)
{
    struct model_dir dir;
    (void)state;
    model_dir_make(&dir);
    model_dir_write_text(&dir, "config.json", CONFIG_QWEN3);
    for (uint32_t threads = 1; threads <= 2; threads++) {
        struct runner_opts opts = {.kind = RUNNER_TRANSFORMER,
                                   .model_path = dir.path,
                                   .load_format = LOAD_DUMMY,
                                   .block_tokens = 16,
                                   .max_batch_tokens = 64,
                                   .max_seqs = 4,
                                   .n_threads = threads,
                                   .layer_groups = 2};
        assert_int_equal(steps_cost(&opts), 0);
    }
    model_dir_remove(&dir);
}

static void test_step_of_the_hash_runner_allocates_nothing(void **state)
{
    struct runner_opts opts = {.kind = RUNNER_HASH,
                               .block_tokens = 16,
                               .max_batch_tokens = 64,
                               .max_seqs = 4,
                               .layer_groups = 2,
                               .hash_vocab_size = 320,
                               .hash_layer_count = 4};
    (void)state;
    assert_int_equal(steps_cost(&opts), 0);
}

static void test_step_alloc_counter_counts(void **state)
{
    (void)state;
    uint64_t before = n_allocations;
    void *volatile ptr = malloc(3);
    free(ptr);
    assert_int_equal(n_allocations - before, COUNTED);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_step_of_the_transformer_runner_allocates_nothing),
        cmocka_unit_test(test_step_of_the_hash_runner_allocates_nothing),
        cmocka_unit_test(test_step_alloc_counter_counts),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
