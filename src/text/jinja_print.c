/* How values become text: str() and repr() as Python has them, JSON as json.dumps writes it, and
 * the two ways to format. */
#include "text/jinja.h"

#include "text/utf8_scan.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

enum { REAL_BYTES = 32, FORMAT_WIDTH_MAX = 256, ESCAPE_BYTES = 16 };

void jreal_print(char *out, size_t bytes, double real)
{
    char digits[REAL_BYTES];
    if (isnan(real) || isinf(real)) {
        snprintf(out, bytes, "%s", isnan(real) ? "nan" : real < 0 ? "-inf" : "inf");
        return;
    }
    int precision = 0;
    do { /* the shortest that reads back as the same number */
        snprintf(digits, sizeof(digits), "%.*e", precision, real);
    } while (strtod(digits, NULL) != real && precision++ < 17);
    int exponent = atoi(strchr(digits, 'e') + 1);
    if (exponent >= -4 && exponent < 16)
        snprintf(out, bytes, "%.*f", precision > exponent ? precision - exponent : 1, real);
    else
        snprintf(out, bytes, "%s", digits);
}

/* ---- str and repr ---- */

static void write_repr(struct jwriter *w, const struct jvalue *v, bool trusted);

static bool printable(uint32_t c)
{
    if (c < 0x80)
        return c >= 0x20 && c < 0x7f;
    switch (utf8proc_category((int32_t)c)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS:
        return false;
    default:
        return true;
    }
}

static void write_piece(struct jwriter *w, const char *data, uint32_t bytes, bool trusted)
{
    struct jstr piece = {.data = data, .bytes = bytes, .trusted = trusted};
    jwrite(w, &piece);
}

/* The escape of a character, or false: it goes out as it is. */
static bool escape_char(uint32_t c, char quote, char out[ESCAPE_BYTES])
{
    if (c == (unsigned char)quote || c == '\\')
        snprintf(out, ESCAPE_BYTES, "\\%c", (char)c);
    else if (c == '\n' || c == '\r' || c == '\t')
        snprintf(out, ESCAPE_BYTES, "\\%c", c == '\n' ? 'n' : c == '\r' ? 'r' : 't');
    else if (printable(c))
        return false;
    else if (c < 0x100)
        snprintf(out, ESCAPE_BYTES, "\\x%02x", c);
    else
        snprintf(out, ESCAPE_BYTES, c < 0x10000 ? "\\u%04x" : "\\U%08x", c);
    return true;
}

static void write_string_repr(struct jwriter *w, const struct jstr *s, bool trusted)
{
    bool single = s->bytes > 0 && memchr(s->data, '\'', s->bytes) != NULL;
    bool both = single && memchr(s->data, '"', s->bytes) != NULL;
    char quote = single && !both ? '"' : '\'', escape[ESCAPE_BYTES];
    uint32_t plain = 0, c, bytes; /* [plain, at) goes out as it is */
    jwrite_literal(w, quote == '"' ? "\"" : "'", trusted);
    for (uint32_t at = 0; at < s->bytes && w->in->err.st == ST_OK; at += bytes) {
        bytes = jstr_char(s, at, &c);
        if (!escape_char(c, quote, escape))
            continue;
        write_piece(w, s->data + plain, at - plain, trusted);
        jwrite_temporary(w, escape, trusted);
        plain = at + bytes;
    }
    write_piece(w, s->data + plain, s->bytes - plain, trusted);
    jwrite_literal(w, quote == '"' ? "\"" : "'", trusted);
}

static void write_list_repr(struct jwriter *w, const struct jlist *list, bool trusted)
{
    static const char *const open[] = {"[", "(", "dict_keys([", "dict_values([", "dict_items(["};
    static const char *const close[] = {"]", ")", "])", "])", "])"};
    if (list->kind == JL_GENERATOR) {
        jfail(w->in, "an iterator cannot be printed");
        return;
    }
    if (list->kind == JL_RANGE) {
        char text[96];
        int n = snprintf(text, sizeof(text), "range(%" PRId64 ", %" PRId64, list->start,
                         jlist_item(list, list->n).u.integer);
        snprintf(text + n, sizeof(text) - (size_t)n, list->step == 1 ? ")" : ", %" PRId64 ")",
                 list->step);
        jwrite_temporary(w, text, trusted);
        return;
    }
    jwrite_literal(w, open[list->kind], trusted);
    for (uint32_t i = 0; i < list->n && w->in->err.st == ST_OK; i++) {
        if (i > 0)
            jwrite_literal(w, ", ", trusted);
        write_repr(w, &list->items[i], trusted);
    }
    if (list->kind == JL_TUPLE && list->n == 1)
        jwrite_literal(w, ",", trusted);
    jwrite_literal(w, close[list->kind], trusted);
}

static void write_dict_repr(struct jwriter *w, const struct jdict *dict, bool trusted)
{
    jwrite_literal(w, dict->is_namespace ? "<Namespace {" : "{", trusted);
    for (uint32_t i = 0; i < dict->n && w->in->err.st == ST_OK; i++) {
        if (i > 0)
            jwrite_literal(w, ", ", trusted);
        write_repr(w, &dict->pairs[i].key, trusted);
        jwrite_literal(w, ": ", trusted);
        write_repr(w, &dict->pairs[i].value, trusted);
    }
    jwrite_literal(w, dict->is_namespace ? "}>" : "}", trusted);
}

static void write_scalar(struct jwriter *w, const struct jvalue *v, bool trusted)
{
    char text[REAL_BYTES];
    switch (v->kind) {
    case J_UNDEFINED:
        jwrite_literal(w, "Undefined", trusted);
        return;
    case J_NONE:
        jwrite_literal(w, "None", trusted);
        return;
    case J_BOOL:
        jwrite_literal(w, v->u.boolean ? "True" : "False", trusted);
        return;
    case J_INT:
        snprintf(text, sizeof(text), "%" PRId64, v->u.integer);
        break;
    case J_FLOAT:
        jreal_print(text, sizeof(text), v->u.real);
        break;
    default:
        jfail(w->in, "a %s cannot be printed", jkind_name(v));
        return;
    }
    jwrite_temporary(w, text, trusted);
}

/* All of a container's text is trusted only if everything in it is, so `trusted` is known first. */
static void write_repr(struct jwriter *w, const struct jvalue *v, bool trusted)
{
    if (++w->in->nest > JINJA_NEST_MAX)
        jerror_set(&w->in->err, ST_TOO_LARGE, w->in->line, "nested too deeply");
    if (jstep(w->in, 0)) {
        if (v->kind == J_STRING)
            write_string_repr(w, &v->u.str, trusted);
        else if (v->kind == J_LIST)
            write_list_repr(w, v->u.list, trusted);
        else if (v->kind == J_DICT)
            write_dict_repr(w, v->u.dict, trusted);
        else
            write_scalar(w, v, trusted);
    }
    w->in->nest--;
}

/* Whether nothing in `v`, at any depth, came from the request. */
static bool trusted_all(struct jinterp *in, const struct jvalue *v)
{
    bool trusted = !jvalue_tainted(v);
    if (++in->nest > JINJA_NEST_MAX || !jstep(in, 0)) {
        jerror_set(&in->err, ST_TOO_LARGE, in->line, "nested too deeply");
        trusted = false;
    }
    if (v->kind == J_LIST && v->u.list->kind != JL_RANGE)
        for (uint32_t i = 0; trusted && i < v->u.list->n; i++)
            trusted = trusted_all(in, &v->u.list->items[i]);
    if (v->kind == J_DICT)
        for (uint32_t i = 0; trusted && i < v->u.dict->n; i++)
            trusted = trusted_all(in, &v->u.dict->pairs[i].key) &&
                      trusted_all(in, &v->u.dict->pairs[i].value);
    in->nest--;
    return trusted;
}

struct jstr jvalue_repr(struct jinterp *in, const struct jvalue *v)
{
    struct jwriter w = {.in = in, .text = {.data = "", .trusted = true}};
    write_repr(&w, v, trusted_all(in, v));
    return w.text;
}

struct jstr jvalue_str(struct jinterp *in, const struct jvalue *v)
{
    if (v->kind == J_STRING)
        return v->u.str;
    if (v->kind == J_UNDEFINED)
        return (struct jstr){.data = "", .trusted = true};
    return jvalue_repr(in, v);
}

/* ---- JSON ---- */

struct json_writer {
    struct jwriter w;
    const struct json_style *style;
    bool trusted;
};

static void json_value(struct json_writer *j, const struct jvalue *v, uint32_t level);

static void json_put(struct json_writer *j, const char *text)
{
    jwrite_literal(&j->w, text, j->trusted);
}

static void json_break(struct json_writer *j, uint32_t level)
{
    if (j->style->indent == NULL)
        return;
    json_put(j, "\n");
    for (uint32_t i = 0; i < level && j->w.in->err.st == ST_OK; i++)
        json_put(j, j->style->indent);
}

static bool json_escape(uint32_t c, bool ascii, char escape[16])
{
    static const char from[] = "\"\\\n\r\t\b\f", to[] = "\"\\nrtbf";
    const char *known = c > 0 && c < 0x80 ? strchr(from, (int)c) : NULL;
    if (known != NULL)
        snprintf(escape, 16, "\\%c", to[known - from]);
    else if (c < 0x20 || (ascii && c >= 0x7f && c < 0x10000))
        snprintf(escape, 16, "\\u%04x", c);
    else if (ascii && c >= 0x10000)
        snprintf(escape, 16, "\\u%04x\\u%04x", 0xd800 + ((c - 0x10000) >> 10),
                 0xdc00 + ((c - 0x10000) & 0x3ff));
    else
        return false;
    return true;
}

static void json_string(struct json_writer *j, const struct jstr *s)
{
    char escape[16];
    uint32_t plain = 0, c, bytes; /* [plain, at) goes out as it is */
    json_put(j, "\"");
    for (uint32_t at = 0; at < s->bytes && j->w.in->err.st == ST_OK; at += bytes) {
        bytes = jstr_char(s, at, &c);
        if (!json_escape(c, j->style->ascii, escape))
            continue;
        write_piece(&j->w, s->data + plain, at - plain, j->trusted);
        jwrite_temporary(&j->w, escape, j->trusted);
        plain = at + bytes;
    }
    write_piece(&j->w, s->data + plain, s->bytes - plain, j->trusted);
    json_put(j, "\"");
}

static void json_scalar(struct json_writer *j, const struct jvalue *v)
{
    if (v->kind == J_NONE)
        json_put(j, "null");
    else if (v->kind == J_BOOL)
        json_put(j, v->u.boolean ? "true" : "false");
    else if (v->kind == J_FLOAT && isnan(v->u.real))
        json_put(j, "NaN");
    else if (v->kind == J_FLOAT && isinf(v->u.real))
        json_put(j, v->u.real < 0 ? "-Infinity" : "Infinity");
    else if (v->kind == J_INT || v->kind == J_FLOAT)
        write_scalar(&j->w, v, j->trusted);
    else
        jfail(j->w.in, "%s cannot be written as JSON", jkind_name(v));
}

static void json_key(struct json_writer *j, const struct jvalue *key)
{
    if (key->kind == J_STRING) {
        json_string(j, &key->u.str);
        return;
    }
    json_put(j, "\"");
    if (key->kind == J_LIST)
        jfail(j->w.in, "a tuple cannot be a JSON key");
    else
        json_scalar(j, key);
    json_put(j, "\"");
}

static void json_list(struct json_writer *j, const struct jlist *list, uint32_t level)
{
    if (list->kind != JL_LIST && list->kind != JL_TUPLE) {
        jfail(j->w.in, "an iterator cannot be written as JSON");
        return;
    }
    json_put(j, "[");
    for (uint32_t i = 0; i < list->n && j->w.in->err.st == ST_OK; i++) {
        if (i > 0)
            json_put(j, j->style->comma);
        json_break(j, level + 1);
        json_value(j, &list->items[i], level + 1);
    }
    if (list->n > 0)
        json_break(j, level);
    json_put(j, "]");
}

static void json_dict(struct json_writer *j, const struct jdict *dict, uint32_t level)
{
    struct jvalue *keys, *values;
    struct jinterp *in = j->w.in;
    if (dict->is_namespace) {
        jfail(in, "a namespace cannot be written as JSON");
        return;
    }
    uint32_t n = jvalue_list(in, JL_LIST, dict->n, &keys).u.list->n;
    if (jvalue_list(in, JL_LIST, n, &values).u.list->n != dict->n)
        return;
    for (uint32_t i = 0; i < n; i++) {
        keys[i] = dict->pairs[i].key;
        values[i] = dict->pairs[i].value;
    }
    if (j->style->sort_keys)
        jinja_sort(in, values, keys, n, false);
    json_put(j, "{");
    for (uint32_t i = 0; i < n && in->err.st == ST_OK; i++) {
        if (i > 0)
            json_put(j, j->style->comma);
        json_break(j, level + 1);
        json_key(j, &keys[i]);
        json_put(j, j->style->colon);
        json_value(j, &values[i], level + 1);
    }
    if (n > 0)
        json_break(j, level);
    json_put(j, "}");
}

static void json_value(struct json_writer *j, const struct jvalue *v, uint32_t level)
{
    if (++j->w.in->nest > JINJA_NEST_MAX)
        jerror_set(&j->w.in->err, ST_TOO_LARGE, j->w.in->line, "nested too deeply");
    if (jstep(j->w.in, 0)) {
        if (v->kind == J_STRING)
            json_string(j, &v->u.str);
        else if (v->kind == J_LIST)
            json_list(j, v->u.list, level);
        else if (v->kind == J_DICT)
            json_dict(j, v->u.dict, level);
        else
            json_scalar(j, v);
    }
    j->w.in->nest--;
}

struct jstr jvalue_tojson(struct jinterp *in, const struct jvalue *v, const struct json_style *st)
{
    struct json_writer j = {.w = {.in = in, .text = {.data = "", .trusted = true}},
                            .style = st,
                            .trusted = trusted_all(in, v)};
    json_value(&j, v, 0);
    return j.w.text;
}

/* ---- formatting ---- */

struct spec {
    bool left, zero, plus, space;
    uint32_t width, precision;
    bool has_precision;
    bool trusted; /* as the format is, of which it is a part */
};

/* `body`, filled up to the width of the spec. */
static void write_padded(struct jwriter *w, const struct jstr *body, const struct spec *spec)
{
    uint32_t chars = jstr_count(body), fill = spec->width > chars ? spec->width - chars : 0;
    if (spec->left)
        jwrite(w, body);
    for (; fill > 0; fill--)
        jwrite_literal(w, " ", spec->trusted);
    if (!spec->left)
        jwrite(w, body);
}

static uint32_t format_number(const struct jstr *f, uint32_t at, uint32_t *out)
{
    uint32_t value = 0;
    for (; at < f->bytes && f->data[at] >= '0' && f->data[at] <= '9'; at++)
        value = value < FORMAT_WIDTH_MAX ? value * 10 + (uint32_t)(f->data[at] - '0') : value;
    *out = value < FORMAT_WIDTH_MAX ? value : FORMAT_WIDTH_MAX;
    return at;
}

static uint32_t parse_spec(const struct jstr *f, uint32_t at, struct spec *spec)
{
    *spec = (struct spec){.trusted = jstr_trusted(f)};
    for (; at < f->bytes && strchr("-0+ ", f->data[at]) != NULL && f->data[at] != '\0'; at++) {
        spec->left |= f->data[at] == '-';
        spec->zero |= f->data[at] == '0';
        spec->plus |= f->data[at] == '+';
        spec->space |= f->data[at] == ' ';
    }
    at = format_number(f, at, &spec->width);
    if (at < f->bytes && f->data[at] == '.') {
        spec->has_precision = true;
        at = format_number(f, at + 1, &spec->precision);
    }
    return at;
}

static struct jstr format_numeric(struct jinterp *in, const struct spec *spec, char type,
                                  const struct jvalue *v)
{
    char pattern[32], text[2 * FORMAT_WIDTH_MAX + 512];
    int64_t i = 0;
    double real = 0;
    bool is_real = strchr("feEgG", type) != NULL, is_bits = strchr("xXo", type) != NULL;
    if (!jvalue_is_number(v, &real))
        jfail(in, "'%%%c' needs a number, not %s", type, jkind_name(v));
    else if (!is_real && !jvalue_is_int(v, &i) && (is_bits || !(fabs(real) < 9.2e18)))
        jfail(in, "'%%%c' needs an integer", type);
    else if (!is_real && v->kind == J_FLOAT)
        i = (int64_t)real;
    if (is_bits && i < 0)
        jfail(in, "'%%%c' of a negative number is not supported", type);
    if (in->err.st != ST_OK)
        return (struct jstr){.data = "", .trusted = true};
    snprintf(pattern, sizeof(pattern), "%%%s%s%s%s*.*%s%c", spec->left ? "-" : "",
             spec->zero ? "0" : "", spec->plus ? "+" : "", spec->space ? " " : "",
             is_real ? "" : "ll", type);
    int precision = spec->has_precision ? (int)spec->precision : -1;
    int n = is_real
                ? snprintf(text, sizeof(text), pattern, (int)spec->width, precision, real)
                : snprintf(text, sizeof(text), pattern, (int)spec->width, precision, (long long)i);
    size_t bytes = n > 0 && (size_t)n < sizeof(text) ? (size_t)n : 0;
    return jstr_copy(in, text, bytes, spec->trusted && !v->tainted);
}

static void write_conversion(struct jwriter *w, const struct spec *spec, char type,
                             const struct jvalue *v)
{
    struct jstr body;
    struct spec width = *spec;
    if (type == 's' || type == 'r') {
        body = type == 's' ? jvalue_str(w->in, v) : jvalue_repr(w->in, v);
        if (spec->has_precision)
            body = jstr_part(&body, 0, jstr_offset(&body, 0, spec->precision));
    } else if (type != '\0' && strchr("dixXofeEgG", type) != NULL) {
        body = format_numeric(w->in, spec, type == 'i' ? 'd' : type, v);
        width.width = 0;
    } else {
        jfail(w->in, "'%%%c' is not supported", type >= ' ' && type < 0x7f ? type : '?');
        return;
    }
    write_padded(w, &body, &width);
}

struct jstr jinja_percent(struct jinterp *in, const struct jstr *format, const struct jvalue *args)
{
    struct jwriter w = {.in = in, .text = {.data = "", .trusted = true}};
    bool is_tuple = args->kind == J_LIST && args->u.list->kind == JL_TUPLE;
    uint32_t n_args = is_tuple ? args->u.list->n : 1, used = 0, at = 0;
    while (at < format->bytes && jstep(in, 0)) {
        const char *mark = memchr(format->data + at, '%', format->bytes - at);
        uint32_t end = mark != NULL ? (uint32_t)(mark - format->data) : format->bytes;
        struct jstr plain = jstr_part(format, at, end - at);
        struct spec spec;
        jwrite(&w, &plain);
        if (mark == NULL)
            break;
        at = parse_spec(format, end + 1, &spec);
        char type = at < format->bytes ? format->data[at] : '\0';
        at++;
        if (type == '%') {
            struct jstr percent = jstr_part(format, end, 1);
            jwrite(&w, &percent);
        } else if (used == n_args) {
            jfail(in, "not enough arguments for the format");
        } else {
            struct jvalue v = is_tuple ? args->u.list->items[used] : *args;
            write_conversion(&w, &spec, type, &v);
            used++;
        }
    }
    /* Python lets anything with items stand for names that the format need not use. */
    bool names =
        args->kind == J_DICT || args->kind == J_UNDEFINED ||
        (args->kind == J_LIST && (args->u.list->kind == JL_LIST || args->u.list->kind == JL_RANGE));
    if (used < n_args && !names)
        jfail(in, "too many arguments for the format");
    return w.text;
}

/* The argument that a field of str.format names: "", a number or a keyword; no attributes. */
static const struct jvalue *format_argument(struct jinterp *in, const struct jcall *call,
                                            const struct jstr *field, uint32_t *next)
{
    uint32_t number, i = 0;
    if (field->bytes == 0)
        number = (*next)++;
    else if (format_number(field, 0, &number) != field->bytes)
        number = UINT32_MAX;
    if (number < call->n_pos)
        return &call->pos[number];
    for (const struct jnode *k = call->keywords; k != NULL; k = k->next, i++)
        if (jstr_is(field, k->name))
            return &call->named[i];
    jfail(in, "the format names an argument that is not there");
    return NULL;
}

struct jstr jinja_format(struct jinterp *in, const struct jstr *format, const struct jcall *call)
{
    static const char parts[] = {'.', '[', '!', ':'};
    struct jwriter w = {.in = in, .text = {.data = "", .trusted = true}};
    uint32_t next = 0;
    for (uint32_t at = 0; at < format->bytes && jstep(in, 0);) {
        uint32_t end = at;
        while (end < format->bytes && format->data[end] != '{' && format->data[end] != '}')
            end++;
        struct jstr plain = jstr_part(format, at, end - at);
        jwrite(&w, &plain);
        if (end == format->bytes)
            break;
        if (end + 1 < format->bytes && format->data[end + 1] == format->data[end]) {
            plain = jstr_part(format, end, 1);
            jwrite(&w, &plain);
            at = end + 2;
            continue;
        }
        const char *close = memchr(format->data + end, '}', format->bytes - end);
        if (close == NULL || format->data[end] == '}') {
            jfail(in, "single '%c' in a format", format->data[end]);
            break;
        }
        struct jstr field = jstr_part(format, end + 1, (uint32_t)(close - format->data) - end - 1);
        for (uint32_t i = 0; i < field.bytes; i++)
            if (memchr(parts, field.data[i], sizeof(parts)) != NULL)
                jfail(in, "format fields with parts are not supported");
        const struct jvalue *v = format_argument(in, call, &field, &next);
        struct jstr text = v != NULL ? jvalue_str(in, v) : plain;
        jwrite(&w, &text);
        at = (uint32_t)(close - format->data) + 1;
    }
    return w.text;
}
