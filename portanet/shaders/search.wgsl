// y[r, q] = how many elements of the ascending row r of x are below v[r, q], or, if
// is_right, not above it. One thread an element of y.
// Words: n (of y), count (v of a row), size (x of a row), x_offset, x_row, x_step,
// v_offset, v_row, v_step. The line between is variants.py's.
$option

@compute @workgroup_size(64)
fn search(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let e = group_number(group, groups) * 64u + thread;
    if (e >= P(0u)) { return; }
    let row = e / P(1u);
    let v = P(6u) + row * P(7u) + e % P(1u) * P(8u);
    let key = ${p}_order(load_x1(v));
    var low = 0u;
    var high = P(2u);
    while (low < high) {
        let middle = (low + high) / 2u;
        let other = ${p}_order(load_x0(P(3u) + row * P(4u) + middle * P(5u)));
        if (other < key || (is_right && other == key)) {
            low = middle + 1u;
        } else {
            high = middle;
        }
    }
    store_y0(e, i32(low));
}
