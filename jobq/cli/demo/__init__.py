"""`jobq demo`: real jobs on real files, counted from what they wrote."""

from jobq.cli.demo.command import demo

__all__ = ["demo"]
