"""A pytest plugin that plants one fault in a CUDA file of the package, in memory.

CUSIM_FAULT is JSON: [file, right, wrong]; `right` must be there once.
"""

import json
import os

from portanet.backend_cuda import lower

FILE, RIGHT, WRONG = json.loads(os.environ["CUSIM_FAULT"])
without_fault = lower.file_text


def file_text(name: str) -> str:
    text = without_fault(name)
    if name != FILE:
        return text
    assert text.count(RIGHT) == 1, f"{name} has {text.count(RIGHT)} times {RIGHT!r}"
    return text.replace(RIGHT, WRONG)


lower.file_text = file_text
