"""`python -m bi_assets` is `pharmacy-bi`."""

from bi_assets.cli import main

main()
