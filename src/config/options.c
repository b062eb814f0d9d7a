#include "config/config_int.h"

#include <string.h>

#define COUNT_OF(array) ((uint32_t)(sizeof(array) / sizeof((array)[0])))

#define ENUM(name)           static const char *const choices_##name[] = {
#define ENUM_VALUE(id, text) [id] = text,
#define ENUM_END(name)                                                                             \
    }                                                                                              \
    ;
#include "config/options.def"

#define ENUM(name)                                                                                 \
    const char *config_##name##_name(enum config_##name value)                                     \
    {                                                                                              \
        return (unsigned)value < COUNT_OF(choices_##name) ? choices_##name[value] : "?";           \
    }
#include "config/options.def"

const struct section config_sections[SECTION_COUNT] = {
    [SECTION_root] = {.name = "", .help = "Top level."},
#define SECTION(name_, help_)                                                                      \
    [SECTION_##name_] = {.name = #name_, .help = help_, .offset = offsetof(struct config, name_)},
#define ITEMS(item_, list_, max_, help_)                                                           \
    [SECTION_##item_] = {.name = #list_,                                                           \
                         .help = help_,                                                            \
                         .offset = offsetof(struct config, list_),                                 \
                         .item_bytes = sizeof(struct config_##item_),                              \
                         .count_offset = offsetof(struct config, n_##list_),                       \
                         .items_max = max_},
#include "config/options.def"
};

/* The parts that every row has. */
#define HEAD(type_, section_, name_, reload_, help_)                                               \
    .section = SECTION_##section_, .type = type_, .name = #name_,                                  \
    .offset = offsetof(struct config_##section_, name_), .reload = reload_, .help = help_

#define OPTION_TYPE_u32 OPTION_U32
#define OPTION_TYPE_u64 OPTION_U64

const struct option config_options[] = {
#define OPT(type_, section_, name_, default_, min_, max_, unit_, reload_, help_)                   \
    {HEAD(OPTION_TYPE_##type_, section_, name_, reload_, help_), .default_number = default_,       \
     .min = min_, .max = max_, .unit = unit_},
#define OPT_POW2(section_, name_, default_, min_, max_, unit_, reload_, help_)                     \
    {HEAD(OPTION_POW2, section_, name_, reload_, help_), .default_number = default_, .min = min_,  \
     .max = max_, .unit = unit_},
#define OPT_BOOL(section_, name_, default_, reload_, help_)                                        \
    {HEAD(OPTION_BOOL, section_, name_, reload_, help_), .default_number = default_, .max = 1,     \
     .unit = ""},
#define OPT_STR(section_, name_, default_, check_, reload_, help_)                                 \
    {HEAD(OPTION_STRING, section_, name_, reload_, help_), .default_text = default_,               \
     .check = CHECK_##check_, .unit = ""},
#define OPT_ENUM(section_, name_, enum_, default_, reload_, help_)                                 \
    {HEAD(OPTION_ENUM, section_, name_, reload_, help_), .default_number = default_,               \
     .choices = choices_##enum_, .n_choices = COUNT_OF(choices_##enum_), .unit = ""},
#define OPT_LIST(section_, name_, max_, check_, reload_, help_)                                    \
    {HEAD(OPTION_LIST, section_, name_, reload_, help_), .max = max_, .check = CHECK_##check_,     \
     .unit = ""},
#define ROOT_STR(name_, default_, check_, reload_, help_)                                          \
    {.section = SECTION_root,                                                                      \
     .type = OPTION_STRING,                                                                        \
     .name = #name_,                                                                               \
     .offset = offsetof(struct config, name_),                                                     \
     .default_text = default_,                                                                     \
     .check = CHECK_##check_,                                                                      \
     .unit = "",                                                                                   \
     .help = help_,                                                                                \
     .reload = reload_},
#include "config/options.def"
};

const uint32_t config_n_options = COUNT_OF(config_options);

static bool name_is(const char *name, const char *text, size_t bytes)
{
    return strlen(name) == bytes && memcmp(name, text, bytes) == 0;
}

const struct option *option_find(enum section_id section, const char *name, size_t bytes)
{
    for (uint32_t i = 0; i < config_n_options; i++) {
        const struct option *option = &config_options[i];
        if (option->section == section && name_is(option->name, name, bytes))
            return option;
    }
    return NULL;
}

enum section_id section_find(const char *name, size_t bytes)
{
    for (int id = SECTION_root + 1; id < SECTION_COUNT; id++)
        if (name_is(config_sections[id].name, name, bytes))
            return (enum section_id)id;
    return SECTION_root;
}

void *section_base(struct config *config, enum section_id section, uint32_t index)
{
    const struct section *row = &config_sections[section];
    return (char *)config + row->offset + index * row->item_bytes;
}

uint32_t *section_item_count(struct config *config, enum section_id section)
{
    return (uint32_t *)((char *)config + config_sections[section].count_offset);
}

static void option_set_default(const struct option *option, void *base)
{
    char *field = (char *)base + option->offset;
    switch (option->type) {
    case OPTION_U32:
    case OPTION_POW2:
    case OPTION_ENUM: {
        uint32_t number = (uint32_t)option->default_number;
        memcpy(field, &number, sizeof(number));
        return;
    }
    case OPTION_U64:
        memcpy(field, &option->default_number, sizeof(option->default_number));
        return;
    case OPTION_BOOL:
        *(bool *)field = option->default_number != 0;
        return;
    case OPTION_STRING:
        memcpy(field, &option->default_text, sizeof(option->default_text));
        return;
    case OPTION_LIST:
        *(struct config_strings *)field = (struct config_strings){0};
        return;
    }
}

void section_set_defaults(enum section_id section, void *base)
{
    for (uint32_t i = 0; i < config_n_options; i++)
        if (config_options[i].section == section)
            option_set_default(&config_options[i], base);
}

/* "auto" is a way to choose, not a transport that can be required. */
const char *const *check_choices(enum option_check check, uint32_t *out_count)
{
    *out_count = 0;
    if (check != CHECK_transport)
        return NULL;
    *out_count = COUNT_OF(choices_transport) - 1;
    return choices_transport + 1;
}
