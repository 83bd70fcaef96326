"""Makes docs/reference/api.md from the protos and their comments.

python tools/api_reference.py           makes it
python tools/api_reference.py --check   fails if it is not what would be made
"""

import argparse
import sys
from collections.abc import Iterator, Sequence

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    MethodDescriptorProto,
    MethodOptions,
    ServiceDescriptorProto,
)

from protos import ROOT, descriptors

PAGE = ROOT / "docs" / "reference" / "api.md"
PACKAGE = ".treering.v1."

ORDER = ("event_store_service", "event", "query", "stream_service", "failure")
"""Files in the order of reading. Any other comes after them."""

NOT_YET_SERVED = {"ConsumerGroupService"}

INTRODUCTION = """\
<!-- Made from the protos by tools/api_reference.py. Change those, then run `make protos`. -->

# The API

Package `treering.v1`, as `protos/treering/v1` defines it. Every field that is not marked
otherwise has proto3's default when it is left out: 0, empty, false. A field's number stands
before its name.
"""

Path = tuple[int, ...]
"""Where something stands in a file, in the way of `SourceCodeInfo`: field numbers of the
descriptor messages, and indexes."""

FILE_MESSAGES = FileDescriptorProto.MESSAGE_TYPE_FIELD_NUMBER
FILE_ENUMS = FileDescriptorProto.ENUM_TYPE_FIELD_NUMBER
FILE_SERVICES = FileDescriptorProto.SERVICE_FIELD_NUMBER
SERVICE_METHODS = ServiceDescriptorProto.METHOD_FIELD_NUMBER
MESSAGE_FIELDS = DescriptorProto.FIELD_FIELD_NUMBER
MESSAGE_MESSAGES = DescriptorProto.NESTED_TYPE_FIELD_NUMBER
MESSAGE_ENUMS = DescriptorProto.ENUM_TYPE_FIELD_NUMBER
MESSAGE_ONEOFS = DescriptorProto.ONEOF_DECL_FIELD_NUMBER
ENUM_VALUES = EnumDescriptorProto.VALUE_FIELD_NUMBER


class FilePages:
    """Writes what one file defines."""

    def __init__(self, file: FileDescriptorProto) -> None:
        self._file = file
        self._comments = {
            tuple(location.path): location.leading_comments
            for location in file.source_code_info.location
        }

    def services(self) -> Iterator[str]:
        """Each service with its methods."""
        for index, service in enumerate(self._file.service):
            path = (FILE_SERVICES, index)
            yield f"## {service.name}"
            if service.name in NOT_YET_SERVED:
                yield "*Settled, but not served yet.*"
            yield from self._paragraphs(path)
            for number, method in enumerate(service.method):
                yield f"### {service.name}.{method.name}"
                yield signature(method)
                yield from self._paragraphs((*path, SERVICE_METHODS, number))
                if method.options.idempotency_level == MethodOptions.NO_SIDE_EFFECTS:
                    yield "Has no side effects."

    def types(self) -> Iterator[str]:
        """Each message and enum."""
        if self._file.message_type or self._file.enum_type:
            yield f"## {self._file.name.rpartition('/')[2]}"
        for index, message in enumerate(self._file.message_type):
            yield from self._message(message, (FILE_MESSAGES, index), message.name)
        for index, enum in enumerate(self._file.enum_type):
            yield from self._enum(enum, (FILE_ENUMS, index), enum.name)

    def _message(self, message: DescriptorProto, path: Path, name: str) -> Iterator[str]:
        yield f"### {name}"
        yield from self._paragraphs(path)
        entries = {
            f"{PACKAGE}{name}.{nested.name}": nested
            for nested in message.nested_type
            if nested.options.map_entry
        }
        rows = []
        oneof = None
        for index, field in enumerate(message.field):
            is_choice = field.HasField("oneof_index") and not field.proto3_optional
            if is_choice and oneof != field.oneof_index:
                oneof = field.oneof_index
                comment = self._line((*path, MESSAGE_ONEOFS, oneof))
                rows.append(("", f"*one of* `{message.oneof_decl[oneof].name}`", "", comment))
            comment = self._line((*path, MESSAGE_FIELDS, index))
            indent = "&emsp;" if is_choice else ""
            rows.append(
                (str(field.number), f"{indent}`{field.name}`", type_of(field, entries), comment)
            )
        if rows:
            yield table(("", "field", "type", "meaning"), rows)
        else:
            yield "No fields."
        for reserved in message.reserved_range:
            yield f"Numbers {reserved.start} to {reserved.end - 1} are reserved."
        for index, nested in enumerate(message.nested_type):
            if not nested.options.map_entry:
                nested_path = (*path, MESSAGE_MESSAGES, index)
                yield from self._message(nested, nested_path, f"{name}.{nested.name}")
        for index, enum in enumerate(message.enum_type):
            yield from self._enum(enum, (*path, MESSAGE_ENUMS, index), f"{name}.{enum.name}")

    def _enum(self, enum: EnumDescriptorProto, path: Path, name: str) -> Iterator[str]:
        yield f"### {name}"
        yield from self._paragraphs(path)
        rows = [
            (str(value.number), f"`{value.name}`", self._line((*path, ENUM_VALUES, index)))
            for index, value in enumerate(enum.value)
        ]
        yield table(("", "value", "meaning"), rows)

    def _paragraphs(self, path: Path) -> Iterator[str]:
        """The comment of something, as it is to be read on its own."""
        text = "\n".join(line.strip() for line in self._comments.get(path, "").splitlines())
        for paragraph in text.strip().split("\n\n"):
            if paragraph:
                yield escaped(paragraph)

    def _line(self, path: Path) -> str:
        """The comment of something, in a table."""
        return " ".join(self._paragraphs(path)).replace("\n", " ").replace("|", "\\|")


def signature(method: MethodDescriptorProto) -> str:
    """What goes into a method and what comes out."""
    request = ("a stream of " if method.client_streaming else "") + link(method.input_type)
    response = ("a stream of " if method.server_streaming else "") + link(method.output_type)
    return f"{request} → {response}"


def type_of(field: FieldDescriptorProto, entries: dict[str, DescriptorProto]) -> str:
    """Type of a field, as the proto file says it. `entries` are the types of its maps."""
    if field.type_name in entries:
        key, value = entries[field.type_name].field
        return f"map of {type_of(key, {})} to {type_of(value, {})}"
    if field.type_name:
        name = link(field.type_name)
    else:
        name = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return f"repeated {name}"
    return f"optional {name}" if field.proto3_optional else name


def link(type_name: str) -> str:
    """A type, with a link to it if it is ours."""
    if not type_name.startswith(PACKAGE):
        return type_name.removeprefix(".")
    name = type_name.removeprefix(PACKAGE)
    return f"[{name}](#{name.replace('.', '').lower()})"


def escaped(text: str) -> str:
    """A comment, in which nothing means anything to Markdown."""
    return text.replace("*", "\\*").replace("<", "&lt;")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def place(file: FileDescriptorProto) -> int:
    """Where a file stands on the page."""
    name = file.name.rpartition("/")[2].removesuffix(".proto")
    return ORDER.index(name) if name in ORDER else len(ORDER)


def page() -> str:
    """The whole page."""
    # The compiler puts in what our files import, too.
    files = [
        FilePages(file)
        for file in sorted(descriptors().file, key=place)
        if file.package == "treering.v1"
    ]
    blocks = [INTRODUCTION.strip()]
    for file in files:
        blocks += file.services()
    for file in files:
        blocks += file.types()
    return "\n\n".join(blocks) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Makes or checks the page."""
    parser = argparse.ArgumentParser(description="Makes the API reference from the protos.")
    parser.add_argument("--check", action="store_true", help="only look whether it is right")
    options = parser.parse_args(arguments)
    wanted = page()
    if options.check:
        if PAGE.exists() and PAGE.read_text(encoding="utf-8") == wanted:
            return 0
        print(f"{PAGE.relative_to(ROOT)} is out of date. Run `make protos`.")
        return 1
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
