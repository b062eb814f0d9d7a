/* Statements of chat templates, from tokens to tree. Any thread. */
#include "text/jinja.h"

#include <string.h>

struct statement {
    const char *name;
    struct jnode *(*parse)(struct jparser *p);
};

static struct jnode *parse_statement(struct jparser *p);

static void expect_end(struct jparser *p)
{
    if (!jparse_take(p, JT_BLOCK_END, NULL))
        jerror_set(p->err, ST_PARSE, p->at->line, "expected the end of the tag, found '%.40s'",
                   p->at->text);
}

static bool at_word(const struct jtoken *t, const char *const *words)
{
    for (; *words != NULL && t->kind == JT_NAME; words++)
        if (strcmp(t->text, *words) == 0)
            return true;
    return false;
}

static struct jnode *parse_output(struct jparser *p)
{
    struct jnode *n = jparse_node(p, JN_OUTPUT);
    p->at++;
    n->a = jparse_tuple(p, 0);
    if (!jparse_take(p, JT_OUTPUT_END, NULL))
        jerror_set(p->err, ST_PARSE, p->at->line, "expected '}}', found '%.40s'", p->at->text);
    return n;
}

/* Statements up to a tag that begins with one of `until` (NULL: up to the end of the source), whose
 * name is taken; *out_word says which. `opener` names the tag that wants it. */
static struct jnode *parse_body(struct jparser *p, const char *const *until, const char *opener,
                                const char **out_word)
{
    struct jnode *first = NULL, **tail = &first;
    uint32_t line = p->at->line;
    if (++p->depth > 2 * JINJA_DEPTH_MAX)
        jerror_set(p->err, ST_TOO_LARGE, line, "nested too deeply");
    while (!jparse_failed(p)) {
        struct jnode *n = NULL;
        if (p->at->kind == JT_TEXT) {
            n = jparse_node(p, JN_TEXT);
            n->value.kind = J_STRING;
            n->value.u.str =
                (struct jstr){.data = p->at->text, .bytes = p->at->bytes, .trusted = true};
            p->at++;
        } else if (p->at->kind == JT_OUTPUT_BEGIN) {
            n = parse_output(p);
        } else if (p->at->kind == JT_BLOCK_BEGIN) {
            p->at++;
            if (until != NULL && at_word(p->at, until)) {
                *out_word = jparse_name(p);
                break;
            }
            n = parse_statement(p);
        } else {
            if (until != NULL)
                jerror_set(p->err, ST_PARSE, line, "'%s' without '%s'", opener, until[0]);
            break;
        }
        *tail = n;
        while (*tail != NULL)
            tail = &(*tail)->next;
    }
    p->depth--;
    return first;
}

/* The body of a tag that ends with `end`, without loops around it. */
static struct jnode *parse_closed_body(struct jparser *p, const char *opener, const char *end)
{
    const char *const until[] = {end, NULL}, *word = NULL;
    uint32_t loops = p->loops;
    p->loops = 0;
    struct jnode *body = parse_body(p, until, opener, &word);
    p->loops = loops;
    expect_end(p);
    return body;
}

static struct jnode *parse_if(struct jparser *p)
{
    static const char *const until[] = {"endif", "elif", "else", NULL}, *const end[] = {"endif",
                                                                                        NULL};
    struct jnode *n = jparse_node(p, JN_IF), **tail = &n->args;
    const char *word = "elif";
    while (!jparse_failed(p) && strcmp(word, "elif") == 0) {
        struct jnode *branch = jparse_node(p, JN_BRANCH);
        branch->a = jparse_tuple(p, JINJA_NO_CONDITION);
        expect_end(p);
        branch->body = parse_body(p, until, "if", &word);
        *tail = branch;
        tail = &branch->next;
    }
    if (!jparse_failed(p) && strcmp(word, "else") == 0) {
        expect_end(p);
        n->other = parse_body(p, end, "if", &word);
    }
    expect_end(p);
    return n;
}

static struct jnode *parse_for(struct jparser *p)
{
    static const char *const until[] = {"endfor", "else", NULL}, *const end[] = {"endfor", NULL};
    struct jnode *n = jparse_node(p, JN_FOR);
    const char *word = "";
    n->a = jparse_target(p, false);
    jparse_expect(p, JT_NAME, "in");
    n->b = jparse_tuple(p, JINJA_NO_CONDITION);
    if (jparse_take(p, JT_NAME, "if"))
        n->c = jparse_expression(p, 0);
    if (jparse_is(p, JT_NAME, "recursive"))
        jerror_set(p->err, ST_UNSUPPORTED, p->at->line, "recursive loops are not supported");
    expect_end(p);
    p->loops++;
    n->body = parse_body(p, until, "for", &word);
    p->loops--;
    if (!jparse_failed(p) && strcmp(word, "else") == 0) {
        expect_end(p);
        n->other = parse_body(p, end, "for", &word);
    }
    expect_end(p);
    return n;
}

static struct jnode *parse_loop_control(struct jparser *p)
{
    bool is_break = strcmp(p->at[-1].text, "break") == 0;
    struct jnode *n = jparse_node(p, is_break ? JN_BREAK : JN_CONTINUE);
    if (p->loops == 0)
        jerror_set(p->err, ST_PARSE, n->line, "'%s' outside of a loop", p->at[-1].text);
    expect_end(p);
    return n;
}

static struct jnode *parse_set(struct jparser *p)
{
    struct jnode *n = jparse_node(p, JN_SET);
    n->a = jparse_target(p, true);
    if (jparse_take(p, JT_OP, "=")) {
        n->b = jparse_tuple(p, 0);
        expect_end(p);
        return n;
    }
    n->kind = JN_SET_BLOCK;
    if (n->a->kind == JN_TUPLE)
        jerror_set(p->err, ST_PARSE, n->line, "expected '=', found '%.40s'", p->at->text);
    n->b = jparse_filters(p, jparse_node(p, JN_INPUT), false);
    expect_end(p);
    n->body = parse_closed_body(p, "set", "endset");
    return n;
}

static struct jnode *parse_with(struct jparser *p)
{
    struct jnode *n = jparse_node(p, JN_WITH), **tail = &n->args;
    while (!jparse_failed(p) && p->at->kind != JT_BLOCK_END) {
        struct jnode *pair = jparse_node(p, JN_PAIR);
        pair->a = jparse_target(p, false);
        jparse_expect(p, JT_OP, "=");
        pair->b = jparse_expression(p, 0);
        *tail = pair;
        tail = &pair->next;
        if (!jparse_take(p, JT_OP, ","))
            break;
    }
    expect_end(p);
    static const char *const until[] = {"endwith", NULL};
    const char *word;
    n->body = parse_body(p, until, "with", &word); /* a loop around may be left from inside */
    expect_end(p);
    return n;
}

static struct jnode *parse_params(struct jparser *p)
{
    struct jnode *first = NULL, **tail = &first;
    bool optional = false;
    jparse_expect(p, JT_OP, "(");
    while (!jparse_failed(p) && !jparse_is(p, JT_OP, ")")) {
        struct jnode *param = jparse_node(p, JN_NAME);
        param->name = jparse_name(p);
        if (jparse_take(p, JT_OP, "=")) {
            param->a = jparse_expression(p, 0);
            optional = true;
        } else if (optional) {
            jerror_set(p->err, ST_PARSE, param->line, "parameter '%.40s' needs a default",
                       param->name);
        }
        *tail = param;
        tail = &param->next;
        if (!jparse_take(p, JT_OP, ","))
            break;
    }
    jparse_expect(p, JT_OP, ")");
    return first;
}

static struct jnode *parse_macro(struct jparser *p)
{
    struct jnode *n = jparse_node(p, JN_MACRO);
    n->name = jparse_name(p);
    n->args = parse_params(p);
    expect_end(p);
    n->body = parse_closed_body(p, "macro", "endmacro");
    return n;
}

static struct jnode *parse_call_block(struct jparser *p)
{
    struct jnode *n = jparse_node(p, JN_CALL_BLOCK);
    n->name = "caller";
    if (jparse_is(p, JT_OP, "("))
        n->args = parse_params(p);
    n->a = jparse_call(p);
    if (!jparse_failed(p) && n->a->kind != JN_CALL)
        jerror_set(p->err, ST_PARSE, n->line, "expected a call");
    expect_end(p);
    n->body = parse_closed_body(p, "call", "endcall");
    return n;
}

static struct jnode *parse_filter_block(struct jparser *p)
{
    struct jnode *n = jparse_node(p, JN_FILTER_BLOCK);
    n->b = jparse_filters(p, jparse_node(p, JN_INPUT), true);
    expect_end(p);
    n->body = parse_closed_body(p, "filter", "endfilter");
    return n;
}

/* Marks what a model wrote, for training; here it is a scope and no more. */
static struct jnode *parse_generation(struct jparser *p)
{
    struct jnode *n = jparse_node(p, JN_SCOPE);
    expect_end(p);
    n->body = parse_closed_body(p, "generation", "endgeneration");
    return n;
}

static struct jnode *parse_print(struct jparser *p)
{
    struct jnode *n = jparse_node(p, JN_OUTPUT), *last = n;
    n->a = jparse_expression(p, 0);
    while (!jparse_failed(p) && jparse_take(p, JT_OP, ",")) {
        last->next = jparse_node(p, JN_OUTPUT);
        last = last->next;
        last->a = jparse_expression(p, 0);
    }
    expect_end(p);
    return n;
}

static const struct statement statements[] = {
    {"if", parse_if},
    {"for", parse_for},
    {"set", parse_set},
    {"macro", parse_macro},
    {"break", parse_loop_control},
    {"continue", parse_loop_control},
    {"call", parse_call_block},
    {"filter", parse_filter_block},
    {"generation", parse_generation},
    {"with", parse_with},
    {"print", parse_print},
};

/* Behind "{%", whose name is not the end of a body. */
static struct jnode *parse_statement(struct jparser *p)
{
    static const char *const foreign[] = {"include", "import",     "from",  "extends", "block",
                                          "do",      "autoescape", "trans", "debug",   NULL};
    const char *name = jparse_name(p);
    for (size_t i = 0; i < sizeof(statements) / sizeof(*statements) && !jparse_failed(p); i++)
        if (strcmp(name, statements[i].name) == 0)
            return statements[i].parse(p);
    if (at_word(&p->at[-1], foreign))
        jerror_set(p->err, ST_UNSUPPORTED, p->at[-1].line, "'%.40s' is not supported", name);
    else
        jerror_set(p->err, ST_PARSE, p->at[-1].line, "unexpected tag '%.40s'", name);
    return NULL;
}

struct jnode *jinja_parse(const char *source, size_t bytes, struct arena *arena, struct jerror *err)
{
    struct jparser p = {.arena = arena, .err = err};
    p.at = jinja_lex(source, bytes, arena, err);
    if (p.at == NULL)
        return NULL;
    struct jnode *root = parse_body(&p, NULL, "template", &(const char *){NULL});
    return err->st == ST_OK ? root : NULL;
}
