// kernel_to_grid: out = kernel on a periodic grid of zeros, its middle pixel at (0, 0).
// kernel: (n, kh, kw) float32; out: (n, h, w) float32; C order; kh <= h, kw <= w.
// grid (ceil(w / 32) ceil(h / 32) n), block (32, 8).  NumPy twin: fourier.kernel_to_grid, equal bit for bit.

extern "C" __global__ void __launch_bounds__(TILE * TILE_ROWS)
kernel_to_grid(const float* __restrict__ kernel, float* __restrict__ out, int kh, int kw, int h, int w) {
    const Tile at = this_tile(h, w);
    const int x = at.x + threadIdx.x;
    if (x >= w) return;
    kernel += at.image * kh * kw;
    out += at.image * h * w;
    const int column = wrap(x + kw / 2, w);
    for (int y = at.y + threadIdx.y; y < min(at.y + TILE, h); y += TILE_ROWS) {
        const int row = wrap(y + kh / 2, h);
        out[index_t(y) * w + x] = row < kh && column < kw ? kernel[row * kw + column] : 0.f;
    }
}
