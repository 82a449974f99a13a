"""Readers of traces of language models, of which an image service takes the arrivals: Azure, Mooncake, BurstGPT."""

import random
from collections.abc import Iterator
from pathlib import Path

from loadgen.traces.arrival import Arrival
from loadgen.traces.rows import csv_rows, json_rows

AZURE_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
BURSTGPT_COLUMNS = ("Timestamp", "Model", "Request tokens", "Response tokens")


def read_azure(path: Path, rng: random.Random) -> Iterator[Arrival]:
    """Yield the requests of an Azure LLM inference trace of 2023 or 2024."""
    for row in csv_rows(path, AZURE_COLUMNS):
        tokens = row.integer("ContextTokens"), row.integer("GeneratedTokens")
        yield token_arrival(row.time_s("TIMESTAMP"), "azure", *tokens)


def read_mooncake(path: Path, rng: random.Random) -> Iterator[Arrival]:
    """Yield the requests of a Mooncake trace; what its prompts share (``hash_ids``) has no meaning for images."""
    for row in json_rows(path):
        tokens = row.integer("input_length"), row.integer("output_length")
        yield token_arrival(row.number("timestamp") / 1000, "mooncake", *tokens)


def read_burstgpt(path: Path, rng: random.Random) -> Iterator[Arrival]:
    """Yield the requests of a BurstGPT trace, failed ones (without response tokens) included."""
    for row in csv_rows(path, BURSTGPT_COLUMNS):
        tokens = row.integer("Request tokens"), row.integer("Response tokens")
        yield token_arrival(row.number("Timestamp"), row.text("Model"), *tokens)


def token_arrival(at_s: float, workflow: str, input_tokens: int, output_tokens: int) -> Arrival:
    """Return a request of a language model; its lengths stay beside the image request it becomes."""
    return Arrival(at_s, workflow, source={"input_length": input_tokens, "output_length": output_tokens})
