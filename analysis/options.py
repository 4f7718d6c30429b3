"""Options that commands of `isae-analyze` share."""

from __future__ import annotations

from typing import Annotated

import typer

RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="Folder of a finished training run.")
]
StoreOption = Annotated[
    str | None, typer.Option(help="Where the run's store is now; default: as recorded.")
]
ImagesOption = Annotated[
    str | None, typer.Option(help="Where the store's pictures are now; default: as recorded.")
]
WeightsOption = Annotated[
    str | None, typer.Option(help="Where the network's weights are now; default: as recorded.")
]
OutOption = Annotated[
    str | None,
    typer.Option(help="Folder to write; default: analysis/ and the command's name in the run."),
]
AlphaOption = Annotated[float, typer.Option(help="False-discovery rate.")]
RowsAtOnceOption = Annotated[
    int, typer.Option("--batch-size", help="Rows encoded at once: speed and memory, not results.")
]
PicturesAtOnceOption = Annotated[
    int,
    typer.Option("--batch-size", help="Pictures shown at once: speed and memory, not results."),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
OverwriteOption = Annotated[bool, typer.Option(help="Replace an analysis that is there.")]
