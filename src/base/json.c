#include "base/json.h"

#include "base/hash.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum {
    DEPTH_MAX = 128,
    NUMBER_BYTES_MAX = 63, /* cJSON reads no more of a number than this */
    KEYS_INLINE = 64       /* slots before the key set moves to the heap */
};

/* One key seen in one object. `object` is a serial number, so that closing an object costs nothing;
 * 0 marks a free slot. */
struct key_slot {
    uint32_t object;
    uint32_t hash;
    size_t begin, end; /* raw text between the quotes */
};

struct key_set {
    struct key_slot *slots;
    uint32_t n_slots; /* power of two */
    uint32_t count;
    struct key_slot inline_slots[KEYS_INLINE];
};

struct parser {
    const uint8_t *text;
    size_t bytes, at;
    uint32_t depth, depth_max;
    uint32_t n_objects;
    uint32_t open[DEPTH_MAX]; /* serial number of an open object, 0 for an array */
    struct key_set keys;
    const char *message;
};

static enum status fail(struct parser *p, const char *message)
{
    p->message = message;
    return ST_PARSE;
}

/* --- UTF-8 --- */

/* Bytes of the character at data[0], 0 when it is not valid UTF-8 (Unicode table 3-7). */
static size_t utf8_char_bytes(const uint8_t *data, size_t bytes)
{
    uint8_t lead = data[0];
    uint8_t low = 0x80, high = 0xbf;
    size_t n;
    if (lead < 0x80)
        return 1;
    if (lead >= 0xc2 && lead <= 0xdf) {
        n = 2;
    } else if (lead >= 0xe0 && lead <= 0xef) {
        n = 3;
        if (lead == 0xe0)
            low = 0xa0; /* overlong below */
        if (lead == 0xed)
            high = 0x9f; /* surrogates above */
    } else if (lead >= 0xf0 && lead <= 0xf4) {
        n = 4;
        if (lead == 0xf0)
            low = 0x90;
        if (lead == 0xf4)
            high = 0x8f;
    } else {
        return 0;
    }
    if (bytes < n || data[1] < low || data[1] > high)
        return 0;
    for (size_t i = 2; i < n; i++)
        if (data[i] < 0x80 || data[i] > 0xbf)
            return 0;
    return n;
}

size_t utf8_valid_prefix(const uint8_t *data, size_t bytes)
{
    size_t at = 0;
    while (at < bytes) {
        size_t n = utf8_char_bytes(data + at, bytes - at);
        if (n == 0)
            break;
        at += n;
    }
    return at;
}

/* --- Escapes --- */

static int hex_digit(uint8_t c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Four hex digits at data[0..4), or -1. */
static int32_t hex4(const uint8_t *data, size_t bytes)
{
    if (bytes < 4)
        return -1;
    int32_t value = 0;
    for (int i = 0; i < 4; i++) {
        int digit = hex_digit(data[i]);
        if (digit < 0)
            return -1;
        value = value * 16 + digit;
    }
    return value;
}

/* Code point of the \u escape(s) that begin at text[*at] = '\\'; moves *at behind them. -1: none.
 */
static int32_t unicode_escape(const uint8_t *text, size_t end, size_t *at)
{
    int32_t unit = hex4(text + *at + 2, end - *at - 2);
    if (unit < 0 || (unit >= 0xdc00 && unit <= 0xdfff))
        return -1;
    *at += 6;
    if (unit < 0xd800 || unit > 0xdbff)
        return unit;
    if (end - *at < 6 || text[*at] != '\\' || text[*at + 1] != 'u')
        return -1;
    int32_t low = hex4(text + *at + 2, end - *at - 2);
    if (low < 0xdc00 || low > 0xdfff)
        return -1;
    *at += 6;
    return 0x10000 + (unit - 0xd800) * 0x400 + (low - 0xdc00);
}

static enum status escape_check(struct parser *p)
{
    if (p->bytes - p->at < 2)
        return fail(p, "string does not end");
    uint8_t c = p->text[p->at + 1];
    if (c != 'u') {
        if (c == 0 || strchr("\"\\/bfnrt", c) == NULL)
            return fail(p, "unknown escape in a string");
        p->at += 2;
        return ST_OK;
    }
    if (hex4(p->text + p->at + 2, p->bytes - p->at - 2) < 0)
        return fail(p, "\\u needs four hex digits");
    size_t at = p->at;
    int32_t code = unicode_escape(p->text, p->bytes, &at);
    if (code < 0)
        return fail(p, "lone surrogate in a string");
    if (code == 0)
        return fail(p, "\\u0000 is not accepted");
    p->at = at;
    return ST_OK;
}

/* At the opening quote; moves behind the closing one. */
static enum status string_check(struct parser *p, size_t *out_begin, size_t *out_end)
{
    *out_begin = ++p->at;
    while (p->at < p->bytes) {
        uint8_t c = p->text[p->at];
        if (c == '"') {
            *out_end = p->at++;
            return ST_OK;
        }
        if (c == '\\') {
            enum status st = escape_check(p);
            if (st != ST_OK)
                return st;
        } else if (c < 0x20) {
            return fail(p, "raw control character in a string");
        } else if (c < 0x80) {
            p->at++;
        } else {
            size_t n = utf8_char_bytes(p->text + p->at, p->bytes - p->at);
            if (n == 0)
                return fail(p, "invalid UTF-8 in a string");
            p->at += n;
        }
    }
    return fail(p, "string does not end");
}

/* --- Duplicate keys --- */

/* Next decoded unit of a checked string: a byte of UTF-8 text, or the code point of an escape that
 * is then compared through its UTF-8 bytes. */
struct key_reader {
    const uint8_t *text;
    size_t at, end;
    uint8_t pending[4]; /* UTF-8 of an escape, read before the text goes on */
    uint32_t n_pending, i_pending;
};

static void pending_set(struct key_reader *r, uint32_t code)
{
    uint8_t *out = r->pending;
    r->i_pending = 0;
    if (code < 0x80) {
        out[0] = (uint8_t)code;
        r->n_pending = 1;
    } else if (code < 0x800) {
        out[0] = (uint8_t)(0xc0 | code >> 6);
        out[1] = (uint8_t)(0x80 | (code & 0x3f));
        r->n_pending = 2;
    } else if (code < 0x10000) {
        out[0] = (uint8_t)(0xe0 | code >> 12);
        out[1] = (uint8_t)(0x80 | (code >> 6 & 0x3f));
        out[2] = (uint8_t)(0x80 | (code & 0x3f));
        r->n_pending = 3;
    } else {
        out[0] = (uint8_t)(0xf0 | code >> 18);
        out[1] = (uint8_t)(0x80 | (code >> 12 & 0x3f));
        out[2] = (uint8_t)(0x80 | (code >> 6 & 0x3f));
        out[3] = (uint8_t)(0x80 | (code & 0x3f));
        r->n_pending = 4;
    }
}

/* Next byte of the decoded key, -1 at its end. The text was checked before. */
static int key_next(struct key_reader *r)
{
    static const char escapes[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
    if (r->i_pending < r->n_pending)
        return r->pending[r->i_pending++];
    if (r->at >= r->end)
        return -1;
    uint8_t c = r->text[r->at];
    if (c != '\\') {
        r->at++;
        return c;
    }
    uint8_t kind = r->text[r->at + 1];
    if (kind != 'u') {
        r->at += 2;
        return (uint8_t)meanings[strchr(escapes, kind) - escapes];
    }
    pending_set(r, (uint32_t)unicode_escape(r->text, r->end, &r->at));
    return r->pending[r->i_pending++];
}

static bool key_equal(const uint8_t *text, const struct key_slot *a, const struct key_slot *b)
{
    struct key_reader ra = {.text = text, .at = a->begin, .end = a->end};
    struct key_reader rb = {.text = text, .at = b->begin, .end = b->end};
    int ca, cb;
    do {
        ca = key_next(&ra);
        cb = key_next(&rb);
    } while (ca == cb && ca >= 0);
    return ca == cb;
}

/* Random once a process, so that a client cannot choose keys that collide. */
static uint64_t key_seed(void)
{
    static _Atomic uint64_t seed;
    uint64_t value = atomic_load_explicit(&seed, memory_order_relaxed);
    if (value == 0) {
        uint64_t fresh = 0;
        if (getrandom(&fresh, sizeof(fresh), GRND_NONBLOCK) != (ssize_t)sizeof(fresh))
            fresh = (uint64_t)(uintptr_t)&seed; /* still differs by address space layout */
        fresh |= 1;
        if (atomic_compare_exchange_strong(&seed, &value, fresh))
            value = fresh;
    }
    return value;
}

static uint32_t key_hash(const uint8_t *text, const struct key_slot *key)
{
    struct key_reader r = {.text = text, .at = key->begin, .end = key->end};
    uint64_t h = hash_combine(key_seed(), key->object);
    uint64_t word = 0;
    uint32_t n = 0;
    for (int c; (c = key_next(&r)) >= 0;) {
        word = word << 8 | (uint64_t)c;
        if (++n % 8 == 0) {
            h = hash_mix64(h ^ word);
            word = 0;
        }
    }
    return (uint32_t)hash_mix64(h ^ word ^ ((uint64_t)n << 56));
}

static uint32_t key_slot_find(const struct key_set *set, const uint8_t *text,
                              const struct key_slot *key)
{
    uint32_t mask = set->n_slots - 1;
    uint32_t i = key->hash & mask;
    for (; set->slots[i].object != 0; i = (i + 1) & mask) {
        const struct key_slot *slot = &set->slots[i];
        if (slot->hash == key->hash && slot->object == key->object && key_equal(text, slot, key))
            break;
    }
    return i;
}

static enum status key_set_grow(struct key_set *set)
{
    if (set->n_slots > UINT32_MAX / 4)
        return ST_TOO_LARGE;
    uint32_t n_slots = set->n_slots * 4;
    struct key_slot *slots = calloc(n_slots, sizeof(*slots));
    if (slots == NULL)
        return ST_NO_MEMORY;
    for (uint32_t i = 0; i < set->n_slots; i++) {
        if (set->slots[i].object == 0)
            continue;
        uint32_t j = set->slots[i].hash & (n_slots - 1);
        while (slots[j].object != 0)
            j = (j + 1) & (n_slots - 1);
        slots[j] = set->slots[i];
    }
    if (set->slots != set->inline_slots)
        free(set->slots);
    set->slots = slots;
    set->n_slots = n_slots;
    return ST_OK;
}

static enum status key_add(struct parser *p, size_t begin, size_t end)
{
    struct key_set *set = &p->keys;
    struct key_slot key = {.object = p->open[p->depth - 1], .begin = begin, .end = end};
    key.hash = key_hash(p->text, &key);
    if (set->count * 2 >= set->n_slots) {
        enum status st = key_set_grow(set);
        if (st != ST_OK)
            return st;
    }
    struct key_slot *slot = &set->slots[key_slot_find(set, p->text, &key)];
    if (slot->object != 0) {
        p->at = begin - 1;
        return fail(p, "duplicate key in an object");
    }
    *slot = key;
    set->count++;
    return ST_OK;
}

/* --- Values --- */

static bool is_digit(const struct parser *p)
{
    return p->at < p->bytes && p->text[p->at] >= '0' && p->text[p->at] <= '9';
}

static bool take(struct parser *p, const char *set)
{
    if (p->at >= p->bytes || p->text[p->at] == 0 || strchr(set, p->text[p->at]) == NULL)
        return false;
    p->at++;
    return true;
}

static enum status digits_check(struct parser *p, const char *message)
{
    if (!is_digit(p))
        return fail(p, message);
    while (is_digit(p))
        p->at++;
    return ST_OK;
}

static enum status number_check(struct parser *p)
{
    size_t begin = p->at;
    bool has_exponent = false;
    enum status st = ST_OK;
    take(p, "-");
    if (take(p, "0")) {
        if (is_digit(p))
            return fail(p, "number has a leading zero");
    } else {
        st = digits_check(p, "number has no digits");
    }
    if (st == ST_OK && take(p, "."))
        st = digits_check(p, "number has no digits after the point");
    if (st == ST_OK && take(p, "eE")) {
        has_exponent = true;
        take(p, "+-");
        st = digits_check(p, "number has no digits in the exponent");
    }
    if (st != ST_OK)
        return st;
    size_t n = p->at - begin;
    if (n > NUMBER_BYTES_MAX) {
        p->at = begin;
        return fail(p, "number is too long");
    }
    if (has_exponent) {
        char text[NUMBER_BYTES_MAX + 1];
        memcpy(text, p->text + begin, n);
        text[n] = '\0';
        if (!isfinite(strtod(text, NULL))) {
            p->at = begin;
            return fail(p, "number is out of range");
        }
    }
    return ST_OK;
}

static enum status literal_check(struct parser *p, const char *word)
{
    size_t n = strlen(word);
    if (p->bytes - p->at < n || memcmp(p->text + p->at, word, n) != 0)
        return fail(p, "expected a value");
    p->at += n;
    return ST_OK;
}

enum expect { EXPECT_VALUE, EXPECT_FIRST_ITEM, EXPECT_FIRST_KEY, EXPECT_KEY, EXPECT_END };

static enum status nest_open(struct parser *p, bool is_object)
{
    if (p->depth == p->depth_max)
        return fail(p, "nested too deeply");
    if (is_object && ++p->n_objects == 0)
        return fail(p, "too many objects");
    p->open[p->depth++] = is_object ? p->n_objects : 0;
    p->at++;
    return ST_OK;
}

static enum status value_begin(struct parser *p, enum expect *expect)
{
    size_t begin, end;
    enum status st;
    switch (p->text[p->at]) {
    case '{':
        *expect = EXPECT_FIRST_KEY;
        return nest_open(p, true);
    case '[':
        *expect = EXPECT_FIRST_ITEM;
        return nest_open(p, false);
    case '"':
        st = string_check(p, &begin, &end);
        break;
    case 't':
        st = literal_check(p, "true");
        break;
    case 'f':
        st = literal_check(p, "false");
        break;
    case 'n':
        st = literal_check(p, "null");
        break;
    default:
        if (p->text[p->at] != '-' && !is_digit(p))
            return fail(p, "expected a value");
        st = number_check(p);
    }
    *expect = EXPECT_END;
    return st;
}

static void space_skip(struct parser *p)
{
    while (p->at < p->bytes) {
        uint8_t c = p->text[p->at];
        if (c != ' ' && c != '\t' && c != '\n' && c != '\r')
            return;
        p->at++;
    }
}

static enum status key_begin(struct parser *p, enum expect *expect)
{
    size_t begin, end;
    if (p->text[p->at] != '"')
        return fail(p, "expected a key in double quotes");
    enum status st = string_check(p, &begin, &end);
    if (st == ST_OK)
        st = key_add(p, begin, end);
    if (st != ST_OK)
        return st;
    space_skip(p);
    if (!take(p, ":"))
        return fail(p, "expected ':' after a key");
    *expect = EXPECT_VALUE;
    return ST_OK;
}

/* After a value inside an array or object. */
static enum status item_end(struct parser *p, enum expect *expect)
{
    bool in_object = p->open[p->depth - 1] != 0;
    if (take(p, ",")) {
        *expect = in_object ? EXPECT_KEY : EXPECT_VALUE;
        return ST_OK;
    }
    if (!take(p, in_object ? "}" : "]"))
        return fail(p, in_object ? "expected ',' or '}'" : "expected ',' or ']'");
    p->depth--;
    return ST_OK;
}

static enum status document_step(struct parser *p, enum expect *expect)
{
    switch (*expect) {
    case EXPECT_FIRST_ITEM:
    case EXPECT_FIRST_KEY:
        if (take(p, *expect == EXPECT_FIRST_KEY ? "}" : "]")) {
            p->depth--;
            *expect = EXPECT_END;
            return ST_OK;
        }
        return *expect == EXPECT_FIRST_KEY ? key_begin(p, expect) : value_begin(p, expect);
    case EXPECT_KEY:
        return key_begin(p, expect);
    case EXPECT_VALUE:
        return value_begin(p, expect);
    case EXPECT_END:
        break;
    }
    return p->depth > 0 ? item_end(p, expect) : fail(p, "unexpected text after the document");
}

static enum status document_check(struct parser *p)
{
    enum expect expect = EXPECT_VALUE;
    for (;;) {
        space_skip(p);
        if (p->at == p->bytes) {
            bool complete = expect == EXPECT_END && p->depth == 0;
            return complete ? ST_OK : fail(p, "document ends too early");
        }
        enum status st = document_step(p, &expect);
        if (st != ST_OK)
            return st;
    }
}

static void error_fill(const struct parser *p, enum status st, struct json_error *out_error)
{
    const char *message = st == ST_PARSE && p->message != NULL ? p->message : "not enough memory";
    *out_error = (struct json_error){.offset = p->at, .line = 1, .column = 1};
    for (size_t i = 0; i < p->at; i++) {
        out_error->column++;
        if (p->text[i] == '\n') {
            out_error->line++;
            out_error->column = 1;
        }
    }
    snprintf(out_error->message, sizeof(out_error->message), "%s", message);
}

enum status json_validate(const char *text, size_t bytes, uint32_t depth_max,
                          struct json_error *out_error)
{
    struct parser p;
    p.text = (const uint8_t *)text;
    p.bytes = bytes;
    p.at = 0;
    p.depth = 0;
    p.depth_max = depth_max < DEPTH_MAX ? depth_max : DEPTH_MAX;
    p.n_objects = 0;
    p.message = NULL;
    p.keys.slots = p.keys.inline_slots;
    p.keys.n_slots = KEYS_INLINE;
    p.keys.count = 0;
    memset(p.keys.inline_slots, 0, sizeof(p.keys.inline_slots));

    enum status st = document_check(&p);
    if (p.keys.slots != p.keys.inline_slots)
        free(p.keys.slots);
    if (st != ST_OK && out_error != NULL)
        error_fill(&p, st, out_error);
    return st;
}

enum status json_parse(const char *text, size_t bytes, uint32_t depth_max, cJSON **out,
                       struct json_error *out_error)
{
    enum status st = json_validate(text, bytes, depth_max, out_error);
    if (st != ST_OK)
        return st;
    cJSON *root = cJSON_ParseWithLength(text, bytes);
    if (root == NULL) { /* the text is valid, so an allocation failed */
        if (out_error != NULL)
            *out_error =
                (struct json_error){.line = 1, .column = 1, .message = "not enough memory"};
        return ST_NO_MEMORY;
    }
    *out = root;
    return ST_OK;
}

const cJSON *json_get(const cJSON *object, const char *name)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
    return item == NULL || cJSON_IsNull(item) ? NULL : item;
}

bool json_as_i64(const cJSON *item, int64_t min, int64_t max, int64_t *out)
{
    if (!cJSON_IsNumber(item))
        return false;
    double value = item->valuedouble;
    if (!(value >= -0x1p63 && value < 0x1p63) || value != floor(value))
        return false;
    int64_t integer = (int64_t)value;
    if (integer < min || integer > max)
        return false;
    *out = integer;
    return true;
}

static enum status escape_append(struct buf *buf, uint8_t c)
{
    static const char meanings[] = "\"\\\b\f\n\r\t", escapes[] = "\"\\bfnrt";
    const char *found = c != 0 ? strchr(meanings, c) : NULL;
    if (found != NULL)
        return buf_printf(buf, "\\%c", escapes[found - meanings]);
    return buf_printf(buf, "\\u%04x", c);
}

enum status json_append_string(struct buf *buf, const char *text, size_t bytes)
{
    size_t len_before = buf->len;
    size_t plain = 0; /* first byte not yet written */
    enum status st = buf_append(buf, "\"", 1);
    for (size_t i = 0; i < bytes && st == ST_OK; i++) {
        uint8_t c = (uint8_t)text[i];
        if (c >= 0x20 && c != '"' && c != '\\')
            continue;
        st = buf_append(buf, text + plain, i - plain);
        if (st == ST_OK)
            st = escape_append(buf, c);
        plain = i + 1;
    }
    if (st == ST_OK)
        st = buf_append(buf, text + plain, bytes - plain);
    if (st == ST_OK)
        st = buf_append(buf, "\"", 1);
    if (st != ST_OK)
        buf->len = len_before; /* a failed append leaves the buffer as it was */
    return st;
}
