"""A process that runs tests with a fault planted in a CUDA file of the package, in memory.

    python -m tests.cuda.planted FILE...

reads lines of JSON, [[file, right, wrong] or null, pytest's -k], and answers each with one,
[status, output]. `right` must be there once. Each runs in a fork: what the test files import
is imported, and what pytest needs of them is compiled, once for all.
"""

import json
import os
import signal
import sys

import pytest

from portanet.backend_cuda import lower

SECONDS = 300  # that one run may take


def plant(file: str, right: str, wrong: str) -> None:
    without_fault = lower.file_text

    def file_text(name: str) -> str:
        text = without_fault(name)
        if name != file:
            return text
        assert text.count(right) == 1, f"{name} has {text.count(right)} times {right!r}"
        return text.replace(right, wrong)

    lower.file_text = file_text


def run(files: list[str], fault: list[str] | None, chosen: str) -> int:
    """pytest's status."""
    if fault:
        plant(*fault)
    options = ["-x", "-q", "--tb=line", "-p", "no:cacheprovider", "-o", "addopts="]
    if os.environ.get("CUSIM_SANITIZE"):  # or what it prints as it aborts is lost
        options.append("--capture=no")
    return int(pytest.main([*options, *files, "-k", chosen]))


def forked(files: list[str], fault: list[str] | None, chosen: str) -> tuple[int, str]:
    """(status, or minus the signal that ended it; output)."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(SECONDS)
        os.dup2(write, 1)
        os.dup2(write, 2)
        try:
            status = run(files, fault, chosen)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)
    os.close(write)
    with open(read, errors="replace") as output:
        text = output.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text


def main(files: list[str]) -> None:
    import importlib

    for file in files:
        importlib.import_module(file.removesuffix(".py").replace("/", "."))
    for line in sys.stdin:
        fault, chosen = json.loads(line)
        print(json.dumps(forked(files, fault, chosen)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
