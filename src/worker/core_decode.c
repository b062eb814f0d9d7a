/* The decode side: believing a completion record, and what one more token means. */
#include "worker/core_int.h"

#include <assert.h>
#include <string.h>

uint32_t core_end_ids(const struct worker_core *core, const struct wire_sampling *sampling,
                      uint32_t *out_ids)
{
    uint32_t n = 0;
    static_assert(sizeof(core->opts.eos) / sizeof(core->opts.eos[0]) + WIRE_STOP_IDS_MAX <=
                      STEP_BANNED_MAX,
                  "all end ids can be banned");
    for (uint32_t i = 0; i < core->opts.n_eos && !sampling->ignore_eos; i++)
        out_ids[n++] = core->opts.eos[i];
    for (uint32_t i = 0; i < sampling->n_stop_ids; i++)
        out_ids[n++] = sampling->stop_ids[i];
    return n;
}

static bool token_ends(const struct worker_core *core, const struct wire_sampling *sampling,
                       uint32_t token, uint32_t position)
{
    uint32_t ids[STEP_BANNED_MAX];
    if (position < sampling->min_new_tokens)
        return false;
    uint32_t n = core_end_ids(core, sampling, ids);
    for (uint32_t i = 0; i < n; i++) {
        if (ids[i] == token)
            return true;
    }
    return false;
}

enum wire_finish core_job_finish(const struct worker_core *core, const struct wire_job *job)
{
    uint32_t n_outputs = job->n_tokens - job->n_prompt;
    if (n_outputs > 0 &&
        token_ends(core, &job->sampling, job->tokens[job->n_tokens - 1], n_outputs - 1))
        return WIRE_FINISH_STOP;
    return n_outputs >= job->sampling.max_new_tokens ? WIRE_FINISH_LENGTH : WIRE_FINISH_NONE;
}

void seq_token(struct worker_core *core, struct seq *s, uint32_t token)
{
    uint32_t position = s->n_tokens - s->n_prompt;
    enum wire_finish finish = WIRE_FINISH_NONE;

    s->tokens[s->n_tokens++] = token;
    core->totals.output_tokens++;
    if (token_ends(core, &s->sampling, token, position))
        finish = WIRE_FINISH_STOP;
    else if (position + 1 >= s->sampling.max_new_tokens ||
             s->n_tokens >= core->opts.max_context_tokens)
        finish = WIRE_FINISH_LENGTH;
    act_token(core, s, position, token, finish);
    if (finish != WIRE_FINISH_NONE)
        seq_end(core, s);
}

/* The blocks are those on loan; is what is in them what was asked for? */
static bool complete_is_right(const struct worker_core *core, const struct seq *s,
                              const struct wire_complete *rec)
{
    struct hash128 chain;
    if (rec->layout_hash != core->opts.pool.layout_hash || rec->pool != core->opts.pool.pool)
        return false;
    if (rec->n_tokens != s->n_tokens || rec->position != s->n_tokens - s->n_prompt)
        return false;
    wire_chain_hash(s->salt, s->tokens, s->n_tokens, &chain);
    return hash128_equal(&chain, &rec->chain);
}

static void seq_mismatch(struct worker_core *core, uint64_t now_ns, struct seq *s)
{
    core->totals.transfer_failures++;
    act_failed(core, s->conn, &s->id, ST_MISMATCH, 0);
    seq_quarantine(core, now_ns, s);
    seq_end(core, s);
}

/* The sequence that waits for a writer under this router, request and choice, or NULL. */
static struct seq *loaned_find(struct worker_core *core, uint64_t router, const struct wire_seq *id)
{
    uint32_t highest;
    struct seq *s = seq_find_live(core, router, id, &highest);
    return s != NULL && s->state == SEQ_LOANED ? s : NULL;
}

/* The attempt number is not what makes a record believed: the generations are, and they are
 * stronger. It only tells a record that contradicts the loan (mismatch) from one of an earlier life
 * (stale). */
void core_on_complete(struct worker_core *core, uint64_t now_ns, const struct wire_complete *rec)
{
    struct seq *s = loaned_find(core, rec->router, &rec->seq);
    if (s != NULL && seq_loan_is(core, s, rec->epoch, rec->blocks, rec->n_blocks)) {
        if (!complete_is_right(core, s, rec)) {
            seq_mismatch(core, now_ns, s);
            return;
        }
        seq_loan_over(core, s);
        s->n_done = s->n_planned = s->n_tokens;
        seq_seal(core, s);
        seq_run(core, s, SEQ_DECODE);
        seq_token(core, s, rec->first_token);
        return;
    }
    struct loan *loan =
        loan_match(core, rec->router, &rec->seq, rec->epoch, rec->blocks, rec->n_blocks);
    if (loan != NULL)
        loan_end(core, loan);
    else if (s != NULL && s->id.attempt == rec->seq.attempt)
        seq_mismatch(core, now_ns, s);
    else
        core->n_ignored++;
}

void core_on_aborted(struct worker_core *core, const struct wire_aborted *rec)
{
    struct seq *s = loaned_find(core, rec->router, &rec->seq);
    if (s != NULL && seq_loan_is(core, s, rec->epoch, rec->blocks, rec->n_blocks)) {
        seq_loan_over(core, s);
        seq_fail(core, s, ST_PEER_LOST);
        return;
    }
    struct loan *loan =
        loan_match(core, rec->router, &rec->seq, rec->epoch, rec->blocks, rec->n_blocks);
    if (loan != NULL)
        loan_end(core, loan);
    else
        core->n_ignored++;
}
