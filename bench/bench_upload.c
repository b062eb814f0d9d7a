/* A file of random bf16 matrices, shaped like the layers of a model of 8 billion parameters, is
 * mapped and packed by gemm_pack tensor after tensor, as the loader of a model does it, and what
 * arrived is read back and compared. The file has just been written: it is in memory as far as
 * there is room, so that this is the speed of the way to the device and not of a disk. Each run
 * maps the file anew, and takes and gives back what the device needs for a load. */
#include "bench_upload.h"

#include "base/status.h"
#include "common.h"
#include "device/device.h"
#include "report.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define BYTES_MIN    8192u /* a row */
#define RUNS_MAX     16u
#define TENSORS_MAX  4096u
#define PROBE_BYTES  ((size_t)256 << 20)
#define PROBE_COPIES 8u
#define SAMPLES      1024u /* places of a tensor that are compared one by one */

struct options {
    enum device_kind device;
    uint64_t bytes;
    uint32_t threads, runs;
    const char *dir;
};

struct tensor {
    uint32_t n, k;
    uint64_t file_at, dst_at; /* bytes */
};

struct bench {
    struct options o;
    struct device *dev;
    int fd;
    uint64_t file_bytes, dst_bytes;
    struct tensor tensors[TENSORS_MAX];
    uint32_t n_tensors;
    char *weights;          /* of the device */
    char *host;             /* DEVICE_MEM_HOST: probes, then what is read back */
    size_t host_bytes;      /* the greatest packed tensor at least */
    double bus, one_thread; /* GB/s of the probes */
};

static bool options_parse(int argc, char **argv, struct options *o)
{
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];
        if (strcmp(name, "--device") == 0)
            o->device = strcmp(value, "cuda") == 0 ? DEVICE_CUDA : DEVICE_CPU;
        else if (strcmp(name, "--bytes") == 0)
            o->bytes = strtoull(value, NULL, 10);
        else if (strcmp(name, "--threads") == 0)
            o->threads = (uint32_t)strtoul(value, NULL, 10);
        else if (strcmp(name, "--runs") == 0)
            o->runs = (uint32_t)strtoul(value, NULL, 10);
        else if (strcmp(name, "--dir") == 0)
            o->dir = value;
        else
            return false;
    }
    return argc % 2 == 1 && o->bytes >= BYTES_MIN && o->runs > 0 && o->runs <= RUNS_MAX;
}

/* ---- The file ---- */

/* Layers of q, k, v, o, gate, up and down, the last one cut so that all have o.bytes. */
static void tensors_plan(struct bench *b)
{
    static const uint32_t shapes[][2] = {{4096, 4096},  {1024, 4096},  {1024, 4096}, {4096, 4096},
                                         {14336, 4096}, {14336, 4096}, {4096, 14336}};
    const uint32_t n_shapes = sizeof(shapes) / sizeof(shapes[0]);
    while (b->n_tensors < TENSORS_MAX) {
        struct tensor t = {.n = shapes[b->n_tensors % n_shapes][0],
                           .k = shapes[b->n_tensors % n_shapes][1],
                           .file_at = b->file_bytes,
                           .dst_at = b->dst_bytes};
        uint64_t row = (uint64_t)t.k * 2, rows = (b->o.bytes - b->file_bytes) / row;
        t.n = rows < t.n ? (uint32_t)rows : t.n;
        if (t.n == 0)
            return;
        size_t packed = ops_gemm_packed_bytes(OPS_BF16, t.n, t.k);
        b->tensors[b->n_tensors++] = t;
        b->file_bytes += t.n * row;
        b->dst_bytes += packed;
        b->host_bytes = packed > b->host_bytes ? packed : b->host_bytes;
    }
}

static bool write_all(int fd, const char *data, size_t bytes)
{
    while (bytes > 0) {
        ssize_t n = write(fd, data, bytes);
        if (n <= 0)
            return false;
        data += n;
        bytes -= (size_t)n;
    }
    return true;
}

/* Has no name any more when it is full: nothing is left behind whatever happens. */
static enum status file_make(struct bench *b)
{
    const size_t chunk_words = (size_t)1 << 19;
    char path[1024];
    uint64_t seed = 1;
    int n = snprintf(path, sizeof(path), "%s/dynd-bench-XXXXXX", b->o.dir);
    if (n < 0 || (size_t)n >= sizeof(path))
        return ST_TOO_LARGE;
    b->fd = mkstemp(path);
    if (b->fd < 0)
        return ST_IO;
    unlink(path);
    uint64_t *chunk = malloc(chunk_words * sizeof(*chunk));
    bool is_written = chunk != NULL;
    for (uint64_t at = 0; at < b->file_bytes && is_written; at += chunk_words * 8) {
        uint64_t left = b->file_bytes - at;
        for (size_t i = 0; i < chunk_words; i++) { /* xorshift64 */
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            chunk[i] = seed;
        }
        is_written = write_all(b->fd, (const char *)chunk,
                               left < chunk_words * 8 ? (size_t)left : chunk_words * 8);
    }
    free(chunk);
    return is_written ? ST_OK : ST_IO;
}

static enum status file_map(const struct bench *b, const char **out)
{
    void *at = mmap(NULL, b->file_bytes, PROT_READ, MAP_SHARED, b->fd, 0);
    *out = at;
    return at != MAP_FAILED ? ST_OK : ST_IO;
}

/* ---- Measured ---- */

/* What the bus gives to large copies from pinned memory, and one thread to a copy out of the file.
 */
static enum status probes_run(struct bench *b)
{
    const struct device_ops *ops = b->dev->ops;
    size_t bytes = b->host_bytes < b->dst_bytes ? b->host_bytes : b->dst_bytes;
    enum status st = ST_OK;
    double start = 0;
    memset(b->host, 1, b->host_bytes);
    for (uint32_t warm = 0; warm < 2 && st == ST_OK; warm++) {
        start = bench_now_s();
        for (uint32_t i = 0; i < PROBE_COPIES && st == ST_OK; i++)
            st = ops->copy_in(b->dev, b->weights, b->host, bytes);
        if (st == ST_OK)
            st = ops->sync(b->dev);
    }
    b->bus = (double)bytes * PROBE_COPIES / (bench_now_s() - start) * 1e-9;
    const char *file = NULL;
    if (st == ST_OK)
        st = file_map(b, &file);
    if (st != ST_OK)
        return st;
    bytes = b->host_bytes < b->file_bytes ? b->host_bytes : b->file_bytes;
    start = bench_now_s();
    memcpy(b->host, file, bytes);
    b->one_thread = (double)bytes / (bench_now_s() - start) * 1e-9;
    munmap((void *)(uintptr_t)file, b->file_bytes);
    return ST_OK;
}

static enum status load_run(struct bench *b, double *out_seconds)
{
    const struct device_ops *ops = b->dev->ops;
    const char *file = NULL;
    double start = bench_now_s();
    enum status st = file_map(b, &file);
    if (st != ST_OK)
        return st;
    for (uint32_t i = 0; i < b->n_tensors && st == ST_OK; i++) {
        const struct tensor *t = &b->tensors[i];
        struct gemm_pack_args args = {.src = file + t->file_at,
                                      .src_dtype = OPS_BF16,
                                      .src_stride = t->k,
                                      .n_rows = t->n,
                                      .n = t->n,
                                      .k = t->k,
                                      .dst = b->weights + t->dst_at,
                                      .dst_dtype = OPS_BF16};
        st = ops->gemm_pack(b->dev, &args);
    }
    if (st == ST_OK)
        st = ops->sync(b->dev);
    if (ops->load_end != NULL)
        ops->load_end(b->dev);
    *out_seconds = bench_now_s() - start;
    munmap((void *)(uintptr_t)file, b->file_bytes);
    return st;
}

/* ---- Checked ---- */

static uint64_t sum_of(const uint16_t *values, uint64_t n)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; i < n; i++)
        sum += values[i];
    return sum;
}

/* Where element (row, col) lies in a packed matrix of bf16: see kernels/ops.h. */
static uint64_t packed_at(const struct bench *b, const struct tensor *t, uint64_t row, uint64_t col)
{
    const uint64_t panel = OPS_PANEL_COLS, pairs = ((uint64_t)t->k + 1) / 2;
    if (!b->dev->ops->is_host)
        return row * t->k + col;
    return (row / panel * pairs + col / 2) * panel * 2 + row % panel * 2 + col % 2;
}

/* Padding is zero, on devices that pad, and adds nothing to the sum. */
static bool is_tensor_right(const struct bench *b, const struct tensor *t, const char *file)
{
    const uint16_t *want = (const uint16_t *)(const void *)(file + t->file_at);
    const uint16_t *got = (const uint16_t *)(const void *)b->host;
    const uint64_t n = (uint64_t)t->n * t->k;
    const bool is_dense = !b->dev->ops->is_host;
    uint64_t n_got = is_dense ? n : ops_gemm_packed_bytes(OPS_BF16, t->n, t->k) / 2;
    for (uint64_t i = 0; i < SAMPLES; i++) {
        uint64_t at = (n - 1) * i / (SAMPLES - 1);
        if (got[packed_at(b, t, at / t->k, at % t->k)] != want[at])
            return false;
    }
    return sum_of(got, n_got) == sum_of(want, n);
}

static enum status all_check(struct bench *b, uint32_t *out_n_wrong)
{
    const char *file = NULL;
    enum status st = file_map(b, &file);
    if (st != ST_OK)
        return st;
    for (uint32_t i = 0; i < b->n_tensors && st == ST_OK; i++) {
        const struct tensor *t = &b->tensors[i];
        size_t bytes = ops_gemm_packed_bytes(OPS_BF16, t->n, t->k);
        st = b->dev->ops->copy_out(b->dev, b->host, b->weights + t->dst_at, bytes);
        if (st == ST_OK)
            st = b->dev->ops->sync(b->dev);
        if (st == ST_OK && !is_tensor_right(b, t, file))
            (*out_n_wrong)++;
    }
    munmap((void *)(uintptr_t)file, b->file_bytes);
    return st;
}

static void result_print(const struct bench *b, double *seconds)
{
    char what[64];
    double rate[RUNS_MAX];
    for (uint32_t i = 0; i < b->o.runs; i++) {
        rate[i] = (double)b->file_bytes / seconds[i] * 1e-9;
        printf("%s%.2f", i > 0 ? " " : "runs, GB/s: ", rate[i]);
    }
    double median = bench_median(rate, b->o.runs);
    snprintf(what, sizeof(what), "upload %s", b->dev->ops->name);
    printf("\n%-24s %9.2f GB/s, %.1f %% of copies from pinned memory\n", what, median,
           100 * median / b->bus);
    report_row(NULL, what, median, "GB/s", b->bus);
}

static enum status upload_run(struct bench *b, uint32_t *out_n_wrong)
{
    struct device_opts opts = {.n_threads = b->o.threads};
    double seconds[RUNS_MAX];
    tensors_plan(b);
    b->host_bytes = b->host_bytes < PROBE_BYTES ? PROBE_BYTES : b->host_bytes;
    enum status st = file_make(b);
    if (st == ST_OK)
        st = device_open(b->o.device, &opts, &b->dev);
    if (st == ST_OK)
        st = b->dev->ops->bind_thread(b->dev);
    if (st == ST_OK)
        st = b->dev->ops->alloc(b->dev, DEVICE_MEM_WEIGHTS, b->dst_bytes, (void **)&b->weights);
    if (st == ST_OK)
        st = b->dev->ops->alloc(b->dev, DEVICE_MEM_HOST, b->host_bytes, (void **)&b->host);
    if (st == ST_OK)
        st = probes_run(b);
    printf("%-24s %9.2f GB in %u tensors\n", "file", (double)b->file_bytes * 1e-9, b->n_tensors);
    for (uint32_t i = 0; i < b->o.runs && st == ST_OK; i++)
        st = load_run(b, &seconds[i]);
    if (st == ST_OK)
        st = all_check(b, out_n_wrong);
    if (st != ST_OK)
        return st;
    printf("%-24s %9.2f GB/s\n%-24s %9.2f GB/s\n", "copies, pinned memory", b->bus,
           "copy, one thread", b->one_thread);
    result_print(b, seconds);
    return ST_OK;
}

int bench_upload(int argc, char **argv)
{
    const char *dir = getenv("TMPDIR");
    static struct bench b;
    uint32_t n_wrong = 0;
    b = (struct bench){.o = {.bytes = (uint64_t)1 << 30,
                             .runs = 3,
                             .dir = dir != NULL && dir[0] != '\0' ? dir : "/tmp"},
                       .fd = -1};
    if (!options_parse(argc, argv, &b.o)) {
        fprintf(stderr, "usage: dynd-bench upload [--device cpu|cuda] [--bytes N] [--threads N]\n"
                        "  [--dir PATH] [--runs N]\n");
        return 2;
    }
    enum status st = upload_run(&b, &n_wrong);
    if (st != ST_OK)
        fprintf(stderr, "dynd-bench upload: %s\n", status_text(st));
    if (n_wrong > 0)
        fprintf(stderr, "dynd-bench upload: %u of %u tensors arrived wrong\n", n_wrong,
                b.n_tensors);
    if (b.dev != NULL) {
        b.dev->ops->free(b.dev, b.weights);
        b.dev->ops->free(b.dev, b.host);
        device_close(b.dev);
    }
    if (b.fd >= 0)
        close(b.fd);
    return st == ST_OK && n_wrong == 0 ? 0 : 1;
}
