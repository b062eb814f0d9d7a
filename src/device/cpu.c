/* The CPU device: memory, working space, and the dealing of ops to the thread pool. What an op
 * computes is in kernels/cpu. All working space is taken at open; ops allocate nothing. */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "device/allocs.h"
#include "device/check.h"
#include "device/device_int.h"
#include "device/thread_pool.h"

#define HUGE_PAGE_BYTES ((size_t)2 << 20)
#define WORKSPACE_BYTES ((size_t)16 << 20) /* packed x of gemm; longer x goes in several parts */
/* Work below this many elements runs on the caller alone: waking the others costs more. */
#define WORK_MIN 16384u

struct cpu_device {
    struct device base;
    struct thread_pool *pool;
    enum cpu_isa isa;
    uint32_t n_threads, n_vocab_max;
    char *workspace; /* [WORKSPACE_BYTES] */
    char *scratch;   /* [n_threads][scratch_bytes] */
    size_t scratch_bytes;
    struct device_allocs allocs;
};

static struct cpu_device *cpu_of(struct device *dev)
{
    return (struct cpu_device *)dev; /* base is the first member */
}

static size_t round_up(size_t bytes, size_t unit)
{
    return (bytes + unit - 1) / unit * unit;
}

/* ---- Memory --------------------------------------------------------------------------------- */

static enum status map_pages(size_t bytes, struct device_alloc *out)
{
    size_t slack = bytes >= HUGE_PAGE_BYTES ? HUGE_PAGE_BYTES : 0;
    size_t total = round_up(bytes, (size_t)sysconf(_SC_PAGESIZE)) + slack;
    void *base = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED)
        return ST_NO_MEMORY;
    if (slack > 0)
        madvise(base, total, MADV_HUGEPAGE); /* only speed is lost without it */
    out->base = base;
    out->bytes = total;
    out->ptr = slack > 0 ? (void *)round_up((uintptr_t)base, HUGE_PAGE_BYTES) : base;
    return ST_OK;
}

static enum status take_aligned(size_t bytes, struct device_alloc *out)
{
    size_t total = round_up(bytes, 64);
    out->base = aligned_alloc(64, total);
    if (out->base == NULL)
        return ST_NO_MEMORY;
    memset(out->base, 0, total);
    out->ptr = out->base;
    out->bytes = 0;
    return ST_OK;
}

static void give_back(const struct device_alloc *alloc)
{
    if (alloc->bytes > 0) /* mapped */
        munmap(alloc->base, alloc->bytes);
    else
        free(alloc->base);
}

static enum status cpu_alloc(struct device *dev, enum device_mem mem, size_t bytes, void **out_ptr)
{
    struct device_alloc alloc = {0};
    if (bytes == 0)
        return ST_INVALID;
    if (bytes > SIZE_MAX / 2)
        return ST_NO_MEMORY;
    bool is_mapped = mem == DEVICE_MEM_POOL || bytes >= HUGE_PAGE_BYTES;
    enum status st = is_mapped ? map_pages(bytes, &alloc) : take_aligned(bytes, &alloc);
    if (st != ST_OK)
        return st;
    st = device_allocs_add(&cpu_of(dev)->allocs, &alloc);
    if (st != ST_OK) {
        give_back(&alloc);
        return st;
    }
    *out_ptr = alloc.ptr;
    return ST_OK;
}

static void cpu_free(struct device *dev, void *ptr)
{
    struct device_alloc alloc;
    if (ptr != NULL && device_allocs_take(&cpu_of(dev)->allocs, ptr, &alloc))
        give_back(&alloc);
}

static enum status cpu_copy(struct device *dev, void *dst, const void *src, size_t bytes)
{
    (void)dev;
    if (bytes > 0)
        memcpy(dst, src, bytes);
    return ST_OK;
}

static enum status cpu_sync(struct device *dev)
{
    (void)dev;
    return ST_OK;
}

/* ---- Open and close ------------------------------------------------------------------------- */

static uint32_t cpus_allowed(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) != 0)
        return 1;
    return (uint32_t)CPU_COUNT(&set);
}

static enum status cpu_probe(struct device_caps *out_caps)
{
    *out_caps = (struct device_caps){
        .available = true,
        .n_units = cpus_allowed(),
        .memory_bytes = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE),
        .isa = cpu_isa_best(),
    };
    snprintf(out_caps->reason, sizeof(out_caps->reason), "%s, %u cpus", cpu_isa_name(out_caps->isa),
             out_caps->n_units);
    return ST_OK;
}

static uint32_t thread_count(const struct device_opts *opts)
{
    uint32_t n = opts->n_threads;
    if (n == 0)
        n = opts->n_cpus > 0 ? opts->n_cpus : cpus_allowed();
    return n < DEVICE_THREADS_MAX ? n : DEVICE_THREADS_MAX;
}

static enum status take_working_space(struct cpu_device *cpu)
{
    size_t bytes = cpu_attention_scratch_bytes();
    size_t sample = cpu_sample_scratch_bytes(cpu->n_vocab_max);
    cpu->scratch_bytes = round_up(bytes > sample ? bytes : sample, 4096);
    void *ptr;
    enum status st = cpu_alloc(&cpu->base, DEVICE_MEM_WEIGHTS, WORKSPACE_BYTES, &ptr);
    if (st != ST_OK)
        return st;
    cpu->workspace = (char *)ptr;
    /* Mapped, and most of it never touched. */
    st = cpu_alloc(&cpu->base, DEVICE_MEM_POOL, cpu->scratch_bytes * cpu->n_threads, &ptr);
    if (st != ST_OK)
        return st;
    cpu->scratch = (char *)ptr;
    return ST_OK;
}

static void cpu_close(struct device *dev)
{
    struct cpu_device *cpu = cpu_of(dev);
    thread_pool_destroy(cpu->pool);
    cpu_free(dev, cpu->scratch);
    cpu_free(dev, cpu->workspace);
    device_allocs_deinit(&cpu->allocs);
    free(cpu);
}

static enum status cpu_open(const struct device_opts *opts, struct device **out_dev)
{
    enum cpu_isa best = cpu_isa_best();
    if ((opts->n_cpus > 0 && opts->cpus == NULL) || opts->n_threads > DEVICE_THREADS_MAX ||
        (int)opts->isa < CPU_ISA_AUTO || opts->isa > best)
        return ST_INVALID;
    struct cpu_device *cpu = calloc(1, sizeof(*cpu));
    if (cpu == NULL)
        return ST_NO_MEMORY;
    cpu->base.ops = &device_cpu_ops;
    cpu->isa = opts->isa == CPU_ISA_AUTO ? best : opts->isa;
    cpu->n_threads = thread_count(opts);
    cpu->n_vocab_max = opts->n_vocab_max > 0 ? opts->n_vocab_max : DEVICE_VOCAB_DEFAULT;
    device_allocs_init(&cpu->allocs);
    enum status st = take_working_space(cpu);
    if (st == ST_OK)
        st = thread_pool_create(cpu->n_threads, opts->cpus, opts->n_cpus, &cpu->pool);
    if (st != ST_OK) {
        cpu_close(&cpu->base);
        return st;
    }
    *out_dev = &cpu->base;
    return ST_OK;
}

static enum status cpu_bind_thread(struct device *dev)
{
    return thread_pool_pin_caller(cpu_of(dev)->pool);
}

/* ---- Ops ------------------------------------------------------------------------------------ */

struct cpu_task {
    struct cpu_device *cpu;
    void (*kernel)(const void *args, const struct cpu_share *share);
    const void *args;
};

static void run_share(void *arg, uint32_t index, uint32_t count)
{
    const struct cpu_task *task = (const struct cpu_task *)arg;
    struct cpu_share share = {
        .isa = task->cpu->isa,
        .index = index,
        .count = count,
        .scratch = task->cpu->scratch + index * task->cpu->scratch_bytes,
    };
    task->kernel(task->args, &share);
}

/* work: elements touched, or another measure of like cost. */
static void dispatch(struct cpu_device *cpu,
                     void (*kernel)(const void *args, const struct cpu_share *share),
                     const void *args, uint64_t work)
{
    struct cpu_task task = {.cpu = cpu, .kernel = kernel, .args = args};
    if (work < WORK_MIN)
        run_share(&task, 0, 1);
    else
        thread_pool_run(cpu->pool, run_share, &task);
}

/* Defines device_<op>: check, then deal cpu_<op> out. `work` may use args. */
#define CPU_OP(op, work)                                                                           \
    static void task_##op(const void *args, const struct cpu_share *share)                         \
    {                                                                                              \
        cpu_##op((const struct op##_args *)args, share);                                           \
    }                                                                                              \
    static enum status device_##op(struct device *dev, const struct op##_args *args)               \
    {                                                                                              \
        enum status st = device_check_##op(args);                                                  \
        if (st == ST_OK)                                                                           \
            dispatch(cpu_of(dev), task_##op, args, (work));                                        \
        return st;                                                                                 \
    }

CPU_OP(random_fill, args->n)
CPU_OP(embedding, (uint64_t)args->n_rows * args->n_cols)
CPU_OP(rmsnorm, (uint64_t)args->n_rows * args->n_heads * args->n_cols)
CPU_OP(rope, (uint64_t)args->n_rows * args->n_heads * args->head_dim)
CPU_OP(silu_mul, (uint64_t)args->n_rows * args->n_cols * 4)
CPU_OP(kv_write, (uint64_t)args->rows.n_rows * args->pool.n_kv_heads * args->pool.head_dim)
CPU_OP(argmax, args->n_rows > 1 ? (uint64_t)args->n_rows * args->n_vocab : 0)

static void task_gemm_pack(const void *args, const struct cpu_share *share)
{
    cpu_gemm_pack((const struct gemm_pack_args *)args, share);
}

/* fp8 weights become bf16 or f32 here: no CPU multiplies them. */
static enum status device_gemm_pack(struct device *dev, const struct gemm_pack_args *args)
{
    enum status st = device_check_gemm_pack(args);
    if (st == ST_OK && args->dst_dtype == OPS_F8)
        return ST_UNSUPPORTED;
    if (st == ST_OK)
        dispatch(cpu_of(dev), task_gemm_pack, args, (uint64_t)args->n_rows * args->k);
    return st;
}

static void task_attention(const void *args, const struct cpu_share *share)
{
    cpu_attention((const struct attention_args *)args, share);
}

static enum status device_attention(struct device *dev, const struct attention_args *args)
{
    enum status st = device_check_attention(args);
    if (st != ST_OK)
        return st;
    uint64_t work = 0;
    for (uint32_t r = 0; r < args->rows.n_rows && work < WORK_MIN; r++)
        work += (uint64_t)args->n_heads * args->pool.head_dim * (args->rows.pos[r] + 1);
    dispatch(cpu_of(dev), task_attention, args, work);
    return ST_OK;
}

static void task_sample(const void *args, const struct cpu_share *share)
{
    cpu_sample((const struct sample_args *)args, share);
}

static enum status device_sample(struct device *dev, const struct sample_args *args)
{
    struct cpu_device *cpu = cpu_of(dev);
    enum status st = device_check_sample(args);
    if (st != ST_OK)
        return st;
    if (args->n_vocab > cpu->n_vocab_max)
        return ST_INVALID;
    dispatch(cpu, task_sample, args, args->n_rows > 1 ? (uint64_t)args->n_rows * args->n_vocab : 0);
    return ST_OK;
}

struct gemm_part {
    const struct gemm_args *args;
    void *x_packed;
};

static void task_gemm_pack_x(const void *arg, const struct cpu_share *share)
{
    const struct gemm_part *part = (const struct gemm_part *)arg;
    cpu_gemm_pack_x(part->args, part->x_packed, share);
}

static void task_gemm(const void *arg, const struct cpu_share *share)
{
    const struct gemm_part *part = (const struct gemm_part *)arg;
    cpu_gemm(part->args, part->x_packed, share);
}

/* Goes over x in parts whose packed form fits the workspace; a row's result is the same in any. */
static enum status device_gemm(struct device *dev, const struct gemm_args *args)
{
    struct cpu_device *cpu = cpu_of(dev);
    enum status st = device_check_gemm(args);
    if (st != ST_OK || args->n_rows == 0)
        return st;
    if (args->w_dtype == OPS_F8)
        return ST_UNSUPPORTED;
    uint64_t block_bytes = cpu_gemm_x_bytes(args->w_dtype, CPU_GEMM_ROWS_MAX, args->k);
    uint64_t n_blocks = WORKSPACE_BYTES / block_bytes;
    if (n_blocks == 0)
        return ST_INVALID;
    uint64_t rows_max = n_blocks * CPU_GEMM_ROWS_MAX;
    struct gemm_args part_args = *args;
    struct gemm_part part = {.args = &part_args, .x_packed = cpu->workspace};
    for (uint64_t row = 0; row < args->n_rows; row += rows_max) {
        uint64_t left = args->n_rows - row;
        part_args.x = (const float *)args->x + row * args->x_stride;
        part_args.y = (float *)args->y + row * args->y_stride;
        part_args.n_rows = (uint32_t)(left < rows_max ? left : rows_max);
        dispatch(cpu, task_gemm_pack_x, &part, (uint64_t)part_args.n_rows * args->k / 2);
        dispatch(cpu, task_gemm, &part, (uint64_t)part_args.n_rows * args->n * args->k);
    }
    return ST_OK;
}

/* The three ops that it stands for, one after the other. */
static enum status device_qkv(struct device *dev, const struct qkv_args *args)
{
    const uint32_t dim = args->pool.head_dim, n_kv = args->pool.n_kv_heads;
    float *x = args->x, *k = x + (uint64_t)args->n_heads * dim;
    enum status st = device_check_qkv(args);
    if (st != ST_OK || args->rows.n_rows == 0)
        return st;
    struct rmsnorm_args norm = {.x = x,
                                .x_stride = args->x_stride,
                                .w = args->q_norm,
                                .y = x,
                                .y_stride = args->x_stride,
                                .n_rows = args->rows.n_rows,
                                .n_heads = args->n_heads,
                                .n_cols = dim,
                                .eps = args->eps};
    if (args->q_norm != NULL)
        st = device_rmsnorm(dev, &norm);
    norm.x = norm.y = k;
    norm.w = args->k_norm;
    norm.n_heads = n_kv;
    if (st == ST_OK && args->k_norm != NULL)
        st = device_rmsnorm(dev, &norm);
    struct rope_args rope = {.x = x,
                             .x_stride = args->x_stride,
                             .pos = args->rows.pos,
                             .inv_freq = args->inv_freq,
                             .n_rows = args->rows.n_rows,
                             .n_heads = args->n_heads + n_kv,
                             .head_dim = dim,
                             .n_rot = args->n_rot,
                             .attn_scale = args->attn_scale};
    if (st == ST_OK)
        st = device_rope(dev, &rope);
    struct kv_write_args write = {.k = k,
                                  .v = k + (uint64_t)n_kv * dim,
                                  .k_stride = args->x_stride,
                                  .v_stride = args->x_stride,
                                  .pool = args->pool,
                                  .layer = args->layer,
                                  .rows = args->rows};
    return st == ST_OK ? device_kv_write(dev, &write) : st;
}

static enum status cpu_replay(struct device *dev, uint32_t key, enum status (*body)(void *arg),
                              void *arg)
{
    (void)dev, (void)key;
    return body(arg);
}

/* The CPU gains nothing from fused ops: its ops lie in its caches. */
static uint32_t cpu_fused_rows_max(enum ops_dtype weights)
{
    (void)weights;
    return 0;
}

static double cpu_replay_seconds(struct device *dev)
{
    (void)dev;
    return 0;
}

static enum ops_dtype cpu_activation(enum ops_dtype weights)
{
    (void)weights;
    return OPS_F32;
}

const struct device_ops device_cpu_ops = {
    .name = "cpu",
    .is_host = true,
    .activation = cpu_activation,
    .probe = cpu_probe,
    .open = cpu_open,
    .close = cpu_close,
    .bind_thread = cpu_bind_thread,
    .alloc = cpu_alloc,
    .free = cpu_free,
    .copy_in = cpu_copy,
    .copy_out = cpu_copy,
    .sync = cpu_sync,
    .fused_rows_max = cpu_fused_rows_max,
    .replay = cpu_replay,
    .replay_seconds = cpu_replay_seconds,
    .gemm_pack = device_gemm_pack,
    .random_fill = device_random_fill,
    .gemm = device_gemm,
    .embedding = device_embedding,
    .rmsnorm = device_rmsnorm,
    .rope = device_rope,
    .silu_mul = device_silu_mul,
    .kv_write = device_kv_write,
    .qkv = device_qkv,
    .attention = device_attention,
    .sample = device_sample,
    .argmax = device_argmax,
};
