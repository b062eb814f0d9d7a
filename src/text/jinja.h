/* Inside of the chat template interpreter: syntax tree, values, and what its files share.
 *
 *   source -> jinja_lex (tokens) -> jinja_parse (struct jnode tree, immutable)
 *          -> jinja_run (statements) and jinja_eval (expressions) -> text with one trust byte a
 * byte
 *
 * Behaviour is that of Jinja 3.1's sandbox with trim_blocks, lstrip_blocks and loop controls, as
 * model authors use it; names below are Jinja's. Everything lives in arenas: the tree in the
 * template's, values in the render's. A helper that fails notes it in `in->err` and answers
 * undefined or an empty text, so callers may go on and look at the error later.
 * Trust: text carries a byte of trust for each byte (struct jstr); other values carry `tainted`. */
#ifndef TEXT_JINJA_H
#define TEXT_JINJA_H

#include "base/arena.h"
#include "base/buf.h"
#include "text/template.h"

#include <stdbool.h>

#define JINJA_SOURCE_BYTES_MAX (256u << 10)
#define JINJA_DEPTH_MAX        64u   /* of the tree, of input data, of macro calls */
#define JINJA_NEST_MAX         1000u /* of evaluation, macros included: bounds the C stack */
#define JINJA_STEPS_MAX        2000000u
#define JINJA_STEP_BYTES       256u /* text work that counts as a step */
#define JINJA_MEMORY_BYTES_MAX (64u << 20)
#define JINJA_STACK_MAX        2048u /* values of calls in progress */
#define JINJA_PARAMS_MAX       8u    /* of a built-in */
#define JINJA_RANGE_MAX        100000u

/* ---- values ---- */

enum jkind {
    J_UNDEFINED,
    J_NONE,
    J_BOOL,
    J_INT,
    J_FLOAT,
    J_STRING,
    J_LIST, /* also tuples, views, ranges and generators: enum jlist_kind */
    J_DICT, /* also namespaces */
    J_LOOP,
    J_MACRO,
    J_METHOD,
    J_FUNCTION
};

/* Room behind a text that was built by concatenation, so that appending again costs nothing. */
struct jtail {
    char *data;
    uint8_t *mask;
    uint32_t used, cap;
};

/* Text. mask NULL: every byte is trusted or not, as `trusted` says; otherwise a byte 0 or 1 each.
 */
struct jstr {
    const char *data;
    const uint8_t *mask;
    struct jtail *tail; /* or NULL */
    uint32_t bytes;
    bool trusted;
};

struct jdict;
struct jlist;
struct jloop;
struct jmacro;
struct jmethod;
struct jbuiltin;

struct jvalue {
    enum jkind kind;
    bool tainted; /* derived from the request; of text: see struct jstr */
    union {
        bool boolean;
        int64_t integer;
        double real;
        struct jstr str;
        struct jlist *list;
        struct jdict *dict;
        struct jloop *loop;
        const struct jmacro *macro;
        const struct jmethod *method;
        const struct jbuiltin *function;
        const char *name; /* UNDEFINED: what was asked for, or NULL */
    } u;
};

enum jlist_kind { JL_LIST, JL_TUPLE, JL_KEYS, JL_VALUES, JL_ITEMS, JL_RANGE, JL_GENERATOR };

/* Items never change, so slices share them. A RANGE has none; a GENERATOR gives them once. */
struct jlist {
    enum jlist_kind kind;
    bool consumed;
    uint32_t n;
    const struct jvalue *items;
    int64_t start, step;
};

struct jpair {
    struct jvalue key, value;
};

struct jdict {
    struct jpair *pairs; /* in order of insertion */
    uint32_t n, cap;
    uint32_t *slots; /* hash index of large ones: pair index + 1, or 0 */
    uint32_t n_slots;
    bool is_namespace;
};

struct jloop {
    const struct jlist *list;
    struct jvalue changed; /* what loop.changed() saw last */
    bool has_changed, tainted;
    uint32_t index;
};

struct jmethod {
    struct jvalue self;
    const struct jbuiltin *row;
};

/* ---- syntax ---- */

enum jnode_kind {
    /* statements; `next` chains a body */
    JN_TEXT,
    JN_OUTPUT,       /* a */
    JN_IF,           /* args: BRANCH (a condition, body); other */
    JN_FOR,          /* a target, b iterable, c condition, body, other */
    JN_SET,          /* a target, b value */
    JN_SET_BLOCK,    /* a target, b filters over INPUT, body */
    JN_WITH,         /* args: PAIR (a target, b value); body */
    JN_MACRO,        /* name, args: NAME (a default), body */
    JN_CALL_BLOCK,   /* a call; args and body as MACRO */
    JN_FILTER_BLOCK, /* b filters over INPUT, body */
    JN_SCOPE,        /* body */
    JN_BREAK,
    JN_CONTINUE,
    /* expressions */
    JN_LITERAL,
    JN_INPUT, /* text of the block that a filter works on */
    JN_NAME,
    JN_MEMBER, /* target of a set: name.attr */
    JN_LIST,   /* args */
    JN_TUPLE,  /* args */
    JN_DICT,   /* args: PAIR */
    JN_ATTR,   /* a.name */
    JN_ITEM,   /* a[b] */
    JN_SLICE,  /* a[b:c:other] */
    JN_CALL,   /* a(args) */
    JN_FILTER, /* a | row(args) */
    JN_TEST,   /* a is [not] row(args) */
    JN_NOT,
    JN_NEG,
    JN_POS,
    JN_CHAIN,   /* a, then args: OPERAND (op, a) from left to right */
    JN_COMPARE, /* the same */
    JN_AND,     /* args */
    JN_OR,      /* args */
    JN_CHOICE,  /* a if b else c */
    /* parts */
    JN_OPERAND,
    JN_PAIR,
    JN_BRANCH,
    JN_KEYWORD /* name=a */
};

enum jop {
    JOP_ADD,
    JOP_SUB,
    JOP_MUL,
    JOP_DIV,
    JOP_FLOORDIV,
    JOP_MOD,
    JOP_POW,
    JOP_CONCAT,
    JOP_EQ,
    JOP_NE,
    JOP_LT,
    JOP_LE,
    JOP_GT,
    JOP_GE,
    JOP_IN,
    JOP_NOT_IN
};

struct jnode {
    enum jnode_kind kind;
    enum jop op;
    uint32_t line, depth;
    bool negated;
    struct jvalue value; /* LITERAL, TEXT */
    const char *name, *attr;
    const struct jbuiltin *row; /* FILTER, TEST */
    struct jnode *a, *b, *c;
    struct jnode *args, *body, *other;
    struct jnode *next;
};

struct jerror {
    char *text;
    size_t bytes;
    enum status st;
};

/* Keeps the first error. line 0: none to tell. The text stays valid UTF-8 when cut. */
void jerror_set(struct jerror *err, enum status st, uint32_t line, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

enum jtoken_kind {
    JT_TEXT, /* outside of tags */
    JT_BLOCK_BEGIN,
    JT_BLOCK_END,
    JT_OUTPUT_BEGIN,
    JT_OUTPUT_END,
    JT_NAME,
    JT_STRING, /* decoded */
    JT_INT,
    JT_FLOAT,
    JT_OP,
    JT_END
};

struct jtoken {
    enum jtoken_kind kind;
    uint32_t line, bytes;
    const char *text; /* NAME, STRING, TEXT, OP; with a NUL behind it */
    union {
        int64_t integer;
        double real;
    } u;
};

/* All tokens in the arena, the last of kind JT_END; NULL: see err. */
const struct jtoken *jinja_lex(const char *source, size_t bytes, struct arena *arena,
                               struct jerror *err);

/* A parser at work; jinja_expr.c and jinja_parse.c share it. */
struct jparser {
    const struct jtoken *at;
    struct arena *arena;
    struct jerror *err;
    uint32_t depth;    /* of the recursion */
    uint32_t loops;    /* for bodies around */
    struct jnode none; /* what jparse_node answers after memory ran out */
};

enum { JINJA_NO_CONDITION = 1 };

struct jnode *jparse_node(struct jparser *p, enum jnode_kind kind);
/* Notes that `child` stands below `n`: bounds the depth of the tree. */
struct jnode *jparse_adopt(struct jparser *p, struct jnode *n, struct jnode *child);
struct jnode *jparse_expression(struct jparser *p, uint32_t flags);
/* One expression, or a tuple without parentheses. */
struct jnode *jparse_tuple(struct jparser *p, uint32_t flags);
/* name, name.attr (when `members`), or a tuple of them. */
struct jnode *jparse_target(struct jparser *p, bool members);
struct jnode *jparse_filters(struct jparser *p, struct jnode *input, bool first_has_no_bar);
struct jnode *jparse_args(struct jparser *p);
struct jnode *jparse_call(struct jparser *p); /* a call expression, for {% call %} */
bool jparse_failed(const struct jparser *p);
bool jparse_is(const struct jparser *p, enum jtoken_kind kind, const char *text);
bool jparse_take(struct jparser *p, enum jtoken_kind kind, const char *text);
void jparse_expect(struct jparser *p, enum jtoken_kind kind, const char *text);
const char *jparse_name(struct jparser *p);

/* ST_PARSE, ST_UNSUPPORTED, ST_TOO_LARGE, ST_NO_MEMORY in err->st. NULL on error, or for an empty
 * template (err->st ST_OK). */
struct jnode *jinja_parse(const char *source, size_t bytes, struct arena *arena,
                          struct jerror *err);

/* ---- evaluation ---- */

struct jvar {
    const char *name;
    struct jvalue value;
    struct jvar *next;
};

/* Names of one scope. Frames are reused when nothing keeps them (a macro would). */
struct jframe {
    struct jvar *vars;
    struct jdict *inputs; /* of the outermost frame */
    struct jframe *up;
    bool kept;
};

struct jmacro {
    const struct jnode *node; /* MACRO or CALL_BLOCK */
    struct jframe *frame;     /* where it was defined */
};

struct jinterp {
    struct arena arena;
    struct jerror err;
    struct jframe *frame;
    struct jframe *free_frames;
    struct jvar *free_vars;
    struct jvalue *stack; /* [JINJA_STACK_MAX] */
    struct jvalue input;  /* of JN_INPUT */
    uint32_t stack_n;
    uint32_t steps, nest, n_calls;
    uint32_t line; /* of what runs now */
    enum { JFLOW_ON, JFLOW_BREAK, JFLOW_CONTINUE } flow;
    int64_t now_unix_s;
    /* What helpers answer after memory ran out: empty, and may be written to. */
    struct jlist no_list;
    struct jdict no_dict;
    struct jvalue no_item;
    struct buf *out, *trust; /* text, and one byte of trust for each of its bytes */
};

/* Arguments of a call: positional ones on the interpreter's stack, then the named ones. */
struct jcall {
    const struct jvalue *pos, *named;
    uint32_t n_pos;
    const struct jnode *keywords; /* KEYWORD nodes, one for each of `named` */
};

/* One run of a built-in. bound[i] is parameter i, or NULL when it is not given. */
struct jrun {
    struct jinterp *in;
    const struct jcall *call;
    const struct jvalue *self; /* what a filter, test or method works on */
    const struct jvalue *bound[JINJA_PARAMS_MAX];
};

/* A built-in filter, test, method or function.
 * params  names: "x" required, "x=" optional; "*": anything, and `run` reads the call itself
 * run     NULL: known, but not supported */
struct jbuiltin {
    const char *name, *params;
    struct jvalue (*run)(const struct jrun *r);
};

/* jinja_run.c */
void jinja_run(struct jinterp *in, const struct jnode *body);
/* Prepares the interpreter's frames and stack; `inputs` becomes the outermost scope. */
void jinja_begin(struct jinterp *in, struct jdict *inputs);
struct jvalue jinja_macro_call(struct jinterp *in, const struct jmacro *macro,
                               const struct jcall *call, const struct jmacro *caller);
struct jvalue jinja_lookup(struct jinterp *in, const char *name);

/* jinja_eval.c */
struct jvalue jinja_eval(struct jinterp *in, const struct jnode *node);
/* Evaluates arguments onto the stack; jcall_end drops them. */
struct jcall jcall_begin(struct jinterp *in, const struct jnode *args);
void jcall_end(struct jinterp *in, uint32_t stack_n);
struct jvalue jinja_call(struct jinterp *in, const struct jvalue *callee, const struct jcall *call);
/* Runs a filter, test, method or function row: binds, runs, and taints the answer. */
struct jvalue jinja_builtin_run(struct jinterp *in, const struct jbuiltin *row,
                                const struct jcall *call, const struct jvalue *self);
struct jvalue jinja_item(struct jinterp *in, const struct jvalue *object, const struct jvalue *key);
struct jvalue jinja_slice(struct jinterp *in, const struct jvalue *object,
                          const struct jvalue *const bounds[3]);

/* jinja_op.c */
struct jvalue jinja_operate(struct jinterp *in, enum jop op, const struct jvalue *a,
                            const struct jvalue *b);
struct jvalue jinja_negate(struct jinterp *in, const struct jvalue *v);
bool jinja_compare(struct jinterp *in, enum jop op, const struct jvalue *a, const struct jvalue *b);
bool jinja_contains(struct jinterp *in, const struct jvalue *needle, const struct jvalue *hay);

/* jinja_value.c */
void jfail(struct jinterp *in, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* False, with the error noted, once the budget is spent. `bytes` of text work count too. */
bool jstep(struct jinterp *in, size_t bytes);
void *jtake(struct jinterp *in, size_t count, size_t bytes);
const char *jkind_name(const struct jvalue *v);
bool jvalue_truth(const struct jvalue *v);
bool jvalue_equal(struct jinterp *in, const struct jvalue *a, const struct jvalue *b);
/* -1, 0 or 1; fails when the two have no order. */
int jvalue_order(struct jinterp *in, const struct jvalue *a, const struct jvalue *b);
bool jvalue_tainted(const struct jvalue *v);
bool jvalue_is_int(const struct jvalue *v, int64_t *out); /* an int or a bool */
bool jvalue_is_number(const struct jvalue *v, double *out);
struct jvalue jvalue_bool(bool value);
struct jvalue jvalue_int(int64_t value);
struct jvalue jvalue_real(double value);
struct jvalue jvalue_undefined(const char *name);
struct jvalue jvalue_none(void);
struct jvalue jvalue_of_json(struct jinterp *in, const cJSON *json);
/* A list with room for n items, for the caller to fill through *out_items (never NULL). */
struct jvalue jvalue_list(struct jinterp *in, enum jlist_kind kind, uint32_t n,
                          struct jvalue **out_items);
struct jvalue jlist_item(const struct jlist *list, uint32_t i);
/* What `for` goes through: a list, the keys of a dict, the characters of a text. */
struct jlist *jvalue_iterate(struct jinterp *in, const struct jvalue *v);
struct jvalue jvalue_dict(struct jinterp *in, bool is_namespace);
struct jvalue *jdict_find(struct jinterp *in, const struct jdict *dict, const struct jvalue *key);
struct jvalue *jdict_find_text(struct jinterp *in, const struct jdict *dict, const char *name);
void jdict_put(struct jinterp *in, struct jdict *dict, const struct jvalue *key,
               const struct jvalue *value);

/* jinja_text.c */
struct jvalue jvalue_text(const char *literal); /* trusted, borrowed */
struct jvalue jvalue_of_str(struct jstr s);
struct jstr jstr_copy(struct jinterp *in, const char *data, size_t bytes, bool trusted);
struct jstr jstr_concat(struct jinterp *in, const struct jstr *a, const struct jstr *b);
struct jstr jstr_part(const struct jstr *s, uint32_t first, uint32_t bytes);
bool jstr_trusted(const struct jstr *s); /* all of it */
bool jstr_is(const struct jstr *s, const char *text);
/* Decodes the character at `at` (ill-formed bytes count singly, as U+FFFD); its length in bytes. */
uint32_t jstr_char(const struct jstr *s, uint32_t at, uint32_t *out_point);
uint32_t jstr_count(const struct jstr *s); /* characters */
uint32_t jstr_offset(const struct jstr *s, uint32_t from,
                     int64_t chars); /* bytes, at most the end */
bool jchar_is_space(uint32_t point);
/* First place of `needle` at or behind `from`, in bytes; UINT32_MAX: none. */
uint32_t jstr_find(const struct jstr *s, const struct jstr *needle, uint32_t from);
struct jstr jstr_strip(struct jinterp *in, const struct jstr *s, const struct jstr *chars,
                       bool left, bool right);
struct jstr jstr_replace(struct jinterp *in, const struct jstr *s, const struct jstr *from,
                         const struct jstr *to, int64_t count_max);
enum jcase { JCASE_UPPER, JCASE_LOWER, JCASE_TITLE, JCASE_CAPITAL, JCASE_WORDS, JCASE_SWAP };
struct jstr jstr_recase(struct jinterp *in, const struct jstr *s, enum jcase how);

/* A text under construction, piece by piece. */
struct jwriter {
    struct jinterp *in;
    struct jstr text;
};
void jwrite(struct jwriter *w, const struct jstr *piece);                 /* may borrow the bytes */
void jwrite_literal(struct jwriter *w, const char *text, bool trusted);   /* borrows, too */
void jwrite_temporary(struct jwriter *w, const char *text, bool trusted); /* copies */

/* jinja_print.c */
struct jstr jvalue_str(struct jinterp *in, const struct jvalue *v);  /* as {{ v }} prints it */
struct jstr jvalue_repr(struct jinterp *in, const struct jvalue *v); /* as inside a printed list */
struct json_style {
    const char *indent; /* NULL: one line */
    const char *comma, *colon;
    bool ascii, sort_keys;
};
struct jstr jvalue_tojson(struct jinterp *in, const struct jvalue *v, const struct json_style *st);
void jreal_print(char *out, size_t bytes, double real); /* as Python writes a float; 32 bytes */
/* '%s' % args, and '{}'.format(...). */
struct jstr jinja_percent(struct jinterp *in, const struct jstr *format, const struct jvalue *args);
struct jstr jinja_format(struct jinterp *in, const struct jstr *format, const struct jcall *call);

/* Tables: jinja_filter.c, jinja_seq.c, jinja_test.c, jinja_method.c, jinja_function.c. NULL: no
 * such name. */
const struct jbuiltin *jinja_filter_find(const char *name, size_t bytes);
const struct jbuiltin *jinja_test_find(const char *name, size_t bytes);
const struct jbuiltin *jinja_method_find(const struct jvalue *self, const char *name, size_t bytes);
const struct jbuiltin *jinja_function_find(const char *name);
/* Row `name` of a table of n; NULL: none. */
const struct jbuiltin *jinja_row_find(const struct jbuiltin *rows, size_t n, const char *name,
                                      size_t bytes);
const struct jbuiltin *jinja_list_filter_find(const char *name, size_t bytes); /* jinja_seq.c */
/* The items as text, with `by` between them. */
struct jvalue jinja_join(struct jinterp *in, const struct jlist *list, const struct jstr *by);
struct jvalue jinja_lines(struct jinterp *in, const struct jstr *s, bool keep_ends);
struct jvalue jinja_dict_pairs(struct jinterp *in, const struct jdict *dict, enum jlist_kind kind);
/* Stable; by[i] orders items[i]. */
void jinja_sort(struct jinterp *in, struct jvalue *items, struct jvalue *by, uint32_t n,
                bool reverse);
/* item.attribute, where attribute may be "a.b" or a number. */
struct jvalue jinja_path(struct jinterp *in, struct jvalue item, const struct jvalue *attribute);

#endif
