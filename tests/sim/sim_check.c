/* The oracle and the invariants. The expected stream comes from hash_expect, which never sees a KV
 * block; the invariants are those of the cores (their _check functions walk everything) plus what
 * only an onlooker can see: attempts that come back, sequences that live twice, blocks that leak.
 */
#include "sim.h"

#include <string.h>

struct sim_request *sim_request_of(struct sim *sim, uint64_t id)
{
    for (uint32_t i = 0; i < sim->n_requests; i++)
        if (sim->requests[i].live && sim->requests[i].id == id)
            return &sim->requests[i];
    return NULL;
}

void sim_expect_init(struct sim *sim, struct sim_request *r, uint32_t choice)
{
    struct sim_choice *c = &r->choices[choice];
    hash_expect_init(&c->expect, sim->opts.layers, SIM_VOCAB, r->salt);
    for (uint32_t i = 0; i < r->n_prompt; i++)
        hash_expect_push(&c->expect, r->tokens[i]);
}

static uint32_t sim_banned(const struct sim_request *r, uint32_t position, uint32_t *out)
{
    uint32_t n = 0;
    if (position >= r->sampling.min_new_tokens)
        return 0;
    if (!r->sampling.ignore_eos)
        out[n++] = SIM_EOS;
    for (uint32_t i = 0; i < r->sampling.n_stop_ids; i++)
        out[n++] = r->sampling.stop_ids[i];
    return n;
}

/* Is the last token one that ends the stream? */
static bool sim_ends(const struct sim_request *r, const struct sim_choice *c)
{
    bool end_id = !r->sampling.ignore_eos && c->last == SIM_EOS;
    for (uint32_t i = 0; i < r->sampling.n_stop_ids; i++)
        end_id |= c->last == r->sampling.stop_ids[i];
    return c->n_tokens > r->sampling.min_new_tokens && end_id && c->n_tokens > 0;
}

void sim_expect_token(struct sim *sim, struct sim_request *r, uint32_t choice, uint32_t token)
{
    struct sim_choice *c = &r->choices[choice];
    uint32_t banned[WIRE_STOP_IDS_MAX + 1];
    struct hash_sampling s = {.temperature = r->sampling.temperature,
                              .top_p = r->sampling.top_p,
                              .min_p = r->sampling.min_p,
                              .top_k = r->sampling.top_k,
                              .seed = r->sampling.seed,
                              .choice = choice,
                              .output_position = c->n_tokens,
                              .banned = banned,
                              .n_banned = sim_banned(r, c->n_tokens, banned)};
    if (sim_ends(r, c)) {
        sim_violation(sim, "request %llu choice %u goes on behind its end at position %u",
                      (unsigned long long)r->id, choice, c->n_tokens - 1);
        return;
    }
    uint32_t want = hash_expect_next(&c->expect, &s);
    if (token != want) {
        sim_violation(sim, "wrong token: request %llu choice %u position %u is %u, expected %u",
                      (unsigned long long)r->id, choice, c->n_tokens, token, want);
        return;
    }
    hash_expect_push(&c->expect, token);
    c->last = token;
    c->n_tokens++;
}

void sim_expect_finish(struct sim *sim, struct sim_request *r, uint32_t choice, uint32_t finish)
{
    struct sim_choice *c = &r->choices[choice];
    uint32_t want = WIRE_FINISH_NONE;
    if (sim_ends(r, c))
        want = WIRE_FINISH_STOP;
    else if (c->n_tokens >= r->sampling.max_new_tokens)
        want = WIRE_FINISH_LENGTH;
    if (finish != WIRE_FINISH_NONE) {
        c->ended = true;
        if (finish != want)
            sim_violation(sim, "request %llu choice %u ends with %u after %u tokens, expected %u",
                          (unsigned long long)r->id, choice, finish, c->n_tokens, want);
    }
}

/* What a worker is asked to run must be a newer attempt than all before. */
void sim_check_attempt(struct sim *sim, const struct wire_msg *msg)
{
    if (msg->type != WIRE_RESERVE)
        return;
    const struct wire_seq *seq = &msg->u.reserve.job.seq;
    struct sim_request *r = sim_request_of(sim, seq->request);
    if (r == NULL || seq->choice >= SIM_CHOICES_MAX)
        return; /* cancelled in the same breath */
    if (seq->attempt <= r->max_attempt[seq->choice])
        sim_violation(sim, "attempt %u of request %llu choice %u is used again", seq->attempt,
                      (unsigned long long)seq->request, seq->choice);
    r->max_attempt[seq->choice] = seq->attempt;
}

void sim_check(struct sim *sim)
{
    char why[256] = "";
    if (sim->violated)
        return;
    if (router_core_check(sim->router, why, sizeof(why)) != ST_OK)
        sim_violation(sim, "router core: %s", why);
    for (uint32_t i = 0; i < sim->n_workers; i++)
        if (sim->workers[i].up &&
            worker_core_check(sim->workers[i].core, why, sizeof(why)) != ST_OK)
            sim_violation(sim, "worker %u: %s", i, why);
}

/* After healing: nothing is held, nothing is in quarantine, and every request has ended. */
void sim_check_drained(struct sim *sim)
{
    for (uint32_t i = 0; i < sim->n_requests; i++)
        if (sim->requests[i].live)
            sim_violation(sim, "request %llu never ended", (unsigned long long)sim->requests[i].id);
    for (uint32_t i = 0; i < sim->n_workers; i++) {
        struct kv_pool_counts c = kv_pool_counts(worker_core_pool(sim->workers[i].core));
        if (c.free + c.cached != c.total)
            sim_violation(sim, "worker %u leaks blocks: %u owned, %u loaned, %u quarantined of %u",
                          i, c.owned, c.loaned, c.quarantined, c.total);
    }
}
