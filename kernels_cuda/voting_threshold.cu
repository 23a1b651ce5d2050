// voting_threshold: out = the count-th largest |D u|^2 of the rectangle rows top..bottom - 1, columns left..right - 1,
// at least the smallest normal float.  u: (n, h, w) float32; out: n float32; C order, periodic; NaN counts as largest.
// grid (n), block (32 m).  NumPy twin: kernel_step.voting_threshold, equal bit for bit.

constexpr int DIGIT = 11;  // bits found in a pass over the rectangle, by a histogram in shared memory
constexpr int BINS = 1 << DIGIT, GROUP = 2 * WARP, GROUPS = BINS / GROUP;
constexpr int STRIP_ROWS = 16;  // rows of a column that a thread walks down: what was below is then here
constexpr int AHEAD = 4;        // rows that it reads at once: one block has to keep the memory of its SM busy

// Counts, by the `width` bits from `shift` on, the energies whose bits above those are `found`. Those under the
// smallest normal float are left out: the result is never less, and in flat pictures they would meet in one bin.
__device__ inline void count_digits(const float* u, unsigned* bins, unsigned found, int shift, int width, int h, int w,
                                    int top, int bottom, int left, int right) {
    const int across = (right - left + WARP - 1) / WARP, down = (bottom - top + STRIP_ROWS - 1) / STRIP_ROWS;
    const int lane = threadIdx.x % WARP, warps = blockDim.x / WARP;
    for (int strip = threadIdx.x / WARP; strip < across * down; strip += warps) {
        const int x = left + strip % across * WARP + lane, first = top + strip / across * STRIP_ROWS;
        if (x >= right) continue;
        const int beside = wrap(x + 1, w), last = min(first + STRIP_ROWS, bottom);
        float here = u[index_t(first) * w + x];
        for (int y = first; y < last; y += AHEAD) {
            float right_of[AHEAD], below[AHEAD];
            for (int i = 0; i < AHEAD; ++i) {
                const int row = min(y + i, last - 1);
                right_of[i] = u[index_t(row) * w + beside];
                below[i] = u[index_t(wrap(row + 1, h)) * w + x];
            }
            for (int i = 0; i < AHEAD; ++i) {
                const float energy = squared_norm(right_of[i] - here, below[i] - here);
                here = below[i];
                const unsigned bits = __float_as_uint(energy);  // in the order of the floats, as none is negative
                const bool candidate = shift + width == 32 || bits >> (shift + width) == found;
                if (y + i < last && candidate && !(energy < SMALLEST_NORMAL))
                    atomicAdd(&bins[bits >> shift & ((1u << width) - 1)], 1u);
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(1024)
voting_threshold(const float* __restrict__ u, float* __restrict__ out, int h, int w, int top, int bottom, int left,
                 int right, int count) {
    __shared__ unsigned bins[BINS], groups[GROUPS];
    __shared__ unsigned chosen, remaining;  // the digit, and the rank among those that share it; 0: there is none
    u += index_t(blockIdx.x) * h * w;
    unsigned found = 0, rank = count;
    const int lane = threadIdx.x % WARP, warps = blockDim.x / WARP;
    for (int known = 0, shift; known < 32 && rank; known = 32 - shift) {
        shift = max(0, 32 - DIGIT - known);
        const int width = 32 - shift - known;
        for (int i = threadIdx.x; i < BINS; i += blockDim.x) bins[i] = 0;
        __syncthreads();
        count_digits(u, bins, found, shift, width, h, w, top, bottom, left, right);
        __syncthreads();
        for (int group = threadIdx.x / WARP; group < GROUPS; group += warps) {
            unsigned sum = bins[group * GROUP + lane] + bins[group * GROUP + WARP + lane];
            for (int offset = WARP / 2; offset; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
            if (lane == 0) groups[group] = sum;
        }
        __syncthreads();
        if (threadIdx.x == 0) {  // from the largest down: first the groups of bins, then the bins of one
            unsigned above = 0;
            int group = GROUPS - 1;
            while (group >= 0 && above + groups[group] < rank) above += groups[group--];
            int bin = group * GROUP + GROUP - 1;
            if (group >= 0)
                while (above + bins[bin] < rank) above += bins[bin--];
            chosen = bin;
            remaining = group >= 0 ? rank - above : 0;
        }
        __syncthreads();
        rank = remaining;
        found = found << width | chosen;
    }
    if (threadIdx.x == 0) out[blockIdx.x] = rank ? __uint_as_float(found) : SMALLEST_NORMAL;
}
