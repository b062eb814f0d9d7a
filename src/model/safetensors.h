/* safetensors files: a strict reader that trusts nothing in them.
 *
 *   | u64 header bytes, little endian | header: JSON | data ... end of file |
 *   header: {"name": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [begin, end]}, ...,
 *            "__metadata__": {"key": "text"}}            offsets count from the start of the data
 *
 * Accepted only when: header <= 100 MB and inside the file; strict JSON of exactly this form; at
 * most 1M tensors, no name twice; dtype known; shape product * dtype size == end - begin without
 * overflow; the tensors, sorted by offset, cover the data with neither overlap nor hole nor rest.
 * Files are mapped read-only; nothing but the header is read before a tensor is used. Names with
 * JSON escapes are refused. Any thread; a set is immutable once open. Source:
 * https://github.com/huggingface/safetensors (format description). */
#ifndef MODEL_SAFETENSORS_H
#define MODEL_SAFETENSORS_H

#include "base/text_error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SAFETENSORS_DIMS_MAX         8u
#define SAFETENSORS_TENSORS_MAX      1000000u
#define SAFETENSORS_HEADER_BYTES_MAX 100000000u
#define SAFETENSORS_FILES_MAX        1024u

enum safetensors_dtype {
    SAFETENSORS_F64,
    SAFETENSORS_F32,
    SAFETENSORS_F16,
    SAFETENSORS_BF16,
    SAFETENSORS_F8_E4M3,
    SAFETENSORS_F8_E5M2,
    SAFETENSORS_F8_E8M0,
    SAFETENSORS_I64,
    SAFETENSORS_I32,
    SAFETENSORS_I16,
    SAFETENSORS_I8,
    SAFETENSORS_U64,
    SAFETENSORS_U32,
    SAFETENSORS_U16,
    SAFETENSORS_U8,
    SAFETENSORS_BOOL,
    SAFETENSORS_DTYPE_COUNT
};

struct safetensors_tensor {
    const char *name; /* NUL-terminated, owned by the set */
    enum safetensors_dtype dtype;
    uint32_t n_dims; /* 0: a scalar */
    uint32_t file;   /* index of its file in the set */
    uint64_t dims[SAFETENSORS_DIMS_MAX];
    const uint8_t *data; /* [bytes] in the mapping; no alignment promised */
    uint64_t bytes;
};

/* Tensors of one file or of all files of a model, sorted by name. */
struct safetensors;

/* Reads one image in memory, borrowed until close. `name` is for messages.
 * ST_TRUNCATED: shorter than it says; ST_PARSE: header is not the JSON it should be; ST_INVALID: a
 * tensor contradicts itself, the data or another; ST_TOO_LARGE: over a bound; ST_UNSUPPORTED: a
 * dtype or shape not known here; ST_NO_MEMORY. err names file, tensor and reason. */
enum status safetensors_open_memory(const void *data, size_t bytes, const char *name,
                                    struct safetensors **out_set, struct text_error err);
/* dir/model.safetensors, or the files that dir/model.safetensors.index.json lists; then each tensor
 * must be in the file that the index says. Also ST_NOT_FOUND, ST_IO, ST_EXISTS (a tensor is in two
 * files). */
enum status safetensors_open_dir(const char *dir, struct safetensors **out_set,
                                 struct text_error err);
void safetensors_close(struct safetensors *set); /* NULL is fine */

uint32_t safetensors_count(const struct safetensors *set);
/* i-th by name, i < count. */
const struct safetensors_tensor *safetensors_at(const struct safetensors *set, uint32_t i);
/* NULL: no such tensor. */
const struct safetensors_tensor *safetensors_find(const struct safetensors *set, const char *name);
/* Name of file i, without directory. */
const char *safetensors_file_name(const struct safetensors *set, uint32_t file);
/* SHA-256 over names, dtypes, shapes and a sample of 64 bytes out of each tensor: tells two sets of
 * weights apart without reading them. Does not depend on how they are cut into files. */
enum status safetensors_identity(const struct safetensors *set, uint8_t out[32]);

const char *safetensors_dtype_name(enum safetensors_dtype dtype); /* "BF16" */
uint32_t safetensors_dtype_bytes(enum safetensors_dtype dtype);

#endif
