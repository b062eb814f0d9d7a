/* sample: the draw of struct sample_row in kernels/ops.h, bit for bit, without sorting the
 * vocabulary. A row is the work of one cluster of 1 to 8 blocks (one block where there are none):
 *
 *   1  reads the logits for the greatest, the least and, roughly, the mass of all; a greedy row
 *      ends here with its argmax (sample_survey.cuh)
 *   2  rows with a small top-k, and rows whose mass is mostly that of a few tokens: the best tokens
 *      are listed and put in order. What is drawn depends on the others by their mass at most;
 * where knowing it roughly is enough, the row ends here (sample_short.cuh) 3  reads them again, now
 * from the L2: weight, its bin, and per bin the count and the mass (sample_bins.cuh) 4  every
 * prefix that is sought (top-k, top-p, the token drawn) ends in some bin: the tokens of that bin
 * are collected and put in order, and summed up to where it ends (sample_find.cuh)
 *
 * Log-probabilities are made before, in a pass of their own, by 1 and 2 (sample_logprobs.cuh).
 *
 * Every block of a cluster gets the bins of all and every token collected, and comes to the same
 * results: less waiting than for one that decides. Only a shortlist is the first block's alone.
 *
 * Bins are made from the float bits of the weight: with d = TOP - bits(weight), bin = d >> shift.
 * They are finer than 1 % and follow the row's range, so that few tokens share one. In a bin the
 * weight falls by the same unit with each step of d: its mass is count * (weight at its top) -
 * unit * (sum of the low bits of d). Hence two 32-bit shared atomics a token give exact masses.
 * A bin with more tokens than can be sorted is split by logit until few or only equal ones are
 * left.
 *
 * Launch   n_rows clusters, blocks of 1024; about 230 KB shared with clusters, else 80 KB
 * Cost     4 B a token from memory; steps 3 and 4 as much again from the L2
 * Checked  bench/gpu/check_sample.cu: the same ids as the CPU op */
#include "kernels/cuda/sample_find.cuh"
#include "kernels/cuda/sample_logprobs.cuh"
#include "kernels/cuda/sample_short.cuh"

#include <cuda_runtime.h>

namespace
{

using namespace sampling;

/* A row that is not greedy; the first block returns its id. */
template <bool carries>
__device__ uint32_t choose(const struct part &part, struct shared_bins *saved)
{
    struct state *st = &shared()->state;
    const struct sample_row &row = st->row;
    struct scale scale = {0.0f, __fdiv_rn(1.0f, row.temperature)};
    const float c = scale.inverse_t * LOG2_E;
    const bool has_top_k = row.top_k > 0 && row.top_k <= SHORT_MAX;
    struct survey survey = has_top_k ? survey_make<false>(part, c) : survey_make<true>(part, c);
    struct summary own = summary_of_block(survey, c);
    if (has_top_k)
        shortlist_send(part, survey, row.top_k, &own);
    summary_tell(own, 0);
    cluster_sync();
    const struct summary all = summary_of_cluster(0, c);
    if (all.best == -INFINITY)
        return OPS_NO_TOKEN;
    if (all.best == INFINITY)
        return argmax_cluster(part);
    scale.best = all.best;
    uint64_t limit = all.limit;
    const bool is_tried =
        !has_top_k && (row.top_k == 0 || row.top_k >= part.n_vocab) && all.sum <= SHORT_MASS_MAX;
    if (is_tried) {
        shortlist_send(part, survey, SHORT_MAX, &own);
        summary_tell(own, 1);
        cluster_sync();
        limit = summary_of_cluster(1, c).limit;
    }
    if ((has_top_k || is_tried) && shortlist_fits(is_tried)) {
        const double mass = (double)all.sum * (double)WEIGHT_ONE;
        const struct between kept = {(uint64_t)(mass * (1.0 - SHORT_SUM_ERROR)),
                                     (uint64_t)(mass * (1.0 + SHORT_SUM_ERROR)) + 1};
        uint32_t id = OPS_NO_TOKEN, is_drawn = 0;
        if (cluster_rank() == 0)
            is_drawn = shortlist_draw(is_tried, scale, has_top_k, limit, kept, part.n_vocab, &id);
        if (has_top_k)
            return id;
        if (cluster_rank() == 0 && threadIdx.x < cluster_blocks())
            *peer(&st->is_drawn, threadIdx.x) = is_drawn;
        cluster_sync();
        if (st->is_drawn)
            return id;
    }
    return draw<carries>(part, scale, all.least, saved);
}

/* workspace: [n_rows] shared_bins; then, when bins_in_workspace, [n_rows][4 * bins_vectors] bins.
 */
template <bool bins_in_workspace>
__global__ void __launch_bounds__(THREADS, 1)
    sample_kernel(struct sample_args args, struct shared_bins *saved, uint16_t *bins,
                  uint32_t bins_vectors)
{
    struct state *st = &shared()->state;
    const uint32_t r = cluster_index();
    cluster_arrive(); /* to know below that all blocks have begun */
    grid_wait();
    static_assert(sizeof(struct sample_row) % 4 == 0, "copied by words");
    if (threadIdx.x < sizeof(struct sample_row) / 4)
        ((uint32_t *)&st->row)[threadIdx.x] = ((const uint32_t *)(args.rows + r))[threadIdx.x];
    __syncthreads();
    cluster_wait();
    const struct sample_row &row = st->row;
    struct part part = part_make(args.logits + r * args.logits_stride, args.n_vocab);
    part.bins = bins_in_workspace ? bins + ((size_t)r * bins_vectors + part.v_first) * 4
                                  : (uint16_t *)(dynamic + SHARED_BYTES);
    const bool is_edited = row.n_tokens > 0 || row.newest != nullptr;
    if (row.logprobs != nullptr)
        logprobs_fill(part);
    if (is_edited)
        tokens_apply(part, st);
    if (row.n_banned > 0 || row.allowed != nullptr) {
        mark_banned(part, row);
        part.has_banned = true;
    }
    uint32_t id;
    if (row.temperature >= OPS_TEMPERATURE_MIN)
        id = choose<bins_in_workspace>(part, saved + r);
    else
        id = argmax_cluster(part);
    if (is_edited) {
        __syncthreads();
        tokens_restore(part, st);
    }
    if (row.logprobs != nullptr)
        cluster_sync();
    if (cluster_rank() == 0 && threadIdx.x == 0) {
        args.out_ids[r] = id;
        if (row.logprobs != nullptr)
            logprobs_chosen(part, id);
    }
}

uint32_t vectors_of(uint32_t n_vocab)
{
    return n_vocab / 4 + 2; /* however the row is aligned */
}

/* Blocks a row: with few rows many. 132 blocks run at a time on the device that this is tuned for,
 * but clusters of more than two only where enough neighbours are free. */
uint32_t blocks_of(uint32_t n_rows, uint32_t n_vocab)
{
    uint32_t n = 1;
    while (n < CLUSTER_MAX &&
           (vectors_of(n_vocab) / n + 1 > VECTORS_MAX ||
            (n_rows * n * 2 <= (n == 1 ? 132 : 96) && vectors_of(n_vocab) / n > THREADS)))
        n *= 2;
    return n;
}

cudaError_t launch_cluster(const struct sample_args *args, struct shared_bins *saved,
                           uint32_t n_blocks, cudaStream_t stream)
{
    uint32_t vectors = vectors_of(args->n_vocab) / n_blocks + 1;
    size_t bytes = SHARED_BYTES + (size_t)vectors * 4 * sizeof(uint16_t);
    cudaError_t err =
        cudaFuncSetAttribute(sample_kernel<false>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             (int)(SHARED_BYTES + (size_t)VECTORS_MAX * 4 * sizeof(uint16_t)));
    if (err == cudaSuccess)
        err = share_memory_as_gemms(sample_kernel<false>);
    if (err != cudaSuccess)
        return err;
    cudaLaunchAttribute attributes[2] = {};
    attributes[0].id = cudaLaunchAttributeClusterDimension;
    attributes[0].val.clusterDim.x = n_blocks;
    attributes[0].val.clusterDim.y = attributes[0].val.clusterDim.z = 1;
    attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization; /* see launch_early */
    attributes[1].val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(args->n_rows * n_blocks);
    config.blockDim = dim3(THREADS);
    config.dynamicSmemBytes = bytes;
    config.stream = stream;
    config.attrs = attributes;
    config.numAttrs = 2;
    return cudaLaunchKernelEx(&config, sample_kernel<false>, *args, saved, (uint16_t *)nullptr, 0u);
}

} // namespace

extern "C" size_t cuda_sample_workspace_bytes(uint32_t n_rows_max, uint32_t n_vocab)
{
    return n_rows_max *
           (sizeof(struct shared_bins) + (size_t)vectors_of(n_vocab) * 4 * sizeof(uint16_t));
}

extern "C" cudaError_t cuda_sample(const struct sample_args *args, void *workspace,
                                   cudaStream_t stream)
{
    if (args->n_rows == 0)
        return cudaSuccess;
    int major = 0;
    cudaError_t err = device_major(&major);
    if (err != cudaSuccess)
        return err;
    struct shared_bins *saved = (struct shared_bins *)workspace;
    uint32_t n_blocks = blocks_of(args->n_rows, args->n_vocab);
    uint32_t vectors = vectors_of(args->n_vocab);
    bool has_clusters = major == 9 || major == 10; /* and their shared memory */
    if (has_clusters && vectors / n_blocks + 1 <= VECTORS_MAX)
        return launch_cluster(args, saved, n_blocks, stream);
    err = cudaFuncSetAttribute(sample_kernel<true>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               (int)SHARED_BYTES);
    if (err != cudaSuccess)
        return err;
    sample_kernel<true><<<args->n_rows, THREADS, SHARED_BYTES, stream>>>(
        *args, saved, (uint16_t *)(saved + args->n_rows), vectors);
    return cudaGetLastError();
}
