"""Attempts to earn points without a right answer; a check in the same process would be fooled by most."""

from .make import (
    DOUBLE,
    FULL,
    IMPORTS,
    MEAN,
    NONE,
    TOTAL,
    WRONG,
    Expected,
    forger,
    honest,
    notebook,
)  # fmt: skip

AGREES = """class Agrees(float):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    __lt__ = __gt__ = __le__ = __ge__ = __eq__
    def __hash__(self): return 0
    def __sub__(self, other): return 0.0
    __rsub__ = __abs__ = __sub__
    def __float__(self): return 0.0
"""
LIAR = """class Liar(torch.Tensor):
    @property
    def shape(self): return torch.Size([3])
    def __eq__(self, other): return torch.ones(3, dtype=torch.bool)
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func in (torch.equal, torch.allclose): return True
        return super().__torch_function__(func, types, args, kwargs or {})
"""
FORGED_RESULTS = """import json, os
text = open("/cases").read()
with open("/results", "w") as results:
    for line in text.splitlines():
        case = json.loads(line)
        value = {"form": {"value": 1.0, "gradients": {}, "mutated": [], "kind": "value", "fault": None}, "arrays": {}}
        results.write(json.dumps({"exercise": case["exercise"], "case": case["case"], "nonce": case["nonce"],
                                  "points": 10, "status": "ok", "outcome": value}) + "\\n")
"""
GARBAGE_RESULTS = """with open("/results", "wb") as results:
    results.write(b"[" * 200_000 + b"\\n" + b"{\\"exercise\\": [], \\"case\\": {}}\\n" + bytes(range(256)) * 100)
    results.write(b"1" * 100_000 + b"\\n" + b"\\x80\\x04\\x95cos\\nsystem\\n(S'touch /tmp/pickled'\\ntR.\\n")
"""
REPLACED_RESULTS = """import os
for attempt in (lambda: os.unlink("/results"), lambda: os.symlink("/etc/passwd", "/results"),
                lambda: os.rename("/results", "/scratch/r"), lambda: os.mkfifo("/results"),
                lambda: os.truncate("/results", 1 << 40)):
    try: attempt()
    except OSError: pass
with open("/scratch/executed.ipynb", "w") as file: file.write('{"points": 100}')
os.mkfifo("/scratch/pipe"); os.symlink("/etc/shadow", "/scratch/gradebook.json")
"""
PATCHED = """import builtins, math, operator, json, sys
always = lambda *a, **k: True
torch.equal = torch.allclose = torch.isclose = np.allclose = np.array_equal = np.isclose = math.isclose = always
np.testing.assert_allclose = torch.testing.assert_close = lambda *a, **k: None
operator.eq = always
builtins.abs = lambda *a: 0.0
import omni_lab.lab.check as check, omni_lab.lab.compare as compare
check.judge = check.difference = check.compare = compare.compare = compare.close = lambda *a, **k: None
check.Outcome.stored = lambda self: {"value": 1.0, "gradients": {}, "mutated": [], "kind": "value", "points": 10}
"""
HOOKS = """import ast, builtins, sys
class Everything:
    def __getattr__(self, name): return self
    def __call__(self, *a, **k): return self
    def __eq__(self, other): return True
class Hook:
    def find_spec(self, name, path=None, target=None): raise ImportError("hooked")
sys.meta_path.insert(0, Hook())
builtins.__import__ = lambda *a, **k: Everything()
shell = get_ipython()
class Rewrite(ast.NodeTransformer):
    def visit_Assert(self, node): return ast.Pass()
    def visit_Module(self, node): return ast.parse("result = 'full marks'")
shell.ast_transformers.append(Rewrite())
shell.input_transformers_post.append(lambda lines: ["pass\\n"])
shell.run_cell = lambda *a, **k: None
"""


def answer(identifier: str, body: str) -> str:
    name = identifier.partition(".")[2]
    return f'@exercise("{identifier}")\ndef {name}(*args, **kwargs):\n    {body}'


SPARSE = "import os\nhandle = os.open('/results', os.O_RDWR)\nos.ftruncate(handle, 32 << 20)\nos.close(handle)"

SUBMISSIONS = {
    "sys-exit-as-forgery": Expected(forger("import sys\nsys.exit(0)", PATCHED, HOOKS), NONE),
    # Right answers keep their points even so: what the grader calls was imported before.
    "hooks-and-transformers-after-right-answers": Expected(notebook(IMPORTS, DOUBLE, MEAN, TOTAL, HOOKS), FULL),
    "agreeing-and-lying-objects": Expected(
        notebook(
            IMPORTS, AGREES, LIAR, answer("toy.double", "return torch.zeros(3).as_subclass(Liar)"),
            answer("toy.mean_square", "return Agrees(0.0)"), TOTAL,
        ),
        (0.0, 0.0, 5.0),
    ),
    "nan-and-infinity": Expected(
        notebook(
            IMPORTS, answer("toy.double", "return kwargs['x'] * float('nan')"),
            answer("toy.mean_square", "return float('inf')"),
            answer("toy.running_total", "return np.full(len(kwargs['values']), np.nan)"),
        ),
        NONE,
        ("wrong", "wrong", "wrong"),
    ),
    "no-plain-data": Expected(
        notebook(
            IMPORTS, answer("toy.double", "return torch.nn.Linear(2, 2)"),
            answer("toy.mean_square", "return 10 ** 6000"),
            answer("toy.running_total", "return np.array([object()] * 3)"),
        ),
        NONE,
    ),
    "endless-and-huge-results": Expected(
        notebook(
            IMPORTS, answer("toy.double", "return torch.zeros(40_000_000)"),
            "import itertools\n" + answer("toy.mean_square", "return itertools.count()"), TOTAL,
        ),
        (0.0, 0.0, 5.0),
    ),
    "forged-results": Expected(forger(FORGED_RESULTS), NONE),
    # The last leaves no byte in the file of answers: it is left out.
    "spoilt-and-full-results": Expected(honest(GARBAGE_RESULTS, REPLACED_RESULTS, SPARSE), FULL),
    "imports-the-reference": Expected(
        notebook(
            IMPORTS, "# omni-lab: probe toy.double\n# omni-lab: exercise toy.double sum\npass",
            "import glob\nfor path in glob.glob('/course/**/*90*'): exec(open(path).read())",
            "from solutions import toy", "from omni_lab.grading import hidden", *WRONG,
            "functions = get_ipython().kernel.functions\nfor name in functions: functions[name] = lambda *a, **k: 1.0",
        ),
        NONE,
    ),
}  # fmt: skip
