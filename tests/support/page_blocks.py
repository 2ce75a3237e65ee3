"""Blocks of a page of the documentation, and running a page from top to bottom in a folder of its own.

- ```` ```yaml title="film.yaml" ````: a block with a title is a file, which is written.
- ```` ```console ````: each line after `$ ` is a command, which must succeed; the lines below it must be in its output,
  in this order, where `…` stands for any text.
- ```` ```python ```` without a title is run.
- `<!-- not run: the reason -->` above a block: it is only checked, see `check_block`.
"""

from __future__ import annotations

import ast
import importlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n"
    r"(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """Fenced block of a page.

    Attributes:
        title: The file that it is; None for none.
        reason: The reason for which it is not run; None where it is.
    """

    place: str
    language: str
    title: str | None
    reason: str | None
    text: str


@dataclass(frozen=True)
class Command:
    """Command of a console block, and the lines of output that the page shows."""

    line: str
    output: tuple[str, ...]


def read_blocks(page: Path) -> list[Block]:
    """Return the blocks of a page in order."""
    text = page.read_text(encoding="utf-8")
    blocks = []
    for found in _BLOCK.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        blocks.append(Block(f"{page.name}:{line}", found["language"], found["title"], found["reason"], found["text"]))
    assert len(blocks) == len(re.findall(r"^```\w", text, re.MULTILINE)), f"{page.name}: a block that cannot be read"
    return blocks


def read_commands(block: Block) -> Iterator[Command]:
    """Yield the commands of a console block; a line that ends with a backslash goes on."""
    lines = block.text.replace("\\\n", "").splitlines()
    assert lines, block.place
    assert lines[0].startswith("$ "), f"{block.place}: begins with no command"
    starts = [index for index, line in enumerate(lines) if line.startswith("$ ")]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        yield Command(lines[start].removeprefix("$ "), tuple(line for line in lines[start + 1 : end] if line.strip()))


class PageRun:
    """A page that is followed as a reader would, in one folder and one shell.

    Args:
        folder: An empty folder to work in.
        environment: Variables of the shell at the beginning.
        addresses: What stands in for the addresses and keys that the pages name, by these.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], addresses: Mapping[str, str]) -> None:
        self.folder = folder
        self._addresses = addresses
        self._variables = folder.parent / f"{folder.name}.env"
        self._variables.write_text(
            "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items())
        )

    def follow(self, block: Block) -> None:
        """Write, run or check a block."""
        if block.reason is not None:
            check_block(block)
        elif block.title is not None:
            (self.folder / block.title).write_text(self._localize(block.text), encoding="utf-8")
        elif block.language == "console":
            for command in read_commands(block):
                self._run(block.place, command)
        elif block.language == "python":
            source = self.folder / f"{block.place.replace(':', '-')}.py"
            source.write_text(self._localize(block.text), encoding="utf-8")
            self._run(block.place, Command(f"python {source.name}", ()))
        else:
            assert block.language in {"yaml", "text"}, f"{block.place}: neither run nor marked"

    def _localize(self, text: str) -> str:
        for address, replacement in self._addresses.items():
            text = text.replace(address, replacement)
        return text

    def _run(self, place: str, command: Command) -> None:
        # The variables of one command are those of the next, as in a terminal.
        script = f'. "{self._variables}"\n{self._localize(command.line)}\nstatus=$?\nexport -p >"{self._variables}"\nexit $status'
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.folder,
            env={"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]), "LANG": "C.UTF-8"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=500,
            check=False,
        )
        assert done.returncode == 0, f"{place}: {command.line} ended with {done.returncode}\n{done.stdout}"
        check_output(place, self._localize("\n".join(command.output)).splitlines(), done.stdout)


def check_output(place: str, expected: list[str], output: str) -> None:
    """Check that lines are in an output in this order; amounts of white space do not count."""
    unread = iter([" ".join(line.split()) for line in output.splitlines()])
    for line in expected:
        pattern = ".*".join(re.escape(part) for part in " ".join(line.split()).split("…"))
        assert any(re.fullmatch(pattern, actual) for actual in unread), f"{place}: no line {line!r} in\n{output}"


def check_block(block: Block) -> None:
    """Check a block that is not run: commands and options exist, Python compiles and its imports can be done."""
    if block.language == "console":
        for command in read_commands(block):
            subprocess.run(["bash", "-nc", command.line], check=True)
            _check_command(block.place, command.line)
    elif block.language == "python":
        for node in ast.walk(ast.parse(block.text)):
            if isinstance(node, ast.ImportFrom) and node.module:
                module = importlib.import_module(node.module)
                missing = [name.name for name in node.names if not hasattr(module, name.name)]
                assert not missing, f"{block.place}: {node.module} has no {missing}"


def _check_command(place: str, line: str) -> None:
    from cyclopts import CycloptsError

    from prefect_video.cli.app import build_app

    words = shlex.split(line, comments=True)
    if words and words[0] == "prefect-video":
        try:
            build_app().parse_args(words[1:], exit_on_error=False, print_error=False)
        except CycloptsError as error:
            raise AssertionError(f"{place}: {line}: {error}") from error
