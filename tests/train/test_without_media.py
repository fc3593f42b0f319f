"""Training without PyAV and soundfile, on machines that lack them or their libraries: what reads no file needs none."""

import subprocess
import sys

SCRIPT = """
import sys
sys.modules["av"] = sys.modules["soundfile"] = None  # as if they were not installed
from importlib import import_module
from pathlib import Path

import torch
from omni_lab.codec.speech_tokenizer import SpeechTokenizer
from omni_lab.config import preset
from omni_lab.data import bank, readers, recordings, video_files
from omni_lab.errors import OmniLabError
from omni_lab.train import parts, speech_bank
from omni_lab.train.recipes import RECIPES, find

torch.set_num_threads(1)
folder = Path(sys.argv[1])
speech_bank.build_folder = lambda: folder
for module, _ in RECIPES.values():
    import_module(f"omni_lab.train.recipes.{module}")
parts.save_part(folder, "speech_tokenizer", SpeechTokenizer(preset("nano").speech_tokenizer_config))
for name in ("clip", "seeing", "talker"):
    assert find(name).at("smoke", parts=folder).batch(0), name
uses = {
    recordings.everything: "soundfile",
    lambda: readers.open_sound(b"RIFF"): "soundfile",
    lambda: video_files.read("a.mp4"): "av",
    lambda: bank.encode_opus(folder / "a.ogg", None, 16000, 24000): "av",
}
for use, package in uses.items():
    try:
        use()
    except OmniLabError as error:
        assert f"no {package} " in str(error) and f"pip install {package}" in str(error), error
    else:
        raise AssertionError(package)
print("all there")
"""


def test_recipes_that_read_no_sound_or_video_file_do_without_what_reads_them(tmp_path) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "all there" in done.stdout, done.stderr[-2000:]
