"""Which module of the package may import which: the rules of the map in CONTRIBUTING.md."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HTTP = {"aiohttp", "httpx", "requests", "urllib3"}
DAG_MODULES = ("decorators", "operators", "sensors", "triggers")


def name_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {name_of(file): file for file in sorted((ROOT / "datatile_provider").rglob("*.py"))}


class Imports(ast.NodeVisitor):
    """
    The modules that a file imports.

    :param file: the file.
    """

    def __init__(self, file: Path) -> None:
        self.at_import: set[str] = set()
        self.in_functions: set[str] = set()
        self.for_types: set[str] = set()
        self._found = self.at_import
        self._package = ".".join(file.relative_to(ROOT).parent.parts)
        self.visit(ast.parse(file.read_text("utf-8")))

    @property
    def at_run_time(self) -> set[str]:
        return self.at_import | self.in_functions

    @property
    def all(self) -> set[str]:
        return self.at_run_time | self.for_types

    def _visit_as(self, found: set[str], nodes: list[ast.stmt]) -> None:
        before, self._found = self._found, found
        for node in nodes:
            self.visit(node)
        self._found = before

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._visit_as(self.in_functions, node.body)

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815 - the name that ast calls

    def visit_If(self, node: ast.If) -> None:
        types_only = ast.unparse(node.test) == "TYPE_CHECKING"
        self._visit_as(self.for_types if types_only else self._found, node.body)
        self._visit_as(self._found, node.orelse)

    def visit_Import(self, node: ast.Import) -> None:
        self._found.update(alias.name for alias in node.names)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module = resolve_name("." * node.level + (node.module or ""), self._package)
        names = (f"{module}.{alias.name}" for alias in node.names)
        self._found.update(name if name in FILES else module for name in names)


IMPORTS = {name: Imports(file) for name, file in FILES.items()}


def part(module: str) -> str:
    """Return the folder or module directly below the package, such as ``hooks`` or ``metrics``."""
    return module.split(".")[1] if module.startswith("datatile_provider.") else ""


def of(*parts: str) -> dict[str, Imports]:
    found = {name: imports for name, imports in IMPORTS.items() if part(name) in parts}
    assert {part(name) for name in found} == set(parts)
    return found


def libraries(modules: set[str]) -> set[str]:
    return {module.split(".")[0] for module in modules}


def test_no_modules_import_each_other():
    """Also not in functions. The error of a circle names its modules."""
    own = {name: imports.at_run_time & FILES.keys() for name, imports in IMPORTS.items()}
    assert own["datatile_provider.operators.attempt"] >= {
        "datatile_provider.hooks.datatile",
        "datatile_provider.assets.datatile",
    }
    TopologicalSorter(own).prepare()


def test_the_api_imports_neither_airflow_nor_another_folder():
    for name, imports in of("api").items():
        assert "airflow" not in libraries(imports.all), name
        assert {part(module) for module in imports.all & FILES.keys()} <= {"api"}, name


def test_the_sandbox_shares_no_code_with_the_rest():
    for name, imports in IMPORTS.items():
        used = {part(module) for module in imports.all & FILES.keys()}
        assert used <= {"sandbox"} if part(name) == "sandbox" else "sandbox" not in used, name


def test_nothing_but_the_command_line_imports_the_commands():
    for name, imports in IMPORTS.items():
        used = {part(module) for module in imports.all & FILES.keys()}
        assert "cli" not in used or part(name) in ("cli", "__main__"), name
    # Airflow imports the list of commands for each of its own commands.
    assert not IMPORTS["datatile_provider.cli.commands"].at_import & FILES.keys()


def test_the_reading_of_a_document_is_pure():
    for name, imports in of("cli").items():
        if name.startswith("datatile_provider.cli.openapi."):
            assert not {*HTTP, "rich"} & libraries(imports.all), name
            assert {part(module) for module in imports.all & FILES.keys()} <= {"api", "cli"}, name


def test_what_a_dag_file_imports_loads_no_http_library():
    assert HTTP & libraries(IMPORTS["datatile_provider.api.client"].all)
    loaded, left = set(), set(of(*DAG_MODULES))
    while left:
        module = left.pop()
        loaded.add(module)
        imports = IMPORTS[module]
        used = imports.all if part(module) in DAG_MODULES else imports.at_import
        assert not HTTP & libraries(used), module
        left |= imports.at_import & FILES.keys() - loaded


@pytest.mark.parametrize("leaf", ["lineage", "metrics", "links"])
def test_what_stands_on_the_side(leaf):
    for name, imports in IMPORTS.items():
        used = {part(module) for module in imports.all & FILES.keys()}
        if part(name) == leaf:
            assert not used & set(DAG_MODULES), name
        elif leaf in used:
            assert part(name) in ("hooks", *DAG_MODULES), name


def test_only_version_compat_asks_for_the_version_of_airflow():
    asking = {name for name, imports in IMPORTS.items() if "airflow" in imports.all}
    assert asking == {"datatile_provider.version_compat"}
    assert not IMPORTS["datatile_provider.version_compat"].all & FILES.keys()
