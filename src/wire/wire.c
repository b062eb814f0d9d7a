/* Codec of wire.h. One function a message walks its fields once and serves both directions, so that
 * encoder and decoder cannot drift apart: a `struct codec` either appends each field to a buffer or
 * reads it from a frame, and remembers the first error. */
#include "wire/wire.h"

#include <assert.h>
#include <math.h>
#include <string.h>

struct codec {
    struct buf *out;       /* encoding when not NULL */
    const uint8_t *in;     /* decoding: next byte */
    size_t left;           /* decoding: bytes left */
    struct arena *scratch; /* decoding: arrays */
    enum status st;        /* first error; later calls do nothing */
};

static void codec_fail(struct codec *c, enum status st)
{
    if (c->st == ST_OK)
        c->st = st;
}

/* Moves `bytes` raw bytes in the direction of the codec. */
static void codec_raw(struct codec *c, void *data, size_t bytes)
{
    if (c->st != ST_OK)
        return;
    if (c->out != NULL) {
        codec_fail(c, buf_append(c->out, data, bytes));
        return;
    }
    if (c->left < bytes) {
        codec_fail(c, ST_PARSE);
        return;
    }
    memcpy(data, c->in, bytes);
    c->in += bytes;
    c->left -= bytes;
}

static void codec_u32(struct codec *c, uint32_t *value)
{
    uint8_t b[4] = {(uint8_t)*value, (uint8_t)(*value >> 8), (uint8_t)(*value >> 16),
                    (uint8_t)(*value >> 24)};
    codec_raw(c, b, sizeof(b));
    if (c->out == NULL && c->st == ST_OK)
        *value = (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

static void codec_u64(struct codec *c, uint64_t *value)
{
    uint32_t low = (uint32_t)*value, high = (uint32_t)(*value >> 32);
    codec_u32(c, &low);
    codec_u32(c, &high);
    if (c->out == NULL && c->st == ST_OK)
        *value = (uint64_t)high << 32 | low;
}

static void codec_u32_max(struct codec *c, uint32_t *value, uint32_t max)
{
    codec_u32(c, value);
    if (c->st == ST_OK && *value > max)
        codec_fail(c, c->out != NULL ? ST_INVALID : ST_PARSE);
}

static void codec_f32(struct codec *c, float *value)
{
    uint32_t bits;
    memcpy(&bits, value, sizeof(bits));
    codec_u32(c, &bits);
    memcpy(value, &bits, sizeof(bits));
    if (c->st == ST_OK && !isfinite(*value))
        codec_fail(c, c->out != NULL ? ST_INVALID : ST_PARSE);
}

/* A NUL-terminated name in a field of fixed size. */
static void codec_name(struct codec *c, char name[WIRE_NAME_BYTES])
{
    codec_raw(c, name, WIRE_NAME_BYTES);
    if (c->st == ST_OK && memchr(name, '\0', WIRE_NAME_BYTES) == NULL)
        codec_fail(c, c->out != NULL ? ST_INVALID : ST_PARSE);
}

/* Counts an array of elements of `wire_bytes` each on the wire and `bytes` each in memory. When
 * decoding, checks the count against what is left before allocating, and returns the array. */
static void *codec_array(struct codec *c, uint32_t *count, uint32_t max, size_t wire_bytes,
                         size_t bytes)
{
    codec_u32_max(c, count, max);
    if (c->st != ST_OK || c->out != NULL)
        return NULL;
    if (c->left / wire_bytes < *count) {
        codec_fail(c, ST_PARSE);
        return NULL;
    }
    void *array = arena_calloc(c->scratch, *count > 0 ? *count : 1, bytes);
    if (array == NULL)
        codec_fail(c, ST_NO_MEMORY);
    return array;
}

static void codec_bytes(struct codec *c, const uint8_t **data, uint32_t *count, uint32_t max)
{
    uint8_t *array = codec_array(c, count, max, 1, 1);
    if (c->st != ST_OK)
        return;
    if (c->out != NULL) {
        codec_fail(c, buf_append(c->out, *data, *count));
        return;
    }
    codec_raw(c, array, *count);
    *data = array;
}

static void codec_tokens(struct codec *c, const uint32_t **tokens, uint32_t *count)
{
    uint32_t *array = codec_array(c, count, WIRE_TOKENS_MAX, 4, sizeof(uint32_t));
    if (c->st != ST_OK)
        return;
    if (c->out != NULL)
        codec_fail(c, buf_reserve(c->out, (size_t)*count * 4));
    for (uint32_t i = 0; i < *count && c->st == ST_OK; i++) {
        uint32_t token = c->out != NULL ? (*tokens)[i] : 0;
        codec_u32(c, &token);
        if (c->out == NULL)
            array[i] = token;
    }
    if (c->out == NULL)
        *tokens = array;
}

static void codec_blocks(struct codec *c, const struct wire_block **blocks, uint32_t *count)
{
    struct wire_block *array = codec_array(c, count, WIRE_BLOCKS_MAX, 8, sizeof(struct wire_block));
    if (c->st != ST_OK)
        return;
    for (uint32_t i = 0; i < *count && c->st == ST_OK; i++) {
        struct wire_block block = {0};
        if (c->out != NULL)
            block = (*blocks)[i];
        codec_u32(c, &block.index);
        codec_u32(c, &block.generation);
        if (c->out == NULL)
            array[i] = block;
    }
    if (c->out == NULL)
        *blocks = array;
}

static void codec_seq(struct codec *c, struct wire_seq *seq)
{
    codec_u64(c, &seq->request);
    codec_u32(c, &seq->attempt);
    codec_u32_max(c, &seq->choice, 65535);
}

static void codec_pool(struct codec *c, struct wire_pool *pool)
{
    codec_u32_max(c, &pool->pool, 15);
    codec_u32_max(c, &pool->block_count, 1u << 26);
    codec_u64(c, &pool->epoch);
    codec_u64(c, &pool->layout_hash);
    codec_u32_max(c, &pool->block_tokens, 4096);
    codec_u32_max(c, &pool->layer_count, 4096);
    codec_u64(c, &pool->block_bytes);
    if (c->st == ST_OK && pool->block_bytes > (1ull << 40))
        codec_fail(c, ST_PARSE);
}

static void codec_hash(struct codec *c, struct hash128 *hash)
{
    codec_raw(c, hash->bytes, sizeof(hash->bytes));
}

static void codec_role(struct codec *c, uint32_t *role)
{
    codec_u32_max(c, role, WIRE_ROLE_UNIFIED);
    if (c->st == ST_OK && *role < WIRE_ROLE_ROUTER)
        codec_fail(c, ST_PARSE);
}

static void codec_hello(struct codec *c, struct wire_hello *m)
{
    codec_u32(c, &m->version_min);
    codec_u32(c, &m->version_max);
    codec_role(c, &m->role);
    codec_u32(c, &m->pid);
    codec_u64(c, &m->instance);
    codec_raw(c, m->host_id, sizeof(m->host_id));
    codec_hash(c, &m->model_hash);
    codec_hash(c, &m->tokenizer_hash);
    codec_hash(c, &m->template_hash);
    codec_pool(c, &m->pool);
    codec_u32_max(c, &m->max_context_tokens, WIRE_TOKENS_MAX);
    codec_u32(c, &m->max_seqs);
    codec_u32(c, &m->vocab_size);
    codec_u32(c, &m->queue_max);
    codec_name(c, m->name);
    codec_name(c, m->transport);
    codec_name(c, m->kv_dtype);
    codec_bytes(c, &m->blob, &m->blob_bytes, WIRE_BLOB_BYTES_MAX);
}

static void codec_loading(struct codec *c, struct wire_loading *m)
{
    codec_u32_max(c, &m->permille, 1000);
    codec_role(c, &m->role);
    codec_name(c, m->name);
}

static void codec_peer(struct codec *c, struct wire_peer *m)
{
    codec_u64(c, &m->instance);
    codec_role(c, &m->role);
    codec_u32(c, &m->pid);
    codec_raw(c, m->host_id, sizeof(m->host_id));
    codec_pool(c, &m->pool);
    codec_name(c, m->name);
    codec_bytes(c, &m->blob, &m->blob_bytes, WIRE_BLOB_BYTES_MAX);
}

static void codec_sampling(struct codec *c, struct wire_sampling *s)
{
    codec_f32(c, &s->temperature);
    codec_f32(c, &s->top_p);
    codec_f32(c, &s->min_p);
    codec_u32(c, &s->top_k);
    codec_u64(c, &s->seed);
    codec_u32(c, &s->max_new_tokens);
    codec_u32(c, &s->min_new_tokens);
    codec_u32_max(c, &s->ignore_eos, 1);
    codec_u32_max(c, &s->n_stop_ids, WIRE_STOP_IDS_MAX);
    for (uint32_t i = 0; i < WIRE_STOP_IDS_MAX && i < s->n_stop_ids && c->st == ST_OK; i++)
        codec_u32(c, &s->stop_ids[i]);
}

static void codec_job(struct codec *c, struct wire_job *job)
{
    codec_seq(c, &job->seq);
    codec_raw(c, job->salt, sizeof(job->salt));
    codec_sampling(c, &job->sampling);
    codec_u32(c, &job->n_prompt);
    codec_tokens(c, &job->tokens, &job->n_tokens);
    if (c->st == ST_OK &&
        (job->n_tokens == 0 || job->n_prompt == 0 || job->n_prompt > job->n_tokens))
        codec_fail(c, c->out != NULL ? ST_INVALID : ST_PARSE);
}

static void codec_reserve(struct codec *c, struct wire_reserve *m)
{
    codec_job(c, &m->job);
    codec_u32_max(c, &m->local, 1);
}

static void codec_reserved(struct codec *c, struct wire_reserved *m)
{
    codec_seq(c, &m->seq);
    codec_u32(c, &m->pool);
    codec_u32_max(c, &m->cached_tokens, WIRE_TOKENS_MAX);
    codec_u64(c, &m->epoch);
    codec_blocks(c, &m->blocks, &m->n_blocks);
}

static void codec_prefill(struct codec *c, struct wire_prefill *m)
{
    codec_job(c, &m->job);
    codec_u64(c, &m->dest);
    codec_u64(c, &m->epoch);
    codec_u32(c, &m->pool);
    codec_u32_max(c, &m->cached_tokens, WIRE_TOKENS_MAX);
    codec_blocks(c, &m->blocks, &m->n_blocks);
}

static void codec_prefilled(struct codec *c, struct wire_prefilled *m)
{
    codec_seq(c, &m->seq);
    codec_u32(c, &m->position);
    codec_u32(c, &m->token);
    codec_u32(c, &m->cached_tokens);
    codec_u32(c, &m->compute_us);
    codec_u32(c, &m->transfer_us);
    codec_u64(c, &m->transfer_bytes);
}

static void codec_tokens_msg(struct codec *c, struct wire_tokens *m)
{
    struct wire_tokens_entry *array =
        codec_array(c, &m->n_entries, 4096, 28, sizeof(struct wire_tokens_entry));
    for (uint32_t i = 0; i < m->n_entries && c->st == ST_OK; i++) {
        struct wire_tokens_entry entry = {0};
        if (c->out != NULL)
            entry = m->entries[i];
        codec_seq(c, &entry.seq);
        codec_u32(c, &entry.position);
        codec_u32_max(c, &entry.finish, WIRE_FINISH_LENGTH);
        codec_tokens(c, &entry.tokens, &entry.n_tokens);
        if (c->st == ST_OK && entry.n_tokens == 0 && entry.finish == WIRE_FINISH_NONE)
            codec_fail(c, c->out != NULL ? ST_INVALID : ST_PARSE);
        if (c->out == NULL && array != NULL)
            array[i] = entry;
    }
    if (c->out == NULL)
        m->entries = array;
}

static void codec_failed(struct codec *c, struct wire_failed *m)
{
    codec_seq(c, &m->seq);
    codec_u32_max(c, &m->status, ST_COUNT - 1);
    codec_u32_max(c, &m->writer_done, 1);
}

static void codec_cancel(struct codec *c, struct wire_cancel *m)
{
    codec_seq(c, &m->seq);
    codec_u32_max(c, &m->flags, WIRE_CANCEL_WRITER_DONE);
    codec_u64(c, &m->writer);
}

static void codec_cancelled(struct codec *c, struct wire_cancelled *m)
{
    codec_seq(c, &m->seq);
    codec_u32(c, &m->n_quarantined);
}

static void codec_stats(struct codec *c, struct wire_stats *m)
{
    codec_u32(c, &m->blocks_total);
    codec_u32(c, &m->blocks_free);
    codec_u32(c, &m->blocks_quarantined);
    codec_u32(c, &m->blocks_cached);
    codec_u32(c, &m->running);
    codec_u32(c, &m->waiting);
    codec_u32(c, &m->reserved);
    codec_u32(c, &m->queued_tokens);
    codec_u32(c, &m->step_age_ms);
    codec_u32(c, &m->step_tokens);
    codec_u64(c, &m->steps);
    codec_u64(c, &m->prompt_tokens);
    codec_u64(c, &m->output_tokens);
    codec_u64(c, &m->preemptions);
    codec_u64(c, &m->cached_tokens);
    codec_u64(c, &m->transfer_bytes);
    codec_u64(c, &m->transfer_failures);
}

static void codec_cache(struct codec *c, struct wire_cache *m)
{
    codec_u32_max(c, &m->reset, 1);
    struct wire_cache_entry *array =
        codec_array(c, &m->n_entries, 65536, 20, sizeof(struct wire_cache_entry));
    for (uint32_t i = 0; i < m->n_entries && c->st == ST_OK; i++) {
        struct wire_cache_entry entry = {0};
        if (c->out != NULL)
            entry = m->entries[i];
        codec_hash(c, &entry.key);
        codec_u32_max(c, &entry.added, 1);
        if (c->out == NULL && array != NULL)
            array[i] = entry;
    }
    if (c->out == NULL)
        m->entries = array;
}

static void codec_complete(struct codec *c, struct wire_complete *m)
{
    codec_u64(c, &m->router);
    codec_seq(c, &m->seq);
    codec_u64(c, &m->epoch);
    codec_u64(c, &m->layout_hash);
    codec_u32(c, &m->pool);
    codec_u32_max(c, &m->n_tokens, WIRE_TOKENS_MAX);
    codec_hash(c, &m->chain);
    codec_u32(c, &m->first_token);
    codec_u32(c, &m->position);
    codec_blocks(c, &m->blocks, &m->n_blocks);
}

static void codec_aborted(struct codec *c, struct wire_aborted *m)
{
    codec_u64(c, &m->router);
    codec_seq(c, &m->seq);
    codec_u64(c, &m->epoch);
    codec_u32(c, &m->pool);
    codec_blocks(c, &m->blocks, &m->n_blocks);
}

static void codec_payload(struct codec *c, struct wire_msg *msg)
{
    switch (msg->type) {
    case WIRE_HELLO:
        codec_hello(c, &msg->u.hello);
        break;
    case WIRE_LOADING:
        codec_loading(c, &msg->u.loading);
        break;
    case WIRE_PEER:
        codec_peer(c, &msg->u.peer);
        break;
    case WIRE_PEER_GONE:
        codec_u64(c, &msg->u.peer_gone.instance);
        break;
    case WIRE_RESERVE:
        codec_reserve(c, &msg->u.reserve);
        break;
    case WIRE_RESERVED:
        codec_reserved(c, &msg->u.reserved);
        break;
    case WIRE_PREFILL:
        codec_prefill(c, &msg->u.prefill);
        break;
    case WIRE_PREFILLED:
        codec_prefilled(c, &msg->u.prefilled);
        break;
    case WIRE_TOKENS:
        codec_tokens_msg(c, &msg->u.tokens);
        break;
    case WIRE_FAILED:
        codec_failed(c, &msg->u.failed);
        break;
    case WIRE_CANCEL:
        codec_cancel(c, &msg->u.cancel);
        break;
    case WIRE_CANCELLED:
        codec_cancelled(c, &msg->u.cancelled);
        break;
    case WIRE_STATS:
        codec_stats(c, &msg->u.stats);
        break;
    case WIRE_CACHE:
        codec_cache(c, &msg->u.cache);
        break;
    case WIRE_LEAVING:
        break;
    case WIRE_COMPLETE:
        codec_complete(c, &msg->u.complete);
        break;
    case WIRE_ABORTED:
        codec_aborted(c, &msg->u.aborted);
        break;
    case WIRE_ROUTER_DONE:
        codec_u64(c, &msg->u.router_done.router);
        break;
    case WIRE_TYPE_END:
    default:
        codec_fail(c, ST_PARSE);
        break;
    }
}

enum status wire_encode(const struct wire_msg *msg, struct wire_link *link, struct buf *out)
{
    size_t start = out->len;
    struct wire_msg copy =
        *msg; /* the walker takes it writable, and does not write when encoding */
    struct codec c = {.out = out};
    uint32_t head[4] = {WIRE_MAGIC, WIRE_VERSION_MAX | (uint32_t)msg->type << 16, 0, 0};
    uint64_t sequence = link->sequence_sent + 1;
    for (unsigned i = 0; i < 4; i++)
        codec_u32(&c, &head[i]);
    codec_u64(&c, &sequence);
    codec_payload(&c, &copy);
    size_t payload_bytes = out->len - start - WIRE_HEADER_BYTES;
    if (c.st == ST_OK && payload_bytes > WIRE_PAYLOAD_BYTES_MAX)
        c.st = ST_TOO_LARGE;
    if (c.st != ST_OK) {
        out->len = start;
        return c.st == ST_PARSE ? ST_INVALID : c.st;
    }
    for (unsigned i = 0; i < 4; i++)
        out->data[start + 8 + i] = (uint8_t)(payload_bytes >> (8 * i));
    link->sequence_sent = sequence;
    return ST_OK;
}

static uint32_t read_u32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

enum status wire_frame_size(const uint8_t *data, size_t bytes, size_t *out_bytes)
{
    if (bytes < WIRE_HEADER_BYTES)
        return ST_AGAIN;
    if (read_u32(data) != WIRE_MAGIC)
        return ST_PARSE;
    uint32_t version = read_u32(data + 4) & 0xffff, type = read_u32(data + 4) >> 16;
    if (version < WIRE_VERSION_MIN || version > WIRE_VERSION_MAX)
        return ST_VERSION;
    if (type < WIRE_HELLO || type >= WIRE_TYPE_END || read_u32(data + 12) != 0)
        return ST_PARSE;
    uint32_t payload_bytes = read_u32(data + 8);
    if (payload_bytes > WIRE_PAYLOAD_BYTES_MAX)
        return ST_TOO_LARGE;
    if (bytes - WIRE_HEADER_BYTES < payload_bytes)
        return ST_AGAIN;
    *out_bytes = WIRE_HEADER_BYTES + payload_bytes;
    return ST_OK;
}

enum status wire_decode(const uint8_t *frame, size_t bytes, struct arena *scratch,
                        struct wire_msg *out, uint64_t *out_sequence)
{
    size_t frame_bytes;
    enum status st = wire_frame_size(frame, bytes, &frame_bytes);
    if (st != ST_OK)
        return st == ST_AGAIN ? ST_PARSE : st;
    if (frame_bytes != bytes)
        return ST_PARSE;
    memset(out, 0, sizeof(*out));
    out->type = (enum wire_type)(read_u32(frame + 4) >> 16);
    struct codec c = {
        .in = frame + WIRE_HEADER_BYTES, .left = bytes - WIRE_HEADER_BYTES, .scratch = scratch};
    codec_payload(&c, out);
    if (c.st == ST_OK && c.left != 0)
        return ST_PARSE;
    if (out_sequence != NULL)
        *out_sequence = read_u32(frame + 16) | (uint64_t)read_u32(frame + 20) << 32;
    return c.st;
}

bool wire_link_accept(struct wire_link *link, uint64_t sequence)
{
    if (sequence <= link->sequence_seen)
        return false;
    link->sequence_seen = sequence;
    return true;
}

const char *wire_type_name(enum wire_type type)
{
    static const char *const names[WIRE_TYPE_END] = {
        [WIRE_HELLO] = "hello",     [WIRE_LOADING] = "loading",
        [WIRE_PEER] = "peer",       [WIRE_PEER_GONE] = "peer_gone",
        [WIRE_RESERVE] = "reserve", [WIRE_RESERVED] = "reserved",
        [WIRE_PREFILL] = "prefill", [WIRE_PREFILLED] = "prefilled",
        [WIRE_TOKENS] = "tokens",   [WIRE_FAILED] = "failed",
        [WIRE_CANCEL] = "cancel",   [WIRE_CANCELLED] = "cancelled",
        [WIRE_STATS] = "stats",     [WIRE_CACHE] = "cache",
        [WIRE_LEAVING] = "leaving", [WIRE_COMPLETE] = "complete",
        [WIRE_ABORTED] = "aborted", [WIRE_ROUTER_DONE] = "router_done",
    };
    return (unsigned)type < WIRE_TYPE_END && names[type] != NULL ? names[type] : "unknown";
}

const char *wire_role_name(uint32_t role)
{
    static const char *const names[] = {"unknown", "router", "prefill", "decode", "unified"};
    return names[role <= WIRE_ROLE_UNIFIED ? role : 0];
}

void wire_chain_hash(const uint8_t salt[16], const uint32_t *tokens, uint32_t n_tokens,
                     struct hash128 *out)
{
    /* Two lanes of a sequential 64-bit mix: cheap, and order, length and salt all matter. */
    uint64_t a = hash_bytes(salt, 16), b = hash_mix64(a ^ n_tokens);
    for (uint32_t i = 0; i < n_tokens; i++) {
        a = hash_mix64(a ^ tokens[i]);
        b = hash_mix64(b + (a << 1) + tokens[i]);
    }
    memcpy(out->bytes, &a, 8);
    memcpy(out->bytes + 8, &b, 8);
}
