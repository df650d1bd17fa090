"""The options of `commcli route apply --auto`: the limits within which cron may publish."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from commcli.errors import Usage

if TYPE_CHECKING:
    from commcli.routing.limits import Limits

AutoOpt = Annotated[
    bool,
    typer.Option(
        "--auto",
        help="For cron: never ask; publish only what keeps within the --max limits, else exit 1 with the plan.",
    ),
]
MaxChangedOpt = Annotated[
    float | None,
    typer.Option(
        "--max-changed",
        min=0,
        max=1,
        help="With --auto: share of the pairs whose primary path may change, and of the client networks whose "
        "edges may (default 0.2).",
    ),
]
MaxLostOpt = Annotated[
    int | None,
    typer.Option(
        "--max-lost",
        min=0,
        help="With --auto: pairs that may lose their path while both their nodes answer (default 0).",
    ),
]
MaxAbsentOpt = Annotated[
    float | None,
    typer.Option(
        "--max-absent", min=0, max=1, help="With --auto: share of the nodes that may be away (default 0.2)."
    ),
]
MaxAgeOpt = Annotated[
    float | None,
    typer.Option(
        "--max-age",
        min=1,
        help="With --auto: seconds; half of the figures may not be older (default 600).",
    ),
]
MaxVanishedOpt = Annotated[
    float | None,
    typer.Option(
        "--max-vanished",
        min=0,
        max=1,
        help="With --auto: share of the edges, or pairs, in force that may no longer be measured (default 0.3).",
    ),
]
MaxCountriesOpt = Annotated[
    int | None,
    typer.Option(
        "--max-countries",
        min=0,
        help="With --auto: countries that paths may newly pass where no node stood before (default 0).",
    ),
]


def limits_from(
    auto: bool,
    changed: float | None,
    lost: int | None,
    absent: float | None,
    age_s: float | None,
    vanished: float | None,
    countries: int | None,
) -> Limits | None:
    """The limits of this run; None without `--auto`. Raises Usage for a limit that would limit nothing."""
    from commcli.routing.limits import Limits

    given = {
        **{"changed": changed, "lost": lost, "absent": absent, "age_s": age_s},
        **{"vanished": vanished, "countries": countries},
    }
    stated = {name: value for name, value in given.items() if value is not None}
    if not auto and stated:
        raise Usage(
            "--max-changed, --max-lost, --max-absent, --max-age and --max-vanished are limits of --auto"
        )
    return Limits(**stated) if auto else None  # type: ignore[arg-type]  # each has the type of its option
