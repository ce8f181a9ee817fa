"""The links on the pages of this repository lead to something."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted(
        page
        for folder in ("docs", "crates", "examples", "python")
        for page in (ROOT / folder).rglob("*.md")
        # The crate has links to pages of the repository. Relative to these, the pages' own links lead nowhere.
        if not page.is_symlink()
    ),
]


def prose(page: Path) -> str:
    """Returns a page without its code, in which brackets mean something else."""
    blocks = r"^ *(```+)[^\n]*\n.*?^ *\1 *$"
    return re.sub(blocks, "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def links(page: Path) -> list[tuple[str, str]]:
    """Returns the relative links: file and section, of which one may be empty."""
    targets: list[str] = re.findall(r"\]\(<?([^()\s<>]+)>?\)", prose(page))
    return [
        (file, section)
        for file, _, section in (target.partition("#") for target in targets)
        if "://" not in file and not file.startswith("mailto:")
    ]


def sections(page: Path) -> set[str]:
    """Returns the names of a page's sections as GitHub makes them, each once."""
    headings: list[str] = re.findall(r"^#+ +(.+?) *$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_sections_that_exist(page: Path) -> None:
    for file, section in links(page):
        target = page.parent / file if file else page
        assert target.exists(), f"{file} is not there"
        assert target.resolve().is_relative_to(ROOT.resolve()), f"{file} is outside"
        if section:
            assert target.suffix == ".md" and section in sections(target), f"{file}#{section}"


def test_every_guide_can_be_reached_from_the_readme() -> None:
    found = {(ROOT / file).resolve() for file, _ in links(ROOT / "README.md") if file}
    missing = {page.name for page in PAGES if page.parent == ROOT / "docs"} - {
        page.name for page in found
    }
    assert not missing
