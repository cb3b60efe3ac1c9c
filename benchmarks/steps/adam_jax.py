"""Adam and AdamW on a dict of parameters, as PyTorch computes them."""

import jax
import jax.numpy as jnp


def zeros(weights):
    """The moments before the first step."""
    return {name: jnp.zeros_like(w) for name, w in weights.items()}


def adam(state, g, lr, weight_decay=0.0):
    """(p, m, v, t) after a step; the weight decay is AdamW's."""
    p, m, v, t = state
    t = t + 1
    m = jax.tree.map(lambda m, g: m + 0.1 * (g - m), m, g)
    v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
    rate, root = lr / (1 - 0.9**t), jnp.sqrt(1 - 0.999**t)

    def update(p, m, v):
        p = p - lr * weight_decay * p if weight_decay else p
        return p - rate * m / (jnp.sqrt(v) / root + 1e-8)

    return jax.tree.map(update, p, m, v), m, v, t
