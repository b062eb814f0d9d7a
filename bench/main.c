/* dynd-bench: load generator and kernel benchmark. */
#include "bench_kernels.h"
#include "bench_load.h"

#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
    if (argc >= 2 && strcmp(argv[1], "load") == 0)
        return bench_load(argc - 1, argv + 1);
    if (argc >= 2 && strcmp(argv[1], "kernels") == 0)
        return bench_kernels(argc - 1, argv + 1);
    fprintf(stderr, "usage: dynd-bench load ...     load generator for a running server\n"
                    "       dynd-bench kernels ...  CPU kernels against the memory bandwidth\n");
    return 2;
}
