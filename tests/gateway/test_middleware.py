"""What every route has: HEAD where it has GET, and methods that a refusal names."""

import pytest

PATHS = ("/health/live", "/health/ready", "/health/startup", "/metrics", "/openapi.json", "/v1/models")
MORE = ("/v1/models/lego-tiny", "/v1/models/nope", "/v1/templates", "/v1/admin/jobs", "/v1/admin/adapters/a", "/nope")


@pytest.mark.parametrize("path", [*PATHS, *MORE])
async def test_head_answers_as_get_without_its_body(client, path: str) -> None:
    """Status and headers are the same, also where it is an error."""
    got, asked = await client.get(path), await client.head(path)
    assert (asked.status_code, asked.content) == (got.status_code, b"")
    same = ("content-type", "allow", "x-should-retry")
    assert [asked.headers.get(name) for name in same] == [got.headers.get(name) for name in same]
    if path != "/metrics":  # the page grows by the request itself
        assert asked.headers["content-length"] == got.headers["content-length"]


@pytest.mark.parametrize("path", ["/v1/models", "/nope"])
async def test_every_answer_says_how_long_it_took(client, path: str) -> None:
    """In whole milliseconds, as OpenAI's do."""
    assert 0 <= int((await client.get(path)).headers["openai-processing-ms"]) < 10_000


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/models", "GET, HEAD"),
        ("/v1/images/generations", "POST"),
        ("/v1/templates", "GET, HEAD, POST"),
        ("/v1/templates/tmpl_a", "DELETE, GET, HEAD"),
        ("/v1/admin/jobs/job_a", "DELETE, GET, HEAD"),
        ("/v1/admin/adapters", "GET, HEAD, POST"),
        ("/openapi.json", "GET, HEAD"),
    ],
)
async def test_405_names_every_method_of_the_path(client, path: str, methods: str) -> None:
    """Also where several routes share it."""
    for method in ("PUT", "PATCH", "OPTIONS"):
        refused = await client.request(method, path)
        assert (refused.status_code, refused.headers["allow"]) == (405, methods)
    if "POST" in methods and "GET" not in methods:
        assert (await client.head(path)).headers["allow"] == methods
