"""The images that come with a message: a list in its metadata, each {media_type, data} in base64, or {url}.

Pure, no I/O: addresses are passed on, never fetched. Above: the agents that show images to their model.
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Mapping, Sequence
from typing import Any, cast

from aixgo.errors import InvalidInput
from aixgo.llm.contract import Image
from aixgo.message import Message

KEY = "images"
"""The key in a message's metadata."""
MAX_IMAGES = 20
_FIELDS = frozenset({"media_type", "data", "url"})


def images_of(message: Message) -> Sequence[Image]:
    """The images of a message, in their order. Raises InvalidInput, naming the image and the field."""
    given = message.metadata.get(KEY)
    if given is None:
        return ()
    if not isinstance(given, (list, tuple)):
        raise InvalidInput(f"metadata.{KEY} is a {type(given).__name__}; pass a list of images")
    images = cast("Sequence[Any]", given)
    if len(images) > MAX_IMAGES:
        raise InvalidInput(f"metadata.{KEY} has {len(images)} images and {MAX_IMAGES} are allowed")
    return tuple(_image(f"metadata.{KEY}.{index}", image) for index, image in enumerate(images))


def _image(where: str, given: Any) -> Image:
    fields: Mapping[str, Any] = cast("Mapping[str, Any]", given) if isinstance(given, Mapping) else {}
    if not fields or set(fields) - _FIELDS or not all(isinstance(value, str) for value in fields.values()):
        raise InvalidInput(f"{where}: an image is an object of texts, with `media_type` and `data` (base64), or `url`")
    try:
        data = b64decode(fields.get("data", ""), validate=True)
        return Image(data, fields.get("media_type", ""), fields.get("url", ""))
    except binascii.Error as error:
        raise InvalidInput(f"{where}: `data` is no base64: {error}") from error
    except InvalidInput as error:
        raise InvalidInput(f"{where}: {error.message}") from error
