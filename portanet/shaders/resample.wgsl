// y[o, p, i] = sum over t < taps of weights[p, t] * x[o, first[p] + t, i]; one thread an
// element of y. Words: n (of y), outer, count (of p), inner, size (of x's axis), taps,
// x_offset, first_offset, weights_offset.

@compute @workgroup_size(256)
fn resample(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let e = group_number(group, groups) * 256u + thread;
    if (e >= P(0u)) { return; }
    let i = e % P(3u);
    let p = e / P(3u) % P(2u);
    let o = e / P(3u) / P(2u);
    let at = P(6u) + (o * P(4u) + u32(load_x1(P(7u) + p))) * P(3u) + i;
    var total = 0.0;
    for (var t = 0u; t < P(5u); t++) {
        total += load_x2(P(8u) + p * P(5u) + t) * load_x0(at + t * P(3u));
    }
    store_y0(e, total);
}
