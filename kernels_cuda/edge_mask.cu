// edge_mask: mask = |D u|^2 >= threshold.  u: (n, h, w) float32; mask: (n, h, w) uint8, 0 or 1; C order, periodic.
// thresholds: n floats, or null and `threshold` for all.
// grid (ceil(w / 32) ceil(h / 32) n), block (32, 8).  NumPy twin: filters.edge_mask, equal bit for bit.

extern "C" __global__ void __launch_bounds__(TILE * TILE_ROWS)
edge_mask(const float* __restrict__ u, const float* __restrict__ thresholds, float threshold,
          unsigned char* __restrict__ mask, int h, int w) {
    const Tile at = this_tile(h, w);
    const int x = at.x + threadIdx.x;
    if (x >= w) return;
    u += at.image * h * w;
    mask += at.image * h * w;
    const float bound = per_image(thresholds, threshold, at.image);
    for (int y = at.y + threadIdx.y; y < min(at.y + TILE, h); y += TILE_ROWS) {
        const float here = u[index_t(y) * w + x];
        const float gx = u[index_t(y) * w + wrap(x + 1, w)] - here, gy = u[index_t(wrap(y + 1, h)) * w + x] - here;
        mask[index_t(y) * w + x] = squared_norm(gx, gy) >= bound;
    }
}
