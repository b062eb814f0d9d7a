/* The action ring. An action names what it is about by id, attempt and the life of its worker; what
 * it sends is built when it is handed out, so one that has become void is skipped then. */
#include "router/core_int.h"

#include <assert.h>
#include <string.h>

struct rc_action *rc_action_add(struct router_core *core, enum router_action_kind kind)
{
    /* Room is kept by the bound on what one event may cause; the caller empties the ring after
     * each. */
    assert(core->action_tail - core->action_head < core->actions_max);
    struct rc_action *act = &core->actions[core->action_tail++ & (core->actions_max - 1)];
    *act = (struct rc_action){.kind = kind};
    return act;
}

struct rc_action *rc_send(struct router_core *core, enum wire_type type, uint32_t slot)
{
    struct rc_action *act = rc_action_add(core, ROUTER_SEND);
    act->type = type;
    act->worker = slot;
    act->life = core->workers[slot].life;
    return act;
}

uint32_t rc_action_room(const struct router_core *core)
{
    return core->actions_max - (core->action_tail - core->action_head);
}

static void job_fill(const struct rc_request *r, const struct rc_choice *c, struct wire_job *job)
{
    *job = (struct wire_job){.seq = {r->id, c->attempt, c->choice},
                             .sampling = r->sampling,
                             .n_prompt = r->n_prompt,
                             .n_tokens = c->n_tokens,
                             .tokens = c->tokens};
    memcpy(job->salt, r->salt, sizeof(job->salt));
}

/* RESERVE and PREFILL: only while the attempt is the current one and waits for this message. */
static bool job_message(struct router_core *core, const struct rc_action *act)
{
    struct wire_seq seq = {act->request, act->attempt, act->choice};
    struct rc_choice *c = rc_choice_of(core, &seq);
    if (c == NULL || c->attempt != act->attempt)
        return false;
    const struct rc_request *r = &core->requests[c->request];
    if (act->type == WIRE_RESERVE) {
        if (c->state != RC_RESERVING && c->state != RC_DECODING)
            return false;
        job_fill(r, c, &core->msg.u.reserve.job);
        core->msg.u.reserve.local = c->local;
        return true;
    }
    if (c->state != RC_PREFILLING)
        return false;
    struct wire_prefill *m = &core->msg.u.prefill;
    job_fill(r, c, &m->job);
    m->dest = core->workers[c->decode.worker].hello.instance;
    m->epoch = c->epoch;
    m->pool = c->pool;
    m->cached_tokens = c->cached_tokens;
    m->n_blocks = c->n_blocks;
    m->blocks = c->blocks;
    return true;
}

static bool peer_message(struct router_core *core, const struct rc_action *act)
{
    const struct rc_worker *w = &core->workers[act->peer];
    if (!w->up)
        return false;
    core->msg.u.peer = (struct wire_peer){.instance = w->hello.instance,
                                          .role = w->hello.role,
                                          .pid = w->hello.pid,
                                          .pool = w->hello.pool,
                                          .blob = w->blob,
                                          .blob_bytes = w->hello.blob_bytes};
    memcpy(core->msg.u.peer.host_id, w->hello.host_id, sizeof(w->hello.host_id));
    memcpy(core->msg.u.peer.name, w->hello.name, sizeof(w->hello.name));
    return true;
}

static bool message_build(struct router_core *core, const struct rc_action *act)
{
    const struct rc_worker *w = &core->workers[act->worker];
    if (!w->up || w->life != act->life)
        return false;
    memset(&core->msg, 0, sizeof(core->msg));
    core->msg.type = act->type;
    switch (act->type) {
    case WIRE_RESERVE:
    case WIRE_PREFILL:
        return job_message(core, act);
    case WIRE_PEER:
        return peer_message(core, act);
    case WIRE_PEER_GONE:
        core->msg.u.peer_gone.instance = act->instance;
        return true;
    case WIRE_CANCEL:
        core->msg.u.cancel = (struct wire_cancel){act->seq, act->flags, act->instance};
        return true;
    default:
        return false;
    }
}

static void action_fill(const struct rc_action *act, struct router_action *out)
{
    *out = (struct router_action){.kind = act->kind,
                                  .worker = act->worker,
                                  .request = act->request,
                                  .tag = act->tag,
                                  .choice = act->choice,
                                  .position = act->position,
                                  .n_tokens = act->n_tokens,
                                  .tokens = act->tokens,
                                  .finish = act->finish,
                                  .cached_tokens = act->cached_tokens,
                                  .remote_prefill = act->remote,
                                  .status = act->status};
}

bool router_core_next_action(struct router_core *core, struct router_action *out)
{
    while (core->action_head != core->action_tail) {
        const struct rc_action *act = &core->actions[core->action_head++ & (core->actions_max - 1)];
        struct rc_request *r = rc_request_of(core, act->request);
        switch (act->kind) {
        case ROUTER_SEND:
            if (!message_build(core, act))
                continue;
            action_fill(act, out);
            out->msg = &core->msg;
            return true;
        case ROUTER_TOKENS:
            if (r == NULL || core->choices[r->choices[act->choice]].stopped)
                continue;
            action_fill(act, out);
            return true;
        case ROUTER_DONE:
        case ROUTER_FAIL:
            if (r == NULL)
                continue;
            action_fill(act, out);
            rc_request_release(core, r);
            return true;
        case ROUTER_DROP:
            action_fill(act, out);
            return true;
        }
    }
    return false;
}
