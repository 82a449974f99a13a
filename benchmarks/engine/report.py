"""A benchmark's table on the terminal and as markdown, and its numbers as JSON."""

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a benchmark: a table for people, the records behind it, and remarks on both."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    records: Sequence[Any]  # dataclasses
    remarks: Sequence[str] = ()
    metadata: dict[str, Any] = field(default_factory=dict)

    def show(self, console: "Console") -> None:
        """Print the table and the remarks."""
        from rich.table import Table

        table = Table(title=self.title)
        for index, column in enumerate(self.columns):
            table.add_column(column, justify="left" if index == 0 else "right")
        for row in self.rows:
            table.add_row(*row)
        console.print(table)
        for remark in self.remarks:
            console.print(f"- {remark}")

    def markdown(self) -> str:
        """Return the table and the remarks as markdown."""
        lines = [f"**{self.title}**", "", _line(self.columns), _line(["---"] * len(self.columns))]
        lines += [_line(row) for row in self.rows]
        return "\n".join([*lines, "", *(f"- {remark}" for remark in self.remarks)]) + "\n"

    def content(self) -> dict[str, Any]:
        """Return the numbers as JSON values."""
        rows = [asdict(record) for record in self.records]
        return {"title": self.title, **self.metadata, "rows": rows, "remarks": list(self.remarks)}


def write_reports(
    reports: Sequence[Report], console: "Console", to_json: Path | None, to_markdown: Path | None
) -> None:
    """Print all reports, and write them to the files given."""
    for report in reports:
        report.show(console)
    write_files(reports, to_json, to_markdown)


def write_files(reports: Sequence[Report], to_json: Path | None, to_markdown: Path | None) -> None:
    """Write all reports to the files given."""
    if to_markdown is not None:
        to_markdown.write_text("\n".join(report.markdown() for report in reports))
    if to_json is not None:
        to_json.write_text(json.dumps([report.content() for report in reports], indent=1) + "\n")


def machine_info(device: torch.device) -> dict[str, Any]:
    """Return the device that is measured on, the number of threads and torch's version."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"
    return {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__}


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
