/* The configuration of a process: options.def as a struct, and the ways in and out of it.
 * Loaded once at start, then read only and shared by all threads.
 * Precedence: default, then the file, then the environment (DYND_<SECTION>_<KEY>, for example
 * DYND_HTTP_PORT=9000 or DYND_WORKERS_0_THREADS=2), then --set.
 *
 *   struct config config;
 *   struct config_error error;
 *   if (config_load(path, sets, n_sets, &config, &error) != ST_OK ||
 *       config_validate(&config, &error) != ST_OK)
 *       die("%s", error.message); */
#ifndef CONFIG_CONFIG_H
#define CONFIG_CONFIG_H

#include "base/arena.h"
#include "base/buf.h"
#include "base/status.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    CONFIG_WORKERS_MAX = 64,    /* entries, and processes in all */
    CONFIG_INDEX_MAX = 4095,    /* largest CPU or GPU number */
    CONFIG_NAME_BYTES_MAX = 63, /* of a worker's name */
    CONFIG_FILE_BYTES_MAX = 1 << 18
};

/* enum config_<name> of every ENUM in options.def */
#define ENUM(name)                                                                                 \
    enum config_##name                                                                             \
    {
#define ENUM_VALUE(id, text) id,
#define ENUM_END(name)                                                                             \
    }                                                                                              \
    ;
#include "config/options.def"

struct config_strings {
    const char *const *items; /* [count] */
    uint32_t count;
};

#define CONFIG_TYPE_u32 uint32_t
#define CONFIG_TYPE_u64 uint64_t

/* config.http.port, config.workers[i].role, config.n_workers, config.run_dir, ...
 * Strings are never NULL and live in `arena`. Units are in options.def. */
struct config {
#define SECTION(name, help) struct config_##name {
#define SECTION_END(name)                                                                          \
    }                                                                                              \
    name;
#define ITEMS(item, list, max, help) struct config_##item {
#define ITEMS_END(item, list, max)                                                                 \
    }                                                                                              \
    list[max];                                                                                     \
    uint32_t n_##list;
#define OPT(type, section, name, default_, min, max, unit, reload, help) CONFIG_TYPE_##type name;
#define OPT_POW2(section, name, default_, min, max, unit, reload, help)  uint32_t name;
#define OPT_BOOL(section, name, default_, reload, help)                  bool name;
#define OPT_STR(section, name, default_, check, reload, help)            const char *name;
#define OPT_ENUM(section, name, enum_, default_, reload, help)           enum config_##enum_ name;
#define OPT_LIST(section, name, max, check, reload, help)                struct config_strings name;
#define ROOT_STR(name, default_, check, reload, help)                    const char *name;
#include "config/options.def"
    const char *path; /* of the file, "" without one */
    struct arena arena;
};

struct config_error {
    uint32_t line, column; /* from 1; 0: the fault is not at one place of the file */
    char message[512]; /* whole: "a.yaml:3:5: http.prot: unknown key, did you mean http.port?" */
};

/* Reads `path` (NULL: no file), the environment and `overrides` ("a.b=c", as given to --set), and
 * checks each value by itself. model.name is filled in when empty.
 * Errors  ST_IO: the file cannot be read; ST_PARSE, ST_INVALID: its text or a value is wrong;
 *         ST_TOO_LARGE; ST_NO_MEMORY. *out is then empty; *out_error says what and where. */
enum status config_load(const char *path, const char *const *overrides, uint32_t n_overrides,
                        struct config *out, struct config_error *out_error);
/* As config_load with a text in place of the file; `name` stands in messages. */
enum status config_load_text(const char *text, size_t bytes, const char *name,
                             const char *const *overrides, uint32_t n_overrides, struct config *out,
                             struct config_error *out_error);
void config_deinit(struct config *config);

/* Checks the values together, for a process that serves: who computes, with what model.
 * ST_INVALID fills *out_error. A command that only reads addresses need not call it. */
enum status config_validate(const struct config *config, struct config_error *out_error);

/* One worker process; an entry of `workers` with count n stands for n of them. */
struct config_process {
    char name[CONFIG_NAME_BYTES_MAX + 1]; /* unique: name, name-<i>, or <role>-<i> */
    const struct config_worker *worker;
    uint32_t entry; /* index into config.workers */
};
uint32_t config_process_count(const struct config *config);
/* `index` < config_process_count, in the order of the file. */
void config_process_get(const struct config *config, uint32_t index, struct config_process *out);

/* "0-3,8" -> 0 1 2 3 8, as written; "" -> none. out [out_max].
 * ST_PARSE: not a list of numbers and ranges up to CONFIG_INDEX_MAX, or one comes twice;
 * ST_TOO_LARGE: more than out_max. */
enum status config_index_list_parse(const char *text, uint32_t *out, uint32_t out_max,
                                    uint32_t *out_count);

/* Texts of the enums, for example config_role_name(CONFIG_ROLE_PREFILL) = "prefill". */
#define ENUM(name) const char *config_##name##_name(enum config_##name value);
#include "config/options.def"

/* Appends the whole configuration as YAML that loads to the same values. */
enum status config_print_yaml(const struct config *config, struct buf *out);
/* Documents made from the option table: the option part of --help, docs/CONFIG.md, and a JSON
 * Schema (draft 2020-12) for editors. */
enum status config_docs_help(struct buf *out);
enum status config_docs_markdown(struct buf *out);
enum status config_docs_schema(struct buf *out);

#endif
