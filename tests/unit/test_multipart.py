"""The splitter gets bytes cut anywhere and must give back exactly the parts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_ext.clients.multipart import boundary_of, split_parts
from fhir_ext.errors import RefusedInput, UpstreamUnavailable

BOUNDARY = b"3b9f-42"
LIMIT = 4 * 1024 * 1024


def encode(parts: list[bytes], *, with_length: bool = True, preamble: bytes = b"") -> bytes:
    body = preamble
    for index, part in enumerate(parts):
        body += (b"\r\n" if index or preamble else b"") + b"--" + BOUNDARY + b"\r\n"
        body += b"Content-Type: application/dicom\r\n"
        body += f"Content-Length: {len(part)}\r\n".encode() if with_length else b""
        body += b"\r\n" + part
    return body + b"\r\n--" + BOUNDARY + b"--\r\n"


def chunked(body: bytes, size: int) -> Iterator[bytes]:
    return (body[start : start + size] for start in range(0, len(body), size))


def split(body: bytes, size: int = 7, limit: int = LIMIT) -> list[bytes]:
    return [bytes(part) for part in split_parts(chunked(body, size), BOUNDARY, limit)]


#: Bodies full of things that look like boundaries.
hostile = st.lists(
    st.sampled_from(
        [b"\r\n--3b9f-4", b"\r\n--", b"--", b"\r", b"\n", b"x", b"3b9f-42", b"\r\n\r\n"]
    ),
    max_size=12,
).map(b"".join)


@given(
    parts=st.lists(st.one_of(st.binary(max_size=300), hostile), max_size=5),
    size=st.integers(1, 400),
    with_length=st.booleans(),
    preamble=st.sampled_from([b"", b"This is a message.\r\n"]),
)
def test_parts_survive_any_cut(
    parts: list[bytes], size: int, with_length: bool, preamble: bytes
) -> None:
    parts = [part for part in parts if b"\r\n--" + BOUNDARY not in part]
    if not parts:
        return
    assert split(encode(parts, with_length=with_length, preamble=preamble), size) == parts


def test_part_with_length_may_contain_the_boundary() -> None:
    part = b"abc\r\n--" + BOUNDARY + b"\r\n\r\ndef"
    assert split(encode([part, b"next"])) == [part, b"next"]


def test_wrong_content_length_is_not_believed() -> None:
    for wrong in (b"0", b"2", b"5", b"1000000", b"x"):
        body = encode([b"abc", b"def"]).replace(b"Content-Length: 3", b"Content-Length: " + wrong)
        assert split(body) == [b"abc", b"def"]


def test_part_without_headers() -> None:
    body = b"--" + BOUNDARY + b"\r\n\r\nabc\r\n--" + BOUNDARY + b"--"
    assert split(body) == [b"abc"]


def test_empty_multipart() -> None:
    assert split(b"--" + BOUNDARY + b"--\r\n") == []


def test_padding_after_the_boundary() -> None:
    body = encode([b"abc"]).replace(BOUNDARY + b"\r\n", BOUNDARY + b" \t\r\n")
    assert split(body) == [b"abc"]


@given(kept=st.integers(0, 200), with_length=st.booleans())
def test_early_end_is_never_taken_for_the_end(kept: int, with_length: bool) -> None:
    whole = encode([b"a" * 50, b"b" * 50], with_length=with_length)
    closing = whole.rindex(b"--")
    body = whole[: min(kept, closing)]
    with pytest.raises(UpstreamUnavailable) as caught:
        split(body)
    assert caught.value.code == "connection-dropped"


def test_text_after_a_boundary_is_malformed() -> None:
    body = encode([b"abc", b"def"]).replace(
        b"\r\n--" + BOUNDARY + b"\r\n", b"\r\n--" + BOUNDARY + b"7\r\n"
    )
    with pytest.raises(UpstreamUnavailable) as caught:
        split(body)
    assert caught.value.code == "malformed-multipart"


@pytest.mark.parametrize("with_length", [True, False])
def test_oversized_part_is_refused_before_it_is_in_memory(with_length: bool) -> None:
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        head = encode([b""], with_length=False).split(b"\r\n\r\n")[0]
        yield head + (b"\r\nContent-Length: 99999999" if with_length else b"") + b"\r\n\r\n"
        while True:
            taken += 1000
            yield bytes(1000)

    with pytest.raises(RefusedInput) as caught:
        list(split_parts(endless(), BOUNDARY, 50_000))
    assert caught.value.code == "too-large"
    assert taken < 60_000


def test_endless_headers_are_refused() -> None:
    body = b"--" + BOUNDARY + b"\r\n" + b"X: y\r\n" * 10_000
    with pytest.raises(RefusedInput):
        split(body, 1000)


def test_large_parts_grow_the_buffer() -> None:
    parts = [bytes([index]) * (3 * 1024 * 1024) for index in range(3)]
    assert split(encode(parts), 100_000) == parts


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ('multipart/related; type="application/dicom"; boundary=abc', b"abc"),
        ('Multipart/Related; boundary="a b:c"; type="application/dicom"', b"a b:c"),
        ("application/dicom", None),
        ("multipart/related", None),
        ("", None),
    ],
)
def test_boundary_of_a_media_type(content_type: str, boundary: bytes | None) -> None:
    assert boundary_of(content_type) == boundary
