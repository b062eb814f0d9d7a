/* Any bytes as a safetensors file: refused, or a set whose every tensor lies inside the file, is
 * found by its name and can be read. */
#include "model/safetensors.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct safetensors *set = NULL;
    char err[128];
    uint8_t identity[32];
    uint64_t covered = 0;
    volatile uint8_t sum = 0;
    if (safetensors_open_memory(data, size, "fuzz", &set, (struct text_error){err, sizeof(err)}) !=
        ST_OK) {
        if (set != NULL)
            abort();
        return 0;
    }
    for (uint32_t i = 0; i < safetensors_count(set); i++) {
        const struct safetensors_tensor *t = safetensors_at(set, i);
        if (safetensors_find(set, t->name) != t || t->n_dims > SAFETENSORS_DIMS_MAX ||
            t->data < data + 8 || (size_t)(t->data - data) + t->bytes > size)
            abort();
        if (t->bytes > 0)
            sum = (uint8_t)(sum + t->data[0] + t->data[t->bytes - 1]);
        covered += t->bytes;
    }
    if (covered > size - 8 || safetensors_identity(set, identity) != ST_OK)
        abort();
    safetensors_close(set);
    return 0;
}
