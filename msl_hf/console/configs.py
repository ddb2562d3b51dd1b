"""Configurations: YAML files of settings, one's own or those that come with the package."""

import os
from collections.abc import Sequence
from pathlib import Path

import yaml

from .errors import RunError


def shipped(kind: str = "configs") -> dict[str, Path]:
    """Name -> YAML file of the `configs` or `ablations` that come with the package.

    In the wheel they lie in the package; in a checkout, which the wheel is made of, in `recipes/`.
    """
    package = Path(__file__).parents[1]
    folders = (package / kind, package.parent / "recipes" / kind)
    return {file.stem: file for folder in folders for file in sorted(folder.glob("*.yaml"))}


def find_yaml(given: str | os.PathLike, kind: str = "configs") -> Path:
    """A YAML file: the path, or the name of one that comes with the package.

    Raises:
        RunError: for a name that none of them has; a path that does not exist is left to `read_yaml`.
    """
    path = Path(given)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return path
    found = shipped(kind)
    if str(given) not in found:
        raise RunError(f"{given}: there is no such file, and the package has {', '.join(found)}")
    return found[str(given)]


def read_yaml(path: str | os.PathLike, base: str | os.PathLike | None = None, below: Sequence[Path] = ()) -> dict:
    """The settings of a YAML file, over those of the file that `base` names: one beside it, or a shipped one's name.

    A `backbone` that is a JSON file beside the file gets its path.

    Args:
        path: The file.
        base: Another file in place of the one that the file names.
        below: Files whose base this one is.

    Raises:
        RunError: naming the file and what is wrong with it.
    """
    path = Path(path)
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RunError(f"{path}: is not valid YAML ({error})") from error
    if settings is None:
        settings = {}
    if not isinstance(settings, dict):
        raise RunError(f"{path}: must hold 'name: value' lines")
    settings = with_file_beside(settings, path.parent)
    named, below = settings.pop("base", None), (*below, path.resolve())
    if named is None and base is not None:
        raise RunError(f"{path}: has no base that --base could take the place of")
    if named is None:
        return settings
    if not isinstance(named, str):
        raise RunError(f"{path}: base must name a YAML file, got {named!r}")
    replaced = find_yaml(named) if Path(named).suffix == "" else path.parent / named
    base = replaced if base is None else Path(base)
    if base.resolve() in below:
        raise RunError(f"{path}: its base {base} is the file itself, or is based on it")
    below_it = read_yaml(base, below=below)
    lost = sorted(set(read_yaml(replaced, below=below)) - set(below_it)) if base != replaced else []
    if lost:
        raise RunError(f"--base {base} sets nothing for {', '.join(lost[:5])}, which {replaced} does; write it over "
                       f"that one, with 'base: {replaced.name}'")  # fmt: skip
    return {**below_it, **settings}


def with_file_beside(settings: dict, folder: Path) -> dict:
    """The settings; a `backbone` that is a JSON file in the folder, where they stand, with its path."""
    file = folder / str(settings.get("backbone"))
    return {**settings, "backbone": str(file)} if file.suffix == ".json" and file.is_file() else settings
