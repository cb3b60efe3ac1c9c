// Convolution of small planes, a part of convolve_tile.h: vectors run over the images of
// the batch (forward, input) or over channels (weight), so that a plane of one element
// costs what it should. A result is a sum over its pairs: a tap, and the element of the
// source that the tap reads there; taps outside the source have none.

// --- Squares of images and elements, turned ----------------------------------------

// Element j of image m goes to lane m of at[j], for m < images and j < count <= SIDE;
// back: from there to the image.
static void TYPE(turn_square)(T *images, int64_t step, int64_t count_images, T *const *at,
                              int64_t lane, int64_t count, bool back) {
    if (count == SIDE && count_images == SIDE) {
        TYPE(quarter) v[32 / sizeof(T)];
        for (int i = 0; i < SIDE; i++)
            v[i] = *(TYPE(quarter) *)(back ? at[i] + lane : images + i * step);
        TRANSPOSE(v)
        for (int i = 0; i < SIDE; i++)
            *(TYPE(quarter) *)(back ? images + i * step : at[i] + lane) = v[i];
        return;
    }
    for (int64_t m = 0; m < count_images; m++)
        for (int64_t j = 0; j < count; j++)
            if (back)
                images[m * step + j] = at[j][lane + m];
            else
                at[j][lane + m] = images[m * step + j];
}

// Images in blocks of TILE_COLUMNS: [block][group][element][plane][image]; `planes` and
// `size` of an image's group, `held` the planes that the blocks have room for.
static void TYPE(turn_block)(const convolution *c, int64_t block, T *images, T *blocks,
                             int64_t planes, int64_t size, int64_t held, bool back) {
    int64_t elements = c->groups * planes * size, first = block * TILE_COLUMNS;
    int64_t many = smaller(TILE_COLUMNS, c->n - first);
    T *to = blocks + block * c->groups * size * held * TILE_COLUMNS;
    for (int64_t j = 0; j < elements; j += SIDE) {
        int64_t count = smaller(SIDE, elements - j);
        T *at[32 / sizeof(T)];
        for (int64_t k = 0; k < count; k++) {
            int64_t plane = (j + k) / size, s = (j + k) % size;
            int64_t row = (plane / planes * size + s) * held + plane % planes;
            at[k] = to + row * TILE_COLUMNS;
        }
        for (int64_t m = 0; m < many; m += SIDE)
            TYPE(turn_square)(images + (first + m) * elements + j, elements,
                              smaller(SIDE, many - m), at, m, count, back);
    }
}

static void TYPE(turn_in)(void *context, int64_t begin, int64_t end) {
    const convolution *c = context;
    for (int64_t b = begin; b < end; b++)
        TYPE(turn_block)(c, b, (T *)c->source, c->copy, c->source_planes, c->source_size,
                         c->source_planes, false);
}

static void TYPE(turn_out)(void *context, int64_t begin, int64_t end) {
    const convolution *c = context;
    for (int64_t b = begin; b < end; b++)
        TYPE(turn_block)(c, b, c->result, c->sums, c->result_planes, c->result_size,
                         c->panels * c->rows, true);
}

// --- forward and input -------------------------------------------------------------

// weights[group][panel][tap][l][row], rows past the last 0, of the taps that have pairs.
// The source is read line by line: it is the longer one, and a cache holds a panel.
static void TYPE(pack_taps)(void *context, int64_t begin, int64_t end) {
    const convolution *c = context;
    const int64_t planes = c->source_planes, kernel = c->kernel, rows = c->rows;
    for (int64_t i = begin; i < end; i++) {
        int64_t first = i % c->panels * rows, group = i / c->panels;
        int64_t many = smaller(rows, c->result_planes - first);
        // A line of the source is a row's planes, or a plane's rows.
        int64_t lines = c->is_input ? planes : many, count = c->is_input ? many : planes;
        int64_t line_step = c->is_input ? rows : 1, step = c->is_input ? 1 : rows;
        int64_t o = group * c->outputs + (c->is_input ? 0 : first);
        const T *w = (const T *)c->weight + o * c->channels * kernel;
        if (c->is_input) w += first * kernel;
        T *to = (T *)c->weights + i * kernel * planes * rows;
        if (many < rows) memset(to, 0, (size_t)(kernel * planes * rows) * sizeof(T));
        for (int64_t u = 0; u < lines; u++, w += c->channels * kernel)
            for (int64_t k = c->first_tap; k <= c->last_tap; k++) {
                T *at = to + k * planes * rows + u * line_step;
                for (int64_t v = 0; v < count; v++) at[v * step] = w[v * kernel + k];
            }
    }
}

// One element of the result, all its planes, of a block of images. Taps that follow one
// another are one run of up to DEPTH: their weights do so too.
static void TYPE(do_element)(const convolution *c, int64_t i) {
    int64_t s = i % c->result_size, group = i / c->result_size % c->groups;
    int64_t rows = c->panels * c->rows, planes = c->source_planes, offset[DEPTH];
    T *to = (T *)c->sums + i * rows * TILE_COLUMNS;
    const T *from = (const T *)c->copy +
                    i / c->result_size * c->source_size * planes * TILE_COLUMNS;
    const T *weights = (const T *)c->weights + group * c->kernel * rows * planes;
    const pair *p = c->pairs + c->first_pair[s], *end = c->pairs + c->first_pair[s + 1];
    if (p == end) memset(to, 0, (size_t)(rows * TILE_COLUMNS) * sizeof(T));
    bool add = false;
    for (int64_t l = 0; p < end;) {
        int64_t start = p->tap * planes + l, depth = 0;
        do {
            int64_t count = smaller(planes - l, DEPTH - depth), at = p->at * planes + l;
            for (int64_t d = 0; d < count; d++) offset[depth + d] = (at + d) * TILE_COLUMNS;
            depth += count, l += count;
            if (l < planes) break;
            l = 0, p++;
        } while (depth < DEPTH && p < end && p->tap == p[-1].tap + 1);
        for (int64_t k = 0; k < c->panels; k++)
            TYPE(micros)[c->rows - 1](
                depth, weights + (k * c->kernel * planes + start) * c->rows, offset, from,
                from + LANES, to + k * c->rows * TILE_COLUMNS, add);
        add = true;
    }
}

static void TYPE(do_elements)(void *context, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) TYPE(do_element)(context, i);
}

// --- weight ------------------------------------------------------------------------

// x: copy[group][element][block of channels][image][channel], 0 past the last channel.
static void TYPE(pack_channels)(void *context, int64_t begin, int64_t end) {
    const convolution *c = context;
    int64_t blocks = divided_up(c->channels, TILE_COLUMNS);
    for (int64_t i = begin; i < end; i++) {
        int64_t group = i / c->n, image = i % c->n;
        const T *x = (const T *)c->source +
                     (image * c->groups + group) * c->channels * c->x_size;
        for (int64_t s = 0; s < c->x_size; s++)
            for (int64_t k = 0; k < blocks; k++) {
                T *to = (T *)c->copy + (((group * c->x_size + s) * blocks + k) * c->n +
                                        image) * TILE_COLUMNS;
                int64_t from = k * TILE_COLUMNS;
                int64_t count = smaller(TILE_COLUMNS, c->channels - from);
                for (int64_t j = 0; j < count; j++) to[j] = x[(from + j) * c->x_size + s];
                for (int64_t j = count; j < TILE_COLUMNS; j++) to[j] = 0;
            }
    }
}

// y: sums[group][panel][element][image][row], 0 past the last row.
static void TYPE(pack_rows)(void *context, int64_t begin, int64_t end) {
    const convolution *c = context;
    for (int64_t i = begin; i < end; i++) {
        int64_t group = i / c->n, image = i % c->n;
        const T *y = (const T *)c->weight +
                     (image * c->groups + group) * c->outputs * c->y_size;
        for (int64_t k = 0; k < c->panels; k++)
            for (int64_t s = 0; s < c->y_size; s++) {
                T *to = (T *)c->sums + (((group * c->panels + k) * c->y_size + s) * c->n +
                                        image) * c->rows;
                for (int64_t r = k * c->rows; r < (k + 1) * c->rows; r++)
                    *to++ = r < c->outputs ? y[r * c->y_size + s] : 0;
            }
    }
}

// A tile of the weight of one tap: a panel of rows, a block of channels.
static void TYPE(do_taps)(void *context, int64_t begin, int64_t end) {
    const convolution *c = context;
    int64_t blocks = divided_up(c->channels, TILE_COLUMNS);
    for (int64_t i = begin; i < end; i++) {
        int64_t k = i % blocks, panel = i / blocks % c->panels;
        int64_t tap = i / blocks / c->panels % c->kernel;
        int64_t group = i / blocks / c->panels / c->kernel;
        VEC tile[TILE_ROWS * TILE_VECTORS] = {{0}};
        int64_t offset[DEPTH];
        const T *rows = (const T *)c->sums +
                        (group * c->panels + panel) * c->y_size * c->n * c->rows;
        const T *b = (const T *)c->copy +
                     (group * c->x_size * blocks + k) * c->n * TILE_COLUMNS;
        const pair *p = c->pairs + c->first_pair[tap], *last = c->pairs + c->first_pair[tap + 1];
        bool add = false;
        // Elements of y that follow one another are one run of up to DEPTH: their rows do so
        // too.
        for (int64_t l = 0; p < last; add = true) {
            int64_t start = p->tap * c->n + l, depth = 0;
            do {
                int64_t count = smaller(c->n - l, DEPTH - depth);
                int64_t at = p->at * blocks * c->n + l;
                for (int64_t d = 0; d < count; d++)
                    offset[depth + d] = (at + d) * TILE_COLUMNS;
                depth += count, l += count;
                if (l < c->n) break;
                l = 0, p++;
            } while (depth < DEPTH && p < last && p->tap == p[-1].tap + 1);
            TYPE(micros)[c->rows - 1](depth, rows + start * c->rows, offset, b, b + LANES,
                                      (T *)tile, add);
        }
        int64_t channel = k * TILE_COLUMNS;
        for (int64_t r = panel * c->rows; r < smaller((panel + 1) * c->rows, c->outputs); r++)
            for (int64_t j = 0; j < smaller(TILE_COLUMNS, c->channels - channel); j++)
                ((T *)c->result)[((group * c->outputs + r) * c->channels + channel + j) *
                                     c->kernel + tap] =
                    ((T *)tile)[(r - panel * c->rows) * TILE_COLUMNS + j];
    }
}

// --- All of it ---------------------------------------------------------------------

// Whether the batch is the better direction: the multiply-adds of each, with what a tile
// costs beside them (its sums are read and written for each run: RUN of depth), and MOVE
// for each element that is moved; FOLD for each weight whose lanes are added up, PLANE for each
// plane that is copied by itself.
static bool TYPE(over_batch)(const convolution *c) {
    const int64_t RUN = 12, MOVE = 8, FOLD = 512, PLANE = 2048;
    int64_t rows = c->panels * c->rows, pairs = c->pair_count, lanes = 0, here, there;
    for (int64_t r = 0; r < c->passes; r++)
        lanes += rounded_up(c->pass[r].vectors, TILE_VECTORS) * LANES * c->pass[r].depth;
    if (c->is_weight) {
        here = rounded_up(c->outputs, SUM_ROWS) * (lanes * c->n + c->pass->depth * FOLD);
        int64_t runs = c->kernel;
        for (const pair *p = c->pairs + 1; p < c->pairs + pairs; p++)
            runs += p->tap != p[-1].tap + 1;
        there = (pairs * c->n + runs * RUN) * rows * rounded_up(c->channels, TILE_COLUMNS);
        there += (c->x_size * rounded_up(c->channels, TILE_COLUMNS) + c->y_size * rows) *
                 c->n * MOVE;
    } else {
        int64_t runs = c->result_size;
        for (const pair *p = c->pairs + 1; p < c->pairs + pairs; p++)
            runs += p->tap != p[-1].tap + 1;
        here = (lanes * rows + c->source_planes * (c->plane * MOVE + PLANE)) * c->n;
        there = (pairs * c->source_planes + runs * RUN) * rows;
        there += (c->source_size * c->source_planes + c->result_size * rows) * MOVE;
        there *= rounded_up(c->n, TILE_COLUMNS);
    }
    return there < here;
}

static bool TYPE(convolve_batch)(convolution *c) {
    int64_t size = (int64_t)sizeof(T), blocks = divided_up(c->n, TILE_COLUMNS);
    int64_t rows = c->panels * c->rows, copy = 0, sums = 0, weights = 0;
    int64_t channels = divided_up(c->channels, TILE_COLUMNS);
    if (c->is_weight) {
        copy = c->groups * c->x_size * channels * c->n * TILE_COLUMNS;
        sums = c->groups * c->y_size * c->n * rows;
    } else {
        copy = blocks * c->groups * c->source_size * c->source_planes * TILE_COLUMNS;
        sums = blocks * c->groups * c->result_size * rows * TILE_COLUMNS;
        weights = c->groups * c->kernel * rows * c->source_planes;
    }
    char *memory = pn_alloc((copy + sums + weights) * size);
    if (!memory) return false;
    c->copy = memory, c->sums = memory + copy * size;
    c->weights = memory + (copy + sums) * size;
    int64_t moved = PIECE / 16;
    if (c->is_weight) {
        int64_t images = c->groups * c->n, of_image = copy / images + 1;
        pn_parallel_for(images, moved / of_image + 1, TYPE(pack_channels), c);
        pn_parallel_for(images, moved / (sums / images + 1) + 1, TYPE(pack_rows), c);
        int64_t tiles = c->groups * c->kernel * c->panels * channels;
        int64_t work = c->pair_count * c->n * c->rows * TILE_COLUMNS / c->kernel + 1;
        pn_parallel_for(tiles, PIECE / work + 1, TYPE(do_taps), c);
    } else {
        // The lanes past the last image hold no NaN that would slow the sums down.
        if (c->n % TILE_COLUMNS) {
            int64_t last = copy / blocks;
            memset((T *)c->copy + (blocks - 1) * last, 0, (size_t)(last * size));
        }
        pn_parallel_for(blocks, 1, TYPE(turn_in), c);
        int64_t panels = c->groups * c->panels;
        int64_t panel = c->source_planes * c->rows * c->kernel;
        c->first_tap = c->kernel, c->last_tap = -1;
        for (const pair *p = c->pairs; p < c->pairs + c->pair_count; p++) {
            c->first_tap = smaller(c->first_tap, p->tap);
            c->last_tap = larger(c->last_tap, p->tap);
        }
        pn_parallel_for(panels, moved / panel + 1, TYPE(pack_taps), c);
        int64_t elements = blocks * c->groups * c->result_size;
        int64_t pairs = c->pair_count / c->result_size + 1;
        int64_t work = pairs * c->source_planes * rows * TILE_COLUMNS;
        pn_parallel_for(elements, PIECE / work + 1, TYPE(do_elements), c);
        pn_parallel_for(blocks, 1, TYPE(turn_out), c);
    }
    pn_free(memory, (copy + sums + weights) * size);
    return true;
}
#undef SIDE
