// dt_smooth: out = D^T g, or out += scale D^T g if `adds`; g = D smooth between two pixels outside the mask, else 0.
// C order, periodic.
// smooth, out: (n, h, w) float32, out is not smooth; mask: (n, h, w) uint8, 0 or 1.
// grid (ceil(w / 32) ceil(h / 32) n), block (32, 8).  NumPy twin: filters.dt_smooth, equal bit for bit.

// 4 blocks per SM allow a thread 64 registers; by default, ptxas of CUDA 13.0 takes 40 for sm_120 and spills.
extern "C" __global__ void __launch_bounds__(TILE * TILE_ROWS, 4)
dt_smooth(const float* __restrict__ smooth, const unsigned char* __restrict__ mask, float scale, int adds,
             float* __restrict__ out, int h, int w) {
    const Tile at = this_tile(h, w);
    const int x = at.x + threadIdx.x;
    if (x >= w) return;
    smooth += at.image * h * w;
    mask += at.image * h * w;
    out += at.image * h * w;
    for (int y = at.y + threadIdx.y; y < min(at.y + TILE, h); y += TILE_ROWS) {
        const index_t row = index_t(y) * w, here = row + x;
        const index_t right = row + wrap(x + 1, w), left = row + wrap(x - 1, w);
        const index_t below = index_t(wrap(y + 1, h)) * w + x, above = index_t(wrap(y - 1, h)) * w + x;
        const float value = smooth[here], unmasked = !mask[here];
        // Products, not branches, keep NaN, as in the twin.
        const float gx = (smooth[right] - value) * unmasked * !mask[right];
        const float gy = (smooth[below] - value) * unmasked * !mask[below];
        const float left_x = (value - smooth[left]) * unmasked * !mask[left];
        const float above_y = (value - smooth[above]) * unmasked * !mask[above];
        const float dt_g = -gx - gy + left_x + above_y;
        out[here] = adds ? __fadd_rn(out[here], __fmul_rn(scale, dt_g)) : dt_g;
    }
}
