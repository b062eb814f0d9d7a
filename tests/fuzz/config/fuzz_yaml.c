/* Any text is either refused with a message or gives a configuration whose printed form loads again
 * to the same print. */
#include "config/config.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool condition)
{
    if (!condition)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct config config;
    struct config_error error;
    if (config_load_text((const char *)data, size, "fuzz", NULL, 0, &config, &error) != ST_OK) {
        must(error.message[0] != '\0' && strlen(error.message) < sizeof(error.message));
        must(config.arena.head == NULL);
        return 0;
    }
    struct buf first, second;
    buf_init(&first, 4 << 20);
    buf_init(&second, 4 << 20);
    must(config_print_yaml(&config, &first) == ST_OK);
    config_validate(&config, &error);
    config_deinit(&config);
    must(first.len > CONFIG_FILE_BYTES_MAX ||
         config_load_text((const char *)first.data, first.len, "print", NULL, 0, &config, &error) ==
             ST_OK);
    if (first.len <= CONFIG_FILE_BYTES_MAX) {
        must(config_print_yaml(&config, &second) == ST_OK);
        must(first.len == second.len && memcmp(first.data, second.data, first.len) == 0);
        config_deinit(&config);
    }
    buf_deinit(&first);
    buf_deinit(&second);
    return 0;
}
