"""Right, partly right, untouched, and every way to disturb the cells of a notebook without meaning harm."""

from .make import (
    ALL,
    DOUBLE,
    FULL,
    IMPORTS,
    MEAN,
    NONE,
    TOTAL,
    WRONG_DOUBLE,
    Expected,
    code,
    markdown,
    notebook,
)  # fmt: skip

STUB = '@exercise("toy.double")\ndef double(x):\n    """Twice x."""\n    ...'
LATE_SQUARE = '@exercise("toy.mean_square")\ndef mean_square(values):\n    return (sum(values) / len(values)) ** 2'

SUBMISSIONS = {
    "all-right": Expected(notebook(IMPORTS, *ALL), FULL, ("ok", "ok", "ok")),
    "one-wrong": Expected(notebook(IMPORTS, WRONG_DOUBLE, MEAN, TOTAL), (0.0, 10.0, 5.0), ("wrong", "ok", "ok")),
    "partial": Expected(notebook(IMPORTS, DOUBLE, LATE_SQUARE, TOTAL), (5.0, 6.0, 5.0), ("ok", "wrong", "ok")),
    "untouched": Expected(notebook(IMPORTS, STUB), NONE, ("missing",) * 3),
    "deleted-and-markdown-cell": Expected(
        notebook(IMPORTS, markdown(DOUBLE), TOTAL), (0.0, 0.0, 5.0), ("missing", "missing", "ok")
    ),
    "renamed-reordered-retagged": Expected(
        notebook(
            IMPORTS,
            code(TOTAL.replace("def running_total", "def summed"), tags=["raises-exception", "skip-execution"]),
            # Without the decorator, the name alone finds it; under a magic, too.
            code("%%time\n" + MEAN.partition("\n")[2], tags=["remove-cell"], deletable=False),
            code(DOUBLE, tags=["skip", "nbval-skip"], papermill={"status": "completed"}),
        ),
        FULL,
    ),
    "duplicated-shadowed-last-cell-parameters": Expected(
        notebook(
            IMPORTS, WRONG_DOUBLE, DOUBLE, STUB, MEAN, TOTAL, "double = mean_square = None\nrunning_total = 'no more'",
            code("double = None\nSCALE = 'gpu'", tags=["parameters", "injected-parameters"]),
        ),
        FULL,
    ),
    "syntax-error-and-raising": Expected(
        notebook(IMPORTS, "def broken(:", "1 / 0", DOUBLE, "%no_such_magic", TOTAL, MEAN + "\nraise KeyError('late')"),
        FULL,
    ),
}  # fmt: skip
