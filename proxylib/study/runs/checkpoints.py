"""A run's state on disk, so that a long run survives whatever happens to its process."""

import contextlib
import glob
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pandas as pd
import psutil
import torch

STATE = {  # what fit.py keeps
    **{"step": int, "seconds": float, "rows": list, "losses": torch.Tensor, "parts": dict},
    **{"generator": torch.Tensor, "random": dict},
}


@dataclass(frozen=True)
class Checkpoint:
    """Where a run keeps its state: `checkpoint.pt` and `history.csv`.

    Attributes:
        folder: of the run; must exist.
        every: steps between checkpoints; one more is written at the end.
        about: what decides the run, plain values; a checkpoint of another run is refused.
    """

    folder: Path
    every: int
    about: dict

    @property
    def file(self) -> Path:
        return self.folder / "checkpoint.pt"

    def save(self, state: dict) -> None:
        """Replace the last checkpoint: whenever the process is killed, one of the two is whole.

        Args:
            state: tensors and plain values only, for `load` does not unpickle anything else.
        """
        state = {**state, "about": json.dumps(self.about)}
        write(self.file, lambda file: torch.save(state, file))

    def load(self) -> dict | None:
        """The last state, on the CPU; None if there is none yet.

        Raises:
            ValueError: it belongs to another run, or is no checkpoint.
        """
        if not self.file.exists():
            return None
        try:
            state = torch.load(self.file, map_location="cpu", weights_only=True)
            about = json.loads(state.pop("about"))
            for name, kind in STATE.items():
                if not isinstance(state[name], kind):
                    raise TypeError(f"{name}: expected {kind.__name__}, got {state[name]!r:.99}")
        except Exception as error:
            raise ValueError(f"{self.file}: not a checkpoint ({error})") from error
        now = json.loads(json.dumps(self.about))
        if differs := [k for k in {**about, **now} if about.get(k) != now.get(k)]:
            told = ", ".join(f"{k} {about.get(k)!r}, now {now.get(k)!r}" for k in differs)
            raise ValueError(f"{self.file} is of another run: {told}; take another folder")
        return state

    def write_history(self, rows: list[dict[str, float]]) -> None:
        """The table of evaluations so far."""
        text = pd.DataFrame(rows).to_csv(index=False)
        write(self.folder / "history.csv", lambda file: file.write(text.encode()))


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """The state of torch's own generators, of the CPU and of a GPU in use."""
    state = {"cpu": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_random_state(state: dict[str, torch.Tensor], device: torch.device) -> None:
    """Go on from `random_state`; a run may be resumed on another kind of device."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def write(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    """A file that appears whole under its name, or not at all.

    What a process that was killed left of its own attempt is removed.

    Raises:
        OSError: it can't be written, e.g. for want of space; what was there before stays.
    """
    for left in path.parent.glob(f".{glob.escape(path.name)}.*"):
        if left.suffix[1:].isdigit() and not psutil.pid_exists(int(left.suffix[1:])):
            left.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        while isinstance(error, RuntimeError) and error.__context__:
            error = error.__context__  # torch.save hides the disk's error behind its own
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"{path} can't be written, what was there is kept: {reason}") from error
    finally:
        with contextlib.suppress(OSError):  # its folder may be none
            temporary.unlink()
