"""How the sound and the pictures of one video alternate among the placeholder tokens (report, section 2.2)."""

import numpy as np


def chunk_sizes(positions: np.ndarray, chunk: int) -> list[int]:
    """How many tokens fall into each chunk of `chunk` temporal ids; positions: (tokens,), ascending, from 0.

    A chunk ends at the first token beyond its border, and each border is crossed by one step only: where one frame
    spans several chunks, the reference gives each of them one token, and so must we."""
    sizes, start, border = [], 0, chunk
    while True:
        reached = np.flatnonzero(positions[start + 1 :] >= border)
        end = start + 1 + int(reached[0]) if len(reached) else len(positions)
        sizes.append(end - start)
        if end == len(positions):
            return sizes
        start, border = end, border + chunk


def audio_in_video(
    grid: tuple[int, int, int], merge: int, second_per_grid: float, audio_tokens: int, ids_per_second: int, seconds: int
) -> list[tuple[str, int]]:
    """The runs of tokens of a video with sound: video, then sound, for every `seconds` of it.

    grid: (time, height, width) in patches; merge: patches per side of a token; second_per_grid: seconds between two
    steps of the grid's time; audio_tokens: at 40 ms. Returns runs ("video" | "audio", tokens)."""
    tokens = (grid[1] // merge) * (grid[2] // merge)
    chunk = ids_per_second * seconds
    video = chunk_sizes(np.repeat(np.arange(grid[0]), tokens) * second_per_grid * ids_per_second, chunk)
    audio = chunk_sizes(np.arange(audio_tokens), chunk)
    runs = []
    for i in range(max(len(video), len(audio))):
        runs += [("video", video[i])] if i < len(video) else []
        runs += [("audio", audio[i])] if i < len(audio) else []
    return runs
