"""Flags: dataclasses of settings, a YAML file and the command line as one."""

import argparse
import inspect
import json
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import NoReturn

import torch
from transformers import HfArgumentParser, TrainingArguments

from .configs import find_yaml, read_yaml
from .errors import RunError


def parse_flags(argv: Sequence[str], description: str, *groups: type, without_data: str | None = None) -> list:
    """`--config NAME|FILE`, `--base NAME|FILE` and flags -> one instance of each of the argument dataclasses."""
    argv = [part for flag in argv for part in _spelled(flag)]
    argv = _bare_resume_means_true(argv)
    has_data = {"--data_dir", "--train_json", "--val_json"} & set(argv)
    config = _take("--config", argv) or (None if has_data else without_data)
    base = _take("--base", argv)
    if base and not config:
        raise RunError("--base takes the place of the base of a configuration; name one with --config")
    parser = HfArgumentParser(
        groups, description=description, allow_abbrev=False, usage=argparse.SUPPRESS, formatter_class=_HelpFormatter
    )
    parser.error = _refuse  # without the usage of some two hundred flags
    _sort_help(parser, groups)
    known = {item.name for group in groups for item in fields(group) if item.init}
    flags = [*(_yaml_to_flags(config, base, known) if config else []), *argv]
    trains = any(issubclass(group, TrainingArguments) for group in groups)
    if trains and not {"--bf16", "--fp16", "--help"} & set(flags):
        flags = [*_default_precision("--use_cpu" in flags), *flags]
    try:
        *parsed, unknown = parser.parse_args_into_dataclasses(
            args=flags, return_remaining_strings=True, look_for_args_file=False
        )
    except (ValueError, ImportError, OSError) as error:  # a package, or a file, that an argument asks for
        raise RunError(str(error)) from error
    if unknown:
        raise RunError(f"unknown arguments: {' '.join(unknown)} (see --help)")
    return parsed


def _spelled(flag: str) -> list[str]:
    """`--image-size=96` as `--image_size 96`."""
    if not flag.startswith("--"):
        return [flag]
    name, *value = flag.split("=", 1)
    return [name.replace("-", "_").replace("__", "--", 1), *value]


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Flags in one spelling, with the kind of their value; what has no default says none."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=34, width=119)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        kind = {int: "N", float: "X", str: "TEXT"}.get(action.type, "true|false" if action.nargs == "?" else "VALUE")
        value = (
            "|".join(map(str, action.choices)) if action.choices else f"{kind} ..." if action.nargs == "+" else kind
        )
        return action.option_strings[0] if action.nargs == 0 else f"{action.option_strings[0]} {value}"

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, []) else super()._get_help_string(action)


def _sort_help(parser: argparse.ArgumentParser, groups: Sequence[type]) -> None:
    """Have `--help` list flags under the words of the class that declares them; Trainer's two hundred last."""
    classes = [cls for group in groups for cls in group.__mro__ if is_dataclass(cls)]
    classes.sort(key=lambda cls: cls is TrainingArguments)
    declared = {name: cls for cls in reversed(classes) for name in inspect.get_annotations(cls)}
    for cls in classes:
        declared.update(dict.fromkeys(getattr(cls, "FLAGS_OF_TRAINER", ()), cls))
    everything = parser._optionals._group_actions
    parser._action_groups.clear()
    for cls in dict.fromkeys(classes):
        is_ours = cls is not TrainingArguments
        title = cls.__doc__.split(".\n")[0].rstrip(".") if is_ours else "All other flags of `TrainingArguments`"
        section = parser.add_argument_group(title)
        section._group_actions = [action for action in everything if declared.get(action.dest) is cls]
    section = parser.add_argument_group("Beside them")
    section.add_argument(
        "--config", default=argparse.SUPPRESS, help="FILE.yaml, or the name of a shipped configuration."
    )
    section.add_argument("--base", default=argparse.SUPPRESS, help="Another file or name in place of its `base`.")
    section._group_actions += [action for action in everything if action.dest == "help"]
    for action in parser._actions:
        if action.option_strings[0].startswith("--no_"):
            action.help = argparse.SUPPRESS  # what `--flag false` says


def _take(flag: str, argv: list[str]) -> str | None:
    """What follows a flag; both are taken out of the command line."""
    if flag not in argv:
        return None
    at = argv.index(flag)
    if at + 1 >= len(argv):
        raise RunError(f"{flag} needs a YAML file, or the name of a configuration that comes with the package")
    given = argv[at + 1]
    del argv[at : at + 2]
    return given


def _refuse(message: str) -> NoReturn:
    raise RunError(f"{message} (see --help)")


def _default_precision(use_cpu: bool) -> list[str]:
    """bfloat16 autocast wherever the hardware computes in it."""
    if torch.accelerator.is_available() and not use_cpu:
        has_bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
        return ["--bf16", "true"] if has_bf16 else []
    # Older versions of torch do not say what the processor has; there it is float32.
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    has_bf16 = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return ["--use_cpu", "true", "--bf16", "true"] if has_bf16 else []


def _bare_resume_means_true(argv: list[str]) -> list[str]:
    """`--resume_from_checkpoint` alone means "true": the last complete checkpoint."""
    if "--resume_from_checkpoint" in argv:
        after = argv.index("--resume_from_checkpoint") + 1
        if after == len(argv) or argv[after].startswith("--"):
            argv.insert(after, "true")
    return argv


def _yaml_to_flags(config: str, base: str | None, known: set[str]) -> list[str]:
    """The settings of a YAML file as flags, so that both are parsed by the same rules (1e-4 is a number in both)."""
    path = find_yaml(config)
    settings = read_yaml(path, None if base is None else find_yaml(base))
    unknown = sorted(str(key) for key in settings if key not in known)
    if unknown:
        raise RunError(f"{path}: unknown {'key' if len(unknown) == 1 else 'keys'} {', '.join(unknown)}")
    flags = []
    for key, value in settings.items():
        if value is None:
            continue
        values = value if isinstance(value, list) else [json.dumps(value) if isinstance(value, dict) else value]
        flags += [f"--{key}", *(str(item) for item in values)]
    return flags
