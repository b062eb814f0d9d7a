/* Values of the template interpreter: text with trust, lists, dicts, printing, JSON. */
#include "text/jinja.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *take(struct jinterp *in, size_t count, size_t bytes)
{
    void *at = arena_calloc(&in->arena, count > 0 ? count : 1, bytes);
    if (at == NULL)
        jerror_set(&in->err, ST_TOO_LARGE, 0, "template needs too much memory");
    return at;
}

bool jvalue_truth(const struct jvalue *v)
{
    switch (v->kind) {
    case J_UNDEFINED:
    case J_NONE:
        return false;
    case J_BOOL:
        return v->u.boolean;
    case J_INT:
        return v->u.integer != 0;
    case J_FLOAT:
        return v->u.real != 0;
    case J_STRING:
        return v->u.str.bytes > 0;
    case J_LIST:
        return v->u.list.n > 0;
    case J_DICT:
        return v->u.dict->n > 0 || v->u.dict->is_namespace;
    case J_FUNCTION:
        break;
    }
    return true;
}

static bool as_real(const struct jvalue *v, double *out)
{
    if (v->kind == J_BOOL)
        *out = v->u.boolean;
    else if (v->kind == J_INT)
        *out = (double)v->u.integer;
    else if (v->kind == J_FLOAT)
        *out = v->u.real;
    else
        return false;
    return true;
}

bool jvalue_equal(const struct jvalue *a, const struct jvalue *b)
{
    double x, y;
    if (as_real(a, &x) && as_real(b, &y))
        return x == y;
    if (a->kind != b->kind)
        return false;
    switch (a->kind) {
    case J_STRING:
        return a->u.str.bytes == b->u.str.bytes &&
               memcmp(a->u.str.data, b->u.str.data, a->u.str.bytes) == 0;
    case J_LIST:
        if (a->u.list.n != b->u.list.n)
            return false;
        for (uint32_t i = 0; i < a->u.list.n; i++)
            if (!jvalue_equal(&a->u.list.items[i], &b->u.list.items[i]))
                return false;
        return true;
    case J_DICT:
        return a->u.dict == b->u.dict;
    default:
        return true;
    }
}

int jvalue_compare(const struct jvalue *a, const struct jvalue *b)
{
    double x, y;
    if (as_real(a, &x) && as_real(b, &y))
        return x < y ? -1 : x > y;
    if (a->kind != J_STRING || b->kind != J_STRING)
        return 2;
    uint32_t n = a->u.str.bytes < b->u.str.bytes ? a->u.str.bytes : b->u.str.bytes;
    int order = memcmp(a->u.str.data, b->u.str.data, n);
    if (order == 0)
        return a->u.str.bytes < b->u.str.bytes ? -1 : a->u.str.bytes > b->u.str.bytes;
    return order < 0 ? -1 : 1;
}

struct jvalue jvalue_text(const char *literal)
{
    return (struct jvalue){
        .kind = J_STRING,
        .u.str = {.data = literal, .bytes = (uint32_t)strlen(literal), .trusted = true}};
}

struct jstr jstr_part(const struct jstr *s, uint32_t first, uint32_t bytes)
{
    return (struct jstr){.data = s->data + first,
                         .mask = s->mask != NULL ? s->mask + first : NULL,
                         .bytes = bytes,
                         .trusted = s->trusted};
}

static void mask_copy(uint8_t *mask, const struct jstr *s)
{
    if (s->mask != NULL)
        memcpy(mask, s->mask, s->bytes);
    else
        memset(mask, s->trusted, s->bytes);
}

struct jvalue jvalue_concat(struct jinterp *in, const struct jstr *a, const struct jstr *b)
{
    struct jvalue v = {.kind = J_STRING};
    uint64_t bytes = (uint64_t)a->bytes + b->bytes;
    bool uniform = a->mask == NULL && b->mask == NULL &&
                   (a->trusted == b->trusted || a->bytes == 0 || b->bytes == 0);
    char *data = bytes <= JINJA_MEMORY_BYTES_MAX ? take(in, bytes, uniform ? 1 : 2) : NULL;
    if (data == NULL) {
        jerror_set(&in->err, ST_TOO_LARGE, 0, "template makes too long a text");
        return v;
    }
    memcpy(data, a->data, a->bytes);
    memcpy(data + a->bytes, b->data, b->bytes);
    v.u.str = (struct jstr){
        .data = data, .bytes = (uint32_t)bytes, .trusted = a->bytes > 0 ? a->trusted : b->trusted};
    if (!uniform) {
        uint8_t *mask = (uint8_t *)data + bytes;
        mask_copy(mask, a);
        mask_copy(mask + a->bytes, b);
        v.u.str.mask = mask;
    }
    return v;
}

struct jvalue jvalue_list(struct jinterp *in, uint32_t n)
{
    struct jvalue v = {.kind = J_LIST};
    v.u.list.items = take(in, n, sizeof(struct jvalue));
    v.u.list.n = v.u.list.items != NULL ? n : 0;
    return v;
}

struct jvalue jvalue_dict(struct jinterp *in, bool is_namespace)
{
    static struct jdict none;
    struct jvalue v = {.kind = J_DICT};
    v.u.dict = take(in, 1, sizeof(*v.u.dict));
    if (v.u.dict == NULL)
        v.u.dict = &none;
    else
        v.u.dict->is_namespace = is_namespace;
    return v;
}

struct jvalue *jdict_find(struct jdict *dict, const char *name, uint32_t bytes)
{
    for (uint32_t i = 0; i < dict->n; i++) {
        const struct jvalue *key = &dict->pairs[i].key;
        if (key->kind == J_STRING && key->u.str.bytes == bytes &&
            memcmp(key->u.str.data, name, bytes) == 0)
            return &dict->pairs[i].value;
    }
    return NULL;
}

void jdict_put(struct jinterp *in, struct jdict *dict, struct jvalue key, struct jvalue value)
{
    struct jvalue *at =
        key.kind == J_STRING ? jdict_find(dict, key.u.str.data, key.u.str.bytes) : NULL;
    if (at != NULL) {
        *at = value;
        return;
    }
    if (dict->n == dict->cap) {
        uint32_t cap = dict->cap > 0 ? 2 * dict->cap : 8;
        struct jpair *pairs = take(in, cap, sizeof(*pairs));
        if (pairs == NULL)
            return;
        if (dict->n > 0)
            memcpy(pairs, dict->pairs, dict->n * sizeof(*pairs));
        dict->pairs = pairs;
        dict->cap = cap;
    }
    dict->pairs[dict->n++] = (struct jpair){key, value};
}

static struct jvalue untrusted(const char *text)
{
    struct jvalue v = jvalue_text(text);
    v.u.str.trusted = false;
    return v;
}

struct jvalue jvalue_of_json(struct jinterp *in, const cJSON *json)
{
    struct jvalue v = {.kind = J_NONE};
    if (in->err.st != ST_OK || json == NULL || ++in->depth > JINJA_DEPTH_MAX) {
        if (in->depth > JINJA_DEPTH_MAX)
            jerror_set(&in->err, ST_TOO_LARGE, 0, "input is nested too deeply");
        return v;
    }
    const cJSON *item;
    uint32_t n = 0;
    if (cJSON_IsString(json)) {
        v = untrusted(json->valuestring);
    } else if (cJSON_IsBool(json)) {
        v = (struct jvalue){.kind = J_BOOL, .u.boolean = cJSON_IsTrue(json)};
    } else if (cJSON_IsNumber(json)) {
        double real = json->valuedouble;
        if (real == floor(real) && fabs(real) < 9e15)
            v = (struct jvalue){.kind = J_INT, .u.integer = (int64_t)real};
        else
            v = (struct jvalue){.kind = J_FLOAT, .u.real = real};
    } else if (cJSON_IsArray(json)) {
        v = jvalue_list(in, (uint32_t)cJSON_GetArraySize(json));
        cJSON_ArrayForEach(item, json)
        {
            if (n < v.u.list.n)
                v.u.list.items[n++] = jvalue_of_json(in, item);
        }
    } else if (cJSON_IsObject(json)) {
        v = jvalue_dict(in, false);
        cJSON_ArrayForEach(item, json)
        {
            struct jvalue value = jvalue_of_json(in, item);
            jdict_put(in, v.u.dict, untrusted(item->string), value);
        }
    }
    in->depth--;
    return v;
}

/* ---- printing ---- */

/* As Python writes a float: the shortest text that reads back, with a point or exponent. */
static void print_real(char *out, size_t bytes, double real)
{
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(out, bytes, "%.*g", digits, real);
        if (strtod(out, NULL) == real)
            break;
    }
    if (strpbrk(out, ".en") == NULL)
        strncat(out, ".0", bytes - strlen(out) - 1);
}

struct writer {
    struct buf text;
    bool all_trusted;
};

static void write_json(struct jinterp *in, const struct jvalue *v, int indent, int level,
                       struct writer *w);

static void write_break(struct writer *w, int indent, int level)
{
    if (indent < 0)
        return;
    buf_append(&w->text, "\n", 1);
    for (int i = 0; i < indent * level; i++)
        buf_append(&w->text, " ", 1);
}

/* json.dumps with ensure_ascii off: only what must be escaped is. */
static void write_string(const struct jstr *s, struct writer *w)
{
    buf_append(&w->text, "\"", 1);
    for (uint32_t i = 0; i < s->bytes; i++) {
        unsigned char c = (unsigned char)s->data[i];
        if (c == '"' || c == '\\')
            buf_printf(&w->text, "\\%c", c);
        else if (c == '\n')
            buf_append_str(&w->text, "\\n");
        else if (c == '\t')
            buf_append_str(&w->text, "\\t");
        else if (c == '\r')
            buf_append_str(&w->text, "\\r");
        else if (c == '\b')
            buf_append_str(&w->text, "\\b");
        else if (c == '\f')
            buf_append_str(&w->text, "\\f");
        else if (c < 0x20)
            buf_printf(&w->text, "\\u%04x", c);
        else
            buf_append(&w->text, &c, 1);
        w->all_trusted &= s->mask != NULL ? s->mask[i] : s->trusted;
    }
    buf_append(&w->text, "\"", 1);
}

static void write_items(struct jinterp *in, const struct jvalue *v, int indent, int level,
                        struct writer *w)
{
    bool is_dict = v->kind == J_DICT;
    uint32_t n = is_dict ? v->u.dict->n : v->u.list.n;
    buf_append_str(&w->text, is_dict ? "{" : "[");
    for (uint32_t i = 0; i < n && in->err.st == ST_OK; i++) {
        if (i > 0)
            buf_append_str(&w->text, indent < 0 ? ", " : ",");
        write_break(w, indent, level + 1);
        if (is_dict) {
            struct jstr key = jvalue_str(in, &v->u.dict->pairs[i].key);
            write_string(&key, w);
            buf_append_str(&w->text, ": ");
        }
        write_json(in, is_dict ? &v->u.dict->pairs[i].value : &v->u.list.items[i], indent,
                   level + 1, w);
    }
    if (n > 0)
        write_break(w, indent, level);
    buf_append_str(&w->text, is_dict ? "}" : "]");
}

static void write_json(struct jinterp *in, const struct jvalue *v, int indent, int level,
                       struct writer *w)
{
    char number[64];
    if (level > (int)JINJA_DEPTH_MAX) {
        jerror_set(&in->err, ST_TOO_LARGE, 0, "tojson: nested too deeply");
        return;
    }
    switch (v->kind) {
    case J_NONE:
        buf_append_str(&w->text, "null");
        return;
    case J_BOOL:
        buf_append_str(&w->text, v->u.boolean ? "true" : "false");
        return;
    case J_INT:
        buf_printf(&w->text, "%" PRId64, v->u.integer);
        return;
    case J_FLOAT:
        print_real(number, sizeof(number), v->u.real);
        buf_append_str(&w->text, number);
        return;
    case J_STRING:
        write_string(&v->u.str, w);
        return;
    case J_LIST:
    case J_DICT:
        write_items(in, v, indent, level, w);
        return;
    case J_UNDEFINED:
    case J_FUNCTION:
        jerror_set(&in->err, ST_INVALID, 0, "tojson: value cannot be written as JSON");
        return;
    }
}

struct jstr jvalue_tojson(struct jinterp *in, const struct jvalue *v, int indent)
{
    struct writer w = {.all_trusted = true};
    struct jstr s = {.data = "", .trusted = true};
    buf_init(&w.text, JINJA_MEMORY_BYTES_MAX);
    write_json(in, v, indent, 0, &w);
    char *copy = arena_dup(&in->arena, w.text.data, w.text.len);
    if (copy == NULL)
        jerror_set(&in->err, ST_TOO_LARGE, 0, "template needs too much memory");
    else
        s = (struct jstr){.data = copy, .bytes = (uint32_t)w.text.len, .trusted = w.all_trusted};
    buf_deinit(&w.text);
    return s;
}

struct jstr jvalue_str(struct jinterp *in, const struct jvalue *v)
{
    char number[64];
    struct jstr s = {.data = "", .trusted = true};
    switch (v->kind) {
    case J_UNDEFINED:
        return s;
    case J_STRING:
        return v->u.str;
    case J_NONE:
        return jvalue_text("None").u.str;
    case J_BOOL:
        return jvalue_text(v->u.boolean ? "True" : "False").u.str;
    case J_INT:
        snprintf(number, sizeof(number), "%" PRId64, v->u.integer);
        break;
    case J_FLOAT:
        print_real(number, sizeof(number), v->u.real);
        break;
    case J_LIST:
    case J_DICT:
    case J_FUNCTION:
        jerror_set(&in->err, ST_UNSUPPORTED, 0, "a list or mapping cannot be printed; use tojson");
        return s;
    }
    s.bytes = (uint32_t)strlen(number);
    s.data = arena_dup(&in->arena, number, s.bytes);
    s.trusted = false; /* digits need no trust, and may come from a request */
    if (s.data == NULL) {
        jerror_set(&in->err, ST_TOO_LARGE, 0, "template needs too much memory");
        s = (struct jstr){.data = ""};
    }
    return s;
}
