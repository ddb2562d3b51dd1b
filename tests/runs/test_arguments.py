import pytest

from msl_hf.console.errors import RunError
from msl_hf.runs.arguments import parse_arguments

OUTPUT = ["--output_dir", "out", "--use_cpu", "true"]


def parse(*argv, **kwargs):
    return parse_arguments([*OUTPUT, *argv], "A recipe.", **kwargs)[0]


def test_flags_override_the_file_and_both_speak_alike(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("learning_rate: 1e-4\nloss_weights: [1, 0, 0]\nseed: 7\nhole_ratio: [0.01, 0.1]\nbf16: false\n"
                    "backbone: net\ndata_dir: null\n")  # fmt: skip
    arguments = parse("--config", str(file), "--seed", "8", "--loss_weights=0.5 0.5 0".split()[0], "0.5", "0")
    assert arguments.training.learning_rate == 1e-4 and arguments.training.seed == 8
    assert arguments.training.loss_weights == [0.5, 0.5, 0.0]
    assert arguments.masks.hole_ratio == [0.01, 0.1] and arguments.model.backbone == "net"
    assert arguments.data.data_dir is None and not arguments.training.bf16


def test_file_for_runs_without_data(tmp_path):
    file = tmp_path / "demo.yaml"
    file.write_text("backbone: demo")
    assert parse(without_data=file).model.backbone == "demo"
    assert parse("--data_dir", "photos", without_data=file).model.backbone is None
    assert parse("--data_dir=photos", without_data=file).data.data_dir == "photos"


@pytest.mark.parametrize(
    ("argv", "resume"),
    [([], None), (["--resume"], "true"), (["--resume", "--seed", "1"], "true"), (["--resume", "true"], "true"),
     (["--resume", "a/checkpoint-5"], "a/checkpoint-5")],
)  # fmt: skip
def test_resume_flag(argv, resume):
    argv = ["--resume_from_checkpoint" if flag == "--resume" else flag for flag in argv]
    assert parse(*argv).training.resume_from_checkpoint == resume


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lerning_rate: 1\n", "run.yaml: unknown key lerning_rate"),
        ("a: 1\nb: 2\n", "unknown keys a, b"),
        ("- a\n", "'name: value'"),
        ("a: [1\n", "not valid YAML"),
        (None, "cannot be read"),
    ],
)
def test_errors_of_files(text, message, tmp_path):
    if text is not None:
        (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(RunError, match=message):
        parse("--config", str(tmp_path / "run.yaml"))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--learning_rates", "1"], "unknown arguments: --learning_rates"),
        (["--learn", "1"], "unknown arguments"),
        (["--model", "a", "--backbone", "b"], "exclude each other"),
        (["--selection_split", "test"], "choose the model on the test images"),
        (["--hole_ratio", "0.5"], "two numbers"),
        (["--loss_weights", "1", "0"], "three numbers"),
        (["--image_mean", "0"], "three numbers"),
        (["--validation_fraction", "1.5"], r"\[0, 1\)"),
        (["--seed", "one"], "--seed: invalid int value: 'one'"),
        (["--config"], "needs a YAML file"),
        (["--from_scratch", "true", "--freeze_batch_norm", "true"], "statistics of pretrained weights"),
    ],
)
def test_errors_of_flags(argv, message):
    with pytest.raises(RunError, match=message):
        parse(*argv)


def test_help_lists_our_flags(capsys):
    with pytest.raises(SystemExit) as error:
        parse("--help")
    assert error.value.code == 0
    printed = capsys.readouterr().out
    assert "A recipe." in printed and "--hole_ratio" in printed and "--loss_weights" in printed


def test_output_dir_is_needed():
    with pytest.raises(RunError, match="--output_dir"):
        parse_arguments(["--use_cpu", "true"], "A recipe.")
