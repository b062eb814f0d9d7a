/* Arguments of every compute op, shared by all devices, and the CPU entry points.
 *
 * The engine does not call kernels: it fills one of these structs and calls the entry of the same
 * name in `struct device_ops` (src/device/device.h), which validates and runs it. All pointers are
 * memory of that device, borrowed for the call. Strides count elements, not bytes.
 * Activations between ops are f32 on the CPU and, but for the residual stream and logits, bf16 on
 * CUDA (device_ops.activation); fields x_dtype, y_dtype say which. Weights are f32 or bf16 (a
 * checkpoint's f16 is converted when it is packed). This header stays in the common subset of C and
 * C++.
 *
 * Batch invariance (CPU): the bits of an output row depend on that row's inputs alone; not on its
 * neighbours, on n_rows, on chunking, on the block size of the KV pool, or on the number of
 * threads. Every output element has one order of accumulation per ISA. */
#ifndef KERNELS_OPS_H
#define KERNELS_OPS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifdef __CUDACC__
#define OPS_INLINE static inline __host__ __device__
#else
#define OPS_INLINE static inline
#endif

/* OPS_F8: e4m3 without infinities (OCP 8-bit floating point 1.0), of weights and the KV cache. */
enum ops_dtype { OPS_F32 = 0, OPS_BF16 = 1, OPS_F16 = 2, OPS_F8 = 3 };

/* Bytes of one element; 0 for an unknown dtype. */
OPS_INLINE uint32_t ops_dtype_bytes(enum ops_dtype dtype)
{
    return dtype == OPS_F32                        ? 4u
           : dtype == OPS_BF16 || dtype == OPS_F16 ? 2u
           : dtype == OPS_F8                       ? 1u
                                                   : 0u;
}

/* Scales of an fp8 matrix w[n, k]; the value of an element is its e4m3 value times its scale.
 * ROW: [n]. BLOCK: [ceil(n / 128), ceil(k / 128)], one for each 128 x 128 elements. */
enum ops_scaling { OPS_SCALE_NONE = 0, OPS_SCALE_ROW = 1, OPS_SCALE_BLOCK = 2 };
#define OPS_SCALE_BLOCK_SIZE 128u

#define OPS_HEAD_DIM_MAX     256u /* head_dim is a multiple of 16, at most this */
#define OPS_PANEL_COLS       32u  /* columns (rows of W) of one packed panel */
#define OPS_BLOCK_TOKENS_MAX 128u /* block_tokens is 16, 32, 64 or 128 */
#define OPS_NO_TOKEN         UINT32_MAX
#define OPS_HEADS_PER_KV_MAX 64u /* query heads that share one KV head */

/* ---- Weights ---------------------------------------------------------------------------------
 * Packed matrix W[n, k], 64-byte aligned. CUDA: row-major. CPU: panels of 32 rows of W,
 * zero-padded. bf16: [ceil(n/32)][ceil(k/2)][32][2]   the pair (k, k+1) of a column lies together
 *   f32:  [ceil(n/32)][k][32]                                                                   */

/* Bytes of a packed matrix (a multiple of 64); 0 when the dtype cannot be packed or the size
 * overflows. dtype: OPS_F32, OPS_BF16; OPS_F8 on a device that has it (device_ops.has_fp8). */
size_t ops_gemm_packed_bytes(enum ops_dtype dtype, uint64_t n, uint64_t k);

/* gemm_pack: converts rows of a row-major W into the packed form. Several matrices (q, k, v; gate,
 * up) become one by packing each at its own n_first: rows [n_first, n_first + n_rows) of the
 * packed matrix. Padding of the last panel is zeroed by the call that writes row n-1.
 * bf16 from f32 or f16 rounds to nearest even; f32 from bf16 or f16 is exact. f8 becomes f8, by
 * copying, on a device that has it; f32 or bf16 from f8 is the element times its scale, rounded to
 * nearest even once in f32 and, for bf16, once more.
 * Shapes   src [n_rows, k] row-major, row stride src_stride, in memory of the host or of the
 * device; src_scale of src_scaling for the whole packed matrix, memory of the device;
 * dst ops_gemm_packed_bytes(dst_dtype, n, k) dst may hold anything before; src need only be
 * aligned to its element. */
struct gemm_pack_args {
    const void *src;
    enum ops_dtype src_dtype; /* any; f8 is the only one to give f8 */
    uint64_t src_stride;      /* elements between rows, >= k */
    const float *src_scale;   /* f8 to another dtype; NULL without */
    enum ops_scaling src_scaling;
    uint32_t n_rows;  /* rows of src */
    uint32_t n_first; /* first row in the packed matrix */
    uint32_t n, k;    /* shape of the whole packed matrix */
    void *dst;
    enum ops_dtype dst_dtype; /* OPS_F32, OPS_BF16, OPS_F8 */
};

/* random_fill: dst[i] = scale * u(seed, first + i), u uniform in [-1, 1), for dummy weights; to
 * nearest even, in f8 at most 448. Counter based: any split of a tensor into calls gives the same
 * bits, on every device. */
struct random_fill_args {
    void *dst;
    enum ops_dtype dtype; /* any */
    uint64_t n;           /* elements */
    uint64_t first;       /* index of dst[0] in the tensor */
    uint64_t seed;
    float scale;
};

/* What a gemm does besides, where the device can (device_ops.fused_rows_max); each part alone or
 * together with the other.
 * RMS norm ahead: x is v[r, c] * g[c] in bf16, not divided by the norm yet; x_sums [n_rows, k / 16]
 * are parts of sum_c v[r, c]^2. Row r of the product is multiplied by
 * 1 / sqrt(sum(x_sums[r]) / k + eps), before bias and epilogue. x_sums NULL: not so.
 * Epilogue, v the product with its bias, in f32:
 *   GEMM_STORE     y = v
 *   GEMM_SILU_MUL  w is [2 n, k], bias [2 n]: the rows of gate, then those of up;
 *                  y [n_rows, n] = silu(v[:, :n]) * v[:, n:]; n a multiple of 8
 *   GEMM_ADD_NORM  residual [n_rows, n] f32, stride n, += v; y = residual * next_norm[n] and y_sums
 *                  [n_rows, n / 16]: x and x_sums of the gemm behind the next RMS norm; n a
 *                  multiple of 16 */
enum gemm_epilogue { GEMM_STORE = 0, GEMM_SILU_MUL = 1, GEMM_ADD_NORM = 2 };
struct gemm_fusion {
    const float *x_sums;
    float eps;
    enum gemm_epilogue epilogue;
    float *residual;
    const float *next_norm;
    float *y_sums;
};

/* gemm: y[m,n] = sum_k x[m,k] * W[n,k] (+ bias[n])
 * With bf16 weights x is rounded to bf16 (nearest even) and products are summed in f32; with f32
 * weights x stays f32. With fp8 weights (CUDA) x is bf16, and a device may round it further to e4m3
 * with a scale for each row (and, for OPS_SCALE_BLOCK, each 128 columns) from its greatest value.
 * Shapes   x [n_rows, k], stride x_stride; w packed [n, k]; bias [n] f32 or NULL;
 *          y [n_rows, n], stride y_stride; y overlaps neither x nor w
 * Checked  tests/ops/test_gemm.c, tests/gpu/test_cuda_ops.c */
struct gemm_args {
    const void *x;
    enum ops_dtype x_dtype;
    uint64_t x_stride;
    const void *w;
    enum ops_dtype w_dtype; /* OPS_F32, OPS_BF16; CUDA: OPS_F8 too */
    const float *w_scale;   /* of w_scaling; NULL without */
    enum ops_scaling w_scaling;
    const struct gemm_fusion *fusion; /* NULL: nothing besides */
    const float *bias;
    void *y;
    enum ops_dtype y_dtype;
    uint64_t y_stride;
    uint32_t n_rows, n, k;
};

/* embedding: y[r,:] = table[ids[r],:], also a plain row gather when the dtype is f32.
 * Shapes   ids [n_rows]; table [n_vocab, n_cols] row-major of dtype, or, with is_packed, the packed
 *          matrix [n_vocab, n_cols] of gemm (tied embeddings need one copy only);
 *          y [n_rows, n_cols] of y_dtype, stride y_stride
 * An id >= n_vocab gives a row of zeros. */
struct embedding_args {
    const uint32_t *ids;
    const void *table;
    enum ops_dtype dtype; /* any but f8; packed: OPS_F32, OPS_BF16 */
    uint32_t is_packed;   /* 0, 1 */
    uint32_t n_vocab, n_cols;
    void *y;
    enum ops_dtype y_dtype;
    uint64_t y_stride;
    uint32_t n_rows;
};

/* step_input: brings what the host has written for a step into device memory, in a launch that may
 * be recorded; step_output brings the step's tokens back. Two steps may be under way: src and dst
 * have a place for each, and *turn, in device memory, counts the steps that are over.
 * Words [0, n_words) of src[turn % 2] go to the same place of dst, but for an id (words [ids_at,
 * ids_at + n_ids)) of OPS_ID_PENDING | i, which becomes tokens[i], the i-th token of the step
 * before. Then the table, [n_seqs, table_stride] from word table_at on: of row s the entries for
 * the kv_tokens[s] positions of sequence s, which are words [kv_tokens_at, + n_seqs).
 * plans [n_plans <= 2]: the attention of layers with a window and of those without. A device that
 * plans decoding does it here, and its attention uses the plan until the next call. Their
 * kv_tokens are those words of dst. */
#define OPS_ID_PENDING 0x80000000u
struct step_input_args {
    const uint32_t *src[2];
    uint32_t *dst;
    const uint32_t *turn, *tokens;
    uint32_t n_words, ids_at, n_ids;
    uint32_t table_at, table_stride, kv_tokens_at, n_seqs, block_tokens;
    const struct attention_args *plans; /* host memory */
    uint32_t n_plans;
};

/* dst[turn % 2][0 .. n) = tokens; *turn += 1. */
struct step_output_args {
    const uint32_t *tokens;
    uint32_t *dst[2];
    uint32_t *turn;
    uint32_t n;
};

/* step_begin: what a step of a device with fused ops starts with, in one launch: the embedding of
 * its rows as the residual stream, the input of the first gemm, and the rotations of all layers.
 * Shapes   x [n_rows, n_cols] f32 = table[ids[r], :], as embedding with is_packed; then, unless y
 * is NULL, y [n_rows, n_cols] bf16 = x * norm_w and y_sums [n_rows, n_cols / 16] as GEMM_ADD_NORM
 * leaves them; n_cols a multiple of 16 cos_sin [n_rows, n_rot / 2, 2] f32: cos and sin of pos[r] *
 * inv_freq[i], times attn_scale */
struct step_begin_args {
    const uint32_t *ids, *pos;
    const void *table;
    enum ops_dtype dtype; /* of table: OPS_F32, OPS_BF16 */
    uint32_t n_vocab, n_cols;
    float *x;
    const float *norm_w;
    void *y;
    float *y_sums;
    const float *inv_freq;
    float *cos_sin;
    uint32_t n_rot;
    float attn_scale;
    uint32_t n_rows;
};

/* ---- Elementwise and norms ------------------------------------------------------------------ */

/* rmsnorm: y[r,h,c] = v[c] * w[c] / sqrt(mean_c(v[c]^2) + eps), v = x[r,h,:] (+ residual[r,:])
 * With residual (n_heads must be 1) the sum is also written back: residual += x.
 * Per-head qk-norm: n_heads > 1, n_cols = head_dim, heads lie side by side in a row.
 * Shapes   x, y [n_rows, n_heads, n_cols], strides x_stride, y_stride; y may be x itself;
 *          residual [n_rows, n_cols] f32, stride residual_stride, or NULL; w [n_cols] f32
 * Source   Zhang & Sennrich 2019, arXiv:1910.07467 */
struct rmsnorm_args {
    const void *x;
    enum ops_dtype x_dtype;
    uint64_t x_stride;
    float *residual;
    uint64_t residual_stride;
    const float *w;
    void *y;
    enum ops_dtype y_dtype;
    uint64_t y_stride;
    uint32_t n_rows, n_heads, n_cols;
    float eps;
};

/* rope: rotates the first n_rot dimensions of each head in place, half-split (HF) layout: dimension
 * i pairs with i + n_rot/2. angle = (float)pos * inv_freq[i]; cos and sin are multiplied by
 * `attn_scale` (1, or YaRN's factor). The caller's table holds any rope scaling.
 * q and k of a fused qkv row: one call, n_heads = n_q_heads + n_kv_heads.
 * Shapes   x [n_rows, n_heads, head_dim] f32, stride x_stride; pos [n_rows]; inv_freq [n_rot/2]
 * Source   Su et al. 2021, arXiv:2104.09864 */
struct rope_args {
    float *x;
    uint64_t x_stride;
    const uint32_t *pos;
    const float *inv_freq;
    uint32_t n_rows, n_heads, head_dim;
    uint32_t n_rot; /* even, at most head_dim */
    float attn_scale;
};

/* silu_mul: y[r,c] = silu(x[r,c]) * x[r, n_cols + c], silu(g) = g / (1 + exp(-g))
 * Shapes   x [n_rows, 2 * n_cols] (gate, then up), stride x_stride; y [n_rows, n_cols], stride
 *          y_stride; y may start at x with the same stride */
struct silu_mul_args {
    const void *x;
    uint64_t x_stride;
    void *y;
    uint64_t y_stride;
    enum ops_dtype dtype; /* of x and y */
    uint32_t n_rows, n_cols;
};

/* ---- KV blocks and attention ------------------------------------------------------------------
 * Pool: [block][layer][kv_head][K|V][token][head_dim], dtype bf16, f32 or f8, 64-byte aligned.
 * f8: a byte stands for its e4m3 value times the scale of its layer, side and head. Written as
 * x * (1 / scale) in f32, to nearest even, beyond +-448 as +-448, a NaN as a NaN. */
struct ops_kv_pool {
    void *base;
    uint64_t block_bytes; /* distance of two blocks; >= ops_kv_block_bytes() */
    uint32_t n_blocks, n_layers, n_kv_heads, block_tokens, head_dim;
    enum ops_dtype dtype; /* OPS_F32, OPS_BF16, OPS_F8 */
    const float *scales;  /* OPS_F8: [n_layers, 2, n_kv_heads], K then V; NULL: all 1 */
};

/* Bytes of one block over all layers. */
OPS_INLINE uint64_t ops_kv_block_bytes(const struct ops_kv_pool *pool)
{
    return (uint64_t)pool->n_layers * pool->n_kv_heads * 2u * pool->block_tokens * pool->head_dim *
           ops_dtype_bytes(pool->dtype);
}

/* Byte offset in the pool of the K (is_v = 0) or V (is_v = 1) plane [token][head_dim]. */
OPS_INLINE uint64_t ops_kv_plane_offset(const struct ops_kv_pool *pool, uint32_t block,
                                        uint32_t layer, uint32_t kv_head, uint32_t is_v)
{
    uint64_t plane = ((uint64_t)layer * pool->n_kv_heads + kv_head) * 2u + is_v;
    return (uint64_t)block * pool->block_bytes +
           plane * pool->block_tokens * pool->head_dim * ops_dtype_bytes(pool->dtype);
}

/* Rows of a step: token r belongs to sequence seq[r] of this step and has position pos[r] in it.
 * Position p lives in block block_table[seq * table_stride + p / block_tokens], at token
 * p % block_tokens. Only entries for positions that an op touches are read.
 * CUDA needs the rows by sequence too: sequence s has rows [row_first[s], row_first[s + 1]), which
 * are the last of its kv_tokens[s] positions. A row with pos OPS_NO_POSITION, and a sequence with
 * kv_tokens 0, is padding there: it writes no KV, and its results are anything. */
#define OPS_NO_POSITION UINT32_MAX
struct ops_rows {
    uint32_t n_rows;
    const uint32_t *seq;         /* [n_rows] row of block_table */
    const uint32_t *pos;         /* [n_rows] */
    const uint32_t *block_table; /* [n_seqs, table_stride] block indices */
    uint32_t table_stride;       /* entries */
    uint32_t n_seqs;
    uint32_t rows_max;         /* most rows of a sequence */
    const uint32_t *row_first; /* [n_seqs + 1] */
    const uint32_t *kv_tokens; /* [n_seqs] */
};

/* kv_write: stores k and v of each row at its position; bf16 rounds to nearest even.
 * Shapes   k, v [n_rows, n_kv_heads, head_dim] f32, strides k_stride, v_stride
 * Two rows never share a position of a block. */
struct kv_write_args {
    const float *k, *v;
    uint64_t k_stride, v_stride;
    struct ops_kv_pool pool;
    uint32_t layer;
    struct ops_rows rows;
};

/* qkv: all that stands between the qkv GEMM and attention, in place: RMS norm of each q and k head
 * (with q_norm and k_norm), rotation of q and k, k and v into the pool. The same as rmsnorm, rope
 * and kv_write one after the other, which the CPU does. Shapes   x [n_rows, n_heads + 2 *
 * pool.n_kv_heads, head_dim], stride x_stride: q, k, v heads; q_norm, k_norm [head_dim] or NULL;
 * inv_freq [n_rot / 2] */
struct qkv_args {
    void *x;
    enum ops_dtype dtype;
    uint64_t x_stride;
    uint32_t n_heads;
    const float *q_norm, *k_norm;
    float eps;
    const float *inv_freq;
    uint32_t n_rot;
    float attn_scale;
    struct ops_kv_pool pool;
    uint32_t layer;
    struct ops_rows rows;
};

/* attention: causal attention of each row over positions [max(0, pos - window + 1), pos] of its
 * sequence, all of them already in the pool (call kv_write first). One op for prefill and decode.
 * out[r,h,:] = sum_j softmax_j(scale * q[r,h] . K[j]) V[j], with KV head h / (n_heads / n_kv_heads)
 * Rows of one sequence that follow each other share the KV reads; order is free.
 * Keys are taken in pieces of 64 aligned positions with a running maximum, all in f32. Of an fp8
 * pool the scales may be applied to q and to out instead of to each key.
 * With `fresh` (steps of one row a sequence, CUDA) q is the row of the qkv gemm itself, the heads
 * of q, k and v one behind the other: the op does the work of qkv too, but leaves the row as it is.
 * Shapes   q, out [n_rows, n_heads, head_dim] of dtype, strides q_stride, out_stride; no overlap
 * Source   online softmax: Milakov & Gimelshein 2018, arXiv:1805.02867 */
struct attention_fresh {
    const float *q_norm, *k_norm; /* [head_dim] or NULL */
    float eps;
    const float *cos_sin; /* [n_rows, n_rot / 2, 2], of step_begin */
    uint32_t n_rot;
};

struct attention_args {
    const void *q;
    uint64_t q_stride;
    const struct attention_fresh *fresh; /* NULL: q is ready, k and v are in the pool */
    void *out;
    uint64_t out_stride;
    enum ops_dtype dtype;
    struct ops_kv_pool pool;
    uint32_t layer;
    uint32_t n_heads; /* a multiple of pool.n_kv_heads */
    uint32_t window;  /* positions seen, the row's own included; 0: all */
    float scale;      /* usually 1 / sqrt(head_dim) */
    struct ops_rows rows;
};

/* ---- Choosing tokens ------------------------------------------------------------------------ */

/* One row's sampling plan; all zero is greedy, and a field that is zero is off. Order of work:
 * log-probabilities of the logits as they are; penalties and bias of `tokens`; `allowed` and
 * `banned`; temperature; top-k; top-p over what top-k left; min-p relative to the best token; then
 * the draw by `uniform` over the candidates ordered by (logit descending, id ascending). Equal
 * logits therefore never make it ambiguous. NaN logits count as minus infinity.
 *
 * Penalties and bias turn the logit l of a token of `tokens` into, in this order, c being how often
 * it is in the output:
 *   repetition   where c > 0 or it is in the prompt: l > 0 ? l / repetition : l * repetition
 *   frequency    where c > 0: l - frequency * c
 *   presence     where c > 0: l - presence
 *   bias         l + bias
 *
 * All further work is integers, so that a sum has one value in any order and every device draws the
 * same token. With each float operation, those above too, rounded on its own to nearest even (no
 * fused multiply-add):
 *   best     the greatest logit that may be drawn; where it is +inf, or the row is greedy
 *            (temperature below OPS_TEMPERATURE_MIN, or NaN), its lowest id is the answer
 *   x        (logit - best) * (1 / temperature)
 *   weight   u64: trunc(cpu_exp_f32(x) * 2^OPS_WEIGHT_BITS); 0 where x is NaN. The best token's is
 *            2^OPS_WEIGHT_BITS; none of x < -28 has any; it never grows along the order
 *   part(f)  trunc(f * 2^32) for f in [0, 1), at most 2^32 - 1
 *   f of m   floor(part(f) * m / 2^32), exactly; m is a mass, a sum of weights (n_vocab <= 2^20)
 * A filter that is on gives the mass of the prefix of the order that it keeps:
 *   top-k    the first top_k tokens, or all
 *   top-p    the shortest prefix, of one token at least, whose mass is at least
 *            top_p of (the mass that top-k left)
 *   min-p    the tokens of weight >= trunc(min_p * 2^OPS_WEIGHT_BITS); one token at least
 * and `kept` is the least of these masses and of the mass of all. The draw is the first token by
 * which the mass exceeds uniform of kept. Tokens of weight 0 are never drawn. */
#define OPS_WEIGHT_BITS     40
#define OPS_TEMPERATURE_MIN 1e-5f

/* part(f) of struct sample_row; also for f out of range, and 0 for NaN. */
OPS_INLINE uint32_t ops_sample_part(float f)
{
    return f >= 1.0f ? UINT32_MAX : f > 0.0f ? (uint32_t)(f * 4294967296.0f) : 0u;
}

/* floor(part * mass / 2^32). */
OPS_INLINE uint64_t ops_sample_of(uint32_t part, uint64_t mass)
{
    return part * (mass >> 32) + (part * (mass & UINT32_MAX) >> 32);
}

/* What is special about one token of a row. */
#define OPS_IN_PROMPT 0x80000000u
struct sample_token {
    uint32_t id;   /* one entry an id; out of range is ignored */
    uint32_t seen; /* times in the output, below 2^31; | OPS_IN_PROMPT if it is in the prompt */
    float bias;
    float saved; /* the op's own: it may write it */
};

/* Log-probabilities of a row's logits before anything is done to them, at temperature 1:
 * logit - log(sum of exp(logits)). Where the greatest logit is +inf, the tokens that have it share
 * the probability. `ids` are the best tokens in order of (logit descending, id ascending); where a
 * row has fewer above -inf, the rest is OPS_NO_TOKEN and -inf. Devices agree on the ids, and on
 * the values to 1e-5 * max(1, |value|). */
#define OPS_TOP_LOGPROBS_MAX 20u
struct sample_logprobs {
    float chosen; /* of the token drawn; -inf for OPS_NO_TOKEN */
    uint32_t ids[OPS_TOP_LOGPROBS_MAX];
    float values[OPS_TOP_LOGPROBS_MAX];
};

struct sample_row {
    float temperature; /* below OPS_TEMPERATURE_MIN: greedy, then no field up to top_k matters */
    float top_p;       /* >= 1 or <= 0: off */
    float min_p;       /* <= 0: off */
    float uniform;     /* in [0, 1), philox_uniform of the caller */
    uint32_t top_k;    /* 0: off */
    uint32_t n_banned;
    const uint32_t *banned;  /* [n_banned] ids; any order; out of range is ignored */
    const uint32_t *allowed; /* [ceil(n_vocab / 32)]: bit id % 32 of word id / 32; NULL: all */
    float repetition;        /* <= 0 or 1: off */
    float frequency, presence;
    struct sample_token *tokens; /* [n_tokens] in any order; no two rows share them */
    uint32_t n_tokens;
    uint32_t n_top;         /* places of logprobs to fill, at most OPS_TOP_LOGPROBS_MAX */
    const uint32_t *newest; /* an id that is once more in the output than `tokens` says; NULL: none.
                               It need not be in `tokens`. */
    struct sample_logprobs *logprobs; /* output; NULL: none wanted */
};

/* sample: out_ids[r] drawn from logits[r,:]; OPS_NO_TOKEN when no token may be drawn that is above
 * -inf.
 * Shapes   logits [n_rows, n_vocab] f32, stride logits_stride; a device may change those of
 *          `tokens` and `newest` meanwhile, and puts them back; rows [n_rows]; out_ids [n_rows],
 *          overlaps nothing that the rows point to */
struct sample_args {
    const float *logits;
    uint64_t logits_stride;
    const struct sample_row *rows;
    uint32_t *out_ids;
    uint32_t n_rows, n_vocab;
};

/* argmax: out_ids[r] = lowest id with the greatest logit; OPS_NO_TOKEN when all are NaN or -inf.
 * Shapes   logits [n_rows, n_vocab] f32, stride logits_stride; out_ids [n_rows] */
struct argmax_args {
    const float *logits;
    uint64_t logits_stride;
    uint32_t *out_ids;
    uint32_t n_rows, n_vocab;
};

/* ---- CPU entry points -------------------------------------------------------------------------
 * Called by src/device/cpu.c and by tests only. Arguments are trusted. Each call does share `index`
 * of `count` disjoint shares of the op; after all shares ran, on any threads, the op is done. */

enum cpu_isa { CPU_ISA_AUTO = 0, CPU_ISA_SCALAR, CPU_ISA_AVX2, CPU_ISA_AVX512, CPU_ISA_COUNT };

/* Best ISA of this machine by cpuid: AVX512 needs F, BW, DQ, VL and BF16; AVX2 needs FMA. */
enum cpu_isa cpu_isa_best(void);
const char *cpu_isa_name(enum cpu_isa isa); /* "auto", "scalar", "avx2", "avx512" */

struct cpu_share {
    enum cpu_isa isa; /* not AUTO, and at most cpu_isa_best() */
    uint32_t index, count;
    void *scratch; /* own to this share; cpu_attention, cpu_sample; 64-byte aligned */
};

#define CPU_GEMM_ROWS_MAX 12u /* rows of one x panel at most, for sizing workspaces */

/* Bytes of x in the form that cpu_gemm reads, for n_rows rows. */
size_t cpu_gemm_x_bytes(enum ops_dtype w_dtype, uint32_t n_rows, uint32_t k);
/* Phase 1 of gemm: lays x out in x_packed. All shares must finish before phase 2. */
void cpu_gemm_pack_x(const struct gemm_args *args, void *x_packed, const struct cpu_share *share);
/* Phase 2 of gemm, split over panels. */
void cpu_gemm(const struct gemm_args *args, const void *x_packed, const struct cpu_share *share);

void cpu_gemm_pack(const struct gemm_pack_args *args, const struct cpu_share *share);
void cpu_random_fill(const struct random_fill_args *args, const struct cpu_share *share);
void cpu_embedding(const struct embedding_args *args, const struct cpu_share *share);
void cpu_rmsnorm(const struct rmsnorm_args *args, const struct cpu_share *share);
void cpu_rope(const struct rope_args *args, const struct cpu_share *share);
void cpu_silu_mul(const struct silu_mul_args *args, const struct cpu_share *share);
void cpu_kv_write(const struct kv_write_args *args, const struct cpu_share *share);
/* Scratch: cpu_attention_scratch_bytes(). */
void cpu_attention(const struct attention_args *args, const struct cpu_share *share);
size_t cpu_attention_scratch_bytes(void);
/* Scratch: cpu_sample_scratch_bytes(n_vocab). */
void cpu_sample(const struct sample_args *args, const struct cpu_share *share);
size_t cpu_sample_scratch_bytes(uint32_t n_vocab);
void cpu_argmax(const struct argmax_args *args, const struct cpu_share *share);

/* dst[i] = exp(src[i]): relative error <= 2e-7 for src in [-87, 88]; below -87 it is 0, above 88 it
 * is exp(88), NaN stays NaN. The same bits on every ISA. For tests; ops use it inside. */
void cpu_exp_f32(const float *src, float *dst, size_t n, enum cpu_isa isa);

#ifdef __cplusplus
}
#endif

#endif
