"""A pytest plugin: fails a test in which an event loop stood still, with a report of the place.

    pytest --fail-on-stall            # for 100 ms
    pytest --fail-on-stall=50ms

or `fail_on_stall = 50ms` in pytest's configuration. `@pytest.mark.stall_threshold(0.5)` sets
another threshold (in seconds, or as `"500ms"`) for a test, and `@pytest.mark.allow_stalls` turns the
check off. Time in which the loop's thread had no core does not count, nor does the time that offloop's own first
call takes to start a pool. It watches all loops that run during the test and its fixtures, in any thread, however they
were made: by `asyncio.run`, uvloop, pytest-asyncio or anyio.

pytest finds the plugin by itself if offloop is installed. Unless the check is asked for, nothing else of
offloop is imported.
"""
# PYTEST_DONT_REWRITE

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ._watch.report import StallSummary
    from ._watch.watch import Watch

_OPTION = "fail_on_stall"


def pytest_addoption(parser: pytest.Parser) -> None:
    about = "fail tests in which an event loop stands still for this time or longer (default: 100ms)"
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
    """Keeps the option without a time from taking the path after it as the time."""
    if "--fail-on-stall" not in args:
        return
    args[:] = ["--fail-on-stall=1" if arg == "--fail-on-stall" else arg for arg in args]
    parser = early_config._parser  # pyright: ignore[reportPrivateUsage]
    early_config.known_args_namespace.file_or_dir = parser.parse_known_args(args).file_or_dir


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "stall_threshold(time): with --fail-on-stall, the time for which loops may stand still in this test",
    )
    config.addinivalue_line(
        "markers", "allow_stalls: with --fail-on-stall, event loops may stand still in this test"
    )
    asked: str | None = config.getoption(_OPTION)
    if asked is None:
        asked = config.getini(_OPTION) or None
    if asked is None:
        return
    from ._watch import settings

    try:
        threshold = settings.threshold(asked)
    except ValueError as error:
        raise pytest.UsageError(f"--fail-on-stall is {asked!r}: {error}") from None
    if threshold is not None:
        config.pluginmanager.register(_Plugin(threshold), "offloop.stalls")


class _Plugin:
    """The hooks of a run that asks for the check."""

    def __init__(self, threshold: float) -> None:
        from ._watch import hook

        self._threshold = threshold
        # From the beginning on, because fixtures may start loops that outlive many tests.
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

        # Watches all loops that run; if this phase itself runs in a loop, that one.
        with watch(threshold=threshold, logger=None) as stalls:
            try:
                result = yield
            except BaseException:
                stalls.stop()
                if _of_the_test(stalls):
                    # The test failed with an exception of its own, of which the stall may be the cause.
                    item.add_report_section(when, "stalls", _text(stalls, threshold))
                raise
        if _of_the_test(stalls):
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
        from ._watch import settings

        try:
            (value,) = marker.args
            return settings.seconds(value if isinstance(value, str) else f"{value}s")
        except ValueError:
            raise pytest.UsageError(
                f"{item.nodeid}: stall_threshold takes one length of time, such as 0.5 or '500ms'"
            ) from None


def _of_the_test(watch: Watch) -> list[StallSummary]:
    """Returns the stalls for which a test fails: those that offloop's own first call has caused are not."""
    return [
        summary for summary in watch.stalls if summary.last is None or not summary.last.in_offloop
    ]


def _text(watch: Watch, threshold: float) -> str:
    lines = [f"an event loop stood still for more than {threshold * 1000:g} ms"]
    for summary in _of_the_test(watch):
        lines += ["", str(summary), str(summary.last)]
    return "\n".join(lines)
