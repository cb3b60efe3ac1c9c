"""Programs made at random do compiled what they do eagerly, to the last bit.

Values are small whole numbers, and operators keep them so: no rounding, so that there is no
tolerance to hide behind, and comparisons, indices and sorts may depend on anything. A program
is a function of its seed. To run more, or one that failed:

    python -m tests.test_compile_random cpu 0 5000
    python -m tests.test_compile_random wgpu 1234
"""

import sys

import numpy as np
import pytest

import portanet as pn
from portanet import optim

MOST = 4000  # elements of a value, but for programs that are made large
BOUND = 24.0
FLOATS = ("float32", "float16", "float64")
WHOLE = ("int32", "uint8", "int64", "uint32")


class Program:
    """A function of tensors that assigns states: what it does is drawn anew, alike, each
    time that it is called."""

    def __init__(self, seed, device, states, leaves, rule, generator):
        self.seed, self.device = seed, device
        self.states, self.leaves, self.rule = states, leaves, rule
        self.generator = generator
        self.writes = False  # whether it may assign to its first argument
        self.dtypes = [d for d in (*FLOATS, *WHOLE) if has(device, d)]

    def __call__(self, *xs):
        rng = self.rng = np.random.default_rng(self.seed)
        self.most = max(MOST, *(4 * x.size for x in xs))
        pool = [*xs, *self.states]
        if self.leaves and rng.integers(3):
            with pn.no_grad():
                pool = self.extended(pool, rng.integers(0, 6))
            pool.append(self.learn(pool))
        with pn.no_grad():
            pool = self.extended(pool, rng.integers(2, 24))
            for s in self.states:
                self.change(s, pool)
            if rng.integers(4) == 0 and self.writes:
                pool[0] += as_type(self.chosen(pool, pool[0].shape), pool[0])
                pool.append(pool[0])
            if rng.integers(2):
                pool = self.extended([*pool, *self.states], rng.integers(1, 4))
        wanted = [*rng.integers(0, len(pool), rng.integers(1, 5)), -1]
        return [pool[i].detach() for i in wanted]

    def extended(self, pool, count):
        """The values and so many made of them."""
        for _ in range(count):
            name = STEPS[self.rng.integers(len(STEPS))]
            late = self.rng.integers(2) and len(pool) > 3
            x = pool[self.rng.integers(len(pool) - 3 if late else 0, len(pool))]
            made = getattr(self, name)(x, pool)
            for y in made if isinstance(made, list) else [made]:
                if y.size <= self.most:
                    pool = [*pool, bounded(y)]
        return pool

    # ---- drawing

    def below(self, n):
        return int(self.rng.integers(n))

    def axis(self, x):
        return self.below(2 * x.ndim) - x.ndim

    def axes(self, x):
        kinds = [None, self.axis(x)] if x.ndim else [None]
        if x.ndim > 1:
            kinds.append(tuple(sorted(self.rng.permutation(x.ndim)[:2].tolist())))
        return kinds[self.below(len(kinds))]

    def chosen(self, pool, shape):
        """A value that broadcasts to a shape."""
        fit = [p for p in pool if broadcasts(p.shape, shape)]
        y = fit[self.below(len(fit))] if fit else None
        return pn.ones((), device=self.device) if y is None else y

    def indices(self, n, shape):
        values = self.rng.integers(-n, n, shape) if n else np.zeros(shape)
        return pn.tensor(values.astype(np.int32), device=self.device)

    # ---- steps: of a value, with the others

    def unary(self, x, pool):
        return UNARY[self.below(len(UNARY))](x)

    def binary(self, x, pool):
        return BINARY[self.below(len(BINARY))](x, self.chosen(pool, x.shape))

    def number(self, x, pool):
        n = (0, 1, -1, 2, 3, 0.5, 7)[self.below(7)]
        if not x.dtype.is_float:
            n = int(abs(n))
        if x.dtype is pn.bool:
            return pn.logical_xor(x, bool(n))
        return (x + n, x * n, n - x, pn.maximum(x, n), pn.minimum(n, x))[self.below(5)]

    def wrap(self, x, pool):
        """Whole numbers that overflow, and their highest bits."""
        whole = [p for p in pool if p.dtype.is_integer]
        if not whole:
            return x
        x = whole[self.below(len(whole))]
        bits = 8 * x.dtype.itemsize
        return (x + 3) * (201 if bits == 8 else 1000003) >> bits - 4

    def condition(self, x, pool):
        other = self.chosen(pool, x.shape)
        third = as_type(self.chosen(pool, x.shape), x)
        return pn.where(as_float(x) > as_float(other), x, third)

    def cast(self, x, pool):
        to = [*self.dtypes, "bool"][self.below(len(self.dtypes) + 1)]
        return as_type(x, pn.zeros((), dtype=to)) if to in WHOLE else x.astype(to)

    def view(self, x, pool):
        if not x.ndim:
            return x.reshape(1)
        kind = self.below(6)
        if kind == 0:
            return x.permute(*self.rng.permutation(x.ndim).tolist())
        if kind == 1:
            return x.reshape(factors(self.rng, x.size))
        if kind == 2:
            return pn.flip(x, axis=self.axis(x))
        if kind == 3:
            return pn.broadcast_to(x, (self.below(3) + 1, *x.shape))
        if kind == 4:
            return pn.expand_dims(x, axis=self.axis(x))
        return x.mT if x.ndim > 1 else x[None]

    def key(self, x):
        key = []
        for n in x.shape[: self.below(x.ndim) + 1]:
            start, stop = sorted(self.rng.integers(0, n + 1, 2).tolist())
            step = (1, 1, 2, 3)[self.below(4)]
            kinds = [slice(start, stop, step), slice(None, None, -step), slice(None)]
            kinds += [self.below(2 * n) - n] if n and self.below(2) else []
            key.append(kinds[self.below(len(kinds))])
        return tuple(key)

    def part(self, x, pool):
        return x[self.key(x)] if x.ndim else x

    def put(self, x, pool):
        """A copy with a region assigned."""
        if not x.ndim:
            return x
        y = (x + 0) if self.below(2) and x.dtype is not pn.bool else zeros_like(x)
        key = self.key(x)
        y[key] = self.chosen([as_type(p, x) for p in pool], y[key].shape)
        return y

    def regions(self, x, pool):
        """The sum of arrays that are zero but for a region, maybe of several dtypes."""
        if not x.ndim or len(x) < 2:
            return x
        cuts = sorted({0, len(x), *self.rng.integers(1, len(x), 2).tolist()})
        overlap = self.below(3) == 0
        total = None
        for a, b in zip(cuts, cuts[1:], strict=False):
            to = x.astype("float32") if self.below(3) == 0 else as_float(x)
            made = zeros_like(to)
            made[a : min(b + overlap, len(x))] = to[a : min(b + overlap, len(x))]
            total = made if total is None else add(total, made)
        return total

    def reduce(self, x, pool):
        axes, keep = self.axes(x), bool(self.below(2))
        name = ("sum", "max", "min", "any", "all", "count_nonzero")[self.below(6)]
        if name in ("max", "min") and (not x.size or x.dtype is pn.bool):
            name = "any"
        if name == "sum" and x.dtype is pn.bool:
            x = x.astype("int32")
        return getattr(pn, name)(x, axis=axes, keepdims=keep)

    def product(self, x, pool):
        x = as_float(x)
        fit = [as_float(p) for p in pool if p.ndim and x.ndim]
        fit = [p for p in fit if p.ndim > 1 and x.shape[-1] == p.shape[-2]]
        fit = [p for p in fit if p.ndim == 2 or x.ndim == 2]
        fit += [x.mT] if x.ndim > 1 else []
        if not fit:
            return x
        y = fit[self.below(len(fit))]
        return x @ y if x.size * y.shape[-1] <= 64 * MOST else x

    def join(self, x, pool):
        same = [p for p in pool if p.shape == x.shape and p.dtype is x.dtype]
        xs = [x, *(same[self.below(len(same))] for _ in range(self.below(3) + 1))]
        if not x.ndim or self.below(2):
            return pn.stack(xs, axis=self.below(x.ndim + 1))
        return pn.concat(xs, axis=self.axis(x))

    def cut(self, x, pool):
        if not x.ndim:
            return x
        axis = self.axis(x)
        if 0 < x.shape[axis] < 5 and self.below(2):
            return list(pn.unstack(x, axis=axis))
        return list(pn.chunk(x, 2, axis=axis)) if x.shape[axis] > 1 else x

    def gather(self, x, pool):
        if not x.ndim or not x.size:
            return x
        axis = self.axis(x)
        n = x.shape[axis]
        if self.below(2):
            return pn.take(x, self.indices(n, self.below(6) + 1), axis=axis)
        return pn.take_along_axis(x, self.indices(n, x.shape), axis=axis)

    def scatter(self, x, pool):
        if not x.ndim or not x.size or x.dtype is pn.bool:
            return x
        axis = self.axis(x)
        if self.below(2):
            return pn.scatter_add(x, self.indices(x.shape[axis], x.shape), x, axis=axis)
        rows = self.indices(x.shape[axis], x.shape[axis])
        return pn.index_add(x, rows, x, axis=axis)

    def computed_index(self, x, pool):
        """Places that the program itself computes."""
        if not x.ndim or not x.size or x.dtype is pn.bool:
            return x
        kind, axis = self.below(4), self.axis(x)
        if kind == 0:
            return pn.argsort(x, axis=axis)
        if kind == 1:
            return pn.sort(x, axis=axis)
        if kind == 2:
            return pn.argmax(x, axis=axis)
        return pn.take_along_axis(x, pn.argsort(x, axis=axis), axis=axis)

    def scan(self, x, pool):
        if not x.ndim or x.dtype is pn.bool or not x.size:
            return x
        kind = self.below(2)
        axis = self.axis(x)
        return pn.cumulative_sum(x, axis=axis) if kind else pn.cummax(x, axis=axis)[0]

    def move(self, x, pool):
        if not x.ndim:
            return x
        kind = self.below(5)
        if kind == 0:
            return pn.roll(x, self.below(7) - 3, axis=self.axis(x))
        if kind == 1:
            width = [(self.below(3), self.below(3)) for _ in x.shape]
            return pn.pad(x, width, bool(self.below(2)) or 0)
        if kind == 2:
            return pn.tile(x, [self.below(3) + 1])
        if kind == 3:
            return pn.repeat(x, 2, axis=self.axis(x))
        return pn.tril(x, k=self.below(3) - 1) if x.ndim > 1 else x

    def fresh(self, x, pool):
        kind = self.below(4)
        if kind == 0 and x.ndim:
            return pn.arange(x.shape[-1], device=self.device)
        if kind == 1:
            return pn.full(x.shape, self.below(5), dtype=x.dtype, device=self.device)
        if kind == 2:
            draw = {"device": self.device, "generator": self.generator}
            return pn.randint(-3, 9, x.shape, **draw).astype("float32")
        return pn.one_hot(self.indices(3, x.shape).astype("int32") % 3, 3)

    # ---- states

    def change(self, s, pool):
        kind = self.below(5)
        y = self.chosen([as_type(p, s) for p in pool], s.shape)
        if kind == 0:
            s.assign(bounded(as_type(pn.broadcast_to(y, s.shape) + 0, s)))
        elif kind == 1:
            s += as_type(y, s)
            s.assign(bounded(s))
        elif kind == 2 and s.ndim and len(s):
            s[self.below(len(s))] = 3
        elif kind == 3:
            other = [t for t in self.states if t.shape == s.shape]
            a, b = s.detach(), other[self.below(len(other))]
            s.assign(b)
            b.assign(a)

    def learn(self, pool):
        """A loss of the leaves, its gradients, and maybe a step of the optimizer."""
        rng = self.rng
        if rng.integers(2):
            self.rule.zero_grad()
        loss = pn.zeros((), device=self.device)
        for p in self.leaves:
            if rng.integers(5) == 0:
                continue  # no gradient this time
            y = p
            for _ in range(rng.integers(1, 5)):
                others = [as_float(q.detach()) for q in pool] + self.leaves
                y = DIFFERENTIABLE[self.below(len(DIFFERENTIABLE))](self, y, others)
                y = pn.clip(y, -BOUND, BOUND)
            loss = loss + pn.clip(y, -9, 9).sum()
        if loss.requires_grad:
            loss.backward()
        with pn.no_grad():
            for p in self.leaves:
                if p.grad is not None and rng.integers(2):
                    p.grad = pn.clip(p.grad, -3, 3)
            if rng.integers(3):
                self.rule.step()
                for p in self.leaves:
                    p.assign(bounded(pn.round(p)))
        return loss.detach()


STEPS = [
    "unary", "unary", "unary", "binary", "binary", "binary", "number", "wrap", "condition",
    "cast", "view", "view", "view", "part", "part", "put", "regions", "reduce",
    "reduce", "product", "join", "cut", "gather", "scatter", "computed_index", "scan",
    "move", "fresh",
]  # fmt: skip


def is_plain(x):
    return x.dtype is not pn.bool


UNARY = [
    lambda x: pn.abs(x) if is_plain(x) else ~x,
    lambda x: -x if x.dtype.is_float else x,
    lambda x: pn.relu(as_float(x)),
    lambda x: pn.sign(x) if x.dtype.is_float else x,
    lambda x: x * x if is_plain(x) else x,
    lambda x: x + x if is_plain(x) else x,
    lambda x: pn.floor(as_float(x) * 0.5),
    lambda x: pn.remainder(as_float(x), 5),
    lambda x: as_float(x) > 0,
    lambda x: pn.isnan(as_float(x)),
    lambda x: pn.clip(x, 0, 5) if is_plain(x) else x,
]
DIFFERENTIABLE = [
    lambda self, y, others: y * self.chosen(others, y.shape),
    lambda self, y, others: y + self.chosen(others, y.shape),
    lambda self, y, others: pn.maximum(y, self.chosen(others, y.shape)),
    lambda self, y, others: pn.relu(y),
    lambda self, y, others: y.mT if y.ndim > 1 else y,
    lambda self, y, others: y[::-1] if y.ndim else y,
    lambda self, y, others: (
        y[: len(y) // 2] * y[len(y) // 2 :][: len(y) // 2]
        if y.ndim and len(y) > 1
        else y
    ),
    lambda self, y, others: y.sum(axis=-1) if y.ndim else y,
    lambda self, y, others: y.sum(axis=0, keepdims=True) if y.ndim else y,
    lambda self, y, others: (
        pn.take(y, self.indices(len(y), 4), axis=0) if y.ndim and len(y) else y
    ),
    lambda self, y, others: pn.concat([y, y * 2], axis=0) if y.ndim else y,
    lambda self, y, others: y @ y.mT if y.ndim > 1 else y,
    lambda self, y, others: self.product(y, others),
    lambda self, y, others: y.reshape(-1),
    lambda self, y, others: y.astype("float16").astype("float32"),
    lambda self, y, others: pn.where(y > 1, y, y * 2),
]


def has(device, name):
    return getattr(pn, name) in pn.device(device).device.backend.dtypes


def as_float(x):
    return x if x.dtype.is_float else x.astype("float32")


def as_type(x, like):
    if not like.dtype.is_float and x.dtype.is_float:
        x = pn.abs(pn.nan_to_num(x))
    return x.astype(like.dtype)


def zeros_like(x):
    return pn.zeros(x.shape, dtype=x.dtype, device=x.device)


def add(a, b):
    if a.dtype is pn.bool and b.dtype is pn.bool:
        return a | b
    return as_float(a) + as_float(b) if pn.bool in (a.dtype, b.dtype) else a + b


def mixed(function):
    """A function of floats, or of whole numbers of one type."""

    def call(x, y):
        if x.dtype is y.dtype and is_plain(x):
            return function(x, y)
        return function(as_float(x), as_float(y))

    return call


BINARY = [
    *map(mixed, (pn.add, pn.multiply, pn.maximum, pn.minimum)),
    lambda x, y: as_float(x) - as_float(y),
    lambda x, y: as_float(x) <= as_float(y),
    lambda x, y: pn.where(as_float(y) > 0, x, x),
]


def bounded(x):
    """Whole numbers that stay exact in every dtype."""
    if x.dtype is pn.bool:
        return x
    if x.dtype.is_float:
        return pn.clip(x, -BOUND, BOUND)
    return pn.clip(x, 0, int(BOUND))


def broadcasts(shape, to):
    pairs = zip(shape[::-1], to[::-1], strict=False)
    return len(shape) <= len(to) and all(m in (1, n) for m, n in pairs)


def factors(rng, n):
    """Sizes whose product is n."""
    sizes = []
    while n > 1 and rng.integers(2):
        known = [k for k in (2, 3, 4, 5, 6) if n % k == 0]
        if not known:
            break
        sizes.append(int(rng.choice(known)))
        n //= sizes[-1]
    return (*sizes, n)


# One program, both ways ---------------------------------------------------------------------

SHAPES = [(4, 6), (6,), (2, 3, 4), (), (1, 6), (0, 3), (5, 1), (12,), (3, 2, 2, 2)]
# Above a MiB temporaries lie over others.
LARGE = [(520, 512), (520, 512), (512,), (520, 1)]
RULES = [
    lambda ps: optim.SGD(ps, lr=0.5),
    lambda ps: optim.SGD(ps, lr=1.0, momentum=0.5),
    lambda ps: optim.SGD(ps, lr=0.5, weight_decay=0.5),
]


def side(seed, device, shapes):
    """States, leaves, the optimizer and the program, with their start values."""
    rng = np.random.default_rng(seed)

    def made(shape, dtype="float32"):
        return pn.tensor(rng.integers(-4, 5, shape).astype(np.float32), dtype, device)

    states = [made(shapes[rng.integers(len(shapes))]) for _ in range(rng.integers(3))]
    states += [made(s.shape) for s in states[:1]]
    leaves = [made((6, 5)), made((6,)), made(())][: rng.integers(4)]
    leaves = [p.requires_grad_() for p in leaves]
    rule = RULES[rng.integers(len(RULES))](leaves) if leaves else None
    generator = pn.Generator(seed)
    program = Program(seed, device, states, leaves, rule, generator)
    return program, states, leaves


def argument(rng, shape, device):
    """A tensor of a shape, maybe seen through another layout, of some dtype."""
    kind = rng.integers(8)
    wide = {1: shape[::-1], 2: (*shape[:-1], 2 * shape[-1]) if shape else shape}
    values = rng.integers(-4, 5, wide.get(int(kind), shape)).astype(np.float32)
    if rng.integers(12) == 0 and values.size:
        values.reshape(-1)[0] = rng.choice([np.nan, np.inf, -np.inf])
    x = pn.tensor(values, device=device)
    if kind == 1 and len(shape) > 1:
        x = x.permute(*range(len(shape))[::-1])
    elif kind == 2 and shape:
        x = x[..., ::-2]
    elif kind == 3:
        x = pn.broadcast_to(x.reshape(-1)[:1].reshape(()), shape) if x.size else x
    elif kind == 4:
        x = pn.abs(pn.nan_to_num(x)).astype("int32")
    elif kind == 5:
        x = x > 0
    elif kind == 6:
        x = x.astype("float16") if has(device, "float16") else x
    elif kind == 7:
        x = as_type(x, pn.zeros((), dtype="uint8")) if has(device, "uint8") else x
    return x


def arguments(rng, device, count, shapes):
    xs = []
    for k in range(count):
        shape = shapes[rng.integers(len(shapes))]
        again = k and rng.integers(8) == 0
        xs.append(xs[-1] if again else argument(rng, shape, device))
    return xs


def drawn(start, call):
    """What draws the arguments of a call: the last has other layouts than those before."""
    return np.random.default_rng(start + (call == 3))


def exchange(seed, sides):
    """Give states other values from outside, and sometimes another layout."""
    for states in sides:
        rng = np.random.default_rng(seed)
        for s in states:
            values = rng.integers(-4, 5, s.shape[::-1]).astype(np.float32)
            turned = pn.tensor(values, device=s.device).permute(*range(s.ndim)[::-1])
            plain = pn.tensor(values.T.copy(), device=s.device)
            if rng.integers(2):
                s.assign(turned if s.ndim > 1 and rng.integers(2) else plain)


def numbers(tensors):
    return [None if t is None else t.numpy() for t in tensors]


def everything(results, states, leaves):
    grads = [p.grad for p in leaves]
    return [*results, *states, *leaves, *grads]


def check(seed, device):
    """RuntimeError or AssertionError where the compiled program is another one."""
    rng = np.random.default_rng(seed)
    shapes = SHAPES if rng.integers(10) else LARGE
    options = [{}, {}, {}, {}, {"memory_limit": 1 << 30}, {"verify": True}]
    options.append({"memory_limit": 30_000 if shapes is SHAPES else 3 << 20})
    sides = [side(seed, device, shapes) for _ in "ab"]
    (plain, *eager), (other, *compiled) = sides
    run = pn.compile(other, **options[rng.integers(len(options))])
    count, kept = int(rng.integers(1, 4)), []
    draw = rng.integers(1 << 30)
    known = [arguments(drawn(draw, call), device, count, shapes) for call in (0, 3)]
    writes = all(len(set(map(id, xs))) == count for xs in known)
    plain.writes = other.writes = writes
    for call in range(4):
        both = [arguments(drawn(draw, call), device, count, shapes) for _ in "ab"]
        for xs in both:
            values = np.random.default_rng(call)
            for x in {id(x): x for x in xs}.values():
                if x.dtype is pn.float32 and x.value.layout.contiguous and 0 < call < 3:
                    new = values.integers(-4, 5, x.shape).astype(np.float32)
                    x.assign(pn.tensor(new, device=device))
        if call == 2:
            exchange(seed, [eager[0], compiled[0]])
        want = plain(*both[0])
        try:
            got = run(*both[1])
        except pn.OutOfMemoryError:
            return
        ours = everything([*got, *both[1]], *compiled)
        theirs = everything([*want, *both[0]], *eager)
        for i, (g, w) in enumerate(zip(numbers(ours), numbers(theirs), strict=True)):
            if (g is None) != (w is None):
                raise AssertionError(f"call {call}, value {i}: {g} in place of {w}")
            if w is None:
                continue
            assert g.dtype == w.dtype, (call, i, g.dtype, w.dtype)
            np.testing.assert_array_equal(g, w, f"call {call}, value {i}")
        kept += [(g, g.numpy()) for g in got]
        kept += [(s.detach(), s.numpy()) for s in compiled[0] if call % 2]
    for tensor, value in kept:
        np.testing.assert_array_equal(tensor.numpy(), value, "a result has changed")


@pytest.mark.parametrize("seed", range(24))
def test_a_random_program_does_what_it_does_eagerly(seed, device):
    check(seed, device)


def report(check, first, last=None):
    """Check the seeds of a range, and say which programs differ; one raises its error."""
    seeds = range(int(first), int(last or int(first) + 1))
    failed = 0
    for seed in seeds:
        try:
            check(seed)
        except Exception as error:
            if len(seeds) == 1:
                raise
            failed += 1
            text = " ".join(str(error).split())[:200]
            print(f"seed {seed}: {type(error).__name__} {text}", flush=True)
    print(f"{len(seeds)} programs, {failed} differ", flush=True)


def main(device, first, last=None):
    report(lambda seed: check(seed, device), first, last)


if __name__ == "__main__":
    main(*sys.argv[1:])
