/* GEMM with fp8 weights: x becomes e4m3 too, with scales from its values. Engine thread. */
#include "device/cuda_gemm_int.h"

#include "observe/log.h"

#define BLOCK OPS_SCALE_BLOCK_SIZE
/* The library wants a number of rows, and rows of w's block scales, that 4 divides. */
#define ROWS_ALIGN     4u
#define LAZY_ROWS      256u /* reserved, when nobody has said how many */
#define PANEL_ROWS_MIN (2 * ROWS_ALIGN)

static uint32_t align_up(uint32_t n, uint32_t to)
{
    return (n + to - 1) / to * to;
}

/* Scales of the blocks of a row. */
static uint32_t blocks_of(uint32_t n)
{
    return (n + BLOCK - 1) / BLOCK;
}

void lt_f8_deinit(struct cuda_lt *lt)
{
    cudaFree(lt->f8.x);
    cudaFree(lt->f8.x_scale);
    cudaFree(lt->f8.w_scale);
    cudaFree(lt->f8.scratch);
    lt->f8 = (struct lt_f8){0};
}

enum status cuda_lt_reserve(struct cuda_lt *lt, uint32_t rows, uint32_t n, uint32_t k)
{
    if (lt->f8.x != NULL)
        return ST_OK; /* recorded work may name it: it stays where it is */
    const size_t rows_padded = align_up(rows, ROWS_ALIGN);
    struct lt_f8 f8 = {.x_bytes = rows_padded * align_up(k, BLOCK),
                       .n_x_scales = rows_padded * blocks_of(k),
                       .n_w_scales = (size_t)blocks_of(n) * align_up(blocks_of(k), ROWS_ALIGN)};
    size_t bytes = f8.x_bytes + (f8.n_x_scales + f8.n_w_scales) * sizeof(float) + LT_SCRATCH_BYTES;
    cudaError_t rc = cudaMalloc(&f8.x, f8.x_bytes);
    if (rc == cudaSuccess)
        rc = cudaMalloc((void **)&f8.x_scale, f8.n_x_scales * sizeof(float));
    if (rc == cudaSuccess)
        rc = cudaMalloc((void **)&f8.w_scale, f8.n_w_scales * sizeof(float));
    if (rc == cudaSuccess)
        rc = cudaMalloc(&f8.scratch, LT_SCRATCH_BYTES);
    lt->f8 = f8;
    if (rc == cudaSuccess)
        return ST_OK;
    lt_f8_deinit(lt);
    log_error(
        "no device memory for fp8 products: lower scheduler.max_batch_tokens or kv.pool_bytes",
        LOG_U64("asked_bytes", bytes));
    return cuda_status(rc, "alloc");
}

/* ---- LT_DIRECT ---- */

enum status lt_f8_quant(struct cuda_lt *lt, const struct gemm_args *a, uint32_t rows)
{
    const struct cuda_quant_args quant = {.x = a->x,
                                          .x_stride = a->x_stride,
                                          .y = lt->f8.x,
                                          .scale = lt->f8.x_scale,
                                          .scaling = a->w_scaling,
                                          .n_rows = a->n_rows,
                                          .n_rows_padded = rows,
                                          .n_cols = a->k};
    return cuda_status(cuda_quant_rows(&quant, lt->stream), "gemm");
}

/* The scales of w's blocks, in rows as the library wants them. */
static enum status block_scales(struct cuda_lt *lt, const struct gemm_args *a, const float **out)
{
    const uint32_t n_rows = blocks_of(a->n), n_cols = blocks_of(a->k);
    const uint32_t stride = align_up(n_cols, ROWS_ALIGN);
    *out = a->w_scale;
    if (stride == n_cols)
        return ST_OK;
    if ((size_t)n_rows * stride > lt->f8.n_w_scales)
        return ST_UNSUPPORTED;
    *out = lt->f8.w_scale;
    return cuda_status(cudaMemcpy2DAsync(lt->f8.w_scale, stride * sizeof(float), a->w_scale,
                                         n_cols * sizeof(float), n_cols * sizeof(float), n_rows,
                                         cudaMemcpyDeviceToDevice, lt->stream),
                       "gemm");
}

enum status lt_f8_multiply(struct cuda_lt *lt, struct lt_shape *shape,
                           const struct lt_choice *choice, const struct gemm_args *a, uint32_t rows,
                           void *y, uint64_t y_stride)
{
    struct lt_call call = {.w = a->w,
                           .x = lt->f8.x,
                           .w_scale = a->w_scale,
                           .x_scale = lt->f8.x_scale,
                           .y = y,
                           .x_stride = a->k,
                           .y_stride = y_stride,
                           .rows = rows};
    enum status st = ST_OK;
    if (a->w_scaling == OPS_SCALE_BLOCK)
        st = block_scales(lt, a, &call.w_scale);
    if (st != ST_OK)
        return st;
    return choice != NULL ? lt_status(lt_matmul(lt, shape, choice, &call), "gemm")
                          : lt_exact_gemm(lt, shape, &call);
}

/* ---- LT_WIDE ---- */

/* The whole product with w as bf16, a panel of rows of w at a time. */
static enum status multiply_wide(struct cuda_lt *lt, const struct gemm_args *a)
{
    uint32_t panel = (uint32_t)(LT_SCRATCH_BYTES / ((uint64_t)a->k * sizeof(uint16_t)));
    const bool is_block = a->w_scaling == OPS_SCALE_BLOCK;
    panel = panel < a->n ? panel / BLOCK * BLOCK : a->n;
    enum status st = panel > 0 ? ST_OK : ST_TOO_LARGE;
    for (uint32_t first = 0; first < a->n && st == ST_OK; first += panel) {
        const uint32_t n = a->n - first < panel ? a->n - first : panel;
        const uint64_t scale_at = is_block ? (uint64_t)first / BLOCK * blocks_of(a->k) : first;
        const struct gemm_pack_args pack = {.src = (const char *)a->w + (uint64_t)first * a->k,
                                            .src_dtype = OPS_F8,
                                            .src_stride = a->k,
                                            .src_scale =
                                                a->w_scale != NULL ? a->w_scale + scale_at : NULL,
                                            .src_scaling = a->w_scaling,
                                            .n_rows = n,
                                            .n = n,
                                            .k = a->k,
                                            .dst = lt->f8.scratch,
                                            .dst_dtype = OPS_BF16};
        struct gemm_args part = *a;
        part.w = lt->f8.scratch;
        part.w_dtype = OPS_BF16;
        part.w_scale = NULL;
        part.w_scaling = OPS_SCALE_NONE;
        part.n = n;
        part.y = (char *)a->y + (uint64_t)first * ops_dtype_bytes(a->y_dtype);
        st = cuda_status(cuda_gemm_pack(&pack, lt->stream), "gemm");
        if (st == ST_OK)
            st = lt_plain_gemm(lt, &part);
    }
    return st;
}

/* ---- rows ---- */

static struct gemm_args rows_of(const struct gemm_args *a, uint32_t first, uint32_t n)
{
    struct gemm_args part = *a;
    part.n_rows = n;
    part.x = (const char *)a->x + first * a->x_stride * ops_dtype_bytes(a->x_dtype);
    part.y = (char *)a->y + first * a->y_stride * ops_dtype_bytes(a->y_dtype);
    return part;
}

/* Rows that f8.x and its scales have room for, a multiple of ROWS_ALIGN. */
static uint32_t rows_room(const struct cuda_lt *lt, const struct gemm_args *a)
{
    const uint32_t scales = a->w_scaling == OPS_SCALE_BLOCK ? blocks_of(a->k) : 1;
    size_t room = lt->f8.x_bytes / a->k, room_scales = lt->f8.n_x_scales / scales;
    room = room < room_scales ? room : room_scales;
    room = room < UINT32_MAX / 2 ? room : UINT32_MAX / 2;
    return (uint32_t)room / ROWS_ALIGN * ROWS_ALIGN;
}

/* rows are what the library takes: where they are more than n_rows, y has no place for the rest. */
static enum status multiply(struct cuda_lt *lt, struct lt_shape *shape,
                            const struct lt_choice *choice, const struct gemm_args *a,
                            uint32_t rows)
{
    const size_t row_bytes = (size_t)a->n * ops_dtype_bytes(a->y_dtype);
    if (rows == a->n_rows)
        return lt_f8_multiply(lt, shape, choice, a, rows, a->y, a->y_stride);
    enum status st = lt_f8_multiply(lt, shape, choice, a, rows, lt->f8.scratch, a->n);
    return st == ST_OK
               ? cuda_status(cudaMemcpy2DAsync(a->y, a->y_stride * ops_dtype_bytes(a->y_dtype),
                                               lt->f8.scratch, row_bytes, row_bytes, a->n_rows,
                                               cudaMemcpyDeviceToDevice, lt->stream),
                             "gemm")
               : st;
}

/* At most rows_room() rows. With blocks a number of rows that 4 does not divide goes through the
 * scratch; of more than it holds, its last part does. */
static enum status rows_gemm(struct cuda_lt *lt, const struct gemm_args *a)
{
    struct lt_shape *shape = NULL;
    const bool is_block = a->w_scaling == OPS_SCALE_BLOCK;
    const uint32_t rows = is_block ? align_up(a->n_rows, ROWS_ALIGN) : a->n_rows;
    const uint64_t row_bytes = (uint64_t)a->n * ops_dtype_bytes(a->y_dtype);
    const uint64_t room =
        row_bytes > 0 ? LT_SCRATCH_BYTES / row_bytes / ROWS_ALIGN * ROWS_ALIGN : 0;
    enum status st = lt_shape_get(lt, a, &shape);
    if (st != ST_OK)
        return st;
    const struct lt_choice *choice = lt_choice_get(lt, shape, rows);
    if (choice->way == LT_WIDE || (rows > a->n_rows && room < PANEL_ROWS_MIN))
        return multiply_wide(lt, a);
    if (rows > a->n_rows && rows > room) {
        const uint32_t whole = rows - (uint32_t)room;
        const struct gemm_args head = rows_of(a, 0, whole);
        const struct gemm_args tail = rows_of(a, whole, a->n_rows - whole);
        st = rows_gemm(lt, &head);
        return st == ST_OK ? rows_gemm(lt, &tail) : st;
    }
    st = lt_f8_quant(lt, a, rows);
    if (st == ST_OK)
        st = multiply(lt, shape, choice, a, rows);
    if (st == ST_UNSUPPORTED)
        st = multiply(lt, shape, NULL, a, rows);
    return st == ST_UNSUPPORTED ? multiply_wide(lt, a) : st;
}

enum status lt_f8_gemm(struct cuda_lt *lt, const struct gemm_args *a)
{
    enum status st = ST_OK;
    if (lt->f8.x == NULL)
        st = cuda_lt_reserve(lt, a->n_rows > LAZY_ROWS ? a->n_rows : LAZY_ROWS, a->n, a->k);
    if (st != ST_OK)
        return st;
    const uint32_t room = rows_room(lt, a);
    if (room == 0)
        return multiply_wide(lt, a);
    for (uint32_t done = 0; done < a->n_rows && st == ST_OK; done += room) {
        const struct gemm_args part =
            rows_of(a, done, a->n_rows - done < room ? a->n_rows - done : room);
        st = rows_gemm(lt, &part);
    }
    return st;
}
