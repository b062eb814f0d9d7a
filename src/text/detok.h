/* Streaming detokenizer of one sequence: token ids in, whole code points out. The concatenation of
 * all it writes equals decoding the concatenated token bytes at once, each maximal ill-formed part
 * replaced by U+FFFD. State is 4 carried bytes, a function of the token log alone, so replaying the
 * log rebuilds it. One thread; embeds by value, needs no deinit. */
#ifndef TEXT_DETOK_H
#define TEXT_DETOK_H

#include "base/buf.h"
#include "base/status.h"
#include "text/tokenizer.h"

#include <stdint.h>

struct detok {
    const struct tokenizer *tokenizer; /* borrowed */
    bool skip_special;
    uint8_t n_carry;   /* bytes of an unfinished code point, at most 3 */
    uint8_t n_need;    /* bytes of the whole one */
    uint8_t low, high; /* range of the next byte */
    uint8_t carry[4];
};

/* skip_special: special tokens write nothing. */
void detok_init(struct detok *detok, const struct tokenizer *tokenizer, bool skip_special);
/* Appends the text that became certain with this token; often none, for part of a character. Ids
 * without a token write nothing. After an error (ST_TOO_LARGE, ST_NO_MEMORY) nothing has changed.
 */
enum status detok_feed(struct detok *detok, uint32_t id, struct buf *out);
/* Ends the sequence: an unfinished character becomes one U+FFFD. The state is as after init. */
enum status detok_flush(struct detok *detok, struct buf *out);

#endif
