"""A supervisor in a process of its own: ``python -m tests.ops.little_house NAME:BEHAVIOUR:ORDER:PATIENCE_S …``."""

import sys

from common.processes import UNUSABLE
from common.settings import bare_environment
from ops.cli.programs import Module
from ops.cli.supervisor import Supervisor


def main() -> int:
    modules = []
    for word in sys.argv[1:]:
        name, behaviour, order, patience_s = word.split(":")
        command = ("tests.ops.tenant", name, behaviour)
        modules.append(Module(name, command, bare_environment(), int(order), float(patience_s)))
    with Supervisor(is_hopeless=lambda status: status == UNUSABLE) as supervisor:
        return supervisor.run(modules)


if __name__ == "__main__":
    sys.exit(main())
