"""What the dashboards share: short ways to write a panel, and the row about machines."""

from typing import Final

from dpa.telemetry.panels import ORANGE, RED, Panel, Query, Row

COUNTED: Final = ("short", "bytes", "ops", "reqps", "mps")


def line(title: str, words: str, *queries: Query, unit: str = "short", **how: object) -> Panel:
    """Lines over time; what is counted begins at 0."""
    settings = {"low": 0} | how if unit in COUNTED and "decimals" not in how else how
    return Panel(title, words, queries, unit, **settings)  # type: ignore[arg-type]


def stat(title: str, words: str, query: str, unit: str = "short", **how: object) -> Panel:
    """One number."""
    settings = {"width": 4, **how}
    return Panel(title, words, (Query(query, title),), unit, "stat", **settings)  # type: ignore[arg-type]


CLUSTER: Final = Row(
    "Machines",
    (
        line(
            "Processor used",
            "Share of the cores of each node that is busy, as Ray measures it.",
            Query("sum by (ip) (ray_node_cpu_utilization) / 100", "{{ip}}"),
            unit="percentunit",
            width=6,
            low=0,
            high=1,
        ),
        line(
            "Memory used",
            "Share of the memory of each node in use. Above 95 % Ray ends work to save the node.",
            Query("sum by (ip) (ray_node_mem_used) / sum by (ip) (ray_node_mem_total)", "{{ip}}"),
            unit="percentunit",
            width=6,
            low=0,
            high=1,
            steps=((0.85, ORANGE), (0.95, RED)),
        ),
        line(
            "Object store",
            "Bytes of shared arrays by place; what does not fit is spilled to disk.",
            Query("sum by (Location) (ray_object_store_memory)", "{{Location}}"),
            unit="bytes",
            width=6,
        ),
        line(
            "Disk used",
            "Share of the disk of each node in use. A full disk halts trading.",
            Query(
                "sum by (ip) (ray_node_disk_usage)"
                " / (sum by (ip) (ray_node_disk_usage) + sum by (ip) (ray_node_disk_free))",
                "{{ip}}",
            ),
            unit="percentunit",
            width=6,
            low=0,
            high=1,
            steps=((0.8, ORANGE), (0.9, RED)),
        ),
    ),
)
