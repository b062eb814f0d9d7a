/* Inside of the chat template interpreter: tokens, syntax tree, values. A subset of Jinja as
 * Hugging Face uses it (trim_blocks, lstrip_blocks): if, for, set, expressions, filters, tests,
 * methods.
 *
 *   source -> jinja_parse -> struct jnode tree (immutable) -> jinja_render -> text with trust mask
 *
 * Bounds: source, nesting, evaluation depth, steps, memory, output. Trees live in an arena. */
#ifndef TEXT_JINJA_H
#define TEXT_JINJA_H

#include "base/arena.h"
#include "base/buf.h"
#include "text/template.h"

#include <stdbool.h>

#define JINJA_SOURCE_BYTES_MAX (256u << 10)
#define JINJA_DEPTH_MAX        64u
#define JINJA_STEPS_MAX        2000000u
#define JINJA_MEMORY_BYTES_MAX (64u << 20)

/* ---- values ---- */

enum jkind { J_UNDEFINED, J_NONE, J_BOOL, J_INT, J_FLOAT, J_STRING, J_LIST, J_DICT, J_FUNCTION };

/* Text; each byte is trusted (it stands in the template) or not. mask NULL: all as `trusted` says.
 */
struct jstr {
    const char *data;
    const uint8_t *mask; /* [bytes] 0 or 1 */
    uint32_t bytes;
    bool trusted;
};

struct jpair;

struct jvalue {
    enum jkind kind;
    union {
        bool boolean;
        int64_t integer;
        double real;
        struct jstr str;
        struct {
            struct jvalue *items;
            uint32_t n;
            bool is_tuple;
        } list;
        struct jdict *dict;
        const char *function; /* name of a built-in */
    } u;
};

struct jpair {
    struct jvalue key, value;
};

struct jdict {
    struct jpair *pairs; /* in order */
    uint32_t n, cap;
    bool is_namespace;
};

/* ---- syntax ---- */

enum jnode_kind {
    /* statements; `next` chains a body */
    JN_TEXT,
    JN_OUTPUT,
    JN_IF,
    JN_FOR,
    JN_SET,
    JN_SET_BLOCK,
    JN_BREAK,
    JN_CONTINUE,
    /* expressions */
    JN_LITERAL,
    JN_NAME,
    JN_LIST,
    JN_DICT,
    JN_ATTR,
    JN_INDEX,
    JN_SLICE,
    JN_CALL,
    JN_FILTER,
    JN_TEST,
    JN_NOT,
    JN_NEG,
    JN_BINARY,
    JN_AND,
    JN_OR,
    JN_TERNARY,
    JN_KEYWORD,
};

enum jop {
    JOP_ADD,
    JOP_SUB,
    JOP_MUL,
    JOP_DIV,
    JOP_FLOORDIV,
    JOP_MOD,
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
    uint32_t line;
    enum jop op;
    bool negated, is_tuple;     /* TEST: is not; LIST: (a, b) */
    struct jvalue value;        /* LITERAL, TEXT (string) */
    const char *name;           /* NAME, ATTR, FILTER, TEST, KEYWORD, SET and FOR target */
    const char *attr;           /* SET: name.attr = */
    struct jnode *a, *b, *c;    /* operands; FOR: a iterable, b condition; IF: a condition */
    struct jnode *body, *other; /* IF, FOR: else part */
    struct jnode *args; /* CALL, FILTER, TEST, LIST, DICT (key, value alternate), FOR targets */
    struct jnode *next; /* next statement, or next argument */
};

struct jerror {
    char *text;
    size_t bytes;
    enum status st;
};

void jerror_set(struct jerror *err, enum status st, uint32_t line, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* ST_PARSE, ST_UNSUPPORTED, ST_TOO_LARGE, ST_NO_MEMORY in err->st. NULL on error (or an empty tree
 * with err->st ST_OK). */
struct jnode *jinja_parse(const char *source, size_t bytes, struct arena *arena,
                          struct jerror *err);

/* ---- evaluation ---- */

struct jscope {
    const char *name;
    struct jvalue value;
    struct jscope *below;
};

struct jinterp {
    struct arena arena;
    struct jscope *scope;
    struct jerror err;
    uint32_t steps, depth;
    uint32_t flow; /* 0, 1 break, 2 continue */
    int64_t now_unix_s;
    struct buf *out;   /* text */
    struct buf *trust; /* one byte a byte of text */
};

struct jvalue jinja_eval(struct jinterp *in, const struct jnode *node);
void jinja_run(struct jinterp *in, const struct jnode *body);

/* jinja_value.c: helpers that fail into in->err and then answer undefined */
bool jvalue_truth(const struct jvalue *v);
bool jvalue_equal(const struct jvalue *a, const struct jvalue *b);
/* -1, 0, 1; 2: cannot be ordered */
int jvalue_compare(const struct jvalue *a, const struct jvalue *b);
struct jvalue jvalue_text(const char *literal); /* trusted, borrowed */
struct jvalue jvalue_concat(struct jinterp *in, const struct jstr *a, const struct jstr *b);
struct jstr jstr_part(const struct jstr *s, uint32_t first, uint32_t bytes);
struct jstr jvalue_str(struct jinterp *in, const struct jvalue *v); /* as {{ v }} prints it */
struct jvalue jvalue_of_json(struct jinterp *in, const cJSON *json);
struct jvalue jvalue_list(struct jinterp *in, uint32_t n);
struct jvalue *jdict_find(struct jdict *dict, const char *name, uint32_t bytes);
void jdict_put(struct jinterp *in, struct jdict *dict, struct jvalue key, struct jvalue value);
struct jvalue jvalue_dict(struct jinterp *in, bool is_namespace);
struct jstr jvalue_tojson(struct jinterp *in, const struct jvalue *v, int indent);
/* jinja_builtin.c */
struct jvalue jinja_filter(struct jinterp *in, const struct jnode *node, struct jvalue value);
bool jinja_test(struct jinterp *in, const struct jnode *node, const struct jvalue *value);
struct jvalue jinja_method(struct jinterp *in, const struct jnode *call, const struct jvalue *self,
                           const char *name);
struct jvalue jinja_function(struct jinterp *in, const struct jnode *call, const char *name);

#endif
