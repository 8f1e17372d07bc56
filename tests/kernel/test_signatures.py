"""The parameters of kernels and their helpers: each has a named type, and there are few of them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent.parent / "src" / "edm"
DECORATORS = {"kernel", "allocating_kernel", "inlined", "force_inlined"}
MOST_PARAMETERS = 10
MOST_LINES = 60

LONG = {
    # What is rare is decoded in one pass over the fields; its state would have to be handed over per field.
    "stages/dnstap/decode.py: decode_others",
}
"""Kernels of more than 60 lines without docstring, with their reason. This list must not grow."""


def kernels() -> dict[str, ast.FunctionDef]:
    """Return each kernel and helper by the path of its module and its name."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and DECORATORS & {
                ast.unparse(d) for d in node.decorator_list
            }:
                found[f"{path.relative_to(SOURCE).as_posix()}: {node.name}"] = node
    return found


KERNELS = kernels()


def problems(function: ast.FunctionDef) -> list[str]:
    """Return what a signature keeps to itself."""
    arguments = function.args
    parameters = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    found = []
    for parameter in parameters:
        if parameter.annotation is None:
            found.append(f"{parameter.arg} has no type")
        elif _says_any(parameter.annotation):
            found.append(f"{parameter.arg} is Any")
    if arguments.vararg or arguments.kwarg:
        found.append("any number of parameters")
    if function.returns is None:
        found.append("what it returns has no type")
    elif _says_any(function.returns):
        found.append("it returns Any")
    if len(parameters) > MOST_PARAMETERS:
        found.append(f"{len(parameters)} parameters")
    return found


def _says_any(annotation: ast.expr) -> bool:
    names = (node for node in ast.walk(annotation) if isinstance(node, ast.Name | ast.Attribute))
    return any((node.id if isinstance(node, ast.Name) else node.attr) == "Any" for node in names)


def lines(function: ast.FunctionDef) -> int:
    """Return the lines of a function without its docstring."""
    assert function.end_lineno is not None
    count = function.end_lineno - function.lineno + 1
    first = function.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and first.end_lineno is not None:
        count -= first.end_lineno - first.lineno + 1
    return count


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_tell_their_types_and_have_few_parameters(name: str) -> None:
    assert problems(KERNELS[name]) == []


def test_no_kernel_is_long_without_a_reason() -> None:
    assert {name for name in KERNELS if lines(KERNELS[name]) > MOST_LINES} == LONG


@pytest.mark.parametrize(
    ("signature", "problem"),
    [
        ("(a: Any) -> U64", "a is Any"),
        ("(a: typing.Any) -> U64", "a is Any"),
        ("(a: tuple[U64, Any]) -> U64", "a is Any"),
        ("(a) -> U64", "a has no type"),
        ("(a: U64)", "what it returns has no type"),
        ("(a: U64) -> Any", "it returns Any"),
        ("(*a: U64) -> None", "any number of parameters"),
        (f"({', '.join(f'a{i}: U64' for i in range(11))}) -> None", "11 parameters"),
    ],
)
def test_what_is_wrong_is_found(signature: str, problem: str) -> None:
    function = ast.parse(f"def f{signature}: pass").body[0]
    assert isinstance(function, ast.FunctionDef)
    assert problems(function) == [problem]
