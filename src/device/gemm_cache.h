/* Which algorithm of a GPU's matrix library was the fastest for a shape, and the file that keeps it
 * from one start to the next. Nothing here needs a GPU.
 *
 * The file is text, one choice a line:
 *
 *   dynd-gemm 2
 *   gpu NVIDIA H200, 9.0, 132 multiprocessors
 *   driver 13000 580.159.03
 *   library 130100
 *   settings 1
 *   choice 64 6144 4096 bf16 bf16 none 0 17510 <128 hex digits>
 *   sum <16 hex digits>
 *
 * A choice has rows n k, the dtypes of w and y, the scaling of w, the way (cuda_gemm_int.h), the
 * time in ns and the algorithm as the library has it in memory. The sum is hash_bytes of all that
 * stands before its line. A file that is damaged, or of another GPU, driver, library or settings,
 * is worth nothing: all of it is measured again. An algorithm is handed to the library as it stands
 * in the file, so that only a file that nobody else can write is read. One thread. */
#ifndef DEVICE_GEMM_CACHE_H
#define DEVICE_GEMM_CACHE_H

#include "base/buf.h"
#include "base/text_error.h"
#include "kernels/ops.h"

#include <stdint.h>

#define GEMM_ALGO_WORDS     8u
#define GEMM_WAYS_MAX       4u
#define GEMM_CHOICES_MAX    8192u
#define GEMM_CACHE_BYTES    (4u << 20) /* of a file, at most */
#define GEMM_CACHE_DIR_AUTO "auto"

/* Rows are taken together in buckets, eight an octave from 16 on: the rows of a bucket need the
 * same number of tiles. Those above 2^20 share the last one. */
#define GEMM_BUCKETS 136u
uint32_t gemm_bucket(uint32_t rows); /* index; rows at least 1 */
uint32_t gemm_bucket_top(uint32_t bucket);

/* Where choices hold. Each text is one line of printable characters. */
struct gemm_machine {
    char gpu[96], driver[48];
    uint32_t library;
    uint32_t settings; /* version of how products are described to the library */
};

struct gemm_choice {
    uint32_t rows; /* gemm_bucket_top of its bucket */
    uint32_t n, k;
    uint32_t w_dtype, y_dtype, scaling; /* enum ops_dtype, enum ops_scaling */
    uint32_t way;                       /* below GEMM_WAYS_MAX */
    uint32_t time_ns;
    uint64_t algo[GEMM_ALGO_WORDS];
};

struct gemm_choices {
    struct gemm_choice *items; /* the oldest first */
    uint32_t n, cap;
};

void gemm_choices_deinit(struct gemm_choices *choices); /* all zero is an empty one */
/* Adds the choice, or puts it in the place of the one with its rows, n, k, dtypes and scaling. With
 * GEMM_CHOICES_MAX of them the oldest makes room. ST_NO_MEMORY. */
enum status gemm_choices_set(struct gemm_choices *choices, const struct gemm_choice *choice);
const struct gemm_choice *gemm_choices_find(const struct gemm_choices *choices,
                                            const struct gemm_choice *like);
void gemm_choices_remove(struct gemm_choices *choices, const struct gemm_choice *like);

/* *out, empty before, is filled on success only. ST_PARSE: not such a file, or damaged;
 * ST_TRUNCATED: its end is missing; ST_TOO_LARGE: over GEMM_CHOICES_MAX; ST_UNSUPPORTED: of
 * another machine; ST_NO_MEMORY. */
enum status gemm_cache_parse(const char *text, size_t bytes, const struct gemm_machine *machine,
                             struct gemm_choices *out, struct text_error err);
enum status gemm_cache_print(const struct gemm_choices *choices, const struct gemm_machine *machine,
                             struct buf *out);

/* The file of this user for a machine under `dir`; GEMM_CACHE_DIR_AUTO is $XDG_CACHE_HOME/dynd, or
 * ~/.cache/dynd. A directory may be shared: each machine and user has a name of its own in it.
 * ST_NOT_FOUND: auto, and neither is set; ST_TOO_LARGE. */
enum status gemm_cache_path(const char *dir, const struct gemm_machine *machine, char *out,
                            struct text_error err); /* out [FILE_PATH_BYTES] */
/* As gemm_cache_parse. ST_NOT_FOUND: no such file; ST_TOO_LARGE; ST_IO: cannot be read, or is not a
 * regular file (a link is not followed) of this user or root that only its owner may write. */
enum status gemm_cache_load(const char *path, const struct gemm_machine *machine,
                            struct gemm_choices *out, struct text_error err);
/* Writes a new file and puts it in the place of the old one at once, so that a reader sees one of
 * the two whole, whoever else writes. Makes the directory. ST_IO, ST_NO_MEMORY, ST_TOO_LARGE. What
 * a writer that died has left makes room for the next one with its thread id. */
enum status gemm_cache_store(const char *path, const struct gemm_machine *machine,
                             const struct gemm_choices *choices, struct text_error err);

#endif
