// toeplitz_nnls: `iterations` accelerated projected gradients for min over k >= 0 of <k, (A + ridge) k> / 2 - <rhs, k>.
// a: (n, 2 kh - 1, 2 kw - 1); rhs, start, out: (n, kh, kw); bounds: n, |A| or more; ridges: n, or null and `ridge` for
// all; float32, C order; out may be start.
// grid (n), block (32 m), shared 3 kh kw floats and, where a_is_shared, (2 kh - 1)(2 kw - 1) more.
// NumPy twin: toeplitz.toeplitz_nnls, which multiplies by FFT.

__device__ __forceinline__ void projected_gradients(const float* a, const float* rhs, float ridge, float step,
                                                    float* kernel, int kh, int kw, int iterations) {
    const int size = kh * kw;
    float *y = kernel + size, *Ay = y + size;
    float t = 1.f;
    for (int iteration = 0; iteration < iterations; ++iteration) {
        toeplitz_product(a, y, Ay, kh, kw);
        __syncthreads();
        const float t_next = 0.5f * (1.f + sqrtf(1.f + 4.f * t * t));
        const float momentum = (t - 1.f) / t_next;
        for (int i = threadIdx.x; i < size; i += blockDim.x) {
            const float descent = y[i] - step * (Ay[i] + ridge * y[i] - rhs[i]);
            const float next = descent < 0.f ? 0.f : descent;  // not fmaxf, which would turn NaN into 0
            y[i] = next + momentum * (next - kernel[i]);
            kernel[i] = next;
        }
        t = t_next;
        __syncthreads();
    }
}

// 1 block per SM allows a thread 64 registers; by default, ptxas of CUDA 13.0 takes 32 for sm_80 and spills.
extern "C" __global__ void __launch_bounds__(1024, 1)
toeplitz_nnls(const float* __restrict__ autocorrelation, const float* __restrict__ rhs, const float* start,
              const float* __restrict__ bounds, const float* __restrict__ ridges, float ridge, float* out,
              int kh, int kw, int iterations, int a_is_shared) {
    DYNAMIC_SHARED(float, memory);  // kernel, y, Ay, and a
    const int size = kh * kw, lags = (2 * kh - 1) * (2 * kw - 1);
    const index_t image = blockIdx.x;
    ridge = per_image(ridges, ridge, image);
    const float norm = bounds[image] + ridge, step = 1.f / (norm < SMALLEST_NORMAL ? SMALLEST_NORMAL : norm);
    const float* a = autocorrelation + image * lags;
    float* copy = memory + 3 * size;
    if (a_is_shared)
        for (int i = threadIdx.x; i < lags; i += blockDim.x) copy[i] = a[i];
    for (int i = threadIdx.x; i < size; i += blockDim.x) memory[i] = memory[size + i] = start[image * size + i];
    __syncthreads();
    rhs += image * size;
    // Two calls, so that the compiler knows the memory of `a` in each.
    if (a_is_shared)
        projected_gradients(copy, rhs, ridge, step, memory, kh, kw, iterations);
    else
        projected_gradients(a, rhs, ridge, step, memory, kh, kw, iterations);
    for (int i = threadIdx.x; i < size; i += blockDim.x) out[image * size + i] = memory[i];
}
