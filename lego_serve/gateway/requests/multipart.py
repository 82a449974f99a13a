"""Multipart forms, read within limits and split into fields and files."""

from collections.abc import Sequence
from typing import Any

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from lego_serve.errors import RequestError, UnsupportedParameter
from lego_serve.gateway.errors import shown_name

MAX_FILES, MAX_FIELDS, MAX_TEXT_BYTES = 16, 64, 64 * 1024
FORM_COMPLAINTS = {  # by how the form's parser begins its own
    "Too many files": f"The form has more than {MAX_FILES} files.",
    "Too many fields": f"The form has more than {MAX_FIELDS} fields.",
    "Part exceeded": f"A text field of the form is longer than {MAX_TEXT_BYTES} bytes.",
}


async def read_form(request: Request) -> FormData:
    """The form of a request.  Raises RequestError that names the limit it goes over."""
    try:
        return await request.form(max_files=MAX_FILES, max_fields=MAX_FIELDS, max_part_size=MAX_TEXT_BYTES)
    except HTTPException as error:  # whose words are the parser's, and the only sign of what is wrong
        said = str(error.detail)
    for sign, message in FORM_COMPLAINTS.items():
        if said.startswith(sign):
            raise RequestError(message, code="form_too_large")
    raise RequestError("The form cannot be read.", code="bad_request")


def split_form(form: FormData, kinds: Sequence[str]) -> tuple[dict[str, Any], dict[str, UploadFile]]:
    """The text fields, each given once, and the files of these kinds, one each at most.  Raises RequestError.

    ``image[]`` is what OpenAI's SDK calls the files of a list.
    """
    fields: dict[str, Any] = {}
    files: dict[str, UploadFile] = {}
    for name, value in form.multi_items():
        kind = "image" if name == "image[]" else name
        if kind in kinds:
            if not isinstance(value, UploadFile):
                raise RequestError(f"`{kind}` must be a file.", param=kind, code="invalid_type")
            if kind in files:
                code = "duplicate_field" if kind == "mask" else None
                raise RequestError(f"At most one `{kind}` can be given.", param=kind, code=code)
            files[kind] = value
        elif isinstance(value, UploadFile):
            raise UnsupportedParameter("The form has a file this server does not know.", param=shown_name(name))
        elif name in fields:
            raise RequestError("A field is given twice.", param=shown_name(name), code="duplicate_field")
        else:
            fields[name] = value
    return fields, files
