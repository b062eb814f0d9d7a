/* The end of a process's event loop. The loop's own thread. */
#ifndef CLUSTER_LOOP_H
#define CLUSTER_LOOP_H

#include <uv.h>

/* Closes every handle that is not closing yet, runs the loop until all close callbacks have been
 * called, and closes the loop. Handles closed here get no callback: their memory must outlive the
 * call. */
void loop_shut(uv_loop_t *loop);

#endif
