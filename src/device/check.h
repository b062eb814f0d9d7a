/* Checks of op arguments against kernels/ops.h, the same for every device. Each answers ST_OK or
 * ST_INVALID. They look at shapes, strides, alignment and at the block tables (so a wrong index
 * cannot write outside the pool), never at tensor contents. Any thread. */
#ifndef DEVICE_CHECK_H
#define DEVICE_CHECK_H

#include "dynd/status.h"
#include "kernels/ops.h"

enum status device_check_gemm_pack(const struct gemm_pack_args *args);
enum status device_check_random_fill(const struct random_fill_args *args);
enum status device_check_gemm(const struct gemm_args *args);
enum status device_check_step_input(const struct step_input_args *args);
enum status device_check_step_output(const struct step_output_args *args);
enum status device_check_step_begin(const struct step_begin_args *args);
enum status device_check_embedding(const struct embedding_args *args);
enum status device_check_rmsnorm(const struct rmsnorm_args *args);
enum status device_check_rope(const struct rope_args *args);
enum status device_check_silu_mul(const struct silu_mul_args *args);
/* seq, pos and block_table are read here, so they must be host memory; not by the _shape ones. */
enum status device_check_kv_write(const struct kv_write_args *args);
enum status device_check_attention(const struct attention_args *args);
enum status device_check_attention_shape(const struct attention_args *args);
enum status device_check_qkv(const struct qkv_args *args); /* of the shape */
enum status device_check_sample(const struct sample_args *args);
enum status device_check_argmax(const struct argmax_args *args);

#endif
