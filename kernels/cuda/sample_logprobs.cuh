/* Internal to sample.cu: log-probabilities of a row as it came. */
#ifndef KERNELS_CUDA_SAMPLE_LOGPROBS_CUH
#define KERNELS_CUDA_SAMPLE_LOGPROBS_CUH

#include "kernels/cuda/sample_short.cuh"

namespace sampling
{

constexpr float LOG2_E = 1.44269504088896341f;

__device__ __forceinline__ float log_of(float logit, const struct state *st)
{
    return (logit == st->best ? 0.0f : logit - st->best) - st->log_sum;
}

__device__ __forceinline__ void top_write(const struct state *st, uint32_t place, uint64_t item)
{
    struct sample_logprobs *out = st->row.logprobs;
    bool is_token = item != ITEM_NONE;
    out->ids[place] = is_token ? (uint32_t)item : OPS_NO_TOKEN;
    out->values[place] = is_token ? log_of(logit_of_key((uint32_t)(item >> 32)), st) : -INFINITY;
}

/* One after the other, for rows whose shortlist is too long. */
__device__ __noinline__ void top_by_passes(const struct part &p)
{
    struct state *st = &shared()->state;
    uint64_t item = 0;
    for (uint32_t i = 0; i < st->row.n_top; i++) {
        item = first_item<false>(p, item);
        if (cluster_rank() == 0 && threadIdx.x == 0)
            top_write(st, i, item);
        cluster_sync();
    }
}

/* In the first block. */
__device__ __noinline__ void top_by_shortlist(uint32_t n_vocab)
{
    struct state *st = &shared()->state;
    uint32_t n_top = st->row.n_top;
    uint64_t *items;
    uint32_t n = shortlist_take(0, n_top, n_vocab, &items);
    if (threadIdx.x < n) {
        uint64_t item = items[threadIdx.x];
        uint32_t place = 0;
        for (uint32_t i = 0; i < n; i++)
            place += items[i] < item;
        if (place < n_top)
            top_write(st, place, item);
    } else if (threadIdx.x < n_top) {
        top_write(st, threadIdx.x, ITEM_NONE);
    }
}

/* All of row.logprobs but `chosen`, and what logprobs_chosen() needs. */
__device__ __noinline__ void logprobs_fill(const struct part &p)
{
    struct state *st = &shared()->state;
    uint32_t n_top = st->row.n_top;
    struct survey survey = survey_make<true>(p, LOG2_E);
    struct summary own = summary_of_block(survey, LOG2_E);
    if (n_top > 0)
        shortlist_send(p, survey, n_top, &own);
    summary_tell(own, 0);
    cluster_sync();
    struct summary all = summary_of_cluster(0, LOG2_E);
    if (threadIdx.x == 0) {
        st->best = all.best;
        st->log_sum = logf(all.sum);
    }
    __syncthreads();
    if (n_top > 0 && !shortlist_fits(0))
        top_by_passes(p);
    else if (n_top > 0 && cluster_rank() == 0)
        top_by_shortlist(p.n_vocab);
    cluster_sync(); /* the lists and what was told are free again */
}

/* First block, thread 0, when the row's logits are as they came. */
__device__ __forceinline__ void logprobs_chosen(const struct part &p, uint32_t id)
{
    const struct state *st = &shared()->state;
    st->row.logprobs->chosen =
        id == OPS_NO_TOKEN ? -INFINITY : log_of(__ldcg(logit_at(p, id + p.skew)), st);
}

} // namespace sampling

#endif
