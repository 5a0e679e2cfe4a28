"""Lists of valid recipients: what an entry may look like, and which addresses it speaks for."""

import pytest

from batchmail.core import valid
from batchmail.core.valid import Terms

LIST = rb"""
# those who live here
ann@home.example
Bob.B@Home.example.   OK
"quoted blank"@home.example  anything
"needless"@home.example # he has left quotes behind
fred+news@home.example
@all.example
*@every.example

info@half.example
"""


def accepts(address: str, delimiters: str = "+", salt: str = "", text: bytes = LIST) -> bool:
    terms = Terms(salt, delimiters)
    words = valid.words_of(valid.read_lines(text.splitlines(keepends=True)))
    return valid.is_valid(terms, {valid.key_of(word, salt) for word in words}.__contains__, address.encode())


@pytest.mark.parametrize(
    "address",
    [
        "ann@home.example",
        "ANN@HOME.EXAMPLE",
        "ann@home.example.",
        '"ann"@home.example',
        r'"a\nn"@home.example',
        "bob.b@home.example",
        '"quoted blank"@home.example',
        '"Quoted\\ Blank"@home.example',
        "needless@home.example",
        "ann+list@home.example",
        "ann+list+more@home.example",
        "fred+news@home.example",
        "fred+news+late@home.example",
        "anybody@all.example",
        "anybody@every.example",
        "info@half.example",
        "postmaster@home.example",
        '"PostMaster"@half.example',
        "postmaster",
        "ann@below.home.example",  # of domains that the list does not name nothing is known
        "ann@other.example",
        "müller@other.example",
    ],
)
@pytest.mark.parametrize("salt", ["", "0123456789abcdef"])
def test_who_is_valid(address: str, salt: str) -> None:
    assert accepts(address, salt=salt)


@pytest.mark.parametrize(
    "address",
    [
        "carol@home.example",
        "carol+ann@home.example",
        "+ann@home.example",
        "fred@home.example",
        "ann-list@home.example",
        "müller@home.example",
        "ann@home.example@home.example",
        "ann@half.example",
        "*@half.example",
        '""@home.example',
    ],
)
@pytest.mark.parametrize("salt", ["", "0123456789abcdef"])
def test_who_is_not(address: str, salt: str) -> None:
    assert not accepts(address, salt=salt)


@pytest.mark.parametrize("entry", ["ann@b\u00fccher.example", "ann@xn--bcher-kva.example"])
def test_a_domain_by_its_letters_and_by_its_name_in_the_dns(entry: str) -> None:
    for domain in ("B\u00fccher.example", "XN--bcher-kva.example"):
        assert accepts(f"ann@{domain}", text=entry.encode())
        assert not accepts(f"bob@{domain}", text=entry.encode())


def test_delimiters_are_the_sites_own() -> None:
    assert accepts("ann-list@home.example", "-+") and accepts("ann+list@home.example", "-+")
    assert not accepts("ann+list@home.example", "")
    assert accepts("fred+news@home.example", "")


def test_a_local_part_of_delimiters_costs_few_lookups() -> None:
    asked: list[bytes] = []

    def has(key: bytes) -> bool:
        asked.append(key)
        return len(asked) == 1  # the domain

    assert not valid.is_valid(Terms("", "+"), has, b"+" * 900 + b"@a.b")
    assert 3 < len(asked) < 20


@pytest.mark.parametrize(
    "entry", ["ann", "a b@c.example", "<a@b>", "@", "*@", "a@", "@a@b", "ann@b c", "x" * 330 + "@a.b", "@a>b"]
)
def test_what_is_no_entry(entry: str) -> None:
    with pytest.raises(ValueError, match="is neither an address"):
        valid.words_of([entry.encode()])


def test_too_many_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(valid, "MAX_KEYS", 3)
    with pytest.raises(ValueError, match="more than 3"):
        valid.words_of(f"{n}@a.example".encode() for n in range(5))


def test_an_empty_list_refuses_nobody() -> None:
    assert accepts("carol@home.example", text=b"# nobody\n")


@pytest.mark.parametrize("value", ["@", '"', "\\", " ", "+" * 9, "ä", 1, None])
def test_what_are_no_delimiters(value: object) -> None:
    with pytest.raises(ValueError):
        valid.parse_delimiters(value)
