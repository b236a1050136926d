"""Wildcards in the patterns of routes and hosts."""

from __future__ import annotations

from itertools import product

import pytest

from humphrey_trio._wildcards import wildcard_match

MATCHES = [
    ("ab", "ab"),
    ("ab*", "ab"),
    ("*ab", "ab"),
    ("ab*", "abcd"),
    ("*cd", "abcd"),
    ("ab*ef", "abcdef"),
    ("ab*d", "abcd"),
    ("ab*ef", "abef"),
    ("*cd*", "cd"),
    ("*cd*", "abcd"),
    ("*cd*", "cdef"),
    ("*cd*", "abcdef"),
    ("*", "ab"),
    ("*", ""),
    ("", ""),
    # A matcher that gives up after the first failed try misses these.
    ("*aab", "aaab"),
    ("*aaab", "aaaab"),
    ("*abab", "ababab"),
    ("*ss", "sss"),
    ("*aa", "baaa"),
    ("*ab", "aab"),
    ("*abac", "abababac"),
    ("*sip*", "mississippi"),
    ("a*b*c", "abxbc"),
    # An asterisk in the text is a character like any other.
    ("*", "*"),
    ("/*", "/*"),
    ("/*", "/*abc"),
    ("/a*", "/a*c"),
    ("/*", "/a*b"),
    ("**", "abc"),
    ("a**b", "ab"),
    # Paths and hosts.
    ("/*", "/"),
    ("*", "/"),
    ("/blog/*", "/blog/"),
    ("/blog/*", "/blog/a/b"),
    ("/*/edit", "/a/b/edit"),
    ("*/edit", "/a/ed/edit"),
    ("*.example.com", "a.example.com"),
    ("localhost:*", "localhost:8080"),
    ("localhost*", "localhost"),
]

MISSES = [
    ("ab", "cd"),
    ("ab", "abcd"),
    ("*ab", "abc"),
    ("a*f", "abcd"),
    ("a*f", "cdef"),
    ("*issip*ss*", "mississippi"),
    ("ab*ba", "aba"),
    ("a?c", "abc"),
    ("a.c", "abc"),
    ("", "a"),
    ("/*", ""),
    ("/*", "*"),
    ("/blog/*", "/blog"),
    ("/BLOG", "/blog"),
    ("*.example.com", "example.com"),
    ("localhost", "localhost:8080"),
]


@pytest.mark.parametrize(("pattern", "text"), MATCHES)
def test_wildcard_matches(pattern: str, text: str) -> None:
    """A star matches any characters, including none and slashes."""
    assert wildcard_match(pattern, text)


@pytest.mark.parametrize(("pattern", "text"), MISSES)
def test_wildcard_misses(pattern: str, text: str) -> None:
    """The whole text has to match, letter case matters, and only the star is special."""
    assert not wildcard_match(pattern, text)


def oracle(pattern: str, text: str) -> bool:
    """The definition, by recursion."""
    if not pattern:
        return not text
    if pattern[0] == "*":
        return any(oracle(pattern[1:], text[taken:]) for taken in range(len(text) + 1))
    return text[:1] == pattern[0] and oracle(pattern[1:], text[1:])


def test_wildcards_agree_with_the_definition() -> None:
    """For every short pattern and text the result is that of the recursive definition."""
    patterns = ["".join(letters) for size in range(5) for letters in product("ab*", repeat=size)]
    texts = ["".join(letters) for size in range(7) for letters in product("ab*", repeat=size)]
    wrong = [
        (pattern, text)
        for pattern in patterns
        for text in texts
        if wildcard_match(pattern, text) != oracle(pattern, text)
    ]
    assert wrong == []


def test_adversarial_wildcards_are_fast() -> None:
    """A pattern that takes a backtracking matcher exponential time is matched at once."""
    assert not wildcard_match("*a" * 1_000 + "*b*a", "a" * 10_000)
