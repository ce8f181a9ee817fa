"""The promises of the live view's page."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from conftest import Keep, Program, Start
from playwright.sync_api import Locator, Page, expect

Open = Callable[..., Page]

PHONE: dict[str, Any] = {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 1}
PICTURE: dict[str, Any] = {"viewport": {"width": 1180, "height": 780}}
WIDE: dict[str, Any] = {"viewport": {"width": 1920, "height": 1080}}


def state(page: Page) -> Locator:
    return page.locator(".state b")


def pool(page: Page, name: str) -> Locator:
    return page.locator("article.pool").filter(has=page.get_by_role("button", name=name, exact=True))


def table(page: Page, name: str | re.Pattern[str]) -> Locator:
    return page.get_by_role("table", name=name)


def attention(page: Page) -> Locator:
    return page.get_by_role("region", name="Needs attention")


def row_with(page: Page, caption: str | re.Pattern[str], text: str | re.Pattern[str]) -> Locator:
    return table(page, caption).get_by_role("row").filter(has_text=text)


def test_the_page_shows_a_running_program(program: Program, open_page: Open) -> None:
    page = open_page(program.address)
    expect(state(page)).to_have_text("live")
    expect(page.get_by_role("heading", level=1)).to_contain_text("shop")
    expect(pool(page, "files")).to_contain_text("of 64")
    expect(pool(page, "documents")).to_contain_text("processes")
    expect(page.get_by_role("heading", level=3, name="Lack of cores")).to_be_visible()
    expect(row_with(page, "Processes of the service", str(program.pid))).to_contain_text("observed.py")
    expect(attention(page)).to_be_visible()


def test_load_shows_in_numbers_and_plots(program: Program, open_page: Open) -> None:
    page = open_page(program.address)
    program.do("hold", "hold", "hold", "hold", "hold", "hold", "hold")
    files = pool(page, "files")
    expect(files.locator(".heading")).to_contain_text(re.compile(r"Queue\s*3 of 64"))
    expect(
        files.get_by_role("img", name=re.compile("^Queue over time. Now: queued 3, running 4"))
    ).to_be_visible()
    expect(attention(page)).to_contain_text("Jobs wait long for files")
    program.do("load 200")
    completed = files.get_by_role("row", name=re.compile("^completed"))
    expect(completed).to_contain_text("207")
    expect(
        files.get_by_role("img", name=re.compile("^Waiting time as a heat map.*99 of 100"))
    ).to_be_visible()
    waiting = files.get_by_role("row", name=re.compile("^Waiting, last minute"))
    expect(waiting).to_contain_text(re.compile(r"207.* (µs|ms|s)"))


def test_a_loop_that_stands_still_is_seen_meanwhile_and_its_place_is_named(
    program: Program, open_page: Open
) -> None:
    page = open_page(program.address)
    expect(state(page)).to_have_text("live")
    program.begin("stall 4")
    expect(attention(page)).to_contain_text("stands still")
    expect(attention(page)).to_contain_text("was blocked")
    places = table(page, re.compile("^Places that stall"))
    expect(places).to_contain_text(re.compile(r"observed\.py:\d+"))
    expect(places).to_contain_text("await offloop.run(load_orders")


def test_a_killed_worker_is_seen_with_its_end(program: Program, open_page: Open) -> None:
    page = open_page(program.address)
    program.do("walk 500")
    job = row_with(page, "Jobs that run on documents", "walk_keys")
    worker = int(job.get_by_role("cell").nth(4).inner_text())
    os.kill(worker, signal.SIGKILL)
    death = row_with(page, "The last deaths of worker processes", str(worker))
    expect(death).to_contain_text("SIGKILL")
    expect(death).to_contain_text("walk_keys")
    expect(attention(page)).to_contain_text("A worker of documents died")
    expect(pool(page, "documents")).to_contain_text("Workers replaced: crashed")
    expect(job).to_have_count(0)


def test_the_last_words_of_a_worker_are_kept(program: Program, open_page: Open) -> None:
    page = open_page(program.address)
    program.do("die")
    expect(page.get_by_role("region", name="Last words")).to_contain_text("the disk is on fire")


@pytest.mark.parametrize(
    ("command", "pool_name", "name"), [("hold", "files", "hold"), ("walk 500", "documents", "walk_keys")]
)
def test_a_job_is_cancelled_after_a_question(
    program: Program, open_page: Open, command: str, pool_name: str, name: str
) -> None:
    page = open_page(program.address)
    program.do(command)
    job = row_with(page, f"Jobs that run on {pool_name}", name)
    job.get_by_role("button", name=re.compile("^Cancel job")).click()
    question = page.get_by_role("dialog")
    question.get_by_role("button", name="Keep it running").click()
    expect(question).to_have_count(0)
    expect(job).to_have_count(1)
    job.get_by_role("button", name=re.compile("^Cancel job")).click()
    question.get_by_role("button", name="Cancel the job").click()
    expect(page.locator(".done")).to_contain_text("is cancelled")
    expect(job).to_have_count(0)
    assert program.do("ended") == "CancelledError"


def test_the_stack_of_a_job_shows_what_it_does(program: Program, open_page: Open) -> None:
    page = open_page(program.address)
    program.do("hold")
    row_with(page, "Jobs that run on files", "hold").get_by_role("button", name=re.compile("^Stack")).click()
    expect(page.get_by_role("dialog").get_by_role("listitem").filter(has_text="hold")).to_contain_text(
        "observed.py"
    )


def test_the_page_reconnects_after_the_program_was_restarted(start: Start, open_page: Open) -> None:
    program = start()
    page = open_page(program.address)
    expect(state(page)).to_have_text("live")
    program.kill()
    expect(state(page)).to_have_text("reconnecting")
    expect(page.locator(".state")).to_contain_text("last answer at")
    expect(state(page)).to_have_text("stopped")
    again = start(program.port)
    expect(state(page)).to_have_text("live")
    expect(row_with(page, "Processes of the service", str(again.pid))).to_have_count(1)


def test_a_paused_page_asks_for_nothing(program: Program, open_page: Open) -> None:
    page = open_page(program.address)
    expect(state(page)).to_have_text("live")
    page.get_by_role("button", name="Pause").click()
    expect(state(page)).to_have_text("paused")
    program.do("hold")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(1500)
    expect(table(page, "Jobs that run on files")).to_have_count(0)
    assert asked == []
    page.get_by_role("button", name="Resume").click()
    expect(table(page, "Jobs that run on files")).to_have_count(1)


def test_all_processes_of_a_service_are_in_one_view(start: Start, open_page: Open) -> None:
    first, second, other = start(), start(), start(service="another")
    page = open_page(first.address)
    processes = table(page, "Processes of the service")
    expect(processes).to_contain_text(str(first.pid))
    expect(processes).to_contain_text(str(second.pid))
    expect(processes).not_to_contain_text(str(other.pid))
    second.do("hold in the second")
    shown = page.get_by_role("button", name=re.compile("^Stack of job .*in the second"))
    if not shown.is_visible():
        for fold in page.locator("article.pool button.fold[aria-expanded=false]").all():
            fold.click()
    expect(shown).to_be_visible()
    page.get_by_label("Show").select_option(f"process {first.pid}")
    expect(shown).to_have_count(0)
    page.get_by_label("Show").select_option(f"process {second.pid}")
    shown.click()
    expect(page.get_by_role("dialog").get_by_role("listitem").first).to_be_visible()


def test_a_program_with_a_token_is_shown_to_those_who_have_it(start: Start, open_page: Open) -> None:
    program = start(0, "shop", "open&sesame")
    page = open_page(program.address + "?token=open%26sesame")
    expect(state(page)).to_have_text("live")
    program.do("hold")
    page.get_by_role("button", name=re.compile("^Cancel job")).click()
    page.get_by_role("button", name="Cancel the job").click()
    expect(page.locator(".done")).to_contain_text("is cancelled")
    answer = page.request.get(program.address)
    assert answer.status == 401
    assert "token" in answer.json()["error"]


def test_names_are_shown_as_text(program: Program, open_page: Open) -> None:
    page = open_page(program.address)
    hostile = "<img/src=x/onerror=document.title='owned'>\u202e"
    program.do(f"hold {hostile}")
    expect(table(page, "Jobs that run on files")).to_contain_text(
        "<img/src=x/onerror=document.title='owned'>\\u202e"
    )
    expect(page.locator("img")).to_have_count(0)


@pytest.fixture(scope="module")
def populated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A program that has something in each part of the page."""
    program = Program(0, "shop", tmp_path_factory.mktemp("run"))
    program.do("load 100", "walk 500", "die", "hold", "stall 0.4", "stall 0.3")
    yield program
    program.kill()


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize(("size", "options"), [("phone", PHONE), ("desk", {}), ("wide", WIDE)])
def test_the_page_fits_its_screen_and_is_accessible(
    populated: Program, open_page: Open, colours: str, size: str, options: dict[str, Any]
) -> None:
    page = open_page(populated.address, color_scheme=colours, **options)
    expect(table(page, re.compile("^Places that stall"))).to_be_visible()
    expect(page.get_by_role("region", name="Last words")).to_be_visible()
    for fold in page.locator("button.fold[aria-expanded=false]").all():
        fold.click()
    expect(table(page, "Jobs that run on files")).to_be_visible()
    width = options.get("viewport", {"width": 1280})["width"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_a_service_at_work_fills_its_plots(start: Start, open_page: Open, keep: Keep) -> None:
    program = start(service="documents")
    pages = {
        "light": open_page(program.address, color_scheme="light", **PICTURE),
        "dark": open_page(program.address, color_scheme="dark", **PICTURE),
        "phone": open_page(program.address, color_scheme="light", **PHONE),
    }
    for page in pages.values():
        page.get_by_label("Plots").select_option("1 min")
    for round_ in range(45 if keep.wanted else 3):
        program.do("ended", f"load {20 + round_ * 7 % 60}")
        if round_ % 15 == 1:
            program.do("hold render the report", "walk 9", "stall 0.25")
        if round_ == 20:
            program.do("die")
        pages["light"].wait_for_timeout(1000)
    for name, page in pages.items():
        expect(
            page.get_by_role("img", name=re.compile("^Lateness over time. Now: worst lateness .*s"))
        ).to_be_visible()
        keep(page, f"live-view-{name}")


def test_the_reader_can_choose_light_or_dark(program: Program, open_page: Open) -> None:
    page = open_page(program.address, color_scheme="light")
    colour = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(colour)
    page.get_by_label("Colours").select_option("dark")
    dark = page.evaluate(colour)
    assert dark != light
    page.reload()
    expect(state(page)).to_have_text("live")
    assert page.evaluate(colour) == dark
    page.get_by_label("Colours").select_option("system")
    assert page.evaluate(colour) == light


def test_everything_can_be_done_with_the_keyboard(program: Program, open_page: Open) -> None:
    page = open_page(program.address)
    program.do("hold")
    expect(table(page, "Jobs that run on files")).to_be_visible()

    def tab_to(name: re.Pattern[str]) -> None:
        """Presses Tab until an element of that name has the focus."""
        for _ in range(60):
            page.keyboard.press("Tab")
            focused = page.locator(":focus")
            if focused.count() and name.search(focused.get_attribute("aria-label") or focused.inner_text()):
                return
        raise AssertionError(f"Tab does not reach {name.pattern}")

    tab_to(re.compile("Skip to"))
    tab_to(re.compile("^Pause$"))
    page.keyboard.press("Enter")
    expect(state(page)).to_have_text("paused")
    page.keyboard.press("Space")
    expect(state(page)).to_have_text("live")
    tab_to(re.compile("^Stack of job"))
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.locator(":focus")).to_have_attribute("aria-label", re.compile("^Stack of job"))
    tab_to(re.compile("^Cancel job"))
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(table(page, "Jobs that run on files")).to_have_count(0)


def test_changes_are_told_to_a_screen_reader_once(program: Program, open_page: Open) -> None:
    page = open_page(program.address)
    said = page.get_by_role("status").first
    expect(said).to_have_text("")
    program.begin("stall 3")
    expect(said).to_contain_text("stands still")
    assert not re.search(r"\d+ (ms|s)\b", said.inner_text())
