/* dynd-bench: load generator, kernel and step benchmark. */
#include "bench_gemm.h"
#include "bench_kernels.h"
#include "bench_load.h"
#include "bench_step.h"
#include "bench_upload.h"

#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
    if (argc >= 2 && strcmp(argv[1], "load") == 0)
        return bench_load(argc - 1, argv + 1);
    if (argc >= 2 && strcmp(argv[1], "kernels") == 0)
        return bench_kernels(argc - 1, argv + 1);
    if (argc >= 2 && strcmp(argv[1], "gemm") == 0)
        return bench_gemm(argc - 1, argv + 1);
    if (argc >= 2 && strcmp(argv[1], "step") == 0)
        return bench_step(argc - 1, argv + 1);
    if (argc >= 2 && strcmp(argv[1], "upload") == 0)
        return bench_upload(argc - 1, argv + 1);
    fprintf(stderr, "usage: dynd-bench load ...     load generator for a running server\n"
                    "       dynd-bench kernels ...  CPU kernels against the memory bandwidth\n"
                    "       dynd-bench gemm ...     matrix products of a model on a device\n"
                    "       dynd-bench step ...     steps of the engine against their limits\n"
                    "       dynd-bench upload ...   weights from a file to a device\n");
    return 2;
}
