// One step of a recurrent layer: the products with the state, then the cell.
// forward: h[s + 1] = cell(x[s] + b + h[s] w^T), and c, and what the cell keeps.
// backward: gh[j] = sum over l of gx[s, l] w[l, j], then the cell of step s - 1; gx of
// step s - 1 and, where s is 0, gh0. Cells: program.py, and backend_cpu/recurrent.c.
//
// Words: s, then steps, batch, size, offset of the first input, its strides by step and
// row, offsets of the other inputs.
//
// start: the first state, one thread an element. each: one thread an element (row, j) of
// the state. tile: 16 x 16 elements a group, which share 16 terms of the sums at a time.
// Both add in the order of l. recurrent.py takes the parts of this file that a cell needs:
// GATES, depth(), state_at, weight_at, load_weight, begin, finish.

alias Sums = array<f32, GATES>;

fn sigmoid(x: f32) -> f32 {
    let e = f_exp(-abs(x));
    return select(e, 1.0, x >= 0.0) / (1.0 + e);
}

fn elements() -> u32 { return P(2u) * P(3u); }

// An element of h, c and the like: (steps, batch, size).
fn at(step: u32, row: u32, j: u32) -> u32 { return (step * P(2u) + row) * P(3u) + j; }

// Of what is kept, four of each.
fn of_four(step: u32, row: u32, k: u32, j: u32) -> u32 {
    return ((step * P(2u) + row) * 4u + k) * P(3u) + j;
}

fn first_at(step: u32, row: u32, column: u32) -> u32 {
    return P(4u) + step * P(5u) + row * P(6u) + column;
}

@compute @workgroup_size(64)
fn start(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let e = group_number(group, groups) * 64u + thread;
    if (e >= elements()) { return; }
    begin(e);
}

@compute @workgroup_size(64)
fn each(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let e = group_number(group, groups) * 64u + thread;
    if (e >= elements()) { return; }
    let row = e / P(3u);
    let j = e % P(3u);
    var sums = Sums();
    for (var l = 0u; l < depth(); l++) {
        let a = state_at(row, l);
        for (var g = 0u; g < GATES; g++) { sums[g] = fma(a, weight_at(g, l, j), sums[g]); }
    }
    finish(row, j, sums);
}

var<workgroup> states: array<array<f32, 17>, 16>;
var<workgroup> weights: array<array<array<f32, 17>, 16>, GATES>;

@compute @workgroup_size(16, 16)
fn tile(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) thread: vec3<u32>,
) {
    let across = (P(3u) + 15u) / 16u;
    let number = group_number(group, groups);
    let row = number / across * 16u + thread.y;
    let first = number % across * 16u;
    let j = first + thread.x;
    var sums = Sums();
    for (var block = 0u; block < depth(); block += 16u) {
        let l = block + thread.x;
        var a = 0.0;
        if (row < P(2u) && l < depth()) { a = state_at(row, l); }
        states[thread.y][thread.x] = a;
        for (var g = 0u; g < GATES; g++) { load_weight(g, block, first, thread.xy); }
        workgroupBarrier();
        for (var k = 0u; k < 16u; k++) {
            let s = states[thread.y][k];
            for (var g = 0u; g < GATES; g++) {
                sums[g] = fma(s, weights[g][k][thread.x], sums[g]);
            }
        }
        workgroupBarrier();
    }
    if (row < P(2u) && j < P(3u)) { finish(row, j, sums); }
}

// ---- forward

fn depth() -> u32 { return P(3u); }

fn state_at(row: u32, l: u32) -> f32 { return load_y0(at(P(0u), row, l)); }

// Neighbours in l lie side by side.
fn load_weight(g: u32, block: u32, first: u32, thread: vec2<u32>) {
    let l = block + thread.x;
    let j = first + thread.y;
    var w = 0.0;
    if (l < P(3u) && j < P(3u)) { w = weight_at(g, l, j); }
    weights[g][thread.x][thread.y] = w;
}

// ---- backward

fn depth() -> u32 { return select(0u, DEPTH * P(3u), P(0u) < P(1u)); }

// Neighbours in j lie side by side.
fn load_weight(g: u32, block: u32, first: u32, thread: vec2<u32>) {
    let l = block + thread.y;
    let j = first + thread.x;
    var w = 0.0;
    if (l < depth() && j < P(3u)) { w = weight_at(g, l, j); }
    weights[g][thread.y][thread.x] = w;
}

// ---- tanh

fn act(x: f32) -> f32 { return f_tanh(x); }

fn slope(y: f32) -> f32 { return fma(-y, y, 1.0); }

// ---- relu

fn act(x: f32) -> f32 { return f_maximum(x, 0.0); }

fn slope(y: f32) -> f32 { return select(0.0, 1.0, y > 0.0); }

// ---- rnn forward: y0 h; x0 x, x1 h0, x2 w, x3 b

const GATES = 1u;

fn weight_at(g: u32, l: u32, j: u32) -> f32 { return load_x2(P(8u) + j * P(3u) + l); }

fn begin(e: u32) { store_y0(e, load_x1(P(7u) + e)); }

fn finish(row: u32, j: u32, sums: Sums) {
    let x = load_x0(first_at(P(0u), row, j)) + load_x3(P(9u) + j);
    store_y0(at(P(0u) + 1u, row, j), act(x + sums[0]));
}

// ---- rnn backward: y0 gx, y1 gh0; x0 g, x1 h, x2 w

const GATES = 1u;
const DEPTH = 1u;

fn state_at(row: u32, l: u32) -> f32 { return load_y0(at(P(0u), row, l)); }

fn weight_at(g: u32, l: u32, j: u32) -> f32 { return load_x2(P(8u) + l * P(3u) + j); }

fn begin(e: u32) { }

fn finish(row: u32, j: u32, sums: Sums) {
    if (P(0u) == 0u) {
        store_y1(at(0u, row, j), sums[0]);
        return;
    }
    let step = P(0u) - 1u;
    let g = load_x0(first_at(step, row, j)) + sums[0];
    store_y0(at(step, row, j), g * slope(load_x1(P(7u) + at(step + 1u, row, j))));
}

// ---- lstm forward: y0 h, y1 c, y2 kept; x0 x, x1 h0, x2 c0, x3 w, x4 b

const GATES = 4u;

fn weight_at(g: u32, l: u32, j: u32) -> f32 {
    return load_x3(P(9u) + (g * P(3u) + j) * P(3u) + l);
}

fn begin(e: u32) {
    store_y0(e, load_x1(P(7u) + e));
    store_y1(e, load_x2(P(8u) + e));
}

fn gate(row: u32, k: u32, j: u32, sum: f32) -> f32 {
    let column = k * P(3u) + j;
    return load_x0(first_at(P(0u), row, column)) + load_x4(P(10u) + column) + sum;
}

fn finish(row: u32, j: u32, sums: Sums) {
    let step = P(0u);
    let i = sigmoid(gate(row, 0u, j, sums[0]));
    let f = sigmoid(gate(row, 1u, j, sums[1]));
    let g = f_tanh(gate(row, 2u, j, sums[2]));
    let o = sigmoid(gate(row, 3u, j, sums[3]));
    let c = f * load_y1(at(step, row, j)) + i * g;
    store_y2(of_four(step, row, 0u, j), i);
    store_y2(of_four(step, row, 1u, j), f);
    store_y2(of_four(step, row, 2u, j), g);
    store_y2(of_four(step, row, 3u, j), o);
    store_y1(at(step + 1u, row, j), c);
    store_y0(at(step + 1u, row, j), o * f_tanh(c));
}

// ---- lstm backward: y0 gx, y1 gh0, y2 gc0; x0 g, x1 gc, x2 kept, x3 c, x4 w

const GATES = 1u;
const DEPTH = 4u;

fn state_at(row: u32, l: u32) -> f32 { return load_y0(of_four(P(0u), row, 0u, l)); }

fn weight_at(g: u32, l: u32, j: u32) -> f32 { return load_x4(P(10u) + l * P(3u) + j); }

fn begin(e: u32) { store_y2(e, load_x1(P(7u) + e)); }

fn kept(step: u32, row: u32, k: u32, j: u32) -> f32 {
    return load_x2(P(8u) + of_four(step, row, k, j));
}

fn finish(row: u32, j: u32, sums: Sums) {
    let e = at(0u, row, j);
    if (P(0u) == 0u) {
        store_y1(e, sums[0]);
        return;
    }
    let step = P(0u) - 1u;
    let i = kept(step, row, 0u, j);
    let f = kept(step, row, 1u, j);
    let m = kept(step, row, 2u, j);
    let o = kept(step, row, 3u, j);
    let y = f_tanh(load_x3(P(9u) + at(step + 1u, row, j)));
    let g = load_x0(first_at(step, row, j)) + sums[0];
    let v = load_y2(e) + g * o * (1.0 - y * y);
    let before = load_x3(P(9u) + at(step, row, j));
    store_y0(of_four(step, row, 0u, j), v * m * (i * (1.0 - i)));
    store_y0(of_four(step, row, 1u, j), v * before * (f * (1.0 - f)));
    store_y0(of_four(step, row, 2u, j), v * i * (1.0 - m * m));
    store_y0(of_four(step, row, 3u, j), g * y * (o * (1.0 - o)));
    store_y2(e, v * f);
}

// ---- gru forward: y0 h, y1 kept; x0 x, x1 h0, x2 w, x3 b

const GATES = 3u;

fn weight_at(g: u32, l: u32, j: u32) -> f32 {
    return load_x2(P(8u) + (g * P(3u) + j) * P(3u) + l);
}

fn begin(e: u32) { store_y0(e, load_x1(P(7u) + e)); }

fn bias(k: u32, j: u32) -> f32 { return load_x3(P(9u) + k * P(3u) + j); }

fn input(row: u32, k: u32, j: u32) -> f32 {
    return load_x0(first_at(P(0u), row, k * P(3u) + j)) + bias(k, j);
}

fn finish(row: u32, j: u32, sums: Sums) {
    let step = P(0u);
    let r = sigmoid(input(row, 0u, j) + sums[0]);
    let z = sigmoid(input(row, 1u, j) + sums[1]);
    let q = bias(3u, j) + sums[2];
    let n = f_tanh(input(row, 2u, j) + r * q);
    let before = load_y0(at(step, row, j));
    store_y1(of_four(step, row, 0u, j), r);
    store_y1(of_four(step, row, 1u, j), z);
    store_y1(of_four(step, row, 2u, j), n);
    store_y1(of_four(step, row, 3u, j), q);
    store_y0(at(step + 1u, row, j), n + z * (before - n));
}

// ---- gru backward: y0 gx, y1 gh0; x0 g, x1 kept, x2 h, x3 w

const GATES = 1u;
const DEPTH = 3u;

// Of r, z, n, q the product with the state has r, z and q.
fn state_at(row: u32, l: u32) -> f32 {
    return load_y0(of_four(P(0u), row, select(0u, 1u, l >= 2u * P(3u)), l));
}

fn weight_at(g: u32, l: u32, j: u32) -> f32 { return load_x3(P(9u) + l * P(3u) + j); }

// y1 keeps what h takes past the product.
fn begin(e: u32) { store_y1(e, 0.0); }

fn kept(step: u32, row: u32, k: u32, j: u32) -> f32 {
    return load_x1(P(7u) + of_four(step, row, k, j));
}

fn finish(row: u32, j: u32, sums: Sums) {
    let e = at(0u, row, j);
    let carry = load_y1(e);
    if (P(0u) == 0u) {
        store_y1(e, carry + sums[0]);
        return;
    }
    let step = P(0u) - 1u;
    let r = kept(step, row, 0u, j);
    let z = kept(step, row, 1u, j);
    let n = kept(step, row, 2u, j);
    let q = kept(step, row, 3u, j);
    let g = load_x0(first_at(step, row, j)) + sums[0] + carry;
    let gn = g * (1.0 - z) * (1.0 - n * n);
    let before = load_x2(P(8u) + at(step, row, j));
    store_y0(of_four(step, row, 0u, j), gn * q * (r * (1.0 - r)));
    store_y0(of_four(step, row, 1u, j), g * (before - n) * (z * (1.0 - z)));
    store_y0(of_four(step, row, 2u, j), gn);
    store_y0(of_four(step, row, 3u, j), gn * r);
    store_y1(e, g * z);
}
