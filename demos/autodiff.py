"""A walk through automatic differentiation, each claim checked by numbers.

Figure to reach: every derivative within 1e-5 of the exact one, and Newton's method on the
Rosenbrock function at its minimum, (1, 1), within 1e-4 after 10 steps.

    portanet demo autodiff
"""

import sys

import demo_kit as kit
import numpy as np
import portanet as pn

EXACT = 1e-5  # of derivatives in float32, relative to their largest value


def say(text, value):
    print(f"{text:<58} {value}")


def tape():
    """A tensor that requires a gradient records what is done with it."""
    x = pn.tensor([1.0, 2.0, 3.0], requires_grad=True)
    y = (x * x + pn.exp(-x)).sum()
    say("y = sum(x^2 + exp(-x)) at (1, 2, 3)", f"{y.item():.4f}")
    y.backward()
    say("its gradient, 2 x - exp(-x), by backward", x.grad.numpy().round(4))
    v = np.array([1.0, 2.0, 3.0])
    return np.abs(x.grad.numpy() - (2 * v - np.exp(-v))).max() / 6


def shared():
    """A value that is used twice gets both gradients, added."""
    x = pn.tensor(3.0, requires_grad=True)
    y = x * x
    (y * y + y).backward()  # x^4 + x^2
    say("d(x^4 + x^2)/dx at 3, where x^2 is computed once", x.grad.item())
    return abs(x.grad.item() - 114.0) / 114


def higher(args):
    """Gradients are made of operators, so they have gradients: tanh and three more."""
    x = pn.linspace(-3, 3, kit.pick(args, 201, 201, 21))
    f = pn.tanh
    curves, worst = [f(x).numpy()], 0.0
    for _ in range(3):
        f = pn.grad(lambda v, f=f: f(v).sum())
        curves.append(f(x).numpy())
    t = np.tanh(x.numpy().astype(np.float64))
    exact = [1 - t**2, -2 * t * (1 - t**2), (6 * t**2 - 2) * (1 - t**2)]
    for order, (found, right) in enumerate(zip(curves[1:], exact, strict=True), 1):
        error = np.abs(found - right).max() / np.abs(right).max()
        say(f"derivative {order} of tanh: largest relative error", f"{error:.1e}")
        worst = max(worst, error)
    made = kit.figure()
    for order, values in enumerate(curves):
        made.add_subplot(111) if order == 0 else None
        made.axes[0].plot(x.numpy(), values, label="tanh" + "'" * order)
    made.axes[0].legend()
    kit.save(made, args, "autodiff")
    return worst


def own():
    """A function with a rule of one's own: the identity whose gradient is clipped."""

    clipped = pn.custom_function(lambda x: x * 1, lambda g, y, x: pn.clip(g, -1, 1))
    x = pn.tensor([0.1, 5.0], requires_grad=True)
    (clipped(x) ** 2).sum().backward()
    say("a rule of one's own clips 2 x = (0.2, 10) to", x.grad.numpy())
    return np.abs(x.grad.numpy() - [0.2, 1.0]).max()


def rosenbrock(p):
    return (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2


def newton(steps):
    """p - H^-1 g, where each row of H is the gradient of an element of g."""
    gradient = pn.grad(rosenbrock)
    p = pn.tensor([-1.2, 1.0])
    for _ in range(steps):
        g = gradient(p)
        rows = [pn.grad(lambda q, i=i: gradient(q)[i])(p) for i in range(2)]
        (a, b), (c, d) = (row.tolist() for row in rows)
        inverse = pn.tensor([[d, -b], [-c, a]]) / (a * d - b * c)
        p = p - inverse @ g
    say(f"Newton's method after {steps} steps is at", p.numpy())
    return float(np.abs(p.numpy() - 1).max())


def main():
    args = kit.arguments(__doc__)
    worst = max(tape(), shared(), higher(args), own())
    distance = newton(10)
    return kit.verdict(
        args,
        ("largest relative error of a derivative", worst, "<=", EXACT),
        ("Newton's distance from the minimum", distance, "<=", 1e-4),
    )


if __name__ == "__main__":
    sys.exit(main())
