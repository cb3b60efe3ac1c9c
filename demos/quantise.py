"""A trained model with weights of 8 bits: a quarter of the memory, the same answers.

Figure to reach: 27 % of the bytes or less, and at most 0.6 % of the held-out digits lost.

Each row of a weight is scaled to integers from -127 to 127; four of them share an int32, and
shifts take them apart where they are used, so that it runs on devices without int8.

    portanet demo quantise --device wgpu
"""

import sys

import demo_kit as kit
import numpy as np
import portanet as pn
from portanet import nn, optim
from portanet.data import DataLoader, TensorDataset


class QuantisedLinear(nn.Module):
    """y = x W' + b, where W is 8-bit integers times a scale for each row."""

    def __init__(self, linear):
        weight = linear.weight.numpy()  # (outputs, inputs); inputs a multiple of 4
        scale = np.abs(weight).max(axis=1, keepdims=True) / 127
        integers = np.rint(weight / scale).astype(np.int8)
        self.register_buffer("packed", pn.tensor(integers.view("<i4").astype(np.int32)))
        self.register_buffer("scale", pn.tensor(scale.astype(np.float32)))
        self.register_buffer("bias", linear.bias)

    def forward(self, x):
        # Byte k is moved to the top and back, which repeats its sign.
        parts = [
            pn.bitwise_right_shift(pn.bitwise_left_shift(self.packed, 24 - 8 * k), 24)
            for k in range(4)
        ]
        integers = pn.stack(parts, axis=2).reshape(self.packed.shape[0], -1)
        return x @ (integers.astype(pn.float32) * self.scale).T + self.bias


def nbytes(model):
    return sum(value.nbytes for value in model.state_dict().values())


def main():
    args = kit.arguments(__doc__, data=["digits", "mnist", "fashion"])
    (x, y), test = (kit.tensors(d) for d in kit.images(args))
    steps, width = kit.pick(args, 800, 400), kit.pick(args, 256, 128, 8)
    model = nn.Sequential(
        nn.Flatten(),
        nn.Linear(x[0].size, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, 10),
    )
    optimizer = optim.Adam(model.parameters(), lr=2e-3)
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
    kit.curve(args, "quantise", losses)

    small = nn.Sequential(
        *[QuantisedLinear(m) if isinstance(m, nn.Linear) else m for m in model]
    )
    before, after = (kit.accuracy(m, *test) for m in (model, small))
    print(f"float32: {nbytes(model):,} bytes, {before:.2%}")
    print(f"8 bits:  {nbytes(small):,} bytes, {after:.2%}")
    return kit.verdict(
        args,
        ("test accuracy before", before, ">=", 0.96),
        ("accuracy lost", before - after, "<=", 0.006),
        ("part of the bytes", nbytes(small) / nbytes(model), "<=", 0.27),
    )


if __name__ == "__main__":
    sys.exit(main())
