"""For every test and notebook: smoke scale, nobody at the controls, no network, one thread each; and who runs what."""

import os
import runpy
import sys
from pathlib import Path

import pytest

from tests.seconds import known

NO_NETWORK = Path(__file__).parent / "tests" / "no_network"
SETTINGS = {
    "OMNI_LAB_SCALE": "smoke",
    "OMNI_LAB_HEADLESS": "1",
    "OMP_NUM_THREADS": "1",  # read by torch when it is imported, in the workers and in all that they start
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
}
os.environ.update(SETTINGS)
# Where byte code is not kept, every process that is started here compiles torch and transformers anew: seconds each.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
if str(NO_NETWORK) not in os.environ.get("PYTHONPATH", ""):
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(NO_NETWORK), os.environ.get("PYTHONPATH")]))
    runpy.run_path(str(NO_NETWORK / "sitecustomize.py"))  # this process has started already

# The grader's sandbox is Linux's own (namespaces, seccomp); the browser is found by the names that it has there.
collect_ignore = [] if sys.platform == "linux" else ["tests/grading", "tests/chat/test_browser.py"]
if not hasattr(os, "fork"):
    collect_ignore.append("tests/train/test_distributed.py")  # its ranks are forked

# Files that share what is made once in a process and takes long: the graded hostile set.
TOGETHER = {"tests/grading/test_grade.py": "tests/grading/test_hostile.py"}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """A file stays with one worker, so that what its tests share is made once, and not once in each worker."""
    from xdist.scheduler import LoadFileScheduling

    class WholeFiles(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return TOGETHER.get(file, file)

    config.option.loadscopereorder = False  # the order is that of the collection, below
    return WholeFiles(config, log)


def pytest_collection_modifyitems(config, items):
    """In a worker the longest files come first, so that none of them is left when the other worker has ended."""
    if not hasattr(config, "workerinput"):
        return
    seconds, together = known(), {}
    files = {item: item.nodeid.split("::", 1)[0] for item in items}
    for file in dict.fromkeys(files.values()):
        unit = TOGETHER.get(file, file)
        together[unit] = together.get(unit, 0.0) + seconds.get(file, 1.0)
    items.sort(key=lambda item: -together[TOGETHER.get(files[item], files[item])])
