"""Zips of unknown origin: notebooks and artefacts are taken out, into a folder of our own, up to what one student may
cost. What is wrong with an archive is an InputError; what is wrong with this machine, such as a full disk, an OSError.
"""

import errno
import lzma
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from .artefacts import ENDING
from .artefacts import MAX_BYTES as MAX_ARTEFACT
from .sanitise import MAX_BYTES

MAX_ENTRIES = 10_000  # of one student
MAX_UNPACKED = 512 << 20  # bytes for one student, of all archives together
LIMITS = {".ipynb": MAX_BYTES, ENDING: MAX_ARTEFACT, ".zip": 64 * MAX_BYTES}  # bytes of one file
BLOCK = 1 << 20  # bytes that are in memory at a time
# OSErrors that are no archive's doing. Others may be: a path that is too long, or two in each other's way.
MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM}


@dataclass
class Unpacked:
    """What has been unpacked for one student so far."""

    size: int = 0  # bytes
    entries: int = 0

    def add(self, size: int = 0, entries: int = 0) -> None:
        """Count. Raises InputError above what one student may cost."""
        self.size, self.entries = self.size + size, self.entries + entries
        if self.size > MAX_UNPACKED:
            raise InputError(f"more than {MAX_UNPACKED >> 20} MB when unpacked: hand in only what the lab asks for")
        if self.entries > MAX_ENTRIES:
            raise InputError(f"more than {MAX_ENTRIES} files: hand in only what the lab asks for")


@dataclass(frozen=True)
class Member:
    """A file in an archive that is worth taking out."""

    info: zipfile.ZipInfo
    parts: tuple[str, ...]  # its path, safe to write below a folder
    ending: str  # of LIMITS


def unpack(archive: Path, scratch: Path, so_far: Unpacked) -> Path:
    """Take notebooks and artefacts out of one student's zip, keeping its folders; returns the folder below `scratch`
    where they lie. Zips within it stay closed. Raises InputError for what is no zip or too much and OSError for a fault
    of this machine, and then leaves nothing behind."""
    target = Path(tempfile.mkdtemp(dir=scratch))
    try:
        with opened(archive) as file:
            so_far.add(entries=len(file.infolist()))
            for member in members(file):
                if member.ending != ".zip":
                    extract(file, member, target, so_far)
    except (InputError, OSError):
        shutil.rmtree(target, ignore_errors=True)
        raise
    return target


@contextmanager
def opened(archive: Path) -> Iterator[zipfile.ZipFile]:
    """A zip to read from. Raises InputError, named after it, for whatever is wrong with it, also while it is read."""
    try:
        with zipfile.ZipFile(archive) as file:
            yield file
    except InputError as error:
        raise InputError(f"{archive.name}: {error}") from None
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError, RuntimeError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in MACHINE:
            raise
        raise InputError(f"{archive.name}: not a readable zip ({error})") from None


def members(file: zipfile.ZipFile) -> Iterator[Member]:
    """What is worth taking out; passed over: links, locked and hidden files, and paths that would leave the folder."""
    for info in file.infolist():
        parts = Path(info.filename.replace("\\", "/")).parts
        unsafe = stat.S_ISLNK(info.external_attr >> 16) or not parts or parts[0] == "/" or "\0" in info.filename
        hidden = any(part.startswith((".", "__MACOSX")) for part in parts)  # ".." too
        ending = next((end for end in LIMITS if info.filename.lower().endswith(end)), None)
        if not (unsafe or hidden or ending is None or info.is_dir() or info.flag_bits & 1):
            yield Member(info, tuple(shortened(part) for part in parts), ending)


def shortened(part: str) -> str:
    """A name that every file system takes, of 200 bytes at most, with its ending, by which files are found."""
    ending = Path(part).suffix if len(Path(part).suffix) <= len(ENDING) else ""
    kept = part.removesuffix(ending).encode("utf-8", "replace")[: 200 - len(ending.encode("utf-8", "replace"))]
    return kept.decode("utf-8", "ignore") + ending


def extract(file: zipfile.ZipFile, member: Member, target: Path, so_far: Unpacked) -> None:
    """Write one member below `target`. Raises InputError for what this student may not, or nobody can, write; OSError
    for a fault of this machine."""
    if member.info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        # bzip2 and LZMA give all that a block holds at once, which may be thousands of times its size.
        raise InputError(f"{member.parts[-1]}: packed in a way that no file manager packs zips")
    place = target.joinpath(*member.parts)
    left = LIMITS[member.ending] + 1  # one byte past the limit, whatever the header says: whoever reads it sees that
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with file.open(member.info) as source, open(place, "wb") as copy:
            while block := source.read(min(BLOCK, left)):
                so_far.add(size=len(block))
                left -= copy.write(block)
    except OSError as error:
        if error.errno is None:  # bzip2's own, for damaged data
            raise zipfile.BadZipFile(str(error)) from None
        if error.errno in MACHINE:
            raise
        raise InputError(f"{member.parts[-1]} cannot be unpacked ({error.strerror or error})") from None
    if not left and member.ending == ".zip":
        raise InputError(f"{member.parts[-1]}: larger than {LIMITS['.zip'] >> 20} MB")
