"""An LSTM language model with SGD in portanet."""

import portanet as pn
from portanet import nn, optim


class Lstm(nn.Module):
    """Logits (length, batch, vocabulary) of tokens (length, batch)."""

    def __init__(self, sizes):
        self.embedding = nn.Embedding(sizes["vocabulary"], sizes["embedding"])
        self.lstm = nn.LSTM(sizes["embedding"], sizes["hidden"])
        self.head = nn.Linear(sizes["hidden"], sizes["vocabulary"])

    def forward(self, tokens):
        return self.head(self.lstm(self.embedding(tokens))[0])


def build(weights, sizes, device):
    """A training step (tokens, next tokens) -> loss."""
    with pn.device(device):
        model = Lstm(sizes)
    model.load_state_dict({k: pn.tensor(w, device=device) for k, w in weights.items()})
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    def step(tokens, after):
        optimizer.zero_grad()
        logits = model(tokens)
        loss = pn.cross_entropy(
            logits.reshape(-1, sizes["vocabulary"]), after.reshape(-1)
        )
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step
