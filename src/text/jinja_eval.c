/* Tree-walking evaluator of the template subset. */
#include "text/jinja.h"

#include <math.h>
#include <string.h>

static const struct jvalue undefined = {.kind = J_UNDEFINED};

static bool step(struct jinterp *in, const struct jnode *node)
{
    if (++in->steps > JINJA_STEPS_MAX)
        jerror_set(&in->err, ST_TOO_LARGE, node->line, "template takes too many steps");
    return in->err.st == ST_OK;
}

static void scope_set(struct jinterp *in, const char *name, struct jvalue value)
{
    for (struct jscope *s = in->scope; s != NULL && s->name != NULL; s = s->below)
        if (strcmp(s->name, name) == 0) {
            s->value = value;
            return;
        }
    struct jscope *s = arena_calloc(&in->arena, 1, sizeof(*s));
    if (s == NULL) {
        jerror_set(&in->err, ST_TOO_LARGE, 0, "template needs too much memory");
        return;
    }
    *s = (struct jscope){.name = name, .value = value, .below = in->scope};
    in->scope = s;
}

static struct jvalue lookup(struct jinterp *in, const char *name)
{
    static const char *const functions[] = {"raise_exception", "namespace", "range", "strftime_now",
                                            "dict"};
    for (struct jscope *s = in->scope; s != NULL; s = s->below)
        if (s->name != NULL && strcmp(s->name, name) == 0)
            return s->value;
    for (size_t i = 0; i < sizeof(functions) / sizeof(*functions); i++)
        if (strcmp(functions[i], name) == 0)
            return (struct jvalue){.kind = J_FUNCTION, .u.function = functions[i]};
    return undefined;
}

/* ---- operators ---- */

static struct jvalue arithmetic(struct jinterp *in, const struct jnode *n, const struct jvalue *a,
                                const struct jvalue *b)
{
    struct jvalue v = {.kind = J_INT};
    if (n->op == JOP_ADD && a->kind == J_STRING && b->kind == J_STRING)
        return jvalue_concat(in, &a->u.str, &b->u.str);
    if (n->op == JOP_ADD && a->kind == J_LIST && b->kind == J_LIST) {
        v = jvalue_list(in, a->u.list.n + b->u.list.n);
        if (v.u.list.n > 0 && a->u.list.n > 0)
            memcpy(v.u.list.items, a->u.list.items, a->u.list.n * sizeof(struct jvalue));
        if (v.u.list.n > 0 && b->u.list.n > 0)
            memcpy(v.u.list.items + a->u.list.n, b->u.list.items,
                   b->u.list.n * sizeof(struct jvalue));
        return v;
    }
    if (a->kind != J_INT || b->kind != J_INT) {
        jerror_set(&in->err, ST_INVALID, n->line, "operands of an arithmetic operator do not fit");
        return undefined;
    }
    int64_t x = a->u.integer, y = b->u.integer, r = 0;
    bool overflow = false;
    switch (n->op) {
    case JOP_ADD:
        overflow = __builtin_add_overflow(x, y, &r);
        break;
    case JOP_SUB:
        overflow = __builtin_sub_overflow(x, y, &r);
        break;
    case JOP_MUL:
        overflow = __builtin_mul_overflow(x, y, &r);
        break;
    default:
        if (y == 0 || (y == -1 && x == INT64_MIN)) {
            jerror_set(&in->err, ST_INVALID, n->line, "division by zero");
            return undefined;
        }
        if (n->op == JOP_DIV)
            return (struct jvalue){.kind = J_FLOAT, .u.real = (double)x / (double)y};
        r = x / y;
        if (x % y != 0 && (x < 0) != (y < 0))
            r--; /* Python rounds down */
        if (n->op == JOP_MOD)
            r = x - r * y;
        break;
    }
    if (overflow)
        jerror_set(&in->err, ST_INVALID, n->line, "number is too large");
    v.u.integer = r;
    return v;
}

static bool contains(struct jinterp *in, const struct jnode *n, const struct jvalue *a,
                     const struct jvalue *b)
{
    if (b->kind == J_STRING && a->kind == J_STRING)
        return a->u.str.bytes == 0 ||
               memmem(b->u.str.data, b->u.str.bytes, a->u.str.data, a->u.str.bytes) != NULL;
    if (b->kind == J_DICT)
        return a->kind == J_STRING && jdict_find(b->u.dict, a->u.str.data, a->u.str.bytes) != NULL;
    if (b->kind != J_LIST)
        jerror_set(&in->err, ST_INVALID, n->line, "'in' needs a list, mapping or text");
    for (uint32_t i = 0; b->kind == J_LIST && i < b->u.list.n; i++)
        if (jvalue_equal(a, &b->u.list.items[i]))
            return true;
    return false;
}

static struct jvalue of_bool(bool value)
{
    return (struct jvalue){.kind = J_BOOL, .u.boolean = value};
}

static struct jvalue eval_binary(struct jinterp *in, const struct jnode *n)
{
    struct jvalue a = jinja_eval(in, n->a), b = jinja_eval(in, n->b);
    if (in->err.st != ST_OK)
        return undefined;
    if (n->op == JOP_CONCAT) {
        struct jstr x = jvalue_str(in, &a), y = jvalue_str(in, &b);
        return jvalue_concat(in, &x, &y);
    }
    if (n->op == JOP_EQ || n->op == JOP_NE)
        return of_bool(jvalue_equal(&a, &b) == (n->op == JOP_EQ));
    if (n->op == JOP_IN || n->op == JOP_NOT_IN)
        return of_bool(contains(in, n, &a, &b) == (n->op == JOP_IN));
    if (n->op < JOP_EQ)
        return arithmetic(in, n, &a, &b);
    int order = jvalue_compare(&a, &b);
    if (order == 2)
        jerror_set(&in->err, ST_INVALID, n->line, "values cannot be compared");
    return of_bool(n->op == JOP_LT   ? order < 0
                   : n->op == JOP_LE ? order <= 0
                   : n->op == JOP_GT ? order > 0
                                     : order >= 0);
}

/* ---- access ---- */

static struct jvalue get_attr(struct jinterp *in, const struct jnode *n, struct jvalue object,
                              const char *name, uint32_t bytes)
{
    if (object.kind == J_DICT) {
        const struct jvalue *v = jdict_find(object.u.dict, name, bytes);
        return v != NULL ? *v : undefined;
    }
    if (object.kind == J_UNDEFINED)
        jerror_set(&in->err, ST_INVALID, n->line, "'%.*s' of an undefined value", (int)bytes, name);
    return undefined;
}

static struct jvalue eval_index(struct jinterp *in, const struct jnode *n)
{
    struct jvalue object = jinja_eval(in, n->a), key = jinja_eval(in, n->b);
    if (in->err.st != ST_OK)
        return undefined;
    if (key.kind == J_STRING)
        return get_attr(in, n, object, key.u.str.data, key.u.str.bytes);
    if (key.kind != J_INT || (object.kind != J_LIST && object.kind != J_STRING)) {
        if (object.kind == J_UNDEFINED)
            jerror_set(&in->err, ST_INVALID, n->line, "item of an undefined value");
        return undefined;
    }
    int64_t count = object.kind == J_LIST ? object.u.list.n : object.u.str.bytes;
    int64_t i = key.u.integer < 0 ? key.u.integer + count : key.u.integer;
    if (i < 0 || i >= count)
        return undefined;
    if (object.kind == J_LIST)
        return object.u.list.items[i];
    return (struct jvalue){.kind = J_STRING, .u.str = jstr_part(&object.u.str, (uint32_t)i, 1)};
}

static bool slice_bound(struct jinterp *in, const struct jnode *n, int64_t *out)
{
    if (n == NULL)
        return false;
    struct jvalue v = jinja_eval(in, n);
    if (v.kind == J_NONE)
        return false;
    if (v.kind != J_INT)
        jerror_set(&in->err, ST_INVALID, n->line, "slice bound is not a number");
    *out = v.u.integer;
    return in->err.st == ST_OK && v.kind == J_INT;
}

static int64_t clamp(int64_t i, int64_t low, int64_t high)
{
    return i < low ? low : i > high ? high : i;
}

/* Text is sliced by bytes; templates slice ASCII markers. */
static struct jvalue eval_slice(struct jinterp *in, const struct jnode *n)
{
    struct jvalue object = jinja_eval(in, n->a);
    int64_t by = 1, first, last;
    slice_bound(in, n->other, &by);
    bool has_first = slice_bound(in, n->b, &first), has_last = slice_bound(in, n->c, &last);
    if (in->err.st != ST_OK || by == 0 || (object.kind != J_LIST && object.kind != J_STRING)) {
        jerror_set(&in->err, ST_INVALID, n->line, "value cannot be sliced like that");
        return undefined;
    }
    int64_t count = object.kind == J_LIST ? object.u.list.n : object.u.str.bytes;
    if (!has_first)
        first = by > 0 ? 0 : count - 1;
    else
        first =
            clamp(first < 0 ? first + count : first, by > 0 ? 0 : -1, by > 0 ? count : count - 1);
    if (!has_last)
        last = by > 0 ? count : -1;
    else
        last = clamp(last < 0 ? last + count : last, by > 0 ? 0 : -1, by > 0 ? count : count - 1);
    int64_t n_items = by > 0 ? (last - first + by - 1) / by : (first - last - by - 1) / -by;
    n_items = n_items > 0 ? n_items : 0;
    if (object.kind == J_STRING) {
        if (by != 1)
            jerror_set(&in->err, ST_UNSUPPORTED, n->line, "text is sliced with step 1 only");
        return (struct jvalue){.kind = J_STRING,
                               .u.str =
                                   jstr_part(&object.u.str, (uint32_t)first, (uint32_t)n_items)};
    }
    struct jvalue v = jvalue_list(in, (uint32_t)n_items);
    for (uint32_t i = 0; i < v.u.list.n; i++)
        v.u.list.items[i] = object.u.list.items[first + (int64_t)i * by];
    return v;
}

static struct jvalue eval_call(struct jinterp *in, const struct jnode *n)
{
    if (n->a->kind == JN_ATTR) {
        struct jvalue self = jinja_eval(in, n->a->a);
        return in->err.st == ST_OK ? jinja_method(in, n, &self, n->a->name) : undefined;
    }
    struct jvalue f = jinja_eval(in, n->a);
    if (in->err.st == ST_OK && f.kind == J_FUNCTION)
        return jinja_function(in, n, f.u.function);
    jerror_set(&in->err, ST_INVALID, n->line, "'%s' is not a function",
               n->a->kind == JN_NAME ? n->a->name : "value");
    return undefined;
}

static struct jvalue eval_list(struct jinterp *in, const struct jnode *n)
{
    uint32_t count = 0, i = 0;
    for (const struct jnode *arg = n->args; arg != NULL; arg = arg->next)
        count++;
    struct jvalue v = jvalue_list(in, count);
    v.u.list.is_tuple = n->is_tuple;
    for (const struct jnode *arg = n->args; arg != NULL && i < v.u.list.n; arg = arg->next)
        v.u.list.items[i++] = jinja_eval(in, arg);
    return v;
}

static struct jvalue eval_dict(struct jinterp *in, const struct jnode *n)
{
    struct jvalue v = jvalue_dict(in, false);
    for (const struct jnode *key = n->args; key != NULL && in->err.st == ST_OK;
         key = key->next->next) {
        struct jvalue k = jinja_eval(in, key), value = jinja_eval(in, key->next);
        jdict_put(in, v.u.dict, k, value);
    }
    return v;
}

static struct jvalue eval_node(struct jinterp *in, const struct jnode *n)
{
    struct jvalue v;
    switch (n->kind) {
    case JN_LITERAL:
        return n->value;
    case JN_NAME:
        return lookup(in, n->name);
    case JN_LIST:
        return eval_list(in, n);
    case JN_DICT:
        return eval_dict(in, n);
    case JN_ATTR:
        v = jinja_eval(in, n->a);
        return get_attr(in, n, v, n->name, (uint32_t)strlen(n->name));
    case JN_INDEX:
        return eval_index(in, n);
    case JN_SLICE:
        return eval_slice(in, n);
    case JN_CALL:
        return eval_call(in, n);
    case JN_FILTER:
        v = jinja_eval(in, n->a);
        return in->err.st == ST_OK ? jinja_filter(in, n, v) : undefined;
    case JN_TEST:
        v = jinja_eval(in, n->a);
        return of_bool(in->err.st == ST_OK && jinja_test(in, n, &v) != n->negated);
    case JN_NOT:
        v = jinja_eval(in, n->a);
        return of_bool(!jvalue_truth(&v));
    case JN_NEG:
        v = jinja_eval(in, n->a);
        if (v.kind != J_INT || v.u.integer == INT64_MIN)
            jerror_set(&in->err, ST_INVALID, n->line, "'-' needs a number");
        v.u.integer = v.kind == J_INT && in->err.st == ST_OK ? -v.u.integer : 0;
        return v;
    case JN_AND:
        v = jinja_eval(in, n->a);
        return jvalue_truth(&v) ? jinja_eval(in, n->b) : v;
    case JN_OR:
        v = jinja_eval(in, n->a);
        return jvalue_truth(&v) ? v : jinja_eval(in, n->b);
    case JN_TERNARY:
        v = jinja_eval(in, n->b);
        return jvalue_truth(&v) ? jinja_eval(in, n->a)
               : n->c != NULL   ? jinja_eval(in, n->c)
                                : undefined;
    case JN_BINARY:
        return eval_binary(in, n);
    default:
        jerror_set(&in->err, ST_INVALID, n->line, "not an expression");
        return undefined;
    }
}

struct jvalue jinja_eval(struct jinterp *in, const struct jnode *node)
{
    struct jvalue v = undefined;
    if (!step(in, node))
        return v;
    if (++in->depth > 4 * JINJA_DEPTH_MAX)
        jerror_set(&in->err, ST_TOO_LARGE, node->line, "nested too deeply");
    else
        v = eval_node(in, node);
    in->depth--;
    return in->err.st == ST_OK ? v : undefined;
}

/* ---- statements ---- */

static void emit(struct jinterp *in, const struct jnode *n, const struct jstr *s)
{
    enum status st = buf_append(in->out, s->data, s->bytes);
    if (st == ST_OK)
        st = buf_reserve(in->trust, s->bytes);
    if (st != ST_OK) {
        jerror_set(&in->err, ST_TOO_LARGE, n->line, "template writes too much");
        return;
    }
    for (uint32_t i = 0; i < s->bytes; i++)
        in->trust->data[in->trust->len++] = s->mask != NULL ? s->mask[i] : s->trusted;
}

static void loop_vars(struct jinterp *in, struct jdict *loop, const struct jvalue *list, uint32_t i)
{
    const struct {
        const char *name;
        struct jvalue value;
    } vars[] = {
        {"index", {.kind = J_INT, .u.integer = i + 1}},
        {"index0", {.kind = J_INT, .u.integer = i}},
        {"revindex", {.kind = J_INT, .u.integer = list->u.list.n - i}},
        {"first", {.kind = J_BOOL, .u.boolean = i == 0}},
        {"last", {.kind = J_BOOL, .u.boolean = i + 1 == list->u.list.n}},
        {"length", {.kind = J_INT, .u.integer = list->u.list.n}},
        {"previtem", i > 0 ? list->u.list.items[i - 1] : undefined},
        {"nextitem", i + 1 < list->u.list.n ? list->u.list.items[i + 1] : undefined},
    };
    for (size_t k = 0; k < sizeof(vars) / sizeof(*vars); k++)
        jdict_put(in, loop, jvalue_text(vars[k].name), vars[k].value);
}

static void bind_targets(struct jinterp *in, const struct jnode *n, const struct jvalue *item)
{
    if (n->args->next == NULL) {
        scope_set(in, n->args->name, *item);
        return;
    }
    uint32_t i = 0;
    for (const struct jnode *target = n->args; target != NULL; target = target->next, i++) {
        if (item->kind != J_LIST || i >= item->u.list.n) {
            jerror_set(&in->err, ST_INVALID, n->line, "item cannot be unpacked");
            return;
        }
        scope_set(in, target->name, item->u.list.items[i]);
    }
}

/* A scope of its own: what is set inside is forgotten behind. */
static struct jscope *scope_open(struct jinterp *in)
{
    struct jscope *outer = in->scope, *wall = arena_calloc(&in->arena, 1, sizeof(*wall));
    if (wall == NULL) {
        jerror_set(&in->err, ST_TOO_LARGE, 0, "template needs too much memory");
        return outer;
    }
    wall->below = outer;
    in->scope = wall;
    return outer;
}

static struct jvalue loop_items(struct jinterp *in, const struct jnode *n)
{
    struct jvalue list = jinja_eval(in, n->a), v;
    if (list.kind == J_DICT) {
        v = jvalue_list(in, list.u.dict->n);
        for (uint32_t i = 0; i < v.u.list.n; i++)
            v.u.list.items[i] = list.u.dict->pairs[i].key;
        list = v;
    }
    if (list.kind != J_LIST) {
        if (list.kind != J_UNDEFINED)
            jerror_set(&in->err, ST_INVALID, n->line, "'for' needs a list or mapping");
        list = jvalue_list(in, 0);
    }
    if (n->b == NULL || in->err.st != ST_OK)
        return list;
    struct jvalue kept = jvalue_list(in, list.u.list.n);
    uint32_t n_kept = 0;
    for (uint32_t i = 0; i < list.u.list.n && in->err.st == ST_OK; i++) {
        struct jscope *outer = scope_open(in);
        bind_targets(in, n, &list.u.list.items[i]);
        v = jinja_eval(in, n->b);
        if (jvalue_truth(&v) && kept.u.list.n > 0)
            kept.u.list.items[n_kept++] = list.u.list.items[i];
        in->scope = outer;
    }
    kept.u.list.n = n_kept;
    return kept;
}

static void run_for(struct jinterp *in, const struct jnode *n)
{
    struct jvalue list = loop_items(in, n);
    struct jvalue loop = jvalue_dict(in, false);
    for (uint32_t i = 0; i < list.u.list.n && in->err.st == ST_OK; i++) {
        struct jscope *outer = scope_open(in);
        loop_vars(in, loop.u.dict, &list, i);
        scope_set(in, "loop", loop);
        bind_targets(in, n, &list.u.list.items[i]);
        jinja_run(in, n->body);
        in->scope = outer;
        uint32_t flow = in->flow;
        in->flow = 0;
        if (flow == 1)
            break;
    }
    if (list.u.list.n == 0 && n->other != NULL && in->err.st == ST_OK)
        jinja_run(in, n->other);
}

static void run_set(struct jinterp *in, const struct jnode *n)
{
    struct jvalue v = undefined;
    if (n->kind == JN_SET_BLOCK) {
        size_t start = in->out->len;
        jinja_run(in, n->body);
        uint32_t bytes = (uint32_t)(in->out->len - start);
        struct jstr s = {.bytes = bytes};
        s.data = arena_dup(&in->arena, in->out->data + start, bytes);
        s.mask = arena_dup(&in->arena, in->trust->data + start, bytes);
        if (s.data == NULL || s.mask == NULL)
            jerror_set(&in->err, ST_TOO_LARGE, n->line, "template needs too much memory");
        in->out->len = in->trust->len = start;
        v = (struct jvalue){.kind = J_STRING, .u.str = s};
    } else {
        v = jinja_eval(in, n->a);
    }
    if (in->err.st != ST_OK)
        return;
    if (n->attr == NULL) {
        scope_set(in, n->name, v);
        return;
    }
    struct jvalue space = lookup(in, n->name);
    if (space.kind != J_DICT || !space.u.dict->is_namespace)
        jerror_set(&in->err, ST_INVALID, n->line, "'%s' is not a namespace", n->name);
    else
        jdict_put(in, space.u.dict, jvalue_text(n->attr), v);
}

static void run_one(struct jinterp *in, const struct jnode *n)
{
    struct jvalue v;
    struct jstr s;
    switch (n->kind) {
    case JN_TEXT:
        emit(in, n, &n->value.u.str);
        return;
    case JN_OUTPUT:
        v = jinja_eval(in, n->a);
        if (in->err.st != ST_OK)
            return;
        s = jvalue_str(in, &v);
        if (in->err.st == ST_OK)
            emit(in, n, &s);
        return;
    case JN_IF:
        v = jinja_eval(in, n->a);
        if (in->err.st == ST_OK)
            jinja_run(in, jvalue_truth(&v) ? n->body : n->other);
        return;
    case JN_FOR:
        run_for(in, n);
        return;
    case JN_SET:
    case JN_SET_BLOCK:
        run_set(in, n);
        return;
    case JN_BREAK:
    case JN_CONTINUE:
        in->flow = n->kind == JN_BREAK ? 1 : 2;
        return;
    default:
        jerror_set(&in->err, ST_INVALID, n->line, "not a statement");
        return;
    }
}

void jinja_run(struct jinterp *in, const struct jnode *body)
{
    if (++in->depth > 4 * JINJA_DEPTH_MAX)
        jerror_set(&in->err, ST_TOO_LARGE, 0, "nested too deeply");
    for (const struct jnode *n = body; n != NULL && in->flow == 0; n = n->next) {
        if (!step(in, n))
            break;
        run_one(in, n);
    }
    in->depth--;
}
