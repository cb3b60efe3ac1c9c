"""An implicit layer: its output is where z = tanh(W z + U x + b) comes to rest.

Figure to reach: 95 % of the held-out digits; the implicit gradient equals that through 200
steps of the iteration within 0.1 %, though backward keeps one step instead of 200.

A deep equilibrium model (Bai, Kolter, Koltun, NeurIPS 2019). At the fixed point the gradient
u of z solves u = g + J' u, again by iteration. Rows of W have sums of at most 0.8, so both
iterations converge for any weights.

    portanet demo equilibrium --device cpu
"""

import sys

import demo_kit as kit
import numpy as np
import portanet as pn
from portanet import nn, optim
from portanet.data import DataLoader, TensorDataset

LIMIT = 0.8  # of the sums of |W| in a row: how much closer each step comes at least
STEPS = 40  # LIMIT ** 40 is 1.3e-4


def iterate(f, z, steps=STEPS):
    for _ in range(steps):
        z = f(z)
    return z


class Equilibrium(nn.Module):
    """x (n, inputs) -> the z (n, width) with z = tanh(W z + U x + b)."""

    def __init__(self, inputs, width):
        self.inject = nn.Linear(inputs, width)
        self.weight = nn.Parameter(pn.randn(width, width) * 0.5 / width)

    def step(self, z, injected):
        sums = pn.abs(self.weight).sum(axis=1, keepdims=True)
        w = self.weight * (LIMIT / pn.maximum(sums, LIMIT))
        return pn.tanh(z @ w.T + injected)

    def start(self, injected):
        return pn.zeros(injected.shape)

    def forward(self, x):
        injected = self.inject(x)
        with pn.no_grad():
            z = iterate(lambda z: self.step(z, injected), self.start(injected))
        fixed, held = z.detach(), injected.detach()

        def implicit(g, y, x):
            """The u with u = g + J' u, where J' u is the gradient of (f(z), u)."""
            push = pn.grad(lambda z, u: (self.step(z, held) * u).sum())
            return iterate(lambda u: g + push(fixed, u), g)

        # One recorded step at the fixed point carries the gradient to the weights.
        through = pn.custom_function(lambda y: y * 1, implicit)
        return through(self.step(fixed, injected))

    def unrolled(self, x, steps):
        """The same by recording every step: what backward then keeps grows with them."""
        injected = self.inject(x)
        return iterate(lambda z: self.step(z, injected), self.start(injected), steps)


def gradient_gap(layer, x, steps=200):
    """How far the two gradients of the weights are apart, relative to their size."""
    found = []
    for f in (layer, lambda x: layer.unrolled(x, steps)):
        layer.zero_grad()
        f(x).square().sum().backward()
        found.append([p.grad.numpy() for p in layer.parameters()])
    pairs = zip(*found, strict=True)
    return max(np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in pairs)


def main():
    args = kit.arguments(__doc__, data=["digits", "mnist", "fashion"])
    (x, y), (test_x, test_y) = (kit.tensors(d) for d in kit.images(args))
    x, test_x = (v.reshape(len(v), -1) for v in (x, test_x))
    steps, width = kit.pick(args, 800, 300), kit.pick(args, 96, 48, 8)
    layer = Equilibrium(x.shape[1], width)
    model = nn.Sequential(layer, nn.Linear(width, 10))
    optimizer = optim.Adam(model.parameters(), lr=3e-3)
    loader = DataLoader(TensorDataset(x, y), 64, shuffle=True, drop_last=True)

    @pn.compile
    def step(images, labels):
        optimizer.zero_grad()
        loss = pn.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    losses = []
    for images, labels in kit.batches(loader, steps, lambda: kit.last(losses)):
        losses.append(step(images, labels))
    kit.curve(args, "equilibrium", losses)

    with pn.no_grad():
        z = layer(test_x)
        moved = (layer.step(z, layer.inject(test_x)) - z).square().sum().sqrt()
        rest = (moved / z.square().sum().sqrt()).item()
    gap = gradient_gap(layer, test_x[:32], kit.pick(args, 200, 100, 60))
    return kit.verdict(
        args,
        ("test accuracy", kit.accuracy(model, test_x, test_y), ">=", 0.95),
        ("how far one more step moves z, relatively", rest, "<=", 1e-3),
        ("gap of the implicit to the unrolled gradient", gap, "<=", 1e-3),
    )


if __name__ == "__main__":
    sys.exit(main())
