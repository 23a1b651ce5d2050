// toeplitz_cg: out = `iterations` steps of CG on (A + ridge) k = rhs from start; A k = sum_q a(p - q) k(q).
// a: (n, 2 kh - 1, 2 kw - 1); rhs, start, out: (n, kh, kw); ridges: n, or null and `ridge` for
// all; float32, C order; out may be start.
// grid (n), block (32 m), shared 4 kh kw floats and, where a_is_shared, (2 kh - 1)(2 kw - 1) more.
// NumPy twin: toeplitz.toeplitz_cg, which multiplies by FFT.

__device__ __forceinline__ void conjugate_gradient(const float* a, const float* rhs, float ridge, float* x, int kh,
                                                   int kw, int iterations) {
    const int size = kh * kw;
    float *r = x + size, *p = r + size, *Ap = p + size;
    toeplitz_product(a, x, Ap, kh, kw);
    __syncthreads();
    float rr = 0.f;
    for (int i = threadIdx.x; i < size; i += blockDim.x) {
        r[i] = rhs[i] - (Ap[i] + ridge * x[i]);
        p[i] = r[i];
        rr += r[i] * r[i];
    }
    rr = block_sum(rr);  // its barriers complete p, too
    for (int step = 0; step < iterations; ++step) {
        toeplitz_product(a, p, Ap, kh, kw);
        __syncthreads();
        float pAp = 0.f;
        for (int i = threadIdx.x; i < size; i += blockDim.x) {
            Ap[i] += ridge * p[i];
            pAp += p[i] * Ap[i];
        }
        pAp = block_sum(pAp);
        // A solved (or zero) system stays as it is: 0 / tiny. NaN fails the comparison and stays NaN.
        const float alpha = rr / (pAp < SMALLEST_NORMAL ? SMALLEST_NORMAL : pAp), rr_old = rr;
        rr = 0.f;
        for (int i = threadIdx.x; i < size; i += blockDim.x) {
            x[i] += alpha * p[i];
            r[i] -= alpha * Ap[i];
            rr += r[i] * r[i];
        }
        rr = block_sum(rr);
        const float beta = rr / (rr_old < SMALLEST_NORMAL ? SMALLEST_NORMAL : rr_old);
        for (int i = threadIdx.x; i < size; i += blockDim.x) p[i] = r[i] + beta * p[i];
        __syncthreads();
    }
}

extern "C" __global__ void __launch_bounds__(1024)
toeplitz_cg(const float* __restrict__ autocorrelation, const float* __restrict__ rhs, const float* start,
            const float* __restrict__ ridges, float ridge, float* out, int kh, int kw, int iterations,
            int a_is_shared) {
    DYNAMIC_SHARED(float, memory);  // x, r, p, Ap, and a
    const int size = kh * kw, lags = (2 * kh - 1) * (2 * kw - 1);
    const index_t image = blockIdx.x;
    ridge = per_image(ridges, ridge, image);
    const float* a = autocorrelation + image * lags;
    float* copy = memory + 4 * size;
    if (a_is_shared)
        for (int i = threadIdx.x; i < lags; i += blockDim.x) copy[i] = a[i];
    for (int i = threadIdx.x; i < size; i += blockDim.x) memory[i] = start[image * size + i];
    __syncthreads();
    // Two calls, so that the compiler knows the memory of `a` in each.
    if (a_is_shared)
        conjugate_gradient(copy, rhs + image * size, ridge, memory, kh, kw, iterations);
    else
        conjugate_gradient(a, rhs + image * size, ridge, memory, kh, kw, iterations);
    for (int i = threadIdx.x; i < size; i += blockDim.x) out[image * size + i] = memory[i];
}
