"""What PyTorch calls otherwise: its names, and what stands for them here.

Asking for one is an AttributeError that says so. Nothing here is a second way to do a thing.
"""

from __future__ import annotations

from typing import Any, NoReturn

_VALUE = "a tensor is a value; "

# Functions: the name there, the name here.
FUNCTIONS = {
    "absolute": "abs",
    "amax": "max",
    "amin": "min",
    "arccos": "acos",
    "arcsin": "asin",
    "arctan": "atan",
    "arctan2": "atan2",
    "as_tensor": "asarray",
    "amp": "autocast and GradScaler",
    "baddbmm": "x + a @ b",
    "addmm": "x + a @ b",
    "bitwise_not": "bitwise_invert",
    "bmm": "matmul",
    "cat": "concat",
    "clamp": "clip",
    "clone": "x.clone()",
    **{
        f"{kind}Tensor": f"tensor(data, dtype={dtype})"
        for kind, dtype in {
            "Bool": "bool",
            "Byte": "uint8",
            "Int": "int32",
            "Long": "int64",
            "Half": "float16",
            "BFloat16": "bfloat16",
            "Float": "float32",
            "Double": "float64",
        }.items()
    },
    "concatenate": "concat",
    "cuda": 'devices(), and "cuda" as the name of a device',
    "cumprod": "cumulative_prod",
    "cumsum": "cumulative_sum",
    "div": "divide",
    "dot": "vecdot",
    "double": "float64",
    "eq": "equal",
    "fix": "trunc",
    "float": "float32",
    "fmod": "a - b * trunc(a / b)",
    "from_numpy": "tensor",
    "gather": "take_along_axis",
    "ge": "greater_equal",
    "gt": "greater",
    "half": "float16",
    "hstack": "concat",
    "index_select": "take",
    "inference_mode": "no_grad",
    "int": "int32",
    "le": "less_equal",
    "long": "int64; labels and indices may be int32",
    "lt": "less",
    "masked_fill": "where(mask, value, x)",
    "masked_select": "x[mask]",
    "mm": "matmul",
    "movedim": "moveaxis",
    "mul": "multiply",
    "mv": "matmul",
    "ne": "not_equal",
    "neg": "negative",
    "numel": "x.size",
    "Parameter": "nn.Parameter",
    "permute": "permute_dims",
    "randperm": "permutation",
    "rand_like": "rand(x.shape, device=x.device)",
    "randn_like": "randn(x.shape, device=x.device)",
    "repeat_interleave": "repeat",
    "scatter": "scatter_add, or x[index] = value",
    "set_grad_enabled": "no_grad or enable_grad",
    "sub": "subtract",
    "swapdims": "swapaxes",
    "t": "matrix_transpose",
    "transpose": "swapaxes",
    "true_divide": "divide",
    "unbind": "unstack",
    "unique": "unique_values, and unique_counts, unique_inverse, unique_all",
    "unsqueeze": "expand_dims",
    "vstack": "concat",
}

# Of a tensor: what PyTorch writes in place, and what has a question in it.
METHODS = {
    **{
        name + "_": f"{_VALUE}write x {sign}= y, or x[i] {sign}= y for a part of it"
        for name, sign in {"add": "+", "sub": "-", "mul": "*", "div": "/"}.items()
    },
    "clamp_": f"{_VALUE}write x[...] = x.clip(low, high)",
    "copy_": f"{_VALUE}write x[...] = y, or x.assign(y)",
    "cuda": 'use x.to("cuda")',
    "data": "use x.detach() to read, x.assign(y) or nn.init to write",
    "fill_": f"{_VALUE}write x[...] = value",
    "masked_fill_": f"{_VALUE}write x[mask] = value",
    "normal_": "use nn.init.normal_(x)",
    "repeat": "use x.tile(...) for the whole, as PyTorch's, or x.repeat_interleave(n) for "
    "each element, as NumPy's",
    "scatter_": f"{_VALUE}write x[index] = value, or use x.scatter_add",
    "scatter_add_": f"{_VALUE}use x.scatter_add(index, source, axis=...)",
    "uniform_": "use nn.init.uniform_(x)",
    "unsqueeze_": f"{_VALUE}use x.unsqueeze",
    "zero_": f"{_VALUE}write x[...] = 0",
}


class Elsewhere:
    """An attribute of a class that is not there, and says what is.

    As an attribute of the class it costs nothing: a `__getattr__` would slow down all others.
    """

    def __init__(self, name: str, hint: str):
        self.name, self.hint = name, hint

    def __get__(self, instance: Any, owner: type) -> NoReturn:
        raise AttributeError(
            f"{owner.__name__}.{self.name}: {self.hint}", name=self.name, obj=instance
        )


def no_function(module: str, name: str) -> AttributeError:
    """The exception for a function that a module has not, with its name here if it has one."""
    text = f"module {module!r} has no attribute {name!r}"
    if name in FUNCTIONS:
        text += f"; here it is {FUNCTIONS[name]}"
    return AttributeError(text, name=name)
