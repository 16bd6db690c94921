"""All entries by name, in the order of the papers."""

import equispike as es
from experiments import (
    default_method,
    ding_figure_3,
    ding_figure_4,
    ding_figure_6,
    ding_figure_7,
    ding_tables,
    han_figures_3d_4c,
    han_figures_5_to_10,
    low_latency,
    methods,
    sengupta_figure_1,
    sengupta_figure_2c,
    sengupta_figure_3,
    sengupta_figure_5,
    sengupta_tables,
    two_runs,
)
from experiments.entry import Entry

MODULES = (
    *(sengupta_tables, sengupta_figure_1, sengupta_figure_2c, sengupta_figure_3, sengupta_figure_5),
    *(han_figures_3d_4c, han_figures_5_to_10),
    *(ding_tables, ding_figure_3, ding_figure_4, ding_figure_6, ding_figure_7),
    methods,
    low_latency,
    two_runs,
    default_method,
)
CATALOGUE: dict[str, Entry] = {entry.name: entry for module in MODULES for entry in module.ENTRIES}


def chosen(names: tuple[str, ...]) -> list[Entry]:
    """The entries of these names; of "all", every one. EquispikeError for a name that there is not."""
    if "all" in names:
        return list(CATALOGUE.values())
    for name in names:
        if name not in CATALOGUE:
            raise es.EquispikeError(f"{name}: no entry has this name. Choose from all, {', '.join(CATALOGUE)}")
    return [CATALOGUE[name] for name in names]
