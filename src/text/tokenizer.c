/* The tokenizer's life, lookups and the encode path. See tokenizer_int.h for the parts. */
#include "text/tokenizer.h"

#include "base/json.h"
#include "text/tokenizer_int.h"
#include "text/utf8_scan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- token_buf --- */

void token_buf_init(struct token_buf *buf, size_t ids_max)
{
    *buf = (struct token_buf){.max = ids_max};
}

void token_buf_deinit(struct token_buf *buf)
{
    free(buf->ids);
    *buf = (struct token_buf){.max = buf->max};
}

static enum status token_buf_grow(struct token_buf *buf, size_t n_ids)
{
    if (n_ids > buf->max - buf->len)
        return ST_TOO_LARGE;
    size_t cap = buf->cap > 0 ? buf->cap : 64;
    while (cap < buf->len + n_ids)
        cap = cap > SIZE_MAX / 2 ? buf->len + n_ids : cap * 2;
    if (cap > buf->max)
        cap = buf->max;
    if (cap > SIZE_MAX / sizeof(uint32_t))
        return ST_NO_MEMORY;
    uint32_t *ids = realloc(buf->ids, cap * sizeof(uint32_t));
    if (ids == NULL)
        return ST_NO_MEMORY;
    buf->ids = ids;
    buf->cap = cap;
    return ST_OK;
}

enum status token_buf_append(struct token_buf *buf, const uint32_t *ids, size_t n_ids)
{
    if (n_ids == 0)
        return ST_OK;
    if (n_ids > buf->cap - buf->len) {
        enum status st = token_buf_grow(buf, n_ids);
        if (st != ST_OK)
            return st;
    }
    memcpy(buf->ids + buf->len, ids, n_ids * sizeof(uint32_t));
    buf->len += n_ids;
    return ST_OK;
}

/* --- life and lookups --- */

void tokenizer_free(struct tokenizer *tok)
{
    if (tok == NULL)
        return;
    tok_vocab_deinit(&tok->vocab);
    bpe_deinit(&tok->bpe);
    pretok_deinit(&tok->pretok);
    nfc_free(tok->nfc);
    arena_deinit(&tok->arena);
    free(tok);
}

struct tokenizer *tokenizer_create_ids(uint32_t vocab_size)
{
    char name[32];
    uint8_t digest[32];
    if (vocab_size == 0 || vocab_size > TOK_VOCAB_MAX)
        return NULL;
    struct tokenizer *tok = calloc(1, sizeof(*tok));
    if (tok == NULL)
        return NULL;
    tok->is_ids = true;
    arena_init(&tok->arena, 0);
    enum status st = tok_vocab_init(&tok->vocab);
    for (uint32_t id = 0; st == ST_OK && id < vocab_size; id++) {
        int n = snprintf(name, sizeof(name), "%u ", id);
        st = tok_vocab_put(&tok->vocab, id, (const uint8_t *)name, (size_t)n, 0);
    }
    if (st != ST_OK) {
        tokenizer_free(tok);
        return NULL;
    }
    int n = snprintf(name, sizeof(name), "ids %u", vocab_size);
    hash_sha256(name, (size_t)n, digest);
    memcpy(tok->hash.bytes, digest, sizeof(tok->hash.bytes));
    return tok;
}

uint32_t tokenizer_vocab_size(const struct tokenizer *tok)
{
    return tok->vocab.n_ids;
}

static const struct tok_entry *entry_of(const struct tokenizer *tok, uint32_t id)
{
    if (id >= tok->vocab.n_ids || (tok->vocab.entries[id].flags & TOK_ENTRY_USED) == 0)
        return NULL;
    return &tok->vocab.entries[id];
}

void tokenizer_token_bytes(const struct tokenizer *tok, uint32_t id, const uint8_t **out_bytes,
                           size_t *out_n_bytes)
{
    const struct tok_entry *entry = entry_of(tok, id);
    *out_bytes = entry != NULL ? tok->vocab.blob.data + entry->offset : NULL;
    *out_n_bytes = entry != NULL ? entry->bytes : 0;
}

bool tokenizer_token_is_special(const struct tokenizer *tok, uint32_t id)
{
    const struct tok_entry *entry = entry_of(tok, id);
    return entry != NULL && (entry->flags & TOK_ENTRY_SPECIAL) != 0;
}

enum status tokenizer_id_of(const struct tokenizer *tok, const char *text, size_t bytes,
                            uint32_t *out_id)
{
    uint32_t id = tok_vocab_find(&tok->vocab, (const uint8_t *)text, bytes, true);
    if (id == TOK_ID_NONE)
        id = tok_vocab_find(&tok->vocab, (const uint8_t *)text, bytes, false);
    if (id == TOK_ID_NONE)
        return ST_NOT_FOUND;
    *out_id = id;
    return ST_OK;
}

bool tokenizer_bos_id(const struct tokenizer *tok, uint32_t *out_id)
{
    if (tok->prefix.n_ids == 0)
        return false;
    *out_id = tok->prefix.ids[0];
    return true;
}

struct hash128 tokenizer_hash(const struct tokenizer *tok)
{
    return tok->hash;
}

/* --- encoding for the hash runner --- */

static bool is_blank(uint8_t c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/* The id that a run of digits names; TOK_ID_NONE when it is no number or names none. */
static uint32_t number_of(const struct tokenizer *tok, const uint8_t *word, size_t n)
{
    uint32_t value = 0;
    for (size_t i = 0; i < n; i++) {
        if (word[i] < '0' || word[i] > '9')
            return TOK_ID_NONE;
        value = value * 10 + (word[i] - '0'); /* below 10 * 2^20 + 10 */
        if (value >= tok->vocab.n_ids)
            return TOK_ID_NONE;
    }
    return value;
}

static enum status encode_ids(const struct tokenizer *tok, const uint8_t *text, size_t bytes,
                              struct token_buf *out)
{
    enum status st = ST_OK;
    for (size_t at = 0; st == ST_OK && at < bytes;) {
        if (is_blank(text[at])) {
            at++;
            continue;
        }
        size_t end = at;
        while (end < bytes && !is_blank(text[end]))
            end++;
        uint32_t id = number_of(tok, text + at, end - at);
        if (id != TOK_ID_NONE)
            st = token_buf_append(out, &id, 1);
        for (; st == ST_OK && id == TOK_ID_NONE && at < end; at++) {
            uint32_t byte = text[at] % tok->vocab.n_ids;
            st = token_buf_append(out, &byte, 1);
        }
        at = end;
    }
    return st;
}

/* --- encoding --- */

/* One call's state. */
struct encode {
    const struct tokenizer *tok;
    uint32_t flags;
    struct token_buf *out;
    pcre2_match_data *match;
    struct bpe_scratch scratch;
    struct buf normal; /* form C of the gap at hand */
};

static enum status on_piece(void *arg, const uint8_t *piece, size_t bytes)
{
    struct encode *e = arg;
    return bpe_encode(&e->tok->bpe, &e->tok->vocab, &e->scratch, piece, bytes, e->out);
}

static enum status on_plain(void *arg, const uint8_t *text, size_t bytes)
{
    struct encode *e = arg;
    return pretok_run(&e->tok->pretok, e->match, text, bytes, on_piece, e);
}

/* Text between raw added tokens: normalise, look for the others. */
static enum status on_raw_gap(void *arg, const uint8_t *text, size_t bytes)
{
    struct encode *e = arg;
    const struct tokenizer *tok = e->tok;
    if (tok->nfc != NULL && !nfc_is_normal(tok->nfc, text, bytes)) {
        e->normal.len = 0;
        enum status st = nfc_append(tok->nfc, text, bytes, &e->normal);
        if (st != ST_OK)
            return st;
        text = e->normal.data;
        bytes = e->normal.len;
    }
    if ((e->flags & TOK_PLAIN_TEXT) != 0)
        return on_plain(e, text, bytes);
    return added_set_split(&tok->normalized, text, bytes, (e->flags & TOK_ALLOW_SPECIAL) == 0,
                           on_plain, e, e->out);
}

static enum status encode_valid(struct encode *e, const uint8_t *text, size_t bytes)
{
    if (bytes == 0)
        return ST_OK;
    if ((e->flags & TOK_PLAIN_TEXT) != 0)
        return on_raw_gap(e, text, bytes);
    return added_set_split(&e->tok->raw, text, bytes, (e->flags & TOK_ALLOW_SPECIAL) == 0,
                           on_raw_gap, e, e->out);
}

/* Copy of text with every ill-formed part replaced. */
static enum status replace_invalid(const uint8_t *text, size_t bytes, struct buf *out)
{
    enum status st = buf_reserve(out, bytes);
    while (st == ST_OK && bytes > 0) {
        size_t n = utf8_valid_prefix(text, bytes);
        st = buf_append(out, text, n);
        text += n;
        bytes -= n;
        if (st != ST_OK || bytes == 0)
            break;
        utf8_step(text, bytes, &n);
        st = buf_append(out, UTF8_REPLACEMENT, UTF8_REPLACEMENT_BYTES);
        text += n;
        bytes -= n;
    }
    return st;
}

static enum status encode_text(struct encode *e, const uint8_t *text, size_t bytes)
{
    if (utf8_valid_prefix(text, bytes) == bytes)
        return encode_valid(e, text, bytes);
    struct buf clean;
    buf_init(&clean, 3 * bytes + UTF8_REPLACEMENT_BYTES);
    enum status st = replace_invalid(text, bytes, &clean);
    if (st == ST_OK)
        st = encode_valid(e, clean.data, clean.len);
    buf_deinit(&clean);
    return st;
}

enum status tokenizer_encode(const struct tokenizer *tok, const char *text, size_t bytes,
                             uint32_t flags, struct token_buf *out)
{
    size_t before = out->len;
    enum status st;
    if (bytes > TOK_TEXT_BYTES_MAX)
        return ST_TOO_LARGE;
    if (tok->is_ids) {
        st = encode_ids(tok, (const uint8_t *)text, bytes, out);
    } else {
        struct encode e = {.tok = tok, .flags = flags, .out = out};
        e.match = pcre2_match_data_create(1, NULL);
        if (e.match == NULL)
            return ST_NO_MEMORY;
        buf_init(&e.normal, SIZE_MAX / 2);
        bool around = (flags & TOK_ADD_BOS) != 0;
        st = around ? token_buf_append(out, tok->prefix.ids, tok->prefix.n_ids) : ST_OK;
        if (st == ST_OK)
            st = encode_text(&e, (const uint8_t *)text, bytes);
        if (st == ST_OK && around)
            st = token_buf_append(out, tok->suffix.ids, tok->suffix.n_ids);
        buf_deinit(&e.normal);
        bpe_scratch_deinit(&e.scratch);
        pcre2_match_data_free(e.match);
    }
    if (st != ST_OK)
        out->len = before;
    return st;
}
