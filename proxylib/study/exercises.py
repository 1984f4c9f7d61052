"""Exercises that answer back."""

from collections.abc import Callable, Mapping

import numpy as np


class Exercises:
    """Tells whether an answer is right, and if it isn't, what to think of next.

    Args:
        answers: exercise → a test of the answer, True if it is right, and a hint. The test
            computes what it compares with from the notebook's own data.

    Example:
        >>> check = Exercises({"00-1": (lambda n: n == 48, "Count each pair {x, y} once.")})
        >>> check("00-1", 96)
        00-1: not yet. Count each pair {x, y} once.
    """

    def __init__(self, answers: Mapping[str, tuple[Callable[[object], bool], str]]):
        self.answers = dict(answers)

    def __call__(self, exercise: str, answer: object) -> None:
        """Print the verdict; an answer that can't be compared is a wrong one.

        Raises:
            KeyError: no such exercise; names those there are.
        """
        if exercise not in self.answers:
            raise KeyError(f"no exercise {exercise!r}; there are: {', '.join(self.answers)}")
        is_right, hint = self.answers[exercise]
        if answer is ...:
            return print(f"{exercise}: put your answer in the place of the dots.")
        try:
            right = bool(is_right(answer))
        except Exception as error:  # whatever a student may hand in
            hint = f"{type(answer).__name__} can't be compared ({error}). {hint}"
            right = False
        print(f"{exercise}: {'right.' if right else f'not yet. {hint}'}")


def close(answer: object, expected: object) -> bool:
    """Same shape, and numbers equal within 0.1 %, so that rounding to four digits is no error."""
    answer, expected = np.asarray(answer, float), np.asarray(expected, float)
    return answer.shape == expected.shape and np.allclose(answer, expected, rtol=1e-3, atol=1e-6)
