"""Messages between the server and its workers: JSON with its length in front."""

import json
import struct
from typing import Any, BinaryIO

HEADER = struct.Struct(">I")

Message = dict[str, Any]


def framed(message: Message) -> bytes:
    """A message as bytes."""
    body = json.dumps(message).encode()
    return HEADER.pack(len(body)) + body


def read_frame(stream: BinaryIO) -> Message | None:
    """The next message of a stream that blocks; None at its end."""
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    (size,) = HEADER.unpack(header)
    body = stream.read(size)
    return parsed(body) if len(body) == size else None


def parsed(body: bytes) -> Message:
    """The message of a frame's body."""
    message: Message = json.loads(body)
    return message
