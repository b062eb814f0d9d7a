/* Filters over lists and dicts. */
#include "text/jinja.h"

#include <string.h>

static struct jvalue list_of(struct jinterp *in, enum jlist_kind kind, const struct jlist *from)
{
    struct jvalue *items;
    if (!jstep(in, 16 * (size_t)from->n))
        return jvalue_list(in, kind, 0, &items);
    struct jvalue v = jvalue_list(in, kind, from->n, &items);
    for (uint32_t i = 0; i < v.u.list->n; i++)
        items[i] = jlist_item(from, i);
    return v;
}

static struct jvalue run_list(const struct jrun *r)
{
    return list_of(r->in, JL_LIST, jvalue_iterate(r->in, r->self));
}

struct jvalue jinja_join(struct jinterp *in, const struct jlist *list, const struct jstr *by)
{
    struct jwriter w = {.in = in, .text = {.data = "", .trusted = true}};
    for (uint32_t i = 0; i < list->n && jstep(in, 0); i++) {
        struct jvalue item = jlist_item(list, i);
        struct jstr text = jvalue_str(in, &item);
        if (i > 0)
            jwrite(&w, by);
        jwrite(&w, &text);
    }
    return jvalue_of_str(w.text);
}

/* ---- attributes ---- */

static struct jvalue path_part(struct jinterp *in, const struct jvalue *item,
                               const struct jstr *part)
{
    int64_t number = 0;
    bool digits = part->bytes > 0 && part->bytes < 10;
    for (uint32_t i = 0; digits && i < part->bytes; i++) {
        digits = part->data[i] >= '0' && part->data[i] <= '9';
        number = number * 10 + (part->data[i] - '0');
    }
    struct jvalue key = digits ? jvalue_int(number) : jvalue_of_str(*part);
    return jinja_item(in, item, &key);
}

struct jvalue jinja_path(struct jinterp *in, struct jvalue item, const struct jvalue *attribute)
{
    if (attribute == NULL || attribute->kind == J_NONE)
        return item;
    if (attribute->kind != J_STRING) {
        if (attribute->kind != J_INT)
            jfail(in, "an attribute is a name or a number, not %s", jkind_name(attribute));
        return jinja_item(in, &item, attribute);
    }
    const struct jstr *path = &attribute->u.str, dot = {.data = ".", .bytes = 1};
    for (uint32_t at = 0; at <= path->bytes && jstep(in, 0);) {
        uint32_t end = jstr_find(path, &dot, at);
        if (end == UINT32_MAX)
            end = path->bytes;
        struct jstr part = jstr_part(path, at, end - at);
        item = path_part(in, &item, &part);
        at = end + 1;
    }
    return item;
}

/* The value to sort or compare an item by. */
static struct jvalue sort_key(struct jinterp *in, struct jvalue item,
                              const struct jvalue *attribute, bool case_sensitive)
{
    static const struct jstr comma = {.data = ",", .bytes = 1};
    if (attribute != NULL && attribute->kind == J_STRING &&
        jstr_find(&attribute->u.str, &comma, 0) != UINT32_MAX)
        jfail(in, "several attributes are not supported");
    struct jvalue v = jinja_path(in, item, attribute);
    if (v.kind == J_STRING && !case_sensitive)
        v = jvalue_of_str(jstr_recase(in, &v.u.str, JCASE_LOWER));
    return v;
}

static struct jvalue run_join(const struct jrun *r)
{
    struct jvalue *items, list;
    struct jstr by = {.data = "", .trusted = true};
    if (r->bound[0] != NULL)
        by = jvalue_str(r->in, r->bound[0]);
    const struct jlist *from = jvalue_iterate(r->in, r->self);
    if (r->bound[1] == NULL || r->bound[1]->kind == J_NONE)
        return jinja_join(r->in, from, &by);
    list = jvalue_list(r->in, JL_LIST, from->n, &items);
    for (uint32_t i = 0; i < list.u.list->n && r->in->err.st == ST_OK; i++)
        items[i] = jinja_path(r->in, jlist_item(from, i), r->bound[1]);
    return jinja_join(r->in, list.u.list, &by);
}

/* ---- ends ---- */

static struct jvalue run_first(const struct jrun *r)
{
    const struct jlist *list = jvalue_iterate(r->in, r->self);
    return list->n > 0 ? jlist_item(list, 0) : jvalue_undefined("first item");
}

static struct jvalue run_last(const struct jrun *r)
{
    if (r->self->kind == J_LIST && r->self->u.list->kind == JL_GENERATOR)
        jfail(r->in, "an iterator has no last item");
    const struct jlist *list = jvalue_iterate(r->in, r->self);
    return list->n > 0 ? jlist_item(list, list->n - 1) : jvalue_undefined("last item");
}

static struct jvalue run_reverse(const struct jrun *r)
{
    struct jvalue *items, backwards = jvalue_int(-1);
    if (r->self->kind == J_STRING)
        return jinja_slice(r->in, r->self, (const struct jvalue *[3]){NULL, NULL, &backwards});
    bool spent = r->self->kind == J_LIST && r->self->u.list->kind == JL_GENERATOR;
    const struct jlist *from = jvalue_iterate(r->in, r->self);
    if (!jstep(r->in, 16 * (size_t)from->n))
        return jvalue_undefined(NULL);
    struct jvalue v = jvalue_list(r->in, spent ? JL_LIST : JL_GENERATOR, from->n, &items);
    for (uint32_t i = 0; i < v.u.list->n; i++)
        items[i] = jlist_item(from, from->n - 1 - i);
    return v;
}

/* ---- picking ---- */

/* Whatever is falsy counts as an empty list here, as in Jinja. */
static const struct jlist *items_of(const struct jrun *r)
{
    struct jvalue nothing = jvalue_undefined(NULL);
    return jvalue_iterate(r->in, jvalue_truth(r->self) ? r->self : &nothing);
}

static bool passes(const struct jrun *r, const struct jvalue *v, uint32_t test_at)
{
    if (r->call->n_pos <= test_at)
        return jvalue_truth(v);
    const struct jvalue *name = &r->call->pos[test_at];
    const struct jbuiltin *row =
        name->kind == J_STRING ? jinja_test_find(name->u.str.data, name->u.str.bytes) : NULL;
    if (row == NULL) {
        jfail(r->in, "unknown test");
        return false;
    }
    struct jcall rest = *r->call;
    rest.pos += test_at + 1;
    rest.n_pos -= test_at + 1;
    struct jvalue answer = jinja_builtin_run(r->in, row, &rest, v);
    return jvalue_truth(&answer);
}

/* Items whose attribute (or which themselves) pass the test, or fail it. */
static struct jvalue pick(const struct jrun *r, bool by_attribute, bool want)
{
    struct jvalue *items;
    uint32_t n = 0;
    const struct jlist *from = items_of(r);
    struct jvalue out = jvalue_list(r->in, JL_GENERATOR, from->n, &items);
    if (by_attribute && r->call->n_pos == 0)
        jfail(r->in, "the name of an attribute is missing");
    for (uint32_t i = 0; i < out.u.list->n && jstep(r->in, 0); i++) {
        struct jvalue item = jlist_item(from, i), v = item;
        if (by_attribute)
            v = jinja_path(r->in, item, &r->call->pos[0]);
        if (r->in->err.st == ST_OK && passes(r, &v, by_attribute) == want)
            items[n++] = item;
    }
    out.u.list->n = n;
    return out;
}

static struct jvalue run_select(const struct jrun *r)
{
    return pick(r, false, true);
}

static struct jvalue run_reject(const struct jrun *r)
{
    return pick(r, false, false);
}

static struct jvalue run_selectattr(const struct jrun *r)
{
    return pick(r, true, true);
}

static struct jvalue run_rejectattr(const struct jrun *r)
{
    return pick(r, true, false);
}

static const struct jvalue *keyword(const struct jcall *call, const char *name)
{
    uint32_t i = 0;
    for (const struct jnode *k = call->keywords; k != NULL; k = k->next, i++)
        if (strcmp(k->name, name) == 0)
            return &call->named[i];
    return NULL;
}

/* map('filter', ...) or map(attribute='name', default=...). */
static struct jvalue run_map(const struct jrun *r)
{
    struct jvalue *items;
    const struct jbuiltin *row = NULL;
    const struct jvalue *attribute = keyword(r->call, "attribute");
    const struct jvalue *otherwise = keyword(r->call, "default");
    struct jcall rest = *r->call;
    if (r->call->n_pos > 0) {
        const struct jvalue *name = &r->call->pos[0];
        row =
            name->kind == J_STRING ? jinja_filter_find(name->u.str.data, name->u.str.bytes) : NULL;
        rest.pos++;
        rest.n_pos--;
    }
    if (row == NULL && (attribute == NULL || r->call->n_pos > 0))
        jfail(r->in, "map takes a filter, or attribute=");
    const struct jlist *from = items_of(r);
    struct jvalue out = jvalue_list(r->in, JL_GENERATOR, from->n, &items);
    for (uint32_t i = 0; i < out.u.list->n && jstep(r->in, 0); i++) {
        struct jvalue item = jlist_item(from, i);
        items[i] = row != NULL ? jinja_builtin_run(r->in, row, &rest, &item)
                               : jinja_path(r->in, item, attribute);
        if (row == NULL && otherwise != NULL && items[i].kind == J_UNDEFINED)
            items[i] = *otherwise;
    }
    return out;
}

/* ---- order ---- */

static void merge(struct jinterp *in, const struct jvalue *const from[2],
                  struct jvalue *const to[2], const uint32_t at[3], bool reverse)
{
    uint32_t left = at[0], right = at[1];
    for (uint32_t i = at[0]; i < at[2]; i++) {
        bool take_left = left < at[1];
        if (take_left && right < at[2]) {
            int order = jvalue_order(in, &from[1][left], &from[1][right]);
            take_left = reverse ? order >= 0 : order <= 0;
        }
        uint32_t source = take_left ? left++ : right++;
        to[0][i] = from[0][source];
        to[1][i] = from[1][source];
    }
}

void jinja_sort(struct jinterp *in, struct jvalue *items, struct jvalue *by, uint32_t n,
                bool reverse)
{
    struct jvalue *a[2] = {items, by}, *b[2];
    b[0] = jtake(in, n, sizeof(*items));
    b[1] = jtake(in, n, sizeof(*items));
    if (b[0] == NULL || b[1] == NULL)
        return;
    for (uint32_t width = 1; width < n; width *= 2) { /* n is far below 2^31 */
        const struct jvalue *const from[2] = {a[0], a[1]};
        for (uint32_t i = 0; i < n; i += 2 * width) {
            uint32_t middle = n - i > width ? i + width : n;
            uint32_t end = n - i > 2 * width ? i + 2 * width : n;
            if (in->err.st != ST_OK || !jstep(in, 16 * (size_t)(end - i)))
                return;
            merge(in, from, b, (uint32_t[3]){i, middle, end}, reverse);
        }
        for (int k = 0; k < 2; k++) {
            struct jvalue *swap = a[k];
            a[k] = b[k];
            b[k] = swap;
        }
    }
    if (a[0] != items && n > 0) {
        memcpy(items, a[0], n * sizeof(*items));
        memcpy(by, a[1], n * sizeof(*by));
    }
}

static bool flag(const struct jvalue *v)
{
    return v != NULL && jvalue_truth(v);
}

/* A new list of the items with the keys to order them by. */
static struct jvalue keyed(const struct jrun *r, const struct jvalue *attribute,
                           bool case_sensitive, struct jvalue **out_items, struct jvalue **out_keys)
{
    struct jvalue v = list_of(r->in, JL_LIST, jvalue_iterate(r->in, r->self));
    struct jvalue keys = jvalue_list(r->in, JL_LIST, v.u.list->n, out_keys);
    v.u.list->n = keys.u.list->n;
    *out_items = (struct jvalue *)(uintptr_t)v.u.list->items; /* made here, so not yet shared */
    for (uint32_t i = 0; i < keys.u.list->n && r->in->err.st == ST_OK; i++)
        (*out_keys)[i] = sort_key(r->in, (*out_items)[i], attribute, case_sensitive);
    return v;
}

static struct jvalue run_sort(const struct jrun *r)
{
    struct jvalue *items, *keys;
    struct jvalue v = keyed(r, r->bound[2], flag(r->bound[1]), &items, &keys);
    if (r->in->err.st == ST_OK)
        jinja_sort(r->in, items, keys, v.u.list->n, flag(r->bound[0]));
    return v;
}

static struct jvalue run_unique(const struct jrun *r)
{
    struct jvalue *items, *keys, seen = jvalue_dict(r->in, false);
    struct jvalue v = keyed(r, r->bound[1], flag(r->bound[0]), &items, &keys);
    uint32_t n = 0;
    for (uint32_t i = 0; i < v.u.list->n && jstep(r->in, 0); i++) {
        uint32_t n_seen = seen.u.dict->n;
        jdict_put(r->in, seen.u.dict, &keys[i], &keys[i]);
        if (seen.u.dict->n > n_seen)
            items[n++] = items[i];
    }
    v.u.list->n = n;
    v.u.list->kind = JL_GENERATOR;
    return v;
}

static struct jvalue extreme(const struct jrun *r, enum jop op)
{
    struct jvalue *items, *keys;
    struct jvalue v = keyed(r, r->bound[1], flag(r->bound[0]), &items, &keys);
    uint32_t best = 0;
    for (uint32_t i = 1; i < v.u.list->n && jstep(r->in, 0); i++)
        if (jinja_compare(r->in, op, &keys[i], &keys[best]))
            best = i;
    return v.u.list->n > 0 ? items[best] : jvalue_undefined("item of an empty list");
}

static struct jvalue run_min(const struct jrun *r)
{
    return extreme(r, JOP_LT);
}

static struct jvalue run_max(const struct jrun *r)
{
    return extreme(r, JOP_GT);
}

static struct jvalue run_sum(const struct jrun *r)
{
    struct jvalue sum = r->bound[1] != NULL ? *r->bound[1] : jvalue_int(0);
    const struct jlist *list = jvalue_iterate(r->in, r->self);
    if (sum.kind == J_STRING)
        jfail(r->in, "sum does not add texts");
    for (uint32_t i = 0; i < list->n && jstep(r->in, 0); i++) {
        struct jvalue item = jinja_path(r->in, jlist_item(list, i), r->bound[0]);
        if (r->in->err.st == ST_OK)
            sum = jinja_operate(r->in, JOP_ADD, &sum, &item);
    }
    return sum;
}

/* ---- dicts ---- */

struct jvalue jinja_dict_pairs(struct jinterp *in, const struct jdict *dict, enum jlist_kind kind)
{
    struct jvalue *items, *pair;
    if (!jstep(in, 16 * (size_t)dict->n))
        return jvalue_undefined(NULL);
    struct jvalue v = jvalue_list(in, kind, dict->n, &items);
    for (uint32_t i = 0; i < v.u.list->n; i++) {
        if (kind == JL_KEYS || kind == JL_VALUES) {
            items[i] = kind == JL_KEYS ? dict->pairs[i].key : dict->pairs[i].value;
            continue;
        }
        items[i] = jvalue_list(in, JL_TUPLE, 2, &pair);
        if (items[i].u.list->n < 2)
            break;
        pair[0] = dict->pairs[i].key;
        pair[1] = dict->pairs[i].value;
    }
    return v;
}

static struct jvalue run_items(const struct jrun *r)
{
    struct jvalue *items;
    if (r->self->kind == J_DICT && !r->self->u.dict->is_namespace)
        return jinja_dict_pairs(r->in, r->self->u.dict, JL_GENERATOR);
    if (r->self->kind != J_UNDEFINED)
        jfail(r->in, "%s is not a mapping", jkind_name(r->self));
    return jvalue_list(r->in, JL_GENERATOR, 0, &items);
}

static struct jvalue run_dictsort(const struct jrun *r)
{
    struct jvalue *keys, v = jvalue_undefined(NULL);
    bool by_value = false;
    if (r->self->kind != J_DICT || r->self->u.dict->is_namespace)
        jfail(r->in, "%s is not a mapping", jkind_name(r->self));
    if (r->bound[1] != NULL) {
        by_value = r->bound[1]->kind == J_STRING && jstr_is(&r->bound[1]->u.str, "value");
        if (!by_value && (r->bound[1]->kind != J_STRING || !jstr_is(&r->bound[1]->u.str, "key")))
            jfail(r->in, "dictsort is by 'key' or by 'value'");
    }
    if (r->in->err.st != ST_OK)
        return v;
    const struct jdict *dict = r->self->u.dict;
    v = jinja_dict_pairs(r->in, dict, JL_LIST);
    if (r->in->err.st != ST_OK || jvalue_list(r->in, JL_LIST, dict->n, &keys).u.list->n < dict->n)
        return v;
    for (uint32_t i = 0; i < dict->n && r->in->err.st == ST_OK; i++)
        keys[i] = sort_key(r->in, by_value ? dict->pairs[i].value : dict->pairs[i].key, NULL,
                           flag(r->bound[0]));
    if (r->in->err.st == ST_OK)
        jinja_sort(r->in, (struct jvalue *)(uintptr_t)v.u.list->items, keys, dict->n,
                   flag(r->bound[2]));
    return v;
}

static const struct jbuiltin filters[] = {
    {"list", "", run_list},
    {"join", "d= attribute=", run_join},
    {"first", "", run_first},
    {"last", "", run_last},
    {"reverse", "", run_reverse},
    {"select", "*", run_select},
    {"reject", "*", run_reject},
    {"selectattr", "*", run_selectattr},
    {"rejectattr", "*", run_rejectattr},
    {"map", "*", run_map},
    {"sort", "reverse= case_sensitive= attribute=", run_sort},
    {"unique", "case_sensitive= attribute=", run_unique},
    {"min", "case_sensitive= attribute=", run_min},
    {"max", "case_sensitive= attribute=", run_max},
    {"sum", "attribute= start=", run_sum},
    {"items", "", run_items},
    {"dictsort", "case_sensitive= by= reverse=", run_dictsort},
};

const struct jbuiltin *jinja_list_filter_find(const char *name, size_t bytes)
{
    return jinja_row_find(filters, sizeof(filters) / sizeof(*filters), name, bytes);
}
