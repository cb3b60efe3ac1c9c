"""An LSTM language model with SGD in portanet, in plain operators.

Hochreiter and Schmidhuber, Neural Computation 9 (1997); PyTorch's order of gates: input,
forget, cell, output.
"""

import portanet as pn
from portanet import nn, optim


class Lstm(nn.Module):
    """Logits (length, batch, vocabulary) of tokens (length, batch)."""

    def __init__(self, weights, sizes, device):
        self.table, self.input, self.state, input_bias, state_bias, *head = (
            nn.Parameter(w, device=device) for w in weights.values()
        )
        self.biases, self.head = [input_bias, state_bias], head
        self.hidden = sizes["hidden"]

    def forward(self, tokens):
        length, batch = tokens.shape
        h = c = pn.zeros(batch, self.hidden, device=tokens.device)
        x = pn.take(self.table, tokens, axis=0)
        x = nn.functional.linear(x, self.input, self.biases[0] + self.biases[1])
        turned, outputs = self.state.T, []
        for t in range(length):
            gates = x[t] + h @ turned
            i, f, g, o = pn.split(gates, self.hidden, axis=1)
            c = pn.sigmoid(f) * c + pn.sigmoid(i) * pn.tanh(g)
            h = pn.sigmoid(o) * pn.tanh(c)
            outputs.append(h)
        return nn.functional.linear(pn.stack(outputs), *self.head)


def build(weights, sizes, device):
    """A training step (tokens, next tokens) -> loss."""
    model = Lstm(weights, sizes, device)
    optimizer = optim.SGD(
        [model.table, model.input, model.state, *model.biases, *model.head], lr=0.1
    )

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
