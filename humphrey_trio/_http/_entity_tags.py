"""Entity tags (RFC 9110, section 8.8.3), and the lists of them in If-Match and If-None-Match."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

# The characters between the quotation marks (RFC 9110, section 8.8.3). A comma is one of them.
_OPAQUE = r"[\x21\x23-\x7e\x80-\xff]*"
_VALID_OPAQUE = re.compile(_OPAQUE)
_TAG = re.compile(rf'(?P<weak>W/)?"(?P<opaque>{_OPAQUE})"')
# A list may have empty members (RFC 9110, section 5.6.1.2). No repetition can match what the next part matches, so
# a match takes linear time.
_MEMBER = re.compile(rf"[ \t,]*(?:(?P<any>\*)|{_TAG.pattern})[ \t]*(?:,|\Z)")


@dataclass(frozen=True, slots=True)
class EntityTag:
    """An entity tag (RFC 9110, section 8.8.3). ``str(tag)`` is its form in a header field.

    Attributes:
        opaque: the text between the quotation marks.
        weak: whether representations with this tag are only equivalent, not equal in all bytes.

    Raises:
        ValueError: the text contains a quotation mark, white space, a control character, or a character outside
            latin-1.
    """

    opaque: str
    weak: bool = False

    def __post_init__(self) -> None:
        if not _VALID_OPAQUE.fullmatch(self.opaque):
            raise ValueError(
                f"{self.opaque!r} is not an entity tag: omit quotation marks, white space, control characters and"
                " characters outside latin-1"
            )

    def is_strongly_equal(self, other: EntityTag) -> bool:
        """Whether both are the same tag and neither is weak (strong comparison, RFC 9110, section 8.8.3.2)."""
        return not self.weak and not other.weak and self.opaque == other.opaque

    def __str__(self) -> str:
        return f'{"W/" if self.weak else ""}"{self.opaque}"'


@dataclass(frozen=True, slots=True)
class EntityTags:
    """The value of If-Match or If-None-Match (RFC 9110, sections 13.1.1 and 13.1.2).

    Attributes:
        tags: the listed tags.
        any: whether ``*`` is listed, which matches every existing representation.
    """

    tags: frozenset[EntityTag] = frozenset()
    any: bool = False

    def match_strongly(self, tag: EntityTag | None) -> bool:
        """Whether an existing representation is matched in strong comparison.

        Args:
            tag: the tag of the representation; None if it has none.
        """
        return self.any or (tag is not None and not tag.weak and tag in self.tags)

    def match_weakly(self, tag: EntityTag | None) -> bool:
        """Whether an existing representation is matched in weak comparison.

        Args:
            tag: the tag of the representation; None if it has none.
        """
        if self.any or tag is None:
            return self.any
        return EntityTag(tag.opaque) in self.tags or EntityTag(tag.opaque, weak=True) in self.tags


def parse_entity_tag(text: str) -> EntityTag | None:
    """Parse exactly one entity tag.

    Returns:
        The tag, or None if the text is anything else.
    """
    found = _TAG.fullmatch(text)
    return EntityTag(found["opaque"], weak=found["weak"] is not None) if found else None


def parse_entity_tags(values: Iterable[str]) -> EntityTags:
    """Parse the list of entity tags in the values of If-Match or If-None-Match.

    Args:
        values: the values of all field lines with the name.

    Returns:
        The list. A field line is read up to its first malformed member; the rest of it is ignored. So a malformed
        If-Match fails rather than passes. ``*`` is recognized beside other members, too.
    """
    members = [member for value in values for member in _members(value)]
    tags = frozenset(
        EntityTag(found["opaque"], weak=found["weak"] is not None) for found in members if not found["any"]
    )
    return EntityTags(tags, any=any(found["any"] for found in members))


def _members(value: str) -> Iterator[re.Match[str]]:
    at = 0
    while found := _MEMBER.match(value, at):
        yield found
        at = found.end()
