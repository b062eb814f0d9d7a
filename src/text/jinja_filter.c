/* Filters over single values: text, numbers, JSON. Those over lists are in jinja_seq.c. */
#include "text/jinja.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NUMBER_BYTES_MAX = 64, INDENT_MAX = 256 };

static struct jvalue recase(const struct jrun *r, enum jcase how)
{
    struct jstr s = jvalue_str(r->in, r->self);
    return jvalue_of_str(jstr_recase(r->in, &s, how));
}

static struct jvalue run_upper(const struct jrun *r)
{
    return recase(r, JCASE_UPPER);
}

static struct jvalue run_lower(const struct jrun *r)
{
    return recase(r, JCASE_LOWER);
}

static struct jvalue run_title(const struct jrun *r)
{
    return recase(r, JCASE_WORDS);
}

static struct jvalue run_capitalize(const struct jrun *r)
{
    return recase(r, JCASE_CAPITAL);
}

static struct jvalue run_string(const struct jrun *r)
{
    return jvalue_of_str(jvalue_str(r->in, r->self));
}

static struct jvalue run_trim(const struct jrun *r)
{
    struct jstr s = jvalue_str(r->in, r->self);
    const struct jvalue *chars = r->bound[0];
    if (chars != NULL && chars->kind != J_STRING && chars->kind != J_NONE)
        jfail(r->in, "trim takes characters, not %s", jkind_name(chars));
    return jvalue_of_str(jstr_strip(
        r->in, &s, chars != NULL && chars->kind == J_STRING ? &chars->u.str : NULL, true, true));
}

static struct jvalue run_replace(const struct jrun *r)
{
    struct jstr s = jvalue_str(r->in, r->self), from = jvalue_str(r->in, r->bound[0]),
                to = jvalue_str(r->in, r->bound[1]);
    int64_t count = -1;
    if (r->bound[2] != NULL && r->bound[2]->kind != J_NONE && !jvalue_is_int(r->bound[2], &count))
        jfail(r->in, "replace takes a count, not %s", jkind_name(r->bound[2]));
    return jvalue_of_str(jstr_replace(r->in, &s, &from, &to, count));
}

static struct jvalue run_default(const struct jrun *r)
{
    bool falsy = r->bound[1] != NULL && jvalue_truth(r->bound[1]) && !jvalue_truth(r->self);
    if (r->self->kind != J_UNDEFINED && !falsy)
        return *r->self;
    return r->bound[0] != NULL ? *r->bound[0] : jvalue_text("");
}

static struct jvalue run_length(const struct jrun *r)
{
    const struct jvalue *v = r->self;
    if (v->kind == J_STRING)
        return jvalue_int(jstep(r->in, v->u.str.bytes) ? jstr_count(&v->u.str) : 0);
    if (v->kind == J_LIST && v->u.list->kind != JL_GENERATOR)
        return jvalue_int(v->u.list->n);
    if (v->kind == J_DICT && !v->u.dict->is_namespace)
        return jvalue_int(v->u.dict->n);
    if (v->kind == J_LOOP)
        return jvalue_int(v->u.loop->list->n);
    if (v->kind != J_UNDEFINED)
        jfail(r->in, "%s has no length", jkind_name(v));
    return jvalue_int(0);
}

/* ---- numbers ---- */

/* A text without the white space around it and without its underscores; false: no number. */
static bool number_text(struct jinterp *in, const struct jstr *s, char out[NUMBER_BYTES_MAX])
{
    struct jstr part = jstr_strip(in, s, NULL, true, true);
    size_t n = 0;
    if (part.bytes == 0 || part.bytes >= NUMBER_BYTES_MAX)
        return false;
    for (uint32_t i = 0; i < part.bytes; i++) {
        bool inside = i > 0 && i + 1 < part.bytes && part.data[i - 1] != '_';
        if (part.data[i] != '_')
            out[n++] = part.data[i];
        else if (!inside)
            return false;
    }
    out[n] = '\0';
    return strlen(out) == n;
}

static bool parse_real(struct jinterp *in, const struct jstr *s, double *out)
{
    char text[NUMBER_BYTES_MAX], *end;
    if (!number_text(in, s, text) || strpbrk(text, "xXpP(") != NULL)
        return false;
    *out = strtod(text, &end);
    return *end == '\0';
}

static bool parse_int(struct jinterp *in, const struct jstr *s, int64_t base, int64_t *out)
{
    char text[NUMBER_BYTES_MAX], *end;
    if (base < 2 || base > 36 || !number_text(in, s, text))
        return false;
    long long value = strtoll(text, &end, (int)base);
    *out = value;
    return *end == '\0' && end != text && value != INT64_MAX && value != INT64_MIN;
}

static struct jvalue real_to_int(double real, struct jvalue otherwise)
{
    return fabs(real) < 9.2e18 ? jvalue_int((int64_t)real) : otherwise; /* false for NaN, too */
}

static struct jvalue run_int(const struct jrun *r)
{
    struct jvalue otherwise = r->bound[0] != NULL ? *r->bound[0] : jvalue_int(0);
    int64_t i, base = 10;
    double real;
    if (r->bound[1] != NULL && !jvalue_is_int(r->bound[1], &base))
        jfail(r->in, "int takes a base, not %s", jkind_name(r->bound[1]));
    if (r->self->kind == J_UNDEFINED)
        jfail(r->in, "an undefined value is no number");
    if (r->self->kind == J_STRING) {
        if (parse_int(r->in, &r->self->u.str, base, &i))
            return jvalue_int(i);
        return parse_real(r->in, &r->self->u.str, &real) ? real_to_int(real, otherwise) : otherwise;
    }
    if (jvalue_is_int(r->self, &i))
        return jvalue_int(i);
    return jvalue_is_number(r->self, &real) ? real_to_int(real, otherwise) : otherwise;
}

static struct jvalue run_float(const struct jrun *r)
{
    struct jvalue otherwise = r->bound[0] != NULL ? *r->bound[0] : jvalue_real(0);
    double real;
    if (r->self->kind == J_UNDEFINED)
        jfail(r->in, "an undefined value is no number");
    bool ok = r->self->kind == J_STRING ? parse_real(r->in, &r->self->u.str, &real)
                                        : jvalue_is_number(r->self, &real);
    return ok ? jvalue_real(real) : otherwise;
}

static struct jvalue run_abs(const struct jrun *r)
{
    int64_t i;
    if (jvalue_is_int(r->self, &i))
        return i < 0 ? jinja_negate(r->in, r->self) : jvalue_int(i);
    if (r->self->kind != J_FLOAT)
        jfail(r->in, "abs takes a number, not %s", jkind_name(r->self));
    return jvalue_real(fabs(r->self->u.real));
}

static struct jvalue run_round(const struct jrun *r)
{
    int64_t digits = 0, i;
    double real;
    char text[400];
    struct jstr how = {.data = "common", .bytes = 6};
    if (r->bound[1] != NULL && r->bound[1]->kind == J_STRING)
        how = r->bound[1]->u.str;
    if (!jvalue_is_number(r->self, &real) ||
        (r->bound[0] != NULL && !jvalue_is_int(r->bound[0], &digits)) || digits < 0 || digits > 20)
        jfail(r->in, "round takes a number and a count of digits");
    else if (jstr_is(&how, "ceil"))
        return jvalue_real(ceil(real * pow(10, (double)digits)) / pow(10, (double)digits));
    else if (jstr_is(&how, "floor"))
        return jvalue_real(floor(real * pow(10, (double)digits)) / pow(10, (double)digits));
    else if (!jstr_is(&how, "common"))
        jfail(r->in, "round takes 'common', 'ceil' or 'floor'");
    if (r->in->err.st != ST_OK || isnan(real) || isinf(real))
        return jvalue_real(r->in->err.st == ST_OK ? real : 0);
    if (jvalue_is_int(r->self, &i))
        return jvalue_int(i);
    snprintf(text, sizeof(text), "%.*f", (int)digits, real);
    return jvalue_real(strtod(text, NULL));
}

/* ---- JSON, formats ---- */

static const struct jvalue *given(const struct jvalue *v)
{
    return v != NULL && v->kind != J_NONE ? v : NULL;
}

/* A borrowed text with a NUL behind it. */
static const char *c_string(struct jinterp *in, const struct jvalue *v)
{
    struct jstr s = v->kind == J_STRING ? v->u.str : (struct jstr){.data = ""};
    if (v->kind != J_STRING)
        jfail(in, "tojson takes texts, not %s", jkind_name(v));
    return jstr_copy(in, s.data, s.bytes, false).data;
}

static const char *indent_text(struct jinterp *in, const struct jvalue *v)
{
    int64_t width;
    if (!jvalue_is_int(v, &width))
        return c_string(in, v);
    if (width > INDENT_MAX)
        jfail(in, "indent is over %d", INDENT_MAX);
    char *text = jtake(in, INDENT_MAX + 1, 1);
    if (text == NULL || in->err.st != ST_OK)
        return "";
    memset(text, ' ', width > 0 ? (size_t)width : 0);
    return text;
}

static struct jvalue run_tojson(const struct jrun *r)
{
    const struct jvalue *ascii = r->bound[0], *indent = given(r->bound[1]),
                        *separators = given(r->bound[2]), *sort_keys = r->bound[3];
    struct json_style style = {.comma = indent != NULL ? "," : ", ", .colon = ": "};
    style.ascii = ascii != NULL && jvalue_truth(ascii);
    style.sort_keys = sort_keys != NULL && jvalue_truth(sort_keys);
    if (indent != NULL)
        style.indent = indent_text(r->in, indent);
    if (separators != NULL) {
        const struct jlist *pair = jvalue_iterate(r->in, separators);
        if (pair->n == 2) {
            struct jvalue comma = jlist_item(pair, 0), colon = jlist_item(pair, 1);
            style.comma = c_string(r->in, &comma);
            style.colon = c_string(r->in, &colon);
        } else {
            jfail(r->in, "tojson takes two separators");
        }
    }
    if (r->in->err.st != ST_OK)
        return jvalue_undefined(NULL);
    struct jvalue v = jvalue_of_str(jvalue_tojson(r->in, r->self, &style));
    for (int i = 0; i < 4; i++)
        if (r->bound[i] != NULL && jvalue_tainted(r->bound[i]))
            v.u.str = jstr_copy(r->in, v.u.str.data, v.u.str.bytes, false);
    return v;
}

static struct jvalue run_format(const struct jrun *r)
{
    struct jstr s = jvalue_str(r->in, r->self);
    struct jvalue *items, args = jvalue_list(r->in, JL_TUPLE, r->call->n_pos, &items);
    if (r->call->keywords != NULL)
        jfail(r->in, "format with names is not supported");
    if (args.u.list->n > 0)
        memcpy(items, r->call->pos, args.u.list->n * sizeof(*items));
    return jvalue_of_str(jinja_percent(r->in, &s, &args));
}

static struct jvalue run_indent(const struct jrun *r)
{
    struct jwriter w = {.in = r->in, .text = {.data = "", .trusted = true}};
    struct jvalue width = r->bound[0] != NULL ? *r->bound[0] : jvalue_int(4);
    bool first = r->bound[1] != NULL && jvalue_truth(r->bound[1]);
    bool blank = r->bound[2] != NULL && jvalue_truth(r->bound[2]);
    struct jstr s = jvalue_str(r->in, r->self), fill, end = {.data = "\n", .bytes = 1};
    end.trusted = jstr_trusted(&s); /* it stands for the line breaks of the text */
    if (r->self->kind != J_STRING)
        jfail(r->in, "indent takes a text, not %s", jkind_name(r->self));
    if (width.kind == J_STRING) {
        fill = width.u.str;
    } else {
        const char *spaces = indent_text(r->in, &width);
        fill = (struct jstr){
            .data = spaces, .bytes = (uint32_t)strlen(spaces), .trusted = !width.tainted};
    }
    s = jstr_concat(r->in, &s, &end); /* so that a line break at the end makes a last, empty line */
    const struct jlist *lines = jinja_lines(r->in, &s, false).u.list;
    for (uint32_t i = 0; i < lines->n && r->in->err.st == ST_OK; i++) {
        const struct jstr *line = &lines->items[i].u.str;
        if (i > 0)
            jwrite(&w, &end);
        if (i == 0 ? first : blank || line->bytes > 0)
            jwrite(&w, &fill);
        jwrite(&w, line);
    }
    return jvalue_of_str(w.text);
}

static const struct jbuiltin filters[] = {
    {"upper", "", run_upper},
    {"lower", "", run_lower},
    {"title", "", run_title},
    {"capitalize", "", run_capitalize},
    {"string", "", run_string},
    {"safe", "", run_string}, /* nothing is escaped here */
    {"trim", "chars=", run_trim},
    {"replace", "old new count=", run_replace},
    {"default", "default_value= boolean=", run_default},
    {"d", "default_value= boolean=", run_default},
    {"length", "", run_length},
    {"count", "", run_length},
    {"int", "default= base=", run_int},
    {"float", "default=", run_float},
    {"abs", "", run_abs},
    {"round", "precision= method=", run_round},
    {"tojson", "ensure_ascii= indent= separators= sort_keys=", run_tojson},
    {"format", "*", run_format},
    {"indent", "width= first= blank=", run_indent},
};

const struct jbuiltin *jinja_filter_find(const char *name, size_t bytes)
{
    const struct jbuiltin *row =
        jinja_row_find(filters, sizeof(filters) / sizeof(*filters), name, bytes);
    return row != NULL ? row : jinja_list_filter_find(name, bytes);
}
