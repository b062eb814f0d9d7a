/* What routers ask for: RESERVE, PREFILL, CANCEL. */
#include "worker/core_int.h"

#include <string.h>

static enum status job_check(const struct worker_core *core, const struct wire_job *job)
{
    if (job->n_prompt == 0 || job->n_prompt > job->n_tokens || job->tokens == NULL)
        return ST_INVALID;
    if (job->sampling.n_stop_ids > WIRE_STOP_IDS_MAX)
        return ST_INVALID;
    if (job->n_tokens >= core->opts.max_context_tokens)
        return ST_PROMPT_TOO_LONG;
    return core->draining ? ST_DRAINING : ST_OK;
}

void seq_cancel(struct worker_core *core, uint64_t now_ns, struct seq *s, bool writer_done)
{
    if (s->state == SEQ_LOANED) {
        if (writer_done)
            seq_loan_over(core, s);
        else
            seq_quarantine(core, now_ns, s);
    }
    seq_end(core, s);
}

/* Makes way for a newer attempt; true when this attempt is not the newest. */
static bool attempt_is_old(struct worker_core *core, uint64_t now_ns, uint64_t router,
                           const struct wire_seq *id)
{
    uint32_t highest;
    struct seq *live = seq_find_live(core, router, id, &highest);
    if (id->attempt <= highest)
        return true;
    if (live != NULL)
        seq_cancel(core, now_ns, live, false);
    return false;
}

void core_on_reserve(struct worker_core *core, uint64_t now_ns, uint32_t conn,
                     const struct wire_reserve *msg)
{
    const struct wire_seq *id = &msg->job.seq;
    uint64_t router = core->conns[conn].router;
    struct seq *s = seq_find(core, router, id);

    if (s != NULL && s->state != SEQ_ENDING) {
        if (s->answered && (s->state == SEQ_LOANED || s->local))
            act_reserved(core, s); /* asked again: the same answer again */
        return;
    }
    if (attempt_is_old(core, now_ns, router, id)) {
        act_failed(core, conn, id, ST_CANCELLED, loan_find(core, router, id) == NULL);
        return;
    }
    bool served =
        core->opts.role == WIRE_ROLE_DECODE || (core->opts.role == WIRE_ROLE_UNIFIED && msg->local);
    enum status st = served ? job_check(core, &msg->job) : ST_UNSUPPORTED;
    if (st == ST_OK && !msg->local && !core_has_writers(core))
        st = ST_UNAVAILABLE; /* blocks lent to nobody known could not be taken back by fencing */
    if (st == ST_OK) {
        s = seq_create(core, conn, &msg->job);
        st = s != NULL ? ST_OK : ST_FULL;
    }
    if (st != ST_OK) {
        act_failed(core, conn, id, st, 1);
        return;
    }
    s->local = msg->local != 0;
    /* The worker that had it may have died before it could say that its last token was the last. */
    enum wire_finish finish = core_job_finish(core, &msg->job);
    if (finish == WIRE_FINISH_NONE)
        return;
    if (s->n_tokens > s->n_prompt)
        act_token(core, s, s->n_tokens - s->n_prompt - 1, s->tokens[s->n_tokens - 1], finish);
    else
        s->fail_status = ST_INVALID; /* asked for nothing at all */
    seq_end(core, s);
    act_tokens_flush(core); /* no step may come that would do it */
}

/* Can these blocks be written, as far as this side can tell? The router itself must have announced
 * the destination since the last fence: then what it sent before that, for loans that the fence has
 * ended, is refused here (core_loan.c). */
static enum status dest_check(const struct worker_core *core, uint32_t conn,
                              const struct wire_prefill *msg)
{
    uint32_t peer = peer_find(core, msg->dest);
    if (peer == NONE || core->peers[peer].state != PEER_UP ||
        ((core->peers[peer].conns >> conn) & 1) == 0)
        return ST_PEER_LOST;
    const struct wire_pool *pool = &core->peers[peer].info.pool;
    if (pool->layout_hash != core->opts.pool.layout_hash || pool->epoch != msg->epoch ||
        pool->pool != msg->pool)
        return ST_MISMATCH;
    if (msg->cached_tokens % core->opts.pool.block_tokens != 0 ||
        msg->cached_tokens >= msg->job.n_tokens || msg->blocks == NULL ||
        msg->n_blocks != blocks_for(core, msg->job.n_tokens - msg->cached_tokens))
        return ST_INVALID;
    for (uint32_t i = 0; i < msg->n_blocks; i++) {
        if (msg->blocks[i].index >= pool->block_count)
            return ST_INVALID;
    }
    return ST_OK;
}

void core_on_prefill(struct worker_core *core, uint64_t now_ns, uint32_t conn,
                     const struct wire_prefill *msg)
{
    const struct wire_seq *id = &msg->job.seq;
    uint64_t router = core->conns[conn].router;

    if (seq_find(core, router, id) != NULL)
        return; /* asked again: its end will be told once */
    if (attempt_is_old(core, now_ns, router, id)) {
        act_failed(core, conn, id, ST_CANCELLED, 1);
        return;
    }
    enum status st = is_prefill_role(core) ? job_check(core, &msg->job) : ST_UNSUPPORTED;
    if (st == ST_OK && core_job_finish(core, &msg->job) != WIRE_FINISH_NONE)
        st = ST_INVALID; /* nothing left to sample */
    if (st == ST_OK)
        st = dest_check(core, conn, msg);
    struct seq *s = NULL;
    if (st == ST_OK) {
        s = seq_create(core, conn, &msg->job);
        st = s != NULL ? ST_OK : ST_FULL;
    }
    if (st != ST_OK) {
        act_failed(core, conn, id, st, 1);
        return;
    }
    s->dest = msg->dest;
    s->dest_epoch = msg->epoch;
    s->dest_pool = msg->pool;
    s->dest_cached = msg->cached_tokens;
    s->n_dest = msg->n_blocks;
    memcpy(s->dest_blocks, msg->blocks, msg->n_blocks * sizeof(*s->dest_blocks));
}

/* A running push cannot be called back, so the answer waits for it. */
static void cancel_at_prefill(struct worker_core *core, struct seq *s)
{
    if (s->settled) {
        act_cancelled(core, s->conn, &s->id, s->unsure ? s->n_dest : 0);
        return;
    }
    s->cancel_reply = 1;
    if (s->state != SEQ_ENDING)
        seq_end(core, s);
}

bool core_is_unsure(const struct worker_core *core, uint64_t router, const struct wire_seq *id)
{
    if (core->n_unsure > CORE_UNSURE)
        return true;
    for (uint64_t i = 0; i < core->n_unsure; i++) {
        if (core->unsure[i].router == router &&
            (id == NULL || wire_seq_equal(&core->unsure[i].id, id)))
            return true;
    }
    return false;
}

void core_on_cancel(struct worker_core *core, uint64_t now_ns, uint32_t conn,
                    const struct wire_cancel *msg)
{
    uint64_t router = core->conns[conn].router;
    bool writer_done = (msg->flags & WIRE_CANCEL_WRITER_DONE) != 0;
    struct seq *s = seq_find(core, router, &msg->seq);

    if (is_prefill_role(core)) {
        if (s != NULL)
            cancel_at_prefill(core, s);
        else
            act_cancelled(core, conn, &msg->seq, core_is_unsure(core, router, &msg->seq));
        return;
    }
    if (s != NULL && s->state != SEQ_ENDING)
        seq_cancel(core, now_ns, s, writer_done);
    struct loan *loan = loan_find(core, router, &msg->seq);
    if (loan != NULL && loan_cancel(core, loan, writer_done, msg->writer))
        loan = NULL;
    act_cancelled(core, conn, &msg->seq, loan != NULL ? loan->n_blocks : 0);
}
