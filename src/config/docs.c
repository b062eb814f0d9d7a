/* Documents made from the option table. */
#include "config/config_int.h"

#include "base/json.h"

#include <stdio.h>
#include <string.h>

enum { HELP_COLUMNS = 92, HELP_INDENT = 6 };

struct text {
    char text[192];
};

/* First error wins, so that a document can be written without a test after every line. */
struct writer {
    struct buf *out;
    enum status st;
};

#define WRITE(writer, ...)                                                                         \
    do {                                                                                           \
        if ((writer)->st == ST_OK)                                                                 \
            (writer)->st = buf_printf((writer)->out, __VA_ARGS__);                                 \
    } while (0)

static void write_json(struct writer *w, const char *text)
{
    if (w->st == ST_OK)
        w->st = json_append_string(w->out, text, strlen(text));
}

static struct text option_key(const struct option *option)
{
    struct text key;
    const struct section *row = &config_sections[option->section];
    const char *item = row->items_max > 0 ? "N." : "";
    const char *dot = option->section != SECTION_root ? "." : "";
    snprintf(key.text, sizeof(key.text), "%s%s%s%s", row->name, dot, item, option->name);
    return key;
}

/* As it would be written in the file. */
static struct text option_default(const struct option *option)
{
    struct text value;
    switch (option->type) {
    case OPTION_BOOL:
        snprintf(value.text, sizeof(value.text), "%s", option->default_number ? "true" : "false");
        break;
    case OPTION_ENUM:
        snprintf(value.text, sizeof(value.text), "%s", option->choices[option->default_number]);
        break;
    case OPTION_STRING:
        snprintf(value.text, sizeof(value.text), "\"%s\"", option->default_text);
        break;
    case OPTION_LIST:
        snprintf(value.text, sizeof(value.text), "[]");
        break;
    default:
        snprintf(value.text, sizeof(value.text), "%llu",
                 (unsigned long long)option->default_number);
    }
    return value;
}

static struct text words_join(const char *const *words, uint32_t n)
{
    struct text text = {""};
    size_t len = 0;
    for (uint32_t i = 0; i < n && len < sizeof(text.text); i++)
        len += (size_t)snprintf(text.text + len, sizeof(text.text) - len, "%s%s",
                                i == 0 ? "" : " or ", words[i]);
    return text;
}

/* What may be written, for people. */
static struct text option_range(const struct option *option)
{
    struct text range = {""};
    unsigned long long min = option->min, max = option->max;
    uint32_t n_words;
    const char *const *words = check_choices(option->check, &n_words);
    switch (option->type) {
    case OPTION_U32:
    case OPTION_U64:
    case OPTION_POW2:
        snprintf(range.text, sizeof(range.text), "%s%llu to %llu%s%s",
                 option->type == OPTION_POW2 ? "power of two, " : "", min, max,
                 *option->unit != '\0' ? " " : "", option->unit);
        break;
    case OPTION_BOOL:
        snprintf(range.text, sizeof(range.text), "true or false");
        break;
    case OPTION_STRING:
        snprintf(range.text, sizeof(range.text), "string");
        break;
    case OPTION_ENUM:
        return words_join(option->choices, option->n_choices);
    case OPTION_LIST:
        snprintf(range.text, sizeof(range.text), "list of up to %llu%s%.140s", max,
                 n_words > 0 ? ": " : " strings",
                 n_words > 0 ? words_join(words, n_words).text : "");
        break;
    }
    return range;
}

/* --- --help --- */

/* Words of `text`, broken at HELP_COLUMNS. */
static void write_wrapped(struct writer *w, const char *text)
{
    size_t column = 0;
    while (*text != '\0') {
        size_t n = strcspn(text, " ");
        bool is_break = column == 0 || column + 1 + n > HELP_COLUMNS;
        if (is_break)
            WRITE(w, "%s%*s", column == 0 ? "" : "\n", HELP_INDENT, "");
        else
            WRITE(w, " ");
        WRITE(w, "%.*s", (int)n, text);
        column = is_break ? HELP_INDENT + n : column + 1 + n;
        text += n;
        text += strspn(text, " ");
    }
    WRITE(w, "\n");
}

enum status config_docs_help(struct buf *out)
{
    struct writer w = {.out = out};
    WRITE(&w, "Options (in the file, as --set key=value, or in the environment as "
              "DYND_<SECTION>_<KEY>):\n");
    for (uint32_t i = 0; i < config_n_options; i++) {
        const struct option *option = &config_options[i];
        WRITE(&w, "  %s=%s  (%s)\n", option_key(option).text, option_default(option).text,
              option_range(option).text);
        write_wrapped(&w, option->help);
    }
    return w.st;
}

/* --- docs/CONFIG.md --- */

static const char markdown_head[] =
    "# Configuration\n\n"
    "Generated from src/config/options.def; `dynd check --config FILE` prints what a file "
    "means.\n\n"
    "A configuration is a YAML file. It is read strictly: an unknown key, a key given twice, a "
    "value "
    "of\nthe wrong type or out of range is refused with file, line and column. Anchors, aliases, "
    "tags "
    "and\nseveral documents in one file are not supported. docs/config.schema.json is the same "
    "table "
    "as a JSON\nSchema, for editors.\n\n"
    "Each option can also be given in the environment or on the command line. The later wins: "
    "default,\nfile, environment, `--set`.\n\n"
    "| where | `http.port` | an element of a list of sections | a list of words |\n"
    "|---|---|---|---|\n"
    "| file | `http:` and, indented, `port: 9000` | `workers:` and `- role: decode` | "
    "`require: [ucx]` |\n"
    "| environment | `DYND_HTTP_PORT=9000` | `DYND_WORKERS_0_ROLE=decode` | "
    "`DYND_KV_TRANSFER_REQUIRE=ucx` |\n"
    "| command line | `--set http.port=9000` | `--set workers.0.role=decode` | "
    "`--set kv_transfer.require=ucx` |\n\n"
    "An element number one past the end adds an element. Sizes in bytes may end in KiB, MiB, GiB "
    "or "
    "TiB.\nOther variables that begin with `DYND_` are ignored, because Kubernetes sets some for a "
    "Service of that\nname; set `enableServiceLinks: false` if one of them hits an option.\n"
    "All options are read when a process starts.\n";

static void markdown_section(struct writer *w, enum section_id section)
{
    const struct section *row = &config_sections[section];
    if (section == SECTION_root)
        WRITE(w, "\n## Top level\n\n");
    else if (row->items_max > 0)
        WRITE(w, "\n## %s\n\n%s A list of up to %u elements.\n\n", row->name, row->help,
              row->items_max);
    else
        WRITE(w, "\n## %s\n\n%s\n\n", row->name, row->help);
    WRITE(w, "| key | values | default | meaning |\n|---|---|---|---|\n");
    for (uint32_t i = 0; i < config_n_options; i++) {
        const struct option *option = &config_options[i];
        if (option->section == section)
            WRITE(w, "| `%s` | %s | `%s` | %s |\n", option->name, option_range(option).text,
                  option_default(option).text, option->help);
    }
}

enum status config_docs_markdown(struct buf *out)
{
    struct writer w = {.out = out};
    WRITE(&w, "%s", markdown_head);
    for (int id = 0; id < SECTION_COUNT; id++)
        markdown_section(&w, (enum section_id)id);
    return w.st;
}

/* --- JSON Schema --- */

static void schema_words(struct writer *w, const char *const *words, uint32_t n)
{
    WRITE(w, "\"enum\": [");
    for (uint32_t i = 0; i < n; i++) {
        WRITE(w, "%s", i == 0 ? "" : ", ");
        write_json(w, words[i]);
    }
    WRITE(w, "]");
}

static void schema_number(struct writer *w, const struct option *option)
{
    unsigned long long min = option->min, max = option->max;
    if (option->type == OPTION_POW2) {
        WRITE(w, "\"enum\": [");
        for (uint64_t value = option->min; value <= option->max; value *= 2)
            WRITE(w, "%s%llu", value == option->min ? "" : ", ", (unsigned long long)value);
        WRITE(w, "]");
    } else if (strcmp(option->unit, "bytes") == 0) {
        WRITE(w,
              "\"anyOf\": [{\"type\": \"integer\", \"minimum\": %llu, \"maximum\": %llu}, "
              "{\"type\": \"string\", \"pattern\": \"^[0-9]+(KiB|MiB|GiB|TiB)$\"}]",
              min, max);
    } else {
        WRITE(w, "\"type\": \"integer\", \"minimum\": %llu, \"maximum\": %llu", min, max);
    }
}

static void schema_list(struct writer *w, const struct option *option)
{
    uint32_t n_words;
    const char *const *words = check_choices(option->check, &n_words);
    WRITE(w, "\"type\": \"array\", \"maxItems\": %llu, \"items\": {",
          (unsigned long long)option->max);
    if (n_words > 0)
        schema_words(w, words, n_words);
    else
        WRITE(w, "\"type\": \"string\", \"minLength\": 1");
    WRITE(w, "}");
}

static void schema_option(struct writer *w, const struct option *option, const char *indent)
{
    WRITE(w, "%s\"%s\": {", indent, option->name);
    switch (option->type) {
    case OPTION_U32:
    case OPTION_U64:
    case OPTION_POW2:
        schema_number(w, option);
        break;
    case OPTION_BOOL:
        WRITE(w, "\"type\": \"boolean\"");
        break;
    case OPTION_STRING: /* cpus: 0 is as good as cpus: "0" */
        WRITE(w, "\"type\": %s",
              option->check == CHECK_index_list ? "[\"string\", \"integer\"]" : "\"string\"");
        break;
    case OPTION_ENUM:
        schema_words(w, option->choices, option->n_choices);
        break;
    case OPTION_LIST:
        schema_list(w, option);
        break;
    }
    WRITE(w, ", \"default\": ");
    if (option->type == OPTION_ENUM)
        write_json(w, option->choices[option->default_number]);
    else
        WRITE(w, "%s", option_default(option).text);
    WRITE(w, ", \"description\": ");
    write_json(w, option->help);
    WRITE(w, "}");
}

static void schema_options(struct writer *w, enum section_id section, const char *indent)
{
    const char *comma = "";
    for (uint32_t i = 0; i < config_n_options; i++) {
        if (config_options[i].section != section)
            continue;
        WRITE(w, "%s\n", comma);
        schema_option(w, &config_options[i], indent);
        comma = ",";
    }
}

static void schema_section(struct writer *w, enum section_id section)
{
    const struct section *row = &config_sections[section];
    WRITE(w, "    \"%s\": {\"description\": ", row->name);
    write_json(w, row->help);
    if (row->items_max == 0) {
        WRITE(w, ", \"type\": [\"object\", \"null\"], \"additionalProperties\": false, "
                 "\"properties\": {");
        schema_options(w, section, "      ");
        WRITE(w, "\n    }}");
        return;
    }
    WRITE(w, ", \"type\": [\"array\", \"null\"], \"maxItems\": %u, \"items\": {\n", row->items_max);
    WRITE(w, "      \"type\": \"object\", \"additionalProperties\": false, \"properties\": {");
    schema_options(w, section, "        ");
    WRITE(w, "\n      }}}");
}

enum status config_docs_schema(struct buf *out)
{
    struct writer w = {.out = out};
    WRITE(&w, "{\n  \"$schema\": \"https://json-schema.org/draft/2020-12/schema\",\n"
              "  \"title\": \"dynd configuration\",\n"
              "  \"type\": \"object\",\n  \"additionalProperties\": false,\n  \"properties\": {");
    schema_options(&w, SECTION_root, "    ");
    for (int id = SECTION_root + 1; id < SECTION_COUNT; id++) {
        WRITE(&w, ",\n");
        schema_section(&w, (enum section_id)id);
    }
    WRITE(&w, "\n  }\n}\n");
    return w.st;
}
