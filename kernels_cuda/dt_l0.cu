// dt_l0: out = D^T g, g = D u where |D u|^2 >= threshold, else 0.  u, out: (n, h, w) float32, C order, periodic.
// thresholds: n floats, or null and `threshold` for all.  out is not u.
// grid (ceil(w / 32) ceil(h / 32) n), block (32, 8).  NumPy twin: filters.dt_l0, equal bit for bit.

extern "C" __global__ void __launch_bounds__(TILE * TILE_ROWS)
dt_l0(const float* __restrict__ u, const float* __restrict__ thresholds, float threshold, float* __restrict__ out,
      int h, int w) {
    __shared__ float tile[TILE + 2][TILE + 2];  // the image with a border of one pixel
    const Tile at = this_tile(h, w);
    u += at.image * h * w;
    out += at.image * h * w;
    const int rows = min(TILE, h - at.y), columns = min(TILE, w - at.x);
    for (int y = threadIdx.y; y < rows + 2; y += TILE_ROWS)
        for (int x = threadIdx.x; x < columns + 2; x += TILE)
            tile[y][x] = u[index_t(wrap(at.y + y - 1, h)) * w + wrap(at.x + x - 1, w)];
    __syncthreads();
    const float bound = per_image(thresholds, threshold, at.image);
    for (int y = threadIdx.y; y < rows; y += TILE_ROWS) {
        const int x = threadIdx.x;
        if (x >= columns) continue;
        // g of this pixel, of the one to the left and of the one above. A product keeps NaN, as in the twin.
        const float* p = &tile[y + 1][x + 1];
        constexpr int down = TILE + 2;
        const float gx = p[1] - p[0], gy = p[down] - p[0];
        const float left_x = p[0] - p[-1], left_y = p[down - 1] - p[-1];
        const float above_x = p[1 - down] - p[-down], above_y = p[0] - p[-down];
        const float edge = squared_norm(gx, gy) >= bound;
        const float edge_left = squared_norm(left_x, left_y) >= bound;
        const float edge_above = squared_norm(above_x, above_y) >= bound;
        out[index_t(at.y + y) * w + at.x + x] = -(gx * edge) - gy * edge + left_x * edge_left + above_y * edge_above;
    }
}
