"""The metrics of the service, besides those of its pools."""

from __future__ import annotations

from collections import Counter

import offloop


class Metrics:
    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        """The requests by route and status."""
        self.clients_gone = 0
        """The requests whose clients have not waited for the answer."""
        self.calls_cancelled: Counter[str] = Counter()
        """The calls that were cut off, by system."""

    def page(self, late: float, mode: str, modes: list[str], messages: dict[str, int]) -> str:
        """Returns all metrics, as Prometheus reads them."""
        lines = ["# TYPE mercuriy_requests_total counter"]
        lines += [
            f'mercuriy_requests_total{{route="{route}",status="{status}"}} {count}'
            for (route, status), count in sorted(self.requests.items())
        ]
        lines += [
            "# TYPE mercuriy_clients_gone_total counter",
            f"mercuriy_clients_gone_total {self.clients_gone}",
        ]
        lines.append("# TYPE mercuriy_calls_cancelled_total counter")
        lines += [
            f'mercuriy_calls_cancelled_total{{system="{system}"}} {count}'
            for system, count in sorted(self.calls_cancelled.items())
        ]
        lines.append("# TYPE mercuriy_messages gauge")
        lines += [f'mercuriy_messages{{state="{state}"}} {count}' for state, count in messages.items()]
        lines += ["# TYPE mercuriy_loop_late_seconds gauge", f"mercuriy_loop_late_seconds {late:.6f}"]
        lines.append("# TYPE mercuriy_mode gauge")
        lines += [f'mercuriy_mode{{on="{one}"}} {int(one == mode)}' for one in modes]
        return offloop.prometheus() + "\n".join(lines) + "\n"


metrics = Metrics()
