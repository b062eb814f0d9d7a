/* Values of the template interpreter: truth, equality, order, lists, dicts, input data. */
#include "text/jinja.h"

#include "base/hash.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { DICT_LINEAR_MAX = 12 }; /* pairs that are searched without a hash index */

void jfail(struct jinterp *in, const char *format, ...)
{
    char text[256];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    jerror_set(&in->err, ST_INVALID, in->line, "%s", text);
}

bool jstep(struct jinterp *in, size_t bytes)
{
    if (in->err.st != ST_OK)
        return false;
    size_t steps = 1 + bytes / JINJA_STEP_BYTES;
    if (steps > JINJA_STEPS_MAX - in->steps) {
        jerror_set(&in->err, ST_TOO_LARGE, in->line, "template takes too many steps");
        return false;
    }
    in->steps += (uint32_t)steps;
    return true;
}

void *jtake(struct jinterp *in, size_t count, size_t bytes)
{
    void *at = arena_calloc(&in->arena, count > 0 ? count : 1, bytes);
    if (at == NULL)
        jerror_set(&in->err, ST_TOO_LARGE, in->line, "template needs too much memory");
    return at;
}

/* ---- scalars ---- */

struct jvalue jvalue_bool(bool value)
{
    return (struct jvalue){.kind = J_BOOL, .u.boolean = value};
}

struct jvalue jvalue_int(int64_t value)
{
    return (struct jvalue){.kind = J_INT, .u.integer = value};
}

struct jvalue jvalue_real(double value)
{
    return (struct jvalue){.kind = J_FLOAT, .u.real = value};
}

struct jvalue jvalue_undefined(const char *name)
{
    return (struct jvalue){.kind = J_UNDEFINED, .u.name = name};
}

struct jvalue jvalue_none(void)
{
    return (struct jvalue){.kind = J_NONE};
}

const char *jkind_name(const struct jvalue *v)
{
    static const char *const names[] = {[J_UNDEFINED] = "undefined", [J_NONE] = "none",
                                        [J_BOOL] = "bool",           [J_INT] = "int",
                                        [J_FLOAT] = "float",         [J_STRING] = "str",
                                        [J_LIST] = "list",           [J_DICT] = "dict",
                                        [J_LOOP] = "loop",           [J_MACRO] = "macro",
                                        [J_METHOD] = "method",       [J_FUNCTION] = "function"};
    return names[v->kind];
}

bool jvalue_tainted(const struct jvalue *v)
{
    return v->kind == J_STRING ? !jstr_trusted(&v->u.str) : v->tainted;
}

bool jvalue_is_int(const struct jvalue *v, int64_t *out)
{
    if (v->kind == J_BOOL)
        *out = v->u.boolean;
    else if (v->kind == J_INT)
        *out = v->u.integer;
    else
        return false;
    return true;
}

bool jvalue_is_number(const struct jvalue *v, double *out)
{
    int64_t integer;
    if (jvalue_is_int(v, &integer))
        *out = (double)integer;
    else if (v->kind == J_FLOAT)
        *out = v->u.real;
    else
        return false;
    return true;
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
        return v->u.list->kind == JL_GENERATOR || v->u.list->n > 0;
    case J_DICT:
        return v->u.dict->n > 0 || v->u.dict->is_namespace;
    default:
        return true;
    }
}

static int order_reals(double x, double y)
{
    return x < y ? -1 : x > y;
}

static bool equal_numbers(const struct jvalue *a, const struct jvalue *b, bool *out)
{
    int64_t i, k;
    double x, y;
    if (jvalue_is_int(a, &i) && jvalue_is_int(b, &k))
        *out = i == k;
    else if (jvalue_is_number(a, &x) && jvalue_is_number(b, &y))
        *out = x == y;
    else
        return false;
    return true;
}

/* Enters one level of data; values that a template builds may nest without end. */
static bool nest(struct jinterp *in)
{
    if (++in->nest > JINJA_NEST_MAX)
        jerror_set(&in->err, ST_TOO_LARGE, in->line, "nested too deeply");
    return jstep(in, 0);
}

static bool equal_lists(struct jinterp *in, const struct jlist *a, const struct jlist *b)
{
    if (a == b)
        return true;
    bool sequence = a->kind == JL_LIST || a->kind == JL_TUPLE || a->kind == JL_RANGE;
    if (a->kind != b->kind || !sequence || a->n != b->n)
        return false;
    for (uint32_t i = 0; i < a->n; i++) {
        struct jvalue x = jlist_item(a, i), y = jlist_item(b, i);
        if (!jvalue_equal(in, &x, &y))
            return false;
    }
    return true;
}

static bool equal_dicts(struct jinterp *in, const struct jdict *a, const struct jdict *b)
{
    if (a == b)
        return true;
    if (a->is_namespace || b->is_namespace || a->n != b->n)
        return false;
    for (uint32_t i = 0; i < a->n; i++) {
        const struct jvalue *other = jdict_find(in, b, &a->pairs[i].key);
        if (other == NULL || !jvalue_equal(in, &a->pairs[i].value, other))
            return false;
    }
    return true;
}

bool jvalue_equal(struct jinterp *in, const struct jvalue *a, const struct jvalue *b)
{
    bool equal = false;
    if (equal_numbers(a, b, &equal))
        return equal;
    if (a->kind != b->kind)
        return false;
    if (nest(in)) {
        switch (a->kind) {
        case J_UNDEFINED:
        case J_NONE:
            equal = true;
            break;
        case J_STRING:
            equal = a->u.str.bytes == b->u.str.bytes && jstep(in, a->u.str.bytes) &&
                    memcmp(a->u.str.data, b->u.str.data, a->u.str.bytes) == 0;
            break;
        case J_LIST:
            equal = equal_lists(in, a->u.list, b->u.list);
            break;
        case J_DICT:
            equal = equal_dicts(in, a->u.dict, b->u.dict);
            break;
        case J_FUNCTION:
            equal = a->u.function == b->u.function;
            break;
        case J_MACRO:
            equal = a->u.macro == b->u.macro;
            break;
        default:
            break;
        }
    }
    in->nest--;
    return equal;
}

static int order_strings(const struct jstr *a, const struct jstr *b)
{
    int order = memcmp(a->data, b->data, a->bytes < b->bytes ? a->bytes : b->bytes);
    if (order == 0)
        return a->bytes < b->bytes ? -1 : a->bytes > b->bytes;
    return order < 0 ? -1 : 1;
}

static int order_lists(struct jinterp *in, const struct jlist *a, const struct jlist *b)
{
    for (uint32_t i = 0; i < a->n && i < b->n && in->err.st == ST_OK; i++) {
        struct jvalue x = jlist_item(a, i), y = jlist_item(b, i);
        if (!jvalue_equal(in, &x, &y))
            return jvalue_order(in, &x, &y);
    }
    return a->n < b->n ? -1 : a->n > b->n;
}

int jvalue_order(struct jinterp *in, const struct jvalue *a, const struct jvalue *b)
{
    int64_t i, k;
    double x, y;
    int order = 0;
    if (jvalue_is_int(a, &i) && jvalue_is_int(b, &k))
        return i < k ? -1 : i > k;
    if (jvalue_is_number(a, &x) && jvalue_is_number(b, &y))
        return order_reals(x, y);
    if (!nest(in)) {
        in->nest--;
        return 0;
    }
    if (a->kind == J_STRING && b->kind == J_STRING)
        order = order_strings(&a->u.str, &b->u.str);
    else if (a->kind == J_LIST && b->kind == J_LIST && a->u.list->kind == b->u.list->kind &&
             (a->u.list->kind == JL_LIST || a->u.list->kind == JL_TUPLE))
        order = order_lists(in, a->u.list, b->u.list);
    else
        jfail(in, "%s and %s have no order", jkind_name(a), jkind_name(b));
    in->nest--;
    return order;
}

/* ---- lists ---- */

struct jvalue jvalue_list(struct jinterp *in, enum jlist_kind kind, uint32_t n,
                          struct jvalue **out_items)
{
    struct jvalue v = {.kind = J_LIST};
    struct jlist *list = jtake(in, 1, sizeof(*list));
    struct jvalue *items = list != NULL ? jtake(in, n, sizeof(*items)) : NULL;
    if (items == NULL) {
        in->no_list = (struct jlist){0};
        v.u.list = &in->no_list;
        *out_items = &in->no_item;
        return v;
    }
    *list = (struct jlist){.kind = kind, .n = n, .items = items};
    v.u.list = list;
    *out_items = items;
    return v;
}

struct jvalue jlist_item(const struct jlist *list, uint32_t i)
{
    if (list->kind == JL_RANGE)
        return jvalue_int((int64_t)((uint64_t)list->start + i * (uint64_t)list->step));
    return list->items[i];
}

static struct jlist *iterate_text(struct jinterp *in, const struct jstr *s)
{
    struct jvalue *items;
    uint32_t point, n = 0;
    struct jvalue v = jvalue_list(in, JL_LIST, jstr_count(s), &items);
    for (uint32_t at = 0; at < s->bytes && n < v.u.list->n;) {
        uint32_t bytes = jstr_char(s, at, &point);
        items[n++] = jvalue_of_str(jstr_part(s, at, bytes));
        at += bytes;
    }
    return v.u.list;
}

struct jlist *jvalue_iterate(struct jinterp *in, const struct jvalue *v)
{
    struct jvalue *items, empty;
    if (v->kind == J_LIST) {
        bool spent = v->u.list->kind == JL_GENERATOR && v->u.list->consumed;
        v->u.list->consumed = true;
        if (!spent)
            return v->u.list;
    } else if (v->kind == J_STRING) {
        return jstep(in, v->u.str.bytes) ? iterate_text(in, &v->u.str)
                                         : jvalue_list(in, JL_LIST, 0, &items).u.list;
    } else if (v->kind == J_DICT && !v->u.dict->is_namespace) {
        struct jvalue keys = jvalue_list(in, JL_LIST, v->u.dict->n, &items);
        for (uint32_t i = 0; i < keys.u.list->n; i++)
            items[i] = v->u.dict->pairs[i].key;
        return keys.u.list;
    } else if (v->kind != J_UNDEFINED) {
        jfail(in, "%s cannot be iterated", jkind_name(v));
    }
    empty = jvalue_list(in, JL_LIST, 0, &items);
    return empty.u.list;
}

/* ---- dicts ---- */

struct jvalue jvalue_dict(struct jinterp *in, bool is_namespace)
{
    struct jvalue v = {.kind = J_DICT};
    v.u.dict = jtake(in, 1, sizeof(*v.u.dict));
    if (v.u.dict == NULL) {
        in->no_dict = (struct jdict){0};
        v.u.dict = &in->no_dict;
    } else {
        v.u.dict->is_namespace = is_namespace;
    }
    return v;
}

/* Equal keys have equal hashes: 1, 1.0 and true are one key. */
static uint64_t key_hash(const struct jvalue *key)
{
    double real;
    if (key->kind == J_STRING)
        return hash_bytes(key->u.str.data, key->u.str.bytes);
    if (jvalue_is_number(key, &real)) {
        real = real == 0 ? 0 : real;
        return hash_bytes(&real, sizeof(real));
    }
    if (key->kind == J_LIST)
        return hash_mix64(key->u.list->n);
    return hash_mix64((uint64_t)key->kind);
}

static uint32_t *slot_of(struct jinterp *in, const struct jdict *dict, const struct jvalue *key)
{
    uint32_t mask = dict->n_slots - 1, at = (uint32_t)key_hash(key) & mask;
    while (dict->slots[at] != 0 && jstep(in, 0) &&
           !jvalue_equal(in, &dict->pairs[dict->slots[at] - 1].key, key))
        at = (at + 1) & mask;
    return &dict->slots[at];
}

struct jvalue *jdict_find(struct jinterp *in, const struct jdict *dict, const struct jvalue *key)
{
    if (dict->slots != NULL) {
        uint32_t slot = *slot_of(in, dict, key);
        return slot != 0 && in->err.st == ST_OK ? &dict->pairs[slot - 1].value : NULL;
    }
    for (uint32_t i = 0; i < dict->n; i++)
        if (jvalue_equal(in, &dict->pairs[i].key, key))
            return &dict->pairs[i].value;
    return NULL;
}

struct jvalue *jdict_find_text(struct jinterp *in, const struct jdict *dict, const char *name)
{
    struct jvalue key = jvalue_text(name);
    return jdict_find(in, dict, &key);
}

static void dict_index(struct jinterp *in, struct jdict *dict)
{
    uint32_t n_slots = 4 * dict->cap; /* cap is a power of two; at most a quarter is used */
    uint32_t *slots = jtake(in, n_slots, sizeof(*slots));
    if (slots == NULL)
        return;
    dict->slots = slots;
    dict->n_slots = n_slots;
    for (uint32_t i = 0; i < dict->n && in->err.st == ST_OK; i++)
        *slot_of(in, dict, &dict->pairs[i].key) = i + 1;
}

static bool dict_grow(struct jinterp *in, struct jdict *dict)
{
    uint32_t cap = dict->cap > 0 ? 2 * dict->cap : 4;
    struct jpair *pairs = jtake(in, cap, sizeof(*pairs));
    if (pairs == NULL)
        return false;
    if (dict->pairs != NULL)
        memcpy(pairs, dict->pairs, dict->n * sizeof(*pairs));
    dict->pairs = pairs;
    dict->cap = cap;
    if (cap > DICT_LINEAR_MAX)
        dict_index(in, dict);
    return in->err.st == ST_OK;
}

static bool hashable(const struct jvalue *key)
{
    if (key->kind == J_LIST && key->u.list->kind == JL_TUPLE) {
        for (uint32_t i = 0; i < key->u.list->n; i++)
            if (key->u.list->items[i].kind == J_LIST || key->u.list->items[i].kind == J_DICT)
                return false; /* tuples of tuples are left out: hashes must not recurse */
        return true;
    }
    return key->kind != J_LIST && key->kind != J_DICT && key->kind != J_UNDEFINED;
}

void jdict_put(struct jinterp *in, struct jdict *dict, const struct jvalue *key,
               const struct jvalue *value)
{
    if (in->err.st != ST_OK)
        return;
    if (!hashable(key)) {
        jfail(in, "%s cannot be a key", jkind_name(key));
        return;
    }
    struct jvalue *at = jdict_find(in, dict, key);
    if (at != NULL) {
        *at = *value;
        return;
    }
    bool is_full = dict->pairs == NULL || dict->n == dict->cap;
    if (in->err.st != ST_OK || (is_full && !dict_grow(in, dict)))
        return;
    if (dict->slots != NULL)
        *slot_of(in, dict, key) = dict->n + 1;
    dict->pairs[dict->n++] = (struct jpair){*key, *value};
}

/* ---- input data ---- */

static struct jvalue untrusted(const char *text)
{
    struct jvalue v = jvalue_text(text);
    v.u.str.trusted = false;
    return v;
}

static struct jvalue of_number(double real)
{
    /* cJSON keeps no spelling: 2.0 cannot be told from 2 */
    if (real == floor(real) && fabs(real) < 9.2e18)
        return jvalue_int((int64_t)real);
    return jvalue_real(real);
}

static struct jvalue of_array(struct jinterp *in, const cJSON *json)
{
    struct jvalue *items;
    struct jvalue v = jvalue_list(in, JL_LIST, (uint32_t)cJSON_GetArraySize(json), &items);
    const cJSON *item = json->child;
    for (uint32_t i = 0; i < v.u.list->n; i++, item = item->next)
        items[i] = jvalue_of_json(in, item);
    return v;
}

static struct jvalue of_object(struct jinterp *in, const cJSON *json)
{
    struct jvalue v = jvalue_dict(in, false);
    for (const cJSON *item = json->child; item != NULL; item = item->next) {
        struct jvalue key = untrusted(item->string), value = jvalue_of_json(in, item);
        jdict_put(in, v.u.dict, &key, &value);
    }
    return v;
}

struct jvalue jvalue_of_json(struct jinterp *in, const cJSON *json)
{
    struct jvalue v = jvalue_none();
    if (++in->n_calls > JINJA_DEPTH_MAX)
        jerror_set(&in->err, ST_TOO_LARGE, 0, "input is nested too deeply");
    if (in->err.st == ST_OK && json != NULL) {
        if (cJSON_IsString(json))
            v = untrusted(json->valuestring);
        else if (cJSON_IsBool(json))
            v = jvalue_bool(cJSON_IsTrue(json));
        else if (cJSON_IsNumber(json))
            v = of_number(json->valuedouble);
        else if (cJSON_IsArray(json))
            v = of_array(in, json);
        else if (cJSON_IsObject(json))
            v = of_object(in, json);
    }
    v.tainted = true;
    in->n_calls--;
    return v;
}
