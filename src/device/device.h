/* A device: memory and ops of one compute backend. The engine holds a `struct device` and calls
 * `dev->ops->gemm(dev, &args)`; the argument structs and their contracts are in kernels/ops.h.
 *
 * Threads: one thread at a time calls ops of a device (the engine thread); alloc, free and the
 * info functions may come from any thread. Ops are done when the call returns on the CPU; on a
 * device with a queue they are done after `sync`. Ops allocate nothing, but gemm_pack may until
 * `load_end`. */
#ifndef DEVICE_DEVICE_H
#define DEVICE_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dynd/status.h"
#include "kernels/ops.h"

enum device_kind { DEVICE_CPU = 0, DEVICE_CUDA = 1 };

/* What a probe found, also when it refuses. */
struct device_caps {
    bool available;
    char reason[128]; /* why not, or a description: "avx512, 2 cpus" */
    uint32_t n_units; /* usable CPUs, or GPUs */
    uint64_t memory_bytes;
    enum cpu_isa isa; /* CPU only */
};

struct device_opts {
    uint32_t n_threads; /* CPU: threads of an op, the caller included; 0: as many as `cpus`, or the
                           process's CPU set. At most DEVICE_THREADS_MAX. CUDA: threads that copy
                           weights of the host, the caller included; at most 16, and with 0 at
                           most 8 */
    const uint32_t *cpus; /* CPU: [n_cpus] thread i is pinned to cpus[i % n_cpus]; NULL: not pinned.
                             Read during device_open only */
    uint32_t n_cpus;
    enum cpu_isa isa;     /* CPU: CPU_ISA_AUTO, or a lower one for tests */
    uint32_t n_vocab_max; /* sizes the sampler's scratch; 0: DEVICE_VOCAB_DEFAULT */
    uint32_t n_seqs_max;  /* sequences of a step; 0: DEVICE_SEQS_DEFAULT */
    uint32_t ordinal;     /* CUDA: which GPU */
};

#define DEVICE_THREADS_MAX   256u
#define DEVICE_VOCAB_DEFAULT 262144u
#define DEVICE_SEQS_DEFAULT  256u
#define DEVICE_HEADS_MAX     128u /* query heads, CUDA */

/* What memory is for, so that the device can place it well. */
enum device_mem {
    DEVICE_MEM_ACTIVATION, /* touched each step */
    DEVICE_MEM_WEIGHTS,    /* read in streams: huge pages where the system gives them */
    DEVICE_MEM_HOST, /* memory of the host that copies from and to the device run at full speed
                        with */
    DEVICE_MEM_POOL, /* KV blocks: own mapping, page aligned, zeroed, may be registered for
                        transfers and may be larger than what is touched */
};

struct device {
    const struct device_ops *ops;
};

struct device_ops {
    const char *name; /* "cpu", "cuda" */
    bool is_host;     /* its memory is the host's, and an op is done when its call returns */
    bool has_fp8;     /* gemm and gemm_pack take weights of OPS_F8 */
    /* dtype of x and y of the ops between embedding and logits, with weights of that dtype */
    enum ops_dtype (*activation)(enum ops_dtype weights);

    /* ST_UNSUPPORTED: not usable here; out_caps->reason says why. */
    enum status (*probe)(struct device_caps *out_caps);
    /* ST_INVALID: bad options (also an ISA this machine lacks); ST_NO_MEMORY. */
    enum status (*open)(const struct device_opts *opts, struct device **out_dev);
    void (*close)(struct device *dev);
    /* The calling thread will run ops from now on: CPU pins it to cpus[0]; CUDA selects the GPU. */
    enum status (*bind_thread)(struct device *dev);

    /* 64-byte aligned (POOL and large WEIGHTS: page or huge page), zeroed. ST_NO_MEMORY;
     * ST_INVALID for 0 bytes. */
    enum status (*alloc)(struct device *dev, enum device_mem mem, size_t bytes, void **out_ptr);
    void (*free)(struct device *dev, void *ptr); /* NULL is fine */
    enum status (*copy_in)(struct device *dev, void *dst, const void *host_src, size_t bytes);
    enum status (*copy_out)(struct device *dev, void *host_dst, const void *src, size_t bytes);
    enum status (*sync)(struct device *dev);
    /* Two marks, 0 and 1: `mark` puts one behind all that was asked for, `wait` waits for it. NULL
     * where is_host. */
    enum status (*mark)(struct device *dev, uint32_t which);
    enum status (*wait)(struct device *dev, uint32_t which);

    /* Rows up to which gemm takes a `fusion` with weights of that dtype; where it is not 0,
     * attention takes `fresh` for any number of rows, and step_begin makes what both need. */
    uint32_t (*fused_rows_max)(enum ops_dtype weights);

    /* Runs body, which calls ops and copies but not sync. With the same key it must put the same
     * work with the same arguments on the device every time, so that a device with a queue may
     * record it and later replay the record without calling body. */
    enum status (*replay)(struct device *dev, uint32_t key, enum status (*body)(void *arg),
                          void *arg);

    /* Seconds that the device itself took for the last replay, after sync; 0 when it cannot tell,
     * as at the first call: replays are timed from then on, which costs each a little. */
    double (*replay_seconds)(struct device *dev);

    /* Before the first step: finds the fastest way to each of the gemms of a model, which it may
     * time, and sets aside what they need. gemms [n_gemms] as they will be called, with the most
     * rows that they will; x and y are overwritten. cache_dir: where the results are kept
     * (gemm_cache.h), NULL or empty: nothing is timed. ST_NO_MEMORY. NULL: all is ready. */
    enum status (*gemm_prepare)(struct device *dev, const struct gemm_args *gemms, uint32_t n_gemms,
                                const char *cache_dir);

    /* Behind the gemm_packs of a load: waits for the device and gives back the threads and buffers
     * that the first of them took. NULL: they take none. */
    void (*load_end)(struct device *dev);

    /* Each answers ST_INVALID, having written nothing, when the shapes break the contract of
     * kernels/ops.h (zero rows are fine and do nothing). */
    enum status (*gemm_pack)(struct device *dev, const struct gemm_pack_args *args);
    enum status (*random_fill)(struct device *dev, const struct random_fill_args *args);
    enum status (*gemm)(struct device *dev, const struct gemm_args *args);
    enum status (*embedding)(struct device *dev, const struct embedding_args *args);
    /* NULL where is_host; step_begin also where fused_rows_max is 0. */
    enum status (*step_input)(struct device *dev, const struct step_input_args *args);
    enum status (*step_output)(struct device *dev, const struct step_output_args *args);
    enum status (*step_begin)(struct device *dev, const struct step_begin_args *args);
    enum status (*rmsnorm)(struct device *dev, const struct rmsnorm_args *args);
    enum status (*rope)(struct device *dev, const struct rope_args *args);
    enum status (*silu_mul)(struct device *dev, const struct silu_mul_args *args);
    enum status (*kv_write)(struct device *dev, const struct kv_write_args *args);
    enum status (*qkv)(struct device *dev, const struct qkv_args *args);
    /* Of one row a sequence: a device that has step_input uses the plan of the last one. */
    enum status (*attention)(struct device *dev, const struct attention_args *args);
    enum status (*sample)(struct device *dev, const struct sample_args *args);
    enum status (*argmax)(struct device *dev, const struct argmax_args *args);
};

/* Ops table of a kind, or NULL when this build has none. */
const struct device_ops *device_ops_get(enum device_kind kind);

/* Opens a device; opts may be NULL (all defaults).
 * ST_UNSUPPORTED: the kind is not in this build or not on this machine; else as ops->open. */
enum status device_open(enum device_kind kind, const struct device_opts *opts,
                        struct device **out_dev);
/* NULL is fine. Memory of the device must have been freed before. */
void device_close(struct device *dev);

#endif
