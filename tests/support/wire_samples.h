/* One filled-in message of each type, for codec tests. Arrays are static. */
#ifndef SUPPORT_WIRE_SAMPLES_H
#define SUPPORT_WIRE_SAMPLES_H

#include "wire/wire.h"

#include <string.h>

static const uint32_t wire_sample_tokens[] = {11, 22, 33, 44, 55};
static const struct wire_block wire_sample_blocks[] = {{7, 100}, {9, 101}};
static const uint8_t wire_sample_blob[] = {1, 2, 3, 4};
static const struct wire_cache_entry wire_sample_cache[] = {{{{1}}, 1}, {{{2}}, 0}};
static const struct wire_tokens_entry wire_sample_entries[] = {
    {{5, 1, 0}, 3, WIRE_FINISH_NONE, 2, wire_sample_tokens},
    {{6, 2, 1}, 9, WIRE_FINISH_STOP, 0, wire_sample_tokens},
};

static inline void wire_sample(enum wire_type type, struct wire_msg *out)
{
    const struct wire_seq seq = {.request = 0x1122334455667788, .attempt = 3, .choice = 1};
    const struct wire_pool pool = {.pool = 1,
                                   .block_count = 512,
                                   .epoch = 77,
                                   .layout_hash = 88,
                                   .block_tokens = 64,
                                   .layer_count = 4,
                                   .block_bytes = 65536};
    const struct wire_job job = {.seq = seq,
                                 .salt = {9, 8, 7},
                                 .n_prompt = 4,
                                 .n_tokens = 5,
                                 .tokens = wire_sample_tokens,
                                 .sampling = {.temperature = 0.7f,
                                              .top_p = 0.9f,
                                              .min_p = 0.1f,
                                              .top_k = 40,
                                              .seed = 1234,
                                              .max_new_tokens = 99,
                                              .min_new_tokens = 2,
                                              .ignore_eos = 1,
                                              .n_stop_ids = 2,
                                              .stop_ids = {5, 6}}};
    memset(out, 0, sizeof(*out));
    out->type = type;
    switch (type) {
    case WIRE_HELLO:
        out->u.hello = (struct wire_hello){.version_min = WIRE_VERSION_MIN,
                                           .version_max = WIRE_VERSION_MAX,
                                           .role = WIRE_ROLE_DECODE,
                                           .pid = 4242,
                                           .instance = 99,
                                           .host_id = {1, 2, 3},
                                           .pool = pool,
                                           .max_context_tokens = 4096,
                                           .max_seqs = 8,
                                           .vocab_size = 4096,
                                           .queue_max = 64,
                                           .name = "decode-0",
                                           .transport = "ucx",
                                           .kv_dtype = "fp8",
                                           .blob = wire_sample_blob,
                                           .blob_bytes = sizeof(wire_sample_blob)};
        break;
    case WIRE_LOADING:
        out->u.loading =
            (struct wire_loading){.permille = 500, .role = WIRE_ROLE_PREFILL, .name = "prefill-0"};
        break;
    case WIRE_PEER:
        out->u.peer = (struct wire_peer){.instance = 5,
                                         .role = WIRE_ROLE_PREFILL,
                                         .pid = 1,
                                         .pool = pool,
                                         .name = "prefill-0",
                                         .blob = wire_sample_blob,
                                         .blob_bytes = sizeof(wire_sample_blob)};
        break;
    case WIRE_PEER_GONE:
        out->u.peer_gone.instance = 5;
        break;
    case WIRE_RESERVE:
        out->u.reserve = (struct wire_reserve){.job = job, .local = 1};
        break;
    case WIRE_RESERVED:
        out->u.reserved = (struct wire_reserved){.seq = seq,
                                                 .pool = 1,
                                                 .cached_tokens = 64,
                                                 .epoch = 77,
                                                 .n_blocks = 2,
                                                 .blocks = wire_sample_blocks};
        break;
    case WIRE_PREFILL:
        out->u.prefill = (struct wire_prefill){.job = job,
                                               .dest = 99,
                                               .epoch = 77,
                                               .pool = 1,
                                               .cached_tokens = 64,
                                               .n_blocks = 2,
                                               .blocks = wire_sample_blocks};
        break;
    case WIRE_PREFILLED:
        out->u.prefilled = (struct wire_prefilled){seq, 1, 17, 64, 1000, 20, 1 << 20};
        break;
    case WIRE_TOKENS:
        out->u.tokens = (struct wire_tokens){.n_entries = 2, .entries = wire_sample_entries};
        break;
    case WIRE_FAILED:
        out->u.failed = (struct wire_failed){seq, ST_MISMATCH, 1};
        break;
    case WIRE_CANCEL:
        out->u.cancel = (struct wire_cancel){seq, WIRE_CANCEL_WRITER_DONE, 5};
        break;
    case WIRE_CANCELLED:
        out->u.cancelled = (struct wire_cancelled){seq, 3};
        break;
    case WIRE_STATS:
        out->u.stats =
            (struct wire_stats){.blocks_total = 512, .blocks_free = 500, .steps = 1ull << 40};
        break;
    case WIRE_CACHE:
        out->u.cache =
            (struct wire_cache){.reset = 1, .n_entries = 2, .entries = wire_sample_cache};
        break;
    case WIRE_COMPLETE:
        out->u.complete = (struct wire_complete){.router = 1,
                                                 .seq = seq,
                                                 .epoch = 77,
                                                 .layout_hash = 88,
                                                 .pool = 1,
                                                 .n_tokens = 100,
                                                 .first_token = 17,
                                                 .position = 0,
                                                 .n_blocks = 2,
                                                 .blocks = wire_sample_blocks};
        break;
    case WIRE_ABORTED:
        out->u.aborted = (struct wire_aborted){.router = 1,
                                               .seq = seq,
                                               .epoch = 77,
                                               .pool = 1,
                                               .n_blocks = 2,
                                               .blocks = wire_sample_blocks};
        break;
    case WIRE_ROUTER_DONE:
        out->u.router_done.router = 1;
        break;
    case WIRE_LEAVING:
    case WIRE_TYPE_END:
        break;
    }
}

#endif
