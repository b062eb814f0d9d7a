/* Any bytes through the frame reader and decoder; what decodes must encode to the same bytes. */
#include "wire/wire.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena scratch;
    arena_init(&scratch, 32u << 20);
    size_t offset = 0, frame_bytes = 0;
    while (wire_frame_size(data + offset, size - offset, &frame_bytes) == ST_OK) {
        struct wire_msg msg;
        uint64_t sequence = 0;
        if (wire_decode(data + offset, frame_bytes, &scratch, &msg, &sequence) == ST_OK) {
            struct buf again;
            struct wire_link link = {.sequence_sent = sequence - 1};
            buf_init(&again, 32u << 20);
            if (wire_encode(&msg, &link, &again) != ST_OK || again.len != frame_bytes ||
                memcmp(again.data, data + offset, frame_bytes) != 0)
                abort();
            buf_deinit(&again);
        }
        offset += frame_bytes;
        arena_reset(&scratch);
    }
    arena_deinit(&scratch);
    return 0;
}
