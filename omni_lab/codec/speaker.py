"""Who speaks: ECAPA-TDNN (Desplanques et al. 2020) over a reference mel, and enrolment of a voice from a wav.

A speaker is three things: a token that opens the reply in the text track, `cond` (1, 192) and `ref_mel` (1, 400, 80),
both conditions of the DiT. The release ships its speakers in `spk_dict.pt` and says nowhere how cond was made. Ours is
made by `SpeakerEncoder`, an ECAPA-TDNN with 192 outputs that learns together with the codec.

Notable: convolutions mirror their edges, so a reference needs more frames than the widest kernel reaches.
"""

import io
import math
import os
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import DiTConfig
from ..errors import CheckpointError, ConfigError, InputError
from ..processing.audio import rate_ratio, resample
from . import mel as mels

REFERENCE_FRAMES = 400  # 4 s of mel, as in the released speakers


class TDNN(nn.Module):
    """Dilated convolution over time, then ReLU: (batch, in, frames) -> (batch, out, frames); edges are mirrored."""

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int = 1) -> None:
        super().__init__()
        edges: Literal["reflect", "zeros"] = "reflect" if kernel > 1 else "zeros"  # with one tap there are no edges
        self.conv = nn.Conv1d(inputs, outputs, kernel, dilation=dilation, padding="same", padding_mode=edges)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x))


class Res2Net(nn.Module):
    """Channels in `scale` groups (Gao et al. 2019, equation 1): (batch, channels, frames) -> the same.

    Each group but the first is convolved, from the third on after adding the result of the group before.
    """

    def __init__(self, channels: int, scale: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.scale = scale
        self.blocks = nn.ModuleList(
            [TDNN(channels // scale, channels // scale, kernel, dilation) for _ in range(scale - 1)]
        )

    def forward(self, x: Tensor) -> Tensor:
        first, *groups = x.chunk(self.scale, dim=1)
        outputs = [first]
        for i, (group, block) in enumerate(zip(groups, self.blocks, strict=True)):
            outputs.append(block(group if i == 0 else group + outputs[-1]))
        return torch.cat(outputs, dim=1)


class SqueezeExcitation(nn.Module):
    """Scale each channel by what the whole clip says of it (Hu et al. 2018): (batch, channels, frames) -> the same."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(channels, squeezed, 1)
        self.conv2 = nn.Conv1d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        average = x.mean(dim=2, keepdim=True)  # (batch, channels, 1)
        return x * torch.sigmoid(self.conv2(F.relu(self.conv1(average))))


class SERes2NetBlock(nn.Module):
    """TDNN, Res2Net, TDNN, squeeze-excitation, with a residual path: (batch, channels, frames) -> the same."""

    def __init__(self, channels: int, kernel: int, dilation: int, scale: int, squeezed: int) -> None:
        super().__init__()
        self.tdnn1 = TDNN(channels, channels, 1)
        self.res2net_block = Res2Net(channels, scale, kernel, dilation)
        self.tdnn2 = TDNN(channels, channels, 1)
        self.se_block = SqueezeExcitation(channels, squeezed)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.se_block(self.tdnn2(self.res2net_block(self.tdnn1(x))))


def weighted_statistics(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over time: x and weights (batch, channels, frames) -> two of (batch, channels, 1)."""
    mean = (weights * x).sum(2, keepdim=True)
    variance = (weights * (x - mean).square()).sum(2, keepdim=True)
    return mean, variance.clamp(min=1e-12).sqrt()


class AttentiveStatisticsPooling(nn.Module):
    """Weigh frames per channel, then take mean and deviation: (batch, channels, frames) -> (batch, 2 channels, 1)."""

    def __init__(self, channels: int, attention_channels: int) -> None:
        super().__init__()
        self.tdnn = TDNN(3 * channels, attention_channels, 1)
        self.conv = nn.Conv1d(attention_channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        # A frame is weighed in the light of the whole clip, so mean and deviation stand beside it.
        even = torch.full_like(x[:, :1], 1 / x.shape[2])
        context = [x, *(part.expand_as(x) for part in weighted_statistics(x, even))]
        weights = self.conv(torch.tanh(self.tdnn(torch.cat(context, dim=1)))).softmax(dim=2)
        return torch.cat(weighted_statistics(x, weights), dim=1)


class ECAPA(nn.Module):
    """ECAPA-TDNN: a log-mel (batch, frames, mel_dim) -> one vector per clip (batch, enc_dim).

    Raises ConfigError for channels that do not fit together.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        channels, kernels, dilations = config.enc_channels, config.enc_kernel_sizes, config.enc_dilations
        if not len(channels) == len(kernels) == len(dilations):
            raise ConfigError("enc_channels, enc_kernel_sizes and enc_dilations must be of one length")
        if len(set(channels[:-1])) > 1 or channels[-1] != sum(channels[1:-1]):
            raise ConfigError(f"enc_channels {channels}: the inner ones must be equal, the last one their sum")
        if channels[0] % config.enc_res2net_scale:
            raise ConfigError(f"enc_channels {channels[0]} must divide by enc_res2net_scale {config.enc_res2net_scale}")
        first = TDNN(config.mel_dim, channels[0], kernels[0], dilations[0])
        scale, squeezed = config.enc_res2net_scale, config.enc_se_channels
        middle = [
            SERes2NetBlock(width, kernel, dilation, scale, squeezed)
            for width, kernel, dilation in zip(channels[1:-1], kernels[1:-1], dilations[1:-1], strict=True)
        ]
        self.blocks = nn.ModuleList([first, *middle])
        self.mfa = TDNN(channels[-1], channels[-1], kernels[-1], dilations[-1])
        self.asp = AttentiveStatisticsPooling(channels[-1], config.enc_attention_channels)
        self.fc = nn.Conv1d(2 * channels[-1], config.enc_dim, 1)
        self.mel_dim = config.mel_dim
        # Mirroring needs more frames than it mirrors.
        self.fewest_frames = max((k - 1) * d for k, d in zip(kernels, dilations, strict=True)) // 2 + 1

    def forward(self, mel: Tensor) -> Tensor:
        """(batch, frames, mel_dim) -> (batch, enc_dim). Raises InputError for fewer frames than are mirrored."""
        if mel.ndim != 3 or mel.shape[2] != self.mel_dim or mel.shape[1] < self.fewest_frames:
            raise InputError(
                f"reference mel is {tuple(mel.shape)}, expected (batch, frames, {self.mel_dim}) "
                f"with at least {self.fewest_frames} frames"
            )
        x = mel.transpose(1, 2)  # (batch, mel_dim, frames)
        outputs = []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        x = self.mfa(torch.cat(outputs[1:], dim=1))  # every depth is heard (the paper's section 3.3)
        return self.fc(self.asp(x)).squeeze(-1)


class SpeakerEncoder(nn.Module):
    """Makes `cond`, the part of a voice that its 4 s of reference mel leave open: (batch, frames, 80) -> (batch, 192).

    Not in the reference's layout: its weights lie beside the speech tokenizer's. How it learns: the DiT's flow-matching
    loss reaches it through cond, which must come from *another* clip of the same voice than the one to be made, so that
    it can carry the voice and not the words. Vectors have norm sqrt(192), hence components of about 1.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.ecapa = ECAPA(replace(config, enc_dim=config.enc_emb_dim))

    def forward(self, mel: Tensor) -> Tensor:
        vector = self.ecapa(mel)
        return F.normalize(vector, dim=-1) * math.sqrt(vector.shape[-1])


@dataclass(frozen=True)
class Speaker:
    """A voice: what opens its replies, and the two conditions of the DiT."""

    bos_token: int  # id in the thinker's vocabulary
    cond: Tensor  # (1, enc_emb_dim)
    ref_mel: Tensor  # (1, frames, mel_dim), natural-log mel
    disclosed: bool = False  # whether its speech carries the audible mark of `disclosure`


def enrol(wave: Tensor, sample_rate: float, encoder: SpeakerEncoder, bos_token: int, disclose: bool = True) -> Speaker:
    """Make a speaker from a recording: wave (samples,) or (channels, samples) in [-1, 1] at `sample_rate` Hz.

    At least half a second, at 1000 Hz or more; 4 s are better. The reference is the 4 s with the most speech in them; a
    shorter recording is repeated. The same recording gives the same speaker. Whatever is said in the new voice carries
    an audible mark (`disclosure.mark`), unless `disclose` is False: for voices that are no person's. Raises InputError.
    """
    if wave.ndim not in (1, 2) or not wave.is_floating_point():
        raise InputError(f"enrolment: wave is {tuple(wave.shape)} {wave.dtype}, expected floats of shape (samples,)")
    rate_ratio(sample_rate, mels.SAMPLE_RATE)  # raises for what is no rate
    wave = wave.float().mean(0) if wave.ndim == 2 else wave.float()
    if wave.shape[0] < sample_rate / 2:
        raise InputError(f"enrolment: got {wave.shape[0] / sample_rate:.2f} s of sound, expected at least 0.5 s")
    wave = torch.from_numpy(resample(wave.detach().cpu().numpy(), sample_rate, mels.SAMPLE_RATE))
    mel = mels.mel_spectrogram(wave, encoder.ecapa.mel_dim)  # (frames, bands)
    if bool(mel.max() <= math.log(mels.LOG_FLOOR)):
        raise InputError("enrolment: the recording is silent")
    parameter = next(encoder.parameters())
    with torch.no_grad():
        reference = reference_window(mel)[None].to(parameter)
        cond = encoder(mel[None].to(parameter))
    return Speaker(bos_token, cond, reference, disclose)


def reference_window(mel: Tensor, frames: int = REFERENCE_FRAMES) -> Tensor:
    """The `frames` successive frames of greatest mean level: (length, bands) -> (frames, bands); short ones repeat."""
    if mel.shape[0] < frames:
        mel = mel.repeat(-(-frames // mel.shape[0]), 1)
    level = mel.mean(1).double().cumsum(0)  # a window's level is a difference of two sums
    sums = level[frames - 1 :] - F.pad(level, (1, 0))[: mel.shape[0] - frames + 1]
    start = int(sums.argmax())
    return mel[start : start + frames]


def load_speakers(path: str | os.PathLike) -> dict[str, Speaker]:
    """Read `spk_dict.pt` of the reference's layout: {name: Speaker}; only tensors are unpickled.

    Raises CheckpointError.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file, expected the speakers of the reference's layout (spk_dict.pt)")
    try:
        raw = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling a damaged file raises almost anything
        raise CheckpointError(f"{path}: not a readable file of tensors ({type(error).__name__})") from error
    if not isinstance(raw, Mapping):
        raise CheckpointError(f"{path}: holds a {type(raw).__name__}, expected a table of speakers by name")
    return {str(name): read_speaker(entry, f"{path}: speaker {name!r}") for name, entry in raw.items()}


def read_speaker(entry: object, where: str) -> Speaker:
    """One entry of `spk_dict.pt` as a Speaker, or CheckpointError."""
    if not isinstance(entry, Mapping) or not {"bos_token", "cond", "ref_mel"} <= set(entry):
        raise CheckpointError(f"{where}: expected bos_token, cond and ref_mel")
    token, cond, ref_mel = entry["bos_token"], entry["cond"], entry["ref_mel"]
    if not (torch.is_tensor(cond) and torch.is_tensor(ref_mel) and cond.ndim == 2 and ref_mel.ndim == 3):
        raise CheckpointError(f"{where}: expected cond of shape (1, dim) and ref_mel of shape (1, frames, bands)")
    if not (isinstance(token, int) or (torch.is_tensor(token) and token.numel() == 1)):
        raise CheckpointError(f"{where}: bos_token is {token!r:.40}, expected one token id")
    disclosed = entry.get("disclosed", False)  # the release's speakers know nothing of it
    if not isinstance(disclosed, bool):
        raise CheckpointError(f"{where}: disclosed is {disclosed!r:.40}, expected True or False")
    return Speaker(int(token), cond.float(), ref_mel.float(), disclosed)


def save_speakers(path: str | os.PathLike, speakers: Mapping[str, Speaker], dtype: torch.dtype | None = None) -> None:
    """Write `spk_dict.pt` in the reference's layout, whole or not at all; in 16 bits if `dtype` is so (default: as is).

    Raises CheckpointError when the disk refuses.

    Readers widen both tensors, the reference's too. The file is a zip whose members `torch.save` leaves as they are;
    here they are deflated, which `torch.load` undoes: 16-bit mels take little more than half the bytes.
    """
    path = Path(path)
    raw = {
        name: {
            "bos_token": s.bos_token,
            "cond": s.cond.detach().to("cpu", dtype),
            "ref_mel": s.ref_mel.detach().to("cpu", dtype),
            **({"disclosed": True} if s.disclosed else {}),
        }
        for name, s in speakers.items()
    }
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    plain = io.BytesIO()
    torch.save(raw, plain)
    try:
        with zipfile.ZipFile(plain) as given, zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED) as packed:
            for member in given.infolist():
                packed.writestr(zipfile.ZipInfo(member.filename), given.read(member), zipfile.ZIP_DEFLATED)
        os.replace(unfinished, path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
