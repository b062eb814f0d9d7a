#include "model/safetensors.h"

#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"
#include "model/safetensors_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { INDEX_BYTES_MAX = 64 << 20, INDEX_DEPTH_MAX = 8, FILE_NAME_BYTES = 256, SAMPLE_BYTES = 64 };

struct shard {
    struct file_map map; /* empty for an image in memory */
    char name[FILE_NAME_BYTES];
    char *tensor_names; /* block that the tensors' names lie in */
};

struct safetensors {
    struct shard *shards; /* [n_shards] */
    uint32_t n_shards;
    struct safetensors_tensor *tensors; /* [n_tensors] by name */
    uint32_t n_tensors;
};

static int compare_names(const void *a, const void *b)
{
    const struct safetensors_tensor *x = a, *y = b;
    return strcmp(x->name, y->name);
}

static int compare_strings(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

void safetensors_close(struct safetensors *set)
{
    if (set == NULL)
        return;
    for (uint32_t i = 0; i < set->n_shards; i++) {
        file_map_close(&set->shards[i].map);
        free(set->shards[i].tensor_names);
    }
    free(set->shards);
    free(set->tensors);
    free(set);
}

static enum status set_create(uint32_t n_shards, struct safetensors **out_set,
                              struct text_error err)
{
    struct safetensors *set = calloc(1, sizeof *set);
    struct shard *shards = calloc((size_t)n_shards + 1, sizeof *shards);
    if (set == NULL || shards == NULL) {
        free(set);
        free(shards);
        return text_error_set(err, ST_NO_MEMORY, "out of memory");
    }
    set->shards = shards;
    *out_set = set;
    return ST_OK;
}

/* Appends the tensors of one image as the next shard. */
static enum status set_add(struct safetensors *set, const uint8_t *data, size_t bytes,
                           const char *name, struct text_error err)
{
    struct shard *shard = &set->shards[set->n_shards];
    struct safetensors_table table = {0};
    enum status st = safetensors_header_read(data, bytes, name, set->n_shards, &table, err);
    if (st != ST_OK)
        return st;
    uint32_t count = set->n_tensors + table.n_tensors;
    if (count > SAFETENSORS_TENSORS_MAX) {
        safetensors_table_deinit(&table);
        return text_error_set(err, ST_TOO_LARGE, "%s: more than %u tensors in all", name,
                              SAFETENSORS_TENSORS_MAX);
    }
    if (table.n_tensors != 0) {
        void *grown = realloc(set->tensors, (size_t)count * sizeof *set->tensors);
        if (grown == NULL) {
            safetensors_table_deinit(&table);
            return text_error_set(err, ST_NO_MEMORY, "%s: out of memory", name);
        }
        set->tensors = grown;
        memcpy(set->tensors + set->n_tensors, table.tensors,
               (size_t)table.n_tensors * sizeof *set->tensors);
    }
    set->n_tensors = count;
    snprintf(shard->name, sizeof shard->name, "%s", name);
    shard->tensor_names = table.names;
    table.names = NULL;
    set->n_shards++;
    safetensors_table_deinit(&table);
    return ST_OK;
}

/* Sorts by name; a name twice is an error (within a file the header reader found it already). */
static enum status set_finish(struct safetensors *set, struct text_error err)
{
    if (set->n_tensors > 1)
        qsort(set->tensors, set->n_tensors, sizeof *set->tensors, compare_names);
    for (uint32_t i = 1; i < set->n_tensors; i++) {
        const struct safetensors_tensor *t = &set->tensors[i];
        if (strcmp(t[-1].name, t->name) == 0)
            return text_error_set(err, ST_EXISTS, "tensor \"%.200s\" is in %s and in %s", t->name,
                                  set->shards[t[-1].file].name, set->shards[t->file].name);
    }
    return ST_OK;
}

enum status safetensors_open_memory(const void *data, size_t bytes, const char *name,
                                    struct safetensors **out_set, struct text_error err)
{
    struct safetensors *set = NULL;
    enum status st = set_create(1, &set, err);
    if (st != ST_OK)
        return st;
    st = set_add(set, data, bytes, name, err);
    if (st == ST_OK)
        st = set_finish(set, err);
    if (st != ST_OK) {
        safetensors_close(set);
        return st;
    }
    *out_set = set;
    return ST_OK;
}

static enum status set_add_file(struct safetensors *set, const char *dir, const char *name,
                                struct text_error err)
{
    char path[FILE_PATH_BYTES];
    struct file_map map = {0};
    enum status st = file_path_join(dir, name, path, err);
    if (st == ST_OK)
        st = file_map_open(path, &map, err);
    if (st != ST_OK)
        return st;
    st = set_add(set, map.data, map.bytes, name, err);
    if (st != ST_OK) {
        file_map_close(&map);
        return st;
    }
    set->shards[set->n_shards - 1].map = map;
    return ST_OK;
}

/* A plain file name: it must not lead out of the model directory. */
static bool is_plain_name(const char *name)
{
    return name[0] != '\0' && strlen(name) < FILE_NAME_BYTES && strchr(name, '/') == NULL &&
           strstr(name, "..") == NULL;
}

/* Distinct file names of the index, sorted, into malloc'd *out_names (borrowed strings). */
static enum status list_files(const cJSON *weight_map, const char ***out_names, uint32_t *out_count,
                              struct text_error err)
{
    uint32_t n = 0;
    for (const cJSON *item = weight_map->child; item != NULL; item = item->next) {
        if (!cJSON_IsString(item) || !is_plain_name(item->valuestring))
            return text_error_set(
                err, ST_INVALID,
                "model.safetensors.index.json: tensor \"%.200s\": not a plain file "
                "name",
                item->string);
        n++;
    }
    if (n == 0 || n > SAFETENSORS_TENSORS_MAX)
        return text_error_set(err, ST_INVALID,
                              "model.safetensors.index.json: weight_map lists %u tensors", n);
    const char **names = malloc(n * sizeof *names);
    if (names == NULL)
        return text_error_set(err, ST_NO_MEMORY, "out of memory");
    uint32_t i = 0;
    for (const cJSON *item = weight_map->child; item != NULL; item = item->next)
        names[i++] = item->valuestring;
    qsort(names, n, sizeof *names, compare_strings);
    uint32_t distinct = 1;
    for (i = 1; i < n; i++) {
        if (strcmp(names[i], names[distinct - 1]) != 0)
            names[distinct++] = names[i];
    }
    if (distinct > SAFETENSORS_FILES_MAX) {
        free(names);
        return text_error_set(err, ST_TOO_LARGE, "model.safetensors.index.json: more than %u files",
                              SAFETENSORS_FILES_MAX);
    }
    *out_names = names;
    *out_count = distinct;
    return ST_OK;
}

/* Index and files must agree on every tensor, both ways. */
static enum status check_index(const struct safetensors *set, const cJSON *weight_map,
                               struct text_error err)
{
    uint32_t n = 0;
    for (const cJSON *item = weight_map->child; item != NULL; item = item->next, n++) {
        const struct safetensors_tensor *t = safetensors_find(set, item->string);
        if (t == NULL || strcmp(set->shards[t->file].name, item->valuestring) != 0)
            return text_error_set(err, ST_INVALID,
                                  "tensor \"%.200s\" is not in %s, where "
                                  "model.safetensors.index.json says it is",
                                  item->string, item->valuestring);
    }
    if (n != set->n_tensors)
        return text_error_set(err, ST_INVALID,
                              "model.safetensors.index.json lists %u tensors, the files hold %u", n,
                              set->n_tensors);
    return ST_OK;
}

static enum status open_listed(const char *dir, const cJSON *weight_map,
                               struct safetensors **out_set, struct text_error err)
{
    const char **names = NULL;
    uint32_t n_files = 0;
    struct safetensors *set = NULL;
    enum status st = list_files(weight_map, &names, &n_files, err);
    if (st == ST_OK)
        st = set_create(n_files, &set, err);
    for (uint32_t i = 0; st == ST_OK && i < n_files; i++)
        st = set_add_file(set, dir, names[i], err);
    free(names);
    if (st == ST_OK)
        st = set_finish(set, err);
    if (st == ST_OK)
        st = check_index(set, weight_map, err);
    if (st != ST_OK) {
        safetensors_close(set);
        return st;
    }
    *out_set = set;
    return ST_OK;
}

static enum status open_index(const char *dir, struct safetensors **out_set, struct text_error err)
{
    char path[FILE_PATH_BYTES];
    char *text = NULL;
    size_t bytes = 0;
    cJSON *root = NULL;
    struct json_error json;
    enum status st = file_path_join(dir, "model.safetensors.index.json", path, err);
    if (st != ST_OK)
        return st;
    st = file_read(path, INDEX_BYTES_MAX, &text, &bytes, err);
    if (st == ST_NOT_FOUND)
        return text_error_set(
            err, st, "%s: neither model.safetensors nor model.safetensors.index.json is there",
            dir);
    if (st != ST_OK)
        return st;
    st = json_parse(text, bytes, INDEX_DEPTH_MAX, &root, &json);
    free(text);
    if (st != ST_OK)
        return text_error_set(err, st, "%s: line %u, column %u: %s", path, json.line, json.column,
                              json.message);
    const cJSON *weight_map = json_get(root, "weight_map");
    if (!cJSON_IsObject(weight_map))
        st = text_error_set(err, ST_INVALID, "%s: \"weight_map\" must be an object", path);
    else
        st = open_listed(dir, weight_map, out_set, err);
    cJSON_Delete(root);
    return st;
}

enum status safetensors_open_dir(const char *dir, struct safetensors **out_set,
                                 struct text_error err)
{
    struct safetensors *set = NULL;
    enum status st = set_create(1, &set, err);
    if (st != ST_OK)
        return st;
    st = set_add_file(set, dir, "model.safetensors", err);
    if (st == ST_OK)
        st = set_finish(set, err);
    if (st == ST_OK) {
        *out_set = set;
        return ST_OK;
    }
    safetensors_close(set);
    return st == ST_NOT_FOUND ? open_index(dir, out_set, err) : st;
}

uint32_t safetensors_count(const struct safetensors *set)
{
    return set->n_tensors;
}

const struct safetensors_tensor *safetensors_at(const struct safetensors *set, uint32_t i)
{
    return &set->tensors[i];
}

const struct safetensors_tensor *safetensors_find(const struct safetensors *set, const char *name)
{
    const struct safetensors_tensor key = {.name = name};
    if (set->n_tensors == 0)
        return NULL;
    return bsearch(&key, set->tensors, set->n_tensors, sizeof key, compare_names);
}

const char *safetensors_file_name(const struct safetensors *set, uint32_t file)
{
    return file < set->n_shards ? set->shards[file].name : "";
}

/* One tensor's part of the identity: a line of text and bytes from its middle. */
static enum status identity_add(struct buf *buf, const struct safetensors_tensor *t)
{
    enum status st = buf_printf(buf, "%s %s", t->name, safetensors_dtype_name(t->dtype));
    for (uint32_t i = 0; st == ST_OK && i < t->n_dims; i++)
        st = buf_printf(buf, " %llu", (unsigned long long)t->dims[i]);
    uint64_t n = t->bytes < SAMPLE_BYTES ? t->bytes : SAMPLE_BYTES;
    if (st == ST_OK)
        st = buf_printf(buf, "\n");
    if (st == ST_OK && n != 0)
        st = buf_append(buf, t->data + (t->bytes - n) / 2, (size_t)n);
    return st;
}

enum status safetensors_identity(const struct safetensors *set, uint8_t out[32])
{
    struct buf buf;
    buf_init(&buf, (size_t)1 << 30);
    enum status st = ST_OK;
    for (uint32_t i = 0; st == ST_OK && i < set->n_tensors; i++)
        st = identity_add(&buf, &set->tensors[i]);
    if (st == ST_OK)
        hash_sha256(buf.data, buf.len, out);
    buf_deinit(&buf);
    return st;
}
