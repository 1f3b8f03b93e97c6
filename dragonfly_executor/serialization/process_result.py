"""`ProcessResult`: the end of a placed process."""

from __future__ import annotations


class ProcessResult:
    """The end of a process that `place_process` has run, like `subprocess.CompletedProcess`.

    Attributes:
        args: the command.
        returncode: its exit status; negative for the signal that ended it.
        stdout, stderr: the end of what it has written, as bytes; empty if the output was not captured.
    """

    def __init__(self, args: list[str], returncode: int, stdout: bytes, stderr: bytes) -> None:
        self.args = args
        self.returncode = returncode
        self.stdout = stdout
        self.stderr = stderr

    def check_returncode(self) -> None:
        """Raise `subprocess.CalledProcessError` unless the exit status is 0."""
        if self.returncode:
            from subprocess import CalledProcessError

            raise CalledProcessError(self.returncode, self.args, self.stdout, self.stderr)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(args={self.args!r}, returncode={self.returncode})"
