/* Structured log on stderr: one line a call, text or JSON, bounded and lossy, never blocking a
 * request (a full pipe drops the line and counts it). Any thread. Prompts and keys are never
 * logged.
 *
 *   log_warn("kv transfer failed", LOG_U64("req", id), LOG_STR("peer", name)); */
#ifndef OBSERVE_LOG_H
#define OBSERVE_LOG_H

#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };

struct log_field {
    enum { LOG_FIELD_STR, LOG_FIELD_U64, LOG_FIELD_I64, LOG_FIELD_F64 } kind;
    const char *key;
    union {
        const char *str;
        uint64_t u64;
        int64_t i64;
        double f64;
    } value;
};

#define LOG_STR(k, v) ((struct log_field){.kind = LOG_FIELD_STR, .key = (k), .value.str = (v)})
#define LOG_U64(k, v) ((struct log_field){.kind = LOG_FIELD_U64, .key = (k), .value.u64 = (v)})
#define LOG_I64(k, v) ((struct log_field){.kind = LOG_FIELD_I64, .key = (k), .value.i64 = (v)})
#define LOG_F64(k, v) ((struct log_field){.kind = LOG_FIELD_F64, .key = (k), .value.f64 = (v)})

/* Sets level, format and a component name (copied, at most 63 bytes) put on every line. */
void log_setup(enum log_level level, bool json, const char *component);
bool log_is_on(enum log_level level);
uint64_t log_dropped_count(void);
void log_write(enum log_level level, const char *message, const struct log_field *fields,
               uint32_t n_fields);

#define LOG_AT(level, message, ...)                                                                \
    do {                                                                                           \
        if (log_is_on(level)) {                                                                    \
            const struct log_field log_fields_[] = {{0}, ##__VA_ARGS__};                           \
            log_write(level, message, log_fields_ + 1,                                             \
                      (uint32_t)(sizeof(log_fields_) / sizeof(log_fields_[0])) - 1);               \
        }                                                                                          \
    } while (0)
#define log_debug(...) LOG_AT(LOG_DEBUG, __VA_ARGS__)
#define log_info(...)  LOG_AT(LOG_INFO, __VA_ARGS__)
#define log_warn(...)  LOG_AT(LOG_WARN, __VA_ARGS__)
#define log_error(...) LOG_AT(LOG_ERROR, __VA_ARGS__)

#endif
