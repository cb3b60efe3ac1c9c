// y[o, j, i] = x[o, index[o, j, i], i]; one thread an element of y.
// Words: outer, count, inner, size, x_offset, x_outer, x_axis, x_inner, i_offset,
// i_outer, i_axis, i_inner. An index in [-size, 0) counts from the end; outside is a
// fault.

@compute @workgroup_size(256)
fn gather(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let e = group_number(group, groups) * 256u + thread;
    if (e >= P(0u) * P(1u) * P(2u)) { return; }
    let i = e % P(2u);
    let j = e / P(2u) % P(1u);
    let o = e / P(2u) / P(1u);
    let index = load_x1(P(8u) + o * P(9u) + j * P(10u) + i * P(11u));
    let a = u32(${p}_wrap_index(index, $index(P(3u))));
    store_y0(e, load_x0(P(4u) + o * P(5u) + a * P(6u) + i * P(7u)));
}
