"""``dpbitfit ledger``: look at budgets, change them, check them, move them.

Exit codes: 0 done; 2 bad input, or refused; 3 over budget; 4 the ledger cannot be
read or written, or is corrupt. Results go to standard output, the rest to standard error.
"""

import typer

from dpbitfit.ledger.cli import budgets, settling, transfer

app = typer.Typer(
    help="Budgets of every site: what was promised, what is spent, what is left.\n\n"
    "Exit codes: 0 done; 2 bad input, or refused; 3 over budget; 4 the ledger cannot be "
    "read or written, or is corrupt.",
    no_args_is_help=True,
)
for command in (
    *(budgets.init, budgets.accounts, budgets.show, budgets.set_budget),
    *(settling.verify, transfer.export, transfer.import_, transfer.backup),
    *(transfer.statement, transfer.migrate, settling.settle),
):
    app.command(command.__name__.strip("_").replace("_", "-"))(command)
