"""The compiled part of the cpu backend."""

from typing import final

from typing_extensions import Buffer as _SupportsBuffer

OPCODES: dict[str, int]
KERNELS: frozenset[str]
LEVELS: list[str]

@final
class Buffer(_SupportsBuffer):
    """Aligned memory from the pool, uninitialised; alloc() makes one."""

    @property
    def nbytes(self) -> int: ...
    @property
    def address(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class Launch:
    """A kernel with its parameters; call it with the buffers, outputs first."""

    @property
    def words(self) -> list[int]: ...
    @property
    def label(self) -> str: ...
    def __call__(self, *buffers: Buffer) -> None: ...

@final
class Sequence:
    """Launches in order; call it with the list of all buffers."""

    def __call__(self, buffers: list[Buffer | None], /) -> None: ...

def alloc(nbytes: int, /) -> Buffer: ...
def launch(
    kernel: str,
    words: bytes,
    dtypes: bytes,
    options: tuple[str, ...],
    code: bytes,
    label: str,
    /,
) -> Launch: ...
def sequence(
    steps: list[tuple[Launch, tuple[int, ...]]], buffers: int, /
) -> Sequence: ...
def memory() -> dict[str, int]: ...
def trim() -> None: ...
def num_threads() -> int: ...
def set_num_threads(count: int, /) -> None: ...
def level() -> str: ...
def set_level(name: str, /) -> None: ...
