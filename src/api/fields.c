/* The fields of a request body, read by the table fields.def. Any thread. */
#include "api/api_int.h"

#include "base/json.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum kind {
    KIND_NUMBER,
    KIND_INT,
    KIND_SEED,
    KIND_BOOL,
    KIND_STRING,
    KIND_RAW,
    KIND_IGNORED,
    KIND_NOT_NUMBER,
    KIND_NOT_TRUE,
    KIND_NOT_SET,
    KIND_NOT_FILLED,
};

struct row {
    const char *name, *expect;
    enum kind kind;
    uint32_t endpoints; /* bits */
    double min, max, default_;
    size_t offset; /* of the value in struct api_fields */
};

#define OFFSET(name)            offsetof(struct api_fields, name)
#define OFFSET_NUMBER(name)     OFFSET(name)
#define OFFSET_INT(name)        OFFSET(name)
#define OFFSET_SEED(name)       OFFSET(name)
#define OFFSET_BOOL(name)       OFFSET(name)
#define OFFSET_STRING(name)     OFFSET(name)
#define OFFSET_RAW(name)        OFFSET(name)
#define OFFSET_IGNORED(name)    0
#define OFFSET_NOT_NUMBER(name) 0
#define OFFSET_NOT_TRUE(name)   0
#define OFFSET_NOT_SET(name)    0
#define OFFSET_NOT_FILLED(name) 0

enum {
    C = 1 << API_COMPLETIONS,
    H = 1 << API_CHAT,
    T = 1 << API_TOKENIZE,
    D = 1 << API_DETOKENIZE,
};

static const struct row rows[API_FIELD_COUNT] = {
#define FIELD(name_, kind_, endpoints_, min_, max_, default__, expect_)                            \
    {.name = #name_,                                                                               \
     .expect = (expect_),                                                                          \
     .kind = KIND_##kind_,                                                                         \
     .endpoints = (endpoints_),                                                                    \
     .min = (min_),                                                                                \
     .max = (max_),                                                                                \
     .default_ = (default__),                                                                      \
     .offset = OFFSET_##kind_(name_)},
#include "api/fields.def"
};

const char *api_field_name(enum api_field field)
{
    return rows[field].name;
}

/* --- errors --- */

const char *api_type_name(struct json_span value)
{
    switch (value.bytes > 0 ? value.data[0] : 0) {
    case '"':
        return "a string";
    case '{':
        return "an object";
    case '[':
        return "a list";
    case 't':
        return "true";
    case 'f':
        return "false";
    case 'n':
        return "null";
    default:
        return "a number";
    }
}

enum status api_refuse_type(enum api_field field, struct json_span got, struct api_error *err)
{
    const struct row *row = &rows[field];
    bool is_number = row->kind == KIND_NUMBER || row->kind == KIND_NOT_NUMBER;
    api_error_set(err, 400, "invalid_type", row->name, "%s must be %s, got %s", row->name,
                  is_number ? "a number" : row->expect, api_type_name(got));
    return ST_INVALID;
}

enum status api_refuse_value(enum api_field field, struct api_error *err)
{
    api_error_set(err, 400, "invalid_value", rows[field].name, "%s must be %s", rows[field].name,
                  rows[field].expect);
    return ST_INVALID;
}

/* `got` is a number. */
static enum status refuse_number(enum api_field field, struct json_span got, struct api_error *err)
{
    api_error_set(err, 400, "invalid_value", rows[field].name, "%s must be %s, got %.*s",
                  rows[field].name, rows[field].expect, (int)got.bytes, (const char *)got.data);
    return ST_INVALID;
}

enum status api_refuse_missing(enum api_field field, struct api_error *err)
{
    api_error_set(err, 400, "missing_required_parameter", rows[field].name, "%s is required: %s",
                  rows[field].name, rows[field].expect);
    return ST_INVALID;
}

enum status api_refuse_unsupported(enum api_field field, struct api_error *err)
{
    api_error_set(err, 400, "unsupported_value", rows[field].name,
                  "%s is not supported yet; leave it out", rows[field].name);
    return ST_UNSUPPORTED;
}

enum status api_refuse_encode(enum api_field field, enum status st, const struct api_context *ctx,
                              struct api_error *err)
{
    const char *name = rows[field].name;
    if (st == ST_TOO_LARGE) {
        api_error_set(err, 400, "context_length_exceeded", name,
                      "%s is too long: the context of this model takes at most %u prompt tokens",
                      name, api_prompt_tokens_max(ctx));
        return ST_PROMPT_TOO_LONG;
    }
    if (st == ST_INVALID) {
        api_error_set(err, 400, "invalid_value", name, "%s cannot be split into tokens", name);
        return st;
    }
    return api_refuse_status(st, err);
}

enum status api_refuse_status(enum status st, struct api_error *err)
{
    api_error_from_status(st, err);
    return st;
}

/* --- reading validated JSON --- */

struct json_span api_scan_value(struct json_scan *scan)
{
    json_scan_peek(scan);
    size_t begin = scan->at;
    if (json_scan_skip(scan) != ST_OK)
        return (struct json_span){scan->text + begin, 0}; /* no memory for an escaped string */
    return (struct json_span){scan->text + begin, scan->at - begin};
}

bool api_scan_member(struct json_scan *scan, size_t *io_n, struct json_span *out_key)
{
    bool more;
    return json_scan_next(scan, '}', io_n, &more) == ST_OK && more &&
           json_scan_string(scan, out_key) == ST_OK && json_scan_expect(scan, ':') == ST_OK;
}

size_t api_count_values(struct json_span value)
{
    size_t count = 1;
    bool in_string = false;
    for (size_t i = 0; i < value.bytes; i++) {
        uint8_t c = value.data[i];
        if (in_string && c == '\\')
            i++;
        else if (c == '"')
            in_string = !in_string;
        else if (!in_string && (c == ',' || c == '[' || c == '{'))
            count++;
    }
    return count;
}

static bool span_as_double(struct json_span value, double *out)
{
    char text[API_NUMBER_BYTES_MAX + 1];
    uint8_t c = value.bytes > 0 ? value.data[0] : 0;
    if ((c != '-' && (c < '0' || c > '9')) || value.bytes > API_NUMBER_BYTES_MAX)
        return false;
    memcpy(text, value.data, value.bytes);
    text[value.bytes] = '\0';
    *out = strtod(text, NULL);
    return true;
}

bool api_span_as_i64(struct json_span value, int64_t min, int64_t max, int64_t *out)
{
    double number;
    if (!span_as_double(value, &number) || number != floor(number) || !(fabs(number) < 0x1p53) ||
        number < (double)min || number > (double)max)
        return false;
    *out = (int64_t)number;
    return true;
}

/* 64 bits exactly, from the digits: a double would lose the low ones. */
static bool span_as_seed(struct json_span value, uint64_t *out)
{
    char text[API_NUMBER_BYTES_MAX + 1];
    int64_t whole;
    memcpy(text, value.data, value.bytes); /* a number: span_as_double said so */
    text[value.bytes] = '\0';
    if (strpbrk(text, ".eE") != NULL) {
        if (!api_span_as_i64(value, INT64_MIN, INT64_MAX, &whole))
            return false;
        *out = (uint64_t)whole;
        return true;
    }
    errno = 0;
    *out = text[0] == '-' ? (uint64_t)strtoll(text, NULL, 10) : strtoull(text, NULL, 10);
    return errno == 0;
}

/* --- values by kind --- */

static enum status read_string(enum api_field field, struct json_span value, struct arena *arena,
                               const char **out, struct api_error *err)
{
    const struct row *row = &rows[field];
    struct json_scan scan;
    struct json_span text;
    if (value.data[0] != '"')
        return api_refuse_type(field, value, err);
    json_scan_init(&scan, value.data, value.bytes);
    enum status st = json_scan_string(&scan, &text);
    if (st == ST_OK && ((double)text.bytes < row->min || (double)text.bytes > row->max))
        st = api_refuse_value(field, err);
    else if (st != ST_OK || (*out = arena_dup(arena, text.data, text.bytes)) == NULL)
        st = api_refuse_status(ST_NO_MEMORY, err);
    json_scan_deinit(&scan);
    return st;
}

static enum status read_number(enum api_field field, struct json_span value, void *out,
                               struct api_error *err)
{
    const struct row *row = &rows[field];
    double number;
    if (!span_as_double(value, &number))
        return api_refuse_type(field, value, err);
    bool is_whole = row->kind == KIND_INT || row->kind == KIND_SEED;
    if (row->kind != KIND_SEED && (number < row->min || number > row->max))
        return refuse_number(field, value, err);
    if (is_whole && number != floor(number))
        return refuse_number(field, value, err);
    switch (row->kind) {
    case KIND_NUMBER:
        *(double *)out = number;
        return ST_OK;
    case KIND_INT:
        *(int64_t *)out = (int64_t)number;
        return ST_OK;
    case KIND_SEED:
        return span_as_seed(value, out) ? ST_OK : refuse_number(field, value, err);
    default:
        break;
    }
    if (number == row->default_)
        return ST_OK;
    api_error_set(err, 400, "unsupported_value", row->name,
                  "%s is not supported yet: only %g is accepted, got %.*s", row->name,
                  row->default_, (int)value.bytes, (const char *)value.data);
    return ST_UNSUPPORTED;
}

static enum status read_not_filled(enum api_field field, struct json_span value,
                                   struct api_error *err)
{
    struct json_scan scan;
    uint8_t first = value.data[0];
    if (first != '[' && first != '{' && first != '"')
        return api_refuse_type(field, value, err);
    json_scan_init(&scan, value.data + 1, value.bytes - 1);
    uint8_t next = first == '"' ? value.data[1] : json_scan_peek(&scan);
    bool is_empty = next == (first == '[' ? ']' : first == '{' ? '}' : '"');
    return is_empty ? ST_OK : api_refuse_unsupported(field, err);
}

static enum status read_value(enum api_field field, struct json_span value, struct arena *arena,
                              struct api_fields *fields, struct api_error *err)
{
    const struct row *row = &rows[field];
    void *out = (char *)fields + row->offset;
    switch (row->kind) {
    case KIND_NUMBER:
    case KIND_INT:
    case KIND_SEED:
    case KIND_NOT_NUMBER:
        return read_number(field, value, out, err);
    case KIND_BOOL:
        if (value.data[0] != 't' && value.data[0] != 'f')
            return api_refuse_type(field, value, err);
        *(bool *)out = value.data[0] == 't';
        return ST_OK;
    case KIND_STRING:
        return read_string(field, value, arena, out, err);
    case KIND_RAW:
        *(struct json_span *)out = value;
        return ST_OK;
    case KIND_NOT_TRUE:
        return value.data[0] == 'f' ? ST_OK : api_refuse_unsupported(field, err);
    case KIND_NOT_SET:
        return api_refuse_unsupported(field, err);
    case KIND_NOT_FILLED:
        return read_not_filled(field, value, err);
    case KIND_IGNORED:
        return ST_OK;
    }
    return ST_INTERNAL;
}

/* --- the body --- */

static enum api_field field_find(struct json_span key, enum api_endpoint endpoint)
{
    for (uint32_t i = 0; i < API_FIELD_COUNT; i++)
        if ((rows[i].endpoints & 1u << endpoint) != 0 && api_span_is(key, rows[i].name))
            return (enum api_field)i;
    return API_FIELD_COUNT;
}

void api_fields_default(struct api_fields *out_fields)
{
    memset(out_fields, 0, sizeof(*out_fields));
    for (uint32_t i = 0; i < API_FIELD_COUNT; i++) {
        void *value = (char *)out_fields + rows[i].offset;
        if (rows[i].kind == KIND_NUMBER)
            *(double *)value = rows[i].default_;
        else if (rows[i].kind == KIND_INT)
            *(int64_t *)value = (int64_t)rows[i].default_;
        else if (rows[i].kind == KIND_BOOL)
            *(bool *)value = rows[i].default_ > 0;
    }
}

static enum status validate_body(const char *body, size_t bytes, struct api_error *err)
{
    struct json_error json;
    enum status st = json_validate(body, bytes, API_DEPTH_MAX, &json);
    if (st == ST_PARSE) {
        api_error_set(err, 400, "invalid_json", NULL,
                      "body is not valid JSON: %s, at line %u column %u", json.message, json.line,
                      json.column);
        return ST_INVALID;
    }
    return st == ST_OK ? ST_OK : api_refuse_status(st, err);
}

static enum status read_members(enum api_endpoint endpoint, struct json_scan *scan,
                                struct arena *arena, struct api_fields *fields,
                                struct api_error *err)
{
    struct json_span key;
    size_t n = 0;
    while (api_scan_member(scan, &n, &key)) {
        enum api_field field = field_find(key, endpoint);
        struct json_span value = api_scan_value(scan);
        if (value.bytes == 0)
            return api_refuse_status(ST_NO_MEMORY, err);
        if (field == API_FIELD_COUNT || value.data[0] == 'n')
            continue;
        enum status st = read_value(field, value, arena, fields, err);
        if (st != ST_OK)
            return st;
        fields->has[field] = true;
    }
    if (scan->message != NULL || json_scan_end(scan) != ST_OK)
        return api_refuse_status(ST_NO_MEMORY, err); /* of a key with escapes: the JSON is valid */
    return ST_OK;
}

enum status api_fields_parse(enum api_endpoint endpoint, const char *body, size_t bytes,
                             struct arena *arena, struct api_fields *out_fields,
                             struct api_error *out_error)
{
    struct json_scan scan;
    enum status st = validate_body(body, bytes, out_error);
    if (st != ST_OK)
        return st;
    api_fields_default(out_fields);
    json_scan_init(&scan, body, bytes);
    if (json_scan_expect(&scan, '{') != ST_OK) {
        api_error_set(out_error, 400, "invalid_type", NULL, "body must be a JSON object");
        st = ST_INVALID;
    } else {
        st = read_members(endpoint, &scan, arena, out_fields, out_error);
    }
    json_scan_deinit(&scan);
    return st;
}
