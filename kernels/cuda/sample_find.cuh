/* Internal to sample.cu: the ends of prefixes of a whole row, from its bins. */
#ifndef KERNELS_CUDA_SAMPLE_FIND_CUH
#define KERNELS_CUDA_SAMPLE_FIND_CUH

#include "kernels/cuda/sample_bins.cuh"
#include "kernels/cuda/sample_rank.cuh"

namespace sampling
{

/* Tokens of bins [first, end) with keys [lo, hi]. */
struct range {
    uint32_t first, end;
    uint32_t lo, hi;
};

/* Calls f(id) for the block's tokens of a range, whatever their keys. */
template <typename F>
__device__ __forceinline__ void for_each_bin_in(const struct part &p, struct range range, F f)
{
    uint32_t n_bins = range.end - range.first;
#pragma unroll 2
    for (uint32_t v = p.v_first + threadIdx.x; v < p.v_end; v += THREADS) {
        ushort4 b4 = *bins_at(p, v);
        uint32_t b[4] = {b4.x - range.first, b4.y - range.first, b4.z - range.first,
                         b4.w - range.first};
        if (min(min(b[0], b[1]), min(b[2], b[3])) >= n_bins)
            continue;
#pragma unroll 1
        for (uint32_t j = 0; j < 4; j++) {
            if (b[0] < n_bins)
                f(id_of(p, v, j));
            b[0] = b[1];
            b[1] = b[2];
            b[2] = b[3];
        }
    }
}

/* Calls f(id, key) for the block's tokens of a range. */
template <typename F>
__device__ __forceinline__ void for_each_in(const struct part &p, struct range range, F f)
{
    uint32_t n_bins = range.end - range.first;
#pragma unroll 2
    for (uint32_t v = p.v_first + threadIdx.x; v < p.v_end; v += THREADS) {
        ushort4 b4 = *bins_at(p, v);
        uint32_t b[4] = {b4.x, b4.y, b4.z, b4.w};
        bool is_in[4];
#pragma unroll
        for (uint32_t j = 0; j < 4; j++)
            is_in[j] = b[j] - range.first < n_bins;
        if (!(is_in[0] || is_in[1] || is_in[2] || is_in[3]))
            continue;
        float4 f4 = load(p, v);
        float logit[4] = {f4.x, f4.y, f4.z, f4.w};
#pragma unroll
        for (uint32_t j = 0; j < 4; j++) {
            uint32_t key = descending_key(logit[j]);
            if (is_in[j] && key >= range.lo && key <= range.hi)
                f(id_of(p, v, j), key);
        }
    }
}

/* A collected token, held by one thread. */

/* Everything of a row that the steps of phase 3 share. */
struct context {
    struct part part;
    struct scale scale;
    uint32_t shift;
    struct span mine;          /* of view_scan over the bins */
    struct shared_bins *saved; /* in the workspace: of the row */
    uint32_t n_collects;       /* so far */
    uint32_t first, end;       /* bins whose tokens are in the entries; empty: none */
    struct entry entry;
    /* Equal logits that a split ended with; n 0: none. */
    uint32_t equal_bin, equal_key, equal_n;
    struct prefix equal_before;
};

/* The part for a function that is not inlined: as with shared(). */
template <bool carries> __device__ __forceinline__ struct part part_of(const struct part &part)
{
    struct part p = part;
    if (!carries)
        p.bins = (uint16_t *)(dynamic + SHARED_BYTES);
    return p;
}

/* All blocks get all tokens of a range, COLLECT_MAX at most, as entries. */
template <bool carries>
__device__ __noinline__ void collect(struct context &c, struct range range, struct prefix before)
{
    struct shared_memory *sm = shared();
    struct state *st = &sm->state;
    const struct part p = part_of<carries>(c.part);
    uint64_t *list = sm->list[c.n_collects % 2];
    uint64_t *own = sm->list[(c.n_collects + 1) % 2]; /* nobody's until the next barrier */
    uint32_t *n = peer(&st->n_collected[c.n_collects], 0);
    uint32_t n_blocks = cluster_blocks();
    if (threadIdx.x == 0)
        st->n_matching = 0;
    __syncthreads();
    if (range.lo == 0 && range.hi == ~0u) { /* the ids first, then all their logits at once */
        for_each_bin_in(p, range, [&](uint32_t id) { own[atomicAdd(&st->n_matching, 1u)] = id; });
    } else {
        for_each_in(p, range, [&](uint32_t id, uint32_t key) {
            own[atomicAdd(&st->n_matching, 1u)] = (uint64_t)key << 32 | id;
        });
    }
    __syncthreads();
    uint32_t n_own = st->n_matching;
    if (threadIdx.x == 0 && n_own > 0)
        st->list_first = atomicAdd(n, n_own);
    uint64_t item = 0;
    if (threadIdx.x < n_own) {
        uint32_t id = (uint32_t)own[threadIdx.x];
        item = (uint64_t)descending_key(__ldcg((const float *)p.vectors + id + p.skew)) << 32 | id;
    }
    __syncthreads();
    if (threadIdx.x < n_own)
        for (uint32_t r = 0; r < n_blocks; r++)
            peer(list, r)[st->list_first + threadIdx.x] = item;
    cluster_sync();
    uint32_t n_tokens = *n;
    c.n_collects++;
    c.entry = n_tokens <= COUNT_MAX ? entries_count(list, n_tokens, before, c.scale)
                                    : entries_sort(list, n_tokens, before, c.scale);
}

/* The thread whose token ends the prefix writes it down for all. */
__device__ __noinline__ void search(const struct entry &e, struct goal goal)
{
    struct state *st = &shared()->state;
    struct prefix after = {e.before.n + 1, e.before.mass + e.weight};
    if (e.is_token && reaches(after.n, after.mass, goal) &&
        !reaches(e.before.n, e.before.mass, goal)) {
        st->end_mass = after.mass;
        st->id = e.id;
    }
    __syncthreads();
}

/* Calls f(id, is it in the range) for 32 vectors of this warp's share of the block's, from `v` on:
 * id after id within a lane, lane after lane. */
__device__ __forceinline__ uint32_t in_range_bits(const struct part &p, struct range range,
                                                  uint32_t v, uint32_t v_end)
{
    uint32_t bits = 0;
    if (v >= v_end)
        return 0;
    ushort4 b4 = *bins_at(p, v);
    uint32_t b[4] = {b4.x, b4.y, b4.z, b4.w};
    float4 f4 = load(p, v);
    float logit[4] = {f4.x, f4.y, f4.z, f4.w};
#pragma unroll
    for (uint32_t j = 0; j < 4; j++) {
        uint32_t key = descending_key(logit[j]);
        bits |= (uint32_t)(b[j] - range.first < range.end - range.first && key >= range.lo &&
                           key <= range.hi)
                << j;
    }
    return bits;
}

/* The first block's st->id becomes number `rank`, in order of ids, of the row's tokens in a range.
 */
template <bool carries>
__device__ __noinline__ void find_by_id(const struct part &whole, struct range range, uint32_t rank)
{
    struct state *st = &shared()->state;
    const struct part p = part_of<carries>(whole);
    /* A warp has vectors side by side. */
    uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    uint32_t each = ((p.v_end - p.v_first + WARPS - 1) / WARPS + 31) / 32 * 32;
    uint32_t v_first = min(p.v_end, p.v_first + warp * each);
    uint32_t v_end = min(p.v_end, v_first + each);
    uint32_t mine = 0;
    for (uint32_t v = v_first + lane; v < v_end; v += 32)
        mine += __popc(in_range_bits(p, range, v, v_end));
    struct prefix all, before = block_scan({mine, 0}, &all);
    if (threadIdx.x == 0)
        st->n_matching = all.n;
    cluster_sync();
    uint32_t seen = __shfl_sync(~0u, before.n, 0); /* before this warp */
    uint32_t n_warp = __shfl_sync(~0u, before.n + mine, 31) - seen;
    for (uint32_t r = 0; r < cluster_rank(); r++)
        seen += *peer(&st->n_matching, r);
    if (rank >= seen && rank < seen + n_warp) {
        for (uint32_t v = v_first; v < v_end; v += 32) {
            uint32_t bits = in_range_bits(p, range, v + lane, v_end);
            uint32_t n_upto = __popc(bits);
            for (uint32_t i = 1; i < 32; i *= 2) {
                uint32_t below = __shfl_up_sync(~0u, n_upto, i);
                n_upto += lane >= i ? below : 0;
            }
            uint32_t at = seen + n_upto - __popc(bits);
            for (uint32_t j = 0; j < 4; j++)
                if ((bits >> j & 1) != 0 && at++ == rank)
                    *peer(&st->id, 0) = id_of(p, v + lane, j);
            seen += __shfl_sync(~0u, n_upto, 31);
        }
    }
    cluster_sync();
}

/* Narrows range.lo and range.hi to the keys that the row has there. */
template <bool carries>
__device__ __noinline__ void key_extremes(const struct part &whole, struct range *range)
{
    struct state *st = &shared()->state;
    const struct part p = part_of<carries>(whole);
    if (threadIdx.x == 0) {
        st->key_min = ~0u;
        st->key_max = 0;
    }
    __syncthreads();
    uint32_t least = ~0u, most = 0;
    for_each_in(p, *range, [&](uint32_t, uint32_t key) {
        least = min(least, key);
        most = max(most, key);
    });
    least = __reduce_min_sync(~0u, least);
    most = __reduce_max_sync(~0u, most);
    if (threadIdx.x % 32 == 0) {
        atomicMin(&st->key_min, least);
        atomicMax(&st->key_max, most);
    }
    cluster_sync();
    least = ~0u;
    most = 0;
    for (uint32_t r = 0; r < cluster_blocks(); r++) {
        least = min(least, *peer(&st->key_min, r));
        most = max(most, *peer(&st->key_max, r));
    }
    cluster_sync();
    range->lo = least;
    range->hi = most;
}

/* The prefix ends among the equal logits of c.equal_*: counting is enough. */
template <bool carries>
__device__ __noinline__ void find_equal(const struct context &c, struct goal goal, bool wants_id)
{
    struct state *st = &shared()->state;
    uint64_t weight = (uint64_t)weight_of(logit_of_key(c.equal_key), c.scale);
    uint64_t n_by_mass = (goal.mass - c.equal_before.mass - 1) / weight + 1;
    uint32_t n = (uint32_t)min(n_by_mass, (uint64_t)(goal.n - c.equal_before.n));
    if (threadIdx.x == 0)
        st->end_mass = c.equal_before.mass + n * weight;
    if (wants_id)
        find_by_id<carries>(c.part, {c.equal_bin, c.equal_bin + 1, c.equal_key, c.equal_key},
                            n - 1);
    __syncthreads();
}

__device__ __noinline__ bool is_in_equal(const struct context &c, struct goal goal)
{
    if (c.equal_n == 0 || reaches(c.equal_before.n, c.equal_before.mass, goal))
        return false;
    uint64_t weight = (uint64_t)weight_of(logit_of_key(c.equal_key), c.scale);
    return reaches(c.equal_before.n + c.equal_n, c.equal_before.mass + c.equal_n * weight, goal);
}

/* The prefix ends among the `hit` tokens of one bin, which are too many to sort. */
template <bool carries>
__device__ __noinline__ void split(struct context &c, struct hit hit, struct goal goal,
                                   bool wants_id)
{
    struct shared_memory *sm = shared();
    const struct part part = part_of<carries>(c.part);
    struct state *st = &sm->state;
    struct range range = {hit.bin, hit.bin + 1, 0, ~0u};
    uint32_t mask = (1u << c.shift) - 1;
    uint32_t *saved = (uint32_t *)c.saved, *bins = (uint32_t *)&sm->bins;
    cluster_sync(); /* nobody fetches the bins any more */
    if (cluster_rank() == 0)
        for (uint32_t i = threadIdx.x; i < sizeof(sm->bins) / 4; i += THREADS)
            saved[i] = bins[i];
    while (hit.count > COLLECT_MAX) {
        key_extremes<carries>(c.part, &range);
        if (range.lo == range.hi)
            break;
        uint32_t key_shift = shift_for(range.hi - range.lo, SPLIT_BINS);
        bins_clear();
        __syncthreads();
        for_each_in(part, range, [&](uint32_t, uint32_t key) {
            float w = weight_of(logit_of_key(key), c.scale);
            uint32_t low = (TOP - __float_as_uint(w)) & mask;
            bins_add_one<carries>(&sm->bins, (key - range.lo) >> key_shift, 1, low);
        });
        bins_merge<carries>();
        struct bins_view view = {SPLIT_BINS, c.shift, range.first};
        struct prefix all;
        struct span mine = view_scan(view, hit.before, &all);
        view_find(view, mine, goal);
        __syncthreads();
        hit = st->hit;
        range.lo += hit.bin << key_shift;
        range.hi = min(range.hi, range.lo + ((1u << key_shift) - 1));
    }
    cluster_sync(); /* the saved bins are there; nobody fetches those of the split any more */
    for (uint32_t i = threadIdx.x; i < sizeof(sm->bins) / 4; i += THREADS)
        bins[i] = __ldcg(saved + i);
    __syncthreads();
    if (hit.count > COLLECT_MAX) {
        c.equal_bin = range.first;
        c.equal_key = range.lo;
        c.equal_n = hit.count;
        c.equal_before = hit.before;
        find_equal<carries>(c, goal, wants_id);
        return;
    }
    collect<carries>(c, range, hit.before);
    search(c.entry, goal);
    c.first = c.end = 0; /* a part of a bin is of no use to the next */
}

/* Finds the end of a prefix: st->end_mass, and in the first block st->id if wanted. */
template <bool carries>
__device__ void prefix_find(struct context &c, struct goal goal, bool wants_id)
{
    struct state *st = &shared()->state;
    struct bins_view view = {N_BINS, c.shift, BIN_NONE};
    view_find(view, c.mine, goal);
    __syncthreads();
    struct hit hit = st->hit;
    if (hit.bin >= c.first && hit.bin < c.end) {
        search(c.entry, goal);
        return;
    }
    if (is_in_equal(c, goal)) {
        find_equal<carries>(c, goal, wants_id);
        return;
    }
    if (hit.count > COLLECT_MAX) {
        split<carries>(c, hit, goal, wants_id);
        return;
    }
    struct range range = {hit.bin, hit.bin + 1, 0, ~0u};
    if (hit.before.n + hit.count <= COUNT_MAX) {
        range.first = 0;
        hit.before = {0, 0};
    }
    collect<carries>(c, range, hit.before);
    c.first = range.first;
    c.end = range.end;
    search(c.entry, goal);
}

/* What min-p keeps of the whole row. */
__device__ inline uint64_t min_p_mass(struct state *st)
{
    uint64_t mass = 0;
    for (uint32_t r = 0; r < cluster_blocks(); r++)
        mass += peer(st, r)->min_p_mass;
    return max(mass, WEIGHT_ONE);
}

/* Phases 2 and 3 of a row with a finite best; the first block returns its id. */
template <bool carries>
__device__ uint32_t draw(const struct part &part, struct scale scale, float least,
                         struct shared_bins *saved)
{
    struct shared_memory *sm = shared();
    struct state *st = &sm->state;
    const struct sample_row &row = st->row;
    float w = weight_of(least, scale);
    uint32_t shift = shift_for(w > 0.0f ? TOP - __float_as_uint(w) : D_MAX, N_BINS);
    float min_p_limit = INFINITY;
    if (row.min_p > 0.0f)
        min_p_limit = truncf(__fmul_rn(fminf(row.min_p, 2.0f), (float)WEIGHT_ONE));
    bins_clear();
    if (threadIdx.x == 0)
        st->min_p_mass = 0;
    if (threadIdx.x < FINDS_MAX)
        st->n_collected[threadIdx.x] = 0;
    __syncthreads();
    bins_fill<carries>({part, scale, shift, min_p_limit, 0}, sm);
    bins_merge<carries>();
    struct context c;
    c.part = part;
    c.scale = scale;
    c.shift = shift;
    c.saved = saved;
    struct bins_view view = {N_BINS, c.shift, BIN_NONE};
    struct prefix all;
    c.mine = view_scan(view, {0, 0}, &all);
    c.n_collects = c.first = c.end = c.equal_n = 0;
    uint64_t kept = all.mass;
    uint64_t kept_by_min_p = row.min_p > 0.0f ? min_p_mass(st) : UINT64_MAX;
    /* In turn: the end of top-k's prefix, of top-p's, of the draw's. */
#pragma unroll 1
    for (uint32_t step = 0; step < FINDS_MAX; step++) {
        struct goal goal = {UINT32_MAX, UINT64_MAX};
        if (step == 0) {
            if (row.top_k == 0 || row.top_k >= all.n)
                continue;
            goal.n = row.top_k;
        } else if (step == 1) {
            if (!(row.top_p > 0.0f && row.top_p < 1.0f))
                continue;
            goal.mass = max(ops_sample_of(ops_sample_part(row.top_p), kept), (uint64_t)1);
        } else {
            kept = min(kept, kept_by_min_p);
            goal.mass = ops_sample_of(ops_sample_part(row.uniform), kept) + 1;
        }
        prefix_find<carries>(c, goal, step == 2);
        kept = st->end_mass;
    }
    cluster_sync(); /* no block goes while another reads it */
    return st->id;
}

} // namespace sampling

#endif
