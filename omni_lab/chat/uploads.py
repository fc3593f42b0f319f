"""Files chosen in a FileUpload, as both versions of ipywidgets have them: 8, and 7, which is Colab's."""

from collections.abc import Mapping
from typing import Any


def files_of(value: Any) -> list[dict[str, Any]]:
    """A FileUpload's value -> {"name", "type", "content": bytes} of each file, as they were chosen."""
    if isinstance(value, Mapping):  # version 7: {name: {"metadata": {...}, "content": ...}}
        value = [{**about["metadata"], "content": about["content"]} for about in value.values()]
    return [{**file, "content": bytes(file["content"])} for file in value]


def emptied(upload: Any) -> list[dict[str, Any]]:
    """The files of a FileUpload, which has none afterwards."""
    found = files_of(upload.value)
    upload.set_trait("value", {} if isinstance(upload.value, Mapping) else ())  # in version 7 it is read-only
    return found
