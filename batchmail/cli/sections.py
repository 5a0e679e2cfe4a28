"""The text of a configuration, taken apart so that one peer's part can be read without the others'.

A site may have ten thousand peers, and a call is with one of them: parsing all
would be most of what an answered call costs.  TOML has no line that begins
with a bracket and is no table's head, but inside of strings of several lines
and of arrays in arrays; a text with the former is left whole, and no key of
ours has the latter.
"""

import re

_HEAD = re.compile(r"^[ \t]*\[.*", re.MULTILINE)
_NAME = r"""(?:(?P<bare>[A-Za-z0-9_-]+)|"(?P<basic>[^"\\]*)"|'(?P<literal>[^']*)')"""
_PEER = re.compile(rf"[ \t]*\[[ \t]*peers[ \t]*\.[ \t]*{_NAME}[ \t]*[].]")


def apart(text: str) -> tuple[str, dict[str, str]]:
    """What is no single peer's, and the tables of each peer by its name in small letters."""
    if '"""' in text or "'''" in text:
        return text, {}
    heads = list(_HEAD.finditer(text))
    starts = [head.start() for head in heads] + [len(text)]
    common = [text[: starts[0]]]
    peers: dict[str, str] = {}
    for head, end in zip(heads, starts[1:], strict=True):
        tables = text[head.start() : end]
        found = _PEER.match(head[0])
        if found:
            name = next(name for name in found.groups() if name is not None).lower()
            peers[name] = peers.get(name, "") + tables
        else:
            common.append(tables)
    return "".join(common), peers
