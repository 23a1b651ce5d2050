// toeplitz_cg: out = `iterations` steps of CG on (A + ridge) k = rhs from start; A k = sum_q a(p - q) k(q).
// a: (n, 2 kh - 1, 2 kw - 1); rhs, start, out: (n, kh, kw); ridges: n, or null and `ridge` for
// all; float32, C order; out may be start.
// grid (n), block (32 m), shared 4 kh kw floats and, where a_is_shared, (2 kh - 1)(2 kw - 1) more.
// NumPy twin: kernel_step.toeplitz_cg (which multiplies by FFT).

__device__ __forceinline__ void conjugate_gradient(const float* a, const float* rhs, float ridge, float* x, int kh,
                                                   int kw, int iterations) {
    const int size = kh * kw;
    const float tiny = 1.17549435e-38f;
    float *residual = x + size, *direction = residual + size, *image = direction + size;
    toeplitz_product(a, x, image, kh, kw);
    __syncthreads();
    float energy = 0.f;
    for (int i = threadIdx.x; i < size; i += blockDim.x) {
        residual[i] = rhs[i] - (image[i] + ridge * x[i]);
        direction[i] = residual[i];
        energy += residual[i] * residual[i];
    }
    energy = block_sum(energy);  // its barriers complete `direction`, too
    for (int step = 0; step < iterations; ++step) {
        toeplitz_product(a, direction, image, kh, kw);
        __syncthreads();
        float curvature = 0.f;
        for (int i = threadIdx.x; i < size; i += blockDim.x) {
            image[i] += ridge * direction[i];
            curvature += direction[i] * image[i];
        }
        curvature = block_sum(curvature);
        // A solved (or zero) system stands still: 0 / tiny. NaN fails the comparison and stays NaN.
        const float length = energy / (curvature < tiny ? tiny : curvature), last = energy;
        energy = 0.f;
        for (int i = threadIdx.x; i < size; i += blockDim.x) {
            x[i] += length * direction[i];
            residual[i] -= length * image[i];
            energy += residual[i] * residual[i];
        }
        energy = block_sum(energy);
        const float turn = energy / (last < tiny ? tiny : last);
        for (int i = threadIdx.x; i < size; i += blockDim.x) direction[i] = residual[i] + turn * direction[i];
        __syncthreads();
    }
}

extern "C" __global__ void __launch_bounds__(1024)
toeplitz_cg(const float* __restrict__ autocorrelation, const float* __restrict__ rhs, const float* start,
            const float* __restrict__ ridges, float ridge, float* out, int kh, int kw, int iterations,
            int a_is_shared) {
    DYNAMIC_SHARED(float, memory);  // x, residual, direction, image, and a
    const int size = kh * kw, lags = (2 * kh - 1) * (2 * kw - 1);
    const index_t picture = blockIdx.x;
    ridge = per_image(ridges, ridge, picture);
    const float* a = autocorrelation + picture * lags;
    float* copy = memory + 4 * size;
    if (a_is_shared)
        for (int i = threadIdx.x; i < lags; i += blockDim.x) copy[i] = a[i];
    for (int i = threadIdx.x; i < size; i += blockDim.x) memory[i] = start[picture * size + i];
    __syncthreads();
    // Two calls, so that the compiler knows in each which memory `a` is in.
    if (a_is_shared)
        conjugate_gradient(copy, rhs + picture * size, ridge, memory, kh, kw, iterations);
    else
        conjugate_gradient(a, rhs + picture * size, ridge, memory, kh, kw, iterations);
    for (int i = threadIdx.x; i < size; i += blockDim.x) out[picture * size + i] = memory[i];
}
