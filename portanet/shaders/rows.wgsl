// y_j[i] = f_j(x_0[i], x_1[i], ..., sums and maxima of the row of i), for rows of P(last)
// elements that follow each other.
// Words: those of elementwise, then the elements of a row.
//
// threads: one thread a row. groups: one group a row, then a tree of fixed shape. Either
// adds up to 32 and then the sums, so that the error grows with the row / 32. The lines
// between are written by lower.py: a loop over the row for each sum, one for the results.
// What a sum needs is computed again in each loop: cheaper than keeping it.

var<workgroup> parts: array<f32, 64>;

fn combined(a: f32, b: f32, most: bool) -> f32 {
    if (most) { return f_maximum(a, b); }
    return a + b;
}

// The values of all threads, combined.
fn fold(thread: u32, value: f32, most: bool) -> f32 {
    parts[thread] = value;
    for (var half = 32u; half > 0u; half >>= 1u) {
        workgroupBarrier();
        if (thread < half) {
            parts[thread] = combined(parts[thread], parts[thread + half], most);
        }
    }
    workgroupBarrier();
    let all = parts[0];
    workgroupBarrier();
    return all;
}

@compute @workgroup_size(64)
fn threads(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = P(${row}u);
    let rows = P(0u) / row;
    let step = groups.x * groups.y * 64u;
    for (var r = (group.x + group.y * groups.x) * 64u + thread; r < rows; r += step) {
$by_thread
    }
}

@compute @workgroup_size(64)
fn groups(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) number: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = P(${row}u);
    let rows = P(0u) / row;
    let step = number.x * number.y;
    for (var r = group.x + group.y * number.x; r < rows; r += step) {
$by_group
    }
}
