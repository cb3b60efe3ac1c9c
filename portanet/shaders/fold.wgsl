// y[n, p] = sum over t, q with q * stride + t * dilation = p of x[n, t, q], for p, t, q
// of two axes; one thread an element of y, t ascending.
// Words: n (of y), planes, y[2], q[2], t[2], stride[2], dilation[2],
// x_offset.

// The q of tap t at place p of an axis; the count of q where there is none.
fn source(axis: u32, p: u32, t: u32) -> u32 {
    let shift = t * P(10u + axis);
    let count = P(4u + axis);
    if (p < shift || (p - shift) % P(8u + axis) != 0u) { return count; }
    return min((p - shift) / P(8u + axis), count);
}

@compute @workgroup_size(256)
fn fold(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let e = group_number(group, groups) * 256u + thread;
    if (e >= P(0u)) { return; }
    let column = e % P(3u);
    let row = e / P(3u) % P(2u);
    let plane = P(12u) + e / P(3u) / P(2u) * P(6u) * P(7u) * P(4u) * P(5u);
    var total = 0.0;
    for (var a = 0u; a < P(6u); a++) {
        let i = source(0u, row, a);
        if (i == P(4u)) { continue; }
        for (var b = 0u; b < P(7u); b++) {
            let j = source(1u, column, b);
            if (j == P(5u)) { continue; }
            total += load_x0(plane + ((a * P(7u) + b) * P(4u) + i) * P(5u) + j);
        }
    }
    store_y0(e, total);
}
