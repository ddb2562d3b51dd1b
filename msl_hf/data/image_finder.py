"""Images by the names that annotations give them."""

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from transformers.utils import logging

from .files import images_below, path_inside, split_of_path
from .schema import DataError

logger = logging.get_logger(__name__)


class ImageFinder:
    """Images below a folder, by the names that annotations give them.

    Args:
        root: Holds all images.
        folders: Where names are looked up first, in this order.
    """

    def __init__(self, root: Path, folders: Iterable[Path] = ()):
        self.root = root
        self.folders = list(dict.fromkeys((*folders, root)))
        self._by_name: dict[str, list[Path]] | None = None
        self._elsewhere: dict[str, Path] = {}

    def find(self, name: str, where: str, split: str | None = None) -> Path | None:
        """The image of that name, or, for a name without the ending of an image, of that stem; None without any.

        Folders before the name that are not there are left out, one after the other; in the end the name alone is
        looked for everywhere but in folders of other splits than the given one.

        Raises:
            DataError: where the name leads out of the folder, or several images bear it.
        """
        for folder in self.folders:
            path = path_inside(folder, name, where)
            if os.path.isfile(path):
                return path
            parts = path.relative_to(folder).parts
            if len(parts) > 1 and parts[0] == folder.name and os.path.isfile(folder.joinpath(*parts[1:])):
                return folder.joinpath(*parts[1:])
        shorter = (folder.joinpath(*parts[at:]) for folder in self.folders for at in range(1, len(parts) - 1))
        found = self._of_split(filter(os.path.isfile, shorter), split)[:1] or self._named(parts[-1], split)
        if len(found) > 1:
            found = [file for file in found if file.parent in self.folders] or found
        if len(found) > 1:
            raise DataError(f"{where}: {name} may be {found[0]} or {found[1]}; write the folder, too")
        if found and len(parts) > 1:
            self._elsewhere[name] = found[0]
        return found[0] if found else None

    def report(self) -> None:
        """Say how many images lay in another folder than the annotations write."""
        if self._elsewhere:
            name, file = next(iter(self._elsewhere.items()))
            logger.warning(f"{self.root}: {len(self._elsewhere)} images lie in other folders than their annotations "
                           f"write, such as {file} for {name}")  # fmt: skip

    def expect(self, name: str, where: str, split: str | None = None) -> Path:
        """As `find`; an image that is not there is expected in the first folder, where its check will miss it."""
        return self.find(name, where, split) or path_inside(self.folders[0], name, where)

    def _named(self, name: str, split: str | None) -> list[Path]:
        if self._by_name is None:
            self._by_name = defaultdict(list)
            for file in images_below(self.root)[0]:
                self._by_name[file.name].append(file)
                self._by_name[file.stem].append(file)
        return self._of_split(self._by_name.get(name, []), split)

    def _of_split(self, files: Iterable[Path], split: str | None) -> list[Path]:
        """Those that lie in no folder of another split."""
        return [file for file in files if split is None or split_of_path(file, self.root) in (None, split)]
