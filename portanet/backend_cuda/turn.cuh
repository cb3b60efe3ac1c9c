// Matrices turned: channels of places become places of channels, for convolve_mma.cuh.
//
// y[h, n, c, r] = x[n, h, r, c] of matrices of rows x columns, zeros from row `rows` on up to
// `filled`. A block turns PN_ROWS x PN_COLUMNS. words: images, groups, rows, columns,
// filled, offset of x
PN_ENTRY(turn, 256)(PN_X0 *__restrict__ y, const PN_X0 *__restrict__ x, PN_P P) {
    constexpr int PIECE = 16 / sizeof(PN_X0), PIECES = PN_ROWS / PIECE;
    typedef pn_pack<PN_X0, PIECE> Pack;
    PN_SHARED(Pack, tile, [PN_COLUMNS][PIECES + 1]);
    const int rows = (int)P[2], columns = (int)P[3], filled = (int)P[4];
    const unsigned across = (unsigned)((columns + PN_COLUMNS - 1) / PN_COLUMNS);
    const unsigned down = (unsigned)((filled + PN_ROWS - 1) / PN_ROWS);
    const unsigned which = blockIdx.x / (across * down);
    const unsigned place = blockIdx.x - which * (across * down);
    const unsigned image = which / (unsigned)P[1], group = which - image * (unsigned)P[1];
    const int first_row = (int)(place / across) * PN_ROWS;
    const int first_column = (int)(place % across) * PN_COLUMNS;
    x += P[5] + (long long)which * rows * columns;
    y += ((long long)group * P[0] + image) * columns * filled;
#pragma unroll 8
    for (int p = threadIdx.x; p < PN_ROWS * PN_COLUMNS; p += 256) {
        const int row = p / PN_COLUMNS, column = p % PN_COLUMNS;
        const int i = first_row + row, j = first_column + column;
        PN_X0 value = {};
        if (i < rows && j < columns) value = x[(PN_INDEX)i * columns + j];
        ((PN_X0 *)tile[column])[row] = value;
    }
    __syncthreads();
#pragma unroll 2
    for (int p = threadIdx.x; p < PIECES * PN_COLUMNS; p += 256) {
        const int column = p / PIECES, piece = p % PIECES;
        const int i = first_row + piece * PIECE, j = first_column + column;
        if (i < filled && j < columns) *(Pack *)(y + (PN_INDEX)j * filled + i) = tile[column][piece];
    }
}
PN_EXPORT(turn)
