"""Loaded at the start of every Python process whose PYTHONPATH has this folder: writes down what it connects to.

One JSON list per event is appended to the file that WATCH_FILE names. An import is written with the value that
ORT_DISABLE_TELEMETRY has at that moment.
"""

from __future__ import annotations

import json
import os
import sys

_FILE = os.open(os.environ["WATCH_FILE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
_IMPORTS = ("onnxruntime", "huggingface_hub", "torch", "cv2", "click")
_NAMES = ("socket.getaddrinfo", "socket.gethostbyname")
_ADDRESSES = ("socket.connect", "socket.sendto", "socket.sendmsg")


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if event == "import" and arguments[0] in _IMPORTS:
        line: list[object] = [event, arguments[0], os.environ.get("ORT_DISABLE_TELEMETRY")]
    elif event in _NAMES:
        line = [event, arguments[0]]
    elif event in _ADDRESSES:
        line = [event, arguments[1]]
    else:
        return
    os.write(_FILE, json.dumps(line, default=str).encode() + b"\n")


sys.addaudithook(_hook)
