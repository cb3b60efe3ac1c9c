// y[n, p] = the place in plane n of x, row-major, of the largest x[n, p * stride + t *
// dilation - padding] over t, for p and t of three axes: the first of equals, NaN
// before all; places outside x do not count. Where kernel is 0 the windows are
// adaptive: p takes [p x / y, (p + 1) x / y), widened to whole elements. One thread an
// element of y. Words: planes, x[3], y[3], kernel[3], stride[3], padding[3],
// dilation[3], x_offset. The line between is variants.py's: T, and is_nan(v).
$option

// (begin, step, count) of the window of result p along axis d.
fn window(d: u32, p: u32) -> vec3<u32> {
    let n = P(1u + d);
    if (P(7u + d) == 0u) {
        // As p * n / y without overflow: n = y * (n / y) + n % y.
        let y = P(4u + d);
        let begin = p * (n / y) + p * (n % y) / y;
        let end = (p + 1u) * (n / y) + ((p + 1u) * (n % y) + y - 1u) / y;
        return vec3<u32>(begin, 1u, end - begin);
    }
    let step = P(16u + d);
    let begin = i32(p * P(10u + d)) - i32(P(13u + d));
    let skipped = select(0u, (u32(-begin) + step - 1u) / step, begin < 0);
    let left = i32(n) - begin;
    let end = select(0u, min((u32(left) + step - 1u) / step, P(7u + d)), left > 0);
    let count = select(0u, end - skipped, end > skipped);
    return vec3<u32>(u32(begin + i32(skipped * step)), step, count);
}

@compute @workgroup_size(64)
fn pool(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let e = group_number(group, groups) * 64u + thread;
    let results = P(4u) * P(5u) * P(6u);
    if (e >= P(0u) * results) { return; }
    let w = window(2u, e % P(6u));
    let v = window(1u, e / P(6u) % P(5u));
    let u = window(0u, e / P(6u) / P(5u) % P(4u));
    let plane = P(19u) + e / results * P(1u) * P(2u) * P(3u);
    var best = T();
    var found = -1;
    for (var a = 0u; a < u.z; a++) {
        for (var b = 0u; b < v.z; b++) {
            let row = ((u.x + a * u.y) * P(2u) + v.x + b * v.y) * P(3u);
            for (var c = 0u; c < w.z; c++) {
                let at = row + w.x + c * w.y;
                let value = load_x0(plane + at);
                let is_larger = value > best || (is_nan(value) && !is_nan(best));
                if (found < 0 || is_larger) {
                    best = value;
                    found = i32(at);
                }
            }
        }
    }
    store_y0(e, found);
}
