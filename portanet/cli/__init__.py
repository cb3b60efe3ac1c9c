"""The command line: `portanet COMMAND`, one module a command.

A command is a module of this folder with `add_arguments(parser)` and `run(arguments)`,
which gives the exit status. Status: 0 done, 1 failed, 2 the arguments are wrong, 130
Ctrl-C. Modules import what is slow to load inside functions, so that `--help` is quick.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from ..errors import DeviceError
from .messages import CommandError

INTERRUPTED = 130  # 128 + SIGINT, as shells have it

# Command -> its module and what `portanet --help` says of it, in the order of use.
COMMANDS = {
    "info": (".info", "the devices of this machine: which work, and why others don't"),
    "doctor": ("..doctor", "what is wrong here, and the one command that cures it"),
    "demo": (".demo", "train a digits classifier on every device, or run another demo"),
    "classify": (".classify", "read a digit with a model that the demo saved"),
    "show": (".show", "the WGSL or C that an operator becomes"),
    "bench": (".bench", "time operators and a training step on every device"),
}


def _parser() -> argparse.ArgumentParser:
    import portanet

    parser = argparse.ArgumentParser(
        prog="portanet", description="Arrays, autograd and neural networks on any GPU."
    )
    version = f"portanet {portanet.__version__}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, (path, summary) in COMMANDS.items():
        module = importlib.import_module(path, __name__)
        command = commands.add_parser(name, help=summary, description=module.__doc__)
        command.formatter_class = argparse.RawDescriptionHelpFormatter
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit status. What went wrong is one line on stderr."""
    try:
        arguments = _parser().parse_args(argv)
        status = arguments.run(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return _failed("interrupted", INTERRUPTED)
    except (CommandError, DeviceError) as error:
        return _failed(str(error))
    except BrokenPipeError:
        _drop_unwritten()
        return 1
    except OSError as error:
        _drop_unwritten()
        where = f"{error.filename}: " if error.filename else ""
        return _failed(f"{where}{error.strerror or error}")


def _failed(text: str, status: int = 1) -> int:
    if sys.stderr is not None:
        print(f"portanet: {text}", file=sys.stderr)
    return status


def _drop_unwritten() -> None:
    """Where stdout takes no more, what is left for it must not raise again at exit."""
    stdout = sys.stdout
    if stdout is None:
        return
    try:
        stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())
