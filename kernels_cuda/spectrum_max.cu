// spectrum_max: out = the largest real part of a spectrum; NaN if there is any.
// spectrum: (n, size) complex64, an image's bins in one row; out: n float32; C order.
// grid (n), block (32 m).  NumPy twin: toeplitz.spectrum_max, equal bit for bit.

extern "C" __global__ void __launch_bounds__(1024)
spectrum_max(const float2* __restrict__ spectrum, float* __restrict__ out, int size) {
    spectrum += index_t(blockIdx.x) * size;
    float largest = spectrum[0].x;
    for (int i = threadIdx.x; i < size; i += blockDim.x) {
        const float value = spectrum[i].x;
        if (!(largest != largest || value <= largest)) largest = value;
    }
    largest = block_max(largest, largest);
    if (threadIdx.x == 0) out[blockIdx.x] = largest;
}
