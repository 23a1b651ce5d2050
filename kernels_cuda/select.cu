// select: out = the rank-th smallest (from 0) of an image's values, of any sign; NaN if any value is NaN.
// values: (n, size) float32; out: n float32; C order; 0 <= rank < size.
// grid (n), block (32 m), scratch null, parts 1, digit 0; or grid (parts n), scratch n SELECTION_WORDS zeros, launched
// for digit = 0, 1, 2.  NumPy twin: numpy.partition, equal bit for bit.

constexpr int READS = 4;  // values that a thread loads at once, to hide the latency of memory

// Keys in the order of the floats; -0 comes before 0, NaN is the largest.
__device__ inline unsigned ordered_key(float value) {
    const unsigned bits = __float_as_uint(value);
    return value != value ? 0xffffffffu : bits >> 31 ? ~bits : bits | 0x80000000u;
}

struct Values {
    const float* __restrict__ values;
    int size;

    template <class Visit>
    __device__ void operator()(int part, int parts, const Visit& visit) const {
        const unsigned count = size, step = parts * blockDim.x;  // unsigned: the last step may exceed 2^31
        for (unsigned first = part * blockDim.x + threadIdx.x; first < count; first += READS * step) {
            float value[READS];
            for (unsigned i = 0; i < READS; ++i) value[i] = values[min(first + i * step, count - 1)];
            for (unsigned i = 0; i < READS; ++i)
                if (first + i * step < count) visit(ordered_key(value[i]));
        }
    }
};

extern "C" __global__ void __launch_bounds__(1024)
select(const float* __restrict__ values, float* __restrict__ out, int size, int rank, unsigned* scratch, int parts,
       int digit) {
    const index_t image = blockIdx.x / parts;
    const Values keys = {values + image * size, size};
    Selection selection = {0, unsigned(size - rank)};
    if (radix_select(keys, selection, true, scratch, parts, digit) && threadIdx.x == 0) {
        const unsigned key = selection.leading;
        out[image] = __uint_as_float(key >> 31 ? key ^ 0x80000000u : ~key);
    }
}
