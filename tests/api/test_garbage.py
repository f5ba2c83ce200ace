"""What a connection leaves behind, and what is never looked at for it."""

import subprocess
import sys

from common.settings import REPOSITORY

_CONNECTION = """
from gevent import monkey
monkey.patch_all()
import gc, os, socket
import gevent
from gunicorn.config import Config
from gunicorn.glogging import Logger
from api.connection import Connection
from api.server import FrontEnd

def application(environ, start):
    start("200 OK", [("Content-Length", "2")])
    return [b"ok"]

worker = FrontEnd(1, os.getppid(), [], None, 30, Config(), Logger(Config()))
worker.wsgi, worker.alive = application, True
gc.disable()
with socket.create_server(("127.0.0.1", 0)) as listener:
    with socket.create_connection(listener.getsockname()) as client:
        head = b"GET / HTTP/1.1\\r\\nHost: a\\r\\n"
        client.sendall(head + b"\\r\\n" + head + b"Connection: close\\r\\n\\r\\n")
        gevent.spawn(worker.handle, listener, *listener.accept()).join()
        print(client.makefile("rb").read().count(b"200 OK"))
print(sum(isinstance(one, Connection) for one in gc.get_objects()))
"""
_LOADED = """
from gevent import monkey
monkey.patch_all()
import gc, os
from gunicorn.app.base import BaseApplication
from gunicorn.config import Config
from gunicorn.glogging import Logger
from api.server import FrontEnd

class Application(BaseApplication):
    def load_config(self): pass
    def load(self): return print

worker = FrontEnd(1, os.getppid(), [], Application(), None, Config(), Logger(Config()))
worker.load_wsgi()
print(worker.wsgi is print, len(gc.get_objects()) < 1000 < gc.get_freeze_count())
"""


def test_a_connection_that_has_ended_is_freed_at_once() -> None:
    told = subprocess.run(
        [sys.executable, "-c", _CONNECTION], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )

    assert told.stdout.split() == ["2", "0"]


def test_what_a_front_end_has_loaded_is_never_looked_at_again() -> None:
    told = subprocess.run([sys.executable, "-c", _LOADED], cwd=REPOSITORY, capture_output=True, text=True, check=True)

    assert told.stdout.split() == ["True", "True"]
