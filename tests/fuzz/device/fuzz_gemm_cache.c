/* What the parser of the file of measured matrix products accepts must print to a file that means
 * the same. Each input is read as it is, and as what stands before a right sum. */
#include "base/hash.h"
#include "device/gemm_cache.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct gemm_machine machine = {
    .gpu = "GPU, 9.0", .driver = "13000 580.1", .library = 130100, .settings = 1};

static void must(bool condition)
{
    if (!condition)
        abort();
}

static void parse(const uint8_t *data, size_t size)
{
    char why[128] = "";
    struct gemm_choices first = {0}, second = {0};
    const struct text_error err = {why, sizeof(why)};
    if (gemm_cache_parse((const char *)data, size, &machine, &first, err) != ST_OK) {
        must(first.items == NULL && why[0] != '\0');
        return;
    }
    struct buf text;
    buf_init(&text, GEMM_CACHE_BYTES);
    must(gemm_cache_print(&first, &machine, &text) == ST_OK);
    must(gemm_cache_parse((const char *)text.data, text.len, &machine, &second, err) == ST_OK);
    must(first.n == second.n);
    for (uint32_t i = 0; i < first.n; i++)
        must(memcmp(&first.items[i], &second.items[i], sizeof(first.items[i])) == 0);
    buf_deinit(&text);
    gemm_choices_deinit(&first);
    gemm_choices_deinit(&second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct buf summed;
    parse(data, size);
    buf_init(&summed, size + 64);
    must(buf_append(&summed, data, size) == ST_OK);
    must(buf_printf(&summed, "sum %016llx\n", (unsigned long long)hash_bytes(data, size)) == ST_OK);
    parse(summed.data, summed.len);
    buf_deinit(&summed);
    return 0;
}
