/* Expressions of chat templates, from tokens to tree. Precedence, loosest first:
 *   a if b else c | or | and | not | comparisons | + - | ~ | * / // % | ** | unary | is, filters
 * Operators of one level make one node with a list of operands, so that a long chain is not deep.
 * Any thread. */
#include "text/jinja.h"

#include <string.h>

struct jnode *jparse_node(struct jparser *p, enum jnode_kind kind)
{
    struct jnode *n = arena_calloc(p->arena, 1, sizeof(*n));
    if (n == NULL) {
        jerror_set(p->err, ST_NO_MEMORY, p->at->line, "template is too large");
        n = &p->none;
        *n = (struct jnode){0};
    }
    n->kind = kind;
    n->line = p->at->line;
    n->depth = 1;
    return n;
}

struct jnode *jparse_adopt(struct jparser *p, struct jnode *n, struct jnode *child)
{
    if (child == NULL)
        return NULL;
    if (child->depth >= n->depth)
        n->depth = child->depth + 1;
    if (n->depth > JINJA_DEPTH_MAX)
        jerror_set(p->err, ST_TOO_LARGE, n->line, "nested too deeply");
    return child;
}

bool jparse_failed(const struct jparser *p)
{
    return p->err->st != ST_OK;
}

static bool is_kind(const struct jparser *p, enum jtoken_kind kind)
{
    return p->at->kind == kind;
}

static void next(struct jparser *p)
{
    if (p->at->kind != JT_END)
        p->at++;
}

bool jparse_is(const struct jparser *p, enum jtoken_kind kind, const char *text)
{
    return p->at->kind == kind && (text == NULL || strcmp(p->at->text, text) == 0);
}

bool jparse_take(struct jparser *p, enum jtoken_kind kind, const char *text)
{
    if (!jparse_is(p, kind, text))
        return false;
    next(p);
    return true;
}

void jparse_expect(struct jparser *p, enum jtoken_kind kind, const char *text)
{
    if (!jparse_take(p, kind, text))
        jerror_set(p->err, ST_PARSE, p->at->line, "expected '%s', found '%.40s'", text,
                   p->at->text);
}

const char *jparse_name(struct jparser *p)
{
    const char *name = p->at->text;
    if (!is_kind(p, JT_NAME))
        jerror_set(p->err, ST_PARSE, p->at->line, "expected a name, found '%.40s'", name);
    next(p);
    return name;
}

static bool op(const struct jparser *p, const char *text)
{
    return jparse_is(p, JT_OP, text);
}

static bool take_op(struct jparser *p, const char *text)
{
    return jparse_take(p, JT_OP, text);
}

static bool word(const struct jparser *p, const char *text)
{
    return jparse_is(p, JT_NAME, text);
}

static bool take_word(struct jparser *p, const char *text)
{
    return jparse_take(p, JT_NAME, text);
}

static struct jnode *literal(struct jparser *p, struct jvalue value)
{
    struct jnode *n = jparse_node(p, JN_LITERAL);
    n->value = value;
    return n;
}

/* One level down the recursion; false, with the error noted, below the last. */
static bool descend(struct jparser *p)
{
    p->depth++;
    if (p->depth > 2 * JINJA_DEPTH_MAX) /* a pair of parentheses costs two */
        jerror_set(p->err, ST_TOO_LARGE, p->at->line, "nested too deeply");
    return !jparse_failed(p);
}

/* ---- primary ---- */

struct jnode *jparse_args(struct jparser *p)
{
    struct jnode *first = NULL, **tail = &first;
    bool named = false;
    jparse_expect(p, JT_OP, "(");
    while (!jparse_failed(p) && !op(p, ")")) {
        struct jnode *arg;
        if (op(p, "*") || op(p, "**"))
            jerror_set(p->err, ST_UNSUPPORTED, p->at->line, "'*' arguments are not supported");
        if (is_kind(p, JT_NAME) && p->at[1].kind == JT_OP && strcmp(p->at[1].text, "=") == 0) {
            arg = jparse_node(p, JN_KEYWORD);
            arg->name = jparse_name(p);
            next(p);
            arg->a = jparse_adopt(p, arg, jparse_expression(p, 0));
            named = true;
        } else {
            if (named)
                jerror_set(p->err, ST_PARSE, p->at->line, "argument behind a named argument");
            arg = jparse_expression(p, 0);
        }
        *tail = arg;
        tail = &arg->next;
        if (!take_op(p, ","))
            break;
    }
    jparse_expect(p, JT_OP, ")");
    return first;
}

static void adopt_all(struct jparser *p, struct jnode *n, struct jnode *list)
{
    for (; list != NULL && !jparse_failed(p); list = list->next)
        jparse_adopt(p, n, list);
}

static struct jnode *parse_string(struct jparser *p)
{
    struct jvalue v = {.kind = J_STRING};
    v.u.str = (struct jstr){.data = p->at->text, .bytes = p->at->bytes, .trusted = true};
    next(p);
    while (is_kind(p, JT_STRING) && !jparse_failed(p)) { /* "a" "b" is one text */
        uint32_t bytes = v.u.str.bytes + p->at->bytes;
        char *joined = arena_alloc(p->arena, (size_t)bytes + 1);
        if (joined == NULL) {
            jerror_set(p->err, ST_NO_MEMORY, p->at->line, "template is too large");
            break;
        }
        memcpy(joined, v.u.str.data, v.u.str.bytes);
        memcpy(joined + v.u.str.bytes, p->at->text, p->at->bytes);
        joined[bytes] = '\0';
        v.u.str.data = joined;
        v.u.str.bytes = bytes;
        next(p);
    }
    return literal(p, v);
}

static struct jnode *parse_list(struct jparser *p)
{
    struct jnode *n = jparse_node(p, JN_LIST), **tail = &n->args;
    while (!jparse_failed(p) && !op(p, "]")) {
        *tail = jparse_adopt(p, n, jparse_expression(p, 0));
        tail = &(*tail)->next;
        if (!take_op(p, ","))
            break;
    }
    jparse_expect(p, JT_OP, "]");
    return n;
}

static struct jnode *parse_dict(struct jparser *p)
{
    struct jnode *n = jparse_node(p, JN_DICT), **tail = &n->args;
    while (!jparse_failed(p) && !op(p, "}")) {
        struct jnode *pair = jparse_node(p, JN_PAIR);
        pair->a = jparse_adopt(p, n, jparse_expression(p, 0));
        jparse_expect(p, JT_OP, ":");
        pair->b = jparse_adopt(p, n, jparse_expression(p, 0));
        *tail = pair;
        tail = &pair->next;
        if (!take_op(p, ","))
            break;
    }
    jparse_expect(p, JT_OP, "}");
    return n;
}

static struct jnode *parse_name(struct jparser *p)
{
    static const struct {
        const char *name;
        struct jvalue value;
    } known[] = {
        {"true", {.kind = J_BOOL, .u.boolean = true}},
        {"True", {.kind = J_BOOL, .u.boolean = true}},
        {"false", {.kind = J_BOOL}},
        {"False", {.kind = J_BOOL}},
        {"none", {.kind = J_NONE}},
        {"None", {.kind = J_NONE}},
    };
    const char *name = jparse_name(p);
    for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++)
        if (strcmp(name, known[i].name) == 0)
            return literal(p, known[i].value);
    struct jnode *n = jparse_node(p, JN_NAME);
    n->name = name;
    return n;
}

static struct jnode *parse_primary(struct jparser *p)
{
    struct jvalue v = {0};
    struct jnode *n;
    switch (p->at->kind) {
    case JT_STRING:
        return parse_string(p);
    case JT_INT:
        v.kind = J_INT;
        v.u.integer = p->at->u.integer;
        next(p);
        return literal(p, v);
    case JT_FLOAT:
        v.kind = J_FLOAT;
        v.u.real = p->at->u.real;
        next(p);
        return literal(p, v);
    case JT_NAME:
        return parse_name(p);
    default:
        break;
    }
    if (take_op(p, "(")) {
        if (take_op(p, ")"))
            return jparse_node(p, JN_TUPLE);
        n = jparse_tuple(p, 0);
        jparse_expect(p, JT_OP, ")");
        return n;
    }
    if (take_op(p, "["))
        return parse_list(p);
    if (take_op(p, "{"))
        return parse_dict(p);
    jerror_set(p->err, ST_PARSE, p->at->line, "unexpected '%.40s' in an expression", p->at->text);
    return jparse_node(p, JN_LITERAL);
}

/* ---- postfix ---- */

static struct jnode *parse_subscript(struct jparser *p, struct jnode *object)
{
    struct jnode *n = jparse_node(p, JN_ITEM), *parts[3] = {NULL};
    uint32_t i = 0;
    bool slice = false;
    while (!jparse_failed(p) && !op(p, "]")) {
        if (take_op(p, ":")) {
            slice = true;
            if (++i > 2)
                jerror_set(p->err, ST_PARSE, p->at->line, "slice has too many parts");
        } else {
            parts[i <= 2 ? i : 2] = jparse_adopt(p, n, jparse_expression(p, 0));
            if (!op(p, ":"))
                break;
        }
    }
    if (op(p, ","))
        jerror_set(p->err, ST_UNSUPPORTED, p->at->line, "subscripts of several parts");
    jparse_expect(p, JT_OP, "]");
    if (!slice && parts[0] == NULL)
        jerror_set(p->err, ST_PARSE, n->line, "empty subscript");
    n->kind = slice ? JN_SLICE : JN_ITEM;
    n->a = jparse_adopt(p, n, object);
    n->b = parts[0];
    n->c = parts[1];
    n->other = parts[2];
    return n;
}

static struct jnode *parse_call(struct jparser *p, struct jnode *callee)
{
    struct jnode *n = jparse_node(p, JN_CALL);
    n->a = jparse_adopt(p, n, callee);
    n->args = jparse_args(p);
    adopt_all(p, n, n->args);
    return n;
}

static struct jnode *parse_member(struct jparser *p, struct jnode *object)
{
    struct jnode *n = jparse_node(p, JN_ATTR);
    n->a = jparse_adopt(p, n, object);
    if (is_kind(p, JT_INT)) { /* x.0 */
        n->kind = JN_ITEM;
        n->b = parse_primary(p);
    } else {
        n->name = jparse_name(p);
    }
    return n;
}

static struct jnode *parse_postfix(struct jparser *p, struct jnode *n)
{
    while (!jparse_failed(p)) {
        if (take_op(p, "."))
            n = parse_member(p, n);
        else if (take_op(p, "["))
            n = parse_subscript(p, n);
        else if (op(p, "("))
            n = parse_call(p, n);
        else
            break;
    }
    return n;
}

struct jnode *jparse_call(struct jparser *p)
{
    return parse_postfix(p, parse_primary(p));
}

/* A filter or test row by its name, which may hold points. */
static const struct jbuiltin *row_of(struct jparser *p, bool is_filter)
{
    const char *name = jparse_name(p);
    const struct jbuiltin *row =
        is_filter ? jinja_filter_find(name, strlen(name)) : jinja_test_find(name, strlen(name));
    if (!jparse_failed(p) && (row == NULL || row->run == NULL))
        jerror_set(p->err, ST_UNSUPPORTED, p->at->line, "%s '%.40s' is not supported",
                   is_filter ? "filter" : "test", name);
    return row;
}

struct jnode *jparse_filters(struct jparser *p, struct jnode *input, bool first_has_no_bar)
{
    struct jnode *n = input;
    while (!jparse_failed(p) && (first_has_no_bar || take_op(p, "|"))) {
        struct jnode *filter = jparse_node(p, JN_FILTER);
        first_has_no_bar = false;
        filter->a = jparse_adopt(p, filter, n);
        filter->row = row_of(p, true);
        if (op(p, "(")) {
            filter->args = jparse_args(p);
            adopt_all(p, filter, filter->args);
        }
        n = filter;
    }
    return n;
}

/* An argument without parentheses may follow: "x is divisibleby 3". */
static bool test_has_bare_argument(const struct jparser *p)
{
    if (is_kind(p, JT_NAME))
        return !word(p, "else") && !word(p, "or") && !word(p, "and") && !word(p, "is") &&
               !word(p, "if") && !word(p, "in") && !word(p, "not");
    return is_kind(p, JT_STRING) || is_kind(p, JT_INT) || is_kind(p, JT_FLOAT) || op(p, "[") ||
           op(p, "{");
}

static struct jnode *parse_test(struct jparser *p, struct jnode *subject)
{
    struct jnode *n = jparse_node(p, JN_TEST);
    n->a = jparse_adopt(p, n, subject);
    n->negated = take_word(p, "not");
    n->row = row_of(p, false);
    if (op(p, "("))
        n->args = jparse_args(p);
    else if (!jparse_failed(p) && test_has_bare_argument(p))
        n->args = parse_postfix(p, parse_primary(p));
    else if (word(p, "is"))
        jerror_set(p->err, ST_PARSE, p->at->line, "tests cannot be chained with 'is'");
    adopt_all(p, n, n->args);
    return n;
}

static struct jnode *parse_unary(struct jparser *p, bool with_filters)
{
    struct jnode *n = NULL;
    if (descend(p)) {
        bool minus = op(p, "-");
        if (minus || op(p, "+")) {
            n = jparse_node(p, minus ? JN_NEG : JN_POS);
            next(p);
            n->a = jparse_adopt(p, n, parse_unary(p, false));
        } else {
            n = parse_primary(p);
        }
        n = parse_postfix(p, n);
        while (with_filters && !jparse_failed(p)) {
            if (op(p, "|"))
                n = jparse_filters(p, n, false);
            else if (take_word(p, "is"))
                n = parse_test(p, n);
            else if (op(p, "("))
                n = parse_call(p, n);
            else
                break;
        }
    } else {
        n = jparse_node(p, JN_LITERAL);
    }
    p->depth--;
    return n;
}

/* ---- operators ---- */

enum level { LEVEL_SUM, LEVEL_CONCAT, LEVEL_PRODUCT, LEVEL_POWER, LEVEL_UNARY };

static bool take_operator(struct jparser *p, enum level level, enum jop *out)
{
    static const struct {
        enum level level;
        const char *text;
        enum jop op;
    } table[] = {
        {LEVEL_SUM, "+", JOP_ADD},       {LEVEL_SUM, "-", JOP_SUB},
        {LEVEL_CONCAT, "~", JOP_CONCAT}, {LEVEL_PRODUCT, "*", JOP_MUL},
        {LEVEL_PRODUCT, "/", JOP_DIV},   {LEVEL_PRODUCT, "//", JOP_FLOORDIV},
        {LEVEL_PRODUCT, "%", JOP_MOD},   {LEVEL_POWER, "**", JOP_POW},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); i++)
        if (table[i].level == level && take_op(p, table[i].text)) {
            *out = table[i].op;
            return true;
        }
    return false;
}

static void operand_add(struct jparser *p, struct jnode *n, struct jnode ***tail, enum jop what,
                        struct jnode *value)
{
    struct jnode *operand = jparse_node(p, JN_OPERAND);
    operand->op = what;
    operand->a = jparse_adopt(p, n, value);
    **tail = operand;
    *tail = &operand->next;
}

static struct jnode *parse_level(struct jparser *p, enum level level)
{
    if (level == LEVEL_UNARY)
        return parse_unary(p, true);
    struct jnode *first = parse_level(p, level + 1), *n = NULL, **tail = NULL;
    enum jop what;
    while (!jparse_failed(p) && take_operator(p, level, &what)) {
        if (n == NULL) {
            n = jparse_node(p, JN_CHAIN);
            n->a = jparse_adopt(p, n, first);
            tail = &n->args;
        }
        operand_add(p, n, &tail, what, parse_level(p, level + 1));
    }
    return n != NULL ? n : first;
}

static bool take_comparison(struct jparser *p, enum jop *out)
{
    static const struct {
        const char *text;
        enum jop op;
    } table[] = {{"==", JOP_EQ}, {"!=", JOP_NE}, {"<=", JOP_LE},
                 {">=", JOP_GE}, {"<", JOP_LT},  {">", JOP_GT}};
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); i++)
        if (take_op(p, table[i].text)) {
            *out = table[i].op;
            return true;
        }
    if (take_word(p, "in")) {
        *out = JOP_IN;
        return true;
    }
    if (word(p, "not") && p->at[1].kind == JT_NAME && strcmp(p->at[1].text, "in") == 0) {
        next(p);
        next(p);
        *out = JOP_NOT_IN;
        return true;
    }
    return false;
}

static struct jnode *parse_compare(struct jparser *p)
{
    struct jnode *first = parse_level(p, LEVEL_SUM), *n = NULL, **tail = NULL;
    enum jop what;
    while (!jparse_failed(p) && take_comparison(p, &what)) {
        if (n == NULL) {
            n = jparse_node(p, JN_COMPARE);
            n->a = jparse_adopt(p, n, first);
            tail = &n->args;
        }
        operand_add(p, n, &tail, what, parse_level(p, LEVEL_SUM));
    }
    return n != NULL ? n : first;
}

static struct jnode *parse_not(struct jparser *p)
{
    uint32_t n_not = 0;
    while (!jparse_failed(p) && take_word(p, "not"))
        n_not++;
    struct jnode *n = parse_compare(p);
    for (; n_not > 0 && !jparse_failed(p); n_not--) {
        struct jnode *negation = jparse_node(p, JN_NOT);
        negation->a = jparse_adopt(p, negation, n);
        n = negation;
    }
    return n;
}

static struct jnode *parse_logic(struct jparser *p, bool is_or)
{
    struct jnode *first = is_or ? parse_logic(p, false) : parse_not(p), *n = NULL, **tail = NULL;
    while (!jparse_failed(p) && take_word(p, is_or ? "or" : "and")) {
        if (n == NULL) {
            n = jparse_node(p, is_or ? JN_OR : JN_AND);
            tail = &n->args;
            operand_add(p, n, &tail, JOP_EQ, first);
        }
        operand_add(p, n, &tail, JOP_EQ, is_or ? parse_logic(p, false) : parse_not(p));
    }
    return n != NULL ? n : first;
}

struct jnode *jparse_expression(struct jparser *p, uint32_t flags)
{
    if (!descend(p)) {
        p->depth--;
        return jparse_node(p, JN_LITERAL);
    }
    struct jnode *n = parse_logic(p, true);
    while (!jparse_failed(p) && (flags & JINJA_NO_CONDITION) == 0 && take_word(p, "if")) {
        struct jnode *choice = jparse_node(p, JN_CHOICE);
        choice->a = jparse_adopt(p, choice, n);
        choice->b = jparse_adopt(p, choice, parse_logic(p, true));
        if (take_word(p, "else"))
            choice->c = jparse_adopt(p, choice, jparse_expression(p, 0));
        n = choice;
    }
    p->depth--;
    return n;
}

/* What cannot begin one more item of a tuple. */
static bool tuple_ends(const struct jparser *p)
{
    return is_kind(p, JT_BLOCK_END) || is_kind(p, JT_OUTPUT_END) || is_kind(p, JT_END) ||
           op(p, ")") || op(p, "=") || word(p, "in");
}

struct jnode *jparse_tuple(struct jparser *p, uint32_t flags)
{
    struct jnode *first = jparse_expression(p, flags), *n = NULL, **tail = NULL;
    while (!jparse_failed(p) && take_op(p, ",")) {
        if (n == NULL) {
            n = jparse_node(p, JN_TUPLE);
            n->args = jparse_adopt(p, n, first);
            tail = &first->next;
        }
        if (tuple_ends(p))
            break;
        *tail = jparse_adopt(p, n, jparse_expression(p, flags));
        tail = &(*tail)->next;
    }
    return n != NULL ? n : first;
}

static struct jnode *parse_target_one(struct jparser *p, bool members)
{
    struct jnode *n;
    if (take_op(p, "(")) {
        n = descend(p) ? jparse_target(p, members) : jparse_node(p, JN_NAME);
        p->depth--;
        jparse_expect(p, JT_OP, ")");
        return n;
    }
    n = jparse_node(p, JN_NAME);
    n->name = jparse_name(p);
    static const char *const reserved[] = {"true", "false", "none", "True", "False", "None"};
    for (size_t i = 0; i < sizeof(reserved) / sizeof(*reserved); i++)
        if (strcmp(n->name, reserved[i]) == 0)
            jerror_set(p->err, ST_PARSE, n->line, "cannot assign to '%s'", n->name);
    if (members && take_op(p, ".")) {
        n->kind = JN_MEMBER;
        n->attr = jparse_name(p);
    }
    return n;
}

struct jnode *jparse_target(struct jparser *p, bool members)
{
    struct jnode *first = parse_target_one(p, members), *n = NULL, **tail = NULL;
    while (!jparse_failed(p) && take_op(p, ",")) {
        if (n == NULL) {
            n = jparse_node(p, JN_TUPLE);
            n->args = first;
            tail = &first->next;
        }
        if (tuple_ends(p))
            break;
        *tail = parse_target_one(p, members);
        tail = &(*tail)->next;
    }
    return n != NULL ? n : first;
}
