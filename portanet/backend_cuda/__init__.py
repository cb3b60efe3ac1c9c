"""The name of the native CUDA backend, which this version does not have yet."""

from ..errors import DeviceError


class Backend:
    """Says why there is no cuda device."""

    name = "cuda"

    def __init__(self, index: int = 0):
        raise DeviceError(
            "cuda: the native CUDA backend is not part of this version; "
            "NVIDIA GPUs work as device='wgpu', through Vulkan"
        )
