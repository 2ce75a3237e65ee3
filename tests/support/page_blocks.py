"""Blocks of a page of the documentation, and running a page from top to bottom in a folder of its own.

- ```` ```yaml title="film.yaml" ````: a block with a title is a file, which is written.
- ```` ```console ````: each line after `$ ` is a command, which must succeed; the lines below it must be in its output,
  in this order, where `…` stands for any text.
- ```` ```python ```` without a title is run; `yaml` and `json` are parsed, and a command that they name with them.
- `<!-- not run: the reason -->` above a block: it is only checked, see `check_block`.
- `<!-- until: a text -->` above a console block: its last command runs on once a line with this text is printed, while the
  rest of the page is followed, and ends by Ctrl-C at the end of the page.
- `<!-- given: a state -->` above a block: the test brings this about first.
- `<!-- into: a file -->` above a `yaml` block: its lines take the places of the lines of the file with the same keys.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
import yaml

_BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>not run|until|given|into): (?P<value>[^\n]+) -->\n)?"
    r"```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n"
    r"(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_MARK = re.compile(r"^<!-- (?:not run|until|given|into):", re.MULTILINE)
_PATIENCE_SECONDS: Final = 500


@dataclass(frozen=True)
class Block:
    """Fenced block of a page.

    Attributes:
        title: The file that it is; None for none.
        reason: The reason for which it is not run; None where it is.
        until: What its last command prints once it is ready; None for one that ends by itself.
        given: What must be so before it is run.
        into: The file whose lines it replaces.
    """

    place: str
    language: str
    title: str | None
    reason: str | None
    text: str
    until: str | None = None
    given: str | None = None
    into: str | None = None


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
        marks = {found["mark"]: found["value"]}
        blocks.append(
            Block(
                f"{page.name}:{line}",
                found["language"],
                found["title"],
                marks.get("not run"),
                found["text"],
                **{name: marks.get(name) for name in ("until", "given", "into")},
            )
        )
    assert len(blocks) == len(re.findall(r"^```\w", text, re.MULTILINE)), f"{page.name}: a block that cannot be read"
    marked = sum(any((block.reason, block.until, block.given, block.into)) for block in blocks)
    assert marked == len(_MARK.findall(text)), f"{page.name}: a mark that is not right above a block"
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
        addresses: What stands in for the addresses and keys that the pages name, by these; more may be added.
        states: What brings about the states that the page takes as given, by their names.
    """

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str],
        addresses: Mapping[str, str],
        states: Mapping[str, Callable[[PageRun], None]] | None = None,
    ) -> None:
        self.folder = folder
        self.addresses = dict(addresses)
        self._states = states or {}
        self._servers: list[Server] = []
        self._variables = folder.parent / f"{folder.name}.env"
        self._variables.write_text(
            "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items())
        )

    def follow(self, block: Block) -> None:
        """Write, run or check a block."""
        if block.given is not None:
            self._states[block.given](self)
        if block.reason is not None:
            check_block(block)
        elif block.title is not None:
            (self.folder / block.title).write_text(self._localize(block.text), encoding="utf-8")
        elif block.into is not None:
            replace_lines(self.folder / block.into, self._localize(block.text))
        elif block.language == "console":
            *commands, last = read_commands(block)
            for command in commands:
                self.run(block.place, command)
            if block.until is None:
                self.run(block.place, last)
            else:
                self._start(block.place, last, block.until)
        elif block.language == "python":
            source = self.folder / f"{block.place.replace(':', '-')}.py"
            source.write_text(self._localize(block.text), encoding="utf-8")
            self.run(block.place, Command(f"python {source.name}", ()))
        else:
            parse_block(block)

    def run(self, place: str, command: Command) -> str:
        """Run a command, which must succeed and print its lines; returns all that it has printed."""
        # The variables of one command are those of the next, as in a terminal.
        script = f'. "{self._variables}"\n{self._localize(command.line)}\nstatus=$?\nexport -p >"{self._variables}"\nexit $status'
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.folder,
            env=_shell_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=_PATIENCE_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{place}: {command.line} ended with {done.returncode}\n{done.stdout}"
        check_output(place, self._localize("\n".join(command.output)).splitlines(), done.stdout)
        return done.stdout

    def end(self) -> None:
        """End what still runs, by Ctrl-C, which must be a success."""
        for server in reversed(self._servers):
            server.end()

    def kill(self) -> None:
        """Kill what still runs, after a page that could not be followed to its end."""
        for server in self._servers:
            server.kill()

    def _start(self, place: str, command: Command, until: str) -> None:
        assert not command.output, f"{place}: the output of what runs on is not compared"
        server = Server(place, f'. "{self._variables}"\nexec {self._localize(command.line)}', self.folder)
        self._servers.append(server)
        server.wait_for(self._localize(until))

    def _localize(self, text: str) -> str:
        for address, replacement in self.addresses.items():
            text = text.replace(address, replacement)
        return text


class Server:
    """A command that runs on while its page is followed."""

    def __init__(self, place: str, script: str, folder: Path) -> None:
        self._place = place
        self._lines: list[str] = []
        self._process = subprocess.Popen(
            ["bash", "-c", script],
            cwd=folder,
            env={**_shell_environment(), "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            # Where the suite runs in the background of a shell, Ctrl-C is ignored, and all that it starts would inherit that.
            preexec_fn=_heed_ctrl_c,
        )
        self._reader = threading.Thread(target=self._read_rest, daemon=True)

    def wait_for(self, text: str) -> None:
        """Wait until a line with a text is printed."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append(line)
            if text in line:
                self._reader.start()
                return
        pytest.fail(f"{self._place}: ended with {self._process.wait()}, without {text!r}\n{''.join(self._lines)}")

    def end(self) -> None:
        """Press Ctrl-C, and check that it ends as after any other success."""
        if self._process.poll() is None:
            # Not to its whole group: what it has started is its own to end.
            self._process.send_signal(signal.SIGINT)
        status = self._process.wait(timeout=_PATIENCE_SECONDS)
        self.kill()
        self._reader.join()
        assert status == 0, f"{self._place}: ended with {status}\n{''.join(self._lines)}"

    def kill(self) -> None:
        """Kill it, and all that it has left behind."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _read_rest(self) -> None:
        assert self._process.stdout is not None
        self._lines += self._process.stdout


def _heed_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _shell_environment() -> dict[str, str]:
    return {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]), "LANG": "C.UTF-8"}


def replace_lines(file: Path, text: str) -> None:
    """Put the lines of a block in the places of the lines with the same keys, each of which there must be once."""
    content = file.read_text(encoding="utf-8")
    for line in text.splitlines():
        key = line.partition(":")[0]
        content, places = re.subn(rf"^{re.escape(key)}:.*$", lambda _: line, content, flags=re.MULTILINE)  # noqa: B023
        assert places == 1, f"{file.name}: {places} lines begin with {key!r}"
    file.write_text(content, encoding="utf-8")


def parse_block(block: Block) -> None:
    """Parse a block of data, and the command lines that it holds for other programs."""
    if block.language == "yaml":
        assert yaml.safe_load(block.text) is not None, f"{block.place}: empty"
        return
    assert block.language == "json", f"{block.place}: neither run, parsed nor marked"
    for server in json.loads(block.text).get("mcpServers", {}).values():
        check_command(block.place, shlex.join([server["command"], *server["args"]]))


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
            check_command(block.place, command.line)
    elif block.language in {"yaml", "json"}:
        parse_block(block)
    elif block.language == "python":
        for node in ast.walk(ast.parse(block.text)):
            if isinstance(node, ast.ImportFrom) and node.module:
                module = importlib.import_module(node.module)
                missing = [name.name for name in node.names if not hasattr(module, name.name)]
                assert not missing, f"{block.place}: {node.module} has no {missing}"


def check_command(place: str, line: str) -> None:
    """Check that a command of ours has the options and arguments that a line gives it; others are not looked at."""
    from cyclopts import CycloptsError

    from prefect_video.cli.app import build_app

    words = shlex.split(line, comments=True)
    if words and words[0] == "prefect-video":
        try:
            build_app().parse_args(words[1:], exit_on_error=False, print_error=False)
        except CycloptsError as error:
            raise AssertionError(f"{place}: {line}: {error}") from error
