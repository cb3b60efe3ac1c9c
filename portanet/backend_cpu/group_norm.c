// Norms of groups of channels, and their gradients. Of x (images, groups, channels, n) a row
// is a group of an image: with its mean and var, h = (x - mean) / sqrt(var + eps).
//
// forward  y = h w + b
// slope    y = (p - mean p - h mean(p h)) / sqrt(var + eps), p = g w; also the sums of g h
//          and of g of each channel, over images and n
//
// A task has a group and a stretch of STRETCH images: w, and b or the sums, are spread over
// the elements of a row once, then it is as for layer norm. The sums of a channel are added
// up over its elements, then over the stretches in order.
//
// words: images, groups, channels (of a group), n, eps (the bits of a float64), then the
//        offset of each input. All contiguous, of one floating dtype. Inputs: x, w, b, or g,
//        x, w for the slope; w and b (groups, channels).
#include "rows.h"

#define STRETCH ((int64_t)32)

typedef struct {
    const pn_args *args;
    int64_t images, groups, channels, n, row;
    double eps;
    void *parts;  // of the sums: (stretches, 2, groups, channels)
    bool out_of_memory;
} group_norm;

// The first image after those of a task; *group is set to its group, *image to its first.
static int64_t images_of(const group_norm *q, int64_t task, int64_t *group, int64_t *image) {
    *group = task % q->groups, *image = task / q->groups * STRETCH;
    return *image + STRETCH < q->images ? *image + STRETCH : q->images;
}

#define T float
#define TYPE(name) name##_f32
#include "normalise_groups.h"
#define T double
#define TYPE(name) name##_f64
#include "normalise_groups.h"

void PN_KERNEL(group_norm)(const pn_args *args) {
    const int64_t *w = args->words;
    group_norm q = {.args = args, .images = w[0], .groups = w[1], .channels = w[2],
                    .n = w[3], .row = w[2] * w[3]};
    memcpy(&q.eps, w + 4, sizeof q.eps);
    bool is_double = args->dtypes[0] == PN_FLOAT64;
    bool is_slope = !strcmp(args->options[0], "slope");
    int64_t stretches = (q.images + STRETCH - 1) / STRETCH, itemsize = is_double ? 8 : 4;
    if (q.images * q.groups * q.row == 0) return;
    int64_t parts = is_slope ? 2 * stretches * q.groups * q.channels * itemsize : 0;
    if (parts && !(q.parts = pn_alloc(parts))) q.out_of_memory = true;
    pn_range_fn run = is_double ? forward_f64 : forward_f32;
    if (is_slope) run = is_double ? slope_f64 : slope_f32;
    if (!q.out_of_memory)
        pn_parallel_for(stretches * q.groups, PIECE / (STRETCH * q.row) + 1, run, &q);
    if (q.out_of_memory) pn_set_fault(args, 0, PN_NO_SCRATCH, 0, 0);
    else if (is_slope) (is_double ? add_parts_f64 : add_parts_f32)(&q, stretches);
    if (q.parts) pn_free(q.parts, parts);
}
