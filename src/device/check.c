#include "device/check.h"

static bool is_weight_dtype(enum ops_dtype dtype)
{
    return dtype == OPS_F32 || dtype == OPS_BF16;
}

static bool is_any_dtype(enum ops_dtype dtype)
{
    return ops_dtype_bytes(dtype) != 0;
}

/* fp8 goes with scales, which ops that read rows do not take. */
static bool is_plain_dtype(enum ops_dtype dtype)
{
    return is_any_dtype(dtype) && dtype != OPS_F8;
}

static bool is_aligned64(const void *ptr)
{
    return ptr != NULL && (uintptr_t)ptr % 64 == 0;
}

static enum status valid_if(bool is_valid)
{
    return is_valid ? ST_OK : ST_INVALID;
}

static bool is_scaling_valid(const float *scale, enum ops_scaling scaling)
{
    return (unsigned)scaling <= OPS_SCALE_BLOCK && (scale != NULL) == (scaling != OPS_SCALE_NONE);
}

/* Scales are applied where f8 becomes something else, and nothing else becomes f8. */
static bool is_pack_dtype_valid(const struct gemm_pack_args *args)
{
    if (!is_scaling_valid(args->src_scale, args->src_scaling))
        return false;
    if (args->src_dtype == OPS_F8 && is_weight_dtype(args->dst_dtype))
        return true;
    bool is_pair = args->src_dtype == OPS_F8
                       ? args->dst_dtype == OPS_F8
                       : is_any_dtype(args->src_dtype) && is_weight_dtype(args->dst_dtype);
    return is_pair && args->src_scaling == OPS_SCALE_NONE;
}

enum status device_check_gemm_pack(const struct gemm_pack_args *args)
{
    return valid_if(is_pack_dtype_valid(args) &&
                    ops_gemm_packed_bytes(args->dst_dtype, args->n, args->k) != 0 &&
                    (uint64_t)args->n_first + args->n_rows <= args->n &&
                    args->src_stride >= args->k && is_aligned64(args->dst) &&
                    (args->src != NULL || args->n_rows == 0));
}

enum status device_check_random_fill(const struct random_fill_args *args)
{
    return valid_if(is_any_dtype(args->dtype) && (args->dst != NULL || args->n == 0));
}

static bool is_fusion_valid(const struct gemm_fusion *f, uint32_t n, uint32_t k)
{
    if (f->x_sums != NULL && k % 16 != 0)
        return false;
    if (f->epilogue == GEMM_SILU_MUL)
        return n % 8 == 0;
    return f->epilogue == GEMM_STORE ||
           (f->residual != NULL && f->next_norm != NULL && f->y_sums != NULL && n % 16 == 0);
}

enum status device_check_gemm(const struct gemm_args *args)
{
    const struct gemm_fusion *f = args->fusion;
    if (args->n_rows == 0)
        return ST_OK;
    uint64_t n = f != NULL && f->epilogue == GEMM_SILU_MUL ? 2 * (uint64_t)args->n : args->n;
    return valid_if(ops_gemm_packed_bytes(args->w_dtype, n, args->k) != 0 &&
                    is_aligned64(args->w) && args->x != NULL && args->y != NULL &&
                    is_scaling_valid(args->w_scale, args->w_scaling) &&
                    (args->w_dtype == OPS_F8 || args->w_scaling == OPS_SCALE_NONE) &&
                    args->x_stride >= args->k && args->y_stride >= args->n &&
                    (f == NULL || is_fusion_valid(f, args->n, args->k)));
}

enum status device_check_step_input(const struct step_input_args *args)
{
    return valid_if(args->src[0] != NULL && args->src[1] != NULL && args->dst != NULL &&
                    args->turn != NULL && args->tokens != NULL && args->block_tokens > 0 &&
                    args->ids_at <= args->n_words && args->n_ids <= args->n_words - args->ids_at &&
                    args->kv_tokens_at <= args->n_words &&
                    args->n_seqs <= args->n_words - args->kv_tokens_at &&
                    args->table_at >= args->n_words && args->n_plans <= 2);
}

enum status device_check_step_output(const struct step_output_args *args)
{
    return valid_if(args->tokens != NULL && args->dst[0] != NULL && args->dst[1] != NULL &&
                    args->turn != NULL);
}

enum status device_check_step_begin(const struct step_begin_args *args)
{
    if (args->n_rows == 0)
        return ST_OK;
    return valid_if(is_weight_dtype(args->dtype) && args->ids != NULL && args->pos != NULL &&
                    args->table != NULL && args->x != NULL && args->n_cols > 0 &&
                    (args->y == NULL ||
                     (args->norm_w != NULL && args->y_sums != NULL && args->n_cols % 16 == 0)) &&
                    args->n_rot % 2 == 0 && args->inv_freq != NULL && args->cos_sin != NULL);
}

enum status device_check_embedding(const struct embedding_args *args)
{
    if (args->n_rows == 0)
        return ST_OK;
    bool is_dtype = args->is_packed ? is_weight_dtype(args->dtype) : is_plain_dtype(args->dtype);
    return valid_if(is_dtype && args->n_cols > 0 && args->ids != NULL && args->table != NULL &&
                    args->y != NULL && args->y_stride >= args->n_cols);
}

enum status device_check_rmsnorm(const struct rmsnorm_args *args)
{
    if (args->n_rows == 0)
        return ST_OK;
    uint64_t row = (uint64_t)args->n_heads * args->n_cols;
    if (row == 0 || args->x == NULL || args->w == NULL || args->y == NULL)
        return ST_INVALID;
    if (args->residual != NULL && (args->n_heads != 1 || args->residual_stride < args->n_cols))
        return ST_INVALID;
    return valid_if(args->x_stride >= row && args->y_stride >= row);
}

enum status device_check_rope(const struct rope_args *args)
{
    if (args->n_rows == 0)
        return ST_OK;
    return valid_if(args->head_dim > 0 && args->head_dim <= OPS_HEAD_DIM_MAX &&
                    args->n_rot % 2 == 0 && args->n_rot <= args->head_dim && args->x != NULL &&
                    args->pos != NULL && (args->inv_freq != NULL || args->n_rot == 0) &&
                    args->x_stride >= (uint64_t)args->n_heads * args->head_dim);
}

enum status device_check_silu_mul(const struct silu_mul_args *args)
{
    if (args->n_rows == 0)
        return ST_OK;
    return valid_if(args->n_cols > 0 && args->x != NULL && args->y != NULL &&
                    args->x_stride >= (uint64_t)args->n_cols * 2 && args->y_stride >= args->n_cols);
}

static bool is_block_tokens(uint32_t n)
{
    return n == 16 || n == 32 || n == 64 || n == 128;
}

static bool is_pool_valid(const struct ops_kv_pool *pool, uint32_t layer)
{
    return (is_weight_dtype(pool->dtype) || pool->dtype == OPS_F8) && is_aligned64(pool->base) &&
           pool->n_blocks > 0 && pool->n_kv_heads > 0 && layer < pool->n_layers &&
           pool->head_dim > 0 && pool->head_dim % 16 == 0 && pool->head_dim <= OPS_HEAD_DIM_MAX &&
           is_block_tokens(pool->block_tokens) && pool->block_bytes % 64 == 0 &&
           pool->block_bytes >= ops_kv_block_bytes(pool);
}

/* Blocks that hold positions [lo, hi] of row r exist. */
static bool are_blocks_valid(const struct ops_kv_pool *pool, const struct ops_rows *rows,
                             uint32_t r, uint32_t lo, uint32_t hi)
{
    const uint32_t *table = rows->block_table + (uint64_t)rows->seq[r] * rows->table_stride;
    if (hi / pool->block_tokens >= rows->table_stride)
        return false;
    for (uint32_t i = lo / pool->block_tokens; i <= hi / pool->block_tokens; i++)
        if (table[i] >= pool->n_blocks)
            return false;
    return true;
}

static bool are_rows_valid(const struct ops_rows *rows)
{
    return rows->seq != NULL && rows->pos != NULL && rows->block_table != NULL;
}

enum status device_check_kv_write(const struct kv_write_args *args)
{
    const struct ops_rows *rows = &args->rows;
    if (rows->n_rows == 0)
        return ST_OK;
    uint64_t row = (uint64_t)args->pool.n_kv_heads * args->pool.head_dim;
    if (!is_pool_valid(&args->pool, args->layer) || !are_rows_valid(rows) || args->k == NULL ||
        args->v == NULL || args->k_stride < row || args->v_stride < row)
        return ST_INVALID;
    for (uint32_t r = 0; r < rows->n_rows; r++)
        if (!are_blocks_valid(&args->pool, rows, r, rows->pos[r], rows->pos[r]))
            return ST_INVALID;
    return ST_OK;
}

enum status device_check_qkv(const struct qkv_args *args)
{
    const struct ops_kv_pool *pool = &args->pool;
    if (args->rows.n_rows == 0)
        return ST_OK;
    return valid_if(is_pool_valid(pool, args->layer) && are_rows_valid(&args->rows) &&
                    args->x != NULL && args->n_rot % 2 == 0 && args->n_rot <= pool->head_dim &&
                    (args->inv_freq != NULL || args->n_rot == 0) &&
                    (args->q_norm == NULL) == (args->k_norm == NULL) &&
                    args->x_stride >=
                        ((uint64_t)args->n_heads + 2 * pool->n_kv_heads) * pool->head_dim);
}

enum status device_check_attention_shape(const struct attention_args *args)
{
    const struct ops_rows *rows = &args->rows;
    const struct ops_kv_pool *pool = &args->pool;
    if (rows->n_rows == 0)
        return ST_OK;
    uint64_t row = (uint64_t)args->n_heads * pool->head_dim;
    if (!is_pool_valid(pool, args->layer) || !are_rows_valid(rows) || args->q == NULL ||
        args->out == NULL || args->q_stride < row || args->out_stride < row)
        return ST_INVALID;
    if (args->n_heads == 0 || args->n_heads % pool->n_kv_heads != 0 ||
        args->n_heads / pool->n_kv_heads > OPS_HEADS_PER_KV_MAX)
        return ST_INVALID;
    return ST_OK;
}

enum status device_check_attention(const struct attention_args *args)
{
    const struct ops_rows *rows = &args->rows;
    const struct ops_kv_pool *pool = &args->pool;
    enum status st = device_check_attention_shape(args);
    if (st != ST_OK)
        return st;
    /* Of consecutive rows of one sequence only new blocks are looked at. */
    uint32_t checked_from = UINT32_MAX, checked_to = 0;
    for (uint32_t r = 0; r < rows->n_rows; r++) {
        uint32_t hi = rows->pos[r];
        uint32_t lo = args->window > 0 && hi >= args->window ? hi - args->window + 1 : 0;
        bool is_same = r > 0 && rows->seq[r] == rows->seq[r - 1];
        uint32_t first = is_same && lo >= checked_from && hi >= checked_to ? checked_to : lo;
        first = first > lo ? first : lo;
        if (!are_blocks_valid(pool, rows, r, first, hi))
            return ST_INVALID;
        checked_from = lo;
        checked_to = hi;
    }
    return ST_OK;
}

enum status device_check_sample(const struct sample_args *args)
{
    if (args->n_rows == 0)
        return ST_OK;
    if (args->logits == NULL || args->rows == NULL || args->out_ids == NULL || args->n_vocab == 0 ||
        args->logits_stride < args->n_vocab)
        return ST_INVALID;
    for (uint32_t r = 0; r < args->n_rows; r++) {
        const struct sample_row *row = &args->rows[r];
        if ((row->n_banned > 0 && row->banned == NULL) ||
            (row->n_tokens > 0 && row->tokens == NULL) || row->n_top > OPS_TOP_LOGPROBS_MAX)
            return ST_INVALID;
    }
    return ST_OK;
}

enum status device_check_argmax(const struct argmax_args *args)
{
    if (args->n_rows == 0)
        return ST_OK;
    return valid_if(args->logits != NULL && args->out_ids != NULL && args->n_vocab > 0 &&
                    args->logits_stride >= args->n_vocab);
}
