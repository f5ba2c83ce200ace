"""A house and a receiver of its webhooks: ``unshare -Urmn python -m tests.whole.hooked FOLDER``.

The receiver's certificate lies in FOLDER, and whoever starts this trusts it (``SSL_CERT_FILE``).
In those namespaces ``/etc/hosts`` is ours, and so is port 443; the house finds its way as it would outside.
"""

import fcntl
import json
import socket
import ssl
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import openai

from ops.bench.stack import Stack
from tests.common.peer import OK, peer

NAME = "hooks.example.com"
_COUNTING = """
[[models]]
name = "counting"
path = "counting:?answer=100"
"""
_LINE = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"model": "counting", "prompt": "1 "}}
_NOT_NOW = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_WAIT_S = 60


def heard(client: openai.OpenAI, asked: bytes, secret: str) -> Any:
    """The event of a request, whose signature the SDK accepts."""
    head, _, body = asked.partition(b"\r\n\r\n")
    headers = dict(line.decode().split(": ", 1) for line in head.split(b"\r\n")[1:])
    return client.webhooks.unwrap(body, headers, secret=secret)


def _loopback_up() -> None:
    with socket.socket() as any_one:
        asked = fcntl.ioctl(any_one, _SIOCGIFFLAGS, struct.pack("16sh14x", b"lo", 0))
        _, flags = struct.unpack("16sh14x", asked)
        fcntl.ioctl(any_one, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))


def _batch(client: openai.OpenAI) -> str:
    file = client.files.create(file=("in", json.dumps(_LINE).encode()), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h").id


def main() -> None:
    """Two batches, one behind the other; what the receiver heard, as JSON."""
    folder = Path(sys.argv[1])
    hosts = folder / "hosts"
    hosts.write_text(f"127.0.0.1 localhost {NAME} {NAME}.\n")
    subprocess.run(["mount", "--bind", hosts, "/etc/hosts"], check=True)  # noqa: S607
    _loopback_up()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / f"{NAME}.pem")
    with peer(_NOT_NOW, OK, context=context, port=443) as it:
        stack = Stack(folder, _COUNTING, fetch_exempt="127.0.0.0/8")
        try:
            client = stack.wait_ready().client()
            hook = client.webhooks.create(name="nightly", url=f"https://{NAME}/hook", event_types=["batch.completed"])
            batches = [_batch(client)]
            until = time.monotonic() + _WAIT_S
            while len(it.asked) < 2 and time.monotonic() < until:
                time.sleep(0.1)  # for the second try
            batches.append(_batch(client))
            while len(it.asked) < 3 and time.monotonic() < until:
                time.sleep(0.1)
            events = [heard(client, asked, hook.signing_secret) for asked in it.asked[1:]]
        finally:
            stack.stop()
    told = {"batches": batches, "tries": len(it.asked), "heard": [[one.type, one.data.id] for one in events]}
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main()
