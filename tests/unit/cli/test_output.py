"""Tables in pipes, on narrow terminals, and with colours."""

from __future__ import annotations

from fake_api import Cli, FakeApi, a_task

from miniorch.cli.output import ago, layout

HEAD = ("NAME", "STATE", "IMAGE", "MESSAGE")
ROWS = [
    ("running/web.1", "running", "web:1", ""),
    ("shop/web.2", "failed", "registry/web:12", "the health check failed three times in a row"),
]


def test_in_a_pipe_every_row_is_one_aligned_line_and_nothing_is_cut() -> None:
    assert layout(HEAD, ROWS, None, False) == [
        "NAME           STATE    IMAGE            MESSAGE",
        "running/web.1  running  web:1",
        "shop/web.2     failed   registry/web:12  the health check failed three times in a row",
    ]


def test_on_a_narrow_terminal_the_last_columns_stand_below_their_row_and_nothing_is_lost() -> None:
    assert layout(HEAD, ROWS, 40, False) == [
        "NAME           STATE    IMAGE",
        "running/web.1  running  web:1",
        "shop/web.2     failed   registry/web:12",
        "    message: the health check failed",
        "    three times in a row",
    ]
    narrow = layout(HEAD, ROWS, 24, False)
    assert narrow[:3] == ["NAME           STATE", "running/web.1  running", "    image: web:1"]
    assert max(map(len, narrow)) <= 24


def test_a_table_that_fits_is_the_same_on_a_terminal() -> None:
    assert layout(HEAD, ROWS, 100, False) == layout(HEAD, ROWS, None, False)


def test_a_colour_repeats_a_state_and_moves_no_column() -> None:
    lines = layout(HEAD, ROWS, None, True)
    assert lines[1] == "running/web.1  \x1b[32mrunning\x1b[0m  web:1"
    assert lines[2].startswith("shop/web.2     \x1b[31mfailed\x1b[0m   registry")


def test_no_color_wins_over_force_color_and_a_pipe_has_none_by_itself(api: FakeApi, cli: Cli) -> None:
    api.lists["tasks"] = [a_task(1)]
    assert "\x1b" not in cli("ps").stdout
    assert "\x1b[32mrunning" in cli("ps", env={"FORCE_COLOR": "1"}).stdout
    assert "\x1b" not in cli("ps", env={"FORCE_COLOR": "1", "NO_COLOR": "1"}).stdout


def test_a_duration_is_told_in_its_largest_unit() -> None:
    assert [ago(seconds) for seconds in (-1, 59, 60, 7199, 7200, 172799, 172800)] == [
        "0s", "59s", "1m", "119m", "2h", "47h", "2d",
    ]  # fmt: skip
