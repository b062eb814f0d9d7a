/* Steps of the transformer runner: a plan becomes arrays that the device reads, the forward pass is
 * put on the device, and later its tokens are taken.
 *
 * On a device with a queue two steps may be under way. The host writes the input of step n while
 * step n - 1 runs; a token that n - 1 has yet to sample is named by its place (OPS_ID_PENDING). */
#include "engine/transformer_int.h"

#include "base/philox.h"

#include <stdlib.h>
#include <string.h>

#define NO_TOKEN_PLACE UINT32_MAX

/* ---- input ---- */

/* Places the arrays of an input at base; returns the bytes they take. */
static size_t input_place(const struct transformer *t, uint32_t n_rows, uint32_t n_seqs, char *base,
                          struct step_input *out)
{
    const uint64_t seqs = n_seqs, rows = n_rows;
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

enum status transformer_input_make(struct transformer *t)
{
    struct step_input unplaced;
    const bool is_host = t->dev->ops->is_host;
    const size_t bytes = input_place(t, t->max_tokens, t->max_seqs, NULL, &unplaced);
    enum status st = ST_OK;
    for (uint32_t i = 0; i < 2 && st == ST_OK; i++) {
        struct step_turn *turn = &t->turns[i];
        turn->item_ids = calloc(t->max_seqs, sizeof(uint32_t));
        st = turn->item_ids != NULL ? ST_OK : ST_NO_MEMORY;
        if (st == ST_OK)
            st = transformer_alloc(t, DEVICE_MEM_HOST, bytes, &turn->input);
        if (st == ST_OK)
            st = transformer_alloc(t, DEVICE_MEM_HOST, t->max_seqs * sizeof(uint32_t),
                                   &turn->tokens);
    }
    t->sampled_of = calloc(t->max_seqs, sizeof(uint32_t));
    t->done = calloc(t->max_seqs, 2 * sizeof(uint32_t));
    if (st == ST_OK && (t->sampled_of == NULL || t->done == NULL))
        st = ST_NO_MEMORY;
    if (st == ST_OK && !is_host)
        st = transformer_alloc(t, DEVICE_MEM_ACTIVATION, bytes, &t->input_dev);
    return st == ST_OK && !is_host
               ? transformer_alloc(t, DEVICE_MEM_ACTIVATION, sizeof(uint32_t), &t->turn_dev)
               : st;
}

/* The token that the item continues with is sampled by the step ahead of it. */
static bool is_pending_known(const struct transformer *t, const struct step_plan *plan,
                             const struct step_item *item)
{
    return !t->dev->ops->is_host && item->n_tokens == 1 && plan->step_id == t->last_step_id + 1 &&
           item->after_item <= t->n_last && t->sampled_of[item->after_item - 1] != NO_TOKEN_PLACE;
}

static bool item_fits(const struct transformer *t, const struct step_plan *plan,
                      const struct step_item *item)
{
    const struct runner *r = &t->base;
    uint64_t end = (uint64_t)item->position + item->n_tokens;
    if (item->n_tokens == 0 || item->n_blocks > t->table_stride ||
        item->n_banned > STEP_BANNED_MAX ||
        end > (uint64_t)item->n_blocks * r->geometry.block_tokens)
        return false;
    for (uint32_t b = 0; b < item->n_blocks; b++)
        if (item->blocks[b] >= r->block_count)
            return false;
    if (item->after_item > 0)
        return is_pending_known(t, plan, item);
    for (uint32_t k = 0; k < item->n_tokens; k++)
        if (item->tokens[k] >= t->desc.n_vocab)
            return false;
    return true;
}

static bool plan_fits(const struct transformer *t, const struct step_plan *plan)
{
    uint64_t n_tokens = 0;
    if (t->base.pool == NULL || plan->n_items > t->max_seqs || plan->n_tokens > t->max_tokens)
        return false;
    for (uint32_t i = 0; i < plan->n_items; i++) {
        if (!item_fits(t, plan, &plan->items[i]))
            return false;
        n_tokens += plan->items[i].n_tokens;
    }
    return n_tokens == plan->n_tokens;
}

static void sample_row_fill(const struct transformer *t, const struct step_input *in,
                            const struct step_item *item, uint32_t place)
{
    size_t banned = (size_t)place * STEP_BANNED_MAX;
    memcpy(in->banned + banned, item->banned, item->n_banned * sizeof(uint32_t));
    in->sample_rows[place] = (struct sample_row){
        .temperature = item->temperature,
        .top_p = item->top_p,
        .min_p = item->min_p,
        .top_k = item->top_k,
        .uniform = philox_uniform(item->seed, item->choice, item->output_position),
        .n_banned = item->n_banned,
        .banned = t->in_dev.banned + banned};
}

/* Items that sample get their rows in plan order. */
static void input_fill(struct transformer *t, const struct step_plan *plan,
                       const struct step_input *in, struct step_turn *turn)
{
    uint32_t row = 0, n_sampled = 0;
    for (uint32_t i = 0; i < plan->n_items; i++) {
        const struct step_item *item = &plan->items[i];
        memcpy(in->table + (size_t)i * t->table_stride, item->blocks,
               item->n_blocks * sizeof(uint32_t));
        in->row_first[i] = row;
        in->kv_tokens[i] = item->position + item->n_tokens;
        for (uint32_t k = 0; k < item->n_tokens; k++, row++) {
            in->ids[row] = item->after_item > 0
                               ? OPS_ID_PENDING | t->sampled_of[item->after_item - 1]
                               : item->tokens[k];
            in->pos[row] = item->position + k;
            in->seq[row] = i;
        }
        if (!item->sample)
            continue;
        in->last_rows[n_sampled] = row - 1;
        turn->item_ids[n_sampled] = item->item_id;
        sample_row_fill(t, in, item, n_sampled++);
    }
    in->row_first[plan->n_items] = row;
    turn->n_sampled = n_sampled;
}

/* Rows that compute nothing anybody reads, up to the size of a record. */
static void input_pad(const struct step_input *in, uint32_t n, uint32_t n_padded)
{
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

/* Where the items of the plan begun last leave their tokens. */
static void places_note(struct transformer *t, const struct step_plan *plan)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < plan->n_items; i++)
        t->sampled_of[i] = plan->items[i].sample ? n++ : NO_TOKEN_PLACE;
    t->n_last = plan->n_items;
    t->last_step_id = plan->step_id;
}

/* ---- work for the device ---- */

/* A forward pass with all that it reads brought there and its tokens brought back. */
struct step_work {
    struct transformer *t;
    struct forward forward;
};

static enum status input_copy(struct transformer *t, const struct forward *step)
{
    struct attention_args plans[2];
    const struct ops_rows *rows = &step->rows;
    const struct step_input *in = &t->in_dev;
    const uint32_t *base = t->input_dev;
    struct step_input_args args = {.src = {t->turns[0].input, t->turns[1].input},
                                   .dst = t->input_dev,
                                   .turn = t->turn_dev,
                                   .tokens = t->tokens_dev,
                                   .n_words = (uint32_t)(in->table - base),
                                   .ids_at = (uint32_t)(in->ids - base),
                                   .n_ids = rows->n_rows,
                                   .table_at = (uint32_t)(in->table - base),
                                   .table_stride = t->table_stride,
                                   .kv_tokens_at = (uint32_t)(in->kv_tokens - base),
                                   .n_seqs = rows->n_seqs,
                                   .block_tokens = t->base.geometry.block_tokens,
                                   .plans = plans,
                                   .n_plans = transformer_attention_plans(t, step, plans)};
    return t->dev->ops->step_input(t->dev, &args);
}

static enum status step_put(void *arg)
{
    const struct step_work *work = arg;
    struct transformer *t = work->t;
    if (t->dev->ops->is_host)
        return transformer_forward(t, &work->forward);
    struct step_output_args out = {.tokens = t->tokens_dev,
                                   .dst = {t->turns[0].tokens, t->turns[1].tokens},
                                   .turn = t->turn_dev,
                                   .n = work->forward.n_sampled};
    enum status st = input_copy(t, &work->forward);
    if (st == ST_OK)
        st = transformer_forward(t, &work->forward);
    return st == ST_OK ? t->dev->ops->step_output(t->dev, &out) : st;
}

/* Where the device will find the input of a step of that size; the answer: where to write it. */
static struct step_input inputs_place(struct transformer *t, uint32_t n_rows, uint32_t n_seqs)
{
    struct step_input in;
    char *host = (char *)t->turns[t->n_begun % 2].input;
    input_place(t, n_rows, n_seqs, host, &in);
    input_place(t, n_rows, n_seqs, t->dev->ops->is_host ? host : (char *)t->input_dev, &t->in_dev);
    return in;
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

/* Behind the work of a step. After an error the turn is not over, and the device is told so; one
 * that cannot be told would take the next step's input from the wrong place, and is done with. */
static enum status turn_end(struct transformer *t, enum status st)
{
    const struct device_ops *ops = t->dev->ops;
    if (st == ST_OK && !ops->is_host)
        st = ops->mark(t->dev, t->n_begun % 2);
    if (st == ST_OK)
        t->n_begun++;
    if (st == ST_OK || ops->is_host)
        return st;
    bool is_told = ops->sync(t->dev) == ST_OK &&
                   ops->copy_in(t->dev, t->turn_dev, &t->n_begun, sizeof(t->n_begun)) == ST_OK &&
                   ops->sync(t->dev) == ST_OK;
    return is_told ? st : ST_DEVICE;
}

/* n sequences of one token each, the same work every time: a device may replay it. plan NULL: all
 * of them padding. */
static enum status decode_begin(struct transformer *t, const struct step_plan *plan, uint32_t n)
{
    const uint32_t n_rows = decode_rows(t, n);
    struct step_input in = inputs_place(t, n_rows, n_rows);
    if (plan != NULL)
        input_fill(t, plan, &in, &t->turns[t->n_begun % 2]);
    input_pad(&in, plan != NULL ? n : 0, n_rows);
    struct step_work work = {
        .t = t, .forward = {.rows = rows_of(t, n_rows, n_rows, 1), .n_sampled = n_rows}};
    return turn_end(t, t->dev->ops->replay(t->dev, n_rows, step_put, &work));
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

static enum status mixed_begin(struct transformer *t, const struct step_plan *plan,
                               struct layers_report *report)
{
    struct step_turn *turn = &t->turns[t->n_begun % 2];
    struct step_input in = inputs_place(t, plan->n_tokens, plan->n_items);
    input_fill(t, plan, &in, turn);
    struct step_work work = {
        .t = t,
        .forward = {.rows = rows_of(t, plan->n_tokens, plan->n_items, longest_item(plan)),
                    .n_sampled = turn->n_sampled,
                    .layers_done = plan->report_layers ? layers_report : NULL,
                    .arg = report}};
    return turn_end(t, step_put(&work));
}

static bool is_decode_only(const struct step_plan *plan)
{
    for (uint32_t i = 0; i < plan->n_items; i++)
        if (plan->items[i].n_tokens != 1 || !plan->items[i].sample)
            return false;
    return plan->n_items > 0 && !plan->report_layers;
}

/* ---- runner ---- */

enum status transformer_begin(struct runner *r, const struct step_plan *plan,
                              void (*on_layers)(void *arg, uint64_t step_id, uint32_t layer_first,
                                                uint32_t layer_count),
                              void *arg)
{
    struct transformer *t = (struct transformer *)r;
    if (!plan_fits(t, plan))
        return ST_INVALID;
    struct layers_report report = {t, plan->step_id, on_layers, arg};
    t->turns[t->n_begun % 2].step_id = plan->step_id;
    enum status st =
        is_decode_only(plan) ? decode_begin(t, plan, plan->n_items) : mixed_begin(t, plan, &report);
    t->n_last = 0;
    if (st == ST_OK)
        places_note(t, plan);
    return st;
}

static enum status tokens_check(const uint32_t *tokens, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (tokens[i] == OPS_NO_TOKEN)
            return ST_INTERNAL; /* no finite logit: the weights or the KV are broken */
    return ST_OK;
}

enum status transformer_finish(struct runner *r, struct step_result *out)
{
    struct transformer *t = (struct transformer *)r;
    const struct device_ops *ops = t->dev->ops;
    if (t->n_finished == t->n_begun)
        return ST_INVALID;
    const struct step_turn *turn = &t->turns[t->n_finished % 2];
    enum status st = ops->is_host ? ST_OK : ops->wait(t->dev, t->n_finished % 2);
    const uint32_t *tokens = ops->is_host ? t->tokens_dev : turn->tokens;
    const size_t bytes = turn->n_sampled * sizeof(uint32_t);
    t->n_finished++;
    if (st == ST_OK)
        st = tokens_check(tokens, turn->n_sampled);
    /* The step that is begun next writes where these lie. */
    memcpy(t->done, turn->item_ids, bytes);
    memcpy(t->done + t->max_seqs, tokens, bytes);
    t->n_logits = st == ST_OK ? turn->n_sampled : 0;
    *out = (struct step_result){.step_id = turn->step_id,
                                .status = st,
                                .n_tokens = t->n_logits,
                                .item_ids = t->done,
                                .tokens = t->done + t->max_seqs};
    return st;
}

/* Records what decoding will replay, largest first. Padding reads and writes no KV. */
enum status transformer_prepare(struct runner *r)
{
    struct transformer *t = (struct transformer *)r;
    enum status st = ST_OK;
    uint32_t most = t->max_seqs < t->max_tokens ? t->max_seqs : t->max_tokens, last = 0;
    for (uint32_t n = most; n > 0 && st == ST_OK && !t->dev->ops->is_host; n--) {
        for (uint32_t i = 0; i < 2 && decode_rows(t, n) != last && st == ST_OK; i++) {
            st = decode_begin(t, NULL, n);
            if (st == ST_OK)
                st = t->dev->ops->sync(t->dev);
            t->n_finished = t->n_begun;
        }
        last = decode_rows(t, n);
    }
    return st;
}
