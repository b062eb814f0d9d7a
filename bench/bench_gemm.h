/* `dynd-bench gemm`: the engine's way through the matrix products of a model, whatever kernel or
 * library it takes, against the limits of the machine. */
#ifndef BENCH_BENCH_GEMM_H
#define BENCH_BENCH_GEMM_H

/* argv[1..]: --model DIR (config.json: the shapes of a layer and of the head), --device cpu|cuda,
 * --rows N,N,..., --fp8 row|block (weights of 8 bits, scaled so; not those of the head), --gbps N,
 * --tflops N and --fp8-tflops N (the measured ceilings that shares are taken of), --threads N.
 * Prints a table. Exit code. */
int bench_gemm(int argc, char **argv);

#endif
