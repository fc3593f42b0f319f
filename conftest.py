"""For every test and notebook: smoke scale, nobody at the controls, one thread each (two workers share two cores)."""

import os

SETTINGS = {
    "OMNI_LAB_SCALE": "smoke",
    "OMNI_LAB_HEADLESS": "1",
    "OMP_NUM_THREADS": "1",  # read by torch when it is imported, in the workers and in all that they start
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
}
os.environ.update(SETTINGS)
