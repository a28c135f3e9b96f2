"""`python -m stcl_cli`: the same as `stcl`, for torchrun."""

from stcl_cli.cli import main

main()
