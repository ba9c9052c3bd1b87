"""The values file of a rollout, and the command that is run after each change."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from k8s.cluster.values import Values, ValuesFile, image_values
from k8s.errors import NotHeld, Refused, Unavailable

DIGEST = f"sha256:{'1' * 64}"


def lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def file(tmp_path: Path, runs: Path) -> ValuesFile:
    return ValuesFile(tmp_path / "rollout.yaml", f"sh -c 'echo ran >> {runs}'", marked=True)


def weigh(canary: int) -> Values:
    return {"traffic": {"weights": {"stable": 100 - canary, "baseline": 0, "canary": canary}}}


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (f"registry.example:5000/a/b@{DIGEST}", {"repository": "registry.example:5000/a/b", "digest": DIGEST}),
        ("registry.example:5000/a/b:1.2", {"repository": "registry.example:5000/a/b", "digest": "", "tag": "1.2"}),
        ("b:dev", {"repository": "b", "digest": "", "tag": "dev"}),
    ],
)
def test_an_image_is_said_as_the_chart_takes_it(image: str, said: Values) -> None:
    assert image_values(image) == said


def test_what_others_say_in_the_file_is_refused_and_left_alone(file: ValuesFile) -> None:
    path = Path(str(file))
    for text, told in (
        ("replicas: 3\n", "has replicas:"),
        ("traffic: {timeout: 1s}\n", "has traffic.timeout:"),
        ("canary: 3\n", "has canary in"),
    ):
        path.write_text(text)
        with pytest.raises(Refused, match=f"{told}.*one more -f after yours|{told}"):
            file.change(lambda values: values.update(weigh(10)), again=True)
        assert path.read_text() == text
    path.write_text("a: [\n")
    with pytest.raises(Refused, match="cannot be read"):
        file.read()


def test_what_has_been_said_stays_and_the_file_says_whose_it_is(file: ValuesFile) -> None:
    file.change(lambda values: values.update(image={"repository": "r", "digest": DIGEST}), again=True)
    file.change(lambda values: values.update(weigh(10)), again=True)
    assert file.read() == weigh(10) | {"image": {"repository": "r", "digest": DIGEST}, "rollout": {"change": file.mark}}
    text = Path(str(file)).read_text()
    assert text.startswith("# Written by `pilotage rollout`")
    assert yaml.safe_load(text) == file.read()


def test_each_change_has_a_mark_of_its_own_and_no_change_has_none(file: ValuesFile) -> None:
    marks = [file.mark]
    for canary in (10, 20, 10, 20):
        file.change(lambda values, canary=canary: values.update(weigh(canary)), again=False)  # type: ignore[misc]
        marks.append(file.mark)
        file.change(lambda values, canary=canary: values.update(weigh(canary)), again=False)  # type: ignore[misc]
        assert file.mark == marks[-1]
    assert len(set(marks)) == 5


def test_the_command_runs_once_a_change_once_an_engine_and_again_when_asked(file: ValuesFile, runs: Path) -> None:
    for _ in range(3):
        file.change(lambda values: values.update(weigh(10)), again=False)
    assert lines(runs) == 1
    file.change(lambda values: None, again=True)
    assert lines(runs) == 2
    another = ValuesFile(Path(str(file)), file._command, marked=True)  # knows nothing of how far the first one came
    for _ in range(2):
        another.change(lambda values: values.update(weigh(10)), again=False)
    assert lines(runs) == 3


def test_a_command_that_failed_is_run_again_with_the_change_already_written(tmp_path: Path, runs: Path) -> None:
    file = ValuesFile(tmp_path / "rollout.yaml", f"sh -c 'echo told; echo ran >> {runs}; test $(wc -l < {runs}) -gt 1'", marked=True)
    with pytest.raises(Unavailable, match="ended with 1: told"):
        file.change(lambda values: values.update(weigh(10)), again=False)
    mark = file.mark
    file.change(lambda values: values.update(weigh(10)), again=False)
    assert (lines(runs), file.mark) == (2, mark)


def test_a_command_that_is_not_there_may_come(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="No such file"):
        ValuesFile(tmp_path / "rollout.yaml", "/nowhere/push").change(lambda values: None, again=True)


def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("no folder")
    with pytest.raises(Refused, match=r"cannot be (read|written)"):
        ValuesFile(tmp_path / "folder" / "rollout.yaml").change(lambda values: values.update(weigh(10)), again=True)


def test_the_lease_is_kept_while_the_command_runs_and_its_loss_ends_the_command(
    tmp_path: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("k8s.cluster.values.BREATH_S", 0.05)
    file = ValuesFile(tmp_path / "rollout.yaml", f"sh -c 'while test ! -e {tmp_path}/enough; do sleep 0.01; done; echo ran >> {runs}'")
    breaths: list[int] = []

    def breathe() -> None:
        breaths.append(len(breaths))
        if len(breaths) == 3:
            raise NotHeld("another engine has it")

    file.meanwhile = breathe
    with pytest.raises(NotHeld):
        file.change(lambda values: None, again=True)
    assert breaths == [0, 1, 2]
    (tmp_path / "enough").touch()
    file.meanwhile = lambda: None
    file.change(lambda values: None, again=True)
    assert lines(runs) == 1, "the first one was ended"


def test_a_command_that_does_not_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("k8s.cluster.values.BREATH_S", 0.02)
    monkeypatch.setattr("k8s.cluster.values.COMMAND_LIMIT_S", 0.1)
    with pytest.raises(Unavailable, match=r"did not end within 0\.1 s"):
        ValuesFile(tmp_path / "rollout.yaml", "sleep 600").change(lambda values: None, again=True)
