"""Functions as folders for a browser: the files, and what Chromium makes of them."""

import json

import numpy as np
import pytest
from tests import browser
from tests.tint_compiler import compile_all

import portanet as pn
from portanet import nn, optim
from portanet.exported import web


def mlp():
    return nn.Sequential(
        nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 10)
    )


def batch(n=48):
    rng = np.random.default_rng(3)
    x = pn.tensor(rng.normal(size=(n, 64)).astype("float32"))
    return x, pn.tensor(rng.integers(0, 10, n).astype("int32"))


def training(model):
    optimizer = optim.AdamW(model.parameters(), lr=0.01)

    def step(x, y):
        loss = pn.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return step


def in_browser(test):
    """Not collected where there is no Chromium, which the header of the report says."""
    return test if browser.WANTED else None


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "page"

    def run(function, example, script):
        pn.export_web(function, example, folder)
        head = 'const { load, tensors } = await import("./model.js");\n'
        return browser.run(folder, tmp_path / "profile", head + script)

    return run


# In the browser -----------------------------------------------------------------------


@in_browser
def test_an_inference_gives_the_numbers_of_python(run):
    model, (x, _) = mlp().eval(), batch()
    with pn.no_grad():
        want = model(x).numpy()
    got = run(model, (x,), """
        const m = await load();
        const y = await m.run(await tensors("example.safetensors"));
        return { shape: y.shape, y: [...y] };
    """)  # fmt: skip
    assert got["shape"] == list(want.shape)
    np.testing.assert_allclose(np.reshape(got["y"], want.shape), want, atol=1e-5)


@in_browser
def test_five_training_steps_give_the_losses_and_states_of_python(run):
    model = mlp()
    step, example = training(model), batch()
    got = run(step, example, """
        const m = await load(), losses = [];
        const example = await tensors("example.safetensors");
        for (let i = 0; i < 5; i++) losses.push((await m.run(example))[0]);
        return { losses, weight: [...(await m.read("0.weight"))],
                 random: [...(await m.read("random.states.0"))] };
    """)  # fmt: skip
    want = [step(*example).item() for _ in range(5)]
    assert want[-1] < want[0] - 0.5
    np.testing.assert_allclose(got["losses"], want, atol=1e-5)
    weight = model.layers[0].weight.numpy()
    np.testing.assert_allclose(got["weight"], weight.ravel(), atol=1e-5)
    assert got["random"] == pn.random.default_generator.get_state()["cpu"]


@in_browser
def test_long_work_is_sent_in_parts(run, monkeypatch):
    monkeypatch.setattr(web, "START", 1e5)
    got = run(lambda x: x @ x @ x @ x, (pn.ones((64, 64)) / 64,), """
        const m = await load();
        const y = await m.run(await tensors("example.safetensors"));
        return { batches: m.batches.map((b) => b.length), y: y[0] };
    """)  # fmt: skip
    assert len(got["batches"]) > 1 and abs(got["y"] - 1 / 64) < 1e-6


@in_browser
def test_runs_that_are_not_awaited_go_one_after_the_other(run):
    count = pn.tensor(0.0)

    def step(x):
        count.assign(count + x)
        return count

    got = run(step, (pn.tensor(1.0),), """
        const m = await load();
        const made = await Promise.all([1, 2, 3].map((x) => m.run({ x: [x] })));
        return [...made.map((y) => y[0]), (await m.read("count"))[0]];
    """)  # fmt: skip
    assert got == [1, 3, 6, 6]


@in_browser
def test_a_fault_is_thrown_with_pythons_message_and_changes_no_state(run):
    table, seen = pn.ones((5, 2)), pn.tensor(0.0)

    def look(i):
        seen.assign(seen + 1)
        return pn.take(table, i, axis=0).sum()

    got = run(look, (pn.tensor([0, 1]),), """
        const m = await load(), said = [];
        for (const i of [[0, 7], [-6, 0], [4, -5]])
          try { said.push((await m.run({ i }))[0]); }
          catch (error) { said.push(`${error.name}: ${error.message}`); }
        return [...said, (await m.read("seen"))[0]];
    """)  # fmt: skip
    want = []
    for i in ([0, 7], [-6, 0]):
        with pytest.raises(IndexError) as error:
            look(pn.tensor(i))
        want.append(f"RangeError: {error.value}")
    assert got == [*want, 4.0, 1.0]


@in_browser
def test_results_keep_their_structure_and_dtypes(run):
    def looks(batch):
        x, mask = batch["x"], batch["mask"]
        return {
            "big": (x > 1, pn.argmax(x)),
            "kept": [pn.where(mask, x, 0), 3, None, "a"],
        }

    x = pn.tensor([[0.5, 2.0, -1.0]])
    example = ({"x": x, "mask": pn.tensor([[True, False, True]])},)
    got = run(looks, example, """
        const m = await load();
        const y = await m.run({ "batch.x": [0.5, 2, -1], "batch.mask": [1, 0, 1] });
        const [mask, at] = y.big;
        return [mask.constructor.name, [...mask], at.constructor.name, [...at],
                [...y.kept[0]], ...y.kept.slice(1)];
    """)  # fmt: skip
    assert got == [
        "Uint8Array",
        [0, 1, 0],
        "Int32Array",
        [1],
        [0.5, 0, -1],
        3,
        None,
        "a",
    ]


@in_browser
def test_wrong_inputs_are_named(run):
    got = run(lambda x, y: x + y, (pn.ones((2, 2)), pn.ones(2)), """
        const m = await load(), said = [], good = { x: new Float32Array(4), y: [1, 2] };
        const bad = [{ x: [1, 2, 3, 4] }, { ...good, z: [1] },
                     { ...good, y: [1, 2, 3] }, { ...good, x: new Float64Array(4) }];
        for (const inputs of bad)
          await m.run(inputs).catch((e) => said.push(e.message));
        await m.read("w").catch((e) => said.push(e.message));
        return [...said, [...(await m.run(good))]];
    """)  # fmt: skip
    assert got == [
        "run: y must be a Float32Array or a list of numbers",
        "run: there is no input z",
        "run: y has 3 elements, not [2]",
        "run: x must be a Float32Array or a list of numbers",
        "read: there is no state w",
        [1, 2, 1, 2],
    ]


@in_browser
def test_the_page_shows_the_result_and_the_time(run):
    got = run(lambda x: {"twice": x * 2}, (pn.tensor([1.0, 2.5]),), """
        const frame = document.createElement("iframe");
        frame.src = "index.html";
        document.documentElement.append(frame);
        const text = (id) =>
          frame.contentDocument?.getElementById(id)?.textContent ?? "";
        while (!text("time").includes(" ms,") && !text("time").includes("Error"))
          await new Promise((wake) => setTimeout(wake, 20));
        return [text("time"), text("result")];
    """)  # fmt: skip
    assert got[0].startswith("run 1: ") and got[0].endswith("1 dispatches")
    assert json.loads(got[1]) == {"twice": "[2]: 2, 5"}


@in_browser
def test_kernels_of_every_kind_and_more_than_one_step_run(run):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20_000, 3)).astype("float32")

    def several(x):
        rows = x.reshape((3, -1))
        sums = pn.sum(x, axis=0)
        gram = pn.matmul(pn.matrix_transpose(x), x)
        return sums, gram, pn.cumulative_sum(rows, axis=1)[:, -1], pn.sum(x)

    got = run(several, (pn.tensor(x),), """
        const m = await load();
        const y = await m.run(await tensors("example.safetensors"));
        return y.map((v) => [...v]);
    """)  # fmt: skip
    temporary = web.Page(web.record(several, (pn.tensor(x),))).temporary
    assert temporary >= 0, "no launch had more than one step"
    for g, w in zip(got, several(pn.tensor(x)), strict=True):
        w = w.numpy()
        np.testing.assert_allclose(np.reshape(g, w.shape), w, rtol=1e-4, atol=1e-2)


# Without one --------------------------------------------------------------------------


def test_the_folder_needs_nothing_from_elsewhere(tmp_path):
    pn.export_web(training(mlp()), batch(), tmp_path)
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {
        "index.html", "model.js", "program.json", "kernels",
        "weights.safetensors", "example.safetensors",
    }  # fmt: skip
    for name in ("index.html", "model.js"):
        assert "://" not in (tmp_path / name).read_text()
    program = json.loads((tmp_path / "program.json").read_text())
    used = {s["kernel"] for s in program["steps"]}
    assert used == {p.name for p in (tmp_path / "kernels").iterdir()}


def test_a_folder_is_written_over_and_keeps_no_old_kernel(tmp_path):
    pn.export_web(training(mlp()), batch(), tmp_path)
    pn.export_web(lambda x: x + 1, (pn.ones(3),), tmp_path)
    assert [p.name for p in (tmp_path / "kernels").iterdir()] == [
        "000-elementwise.wgsl"
    ]


def test_browsers_compile_every_kernel_within_webgpus_defaults():
    page = web.Page(web.record(training(mlp()), batch()))
    assert len(page.kernels) > 10
    errors = compile_all(page.kernels)
    assert not {name: e for name, e in errors.items() if e}
    for step in page.steps:
        assert len(step["kinds"]) - 1 <= web.BUFFERS and max(step["groups"]) <= 65535


def test_no_step_writes_a_buffer_that_it_reads():
    page = web.Page(web.record(training(mlp()), batch()))
    for step in page.steps:
        kinds = step["kinds"][1 : 1 + len(step["buffers"])]
        bound = list(zip(step["buffers"], kinds, strict=True))
        written = [b for b, kind in bound if kind == "write"]
        read = {b for b, kind in bound if kind == "read"}
        assert len(set(written)) == len(written) and not read & set(written), step


def test_what_webgpu_lacks_is_refused(tmp_path, monkeypatch):
    wide = pn.ones(3, dtype="float64")
    with pytest.raises(
        TypeError, match="export_web: x is float64, which WebGPU does not"
    ):
        pn.export_web(lambda x: x + 1, (wide,), tmp_path)
    with pytest.raises(TypeError, match="a result of astype is int64"):
        pn.export_web(lambda x: x.astype(pn.int64), (pn.ones(3),), tmp_path)
    monkeypatch.setattr(web, "LARGEST", 1000)
    with pytest.raises(ValueError, match="x takes 1004 bytes, more than the 1000"):
        pn.export_web(lambda x: x + 1, (pn.ones(251),), tmp_path)


def test_work_on_constants_is_left_to_the_page():
    """The first states of a recurrent layer are constants, which nothing runs here."""
    layer, x = nn.LSTM(4, 5, num_layers=2, bidirectional=True), pn.ones((3, 2, 4))
    page = web.Page(web.record(lambda x: layer(x)[0].detach(), (x,)))
    assert sum("recurrent" in s["kernel"] for s in page.steps) == 4 * (1 + 3)
    errors = compile_all(page.kernels)
    assert not {name: e for name, e in errors.items() if e}
