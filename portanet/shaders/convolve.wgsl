// y[n, g o' + o, p] = sum over c, t of
//     x[n, g c' + c, p * stride + t * dilation - padding] * w[g o' + o, c, t]
// for p and t of three axes; x is 0 outside its sizes. forward makes y of x and w,
// input makes x of y and w, weight makes w of x and y. Each is a matrix product for
// each group, r[i, j] = sum over l of a[i, l] b[l, j], whose matrices are read where
// they lie:
//   forward  i = o, j = (n, p), l = (c, t)   a = w, b = x
//   input    i = c, j = (n, q), l = (o, t)   a = w, b = y where p stride =
//            q + padding - t dilation has a solution, else 0
//   weight   i = o, j = (c, t), l = (n, p)   a = y, b = x
// Words: splits, chunk, m, n, k (sizes of i, j, l), batch, groups, channels (c'),
// outputs (o'), x[3], y[3], kernel[3], stride[3], padding[3], dilation[3],
// x_offset, w_offset, y_offset. Split s sums l in [s chunk, min((s + 1)
// chunk, k)) into partial results.
//
// tile: a group of 16 x 16 threads makes 64 x 64 of r, 4 x 4 a thread, from slices of
// 16 of l in workgroup memory (8 KiB). block: one thread makes 4 x 4. each: one
// element.
// The lines between are variants.py's: T, emit(i, v), which may apply an epilogue, and the option's a_at, b_at and
// r_at.
fn three(at: u32) -> vec3<u32> { return vec3<u32>(P(at), P(at + 1u), P(at + 2u)); }
fn count(sizes: vec3<u32>) -> u32 { return sizes.x * sizes.y * sizes.z; }

fn place(e: u32, sizes: vec3<u32>) -> vec3<u32> {
    let rest = e / sizes.z;
    return vec3<u32>(rest / sizes.y, rest % sizes.y, e % sizes.z);
}

fn number(at: vec3<u32>, sizes: vec3<u32>) -> u32 {
    return (at.x * sizes.y + at.y) * sizes.z + at.z;
}

// x where result p meets tap t. A place below 0 wraps to one past every size.
fn x_at(plane: u32, p: u32, t: u32) -> T {
    let sizes = three(9u);
    let at = place(p, three(12u)) * three(18u) + place(t, three(15u)) * three(24u)
        - three(21u);
    if (any(at >= sizes)) { return T(); }
    return T(load_x0(P(27u) + plane * count(sizes) + number(at, sizes)));
}

$option

fn a(group: u32, i: u32, l: u32, end: u32) -> T {
    if (i >= P(2u) || l >= end) { return T(); }
    return a_at(group, i, l);
}

fn b(group: u32, l: u32, j: u32, end: u32) -> T {
    if (j >= P(3u) || l >= end) { return T(); }
    return b_at(group, l, j);
}

fn write(group: u32, split: u32, i: u32, j: u32, v: T) {
    if (i >= P(2u) || j >= P(3u)) { return; }
    emit(split * P(6u) * P(2u) * P(3u) + r_at(group, i, j), v);
}

fn write_row(group: u32, split: u32, i: u32, j: u32, row: vec4<T>) {
    if (i >= P(2u)) { return; }
    let stop = min(j + 4u, P(3u));
    var v = row;
    for (var c = j; c < stop; c++) {
        write(group, split, i, c, v.x);
        v = v.yzwx;
    }
}

fn a_column(group: u32, i: u32, l: u32, end: u32) -> vec4<T> {
    return vec4<T>(
        a(group, i, l, end), a(group, i + 1u, l, end),
        a(group, i + 2u, l, end), a(group, i + 3u, l, end),
    );
}

fn b_row(group: u32, l: u32, j: u32, end: u32) -> vec4<T> {
    return vec4<T>(
        b(group, l, j, end), b(group, l, j + 1u, end),
        b(group, l, j + 2u, end), b(group, l, j + 3u, end),
    );
}

var<workgroup> a_tile: array<vec4<T>, 256>;  // [l][i / 4]
var<workgroup> b_tile: array<vec4<T>, 256>;  // [l][j / 4]

@compute @workgroup_size(16, 16)
fn tile(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let which = group_number(group, groups);
    let across = (P(3u) + 63u) / 64u;
    let tiles = (P(2u) + 63u) / 64u * across;
    let split = which / tiles / P(6u);
    let g = which / tiles % P(6u);
    // A group past the last has nothing to write, by its row.
    let row = select(which % tiles / across * 64u, 0xffffff00u, split >= P(0u));
    let column = which % tiles % across * 64u;
    let end = min((split + 1u) * P(1u), P(4u));
    let low = thread & 15u;
    let high = thread >> 4u;
    var r0 = vec4<T>();
    var r1 = vec4<T>();
    var r2 = vec4<T>();
    var r3 = vec4<T>();
    for (var step = 0u; step < P(1u); step += 16u) {
        let start = split * P(1u) + step;
        // a's rows are contiguous in l, b's in j.
        a_tile[low * 16u + high] = a_column(g, row + 4u * high, start + low, end);
        b_tile[high * 16u + low] = b_row(g, start + high, column + 4u * low, end);
        workgroupBarrier();
        for (var l = 0u; l < 16u; l++) {
            let left = a_tile[l * 16u + local.y];
            let top = b_tile[l * 16u + local.x];
            r0 += left.x * top;
            r1 += left.y * top;
            r2 += left.z * top;
            r3 += left.w * top;
        }
        workgroupBarrier();
    }
    let i = row + 4u * local.y;
    let j = column + 4u * local.x;
    write_row(g, split, i, j, r0);
    write_row(g, split, i + 1u, j, r1);
    write_row(g, split, i + 2u, j, r2);
    write_row(g, split, i + 3u, j, r3);
}

@compute @workgroup_size(64)
fn block(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let which = group_number(group, groups) * 64u + thread;
    let across = (P(3u) + 3u) / 4u;
    let blocks = (P(2u) + 3u) / 4u * across;
    let split = which / blocks / P(6u);
    if (split >= P(0u)) { return; }
    let g = which / blocks % P(6u);
    let i = which % blocks / across * 4u;
    let j = which % blocks % across * 4u;
    let end = min((split + 1u) * P(1u), P(4u));
    var r0 = vec4<T>();
    var r1 = vec4<T>();
    var r2 = vec4<T>();
    var r3 = vec4<T>();
    for (var l = split * P(1u); l < end; l++) {
        let left = a_column(g, i, l, end);
        let top = b_row(g, l, j, end);
        r0 += left.x * top;
        r1 += left.y * top;
        r2 += left.z * top;
        r3 += left.w * top;
    }
    write_row(g, split, i, j, r0);
    write_row(g, split, i + 1u, j, r1);
    write_row(g, split, i + 2u, j, r2);
    write_row(g, split, i + 3u, j, r3);
}

@compute @workgroup_size(64)
fn each(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let which = group_number(group, groups) * 64u + thread;
    let elements = P(2u) * P(3u);
    let split = which / elements / P(6u);
    if (split >= P(0u)) { return; }
    let g = which / elements % P(6u);
    let i = which % elements / P(3u);
    let j = which % P(3u);
    let end = min((split + 1u) * P(1u), P(4u));
    var total = T();
    for (var l = split * P(1u); l < end; l++) {
        total += a_at(g, i, l) * b_at(g, l, j);
    }
    write(g, split, i, j, total);
}
