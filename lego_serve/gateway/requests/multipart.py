"""Reads multipart forms within limits and splits them into fields and files."""

from collections.abc import Sequence
from typing import Any

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from lego_serve.errors import RequestError, UnsupportedParameter
from lego_serve.gateway.errors import printable_name

MAX_FILES, MAX_FIELDS, MAX_TEXT_BYTES = 16, 64, 64 * 1024
FORM_COMPLAINTS = {  # by how the parser's own message begins
    "Too many files": f"The form has more than {MAX_FILES} files.",
    "Too many fields": f"The form has more than {MAX_FIELDS} fields.",
    "Part exceeded": f"A text field of the form is longer than {MAX_TEXT_BYTES} bytes.",
}


async def read_form(request: Request) -> FormData:
    """Return the form of a request.  Raises RequestError that names the exceeded limit."""
    try:
        return await request.form(max_files=MAX_FILES, max_fields=MAX_FIELDS, max_part_size=MAX_TEXT_BYTES)
    except HTTPException as error:  # the parser's message is the only sign of what is wrong
        detail = str(error.detail)
    for beginning, message in FORM_COMPLAINTS.items():
        if detail.startswith(beginning):
            raise RequestError(message, code="form_too_large")
    raise RequestError("The form cannot be read.", code="bad_request")


def split_form(form: FormData, file_names: Sequence[str]) -> tuple[dict[str, Any], dict[str, UploadFile]]:
    """Return the text fields and the files of these names, each given at most once.  Raises RequestError.

    ``image[]`` is how OpenAI's SDK names the files of a list.
    """
    fields: dict[str, Any] = {}
    files: dict[str, UploadFile] = {}
    for form_name, value in form.multi_items():
        name = "image" if form_name == "image[]" else form_name
        if name in file_names:
            _add_file(files, name, value)
        elif isinstance(value, UploadFile):
            param = printable_name(form_name)
            raise UnsupportedParameter("The form has a file this server does not know.", param=param)
        elif form_name in fields:
            raise RequestError("A field is given twice.", param=printable_name(form_name), code="duplicate_field")
        else:
            fields[form_name] = value
    return fields, files


def _add_file(files: dict[str, UploadFile], name: str, value: UploadFile | str) -> None:
    if not isinstance(value, UploadFile):
        raise RequestError(f"`{name}` must be a file.", param=name, code="invalid_type")
    if name in files:
        code = "duplicate_field" if name == "mask" else None
        raise RequestError(f"At most one `{name}` can be given.", param=name, code=code)
    files[name] = value
