"""The errors of devices. Everything else raises what NumPy would."""


class DeviceError(RuntimeError):
    """A device is missing, was lost, or can't do what was asked; the message says which."""


class OutOfMemoryError(DeviceError, MemoryError):
    """A device has no room for a tensor; the message has the sizes."""
