"""A recurrent language model: LSTM, GRU or plain RNN, one character after the other.

Figure to reach: 1.6 nats a character on held-out topics of Python's own help. Without any
context it would be 3.3, with one character of it 2.6.

The text is cut into 32 columns that are read from top to bottom, 64 rows a step; the state
goes on from one step to the next, its gradient doesn't (truncated backpropagation).

    portanet demo rnn_lm --device cpu
    portanet demo rnn_lm --cell rnn
    portanet demo rnn_lm --data ptb
"""

import math
import sys

import demo_kit as kit
import portanet as pn
from portanet import nn, optim
from portanet.data import batchify, get_batch

CELLS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


class LanguageModel(nn.Module):
    """Numbers of characters (steps, batch) -> scores of the next, and the state."""

    def __init__(self, cell, count, width, layers):
        self.embedding = nn.Embedding(count, width)
        self.rnn = CELLS[cell](width, width, layers)
        self.head = nn.Linear(width, count)

    def forward(self, x, state=None):
        y, state = self.rnn(self.embedding(x), state)
        return self.head(y).reshape(-1, self.head.out_features), state


def detached(state):
    return (
        tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()
    )


def held_out_loss(model, batches, bptt):
    """Nats for one, on text that the state goes through once."""
    model.eval()
    state, total, count = None, 0.0, 0
    with pn.no_grad():
        for i in range(0, len(batches) - 1, bptt):
            x, y = get_batch(batches, i, bptt)
            scores, state = model(x, state)
            total += pn.cross_entropy(scores, y, reduction="sum").item()
            count += len(y)
    return total / count


def sample(model, corpus, start, count, heat=0.7):
    """The start and what the model goes on with: draws from its probabilities."""
    state, numbers = None, corpus.dictionary.encode(start)

    @pn.compile
    def following(x, state):
        with pn.no_grad():
            scores, state = model(x, state)
            noise = -pn.log(-pn.log(pn.rand(scores.shape[1]) + 1e-10) + 1e-10)  # Gumbel
            return (scores[-1] / heat + noise).argmax(), state

    x = pn.tensor(numbers).reshape(-1, 1)
    for _ in range(count):
        number, state = following(x, state)
        numbers.append(int(number.item()))
        x = number.reshape(1, 1)
    return corpus.decode(numbers)


def main():
    args = kit.arguments(
        __doc__, data=["topics", "ptb"], cell=("lstm", "lstm, gru, rnn")
    )
    corpus = kit.text(args)
    steps, width = kit.pick(args, 800, 250), kit.pick(args, 256, 96, 8)
    bptt, columns = kit.pick(args, 64, 32, 4), kit.pick(args, 32, 32, 4)
    model = LanguageModel(args.cell, len(corpus.dictionary), width, 1)
    optimizer = optim.AdamW(model.parameters(), lr=4e-3, weight_decay=1e-2)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    @pn.compile
    def step(x, y, state):
        optimizer.zero_grad()
        scores, state = model(x, state)
        loss = pn.cross_entropy(scores, y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.detach(), detached(state)

    batches, losses = batchify(corpus.train, columns), []

    def windows():
        while True:
            yield from range(0, len(batches) - bptt, bptt)

    state = None
    for i in kit.track(windows(), steps, lambda: kit.last(losses)):
        x, y = get_batch(batches, i, bptt)
        loss, state = step(x, y, state if i else None)
        losses.append(loss)
        schedule.step()
    kit.curve(args, f"{args.cell}_lm", losses, "nats")
    nats = held_out_loss(model, batchify(corpus.test, 8), bptt)
    print(f"perplexity {math.exp(nats):.2f}")
    start = ["the"] if args.data == "ptb" else "The "
    print(f"sample: {sample(model, corpus, start, kit.pick(args, 300, 80))}")
    asked = 5.3 if args.data == "ptb" else kit.pick(args, 1.6, 2.4)
    return kit.verdict(args, ("nats on held-out text", nats, "<=", asked))


if __name__ == "__main__":
    sys.exit(main())
