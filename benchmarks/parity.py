"""How closely every module agrees with the reference (transformers): the parity tests' own figures, as a table.

    python -m benchmarks.parity

Runs the tests that compare with the reference on the same random weights in float32, and keeps the largest error of
each module and configuration: the largest difference as a share of the reference's largest value.
"""

import importlib.metadata
from collections.abc import Generator
from pathlib import Path

import pytest
import torch

from omni_lab.data.emoji_build import write_atomic
from tests import comparison

OUT = Path(__file__).parent / "results" / "parity.md"
ROOT = Path(__file__).parents[1]
MODULES = {  # what is compared -> the test that compares it
    "audio encoder": "tests/encoders/test_audio.py::test_equals_the_reference",
    "vision encoder": "tests/encoders/test_vision.py::test_equals_the_reference",
    "thinker: states, logits, loss": "tests/test_thinker.py::test_logits_loss_and_states",
    "talker: logits": "tests/test_talker.py::test_teacher_forced_logits_agree_with_the_reference",
    "ECAPA-TDNN": "tests/codec/test_speaker.py::test_ecapa_agrees_with_the_reference",
    "DiT: one call": "tests/codec/test_dit.py::test_one_call_agrees_with_the_reference",
    "DiT: sampled mel": "tests/codec/test_dit.py::test_sampling_agrees_with_the_reference_given_its_noise",
    "BigVGAN": "tests/codec/test_bigvgan.py::test_agrees_with_the_reference",
    "codes to wave": "tests/codec/test_token2wav.py::test_waves_are_the_references_given_its_noise",
    "whole model: logits, loss": "tests/test_omni.py::test_logits_and_loss_are_the_reference_s",
    "whole model: wave of a reply": "tests/test_omni.py::test_text_codes_and_wave_are_the_reference_s",
}


class Recorder:
    """A pytest plugin that keeps the largest error of each test function and configuration."""

    def __init__(self) -> None:
        self.errors: dict[tuple[str, str], list[float]] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Function) -> Generator[None, object, object]:
        comparison.MEASURED.clear()
        result = yield
        name = next(title for title, test in MODULES.items() if item.nodeid.startswith(test))
        given = item.callspec.params
        configuration = next(given[key] for key in ("models", "pair", "name") if isinstance(given.get(key), str))
        self.errors.setdefault((name, configuration), []).append(max(comparison.MEASURED))
        return result


def main() -> None:
    torch.set_num_threads(1)
    recorder = Recorder()
    tests = [str(ROOT / test) for test in MODULES.values()]
    code = pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests], [recorder])
    rows = [
        f"| {name} | {configuration} | {len(errors)} | {max(errors):.1e} |"
        for (name, configuration), errors in recorder.errors.items()
    ]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers"))
    text = (
        "# Agreement with the reference\n\n"
        f"`python -m benchmarks.parity`, {versions}, float32 on a CPU, the same random weights in both. Error: the "
        "largest difference\nas a share of the reference's largest value, the worst of all cases. Text and codes are "
        "compared one by one, and positions\n(TMRoPE) integer by integer, in the tests; they agree wholly.\n\n"
        "| module | configuration | cases | error |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"
    )
    if code == 0:
        write_atomic(OUT, text.encode())
    print(text)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
