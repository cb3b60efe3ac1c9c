"""A GPT with AdamW in portanet.

Radford et al., 2019: normalisation before each part, learned places.
"""

import portanet as pn
from portanet import nn, optim


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width, heads):
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def attend(self, x):
        batch, length, width = x.shape
        q, k, v = (
            pn.permute_dims(x.reshape(batch, length, self.heads, -1), (0, 2, 1, 3))
            for x in pn.split(self.qkv(x), width, axis=-1)
        )
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(pn.permute_dims(y, (0, 2, 1, 3)).reshape(batch, length, width))

    def forward(self, x):
        x = x + self.attend(self.norm1(x))
        return x + self.down(pn.gelu(self.up(self.norm2(x))))


class Gpt(nn.Module):
    """Logits (batch, length, vocabulary) of tokens (batch, length)."""

    def __init__(self, sizes):
        width = sizes["width"]
        self.tokens = nn.Module()
        self.tokens.weight = nn.Parameter(pn.zeros((sizes["vocabulary"], width)))
        self.places = nn.Module()
        self.places.weight = nn.Parameter(pn.zeros((sizes["length"], width)))
        blocks = [Block(width, sizes["heads"]) for _ in range(sizes["layers"])]
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, sizes["vocabulary"])

    def forward(self, tokens):
        x = pn.take(self.tokens.weight, tokens, axis=0) + self.places.weight
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def build(weights, sizes, device):
    """A training step (tokens, next tokens) -> loss."""
    with pn.device(device):
        model = Gpt(sizes)
    model.load_state_dict({k: pn.tensor(w, device=device) for k, w in weights.items()})
    optimizer = optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.01)

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
