"""Two kinds of import contract that import-linter does not have; pyproject.toml names and uses them.

They look at direct imports: what is imported further down has a contract of its own there.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from typing import Any

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


def imports_of(graph: ImportGraph, module: str) -> Iterator[tuple[str, set[str], int, str]]:
    """Yield for each import statement: a module of the graph, all names it may stand for, line number, line.

    The graph knows of `urllib.request` only that it is in `urllib`; the statement itself tells more.
    """
    for imported in sorted(graph.find_modules_directly_imported_by(module)):
        for detail in graph.get_import_details(importer=module, imported=imported):
            line = detail["line_contents"]
            yield imported, {imported, *_names_in(line)}, detail["line_number"], line


def _names_in(line: str) -> Iterator[str]:
    try:
        statement = ast.parse(line.rstrip("( \\") + (" *" if line.endswith(("(", "\\")) else "")).body[0]
    except SyntaxError:
        return
    match statement:
        case ast.Import(names=names):
            yield from (alias.name for alias in names)
        case ast.ImportFrom(module=str(package), names=names, level=0):
            yield package
            yield from (f"{package}.{alias.name}" for alias in names)


def _within(name: str, packages: set[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _broken(check: ContractCheck) -> None:
    for line in check.metadata["broken"]:
        output.print_error(line)


class Reserved(Contract):
    """Libraries that only certain packages may import."""

    type_name = "reserved"

    libraries = fields.SetField(subfield=fields.StringField())
    """Names of modules; what is in them is meant as well."""
    may_import = fields.SetField(subfield=fields.StringField())
    """The packages and modules that may import them."""

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        libraries: Any = self.libraries
        may_import: Any = self.may_import
        unknown = [name for name in may_import if name not in graph.modules]
        broken = [f"{name} is not there any more, but stands in may_import" for name in sorted(unknown)]
        for module in sorted(graph.modules):
            if graph.is_module_squashed(module) or _within(module, may_import):
                continue
            for _, names, number, line in imports_of(graph, module):
                # "from urllib import *" brings all that is in it.
                inside = {f"{name[:-2]}." for name in names if name.endswith(".*")}
                if any(
                    _within(name, libraries)
                    or any(library.startswith(tuple(inside)) for library in libraries)
                    for name in names
                ):
                    broken.append(f"{module}:{number} must not use a library that is reserved: {line}")
        return ContractCheck(kept=not broken, metadata={"broken": broken})

    def render_broken_contract(self, check: ContractCheck) -> None:
        _broken(check)


class Only(Contract):
    """Modules that may import only what is named, and each other."""

    type_name = "only"

    packages = fields.SetField(subfield=fields.StringField())
    """The packages whose modules are meant."""
    that_import = fields.StringField(required=False)
    """Only those modules of the packages that import this one are meant."""
    may_import = fields.SetField(subfield=fields.StringField())
    """What they may import, beside each other."""
    standard_library = fields.BooleanField(required=False, default=False)
    """Whether they may import all that comes with Python."""
    exceptions = fields.SetField(subfield=fields.StringField(), required=False)
    """Single imports that are allowed all the same: "module -> imported"."""

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        packages: Any = self.packages
        may_import: Any = set(self.may_import)  # type: ignore[call-overload]
        if self.standard_library:
            may_import |= sys.stdlib_module_names
        exceptions: Any = set(self.exceptions or ())  # type: ignore[call-overload]
        modules = {
            module
            for module in graph.modules
            if _within(module, packages)
            and (
                not self.that_import
                or str(self.that_import) in graph.find_modules_directly_imported_by(module)
            )
        }
        broken = [] if modules else ["no module is meant: the contract is out of date"]
        for module in sorted(modules):
            for imported, names, number, line in imports_of(graph, module):
                if imported in modules or any(_within(name, may_import) for name in names):
                    continue
                if f"{module} -> {imported}" in exceptions:
                    exceptions.discard(f"{module} -> {imported}")
                    continue
                broken.append(f"{module}:{number} must not import {imported}: {line}")
        broken += [f"the exception is not needed any more: {exception}" for exception in sorted(exceptions)]
        return ContractCheck(kept=not broken, metadata={"broken": broken})

    def render_broken_contract(self, check: ContractCheck) -> None:
        _broken(check)
