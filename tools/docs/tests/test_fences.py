"""No block of code in documentation escapes its check."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from fences import Block, blocks_of, outside_blocks
from pages import ROOT, all_pages, read
from programs import commands_of
from shell_lines import problems_of

from paceline.router.access.token_file import parse_table
from paceline.wire.settings import load_settings

EXAMPLES = Path("docs/examples")
TOKEN_FILE = "token file"
PAGE = """text
<!-- not run: a picture -->
```
a ``` b
```

1. In a list:
   ```sh
   ls
   ```
"""

PAGES = all_pages()
BLOCKS = [(page, block) for page in PAGES for block in blocks_of(read(page))]


def of_kind(kind: str) -> list[tuple[Path, Block]]:
    return [(page, block) for page, block in BLOCKS if block.kind == kind]


def str_of(value: Path | Block) -> str:
    return str(value.line) if isinstance(value, Block) else str(value)


def at(page: Path, block: Block) -> str:
    return f"{page}:{block.line}"


def test_blocks_are_found_with_their_marks() -> None:
    assert list(blocks_of(PAGE)) == [
        Block(3, "", "a ``` b\n", "not run", "a picture"),
        Block(8, "sh", "ls\n"),
    ]
    left = ["text", "<!-- not run: a picture -->", "", "", "", "", "1. In a list:", "", "", ""]
    assert outside_blocks(PAGE).split("\n") == left
    with pytest.raises(ValueError, match="line 2"):
        list(blocks_of("x\n```\ny"))


def test_there_is_documentation_to_check() -> None:
    for page in ("README.md", "CONTRIBUTING.md", "docs/concepts.md", "packages/router/README.md", "protos/README.md"):
        assert Path(page) in PAGES
    assert len(BLOCKS) > 20


def test_every_block_is_run_or_checked_or_says_why_not() -> None:
    free = [at(page, block) for page, block in BLOCKS if not (block.kind or block.is_shell)]
    assert not free, f"mark these as tools/docs/fences.py says: {free}"


@pytest.mark.parametrize(("page", "block"), of_kind("file"), ids=str_of)
def test_a_block_of_a_file_is_what_the_file_says(page: Path, block: Block) -> None:
    assert Path(block.value).parent == EXAMPLES, "only examples are run by tests"
    assert block.text in (ROOT / block.value).read_text(), f"{at(page, block)} differs from {block.value}"


@pytest.mark.parametrize(("page", "block"), of_kind("run by"), ids=str_of)
def test_a_block_that_a_test_runs_has_a_test_that_reads_its_page(page: Path, block: Block) -> None:
    assert f'"{page.name}"' in (ROOT / block.value).read_text(), at(page, block)


@pytest.mark.parametrize(
    ("page", "block"), of_kind("settings of"), ids=lambda value: str(getattr(value, "line", value))
)
def test_a_block_of_settings_is_taken_by_its_command(
    page: Path, block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("PACELINE_")]:
        monkeypatch.delenv(name)
    file = tmp_path / "config.yaml"
    file.write_text(block.text)
    if block.value == TOKEN_FILE:
        assert len(parse_table(block.text, b"secret")) > 0
        return
    program, _, command = block.value.partition(" ")
    settings = commands_of(program)[command].settings
    assert settings is not None
    loaded = load_settings(settings, ["--config", str(file)], block.value)
    assert loaded.model_fields_set, at(page, block)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_no_command_hides_in_an_indented_block(page: Path) -> None:
    hidden = re.findall(r"^(?: {4,}|\t)(?:\$ )?((?:paceline|\./bazelw)\b.*)$", outside_blocks(read(page)), re.MULTILINE)
    assert not hidden, f"{page}: fence these with ```sh: {hidden}"


def test_every_example_is_run_by_a_test() -> None:
    tests = "".join(path.read_text() for path in sorted((ROOT / "tools" / "e2e").glob("test_*.py")))
    examples = [path for path in (ROOT / EXAMPLES).iterdir() if path.is_file() and path.suffix != ".md"]
    assert len(examples) >= 6
    for path in examples:
        assert f'"{path.name}"' in tests, f"no test of tools/e2e runs {path.name}"


@pytest.mark.parametrize(("page", "block"), [one for one in BLOCKS if one[1].is_shell and not one[1].kind])
def test_every_command_exists(page: Path, block: Block) -> None:
    problems = [str(problem) for problem in problems_of(block.text, ROOT)]
    assert not problems, f"{at(page, block)}: {problems}"
