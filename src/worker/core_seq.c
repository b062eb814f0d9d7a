/* Sequence slots: lookup by (router, request, choice), admission, preemption, end. */
#include "worker/core_int.h"

#include <assert.h>
#include <string.h>

static uint32_t bucket_of(const struct worker_core *core, uint64_t router,
                          const struct wire_seq *id)
{
    uint64_t h = hash_combine(hash_combine(router, id->request), id->choice);
    return (uint32_t)h & core->bucket_mask;
}

static bool is_same_choice(const struct seq *s, uint64_t router, const struct wire_seq *id)
{
    return s->router == router && s->id.request == id->request && s->id.choice == id->choice;
}

struct seq *seq_find(struct worker_core *core, uint64_t router, const struct wire_seq *id)
{
    uint32_t at = core->buckets[bucket_of(core, router, id)];
    for (; at != NONE; at = core->seqs[at].hash_next) {
        struct seq *s = &core->seqs[at];
        if (is_same_choice(s, router, id) && s->id.attempt == id->attempt)
            return s;
    }
    return NULL;
}

struct seq *seq_find_live(struct worker_core *core, uint64_t router, const struct wire_seq *id,
                          uint32_t *out_attempt)
{
    struct seq *live = NULL;
    uint32_t highest = 0;
    uint32_t at = core->buckets[bucket_of(core, router, id)];
    for (; at != NONE; at = core->seqs[at].hash_next) {
        struct seq *s = &core->seqs[at];
        if (!is_same_choice(s, router, id))
            continue;
        if (s->id.attempt > highest)
            highest = s->id.attempt;
        if (s->state != SEQ_ENDING)
            live = s;
    }
    struct list *node;
    list_for_each(node, &core->quarantine)
    {
        const struct loan *loan = list_entry(node, struct loan, link);
        if (loan->router == router && loan->id.request == id->request &&
            loan->id.choice == id->choice && loan->id.attempt > highest)
            highest = loan->id.attempt;
    }
    *out_attempt = highest;
    return live;
}

struct seq *seq_create(struct worker_core *core, uint32_t conn, const struct wire_job *job)
{
    if (core->n_live >= core->opts.queue_max || list_is_empty(&core->free_seqs))
        return NULL;
    struct seq *s = list_entry(core->free_seqs.next, struct seq, link);
    list_del(&s->link);
    /* Everything but the arrays starts anew: a slot keeps nothing of the request before. */
    struct seq fresh = {.tokens = s->tokens,
                        .blocks = s->blocks,
                        .indices = s->indices,
                        .dest_blocks = s->dest_blocks,
                        .state = SEQ_WAITING,
                        .conn = conn,
                        .router = core->conns[conn].router,
                        .id = job->seq,
                        .sampling = job->sampling,
                        .n_prompt = job->n_prompt,
                        .n_tokens = job->n_tokens};
    *s = fresh;
    memcpy(s->salt, job->salt, sizeof(s->salt));
    memcpy(s->tokens, job->tokens, job->n_tokens * sizeof(*s->tokens));
    uint32_t *bucket = &core->buckets[bucket_of(core, s->router, &s->id)];
    s->hash_next = *bucket;
    *bucket = seq_slot(core, s);
    list_add_tail(&core->waiting, &s->link);
    core->n_live++;
    return s;
}

static void seq_unhash(struct worker_core *core, struct seq *s)
{
    uint32_t *at = &core->buckets[bucket_of(core, s->router, &s->id)];
    while (*at != seq_slot(core, s)) {
        assert(*at != NONE);
        at = &core->seqs[*at].hash_next;
    }
    *at = s->hash_next;
}

/* Blocks to take at admission: the token log, one token more, the headroom; never more than the
 * sequence can fill nor than there are. */
static uint32_t blocks_wanted(const struct worker_core *core, const struct seq *s)
{
    uint32_t n = blocks_for(core, s->n_tokens);
    if (is_prefill_role(core))
        return n;
    uint64_t longest = (uint64_t)s->n_prompt + s->sampling.max_new_tokens;
    if (longest > core->opts.max_context_tokens)
        longest = core->opts.max_context_tokens;
    /* the last output needs no KV */
    uint32_t most = blocks_for(core, (uint32_t)longest - 1);
    if (most > core->opts.pool.block_count)
        most = core->opts.pool.block_count;
    uint64_t want = (uint64_t)n + core->opts.headroom_blocks;
    uint32_t next = blocks_for(core, s->n_tokens + 1);
    if (want < next)
        want = next;
    if (want > most)
        want = most;
    return want > n ? (uint32_t)want : n;
}

static void seq_index_blocks(struct seq *s, uint32_t first)
{
    for (uint32_t i = first; i < s->n_blocks; i++)
        s->indices[i] = s->blocks[i].index;
}

enum status seq_add_block(struct worker_core *core, struct seq *s)
{
    if (s->n_blocks >= core->blocks_max)
        return ST_NO_BLOCKS;
    enum status st = kv_pool_alloc(core->pool, 1, &s->blocks[s->n_blocks]);
    if (st != ST_OK)
        return st;
    s->n_blocks++;
    seq_index_blocks(s, s->n_blocks - 1);
    return ST_OK;
}

/* All or nothing. At least the last token is left to compute, so that there is something to sample.
 */
static bool seq_take_blocks(struct worker_core *core, struct seq *s)
{
    uint32_t want = blocks_wanted(core, s);
    uint32_t bt = core->opts.pool.block_tokens;
    uint32_t hits = kv_pool_match(core->pool, s->salt, s->tokens, s->n_tokens,
                                  (s->n_tokens - 1) / bt, s->blocks, &s->parent);
    if (kv_pool_alloc(core->pool, want - hits, s->blocks + hits) != ST_OK) {
        kv_pool_release(core->pool, s->blocks, hits);
        return false;
    }
    s->n_blocks = want;
    s->n_hits = hits;
    s->n_sealed = hits;
    s->n_done = s->n_planned = hits * bt;
    seq_index_blocks(s, 0);
    core->totals.cached_tokens += s->n_done;
    return true;
}

void seq_run(struct worker_core *core, struct seq *s, enum seq_state state)
{
    list_del(&s->link);
    s->state = state;
    struct list *at = core->running.prev; /* nearly always the youngest */
    while (at != &core->running && list_entry(at, struct seq, link)->stamp > s->stamp)
        at = at->prev;
    list_add_head(at, &s->link);
}

static void seq_lend(struct worker_core *core, struct seq *s)
{
    list_del(&s->link);
    s->state = SEQ_LOANED;
    list_add_tail(&core->loaned, &s->link);
    s->n_lent = blocks_for(core, s->n_tokens) - s->n_hits;
    kv_pool_loan(core->pool, s->blocks + s->n_hits, s->n_lent);
    loan_writers_init(core, &s->writers);
}

static void seq_admitted(struct worker_core *core, uint64_t now_ns, struct seq *s)
{
    if (s->stamp == 0)
        s->stamp = ++core->stamp;
    bool remote = !is_prefill_role(core) && !s->local && !s->answered;
    if (remote)
        seq_lend(core, s);
    else
        seq_run(core, s, SEQ_PREFILL);
    if (is_prefill_role(core))
        seq_push(core, now_ns, s, 0, core->opts.pool.layer_count, 0, s->n_hits);
    else if (!s->answered)
        act_reserved(core, s);
    s->answered = 1;
}

static bool can_never_fit(const struct worker_core *core, const struct seq *s)
{
    uint32_t n_tokens = s->n_tokens + (is_prefill_role(core) ? 0 : 1);
    return blocks_for(core, n_tokens) > core->opts.pool.block_count;
}

void core_admit(struct worker_core *core, uint64_t now_ns)
{
    while (!list_is_empty(&core->waiting)) {
        struct seq *s = list_entry(core->waiting.next, struct seq, link);
        if (can_never_fit(core, s)) {
            seq_fail(core, s, ST_TOO_LARGE);
            continue;
        }
        if (is_prefill_role(core) && !core_push_has_room(core, 1))
            return;
        /* Trying hashes the whole prompt, so not again before more blocks are there. */
        uint32_t available = kv_pool_available(core->pool);
        if (core->blocked == s && available <= core->blocked_available)
            return;
        if (!seq_take_blocks(core, s)) {
            core->blocked = s;
            core->blocked_available = available;
            return;
        }
        core->blocked = NULL;
        seq_admitted(core, now_ns, s);
    }
}

void seq_preempt(struct worker_core *core, struct seq *s)
{
    assert(!s->in_step && (s->state == SEQ_DECODE || s->state == SEQ_PREFILL));
    kv_pool_release(core->pool, s->blocks, s->n_blocks);
    s->n_blocks = s->n_hits = s->n_sealed = s->n_done = s->n_planned = 0;
    list_del(&s->link);
    s->state = SEQ_WAITING;
    list_add_head(&core->waiting, &s->link);
    core->totals.preemptions++;
}

void seq_seal(struct worker_core *core, struct seq *s)
{
    uint32_t bt = core->opts.pool.block_tokens;
    for (; s->n_done / bt > s->n_sealed; s->n_sealed++) {
        struct hash128 key;
        kv_pool_seal(core->pool, s->blocks[s->n_sealed], s->salt,
                     s->n_sealed > 0 ? &s->parent : NULL, s->tokens + (size_t)s->n_sealed * bt,
                     &key);
        s->parent = key;
    }
}

static void slot_free(struct worker_core *core, struct seq *s)
{
    s->state = SEQ_FREE;
    list_add_head(&core->free_seqs, &s->link); /* its memory is warm */
}

void seq_unref(struct worker_core *core, uint32_t slot)
{
    struct seq *s = &core->seqs[slot];
    assert(s->n_refs > 0);
    s->n_refs--;
    if (s->n_refs == 0 && s->state == SEQ_ZOMBIE)
        slot_free(core, s);
}

void seq_end(struct worker_core *core, struct seq *s)
{
    assert(s->state >= SEQ_WAITING && s->state != SEQ_LOANED && s->state != SEQ_ENDING);
    if (core->blocked == s)
        core->blocked = NULL;
    list_del(&s->link);
    list_add_tail(&core->parked, &s->link);
    s->state = SEQ_ENDING;
    core->n_live--;
    seq_settle(core, s);
}

void seq_fail(struct worker_core *core, struct seq *s, enum status st)
{
    s->fail_status = (uint32_t)st;
    seq_end(core, s);
}

void seq_settle(struct worker_core *core, struct seq *s)
{
    assert(s->state == SEQ_ENDING);
    if (s->n_pushes > 0)
        return;
    if (!s->settled) {
        s->settled = 1;
        if (s->unsure)
            core->unsure[core->n_unsure++ % CORE_UNSURE] = (struct unsure){s->router, s->id};
        else if (is_prefill_role(core))
            act_record(core, s, WIRE_ABORTED);
        if (s->fail_status != ST_OK)
            act_failed(core, s->conn, &s->id, (enum status)s->fail_status, !s->unsure);
        if (s->cancel_reply)
            act_cancelled(core, s->conn, &s->id, s->unsure ? s->n_dest : 0);
        if (s->router_lost)
            core_router_done_try(core, s->router);
    }
    if (s->in_step)
        return;
    kv_pool_release(core->pool, s->blocks, s->n_blocks);
    s->n_blocks = 0;
    seq_unhash(core, s);
    list_del(&s->link);
    if (s->n_refs > 0)
        s->state = SEQ_ZOMBIE;
    else
        slot_free(core, s);
}
