"""Figures, explorers and sound: alt text always, colours that the colour-blind tell apart, a still picture headless."""

import io

import numpy as np
import pytest
import soundfile
import torch
from matplotlib.colors import to_hex

from omni_lab import lab, runtime
from omni_lab.errors import ConfigError, InputError, OmniLabError
from omni_lab.lab import explorers, measured, player, plots


@pytest.fixture
def shown(monkeypatch):
    """What was displayed, as HTML."""
    seen = []
    for module in (plots, explorers, player):
        monkeypatch.setattr(module, "display", lambda item: seen.append(getattr(item, "data", item)))
    return seen


def a_figure(height=1.0):
    made, axis = lab.figure(height=1.5, width=2)
    axis.plot([0, height])
    return made


def test_a_figure_carries_its_alt_text_and_is_the_same_bytes_each_time(shown):
    for _ in range(2):
        lab.show(a_figure(), alt='A line that rises from 0 to 1 "exactly".')
    assert 'alt="A line that rises from 0 to 1 &quot;exactly&quot;."' in shown[0] and shown[0] == shown[1]


@pytest.mark.parametrize("alt", ["", "plot", "a plot"])
def test_a_figure_without_words_is_refused(alt):
    with pytest.raises(InputError, match="alt text"):
        lab.show(a_figure(), alt=alt)


def test_what_is_drawn_later_has_the_style_too():
    """Colours named "C1" and the map of `imshow` are looked up while one draws, after `lab.figure` has returned."""
    _, axis = lab.figure()
    image = axis.imshow(np.eye(2))
    bars = axis.bar([0, 1], [1, 2], color=["C0", "C1"])
    assert image.get_cmap().name == "cividis"
    assert [to_hex(bar.get_facecolor()).upper() for bar in bars] == list(plots.PALETTE[:2])


def test_neighbouring_colours_differ_in_lightness():
    def lightness(colour):
        red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    light = [lightness(c) for c in plots.PALETTE]
    assert all(abs(a - b) > 0.05 for a, b in zip(light[:4], light[1:5], strict=True))


def test_an_explorer_is_a_still_picture_where_nobody_moves_it(shown):
    lab.explore(a_figure, alt="A line that rises to {height}.", height=lab.Slider(0, 1, 0.5))
    assert len(shown) == 1 and "A line that rises to 0.5." in shown[0]


def test_an_explorer_has_a_control_for_each_argument(shown, monkeypatch):
    monkeypatch.delenv("OMNI_LAB_HEADLESS")
    seen = []
    lab.explore(
        lambda **values: seen.append(values),
        alt="Nothing to see here.",
        number=lab.Slider(1, 5, 3),
        fraction=lab.Slider(0.0, 1.0, 0.5),
        kind=lab.Choice("cat", "dog"),
        words=lab.Text("a cat"),
    )
    box = shown[-1]
    assert seen == [{"number": 3, "fraction": 0.5, "kind": "cat", "words": "a cat"}]
    box.children[2].value = "dog"
    assert seen[-1]["kind"] == "dog"


def test_sound_is_compressed_and_described(shown):
    wave = 0.5 * torch.sin(torch.arange(24000) * 0.1)
    lab.play(wave, 24000, alt="A steady hum & nothing else.")
    assert 'aria-label="A steady hum &amp; nothing else."' in shown[0] and 'alt="Spectrogram: A steady hum' in shown[0]
    data, rate = soundfile.read(io.BytesIO(player.mp3(wave.numpy(), 24000)))
    assert rate == 24000 and abs(np.sqrt((data**2).mean()) - 0.3535) < 0.03
    assert len(player.mp3(wave.numpy(), 24000)) < 10_000  # a second


@pytest.mark.parametrize("wave", [torch.zeros(0), torch.zeros(2, 8), torch.tensor([float("nan")])])
def test_what_is_no_sound_is_refused(wave):
    with pytest.raises(InputError, match="finite samples"):
        lab.play(wave, 16000, alt="Nothing that sounds at all.")


@pytest.mark.parametrize("samples", [1, 2, 3, 4, 5])
def test_the_shortest_sounds_have_a_picture_too(shown, samples):
    lab.play(np.full(samples, 0.1, np.float32), 16000, alt="A click, hardly heard.")
    assert shown[0].count("<img") == 1 and "<audio" in shown[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_sound_in_the_types_that_models_compute_in(shown, dtype):
    lab.play((0.5 * torch.sin(torch.arange(800) / 5)).to(dtype), 16000, alt="A short steady tone.")
    assert "level 0.35" in shown[0]


def test_scales(capsys):
    run = lab.start("smoke", seed=3, lab="00")
    said = capsys.readouterr().out
    assert measured.read()["00"]["smoke"].words in said and "not measured yet" in said
    first = torch.rand(2)
    again = lab.start("smoke", seed=3)
    assert torch.equal(torch.rand(2), first) and again.device.type == "cpu"
    assert (run.pick(smoke=1, gpu=2), lab.start("cpu").pick(smoke=1, gpu=2)) == (1, 1)
    assert torch.get_num_threads() == runtime.available_cores(), "a training is given all cores"
    lab.start("smoke")
    assert torch.get_num_threads() == 1, "toy tensors one"
    for bad in (lambda: lab.start("huge"), lambda: run.pick(cpu=1), lambda: run.pick(tiny=1)):
        with pytest.raises(ConfigError):
            bad()
    with pytest.raises(OmniLabError, match="needs 100000 GB"):
        lab.need_memory(1e5)
