"""The front end under gunicorn, with a door that neither tokenises nor asks for workers."""

import time
from typing import Any

from api import server
from common.errors import InternalError
from common.identity import Principal
from common.jobs import Job, Reply, Sampling, new_id
from common.settings import load


class CountingDoor:
    """Every prompt is three tokens."""

    def admit(self, ask: Any, who: Principal, _headers: Any) -> Job:
        if ask.user == "explode":
            raise ZeroDivisionError
        if ask.user == "slow":
            time.sleep(1)
        if ask.user == "oops":
            raise InternalError("It broke.")
        kind = "chat" if hasattr(ask, "messages") else "completion"
        include_usage = bool(ask.stream_options and ask.stream_options.include_usage)
        return Job(
            id=new_id(),
            model=ask.model or "m",
            prompts=((1, 2, 3),),
            sampling=Sampling(ask.max_tokens or 256),
            reply=Reply(kind, bool(ask.stream), include_usage),  # type: ignore[arg-type]
            owner=who.owner,
            share=who.share(ask.user),
            seed=7,
            created=int(time.time()),
            on_disconnect=ask.on_disconnect or "cancel",
        )

    def refuse_if_gone(self, _model: str) -> None:
        """None is."""

    def close(self) -> None:
        """Nothing to leave."""


class Served(server.Server):
    """The real thing but for the door."""

    def load(self) -> Any:
        from api.app import create_app
        from common import telemetry

        telemetry.configure(self._settings)
        return create_app(self._settings, CountingDoor())


if __name__ == "__main__":
    server.serve(load(), Served)
