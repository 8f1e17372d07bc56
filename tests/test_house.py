"""The house rules of ``src``: how long a module and a function may be, and how modules are named."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "edm"
MOST_MODULE_LINES = 400
MOST_FUNCTION_LINES = 60

_KERNELS = {"kernel", "allocating_kernel", "inlined", "force_inlined"}
"""Their length, and the list of those that are longer with a reason: ``tests/kernel/test_signatures.py``."""


def modules(source: Path = SOURCE) -> Iterator[tuple[str, str]]:
    for path in sorted(source.rglob("*.py")):
        yield path.relative_to(source).as_posix(), path.read_text(encoding="utf-8")


def long_modules(source: Path = SOURCE) -> list[str]:
    return [name for name, text in modules(source) if len(text.splitlines()) > MOST_MODULE_LINES]


def _lines(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def long_functions(source: Path = SOURCE) -> dict[str, bool]:
    """Return the functions that are too long, without decorators and docstring, and whether each is a kernel."""
    found = {}
    for name, text in modules(source):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = _lines(node) - (_lines(node.body[0]) if ast.get_docstring(node) else 0)
                if lines > MOST_FUNCTION_LINES:
                    decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
                    found[f"{name}: {node.name}"] = bool(decorators & _KERNELS)
    return found


def repeating_names(source: Path = SOURCE) -> list[str]:
    """Return the modules whose name begins with their folder's, or with its singular, and goes on."""
    found = []
    for name, _ in modules(source):
        path = Path(name)
        folder = path.parent.name
        if folder and path.stem.startswith((f"{folder}_", f"{folder.removesuffix('s')}_")):
            found.append(name)
    return found


def test_no_module_is_too_long() -> None:
    assert long_modules() == []


def test_no_function_is_too_long() -> None:
    assert sorted(name for name, is_kernel in long_functions().items() if not is_kernel) == []


def test_no_module_repeats_the_name_of_its_folder() -> None:
    assert repeating_names() == []


@pytest.mark.parametrize("decorator", ["", "@kernel\n"])
def test_what_breaks_a_rule_is_seen(decorator: str, tmp_path: Path) -> None:
    folder = tmp_path / "events"
    folder.mkdir()
    body = "    pass\n" * MOST_FUNCTION_LINES
    (folder / "event_queue.py").write_text(f"{decorator}def work():\n{body}", encoding="utf-8")
    (folder / "long.py").write_text("x = 1\n" * (MOST_MODULE_LINES + 1), encoding="utf-8")
    assert long_functions(tmp_path) == {"events/event_queue.py: work": bool(decorator)}
    assert long_modules(tmp_path) == ["events/long.py"]
    assert repeating_names(tmp_path) == ["events/event_queue.py"]
