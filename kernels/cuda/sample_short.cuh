/* Internal to sample.cu: the best tokens of a row, without bins.
 *
 * The k-th best of the threads' best tokens bounds the k-th best token from below, and few tokens
 * are above it, since each thread has a small part of the row. So the tokens up to that bound are a
 * short list that has the k best. Each block sends its own to the first block, which puts them in
 * order. A tie goes by the vector that has the token, so that equal logits make no long list. */
#ifndef KERNELS_CUDA_SAMPLE_SHORT_CUH
#define KERNELS_CUDA_SAMPLE_SHORT_CUH

#include "kernels/cuda/sample_rank.cuh"
#include "kernels/cuda/sample_survey.cuh"

namespace sampling
{

constexpr uint32_t SHORT_MAX = 128; /* tokens that are asked of it */
constexpr uint32_t SHORT_DIRECT_MAX = 128;
constexpr uint32_t SHORT_PLACES = 2 * COLLECT_MAX; /* shared by the blocks */
/* Rows without a small top-k try it where the mass is no more than so many best tokens'. */
constexpr float SHORT_MASS_MAX = 16.0f;
/* Bound of the relative error of summary.sum: roundings of some hundred additions, of x, whose
 * absolute error is below 1e-5, and of the approximate power. */
constexpr double SHORT_SUM_ERROR = 0x1p-13;

static_assert(SHORT_MAX + SHORT_MAX / 8 + 4 <= COUNT_MAX, "they are counted");

/* Tokens (or threads) with a key before it, or the same key and a tie up to it. */
struct limit {
    uint32_t key, tie;
};

__device__ __forceinline__ bool is_within(uint32_t key, uint32_t tie, struct limit limit)
{
    return key < limit.key || (key == limit.key && tie <= limit.tie);
}

/* A limit that k of the threads' pairs are within, or all, and not many more if pairs differ; ties
 * are in [tie_first, tie_end). A key behind KEY_LAST is none. */
__device__ __noinline__ struct limit limit_find(uint32_t key, uint32_t tie, uint32_t k,
                                                uint32_t tie_first, uint32_t tie_end)
{
    struct state *st = &shared()->state;
    uint32_t enough = k + k / 8 + 4;
    if (threadIdx.x == 0) {
        st->key_min = ~0u;
        st->key_max = 0;
    }
    uint32_t n = __syncthreads_count(key <= KEY_LAST);
    if (n <= enough)
        return {KEY_LAST, ~0u};
    uint32_t least = __reduce_min_sync(~0u, key);
    uint32_t most = __reduce_max_sync(~0u, key <= KEY_LAST ? key : 0);
    if (threadIdx.x % 32 == 0) {
        atomicMin(&st->key_min, least);
        atomicMax(&st->key_max, most);
    }
    __syncthreads();
    uint32_t lo = st->key_min, hi = st->key_max;
    while (lo < hi && n > enough) { /* n keys are up to hi; fewer than k are before lo */
        uint32_t middle = lo + (hi - lo) / 2;
        uint32_t n_middle = __syncthreads_count(key <= middle);
        if (n_middle >= k) {
            hi = middle;
            n = n_middle;
        } else {
            lo = middle + 1;
        }
    }
    struct limit limit = {hi, ~0u};
    if (n <= enough)
        return limit;
    lo = tie_first;
    hi = tie_end - 1;
    while (lo < hi && n > enough) {
        limit.tie = lo + (hi - lo) / 2;
        uint32_t n_middle = __syncthreads_count(is_within(key, tie, limit));
        if (n_middle >= k) {
            hi = limit.tie;
            n = n_middle;
        } else {
            lo = limit.tie + 1;
        }
    }
    limit.tie = hi;
    return limit;
}

/* Sends the vector's tokens within the limit to this block's places in the first block. */
__device__ __noinline__ void shortlist_send_vector(const struct part &p, uint32_t v,
                                                   struct limit limit)
{
    struct shared_memory *sm = shared();
    uint32_t n_places = SHORT_PLACES / cluster_blocks();
    uint64_t *places = peer(sm->list[0], 0) + cluster_rank() * n_places;
    float4 f = load(p, v);
    if (p.has_banned)
        f = ban(f, *bins_at(p, v));
    float l[4] = {f.x, f.y, f.z, f.w};
#pragma unroll
    for (uint32_t j = 0; j < 4; j++) {
        if (!(l[j] > -INFINITY) || !is_within(descending_key(l[j]), v, limit))
            continue;
        uint32_t place = atomicAdd(&sm->state.n_matching, 1u);
        if (place < n_places)
            places[place] = item_of(l[j], id_of(p, v, j));
    }
}

/* The block's tokens up to a limit that leaves k of its tokens, or all; s is the survey of its
 * threads. Fills in summary.n_listed and limit. */
__device__ __noinline__ void shortlist_send(const struct part &p, const struct survey &s,
                                            uint32_t k, struct summary *summary)
{
    struct shared_memory *sm = shared();
    struct state *st = &sm->state;
    uint32_t *leaders = (uint32_t *)&sm->bins; /* threads with a token within the limit */
    if (threadIdx.x == 0)
        st->n_leaders = st->n_matching = 0;
    uint32_t key = descending_key(s.best);
    struct limit limit = limit_find(key, s.v, k, p.v_first, p.v_end);
    if (key <= KEY_LAST && is_within(key, s.v, limit))
        leaders[atomicAdd(&st->n_leaders, 1u)] = threadIdx.x;
    __syncthreads();
    /* Few have; but all threads take part in reading their vectors again. */
    uint32_t n_rounds = (p.full_end - p.v_full + THREADS - 1) / THREADS;
    uint32_t n_vectors = st->n_leaders * n_rounds;
    for (uint32_t i = threadIdx.x; i < n_vectors; i += THREADS) {
        uint32_t leader = i / n_rounds;
        uint32_t v = p.v_full + leaders[leader] + (i - leader * n_rounds) * THREADS;
        if (v < p.full_end)
            shortlist_send_vector(p, v, limit);
    }
    if (threadIdx.x == 0 && p.v_first < p.v_full)
        shortlist_send_vector(p, p.v_first, limit);
    if (threadIdx.x == 1 && p.full_end < p.v_end)
        shortlist_send_vector(p, p.full_end, limit);
    __syncthreads();
    summary->n_listed = st->n_matching;
    /* The last id of the vector, or any. */
    summary->limit = (uint64_t)limit.key << 32 | (limit.tie == ~0u ? ~0u : id_of(p, limit.tie, 3));
}

/* Did all blocks have places enough? */
__device__ __forceinline__ bool shortlist_fits(uint32_t exchange)
{
    const struct state *st = &shared()->state;
    uint32_t n = 0, most = 0;
    for (uint32_t r = 0; r < cluster_blocks(); r++) {
        n += st->of[exchange][r].n_listed;
        most = max(most, st->of[exchange][r].n_listed);
    }
    return most <= SHORT_PLACES / cluster_blocks() && n <= THREADS;
}

/* In the first block: *out_items, which have the k best at least and are COUNT_MAX at most; returns
 * how many they are. */
__device__ __noinline__ uint32_t shortlist_take(uint32_t exchange, uint32_t k, uint32_t n_vocab,
                                                uint64_t **out_items)
{
    struct shared_memory *sm = shared();
    struct state *st = &sm->state;
    uint64_t *places = sm->list[0], *packed = (uint64_t *)&sm->bins;
    uint32_t n_places = SHORT_PLACES / cluster_blocks(), n = 0;
    for (uint32_t r = 0; r < cluster_blocks(); r++) {
        uint32_t n_block = st->of[exchange][r].n_listed;
        for (uint32_t i = threadIdx.x; i < n_block; i += THREADS)
            packed[n + i] = places[r * n_places + i];
        n += n_block;
    }
    if (threadIdx.x == 0)
        st->n_matching = 0;
    __syncthreads();
    *out_items = packed;
    if (n <= SHORT_DIRECT_MAX)
        return n;
    uint64_t item = threadIdx.x < n ? packed[threadIdx.x] : ITEM_NONE;
    uint32_t key = (uint32_t)(item >> 32), id = (uint32_t)item;
    struct limit limit = limit_find(key, id, k, 0, n_vocab);
    if (key <= KEY_LAST && is_within(key, id, limit))
        places[atomicAdd(&st->n_matching, 1u)] = item;
    __syncthreads();
    *out_items = places;
    return st->n_matching;
}

/* A mass that is known to be in [lo, hi]. */
struct between {
    uint64_t lo, hi;
};

/* The ends of the shortest prefixes of at least g.lo and of at least g.hi, among the entries that
 * count. */
__device__ __noinline__ void ends_find(const struct entry &e, bool counts, struct between g,
                                       struct find *out_lo, struct find *out_hi)
{
    struct state *st = &shared()->state;
    uint64_t after = e.before.mass + e.weight;
    if (counts && e.before.mass < g.lo && g.lo <= after)
        st->ends[0] = {after, e.id};
    if (counts && e.before.mass < g.hi && g.hi <= after)
        st->ends[1] = {after, e.id};
    __syncthreads();
    *out_lo = st->ends[0];
    *out_hi = st->ends[1];
    __syncthreads();
}

__device__ __forceinline__ struct between between_of(float part, struct between mass)
{
    uint32_t p = ops_sample_part(part);
    return {ops_sample_of(p, mass.lo), ops_sample_of(p, mass.hi)};
}

/* Mass of the tokens that count and that min-p keeps. */
__device__ __noinline__ uint64_t ends_min_p(const struct entry &e, bool counts, float min_p)
{
    struct state *st = &shared()->state;
    float limit = truncf(__fmul_rn(fminf(min_p, 2.0f), (float)WEIGHT_ONE));
    if (threadIdx.x == 0)
        st->min_p_mass = WEIGHT_ONE;
    __syncthreads();
    if (counts && (float)e.weight >= limit)
        atomicMax((unsigned long long *)&st->min_p_mass,
                  (unsigned long long)(e.before.mass + e.weight));
    __syncthreads();
    return st->min_p_mass;
}

/* In the first block: draws the row's token if it and all it depends on is on the list; whatever
 * is not is known by its mass, `kept`. is_top_k: only the first top_k tokens count, and they are
 * on the list. Otherwise those up to `limit`. */
__device__ __noinline__ bool shortlist_draw(uint32_t exchange, struct scale scale, bool is_top_k,
                                            uint64_t limit, struct between kept, uint32_t n_vocab,
                                            uint32_t *out_id)
{
    struct state *st = &shared()->state;
    const struct sample_row &row = st->row;
    uint64_t *items;
    uint32_t n = shortlist_take(exchange, is_top_k ? row.top_k : SHORT_MAX, n_vocab, &items);
    uint32_t n_counting = __syncthreads_count(threadIdx.x < n && items[threadIdx.x] <= limit);
    struct entry e = entries_count(items, n, {0, 0}, scale);
    if (is_top_k)
        n_counting = min(n, row.top_k);
    bool counts = e.is_token && e.before.n < n_counting;
    if (e.is_token && e.before.n + 1 == n_counting)
        st->end_mass = e.before.mass + e.weight;
    __syncthreads();
    const uint64_t all = st->end_mass;
    struct find lo, hi;
    if (is_top_k)
        kept = {all, all};
    if (row.top_p > 0.0f && row.top_p < 1.0f) {
        struct between g = between_of(row.top_p, kept);
        g = {max(g.lo, (uint64_t)1), max(g.hi, (uint64_t)1)};
        if (g.hi > all)
            return false;
        ends_find(e, counts, g, &lo, &hi);
        if (lo.mass != hi.mass)
            return false;
        kept = {lo.mass, lo.mass};
    }
    if (row.min_p > 0.0f) {
        uint64_t mass = ends_min_p(e, counts, row.min_p);
        if (mass < all)
            kept = {min(kept.lo, mass), min(kept.hi, mass)};
        else if (kept.hi > all)
            return false;
    }
    struct between g = between_of(row.uniform, kept);
    g = {g.lo + 1, g.hi + 1};
    if (g.hi > all)
        return false;
    ends_find(e, counts, g, &lo, &hi);
    *out_id = lo.id;
    return lo.id == hi.id;
}

} // namespace sampling

#endif
