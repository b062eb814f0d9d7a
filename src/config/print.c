/* The effective configuration as YAML. Strings go out in JSON's quoting, which YAML reads. */
#include "config/config_int.h"

#include "base/json.h"

#include <string.h>

static enum status string_print(struct buf *out, const char *text)
{
    return json_append_string(out, text, strlen(text));
}

static enum status list_print(struct buf *out, const struct config_strings *list)
{
    enum status st = buf_append_str(out, "[");
    for (uint32_t i = 0; i < list->count && st == ST_OK; i++) {
        if (i > 0)
            st = buf_append_str(out, ", ");
        if (st == ST_OK)
            st = string_print(out, list->items[i]);
    }
    return st == ST_OK ? buf_append_str(out, "]") : st;
}

static enum status value_print(struct buf *out, const struct option *option, const void *base)
{
    const char *field = (const char *)base + option->offset;
    const char *text;
    uint32_t small;
    uint64_t number;
    switch (option->type) {
    case OPTION_U32:
    case OPTION_POW2:
        memcpy(&small, field, sizeof(small));
        return buf_printf(out, "%u", small);
    case OPTION_U64:
        memcpy(&number, field, sizeof(number));
        return buf_printf(out, "%llu", (unsigned long long)number);
    case OPTION_BOOL:
        return buf_append_str(out, *(const bool *)field ? "true" : "false");
    case OPTION_ENUM:
        memcpy(&small, field, sizeof(small));
        return buf_append_str(out, small < option->n_choices ? option->choices[small] : "?");
    case OPTION_STRING:
        memcpy(&text, field, sizeof(text));
        return string_print(out, text);
    case OPTION_LIST:
        return list_print(out, (const struct config_strings *)field);
    }
    return ST_INTERNAL;
}

/* `first` stands before the first option of an item, `indent` before the others. */
static enum status options_print(struct buf *out, enum section_id section, const void *base,
                                 const char *first, const char *indent)
{
    enum status st = ST_OK;
    for (uint32_t i = 0; i < config_n_options && st == ST_OK; i++) {
        const struct option *option = &config_options[i];
        if (option->section != section)
            continue;
        st = buf_printf(out, "%s%s: ", first, option->name);
        if (st == ST_OK)
            st = value_print(out, option, base);
        if (st == ST_OK)
            st = buf_append_str(out, "\n");
        first = indent;
    }
    return st;
}

static enum status section_print(struct buf *out, struct config *config, enum section_id section)
{
    const struct section *row = &config_sections[section];
    if (row->items_max == 0) {
        enum status st = buf_printf(out, "%s:\n", row->name);
        const void *base = section_base(config, section, 0);
        return st == ST_OK ? options_print(out, section, base, "  ", "  ") : st;
    }
    uint32_t n_items = *section_item_count(config, section);
    enum status st = buf_printf(out, "%s:%s\n", row->name, n_items == 0 ? " []" : "");
    for (uint32_t i = 0; i < n_items && st == ST_OK; i++)
        st = options_print(out, section, section_base(config, section, i), "  - ", "    ");
    return st;
}

enum status config_print_yaml(const struct config *config, struct buf *out)
{
    struct config copy = *config; /* section_base gives a pointer to write through */
    size_t len_before = out->len;
    enum status st = options_print(out, SECTION_root, &copy, "", "");
    for (int id = SECTION_root + 1; id < SECTION_COUNT && st == ST_OK; id++)
        st = section_print(out, &copy, (enum section_id)id);
    if (st != ST_OK)
        out->len = len_before;
    return st;
}
