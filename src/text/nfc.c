/* Normalisation form C (UAX 15) in linear time. utf8proc has the data and the composition; its own
 * reordering of combining marks is quadratic in their number, which a client could make large, so
 * runs of marks are sorted here.
 *
 * Most text is in form C. A bitmap marks the code points that can take part in a change: combining
 * classes other than 0, second halves of compositions, and what form C replaces. Text without them
 * is left alone; around them only the stretch from the starter before to the starter after is
 * rewritten. */
#include "text/tokenizer_int.h"
#include "text/utf8_scan.h"

#include <stdlib.h>
#include <utf8proc.h>

enum {
    MAPPED = 0x30000,    /* code points in the bitmap; the ones above count as active */
    EXPANSION_MAX = 4,   /* code points in one canonical decomposition */
    STRETCH_INLINE = 32, /* code points of a stretch that need no allocation */
    INSERTION_MAX = 16,  /* longest run of marks sorted by insertion */
};

struct nfc {
    uint64_t active[MAPPED / 64];
};

static bool is_active(const struct nfc *nfc, uint32_t c)
{
    return c >= 0x300 && (c >= MAPPED || (nfc->active[c / 64] >> (c % 64) & 1) != 0);
}

/* Form C of one code point is something else. */
static bool is_replaced(utf8proc_int32_t c)
{
    utf8proc_int32_t out[EXPANSION_MAX + 4];
    int boundary = 0;
    const utf8proc_option_t options = UTF8PROC_COMPOSE | UTF8PROC_STABLE;
    utf8proc_ssize_t n = utf8proc_decompose_char(c, out, EXPANSION_MAX, options, &boundary);
    if (n < 0 || n > EXPANSION_MAX)
        return true;
    n = utf8proc_normalize_utf32(out, n, options);
    return n != 1 || out[0] != c;
}

static bool can_change(utf8proc_int32_t c)
{
    if (c >= 0xac00 && c <= 0xd7a3)
        return false; /* Hangul syllables are composed already */
    if ((c >= 0x1161 && c <= 0x1175) || (c >= 0x11a8 && c <= 0x11c2))
        return true; /* vowel and trailing Jamo join what is before them */
    const utf8proc_property_t *p = utf8proc_get_property(c);
    if (p->combining_class != 0)
        return true;
    if (p->comb_index != UINT16_MAX && p->comb_index >= 0x8000)
        return true; /* second half of a composition */
    return p->decomp_seqindex != UINT16_MAX && p->decomp_type == 0 && is_replaced(c);
}

struct nfc *nfc_create(void)
{
    struct nfc *nfc = calloc(1, sizeof(*nfc));
    if (nfc == NULL)
        return NULL;
    for (uint32_t c = 0x300; c < MAPPED; c++)
        if (can_change((utf8proc_int32_t)c))
            nfc->active[c / 64] |= 1ull << (c % 64);
    return nfc;
}

void nfc_free(struct nfc *nfc)
{
    free(nfc);
}

bool nfc_is_normal(const struct nfc *nfc, const uint8_t *text, size_t bytes)
{
    size_t step;
    for (size_t at = 0; at < bytes; at += step) {
        if (text[at] < 0xcc) { /* below U+0300 */
            step = 1;
            continue;
        }
        if (is_active(nfc, utf8_decode_valid(text + at, &step)))
            return false;
    }
    return true;
}

static uint8_t class_of(utf8proc_int32_t c)
{
    return (uint8_t)utf8proc_get_property(c)->combining_class;
}

/* Stable sort of marks by combining class; `spare` has room for n. */
static void sort_marks(utf8proc_int32_t *marks, size_t n, utf8proc_int32_t *spare)
{
    if (n <= INSERTION_MAX) {
        for (size_t i = 1; i < n; i++) {
            utf8proc_int32_t mark = marks[i];
            uint8_t class = class_of(mark);
            size_t at = i;
            for (; at > 0 && class_of(marks[at - 1]) > class; at--)
                marks[at] = marks[at - 1];
            marks[at] = mark;
        }
        return;
    }
    size_t first[257] = {0};
    for (size_t i = 0; i < n; i++)
        first[class_of(marks[i]) + 1]++;
    for (int class = 1; class < 257; class ++)
        first[class] += first[class - 1];
    for (size_t i = 0; i < n; i++)
        spare[first[class_of(marks[i])]++] = marks[i];
    memcpy(marks, spare, n * sizeof(*marks));
}

static void sort_all_marks(utf8proc_int32_t *codes, size_t n, utf8proc_int32_t *spare)
{
    for (size_t at = 0; at < n;) {
        size_t end = at;
        while (end < n && class_of(codes[end]) != 0)
            end++;
        if (end > at + 1)
            sort_marks(codes + at, end - at, spare);
        at = end + 1;
    }
}

/* Decomposes text into codes, which has EXPANSION_MAX for every code point. */
static enum status decompose(const uint8_t *text, size_t bytes, utf8proc_int32_t *codes,
                             size_t *out_n)
{
    size_t n = 0, step;
    int boundary = 0;
    for (size_t at = 0; at < bytes; at += step) {
        utf8proc_ssize_t got = utf8proc_decompose_char(
            (utf8proc_int32_t)utf8_decode_valid(text + at, &step), codes + n, EXPANSION_MAX,
            UTF8PROC_COMPOSE | UTF8PROC_STABLE, &boundary);
        if (got < 0 || got > EXPANSION_MAX)
            return ST_INTERNAL; /* the Unicode data has no longer decomposition */
        n += (size_t)got;
    }
    *out_n = n;
    return ST_OK;
}

/* Appends form C of a stretch that no composition crosses. */
static enum status stretch_append(const uint8_t *text, size_t bytes, size_t n_codes,
                                  struct buf *out)
{
    utf8proc_int32_t inline_codes[2 * EXPANSION_MAX * STRETCH_INLINE];
    utf8proc_int32_t *codes = inline_codes;
    size_t room = EXPANSION_MAX * n_codes;
    if (n_codes > STRETCH_INLINE) {
        codes = malloc(2 * room * sizeof(*codes)); /* n_codes <= TOK_TEXT_BYTES_MAX */
        if (codes == NULL)
            return ST_NO_MEMORY;
    }
    size_t n;
    enum status st = decompose(text, bytes, codes, &n);
    if (st == ST_OK) {
        sort_all_marks(codes, n, codes + room);
        utf8proc_ssize_t composed = utf8proc_normalize_utf32(codes, (utf8proc_ssize_t)n,
                                                             UTF8PROC_COMPOSE | UTF8PROC_STABLE);
        st = composed < 0 ? ST_INTERNAL : buf_reserve(out, 4 * (size_t)composed);
        for (utf8proc_ssize_t i = 0; st == ST_OK && i < composed; i++)
            out->len += utf8_encode_to((uint32_t)codes[i], out->data + out->len);
    }
    if (codes != inline_codes)
        free(codes);
    return st;
}

enum status nfc_append(const struct nfc *nfc, const uint8_t *text, size_t bytes, struct buf *out)
{
    size_t copied = 0;  /* text[0..copied) is in `out` */
    size_t starter = 0; /* last inactive code point */
    size_t step;
    enum status st = ST_OK;
    for (size_t at = 0; st == ST_OK && at < bytes;) {
        if (!is_active(nfc, utf8_decode_valid(text + at, &step))) {
            starter = at;
            at += step;
            continue;
        }
        st = buf_append(out, text + copied, starter - copied);
        if (st != ST_OK)
            break;
        size_t n_codes = starter < at; /* the starter, if there is one */
        do {
            n_codes++;
            at += step;
        } while (at < bytes && is_active(nfc, utf8_decode_valid(text + at, &step)));
        st = stretch_append(text + starter, at - starter, n_codes, out);
        copied = starter = at;
    }
    return st == ST_OK ? buf_append(out, text + copied, bytes - copied) : st;
}
