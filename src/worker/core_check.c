/* The core's invariants, walked. For tests, dynd-sim and debug builds: slow on purpose. */
#include "worker/core_int.h"

#include <stdio.h>
#include <string.h>

struct why {
    char *text;
    uint32_t bytes;
};

static enum status broken(struct why *why, const char *what, uint64_t which)
{
    snprintf(why->text, why->bytes, "%s (%llu)", what, (unsigned long long)which);
    return ST_INTERNAL;
}

static bool seq_is_used(const struct seq *s)
{
    return s->state >= SEQ_WAITING;
}

static const char *seq_fault(const struct worker_core *core, const struct seq *s)
{
    uint32_t bt = core->opts.pool.block_tokens;
    if (s->n_tokens == 0 || s->n_tokens > core->opts.max_context_tokens)
        return "length of a token log out of range";
    if (s->n_blocks > core->blocks_max || s->n_hits > s->n_blocks || s->n_done / bt > s->n_blocks)
        return "block counts of a sequence out of range";
    if (s->n_sealed * (uint64_t)bt > s->n_done)
        return "sealed a block that is not full";
    if (s->state == SEQ_WAITING && (s->n_blocks != 0 || s->in_step))
        return "waiting sequence holds blocks";
    if ((s->state == SEQ_LOANED) != (s->n_lent > 0))
        return "loan and state disagree";
    if (s->state == SEQ_DECODE && s->n_done != s->n_tokens - 1)
        return "decoding sequence lacks KV";
    if (s->state == SEQ_PREFILL && s->n_done >= s->n_tokens)
        return "nothing left to prefill";
    if (s->state == SEQ_PUSHING && s->n_pushes == 0)
        return "pushing sequence pushes nothing";
    if (s->state == SEQ_ENDING && (s->settled ? !s->in_step : s->n_pushes == 0))
        return "ended sequence waits for nothing";
    if (s->state != SEQ_ENDING && s->settled)
        return "settled but not ended";
    if (s->conn == NONE && s->state != SEQ_ENDING)
        return "sequence of a lost connection goes on";
    return NULL;
}

/* Its items in the steps under way take it on from where it is, one behind the other. */
static const char *seq_items_fault(const struct worker_core *core, const struct seq *s)
{
    uint32_t slot = seq_slot(core, s), n_items = 0, n_sampled = 0, end = s->n_done;
    for (uint32_t k = 0; s->in_step > 0 && k < core->n_steps; k++) {
        const struct core_step *step = &core->steps[step_index(core, k)];
        for (uint32_t i = 0; i < step->n_items; i++) {
            const struct step_item *item = &step->items[i];
            if (step->item_slots[i] != slot)
                continue;
            if (item->n_blocks > s->n_blocks)
                return "a step uses blocks that its sequence has not";
            if (s->state != SEQ_ENDING && item->position != end)
                return "a step begins where its sequence is not";
            if (k > 0 && (item->after_item != 0) != (n_sampled > 0))
                return "a step begins with a token that is not where it says";
            end = item->position + item->n_tokens;
            n_items++;
            n_sampled += item->sample;
        }
    }
    if (n_items != s->in_step || n_sampled != s->n_ahead)
        return "steps and sequence disagree";
    if (s->state != SEQ_ENDING && s->n_planned != end)
        return "steps and sequence disagree about what is planned";
    return NULL;
}

static bool seq_is_hashed(const struct worker_core *core, const struct seq *s)
{
    uint64_t h = hash_combine(hash_combine(s->router, s->id.request), s->id.choice);
    uint32_t n = 0;
    for (uint32_t at = core->buckets[h & core->bucket_mask]; at != NONE && n <= core->n_slots;
         at = core->seqs[at].hash_next, n++) {
        if (&core->seqs[at] == s)
            return true;
    }
    return false;
}

static enum status check_seqs(const struct worker_core *core, struct why *why)
{
    uint32_t n_live = 0, n_hashed = 0, n_used = 0, n_in_step = 0;
    for (uint32_t i = 0; i < core->n_slots; i++) {
        const struct seq *s = &core->seqs[i];
        if (s->state == SEQ_ZOMBIE && s->n_refs == 0)
            return broken(why, "slot kept for no action", i);
        if (!seq_is_used(s))
            continue;
        const char *fault = seq_fault(core, s);
        if (fault == NULL)
            fault = seq_items_fault(core, s);
        if (fault != NULL)
            return broken(why, fault, i);
        if (!seq_is_hashed(core, s))
            return broken(why, "sequence cannot be found", i);
        n_used++;
        n_live += s->state != SEQ_ENDING;
        n_in_step += s->in_step;
    }
    for (uint32_t b = 0; b <= core->bucket_mask; b++) {
        for (uint32_t at = core->buckets[b]; at != NONE && n_hashed <= n_used;
             at = core->seqs[at].hash_next)
            n_hashed++;
    }
    if (n_hashed != n_used)
        return broken(why, "lookup table holds other sequences", n_hashed);
    if (n_live != core->n_live)
        return broken(why, "live sequences miscounted", n_live);
    for (uint32_t i = 0; i < core->n_steps; i++)
        n_in_step -= core->steps[step_index(core, i)].n_items;
    if (n_in_step != 0)
        return broken(why, "a step has items of no sequence", n_in_step);
    return ST_OK;
}

static bool state_is_of_list(const struct worker_core *core, const struct list *head,
                             enum seq_state state)
{
    if (head == &core->waiting)
        return state == SEQ_WAITING;
    if (head == &core->loaned)
        return state == SEQ_LOANED;
    if (head == &core->running)
        return state == SEQ_PREFILL || state == SEQ_DECODE;
    if (head == &core->parked)
        return state == SEQ_PUSHING || state == SEQ_ENDING;
    return state == SEQ_FREE;
}

static enum status check_lists(const struct worker_core *core, struct why *why)
{
    const struct list *heads[] = {&core->waiting, &core->loaned, &core->running, &core->parked,
                                  &core->free_seqs};
    uint32_t n_listed = 0, n_zombies = 0;
    for (uint32_t h = 0; h < sizeof(heads) / sizeof(heads[0]); h++) {
        uint64_t stamp = 0;
        const struct list *node;
        list_for_each(node, heads[h])
        {
            const struct seq *s = list_entry(node, const struct seq, link);
            if (!state_is_of_list(core, heads[h], s->state) || node->next->prev != node)
                return broken(why, "sequence in the wrong list", seq_slot(core, s));
            if (heads[h] == &core->running && s->stamp <= stamp)
                return broken(why, "running sequences out of order", seq_slot(core, s));
            stamp = s->stamp;
            if (++n_listed > core->n_slots)
                return broken(why, "list without end", h);
        }
    }
    for (uint32_t i = 0; i < core->n_slots; i++)
        n_zombies += core->seqs[i].state == SEQ_ZOMBIE;
    if (n_listed + n_zombies != core->n_slots)
        return broken(why, "sequence in no list", n_listed);
    return ST_OK;
}

/* Every reference that the pool counts has its holder here, and the states agree. */
static enum status check_blocks(const struct worker_core *core, struct why *why)
{
    uint32_t n_blocks = core->opts.pool.block_count;
    memset(core->check_refs, 0, n_blocks * sizeof(*core->check_refs));
    for (uint32_t i = 0; i < core->n_slots; i++) {
        const struct seq *s = &core->seqs[i];
        for (uint32_t b = 0; seq_is_used(s) && b < s->n_blocks; b++) {
            uint32_t generation, at = s->blocks[b].index;
            bool lent = b >= s->n_hits && b < s->n_hits + s->n_lent;
            char state = kv_pool_block_state(core->pool, at, &generation);
            if (state != (lent ? 'l' : 'o') || generation != s->blocks[b].generation)
                return broken(why, "sequence holds a block that is not its own", at);
            if (s->indices[b] != at)
                return broken(why, "step would use another block", at);
            core->check_refs[at]++;
        }
    }
    for (uint32_t at = 0; at < n_blocks; at++) {
        if (kv_pool_block_refs(core->pool, at) != core->check_refs[at])
            return broken(why, "references of a block miscounted", at);
    }
    return ST_OK;
}

static enum status check_loans(const struct worker_core *core, struct why *why)
{
    uint32_t n_quarantined = 0, n_loans = 0;
    uint64_t since = 0;
    const struct list *node;
    list_for_each(node, &core->quarantine)
    {
        const struct loan *loan = list_entry(node, const struct loan, link);
        uint32_t at = loan->block_first;
        if (++n_loans > core->opts.pool.block_count || loan->n_blocks == 0)
            return broken(why, "quarantine list is wrong", n_loans);
        if (loan->since_ns < since)
            return broken(why, "quarantine out of order", at);
        since = loan->since_ns;
        for (uint32_t i = 0; i < loan->n_blocks; i++) {
            uint32_t generation;
            if (at >= core->opts.pool.block_count)
                return broken(why, "loan is shorter than it says", i);
            if (kv_pool_block_state(core->pool, at, &generation) != 'q' ||
                generation != core->chain[at].generation)
                return broken(why, "block of a quarantined loan is not in quarantine", at);
            at = core->chain[at].next;
            n_quarantined++;
        }
        if (at != NONE)
            return broken(why, "loan is longer than it says", at);
    }
    list_for_each(node, &core->free_loans) n_loans++;
    if (n_loans != core->opts.pool.block_count)
        return broken(why, "loan records lost", n_loans);
    if (n_quarantined != kv_pool_counts(core->pool).quarantined)
        return broken(why, "blocks in quarantine for no loan", n_quarantined);
    return ST_OK;
}

static enum status check_pushes(const struct worker_core *core, struct why *why)
{
    uint32_t n = 0, n_of_seqs = 0;
    for (uint32_t i = 0; i < core->n_pushes_max; i++) {
        const struct push *push = &core->pushes[i];
        if (push->id == 0)
            continue;
        n++;
        if (push->id % core->n_pushes_max != i)
            return broken(why, "push under a wrong number", i);
        if (!seq_is_used(&core->seqs[push->slot]) || core->seqs[push->slot].n_pushes == 0)
            return broken(why, "push reads blocks of no sequence", i);
        if (core->peers[push->peer].state == PEER_FREE)
            return broken(why, "push to no peer", i);
        if (!push->late && push_overdue_ns(core, push) < core->push_check_ns)
            return broken(why, "deadline of a push is not watched", i);
    }
    for (uint32_t i = 0; i < core->n_slots; i++)
        n_of_seqs += seq_is_used(&core->seqs[i]) ? core->seqs[i].n_pushes : 0;
    if (n != core->n_pushes || n != n_of_seqs)
        return broken(why, "pushes miscounted", n);
    return ST_OK;
}

enum status worker_core_check(const struct worker_core *core, char *out_why, uint32_t why_bytes)
{
    struct why why = {out_why, why_bytes};
    enum status st = kv_pool_check(core->pool, out_why, why_bytes);
    if (st == ST_OK)
        st = check_seqs(core, &why);
    if (st == ST_OK)
        st = check_lists(core, &why);
    if (st == ST_OK)
        st = check_blocks(core, &why);
    if (st == ST_OK)
        st = check_loans(core, &why);
    if (st == ST_OK)
        st = check_pushes(core, &why);
    if (st == ST_OK && core->n_actions_lost > 0)
        st = broken(&why, "actions were not taken and are lost", core->n_actions_lost);
    return st;
}
