// project: out = kernel clipped at 0, thresholded, without its lighter components, centered, sum 1, or a delta.
// Decided by q = rint(2^30 k / max k), whose sums are exact: pixels with q >= bound stay, then 8-connected components
// with the fraction `component` of the mass, or the largest mass.  kernel, out: (n, kh, kw) float32, C order, out is
// not kernel.  scratch: 16 bytes for each of n kh kw pixels, or null to use shared memory.
// grid (n), block (32 m).  NumPy twin: kernel_projection.project, with the same decisions.

typedef unsigned long long mass_t;

constexpr float UNIT = 1073741824.f;  // 2^30: q is an int, and a moment of 2^18 pixels fits 63 bits
constexpr float LARGEST = 3.40282347e38f;
constexpr int NO_LABEL = -1;          // of a pixel that is dropped

// A pixel of the kernel. The label of a component is the index of its first pixel.
struct Cell {
    mass_t mass;  // of the component whose label is this pixel
    int label, next;  // next: the label after this pass
};

// The smallest label of pixel i and its neighbors.
__device__ inline int smallest_around(const Cell* cells, int i, int kh, int kw) {
    const int y = i / kw, x = i % kw;
    int smallest = cells[i].label;
    for (int v = max(y - 1, 0); v <= min(y + 1, kh - 1); ++v)
        for (int u = max(x - 1, 0); u <= min(x + 1, kw - 1); ++u) {
            const int label = cells[v * kw + u].label;
            if (label != NO_LABEL) smallest = min(smallest, label);
        }
    return smallest;
}

// Labels every pixel with the first pixel of its component, starting from `label` and `next` equal to its own index.
// A pass reads `label` and lowers `next` only. Labels only decrease, and stay within the component.
__device__ inline void label_components(Cell* cells, int kh, int kw) {
    for (int pass = 0; pass < kh * kw; ++pass) {
        __syncthreads();
        int changed = 0;
        for (int i = threadIdx.x; i < kh * kw; i += blockDim.x) {
            const int label = cells[i].label;
            if (label == NO_LABEL) continue;
            int smallest = smallest_around(cells, i, kh, kw);
            smallest = min(smallest, cells[smallest].label);
            if (smallest == label) continue;
            atomicMin(&cells[label].next, smallest);  // lowers all pixels that follow this label
            atomicMin(&cells[i].next, smallest);
            changed = 1;
        }
        if (!__syncthreads_or(changed)) break;
        for (int i = threadIdx.x; i < kh * kw; i += blockDim.x) cells[i].label = cells[i].next;
    }
}

extern "C" __global__ void __launch_bounds__(1024)
project(const float* __restrict__ kernel, float* __restrict__ out, mass_t* __restrict__ scratch, int bound,
        double component, int kh, int kw) {
    DYNAMIC_SHARED(mass_t, memory);
    const int size = kh * kw, middle_y = kh / 2, middle_x = kw / 2;
    Cell* cells = reinterpret_cast<Cell*>(scratch ? scratch + 2 * index_t(blockIdx.x) * size : memory);
    kernel += index_t(blockIdx.x) * size;
    out += index_t(blockIdx.x) * size;
    float peak = 0.f;
    for (int i = threadIdx.x; i < size; i += blockDim.x)
        if (!(peak != peak || kernel[i] <= peak)) peak = kernel[i];
    peak = block_max(peak, 0.f);
    const bool usable = peak >= SMALLEST_NORMAL && peak <= LARGEST;  // false for NaN, too
    const auto quantized = [=](int i) {  // 0 if it is below the bound
        const int q = usable && kernel[i] > 0.f ? __float2int_rn(kernel[i] / peak * UNIT) : 0;
        return q < bound ? 0 : q;
    };
    for (int i = threadIdx.x; i < size; i += blockDim.x) {
        const int label = quantized(i) ? i : NO_LABEL;
        cells[i] = {0, label, label};
    }
    label_components(cells, kh, kw);
    long long total = 0, heaviest = 0;
    for (int i = threadIdx.x; i < size; i += blockDim.x) {
        const int q = quantized(i);
        total += q;
        if (q) atomicAdd(&cells[cells[i].label].mass, mass_t(q));
    }
    total = block_sum(total);  // its barriers complete the masses
    for (int i = threadIdx.x; i < size; i += blockDim.x) heaviest = max(heaviest, (long long)(cells[i].mass));
    heaviest = block_max(heaviest, 0LL);
    const double min_mass = component * double(total);
    const auto stays = [=](int i) {
        if (cells[i].label == NO_LABEL) return false;
        const long long mass = cells[cells[i].label].mass;
        return double(mass) >= min_mass || mass == heaviest;
    };
    long long down = 0, across = 0, mass = 0;
    for (int i = threadIdx.x; i < size; i += blockDim.x) {
        const long long q = stays(i) ? quantized(i) : 0;
        down += q * (i / kw - middle_y);
        across += q * (i % kw - middle_x);
        mass += q;
    }
    down = block_sum(down);
    across = block_sum(across);
    mass = block_sum(mass);
    const int dy = mass ? int(rint(double(down) / double(mass))) : 0;
    const int dx = mass ? int(rint(double(across) / double(mass))) : 0;
    const auto moved = [=](int i) {
        const int y = i / kw + dy, x = i % kw + dx;
        return y >= 0 && y < kh && x >= 0 && x < kw && stays(y * kw + x) ? kernel[y * kw + x] : 0.f;
    };
    float sum = 0.f;
    for (int i = threadIdx.x; i < size; i += blockDim.x) sum += moved(i);
    sum = block_sum(sum);
    for (int i = threadIdx.x; i < size; i += blockDim.x)
        out[i] = sum > 0.f ? moved(i) / sum : float(i == middle_y * kw + middle_x);
}
