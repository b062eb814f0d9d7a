#include "router/cost.h"

#include <stddef.h>

#define DEFAULT_PREFILL_NS 50000u
#define DEFAULT_STEP_NS    1000000u

/* One eighth of the new value. */
static uint64_t mean_update(uint64_t mean, uint64_t value)
{
    return mean == 0 ? value : mean - mean / 8 + value / 8;
}

void cost_prefill_sample(struct cost_worker *w, uint32_t n_tokens, uint32_t us)
{
    if (n_tokens == 0)
        return;
    uint64_t ns = (uint64_t)us * 1000 / n_tokens;
    w->prefill_ns_per_token = mean_update(w->prefill_ns_per_token, ns > 0 ? ns : 1);
}

void cost_step_sample(struct cost_worker *w, uint64_t ns)
{
    w->step_ns = mean_update(w->step_ns, ns > 0 ? ns : 1);
}

uint64_t cost_ttft_ns(const struct cost_worker *w, uint32_t uncached)
{
    uint64_t token_ns = w->prefill_ns_per_token > 0 ? w->prefill_ns_per_token : DEFAULT_PREFILL_NS;
    uint64_t step_ns = w->step_ns > 0 ? w->step_ns : DEFAULT_STEP_NS;
    /* A step carries all running sequences, so its time does not multiply; one step of waiting,
     * plus a share that keeps workers evenly loaded. */
    uint64_t wait_ns = w->running > 0 ? step_ns + w->running * step_ns / 16 : 0;
    return ((uint64_t)w->pending_tokens + uncached) * token_ns + wait_ns;
}

bool cost_prefers_local(const struct cost_worker *decode, uint32_t uncached_decode,
                        const struct cost_worker *prefill, uint32_t uncached_prefill,
                        uint32_t local_max)
{
    if (prefill == NULL)
        return true;
    if (local_max == 0)
        return false;
    if (uncached_decode <= local_max)
        return true;
    return cost_ttft_ns(prefill, uncached_prefill) >
           COST_LOCAL_MARGIN * cost_ttft_ns(decode, uncached_decode);
}
