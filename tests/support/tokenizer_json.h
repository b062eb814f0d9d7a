/* Small tokenizer.json texts for tests: a model over the letters a to e, a few merges, and sections
 * that a test replaces. */
#ifndef TESTS_SUPPORT_TOKENIZER_JSON_H
#define TESTS_SUPPORT_TOKENIZER_JSON_H

#include "text/tokenizer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* NULL takes the default. */
struct tokenizer_json {
    const char *added, *normalizer, *pre_tokenizer, *post_processor, *decoder;
    const char *model_extra; /* members of "model" with a comma behind them */
    const char *vocab, *merges;
};

/* "\u0120" is the stand-in for a space. Ids: a 0 .. e 4, space 5, - 6, then what the merges make.
 */
#define TOKENIZER_JSON_VOCAB                                                                       \
    "{\"a\":0,\"b\":1,\"c\":2,\"d\":3,\"e\":4,\"\\u0120\":5,\"-\":6,\"ab\":7,\"bc\":8,\"abc\":9,"  \
    "\"\\u0120a\":10,\"cd\":11,\"abcd\":12,\"aa\":13,\"aaaa\":14,\"dead\":15}"
#define TOKENIZER_JSON_MERGES                                                                      \
    "[\"b c\",\"a b\",\"a bc\",\"\\u0120 a\",\"c d\",\"ab cd\",\"a a\",\"aa aa\"]"

static inline const char *tokenizer_json_text(const struct tokenizer_json *parts)
{
    static char text[16384];
    int n =
        snprintf(text, sizeof(text),
                 "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":%s,"
                 "\"normalizer\":%s,\"pre_tokenizer\":%s,\"post_processor\":%s,\"decoder\":%s,"
                 "\"model\":{\"type\":\"BPE\",%s\"vocab\":%s,\"merges\":%s}}",
                 parts->added != NULL ? parts->added : "[]",
                 parts->normalizer != NULL ? parts->normalizer : "null",
                 parts->pre_tokenizer != NULL
                     ? parts->pre_tokenizer
                     : "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}",
                 parts->post_processor != NULL ? parts->post_processor : "null",
                 parts->decoder != NULL ? parts->decoder : "{\"type\":\"ByteLevel\"}",
                 parts->model_extra != NULL ? parts->model_extra : "",
                 parts->vocab != NULL ? parts->vocab : TOKENIZER_JSON_VOCAB,
                 parts->merges != NULL ? parts->merges : TOKENIZER_JSON_MERGES);
    assert_true(n > 0 && (size_t)n < sizeof(text));
    return text;
}

static inline struct tokenizer *tokenizer_json_load(const struct tokenizer_json *parts)
{
    const char *text = tokenizer_json_text(parts);
    struct tokenizer *tok = NULL;
    char err[256];
    if (tokenizer_load_memory(text, strlen(text), &tok, err, sizeof(err)) != ST_OK)
        fail_msg("%s", err);
    return tok;
}

/* Encodes and compares with a list of ids written as text, "7 3 ". */
static inline void tokenizer_json_expect(const struct tokenizer *tok, const char *text,
                                         size_t bytes, uint32_t flags, const char *ids)
{
    struct token_buf buf;
    char got[4096] = "";
    size_t at = 0;
    token_buf_init(&buf, 1 << 16);
    assert_int_equal(tokenizer_encode(tok, text, bytes, flags, &buf), ST_OK);
    for (size_t i = 0; i < buf.len && at < sizeof(got) - 16; i++)
        at += (size_t)snprintf(got + at, sizeof(got) - at, "%u ", buf.ids[i]);
    assert_string_equal(got, ids);
    token_buf_deinit(&buf);
}

#define EXPECT_IDS(tok, text, flags, ids) tokenizer_json_expect(tok, text, strlen(text), flags, ids)

#endif
