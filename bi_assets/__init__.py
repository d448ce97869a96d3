"""Pharmacy BI: change data capture from an online pharmacy to its marts."""

from importlib.metadata import version

__version__ = version("pharmacy-bi")
