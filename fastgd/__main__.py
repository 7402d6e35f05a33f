"""`python -m fastgd` is the `fastgd` command."""

from fastgd.cli import main

main()
