"""All problems of a data set in one error, and text that can always be printed."""

from itertools import islice, zip_longest

SHOWN = 20  # problems named in one error: a screenful


def printable(text: object) -> str:
    r"""The text with every byte of a file name that is no UTF-8 written as `\xNN`."""
    return str(text).encode(errors="surrogateescape").decode(errors="backslashreplace")


def report(name: str, *kinds: list[str], advice: str = "") -> None:
    """Raise one error that lists all problems; do nothing if there are none.

    Args:
        name: whose problems they are.
        kinds: the problems, one list for each kind. If there are more than a screenful, each kind
            is shown in part, so that a frequent kind does not hide a rare one.
        advice: what to do about them; it becomes the last line.

    Raises:
        ValueError: there is a problem.
    """
    if not (total := sum(map(len, kinds))):
        return
    turns = ((k, text) for row in zip_longest(*kinds) for k, text in enumerate(row) if text)
    shown = sorted(islice(turns, SHOWN), key=lambda turn: turn[0])  # each kind in its own order
    lines = [f"{name}: {total} problem(s):", *(text for _, text in shown)]
    if total > SHOWN:
        lines.append(f"… and {total - SHOWN} more")
    raise ValueError(printable("\n  ".join(lines) + f"\n{advice}".rstrip()))
