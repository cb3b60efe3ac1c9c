// Attention: y[b, i, h] = sum over j of p[j] v[b, g, j] and its gradients, as
// backend_cpu/attention.c has them, of the same words. No score is kept.
//
// forward: a thread has one row of q and sums over the keys, four at a time, in a chunk
// of v's columns; where a larger score appears, what it has is rescaled. Backward has a
// launch for each result, in which a thread has one row of it: statistics (lse, dy . y) of
// each row of q; queries (dq); keys (dk); values (dv), the latter two over the rows of
// the heads of a group. A group of 64 threads is of one head; all read the same row of the
// other side at once.
//
// The lines above are attention.py's: WIDTH, VALUES (of a row), CHUNK (columns that a
// thread sums, in fours), OWN_Q and OWN_V (whether own rows are kept in registers),
// load_* and store_* (of operands that a launch does not bind: nothing), masked and
// factors.

const KEPT_Q = select(1u, (WIDTH + 3u) / 4u, OWN_Q);
const KEPT_V = select(1u, (VALUES + 3u) / 4u, OWN_V);

// Sizes, and ends of loops: constants where IS_EXACT, so that loops unroll; else words, and
// the constants are the largest that there are.
fn width() -> u32 { return select(P(5u), WIDTH, IS_EXACT); }
fn values_width() -> u32 { return select(P(6u), VALUES, IS_EXACT); }
fn fours() -> u32 { return (width() + 3u) / 4u; }
fn value_fours() -> u32 { return (values_width() + 3u) / 4u; }
fn lanes(left: u32) -> u32 { return select(min(4u, left), 4u, IS_EXACT); }
fn chunk(left: u32) -> u32 { return select(min(CHUNK, left), CHUNK, IS_EXACT); }

// Scores below this, far from what products of numbers give, count as masked.
const LOWEST = -1e37;

// What one thread works on: head b heads + h (or group b groups + g), its row there, and
// the first column in fours of the chunk that it makes.
struct Place { b: u32, h: u32, row: u32, column: u32, is_there: bool }

fn place_of(
    group: vec3<u32>, groups: vec3<u32>, thread: u32, heads: u32, rows: u32, fours: u32,
) -> Place {
    let number = group_number(group, groups);
    let chunks = (fours + CHUNK - 1u) / CHUNK;
    let blocks = (rows + 63u) / 64u;
    let head = number / chunks / blocks;
    let row = number / chunks % blocks * 64u + thread;
    let is_there = head < P(0u) * heads && row < rows;
    return Place(head / heads, head % heads, row, number % chunks * CHUNK, is_there);
}

fn q_row(b: u32, h: u32, i: u32) -> u32 {
    return P(16u) + b * P(17u) + h * P(18u) + i * P(19u);
}
fn k_row(b: u32, g: u32, j: u32) -> u32 {
    return P(20u) + b * P(21u) + g * P(22u) + j * P(23u);
}
fn v_row(b: u32, g: u32, j: u32) -> u32 {
    return P(24u) + b * P(25u) + g * P(26u) + j * P(27u);
}
fn dy_row(b: u32, h: u32, i: u32) -> u32 {
    return P(28u) + b * P(29u) + h * P(30u) + i * P(31u);
}
// Rows of y and of the gradients lie by length, then head.
fn made_row(b: u32, i: u32, h: u32, rows: u32, heads: u32, width: u32) -> u32 {
    return ((b * rows + i) * heads + h) * width;
}

// Four columns of a row, 0 past its width.
fn q4(at: u32, c: u32) -> vec4<f32> {
    let left = width() - 4u * c;
    let e = at + 4u * c + min(vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(left - 1u));
    let x = vec4<f32>(load_q(e.x), load_q(e.y), load_q(e.z), load_q(e.w));
    return select(vec4<f32>(), x, vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(left));
}
fn k4(at: u32, c: u32) -> vec4<f32> {
    let left = width() - 4u * c;
    let e = at + 4u * c + min(vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(left - 1u));
    let x = vec4<f32>(load_k(e.x), load_k(e.y), load_k(e.z), load_k(e.w));
    return select(vec4<f32>(), x, vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(left));
}
fn v4(at: u32, c: u32) -> vec4<f32> {
    let left = values_width() - 4u * c;
    let e = at + 4u * c + min(vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(left - 1u));
    let x = vec4<f32>(load_v(e.x), load_v(e.y), load_v(e.z), load_v(e.w));
    return select(vec4<f32>(), x, vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(left));
}
fn dy4(at: u32, c: u32) -> vec4<f32> {
    let left = values_width() - 4u * c;
    let e = at + 4u * c + min(vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(left - 1u));
    let x = vec4<f32>(load_dy(e.x), load_dy(e.y), load_dy(e.z), load_dy(e.w));
    return select(vec4<f32>(), x, vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(left));
}

fn store4(at: u32, c: u32, width: u32, x: vec4<f32>) {
    for (var l = 0u; l < 4u; l++) {
        if (4u * c + l < width) { store_made(at + 4u * c + l, x[l]); }
    }
}

// How many keys row i sees.
fn seen_by(i: u32) -> u32 { return select(P(4u), min(i + 1u, P(4u)), P(7u) != 0u); }

// What dropout multiplies a row's weights by, at keys 4 c to 4 c + 3; `row` counts all
// rows.
fn drawn(row: u32, c: u32) -> vec4<f32> {
    let blocks = (P(4u) + 3u) / 4u;
    let state = P(STATE_AT);
    let key = vec2<u32>(load_state(state), load_state(state + 1u));
    let start = vec2<u32>(load_state(state + 2u), load_state(state + 3u));
    let low = row * blocks;
    var at = philox_advance(start, vec2<u32>(low, u_mulhi(row, blocks)));
    at = philox_advance(at, vec2<u32>(c, 0u));
    let word = philox(vec4<u32>(at, 0u, 0u), key);
    let keep = bitcast<f32>(P(13u));
    return select(vec4<f32>(), vec4<f32>(keep), word >= vec4<u32>(P(9u)));
}

fn pass_state_on() {
    let state = P(STATE_AT);
    let rows = P(0u) * P(1u) * P(3u);
    let blocks = (P(4u) + 3u) / 4u;
    let start = vec2<u32>(load_state(state + 2u), load_state(state + 3u));
    let next = philox_advance(start, vec2<u32>(rows * blocks, u_mulhi(rows, blocks)));
    store_state(0u, load_state(state));
    store_state(1u, load_state(state + 1u));
    store_state(2u, next.x);
    store_state(3u, next.y);
}

@compute @workgroup_size(64)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    if (P(9u) != 0u && group_number(group, groups) + thread == 0u) { pass_state_on(); }
    let p = place_of(group, groups, thread, P(1u), P(3u), value_fours());
    if (!p.is_there) { return; }
    let g = p.h / (P(1u) / P(2u));
    let row = (p.b * P(1u) + p.h) * P(3u) + p.row;
    let q_at = q_row(p.b, p.h, p.row);
    let scale = bitcast<f32>(P(10u));
    var q: array<vec4<f32>, KEPT_Q>;
    if (OWN_Q) { for (var c = 0u; c < fours(); c++) { q[c] = q4(q_at, c); } }
    var y: array<vec4<f32>, CHUNK>;
    var top = LOWEST;
    var sum = 0.0;
    let last = P(4u) - 1u;
    let end = seen_by(p.row);
    for (var j = 0u; j < end; j += 4u) {
        var s = vec4<f32>(LOWEST);
        var most = top;
        for (var l = 0u; l < lanes(end - j); l++) {
            let k_at = k_row(p.b, g, min(j + l, last));
            var x = 0.0;
            for (var c = 0u; c < fours(); c++) {
                var own = q[min(c, KEPT_Q - 1u)];
                if (!OWN_Q) { own = q4(q_at, c); }
                x += dot(own, k4(k_at, c));
            }
            if (j + l < end) { s[l] = masked(x * scale, p.b, p.h, p.row, j + l); }
            most = select(most, s[l], s[l] > most);
        }
        let before = f_exp(top - most);
        top = most;
        var w = vec4<f32>();
        for (var l = 0u; l < lanes(end - j); l++) {
            w[l] = select(f_exp(s[l] - most), 0.0, s[l] <= LOWEST);
        }
        sum = sum * before + ((w.x + w.y) + (w.z + w.w));
        w *= factors(row, j / 4u);
        for (var c = 0u; c < chunk(value_fours() - p.column); c++) { y[c] *= before; }
        for (var l = 0u; l < lanes(end - j); l++) {
            let v_at = v_row(p.b, g, min(j + l, last));
            for (var c = 0u; c < chunk(value_fours() - p.column); c++) {
                if (p.column + c < value_fours()) {
                    y[c] += w[l] * v4(v_at, p.column + c);
                }
            }
        }
    }
    let share = select(1.0 / sum, 0.0, sum == 0.0);
    let at = made_row(p.b, p.row, p.h, P(3u), P(1u), values_width());
    for (var c = 0u; c < chunk(value_fours() - p.column); c++) {
        store4(at, p.column + c, values_width(), y[c] * share);
    }
    if (p.column == 0u) {
        store_lse(row, select(top + f_log(sum), -f_inf(), sum == 0.0));
    }
}

// (lse, dy . y) of each row; a row that sees nothing gets an lse that makes its weights 0.
@compute @workgroup_size(64)
fn statistics(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let p = place_of(group, groups, thread, P(1u), P(3u), 1u);
    if (!p.is_there) { return; }
    let row = (p.b * P(1u) + p.h) * P(3u) + p.row;
    let dy_at = dy_row(p.b, p.h, p.row);
    let y_at = made_row(p.b, p.row, p.h, P(3u), P(1u), values_width());
    var inner = 0.0;
    for (var c = 0u; c < values_width(); c++) {
        inner += load_dy(dy_at + c) * load_y(y_at + c);
    }
    let lse = load_lse(row);
    put_statistics(row, vec2<f32>(select(lse, 1e38, lse < LOWEST), inner));
}

@compute @workgroup_size(64)
fn queries(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let p = place_of(group, groups, thread, P(1u), P(3u), fours());
    if (!p.is_there) { return; }
    let g = p.h / (P(1u) / P(2u));
    let row = (p.b * P(1u) + p.h) * P(3u) + p.row;
    let of_row = get_statistics(row);
    let scale = bitcast<f32>(P(10u));
    let q_at = q_row(p.b, p.h, p.row);
    let dy_at = dy_row(p.b, p.h, p.row);
    var q: array<vec4<f32>, KEPT_Q>;
    var dy: array<vec4<f32>, KEPT_V>;
    if (OWN_Q) { for (var c = 0u; c < fours(); c++) { q[c] = q4(q_at, c); } }
    if (OWN_V) { for (var c = 0u; c < value_fours(); c++) { dy[c] = dy4(dy_at, c); } }
    var made: array<vec4<f32>, CHUNK>;
    let end = seen_by(p.row);
    var factor = vec4<f32>(1.0);
    for (var j = 0u; j < end; j++) {
        let k_at = k_row(p.b, g, j);
        let v_at = v_row(p.b, g, j);
        var s = 0.0;
        for (var c = 0u; c < fours(); c++) {
            var x = q[min(c, KEPT_Q - 1u)];
            if (!OWN_Q) { x = q4(q_at, c); }
            s += dot(x, k4(k_at, c));
        }
        var dp = 0.0;
        for (var c = 0u; c < value_fours(); c++) {
            var x = dy[min(c, KEPT_V - 1u)];
            if (!OWN_V) { x = dy4(dy_at, c); }
            dp += dot(x, v4(v_at, c));
        }
        if (j % 4u == 0u) { factor = factors(row, j / 4u); }
        let weight = f_exp(masked(s * scale, p.b, p.h, p.row, j) - of_row.x);
        let ds = weight * (dp * factor[j % 4u] - of_row.y);
        for (var c = 0u; c < chunk(fours() - p.column); c++) {
            if (p.column + c < fours()) { made[c] += ds * k4(k_at, p.column + c); }
        }
    }
    let at = made_row(p.b, p.row, p.h, P(3u), P(1u), width());
    for (var c = 0u; c < chunk(fours() - p.column); c++) {
        store4(at, p.column + c, width(), made[c] * scale);
    }
}

@compute @workgroup_size(64)
fn keys(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let p = place_of(group, groups, thread, P(2u), P(4u), fours());
    if (!p.is_there) { return; }
    let scale = bitcast<f32>(P(10u));
    let k_at = k_row(p.b, p.h, p.row);
    let v_at = v_row(p.b, p.h, p.row);
    var k: array<vec4<f32>, KEPT_Q>;
    var v: array<vec4<f32>, KEPT_V>;
    if (OWN_Q) { for (var c = 0u; c < fours(); c++) { k[c] = k4(k_at, c); } }
    if (OWN_V) { for (var c = 0u; c < value_fours(); c++) { v[c] = v4(v_at, c); } }
    var made: array<vec4<f32>, CHUNK>;
    let heads = P(1u) / P(2u);
    for (var m = 0u; m < heads; m++) {
        let h = p.h * heads + m;
        for (var i = select(0u, p.row, P(7u) != 0u); i < P(3u); i++) {
            let row = (p.b * P(1u) + h) * P(3u) + i;
            let of_row = get_statistics(row);
            let q_at = q_row(p.b, h, i);
            let dy_at = dy_row(p.b, h, i);
            var s = 0.0;
            for (var c = 0u; c < fours(); c++) {
                var x = k[min(c, KEPT_Q - 1u)];
                if (!OWN_Q) { x = k4(k_at, c); }
                s += dot(x, q4(q_at, c));
            }
            var dp = 0.0;
            for (var c = 0u; c < value_fours(); c++) {
                var x = v[min(c, KEPT_V - 1u)];
                if (!OWN_V) { x = v4(v_at, c); }
                dp += dot(x, dy4(dy_at, c));
            }
            let factor = factors(row, p.row / 4u)[p.row % 4u];
            let weight = f_exp(masked(s * scale, p.b, h, i, p.row) - of_row.x);
            let ds = weight * (dp * factor - of_row.y);
            for (var c = 0u; c < chunk(fours() - p.column); c++) {
                if (p.column + c < fours()) { made[c] += ds * q4(q_at, p.column + c); }
            }
        }
    }
    let at = made_row(p.b, p.row, p.h, P(4u), P(2u), width());
    for (var c = 0u; c < chunk(fours() - p.column); c++) {
        store4(at, p.column + c, width(), made[c] * scale);
    }
}

@compute @workgroup_size(64)
fn values(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let p = place_of(group, groups, thread, P(2u), P(4u), value_fours());
    if (!p.is_there) { return; }
    let scale = bitcast<f32>(P(10u));
    let k_at = k_row(p.b, p.h, p.row);
    var k: array<vec4<f32>, KEPT_Q>;
    if (OWN_Q) { for (var c = 0u; c < fours(); c++) { k[c] = k4(k_at, c); } }
    var made: array<vec4<f32>, CHUNK>;
    let heads = P(1u) / P(2u);
    for (var m = 0u; m < heads; m++) {
        let h = p.h * heads + m;
        for (var i = select(0u, p.row, P(7u) != 0u); i < P(3u); i++) {
            let row = (p.b * P(1u) + h) * P(3u) + i;
            let q_at = q_row(p.b, h, i);
            let dy_at = dy_row(p.b, h, i);
            var s = 0.0;
            for (var c = 0u; c < fours(); c++) {
                var x = k[min(c, KEPT_Q - 1u)];
                if (!OWN_Q) { x = k4(k_at, c); }
                s += dot(x, q4(q_at, c));
            }
            let factor = factors(row, p.row / 4u)[p.row % 4u];
            let s_masked = masked(s * scale, p.b, h, i, p.row);
            let weight = f_exp(s_masked - get_statistics(row).x) * factor;
            for (var c = 0u; c < chunk(value_fours() - p.column); c++) {
                if (p.column + c < value_fours()) {
                    made[c] += weight * dy4(dy_at, p.column + c);
                }
            }
        }
    }
    let at = made_row(p.b, p.row, p.h, P(4u), P(2u), values_width());
    for (var c = 0u; c < chunk(value_fours() - p.column); c++) {
        store4(at, p.column + c, values_width(), made[c]);
    }
}
