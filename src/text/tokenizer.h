/* Tokenizer: text to token ids and back, read from a Hugging Face tokenizer.json of the byte-level
 * BPE family (GPT-2, Llama-3, Qwen2/2.5/3, o200k), or the trivial one that goes with the hash
 * runner.
 *
 * A loaded tokenizer does not change: every function that takes it as const may be called from any
 * number of threads at once. Token ids are dense enough to index arrays (vocab_size <= 2^20); ids
 * without a token may exist in between.
 *
 * Split patterns run on PCRE2 10.42, Unicode 14: letters assigned later are cut as unassigned code
 * points.
 *
 * Differences from the reference implementation, all on purpose:
 *  - Bytes that are not UTF-8 are replaced by U+FFFD before anything else, one for each maximal
 *    ill-formed part (Unicode 15, section 3.9; what Python calls errors="replace").
 *  - The model never yields the id of a special token: not by a merge, not by a whole-word match.
 *    Such ids come only from TOK_ALLOW_SPECIAL and TOK_ADD_BOS. (A vocabulary entry of one single
 *    byte stays ordinary text even where the file calls it special: it has no other spelling.)
 *  - NFC is that of the Unicode version of utf8proc (15). The reference has older tables (9): it
 *    leaves about a hundred combining marks assigned since in the order they were written.
 *  - Truncation and padding sections are ignored: the server has its own limits.
 *
 * Source: byte pair encoding, Sennrich et al. 2016, arXiv:1508.07909. */
#ifndef TEXT_TOKENIZER_H
#define TEXT_TOKENIZER_H

#include "base/hash.h"
#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

struct tokenizer;
struct chat_segment; /* text/template.h */

enum tokenizer_flags {
    /* Added tokens that the file marks special are recognised in the text. Only for text that the
     * server wrote itself (a rendered template), never for a user's. */
    TOK_ALLOW_SPECIAL = 1u << 0,
    /* Adds what the file's post-processor puts around one sequence: usually a BOS in front. */
    TOK_ADD_BOS = 1u << 1,
    /* Added tokens that are not special (such as <tool_call>) are plain text too. Without it they
     * are recognised, as the reference does. Implies that TOK_ALLOW_SPECIAL is ignored. */
    TOK_PLAIN_TEXT = 1u << 2,
};

/* Growable list of ids with a bound. One thread. */
struct token_buf {
    uint32_t *ids;
    size_t len, cap, max; /* ids */
};

void token_buf_init(struct token_buf *buf, size_t ids_max);
void token_buf_deinit(struct token_buf *buf);
/* ST_TOO_LARGE: `max` would be passed. ST_NO_MEMORY. */
enum status token_buf_append(struct token_buf *buf, const uint32_t *ids, size_t n_ids);

/* Reads tokenizer.json; `path` is the file or the model directory that holds it.
 * err      what is wrong, with path, field and byte offset; may be NULL
 * Errors   ST_NOT_FOUND, ST_IO, ST_TOO_LARGE (file over 128 MiB), ST_NO_MEMORY,
 *          ST_PARSE: malformed or contradictory, ST_UNSUPPORTED: names the field */
enum status tokenizer_load(const char *path, struct tokenizer **out_tokenizer, char *err,
                           size_t err_bytes);
/* The same from json[0..bytes), which is not kept. */
enum status tokenizer_load_memory(const char *json, size_t bytes, struct tokenizer **out_tokenizer,
                                  char *err, size_t err_bytes);
/* The tokenizer of the hash runner: id n is written as "n ". In text, a run of digits between
 * blanks that names an id is that id; every byte b of any other run is id b mod vocab_size; blanks
 * (space, tab, CR, LF) separate and are dropped. NULL: no memory, or vocab_size not in [1,
 * 2^20]. */
struct tokenizer *tokenizer_create_ids(uint32_t vocab_size);
void tokenizer_free(struct tokenizer *tokenizer); /* NULL is fine */

/* Appends the ids of text[0..bytes) to `out`; after an error `out` is as before.
 * flags    of enum tokenizer_flags
 * Errors   ST_TOO_LARGE: out->max would be passed, or text over 1 GiB. ST_NO_MEMORY.
 *          ST_INVALID: the split pattern ran out of its match budget on this text */
enum status tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t bytes,
                             uint32_t flags, struct token_buf *out);
/* Encodes a rendered chat template. Special tokens are recognised only where they lie wholly in
 * trusted segments; the text between them is encoded as one, across the borders of segments, so
 * that text without special tokens gets the same ids as from tokenizer_encode.
 * segments  [n_segments] in order, without gap or overlap, covering text[0..bytes)
 * add_bos   as TOK_ADD_BOS
 * Errors    as tokenizer_encode; also ST_INVALID: text is not UTF-8, or the segments do not cover
 *           it. After an error `out` is as before. */
enum status tokenizer_encode_segments(const struct tokenizer *tokenizer, const char *text,
                                      size_t bytes, const struct chat_segment *segments,
                                      uint32_t n_segments, bool add_bos, struct token_buf *out);

/* Largest id + 1, added tokens included. */
uint32_t tokenizer_vocab_size(const struct tokenizer *tokenizer);
/* Raw bytes of a token, not always UTF-8 by themselves; NULL and 0 for an id without a token. They
 * live as long as the tokenizer. */
void tokenizer_token_bytes(const struct tokenizer *tokenizer, uint32_t id,
                           const uint8_t **out_bytes, size_t *out_n_bytes);
/* True for added tokens marked special; false for an unknown id. */
bool tokenizer_token_is_special(const struct tokenizer *tokenizer, uint32_t id);
/* Id of the token with exactly these raw bytes, added tokens first. ST_NOT_FOUND. */
enum status tokenizer_id_of(const struct tokenizer *tokenizer, const char *text, size_t bytes,
                            uint32_t *out_id);
/* First id that TOK_ADD_BOS puts in front; false when it puts none. */
bool tokenizer_bos_id(const struct tokenizer *tokenizer, uint32_t *out_id);
/* First half of the SHA-256 of the file: identity for handshakes and cache keys. */
struct hash128 tokenizer_hash(const struct tokenizer *tokenizer);

#endif
