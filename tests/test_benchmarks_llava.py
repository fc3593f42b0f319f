"""Lab 02's record of its trainings: what a run's log gives, and that the record shown is one."""

import json

from benchmarks import llava_stages as benchmark
from omni_lab.data.folders import samples_folder
from omni_lab.train.log import RunLog


def test_curves_are_the_evaluations_of_a_log(tmp_path):
    log = RunLog(tmp_path, 0, 4, "a run", progress=False, board=False, first=True)
    log.write(2, 1.0, {"loss": 9.0, benchmark.RIGHT: 3.0, benchmark.OTHER: 4.0})
    log.write(3, 1.5, {"loss": 8.0})
    log.write(4, 2.0, {benchmark.RIGHT: 1.0, benchmark.OTHER: 4.5})
    log.close()
    assert benchmark.losses(tmp_path / "log.csv") == [[2, 3.0, 4.0], [4, 1.0, 4.5]]


def test_the_record_shows_a_model_that_looks():
    curves = json.loads((samples_folder() / "llava_stages.json").read_text())["curves"]
    for name in benchmark.RUNS:
        steps, right, other = zip(*curves[name], strict=True)
        assert list(steps) == sorted(steps) and right[-1] < right[0] and right[-1] < other[-1] - 0.3
    seen = {name: curves[name][-1][2] - curves[name][-1][1] for name in ("instruct", "skipped")}
    assert seen["instruct"] > seen["skipped"], "the lab says that a model which skips stage 1 looks less"
