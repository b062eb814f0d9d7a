/* CUDA entry points: called by src/device/cuda*.c and by tests only. Each puts its work on the
 * given stream and returns without waiting; none allocates, none synchronises, all may be captured
 * into a graph. Arguments are trusted. All pointers are device memory unless said otherwise. They
 * return the first CUDA error of their launches (cudaSuccess = 0).
 *
 * Activations here are bf16 where the CPU ops take f32: half the bytes, and what the tensor cores
 * read. tests/ops compares with the CPU op on the same values. */
#ifndef KERNELS_CUDA_CUDA_OPS_H
#define KERNELS_CUDA_CUDA_OPS_H

#include "kernels/ops.h"

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The ops of kernels/ops.h, one to one. rmsnorm: at most CUDA_NORM_COLS_MAX columns. */
#define CUDA_NORM_COLS_MAX 32768u
cudaError_t cuda_gemm_pack(const struct gemm_pack_args *args,
                           cudaStream_t stream); /* src: device */
cudaError_t cuda_random_fill(const struct random_fill_args *args, cudaStream_t stream);
cudaError_t cuda_embedding(const struct embedding_args *args, cudaStream_t stream);
cudaError_t cuda_rmsnorm(const struct rmsnorm_args *args, cudaStream_t stream);
cudaError_t cuda_qkv(const struct qkv_args *args, cudaStream_t stream);
cudaError_t cuda_silu_mul(const struct silu_mul_args *args, cudaStream_t stream);
cudaError_t cuda_step_output(const struct step_output_args *args, cudaStream_t stream);
cudaError_t cuda_step_begin(const struct step_begin_args *args, cudaStream_t stream);
cudaError_t cuda_attention_simple(const struct attention_args *args, cudaStream_t stream);
/* y[r, c] += bias[c]; y of y_dtype, stride y_stride. */
cudaError_t cuda_add_bias(void *y, enum ops_dtype y_dtype, uint64_t y_stride, const float *bias,
                          uint32_t n_rows, uint32_t n_cols, cudaStream_t stream);

/* Sequences of a step. Sequence s has rows [row_first[s], row_first[s + 1]); they are the last
 * row_first[s + 1] - row_first[s] of its kv_tokens[s] positions, which are all in the pool. A
 * sequence of no rows (kv_tokens 0) is padding of a graph and writes nothing. */
struct cuda_seqs {
    uint32_t n_seqs;
    const uint32_t *row_first;   /* [n_seqs + 1] */
    const uint32_t *kv_tokens;   /* [n_seqs] */
    const uint32_t *block_table; /* [n_seqs, table_stride] */
    uint32_t table_stride;
};

/* attention over the paged pool, causal, q and out bf16.
 * Shapes   q, out [n_rows, n_heads, head_dim], row strides in elements
 * sinks    [n_heads] f32: a logit more in each softmax that takes no value; NULL: none */
struct cuda_attention_args {
    const void *q;
    uint64_t q_stride;
    const struct attention_fresh *fresh; /* host memory, cuda_attention_decode only; see ops.h */
    void *out;
    uint64_t out_stride;
    struct ops_kv_pool pool; /* OPS_BF16, OPS_F8 */
    uint32_t layer, n_heads;
    uint32_t window; /* positions seen, the row's own included; 0: all */
    float scale;
    const float *sinks;
    struct cuda_seqs seqs;
    uint32_t n_rows;
};

/* Decode: each sequence has one row (or none), row_first[s] = s. Split-KV: the plan kernel cuts the
 * work of all sequences into equal pieces for a fixed grid; it runs once a step, before layer 0,
 * and all layers use its result.
 * The plan holds for calls with the same seqs, window, n_heads, shape of the pool and n_sms: layers
 * with another window need a plan of their own. Any head_dim of kernels/ops.h and any number of
 * heads per KV head; fast (sm_90) for a head_dim that is a multiple of 64 (fp8: 64, 128, 256), up
 * to 16 heads per KV head. q and out 4-byte aligned, plan and workspace 16-byte, blocks of the pool
 * 16-byte; strides even. The same inputs give the same bits, but a sequence's bits depend on the
 * lengths beside it (they move the cuts).
 * fresh      q and cos_sin may be made by kernels between the plan's and this one. All else it
 *            reads before the kernel ahead has ended, so it is there when the plan's starts: the
 *            block table, K and V of the positions before the last, the norms, the pool's scales.
 *            The bits, of out and in the pool, are those of cuda_qkv and of a call without fresh
 * behind it plan       cuda_decode_plan_bytes(n_seqs_max) bytes; made by cuda_decode_plan or
 * cuda_step_input workspace  cuda_decode_workspace_bytes() bytes, zeroed once before its first use;
 * each call leaves its counters zero, so calls that follow each other on a stream share it Checked
 * bench/gpu/check_attention_decode.cu */
size_t cuda_decode_plan_bytes(uint32_t n_seqs_max);
size_t cuda_decode_workspace_bytes(uint32_t n_seqs_max, uint32_t n_heads, uint32_t head_dim,
                                   uint32_t n_sms);
cudaError_t cuda_decode_plan(const struct cuda_attention_args *args, uint32_t n_sms, void *plan,
                             cudaStream_t stream);
cudaError_t cuda_attention_decode(const struct cuda_attention_args *args, uint32_t n_sms,
                                  const void *plan, void *workspace, cudaStream_t stream);

/* step_input of kernels/ops.h, but for args->plans; plans [n_plans <= 2]: what cuda_decode_plan
 * would do, into `plan`. Of attention, kv_tokens is not read. */
struct cuda_step_plan {
    struct cuda_attention_args attention;
    void *plan;
};
cudaError_t cuda_step_input(const struct step_input_args *args, const struct cuda_step_plan *plans,
                            uint32_t n_plans, uint32_t n_sms, cudaStream_t stream);

/* Prefill: any number of rows a sequence. rows_max: most rows that a sequence may have, known to
 * the host (sizes the grid). Fast for block_tokens 64 and 128, head_dim 64 and 128 on sm_90; right
 * for all that kernels/ops.h allows. An fp8 pool becomes bf16 in shared memory, exactly. Rows of q
 * and out start at multiples of 16 bytes. */
cudaError_t cuda_attention_prefill(const struct cuda_attention_args *args, uint32_t rows_max,
                                   cudaStream_t stream);

/* gemm of few rows: y[m, n] = sum_k x[m, k] * w[n, k] (+ bias[n]), bound by reading w once.
 * Shapes   x [n_rows, k] bf16, y [n_rows, n] bf16 or f32 (y_dtype; bf16 where a fusion says so),
 *          w [n, k] row-major bf16 or fp8, bias [n] f32 or NULL; k a multiple of 8, of 16 with fp8;
 *          16-byte aligned rows
 * Fast on sm_90 and later for k a multiple of 64 (fp8: of 128) and at most CUDA_GEMM_SMALL_ROWS_MAX
 * rows; right, and slow, otherwise. There a row's bits depend neither on n_rows nor on n_sms.
 * fp8: a weight is exactly its e4m3 value until its scale is applied in f32; of x, a value 2^32
 * times smaller than the greatest of its 128 columns loses bits. fusion->x_sums 16-byte aligned
 * workspace  cuda_gemm_small_workspace_bytes() bytes, zeroed once before its first use; any number
 *            of shapes may share it, but not two launches at a time */
#define CUDA_GEMM_SMALL_ROWS_MAX 16u
struct cuda_gemm_args {
    const void *x;
    uint64_t x_stride;
    const void *w;
    enum ops_dtype w_dtype; /* OPS_BF16, OPS_F8 */
    const float *w_scale;   /* fp8: of w_scaling, see ops.h */
    enum ops_scaling w_scaling;
    const struct gemm_fusion *fusion; /* host memory; NULL: none. See ops.h */
    const float *bias;
    void *y;
    uint64_t y_stride;
    enum ops_dtype y_dtype;
    uint32_t n_rows, n, k;
    uint32_t pdl; /* 1: programmatic dependent launch; may read w before the kernel ahead ends */
};
size_t cuda_gemm_small_workspace_bytes(uint32_t n_max, uint32_t n_sms);
cudaError_t cuda_gemm_small(const struct cuda_gemm_args *args, uint32_t n_sms, void *workspace,
                            cudaStream_t stream);

/* Rows of x as e4m3 for an fp8 gemm: y = x / scale to nearest even, the scale from the greatest
 * value of the row (OPS_SCALE_ROW), or of the row's 128 columns (OPS_SCALE_BLOCK), so that it
 * becomes 448. A NaN stays one; an infinity makes all that share its scale NaN.
 * Shapes   x [n_rows, n_cols] bf16, stride x_stride; y [n_rows, n_cols] dense;
 *          scale ROW: [n_rows]; BLOCK: [ceil(n_cols / 128), n_rows_padded], and then rows
 *          [n_rows, n_rows_padded) of y become zeros
 * Any alignment; fast with 16-byte aligned rows.
 * Cost     3 bytes an element
 * Checked  bench/gpu/check_gemm.cu */
struct cuda_quant_args {
    const void *x;
    uint64_t x_stride;
    void *y;
    float *scale;
    enum ops_scaling scaling;
    uint32_t n_rows, n_rows_padded, n_cols;
};
cudaError_t cuda_quant_rows(const struct cuda_quant_args *args, cudaStream_t stream);

/* sample: as `sample` of kernels/ops.h, and the same draw as the CPU op on the same logits.
 * rows [n_rows] in device memory, their `banned` pointers too. workspace:
 * cuda_sample_workspace_bytes() bytes, zeroed once before its first use. */
size_t cuda_sample_workspace_bytes(uint32_t n_rows_max, uint32_t n_vocab);
cudaError_t cuda_sample(const struct sample_args *args, void *workspace, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
