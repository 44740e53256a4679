"""Stores on this machine: servers of S3 and Cloud Storage, and a proxy before them that counts, fails, cuts and delays.

The servers are those of requirements-clients.txt, so only tests marked ``clients`` start them.
"""

import collections
import contextlib
import http.client
import http.server
import pathlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

from . import PATIENCE_SECONDS
from .trees import contents

BUCKET = "studies"

# They open nothing, and a test finds them wherever they appear.
KEY, SECRET = "AKIACANARY7KEY", "canary7secret"

Answer = tuple[int, Mapping[str, str], bytes]
"""Status, headers and body."""

Fault = Callable[[int, str, Answer], Answer | None]
"""Gets the number of a request, from 1, its path, and what the server answers; returns what to answer instead. None
closes the connection. A body that is shorter than its Content-Length cuts the answer off."""


def no_fault(number: int, path: str, answer: Answer) -> Answer:
    return answer


class Proxy:
    """Passes requests on to a server of this machine, and counts them.

    Attributes:
        requests: method and path of each request.
        bodies: bytes of the body of each answer to a GET.
        fault: what is wrong with the answers.
    """

    def __init__(self, port: int) -> None:
        self.requests: list[tuple[str, str]] = []
        self.bodies: list[int] = []
        self.fault: Fault = no_fault
        self._lock = threading.Lock()
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _pass_on(self) -> None:
                answer = proxy._ask(port, self)
                if answer is None:
                    self.close_connection = True
                    return
                status, headers, body = answer
                length = int(headers.get("content-length", len(body)))
                self.send_response_only(status)
                for name, value in headers.items():
                    if name not in ("connection", "transfer-encoding", "content-length"):
                        self.send_header(name, value)
                self.send_header("Content-Length", str(length))
                self.end_headers()
                if self.command != "HEAD":
                    self.close_connection = len(body) < length
                    # A job that is killed waits for no answer.
                    with contextlib.suppress(ConnectionError):
                        self.wfile.write(body)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on  # noqa: N815

            def log_message(self, *arguments: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def _ask(self, port: int, request: http.server.BaseHTTPRequestHandler) -> Answer | None:
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)) as server:
            server.request(request.command, request.path, body, dict(request.headers))
            response = server.getresponse()
            headers = {name.lower(): value for name, value in response.getheaders()}
            answer: Answer = response.status, headers, response.read()
        with self._lock:
            self.requests.append((request.command, request.path))
            number = len(self.requests)
            if request.command == "GET":
                self.bodies.append(len(answer[2]))
        return self.fault(number, request.path, answer)

    def fetched(self) -> collections.Counter[str]:
        """How often each path was fetched; a listing has the path of what it lists, with a query."""
        return collections.Counter(path for method, path in self.requests if method == "GET")

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def broken(number: int, path: str, answer: Answer) -> Answer:
    """Answers every tenth request with an internal error."""
    return answer if number % 10 else (500, {}, b"")


def busy(number: int, path: str, answer: Answer) -> Answer:
    """Answers every tenth request with a refusal to serve it now."""
    return answer if number % 10 else (503, {}, b"")


def cut(number: int, path: str, answer: Answer) -> Answer:
    """Cuts the body of every tenth answer half way; the answer to a HEAD has none, and its length is the object's."""
    status, headers, body = answer
    if number % 10 or not body:
        return answer
    return status, {**headers, "content-length": str(len(body))}, body[: len(body) // 2]


def closed(number: int, path: str, answer: Answer) -> Answer | None:
    """Closes the connection of every tenth request."""
    return answer if number % 10 else None


def slow(number: int, path: str, answer: Answer) -> Answer:
    time.sleep(0.2)
    return answer


@contextlib.contextmanager
def serving(*command: str) -> Iterator[int]:
    """Runs a server for a ``with`` block; ``PORT`` in its command stands for the port that is yielded."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = int(unused.getsockname()[1])
    arguments = [argument.replace("PORT", str(port)) for argument in command]
    server = subprocess.Popen(
        [sys.executable, "-W", "ignore", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        end = time.monotonic() + PATIENCE_SECONDS
        while True:
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                break
            assert server.poll() is None, command
            assert time.monotonic() < end, command
            time.sleep(0.05)
        yield port
    finally:
        server.kill()
        server.wait()


def s3_environment(url: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def gs_environment(url: str) -> dict[str, str]:
    return {
        "STORAGE_EMULATOR_HOST": url,
        "FSSPEC_GS_TOKEN": "anon",
        # Else gcsfs asks each bucket for a feature that the emulator does not know, and waits a minute.
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
    }


def upload(filesystem: Any, tree: pathlib.Path, folder: str) -> None:
    """Puts every file of a tree below a folder of a bucket, in any order."""
    for name, content in contents(tree).items():
        filesystem.pipe_file(f"{BUCKET}/{folder}/{name}", content)
