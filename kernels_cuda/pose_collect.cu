// pose_collect: weights(t) = sum of bilinear samples of kernels_r at c_r - H_t c_r, 0 beyond their borders, in the
// order of r. The matrix of the sum is never stored: displacements are computed, in float32 (see PoseMotion).
// kernels: (n, count, kh, kw) float32; points c: (count, 2) float32, (row, column) from the image's middle; active:
// `poses` int32, rising flat indices in the lattice (rolls, gh, gw), or null for all; out: (n, poses) float32; C order.
// Pose (m, i, j) is u = gw / 2 - j, v = gh / 2 - i, phi = (m - rolls / 2) step.
// grid (ceil(poses / 128) n), block (128).  NumPy twin: poses.SparseSplatting.collect.

extern "C" __global__ void __launch_bounds__(128)
pose_collect(const float* __restrict__ kernels, const float* __restrict__ points, const int* __restrict__ active,
             float* __restrict__ out, int poses, int rolls, int gh, int gw, int count, int kh, int kw, float step,
             float curvature) {
    const unsigned blocks = (poses + 127) / 128, image = blockIdx.x / blocks;
    const int index = blockIdx.x % blocks * 128 + threadIdx.x;
    if (index >= poses) return;
    const int t = active ? active[index] : index, row = t / gw;
    const PoseMotion motion(gw / 2 - t % gw, gh / 2 - row % gh, (row / gh - rolls / 2) * step, curvature);
    kernels += index_t(image) * count * kh * kw;
    float sum = 0;
    for (int r = 0; r < count; ++r, kernels += kh * kw) {
        const float2 moved = motion(points[2 * r + 1], points[2 * r]);
        const float y = kh / 2 - moved.y, x = kw / 2 - moved.x;
        if (!(y > -1 && y < kh && x > -1 && x < kw)) continue;  // NaN, too
        const float top = floorf(y), left = floorf(x), down = y - top, right = x - left;
        const int i = int(top), j = int(left);
        for (int corner = 0; corner < 4; ++corner) {
            const int a = corner / 2, b = corner % 2;
            if (i + a < 0 || i + a >= kh || j + b < 0 || j + b >= kw) continue;
            sum += (a ? down : 1 - down) * (b ? right : 1 - right) * kernels[(i + a) * kw + j + b];
        }
    }
    out[index_t(image) * poses + index] = sum;
}
