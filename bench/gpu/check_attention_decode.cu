/* Checks and times cuda_attention_decode by itself.
 *
 *     check_attention_decode [check | few | time | all] [label] [bf16 | fp8]
 *
 * few: for a sanitizer; bf16, fp8: pools of that kind only.
 *
 * Checks: fresh random inputs, the output and all of the pool that no position holds poisoned with
 * NaN, lengths around the tile and the block, against a float64 reference (on the host when the
 * case is small, else by a plain kernel). Also: gaps and padding rows stay untouched, the bits of
 * three runs agree, the counters are zero again, one captured graph serves two sets of lengths.
 * Rows that are `fresh`: the new positions are poison, too; the output has the bits of the qkv op
 * and attention one after the other, and so has every byte of the pool; a row that comes late, from
 * a kernel that released this one at once, is waited for.
 * Times: see attention_decode_time.cuh. */
#include "bench/gpu/attention_decode_kit.cuh"
#include "bench/gpu/attention_decode_time.cuh"

namespace
{

constexpr double ERR_ALL_MAX = 5e-3; /* ||out - ref|| / ||ref|| over a case */
constexpr double ERR_ROW_MAX = 2e-2; /* over one head of one row */

/* ---- Reference ------------------------------------------------------------------------------- */

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
    const uint64_t element = ops_dtype_bytes(a.pool.dtype);
    uint64_t plane = (a.layer * a.pool.n_kv_heads + kv_head) * 2u * bt * d * element;
    const double k_scale = kv_scale(a.pool, a.layer, static_cast<uint32_t>(kv_head), 0);
    const double v_scale = kv_scale(a.pool, a.layer, static_cast<uint32_t>(kv_head), 1);
    const uint32_t *table = a.seqs.block_table + static_cast<size_t>(seq) * a.seqs.table_stride;
    for (uint32_t pos = lo + threadIdx.x; pos < end; pos += blockDim.x) {
        const char *k =
            base + table[pos / bt] * a.pool.block_bytes + plane + pos % bt * d * element;
        double sum = 0;
        for (uint32_t i = 0; i < d; i++)
            sum += static_cast<double>(__bfloat162float(q[i])) * kv_get(a.pool, k, i, k_scale);
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
            const char *v =
                base + table[pos / bt] * a.pool.block_bytes + plane + (bt + pos % bt) * d * element;
            sum += s[pos] * kv_get(a.pool, v, i, v_scale);
        }
        ref[(static_cast<size_t>(seq) * a.n_heads + h) * d + i] = sum / total;
    }
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

/* ---- Fresh rows ------------------------------------------------------------------------------ */

/* What the qkv op makes of the rows, in float64: q of x in place, k and v into the pool. Grid
 * (n_seqs, heads of q, k and v). */
__global__ void qkv_reference_kernel(qkv_args a)
{
    __shared__ double h[OPS_HEAD_DIM_MAX];
    uint32_t head = blockIdx.y, d = a.pool.head_dim, half = a.n_rot / 2,
             pos = a.rows.pos[blockIdx.x];
    bool is_q = head < a.n_heads, is_v = head >= a.n_heads + a.pool.n_kv_heads;
    if (pos == OPS_NO_POSITION)
        return;
    __nv_bfloat16 *x = static_cast<__nv_bfloat16 *>(a.x) + blockIdx.x * a.x_stride + head * d;
    float scale = 1.0f;
    const float *norm = is_v ? nullptr : is_q ? a.q_norm : a.k_norm;
    double sum = 0, v = 0;
    for (uint32_t i = 0; i < d; i++)
        sum += static_cast<double>(__bfloat162float(x[i])) * __bfloat162float(x[i]);
    for (uint32_t i = threadIdx.x; i < d; i += blockDim.x)
        h[i] = __bfloat162float(x[i]) * (norm ? norm[i] / sqrt(sum / d + a.eps) : 1.0);
    __syncthreads();
    char *plane = static_cast<char *>(a.pool.base);
    if (!is_q) {
        uint32_t kv_head = (head - a.n_heads) % a.pool.n_kv_heads, bt = a.pool.block_tokens;
        plane += ops_kv_plane_offset(
            &a.pool, a.rows.block_table[blockIdx.x * a.rows.table_stride + pos / bt], a.layer,
            kv_head, is_v);
        plane += pos % bt * d * ops_dtype_bytes(a.pool.dtype);
        scale = kv_scale(a.pool, a.layer, kv_head, is_v);
    }
    for (uint32_t i = threadIdx.x; i < d; i += blockDim.x) {
        v = h[i];
        if (!is_v && i < a.n_rot) {
            double angle = static_cast<float>(pos) * a.inv_freq[i % half];
            v = h[i] * cos(angle) + (i < half ? -h[i + half] : h[i - half]) * sin(angle);
        }
        if (is_q)
            x[i] = __float2bfloat16_rn(static_cast<float>(v));
        else
            kv_put(a.pool, plane, i, static_cast<float>(v), scale);
    }
}

/* Poison in the place of each sequence's last position; grid (n_seqs, n_kv_heads). */
__global__ void poison_last(ops_kv_pool pool, uint32_t layer, cuda_seqs seqs)
{
    uint32_t end = seqs.kv_tokens[blockIdx.x], bt = pool.block_tokens, pos = end - 1;
    for (uint32_t i = threadIdx.x; i < 2 * pool.head_dim && end > 0; i += blockDim.x) {
        uint32_t block = seqs.block_table[blockIdx.x * seqs.table_stride + pos / bt];
        char *plane = static_cast<char *>(pool.base) +
                      ops_kv_plane_offset(&pool, block, layer, blockIdx.y, i / pool.head_dim);
        uint32_t at = pos % bt * pool.head_dim + i % pool.head_dim;
        if (pool.dtype == OPS_F8)
            reinterpret_cast<uint8_t *>(plane)[at] = 0xff;
        else
            reinterpret_cast<uint16_t *>(plane)[at] = 0xffff;
    }
}

/* Counts what differs: bits, and values by more than a rounding to bf16 either way; fp8: of
 * bytes, by more than one code. */
__global__ void compare_f8_kernel(const uint8_t *a, const uint8_t *b, size_t n, uint32_t *counts)
{
    size_t step = static_cast<size_t>(gridDim.x) * blockDim.x;
    for (size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x; i < n; i += step) {
        if (a[i] == b[i])
            continue;
        int x = a[i] & 0x7f, y = b[i] & 0x7f;
        bool is_zero = x + y <= 1; /* either side of it */
        atomicAdd(counts, 1u);
        if (abs(x - y) > 1 || ((a[i] ^ b[i]) > 0x7f && !is_zero) || max(x, y) == 0x7f)
            atomicAdd(counts + 1, 1u);
    }
}

__global__ void compare_kernel(const uint16_t *a, const uint16_t *b, size_t n, uint32_t *counts)
{
    size_t step = static_cast<size_t>(gridDim.x) * blockDim.x;
    for (size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x; i < n; i += step) {
        if (a[i] == b[i])
            continue;
        float x = __uint_as_float(a[i] << 16), y = __uint_as_float(b[i] << 16);
        atomicAdd(counts, 1u);
        if (!(fabsf(x - y) <= 0.008f * fabsf(y) + 1e-5f))
            atomicAdd(counts + 1, 1u);
    }
}

struct difference {
    uint32_t bits, values;
};

difference compare(const void *a, const void *b, size_t bytes, bool is_f8 = false)
{
    uint32_t *counts = device_alloc<uint32_t>(2);
    difference d;
    MUST(cudaMemset(counts, 0, 8));
    if (is_f8)
        compare_f8_kernel<<<1024, 256>>>(static_cast<const uint8_t *>(a),
                                         static_cast<const uint8_t *>(b), bytes, counts);
    else
        compare_kernel<<<1024, 256>>>(static_cast<const uint16_t *>(a),
                                      static_cast<const uint16_t *>(b), bytes / 2, counts);
    MUST(cudaMemcpy(&d, counts, 8, cudaMemcpyDeviceToHost));
    cudaFree(counts);
    return d;
}

void *copy_of(const void *src, size_t bytes)
{
    void *dst = device_alloc<char>(bytes);
    MUST(cudaMemcpy(dst, src, bytes, cudaMemcpyDeviceToDevice));
    return dst;
}

/* The rows and the pool as they are once the qkv op has run: by that op, or in float64. */
step step_after_qkv(const step &s, bool is_float64)
{
    step after = s;
    after.args.q = copy_of(s.args.q, s.q_n * 2);
    after.args.pool.base = copy_of(s.args.pool.base, s.pool_bytes);
    struct qkv_args a = qkv_of(s, const_cast<void *>(after.args.q), after.args.pool);
    if (is_float64)
        qkv_reference_kernel<<<dim3(a.rows.n_rows, a.n_heads + 2 * a.pool.n_kv_heads), 64>>>(a);
    else
        MUST(cuda_qkv(&a, 0));
    MUST(cudaGetLastError());
    return after;
}

void step_after_destroy(step &s)
{
    cudaFree(const_cast<void *>(s.args.q));
    cudaFree(s.args.pool.base);
}

/* Brings the rows long after it has let the kernel behind it start. */
__global__ void late_rows(const uint4 *src, uint4 *dst, size_t n)
{
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    asm volatile("griddepcontrol.wait;" ::: "memory");
    long long start = clock64();
    while (clock64() - start < 40000)
        ;
    for (size_t i = threadIdx.x; i < n; i += blockDim.x)
        dst[i] = src[i];
}

void late_rows_launch(const void *src, const void *dst, size_t bytes, cudaStream_t stream)
{
    cudaLaunchAttribute early = {};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(1);
    config.blockDim = dim3(256);
    config.stream = stream;
    config.attrs = &early;
    config.numAttrs = 1;
    MUST(cudaLaunchKernelEx(&config, late_rows, static_cast<const uint4 *>(src),
                            static_cast<uint4 *>(const_cast<void *>(dst)), bytes / 16));
}

/* ---- Cases ----------------------------------------------------------------------------------- */

uint32_t pool_is_f8; /* of all cases that are checked */

struct tally {
    uint32_t n_cases, n_failed;
    double err, err_row; /* worst of all cases */
    uint32_t n_rounded;  /* values of k and v that float64 rounds otherwise */
};

void tally_add(tally *t, const step &s, const char *wrong, uint32_t how, double err, double err_row)
{
    const shape &sh = s.sh;
    t->n_cases++;
    t->err = std::max(t->err, err);
    t->err_row = std::max(t->err_row, err_row);
    if (!wrong)
        return;
    t->n_failed++;
    printf("FAILED hd %u group %u kv %u block %u window %u sinks %u rot %u norm %u seqs %zu first "
           "%u how %u fp8 %u: %s (%.2e, row %.2e)\n",
           sh.head_dim, sh.group, sh.n_kv_heads, sh.block_tokens, sh.window, sh.has_sinks, sh.n_rot,
           sh.has_norm, s.lens.size(), s.lens[0], how, sh.is_f8, wrong, err, err_row);
}

void step_launch(const step &s, cudaStream_t stream, uint32_t how)
{
    MUST(cuda_decode_plan_tuned(&s.args, n_sms, s.plan, stream, how));
    MUST(cuda_attention_decode_tuned(&s.args, n_sms, s.plan, s.work, stream, how));
}

std::vector<double> reference_of(const step &s)
{
    double work = 0;
    for (uint32_t len : s.lens)
        work += static_cast<double>(len) * s.args.n_heads * s.sh.head_dim;
    return work < 3e5 && !s.sh.is_f8 ? reference_host(s) : reference_device(s);
}

/* Three runs of rows that are ready. */
void check_ready(const step &s, uint32_t how, const std::vector<double> &ref, tally *t,
                 std::vector<uint16_t> *out_first)
{
    const char *wrong = nullptr;
    double err = 0, err_row = 0;
    for (int run = 0; run < 3 && !wrong; run++) {
        MUST(cudaMemset(s.args.out, 0xff, s.out_n * 2));
        step_launch(s, 0, how);
        std::vector<uint16_t> out = out_fetch(s);
        if (run == 0)
            wrong = out_judge(s, ref, out, &err, &err_row);
        else if (out != *out_first)
            wrong = "other bits in another run";
        if (run == 0)
            *out_first = out;
        if (!wrong)
            wrong = counters_judge(s);
    }
    tally_add(t, s, wrong, how, err, err_row);
}

/* Three runs of fresh rows, the last of them late. `after`: what the qkv op left; ready: the bits
 * that attention made of that. */
void check_fresh(step s, uint32_t how, const step &after, const std::vector<uint16_t> &ready,
                 tally *t)
{
    const char *wrong = nullptr;
    s.args.fresh = &s.fresh;
    void *rows = copy_of(s.args.q, s.q_n * 2);
    dim3 grid(s.args.n_rows, s.sh.n_kv_heads);
    for (int run = 0; run < 3 && !wrong; run++) {
        poison_last<<<grid, 128>>>(s.args.pool, s.args.layer, s.args.seqs);
        MUST(cudaMemset(s.args.out, 0xff, s.out_n * 2));
        if (run == 2)
            MUST(cudaMemset(const_cast<void *>(s.args.q), 0xff, s.q_n * 2 / 16 * 16));
        MUST(cuda_decode_plan_tuned(&s.args, n_sms, s.plan, 0, how));
        if (run == 2)
            late_rows_launch(rows, s.args.q, s.q_n * 2, 0);
        MUST(cuda_attention_decode_tuned(&s.args, n_sms, s.plan, s.work, 0, how));
        if (out_fetch(s) != ready)
            wrong = run == 2 ? "did not wait for its rows" : "not the bits of qkv and attention";
        if (!wrong && compare(s.args.pool.base, after.args.pool.base, s.pool_bytes).bits > 0)
            wrong = "the pool is not as the qkv op leaves it";
        if (!wrong && compare(s.args.q, rows, s.q_n * 2).bits > 0)
            wrong = "touched the rows";
        if (!wrong)
            wrong = counters_judge(s);
    }
    cudaFree(rows);
    tally_add(t, s, wrong, how, 0, 0);
}

void check_case(shape sh, const std::vector<uint32_t> &lens, tally *t,
                const std::vector<uint32_t> &hows = {0})
{
    sh.is_f8 = pool_is_f8;
    step s = step_create(sh, lens, LAYERS, (random_next() % 3) * 64);
    dim3 grid(s.args.n_rows, sh.n_kv_heads);
    MUST(cudaMemset(s.args.pool.base, 0xff, s.pool_bytes));
    fill_positions<<<grid, 256>>>(s.args.pool, s.args.layer, s.args.seqs, random_next());
    poison_last<<<grid, 128>>>(s.args.pool, s.args.layer, s.args.seqs);
    MUST(cudaGetLastError());
    step_begin(s, 0);
    step exact = step_after_qkv(s, true), after = step_after_qkv(s, false);
    difference pool =
        compare(after.args.pool.base, exact.args.pool.base, s.pool_bytes, sh.is_f8 != 0);
    t->n_rounded += pool.bits;
    if (pool.values > 0)
        tally_add(t, s, "the qkv op is not its reference", 0, 0, 0);
    std::vector<double> ref = reference_of(exact);
    for (uint32_t how : hows) {
        std::vector<uint16_t> ready;
        check_ready(after, how, ref, t, &ready);
        check_fresh(s, how, after, ready, t);
    }
    step_after_destroy(exact);
    step_after_destroy(after);
    step_destroy(s);
}

/* One graph of plan and attention, replayed after the lengths changed on the device. */
void check_graph(tally *t)
{
    std::vector<uint32_t> lens = {300, 2000, 64, 900}, other = {17, 0, 1, 333};
    step s = step_create({4, 4, 128, 64, 0, 0, 128, 0, pool_is_f8, 0}, lens, LAYERS, 0);
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    fill_positions<<<dim3(4, 4), 256>>>(s.args.pool, LAYER, s.args.seqs, 5);
    MUST(cudaStreamCreate(&stream));
    MUST(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    step_launch(s, stream, 0);
    MUST(cudaStreamEndCapture(stream, &graph));
    MUST(cudaGraphInstantiate(&exec, graph, 0));
    for (int round = 0; round < 4; round++) {
        double err = 0, err_row = 0;
        s.lens = round % 2 ? other : lens;
        MUST(cudaMemcpy(const_cast<uint32_t *>(s.args.seqs.kv_tokens), s.lens.data(), 16,
                        cudaMemcpyHostToDevice));
        MUST(cudaMemset(s.args.out, 0xff, s.out_n * 2));
        MUST(cudaDeviceSynchronize());
        MUST(cudaGraphLaunch(exec, stream));
        const char *wrong = out_judge(s, reference_device(s), out_fetch(s), &err, &err_row);
        tally_add(t, s, wrong, 0, err, err_row);
    }
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    cudaStreamDestroy(stream);
    step_destroy(s);
}

/* All shapes of a kernel, in the line cut (many sequences) and in the even one (few). */
void check_shapes(bool is_few, tally *t)
{
    const std::vector<uint32_t> odd = {1, 7, 63, 64, 65, 0, 16, 17, 129, 1000, 2500, 0, 2, 15, 48};
    const std::vector<uint32_t> even[] = {
        {1},    {2},    {15},  {16},  {17},  {63},   {64},          {65},   {1000},
        {1024}, {1025}, {127}, {128}, {129}, {2047}, {700, 800, 0}, {0, 3}, {1500, 1501, 1502}};
    const uint32_t blocks[] = {64, 16, 128, 32}, windows[] = {0, 100, 0, 1, 0, 17};
    uint32_t turn = 0;
    for (uint32_t hd : {128u, 64u, 96u, 256u, 192u, 80u, 16u})
        for (uint32_t group : {4u, 8u, 1u, 7u, 16u, 20u, 2u, 5u, 32u, 9u}) {
            if (is_few && (hd + group) % 12u != 0)
                continue;
            const uint32_t rots[] = {hd, hd / 2, hd, hd - 6};
            shape sh = {2,
                        group,
                        hd,
                        blocks[turn % 4],
                        windows[turn % 6],
                        turn % 2,
                        rots[(turn + turn / 4) % 4],
                        turn % 3 < 2};
            check_case(sh, odd, t);
            sh.n_kv_heads = 3;
            sh.block_tokens = blocks[(turn + 1) % 4];
            sh.window = windows[(turn + 3) % 6];
            sh.has_sinks ^= 1u;
            for (uint32_t i = 0; i < 3; i++)
                check_case(sh, even[(turn * 3 + i) % (sizeof(even) / sizeof(even[0]))], t,
                           {0, HOW_NO_CLUSTER});
            turn++;
        }
    for (const std::vector<uint32_t> &lens : even)
        if (!is_few)
            check_case({8, 2 + 2 * (turn++ % 2), 128, 64, 0, 0, 128, 1}, lens, t,
                       {0, HOW_LINE, HOW_NO_CLUSTER, HOW_TWO_STAGES, HOW_LATE});
}

bool check_all(bool is_few)
{
    tally t = {};
    check_shapes(is_few, &t);
    check_case({1, 1, 64, 64, 0, 0, 64, 0}, {1}, &t);
    check_case({1, 4, 64, 64, 0, 1, 64, 1}, {0, 0, 5, 0}, &t);
    check_case({8, 4, 128, 64, 0, 0, 128, 0}, {0, 0, 0}, &t);
    if (!is_few)
        check_case({8, 4, 128, 64, 0, 0, 128, 0}, {33000}, &t, {0, HOW_TWO_STAGES});
    check_case({1, 16, 128, 64, 0, 1, 128, 1}, {is_few ? 9000u : 33000u}, &t);
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
    check_case({8, 4, 128, 64, 0, 0, 128, 1}, mixed, &t);
    check_case({8, 4, 128, 64, 128, 1, 128, 0}, mixed, &t);
    check_case({8, 8, 64, 64, 0, 0, 64, 0}, mixed, &t);
    check_case({4, 7, 256, 32, 1000, 0, 128, 1}, mixed, &t);
    check_case({8, 4, 128, 64, 0, 0, 128, 1}, small, &t);
    check_case({8, 1, 64, 16, 0, 1, 32, 1}, small, &t);
    check_case({8, 4, 128, 64, 0, 0, 128, 0}, skewed, &t);
    for (int q_exp : {-40, -12, 12, 40}) /* f16 holds neither these nor those */
        if (pool_is_f8)
            check_case({8, 4, 128, 64, 0, 0, 128, 0, 1, q_exp}, {1, 17, 300, 1025}, &t);
    check_graph(&t);
    printf("checks of %s: %u cases, %u failed; worst error %.2e of a case (limit %.0e), %.2e of a "
           "head "
           "(limit %.0e); float64 rounds %u values of new rows otherwise\n",
           pool_is_f8 ? "fp8" : "bf16", t.n_cases, t.n_failed, t.err, ERR_ALL_MAX, t.err_row,
           ERR_ROW_MAX, t.n_rounded);
    return t.n_failed == 0;
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
    const char *kind = argc > 3 ? argv[3] : "";
    for (pool_is_f8 = 0; pool_is_f8 < 2 && strcmp(mode, "time") != 0; pool_is_f8++)
        if (strcmp(kind, pool_is_f8 ? "bf16" : "fp8") != 0)
            is_right = check_all(strcmp(mode, "few") == 0) && is_right;
    if (strcmp(mode, "check") != 0 && strcmp(mode, "few") != 0)
        time_all(label, kind);
    return is_right ? 0 : 1;
}
