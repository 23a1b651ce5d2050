// cells_cut: blocks of an image. Pixel (y, x) of cell (i, j) is the image's (rows.first(i) + y, columns.first(j) + x),
// times its row and column weights, where rows.begin(i) <= row < rows.end(i) and likewise for the column, else 0.
// u: (n, h, w) float32; rows: (3, all) int32, first, begin, end, the last two within 0..h; columns: (3, across) int32,
// within 0..w; row_weights: h floats, column_weights: w, or both null; out: (n, down, across, gh, gw) float32, the rows
// of cells from first_row; C order.
// grid (ceil(gw / 32) ceil(gh / 32) n down across), block (32, 8).  NumPy twin: varying_blur.VaryingBlur._blocks.

extern "C" __global__ void __launch_bounds__(TILE * TILE_ROWS)
cells_cut(const float* __restrict__ u, const int* __restrict__ rows, const int* __restrict__ columns,
          const float* __restrict__ row_weights, const float* __restrict__ column_weights, float* __restrict__ out,
          int h, int w, int all, int across, int down, int gh, int gw, int first_row) {
    const Tile at = this_tile(gh, gw);
    const int x = at.x + threadIdx.x;
    if (x >= gw) return;
    const int j = at.image % across, i = first_row + at.image / across % down;
    const int column = columns[j] + x;
    const bool in_column = column >= columns[across + j] && column < columns[2 * across + j];
    const int first = rows[i], begin = rows[all + i], end = rows[2 * all + i];
    u += at.image / across / down * h * w + column;
    out += at.image * gh * gw + x;
    for (int y = at.y + threadIdx.y; y < min(at.y + TILE, gh); y += TILE_ROWS) {
        const int row = first + y;
        float value = 0;
        if (in_column && row >= begin && row < end) {
            value = u[index_t(row) * w];
            if (row_weights) value *= row_weights[row] * column_weights[column];
        }
        out[index_t(y) * gw] = value;
    }
}
