"""The course's ResNet-9 with SGD and momentum in JAX."""

import jax
import jax.numpy as jnp
from losses_jax import cross_entropy
from resnet_sizes import layers


def build(weights, sizes):
    """The state, and a training step (state, x, labels) -> (state, loss)."""

    def conv_bn(p, at, x, stride):
        w = p[f"{at}.0.weight"]
        k = w.shape[-1] // 2
        x = jax.lax.conv(x, w, (stride, stride), ((k, k), (k, k)))
        x = x + p[f"{at}.0.bias"][:, None, None]
        mean = x.mean((0, 2, 3), keepdims=True)
        x = x - mean
        x = x * jax.lax.rsqrt((x * x).mean((0, 2, 3), keepdims=True) + 1e-5)
        scale, shift = p[f"{at}.1.weight"], p[f"{at}.1.bias"]
        return jax.nn.relu(x * scale[:, None, None] + shift[:, None, None])

    def loss_of(p, x, labels):
        for i, part in enumerate(layers()):
            if isinstance(part, list):
                y = x
                for j, (*_, stride) in enumerate(part):
                    y = conv_bn(p, f"{i}.{j}", y, stride)
                x = x + y
            else:
                x = conv_bn(p, str(i), x, part[-1])
        n = len(layers())
        x = x.reshape(x.shape[0], -1)
        x = x @ p[f"{n + 1}.weight"].T + p[f"{n + 1}.bias"]
        x = jax.nn.relu(x) @ p[f"{n + 3}.weight"].T + p[f"{n + 3}.bias"]
        return cross_entropy(x, labels)

    def step(state, x, labels):
        p, v = state
        loss, g = jax.value_and_grad(loss_of)(p, x, labels)
        v = jax.tree.map(lambda v, g: 0.9 * v + g, v, g)
        return (jax.tree.map(lambda p, v: p - 0.01 * v, p, v), v), loss

    return (weights, jax.tree.map(jnp.zeros_like, weights)), step
