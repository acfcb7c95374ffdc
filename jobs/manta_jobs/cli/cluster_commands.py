"""`manta cluster`: check a cluster's file before it costs money, or run a cluster of several nodes on this machine."""

from __future__ import annotations

import dataclasses
import signal
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Annotated

import typer

from manta.config.file import load_config
from manta.console import people_console, print_result, working

cluster = typer.Typer(help="Check a cluster's file, or try a cluster of several nodes on this machine.", no_args_is_help=True)


@cluster.command()
def check(
    file: Annotated[Path, typer.Argument(help="A file for Ray's cluster launcher.", metavar="CLUSTER.yaml")],
    experiment: Annotated[Path | None, typer.Argument(help="The experiment to run there.", metavar="[EXPERIMENT.yaml]")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on stdout.")] = False,
) -> None:
    """Check that Ray's launcher accepts a cluster's file, and that an experiment fits the cluster."""
    from manta_jobs.cluster.check import check_cluster

    found = check_cluster(file, load_config(experiment) if experiment is not None else None)
    print_result(dataclasses.asdict(found), as_json=json)
    found.refuse()
    people_console().print(f"{found.verdict}: {found.words}", markup=False)


@cluster.command()
def local(
    nodes: Annotated[int, typer.Option(help="Number of nodes, including the head.", min=1, max=16)] = 3,
    gpus_per_node: Annotated[int, typer.Option(help="Number of GPUs that each node reports; they need not exist.", min=0)] = 0,
    cpus_per_node: Annotated[int, typer.Option(help="Number of CPUs that each node reports.", min=1)] = 1,
    json: Annotated[bool, typer.Option("--json", help="Print its addresses as one JSON object on stdout, once it is up.")] = False,
) -> None:
    """Run a real Ray cluster of several nodes on this machine until Ctrl-C."""
    from manta_jobs.cluster.local import LocalCluster

    console = people_console()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that SIGTERM also stops the nodes
    with ExitStack() as stack:
        with working(console, f"Starting {nodes} nodes"):
            running = stack.enter_context(LocalCluster(nodes, cpus_per_node=cpus_per_node, gpus_per_node=gpus_per_node))
        console.print(
            f"{nodes} nodes at {running.address}, with {cpus_per_node} CPUs and {gpus_per_node} GPUs each. In another terminal:\n\n"
            f"  manta submit train EXPERIMENT.yaml --address {running.jobs_address} --token-file {running.token_file}\n\n"
            "Ctrl-C stops them all.",
            markup=False,
        )
        addresses = {"address": running.address, "jobs_address": running.jobs_address, "token_file": str(running.token_file)}
        print_result(addresses, as_json=json)
        with suppress(KeyboardInterrupt):
            threading.Event().wait()
        console.print("Stopping.")
