"""For every test and notebook: smoke scale, nobody at the controls, no network, one thread each."""

import os
import runpy
from pathlib import Path

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
if str(NO_NETWORK) not in os.environ.get("PYTHONPATH", ""):
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(NO_NETWORK), os.environ.get("PYTHONPATH")]))
    runpy.run_path(str(NO_NETWORK / "sitecustomize.py"))  # this process has started already
