"""Threads that wait for others."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from common.processes import yield_to_others


def test_a_thread_and_what_it_starts_yield_and_the_others_do_not() -> None:
    before, found = _nice(), dict[str, int]()

    def work() -> None:
        yield_to_others()
        yield_to_others()
        found["thread"] = _nice()
        with ThreadPoolExecutor(1) as pool:
            found["its threads"] = pool.submit(_nice).result()
        command = [sys.executable, "-c", "import os; print(os.nice(0))"]
        found["its children"] = int(subprocess.run(command, capture_output=True, check=True).stdout)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    assert found == dict.fromkeys(("thread", "its threads", "its children"), max(before, 5))
    assert _nice() == before


def _nice() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
