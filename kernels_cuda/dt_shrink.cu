// dt_shrink: out = D^T s, s = each component v of D u shrunk to argmin_w |w|^(2/3) + beta / 2 (w - v)^2.
// u, out: (n, h, w) float32, C order, periodic; unit = 2 / (3 beta), threshold = 2 unit^(3/4).  out is not u.
// grid (ceil(w / 32) ceil(h / 32) n), block (32, 8).  NumPy twin: methods/hyper_laplacian.dt_shrink, s to 8 ulp.

// 0 where |v| <= threshold, else v (1 - sum_i SHARES_i q / (1 - POLES_i q)) with q = unit |v|^(-4/3), at most 0.397.
// The sum has one common denominator, for a single division; all terms are positive, so no digits cancel.
__device__ inline float shrink(float v, float threshold, float unit) {
    const float magnitude = fabsf(v);
    if (!(magnitude > threshold)) return 0.f;
    const float q = unit / (magnitude * cbrtf(magnitude));
    const float a = 1.f - 0.073265131787152303f * q, b = 1.f - 0.87496147179759251f * q;
    const float c = 1.f - 1.6362368500232522f * q, d = 1.f - 2.0136239629866241f * q;
    const float ab = a * b, cd = c * d;
    const float sum_ab = 0.7372999686694484f * b + 0.20182240839424589f * a;
    const float sum_cd = 0.052524283202854415f * d + 0.0083524650025039743f * c;
    return v * (1.f - q * (sum_ab * cd + sum_cd * ab) / (ab * cd));
}

extern "C" __global__ void __launch_bounds__(TILE * TILE_ROWS)
dt_shrink(const float* __restrict__ u, float threshold, float unit, float* __restrict__ out, int h, int w) {
    __shared__ float tile[TILE + 2][TILE + 2];  // the image with a border of one pixel
    __shared__ float across[TILE][TILE + 1];    // s_x of the tile and of the column to its left
    __shared__ float down[TILE + 1][TILE];      // s_y of the tile and of the row above
    const Tile at = this_tile(h, w);
    u += at.image * h * w;
    out += at.image * h * w;
    const int rows = min(TILE, h - at.y), columns = min(TILE, w - at.x), x = threadIdx.x;
    for (int y = threadIdx.y; y < rows + 2; y += TILE_ROWS)
        for (int i = x; i < columns + 2; i += TILE)
            tile[y][i] = u[index_t(wrap(at.y + y - 1, h)) * w + wrap(at.x + i - 1, w)];
    __syncthreads();
    for (int y = threadIdx.y; y < rows; y += TILE_ROWS) {
        if (x >= columns) break;
        const float* p = &tile[y + 1][x + 1];
        across[y][x + 1] = shrink(p[1] - p[0], threshold, unit);
        down[y + 1][x] = shrink(p[TILE + 2] - p[0], threshold, unit);
    }
    if (threadIdx.y == TILE_ROWS - 1 && x < columns)
        down[0][x] = shrink(tile[1][x + 1] - tile[0][x + 1], threshold, unit);
    if (threadIdx.y == TILE_ROWS - 2 && x < rows)  // x counts rows here
        across[x][0] = shrink(tile[x + 1][1] - tile[x + 1][0], threshold, unit);
    __syncthreads();  // both are complete
    for (int y = threadIdx.y; y < rows; y += TILE_ROWS)
        if (x < columns)
            out[index_t(at.y + y) * w + at.x + x] = -across[y][x + 1] - down[y + 1][x] + across[y][x] + down[y][x];
}
