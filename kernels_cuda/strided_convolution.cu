// strided_convolution: out = max(bias + weights * u, 0): 3 x 3 correlations at every second pixel, zeros outside.
// u: (n, channels, h, w), weights: (channels, 9, filters), bias: (filters), out: (n, filters, (h + 1) / 2,
// (w + 1) / 2), float32, C order.  grid (ceil(pixels of an output / 128) ceil(filters / 8) n), block (128).
// NumPy twin: convolution.strided_convolution, rounded otherwise.

constexpr int CONVOLUTION_THREADS = 128;
constexpr int FILTERS = 8;  // of a thread: each input that it reads serves all of them

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS)
strided_convolution(const float* __restrict__ u, const float* __restrict__ weights, const float* __restrict__ bias,
                    float* __restrict__ out, int channels, int filters, int h, int w) {
    const int rows = (h + 1) / 2, columns = (w + 1) / 2, pixels = rows * columns;
    const unsigned across = (pixels + CONVOLUTION_THREADS - 1) / CONVOLUTION_THREADS;
    const unsigned groups = (filters + FILTERS - 1) / FILTERS;
    const int pixel = int(blockIdx.x % across) * CONVOLUTION_THREADS + threadIdx.x;
    const int first = int(blockIdx.x / across % groups) * FILTERS, count = min(FILTERS, filters - first);
    const index_t image = blockIdx.x / across / groups;
    if (pixel >= pixels) return;
    const int y = 2 * (pixel / columns) - 1, x = 2 * (pixel % columns) - 1;
    u += image * channels * h * w;
    float sums[FILTERS];
#pragma unroll
    for (int i = 0; i < FILTERS; ++i) sums[i] = i < count ? bias[first + i] : 0;
    for (int channel = 0; channel < channels; ++channel, u += index_t(h) * w)
#pragma unroll
        for (int tap = 0; tap < 9; ++tap) {
            const int row = y + tap / 3, column = x + tap % 3;
            const bool inside = row >= 0 && row < h && column >= 0 && column < w;
            const float value = inside ? u[index_t(row) * w + column] : 0;
            const float* weight = weights + (channel * 9 + tap) * filters + first;
#pragma unroll
            for (int i = 0; i < FILTERS; ++i)
                if (i < count) sums[i] += value * weight[i];
        }
    // NaN stays NaN, as in the twin.
#pragma unroll
    for (int i = 0; i < FILTERS; ++i)
        if (i < count) out[(image * filters + first + i) * pixels + pixel] = sums[i] < 0 ? 0 : sums[i];
}
