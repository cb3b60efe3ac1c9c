// The body of sort.c for one width of keys; included once for each. TYPE(name) is the name
// with the width; KEY_TYPE the key; RECORD holds KEY(r) and INDEX(r), made by MAKE(k, i).

static void TYPE(insertion_sort)(RECORD *a, int64_t n) {
    for (int64_t i = 1; i < n; i++) {
        RECORD r = a[i];
        int64_t j = i;
        for (; j > 0 && KEY(a[j - 1]) > KEY(r); j--) a[j] = a[j - 1];
        a[j] = r;
    }
}

// Least significant byte first; a byte that all keys share is passed over. The result is
// in a; b is room.
static void TYPE(radix_sort)(RECORD *a, RECORD *b, int64_t n) {
    enum { BYTES = sizeof(KEY_TYPE) };
    uint32_t counts[BYTES][256] = {{0}};
    RECORD *const home = a;
    for (int64_t i = 0; i < n; i++) {
        KEY_TYPE key = KEY(a[i]);
        for (int p = 0; p < BYTES; p++) counts[p][key >> 8 * p & 255]++;
    }
    for (int p = 0; p < BYTES; p++) {
        uint32_t *count = counts[p], total = 0;
        if (count[KEY(a[0]) >> 8 * p & 255] == n) continue;
        for (int d = 0; d < 256; d++) {
            uint32_t mine = count[d];
            count[d] = total;
            total += mine;
        }
        for (int64_t i = 0; i < n; i++) b[count[KEY(a[i]) >> 8 * p & 255]++] = a[i];
        RECORD *t = a;
        a = b, b = t;
    }
    if (a != home) memcpy(home, a, (size_t)n * sizeof *a);
}

// Keeps, in order, the records that may be among the first `kept` by the head of their key;
// how many they are.
static int64_t TYPE(select)(RECORD *a, int64_t n, int64_t kept) {
    const int shift = 8 * (int)sizeof(KEY_TYPE) - 12;
    uint32_t counts[HEADS] = {0};
    for (int64_t i = 0; i < n; i++) counts[KEY(a[i]) >> shift]++;
    KEY_TYPE last = 0;
    for (int64_t total = counts[0]; total < kept;) total += counts[++last];
    int64_t m = 0;
    for (int64_t i = 0; i < n; i++) {
        a[m] = a[i];
        m += KEY(a[i]) >> shift <= last;
    }
    return m;
}

// The first `kept` of a row in a, which holds them sorted while the others are passed by: few
// are better than the last of them.
static void TYPE(find_first)(const sorting *s, int64_t row, RECORD *a) {
    KEY_TYPE keys[BLOCK], flip = s->is_descending ? ~(KEY_TYPE)0 : 0;
    int64_t held = 0;
    for (int64_t j = 0; j < s->n; j += BLOCK) {
        int64_t count = s->n - j < BLOCK ? s->n - j : BLOCK;
        int64_t at = s->offset + row * s->row_stride + j * s->step;
        TYPE(pn_load_keys)(keys, s->x, s->dtype, at, s->step, count);
        for (int64_t c = count; c < BLOCK; c++) keys[c] = ~flip;  // not better than any
        for (int64_t c = 0; c < count; c += GROUP) {
            KEY_TYPE last = held < s->kept ? 0 : KEY(a[held - 1]), better = held < s->kept;
            for (int64_t l = c; l < c + GROUP; l++) better |= (keys[l] ^ flip) < last;
            for (int64_t l = c; better && l < c + GROUP && l < count; l++) {
                KEY_TYPE key = keys[l] ^ flip;
                if (held == s->kept && key >= KEY(a[held - 1])) continue;
                int64_t k = held < s->kept ? held++ : held - 1;
                for (; k > 0 && KEY(a[k - 1]) > key; k--) a[k] = a[k - 1];
                a[k] = MAKE(key, j + l);
            }
        }
    }
}

// Elements [from, from + n) of a row, sorted, in a; all, or those that may be kept.
static void TYPE(sort_part)(const sorting *s, int64_t row, int64_t from, int64_t n,
                            RECORD *a, RECORD *b) {
    KEY_TYPE keys[BLOCK], flip = s->is_descending ? ~(KEY_TYPE)0 : 0;
    for (int64_t j = 0; j < n; j += BLOCK) {
        int64_t count = n - j < BLOCK ? n - j : BLOCK;
        int64_t at = s->offset + row * s->row_stride + (from + j) * s->step;
        TYPE(pn_load_keys)(keys, s->x, s->dtype, at, s->step, count);
        for (int64_t c = 0; c < count; c++) a[j + c] = MAKE(keys[c] ^ flip, from + j + c);
    }
    if (n >= HEADS && s->kept < n / 4) n = TYPE(select)(a, n, s->kept);
    if (n <= FEW) TYPE(insertion_sort)(a, n);
    else TYPE(radix_sort)(a, b, n);
}

static void TYPE(store_order)(const sorting *s, int64_t row, const RECORD *a,
                              int64_t begin, int64_t end) {
    int32_t *y = s->y + row * s->kept;
    for (int64_t j = begin; j < end; j++) y[j] = (int32_t)INDEX(a[j]);
}

static void TYPE(do_rows)(void *context, int64_t begin, int64_t end) {
    const sorting *s = context;
    int64_t nbytes = 2 * s->n * (int64_t)sizeof(RECORD);
    RECORD *a = pn_alloc(nbytes);
    if (!a) {
        pn_set_fault(s->args, begin, PN_NO_SCRATCH, 0, 0);
        return;
    }
    bool are_few = s->kept <= MOST_KEPT && s->kept < s->n / 4;
    for (int64_t row = begin; row < end; row++) {
        if (are_few) TYPE(find_first)(s, row, a);
        else TYPE(sort_part)(s, row, 0, s->n, a, a + s->n);
        TYPE(store_order)(s, row, a, 0, s->kept);
    }
    pn_free(a, nbytes);
}

// One long row: parts of it are sorted, then merged two by two.
typedef struct {
    const sorting *s;
    int64_t row, width;  // width: of the parts, sorted in a
    RECORD *a, *b;
} TYPE(merging);

static void TYPE(do_parts)(void *context, int64_t begin, int64_t end) {
    const TYPE(merging) *m = context;
    for (int64_t p = begin; p < end; p++) {
        int64_t from = p * m->width, left = m->s->n - from;
        int64_t n = left < m->width ? left : m->width;
        TYPE(sort_part)(m->s, m->row, from, n, m->a + from, m->b + from);
    }
}

// How many of the first k elements of the merged parts come from the left one.
static int64_t TYPE(split)(const RECORD *left, int64_t nl, const RECORD *right,
                           int64_t nr, int64_t k) {
    int64_t low = k > nr ? k - nr : 0, high = k < nl ? k : nl;
    while (low < high) {
        int64_t i = low + (high - low) / 2;
        if (KEY(left[i]) <= KEY(right[k - 1 - i])) low = i + 1;
        else high = i;
    }
    return low;
}

// Elements [begin, end) of b, wherever in their pair of parts they lie.
static void TYPE(do_merge)(void *context, int64_t begin, int64_t end) {
    const TYPE(merging) *m = context;
    for (int64_t stop; begin < end; begin = stop) {
        int64_t pair = begin / (2 * m->width) * (2 * m->width), rest = m->s->n - pair;
        int64_t nl = rest < m->width ? rest : m->width;
        int64_t nr = rest - nl < m->width ? rest - nl : m->width;
        const RECORD *left = m->a + pair, *right = left + nl;
        stop = pair + nl + nr < end ? pair + nl + nr : end;
        int64_t i = TYPE(split)(left, nl, right, nr, begin - pair);
        int64_t j = begin - pair - i;
        for (int64_t k = begin; k < stop; k++) {
            bool takes_left = j >= nr || (i < nl && KEY(left[i]) <= KEY(right[j]));
            m->b[k] = takes_left ? left[i++] : right[j++];
        }
    }
}

static void TYPE(do_store)(void *context, int64_t begin, int64_t end) {
    const TYPE(merging) *m = context;
    TYPE(store_order)(m->s, m->row, m->a, begin, end);
}

static void TYPE(sort_long_rows)(const sorting *s) {
    int64_t threads = pn_num_threads(), nbytes = 2 * s->n * (int64_t)sizeof(RECORD);
    RECORD *room = pn_alloc(nbytes);
    if (!room) {
        pn_set_fault(s->args, 0, PN_NO_SCRATCH, 0, 0);
        return;
    }
    for (int64_t row = 0; row < s->rows; row++) {
        int64_t width = (s->n + threads - 1) / threads;
        TYPE(merging) m = {s, row, width, room, room + s->n};
        pn_parallel_for((s->n + width - 1) / width, 1, TYPE(do_parts), &m);
        for (; m.width < s->n; m.width *= 2) {
            pn_parallel_for(s->n, PIECE, TYPE(do_merge), &m);
            RECORD *t = m.a;
            m.a = m.b, m.b = t;
        }
        pn_parallel_for(s->kept, PIECE, TYPE(do_store), &m);
    }
    pn_free(room, nbytes);
}

static void TYPE(sort)(const sorting *s) {
    bool all = s->kept >= s->n / 4;
    if (all && s->rows < pn_num_threads() && s->n >= 2 * PIECE) TYPE(sort_long_rows)(s);
    else pn_parallel_for(s->rows, PIECE / s->n + 1, TYPE(do_rows), (void *)s);
}

#undef TYPE
#undef KEY_TYPE
#undef RECORD
#undef KEY
#undef INDEX
#undef MAKE
