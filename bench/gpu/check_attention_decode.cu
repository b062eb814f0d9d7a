/* Checks and times cuda_attention_decode by itself.
 *
 *     check_attention_decode [check | few | time | all] [label]      few: for a sanitizer
 *
 * Checks: fresh random inputs, the output and all of the pool that no position holds poisoned with
 * NaN, lengths around the tile and the block, against a float64 reference (on the host when the
 * case is small, else by a plain kernel). Also: gaps and padding rows stay untouched, the bits of
 * three runs agree, the counters are zero again, one captured graph serves two sets of lengths.
 * Times: a graph of one call per layer, the layers larger than the L2 together; median of replays;
 * as a share of the device copy (bytes read and written) measured in the same run. */
#include "kernels/cuda/cuda_ops.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <vector>

namespace
{

#define MUST(call)                                                                                 \
    do {                                                                                           \
        cudaError_t must_err = (call);                                                             \
        if (must_err != cudaSuccess) {                                                             \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, cudaGetErrorString(must_err));      \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

constexpr double ERR_ALL_MAX = 5e-3;      /* ||out - ref|| / ||ref|| over a case */
constexpr double ERR_ROW_MAX = 2e-2;      /* over one head of one row */
constexpr uint32_t LAYER = 1, LAYERS = 3; /* of the checks */

uint32_t n_sms;
uint32_t random_state = 1;

uint32_t random_next()
{
    random_state = random_state * 1664525u + 1013904223u;
    return random_state >> 8;
}

template <class T> T *device_alloc(size_t n)
{
    void *ptr;
    MUST(cudaMalloc(&ptr, n * sizeof(T)));
    return static_cast<T *>(ptr);
}

template <class T> T *device_copy(const std::vector<T> &host)
{
    T *ptr = device_alloc<T>(std::max<size_t>(host.size(), 1));
    MUST(cudaMemcpy(ptr, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice));
    return ptr;
}

__device__ uint32_t hash32(uint64_t x)
{
    x = (x ^ (x >> 31)) * 0x7fb5d329728ea185ull;
    x = (x ^ (x >> 27)) * 0x81dadef4bc2dd44dull;
    return static_cast<uint32_t>(x >> 32);
}

/* A normal deviate of counter i. */
__device__ float normal_at(uint64_t i, uint32_t seed)
{
    float u = (hash32(i * 2u + (static_cast<uint64_t>(seed) << 40)) + 1.0f) * 2.3283064e-10f;
    float v = hash32(i * 2u + 1u + (static_cast<uint64_t>(seed) << 40)) * 2.3283064e-10f;
    return sqrtf(-2.0f * logf(fminf(u, 1.0f))) * cospif(2.0f * v);
}

__global__ void fill_normal(__nv_bfloat16 *dst, size_t n, uint32_t seed, float scale)
{
    size_t step = static_cast<size_t>(gridDim.x) * blockDim.x;
    for (size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x; i < n; i += step)
        dst[i] = __float2bfloat16(normal_at(i, seed) * scale);
}

/* K and V of every position of every sequence; grid (n_seqs, n_kv_heads). */
__global__ void fill_positions(ops_kv_pool pool, uint32_t layer, cuda_seqs seqs, uint32_t seed)
{
    uint32_t seq = blockIdx.x, head = blockIdx.y, d = pool.head_dim, bt = pool.block_tokens;
    size_t n = static_cast<size_t>(seqs.kv_tokens[seq]) * d * 2u;
    for (size_t i = threadIdx.x; i < n; i += blockDim.x) {
        uint32_t is_v = i % 2u, dim = i / 2u % d, pos = static_cast<uint32_t>(i / 2u / d);
        uint64_t block = seqs.block_table[static_cast<size_t>(seq) * seqs.table_stride + pos / bt];
        uint64_t plane = (static_cast<uint64_t>(layer) * pool.n_kv_heads + head) * 2u + is_v;
        char *at = static_cast<char *>(pool.base) + block * pool.block_bytes +
                   ((plane * bt + pos % bt) * d + dim) * 2u;
        *reinterpret_cast<__nv_bfloat16 *>(at) =
            __float2bfloat16(normal_at(i + (static_cast<uint64_t>(seq * 64u + head) << 32), seed));
    }
}

/* The reference on the device: grid (n_seqs, n_heads); scores [n_seqs, n_heads, kv_max]. */
__global__ void reference_kernel(cuda_attention_args a, double *scores, uint32_t kv_max,
                                 double *ref)
{
    uint32_t seq = blockIdx.x, h = blockIdx.y, d = a.pool.head_dim, bt = a.pool.block_tokens;
    uint32_t end = a.seqs.kv_tokens[seq];
    uint32_t lo = a.window && end > a.window ? end - a.window : 0;
    uint64_t kv_head = h / (a.n_heads / a.pool.n_kv_heads);
    if (end == 0)
        return;
    double *s = scores + (static_cast<size_t>(seq) * a.n_heads + h) * kv_max;
    const __nv_bfloat16 *q =
        static_cast<const __nv_bfloat16 *>(a.q) + seq * a.q_stride + static_cast<size_t>(h) * d;
    const char *base = static_cast<const char *>(a.pool.base);
    uint64_t plane = (a.layer * a.pool.n_kv_heads + kv_head) * 2u * bt * d * 2u;
    const uint32_t *table = a.seqs.block_table + static_cast<size_t>(seq) * a.seqs.table_stride;
    for (uint32_t pos = lo + threadIdx.x; pos < end; pos += blockDim.x) {
        const __nv_bfloat16 *k = reinterpret_cast<const __nv_bfloat16 *>(
            base + table[pos / bt] * a.pool.block_bytes + plane + pos % bt * d * 2u);
        double sum = 0;
        for (uint32_t i = 0; i < d; i++)
            sum += static_cast<double>(__bfloat162float(q[i])) * __bfloat162float(k[i]);
        s[pos] = sum * a.scale;
    }
    __syncthreads();
    double top = a.sinks ? a.sinks[h] : -1e300, total = 0;
    for (uint32_t pos = lo; pos < end; pos++)
        top = fmax(top, s[pos]);
    if (a.sinks)
        total = exp(a.sinks[h] - top);
    __syncthreads();
    for (uint32_t pos = lo + threadIdx.x; pos < end; pos += blockDim.x)
        s[pos] = exp(s[pos] - top);
    __syncthreads();
    for (uint32_t pos = lo; pos < end; pos++)
        total += s[pos];
    for (uint32_t i = threadIdx.x; i < d; i += blockDim.x) {
        double sum = 0;
        for (uint32_t pos = lo; pos < end; pos++) {
            const __nv_bfloat16 *v = reinterpret_cast<const __nv_bfloat16 *>(
                base + table[pos / bt] * a.pool.block_bytes + plane + (bt + pos % bt) * d * 2u);
            sum += s[pos] * __bfloat162float(v[i]);
        }
        ref[(static_cast<size_t>(seq) * a.n_heads + h) * d + i] = sum / total;
    }
}

float from_bf16(uint16_t bits)
{
    uint32_t wide = static_cast<uint32_t>(bits) << 16;
    float value;
    memcpy(&value, &wide, 4);
    return value;
}

struct shape {
    uint32_t n_kv_heads, group, head_dim, block_tokens, window, has_sinks;
};

/* A step with all its memory on the device. */
struct step {
    shape sh;
    cuda_attention_args args;
    std::vector<uint32_t> lens, table;
    std::vector<float> sinks;
    size_t pool_bytes, out_n; /* out_n: elements, with the gaps */
    void *plan, *work;
    size_t work_bytes;
};

step step_create(const shape &sh, const std::vector<uint32_t> &lens, uint32_t n_layers,
                 uint32_t extra_bytes)
{
    step s = {};
    s.sh = sh;
    s.lens = lens;
    uint32_t n_seqs = static_cast<uint32_t>(lens.size()), n_blocks = 0, stride = 1;
    for (uint32_t len : lens) {
        uint32_t n = (len + sh.block_tokens - 1) / sh.block_tokens;
        n_blocks += n;
        stride = std::max(stride, n + 1);
    }
    std::vector<uint32_t> order(n_blocks + 3);
    for (uint32_t i = 0; i < order.size(); i++)
        order[i] = i;
    for (uint32_t i = static_cast<uint32_t>(order.size()) - 1; i > 0; i--)
        std::swap(order[i], order[random_next() % (i + 1)]);
    s.table.assign(static_cast<size_t>(n_seqs) * stride, 0xfffffff0u); /* never to be followed */
    uint32_t used = 0;
    for (uint32_t q = 0; q < n_seqs; q++)
        for (uint32_t i = 0; i * sh.block_tokens < lens[q]; i++)
            s.table[static_cast<size_t>(q) * stride + i] = order[used++];

    cuda_attention_args &a = s.args;
    uint32_t n_heads = sh.n_kv_heads * sh.group, width = n_heads * sh.head_dim;
    a.pool = {nullptr,         0,           n_blocks + 3, n_layers, sh.n_kv_heads,
              sh.block_tokens, sh.head_dim, OPS_BF16};
    a.pool.block_bytes = ops_kv_block_bytes(&a.pool) + extra_bytes;
    s.pool_bytes = a.pool.block_bytes * a.pool.n_blocks;
    a.pool.base = device_alloc<char>(s.pool_bytes);
    a.q_stride = width + 8;
    a.out_stride = width + 24;
    s.out_n = static_cast<size_t>(n_seqs) * a.out_stride;
    a.q = device_alloc<uint16_t>(n_seqs * a.q_stride);
    a.out = device_alloc<uint16_t>(s.out_n);
    a.layer = LAYER;
    a.n_heads = n_heads;
    a.window = sh.window;
    a.scale = 1.0f / sqrtf(static_cast<float>(sh.head_dim));
    for (uint32_t h = 0; h < n_heads; h++)
        s.sinks.push_back(static_cast<float>(h % 5) - 1.0f);
    a.sinks = sh.has_sinks ? device_copy(s.sinks) : nullptr;
    a.seqs = {n_seqs, nullptr, device_copy(lens), device_copy(s.table), stride};
    a.n_rows = n_seqs;
    fill_normal<<<256, 256>>>(static_cast<__nv_bfloat16 *>(const_cast<void *>(a.q)),
                              n_seqs * a.q_stride, random_next(), 2.0f);
    s.plan = device_alloc<char>(cuda_decode_plan_bytes(n_seqs));
    s.work_bytes = cuda_decode_workspace_bytes(n_seqs, n_heads, sh.head_dim, n_sms);
    s.work = device_alloc<char>(s.work_bytes);
    MUST(cudaMemset(s.plan, 0xff, cuda_decode_plan_bytes(n_seqs)));
    MUST(cudaMemset(s.work, 0, s.work_bytes));
    return s;
}

void step_destroy(step &s)
{
    cudaFree(s.args.pool.base);
    cudaFree(const_cast<void *>(s.args.q));
    cudaFree(s.args.out);
    cudaFree(const_cast<float *>(s.args.sinks));
    cudaFree(const_cast<uint32_t *>(s.args.seqs.kv_tokens));
    cudaFree(const_cast<uint32_t *>(s.args.seqs.block_table));
    cudaFree(s.plan);
    cudaFree(s.work);
}

std::vector<double> reference_host(const step &s)
{
    const cuda_attention_args &a = s.args;
    uint32_t d = s.sh.head_dim, bt = s.sh.block_tokens;
    std::vector<uint16_t> pool(s.pool_bytes / 2), q(s.lens.size() * a.q_stride);
    std::vector<double> ref(s.lens.size() * a.n_heads * d), w;
    MUST(cudaMemcpy(pool.data(), a.pool.base, s.pool_bytes, cudaMemcpyDeviceToHost));
    MUST(cudaMemcpy(q.data(), a.q, q.size() * 2, cudaMemcpyDeviceToHost));
    for (uint32_t seq = 0; seq < s.lens.size(); seq++)
        for (uint32_t h = 0; h < a.n_heads; h++) {
            uint32_t end = s.lens[seq], lo = a.window && end > a.window ? end - a.window : 0;
            double top = a.sinks ? s.sinks[h] : -1e300, total = 0;
            auto plane = [&](uint32_t pos, uint32_t is_v) {
                uint32_t block = s.table[static_cast<size_t>(seq) * a.seqs.table_stride + pos / bt];
                return pool.data() +
                       ops_kv_plane_offset(&a.pool, block, a.layer, h / s.sh.group, is_v) / 2 +
                       static_cast<size_t>(pos % bt) * d;
            };
            w.assign(end, 0);
            for (uint32_t pos = lo; pos < end; pos++) {
                for (uint32_t i = 0; i < d; i++)
                    w[pos] += static_cast<double>(from_bf16(q[seq * a.q_stride + h * d + i])) *
                              from_bf16(plane(pos, 0)[i]);
                w[pos] *= a.scale;
                top = std::max(top, w[pos]);
            }
            double *out = ref.data() + (static_cast<size_t>(seq) * a.n_heads + h) * d;
            total = a.sinks ? exp(s.sinks[h] - top) : 0;
            for (uint32_t pos = lo; pos < end; pos++) {
                double weight = exp(w[pos] - top);
                total += weight;
                for (uint32_t i = 0; i < d; i++)
                    out[i] += weight * from_bf16(plane(pos, 1)[i]);
            }
            for (uint32_t i = 0; i < d && end > 0; i++)
                out[i] /= total;
        }
    return ref;
}

std::vector<double> reference_device(const step &s)
{
    uint32_t n_seqs = static_cast<uint32_t>(s.lens.size());
    uint32_t kv_max = *std::max_element(s.lens.begin(), s.lens.end()) + 1;
    size_t n = static_cast<size_t>(n_seqs) * s.args.n_heads * s.sh.head_dim;
    double *scores = device_alloc<double>(static_cast<size_t>(n_seqs) * s.args.n_heads * kv_max);
    double *ref = device_alloc<double>(n);
    MUST(cudaMemset(ref, 0, n * sizeof(double)));
    reference_kernel<<<dim3(n_seqs, s.args.n_heads), 128>>>(s.args, scores, kv_max, ref);
    MUST(cudaGetLastError());
    std::vector<double> host(n);
    MUST(cudaMemcpy(host.data(), ref, n * sizeof(double), cudaMemcpyDeviceToHost));
    cudaFree(scores);
    cudaFree(ref);
    return host;
}

std::vector<uint16_t> out_fetch(const step &s)
{
    std::vector<uint16_t> out(s.out_n);
    MUST(cudaDeviceSynchronize());
    MUST(cudaMemcpy(out.data(), s.args.out, out.size() * 2, cudaMemcpyDeviceToHost));
    return out;
}

/* NULL when all is well, else what is wrong. */
const char *out_judge(const step &s, const std::vector<double> &ref,
                      const std::vector<uint16_t> &out, double *out_err, double *out_err_row)
{
    uint32_t d = s.sh.head_dim, width = s.args.n_heads * d;
    double all_diff = 0, all_ref = 0, worst = 0;
    for (uint32_t seq = 0; seq < s.lens.size(); seq++) {
        const uint16_t *row = out.data() + seq * s.args.out_stride;
        for (uint32_t i = s.lens[seq] ? width : 0; i < s.args.out_stride; i++)
            if (row[i] != 0xffff)
                return "wrote beside its rows";
        for (uint32_t h = 0; h < s.args.n_heads && s.lens[seq]; h++) {
            double diff = 0, norm = 0;
            for (uint32_t i = 0; i < d; i++) {
                double want = ref[(static_cast<size_t>(seq) * s.args.n_heads + h) * d + i];
                double got = from_bf16(row[h * d + i]);
                diff += (got - want) * (got - want);
                norm += want * want;
            }
            all_diff += diff;
            all_ref += norm;
            double err = sqrt(diff / norm);
            worst = err <= worst ? worst : err; /* a NaN stays */
        }
    }
    *out_err = all_ref > 0 ? sqrt(all_diff / all_ref) : 0;
    *out_err_row = worst;
    if (!(*out_err <= ERR_ALL_MAX) || !(worst <= ERR_ROW_MAX))
        return "too far from the reference";
    return nullptr;
}

const char *counters_judge(const step &s)
{
    std::vector<uint32_t> head(1024);
    MUST(cudaMemcpy(head.data(), s.work, 4096, cudaMemcpyDeviceToHost));
    for (uint32_t word : head)
        if (word != 0)
            return "left a counter behind";
    return nullptr;
}

void step_launch(const step &s, cudaStream_t stream)
{
    MUST(cuda_decode_plan(&s.args, n_sms, s.plan, stream));
    MUST(cuda_attention_decode(&s.args, n_sms, s.plan, s.work, stream));
}

struct tally {
    uint32_t n_cases, n_failed;
    double err, err_row; /* worst of all cases */
};

void check_case(const shape &sh, const std::vector<uint32_t> &lens, tally *t)
{
    step s = step_create(sh, lens, LAYERS, (random_next() % 3) * 64);
    double work = 0, err = 0, err_row = 0;
    for (uint32_t len : lens)
        work += static_cast<double>(len) * s.args.n_heads * sh.head_dim;
    MUST(cudaMemset(s.args.pool.base, 0xff, s.pool_bytes));
    fill_positions<<<dim3(s.args.n_rows, sh.n_kv_heads), 256>>>(s.args.pool, LAYER, s.args.seqs,
                                                                random_next());
    MUST(cudaGetLastError());
    std::vector<double> ref = work < 1.5e6 ? reference_host(s) : reference_device(s);
    std::vector<uint16_t> first;
    const char *wrong = nullptr;
    for (int run = 0; run < 3 && !wrong; run++) {
        MUST(cudaMemset(s.args.out, 0xff, s.out_n * 2));
        step_launch(s, 0);
        std::vector<uint16_t> out = out_fetch(s);
        if (run == 0)
            wrong = out_judge(s, ref, out, &err, &err_row);
        else if (out != first)
            wrong = "other bits in another run";
        if (run == 0)
            first = out;
        if (!wrong)
            wrong = counters_judge(s);
    }
    t->n_cases++;
    t->err = std::max(t->err, err);
    t->err_row = std::max(t->err_row, err_row);
    if (wrong) {
        t->n_failed++;
        printf("FAILED hd %u group %u kv %u block %u window %u sinks %u seqs %zu: %s (%.2e, row "
               "%.2e)\n",
               sh.head_dim, sh.group, sh.n_kv_heads, sh.block_tokens, sh.window, sh.has_sinks,
               lens.size(), wrong, err, err_row);
    }
    step_destroy(s);
}

/* One graph of plan and attention, replayed after the lengths changed on the device. */
void check_graph(tally *t)
{
    std::vector<uint32_t> lens = {300, 2000, 64, 900}, other = {17, 0, 1, 333};
    step s = step_create({4, 4, 128, 64, 0, 0}, lens, LAYERS, 0);
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    double err = 0, err_row = 0;
    fill_positions<<<dim3(4, 4), 256>>>(s.args.pool, LAYER, s.args.seqs, 5);
    MUST(cudaStreamCreate(&stream));
    MUST(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    step_launch(s, stream);
    MUST(cudaStreamEndCapture(stream, &graph));
    MUST(cudaGraphInstantiate(&exec, graph, 0));
    for (int round = 0; round < 4; round++) {
        s.lens = round % 2 ? other : lens;
        MUST(cudaMemcpy(const_cast<uint32_t *>(s.args.seqs.kv_tokens), s.lens.data(), 16,
                        cudaMemcpyHostToDevice));
        MUST(cudaMemset(s.args.out, 0xff, s.out_n * 2));
        MUST(cudaDeviceSynchronize());
        MUST(cudaGraphLaunch(exec, stream));
        const char *wrong = out_judge(s, reference_device(s), out_fetch(s), &err, &err_row);
        t->n_cases++;
        t->n_failed += wrong != nullptr;
        if (wrong)
            printf("FAILED graph round %d: %s (%.2e)\n", round, wrong, err);
    }
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    cudaStreamDestroy(stream);
    step_destroy(s);
}

bool check_all(bool is_few)
{
    tally t = {};
    const std::vector<uint32_t> odd = {1, 7, 63, 64, 65, 0, 16, 17, 129, 1000, 2500, 0};
    const uint32_t blocks[] = {64, 16, 128, 32}, windows[] = {0, 100, 0, 1, 0, 17};
    uint32_t turn = 0;
    for (uint32_t hd : {128u, 64u, 96u, 256u, 192u, 80u, 16u})
        for (uint32_t group : {4u, 8u, 1u, 7u, 16u, 20u, 3u}) {
            if (is_few && (hd + group) % 12u != 0)
                continue;
            check_case({2, group, hd, blocks[turn % 4], windows[turn % 6], turn % 2}, odd, &t);
            check_case(
                {3, group, hd, blocks[(turn + 1) % 4], windows[(turn + 3) % 6], (turn + 1) % 2},
                odd, &t);
            turn++;
        }
    check_case({1, 1, 64, 64, 0, 0}, {1}, &t);
    check_case({1, 4, 64, 64, 0, 1}, {0, 0, 5, 0}, &t);
    check_case({8, 4, 128, 64, 0, 0}, {0, 0, 0}, &t);
    if (!is_few)
        check_case({8, 4, 128, 64, 0, 0}, {33000}, &t);
    check_case({1, 16, 128, 64, 0, 1}, {is_few ? 9000u : 33000u}, &t);
    std::vector<uint32_t> mixed, small, skewed(64, 512);
    for (uint32_t i = 0; i < 64; i++)
        mixed.push_back(random_next() % 5000);
    for (uint32_t i = 0; i < 700; i++)
        small.push_back(random_next() % 40);
    skewed[11] = 32768;
    if (is_few) {
        mixed.assign(24, 700);
        small.resize(40);
        skewed = {512, 4000, 512};
    }
    check_case({8, 4, 128, 64, 0, 0}, mixed, &t);
    check_case({8, 4, 128, 64, 128, 1}, mixed, &t);
    check_case({8, 8, 64, 64, 0, 0}, mixed, &t);
    check_case({4, 7, 256, 32, 1000, 0}, mixed, &t);
    check_case({8, 4, 128, 64, 0, 0}, small, &t);
    check_case({8, 1, 64, 16, 0, 1}, small, &t);
    check_case({8, 4, 128, 64, 0, 0}, skewed, &t);
    check_graph(&t);
    printf("checks: %u cases, %u failed; worst error %.2e of a case (limit %.0e), %.2e of a head "
           "(limit %.0e)\n",
           t.n_cases, t.n_failed, t.err, ERR_ALL_MAX, t.err_row, ERR_ROW_MAX);
    return t.n_failed == 0;
}

/* ---- Times ----------------------------------------------------------------------------------- */

double median(std::vector<double> values)
{
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
}

template <class F> double time_us(F launch, int n_repeat)
{
    cudaEvent_t a, b;
    std::vector<double> us;
    MUST(cudaEventCreate(&a));
    MUST(cudaEventCreate(&b));
    for (int i = 0; i < n_repeat + 2; i++) {
        float ms;
        MUST(cudaEventRecord(a));
        launch();
        MUST(cudaEventRecord(b));
        MUST(cudaEventSynchronize(b));
        MUST(cudaEventElapsedTime(&ms, a, b));
        if (i >= 2)
            us.push_back(ms * 1e3);
    }
    cudaEventDestroy(a);
    cudaEventDestroy(b);
    return median(us);
}

__global__ void read_kernel(const uint4 *src, size_t n, uint32_t *out)
{
    uint32_t sum = 0;
    size_t step = static_cast<size_t>(gridDim.x) * blockDim.x;
    size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x;
    for (; i < n; i += 8 * step) {
        uint4 v[8];
#pragma unroll
        for (int k = 0; k < 8; k++)
            v[k] = i + k * step < n ? __ldcs(src + i + k * step) : make_uint4(0, 0, 0, 0);
#pragma unroll
        for (int k = 0; k < 8; k++)
            sum ^= v[k].x ^ v[k].y ^ v[k].z ^ v[k].w;
    }
    if (sum == 0x12345678u)
        *out = sum;
}

double copy_gbps, read_gbps;

void ceilings_measure()
{
    size_t bytes = 2ull << 30;
    char *a = device_alloc<char>(bytes), *b = device_alloc<char>(bytes);
    fill_normal<<<1024, 256>>>(reinterpret_cast<__nv_bfloat16 *>(a), bytes / 2, 3, 1.0f);
    double us = time_us([&] { MUST(cudaMemcpyAsync(b, a, bytes, cudaMemcpyDeviceToDevice)); }, 9);
    copy_gbps = 2e-3 * static_cast<double>(bytes) / us;
    us = time_us(
        [&] {
            read_kernel<<<n_sms * 4, 512>>>(reinterpret_cast<uint4 *>(a), bytes / 16,
                                            reinterpret_cast<uint32_t *>(b));
        },
        9);
    read_gbps = 1e-3 * static_cast<double>(bytes) / us;
    cudaFree(a);
    cudaFree(b);
}

struct timing {
    double us, gbps;
};

/* A graph of n launches, one after the other: microseconds of each. */
template <class F> double time_graph_us(uint32_t n, F launch)
{
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    MUST(cudaStreamCreate(&stream));
    MUST(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    for (uint32_t i = 0; i < n; i++)
        launch(i, stream);
    MUST(cudaStreamEndCapture(stream, &graph));
    MUST(cudaGraphInstantiate(&exec, graph, 0));
    double us = time_us([&] { MUST(cudaGraphLaunch(exec, 0)); }, 15) / n;
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    cudaStreamDestroy(stream);
    return us;
}

/* Attention beside a plain read of as many bytes, both one launch per layer. */
timing time_case(const char *label, const char *name, const shape &sh,
                 const std::vector<uint32_t> &lens)
{
    double tokens = 0;
    for (uint32_t len : lens)
        tokens += sh.window && len > sh.window ? sh.window : len;
    double bytes = tokens * sh.n_kv_heads * sh.head_dim * 4.0;
    uint32_t n_layers = static_cast<uint32_t>(std::min(64.0, std::max(2.0, ceil(4e8 / bytes))));
    step s = step_create(sh, lens, n_layers, 0);
    fill_normal<<<2048, 256>>>(static_cast<__nv_bfloat16 *>(s.args.pool.base), s.pool_bytes / 2, 7,
                               1.0f);
    MUST(cudaDeviceSynchronize());
    MUST(cuda_decode_plan(&s.args, n_sms, s.plan, 0));
    timing result;
    double plan_us = time_us([&] { MUST(cuda_decode_plan(&s.args, n_sms, s.plan, 0)); }, 9);
    result.us = time_graph_us(n_layers, [&](uint32_t layer, cudaStream_t stream) {
        s.args.layer = layer;
        MUST(cuda_attention_decode(&s.args, n_sms, s.plan, s.work, stream));
    });
    size_t slice = static_cast<size_t>(bytes) / 16 * 16;
    double stream_us = time_graph_us(n_layers, [&](uint32_t layer, cudaStream_t stream) {
        const char *at = static_cast<const char *>(s.args.pool.base) +
                         std::min(layer * slice, s.pool_bytes - slice) / 16 * 16;
        read_kernel<<<n_sms * 4, 512, 0, stream>>>(reinterpret_cast<const uint4 *>(at), slice / 16,
                                                   static_cast<uint32_t *>(s.plan));
    });
    result.gbps = bytes / result.us * 1e-3;
    printf("%-10s %-26s %8.2f us %6.0f GB/s %6.1f %% of copy %6.1f %% of a plain read (%.1f us)  "
           "plan %.1f us\n",
           label, name, result.us, result.gbps, 100 * result.gbps / copy_gbps,
           100 * stream_us / result.us, stream_us, plan_us);
    step_destroy(s);
    return result;
}

void time_all(const char *label)
{
    ceilings_measure();
    printf("%s: copy %.0f GB/s (read and written), read only %.0f GB/s\n", label, copy_gbps,
           read_gbps);
    const shape llama = {8, 4, 128, 64, 0, 0}, small = {8, 8, 64, 64, 0, 0};
    const uint32_t batches[] = {1, 8, 64}, contexts[] = {1024, 8192, 32768};
    char name[64];
    for (uint32_t batch : batches)
        for (uint32_t context : contexts) {
            if (batch == 64 && context == 32768)
                continue;
            snprintf(name, sizeof(name), "hd128 g4 b%u x %u", batch, context);
            time_case(label, name, llama, std::vector<uint32_t>(batch, context));
        }
    std::vector<uint32_t> skewed(64, 512);
    skewed[20] = 32768;
    timing even = time_case(label, "hd128 g4 b64 x 1016", llama, std::vector<uint32_t>(64, 1016));
    timing skew = time_case(label, "hd128 g4 32k + 63 x 512", llama, skewed);
    printf("%-10s skewed at %.1f %% of the balanced rate\n", label, 100 * skew.gbps / even.gbps);
    time_case(label, "hd64 g8 b64 x 1024", small, std::vector<uint32_t>(64, 1024));
    time_case(label, "hd64 g8 b64 x 8192", small, std::vector<uint32_t>(64, 8192));
    time_case(label, "hd64 g8 b1 x 8192", small, std::vector<uint32_t>(1, 8192));
    time_case(label, "hd96 g4 b64 x 2048", {8, 4, 96, 64, 0, 0}, std::vector<uint32_t>(64, 2048));
    time_case(label, "hd256 g8 b64 x 2048", {4, 8, 256, 64, 0, 0}, std::vector<uint32_t>(64, 2048));
    time_case(label, "hd128 g16 b64 x 2048", {4, 16, 128, 64, 0, 0},
              std::vector<uint32_t>(64, 2048));
    time_case(label, "hd128 g4 b64 x 2048 bt16", {8, 4, 128, 16, 0, 0},
              std::vector<uint32_t>(64, 2048));
    time_case(label, "hd128 g4 b256 x 200", llama, std::vector<uint32_t>(256, 200));
}

} // namespace

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "all", *label = argc > 2 ? argv[2] : "decode";
    cudaDeviceProp prop;
    MUST(cudaGetDeviceProperties(&prop, 0));
    n_sms = static_cast<uint32_t>(prop.multiProcessorCount);
    printf("%s: %s, %u SMs\n", label, prop.name, n_sms);
    bool is_right = true;
    if (strcmp(mode, "time") != 0)
        is_right = check_all(strcmp(mode, "few") == 0);
    if (strcmp(mode, "check") != 0 && strcmp(mode, "few") != 0)
        time_all(label);
    return is_right ? 0 : 1;
}
