"""Imports point down only, and the command line never reaches Numba."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lepton_edge"
ROOT = PACKAGE.name

# Top to bottom: a module may import from lower rows and from its own package, never from a higher row.
# A row that names a part of a package (quant.formats) is that part's place; the rest follows the package's row.
LAYERS = (
    ("__main__",),
    ("cli", "server"),
    ("__init__",),
    ("api",),
    ("tasks",),
    ("generate",),
    ("text",),
    ("runtime",),
    ("program",),
    ("adapters",),
    ("models",),
    ("kernels",),
    ("quant",),
    ("checkpoint",),
    ("quant.formats",),
    ("embedded",),
    ("errors", "config", "version"),
)


def module_name(path: Path) -> str:
    """'cli.main' for lepton_edge/cli/main.py; a package's own file is the package: 'cli'; ours is '__init__'."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py")) if "__pycache__" not in path.parts}


def level(module: str) -> tuple[int, str]:
    """The row of a module, counted from the top, and the name in it that placed the module there."""
    rows = [(row, name) for row, names in enumerate(LAYERS) for name in names]
    places = [(row, name) for row, name in rows if f"{module}.".startswith(f"{name}.")]
    assert places, f"{module} has no place in LAYERS"
    return max(places, key=lambda place: len(place[1]))


def nodes(tree: ast.AST, *, run: bool) -> Iterator[ast.AST]:
    """Every node; with `run`, only what importing the module runs: no function bodies, no `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if run and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if run and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from nodes(node, run=run)


@cache
def imports(module: str, run: bool = False) -> frozenset[str]:
    """What a module imports: our own modules as in MODULES ('cli.main'), others with a leading '/' ('/numpy')."""
    path = MODULES[module]
    found = set()
    for node in nodes(ast.parse(path.read_text(encoding="utf-8")), run=run):
        if isinstance(node, ast.Import):
            found |= {resolve(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = (node.module or "").split(".") if node.module else []
            if node.level:
                package = (ROOT, *path.relative_to(PACKAGE).parts[:-1])
                base = [*package[: len(package) - node.level + 1], *base]
            # `from package import name` may import a module or an attribute: resolve() finds out which.
            found |= {resolve(".".join([*base, alias.name])) for alias in node.names}
    return frozenset(found)


def resolve(dotted: str) -> str:
    """The module that a dotted name lies in."""
    first, *rest = dotted.split(".")
    if first != ROOT:
        return "/" + first
    while rest and ".".join(rest) not in MODULES:
        rest.pop()
    return ".".join(rest) or "__init__"


def with_packages(module: str) -> set[str]:
    """The module and the packages around it, whose files run first when it is imported."""
    parts = module.split(".")
    return {"__init__", *(".".join(parts[: i + 1]) for i in range(len(parts)))} & MODULES.keys()


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    row, place = level(module)
    wrong = [
        name
        for name in imports(module)
        if not name.startswith("/") and level(name)[1] != place and level(name)[0] <= row
    ]
    assert not wrong, f"{module} (row {row}) imports from a layer that is not below it: {', '.join(sorted(wrong))}"


def test_the_command_line_starts_without_numba() -> None:
    """Follows every import that `lepton generate` can reach; inside functions too, except into kernels' own process."""
    seen: set[str] = set()
    todo = {"__main__", "cli.main", "cli.generate"}
    while todo:
        module = todo.pop()
        seen.add(module)
        outside = not module.startswith("kernels")
        reached = imports(module, run=not outside)
        assert "/numba" not in reached, f"{module} imports numba, and `lepton generate` reaches it"
        for name in reached:
            if not name.startswith("/"):
                todo |= with_packages(name) - seen
    assert {"api", "runtime"} <= {name.split(".")[0] for name in seen}, "the walk did not reach the engine"


def test_planted_violations_are_found(tmp_path, monkeypatch) -> None:
    """The checks above turn red for an import that points up, however it is spelt."""
    planted = tmp_path / "planted.py"
    monkeypatch.setattr(f"{__name__}.PACKAGE", tmp_path)
    monkeypatch.setitem(MODULES, "quant.formats.planted", planted)
    for line in (
        f"from {ROOT}.api import load",
        f"def f():\n    import {ROOT}.api",
        f"from {ROOT} import api",
        f"if TYPE_CHECKING:\n    from {ROOT}.api import Model",
    ):
        planted.write_text(line)
        imports.cache_clear()
        with pytest.raises(AssertionError, match="planted"):
            test_imports_point_down("quant.formats.planted")
    imports.cache_clear()
