// central_lags: the lags around 0, out(y, x) = correlation((y - rows) mod h, (x - columns) mod w).
// correlation: (n, h, w) float32; out: (n, 2 rows + 1, 2 columns + 1) float32; C order; rows < h, columns < w.
// grid (ceil((2 columns + 1) / 32) ceil((2 rows + 1) / 32) n), block (32, 8).  NumPy twin: kernel_step.central_lags.

extern "C" __global__ void __launch_bounds__(TILE * TILE_ROWS)
central_lags(const float* __restrict__ correlation, float* __restrict__ out, int h, int w, int rows, int columns) {
    const int height = 2 * rows + 1, width = 2 * columns + 1;
    const Tile at = this_tile(height, width);
    const int x = at.x + threadIdx.x;
    if (x >= width) return;
    correlation += at.image * h * w + wrap(x - columns, w);
    out += at.image * height * width + x;
    for (int y = at.y + threadIdx.y; y < min(at.y + TILE, height); y += TILE_ROWS)
        out[index_t(y) * width] = correlation[index_t(wrap(y - rows, h)) * w];
}
