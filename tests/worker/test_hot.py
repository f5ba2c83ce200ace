import subprocess
import sys

from common.jobs import new_id
from common.settings import REPOSITORY
from worker.hot import HotFile


def test_what_a_killed_child_was_working_on_can_be_read() -> None:
    ids = [new_id(), new_id()]
    script = "import sys, os; from worker.hot import HotFile\n"
    script += "HotFile(open(int(sys.argv[1]), 'r+b', buffering=0)).mark(sys.argv[2:]); os.kill(os.getpid(), 9)"

    with HotFile.make() as file:
        hot = HotFile(file)
        command = [sys.executable, "-c", script, str(file.fileno()), *ids]
        child = subprocess.run(command, pass_fds=[file.fileno()], cwd=REPOSITORY, check=False)
        marked = hot.read()
        hot.close()

    assert child.returncode == -9
    assert marked == set(ids)


def test_nothing_is_hot_after_a_step() -> None:
    with HotFile.make() as file:
        hot = HotFile(file)
        hot.mark([new_id()])
        hot.clear()

        assert hot.read() == frozenset()
        hot.close()


def test_more_jobs_than_fit_are_cut_not_torn() -> None:
    with HotFile.make() as file:
        hot = HotFile(file)
        hot.mark([new_id() for _ in range(5000)])

        assert len(hot.read()) == 4096
        hot.close()
