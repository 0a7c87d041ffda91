import time

import pytest
from photochrom.pipelines.address import hide_secrets, is_url, parse_http, without_secrets
from photochrom.pipelines.remote import check_local, open_folder


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://me:pw@host:8/a.tar?token=secret#x", "https://host:8/a.tar"),
        ("http://me:p@w@host/a b.tar?x y", "http://host/a b.tar"),
        ("https://me:my pass@[::1]:8/a.tar", "https://[::1]:8/a.tar"),
        ("https://me:half/a@host/a.tar", "https://..."),
        ("https://me:half?a@host/a.tar", "https://..."),
        ("https://me:12/34@host/a.tar", "https://..."),  # a number is no port if an @ follows
        ("https://me:12#34@host/a.tar", "https://..."),
        ("http://host:80/a@b.tar", "http://..."),
        ("http://host/a@b.tar", "http://host/a@b.tar"),
        ("s3://key:secret@bucket/a?X-Amz-Signature=1", "s3://bucket/a"),
        ("s3:/key:secret@bucket/a", "s3:/bucket/a"),  # as pathlib writes it
        ("https://cloud.example.org/s/Xk29fjDDk2kfa2w/download", "https://cloud.example.org/s/.../download"),
        ("some/folder?x", "some/folder?x"),
        ("C:\\me:pw@x?y", "C:\\me:pw@x?y"),
    ],
)
def test_secrets_of_an_address_are_not_shown(address: str, shown: str) -> None:
    assert without_secrets(address) == shown


def test_secrets_in_a_text_are_not_shown() -> None:
    text = "--data.train=[s3://k:s@b/x,s3://k:s@b/y] at http://me:pw@host/a?sig=1 and http://[::1]:8000  here: a?b"
    assert hide_secrets("at http://me:pw@host/a?sig=1 and http://[::1]:8000  here: a?b") == (
        "at http://host/a and http://[::1]:8000  here: a?b"
    )
    assert "k:s" not in hide_secrets(text.split()[0])


def test_long_texts_are_searched_for_secrets_in_time() -> None:
    for text in ("a." * 100_000, "https://host/" + "a." * 100_000):
        started = time.process_time()
        assert hide_secrets(text) == text
        assert time.process_time() - started < 2


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("HTTP://host/a", "http://host/a"),
        ("https://münchen.example:8/ü?q=a b#c", "https://xn--mnchen-3ya.example:8/%C3%BC?q=a%20b"),
        ("http://[::1]:8/a+b,c=d;e~f'(g)*!$&@:h/%41", "http://[::1]:8/a+b,c=d;e~f'(g)*!$&@:h/%41"),
        ("http://host/caf\udce9%", "http://host/caf%E9%25"),
    ],
)
def test_addresses_are_quoted(address: str, url: str) -> None:
    assert is_url(address)
    assert parse_http(address) == (url, {})


@pytest.mark.parametrize(
    "address",
    [
        *("http://", "http:///a", "http://me:secret@", "http://[::1", "http://me:secret@h:99999/", "http://host:x/"),
        *("http://me:sec/ret@host/", "http://me:secret@a..b/", "http://me:secret@a\u2100b/", "http://ho st/"),
    ],
)
def test_what_is_not_an_address_is_said_without_its_secrets(address: str) -> None:
    with pytest.raises(ValueError, match=r"^http://\S* is not an address|^http://ho st/ is not an address") as caught:
        parse_http(address)
    assert "sec" not in str(caught.value)


@pytest.mark.parametrize("address", ["s3://key:secret@bucket/a", "s3://bucket/a?sig=secret", "https://h/a?secret"])
def test_object_stores_take_credentials_from_the_environment(address: str) -> None:
    with pytest.raises(ValueError, match=r"takes no user, password or query.*AWS_ACCESS_KEY_ID") as caught:
        open_folder(address)
    assert "secret" not in str(caught.value)


def test_addresses_that_were_parsed_as_paths_are_shown_without_secrets() -> None:
    with pytest.raises(ValueError, match=r"OUT s3:/bucket/a is not a folder"):
        check_local("s3:/key:secret@bucket/a", "OUT")  # type: ignore[arg-type]
