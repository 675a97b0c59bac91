"""On which kind of file system a path is. SQLite's WAL needs memory shared between processes, so not on a network."""

import re
from pathlib import Path
from typing import Final

_MOUNTINFO: Final = Path("/proc/self/mountinfo")
_NETWORK: Final = {
    *("9p", "acfs", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs"),
    *("nfs", "nfs4", "ocfs2", "pvfs2", "smb2", "smb3", "smbfs"),
    *("fuse.ceph", "fuse.davfs", "fuse.gcsfuse", "fuse.glusterfs", "fuse.goofys", "fuse.juicefs", "fuse.mfs"),
    *("fuse.rclone", "fuse.s3fs", "fuse.sshfs"),
}
_ESCAPE: Final = re.compile(r"\\([0-7]{3})")


def network_kind(path: Path) -> str | None:
    """The name of the network file system that `path` is on; None if it is local or nobody can tell."""
    try:
        mounts = _MOUNTINFO.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:  # not Linux
        return None
    kind = kind_of(path.resolve(), mounts)
    return kind if kind in _NETWORK else None


def kind_of(path: Path, mounts: str) -> str | None:
    """The file system type of the mount, in the text of a mountinfo file, that `path` is in."""
    depth, kind = -1, None
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        columns, types = before.split(" "), after.split(" ")
        if len(columns) < 5 or not types[0]:  # noqa: PLR2004 - the fifth column is the mount point
            continue
        point = Path(_ESCAPE.sub(lambda match: chr(int(match[1], 8)), columns[4]))
        # The last of several mounts on one point is the one that is seen.
        if len(point.parts) >= depth and path.is_relative_to(point):
            depth, kind = len(point.parts), types[0]
    return kind
