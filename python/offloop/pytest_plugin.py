"""A pytest plugin: fails a test in which an event loop stood still, with the report of where.

    pytest --fail-on-stall            # for 100 ms
    pytest --fail-on-stall=50ms

or `fail_on_stall = 50ms` in pytest's configuration. `@pytest.mark.stall_threshold(0.5)` sets
another threshold (in seconds, or as `"500ms"`) for a test, `@pytest.mark.allow_stalls` none. It
watches whatever loop runs during the test and its fixtures, in any thread, made by whomever:
`asyncio.run`, uvloop, pytest-asyncio, anyio.

pytest finds this by itself where offloop is installed. If it isn't asked for, nothing of offloop is
imported.
"""
# PYTEST_DONT_REWRITE

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ._watch.watch import Watch

_OPTION = "fail_on_stall"


def pytest_addoption(parser: pytest.Parser) -> None:
    about = "fail tests in which an event loop stands still for so long (default: 100ms)"
    group = parser.getgroup("offloop")
    group.addoption(
        "--fail-on-stall",
        dest=_OPTION,
        nargs="?",
        const="1",
        metavar="TIME",
        help=about,
    )
    parser.addini(_OPTION, about)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config, args: list[str]) -> None:
    """Without a time, the option must not take the path that comes after it for one."""
    if "--fail-on-stall" not in args:
        return
    args[:] = ["--fail-on-stall=1" if arg == "--fail-on-stall" else arg for arg in args]
    parser = early_config._parser  # pyright: ignore[reportPrivateUsage]
    early_config.known_args_namespace.file_or_dir = parser.parse_known_args(args).file_or_dir


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "stall_threshold(time): with --fail-on-stall, how long loops may stand still in this test",
    )
    config.addinivalue_line(
        "markers", "allow_stalls: with --fail-on-stall, event loops may stand still in this test"
    )
    asked: str | None = config.getoption(_OPTION)
    if asked is None:
        asked = config.getini(_OPTION) or None
    if asked is None:
        return
    from ._watch import start

    try:
        threshold = start.threshold(asked)
    except ValueError:
        raise pytest.UsageError(
            f"--fail-on-stall is {asked!r}; it can be a length of time such as 50ms"
        ) from None
    if threshold is not None:
        config.pluginmanager.register(_Plugin(threshold), "offloop.stalls")


class _Plugin:
    """What is done if it is asked for."""

    def __init__(self, threshold: float) -> None:
        from ._watch import hook

        self._threshold = threshold
        # From now on, as fixtures may start loops that outlive many tests.
        hook.install()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, None, None]:
        return (yield from self._watched(item, "setup"))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, None, None]:
        return (yield from self._watched(item, "call"))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, None, None]:
        return (yield from self._watched(item, "teardown"))

    def _watched(self, item: pytest.Item, when: str) -> Generator[None, None, None]:
        threshold = self._threshold_of(item)
        if threshold is None:
            return (yield)
        from ._watch.watch import watch

        # All that run, and if this phase itself should be in a loop, that one.
        with watch(threshold=threshold, logger=None) as stalls:
            try:
                result = yield
            except BaseException:
                stalls.stop()
                if stalls.stalls:
                    # It failed for a reason of its own; this may be why.
                    item.add_report_section(when, "stalls", _text(stalls, threshold))
                raise
        if stalls.stalls:
            pytest.fail(_text(stalls, threshold), pytrace=False)
        return result

    def _threshold_of(self, item: pytest.Item) -> float | None:
        marker = next(
            (
                marker
                for marker in item.iter_markers()  # the closest comes first
                if marker.name in ("stall_threshold", "allow_stalls")
            ),
            None,
        )
        if marker is None:
            return self._threshold
        if marker.name == "allow_stalls":
            return None
        from ._watch import start

        try:
            (value,) = marker.args
            return start.seconds(str(value))
        except ValueError:
            raise pytest.UsageError(
                f"{item.nodeid}: stall_threshold takes one length of time, as 0.5 or '500ms'"
            ) from None


def _text(watch: Watch, threshold: float) -> str:
    lines = [f"an event loop stood still for more than {threshold * 1000:g} ms"]
    for summary in watch.stalls:
        lines += ["", str(summary), str(summary.last)]
    return "\n".join(lines)
