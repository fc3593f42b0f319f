"""How many network calls does a chunk need, and how far must its first one look ahead? On trained weights.

    python -m benchmarks.streaming_solver [--parts build/nano/parts] [--clips 4]

Speech never heard is encoded, and its codes are turned into mel by several solvers. `distance`: from what 36 calls of
Runge-Kutta give, in nats of log-mel; `error`: from the recording itself (fewer calls blur, which this measure likes);
`liveliness`: how much the mel moves from frame to frame, beside those 36 calls. Then the first block, streamed with a
shorter look-ahead, beside the same block of the whole. Prints tables and writes benchmarks/results/streaming_solver.md.
"""

import argparse
import os
from pathlib import Path

import torch
from torch import Tensor

from omni_lab.codec.dit import DiT
from omni_lab.codec.speaker import SpeakerEncoder, reference_window
from omni_lab.config import preset
from omni_lab.streaming.mel import NUM_STEPS, SOLVER, MelStream
from omni_lab.train import speech_bank
from omni_lab.train.parts import frozen_tokenizer, need_part

RESULTS = Path(__file__).parent / "results"
FRAMES = 192
SOLVERS = [("rk4", n) for n in (10, 4, 3, 2)] + [("euler", n) for n in (13, 9, 7, 5)]


def cases(parts: Path, count: int) -> tuple[DiT, list[tuple[Tensor, Tensor, Tensor, Tensor]]]:
    """The trained DiT; of each clip mel (frames, bands), codes, voice, noise. Raises ConfigError without weights."""
    config = preset("nano")
    dit, encoder = (kind(config.token2wav_config.dit_config).eval() for kind in (DiT, SpeakerEncoder))
    for name, part in (("dit", dit), ("speaker_encoder", encoder)):
        need_part(parts, name, part, "the benchmark")
    tokenizer = frozen_tokenizer(config, parts, "the benchmark")
    clips = [clip for pair in speech_bank.shard("test", 0, 50) for clip in pair]
    found = []
    for clip in clips[:: len(clips) // count][:count]:
        codes = tokenizer.codes(clip.mel[None, :FRAMES])[0]
        codes = codes[: len(clip.mel[:FRAMES]) // 2]
        others = [other for other in clips if other.speaker == clip.speaker and other.text != clip.text] or [clip]
        cond, reference = encoder(reference_window(others[0].mel)[None]), reference_window(others[-1].mel)[None]
        noise = torch.randn(1, 2 * len(codes), 80, generator=torch.Generator().manual_seed(0))
        found.append((clip.mel[: 2 * len(codes)], codes, dit.voice(cond, reference), noise))
    return dit, found


def solvers(dit: DiT, clips: list[tuple[Tensor, Tensor, Tensor, Tensor]]) -> str:
    """Distance, error and liveliness by solver."""
    lines = ["| solver | calls | distance | error | liveliness |", "|---|---|---|---|---|"]
    best: list[Tensor] = []
    for solver, points in SOLVERS:
        made = [dit.solve(c[None], v, n, points, solver=solver)[0] for _, c, v, n in clips]
        best = best or made
        pairs = list(zip(made, best, strict=True))
        distance = sum(float((m - b).abs().mean()) for m, b in pairs) / len(pairs)
        error = sum(float((m - c[0]).abs().mean()) for m, c in zip(made, clips, strict=True)) / len(pairs)
        lively = sum(float(m.diff(dim=0).std() / b.diff(dim=0).std()) for m, b in pairs) / len(pairs)
        calls = (points - 1) * (4 if solver == "rk4" else 1)
        lines.append(f"| {solver} | {calls} | {distance:.3f} | {error:.3f} | {lively:.3f} |")
    return "\n".join(lines)


def look_ahead(dit: DiT, clips: list[tuple[Tensor, Tensor, Tensor, Tensor]]) -> str:
    """By how much of the mel's spread the first block differs from that of the whole, by codes of look-ahead."""
    lines = ["| codes ahead of the first chunk | difference, mean of clips | most |", "|---|---|---|"]
    size = dit.config.block_size
    for first in (0, 3, 6, 12):
        off = []
        for _, codes, voice, noise in clips:
            whole = dit.solve(codes[None], voice, noise, NUM_STEPS, solver=SOLVER)[0]
            mel = MelStream(dit, voice, noise=noise, first_ahead=first)
            mel.add(codes.tolist())
            off.append(float((mel.advance(1)[0][0] - whole[:size]).std() / whole.std()))
        lines.append(f"| {first} | {sum(off) / len(off):.2%} | {max(off):.2%} |")
    return "\n".join(lines)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", type=Path, default=Path("build/nano/parts"))
    parser.add_argument("--clips", type=int, default=4)
    given = parser.parse_args()
    torch.set_num_threads(1)
    dit, clips = cases(given.parts, given.clips)
    report = (
        f"# Solver and look-ahead of the streamed DiT, preset nano, {len(clips)} clips of up to {FRAMES} frames\n\n"
    )
    report += f"{solvers(dit, clips)}\n\n{look_ahead(dit, clips)}\n"
    print(report)
    RESULTS.mkdir(exist_ok=True)
    temporary = RESULTS / "streaming_solver.md.part"
    temporary.write_text(report, encoding="utf-8")
    os.replace(temporary, RESULTS / "streaming_solver.md")


if __name__ == "__main__":
    main()
