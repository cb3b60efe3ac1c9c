"""A vision transformer: an image is a sentence of patches.

Figure to reach: 97 % of the held-out digits.

The image is enlarged, its 16 patches become tokens by one convolution, a token for the class
is put before them, attention mixes them all, and the class token's row is read. Dosovitskiy
et al., ICLR 2021. It knows nothing of neighbourhood, so it needs more data than a
convolutional network: each image is turned and moved a little every time it is seen.

    portanet demo vit --device wgpu
"""

import sys

import demo_kit as kit
import portanet as pn
from portanet import nn, optim
from portanet.data import DataLoader
from portanet.data import transforms as t


class VisionTransformer(nn.Module):
    """Images (batch, channels, side, side) -> scores (batch, 10)."""

    def __init__(self, channels, side, patch, width, layers):
        tokens = (side // patch) ** 2
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.class_token = nn.Parameter(pn.zeros((1, 1, width)))
        self.positions = nn.LearnedPositions(1 + tokens, width)
        self.layers = nn.Sequential(
            *[
                nn.TransformerEncoderLayer(
                    width, 4, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True
                )
                for _ in range(layers)
            ]
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x):
        x = pn.matrix_transpose(
            pn.flatten(self.patches(x), 2)
        )  # (batch, tokens, width)
        first = pn.broadcast_to(self.class_token, (x.shape[0], 1, x.shape[2]))
        x = self.positions(pn.concat([first, x], axis=1))
        return self.head(self.norm(self.layers(x)[:, 0]))


def main():
    args = kit.arguments(__doc__, data=["digits", "mnist", "fashion", "cifar10"])
    train, test = kit.images(args)
    channels, side = train.images.shape[1], max(16, train.images.shape[2])
    end = [t.Resize(side), t.ToTensor(), t.Normalize(0.3, 0.35)]
    train.transform = t.Compose(
        [t.RandomRotation(10), *end, t.RandomCrop(side, padding=side // 16, fill=-0.85)]
    )
    width, layers = kit.pick(args, (64, 4), (32, 2), (8, 1))
    steps = kit.pick(args, 1500, 700)
    model = VisionTransformer(channels, side, side // 4, width, layers)
    optimizer = optim.AdamW(model.parameters(), lr=2e-3, weight_decay=5e-2)
    schedule = optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=2e-3, total_steps=steps, pct_start=0.1
    )
    loader = DataLoader(train, 64, shuffle=True, drop_last=True, num_workers=2)

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
        schedule.step()
    kit.curve(args, "vit", losses)
    right = kit.accuracy(model, *kit.tensors(test, t.Compose(end)), batch=64)
    asked = {"digits": kit.pick(args, 0.97, 0.9), "cifar10": 0.5}.get(args.data, 0.8)
    return kit.verdict(args, ("test accuracy", right, ">=", asked))


if __name__ == "__main__":
    sys.exit(main())
