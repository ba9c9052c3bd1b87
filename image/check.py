"""``make image-check``: what an image would run, without one: the packages that install.sh brings serve the Bento's files.

Usage: ``check.py PACKAGES CONTEXT``; prints sizes, exits 1 where the service does not get ready or finds torch.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

START_LIMIT_S = 60
MEGABYTE = 10**6


def size_mb(folder: Path) -> float:
    """Bytes of the files below `folder`, in megabytes; what is linked counts once."""
    files = {(status.st_dev, status.st_ino): status.st_size for path in folder.rglob("*") if path.is_file() for status in [path.lstat()]}
    return sum(files.values()) / MEGABYTE


def command(containerfile: str) -> list[str]:
    """What the last stage starts."""
    words = [re.findall(rf"^{key} \[(.+)\]$", containerfile, re.MULTILINE)[-1] for key in ("ENTRYPOINT", "CMD")]
    return [word for line in words for word in re.findall(r'"([^"]+)"', line)]


def is_ready(process: subprocess.Popen[bytes], port: int) -> bool:
    """Whether ``/readyz`` says yes within the limit."""
    limit = time.monotonic() + START_LIMIT_S
    while time.monotonic() < limit and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    return False


def main() -> int:
    """Start the service as the image would, on loopback, and stop it."""
    packages, context = (Path(argument).resolve() for argument in sys.argv[1:3])
    python = packages / "bin" / "python"
    if subprocess.run([python, "-c", "import torch"], capture_output=True, check=False).returncode == 0:
        print("the packages have torch", file=sys.stderr)
        return 1
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    with tempfile.TemporaryDirectory() as home:
        environment = {
            "PATH": f"{packages / 'bin'}:/usr/bin:/bin", "HOME": home, "BENTOML_HOME": f"{home}/bentoml", "BENTOML_DO_NOT_TRACK": "True",
            "BENTOML_HOST": "127.0.0.1", "BENTOML_PORT": str(port), "PYTHONDONTWRITEBYTECODE": "1", "PILOTAGE_DRAIN_S": "0",
        }  # fmt: skip
        begin = time.monotonic()
        service = subprocess.Popen(
            command((context / "Containerfile").read_text()), cwd=context / "src", env=environment, start_new_session=True
        )
        try:
            ready = is_ready(service, port)
            start_s = time.monotonic() - begin
        finally:
            os.killpg(service.pid, signal.SIGTERM)
            service.wait(30)
    sizes = f"packages {size_mb(packages):.0f} MB, src {size_mb(context / 'src'):.1f} MB"
    print(f"{sizes}, {'ready' if ready else 'not ready'} after {start_s:.1f} s")
    return 0 if ready else 1


if __name__ == "__main__":
    sys.exit(main())
