// Shared by all CUDA kernels. numerics.cuda.source prepends it to each .cu, so that CuPy's cache sees a change here.
// Images are (n, h, w), C order, periodic; n is the flattened batch and appears only in the grid.

#ifndef DYNAMIC_SHARED  // the C++ shim of tests/cuda_on_cpu defines its own
#define DYNAMIC_SHARED(type, name) extern __shared__ type name[]
#endif

typedef long long index_t;  // n h w may exceed 2^31

constexpr int WARP = 32;
constexpr int TILE = 32;  // image tiles are TILE x TILE pixels, a block has TILE x TILE_ROWS threads
constexpr int TILE_ROWS = 8;

constexpr float SMALLEST_NORMAL = 1.17549435e-38f;  // the compiler's -ftz flushes smaller floats to 0

// The TILE x TILE tile of this block. Tiles are counted in grid.x alone, whose limit is 2^31.
struct Tile {
    index_t image;
    int y, x;
};

__device__ inline Tile this_tile(int h, int w) {
    const unsigned across = (w + TILE - 1) / TILE, down = (h + TILE - 1) / TILE;
    const unsigned row = blockIdx.x / across;
    return {row / down, int(row % down) * TILE, int(blockIdx.x % across) * TILE};
}

// i modulo size, for -size <= i < 2 size.
__device__ inline int wrap(int i, int size) {
    return i < 0 ? i + size : i < size ? i : i - size;
}

// The value of an image, or `scalar` for all where `values` is null.
__device__ inline float per_image(const float* values, float scalar, index_t image) {
    return values ? values[image] : scalar;
}

// |g|^2, rounded as NumPy does: a fused multiply-add could move a gradient across a hard threshold.
__device__ inline float squared_norm(float gx, float gy) {
    return __fadd_rn(__fmul_rn(gx, gx), __fmul_rn(gy, gy));
}

// `combine` of one value per thread over the block, the same bits in every thread, in an order fixed by the block size.
// blockDim = (32 m, 1, 1); all threads must call it. It contains barriers, so writes to shared memory before it are
// visible after it. `neutral` stands for the missing warps.
template <class T, class Combine>
__device__ inline T block_reduce(T value, T neutral, Combine combine) {
    __shared__ T partial[WARP];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    for (int offset = WARP / 2; offset; offset /= 2)
        value = combine(value, __shfl_xor_sync(0xffffffffu, value, offset));
    __syncthreads();  // the last call's partial results have been read
    if (lane == 0) partial[warp] = value;
    __syncthreads();
    value = lane < warps ? partial[lane] : neutral;
    for (int offset = WARP / 2; offset; offset /= 2)
        value = combine(value, __shfl_xor_sync(0xffffffffu, value, offset));
    return value;
}

template <class T>
__device__ inline T block_sum(T value) {
    return block_reduce(value, T(0), [](T a, T b) { return a + b; });
}

// NaN if any value is NaN, like NumPy's maximum; fmaxf would drop it.
template <class T>
__device__ inline T block_max(T value, T neutral) {
    return block_reduce(value, neutral, [](T a, T b) { return a != a || b <= a ? a : b; });
}

// Radix selection: the rank-th largest of an image's 32-bit keys, 11 bits at a time from the top, by a histogram of the
// keys that share the bits before.
constexpr int DIGIT_BITS = 11, DIGITS = 3, BINS = 1 << DIGIT_BITS;
constexpr int GROUP = 2 * WARP, GROUPS = BINS / GROUP;  // of bins
constexpr int SELECTION_WORDS = BINS + 3;               // scratch of an image: bins, leading, rank, ticket

struct Selection {
    unsigned leading;  // the digits so far, then zeros
    unsigned rank;     // among the keys with these digits, from 1, the largest; 0: there are fewer keys
};

// The next digit, from a histogram of the keys by it.
__device__ inline Selection choose_digit(const unsigned* bins, Selection selection, int shift) {
    __shared__ unsigned groups[GROUPS];
    __shared__ unsigned digit, rank;
    const int lane = threadIdx.x % WARP, warps = blockDim.x / WARP;
    for (int group = threadIdx.x / WARP; group < GROUPS; group += warps) {
        unsigned sum = bins[group * GROUP + lane] + bins[group * GROUP + WARP + lane];
        for (int offset = WARP / 2; offset; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
        if (lane == 0) groups[group] = sum;
    }
    __syncthreads();
    if (threadIdx.x == 0) {  // from the largest down: first the groups of bins, then the bins of a group
        unsigned above = 0;
        int group = GROUPS - 1;
        while (group >= 0 && above + groups[group] < selection.rank) above += groups[group--];
        int bin = group * GROUP + GROUP - 1;
        if (group >= 0)
            while (above + bins[bin] < selection.rank) above += bins[bin--];
        digit = max(bin, 0);
        rank = group >= 0 ? selection.rank - above : 0;
    }
    __syncthreads();
    return {selection.leading | digit << shift, rank};
}

// Adds a block's counts to those of its image, in `merged`. True in the last block of an image, which then has them all
// in `bins`; `merged` and `ticket` are 0 again.
__device__ inline bool merge_counts(unsigned* bins, unsigned* merged, unsigned* ticket, int parts) {
    __shared__ int last;
    for (int i = threadIdx.x; i < BINS; i += blockDim.x)
        if (bins[i]) atomicAdd(&merged[i], bins[i]);
    __threadfence();
    __syncthreads();  // the block has added all its counts
    if (threadIdx.x == 0) last = atomicAdd(ticket, 1u) == unsigned(parts - 1);
    __syncthreads();
    if (!last) return false;
    __threadfence();
    for (int i = threadIdx.x; i < BINS; i += blockDim.x) bins[i] = atomicExch(&merged[i], 0u);
    if (threadIdx.x == 0) atomicExch(ticket, 0u);
    __syncthreads();
    return true;
}

// `selection` (leading 0, a rank) becomes the key of that rank, or rank 0 if there are fewer keys. True in the block of
// an image that has the key.
// keys(part, parts, visit) calls visit(key) for each key of a part. With `nan_wins`, keys whose first digit is all ones
// are NaN, and NaN is selected whatever the rank.
// Without scratch: one block per image, parts 1, digit 0. With scratch, SELECTION_WORDS zeros per image: `parts` blocks
// per image and a launch for each digit.
template <class Keys>
__device__ inline bool radix_select(const Keys& keys, Selection& selection, bool nan_wins, unsigned* scratch,
                                    int parts, int digit) {
    __shared__ unsigned bins[BINS];
    unsigned* merged = scratch + index_t(blockIdx.x / parts) * SELECTION_WORDS;
    unsigned* state = merged + BINS;
    if (scratch && digit > 0) selection = {state[0], state[1]};
    for (const int end = scratch ? digit + 1 : DIGITS; digit < end; ++digit) {
        const int shift = max(0, 32 - DIGIT_BITS * (digit + 1)), width = 32 - DIGIT_BITS * digit - shift;
        for (int i = threadIdx.x; i < BINS; i += blockDim.x) bins[i] = 0;
        __syncthreads();
        keys(int(blockIdx.x % parts), parts, [=, leading = selection.leading](unsigned key) {
            const unsigned bin = (key ^ leading) >> shift;
            if (bin < 1u << width) atomicAdd(&bins[bin], 1u);
        });
        __syncthreads();
        if (scratch && !merge_counts(bins, merged, state + 2, parts)) return false;
        if (nan_wins && digit == 0 && bins[BINS - 1]) selection.rank = 1;
        selection = choose_digit(bins, selection, shift);
    }
    if (scratch && threadIdx.x == 0) {
        state[0] = selection.leading;
        state[1] = selection.rank;
    }
    return digit == DIGITS;
}

// out = A v with (A v)(p) = sum_q a(p - q) v(q) for p, q on a kh x kw support: the normal operator of the kernel step.
// a: (2 kh - 1, 2 kw - 1), lag (0, 0) in the middle. A barrier is needed before, for v, and after, for out. A thread
// computes STRIP outputs of a column, which share all but one value of a at each step: two loads for STRIP
// multiply-adds. Adjacent threads read adjacent columns (no bank conflicts).
__device__ inline void toeplitz_product(const float* a, const float* v, float* out, int kh, int kw) {
    constexpr int STRIP = 4;
    const int strips = (kh + STRIP - 1) / STRIP, pitch = 2 * kw - 1;
    for (int item = threadIdx.x; item < strips * kw; item += blockDim.x) {
        const int y = item / kw * STRIP, x = item % kw;
        float sum[STRIP] = {}, lags[STRIP];
        for (int qx = 0; qx < kw; ++qx) {
            const float* column = a + (x - qx + kw - 1);
            // Rows of the last strip beyond the support are clamped; their outputs are not stored.
            for (int i = 0; i + 1 < STRIP; ++i) lags[i] = column[(min(y + i + 1, kh - 1) + kh - 1) * pitch];
#pragma unroll 4
            for (int qy = 0; qy < kh; ++qy) {
                for (int i = STRIP - 1; i > 0; --i) lags[i] = lags[i - 1];
                lags[0] = column[(y - qy + kh - 1) * pitch];
                const float value = v[qy * kw + qx];
                for (int i = 0; i < STRIP; ++i) sum[i] += lags[i] * value;
            }
        }
        for (int i = 0; i < STRIP; ++i)
            if (y + i < kh) out[(y + i) * kw + x] = sum[i];
    }
}

// H_t - 1 of the pose (u, v, phi) of a camera, in pixels and radians, with curvature 1 / f, or 0 for motion in the
// image plane: a matrix on (x, y, 1), in pixels from the principal point. NumPy twin: poses.displacement.
// float32 suffices: H c - c is never a difference of large numbers here, so that it has the rounding errors of a few
// terms of its own size (some 1e-6 pixels where these are 15 pixels), whatever the coordinates are.
struct PoseMotion {
    float xx, xy, x1, yx, yy, y1, zx, zy, z1;  // z is multiplied by 1 / f

    __device__ PoseMotion(float u, float v, float phi, float curvature) {
        // Rodrigues' formula: sin a / a [r] + (1 - cos a) / a^2 [r]^2 with r = (-v / f, u / f, phi).
        const float p = curvature * u, q = curvature * v;
        const float half = 0.5f * sqrtf(p * p + q * q + phi * phi);
        float sine, cosine;
        sincospif(0.318309886f * half, &sine, &cosine);
        const float sinc = half > 0 ? sine / half : 1.f, first = sinc * cosine, second = 0.5f * sinc * sinc;
        xx = -second * (p * p + phi * phi);
        xy = -first * phi - second * p * q;
        yx = first * phi - second * p * q;
        yy = -second * (q * q + phi * phi);
        // In the plane, shifts are not turned.
        x1 = curvature > 0 ? first * u - second * phi * v : u;
        y1 = curvature > 0 ? first * v + second * phi * u : v;
        zx = curvature * (-first * p - second * q * phi);
        zy = curvature * (-first * q + second * p * phi);
        z1 = -second * (p * p + q * q);
    }

    // H c - c.
    __device__ float2 operator()(float x, float y) const {
        const float z = zx * x + zy * y + z1, scale = 1 / (1 + z);
        return make_float2((xx * x + xy * y + x1 - x * z) * scale, (yx * x + yy * y + y1 - y * z) * scale);
    }
};
