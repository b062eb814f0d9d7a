/* The ceilings of this GPU, which bench/gpu/run takes shares of:
 *   copy    device to device, bytes read and written
 *   read    a plain read of memory that no cache holds
 *   bf16, fp8   large matrix products by cuBLASLt (loaded at run time), the best of its algorithms:
 *               a burst, as a step of an engine is one; and sustained, when the card has grown hot
 *   bus     from pinned memory of the host to the device
 * Medians, on random data. The products are compared with float64 at random places: a rate of wrong
 * results is no ceiling. Exit code 1 when a ceiling cannot be measured; fp8 is left out where the
 * device has none. */
#include "bench/report.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>
#include <dlfcn.h>
#include <random>
#include <stdint.h>
#include <unistd.h>
#include <vector>

namespace
{

using bf16 = __nv_bfloat16;
using fp8 = __nv_fp8_e4m3;

constexpr size_t STREAM_BYTES = size_t(4) << 30;
constexpr size_t BUS_BYTES = size_t(256) << 20;
constexpr size_t WORKSPACE_BYTES = size_t(64) << 20;
constexpr uint32_t SIDE = 8192;   /* of the matrices, whose rows may be fewer */
constexpr uint32_t ALGOS_MAX = 6; /* tried for each number of rows */
constexpr uint32_t REST_US = 40000;
constexpr uint32_t N_PROBES = 256; /* elements compared */
constexpr double TOLERANCE = 1e-2; /* bf16 results of 8192 terms */
constexpr double TFLOP_ROW = 2e-12 * SIDE * SIDE;

void must(cudaError_t err, const char *what)
{
    if (err == cudaSuccess)
        return;
    fprintf(stderr, "ceilings: %s: %s\n", what, cudaGetErrorString(err));
    exit(1);
}

template <typename T> T *device_alloc(size_t n)
{
    void *ptr = nullptr;
    must(cudaMalloc(&ptr, n * sizeof(T)), "cudaMalloc");
    return static_cast<T *>(ptr);
}

/* Median seconds of a call that puts work on the null stream. */
template <typename F> double seconds_of(uint32_t n_runs, F call)
{
    cudaEvent_t from, to;
    std::vector<float> ms(n_runs);
    must(cudaEventCreate(&from), "event");
    must(cudaEventCreate(&to), "event");
    call(); /* warms up */
    for (float &t : ms) {
        must(cudaEventRecord(from), "record");
        call();
        must(cudaEventRecord(to), "record");
        must(cudaEventSynchronize(to), "run");
        must(cudaEventElapsedTime(&t, from, to), "elapsed");
    }
    cudaEventDestroy(from);
    cudaEventDestroy(to);
    std::nth_element(ms.begin(), ms.begin() + n_runs / 2, ms.end());
    return ms[n_runs / 2] * 1e-3;
}

void print_ceiling(const char *name, double value, const char *unit)
{
    char what[32];
    snprintf(what, sizeof(what), "ceiling %s", name);
    printf("%-24s %8.1f %s\n", what, value, unit);
    fflush(stdout);
    report_row(nullptr, what, value, unit, 0);
}

/* ---- memory ---------------------------------------------------------------------------------- */

__device__ uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

/* About normal: the sum of four uniform numbers. */
template <typename T> __global__ void fill(T *dst, size_t n, uint64_t seed)
{
    size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x;
    for (; i < n; i += size_t(gridDim.x) * blockDim.x) {
        uint64_t x = mix(seed ^ mix(i));
        float sum = 0.0f;
        for (int k = 0; k < 4; k++)
            sum += float(x >> (16 * k) & 0xffff) * (1.0f / 65536.0f) - 0.5f;
        dst[i] = T(sum * 1.7320508f);
    }
}

template <int LOADS> __global__ void read_all(const uint4 *src, size_t n, uint32_t *out)
{
    size_t step = size_t(gridDim.x) * blockDim.x;
    size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x;
    uint32_t sum = 0;
    for (; i < n; i += LOADS * step) {
        uint4 v[LOADS];
#pragma unroll
        for (int k = 0; k < LOADS; k++)
            v[k] = i + k * step < n ? __ldcs(src + i + k * step) : make_uint4(0, 0, 0, 0);
#pragma unroll
        for (int k = 0; k < LOADS; k++)
            sum ^= v[k].x ^ v[k].y ^ v[k].z ^ v[k].w;
    }
    if (sum == 0x12345678u) /* hardly ever; keeps the reads from being removed */
        *out = sum;
}

__global__ void copy_all(const uint4 *src, size_t n, uint4 *dst)
{
    constexpr int LOADS = 4;
    size_t step = size_t(gridDim.x) * blockDim.x;
    size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x;
    for (; i < n; i += LOADS * step) {
        uint4 v[LOADS];
#pragma unroll
        for (int k = 0; k < LOADS; k++)
            if (i + k * step < n)
                v[k] = __ldcs(src + i + k * step);
#pragma unroll
        for (int k = 0; k < LOADS; k++)
            if (i + k * step < n)
                __stcs(dst + i + k * step, v[k]);
    }
}

void memory_measure(uint32_t n_sms)
{
    char *a = device_alloc<char>(STREAM_BYTES), *b = device_alloc<char>(STREAM_BYTES);
    const uint4 *src = reinterpret_cast<const uint4 *>(a);
    size_t n = STREAM_BYTES / sizeof(uint4);
    fill<<<n_sms * 8, 256>>>(reinterpret_cast<bf16 *>(a), STREAM_BYTES / 2, 1);
    fill<<<n_sms * 8, 256>>>(reinterpret_cast<bf16 *>(b), STREAM_BYTES / 2, 2);
    double copy = seconds_of(
        9, [&] { must(cudaMemcpyAsync(b, a, STREAM_BYTES, cudaMemcpyDeviceToDevice), "copy"); });
    double read = 1e9;
    for (uint32_t per_sm : {1u, 2u, 4u, 8u}) {
        uint32_t threads = std::min(1024u, 2048u / per_sm), grid = n_sms * per_sm;
        copy = std::min(copy, seconds_of(9, [&] {
                            copy_all<<<grid, threads>>>(src, n, reinterpret_cast<uint4 *>(b));
                            must(cudaGetLastError(), "copy");
                        }));
        read = std::min(read, seconds_of(9, [&] {
                            read_all<4><<<grid, threads>>>(src, n, reinterpret_cast<uint32_t *>(b));
                            must(cudaGetLastError(), "read");
                        }));
        read = std::min(read, seconds_of(9, [&] {
                            read_all<8><<<grid, threads>>>(src, n, reinterpret_cast<uint32_t *>(b));
                            must(cudaGetLastError(), "read");
                        }));
    }
    cudaFree(a);
    cudaFree(b);
    print_ceiling("copy", 2e-9 * double(STREAM_BYTES) / copy, "GB/s");
    print_ceiling("read", 1e-9 * double(STREAM_BYTES) / read, "GB/s");
}

void bus_measure()
{
    void *host = nullptr;
    char *dst = device_alloc<char>(BUS_BYTES);
    must(cudaMallocHost(&host, BUS_BYTES), "pinned memory");
    memset(host, 0x5a, BUS_BYTES);
    double seconds = seconds_of(
        9, [&] { must(cudaMemcpyAsync(dst, host, BUS_BYTES, cudaMemcpyHostToDevice), "copy in"); });
    cudaFreeHost(host);
    cudaFree(dst);
    print_ceiling("bus", 1e-9 * double(BUS_BYTES) / seconds, "GB/s");
}

/* ---- matrix products --------------------------------------------------------------------------
 */

#define LT_FUNCTIONS(F)                                                                            \
    F(cublasLtCreate)                                                                              \
    F(cublasLtMatmul)                                                                              \
    F(cublasLtMatmulAlgoGetHeuristic)                                                              \
    F(cublasLtMatmulDescCreate)                                                                    \
    F(cublasLtMatmulDescSetAttribute)                                                              \
    F(cublasLtMatrixLayoutCreate)                                                                  \
    F(cublasLtMatmulPreferenceCreate)                                                              \
    F(cublasLtMatmulPreferenceSetAttribute)

struct lt {
#define F(name) decltype(&::name) name;
    LT_FUNCTIONS(F)
#undef F
    cublasLtHandle_t handle;
    void *workspace;
};

void lt_must(cublasStatus_t rc, const char *what)
{
    if (rc == CUBLAS_STATUS_SUCCESS)
        return;
    fprintf(stderr, "ceilings: cuBLASLt, %s: status %d\n", what, int(rc));
    exit(1);
}

lt lt_open()
{
    lt lib = {};
    char file[32];
    snprintf(file, sizeof(file), "libcublasLt.so.%d", CUBLAS_VER_MAJOR);
    void *so = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    bool is_whole = so != nullptr;
#define F(name)                                                                                    \
    lib.name = is_whole ? reinterpret_cast<decltype(lib.name)>(dlsym(so, #name)) : nullptr;        \
    is_whole = is_whole && lib.name != nullptr;
    LT_FUNCTIONS(F)
#undef F
    if (!is_whole) {
        fprintf(stderr, "ceilings: %s cannot be loaded: %s\n", file,
                so == nullptr ? dlerror() : "a function is missing in it");
        exit(1);
    }
    lt_must(lib.cublasLtCreate(&lib.handle), "start");
    lib.workspace = device_alloc<char>(WORKSPACE_BYTES);
    return lib;
}

/* y[rows, n] = x[rows, k] w[n, k]^T, each row-major; y of bf16. */
struct product {
    uint32_t rows;
    cublasLtMatmulDesc_t op;
    cublasLtMatrixLayout_t w, x, y;
    cublasLtMatmulHeuristicResult_t found[ALGOS_MAX];
    int n_found;
};

product product_make(const lt &lib, cudaDataType_t type, uint32_t rows, const float *device_one)
{
    product p = {};
    p.rows = rows;
    cublasOperation_t transpose = CUBLAS_OP_T;
    cublasLtMatmulPreference_t preference = nullptr;
    size_t space = WORKSPACE_BYTES;
    auto set = [&](cublasLtMatmulDescAttributes_t name, const void *value, size_t bytes) {
        lt_must(lib.cublasLtMatmulDescSetAttribute(p.op, name, value, bytes), "attribute");
    };
    lt_must(lib.cublasLtMatmulDescCreate(&p.op, CUBLAS_COMPUTE_32F, CUDA_R_32F), "describe");
    set(CUBLASLT_MATMUL_DESC_TRANSA, &transpose, sizeof(transpose));
    if (type == CUDA_R_8F_E4M3) {
        int8_t is_fast = 1; /* as inference engines use it */
        set(CUBLASLT_MATMUL_DESC_FAST_ACCUM, &is_fast, sizeof(is_fast));
        set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &device_one, sizeof(device_one));
        set(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &device_one, sizeof(device_one));
    }
    lt_must(lib.cublasLtMatrixLayoutCreate(&p.w, type, SIDE, SIDE, SIDE), "describe w");
    lt_must(lib.cublasLtMatrixLayoutCreate(&p.x, type, SIDE, rows, SIDE), "describe x");
    lt_must(lib.cublasLtMatrixLayoutCreate(&p.y, CUDA_R_16BF, SIDE, rows, SIDE), "describe y");
    lt_must(lib.cublasLtMatmulPreferenceCreate(&preference), "preference");
    lt_must(lib.cublasLtMatmulPreferenceSetAttribute(
                preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &space, sizeof(space)),
            "preference");
    cublasStatus_t rc = lib.cublasLtMatmulAlgoGetHeuristic(
        lib.handle, p.op, p.w, p.x, p.y, p.y, preference, int(ALGOS_MAX), p.found, &p.n_found);
    if (rc != CUBLAS_STATUS_NOT_SUPPORTED)
        lt_must(rc, "look for algorithms");
    return p;
}

/* Squared error and squared value of one element a block. */
template <typename T>
__global__ void probe(const T *w, const T *x, const bf16 *y, uint64_t seed, double2 *out)
{
    __shared__ double part[256];
    uint64_t at = mix(seed + blockIdx.x);
    uint64_t row = at % SIDE, col = (at >> 32) % SIDE;
    double sum = 0.0;
    for (uint32_t k = threadIdx.x; k < SIDE; k += blockDim.x)
        sum += double(float(x[row * SIDE + k])) * double(float(w[col * SIDE + k]));
    part[threadIdx.x] = sum;
    __syncthreads();
    for (uint32_t n = 128; n > 0; n /= 2) {
        if (threadIdx.x < n)
            part[threadIdx.x] += part[threadIdx.x + n];
        __syncthreads();
    }
    double err = double(float(y[row * SIDE + col])) - part[0];
    if (threadIdx.x == 0)
        out[blockIdx.x] = make_double2(err * err, part[0] * part[0]);
}

template <typename T> bool is_right(const T *w, const T *x, const bf16 *y, uint64_t seed)
{
    double2 *out = device_alloc<double2>(N_PROBES), host[N_PROBES];
    probe<<<N_PROBES, 256>>>(w, x, y, seed, out);
    must(cudaMemcpy(host, out, sizeof(host), cudaMemcpyDeviceToHost), "compare");
    cudaFree(out);
    double err = 0.0, ref = 0.0;
    for (const double2 &p : host)
        err += p.x, ref += p.y;
    return std::sqrt(err / ref) < TOLERANCE; /* false for NaN */
}

struct rates { /* TFLOP/s; 0: this device has no such product */
    double burst, sustained;
};

template <typename T> rates product_measure(const lt &lib, cudaDataType_t type, uint64_t seed)
{
    const size_t n = size_t(SIDE) * SIDE;
    const float one = 1.0f, zero = 0.0f;
    T *w = device_alloc<T>(n), *x = device_alloc<T>(n);
    bf16 *y = device_alloc<bf16>(n);
    float *device_one = device_alloc<float>(1);
    must(cudaMemcpy(device_one, &one, sizeof(one), cudaMemcpyHostToDevice), "copy");
    fill<<<1024, 256>>>(w, n, seed);
    fill<<<1024, 256>>>(x, n, seed + 1);
    must(cudaMemset(y, 0xff, n * sizeof(bf16)), "poison"); /* NaN */
    rates best = {};
    auto rate_of = [&](const product &p, int i, uint32_t n_runs) {
        double seconds = seconds_of(n_runs, [&] {
            lt_must(lib.cublasLtMatmul(lib.handle, p.op, &one, w, p.w, x, p.x, &zero, y, p.y, y,
                                       p.y, &p.found[i].algo, lib.workspace, WORKSPACE_BYTES,
                                       nullptr),
                    "product");
        });
        return TFLOP_ROW * p.rows / seconds;
    };
    for (uint32_t rows : {SIDE / 8, SIDE / 4, SIDE / 2, SIDE}) {
        product p = product_make(lib, type, rows, device_one);
        double whole = 0.0; /* the best of this number of rows */
        int which = -1;
        for (int i = 0; i < p.n_found; i++) {
            usleep(REST_US);
            double rate = rate_of(p, i, 7);
            if (rate > whole)
                whole = rate, which = i;
        }
        best.burst = std::max(best.burst, whole);
        if (rows == SIDE && which >= 0)
            best.sustained = rate_of(p, which, 101);
    }
    if (best.sustained > 0.0 && !is_right(w, x, y, seed)) {
        fprintf(stderr, "ceilings: the product is wrong\n");
        exit(1);
    }
    cudaFree(w);
    cudaFree(x);
    cudaFree(y);
    cudaFree(device_one);
    return best;
}

} // namespace

int main()
{
    cudaDeviceProp prop;
    uint64_t seed = std::random_device{}();
    must(cudaGetDeviceProperties(&prop, 0), "device");
    printf("%s, %d multiprocessors\n", prop.name, prop.multiProcessorCount);
    memory_measure(uint32_t(prop.multiProcessorCount));
    bus_measure();
    lt lib = lt_open();
    rates bf16_rates = product_measure<bf16>(lib, CUDA_R_16BF, seed);
    rates fp8_rates = product_measure<fp8>(lib, CUDA_R_8F_E4M3, seed + 7);
    if (bf16_rates.burst == 0.0) {
        fprintf(stderr, "ceilings: cuBLASLt has no bf16 product for this device\n");
        return 1;
    }
    print_ceiling("bf16", bf16_rates.burst, "TFLOP/s");
    print_ceiling("bf16 sustained", bf16_rates.sustained, "TFLOP/s");
    if (fp8_rates.burst == 0.0) {
        printf("no fp8 products on this device\n");
        return 0;
    }
    print_ceiling("fp8", fp8_rates.burst, "TFLOP/s");
    print_ceiling("fp8 sustained", fp8_rates.sustained, "TFLOP/s");
    return 0;
}
