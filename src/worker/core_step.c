/* Steps: planning one, pushing its layers as they are written, taking its result. */
#include "worker/core_int.h"

#include <assert.h>

static void item_add(struct worker_core *core, struct seq *s, uint32_t n_tokens)
{
    uint32_t end = s->n_done + n_tokens;
    struct step_item *item = &core->items[core->n_items];
    *item = (struct step_item){.item_id = core->n_items,
                               .n_tokens = n_tokens,
                               .position = s->n_done,
                               .n_blocks = blocks_for(core, end),
                               .tokens = s->tokens + s->n_done,
                               .blocks = s->indices};
    for (uint32_t i = 0; i < sizeof(item->salt); i++)
        item->salt[i] = s->salt[i];
    if (end == s->n_tokens) {
        const struct wire_sampling *sampling = &s->sampling;
        item->sample = 1;
        item->output_position = s->n_tokens - s->n_prompt;
        item->choice = s->id.choice;
        item->seed = sampling->seed;
        item->temperature = sampling->temperature;
        item->top_p = sampling->top_p;
        item->min_p = sampling->min_p;
        item->top_k = sampling->top_k;
        if (item->output_position < sampling->min_new_tokens)
            item->n_banned = core_end_ids(core, &s->sampling, item->banned);
    }
    core->item_slots[core->n_items++] = seq_slot(core, s);
    core->step_tokens += n_tokens;
    s->in_step = 1;
}

/* Makes room for the KV of the last token. When there is none, the youngest running sequences are
 * preempted, in the end this one: false. Planned ones are older than it, so they are never hit. */
static bool seq_grow(struct worker_core *core, struct seq *s)
{
    uint32_t need = blocks_for(core, s->n_tokens);
    while (s->n_blocks < need) {
        if (seq_add_block(core, s) == ST_OK)
            continue;
        struct seq *youngest = list_entry(core->running.prev, struct seq, link);
        seq_preempt(core, youngest);
        if (youngest == s)
            return false;
    }
    return true;
}

/* Oldest first. A prompt that waits keeps room for one block of it, however many sequences decode.
 */
static void plan_decodes(struct worker_core *core)
{
    uint32_t budget = core->opts.max_batch_tokens;
    struct list *node;
    list_for_each(node, &core->running)
    {
        if (list_entry(node, struct seq, link)->state == SEQ_PREFILL) {
            budget -= core->opts.pool.block_tokens;
            break;
        }
    }
    if (budget == 0)
        budget = 1;
    list_for_each(node, &core->running)
    {
        struct seq *s = list_entry(node, struct seq, link);
        if (core->n_items == core->opts.max_seqs || core->step_tokens == budget)
            return;
        if (s->state != SEQ_DECODE)
            continue;
        if (!seq_grow(core, s))
            return; /* it was the youngest */
        item_add(core, s, 1);
    }
}

/* Tokens of the next chunk of s; 0: it does not fit into this step. */
static uint32_t chunk_tokens(const struct worker_core *core, const struct seq *s)
{
    uint32_t left = s->n_tokens - s->n_done;
    uint32_t room = core->opts.max_batch_tokens - core->step_tokens;
    uint32_t n = left;
    if (n > core->opts.prefill_chunk_tokens)
        n = core->opts.prefill_chunk_tokens;
    if (n > room)
        n = room;
    if (n < left) /* n_done is at a border already */
        n -= n % core->opts.pool.block_tokens;
    return n;
}

static void plan_prompts(struct worker_core *core, uint64_t now_ns)
{
    struct list *node;
    list_for_each(node, &core->running)
    {
        struct seq *s = list_entry(node, struct seq, link);
        if (core->n_items == core->opts.max_seqs)
            return;
        if (s->state != SEQ_PREFILL)
            continue;
        uint32_t layers = is_prefill_role(core) ? core->opts.pool.layer_count : 0;
        if (!core_push_has_room(core, layers))
            return; /* the transport is several steps behind */
        uint32_t n = chunk_tokens(core, s);
        if (n == 0)
            continue;
        core->push_reserved += layers;
        if (s->started_ns == 0)
            s->started_ns = now_ns;
        item_add(core, s, n);
    }
}

bool worker_core_next_step(struct worker_core *core, uint64_t now_ns, struct step_plan *out)
{
    if (core->step_running)
        return false;
    core->n_items = 0;
    core->step_tokens = 0;
    core->push_reserved = 0;
    core_admit(core, now_ns);
    uint64_t preemptions = core->totals.preemptions;
    plan_decodes(core);
    if (core->n_items == 0 && core->totals.preemptions != preemptions)
        core_admit(core,
                   now_ns); /* the only runner preempted itself: no event would bring it back */
    plan_prompts(core, now_ns);
    if (core->n_items == 0)
        return false;
    core->step_running = 1;
    core->step_started_ns = now_ns;
    core->layers_seen = 0;
    core->step_id++;
    *out = (struct step_plan){.step_id = core->step_id,
                              .n_items = core->n_items,
                              .n_tokens = core->step_tokens,
                              .items = core->items,
                              .report_layers = is_prefill_role(core)};
    return true;
}

/* Pushes layers of what the running step has written. Chunks begin at block borders and end at one
 * or with the prompt, so all their blocks are final. */
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
    if (!core->step_running || step_id != core->step_id || !is_prefill_role(core) ||
        layer_first != core->layers_seen || layer_count > n_layers - layer_first) {
        core->n_ignored++; /* the rest goes out at the end of the step */
        return;
    }
    for (uint32_t i = 0; i < core->n_items; i++) {
        struct seq *s = &core->seqs[core->item_slots[i]];
        if (s->state == SEQ_PREFILL)
            item_push(core, now_ns, &core->items[i], s, layer_first, layer_count);
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

void worker_core_step_done(struct worker_core *core, uint64_t now_ns,
                           const struct step_result *result)
{
    if (!core->step_running || result->step_id != core->step_id) {
        core->n_ignored++;
        return;
    }
    uint32_t at = 0;
    core->step_running = 0;
    core->push_reserved = 0;
    core->totals.steps++;
    for (uint32_t i = 0; i < core->n_items; i++) {
        const struct step_item *item = &core->items[i];
        struct seq *s = &core->seqs[core->item_slots[i]];
        uint32_t token = 0;
        bool have = result->status == ST_OK && result_token(result, item, &at, &token);
        s->in_step = 0;
        if (s->state == SEQ_ENDING)
            seq_settle(core, s);
        else if (result->status != ST_OK)
            seq_fail(core, s,
                     result->status < ST_COUNT ? (enum status)result->status : ST_INTERNAL);
        else if (!have)
            seq_fail(core, s, ST_INTERNAL);
        else
            item_done(core, now_ns, item, s, token);
    }
    core->n_items = 0;
    act_tokens_flush(core);
    core_admit(core, now_ns);
    act_cache_flush(core, now_ns);
}
