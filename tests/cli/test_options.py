"""What the command line says of options that are wrong, and its help."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from oneshot.cli.commands import COMMANDS as EVERY_COMMAND
from oneshot.cli.main import _reason, main
from oneshot.cli.options import did_you_mean, explain
from oneshot.cli.short_help import COMMANDS, short_help
from tests.processes import run_python

ROOT = Path(__file__).parents[2]
SEARCH = ["search", "--config", str(ROOT / "experiments/digits/search.yaml"), "--out", "never"]
STUDY = ["discrete", "--evaluator", "oneshot.discrete.TabularEvaluator", "--objectives", "['min error']"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(["serch"], "got 'serch'. Did you mean 'search'", id="command"),
        pytest.param(["pick", "run", "--kneee"], "does not know --kneee. Did you mean '--knee'", id="plain-option"),
        pytest.param(["pick", "run", "--max_error", "1"], "not know --max_error 1. Did you mean '--max-error'", id="_"),
        pytest.param([*STUDY, "--ray_gpus", "1"], "no option --ray_gpus. Did you mean '--ray-gpus'", id="_of-a-study"),
        pytest.param(["measure", "--few_shot", "9"], "no option --few_shot. Did you mean '--few-shot'", id="_measure"),
        pytest.param(["export", "run", "--formats", "onx"], "got 'onx'. Did you mean 'onnx'", id="plain-choice"),
        pytest.param([*SEARCH, "--ouut", "x"], "no option --ouut. Did you mean '--out'", id="option"),
        pytest.param(
            [*SEARCH, "--trainer.max_epohcs", "3"],
            "no option --trainer.max_epohcs. Did you mean '--trainer.max_epochs'",
            id="trainer",
        ),
        pytest.param(
            [*SEARCH, "--model.arch_lrr", "1"],
            "Option 'arch_lrr' is not accepted by .*oneshot.DARTS. Did you mean 'arch_lr'",
            id="of-the-method",
        ),
        pytest.param(
            [*SEARCH, "--model.init_args.weight_lrr", "1"],
            "Option 'weight_lrr' is not accepted by .*oneshot.DARTS. Did you mean 'weight_lr'",
            id="of-its-parent",
        ),
        pytest.param(
            [*SEARCH, "--data.init_args.batchsize", "1"],
            "Option 'batchsize' is not accepted by .*SearchDataModule. Did you mean 'batch_size'",
            id="of-the-data",
        ),
        pytest.param(
            [*SEARCH, "--model.supernet.chanels", "1"],
            "Option 'chanels' is not accepted by .*DARTSSupernet. Did you mean 'channels'",
            id="of-the-supernet",
        ),
        pytest.param([*SEARCH, "--model", "oneshot.DART"], "Did you mean 'oneshot.DARTS'", id="class"),
        pytest.param(
            [*SEARCH, "--model.supernet.class_path", "oneshot.supernets.DARTSSupernt"],
            "Did you mean 'oneshot.supernets.DARTSSupernet'",
            id="class-inside",
        ),
        pytest.param(
            [*SEARCH, "--trainer.max_epochs", "three"],
            "--trainer.max_epochs: must be a whole number; got three.",
            id="number",
        ),
        pytest.param(
            [*SEARCH, "--model.supernet.channels", "three"],
            "--model.supernet.channels: must be a whole number; got three.",
            id="number-inside",
        ),
        pytest.param(
            [*SEARCH, "--trainer.precision", "bf16-mixd"], "got bf16-mixd. Did you mean 'bf16-mixed'", id="choice"
        ),
        pytest.param(["search"], "--data, --model must be given", id="nothing"),
        pytest.param(["search", "--model", "oneshot.DARTS"], "oneshot.DARTS needs supernet", id="required"),
        pytest.param(
            ["search", "--config", "nowhere.yaml"], "must name a YAML file; there is no file nowhere.yaml", id="config"
        ),
        pytest.param(["search", "extra"], "'extra' must follow an option", id="no-option"),
        pytest.param(
            [*SEARCH, "--epochs", "3"], "no option --epochs. Did you mean '--trainer.max_epochs'", id="last-part"
        ),
        pytest.param(
            [*SEARCH, "--model.init_args.lrr", "3"],
            "Option 'lrr' is not accepted by .*oneshot.DARTS. Did you mean 'arch_lr'",
            id="part-of-a-name",
        ),
        pytest.param([*SEARCH, "--trainer.max_epochs"], "--trainer.max_epochs must be followed by a value", id="value"),
        pytest.param(
            [*SEARCH, "--model", "builtins.dict"], "--model: must be a class that is a SearchModule, or", id="dict"
        ),
        pytest.param(
            [*SEARCH, "--data", "builtins.dict"], "--data: must be a class that is a LightningDataModule", id="no-data"
        ),
        pytest.param(["measure", "--supernet.channels", "3"], "must be a class that can be built", id="abstract"),
        pytest.param(
            [*STUDY[:1], "--evaluator", "builtins.dict", "--strategy", "oneshot.discrete.RandomSearch", *STUDY[3:]],
            "--evaluator must be a class that is an Evaluator, or a function that returns one; builtins.dict",
            id="evaluator",
        ),
        pytest.param(["search", "--data", "oneshot.Digits"], "Did you mean 'oneshot.data.Digits'", id="other-package"),
        pytest.param(["pick"], "RUN must be given", id="no-run"),
        pytest.param(["pick", "run", "--latency", "fast"], "--latency must be a number; got 'fast'", id="plain-number"),
        pytest.param(
            ["measure", "--supernet", "oneshot.supernets.FBNetSupernt"], "Did you mean '.*FBNetSupernet'", id="measure"
        ),
        pytest.param(["measure", "--runtime", "egaer"], "got egaer. Did you mean 'eager'", id="choice-of-measure"),
        pytest.param(
            [*STUDY, "--strategy", "oneshot.discrete.RandomSearch", "--evaluatons", "3"],
            "no option --evaluatons. Did you mean '--evaluations'",
            id="option-of-discrete",
        ),
        pytest.param(["show", "DARTS_V3"], "which is none of these. Did you mean 'DARTS_V2'|'DARTS_V1'", id="target"),
    ],
)
def test_a_typo_is_one_line_with_the_nearest_name(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(words)
    except SystemExit as stop:
        code = int(str(stop.code))
    text = capsys.readouterr().err
    assert code in (1, 2) and text.count("\n") == 1 and len(text) < 500
    assert re.search(message, text), text
    assert not Path("never").exists()


def test_a_typo_in_a_yaml_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "experiments/digits/search.yaml").read_text()
    for right, wrong, message in (
        ("max_epochs:", "max_epohcs:", "max_epohcs.*Did you mean .*max_epochs"),
        ("oneshot.DARTS", "oneshot.DARTZ", "Did you mean 'oneshot.DARTS'"),
        ("channels:", "chanels:", "Option 'chanels' is not accepted by .*. Did you mean 'channels'"),
    ):
        assert right in text
        (tmp_path / "search.yaml").write_text(text.replace(right, wrong))
        with pytest.raises(SystemExit):
            main(["search", "--config", str(tmp_path / "search.yaml"), "--out", str(tmp_path / "never")])
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and re.search(message, said), said


def test_what_is_far_from_all_names_gets_no_suggestion() -> None:
    assert did_you_mean("zzzz", ["arch_lr", "order"]) == ""
    assert explain("unrecognized arguments: --zzzz 3", ["--out"]) == "There is no option --zzzz. --help lists them."


def test_messages_of_ours_stay_as_they_are_but_for_their_lines() -> None:
    assert _reason("plain") == "plain"
    assert _reason("a size: [1, 2]\n  and another") == "a size: [1, 2] and another"


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_fits_on_a_screen_and_names_options_there_are(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert text == short_help(command)
    with pytest.raises(SystemExit) as stop:
        main([command, "--help-all"])
    assert stop.value.code == 0
    everything = capsys.readouterr().out
    free = ("--model.", "--data.", "--supernet.", "--strategy.", "--evaluator.")  # of a class
    ours = ("--help-all", "--inherit", "--report")  # read before the parser
    named = {word.rstrip(".") for word in re.findall(r"--[a-z][\w.-]*", text.split("example:")[0])}
    for option in named:
        assert option in everything or option.startswith(free) or option in ours, option
    assert len(named) >= 4


@pytest.mark.parametrize("command", EVERY_COMMAND)
def test_the_help_of_every_command_is_a_screen_of_40_lines_and_100_columns(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lines(columns: int, option: str = "--help") -> list[str]:
        monkeypatch.setenv("COLUMNS", str(columns))
        with contextlib.suppress(SystemExit):
            main([command, option])
        return capsys.readouterr().out.splitlines()

    wide = lines(200)
    assert wide == lines(100) and 7 <= len(wide) <= 40 and max(map(len, wide)) <= 100
    narrow = lines(40)
    too_wide = [line for line in narrow if len(line) > 40]
    assert all(len(line.split()) == 1 or line.lstrip().startswith("--") for line in too_wide), "only long names"
    assert " ".join(narrow).split()[:3] == ["usage:", "oneshot", command]
    if command not in COMMANDS:
        assert lines(100, "--help-all") == wide


def test_a_help_says_the_same_in_every_width() -> None:
    for command in COMMANDS:
        said = [" ".join(short_help(command, width).split()) for width in (30, 40, 72, 100, 500)]
        assert len(set(said)) == 1 and said[0].startswith(f"usage: oneshot {command} ")


def test_the_help_comes_without_torch() -> None:
    code = "import sys; from oneshot.cli.main import main; main(['search', '--help']); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def test_the_whole_help_names_all_classes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["measure", "--help-all"])
    text = capsys.readouterr().out
    for name in ("DARTSSupernet", "FBNetSupernet", "MobileNetV3Supernet", "NASNetSupernet", "SegmentationSupernet"):
        assert f"oneshot.supernets.{name}" in text


def test_an_error_nobody_expected_is_one_line_that_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise KeyError("edges")

    monkeypatch.setattr("oneshot.cli.show.show", fails)
    assert main(["show", "DARTS_V2"]) == 1
    text = capsys.readouterr().err
    assert text.startswith("oneshot show: KeyError: 'edges' This is a bug of oneshot") and text.count("\n") == 1
    assert "--traceback shows where" in text
    with pytest.raises(KeyError):
        main(["show", "DARTS_V2", "--traceback"])


def test_a_warning_on_a_real_command_line_is_one_line_without_a_path() -> None:
    code = (
        "import sys, warnings; warnings.simplefilter('default')\nfrom oneshot.cli import main, show\n"
        "show.show = lambda *_, **__: warnings.warn('Write it again.\\nThen go on.', stacklevel=1)\n"
        "sys.argv = ['oneshot', 'show', 'DARTS_V2', *sys.argv[1:]]\nsys.exit(main.main())"
    )
    short = run_python("-c", code, cwd=ROOT)
    assert "oneshot: warning: Write it again. Then go on.\n" in short.stderr and "<string>" not in short.stderr
    long = run_python("-c", code, "--traceback", cwd=ROOT)
    assert "<string>:3: UserWarning: Write it again." in long.stderr
