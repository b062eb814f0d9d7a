/* gemm of few rows: y[m, n] = sum_k x[m, k] * w[n, k], m <= 16, sums in f32; w bf16 or fp8, with a
 * norm ahead and an epilogue behind where asked for (struct gemm_fusion) Method   w is the 16-row
 * operand of mma.m16n8k16, the tokens its columns. A thread of a block streams blocks of [16 rows
 * of w][1 KB] by tensor copies into a ring; 8 warps multiply, 128 bytes of a row each; 4 warps add
 * up their sums, finish and store. fp8 becomes bf16 in registers. x is read once a block, whole or
 * one panel of it, by the warps themselves, or by tensor copies where it is large. Tiles    are 16
 * rows of w, or 8 of gate and 8 of up, so that silu finds both at hand. Panels   k is cut into
 * panels of at most 4096 columns, summed in their order; into two at least where n is so small that
 * its tiles are fewer than half the SMs: then pairs of blocks take a panel each and one sends its
 * sums to the other. Where x does not fit, an SM keeps one panel, and the last of the SMs that
 * share rows adds the panels up, in the same order: no float atomics, the same bits on every run.
 * Batch    a row's bits depend on that row and on n, k, w and the fusion alone, not on n_rows or
 * n_sms. The plain kernel (before sm_90, odd k, m > 16) has other bits. PDL      the ring is filled
 * before griddepcontrol.wait; x, y and the workspace are touched after. A kernel that reads less
 * than fits its rings releases its dependents at once and takes half of the shared memory, so that
 * the next one's blocks fill their rings beside it; others when a ring's worth of their last tile
 * is left. Cost     w once from memory: bandwidth bound Checked  bench/gpu/check_gemm_small.cu */
#include "kernels/cuda/gemm_small_plain.cuh"
#include "kernels/cuda/gemm_small_tiled.cuh"

namespace
{

using namespace gemm_small;

constexpr uint32_t kPanelCols = 4096;
constexpr uint32_t kNarrowTiles = 64;           /* at most this: pairs of blocks share a tile */
constexpr uint32_t kSmemMax = 227 * 1024 - 512; /* the rest: static */
constexpr uint32_t kSmemShared = 112 * 1024;    /* two blocks fit an SM */
constexpr uint32_t kSharedBlocks = 8;           /* of an SM's w: at most this is short */
constexpr uint32_t kXOwnBytes = 12 * 1024;      /* of bf16 x: more comes by tensor copies */
constexpr uint32_t kWholeStagesMin = 6;
constexpr size_t kPartialBytesMin = size_t(8) << 20;
constexpr size_t kCounterBytes = 4096; /* up to 1000 SMs */

/* Bits of `how`, see cuda_gemm_small_tuned. */
enum how : uint32_t {
    HOW_PANEL = 1,      /* SMs keep one panel whenever k has several */
    HOW_SHARE_X = 2,    /* pairs share the reading of x for 5..8 rows */
    HOW_NO_SHARE_X = 4, /* pairs never do */
    HOW_FIXED = 8,      /* no tiles are handed out */
    HOW_NO_PAIRS = 16,  /* pairs never share a tile */
    HOW_HALF = 32,      /* half of the shared memory for long kernels too */
    HOW_X_OTHER = 64,   /* x by tensor copies where it would not be, and the reverse */
    HOW_PLAIN = 128,
    HOW_STAGES = 256, /* times n: at most n stages */
};

struct launch {
    const cuda_gemm_args *args;
    params p;
    uint32_t n_sms, grid, how;
    cudaStream_t stream;
};

uint32_t div_up(uint32_t a, uint32_t b)
{
    return (a + b - 1) / b;
}

/* ---- Plan ---- */

template <class S> uint32_t smem_bytes(uint32_t n_stages, uint32_t x_blocks)
{
    return 1024 + n_stages * kBlockBytes + x_blocks * S::kXBlockBytes + red<S>::kBytes + kBars * 8;
}

/* Stages for which there is room. */
template <class S> uint32_t stages_fit(uint32_t smem_max, uint32_t x_blocks)
{
    if (x_blocks > kXBlocksMax || smem_bytes<S>(1, x_blocks) > smem_max)
        return 0;
    uint32_t n = (smem_max - smem_bytes<S>(0, x_blocks)) / kBlockBytes;
    return n < kStagesMax ? n : kStagesMax;
}

size_t partial_bytes(uint32_t n_max)
{
    size_t bytes = size_t(n_max) * 2 * CUDA_GEMM_SMALL_ROWS_MAX * sizeof(float);
    return bytes > kPartialBytesMin ? bytes : kPartialBytesMin;
}

/* How k is cut: by n and k alone. */
template <class S> void plan_panels(struct launch *l)
{
    params *p = &l->p;
    p->n_blocks = div_up(p->k, S::kCols);
    uint32_t n_panels = div_up(p->n_blocks, kPanelCols / S::kCols);
    if (n_panels == 1 && p->n_blocks > 1 && p->n_tiles <= kNarrowTiles)
        n_panels = 2;
    p->panel_blocks = div_up(p->n_blocks, n_panels);
    p->n_panels = div_up(p->n_blocks, p->panel_blocks);
}

/* Who takes which panels. Returns the stages that fit, 0: too large for the tiles. */
template <class S> uint32_t plan_splits(struct launch *l)
{
    params *p = &l->p;
    bool may_pair = (l->how & HOW_NO_PAIRS) == 0 && p->n_tiles <= kNarrowTiles &&
                    p->n_tiles <= l->n_sms / 2 * kPeerTiles;
    uint32_t whole = stages_fit<S>(kSmemMax, p->n_blocks);
    uint32_t panel = stages_fit<S>(kSmemMax, p->panel_blocks);
    p->n_splits = p->n_cluster = 1;
    if (p->n_panels == 2 && may_pair && panel > 0) {
        p->n_splits = p->n_cluster = 2;
        return panel;
    }
    if (p->n_panels == 1 || ((l->how & HOW_PANEL) == 0 && whole >= kWholeStagesMin))
        return whole;
    p->n_splits = p->n_panels;
    size_t need = size_t(p->n_tiles) * p->n_panels * S::kOutputs * sizeof(float);
    return need <= partial_bytes(p->n) ? panel : 0;
}

/* False: too large for the tiles. */
template <class S> bool plan(struct launch *l)
{
    params *p = &l->p;
    bool is_silu = p->fusion.epilogue == GEMM_SILU_MUL;
    p->n_tiles = div_up(p->n, is_silu ? 8 : kRows);
    plan_panels<S>(l);
    p->n_stages = plan_splits<S>(l);
    uint32_t x_blocks = p->n_splits == 1 ? p->n_blocks : p->panel_blocks;
    if (p->n_stages == 0 || (p->scaling == OPS_SCALE_BLOCK && x_blocks > kScaleBlocksMax))
        return false;
    bool is_large = x_blocks * S::kXBlockBytes > kXOwnBytes;
    p->x_by_tma = !S::kIsF8 && is_large != ((l->how & HOW_X_OTHER) != 0);
    uint32_t lanes = l->n_sms / p->n_splits;
    if (lanes == 0)
        lanes = 1;
    if (lanes > p->n_tiles)
        lanes = p->n_tiles;
    bool may_share_x = p->x_by_tma != 0 && (l->how & HOW_NO_SHARE_X) == 0 &&
                       (S::kXRows == 16 || (l->how & HOW_SHARE_X) != 0);
    if (may_share_x && p->n_splits == 1 && lanes >= 2) {
        p->n_cluster = 2;
        lanes -= lanes % 2;
    }
    l->grid = lanes * p->n_splits;
    uint32_t n_mine = div_up(p->n_tiles, lanes) * x_blocks; /* blocks of w that it reads */
    uint32_t n_shared = stages_fit<S>(kSmemShared, x_blocks);
    p->is_short = n_mine <= n_shared;
    bool is_half = (l->how & HOW_HALF) != 0 || n_mine <= kSharedBlocks;
    if (is_half && n_shared >= 4 && n_shared < p->n_stages)
        p->n_stages = n_shared;
    if (p->n_stages > n_mine)
        p->n_stages = n_mine;
    if (l->how / HOW_STAGES != 0 && p->n_stages > l->how / HOW_STAGES)
        p->n_stages = l->how / HOW_STAGES;
    uint32_t n_static = div_up(p->n_stages, p->n_blocks);
    if (n_static < 2)
        n_static = 2;
    bool may_hand_out = p->n_splits == 1 && p->n_blocks >= 4 && (l->how & HOW_FIXED) == 0;
    p->n_static = may_hand_out && p->n_tiles > n_static * lanes ? n_static : 0;
    return true;
}

/* ---- Launch ---- */

struct matrix {
    const void *base;
    uint64_t n_rows, n_cols, stride;
    uint32_t n_parts;  /* 2: the rows of another matrix of n_rows lie behind */
    uint32_t box_rows; /* of each part in a box */
    bool is_f8;
};

/* In shared memory a box is [8][parts][box_rows][128 bytes], swizzled; what lies outside reads as
 * zero. */
cudaError_t map_init(CUtensorMap *out_map, const struct matrix *m)
{
    static const PFN_cuTensorMapEncodeTiled_v12000 encode = map_encode_lookup();
    if (encode == nullptr)
        return cudaErrorNotSupported;
    uint32_t bytes = m->is_f8 ? 1 : 2, cols = kBoxBytes / bytes;
    cuuint64_t dims[4] = {cols, m->n_rows, m->n_parts, m->n_cols / cols};
    cuuint64_t strides[3] = {m->stride * bytes, m->n_rows * m->stride * bytes, kBoxBytes};
    cuuint32_t box[4] = {cols, m->box_rows, m->n_parts, kWarps}, steps[4] = {1, 1, 1, 1};
    /* Promotion to 256 bytes cost 7 % of the bandwidth on an H200, evict-first gained as much. */
    CUresult rc =
        encode(out_map, m->is_f8 ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
               4, const_cast<void *>(m->base), dims, strides, box, steps,
               CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
               CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return rc == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t launch_plain(const struct launch *l)
{
    uint32_t units = l->p.fusion.epilogue == GEMM_ADD_NORM ? l->p.n / kSum : l->p.n;
    uint32_t grid = div_up(units, 8);
    if (grid > l->n_sms * 8)
        grid = l->n_sms * 8;
    if (l->args->w_dtype == OPS_F8)
        plain_kernel<true><<<grid, 256, 0, l->stream>>>(l->args->w, l->p);
    else
        plain_kernel<false><<<grid, 256, 0, l->stream>>>(l->args->w, l->p);
    return cudaGetLastError();
}

/* All of the kernel's blocks run with the same split of an SM's memory, whatever their own need:
 * changing it would have to wait until the SM is idle. */
template <class S> cudaError_t kernel_prepare()
{
    cudaError_t err = cudaFuncSetAttribute(tiled_kernel<S>,
                                           cudaFuncAttributeMaxDynamicSharedMemorySize, kSmemMax);
    if (err == cudaSuccess)
        err = cudaFuncSetAttribute(tiled_kernel<S>, cudaFuncAttributePreferredSharedMemoryCarveout,
                                   cudaSharedmemCarveoutMaxShared);
    return err;
}

template <int XROWS, bool F8> cudaError_t launch_tiled(struct launch l)
{
    using S = shape<XROWS, F8>;
    const cuda_gemm_args *a = l.args;
    if (!plan<S>(&l))
        return launch_plain(&l);
    bool is_silu = l.p.fusion.epilogue == GEMM_SILU_MUL;
    const struct matrix of_w = {a->w, a->n, a->k, a->k, is_silu ? 2u : 1u, is_silu ? 8u : kRows,
                                F8};
    const struct matrix of_x = {a->x, a->n_rows, a->k, a->x_stride, 1, XROWS, false};
    CUtensorMap w, x = {};
    cudaError_t err = map_init(&w, &of_w);
    if (err == cudaSuccess && l.p.x_by_tma != 0)
        err = map_init(&x, &of_x);
    if (err == cudaSuccess)
        err = kernel_prepare<S>();
    if (err != cudaSuccess)
        return err;
    uint32_t x_blocks = l.p.n_splits == 1 ? l.p.n_blocks : l.p.panel_blocks;
    cudaLaunchAttribute attrs[2] = {};
    uint32_t n_attrs = 0;
    if (a->pdl != 0) {
        attrs[n_attrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attrs[n_attrs++].val.programmaticStreamSerializationAllowed = 1;
    }
    if (l.p.n_cluster > 1) {
        attrs[n_attrs].id = cudaLaunchAttributeClusterDimension;
        attrs[n_attrs].val.clusterDim.x = l.p.n_cluster;
        attrs[n_attrs].val.clusterDim.y = 1;
        attrs[n_attrs++].val.clusterDim.z = 1;
    }
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(l.grid);
    config.blockDim = dim3(S::kThreads);
    config.dynamicSmemBytes = smem_bytes<S>(l.p.n_stages, x_blocks);
    config.stream = l.stream;
    config.attrs = attrs;
    config.numAttrs = n_attrs;
    return cudaLaunchKernelEx(&config, tiled_kernel<S>, w, x, l.p);
}

template <bool F8> cudaError_t launch_rows(const struct launch &l)
{
    if (l.args->n_rows == 1)
        return launch_tiled<1, F8>(l);
    if (l.args->n_rows == 2)
        return launch_tiled<2, F8>(l);
    if (l.args->n_rows <= 4)
        return launch_tiled<4, F8>(l);
    if (l.args->n_rows <= 8)
        return launch_tiled<8, F8>(l);
    return launch_tiled<16, F8>(l);
}

params params_of(const struct cuda_gemm_args *args, void *workspace)
{
    params p = {};
    if (args->fusion != nullptr)
        p.fusion = *args->fusion;
    p.bias = args->bias;
    p.w_scale = args->w_scale;
    p.scaling = args->w_dtype == OPS_F8 ? args->w_scaling : OPS_SCALE_NONE;
    p.scale_cols = div_up(args->k, OPS_SCALE_BLOCK_SIZE);
    p.x = static_cast<const __nv_bfloat16 *>(args->x);
    p.x_stride = args->x_stride;
    p.y = args->y;
    p.y_stride = args->y_stride;
    p.y_is_bf16 = args->y_dtype == OPS_BF16 || p.fusion.epilogue != GEMM_STORE;
    p.n_rows = args->n_rows;
    p.n = args->n;
    p.k = args->k;
    p.counters = static_cast<uint32_t *>(workspace);
    p.partials = reinterpret_cast<float *>(static_cast<uint8_t *>(workspace) + kCounterBytes);
    return p;
}

} // namespace

/* For check_gemm_small.cu: the same with the choices open. how: 0: the default; bits of `how`. */
extern "C" cudaError_t cuda_gemm_small_tuned(const struct cuda_gemm_args *args, uint32_t n_sms,
                                             void *workspace, cudaStream_t stream, uint32_t how)
{
    if (args->n_rows == 0 || args->n == 0)
        return cudaSuccess;
    bool is_f8 = args->w_dtype == OPS_F8;
    if (!is_f8 && args->w_dtype != OPS_BF16)
        return cudaErrorInvalidValue;
    struct launch l = {args, params_of(args, workspace), n_sms, 0, how, stream};
    int major = 0;
    cudaError_t err = device_major(&major);
    if (err != cudaSuccess)
        return err;
    uint32_t k_unit = kBoxBytes / (is_f8 ? 1 : 2);
    if (major < 9 || (how & HOW_PLAIN) != 0 || args->k % k_unit != 0 ||
        args->n_rows > CUDA_GEMM_SMALL_ROWS_MAX || n_sms > 1000)
        return launch_plain(&l);
    return is_f8 ? launch_rows<true>(l) : launch_rows<false>(l);
}

extern "C" size_t cuda_gemm_small_workspace_bytes(uint32_t n_max, uint32_t n_sms)
{
    (void)n_sms;
    return kCounterBytes + partial_bytes(n_max);
}

extern "C" cudaError_t cuda_gemm_small(const struct cuda_gemm_args *args, uint32_t n_sms,
                                       void *workspace, cudaStream_t stream)
{
    return cuda_gemm_small_tuned(args, n_sms, workspace, stream, 0);
}
