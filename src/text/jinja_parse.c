/* Lexer and recursive-descent parser of the template subset. */
#include "text/jinja.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void jerror_set(struct jerror *err, enum status st, uint32_t line, const char *format, ...)
{
    va_list args;
    if (err->st != ST_OK)
        return;
    err->st = st;
    if (err->bytes == 0)
        return;
    int n = line > 0 ? snprintf(err->text, err->bytes, "line %u: ", line) : 0;
    va_start(args, format);
    if (n >= 0 && (size_t)n < err->bytes)
        vsnprintf(err->text + n, err->bytes - (size_t)n, format, args);
    va_end(args);
}

enum jtok { T_END, T_NAME, T_STRING, T_INT, T_FLOAT, T_OP };

struct parser {
    const char *begin, *at, *end;
    struct arena *arena;
    struct jerror *err;
    uint32_t line, depth;
    bool trim_next;    /* a -%} or -}} or block end came: strip white space before the next text */
    bool trim_break;   /* a block tag came: drop one line break (trim_blocks) */
    const char *close; /* "%}" or "}}" while inside a tag */
    /* current token of a tag */
    enum jtok tok;
    const char *text; /* NAME, OP, STRING (decoded) */
    uint32_t bytes;
    int64_t integer;
    double real;
};

static bool failed(const struct parser *p)
{
    return p->err->st != ST_OK;
}

static struct jnode *node_new(struct parser *p, enum jnode_kind kind)
{
    struct jnode *n = arena_calloc(p->arena, 1, sizeof(*n));
    static struct jnode none; /* keeps callers simple after memory has run out */
    if (n == NULL) {
        jerror_set(p->err, ST_NO_MEMORY, p->line, "template is too large");
        return &none;
    }
    n->kind = kind;
    n->line = p->line;
    return n;
}

static const char *text_copy(struct parser *p, const char *text, uint32_t bytes)
{
    const char *copy = arena_dup(p->arena, text, bytes);
    if (copy == NULL)
        jerror_set(p->err, ST_NO_MEMORY, p->line, "template is too large");
    return copy != NULL ? copy : "";
}

/* ---- tokens inside a tag ---- */

static void lex_string(struct parser *p)
{
    char quote = *p->at++;
    const char *start = p->at;
    while (p->at < p->end && *p->at != quote) {
        if (*p->at == '\n')
            p->line++;
        p->at += *p->at == '\\' && p->at + 1 < p->end ? 2 : 1;
    }
    if (p->at >= p->end) {
        jerror_set(p->err, ST_PARSE, p->line, "string without an end");
        return;
    }
    char *out = arena_alloc(p->arena, (size_t)(p->at - start) + 1);
    uint32_t n = 0;
    if (out == NULL) {
        jerror_set(p->err, ST_NO_MEMORY, p->line, "template is too large");
        return;
    }
    for (const char *s = start; s < p->at; s++) {
        if (*s != '\\') {
            out[n++] = *s;
            continue;
        }
        s++;
        if (*s == 'n')
            out[n++] = '\n';
        else if (*s == 't')
            out[n++] = '\t';
        else if (*s == 'r')
            out[n++] = '\r';
        else if (*s == '\\' || *s == '\'' || *s == '"')
            out[n++] = *s;
        else { /* Python keeps an escape that it does not know */
            out[n++] = '\\';
            out[n++] = *s;
        }
    }
    out[n] = '\0';
    p->at++;
    p->tok = T_STRING;
    p->text = out;
    p->bytes = n;
}

static void lex_number(struct parser *p)
{
    char digits[64], *stop;
    uint32_t n = 0;
    bool real = false;
    while (p->at < p->end && n < sizeof(digits) - 1 &&
           (isdigit((unsigned char)*p->at) || *p->at == '.')) {
        real |= *p->at == '.';
        digits[n++] = *p->at++;
    }
    digits[n] = '\0';
    p->tok = real ? T_FLOAT : T_INT;
    p->real = strtod(digits, &stop);
    if (*stop != '\0' || n > 18)
        jerror_set(p->err, ST_PARSE, p->line, "bad number %s", digits);
    p->integer = real ? 0 : (int64_t)strtoll(digits, NULL, 10);
}

static void next(struct parser *p)
{
    static const char *const two[] = {"==", "!=", "<=", ">=", "//", "**"};
    while (p->at < p->end && isspace((unsigned char)*p->at))
        p->line += *p->at++ == '\n';
    p->tok = T_END;
    p->text = "";
    p->bytes = 0;
    if (failed(p) || p->at >= p->end) {
        jerror_set(p->err, ST_PARSE, p->line, "tag without an end");
        return;
    }
    bool minus = *p->at == '-' && p->end - p->at > 2 && strncmp(p->at + 1, p->close, 2) == 0;
    if (minus || (p->end - p->at >= 2 && strncmp(p->at, p->close, 2) == 0))
        return;
    if (*p->at == '\'' || *p->at == '"') {
        lex_string(p);
        return;
    }
    if (isdigit((unsigned char)*p->at)) {
        lex_number(p);
        return;
    }
    const char *start = p->at;
    if (isalpha((unsigned char)*p->at) || *p->at == '_') {
        while (p->at < p->end && (isalnum((unsigned char)*p->at) || *p->at == '_'))
            p->at++;
        p->tok = T_NAME;
    } else {
        uint32_t n = 1;
        for (size_t i = 0; i < sizeof(two) / sizeof(*two); i++)
            if (p->end - p->at >= 2 && strncmp(p->at, two[i], 2) == 0)
                n = 2;
        if (strchr("+-*/%~()[]{}.,:|=<>!", *p->at) == NULL)
            jerror_set(p->err, ST_PARSE, p->line, "unexpected character '%c'", *p->at);
        p->at += n;
        p->tok = T_OP;
    }
    p->bytes = (uint32_t)(p->at - start);
    p->text = text_copy(p, start, p->bytes);
}

static bool is(const struct parser *p, enum jtok tok, const char *text)
{
    return p->tok == tok && strcmp(p->text, text) == 0;
}

static bool take(struct parser *p, enum jtok tok, const char *text)
{
    if (!is(p, tok, text))
        return false;
    next(p);
    return true;
}

static void expect(struct parser *p, enum jtok tok, const char *text)
{
    if (!take(p, tok, text))
        jerror_set(p->err, ST_PARSE, p->line, "expected '%s', found '%.40s'", text,
                   p->tok == T_END ? p->close : p->text);
}

static const char *expect_name(struct parser *p)
{
    const char *name = p->text;
    if (p->tok != T_NAME)
        jerror_set(p->err, ST_PARSE, p->line, "expected a name, found '%.40s'", p->text);
    next(p);
    return name;
}

/* ---- expressions ---- */

static struct jnode *parse_expression(struct parser *p);
static struct jnode *parse_unary(struct parser *p);

static struct jnode *binary(struct parser *p, enum jnode_kind kind, enum jop op, struct jnode *a,
                            struct jnode *b)
{
    struct jnode *n = node_new(p, kind);
    n->op = op;
    n->a = a;
    n->b = b;
    return n;
}

/* Arguments up to `close`, name=value among them. */
static struct jnode *parse_args(struct parser *p, const char *close)
{
    struct jnode *first = NULL, **tail = &first;
    while (!failed(p) && !is(p, T_OP, close)) {
        struct jnode *arg = parse_expression(p);
        if (arg->kind == JN_NAME && take(p, T_OP, "=")) {
            struct jnode *keyword = node_new(p, JN_KEYWORD);
            keyword->name = arg->name;
            keyword->a = parse_expression(p);
            arg = keyword;
        }
        *tail = arg;
        tail = &arg->next;
        if (!take(p, T_OP, ","))
            break;
    }
    expect(p, T_OP, close);
    return first;
}

static struct jnode *parse_dict(struct parser *p)
{
    struct jnode *n = node_new(p, JN_DICT), **tail = &n->args;
    while (!failed(p) && !is(p, T_OP, "}")) {
        struct jnode *key = parse_expression(p);
        expect(p, T_OP, ":");
        *tail = key;
        key->next = parse_expression(p);
        tail = &key->next->next;
        if (!take(p, T_OP, ","))
            break;
    }
    expect(p, T_OP, "}");
    return n;
}

static struct jnode *literal(struct parser *p, struct jvalue value)
{
    struct jnode *n = node_new(p, JN_LITERAL);
    n->value = value;
    return n;
}

static struct jnode *parse_name(struct parser *p)
{
    const char *name = expect_name(p);
    if (strcmp(name, "true") == 0 || strcmp(name, "True") == 0)
        return literal(p, (struct jvalue){.kind = J_BOOL, .u.boolean = true});
    if (strcmp(name, "false") == 0 || strcmp(name, "False") == 0)
        return literal(p, (struct jvalue){.kind = J_BOOL});
    if (strcmp(name, "none") == 0 || strcmp(name, "None") == 0)
        return literal(p, (struct jvalue){.kind = J_NONE});
    struct jnode *n = node_new(p, JN_NAME);
    n->name = name;
    return n;
}

static struct jnode *parse_primary(struct parser *p)
{
    struct jvalue value = {0};
    switch (p->tok) {
    case T_STRING:
        value.kind = J_STRING;
        value.u.str = (struct jstr){.data = p->text, .bytes = p->bytes, .trusted = true};
        next(p);
        return literal(p, value);
    case T_INT:
        value.kind = J_INT;
        value.u.integer = p->integer;
        next(p);
        return literal(p, value);
    case T_FLOAT:
        value.kind = J_FLOAT;
        value.u.real = p->real;
        next(p);
        return literal(p, value);
    case T_NAME:
        return parse_name(p);
    default:
        break;
    }
    if (take(p, T_OP, "(")) {
        struct jnode *inner = is(p, T_OP, ")") ? NULL : parse_expression(p);
        if (inner != NULL && take(p, T_OP, ")"))
            return inner;
        struct jnode *tuple = node_new(p, JN_LIST);
        tuple->is_tuple = true;
        tuple->args = inner;
        if (inner != NULL && take(p, T_OP, ","))
            inner->next = parse_args(p, ")");
        else
            expect(p, T_OP, ")");
        return tuple;
    }
    if (take(p, T_OP, "[")) {
        struct jnode *list = node_new(p, JN_LIST);
        list->args = parse_args(p, "]");
        return list;
    }
    if (take(p, T_OP, "{"))
        return parse_dict(p);
    jerror_set(p->err, ST_PARSE, p->line, "unexpected '%.40s' in an expression",
               p->tok == T_END ? p->close : p->text);
    return node_new(p, JN_LITERAL);
}

static struct jnode *parse_subscript(struct parser *p, struct jnode *object)
{
    struct jnode *parts[3] = {NULL}, *n;
    uint32_t i = 0;
    bool slice = false;
    while (!failed(p) && !is(p, T_OP, "]")) {
        if (take(p, T_OP, ":")) {
            slice = true;
            if (++i > 2)
                jerror_set(p->err, ST_PARSE, p->line, "slice has too many parts");
        } else {
            parts[i <= 2 ? i : 2] = parse_expression(p);
            if (!is(p, T_OP, ":"))
                break;
        }
    }
    expect(p, T_OP, "]");
    n = node_new(p, slice ? JN_SLICE : JN_INDEX);
    n->a = object;
    n->b = parts[0];
    n->c = parts[1];
    n->other = parts[2];
    if (!slice && parts[0] == NULL)
        jerror_set(p->err, ST_PARSE, p->line, "empty subscript");
    return n;
}

static struct jnode *parse_postfix(struct parser *p)
{
    struct jnode *n = parse_primary(p);
    while (!failed(p)) {
        if (take(p, T_OP, ".")) {
            struct jnode *attr = node_new(p, JN_ATTR);
            attr->a = n;
            attr->name = expect_name(p);
            n = attr;
        } else if (take(p, T_OP, "[")) {
            n = parse_subscript(p, n);
        } else if (take(p, T_OP, "(")) {
            struct jnode *call = node_new(p, JN_CALL);
            call->a = n;
            call->args = parse_args(p, ")");
            n = call;
        } else {
            return n;
        }
    }
    return n;
}

static struct jnode *parse_filters(struct parser *p, struct jnode *n)
{
    while (!failed(p) && take(p, T_OP, "|")) {
        struct jnode *filter = node_new(p, JN_FILTER);
        filter->a = n;
        filter->name = expect_name(p);
        if (take(p, T_OP, "("))
            filter->args = parse_args(p, ")");
        n = filter;
    }
    return n;
}

static struct jnode *parse_unary(struct parser *p)
{
    if (++p->depth > JINJA_DEPTH_MAX)
        jerror_set(p->err, ST_TOO_LARGE, p->line, "nested too deeply");
    struct jnode *n;
    if (take(p, T_OP, "-")) {
        n = node_new(p, JN_NEG);
        n->a = failed(p) ? NULL : parse_unary(p);
    } else {
        n = failed(p) ? node_new(p, JN_LITERAL) : parse_filters(p, parse_postfix(p));
    }
    p->depth--;
    return n;
}

static bool take_op(struct parser *p, const char *const *texts, const enum jop *ops, uint32_t n,
                    enum jop *out)
{
    for (uint32_t i = 0; i < n; i++)
        if (take(p, T_OP, texts[i])) {
            *out = ops[i];
            return true;
        }
    return false;
}

static struct jnode *parse_product(struct parser *p)
{
    static const char *const texts[] = {"*", "//", "/", "%"};
    static const enum jop ops[] = {JOP_MUL, JOP_FLOORDIV, JOP_DIV, JOP_MOD};
    struct jnode *n = parse_unary(p);
    enum jop op;
    while (!failed(p) && take_op(p, texts, ops, 4, &op))
        n = binary(p, JN_BINARY, op, n, parse_unary(p));
    return n;
}

static struct jnode *parse_concat(struct parser *p)
{
    struct jnode *n = parse_product(p);
    while (!failed(p) && take(p, T_OP, "~"))
        n = binary(p, JN_BINARY, JOP_CONCAT, n, parse_product(p));
    return n;
}

static struct jnode *parse_sum(struct parser *p)
{
    static const char *const texts[] = {"+", "-"};
    static const enum jop ops[] = {JOP_ADD, JOP_SUB};
    struct jnode *n = parse_concat(p);
    enum jop op;
    while (!failed(p) && take_op(p, texts, ops, 2, &op))
        n = binary(p, JN_BINARY, op, n, parse_concat(p));
    return n;
}

static struct jnode *parse_test(struct parser *p, struct jnode *n)
{
    struct jnode *test = node_new(p, JN_TEST);
    test->a = n;
    test->negated = take(p, T_NAME, "not");
    test->name = expect_name(p);
    if (take(p, T_OP, "("))
        test->args = parse_args(p, ")");
    return test;
}

static struct jnode *parse_compare(struct parser *p)
{
    static const char *const texts[] = {"==", "!=", "<=", ">=", "<", ">"};
    static const enum jop ops[] = {JOP_EQ, JOP_NE, JOP_LE, JOP_GE, JOP_LT, JOP_GT};
    struct jnode *n = parse_sum(p);
    enum jop op;
    while (!failed(p)) {
        if (take_op(p, texts, ops, 6, &op)) {
            n = binary(p, JN_BINARY, op, n, parse_sum(p));
        } else if (take(p, T_NAME, "in")) {
            n = binary(p, JN_BINARY, JOP_IN, n, parse_sum(p));
        } else if (take(p, T_NAME, "is")) {
            n = parse_test(p, n);
        } else if (is(p, T_NAME, "not")) {
            next(p);
            expect(p, T_NAME, "in");
            n = binary(p, JN_BINARY, JOP_NOT_IN, n, parse_sum(p));
        } else {
            return n;
        }
    }
    return n;
}

static struct jnode *parse_not(struct parser *p)
{
    uint32_t n_not = 0;
    while (!failed(p) && take(p, T_NAME, "not"))
        n_not++;
    struct jnode *n = parse_compare(p);
    for (; n_not > 0 && !failed(p); n_not--)
        n = binary(p, JN_NOT, JOP_ADD, n, NULL);
    return n;
}

static struct jnode *parse_and(struct parser *p)
{
    struct jnode *n = parse_not(p);
    while (!failed(p) && take(p, T_NAME, "and"))
        n = binary(p, JN_AND, JOP_ADD, n, parse_not(p));
    return n;
}

static struct jnode *parse_or(struct parser *p)
{
    struct jnode *n = parse_and(p);
    while (!failed(p) && take(p, T_NAME, "or"))
        n = binary(p, JN_OR, JOP_ADD, n, parse_and(p));
    return n;
}

static struct jnode *parse_expression(struct parser *p)
{
    if (++p->depth > JINJA_DEPTH_MAX)
        jerror_set(p->err, ST_TOO_LARGE, p->line, "nested too deeply");
    struct jnode *n = failed(p) ? node_new(p, JN_LITERAL) : parse_or(p);
    if (!failed(p) && take(p, T_NAME, "if")) {
        struct jnode *ternary = node_new(p, JN_TERNARY);
        ternary->a = n;
        ternary->b = parse_or(p);
        ternary->c = take(p, T_NAME, "else") ? parse_expression(p) : NULL;
        n = ternary;
    }
    p->depth--;
    return n;
}

/* ---- statements ---- */

/* At `close`, maybe with a minus in front. */
static void tag_end(struct parser *p, bool is_block)
{
    if (failed(p))
        return;
    if (p->tok != T_END) {
        jerror_set(p->err, ST_PARSE, p->line, "unexpected '%.40s'", p->text);
        return;
    }
    if (*p->at == '-') {
        p->trim_next = true;
        p->at++;
    } else {
        p->trim_break = is_block;
    }
    p->at += 2;
}

static struct jnode *text_node(struct parser *p, const char *text, const char *stop)
{
    struct jnode *n = node_new(p, JN_TEXT);
    n->value =
        (struct jvalue){.kind = J_STRING,
                        .u.str = {.data = text, .bytes = (uint32_t)(stop - text), .trusted = true}};
    return n;
}

/* Text up to the next tag. Returns its node, or NULL when it is empty. */
static struct jnode *parse_text(struct parser *p)
{
    const char *start = p->at, *stop = p->at;
    while (stop < p->end && !(stop + 1 < p->end && *stop == '{' && strchr("{%#", stop[1]) != NULL))
        stop++;
    p->at = stop;
    if (p->trim_next)
        while (start < stop && isspace((unsigned char)*start))
            p->line += *start++ == '\n';
    else if (p->trim_break && start < stop && *start == '\n') {
        p->line++;
        start++;
    }
    p->trim_next = p->trim_break = false;
    const char *kept = stop;
    if (stop < p->end) {
        bool minus = stop + 2 < p->end && stop[2] == '-';
        const char *white = stop;
        while (white > start &&
               (minus ? isspace((unsigned char)white[-1]) : white[-1] == ' ' || white[-1] == '\t'))
            white--;
        /* lstrip_blocks: white space between a line's start and a block or comment goes. */
        bool at_line_start = white == p->begin || white[-1] == '\n';
        if (minus || (stop[1] != '{' && at_line_start))
            kept = white;
    }
    for (const char *s = start; s < stop; s++)
        p->line += *s == '\n';
    return kept > start ? text_node(p, start, kept) : NULL;
}

static void skip_comment(struct parser *p)
{
    const char *start = p->at;
    while (p->at + 1 < p->end && !(p->at[0] == '#' && p->at[1] == '}'))
        p->line += *p->at++ == '\n';
    if (p->at + 1 >= p->end) {
        jerror_set(p->err, ST_PARSE, p->line, "comment without an end");
        return;
    }
    p->trim_next = p->at > start && p->at[-1] == '-';
    p->trim_break = !p->trim_next;
    p->at += 2;
}

static struct jnode *parse_body(struct parser *p, const char *const *stops, uint32_t n_stops);

static const char *const if_stops[] = {"elif", "else", "endif"};
static const char *const for_stops[] = {"else", "endfor"};

/* Behind "if" or "elif". */
static struct jnode *parse_if(struct parser *p)
{
    struct jnode *n = node_new(p, JN_IF);
    n->a = parse_expression(p);
    tag_end(p, true);
    n->body = parse_body(p, if_stops, 3);
    if (failed(p))
        return n;
    if (take(p, T_NAME, "elif")) {
        if (++p->depth > JINJA_DEPTH_MAX)
            jerror_set(p->err, ST_TOO_LARGE, p->line, "nested too deeply");
        n->other = failed(p) ? NULL : parse_if(p); /* its endif is ours */
        p->depth--;
        return n;
    }
    if (take(p, T_NAME, "else")) {
        tag_end(p, true);
        n->other = parse_body(p, if_stops + 2, 1);
    }
    expect(p, T_NAME, "endif");
    tag_end(p, true);
    return n;
}

static struct jnode *parse_for(struct parser *p)
{
    struct jnode *n = node_new(p, JN_FOR), **tail = &n->args;
    do {
        struct jnode *target = node_new(p, JN_NAME);
        target->name = expect_name(p);
        *tail = target;
        tail = &target->next;
    } while (!failed(p) && take(p, T_OP, ","));
    expect(p, T_NAME, "in");
    n->a = parse_or(p);
    if (take(p, T_NAME, "if"))
        n->b = parse_expression(p);
    tag_end(p, true);
    n->body = parse_body(p, for_stops, 2);
    if (!failed(p) && take(p, T_NAME, "else")) {
        tag_end(p, true);
        n->other = parse_body(p, for_stops + 1, 1);
    }
    expect(p, T_NAME, "endfor");
    tag_end(p, true);
    return n;
}

static struct jnode *parse_set(struct parser *p)
{
    static const char *const stops[] = {"endset"};
    struct jnode *n = node_new(p, JN_SET);
    n->name = expect_name(p);
    if (take(p, T_OP, "."))
        n->attr = expect_name(p);
    if (take(p, T_OP, "=")) {
        n->a = parse_expression(p);
        tag_end(p, true);
        return n;
    }
    n->kind = JN_SET_BLOCK;
    tag_end(p, true);
    n->body = parse_body(p, stops, 1);
    expect(p, T_NAME, "endset");
    tag_end(p, true);
    return n;
}

static struct jnode *parse_statement(struct parser *p)
{
    struct jnode *n;
    if (take(p, T_NAME, "if"))
        return parse_if(p);
    if (take(p, T_NAME, "for"))
        return parse_for(p);
    if (take(p, T_NAME, "set"))
        return parse_set(p);
    if (is(p, T_NAME, "break") || is(p, T_NAME, "continue")) {
        n = node_new(p, is(p, T_NAME, "break") ? JN_BREAK : JN_CONTINUE);
        next(p);
        tag_end(p, true);
        return n;
    }
    if (is(p, T_NAME, "generation") || is(p, T_NAME, "endgeneration")) { /* marks for training */
        next(p);
        tag_end(p, true);
        return NULL;
    }
    jerror_set(p->err, ST_UNSUPPORTED, p->line, "statement '%.40s' is not supported", p->text);
    return NULL;
}

/* Statements up to a tag whose first word is one of stops (which stays current), or the source's
 * end when n_stops is 0. */
static struct jnode *parse_body(struct parser *p, const char *const *stops, uint32_t n_stops)
{
    struct jnode *first = NULL, **tail = &first;
    if (++p->depth > JINJA_DEPTH_MAX)
        jerror_set(p->err, ST_TOO_LARGE, p->line, "nested too deeply");
    while (!failed(p)) {
        struct jnode *n = parse_text(p);
        if (n != NULL) {
            *tail = n;
            tail = &n->next;
        }
        if (p->at >= p->end) {
            if (n_stops > 0)
                jerror_set(p->err, ST_PARSE, p->line, "%s is missing", stops[n_stops - 1]);
            break;
        }
        char what = p->at[1];
        p->at += 2;
        if (what == '#') {
            skip_comment(p);
            continue;
        }
        p->close = what == '{' ? "}}" : "%}";
        if (p->at < p->end && *p->at == '-')
            p->at++;
        next(p);
        if (what == '{') {
            n = node_new(p, JN_OUTPUT);
            n->a = parse_expression(p);
            tag_end(p, false);
        } else {
            bool stop = false;
            for (uint32_t i = 0; i < n_stops; i++)
                stop |= is(p, T_NAME, stops[i]);
            if (stop)
                break;
            n = failed(p) ? NULL : parse_statement(p);
        }
        if (n != NULL) {
            *tail = n;
            tail = &n->next;
        }
    }
    p->depth--;
    return first;
}

struct jnode *jinja_parse(const char *source, size_t bytes, struct arena *arena, struct jerror *err)
{
    struct parser p = {.arena = arena, .err = err, .line = 1, .close = "%}"};
    if (bytes > JINJA_SOURCE_BYTES_MAX) {
        jerror_set(err, ST_TOO_LARGE, 0, "template is larger than %u bytes",
                   JINJA_SOURCE_BYTES_MAX);
        return NULL;
    }
    /* keep_trailing_newline is off: one line break at the very end goes. */
    if (bytes > 0 && source[bytes - 1] == '\n')
        bytes--;
    p.at = arena_dup(arena, source, bytes);
    if (p.at == NULL) {
        jerror_set(err, ST_NO_MEMORY, 0, "out of memory");
        return NULL;
    }
    p.begin = p.at;
    p.end = p.at + bytes;
    struct jnode *root = parse_body(&p, NULL, 0);
    return failed(&p) ? NULL : root;
}
