/* Steps: planning one, perhaps behind one that is under way, pushing its layers as they are
 * written, taking its result. */
#include "worker/core_int.h"

#include <assert.h>

/* Tokens of the prompt (or of the log, after a preemption) that no step has taken yet. */
static uint32_t prompt_left(const struct seq *s)
{
    return s->state == SEQ_PREFILL && s->n_planned < s->n_tokens ? s->n_tokens - s->n_planned : 0;
}

/* Does it go on by one token, as far as is known while its last one is perhaps being sampled? */
static bool wants_token(const struct worker_core *core, const struct seq *s)
{
    uint32_t end = s->n_tokens + s->n_ahead;
    return prompt_left(s) == 0 && end - s->n_prompt < s->sampling.max_new_tokens &&
           end < core->opts.max_context_tokens;
}

/* The item in the step before that samples the token which this one begins with. */
static uint32_t item_before(const struct worker_core *core, const struct core_step *step,
                            const struct seq *s)
{
    const struct core_step *before = &core->steps[step_index(core, core->n_steps - 1)];
    assert(core->n_steps > 0 && before->id + 1 == step->id);
    assert(before->item_slots[s->item_index] == seq_slot(core, s));
    (void)step, (void)before, (void)s; /* without assertions */
#if defined(DYND_PLANT) && DYND_PLANT == 4
    return step->n_items; /* planted bug for the simulator's self-test: its place in this step */
#else
    return s->item_index;
#endif
}

static void item_add(struct worker_core *core, struct core_step *step, struct seq *s,
                     uint32_t n_tokens)
{
    uint32_t end = s->n_planned + n_tokens;
    struct step_item *item = &step->items[step->n_items];
    *item = (struct step_item){.item_id = step->n_items,
                               .n_tokens = n_tokens,
                               .position = s->n_planned,
                               .n_blocks = blocks_for(core, end),
                               .blocks = s->indices};
    if (s->n_planned < s->n_tokens)
        item->tokens = s->tokens + s->n_planned;
    else
        item->after_item = 1 + item_before(core, step, s);
    for (uint32_t i = 0; i < sizeof(item->salt); i++)
        item->salt[i] = s->salt[i];
    if (end == s->n_tokens + s->n_ahead) {
        const struct wire_sampling *sampling = &s->sampling;
        item->sample = 1;
        item->output_position = end - s->n_prompt;
        item->choice = s->id.choice;
        item->seed = sampling->seed;
        item->temperature = sampling->temperature;
        item->top_p = sampling->top_p;
        item->min_p = sampling->min_p;
        item->top_k = sampling->top_k;
        if (item->output_position < sampling->min_new_tokens)
            item->n_banned = core_end_ids(core, &s->sampling, item->banned);
    }
    s->in_step++;
    s->n_planned = end;
    s->n_ahead += item->sample;
    s->item_index = step->n_items;
    step->item_slots[step->n_items++] = seq_slot(core, s);
    step->n_tokens += n_tokens;
}

enum room { ROOM_MADE, ROOM_PREEMPTED, ROOM_LATER };

/* Makes room for the KV of the next token. When there is none, the youngest running sequences are
 * preempted, in the end this one. Planned ones are older than it, so they are never hit.
 * ROOM_LATER: the youngest is in a step under way. */
static enum room seq_grow(struct worker_core *core, struct seq *s)
{
    uint32_t need = blocks_for(core, s->n_tokens + s->n_ahead);
    while (s->n_blocks < need) {
        if (seq_add_block(core, s) == ST_OK)
            continue;
        struct seq *youngest = list_entry(core->running.prev, struct seq, link);
        if (youngest->in_step > 0)
            return ROOM_LATER;
        seq_preempt(core, youngest);
        if (youngest == s)
            return ROOM_PREEMPTED;
    }
    return ROOM_MADE;
}

/* Oldest first. A prompt that waits keeps room for one block of it, however many sequences decode.
 * Returns the stamp from which on the step may take nothing: the youngest have to leave the steps,
 * so that they can be preempted. */
static uint64_t plan_decodes(struct worker_core *core, struct core_step *step)
{
    uint32_t budget = core->opts.max_batch_tokens;
    struct list *node;
    list_for_each(node, &core->running)
    {
        if (prompt_left(list_entry(node, struct seq, link)) > 0) {
            budget -= core->opts.pool.block_tokens;
            break;
        }
    }
    if (budget == 0)
        budget = 1;
    list_for_each(node, &core->running)
    {
        struct seq *s = list_entry(node, struct seq, link);
        if (step->n_items == core->opts.max_seqs || step->n_tokens == budget)
            break;
        if (!wants_token(core, s))
            continue;
        enum room room = seq_grow(core, s);
        if (room == ROOM_LATER)
            return s->stamp;
        if (room == ROOM_PREEMPTED)
            break; /* it was the youngest */
        item_add(core, step, s, 1);
    }
    return UINT64_MAX;
}

/* Tokens of the next chunk of s; 0: it does not fit into this step. */
static uint32_t chunk_tokens(const struct worker_core *core, const struct core_step *step,
                             const struct seq *s)
{
    uint32_t left = prompt_left(s);
    uint32_t room = core->opts.max_batch_tokens - step->n_tokens;
    uint32_t n = left;
    if (n > core->opts.prefill_chunk_tokens)
        n = core->opts.prefill_chunk_tokens;
    if (n > room)
        n = room;
    if (n < left) /* n_planned is at a border already */
        n -= n % core->opts.pool.block_tokens;
    return n;
}

static void plan_prompts(struct worker_core *core, uint64_t now_ns, struct core_step *step,
                         uint64_t stamp_end)
{
    struct list *node;
    list_for_each(node, &core->running)
    {
        struct seq *s = list_entry(node, struct seq, link);
        if (step->n_items == core->opts.max_seqs || s->stamp >= stamp_end)
            return;
        if (prompt_left(s) == 0)
            continue;
        uint32_t layers = is_prefill_role(core) ? core->opts.pool.layer_count : 0;
        if (!core_push_has_room(core, layers))
            return; /* the transport is several steps behind */
        uint32_t n = chunk_tokens(core, step, s);
        if (n == 0)
            continue;
        core->push_reserved += layers;
        if (s->started_ns == 0)
            s->started_ns = now_ns;
        item_add(core, step, s, n);
        step->n_prompt_tokens += n;
    }
}

/* Nothing is planned behind a step that counts for nothing: what it could not begin with would
 * spoil one step after the other. */
static bool can_plan(const struct worker_core *core)
{
    if (core->n_steps == 0)
        return true;
    const struct core_step *newest = &core->steps[step_index(core, core->n_steps - 1)];
    return core->n_steps < core->steps_max && newest->void_status == ST_OK &&
           newest->n_prompt_tokens <= core->opts.ahead_prompt_tokens;
}

bool worker_core_next_step(struct worker_core *core, uint64_t now_ns, struct step_plan *out)
{
    if (!can_plan(core))
        return false;
    struct core_step *step = &core->steps[step_index(core, core->n_steps)];
    *step = (struct core_step){.id = core->step_id + 1,
                               .started_ns = now_ns,
                               .items = step->items,
                               .item_slots = step->item_slots};
    core->push_reserved = 0;
    core_admit(core, now_ns);
    uint64_t preemptions = core->totals.preemptions;
    uint64_t stamp_end = plan_decodes(core, step);
    if (step->n_items == 0 && core->totals.preemptions != preemptions)
        core_admit(core,
                   now_ns); /* the only runner preempted itself: no event would bring it back */
    plan_prompts(core, now_ns, step, stamp_end);
    if (step->n_items == 0)
        return false;
    core->n_steps++;
    core->step_id++;
    core->layers_seen = 0;
    *out = (struct step_plan){.step_id = step->id,
                              .n_items = step->n_items,
                              .n_tokens = step->n_tokens,
                              .items = step->items,
                              .report_layers = is_prefill_role(core)};
    return true;
}

/* Pushes layers of what the step under way has written. Chunks begin at block borders and end at
 * one or with the prompt, so all their blocks are final. */
static void item_push(struct worker_core *core, uint64_t now_ns, const struct step_item *item,
                      struct seq *s, uint32_t layer_first, uint32_t layer_count)
{
    uint32_t block_first = item->position / core->opts.pool.block_tokens;
    seq_push(core, now_ns, s, layer_first, layer_count, block_first, item->n_blocks);
}

void worker_core_layers_done(struct worker_core *core, uint64_t now_ns, uint64_t step_id,
                             uint32_t layer_first, uint32_t layer_count)
{
    uint32_t n_layers = core->opts.pool.layer_count;
    const struct core_step *step = &core->steps[step_index(core, 0)];
    if (core->n_steps == 0 || step_id != step->id || !is_prefill_role(core) ||
        layer_first != core->layers_seen || layer_count > n_layers - layer_first) {
        core->n_ignored++; /* the rest goes out at the end of the step */
        return;
    }
    for (uint32_t i = 0; i < step->n_items; i++) {
        struct seq *s = &core->seqs[step->item_slots[i]];
        if (s->state == SEQ_PREFILL)
            item_push(core, now_ns, &step->items[i], s, layer_first, layer_count);
    }
    core->layers_seen += layer_count;
}

static void item_done(struct worker_core *core, uint64_t now_ns, const struct step_item *item,
                      struct seq *s, uint32_t token)
{
    if (s->state == SEQ_PREFILL)
        core->totals.prompt_tokens += item->n_tokens;
    s->n_done += item->n_tokens;
    seq_seal(core, s);
    if (is_prefill_role(core)) {
        item_push(core, now_ns, item, s, core->layers_seen,
                  core->opts.pool.layer_count - core->layers_seen);
        if (!item->sample)
            return;
        s->first_token = token;
        s->computed_ns = now_ns;
        list_del(&s->link);
        list_add_tail(&core->parked, &s->link);
        s->state = SEQ_PUSHING;
        seq_complete_try(core, now_ns, s);
        return;
    }
    if (!item->sample)
        return;
    s->state = SEQ_DECODE;
    seq_token(core, s, token);
}

/* The result lists the items that sampled, in plan order. *at walks along; false: it has none for
 * this item. */
static bool result_token(const struct step_result *result, const struct step_item *item,
                         uint32_t *at, uint32_t *out_token)
{
    if (!item->sample)
        return true;
    if (*at >= result->n_tokens || result->item_ids[*at] != item->item_id)
        return false;
    *out_token = result->tokens[(*at)++];
    return true;
}

/* Takes the oldest step out. A step behind it has the device from now on. */
static const struct core_step *step_take(struct worker_core *core, uint64_t now_ns,
                                         const struct step_result *result, enum status *out_st)
{
    const struct core_step *step = &core->steps[step_index(core, 0)];
    *out_st = step->void_status;
    if (*out_st == ST_OK)
        *out_st = result->status < ST_COUNT ? (enum status)result->status : ST_INTERNAL;
    core->step_first = (core->step_first + 1) % CORE_STEPS_MAX;
    core->n_steps--;
    if (core->n_steps > 0) {
        core->steps[step_index(core, 0)].started_ns = now_ns;
        core->steps[step_index(core, 0)].void_status = *out_st;
    }
    return step;
}

static uint32_t left_in_steps(const struct seq *s)
{
#if defined(DYND_PLANT) && DYND_PLANT == 5
    if (s->state == SEQ_ENDING)
        return 0; /* planted bug for the simulator's self-test: the step behind is forgotten */
#endif
    return s->in_step - 1;
}

void worker_core_step_done(struct worker_core *core, uint64_t now_ns,
                           const struct step_result *result)
{
    if (core->n_steps == 0 || result->step_id != core->steps[step_index(core, 0)].id) {
        core->n_ignored++;
        return;
    }
    uint32_t at = 0;
    enum status st;
    const struct core_step *step = step_take(core, now_ns, result, &st);
    core->push_reserved = 0;
    core->totals.steps++;
    for (uint32_t i = 0; i < step->n_items; i++) {
        const struct step_item *item = &step->items[i];
        struct seq *s = &core->seqs[step->item_slots[i]];
        uint32_t token = 0;
        bool have = st == ST_OK && result_token(result, item, &at, &token);
        s->in_step = left_in_steps(s);
        s->n_ahead -= item->sample;
        if (s->state == SEQ_ENDING)
            seq_settle(core, s);
        else if (st != ST_OK)
            seq_fail(core, s, st);
        else if (!have)
            seq_fail(core, s, ST_INTERNAL);
        else
            item_done(core, now_ns, item, s, token);
    }
    act_tokens_flush(core);
    core_admit(core, now_ns);
    act_cache_flush(core, now_ns);
}
