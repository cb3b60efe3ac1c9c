// y[b, i, j] = sum over l of a[b, i, l] * x[b, l, j]; y contiguous, a and x strided.
// Words: splits, chunk, batch, m, n, k, batch_rank, a_offset, a_row, a_column,
// b_offset, b_row, b_column, batch_shape[], a_batch_strides[], b_batch_strides[]. Split
// s sums l in [s chunk, min((s + 1) chunk, k)) into a partial result of its own, y[s,
// b, i, j].
//
// tile: a group of 8 x 8 threads makes 64 x 64 of y, 8 x 8 a thread, from slices of 16
// of l in workgroup memory (8 KiB). block: the same without workgroup memory, for
// drivers that run on a CPU, where a barrier costs more than it saves. each: one thread
// an element of y. dot_product: a group of 64 threads an element, thread t takes l = t,
// t + 64, ..., then a tree.
// T is the type that products and sums are in; emit(o, row, column, v) writes y, or
// applies an epilogue and writes what that makes; row counts through the batches. Loops
// call it, so that an epilogue is there 4 times and not 64, which takes drivers seconds.
$emit

// Offsets of a and x for a batch.
fn batch_at(batch: u32) -> vec2<u32> {
    let rank = P(6u);
    var rest = batch;
    var at = vec2<u32>(P(7u), P(10u));
    for (var d = rank; d > 0u; d--) {
        let size = P(12u + d);
        let c = rest % size;
        at += c * vec2<u32>(P(12u + rank + d), P(12u + 2u * rank + d));
        rest /= size;
    }
    return at;
}

fn a_at(base: u32, i: u32, l: u32) -> T {
    if (i >= P(3u)) { return T(); }
    return T(load_x0(base + i * P(8u) + l * P(9u)));
}

fn b_at(base: u32, l: u32, j: u32) -> T {
    if (j >= P(4u)) { return T(); }
    return T(load_x1(base + l * P(11u) + j * P(12u)));
}

// 4 x 4 elements of y.
struct Quad { r0: vec4<T>, r1: vec4<T>, r2: vec4<T>, r3: vec4<T> }

fn plus(y: Quad, a: vec4<T>, b: vec4<T>) -> Quad {
    return Quad(y.r0 + a.x * b, y.r1 + a.y * b, y.r2 + a.z * b, y.r3 + a.w * b);
}

fn write_row(base: u32, i: u32, j: u32, v: vec4<T>) {
    let n = P(4u);
    if (i >= P(3u) || j >= n) { return; }
    let row = base + i;
    let at = row * n;
    var left = v;
    let stop = min(j + 4u, n);
    for (var c = j; c < stop; c++) {
        emit(at + c, row, c, left.x);
        left = left.yzwx;
    }
}

fn write_quad(base: u32, i: u32, j: u32, quad: Quad) {
    var y = quad;
    for (var r = 0u; r < 4u; r++) {
        write_row(base, i + r, j, y.r0);
        y = Quad(y.r1, y.r2, y.r3, y.r0);
    }
}

// What a group of 64 x 64 works on. Made of uniforms and the group only, as barriers
// need. base: the number of row 0.
struct Part { row: u32, column: u32, begin: u32, end: u32, base: u32, at: vec2<u32> }

fn part_of(number: u32) -> Part {
    let m = P(3u);
    let n = P(4u);
    let tiles_n = (n + 63u) / 64u;
    let tiles = (m + 63u) / 64u * tiles_n;
    let which = number / tiles;
    let split = which / P(2u);
    let tile = number % tiles;
    let begin = split * P(1u);
    // A group past the last has nothing to sum, and nothing to write by its row.
    let row = select(tile / tiles_n * 64u, 0xffffff00u, split >= P(0u));
    let end = min(begin + P(1u), P(5u));
    let at = batch_at(which % P(2u));
    return Part(row, tile % tiles_n * 64u, begin, end, which * m, at);
}

var<workgroup> a_tile: array<vec4<T>, 256>;  // [l][i / 4]
var<workgroup> b_tile: array<vec4<T>, 256>;  // [l][j / 4]

@compute @workgroup_size(8, 8)
fn tile(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let part = part_of(group_number(group, groups));
    // Neighbours load neighbours in memory: along l where that is contiguous.
    let a_along_l = P(9u) == 1u;
    let b_along_l = P(11u) == 1u && P(12u) != 1u;
    var y00 = Quad();
    var y01 = Quad();
    var y10 = Quad();
    var y11 = Quad();
    for (var step = 0u; step < P(1u); step += 16u) {
        for (var e = thread; e < 256u; e += 64u) {
            let low = e & 15u;
            let high = e >> 4u;
            var l = select(high, low, a_along_l);
            var i = select(low, high, a_along_l);
            a_tile[l * 16u + i] = a_column(part, step + l, part.row + 4u * i);
            l = select(high, low, b_along_l);
            i = select(low, high, b_along_l);
            b_tile[l * 16u + i] = b_row(part, step + l, part.column + 4u * i);
        }
        workgroupBarrier();
        for (var l = 0u; l < 16u; l++) {
            let a0 = a_tile[l * 16u + local.y];
            let a1 = a_tile[l * 16u + local.y + 8u];
            let b0 = b_tile[l * 16u + local.x];
            let b1 = b_tile[l * 16u + local.x + 8u];
            y00 = plus(y00, a0, b0);
            y01 = plus(y01, a0, b1);
            y10 = plus(y10, a1, b0);
            y11 = plus(y11, a1, b1);
        }
        workgroupBarrier();
    }
    let i = part.row + 4u * local.y;
    let j = part.column + 4u * local.x;
    write_quad(part.base, i, j, y00);
    write_quad(part.base, i, j + 32u, y01);
    write_quad(part.base, i + 32u, j, y10);
    write_quad(part.base, i + 32u, j + 32u, y11);
}

fn a_column(part: Part, l: u32, i: u32) -> vec4<T> {
    let at = part.begin + l;
    if (at >= part.end) { return vec4<T>(); }
    return vec4<T>(
        a_at(part.at.x, i, at), a_at(part.at.x, i + 1u, at),
        a_at(part.at.x, i + 2u, at), a_at(part.at.x, i + 3u, at),
    );
}

fn b_row(part: Part, l: u32, j: u32) -> vec4<T> {
    let at = part.begin + l;
    if (at >= part.end) { return vec4<T>(); }
    return vec4<T>(
        b_at(part.at.y, at, j), b_at(part.at.y, at, j + 1u),
        b_at(part.at.y, at, j + 2u), b_at(part.at.y, at, j + 3u),
    );
}

fn load_a(at: vec4<u32>) -> vec4<T> {
    return vec4<T>(
        T(load_x0(at.x)), T(load_x0(at.y)), T(load_x0(at.z)), T(load_x0(at.w)),
    );
}

fn load_b(at: vec4<u32>) -> vec4<T> {
    return vec4<T>(
        T(load_x1(at.x)), T(load_x1(at.y)), T(load_x1(at.z)), T(load_x1(at.w)),
    );
}

@compute @workgroup_size(8, 8)
fn block(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let part = part_of(group_number(group, groups));
    let i = part.row + 8u * local.y;
    let j = part.column + 8u * local.x;
    if (i >= P(3u) || j >= P(4u)) { return; }
    // Rows and columns past the last read the last again, and are not written.
    let four = vec4<u32>(0u, 1u, 2u, 3u);
    let m = vec4<u32>(P(3u) - 1u);
    let n = vec4<u32>(P(4u) - 1u);
    let a = part.at.x + part.begin * P(9u);
    let b = part.at.y + part.begin * P(11u);
    var a0 = a + min(i + four, m) * P(8u);
    var a1 = a + min(i + 4u + four, m) * P(8u);
    var b0 = b + min(j + four, n) * P(12u);
    var b1 = b + min(j + 4u + four, n) * P(12u);
    var y00 = Quad();
    var y01 = Quad();
    var y10 = Quad();
    var y11 = Quad();
    for (var l = part.begin; l < part.end; l++) {
        let left = load_a(a0);
        let below = load_a(a1);
        let top = load_b(b0);
        let right = load_b(b1);
        y00 = plus(y00, left, top);
        y01 = plus(y01, left, right);
        y10 = plus(y10, below, top);
        y11 = plus(y11, below, right);
        a0 += P(9u);
        a1 += P(9u);
        b0 += P(11u);
        b1 += P(11u);
    }
    write_quad(part.base, i, j, y00);
    write_quad(part.base, i, j + 4u, y01);
    write_quad(part.base, i + 4u, j, y10);
    write_quad(part.base, i + 4u, j + 4u, y11);
}

@compute @workgroup_size(64)
fn each(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let o = group_number(group, groups) * 64u + thread;
    let m = P(3u);
    let n = P(4u);
    if (o >= P(2u) * m * n) { return; }
    let at = batch_at(o / (m * n));
    var a = at.x + o / n % m * P(8u);
    var b = at.y + o % n * P(12u);
    var total = T();
    for (var l = 0u; l < P(5u); l++) {
        total += T(load_x0(a)) * T(load_x1(b));
        a += P(9u);
        b += P(11u);
    }
    emit(o, o / n, o % n, total);
}

var<workgroup> parts: array<T, 64>;

@compute @workgroup_size(64)
fn dot_product(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let o = group_number(group, groups);
    let m = P(3u);
    let n = P(4u);
    let is_output = o < P(2u) * m * n;
    let at = batch_at(o / (m * n));
    let a = at.x + o / n % m * P(8u);
    let b = at.y + o % n * P(12u);
    var total = T();
    if (is_output) {
        for (var l = thread; l < P(5u); l += 64u) {
            total += T(load_x0(a + l * P(9u))) * T(load_x1(b + l * P(11u)));
        }
    }
    parts[thread] = total;
    for (var half = 32u; half > 0u; half >>= 1u) {
        workgroupBarrier();
        if (thread < half) { parts[thread] += parts[thread + half]; }
    }
    if (thread == 0u && is_output) { emit(o, o / n, o % n, parts[0]); }
}
