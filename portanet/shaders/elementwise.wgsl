// y_j[i] = f_j(x_0[i], x_1[i], ...), i row-major over the shape. A thread makes element
// i and every one a grid further on: a large result has more than one element a thread.
// Words: n, the offset of each operand, shape[rank], strides[rank] of each "v" operand.
// The lines between are written by lower.py: a coordinate for each dimension, a load
// for each input, a `let` for each instruction, a store for each output.

@compute @workgroup_size(256)
fn elementwise(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let step = groups.x * groups.y * 256u;
    for (var i = (group.x + group.y * groups.x) * 256u + thread; i < P(0u); i += step) {
$body
    }
}
