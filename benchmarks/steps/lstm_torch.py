"""An LSTM language model with SGD in PyTorch."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy


class Lstm(nn.Module):
    """Logits (length, batch, vocabulary) of tokens (length, batch)."""

    def __init__(self, sizes):
        super().__init__()
        self.embedding = nn.Embedding(sizes["vocabulary"], sizes["embedding"])
        self.lstm = nn.LSTM(sizes["embedding"], sizes["hidden"])
        self.head = nn.Linear(sizes["hidden"], sizes["vocabulary"])

    def forward(self, tokens):
        return self.head(self.lstm(self.embedding(tokens))[0])


def build(weights, sizes):
    """A training step (tokens, next tokens) -> loss."""
    model = Lstm(sizes)
    model.load_state_dict(weights)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step(tokens, after):
        optimizer.zero_grad()
        loss = cross_entropy(model(tokens).flatten(0, 1), after.flatten())
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step
