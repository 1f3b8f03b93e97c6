"""Reads and writes the files of cgroups of version 2 (Linux).

Each write is one system call, because the kernel takes each as one order. The tests replace this class by a simulator.
"""

from __future__ import annotations

import os

from dragonfly_executor.runner.cgroups import MOUNT, OWN, read


class CgroupFiles:
    """The tree of cgroups as the kernel shows it.

    Args:
        mount: the folder where version 2 is mounted.
    """

    def __init__(self, mount: str = MOUNT) -> None:
        self._mount = mount

    def own(self) -> str | None:
        """Return the path of this process's cgroup, from "/"; None if it has none of version 2."""
        for line in read("", OWN).splitlines():
            number, _, rest = line.partition(":")
            if number == "0":
                # A cgroup outside of the namespace begins with "/..", and its folder is not there.
                return rest.removeprefix(":")
        return None

    def read(self, path: str, file: str) -> str:
        """Return a file's text; "" if there is none."""
        return read(self._folder(path), file)

    def write(self, path: str, file: str, text: str) -> None:
        """Write a text into a file.

        Raises:
            OSError: the kernel refuses it.
        """
        fd = os.open(os.path.join(self._folder(path), file), os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)

    def make(self, path: str) -> None:
        """Make a cgroup. OSError if the kernel refuses it; none if it is there already."""
        try:
            os.mkdir(self._folder(path))
        except FileExistsError:
            return

    def remove(self, path: str) -> None:
        """Remove a cgroup. OSError if it has processes or children, or is not there."""
        os.rmdir(self._folder(path))

    def children(self, path: str) -> list[str]:
        """Return the names of the cgroups in a cgroup; none if it is not there."""
        try:
            with os.scandir(self._folder(path)) as entries:
                return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:
            return []

    def has(self, path: str, file: str) -> bool:
        """Return whether a cgroup has a file."""
        return os.path.exists(os.path.join(self._folder(path), file))

    def is_writable(self, path: str) -> bool:
        """Return whether this process may make cgroups in a cgroup, and move processes from it into those."""
        folder = self._folder(path)
        files = (folder, os.path.join(folder, "cgroup.procs"), os.path.join(folder, "cgroup.subtree_control"))
        return all(os.access(file, os.W_OK) for file in files)

    def is_delegated(self, path: str) -> bool:
        """Return whether the manager of cgroups has left a cgroup to the processes in it.

        For other users than root, the manager says so by the permissions. For root, systemd says so by an attribute,
        and the root of a namespace is that of a container.
        """
        if os.geteuid() != 0:
            return True
        if path == "/" and self.has(path, "cgroup.type"):
            return True
        if not os.path.isdir("/run/systemd/system"):
            return True
        for name in ("user.delegate", "trusted.delegate"):
            try:
                if os.getxattr(self._folder(path), name) == b"1":
                    return True
            except OSError:
                continue
        return False

    def wait_until_empty(self, path: str, timeout: float) -> None:
        """Wait until a cgroup has no process, or the time is over.

        Args:
            path: the cgroup.
            timeout: seconds.
        """
        import select
        import time

        end = time.monotonic() + timeout
        try:
            fd = os.open(os.path.join(self._folder(path), "cgroup.events"), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return
        try:
            events = select.poll()
            events.register(fd, select.POLLPRI)
            # The kernel reports a change of the file after it was read.
            while b"populated 1" in os.pread(fd, 4096, 0) and (left := end - time.monotonic()) > 0:
                events.poll(left * 1000)
        finally:
            os.close(fd)

    def _folder(self, path: str) -> str:
        return self._mount + path.rstrip("/")
