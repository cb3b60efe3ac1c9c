// y[o, index[o, j, i], i] += v[o, j, i] (or = v), j ascending; y holds values before.
// Words: outer, count, inner, size, v_offset, v_outer, v_axis, v_inner, i_offset,
// i_outer, i_axis, i_inner. An index in [-size, 0) counts from the end; outside is a
// fault, and that element is left out.
//
// lanes: one thread for each (o, i) walks all j. rows: one thread for each element of y
// looks at all j for its own. segments: so too, but the j of an o were sorted by their
// index (sort.wgsl, after whose `runs` and `merge` records hold (index, j)), so that a
// thread reads its own only; P(8u) is where o's records start, P(9u) the way to the next
// o's. In all a thread owns what it writes, j ascending: no atomics, one order, the same
// bits.

fn index_at(o: u32, j: u32, i: u32) -> $index {
    return load_x1(P(8u) + o * P(9u) + j * P(10u) + i * P(11u));
}

fn value_at(o: u32, j: u32, i: u32) -> T {
    return load_x0(P(4u) + o * P(5u) + j * P(6u) + i * P(7u));
}

@compute @workgroup_size(64)
fn lanes(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let e = group_number(group, groups) * 64u + thread;
    if (e >= P(0u) * P(2u)) { return; }
    let o = e / P(2u);
    let i = e % P(2u);
    for (var j = 0u; j < P(1u); j++) {
        let index = index_at(o, j, i);
        let a = u32(${p}_wrap_index(index, $index(P(3u))));
        if (!is_inside(index, P(3u))) { continue; }
        let at = (o * P(3u) + a) * P(2u) + i;
        store_y0(at, update(load_y0(at), value_at(o, j, i)));
    }
}

@compute @workgroup_size(64)
fn rows(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let e = group_number(group, groups) * 64u + thread;
    if (e >= P(0u) * P(3u) * P(2u)) { return; }
    let i = e % P(2u);
    let row = e / P(2u) % P(3u);
    let o = e / P(2u) / P(3u);
    var total = load_y0(e);
    for (var j = 0u; j < P(1u); j++) {
        let index = index_at(o, j, i);
        let a = u32(${p}_wrap_index(index, $index(P(3u))));
        if (a != row || !is_inside(index, P(3u))) { continue; }
        total = update(total, value_at(o, j, i));
    }
    store_y0(e, total);
}

@compute @workgroup_size(64)
fn segments(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let e = group_number(group, groups) * 64u + thread;
    if (e >= P(0u) * P(3u) * P(2u)) { return; }
    let i = e % P(2u);
    let row = e / P(2u) % P(3u);
    let o = e / P(2u) / P(3u);
    let start = P(8u) + o * P(9u);
    var low = 0u;
    var high = P(1u);
    while (low < high) {
        let middle = (low + high) / 2u;
        if (records[start + middle].x < row) {
            low = middle + 1u;
        } else {
            high = middle;
        }
    }
    var total = load_y0(e);
    for (; low < P(1u); low++) {
        let record = records[start + low];
        if (record.x != row) { break; }
        total = update(total, value_at(o, record.y, i));
    }
    store_y0(e, total);
}
