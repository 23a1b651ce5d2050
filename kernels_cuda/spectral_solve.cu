// spectral_solve: dt_g = (data + weight dt_g) / ((power + weight |F D|^2) h w), in place; w is the image's width.
// data, dt_g: (n, h, w / 2 + 1) complex64; power: (n, h, w / 2 + 1) float32; weights: n floats, or null and `weight`
// for all; down, across: |F D|^2 is down(y) + across(x), h and at least w / 2 + 1 floats; C order.
// grid (ceil((w / 2 + 1) / 32) ceil(h / 32) n), block (32, 8).  NumPy twin: filters.spectral_solve.

extern "C" __global__ void __launch_bounds__(TILE * TILE_ROWS)
spectral_solve(const float2* __restrict__ data, float2* __restrict__ dt_g, const float* __restrict__ power,
               const float* __restrict__ weights, float weight, const float* __restrict__ down,
               const float* __restrict__ across, int h, int w) {
    const int columns = w / 2 + 1;
    const Tile at = this_tile(h, columns);
    const int x = at.x + threadIdx.x;
    if (x >= columns) return;
    const index_t offset = at.image * h * columns;
    weight = per_image(weights, weight, at.image);
    const float dx = across[x], size = float(h) * float(w);
    for (int y = at.y + threadIdx.y; y < min(at.y + TILE, h); y += TILE_ROWS) {
        const index_t i = offset + index_t(y) * columns + x;
        const float scale = 1.f / (size * (power[i] + weight * (down[y] + dx)));
        const float2 d = data[i], s = dt_g[i];
        dt_g[i] = make_float2((d.x + weight * s.x) * scale, (d.y + weight * s.y) * scale);
    }
}
