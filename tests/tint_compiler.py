"""Compile WGSL with Tint, the compiler of browsers, on Dawn's null backend: no driver.

naga, which wgpu uses, lets through what a browser refuses: barriers in non-uniform
control flow, workgroup storage over the limit. `compile_all` sends every shader to one
child process, so that a crash of the compiler is a failed test and not the end of all.
"""

from __future__ import annotations

import ctypes
import json
import re
import subprocess
import sys


def compile_all(
    shaders: dict[str, str], *, pipelines: bool = True
) -> dict[str, str | None]:
    """The error of each shader, None where Tint accepts it.

    shaders: name -> WGSL, `enable` lines included (f16 and subgroups are there).
    pipelines: also make each compute pipeline, which checks WebGPU's default limits
    (the null backend has no others); False for variants that need higher ones. Every
    `override` needs a default then. Raises RuntimeError if the compiler itself fails.
    """
    request = json.dumps({"shaders": shaders, "pipelines": pipelines})
    done = subprocess.run(
        [sys.executable, __file__],
        check=False,
        input=request,
        capture_output=True,
        text=True,
        timeout=600,
    )
    answer = {}
    for line in done.stdout.splitlines():
        name, error = json.loads(line)
        answer[name] = error
    lost = [name for name in shaders if name not in answer]
    if lost or done.returncode:
        raise RuntimeError(
            f"tint: the compiler ended with {done.returncode} at shader "
            f"{lost[:1]}: {done.stderr[-1000:]}"
        )
    return answer


# ------------------------------------------------------------- in the child process


class Compiler:
    """A device on Dawn's null backend, and the errors that it reports."""

    def __init__(self):
        from pydawn import utils, webgpu  # creates the Dawn instance

        self.utils, self.webgpu, self.errors = utils, webgpu, []
        self.adapter = self._request_adapter()
        self.device = self._request_device()

    def _request_adapter(self):
        w, found = self.webgpu, []
        info = w.WGPURequestAdapterCallbackInfo()
        info.mode = w.WGPUCallbackMode_WaitAnyOnly
        info.callback = w.WGPURequestAdapterCallback(
            lambda status, adapter, text, _: found.append((adapter, view(text)))
        )
        options = w.WGPURequestAdapterOptions()
        options.backendType = w.WGPUBackendType_Null
        self.utils.wait(
            w.wgpuInstanceRequestAdapterF(self.utils.instance, options, info)
        )
        if not found or not found[0][0]:
            raise RuntimeError(f"tint: Dawn has no null backend: {found}")
        return found[0][0]

    def _features(self) -> list[int]:
        """Everything that the null backend has: f16, subgroups."""
        w = self.webgpu
        features = w.WGPUSupportedFeatures()
        w.wgpuAdapterGetFeatures(self.adapter, ctypes.byref(features))
        names = {w.WGPUFeatureName_ShaderF16, w.WGPUFeatureName_Subgroups}
        there = [features.features[i] for i in range(features.featureCount)]
        return [feature for feature in there if feature in names]

    def _request_device(self):
        w, found = self.webgpu, []
        descriptor = w.WGPUDeviceDescriptor()
        features = self._features()
        array = (w.WGPUFeatureName * len(features))(*features)
        descriptor.requiredFeatureCount = len(features)
        descriptor.requiredFeatures = ctypes.cast(
            array, ctypes.POINTER(w.WGPUFeatureName)
        )
        # Dawn calls this at once, inside the call that made the error.
        errors = descriptor.uncapturedErrorCallbackInfo2
        self._on_error = dict(w.WGPUUncapturedErrorCallbackInfo2._fields_)["callback"](
            lambda device, kind, text, a, b: self.errors.append(view(text))
        )
        errors.callback = self._on_error
        info = w.WGPURequestDeviceCallbackInfo()
        info.mode = w.WGPUCallbackMode_WaitAnyOnly
        info.callback = w.WGPURequestDeviceCallback(
            lambda status, device, text, _: found.append((device, view(text)))
        )
        self.utils.wait(w.wgpuAdapterRequestDeviceF(self.adapter, descriptor, info))
        if not found or not found[0][0]:
            raise RuntimeError(f"tint: no device: {found}")
        return found[0][0]

    def error(self, wgsl: str, pipelines: bool) -> str | None:
        """What Tint says of the module, then of each compute pipeline."""
        w = self.webgpu
        self.errors.clear()
        code = ctypes.create_string_buffer(wgsl.encode())
        source = w.WGPUShaderSourceWGSL()
        source.chain.sType = w.WGPUSType_ShaderSourceWGSL
        source.code = string_view(w, code)
        descriptor = w.WGPUShaderModuleDescriptor()
        descriptor.nextInChain = ctypes.cast(
            ctypes.pointer(source), ctypes.POINTER(w.struct_WGPUChainedStruct)
        )
        module = w.wgpuDeviceCreateShaderModule(self.device, descriptor)
        if pipelines and not self.errors:
            for entry in entry_points(wgsl):
                self._pipeline(module, entry)
        w.wgpuShaderModuleRelease(module)
        return "\n".join(self.errors) or None

    def _pipeline(self, module, entry: str) -> None:
        w = self.webgpu
        name = ctypes.create_string_buffer(entry.encode())
        descriptor = w.WGPUComputePipelineDescriptor()
        descriptor.compute.module = module
        descriptor.compute.entryPoint = string_view(w, name)
        pipeline = w.wgpuDeviceCreateComputePipeline(self.device, descriptor)
        w.wgpuComputePipelineRelease(pipeline)


def view(text) -> str:
    """The text of a WGPUStringView."""
    return ctypes.string_at(text.data, text.length).decode() if text.data else ""


def string_view(w, buffer):
    """A WGPUStringView of a buffer that the caller keeps alive."""
    result = w.WGPUStringView()
    result.data = ctypes.cast(buffer, ctypes.POINTER(ctypes.c_char))
    result.length = len(buffer) - 1  # without the final zero byte
    return result


def entry_points(wgsl: str) -> list[str]:
    """Names of the compute entry points.

    >>> entry_points("@compute @workgroup_size(8, 8)\\nfn main() {}")
    ['main']
    """
    bare = re.sub(r"//[^\n]*|/\*.*?\*/", " ", wgsl, flags=re.DOTALL)
    head = (
        r"@compute\b((?:\s*@\w+(?:\s*\([^()]*(?:\([^()]*\)[^()]*)*\))?)*)\s*fn\s+(\w+)"
    )
    first = r"@workgroup_size\s*\([^()]*\)\s*@compute\s+fn\s+(\w+)"
    names = [m[1] for m in re.findall(head, bare)] + re.findall(first, bare)
    return list(dict.fromkeys(names))


def main() -> None:
    """Read the request on stdin; one JSON line [name, error] per shader on stdout."""
    request = json.load(sys.stdin)
    compiler = Compiler()
    for name, wgsl in request["shaders"].items():
        error = compiler.error(wgsl, request["pipelines"])
        print(json.dumps([name, error]), flush=True)


if __name__ == "__main__":
    main()
