import shutil

import pytest

from batchmail.core.errors import ConfigError, LineError
from batchmail.wire.command import connect_command
from tests.servers.host import Unavailable, open_directory
from tests.servers.sshd import Sshd, quote


def test_the_program_is_the_other_end():
    stream = connect_command("cat")
    stream.write(b"there and back\0")
    assert stream.read(15) == b"there and back\0"
    stream.close()


def test_no_shell_sees_the_command():
    stream = connect_command("printf '%s|' $HOME ';' \"a b\"")
    data = b""
    while more := stream.read(100):
        data += more
    stream.close()
    assert data == b"$HOME|;|a b|"


def test_a_program_that_fails_is_heard():
    stream = connect_command("sh -c 'echo \"no \033[31mroute\" >&2; exit 3'")
    assert stream.read(1) == b""
    assert stream.exit_status() == 3
    assert stream.diagnostics() == "no ?[31mroute"
    stream.close()


@pytest.mark.parametrize("command", ["", "  ", "ssh 'unfinished"])
def test_a_command_that_is_none(command):
    with pytest.raises(ConfigError, match="command"):
        connect_command(command)


def test_a_program_that_is_missing():
    with pytest.raises(LineError, match="cannot start /nonexistent/ssh: No such file or directory"):
        connect_command("/nonexistent/ssh mx")


@pytest.mark.real
@pytest.mark.skipif(not shutil.which("ssh"), reason="no ssh")
def test_openssh_as_the_command():
    with open_directory() as directory:
        try:
            server = Sshd(directory)
        except Unavailable as why:
            pytest.skip(str(why))
        identity = server.make_key("id")
        server.authorize(f"{identity}.pub", "cat")
        with server:
            stream = connect_command(quote(server.client(identity)) + " batchmail-receive")
            stream.write(b"over ssh")
            assert stream.read(8) == b"over ssh"
            stream.close()
            refused = connect_command(quote(server.client(server.make_key("stranger"))))
            assert refused.read(1) == b""
            assert "Permission denied" in refused.diagnostics()
            assert refused.exit_status() == 255
            refused.close()
