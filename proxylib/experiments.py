"""The study's experiments: which runs answer which question."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from proxylib import paths
from proxylib.config import RunConfig
from proxylib.datasets import Dataset
from proxylib.methods import METHODS
from proxylib.recipes import data_options, default_recipe, recipe
from proxylib.tuning import AXES, expand, fit_batch

BASELINE_NAMES = tuple(name for name in METHODS if not name.startswith("proxy"))
NORMS = {"fixed": {}, "free": {"embedding_norm": None, "proxy_norm": None}}
PATENT_RULE = {"restart_dead": False, "batch_norm": False}  # dynamic assignment, nothing added
FREE_NORMS = NORMS["free"]


def presets_file(dataset: str, given: str = "", recipe: str = "") -> Path:
    """The file of settings: the one given, else the tuned ones of the data set, else kanji's.

    A recipe with a network of torchvision takes `notebooks/params/presets-backbone.yaml` instead
    of kanji's; nothing in that file is tuned.

    Raises:
        FileNotFoundError: the given file does not exist.
    """
    if given:
        if not Path(given).expanduser().is_file():
            raise FileNotFoundError(
                f"presets={given!r}: no such file; A1_tuning writes one into its output folder"
            )
        return Path(given).expanduser()
    committed = paths.PROJECT / "figures"
    usual = default_recipe(dataset)
    candidates = []
    if (recipe or usual) == usual:  # else it was tuned for another network
        candidates += [paths.figures(dataset, "full"), committed / f"{dataset}-full"]
    if (recipe or usual) == "study":
        candidates.append(committed / "kanji-full")
    files = [folder / "presets.yaml" for folder in candidates]
    untuned = paths.notebooks() / "params" / "presets-backbone.yaml"
    return next((file for file in files if file.is_file()), untuned)


def read_presets(path: Path) -> dict[str, dict[str, dict[str, object]]]:
    """Settings by start (`"random"`, `"pretrained"`) and name of the method (`tuning.AXES`).

    Raises:
        ValueError: a start or a method is missing or unknown.
    """
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    for init, axes in AXES.items():
        found = set(content.get(init) or ()) if isinstance(content, dict) else set()
        if found != axes.keys():
            raise ValueError(
                f"{path}: under {init!r} expected settings of {', '.join(axes)}; "
                f"missing or unknown: {', '.join(sorted(found ^ axes.keys()))}"
            )
    return {init: content[init] for init in AXES}


def write_presets(path: Path, chosen: Mapping[str, Mapping], how: str) -> None:
    """A file for `read_presets`.

    Args:
        chosen: settings by start and name of the method.
        how: a sentence on how they were chosen; becomes a comment.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = {
        init: {name: dict(chosen[init][name]) for name in names} for init, names in AXES.items()
    }
    text = yaml.safe_dump(settings, sort_keys=False, default_flow_style=None, width=100)
    path.write_text(f"# {how}\n{text}", encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class Study:
    """What the experiments on one data set share: the data, the seeds, the budget, the settings.

    Attributes:
        dataset, data_root, data_options: see `RunConfig`.
        seeds: one run of everything for each.
        steps: the budget of a run in batches of 32 samples.
        presets: from `read_presets`.
        recipe: see `recipes.recipe`; if empty, `recipes.default_recipe(dataset)`.
    """

    dataset: str
    presets: Mapping[str, Mapping[str, Mapping[str, object]]]
    steps: int
    seeds: tuple[int, ...]
    data_root: str = ""
    data_options: tuple[tuple[str, object], ...] = ()
    recipe: str = ""

    def __post_init__(self):
        chosen = self.recipe or default_recipe(self.dataset)
        recipe(chosen, "proxy_nca")  # is there one of that name?
        options = {**data_options(chosen, self.dataset), **dict(self.data_options)}
        object.__setattr__(self, "recipe", chosen)
        object.__setattr__(self, "data_options", tuple(options.items()))

    def config(self, **changes: object) -> RunConfig:
        """A run on this data by this recipe; `changes` are fields of `RunConfig`."""
        common = {
            "dataset": self.dataset,
            "data_root": self.data_root,
            "data_options": self.data_options,
        }
        return RunConfig(**{**common, **recipe(self.recipe, "proxy_nca"), **changes})

    def runs(self, name: str, init: str = "random", **changes: object) -> list[RunConfig]:
        """A method with its chosen settings, one run a seed.

        Args:
            name: in `AXES[init]`: a method of the registry, or `"dynamic"`.
            init: the start, see `RunConfig`; recipes but `"study"` have one of their own.
            changes: settings to differ from the chosen ones (see `tuning.expand`), or fields of
                `RunConfig` that no settings have, as `record_bounds`.
        """
        fields = {k: v for k, v in changes.items() if k in ("record_bounds", "eval_every")}
        settings = fit_batch(name, {**self.presets[init][name], **changes}, self._train())
        expanded = expand(name, {k: v for k, v in settings.items() if k not in fields}, self.steps)
        expanded = {"eval_every": self._interval(expanded["steps"]), **expanded, **fields}
        if self.recipe == "study":
            expanded["init"] = init
        return [self.config(seed=seed, **expanded) for seed in self.seeds]

    def _train(self) -> Dataset:
        return self.config().data()[0]

    def _interval(self, steps: int) -> int:
        """Steps between evaluations: 20 of them, fewer in a short run, for they cost time too."""
        return max(1, steps // max(1, min(20, self.steps // 50)))

    def benchmark(self, init: str = "random") -> list[RunConfig]:
        """Every method, every seed, as many samples: FIG. 1, FIG. 4, Tables 1 and 2."""
        return [run for name in METHODS for run in self.runs(name, init)]

    def static(self, ratios: Iterable[float]) -> list[RunConfig]:
        """Proxy-NCA with so many proxies per label, assigned by label or at random (FIG. 6)."""
        return [run for ratio in ratios for run in self.runs("proxy_nca", ratio=float(ratio))]

    def dynamic(self, ratios: Iterable[float], **changes: object) -> list[RunConfig]:
        """Method 1000 from triplets without labels, from the pre-trained start (FIG. 7)."""
        return [
            run
            for ratio in ratios
            for run in self.runs("dynamic", "pretrained", ratio=float(ratio), **changes)
        ]

    def bounds(self) -> dict[str, list[RunConfig]]:
        """Proxy-NCA with the bounds recorded, with fixed and with free norms (notebook 02).

        With the registry's settings: the bounds are about the loss, however well it does.
        """
        return {
            norms: [
                self.config(
                    options=options,
                    seed=seed,
                    steps=self.steps,
                    batch_size=min(32, len(self._train())),
                    eval_every=max(1, self.steps // 8),
                    record_bounds=True,
                )
                for seed in self.seeds
            ]
            for norms, options in NORMS.items()
        }
