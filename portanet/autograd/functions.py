"""backward, grad, value_and_grad, and functions with a gradient of one's own."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from ..op import check_tensor
from ..ops import elementwise as e
from . import tape
from .tape import Alias, Node, Part, mode, no_grad
from .tensor import Tensor, tensor_of


def _bare(value: Any, node: Any) -> Any:
    return value


def _recorded(value: Any, node: Any) -> Tensor:
    return tensor_of(value, node)


def _seed(y: Tensor, gradient: Any, create_graph: bool) -> Any:
    if gradient is None:
        if y.size != 1:
            raise ValueError(
                f"backward: the tensor has shape {y.shape}; "
                "reduce it to one number, or give its gradient"
            )
        made = y.constant(1, y.dtype)
        gradient = made if not y.shape else made.reshape(y.shape)
        return gradient if create_graph else gradient._read()
    check_tensor("backward", gradient)
    if gradient.shape != y.shape:
        raise ValueError(f"backward: gradient {gradient.shape} of a tensor {y.shape}")
    if gradient.dtype is not y.dtype:
        gradient = e.astype(gradient, y.dtype)
    return gradient if create_graph else gradient._read()


def run_backward(
    y: Tensor, gradient: Any, retain_graph: bool, create_graph: bool
) -> None:
    """Add gradients to the leaves that y came from."""
    if y.node is None:
        raise RuntimeError(
            "backward: nothing was recorded; no input requires a gradient, or no_grad is on"
        )
    seed = _seed(y, gradient, create_graph)
    wrap = _recorded if create_graph else _bare
    grads, order = tape.backward([y.node], [seed], None, wrap)
    with no_grad():
        _store(grads, order, create_graph)
    if not retain_graph:
        for node in order:
            if isinstance(node, Node) and node.op is not None:
                node.free()


def _store(grads: dict[int, Any], order: Sequence[Any], create_graph: bool) -> None:
    for node in order:
        if isinstance(node, Node) and node.op is None and id(node) in grads:
            g = grads[id(node)]
            g = g if create_graph else tensor_of(g)
            known = node.grad if mode.tracer is None else _known_grad(node)
            if known is None:
                node.grad = g
            elif create_graph:
                with tape.enable_grad():
                    node.grad = e.add(known, g)
            else:
                node.grad = tensor_of(e.add(known.value, g.value))


def _known_grad(node: Node) -> Tensor | None:
    """The gradient of a leaf while a function is traced."""
    value = mode.tracer.read_grad(node)
    return None if value is None else tensor_of(value)


def gradients(
    y: Tensor,
    xs: Sequence[Tensor],
    gradient: Tensor | None = None,
    *,
    create_graph: bool = False,
) -> tuple[Tensor, ...]:
    """dy/dx for each x, without touching any `.grad`. Zeros where y does not depend on x.

    y: one number, or any shape with its gradient given. create_graph makes the result
    differentiable again.

    >>> x = pn.tensor(3.0, requires_grad=True)
    >>> (g,) = pn.gradients(x * x, [x])
    >>> g.item()
    6.0
    """
    for i, x in enumerate(xs):
        if x.node is None:
            raise RuntimeError(f"gradients: input {i} does not require a gradient")
    if y.node is None:
        return tuple(e.zeros_like(x.detach()) for x in xs)
    wanted = {id(x.node) for x in xs}
    wrap = _recorded if create_graph else _bare
    seed = _seed(y, gradient, create_graph)
    found, _ = tape.backward([y.node], [seed], wanted, wrap)
    result = []
    for x in xs:
        g = found.get(id(x.node))
        if g is None:
            g = e.zeros_like(x.detach())
        result.append(g if isinstance(g, Tensor) else tensor_of(g))
    return tuple(result)


def _input(x: Any) -> Tensor:
    if not isinstance(x, Tensor):
        raise TypeError(f"grad: a tensor is expected, not {type(x).__name__}")
    if not x.dtype.is_float:
        raise TypeError(f"grad: only floats have gradients, not {x.dtype.name}")
    if x.node is None:
        return tensor_of(x._read()).requires_grad_()
    value = x._read()
    return tensor_of(value, Node(Alias, {}, [value], value, [x.node]))


def value_and_grad(
    f: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """A function that gives (f(*args), df/d(args[argnums])).

    f gives one number; with has_aux, (number, anything), and so does the result. Calls may
    be nested: the gradient of a gradient.

    >>> f = pn.value_and_grad(lambda x: (x * x).sum())
    >>> f(pn.tensor([1.0, 2.0]))
    (tensor(5.), tensor([2., 4.]))
    """
    several = not isinstance(argnums, int)
    numbers = tuple(argnums) if several else (argnums,)

    @functools.wraps(f)
    def run(*args, **kwargs):
        inputs = list(args)
        for i in numbers:
            inputs[i] = _input(args[i])
        again = mode.depth > 0 or any(args[i].node is not None for i in numbers)
        with tape.enable_grad():
            mode.depth += 1
            try:
                made = f(*inputs, **kwargs)
            finally:
                mode.depth -= 1
            y, aux = made if has_aux else (made, None)
            if not isinstance(y, Tensor) or y.size != 1:
                what = f"shape {y.shape}" if isinstance(y, Tensor) else type(y).__name__
                raise ValueError(f"grad: the function must give one number, not {what}")
            found = gradients(y, [inputs[i] for i in numbers], create_graph=again)
        y = y if again else y.detach()
        found = found if several else found[0]
        return ((y, aux), found) if has_aux else (y, found)

    return run


def grad(
    f: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """A function that gives df/d(args[argnums]) of a function that gives one number.

    >>> pn.grad(pn.grad(lambda x: x**3))(pn.tensor(2.0)).item()
    12.0
    """
    both = value_and_grad(f, argnums, has_aux)

    @functools.wraps(f)
    def run(*args, **kwargs):
        value, found = both(*args, **kwargs)
        return (found, value[1]) if has_aux else found

    return run


class _Custom:
    """The operator of a function with a gradient of its own."""

    fallback = None

    def __init__(self, name: str, rule: Callable):
        self.name, self.rule = name, rule

    def grad(self, i: int, g: Any, y: Any, *xs: Any, **static: Any) -> Any:
        tensors = isinstance(g if not isinstance(g, list) else g[0], Tensor)
        wrap = (lambda v: v) if tensors else tensor_of
        g = tuple(map(wrap, g)) if isinstance(g, list) else wrap(g)
        y = tuple(map(wrap, y)) if isinstance(y, tuple) else wrap(y)
        made = self.rule(g, y, *map(wrap, xs), **static)
        made = made if isinstance(made, tuple | list) else (made,)
        if len(made) != len(xs):
            raise ValueError(
                f"{self.name}: backward gave {len(made)} gradients for {len(xs)} inputs"
            )
        d = made[i]
        if d is None:
            return None
        if d.shape != xs[i].shape:
            raise ValueError(
                f"{self.name}: the gradient of input {i} is {d.shape}, not {xs[i].shape}"
            )
        return d if tensors else d.value


def custom_function(
    forward: Callable[..., Any], backward: Callable[..., Any]
) -> Callable[..., Any]:
    """A function of tensors whose gradient is given.

    forward(*tensors, **static) gives a tensor or a tuple of them, and is not recorded.
    backward(g, y, *tensors, **static) gives the gradient of each input, or None: g is the
    gradient of the result y (a tuple where y is one).

    >>> f = pn.custom_function(lambda x: x * x, lambda g, y, x: g * 2 * x)
    >>> pn.grad(lambda x: f(x).sum())(pn.tensor([3.0]))
    tensor([6.])
    """
    op = _Custom(getattr(forward, "__name__", "custom_function"), backward)

    def call(*xs: Tensor, **static: Any) -> Any:
        with no_grad():
            made = forward(*(x.detach() for x in xs), **static)
        values = tuple(v.value for v in made) if isinstance(made, tuple) else made.value
        if not mode.enabled or all(x.node is None for x in xs):
            return made
        node = Node(op, static, [x._read() for x in xs], values, [x.node for x in xs])
        if isinstance(values, tuple):
            return tuple(tensor_of(v, Part(node, i)) for i, v in enumerate(values))
        return tensor_of(values, node)

    return call
