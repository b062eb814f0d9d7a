/* Functions that templates call: raise_exception, namespace, dict, range, strftime_now. */
#include "text/jinja.h"

#include <string.h>
#include <time.h>

enum { TIME_FORMAT_BYTES_MAX = 128, TIME_TEXT_BYTES_MAX = 512 };

const struct jbuiltin *jinja_row_find(const struct jbuiltin *rows, size_t n, const char *name,
                                      size_t bytes)
{
    for (size_t i = 0; i < n; i++)
        if (strncmp(rows[i].name, name, bytes) == 0 && rows[i].name[bytes] == '\0')
            return &rows[i];
    return NULL;
}

/* The message is the error, word for word. */
static struct jvalue run_raise(const struct jrun *r)
{
    struct jstr s = jvalue_str(r->in, r->bound[0]);
    jerror_set(&r->in->err, ST_INVALID, 0, "%.*s", (int)(s.bytes < 4096 ? s.bytes : 4096), s.data);
    return jvalue_undefined(NULL);
}

static void put_pairs(struct jinterp *in, struct jdict *dict, const struct jvalue *from)
{
    if (from->kind == J_DICT) {
        for (uint32_t i = 0; i < from->u.dict->n && jstep(in, 0); i++)
            jdict_put(in, dict, &from->u.dict->pairs[i].key, &from->u.dict->pairs[i].value);
        return;
    }
    const struct jlist *list = jvalue_iterate(in, from);
    for (uint32_t i = 0; i < list->n && jstep(in, 0); i++) {
        struct jvalue item = jlist_item(list, i);
        const struct jlist *pair = jvalue_iterate(in, &item);
        if (pair->n != 2) {
            jfail(in, "a dict is made of pairs");
            return;
        }
        struct jvalue key = jlist_item(pair, 0), value = jlist_item(pair, 1);
        jdict_put(in, dict, &key, &value);
    }
}

static struct jvalue make_dict(const struct jrun *r, bool is_namespace)
{
    struct jvalue v = jvalue_dict(r->in, is_namespace);
    uint32_t i = 0;
    if (r->call->n_pos > 1)
        jfail(r->in, "a dict is made of one argument and of named ones");
    else if (r->call->n_pos == 1)
        put_pairs(r->in, v.u.dict, &r->call->pos[0]);
    for (const struct jnode *k = r->call->keywords; k != NULL; k = k->next) {
        struct jvalue key = jvalue_text(k->name);
        jdict_put(r->in, v.u.dict, &key, &r->call->named[i++]);
    }
    return v;
}

static struct jvalue run_namespace(const struct jrun *r)
{
    return make_dict(r, true);
}

static struct jvalue run_dict(const struct jrun *r)
{
    return make_dict(r, false);
}

static struct jvalue run_range(const struct jrun *r)
{
    int64_t at[3] = {0, 0, 1};
    struct jvalue *items, v = jvalue_list(r->in, JL_RANGE, 0, &items);
    uint32_t n_pos = r->call->n_pos;
    if (n_pos < 1 || n_pos > 3 || r->call->keywords != NULL)
        jfail(r->in, "range takes 1 to 3 numbers");
    for (uint32_t i = 0; i < n_pos && r->in->err.st == ST_OK; i++)
        if (!jvalue_is_int(&r->call->pos[i], &at[n_pos == 1 ? 1 : i]))
            jfail(r->in, "range takes integers, not %s", jkind_name(&r->call->pos[i]));
    if (at[2] == 0)
        jfail(r->in, "range with step 0");
    if (r->in->err.st != ST_OK || at[2] == 0)
        return v;
    bool up = at[2] > 0;
    uint64_t span = 0, step = up ? (uint64_t)at[2] : -(uint64_t)at[2];
    if (up ? at[0] < at[1] : at[0] > at[1])
        span = up ? (uint64_t)at[1] - (uint64_t)at[0] : (uint64_t)at[0] - (uint64_t)at[1];
    uint64_t n = span / step + (span % step != 0);
    if (n > JINJA_RANGE_MAX) {
        jfail(r->in, "range has over %u numbers", JINJA_RANGE_MAX);
        return v;
    }
    v.u.list->n = (uint32_t)n;
    v.u.list->start = at[0];
    v.u.list->step = n > 1 ? at[2] : 1; /* so that no item overflows */
    return v;
}

/* UTC: servers of one deployment must agree. */
static struct jvalue run_strftime_now(const struct jrun *r)
{
    char format[TIME_FORMAT_BYTES_MAX], text[TIME_TEXT_BYTES_MAX];
    struct tm tm;
    time_t now = (time_t)r->in->now_unix_s;
    const struct jvalue *v = r->bound[0];
    if (v->kind != J_STRING || v->u.str.bytes >= sizeof(format) ||
        memchr(v->u.str.data, '\0', v->u.str.bytes) != NULL || gmtime_r(&now, &tm) == NULL) {
        jfail(r->in, "strftime_now takes a short format");
        return jvalue_undefined(NULL);
    }
    memcpy(format, v->u.str.data, v->u.str.bytes);
    format[v->u.str.bytes] = '\0';
    size_t n = strftime(text, sizeof(text), format, &tm);
    return jvalue_of_str(jstr_copy(r->in, text, n, jstr_trusted(&v->u.str)));
}

static const struct jbuiltin functions[] = {
    {"raise_exception", "message", run_raise},
    {"namespace", "*", run_namespace},
    {"dict", "*", run_dict},
    {"range", "*", run_range},
    {"strftime_now", "format", run_strftime_now},
};

const struct jbuiltin *jinja_function_find(const char *name)
{
    return jinja_row_find(functions, sizeof(functions) / sizeof(*functions), name, strlen(name));
}
