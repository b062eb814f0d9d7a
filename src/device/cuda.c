/* The CUDA device: one GPU, one stream on which every op runs in order. */
#include "device/check.h"
#include "device/cuda_int.h"
#include "device/device_int.h"
#include "observe/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CAPABILITY_MIN 80 /* bf16 tensor cores */

static struct cuda_device *cuda_of(struct device *dev)
{
    return (struct cuda_device *)dev; /* base is the first member */
}

enum status cuda_status(cudaError_t rc, const char *what)
{
    if (rc == cudaSuccess)
        return ST_OK;
    (void)cudaGetLastError();
    bool is_sticky = cudaStreamQuery(cudaStreamPerThread) == rc || cudaGetLastError() == rc;
    log_error(is_sticky ? "the GPU has failed for this process" : "CUDA failed",
              LOG_STR("call", what), LOG_STR("error", cudaGetErrorString(rc)));
    return is_sticky ? ST_DEVICE : rc == cudaErrorMemoryAllocation ? ST_NO_MEMORY : ST_INTERNAL;
}

/* ---- Memory --------------------------------------------------------------------------------- */

static void out_of_memory_log(size_t bytes)
{
    size_t free_bytes = 0, total_bytes = 0;
    cudaMemGetInfo(&free_bytes, &total_bytes);
    log_error("out of device memory: lower kv.pool_bytes, scheduler.max_batch_tokens or the model",
              LOG_U64("asked_bytes", bytes), LOG_U64("free_bytes", free_bytes),
              LOG_U64("total_bytes", total_bytes));
}

static enum status cuda_alloc(struct device *dev, enum device_mem mem, size_t bytes, void **out_ptr)
{
    struct cuda_device *cuda = cuda_of(dev);
    bool is_host = mem == DEVICE_MEM_HOST;
    void *ptr = NULL;
    if (bytes == 0)
        return ST_INVALID;
    cudaError_t rc = is_host ? cudaMallocHost(&ptr, bytes) : cudaMalloc(&ptr, bytes);
    if (rc == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError(); /* not sticky */
        out_of_memory_log(bytes);
        return ST_NO_MEMORY;
    }
    enum status st = cuda_status(rc, "alloc");
    if (st == ST_OK && is_host)
        memset(ptr, 0, bytes);
    else if (st == ST_OK)
        st = cuda_status(cudaMemsetAsync(ptr, 0, bytes, cuda->stream), "clear");
    struct device_alloc alloc = {.ptr = ptr, .base = ptr, .is_host_memory = is_host};
    if (st == ST_OK)
        st = device_allocs_add(&cuda->allocs, &alloc);
    if (st != ST_OK) {
        is_host ? cudaFreeHost(ptr) : cudaFree(ptr);
        return st;
    }
    *out_ptr = ptr;
    return ST_OK;
}

static void cuda_free(struct device *dev, void *ptr)
{
    struct device_alloc alloc;
    if (ptr != NULL && device_allocs_take(&cuda_of(dev)->allocs, ptr, &alloc))
        alloc.is_host_memory ? cudaFreeHost(ptr) : cudaFree(ptr);
}

static enum status cuda_copy_in(struct device *dev, void *dst, const void *src, size_t bytes)
{
    return cuda_status(
        cudaMemcpyAsync(dst, src, bytes, cudaMemcpyHostToDevice, cuda_of(dev)->stream), "copy in");
}

static enum status cuda_copy_out(struct device *dev, void *dst, const void *src, size_t bytes)
{
    return cuda_status(
        cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToHost, cuda_of(dev)->stream), "copy out");
}

static enum status cuda_sync(struct device *dev)
{
    return cuda_status(cudaStreamSynchronize(cuda_of(dev)->stream), "synchronise");
}

static enum status cuda_mark(struct device *dev, uint32_t which)
{
    struct cuda_device *cuda = cuda_of(dev);
    return cuda_status(cudaEventRecord(cuda->marks[which], cuda->stream), "mark");
}

static enum status cuda_wait(struct device *dev, uint32_t which)
{
    return cuda_status(cudaEventSynchronize(cuda_of(dev)->marks[which]), "wait");
}

/* ---- Replay --------------------------------------------------------------------------------- */

static struct cuda_graph *graph_find(struct cuda_device *cuda, uint32_t key)
{
    for (uint32_t i = 0; i < cuda->n_graphs; i++)
        if (cuda->graphs[i].key == key)
            return &cuda->graphs[i];
    return NULL;
}

static enum status graph_record(struct cuda_device *cuda, struct cuda_graph *graph,
                                enum status (*body)(void *arg), void *arg)
{
    cudaGraph_t recorded = NULL;
    enum status st = cuda_status(
        cudaStreamBeginCapture(cuda->stream, cudaStreamCaptureModeThreadLocal), "record");
    if (st != ST_OK)
        return st;
    st = body(arg);
    enum status end = cuda_status(cudaStreamEndCapture(cuda->stream, &recorded), "record");
    st = st == ST_OK ? end : st;
    if (st == ST_OK)
        st = cuda_status(cudaGraphInstantiate(&graph->exec, recorded, 0), "record");
    if (recorded != NULL)
        cudaGraphDestroy(recorded);
    return st;
}

/* The first time as it is, for libraries set themselves up then; recorded the second time. */
static enum status cuda_replay(struct device *dev, uint32_t key, enum status (*body)(void *arg),
                               void *arg)
{
    struct cuda_device *cuda = cuda_of(dev);
    struct cuda_graph *graph = graph_find(cuda, key);
    enum status st = ST_OK;
    if (graph == NULL) {
        if (cuda->n_graphs < CUDA_GRAPHS_MAX)
            cuda->graphs[cuda->n_graphs++] = (struct cuda_graph){.key = key};
        return body(arg);
    }
    if (graph->exec == NULL)
        st = graph_record(cuda, graph, body, arg);
    if (st == ST_OK && cuda->replay_start != NULL)
        st = cuda_status(cudaEventRecord(cuda->replay_start, cuda->stream), "replay");
    if (st == ST_OK)
        st = cuda_status(cudaGraphLaunch(graph->exec, cuda->stream), "replay");
    if (st == ST_OK && cuda->replay_end != NULL)
        st = cuda_status(cudaEventRecord(cuda->replay_end, cuda->stream), "replay");
    return st;
}

static double cuda_replay_seconds(struct device *dev)
{
    struct cuda_device *cuda = cuda_of(dev);
    float ms = 0;
    if (cuda->replay_end == NULL) {
        if (cuda_status(cudaEventCreate(&cuda->replay_start), "event") == ST_OK)
            (void)cuda_status(cudaEventCreate(&cuda->replay_end), "event");
        return 0;
    }
    if (cudaEventElapsedTime(&ms, cuda->replay_start, cuda->replay_end) != cudaSuccess) {
        (void)cudaGetLastError(); /* nothing was replayed yet */
        return 0;
    }
    return (double)ms * 1e-3;
}

/* ---- Open and close ------------------------------------------------------------------------- */

static enum status cuda_probe(struct device_caps *out_caps)
{
    int n = 0;
    *out_caps = (struct device_caps){0};
    cudaError_t rc = cudaGetDeviceCount(&n);
    if (rc != cudaSuccess || n == 0) {
        snprintf(out_caps->reason, sizeof(out_caps->reason), "no GPU can be used: %s",
                 rc != cudaSuccess ? cudaGetErrorString(rc) : "none is visible");
        return ST_UNSUPPORTED;
    }
    struct cudaDeviceProp prop;
    if (cudaGetDeviceProperties(&prop, 0) != cudaSuccess)
        return ST_UNSUPPORTED;
    out_caps->n_units = (uint32_t)n;
    out_caps->memory_bytes = prop.totalGlobalMem;
    out_caps->available = prop.major * 10 + prop.minor >= CAPABILITY_MIN;
    snprintf(out_caps->reason, sizeof(out_caps->reason), "%.80s, compute capability %d.%d%s",
             prop.name, prop.major, prop.minor, out_caps->available ? "" : ": 8.0 is needed");
    return out_caps->available ? ST_OK : ST_UNSUPPORTED;
}

static void cuda_close(struct device *dev)
{
    struct cuda_device *cuda = cuda_of(dev);
    cuda_free(dev, cuda->gemm_space);
    cuda_free(dev, cuda->sample_space);
    cuda_free(dev, cuda->plans[0]);
    cuda_free(dev, cuda->plans[1]);
    cuda_free(dev, cuda->decode_space);
    cuda_upload_close(cuda);
    for (uint32_t i = 0; i < cuda->n_graphs; i++)
        if (cuda->graphs[i].exec != NULL)
            cudaGraphExecDestroy(cuda->graphs[i].exec);
    for (uint32_t i = 0; i < 2; i++)
        if (cuda->marks[i] != NULL)
            cudaEventDestroy(cuda->marks[i]);
    if (cuda->replay_start != NULL)
        cudaEventDestroy(cuda->replay_start);
    if (cuda->replay_end != NULL)
        cudaEventDestroy(cuda->replay_end);
    cuda_lt_close(cuda->lt);
    if (cuda->stream != NULL)
        cudaStreamDestroy(cuda->stream);
    device_allocs_deinit(&cuda->allocs);
    free(cuda);
}

static enum status spaces_make(struct cuda_device *cuda, const struct device_opts *opts)
{
    uint32_t n_seqs = opts->n_seqs_max > 0 ? opts->n_seqs_max : DEVICE_SEQS_DEFAULT;
    uint32_t n_vocab = opts->n_vocab_max > 0 ? opts->n_vocab_max : DEVICE_VOCAB_DEFAULT;
    cuda->decode_space_bytes =
        cuda_decode_workspace_bytes(n_seqs, DEVICE_HEADS_MAX, OPS_HEAD_DIM_MAX, cuda->n_sms);
    const struct {
        size_t bytes;
        void **out;
        enum device_mem mem;
    } spaces[] = {
        {cuda_gemm_small_workspace_bytes(n_vocab, cuda->n_sms), &cuda->gemm_space,
         DEVICE_MEM_ACTIVATION},
        {cuda_sample_workspace_bytes(n_seqs, n_vocab), &cuda->sample_space, DEVICE_MEM_ACTIVATION},
        {cuda_decode_plan_bytes(n_seqs), &cuda->plans[0], DEVICE_MEM_ACTIVATION},
        {cuda_decode_plan_bytes(n_seqs), &cuda->plans[1], DEVICE_MEM_ACTIVATION},
        {cuda->decode_space_bytes, &cuda->decode_space, DEVICE_MEM_ACTIVATION},
    };
    enum status st = ST_OK;
    for (size_t i = 0; i < sizeof(spaces) / sizeof(spaces[0]) && st == ST_OK; i++)
        if (spaces[i].bytes > 0)
            st = cuda_alloc(&cuda->base, spaces[i].mem, spaces[i].bytes, spaces[i].out);
    for (uint32_t i = 0; i < 2 && st == ST_OK; i++)
        st =
            cuda_status(cudaEventCreateWithFlags(&cuda->marks[i], cudaEventDisableTiming), "event");
    return st;
}

static enum status cuda_open(const struct device_opts *opts, struct device **out_dev)
{
    char why[256] = "";
    struct cudaDeviceProp prop;
    struct cuda_device *cuda = calloc(1, sizeof(*cuda));
    if (cuda == NULL)
        return ST_NO_MEMORY;
    cuda->base.ops = &device_cuda_ops;
    cuda->ordinal = (int)opts->ordinal;
    cuda->upload.n_threads = opts->n_threads;
    device_allocs_init(&cuda->allocs);
    enum status st = cuda_status(cudaSetDevice(cuda->ordinal), "select the GPU");
    if (st == ST_OK)
        st = cuda_status(cudaGetDeviceProperties(&prop, cuda->ordinal), "properties");
    if (st == ST_OK)
        cuda->n_sms = (uint32_t)prop.multiProcessorCount;
    if (st == ST_OK)
        st = cuda_status(cudaStreamCreateWithFlags(&cuda->stream, cudaStreamNonBlocking), "stream");
    if (st == ST_OK) {
        st = cuda_lt_open(cuda->stream, &cuda->lt, why, sizeof(why));
        if (st != ST_OK)
            log_error("CUDA cannot be used", LOG_STR("error", why));
    }
    if (st == ST_OK)
        st = spaces_make(cuda, opts);
    if (st != ST_OK) {
        cuda_close(&cuda->base);
        return st;
    }
    *out_dev = &cuda->base;
    return ST_OK;
}

static enum status cuda_bind_thread(struct device *dev)
{
    return cuda_status(cudaSetDevice(cuda_of(dev)->ordinal), "select the GPU");
}

/* ---- Ops ------------------------------------------------------------------------------------ */

/* Defines device_<op>: check, then put the kernel on the stream. */
#define CUDA_OP(op, check)                                                                         \
    static enum status device_##op(struct device *dev, const struct op##_args *args)               \
    {                                                                                              \
        enum status st = check(args);                                                              \
        if (st == ST_OK && rows_of_##op(args) > 0)                                                 \
            st = cuda_status(cuda_##op(args, cuda_of(dev)->stream), #op);                          \
        return st;                                                                                 \
    }

#define ROWS_OF(op, expr)                                                                          \
    static uint64_t rows_of_##op(const struct op##_args *args)                                     \
    {                                                                                              \
        return expr;                                                                               \
    }

ROWS_OF(random_fill, args->n)
ROWS_OF(embedding, args->n_rows)
ROWS_OF(step_begin, args->n_rows)
ROWS_OF(rmsnorm, args->n_rows)
ROWS_OF(qkv, args->rows.n_rows)
ROWS_OF(silu_mul, args->n_rows)

CUDA_OP(random_fill, device_check_random_fill)
CUDA_OP(embedding, device_check_embedding)
CUDA_OP(step_begin, device_check_step_begin)
CUDA_OP(rmsnorm, device_check_rmsnorm)
CUDA_OP(qkv, device_check_qkv)
CUDA_OP(silu_mul, device_check_silu_mul)

static enum status device_gemm_pack(struct device *dev, const struct gemm_pack_args *args)
{
    struct cuda_device *cuda = cuda_of(dev);
    struct cudaPointerAttributes where;
    enum status st = device_check_gemm_pack(args);
    if (st != ST_OK || args->n_rows == 0)
        return st;
    st = cuda_status(cudaPointerGetAttributes(&where, args->src), "gemm_pack");
    if (st == ST_OK && where.type == cudaMemoryTypeDevice)
        return cuda_status(cuda_gemm_pack(args, cuda->stream), "gemm_pack");
    return st == ST_OK ? cuda_upload(cuda, args) : st;
}

static void cuda_load_end(struct device *dev)
{
    cuda_upload_close(cuda_of(dev));
}

static enum status device_gemm(struct device *dev, const struct gemm_args *args)
{
    struct cuda_device *cuda = cuda_of(dev);
    enum status st = device_check_gemm(args);
    if (st != ST_OK || args->n_rows == 0)
        return st;
    bool is_f8 = args->w_dtype == OPS_F8;
    if (args->x_dtype != (is_f8 ? OPS_BF16 : args->w_dtype))
        return ST_INVALID;
    bool is_small = args->n_rows <= CUDA_GEMM_SMALL_ROWS_MAX && args->x_dtype == OPS_BF16 &&
                    args->k % (is_f8 ? 16 : 8) == 0 && args->x_stride % 8 == 0;
    if (is_small) {
        struct cuda_gemm_args small = {.x = args->x,
                                       .x_stride = args->x_stride,
                                       .w = args->w,
                                       .w_dtype = args->w_dtype,
                                       .w_scale = args->w_scale,
                                       .w_scaling = args->w_scaling,
                                       .fusion = args->fusion,
                                       .bias = args->bias,
                                       .y = args->y,
                                       .y_stride = args->y_stride,
                                       .y_dtype = args->y_dtype,
                                       .n_rows = args->n_rows,
                                       .n = args->n,
                                       .k = args->k,
                                       .pdl = 1};
        return cuda_status(cuda_gemm_small(&small, cuda->n_sms, cuda->gemm_space, cuda->stream),
                           "gemm");
    }
    if (args->fusion != NULL)
        return ST_UNSUPPORTED;
    st = cuda_lt_gemm(cuda->lt, args);
    if (st == ST_OK && args->bias != NULL)
        st = cuda_status(cuda_add_bias(args->y, args->y_dtype, args->y_stride, args->bias,
                                       args->n_rows, args->n, cuda->stream),
                         "bias");
    return st;
}

static enum status cuda_gemm_prepare(struct device *dev, const struct gemm_args *gemms,
                                     uint32_t n_gemms, const char *cache_dir)
{
    enum status st = ST_OK;
    for (uint32_t i = 0; i < n_gemms && st == ST_OK; i++)
        st = device_check_gemm(&gemms[i]);
    return st == ST_OK
               ? cuda_lt_prepare(cuda_of(dev)->lt, gemms, n_gemms, cache_dir, CUDA_LT_BUDGET_NS)
               : st;
}

static struct cuda_attention_args attention_of(const struct attention_args *a)
{
    return (struct cuda_attention_args){.q = a->q,
                                        .q_stride = a->q_stride,
                                        .fresh = a->fresh,
                                        .out = a->out,
                                        .out_stride = a->out_stride,
                                        .pool = a->pool,
                                        .layer = a->layer,
                                        .n_heads = a->n_heads,
                                        .window = a->window,
                                        .scale = a->scale,
                                        .seqs = {.n_seqs = a->rows.n_seqs,
                                                 .row_first = a->rows.row_first,
                                                 .kv_tokens = a->rows.kv_tokens,
                                                 .block_table = a->rows.block_table,
                                                 .table_stride = a->rows.table_stride},
                                        .n_rows = a->rows.n_rows};
}

/* Every sequence has one row: the step only decodes. */
static bool is_decode(const struct attention_args *args)
{
    return args->rows.rows_max == 1 && args->n_heads <= DEVICE_HEADS_MAX;
}

static enum status device_step_output(struct device *dev, const struct step_output_args *args)
{
    enum status st = device_check_step_output(args);
    return st == ST_OK ? cuda_status(cuda_step_output(args, cuda_of(dev)->stream), "step_output")
                       : st;
}

/* Plans where decoding is split. A plan's lengths are those that the launch itself brings. */
static enum status device_step_input(struct device *dev, const struct step_input_args *args)
{
    struct cuda_device *cuda = cuda_of(dev);
    struct cuda_step_plan plans[2];
    uint32_t n_plans = 0;
    enum status st = device_check_step_input(args);
    if (st != ST_OK)
        return st;
    for (uint32_t i = 0; i < args->n_plans; i++) {
        const struct attention_args *a = &args->plans[i];
        if (a->dtype == OPS_BF16 && is_decode(a) && a->rows.n_seqs > 0)
            plans[n_plans++] =
                (struct cuda_step_plan){attention_of(a), cuda->plans[a->window != 0]};
    }
    return cuda_status(cuda_step_input(args, plans, n_plans, cuda->n_sms, cuda->stream),
                       "step_input");
}

static enum status device_attention(struct device *dev, const struct attention_args *args)
{
    struct cuda_device *cuda = cuda_of(dev);
    enum status st = device_check_attention_shape(args);
    if (st != ST_OK || args->rows.n_rows == 0)
        return st;
    if (args->fresh != NULL && (args->dtype != OPS_BF16 || !is_decode(args)))
        return ST_UNSUPPORTED;
    if (args->dtype != OPS_BF16)
        return cuda_status(cuda_attention_simple(args, cuda->stream), "attention");
    if (args->pool.dtype == OPS_F32)
        return ST_UNSUPPORTED;
    struct cuda_attention_args a = attention_of(args);
    if (is_decode(args))
        return cuda_status(cuda_attention_decode(&a, cuda->n_sms, cuda->plans[args->window != 0],
                                                 cuda->decode_space, cuda->stream),
                           "attention");
    return cuda_status(cuda_attention_prefill(&a, args->rows.rows_max, cuda->stream), "attention");
}

static enum status device_sample(struct device *dev, const struct sample_args *args)
{
    struct cuda_device *cuda = cuda_of(dev);
    if (args->n_rows == 0)
        return ST_OK;
    if (args->logits == NULL || args->rows == NULL || args->out_ids == NULL || args->n_vocab == 0 ||
        args->logits_stride < args->n_vocab)
        return ST_INVALID;
    return cuda_status(cuda_sample(args, cuda->sample_space, cuda->stream), "sample");
}

/* Parts of `qkv` and `sample` that the engine does not ask a GPU for. */
static enum status device_rope(struct device *dev, const struct rope_args *args)
{
    (void)dev, (void)args;
    return ST_UNSUPPORTED;
}

static enum status device_kv_write(struct device *dev, const struct kv_write_args *args)
{
    (void)dev, (void)args;
    return ST_UNSUPPORTED;
}

static enum status device_argmax(struct device *dev, const struct argmax_args *args)
{
    (void)dev, (void)args;
    return ST_UNSUPPORTED;
}

static enum ops_dtype cuda_activation(enum ops_dtype weights)
{
    return weights;
}

static uint32_t cuda_fused_rows_max(enum ops_dtype weights)
{
    return weights == OPS_BF16 ? CUDA_GEMM_SMALL_ROWS_MAX : 0;
}

const struct device_ops device_cuda_ops = {
    .name = "cuda",
    .has_fp8 = true,
    .activation = cuda_activation,
    .probe = cuda_probe,
    .open = cuda_open,
    .close = cuda_close,
    .bind_thread = cuda_bind_thread,
    .alloc = cuda_alloc,
    .free = cuda_free,
    .copy_in = cuda_copy_in,
    .copy_out = cuda_copy_out,
    .sync = cuda_sync,
    .mark = cuda_mark,
    .wait = cuda_wait,
    .fused_rows_max = cuda_fused_rows_max,
    .replay = cuda_replay,
    .replay_seconds = cuda_replay_seconds,
    .gemm_pack = device_gemm_pack,
    .gemm_prepare = cuda_gemm_prepare,
    .load_end = cuda_load_end,
    .random_fill = device_random_fill,
    .gemm = device_gemm,
    .embedding = device_embedding,
    .step_input = device_step_input,
    .step_output = device_step_output,
    .step_begin = device_step_begin,
    .rmsnorm = device_rmsnorm,
    .rope = device_rope,
    .silu_mul = device_silu_mul,
    .kv_write = device_kv_write,
    .qkv = device_qkv,
    .attention = device_attention,
    .sample = device_sample,
    .argmax = device_argmax,
};
