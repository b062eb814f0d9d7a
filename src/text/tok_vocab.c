/* Token bytes by id and ids by token bytes. Built by the loader, then constant. */
#include "text/tokenizer_int.h"
#include "text/utf8_scan.h"

#include <stdlib.h>

enum { SLOTS_MIN = 64 };

static uint64_t token_hash(const uint8_t *bytes, size_t n, bool text)
{
    uint64_t h = hash_mix64(n * 2 + text);
    uint64_t word;
    for (; n >= 8; n -= 8, bytes += 8) {
        memcpy(&word, bytes, 8);
        h = hash_mix64(h ^ word);
    }
    word = 0;
    memcpy(&word, bytes, n);
    return hash_mix64(h ^ word);
}

enum status tok_vocab_init(struct tok_vocab *vocab)
{
    *vocab = (struct tok_vocab){0};
    buf_init(&vocab->blob, 2u * TOK_FILE_BYTES_MAX);
    vocab->slots = calloc(SLOTS_MIN, sizeof(*vocab->slots));
    if (vocab->slots == NULL)
        return ST_NO_MEMORY;
    vocab->n_slots = SLOTS_MIN;
    return ST_OK;
}

void tok_vocab_deinit(struct tok_vocab *vocab)
{
    free(vocab->entries);
    free(vocab->slots);
    free((void *)vocab->whole);
    buf_deinit(&vocab->blob);
    *vocab = (struct tok_vocab){0};
}

static bool entry_equals(const struct tok_vocab *vocab, uint32_t id, const uint8_t *bytes, size_t n,
                         bool text)
{
    const struct tok_entry *entry = &vocab->entries[id];
    return entry->bytes == n && ((entry->flags & TOK_ENTRY_TEXT) != 0) == text &&
           memcmp(vocab->blob.data + entry->offset, bytes, n) == 0;
}

uint32_t tok_vocab_find(const struct tok_vocab *vocab, const uint8_t *bytes, size_t n_bytes,
                        bool text)
{
    if (n_bytes == 0 || n_bytes > vocab->token_bytes_max)
        return TOK_ID_NONE;
    uint64_t hash = token_hash(bytes, n_bytes, text);
    uint32_t tag = (uint32_t)(hash >> 32), mask = vocab->n_slots - 1;
    for (uint32_t at = (uint32_t)hash & mask;; at = (at + 1) & mask) {
        const struct tok_slot *slot = &vocab->slots[at];
        if (slot->id_plus1 == 0)
            return TOK_ID_NONE;
        if (slot->tag == tag && entry_equals(vocab, slot->id_plus1 - 1, bytes, n_bytes, text))
            return slot->id_plus1 - 1;
    }
}

static void slots_insert(struct tok_slot *slots, uint32_t n_slots, uint64_t hash, uint32_t id)
{
    uint32_t mask = n_slots - 1, at = (uint32_t)hash & mask;
    while (slots[at].id_plus1 != 0)
        at = (at + 1) & mask;
    slots[at] = (struct tok_slot){.tag = (uint32_t)(hash >> 32), .id_plus1 = id + 1};
}

static enum status slots_grow(struct tok_vocab *vocab)
{
    uint32_t n_slots = vocab->n_slots * 4;
    struct tok_slot *slots = calloc(n_slots, sizeof(*slots));
    if (slots == NULL)
        return ST_NO_MEMORY;
    for (uint32_t id = 0; id < vocab->n_ids; id++) {
        const struct tok_entry *entry = &vocab->entries[id];
        if ((entry->flags & TOK_ENTRY_USED) != 0)
            slots_insert(slots, n_slots,
                         token_hash(vocab->blob.data + entry->offset, entry->bytes,
                                    (entry->flags & TOK_ENTRY_TEXT) != 0),
                         id);
    }
    free(vocab->slots);
    vocab->slots = slots;
    vocab->n_slots = n_slots;
    return ST_OK;
}

static enum status entries_reserve(struct tok_vocab *vocab, uint32_t n_ids)
{
    if (n_ids <= vocab->ids_cap)
        return ST_OK;
    uint32_t cap = vocab->ids_cap > 0 ? vocab->ids_cap : 1024;
    while (cap < n_ids)
        cap *= 2; /* n_ids <= 2^20, so this ends */
    struct tok_entry *entries = realloc(vocab->entries, cap * sizeof(*entries));
    if (entries == NULL)
        return ST_NO_MEMORY;
    memset(entries + vocab->ids_cap, 0, (cap - vocab->ids_cap) * sizeof(*entries));
    vocab->entries = entries;
    vocab->ids_cap = cap;
    return ST_OK;
}

enum status tok_vocab_put(struct tok_vocab *vocab, uint32_t id, const uint8_t *bytes,
                          size_t n_bytes, uint8_t flags)
{
    if (id >= TOK_VOCAB_MAX || n_bytes == 0)
        return ST_INVALID;
    bool text = (flags & TOK_ENTRY_TEXT) != 0;
    enum status st = entries_reserve(vocab, id + 1);
    if (st != ST_OK)
        return st;
    if ((vocab->entries[id].flags & TOK_ENTRY_USED) != 0 ||
        tok_vocab_find(vocab, bytes, n_bytes, text) != TOK_ID_NONE)
        return ST_EXISTS;
    if ((vocab->n_used + 1) * 2 > vocab->n_slots) {
        st = slots_grow(vocab);
        if (st != ST_OK)
            return st;
    }
    size_t offset = vocab->blob.len;
    st = buf_append(&vocab->blob, bytes, n_bytes);
    if (st != ST_OK)
        return st;
    vocab->entries[id] = (struct tok_entry){
        .offset = (uint32_t)offset,
        .bytes = (uint32_t)n_bytes,
        .flags = (uint8_t)(flags | TOK_ENTRY_USED),
    };
    slots_insert(vocab->slots, vocab->n_slots, token_hash(bytes, n_bytes, text), id);
    vocab->n_used++;
    if (id >= vocab->n_ids)
        vocab->n_ids = id + 1;
    if (n_bytes > vocab->token_bytes_max)
        vocab->token_bytes_max = (uint32_t)n_bytes;
    return ST_OK;
}

enum status tok_vocab_seal(struct tok_vocab *vocab)
{
    vocab->whole = calloc(vocab->n_ids > 0 ? vocab->n_ids : 1, sizeof(*vocab->whole));
    return vocab->whole != NULL ? ST_OK : ST_NO_MEMORY;
}

/* --- the byte-level alphabet --- */

/* Bytes that print in Latin-1 stand for themselves; the 68 others, in order, are U+0100 and up. */
static bool byte_stands_for_itself(uint32_t c)
{
    return (c >= 0x21 && c <= 0x7e) || (c >= 0xa1 && c <= 0xac) || (c >= 0xae && c <= 0xff);
}

/* Byte meant by a code point, or -1. */
static int alphabet_byte(uint32_t c)
{
    if (c < 0x100)
        return byte_stands_for_itself(c) ? (int)c : -1;
    if (c <= 0x120)
        return (int)(c - 0x100); /* 0x00 .. 0x20 */
    if (c <= 0x142)
        return (int)(c - 0x121 + 0x7f); /* 0x7f .. 0xa0 */
    return c == 0x143 ? 0xad : -1;
}

bool tok_alphabet_decode(const uint8_t *text, size_t n, uint8_t *out, size_t *out_n)
{
    size_t n_out = 0, step;
    for (size_t at = 0; at < n; at += step) {
        int byte = alphabet_byte(utf8_decode_valid(text + at, &step));
        if (byte < 0)
            return false;
        out[n_out++] = (uint8_t)byte;
    }
    *out_n = n_out;
    return true;
}
