"""An MLP with residual blocks: each block adds to its input what it has to say.

Figure to reach: 97 % of the held-out digits.

The course's MLP-ResNet: x + norm(W2 dropout(relu(norm(W1 x)))), three of them. Without the
`x +` a deep MLP is hard to train: try --blocks 12.

    portanet demo mlp_resnet --device wgpu
"""

import sys

import demo_kit as kit
import portanet as pn
from portanet import nn, optim
from portanet.data import DataLoader, TensorDataset


def block(width, hidden, dropout=0.1):
    inside = nn.Sequential(
        nn.Linear(width, hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, width),
        nn.BatchNorm1d(width),
    )
    return nn.Sequential(nn.Residual(inside), nn.ReLU())


def mlp_resnet(inputs, width, blocks):
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(inputs, width),
        nn.ReLU(),
        *[block(width, width // 2) for _ in range(blocks)],
        nn.Linear(width, 10),
    )


def main():
    args = kit.arguments(
        __doc__, data=["digits", "mnist", "fashion"], blocks=(3, "residual blocks")
    )
    (x, y), test = (kit.tensors(d) for d in kit.images(args))
    width, steps = kit.pick(args, 128, 64, 16), kit.pick(args, 1000, 500)
    model = mlp_resnet(x[0].size, width, args.blocks)
    optimizer = optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
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
        schedule.step()
    kit.curve(args, "mlp_resnet", losses)
    right = kit.accuracy(model, *test)
    return kit.verdict(args, ("test accuracy", right, ">=", 0.97))


if __name__ == "__main__":
    sys.exit(main())
