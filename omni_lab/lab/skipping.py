"""In a graded release a notebook runs to its end before anything is written, as it does in the open course.

There the reference steps in for an unsolved exercise; here it was taken out, and calling it raises NotWritten. A cell
that does so says which exercise it waits for and is left there, and so is a later cell that fails with a name which the
first should have made, or has half made. Any other error stays one.
"""

import ast
import sys
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from ..errors import NotWritten

NAME = "_omni_lab_cell"  # of the guard, in the notebook
POINTS = "lab.summary()"  # ends a lab, and is always due


class Guard(ast.NodeTransformer):
    """Wraps each cell; as an IPython AST transformer. Also what the wrapped cell runs in."""

    def __init__(self) -> None:
        self.missing: set[str] = set()  # names that skipped cells should have made
        self.names: set[str] = set()  # that the present cell makes
        self.used: set[str] = set()  # that it reads

    def visit_Module(self, module: ast.Module) -> ast.Module:
        """`with guard.of([made], [used]): cell`, and what stands last is displayed as it would be."""
        heads = [n for n in module.body if isinstance(n, ast.ImportFrom) and n.module == "__future__"]
        body = [n for n in module.body if n not in heads]
        tail = [body.pop()] if body and ast.unparse(body[-1]) == POINTS else []  # whatever stands before them
        if not body:
            return module
        last = body[-1]
        if isinstance(last, ast.Expr):
            shown = ast.Call(ast.Attribute(ast.Name(NAME, ast.Load()), "show", ast.Load()), [last.value], [])
            body[-1] = ast.copy_location(ast.Expr(shown), last)
        made = list(names_made(body))
        used = [n.id for part in body for n in ast.walk(part) if isinstance(n, ast.Name) and n.id not in made]
        lists: list[ast.expr] = [
            ast.List([ast.Constant(name) for name in sorted(set(names))], ast.Load()) for names in (made, used)
        ]
        guard = ast.Call(ast.Attribute(ast.Name(NAME, ast.Load()), "of", ast.Load()), lists, [])
        wrapped = ast.copy_location(ast.With([ast.withitem(guard)], body), body[0])
        return ast.fix_missing_locations(ast.Module([*heads, wrapped, *tail], module.type_ignores))

    def of(self, names: list[str], used: list[str]) -> "Guard":
        """The guard of a cell that makes `names` and reads what is `used`."""
        self.names, self.used = set(names), set(used)
        return self

    def show(self, value: Any) -> None:
        """Display what stands last in a cell."""
        sys.displayhook(value)

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: TracebackType | None) -> bool:
        reason = self.reason(error)
        if reason:
            self.missing |= self.names
            print(f"Skipped from here: {reason}")
        elif error is None and self.used & self.missing:
            self.missing |= self.names  # made of what is half made
        elif error is None:
            self.missing -= self.names
        return bool(reason)

    def reason(self, error: BaseException | None) -> str:
        """Why a cell that ended with `error` is skipped; "" if it is not."""
        cause = error
        while cause is not None:
            if isinstance(cause, NotWritten):
                return f"{cause}."
            cause = cause.__cause__ or cause.__context__
        lacking = sorted(self.used & self.missing)
        if isinstance(error, NameError) and error.name in self.missing:
            return f"`{error.name}` is made by a cell above that was skipped."
        if isinstance(error, Exception) and lacking:
            return f"`{lacking[0]}` comes from a cell above that was skipped ({type(error).__name__}: {error})."
        return ""


def names_made(nodes: list[ast.stmt] | list[ast.AST]) -> Iterator[str]:
    """The names that statements give a value, without those inside of functions, classes and comprehensions."""
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.alias):
            yield node.asname or node.name.split(".")[0]
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif not isinstance(node, ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
            yield from names_made(list(ast.iter_child_nodes(node)))


def begin(shell: Any = None) -> None:
    """Guard the cells of `shell` (None: this notebook's) from the next one on; nothing outside of IPython."""
    from IPython import get_ipython

    shell = shell or get_ipython()
    if shell is None or any(isinstance(t, Guard) for t in shell.ast_transformers):
        return
    shell.user_ns_hidden[NAME] = shell.user_ns[NAME] = guard = Guard()
    shell.ast_transformers.append(guard)
