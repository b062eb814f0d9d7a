/* The transformer runner on small random models: results do not depend on how the work is cut, on
 * the neighbours, the threads, the block size or the place of the blocks; to the bit. */
#include "tests/support/model_configs.h"
#include "tests/support/runner_kit.h"

#include <math.h>
#include <sys/stat.h>

enum { VOCAB = 320 };

static struct model_dir llama, qwen2, qwen3, mistral;
static const struct model_dir *const all_models[] = {&llama, &qwen2, &qwen3, &mistral};

static int make_models(void **state)
{
    (void)state;
    model_dir_make(&llama);
    model_dir_make(&qwen2);
    model_dir_make(&qwen3);
    model_dir_make(&mistral);
    tiny_model_write(&llama, CONFIG_LLAMA, NULL, NULL);
    tiny_model_write(&qwen2, CONFIG_QWEN2, NULL, NULL);
    tiny_model_write(&qwen3, CONFIG_QWEN3, NULL, NULL);
    tiny_model_write(&mistral, CONFIG_MISTRAL, NULL, NULL);
    return 0;
}

static int remove_models(void **state)
{
    (void)state;
    model_dir_remove(&llama);
    model_dir_remove(&qwen2);
    model_dir_remove(&qwen3);
    model_dir_remove(&mistral);
    return 0;
}

static struct runner_opts opts_of(const struct model_dir *dir, enum load_dtype dtype)
{
    return (struct runner_opts){.kind = RUNNER_TRANSFORMER,
                                .model_path = dir->path,
                                .dtype = dtype,
                                .block_tokens = 16,
                                .max_batch_tokens = KIT_TOKENS_MAX,
                                .max_seqs = 4,
                                .n_threads = 1,
                                .layer_groups = 2};
}

static void open_model(struct kit *kit, const struct model_dir *dir, enum load_dtype dtype)
{
    struct runner_opts opts = opts_of(dir, dtype);
    kit_open(kit, &opts);
}

static void assert_logits(const struct kit *kit, uint32_t row, const float *wanted)
{
    assert_memory_equal(runner_logits(kit->runner) + (size_t)row * VOCAB, wanted,
                        VOCAB * sizeof(float));
}

static void keep_logits(const struct kit *kit, float *out)
{
    memcpy(out, runner_logits(kit->runner), VOCAB * sizeof(float));
    for (uint32_t i = 0; i < VOCAB; i++)
        assert_true(isfinite(out[i]));
}

/* Logits behind a prompt of n tokens computed at once, alone. */
static uint32_t reference(const struct model_dir *dir, enum load_dtype dtype, uint32_t seed,
                          uint32_t n, float *logits)
{
    struct kit kit;
    struct kit_seq seq;
    open_model(&kit, dir, dtype);
    kit_seq_init(&seq, seed, n, VOCAB, 0);
    uint32_t token = kit_finish(&kit, &seq, KIT_TOKENS_MAX);
    keep_logits(&kit, logits);
    kit_close(&kit);
    return token;
}

static void test_transformer_chunking_does_not_change_a_bit(void **state)
{
    static const uint32_t chunks[] = {1, 5, 16, 33};
    float logits[VOCAB];
    (void)state;
    for (unsigned m = 0; m < 8; m++) {
        const struct model_dir *dir = all_models[m / 2];
        enum load_dtype dtype = m % 2 == 0 ? LOAD_DTYPE_F32 : LOAD_DTYPE_BF16;
        uint32_t token = reference(dir, dtype, 1, 101, logits);
        struct kit kit;
        open_model(&kit, dir, dtype);
        for (unsigned c = 0; c < 4; c++) {
            struct kit_seq seq;
            kit_seq_init(&seq, 1, 101, VOCAB, 16 * (c % 3));
            assert_int_equal(kit_finish(&kit, &seq, chunks[c]), token);
            assert_logits(&kit, 0, logits);
        }
        kit_close(&kit);
    }
}

static void test_transformer_neighbours_do_not_change_a_bit(void **state)
{
    float logits[2][VOCAB];
    struct kit kit;
    struct kit_seq a, b, c;
    (void)state;
    for (unsigned m = 0; m < 4; m++) {
        reference(all_models[m], LOAD_DTYPE_BF16, 1, 70, logits[0]);
        reference(all_models[m], LOAD_DTYPE_BF16, 2, 35, logits[1]);
        open_model(&kit, all_models[m], LOAD_DTYPE_BF16);
        kit_seq_init(&a, 1, 70, VOCAB, 0);
        kit_seq_init(&b, 2, 35, VOCAB, 16);
        kit_seq_init(&c, 3, 90, VOCAB, 32);
        struct step_item first[2] = {kit_item(&kit, &c, 20, false), kit_item(&kit, &a, 69, false)};
        assert_int_equal(kit_step(&kit, first, 2, false), ST_OK);
        assert_int_equal(kit.result.n_tokens, 0);
        struct step_item items[3] = {kit_item(&kit, &b, 35, true), kit_item(&kit, &c, 70, true),
                                     kit_item(&kit, &a, 1, true)};
        assert_int_equal(kit_step(&kit, items, 3, false), ST_OK);
        assert_int_equal(kit.result.n_tokens, 3);
        assert_int_equal(kit.result.item_ids[2], items[2].item_id);
        assert_logits(&kit, 0, logits[1]);
        assert_logits(&kit, 2, logits[0]);
        kit_close(&kit);
    }
}

/* Nine at once: a number that a device which records steps rounds up. */
static void test_transformer_many_decoding_at_once_change_no_token(void **state)
{
    enum { N = 9 };
    struct kit kit;
    struct kit_seq seqs[N];
    struct step_item items[N];
    struct runner_opts opts = opts_of(&llama, LOAD_DTYPE_BF16);
    (void)state;
    opts.max_seqs = 16;
    kit_open(&kit, &opts);
    for (uint32_t i = 0; i < N; i++) {
        kit_seq_init(&seqs[i], i, 1, VOCAB, i);
        items[i] = kit_item(&kit, &seqs[i], 1, true);
    }
    assert_int_equal(kit_step(&kit, items, N, false), ST_OK);
    assert_int_equal(kit.result.n_tokens, N);
    uint32_t together[N];
    memcpy(together, kit.result.tokens, sizeof(together));
    for (uint32_t i = 0; i < N; i++) {
        assert_int_equal(kit_step(&kit, &items[i], 1, false), ST_OK);
        assert_int_equal(kit.result.tokens[0], together[i]);
    }
    kit_close(&kit);
}

static void test_transformer_threads_and_block_size_do_not_change_a_bit(void **state)
{
    static const struct {
        uint32_t threads, block_tokens;
    } cases[] = {{2, 16}, {3, 16}, {1, 32}, {2, 64}, {1, 128}};
    float logits[VOCAB];
    (void)state;
    reference(&llama, LOAD_DTYPE_BF16, 4, 120, logits);
    for (unsigned i = 0; i < 5; i++) {
        struct kit kit;
        struct kit_seq seq;
        struct runner_opts opts = opts_of(&llama, LOAD_DTYPE_BF16);
        opts.n_threads = cases[i].threads;
        opts.block_tokens = cases[i].block_tokens;
        kit_open(&kit, &opts);
        kit_seq_init(&seq, 4, 120, VOCAB, 8);
        kit_finish(&kit, &seq, 50);
        assert_logits(&kit, 0, logits);
        kit_close(&kit);
    }
}

/* What a transfer does: the blocks of one worker, copied into other places of another's pool. */
static void test_transformer_continues_from_copied_blocks(void **state)
{
    (void)state;
    for (unsigned m = 0; m < 4; m++) {
        struct kit from, to;
        struct kit_seq a, b;
        float logits[VOCAB];
        open_model(&from, all_models[m], LOAD_DTYPE_BF16);
        open_model(&to, all_models[m], LOAD_DTYPE_BF16);
        size_t block_bytes = runner_geometry(from.runner)->block_bytes;
        kit_seq_init(&a, 5, 60, VOCAB, 0);
        uint32_t token = kit_finish(&from, &a, KIT_TOKENS_MAX);
        b = a;
        for (uint32_t i = 0; i < 4; i++) {
            b.blocks[i] = 40 + 3 * i;
            memcpy(to.pool + b.blocks[i] * block_bytes, from.pool + a.blocks[i] * block_bytes,
                   block_bytes);
        }
        kit_decode(&from, &a, token, 12);
        kit_decode(&to, &b, token, 12);
        assert_memory_equal(a.tokens, b.tokens, a.n_tokens * sizeof(uint32_t));
        keep_logits(&from, logits);
        assert_logits(&to, 0, logits);
        kit_close(&from);
        kit_close(&to);
    }
}

static void test_transformer_shared_prefix_blocks_serve_two_sequences(void **state)
{
    struct kit kit;
    struct kit_seq a, b;
    float logits[VOCAB];
    (void)state;
    reference(&qwen3, LOAD_DTYPE_F32, 6, 80, logits);
    open_model(&kit, &qwen3, LOAD_DTYPE_F32);
    kit_seq_init(&a, 6, 80, VOCAB, 0);
    kit_finish(&kit, &a, KIT_TOKENS_MAX);
    kit_seq_init(&b, 6, 80, VOCAB, 16);
    memcpy(b.blocks, a.blocks, 3 * sizeof(uint32_t)); /* 48 tokens cached */
    b.n_done = 48;
    kit_finish(&kit, &b, KIT_TOKENS_MAX);
    assert_logits(&kit, 0, logits);
    kit_close(&kit);
}

/* Two layers with a window of 48 see 2 * 47 positions back, no more. */
static void test_transformer_window_hides_what_is_outside(void **state)
{
    struct kit kit;
    struct kit_seq seq;
    float logits[VOCAB];
    (void)state;
    reference(&mistral, LOAD_DTYPE_F32, 7, 150, logits);
    open_model(&kit, &mistral, LOAD_DTYPE_F32);
    for (uint32_t changed = 0; changed < 150; changed += 10) {
        kit_seq_init(&seq, 7, 150, VOCAB, 0);
        seq.tokens[changed] = (seq.tokens[changed] + 1) % VOCAB;
        kit_finish(&kit, &seq, KIT_TOKENS_MAX);
        bool is_equal = memcmp(runner_logits(kit.runner), logits, VOCAB * sizeof(float)) == 0;
        assert_int_equal(is_equal, changed < 149 - 2 * 47);
    }
    kit_close(&kit);
}

static void test_transformer_without_window_sees_all(void **state)
{
    struct kit kit;
    struct kit_seq seq;
    float logits[VOCAB];
    (void)state;
    reference(&llama, LOAD_DTYPE_F32, 8, 150, logits);
    open_model(&kit, &llama, LOAD_DTYPE_F32);
    for (uint32_t changed = 0; changed < 150; changed += 30) {
        kit_seq_init(&seq, 8, 150, VOCAB, 0);
        seq.tokens[changed] = (seq.tokens[changed] + 1) % VOCAB;
        kit_finish(&kit, &seq, KIT_TOKENS_MAX);
        assert_memory_not_equal(runner_logits(kit.runner), logits, VOCAB * sizeof(float));
    }
    kit_close(&kit);
}

/* ---- Sampling ------------------------------------------------------------------------------- */

static void test_transformer_greedy_takes_the_largest_logit(void **state)
{
    struct kit kit;
    struct kit_seq seq;
    float logits[VOCAB];
    uint32_t best = 0;
    (void)state;
    open_model(&kit, &llama, LOAD_DTYPE_F32);
    kit_seq_init(&seq, 9, 20, VOCAB, 0);
    uint32_t token = kit_finish(&kit, &seq, 20);
    keep_logits(&kit, logits);
    for (uint32_t i = 1; i < VOCAB; i++)
        if (logits[i] > logits[best])
            best = i;
    assert_int_equal(token, best);
    seq.n_done = 0;
    seq.sampling.n_banned = 1;
    seq.sampling.banned[0] = best;
    assert_int_not_equal(kit_finish(&kit, &seq, 20), best);
    seq.n_done = 0;
    seq.sampling.n_banned = 0;
    seq.sampling.temperature = 5;
    seq.sampling.top_k = 1; /* leaves the best alone, whatever the draw */
    assert_int_equal(kit_finish(&kit, &seq, 20), best);
    kit_close(&kit);
}

/* A sequence that stops anywhere continues elsewhere from its token log with the same tokens. */
static void test_transformer_sampled_sequence_resumes_on_another_runner(void **state)
{
    struct kit kit;
    struct kit_seq whole, resumed;
    (void)state;
    open_model(&kit, &llama, LOAD_DTYPE_BF16);
    kit_seq_init(&whole, 10, 20, VOCAB, 0);
    whole.sampling.temperature = 1.5f;
    whole.sampling.top_p = 0.95f;
    whole.sampling.seed = 12345;
    whole.sampling.choice = 3;
    kit_decode(&kit, &whole, kit_finish(&kit, &whole, 20), 30);
    kit_close(&kit);
    for (uint32_t cut = 1; cut < 30; cut += 7) {
        open_model(&kit, &llama, LOAD_DTYPE_BF16);
        resumed = whole;
        resumed.n_done = 0;
        resumed.n_tokens = 20 + cut;
        resumed.sampling.output_position = cut;
        memset(resumed.tokens + 20 + cut, 0, (30 - cut) * sizeof(uint32_t));
        kit_decode(&kit, &resumed, kit_finish(&kit, &resumed, 13), 30 - cut);
        assert_memory_equal(resumed.tokens, whole.tokens, 50 * sizeof(uint32_t));
        kit_close(&kit);
    }
}

static void test_transformer_choice_seed_and_position_change_the_draw(void **state)
{
    struct kit kit;
    struct kit_seq seq;
    uint32_t n_equal[3] = {0};
    (void)state;
    open_model(&kit, &llama, LOAD_DTYPE_F32);
    for (uint32_t i = 0; i < 20; i++) {
        uint32_t tokens[4];
        for (uint32_t k = 0; k < 4; k++) {
            kit_seq_init(&seq, 11, 3, VOCAB, 0);
            seq.sampling.temperature = 100; /* nearly uniform */
            seq.sampling.seed = i + (k == 1) * 1000;
            seq.sampling.choice = k == 2;
            seq.sampling.output_position = k == 3;
            tokens[k] = kit_finish(&kit, &seq, 3);
            if (k > 0)
                n_equal[k - 1] += tokens[k] == tokens[0];
        }
    }
    for (uint32_t k = 0; k < 3; k++)
        assert_true(n_equal[k] <= 2);
    kit_close(&kit);
}

/* ---- Groups, plans, options ----------------------------------------------------------------- */

struct written {
    struct kit *kit;
    uint32_t block, next;
};

/* When a group is reported, its layers are written and the later ones are not. */
static void check_written(void *arg, uint64_t step_id, uint32_t first, uint32_t count)
{
    struct written *w = arg;
    const struct kv_geometry *g = runner_geometry(w->kit->runner);
    const uint8_t *block = w->kit->pool + w->block * g->block_bytes;
    (void)step_id;
    assert_int_equal(first, w->next);
    w->next += count;
    for (uint32_t l = 0; l < g->layer_count; l++) {
        bool is_blank = true;
        for (uint64_t i = 0; i < g->layer_bytes; i++)
            is_blank &= block[l * g->layer_bytes + i] == 0xff;
        assert_int_equal(is_blank, l >= w->next);
    }
}

static void test_transformer_reports_a_group_when_its_kv_is_written(void **state)
{
    (void)state;
    for (uint32_t groups = 0; groups < 5; groups++) {
        struct kit kit;
        struct kit_seq seq;
        struct runner_opts opts = opts_of(&llama, LOAD_DTYPE_F32);
        opts.layer_groups = groups;
        kit_open(&kit, &opts);
        kit_seq_init(&seq, 12, 16, VOCAB, 0);
        struct step_item item = kit_item(&kit, &seq, 16, false);
        struct step_plan plan = {
            .step_id = 1, .n_items = 1, .n_tokens = 16, .items = &item, .report_layers = 1};
        struct written w = {.kit = &kit, .block = seq.blocks[0]};
        assert_int_equal(runner_step(kit.runner, &plan, check_written, &w, &kit.result), ST_OK);
        assert_int_equal(w.next, 3);
        kit_close(&kit);
    }
}

static void test_transformer_plan_out_of_bounds_is_refused_untouched(void **state)
{
    struct kit kit;
    struct kit_seq seq;
    uint32_t blocks[3] = {0, 1, KIT_BLOCKS}, tokens[40] = {[39] = VOCAB};
    (void)state;
    open_model(&kit, &llama, LOAD_DTYPE_F32);
    kit_seq_init(&seq, 13, 40, VOCAB, 0);
    struct step_item good = kit_item(&kit, &seq, 40, true);
    struct step_item bad[7] = {good, good, good, good, good, good, good};
    bad[0].blocks = blocks;
    bad[1].n_blocks = 2;
    bad[2].n_tokens = 0;
    bad[3].position = UINT32_MAX;
    bad[4].tokens = tokens;
    bad[5].n_blocks = UINT32_MAX;
    bad[6].n_banned = STEP_BANNED_MAX + 1;
    for (unsigned i = 0; i < 7; i++) {
        assert_int_equal(kit_step(&kit, &bad[i], 1, true), ST_INVALID);
        assert_int_equal(kit.result.status, ST_INVALID);
        assert_int_equal(kit.result.n_tokens, 0);
        assert_int_equal(kit.n_groups, 0);
    }
    struct step_plan plan = {.step_id = 9, .n_items = 1, .n_tokens = 41, .items = &good};
    assert_int_equal(runner_step(kit.runner, &plan, NULL, NULL, &kit.result), ST_INVALID);
    for (size_t i = 0; i < kit.pool_bytes; i++)
        assert_int_equal(kit.pool[i], 0xff);
    plan.n_tokens = 40;
    assert_int_equal(runner_step(kit.runner, &plan, NULL, NULL, &kit.result), ST_OK);
    struct step_item pending = good; /* one step at a time: there is no token to come */
    pending.position = 40;
    pending.n_tokens = 1;
    pending.after_item = 1;
    plan = (struct step_plan){.step_id = 10, .n_items = 1, .n_tokens = 1, .items = &pending};
    assert_int_equal(runner_step(kit.runner, &plan, NULL, NULL, &kit.result), ST_INVALID);
    kit_close(&kit);
}

static void test_transformer_empty_plan_is_a_step(void **state)
{
    struct kit kit;
    (void)state;
    open_model(&kit, &qwen2, LOAD_DTYPE_AUTO);
    assert_int_equal(kit_step(&kit, NULL, 0, true), ST_OK);
    assert_int_equal(kit.result.n_tokens, 0);
    kit_close(&kit);
}

static void expect_no_runner(const struct runner_opts *opts, enum status wanted, const char *needle)
{
    struct runner *runner = NULL;
    char err[512] = "";
    enum status st = runner_create(opts, &runner, err, sizeof(err));
    if (st != wanted || strstr(err, needle) == NULL)
        fail_msg("%s: got %d, \"%s\"", needle, (int)st, err);
    assert_null(runner);
    /* Measuring, which neither loads nor opens a device, refuses it in the same words. */
    struct runner_size size;
    char measure_err[512] = "";
    assert_int_equal(runner_measure(opts, &size, measure_err, sizeof(measure_err)), st);
    assert_string_equal(measure_err, err);
}

static void test_transformer_bad_options_are_refused_in_words(void **state)
{
    struct model_dir dir;
    struct runner_opts opts = opts_of(&llama, LOAD_DTYPE_AUTO);
    (void)state;
    opts.max_context_tokens = 513;
    expect_no_runner(&opts, ST_INVALID, "max_context_tokens");
    for (uint32_t tokens = 0; tokens < 300; tokens += 8) {
        opts = opts_of(&llama, LOAD_DTYPE_AUTO);
        opts.block_tokens = tokens;
        if (tokens != 16 && tokens != 32 && tokens != 64 && tokens != 128)
            expect_no_runner(&opts, ST_INVALID, "block_tokens");
    }
    opts = opts_of(&llama, LOAD_DTYPE_AUTO);
    opts.max_seqs = 0;
    expect_no_runner(&opts, ST_INVALID, "0 sequences");
    opts = opts_of(&llama, LOAD_DTYPE_AUTO);
    opts.max_batch_tokens = 0;
    expect_no_runner(&opts, ST_INVALID, "0 tokens");
    opts = opts_of(&llama, LOAD_DTYPE_AUTO);
    opts.model_path = NULL;
    expect_no_runner(&opts, ST_INVALID, "model.path");
    model_dir_make(&dir);
    opts = opts_of(&dir, LOAD_DTYPE_AUTO);
    expect_no_runner(&opts, ST_NOT_FOUND, "config.json");
    model_dir_write_text(&dir, "config.json", CONFIG_LLAMA);
    expect_no_runner(&opts, ST_NOT_FOUND, "model.safetensors");
    model_dir_write_text(&dir, "config.json", "{\"architectures\":[\"Other\"]}");
    expect_no_runner(&opts, ST_UNSUPPORTED, "Other");
    model_dir_remove(&dir);
}

static void test_transformer_info_and_geometry_come_from_the_model(void **state)
{
    struct kit kit, bf16;
    (void)state;
    open_model(&kit, &qwen3, LOAD_DTYPE_AUTO);
    open_model(&bf16, &qwen3, LOAD_DTYPE_BF16);
    const struct runner_info *info = runner_info(kit.runner);
    const struct kv_geometry *g = runner_geometry(kit.runner);
    assert_int_equal(info->vocab_size, VOCAB);
    assert_int_equal(info->max_context_tokens, 512);
    assert_int_equal(info->n_eos, 1);
    assert_int_equal(info->eos[0], 3);
    assert_int_equal(g->layer_count, 2);
    assert_int_equal(g->kv_heads, 2);
    assert_int_equal(g->head_dim, 32);
    assert_int_equal(g->elem_bytes, 4);
    assert_int_equal(g->layer_bytes, 2 * 2 * 16 * 32 * 4);
    assert_int_equal(g->block_bytes, 2 * g->layer_bytes);
    assert_int_equal(runner_geometry(bf16.runner)->elem_bytes, 2);
    assert_true(runner_geometry(bf16.runner)->layout_hash != g->layout_hash);
    struct runner_size size;
    struct runner_opts opts = opts_of(&qwen3, LOAD_DTYPE_AUTO);
    assert_int_equal(runner_measure(&opts, &size, NULL, 0), ST_OK);
    assert_int_equal(size.geometry.block_bytes, g->block_bytes);
    assert_true(size.geometry.layout_hash == g->layout_hash);
    assert_int_equal(size.max_context_tokens, 512);
    assert_true(size.n_params > 0 && size.weight_bytes >= 4 * size.n_params);
    assert_false(hash128_equal(&info->model_hash, &runner_info(bf16.runner)->model_hash));
    kit_close(&kit);
    kit_close(&bf16);
}

static void test_transformer_tokenizer_hash_is_of_the_bytes_of_its_file(void **state)
{
    static const char text[] = "{\"any\": \"bytes\"}\n";
    struct model_dir dir;
    struct kit kit;
    uint8_t digest[32];
    char path[128];
    const struct hash128 none = {{0}};
    (void)state;
    model_dir_make(&dir);
    tiny_model_write(&dir, CONFIG_LLAMA, NULL, NULL);
    open_model(&kit, &dir, LOAD_DTYPE_F32);
    assert_true(hash128_equal(&runner_info(kit.runner)->tokenizer_hash, &none));
    kit_close(&kit);
    model_dir_write_text(&dir, "tokenizer.json", text);
    hash_sha256(text, strlen(text), digest);
    open_model(&kit, &dir, LOAD_DTYPE_F32);
    assert_memory_equal(runner_info(kit.runner)->tokenizer_hash.bytes, digest, 16);
    kit_close(&kit);
    /* There, but no file: a zero hash would pass for any tokenizer. */
    snprintf(path, sizeof(path), "%s/tokenizer.json", dir.path);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    struct runner_opts opts = opts_of(&dir, LOAD_DTYPE_F32);
    expect_no_runner(&opts, ST_IO, "tokenizer.json");
    assert_int_equal(rmdir(path), 0);
    model_dir_remove(&dir);
}

static void test_transformer_dummy_weights_compute_and_follow_their_seed(void **state)
{
    struct model_dir dir;
    struct kit kit[3];
    struct kit_seq seq;
    float logits[3][VOCAB];
    (void)state;
    model_dir_make(&dir);
    model_dir_write_text(&dir, "config.json", CONFIG_QWEN3);
    for (uint32_t i = 0; i < 3; i++) {
        struct runner_opts opts = opts_of(&dir, LOAD_DTYPE_BF16);
        opts.load_format = LOAD_DUMMY;
        opts.seed = i / 2;
        kit_open(&kit[i], &opts);
        kit_seq_init(&seq, 14, 50, VOCAB, 0);
        kit_finish(&kit[i], &seq, 50);
        keep_logits(&kit[i], logits[i]);
        for (uint32_t v = 0; v < VOCAB; v++)
            assert_true(fabsf(logits[i][v]) < 100);
    }
    assert_memory_equal(logits[0], logits[1], sizeof(logits[0]));
    assert_memory_not_equal(logits[0], logits[2], sizeof(logits[0]));
    assert_true(hash128_equal(&runner_info(kit[0].runner)->model_hash,
                              &runner_info(kit[1].runner)->model_hash));
    assert_false(hash128_equal(&runner_info(kit[0].runner)->model_hash,
                               &runner_info(kit[2].runner)->model_hash));
    for (uint32_t i = 0; i < 3; i++)
        kit_close(&kit[i]);
    model_dir_remove(&dir);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_transformer_chunking_does_not_change_a_bit),
        cmocka_unit_test(test_transformer_neighbours_do_not_change_a_bit),
        cmocka_unit_test(test_transformer_many_decoding_at_once_change_no_token),
        cmocka_unit_test(test_transformer_threads_and_block_size_do_not_change_a_bit),
        cmocka_unit_test(test_transformer_continues_from_copied_blocks),
        cmocka_unit_test(test_transformer_shared_prefix_blocks_serve_two_sequences),
        cmocka_unit_test(test_transformer_window_hides_what_is_outside),
        cmocka_unit_test(test_transformer_without_window_sees_all),
        cmocka_unit_test(test_transformer_greedy_takes_the_largest_logit),
        cmocka_unit_test(test_transformer_sampled_sequence_resumes_on_another_runner),
        cmocka_unit_test(test_transformer_choice_seed_and_position_change_the_draw),
        cmocka_unit_test(test_transformer_reports_a_group_when_its_kv_is_written),
        cmocka_unit_test(test_transformer_plan_out_of_bounds_is_refused_untouched),
        cmocka_unit_test(test_transformer_empty_plan_is_a_step),
        cmocka_unit_test(test_transformer_bad_options_are_refused_in_words),
        cmocka_unit_test(test_transformer_info_and_geometry_come_from_the_model),
        cmocka_unit_test(test_transformer_tokenizer_hash_is_of_the_bytes_of_its_file),
        cmocka_unit_test(test_transformer_dummy_weights_compute_and_follow_their_seed),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, make_models, remove_models);
}
