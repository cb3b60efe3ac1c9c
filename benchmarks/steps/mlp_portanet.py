"""An MLP with Adam in portanet."""

import portanet as pn
from portanet import nn, optim


def build(weights, sizes, device):
    """The model, and a training step (x, labels) -> loss."""
    with pn.device(device):
        model = nn.Sequential(
            nn.Linear(sizes["inputs"], sizes["hidden"]),
            nn.ReLU(),
            nn.Linear(sizes["hidden"], sizes["hidden"]),
            nn.ReLU(),
            nn.Linear(sizes["hidden"], sizes["classes"]),
        )
    model.load_state_dict({k: pn.tensor(w, device=device) for k, w in weights.items()})
    optimizer = optim.Adam(model.parameters(), lr=1e-3)

    def step(x, labels):
        optimizer.zero_grad()
        loss = pn.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step
