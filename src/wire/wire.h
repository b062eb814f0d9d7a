/* Wire protocol v1: the control messages between router and workers, and the records that one
 * worker sends another behind its KV writes. Little endian, framed, length-checked.
 *
 *   0      4        6      8           12         16          24
 *   +------+--------+------+-----------+----------+-----------+----------------+
 *   | DYND | version| type | length    | reserved | sequence  | payload ...    |
 *   +------+--------+------+-----------+----------+-----------+----------------+
 *     u32    u16      u16    u32 bytes   u32 = 0    u64
 *
 * `sequence` grows by at least one from frame to frame of one direction of one connection; a frame
 * whose sequence is not above the last one seen is dropped (wire_link_accept). So a link may lose
 * frames, but it never repeats or reorders them, and an old CANCEL or PREFILL cannot come back.
 * The wire never carries an address: memory is named (pool, epoch, block, generation), looked up
 * and range-checked by its owner.
 * Any thread; no state outside the arguments. */
#ifndef WIRE_WIRE_H
#define WIRE_WIRE_H

#include "base/arena.h"
#include "base/buf.h"
#include "base/hash.h"
#include "base/status.h"

#include <stdint.h>

#define WIRE_MAGIC             0x444e5944u /* "DYND" read as little endian */
#define WIRE_VERSION_MIN       2u
#define WIRE_VERSION_MAX       2u
#define WIRE_HEADER_BYTES      24u
#define WIRE_PAYLOAD_BYTES_MAX (16u << 20)
#define WIRE_NAME_BYTES        64u   /* NUL included */
#define WIRE_BLOB_BYTES_MAX    4096u /* a transport's opaque export */
#define WIRE_TOKENS_MAX        (1u << 20)
#define WIRE_BLOCKS_MAX        (1u << 17)
#define WIRE_STOP_IDS_MAX      16u

enum wire_type {
    WIRE_HELLO = 1, /* both ways, first frame of a connection */
    WIRE_LOADING,   /* worker -> router, before its HELLO: progress of the model load */
    WIRE_PEER,      /* router -> worker: another worker to exchange KV with */
    WIRE_PEER_GONE, /* router -> worker: that worker is to be fenced */
    WIRE_RESERVE,   /* router -> decode/unified: hold blocks (remote), or run it all (local) */
    WIRE_RESERVED,  /* decode -> router */
    WIRE_PREFILL,   /* router -> prefill: compute and push into the reserved blocks */
    WIRE_PREFILLED, /* prefill -> router: pushed and complete; the first token */
    WIRE_TOKENS,    /* decode/unified -> router: one frame a step, all its sequences */
    WIRE_FAILED,    /* worker -> router: this attempt is over here */
    WIRE_CANCEL,    /* router -> worker, repeated until it is acknowledged */
    WIRE_CANCELLED, /* worker -> router */
    WIRE_STATS,     /* worker -> router: heartbeat and load */
    WIRE_CACHE,     /* worker -> router: prefix-cache keys that came and went */
    WIRE_LEAVING,   /* worker -> router: draining, send no new work */
    WIRE_COMPLETE,  /* record prefill -> decode: all blocks are written */
    WIRE_ABORTED,   /* record prefill -> decode: no write of this attempt is or will be under way */
    WIRE_ROUTER_DONE, /* record prefill -> decode: nothing more on behalf of that router */
    WIRE_TYPE_END
};

enum wire_role { WIRE_ROLE_ROUTER = 1, WIRE_ROLE_PREFILL, WIRE_ROLE_DECODE, WIRE_ROLE_UNIFIED };

/* One attempt at one choice of one request. `request` is unique within the router instance. */
struct wire_seq {
    uint64_t request;
    uint32_t attempt; /* from 1; never used again once another was started */
    uint32_t choice;  /* 0 .. n-1 */
};

struct wire_block {
    uint32_t index;
    uint32_t generation;
};

/* What a peer must know of a KV pool to write into it. */
struct wire_pool {
    uint32_t pool; /* index within its process */
    uint32_t block_count;
    uint64_t epoch;       /* random per pool lifetime */
    uint64_t layout_hash; /* of dtype, geometry, order, protocol */
    uint32_t block_tokens;
    uint32_t layer_count;
    uint64_t block_bytes;
};

struct wire_hello {
    uint32_t version_min, version_max;
    uint32_t role;     /* enum wire_role */
    uint32_t pid;      /* 0: unknown */
    uint64_t instance; /* random per process start; names the process from here on */
    uint8_t host_id[16];
    struct hash128 model_hash, tokenizer_hash, template_hash;
    struct wire_pool pool; /* zero for a router */
    uint32_t max_context_tokens, max_seqs;
    uint32_t vocab_size, queue_max;
    char name[WIRE_NAME_BYTES];
    char transport[WIRE_NAME_BYTES]; /* "" when the worker has none */
    char kv_dtype[WIRE_NAME_BYTES];  /* for messages to people: layout_hash and model_hash decide */
    const uint8_t *blob;             /* [blob_bytes] opaque transport export */
    uint32_t blob_bytes;
};

struct wire_loading {
    uint32_t permille; /* 0..1000 */
    uint32_t role;
    char name[WIRE_NAME_BYTES];
};

struct wire_peer {
    uint64_t instance;
    uint32_t role, pid;
    uint8_t host_id[16];
    struct wire_pool pool;
    char name[WIRE_NAME_BYTES];
    const uint8_t *blob; /* [blob_bytes] */
    uint32_t blob_bytes;
};

struct wire_peer_gone {
    uint64_t instance;
};

/* Sampling and end rules: with the token log, all that determines the rest of a sequence. */
struct wire_sampling {
    float temperature; /* 0: greedy */
    float top_p;       /* 1: off */
    float min_p;       /* 0: off */
    uint32_t top_k;    /* 0: off */
    uint64_t seed;
    uint32_t max_new_tokens; /* outputs in all, counted from n_prompt */
    uint32_t min_new_tokens; /* no end-of-sequence id before */
    uint32_t ignore_eos;     /* 0 or 1 */
    uint32_t n_stop_ids;
    uint32_t stop_ids[WIRE_STOP_IDS_MAX]; /* end the sequence like the model's own eos ids */
};

/* The job part shared by RESERVE and PREFILL. */
struct wire_job {
    struct wire_seq seq;
    uint8_t salt[16]; /* tenant's cache salt */
    struct wire_sampling sampling;
    uint32_t n_prompt;      /* tokens[0 .. n_prompt) are the prompt, the rest committed output */
    uint32_t n_tokens;      /* <= WIRE_TOKENS_MAX, >= 1 */
    const uint32_t *tokens; /* [n_tokens] */
};

struct wire_reserve {
    struct wire_job job;
    uint32_t local; /* 1: prefill here, no RESERVED blocks are loaned */
};

struct wire_reserved {
    struct wire_seq seq;
    uint32_t pool;
    uint32_t cached_tokens; /* multiple of block_tokens, < n_tokens */
    uint64_t epoch;
    uint32_t n_blocks;               /* blocks for tokens [cached_tokens, n_tokens); 0 when local */
    const struct wire_block *blocks; /* [n_blocks] */
};

struct wire_prefill {
    struct wire_job job;
    uint64_t dest; /* instance of the decode worker; PEER came before */
    uint64_t epoch;
    uint32_t pool;
    uint32_t cached_tokens; /* push starts at this token */
    uint32_t n_blocks;
    const struct wire_block *blocks; /* [n_blocks] */
};

struct wire_prefilled {
    struct wire_seq seq;
    uint32_t position; /* output position of `token`: n_tokens - n_prompt of the job */
    uint32_t token;
    uint32_t cached_tokens; /* found in the prefill worker's own cache */
    uint32_t compute_us;    /* first step started to last step ended */
    uint32_t transfer_us;   /* last step ended to last push acknowledged: the exposed tail */
    uint64_t transfer_bytes;
};

enum wire_finish { WIRE_FINISH_NONE = 0, WIRE_FINISH_STOP = 1, WIRE_FINISH_LENGTH = 2 };

struct wire_tokens_entry {
    struct wire_seq seq;
    uint32_t position; /* output position of tokens[0] */
    uint32_t finish;   /* enum wire_finish, after the last token */
    uint32_t n_tokens; /* 0 only with a finish */
    const uint32_t *tokens;
};

struct wire_tokens {
    uint32_t n_entries; /* <= 4096 */
    const struct wire_tokens_entry *entries;
};

struct wire_failed {
    struct wire_seq seq;
    uint32_t status; /* enum status */
    uint32_t
        writer_done; /* prefill: 1 = no write is or will be under way; decode: 1 = holds nothing */
};

enum { WIRE_CANCEL_WRITER_DONE = 1 }; /* no prefill worker will write for this attempt (any more) */

struct wire_cancel {
    struct wire_seq seq;
    uint32_t flags;
    uint64_t writer; /* decode leg: instance that got the PREFILL, 0: none did */
};

struct wire_cancelled {
    struct wire_seq seq;
    /* decode: blocks still held back because a writer may be under way. prefill: sent when it
     * writes no more; 0: it vouches that all it wrote has landed, else a push failed and the decode
     * worker has to fence it. */
    uint32_t n_quarantined;
};

struct wire_stats {
    uint32_t blocks_total, blocks_free; /* free includes evictable cached blocks */
    uint32_t blocks_quarantined, blocks_cached;
    uint32_t running, waiting, reserved; /* sequences */
    uint32_t queued_tokens;              /* prompt tokens not yet computed */
    uint32_t step_age_ms;                /* age of the step under way, 0 when idle */
    uint32_t step_tokens;                /* its planned tokens */
    uint64_t steps, prompt_tokens, output_tokens, preemptions, cached_tokens;
    uint64_t transfer_bytes, transfer_failures;
};

struct wire_cache_entry {
    struct hash128 key;
    uint32_t added; /* 1 added, 0 removed */
};

struct wire_cache {
    uint32_t reset;     /* 1: forget all keys of this worker first */
    uint32_t n_entries; /* <= 65536 */
    const struct wire_cache_entry *entries;
};

/* Record behind the writes of one attempt. The generations name the loan; the owner compares all of
 * it with what it lent (kv_pool_loan_check) before it believes a byte. */
struct wire_complete {
    uint64_t router; /* instance of the router that gave the job */
    struct wire_seq seq;
    uint64_t epoch, layout_hash;
    uint32_t pool;
    uint32_t n_tokens;    /* KV is valid for tokens [0, n_tokens) */
    struct hash128 chain; /* wire_chain_hash over tokens[0 .. n_tokens) and salt */
    uint32_t first_token; /* sampled by the prefill worker */
    uint32_t position;    /* its output position */
    uint32_t n_blocks;
    const struct wire_block *blocks; /* [n_blocks], as given in PREFILL */
};

struct wire_aborted {
    uint64_t router;
    struct wire_seq seq;
    uint64_t epoch;
    uint32_t pool;
    uint32_t n_blocks;
    const struct wire_block *blocks;
};

struct wire_router_done {
    uint64_t router;
};

struct wire_msg {
    enum wire_type type;
    union {
        struct wire_hello hello;
        struct wire_loading loading;
        struct wire_peer peer;
        struct wire_peer_gone peer_gone;
        struct wire_reserve reserve;
        struct wire_reserved reserved;
        struct wire_prefill prefill;
        struct wire_prefilled prefilled;
        struct wire_tokens tokens;
        struct wire_failed failed;
        struct wire_cancel cancel;
        struct wire_cancelled cancelled;
        struct wire_stats stats;
        struct wire_cache cache;
        struct wire_complete complete;
        struct wire_aborted aborted;
        struct wire_router_done router_done;
    } u; /* WIRE_LEAVING has no payload */
};

/* Per direction of a connection. Zero-initialise. */
struct wire_link {
    uint64_t sequence_sent, sequence_seen;
};

/* Appends one frame. ST_TOO_LARGE, ST_NO_MEMORY from `out`; ST_INVALID: a count passes its bound.
 */
enum status wire_encode(const struct wire_msg *msg, struct wire_link *link, struct buf *out);

/* Size of the first frame in data: ST_OK and *out_bytes (header included) when it is complete,
 * ST_AGAIN when more bytes are needed, ST_PARSE, ST_VERSION or ST_TOO_LARGE when the connection is
 * to be closed. */
enum status wire_frame_size(const uint8_t *data, size_t bytes, size_t *out_bytes);

/* Decodes one complete frame. Arrays are copied into `scratch`, so they are aligned and live until
 * it is reset. Every count is checked against the payload, every enum against its range, floats
 * against NaN, names against missing NUL, and no byte may be left over.
 * out_sequence may be NULL. ST_PARSE, ST_VERSION, ST_NO_MEMORY. */
enum status wire_decode(const uint8_t *frame, size_t bytes, struct arena *scratch,
                        struct wire_msg *out, uint64_t *out_sequence);

/* True when the frame is newer than all before; records it. */
bool wire_link_accept(struct wire_link *link, uint64_t sequence);

const char *wire_type_name(enum wire_type type);
const char *wire_role_name(uint32_t role);

/* Hash of a token log under a salt, for COMPLETE. Not secret. */
void wire_chain_hash(const uint8_t salt[16], const uint32_t *tokens, uint32_t n_tokens,
                     struct hash128 *out);

static inline bool wire_seq_equal(const struct wire_seq *a, const struct wire_seq *b)
{
    return a->request == b->request && a->attempt == b->attempt && a->choice == b->choice;
}

#endif
