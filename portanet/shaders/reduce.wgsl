// y[k] = which over r of x[k, r], for chunk c of the r: partial[c, k].
// Words: chunks, chunk, all, kept, reduced, kept_rank, reduced_rank, offset,
// kept_shape[], kept_strides[], reduced_shape[], reduced_strides[]. Output o = c kept +
// k is over r in [c chunk, min((c + 1) chunk, reduced)); without a split there is one
// chunk. `all` is the number of elements that a mean divides by.
//
// lanes: one thread an output. rows: one group an output, thread t takes r = t, t +
// 256, ..., then a tree of fixed shape. Either sums 32 at a time and then the sums, so
// that the error grows with r / 32. The lines between are the monoid, written by
// variants.py: Accumulated, initial(), fetch(at, r), combine(a, b), emit(o, a).
$monoid

fn kept_at(k: u32) -> u32 {
    let rank = P(5u);
    var rest = k;
    var at = P(7u);
    for (var d = rank; d > 0u; d--) {
        let size = P(7u + d);
        at += (rest % size) * P(7u + rank + d);
        rest /= size;
    }
    return at;
}

// The stride of the last of the reduced dimensions.
fn last_stride() -> u32 {
    let rank = P(6u);
    return select(0u, P(7u + 2u * (P(5u) + rank)), rank > 0u);
}

fn reduced_at(r: u32) -> u32 {
    let rank = P(6u);
    let shape = 7u + 2u * P(5u);
    var rest = r;
    var at = 0u;
    for (var d = rank; d > 0u; d--) {
        let size = P(shape + d);
        at += (rest % size) * P(shape + rank + d);
        rest /= size;
    }
    return at;
}

fn serial(base: u32, begin: u32, end: u32, step: u32) -> Accumulated {
    var total = initial();
    let stride = last_stride();
    let is_simple = P(6u) <= 1u;
    var r = begin;
    while (r < end) {
        let stop = min(end, r + 32u * step);
        var part = initial();
        if (is_simple) {
            for (; r < stop; r += step) {
                part = combine(part, fetch(base + r * stride, r));
            }
        } else {
            for (; r < stop; r += step) {
                part = combine(part, fetch(base + reduced_at(r), r));
            }
        }
        total = combine(total, part);
    }
    return total;
}

@compute @workgroup_size(256)
fn lanes(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let o = group_number(group, groups) * 256u + thread;
    if (o >= P(0u) * P(3u)) { return; }
    let begin = o / P(3u) * P(1u);
    let end = min(begin + P(1u), P(4u));
    emit(o, serial(kept_at(o % P(3u)), begin, end, 1u));
}

var<workgroup> parts: array<Accumulated, 256>;

@compute @workgroup_size(256)
fn rows(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let o = group_number(group, groups);
    let is_output = o < P(0u) * P(3u);
    let begin = o / P(3u) * P(1u);
    let end = select(0u, min(begin + P(1u), P(4u)), is_output);
    parts[thread] = serial(kept_at(o % P(3u)), begin + thread, end, 256u);
    for (var half = 128u; half > 0u; half >>= 1u) {
        workgroupBarrier();
        if (thread < half) {
            parts[thread] = combine(parts[thread], parts[thread + half]);
        }
    }
    if (thread == 0u && is_output) { emit(o, parts[0]); }
}
