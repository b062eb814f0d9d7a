/* Split patterns of tokenizer.json are written for Oniguruma with Ruby syntax; PCRE2 runs them.
 *
 * The pattern is copied piece by piece, and what the two engines read differently is rewritten:
 *   \s \S       PCRE2 counts U+180E as white space, Unicode does not: an explicit class
 *   \w \W       PCRE2 leaves out marks and connectors: properties, as Unicode (UTS 18) says
 *   \p{Han}     PCRE2 means Script_Extensions: \p{sc:Han}
 *   X{n,m}+     Ruby: one or more of X{n,m}; PCRE2: possessive. (?:X{n,m})+
 *   X{n}?       Ruby: optional X{n}. (?:X{n})?
 *   X{,m}       PCRE2 10.42 reads it as text: X{0,m}
 *   ^ $         Ruby anchors at lines: PCRE2_MULTILINE
 * What cannot be rewritten (set operations, back references, \b, \h and such) is refused by name,
 * so that a file is never split silently in another way. Loader thread. */
#include "text/tokenizer_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATTERN_BYTES_MAX = 1 << 16, GROUP_DEPTH_MAX = 64 };

#define SPACES                                                                                     \
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}"    \
    "\\x{205f}\\x{3000}"
#define NOT_SPACES                                                                                 \
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}"                   \
    "\\x{1681}-\\x{1fff}\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}"                 \
    "\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}"
#define WORD "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"

struct translator {
    const uint8_t *in;
    size_t n, at;
    struct buf out;
    bool in_class;
    bool has_atom;   /* a quantifier may follow; the atom began at out.data[atom] */
    size_t atom;     /* offsets in `out` */
    uint32_t n_open; /* groups */
    size_t open[GROUP_DEPTH_MAX];
    enum status st;
    char *why;
    size_t why_bytes;
};

static void refuse(struct translator *t, const char *what)
{
    if (t->st == ST_OK && t->why_bytes > 0)
        snprintf(t->why, t->why_bytes, "%s at byte %zu of the pattern", what, t->at);
    if (t->st == ST_OK)
        t->st = ST_UNSUPPORTED;
}

static void put(struct translator *t, const void *bytes, size_t n)
{
    if (t->st == ST_OK)
        t->st = buf_append(&t->out, bytes, n);
}

static void put_str(struct translator *t, const char *text)
{
    put(t, text, strlen(text));
}

static void begin_atom(struct translator *t)
{
    t->atom = t->out.len;
    t->has_atom = true;
}

/* \p{Name}, \P{Name}, \p{^Name}; `at` is behind the p. */
static void translate_property(struct translator *t, uint8_t escape)
{
    const uint8_t *end = memchr(t->in + t->at, '}', t->n - t->at);
    if (end == NULL || t->in[t->at] != '{') {
        refuse(t, "\\p without braces");
        return;
    }
    const uint8_t *name = t->in + t->at + 1;
    bool negated = escape == 'P';
    if (name < end && *name == '^') {
        negated = !negated;
        name++;
    }
    size_t n = (size_t)(end - name);
    put_str(t, negated ? "\\P{" : "\\p{");
    if (n > 2)
        put_str(t, "sc:"); /* a script; PCRE2 refuses what is none */
    put(t, name, n);
    put_str(t, "}");
    t->at = (size_t)(end - t->in) + 1;
}

/* \xHH, \x{H...}, \uHHHH: as \x{...}. `at` is behind the letter. */
static void translate_code(struct translator *t, uint8_t escape)
{
    char digits[9] = {0};
    size_t n = 0, max = escape == 'u' ? 4 : 2;
    bool braces = escape == 'x' && t->at < t->n && t->in[t->at] == '{';
    if (braces) {
        t->at++;
        max = 8;
    }
    while (t->at < t->n && n < max && strchr("0123456789abcdefABCDEF", t->in[t->at]) != NULL &&
           t->in[t->at] != 0)
        digits[n++] = (char)t->in[t->at++];
    bool closed = !braces || (t->at < t->n && t->in[t->at] == '}');
    if (n == 0 || (escape == 'u' && n != 4) || !closed) {
        refuse(t, "bad character code");
        return;
    }
    t->at += braces;
    unsigned long code = strtoul(digits, NULL, 16);
    if (escape == 'x' && !braces && code > 0x7f) {
        refuse(t, "\\x of a raw byte"); /* Oniguruma means bytes of UTF-8 */
        return;
    }
    if (t->st == ST_OK)
        t->st = buf_printf(&t->out, "\\x{%lx}", code);
}

static void put_class(struct translator *t, const char *members, const char *bare_open)
{
    if (t->in_class) {
        put_str(t, members);
        return;
    }
    put_str(t, bare_open);
    put_str(t, members);
    put_str(t, "]");
}

/* An escape, `at` on the byte behind the backslash. */
static void translate_escape(struct translator *t)
{
    if (t->at >= t->n) {
        refuse(t, "backslash at the end");
        return;
    }
    uint8_t c = t->in[t->at++];
    switch (c) {
    case 's':
        put_class(t, SPACES, "[");
        return;
    case 'S':
        put_class(t, NOT_SPACES, "[");
        return;
    case 'w':
        put_class(t, WORD, "[");
        return;
    case 'W':
        if (t->in_class)
            refuse(t, "\\W in a class");
        else
            put_str(t, "[^" WORD "]");
        return;
    case 'p':
    case 'P':
        translate_property(t, c);
        return;
    case 'x':
    case 'u':
        translate_code(t, c);
        return;
    case 'v':
        put_str(t, "\\x{b}");
        return;
    default:
        break;
    }
    bool letter = (c | 0x20) >= 'a' && (c | 0x20) <= 'z';
    bool digit = c >= '0' && c <= '9';
    if (digit || c >= 0x80 || (letter && strchr("dDnrtfae", c) == NULL)) {
        refuse(t, "escape not supported");
        return;
    }
    uint8_t pair[2] = {'\\', c};
    put(t, pair, 2);
}

static void translate_class(struct translator *t)
{
    begin_atom(t);
    put_str(t, "[");
    t->at++;
    if (t->at < t->n && t->in[t->at] == '^') {
        put_str(t, "^");
        t->at++;
    }
    if (t->at < t->n && t->in[t->at] == ']') {
        refuse(t, "empty class");
        return;
    }
    t->in_class = true;
    while (t->st == ST_OK && t->at < t->n && t->in[t->at] != ']') {
        uint8_t c = t->in[t->at];
        if (c == '[' || (c == '&' && t->at + 1 < t->n && t->in[t->at + 1] == '&')) {
            refuse(t, "set operation in a class");
        } else if (c == '\\') {
            t->at++;
            translate_escape(t);
        } else {
            put(t, &c, 1);
            t->at++;
        }
    }
    t->in_class = false;
    if (t->at >= t->n) {
        refuse(t, "class is not closed");
        return;
    }
    put_str(t, "]");
    t->at++;
}

/* An opening parenthesis with what follows it, as far as it is of a kind both engines agree on. */
static void translate_group_open(struct translator *t)
{
    static const char *const kinds[] = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:"};
    if (t->n_open == GROUP_DEPTH_MAX) {
        refuse(t, "groups nested too deep");
        return;
    }
    t->open[t->n_open++] = t->out.len;
    t->has_atom = false;
    size_t left = t->n - t->at;
    if (left > 1 && t->in[t->at + 1] != '?' && t->in[t->at + 1] != '*') {
        put_str(t, "(?:"); /* captures are of no use */
        t->at++;
        return;
    }
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        size_t n = strlen(kinds[i]);
        if (left >= n && memcmp(t->in + t->at, kinds[i], n) == 0) {
            put(t, kinds[i], n);
            t->at += n;
            return;
        }
    }
    /* (?i) at the very start is (?i: ... ) over everything in both; elsewhere they differ. */
    if (t->at == 0 && left >= 4 && memcmp(t->in, "(?i)", 4) == 0) {
        t->n_open--;
        put_str(t, "(?i)");
        t->at += 4;
        return;
    }
    refuse(t, "group not supported");
}

static void translate_group_close(struct translator *t)
{
    if (t->n_open == 0) {
        refuse(t, "parenthesis does not match");
        return;
    }
    t->atom = t->open[--t->n_open];
    t->has_atom = true;
    put_str(t, ")");
    t->at++;
}

/* Puts "(?:" in front of the atom and ")" behind it. */
static void wrap_atom(struct translator *t)
{
    put_str(t, ")   "); /* makes the room */
    if (t->st != ST_OK)
        return;
    memmove(t->out.data + t->atom + 3, t->out.data + t->atom, t->out.len - t->atom - 3);
    memcpy(t->out.data + t->atom, "(?:", 3);
}

/* Length of an interval {n}, {n,}, {n,m}, {,m} at `at`; 0 when the brace is plain text. */
static size_t interval_bytes(const struct translator *t, bool *out_fixed, bool *out_no_low)
{
    size_t at = t->at + 1, n_digits = 0, n_commas = 0;
    *out_no_low = at < t->n && t->in[at] == ',';
    for (; at < t->n && t->in[at] != '}'; at++) {
        if (t->in[at] == ',' && n_commas == 0)
            n_commas++;
        else if (t->in[at] >= '0' && t->in[at] <= '9')
            n_digits++;
        else
            return 0;
    }
    *out_fixed = n_commas == 0;
    return at < t->n && n_digits > 0 ? at + 1 - t->at : 0;
}

static void translate_interval(struct translator *t)
{
    bool fixed, no_low;
    size_t n = interval_bytes(t, &fixed, &no_low);
    if (n == 0) {
        begin_atom(t);
        put_str(t, "\\{");
        t->at++;
        return;
    }
    if (!t->has_atom) {
        refuse(t, "nothing to repeat");
        return;
    }
    put_str(t, no_low ? "{0" : "{");
    put(t, t->in + t->at + 1, n - 1);
    t->at += n;
    uint8_t next = t->at < t->n ? t->in[t->at] : 0;
    if (next == '+' || (next == '?' && fixed)) {
        wrap_atom(t);
        put(t, &next, 1);
        t->at++;
    } else if (next == '?') {
        put(t, &next, 1);
        t->at++;
    }
    t->has_atom = false;
}

static void translate_quantifier(struct translator *t)
{
    if (!t->has_atom) {
        refuse(t, "nothing to repeat");
        return;
    }
    put(t, &t->in[t->at++], 1);
    if (t->at < t->n && (t->in[t->at] == '?' || t->in[t->at] == '+'))
        put(t, &t->in[t->at++], 1);
    t->has_atom = false; /* a second quantifier means different things */
}

static void translate_char(struct translator *t)
{
    begin_atom(t);
    size_t n = 1;
    while (t->at + n < t->n && (t->in[t->at + n] & 0xc0) == 0x80)
        n++; /* a character of UTF-8 is one atom */
    put(t, t->in + t->at, n);
    t->at += n;
}

static void translate_one(struct translator *t)
{
    uint8_t c = t->in[t->at];
    switch (c) {
    case '\\':
        begin_atom(t);
        t->at++;
        translate_escape(t);
        break;
    case '[':
        translate_class(t);
        break;
    case '(':
        translate_group_open(t);
        break;
    case ')':
        translate_group_close(t);
        break;
    case '{':
        translate_interval(t);
        break;
    case '*':
    case '+':
    case '?':
        translate_quantifier(t);
        break;
    case '|':
    case '^':
    case '$':
        put(t, &c, 1);
        t->at++;
        t->has_atom = false;
        break;
    case 0:
        refuse(t, "NUL byte");
        break;
    default:
        translate_char(t);
        break;
    }
}

static enum status translate(const uint8_t *pattern, size_t bytes, struct buf *out, char *why,
                             size_t why_bytes)
{
    struct translator t = {.in = pattern, .n = bytes, .why = why, .why_bytes = why_bytes};
    buf_init(&t.out, 16u * PATTERN_BYTES_MAX + 1024);
    while (t.st == ST_OK && t.at < t.n)
        translate_one(&t);
    if (t.st == ST_OK && t.n_open > 0)
        refuse(&t, "group is not closed");
    *out = t.out;
    return t.st;
}

enum status split_regex_compile(const uint8_t *pattern, size_t bytes, bool literal,
                                pcre2_code **out_code, char *why, size_t why_bytes)
{
    if (why_bytes > 0)
        why[0] = '\0';
    if (bytes > PATTERN_BYTES_MAX) {
        snprintf(why, why_bytes, "longer than %d bytes", PATTERN_BYTES_MAX);
        return ST_UNSUPPORTED;
    }
    struct buf text;
    uint32_t options = PCRE2_UTF | PCRE2_NEVER_BACKSLASH_C;
    enum status st = ST_OK;
    if (literal) {
        options = PCRE2_UTF | PCRE2_LITERAL;
        buf_init(&text, PATTERN_BYTES_MAX);
        st = buf_append(&text, pattern, bytes);
    } else {
        options |= PCRE2_UCP | PCRE2_MULTILINE;
        st = translate(pattern, bytes, &text, why, why_bytes);
    }
    pcre2_compile_context *context = st == ST_OK ? pcre2_compile_context_create(NULL) : NULL;
    if (st == ST_OK && context == NULL)
        st = ST_NO_MEMORY;
    if (st == ST_OK) {
        int error;
        PCRE2_SIZE offset;
        pcre2_set_newline(context, PCRE2_NEWLINE_LF);
        *out_code = pcre2_compile(text.data != NULL ? text.data : (const uint8_t *)"", text.len,
                                  options, &error, &offset, context);
        if (*out_code == NULL) {
            PCRE2_UCHAR message[128] = {0};
            pcre2_get_error_message(error, message, sizeof(message));
            snprintf(why, why_bytes, "%s", (const char *)message);
            st = error == PCRE2_ERROR_HEAP_FAILED ? ST_NO_MEMORY : ST_UNSUPPORTED;
        } else {
            pcre2_jit_compile(*out_code, PCRE2_JIT_COMPLETE); /* refused: the interpreter runs */
        }
    }
    pcre2_compile_context_free(context);
    buf_deinit(&text);
    return st;
}
