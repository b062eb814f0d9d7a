#include "model/desc_int.h"

#include "base/file.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CONFIG_BYTES_MAX = 1 << 20, JSON_DEPTH_MAX = 32 };

/* Where a property of a family comes from. */
enum rule { RULE_NO, RULE_YES, RULE_ATTENTION_BIAS, RULE_MLP_BIAS };
enum window_rule {
    WINDOW_NONE,  /* the family has none; a window asked for is refused */
    WINDOW_ALL,   /* sliding_window holds for every layer; absent means 4096, null none */
    WINDOW_UPPER, /* use_sliding_window: layers from max_window_layers on */
};

struct family {
    const char *architecture, *name;
    bool qk_norm;
    enum rule qkv_bias, o_bias, mlp_bias;
    enum window_rule window;
    uint32_t head_dim_default; /* 0: hidden_size / num_attention_heads */
};

static const struct family families[] = {
    {"LlamaForCausalLM", "llama", false, RULE_ATTENTION_BIAS, RULE_ATTENTION_BIAS, RULE_MLP_BIAS,
     WINDOW_NONE, 0},
    {"Qwen2ForCausalLM", "qwen2", false, RULE_YES, RULE_NO, RULE_NO, WINDOW_UPPER, 0},
    {"Qwen3ForCausalLM", "qwen3", true, RULE_ATTENTION_BIAS, RULE_ATTENTION_BIAS, RULE_NO,
     WINDOW_UPPER, 128},
    {"MistralForCausalLM", "mistral", false, RULE_NO, RULE_NO, RULE_NO, WINDOW_ALL, 0},
};

/* Fields that change the mathematics of some model and are not computed here. Absent, null, false,
 * and the neutral number are fine. */
struct refused_field {
    const char *name;
    double neutral;
};
static const struct refused_field refused_fields[] = {
    {"compression_config", NAN},
    {"auto_map", NAN}, /* the model brings code of its own */
    {"partial_rotary_factor", 1.0},
    {"rotary_pct", 1.0},
    {"num_experts", 0.0},
    {"num_local_experts", 0.0},
    {"attn_logit_softcapping", NAN},
    {"final_logit_softcapping", NAN},
    {"query_pre_attn_scalar", NAN},
    {"attention_multiplier", 1.0},
    {"embedding_multiplier", 1.0},
    {"residual_multiplier", 1.0},
    {"logits_scaling", 1.0},
    {"logit_scale", 1.0},
    {"clip_qkv", NAN},
    {"use_qk_norm", NAN},
    {"alibi", NAN},
    {"kv_lora_rank", NAN},
    {"is_encoder_decoder", NAN},
    {"add_cross_attention", NAN},
    {"attention_chunk_size", NAN},
    {"use_mrope", NAN},
    {"no_rope_layers", NAN},
    {"attention_sinks", NAN},
};

void desc_fail(struct desc_reader *r, enum status st, const char *format, ...)
{
    if (r->st != ST_OK)
        return;
    char reason[200];
    va_list args;
    va_start(args, format);
    vsnprintf(reason, sizeof reason, format, args);
    va_end(args);
    r->st = text_error_set(r->err, st, "%s: %s", r->file, reason);
}

/* NULL: absent or null, which is an error when required. */
static const cJSON *find_field(struct desc_reader *r, const cJSON *object, const char *name,
                               bool required)
{
    if (r->st != ST_OK)
        return NULL;
    const cJSON *item = json_get(object, name);
    if (item == NULL && required)
        desc_fail(r, ST_INVALID, "field \"%s\" is missing", name);
    return item;
}

uint32_t desc_read_u32(struct desc_reader *r, const cJSON *object, const char *name, uint32_t min,
                       uint32_t max, uint32_t fallback)
{
    const cJSON *item = find_field(r, object, name, fallback == DESC_REQUIRED);
    if (item == NULL)
        return fallback;
    int64_t value;
    if (!json_as_i64(item, min, max, &value)) {
        desc_fail(r, ST_INVALID, "field \"%s\" must be a whole number from %u to %u", name, min,
                  max);
        return fallback;
    }
    return (uint32_t)value;
}

double desc_read_number(struct desc_reader *r, const cJSON *object, const char *name, double min,
                        double max, double fallback)
{
    const cJSON *item = find_field(r, object, name, isnan(fallback));
    if (item == NULL)
        return fallback;
    if (!cJSON_IsNumber(item) || !(item->valuedouble >= min && item->valuedouble <= max)) {
        desc_fail(r, ST_INVALID, "field \"%s\" must be a number from %g to %g", name, min, max);
        return fallback;
    }
    return item->valuedouble;
}

bool desc_read_bool(struct desc_reader *r, const cJSON *object, const char *name, bool fallback)
{
    const cJSON *item = find_field(r, object, name, false);
    if (item == NULL)
        return fallback;
    if (!cJSON_IsBool(item)) {
        desc_fail(r, ST_INVALID, "field \"%s\" must be true or false", name);
        return fallback;
    }
    return cJSON_IsTrue(item);
}

const char *desc_read_string(struct desc_reader *r, const cJSON *object, const char *name)
{
    const cJSON *item = find_field(r, object, name, false);
    if (item == NULL)
        return NULL;
    if (!cJSON_IsString(item)) {
        desc_fail(r, ST_INVALID, "field \"%s\" must be a string", name);
        return NULL;
    }
    return item->valuestring;
}

static const struct family *read_family(struct desc_reader *r, const cJSON *root)
{
    const cJSON *list = find_field(r, root, "architectures", true);
    if (list == NULL)
        return NULL;
    const cJSON *first = cJSON_GetArrayItem(list, 0);
    if (!cJSON_IsArray(list) || cJSON_GetArraySize(list) != 1 || !cJSON_IsString(first)) {
        desc_fail(r, ST_INVALID, "field \"architectures\" must be a list of one string");
        return NULL;
    }
    for (uint32_t i = 0; i < sizeof families / sizeof families[0]; i++) {
        if (strcmp(first->valuestring, families[i].architecture) == 0)
            return &families[i];
    }
    desc_fail(r, ST_UNSUPPORTED,
              "architecture \"%.60s\" is not supported (Llama, Qwen2, Qwen3, Mistral are)",
              first->valuestring);
    return NULL;
}

static void check_refused(struct desc_reader *r, const cJSON *root)
{
    for (uint32_t i = 0; i < sizeof refused_fields / sizeof refused_fields[0]; i++) {
        const struct refused_field *field = &refused_fields[i];
        const cJSON *item = json_get(root, field->name);
        if (item == NULL || cJSON_IsFalse(item))
            continue;
        if (cJSON_IsNumber(item) && item->valuedouble == field->neutral)
            continue;
        desc_fail(r, ST_UNSUPPORTED, "field \"%s\" is not supported", field->name);
    }
    const char *act = desc_read_string(r, root, "hidden_act");
    if (act != NULL && strcmp(act, "silu") != 0 && strcmp(act, "swish") != 0)
        desc_fail(r, ST_UNSUPPORTED, "field \"hidden_act\": \"%.40s\" is not supported", act);
}

static void read_shape(struct desc_reader *r, const cJSON *root, const struct family *family,
                       struct model_desc *desc)
{
    desc->n_layers =
        desc_read_u32(r, root, "num_hidden_layers", 1, MODEL_LAYERS_MAX, DESC_REQUIRED);
    desc->hidden = desc_read_u32(r, root, "hidden_size", 1, 1u << 16, DESC_REQUIRED);
    desc->intermediate = desc_read_u32(r, root, "intermediate_size", 1, 1u << 20, DESC_REQUIRED);
    desc->n_heads = desc_read_u32(r, root, "num_attention_heads", 1, 1024, DESC_REQUIRED);
    desc->n_vocab = desc_read_u32(r, root, "vocab_size", 2, MODEL_VOCAB_MAX, DESC_REQUIRED);
    desc->max_positions =
        desc_read_u32(r, root, "max_position_embeddings", 1, 1u << 24, DESC_REQUIRED);
    desc->norm_eps = (float)desc_read_number(r, root, "rms_norm_eps", 1e-12, 0.1, 1e-6);
    if (r->st != ST_OK)
        return;
    desc->n_kv_heads = desc_read_u32(r, root, "num_key_value_heads", 1, 1024, desc->n_heads);
    uint32_t head_dim = family->head_dim_default;
    if (head_dim == 0 && json_get(root, "head_dim") == NULL) {
        if (desc->hidden % desc->n_heads != 0)
            desc_fail(r, ST_INVALID, "hidden_size is no multiple of num_attention_heads");
        head_dim = desc->hidden / desc->n_heads;
    }
    desc->head_dim = desc_read_u32(r, root, "head_dim", 1, OPS_HEAD_DIM_MAX, head_dim);
    if (r->st != ST_OK)
        return;
    if (desc->head_dim % 16 != 0 || desc->head_dim == 0 || desc->head_dim > OPS_HEAD_DIM_MAX)
        desc_fail(r, ST_UNSUPPORTED, "field \"head_dim\": %u is no multiple of 16 up to %u",
                  desc->head_dim, OPS_HEAD_DIM_MAX);
    if (desc->n_heads % desc->n_kv_heads != 0 ||
        desc->n_heads / desc->n_kv_heads > OPS_HEADS_PER_KV_MAX)
        desc_fail(r, ST_INVALID, "num_attention_heads must be 1 to %u times num_key_value_heads",
                  OPS_HEADS_PER_KV_MAX);
}

/* A bias field that the family does not read must not ask for one it does not have. */
static bool read_rule(struct desc_reader *r, const cJSON *root, enum rule rule, const char *field)
{
    if (rule == RULE_ATTENTION_BIAS || rule == RULE_MLP_BIAS)
        return desc_read_bool(r, root, field, false);
    const cJSON *item = json_get(root, field);
    if (item != NULL && cJSON_IsTrue(item) != (rule == RULE_YES))
        desc_fail(r, ST_UNSUPPORTED, "field \"%s\": this value is not supported for this family",
                  field);
    return rule == RULE_YES;
}

static void read_switches(struct desc_reader *r, const cJSON *root, const struct family *family,
                          struct model_desc *desc)
{
    desc->qk_norm = family->qk_norm;
    desc->qkv_bias = read_rule(r, root, family->qkv_bias, "attention_bias");
    /* Qwen2 has biases on q, k and v alone, whatever the field says. */
    desc->o_bias = family->o_bias == RULE_ATTENTION_BIAS && desc->qkv_bias;
    desc->mlp_bias = read_rule(r, root, family->mlp_bias, "mlp_bias");
    desc->tied_embeddings = desc_read_bool(r, root, "tie_word_embeddings", false);
    static const struct {
        const char *name;
        enum model_dtype dtype;
    } dtypes[] = {
        {"float32", MODEL_DTYPE_F32}, {"bfloat16", MODEL_DTYPE_BF16}, {"float16", MODEL_DTYPE_F16}};
    const char *field = json_get(root, "dtype") != NULL ? "dtype" : "torch_dtype";
    const char *name = desc_read_string(r, root, field);
    if (name == NULL)
        return;
    for (uint32_t i = 0; i < 3; i++) {
        if (strcmp(name, dtypes[i].name) == 0)
            desc->dtype = dtypes[i].dtype;
    }
    if (desc->dtype == MODEL_DTYPE_UNKNOWN)
        desc_fail(r, ST_UNSUPPORTED, "field \"%s\": \"%.40s\" is not supported", field, name);
}

/* layer_types of newer files: what each layer does, in words. */
static void read_layer_types(struct desc_reader *r, const cJSON *root, struct model_desc *desc)
{
    const cJSON *list = json_get(root, "layer_types");
    if (list == NULL || r->st != ST_OK)
        return;
    if (!cJSON_IsArray(list) || (uint32_t)cJSON_GetArraySize(list) != desc->n_layers) {
        desc_fail(r, ST_INVALID, "field \"layer_types\" must list %u layers", desc->n_layers);
        return;
    }
    uint32_t layer = 0;
    for (const cJSON *item = list->child; item != NULL; item = item->next, layer++) {
        const char *text = cJSON_IsString(item) ? item->valuestring : "";
        bool sliding = strcmp(text, "sliding_attention") == 0;
        if (!sliding && strcmp(text, "full_attention") != 0) {
            desc_fail(r, ST_UNSUPPORTED, "field \"layer_types\": layer %u, \"%.40s\"", layer, text);
            return;
        }
        if (sliding && desc->window == 0) {
            desc_fail(r, ST_INVALID, "field \"layer_types\": layer %u slides without a window",
                      layer);
            return;
        }
        desc->layer_window[layer] = sliding;
    }
}

static void read_window(struct desc_reader *r, const cJSON *root, const struct family *family,
                        struct model_desc *desc)
{
    bool is_named = cJSON_GetObjectItemCaseSensitive(root, "sliding_window") != NULL;
    uint32_t fallback = family->window != WINDOW_NONE && !is_named ? 4096 : 0;
    uint32_t window = desc_read_u32(r, root, "sliding_window", 1, 1u << 24, fallback);
    bool is_used = desc_read_bool(r, root, "use_sliding_window", family->window == WINDOW_ALL);
    if (r->st != ST_OK)
        return;
    if (family->window == WINDOW_NONE && (window != 0 || is_used)) {
        desc_fail(r, ST_UNSUPPORTED, "field \"sliding_window\" is not supported for this family");
        return;
    }
    if (family->window == WINDOW_ALL && !is_used && window != 0) {
        desc_fail(r, ST_UNSUPPORTED,
                  "field \"use_sliding_window\" is not supported for this family");
        return;
    }
    uint32_t first = 0;
    if (family->window == WINDOW_UPPER)
        first = desc_read_u32(r, root, "max_window_layers", 0, 1u << 16, 28);
    desc->window = is_used ? window : 0;
    for (uint32_t i = first; i < desc->n_layers; i++)
        desc->layer_window[i] = desc->window != 0;
    uint8_t implied[MODEL_LAYERS_MAX];
    memcpy(implied, desc->layer_window, sizeof implied);
    read_layer_types(r, root, desc);
    /* These families do not read layer_types; it may be there, but not say something else. */
    if (family->window != WINDOW_UPPER && memcmp(implied, desc->layer_window, sizeof implied) != 0)
        desc_fail(r, ST_UNSUPPORTED, "field \"layer_types\" disagrees with \"sliding_window\"");
}

static void add_eos(struct desc_reader *r, const cJSON *item, struct model_desc *desc)
{
    int64_t id;
    if (!json_as_i64(item, 0, (int64_t)desc->n_vocab - 1, &id)) {
        desc_fail(r, ST_INVALID, "field \"eos_token_id\" must hold ids below vocab_size");
        return;
    }
    for (uint32_t i = 0; i < desc->n_eos; i++) {
        if (desc->eos[i] == (uint32_t)id)
            return;
    }
    if (desc->n_eos == MODEL_EOS_MAX) {
        desc_fail(r, ST_INVALID, "field \"eos_token_id\": more than %u ids", MODEL_EOS_MAX);
        return;
    }
    desc->eos[desc->n_eos++] = (uint32_t)id;
}

static void read_eos(struct desc_reader *r, const cJSON *root, struct model_desc *desc)
{
    const cJSON *eos = json_get(root, "eos_token_id");
    if (r->st != ST_OK || eos == NULL)
        return;
    if (!cJSON_IsArray(eos)) {
        add_eos(r, eos, desc);
        return;
    }
    for (const cJSON *item = eos->child; item != NULL && r->st == ST_OK; item = item->next)
        add_eos(r, item, desc);
}

static cJSON *parse_object(struct desc_reader *r, const char *text, size_t bytes)
{
    cJSON *root = NULL;
    struct json_error error;
    if (bytes > CONFIG_BYTES_MAX) {
        desc_fail(r, ST_TOO_LARGE, "larger than %d bytes", CONFIG_BYTES_MAX);
        return NULL;
    }
    enum status st = json_parse(text, bytes, JSON_DEPTH_MAX, &root, &error);
    if (st == ST_PARSE)
        desc_fail(r, st, "line %u, column %u: %s", error.line, error.column, error.message);
    else if (st != ST_OK)
        desc_fail(r, st, "cannot be read");
    else if (!cJSON_IsObject(root))
        desc_fail(r, ST_INVALID, "must be a JSON object");
    if (r->st != ST_OK) {
        cJSON_Delete(root);
        return NULL;
    }
    return root;
}

static void read_config(struct desc_reader *r, const cJSON *root, struct model_desc *desc)
{
    const struct family *family = read_family(r, root);
    if (family == NULL)
        return;
    desc->family = family->name;
    check_refused(r, root);
    read_shape(r, root, family, desc);
    if (r->st != ST_OK)
        return;
    read_switches(r, root, family, desc);
    read_window(r, root, family, desc);
    desc_read_rope(r, root, desc);
    desc_read_quantization(r, root, desc);
    /* Some files state a bos id although their tokenizer has none; only a usable one is kept. */
    int64_t bos;
    desc->bos = json_as_i64(json_get(root, "bos_token_id"), 0, (int64_t)desc->n_vocab - 1, &bos)
                    ? (uint32_t)bos
                    : MODEL_NO_TOKEN;
    read_eos(r, root, desc);
}

enum status model_desc_parse(const char *config, size_t config_bytes, const char *generation,
                             size_t generation_bytes, struct model_desc *out_desc,
                             struct text_error err)
{
    struct desc_reader r = {.file = "config.json", .err = err, .st = ST_OK};
    struct model_desc desc = {0};
    cJSON *root = parse_object(&r, config, config_bytes);
    if (root == NULL)
        return r.st;
    read_config(&r, root, &desc);
    cJSON_Delete(root);
    if (r.st == ST_OK && generation != NULL) {
        r.file = "generation_config.json";
        root = parse_object(&r, generation, generation_bytes);
        if (root != NULL)
            read_eos(&r, root, &desc);
        cJSON_Delete(root);
    }
    if (r.st == ST_OK)
        *out_desc = desc;
    return r.st;
}

enum status model_desc_add_quant(const char *text, size_t bytes, struct model_desc *desc,
                                 struct text_error err)
{
    struct desc_reader r = {.file = "hf_quant_config.json", .err = err, .st = ST_OK};
    struct model_desc added = *desc;
    cJSON *root = parse_object(&r, text, bytes);
    if (root != NULL)
        desc_read_hf_quant(&r, root, &added);
    cJSON_Delete(root);
    if (r.st == ST_OK)
        *desc = added;
    return r.st;
}

/* *out_text stays NULL when there is no such file. */
static enum status read_optional(const char *dir, const char *name, char **out_text,
                                 size_t *out_bytes, struct text_error err)
{
    char path[FILE_PATH_BYTES];
    enum status st = file_path_join(dir, name, path, err);
    if (st == ST_OK)
        st = file_read(path, CONFIG_BYTES_MAX, out_text, out_bytes, err);
    if (st != ST_NOT_FOUND)
        return st;
    if (err.bytes > 0)
        err.text[0] = '\0'; /* which is no error */
    return ST_OK;
}

enum status model_desc_load(const char *dir, struct model_desc *out_desc, struct text_error err)
{
    char path[FILE_PATH_BYTES];
    char *config = NULL, *generation = NULL, *quant = NULL;
    size_t config_bytes = 0, generation_bytes = 0, quant_bytes = 0;
    struct model_desc desc;
    enum status st = file_path_join(dir, "config.json", path, err);
    if (st == ST_OK)
        st = file_read(path, CONFIG_BYTES_MAX, &config, &config_bytes, err);
    if (st == ST_OK)
        st = read_optional(dir, "generation_config.json", &generation, &generation_bytes, err);
    if (st == ST_OK)
        st = model_desc_parse(config, config_bytes, generation, generation_bytes, &desc, err);
    bool is_told = st == ST_OK && (desc.weight_scaling != MODEL_SCALE_NONE || desc.kv_fp8);
    if (st == ST_OK && !is_told)
        st = read_optional(dir, "hf_quant_config.json", &quant, &quant_bytes, err);
    if (st == ST_OK && quant != NULL)
        st = model_desc_add_quant(quant, quant_bytes, &desc, err);
    if (st == ST_OK)
        *out_desc = desc;
    free(config);
    free(generation);
    free(quant);
    return st;
}

uint64_t model_desc_param_count(const struct model_desc *desc)
{
    uint64_t hidden = desc->hidden, inner = desc->intermediate;
    uint64_t q = (uint64_t)desc->n_heads * desc->head_dim;
    uint64_t kv = (uint64_t)desc->n_kv_heads * desc->head_dim;
    uint64_t layer = hidden * (q + 2 * kv) + q * hidden + 3 * hidden * inner + 2 * hidden;
    layer += desc->qkv_bias ? q + 2 * kv : 0;
    layer += desc->o_bias ? hidden : 0;
    layer += desc->mlp_bias ? 2 * inner + hidden : 0;
    layer += desc->qk_norm ? 2 * (uint64_t)desc->head_dim : 0;
    uint64_t vocab = (uint64_t)desc->n_vocab * hidden;
    return layer * desc->n_layers + hidden + (desc->tied_embeddings ? vocab : 2 * vocab);
}

void model_desc_hash(const struct model_desc *desc, uint8_t out[32])
{
    struct {
        uint32_t shape[8], switches[6], bits[3 + OPS_HEAD_DIM_MAX / 2];
        uint8_t layers[MODEL_LAYERS_MAX]; /* window, plain matrices */
    } image;
    memset(&image, 0, sizeof image);
    const uint32_t shape[8] = {desc->n_layers,   desc->hidden,   desc->intermediate, desc->n_heads,
                               desc->n_kv_heads, desc->head_dim, desc->n_vocab,      desc->window};
    const uint32_t switches[6] = {desc->qk_norm,  desc->qkv_bias,        desc->o_bias,
                                  desc->mlp_bias, desc->tied_embeddings, 1 /* layout of this */};
    memcpy(image.shape, shape, sizeof shape);
    memcpy(image.switches, switches, sizeof switches);
    memcpy(&image.bits[0], &desc->norm_eps, 4);
    memcpy(&image.bits[1], &desc->rope_attn_scale, 4);
    image.bits[2] = desc->weight_scaling;
    memcpy(&image.bits[3], desc->inv_freq, desc->head_dim / 2 * sizeof(float));
    for (uint32_t i = 0; i < MODEL_LAYERS_MAX; i++)
        image.layers[i] = (uint8_t)(desc->layer_window[i] | desc->layer_plain[i] << 1);
    hash_sha256(&image, sizeof image, out);
}
