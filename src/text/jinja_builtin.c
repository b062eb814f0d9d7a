/* Filters, tests, methods and functions of the template subset. */
#include "text/jinja.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define RANGE_MAX 100000

static const struct jvalue undefined = {.kind = J_UNDEFINED};

static const struct jnode *arg_at(const struct jnode *node, uint32_t index, const char *keyword)
{
    uint32_t i = 0;
    for (const struct jnode *arg = node->args; arg != NULL; arg = arg->next) {
        if (arg->kind == JN_KEYWORD) {
            if (keyword != NULL && strcmp(arg->name, keyword) == 0)
                return arg->a;
        } else if (i++ == index) {
            return arg;
        }
    }
    return NULL;
}

static struct jvalue arg_value(struct jinterp *in, const struct jnode *node, uint32_t index,
                               const char *keyword)
{
    const struct jnode *arg = arg_at(node, index, keyword);
    return arg != NULL ? jinja_eval(in, arg) : undefined;
}

static struct jvalue of_string(struct jstr s)
{
    return (struct jvalue){.kind = J_STRING, .u.str = s};
}

static struct jvalue of_int(int64_t i)
{
    return (struct jvalue){.kind = J_INT, .u.integer = i};
}

static struct jvalue unsupported(struct jinterp *in, const struct jnode *node, const char *what,
                                 const char *name)
{
    jerror_set(&in->err, ST_UNSUPPORTED, node->line, "%s '%.40s' is not supported on this value",
               what, name);
    return undefined;
}

/* ---- text ---- */

static bool in_set(char c, const struct jstr *set)
{
    return set == NULL ? isspace((unsigned char)c) != 0 : memchr(set->data, c, set->bytes) != NULL;
}

static struct jvalue strip(const struct jstr *s, const struct jstr *set, bool left, bool right)
{
    uint32_t first = 0, last = s->bytes;
    while (left && first < last && in_set(s->data[first], set))
        first++;
    while (right && last > first && in_set(s->data[last - 1], set))
        last--;
    return of_string(jstr_part(s, first, last - first));
}

static struct jvalue split(struct jinterp *in, const struct jstr *s, const struct jstr *by)
{
    uint32_t n = 0, start = 0;
    struct jvalue v = jvalue_list(in, s->bytes + 1);
    if (v.u.list.n == 0)
        return v;
    for (uint32_t i = 0; i <= s->bytes;) {
        bool end = i == s->bytes;
        uint32_t skip = by != NULL ? by->bytes : 1;
        bool hit =
            !end && (by == NULL ? isspace((unsigned char)s->data[i]) != 0
                                : i + skip <= s->bytes && memcmp(s->data + i, by->data, skip) == 0);
        if (!end && !hit) {
            i++;
            continue;
        }
        if (by != NULL || i > start)
            v.u.list.items[n++] = of_string(jstr_part(s, start, i - start));
        i += end ? 1 : skip;
        start = i;
    }
    v.u.list.n = n;
    return v;
}

static struct jvalue replace(struct jinterp *in, const struct jstr *s, const struct jstr *from,
                             const struct jstr *to)
{
    struct jvalue out = of_string(jstr_part(s, 0, 0));
    uint32_t start = 0;
    if (from->bytes == 0)
        return of_string(*s);
    for (uint32_t i = 0; i + from->bytes <= s->bytes && in->err.st == ST_OK;) {
        if (memcmp(s->data + i, from->data, from->bytes) != 0) {
            i++;
            continue;
        }
        struct jstr head = jstr_part(s, start, i - start);
        out = jvalue_concat(in, &out.u.str, &head);
        out = jvalue_concat(in, &out.u.str, to);
        i += from->bytes;
        start = i;
    }
    struct jstr tail = jstr_part(s, start, s->bytes - start);
    return jvalue_concat(in, &out.u.str, &tail);
}

enum letter_case { CASE_UPPER, CASE_LOWER, CASE_TITLE, CASE_CAPITAL };

/* ASCII letters only: templates change the case of roles and type names. */
static struct jvalue recase(struct jinterp *in, const struct jstr *s, enum letter_case how)
{
    char *data = arena_dup(&in->arena, s->data, s->bytes);
    struct jstr out = *s;
    bool word = false;
    if (data == NULL) {
        jerror_set(&in->err, ST_TOO_LARGE, 0, "template needs too much memory");
        return undefined;
    }
    for (uint32_t i = 0; i < s->bytes; i++) {
        unsigned char c = (unsigned char)data[i];
        bool up =
            how == CASE_UPPER || (how == CASE_TITLE && !word) || (how == CASE_CAPITAL && i == 0);
        data[i] = (char)(c >= 0x80 ? c : up ? toupper(c) : tolower(c));
        word = isalnum(c) != 0 || c >= 0x80;
    }
    out.data = data;
    return of_string(out);
}

static bool has_affix(const struct jstr *s, const struct jvalue *affix, bool front)
{
    const struct jstr *a = &affix->u.str;
    if (affix->kind == J_LIST) {
        for (uint32_t i = 0; i < affix->u.list.n; i++)
            if (has_affix(s, &affix->u.list.items[i], front))
                return true;
        return false;
    }
    return affix->kind == J_STRING && a->bytes <= s->bytes &&
           memcmp(front ? s->data : s->data + s->bytes - a->bytes, a->data, a->bytes) == 0;
}

static uint32_t code_points(const struct jstr *s)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->bytes; i++)
        n += ((unsigned char)s->data[i] & 0xc0) != 0x80;
    return n;
}

static struct jvalue text_method(struct jinterp *in, const struct jnode *call, const struct jstr *s,
                                 const char *name)
{
    struct jvalue a = arg_value(in, call, 0, NULL), b = arg_value(in, call, 1, NULL);
    const struct jstr *set = a.kind == J_STRING ? &a.u.str : NULL;
    if (in->err.st != ST_OK)
        return undefined;
    if (strcmp(name, "strip") == 0)
        return strip(s, set, true, true);
    if (strcmp(name, "lstrip") == 0)
        return strip(s, set, true, false);
    if (strcmp(name, "rstrip") == 0)
        return strip(s, set, false, true);
    if (strcmp(name, "split") == 0 && b.kind == J_UNDEFINED && (set == NULL || set->bytes > 0))
        return split(in, s, set);
    if (strcmp(name, "startswith") == 0 || strcmp(name, "endswith") == 0)
        return (struct jvalue){.kind = J_BOOL, .u.boolean = has_affix(s, &a, name[0] == 's')};
    if (strcmp(name, "upper") == 0)
        return recase(in, s, CASE_UPPER);
    if (strcmp(name, "lower") == 0)
        return recase(in, s, CASE_LOWER);
    if (strcmp(name, "title") == 0)
        return recase(in, s, CASE_TITLE);
    if (strcmp(name, "capitalize") == 0)
        return recase(in, s, CASE_CAPITAL);
    if (strcmp(name, "replace") == 0 && a.kind == J_STRING && b.kind == J_STRING)
        return replace(in, s, &a.u.str, &b.u.str);
    return unsupported(in, call, "method", name);
}

static struct jvalue dict_items(struct jinterp *in, const struct jdict *dict, char what)
{
    struct jvalue v = jvalue_list(in, dict->n);
    for (uint32_t i = 0; i < v.u.list.n; i++) {
        struct jvalue *at = &v.u.list.items[i];
        *at = what == 'k' ? dict->pairs[i].key : dict->pairs[i].value;
        if (what != 'i')
            continue;
        *at = jvalue_list(in, 2);
        if (at->u.list.n < 2)
            break;
        at->u.list.is_tuple = true;
        at->u.list.items[0] = dict->pairs[i].key;
        at->u.list.items[1] = dict->pairs[i].value;
    }
    return v;
}

static struct jvalue dict_method(struct jinterp *in, const struct jnode *call,
                                 const struct jvalue *self, const char *name)
{
    struct jdict *dict = self->u.dict;
    if (strcmp(name, "items") == 0 || strcmp(name, "keys") == 0 || strcmp(name, "values") == 0)
        return dict_items(in, dict, name[0]);
    if (strcmp(name, "get") == 0) {
        struct jvalue key = arg_value(in, call, 0, NULL), other = arg_value(in, call, 1, NULL);
        const struct jvalue *v =
            key.kind == J_STRING ? jdict_find(dict, key.u.str.data, key.u.str.bytes) : NULL;
        if (v != NULL)
            return *v;
        return other.kind == J_UNDEFINED ? (struct jvalue){.kind = J_NONE} : other;
    }
    return unsupported(in, call, "method", name);
}

struct jvalue jinja_method(struct jinterp *in, const struct jnode *call, const struct jvalue *self,
                           const char *name)
{
    if (self->kind == J_STRING)
        return text_method(in, call, &self->u.str, name);
    if (self->kind == J_DICT)
        return dict_method(in, call, self, name);
    if (self->kind == J_UNDEFINED)
        jerror_set(&in->err, ST_INVALID, call->line, "'%.40s' of an undefined value", name);
    return unsupported(in, call, "method", name);
}

/* ---- functions ---- */

static struct jvalue fn_raise(struct jinterp *in, const struct jnode *call)
{
    struct jvalue v = arg_value(in, call, 0, "message");
    struct jstr s = jvalue_str(in, &v);
    jerror_set(&in->err, ST_INVALID, 0, "%.*s", (int)(s.bytes < 200 ? s.bytes : 200), s.data);
    return undefined;
}

static struct jvalue fn_dict(struct jinterp *in, const struct jnode *call, bool is_namespace)
{
    struct jvalue v = jvalue_dict(in, is_namespace);
    for (const struct jnode *arg = call->args; arg != NULL && in->err.st == ST_OK;
         arg = arg->next) {
        if (arg->kind != JN_KEYWORD)
            return unsupported(in, call, "argument of", is_namespace ? "namespace" : "dict");
        jdict_put(in, v.u.dict, jvalue_text(arg->name), jinja_eval(in, arg->a));
    }
    return v;
}

static struct jvalue fn_range(struct jinterp *in, const struct jnode *call)
{
    struct jvalue a = arg_value(in, call, 0, NULL), b = arg_value(in, call, 1, NULL),
                  c = arg_value(in, call, 2, NULL);
    int64_t first = b.kind == J_INT ? a.u.integer : 0,
            last = b.kind == J_INT ? b.u.integer : a.u.integer;
    int64_t by = c.kind == J_INT ? c.u.integer : 1;
    if (a.kind != J_INT || by == 0 || last - first > RANGE_MAX || first - last > RANGE_MAX) {
        jerror_set(&in->err, ST_INVALID, call->line, "range: bad or too many numbers");
        return undefined;
    }
    int64_t n = by > 0 ? (last - first + by - 1) / by : (first - last - by - 1) / -by;
    struct jvalue v = jvalue_list(in, n > 0 ? (uint32_t)n : 0);
    for (uint32_t i = 0; i < v.u.list.n; i++)
        v.u.list.items[i] = of_int(first + (int64_t)i * by);
    return v;
}

static struct jvalue fn_strftime(struct jinterp *in, const struct jnode *call)
{
    struct jvalue format = arg_value(in, call, 0, "format");
    char pattern[64], text[128];
    struct tm tm;
    time_t now = (time_t)in->now_unix_s;
    if (format.kind != J_STRING || format.u.str.bytes >= sizeof(pattern))
        return unsupported(in, call, "function", "strftime_now");
    memcpy(pattern, format.u.str.data, format.u.str.bytes);
    pattern[format.u.str.bytes] = '\0';
    gmtime_r(&now, &tm);
    size_t n = strftime(text, sizeof(text), pattern, &tm);
    struct jstr s = {.data = arena_dup(&in->arena, text, n), .bytes = (uint32_t)n, .trusted = true};
    if (s.data == NULL)
        return unsupported(in, call, "function", "strftime_now");
    return of_string(s);
}

struct jvalue jinja_function(struct jinterp *in, const struct jnode *call, const char *name)
{
    if (strcmp(name, "raise_exception") == 0)
        return fn_raise(in, call);
    if (strcmp(name, "range") == 0)
        return fn_range(in, call);
    if (strcmp(name, "strftime_now") == 0)
        return fn_strftime(in, call);
    return fn_dict(in, call, strcmp(name, "namespace") == 0);
}

/* ---- filters ---- */

static struct jvalue filter_join(struct jinterp *in, const struct jnode *node,
                                 const struct jvalue *list)
{
    struct jvalue by = arg_value(in, node, 0, "d"), out = jvalue_text("");
    for (uint32_t i = 0; i < list->u.list.n && in->err.st == ST_OK; i++) {
        struct jstr item = jvalue_str(in, &list->u.list.items[i]);
        if (i > 0 && by.kind == J_STRING)
            out = jvalue_concat(in, &out.u.str, &by.u.str);
        out = jvalue_concat(in, &out.u.str, &item);
    }
    return out;
}

/* selectattr, rejectattr, map(attribute=...): by one attribute. */
static struct jvalue filter_attr(struct jinterp *in, const struct jnode *node,
                                 const struct jvalue *list)
{
    bool map = strcmp(node->name, "map") == 0, reject = node->name[0] == 'r';
    struct jvalue name =
        map ? arg_value(in, node, UINT32_MAX, "attribute") : arg_value(in, node, 0, NULL);
    struct jvalue test = map ? undefined : arg_value(in, node, 1, NULL),
                  with = map ? undefined : arg_value(in, node, 2, NULL);
    struct jvalue out = jvalue_list(in, list->u.list.n);
    uint32_t n = 0;
    if (name.kind != J_STRING)
        return unsupported(in, node, "filter", node->name);
    for (uint32_t i = 0; i < out.u.list.n; i++) {
        const struct jvalue *item = &list->u.list.items[i];
        const struct jvalue *found =
            item->kind == J_DICT ? jdict_find(item->u.dict, name.u.str.data, name.u.str.bytes)
                                 : NULL;
        struct jvalue v = found != NULL ? *found : undefined;
        bool keep = jvalue_truth(&v);
        if (test.kind == J_STRING &&
            (jvalue_equal(&test, &(struct jvalue){.kind = J_STRING,
                                                  .u.str = {.data = "equalto", .bytes = 7}}) ||
             (test.u.str.bytes == 2 &&
              (memcmp(test.u.str.data, "==", 2) == 0 || memcmp(test.u.str.data, "eq", 2) == 0))))
            keep = jvalue_equal(&v, &with);
        else if (test.kind == J_STRING && test.u.str.bytes == 7 &&
                 memcmp(test.u.str.data, "defined", 7) == 0)
            keep = v.kind != J_UNDEFINED;
        else if (test.kind != J_UNDEFINED)
            return unsupported(in, node, "test of filter", node->name);
        if (map)
            out.u.list.items[n++] = v;
        else if (keep != reject)
            out.u.list.items[n++] = *item;
    }
    out.u.list.n = n;
    return out;
}

static struct jvalue filter_list(struct jinterp *in, const struct jnode *node, struct jvalue value)
{
    const char *name = node->name;
    struct jvalue list = value;
    if (value.kind == J_DICT)
        list = dict_items(in, value.u.dict, strcmp(name, "items") == 0 ? 'i' : 'k');
    if (list.kind != J_LIST)
        return unsupported(in, node, "filter", name);
    if (strcmp(name, "list") == 0 || strcmp(name, "items") == 0)
        return list;
    if (strcmp(name, "join") == 0)
        return filter_join(in, node, &list);
    if (strcmp(name, "first") == 0)
        return list.u.list.n > 0 ? list.u.list.items[0] : undefined;
    if (strcmp(name, "last") == 0)
        return list.u.list.n > 0 ? list.u.list.items[list.u.list.n - 1] : undefined;
    if (strcmp(name, "selectattr") == 0 || strcmp(name, "rejectattr") == 0 ||
        strcmp(name, "map") == 0)
        return filter_attr(in, node, &list);
    if (strcmp(name, "reverse") == 0) {
        struct jvalue out = jvalue_list(in, list.u.list.n);
        for (uint32_t i = 0; i < out.u.list.n; i++)
            out.u.list.items[i] = list.u.list.items[list.u.list.n - 1 - i];
        return out;
    }
    return unsupported(in, node, "filter", name);
}

static struct jvalue filter_text(struct jinterp *in, const struct jnode *node, const struct jstr *s)
{
    const char *name = node->name;
    struct jvalue a = arg_value(in, node, 0, NULL), b = arg_value(in, node, 1, NULL);
    if (strcmp(name, "trim") == 0)
        return strip(s, a.kind == J_STRING ? &a.u.str : NULL, true, true);
    if (strcmp(name, "upper") == 0)
        return recase(in, s, CASE_UPPER);
    if (strcmp(name, "lower") == 0)
        return recase(in, s, CASE_LOWER);
    if (strcmp(name, "title") == 0)
        return recase(in, s, CASE_TITLE);
    if (strcmp(name, "capitalize") == 0)
        return recase(in, s, CASE_CAPITAL);
    if (strcmp(name, "safe") == 0)
        return of_string(*s);
    if (strcmp(name, "replace") == 0 && a.kind == J_STRING && b.kind == J_STRING)
        return replace(in, s, &a.u.str, &b.u.str);
    return unsupported(in, node, "filter", name);
}

struct jvalue jinja_filter(struct jinterp *in, const struct jnode *node, struct jvalue value)
{
    const char *name = node->name;
    if (strcmp(name, "tojson") == 0) {
        struct jvalue indent = arg_value(in, node, UINT32_MAX, "indent");
        return of_string(
            jvalue_tojson(in, &value,
                          indent.kind == J_INT && indent.u.integer >= 0 && indent.u.integer <= 16
                              ? (int)indent.u.integer
                              : -1));
    }
    if (strcmp(name, "default") == 0 || strcmp(name, "d") == 0) {
        struct jvalue boolean = arg_value(in, node, 1, "boolean");
        bool use = value.kind == J_UNDEFINED || (jvalue_truth(&boolean) && !jvalue_truth(&value));
        return use ? arg_value(in, node, 0, "default_value") : value;
    }
    if (strcmp(name, "length") == 0 || strcmp(name, "count") == 0) {
        if (value.kind == J_STRING)
            return of_int(code_points(&value.u.str));
        if (value.kind == J_LIST)
            return of_int(value.u.list.n);
        if (value.kind == J_DICT)
            return of_int(value.u.dict->n);
        return value.kind == J_UNDEFINED ? of_int(0) : unsupported(in, node, "filter", name);
    }
    if (strcmp(name, "string") == 0)
        return of_string(jvalue_str(in, &value));
    if (value.kind == J_LIST || value.kind == J_DICT)
        return filter_list(in, node, value);
    struct jstr s = jvalue_str(in, &value);
    return in->err.st == ST_OK ? filter_text(in, node, &s) : undefined;
}

/* ---- tests ---- */

bool jinja_test(struct jinterp *in, const struct jnode *node, const struct jvalue *v)
{
    const char *name = node->name;
    if (strcmp(name, "defined") == 0)
        return v->kind != J_UNDEFINED;
    if (strcmp(name, "undefined") == 0)
        return v->kind == J_UNDEFINED;
    if (strcmp(name, "none") == 0)
        return v->kind == J_NONE;
    if (strcmp(name, "string") == 0)
        return v->kind == J_STRING;
    if (strcmp(name, "mapping") == 0)
        return v->kind == J_DICT;
    if (strcmp(name, "sequence") == 0 || strcmp(name, "iterable") == 0)
        return v->kind == J_LIST || v->kind == J_STRING || v->kind == J_DICT;
    if (strcmp(name, "boolean") == 0)
        return v->kind == J_BOOL;
    if (strcmp(name, "true") == 0)
        return v->kind == J_BOOL && v->u.boolean;
    if (strcmp(name, "false") == 0)
        return v->kind == J_BOOL && !v->u.boolean;
    if (strcmp(name, "number") == 0)
        return v->kind == J_INT || v->kind == J_FLOAT || v->kind == J_BOOL;
    if (strcmp(name, "integer") == 0)
        return v->kind == J_INT;
    if (strcmp(name, "odd") == 0 || strcmp(name, "even") == 0)
        return v->kind == J_INT && (v->u.integer % 2 != 0) == (name[0] == 'o');
    if (strcmp(name, "equalto") == 0 || strcmp(name, "eq") == 0) {
        struct jvalue with = arg_value(in, node, 0, NULL);
        return jvalue_equal(v, &with);
    }
    jerror_set(&in->err, ST_UNSUPPORTED, node->line, "test '%.40s' is not supported", name);
    return false;
}
