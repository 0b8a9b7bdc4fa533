"""Nothing is printed past `edge/terminal.py`: the source of every command is searched for a bare print."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOORS = ("edge/terminal.py", "edge/cli/program.py", "edge/system/log.py")
"""The modules that print."""
ALLOWED = {
    "tools/mes_subscriber.py": {"print", "os.write"},  # stands alone, and has a function of its own
    "tools/drills/power.py": {"os.write"},  # a number, for its parent
    "edge/cli/watch_view.py": {"rich.text"},  # tests/edge/cli/test_watch.py fuzzes it
    "calibration/tables.py": {"rich.text"},  # numbers that must not be wrapped
}
PROGRAMS_OF_THEIR_OWN = {
    "tools/mes_subscriber.py",
    "tools/contract/__main__.py",
    "tools/benchmarks/peers/lap.py",
    "tools/benchmarks/peers/patchcore_anomalib.py",
    "tools/drills/mqtt/inspection.py",
}
"""They take no name from outside that they print, or are children whose output is read by a program."""
_WRITES = {
    *("print", "pprint.pprint", "rich.print", "rich.print_json", "rich.inspect", "os.write"),
    *("sys.stdout.write", "sys.stderr.write", "sys.__stdout__.write", "sys.__stderr__.write"),
    *(f"click.{name}" for name in ("echo", "secho", "echo_via_pager", "prompt", "confirm", "progressbar", "pause")),
}
"""May print what is written in the source."""
_NEVER = {"rich.console.Console", "rich.get_console", "logging.StreamHandler", "logging.basicConfig"}
_ON_CONSOLE = {f"rich.progress.{name}" for name in ("Progress", "track", "TextColumn")}
_ON_CONSOLE |= {"rich.live.Live", "rich.status.Status"}
_RICH = {"rich.markup", "rich.text", "rich.pretty", "rich.prompt", "rich.logging", "rich.traceback", "rich.panel"}
SOURCES = sorted(
    path
    for room in ("edge", "training", "export", "calibration", "tools")
    for path in (ROOT / room).rglob("*.py")
    if path.relative_to(ROOT).as_posix() not in DOORS
)


def bare_prints(source: str) -> Iterator[tuple[int, str]]:
    """Line and name of every statement that can print a text which is not written in the source."""
    tree = ast.parse(source)
    origins = dict(_imported(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in _RICH:
            yield node.lineno, node.module
        if isinstance(node, ast.Call):
            first, _, rest = _dotted(node.func).partition(".")
            name = ".".join(filter(None, (origins.get(first, first), rest)))
            if name in _NEVER or (name in _WRITES and _writes_text(node)) or (name in _ON_CONSOLE and _alone(node)):
                yield node.lineno, name


def _writes_text(call: ast.Call) -> bool:
    """Whether an argument is neither written in the source nor JSON in ASCII."""
    values = [*call.args, *(keyword.value for keyword in call.keywords)]
    return not all(isinstance(value, ast.Constant) or _is_ascii_json(value) for value in values)


def _alone(call: ast.Call) -> bool:
    """Whether a bar or a live view makes a console of its own, or a column of it reads markup in a description."""
    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if _dotted(call.func).endswith("TextColumn"):
        return "description" in ast.unparse(call.args[0]) and keywords.get("markup") != "False"
    return "console" not in keywords and keywords.get("disable") != "True"


def _imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((name.asname, name.name) for name in node.names if name.asname)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((name.asname or name.name, f"{node.module}.{name.name}") for name in node.names)


def _dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "(computed)"


def _is_ascii_json(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and _dotted(node.func) == "json.dumps"
        and all(keyword.arg != "ensure_ascii" for keyword in node.keywords)
    )


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_command_prints_past_the_terminal(path: Path) -> None:
    allowed = ALLOWED.get(path.relative_to(ROOT).as_posix(), set())
    found = [(line, name) for line, name in bare_prints(path.read_text(encoding="utf-8")) if name not in allowed]
    assert found == [], "print with edge/terminal.py: echo, echo_lines, echo_json or its Console"


@pytest.mark.parametrize(
    "path", [path for path in SOURCES if path.parts[len(ROOT.parts)] == "tools"], ids=lambda p: p.name
)
def test_every_tool_shows_its_errors_like_procunit(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    if "__main__" in source and path.relative_to(ROOT).as_posix() not in PROGRAMS_OF_THEIR_OWN:
        assert "run_program(" in source.partition("__main__")[2]


@pytest.mark.parametrize(
    "source",
    [
        "print(name)",
        "print(f'{name}')",
        "print(json.dumps(name, ensure_ascii=False))",
        "import click\nclick.echo(name)",
        "import click\nclick.secho('a' + name, fg='red')",
        "from click import echo\necho(name)",
        "import click as c\nc.confirm(f'{name}?')",
        "from rich.console import Console\nConsole(stderr=True)",
        "import rich\nrich.print(name)",
        "from rich.progress import track\ntrack([], name)",
        "from rich.progress import TextColumn\nTextColumn('{task.description}')",
        "from rich.markup import escape",
        "from rich.text import Text",
        "import sys\nsys.stderr.write(name)",
        "import logging\nlogging.basicConfig()",
    ],
)
def test_a_bare_print_is_found(source: str) -> None:
    assert list(bare_prints(source))


@pytest.mark.parametrize(
    "source",
    [
        "from edge.terminal import echo\necho(name)",
        "from edge.terminal import Console\nConsole().print(name)",
        "print('a literal')",
        "print(json.dumps(name))",
        "import click\nclick.confirm('Sure?', abort=True)",
    ],
)
def test_the_ways_to_print_are_not_found(source: str) -> None:
    assert not list(bare_prints(source))
