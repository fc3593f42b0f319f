"""TMRoPE: integer for integer the reference's positions, on layouts that hypothesis makes up."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from omni_lab import tmrope
from omni_lab.encoders import audio
from omni_lab.errors import InputError
from tests.thinker_reference import (
    AUDIO,
    AUDIO_BOS,
    AUDIO_EOS,
    CONFIGS,
    IMAGE,
    VIDEO,
    VISION_BOS,
    VISION_EOS,
    reference,
    tiny,
)

SOUND = st.integers(3, 500)  # mel frames
PICTURE = st.tuples(st.just(1), st.integers(1, 4), st.integers(1, 4))
CLIP = st.tuples(
    st.integers(1, 6), st.integers(1, 3), st.integers(1, 3), st.sampled_from([0.08, 0.5, 1.0, 1.25, 2.0, 4.0])
)
SEGMENT = st.one_of(
    st.tuples(st.just("text"), st.integers(1, 9)),
    st.tuples(st.just("sound"), SOUND),
    st.tuples(st.just("picture"), PICTURE),
    st.tuples(st.just("clip"), CLIP),
    st.tuples(st.just("talking clip"), CLIP, SOUND),
)


def lay_out(rows, merge):
    """Rows of segments -> token lists, grids, seconds and mel frames, as a processor would write them."""
    tokens, images, videos, seconds, frames = [], [], [], [], []
    for row in rows:
        ids = [1]
        for kind, *parts in row:
            if kind == "text":
                ids += [2] * parts[0]
            elif kind == "sound":
                frames.append(parts[0])
                ids += [AUDIO_BOS, *[AUDIO] * audio.token_count(parts[0]), AUDIO_EOS]
            elif kind == "picture":
                t, h, w = parts[0]
                images.append([t, h * merge, w * merge])
                ids += [VISION_BOS, *[IMAGE] * (t * h * w), VISION_EOS]
            else:
                t, h, w, step = parts[0]
                videos.append([t, h * merge, w * merge])
                seconds.append(step)
                body = [VIDEO] * (t * h * w)
                if kind == "talking clip":
                    frames.append(parts[1])
                    body = [AUDIO_BOS, *body, *[AUDIO] * audio.token_count(parts[1]), AUDIO_EOS]
                ids += [VISION_BOS, *body, VISION_EOS]
        tokens.append(ids)
    return tokens, images, videos, seconds, frames


def padded(tokens, left):
    length = max(map(len, tokens))
    ids, mask = torch.zeros(len(tokens), length, dtype=torch.long), torch.zeros(len(tokens), length, dtype=torch.long)
    for i, row in enumerate(tokens):
        place = slice(length - len(row), length) if left else slice(0, len(row))
        ids[i, place], mask[i, place] = torch.tensor(row), 1
    return ids, mask


REFERENCES = {name: reference(config) for name, config in CONFIGS.items()}


@settings(max_examples=550, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    name=st.sampled_from(list(CONFIGS)),
    rows=st.lists(st.lists(SEGMENT, max_size=5), min_size=1, max_size=3),
    with_sound=st.booleans(),
    left=st.booleans(),
)
def test_equals_the_reference(name, rows, with_sound, left):
    # With use_audio_in_video the reference takes every video to have sound; without, none.
    drop = "clip" if with_sound else "talking clip"
    rows = [[segment for segment in row if segment[0] != drop] for row in rows]
    config = CONFIGS[name]
    tokens, images, videos, seconds, frames = lay_out(rows, config.vision_config.spatial_merge_size)
    ids, mask = padded(tokens, left)
    grids = [torch.tensor(grid) if grid else None for grid in (images, videos)]
    rest = (mask, with_sound, torch.tensor(frames) if frames else None, torch.tensor(seconds))
    ours, delta = tmrope.position_ids(ids, *grids, *rest, config=config)
    theirs, their_delta = REFERENCES[name].model.get_rope_index(ids, *grids, *rest)
    assert torch.equal(ours, theirs)
    assert torch.equal(delta, their_delta)
    assert ours.dtype == delta.dtype == torch.long


def test_a_mask_is_optional_and_changes_nothing_without_padding():
    tokens, images, *_ = lay_out([[("text", 3), ("picture", (1, 2, 3)), ("text", 2)]], 2)
    ids, mask = padded(tokens, True)
    grid = torch.tensor(images)
    with_mask = tmrope.position_ids(ids, grid, None, mask, config=CONFIGS["odd heads, 3:1, untied"])
    without = tmrope.position_ids(ids, grid, config=CONFIGS["odd heads, 3:1, untied"])
    assert all(torch.equal(a, b) for a, b in zip(with_mask, without, strict=True))


def test_what_is_seen_and_heard_at_one_moment_shares_its_time():
    video = tmrope.video_ids(10, 4, 1, 2, 1.0)  # a frame a second: 0, 25, 50, 75
    sound = tmrope.audio_ids(10, 100)
    chunks = tmrope.interleave(video, sound, 10)
    assert [chunk.shape[1] for chunk in chunks] == [4, 50, 4, 50]  # video first, 2 s each
    assert chunks[2][0].tolist() == [60, 60, 85, 85] and int(chunks[3][0, 0]) == 60


def test_both_start_tokens_share_a_position_and_so_do_both_end_tokens():
    tokens, _, videos, seconds, frames = lay_out([[("talking clip", (2, 1, 1, 1.0), 10), ("text", 2)]], 2)
    ids, _ = tmrope.position_ids(
        torch.tensor(tokens), None, torch.tensor(videos), None, True, torch.tensor(frames), seconds, tiny()
    )
    # 1 | BOS BOS | 2 frames, 2 sounds | EOS EOS | text text
    assert ids[0, 0].tolist() == [0, 1, 1, 2, 27, 2, 3, 4, 4, 5, 6]


def test_a_silent_video_beside_one_with_sound_keeps_its_own_time():
    heard, silent = ("talking clip", (2, 1, 2, 1.0), 150), ("clip", (3, 2, 1, 1.0))
    for row in ([heard, ("text", 2), silent], [silent, heard, ("text", 1)], [heard, silent, heard, silent]):
        config = tiny()
        merge = config.vision_config.spatial_merge_size
        tokens, _, videos, seconds, frames = lay_out([row], merge)
        rest = (None, torch.tensor(videos), None, True, torch.tensor(frames), seconds, config)
        whole, _ = tmrope.position_ids(torch.tensor(tokens), *rest)
        pieces, start = [torch.zeros(3, 1, dtype=torch.long)], 1
        for segment in row:  # each by itself, behind the one before
            (piece,), _, grids, step, mel = lay_out([[segment]], merge)
            sound = torch.tensor(mel) if mel else None
            grid = torch.tensor(grids) if grids else None
            ids, _ = tmrope.position_ids(
                torch.tensor([piece]), None, grid, None, segment[0] == "talking clip", sound, step or None, config
            )
            pieces.append(ids[:, 0, 1:] - 1 + start)
            start = int(pieces[-1].max()) + 1
        assert torch.equal(whole[:, 0], torch.cat(pieces, dim=1))


def test_dynamic_frame_rates_keep_their_time():
    assert tmrope.video_ids(0, 4, 1, 1, 0.33)[0].tolist() == [0, 8, 16, 24]  # int(i * 0.33 * 25)


def test_a_sound_too_short_for_a_token_takes_no_place():
    tokens = torch.tensor([[1, AUDIO_BOS, AUDIO_EOS, AUDIO_BOS, AUDIO, AUDIO_EOS, VISION_BOS, IMAGE, VISION_EOS]])
    ids, delta = tmrope.position_ids(
        tokens, torch.tensor([[1, 2, 2]]), None, audio_seqlens=torch.tensor([2, 4]), config=tiny()
    )
    assert ids[0, 0].tolist() == list(range(9)) and delta.item() == 0


@pytest.mark.parametrize(
    ("tokens", "grid", "says"),
    [
        ([VISION_BOS, IMAGE, VISION_EOS], [[1, 4, 4]], "1 placeholders where images of 4"),
        ([VISION_BOS, IMAGE, VISION_EOS, VISION_BOS, IMAGE, VISION_EOS], [[1, 2, 2]], "more images"),
        ([VISION_BOS, IMAGE, VISION_EOS], [[1, 2, 2], [1, 2, 2]], "fewer images than were given: 1 are left over"),
        ([1, 2, 3], [[1, 2, 2]], "fewer images"),
        ([VISION_BOS, IMAGE, VISION_EOS], [1, 2, 2], r"image_grid_thw is of shape \(3,\), expected \(n, 3\)"),
        ([VISION_BOS, IMAGE, VISION_EOS], [[1, 2]], r"of shape \(1, 2\), expected \(n, 3\)"),
        ([VISION_BOS, IMAGE, VISION_EOS], [[0, 2, 2]], "makes no token"),
        ([VISION_BOS, IMAGE, VISION_EOS], [[1, 2, 1]], "makes no token"),
    ],
)
def test_placeholders_that_do_not_match_are_named(tokens, grid, says):
    with pytest.raises(InputError, match=says):
        tmrope.position_ids(torch.tensor([tokens]), torch.tensor(grid), config=tiny())


def test_videos_and_sounds_without_places_are_named():
    video, sound = torch.tensor([[1, 2, 2]]), torch.tensor([10])
    row = torch.tensor([[VISION_BOS, VIDEO, VISION_EOS, 2]])
    with pytest.raises(InputError, match="fewer sounds than were given: 1 are"):
        tmrope.position_ids(row, None, video, audio_seqlens=sound, config=tiny())
    with pytest.raises(InputError, match="fewer videos than were given: 2 are"):
        tmrope.position_ids(row, None, video.repeat(3, 1), config=tiny())
    with pytest.raises(InputError, match="video_grid_thw is of shape"):
        tmrope.position_ids(row, None, video[0], config=tiny())
