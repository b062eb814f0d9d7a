/* Process metrics from one table (metrics.def), Prometheus text 0.0.4.
 * Values are atomics: any thread counts, one renders. A series is (metric, label value). */
#ifndef OBSERVE_METRICS_H
#define OBSERVE_METRICS_H

#include "base/buf.h"
#include "base/status.h"

#include <stdint.h>

enum metric_id {
#define METRIC_COUNTER(name, help, label)            M_##name,
#define METRIC_GAUGE(name, help, label)              M_##name,
#define METRIC_HISTOGRAM(name, help, label, buckets) M_##name,
#include "observe/metrics.def"
#undef METRIC_COUNTER
#undef METRIC_GAUGE
#undef METRIC_HISTOGRAM
    M_COUNT
};

/* `label` is the value of the metric's one label, or NULL when it has none. At most 64 label values
 * a metric; further ones count under "other". */
void metric_add(enum metric_id id, const char *label, double delta);
void metric_set(enum metric_id id, const char *label, double value);
void metric_observe(enum metric_id id, const char *label, double value);
double metric_value(enum metric_id id, const char *label); /* counters, gauges; histograms: count */
/* Appends all series, dynd_ prefixed. */
enum status metrics_render(struct buf *out);

#endif
