"""A service that is stopped does what it has begun, as far as its time allows, and ends the rest."""

from __future__ import annotations

import signal
import subprocess
from typing import Any

from support import begin, until

FOREVER = 600


def test_a_service_that_is_stopped_ends_in_time(system: Any, program: Any) -> None:
    with begin(program, "/ask?seconds=1") as short, begin(program, f"/ask?seconds={FOREVER}"):
        until(lambda: system.running == 2, "both calls run")
        with begin(program, "/sum?n=1000000000000"):
            program.process.send_signal(signal.SIGTERM)
            # It had begun, and there was time for it.
            assert short.recv(65536).startswith(b"HTTP/1.1 200")
            try:
                program.process.wait(30)
            except subprocess.TimeoutExpired:
                raise AssertionError("the service has not ended in time") from None
    # What there was no time for has been ended on the system, too.
    until(lambda: system.running == 0, "the calls end on the system")
