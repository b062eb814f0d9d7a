/* Reading tokenizer.json: the file, its top level, and the model (vocabulary and merges), which is
 * pulled straight into the tables. Two passes: the first records where each section lies, because
 * the vocabulary has to be read before everything that refers to it. */
#include "text/tokenizer_load_int.h"

#include "base/file.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum {
    TREE_DEPTH_MAX = 32,
    ARENA_BYTES_MAX = 256 << 20,
    MERGES_MAX = 4 << 20,
};

enum status tok_load_fail(struct tok_loader *loader, enum status st, const char *format, ...)
{
    if (loader->err_bytes == 0)
        return st;
    int n = snprintf(loader->err, loader->err_bytes, "%s: ", loader->source);
    if (n < 0 || (size_t)n >= loader->err_bytes)
        return st;
    va_list args;
    va_start(args, format);
    vsnprintf(loader->err + n, loader->err_bytes - (size_t)n, format, args);
    va_end(args);
    return st;
}

/* Reports what a scan of the whole file stumbled over. */
static enum status scan_fail(struct tok_loader *loader, const struct json_scan *scan,
                             const char *where, enum status st)
{
    if (st == ST_PARSE)
        return tok_load_fail(loader, st, "%s: %s at offset %zu", where, scan->message, scan->at);
    return tok_load_fail(loader, st, "%s: %s", where, status_text(st));
}

enum status tok_load_tree(struct tok_loader *loader, const struct tok_section *section,
                          const char *name, cJSON **out)
{
    struct json_error error = {0};
    enum status st = json_parse((const char *)loader->json + section->begin,
                                section->end - section->begin, TREE_DEPTH_MAX, out, &error);
    if (st == ST_PARSE)
        return tok_load_fail(loader, st, "%s: %s at offset %zu", name, error.message,
                             section->begin + error.offset);
    return st == ST_OK ? ST_OK : tok_load_fail(loader, st, "%s: %s", name, status_text(st));
}

/* Walks one object and records where the members called names[i] lie; others are skipped. */
static enum status scan_sections(struct tok_loader *loader, struct json_scan *scan,
                                 const char *where, const char *const *names, size_t n_names,
                                 struct tok_section *sections)
{
    size_t n = 0;
    bool more;
    enum status st = json_scan_expect(scan, '{');
    while (st == ST_OK && (st = json_scan_next(scan, '}', &n, &more)) == ST_OK && more) {
        struct json_span key;
        st = json_scan_string(scan, &key);
        if (st != ST_OK)
            break;
        size_t i = 0;
        while (i < n_names &&
               (strlen(names[i]) != key.bytes || memcmp(names[i], key.data, key.bytes) != 0))
            i++;
        st = json_scan_expect(scan, ':');
        uint8_t first = st == ST_OK ? json_scan_peek(scan) : 0;
        size_t begin = scan->at;
        if (st == ST_OK)
            st = json_scan_skip(scan);
        if (st != ST_OK || i == n_names)
            continue;
        if (sections[i].end > 0)
            return tok_load_fail(loader, ST_PARSE, "%s: \"%s\" appears twice, at offset %zu", where,
                                 names[i], begin);
        sections[i] = (struct tok_section){begin, scan->at, first != 'n'};
    }
    return st == ST_OK ? ST_OK : scan_fail(loader, scan, where, st);
}

/* --- model --- */

enum model_field {
    MODEL_TYPE,
    MODEL_DROPOUT,
    MODEL_UNK,
    MODEL_PREFIX,
    MODEL_SUFFIX,
    MODEL_FALLBACK,
    MODEL_IGNORE_MERGES,
    MODEL_VOCAB,
    MODEL_MERGES,
    MODEL_FIELDS,
};

static const char *const model_names[MODEL_FIELDS] = {
    "type",
    "dropout",
    "unk_token",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "byte_fallback",
    "ignore_merges",
    "vocab",
    "merges",
};

/* One entry of the vocabulary, key already read into `key`. */
static enum status vocab_entry(struct tok_loader *loader, struct json_scan *scan,
                               struct json_span key, struct buf *raw)
{
    size_t begin = scan->at, n_raw = 0;
    uint8_t flags = 0;
    raw->len = 0;
    enum status st = buf_reserve(raw, key.bytes + 1);
    if (st != ST_OK)
        return st;
    if (!tok_alphabet_decode(key.data, key.bytes, raw->data, &n_raw)) {
        flags = TOK_ENTRY_TEXT;
        n_raw = key.bytes;
        if (n_raw > 0)
            memcpy(raw->data, key.data, n_raw);
    }
    uint32_t id;
    st = json_scan_expect(scan, ':');
    if (st == ST_OK)
        st = json_scan_u32(scan, TOK_VOCAB_MAX - 1, &id);
    if (st != ST_OK)
        return scan_fail(loader, scan, "model.vocab", st);
    if (n_raw == 0)
        return ST_OK; /* an empty token can never occur */
    st = tok_vocab_put(&loader->tok->vocab, id, raw->data, n_raw, flags);
    if (st == ST_EXISTS)
        return tok_load_fail(loader, ST_PARSE,
                             "model.vocab: token or id %u appears twice, near offset %zu", id,
                             begin);
    return st == ST_OK ? ST_OK : tok_load_fail(loader, st, "model.vocab: %s", status_text(st));
}

static enum status load_vocab(struct tok_loader *loader, const struct tok_section *section)
{
    struct json_scan scan;
    struct buf raw;
    size_t n = 0;
    bool more;
    json_scan_init(&scan, loader->json, section->end);
    scan.at = section->begin;
    buf_init(&raw, TOK_FILE_BYTES_MAX);
    enum status st = json_scan_expect(&scan, '{');
    if (st != ST_OK)
        st = scan_fail(loader, &scan, "model.vocab", st);
    while (st == ST_OK) {
        struct json_span key = {0};
        st = json_scan_next(&scan, '}', &n, &more);
        if (st == ST_OK && !more)
            break;
        if (st == ST_OK)
            st = json_scan_string(&scan, &key);
        if (st != ST_OK) {
            st = scan_fail(loader, &scan, "model.vocab", st);
            break;
        }
        st = vocab_entry(loader, &scan, key, &raw);
    }
    buf_deinit(&raw);
    json_scan_deinit(&scan);
    return st;
}

struct merge {
    uint32_t left, right, id;
};

struct merge_list {
    struct merge *items;
    uint32_t n, cap;
};

static enum status merge_list_add(struct merge_list *list, struct merge merge)
{
    if (list->n == list->cap) {
        uint32_t cap = list->cap > 0 ? list->cap * 2 : 1024;
        if (cap > MERGES_MAX)
            return ST_TOO_LARGE;
        struct merge *items = realloc(list->items, cap * sizeof(*items));
        if (items == NULL)
            return ST_NO_MEMORY;
        list->items = items;
        list->cap = cap;
    }
    list->items[list->n++] = merge;
    return ST_OK;
}

static enum status merge_fail(struct json_scan *scan, const char *message)
{
    scan->message = message;
    return ST_PARSE;
}

/* One merge as it is read. */
struct merge_text {
    struct buf raw; /* bytes of both sides, one after the other */
    size_t split;   /* where the second begins */
    bool usable; /* false: a comment, or a side outside the byte alphabet, which no text leads to */
};

static enum status merge_add_side(struct merge_text *merge, const uint8_t *text, size_t bytes)
{
    size_t got = 0;
    enum status st = buf_reserve(&merge->raw, bytes + 1);
    if (st != ST_OK)
        return st;
    merge->usable &= tok_alphabet_decode(text, bytes, merge->raw.data + merge->raw.len, &got);
    merge->raw.len += got;
    return ST_OK;
}

/* "a b" */
static enum status merge_read_string(struct json_scan *scan, struct merge_text *merge)
{
    static const char comment[] = "#version";
    struct json_span text;
    enum status st = json_scan_string(scan, &text);
    if (st != ST_OK)
        return st;
    if (text.bytes >= sizeof(comment) - 1 && memcmp(text.data, comment, sizeof(comment) - 1) == 0) {
        merge->usable = false;
        return ST_OK;
    }
    const uint8_t *space = memchr(text.data, ' ', text.bytes);
    if (space == NULL)
        return merge_fail(scan, "expected two parts with a space between them");
    size_t n_left = (size_t)(space - text.data);
    st = merge_add_side(merge, text.data, n_left);
    merge->split = merge->raw.len;
    return st == ST_OK ? merge_add_side(merge, space + 1, text.bytes - n_left - 1) : st;
}

/* ["a", "b"] */
static enum status merge_read_pair(struct json_scan *scan, struct merge_text *merge)
{
    size_t n = 0;
    bool more;
    enum status st = json_scan_expect(scan, '[');
    while (st == ST_OK && (st = json_scan_next(scan, ']', &n, &more)) == ST_OK && more) {
        struct json_span text;
        if (n > 2)
            return merge_fail(scan, "expected two strings");
        st = json_scan_string(scan, &text);
        if (st == ST_OK)
            st = merge_add_side(merge, text.data, text.bytes);
        if (n == 1)
            merge->split = merge->raw.len;
    }
    return st == ST_OK && n != 2 ? merge_fail(scan, "expected two strings") : st;
}

static enum status load_merge_list(struct tok_loader *loader, struct json_scan *scan,
                                   struct merge_text *text, struct merge_list *list)
{
    const struct tok_vocab *vocab = &loader->tok->vocab;
    size_t n = 0;
    bool more;
    enum status st = json_scan_expect(scan, '[');
    while (st == ST_OK && (st = json_scan_next(scan, ']', &n, &more)) == ST_OK && more) {
        text->raw.len = text->split = 0;
        text->usable = true;
        st = json_scan_peek(scan) == '[' ? merge_read_pair(scan, text)
                                         : merge_read_string(scan, text);
        if (st != ST_OK || !text->usable)
            continue;
        const uint8_t *raw = text->raw.data;
        struct merge merge = {
            .left = tok_vocab_find(vocab, raw, text->split, false),
            .right = tok_vocab_find(vocab, raw + text->split, text->raw.len - text->split, false),
            .id = tok_vocab_find(vocab, raw, text->raw.len, false),
        };
        if (merge.left == TOK_ID_NONE || merge.right == TOK_ID_NONE || merge.id == TOK_ID_NONE)
            return tok_load_fail(
                loader, ST_PARSE, "model.merges[%zu]: %s is not in model.vocab, before offset %zu",
                n - 1, merge.id == TOK_ID_NONE ? "the result" : "a part", scan->at);
        st = merge_list_add(list, merge);
    }
    return st == ST_OK ? ST_OK : scan_fail(loader, scan, "model.merges", st);
}

static enum status load_merges(struct tok_loader *loader, const struct tok_section *section)
{
    struct tokenizer *tok = loader->tok;
    struct json_scan scan;
    struct merge_text text = {0};
    struct merge_list list = {0};
    json_scan_init(&scan, loader->json, section->end);
    scan.at = section->begin;
    buf_init(&text.raw, TOK_FILE_BYTES_MAX);
    enum status st = load_merge_list(loader, &scan, &text, &list);
    if (st == ST_OK)
        st = bpe_init(&tok->bpe, list.n);
    for (uint32_t i = 0; st == ST_OK && i < list.n; i++) {
        const struct merge *merge = &list.items[i];
        /* Without its merges a special token cannot come out of plain text. */
        if ((tok->vocab.entries[merge->id].flags & TOK_ENTRY_SPECIAL) == 0)
            bpe_merge_put(&tok->bpe, merge->left, merge->right, i, merge->id);
    }
    free(list.items);
    buf_deinit(&text.raw);
    json_scan_deinit(&scan);
    return st;
}

/* Fields that change the algorithm are refused unless they hold their neutral value. */
static enum status check_model_field(struct tok_loader *loader, enum model_field field,
                                     const struct tok_section *section)
{
    struct tokenizer *tok = loader->tok;
    char name[64];
    cJSON *value;
    if (!section->present)
        return ST_OK;
    snprintf(name, sizeof(name), "model.%s", model_names[field]);
    enum status st = tok_load_tree(loader, section, name, &value);
    if (st != ST_OK)
        return st;
    bool fine = true;
    switch (field) {
    case MODEL_TYPE:
        fine = cJSON_IsString(value) && strcmp(value->valuestring, "BPE") == 0;
        break;
    case MODEL_DROPOUT:
        fine = cJSON_IsNumber(value) && value->valuedouble == 0;
        break;
    case MODEL_PREFIX:
    case MODEL_SUFFIX:
        fine = cJSON_IsString(value) && value->valuestring[0] == '\0';
        break;
    case MODEL_FALLBACK:
        fine = cJSON_IsFalse(value);
        break;
    case MODEL_IGNORE_MERGES:
        fine = cJSON_IsBool(value);
        tok->bpe.ignore_merges = cJSON_IsTrue(value);
        break;
    case MODEL_UNK: /* matters only when a byte has no token */
        for (uint32_t byte = 0; byte < 256; byte++)
            fine &= tok->bpe.byte_id[byte] != TOK_ID_NONE;
        break;
    default:
        break;
    }
    cJSON_Delete(value);
    return fine ? ST_OK
                : tok_load_fail(loader, ST_UNSUPPORTED, "%s: this value is not supported", name);
}

static enum status load_model(struct tok_loader *loader, const struct tok_section *sections,
                              const struct tok_section *added)
{
    struct tokenizer *tok = loader->tok;
    enum status st = ST_OK;
    if (!sections[MODEL_VOCAB].present || !sections[MODEL_MERGES].present) {
        const char *missing = !sections[MODEL_VOCAB].present ? "vocab" : "merges";
        return tok_load_fail(loader, ST_UNSUPPORTED, "model.%s is missing: not a BPE model",
                             missing);
    }
    st = check_model_field(loader, MODEL_TYPE, &sections[MODEL_TYPE]);
    if (st == ST_OK)
        st = load_vocab(loader, &sections[MODEL_VOCAB]);
    if (st == ST_OK)
        st = tok_load_added(loader, added);
    if (st == ST_OK)
        st = load_merges(loader, &sections[MODEL_MERGES]);
    if (st != ST_OK)
        return st;
    for (uint32_t i = 0; i < 256; i++) {
        uint8_t byte = (uint8_t)i;
        tok->bpe.byte_id[i] = tok_vocab_find(&tok->vocab, &byte, 1, false);
    }
    for (enum model_field field = MODEL_DROPOUT; st == ST_OK && field < MODEL_VOCAB; field++)
        st = check_model_field(loader, field, &sections[field]);
    return st;
}

/* --- the whole file --- */

enum top_field { TOP_ADDED, TOP_NORMALIZER, TOP_PRE, TOP_POST, TOP_DECODER, TOP_MODEL, TOP_FIELDS };

static const char *const top_names[TOP_FIELDS] = {
    "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder", "model",
};

static enum status load_all(struct tok_loader *loader)
{
    struct tok_section top[TOP_FIELDS] = {0}, model[MODEL_FIELDS] = {0};
    struct json_scan scan;
    size_t valid = utf8_valid_prefix(loader->json, loader->bytes);
    if (valid != loader->bytes)
        return tok_load_fail(loader, ST_PARSE, "not UTF-8 at offset %zu", valid);
    json_scan_init(&scan, loader->json, loader->bytes);
    enum status st = scan_sections(loader, &scan, "top level", top_names, TOP_FIELDS, top);
    if (st == ST_OK && (st = json_scan_end(&scan)) != ST_OK)
        st = scan_fail(loader, &scan, "top level", st);
    if (st == ST_OK && !top[TOP_MODEL].present)
        st = tok_load_fail(loader, ST_PARSE, "\"model\" is missing");
    if (st == ST_OK) {
        scan.at = top[TOP_MODEL].begin;
        st = scan_sections(loader, &scan, "model", model_names, MODEL_FIELDS, model);
    }
    json_scan_deinit(&scan);
    if (st == ST_OK) /* before the added tokens, whose contents it changes */
        st = tok_load_normalizer(loader, &top[TOP_NORMALIZER]);
    if (st == ST_OK)
        st = load_model(loader, model, &top[TOP_ADDED]);
    if (st == ST_OK)
        st = tok_load_pretok(loader, &top[TOP_PRE]);
    if (st == ST_OK)
        st = tok_load_post(loader, &top[TOP_POST]);
    if (st == ST_OK)
        st = tok_load_decoder(loader, &top[TOP_DECODER]);
    if (st == ST_OK)
        st = tok_vocab_seal(&loader->tok->vocab);
    return st;
}

static enum status load_json(const char *source, const uint8_t *json, size_t bytes,
                             struct tokenizer **out_tokenizer, char *err, size_t err_bytes)
{
    struct tok_loader loader = {
        .source = source,
        .json = json,
        .bytes = bytes,
        .err = err,
        .err_bytes = err != NULL ? err_bytes : 0,
    };
    if (bytes > TOK_FILE_BYTES_MAX)
        return tok_load_fail(&loader, ST_TOO_LARGE, "larger than %d bytes", TOK_FILE_BYTES_MAX);
    struct tokenizer *tok = calloc(1, sizeof(*tok));
    if (tok == NULL)
        return tok_load_fail(&loader, ST_NO_MEMORY, "%s", status_text(ST_NO_MEMORY));
    loader.tok = tok;
    arena_init(&tok->arena, ARENA_BYTES_MAX);
    enum status st = tok_vocab_init(&tok->vocab);
    if (st == ST_OK) {
        uint8_t digest[32];
        hash_sha256(json, bytes, digest);
        memcpy(tok->hash.bytes, digest, sizeof(tok->hash.bytes));
        st = load_all(&loader);
    }
    if (st != ST_OK) {
        tokenizer_free(tok);
        return st;
    }
    *out_tokenizer = tok;
    return ST_OK;
}

enum status tokenizer_load_memory(const char *json, size_t bytes, struct tokenizer **out_tokenizer,
                                  char *err, size_t err_bytes)
{
    if (err != NULL && err_bytes > 0)
        err[0] = '\0';
    return load_json("tokenizer.json", (const uint8_t *)json, bytes, out_tokenizer, err, err_bytes);
}

enum status tokenizer_load(const char *path, struct tokenizer **out_tokenizer, char *err,
                           size_t err_bytes)
{
    char full[FILE_PATH_BYTES], *data = NULL;
    struct stat info;
    struct text_error why = {err, err != NULL ? err_bytes : 0};
    if (why.bytes > 0)
        err[0] = '\0';
    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode)) {
        enum status st = file_path_join(path, "tokenizer.json", full, why);
        if (st != ST_OK)
            return st;
        path = full;
    }
    size_t bytes = 0;
    enum status st = file_read(path, TOK_FILE_BYTES_MAX, &data, &bytes, why);
    if (st == ST_OK)
        st = load_json(path, (const uint8_t *)data, bytes, out_tokenizer, err, err_bytes);
    free(data);
    return st;
}
