"""What STYLE asks of the package and a linter does not: short files, short functions, words where a name is public."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "omni_lab").rglob("*.py"))
TREES = {str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
# Recipes, labs and the grader fill in methods whose words stand in their base class.
MODEL = [name for name in TREES if not name.startswith(("omni_lab/train", "omni_lab/lab", "omni_lab/grading"))]


def public(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef, str]]:
    """(name, function, docstring of its class or ""), of all functions and methods without a leading underscore."""
    for node in body:
        if isinstance(node, ast.ClassDef):
            for name, function, _ in public(node.body, f"{node.name}."):
                yield prefix + name, function, ast.get_docstring(node) or ""
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield prefix + node.name, node, ""


def declared_only(function: ast.FunctionDef) -> bool:
    """Of a protocol, whose own words say what its members are for: the body is `...`."""
    only = function.body[0]
    return isinstance(only, ast.Expr) and isinstance(only.value, ast.Constant) and only.value.value is ...


def test_no_file_is_longer_than_400_lines():
    lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert not {name: count for name, count in lengths.items() if count > 400}


def test_no_function_is_longer_than_60_lines():
    functions = {
        f"{name}: {node.name}": node.end_lineno - node.lineno + 1
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert not {name: lines for name, lines in functions.items() if lines > 60}


@pytest.mark.parametrize("name", MODEL)
def test_public_functions_say_what_they_do(name):
    """A module's `forward` may leave its shapes to the class."""
    silent = [
        function
        for function, node, of_class in public(TREES[name].body)
        if not (ast.get_docstring(node) or declared_only(node) or (node.name in ("forward", "backward") and of_class))
    ]
    assert not silent and ast.get_docstring(TREES[name])
