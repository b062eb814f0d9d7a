/* For tests: an fp8 checkpoint made of a plain one, in any of the forms that model/quant.c reads,
 * and beside it the plain checkpoint of exactly the same values. */
#ifndef TESTS_FP8_MODEL_H
#define TESTS_FP8_MODEL_H

#include "tests/support/fp8_value.h"
#include "tests/support/model_dir.h"

#include "model/safetensors.h"

/* Two layers whose matrices suit blocks of 128 but for their last rows and columns. */
#define CONFIG_FP8                                                                                 \
    "{\"architectures\":[\"LlamaForCausalLM\"],\"hidden_size\":192,\"intermediate_size\":256,"     \
    "\"num_hidden_layers\":2,\"num_attention_heads\":4,\"num_key_value_heads\":2,"                 \
    "\"head_dim\":64,\"attention_bias\":true,\"vocab_size\":320,\"max_position_embeddings\":512,"  \
    "\"rms_norm_eps\":1e-05,\"rope_theta\":10000.0,\"tie_word_embeddings\":false,"                 \
    "\"eos_token_id\":[1],\"torch_dtype\":\"bfloat16\"}"

#define QUANT_COMPRESSED(strategy)                                                                 \
    "{\"quant_method\":\"compressed-tensors\",\"format\":\"float-quantized\","                     \
    "\"quantization_status\":\"compressed\",\"kv_cache_scheme\":null,\"ignore\":[\"lm_head\"],"    \
    "\"config_groups\":{\"group_0\":{\"targets\":[\"Linear\"],\"output_activations\":null,"        \
    "\"weights\":{\"num_bits\":8,\"type\":\"float\",\"symmetric\":true,\"dynamic\":false,"         \
    "\"group_size\":null," strategy "},"                                                           \
    "\"input_activations\":{\"num_bits\":8,\"type\":\"float\",\"symmetric\":true,"                 \
    "\"strategy\":\"token\",\"dynamic\":true}}}}"
#define QUANT_COMPRESSED_TENSOR  QUANT_COMPRESSED("\"strategy\":\"tensor\"")
#define QUANT_COMPRESSED_CHANNEL QUANT_COMPRESSED("\"strategy\":\"channel\"")
#define QUANT_COMPRESSED_BLOCK                                                                     \
    QUANT_COMPRESSED("\"strategy\":\"block\",\"block_structure\":[128,128]")
#define QUANT_FP8_TENSOR "{\"quant_method\":\"fp8\",\"activation_scheme\":\"static\"}"
#define QUANT_FP8_BLOCK                                                                            \
    "{\"quant_method\":\"fp8\",\"activation_scheme\":\"dynamic\",\"fmt\":\"e4m3\","                \
    "\"weight_block_size\":[128,128]}"
#define QUANT_FBGEMM                                                                               \
    "{\"quant_method\":\"fbgemm_fp8\",\"activation_scale_ub\":1200.0,"                             \
    "\"modules_to_not_convert\":[\"lm_head\"]}"

struct fp8_form {
    const char *quantization; /* the object of config.json */
    enum model_scaling scaling;
    const char *scale_name, *scale_dtype; /* "weight_scale", "F32" or "BF16" */
    uint32_t scale_dims;                  /* of tensor scales 0, 1; of row scales 1, 2 */
    const char *extra;                    /* one more number beside each scale; NULL: none */
    bool with_head;                       /* lm_head too */
    const char *plain;                    /* modules whose name has this stay as they are */
};

/* The text of a config with one more field at its end. The caller frees it. */
static inline char *config_with(const char *config, const char *field, const char *value)
{
    size_t bytes = strlen(config) + strlen(field) + strlen(value) + 8;
    const char *end = strrchr(config, '}');
    char *text = malloc(bytes);
    assert_true(text != NULL && end != NULL);
    snprintf(text, bytes, "%.*s,\"%s\":%s}", (int)(end - config), config, field, value);
    return text;
}

struct fp8_writer {
    struct buf header, data;
};

static inline void fp8_writer_init(struct fp8_writer *w)
{
    buf_init(&w->header, 1u << 20);
    buf_init(&w->data, 256u << 20);
    buf_append_str(&w->header, "{");
}

static inline void fp8_writer_add(struct fp8_writer *w, const char *name, const char *dtype,
                                  const uint64_t *dims, uint32_t n_dims, const void *data,
                                  size_t bytes)
{
    size_t begin = w->data.len;
    assert_int_equal(buf_append(&w->data, data, bytes), ST_OK);
    buf_printf(&w->header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", w->header.len > 1 ? "," : "",
               name, dtype);
    for (uint32_t i = 0; i < n_dims; i++)
        buf_printf(&w->header, "%s%llu", i > 0 ? "," : "", (unsigned long long)dims[i]);
    buf_printf(&w->header, "],\"data_offsets\":[%zu,%zu]}", begin, w->data.len);
}

static inline void fp8_writer_finish(struct fp8_writer *w, const struct model_dir *dir)
{
    struct buf file;
    buf_append_str(&w->header, "}");
    uint64_t header_bytes = w->header.len;
    buf_init(&file, 300u << 20);
    buf_append(&file, &header_bytes, sizeof(header_bytes));
    buf_append(&file, w->header.data, w->header.len);
    assert_int_equal(buf_append(&file, w->data.data, w->data.len), ST_OK);
    model_dir_write(dir, "model.safetensors", file.data, file.len);
    buf_deinit(&file);
    buf_deinit(&w->header);
    buf_deinit(&w->data);
}

static inline float fp8_source(const struct safetensors_tensor *t, uint64_t i)
{
    uint32_t bits = 0;
    float value;
    if (t->dtype == SAFETENSORS_BF16)
        memcpy((char *)&bits + 2, t->data + 2 * i, 2);
    else
        memcpy(&bits, t->data + 4 * i, 4);
    memcpy(&value, &bits, 4);
    return value;
}

/* A scale as it is read back: bf16 ones are cut, not rounded, which any scale may be. */
static inline float fp8_scale_stored(float scale, const char *dtype)
{
    uint32_t bits;
    memcpy(&bits, &scale, 4);
    bits &= strcmp(dtype, "BF16") == 0 ? 0xffff0000u : 0xffffffffu;
    memcpy(&scale, &bits, 4);
    return scale;
}

static inline void fp8_writer_scales(struct fp8_writer *w, const struct fp8_form *form,
                                     const char *module, const float *scales,
                                     const uint64_t dims[2])
{
    char name[192];
    struct buf raw;
    bool is_bf16 = strcmp(form->scale_dtype, "BF16") == 0;
    uint32_t n_dims = form->scaling == MODEL_SCALE_BLOCK ? 2 : form->scale_dims;
    buf_init(&raw, 1u << 20);
    for (uint64_t i = 0; i < dims[0] * dims[1]; i++)
        buf_append(&raw, (const char *)&scales[i] + (is_bf16 ? 2 : 0), is_bf16 ? 2 : 4);
    snprintf(name, sizeof(name), "%s.%s", module, form->scale_name);
    fp8_writer_add(w, name, form->scale_dtype, dims, n_dims, raw.data, raw.len);
    snprintf(name, sizeof(name), "%s.%s", module, form->extra != NULL ? form->extra : "");
    if (form->extra != NULL)
        fp8_writer_add(w, name, "F32", (const uint64_t[]){1}, 1, (const float[]){0.5f}, 4);
    buf_deinit(&raw);
}

/* t as fp8 with its scales into `out`, and what that means, in f32, into `plain`. Scales are those
 * of the greatest value, made a little odd so that nothing is exact by chance. */
static inline void fp8_quantise(struct fp8_writer *out, struct fp8_writer *plain,
                                const struct fp8_form *form, const struct safetensors_tensor *t)
{
    const uint64_t n = t->dims[0], k = t->dims[1];
    const uint64_t rows = form->scaling == MODEL_SCALE_TENSOR ? n
                          : form->scaling == MODEL_SCALE_ROW  ? 1
                                                              : 128;
    const uint64_t cols = form->scaling == MODEL_SCALE_BLOCK ? 128 : k;
    const uint64_t dims[2] = {(n + rows - 1) / rows, (k + cols - 1) / cols};
    float *scales = calloc(dims[0] * dims[1], sizeof(float)), *values = calloc(n * k, 4);
    uint8_t *codes = calloc(n * k, 1);
    char module[160];
    assert_true(scales != NULL && values != NULL && codes != NULL);
    for (uint64_t i = 0; i < n * k; i++) {
        float *scale = &scales[i / k / rows * dims[1] + i % k / cols];
        *scale = fmaxf(*scale, fabsf(fp8_source(t, i)) / 440.3f + 1e-6f);
    }
    for (uint64_t i = 0; i < dims[0] * dims[1]; i++)
        scales[i] = fp8_scale_stored(scales[i], form->scale_dtype);
    for (uint64_t i = 0; i < n * k; i++) {
        float scale = scales[i / k / rows * dims[1] + i % k / cols];
        codes[i] = fp8_nearest(fp8_source(t, i) / scale);
        values[i] = fp8_value(codes[i]) * scale;
    }
    snprintf(module, sizeof(module), "%.*s", (int)(strlen(t->name) - strlen(".weight")), t->name);
    fp8_writer_add(out, t->name, "F8_E4M3", t->dims, 2, codes, n * k);
    fp8_writer_scales(out, form, module, scales, dims);
    fp8_writer_add(plain, t->name, "F32", t->dims, 2, values, n * k * 4);
    free(scales);
    free(values);
    free(codes);
}

static inline bool fp8_is_quantised(const struct fp8_form *form, const char *name)
{
    if (form->plain != NULL && strstr(name, form->plain) != NULL)
        return false;
    return strstr(name, "_proj.weight") != NULL ||
           (form->with_head && strcmp(name, "lm_head.weight") == 0);
}

/* Writes `fp8` and `plain` from the weights of `source`, whose config.json has the text `config`.
 */
static inline void fp8_model_write(const char *source, const char *config,
                                   const struct fp8_form *form, const struct model_dir *fp8,
                                   const struct model_dir *plain)
{
    struct safetensors *set = NULL;
    struct fp8_writer a, b;
    fp8_writer_init(&a);
    fp8_writer_init(&b);
    assert_int_equal(safetensors_open_dir(source, &set, (struct text_error){NULL, 0}), ST_OK);
    for (uint32_t i = 0; i < safetensors_count(set); i++) {
        const struct safetensors_tensor *t = safetensors_at(set, i);
        if (fp8_is_quantised(form, t->name)) {
            fp8_quantise(&a, &b, form, t);
            continue;
        }
        const char *dtype = safetensors_dtype_name(t->dtype);
        fp8_writer_add(&a, t->name, dtype, t->dims, t->n_dims, t->data, t->bytes);
        fp8_writer_add(&b, t->name, dtype, t->dims, t->n_dims, t->data, t->bytes);
    }
    safetensors_close(set);
    fp8_writer_finish(&a, fp8);
    fp8_writer_finish(&b, plain);
    char *text = config_with(config, "quantization_config", form->quantization);
    model_dir_write_text(fp8, "config.json", text);
    model_dir_write_text(plain, "config.json", config);
    free(text);
}

/* All forms, each with another dtype and shape of scales. */
static const struct fp8_form fp8_forms[] = {
    {QUANT_COMPRESSED_TENSOR, MODEL_SCALE_TENSOR, "weight_scale", "BF16", 1, NULL, false, NULL},
    {QUANT_COMPRESSED_CHANNEL, MODEL_SCALE_ROW, "weight_scale", "BF16", 2, NULL, false, NULL},
    {QUANT_COMPRESSED_CHANNEL, MODEL_SCALE_ROW, "weight_scale", "F32", 1, NULL, true, NULL},
    {QUANT_COMPRESSED_BLOCK, MODEL_SCALE_BLOCK, "weight_scale", "BF16", 2, NULL, false, NULL},
    {QUANT_FP8_TENSOR, MODEL_SCALE_TENSOR, "weight_scale", "F32", 0, "input_scale", false, NULL},
    {QUANT_FP8_BLOCK, MODEL_SCALE_BLOCK, "weight_scale_inv", "F32", 2, NULL, false, NULL},
    {QUANT_FBGEMM, MODEL_SCALE_ROW, "weight_scale", "F32", 2, "input_scale_ub", false, "self_attn"},
    {QUANT_FP8_TENSOR, MODEL_SCALE_TENSOR, "weight_scale_inv", "F32", 1, "activation_scale", false,
     NULL},
};
#define FP8_FORMS (sizeof(fp8_forms) / sizeof(fp8_forms[0]))

#endif
