/* UTF-8 one code point at a time, with the replacement rule that the tokenizer and the detokenizer
 * share: each maximal ill-formed part counts as one U+FFFD. Any thread. */
#ifndef TEXT_UTF8_SCAN_H
#define TEXT_UTF8_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define UTF8_REPLACEMENT "\xef\xbf\xbd"

enum { UTF8_REPLACEMENT_BYTES = 3 };

/* What a lead byte asks for: Unicode 15, table 3-7. `need` is 0 for a byte that cannot lead. */
struct utf8_lead {
    uint8_t need;      /* bytes of the whole sequence */
    uint8_t low, high; /* range of the second byte */
};

static inline struct utf8_lead utf8_lead_of(uint8_t byte)
{
    if (byte < 0x80)
        return (struct utf8_lead){1, 0, 0};
    if (byte < 0xc2)
        return (struct utf8_lead){0, 0, 0};
    if (byte < 0xe0)
        return (struct utf8_lead){2, 0x80, 0xbf};
    if (byte < 0xf0)
        return (struct utf8_lead){3, byte == 0xe0 ? 0xa0 : 0x80, byte == 0xed ? 0x9f : 0xbf};
    if (byte < 0xf5)
        return (struct utf8_lead){4, byte == 0xf0 ? 0x90 : 0x80, byte == 0xf4 ? 0x8f : 0xbf};
    return (struct utf8_lead){0, 0, 0};
}

/* Length of the sequence at p[0..n), n > 0: a code point (true) or an ill-formed part (false). */
static inline bool utf8_step(const uint8_t *p, size_t n, size_t *out_bytes)
{
    struct utf8_lead lead = utf8_lead_of(p[0]);
    if (lead.need <= 1) {
        *out_bytes = 1;
        return lead.need == 1;
    }
    size_t i = 1;
    uint8_t low = lead.low, high = lead.high;
    while (i < lead.need && i < n && p[i] >= low && p[i] <= high) {
        low = 0x80;
        high = 0xbf;
        i++;
    }
    *out_bytes = i;
    return i == lead.need;
}

/* Decodes a code point of valid UTF-8. */
static inline uint32_t utf8_decode_valid(const uint8_t *p, size_t *out_bytes)
{
    uint32_t c = p[0];
    if (c < 0x80) {
        *out_bytes = 1;
        return c;
    }
    if (c < 0xe0) {
        *out_bytes = 2;
        return (c & 0x1f) << 6 | (p[1] & 0x3fu);
    }
    if (c < 0xf0) {
        *out_bytes = 3;
        return (c & 0x0f) << 12 | (p[1] & 0x3fu) << 6 | (p[2] & 0x3fu);
    }
    *out_bytes = 4;
    return (c & 0x07) << 18 | (p[1] & 0x3fu) << 12 | (p[2] & 0x3fu) << 6 | (p[3] & 0x3fu);
}

/* Writes at most 4 bytes and returns how many. `c` is a scalar value. */
static inline size_t utf8_encode_to(uint32_t c, uint8_t *out)
{
    if (c < 0x80) {
        out[0] = (uint8_t)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (uint8_t)(0xc0 | c >> 6);
        out[1] = (uint8_t)(0x80 | (c & 0x3f));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (uint8_t)(0xe0 | c >> 12);
        out[1] = (uint8_t)(0x80 | (c >> 6 & 0x3f));
        out[2] = (uint8_t)(0x80 | (c & 0x3f));
        return 3;
    }
    out[0] = (uint8_t)(0xf0 | c >> 18);
    out[1] = (uint8_t)(0x80 | (c >> 12 & 0x3f));
    out[2] = (uint8_t)(0x80 | (c >> 6 & 0x3f));
    out[3] = (uint8_t)(0x80 | (c & 0x3f));
    return 4;
}

/* Start of the code point that ends at p[at), at > 0, in valid UTF-8. */
static inline size_t utf8_prev_start(const uint8_t *p, size_t at)
{
    do {
        at--;
    } while (at > 0 && (p[at] & 0xc0) == 0x80);
    return at;
}

#endif
