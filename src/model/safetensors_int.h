/* Inside of the safetensors reader: one file's header into a table. */
#ifndef MODEL_SAFETENSORS_INT_H
#define MODEL_SAFETENSORS_INT_H

#include "model/safetensors.h"

/* Tensors of one file in header order; names in one block of memory. */
struct safetensors_table {
    struct safetensors_tensor *tensors; /* [n_tensors] malloc'd */
    uint32_t n_tensors, capacity;
    char *names; /* malloc'd */
};

/* Parses and checks data[0..bytes); out_table's `file` fields are `file`. On an error nothing is
 * kept. */
enum status safetensors_header_read(const uint8_t *data, size_t bytes, const char *name,
                                    uint32_t file, struct safetensors_table *out_table,
                                    struct text_error err);
void safetensors_table_deinit(struct safetensors_table *table);

#endif
