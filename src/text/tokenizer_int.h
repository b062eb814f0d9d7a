/* Inside the tokenizer: its parts and what they promise each other.
 *
 *   text -> added tokens (raw) -> NFC -> added tokens (normalized) -> split stages -> BPE -> ids
 *
 * Everything here is built by the loader and constant afterwards, except tok_vocab.whole, whose
 * bytes are relaxed atomics that only remember a computed answer. */
#ifndef TEXT_TOKENIZER_INT_H
#define TEXT_TOKENIZER_INT_H

#define PCRE2_CODE_UNIT_WIDTH 8

#include "base/arena.h"
#include "base/buf.h"
#include "base/hash.h"
#include "base/status.h"
#include "text/tokenizer.h"

#include <pcre2.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    TOK_VOCAB_MAX = 1 << 20,
    TOK_FILE_BYTES_MAX = 128 << 20,
    TOK_TEXT_BYTES_MAX = 1 << 30,
    TOK_ADDED_MAX = 1 << 16,
    TOK_STAGES_MAX = 16,
    TOK_TEMPLATE_IDS_MAX = 16, /* on each side */
    PRETOK_MATCH_LIMIT = 50000000,
    PRETOK_HEAP_KIB_MAX = 256 << 10, /* of the interpreter, when there is no JIT */
};
#define TOK_ID_NONE UINT32_MAX

/* --- tok_vocab.c: token bytes by id, ids by token bytes --- */

enum tok_entry_flags {
    TOK_ENTRY_USED = 1,
    TOK_ENTRY_TEXT = 2, /* not of the byte alphabet: plain text that the model can never yield */
    TOK_ENTRY_SPECIAL = 4,
    TOK_ENTRY_ADDED = 8,
};

struct tok_entry {
    uint32_t offset, bytes; /* in tok_vocab.blob */
    uint8_t flags;
};

struct tok_slot {
    uint32_t tag;      /* high half of the hash */
    uint32_t id_plus1; /* 0: free */
};

enum tok_whole {
    TOK_WHOLE_UNKNOWN = 0,
    TOK_WHOLE_YES = 1, /* merging the token's own bytes yields the token */
    TOK_WHOLE_NO = 2,
};

struct tok_vocab {
    struct tok_entry *entries; /* [n_ids] */
    uint32_t n_ids, ids_cap;
    struct buf blob;
    struct tok_slot *slots; /* linear probing, load <= 1/2, power of two */
    uint32_t n_slots, n_used;
    uint32_t token_bytes_max;
    _Atomic uint8_t *whole; /* [n_ids] of enum tok_whole; made by tok_vocab_seal */
};

enum status tok_vocab_init(struct tok_vocab *vocab);
void tok_vocab_deinit(struct tok_vocab *vocab);
/* ST_EXISTS: the id or the bytes (of the same kind) are taken. ST_INVALID: id >= TOK_VOCAB_MAX. */
enum status tok_vocab_put(struct tok_vocab *vocab, uint32_t id, const uint8_t *bytes,
                          size_t n_bytes, uint8_t flags);
/* `text` chooses between the two kinds of entry. TOK_ID_NONE when absent. */
uint32_t tok_vocab_find(const struct tok_vocab *vocab, const uint8_t *bytes, size_t n_bytes,
                        bool text);
/* No more puts after it. */
enum status tok_vocab_seal(struct tok_vocab *vocab);

/* Translates a string of the byte-level alphabet (GPT-2's printable stand-ins for bytes) to the
 * bytes it means. out holds at least n bytes. False when a character is not of the alphabet. */
bool tok_alphabet_decode(const uint8_t *text, size_t n, uint8_t *out, size_t *out_n);

/* --- bpe.c: merges --- */

struct bpe_pair {
    uint64_t key; /* (left id + 1) << 32 | right id; 0: free slot */
    uint32_t rank;
    uint32_t id;
};

struct bpe {
    struct bpe_pair *pairs; /* linear probing, load <= 2/3, power of two */
    uint32_t n_slots;
    uint32_t byte_id[256]; /* TOK_ID_NONE: the byte is not in the vocabulary and is dropped */
    bool ignore_merges;
};

/* Buffers of one encode call, for pieces too long for the stack. */
struct bpe_scratch {
    void *memory;
    size_t bytes;
};

enum status bpe_init(struct bpe *bpe, uint32_t n_merges);
void bpe_deinit(struct bpe *bpe);
/* A later merge of the same pair replaces the earlier one. */
void bpe_merge_put(struct bpe *bpe, uint32_t left, uint32_t right, uint32_t rank, uint32_t id);
/* Appends the ids of one piece. */
enum status bpe_encode(const struct bpe *bpe, const struct tok_vocab *vocab,
                       struct bpe_scratch *scratch, const uint8_t *piece, size_t bytes,
                       struct token_buf *out);
void bpe_scratch_deinit(struct bpe_scratch *scratch);

/* --- split_regex.c: patterns written for Oniguruma (Ruby syntax), run by PCRE2 --- */

/* Compiles a pattern (or, when `literal`, a plain string) with JIT where the system allows it.
 * ST_UNSUPPORTED: a construct that the two engines read differently or that PCRE2 refuses; `why`
 * says which. */
enum status split_regex_compile(const uint8_t *pattern, size_t bytes, bool literal,
                                pcre2_code **out_code, char *why, size_t why_bytes);

/* --- pretokenize.c: the stages of the pre-tokenizer --- */

enum pretok_kind { PRETOK_SPLIT, PRETOK_PREFIX_SPACE };

enum pretok_behavior {
    PRETOK_ISOLATED,
    PRETOK_REMOVED,
    PRETOK_CONTIGUOUS,
    PRETOK_MERGED_WITH_PREVIOUS,
    PRETOK_MERGED_WITH_NEXT,
};

struct pretok_stage {
    enum pretok_kind kind;
    enum pretok_behavior behavior;
    bool invert;
    bool has_jit;
    pcre2_code *code; /* NULL for PRETOK_PREFIX_SPACE */
};

struct pretok {
    struct pretok_stage stages[TOK_STAGES_MAX];
    uint32_t n_stages;
    bool is_byte_level; /* the last step was read: the model's symbols are bytes */
    pcre2_match_context *limits;
};

typedef enum status (*on_piece_fn)(void *arg, const uint8_t *piece, size_t bytes);

void pretok_deinit(struct pretok *pretok);
/* Runs the stages over valid UTF-8 and calls on_piece for every piece, in order, none empty.
 * match    one call's match data, room for one pair */
enum status pretok_run(const struct pretok *pretok, pcre2_match_data *match, const uint8_t *text,
                       size_t bytes, on_piece_fn on_piece, void *arg);

/* --- nfc.c: normalisation form C --- */

struct nfc; /* which code points can take part in a change */

struct nfc *nfc_create(void);
void nfc_free(struct nfc *nfc);
/* True when text, valid UTF-8, is sure to be in form C already. */
bool nfc_is_normal(const struct nfc *nfc, const uint8_t *text, size_t bytes);
/* Appends text in form C. Linear in bytes, for any input. */
enum status nfc_append(const struct nfc *nfc, const uint8_t *text, size_t bytes, struct buf *out);

/* --- added_tokens.c: leftmost-longest matching of added tokens --- */

struct added_token {
    const uint8_t *content; /* what is matched; normalized where the token is */
    uint32_t bytes;
    uint32_t id;
    bool special, lstrip, rstrip, single_word;
};

struct added_set {
    struct added_token *tokens; /* sorted by content */
    uint32_t n_tokens;
    bool leads[256]; /* first bytes */
};

/* Sorts and indexes tokens[0..n); they must be different. The set takes no ownership. */
void added_set_init(struct added_set *set, struct added_token *tokens, uint32_t n_tokens);
/* Splits text: tokens go to `out`, the text between them to on_gap, in order.
 * skip_special  special tokens stay text, though they still hide what they overlap */
enum status added_set_split(const struct added_set *set, const uint8_t *text, size_t bytes,
                            bool skip_special, on_piece_fn on_gap, void *arg,
                            struct token_buf *out);
/* Decides about a token found at `match`: 0 takes it; n > 0 leaves it as text and looks for the
 * next token n bytes further on. */
typedef size_t (*added_filter_fn)(void *arg, const struct added_token *token, const uint8_t *match);
/* added_set_split with that decision left to the caller. `arg` goes to both functions. */
enum status added_set_split_filter(const struct added_set *set, const uint8_t *text, size_t bytes,
                                   added_filter_fn filter, on_piece_fn on_gap, void *arg,
                                   struct token_buf *out);

/* --- tokenizer.c, tokenizer_load.c --- */

struct token_template {
    uint32_t ids[TOK_TEMPLATE_IDS_MAX];
    uint32_t n_ids;
};

struct tokenizer {
    bool is_ids; /* the hash runner's: only vocab is used */
    struct hash128 hash;
    struct tok_vocab vocab;
    struct bpe bpe;
    struct pretok pretok;
    struct nfc *nfc;             /* NULL: no normalizer */
    struct arena arena;          /* contents of added tokens */
    struct added_set raw;        /* matched before normalisation */
    struct added_set normalized; /* matched after it */
    struct token_template prefix, suffix;
};

#endif
