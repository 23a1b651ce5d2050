// spectral_solve: split = (data + weight split) / ((power + weight |F D|^2) h w), in place; w is the picture's width.
// data, split: (n, h, w / 2 + 1) complex64; power: (n, h, w / 2 + 1) float32; C order.
// grid (ceil((w / 2 + 1) / 32) ceil(h / 32) n), block (32, 8).  NumPy twin: filters.spectral_solve.

// 4 sin^2(pi i / size), 0 <= i < size. Folded to the small angle: near pi the sine would lose its digits.
__device__ inline float difference_spectrum(int i, int size) {
    const float sine = sinpif(float(min(i, size - i)) / float(size));
    return 4.f * sine * sine;
}

extern "C" __global__ void __launch_bounds__(TILE * TILE_ROWS)
spectral_solve(const float2* __restrict__ data, float2* __restrict__ split, const float* __restrict__ power,
               float weight, int h, int w) {
    const int columns = w / 2 + 1;
    const Tile at = this_tile(h, columns);
    const int x = at.x + threadIdx.x;
    if (x >= columns) return;
    const index_t offset = at.picture * h * columns;
    const float dx = difference_spectrum(x, w), size = float(h) * float(w);
    for (int y = at.y + threadIdx.y; y < min(at.y + TILE, h); y += TILE_ROWS) {
        const index_t i = offset + index_t(y) * columns + x;
        const float scale = 1.f / (size * (power[i] + weight * (difference_spectrum(y, h) + dx)));
        const float2 d = data[i], s = split[i];
        split[i] = make_float2((d.x + weight * s.x) * scale, (d.y + weight * s.y) * scale);
    }
}
