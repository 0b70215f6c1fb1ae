"""The command line as a whole: help without torch, errors without traceback, exit status."""

import subprocess
import sys

import pytest

import anyshot
from anyshot.cli import build_parser, main
from anyshot.commands.predict import class_names
from anyshot.errors import ConfigError

COMMANDS = ("predict", "novel", "check-data", "import-weights", "export", "compare", "imagenet-head")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"anyshot {anyshot.__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    said = capsys.readouterr().out
    assert f"anyshot {command} " in said
    assert "examples:" in said
    with pytest.raises(SystemExit):
        main(["--help"])
    assert command in capsys.readouterr().out


def test_help_needs_no_torch() -> None:
    program = (
        "import sys, anyshot.cli; anyshot.cli.build_parser().format_help(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["paint"],
        ["predict"],
        ["predict", "--model", "m", "--images", "i", "--output", "o", "--scales", "1,x"],
        ["predict", "--model", "m", "--images", "i", "--output", "o", "--scales", "0"],
        ["predict", "--model", "m", "--images", "i", "--output", "o", "--tile", "0"],
        ["predict", "--model", "m", "--images", "i", "--output", "o", "--tile", "3"],
        ["export", "--model", "m", "--output", "o", "--size", "12"],
        ["import-weights", "raml", "file", "--kind", "classifier", "--output", "o"],
    ],
)
def test_wrong_words_end_with_status_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_interrupt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(arguments: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("anyshot.commands.compare.run", interrupted)
    assert main(["compare", "a", "b"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_class_names_may_hold_commas() -> None:
    known = ["cat", "dog", "bed, double"]
    assert class_names(["dog,cat", "bed, double"], known) == ["dog", "cat", "bed, double"]
    assert class_names([" dog , dog"], known) == ["dog"]
    with pytest.raises(ConfigError, match="empty"):
        class_names([","], known)


def test_all_commands_say_how_they_are_run() -> None:
    for command in COMMANDS:
        assert command in build_parser().format_help()
