"""YAML as people write it: read safely, refused in one line."""

from pathlib import Path

import yaml


class _Loader(yaml.SafeLoader):
    """YAML without aliases: a few lines of them stand for billions of values, or never end."""

    def compose_node(self, *args):
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias (*), which is not read here")
        return super().compose_node(*args)


def parse_yaml(text: str) -> object:
    """What YAML text stands for.

    Raises:
        ValueError: it is not YAML, or has aliases; in one line.
    """
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # numbers can be too long
        raise ValueError(f"not YAML ({' '.join(str(error).split())})") from None


def read_yaml(path: Path) -> dict[str, object]:
    """Parameters from a YAML file.

    Raises:
        ValueError: no such file, or not `name: value` lines.
    """
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected lines of 'name: value', got {type(values).__name__}")
    return {str(name): value for name, value in values.items()}
