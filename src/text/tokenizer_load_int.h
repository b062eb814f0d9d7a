/* Inside the tokenizer loader: what its two files share. One load runs on one thread. */
#ifndef TEXT_TOKENIZER_LOAD_INT_H
#define TEXT_TOKENIZER_LOAD_INT_H

#include "base/json.h"
#include "text/json_scan.h"
#include "text/tokenizer_int.h"

/* Byte range of one value of the file; `present` is false for a missing or null one. */
struct tok_section {
    size_t begin, end;
    bool present;
};

struct tok_loader {
    struct tokenizer *tok;
    const char *source; /* path or "tokenizer.json", for messages */
    const uint8_t *json;
    size_t bytes;
    char *err;
    size_t err_bytes;
};

/* Writes "source: message" for the caller of the load and returns st. */
enum status tok_load_fail(struct tok_loader *loader, enum status st, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Parses one small section strictly; `name` is for messages. */
enum status tok_load_tree(struct tok_loader *loader, const struct tok_section *section,
                          const char *name, cJSON **out);

/* The sections that become small structures; each takes an absent section too. */
enum status tok_load_normalizer(struct tok_loader *loader, const struct tok_section *section);
enum status tok_load_added(struct tok_loader *loader, const struct tok_section *section);
enum status tok_load_pretok(struct tok_loader *loader, const struct tok_section *section);
enum status tok_load_post(struct tok_loader *loader, const struct tok_section *section);
enum status tok_load_decoder(struct tok_loader *loader, const struct tok_section *section);

#endif
