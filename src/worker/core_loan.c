/* Loans: who may be writing into blocks of this pool, and when that is over.
 *
 * RESERVE does not name the prefill worker that will write, so each one known while the loan lives
 * may be it, until a CANCEL names it. A quarantined loan ends by
 *   - a CANCEL with WRITER_DONE, or a COMPLETE or ABORTED record that names it exactly;
 *   - its router having cancelled it, and each possible writer being fenced;
 *   - its router being gone, and each possible writer being fenced or having sent ROUTER_DONE.
 * Time alone only asks for fencing, once the loan is cancelled: before, its router is about to.
 *
 * Fencing without a cancel is not enough: a PREFILL for the loan may still be on its way to the
 * prefill worker, which is announced anew (PEER) and takes it up on a new connection. After a
 * cancel that cannot be: PREFILL and CANCEL came to that worker on the same link, and before the
 * PEER without which it takes no PREFILL after a fence (core_reserve.c). */
#include "worker/core_int.h"

#include <assert.h>

bool core_has_writers(const struct worker_core *core)
{
    for (uint32_t i = 0; i < CORE_PEERS; i++) {
        if (core->peers[i].state != PEER_FREE && core->peers[i].info.role == WIRE_ROLE_PREFILL)
            return true;
    }
    return false;
}

void loan_writers_init(struct worker_core *core, struct loan_writers *writers)
{
    *writers = (struct loan_writers){0};
    for (uint32_t i = 0; i < CORE_PEERS; i++) {
        const struct peer *peer = &core->peers[i];
        if (peer->state == PEER_FREE || peer->info.role != WIRE_ROLE_PREFILL)
            continue;
        peer_set_add(&writers->alive, i);
        if (peer->state == PEER_FENCING && peer->come_back)
            peer_set_add(&writers->back, i);
    }
}

static bool nobody_alive(const struct loan_writers *writers)
{
    uint64_t any = 0;
    for (uint32_t i = 0; i < CORE_PEERS / 64; i++)
        any |= writers->alive.bits[i];
    return any == 0;
}

/* For an orphaned loan a writer that said ROUTER_DONE is no writer any more. */
static bool nobody_writes(const struct worker_core *core, const struct loan *loan)
{
    const struct loan_writers *writers = &loan->writers;
    uint64_t any = 0;
    if (loan->writer != 0) {
        uint32_t peer = peer_find(core, loan->writer);
        return peer != NONE && peer_set_has(&writers->done, peer);
    }
    for (uint32_t i = 0; i < CORE_PEERS / 64; i++)
        any |= writers->alive.bits[i] & ~writers->done.bits[i];
    return any == 0;
}

void seq_loan_over(struct worker_core *core, struct seq *s)
{
    assert(s->state == SEQ_LOANED);
    kv_pool_loan_end(core->pool, s->blocks + s->n_hits, s->n_lent);
    s->n_lent = 0;
    s->state = SEQ_PREFILL; /* until the caller says what becomes of it */
}

void seq_quarantine(struct worker_core *core, uint64_t now_ns, struct seq *s)
{
    assert(s->state == SEQ_LOANED && s->n_lent > 0);
    /* There are as many loan records as blocks, and each one in use holds a block at least. */
    assert(!list_is_empty(&core->free_loans));
    struct loan *loan = list_entry(core->free_loans.next, struct loan, link);
    list_del(&loan->link);
    const struct kv_block_ref *lent = s->blocks + s->n_hits;
    *loan = (struct loan){.router = s->router,
                          .id = s->id,
                          .since_ns = now_ns,
                          .block_first = lent[0].index,
                          .n_blocks = s->n_lent,
                          .writers = s->writers};
    for (uint32_t i = 0; i < s->n_lent; i++)
        core->chain[lent[i].index] =
            (struct chain_link){lent[i].generation, i + 1 < s->n_lent ? lent[i + 1].index : NONE};
    list_add_tail(&core->quarantine, &loan->link);
    kv_pool_quarantine(core->pool, lent, s->n_lent);
    /* What remains the sequence's: cached blocks before, headroom behind. */
    kv_pool_release(core->pool, lent + s->n_lent, s->n_blocks - s->n_hits - s->n_lent);
    s->n_blocks = s->n_hits;
    s->n_lent = 0;
    s->state = SEQ_PREFILL;
}

static void loan_gather(struct worker_core *core, const struct loan *loan)
{
    uint32_t at = loan->block_first;
    for (uint32_t i = 0; i < loan->n_blocks; i++) {
        core->lent[i] = (struct kv_block_ref){at, core->chain[at].generation};
        at = core->chain[at].next;
    }
}

void loan_end(struct worker_core *core, struct loan *loan)
{
    loan_gather(core, loan);
    kv_pool_loan_end(core->pool, core->lent, loan->n_blocks);
    list_del(&loan->link);
    list_add_head(&core->free_loans, &loan->link);
}

/* Ends the loan when nobody can be writing. With no writer known at all nothing is proved, unless
 * the router is gone, which would have announced its writer. */
static bool loan_end_try(struct worker_core *core, struct loan *loan)
{
    bool all_fenced = loan->writer != 0
                          ? peer_is_gone(core, loan->writer)
                          : loan->writers.n_fenced > 0 && nobody_alive(&loan->writers);
    bool over = (loan->cancelled && all_fenced) || (loan->orphaned && nobody_writes(core, loan));
    if (over)
        loan_end(core, loan);
    return over;
}

bool loan_cancel(struct worker_core *core, struct loan *loan, bool writer_done, uint64_t writer)
{
    loan->cancelled = 1;
    if (writer != 0)
        loan->writer = writer;
    if (!writer_done)
        return loan_end_try(core, loan);
    loan_end(core, loan);
    return true;
}

struct loan *loan_find(struct worker_core *core, uint64_t router, const struct wire_seq *id)
{
    struct list *node;
    list_for_each(node, &core->quarantine)
    {
        struct loan *loan = list_entry(node, struct loan, link);
        if (loan->router == router && wire_seq_equal(&loan->id, id))
            return loan;
    }
    return NULL;
}

static bool lent_is(const struct worker_core *core, const struct kv_block_ref *lent,
                    uint32_t n_lent, uint64_t epoch, const struct wire_block *blocks,
                    uint32_t n_blocks)
{
    if (n_blocks != n_lent)
        return false;
    for (uint32_t i = 0; i < n_blocks; i++)
        core->named[i] = (struct kv_block_ref){blocks[i].index, blocks[i].generation};
    return kv_pool_loan_check(core->pool, epoch, lent, n_lent, core->named, n_blocks) == ST_OK;
}

bool seq_loan_is(const struct worker_core *core, const struct seq *s, uint64_t epoch,
                 const struct wire_block *blocks, uint32_t n_blocks)
{
    return lent_is(core, s->blocks + s->n_hits, s->n_lent, epoch, blocks, n_blocks);
}

struct loan *loan_match(struct worker_core *core, uint64_t router, const struct wire_seq *id,
                        uint64_t epoch, const struct wire_block *blocks, uint32_t n_blocks)
{
    struct list *node;
    list_for_each(node, &core->quarantine)
    {
        struct loan *loan = list_entry(node, struct loan, link);
        if (loan->router != router || loan->id.request != id->request ||
            loan->id.choice != id->choice || loan->n_blocks != n_blocks)
            continue;
        loan_gather(core, loan);
        if (lent_is(core, core->lent, loan->n_blocks, epoch, blocks, n_blocks))
            return loan;
    }
    return NULL;
}

void core_loans_orphan(struct worker_core *core, uint64_t router, bool orphaned)
{
    struct list *node, *tmp;
    list_for_each_safe(node, tmp, &core->quarantine)
    {
        struct loan *loan = list_entry(node, struct loan, link);
        if (loan->router != router)
            continue;
        loan->orphaned = orphaned;
        loan->cancelled |= orphaned;
        loan_end_try(core, loan);
    }
}

/* True the first time. The record has no number, and a copy that comes late must not speak for what
 * the same pair does after that router has connected again. */
static bool router_done_is_new(struct worker_core *core, uint64_t peer, uint64_t router)
{
    for (uint32_t i = 0; i < CORE_ROUTERS_DONE && i < core->n_routers_done; i++) {
        if (core->routers_done[i].peer == peer && core->routers_done[i].router == router)
            return false;
    }
    core->routers_done[core->n_routers_done++ % CORE_ROUTERS_DONE] =
        (struct router_done){peer, router};
    return true;
}

/* May come before our own connection to that router is seen to be down. */
void core_on_router_done(struct worker_core *core, uint32_t peer, uint64_t router)
{
    struct list *node, *tmp;
    if (!router_done_is_new(core, core->peers[peer].info.instance, router))
        return;
    list_for_each(node, &core->loaned)
    {
        struct seq *s = list_entry(node, struct seq, link);
        if (s->router == router)
            peer_set_add(&s->writers.done, peer);
    }
    list_for_each_safe(node, tmp, &core->quarantine)
    {
        struct loan *loan = list_entry(node, struct loan, link);
        if (loan->router != router)
            continue;
        peer_set_add(&loan->writers.done, peer);
        loan_end_try(core, loan);
    }
}

static void writers_up(struct worker_core *core, struct loan_writers *writers, uint32_t peer)
{
    peer_set_add(&writers->alive, peer);
    peer_set_del(&writers->done, peer);
    if (core->peers[peer].state == PEER_FENCING)
        peer_set_add(&writers->back, peer);
}

void core_loans_peer_up(struct worker_core *core, uint32_t peer)
{
    struct list *node;
    if (core->peers[peer].info.role != WIRE_ROLE_PREFILL)
        return;
    list_for_each(node, &core->loaned)
        writers_up(core, &list_entry(node, struct seq, link)->writers, peer);
    list_for_each(node, &core->quarantine)
    {
        struct loan *loan = list_entry(node, struct loan, link);
        if (!loan->cancelled)
            writers_up(core, &loan->writers, peer);
    }
}

/* True when the peer was a possible writer and is none any more. */
static bool writers_drop(struct loan_writers *writers, uint32_t peer)
{
    if (!peer_set_has(&writers->alive, peer))
        return false;
    peer_set_del(&writers->done, peer);
    if (peer_set_has(&writers->back, peer)) {
        peer_set_del(&writers->back, peer);
        return false;
    }
    peer_set_del(&writers->alive, peer);
    writers->n_fenced++;
    return true;
}

/* A live sequence whose last possible writer is fenced will not be completed, for all we know: a
 * record may have been lost. Its router decides. */
void core_loans_peer_fenced(struct worker_core *core, uint64_t now_ns, uint32_t peer)
{
    struct list *node, *tmp;
    list_for_each_safe(node, tmp, &core->quarantine)
    {
        struct loan *loan = list_entry(node, struct loan, link);
        bool is_back = peer_set_has(&loan->writers.back, peer);
        bool dropped = writers_drop(&loan->writers, peer);
        if (is_back)
            loan->fence_asked = 0; /* it may have the job on its new connection */
        else if (loan->cancelled && loan->writer == core->peers[peer].info.instance)
            loan_end(core, loan);
        else if (dropped)
            loan_end_try(core, loan);
    }
    list_for_each_safe(node, tmp, &core->loaned)
    {
        struct seq *s = list_entry(node, struct seq, link);
        if (!writers_drop(&s->writers, peer) || !nobody_alive(&s->writers))
            continue;
        act_failed(core, s->conn, &s->id, ST_PEER_LOST, 0);
        seq_quarantine(core, now_ns, s);
        seq_end(core, s);
    }
}

static void loan_ask_fence(struct worker_core *core, struct loan *loan)
{
    loan->fence_asked = 1;
#if defined(DYND_PLANT) && DYND_PLANT == 3
    loan_end(core, loan); /* planted bug for the simulator's self-test: a timer frees */
#else
    if (loan->writer != 0) { /* the router named it: nobody else need be fenced */
        peer_fence_instance(core, loan->writer);
        return;
    }
    for (uint32_t i = 0; i < CORE_PEERS; i++) {
        if (peer_set_has(&loan->writers.alive, i) &&
            !(loan->orphaned && peer_set_has(&loan->writers.done, i)))
            peer_fence(core, i);
    }
#endif
}

void core_loans_tick(struct worker_core *core, uint64_t now_ns)
{
    struct list *node, *tmp;
    list_for_each_safe(node, tmp, &core->quarantine)
    {
        struct loan *loan = list_entry(node, struct loan, link);
        if (now_ns - loan->since_ns < core->opts.fence_after_ns)
            return; /* oldest first */
        if (!loan->fence_asked && loan->cancelled)
            loan_ask_fence(core, loan);
    }
}

uint64_t core_loans_deadline(const struct worker_core *core)
{
    struct list *node;
    list_for_each(node, &core->quarantine)
    {
        const struct loan *loan = list_entry(node, struct loan, link);
        uint64_t at;
        if (loan->fence_asked || !loan->cancelled)
            continue;
        if (__builtin_add_overflow(loan->since_ns, core->opts.fence_after_ns, &at))
            at = UINT64_MAX;
        return at;
    }
    return UINT64_MAX;
}
