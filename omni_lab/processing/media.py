"""Where media come from: paths, http(s) and data: addresses, and bytes.

Whatever a source may hold, only a MediaError comes out, naming it in one line.
"""

import base64
import binascii
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from ..errors import InputError, MediaError

MAX_BYTES = 256 << 20  # a larger file, download or inline picture is refused
Source = Any  # path, http(s) address, data: address, bytes, PIL picture, array, tensor: see each loader


def name_of(source: Source) -> str:
    """How errors call `source`: its path or address, cut to a readable length, or its type."""
    if isinstance(source, (str, os.PathLike)):
        text = str(source).encode("unicode_escape").decode()
        return text if len(text) <= 120 else f"{text[:60]}...{text[-40:]}"
    return f"<{type(source).__name__}>"


def read_bytes(source: Source, allow_urls: bool) -> bytes:
    """The bytes behind a path, a data: address, an http(s) address (only where allowed), or bytes themselves.

    Raises MediaError when there are none, or too many."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
    elif isinstance(source, str) and source.startswith("data:"):
        data = read_data_address(source)
    elif isinstance(source, str) and source.startswith(("http://", "https://")):
        if not allow_urls:
            raise MediaError(f"{name_of(source)}: addresses are not allowed here; download it, or set allow_urls=True")
        data = download(source)
    else:
        path = local_path(source)
        try:
            if path.stat().st_size > MAX_BYTES:
                raise MediaError(f"{name_of(path)}: larger than {MAX_BYTES >> 20} MB")
            data = path.read_bytes()
        except (OSError, ValueError) as error:
            raise MediaError(f"{name_of(path)}: cannot be read ({reason(error)})") from None
    if not data:
        raise MediaError(f"{name_of(source)}: the file is empty")
    return data


def local_path(source: Source) -> Path:
    """`source` as the path of an existing file (file:// is understood). Raises MediaError."""
    if not isinstance(source, (str, os.PathLike)):
        raise InputError(f"expected a path, an address or an array, got {type(source).__name__}")
    path = Path(str(source).removeprefix("file://"))
    try:
        if path.is_file():
            return path
        what = "is a folder, not a file" if path.is_dir() else "no such file"
    except (OSError, ValueError) as error:  # a name that is too long, or holds a zero byte
        what = reason(error)
    raise MediaError(f"{name_of(source)}: {what}")


def reason(error: BaseException) -> str:
    """One line of an exception's message."""
    return " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())[:200]


def read_data_address(source: str) -> bytes:
    """The content of a base64 data: address (RFC 2397)."""
    head, comma, body = source.partition(",")
    if not comma or not head.endswith(";base64"):
        raise MediaError(f"{name_of(source)}: expected data:<type>;base64,<content>")
    if len(body) > MAX_BYTES * 4 // 3:
        raise MediaError(f"{name_of(source)}: larger than {MAX_BYTES >> 20} MB")
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MediaError(f"{name_of(source)}: broken base64 ({reason(error)})") from None


def download(address: str) -> bytes:
    """The body of an http(s) address, within 20 s between packets and `MAX_BYTES`. Raises MediaError."""
    try:
        with urllib.request.urlopen(address, timeout=20) as answer:
            data = answer.read(MAX_BYTES + 1)
    except (OSError, ValueError, urllib.error.URLError) as error:
        raise MediaError(f"{name_of(address)}: cannot be fetched ({reason(error)})") from None
    if len(data) > MAX_BYTES:
        raise MediaError(f"{name_of(address)}: larger than {MAX_BYTES >> 20} MB")
    return data
