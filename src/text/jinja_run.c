/* Statements of the template interpreter, scopes and macros.
 * A scope is a frame; loops, macros and blocks open one, `if` does not. A macro sees the names of
 * the place where it stands as they are when it is called. */
#include "text/jinja.h"

#include <string.h>

/* ---- scopes ---- */

static void frame_open(struct jinterp *in, struct jframe *up)
{
    struct jframe *frame = in->free_frames;
    if (frame != NULL)
        in->free_frames = frame->up;
    else
        frame = jtake(in, 1, sizeof(*frame));
    if (frame == NULL)
        return; /* the error is noted; the frame at hand serves until the end */
    *frame = (struct jframe){.up = up};
    in->frame = frame;
}

/* Back to `outer`. What no macro remembers is used again. */
static void frame_close(struct jinterp *in, struct jframe *outer)
{
    struct jframe *frame = in->frame;
    in->frame = outer;
    if (frame == outer || frame->kept || in->err.st != ST_OK)
        return;
    while (frame->vars != NULL) {
        struct jvar *var = frame->vars;
        frame->vars = var->next;
        var->next = in->free_vars;
        in->free_vars = var;
    }
    frame->up = in->free_frames;
    in->free_frames = frame;
}

static void var_set(struct jinterp *in, const char *name, const struct jvalue *value)
{
    struct jvar *var = in->frame->vars;
    while (var != NULL && strcmp(var->name, name) != 0)
        var = var->next;
    if (var == NULL) {
        var = in->free_vars;
        if (var != NULL)
            in->free_vars = var->next;
        else
            var = jtake(in, 1, sizeof(*var));
        if (var == NULL)
            return;
        var->name = name;
        var->next = in->frame->vars;
        in->frame->vars = var;
    }
    var->value = *value;
}

struct jvalue jinja_lookup(struct jinterp *in, const char *name)
{
    for (const struct jframe *frame = in->frame; frame != NULL; frame = frame->up) {
        for (const struct jvar *var = frame->vars; var != NULL; var = var->next)
            if (strcmp(var->name, name) == 0)
                return var->value;
        const struct jvalue *v =
            frame->inputs != NULL ? jdict_find_text(in, frame->inputs, name) : NULL;
        if (v != NULL)
            return *v;
    }
    const struct jbuiltin *function = jinja_function_find(name);
    if (function != NULL)
        return (struct jvalue){.kind = J_FUNCTION, .u.function = function};
    return jvalue_undefined(name);
}

void jinja_begin(struct jinterp *in, struct jdict *inputs)
{
    in->stack = arena_alloc(&in->arena, JINJA_STACK_MAX * sizeof(*in->stack));
    if (in->stack == NULL)
        jerror_set(&in->err, ST_NO_MEMORY, 0, "no memory");
    frame_open(in, NULL);
    if (in->err.st != ST_OK)
        return;
    in->frame->inputs = inputs;
    frame_open(in, in->frame);
}

static struct jvalue macro_new(struct jinterp *in, const struct jnode *n)
{
    struct jmacro *macro = jtake(in, 1, sizeof(*macro));
    if (macro == NULL)
        return jvalue_undefined(NULL);
    *macro = (struct jmacro){n, in->frame};
    for (struct jframe *frame = in->frame; frame != NULL && !frame->kept; frame = frame->up)
        frame->kept = true;
    return (struct jvalue){.kind = J_MACRO, .u.macro = macro};
}

static void assign(struct jinterp *in, const struct jnode *target, const struct jvalue *value);

static void unpack(struct jinterp *in, const struct jnode *target, const struct jvalue *value)
{
    const struct jlist *list = jvalue_iterate(in, value);
    const struct jnode *part = target->args;
    uint32_t i = 0;
    for (; part != NULL && i < list->n && in->err.st == ST_OK; part = part->next, i++) {
        struct jvalue item = jlist_item(list, i);
        assign(in, part, &item);
    }
    if (part != NULL || i < list->n)
        jfail(in, "%u values cannot be unpacked here", list->n);
}

static void assign(struct jinterp *in, const struct jnode *target, const struct jvalue *value)
{
    if (in->err.st != ST_OK)
        return;
    if (target->kind == JN_TUPLE) {
        unpack(in, target, value);
    } else if (target->kind == JN_NAME) {
        var_set(in, target->name, value);
    } else {
        struct jvalue space = jinja_lookup(in, target->name), key = jvalue_text(target->attr);
        if (space.kind == J_DICT && space.u.dict->is_namespace)
            jdict_put(in, space.u.dict, &key, value);
        else
            jfail(in, "'%.60s' is not a namespace", target->name);
    }
}

/* ---- output ---- */

static void emit(struct jinterp *in, const struct jstr *s)
{
    if (!jstep(in, s->bytes) || s->bytes == 0)
        return;
    if (buf_reserve(in->trust, s->bytes) != ST_OK ||
        buf_append(in->out, s->data, s->bytes) != ST_OK) {
        jerror_set(&in->err, ST_TOO_LARGE, in->line, "template writes too much");
        return;
    }
    uint8_t *trust = in->trust->data + in->trust->len;
    if (s->mask != NULL)
        memcpy(trust, s->mask, s->bytes);
    else
        memset(trust, s->trusted, s->bytes);
    in->trust->len += s->bytes;
}

/* What `body` writes, as a text instead. */
static struct jvalue capture(struct jinterp *in, const struct jnode *body)
{
    size_t start = in->out->len;
    struct jvalue v = jvalue_text("");
    jinja_run(in, body);
    size_t bytes = in->out->len - start;
    if (in->err.st != ST_OK || bytes == 0)
        return v;
    const uint8_t *trust = in->trust->data + start;
    v.u.str = jstr_copy(in, (const char *)in->out->data + start, bytes, trust[0] != 0);
    if (memchr(trust, !trust[0], bytes) != NULL && v.u.str.bytes > 0) {
        v.u.str.mask = arena_dup(&in->arena, trust, bytes);
        if (v.u.str.mask == NULL)
            jerror_set(&in->err, ST_TOO_LARGE, in->line, "template needs too much memory");
    }
    in->out->len = in->trust->len = start;
    return v;
}

static void emit_value(struct jinterp *in, const struct jvalue *v)
{
    if (in->err.st != ST_OK)
        return;
    struct jstr s = jvalue_str(in, v);
    if (in->err.st == ST_OK)
        emit(in, &s);
}

/* ---- macros ---- */

static const struct jvalue *keyword_find(const struct jcall *call, const char *name)
{
    uint32_t i = 0;
    for (const struct jnode *k = call->keywords; k != NULL; k = k->next, i++)
        if (strcmp(k->name, name) == 0)
            return &call->named[i];
    return NULL;
}

static void bind_params(struct jinterp *in, const struct jnode *macro, const struct jcall *call)
{
    uint32_t i = 0, n_named = 0, n_keywords = 0;
    for (const struct jnode *param = macro->args; param != NULL && in->err.st == ST_OK;
         param = param->next, i++) {
        const struct jvalue *named = keyword_find(call, param->name);
        struct jvalue v = jvalue_undefined(param->name);
        if (i < call->n_pos)
            v = call->pos[i];
        else if (named != NULL)
            v = *named;
        else if (param->a != NULL)
            v = jinja_eval(in, param->a);
        n_named += named != NULL && i >= call->n_pos;
        var_set(in, param->name, &v);
    }
    for (const struct jnode *k = call->keywords; k != NULL; k = k->next)
        n_keywords++;
    if (call->n_pos > i || n_named != n_keywords)
        jfail(in, "macro '%.60s' does not take these arguments", macro->name);
}

struct jvalue jinja_macro_call(struct jinterp *in, const struct jmacro *macro,
                               const struct jcall *call, const struct jmacro *caller)
{
    struct jframe *outer = in->frame;
    struct jvalue v = jvalue_undefined(NULL);
    if (++in->n_calls > JINJA_DEPTH_MAX)
        jerror_set(&in->err, ST_TOO_LARGE, in->line, "macros call each other too deeply");
    if (in->err.st == ST_OK) {
        frame_open(in, macro->frame);
        if (caller != NULL)
            var_set(in, "caller", &(struct jvalue){.kind = J_MACRO, .u.macro = caller});
        bind_params(in, macro->node, call);
        v = capture(in, macro->node->body);
        frame_close(in, outer);
    }
    in->n_calls--;
    return v;
}

static void run_call_block(struct jinterp *in, const struct jnode *n)
{
    uint32_t stack_n = in->stack_n;
    struct jvalue callee = jinja_eval(in, n->a->a), caller = macro_new(in, n);
    struct jcall call = jcall_begin(in, n->a->args);
    in->line = n->line;
    if (in->err.st == ST_OK && callee.kind != J_MACRO)
        jfail(in, "'call' needs a macro, not %s", jkind_name(&callee));
    if (in->err.st == ST_OK) {
        struct jvalue v = jinja_macro_call(in, callee.u.macro, &call, caller.u.macro);
        emit_value(in, &v);
    }
    jcall_end(in, stack_n);
}

/* ---- loops ---- */

/* The items of `list` for which the condition of the loop holds. */
static struct jlist *loop_filter(struct jinterp *in, const struct jnode *n,
                                 const struct jlist *list)
{
    struct jvalue *kept;
    struct jlist *out = jvalue_list(in, JL_LIST, list->n, &kept).u.list;
    uint32_t n_kept = 0;
    for (uint32_t i = 0; i < out->n && in->err.st == ST_OK; i++) {
        struct jframe *outer = in->frame;
        struct jvalue item = jlist_item(list, i);
        frame_open(in, outer);
        assign(in, n->a, &item);
        struct jvalue v = jinja_eval(in, n->c);
        if (jvalue_truth(&v))
            kept[n_kept++] = item;
        frame_close(in, outer);
    }
    out->n = n_kept;
    return out;
}

static void run_for(struct jinterp *in, const struct jnode *n)
{
    struct jvalue iterable = jinja_eval(in, n->b), value = {.kind = J_LOOP};
    const struct jlist *list = in->err.st == ST_OK ? jvalue_iterate(in, &iterable) : NULL;
    if (list != NULL && in->err.st == ST_OK && n->c != NULL)
        list = loop_filter(in, n, list);
    struct jloop *loop = in->err.st == ST_OK ? jtake(in, 1, sizeof(*loop)) : NULL;
    if (list == NULL || loop == NULL || in->err.st != ST_OK)
        return;
    *loop = (struct jloop){.list = list, .tainted = jvalue_tainted(&iterable)};
    value.u.loop = loop;
    value.tainted = loop->tainted;
    for (uint32_t i = 0; i < list->n && in->err.st == ST_OK && in->flow != JFLOW_BREAK; i++) {
        struct jframe *outer = in->frame;
        struct jvalue item = jlist_item(list, i);
        in->flow = JFLOW_ON;
        loop->index = i;
        frame_open(in, outer);
        var_set(in, "loop", &value);
        assign(in, n->a, &item);
        if (jstep(in, 0))
            jinja_run(in, n->body);
        frame_close(in, outer);
    }
    in->flow = JFLOW_ON;
    if (list->n == 0)
        jinja_run(in, n->other);
}

/* ---- the rest ---- */

static void run_if(struct jinterp *in, const struct jnode *n)
{
    for (const struct jnode *branch = n->args; branch != NULL; branch = branch->next) {
        struct jvalue v = jinja_eval(in, branch->a);
        if (in->err.st != ST_OK)
            return;
        if (jvalue_truth(&v)) {
            jinja_run(in, branch->body);
            return;
        }
    }
    jinja_run(in, n->other);
}

/* The text of a block's body, through the block's filters. */
static struct jvalue block_value(struct jinterp *in, const struct jnode *n)
{
    struct jframe *outer = in->frame;
    frame_open(in, outer);
    struct jvalue text = capture(in, n->body);
    frame_close(in, outer);
    in->input = text;
    return in->err.st == ST_OK ? jinja_eval(in, n->b) : text;
}

static void run_scope(struct jinterp *in, const struct jnode *n)
{
    struct jframe *outer = in->frame;
    frame_open(in, outer);
    for (const struct jnode *pair = n->args; pair != NULL && in->err.st == ST_OK;
         pair = pair->next) {
        struct jframe *inner = in->frame;
        in->frame = outer; /* the values of `with` do not see each other */
        struct jvalue v = jinja_eval(in, pair->b);
        in->frame = inner;
        assign(in, pair->a, &v);
    }
    if (in->err.st == ST_OK)
        jinja_run(in, n->body);
    frame_close(in, outer);
}

static void run_one(struct jinterp *in, const struct jnode *n)
{
    struct jvalue v;
    in->line = n->line;
    switch (n->kind) {
    case JN_TEXT:
        emit(in, &n->value.u.str);
        return;
    case JN_OUTPUT:
        v = jinja_eval(in, n->a);
        emit_value(in, &v);
        return;
    case JN_IF:
        run_if(in, n);
        return;
    case JN_FOR:
        run_for(in, n);
        return;
    case JN_SET:
        v = jinja_eval(in, n->b);
        in->line = n->line;
        assign(in, n->a, &v);
        return;
    case JN_SET_BLOCK:
        v = block_value(in, n);
        assign(in, n->a, &v);
        return;
    case JN_FILTER_BLOCK:
        v = block_value(in, n);
        emit_value(in, &v);
        return;
    case JN_MACRO:
        v = macro_new(in, n);
        var_set(in, n->name, &v);
        return;
    case JN_CALL_BLOCK:
        run_call_block(in, n);
        return;
    case JN_WITH:
    case JN_SCOPE:
        run_scope(in, n);
        return;
    default:
        in->flow = n->kind == JN_BREAK ? JFLOW_BREAK : JFLOW_CONTINUE;
        return;
    }
}

void jinja_run(struct jinterp *in, const struct jnode *body)
{
    if (++in->nest > JINJA_NEST_MAX)
        jerror_set(&in->err, ST_TOO_LARGE, in->line, "nested too deeply");
    for (const struct jnode *n = body; n != NULL && in->flow == JFLOW_ON && jstep(in, 0);
         n = n->next)
        run_one(in, n);
    in->nest--;
}
