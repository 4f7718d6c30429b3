"""`isae-analyze`: one command each of the folders beside this file."""

from __future__ import annotations

from isae import cli
from isae.analysis.branches.command import branches
from isae.analysis.curves.command import curves
from isae.analysis.label.command import label
from isae.analysis.layers.command import layers
from isae.analysis.report.command import report
from isae.analysis.stability.command import stability
from isae.analysis.study.command import all_stages, prepare
from isae.analysis.tuning.command import tuning
from isae.analysis.visualise.command import visualise

app = cli.new_app("Analyse trained SAEs: where their features lie in the network.")
app.command()(branches)
app.command()(tuning)
app.command()(layers)
app.command()(curves)
app.command()(label)
app.command()(stability)
app.command()(visualise)
app.command()(prepare)
app.command(name="all")(all_stages)
app.command()(report)


def main() -> None:
    """Entry point of `isae-analyze`."""
    cli.main(app)


if __name__ == "__main__":
    main()
