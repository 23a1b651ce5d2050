// data_terms: power = |otf|^2, then otf = conj(otf) blurred, in place: the data terms of the latent step's closed form.
// otf, blurred: (n, h, w) complex64; power: (n, h, w) float32; C order; h, w: the sides of the spectra.
// grid (ceil(w / 32) ceil(h / 32) n), block (32, 8).  NumPy twin: filters.data_terms.

extern "C" __global__ void __launch_bounds__(TILE * TILE_ROWS)
data_terms(float2* __restrict__ otf, const float2* __restrict__ blurred, float* __restrict__ power, int h, int w) {
    const Tile at = this_tile(h, w);
    const int x = at.x + threadIdx.x;
    if (x >= w) return;
    const index_t offset = at.image * h * w;
    for (int y = at.y + threadIdx.y; y < min(at.y + TILE, h); y += TILE_ROWS) {
        const index_t i = offset + index_t(y) * w + x;
        const float2 k = otf[i], b = blurred[i];
        power[i] = squared_norm(k.x, k.y);
        otf[i] = make_float2(k.x * b.x + k.y * b.y, k.x * b.y - k.y * b.x);
    }
}
