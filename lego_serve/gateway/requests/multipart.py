"""Reads multipart forms within limits, as browsers, libraries and SDKs write them.

A browser sends every field of a form: text left blank, and a file that was not chosen as one without a name and bytes.
Both are not given. SDKs write a list or an object as fields of their own, such as ``lora[][name]``.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from lego_serve.errors import RequestError, UnsupportedParameter
from lego_serve.gateway.errors import require_type
from lego_serve.gateway.requests.body_bytes import counted
from lego_serve.gateway.requests.complaints import printable_name, validation_error
from lego_serve.gateway.requests.json_body import bounded, refuse_repeated
from lego_serve.gateway.requests.nested_fields import LIST_FIELDS, join_nested, nested_name
from lego_serve.gateway.requests.schemas import REFUSED

Body = TypeVar("Body", bound=BaseModel)
CUT_OFF = "Cut off"


@dataclass(frozen=True, slots=True)
class FormLimits:
    """How many parts a form may have, and how long its texts may be."""

    files: int = 16
    fields: int = 64
    text_bytes: int = 64 * 1024

    def complaint(self, detail: str) -> RequestError:
        """Return the error that a message of the parser stands for; its beginning is the only sign of what is wrong."""
        known = {
            "Too many files": (f"The form has more than {self.files} files.", "form_too_large"),
            "Too many fields": (f"The form has more than {self.fields} fields.", "form_too_large"),
            "Part exceeded": (f"A text field of the form is longer than {self.text_bytes} bytes.", "form_too_large"),
            CUT_OFF: ("The form is cut off: its last boundary is missing.", "bad_request"),
        }
        unreadable = ("The form cannot be read.", "bad_request")
        message, code = next((said for start, said in known.items() if detail.startswith(start)), unreadable)
        return RequestError(message, code=code)


@asynccontextmanager
async def form_data(request: Request, limits: FormLimits) -> AsyncIterator[FormData]:
    """Yield the parts of a form; its files can be read within the block.

    Raises WrongMediaType, CapacityError, or RequestError that names the field or the exceeded limit.
    """
    require_type(request, "multipart/form-data")
    async with counted(request, request.app.state.body_bytes) as counting:
        data = await _parse(counting, limits)
        try:
            yield data
        finally:
            await data.close()


class _FormParser(MultiPartParser):
    """Starlette's parser, which by itself takes a form that is cut off for whole, and decodes text by any codec.

    Some codecs, such as punycode, take time with the square of the text.  Text that is not UTF-8 would become other
    text rather than an error.
    """

    is_whole = False

    def on_part_begin(self) -> None:
        """Decode this part, its name included, as UTF-8, whatever charset the form claims."""
        super().on_part_begin()
        self._charset = "utf-8"

    def on_part_end(self) -> None:
        """Take a part.  Raises RequestError for text that is not UTF-8."""
        try:
            self._current_part.data.decode()
        except UnicodeDecodeError:
            raise _not_text(printable_name(self._current_part.field_name)) from None
        super().on_part_end()

    def on_end(self) -> None:
        """Note that the last boundary was there."""
        self.is_whole = True


async def _parse(request: Request, limits: FormLimits) -> FormData:
    parser = _FormParser(
        request.headers,
        request.stream(),
        max_files=limits.files,
        max_fields=limits.fields,
        max_part_size=limits.text_bytes,
    )
    try:
        data = await parser.parse()
    except MultiPartException as error:
        raise limits.complaint(error.message) from None
    if parser.is_whole:
        return data
    await data.close()
    raise limits.complaint(CUT_OFF)


def _not_text(name: str | None) -> RequestError:
    what = "A text field of the form" if name is None else f"`{name}`"
    return RequestError(f"{what} is not text in UTF-8; a file needs a `filename`.", param=name)


@dataclass(frozen=True, slots=True)
class Form(Generic[Body]):
    """A form's text fields as a body, and its files by name."""

    body: Body
    files: Mapping[str, UploadFile]


@asynccontextmanager
async def read_form(request: Request, model: type[Body], file_names: Sequence[str]) -> AsyncIterator[Form[Body]]:
    """Yield the form of a request; its files can be read within the block.

    Raises WrongMediaType, CapacityError, or RequestError that names the field or the exceeded limit.
    """
    async with form_data(request, FormLimits()) as data:
        fields, files = split_form(data, model, file_names)
        try:
            body = model.model_validate(fields)
        except ValidationError as error:
            raise validation_error(error) from None
        yield Form(body, files)


def split_form(
    form: FormData, model: type[BaseModel], file_names: Sequence[str]
) -> tuple[dict[str, Any], dict[str, UploadFile]]:
    """Return the text fields and the files of these names, each given at most once.  Raises RequestError.

    ``image[]`` is how OpenAI's SDK names the files of a list, and ``image[0]`` how others do.
    """
    fields: dict[str, Any] = {}
    files: dict[str, UploadFile] = {}
    nested: list[tuple[str, str]] = []
    for form_name, value in form.multi_items():
        name = "image" if form_name in ("image[]", "image[0]") else form_name
        if _is_blank(name, value, model, file_names):
            continue
        if name in file_names:
            _add_file(files, name, value)
        elif isinstance(value, UploadFile):
            raise _unknown_file(form_name, model)
        elif nested_name(form_name) is not None:
            nested.append((form_name, value))
        elif form_name in fields:
            raise RequestError("A field is given twice.", param=printable_name(form_name), code="duplicate_field")
        else:
            fields[form_name] = value
    fields |= join_nested(nested, fields)
    for name in LIST_FIELDS:
        if name in fields:
            refuse_repeated(bounded(fields[name].encode(errors="replace"), name), name)
    return fields, files


def _is_blank(name: str, value: UploadFile | str, model: type[BaseModel], file_names: Sequence[str]) -> bool:
    """Return whether an optional field or a file is one that was not given."""
    if isinstance(value, UploadFile):
        return not value.filename and not value.size
    if value.strip():
        return False
    field = model.model_fields.get(name)
    return name in file_names or nested_name(name) is not None or (field is not None and not field.is_required())


def _unknown_file(form_name: str, model: type[BaseModel]) -> RequestError:
    """Return the complaint about a file where none belongs."""
    name = printable_name(form_name)
    if name in REFUSED:
        return UnsupportedParameter(f"`{name}` is not supported by this server.", param=name)
    if name in model.model_fields:
        return UnsupportedParameter(f"`{name}` must be text, not a file.", param=name)
    if form_name.startswith("image["):
        return RequestError("At most one `image` can be given.", param="image")
    what = "a file that it cannot have" if name is None else f"the file `{name}`, which this server does not know"
    return UnsupportedParameter(f"The form has {what}.", param=name)


def _add_file(files: dict[str, UploadFile], name: str, value: UploadFile | str) -> None:
    if not isinstance(value, UploadFile):
        raise RequestError(f"`{name}` must be a file.", param=name, code="invalid_type")
    if name in files:
        code = "duplicate_field" if name == "mask" else None
        raise RequestError(f"At most one `{name}` can be given.", param=name, code=code)
    files[name] = value
