"""How refusals are shown, and files that are no app files at all. Single mistakes: test_quality.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from miniorch.appfile.read import read_app_files
from miniorch.errors import AppFileError

W = "services:\n  web:\n    image: nginx\n"


def refused(folder: Path, text: str | bytes) -> AppFileError:
    path = folder / "app.yml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(AppFileError) as caught:
        read_app_files([str(path)], {})
    return caught.value


def test_the_line_and_a_caret_are_shown_with_the_nearest_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("app.yml").write_text(W + "    port: ['80:80']\n")
    with pytest.raises(AppFileError) as caught:
        read_app_files(["app.yml"], {})
    assert caught.value.message.splitlines() == [
        'service web has no key "port"',
        "  --> app.yml:4:5",
        "4 |     port: ['80:80']",
        '  |     ^^^^ did you mean "ports"?',
    ]
    assert caught.value.remedy == 'write "ports:" instead'


def test_independent_errors_are_shown_together_in_the_files_order_and_ten_at_most(tmp_path: Path) -> None:
    many = "services:\n" + "".join(f"  s{number}: {{image: x, bad: 1}}\n" for number in range(14))
    message = refused(tmp_path, many).message
    assert message.count("has no key") == 10
    assert message.startswith('service s0 has no key "bad"')
    assert 'error[E0102]: service s9 has no key "bad"' in message
    assert message.splitlines()[-1].endswith("app.yml, 4 of them not shown")


def test_an_empty_file_among_several_and_the_include_that_is_too_much_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.yml").write_text("# later\n")
    for number in range(60):
        Path(f"i{number}.yml").write_text(f"services: {{s{number}: {{image: x}}}}\n")
    Path("app.yml").write_text("include:\n" + "".join(f"  - i{number}.yml\n" for number in range(60)) + W)
    for paths, words in (
        (["i0.yml", "empty.yml"], "the file is empty\n  --> empty.yml"),
        (["app.yml"], "the app comes to more than 50 files\n  --> app.yml:51:5\n51 |   - i49.yml\n"),
    ):
        with pytest.raises(AppFileError) as caught:
            read_app_files(paths, {})
        assert caught.value.message.startswith(words)


def test_what_is_wrong_in_a_service_that_others_extend_is_said_once(tmp_path: Path) -> None:
    base = "services:\n  a: {image: x, cpus: many, depends_on: [none]}\n"
    error = refused(tmp_path, base + "  b: {extends: a}\n  c: {extends: b}\n")
    assert [one["code"] for one in error.details] == ["E0104", "E0106"]


def test_a_network_that_is_not_declared_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    base = "services:\n  a: {image: x, networks: [frnt]}\n  b: {image: x, networks: {back: {aliases: [c]}}}\n"
    error = refused(tmp_path, base + "networks: {front: }\n")
    assert [one["code"] for one in error.details] == ["E0106", "E0106"]
    assert "service a is on network frnt, which the file does not declare" in error.message
    assert "write front" in error.message


def test_a_network_is_internal_or_not(tmp_path: Path) -> None:
    for given in ("maybe", "2", "[true]", "{}"):
        error = refused(tmp_path, f"services:\n  a: {{image: x}}\nnetworks:\n  back: {{internal: {given}}}\n")
        assert error.message.startswith("network back: internal wants true or false"), error.message
        assert "app.yml:4:20" in error.message


def test_a_second_key_names_the_place_of_the_first(tmp_path: Path) -> None:
    assert "app.yml:3:5 came first" in refused(tmp_path, W + "    image: apache\n").message


def test_what_is_no_file_or_no_text_is_refused(tmp_path: Path) -> None:
    for path, words in ((tmp_path / "none.yml", "there is no file"), (tmp_path, "is a folder")):
        with pytest.raises(AppFileError, match=words):
            read_app_files([str(path)], {})
    assert "not a text in UTF-8" in refused(tmp_path, b"services: \xff\n").message
    assert refused(tmp_path, "services:".encode("utf-16")).remedy.startswith("iconv -f utf-16 -t utf-8 ")
    (tmp_path / "compose.yml").write_text(W)
    with pytest.raises(AppFileError) as caught:
        read_app_files([str(tmp_path)], {})
    assert caught.value.remedy == f"name the file in it: {tmp_path}/compose.yml"
    assert "character U+0001 is not allowed" in refused(tmp_path, b"services: \x01\n").message
    assert "a key holds a zero byte" in refused(tmp_path, W + '    environment: {"\\0": 1}\n').message
    assert "more than 1000000 bytes" in refused(tmp_path, "#" * 1_000_001).message
