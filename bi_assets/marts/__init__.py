"""The answers, one file each: `NAME.sql`, or `NAME.py` where SQL can't say it."""
