#include "text/json_scan.h"

#include "text/utf8_scan.h"

enum { DEPTH_MAX = 64 };

static enum status scan_fail(struct json_scan *scan, const char *message)
{
    scan->message = message;
    return ST_PARSE;
}

void json_scan_init(struct json_scan *scan, const void *text, size_t bytes)
{
    *scan = (struct json_scan){.text = text, .bytes = bytes};
    buf_init(&scan->scratch, bytes);
}

void json_scan_deinit(struct json_scan *scan)
{
    buf_deinit(&scan->scratch);
}

uint8_t json_scan_peek(struct json_scan *scan)
{
    while (scan->at < scan->bytes) {
        uint8_t c = scan->text[scan->at];
        if (c != ' ' && c != '\n' && c != '\r' && c != '\t')
            return c;
        scan->at++;
    }
    return 0;
}

enum status json_scan_expect(struct json_scan *scan, uint8_t byte)
{
    if (json_scan_peek(scan) != byte || scan->at == scan->bytes) {
        switch (byte) {
        case '{':
            return scan_fail(scan, "expected an object");
        case '[':
            return scan_fail(scan, "expected an array");
        case '"':
            return scan_fail(scan, "expected a string");
        case ':':
            return scan_fail(scan, "expected ':'");
        default:
            return scan_fail(scan, "unexpected byte");
        }
    }
    scan->at++;
    return ST_OK;
}

static bool hex4(const uint8_t *p, uint32_t *out)
{
    uint32_t value = 0;
    for (int i = 0; i < 4; i++) {
        uint8_t c = p[i];
        uint32_t digit;
        if (c >= '0' && c <= '9')
            digit = c - '0';
        else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
            digit = (c | 0x20u) - 'a' + 10;
        else
            return false;
        value = value << 4 | digit;
    }
    *out = value;
    return true;
}

/* Reads the four digits of \u, and its low half when it is a high surrogate. */
static enum status scan_unicode_escape(struct json_scan *scan, uint32_t *out)
{
    uint32_t c, low;
    if (scan->bytes - scan->at < 4 || !hex4(scan->text + scan->at, &c))
        return scan_fail(scan, "bad \\u escape");
    scan->at += 4;
    if (c >= 0xd800 && c <= 0xdfff) {
        const uint8_t *p = scan->text + scan->at;
        if (c >= 0xdc00 || scan->bytes - scan->at < 6 || p[0] != '\\' || p[1] != 'u' ||
            !hex4(p + 2, &low) || low < 0xdc00 || low > 0xdfff)
            return scan_fail(scan, "lone surrogate in a string");
        scan->at += 6;
        c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
    }
    *out = c;
    return ST_OK;
}

/* One escape, the backslash already consumed, appended to the scratch buffer. */
static enum status scan_escape(struct json_scan *scan)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    if (scan->at == scan->bytes)
        return scan_fail(scan, "string is not closed");
    uint8_t c = scan->text[scan->at++];
    uint8_t utf8[4];
    size_t n = 1;
    if (c == 'u') {
        uint32_t code;
        enum status st = scan_unicode_escape(scan, &code);
        if (st != ST_OK)
            return st;
        n = utf8_encode_to(code, utf8);
    } else {
        const char *hit = memchr(from, c, sizeof(from) - 1);
        if (hit == NULL)
            return scan_fail(scan, "bad escape in a string");
        utf8[0] = (uint8_t)to[hit - from];
    }
    return buf_append(&scan->scratch, utf8, n);
}

/* Consumes plain string bytes up to a quote, a backslash or an error. */
static enum status scan_plain(struct json_scan *scan)
{
    const uint8_t *p = scan->text;
    size_t at = scan->at;
    while (at < scan->bytes && p[at] != '"' && p[at] != '\\' && p[at] >= 0x20)
        at++;
    scan->at = at;
    if (at == scan->bytes)
        return scan_fail(scan, "string is not closed");
    if (p[at] < 0x20)
        return scan_fail(scan, "control character in a string");
    return ST_OK;
}

enum status json_scan_string(struct json_scan *scan, struct json_span *out)
{
    enum status st = json_scan_expect(scan, '"');
    if (st != ST_OK)
        return st;
    size_t begin = scan->at;
    st = scan_plain(scan);
    if (st != ST_OK)
        return st;
    if (scan->text[scan->at] == '"') { /* no escape: the string is the text itself */
        *out = (struct json_span){scan->text + begin, scan->at - begin};
        scan->at++;
        return ST_OK;
    }
    scan->scratch.len = 0;
    for (;;) {
        st = buf_append(&scan->scratch, scan->text + begin, scan->at - begin);
        if (st != ST_OK)
            return st;
        if (scan->text[scan->at++] == '"')
            break;
        st = scan_escape(scan);
        if (st != ST_OK)
            return st;
        begin = scan->at;
        st = scan_plain(scan);
        if (st != ST_OK)
            return st;
    }
    *out = (struct json_span){scan->scratch.data, scan->scratch.len};
    return ST_OK;
}

enum status json_scan_u32(struct json_scan *scan, uint32_t max, uint32_t *out)
{
    json_scan_peek(scan);
    size_t begin = scan->at;
    uint64_t value = 0;
    while (scan->at < scan->bytes && scan->text[scan->at] >= '0' && scan->text[scan->at] <= '9') {
        value = value * 10 + (scan->text[scan->at] - '0');
        if (value > max)
            return scan_fail(scan, "number is too large");
        scan->at++;
    }
    if (scan->at == begin)
        return scan_fail(scan, "expected a whole number");
    if (scan->text[begin] == '0' && scan->at - begin > 1)
        return scan_fail(scan, "number starts with 0");
    uint8_t c = scan->at < scan->bytes ? scan->text[scan->at] : 0;
    if (c == '.' || c == 'e' || c == 'E')
        return scan_fail(scan, "expected a whole number");
    *out = (uint32_t)value;
    return ST_OK;
}

static bool is_scalar_byte(uint8_t c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || c == 'E' || c == '+' || c == '-' ||
           c == '.';
}

/* Consumes a string, a number or a word. */
static enum status scan_skip_scalar(struct json_scan *scan)
{
    if (scan->text[scan->at] == '"') {
        struct json_span ignored;
        return json_scan_string(scan, &ignored);
    }
    size_t begin = scan->at;
    while (scan->at < scan->bytes && is_scalar_byte(scan->text[scan->at]))
        scan->at++;
    return scan->at > begin ? ST_OK : scan_fail(scan, "expected a value");
}

enum status json_scan_skip(struct json_scan *scan)
{
    uint8_t close[DEPTH_MAX];
    uint32_t depth = 0;
    do {
        uint8_t c = json_scan_peek(scan);
        if (scan->at == scan->bytes)
            return scan_fail(scan, "text ends inside a value");
        if (c == '{' || c == '[') {
            if (depth == DEPTH_MAX)
                return scan_fail(scan, "nested too deep");
            close[depth++] = c == '{' ? '}' : ']';
            scan->at++;
        } else if (c == '}' || c == ']') {
            if (depth == 0 || close[depth - 1] != c)
                return scan_fail(scan, "brackets do not match");
            depth--;
            scan->at++;
        } else if (depth > 0 && (c == ',' || c == ':')) {
            scan->at++;
        } else {
            enum status st = scan_skip_scalar(scan);
            if (st != ST_OK)
                return st;
        }
    } while (depth > 0);
    return ST_OK;
}

enum status json_scan_next(struct json_scan *scan, uint8_t close, size_t *io_n, bool *out_more)
{
    uint8_t c = json_scan_peek(scan);
    if (scan->at == scan->bytes)
        return scan_fail(scan, "text ends inside a value");
    *out_more = false;
    if (c == close) {
        scan->at++;
        return ST_OK;
    }
    if (*io_n > 0) {
        if (c != ',')
            return scan_fail(scan, "expected ',' or the end of the list");
        scan->at++;
        if (json_scan_peek(scan) == close)
            return scan_fail(scan, "comma before the end of the list");
    }
    (*io_n)++;
    *out_more = true;
    return ST_OK;
}

enum status json_scan_end(struct json_scan *scan)
{
    json_scan_peek(scan);
    return scan->at == scan->bytes ? ST_OK : scan_fail(scan, "bytes after the end");
}
