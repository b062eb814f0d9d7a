/* Lexer of chat templates: text outside of tags, with the white space that tags take away, and the
 * tokens inside of them. Any thread. */
#include "base/json.h"
#include "text/jinja.h"
#include "text/utf8_scan.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BRACKETS_MAX = 128, NUMBER_CHARS_MAX = 64 };

struct lexer {
    const char *s; /* line breaks are \n, the last one is gone */
    size_t n, at;
    struct arena *arena;
    struct jerror *err;
    struct jtoken *tokens, none; /* none: after memory ran out */
    size_t n_tokens, cap;
    uint32_t line;
    bool line_start; /* what came last ended with a line break */
    char brackets[BRACKETS_MAX];
    uint32_t n_brackets;
};

void jerror_set(struct jerror *err, enum status st, uint32_t line, const char *format, ...)
{
    va_list args;
    if (err->st != ST_OK)
        return;
    err->st = st;
    if (err->bytes == 0)
        return;
    int n = line > 0 ? snprintf(err->text, err->bytes, "line %u: ", line) : 0;
    va_start(args, format);
    if (n >= 0 && (size_t)n < err->bytes)
        vsnprintf(err->text + n, err->bytes - (size_t)n, format, args);
    va_end(args);
    err->text[utf8_valid_prefix((const uint8_t *)err->text, strlen(err->text))] = '\0';
}

static bool failed(const struct lexer *l)
{
    return l->err->st != ST_OK;
}

static bool at_text(const struct lexer *l, size_t at, const char *text)
{
    size_t bytes = strlen(text);
    return at <= l->n && l->n - at >= bytes && memcmp(l->s + at, text, bytes) == 0;
}

static void advance(struct lexer *l, size_t to)
{
    for (; l->at < to; l->at++)
        l->line += l->s[l->at] == '\n';
}

static size_t space_end(const struct lexer *l, size_t at)
{
    struct jstr all = {.data = l->s, .bytes = (uint32_t)l->n};
    uint32_t point;
    while (at < l->n) {
        uint32_t bytes = jstr_char(&all, (uint32_t)at, &point);
        if (!jchar_is_space(point))
            break;
        at += bytes;
    }
    return at;
}

static struct jtoken *token_add(struct lexer *l, enum jtoken_kind kind, const char *text,
                                size_t bytes)
{
    if (l->n_tokens == l->cap) {
        size_t cap = l->cap > 0 ? 2 * l->cap : 64;
        struct jtoken *tokens = arena_calloc(l->arena, cap, sizeof(*tokens));
        if (tokens == NULL) {
            jerror_set(l->err, ST_NO_MEMORY, l->line, "template is too large");
            return &l->none;
        }
        if (l->n_tokens > 0)
            memcpy(tokens, l->tokens, l->n_tokens * sizeof(*tokens));
        l->tokens = tokens;
        l->cap = cap;
    }
    struct jtoken *t = &l->tokens[l->n_tokens++];
    t->kind = kind;
    t->line = l->line;
    t->bytes = (uint32_t)bytes;
    t->text = text;
    return t;
}

static void token_add_copy(struct lexer *l, enum jtoken_kind kind, size_t from, size_t to)
{
    const char *copy = arena_dup(l->arena, l->s + from, to - from);
    if (copy == NULL)
        jerror_set(l->err, ST_NO_MEMORY, l->line, "template is too large");
    else
        token_add(l, kind, copy, to - from);
}

/* ---- inside of a tag ---- */

static uint32_t hex_value(const char *s, uint32_t digits)
{
    uint32_t value = 0;
    for (uint32_t i = 0; i < digits; i++) {
        if (!isxdigit((unsigned char)s[i]))
            return UINT32_MAX;
        value = value * 16 + (uint32_t)(isdigit((unsigned char)s[i])
                                            ? s[i] - '0'
                                            : tolower((unsigned char)s[i]) - 'a' + 10);
    }
    return value;
}

/* The escape behind a backslash at s[at] in [at, end); writes at most 4 bytes. Returns where it
 * ends. */
static size_t lex_escape(struct lexer *l, size_t at, size_t end, uint8_t *out, size_t *out_bytes)
{
    static const char names[] = "ntr\\'\"abfv", values[] = "\n\t\r\\'\"\a\b\f\v";
    char c = l->s[at];
    const char *known = c != '\0' ? strchr(names, c) : NULL;
    uint32_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0, point;
    if (c == '\n') { /* the line goes on */
        *out_bytes = 0;
        return at + 1;
    }
    if (known != NULL) {
        out[0] = (uint8_t)values[known - names];
        *out_bytes = 1;
        return at + 1;
    }
    if (c >= '0' && c <= '7') {
        size_t i = at;
        for (point = 0; i < end && i < at + 3 && l->s[i] >= '0' && l->s[i] <= '7'; i++)
            point = point * 8 + (uint32_t)(l->s[i] - '0');
        *out_bytes = utf8_encode_to(point, out);
        return i;
    }
    if (digits > 0) {
        point = end - at > digits ? hex_value(l->s + at + 1, digits) : UINT32_MAX;
        if (point > 0x10ffff || (point >= 0xd800 && point < 0xe000))
            jerror_set(l->err, ST_PARSE, l->line, "bad escape '\\%c' in a string", c);
        else
            *out_bytes = utf8_encode_to(point, out);
        return at + 1 + digits;
    }
    if (c == 'N')
        jerror_set(l->err, ST_UNSUPPORTED, l->line, "escape '\\N' is not supported");
    out[0] = '\\'; /* an unknown escape stands for itself */
    *out_bytes = 1;
    return at;
}

static void lex_string(struct lexer *l)
{
    char quote = l->s[l->at];
    size_t start = l->at + 1, end = start, n = 0;
    while (end < l->n && l->s[end] != quote)
        end += l->s[end] == '\\' ? 2 : 1;
    if (end >= l->n) {
        jerror_set(l->err, ST_PARSE, l->line, "string without an end");
        return;
    }
    uint8_t *out = arena_alloc(l->arena, end - start + 1);
    if (out == NULL) {
        jerror_set(l->err, ST_NO_MEMORY, l->line, "template is too large");
        return;
    }
    for (size_t i = start; i < end && !failed(l);) {
        if (l->s[i] != '\\') {
            out[n++] = (uint8_t)l->s[i++];
            continue;
        }
        uint8_t decoded[4];
        size_t bytes = 0;
        i = lex_escape(l, i + 1, end, decoded, &bytes);
        memcpy(out + n, decoded, bytes); /* no escape is shorter than what it stands for */
        n += bytes;
    }
    out[n] = '\0';
    token_add(l, JT_STRING, (const char *)out, n);
    advance(l, end + 1);
}

/* Digits with single underscores between them, copied to digits[*n]. */
static size_t lex_digits(const struct lexer *l, size_t at, char *digits, size_t *n)
{
    while (at < l->n && *n < NUMBER_CHARS_MAX - 1) {
        bool gap = l->s[at] == '_' && at + 1 < l->n && isdigit((unsigned char)l->s[at + 1]);
        if (!isdigit((unsigned char)l->s[at]) && !gap)
            break;
        if (!gap)
            digits[(*n)++] = l->s[at];
        at++;
    }
    return at;
}

static bool digit_at(const struct lexer *l, size_t at)
{
    return at < l->n && isdigit((unsigned char)l->s[at]);
}

static void lex_number(struct lexer *l)
{
    char digits[NUMBER_CHARS_MAX];
    size_t n = 0, end = lex_digits(l, l->at, digits, &n), start = l->at;
    bool real = false, after_point = start > 0 && l->s[start - 1] == '.';
    if (!after_point && end < l->n && l->s[end] == '.' && digit_at(l, end + 1)) {
        digits[n < NUMBER_CHARS_MAX - 1 ? n++ : n] = '.';
        end = lex_digits(l, end + 1, digits, &n);
        real = true;
    }
    if (!after_point && end < l->n && (l->s[end] == 'e' || l->s[end] == 'E')) {
        size_t sign = end + 1 < l->n && (l->s[end + 1] == '+' || l->s[end + 1] == '-');
        if (digit_at(l, end + 1 + sign) && n + 2 < NUMBER_CHARS_MAX) {
            digits[n++] = 'e';
            if (sign)
                digits[n++] = l->s[end + 1];
            end = lex_digits(l, end + 1 + sign, digits, &n);
            real = true;
        }
    }
    digits[n < NUMBER_CHARS_MAX ? n : NUMBER_CHARS_MAX - 1] = '\0';
    errno = 0;
    struct jtoken *t = token_add(l, real ? JT_FLOAT : JT_INT, "number", 6);
    if (real)
        t->u.real = strtod(digits, NULL);
    else
        t->u.integer = strtoll(digits, NULL, 10);
    bool leading_zero = !real && n > 1 && digits[0] == '0' && strspn(digits, "0") != n;
    bool runs_on = end < l->n && (isalpha((unsigned char)l->s[end]) || l->s[end] == '_');
    if ((!real && errno == ERANGE) || n >= NUMBER_CHARS_MAX - 1 || leading_zero ||
        (runs_on && !real && end == start + 1 && digits[0] == '0'))
        jerror_set(l->err, ST_PARSE, l->line, "bad number '%s'", digits);
    l->at = end;
}

static void lex_bracket(struct lexer *l, char c)
{
    if (strchr("([{", c) != NULL) {
        if (l->n_brackets == BRACKETS_MAX)
            jerror_set(l->err, ST_TOO_LARGE, l->line, "nested too deeply");
        else
            l->brackets[l->n_brackets++] = c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (strchr(")]}", c) != NULL) {
        if (l->n_brackets == 0 || l->brackets[l->n_brackets - 1] != c)
            jerror_set(l->err, ST_PARSE, l->line, "unexpected '%c'", c);
        else
            l->n_brackets--;
    }
}

static void lex_operator(struct lexer *l)
{
    static const char *const two[] = {"**", "//", "==", "!=", ">=", "<="};
    size_t bytes = 1;
    for (size_t i = 0; i < sizeof(two) / sizeof(*two); i++)
        if (at_text(l, l->at, two[i]))
            bytes = 2;
    char c = l->s[l->at];
    if (bytes == 1 && (c == '\0' || strchr("+-/*%~[](){}><=.:|,;", c) == NULL)) {
        if (isprint((unsigned char)c))
            jerror_set(l->err, ST_PARSE, l->line, "unexpected character '%c'", c);
        else
            jerror_set(l->err, ST_PARSE, l->line, "unexpected byte 0x%02x", (unsigned char)c);
        return;
    }
    if (bytes == 1)
        lex_bracket(l, c);
    token_add_copy(l, JT_OP, l->at, l->at + bytes);
    l->at += bytes;
}

/* The end of a tag at l->at: its length with the white space it takes, or 0. */
static size_t tag_end(const struct lexer *l, const char *close)
{
    bool is_block = close[0] == '%';
    if (l->s[l->at] == '-' && at_text(l, l->at + 1, close))
        return space_end(l, l->at + 3) - l->at;
    if (is_block && l->s[l->at] == '+' && at_text(l, l->at + 1, close))
        return 3;
    if (at_text(l, l->at, close))
        return is_block && l->at + 2 < l->n && l->s[l->at + 2] == '\n' ? 3 : 2;
    return 0;
}

static void lex_tag(struct lexer *l, bool is_block)
{
    const char *close = is_block ? "%}" : "}}";
    l->n_brackets = 0;
    token_add(l, is_block ? JT_BLOCK_BEGIN : JT_OUTPUT_BEGIN, is_block ? "{%" : "{{", 2);
    while (!failed(l)) {
        advance(l, space_end(l, l->at));
        if (l->at >= l->n) {
            jerror_set(l->err, ST_PARSE, l->line, "tag without an end, '%s' is missing", close);
            return;
        }
        size_t end_bytes = l->n_brackets == 0 ? tag_end(l, close) : 0;
        unsigned char c = (unsigned char)l->s[l->at];
        if (end_bytes > 0) {
            token_add(l, is_block ? JT_BLOCK_END : JT_OUTPUT_END, close, 2);
            advance(l, l->at + end_bytes);
            l->line_start = l->s[l->at - 1] == '\n';
            return;
        }
        if (c == '\'' || c == '"') {
            lex_string(l);
        } else if (isdigit(c)) {
            lex_number(l);
        } else if (isalpha(c) || c == '_') {
            size_t end = l->at;
            while (end < l->n && (isalnum((unsigned char)l->s[end]) || l->s[end] == '_'))
                end++;
            token_add_copy(l, JT_NAME, l->at, end);
            l->at = end;
        } else {
            lex_operator(l);
        }
    }
}

/* ---- outside ---- */

/* Text up to `end`, where a tag begins that strips as `sign` says. */
static void lex_text(struct lexer *l, size_t end, char sign, bool is_output)
{
    size_t start = l->at, keep = end;
    if (sign == '-') {
        struct jstr text = {.data = l->s + start, .bytes = (uint32_t)(end - start)};
        keep = start + jstr_strip(NULL, &text, NULL, false, true).bytes;
    } else if (sign != '+' && !is_output) {
        size_t line = end;
        while (line > start && l->s[line - 1] != '\n')
            line--;
        if ((line > start || l->line_start) && space_end(l, line) >= end)
            keep = line;
    }
    if (keep > start)
        token_add_copy(l, JT_TEXT, start, keep);
    advance(l, end);
}

static char sign_at(const struct lexer *l, size_t at)
{
    return at < l->n && (l->s[at] == '-' || l->s[at] == '+') ? l->s[at] : '\0';
}

static void lex_comment(struct lexer *l)
{
    size_t start = l->at + 2 + (sign_at(l, l->at + 2) != '\0'), end = start;
    while (end < l->n && !at_text(l, end, "#}"))
        end++;
    if (end >= l->n) {
        jerror_set(l->err, ST_PARSE, l->line, "comment without an end");
        return;
    }
    char sign = end > start ? sign_at(l, end - 1) : '\0';
    end += 2;
    if (sign == '-')
        end = space_end(l, end);
    else if (sign == '\0' && end < l->n && l->s[end] == '\n')
        end++;
    advance(l, end);
    l->line_start = l->s[end - 1] == '\n';
}

/* Where a tag of just `word` that begins at `at` closes (in front of its "-%}" or "%}"); 0: none.
 */
static size_t word_tag(const struct lexer *l, size_t at, const char *word)
{
    if (!at_text(l, at, "{%"))
        return 0;
    at = space_end(l, at + 2 + (sign_at(l, at + 2) != '\0'));
    if (!at_text(l, at, word))
        return 0;
    at = space_end(l, at + strlen(word));
    bool closes = at_text(l, at, "%}") || at_text(l, at, "-%}") ||
                  (strcmp(word, "endraw") == 0 && at_text(l, at, "+%}"));
    return closes ? at : 0;
}

/* {% raw %} up to {% endraw %}: text as it stands. `begin_end` is where the first tag closes. */
static void lex_raw(struct lexer *l, size_t begin_end)
{
    bool trim = l->s[begin_end] == '-';
    size_t start = begin_end + (trim ? 3 : 2), end;
    if (trim)
        start = space_end(l, start);
    uint32_t line = l->line;
    advance(l, start);
    l->line_start = l->s[start - 1] == '\n';
    for (end = start; end < l->n && word_tag(l, end, "endraw") == 0;)
        end++;
    if (end >= l->n) {
        jerror_set(l->err, ST_PARSE, line, "'raw' without an end");
        return;
    }
    size_t close = word_tag(l, end, "endraw");
    lex_text(l, end, sign_at(l, end + 2), false);
    advance(l, close);
    advance(l, close + tag_end(l, "%}"));
    l->line_start = l->s[l->at - 1] == '\n';
}

static void lex_all(struct lexer *l)
{
    while (!failed(l)) {
        size_t tag = l->at;
        while (tag < l->n && !(l->s[tag] == '{' && tag + 1 < l->n &&
                               strchr("%{#", l->s[tag + 1]) != NULL && l->s[tag + 1] != '\0'))
            tag++;
        if (tag >= l->n) {
            if (l->n > l->at)
                token_add_copy(l, JT_TEXT, l->at, l->n);
            advance(l, l->n);
            return;
        }
        char kind = l->s[tag + 1], sign = sign_at(l, tag + 2);
        size_t raw = word_tag(l, tag, "raw");
        lex_text(l, tag, sign, kind == '{');
        if (raw > 0) {
            lex_raw(l, raw);
        } else if (kind == '#') {
            lex_comment(l);
        } else {
            advance(l, tag + 2 + (sign != '\0'));
            lex_tag(l, kind == '%');
        }
    }
}

/* A copy with \n for every line break, and without the last one. */
static char *normalize(const char *source, size_t bytes, struct arena *arena, size_t *out_bytes)
{
    char *copy = arena_alloc(arena, bytes + 1);
    size_t n = 0;
    if (copy == NULL)
        return NULL;
    for (size_t i = 0; i < bytes; i++) {
        if (source[i] == '\r' && i + 1 < bytes && source[i + 1] == '\n')
            continue;
        copy[n++] = source[i] == '\r' ? '\n' : source[i];
    }
    if (n > 0 && copy[n - 1] == '\n')
        n--;
    copy[n] = '\0';
    *out_bytes = n;
    return copy;
}

const struct jtoken *jinja_lex(const char *source, size_t bytes, struct arena *arena,
                               struct jerror *err)
{
    struct lexer l = {.arena = arena, .err = err, .line = 1, .line_start = true};
    if (bytes > JINJA_SOURCE_BYTES_MAX) {
        jerror_set(err, ST_TOO_LARGE, 0, "template has over %u bytes", JINJA_SOURCE_BYTES_MAX);
        return NULL;
    }
    size_t valid = utf8_valid_prefix((const uint8_t *)source, bytes);
    if (valid != bytes) {
        for (size_t i = 0; i < valid; i++)
            l.line += source[i] == '\n';
        jerror_set(err, ST_PARSE, l.line, "not UTF-8");
        return NULL;
    }
    l.s = normalize(source, bytes, arena, &l.n);
    if (l.s == NULL) {
        jerror_set(err, ST_NO_MEMORY, 0, "template is too large");
        return NULL;
    }
    lex_all(&l);
    token_add(&l, JT_END, "the end", 7);
    return failed(&l) ? NULL : l.tokens;
}
