// normal_spectra: in place, latent = max(Re(conj(selected) latent), 0) / (h w), real, and
// selected = conj(selected) blurred / (h w).
// selected, latent, blurred: (n, h, w / 2 + 1) complex64, C order; w is the image's width.
// grid (ceil((w / 2 + 1) / 32) ceil(h / 32) n), block (32, 8).  NumPy twin: kernel_step.normal_spectra (float32).

extern "C" __global__ void __launch_bounds__(TILE * TILE_ROWS)
normal_spectra(float2* __restrict__ selected, float2* __restrict__ latent, const float2* __restrict__ blurred, int h,
               int w) {
    const int columns = w / 2 + 1;
    const Tile at = this_tile(h, columns);
    const int x = at.x + threadIdx.x;
    if (x >= columns) return;
    const float scale = 1.f / (float(h) * float(w));
    const index_t offset = at.image * h * columns;
    for (int y = at.y + threadIdx.y; y < min(at.y + TILE, h); y += TILE_ROWS) {
        const index_t i = offset + index_t(y) * columns + x;
        const float2 l = latent[i], b = blurred[i];
        const float re = selected[i].x * scale, im = -selected[i].y * scale;
        const float power = re * l.x - im * l.y;
        latent[i] = make_float2(power < 0.f ? 0.f : power, 0.f);  // not fmaxf, which would turn NaN into 0
        selected[i] = make_float2(re * b.x - im * b.y, re * b.y + im * b.x);
    }
}
