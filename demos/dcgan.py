"""A convolutional GAN that draws digits, judged by a classifier that it never saw.

Figure to reach: a classifier of real digits is 85 % sure of its answer on the samples (on
held-out digits, 97 %), and each digit is at least 2 % of them: none was forgotten.

Transposed convolutions enlarge noise to 16 x 16 pixels; the discriminator is the same way
back. Radford, Metz, Chintala, arXiv:1511.06434.

    portanet demo dcgan --device wgpu
"""

import sys

import demo_kit as kit
import numpy as np
import portanet as pn
from portanet import nn, optim
from portanet.data import DataLoader, TensorDataset
from portanet.data import transforms as t

NOISE = 32


def generator(width):
    return nn.Sequential(
        nn.ConvTranspose2d(NOISE, 2 * width, 4),  # 1 -> 4
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1),  # -> 8
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.ConvTranspose2d(width, 1, 4, stride=2, padding=1),  # -> 16
        nn.Sigmoid(),
    )


def reader(width, outputs):
    """Images (n, 1, 16, 16) to scores: the discriminator's, or a classifier's."""
    return nn.Sequential(
        nn.Conv2d(1, width, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(2 * width * 16, outputs),
    )


def trained_classifier(args, x, y, steps):
    """The judge: it reads real digits."""
    model = reader(16, 10)
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
    return model.eval()


def main():
    args = kit.arguments(__doc__, data=["digits", "mnist", "fashion"])
    change = t.Compose([t.Resize(16), t.ToTensor()])
    (x, y), (test, _) = (kit.tensors(d, change) for d in kit.images(args))
    steps, width = kit.pick(args, 3000, 400), kit.pick(args, 32, 8, 4)
    batch = kit.pick(args, 64, 32, 4)
    judge = trained_classifier(args, x, y, kit.pick(args, 300, 100))

    g, d = generator(width), reader(width, 1)
    g_optimizer = optim.Adam(g.parameters(), lr=1e-3, betas=(0.5, 0.99))
    d_optimizer = optim.Adam(d.parameters(), lr=5e-4, betas=(0.5, 0.99))
    softplus = nn.functional.softplus

    @pn.compile
    def step(images):
        made = g(pn.randn(batch, NOISE, 1, 1))
        d_optimizer.zero_grad()
        loss = softplus(-d(images)).mean() + softplus(d(made.detach())).mean()
        loss.backward()
        d_optimizer.step()
        g_optimizer.zero_grad()
        softplus(-d(made)).mean().backward()
        g_optimizer.step()
        return loss.detach()

    losses = []
    loader = DataLoader(TensorDataset(x), batch, shuffle=True, drop_last=True)
    for (images,) in kit.batches(loader, steps, lambda: kit.last(losses)):
        losses.append(step(images))
    g.eval()
    with pn.no_grad():
        made = g(pn.randn(500, NOISE, 1, 1))
        chances, real = (pn.softmax(judge(v)).numpy() for v in (made, test))
    kit.montage(args, "dcgan", made[:50, 0].numpy())
    print(f"the classifier is {real.max(axis=1).mean():.1%} sure of held-out digits")
    shares = np.bincount(chances.argmax(axis=1), minlength=10) / len(chances)
    sure, rarest = kit.pick(args, (0.85, 0.02), (0.6, 0.005), (0, 0))
    return kit.verdict(
        args,
        ("how sure the classifier is", chances.max(axis=1).mean(), ">=", sure),
        ("part of the rarest digit", shares.min(), ">=", rarest),
    )


if __name__ == "__main__":
    sys.exit(main())
