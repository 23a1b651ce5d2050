// gaussian_smooth: out = u convolved with 2 radius + 1 symmetric weights along one axis (0: down, 1: across), periodic.
// u, out: (n, h, w) float32, C order, out is not u; weights: 2 radius + 1 floats; any radius, even beyond the axis.
// grid (ceil(w / 32) ceil(h / 32) n), block (32, 8), once per axis.  NumPy twin: filters.gaussian_smooth.

extern "C" __global__ void __launch_bounds__(TILE * TILE_ROWS)
gaussian_smooth(const float* __restrict__ u, const float* __restrict__ weights, int radius, float* __restrict__ out,
                int h, int w, int axis) {
    const Tile at = this_tile(h, w);
    const int x = at.x + threadIdx.x;
    if (x >= w) return;
    u += at.image * h * w;
    out += at.image * h * w;
    const int size = axis ? w : h, lead = size - radius % size;  // -radius modulo size, in 1..size
    const index_t stride = axis ? 1 : w;
    for (int y = at.y + threadIdx.y; y < min(at.y + TILE, h); y += TILE_ROWS) {
        const float* line = axis ? u + index_t(y) * w : u + x;
        int i = wrap((axis ? x : y) + lead, size);
        float sum = 0.f;
        for (int tap = 0; tap <= 2 * radius; ++tap) {  // the taps of a warp are adjacent: L1 hits
            sum += weights[tap] * line[i * stride];
            if (++i == size) i = 0;
        }
        out[index_t(y) * w + x] = sum;
    }
}
