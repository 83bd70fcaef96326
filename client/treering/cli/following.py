"""What `subscribe` keeps: how far it has come, in a file."""

import os
import time
from pathlib import Path

from treering.checkpoints import Checkpoint
from treering.cli.exits import Failed
from treering.errors import LogDiverged

SAVE_SECONDS = 1.0
"""How often a checkpoint is written at most, while events come."""


class CheckpointFile:
    """A checkpoint in a file, which is always whole.

    It is written behind what was printed, never before: after a crash events may come again,
    but none is left out.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept: Checkpoint | None = None
        self._saved_at = time.monotonic()

    def load(self) -> Checkpoint | None:
        """What was saved. None: nothing yet.

        Raises:
            Failed: The file holds something else.
        """
        try:
            text = self._path.read_text("utf-8")
        except FileNotFoundError:
            return None
        except UnicodeDecodeError:
            text = "binary data"
        try:
            self._kept = Checkpoint.from_str(text)
        except ValueError as error:
            raise Failed(f"{self._path}: {error}") from None
        return self._kept

    def told_of_loss(self, lost: LogDiverged) -> str:
        """What to say when the log has lost what was printed last. The file stays as it is:
        only who used what was printed knows what has to be undone."""
        go_on = ""
        if lost.last_common_position:
            to_there = Checkpoint(lost.log_id, lost.last_common_position)
            go_on = f"to go on from there, put {to_there} into {self._path}; "
        return (
            f"{lost.message}; what was printed of later events is void: "
            f"{go_on}to begin anew, remove {self._path}"
        )

    @property
    def is_due(self) -> bool:
        """Whether it is time to save again."""
        return time.monotonic() - self._saved_at >= SAVE_SECONDS

    def save(self, checkpoint: Checkpoint) -> None:
        """Keeps a checkpoint, if it is a new one."""
        self._saved_at = time.monotonic()
        if checkpoint == self._kept or not checkpoint.log_id:
            return
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}.part")
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(f"{checkpoint.to_str()}\n")
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        finally:
            temporary.unlink(missing_ok=True)
        self._kept = checkpoint
