"""Words for people about the other end, and the other end's own words, made safe to show."""


def address_text(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def reason(error: BaseException | None) -> str:
    """The error's words, ready to stand behind a sentence.  They may quote the other end."""
    if isinstance(error, TimeoutError):
        return ": no answer in time"
    words = (isinstance(error, OSError) and error.strerror) or str(error or "")
    return ": " + " ".join(printable(words.encode(errors="replace")).split()) if words else ": the other end hung up"


def printable(data: bytes) -> str:
    """Text of unknown origin, made safe for a terminal and a log."""
    text = data.decode(errors="replace").strip()
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


def name_peer(text: str, peer: str) -> str:
    """What is said by code that does not know how the peer is called."""
    return text.replace("batchmail key PEER", f"batchmail key {peer}")
