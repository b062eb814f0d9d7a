/* Header of one safetensors file. The text is first validated as strict JSON (base/json.h), which
 * also refuses duplicate names; then a scanner walks the one form that is allowed, so that a large
 * header costs no tree. The scanner may therefore trust the grammar, but no value. */
#include "model/safetensors_int.h"

#include "base/json.h"

#include <stdlib.h>
#include <string.h>

enum { HEADER_DEPTH_MAX = 8, PREFIX_BYTES = 8 };

struct dtype_row {
    const char *name;
    uint32_t bytes;
};
static const struct dtype_row dtypes[SAFETENSORS_DTYPE_COUNT] = {
    [SAFETENSORS_F64] = {"F64", 8},         [SAFETENSORS_F32] = {"F32", 4},
    [SAFETENSORS_F16] = {"F16", 2},         [SAFETENSORS_BF16] = {"BF16", 2},
    [SAFETENSORS_F8_E4M3] = {"F8_E4M3", 1}, [SAFETENSORS_F8_E5M2] = {"F8_E5M2", 1},
    [SAFETENSORS_F8_E8M0] = {"F8_E8M0", 1}, [SAFETENSORS_I64] = {"I64", 8},
    [SAFETENSORS_I32] = {"I32", 4},         [SAFETENSORS_I16] = {"I16", 2},
    [SAFETENSORS_I8] = {"I8", 1},           [SAFETENSORS_U64] = {"U64", 8},
    [SAFETENSORS_U32] = {"U32", 4},         [SAFETENSORS_U16] = {"U16", 2},
    [SAFETENSORS_U8] = {"U8", 1},           [SAFETENSORS_BOOL] = {"BOOL", 1},
};

struct scanner {
    const char *text;
    size_t at, end;
    const char *file;
    struct text_error err;
    struct safetensors_table *table;
    size_t names_used;
    const uint8_t *data; /* of the tensors */
    uint64_t data_bytes;
    uint32_t file_index;
};

const char *safetensors_dtype_name(enum safetensors_dtype dtype)
{
    return (uint32_t)dtype < SAFETENSORS_DTYPE_COUNT ? dtypes[dtype].name : "unknown";
}

uint32_t safetensors_dtype_bytes(enum safetensors_dtype dtype)
{
    return (uint32_t)dtype < SAFETENSORS_DTYPE_COUNT ? dtypes[dtype].bytes : 0;
}

void safetensors_table_deinit(struct safetensors_table *table)
{
    free(table->tensors);
    free(table->names);
    *table = (struct safetensors_table){0};
}

static void skip_space(struct scanner *s)
{
    while (s->at < s->end && strchr(" \t\r\n", s->text[s->at]) != NULL && s->text[s->at] != '\0')
        s->at++;
}

/* Next byte behind white space, 0 at the end. */
static char peek(struct scanner *s)
{
    skip_space(s);
    return s->at < s->end ? s->text[s->at] : '\0';
}

static bool take(struct scanner *s, char wanted)
{
    if (peek(s) != wanted)
        return false;
    s->at++;
    return true;
}

/* A string without escapes: *out borrows the text between the quotes. */
static bool take_string(struct scanner *s, const char **out, size_t *out_bytes)
{
    if (!take(s, '"'))
        return false;
    size_t begin = s->at;
    while (s->at < s->end && s->text[s->at] != '"') {
        if (s->text[s->at] == '\\')
            return false;
        s->at++;
    }
    if (s->at >= s->end)
        return false;
    *out = s->text + begin;
    *out_bytes = s->at - begin;
    s->at++;
    return true;
}

/* Any string, forgotten. */
static bool skip_string(struct scanner *s)
{
    if (!take(s, '"'))
        return false;
    while (s->at < s->end && s->text[s->at] != '"')
        s->at += s->text[s->at] == '\\' ? 2 : 1;
    if (s->at >= s->end)
        return false;
    s->at++;
    return true;
}

/* Digits alone: no sign, fraction or exponent. */
static bool take_u64(struct scanner *s, uint64_t *out)
{
    uint64_t value = 0;
    size_t begin;
    peek(s);
    begin = s->at;
    while (s->at < s->end && s->text[s->at] >= '0' && s->text[s->at] <= '9') {
        if (__builtin_mul_overflow(value, 10u, &value) ||
            __builtin_add_overflow(value, (uint64_t)(s->text[s->at] - '0'), &value))
            return false;
        s->at++;
    }
    *out = value;
    if (s->at == begin)
        return false;
    char next = peek(s);
    return next == ',' || next == ']';
}

/* [u64, ...]; *out_count > max: there are more than that. */
static bool take_list(struct scanner *s, uint64_t *out, uint32_t max, uint32_t *out_count)
{
    uint32_t n = 0;
    if (!take(s, '['))
        return false;
    if (!take(s, ']')) {
        do {
            uint64_t value;
            if (!take_u64(s, &value))
                return false;
            if (n < max)
                out[n] = value;
            n += n <= max;
        } while (take(s, ','));
        if (!take(s, ']'))
            return false;
    }
    *out_count = n;
    return true;
}

static bool is_text(const char *text, size_t bytes, const char *wanted)
{
    return bytes == strlen(wanted) && memcmp(text, wanted, bytes) == 0;
}

static enum status tensor_error(struct scanner *s, enum status st, const char *name,
                                const char *why)
{
    return text_error_set(s->err, st, "%s: tensor \"%.200s\": %s", s->file, name, why);
}

/* Offsets and shape against each other and the file. */
static enum status check_tensor(struct scanner *s, struct safetensors_tensor *t,
                                const uint64_t offsets[2])
{
    if (offsets[0] > offsets[1])
        return tensor_error(s, ST_INVALID, t->name, "data_offsets run backwards");
    if (offsets[1] > s->data_bytes)
        return tensor_error(s, ST_TRUNCATED, t->name, "data lies behind the end of the file");
    uint64_t bytes = dtypes[t->dtype].bytes;
    for (uint32_t i = 0; i < t->n_dims; i++) {
        if (__builtin_mul_overflow(bytes, t->dims[i], &bytes))
            return tensor_error(s, ST_INVALID, t->name, "size of the shape overflows");
    }
    if (bytes != offsets[1] - offsets[0])
        return tensor_error(s, ST_INVALID, t->name, "shape and data_offsets disagree in size");
    t->data = s->data + offsets[0];
    t->bytes = bytes;
    return ST_OK;
}

static enum status read_dtype(struct scanner *s, struct safetensors_tensor *t)
{
    const char *value;
    size_t value_bytes;
    if (!take_string(s, &value, &value_bytes))
        return tensor_error(s, ST_PARSE, t->name, "dtype must be a string");
    uint32_t i = 0;
    while (i < SAFETENSORS_DTYPE_COUNT && !is_text(value, value_bytes, dtypes[i].name))
        i++;
    if (i == SAFETENSORS_DTYPE_COUNT)
        return tensor_error(s, ST_UNSUPPORTED, t->name, "unknown dtype");
    t->dtype = (enum safetensors_dtype)i;
    return ST_OK;
}

static enum status read_shape(struct scanner *s, struct safetensors_tensor *t)
{
    if (!take_list(s, t->dims, SAFETENSORS_DIMS_MAX, &t->n_dims))
        return tensor_error(s, ST_PARSE, t->name, "shape must be a list of whole numbers");
    if (t->n_dims > SAFETENSORS_DIMS_MAX)
        return tensor_error(s, ST_UNSUPPORTED, t->name, "shape has too many dimensions");
    return ST_OK;
}

enum { FIELD_DTYPE = 1, FIELD_SHAPE = 2, FIELD_OFFSETS = 4 };

/* One field of a tensor; io_seen gets its bit. */
static enum status read_field(struct scanner *s, struct safetensors_tensor *t, uint64_t offsets[2],
                              uint32_t *io_seen)
{
    const char *key;
    size_t key_bytes;
    uint32_t n_offsets = 0;
    if (!take_string(s, &key, &key_bytes) || !take(s, ':'))
        return tensor_error(s, ST_PARSE, t->name, "malformed field");
    if (is_text(key, key_bytes, "dtype")) {
        *io_seen |= FIELD_DTYPE;
        return read_dtype(s, t);
    }
    if (is_text(key, key_bytes, "shape")) {
        *io_seen |= FIELD_SHAPE;
        return read_shape(s, t);
    }
    if (!is_text(key, key_bytes, "data_offsets"))
        return tensor_error(s, ST_PARSE, t->name, "unknown field");
    *io_seen |= FIELD_OFFSETS;
    if (!take_list(s, offsets, 2, &n_offsets) || n_offsets != 2)
        return tensor_error(s, ST_PARSE, t->name, "data_offsets must be two whole numbers");
    return ST_OK;
}

/* {"dtype": .., "shape": .., "data_offsets": ..} in any order, nothing else. */
static enum status read_tensor(struct scanner *s, struct safetensors_tensor *t)
{
    uint32_t seen = 0;
    uint64_t offsets[2] = {0};
    if (!take(s, '{'))
        return tensor_error(s, ST_PARSE, t->name, "must be an object");
    while (!take(s, '}')) {
        if (seen != 0 && !take(s, ','))
            return tensor_error(s, ST_PARSE, t->name, "malformed object");
        enum status st = read_field(s, t, offsets, &seen);
        if (st != ST_OK)
            return st;
    }
    if (seen != (FIELD_DTYPE | FIELD_SHAPE | FIELD_OFFSETS))
        return tensor_error(s, ST_PARSE, t->name, "dtype, shape or data_offsets is missing");
    return check_tensor(s, t, offsets);
}

static enum status skip_metadata(struct scanner *s)
{
    bool ok = take(s, '{');
    if (ok && !take(s, '}')) {
        do {
            ok = skip_string(s) && take(s, ':') && skip_string(s);
        } while (ok && take(s, ','));
        ok = ok && take(s, '}');
    }
    if (!ok)
        return text_error_set(s->err, ST_PARSE, "%s: __metadata__ must hold strings", s->file);
    return ST_OK;
}

static enum status add_tensor(struct scanner *s, const char *name, size_t name_bytes)
{
    struct safetensors_table *table = s->table;
    if (table->n_tensors == SAFETENSORS_TENSORS_MAX)
        return text_error_set(s->err, ST_TOO_LARGE, "%s: more than %u tensors", s->file,
                              SAFETENSORS_TENSORS_MAX);
    if (table->n_tensors == table->capacity) {
        uint32_t capacity = table->capacity == 0 ? 64 : 2 * table->capacity;
        void *grown = realloc(table->tensors, (size_t)capacity * sizeof *table->tensors);
        if (grown == NULL)
            return text_error_set(s->err, ST_NO_MEMORY, "%s: out of memory", s->file);
        table->tensors = grown;
        table->capacity = capacity;
    }
    /* The names together are shorter than the header, which is the size of the block. */
    char *copy = table->names + s->names_used;
    memcpy(copy, name, name_bytes);
    copy[name_bytes] = '\0';
    s->names_used += name_bytes + 1;
    struct safetensors_tensor *t = &table->tensors[table->n_tensors];
    *t = (struct safetensors_tensor){.name = copy, .file = s->file_index};
    enum status st = read_tensor(s, t);
    if (st == ST_OK)
        table->n_tensors++;
    return st;
}

static enum status read_all(struct scanner *s)
{
    if (!take(s, '{'))
        return text_error_set(s->err, ST_PARSE, "%s: header must be an object", s->file);
    bool is_first = true;
    while (!take(s, '}')) {
        const char *name;
        size_t name_bytes;
        if (!is_first && !take(s, ','))
            return text_error_set(s->err, ST_PARSE, "%s: malformed header", s->file);
        is_first = false;
        if (!take_string(s, &name, &name_bytes) || !take(s, ':'))
            return text_error_set(s->err, ST_PARSE, "%s: malformed tensor name at byte %zu",
                                  s->file, s->at + PREFIX_BYTES);
        enum status st = is_text(name, name_bytes, "__metadata__")
                             ? skip_metadata(s)
                             : add_tensor(s, name, name_bytes);
        if (st != ST_OK)
            return st;
    }
    return ST_OK;
}

static int compare_data(const void *a, const void *b)
{
    const struct safetensors_tensor *x = a, *y = b;
    if (x->data != y->data)
        return x->data < y->data ? -1 : 1;
    /* An empty tensor sits before the one that starts where it lies. */
    return (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

/* Leaves the tensors sorted by offset. */
static enum status check_cover(struct scanner *s)
{
    struct safetensors_table *table = s->table;
    if (table->n_tensors > 1)
        qsort(table->tensors, table->n_tensors, sizeof *table->tensors, compare_data);
    const uint8_t *reached = s->data;
    for (uint32_t i = 0; i < table->n_tensors; i++) {
        const struct safetensors_tensor *t = &table->tensors[i];
        if (t->data < reached)
            return tensor_error(s, ST_INVALID, t->name, "overlaps another tensor");
        if (t->data > reached)
            return tensor_error(s, ST_INVALID, t->name, "lies behind a hole in the data");
        reached += t->bytes;
    }
    if (reached != s->data + s->data_bytes)
        return text_error_set(s->err, ST_INVALID, "%s: %llu bytes belong to no tensor", s->file,
                              (unsigned long long)(s->data + s->data_bytes - reached));
    return ST_OK;
}

enum status safetensors_header_read(const uint8_t *data, size_t bytes, const char *name,
                                    uint32_t file, struct safetensors_table *out_table,
                                    struct text_error err)
{
    if (bytes < PREFIX_BYTES)
        return text_error_set(err, ST_TRUNCATED, "%s: shorter than its first 8 bytes", name);
    uint64_t header_bytes = 0;
    for (uint32_t i = 0; i < PREFIX_BYTES; i++)
        header_bytes |= (uint64_t)data[i] << (8 * i);
    if (header_bytes > SAFETENSORS_HEADER_BYTES_MAX)
        return text_error_set(err, ST_TOO_LARGE, "%s: header of %llu bytes, more than %u", name,
                              (unsigned long long)header_bytes, SAFETENSORS_HEADER_BYTES_MAX);
    if (header_bytes > bytes - PREFIX_BYTES)
        return text_error_set(err, ST_TRUNCATED, "%s: header of %llu bytes in a file of %zu", name,
                              (unsigned long long)header_bytes, bytes);
    const char *text = (const char *)data + PREFIX_BYTES;
    struct json_error json;
    enum status st = json_validate(text, (size_t)header_bytes, HEADER_DEPTH_MAX, &json);
    if (st != ST_OK)
        return text_error_set(err, st, "%s: header, byte %zu: %s", name, json.offset, json.message);

    struct safetensors_table table = {.names = malloc((size_t)header_bytes + 1)};
    if (table.names == NULL)
        return text_error_set(err, ST_NO_MEMORY, "%s: out of memory", name);
    struct scanner s = {.text = text,
                        .end = (size_t)header_bytes,
                        .file = name,
                        .err = err,
                        .table = &table,
                        .data = data + PREFIX_BYTES + header_bytes,
                        .data_bytes = bytes - PREFIX_BYTES - header_bytes,
                        .file_index = file};
    st = read_all(&s);
    if (st == ST_OK)
        st = check_cover(&s);
    if (st != ST_OK) {
        safetensors_table_deinit(&table);
        return st;
    }
    *out_table = table;
    return ST_OK;
}
