/* Inside of the config layer: the option table at run time, and the YAML tree. */
#ifndef CONFIG_CONFIG_INT_H
#define CONFIG_CONFIG_INT_H

#include "config/config.h"

enum {
    STRING_BYTES_MAX = 4096,
    KEY_BYTES_MAX = 128, /* full dotted key in messages */
    ARENA_BYTES_MAX = 4 << 20
};

/* --- Option table (options.c) --- */

enum option_type {
    OPTION_U32,
    OPTION_U64,
    OPTION_POW2,
    OPTION_BOOL,
    OPTION_STRING,
    OPTION_ENUM,
    OPTION_LIST
};

enum option_check { CHECK_none, CHECK_name, CHECK_index_list, CHECK_endpoint, CHECK_transport };

enum option_reload { RELOAD_RESTART };

enum section_id {
    SECTION_root,
#define SECTION(name, help)          SECTION_##name,
#define ITEMS(item, list, max, help) SECTION_##item,
#include "config/options.def"
    SECTION_COUNT
};

struct option {
    const char *name;
    size_t offset;                     /* in the section's struct */
    uint64_t default_number, min, max; /* max: of a list, its items */
    const char *default_text;
    const char *const *choices; /* of an enum: [n_choices] */
    const char *unit, *help;
    enum section_id section;
    enum option_type type;
    enum option_check check;
    enum option_reload reload;
    uint32_t n_choices;
};

struct section {
    const char *name, *help;
    size_t offset;     /* in struct config, of the struct or of item 0 */
    size_t item_bytes; /* of a list, else 0 */
    size_t count_offset;
    uint32_t items_max; /* 0: not a list */
};

extern const struct section config_sections[SECTION_COUNT];
extern const struct option config_options[];
extern const uint32_t config_n_options;

/* NULL: none of that name. */
const struct option *option_find(enum section_id section, const char *name, size_t bytes);
/* SECTION_root: none of that name. */
enum section_id section_find(const char *name, size_t bytes);
/* The struct that holds the options of `section`; `index` counts for a list. */
void *section_base(struct config *config, enum section_id section, uint32_t index);
uint32_t *section_item_count(struct config *config, enum section_id section);
/* All options of one struct to their defaults. */
void section_set_defaults(enum section_id section, void *base);
/* Words that `check` allows; *out_count 0 when it is no list of words. */
const char *const *check_choices(enum option_check check, uint32_t *out_count);

/* --- Values (value.c) --- */

/* A scalar as written. */
struct value_text {
    const char *text;
    size_t bytes;
    bool is_quoted; /* in the file; a quoted number is a string */
    bool is_null;   /* nothing, ~ or null */
};

/* Where a value came from, for messages. */
struct origin {
    const char *source; /* file name, "--set" or "environment DYND_..." */
    uint32_t line, column;
};

void error_set(struct config_error *error, const struct origin *at, const char *key,
               const char *format, ...) __attribute__((format(printf, 4, 5)));

/* Checks and stores one scalar into `base`. ST_INVALID fills *error. */
enum status value_set(struct arena *arena, const struct option *option, void *base,
                      const struct value_text *value, const struct origin *at, const char *key,
                      struct config_error *error);
/* Checks one item of a list and stores its copy in items[i]. */
enum status value_set_item(struct arena *arena, const struct option *option, const char **items,
                           uint32_t i, const struct value_text *value, const struct origin *at,
                           const char *key, struct config_error *error);

/* Candidate closest to `word`, or NULL when none is close enough to be what was meant. */
struct suggestion {
    const char *word;
    size_t bytes;
    const char *best;
    uint32_t best_distance;
};
void suggestion_try(struct suggestion *suggestion, const char *candidate);

/* --- YAML (yaml.c) --- */

enum yaml_kind { NODE_SCALAR, NODE_MAP, NODE_SEQUENCE };

/* Children of a map alternate key (a scalar), value. */
struct yaml_node {
    enum yaml_kind kind;
    uint32_t line, column; /* from 1 */
    struct value_text value;
    struct yaml_node *first, *next, *last;
    uint32_t n_children;
};

/* Parses one document into `arena`; *out_root is NULL for an empty one. Refuses anchors, aliases,
 * tags, directives, several documents, keys that are not scalars, and too much depth or size. */
enum status yaml_parse(const char *text, size_t bytes, const char *name, struct arena *arena,
                       struct yaml_node **out_root, struct config_error *error);

#endif
