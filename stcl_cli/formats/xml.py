"""XML that strangers wrote."""

from __future__ import annotations

import os
from collections.abc import Callable
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from stcl_cli.errors import StclError
from stcl_cli.wording import shown


def read_xml(path: str | os.PathLike[str], finished: Callable[[Element], None] | None = None) -> Element:
    """The root element of an XML file.

    A document type declaration is refused: no annotation tool writes one, and with the entities and default
    attributes in it a file of a kilobyte can fill the memory (billion laughs) or name files of this machine.

    Args:
        finished: called with each element that has ended; it may clear the element, so that a long file needs little
            memory.

    Raises:
        StclError: missing, unreadable, no XML, or with a document type declaration.
    """
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.CharacterDataHandler = builder.data

    def end(tag: str) -> None:
        element = builder.end(tag)
        if finished:
            finished(element)

    def refuse(*_: object) -> None:
        raise StclError(
            f"{shown(path)} line {parser.CurrentLineNumber}: has a document type declaration (<!DOCTYPE>), "
            "which can do harm; take it out"
        )

    parser.EndElementHandler = end
    parser.StartDoctypeDeclHandler = refuse
    try:
        with open(path, "rb") as file:
            parser.ParseFile(file)
    except OSError as error:
        raise StclError(f"{shown(path)}: cannot be read ({error.strerror}); check the path") from error
    except (expat.ExpatError, LookupError, ValueError) as error:  # the last two: encodings that nobody knows
        raise StclError(
            f"{shown(path)} line {parser.CurrentLineNumber}: is not XML ({error}); correct it or export it anew"
        ) from error
    return builder.close()
