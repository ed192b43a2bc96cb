"""Reports: what happened to a network, as one HTML file."""

from fxsparse.report.describe import environment, run_of
from fxsparse.report.page import render, write_page
from fxsparse.report.run import Run, read_run, write_run
from fxsparse.report.sources import Bench, Sources, read_folder, read_sources

__all__ = [
    "Bench",
    "Run",
    "Sources",
    "environment",
    "read_folder",
    "read_run",
    "read_sources",
    "render",
    "run_of",
    "write_page",
    "write_run",
]
