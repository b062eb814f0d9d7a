/* Tests that templates ask with `is`. */
#include "text/jinja.h"

#include <string.h>

static struct jvalue run_defined(const struct jrun *r)
{
    return jvalue_bool(r->self->kind != J_UNDEFINED);
}

static struct jvalue run_undefined(const struct jrun *r)
{
    return jvalue_bool(r->self->kind == J_UNDEFINED);
}

static struct jvalue run_none(const struct jrun *r)
{
    return jvalue_bool(r->self->kind == J_NONE);
}

static struct jvalue run_string(const struct jrun *r)
{
    return jvalue_bool(r->self->kind == J_STRING);
}

static struct jvalue run_boolean(const struct jrun *r)
{
    return jvalue_bool(r->self->kind == J_BOOL);
}

static struct jvalue run_true(const struct jrun *r)
{
    return jvalue_bool(r->self->kind == J_BOOL && r->self->u.boolean);
}

static struct jvalue run_false(const struct jrun *r)
{
    return jvalue_bool(r->self->kind == J_BOOL && !r->self->u.boolean);
}

static struct jvalue run_integer(const struct jrun *r)
{
    return jvalue_bool(r->self->kind == J_INT);
}

static struct jvalue run_float(const struct jrun *r)
{
    return jvalue_bool(r->self->kind == J_FLOAT);
}

static struct jvalue run_number(const struct jrun *r)
{
    double real;
    return jvalue_bool(jvalue_is_number(r->self, &real));
}

static bool is_mapping(const struct jvalue *v)
{
    return v->kind == J_DICT && !v->u.dict->is_namespace;
}

static struct jvalue run_mapping(const struct jrun *r)
{
    return jvalue_bool(is_mapping(r->self));
}

/* Has a length and items by number or key; undefined passes, as in Jinja. */
static struct jvalue run_sequence(const struct jrun *r)
{
    const struct jvalue *v = r->self;
    bool list = v->kind == J_LIST && (v->u.list->kind == JL_LIST || v->u.list->kind == JL_TUPLE ||
                                      v->u.list->kind == JL_RANGE);
    return jvalue_bool(list || is_mapping(v) || v->kind == J_STRING || v->kind == J_UNDEFINED);
}

static struct jvalue run_iterable(const struct jrun *r)
{
    enum jkind kind = r->self->kind;
    return jvalue_bool(kind == J_LIST || kind == J_STRING || kind == J_UNDEFINED ||
                       kind == J_LOOP || is_mapping(r->self));
}

static struct jvalue run_callable(const struct jrun *r)
{
    enum jkind kind = r->self->kind;
    return jvalue_bool(kind == J_MACRO || kind == J_METHOD || kind == J_FUNCTION ||
                       kind == J_LOOP || kind == J_UNDEFINED);
}

static bool divisible(const struct jrun *r, const struct jvalue *by)
{
    struct jvalue rest = jinja_operate(r->in, JOP_MOD, r->self, by), zero = jvalue_int(0);
    return jvalue_equal(r->in, &rest, &zero);
}

static struct jvalue run_divisibleby(const struct jrun *r)
{
    return jvalue_bool(divisible(r, r->bound[0]));
}

static struct jvalue run_even(const struct jrun *r)
{
    struct jvalue two = jvalue_int(2);
    return jvalue_bool(divisible(r, &two));
}

static struct jvalue run_odd(const struct jrun *r)
{
    struct jvalue two = jvalue_int(2), one = jvalue_int(1);
    struct jvalue rest = jinja_operate(r->in, JOP_MOD, r->self, &two);
    return jvalue_bool(jvalue_equal(r->in, &rest, &one));
}

/* Texts and containers are the same object only where that cannot be told from equality here. */
static struct jvalue run_sameas(const struct jrun *r)
{
    return jvalue_bool(r->self->kind == r->bound[0]->kind &&
                       jvalue_equal(r->in, r->self, r->bound[0]));
}

static struct jvalue compare(const struct jrun *r, enum jop op)
{
    return jvalue_bool(jinja_compare(r->in, op, r->self, r->bound[0]));
}

static struct jvalue run_eq(const struct jrun *r)
{
    return compare(r, JOP_EQ);
}

static struct jvalue run_ne(const struct jrun *r)
{
    return compare(r, JOP_NE);
}

static struct jvalue run_lt(const struct jrun *r)
{
    return compare(r, JOP_LT);
}

static struct jvalue run_le(const struct jrun *r)
{
    return compare(r, JOP_LE);
}

static struct jvalue run_gt(const struct jrun *r)
{
    return compare(r, JOP_GT);
}

static struct jvalue run_ge(const struct jrun *r)
{
    return compare(r, JOP_GE);
}

static struct jvalue run_in(const struct jrun *r)
{
    return compare(r, JOP_IN);
}

/* Whether the text has letters, and all of them in one case. */
static bool has_case(const struct jrun *r, enum jcase how)
{
    struct jstr s = jvalue_str(r->in, r->self);
    struct jstr same = jstr_recase(r->in, &s, how);
    struct jstr other = jstr_recase(r->in, &s, how == JCASE_UPPER ? JCASE_LOWER : JCASE_UPPER);
    struct jvalue text = jvalue_of_str(s), a = jvalue_of_str(same), b = jvalue_of_str(other);
    return jvalue_equal(r->in, &text, &a) && !jvalue_equal(r->in, &text, &b);
}

static struct jvalue run_upper(const struct jrun *r)
{
    return jvalue_bool(has_case(r, JCASE_UPPER));
}

static struct jvalue run_lower(const struct jrun *r)
{
    return jvalue_bool(has_case(r, JCASE_LOWER));
}

static const struct jbuiltin tests[] = {
    {"defined", "", run_defined},
    {"undefined", "", run_undefined},
    {"none", "", run_none},
    {"string", "", run_string},
    {"boolean", "", run_boolean},
    {"true", "", run_true},
    {"false", "", run_false},
    {"integer", "", run_integer},
    {"float", "", run_float},
    {"number", "", run_number},
    {"mapping", "", run_mapping},
    {"sequence", "", run_sequence},
    {"iterable", "", run_iterable},
    {"callable", "", run_callable},
    {"divisibleby", "num", run_divisibleby},
    {"even", "", run_even},
    {"odd", "", run_odd},
    {"sameas", "other", run_sameas},
    {"eq", "other", run_eq},
    {"equalto", "other", run_eq},
    {"==", "other", run_eq},
    {"ne", "other", run_ne},
    {"!=", "other", run_ne},
    {"lt", "other", run_lt},
    {"lessthan", "other", run_lt},
    {"<", "other", run_lt},
    {"le", "other", run_le},
    {"<=", "other", run_le},
    {"gt", "other", run_gt},
    {"greaterthan", "other", run_gt},
    {">", "other", run_gt},
    {"ge", "other", run_ge},
    {">=", "other", run_ge},
    {"in", "seq", run_in},
    {"upper", "", run_upper},
    {"lower", "", run_lower},
};

const struct jbuiltin *jinja_test_find(const char *name, size_t bytes)
{
    return jinja_row_find(tests, sizeof(tests) / sizeof(*tests), name, bytes);
}
