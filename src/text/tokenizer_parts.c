/* The sections of tokenizer.json around the model: normalizer, added tokens, pre-tokenizer,
 * post-processor, decoder. What is not known is refused by its name. */
#include "text/tokenizer_load_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NEST_MAX = 4, CONTENT_BYTES_MAX = 4096, WHY_BYTES = 160 };

static const char gpt2_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

static enum status unsupported(struct tok_loader *l, const char *path, const char *what)
{
    return tok_load_fail(l, ST_UNSUPPORTED, "%s: %s is not supported", path, what);
}

static enum status malformed(struct tok_loader *l, const char *path, const char *what)
{
    return tok_load_fail(l, ST_PARSE, "%s: %s", path, what);
}

/* Member `name` of an object as a string; NULL when it is something else or missing. */
static const char *string_of(const cJSON *object, const char *name)
{
    const cJSON *value = cJSON_IsObject(object) ? json_get(object, name) : NULL;
    return value != NULL && cJSON_IsString(value) ? value->valuestring : NULL;
}

/* Value of "type", or "" when there is none. */
static const char *type_of(const cJSON *object)
{
    const char *type = string_of(object, "type");
    return type != NULL ? type : "";
}

static enum status read_bool(struct tok_loader *l, const cJSON *object, const char *name,
                             bool absent, const char *path, bool *out)
{
    const cJSON *value = json_get(object, name);
    *out = value != NULL ? cJSON_IsTrue(value) : absent;
    if (value == NULL || cJSON_IsBool(value))
        return ST_OK;
    return tok_load_fail(l, ST_PARSE, "%s.%s: expected true or false", path, name);
}

/* A list of steps. Most sections allow either one step or {"type": "Sequence", <list>: [...]},
 * nested. */
typedef enum status (*on_step_fn)(struct tok_loader *l, const cJSON *step, const char *path);

static enum status for_each_step(struct tok_loader *l, const cJSON *step, const char *path,
                                 const char *list_name, uint32_t depth, on_step_fn on_step)
{
    if (strcmp(type_of(step), "Sequence") != 0)
        return on_step(l, step, path);
    const cJSON *list = json_get(step, list_name);
    if (!cJSON_IsArray(list))
        return tok_load_fail(l, ST_PARSE, "%s.%s: expected an array", path, list_name);
    if (depth == NEST_MAX)
        return unsupported(l, path, "a Sequence nested this deep");
    uint32_t i = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, list)
    {
        char item_path[160];
        int n = snprintf(item_path, sizeof(item_path), "%s.%s[%u]", path, list_name, i++);
        if (n < 0 || (size_t)n >= sizeof(item_path))
            return unsupported(l, path, "a Sequence nested this deep");
        enum status st = for_each_step(l, item, item_path, list_name, depth + 1, on_step);
        if (st != ST_OK)
            return st;
    }
    return ST_OK;
}

static enum status load_steps(struct tok_loader *l, const struct tok_section *section,
                              const char *name, const char *list_name, on_step_fn on_step)
{
    cJSON *tree;
    if (!section->present)
        return ST_OK;
    enum status st = tok_load_tree(l, section, name, &tree);
    if (st != ST_OK)
        return st;
    st = for_each_step(l, tree, name, list_name, 0, on_step);
    cJSON_Delete(tree);
    return st;
}

/* --- normalizer --- */

static enum status on_normalizer(struct tok_loader *l, const cJSON *step, const char *path)
{
    if (strcmp(type_of(step), "NFC") != 0)
        return unsupported(l, path, "this type (only NFC)");
    if (l->tok->nfc == NULL)
        l->tok->nfc = nfc_create();
    return l->tok->nfc != NULL
               ? ST_OK
               : tok_load_fail(l, ST_NO_MEMORY, "%s: %s", path, status_text(ST_NO_MEMORY));
}

enum status tok_load_normalizer(struct tok_loader *loader, const struct tok_section *section)
{
    return load_steps(loader, section, "normalizer", "normalizers", on_normalizer);
}

/* --- added tokens --- */

struct added_reader {
    struct added_token *raw, *normalized;
    uint32_t n_raw, n_normalized;
};

/* Puts the token into the vocabulary, or finds it there under the id the file gives. */
static enum status added_register(struct tok_loader *l, const char *path, const char *content,
                                  size_t n, uint32_t id, bool special)
{
    struct tok_vocab *vocab = &l->tok->vocab;
    uint8_t raw[CONTENT_BYTES_MAX];
    size_t n_raw;
    const uint8_t *text = (const uint8_t *)content;
    uint8_t flags = (uint8_t)(TOK_ENTRY_ADDED | (special ? TOK_ENTRY_SPECIAL : 0));
    uint32_t found = tok_vocab_find(vocab, text, n, true);
    if (found == TOK_ID_NONE && tok_alphabet_decode(text, n, raw, &n_raw))
        found = tok_vocab_find(vocab, raw, n_raw, false);
    if (found != TOK_ID_NONE) {
        struct tok_entry *entry = &vocab->entries[found];
        if (found != id)
            return tok_load_fail(l, ST_PARSE, "%s.id: %u, but the vocabulary says %u", path, id,
                                 found);
        if ((entry->flags & TOK_ENTRY_ADDED) != 0)
            return malformed(l, path, "this content appears twice");
        entry->flags |= flags;
        return ST_OK;
    }
    enum status st = tok_vocab_put(vocab, id, text, n, flags | TOK_ENTRY_TEXT);
    if (st == ST_EXISTS)
        return tok_load_fail(l, ST_PARSE, "%s.id: %u belongs to another token", path, id);
    return st == ST_OK ? ST_OK : tok_load_fail(l, st, "%s: %s", path, status_text(st));
}

/* Copy of content, normalized if asked, in the tokenizer's arena. */
static enum status added_content(struct tok_loader *l, const char *content, size_t n,
                                 bool normalize, struct added_token *token)
{
    const uint8_t *text = (const uint8_t *)content;
    struct buf buf;
    buf_init(&buf, 4u * CONTENT_BYTES_MAX);
    enum status st = normalize ? nfc_append(l->tok->nfc, text, n, &buf) : buf_append(&buf, text, n);
    if (st == ST_OK) {
        token->content = arena_dup(&l->tok->arena, buf.data, buf.len);
        token->bytes = (uint32_t)buf.len;
        st = token->content != NULL ? ST_OK : ST_NO_MEMORY;
    }
    buf_deinit(&buf);
    return st;
}

static enum status added_read(struct tok_loader *l, const cJSON *item, const char *path,
                              struct added_reader *reader)
{
    struct added_token token = {0};
    bool normalized;
    int64_t id;
    const char *content = string_of(item, "content");
    if (content == NULL)
        return tok_load_fail(l, ST_PARSE, "%s.content: expected a string", path);
    if (!json_as_i64(json_get(item, "id"), 0, TOK_VOCAB_MAX - 1, &id))
        return tok_load_fail(l, ST_PARSE, "%s.id: expected a whole number below %d", path,
                             TOK_VOCAB_MAX);
    token.id = (uint32_t)id;
    enum status st = read_bool(l, item, "special", false, path, &token.special);
    if (st == ST_OK)
        st = read_bool(l, item, "lstrip", false, path, &token.lstrip);
    if (st == ST_OK)
        st = read_bool(l, item, "rstrip", false, path, &token.rstrip);
    if (st == ST_OK)
        st = read_bool(l, item, "single_word", false, path, &token.single_word);
    if (st == ST_OK)
        st = read_bool(l, item, "normalized", !token.special, path, &normalized);
    size_t n = strlen(content);
    if (st != ST_OK || n == 0)
        return st; /* an empty token never matches */
    if (n > CONTENT_BYTES_MAX)
        return tok_load_fail(l, ST_PARSE, "%s.content: over %d bytes", path, CONTENT_BYTES_MAX);
    st = added_register(l, path, content, n, token.id, token.special);
    if (st != ST_OK)
        return st;
    st = added_content(l, content, n, normalized && l->tok->nfc != NULL, &token);
    if (st != ST_OK)
        return tok_load_fail(l, st, "%s: %s", path, status_text(st));
    if (normalized)
        reader->normalized[reader->n_normalized++] = token;
    else
        reader->raw[reader->n_raw++] = token;
    return ST_OK;
}

/* Different contents may be equal in form C: the first of them stays. */
static void drop_equal(struct added_set *set)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < set->n_tokens; i++) {
        const struct added_token *last = n > 0 ? &set->tokens[n - 1] : NULL;
        if (last == NULL || last->bytes != set->tokens[i].bytes ||
            memcmp(last->content, set->tokens[i].content, last->bytes) != 0)
            set->tokens[n++] = set->tokens[i];
    }
    set->n_tokens = n;
}

static enum status added_read_all(struct tok_loader *l, const cJSON *list)
{
    struct tokenizer *tok = l->tok;
    if (!cJSON_IsArray(list))
        return malformed(l, "added_tokens", "expected an array");
    int n = cJSON_GetArraySize(list);
    if (n > TOK_ADDED_MAX)
        return tok_load_fail(l, ST_PARSE, "added_tokens: more than %d", TOK_ADDED_MAX);
    size_t room = (size_t)n + 1;
    struct added_reader reader = {
        .raw = arena_calloc(&tok->arena, room, sizeof(struct added_token)),
        .normalized = arena_calloc(&tok->arena, room, sizeof(struct added_token)),
    };
    if (reader.raw == NULL || reader.normalized == NULL)
        return tok_load_fail(l, ST_NO_MEMORY, "added_tokens: %s", status_text(ST_NO_MEMORY));
    uint32_t i = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, list)
    {
        char path[48];
        snprintf(path, sizeof(path), "added_tokens[%u]", i++);
        enum status st = added_read(l, item, path, &reader);
        if (st != ST_OK)
            return st;
    }
    added_set_init(&tok->raw, reader.raw, reader.n_raw);
    added_set_init(&tok->normalized, reader.normalized, reader.n_normalized);
    drop_equal(&tok->normalized);
    return ST_OK;
}

enum status tok_load_added(struct tok_loader *loader, const struct tok_section *section)
{
    cJSON *tree;
    if (!section->present)
        return ST_OK;
    enum status st = tok_load_tree(loader, section, "added_tokens", &tree);
    if (st != ST_OK)
        return st;
    st = added_read_all(loader, tree);
    cJSON_Delete(tree);
    return st;
}

/* --- pre-tokenizer --- */

static enum status add_stage(struct tok_loader *l, const char *path, struct pretok_stage stage,
                             const char *pattern, bool literal)
{
    struct pretok *pretok = &l->tok->pretok;
    char why[WHY_BYTES];
    if (pretok->n_stages == TOK_STAGES_MAX)
        return unsupported(l, path, "so many steps");
    if (pattern != NULL) {
        enum status st = split_regex_compile((const uint8_t *)pattern, strlen(pattern), literal,
                                             &stage.code, why, sizeof(why));
        if (st != ST_OK)
            return tok_load_fail(l, st, "%s.pattern: %s", path,
                                 st == ST_UNSUPPORTED ? why : status_text(st));
        size_t jit_bytes = 0;
        stage.has_jit =
            pcre2_pattern_info(stage.code, PCRE2_INFO_JITSIZE, &jit_bytes) == 0 && jit_bytes > 0;
    }
    pretok->stages[pretok->n_stages++] = stage;
    return ST_OK;
}

static enum status read_behavior(struct tok_loader *l, const cJSON *step, const char *path,
                                 enum pretok_behavior *out)
{
    static const char *const names[] = {"Isolated", "Removed", "Contiguous", "MergedWithPrevious",
                                        "MergedWithNext"};
    const char *value = string_of(step, "behavior");
    for (size_t i = 0; value != NULL && i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(value, names[i]) == 0) {
            *out = (enum pretok_behavior)i;
            return ST_OK;
        }
    }
    return tok_load_fail(l, ST_UNSUPPORTED, "%s.behavior: not supported", path);
}

static enum status on_split(struct tok_loader *l, const cJSON *step, const char *path)
{
    struct pretok_stage stage = {.kind = PRETOK_SPLIT};
    const cJSON *pattern = json_get(step, "pattern");
    const char *regex = string_of(pattern, "Regex");
    const char *string = string_of(pattern, "String");
    enum status st = read_behavior(l, step, path, &stage.behavior);
    if (st == ST_OK)
        st = read_bool(l, step, "invert", false, path, &stage.invert);
    if (st != ST_OK)
        return st;
    if ((regex == NULL) == (string == NULL))
        return tok_load_fail(l, ST_PARSE, "%s.pattern: expected {\"Regex\"} or {\"String\"}", path);
    return regex != NULL ? add_stage(l, path, stage, regex, false)
                         : add_stage(l, path, stage, string, true);
}

static enum status on_byte_level(struct tok_loader *l, const cJSON *step, const char *path)
{
    bool prefix_space, use_regex;
    enum status st = read_bool(l, step, "add_prefix_space", false, path, &prefix_space);
    if (st == ST_OK)
        st = read_bool(l, step, "use_regex", true, path, &use_regex);
    if (st == ST_OK && prefix_space)
        st = add_stage(l, path, (struct pretok_stage){.kind = PRETOK_PREFIX_SPACE}, NULL, false);
    if (st == ST_OK && use_regex)
        st = add_stage(l, path, (struct pretok_stage){.kind = PRETOK_SPLIT}, gpt2_pattern, false);
    l->tok->pretok.is_byte_level = true;
    return st;
}

static enum status on_pretok(struct tok_loader *l, const cJSON *step, const char *path)
{
    const char *type = type_of(step);
    if (l->tok->pretok.is_byte_level)
        return unsupported(l, path, "a step behind ByteLevel");
    if (strcmp(type, "ByteLevel") == 0)
        return on_byte_level(l, step, path);
    if (strcmp(type, "Split") == 0)
        return on_split(l, step, path);
    if (strcmp(type, "Digits") == 0) {
        bool individual;
        enum status st = read_bool(l, step, "individual_digits", false, path, &individual);
        if (st != ST_OK)
            return st;
        struct pretok_stage stage = {.behavior = individual ? PRETOK_ISOLATED : PRETOK_CONTIGUOUS};
        return add_stage(l, path, stage, "\\p{N}", false);
    }
    return unsupported(l, path, "this type (only ByteLevel, Split, Digits, Sequence)");
}

enum status tok_load_pretok(struct tok_loader *loader, const struct tok_section *section)
{
    struct pretok *pretok = &loader->tok->pretok;
    enum status st = load_steps(loader, section, "pre_tokenizer", "pretokenizers", on_pretok);
    if (st != ST_OK)
        return st;
    if (!pretok->is_byte_level)
        return unsupported(loader, "pre_tokenizer", "a model without ByteLevel");
    pretok->limits = pcre2_match_context_create(NULL);
    if (pretok->limits == NULL)
        return tok_load_fail(loader, ST_NO_MEMORY, "pre_tokenizer: %s", status_text(ST_NO_MEMORY));
    pcre2_set_match_limit(pretok->limits, PRETOK_MATCH_LIMIT);
    pcre2_set_heap_limit(pretok->limits, PRETOK_HEAP_KIB_MAX);
    return ST_OK;
}

/* --- post-processor --- */

static enum status template_add(struct tok_loader *l, const cJSON *ids, const char *path,
                                struct token_template *side)
{
    const cJSON *item;
    if (!cJSON_IsArray(ids))
        return tok_load_fail(l, ST_PARSE, "%s.special_tokens: no ids for a token of \"single\"",
                             path);
    cJSON_ArrayForEach(item, ids)
    {
        int64_t id;
        if (!json_as_i64(item, 0, (int64_t)l->tok->vocab.n_ids - 1, &id))
            return tok_load_fail(l, ST_PARSE, "%s.special_tokens: an id outside the vocabulary",
                                 path);
        if (side->n_ids == TOK_TEMPLATE_IDS_MAX)
            return unsupported(l, path, "a template this long");
        side->ids[side->n_ids++] = (uint32_t)id;
    }
    return ST_OK;
}

/* Splits "single" at the sequence into what comes before and behind it. */
static enum status template_read(struct tok_loader *l, const cJSON *step, const char *path,
                                 struct token_template *before, struct token_template *behind)
{
    const cJSON *single = json_get(step, "single"), *specials = json_get(step, "special_tokens");
    const cJSON *piece;
    bool seen = false;
    if (!cJSON_IsArray(single))
        return tok_load_fail(l, ST_PARSE, "%s.single: expected an array", path);
    cJSON_ArrayForEach(piece, single)
    {
        const cJSON *special = cJSON_IsObject(piece) ? json_get(piece, "SpecialToken") : NULL;
        const cJSON *sequence = cJSON_IsObject(piece) ? json_get(piece, "Sequence") : NULL;
        if (cJSON_IsObject(sequence)) {
            if (seen)
                return unsupported(l, path, "a template with two sequences");
            seen = true;
            continue;
        }
        const char *name = string_of(special, "id");
        if (name == NULL)
            return tok_load_fail(l, ST_PARSE, "%s.single: expected SpecialToken or Sequence", path);
        const cJSON *entry = cJSON_IsObject(specials) ? json_get(specials, name) : NULL;
        enum status st = template_add(l, cJSON_IsObject(entry) ? json_get(entry, "ids") : NULL,
                                      path, seen ? behind : before);
        if (st != ST_OK)
            return st;
    }
    return seen ? ST_OK : tok_load_fail(l, ST_PARSE, "%s.single: no Sequence", path);
}

static enum status on_post(struct tok_loader *l, const cJSON *step, const char *path)
{
    struct tokenizer *tok = l->tok;
    if (strcmp(type_of(step), "ByteLevel") == 0)
        return ST_OK; /* offsets only */
    if (strcmp(type_of(step), "TemplateProcessing") != 0)
        return unsupported(l, path, "this type (only TemplateProcessing, ByteLevel, Sequence)");
    struct token_template before = {0}, behind = {0};
    enum status st = template_read(l, step, path, &before, &behind);
    if (st != ST_OK)
        return st;
    /* A later template of a sequence goes around the earlier ones. */
    if (before.n_ids + tok->prefix.n_ids > TOK_TEMPLATE_IDS_MAX ||
        behind.n_ids + tok->suffix.n_ids > TOK_TEMPLATE_IDS_MAX)
        return unsupported(l, path, "a template this long");
    memcpy(before.ids + before.n_ids, tok->prefix.ids, tok->prefix.n_ids * sizeof(uint32_t));
    before.n_ids += tok->prefix.n_ids;
    tok->prefix = before;
    memcpy(tok->suffix.ids + tok->suffix.n_ids, behind.ids, behind.n_ids * sizeof(uint32_t));
    tok->suffix.n_ids += behind.n_ids;
    return ST_OK;
}

enum status tok_load_post(struct tok_loader *loader, const struct tok_section *section)
{
    return load_steps(loader, section, "post_processor", "processors", on_post);
}

/* --- decoder --- */

static enum status on_decoder(struct tok_loader *l, const cJSON *step, const char *path)
{
    const char *type = type_of(step);
    if (strcmp(type, "ByteLevel") == 0 || strcmp(type, "Fuse") == 0)
        return ST_OK;
    return unsupported(l, path, "this type (only ByteLevel)");
}

enum status tok_load_decoder(struct tok_loader *loader, const struct tok_section *section)
{
    if (!section->present)
        return unsupported(loader, "decoder", "a model without a ByteLevel decoder");
    return load_steps(loader, section, "decoder", "decoders", on_decoder);
}
