"""Train on one device, export to a file, and run the file on every device there is.

Figure to reach: scores within 1e-4 of the model's on each device, and 96 % of the held-out
digits read by each.

A .pnx file holds the traced function and its weights; running it needs no Python of the
model. `pn.export_web` writes the same as a page for browsers.

    portanet demo deploy
"""

import sys
import time

import demo_kit as kit
import numpy as np
import portanet as pn
from portanet import nn, optim
from portanet.data import DataLoader, TensorDataset


def trained(args, x, y):
    width, steps = kit.pick(args, 128, 64, 8), kit.pick(args, 600, 400)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * (x.shape[2] // 2) ** 2, width),
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
    kit.curve(args, "deploy", losses)
    return model.eval()


def main():
    args = kit.arguments(__doc__, data=["digits", "mnist", "fashion"])
    (x, y), (test_x, test_y) = (kit.tensors(d) for d in kit.images(args))
    model = trained(args, x, y)

    path = args.output / "deploy.pnx"
    with pn.no_grad():
        scores = model(test_x).numpy()
        pn.export(model, (test_x,), path)
    pn.export_web(model, (test_x[:1],), args.output / "deploy-web")
    print(f"exported: {path}, {path.stat().st_size:,} bytes; {args.output}/deploy-web")

    claims = []
    pixels, labels = test_x.numpy(), test_y.numpy()
    for device in pn.devices():
        run = pn.load_exported(path, device=device)
        run(pixels).numpy()  # the first call makes the plan
        start = time.perf_counter()
        found = run(pixels).numpy()
        took = (time.perf_counter() - start) * 1e3
        right = float((found.argmax(axis=1) == labels).mean())
        gap = float(np.abs(found - scores).max())
        print(f"{device}: {len(pixels)} images in {took:.2f} ms")
        claims.append((f"{device}: test accuracy", right, ">=", 0.96))
        claims.append((f"{device}: largest difference of a score", gap, "<=", 1e-4))
    return kit.verdict(args, *claims)


if __name__ == "__main__":
    sys.exit(main())
