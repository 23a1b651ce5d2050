// resample: out(i) = sum of weights(t, i) u(first(i) + t) along one axis (0: down, 1: across), in the order of t.
// u: (n, h, w) float32; out: (n, target, w) or (n, h, target) float32; first: target int32, at least 0;
// weights: (taps, target) float32; C order; first(i) + taps is at most the length of the axis.
// grid (ceil(columns / 32) ceil(rows / 32) n) of out's sides, block (32, 8).
// NumPy twin: resample._resample_rows, equal bit for bit.

extern "C" __global__ void __launch_bounds__(TILE * TILE_ROWS)
resample(const float* __restrict__ u, const int* __restrict__ first, const float* __restrict__ weights,
         float* __restrict__ out, int taps, int target, int h, int w, int axis) {
    const int rows = axis ? h : target, columns = axis ? target : w;
    const Tile at = this_tile(rows, columns);
    const int x = at.x + threadIdx.x;
    if (x >= columns) return;
    u += at.image * h * w;
    out += at.image * rows * columns;
    const index_t stride = axis ? 1 : w;
    for (int y = at.y + threadIdx.y; y < min(at.y + TILE, rows); y += TILE_ROWS) {
        const int i = axis ? x : y;
        const float* line = (axis ? u + index_t(y) * w : u + x) + first[i] * stride;
        float sum = 0.f;
        for (int t = 0; t < taps; ++t)
            sum = __fadd_rn(sum, __fmul_rn(weights[index_t(t) * target + i], line[t * stride]));
        out[index_t(y) * columns + x] = sum;
    }
}
