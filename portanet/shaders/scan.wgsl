// y[o, j, i] = which over l <= j of x[o, l, i]; exclusive leaves out l = j. Sums,
// products, logs of sums of exponentials, or where the extreme was met last.
// Words: outer, n, inner, offset, outer_stride, axis_stride, inner_stride. y
// contiguous.
//
// lanes: one thread a row (o, i), in order. rows: one group a row, 1024 elements at a
// time: four a thread in order, then a scan over the threads, then what came before the
// block.
// T is the type of the sums; initial(), combine(a, b), fetch(at, j) and out_of(v) are
// written by variants.py.
$monoid
const IS_EXCLUSIVE = $exclusive;

// Where a row begins: (in x, in y).
fn row_at(row: u32) -> vec2<u32> {
    let o = row / P(2u);
    let i = row % P(2u);
    return vec2<u32>(P(3u) + o * P(4u) + i * P(6u), o * P(1u) * P(2u) + i);
}

fn write(at: vec2<u32>, j: u32, before: T, after: T) {
    store_y0(at.y + j * P(2u), out_of(select(after, before, IS_EXCLUSIVE)));
}

@compute @workgroup_size(64)
fn lanes(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = group_number(group, groups) * 64u + thread;
    if (row >= P(0u) * P(2u)) { return; }
    let at = row_at(row);
    var total = initial();
    for (var j = 0u; j < P(1u); j++) {
        let before = total;
        total = combine(total, fetch(at.x + j * P(5u), j));
        write(at, j, before, total);
    }
}

var<workgroup> totals: array<T, 256>;

@compute @workgroup_size(256)
fn rows(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = group_number(group, groups);
    let is_row = row < P(0u) * P(2u);
    let at = row_at(row);
    var carry = initial();
    for (var block = 0u; block < P(1u); block += 1024u) {
        let first = block + 4u * thread;
        var values: array<T, 4>;
        var total = initial();
        for (var e = 0u; e < 4u; e++) {
            values[e] = initial();
            if (is_row && first + e < P(1u)) {
                values[e] = fetch(at.x + (first + e) * P(5u), first + e);
            }
            total = combine(total, values[e]);
        }
        totals[thread] = total;
        for (var reach = 1u; reach < 256u; reach <<= 1u) {
            workgroupBarrier();
            var sum = totals[thread];
            if (thread >= reach) { sum = combine(totals[thread - reach], sum); }
            workgroupBarrier();
            totals[thread] = sum;
        }
        workgroupBarrier();
        var before = carry;
        if (thread > 0u) { before = combine(carry, totals[thread - 1u]); }
        for (var e = 0u; e < 4u; e++) {
            let after = combine(before, values[e]);
            if (is_row && first + e < P(1u)) { write(at, first + e, before, after); }
            before = after;
        }
        carry = combine(carry, totals[255]);
        workgroupBarrier();
    }
}
