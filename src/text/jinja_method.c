/* Methods of texts, dicts, lists and loops. What would change its object is not there, as in
 * Jinja's immutable sandbox. */
#include "text/jinja.h"
#include "text/utf8_scan.h"

#include <string.h>
#include <utf8proc.h>

static const struct jstr *self_text(const struct jrun *r)
{
    return &r->self->u.str;
}

/* Parameter `i` as a text; an empty one, with the error noted, when it is none. */
static const struct jstr *text_at(const struct jrun *r, uint32_t i)
{
    static const struct jstr empty = {.data = "", .trusted = true};
    const struct jvalue *v = r->bound[i];
    if (v != NULL && v->kind == J_STRING)
        return &v->u.str;
    jfail(r->in, "a text is needed, not %s", v != NULL ? jkind_name(v) : "nothing");
    return &empty;
}

static int64_t int_at(const struct jrun *r, uint32_t i, int64_t otherwise)
{
    int64_t value = otherwise;
    if (r->bound[i] != NULL && r->bound[i]->kind != J_NONE && !jvalue_is_int(r->bound[i], &value))
        jfail(r->in, "a number is needed, not %s", jkind_name(r->bound[i]));
    return value;
}

static struct jvalue strip(const struct jrun *r, bool left, bool right)
{
    const struct jstr *chars =
        r->bound[0] != NULL && r->bound[0]->kind != J_NONE ? text_at(r, 0) : NULL;
    return jvalue_of_str(jstr_strip(r->in, self_text(r), chars, left, right));
}

static struct jvalue run_strip(const struct jrun *r)
{
    return strip(r, true, true);
}

static struct jvalue run_lstrip(const struct jrun *r)
{
    return strip(r, true, false);
}

static struct jvalue run_rstrip(const struct jrun *r)
{
    return strip(r, false, true);
}

static struct jvalue recase(const struct jrun *r, enum jcase how)
{
    return jvalue_of_str(jstr_recase(r->in, self_text(r), how));
}

static struct jvalue run_upper(const struct jrun *r)
{
    return recase(r, JCASE_UPPER);
}

static struct jvalue run_lower(const struct jrun *r)
{
    return recase(r, JCASE_LOWER);
}

static struct jvalue run_title(const struct jrun *r)
{
    return recase(r, JCASE_TITLE);
}

static struct jvalue run_capitalize(const struct jrun *r)
{
    return recase(r, JCASE_CAPITAL);
}

static struct jvalue run_swapcase(const struct jrun *r)
{
    return recase(r, JCASE_SWAP);
}

/* ---- splitting ---- */

struct pieces {
    struct jinterp *in;
    struct jvalue *items;
    uint32_t n, cap;
};

static void piece_add(struct pieces *p, const struct jstr *s, uint32_t from, uint32_t to)
{
    if (!jstep(p->in, 0))
        return;
    if (p->n == p->cap) {
        uint32_t cap = p->cap > 0 ? 2 * p->cap : 8;
        struct jvalue *items = jtake(p->in, cap, sizeof(*items));
        if (items == NULL)
            return;
        if (p->n > 0)
            memcpy(items, p->items, p->n * sizeof(*items));
        p->items = items;
        p->cap = cap;
    }
    p->items[p->n++] = jvalue_of_str(jstr_part(s, from, to - from));
}

static struct jvalue pieces_list(struct pieces *p, bool reverse)
{
    struct jvalue *items, v = jvalue_list(p->in, JL_LIST, p->n, &items);
    uint32_t n = p->n < v.u.list->n ? p->n : v.u.list->n; /* 0 without memory for the list */
    for (uint32_t i = 0; i < n; i++)
        items[i] = p->items[reverse ? n - 1 - i : i];
    return v;
}

static bool space_at(const struct jstr *s, uint32_t at, uint32_t *out_bytes)
{
    uint32_t point;
    *out_bytes = jstr_char(s, at, &point);
    return jchar_is_space(point);
}

/* Words between white space; the last piece is the rest as it stands. */
static void split_words(struct pieces *p, const struct jstr *s, int64_t count)
{
    uint32_t at = 0, bytes;
    for (; p->in->err.st == ST_OK; count--) {
        while (at < s->bytes && space_at(s, at, &bytes))
            at += bytes;
        if (at >= s->bytes)
            return;
        uint32_t start = at;
        if (count == 0) {
            piece_add(p, s, start, s->bytes);
            return;
        }
        while (at < s->bytes && !space_at(s, at, &bytes))
            at += bytes;
        piece_add(p, s, start, at);
    }
}

static uint32_t skip_back(const struct jstr *s, uint32_t at, bool spaces)
{
    while (at > 0) {
        uint32_t bytes, before = (uint32_t)utf8_prev_start((const uint8_t *)s->data, at);
        if (space_at(s, before, &bytes) != spaces)
            break;
        at = before;
    }
    return at;
}

static void split_words_back(struct pieces *p, const struct jstr *s, int64_t count)
{
    uint32_t at = s->bytes;
    for (; p->in->err.st == ST_OK; count--) {
        at = skip_back(s, at, true);
        if (at == 0)
            return;
        uint32_t start = count == 0 ? 0 : skip_back(s, at, false);
        piece_add(p, s, start, at);
        if (count == 0)
            return;
        at = start;
    }
}

static void split_at(struct pieces *p, const struct jstr *s, const struct jstr *by, int64_t count)
{
    uint32_t at = 0;
    for (; count != 0 && p->in->err.st == ST_OK; count--) {
        uint32_t found = jstr_find(s, by, at);
        if (found == UINT32_MAX)
            break;
        piece_add(p, s, at, found);
        at = found + by->bytes;
    }
    piece_add(p, s, at, s->bytes);
}

/* Last place of `needle` that ends at or before `end`. */
static uint32_t find_back(const struct jstr *s, const struct jstr *needle, uint32_t end)
{
    for (uint32_t at = end; at >= needle->bytes; at--) {
        uint32_t from = at - needle->bytes;
        if (memcmp(s->data + from, needle->data, needle->bytes) == 0)
            return from;
    }
    return UINT32_MAX;
}

static void split_at_back(struct pieces *p, const struct jstr *s, const struct jstr *by,
                          int64_t count)
{
    uint32_t end = s->bytes;
    for (; count != 0 && p->in->err.st == ST_OK; count--) {
        uint32_t found = find_back(s, by, end);
        if (found == UINT32_MAX)
            break;
        piece_add(p, s, found + by->bytes, end);
        end = found;
    }
    piece_add(p, s, 0, end);
}

static struct jvalue split(const struct jrun *r, bool back)
{
    struct pieces p = {.in = r->in};
    int64_t count = int_at(r, 1, -1);
    bool words = r->bound[0] == NULL || r->bound[0]->kind == J_NONE;
    const struct jstr *by = words ? NULL : text_at(r, 0);
    if (by != NULL && by->bytes == 0)
        jfail(r->in, "empty separator");
    if (!jstep(r->in, self_text(r)->bytes * (size_t)(by != NULL && back ? 1 + by->bytes / 8 : 1)))
        return jvalue_undefined(NULL);
    if (words && back)
        split_words_back(&p, self_text(r), count);
    else if (words)
        split_words(&p, self_text(r), count);
    else if (back)
        split_at_back(&p, self_text(r), by, count);
    else
        split_at(&p, self_text(r), by, count);
    return pieces_list(&p, back);
}

static struct jvalue run_split(const struct jrun *r)
{
    return split(r, false);
}

static struct jvalue run_rsplit(const struct jrun *r)
{
    return split(r, true);
}

static bool ends_line(uint32_t c)
{
    return (c >= 0x0a && c <= 0x0d) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 ||
           c == 0x2029;
}

struct jvalue jinja_lines(struct jinterp *in, const struct jstr *s, bool keep_ends)
{
    struct pieces p = {.in = in};
    uint32_t start = 0, point;
    jstep(in, s->bytes);
    for (uint32_t at = 0; at < s->bytes && in->err.st == ST_OK;) {
        uint32_t bytes = jstr_char(s, at, &point), end = at;
        at += bytes;
        if (!ends_line(point))
            continue;
        if (point == '\r' && at < s->bytes && s->data[at] == '\n')
            at++;
        piece_add(&p, s, start, keep_ends ? at : end);
        start = at;
    }
    if (start < s->bytes)
        piece_add(&p, s, start, s->bytes);
    return pieces_list(&p, false);
}

static struct jvalue run_splitlines(const struct jrun *r)
{
    return jinja_lines(r->in, self_text(r), r->bound[0] != NULL && jvalue_truth(r->bound[0]));
}

static struct jvalue partition(const struct jrun *r, bool back)
{
    struct jvalue *items, v = jvalue_list(r->in, JL_TUPLE, 3, &items);
    const struct jstr *s = self_text(r), *by = text_at(r, 0);
    if (by->bytes == 0)
        jfail(r->in, "empty separator");
    if (v.u.list->n < 3 || !jstep(r->in, s->bytes))
        return v;
    uint32_t found = back ? find_back(s, by, s->bytes) : jstr_find(s, by, 0);
    if (found == UINT32_MAX) {
        items[0] = items[1] = items[2] = jvalue_of_str(jstr_part(s, 0, 0));
        items[back ? 2 : 0] = jvalue_of_str(*s);
        return v;
    }
    uint32_t end = found + by->bytes;
    items[0] = jvalue_of_str(jstr_part(s, 0, found));
    items[1] = jvalue_of_str(*by);
    items[2] = jvalue_of_str(jstr_part(s, end, s->bytes - end));
    return v;
}

static struct jvalue run_partition(const struct jrun *r)
{
    return partition(r, false);
}

static struct jvalue run_rpartition(const struct jrun *r)
{
    return partition(r, true);
}

/* ---- searching ---- */

/* The part that s[start:end] is, for methods that take such bounds as parameters 1 and 2. */
static struct jstr part_of(const struct jrun *r, uint32_t *out_chars)
{
    const struct jstr *s = self_text(r);
    *out_chars = 0;
    if (r->bound[1] == NULL && r->bound[2] == NULL)
        return *s;
    int64_t count = jstr_count(s), start = int_at(r, 1, 0), end = int_at(r, 2, INT64_MAX);
    start = start < 0 ? start + count : start;
    end = end < 0 ? end + count : end;
    start = start < 0 ? 0 : start;
    if (end < start || start > count) { /* nothing is in there, not even the empty text */
        *out_chars = UINT32_MAX;
        return jstr_part(s, 0, 0);
    }
    uint32_t from = jstr_offset(s, 0, start);
    *out_chars = (uint32_t)start;
    return jstr_part(s, from, jstr_offset(s, from, end - start) - from);
}

static bool affix(const struct jstr *s, const struct jvalue *v, bool at_end)
{
    const struct jstr *a = &v->u.str;
    return v->kind == J_STRING && a->bytes <= s->bytes &&
           memcmp(s->data + (at_end ? s->bytes - a->bytes : 0), a->data, a->bytes) == 0;
}

static struct jvalue has_affix(const struct jrun *r, bool at_end)
{
    uint32_t chars;
    struct jstr s = part_of(r, &chars);
    const struct jvalue *v = r->bound[0];
    bool is_tuple = v->kind == J_LIST && v->u.list->kind == JL_TUPLE, found = false;
    if (v->kind != J_STRING && !is_tuple)
        jfail(r->in, "a text or a tuple of texts is needed, not %s", jkind_name(v));
    for (uint32_t i = 0; is_tuple && !found && i < v->u.list->n && jstep(r->in, 0); i++)
        found = affix(&s, &v->u.list->items[i], at_end);
    return jvalue_bool(chars != UINT32_MAX && (found || affix(&s, v, at_end)));
}

static struct jvalue run_startswith(const struct jrun *r)
{
    return has_affix(r, false);
}

static struct jvalue run_endswith(const struct jrun *r)
{
    return has_affix(r, true);
}

static struct jvalue find(const struct jrun *r, bool back, bool must)
{
    uint32_t chars;
    struct jstr s = part_of(r, &chars);
    const struct jstr *needle = text_at(r, 0);
    if (!jstep(r->in, s.bytes * (size_t)(back ? 1 + needle->bytes / 8 : 1)))
        return jvalue_int(-1);
    uint32_t at = back ? find_back(&s, needle, s.bytes) : jstr_find(&s, needle, 0);
    if (at == UINT32_MAX || chars == UINT32_MAX) {
        if (must)
            jfail(r->in, "text not found");
        return jvalue_int(-1);
    }
    struct jstr before = jstr_part(&s, 0, at);
    return jvalue_int((int64_t)chars + jstr_count(&before));
}

static struct jvalue run_find(const struct jrun *r)
{
    return find(r, false, false);
}

static struct jvalue run_rfind(const struct jrun *r)
{
    return find(r, true, false);
}

static struct jvalue run_index(const struct jrun *r)
{
    return find(r, false, true);
}

static struct jvalue run_rindex(const struct jrun *r)
{
    return find(r, true, true);
}

static struct jvalue run_count(const struct jrun *r)
{
    uint32_t chars, n = 0, at = 0;
    struct jstr s = part_of(r, &chars);
    const struct jstr *needle = text_at(r, 0);
    if (chars == UINT32_MAX)
        return jvalue_int(0);
    if (needle->bytes == 0)
        return jvalue_int((int64_t)jstr_count(&s) + 1);
    for (jstep(r->in, s.bytes); r->in->err.st == ST_OK; n++) {
        at = jstr_find(&s, needle, at);
        if (at == UINT32_MAX)
            break;
        at += needle->bytes;
    }
    return jvalue_int(n);
}

static struct jvalue run_replace(const struct jrun *r)
{
    const struct jstr *from = text_at(r, 0), *to = text_at(r, 1);
    return jvalue_of_str(jstr_replace(r->in, self_text(r), from, to, int_at(r, 2, -1)));
}

static struct jvalue run_removeprefix(const struct jrun *r)
{
    const struct jstr *s = self_text(r), *a = text_at(r, 0);
    bool has = affix(s, r->bound[0], false);
    return jvalue_of_str(has ? jstr_part(s, a->bytes, s->bytes - a->bytes) : *s);
}

static struct jvalue run_removesuffix(const struct jrun *r)
{
    const struct jstr *s = self_text(r), *a = text_at(r, 0);
    bool has = affix(s, r->bound[0], true);
    return jvalue_of_str(has ? jstr_part(s, 0, s->bytes - a->bytes) : *s);
}

static struct jvalue run_join(const struct jrun *r)
{
    const struct jlist *list = jvalue_iterate(r->in, r->bound[0]);
    for (uint32_t i = 0; i < list->n && jstep(r->in, 0); i++) {
        struct jvalue item = jlist_item(list, i);
        if (item.kind != J_STRING)
            jfail(r->in, "join takes texts, not %s", jkind_name(&item));
    }
    return jinja_join(r->in, list, self_text(r));
}

static struct jvalue run_format(const struct jrun *r)
{
    return jvalue_of_str(jinja_format(r->in, self_text(r), r->call));
}

enum padding { PAD_LEFT, PAD_RIGHT, PAD_ZERO };

/* Filled up to a width. */
static struct jvalue pad(const struct jrun *r, enum padding how)
{
    struct jwriter w = {.in = r->in, .text = {.data = "", .trusted = true}};
    const struct jstr *s = self_text(r);
    struct jstr fill = {.data = how == PAD_ZERO ? "0" : " ", .bytes = 1}, rest = *s;
    int64_t width = int_at(r, 0, 0), n = width - jstr_count(s);
    fill.trusted = !jvalue_tainted(r->bound[0]);
    if (how != PAD_ZERO && r->bound[1] != NULL)
        fill = *text_at(r, 1);
    if (how != PAD_ZERO && jstr_count(&fill) != 1)
        jfail(r->in, "the fill must be one character");
    if (width > JINJA_RANGE_MAX)
        jfail(r->in, "width is over %u", JINJA_RANGE_MAX);
    if (how == PAD_ZERO && s->bytes > 0 && (s->data[0] == '-' || s->data[0] == '+')) {
        struct jstr sign = jstr_part(s, 0, 1);
        jwrite(&w, &sign);
        rest = jstr_part(s, 1, s->bytes - 1);
    }
    if (how == PAD_RIGHT)
        jwrite(&w, &rest);
    for (; n > 0 && r->in->err.st == ST_OK; n--)
        jwrite(&w, &fill);
    if (how != PAD_RIGHT)
        jwrite(&w, &rest);
    return jvalue_of_str(w.text);
}

static struct jvalue run_ljust(const struct jrun *r)
{
    return pad(r, PAD_RIGHT);
}

static struct jvalue run_rjust(const struct jrun *r)
{
    return pad(r, PAD_LEFT);
}

static struct jvalue run_zfill(const struct jrun *r)
{
    return pad(r, PAD_ZERO);
}

/* ---- kinds of characters ---- */

enum class { CLASS_ALPHA = 1, CLASS_DIGIT = 2, CLASS_SPACE = 4, CLASS_UPPER = 8, CLASS_LOWER = 16 };

static uint32_t class_of(uint32_t c)
{
    if (jchar_is_space(c))
        return CLASS_SPACE;
    switch (utf8proc_category((int32_t)c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LT:
        return CLASS_ALPHA | CLASS_UPPER;
    case UTF8PROC_CATEGORY_LL:
        return CLASS_ALPHA | CLASS_LOWER;
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
        return CLASS_ALPHA;
    case UTF8PROC_CATEGORY_ND:
        return CLASS_DIGIT;
    default:
        return 0;
    }
}

/* There is a character, and each is of one of `classes`. */
static struct jvalue all_of(const struct jrun *r, uint32_t classes)
{
    const struct jstr *s = self_text(r);
    uint32_t point;
    bool all = s->bytes > 0 && jstep(r->in, s->bytes);
    for (uint32_t at = 0; all && at < s->bytes;) {
        at += jstr_char(s, at, &point);
        all = (class_of(point) & classes) != 0;
    }
    return jvalue_bool(all);
}

/* There is a letter of `want`, and none of `never`. */
static struct jvalue in_case(const struct jrun *r, uint32_t want, uint32_t never)
{
    const struct jstr *s = self_text(r);
    uint32_t point, seen = 0;
    jstep(r->in, s->bytes);
    for (uint32_t at = 0; at < s->bytes;) {
        at += jstr_char(s, at, &point);
        seen |= class_of(point);
    }
    return jvalue_bool((seen & want) != 0 && (seen & never) == 0);
}

static struct jvalue run_isalpha(const struct jrun *r)
{
    return all_of(r, CLASS_ALPHA);
}

static struct jvalue run_isdigit(const struct jrun *r)
{
    return all_of(r, CLASS_DIGIT);
}

static struct jvalue run_isalnum(const struct jrun *r)
{
    return all_of(r, CLASS_ALPHA | CLASS_DIGIT);
}

static struct jvalue run_isspace(const struct jrun *r)
{
    return all_of(r, CLASS_SPACE);
}

static struct jvalue run_isupper(const struct jrun *r)
{
    return in_case(r, CLASS_UPPER, CLASS_LOWER);
}

static struct jvalue run_islower(const struct jrun *r)
{
    return in_case(r, CLASS_LOWER, CLASS_UPPER);
}

/* ---- dicts, lists, loops ---- */

static struct jvalue run_get(const struct jrun *r)
{
    const struct jvalue *v = jdict_find(r->in, r->self->u.dict, r->bound[0]);
    if (v != NULL)
        return *v;
    return r->bound[1] != NULL ? *r->bound[1] : jvalue_none();
}

static struct jvalue run_items(const struct jrun *r)
{
    return jinja_dict_pairs(r->in, r->self->u.dict, JL_ITEMS);
}

static struct jvalue run_keys(const struct jrun *r)
{
    return jinja_dict_pairs(r->in, r->self->u.dict, JL_KEYS);
}

static struct jvalue run_values(const struct jrun *r)
{
    return jinja_dict_pairs(r->in, r->self->u.dict, JL_VALUES);
}

static struct jvalue run_copy(const struct jrun *r)
{
    return *r->self; /* nothing can change either of the two */
}

static struct jvalue list_search(const struct jrun *r, bool count)
{
    int64_t n = 0;
    const struct jlist *list = r->self->u.list;
    for (uint32_t i = 0; i < list->n && jstep(r->in, 0); i++) {
        struct jvalue item = jlist_item(list, i);
        bool equal = jvalue_equal(r->in, &item, r->bound[0]);
        if (equal && !count)
            return jvalue_int(i);
        n += equal;
    }
    if (!count)
        jfail(r->in, "item is not in the list");
    return jvalue_int(n);
}

static struct jvalue run_list_count(const struct jrun *r)
{
    return list_search(r, true);
}

static struct jvalue run_list_index(const struct jrun *r)
{
    return list_search(r, false);
}

static struct jvalue run_cycle(const struct jrun *r)
{
    if (r->call->n_pos > 0)
        return r->call->pos[r->self->u.loop->index % r->call->n_pos];
    jfail(r->in, "loop.cycle needs values");
    return jvalue_undefined(NULL);
}

static struct jvalue run_changed(const struct jrun *r)
{
    struct jloop *loop = r->self->u.loop;
    struct jvalue *items, now = jvalue_list(r->in, JL_TUPLE, r->call->n_pos, &items);
    if (now.u.list->n > 0)
        memcpy(items, r->call->pos, now.u.list->n * sizeof(*items));
    bool same = loop->has_changed && jvalue_equal(r->in, &loop->changed, &now);
    loop->has_changed = true;
    loop->changed = now;
    return jvalue_bool(!same);
}

static const struct jbuiltin text_methods[] = {
    {"strip", "chars=", run_strip},
    {"lstrip", "chars=", run_lstrip},
    {"rstrip", "chars=", run_rstrip},
    {"split", "sep= maxsplit=", run_split},
    {"rsplit", "sep= maxsplit=", run_rsplit},
    {"splitlines", "keepends=", run_splitlines},
    {"partition", "sep", run_partition},
    {"rpartition", "sep", run_rpartition},
    {"startswith", "prefix start= end=", run_startswith},
    {"endswith", "suffix start= end=", run_endswith},
    {"find", "sub start= end=", run_find},
    {"rfind", "sub start= end=", run_rfind},
    {"index", "sub start= end=", run_index},
    {"rindex", "sub start= end=", run_rindex},
    {"count", "sub start= end=", run_count},
    {"replace", "old new count=", run_replace},
    {"removeprefix", "prefix", run_removeprefix},
    {"removesuffix", "suffix", run_removesuffix},
    {"upper", "", run_upper},
    {"lower", "", run_lower},
    {"casefold", "", run_lower},
    {"title", "", run_title},
    {"capitalize", "", run_capitalize},
    {"swapcase", "", run_swapcase},
    {"join", "iterable", run_join},
    {"format", "*", run_format},
    {"ljust", "width fillchar=", run_ljust},
    {"rjust", "width fillchar=", run_rjust},
    {"zfill", "width", run_zfill},
    {"isalpha", "", run_isalpha},
    {"isdigit", "", run_isdigit},
    {"isdecimal", "", run_isdigit},
    {"isnumeric", "", run_isdigit},
    {"isalnum", "", run_isalnum},
    {"isspace", "", run_isspace},
    {"isupper", "", run_isupper},
    {"islower", "", run_islower},
    {"center", "", NULL},
    {"encode", "", NULL},
    {"expandtabs", "", NULL},
    {"format_map", "", NULL},
    {"isascii", "", NULL},
    {"isidentifier", "", NULL},
    {"isprintable", "", NULL},
    {"istitle", "", NULL},
    {"maketrans", "", NULL},
    {"translate", "", NULL},
};

static const struct jbuiltin dict_methods[] = {
    {"get", "key default=", run_get}, {"items", "", run_items}, {"keys", "", run_keys},
    {"values", "", run_values},       {"copy", "", run_copy},   {"fromkeys", "", NULL},
};

static const struct jbuiltin list_methods[] = {
    {"count", "value", run_list_count},
    {"index", "value", run_list_index},
    {"copy", "", run_copy}, /* the last: tuples have none */
};

static const struct jbuiltin loop_methods[] = {
    {"cycle", "*", run_cycle},
    {"changed", "*", run_changed},
};

#define COUNT(rows) (sizeof(rows) / sizeof(*(rows)))

const struct jbuiltin *jinja_method_find(const struct jvalue *self, const char *name, size_t bytes)
{
    if (self->kind == J_STRING)
        return jinja_row_find(text_methods, COUNT(text_methods), name, bytes);
    if (self->kind == J_DICT && !self->u.dict->is_namespace)
        return jinja_row_find(dict_methods, COUNT(dict_methods), name, bytes);
    if (self->kind == J_LOOP)
        return jinja_row_find(loop_methods, COUNT(loop_methods), name, bytes);
    if (self->kind != J_LIST)
        return NULL;
    if (self->u.list->kind == JL_LIST)
        return jinja_row_find(list_methods, COUNT(list_methods), name, bytes);
    bool counts = self->u.list->kind == JL_TUPLE || self->u.list->kind == JL_RANGE;
    return counts ? jinja_row_find(list_methods, COUNT(list_methods) - 1, name, bytes) : NULL;
}
