// bits[4 b + w] = word w of philox(counter + b, 0, 0; key), Philox4x32-10 (Salmon,
// Moraes, Dror & Shaw, SC11); the new state has its counter `blocks` further.
// Words: n, blocks, state_offset. State: key0, key1, counter_low, counter_high. One
// thread for each block b of four words; the first thread also writes the new state.

@compute @workgroup_size(64)
fn random(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let b = group_number(group, groups) * 64u + thread;
    let state = P(2u);
    let key = vec2<u32>(load_x0(state), load_x0(state + 1u));
    let counter = vec2<u32>(load_x0(state + 2u), load_x0(state + 3u));
    if (b == 0u) {
        let next = philox_advance(counter, vec2<u32>(P(1u), 0u));
        store_y1(0u, key.x);
        store_y1(1u, key.y);
        store_y1(2u, next.x);
        store_y1(3u, next.y);
    }
    if (b >= P(1u)) { return; }
    let word = philox(vec4<u32>(philox_advance(counter, vec2<u32>(b, 0u)), 0u, 0u), key);
    for (var w = 0u; w < 4u; w++) {
        if (4u * b + w < P(0u)) { store_y0(4u * b + w, word[w]); }
    }
}
