"""ResNet-9, the course's convolutional network of 431,946 parameters.

Figure to reach: 98.5 % of the held-out digits.

The images are enlarged to 32 x 32, as CIFAR-10's are, and each is turned and moved a little
every time it is seen: 1437 images are few for so many parameters.

    portanet demo resnet9 --device wgpu
    portanet demo resnet9 --data cifar10
"""

import sys

import demo_kit as kit
import numpy as np
import portanet as pn
from portanet import nn, optim
from portanet.data import DataLoader
from portanet.data import transforms as t


def conv_bn(inputs, outputs, kernel, stride):
    """relu(norm(convolution(x)))"""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def residual(width):
    return nn.Residual(
        nn.Sequential(conv_bn(width, width, 3, 1), conv_bn(width, width, 3, 1))
    )


def resnet9():
    return nn.Sequential(
        conv_bn(3, 16, 7, 4),
        conv_bn(16, 32, 3, 2),
        residual(32),
        conv_bn(32, 64, 3, 2),
        conv_bn(64, 128, 3, 2),
        residual(128),
        nn.Flatten(),
        nn.Linear(128, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


def transforms(name):
    """(what is done to an image for training, for the test)"""
    if name == "cifar10":
        end = [t.ToTensor(), t.Normalize([0.49, 0.48, 0.45], [0.25, 0.24, 0.26])]
        change = [t.RandomHorizontalFlip(), t.RandomCrop(32, padding=4)]
    else:
        grey = t.Lambda(lambda x: np.repeat(x, 3, axis=0))
        end = [t.ToTensor(), t.Normalize(0.3, 0.35), grey]
        change = [t.RandomRotation(12), t.RandomCrop(32, padding=3)]
    first = [t.Resize(32)]
    return t.Compose([*first, *change, *end]), t.Compose([*first, *end])


def main():
    args = kit.arguments(__doc__, data=["digits", "mnist", "fashion", "cifar10"])
    changed, plain = transforms(args.data)
    train, test = kit.images(args, changed)
    steps, batch = kit.pick(args, (600, 64), (120, 32), (2, 16))
    loader = DataLoader(train, batch, shuffle=True, drop_last=True, num_workers=2)
    model = resnet9()
    print(f"{sum(p.size for p in model.parameters()):,} parameters")
    optimizer = optim.AdamW(model.parameters(), lr=2e-3, weight_decay=5e-2)
    schedule = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)

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
    kit.curve(args, "resnet9", losses)
    right = kit.accuracy(model, *kit.tensors(test, plain), batch=64)
    asked = {"digits": kit.pick(args, 0.985, 0.9), "cifar10": 0.7}.get(args.data, 0.85)
    return kit.verdict(args, ("test accuracy", right, ">=", asked))


if __name__ == "__main__":
    sys.exit(main())
