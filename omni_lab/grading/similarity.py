"""How alike two answers are, by their syntax trees: names, comments and layout do not count.

For an instructor's eyes only. Short answers to a narrow question are alike by nature, so that no points hang on it.
"""

import ast
from collections import Counter
from collections.abc import Iterable

GRAM = 5  # neighbouring nodes that make one feature
_WORTH_SAYING = 25  # nodes; shorter answers are not compared


def fingerprint(source: str) -> Counter[tuple[str, ...]]:
    """Counts of runs of GRAM nodes in the order of the source; empty for what is no Python or too short."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return Counter()
    nodes = [_label(node) for node in _in_order(tree)]
    if len(nodes) < _WORTH_SAYING:
        return Counter()
    return Counter(tuple(nodes[i : i + GRAM]) for i in range(len(nodes) - GRAM + 1))


def _in_order(tree: ast.AST) -> Iterable[ast.AST]:
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.expr_context | ast.alias) or _is_docstring(node):
            continue
        yield node
        waiting += reversed(list(ast.iter_child_nodes(node)))


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(getattr(node.value, "value", None), str)


def _label(node: ast.AST) -> str:
    """A node's kind; with the attribute or the constant, which say what is computed, and without the names."""
    if isinstance(node, ast.Attribute):
        return f".{node.attr}"
    if isinstance(node, ast.Constant):
        value = node.value
        if isinstance(value, int) and abs(value) >= 10**30:  # the longest have no decimal digits
            return f"={value:x}"[:40]
        return f"={value!r}"[:40]
    return type(node).__name__


def likeness(one: Counter, other: Counter) -> float:
    """Share of features in common, 0 to 1 (Jaccard's, of multisets); 0 if either is empty."""
    if not one or not other:
        return 0.0
    return sum((one & other).values()) / sum((one | other).values())


def alike(sources: dict[str, dict[str, str]], package: dict[str, str], least: float = 0.9) -> list[tuple]:
    """(likeness, exercise, one, other), greatest first, of answers that are at least `least` alike.

    sources: {submission: {exercise: source}}. package: {exercise: the reference's source}, listed as "the package"."""
    found = []
    exercises = sorted({exercise for answers in sources.values() for exercise in answers})
    for exercise in exercises:
        prints = {name: fingerprint(answers[exercise]) for name, answers in sources.items() if exercise in answers}
        if exercise in package:
            prints["the package"] = fingerprint(package[exercise])
        names = sorted(prints)
        for index, one in enumerate(names):
            for other in names[index + 1 :]:
                share = likeness(prints[one], prints[other])
                if share >= least:
                    found.append((round(share, 3), exercise, one, other))
    return sorted(found, key=lambda entry: (-entry[0], *entry[1:]))
