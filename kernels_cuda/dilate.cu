// dilate: out = 1 where mask is set within `radius` pixels along one axis (0: down, 1: across), periodic; any radius.
// mask, out: (n, h, w) uint8, 0 or 1, C order, out is not mask.  NumPy twin: filters.dilate (both axes).
// grid (n * lines), block (256); axis 1: lines = h ceil(w / 1024), shared ceil(reach / 32) words with
// reach = min(1024, w) + 2 radius and radius <= w / 2 + 1; axis 0: lines = ceil(w / 256) ceil(h / 32), no shared.

constexpr int DILATE_THREADS = 256;
constexpr int DILATE_ACROSS = 1024;  // outputs of a block along a row
constexpr int DILATE_DOWN = 32;      // outputs of a thread down a column

__device__ inline void dilate_across(const unsigned char* mask, unsigned char* out, int radius, int w) {
    DYNAMIC_SHARED(unsigned, bits);  // bit i of word j: mask at column first - radius + 32 j + i
    const unsigned segments = (w + DILATE_ACROSS - 1) / DILATE_ACROSS;
    const index_t row = blockIdx.x / segments;
    const int first = int(blockIdx.x % segments) * DILATE_ACROSS, count = min(DILATE_ACROSS, w - first);
    const int reach = count + 2 * radius;
    mask += row * w;
    out += row * w;
    for (int word = threadIdx.x / WARP; word * WARP < reach; word += DILATE_THREADS / WARP) {
        const int lane = threadIdx.x % WARP, i = word * WARP + lane;
        int column = first - radius + i;  // radius may exceed w
        column %= w;
        const bool set = i < reach && mask[column < 0 ? column + w : column];
        const unsigned ballot = __ballot_sync(0xffffffffu, set);
        if (lane == 0) bits[word] = ballot;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < count; i += DILATE_THREADS) {
        const int last = i + 2 * radius, first_word = i / WARP, last_word = last / WARP;  // bits i..last
        unsigned any = 0;
        for (int word = first_word; word <= last_word; ++word) {
            unsigned window = bits[word];
            if (word == first_word) window &= 0xffffffffu << i % WARP;
            if (word == last_word) window &= 0xffffffffu >> (WARP - 1 - last % WARP);
            any |= window;
        }
        out[first + i] = any != 0;
    }
}

__device__ inline void dilate_down(const unsigned char* mask, unsigned char* out, int radius, int h, int w) {
    const unsigned across = (w + DILATE_THREADS - 1) / DILATE_THREADS, down = (h + DILATE_DOWN - 1) / DILATE_DOWN;
    const unsigned strip = blockIdx.x / across;
    const index_t image = strip / down;
    const int x = int(blockIdx.x % across) * DILATE_THREADS + threadIdx.x;
    const int first = int(strip % down) * DILATE_DOWN, count = min(DILATE_DOWN, h - first);
    if (x >= w) return;
    mask += image * h * w + x;
    out += image * h * w + x;
    int row = (first - radius) % h;
    if (row < 0) row += h;
    int unset = 2 * radius + 1;  // pixels since the last set pixel; a window has 2 radius + 1
#pragma unroll 8
    for (int i = 0; i < count + 2 * radius; ++i) {
        unset = mask[index_t(row) * w] ? 0 : unset + 1;
        if (++row == h) row = 0;
        if (i >= 2 * radius) out[index_t(first + i - 2 * radius) * w] = unset <= 2 * radius;
    }
}

extern "C" __global__ void __launch_bounds__(DILATE_THREADS)
dilate(const unsigned char* __restrict__ mask, unsigned char* __restrict__ out, int radius, int h, int w, int axis) {
    if (axis)
        dilate_across(mask, out, radius, w);
    else
        dilate_down(mask, out, radius, h, w);
}
