/* quantization_config of a config.json: how fp8 weights (e4m3) are scaled, and whether the KV cache
 * is to be fp8. Four writers' forms are read; whatever else they can express is refused by name.
 *
 *   quant_method          scales of w[n, k]                        activations
 *   "compressed-tensors"  weight_scale [1], [n, 1] or blocks       input_activations
 *   "fp8"                 weight_scale [1] or weight_scale_inv     activation_scheme
 *                         [ceil(n / 128), ceil(k / 128)]
 *   "fbgemm_fp8"          weight_scale [n, 1]                      always dynamic
 *   "modelopt"            weight_scale [1]                         static
 *
 * Activations are scaled by what is in them, whether the file asks for that ("dynamic") or brings
 * scales of its own ("static"), which are coarser. kv_cache_scheme asks for static scales of K and
 * V, one a layer or one a head (load_kv.c). Older files of the last writer say all this in
 * hf_quant_config.json. Source: the compressed-tensors library, the quantizers of Hugging Face
 * transformers, and the exporter of the Model Optimizer. */
#include "model/desc_int.h"

#include <stdlib.h>
#include <string.h>

#define Q "quantization_config."

static const char *const projection_names[] = {
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj",
};
static const enum model_matrix projection_matrices[] = {
    MODEL_QKV, MODEL_QKV, MODEL_QKV, MODEL_O, MODEL_GATE_UP, MODEL_GATE_UP, MODEL_DOWN,
};

static void refuse(struct desc_reader *r, const char *name, const cJSON *item)
{
    char *text = item != NULL ? cJSON_PrintUnformatted(item) : NULL;
    desc_fail(r, ST_UNSUPPORTED, "field \"%s\": %.60s is not supported", name,
              text != NULL ? text : "leaving it out");
    cJSON_free(text);
}

static bool is_string(const cJSON *item, const char *text)
{
    return cJSON_IsString(item) && strcmp(item->valuestring, text) == 0;
}

static void want_string(struct desc_reader *r, const char *name, const cJSON *item,
                        const char *wanted)
{
    if (!is_string(item, wanted))
        refuse(r, name, item);
}

/* Absent, null, {} and "dense" say that nothing is asked for. */
static void want_nothing(struct desc_reader *r, const char *name, const cJSON *item)
{
    bool is_empty = cJSON_IsObject(item) && item->child == NULL;
    if (item != NULL && !is_empty && !is_string(json_get(item, "format"), "dense"))
        refuse(r, name, item);
}

/* [128, 128] */
static void want_block(struct desc_reader *r, const char *name, const cJSON *item)
{
    int64_t size;
    bool fits = cJSON_IsArray(item) && cJSON_GetArraySize(item) == 2;
    for (int i = 0; i < 2 && fits; i++)
        fits = json_as_i64(cJSON_GetArrayItem(item, i), OPS_SCALE_BLOCK_SIZE, OPS_SCALE_BLOCK_SIZE,
                           &size);
    if (!fits)
        refuse(r, name, item);
}

/* "model.layers.3.mlp.up_proj", or a module around it as "model.layers.3": the matrix it is part of
 * stays as it is. Other names, and patterns, mean modules that are never quantised here or are told
 * apart by the tensors. */
static void ignore_module(const char *name, struct model_desc *desc)
{
    static const char prefix[] = "model.layers.";
    char *rest = NULL;
    if (strncmp(name, prefix, sizeof(prefix) - 1) != 0)
        return;
    unsigned long layer = strtoul(name + sizeof(prefix) - 1, &rest, 10);
    if (rest == name + sizeof(prefix) - 1 || layer >= desc->n_layers ||
        (*rest != '\0' && *rest != '.'))
        return;
    rest += *rest == '.';
    size_t bytes = strlen(rest);
    for (uint32_t i = 0; i < sizeof projection_names / sizeof projection_names[0]; i++) {
        const char *full = projection_names[i];
        bool is_part = strncmp(full, rest, bytes) == 0 &&
                       (bytes == 0 || full[bytes] == '\0' || full[bytes] == '.');
        if (is_part)
            desc->layer_plain[layer] |= (uint8_t)(1u << projection_matrices[i]);
    }
}

static void read_ignored(struct desc_reader *r, const char *name, const cJSON *list,
                         struct model_desc *desc)
{
    if (list != NULL && !cJSON_IsArray(list))
        desc_fail(r, ST_INVALID, "field \"%s\" must be a list of names", name);
    for (const cJSON *item = list != NULL ? list->child : NULL; item != NULL && r->st == ST_OK;
         item = item->next) {
        if (cJSON_IsString(item))
            ignore_module(item->valuestring, desc);
        else
            desc_fail(r, ST_INVALID, "field \"%s\" must be a list of names", name);
    }
}

/* What weights and activations have in common: 8 bits, floating, around zero. */
static void want_fp8(struct desc_reader *r, const char *name, const cJSON *args)
{
    int64_t bits;
    const cJSON *symmetric = json_get(args, "symmetric");
    if (!cJSON_IsObject(args) || !is_string(json_get(args, "type"), "float") ||
        !json_as_i64(json_get(args, "num_bits"), 8, 8, &bits) ||
        (symmetric != NULL && !cJSON_IsTrue(symmetric)))
        refuse(r, name, args);
}

/* An object like those of weights, or the word "static" of older files. */
static void read_kv_scheme(struct desc_reader *r, const cJSON *scheme, struct model_desc *desc)
{
    const cJSON *strategy = json_get(scheme, "strategy"), *dynamic = json_get(scheme, "dynamic");
    bool is_empty = cJSON_IsObject(scheme) && scheme->child == NULL;
    if (scheme == NULL || is_empty)
        return;
    desc->kv_fp8 = true;
    if (is_string(scheme, "static"))
        return;
    want_fp8(r, Q "kv_cache_scheme", scheme);
    if (strategy != NULL && !is_string(strategy, "tensor"))
        want_string(r, Q "kv_cache_scheme.strategy", strategy, "attn_head");
    if (dynamic != NULL && !cJSON_IsFalse(dynamic))
        refuse(r, Q "kv_cache_scheme.dynamic", dynamic);
}

static enum model_scaling read_strategy(struct desc_reader *r, const cJSON *weights)
{
    const cJSON *strategy = json_get(weights, "strategy");
    if (is_string(strategy, "tensor"))
        return MODEL_SCALE_TENSOR;
    if (is_string(strategy, "channel"))
        return MODEL_SCALE_ROW;
    if (is_string(strategy, "block"))
        want_block(r, Q "weights.block_structure", json_get(weights, "block_structure"));
    else
        refuse(r, Q "weights.strategy", strategy);
    return MODEL_SCALE_BLOCK;
}

static enum model_scaling read_group(struct desc_reader *r, const cJSON *group)
{
    const cJSON *targets = json_get(group, "targets"), *format = json_get(group, "format");
    const cJSON *weights = json_get(group, "weights"), *acts = json_get(group, "input_activations");
    const cJSON *is_dynamic = json_get(acts, "dynamic");
    if (!cJSON_IsArray(targets) || cJSON_GetArraySize(targets) != 1 ||
        !is_string(targets->child, "Linear"))
        refuse(r, Q "targets", targets);
    if (format != NULL)
        want_string(r, Q "format", format, "float-quantized");
    want_fp8(r, Q "weights", weights);
    want_fp8(r, Q "input_activations", acts);
    if (is_dynamic != NULL && !cJSON_IsBool(is_dynamic))
        refuse(r, Q "input_activations.dynamic", is_dynamic);
    if (cJSON_IsTrue(json_get(weights, "dynamic")))
        refuse(r, Q "weights.dynamic", json_get(weights, "dynamic"));
    want_nothing(r, Q "output_activations", json_get(group, "output_activations"));
    return read_strategy(r, weights);
}

static void read_compressed_tensors(struct desc_reader *r, const cJSON *q, struct model_desc *desc)
{
    const cJSON *groups = json_get(q, "config_groups");
    if (desc->kv_fp8 && cJSON_IsObject(groups) && groups->child == NULL)
        return; /* of the KV cache alone */
    want_string(r, Q "format", json_get(q, "format"), "float-quantized");
    if (!cJSON_IsObject(groups) || cJSON_GetArraySize(groups) != 1)
        desc_fail(r, ST_UNSUPPORTED, "field \"" Q "config_groups\" must be an object of one group");
    if (r->st == ST_OK)
        desc->weight_scaling = read_group(r, groups->child);
    want_nothing(r, Q "sparsity_config", json_get(q, "sparsity_config"));
    want_nothing(r, Q "transform_config", json_get(q, "transform_config"));
    read_ignored(r, Q "ignore", json_get(q, "ignore"), desc);
}

static void read_fp8(struct desc_reader *r, const cJSON *q, struct model_desc *desc)
{
    const cJSON *scheme = json_get(q, "activation_scheme"), *fmt = json_get(q, "fmt");
    const cJSON *block = json_get(q, "weight_block_size");
    if (scheme != NULL && !is_string(scheme, "static"))
        want_string(r, Q "activation_scheme", scheme, "dynamic");
    if (fmt != NULL)
        want_string(r, Q "fmt", fmt, "e4m3");
    if (block != NULL)
        want_block(r, Q "weight_block_size", block);
    want_nothing(r, Q "scale_fmt", json_get(q, "scale_fmt"));
    desc->weight_scaling = block != NULL ? MODEL_SCALE_BLOCK : MODEL_SCALE_TENSOR;
    read_ignored(r, Q "ignored_layers", json_get(q, "ignored_layers"), desc);
    read_ignored(r, Q "modules_to_not_convert", json_get(q, "modules_to_not_convert"), desc);
}

static void read_fbgemm(struct desc_reader *r, const cJSON *q, struct model_desc *desc)
{
    desc->weight_scaling = MODEL_SCALE_ROW;
    read_ignored(r, Q "modules_to_not_convert", json_get(q, "modules_to_not_convert"), desc);
}

static void read_modelopt(struct desc_reader *r, const cJSON *q, struct model_desc *desc)
{
    want_string(r, Q "quant_algo", json_get(q, "quant_algo"), "FP8");
    desc->weight_scaling = MODEL_SCALE_TENSOR;
    read_ignored(r, Q "ignore", json_get(q, "ignore"), desc);
}

/* {"producer": {...}, "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8",
 * "exclude_modules": [...]}}; an algorithm that is null or absent: not quantised. */
void desc_read_hf_quant(struct desc_reader *r, const cJSON *root, struct model_desc *desc)
{
    const cJSON *q = json_get(root, "quantization");
    const cJSON *weights = json_get(q, "quant_algo"), *kv = json_get(q, "kv_cache_quant_algo");
    if (!cJSON_IsObject(q)) {
        desc_fail(r, ST_INVALID, "field \"quantization\" must be an object");
        return;
    }
    if (kv != NULL)
        want_string(r, "quantization.kv_cache_quant_algo", kv, "FP8");
    desc->kv_fp8 = kv != NULL;
    if (weights == NULL)
        return;
    want_string(r, "quantization.quant_algo", weights, "FP8");
    desc->weight_scaling = MODEL_SCALE_TENSOR;
    read_ignored(r, "quantization.exclude_modules", json_get(q, "exclude_modules"), desc);
}

void desc_read_quantization(struct desc_reader *r, const cJSON *config, struct model_desc *desc)
{
    static const struct {
        const char *name;
        void (*read)(struct desc_reader *r, const cJSON *q, struct model_desc *desc);
    } methods[] = {
        {"compressed-tensors", read_compressed_tensors},
        {"fp8", read_fp8},
        {"fbgemm_fp8", read_fbgemm},
        {"modelopt", read_modelopt},
    };
    const cJSON *q = json_get(config, "quantization_config");
    const cJSON *method = json_get(q, "quant_method");
    if (q == NULL || r->st != ST_OK)
        return;
    if (!cJSON_IsObject(q) || !cJSON_IsString(method)) {
        desc_fail(r, ST_INVALID,
                  "field \"quantization_config\" must be an object that names its quant_method");
        return;
    }
    read_kv_scheme(r, json_get(q, "kv_cache_scheme"), desc);
    for (uint32_t i = 0; i < sizeof methods / sizeof methods[0]; i++) {
        if (is_string(method, methods[i].name)) {
            methods[i].read(r, q, desc);
            return;
        }
    }
    desc_fail(r, ST_UNSUPPORTED,
              "field \"" Q "quant_method\": \"%.40s\" is not supported (compressed-tensors, fp8, "
              "fbgemm_fp8 and modelopt are, with 8-bit floating point weights)",
              method->valuestring);
}
