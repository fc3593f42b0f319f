"""Raw records out of large files: tar shards and Parquet row groups, a part for each process; Parquet off the hub."""

import lzma
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import DataError


def tar_records(paths: list[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, {"__key__": name, ending: bytes}) of each record: neighbouring files of one name up to the first dot.

    Raises DataError naming a shard that is missing, cut short or no tar file."""
    for path in paths:
        try:
            with tarfile.open(path) as archive:
                yield from grouped(archive)
                need_end(archive)
        except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
            raise DataError(f"{path}: missing, cut short or no tar file") from error


def grouped(archive: tarfile.TarFile) -> Iterator[tuple[str, dict[str, Any]]]:
    """The records of an open tar file."""
    key = ""
    fields: dict[str, Any] = {}
    for member in archive:
        if not member.isfile():
            continue
        folder, _, file = member.name.rpartition("/")
        stem, _, ending = file.partition(".")
        name = f"{folder}/{stem}" if folder else stem
        if name != key:
            if fields:
                yield key, fields
            key, fields = name, {"__key__": name}
        content = archive.extractfile(member)
        fields[ending.lower()] = content.read() if content else b""
    if fields:
        yield key, fields


def need_end(archive: tarfile.TarFile) -> None:
    """Raise TarError unless what stopped the reading is the block of zeros that ends a tar file.

    `tarfile` takes a header that cannot be read, and a file cut off between two members, for the end as well."""
    assert archive.fileobj
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("no end")


def parquet_rows(path: Path, rank: int = 0, world: int = 1) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, row) of every world-th row group of a Parquet file. Raises DataError when it cannot be read."""
    try:
        import pyarrow  # only those need it who read Parquet
        import pyarrow.parquet
    except ImportError:
        raise DataError(f"{path}: to read Parquet takes pyarrow (pip install pyarrow)") from None
    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            for group in range(rank, table.num_row_groups, world):
                for number, row in enumerate(table.read_row_group(group).to_pylist()):
                    name = f"{path.name} {group}.{number}"
                    yield name, row | {"__key__": name}
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: missing, cut short or no Parquet file") from error


def located(source: str | Path) -> tuple[Path, list[Path]]:
    """A set's folder, here or fetched from the hub, and the Parquet files in it that were asked for, in order.

    The hub's client keeps all of a set's files in one folder, those of an earlier call too. Raises DataError."""
    if Path(source).is_dir():
        return Path(source), sorted(Path(source).rglob("*.parquet"))
    folder, beginning = download(str(source)), beginning_of(str(source))
    tables = sorted(folder.rglob("*.parquet"))
    return folder, [table for table in tables if table.relative_to(folder).as_posix().startswith(beginning)]


def beginning_of(name: str) -> str:
    """What the paths of the files begin with that "owner/set/beginning" asks for."""
    return [*name.split("/", 2), "", ""][2]


def download(name: str) -> Path:
    """A set's Parquet files from the hub, kept in the hub client's own folder.

    name: "owner/set", or "owner/set/beginning" for those files alone whose paths begin so, as "clean/test" does. Raises
    DataError without a network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repository, beginning = "/".join(name.split("/", 2)[:2]), beginning_of(name)
    try:
        folder = snapshot_download(repository, repo_type="dataset", allow_patterns=[f"{beginning}*.parquet"])
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{name!r} is no folder here and could not be fetched from the hub ({reason})") from error
    return Path(folder)
