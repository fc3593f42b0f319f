"""Codes to wave beside the reference: same weights, noise and network calls, one process, alternating; medians, ratios.

    python -m benchmarks.codec [--preset nano] [--seconds 2] [--rounds 5] [--threads N]

Prints a table and writes benchmarks/results/codec.md (on a GPU codec_gpu.md; the preset's name is in the table).
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
import transformers

from benchmarks.machine import described
from benchmarks.thinker import HEADER, RESULTS, peak_bytes, seconds
from omni_lab.codec import packed_vocoder
from omni_lab.codec.token2wav import Token2Wav
from omni_lab.config import PRESETS
from omni_lab.runtime import hardware
from tests.codec.reference import reference_token2wav

Runs = dict[str, tuple[Callable, Callable]]  # task -> (our run, the reference's run)


def compare(runs: Runs, rounds: int, device: torch.device) -> str:
    """Rows of the table: medians of alternating rounds, and the peak memory of one run of each."""
    table = HEADER
    for name, pair in runs.items():
        times: tuple[list[float], list[float]] = ([], [])
        for run in pair:
            run()  # warm
        for _ in range(rounds):
            for run, taken in zip(pair, times, strict=True):
                taken.append(seconds(run, device))
        mine, other = (statistics.median(taken) for taken in times)
        memory = [peak_bytes(run, device) / 2**20 for run in pair]
        row = f"| {name} | {mine * 1e3:.0f} ms | {other * 1e3:.0f} ms | {mine / other:.2f} | "
        row += f"{memory[0]:.0f} MB | {memory[1]:.0f} MB |\n"
        print(row, end="", flush=True)
        table += row
    return table


def published(title: str, preset: str, rounds: int, threads: int, table: str) -> str:
    """The table with the machine and the versions named."""
    return (
        f"# {title}, preset {preset}\n\n{described()}; {threads} threads, float32, torch {torch.__version__}, "
        f"transformers {transformers.__version__}; medians of {rounds} rounds, ours and theirs alternating. Peak "
        f"memory is what a run holds beyond the weights; copies packed for the CPU count.\n\n{table}"
    )


def tasks(preset: str, length: float, device: torch.device) -> Runs:
    config = PRESETS[preset]().token2wav_config
    theirs, ours = reference_token2wav(config).to(device), Token2Wav(config).to(device).eval()
    ours.load_state_dict(theirs.state_dict())
    dit = config.dit_config
    codes = torch.randint(0, dit.num_embeds, (1, round(50 * length)), device=device)
    voice = torch.randn(1, dit.enc_emb_dim, device=device), torch.randn(1, 400, dit.mel_dim, device=device)
    mel = torch.randn(1, round(100 * length), dit.mel_dim, device=device)
    no_grad = torch.no_grad()
    sound = f"{length:g} s"
    return {
        f"codes to wave, {sound}, 36 network calls": (
            no_grad(lambda: ours(codes, *voice)),
            no_grad(lambda: theirs(codes, *voice)),
        ),
        f"codes to mel, {sound}": (
            no_grad(lambda: ours.code2wav_dit_model.sample(codes, *voice)),
            no_grad(lambda: theirs.code2wav_dit_model.sample(*voice, codes)),
        ),
        f"mel to wave, {sound}": (
            no_grad(lambda: packed_vocoder.vocode(ours.code2wav_bigvgan_model, mel)),
            no_grad(lambda: theirs.code2wav_bigvgan_model(mel.transpose(1, 2))),
        ),
    }


def write(name: str, text: str, preset: str) -> Path:
    """Keep the table: beside those of the other presets and machines."""
    RESULTS.mkdir(exist_ok=True)
    suffix = ("" if preset == "nano" else f"_{preset}") + ("_gpu" if hardware().device.type == "cuda" else "")
    path = RESULTS / f"{name}{suffix}.md"
    path.write_text(text)
    print(f"written: benchmarks/results/{path.name}")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--preset", default="nano", choices=sorted(PRESETS))
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    device = hardware().device
    table = compare(tasks(options.preset, options.seconds, device), options.rounds, device)
    text = published("Codes to wave", options.preset, options.rounds, options.threads, table)
    write("codec", text, options.preset)


if __name__ == "__main__":
    main()
