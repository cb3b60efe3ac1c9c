"""A classifier of handwritten digits, trained with portanet: the API from end to end.

Figure to reach: 97 % of the held-out digits after 30 epochs.

    portanet demo digits --device wgpu

The data are scikit-learn's 1797 images of 8 x 8 pixels; every fifth is held out. `portanet
demo` alone trains the same on every device of the machine and compares them.
"""

import argparse
import sys
import time

import numpy as np
import portanet as pn
from portanet import nn, optim
from portanet.data import DataLoader, TensorDataset
from rich.progress import track
from sklearn.datasets import load_digits

EPOCHS = 30
FIGURE = 0.97  # of the held-out digits, after so many epochs


def load_data():
    """Images as rows of 64 values from 0 to 1, and labels: for training, for the test."""
    digits = load_digits()
    images = (digits.data / 16).astype(np.float32)
    labels = digits.target.astype(np.int32)
    held_out = np.arange(len(images)) % 5 == 0
    return (images[~held_out], labels[~held_out]), (images[held_out], labels[held_out])


def make_model(device):
    """An MLP: 64 pixels, two hidden layers, 10 scores."""
    model = nn.Sequential(
        nn.Linear(64, 256),
        nn.ReLU(),
        nn.Linear(256, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )
    return model.to(device)


def accuracy(model, images, labels):
    """The part of the images whose highest score is that of their label."""
    with pn.no_grad():
        return (model(images).argmax(axis=1) == labels).to(pn.float32).mean().item()


def show(model, image):
    """Print an image in characters, and what the model reads."""
    for row in image.numpy().reshape(8, 8):
        print("".join(2 * " .:-=+*#%@"[round(9 * value)] for value in row.tolist()))
    with pn.no_grad():
        print(f"sample: this is a {model(image).argmax().item()}")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--device", default=None, help="cpu, wgpu, ... (default: the best)"
    )
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", metavar="FILE", help="where to keep the weights")
    args = parser.parse_args()
    device = args.device or pn.default_device()

    # The same seed gives the same weights and the same batches on every device.
    pn.manual_seed(args.seed)
    train, test = load_data()
    images, labels = (pn.tensor(a, device=device) for a in train)
    test_images, test_labels = (pn.tensor(a, device=device) for a in test)
    loader = DataLoader(TensorDataset(images, labels), batch_size=32, shuffle=True)

    model = make_model(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.Adam(model.parameters(), lr=2e-3)

    right = 0.0
    for epoch in track(range(1, args.epochs + 1), "training", transient=True):
        start, losses = time.perf_counter(), []
        for x, y in loader:
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
            # Kept on the device: reading it here would wait for the step to finish.
            losses.append(loss.detach())
        mean = pn.stack(losses).mean().item()
        took = time.perf_counter() - start
        right = accuracy(model, test_images, test_labels)
        print(f"epoch {epoch:2}  loss {mean:.4f}  test {right:.2%}  {took:.3f} s")

    if args.save:
        pn.save(model.state_dict(), args.save)
        print(f"saved: {args.save}; read a digit: portanet classify {args.save}")

    show(model, test_images[0])
    enough = args.epochs >= EPOCHS
    asked = f"asked: >= {FIGURE:.0%}" if enough else f"asked after {EPOCHS} epochs"
    print(f"test accuracy: {right:.2%} ({asked})")
    return 1 if enough and right < FIGURE else 0


if __name__ == "__main__":
    sys.exit(main())
