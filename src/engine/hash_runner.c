/* The hash runner: writes a hash chain into every KV block and draws the next token from all of it,
 * read back from the blocks. A stale, foreign, swapped, missing or doubled block, or a layer of
 * one, changes the output. The function is written down in hash_expect.h, which is the independent
 * half.
 *
 * Block layout: [layer][token][2] words of 64 bits: chain entry and check word.
 *
 * Two steps may be begun, so that everything above meets steps under way without a GPU. A step is
 * computed when it begins; how long it pretends to take is waited for when it is finished. */
#include "engine/runner.h"

#include "base/time.h"
#include "engine/hash_expect.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define GEOMETRY_KIND_HASH 0x68617368u

enum { HASH_DEPTH = 2 };

struct hash_result {
    uint64_t step_id, end_ns;
    uint32_t n_tokens;
    uint32_t *item_ids, *tokens; /* [max_seqs] */
};

struct hash_runner {
    struct runner base; /* first */
    uint32_t layer_groups, max_seqs, max_tokens;
    uint64_t step_delay_ns, token_delay_ns;
    struct hash_result results[HASH_DEPTH];
    uint32_t n_begun, n_finished; /* in all; % HASH_DEPTH: where the next one goes, is */
    /* The plan begun last, for after_item. */
    uint64_t last_step_id, last_end_ns;
    uint32_t n_last_items;
    uint32_t *sampled; /* [max_seqs] by item; HASH_NO_TOKEN: it did not sample */
};

#define HASH_NO_TOKEN UINT32_MAX

static uint64_t *hash_slot(const struct runner *r, const struct step_item *item, uint32_t layer,
                           uint32_t position)
{
    const struct kv_geometry *g = &r->geometry;
    uint32_t block = item->blocks[position / g->block_tokens];
    uint8_t *at = r->pool + (uint64_t)block * g->block_bytes + layer * g->layer_bytes;
    return (uint64_t *)at + 2ull * (position % g->block_tokens);
}

static uint64_t hash_word(const uint8_t *bytes)
{
    uint64_t word;
    memcpy(&word, bytes, sizeof(word)); /* little endian machines only, as all of dynd */
    return word;
}

/* Writes the chain of the item's new positions in one layer. */
static void hash_write(struct runner *r, const struct step_item *item, const uint32_t *tokens,
                       uint32_t layer)
{
    uint64_t entry =
        item->position > 0
            ? hash_slot(r, item, layer, item->position - 1)[0]
            : hash_mix64(hash_word(item->salt) ^ hash_mix64(hash_word(item->salt + 8) + layer));
    for (uint32_t i = 0; i < item->n_tokens; i++) {
        uint64_t *slot = hash_slot(r, item, layer, item->position + i);
        entry = hash_mix64(entry ^ hash_mix64(tokens[i] + 0x100000001u * (uint64_t)layer));
        slot[0] = entry;
        slot[1] = hash_mix64(entry + item->position + i);
    }
}

static uint64_t hash_fold(const struct runner *r, const struct step_item *item)
{
    const uint32_t end = item->position + item->n_tokens, block_tokens = r->geometry.block_tokens;
    uint64_t fold = 0;
    for (uint64_t l = 0; l < r->geometry.layer_count; l++)
        for (uint32_t start = 0; start < end; start += block_tokens) {
            const uint64_t *slot = hash_slot(r, item, (uint32_t)l, start);
            uint32_t n = end - start < block_tokens ? end - start : block_tokens;
            for (uint64_t i = 0; i < n; i++)
                fold += (slot[2 * i] ^ slot[2 * i + 1]) * (2 * ((start + i) * 1031 + l) + 1);
        }
    return fold;
}

static uint32_t hash_sample(const struct runner *r, const struct step_item *item)
{
    uint32_t temperature, top_p, min_p, vocab_size = r->info.vocab_size;
    memcpy(&temperature, &item->temperature, 4);
    memcpy(&top_p, &item->top_p, 4);
    memcpy(&min_p, &item->min_p, 4);
    uint64_t state = hash_mix64(temperature | (uint64_t)top_p << 32);
    state = hash_mix64(state ^ (min_p | (uint64_t)item->top_k << 32));
    state = hash_mix64(state ^ item->seed);
    state = hash_mix64(state ^ (item->choice | (uint64_t)item->output_position << 32));
    uint32_t token = (uint32_t)(hash_mix64(hash_fold(r, item) ^ state) % vocab_size);
    for (uint32_t tries = 0; tries < item->n_banned; tries++) {
        bool is_banned = false;
        for (uint32_t i = 0; i < item->n_banned; i++)
            is_banned |= item->banned[i] == token;
        if (!is_banned)
            break;
        token = (token + 1) % vocab_size;
    }
    return token;
}

/* How long the step pretends to take. */
static uint64_t hash_delay_ns(const struct hash_runner *hr, const struct step_plan *plan)
{
    uint64_t ns = hr->step_delay_ns;
    for (uint32_t i = 0; i < plan->n_items; i++)
        if (plan->items[i].n_tokens > 1 || plan->items[i].position == 0)
            ns += plan->items[i].n_tokens * hr->token_delay_ns;
    return ns;
}

static void hash_sleep_until(uint64_t ns)
{
    struct timespec t = {.tv_sec = (time_t)(ns / NS_PER_S), .tv_nsec = (long)(ns % NS_PER_S)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) != 0) {
    }
}

static bool hash_input_is_known(const struct hash_runner *hr, const struct step_plan *plan,
                                const struct step_item *item)
{
    return item->after_item == 0 || (item->n_tokens == 1 && plan->step_id == hr->last_step_id + 1 &&
                                     item->after_item <= hr->n_last_items &&
                                     hr->sampled[item->after_item - 1] != HASH_NO_TOKEN);
}

static bool hash_plan_fits(const struct hash_runner *hr, const struct step_plan *plan)
{
    const struct runner *r = &hr->base;
    if (r->pool == NULL || plan->n_items > hr->max_seqs || plan->n_tokens > hr->max_tokens)
        return false;
    for (uint32_t i = 0; i < plan->n_items; i++) {
        const struct step_item *item = &plan->items[i];
        uint64_t end = (uint64_t)item->position + item->n_tokens;
        if (item->n_tokens == 0 || item->n_banned > STEP_BANNED_MAX ||
            end > (uint64_t)item->n_blocks * r->geometry.block_tokens ||
            !hash_input_is_known(hr, plan, item))
            return false;
        for (uint32_t b = 0; b < item->n_blocks; b++)
            if (item->blocks[b] >= r->block_count)
                return false;
    }
    return true;
}

static void hash_write_layers(struct hash_runner *hr, const struct step_plan *plan, uint32_t first,
                              uint32_t end)
{
    for (uint32_t i = 0; i < plan->n_items; i++) {
        const struct step_item *item = &plan->items[i];
        const uint32_t *tokens =
            item->after_item != 0 ? &hr->sampled[item->after_item - 1] : item->tokens;
        for (uint32_t l = first; l < end; l++)
            hash_write(&hr->base, item, tokens, l);
    }
}

/* Layer group by layer group, each with its part of the delay, so that pushes overlap with it as
 * with real work. */
static void hash_write_groups(struct hash_runner *hr, const struct step_plan *plan,
                              uint64_t delay_ns,
                              void (*on_layers)(void *arg, uint64_t step_id, uint32_t layer_first,
                                                uint32_t layer_count),
                              void *arg)
{
    const uint32_t layers = hr->base.geometry.layer_count;
    uint64_t start_ns = delay_ns > 0 ? time_monotonic_ns() : 0;
    for (uint32_t group = 0, first = 0; group < hr->layer_groups; group++) {
        uint32_t end = layers * (group + 1) / hr->layer_groups;
        hash_write_layers(hr, plan, first, end);
        if (delay_ns > 0)
            hash_sleep_until(start_ns + delay_ns * (group + 1) / hr->layer_groups);
        on_layers(arg, plan->step_id, first, end - first);
        first = end;
    }
}

static enum status hash_begin(struct runner *r, const struct step_plan *plan,
                              void (*on_layers)(void *arg, uint64_t step_id, uint32_t layer_first,
                                                uint32_t layer_count),
                              void *arg)
{
    struct hash_runner *hr = (struct hash_runner *)r;
    if (!hash_plan_fits(hr, plan))
        return ST_INVALID;
    struct hash_result *result = &hr->results[hr->n_begun++ % HASH_DEPTH];
    uint64_t delay_ns = hash_delay_ns(hr, plan);
    *result = (struct hash_result){
        .step_id = plan->step_id, .item_ids = result->item_ids, .tokens = result->tokens};
    if (plan->report_layers) {
        hash_write_groups(hr, plan, delay_ns, on_layers, arg);
    } else {
        hash_write_layers(hr, plan, 0, r->geometry.layer_count);
        uint64_t now_ns = delay_ns > 0 ? time_monotonic_ns() : 0;
        result->end_ns = (now_ns > hr->last_end_ns ? now_ns : hr->last_end_ns) + delay_ns;
        hr->last_end_ns = result->end_ns;
    }
    for (uint32_t i = 0; i < plan->n_items; i++) {
        hr->sampled[i] = HASH_NO_TOKEN;
        if (!plan->items[i].sample)
            continue;
        hr->sampled[i] = hash_sample(r, &plan->items[i]);
        result->item_ids[result->n_tokens] = plan->items[i].item_id;
        result->tokens[result->n_tokens++] = hr->sampled[i];
    }
    hr->last_step_id = plan->step_id;
    hr->n_last_items = plan->n_items;
    return ST_OK;
}

static enum status hash_finish(struct runner *r, struct step_result *out)
{
    struct hash_runner *hr = (struct hash_runner *)r;
    const struct hash_result *result = &hr->results[hr->n_finished++ % HASH_DEPTH];
    if (result->end_ns > 0)
        hash_sleep_until(result->end_ns);
    *out = (struct step_result){.step_id = result->step_id,
                                .status = ST_OK,
                                .n_tokens = result->n_tokens,
                                .item_ids = result->item_ids,
                                .tokens = result->tokens};
    return ST_OK;
}

static uint32_t hash_depth(const struct runner *r)
{
    (void)r;
    return HASH_DEPTH;
}

static void hash_destroy(struct runner *r)
{
    struct hash_runner *hr = (struct hash_runner *)r;
    for (uint32_t i = 0; i < HASH_DEPTH; i++) {
        free(hr->results[i].item_ids);
        free(hr->results[i].tokens);
    }
    free(hr->sampled);
    free(hr);
}

static bool hash_arrays_alloc(struct hash_runner *hr)
{
    bool any_missing = false;
    for (uint32_t i = 0; i < HASH_DEPTH; i++) {
        hr->results[i].item_ids = calloc(hr->max_seqs, sizeof(uint32_t));
        hr->results[i].tokens = calloc(hr->max_seqs, sizeof(uint32_t));
        any_missing |= hr->results[i].item_ids == NULL || hr->results[i].tokens == NULL;
    }
    hr->sampled = calloc(hr->max_seqs, sizeof(uint32_t));
    return !any_missing && hr->sampled != NULL;
}

static enum status hash_describe(const struct runner_opts *opts, struct runner *r, char *err,
                                 size_t err_bytes)
{
    if (opts->hash_layer_count == 0 || opts->hash_layer_count > HASH_LAYERS_MAX ||
        opts->hash_vocab_size == 0) {
        snprintf(err, err_bytes, "hash runner: layer_count must be 1..%u and vocab_size at least 1",
                 HASH_LAYERS_MAX);
        return ST_INVALID;
    }
    r->geometry = (struct kv_geometry){.block_tokens = opts->block_tokens,
                                       .layer_count = opts->hash_layer_count,
                                       .kv_heads = 1,
                                       .head_dim = 1,
                                       .elem_bytes = 8,
                                       .dtype = "hash"};
    r->info.vocab_size = opts->hash_vocab_size;
    r->info.max_context_tokens = opts->max_context_tokens > 0 ? opts->max_context_tokens : 8192;
    uint64_t id = hash_combine(hash_combine(GEOMETRY_KIND_HASH, opts->hash_layer_count),
                               opts->hash_vocab_size);
    memcpy(r->info.model_hash.bytes, &id, sizeof(id));
    enum status st = kv_geometry_finish(&r->geometry, GEOMETRY_KIND_HASH);
    if (st != ST_OK)
        snprintf(err, err_bytes, "hash runner: %s", status_text(st));
    return st;
}

static enum status hash_measure(const struct runner_opts *opts, struct runner_size *out_size,
                                char *err, size_t err_bytes)
{
    struct runner r = {0};
    enum status st = hash_describe(opts, &r, err, err_bytes);
    if (st == ST_OK)
        *out_size = (struct runner_size){.geometry = r.geometry,
                                         .max_context_tokens = r.info.max_context_tokens};
    return st;
}

static enum status hash_create(const struct runner_opts *opts, struct runner **out_runner,
                               char *err, size_t err_bytes)
{
    struct hash_runner *hr = calloc(1, sizeof(*hr));
    if (hr == NULL)
        return ST_NO_MEMORY;
    enum status st = hash_describe(opts, &hr->base, err, err_bytes);
    if (st != ST_OK) {
        free(hr);
        return st;
    }
    hr->layer_groups = opts->layer_groups == 0                       ? 1
                       : opts->layer_groups > opts->hash_layer_count ? opts->hash_layer_count
                                                                     : opts->layer_groups;
    hr->max_seqs = opts->max_seqs;
    hr->max_tokens = opts->max_batch_tokens;
    hr->step_delay_ns = opts->hash_step_delay_us * NS_PER_US;
    hr->token_delay_ns = opts->hash_prefill_delay_us_per_token * NS_PER_US;
    if (!hash_arrays_alloc(hr)) {
        snprintf(err, err_bytes, "hash runner: %s", status_text(ST_NO_MEMORY));
        hash_destroy(&hr->base);
        return ST_NO_MEMORY;
    }
    if (opts->on_progress != NULL)
        opts->on_progress(opts->progress_arg, 1000);
    *out_runner = &hr->base;
    return ST_OK;
}

const struct runner_ops runner_hash_ops = {
    .name = "hash",
    .create = hash_create,
    .measure = hash_measure,
    .destroy = hash_destroy,
    .begin = hash_begin,
    .finish = hash_finish,
    .depth = hash_depth,
};
