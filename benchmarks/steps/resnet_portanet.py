"""The course's ResNet-9 with SGD and momentum in portanet."""

import portanet as pn
from portanet import nn, optim
from resnet_sizes import layers


def conv_bn(a, b, k, s):
    """relu(norm(convolution(x)))"""
    return nn.Sequential(
        nn.Conv2d(a, b, k, stride=s, padding=k // 2), nn.BatchNorm2d(b), nn.ReLU()
    )


class Residual(nn.Sequential):
    """x + f(x)"""

    def forward(self, x):
        return x + super().forward(x)


def build(weights, sizes, device):
    """A training step (x, labels) -> loss."""
    with pn.device(device):
        parts = []
        for part in layers():
            if isinstance(part, list):
                parts.append(Residual(*[conv_bn(*sizes) for sizes in part]))
            else:
                parts.append(conv_bn(*part))
        head = [nn.Flatten(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)]
        model = nn.Sequential(*parts, *head)
    state = {k: pn.tensor(w, device=device) for k, w in weights.items()}
    model.load_state_dict(state, strict=False)
    optimizer = optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step(x, labels):
        optimizer.zero_grad()
        loss = pn.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step
