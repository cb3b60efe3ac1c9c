#!/bin/sh
# Runs the cpu backend's tests on a build with AddressSanitizer and UBSan, and the
# thread pool's under ThreadSanitizer. Usage: tests/sanitize.sh [pytest arguments]
set -eu
cd "$(dirname "$0")/.."
build=${PN_SANITIZE_DIR:-build/sanitize}
python=${PYTHON:-python3}

mkdir -p "$build"
cmake -S . -B "$build" -DPN_SANITIZE=address,undefined -DPN_WERROR=ON \
  -DPython_EXECUTABLE="$(command -v "$python")" > "$build.log" 2>&1 ||
  { cat "$build.log"; exit 1; }
cmake --build "$build" --parallel

# The extension of that build, in place of the one that is installed.
PN_EXTENSION=$(realpath "$build"/_c*.so) PYTHONPATH=tests/c${PYTHONPATH:+:$PYTHONPATH} \
  LD_PRELOAD="$(cc -print-file-name=libasan.so) $(cc -print-file-name=libstdc++.so)" \
  ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 \
  "$python" -m pytest -p sanitized tests/test_backend_cpu.py tests/test_kernels_cpu.py \
  tests/test_convolve.py tests/test_pool.py tests/test_attention.py tests/test_sort.py \
  tests/test_resample.py tests/test_epilogues.py tests/test_producers.py \
  tests/test_lent_gradients.py \
  tests/test_rows.py tests/test_operators.py tests/test_nn.py tests/test_nn_more.py \
  -q -k "not test_freed_memory and not wgpu" "$@"  # that build's pool keeps nothing

cc -std=gnu11 -D_GNU_SOURCE -g -O1 -fsanitize=thread -pthread -Iportanet/backend_cpu \
  tests/c/threads.c portanet/backend_cpu/threads.c portanet/backend_cpu/memory.c \
  -o "$build/threads"
"$build/threads"
