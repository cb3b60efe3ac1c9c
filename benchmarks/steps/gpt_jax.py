"""A GPT with AdamW in JAX."""

import jax
import jax.numpy as jnp
from adam_jax import adam, zeros
from losses_jax import cross_entropy


def build(weights, sizes):
    """The state, and a training step (state, tokens, next tokens) -> (state, loss)."""
    heads, length = sizes["heads"], sizes["length"]

    def linear(p, name, x):
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def norm(p, name, x):
        middle, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        y = (x - middle) * jax.lax.rsqrt(var + 1e-5)
        return y * p[f"{name}.weight"] + p[f"{name}.bias"]

    def attend(p, at, x):
        batch, _, width = x.shape
        size = width // heads
        qkv = linear(p, f"{at}.qkv", x).reshape(batch, length, 3, heads, size)
        q, k, v = qkv.transpose(2, 0, 3, 1, 4)
        mask = jnp.tril(jnp.ones((length, length), bool))
        scores = jnp.where(mask, q @ k.swapaxes(-1, -2) * size**-0.5, -jnp.inf)
        y = (jax.nn.softmax(scores) @ v).transpose(0, 2, 1, 3)
        return linear(p, f"{at}.out", y.reshape(batch, length, width))

    def loss_of(p, tokens, after):
        x = p["tokens.weight"][tokens] + p["places.weight"]
        for i in range(sizes["layers"]):
            at = f"blocks.{i}"
            x = x + attend(p, at, norm(p, f"{at}.norm1", x))
            up = linear(p, f"{at}.up", norm(p, f"{at}.norm2", x))
            x = x + linear(p, f"{at}.down", jax.nn.gelu(up, approximate=False))
        return cross_entropy(linear(p, "head", norm(p, "norm", x)), after)

    def step(state, tokens, after):
        loss, g = jax.value_and_grad(loss_of)(state[0], tokens, after)
        return adam(state, g, lr=3e-4, weight_decay=0.01), loss

    return (weights, zeros(weights), zeros(weights), 0.0), step
