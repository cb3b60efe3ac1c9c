"""An LSTM language model with SGD in JAX."""

import jax
import jax.numpy as jnp
from losses_jax import cross_entropy


def build(weights, sizes):
    """The state, and a training step (state, tokens, next tokens) -> (state, loss)."""

    def loss_of(p, tokens, after):
        x = p["embedding.weight"][tokens] @ p["lstm.weight_ih_l0"].T
        x = x + (p["lstm.bias_ih_l0"] + p["lstm.bias_hh_l0"])
        turned = p["lstm.weight_hh_l0"].T

        def cell(carry, x):
            h, c = carry
            i, f, g, o = jnp.split(x + h @ turned, 4, axis=1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        start = jnp.zeros((sizes["batch"], sizes["hidden"]))
        _, h = jax.lax.scan(cell, (start, start), x)
        return cross_entropy(h @ p["head.weight"].T + p["head.bias"], after)

    def step(p, tokens, after):
        loss, g = jax.value_and_grad(loss_of)(p, tokens, after)
        return jax.tree.map(lambda p, g: p - 0.1 * g, p, g), loss

    return weights, step
