/* Invariants of the router core, walked in full. */
#include "router/core_int.h"

#include <stdio.h>

static bool is_active(const struct rc_choice *c)
{
    return c->state == RC_RESERVING || c->state == RC_PREFILLING || c->state == RC_DECODING;
}

static const char *check_choice(const struct router_core *core, const struct rc_request *r,
                                const struct rc_choice *c)
{
    if (c->n_tokens < r->n_prompt || c->n_tokens > c->capacity)
        return "token log outside its bounds";
    if (r->ended)
        return c->state == RC_DONE ? NULL : "choice lives on after its request ended";
    if (c->state == RC_QUEUED && list_is_empty(&c->node))
        return "queued choice is in no queue";
    if (!is_active(c))
        return c->state == RC_FREE ? "choice of a live request is free" : NULL;
    if (!rc_leg_is_up(core, &c->decode))
        return "decode leg is gone";
    if (c->state == RC_PREFILLING && !rc_leg_is_up(core, &c->prefill))
        return "prefill leg is gone";
    if (c->deadline_ns < core->next_deadline_ns)
        return "choice is not reachable from a timer";
    if (c->attempt == 0)
        return "attempt without a number";
    if (r->deaths >= core->opts.attempts_max || c->tries >= core->opts.attempts_max)
        return "attempt beyond the budget";
    for (uint32_t i = 0; i < core->cancels_max; i++)
        if (core->cancels[i].used && core->cancels[i].seq.request == r->id &&
            core->cancels[i].seq.choice == c->choice && core->cancels[i].seq.attempt == c->attempt)
            return "the live attempt is being cancelled";
    return NULL;
}

/* The queue holds exactly the queued choices, each once. */
static const char *check_queue(const struct router_core *core)
{
    uint32_t n = 0;
    const struct list *node;
    list_for_each(node, &core->queue)
    {
        const struct rc_choice *c = list_entry(node, struct rc_choice, node);
        if (c->state != RC_QUEUED)
            return "a choice in the queue is not queued";
        if (node->next->prev != node || ++n > core->opts.choices_max)
            return "queue is broken";
    }
    return n != core->n_queued ? "queue length is wrong" : NULL;
}

/* Free and used words make up the token slab; free extents are sorted and never touch. */
static const char *check_slab(const struct router_core *core)
{
    uint64_t words = 0;
    for (uint32_t i = 0; i < core->opts.choices_max; i++)
        words += core->choices[i].state != RC_FREE ? core->choices[i].slab_words : 0;
    for (uint32_t i = 0; i < core->n_extents; i++) {
        const struct rc_extent *e = &core->extents[i];
        words += e->words;
        if (i > 0 && e[-1].first + e[-1].words >= e->first)
            return "free extents overlap or touch";
    }
    return words != core->opts.tokens_max ? "token slab leaks" : NULL;
}

static const char *check_inflight(const struct router_core *core)
{
    uint32_t inflight[ROUTER_WORKERS_MAX] = {0};
    for (uint32_t i = 0; i < core->opts.choices_max; i++) {
        const struct rc_choice *c = &core->choices[i];
        if (!is_active(c))
            continue;
        if (rc_leg_is_up(core, &c->decode))
            inflight[c->decode.worker]++;
        if (rc_leg_is_up(core, &c->prefill))
            inflight[c->prefill.worker]++;
    }
    for (uint32_t i = 0; i < ROUTER_WORKERS_MAX; i++)
        if (core->workers[i].up && core->workers[i].inflight != inflight[i])
            return "inflight count of a worker is wrong";
    return NULL;
}

static const char *check_counts(const struct router_core *core)
{
    uint32_t n_active = 0, n_cancels = 0;
    for (uint32_t i = 0; i < core->opts.choices_max; i++)
        n_active += is_active(&core->choices[i]);
    for (uint32_t i = 0; i < core->cancels_max; i++)
        n_cancels += core->cancels[i].used;
    if (n_active != core->n_active)
        return "active count is wrong";
    if (n_cancels != core->n_cancels)
        return "cancel count is wrong";
    return n_active > core->cancels_max - n_cancels ? "an attempt has no cancel record left" : NULL;
}

enum status router_core_check(const struct router_core *core, char *out_why, uint32_t why_bytes)
{
    const char *why = check_queue(core);
    if (why == NULL)
        why = check_slab(core);
    if (why == NULL)
        why = check_inflight(core);
    if (why == NULL)
        why = check_counts(core);
    for (uint32_t i = 0; i < core->opts.requests_max && why == NULL; i++) {
        const struct rc_request *r = &core->requests[i];
        for (uint32_t k = 0; r->id != 0 && k < r->n_choices && why == NULL; k++)
            why = check_choice(core, r, &core->choices[r->choices[k]]);
        if (why == NULL && r->id != 0 && !r->ended && r->deadline_ns < core->next_deadline_ns)
            why = "request is not reachable from a timer";
    }
    if (why == NULL)
        return ST_OK;
    snprintf(out_why, why_bytes, "%s", why);
    return ST_INTERNAL;
}
