"""Lab 04's experiment: clips mean what they should, and schemes know what their names say."""

import pytest
import torch

from omni_lab import tmrope
from omni_lab.lab import synchrony


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.mark.parametrize("scheme", synchrony.SCHEMES)
def test_answers_are_what_moves_when_the_bell_rings(scheme):
    """With true times, each bell's answer is the thing of the frame that begins at the bell's own id."""
    clips = synchrony.make_clips(scheme, 3, 4.0, torch.Generator().manual_seed(5))
    true = synchrony.make_clips("full TMRoPE", 3, 4.0, torch.Generator().manual_seed(5))
    assert torch.equal(clips.tokens, true.tokens) and torch.equal(clips.answers, true.answers)
    times = true.positions[0]
    for tokens, answers in zip(true.tokens, true.answers, strict=True):
        frames = {int(t): int(thing) for t, thing in zip(times, tokens, strict=True) if thing < synchrony.THINGS}
        bells = (tokens >= synchrony.BELL) & (tokens < synchrony.QUESTION)
        assert int(bells.sum()) == true.questions
        rung = {int(tokens[i]) - synchrony.BELL: frames[int(times[i])] for i in bells.nonzero()[:, 0]}
        assert all(int(answers[i]) == frames[int(times[i])] for i in bells.nonzero()[:, 0])
        asked = tokens[-true.questions :] - synchrony.QUESTION
        assert [rung[int(tone)] for tone in asked] == answers[-true.questions :].tolist()


def test_schemes_take_from_the_ids_what_their_name_says():
    ids = {scheme: synchrony.layout(scheme, 4.0, 0.32) for scheme in synchrony.SCHEMES}
    order, full, times = ids["full TMRoPE"]
    video = order < len(times)
    assert full[0, video].tolist() == times.tolist() == tmrope.video_ids(0, 12, 1, 1, 0.32)[0].tolist()
    assert ids["frames counted"][1][0, video].tolist() == list(range(12))
    assert ids["sequential ids"][1].tolist() == [list(range(len(order)))] * 3
    removed = ids["time removed"][1]
    assert not removed[0].any() and torch.equal(removed[1:], full[1:])


def test_training_repeats_itself():
    watcher, losses = synchrony.train("full TMRoPE", 3, batch=4)
    again, same = synchrony.train("full TMRoPE", 3, batch=4)
    assert losses == same and len(losses) == 3
    assert synchrony.accuracy(watcher, "full TMRoPE", 4.0, 8) == synchrony.accuracy(again, "full TMRoPE", 4.0, 8)


def by_the_clock(clips):
    """A watcher that is right: at a bell it names the thing of the frame with the bell's own temporal id."""
    named = torch.zeros(*clips.tokens.shape, synchrony.THINGS)
    times = clips.positions[0]
    for row, tokens in enumerate(clips.tokens):
        frames = {int(t): int(thing) for t, thing in zip(times, tokens, strict=True) if thing < synchrony.THINGS}
        for place, t in enumerate(times.tolist()):
            named[row, place, frames.get(t, 0)] = 1
    return named


def test_a_late_sound_misleads_who_goes_by_the_clock():
    on_time, late = (synchrony.accuracy(by_the_clock, "full TMRoPE", 4.0, 8, late=n, at="bells") for n in (0, 2))
    counted = synchrony.accuracy(by_the_clock, "frames counted", 4.0, 8, at="bells")
    assert on_time == 1 and late < 0.6 and counted < 0.6


def test_a_students_function_takes_part(monkeypatch):
    def slow_video(start, frames, height, width, second_per_grid, ids_per_second=25):
        return tmrope.grid_ids(start, torch.arange(frames) * 2, height, width)

    monkeypatch.setattr(tmrope, "video_ids", slow_video)
    assert synchrony.layout("full TMRoPE", 4.0, 0.4)[2].tolist() == list(range(0, 20, 2))
