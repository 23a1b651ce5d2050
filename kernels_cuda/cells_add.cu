// cells_add: the adjoint of cells_cut. Each pixel of an image adds up its cells in their order: along a row of cells,
// times the weights, then over the rows. Given are rows first_row..first_row + down - 1 of the cells. out is written
// where a pixel of its rows begin..end - 1 has one of them, and added to where it has earlier ones, or if `add` is 1.
// blocks: (n, down, across, gh, gw) float32; rows: (3, all), columns: (3, across) int32 as in cells_cut; row_spans:
// (2, h), column_spans: (2, w) int32, the first cell that has a pixel and the end of those; row_weights: h floats,
// column_weights: w, or both null; out: (n, h, w) float32; C order.
// grid (ceil(w / 32) ceil((end - begin) / 32) n), block (32, 8).  NumPy twin: varying_blur.VaryingBlur._add_blocks.

extern "C" __global__ void __launch_bounds__(TILE * TILE_ROWS)
cells_add(const float* __restrict__ blocks, const int* __restrict__ rows, const int* __restrict__ columns,
          const int* __restrict__ row_spans, const int* __restrict__ column_spans,
          const float* __restrict__ row_weights, const float* __restrict__ column_weights, float* __restrict__ out,
          int h, int w, int across, int down, int gh, int gw, int first_row, int begin, int end, int add) {
    const Tile at = this_tile(end - begin, w);
    const int x = at.x + threadIdx.x;
    if (x >= w) return;
    blocks += at.image * down * across * gh * gw + x;
    out += at.image * h * w + x;
    const int left = column_spans[x], right = column_spans[w + x];
    for (int y = begin + at.y + threadIdx.y; y < min(begin + at.y + TILE, end); y += TILE_ROWS) {
        const int top = row_spans[y], bottom = min(row_spans[h + y], first_row + down);
        int i = max(top, first_row);
        if (i >= bottom) continue;
        float total = add || top < first_row ? out[index_t(y) * w] : 0.f;
        for (; i < bottom; ++i) {
            const float* line = blocks + (index_t(i - first_row) * across * gh + (y - rows[i])) * gw;
            float sum = 0;
            for (int j = left; j < right; ++j) sum += line[index_t(j) * gh * gw - columns[j]];
            total += row_weights ? sum * (row_weights[y] * column_weights[x]) : sum;
        }
        out[index_t(y) * w] = total;
    }
}
