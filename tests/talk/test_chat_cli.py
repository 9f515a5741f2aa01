"""`pkedit chat` and `pkedit serve` take the options that all commands share, under the same headings."""

import inspect
from typing import Any, get_args

import pytest

from pkedit import options
from pkedit.cli import SHIP, app

COMMANDS = {command.name: command for command in app.registered_commands}


@pytest.mark.parametrize("command", ["chat", "serve"])
def test_they_stand_with_what_ships_and_tries_an_edit(command: str) -> None:
    assert COMMANDS[command].rich_help_panel == SHIP


@pytest.mark.parametrize("command", ["chat", "serve"])
@pytest.mark.parametrize(
    ("name", "shared"),
    [
        ("device", options.Device),
        ("chat_template", options.ChatTemplate),
        ("trust_remote_code", options.TrustRemoteCode),
        ("verbose", options.Verbose),
    ],
)
def test_an_option_that_others_have_is_theirs(command: str, name: str, shared: Any) -> None:
    called = COMMANDS[command].callback
    assert called is not None
    assert get_args(inspect.signature(called).parameters[name].annotation)[1] is get_args(shared)[1]
