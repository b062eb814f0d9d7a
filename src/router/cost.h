/* Cost model of the router: what a request would wait for on a worker, from measured rates.
 *
 *   ttft(w)  = (w.pending_tokens + uncached) * w.prefill_ns_per_token
 *            + (w.running > 0 ? w.step_ns * (1 + w.running / 16) : 0)
 *   remote   = ttft(prefill worker);  local = ttft(decode worker)
 *   local prefill is chosen when there is no prefill worker, when uncached <= local_max, or
 *   (unless local_max is 0, which means: always remote) when
 *   remote > COST_LOCAL_MARGIN * local: a local prefill also slows the decoding of others, which
 * the margin stands for.
 *
 * Rates are exponentially weighted means of what workers report. Pure; router loop. */
#ifndef ROUTER_COST_H
#define ROUTER_COST_H

#include <stdbool.h>
#include <stdint.h>

#define COST_LOCAL_MARGIN 2u

struct cost_worker {
    uint64_t prefill_ns_per_token; /* 0: nothing measured yet */
    uint64_t step_ns;              /* of a decode step; 0: nothing measured yet */
    uint32_t pending_tokens;       /* prompt tokens given to it and not yet computed */
    uint32_t running;              /* sequences it decodes */
};

/* Takes a measurement in: n_tokens prompt tokens took us microseconds. */
void cost_prefill_sample(struct cost_worker *w, uint32_t n_tokens, uint32_t us);
/* Two TOKENS frames of one sequence came ns apart. */
void cost_step_sample(struct cost_worker *w, uint64_t ns);
/* Predicted time to first token in ns. uncached: prompt tokens that w would compute. */
uint64_t cost_ttft_ns(const struct cost_worker *w, uint32_t uncached);
/* prefill NULL: there is none. Tokens cached on the two differ, so each has its own uncached count.
 */
bool cost_prefers_local(const struct cost_worker *decode, uint32_t uncached_decode,
                        const struct cost_worker *prefill, uint32_t uncached_prefill,
                        uint32_t local_max);

#endif
