"""Headless Chromium with WebGPU on its own software driver, for a page of a folder."""

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next((path for name in NAMES if (path := shutil.which(name))), None)
# Where a skip is a failure, so is a browser that is not there.
WANTED = CHROMIUM is not None or bool(os.environ.get("PORTANET_NO_SKIPS"))
FLAGS = (
    "--headless --no-sandbox --disable-gpu-sandbox --enable-unsafe-webgpu "
    "--use-webgpu-adapter=swiftshader --enable-features=Vulkan --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
).split()

PAGE = """<!doctype html>
<script type="module">
async function test() {
%s
}
let answer;
try { answer = { value: await test() }; }
catch (error) { answer = { error: `${error.name}: ${error.message}` }; }
await fetch("/answer", { method: "POST", body: JSON.stringify(answer) });
</script>
"""


class Server(ThreadingHTTPServer):
    """Serves a folder on 127.0.0.1 and keeps what its pages post."""

    daemon_threads = True

    def __init__(self, folder):
        self.answers, self.missing = queue.Queue(), []
        super().__init__(
            ("127.0.0.1", 0), lambda *a: Handler(*a, directory=str(folder))
        )

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc):
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        """A browser that is stopped closes its connections: that is no error."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Handler(SimpleHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()
        self.server.answers.put(json.loads(body))

    def send_error(self, code, message=None, explain=None):
        self.server.missing.append(self.path)
        super().send_error(code, message, explain)

    def log_message(self, *args):
        pass


def run(folder, profile, script, timeout=120):
    """What a script returns that runs as a module in a page of the folder.

    The script is the body of an async function. RuntimeError with what it throws, or
    where the page asks for a file that is not there.
    """
    assert CHROMIUM, "chromium is not installed: apt-get install chromium"
    (folder / "test.html").write_text(PAGE % script)
    env = {k: v for k, v in os.environ.items() if not k.startswith("VK_")}
    with Server(folder) as server:
        url = f"http://127.0.0.1:{server.server_port}/test.html"
        child = subprocess.Popen(
            [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", url],
            env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        try:
            answer = server.answers.get(timeout=timeout)
        finally:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    if missing := [m for m in server.missing if m != "/favicon.ico"]:
        raise RuntimeError(f"the page asked for {missing}")
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return answer["value"]
