/* First half of the input: a tokenizer.json. Second half: text for it, and for a tokenizer that is
 * always good. Whatever loads must encode, and decoding must give whole characters. */
#include "base/json.h"
#include "text/detok.h"
#include "text/tokenizer.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char good[] =
    "{\"added_tokens\":[{\"id\":9,\"content\":\"<s>\",\"special\":true,\"lstrip\":true},"
    "{\"id\":10,\"content\":\"W\",\"special\":false,\"single_word\":true,\"normalized\":true}],"
    "\"normalizer\":{\"type\":\"NFC\"},\"pre_tokenizer\":{\"type\":\"ByteLevel\"},"
    "\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"vocab\":{\"a\":0,\"b\":1,\"\\u00c3\":2,"
    "\"\\u00a9\":3,\"ab\":4,\"\\u00c3\\u00a9\":5,\"\\u0120\":6,\"aa\":7},"
    "\"merges\":[\"a b\",\"\\u00c3 \\u00a9\",\"a a\"]}}";

static void exercise(const struct tokenizer *tok, const uint8_t *text, size_t bytes)
{
    for (uint32_t flags = 0; flags < 8; flags++) {
        struct token_buf ids;
        struct buf out;
        struct detok detok;
        token_buf_init(&ids, 1 << 20);
        buf_init(&out, 1 << 26);
        detok_init(&detok, tok, (flags & TOK_ADD_BOS) != 0);
        enum status st = tokenizer_encode(tok, (const char *)text, bytes, flags, &ids);
        for (size_t i = 0; i < ids.len; i++) {
            if (ids.ids[i] >= tokenizer_vocab_size(tok) || st != ST_OK)
                abort();
            if (detok_feed(&detok, ids.ids[i], &out) != ST_OK)
                break;
        }
        detok_flush(&detok, &out);
        if (out.len > 0 && utf8_valid_prefix(out.data, out.len) != out.len)
            abort();
        token_buf_deinit(&ids);
        buf_deinit(&out);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct tokenizer *known;
    struct tokenizer *tok = NULL;
    char err[256];
    size_t half = size / 2;
    if (known == NULL &&
        tokenizer_load_memory(good, sizeof(good) - 1, &known, err, sizeof(err)) != ST_OK)
        abort();
    exercise(known, data + half, size - half);
    if (tokenizer_load_memory((const char *)data, half, &tok, err, sizeof(err)) != ST_OK)
        return 0;
    exercise(tok, data + half, size - half);
    tokenizer_free(tok);
    return 0;
}
