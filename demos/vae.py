"""A variational autoencoder of digits: a code of 8 numbers, and new digits from noise.

Figure to reach: the bound on -log p of held-out images below 25 nats (an image of 8 x 8
pixels; one that ignores the code has 27).

The encoder gives mean and variance of the code, a draw from it is decoded, and the loss is
reconstruction + KL(code || normal). Kingma and Welling, arXiv:1312.6114.

    portanet demo vae --device cpu
"""

import sys

import demo_kit as kit
import portanet as pn
from portanet import nn, optim
from portanet.data import DataLoader, TensorDataset

CODE = 8


class VAE(nn.Module):
    """Images as rows of pixels from 0 to 1."""

    def __init__(self, pixels, hidden):
        self.encoder = nn.Sequential(
            nn.Linear(pixels, hidden), nn.ReLU(), nn.Linear(hidden, 2 * CODE)
        )
        self.decoder = nn.Sequential(
            nn.Linear(CODE, hidden), nn.ReLU(), nn.Linear(hidden, pixels)
        )

    def encode(self, x):
        """(mean, log of the variance) of the code."""
        return pn.chunk(self.encoder(x), 2, axis=1)

    def forward(self, x):
        """The bound: nats for an image, its mean over the batch."""
        mean, log_variance = self.encode(x)
        code = mean + pn.exp(0.5 * log_variance) * pn.randn(*mean.shape)
        logits = self.decoder(code)
        # -log p(x | code), pixels as probabilities of ink; then KL to the normal.
        bits = nn.functional.softplus(logits) - x * logits
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
        return (bits.sum(axis=1) + divergence.sum(axis=1)).mean()


def main():
    args = kit.arguments(__doc__, data=["digits", "mnist", "fashion"])
    (x, _), (test, _) = (kit.tensors(d) for d in kit.images(args))
    x, test = (v.reshape(len(v), -1) for v in (x, test))
    steps, hidden = kit.pick(args, 6000, 2500), kit.pick(args, 256, 128, 16)
    model = VAE(x.shape[1], hidden)
    optimizer = optim.Adam(model.parameters(), lr=2e-3)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    loader = DataLoader(TensorDataset(x), 64, shuffle=True, drop_last=True)

    @pn.compile
    def step(images):
        optimizer.zero_grad()
        loss = model(images)
        loss.backward()
        optimizer.step()
        return loss.detach()

    losses = []
    for (images,) in kit.batches(loader, steps, lambda: kit.last(losses)):
        losses.append(step(images))
        schedule.step()
    with pn.no_grad():
        bound = sum(model(test).item() for _ in range(20)) / 20
        seen = pn.sigmoid(model.decoder(model.encode(test[:20])[0]))
        new = pn.sigmoid(model.decoder(pn.randn(20, CODE)))
    side = round(x.shape[1] ** 0.5)
    rows = pn.concat([test[:10], seen[:10], new]).reshape(-1, side, side)
    print("rows of the picture: held-out images, what came back, and two of new ones")
    kit.montage(args, "vae", rows.numpy())
    asked = kit.pick(args, 25, 26) if args.data == "digits" else 300
    return kit.verdict(args, ("bound on held-out images, nats", bound, "<=", asked))


if __name__ == "__main__":
    sys.exit(main())
