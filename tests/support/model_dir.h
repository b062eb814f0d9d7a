/* For tests of model files: a private directory, safetensors images from a header text, and small
 * random models of any family, written as Hugging Face writes them. */
#ifndef TESTS_MODEL_DIR_H
#define TESTS_MODEL_DIR_H

#include "base/buf.h"
#include "base/hash.h"
#include "model/desc.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

struct model_dir {
    char path[64];
};

static inline void model_dir_make(struct model_dir *dir)
{
    snprintf(dir->path, sizeof(dir->path), "/tmp/dynd-test-XXXXXX");
    assert_non_null(mkdtemp(dir->path));
}

static inline void model_dir_remove(struct model_dir *dir)
{
    DIR *d = opendir(dir->path);
    assert_non_null(d);
    for (struct dirent *entry; (entry = readdir(d)) != NULL;)
        if (entry->d_name[0] != '.')
            unlinkat(dirfd(d), entry->d_name, 0);
    closedir(d);
    assert_int_equal(rmdir(dir->path), 0);
}

static inline void model_dir_write(const struct model_dir *dir, const char *name, const void *data,
                                   size_t bytes)
{
    char path[512];
    snprintf(path, sizeof(path), "%s/%s", dir->path, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, bytes, f), bytes);
    assert_int_equal(fclose(f), 0);
}

static inline void model_dir_write_text(const struct model_dir *dir, const char *name,
                                        const char *text)
{
    model_dir_write(dir, name, text, strlen(text));
}

/* 8 bytes of length, the header, `data_bytes` of data (0, 1, 2, ...). The caller frees it. */
static inline uint8_t *safetensors_image(const char *header, size_t data_bytes, size_t *out_bytes)
{
    size_t header_bytes = strlen(header);
    uint8_t *image = malloc(8 + header_bytes + data_bytes);
    assert_non_null(image);
    for (unsigned i = 0; i < 8; i++)
        image[i] = (uint8_t)((uint64_t)header_bytes >> (8 * i));
    memcpy(image + 8, header, header_bytes);
    for (size_t i = 0; i < data_bytes; i++)
        image[8 + header_bytes + i] = (uint8_t)i;
    *out_bytes = 8 + header_bytes + data_bytes;
    return image;
}

/* ---- Small models --------------------------------------------------------------------------- */

struct tiny_writer {
    struct buf header, data;
    const char *skip; /* this tensor is left out; NULL: none */
    uint64_t seed;
};

/* f32 tensor of uniform numbers around `middle`; n_cols 0: a vector. */
static inline void tiny_tensor(struct tiny_writer *w, uint32_t n_rows, uint32_t n_cols,
                               float middle, float width, const char *name)
{
    uint64_t n = (uint64_t)n_rows * (n_cols > 0 ? n_cols : 1), begin = w->data.len;
    if (w->skip != NULL && strcmp(w->skip, name) == 0)
        return;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t bits = hash_mix64(hash_combine(w->seed, hash_bytes(name, strlen(name))) + i);
        float value = middle + width * ((float)(bits >> 40) * 0x1p-23f - 1.0f);
        assert_int_equal(buf_append(&w->data, &value, sizeof(value)), ST_OK);
    }
    buf_printf(&w->header, "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[%u",
               w->header.len > 1 ? "," : "", name, n_rows);
    if (n_cols > 0)
        buf_printf(&w->header, ",%u", n_cols);
    buf_printf(&w->header, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)begin,
               (unsigned long long)w->data.len);
}

static inline void tiny_linear(struct tiny_writer *w, uint32_t layer, const char *name,
                               uint32_t n_rows, uint32_t n_cols, bool bias)
{
    char full[128];
    snprintf(full, sizeof(full), "model.layers.%u.%s.weight", layer, name);
    tiny_tensor(w, n_rows, n_cols, 0, 2.0f / (float)n_cols + 0.1f, full);
    snprintf(full, sizeof(full), "model.layers.%u.%s.bias", layer, name);
    if (bias)
        tiny_tensor(w, n_rows, 0, 0, 0.2f, full);
}

static inline void tiny_norm(struct tiny_writer *w, uint32_t layer, const char *name, uint32_t n)
{
    char full[128];
    snprintf(full, sizeof(full), "model.layers.%u.%s.weight", layer, name);
    tiny_tensor(w, n, 0, 1, 0.3f, full);
}

static inline void tiny_layer(struct tiny_writer *w, const struct model_desc *d, uint32_t layer)
{
    uint32_t q = d->n_heads * d->head_dim, kv = d->n_kv_heads * d->head_dim;
    tiny_norm(w, layer, "input_layernorm", d->hidden);
    tiny_norm(w, layer, "post_attention_layernorm", d->hidden);
    if (d->qk_norm) {
        tiny_norm(w, layer, "self_attn.q_norm", d->head_dim);
        tiny_norm(w, layer, "self_attn.k_norm", d->head_dim);
    }
    tiny_linear(w, layer, "self_attn.q_proj", q, d->hidden, d->qkv_bias);
    tiny_linear(w, layer, "self_attn.k_proj", kv, d->hidden, d->qkv_bias);
    tiny_linear(w, layer, "self_attn.v_proj", kv, d->hidden, d->qkv_bias);
    tiny_linear(w, layer, "self_attn.o_proj", d->hidden, q, d->o_bias);
    tiny_linear(w, layer, "mlp.gate_proj", d->intermediate, d->hidden, d->mlp_bias);
    tiny_linear(w, layer, "mlp.up_proj", d->intermediate, d->hidden, d->mlp_bias);
    tiny_linear(w, layer, "mlp.down_proj", d->hidden, d->intermediate, d->mlp_bias);
}

/* Writes config.json and model.safetensors (f32) of the model that `config` describes. `skip`: a
 * tensor to leave out; `extra`: a tensor [4] to add; both may be NULL. */
static inline void tiny_model_write(const struct model_dir *dir, const char *config,
                                    const char *skip, const char *extra)
{
    struct model_desc d;
    char err[256] = "";
    struct tiny_writer w = {.skip = skip, .seed = 7};
    buf_init(&w.header, 1u << 20);
    buf_init(&w.data, 64u << 20);
    if (model_desc_parse(config, strlen(config), NULL, 0, &d,
                         (struct text_error){err, sizeof(err)}) != ST_OK)
        fail_msg("%s", err);
    buf_append_str(&w.header, "{");
    tiny_tensor(&w, d.n_vocab, d.hidden, 0, 1, "model.embed_tokens.weight");
    for (uint32_t i = 0; i < d.n_layers; i++)
        tiny_layer(&w, &d, i);
    tiny_tensor(&w, d.hidden, 0, 1, 0.3f, "model.norm.weight");
    if (!d.tied_embeddings)
        tiny_tensor(&w, d.n_vocab, d.hidden, 0, 1, "lm_head.weight");
    if (extra != NULL)
        tiny_tensor(&w, 4, 0, 0, 1, extra);
    buf_append_str(&w.header, "}");
    while (w.header.len % 8 != 0)
        buf_append_str(&w.header, " ");
    struct buf file;
    uint64_t header_bytes = w.header.len;
    buf_init(&file, 128u << 20);
    buf_append(&file, &header_bytes, sizeof(header_bytes));
    buf_append(&file, w.header.data, w.header.len);
    assert_int_equal(buf_append(&file, w.data.data, w.data.len), ST_OK);
    model_dir_write(dir, "model.safetensors", file.data, file.len);
    model_dir_write_text(dir, "config.json", config);
    buf_deinit(&file);
    buf_deinit(&w.header);
    buf_deinit(&w.data);
}

#endif
