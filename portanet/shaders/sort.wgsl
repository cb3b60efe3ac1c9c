// y[r] = the order of row r of x: positions such that the keys ascend, of equals the
// first first. One thread an element; `records` are (key, position), two halves of
// rows * n, one read while the other is written.
// Words: rows, n, width, source, target, then what key_at() and put_order() read. Source and target
// are halves; target 2 is y.
//
// runs: the place of an element among its `width` neighbours is counted. merge: sorted
// runs of `width` are merged two by two; an element's place is its place in its own run
// and the number of those before it in the other, found by halving. No barriers.
// key_at(row, j) and put_order(row, place, position) are written by indexing.py.

fn put(row: u32, place: u32, record: vec2<u32>) {
    if (P(4u) == 2u) {
        put_order(row, place, record.y);
    } else {
        records[(P(4u) * P(0u) + row) * P(1u) + place] = record;
    }
}

@compute @workgroup_size(64)
fn runs(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let e = group_number(group, groups) * 64u + thread;
    if (e >= P(0u) * P(1u)) { return; }
    let row = e / P(1u);
    let j = e - row * P(1u);
    let first = j / P(2u) * P(2u);
    let end = min(first + P(2u), P(1u));
    let key = key_at(row, j);
    var place = first;
    for (var k = first; k < end; k++) {
        let other = key_at(row, k);
        place += select(0u, 1u, other < key || (other == key && k < j));
    }
    put(row, place, vec2<u32>(key, j));
}

@compute @workgroup_size(64)
fn merge(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let e = group_number(group, groups) * 64u + thread;
    if (e >= P(0u) * P(1u)) { return; }
    let row = e / P(1u);
    let j = e - row * P(1u);
    let mine = records[P(3u) * P(0u) * P(1u) + e];
    let run = j / P(2u);
    let is_right = (run & 1u) == 1u;
    // Equals of the left run come first.
    let bound = mine.x;
    let first = select(run + 1u, run - 1u, is_right) * P(2u);
    var low = min(first, P(1u));
    var high = min(first + P(2u), P(1u));
    let start = (P(3u) * P(0u) + row) * P(1u);
    let begin = low;
    while (low < high) {
        let middle = (low + high) / 2u;
        let other = records[start + middle].x;
        if (other < bound || (other == bound && is_right)) {
            low = middle + 1u;
        } else {
            high = middle;
        }
    }
    let place = select(j, j - P(2u), is_right) + low - begin;
    put(row, place, mine);
}
