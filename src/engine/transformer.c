/* The transformer runner: one forward pass for all families of model_desc, over all rows of a step.
 *
 *   ids -> embedding -> x                               x: residual stream, f32
 *   layer: norm(x) -> qkv -> (qk-norm) -> rope -> KV write -> attention -> o -+-> norm -> gate/up
 *          -> silu * -> down -+-> next layer              (+ adds to x inside the next norm)
 *   rows that sample: norm -> head -> logits -> token
 *
 * A row's result does not depend on its neighbours: every op keeps that promise on the CPU. */
#include "engine/transformer_int.h"

#include "base/file.h"
#include "base/philox.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GEOMETRY_KIND_TRANSFORMER 0x74726e66u
#define TOKENIZER_BYTES_MAX       (128u << 20)

/* ---- step ---- */

static bool plan_fits(const struct transformer *t, const struct step_plan *plan)
{
    const struct runner *r = &t->base;
    if (r->pool == NULL || plan->n_items > t->max_seqs || plan->n_tokens > t->max_tokens)
        return false;
    uint32_t n_tokens = 0;
    for (uint32_t i = 0; i < plan->n_items; i++) {
        const struct step_item *item = &plan->items[i];
        uint64_t end = (uint64_t)item->position + item->n_tokens;
        if (item->n_tokens == 0 || item->n_blocks > t->table_stride ||
            item->n_tokens > plan->n_tokens - n_tokens || item->n_banned > STEP_BANNED_MAX ||
            end > (uint64_t)item->n_blocks * r->geometry.block_tokens)
            return false;
        for (uint32_t b = 0; b < item->n_blocks; b++)
            if (item->blocks[b] >= r->block_count)
                return false;
        for (uint32_t k = 0; k < item->n_tokens; k++)
            if (item->tokens[k] >= t->desc.n_vocab)
                return false;
        n_tokens += item->n_tokens;
    }
    return n_tokens == plan->n_tokens;
}

/* Fills the host's input. Items that sample get their rows in plan order. */
static uint32_t input_fill(struct transformer *t, const struct step_plan *plan)
{
    struct step_input *in = &t->in;
    uint32_t row = 0, n_sampled = 0;
    for (uint32_t i = 0; i < plan->n_items; i++) {
        const struct step_item *item = &plan->items[i];
        memcpy(in->table + (size_t)i * t->table_stride, item->blocks,
               item->n_blocks * sizeof(uint32_t));
        in->row_first[i] = row;
        in->kv_tokens[i] = item->position + item->n_tokens;
        for (uint32_t k = 0; k < item->n_tokens; k++, row++) {
            in->ids[row] = item->tokens[k];
            in->pos[row] = item->position + k;
            in->seq[row] = i;
        }
        if (!item->sample)
            continue;
        in->last_rows[n_sampled] = row - 1;
        t->item_ids[n_sampled] = item->item_id;
        size_t banned = (size_t)n_sampled * STEP_BANNED_MAX;
        memcpy(in->banned + banned, item->banned, item->n_banned * sizeof(uint32_t));
        in->sample_rows[n_sampled++] = (struct sample_row){
            .temperature = item->temperature,
            .top_p = item->top_p,
            .min_p = item->min_p,
            .top_k = item->top_k,
            .uniform = philox_uniform(item->seed, item->choice, item->output_position),
            .n_banned = item->n_banned,
            .banned = t->in_dev.banned + banned};
    }
    in->row_first[plan->n_items] = row;
    return n_sampled;
}

static enum status input_upload(struct transformer *t, uint32_t n_items)
{
    const char *from = (const char *)t->in.sample_rows;
    const char *end = (const char *)(t->in.table + (size_t)n_items * t->table_stride);
    if (t->in_dev.sample_rows == t->in.sample_rows)
        return ST_OK;
    return t->dev->ops->copy_in(t->dev, t->in_dev.sample_rows, from, (size_t)(end - from));
}

static struct ops_rows rows_of(const struct transformer *t, uint32_t n_rows, uint32_t n_seqs,
                               uint32_t rows_max)
{
    return (struct ops_rows){.n_rows = n_rows,
                             .seq = t->in_dev.seq,
                             .pos = t->in_dev.pos,
                             .block_table = t->in_dev.table,
                             .table_stride = t->table_stride,
                             .n_seqs = n_seqs,
                             .rows_max = rows_max,
                             .row_first = t->in_dev.row_first,
                             .kv_tokens = t->in_dev.kv_tokens};
}

static uint32_t longest_item(const struct step_plan *plan)
{
    uint32_t most = 0;
    for (uint32_t i = 0; i < plan->n_items; i++)
        most = plan->items[i].n_tokens > most ? plan->items[i].n_tokens : most;
    return most;
}

struct layers_report {
    struct transformer *t;
    uint64_t step_id;
    void (*on_layers)(void *arg, uint64_t step_id, uint32_t layer_first, uint32_t layer_count);
    void *arg;
};

static enum status layers_report(void *arg, uint32_t first, uint32_t count)
{
    const struct layers_report *r = arg;
    enum status st = r->t->dev->ops->sync(r->t->dev);
    if (st == ST_OK)
        r->on_layers(r->arg, r->step_id, first, count);
    return st;
}

/* Rows of the record that decodes n sequences: enough of them that little is wasted, few enough
 * that all can be kept. The host replays nothing and has no padding. */
static uint32_t decode_rows(const struct transformer *t, uint32_t n)
{
    uint32_t most = t->max_seqs < t->max_tokens ? t->max_seqs : t->max_tokens;
    uint32_t step = n <= 8 ? 1 : n <= 16 ? 2 : n <= 32 ? 4 : n <= 64 ? 8 : n <= 128 ? 16 : 32;
    uint32_t rows = (n + step - 1) / step * step;
    if (t->dev->ops->is_host)
        return n;
    return rows < most ? rows : most;
}

static bool is_decode_only(const struct step_plan *plan)
{
    for (uint32_t i = 0; i < plan->n_items; i++)
        if (plan->items[i].n_tokens != 1 || !plan->items[i].sample)
            return false;
    return plan->n_items > 0 && !plan->report_layers;
}

/* Rows that compute nothing anybody reads, up to the size of a graph. */
static void input_pad(struct transformer *t, uint32_t n, uint32_t n_padded)
{
    struct step_input *in = &t->in;
    for (uint32_t i = n; i < n_padded; i++) {
        in->ids[i] = 0;
        in->pos[i] = OPS_NO_POSITION;
        in->seq[i] = i;
        in->last_rows[i] = i;
        in->row_first[i + 1] = i + 1;
        in->kv_tokens[i] = 0;
        in->sample_rows[i] = (struct sample_row){.temperature = 0.0f};
    }
    in->row_first[0] = 0;
}

static enum status step_body(struct transformer *t, const struct forward *step, uint32_t n_items)
{
    enum status st = input_upload(t, n_items);
    if (st == ST_OK)
        st = transformer_forward(t, step);
    if (st == ST_OK && step->n_sampled > 0)
        st = t->dev->ops->copy_out(t->dev, t->tokens, t->tokens_dev,
                                   step->n_sampled * sizeof(uint32_t));
    return st;
}

struct decode_body {
    struct transformer *t;
    uint32_t n;
};

static enum status decode_body(void *arg)
{
    const struct decode_body *body = arg;
    struct transformer *t = body->t;
    struct forward step = {.rows = rows_of(t, body->n, body->n, 1), .n_sampled = body->n};
    return step_body(t, &step, body->n);
}

/* n sequences of one token each: the same work every time, so a device may replay it. */
static enum status decode_run(struct transformer *t, uint32_t n)
{
    struct decode_body body = {t, decode_rows(t, n)};
    input_pad(t, n, body.n);
    return t->dev->ops->replay(t->dev, body.n, decode_body, &body);
}

/* Records what decoding will replay, largest first. Padding reads and writes no KV. */
static enum status decode_prepare(struct runner *r)
{
    struct transformer *t = (struct transformer *)r;
    enum status st = ST_OK;
    uint32_t most = t->max_seqs < t->max_tokens ? t->max_seqs : t->max_tokens, last = 0;
    for (uint32_t n = most; n > 0 && st == ST_OK && !t->dev->ops->is_host; n--) {
        for (uint32_t i = 0; i < 2 && decode_rows(t, n) != last && st == ST_OK; i++) {
            input_pad(t, 0, n);
            st = decode_run(t, n);
            if (st == ST_OK)
                st = t->dev->ops->sync(t->dev);
        }
        last = decode_rows(t, n);
    }
    return st;
}

static enum status tokens_check(const struct transformer *t, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (t->tokens[i] == OPS_NO_TOKEN)
            return ST_INTERNAL; /* no finite logit: the weights or the KV are broken */
    return ST_OK;
}

static enum status transformer_step(struct runner *r, const struct step_plan *plan,
                                    void (*on_layers)(void *arg, uint64_t step_id,
                                                      uint32_t layer_first, uint32_t layer_count),
                                    void *arg, struct step_result *out)
{
    struct transformer *t = (struct transformer *)r;
    if (!plan_fits(t, plan))
        return ST_INVALID;
    struct layers_report report = {t, plan->step_id, on_layers, arg};
    struct forward step = {.rows = rows_of(t, plan->n_tokens, plan->n_items, longest_item(plan)),
                           .n_sampled = input_fill(t, plan),
                           .layers_done = plan->report_layers ? layers_report : NULL,
                           .arg = &report};
    enum status st =
        is_decode_only(plan) ? decode_run(t, plan->n_items) : step_body(t, &step, plan->n_items);
    if (st == ST_OK)
        st = t->dev->ops->sync(t->dev);
    if (st == ST_OK)
        st = tokens_check(t, step.n_sampled);
    t->n_logits = st == ST_OK ? step.n_sampled : 0;
    *out = (struct step_result){.step_id = plan->step_id,
                                .status = st,
                                .n_tokens = t->n_logits,
                                .item_ids = t->item_ids,
                                .tokens = t->tokens};
    return st;
}

/* ---- create ---- */

static void transformer_destroy(struct runner *r)
{
    struct transformer *t = (struct transformer *)r;
    for (uint32_t i = 0; i < t->n_scratch; i++)
        t->dev->ops->free(t->dev, t->scratch[i]);
    if (t->weights.dev != NULL)
        model_weights_deinit(&t->weights);
    device_close(t->dev);
    free(t->logits_host);
    free(t->item_ids);
    free(t);
}

static enum status scratch_alloc(struct transformer *t, enum device_mem mem, uint64_t bytes,
                                 void *out)
{
    void *at = NULL;
    enum status st = t->dev->ops->alloc(t->dev, mem, bytes, &at);
    if (st != ST_OK)
        return st;
    t->scratch[t->n_scratch++] = at;
    memcpy(out, &at, sizeof(at));
    return ST_OK;
}

/* Places the arrays of an input at base; returns the bytes they take. */
static size_t input_place(const struct transformer *t, char *base, struct step_input *out)
{
    const uint64_t seqs = t->max_seqs, rows = t->max_tokens;
    const struct {
        uint64_t bytes;
        void *out;
    } arrays[] = {
        {seqs * sizeof(struct sample_row), &out->sample_rows},
        {rows * 4, &out->ids},
        {rows * 4, &out->pos},
        {rows * 4, &out->seq},
        {seqs * 4, &out->last_rows},
        {(seqs + 1) * 4, &out->row_first},
        {seqs * 4, &out->kv_tokens},
        {seqs * STEP_BANNED_MAX * 4, &out->banned},
        {seqs * t->table_stride * 4, &out->table},
    };
    size_t at = 0;
    for (size_t i = 0; i < sizeof(arrays) / sizeof(arrays[0]); i++) {
        char *place = base + at;
        memcpy(arrays[i].out, &place, sizeof(place));
        at += (arrays[i].bytes + 63) & ~(size_t)63;
    }
    return at;
}

static enum status input_make(struct transformer *t)
{
    struct step_input unplaced;
    char *host = NULL, *dev = NULL;
    size_t bytes = input_place(t, NULL, &unplaced);
    enum status st = scratch_alloc(t, DEVICE_MEM_HOST, bytes, &host);
    if (st == ST_OK && t->dev->ops->is_host)
        dev = host;
    else if (st == ST_OK)
        st = scratch_alloc(t, DEVICE_MEM_ACTIVATION, bytes, &dev);
    if (st != ST_OK)
        return st;
    input_place(t, host, &t->in);
    input_place(t, dev, &t->in_dev);
    return ST_OK;
}

static enum status scratch_make(struct transformer *t)
{
    const struct model_desc *d = &t->desc;
    const uint64_t act = ops_dtype_bytes(t->act), rows = t->max_tokens, seqs = t->max_seqs;
    const struct {
        uint64_t bytes;
        void *out;
    } arrays[] = {
        {rows * d->hidden * 4, &t->x},
        {rows * d->hidden * act, &t->h},
        {rows * d->hidden * 4, &t->delta},
        {rows * t->qkv_cols * act, &t->qkv},
        {rows * t->q_cols * act, &t->attn},
        {rows * 2 * d->intermediate * act, &t->gate_up},
        {seqs * d->hidden * act, &t->sampled},
        {seqs * d->n_vocab * 4, &t->logits},
        {seqs * 4, &t->tokens_dev},
        {d->head_dim / 2 * sizeof(float), &t->inv_freq},
    };
    enum status st = ST_OK;
    for (size_t i = 0; i < sizeof(arrays) / sizeof(*arrays) && st == ST_OK; i++)
        st = scratch_alloc(t, DEVICE_MEM_ACTIVATION, arrays[i].bytes, arrays[i].out);
    if (st == ST_OK)
        st = scratch_alloc(t, DEVICE_MEM_HOST, seqs * sizeof(uint32_t), &t->tokens);
    if (st == ST_OK)
        st = input_make(t);
    if (st == ST_OK)
        st =
            t->dev->ops->copy_in(t->dev, t->inv_freq, d->inv_freq, d->head_dim / 2 * sizeof(float));
    if (st == ST_OK)
        st = t->dev->ops->sync(t->dev);
    t->item_ids = calloc(t->max_seqs, sizeof(uint32_t));
    return st == ST_OK && t->item_ids == NULL ? ST_NO_MEMORY : st;
}

static enum ops_dtype dtype_choose(const struct runner_opts *opts, const struct model_desc *d)
{
    if (opts->dtype == LOAD_DTYPE_F32)
        return OPS_F32;
    if (opts->dtype == LOAD_DTYPE_BF16)
        return OPS_BF16;
    /* A config.json without a number format means float32, as it does to its writers. */
    return d->dtype == MODEL_DTYPE_BF16 || d->dtype == MODEL_DTYPE_F16 ? OPS_BF16 : OPS_F32;
}

/* First half of the SHA-256 of tokenizer.json, zero without one. A file that is there but cannot be
 * read is an error: a zero hash would pass for any tokenizer. */
static enum status tokenizer_identify(const char *dir, struct hash128 *out, struct text_error err)
{
    char path[FILE_PATH_BYTES], *text = NULL;
    size_t bytes = 0;
    uint8_t digest[32];
    enum status st = file_path_join(dir, "tokenizer.json", path, err);
    if (st == ST_OK)
        st = file_read(path, TOKENIZER_BYTES_MAX, &text, &bytes, err);
    if (st != ST_OK)
        return st == ST_NOT_FOUND ? ST_OK : st;
    hash_sha256(text, bytes, digest);
    memcpy(out->bytes, digest, sizeof(out->bytes));
    free(text);
    return ST_OK;
}

/* model_hash: identity of all that decides a token: mathematics, weights, number format. */
static void info_fill(struct transformer *t, const uint8_t weights_id[32])
{
    uint8_t parts[65], digest[32];
    struct runner_info *info = &t->base.info;
    model_desc_hash(&t->desc, parts);
    memcpy(parts + 32, weights_id, 32);
    parts[64] = (uint8_t)t->weights.dtype;
    hash_sha256(parts, sizeof(parts), digest);
    memcpy(info->model_hash.bytes, digest, sizeof(info->model_hash.bytes));
    info->vocab_size = t->desc.n_vocab;
    info->n_eos = t->desc.n_eos;
    memcpy(info->eos, t->desc.eos, sizeof(info->eos));
}

static enum status sizes_set(struct transformer *t, const struct runner_opts *opts,
                             enum ops_dtype dtype, struct text_error err)
{
    const struct model_desc *d = &t->desc;
    if (opts->block_tokens < 16 || opts->block_tokens > OPS_BLOCK_TOKENS_MAX ||
        (opts->block_tokens & (opts->block_tokens - 1)) != 0)
        return text_error_set(err, ST_INVALID, "kv.block_tokens is %u, not 16, 32, 64 or 128",
                              opts->block_tokens);
    if (opts->max_seqs == 0 || opts->max_batch_tokens == 0)
        return text_error_set(err, ST_INVALID,
                              "a step of %u sequences and %u tokens at most can compute nothing",
                              opts->max_seqs, opts->max_batch_tokens);
    uint32_t context = opts->max_context_tokens > 0 ? opts->max_context_tokens : d->max_positions;
    if (context > d->max_positions)
        return text_error_set(err, ST_INVALID,
                              "model.max_context_tokens is %u, the model's positions end at %u",
                              context, d->max_positions);
    t->base.info.max_context_tokens = context;
    t->max_seqs = opts->max_seqs;
    t->max_tokens = opts->max_batch_tokens;
    t->q_cols = d->n_heads * d->head_dim;
    t->qkv_cols = t->q_cols + 2 * d->n_kv_heads * d->head_dim;
    t->table_stride = context / opts->block_tokens + 2;
    t->layer_groups = opts->layer_groups == 0            ? 1
                      : opts->layer_groups > d->n_layers ? d->n_layers
                                                         : opts->layer_groups;
    t->base.geometry = (struct kv_geometry){.block_tokens = opts->block_tokens,
                                            .layer_count = d->n_layers,
                                            .kv_heads = d->n_kv_heads,
                                            .head_dim = d->head_dim,
                                            .elem_bytes = ops_dtype_bytes(dtype)};
    enum status st = kv_geometry_finish(&t->base.geometry, GEOMETRY_KIND_TRANSFORMER);
    return st == ST_OK ? ST_OK
                       : text_error_set(err, st, "a KV block of this shape is %s", status_text(st));
}

/* All that follows from the options and the small files of the model. */
static enum status transformer_describe(struct transformer *t, const struct runner_opts *opts,
                                        struct model_load_opts *out_load, struct text_error err)
{
    if (opts->model_path == NULL || opts->model_path[0] == '\0')
        return text_error_set(err, ST_INVALID, "model.path is not set");
    enum status st = model_desc_load(opts->model_path, &t->desc, err);
    if (st == ST_OK)
        st = tokenizer_identify(opts->model_path, &t->base.info.tokenizer_hash, err);
    if (st != ST_OK)
        return st;
    *out_load = (struct model_load_opts){.dir = opts->model_path,
                                         .dummy = opts->load_format == LOAD_DUMMY,
                                         .seed = opts->seed,
                                         .dtype = dtype_choose(opts, &t->desc),
                                         .on_progress = opts->on_progress,
                                         .progress_arg = opts->progress_arg};
    return sizes_set(t, opts, out_load->dtype, err);
}

static enum status device_open_named(enum device_kind kind, const struct device_opts *opts,
                                     struct device **out_dev, struct text_error err)
{
    struct device_caps caps = {.reason = "this build has no support for it"};
    const struct device_ops *ops = device_ops_get(kind);
    enum status st = ops != NULL ? ops->probe(&caps) : ST_UNSUPPORTED;
    if (st == ST_OK)
        st = ops->open(opts, out_dev);
    return st == ST_OK
               ? ST_OK
               : text_error_set(err, st, "the %s device cannot be opened: %s (%s)",
                                kind == DEVICE_CUDA ? "CUDA" : "CPU", status_text(st), caps.reason);
}

static enum status transformer_open(struct transformer *t, const struct runner_opts *opts,
                                    struct text_error err)
{
    uint8_t weights_id[32];
    struct model_load_opts lopts;
    enum status st = transformer_describe(t, opts, &lopts, err);
    if (st != ST_OK)
        return st;
    struct device_opts dopts = {.n_threads = opts->n_threads,
                                .cpus = opts->n_cpus > 0 ? opts->cpus : NULL,
                                .n_cpus = opts->n_cpus,
                                .n_vocab_max = t->desc.n_vocab,
                                .n_seqs_max = opts->max_seqs};
    st = device_open_named(opts->device, &dopts, &t->dev, err);
    if (st != ST_OK)
        return st;
    t->act = t->dev->ops->activation(lopts.dtype);
    t->dev->ops->bind_thread(t->dev);
    st = model_load(t->dev, &t->desc, &lopts, &t->weights, weights_id, err);
    if (st != ST_OK)
        return st;
    info_fill(t, weights_id);
    st = scratch_make(t);
    return st == ST_OK
               ? ST_OK
               : text_error_set(
                     err, st,
                     "the buffers of scheduler.max_batch_tokens = %u do not fit into memory",
                     t->max_tokens);
}

static enum status transformer_create(const struct runner_opts *opts, struct runner **out_runner,
                                      char *err, size_t err_bytes)
{
    struct transformer *t = calloc(1, sizeof(*t));
    if (t == NULL)
        return ST_NO_MEMORY;
    enum status st = transformer_open(t, opts, (struct text_error){err, err_bytes});
    if (st != ST_OK) {
        transformer_destroy(&t->base);
        return st;
    }
    *out_runner = &t->base;
    return ST_OK;
}

static enum status transformer_measure(const struct runner_opts *opts, struct runner_size *out_size,
                                       char *err, size_t err_bytes)
{
    struct text_error why = {err, err_bytes};
    struct model_load_opts lopts;
    uint64_t weight_bytes = 0;
    struct transformer *t = calloc(1, sizeof(*t));
    if (t == NULL)
        return text_error_set(why, ST_NO_MEMORY, "%s", status_text(ST_NO_MEMORY));
    enum status st = transformer_describe(t, opts, &lopts, why);
    lopts.on_progress = NULL; /* nothing is loaded */
    if (st == ST_OK)
        st = model_load_check(&t->desc, &lopts, &weight_bytes, why);
    if (st == ST_OK)
        *out_size = (struct runner_size){.geometry = t->base.geometry,
                                         .max_context_tokens = t->base.info.max_context_tokens,
                                         .n_params = model_desc_param_count(&t->desc),
                                         .weight_bytes = weight_bytes};
    free(t);
    return st;
}

static const float *transformer_logits(struct runner *r)
{
    struct transformer *t = (struct transformer *)r;
    const uint64_t row = t->desc.n_vocab * sizeof(float);
    if (t->dev->ops->is_host)
        return t->logits;
    if (t->logits_host == NULL)
        t->logits_host = malloc(t->max_seqs * row);
    if (t->logits_host == NULL ||
        t->dev->ops->copy_out(t->dev, t->logits_host, t->logits, t->n_logits * row) != ST_OK ||
        t->dev->ops->sync(t->dev) != ST_OK)
        return NULL;
    return t->logits_host;
}

static double transformer_replay_seconds(struct runner *r)
{
    struct transformer *t = (struct transformer *)r;
    return t->dev->ops->replay_seconds(t->dev);
}

static enum status transformer_alloc_pool(struct runner *r, uint64_t bytes, void **out_base)
{
    struct transformer *t = (struct transformer *)r;
    if (t->dev->ops->is_host)
        return ST_UNSUPPORTED;
    return scratch_alloc(t, DEVICE_MEM_POOL, bytes, out_base);
}

const struct runner_ops runner_transformer_ops = {
    .name = "transformer",
    .create = transformer_create,
    .measure = transformer_measure,
    .destroy = transformer_destroy,
    .step = transformer_step,
    .logits = transformer_logits,
    .replay_seconds = transformer_replay_seconds,
    .alloc_pool = transformer_alloc_pool,
    .prepare = decode_prepare,
};
