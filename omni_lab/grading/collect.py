"""From what an instructor downloads to (student, notebook file): folders, zips, Moodle's and Canvas's names, a
roster.

Nothing of a submission is opened here but archives (archives.py). What one student's part breaks is that student's
loss alone; what this machine breaks is nobody's.
"""

import csv
import os
import re
import shutil
import stat
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import permutations
from pathlib import Path

from ..errors import InputError
from .archives import LIMITS, Member, Unpacked, extract, members, opened, unpack
from .artefacts import ENDING

MAX_DEPTH = 4  # folders below a student's folder
MAX_WORDS = 6  # of a name that are tried in every order

# "Ada Lovelace_1234567_assignsubmission_file_" (a folder, or the beginning of a file's name)
_MOODLE = re.compile(r"(?P<name>[^_]+)_(?P<id>\d+)_assignsubmission_(?:file|onlinetext)_?")
# "lovelaceada_LATE_12345_67890_lab01-1.ipynb"
_CANVAS = re.compile(r"(?P<name>[^_]+)_(?P<late>LATE_)?(?P<id>\d+)_(?P<upload>\d+)_.+")


@dataclass
class Collected:
    """One student's submission: its files, newest last, and what the names and the roster say about it."""

    name: str  # the key in the gradebook
    files: list[Path] = field(default_factory=list)
    artefacts: list[Path] = field(default_factory=list)  # trained ones, handed in beside the notebooks
    fault: str = ""  # why there is no notebook to grade, or what else of it could not be read, for the student
    trouble: str = ""  # what went wrong on this machine: no fault of the student's, to be graded another time
    unpacked: Unpacked = field(default_factory=Unpacked)
    platform_id: str = ""  # Canvas's user, or Moodle's participant, from the names of the download
    student_id: str = ""  # from the roster
    email: str = ""  # from the roster
    late: bool = False
    called: str = ""  # the student's name as the platform writes it, which others may bear, too


def collect(source: Path, scratch: Path, roster: Path | None = None) -> list[Collected]:
    """All submissions below `source` (a folder, a zip, or one notebook), sorted by name; with a roster, its students
    without a submission too. scratch: a folder for what archives hold. Raises InputError."""
    if source.is_symlink() or not source.exists():
        raise InputError(f"{source}: no such folder of submissions, or a link to one")
    found: dict[str, Collected] = {}
    if source.is_dir():
        entries = sorted(os.scandir(source), key=lambda entry: entry.name)
        for entry in entries:
            _add(Path(entry.path), found, scratch)
    elif zipfile.is_zipfile(source):
        for path in sorted(_unpack_class(source, scratch, found).iterdir()):
            _add(path, found, scratch)
    else:
        _add(source, found, scratch)
    for student in found.values():
        if not student.files and not student.fault:
            student.fault = "no notebook was handed in"
    found = _told_apart(found)
    if roster is not None:
        found = _match_roster(found, read_roster(roster))
    if not found:
        raise InputError(f"{source}: no submissions (a notebook, a folder or a zip for each student)")
    return [found[name] for name in sorted(found)]


def _add(path: Path, found: dict[str, Collected], scratch: Path) -> None:
    """Enter one entry of the submissions folder under its student."""
    mode = path.lstat().st_mode
    if path.name.startswith((".", "__MACOSX")):
        return
    is_folder, ending = stat.S_ISDIR(mode), path.suffix.lower()
    if not is_folder and ending not in LIMITS:
        return
    entry = _student(path.name, found)
    if is_folder:
        _take(path, entry)
        for archive in files_below(path, ".zip"):
            _take_zip(archive, entry, scratch)
    elif ending == ".zip" and stat.S_ISREG(mode):
        _take_zip(path, entry, scratch)
    else:
        (entry.artefacts if ending == ENDING else entry.files).append(path)


def _student(name: str, found: dict[str, Collected]) -> Collected:
    """The student to whom an entry of this name in the submissions folder belongs."""
    key, identity, late = student_of(Path(name).stem if Path(name).suffix.lower() in LIMITS else name)
    called, other = key, found.get(key)
    if identity and other is not None and other.platform_id not in ("", identity):  # a namesake
        key = f"{key} ({identity})"
    entry = found.setdefault(key, Collected(key, called=called))
    entry.platform_id, entry.late = identity or entry.platform_id, late or entry.late
    return entry


def _told_apart(found: dict[str, Collected]) -> dict[str, Collected]:
    """Namesakes by the platform's ids, the first too: whose the plain name is must not hang on who else hands in."""
    bearers = Counter(entry.called for entry in found.values())
    for entry in found.values():
        if bearers[entry.called] > 1 and entry.platform_id:
            entry.name = f"{entry.called} ({entry.platform_id})"
    return {entry.name: entry for entry in found.values()}


@contextmanager
def _blame(entry: Collected, archive: Path, scratch: Path) -> Iterator[None]:
    """What unpacking raises becomes the student's fault, or this machine's trouble."""
    try:
        yield
    except InputError as error:
        entry.fault = entry.fault or visible(str(error))
    except OSError as error:
        reason = f"{archive.name} could not be unpacked into {scratch} ({error.strerror or error})"
        entry.trouble = visible(reason)


def _unpack_class(source: Path, scratch: Path, found: dict[str, Collected]) -> Path:
    """Take a whole class out of its zip, each student up to the limits of one; students' own zips stay closed here.

    Raises InputError for what is no zip: it comes from the platform, and its damage is no student's."""
    target = Path(tempfile.mkdtemp(dir=scratch))
    with opened(source) as file:
        inside = list(members(file))
        if _in_one_folder(inside):
            inside = [replace(member, parts=member.parts[1:]) for member in inside]
        for member in inside:
            entry = _student(member.parts[0], found)
            if not entry.fault and not entry.trouble:
                with _blame(entry, source, scratch):
                    entry.unpacked.add(entries=1)
                    extract(file, member, target, entry.unpacked)
                if entry.fault or entry.trouble:  # make room for the others
                    _remove(target / member.parts[0])
    return target


def _in_one_folder(inside: list[Member]) -> bool:
    """Whether a class lies in one folder of its zip, as file managers pack a folder. Raises InputError where that might
    be one student's folder, too."""
    tops = {member.parts[0] for member in inside}
    if len(tops) != 1 or any(len(member.parts) == 1 for member in inside) or student_of(min(tops))[1]:
        return False
    # Name in that folder -> whether it may hold a student's work of its own; a trained file goes with its notebook.
    entries = {member.parts[1]: len(member.parts) > 2 or member.ending == ".zip"
               for member in inside if len(member.parts) > 2 or member.ending != ENDING}  # fmt: skip
    if any(student_of(name)[1] for name in entries) or (len(entries) > 1 and all(entries.values())):
        return True
    if len(entries) > 1:
        raise InputError(f"all lies in one folder, {visible(min(tops))}, which may be one student's or the class's: "
                         "unpack it, and give the folder with a notebook or folder for each student")  # fmt: skip
    return False


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _take(folder: Path, entry: Collected) -> None:
    entry.files += files_below(folder, ".ipynb")
    entry.artefacts += files_below(folder, ENDING)


def _take_zip(archive: Path, entry: Collected, scratch: Path) -> None:
    with _blame(entry, archive, scratch):
        if not stat.S_ISREG(archive.lstat().st_mode):  # a link to elsewhere, or a pipe that nobody writes to
            raise InputError(f"{archive.name}: not a regular file")
        _take(unpack(archive, scratch, entry.unpacked), entry)


def student_of(name: str) -> tuple[str, str, bool]:
    """(student, id, late) from the name of a file without its ending, or of a folder."""
    moodle = _MOODLE.match(name)
    if moodle:
        return printable(moodle["name"]), moodle["id"], False
    canvas = _CANVAS.fullmatch(name)
    if canvas:
        return printable(canvas["name"]), canvas["id"], bool(canvas["late"])
    return printable(name), "", False


def printable(name: str) -> str:
    """A name as one line of visible text; never empty."""
    return visible(name).strip()[:200] or "unnamed"


def visible(text: str) -> str:
    """Text of unknown origin with a question mark for whatever is no visible character."""
    return "".join(c if c.isprintable() else "?" for c in text.encode("utf-8", "replace").decode("utf-8"))


def files_below(folder: Path, ending: str, depth: int = 0) -> list[Path]:
    """Everything with this ending in a folder and its folders, by name; links to folders are not followed."""
    found: list[Path] = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith((".", "__MACOSX")):
            continue
        if entry.is_dir(follow_symlinks=False):
            found += files_below(Path(entry.path), ending, depth + 1) if depth < MAX_DEPTH else []
        elif entry.name.lower().endswith(ending):
            found.append(Path(entry.path))
    return found


def read_roster(path: Path) -> list[dict[str, str]]:
    """Rows of a class list: a CSV with a column `name`, and perhaps `id` and `email`. Raises InputError."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = []
            for row in reader:
                if None in row:
                    raise InputError(f"{path}: line {reader.line_num} has more columns than the first line")
                rows.append({str(k).strip().lower(): (v or "").strip() for k, v in row.items()})
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a readable CSV ({error})") from None
    if not rows or "name" not in rows[0]:
        raise InputError(f"{path}: a roster needs a first line with a column `name` (and perhaps `id`, `email`)")
    return rows


def _match_roster(found: dict[str, Collected], roster: list[dict[str, str]]) -> dict[str, Collected]:
    """Submissions under the roster's names, matched by id, then by address, then by name in any order of its words;
    what more than one row may mean is given to none."""
    left, hits = dict(found), [""] * len(roster)
    unclear: dict[int, int] = {}  # place in the roster -> how many submissions bear the name
    for bears in (_bears_id, _bears_address, _bears_words, _bears_name):
        for place, row in enumerate(roster):
            fitting = [key for key, entry in left.items() if not hits[place] and bears(entry, row)]
            if len(fitting) == 1 and sum(bears(left[fitting[0]], other) for other in roster) == 1:
                hits[place] = fitting[0]
                del left[fitting[0]]
            elif fitting:
                unclear[place] = len(fitting)
    matched: dict[str, Collected] = {}
    shared = Counter(row["name"] for row in roster)
    for place, row in enumerate(roster):
        name, number = printable(row["name"]), row.get("id", "") or row.get("email", "") or str(place + 1)
        fault = "nothing was handed in"
        if not hits[place] and place in unclear:
            fault = f"who handed in what under the name {name} is not clear: the roster needs the platform's ids"
        entry = found[hits[place]] if hits[place] else Collected(name, fault=fault)
        entry.name = name if shared[row["name"]] == 1 else f"{name} ({printable(number)})"
        entry.student_id, entry.email = row.get("id", ""), row.get("email", "")
        matched[entry.name] = entry
    for entry in left.values():
        if entry.name in matched:  # a namesake on the roster is somebody else, or may be
            entry.name = f"{entry.name} ({entry.platform_id or 'not on the roster'})"
    return {entry.name: entry for entry in left.values()} | matched


def _bears_id(entry: Collected, row: dict[str, str]) -> bool:
    wanted = row.get("id", "").casefold()
    return bool(wanted) and wanted in (entry.name.casefold(), entry.platform_id.casefold())


def _bears_address(entry: Collected, row: dict[str, str]) -> bool:
    address = row.get("email", "").casefold()
    return bool(address) and entry.name.casefold() in (address, address.partition("@")[0])


def _words(name: str) -> list[str]:
    return re.findall(r"[^\W_]+", name.casefold())


def _bears_words(entry: Collected, row: dict[str, str]) -> bool:
    return bool(_words(row["name"])) and sorted(_words(row["name"])) == sorted(_words(entry.called))


def _bears_name(entry: Collected, row: dict[str, str]) -> bool:
    """Whether the words of the row's name make the entry's, in any order: Canvas writes "lovelaceada"."""
    words, name = _words(row["name"]), "".join(_words(entry.called))
    if len(name) != sum(map(len, words)):
        return False
    if len(words) > MAX_WORDS:  # in the roster's order, or family name first
        return name in ("".join(words), "".join([words[-1], *words[:-1]]))
    return bool(words) and name in map("".join, permutations(words))
