"""Files as one ZIP archive, the same bytes for the same files."""

import io
import stat
import zipfile
from collections.abc import Mapping

EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that the format knows."""
SCRIPT_MODE = 0o755
FILE_MODE = 0o644


def archive(files: Mapping[str, str]) -> bytes:
    """Pack texts under their relative paths; shell scripts may be executed."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as packed:
        for path, text in sorted(files.items()):
            entry = zipfile.ZipInfo(path, EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3  # Unix, on every system
            mode = SCRIPT_MODE if text.startswith("#!") else FILE_MODE
            entry.external_attr = (stat.S_IFREG | mode) << 16
            packed.writestr(entry, text.encode())
    return target.getvalue()
