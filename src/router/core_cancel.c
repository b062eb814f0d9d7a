/* Attempts that are to end. A record repeats CANCEL to each leg until it has acknowledged or its
 * process is gone. The decode leg may free what was lent only when the prefill leg vouches that all
 * its writes have landed (WRITER_DONE), or by fencing it itself; so it is asked until it says that
 * nothing is in quarantine. */
#include "router/core_int.h"

static void cancel_send(struct router_core *core, struct rc_cancel *cancel,
                        const struct rc_leg *leg, uint32_t flags)
{
    struct rc_action *act = rc_send(core, WIRE_CANCEL, leg->worker);
    act->seq = cancel->seq;
    act->instance = cancel->writer;
    act->flags = flags;
}

static void cancel_settle(struct router_core *core, struct rc_cancel *cancel)
{
    if (!cancel->used)
        return;
    if (!cancel->decode_done && !rc_leg_is_up(core, &cancel->decode))
        cancel->decode_done = true;
    if (!cancel->prefill_done && !rc_leg_is_up(core, &cancel->prefill))
        cancel->prefill_done = true;
    if (cancel->decode_done && cancel->prefill_done) {
        cancel->used = false;
        core->n_cancels--;
    }
}

static void cancel_ask(struct router_core *core, uint64_t now, struct rc_cancel *cancel)
{
    if (!cancel->decode_done)
        cancel_send(core, cancel, &cancel->decode,
                    cancel->writer_done ? WIRE_CANCEL_WRITER_DONE : 0);
    if (!cancel->prefill_done)
        cancel_send(core, cancel, &cancel->prefill, 0);
    cancel->next_ns = now + core->opts.cancel_retry_ns;
    rc_deadline(core, cancel->next_ns);
}

void rc_cancel_start(struct router_core *core, uint64_t now, const struct rc_choice *c)
{
    const struct rc_request *r = &core->requests[c->request];
    struct rc_cancel cancel = {.used = true,
                               .seq = {r->id, c->attempt, c->choice},
                               .decode = c->decode,
                               .prefill = c->prefill,
                               .decode_done = !c->decode_holds || !rc_leg_is_up(core, &c->decode),
                               /* A prefill leg that is done writing has nothing left to stop. */
                               .prefill_done = c->writer_done || c->prefill_over ||
                                               !rc_leg_is_up(core, &c->prefill),
                               .writer_done = c->writer_done,
                               .writer = c->writer};
    if (cancel.decode_done && cancel.prefill_done)
        return;
    for (uint32_t i = 0; i < core->cancels_max; i++) {
        if (core->cancels[i].used)
            continue;
        core->cancels[i] = cancel;
        core->n_cancels++;
        cancel_ask(core, now, &core->cancels[i]);
        return;
    }
}

void rc_cancel_tick(struct router_core *core, uint64_t now)
{
    uint32_t left = core->n_cancels;
    for (uint32_t i = 0; left > 0 && i < core->cancels_max; i++) {
        struct rc_cancel *cancel = &core->cancels[i];
        if (!cancel->used)
            continue;
        left--;
        cancel_settle(core, cancel);
        if (cancel->used && now >= cancel->next_ns && rc_action_room(core) > core->actions_max / 4)
            cancel_ask(core, now, cancel);
        if (cancel->used)
            rc_deadline(core, cancel->next_ns > now ? cancel->next_ns : now + NS_PER_MS);
    }
}

void rc_cancel_worker_gone(struct router_core *core, uint32_t slot)
{
    for (uint32_t i = 0; i < core->cancels_max && core->n_cancels > 0; i++)
        if (core->cancels[i].used &&
            (core->cancels[i].decode.worker == slot || core->cancels[i].prefill.worker == slot))
            cancel_settle(core, &core->cancels[i]);
}

/* The record of seq on which slot is a leg that has not answered yet. */
static struct rc_cancel *cancel_of(struct router_core *core, const struct wire_seq *seq,
                                   uint32_t slot, bool *out_is_prefill)
{
    uint32_t left = core->n_cancels;
    for (uint32_t i = 0; left > 0 && i < core->cancels_max; i++) {
        struct rc_cancel *cancel = &core->cancels[i];
        left -= cancel->used;
        if (!cancel->used || !wire_seq_equal(&cancel->seq, seq))
            continue;
        *out_is_prefill = cancel->prefill.worker == slot && rc_leg_is_up(core, &cancel->prefill);
        if (*out_is_prefill ||
            (cancel->decode.worker == slot && rc_leg_is_up(core, &cancel->decode)))
            return cancel;
    }
    core->counts.stale_messages++;
    return NULL;
}

static void prefill_answered(struct router_core *core, uint64_t now, struct rc_cancel *cancel,
                             bool vouches)
{
    cancel->prefill_done = true;
    if (vouches && !cancel->writer_done) {
        cancel->writer_done = true;
        cancel_ask(core, now, cancel);
    }
    cancel_settle(core, cancel);
}

void rc_on_cancelled(struct router_core *core, uint64_t now, uint32_t slot,
                     const struct wire_cancelled *m)
{
    bool is_prefill;
    struct rc_cancel *cancel = cancel_of(core, &m->seq, slot, &is_prefill);
    if (cancel == NULL)
        return;
    if (is_prefill) {
        prefill_answered(core, now, cancel, m->n_quarantined == 0);
        return;
    }
    if (m->n_quarantined == 0)
        cancel->decode_done = true;
    cancel_settle(core, cancel);
}

void rc_cancel_failed(struct router_core *core, uint64_t now, uint32_t slot,
                      const struct wire_failed *m)
{
    bool is_prefill;
    struct rc_cancel *cancel = cancel_of(core, &m->seq, slot, &is_prefill);
    if (cancel == NULL)
        return;
    if (is_prefill)
        prefill_answered(core, now, cancel, m->writer_done != 0);
    else if (m->writer_done)
        cancel->decode_done = true;
    cancel_settle(core, cancel);
}
