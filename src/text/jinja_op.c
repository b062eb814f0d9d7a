/* Operators of the template interpreter, with Python's meaning; integers have 64 bits and overflow
 * is an error. */
#include "text/jinja.h"

#include <math.h>
#include <string.h>

static const char *const op_names[] = {
    [JOP_ADD] = "+",       [JOP_SUB] = "-", [JOP_MUL] = "*",  [JOP_DIV] = "/",
    [JOP_FLOORDIV] = "//", [JOP_MOD] = "%", [JOP_POW] = "**", [JOP_CONCAT] = "~"};

static struct jvalue refuse(struct jinterp *in, enum jop op, const struct jvalue *a,
                            const struct jvalue *b)
{
    const struct jvalue *undefined = a->kind == J_UNDEFINED ? a : b;
    if (undefined->kind == J_UNDEFINED && undefined->u.name != NULL)
        jfail(in, "'%.60s' is undefined", undefined->u.name);
    else
        jfail(in, "'%s' does not work on %s and %s", op_names[op], jkind_name(a), jkind_name(b));
    return jvalue_undefined(NULL);
}

static bool power(int64_t base, int64_t exponent, int64_t *out)
{
    int64_t result = 1;
    for (; exponent > 0; exponent >>= 1) {
        if ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result))
            return false;
        if (exponent > 1 && __builtin_mul_overflow(base, base, &base))
            return false;
    }
    *out = result;
    return true;
}

static struct jvalue operate_ints(struct jinterp *in, enum jop op, int64_t x, int64_t y)
{
    int64_t r = 0;
    bool ok = true;
    if ((op == JOP_DIV || op == JOP_FLOORDIV || op == JOP_MOD) && y == 0) {
        jfail(in, "division by zero");
        return jvalue_undefined(NULL);
    }
    switch (op) {
    case JOP_ADD:
        ok = !__builtin_add_overflow(x, y, &r);
        break;
    case JOP_SUB:
        ok = !__builtin_sub_overflow(x, y, &r);
        break;
    case JOP_MUL:
        ok = !__builtin_mul_overflow(x, y, &r);
        break;
    case JOP_DIV:
        return jvalue_real((double)x / (double)y);
    case JOP_POW:
        if (y < 0 && x != 0)
            return jvalue_real(pow((double)x, (double)y));
        ok = y >= 0 && power(x, y, &r);
        break;
    default:
        if (y == -1) /* INT64_MIN / -1 would trap */
            ok = op == JOP_MOD || !__builtin_sub_overflow((int64_t)0, x, &r);
        else if (op == JOP_MOD)
            r = x % y != 0 && (x % y < 0) != (y < 0) ? x % y + y : x % y;
        else
            r = x / y - (x % y != 0 && (x < 0) != (y < 0));
        break;
    }
    if (!ok)
        jfail(in, "number is out of range");
    return jvalue_int(r);
}

static struct jvalue operate_reals(struct jinterp *in, enum jop op, double x, double y)
{
    if ((op == JOP_DIV || op == JOP_FLOORDIV || op == JOP_MOD ||
         (op == JOP_POW && x == 0 && y < 0)) &&
        (op == JOP_POW || y == 0)) {
        jfail(in, "division by zero");
        return jvalue_undefined(NULL);
    }
    double mod;
    switch (op) {
    case JOP_ADD:
        return jvalue_real(x + y);
    case JOP_SUB:
        return jvalue_real(x - y);
    case JOP_MUL:
        return jvalue_real(x * y);
    case JOP_DIV:
        return jvalue_real(x / y);
    case JOP_POW:
        return jvalue_real(pow(x, y));
    default:
        mod = fmod(x, y);
        if (mod != 0 && (mod < 0) != (y < 0))
            mod += y;
        return jvalue_real(op == JOP_MOD ? mod : floor((x - mod) / y + 0.5));
    }
}

static struct jvalue join_lists(struct jinterp *in, const struct jlist *a, const struct jlist *b)
{
    struct jvalue *items, v = jvalue_none();
    if (!jstep(in, 16 * ((size_t)a->n + b->n)) || a->n > UINT32_MAX - b->n)
        return v;
    v = jvalue_list(in, a->kind, a->n + b->n, &items);
    if (v.u.list->n > 0) {
        memcpy(items, a->items, a->n * sizeof(*items));
        memcpy(items + a->n, b->items, b->n * sizeof(*items));
    }
    return v;
}

static struct jvalue repeat_list(struct jinterp *in, const struct jlist *list, int64_t times)
{
    struct jvalue *items, v = jvalue_none();
    uint64_t n = times > 0 ? (uint64_t)times : 0;
    if (list->n > 0 && n > JINJA_RANGE_MAX / list->n) {
        jerror_set(&in->err, ST_TOO_LARGE, in->line, "template makes too long a list");
        return v;
    }
    n *= list->n;
    if (!jstep(in, 16 * n))
        return v;
    if (n == 0)
        return jvalue_list(in, list->kind, 0, &items);
    v = jvalue_list(in, list->kind, (uint32_t)n, &items);
    for (uint32_t i = 0; i < v.u.list->n; i++)
        items[i] = list->items[i % list->n];
    return v;
}

static struct jvalue repeat_text(struct jinterp *in, const struct jstr *s, int64_t times,
                                 bool tainted)
{
    struct jwriter w = {.in = in, .text = {.data = "", .trusted = true}};
    struct jstr piece = *s;
    if (tainted) { /* how often is the request's word, so the whole is */
        piece.mask = NULL;
        piece.trusted = false;
    }
    if (s->bytes > 0 && times > (int64_t)(JINJA_MEMORY_BYTES_MAX / s->bytes)) {
        jerror_set(&in->err, ST_TOO_LARGE, in->line, "template makes too long a text");
        return jvalue_undefined(NULL);
    }
    for (; s->bytes > 0 && times > 0 && in->err.st == ST_OK; times--)
        jwrite(&w, &piece);
    return jvalue_of_str(w.text);
}

static bool is_sequence(const struct jvalue *v)
{
    return v->kind == J_LIST && (v->u.list->kind == JL_LIST || v->u.list->kind == JL_TUPLE);
}

static struct jvalue operate(struct jinterp *in, enum jop op, const struct jvalue *a,
                             const struct jvalue *b)
{
    int64_t i, k;
    double x, y;
    if (op == JOP_CONCAT) {
        struct jstr s = jvalue_str(in, a), t = jvalue_str(in, b);
        return jvalue_of_str(jstr_concat(in, &s, &t));
    }
    if (op == JOP_MOD && a->kind == J_STRING)
        return jvalue_of_str(jinja_percent(in, &a->u.str, b));
    if (jvalue_is_int(a, &i) && jvalue_is_int(b, &k))
        return operate_ints(in, op, i, k);
    if (jvalue_is_number(a, &x) && jvalue_is_number(b, &y))
        return operate_reals(in, op, x, y);
    if (op == JOP_ADD && a->kind == J_STRING && b->kind == J_STRING)
        return jvalue_of_str(jstr_concat(in, &a->u.str, &b->u.str));
    if (op == JOP_ADD && is_sequence(a) && is_sequence(b) && a->u.list->kind == b->u.list->kind)
        return join_lists(in, a->u.list, b->u.list);
    if (op == JOP_MUL) {
        const struct jvalue *many = jvalue_is_int(b, &k) ? a : b;
        const struct jvalue *times = many == a ? b : a;
        if (jvalue_is_int(times, &k) && many->kind == J_STRING)
            return repeat_text(in, &many->u.str, k, times->tainted);
        if (jvalue_is_int(times, &k) && is_sequence(many))
            return repeat_list(in, many->u.list, k);
    }
    return refuse(in, op, a, b);
}

struct jvalue jinja_operate(struct jinterp *in, enum jop op, const struct jvalue *a,
                            const struct jvalue *b)
{
    struct jvalue v = operate(in, op, a, b);
    if (v.kind != J_STRING)
        v.tainted = jvalue_tainted(a) || jvalue_tainted(b);
    return v;
}

struct jvalue jinja_negate(struct jinterp *in, const struct jvalue *v)
{
    int64_t i;
    struct jvalue r = jvalue_undefined(NULL);
    if (jvalue_is_int(v, &i) && i != INT64_MIN)
        r = jvalue_int(-i);
    else if (v->kind == J_FLOAT)
        r = jvalue_real(-v->u.real);
    else
        jfail(in, "'-' does not work on %s", jkind_name(v));
    r.tainted = v->tainted;
    return r;
}

bool jinja_contains(struct jinterp *in, const struct jvalue *needle, const struct jvalue *hay)
{
    if (hay->kind == J_STRING) {
        if (needle->kind != J_STRING) {
            jfail(in, "'in' a text needs a text, not %s", jkind_name(needle));
            return false;
        }
        return jstep(in, hay->u.str.bytes) &&
               jstr_find(&hay->u.str, &needle->u.str, 0) != UINT32_MAX;
    }
    if (hay->kind == J_DICT && !hay->u.dict->is_namespace &&
        (needle->kind == J_DICT || (needle->kind == J_LIST && needle->u.list->kind == JL_LIST))) {
        jfail(in, "%s cannot be a key", jkind_name(needle));
        return false;
    }
    if (hay->kind == J_DICT && !hay->u.dict->is_namespace)
        return jdict_find(in, hay->u.dict, needle) != NULL;
    const struct jlist *list = jvalue_iterate(in, hay);
    for (uint32_t i = 0; i < list->n && jstep(in, 0); i++) {
        struct jvalue item = jlist_item(list, i);
        if (jvalue_equal(in, &item, needle))
            return true;
    }
    return false;
}

bool jinja_compare(struct jinterp *in, enum jop op, const struct jvalue *a, const struct jvalue *b)
{
    switch (op) {
    case JOP_EQ:
        return jvalue_equal(in, a, b);
    case JOP_NE:
        return !jvalue_equal(in, a, b);
    case JOP_IN:
        return jinja_contains(in, a, b);
    case JOP_NOT_IN:
        return !jinja_contains(in, a, b);
    case JOP_LT:
        return jvalue_order(in, a, b) < 0;
    case JOP_LE:
        return jvalue_order(in, a, b) <= 0;
    case JOP_GT:
        return jvalue_order(in, a, b) > 0;
    default:
        return jvalue_order(in, a, b) >= 0;
    }
}
