/* Expressions of the template interpreter: a walk over the tree. */
#include "text/jinja.h"
#include "text/utf8_scan.h"

#include <string.h>

static const struct jvalue undefined = {.kind = J_UNDEFINED};

/* ---- access ---- */

static bool is_private(const struct jstr *name)
{
    return name->bytes > 0 && name->data[0] == '_';
}

static struct jvalue method_of(struct jinterp *in, const struct jvalue *object,
                               const struct jstr *name)
{
    const struct jbuiltin *row =
        is_private(name) ? NULL : jinja_method_find(object, name->data, name->bytes);
    struct jmethod *method = row != NULL ? jtake(in, 1, sizeof(*method)) : NULL;
    if (method == NULL)
        return undefined;
    *method = (struct jmethod){*object, row};
    return (struct jvalue){.kind = J_METHOD, .tainted = jvalue_tainted(object), .u.method = method};
}

static struct jvalue loop_edge(const struct jloop *loop, uint32_t i)
{
    return i < loop->list->n ? jlist_item(loop->list, i) : undefined; /* i may have wrapped */
}

static struct jvalue loop_member(const struct jloop *loop, const struct jstr *name, bool *out_found)
{
    uint32_t i = loop->index, n = loop->list->n;
    struct jvalue v = undefined;
    *out_found = true;
    if (jstr_is(name, "previtem"))
        return loop_edge(loop, i - 1);
    if (jstr_is(name, "nextitem"))
        return loop_edge(loop, i + 1);
    if (jstr_is(name, "index"))
        v = jvalue_int((int64_t)i + 1);
    else if (jstr_is(name, "index0"))
        v = jvalue_int(i);
    else if (jstr_is(name, "first"))
        v = jvalue_bool(i == 0);
    else if (jstr_is(name, "last"))
        v = jvalue_bool(i + 1 == n);
    else if (jstr_is(name, "length"))
        v = jvalue_int(n);
    else if (jstr_is(name, "revindex"))
        v = jvalue_int((int64_t)n - i);
    else if (jstr_is(name, "revindex0"))
        v = jvalue_int((int64_t)n - i - 1);
    else if (jstr_is(name, "depth"))
        v = jvalue_int(1); /* only recursive loops are deeper */
    else if (jstr_is(name, "depth0"))
        v = jvalue_int(0);
    else
        *out_found = false;
    v.tainted = loop->tainted;
    return v;
}

static void fail_undefined(struct jinterp *in, const struct jvalue *object, const char *what,
                           const struct jstr *name)
{
    int bytes = name->bytes < 60 ? (int)name->bytes : 60;
    if (object->u.name != NULL)
        jfail(in, "'%.60s' is undefined, it has no %s '%.*s'", object->u.name, what, bytes,
              name->data);
    else
        jfail(in, "an undefined value has no %s '%.*s'", what, bytes, name->data);
}

/* What dict[name], namespace.name and loop.name have. */
static bool member_find(struct jinterp *in, const struct jvalue *object, const struct jvalue *key,
                        struct jvalue *out)
{
    bool found = false;
    if (object->kind == J_DICT) {
        const struct jvalue *v = jdict_find(in, object->u.dict, key);
        found = v != NULL;
        if (found)
            *out = *v;
    } else if (object->kind == J_LOOP && key->kind == J_STRING) {
        *out = loop_member(object->u.loop, &key->u.str, &found);
    }
    return found;
}

/* object.name: a method comes before an item of that name. */
static struct jvalue get_attr(struct jinterp *in, const struct jvalue *object, const char *name)
{
    struct jvalue key = jvalue_text(name), v = jvalue_undefined(name);
    if (object->kind == J_UNDEFINED) {
        fail_undefined(in, object, "attribute", &key.u.str);
        return v;
    }
    struct jvalue method = method_of(in, object, &key.u.str);
    if (method.kind != J_UNDEFINED)
        return method;
    member_find(in, object, &key, &v);
    return v;
}

static struct jvalue item_of_list(const struct jlist *list, int64_t i)
{
    bool indexable = list->kind == JL_LIST || list->kind == JL_TUPLE || list->kind == JL_RANGE;
    if (i < 0)
        i += list->n;
    return indexable && i >= 0 && i < list->n ? jlist_item(list, (uint32_t)i) : undefined;
}

static struct jvalue item_of_text(struct jinterp *in, const struct jstr *s, int64_t i)
{
    uint32_t point;
    if (!jstep(in, s->bytes))
        return undefined;
    if (i < 0)
        i += jstr_count(s);
    uint32_t at = i >= 0 ? jstr_offset(s, 0, i) : s->bytes;
    return at < s->bytes ? jvalue_of_str(jstr_part(s, at, jstr_char(s, at, &point))) : undefined;
}

/* object[key]: an item comes before a method of that name. */
struct jvalue jinja_item(struct jinterp *in, const struct jvalue *object, const struct jvalue *key)
{
    static const struct jstr item = {.data = "item", .bytes = 4};
    int64_t i;
    struct jvalue v = undefined;
    if (object->kind == J_UNDEFINED) {
        fail_undefined(in, object, "item", key->kind == J_STRING ? &key->u.str : &item);
        return v;
    }
    if (member_find(in, object, key, &v) || in->err.st != ST_OK)
        return v;
    if (key->kind == J_STRING)
        return method_of(in, object, &key->u.str);
    if (jvalue_is_int(key, &i) && object->kind == J_LIST)
        return item_of_list(object->u.list, i);
    if (jvalue_is_int(key, &i) && object->kind == J_STRING)
        return item_of_text(in, &object->u.str, i);
    return v;
}

/* ---- slices ---- */

static bool slice_bound(struct jinterp *in, const struct jvalue *v, int64_t *out)
{
    if (v == NULL || v->kind == J_NONE)
        return false;
    if (!jvalue_is_int(v, out))
        jfail(in, "a slice needs numbers, not %s", jkind_name(v));
    return in->err.st == ST_OK;
}

static int64_t clamp(int64_t i, int64_t low, int64_t high)
{
    return i < low ? low : i > high ? high : i;
}

/* Python's rules: the first item, the step, and how many items. */
struct range {
    int64_t first, step, n;
};

static bool slice_range(struct jinterp *in, const struct jvalue *const bounds[3], int64_t count,
                        struct range *out)
{
    int64_t first, last, by = 1;
    slice_bound(in, bounds[2], &by);
    bool has_first = slice_bound(in, bounds[0], &first);
    bool has_last = slice_bound(in, bounds[1], &last);
    if (by == 0)
        jfail(in, "slice step is zero");
    if (in->err.st != ST_OK || by == 0)
        return false;
    int64_t low = by > 0 ? 0 : -1, high = by > 0 ? count : count - 1;
    by = clamp(by, -(count + 1), count + 1); /* longer steps change nothing */
    if (!has_first)
        first = by > 0 ? low : high;
    else
        first = clamp(first < 0 ? first + count : first, low, high);
    if (!has_last)
        last = by > 0 ? high : low;
    else
        last = clamp(last < 0 ? last + count : last, low, high);
    int64_t n = by > 0 ? (last - first + by - 1) / by : (first - last - by - 1) / -by;
    *out = (struct range){first, by, n > 0 ? n : 0};
    return true;
}

static struct jvalue slice_list(struct jinterp *in, const struct jlist *list,
                                const struct range *range)
{
    struct jvalue *items;
    struct jvalue v;
    if (!jstep(in, 16 * (range->step == 1 ? 0 : (size_t)range->n)))
        return undefined;
    if (range->step == 1 || list->kind == JL_RANGE) { /* items never change: share them */
        uint32_t first = range->n > 0 ? (uint32_t)range->first : 0;
        v = jvalue_list(in, list->kind, 0, &items);
        v.u.list->items = list->items != NULL ? list->items + first : NULL;
        /* unsigned, because what lies between two items may be more than an int64_t holds */
        v.u.list->start = (int64_t)((uint64_t)list->start + first * (uint64_t)list->step);
        v.u.list->step = (int64_t)((uint64_t)list->step * (uint64_t)range->step);
        v.u.list->n = (uint32_t)range->n;
        return v;
    }
    v = jvalue_list(in, list->kind, (uint32_t)range->n, &items);
    for (uint32_t i = 0; i < v.u.list->n; i++)
        items[i] = jlist_item(list, (uint32_t)(range->first + (int64_t)i * range->step));
    return v;
}

static struct jvalue slice_text(struct jinterp *in, const struct jstr *s, const struct range *range)
{
    uint32_t first = jstr_offset(s, 0, range->first < 0 ? 0 : range->first), point;
    if (range->n == 0)
        return jvalue_of_str(jstr_part(s, 0, 0));
    if (range->step == 1)
        return jvalue_of_str(jstr_part(s, first, jstr_offset(s, first, range->n) - first));
    struct jwriter w = {.in = in, .text = {.data = "", .trusted = true}};
    uint32_t at = first;
    for (int64_t i = 0; i < range->n && jstep(in, 0); i++) {
        struct jstr piece = jstr_part(s, at, jstr_char(s, at, &point));
        jwrite(&w, &piece);
        for (int64_t k = range->step; k < 0 && at > 0; k++)
            at = (uint32_t)utf8_prev_start((const uint8_t *)s->data, at);
        if (range->step > 0)
            at = jstr_offset(s, at, range->step);
        if (at >= s->bytes)
            break;
    }
    return jvalue_of_str(w.text);
}

struct jvalue jinja_slice(struct jinterp *in, const struct jvalue *object,
                          const struct jvalue *const bounds[3])
{
    struct range range;
    struct jvalue v = undefined;
    bool is_text = object->kind == J_STRING, known;
    known = is_text || (object->kind == J_LIST &&
                        (object->u.list->kind == JL_LIST || object->u.list->kind == JL_TUPLE ||
                         object->u.list->kind == JL_RANGE));
    if (!known)
        jfail(in, "%s cannot be sliced", jkind_name(object));
    if (!jstep(in, is_text ? object->u.str.bytes : 0))
        return v;
    int64_t count = is_text ? jstr_count(&object->u.str) : object->u.list->n;
    if (!slice_range(in, bounds, count, &range))
        return v;
    v = is_text ? slice_text(in, &object->u.str, &range) : slice_list(in, object->u.list, &range);
    v.tainted = jvalue_tainted(object);
    for (int i = 0; i < 3; i++)
        v.tainted |= bounds[i] != NULL && jvalue_tainted(bounds[i]);
    return v;
}

static struct jvalue eval_slice(struct jinterp *in, const struct jnode *n)
{
    const struct jnode *const parts[3] = {n->b, n->c, n->other};
    struct jvalue object = jinja_eval(in, n->a), values[3];
    const struct jvalue *bounds[3] = {NULL};
    for (int i = 0; i < 3; i++)
        if (parts[i] != NULL) {
            values[i] = jinja_eval(in, parts[i]);
            bounds[i] = &values[i];
        }
    return in->err.st == ST_OK ? jinja_slice(in, &object, bounds) : undefined;
}

/* ---- calls ---- */

static bool stack_push(struct jinterp *in, struct jvalue v)
{
    if (in->stack_n == JINJA_STACK_MAX) {
        jerror_set(&in->err, ST_TOO_LARGE, in->line, "nested too deeply");
        return false;
    }
    in->stack[in->stack_n++] = v;
    return true;
}

struct jcall jcall_begin(struct jinterp *in, const struct jnode *args)
{
    struct jcall call = {.pos = in->stack + in->stack_n};
    const struct jnode *arg = args;
    for (; arg != NULL && arg->kind != JN_KEYWORD && in->err.st == ST_OK; arg = arg->next)
        if (stack_push(in, jinja_eval(in, arg)))
            call.n_pos++;
    call.named = call.pos + call.n_pos;
    call.keywords = in->err.st == ST_OK ? arg : NULL;
    for (; arg != NULL && in->err.st == ST_OK; arg = arg->next)
        stack_push(in, jinja_eval(in, arg->a));
    return call;
}

void jcall_end(struct jinterp *in, uint32_t stack_n)
{
    in->stack_n = stack_n;
}

/* Parameter `i` of a list like "chars= count"; its length, or 0 behind the last. */
static size_t param_at(const char *params, uint32_t i, const char **out_name, bool *out_optional)
{
    for (; i > 0 && *params != '\0'; i--) {
        params += strcspn(params, " ");
        params += *params == ' ';
    }
    size_t bytes = strcspn(params, " =");
    *out_name = params;
    *out_optional = params[bytes] == '=';
    return bytes;
}

static bool bind_args(struct jinterp *in, const struct jbuiltin *row, const struct jcall *call,
                      const struct jvalue *bound[JINJA_PARAMS_MAX])
{
    const char *name;
    bool optional;
    size_t bytes;
    uint32_t n_known = 0, n_named = 0, n_keywords = 0, i;
    for (i = 0; i < JINJA_PARAMS_MAX && (bytes = param_at(row->params, i, &name, &optional)) > 0;
         i++) {
        const struct jvalue *v = i < call->n_pos ? &call->pos[i] : NULL;
        uint32_t at = 0;
        for (const struct jnode *k = call->keywords; k != NULL; k = k->next, at++)
            if (strlen(k->name) == bytes && memcmp(k->name, name, bytes) == 0) {
                v = v == NULL ? &call->named[at] : NULL;
                n_named++;
            }
        if (v == NULL && !optional) {
            jfail(in, "'%s' needs argument '%.*s'", row->name, (int)bytes, name);
            return false;
        }
        bound[i] = v;
        n_known++;
    }
    for (const struct jnode *k = call->keywords; k != NULL; k = k->next)
        n_keywords++;
    if (call->n_pos > n_known || n_named != n_keywords) {
        jfail(in, "'%s' does not take these arguments", row->name);
        return false;
    }
    return true;
}

static bool call_tainted(const struct jcall *call)
{
    uint32_t i;
    for (i = 0; i < call->n_pos; i++)
        if (jvalue_tainted(&call->pos[i]))
            return true;
    i = 0;
    for (const struct jnode *k = call->keywords; k != NULL; k = k->next)
        if (jvalue_tainted(&call->named[i++]))
            return true;
    return false;
}

struct jvalue jinja_builtin_run(struct jinterp *in, const struct jbuiltin *row,
                                const struct jcall *call, const struct jvalue *self)
{
    struct jrun run = {.in = in, .call = call, .self = self};
    if (row->run == NULL) {
        jfail(in, "'%s' is not supported", row->name);
        return undefined;
    }
    if (in->err.st == ST_OK && row->params[0] != '*')
        bind_args(in, row, call, run.bound);
    if (!jstep(in, 0))
        return undefined;
    struct jvalue v = row->run(&run);
    if (v.kind != J_STRING)
        v.tainted |= call_tainted(call) || (self != NULL && jvalue_tainted(self));
    return v;
}

struct jvalue jinja_call(struct jinterp *in, const struct jvalue *callee, const struct jcall *call)
{
    if (in->err.st != ST_OK)
        return undefined;
    switch (callee->kind) {
    case J_FUNCTION:
        return jinja_builtin_run(in, callee->u.function, call, NULL);
    case J_METHOD:
        return jinja_builtin_run(in, callee->u.method->row, call, &callee->u.method->self);
    case J_MACRO:
        return jinja_macro_call(in, callee->u.macro, call, NULL);
    case J_UNDEFINED:
        jfail(in, "'%.60s' is undefined and cannot be called",
              callee->u.name != NULL ? callee->u.name : "value");
        return undefined;
    default:
        jfail(in, "%s cannot be called", jkind_name(callee));
        return undefined;
    }
}

static struct jvalue eval_call(struct jinterp *in, const struct jnode *n)
{
    uint32_t stack_n = in->stack_n;
    struct jvalue callee = jinja_eval(in, n->a);
    struct jcall call = jcall_begin(in, n->args);
    in->line = n->line;
    struct jvalue v = jinja_call(in, &callee, &call);
    jcall_end(in, stack_n);
    return v;
}

/* A filter or a test. */
static struct jvalue eval_row(struct jinterp *in, const struct jnode *n)
{
    uint32_t stack_n = in->stack_n;
    struct jvalue subject = jinja_eval(in, n->a);
    struct jcall call = jcall_begin(in, n->args);
    in->line = n->line;
    struct jvalue v =
        in->err.st == ST_OK ? jinja_builtin_run(in, n->row, &call, &subject) : undefined;
    jcall_end(in, stack_n);
    if (n->kind == JN_TEST && n->negated)
        v.u.boolean = !v.u.boolean;
    return v;
}

/* ---- the rest ---- */

static struct jvalue eval_list(struct jinterp *in, const struct jnode *n)
{
    uint32_t count = 0, i = 0;
    struct jvalue *items;
    for (const struct jnode *arg = n->args; arg != NULL; arg = arg->next)
        count++;
    struct jvalue v = jvalue_list(in, n->kind == JN_TUPLE ? JL_TUPLE : JL_LIST, count, &items);
    for (const struct jnode *arg = n->args; arg != NULL && i < v.u.list->n; arg = arg->next)
        items[i++] = jinja_eval(in, arg);
    return v;
}

static struct jvalue eval_dict(struct jinterp *in, const struct jnode *n)
{
    struct jvalue v = jvalue_dict(in, false);
    for (const struct jnode *pair = n->args; pair != NULL && in->err.st == ST_OK;
         pair = pair->next) {
        struct jvalue key = jinja_eval(in, pair->a), value = jinja_eval(in, pair->b);
        jdict_put(in, v.u.dict, &key, &value);
    }
    return v;
}

static struct jvalue eval_chain(struct jinterp *in, const struct jnode *n)
{
    struct jvalue v = jinja_eval(in, n->a);
    for (const struct jnode *operand = n->args; operand != NULL && in->err.st == ST_OK;
         operand = operand->next) {
        struct jvalue right = jinja_eval(in, operand->a);
        in->line = operand->line;
        if (in->err.st == ST_OK)
            v = jinja_operate(in, operand->op, &v, &right);
    }
    return v;
}

static struct jvalue eval_compare(struct jinterp *in, const struct jnode *n)
{
    struct jvalue left = jinja_eval(in, n->a), v = jvalue_bool(true);
    bool tainted = jvalue_tainted(&left);
    for (const struct jnode *operand = n->args;
         operand != NULL && v.u.boolean && in->err.st == ST_OK; operand = operand->next) {
        struct jvalue right = jinja_eval(in, operand->a);
        in->line = operand->line;
        if (in->err.st == ST_OK)
            v = jvalue_bool(jinja_compare(in, operand->op, &left, &right));
        tainted |= jvalue_tainted(&right);
        left = right;
    }
    v.tainted = tainted;
    return v;
}

static struct jvalue eval_logic(struct jinterp *in, const struct jnode *n)
{
    struct jvalue v = undefined;
    for (const struct jnode *operand = n->args; operand != NULL; operand = operand->next) {
        v = jinja_eval(in, operand->a);
        if (jvalue_truth(&v) == (n->kind == JN_OR) || in->err.st != ST_OK)
            break;
    }
    return v;
}

static struct jvalue eval_sign(struct jinterp *in, const struct jnode *n)
{
    int64_t i;
    struct jvalue v = jinja_eval(in, n->a);
    if (in->err.st != ST_OK)
        return undefined;
    if (n->kind == JN_NEG)
        return jinja_negate(in, &v);
    if (jvalue_is_int(&v, &i)) {
        bool tainted = v.tainted;
        v = jvalue_int(i);
        v.tainted = tainted;
    } else if (v.kind != J_FLOAT) {
        jfail(in, "'+' does not work on %s", jkind_name(&v));
    }
    return v;
}

static struct jvalue eval_not(struct jinterp *in, const struct jnode *n)
{
    struct jvalue v = jinja_eval(in, n->a), r = jvalue_bool(!jvalue_truth(&v));
    r.tainted = jvalue_tainted(&v);
    return r;
}

static struct jvalue eval_choice(struct jinterp *in, const struct jnode *n)
{
    struct jvalue v = jinja_eval(in, n->b);
    if (in->err.st != ST_OK)
        return undefined;
    if (jvalue_truth(&v))
        return jinja_eval(in, n->a);
    return n->c != NULL ? jinja_eval(in, n->c) : undefined;
}

static struct jvalue eval_access(struct jinterp *in, const struct jnode *n)
{
    struct jvalue object = jinja_eval(in, n->a), key;
    if (n->kind == JN_ATTR) {
        in->line = n->line;
        return in->err.st == ST_OK ? get_attr(in, &object, n->name) : undefined;
    }
    key = jinja_eval(in, n->b);
    in->line = n->line;
    return in->err.st == ST_OK ? jinja_item(in, &object, &key) : undefined;
}

static struct jvalue eval_node(struct jinterp *in, const struct jnode *n)
{
    switch (n->kind) {
    case JN_LITERAL:
        return n->value;
    case JN_INPUT:
        return in->input;
    case JN_NAME:
        return jinja_lookup(in, n->name);
    case JN_LIST:
    case JN_TUPLE:
        return eval_list(in, n);
    case JN_DICT:
        return eval_dict(in, n);
    case JN_ATTR:
    case JN_ITEM:
        return eval_access(in, n);
    case JN_SLICE:
        return eval_slice(in, n);
    case JN_CALL:
        return eval_call(in, n);
    case JN_FILTER:
    case JN_TEST:
        return eval_row(in, n);
    case JN_NOT:
        return eval_not(in, n);
    case JN_NEG:
    case JN_POS:
        return eval_sign(in, n);
    case JN_CHAIN:
        return eval_chain(in, n);
    case JN_COMPARE:
        return eval_compare(in, n);
    case JN_AND:
    case JN_OR:
        return eval_logic(in, n);
    case JN_CHOICE:
        return eval_choice(in, n);
    default:
        jfail(in, "not an expression");
        return undefined;
    }
}

struct jvalue jinja_eval(struct jinterp *in, const struct jnode *node)
{
    struct jvalue v = undefined;
    in->line = node->line;
    if (!jstep(in, 0))
        return v;
    if (++in->nest > JINJA_NEST_MAX)
        jerror_set(&in->err, ST_TOO_LARGE, node->line, "nested too deeply");
    else
        v = eval_node(in, node);
    in->nest--;
    return in->err.st == ST_OK ? v : undefined;
}
