/* config.json to model_desc: what each family means, and what is refused by name. */
#include "tests/support/model_configs.h"
#include "tests/support/model_dir.h"

#include "base/json.h"

#include <math.h>

/* The base text with one field set to a JSON value, or taken out (NULL). The caller frees it. */
static char *with(const char *base, const char *field, const char *value)
{
    cJSON *root = cJSON_Parse(base);
    assert_non_null(root);
    cJSON_DeleteItemFromObjectCaseSensitive(root, field);
    if (value != NULL) {
        cJSON *item = cJSON_Parse(value);
        assert_non_null(item);
        cJSON_AddItemToObject(root, field, item);
    }
    char *text = cJSON_PrintUnformatted(root);
    assert_non_null(text);
    cJSON_Delete(root);
    return text;
}

static struct model_desc parse(const char *config)
{
    struct model_desc desc;
    char err[256] = "";
    if (model_desc_parse(config, strlen(config), NULL, 0, &desc,
                         (struct text_error){err, sizeof(err)}) != ST_OK)
        fail_msg("%s", err);
    return desc;
}

static struct model_desc parse_with(const char *base, const char *field, const char *value)
{
    char *text = with(base, field, value);
    struct model_desc desc = parse(text);
    free(text);
    return desc;
}

static void refuse_text(const char *text, enum status wanted, const char *needle)
{
    struct model_desc desc;
    char err[256] = "";
    memset(&desc, 0x5a, sizeof(desc));
    enum status st =
        model_desc_parse(text, strlen(text), NULL, 0, &desc, (struct text_error){err, sizeof(err)});
    if (st != wanted || strstr(err, needle) == NULL || strstr(err, "config.json: ") == NULL)
        fail_msg("%s: got %s, \"%s\"", text, status_name(st), err);
    assert_int_equal(desc.n_layers, 0x5a5a5a5a); /* nothing was written */
}

static void refuse(const char *base, const char *field, const char *value, enum status wanted)
{
    char *text = with(base, field, value);
    refuse_text(text, wanted, field);
    free(text);
}

static void near(float got, double wanted)
{
    if (!(fabs((double)got - wanted) <= 3e-7 * fabs(wanted)))
        fail_msg("got %.9g, expected %.9g", (double)got, wanted);
}

/* ---- Families ------------------------------------------------------------------------------- */

static void test_desc_llama_is_read(void **state)
{
    struct model_desc d = parse(CONFIG_LLAMA);
    (void)state;
    assert_string_equal(d.family, "llama");
    assert_int_equal(d.n_layers, 3);
    assert_int_equal(d.hidden, 64);
    assert_int_equal(d.intermediate, 96);
    assert_int_equal(d.n_heads, 4);
    assert_int_equal(d.n_kv_heads, 2);
    assert_int_equal(d.head_dim, 16);
    assert_int_equal(d.n_vocab, 320);
    assert_int_equal(d.max_positions, 512);
    near(d.norm_eps, 1e-5);
    assert_false(d.qk_norm || d.qkv_bias || d.o_bias || d.mlp_bias || d.tied_embeddings);
    assert_int_equal(d.window, 0);
    assert_int_equal(d.dtype, MODEL_DTYPE_F32);
    assert_int_equal(d.bos, 0);
    assert_int_equal(d.n_eos, 2);
    assert_int_equal(d.eos[1], 2);
    assert_int_equal(model_desc_param_count(&d), 133568);
}

static void test_desc_llama_biases_and_heads_follow_their_fields(void **state)
{
    (void)state;
    assert_true(parse_with(CONFIG_LLAMA, "attention_bias", "true").qkv_bias);
    assert_true(parse_with(CONFIG_LLAMA, "attention_bias", "true").o_bias);
    assert_true(parse_with(CONFIG_LLAMA, "mlp_bias", "true").mlp_bias);
    assert_int_equal(parse_with(CONFIG_LLAMA, "num_key_value_heads", NULL).n_kv_heads, 4);
    assert_int_equal(parse_with(CONFIG_LLAMA, "head_dim", "48").head_dim, 48);
    assert_int_equal(parse_with(CONFIG_LLAMA, "head_dim", "null").head_dim, 16);
}

static void test_desc_qwen2_has_qkv_biases_and_no_window_unless_used(void **state)
{
    struct model_desc d = parse(CONFIG_QWEN2);
    (void)state;
    assert_string_equal(d.family, "qwen2");
    assert_true(d.qkv_bias);
    assert_false(d.o_bias || d.qk_norm || d.mlp_bias);
    assert_true(d.tied_embeddings);
    assert_int_equal(d.window, 0);
    assert_int_equal(d.layer_window[1], 0);
    assert_int_equal(d.bos, MODEL_NO_TOKEN);
    d = parse_with(CONFIG_QWEN2, "use_sliding_window", "true");
    assert_int_equal(d.window, 32768);
    assert_int_equal(d.layer_window[0], 0); /* below max_window_layers */
    assert_int_equal(d.layer_window[1], 1);
}

static void test_desc_qwen3_has_qk_norm_and_its_own_head_dim(void **state)
{
    struct model_desc d = parse(CONFIG_QWEN3);
    (void)state;
    assert_string_equal(d.family, "qwen3");
    assert_true(d.qk_norm);
    assert_false(d.qkv_bias || d.o_bias);
    assert_int_equal(d.head_dim, 32);
    near(d.norm_eps, 1e-6);
    near(d.rope_theta, 1e6);
    assert_int_equal(parse_with(CONFIG_QWEN3, "head_dim", NULL).head_dim, 128);
    assert_true(parse_with(CONFIG_QWEN3, "attention_bias", "true").qkv_bias);
}

static void test_desc_mistral_slides_on_every_layer(void **state)
{
    struct model_desc d = parse(CONFIG_MISTRAL);
    (void)state;
    assert_string_equal(d.family, "mistral");
    assert_int_equal(d.window, 48);
    assert_int_equal(d.layer_window[0] + d.layer_window[1], 2);
    assert_int_equal(parse_with(CONFIG_MISTRAL, "sliding_window", "null").window, 0);
    assert_int_equal(parse_with(CONFIG_MISTRAL, "sliding_window", NULL).window, 4096);
}

static void test_desc_layer_types_choose_the_layers_that_slide(void **state)
{
    char *text = with(CONFIG_QWEN3, "layer_types", "[\"sliding_attention\",\"full_attention\"]");
    (void)state;
    refuse_text(text, ST_INVALID, "layer_types"); /* without a window */
    char *used = with(text, "use_sliding_window", "true");
    struct model_desc d = parse(used);
    assert_int_equal(d.window, 4096);
    assert_int_equal(d.layer_window[0], 1);
    assert_int_equal(d.layer_window[1], 0);
    free(text);
    free(used);
    refuse(CONFIG_QWEN3, "layer_types", "[\"full_attention\"]", ST_INVALID);
    refuse(CONFIG_QWEN3, "layer_types", "[\"full_attention\",\"linear_attention\"]",
           ST_UNSUPPORTED);
    refuse(CONFIG_QWEN3, "layer_types", "[\"full_attention\",7]", ST_UNSUPPORTED);
    refuse(CONFIG_MISTRAL, "layer_types", "[\"full_attention\",\"sliding_attention\"]",
           ST_UNSUPPORTED);
    assert_int_equal(parse_with(CONFIG_LLAMA, "layer_types",
                                "[\"full_attention\",\"full_attention\",\"full_attention\"]")
                         .window,
                     0);
}

static void test_desc_dtypes_are_told_apart(void **state)
{
    (void)state;
    assert_int_equal(parse_with(CONFIG_LLAMA, "torch_dtype", "\"bfloat16\"").dtype,
                     MODEL_DTYPE_BF16);
    assert_int_equal(parse_with(CONFIG_LLAMA, "torch_dtype", "\"float16\"").dtype, MODEL_DTYPE_F16);
    assert_int_equal(parse_with(CONFIG_LLAMA, "torch_dtype", NULL).dtype, MODEL_DTYPE_UNKNOWN);
    refuse(CONFIG_LLAMA, "torch_dtype", "\"float8_e4m3fn\"", ST_UNSUPPORTED);
}

/* ---- Rope: values of transformers 5.17, rope_utils, for head_dim 128 --------------------------
 */

struct rope_point {
    uint32_t i;
    double inv_freq;
};

static void check_rope(const char *parameters, const char *positions, double scale,
                       const struct rope_point *points, uint32_t n_points)
{
    char *a = with(CONFIG_LLAMA, "head_dim", "128");
    char *b = with(a, "max_position_embeddings", positions);
    char *c = with(b, "rope_parameters", parameters);
    struct model_desc d = parse(c);
    near(d.rope_attn_scale, scale);
    for (uint32_t i = 0; i < n_points; i++)
        near(d.inv_freq[points[i].i], points[i].inv_freq);
    free(a);
    free(b);
    free(c);
}

static void test_desc_rope_linear_divides_positions(void **state)
{
    static const struct rope_point points[] = {
        {0, 0.25}, {1, 0.216491088}, {32, 0.00249999994}, {63, 2.88695483e-05}};
    (void)state;
    check_rope("{\"rope_type\":\"linear\",\"factor\":4.0,\"rope_theta\":10000.0}", "2048", 1,
               points, 4);
}

static void test_desc_rope_llama3_ramps_between_wavelengths(void **state)
{
    static const struct rope_point points[] = {{0, 1},
                                               {1, 0.814617217},
                                               {20, 0.0165604409},
                                               {28, 0.00321144611},
                                               {32, 0.000524846022},
                                               {40, 3.42810235e-05},
                                               {63, 3.06892588e-07}};
    (void)state;
    check_rope("{\"rope_type\":\"llama3\",\"factor\":8.0,\"low_freq_factor\":1.0,"
               "\"high_freq_factor\":4.0,\"original_max_position_embeddings\":8192,"
               "\"rope_theta\":500000.0}",
               "131072", 1, points, 7);
}

static void test_desc_rope_yarn_scales_attention_too(void **state)
{
    static const struct rope_point points[] = {{0, 1},
                                               {20, 0.0133352149},
                                               {24, 0.00537532149},
                                               {28, 0.00184827659},
                                               {32, 0.000602941145},
                                               {40, 4.44569851e-05},
                                               {63, 3.10234441e-07}};
    (void)state;
    check_rope("{\"rope_type\":\"yarn\",\"factor\":4.0,\"original_max_position_embeddings\":32768,"
               "\"rope_theta\":1000000.0}",
               "131072", 1.138629436111989, points, 7);
    struct model_desc d = parse_with(CONFIG_LLAMA, "rope_scaling",
                                     "{\"type\":\"yarn\",\"factor\":4.0,"
                                     "\"original_max_position_embeddings\":512}");
    assert_int_equal(d.max_positions, 2048);
}

static void test_desc_rope_said_twice_must_agree(void **state)
{
    (void)state; /* the base says rope_parameters: default, theta 1e6 */
    struct model_desc d = parse_with(CONFIG_QWEN3, "rope_scaling", "{\"rope_type\":\"default\"}");
    near(d.rope_theta, 1000000.0);
    refuse(CONFIG_QWEN3, "rope_scaling", "{\"rope_type\":\"linear\",\"factor\":4.0}", ST_INVALID);
    refuse(CONFIG_QWEN3, "rope_scaling", "{\"rope_type\":\"default\",\"rope_theta\":10000.0}",
           ST_INVALID);
    refuse(CONFIG_QWEN3, "rope_scaling", "7", ST_INVALID);
}

static void test_desc_rope_scaling_of_unknown_kind_is_refused(void **state)
{
    static const char *const bad[] = {
        "{\"rope_type\":\"dynamic\",\"factor\":2.0}",
        "{\"rope_type\":\"longrope\"}",
        "{\"type\":\"su\"}",
        "{\"rope_type\":\"default\",\"partial_rotary_factor\":0.5}",
    };
    static const char *const invalid[] = {
        "{}",
        "[]",
        "{\"rope_type\":7}",
        "{\"rope_type\":\"linear\"}",
        "{\"rope_type\":\"linear\",\"factor\":0.5}",
        "{\"rope_type\":\"linear\",\"factor\":\"4\"}",
        "{\"rope_type\":\"llama3\",\"factor\":8.0}",
        ("{\"rope_type\":\"llama3\",\"factor\":8.0,\"low_freq_factor\":4.0,"
         "\"high_freq_factor\":4.0,\"original_max_position_embeddings\":8192}"),
        "{\"rope_type\":\"yarn\",\"factor\":1e308}",
    };
    (void)state;
    for (unsigned i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        char *text = with(CONFIG_LLAMA, "rope_scaling", bad[i]);
        refuse_text(text, ST_UNSUPPORTED, "");
        free(text);
    }
    for (unsigned i = 0; i < sizeof(invalid) / sizeof(*invalid); i++) {
        char *text = with(CONFIG_LLAMA, "rope_scaling", invalid[i]);
        refuse_text(text, ST_INVALID, "");
        free(text);
    }
}

/* ---- What is refused ------------------------------------------------------------------------ */

static void test_desc_fields_that_change_the_mathematics_are_refused(void **state)
{
    (void)state;
    refuse(CONFIG_LLAMA, "quantization_config", "{\"quant_method\":\"awq\"}", ST_UNSUPPORTED);
    refuse(CONFIG_LLAMA, "auto_map", "{}", ST_UNSUPPORTED);
    refuse(CONFIG_LLAMA, "hidden_act", "\"gelu\"", ST_UNSUPPORTED);
    refuse(CONFIG_LLAMA, "partial_rotary_factor", "0.5", ST_UNSUPPORTED);
    refuse(CONFIG_LLAMA, "final_logit_softcapping", "30.0", ST_UNSUPPORTED);
    refuse(CONFIG_LLAMA, "num_local_experts", "8", ST_UNSUPPORTED);
    refuse(CONFIG_LLAMA, "sliding_window", "128", ST_UNSUPPORTED);
    refuse(CONFIG_LLAMA, "is_encoder_decoder", "true", ST_UNSUPPORTED);
    refuse(CONFIG_QWEN2, "attention_bias", "false", ST_UNSUPPORTED);
    refuse(CONFIG_QWEN2, "mlp_bias", "true", ST_UNSUPPORTED);
    refuse(CONFIG_MISTRAL, "attention_bias", "true", ST_UNSUPPORTED);
    refuse(CONFIG_MISTRAL, "use_sliding_window", "false", ST_UNSUPPORTED);
}

static void test_desc_neutral_values_of_such_fields_are_fine(void **state)
{
    (void)state;
    parse_with(CONFIG_LLAMA, "quantization_config", "null");
    parse_with(CONFIG_LLAMA, "partial_rotary_factor", "1.0");
    parse_with(CONFIG_LLAMA, "num_experts", "0");
    parse_with(CONFIG_LLAMA, "is_encoder_decoder", "false");
    parse_with(CONFIG_LLAMA, "sliding_window", "null");
    parse_with(CONFIG_LLAMA, "rope_scaling", "null");
    parse_with(CONFIG_LLAMA, "hidden_act", NULL);
    parse_with(CONFIG_MISTRAL, "attention_bias", "false");
}

static void test_desc_numbers_out_of_range_are_refused(void **state)
{
    static const char *const counts[] = {
        "num_hidden_layers",   "hidden_size", "intermediate_size",      "num_attention_heads",
        "num_key_value_heads", "vocab_size",  "max_position_embeddings"};
    static const char *const bad[] = {"0",      "-1",   "1.5", "4294967296", "1e300",
                                      "\"64\"", "true", "[1]", "{}"};
    (void)state;
    for (unsigned i = 0; i < sizeof(counts) / sizeof(*counts); i++)
        for (unsigned k = 0; k < sizeof(bad) / sizeof(*bad); k++)
            refuse(CONFIG_LLAMA, counts[i], bad[k], ST_INVALID);
    for (unsigned i = 0; i < sizeof(counts) / sizeof(*counts); i++)
        if (strcmp(counts[i], "num_key_value_heads") != 0)
            refuse(CONFIG_LLAMA, counts[i], NULL, ST_INVALID);
    refuse(CONFIG_LLAMA, "num_hidden_layers", "257", ST_INVALID);
    refuse(CONFIG_LLAMA, "num_key_value_heads", "3", ST_INVALID);
    refuse(CONFIG_LLAMA, "num_key_value_heads", "8", ST_INVALID);
    refuse(CONFIG_LLAMA, "head_dim", "24", ST_UNSUPPORTED);
    refuse(CONFIG_LLAMA, "head_dim", "512", ST_INVALID);
    refuse(CONFIG_LLAMA, "num_attention_heads", "6", ST_INVALID); /* 64 is no multiple */
    refuse(CONFIG_LLAMA, "rms_norm_eps", "0", ST_INVALID);
    refuse(CONFIG_LLAMA, "rms_norm_eps", "-1e-5", ST_INVALID);
    refuse(CONFIG_LLAMA, "rope_theta", "0.5", ST_INVALID);
    refuse(CONFIG_LLAMA, "tie_word_embeddings", "1", ST_INVALID);
    refuse(CONFIG_MISTRAL, "sliding_window", "0", ST_INVALID);
}

static void test_desc_text_that_is_no_config_is_refused(void **state)
{
    (void)state;
    refuse_text("", ST_PARSE, "line 1");
    refuse_text("{", ST_PARSE, "line 1");
    refuse_text("[]", ST_INVALID, "object");
    refuse_text("null", ST_INVALID, "object");
    refuse_text("{}", ST_INVALID, "architectures");
    refuse_text("{\"architectures\":[]}", ST_INVALID, "architectures");
    refuse_text("{\"architectures\":{\"a\":\"LlamaForCausalLM\"}}", ST_INVALID, "architectures");
    refuse_text("{\"architectures\":[7]}", ST_INVALID, "architectures");
    refuse_text("{\"architectures\":[\"LlamaForCausalLM\",\"LlamaForCausalLM\"]}", ST_INVALID,
                "architectures");
    refuse_text("{\"architectures\":[\"MixtralForCausalLM\"]}", ST_UNSUPPORTED,
                "\"MixtralForCausalLM\" is not supported");
}

/* ---- End ids -------------------------------------------------------------------------------- */

static enum status parse_eos(const char *eos, const char *generation, struct model_desc *out,
                             char *err, size_t err_bytes)
{
    char *text = with(CONFIG_LLAMA, "eos_token_id", eos);
    enum status st = model_desc_parse(text, strlen(text), generation,
                                      generation != NULL ? strlen(generation) : 0, out,
                                      (struct text_error){err, err_bytes});
    free(text);
    return st;
}

static void test_desc_eos_is_the_union_of_both_files(void **state)
{
    struct model_desc d;
    char err[256];
    (void)state;
    assert_int_equal(parse_eos("5", "{\"eos_token_id\":[5,6]}", &d, err, sizeof(err)), ST_OK);
    assert_int_equal(d.n_eos, 2);
    assert_int_equal(d.eos[0], 5);
    assert_int_equal(d.eos[1], 6);
    assert_int_equal(parse_eos("null", "{\"eos_token_id\":9,\"top_p\":0.5}", &d, err, sizeof(err)),
                     ST_OK);
    assert_int_equal(d.n_eos, 1);
    assert_int_equal(parse_eos(NULL, NULL, &d, err, sizeof(err)), ST_OK);
    assert_int_equal(d.n_eos, 0);
}

static void test_desc_eos_that_is_no_id_is_refused(void **state)
{
    struct model_desc d;
    char err[256];
    (void)state;
    assert_int_equal(parse_eos("320", NULL, &d, err, sizeof(err)), ST_INVALID);
    assert_int_equal(parse_eos("-1", NULL, &d, err, sizeof(err)), ST_INVALID);
    assert_int_equal(parse_eos("[1,\"2\"]", NULL, &d, err, sizeof(err)), ST_INVALID);
    assert_int_equal(parse_eos("[1,2,3,4,5,6,7,8,9]", NULL, &d, err, sizeof(err)), ST_INVALID);
    assert_non_null(strstr(err, "config.json: field \"eos_token_id\""));
    assert_int_equal(parse_eos("1", "{\"eos_token_id\":320}", &d, err, sizeof(err)), ST_INVALID);
    assert_non_null(strstr(err, "generation_config.json: "));
    assert_int_equal(parse_eos("1", "[", &d, err, sizeof(err)), ST_PARSE);
}

/* ---- Files and hash ------------------------------------------------------------------------- */

static void test_desc_load_names_the_missing_file(void **state)
{
    struct model_dir dir;
    struct model_desc d;
    char err[256];
    struct text_error text = {err, sizeof(err)};
    (void)state;
    model_dir_make(&dir);
    assert_int_equal(model_desc_load(dir.path, &d, text), ST_NOT_FOUND);
    assert_non_null(strstr(err, "config.json"));
    model_dir_write_text(&dir, "config.json", CONFIG_LLAMA);
    assert_int_equal(model_desc_load(dir.path, &d, text), ST_OK);
    assert_int_equal(d.n_eos, 2);
    model_dir_write_text(&dir, "generation_config.json", "{\"eos_token_id\":7}");
    assert_int_equal(model_desc_load(dir.path, &d, text), ST_OK);
    assert_int_equal(d.n_eos, 3);
    model_dir_remove(&dir);
    assert_int_equal(model_desc_load(dir.path, &d, text), ST_NOT_FOUND);
}

static void test_desc_hash_differs_when_the_mathematics_does(void **state)
{
    static const struct {
        const char *field, *value;
    } changes[] = {{"num_hidden_layers", "4"},  {"rms_norm_eps", "1e-6"},
                   {"rope_theta", "20000.0"},   {"tie_word_embeddings", "true"},
                   {"attention_bias", "true"},  {"vocab_size", "336"},
                   {"head_dim", "32"},          {"num_key_value_heads", "4"},
                   {"intermediate_size", "128"}};
    uint8_t base[32], other[32];
    struct model_desc d = parse(CONFIG_LLAMA);
    (void)state;
    model_desc_hash(&d, base);
    for (unsigned i = 0; i < sizeof(changes) / sizeof(*changes); i++) {
        d = parse_with(CONFIG_LLAMA, changes[i].field, changes[i].value);
        model_desc_hash(&d, other);
        assert_memory_not_equal(base, other, 32);
    }
    d = parse_with(CONFIG_LLAMA, "transformers_version", "\"4.57.1\"");
    model_desc_hash(&d, other);
    assert_memory_equal(base, other, 32);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_desc_llama_is_read),
        cmocka_unit_test(test_desc_llama_biases_and_heads_follow_their_fields),
        cmocka_unit_test(test_desc_qwen2_has_qkv_biases_and_no_window_unless_used),
        cmocka_unit_test(test_desc_qwen3_has_qk_norm_and_its_own_head_dim),
        cmocka_unit_test(test_desc_mistral_slides_on_every_layer),
        cmocka_unit_test(test_desc_layer_types_choose_the_layers_that_slide),
        cmocka_unit_test(test_desc_dtypes_are_told_apart),
        cmocka_unit_test(test_desc_rope_linear_divides_positions),
        cmocka_unit_test(test_desc_rope_llama3_ramps_between_wavelengths),
        cmocka_unit_test(test_desc_rope_yarn_scales_attention_too),
        cmocka_unit_test(test_desc_rope_said_twice_must_agree),
        cmocka_unit_test(test_desc_rope_scaling_of_unknown_kind_is_refused),
        cmocka_unit_test(test_desc_fields_that_change_the_mathematics_are_refused),
        cmocka_unit_test(test_desc_neutral_values_of_such_fields_are_fine),
        cmocka_unit_test(test_desc_numbers_out_of_range_are_refused),
        cmocka_unit_test(test_desc_text_that_is_no_config_is_refused),
        cmocka_unit_test(test_desc_eos_is_the_union_of_both_files),
        cmocka_unit_test(test_desc_eos_that_is_no_id_is_refused),
        cmocka_unit_test(test_desc_load_names_the_missing_file),
        cmocka_unit_test(test_desc_hash_differs_when_the_mathematics_does),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
