/* Text of the template interpreter. Every function keeps the trust of the bytes that it takes over,
 * and counts its work as steps. `in` may be NULL only where jinja_lex.c says so: jstr_strip. */
#include "text/jinja.h"
#include "text/utf8_scan.h"

#include <string.h>
#include <utf8proc.h>

enum { TAIL_BYTES_MIN = 128 };

struct jvalue jvalue_text(const char *literal)
{
    return (struct jvalue){
        .kind = J_STRING,
        .u.str = {.data = literal, .bytes = (uint32_t)strlen(literal), .trusted = true}};
}

struct jvalue jvalue_of_str(struct jstr s)
{
    return (struct jvalue){.kind = J_STRING, .u.str = s};
}

bool jstr_trusted(const struct jstr *s)
{
    return s->mask == NULL ? s->trusted : s->bytes > 0 && memchr(s->mask, 0, s->bytes) == NULL;
}

bool jstr_is(const struct jstr *s, const char *text)
{
    return s->bytes == strlen(text) && memcmp(s->data, text, s->bytes) == 0;
}

struct jstr jstr_part(const struct jstr *s, uint32_t first, uint32_t bytes)
{
    return (struct jstr){.data = s->data + first,
                         .mask = s->mask != NULL ? s->mask + first : NULL,
                         .bytes = bytes,
                         .trusted = s->trusted};
}

static struct jstr empty_text(void)
{
    return (struct jstr){.data = "", .trusted = true};
}

struct jstr jstr_copy(struct jinterp *in, const char *data, size_t bytes, bool trusted)
{
    char *copy =
        jstep(in, bytes) && bytes <= JINJA_MEMORY_BYTES_MAX ? jtake(in, bytes + 1, 1) : NULL;
    if (copy == NULL) {
        jerror_set(&in->err, ST_TOO_LARGE, in->line, "template makes too long a text");
        return empty_text();
    }
    memcpy(copy, data, bytes);
    return (struct jstr){.data = copy, .bytes = (uint32_t)bytes, .trusted = trusted};
}

/* ---- concatenation ---- */

static void mask_copy(uint8_t *mask, const struct jstr *s)
{
    if (s->bytes == 0)
        return;
    if (s->mask != NULL)
        memcpy(mask, s->mask, s->bytes);
    else
        memset(mask, s->trusted, s->bytes);
}

/* `s` with room for `more` bytes behind it; NULL data: no memory. */
static struct jtail *tail_new(struct jinterp *in, const struct jstr *s, uint32_t more)
{
    size_t bytes = (size_t)s->bytes + more, cap = bytes + bytes / 2 + TAIL_BYTES_MIN;
    if (bytes > JINJA_MEMORY_BYTES_MAX) {
        jerror_set(&in->err, ST_TOO_LARGE, in->line, "template makes too long a text");
        return NULL;
    }
    struct jtail *tail = arena_alloc(&in->arena, sizeof(*tail) + 2 * cap);
    if (tail == NULL) {
        jerror_set(&in->err, ST_TOO_LARGE, in->line, "template needs too much memory");
        return NULL;
    }
    tail->data = (char *)(tail + 1);
    tail->mask = (uint8_t *)tail->data + cap;
    tail->cap = (uint32_t)cap;
    tail->used = s->bytes;
    if (s->bytes > 0)
        memcpy(tail->data, s->data, s->bytes);
    mask_copy(tail->mask, s);
    return tail;
}

struct jstr jstr_concat(struct jinterp *in, const struct jstr *a, const struct jstr *b)
{
    if (b->bytes == 0)
        return *a;
    if (a->bytes == 0)
        return *b;
    struct jtail *tail = a->tail;
    /* Only the text that ends where the room begins may use it: others share its bytes. */
    bool room = tail != NULL && a->data + a->bytes == tail->data + tail->used &&
                tail->cap - tail->used >= b->bytes;
    if (!jstep(in, room ? b->bytes : (size_t)a->bytes + b->bytes))
        return empty_text();
    if (!room) {
        tail = tail_new(in, a, b->bytes);
        if (tail == NULL)
            return empty_text();
    }
    struct jstr s = {.data = room ? a->data : tail->data,
                     .mask = room ? a->mask : tail->mask,
                     .tail = tail,
                     .bytes = a->bytes + b->bytes};
    memcpy(tail->data + tail->used, b->data, b->bytes);
    mask_copy(tail->mask + tail->used, b);
    tail->used += b->bytes;
    return s;
}

void jwrite(struct jwriter *w, const struct jstr *piece)
{
    w->text = jstr_concat(w->in, &w->text, piece);
}

void jwrite_literal(struct jwriter *w, const char *text, bool trusted)
{
    struct jstr piece = {.data = text, .bytes = (uint32_t)strlen(text), .trusted = trusted};
    jwrite(w, &piece);
}

void jwrite_temporary(struct jwriter *w, const char *text, bool trusted)
{
    struct jstr piece = jstr_copy(w->in, text, strlen(text), trusted);
    jwrite(w, &piece);
}

/* ---- characters ---- */

uint32_t jstr_char(const struct jstr *s, uint32_t at, uint32_t *out_point)
{
    const uint8_t *p = (const uint8_t *)s->data + at;
    size_t bytes;
    if (utf8_step(p, s->bytes - at, &bytes)) {
        *out_point = utf8_decode_valid(p, &bytes);
        return (uint32_t)bytes;
    }
    *out_point = 0xfffd;
    return 1;
}

uint32_t jstr_count(const struct jstr *s)
{
    uint32_t point, n = 0;
    for (uint32_t at = 0; at < s->bytes; n++)
        at += jstr_char(s, at, &point);
    return n;
}

uint32_t jstr_offset(const struct jstr *s, uint32_t from, int64_t chars)
{
    uint32_t point;
    for (; chars > 0 && from < s->bytes; chars--)
        from += jstr_char(s, from, &point);
    return from;
}

bool jchar_is_space(uint32_t c)
{
    return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 ||
           c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 ||
           c == 0x202f || c == 0x205f || c == 0x3000;
}

/* ---- searching ---- */

uint32_t jstr_find(const struct jstr *s, const struct jstr *needle, uint32_t from)
{
    if (from > s->bytes || needle->bytes > s->bytes - from)
        return UINT32_MAX;
    if (needle->bytes == 0)
        return from;
    const char *at = memmem(s->data + from, s->bytes - from, needle->data, needle->bytes);
    return at != NULL ? (uint32_t)(at - s->data) : UINT32_MAX;
}

static bool strips(const struct jstr *chars, uint32_t point)
{
    uint32_t other;
    if (chars == NULL)
        return jchar_is_space(point);
    for (uint32_t at = 0; at < chars->bytes;) {
        at += jstr_char(chars, at, &other);
        if (other == point)
            return true;
    }
    return false;
}

struct jstr jstr_strip(struct jinterp *in, const struct jstr *s, const struct jstr *chars,
                       bool left, bool right)
{
    uint32_t first = 0, last = s->bytes, point, bytes;
    while (left && first < last) {
        bytes = jstr_char(s, first, &point);
        if (!strips(chars, point))
            break;
        first += bytes;
    }
    while (right && last > first) {
        uint32_t start = (uint32_t)utf8_prev_start((const uint8_t *)s->data + first, last - first);
        bytes = jstr_char(s, first + start, &point);
        if (first + start + bytes != last || !strips(chars, point))
            break;
        last = first + start;
    }
    if (in != NULL)
        jstep(in, (size_t)(s->bytes - (last - first)) * (chars != NULL ? 1 + chars->bytes : 1));
    return jstr_part(s, first, last - first);
}

struct jstr jstr_replace(struct jinterp *in, const struct jstr *s, const struct jstr *from,
                         const struct jstr *to, int64_t count_max)
{
    struct jwriter w = {.in = in, .text = empty_text()};
    uint32_t at = 0, copied = 0, point;
    if (count_max < 0)
        count_max = INT64_MAX;
    if (!jstep(in, s->bytes) || (from->bytes > 0 && jstr_find(s, from, 0) == UINT32_MAX))
        return *s;
    for (; count_max > 0 && at <= s->bytes && in->err.st == ST_OK; count_max--) {
        uint32_t found = jstr_find(s, from, at);
        if (found == UINT32_MAX)
            break;
        struct jstr before = jstr_part(s, copied, found - copied);
        jwrite(&w, &before);
        jwrite(&w, to);
        copied = found + from->bytes;
        at = copied;
        if (from->bytes == 0) /* between any two characters, and at both ends */
            at = found < s->bytes ? found + jstr_char(s, found, &point) : s->bytes + 1;
        jstep(in, 0);
    }
    struct jstr rest = jstr_part(s, copied, s->bytes - copied);
    jwrite(&w, &rest);
    return w.text;
}

/* ---- case ---- */

static uint32_t recase_char(uint32_t c, enum jcase how, bool first)
{
    int32_t point = (int32_t)c;
    switch (how) {
    case JCASE_UPPER:
        return (uint32_t)utf8proc_toupper(point);
    case JCASE_LOWER:
        return (uint32_t)utf8proc_tolower(point);
    case JCASE_SWAP:
        return (uint32_t)(utf8proc_category(point) == UTF8PROC_CATEGORY_LU
                              ? utf8proc_tolower(point)
                              : utf8proc_toupper(point));
    case JCASE_WORDS:
        return (uint32_t)(first ? utf8proc_toupper(point) : utf8proc_tolower(point));
    default:
        return (uint32_t)(first ? utf8proc_totitle(point) : utf8proc_tolower(point));
    }
}

/* Whether the next character begins a word, behind `c`. */
static bool begins_word(enum jcase how, uint32_t c)
{
    utf8proc_category_t category = utf8proc_category((int32_t)c);
    if (how == JCASE_TITLE) /* str.title: behind whatever has no case */
        return category != UTF8PROC_CATEGORY_LU && category != UTF8PROC_CATEGORY_LL &&
               category != UTF8PROC_CATEGORY_LT;
    if (how == JCASE_WORDS) /* the filter */
        return jchar_is_space(c) || (c < 0x80 && strchr("-({[<", (int)c) != NULL && c != 0);
    return false;
}

struct jstr jstr_recase(struct jinterp *in, const struct jstr *s, enum jcase how)
{
    /* utf8proc maps one character to one; the sharp s is the only common letter that becomes two.
     */
    size_t room = 2 * (size_t)s->bytes + 4, n = 0;
    bool first = true;
    if (!jstep(in, 8 * (size_t)s->bytes))
        return empty_text();
    uint8_t *out = jtake(in, room, 1);
    if (out == NULL)
        return empty_text();
    for (uint32_t at = 0; at < s->bytes && n + 4 <= room;) {
        uint32_t c;
        uint32_t bytes = jstr_char(s, at, &c);
        bool upper = how == JCASE_UPPER || how == JCASE_SWAP || (first && how == JCASE_WORDS);
        if (c == 0xdf && (upper || (first && how != JCASE_LOWER))) {
            out[n++] = 'S';
            out[n++] = upper ? 'S' : 's';
        } else if (c == 0xfffd) {
            memcpy(out + n, s->data + at, bytes);
            n += bytes;
        } else {
            n += utf8_encode_to(recase_char(c, how, first), out + n);
        }
        first = begins_word(how, c);
        at += bytes;
    }
    return (struct jstr){.data = (char *)out, .bytes = (uint32_t)n, .trusted = jstr_trusted(s)};
}
