// pose_expand: kernels_r(d) = sum of the weights of poses t, each spread bilinearly around c_r - H_t c_r; each pixel
// gathers in the order of t. The matrix is never stored: displacements are computed, in float32 (see PoseMotion).
// weights: (n, poses) float32; points, lattice, poses as in pose_collect; weight_index: (rolls, gh, gw) int32, the
// index of a pose in `weights` or -1, or null for the whole lattice; out: (n, count, kh, kw) float32; candidates:
// (count, rolls, 2, 4) float32, (a, b, c, reach): the poses of a roll that have a part in pixel (y, x) are in rows of
// the lattice within `reach` of a + b y + c x, and in columns likewise; C order.
// grid (ceil(kh kw / 128) count n), block (128).  NumPy twin: poses.SparseSplatting.expand.

extern "C" __global__ void __launch_bounds__(128)
pose_expand(const float* __restrict__ weights, const float* __restrict__ points, const float* __restrict__ candidates,
            const int* __restrict__ weight_index, float* __restrict__ out, int poses, int rolls, int gh, int gw,
            int count, int kh, int kw, float step, float curvature) {
    const unsigned blocks = (kh * kw + 127) / 128, kernel = blockIdx.x / blocks, r = kernel % count;
    const int pixel = blockIdx.x % blocks * 128 + threadIdx.x;
    if (pixel >= kh * kw) return;
    weights += index_t(kernel / count) * poses;
    candidates += index_t(r) * rolls * 8;
    const float y = pixel / kw, x = pixel % kw, row = points[2 * r], column = points[2 * r + 1];
    float sum = 0;
    for (int m = 0; m < rolls; ++m, candidates += 8) {
        int first[2], last[2];
        for (int axis = 0; axis < 2; ++axis) {
            const float* line = candidates + 4 * axis;
            const float middle = line[0] + line[1] * y + line[2] * x;
            first[axis] = int(fmaxf(0, ceilf(middle - line[3])));
            last[axis] = int(fminf((axis ? gw : gh) - 1, floorf(middle + line[3])));
        }
        for (int i = first[0]; i <= last[0]; ++i)
            for (int j = first[1]; j <= last[1]; ++j) {
                const int t = (m * gh + i) * gw + j, index = weight_index ? weight_index[t] : t;
                const float weight = index < 0 ? 0 : weights[index];
                if (weight == 0) continue;
                const PoseMotion motion(gw / 2 - j, gh / 2 - i, (m - rolls / 2) * step, curvature);
                const float2 moved = motion(column, row);
                const float down = 1 - fabsf(kh / 2 - moved.y - y), across = 1 - fabsf(kw / 2 - moved.x - x);
                if (down > 0 && across > 0) sum += weight * (down * across);
            }
    }
    out[index_t(kernel) * kh * kw + pixel] = sum;
}
