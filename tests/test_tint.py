"""The second WGSL compiler refuses what the first one lets through."""

import pytest
from tests.tint_compiler import compile_all, entry_points

HEAD = """
@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<uniform> n: vec4<u32>;
var<workgroup> shared_x: array<f32, 64>;
"""

MAIN = """
@compute @workgroup_size(64)
fn main(@builtin(local_invocation_id) lid: vec3<u32>) {
"""

GOOD = {
    "plain": HEAD + MAIN + "  if (lid.x < n.x) { x[lid.x] = 2.0 * x[lid.x]; }\n}",
    "barrier": HEAD
    + MAIN
    + """
  shared_x[lid.x] = x[lid.x];
  workgroupBarrier();
  for (var i = 0u; i < n.x; i++) { workgroupBarrier(); }
  x[lid.x] = shared_x[63u - lid.x];
}""",
    "f16": "enable f16;\n" + HEAD + MAIN + "  x[lid.x] = f32(f16(x[lid.x]));\n}",
    "subgroups": "enable subgroups;\n"
    + HEAD
    + MAIN
    + "  x[lid.x] = subgroupAdd(x[lid.x]);\n}",
    "workgroup storage at the limit": """
var<workgroup> a: array<f32, 4096>;
@compute @workgroup_size(1) fn main() { a[0] = 1.0; }""",
}

# name -> (WGSL, a word of the error)
BAD = {
    "syntax": ("fn main( {", "error"),
    "barrier after an early return": (
        HEAD + MAIN + "  if (lid.x >= n.x) { return; }\n  workgroupBarrier();\n}",
        "uniform",
    ),
    "barrier inside a branch of some invocations": (
        HEAD + MAIN + "  if (lid.x < 4u) { workgroupBarrier(); }\n}",
        "uniform",
    ),
    "loop bound read from a read_write buffer": (
        HEAD
        + MAIN
        + """
  var bound = u32(x[0]);
  for (var i = 0u; i < bound; i++) { workgroupBarrier(); }
}""",
        "uniform",
    ),
    "subgroup operation in a branch of some invocations": (
        "enable subgroups;\n"
        + HEAD
        + MAIN
        + "  if (lid.x < 4u) { x[lid.x] = subgroupAdd(x[lid.x]); }\n}",
        "uniform",
    ),
    "subgroup operation without enable": (
        HEAD + MAIN + "  x[lid.x] = subgroupAdd(x[lid.x]);\n}",
        "subgroups",
    ),
    "workgroup storage over the limit": (
        """
var<workgroup> a: array<f32, 4097>;
@compute @workgroup_size(1) fn main() { a[0] = 1.0; }""",
        "workgroup",
    ),
    "workgroup over the limit": (
        "@compute @workgroup_size(512) fn main() {}",
        "workgroup",
    ),
    "nine storage buffers": (
        "\n".join(
            f"@group(0) @binding({i}) var<storage, read_write> b{i}: array<f32>;"
            for i in range(9)
        )
        + "\n@compute @workgroup_size(1) fn main() {"
        + " ".join(f"b{i}[0] = 1.0;" for i in range(9))
        + "}",
        "storage buffers",
    ),
    "infinite constant": (
        HEAD + MAIN + "  x[0] = 1.0 / 0.0;\n}",
        "error",
    ),
}


@pytest.fixture(scope="module")
def errors():
    return compile_all(GOOD | {name: wgsl for name, (wgsl, _) in BAD.items()})


@pytest.mark.parametrize("name", GOOD)
def test_good_shader_compiles(errors, name):
    assert errors[name] is None


@pytest.mark.parametrize("name", BAD)
def test_bad_shader_is_refused_with_its_reason(errors, name):
    assert errors[name] is not None
    assert BAD[name][1] in errors[name].lower()


def test_without_pipelines_only_the_language_is_checked():
    names = ["workgroup over the limit", "barrier after an early return"]
    found = compile_all({name: BAD[name][0] for name in names}, pipelines=False)
    assert found[names[0]] is None
    assert "uniform" in found[names[1]]


def test_no_shaders_give_no_errors():
    assert compile_all({}) == {}


@pytest.mark.parametrize(
    ("wgsl", "names"),
    [
        ("@compute @workgroup_size(8, 8)\nfn main() {}", ["main"]),
        ("@compute\n@workgroup_size(N)\nfn a() {}\n", ["a"]),
        ("@workgroup_size(4) @compute fn b() {}", ["b"]),
        ("@compute @workgroup_size(max(1, 2), 1) fn c() {}", ["c"]),
        ("// @compute @workgroup_size(1) fn no() {}\nfn helper() {}", []),
        (
            "@compute @workgroup_size(1) fn d() {} @compute @workgroup_size(1) fn e(){}",
            ["d", "e"],
        ),
    ],
)
def test_entry_points_are_found(wgsl, names):
    assert entry_points(wgsl) == names
