"""An LSTM language model with SGD in portanet, in plain operators.

Hochreiter and Schmidhuber, Neural Computation 9 (1997); PyTorch's order of gates: input,
forget, cell, output.
"""

import portanet as pn
from portanet import nn, optim


class Recurrence(nn.Module):
    """Outputs (length, batch, hidden) of x (length, batch, width)."""

    def __init__(self, width, hidden):
        self.hidden = hidden
        self.weight_ih_l0 = nn.Parameter(pn.zeros((4 * hidden, width)))
        self.weight_hh_l0 = nn.Parameter(pn.zeros((4 * hidden, hidden)))
        self.bias_ih_l0 = nn.Parameter(pn.zeros(4 * hidden))
        self.bias_hh_l0 = nn.Parameter(pn.zeros(4 * hidden))

    def forward(self, x):
        h = c = pn.zeros((x.shape[1], self.hidden), device=x.device)
        bias = self.bias_ih_l0 + self.bias_hh_l0
        x = nn.functional.linear(x, self.weight_ih_l0, bias)
        outputs = []
        for now in pn.unstack(x):
            gates = now + nn.functional.linear(h, self.weight_hh_l0)
            i, f, g, o = pn.split(gates, self.hidden, axis=1)
            c = pn.sigmoid(f) * c + pn.sigmoid(i) * pn.tanh(g)
            h = pn.sigmoid(o) * pn.tanh(c)
            outputs.append(h)
        return pn.stack(outputs)


class Lstm(nn.Module):
    """Logits (length, batch, vocabulary) of tokens (length, batch)."""

    def __init__(self, sizes):
        width, hidden = sizes["embedding"], sizes["hidden"]
        self.embedding = nn.Module()
        self.embedding.weight = nn.Parameter(pn.zeros((sizes["vocabulary"], width)))
        self.lstm = Recurrence(width, hidden)
        self.head = nn.Linear(hidden, sizes["vocabulary"])

    def forward(self, tokens):
        return self.head(self.lstm(pn.take(self.embedding.weight, tokens, axis=0)))


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
