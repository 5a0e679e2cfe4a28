"""What `batchmail check` asks of targets and of the list of valid recipients."""

import os
import socket

import pytest

from batchmail.flow import checkup
from batchmail.flow.checkup import check_list, check_targets
from tests.sites import make_site


def test_a_target_that_accepts_and_is_silent_is_not_waited_for(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkup, "PROBE_S", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        target = f"smtp://127.0.0.1:{silent.getsockname()[1]}"
        site = make_site(f"{tmp_path}/mx", "mx.example", "home", target=target).context.site
        (found,) = check_targets(site)
    assert "no answer in time" in found.problem


def test_a_directory_that_is_not_there(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    path = f"{tmp_path}/none/drop"
    site = make_site(f"{tmp_path}/mx", "mx.example", "home", target=f"bsmtp:{path}").context.site
    assert [found.problem for found in check_targets(site)] == [""]  # it is made, and what is missing above it
    monkeypatch.setattr(checkup.os, "access", lambda *_: False)
    monkeypatch.setattr(checkup, "user_name", lambda _: "ann")
    assert [found.problem for found in check_targets(site)] == [
        f"{path} is not there; ann cannot make it in {tmp_path}"
    ]
    os.makedirs(path)
    assert [found.problem for found in check_targets(site)] == [f"ann cannot write into {path}"]


def test_the_list_is_read_and_a_bad_line_has_its_number(tmp_path: object) -> None:
    path = f"{tmp_path}/list"
    site = make_site(f"{tmp_path}/mx", "mx.example", "home", valid_recipients_file=path)
    (found,) = check_list(site.context.peer)
    assert f"cannot read {path}: No such file" in found.problem
    with open(path, "w", encoding="ascii") as file:
        file.write("# who is here\n\na@home.example\nb@home.example OK\n")
    (found,) = check_list(site.context.peer)
    assert (found.problem, found.subject) == ("", f"valid recipients for home in {path}: 2")
    with open(path, "a", encoding="ascii") as file:
        file.write("nobody\nc@home.example\n")
    (found,) = check_list(site.context.peer)
    assert f"{path}, line 5: 'nobody' is neither" in found.problem and path not in found.subject
    os.remove(path)
