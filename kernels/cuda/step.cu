/* How a step begins and ends on the device: step_input, step_begin, step_output. All are short and
 * bound by latency: a few dependent loads each. */
#include "kernels/cuda/cuda_ops.h"

#include "kernels/cuda/attention_decode_plan.cuh"

namespace
{

using bf16 = __nv_bfloat16;

constexpr uint32_t kThreads = 256, kWordsBlock = kThreads * 4;

struct step_plans {
    attention_decode::plan_params of[2];
    uint32_t n;
};

/* The host's memory is read over the bus, so each thread asks for all it needs at once. */
__device__ void words_copy(const step_input_args &a, const volatile uint32_t *src, uint32_t block)
{
    uint32_t at = block * kWordsBlock + threadIdx.x, word[4];
#pragma unroll
    for (uint32_t i = 0; i < 4; i++)
        word[i] = at + i * kThreads < a.n_words ? src[at + i * kThreads] : 0;
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) {
        uint32_t w = at + i * kThreads;
        if (w - a.ids_at < a.n_ids && (word[i] & OPS_ID_PENDING) != 0)
            word[i] = a.tokens[word[i] & ~OPS_ID_PENDING];
        if (w < a.n_words)
            a.dst[w] = word[i];
    }
}

__device__ void row_copy(const step_input_args &a, const volatile uint32_t *src, uint32_t seq)
{
    uint32_t n = (src[a.kv_tokens_at + seq] + a.block_tokens - 1) / a.block_tokens;
    uint64_t row = a.table_at + (uint64_t)seq * a.table_stride;
    for (uint32_t i = threadIdx.x; i < n && i < a.table_stride; i += kThreads)
        a.dst[row + i] = src[row + i];
}

/* Blocks first make a plan each; then they copy the words, kWordsBlock each; then each one row of
 * the table. The fence: attention reads what they write before it waits (attention_decode.cu). */
__global__ void __launch_bounds__(kThreads)
    step_input_kernel(step_input_args a, const __grid_constant__ step_plans plans,
                      uint32_t n_copies)
{
    const volatile uint32_t *src = a.src[*a.turn % 2];
    if (blockIdx.x < plans.n) {
        attention_decode::plan_params plan = plans.of[blockIdx.x];
        plan.kv_tokens = src + a.kv_tokens_at;
        attention_decode::plan_make(plan);
    } else if (blockIdx.x < plans.n + n_copies) {
        words_copy(a, src, blockIdx.x - plans.n);
    } else {
        row_copy(a, src, blockIdx.x - plans.n - n_copies);
    }
    __threadfence();
}

__global__ void __launch_bounds__(kThreads) step_output_kernel(step_output_args a)
{
    grid_wait();
    uint32_t turn = *a.turn;
    for (uint32_t i = threadIdx.x; i < a.n; i += kThreads)
        a.dst[turn % 2][i] = a.tokens[i];
    __syncthreads();
    if (threadIdx.x == 0)
        *a.turn = turn + 1;
}

/* ---- step_begin ---- */

/* One block a row. A group of 16 columns is a group of 16 lanes, so that y_sums come by shuffles,
 * in one order whatever n_rows is. */
template <typename S> __global__ void step_begin_kernel(step_begin_args a)
{
    const uint64_t row = blockIdx.x;
    grid_launch_dependents();
    grid_wait();
    const uint32_t id = a.ids[row], pos = a.pos[row];
    const S *src = (const S *)a.table + (uint64_t)id * a.n_cols;
    for (uint32_t c = threadIdx.x; c < a.n_cols; c += blockDim.x) {
        float v = id < a.n_vocab ? to_f32(src[c]) : 0.0f;
        a.x[row * a.n_cols + c] = v;
        if (a.y == nullptr)
            continue;
        ((bf16 *)a.y)[row * a.n_cols + c] = from_f32<bf16>(v * a.norm_w[c]);
        uint32_t group = threadIdx.x % 32 < 16 ? 0xffffu : 0xffff0000u;
        float sum = v * v;
        for (uint32_t d = 8; d > 0; d >>= 1)
            sum += __shfl_xor_sync(group, sum, d);
        if (c % 16 == 0)
            a.y_sums[row * (a.n_cols / 16) + c / 16] = sum;
    }
    float2 *cos_sin = (float2 *)a.cos_sin + row * (a.n_rot / 2);
    for (uint32_t i = threadIdx.x; i < a.n_rot / 2; i += blockDim.x) {
        float s, c;
        sincosf((float)pos * a.inv_freq[i], &s, &c);
        cos_sin[i] = make_float2(c * a.attn_scale, s * a.attn_scale);
    }
}

} // namespace

/* Not early: the words of the step before are read until its end, and attention_decode.cu wants it
 * so of a kernel that plans. */
cudaError_t cuda_step_input(const struct step_input_args *args, const struct cuda_step_plan *plans,
                            uint32_t n_plans, uint32_t n_sms, cudaStream_t stream)
{
    uint32_t n_copies = (args->n_words + kWordsBlock - 1) / kWordsBlock;
    step_plans all = {};
    cudaError_t err = share_memory_as_gemms(step_input_kernel);
    for (; err == cudaSuccess && all.n < n_plans; all.n++)
        err = attention_decode::plan_fill(&plans[all.n].attention, n_sms, plans[all.n].plan, 0,
                                          &all.of[all.n]);
    if (err != cudaSuccess)
        return err;
    uint32_t grid = n_plans + n_copies + args->n_seqs;
    step_input_kernel<<<grid, kThreads, 0, stream>>>(*args, all, n_copies);
    return cudaGetLastError();
}

cudaError_t cuda_step_output(const struct step_output_args *args, cudaStream_t stream)
{
    return launch_early(step_output_kernel, 1, kThreads, stream, *args);
}

cudaError_t cuda_step_begin(const struct step_begin_args *args, cudaStream_t stream)
{
    if (args->dtype == OPS_BF16)
        return launch_early(step_begin_kernel<bf16>, args->n_rows, 256, stream, *args);
    return launch_early(step_begin_kernel<float>, args->n_rows, 256, stream, *args);
}
