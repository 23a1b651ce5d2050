// selection_threshold: out = the count-th largest |D u|^2 in rows top..bottom - 1 and columns left..right - 1, at least
// the smallest normal float.  u: (n, h, w) float32; out: n float32; C order, periodic; NaN counts as largest.
// grid (n), block (32 m), scratch null, parts 1, digit 0; or grid (parts n), scratch n SELECTION_WORDS zeros, launched
// for digit = 0, 1, 2.  NumPy twin: kernel_step.selection_threshold, equal bit for bit.

constexpr int STRIP_ROWS = 16;  // rows of a column that a thread goes down, so that each value is loaded once
constexpr int READS = 4;        // rows that it loads at once, to hide the latency of memory

// |D u|^2 without those below the smallest normal float: the result is never less, and in flat images they would all
// go to one bin.
struct Magnitudes {
    const float* __restrict__ u;
    int h, w, top, bottom, left, right;

    template <class Visit>
    __device__ void operator()(int part, int parts, const Visit& visit) const {
        const int across = (right - left + WARP - 1) / WARP, down = (bottom - top + STRIP_ROWS - 1) / STRIP_ROWS;
        const int lane = threadIdx.x % WARP, warps = blockDim.x / WARP;
        for (int strip = part * warps + threadIdx.x / WARP; strip < across * down; strip += parts * warps) {
            const int x = left + strip % across * WARP + lane, first = top + strip / across * STRIP_ROWS;
            if (x >= right) continue;
            const int beside = wrap(x + 1, w), last = min(first + STRIP_ROWS, bottom);
            float here = u[index_t(first) * w + x];
            for (int y = first; y < last; y += READS) {
                float right_of[READS], below[READS];
                for (int i = 0; i < READS; ++i) {
                    const int row = min(y + i, last - 1);
                    right_of[i] = u[index_t(row) * w + beside];
                    below[i] = u[index_t(wrap(row + 1, h)) * w + x];
                }
                for (int i = 0; i < READS; ++i) {
                    const float magnitude_sq = squared_norm(right_of[i] - here, below[i] - here);
                    here = below[i];
                    // The bits of non-negative floats have the order of the floats.
                    if (y + i < last && !(magnitude_sq < SMALLEST_NORMAL)) visit(__float_as_uint(magnitude_sq));
                }
            }
        }
    }
};

extern "C" __global__ void __launch_bounds__(1024)
selection_threshold(const float* __restrict__ u, float* __restrict__ out, int h, int w, int top, int bottom, int left,
                    int right, int count, unsigned* scratch, int parts, int digit) {
    const index_t image = blockIdx.x / parts;
    const Magnitudes magnitudes = {u + image * h * w, h, w, top, bottom, left, right};
    Selection selection = {0, unsigned(count)};
    if (radix_select(magnitudes, selection, false, scratch, parts, digit) && threadIdx.x == 0)
        out[image] = selection.rank ? __uint_as_float(selection.leading) : SMALLEST_NORMAL;
}
