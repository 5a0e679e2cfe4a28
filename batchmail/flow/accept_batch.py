"""Accept the transactions of a BSMTP text.  Beside `flow.accept`, because the pipe door is seldom given one."""

from batchmail.core.bsmtp import Content, End, Reader, Start
from batchmail.flow.accept import CHUNK_OCTETS, Intake, Read


def read_batch(read: Read, intake: Intake) -> None:
    """Take the transactions of a BSMTP text, to its end."""
    reader = Reader()
    ended = False
    while not ended:
        data = read(CHUNK_OCTETS)
        ended = not data
        reader.receive(data)
        while (event := reader.next_event()) is not None:
            if isinstance(event, Start):
                intake.begin(event.envelope, reader.eol)
            elif isinstance(event, Content):
                intake.content(event.octets)
            elif isinstance(event, End):
                intake.end()
