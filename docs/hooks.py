"""What of the site is made when it is built: the reference of the commands, and the pages that lie elsewhere.

Links in the sources are those of the repository, so that they work there, too; here they become those of the site.
"""

import contextlib
import importlib
import io
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s#]+)([^)\s]*\))")
OTHERS = "All other flags of `TrainingArguments`"


def on_files(files, config):
    """Add `model_cards/`, with what it shows, CONTRIBUTING, and the reference of the commands."""
    for path in sorted((ROOT / "model_cards").rglob("*")):
        if path.suffix in (".png", ".jpg") or (path.suffix == ".md" and path.parent.name == "model_cards"):
            name = path.relative_to(ROOT).as_posix().replace("README.md", "index.md")
            files.append(File.generated(config, name, abs_src_path=str(path)))
    files.append(File.generated(config, "contributing.md", abs_src_path=str(ROOT / "CONTRIBUTING.md")))
    files.append(File.generated(config, "reference/commands.md", content=commands()))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links between files of the repository as links between pages; those to files that are no page as their names."""
    source = Path(page.file.src_uri)
    place = {"contributing.md": Path("CONTRIBUTING.md")}.get(page.file.src_uri)
    if place is None:
        place = source if source.parts[0] == "model_cards" else Path("docs") / source

    def rewrite(match: re.Match) -> str:
        before, target, after = match.groups()
        if target.startswith(("http", "mailto:")):
            return match.group(0)
        path = (ROOT / place.parent / target).resolve()
        if not path.exists():
            return match.group(0)  # which mkdocs warns of
        name = path.relative_to(ROOT).as_posix().replace("model_cards/README.md", "model_cards/index.md")
        name = {"CONTRIBUTING.md": "contributing.md", "README.md": "index.md"}.get(name, name.removeprefix("docs/"))
        if files.get_file_from_path(name) is None:
            return f"`{path.relative_to(ROOT).as_posix()}`"
        up = "../" * (len(source.parts) - 1)
        return f"{before}{up}{name}{after}"

    text = re.sub(r"\A---\n.*?\n---\n", "", markdown, flags=re.DOTALL)  # of a model card
    return LINK.sub(rewrite, text)


def commands() -> str:
    """Every command with the text of its `--help`; of the flags of Trainer, those that a run needs."""
    from msl_hf.cli import COMMANDS

    parts = [
        "# Commands",
        "`msl-hf COMMAND`, `python -m msl_hf COMMAND` and the file of the same name in `recipes/` are the same. Every "
        "command takes `--config FILE.yaml`, whose keys are the names of the flags, and flags over it.",
    ]
    for name, (module, does) in COMMANDS.items():
        text = io.StringIO()
        with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
            importlib.import_module(f"msl_hf.{module}").run(["--help"])
        shown = text.getvalue().split(OTHERS)
        if len(shown) > 1:
            shown[0] += f"{OTHERS}: as in transformers; `msl-hf {name} --help` lists them, too.\n"
        parts += [f"## {name}", f"{does[0].upper()}{does[1:]}." if not does.startswith("...") else "", "```text",
                  shown[0].strip(), "```"]  # fmt: skip
    return "\n\n".join(parts).replace("```text\n\n", "```text\n").replace("\n\n```\n\n##", "\n```\n\n##")
