// normalize: out = kernel clipped at 0 and scaled to sum 1; a delta if the sum is 0, or where `determined` is 0.
// kernel, out: (n, kh, kw) float32; determined: n uint8, 0 or 1, or null for all 1; C order; out may be kernel.
// grid (n), block (32 m).  NumPy twin: kernel_projection.normalize.

extern "C" __global__ void __launch_bounds__(1024)
normalize(const float* kernel, const unsigned char* __restrict__ determined, float* out, int kh, int kw) {
    const int size = kh * kw, middle = kh / 2 * kw + kw / 2;
    kernel += index_t(blockIdx.x) * size;
    out += index_t(blockIdx.x) * size;
    float sum = 0.f;
    for (int i = threadIdx.x; i < size; i += blockDim.x) sum += kernel[i] < 0.f ? 0.f : kernel[i];  // keeps NaN
    sum = block_sum(sum);
    const bool usable = sum > 0.f && (!determined || determined[blockIdx.x]);
    for (int i = threadIdx.x; i < size; i += blockDim.x) {
        const float value = kernel[i] < 0.f ? 0.f : kernel[i];
        out[i] = usable ? value / sum : float(i == middle);
    }
}
